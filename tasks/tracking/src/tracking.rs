//! What a training calls.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use swath_task::Fault;

use crate::entry::{Entry, MOST_PARAMS, MOST_VALUES, State, Version, What};
use crate::error::Error;
use crate::folder::Folder;
use crate::mlflow::Mlflow;
use crate::names;
use crate::report::Report;
use crate::sender::{self, Order, Shared};
use crate::settings::{Credentials, Pace, Place, Settings};
use crate::sink::Trouble;
use crate::spool::{self, Head, Journal, Spool};

/// How often somebody who waits looks whether to go on waiting.
const LOOK: Duration = Duration::from_millis(50);

/// A version of a registered model that is to be.
#[derive(Clone, Debug)]
pub struct NewVersion<'a> {
    /// The registered model, made when there is none of that name.
    pub name: &'a str,
    /// The folder with its files, as they are now.
    pub folder: &'a Path,
    /// What it is, for people.
    pub about: Option<&'a str>,
    /// What else is to be known of it.
    pub tags: Vec<(&'a str, String)>,
    /// Words that are to point to it, as `champion` does.
    pub aliases: &'a [&'a str],
    /// Since when they do: a version that got one of them later keeps it.
    pub since: SystemTime,
    /// What tells it from all other versions of the run: told again with the same key, it is the same version. Without one it
    /// is another each time.
    pub key: Option<String>,
}

/// A training's run on a tracking server or in a folder. Calls may come from several threads. When it is dropped without
/// [`Tracking::finish`] or [`Tracking::close`], what was not sent stays in the spool folder.
#[derive(Debug)]
pub struct Tracking {
    spool: Arc<Spool>,
    journal: Mutex<Journal>,
    shared: Arc<Shared>,
    pace: Pace,
    thread: Option<JoinHandle<()>>,
    lost: AtomicU64,
    /// Parameters that were told with another value before.
    refused: Mutex<Vec<Fault>>,
}

impl Tracking {
    /// Begins a run, or goes on with the one that was begun in this spool folder: of its own for every training, and on a disk
    /// that outlives the process. The server is not waited for; it need not be there.
    pub fn open(settings: Settings, name: &str, spool: &Path, tags: &[(&str, &str)]) -> Result<Self, Error> {
        let head = head(&settings, name, tags, None);
        Self::begin_run(settings, spool, head)
    }

    /// The same for a run that is one for a key, whatever became of the spool folder.
    pub(crate) fn begin_as(
        settings: Settings,
        name: &str,
        spool: &Path,
        tags: &[(&str, &str)],
        key: &str,
    ) -> Result<Self, Error> {
        let id = blake3::hash(key.as_bytes()).to_hex()[..32].to_owned();
        let head = Head { id, ..head(&settings, name, tags, None) };
        Self::begin_run(settings, spool, head)
    }

    fn begin_run(settings: Settings, spool: &Path, head: Head) -> Result<Self, Error> {
        let tracking = Self::begin(settings, Spool::open(spool, Some(head))?)?;
        let running = tracking.journal().known.state == Some(State::Running);
        if !running {
            tracking.tell(What::State(State::Running));
        }
        Ok(tracking)
    }

    /// Goes on in a run that another training began, to add to it what came later: `run` is what [`Report::run`] or
    /// [`Report::reference`] told. Its state stays as it is.
    pub fn join(settings: Settings, run: &str, spool: &Path) -> Result<Self, Error> {
        let id = run.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
        let head = head(&settings, "", &[], Some(id.to_owned()));
        Self::begin(settings, Spool::open(spool, Some(head))?)
    }

    /// Sends what waits in a spool folder, for as long as [`Pace::finish`] says.
    pub fn send(spool: &Path, credentials: Credentials, pace: Pace) -> Result<Report, Error> {
        Self::send_unless(spool, credentials, pace, &|| false, &|_| {})
    }

    /// The same until `stop` says so. `waits` is told, again and again, what trouble is waited out.
    pub(crate) fn send_unless(
        spool: &Path,
        credentials: Credentials,
        pace: Pace,
        stop: &dyn Fn() -> bool,
        waits: &dyn Fn(&Fault),
    ) -> Result<Report, Error> {
        let spool = Spool::open(spool, None)?;
        let (place, _) = Place::read(&spool.head.address)?;
        let experiment = spool.head.experiment.clone();
        let sending = Self::begin(Settings { place, experiment, credentials, pace }, spool)?;
        let shared = sending.shared.clone();
        Ok(sending.close_unless(&|| {
            let progress = shared.progress();
            let trouble = progress.trouble.clone().filter(|_| !progress.blocked);
            drop(progress);
            trouble.iter().for_each(waits);
            stop()
        }))
    }

    /// Asks the server whether it answers and takes the credentials, or tries to write to the folder: tells what answered.
    pub fn health(settings: &Settings) -> Result<String, Error> {
        let asked = |fault: Fault| Error::Server(fault);
        let url = match &settings.place {
            Place::Folder(path) => {
                let known = Folder::new(path.clone()).health();
                let place = path.display();
                let known = known.map_err(|error| {
                    asked(Fault::new("K105", format!("the tracking folder `{place}` cannot be written: {error}")))
                })?;
                return Ok(format!("folder `{place}` with {known} experiments"));
            }
            Place::Server(url) => url,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| asked(Fault::new("K105", format!("no runtime: {error}"))))?;
        let server = Mlflow::new(url.clone(), settings.credentials.clone(), &settings.pace).map_err(asked)?;
        let answer = runtime.block_on(server.version());
        runtime.shutdown_background();
        match answer {
            Ok(version) => Ok(format!("MLflow {version} at `{url}`")),
            Err(Trouble::Passing { fault, .. } | Trouble::Blocked(fault) | Trouble::Refused(fault)) => {
                Err(asked(fault))
            }
        }
    }

    fn begin(settings: Settings, spool: Spool) -> Result<Self, Error> {
        let spool = Arc::new(spool);
        let journal = spool.journal()?;
        let shared = Arc::new(Shared::new(spool.sent(journal.length()), journal.length()));
        let Settings { place, credentials, pace, .. } = settings;
        let thread = sender::start(spool.clone(), place, credentials, pace.clone(), shared.clone());
        let thread = thread.map_err(|error| Error::spool(&spool.folder, error))?;
        let (journal, refused) = (Mutex::new(journal), Mutex::default());
        Ok(Self { spool, journal, shared, pace, thread: Some(thread), lost: AtomicU64::new(0), refused })
    }

    /// Tells parameters. One that was told before keeps its value.
    pub fn params<K: AsRef<str>, V: AsRef<str>>(&self, params: impl IntoIterator<Item = (K, V)>) {
        let mut new = BTreeMap::new();
        let mut journal = self.journal();
        for (key, value) in params {
            let (key, value) = (names::key(key.as_ref()), names::param_value(value.as_ref()));
            match journal.known.params.get(&key).or_else(|| new.get(&key)) {
                None => drop(new.insert(key, value)),
                Some(before) if *before == value => {}
                Some(before) => self.refuse(&key, before, &value),
            }
        }
        for part in parts(new, MOST_PARAMS) {
            self.put(&mut journal, What::Params(part));
        }
    }

    /// Tells the values of metrics at a step. A metric that has a value at this step keeps it, so that a training that goes on
    /// from a checkpoint doubles nothing.
    pub fn metrics<K: AsRef<str>>(&self, step: u64, values: impl IntoIterator<Item = (K, f64)>) {
        let step = i64::try_from(step).unwrap_or(i64::MAX);
        let mut new = BTreeMap::new();
        // From looking to telling: another thread may have a value of the same step.
        let mut journal = self.journal();
        for (key, value) in values {
            let key = names::key(key.as_ref());
            if !journal.known.has(&key, step) {
                // The first one counts, among those that are told at once, too.
                new.entry(key).or_insert_with(|| format!("{value:?}"));
            }
        }
        for part in parts(new, MOST_VALUES) {
            self.put(&mut journal, What::Metrics { step, values: part });
        }
    }

    /// Sets a tag; the last value counts.
    pub fn tag(&self, key: &str, value: &str) {
        self.tell(What::Tags(BTreeMap::from([(names::key(key), names::tag_value(value))])));
    }

    /// Adds a file or folder to the artifacts of the run, as it is now, under the name `to`. It is copied into the spool folder
    /// until it is sent.
    pub fn artifact(&self, path: &Path, to: &str) {
        let to = names::artifact(to);
        if !path.is_dir() {
            return self.file(path, &to);
        }
        match spool::files_below(path) {
            Ok(files) => files.iter().for_each(|file| {
                self.file(&path.join(file), &names::artifact(&format!("{to}/{file}")));
            }),
            Err(error) => self.lose(1, &format!("the folder `{}` cannot be read", path.display()), &error),
        }
    }

    fn file(&self, path: &Path, to: &str) {
        // Outside of the lock: a large file must not keep other threads from telling.
        let kept = self.spool.keep(path);
        match kept {
            Ok(file) => {
                self.tell(What::Artifact { file, to: to.to_owned() });
            }
            Err(error) => self.lose(1, &format!("the file `{}` cannot be kept for tracking", path.display()), &error),
        }
    }

    /// Makes a new version of a registered model of a folder, and lets `aliases` point to it. Waits for the version as long as
    /// [`Pace::finish`] says; none when it waits in the spool folder or was refused, as [`Report`] tells.
    pub fn register_model(&self, name: &str, folder: &Path, aliases: &[&str]) -> Option<u32> {
        let until = Instant::now() + self.pace.finish;
        let since = SystemTime::now();
        let version = NewVersion { name, folder, about: None, tags: Vec::new(), aliases, since, key: None };
        let at = self.version(&version)?;
        self.shared.orders.send_modify(|order| order.hurry = true);
        self.shared.wait(until, |progress| progress.sent.bytes > at || progress.blocked || progress.ended);
        self.shared.orders.send_modify(|order| order.hurry = false);
        let progress = self.shared.progress();
        progress.sent.models.iter().find(|model| model.at == at).map(|model| model.version)
    }

    /// The same for all that may be told of a version, without waiting for it: [`Report::models`] tells what became of it.
    pub fn register(&self, version: &NewVersion<'_>) {
        self.version(version);
    }

    fn version(&self, version: &NewVersion<'_>) -> Option<u64> {
        let NewVersion { name, folder, about, tags, aliases, since, key } = version;
        let kept = match self.spool.keep(folder) {
            Ok(kept) => kept,
            Err(error) => {
                self.lose(1, &format!("the model `{}` cannot be kept for tracking", folder.display()), &error);
                return None;
            }
        };
        let version = Version {
            name: names::model(name),
            about: about.map(names::tag_value),
            tags: tags.iter().map(|(key, value)| (names::key(key), names::tag_value(value))).collect(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            since: Timestamp::try_from(*since).unwrap_or_default().as_millisecond(),
            key: key.clone(),
        };
        self.tell(What::Model { folder: kept, version })
    }

    /// What became of all that was told so far.
    pub fn report(&self) -> Report {
        let progress = self.shared.progress();
        let (sent, trouble) = (progress.sent.clone(), progress.trouble.clone());
        drop(progress);
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone();
        refused.extend(sent.refused.iter().cloned());
        let waiting = self.spool.count(sent.bytes);
        let over = self.spool.head.joined.is_some() || self.journal().known.state == Some(State::Finished);
        Report {
            id: self.spool.head.id.clone(),
            over,
            sent: sent.count,
            waiting,
            lost: self.lost.load(Ordering::Relaxed),
            run: sent.run.map(|run| run.page),
            models: sent.models,
            refused,
            trouble: trouble.filter(|_| waiting > 0),
            spool: self.spool.folder.clone(),
        }
    }

    /// Says how the run ended and sends what waits, for as long as [`Pace::finish`] says. What is not sent then stays in the
    /// spool folder, for [`Tracking::send`].
    pub fn finish(self, state: State) -> Report {
        self.finish_unless(state, &|| false)
    }

    /// The same, and no longer than until `stop` says so.
    pub fn finish_unless(self, state: State, stop: &dyn Fn() -> bool) -> Report {
        if self.spool.head.joined.is_none() {
            self.tell(What::State(state));
        }
        self.close_unless(stop)
    }

    /// [`Tracking::finish`] for a run whose state is not ours to tell.
    pub fn close(self) -> Report {
        self.close_unless(&|| false)
    }

    fn close_unless(mut self, stop: &dyn Fn() -> bool) -> Report {
        if let Err(error) = self.spool.sync() {
            tracing::warn!("the spool `{}` is not safe on its disk: {error}", self.spool.folder.display());
        }
        self.end(Instant::now() + self.pace.finish, stop);
        let report = self.report();
        if report.waiting > 0 {
            let why = report.trouble.as_ref().map(|fault| format!(": {fault}")).unwrap_or_default();
            let (waiting, spool) = (report.waiting, report.spool.display());
            tracing::warn!(
                "{waiting} values and files wait in `{spool}` to be sent{why}; `swath tracking send {spool}` sends them"
            );
        }
        report
    }

    fn end(&mut self, until: Instant, stop: &dyn Fn() -> bool) {
        self.shared.orders.send_modify(|order| order.until = Some(until));
        loop {
            let look = Instant::now() + LOOK;
            self.shared.wait(look, |progress| progress.ended);
            if self.shared.progress().ended {
                break;
            }
            if stop() {
                self.shared.orders.send_modify(|order| order.until = Some(Instant::now()));
                break;
            }
        }
        if let Some(thread) = self.thread.take() {
            // It catches nothing: a panic in it has been told, and fails no training.
            drop(thread.join());
        }
    }

    fn tell(&self, what: What) -> Option<u64> {
        self.put(&mut self.journal(), what)
    }

    /// Adds an entry and tells the sending thread; where it begins, when it was kept.
    fn put(&self, journal: &mut Journal, what: What) -> Option<u64> {
        let entry = Entry { at: Timestamp::now().as_millisecond(), what };
        let at = journal.length();
        let kept = journal.append(&entry);
        let written = journal.length();
        match kept {
            Ok(()) => {
                self.shared.orders.send_modify(|order: &mut Order| order.written = order.written.max(written));
                Some(at)
            }
            Err(error) => {
                let place = format!("the spool `{}` cannot be written", self.spool.folder.display());
                self.lose(entry.count().max(1), &place, &error);
                None
            }
        }
    }

    fn lose(&self, count: u64, what: &str, error: &io::Error) {
        if self.lost.fetch_add(count, Ordering::Relaxed) == 0 {
            tracing::warn!("{what}: {error}; the training goes on without");
        }
    }

    fn refuse(&self, key: &str, before: &str, value: &str) {
        let message = format!("the parameter `{key}` was told as `{before}` and cannot become `{value}`");
        let fault = Fault::new("K108", message)
            .help("a run keeps its parameters: begin a new one, with a spool folder of its own");
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.is_empty() {
            tracing::warn!("{fault}; the training goes on");
        }
        if !refused.contains(&fault) {
            refused.push(fault);
        }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tracking {
    fn drop(&mut self) {
        self.end(Instant::now(), &|| false);
    }
}

fn head(settings: &Settings, name: &str, tags: &[(&str, &str)], joined: Option<String>) -> Head {
    let created = Timestamp::now().as_millisecond();
    // MLflow's page tells by this one who it was.
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    let user = user.filter(|user| !user.is_empty()).map(|user| ("mlflow.user".to_owned(), names::tag_value(&user)));
    let given = tags.iter().map(|(key, value)| (names::key(key), names::tag_value(value)));
    let tags = user.into_iter().chain(given).collect();
    spool::head(settings.place.told(), settings.experiment.clone(), name.to_owned(), tags, joined, created)
}

fn parts(values: BTreeMap<String, String>, most: usize) -> Vec<BTreeMap<String, String>> {
    let mut parts = Vec::new();
    let mut rest = values.into_iter().peekable();
    while rest.peek().is_some() {
        parts.push(rest.by_ref().take(most).collect());
    }
    parts
}
