//! The folder that all attempts of a training share: the state after each of the last two epochs, and the weights of the best.
//!
//! ```text
//! best/epoch-00003.safetensors
//! state-00006/  progress · model.bpk · optimiser.bpk · seal.json
//! state-00007/
//! ```
//!
//! A state is written beside, synced and renamed. Its seal holds the digests of its files and of the best weights it tells of:
//! one that is damaged is passed over for the one before it, and a training without any begins again.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::{ModuleOptimizer, OptimizerRecord};
use burn::store::ModuleRecord;
use serde::{Deserialize, Serialize};
use swath_nets::Model;
use swath_task::{Digest, TaskError};

use super::{Best, Progress};
use crate::faults::{of_weights, unwritable};

/// States that are kept.
const STATES: usize = 2;
const PROGRESS: &str = "progress";
const MODEL: &str = "model.bpk";
const OPTIMISER: &str = "optimiser.bpk";
const SEAL: &str = "seal.json";

/// See the module.
pub(crate) struct Keep {
    folder: PathBuf,
}

/// A state that was found whole.
pub(crate) struct Kept {
    pub progress: Progress,
    pub model: Model,
    pub optimiser: OptimizerRecord,
}

/// What a state is known by.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Seal {
    fingerprint: Digest,
    progress: Digest,
    model: Digest,
    optimiser: Digest,
}

impl Keep {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The weights of one of the best epochs.
    pub fn best(&self, epoch: u32) -> PathBuf {
        self.folder.join("best").join(format!("epoch-{epoch:05}.safetensors"))
    }

    /// Keeps the weights of an epoch.
    pub fn put_best(&self, model: &Model, epoch: u32, score: f64) -> Result<Best, TaskError> {
        let path = self.best(epoch);
        fs::create_dir_all(self.folder.join("best")).map_err(|error| unwritable(&path, error))?;
        model.save(&path).map_err(|error| unwritable(&path, error))?;
        let synced = sync(&path).and_then(|()| sync(&self.folder.join("best")));
        let digest = synced.and_then(|()| digest(&path)).map_err(|error| unwritable(&path, error))?;
        Ok(Best { epoch, score, digest })
    }

    /// Keeps the state after an epoch, and no more than is needed of those before.
    pub fn put(
        &self,
        fingerprint: &Digest,
        progress: &Progress,
        model: &Model,
        optimiser: &ModuleOptimizer,
    ) -> Result<(), TaskError> {
        let name = format!("state-{:05}", progress.epoch);
        let (part, whole) = (self.folder.join(format!("{name}.part")), self.folder.join(name));
        let failed = |error: &dyn std::fmt::Display| unwritable(&part, error);
        let clear = |path: &Path| match fs::remove_dir_all(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        clear(&part).and_then(|()| clear(&whole)).map_err(|error| failed(&error))?;
        fs::create_dir(&part).map_err(|error| failed(&error))?;
        // JSON would lose the last digit of some numbers.
        let text = rmp_serde::to_vec_named(progress).map_err(|error| failed(&error))?;
        fs::write(part.join(PROGRESS), text).map_err(|error| failed(&error))?;
        // A network that does not learn has the statistics of its last batch, which one that does takes over a batch later.
        model.valid().into_record().save(part.join(MODEL)).map_err(|error| failed(&error))?;
        optimiser.to_record().save(part.join(OPTIMISER)).map_err(|error| failed(&error))?;
        let seal = |name: &str| {
            let path = part.join(name);
            sync(&path).and_then(|()| digest(&path)).map_err(|error| failed(&error))
        };
        let seal = Seal {
            fingerprint: *fingerprint,
            progress: seal(PROGRESS)?,
            model: seal(MODEL)?,
            optimiser: seal(OPTIMISER)?,
        };
        let text = serde_json::to_vec(&seal).map_err(|error| failed(&error))?;
        let path = part.join(SEAL);
        let written = fs::write(&path, text).and_then(|()| sync(&path)).and_then(|()| sync(&part));
        let written = written.and_then(|()| fs::rename(&part, &whole)).and_then(|()| sync(&self.folder));
        written.map_err(|error| failed(&error))?;
        self.tidy(progress).map_err(|error| failed(&error))
    }

    /// Removes states before the last two, and weights that none of those tells of.
    fn tidy(&self, newest: &Progress) -> io::Result<()> {
        let states = self.states()?;
        let mut wanted: Vec<PathBuf> = newest.best.iter().map(|best| self.best(best.epoch)).collect();
        for state in states.iter().take(STATES) {
            let told: Option<Progress> =
                fs::read(state.join(PROGRESS)).ok().and_then(|text| rmp_serde::from_slice(&text).ok());
            wanted.extend(told.into_iter().flat_map(|told| told.best).map(|best| self.best(best.epoch)));
        }
        for state in states.iter().skip(STATES) {
            fs::remove_dir_all(state)?;
        }
        for entry in entries(&self.folder.join("best"))? {
            let path = entry?.path();
            if !wanted.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// The newest state of the same training that is whole, for this network.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn latest(&self, fingerprint: &Digest, network: &Model) -> Result<Option<Kept>, TaskError> {
        let states = self.states().map_err(|error| unwritable(&self.folder, error))?;
        for state in &states {
            match self.open(state, fingerprint, network) {
                Ok(kept) => return Ok(Some(kept)),
                Err(reason) => tracing::warn!("`{}` is passed over: {reason}", state.display()),
            }
        }
        if !states.is_empty() {
            tracing::warn!("no state of an earlier attempt can be used: training begins again");
            for state in &states {
                fs::remove_dir_all(state).map_err(|error| unwritable(state, error))?;
            }
        }
        Ok(None)
    }

    fn open(&self, state: &Path, fingerprint: &Digest, network: &Model) -> Result<Kept, String> {
        let told = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
        let text = fs::read(state.join(SEAL)).map_err(|error| told("its seal cannot be read", &error))?;
        let seal: Seal = serde_json::from_slice(&text).map_err(|error| told("its seal is damaged", &error))?;
        if seal.fingerprint != *fingerprint {
            return Err("it is of other settings, another dataset or another version".to_owned());
        }
        let intact = |path: &Path, wanted: &Digest| match digest(path) {
            Ok(found) if found == *wanted => Ok(()),
            Ok(_) => Err(format!("`{}` is damaged", path.display())),
            Err(error) => Err(format!("`{}` cannot be read: {error}", path.display())),
        };
        for (name, wanted) in [(PROGRESS, seal.progress), (MODEL, seal.model), (OPTIMISER, seal.optimiser)] {
            intact(&state.join(name), &wanted)?;
        }
        let text = fs::read(state.join(PROGRESS)).map_err(|error| told(PROGRESS, &error))?;
        let progress: Progress = rmp_serde::from_slice(&text).map_err(|error| told(PROGRESS, &error))?;
        for best in &progress.best {
            intact(&self.best(best.epoch), &best.digest)?;
        }
        let record = ModuleRecord::load(state.join(MODEL)).map_err(|error| told(MODEL, &error))?;
        let model = network.clone().try_load_record(record).map_err(|error| told(MODEL, &error))?;
        let optimiser = OptimizerRecord::load(state.join(OPTIMISER)).map_err(|error| told(OPTIMISER, &error))?;
        Ok(Kept { progress, model, optimiser })
    }

    /// Whole states, newest first.
    fn states(&self) -> io::Result<Vec<PathBuf>> {
        let mut states = Vec::new();
        for entry in entries(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("state-") && !name.ends_with(".part") {
                states.push(entry.path());
            }
        }
        states.sort_unstable_by(|a, b| b.cmp(a));
        Ok(states)
    }

    /// The weights of the best epoch, as a network without gradients.
    pub fn load_best(&self, network: Model, best: &Best) -> Result<Model, TaskError> {
        network.load(&self.best(best.epoch)).map_err(|error| of_weights(&error))
    }
}

/// What is in a folder, which is made when there is something to keep.
fn entries(folder: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        found => Ok(Some(found?).into_iter().flatten()),
    }
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn digest(path: &Path) -> io::Result<Digest> {
    Ok(Digest::of_reader(File::open(path)?)?.0)
}
