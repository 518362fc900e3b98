//! A folder in the layout of MLflow's file store, which `mlflow ui` opens and `mlflow migrate-filestore` reads:
//!
//! ```text
//! EXPERIMENT/meta.yaml
//! EXPERIMENT/RUN/meta.yaml        name, state, times
//! EXPERIMENT/RUN/params/NAME      the value
//! EXPERIMENT/RUN/metrics/NAME     a line a step: milliseconds, value, step
//! EXPERIMENT/RUN/tags/NAME
//! EXPERIMENT/RUN/artifacts/...
//! models/NAME/version-1/meta.yaml
//! models/NAME/version-1/tags/NAME
//! models/NAME/aliases/NAME        the number of a version
//! ```

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use swath_task::Fault;
use url::Url;

use crate::entry::{Fact, SINCE_TAG, State, Version};
use crate::meta::{self, META};
use crate::report::UNSENT_RUN;
use crate::sink::{Run, Sink, Trouble};
use crate::spool::Head;

/// How much of a metric's file the values of one parcel take at most, in bytes.
const TAIL: u64 = 128 << 10;

/// The folder, and what is known of it.
pub(crate) struct Folder {
    root: PathBuf,
    /// Metrics whose files this process has read whole.
    known: HashSet<PathBuf>,
}

impl Folder {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, known: HashSet::new() }
    }

    /// Whether it can be written, and how many experiments it has.
    pub(crate) fn health(&self) -> io::Result<usize> {
        std::fs::create_dir_all(&self.root)?;
        let probe = self.root.join(".swath-probe");
        std::fs::write(&probe, "")?;
        std::fs::remove_file(&probe)?;
        Ok(self.experiments()?.len())
    }

    /// Ids and names of the experiments.
    fn experiments(&self) -> io::Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            let Ok(text) = std::fs::read_to_string(entry.path().join(META)) else { continue };
            if let Some(name) = meta::field(&text, "name") {
                found.push((entry.file_name().to_string_lossy().into_owned(), name));
            }
        }
        found.sort();
        Ok(found)
    }

    fn experiment(&self, name: &str, at: i64) -> io::Result<String> {
        if !self.root.exists() {
            // MLflow's page asks for this one in any folder.
            self.create_experiment("0", "Default", at)?;
        }
        if let Some((id, _)) = self.experiments()?.into_iter().find(|(_, found)| found == name) {
            return Ok(id);
        }
        // Made of the name, so that two trainings that begin at once make the same one.
        for attempt in 0_u32.. {
            let hash = blake3::hash(format!("{name}/{attempt}").as_bytes());
            let number = u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap_or(&[0; 8]));
            let id = (100_000_000_000_000_000 + number % 900_000_000_000_000_000).to_string();
            let taken = self.root.join(&id).join(META).exists() || self.root.join(".trash").join(&id).exists();
            if !taken {
                self.create_experiment(&id, name, at)?;
                return Ok(id);
            }
        }
        Err(io::Error::other("no number is free for an experiment"))
    }

    fn create_experiment(&self, id: &str, name: &str, at: i64) -> io::Result<()> {
        let folder = self.root.join(id);
        std::fs::create_dir_all(&folder)?;
        let fields = [
            ("artifact_location", uri(&folder).into()),
            ("creation_time", at.into()),
            ("experiment_id", id.into()),
            ("last_update_time", at.into()),
            ("lifecycle_stage", "active".into()),
            ("name", name.into()),
        ];
        meta::write(&folder, &fields)
    }

    fn path(&self, run: &Run) -> PathBuf {
        self.root.join(&run.experiment).join(&run.id)
    }

    /// The folder of a run, which must be there still.
    fn existing(&self, run: &Run) -> Result<PathBuf, Trouble> {
        let path = self.path(run);
        if path.join(META).exists() {
            return Ok(path);
        }
        let message = format!("the run `{}` is no longer there", path.display());
        Err(Trouble::Blocked(
            Fault::new("K107", message).help("put it back, or remove the spool folder to begin a new run"),
        ))
    }

    fn at(&self, experiment: &str, id: &str) -> Run {
        let path = self.root.join(experiment).join(id);
        let artifacts = uri(&path.join("artifacts"));
        Run { experiment: experiment.to_owned(), id: id.to_owned(), artifacts, page: path.display().to_string() }
    }

    fn create_run(&self, head: &Head) -> io::Result<Run> {
        let experiment = self.experiment(&head.experiment, head.created)?;
        let run = self.at(&experiment, &head.id);
        let path = self.path(&run);
        if path.join(META).exists() {
            return Ok(run);
        }
        for folder in ["metrics", "params", "tags", "artifacts"] {
            std::fs::create_dir_all(path.join(folder))?;
        }
        let own =
            [("mlflow.runName", head.name.as_str()), ("mlflow.source.name", "swath"), ("mlflow.source.type", "LOCAL")];
        let given = head.tags.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        for (key, value) in own.into_iter().chain(given) {
            self.value_file(&path.join("tags").join(key), value)?;
        }
        write_run(&path, &run, &head.name, State::Running, head.created, None, "active")?;
        Ok(run)
    }

    fn find_run(&self, id: &str) -> io::Result<Option<Run>> {
        let experiments = self.experiments()?.into_iter().map(|(experiment, _)| experiment);
        let found =
            experiments.map(|experiment| self.at(&experiment, id)).find(|run| self.path(run).join(META).exists());
        Ok(found)
    }

    /// Adds lines to a metric's file, those only that it has not.
    fn metric(&mut self, path: &Path, values: &[(i64, i64, f64)]) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(path)?;
        let length = file.metadata()?.len();
        // What this process wrote before is known, up to what may come again: a parcel.
        let from = if self.known.contains(path) { length.saturating_sub(TAIL) } else { 0 };
        file.seek(SeekFrom::Start(from))?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)?;
        // Half a line is what a crash left.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            file.set_len(from + whole as u64)?;
        }
        let mut has = HashSet::new();
        for line in String::from_utf8_lossy(&text[..whole]).lines() {
            let mut parts = line.split(' ');
            if let (Some(at), Some(step)) = (parts.next(), parts.nth(1))
                && let (Ok(at), Ok(step)) = (at.parse::<i64>(), step.parse::<i64>())
            {
                has.insert((at, step));
            }
        }
        let new = values.iter().filter(|(at, step, _)| !has.contains(&(*at, *step)));
        let lines: String = new.map(|(at, step, value)| format!("{at} {value:?} {step}\n")).collect();
        file.write_all(lines.as_bytes())?;
        self.known.insert(path.to_owned());
        Ok(())
    }

    fn put_facts(&mut self, path: &Path, facts: &[Fact]) -> Result<(), Trouble> {
        // In the order they came: where one stands in another's way, the first one stays.
        let mut keys = Vec::new();
        let mut metrics: HashMap<&str, Vec<(i64, i64, f64)>> = HashMap::new();
        for fact in facts {
            match fact {
                Fact::Metric { key, value, step, at } => {
                    let values = metrics.entry(key).or_insert_with(|| {
                        keys.push(key.as_str());
                        Vec::new()
                    });
                    values.push((*at, *step, *value));
                }
                Fact::Param { key, value } => {
                    let place = path.join("params").join(key);
                    match std::fs::read_to_string(&place) {
                        Ok(before) if before != *value => {
                            let message = format!("it was `{before}` and cannot become `{value}`");
                            return Err(Trouble::Refused(Fault::new("K108", message)));
                        }
                        Ok(_) => {}
                        Err(_) => self.value_file(&place, value).map_err(|error| unwritten(&place, &error))?,
                    }
                }
                Fact::Tag { key, value } => {
                    let place = path.join("tags").join(key);
                    self.value_file(&place, value).map_err(|error| unwritten(&place, &error))?;
                }
            }
        }
        for key in keys {
            let place = path.join("metrics").join(key);
            self.metric(&place, &metrics[key]).map_err(|error| unwritten(&place, &error))?;
        }
        Ok(())
    }

    /// A file that holds one value. It is there whole or not at all: half a parameter would stand in the way of the whole one.
    fn value_file(&self, path: &Path, value: &str) -> io::Result<()> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let draft = self.root.join(unseen());
        let written = std::fs::write(&draft, value).and_then(|()| std::fs::rename(&draft, path));
        written.inspect_err(|_| drop(std::fs::remove_file(&draft)))
    }

    fn model_path(&self, name: &str) -> PathBuf {
        self.root.join("models").join(name)
    }

    /// The versions of a model, and their sources.
    fn versions(&self, model: &str) -> io::Result<BTreeMap<u32, String>> {
        let entries = match std::fs::read_dir(self.model_path(model)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error),
        };
        let mut versions = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(number) = name.strip_prefix("version-").and_then(|number| number.parse().ok()) {
                let text = std::fs::read_to_string(entry.path().join(META)).unwrap_or_default();
                versions.insert(number, meta::field(&text, "source").unwrap_or_default());
            }
        }
        Ok(versions)
    }

    fn create_version(&self, run: &Run, version: &Version, source: &str) -> io::Result<u32> {
        let at = jiff::Timestamp::now().as_millisecond();
        let name = version.name.as_str();
        let about = || version.about.as_deref().map_or(Value::Null, Value::from);
        let model = self.model_path(name);
        if !model.join(META).exists() {
            std::fs::create_dir_all(&model)?;
            let times = [("creation_timestamp", at.into()), ("last_updated_timestamp", at.into())];
            let fields = [("description", about()), ("name", name.into())].into_iter().chain(times);
            meta::write(&model, &fields.collect::<Vec<_>>())?;
        }
        let mut number = self.versions(name)?.into_keys().last().unwrap_or(0);
        // It appears whole, by a rename.
        let draft = model.join(unseen());
        std::fs::create_dir_all(&draft)?;
        for (key, value) in &version.tags {
            self.value_file(&draft.join("tags").join(key), value)?;
        }
        loop {
            number += 1;
            let fields = [
                ("aliases", json!([])),
                ("creation_timestamp", at.into()),
                ("current_stage", "None".into()),
                ("description", about()),
                ("last_updated_timestamp", at.into()),
                ("name", name.into()),
                ("run_id", run.id.as_str().into()),
                ("run_link", Value::Null),
                ("source", source.into()),
                ("status", "READY".into()),
                ("status_message", Value::Null),
                ("storage_location", source.into()),
                ("user_id", Value::Null),
                ("version", number.into()),
            ];
            meta::write(&draft, &fields)?;
            match std::fs::rename(&draft, model.join(format!("version-{number}"))) {
                Ok(()) => return Ok(number),
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty) => {}
                Err(error) => {
                    drop(std::fs::remove_dir_all(&draft));
                    return Err(error);
                }
            }
        }
    }

    fn point_alias(&self, alias: &str, number: u32, version: &Version) -> io::Result<()> {
        let model = self.model_path(&version.name);
        let since_of = |number: &str| model.join(format!("version-{number}")).join("tags").join(SINCE_TAG);
        let place = model.join("aliases").join(alias);
        let holder = std::fs::read_to_string(&place).ok();
        let since = holder.and_then(|holder| std::fs::read_to_string(since_of(holder.trim())).ok());
        if version.comes_late(since.as_deref()) {
            return Ok(());
        }
        let number = number.to_string();
        self.value_file(&since_of(&number), &version.since.to_string())?;
        self.value_file(&place, &number)
    }
}

impl Sink for Folder {
    async fn run(&mut self, head: &Head) -> Result<Run, Trouble> {
        match &head.joined {
            None => self.create_run(head).map_err(|error| unwritten(&self.root, &error)),
            // A folder calls a run as its spool does.
            Some(id) => match self.find_run(id.trim_start_matches(UNSENT_RUN)) {
                Ok(Some(run)) => Ok(run),
                Ok(None) => {
                    let message = format!("there is no run `{id}` in `{}`", self.root.display());
                    Err(Trouble::Blocked(Fault::new("K107", message).help("give the folder that the training told to")))
                }
                Err(error) => Err(unwritten(&self.root, &error)),
            },
        }
    }

    async fn facts(&mut self, run: &Run, facts: &[Fact]) -> Result<(), Trouble> {
        let path = self.existing(run)?;
        self.put_facts(&path, facts)
    }

    async fn artifact(&mut self, run: &Run, file: &Path, to: &str) -> Result<(), Trouble> {
        let target = self.existing(run)?.join("artifacts").join(to);
        if !file.exists() {
            return Err(Trouble::Refused(Fault::new("K109", format!("`{}` is gone", file.display()))));
        }
        let put = || -> io::Result<()> {
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent)?;
            }
            let mut draft = target.clone().into_os_string();
            draft.push(".swath-new");
            std::fs::copy(file, &draft)?;
            // The copy in the spool folder is removed next.
            File::open(&draft)?.sync_all()?;
            std::fs::rename(&draft, &target)
        };
        put().map_err(|error| unwritten(&target, &error))
    }

    async fn find_version(&mut self, run: &Run, model: &str, source: &str) -> Result<Option<u32>, Trouble> {
        let source = uri(&self.existing(run)?.join("artifacts").join(source));
        let versions = self.versions(model).map_err(|error| unwritten(&self.model_path(model), &error))?;
        Ok(versions.into_iter().find(|(_, made)| *made == source).map(|(number, _)| number))
    }

    async fn add_version(&mut self, run: &Run, version: &Version, source: &str) -> Result<u32, Trouble> {
        let source = uri(&self.existing(run)?.join("artifacts").join(source));
        let made = self.create_version(run, version, &source);
        made.map_err(|error| unwritten(&self.model_path(&version.name), &error))
    }

    async fn point(&mut self, alias: &str, number: u32, version: &Version) -> Result<(), Trouble> {
        let pointed = self.point_alias(alias, number, version);
        pointed.map_err(|error| unwritten(&self.model_path(&version.name), &error))
    }

    async fn state(&mut self, run: &Run, state: State, at: i64) -> Result<(), Trouble> {
        let path = self.existing(run)?;
        let put = || -> io::Result<()> {
            let text = std::fs::read_to_string(path.join(META))?;
            let name = meta::field(&text, "run_name").unwrap_or_default();
            let begun = meta::field(&text, "start_time").and_then(|time| time.parse().ok()).unwrap_or(at);
            let stage = meta::field(&text, "lifecycle_stage").unwrap_or_else(|| "active".to_owned());
            let ended = (state != State::Running).then_some(at);
            write_run(&path, run, &name, state, begun, ended, &stage)
        };
        put().map_err(|error| unwritten(&path, &error))
    }
}

fn write_run(
    path: &Path,
    run: &Run,
    name: &str,
    state: State,
    begun: i64,
    ended: Option<i64>,
    stage: &str,
) -> io::Result<()> {
    let fields = [
        ("artifact_uri", run.artifacts.as_str().into()),
        ("end_time", ended.into()),
        ("entry_point_name", "".into()),
        ("experiment_id", run.experiment.as_str().into()),
        ("lifecycle_stage", stage.into()),
        ("run_id", run.id.as_str().into()),
        ("run_name", name.into()),
        ("run_uuid", run.id.as_str().into()),
        ("source_name", "".into()),
        ("source_type", 4.into()),
        ("source_version", "".into()),
        ("start_time", begun.into()),
        ("status", state.number().into()),
        ("tags", json!([])),
        ("user_id", "swath".into()),
    ];
    meta::write(path, &fields)
}

/// A name for what is not whole yet, which nobody takes for a value or a version.
fn unseen() -> String {
    format!(".swath-{:016x}", rand::random::<u64>())
}

fn uri(path: &Path) -> String {
    Url::from_file_path(path).map_or_else(|()| path.display().to_string(), String::from)
}

/// What it means that something cannot be written: a name that stands in the way will stand there, a full disk may not.
fn unwritten(path: &Path, error: &io::Error) -> Trouble {
    use ErrorKind::{AlreadyExists, InvalidFilename, InvalidInput, IsADirectory, NotADirectory};
    let fault = |code, what| Fault::new(code, format!("`{}` cannot be {what}: {error}", path.display()));
    match error.kind() {
        AlreadyExists | InvalidFilename | InvalidInput | IsADirectory | NotADirectory => {
            Trouble::Refused(fault("K108", "written"))
        }
        _ => Trouble::Passing {
            fault: fault("K105", "written").help("free disk space, or give a folder that can be written"),
            wait: None,
        },
    }
}
