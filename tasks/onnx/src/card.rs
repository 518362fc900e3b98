//! The model card: what a person should know of a model before using it. `card.md`, Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use swath_datasets::{DatasetManifest, POSITIVE_ABOVE, Side, SideName};
use swath_kinds::{ModelManifest, Normalisation, OutputActivation, Training};
use swath_nets::{ConvNextSize, Encoder, Network, Output};

use crate::agree::Agreement;

/// All that a card tells.
pub(crate) struct Card<'a> {
    /// The model's manifest.
    pub manifest: &'a ModelManifest,
    /// What it is a network of.
    pub network: &'a Network,
    /// Numbers that training changed.
    pub parameters: usize,
    /// How it was trained.
    pub training: &'a Training,
    /// The dataset, when it is at hand.
    pub dataset: Option<&'a DatasetManifest>,
    /// How well the exported network agrees with the trained one.
    pub agreement: Agreement,
    /// What the user says of what it learned from.
    pub data: &'a [String],
    /// What the user says that it cannot do.
    pub limits: &'a [String],
    /// The command that makes it again.
    pub again: Option<&'a str>,
    /// Under which terms it may be used.
    pub licence: Option<&'a str>,
}

/// What kind of network it is, in words.
pub(crate) fn architecture(network: &Network) -> String {
    let encoder = |encoder: Encoder| match encoder {
        Encoder::Small => "a small encoder",
        Encoder::Resnet18 => "ResNet-18",
        Encoder::Resnet34 => "ResNet-34",
        Encoder::Resnet50 => "ResNet-50",
    };
    match *network {
        Network::Unet { encoder: e, .. } => format!("U-Net with {}", encoder(e)),
        Network::DeepLabV3Plus { encoder: e, .. } => format!("DeepLabV3+ with {}", encoder(e)),
        Network::DualUnet { encoder: e, .. } => format!("U-Net with two encoders, each {}", encoder(e)),
        Network::ConvNext { size, .. } => {
            let size = match size {
                ConvNextSize::Tiny => "Tiny",
                ConvNextSize::Small => "Small",
                ConvNextSize::Base => "Base",
            };
            format!("ConvNeXt-{size}")
        }
    }
}

impl Card<'_> {
    /// The text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write(&mut text).expect("a text takes all that is written to it");
        text
    }

    fn write(&self, to: &mut String) -> std::fmt::Result {
        let manifest = self.manifest;
        writeln!(to, "<!-- Written by onnx.export; do not edit. -->\n# {}\n\n{}\n", manifest.name, manifest.about)?;
        self.network(to)?;
        self.data(to)?;
        self.scores(to)?;
        self.training(to)?;
        self.usage(to)?;
        writeln!(to, "## Limits\n")?;
        writeln!(
            to,
            "- Scores are of the test side of the dataset above. Other places, seasons and sensors were not scored."
        )?;
        writeln!(
            to,
            "- It knows its objects at {} m a pixel, in the bands above, normalised as above; `{}` sees to it.",
            manifest.gsd,
            self.task()
        )?;
        list(to, self.limits)?;
        let licence =
            self.licence.unwrap_or("not stated; ask those who trained it and those whose data it learned from");
        writeln!(to, "\n## Licence\n\nLicence: {licence}")
    }

    /// The task that runs it.
    fn task(&self) -> &'static str {
        match self.network.output() {
            Output::Pixels => "infer.segment",
            Output::Image => "infer.classify",
        }
    }

    fn network(&self, to: &mut String) -> std::fmt::Result {
        let tells = match self.network.output() {
            Output::Pixels => "a class for every pixel",
            Output::Image => "a class for every image",
        };
        writeln!(to, "## Network\n")?;
        writeln!(to, "{}: {tells}. {} parameters.\n", architecture(self.network), self.parameters)?;
        let Agreement { difference, rounding, largest, batch } = self.agreement;
        let rounding = rounding.map_or(String::new(), |rounding| {
            format!(" Rounding to 32-bit floats alone moves the trained network's logits by {rounding:.1e}.")
        });
        writeln!(
            to,
            "ONNX, operator set {}, any number of images at once. ONNX Runtime against the trained network in burn, 1 to \
             {batch} images at once: logits differ by {difference:.1e} at most, where the largest is {largest:.3}.{rounding}\n",
            crate::convert::OPSET
        )
    }

    fn data(&self, to: &mut String) -> std::fmt::Result {
        writeln!(to, "## Data\n")?;
        list(to, self.data)?;
        if !self.data.is_empty() {
            writeln!(to)?;
        }
        write!(to, "Dataset `{}`", self.training.dataset)?;
        let Some(dataset) = self.dataset else { return writeln!(to, ".\n") };
        writeln!(
            to,
            ", chips of {size} x {size} pixels, split by blocks of {} m with a gap of {} m. No block is on two sides.\n",
            dataset.block_m,
            dataset.gap_m,
            size = dataset.size
        )?;
        writeln!(
            to,
            "| side | chips | with something | without | blocks | labelled pixels | of these positive | without a label |"
        )?;
        writeln!(to, "|---|---|---|---|---|---|---|---|")?;
        for name in SideName::ALL {
            let side = dataset.sides.get(name);
            let [labelled, positive, bare] = pixels(side, dataset.size);
            writeln!(
                to,
                "| {name} | {} | {} | {} | {} | {labelled} | {positive} | {bare} |",
                side.chips.len(),
                side.positives,
                side.negatives,
                side.blocks
            )?;
        }
        let left_out = &dataset.left_out;
        writeln!(
            to,
            "\nA pixel counts once for each chip that shows it. Without a label are pixels that the label says nothing of, or \
             that have no data: no loss and no score counts them. Chips on no side: {} that show too little or only what \
             is ambiguous, {} along borders of sides, {} without something, more than training takes. Pairs of chips on \
             different sides that overlap, are nearer than the gap or are equal, and sites on several sides: {}.\n",
            left_out.ambiguous,
            left_out.border,
            left_out.negatives,
            dataset.leakage.total()
        )
    }

    fn scores(&self, to: &mut String) -> std::fmt::Result {
        let Training { validation, test, .. } = self.training;
        writeln!(to, "## Scores\n")?;
        writeln!(
            to,
            "*Test* was held out: it was looked at once, after training. *Validation* told which epoch is best, and where \
             the threshold lies. Both are as the world is, negatives not thinned. `docs/training.md` of Swath tells what \
             each score is.\n"
        )?;
        writeln!(to, "| score | test | validation |\n|---|---|---|")?;
        let names: std::collections::BTreeSet<&String> = test.keys().chain(validation.keys()).collect();
        let told = |scores: &BTreeMap<String, f64>, name: &String| {
            scores.get(name).map_or(String::new(), |score| match name.as_str() {
                "sites" | "detections" => format!("{score:.0}"),
                _ => format!("{score:.4}"),
            })
        };
        names
            .into_iter()
            .try_for_each(|name| writeln!(to, "| {name} | {} | {} |", told(test, name), told(validation, name)))?;
        writeln!(to)
    }

    fn training(&self, to: &mut String) -> std::fmt::Result {
        let Training { epoch, epochs, seed, settings, run, .. } = self.training;
        writeln!(to, "## Training\n\nThe weights of epoch {epoch} of {epochs}, seed {seed}.")?;
        if let Some(run) = run {
            writeln!(to, "Run: {run}")?;
        }
        let settings = serde_json::to_string_pretty(settings).expect("settings are JSON");
        writeln!(to, "\n```json\n{settings}\n```\n")?;
        match self.again {
            Some(again) => writeln!(to, "To make it again:\n\n    {again}\n"),
            None => Ok(()),
        }
    }

    fn usage(&self, to: &mut String) -> std::fmt::Result {
        let ModelManifest { input, output, tile, classes, .. } = self.manifest;
        writeln!(to, "## Use\n\n`manifest.json` tells `{}` all it must know.\n", self.task())?;
        writeln!(
            to,
            "Input `{}`: `[batch, {}, {size}, {size}]`, the bands below in this order, each {}; no-data becomes {}.\n",
            input.name,
            input.channels,
            match self.manifest.normalisation {
                Normalisation::None { .. } => "as it is",
                Normalisation::Standard { .. } => "`(x - mean) / std`",
                Normalisation::Stretch { .. } => "`clamp((x - low) / (high - low), 0, 1)`",
            },
            fill(&self.manifest.normalisation),
            size = tile.size
        )?;
        self.bands(to)?;
        let means = match self.manifest.activation {
            OutputActivation::Logits => "a sigmoid makes a probability of each",
            OutputActivation::ClassLogits => "a softmax over the channels makes probabilities of them",
            OutputActivation::Probability => "probabilities already",
        };
        writeln!(to, "Output `{}`: a channel each for {}; {means}.\n", output.name, classes.join(", "))
    }

    fn bands(&self, to: &mut String) -> std::fmt::Result {
        let (heads, limits) = match &self.manifest.normalisation {
            Normalisation::None { .. } => (None, None),
            Normalisation::Standard { mean, std, .. } => (Some(("mean", "std")), Some((mean, std))),
            Normalisation::Stretch { low, high, .. } => (Some(("low", "high")), Some((low, high))),
        };
        match heads {
            Some((first, second)) => writeln!(to, "| band | {first} | {second} |\n|---|---|---|")?,
            None => writeln!(to, "| band |\n|---|")?,
        }
        for (index, band) in self.manifest.bands.iter().enumerate() {
            match limits {
                Some((first, second)) => writeln!(to, "| {} | {} | {} |", band.name, first[index], second[index])?,
                None => writeln!(to, "| {} |", band.name)?,
            }
        }
        writeln!(to)
    }
}

/// A line for each thing told. A flow whose parameter is not given tells a blank one.
fn list(to: &mut String, told: &[String]) -> std::fmt::Result {
    let told = told.iter().map(|told| told.trim());
    told.filter(|told| !told.is_empty()).try_for_each(|told| writeln!(to, "- {told}"))
}

/// Labelled pixels of a side, those of them that are positive, and pixels without a label.
fn pixels(side: &Side, size: usize) -> [u64; 3] {
    let sum =
        |of: fn(f32) -> bool| side.labels.iter().filter(|label| of(label.value)).map(|label| label.pixels).sum::<u64>();
    let labelled = sum(|_| true);
    let all = (side.chips.len() * size * size) as u64;
    [labelled, sum(|value| value > POSITIVE_ABOVE), all.saturating_sub(labelled)]
}

fn fill(normalisation: &Normalisation) -> f32 {
    match normalisation {
        Normalisation::None { fill } | Normalisation::Standard { fill, .. } | Normalisation::Stretch { fill, .. } => {
            *fill
        }
    }
}
