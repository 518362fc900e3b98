//! The task `model.describe`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_kinds::{Model as ModelFolder, ModelManifest};
use swath_task::{Artifact, Bytes, Context, LocalPath, Needs, Purity, Task, TaskError};

/// Tells what a model says of itself: its version, its bands, and how well it did on the chips that it was tested on.
///
/// Of a model repository (`model: REPOSITORY/NAME`) it is the version that is served.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Describe {
    /// Model folder. Leave it out when the model comes through the `model` input.
    #[serde(default)]
    pub model: Option<LocalPath>,
}

/// What `model.describe` reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DescribeInputs {
    /// The model, when a step before made it.
    #[serde(default)]
    pub model: Option<Artifact<ModelFolder>>,
}

/// What `model.describe` tells.
#[derive(Debug, Serialize, JsonSchema)]
pub struct DescribeOutputs {
    /// What the model is called.
    pub name: String,
    /// Its version.
    pub version: u32,
    /// What it finds, in a sentence.
    pub about: String,
    /// Digest of the network.
    pub digest: String,
    /// Names of its classes.
    pub classes: Vec<String>,
    /// The bands that it takes, in order.
    pub bands: Vec<String>,
    /// The probability from which a pixel is best taken for positive: with the best F1 on the validation side. One half where that
    /// is not known.
    pub threshold: f64,
    /// Its scores on the test side, by name; empty where nothing is known of its training.
    pub test: BTreeMap<String, f64>,
    /// The run that trained it, in the tracking server or folder.
    pub run: Option<String>,
}

impl Task for Describe {
    const NAME: &'static str = "model.describe";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = DescribeInputs;
    type Outputs = DescribeOutputs;

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(16))
    }

    fn reads(&self) -> Vec<PathBuf> {
        self.model.iter().map(|path| path.0.clone()).collect()
    }

    async fn run(&self, inputs: DescribeInputs, ctx: &Context) -> Result<DescribeOutputs, TaskError> {
        let folder = ModelFolder::given(Self::NAME, self.model.as_ref(), inputs.model.as_ref(), ctx).await?;
        let manifest = ctx.blocking(move |_| Ok(ModelManifest::of_folder(&folder)?)).await?;
        let training = manifest.training;
        Ok(DescribeOutputs {
            name: manifest.name,
            version: manifest.version,
            about: manifest.about,
            digest: manifest.digest.to_string(),
            classes: manifest.classes,
            bands: manifest.bands.into_iter().map(|band| band.name).collect(),
            run: training.as_ref().and_then(|training| training.run.clone()),
            threshold: training
                .as_ref()
                .and_then(|training| training.validation.get("threshold").copied())
                .unwrap_or(0.5),
            test: training.map(|training| training.test).unwrap_or_default(),
        })
    }
}
