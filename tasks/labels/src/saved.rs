//! `dataset.save` and `dataset.open`: a dataset with its chip sets in a folder of the user's, for another run, another machine
//! or another program.
//!
//! The folder holds `dataset.json` and the chip sets in `chips-00`, `chips-01` and so on, as `docs/datasets.md` tells them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use swath_datasets::{ChipSet, Dataset, DatasetManifest, SideName};
use swath_kinds::{ChipSetFolder, DatasetFile};
use swath_task::{Artifact, Bytes, Context, Digest, Fault, LocalPath, Needs, Purity, Task, TaskError};

use crate::faults::{fault, set_fault};

/// Name of the dataset file in the folder.
const DATASET: &str = "dataset.json";
/// What one of the folder's chip sets is called, before its number.
const CHIPS: &str = "chips-";

/// Puts a dataset and its chip sets into a folder, where `dataset.open` finds them.
///
/// A dataset that was there is replaced as a whole: the folder holds the old one or the new one, whenever it is looked at or the
/// machine fails. A folder that holds anything else is refused.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveDataset {
    /// The folder. It is made when missing.
    pub path: LocalPath,
}

/// What is saved.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SaveInputs {
    /// The dataset.
    pub dataset: Artifact<DatasetFile>,
    /// Its chip sets.
    pub chips: Vec<Artifact<ChipSetFolder>>,
}

/// Where it is.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SaveOutputs {
    /// The folder.
    pub path: String,
    /// Digest of the dataset file.
    pub digest: String,
}

impl Task for SaveDataset {
    const NAME: &'static str = "dataset.save";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Lasting;
    const NATIVE: bool = true;
    type Inputs = SaveInputs;
    type Outputs = SaveOutputs;

    fn stands(&self, outputs: &Value) -> bool {
        let whole = Opened::of(&self.path.0).is_ok();
        whole && digest_of(&self.path.0.join(DATASET)).is_ok_and(|digest| outputs["digest"] == digest.to_string())
    }

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(64))
    }

    async fn run(&self, inputs: SaveInputs, ctx: &Context) -> Result<SaveOutputs, TaskError> {
        let dataset = ctx.locate(&inputs.dataset).await?;
        let mut sets = Vec::new();
        for chips in &inputs.chips {
            sets.push(ctx.locate(chips).await?);
        }
        let folder = self.path.0.clone();
        ctx.blocking(move |ctx| save(&dataset, &sets, &folder, ctx)).await
    }
}

fn save(dataset: &Path, sets: &[PathBuf], folder: &Path, ctx: &Context) -> Result<SaveOutputs, TaskError> {
    let failed = |error: io::Error| write_fault(folder, &error);
    if !is_free(folder).map_err(failed)? {
        let message = format!("`{}` holds something else than a dataset", folder.display());
        return Err(fault("L140", message, "give `path` a folder of its own"));
    }
    // What cannot be read back is not put in place of what can.
    Dataset::open(dataset, sets).map_err(set_fault)?;
    let above = folder.parent().filter(|above| *above != Path::new("")).unwrap_or(Path::new("."));
    std::fs::create_dir_all(above).map_err(failed)?;
    let hidden = tempfile::Builder::new().prefix(".swath-").tempdir_in(above).map_err(failed)?;
    let made = hidden.path().join("new");
    std::fs::create_dir(&made).map_err(failed)?;
    copy(dataset, &made.join(DATASET), ctx, &failed)?;
    for (number, set) in sets.iter().enumerate() {
        copy_set(set, &made.join(format!("{CHIPS}{number:02}")), ctx, &failed)?;
    }
    let digest = digest_of(&made.join(DATASET)).map_err(failed)?;
    File::open(&made).and_then(|made| made.sync_all()).map_err(failed)?;
    if folder.exists() {
        std::fs::rename(folder, hidden.path().join("old")).map_err(failed)?;
    }
    std::fs::rename(&made, folder).and_then(|()| File::open(above)?.sync_all()).map_err(failed)?;
    Ok(SaveOutputs { path: folder.display().to_string(), digest: digest.to_string() })
}

/// Whether a dataset may be put there: nothing is, or a dataset.
fn is_free(folder: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        entries => entries?,
    };
    for entry in entries {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name != DATASET && !name.starts_with(CHIPS) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes a dataset and its chip sets from a folder, where `dataset.save` or a person put them.
///
/// The folder holds `dataset.json` and its chip sets, a folder each. Which chip set is which is known by their digests;
/// others may lie beside them. Every shard of its sets is read and compared with the digest in the manifest.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenDataset {
    /// The folder.
    pub path: LocalPath,
}

/// Nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenInputs {}

/// What was there.
#[derive(Debug, Serialize, JsonSchema)]
pub struct OpenOutputs {
    /// The dataset.
    pub dataset: Artifact<DatasetFile>,
    /// Its chip sets, as the dataset has them in order.
    pub chips: Vec<Artifact<ChipSetFolder>>,
    /// Chips that train.
    pub train: u64,
    /// Chips that validate.
    pub validation: u64,
    /// Chips that test.
    pub test: u64,
}

impl Task for OpenDataset {
    const NAME: &'static str = "dataset.open";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = OpenInputs;
    type Outputs = OpenOutputs;

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(64))
    }

    fn reads(&self) -> Vec<PathBuf> {
        vec![self.path.0.clone()]
    }

    async fn run(&self, _: OpenInputs, ctx: &Context) -> Result<OpenOutputs, TaskError> {
        let folder = self.path.0.clone();
        let opened = ctx.blocking(move |_| Opened::of(&folder)).await?;
        let dataset = ctx.draft::<DatasetFile>(DATASET)?;
        let (from, to) = (self.path.0.join(DATASET), dataset.path().to_owned());
        ctx.blocking(move |ctx| copy(&from, &to, ctx, &|error| read_fault(&from, &error))).await?;
        let mut chips = Vec::with_capacity(opened.sets.len());
        for (number, from) in opened.sets.into_iter().enumerate() {
            let set = ctx.draft::<ChipSetFolder>(&format!("{CHIPS}{number:02}"))?;
            let to = set.path().to_owned();
            ctx.blocking(move |ctx| copy_set(&from, &to, ctx, &|error| read_fault(&from, &error))).await?;
            chips.push(set.commit().await?);
        }
        let count = |side: SideName| opened.manifest.sides.get(side).chips.len() as u64;
        let [train, validation, test] = SideName::ALL.map(count);
        Ok(OpenOutputs { dataset: dataset.commit().await?, chips, train, validation, test })
    }
}

/// A folder with a dataset that is whole.
struct Opened {
    manifest: DatasetManifest,
    /// Folders of its chip sets, in its order.
    sets: Vec<PathBuf>,
}

impl Opened {
    fn of(folder: &Path) -> Result<Self, TaskError> {
        let failed = |error: io::Error| read_fault(folder, &error);
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.join(swath_datasets::MANIFEST).is_file() {
                folders.push(path);
            }
        }
        folders.sort();
        let dataset = Dataset::open(&folder.join(DATASET), &folders).map_err(set_fault)?;
        // What comes from a step is checked by the artifact store; here a person, a disk or a copy may have changed it.
        dataset.sets().iter().try_for_each(ChipSet::verify).map_err(set_fault)?;
        let wanted = dataset.manifest().sets.iter().map(|set| set.digest);
        let mut known = Vec::new();
        for path in folders {
            let manifest = path.join(swath_datasets::MANIFEST);
            known.push((digest_of(&manifest).map_err(|error| read_fault(&manifest, &error))?, path));
        }
        let place = |digest: Digest| known.iter().find(|known| known.0 == digest).map(|known| known.1.clone());
        Ok(Self { sets: wanted.filter_map(place).collect(), manifest: dataset.manifest().clone() })
    }
}

/// What an error is called where it happens.
type Failed<'a> = &'a dyn Fn(io::Error) -> TaskError;

/// Copies the files of a chip set into a folder, which is made when missing.
fn copy_set(from: &Path, to: &Path, ctx: &Context, failed: Failed<'_>) -> Result<(), TaskError> {
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        copy(&entry.path(), &to.join(entry.file_name()), ctx, failed)?;
    }
    File::open(to).and_then(|to| to.sync_all()).map_err(failed)
}

/// Copies a file, durably.
fn copy(from: &Path, to: &Path, ctx: &Context, failed: Failed<'_>) -> Result<(), TaskError> {
    ctx.check_cancelled()?;
    std::fs::copy(from, to).and_then(|_| File::open(to)?.sync_all()).map_err(failed)
}

fn digest_of(path: &Path) -> io::Result<Digest> {
    Ok(Digest::of_reader(File::open(path)?)?.0)
}

fn read_fault(path: &Path, error: &io::Error) -> TaskError {
    let message = format!("the dataset in `{}` cannot be read: {error}", path.display());
    fault("L141", message, "give `path` the folder that `dataset.save` made: it holds `dataset.json` and its chip sets")
}

fn write_fault(path: &Path, error: &io::Error) -> TaskError {
    let message = format!("the dataset cannot be written to `{}`: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Fault::new("L142", message).help("free disk space, then resume the run").transient(None)
        }
        _ => fault("L142", message, "give `path` a place that may be written"),
    }
}
