//! A model repository in Triton's layout, with versions that stay.
//!
//! ```text
//! NAME/manifest.json, config.pbtxt, card.md      of the version that is promoted
//! NAME/VERSION/model.onnx, weights.safetensors, manifest.json, config.pbtxt, card.md, MLmodel
//! ```
//!
//! Invariants:
//! 1. A version appears whole, by one rename, and is never written to again. A model appears with its first version.
//! 2. Nothing unfinished lies in the repository at any time: a server that looks for models finds models. What is made is made
//!    beside it, on the same file system.
//! 3. One publisher at a time, by a lock on the repository's folder; one that died leaves nothing that the next one keeps.
//! 4. `config.pbtxt`, `card.md` and `manifest.json` of a model are replaced one after the other, each at once. Who comes in
//!    between sees two versions, both of which are there.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use swath_kinds::{ModelManifest, WeightsFile};
use swath_task::{Context, Digest, Fault, TaskError};

use crate::folder::{CARD, CONFIG, MANIFEST, MLMODEL, NETWORK, Unwritten, WEIGHTS, at, json};
use crate::mlmodel::mlmodel;
use crate::pbtxt::{PLAIN, configured};

/// How often a publisher that waits for its turn looks again.
const TURN: Duration = Duration::from_millis(20);

/// A repository that one publisher has to itself until it is dropped.
pub(crate) struct Repository {
    path: PathBuf,
    making: PathBuf,
    handle: File,
}

/// A model folder on its way into a repository.
pub(crate) struct Incoming<'a> {
    /// Where it lies.
    pub folder: &'a Path,
    /// Its manifest.
    pub manifest: &'a ModelManifest,
    /// What it is called in the repository.
    pub name: &'a str,
}

impl Repository {
    /// The repository at `path`, made when missing; what is made for it is made in `beside`. Waits for its turn, and stops
    /// waiting when the attempt is cancelled.
    pub fn open(path: &Path, beside: Option<&Path>, ctx: &Context) -> Result<Self, TaskError> {
        at(path, fs::create_dir_all(path)).map_err(unwritten)?;
        let path = at(path, path.canonicalize()).map_err(unwritten)?;
        // Windows aside, a folder can be opened and locked like a file: no lock file is left behind.
        let handle = at(&path, File::open(&path)).map_err(unwritten)?;
        loop {
            match handle.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    ctx.check_cancelled()?;
                    std::thread::sleep(TURN);
                }
                Err(TryLockError::Error(error)) => return Err(unwritten(Unwritten { path, source: error })),
            }
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let making = match beside {
            // Other repositories may have the same staging folder, and be called the same.
            Some(beside) => {
                let own = Digest::of(path.as_os_str().as_encoded_bytes()).hex();
                beside.join(format!(".{}.{name}.publishing", &own[..8]))
            }
            None => path.parent().unwrap_or(&path).join(format!(".{name}.publishing")),
        };
        let fresh = empty(&making).and_then(|()| fs::create_dir_all(&making));
        at(&making, fresh).map_err(unwritten)?;
        Ok(Self { path, making, handle })
    }

    /// The manifest of the promoted version; nothing when there is no such model. `M153` when something else is called so.
    pub fn promoted(&self, name: &str) -> Result<Option<ModelManifest>, Fault> {
        let folder = self.path.join(name);
        let mut entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(no_model(&folder, &error.to_string())),
        };
        if entries.next().is_none() {
            return Ok(None);
        }
        if !folder.join(MANIFEST).exists() {
            return Err(no_model(&folder, "it has no `manifest.json`"));
        }
        ModelManifest::of_folder(&folder).map(Some)
    }

    /// The versions of a model and their manifests, oldest first. `None`: the folder of a version without a manifest.
    pub fn versions(&self, name: &str) -> Result<Vec<(u32, Option<ModelManifest>)>, Fault> {
        let Some(promoted) = self.promoted(name)? else { return Ok(Vec::new()) };
        let folder = self.path.join(name);
        let entries = fs::read_dir(&folder).map_err(|error| no_model(&folder, &error.to_string()))?;
        // As Triton sees it: folders named by a number that does not begin with 0.
        let number = |name: &str| name.parse::<u32>().ok().filter(|number| number.to_string() == name && *number > 0);
        let mut found: Vec<u32> =
            entries.flatten().filter_map(|entry| number(&entry.file_name().to_string_lossy())).collect();
        found.sort_unstable();
        let manifest = |version: u32| -> Result<_, Fault> {
            let folder = folder.join(version.to_string());
            if folder.join(MANIFEST).exists() {
                return Ok((version, Some(placed(&ModelManifest::of_folder(&folder)?, name, version))));
            }
            Ok((
                version,
                Some(placed(&promoted, name, version)).filter(|manifest| manifest.version == promoted.version),
            ))
        };
        found.into_iter().map(manifest).collect()
    }

    /// Adds a version, and promotes it when it is the model's first. The version must not be there.
    pub fn add(&self, new: &Incoming<'_>, version: u32) -> Result<(), TaskError> {
        let made = self.making.join("version");
        at(&made, empty(&made).and_then(|()| fs::create_dir(&made))).map_err(unwritten)?;
        let bring = |from: PathBuf, name: &str| {
            let to = made.join(name);
            at(&to, fs::copy(&from, &to).map(drop)).map_err(unwritten)
        };
        bring(new.folder.join(&new.manifest.file), NETWORK)?;
        if let Some(weights) = &new.manifest.checkpoint {
            bring(new.folder.join(&weights.file), WEIGHTS)?;
        }
        if new.folder.join(CARD).exists() {
            bring(new.folder.join(CARD), CARD)?;
        }
        let config = configured(&told(new.folder)?, new.name, version);
        let manifest = unplaced(&placed(new.manifest, new.name, version));
        let write =
            |name: &str, content: &[u8]| at(&made.join(name), fs::write(made.join(name), content)).map_err(unwritten);
        write(CONFIG, config.as_bytes())?;
        write(MLMODEL, mlmodel(&manifest).as_bytes())?;
        write(MANIFEST, &json(&manifest))?;
        at(&made, synced(&made)).map_err(unwritten)?;

        let model = self.path.join(new.name);
        if self.promoted(new.name)?.is_some() {
            let place = model.join(version.to_string());
            // A folder is renamed over none that holds something: this can add a version, never change one.
            at(&place, fs::rename(&made, &place).and_then(|()| File::open(&model)?.sync_all())).map_err(unwritten)?;
            return Ok(());
        }
        let whole = self.making.join("model");
        at(&whole, empty(&whole).and_then(|()| fs::create_dir(&whole))).map_err(unwritten)?;
        let inside = whole.join(version.to_string());
        at(&inside, fs::rename(&made, &inside)).map_err(unwritten)?;
        for (name, content) in shown(&inside, new.name, version)? {
            if let Some(content) = content {
                at(&whole.join(name), fs::write(whole.join(name), content)).map_err(unwritten)?;
            }
        }
        let appear = synced(&whole).and_then(|()| fs::rename(&whole, &model)).and_then(|()| self.handle.sync_all());
        at(&model, appear).map_err(unwritten)
    }

    /// Makes a version the one that is served.
    pub fn promote(&self, name: &str, version: u32) -> Result<(), TaskError> {
        let model = self.path.join(name);
        self.keep_promoted(name)?;
        for (file, content) in shown(&model.join(version.to_string()), name, version)? {
            let place = model.join(file);
            match content {
                Some(content) => self.place(&place, &content)?,
                None => at(&place, absent(fs::remove_file(&place))).map_err(unwritten)?,
            }
        }
        at(&model, File::open(&model).and_then(|model| model.sync_all())).map_err(unwritten)
    }

    /// Gives the promoted version files of its own, where a person put it there without.
    fn keep_promoted(&self, name: &str) -> Result<(), TaskError> {
        let Some(manifest) = self.promoted(name)? else { return Ok(()) };
        let model = self.path.join(name);
        let folder = model.join(manifest.version.to_string());
        if !folder.is_dir() || folder.join(MANIFEST).exists() {
            return Ok(());
        }
        // Of a configuration that names no version Triton serves the newest one, which it is no longer.
        self.place(&folder.join(CONFIG), configured(&told(&model)?, name, manifest.version).as_bytes())?;
        if let Ok(content) = fs::read(model.join(CARD)) {
            self.place(&folder.join(CARD), &content)?;
        }
        self.place(&folder.join(MANIFEST), &json(&unplaced(&manifest)))
    }

    /// Replaces a file at once, unless it is so already: servers look at the time of its last change.
    fn place(&self, file: &Path, content: &[u8]) -> Result<(), TaskError> {
        if fs::read(file).is_ok_and(|now| now == content) {
            return Ok(());
        }
        let made = self.making.join("file");
        let write = fs::write(&made, content).and_then(|()| File::open(&made)?.sync_all());
        at(file, write.and_then(|()| fs::rename(&made, file))).map_err(unwritten)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        // What stays is taken away by the next publisher.
        let _ = fs::remove_dir_all(&self.making);
    }
}

/// The manifest of the same network as this version of the model `name`, seen from the model's folder.
pub(crate) fn placed(manifest: &ModelManifest, name: &str, version: u32) -> ModelManifest {
    let inside = |file: &str| format!("{version}/{file}");
    at_place(ModelManifest { name: name.to_owned(), version, ..manifest.clone() }, &inside)
}

/// The same manifest, seen from the folder of its version, which is a model folder, too.
fn unplaced(manifest: &ModelManifest) -> ModelManifest {
    at_place(manifest.clone(), &str::to_owned)
}

fn at_place(manifest: ModelManifest, place: &dyn Fn(&str) -> String) -> ModelManifest {
    let weights = |weights: WeightsFile| WeightsFile { file: place(WEIGHTS), ..weights };
    let checkpoint = manifest.checkpoint.map(weights);
    ModelManifest { file: place(NETWORK), checkpoint, ..manifest }
}

/// The name of a file, and its content; none where there is no such file.
type Shown = (&'static str, Option<Vec<u8>>);

/// What a model shows of a version: its files in the order in which they are replaced.
fn shown(version: &Path, name: &str, number: u32) -> Result<[Shown; 3], TaskError> {
    let manifest = placed(&ModelManifest::of_folder(version)?, name, number);
    let card = match fs::read(version.join(CARD)) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        read => Some(at(&version.join(CARD), read).map_err(unwritten)?),
    };
    let config = configured(&told(version)?, name, number).into_bytes();
    Ok([(CONFIG, Some(config)), (CARD, card), (MANIFEST, Some(json(&manifest)))])
}

/// What a model folder tells Triton.
fn told(folder: &Path) -> Result<String, Fault> {
    match fs::read_to_string(folder.join(CONFIG)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(PLAIN.to_owned()),
        read => read.map_err(|error| no_model(folder, &format!("`{CONFIG}`: {error}"))),
    }
}

fn empty(folder: &Path) -> io::Result<()> {
    absent(fs::remove_dir_all(folder))
}

/// What is not there need not be removed.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Makes a folder with all it holds durable.
fn synced(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { synced(&path)? } else { File::open(&path)?.sync_all()? }
    }
    File::open(folder)?.sync_all()
}

fn no_model(folder: &Path, reason: &str) -> Fault {
    Fault::new("M153", format!("`{}` is no model that versions can be added to: {reason}", folder.display()))
        .help("publish under another `name`, or move the folder away")
}

/// A file that could not be written, as a fault of the step.
pub(crate) fn unwritten(error: Unwritten) -> TaskError {
    let fault = Fault::new("M152", error.to_string());
    match error.source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            fault.help("free disk space, then resume the run").transient(None)
        }
        ErrorKind::CrossesDevices | ErrorKind::PermissionDenied => fault
            .help("set `staging` to a folder that may be written to, on the file system of the repository")
            .permanent(),
        _ => fault.help("give the model a place that may be written to").permanent(),
    }
}
