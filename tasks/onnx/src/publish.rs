//! The task `model.publish`.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path};
use std::time::SystemTime;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_kinds::{Model as ModelFolder, ModelManifest};
use swath_onnxruntime::{Refusal, inspect};
use swath_task::{Artifact, Bytes, Context, Digest, Fault, LocalPath, Needs, Problem, Purity, Task, TaskError};
use swath_tracking::TrackBy;

use crate::folder::{self, NETWORK};
use crate::register::{Published, check_alias};
use crate::repository::{Incoming, Repository, placed};
use crate::score::{Bound, Promote, unmet};

/// Puts a model into a model repository, as a version that stays, when its test scores are good enough.
///
/// The repository has Triton's layout: `NAME/VERSION/model.onnx`, and `NAME/config.pbtxt`, `NAME/manifest.json` and
/// `NAME/card.md` of the version that is served. A server that polls it never sees half a model. The same model is published
/// once: published again, it is found there. With `tracking` it becomes a version of a registered model in MLflow, too.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The folder of the repository; made when missing.
    pub repository: LocalPath,
    /// What the model is called there. Default: its own name.
    #[serde(default)]
    #[schemars(length(min = 1, max = 100))]
    pub name: Option<String>,
    /// The version. Default: the next one, or the one that holds this model already.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub version: Option<u32>,
    /// What its test scores must be, or nothing is published: `{ f1: 0.8, ece: { at_most: 0.1 } }`. A number is the least
    /// that the score may be.
    #[serde(default)]
    pub require: BTreeMap<String, Bound>,
    /// When it becomes the version that is served: `always`, `never`, or `{ better: f1 }` when that test score is higher than
    /// that of the version served now. The first version is served in any case.
    #[serde(default)]
    pub promote: Promote,
    /// Where new versions are made before they appear, on the repository's file system and out of its servers' sight. Default:
    /// the folder that the repository lies in.
    #[serde(default)]
    pub staging: Option<LocalPath>,
    /// Where it becomes a version of a registered model, as `tracking` of a training step has it. Left out: nowhere. A server
    /// that is down is told later, and keeps nothing from being published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<TrackBy>,
    /// The alias that points there to the version that is served.
    #[serde(default = "champion")]
    #[schemars(length(min = 1, max = 255))]
    pub alias: String,
}

fn champion() -> String {
    "champion".to_owned()
}

/// What `model.publish` reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublishInputs {
    /// The model, as `onnx.export` makes it.
    pub model: Artifact<ModelFolder>,
}

/// What `model.publish` tells.
#[derive(Debug, Serialize, JsonSchema)]
pub struct PublishOutputs {
    /// What the model is called in the repository.
    pub name: String,
    /// Its version there.
    pub version: u32,
    /// Whether this version is the one that is served.
    pub promoted: bool,
    /// The folder of the version.
    pub folder: String,
    /// Digest of the network.
    pub digest: String,
    /// Its number among the versions of the registered model in MLflow; none where it is not told there, or waits to be.
    pub registered: Option<u32>,
}

impl Task for Publish {
    const NAME: &'static str = "model.publish";
    const VERSION: u32 = 3;
    const PURITY: Purity = Purity::Lasting;
    const NATIVE: bool = true;
    type Inputs = PublishInputs;
    type Outputs = PublishOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if let Some(name) = &self.name
            && !folder::is_name(name)
        {
            let message = format!("`{name}` cannot be the name of a model folder");
            problems.push(Problem::new("/name", message).help(folder::NAME_RULE));
        }
        if self.version == Some(0) {
            problems.push(Problem::new("/version", "`version` is 0").help("versions begin with 1"));
        }
        if self.staging.as_ref().is_some_and(|staging| staging.0.starts_with(&self.repository.0)) {
            let message = "`staging` lies in the repository, where servers would see what is not finished";
            problems.push(Problem::new("/staging", message).help("name a folder beside it"));
        }
        problems.extend(self.tracking.as_ref().and_then(TrackBy::check));
        problems.extend(check_alias(&self.alias));
        for (score, bound) in &self.require {
            let (least, most) = bound.limits();
            let numbers = least.iter().chain(&most).all(|limit| limit.is_finite());
            let possible = (least.is_some() || most.is_some()) && least.unwrap_or(f64::MIN) <= most.unwrap_or(f64::MAX);
            if !(numbers && possible) {
                let message = format!("`require` asks of `{score}` what no score can be");
                problems.push(
                    Problem::new(format!("/require/{score}"), message)
                        .help("give a number, or `at_least` and `at_most`"),
                );
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn stands(&self, outputs: &serde_json::Value) -> bool {
        let folder = outputs["folder"].as_str().map(Path::new);
        let digest = |folder: &Path| File::open(folder.join(NETWORK)).and_then(Digest::of_reader);
        let network = folder.and_then(|folder| digest(folder).ok());
        // Whether it is served is part of it: to go back to a version is to publish it again.
        let served = folder.and_then(Path::parent).and_then(|model| ModelManifest::of_folder(model).ok());
        let served = served.is_some_and(|served| outputs["version"] == served.version);
        network.is_some_and(|(digest, _)| outputs["digest"] == digest.to_string()) && outputs["promoted"] == served
    }

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(256))
    }

    async fn run(&self, inputs: PublishInputs, ctx: &Context) -> Result<PublishOutputs, TaskError> {
        let folder = ctx.locate(&inputs.model).await?;
        let settings = self.clone();
        ctx.blocking(move |ctx| settings.publish(&folder, ctx)).await
    }
}

impl Publish {
    fn publish(&self, folder: &Path, ctx: &Context) -> Result<PublishOutputs, TaskError> {
        let manifest = checked(folder)?;
        let name = self.name.as_deref().unwrap_or(&manifest.name);
        if !folder::is_name(name) {
            let message = format!("the model is called `{name}`, which cannot be the name of a folder");
            return Err(Fault::new("M153", message).help(folder::NAME_RULE).permanent());
        }
        let unmet = unmet(&self.require, &manifest);
        if !unmet.is_empty() {
            let message = format!("the model `{name}` is not published: {}", unmet.join("; "));
            return Err(Fault::new("M150", message)
                .help(
                    "train longer or on more, or lower `require`; the scores are those on the test side of the dataset",
                )
                .permanent());
        }

        let repository = Repository::open(&self.repository.0, self.staging.as_ref().map(AsRef::as_ref), ctx)?;
        let versions = repository.versions(name)?;
        let served = repository.promoted(name)?;
        let version = self.choose(&versions, &manifest, name)?;
        let is_there = versions.iter().any(|(found, _)| *found == version);
        if !is_there {
            ctx.check_cancelled()?;
            repository.add(&Incoming { folder, manifest: &manifest, name }, version)?;
        }
        let is_served = |served: &ModelManifest| served.version == version;
        let promote = served.as_ref().is_some_and(|now| !is_served(now) && self.promote.decides(&manifest, now));
        if promote {
            repository.promote(name, version)?;
        }
        let promoted = promote || served.as_ref().is_none_or(is_served);
        let since = SystemTime::now();
        // The next publisher need not wait for a tracking server.
        drop(repository);
        tracing::info!(name, version, promoted, is_there, "published");
        let folder = self.repository.0.join(name).join(version.to_string());
        let published = Published {
            manifest: &placed(&manifest, name, version),
            folder: &folder,
            alias: promoted.then_some(self.alias.as_str()),
            since,
        };
        let registered = self.tracking.as_ref().and_then(|by| published.register(by, ctx));
        Ok(PublishOutputs {
            name: name.to_owned(),
            version,
            promoted,
            folder: folder.display().to_string(),
            digest: manifest.digest.to_string(),
            registered,
        })
    }

    /// The version that the model is, or becomes. `M151` when it is another model's.
    fn choose(
        &self,
        versions: &[(u32, Option<ModelManifest>)],
        manifest: &ModelManifest,
        name: &str,
    ) -> Result<u32, Fault> {
        let same = |(version, found): &&(u32, Option<ModelManifest>)| {
            found.as_ref().is_some_and(|found| *found == placed(manifest, name, *version))
        };
        let Some(wanted) = self.version else {
            let found = versions.iter().find(same).map(|(version, _)| *version);
            return Ok(found.unwrap_or_else(|| versions.last().map_or(1, |(last, _)| last + 1)));
        };
        let there = versions.iter().find(|(version, _)| *version == wanted);
        if there.is_none_or(|there| same(&there)) {
            return Ok(wanted);
        }
        let digest = there.and_then(|(_, found)| Some(found.as_ref()?.digest.to_string()));
        let message = format!(
            "version {wanted} of `{name}` is another model: its network is `{}`, not `{}`",
            digest.as_deref().unwrap_or("unknown"),
            manifest.digest
        );
        Err(Fault::new("M151", message).help("leave `version` out to publish as the next one; versions never change"))
    }
}

/// The manifest of a model folder whose files are the ones that it tells of.
fn checked(folder: &Path) -> Result<ModelManifest, Fault> {
    let manifest = ModelManifest::of_folder(folder)?;
    let wrong = |reason: String| {
        let path = folder.join(folder::MANIFEST);
        Fault::new("M102", format!("the manifest `{}` is wrong: {reason}", path.display()))
            .help("docs/model-folder.md tells every field")
    };
    manifest.check().map_err(|contradiction| wrong(contradiction.to_string()))?;
    let files = [Some((&manifest.file, manifest.digest)), manifest.checkpoint.as_ref().map(|it| (&it.file, it.digest))];
    for (file, told) in files.into_iter().flatten() {
        if file.is_empty() || !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(wrong(format!("`{file}` is not a path below the model folder")));
        }
        let path = folder.join(file);
        let (digest, _) = File::open(&path).and_then(Digest::of_reader).map_err(|error| {
            Fault::new("M101", format!("cannot read `{}`: {error}", path.display()))
                .help("the manifest names files of the model folder, relative to itself")
        })?;
        if digest != told {
            let message = format!(
                "`{}` is not the file the manifest tells of: its digest is `{digest}`, not `{told}`",
                path.display()
            );
            return Err(Fault::new("M103", message)
                .help("restore the file, or export the model again so that manifest and network match"));
        }
    }
    let path = folder.join(&manifest.file);
    let network = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
    inspect(&network).map_err(|refusal| {
        let code = if matches!(refusal, Refusal::External { .. } | Refusal::Compiled { .. }) { "M105" } else { "M104" };
        Fault::new(code, format!("the network `{}` is refused: {refusal}", path.display()))
            .help("export the model again: the network must be one whole `.onnx` file with its weights inside")
    })?;
    Ok(manifest)
}
