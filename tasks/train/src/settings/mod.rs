//! What a flow may say of a training. Which network, and what it begins with, is in `network`.

mod network;

pub use network::{InitialWeights, NetworkChoice};

use std::borrow::Cow;
use std::cmp::Ordering;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use swath_nets::{Focal, Output};
use swath_task::Problem;

use crate::tracking::TrackBy;

/// A higher learning rate only destroys a network.
const MOST_RATE: f64 = 10.0;

/// The parameters of both tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The network. Its channels need not be told: they are those of the dataset.
    pub network: NetworkChoice,
    /// Names of the classes, one an output channel of the network; `object` for a single one unless told.
    #[serde(default)]
    pub classes: Vec<String>,
    /// What the network begins with: `none` (random weights), `imagenet` (torchvision's file, where PyTorch keeps it), or the
    /// path of a safetensors or PyTorch file or of a checkpoint folder. What does not fit (the first layer's channels, the last
    /// layer's classes) is adapted or stays random; other names are refused.
    #[serde(default)]
    pub weights: InitialWeights,
    /// How band values become network input; kept in the checkpoint.
    #[serde(default)]
    pub normalisation: NormaliseBy,
    /// What is made small. By default `focal_dice` for pixels of one class, `cross_entropy` otherwise.
    #[serde(default)]
    pub loss: Option<Loss>,
    /// AdamW.
    #[serde(default)]
    pub optimiser: Optimiser,
    /// How the learning rate changes.
    #[serde(default)]
    pub schedule: Schedule,
    /// How chips are varied while training.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// Most times that every chip is seen.
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 100_000))]
    pub epochs: u32,
    /// Chips computed at once.
    #[serde(default = "sixteen")]
    #[schemars(range(min = 1, max = 4096))]
    pub batch: usize,
    /// Batches whose gradients are averaged for one step of the optimiser.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 4096))]
    pub accumulate: usize,
    /// Longest that the gradient of all weights together may be; longer ones are shortened. `null`: as long as they are.
    #[serde(default = "default_clip")]
    #[schemars(range(min = 0.0))]
    pub clip: Option<f64>,
    /// Epochs in which the encoder stays as it is and the rest learns: for encoders that come with weights.
    #[serde(default)]
    pub freeze_epochs: u32,
    /// Epochs without a better score after which training stops.
    #[serde(default = "ten")]
    #[schemars(range(min = 1))]
    pub patience: u32,
    /// The score on validation that tells which epoch is best, when to stop, and the plateaus of the schedule.
    #[serde(default)]
    pub monitor: Monitor,
    /// What all random choices follow from.
    #[serde(default)]
    pub seed: u64,
    /// What computes: `auto` (a GPU that the step holds, else the CPU), `cpu`, or `cuda:0` and on.
    #[serde(default)]
    pub device: DeviceChoice,
    /// Numbers that the network computes with while training; its weights are 32-bit floats in any case.
    #[serde(default)]
    pub precision: Precision,
    /// How far from a known site a detection may lie and still have found it, in metres.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub site_distance: f64,
    /// Numbers K for which the share of sites among the K best detections is told.
    #[serde(default = "default_recall_at")]
    pub recall_at: Vec<usize>,
    /// Whom the training is told to, besides the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<TrackBy>,
}

fn fifty() -> u32 {
    50
}

fn sixteen() -> usize {
    16
}

fn one() -> usize {
    1
}

fn ten() -> u32 {
    10
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional parameter")]
fn default_clip() -> Option<f64> {
    Some(1.0)
}

fn default_recall_at() -> Vec<usize> {
    vec![10, 50, 100]
}

impl Settings {
    /// What types cannot say. `output` is what the task trains networks for.
    pub(crate) fn check(&self, output: Output) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self.tracking.iter().filter_map(TrackBy::check).collect();
        let network = &self.network.network;
        if let Err(error) = network.check() {
            problems.push(Problem::new("/network", error.to_string()));
        }
        if network.output() != output {
            let (is, task) = match output {
                Output::Pixels => ("one class for a whole image", "train.classification"),
                Output::Image => ("a class for every pixel", "train.segmentation"),
            };
            let help = format!("train it with `{task}`, or take another architecture");
            problems.push(Problem::new("/network", format!("this network tells {is}")).help(help));
        }
        let count = network.classes();
        if !self.classes.is_empty() && self.classes.len() != count {
            let message = format!("{} names for the {count} output channels of the network", self.classes.len());
            problems.push(Problem::new("/classes", message).help("one name a channel, in their order"));
        }
        let mut names: Vec<&String> = self.classes.iter().collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            problems.push(Problem::new("/classes", "two classes have the same name"));
        }
        if matches!(self.loss, Some(Loss::FocalDice { .. })) && (count > 1 || output == Output::Image) {
            let message = "`focal_dice` is for pixels that are of one class or not";
            problems.push(Problem::new("/loss", message).help("take `cross_entropy`"));
        }
        let mut least = |at: &str, value: f64, strict: bool, what: &str| {
            if !value.is_finite() || value < 0.0 || strict && value == 0.0 {
                problems.push(Problem::new(at, format!("it is {value}, which must be {what}")));
            }
        };
        least("/optimiser/learning_rate", self.optimiser.learning_rate, true, "above 0");
        least("/optimiser/weight_decay", self.optimiser.weight_decay, false, "0 or more");
        least("/augmentation/brightness", self.augmentation.brightness, false, "0 or more");
        least("/augmentation/noise", self.augmentation.noise, false, "0 or more");
        least("/site_distance", self.site_distance, false, "0 or more");
        if let Some(clip) = self.clip {
            least("/clip", clip, true, "above 0");
        }
        if let Schedule::Plateau { factor, .. } = self.schedule
            && !(factor > 0.0 && factor < 1.0)
        {
            let message = format!("it is {factor}, which must be above 0 and below 1");
            problems.push(Problem::new("/schedule/factor", message).help("0.5 halves the learning rate"));
        }
        if self.optimiser.learning_rate > MOST_RATE && self.optimiser.learning_rate.is_finite() {
            let message = format!("it is {:e}, which must be {MOST_RATE} or less", self.optimiser.learning_rate);
            problems.push(Problem::new("/optimiser/learning_rate", message).help("0.001 is usual with AdamW"));
        }
        if let Schedule::Cosine { warm_up: Some(warm_up), .. } = self.schedule
            && warm_up >= self.epochs
        {
            let message = format!("it is {warm_up}, and there are {} epochs: the rate would never fall", self.epochs);
            problems.push(Problem::new("/schedule/warm_up", message).help("leave it out, or choose fewer"));
        }
        if let NormaliseBy::Stretch { low, high } = self.normalisation
            && low.partial_cmp(&high) != Some(Ordering::Less)
        {
            let message = format!("`low` is {low} and `high` {high}: it must be lower");
            problems.push(Problem::new("/normalisation", message));
        }
        let mut at_least_one = |at: &str, value: usize| {
            if value == 0 {
                problems.push(Problem::new(at, "it is 0, which must be 1 or more"));
            }
        };
        at_least_one("/epochs", self.epochs as usize);
        at_least_one("/batch", self.batch);
        at_least_one("/accumulate", self.accumulate);
        at_least_one("/patience", self.patience as usize);
        for (place, most) in self.recall_at.iter().enumerate() {
            at_least_one(&format!("/recall_at/{place}"), *most);
        }
        problems
    }

    /// As it is told to others, to whom this machine's paths and who else is told are nothing: of a file only the name, and what
    /// followed from the epochs.
    pub(crate) fn told(&self) -> Self {
        let weights = match &self.weights {
            InitialWeights::Path(path) => {
                InitialWeights::Path(path.file_name().map_or_else(PathBuf::new, PathBuf::from))
            }
            word => word.clone(),
        };
        let schedule = match self.schedule {
            Schedule::Cosine { warm_up: None, least } => {
                Schedule::Cosine { warm_up: Some(warm_up(self.epochs)), least }
            }
            told => told,
        };
        Self { tracking: None, weights, schedule, ..self.clone() }
    }

    /// What is made small.
    pub(crate) fn loss(&self) -> Loss {
        let network = &self.network.network;
        let one = network.classes() == 1 && network.output() == Output::Pixels;
        self.loss.unwrap_or(if one { Loss::default() } else { Loss::CrossEntropy { smoothing: smoothing() } })
    }
}

/// How band values become network input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum NormaliseBy {
    /// Each band less its mean, divided by its standard deviation, both over the training side.
    #[default]
    Standard,
    /// Each band from 0 at one of its percentiles over the training side to 1 at another.
    Stretch {
        /// The lower percentile; the dataset has those that `dataset.split` measured.
        #[serde(default = "two")]
        low: f64,
        /// The upper one.
        #[serde(default = "ninety_eight")]
        high: f64,
    },
    /// As they are.
    None,
}

fn two() -> f64 {
    2.0
}

fn ninety_eight() -> f64 {
    98.0
}

/// What is made small.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Loss {
    /// Focal loss and half of Dice loss, for pixels of which few are positive.
    FocalDice {
        /// Weight of positives in the focal loss; negatives have the rest.
        #[serde(default = "alpha")]
        #[schemars(range(min = 0.0, max = 1.0))]
        alpha: f64,
        /// How much less the focal loss cares for what is told well: 0 is cross-entropy.
        #[serde(default = "gamma")]
        #[schemars(range(min = 0.0, max = 10.0))]
        gamma: f64,
        /// How far targets are moved towards one half.
        #[serde(default = "smoothing")]
        #[schemars(range(min = 0.0, max = 0.5))]
        smoothing: f64,
    },
    /// Cross-entropy; of a single class that of yes and no.
    CrossEntropy {
        /// How far targets are moved towards all classes alike.
        #[serde(default = "smoothing")]
        #[schemars(range(min = 0.0, max = 0.5))]
        smoothing: f64,
    },
}

impl Default for Loss {
    fn default() -> Self {
        let Focal { alpha, gamma, smoothing } = Focal::default();
        Self::FocalDice { alpha, gamma, smoothing }
    }
}

fn alpha() -> f64 {
    Focal::default().alpha
}

fn gamma() -> f64 {
    Focal::default().gamma
}

fn smoothing() -> f64 {
    Focal::default().smoothing
}

/// AdamW (Loshchilov and Hutter, 2019).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Optimiser {
    /// The learning rate that the schedule begins with or rises to; 10 at the most.
    pub learning_rate: f64,
    /// How much of each weight a step takes away, times the learning rate.
    pub weight_decay: f64,
}

impl Default for Optimiser {
    fn default() -> Self {
        Self { learning_rate: 1e-3, weight_decay: 1e-4 }
    }
}

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Lower whenever the score has not become better for a while: PyTorch's `ReduceLROnPlateau`.
    Plateau {
        /// Epochs without a better score that are waited for.
        #[serde(default = "five")]
        patience: u32,
        /// What the rate is multiplied with then.
        #[serde(default = "half")]
        #[schemars(range(min = 0.0, max = 1.0))]
        factor: f64,
        /// Lowest rate.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        least: f64,
    },
    /// Up in a line during the first epochs, then down in half a cosine until the last one.
    Cosine {
        /// Epochs that it rises, fewer than there are. Unless told 5; a third of them where there are 5 or fewer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        warm_up: Option<u32>,
        /// Rate at the end.
        #[serde(default)]
        #[schemars(range(min = 0.0))]
        least: f64,
    },
    /// As it is.
    Constant,
}

impl Default for Schedule {
    fn default() -> Self {
        Self::Plateau { patience: five(), factor: half(), least: 0.0 }
    }
}

/// Epochs that a rate rises of which nothing is told.
pub(crate) fn warm_up(epochs: u32) -> u32 {
    if epochs > five() { five() } else { epochs / 3 }
}

fn five() -> u32 {
    5
}

fn half() -> f64 {
    0.5
}

/// How chips are varied while training. Validation and test see them as they are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Turned by a multiple of 90 degrees.
    pub rotate: bool,
    /// Mirrored, left to right and top to bottom.
    pub flip: bool,
    /// Most that all bands of a chip are raised or lowered together, in normalised values.
    pub brightness: f64,
    /// Standard deviation of noise on every value, in normalised values.
    pub noise: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self { rotate: true, flip: true, brightness: 0.1, noise: 0.02 }
    }
}

/// A score on validation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Monitor {
    /// F1 at its best threshold; the mean over the classes where there are several.
    #[default]
    F1,
    /// IoU at that threshold; the mean over the classes where there are several.
    Iou,
    /// Area under the receiver operating characteristic.
    Auroc,
    /// The loss.
    Loss,
}

impl Monitor {
    /// The name of the score.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F1 => "f1",
            Self::Iou => "iou",
            Self::Auroc => "auroc",
            Self::Loss => "loss",
        }
    }
}

/// Numbers that a network computes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// `bf16` on GPUs, `f32` on CPUs.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats with the range of 32-bit ones, on GPUs.
    Bf16,
    /// 16-bit floats, on GPUs; the loss is scaled so that small gradients are not lost.
    F16,
}

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU that the step holds, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU.
    Cuda(u32),
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Cpu => serializer.serialize_str("cpu"),
            Self::Cuda(index) => serializer.collect_str(&format_args!("cuda:{index}")),
        }
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let index = text.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                let wrong = || format!("`{text}` is no device: it is `auto`, `cpu`, or `cuda:0` and on");
                index.map(Self::Cuda).ok_or_else(|| D::Error::custom(wrong()))
            }
        }
    }
}

impl JsonSchema for DeviceChoice {
    fn schema_name() -> Cow<'static, str> {
        "DeviceChoice".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]{1,3})?)$" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings(value: Value) -> Result<Settings, serde_json::Error> {
        serde_json::from_value(value)
    }

    #[test]
    fn a_network_alone_is_enough_and_its_channels_are_the_datasets() {
        let settings = settings(json!({"network": {"architecture": "unet"}})).unwrap();
        assert_eq!((settings.batch, settings.epochs, settings.patience), (16, 50, 10));
        assert_eq!(settings.loss(), Loss::FocalDice { alpha: 0.25, gamma: 2.0, smoothing: 0.05 });
        assert_eq!(settings.schedule, Schedule::Plateau { patience: 5, factor: 0.5, least: 0.0 });
        assert_eq!(settings.network.of_channels(7).unwrap().in_channels(), 7);
        let written = serde_json::to_value(&settings).unwrap();
        assert_eq!(written["network"], json!({"architecture": "unet", "encoder": "resnet34", "classes": 1}));
        assert_eq!(self::settings(written).unwrap(), settings);
        assert!(settings.check(Output::Pixels).is_empty());
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once() {
        let settings = settings(json!({
            "network": {"architecture": "convnext", "classes": 3}, "classes": ["a", "a"], "loss": {"kind": "focal_dice"},
            "optimiser": {"learning_rate": 0.0}, "batch": 0, "clip": -1.0, "recall_at": [5, 0],
            "schedule": {"kind": "plateau", "factor": 1.0}, "normalisation": {"method": "stretch", "low": 98.0, "high": 2.0}
        }));
        let problems = settings.unwrap().check(Output::Pixels);
        let at: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
        let first = ["/network", "/classes", "/classes", "/loss", "/optimiser/learning_rate", "/clip"];
        assert_eq!(at[..6], first, "{problems:?}");
        assert_eq!(at[6..], ["/schedule/factor", "/normalisation", "/batch", "/recall_at/1"], "{problems:?}");
    }

    #[test]
    fn a_rate_that_destroys_and_a_warm_up_that_never_ends_are_refused() {
        let at = |optimiser: Value, schedule: Value| -> Vec<String> {
            let network = json!({"architecture": "unet"});
            let given = json!({"network": network, "epochs": 5, "optimiser": optimiser, "schedule": schedule});
            settings(given).unwrap().check(Output::Pixels).into_iter().map(|problem| problem.at).collect()
        };
        let (usual, cosine) = (json!({}), json!({"kind": "cosine"}));
        assert_eq!(at(json!({"learning_rate": 1e40}), cosine.clone()), ["/optimiser/learning_rate"]);
        assert!(at(json!({"learning_rate": 10.0}), cosine).is_empty());
        assert_eq!(at(usual.clone(), json!({"kind": "cosine", "warm_up": 5})), ["/schedule/warm_up"]);
        assert!(at(usual, json!({"kind": "cosine", "warm_up": 4})).is_empty());
    }

    #[test]
    fn a_warm_up_of_which_nothing_is_told_leaves_epochs_to_fall_in() {
        for (epochs, wanted) in [(1, 0), (2, 0), (3, 1), (5, 1), (6, 5), (15, 5), (50, 5)] {
            let network = json!({"architecture": "unet"});
            let given = json!({"network": network, "epochs": epochs, "schedule": {"kind": "cosine"}});
            let told = settings(given).unwrap().told();
            assert_eq!(told.schedule, Schedule::Cosine { warm_up: Some(wanted), least: 0.0 }, "{epochs}");
        }
    }

    #[test]
    fn devices_are_words() {
        let device = |text: &str| serde_json::from_value::<DeviceChoice>(json!(text));
        assert_eq!(device("cuda:2").unwrap(), DeviceChoice::Cuda(2));
        assert!(device("gpu").unwrap_err().to_string().contains("`cuda:0` and on"));
    }

    #[test]
    fn the_schema_does_not_ask_for_channels() {
        let schema = serde_json::to_value(schemars::schema_for!(Settings)).unwrap();
        let network = &schema["$defs"]["NetworkChoice"]["oneOf"][0];
        assert_eq!(network["required"], json!(["architecture"]), "{schema}");
        assert_eq!(schema["required"], json!(["network"]));
    }
}
