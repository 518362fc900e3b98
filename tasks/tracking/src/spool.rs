//! The spool folder: all that was told, how much of it was sent, and the files that wait.
//!
//! ```text
//! tracking.json    what run this is and where it is told to; no password
//! entries.jsonl    all that was told, a line each, only ever longer
//! sent.json        how far the file above was sent, and the run as it is called there
//! files/           copies of files that were told, until they are sent
//! lock             held by the process that sends
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use swath_task::Fault;

use crate::entry::{Entry, MOST_PARAMS, MOST_VALUES, State, What};
use crate::error::Error;
use crate::report::Registered;
use crate::sink::Run;

const FORMAT: &str = "swath.tracking/1";
const HEAD: &str = "tracking.json";
const ENTRIES: &str = "entries.jsonl";
const SENT: &str = "sent.json";
const FILES: &str = "files";
const LOCK: &str = "lock";
/// Most bytes of lines that are sent in one request; MLflow takes a million.
const MOST_BYTES: u64 = 700_000;

/// What run a spool is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Head {
    pub(crate) format: String,
    /// Tells the run from all others, wherever it is kept.
    pub(crate) id: String,
    /// Server or folder.
    pub(crate) address: String,
    pub(crate) experiment: String,
    /// The run's name.
    pub(crate) name: String,
    pub(crate) tags: BTreeMap<String, String>,
    /// Milliseconds since 1970, UTC.
    pub(crate) created: i64,
    /// The run that is gone on in, when this spool did not make it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) joined: Option<String>,
}

/// How far the entries were sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Sent {
    /// In bytes of the file of entries.
    pub(crate) bytes: u64,
    /// In things that were taken.
    pub(crate) count: u64,
    #[serde(default)]
    pub(crate) run: Option<Run>,
    #[serde(default)]
    pub(crate) models: Vec<Registered>,
    #[serde(default)]
    pub(crate) refused: Vec<Fault>,
}

/// What the entries hold already.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) params: HashMap<String, String>,
    steps: HashMap<String, HashSet<i64>>,
    pub(crate) state: Option<State>,
}

impl Known {
    fn learn(&mut self, entry: &Entry) {
        match &entry.what {
            What::Params(values) => self.params.extend(values.clone()),
            What::Metrics { step, values } => {
                for key in values.keys() {
                    self.steps.entry(key.clone()).or_default().insert(*step);
                }
            }
            What::State(state) => self.state = Some(*state),
            What::Tags(_) | What::Artifact { .. } | What::Model { .. } => {}
        }
    }

    /// Whether a metric has a value at a step.
    pub(crate) fn has(&self, key: &str, step: i64) -> bool {
        self.steps.get(key).is_some_and(|steps| steps.contains(&step))
    }
}

/// A spool folder that this process holds.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) folder: PathBuf,
    pub(crate) head: Head,
    /// Unlocked when it is closed.
    _lock: File,
}

impl Spool {
    /// Takes hold of a folder, made when it is missing. What was begun there is gone on with when it is of the same place and
    /// experiment as `head`; `None` goes on with whatever there is.
    pub(crate) fn open(folder: &Path, head: Option<Head>) -> Result<Self, Error> {
        let path = folder.join(HEAD);
        if head.is_none() && !path.exists() {
            return Err(Error::other(folder, format!("there is no `{HEAD}` in it")));
        }
        let make = || std::fs::create_dir_all(folder.join(FILES));
        // Whoever tidies up at the same time may take away what is still empty.
        make().or_else(|_| make()).map_err(|error| Error::spool(folder, error))?;
        let place = folder.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&place);
        let lock = lock.map_err(|error| Error::spool(&place, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { path: folder.display().to_string() }),
            Err(TryLockError::Error(error)) => return Err(Error::spool(&place, error)),
        }
        let found: Option<Head> = read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Error::other(folder, format!("`{HEAD}` is spoilt: {error}"))
            }
            _ => Error::spool(&path, error),
        })?;
        let head = match (found, head) {
            (Some(found), _) if found.format != FORMAT => {
                let reason = format!("its format is `{}`, this program reads `{FORMAT}`", found.format);
                return Err(Error::other(folder, reason));
            }
            (Some(found), Some(wanted)) => {
                let same = (&found.address, &found.experiment, &found.joined)
                    == (&wanted.address, &wanted.experiment, &wanted.joined);
                if !same {
                    let told = |head: &Head| format!("experiment `{}` at `{}`", head.experiment, head.address);
                    let reason = format!("it belongs to {}, not to {}", told(&found), told(&wanted));
                    return Err(Error::other(folder, reason));
                }
                found
            }
            (Some(found), None) => found,
            (None, Some(new)) => {
                let written = write(&path, &new).and_then(|()| sync(folder));
                written.map_err(|error| Error::spool(&path, error))?;
                new
            }
            (None, None) => return Err(Error::other(folder, format!("there is no `{HEAD}` in it"))),
        };
        Ok(Self { folder: folder.to_owned(), head, _lock: lock })
    }

    /// The writing end, and what is known. A line that a crash cut off is taken away.
    pub(crate) fn journal(&self) -> Result<Journal, Error> {
        let path = self.folder.join(ENTRIES);
        let open = || -> io::Result<Journal> {
            let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path)?;
            let mut known = Known::default();
            let mut length = 0;
            let mut reader = BufReader::new(&mut file);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
                length += line.len() as u64;
                if let Ok(entry) = serde_json::from_slice(&line) {
                    known.learn(&entry);
                }
                line.clear();
            }
            drop(reader);
            file.set_len(length)?;
            Ok(Journal { file, length, known })
        };
        open().map_err(|error| Error::spool(&path, error))
    }

    /// How far was sent, of entries that are `written` bytes long. A file that cannot be read is one that was not written: all
    /// is sent again, which changes nothing.
    pub(crate) fn sent(&self, written: u64) -> Sent {
        let sent: Sent = read(&self.folder.join(SENT)).ok().flatten().unwrap_or_default();
        // Where the end of the entries was lost, what comes now must not be taken for what was sent.
        Sent { bytes: sent.bytes.min(written), ..sent }
    }

    /// Returns when all entries are on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync(&self.folder.join(ENTRIES))
    }

    /// Remembers how far was sent.
    pub(crate) fn remember(&self, sent: &Sent) -> io::Result<()> {
        write(&self.folder.join(SENT), sent)
    }

    /// What is to be sent next, of the entries between two places in their file.
    pub(crate) fn next(&self, from: u64, to: u64) -> io::Result<Parcel> {
        let mut file = File::open(self.folder.join(ENTRIES))?;
        file.seek(SeekFrom::Start(from))?;
        let mut reader = BufReader::new(file.take(to.saturating_sub(from)));
        let mut parcel = Parcel { entries: Vec::new(), end: from };
        let (mut values, mut params, mut tags) = (0, 0, 0);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line)? > 0 {
            let size = line.len() as u64;
            let Ok(entry) = serde_json::from_slice::<Entry>(&line) else {
                // What a disk has spoilt must not hold up the rest.
                tracing::warn!("a line of `{}` is spoilt and is passed over", self.folder.join(ENTRIES).display());
                parcel.end += size;
                line.clear();
                continue;
            };
            let count = entry.count() as usize;
            match &entry.what {
                What::Params(_) => params += count,
                What::Tags(_) => tags += count,
                What::Metrics { .. } => {}
                What::Artifact { .. } | What::Model { .. } | What::State(_) => {
                    // Goes alone.
                    if parcel.entries.is_empty() {
                        parcel.end += size;
                        parcel.entries.push(entry);
                    }
                    return Ok(parcel);
                }
            }
            values += count;
            let full = values > MOST_VALUES || params > MOST_PARAMS || tags > MOST_PARAMS;
            let large = parcel.end + size - from > MOST_BYTES;
            if (full || large) && !parcel.entries.is_empty() {
                return Ok(parcel);
            }
            parcel.end += size;
            parcel.entries.push(entry);
            line.clear();
        }
        Ok(parcel)
    }

    /// Puts a copy of a file or folder under the files that wait; tells its name in the spool folder.
    pub(crate) fn keep(&self, path: &Path) -> io::Result<String> {
        let name = format!("{:016x}", rand::random::<u64>());
        let target = self.folder.join(FILES).join(&name);
        let kept = if path.is_dir() { copy_folder(path, &target) } else { copy_file(path, &target) };
        if let Err(error) = kept {
            // Half a copy is of no use; that it cannot be removed either hurts nobody.
            let _ = if target.is_dir() { std::fs::remove_dir_all(&target) } else { std::fs::remove_file(&target) };
            return Err(error);
        }
        Ok(format!("{FILES}/{name}"))
    }

    /// How many things lie in the file of entries from a place on.
    pub(crate) fn count(&self, mut from: u64) -> u64 {
        let path = self.folder.join(ENTRIES);
        let Ok(length) = path.metadata().map(|data| data.len()) else { return 0 };
        let mut count = 0;
        while let Ok(parcel) = self.next(from, length)
            && parcel.end > from
        {
            count += parcel.entries.iter().map(Entry::count).sum::<u64>();
            from = parcel.end;
        }
        count
    }
}

/// What goes out together: values, or one of anything else.
#[derive(Debug)]
pub(crate) struct Parcel {
    pub(crate) entries: Vec<Entry>,
    /// Where the next one begins.
    pub(crate) end: u64,
}

/// The end of a spool that is written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    length: u64,
    pub(crate) known: Known,
}

impl Journal {
    /// Where the next entry goes.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Adds an entry. When it cannot be written, nothing of it is.
    pub(crate) fn append(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // Half a line would spoil the next one.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += line.len() as u64;
        self.known.learn(entry);
        Ok(())
    }
}

/// The files below a folder, as relative paths with slashes, in order.
pub(crate) fn files_below(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let mut todo = vec![String::new()];
    while let Some(below) = todo.pop() {
        for entry in std::fs::read_dir(folder.join(&below))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if entry.path().is_dir() {
                todo.push(path);
            } else {
                files.insert(path);
            }
        }
    }
    Ok(files)
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    // Listed first: the copy may lie within.
    let files = files_below(from)?;
    std::fs::create_dir_all(to)?;
    for file in files {
        let target = to.join(&file);
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent)?;
        }
        copy_file(&from.join(&file), &target)?;
    }
    Ok(())
}

/// Copies a file; returns when the copy is on the disk.
fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::copy(from, to)?;
    sync(to)
}

/// Returns when a file or folder is on the disk.
fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What run the spool in a folder is of; none when there is no spool in it.
pub(crate) fn head_of(folder: &Path) -> Option<Head> {
    read(&folder.join(HEAD)).ok().flatten()
}

/// A JSON file; none when there is none.
fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text).map_err(io::Error::from)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a JSON file whole: who reads it finds the old one or the new one.
fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(&serde_json::to_vec_pretty(value)?)?;
    file.sync_data()?;
    std::fs::rename(&draft, path)
}

/// A head of a run that begins.
pub(crate) fn head(
    address: String,
    experiment: String,
    name: String,
    tags: BTreeMap<String, String>,
    joined: Option<String>,
    created: i64,
) -> Head {
    let id = format!("{:032x}", rand::random::<u128>());
    Head { format: FORMAT.to_owned(), id, address, experiment, name, tags, created, joined }
}
