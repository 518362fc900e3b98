//! The model card: what a person should know of a model before using it. `card.md`, Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use swath_datasets::{DatasetManifest, SideName};
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
    /// What the user says that it cannot do.
    pub limits: &'a [String],
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
            "- It knows its objects at {} m a pixel, in the bands above, normalised as above; `infer.segment` sees to it.",
            manifest.gsd
        )?;
        self.limits.iter().try_for_each(|limit| writeln!(to, "- {limit}"))?;
        let licence =
            self.licence.unwrap_or("not stated; ask those who trained it and those whose data it learned from");
        writeln!(to, "\n## Licence\n\nLicence: {licence}")
    }

    fn network(&self, to: &mut String) -> std::fmt::Result {
        let tells = match self.network.output() {
            Output::Pixels => "a class for every pixel",
            Output::Image => "a class for every image",
        };
        writeln!(to, "## Network\n")?;
        writeln!(to, "{}: {tells}. {} parameters.\n", architecture(self.network), self.parameters)?;
        let Agreement { difference, largest, batch } = self.agreement;
        writeln!(
            to,
            "ONNX, operator set {}, any number of images at once. ONNX Runtime against the trained network in burn, 1 to \
             {batch} images at once: logits differ by {difference:.1e} at most, where the largest is {largest:.3}.\n",
            crate::convert::OPSET
        )
    }

    fn data(&self, to: &mut String) -> std::fmt::Result {
        write!(to, "## Data\n\nDataset `{}`", self.training.dataset)?;
        let Some(dataset) = self.dataset else { return writeln!(to, ".\n") };
        writeln!(
            to,
            ", chips of {size} x {size} pixels, split by blocks of {} m with a gap of {} m.\n",
            dataset.block_m,
            dataset.gap_m,
            size = dataset.size
        )?;
        writeln!(to, "| side | chips | with something | without | blocks |\n|---|---|---|---|---|")?;
        for name in SideName::ALL {
            let side = dataset.sides.get(name);
            let chips = side.chips.len();
            writeln!(to, "| {name} | {chips} | {} | {} | {} |", side.positives, side.negatives, side.blocks)?;
        }
        writeln!(to)
    }

    fn scores(&self, to: &mut String) -> std::fmt::Result {
        let Training { validation, test, .. } = self.training;
        writeln!(to, "## Scores\n")?;
        writeln!(
            to,
            "*Test* was looked at once, after training. *Validation* told when to stop, and where the threshold lies.\n"
        )?;
        writeln!(to, "| score | test | validation |\n|---|---|---|")?;
        let names: std::collections::BTreeSet<&String> = test.keys().chain(validation.keys()).collect();
        let told = |scores: &BTreeMap<String, f64>, name| {
            scores.get(name).map_or(String::new(), |score| format!("{score:.4}"))
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
        writeln!(to, "\n```json\n{settings}\n```\n")
    }

    fn usage(&self, to: &mut String) -> std::fmt::Result {
        let ModelManifest { input, output, tile, classes, .. } = self.manifest;
        writeln!(to, "## Use\n\n`manifest.json` tells `infer.segment` all it must know.\n")?;
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

fn fill(normalisation: &Normalisation) -> f32 {
    match normalisation {
        Normalisation::None { fill } | Normalisation::Standard { fill, .. } | Normalisation::Stretch { fill, .. } => {
            *fill
        }
    }
}
