//! The loop over the epochs.

mod device;
mod evaluate;
mod rate;
mod step;

pub(crate) use device::Machine;
pub(crate) use evaluate::{Seeing, evaluate};
pub(crate) use rate::{Length, Rate};
pub(crate) use step::Scale;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use burn::module::{Module, ModuleVisitor, Param, ParamGroup};
use burn::optim::{AdamWConfig, GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use rand::seq::SliceRandom;
use swath_datasets::{ChipRef, SideName};
use swath_nets::{Model, Network};
use swath_task::{Context, Digest, Fault, TaskError};

use crate::data::{Batch, Reader, Reading, Samples, Vary};
use crate::faults::of_weights;
use crate::metrics::Scores;
use crate::random::{self, For};
use crate::record::{Epoch, Keep, Kept, Progress};
use crate::settings::{Monitor, Precision, Settings};
use crate::tracking::Tracker;

/// Networks of one process draw from one stream of numbers: while one does, from its own seed, no other may.
static DRAWING: Mutex<()> = Mutex::new(());

/// Chips or weights that a message names.
const NAMED: usize = 16;

/// A training, all of it checked.
pub(crate) struct Job {
    pub settings: Settings,
    pub network: Network,
    pub names: Vec<String>,
    pub samples: Arc<Samples>,
    pub machine: Machine,
    /// The file of weights to begin with.
    pub weights: Option<PathBuf>,
    /// Threads that read chips.
    pub readers: usize,
    /// Of all that the result follows from.
    pub fingerprint: Digest,
}

impl Job {
    pub fn reading(&self, chips: Vec<ChipRef>, vary: Option<Vary>) -> Reading {
        Reading { chips, batch: self.settings.batch, vary, threads: self.readers }
    }

    /// The network with its first weights.
    pub fn begin(&self, device: &Device) -> Result<Model, TaskError> {
        let model = {
            let _turn = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
            device.seed(random::seed(self.settings.seed, For::Weights, 0, 0));
            let model = self.network.init(device).map_err(|error| {
                let help = "docs/training.md tells what a network may be";
                crate::faults::unsuited(error.to_string(), help)
            })?;
            // Weights are drawn when they are first looked at.
            model.visit(&mut Look);
            model
        };
        let Some(path) = &self.weights else { return Ok(model) };
        let model = match model.clone().load(path) {
            Ok(model) => {
                tracing::info!("begins with all weights of `{}`", path.display());
                model
            }
            Err(error @ swath_nets::Error::Misfit { .. }) if is_whole(&model, &error) => {
                return Err(of_weights(&error));
            }
            Err(swath_nets::Error::Misfit { misfit, .. }) => {
                let differing = |misfit: &swath_nets::Misfit| {
                    misfit.missing.len() + misfit.unexpected.len() + misfit.reshaped.len() + misfit.not_numbers.len()
                };
                let whole = differing(&misfit);
                let left = model.left(path).unwrap_or_default();
                let model = model.transfer(path).map_err(|error| match error {
                    // Whatever it is nearer to: weights of the whole network, or of its encoder.
                    swath_nets::Error::Misfit { path, misfit: other } if differing(&other) > whole => {
                        of_weights(&swath_nets::Error::Misfit { path, misfit })
                    }
                    error => of_weights(&error),
                })?;
                let told = format!("begins with the encoder of `{}`", path.display());
                match left.len() {
                    0 => tracing::info!("{told}"),
                    count => tracing::warn!("{told}: {count} others are left out: {}", some(left.iter())),
                }
                model
            }
            Err(error) => return Err(of_weights(&error)),
        };
        let mut check = Finite(true);
        model.visit(&mut check);
        if check.0 {
            return Ok(model);
        }
        Err(Fault::new("N105", format!("the weights `{}` hold values that are not finite", path.display()))
            .help("take weights of a training that went well")
            .permanent())
    }

    /// Images, targets and what takes part of a batch, on a device. The batch is left without its images.
    pub fn tensors(&self, batch: &mut Batch, device: &Device) -> [Tensor<4>; 3] {
        let (chips, classes) = (batch.chips.len(), self.samples.classes);
        let tensor = |values: &mut Vec<f32>, channels: usize, size: usize, keep: bool| {
            let values = if keep { values.clone() } else { std::mem::take(values) };
            Tensor::from_data(TensorData::new(values, [chips, channels, size, size]), device)
        };
        [
            tensor(&mut batch.images, self.network.in_channels(), batch.size, false),
            tensor(&mut batch.targets, classes, batch.told, true),
            tensor(&mut batch.valid, 1, batch.told, true),
        ]
    }
}

/// Whether weights that do not fit are meant for the whole network and not for its encoder: they have most of the names of both
/// its encoder and what is beyond, and some names differ.
fn is_whole(model: &Model, error: &swath_nets::Error) -> bool {
    let swath_nets::Error::Misfit { misfit, .. } = error else { return false };
    let is_encoder = |name: &String| name.split('.').next().is_some_and(|first| Model::ENCODERS.contains(&first));
    let (encoder, beyond): (Vec<String>, Vec<String>) = model.names().into_iter().partition(is_encoder);
    let most = |names: &[String]| 2 * names.iter().filter(|name| misfit.missing.contains(name)).count() < names.len();
    most(&encoder) && most(&beyond) && !(misfit.missing.is_empty() && misfit.unexpected.is_empty())
}

/// The first ones of what a message names, and how many more there are.
fn some<T: std::fmt::Display>(all: impl ExactSizeIterator<Item = T>) -> String {
    let more = all.len().saturating_sub(NAMED);
    let mut named: Vec<String> = all.take(NAMED).map(|one| format!("`{one}`")).collect();
    if more > 0 {
        named.push(format!("and {more} more"));
    }
    named.join(", ")
}

struct Look;

impl ModuleVisitor for Look {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        drop(param.val());
    }
}

struct Finite(bool);

impl ModuleVisitor for Finite {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let sum: f32 = param.val().abs().sum().into_scalar();
        self.0 &= sum.is_finite();
    }
}

/// Where in a training it is.
#[derive(Clone, Copy)]
struct Place {
    epoch: u32,
    /// From 1, as epochs.
    batch: usize,
    batches: usize,
    /// The learning rate of the step.
    rate: f64,
}

/// A training under way.
struct Training<'a> {
    job: &'a Job,
    ctx: &'a Context,
    device: Device,
    model: Model,
    optimiser: ModuleOptimizer,
    progress: Progress,
}

/// Trains until there is nothing more to gain, from where an attempt before left it. What is best lies in `keep` then.
pub(crate) fn train(job: &Job, keep: &Keep, ctx: &Context, tracker: &Tracker) -> Result<Progress, TaskError> {
    let settings = &job.settings;
    let device = job.machine.device.clone().autodiff();
    let model = job.begin(&device)?;
    let adam = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(settings.optimiser.weight_decay as f32);
    let mut training = Training {
        job,
        ctx,
        model,
        optimiser: adam.init(),
        progress: Progress::new(settings, job.machine.half == Some(FloatDType::F16)),
        device,
    };
    if let Some(Kept { progress, model, optimiser }) = keep.latest(&job.fingerprint, &training.model)? {
        tracing::info!("goes on after epoch {}", progress.epoch);
        training.optimiser = training.optimiser.load_record(optimiser);
        (training.progress, training.model) = (progress, model);
    }
    let batches = training.length().0 as u64;
    let total = batches * u64::from(settings.epochs);
    while training.progress.epoch < settings.epochs && training.progress.stale < settings.patience {
        training.epoch(keep, tracker, total)?;
    }
    if training.progress.epoch < settings.epochs {
        tracing::info!("{} epochs brought nothing better: training stops", settings.patience);
    }
    Ok(training.progress)
}

impl Training<'_> {
    /// Batches and steps of an epoch.
    fn length(&self) -> (usize, usize) {
        let batches = self.job.samples.side(SideName::Train).len().div_ceil(self.job.settings.batch);
        (batches, batches.div_ceil(self.job.settings.accumulate))
    }

    fn epoch(&mut self, keep: &Keep, tracker: &Tracker, total: u64) -> Result<(), TaskError> {
        let settings = &self.job.settings;
        let epoch = self.progress.epoch + 1;
        let began = Instant::now();
        self.freeze(epoch <= settings.freeze_epochs);
        let mut chips = self.job.samples.side(SideName::Train).to_vec();
        chips.shuffle(&mut random::generator(settings.seed, For::Order, epoch.into(), 0));
        let vary = Vary { how: settings.augmentation, seed: settings.seed, epoch };
        let mut reader = Reader::start(&self.job.samples, self.job.reading(chips, Some(vary)))?;
        let (batches, steps) = self.length();
        let length = Length { steps_an_epoch: steps as u64, epochs: settings.epochs };
        let before = u64::from(epoch - 1) * batches as u64;
        let (mut loss, mut weight, mut done) = (0.0, 0.0, 0);
        let mut rate = 0.0;
        for step in 0..steps {
            let group = settings.accumulate.min(batches - step * settings.accumulate);
            rate = self.progress.rate.at(&settings.schedule, self.progress.step, length);
            let mut gradients = GradientsAccumulator::new();
            let mut seen = Vec::new();
            for _ in 0..group {
                let Some(mut batch) = reader.next(self.ctx)? else { break };
                let at = Place { epoch, batch: done + 1, batches, rate };
                let (value, own) = self.batch(&mut batch, at, group)?;
                gradients.accumulate(&self.model, own);
                loss += value * batch.taking_part();
                weight += batch.taking_part();
                seen.append(&mut batch.chips);
                done += 1;
                self.ctx.progress(before + done as u64, total, "batches");
            }
            self.step(gradients.grads(), &seen, Place { epoch, batch: done, batches, rate })?;
        }
        let waited = reader.waited;
        drop(reader);
        let train_loss = if weight > 0.0 { loss / weight } else { 0.0 };
        let trained = began.elapsed();
        let scores = self.validate()?;
        self.judge(&scores, keep, epoch)?;
        let figures = figures(train_loss, rate, &scores, trained.as_secs_f64(), waited.as_secs_f64());
        for (name, value) in figures.iter().copied() {
            self.ctx.metric(name, value);
        }
        let told: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        tracing::info!("epoch {epoch}: {}", told.join(", "));
        tracker.metrics(epoch, figures.iter().copied());
        self.progress.history.push(Epoch { epoch, learning_rate: rate, train_loss, validation: scores });
        self.progress.epoch = epoch;
        keep.put(&self.job.fingerprint, &self.progress, &self.model, &self.optimiser)
    }

    /// The loss of a batch, and its share of the gradients of a step.
    fn batch(&self, batch: &mut Batch, at: Place, group: usize) -> Result<(f64, GradientsParams), TaskError> {
        let settings = &self.job.settings;
        let [images, targets, valid] = self.job.tensors(batch, &self.device);
        let logits = {
            let _turn = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
            self.device.seed(random::seed(settings.seed, For::Forward, at.epoch.into(), at.batch as u64 - 1));
            match self.job.machine.half {
                Some(half) => self.model.mixed(half).forward(images.cast(half)).cast(FloatDType::F32),
                None => self.model.forward(images),
            }
        };
        let loss = step::objective(settings.loss(), logits, targets, valid);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        if !value.is_finite() {
            return Err(not_finite("loss", at, &batch.chips, settings));
        }
        let gradients = (loss * (self.progress.scale.by / group as f64)).backward();
        Ok((value, GradientsParams::from_grads(gradients, &self.model)))
    }

    fn step(&mut self, mut gradients: GradientsParams, seen: &[ChipRef], at: Place) -> Result<(), TaskError> {
        let scale = self.progress.scale.by;
        let length = step::length(&self.model, &gradients) / scale;
        if !length.is_finite() {
            if self.job.machine.half == Some(FloatDType::F16) && self.progress.scale.overflowed() {
                return Ok(());
            }
            return Err(not_finite("gradient", at, seen, &self.job.settings));
        }
        let by = step::clip(length, self.job.settings.clip) / scale;
        if by != 1.0 {
            step::multiply(&self.model, &mut gradients, by);
        }
        self.model = self.optimiser.step(at.rate, self.model.clone(), gradients);
        self.progress.step += 1;
        if self.job.machine.half == Some(FloatDType::F16) {
            self.progress.scale.well();
        }
        Ok(())
    }

    fn validate(&self) -> Result<Scores, TaskError> {
        let model = self.model.valid();
        let tally = evaluate(self.job, &model, SideName::Validation, self.ctx, &mut |_| {})?;
        Ok(tally.scores(None, &self.job.names))
    }

    /// Hears the scores of an epoch: whether it is among the best, and what follows for the learning rate.
    fn judge(&mut self, scores: &Scores, keep: &Keep, epoch: u32) -> Result<(), TaskError> {
        let progress = &mut self.progress;
        if progress.history.is_empty() && scores.get(progress.monitor.name()).is_none() {
            let name = progress.monitor.name();
            let why = scores.undefined.iter().find(|told| told.starts_with(&format!("{name}: ")));
            let why = why.map_or_else(|| format!("{name} is not defined"), Clone::clone);
            tracing::warn!(
                "validation cannot be judged by what was asked for ({why}): the loss tells which epoch is best"
            );
            progress.monitor = Monitor::Loss;
        }
        let Some(score) = scores.get(progress.monitor.name()) else {
            // Undefined for once: the epoch is not among the best.
            progress.stale += 1;
            return Ok(());
        };
        progress.rate.hear(&self.job.settings.schedule, progress.monitor, score);
        let first = progress.best.first().is_none_or(|best| progress.is_better(score, best.score));
        progress.stale = if first { 0 } else { progress.stale + 1 };
        if progress.is_among_best(score) {
            let best = keep.put_best(&self.model, epoch, score)?;
            progress.insert_best(best);
        }
        Ok(())
    }

    /// The encoder learns, or stays as it is: weights, statistics of norms, and what it leaves out at random.
    fn freeze(&mut self, frozen: bool) {
        if self.job.settings.freeze_epochs == 0 {
            return;
        }
        let pattern = format!("(^|\\.)({})\\.", Model::ENCODERS.join("|"));
        let group = ParamGroup::from_regex(&pattern).expect("the pattern is one");
        let model = self.model.clone();
        self.model = if frozen { model.freeze_group(group) } else { model.unfreeze_group(group) };
    }
}

fn figures(train_loss: f64, rate: f64, scores: &Scores, seconds: f64, waited: f64) -> Vec<(&'static str, f64)> {
    let mut figures = vec![("train_loss", train_loss), ("learning_rate", rate)];
    let told = ["loss", "f1", "iou", "precision", "recall", "auroc", "ece", "threshold"];
    let names = [
        "validation_loss",
        "validation_f1",
        "validation_iou",
        "validation_precision",
        "validation_recall",
        "validation_auroc",
        "validation_ece",
        "validation_threshold",
    ];
    figures.extend(told.into_iter().zip(names).filter_map(|(score, name)| Some((name, scores.get(score)?))));
    figures.push(("epoch_seconds", seconds));
    figures.push(("waiting_share", if seconds > 0.0 { waited / seconds } else { 0.0 }));
    figures
}

fn not_finite(what: &str, at: Place, chips: &[ChipRef], settings: &Settings) -> TaskError {
    let Place { epoch, batch, batches, rate } = at;
    let chips = some(chips.iter().map(|chip| &chip.id));
    let message = format!(
        "the {what} is not finite in epoch {epoch}, batch {batch} of {batches}, at a learning rate of {rate}; the chips \
         are {chips}"
    );
    let mut ways = vec!["lower `optimiser.learning_rate`"];
    if settings.clip.is_none() {
        ways.push("set `clip`");
    }
    if settings.precision == Precision::F16 {
        ways.push("take another `precision` than `f16`");
    }
    let help = format!("look at the values of these chips; if they are as all others, {}", ways.join(" or "));
    Fault::new("N104", message).help(help).permanent()
}
