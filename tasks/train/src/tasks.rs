//! The tasks, and a training from its inputs to its outputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_datasets::{Dataset, POSITIVE_ABOVE, Side, SideName};
use swath_kinds::{Checkpoint, CheckpointManifest, ChipSetFolder, DatasetFile, Normalisation, Picture};
use swath_nets::{Network, Output, torch_folders};
use swath_task::{Artifact, Bytes, Context, Digest, Fault, Needs, Problem, Purity, Task, TaskError};
use swath_tracking::State;

use crate::data::{Samples, normalisation};
use crate::engine::{Job, Machine, Seeing, evaluate, train};
use crate::faults::{of_dataset, of_weights, unsuited, unwritable};
use crate::metrics::{Scores, Seen, Sites, logit};
use crate::pictures;
use crate::record::{Finished, Keep, Progress, write};
use crate::settings::{DeviceChoice, InitialWeights, Settings};
use crate::tracking::Tracker;

/// Raised when equal inputs give other outputs; part of what a state of an earlier attempt is known by.
const VERSION: u32 = 3;

/// Trains a network that tells a class for every pixel.
///
/// Learns from the training side of a dataset, judges every epoch on the validation side, stops when nothing is gained any
/// more, and tells at the end how well the best epoch does on the test side, which nothing was chosen by. A training that is
/// killed goes on from its last epoch, to the same result.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Segmentation(pub Settings);

/// Trains a network that tells a class for a whole chip.
///
/// As `train.segmentation`, for networks such as ConvNeXt: a chip is of the class that most of its pixels have, or, for a
/// single class, when it shows something of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Classification(pub Settings);

/// What a training reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// Which chips train, validate and test.
    pub dataset: Artifact<DatasetFile>,
    /// The chip sets that the dataset was split from.
    pub chips: Vec<Artifact<ChipSetFolder>>,
}

/// What a training makes. A score that is not defined is absent.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The best network, with what must be known to use it.
    pub checkpoint: Artifact<Checkpoint>,
    /// Loss, scores and learning rate over the epochs.
    pub curves: Artifact<Picture>,
    /// Epochs trained.
    pub epochs: u32,
    /// The epoch whose weights these are.
    pub best_epoch: u32,
    /// The threshold with the best F1 on the validation side, which the scores below are at; for a single class.
    pub threshold: Option<f64>,
    /// F1 on the test side.
    pub f1: Option<f64>,
    /// IoU on the test side.
    pub iou: Option<f64>,
    /// Precision on the test side.
    pub precision: Option<f64>,
    /// Recall on the test side.
    pub recall: Option<f64>,
    /// Area under the receiver operating characteristic on the test side.
    pub auroc: Option<f64>,
    /// All scores on the validation side, by name.
    pub validation: BTreeMap<String, f64>,
    /// All scores on the test side, by name.
    pub test: BTreeMap<String, f64>,
}

macro_rules! task {
    ($task:ident, $name:literal, $output:expr) => {
        impl Task for $task {
            const NAME: &'static str = $name;
            const VERSION: u32 = VERSION;
            const PURITY: Purity = Purity::Pure;
            const NATIVE: bool = cfg!(feature = "cuda");
            type Inputs = Inputs;
            type Outputs = Outputs;

            fn check(&self) -> Result<(), Vec<Problem>> {
                let problems = self.0.check($output);
                if problems.is_empty() { Ok(()) } else { Err(problems) }
            }

            fn needs(&self) -> Needs {
                needs(&self.0)
            }

            fn reads(&self) -> Vec<PathBuf> {
                weights_file(&self.0).ok().flatten().map(|(path, _)| path).into_iter().collect()
            }

            async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
                run(&self.0, inputs, ctx).await
            }
        }
    };
}

task!(Segmentation, "train.segmentation", Output::Pixels);
task!(Classification, "train.classification", Output::Image);

fn needs(settings: &Settings) -> Needs {
    let gpu = if matches!(settings.device, DeviceChoice::Cuda(_)) { 1.0 } else { 0.0 };
    // Of the default network on chips of 256 x 256 pixels; what the chips are is not known yet.
    let memory = Bytes::mib(1024 + 192 * settings.batch as u64);
    Needs { gpu, ..Needs::all_cores(memory) }
}

/// Where the weights to begin with lie, and the digest that a checkpoint tells of its own.
fn weights_file(settings: &Settings) -> Result<Option<(PathBuf, Option<Digest>)>, TaskError> {
    match &settings.weights {
        InitialWeights::None => Ok(None),
        InitialWeights::Path(path) if path.is_dir() => {
            let told = CheckpointManifest::of_folder(path)?.weights;
            Ok(Some((path.join(told.file), Some(told.digest))))
        }
        InitialWeights::Path(path) => Ok(Some((path.clone(), None))),
        InitialWeights::ImageNet => {
            let folders = torch_folders(|name| std::env::var_os(name).map(PathBuf::from));
            let found = settings.network.network.imagenet().and_then(|file| file.find(&folders));
            found.map(|file| Some((file, None))).map_err(|error| of_weights(&error))
        }
    }
}

async fn run(settings: &Settings, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
    let dataset = ctx.locate(&inputs.dataset).await?;
    let digest = inputs.dataset.record().digest;
    let mut folders = Vec::new();
    for chips in &inputs.chips {
        folders.push(ctx.locate(chips).await?);
    }
    let checkpoint = ctx.draft::<Checkpoint>("checkpoint")?;
    let curves = ctx.draft::<Picture>("curves.png")?;
    let (settings, folder, picture) = (settings.clone(), checkpoint.path().to_owned(), curves.path().to_owned());
    let done = ctx
        .blocking(move |ctx| {
            let threads = rayon::ThreadPoolBuilder::new().num_threads(ctx.cpus()).build().map_err(|error| {
                Fault::new("N109", format!("no threads for computing can be started: {error}")).transient(None)
            })?;
            let span = tracing::Span::current();
            // One thread of the pool does all, for networks keep what batches tell by thread.
            threads.install(|| {
                let _entered = span.entered();
                let (job, normal) = prepare(&settings, &dataset, &folders, digest, ctx)?;
                work(&job, &normal, digest, &folder, &picture, ctx)
            })
        })
        .await?;
    let (checkpoint, curves) = (checkpoint.commit().await?, curves.commit().await?);
    let Done { progress, validation, test } = done;
    Ok(Outputs {
        checkpoint,
        curves,
        epochs: progress.epoch,
        best_epoch: progress.best.first().map_or(0, |best| best.epoch),
        threshold: validation.get("threshold"),
        f1: test.get("f1"),
        iou: test.get("iou"),
        precision: test.get("precision"),
        recall: test.get("recall"),
        auroc: test.get("auroc"),
        validation: validation.figures,
        test: test.figures,
    })
}

/// Opens and checks everything; nothing is computed yet.
fn prepare(
    settings: &Settings,
    dataset: &Path,
    folders: &[PathBuf],
    digest: Digest,
    ctx: &Context,
) -> Result<(Job, Normalisation), TaskError> {
    let machine = Machine::choose(settings.device, settings.precision, ctx.gpus())?;
    let dataset = Dataset::open(dataset, folders).map_err(|error| of_dataset(&error))?;
    let manifest = dataset.manifest();
    let bands = &manifest.bands;
    let network = settings.network.of_channels(bands.len()).ok_or_else(|| {
        let message = format!(
            "the network takes {} channels, and the chips have {} bands: {}",
            settings.network.network.in_channels(),
            bands.len(),
            bands.join(", ")
        );
        unsuited(message, "leave `in_channels` out, or set the channels to those of the chips")
    })?;
    for (set, chips) in dataset.sets().iter().enumerate() {
        let own = chips.manifest();
        if own.bands != *bands || own.size != manifest.size {
            let message = format!(
                "chip set {} has chips of {} px with the bands {}, the dataset is of {} px and {}",
                set + 1,
                own.size,
                own.bands.join(", "),
                manifest.size,
                bands.join(", ")
            );
            return Err(unsuited(message, "split the dataset again, of sets with the same bands in the same order"));
        }
    }
    if network.output() == Output::Image && manifest.size < 32 {
        let message = format!("the chips have {0} x {0} pixels, and the network needs 32 x 32", manifest.size);
        return Err(unsuited(message, "cut larger chips with `dataset.chips`"));
    }
    for side in [SideName::Train, SideName::Validation] {
        check_side(side, manifest.sides.get(side), &network)?;
    }
    if settings.freeze_epochs > 0 && settings.weights == InitialWeights::None {
        tracing::warn!("`freeze_epochs` keeps an encoder of random weights as it is: give `weights`, or leave it out");
    }
    let normal = normalisation(settings.normalisation, manifest)?;
    let classes = network.classes();
    let names = match (&settings.classes[..], classes) {
        ([], 1) => vec!["object".to_owned()],
        ([], _) => (0..classes).map(|class| format!("class_{class}")).collect(),
        (names, _) => names.to_vec(),
    };
    let weights = weights_file(settings)?;
    let began_with = match &weights {
        None => None,
        Some((path, told)) => {
            let digest = file_digest(path)?;
            if let Some(told) = told.filter(|told| *told != digest) {
                let message = format!(
                    "the weights `{}` are not what the manifest tells of: their digest is `{digest}`, not `{told}`",
                    path.display()
                );
                let help =
                    "restore the checkpoint folder, which a training step writes whole, or give `weights` the file";
                return Err(Fault::new("M103", message).help(help).permanent());
            }
            Some(digest)
        }
    };
    let weights = weights.map(|(path, _)| path);
    // Who is told, and where the weights lie, makes no other training.
    let text = serde_json::to_vec(&(
        settings.told(),
        digest,
        began_with,
        VERSION,
        env!("CARGO_PKG_VERSION"),
        machine.name.split(':').next(),
    ));
    let fingerprint = Digest::of(&text.map_err(|error| unwritable(Path::new("settings"), error))?);
    let readers = if machine.name == "cpu" { (ctx.cpus() / 4).max(1) } else { ctx.cpus().clamp(1, 16) };
    let samples = Samples::new(dataset, classes, network.output(), &normal);
    samples.check_labels()?;
    let settings = settings.clone();
    let job = Job { settings, network, names, samples: Arc::new(samples), machine, weights, readers, fingerprint };
    Ok((job, normal))
}

/// Whether a side can be learnt from, or judged by. Validation may show a single class: then the loss is the judge.
fn check_side(name: SideName, side: &Side, network: &Network) -> Result<(), TaskError> {
    let pixels = |is: fn(f32) -> bool| -> u64 {
        side.labels.iter().filter(|label| is(label.value)).map(|label| label.pixels).sum()
    };
    let single = name == SideName::Train && network.classes() == 1;
    let (positives, negatives, what) = match network.output() {
        Output::Pixels => (pixels(|label| label > POSITIVE_ABOVE), pixels(|label| label == 0.0), "pixel"),
        Output::Image => (side.positives as u64, side.negatives as u64, "chip"),
    };
    let lacks = if side.chips.is_empty() {
        "has no chips".to_owned()
    } else if pixels(|_| true) == 0 {
        "has no labelled pixel".to_owned()
    } else if single && (positives == 0 || negatives == 0) {
        let kind = if positives == 0 { "positive" } else { "negative" };
        format!("has no {kind} {what}: there is nothing to tell apart")
    } else {
        return Ok(());
    };
    Err(Fault::new("N102", format!("the {name} side of the dataset {lacks}"))
        .help("give `dataset.split` more ground, smaller blocks, or other shares")
        .permanent())
}

fn file_digest(path: &Path) -> Result<Digest, TaskError> {
    let read = std::fs::File::open(path).and_then(Digest::of_reader);
    read.map(|(digest, _)| digest)
        .map_err(|source| of_weights(&swath_nets::Error::Read { path: path.to_owned(), source }))
}

/// What is left of a training besides its files.
struct Done {
    progress: Progress,
    validation: Scores,
    test: Scores,
}

fn work(
    job: &Job,
    normal: &Normalisation,
    dataset: Digest,
    folder: &Path,
    picture: &Path,
    ctx: &Context,
) -> Result<Done, TaskError> {
    let keep = Keep::new(ctx.keep()?);
    let name = format!("{} of {}", job.names.join(", "), &dataset.hex()[..8]);
    let mut tracker = Tracker::open(job.settings.tracking.as_ref(), &name, job.fingerprint);
    tracker.params(&serde_json::to_value(job.settings.told()).unwrap_or_default());
    tracing::info!(
        "training on {}: {} chips, {} for validation, {} for the test",
        job.machine.name,
        job.samples.side(SideName::Train).len(),
        job.samples.side(SideName::Validation).len(),
        job.samples.side(SideName::Test).len()
    );
    let progress = train(job, &keep, ctx, &tracker).inspect_err(|error| {
        let state = if matches!(error, TaskError::Cancelled) { State::Killed } else { State::Failed };
        drop(tracker.finish(state));
    })?;
    let Some(best) = progress.best.first() else {
        return Err(Fault::new("N104", "no epoch has a score by which it could be the best one")
            .help("look at the labels of the validation side")
            .permanent());
    };
    let plain = job.network.init(&job.machine.device).map_err(|error| of_weights(&error))?;
    let model = keep.load_best(plain, best)?;
    // Chosen when this epoch was validated; the test side has no say in it.
    let threshold = progress.history.iter().find(|epoch| epoch.epoch == best.epoch);
    let threshold = threshold.and_then(|epoch| epoch.validation.get("threshold"));
    let validation = judge(job, &model, SideName::Validation, threshold, ctx)?;
    let test = if job.samples.side(SideName::Test).is_empty() {
        tracing::warn!("the test side has no chips: how good the network is remains unknown");
        Scores { undefined: vec!["all: the test side has no chips".to_owned()], ..Scores::default() }
    } else {
        judge(job, &model, SideName::Test, threshold, ctx)?
    };
    for told in &test.undefined {
        tracing::warn!("on the test side, {told}");
    }
    std::fs::create_dir_all(folder).map_err(|error| unwritable(folder, error))?;
    pictures::curves(&progress, picture)?;
    let copy = folder.join("curves.png");
    std::fs::copy(picture, &copy).map_err(|error| unwritable(&copy, error))?;
    pictures::samples(job, &model, ctx, &folder.join("samples.png"))?;
    for name in ["curves.png", "samples.png"] {
        tracker.artifact(&folder.join(name), name);
    }
    let scores = |side: &'static str, scores: &Scores| {
        scores.figures.iter().map(move |(name, value)| (format!("{side}/{name}"), *value)).collect::<Vec<_>>()
    };
    tracker.metrics(progress.epoch, scores("best_validation", &validation).into_iter().chain(scores("test", &test)));
    let run = tracker.finish(State::Finished);
    let finished = Finished {
        job,
        progress: &progress,
        normalisation: normal,
        dataset,
        validation: &validation,
        test: &test,
        run,
    };
    write(folder, &keep, &finished)?;
    Ok(Done { progress, validation, test })
}

/// All scores of a side at a threshold, which networks of several classes have none of.
fn judge(
    job: &Job,
    model: &swath_nets::Model,
    side: SideName,
    threshold: Option<f64>,
    ctx: &Context,
) -> Result<Scores, TaskError> {
    let mut sites = Sites::default();
    let tally = evaluate(job, model, side, ctx, &mut |seeing| {
        if let Some(threshold) = threshold {
            see_sites(job, &mut sites, seeing, logit(threshold) as f32);
        }
    })?;
    let mut scores = tally.scores(threshold, &job.names);
    if threshold.is_some() {
        sites.scores(job.settings.site_distance, &job.settings.recall_at, &mut scores);
    }
    Ok(scores)
}

/// Collects the sites of a batch.
fn see_sites(job: &Job, sites: &mut Sites, seeing: &Seeing<'_>, least: f32) {
    let batch = seeing.batch;
    let pixels = batch.told * batch.told;
    for (place, chip) in batch.chips.iter().enumerate() {
        let set = job.samples.dataset.sets()[chip.set].manifest();
        let told = &set.chips[chip.chip];
        let own = place * pixels..(place + 1) * pixels;
        let seen = Seen {
            set: chip.set,
            chip: told,
            sites: set.sites.iter().flatten().filter(|site| told.sites.contains(&site.id)).collect(),
            size: batch.told,
            logits: &seeing.logits[own.clone()],
            targets: &batch.targets[own.clone()],
            valid: &batch.valid[own],
        };
        if job.network.output() == Output::Pixels { sites.add(&seen, least) } else { sites.add_whole(&seen, least) }
    }
}
