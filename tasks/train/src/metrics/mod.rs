//! What a network is judged by: scores of pixels or images, and of sites.
//!
//! Scores are counted as batches come, in memory that does not grow with them: predictions fall into bins of their logit that
//! are at most 1 in 128 apart, so that areas under curves are near to exact, and the threshold is always the edge of a bin, so
//! that what is counted at it is exact.

mod bins;
mod frames;
mod ground;
mod sites;

pub(crate) use ground::resolution;
pub(crate) use sites::{Seen, Sites};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use swath_task::{Fault, TaskError};

use crate::data::{Batch, truth};
use bins::Bins;

/// Bins of probability that calibration is told in.
const CALIBRATION: usize = 15;

/// Scores of a side. What is not defined is not in `figures`; `undefined` says why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Scores {
    pub figures: BTreeMap<String, f64>,
    /// Of each class, where there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, BTreeMap<String, f64>>,
    /// `auroc: there are no positives`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub undefined: Vec<String>,
}

impl Scores {
    /// A score by name, if it is defined.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.figures.get(name).copied()
    }

    pub fn put(&mut self, name: &str, value: f64) {
        // Invariant 4: what is not a number has no place in a file.
        if value.is_finite() {
            self.figures.insert(name.to_owned(), value);
        }
    }

    /// Keeps a score, or that it is not defined, and why.
    pub fn put_or(&mut self, name: &str, value: Option<f64>, why: &str) {
        match value.filter(|value| value.is_finite()) {
            Some(value) => self.put(name, value),
            None => self.undefined.push(format!("{name}: {why}")),
        }
    }
}

/// What was counted of a side.
pub(crate) struct Tally {
    bins: Vec<Bins>,
    calibration: [Bin; CALIBRATION],
    /// Truth by row, prediction by column, of several classes.
    confusion: Vec<u64>,
    loss: f64,
    weight: f64,
}

#[derive(Clone, Copy, Default)]
struct Bin {
    count: u64,
    told: f64,
    right: u64,
}

impl Tally {
    pub fn new(classes: usize) -> Self {
        Self {
            bins: (0..classes).map(|_| Bins::new()).collect(),
            calibration: [Bin::default(); CALIBRATION],
            confusion: if classes == 1 { Vec::new() } else { vec![0; classes * classes] },
            loss: 0.0,
            weight: 0.0,
        }
    }

    /// Counts a batch and its loss.
    ///
    /// # Errors
    /// A logit that is not finite; the chip is named.
    pub fn add(&mut self, batch: &Batch, logits: &[f32], loss: f64) -> Result<(), TaskError> {
        let classes = self.bins.len();
        let pixels = batch.told * batch.told;
        self.loss += loss * batch.taking_part();
        self.weight += batch.taking_part();
        let chips = logits.chunks_exact(classes * pixels).zip(batch.targets.chunks_exact(classes * pixels));
        for ((chip, (logits, targets)), valid) in batch.chips.iter().zip(chips).zip(batch.valid.chunks_exact(pixels)) {
            if logits.iter().any(|logit| !logit.is_finite()) {
                return Err(Fault::new(
                    "N104",
                    format!("the network tells no finite numbers of the chip `{}`", chip.id),
                )
                .help("lower the learning rate; look for values in the chip that are far from all others")
                .permanent());
            }
            for pixel in (0..pixels).filter(|pixel| valid[*pixel] > 0.0) {
                if classes == 1 {
                    if let Some(truth) = truth(targets[pixel]) {
                        self.bins[0].add(logits[pixel], truth);
                        self.calibrate(sigmoid(f64::from(logits[pixel])), truth);
                    }
                } else {
                    self.add_class(|class| (logits[class * pixels + pixel], targets[class * pixels + pixel]));
                }
            }
        }
        Ok(())
    }

    /// A pixel of several classes, of which `of` tells logit and target.
    fn add_class(&mut self, of: impl Fn(usize) -> (f32, f32)) {
        let classes = self.bins.len();
        let (mut truth, mut told) = (0, 0);
        for class in 1..classes {
            if of(class).1 > of(truth).1 {
                truth = class;
            }
            if of(class).0 > of(told).0 {
                told = class;
            }
        }
        let most = f64::from(of(told).0);
        let share = |class: usize| (f64::from(of(class).0) - most).exp();
        let sum: f64 = (0..classes).map(share).sum();
        for class in 0..classes {
            let own = share(class);
            self.bins[class].add((own / (sum - own)).ln() as f32, class == truth);
        }
        self.confusion[truth * classes + told] += 1;
        self.calibrate(1.0 / sum, told == truth);
    }

    fn calibrate(&mut self, told: f64, right: bool) {
        let bin = &mut self.calibration[((told * CALIBRATION as f64) as usize).min(CALIBRATION - 1)];
        bin.count += 1;
        bin.told += told;
        bin.right += u64::from(right);
    }

    /// The scores, at this threshold, or at the one that has the best F1.
    pub fn scores(&self, threshold: Option<f64>, names: &[String]) -> Scores {
        let mut scores = Scores::default();
        scores.put_or("loss", (self.weight > 0.0).then(|| self.loss / self.weight), "no pixel takes part");
        let counted: u64 = self.calibration.iter().map(|bin| bin.count).sum();
        let off: f64 = self.calibration.iter().map(|bin| (bin.told - bin.right as f64).abs()).sum();
        scores.put_or("ece", (counted > 0).then(|| off / counted as f64), "nothing is labelled");
        match &self.bins[..] {
            [one] => one_class(one, threshold, &mut scores),
            _ => self.several(names, &mut scores),
        }
        scores
    }

    fn several(&self, names: &[String], scores: &mut Scores) {
        let classes = self.bins.len();
        let total: u64 = self.confusion.iter().sum();
        let right: u64 = (0..classes).map(|class| self.confusion[class * classes + class]).sum();
        scores.put_or("accuracy", (total > 0).then(|| right as f64 / total as f64), "nothing is labelled");
        let mut means: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (class, name) in names.iter().enumerate() {
            let hit = self.confusion[class * classes + class];
            let labelled: u64 = self.confusion[class * classes..][..classes].iter().sum();
            let told: u64 = self.confusion.iter().skip(class).step_by(classes).sum();
            if labelled == 0 && told == 0 {
                scores.undefined.push(format!("scores of `{name}`: it is neither labelled nor told"));
                continue;
            }
            let counts = Counts { hits: hit, false_alarms: told - hit, misses: labelled - hit };
            let mut own = BTreeMap::new();
            // As scikit-learn's `zero_division=0`: a class that is never told has a precision of 0 in the mean.
            for (what, value) in counts.scores() {
                own.insert(what.to_owned(), value.unwrap_or(0.0));
                means.entry(what).or_default().push(value.unwrap_or(0.0));
            }
            if let Some(area) = self.bins[class].auroc() {
                own.insert("auroc".to_owned(), area);
                means.entry("auroc").or_default().push(area);
            }
            scores.classes.insert(name.clone(), own);
        }
        for what in ["f1", "precision", "recall", "iou", "auroc"] {
            let mean = means.get(what).map(|all| all.iter().sum::<f64>() / all.len() as f64);
            scores.put_or(what, mean, "no class has what it needs");
        }
    }
}

fn one_class(bins: &Bins, threshold: Option<f64>, scores: &mut Scores) {
    let (positives, negatives) = bins.totals();
    let missing = match (positives, negatives) {
        (0, 0) => "nothing is labelled",
        (0, _) => "there are no positives",
        _ => "there are no negatives",
    };
    scores.put_or("auroc", bins.auroc(), missing);
    scores.put_or("average_precision", bins.average_precision(), missing);
    let threshold = match threshold {
        Some(threshold) => threshold,
        None => bins.best_threshold().unwrap_or_else(|| {
            scores.undefined.push(format!("threshold: {missing}; 0.5 is taken"));
            0.5
        }),
    };
    scores.put("threshold", threshold);
    let at = bins.counts(threshold);
    for (what, value) in at.scores() {
        // Where there is nothing to find, how much of it was found says nothing.
        scores.put_or(what, value.filter(|_| positives > 0), if positives == 0 { missing } else { "nothing is told" });
    }
    let half = bins.counts(0.5).scores();
    for (what, value) in half.into_iter().filter(|(what, _)| matches!(*what, "f1" | "iou")) {
        let name = if what == "f1" { "f1_at_half" } else { "iou_at_half" };
        scores.put_or(name, value.filter(|_| positives > 0), missing);
    }
}

/// What was found and what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    hits: u64,
    false_alarms: u64,
    misses: u64,
}

impl Counts {
    fn scores(self) -> [(&'static str, Option<f64>); 4] {
        let Self { hits, false_alarms, misses } = self;
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        [
            ("f1", share(2 * hits, 2 * hits + false_alarms + misses)),
            ("precision", share(hits, hits + false_alarms)),
            ("recall", share(hits, hits + misses)),
            ("iou", share(hits, hits + false_alarms + misses)),
        ]
    }
}

pub(crate) fn sigmoid(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

/// The logit of a probability.
pub(crate) fn logit(probability: f64) -> f64 {
    (probability / (1.0 - probability)).ln()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use serde_json::{Value, json};
    use swath_datasets::ChipRef;

    use super::*;
    use crate::random::{For, generator};
    use rand::Rng;

    fn batch(size: usize, targets: Vec<f32>, valid: Vec<f32>) -> Batch {
        let chips = valid.len() / (size * size);
        let chips =
            (0..chips).map(|chip| ChipRef { set: 0, chip, id: format!("chip-{chip}"), positive: true }).collect();
        Batch { chips, size, told: size, images: Vec::new(), targets, valid }
    }

    /// scikit-learn's scores of the same numbers.
    fn judged(given: &Value) -> Value {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("given.json");
        std::fs::write(&path, given.to_string()).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("../../.tools/py/bin/python");
        assert!(python.exists(), "no Python with scikit-learn at {}: run `make setup`", python.display());
        let output = Command::new(python).arg(root.join("tests/scores.py")).arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn agree(found: &BTreeMap<String, f64>, wanted: &Value, tolerance: f64) {
        let wanted = wanted.as_object().unwrap();
        assert!(!wanted.is_empty());
        for (name, value) in wanted {
            let (found, wanted) = (found[name], value.as_f64().unwrap());
            assert!((found - wanted).abs() <= tolerance, "{name}: {found}, scikit-learn has {wanted}");
        }
    }

    #[test]
    fn scores_of_one_class_are_scikit_learns() {
        let mut random = generator(5, For::Picture, 0, 0);
        let (mut logits, mut targets, mut valid) = (Vec::new(), Vec::new(), Vec::new());
        for pixel in 0..3 * 32 * 32 {
            let target = [0.0, 0.0, 0.0, 1.0, 0.5][random.random_range(0..5)];
            let logit: f32 = random.random_range(-4.0..3.0) + 2.0 * target;
            logits.push(logit);
            valid.push(if pixel % 7 == 0 { 0.0 } else { 1.0 });
            targets.push(target);
        }
        let mut tally = Tally::new(1);
        tally.add(&batch(32, targets.clone(), valid.clone()), &logits, 0.5).unwrap();
        let scores = tally.scores(None, &[]);
        let threshold = scores.get("threshold").unwrap();
        let judged = judged(&json!({"logits": logits, "targets": targets, "valid": valid, "threshold": threshold}));
        agree(&scores.figures, &judged["exact"], 1e-9);
        agree(&scores.figures, &judged["binned"], 2e-3);
        let best = judged["best_f1"].as_f64().unwrap();
        assert!(scores.get("f1").unwrap() > best - 2e-3, "{} of {best}", scores.get("f1").unwrap());
        assert_eq!(scores.get("loss"), Some(0.5));
        assert_eq!(scores.undefined, [] as [String; 0]);
        let again = tally.scores(Some(threshold), &[]);
        assert_eq!(again, scores, "a threshold that is given back counts the same");
    }

    #[test]
    fn scores_of_several_classes_are_scikit_learns() {
        let mut random = generator(6, For::Picture, 0, 0);
        let pixels = 32 * 32;
        let (mut logits, mut targets) = (vec![0.0f32; 4 * pixels], vec![0.0f32; 4 * pixels]);
        for pixel in 0..pixels {
            let class = random.random_range(0..3usize);
            targets[class * pixels + pixel] = 1.0;
            for other in 0..4 {
                let raise = if other == class { 1.0 } else { 0.0 };
                // The last class is never labelled, and hardly told.
                let lower = if other == 3 { -2.5 } else { 0.0 };
                logits[other * pixels + pixel] = random.random_range(-1.5..1.5f32) + raise + lower;
            }
        }
        let mut tally = Tally::new(4);
        tally.add(&batch(32, targets.clone(), vec![1.0; pixels]), &logits, 1.0).unwrap();
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        let scores = tally.scores(None, &names);
        let judged = judged(&json!({"logits": logits, "targets": targets, "classes": 4}));
        agree(&scores.figures, &judged["exact"], 1e-9);
        agree(&scores.figures, &judged["binned"], 2e-3);
        assert!(scores.classes["a"].contains_key("auroc") && scores.get("threshold").is_none());
    }

    #[test]
    fn what_is_not_defined_is_told_and_left_out() {
        let mut tally = Tally::new(1);
        tally.add(&batch(2, vec![0.0, 0.0, 0.0, 0.5], vec![1.0; 4]), &[-3.0, 1.0, -2.0, 4.0], 0.1).unwrap();
        let scores = tally.scores(None, &[]);
        assert!(scores.undefined.contains(&"auroc: there are no positives".to_owned()), "{scores:?}");
        assert!(scores.get("f1").is_none() && scores.get("threshold") == Some(0.5) && scores.get("ece").is_some());
        assert!(!serde_json::to_string(&scores).unwrap().contains("null"));
        let empty = Tally::new(1).scores(None, &[]);
        assert!(empty.get("loss").is_none() && empty.figures.len() == 1, "{empty:?}");
    }

    #[test]
    fn a_network_that_tells_no_numbers_is_told_by_chip() {
        let mut tally = Tally::new(1);
        let error = tally.add(&batch(1, vec![0.0, 1.0], vec![1.0, 1.0]), &[0.0, f32::NAN], 0.1).unwrap_err();
        assert!(error.to_string().contains("`chip-1`"), "{error}");
    }
}
