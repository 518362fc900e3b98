"""What MLflow's own client finds: the judge of these tests, which knows nothing of the crate. Importing MLflow takes seconds, so one
process answers all of them: a JSON list on each line of its input, `=> JSON` on a line of its output.

["runs", PLACE, EXPERIMENT, USER]        the runs of an experiment, with all that belongs to them
["model", PLACE, NAME, USER]             the versions of a registered model, and its aliases
["load", PLACE, NAME@ALIAS, USER]        a registered model, loaded by MLflow's client: its schema, and how far it is from ONNX Runtime
["delete" | "restore", PLACE, RUN, USER] deletes a run, or takes it back
["migrate", FOLDER, DATABASE, USER]      moves a folder into a database, by `mlflow migrate-filestore`

USER is null, or a name and a password.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import traceback

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"

import mlflow  # noqa: E402
from mlflow import MlflowClient  # noqa: E402


def files(client, run_id, below=""):
    for entry in client.list_artifacts(run_id, below or None):
        if entry.is_dir:
            yield from files(client, run_id, entry.path)
        else:
            yield entry.path


def run(client, found):
    run_id = found.info.run_id
    metrics = {}
    for key in found.data.metrics:
        history = client.get_metric_history(run_id, key)
        metrics[key] = [[point.step, repr(point.value), point.timestamp] for point in history]
        metrics[key].sort()
    artifacts = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in files(client, run_id):
            local = mlflow.artifacts.download_artifacts(
                run_id=run_id, artifact_path=path, dst_path=folder, tracking_uri=client.tracking_uri
            )
            artifacts[path] = hashlib.sha256(open(local, "rb").read()).hexdigest()
    return {
        "id": run_id,
        "name": found.info.run_name,
        "status": found.info.status,
        "start": found.info.start_time,
        "end": found.info.end_time,
        "params": found.data.params,
        "tags": found.data.tags,
        "metrics": metrics,
        "artifacts": artifacts,
    }


def load(name):
    import numpy as np
    import onnxruntime

    uri = f"models:/{name}"
    model = mlflow.pyfunc.load_model(uri)
    (schema,) = model.metadata.signature.inputs
    size = [2 if side == -1 else side for side in schema.shape]
    images = np.random.default_rng(1).standard_normal(size).astype(schema.type)
    path = os.path.join(mlflow.artifacts.download_artifacts(artifact_uri=uri), "model.onnx")
    (wanted,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {schema.name: images})
    (told,) = model.metadata.signature.outputs
    found = model.predict({schema.name: images})[told.name]
    difference = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else None
    return {"inputs": [schema.name, str(schema.type), list(schema.shape)], "difference": difference}


def answer(what, place, name, user):
    for variable, value in zip(["MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"], user or ["", ""]):
        os.environ.pop(variable, None)
        if value:
            os.environ[variable] = value
    if what == "migrate":
        command = [sys.executable, "-m", "mlflow", "migrate-filestore", "--source", place, "--target", name]
        done = subprocess.run(command, capture_output=True, text=True)
        return {"code": done.returncode, "said": done.stdout + done.stderr}
    if what == "load":
        mlflow.set_tracking_uri(place)
        return load(name)
    client = MlflowClient(tracking_uri=place, registry_uri=place)
    if what == "delete":
        return client.delete_run(name)
    if what == "restore":
        return client.restore_run(name)
    if what == "model":
        model = client.get_registered_model(name)
        versions = []
        for version in client.search_model_versions(f"name = '{name}'"):
            folder = mlflow.artifacts.download_artifacts(artifact_uri=version.source, tracking_uri=place)
            inside = {}
            for below, _, names in os.walk(folder):
                for file in names:
                    path = os.path.join(below, file)
                    inside[os.path.relpath(path, folder)] = hashlib.sha256(open(path, "rb").read()).hexdigest()
            told = {"version": int(version.version), "run": version.run_id, "files": inside}
            versions.append(told | {"tags": version.tags, "about": version.description})
        versions.sort(key=lambda version: version["version"])
        return {"aliases": {k: int(v) for k, v in model.aliases.items()}, "versions": versions}
    # Not by `get_experiment_by_name`, whose filter cannot tell a quote in a name from its end.
    found = [experiment.experiment_id for experiment in client.search_experiments() if experiment.name == name]
    return [run(client, run_of) for run_of in client.search_runs(found)] if found else []


for line in sys.stdin:
    try:
        said = {"found": answer(*json.loads(line))}
    except Exception:
        said = {"error": traceback.format_exc()}
    print("=>", json.dumps(said), flush=True)
