"""scikit-learn's scores of logits and targets in a JSON file: scores.py FILE. The judge of tasks/train/src/metrics."""

import json
import sys

import numpy as np
from sklearn import metrics

given = json.load(open(sys.argv[1]))
logits, targets = (np.array(given[name], dtype=np.float32) for name in ("logits", "targets"))


def ece(told, right, bins=15):
    place = np.minimum((told * bins).astype(int), bins - 1)
    return sum(abs(told[place == b].sum() - right[place == b].sum()) for b in range(bins)) / len(told)


if "classes" in given:
    logits, targets = (x.reshape(given["classes"], -1).T for x in (logits.astype(np.float64), targets))
    told = np.exp(logits - logits.max(1, keepdims=True))
    told /= told.sum(1, keepdims=True)
    truth, best = targets.argmax(1), logits.argmax(1)
    present = sorted(set(truth) | set(best))
    averaged = dict(labels=present, average="macro", zero_division=0)
    exact = dict(
        f1=metrics.f1_score(truth, best, **averaged),
        precision=metrics.precision_score(truth, best, **averaged),
        recall=metrics.recall_score(truth, best, **averaged),
        iou=metrics.jaccard_score(truth, best, **averaged),
        accuracy=metrics.accuracy_score(truth, best),
        ece=ece(told.max(1), best == truth),
    )
    areas = [metrics.roc_auc_score(truth == c, told[:, c]) for c in present if 0 < (truth == c).sum() < len(truth)]
    print(json.dumps(dict(exact=exact, binned=dict(auroc=float(np.mean(areas))))))
else:
    valid = np.array(given["valid"]) > 0
    known = valid & ((targets == 0) | (targets > 0.5))
    logits, truth = logits[known].astype(np.float64), targets[known] > 0.5
    told = 1 / (1 + np.exp(-logits))
    best, half = told >= given["threshold"], told >= 0.5
    exact = dict(
        f1=metrics.f1_score(truth, best),
        precision=metrics.precision_score(truth, best),
        recall=metrics.recall_score(truth, best),
        iou=metrics.jaccard_score(truth, best),
        f1_at_half=metrics.f1_score(truth, half),
        iou_at_half=metrics.jaccard_score(truth, half),
        ece=ece(told, truth),
    )
    precision, recall, _ = metrics.precision_recall_curve(truth, told)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    binned = dict(auroc=metrics.roc_auc_score(truth, told), average_precision=metrics.average_precision_score(truth, told))
    print(json.dumps(dict(exact=exact, binned=binned, best_f1=float(f1.max()))))
