//! The folder that a training leaves: `checkpoint.json` and what it tells of.

use std::fs;
use std::path::Path;

use serde::Serialize;
use swath_kinds::{
    BandInput, CHECKPOINT_FORMAT, CheckpointManifest, Normalisation, OutputActivation, Training, WeightsFile,
};
use swath_task::{Digest, TaskError};

use super::{Epoch, Keep, Progress};
use crate::engine::Job;
use crate::faults::unwritable;
use crate::metrics::{Scores, resolution};

/// What `metrics.json` is called in its `format`.
const METRICS_FORMAT: &str = "swath.training/1";

/// A training that has come to its end.
pub(crate) struct Finished<'a> {
    pub job: &'a Job,
    pub progress: &'a Progress,
    pub normalisation: &'a Normalisation,
    pub dataset: Digest,
    pub validation: &'a Scores,
    pub test: &'a Scores,
    pub run: Option<String>,
}

/// `metrics.json`.
#[derive(Serialize)]
struct Metrics<'a> {
    format: &'static str,
    monitor: &'a str,
    classes: &'a [String],
    best: Vec<BestEpoch>,
    validation: &'a Scores,
    test: &'a Scores,
    epochs: &'a [Epoch],
}

#[derive(Serialize)]
struct BestEpoch {
    epoch: u32,
    score: f64,
    file: String,
}

/// Writes weights, manifest and metrics into a folder that is there.
pub(crate) fn write(folder: &Path, keep: &Keep, finished: &Finished<'_>) -> Result<(), TaskError> {
    let Finished { job, progress, .. } = finished;
    let mut best = Vec::new();
    for (place, kept) in progress.best.iter().enumerate() {
        let file = format!("best-{}-epoch-{}.safetensors", place + 1, kept.epoch);
        let names = if place == 0 { vec!["weights.safetensors", file.as_str()] } else { vec![file.as_str()] };
        for name in names {
            let path = folder.join(name);
            fs::copy(keep.best(kept.epoch), &path).map_err(|error| unwritable(&path, error))?;
        }
        best.push(BestEpoch { epoch: kept.epoch, score: kept.score, file });
    }
    let json = |name: &str, text: serde_json::Result<Vec<u8>>| {
        let path = folder.join(name);
        let written = text.map_err(std::io::Error::from).and_then(|text| fs::write(&path, text));
        written.map_err(|error| unwritable(&path, error))
    };
    let metrics = Metrics {
        format: METRICS_FORMAT,
        monitor: progress.monitor.name(),
        classes: &job.names,
        best,
        validation: finished.validation,
        test: finished.test,
        epochs: &progress.history,
    };
    json("metrics.json", serde_json::to_vec_pretty(&metrics))?;
    json("checkpoint.json", serde_json::to_vec_pretty(&manifest(finished)?))
}

fn manifest(finished: &Finished<'_>) -> Result<CheckpointManifest, TaskError> {
    let Finished { job, progress, .. } = finished;
    let dataset = job.samples.dataset.manifest();
    let value = |value: serde_json::Result<serde_json::Value>| {
        value.map_err(|error| unwritable(Path::new("checkpoint.json"), error))
    };
    let best = progress.best.first();
    Ok(CheckpointManifest {
        format: CHECKPOINT_FORMAT.to_owned(),
        weights: WeightsFile {
            file: "weights.safetensors".to_owned(),
            digest: best.map_or_else(|| Digest::of(b""), |best| best.digest),
            network: value(serde_json::to_value(&job.network))?,
        },
        bands: dataset.bands.iter().map(|name| BandInput { name: name.clone() }).collect(),
        normalisation: finished.normalisation.clone(),
        activation: if job.samples.classes == 1 { OutputActivation::Logits } else { OutputActivation::ClassLogits },
        classes: job.names.clone(),
        tile: dataset.size as u32,
        gsd: resolution(job.samples.dataset.sets()),
        training: Training {
            dataset: finished.dataset,
            seed: job.settings.seed,
            epochs: progress.epoch,
            epoch: best.map_or(0, |best| best.epoch),
            settings: value(serde_json::to_value(job.settings.told()))?,
            run: finished.run.clone(),
            validation: finished.validation.figures.clone(),
            test: finished.test.figures.clone(),
        },
    })
}
