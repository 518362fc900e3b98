//! Chips as a network takes them: images normalised and varied, labels as targets, in batches that come while the network
//! computes.
//!
//! What a label says: 0 is background; above 0 and up to 0.5, and other fractions, it is ambiguous; 1 and on are classes; NaN
//! takes no part, nor does a pixel of which a band has no data: NaN or infinite. A network of one output tells the classes, all
//! alike, from background, and an ambiguous pixel is half of each. One of several outputs tells each label by its number,
//! background being 0, and an ambiguous pixel takes no part.

mod augment;
mod normalise;
mod reader;

pub(crate) use augment::Turn;
pub(crate) use normalise::normalisation;
pub(crate) use reader::{Reader, Reading};

use rand::Rng;
use swath_datasets::{ChipRef, Dataset, POSITIVE_ABOVE, SideName};
use swath_kinds::Normalisation;
use swath_nets::Output;
use swath_task::{Fault, TaskError};

use crate::faults::of_dataset;
use crate::random::{self, For};
use crate::settings::Augmentation;
use normalise::Rule;

/// A dataset as one network takes it. Many threads may read it.
pub(crate) struct Samples {
    pub dataset: Dataset,
    pub classes: usize,
    pub output: Output,
    rules: Vec<Rule>,
    fill: f32,
}

/// Chips, one after the other.
#[derive(Debug)]
pub(crate) struct Batch {
    pub chips: Vec<ChipRef>,
    /// Rows and columns.
    pub size: usize,
    /// Rows and columns of what is told of a chip: `size` or 1.
    pub told: usize,
    /// Bands of each chip.
    pub images: Vec<f32>,
    /// Classes of each chip.
    pub targets: Vec<f32>,
    /// One channel of each chip: 1 takes part, 0 does not.
    pub valid: Vec<f32>,
}

impl Batch {
    /// How many pixels (or chips) take part.
    pub fn taking_part(&self) -> f64 {
        self.valid.iter().filter(|valid| **valid > 0.0).count() as f64
    }
}

/// How chips are varied, and what that follows from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vary {
    pub how: Augmentation,
    pub seed: u64,
    pub epoch: u32,
}

/// Room for a chip as it lies in its file.
#[derive(Default)]
struct Raw {
    image: Vec<f32>,
    turned: Vec<f32>,
    label: Vec<f32>,
    bytes: Vec<u8>,
}

impl Samples {
    pub fn new(dataset: Dataset, classes: usize, output: Output, normalisation: &Normalisation) -> Self {
        let (rules, fill) = normalise::rules(normalisation, dataset.manifest().bands.len());
        Self { dataset, classes, output, rules, fill }
    }

    /// The chips of a side.
    pub fn side(&self, side: SideName) -> &[ChipRef] {
        &self.dataset.manifest().sides.get(side).chips
    }

    /// Refuses labels that have no output.
    pub fn check_labels(&self) -> Result<(), TaskError> {
        if self.classes == 1 {
            return Ok(());
        }
        for side in SideName::ALL {
            let labels = &self.dataset.manifest().sides.get(side).labels;
            if let Some(beyond) = labels.iter().find(|label| label.value >= self.classes as f32) {
                let message = format!(
                    "the {side} side has {} pixels of class {}, and the network tells {} classes, 0 to {}",
                    beyond.pixels,
                    beyond.value,
                    self.classes,
                    self.classes - 1
                );
                let help = format!("set `classes` of the network to {} or more", beyond.value as usize + 1);
                return Err(Fault::new("N103", message).help(help).permanent());
            }
        }
        Ok(())
    }

    /// Reads these chips. `first` is the place of the first one in the epoch.
    fn batch(&self, chips: &[ChipRef], first: usize, vary: Option<&Vary>, raw: &mut Raw) -> Result<Batch, TaskError> {
        let size = self.dataset.manifest().size;
        let (pixels, bands) = (size * size, self.rules.len());
        let told = match self.output {
            Output::Pixels => size,
            Output::Image => 1,
        };
        let mut batch = Batch {
            chips: chips.to_vec(),
            size,
            told,
            images: vec![0.0; chips.len() * bands * pixels],
            targets: vec![0.0; chips.len() * self.classes * told * told],
            valid: vec![0.0; chips.len() * told * told],
        };
        raw.image.resize(bands * pixels, 0.0);
        raw.turned.resize(pixels, 0.0);
        raw.label.resize(pixels, 0.0);
        let images = batch.images.chunks_exact_mut(bands * pixels);
        let targets = batch.targets.chunks_exact_mut(self.classes * told * told);
        let valid = batch.valid.chunks_exact_mut(told * told);
        for ((place, chip), ((image, targets), valid)) in chips.iter().enumerate().zip(images.zip(targets).zip(valid)) {
            let read = self.dataset.read(chip, &mut raw.image, &mut raw.label, &mut raw.bytes);
            read.map_err(|error| of_dataset(&error))?;
            // `dataset.chips` takes the label away there; who writes chips otherwise may have left it.
            for plane in raw.image.chunks_exact(pixels) {
                let bare = raw.label.iter_mut().zip(plane).filter(|(_, value)| !value.is_finite());
                bare.for_each(|(label, _)| *label = f32::NAN);
            }
            let mut random =
                vary.map(|vary| random::generator(vary.seed, For::Chip, vary.epoch.into(), (first + place) as u64));
            let turn = match (vary, &mut random) {
                (Some(vary), Some(random)) => Turn::draw(&vary.how, random),
                _ => Turn::default(),
            };
            let raise = match (vary, &mut random) {
                (Some(vary), Some(random)) if vary.how.brightness > 0.0 => {
                    random.random_range(-vary.how.brightness..=vary.how.brightness) as f32
                }
                _ => 0.0,
            };
            for ((rule, values), plane) in
                self.rules.iter().zip(image.chunks_exact_mut(pixels)).zip(raw.image.chunks_exact(pixels))
            {
                turn.apply(plane, values, size);
                rule.apply(values, raise, self.fill);
            }
            if let (Some(vary), Some(random)) = (vary, &mut random)
                && vary.how.noise > 0.0
            {
                augment::noise(image, vary.how.noise, self.fill, random);
            }
            turn.apply(&raw.label, &mut raw.turned, size);
            match self.output {
                Output::Pixels => self.label_pixels(&raw.turned, targets, valid),
                Output::Image => self.label_image(chip, &raw.turned, targets, valid),
            }
        }
        Ok(batch)
    }

    fn label_pixels(&self, labels: &[f32], targets: &mut [f32], valid: &mut [f32]) {
        let pixels = labels.len();
        for (pixel, label) in labels.iter().enumerate() {
            if label.is_nan() {
                continue;
            }
            if self.classes == 1 {
                targets[pixel] = label.clamp(0.0, 1.0);
                valid[pixel] = 1.0;
            } else if label.fract() == 0.0 && (0.0..self.classes as f32).contains(label) {
                targets[*label as usize * pixels + pixel] = 1.0;
                valid[pixel] = 1.0;
            }
        }
    }

    /// A chip is of the class that most of its pixels have; of a single class, when the dataset has it among its positives.
    fn label_image(&self, chip: &ChipRef, labels: &[f32], targets: &mut [f32], valid: &mut [f32]) {
        if self.classes == 1 {
            targets[0] = f32::from(u8::from(chip.positive));
            valid[0] = 1.0;
            return;
        }
        let mut counts = vec![0u32; self.classes];
        let whole = labels.iter().filter(|label| label.fract() == 0.0);
        for label in whole.filter(|label| (0.0..self.classes as f32).contains(*label)) {
            counts[*label as usize] += 1;
        }
        let most = counts.iter().copied().max().unwrap_or(0);
        if let Some(class) = counts.iter().position(|count| *count == most && most > 0) {
            targets[class] = 1.0;
            valid[0] = 1.0;
        }
    }
}

/// What a target of a single class says in the eyes of a score: ambiguous pixels say nothing.
pub(crate) fn truth(target: f32) -> Option<bool> {
    match target {
        target if target > POSITIVE_ABOVE => Some(true),
        0.0 => Some(false),
        _ => None,
    }
}
