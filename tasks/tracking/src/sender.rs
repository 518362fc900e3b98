//! The thread that sends: reads the spool from where it was sent, one parcel after the other, and remembers how far it got.
//!
//! A parcel that may pass later is tried again with growing pauses, for as long as the training lives. One that is refused is
//! halved until what is refused stands alone; that is told and passed over.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use swath_task::Fault;
use tokio::sync::watch;

use crate::entry::{Entry, Fact, Version, What};
use crate::folder::Folder;
use crate::mlflow::Mlflow;
use crate::report::Registered;
use crate::settings::{Credentials, Pace, Place};
use crate::sink::{Run, Sink, Trouble};
use crate::spool::{Parcel, Sent, Spool, files_below};

/// Most refusals that a report tells.
const MOST_REFUSALS: usize = 32;

/// What the sending thread is to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Order {
    /// How long the file of entries is.
    pub(crate) written: u64,
    /// Somebody waits: do not gather.
    pub(crate) hurry: bool,
    /// Nothing more comes: end when all is sent, or then.
    pub(crate) until: Option<Instant>,
}

/// How far it is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) sent: Sent,
    pub(crate) trouble: Option<Fault>,
    /// The trouble passes by a person's doing only.
    pub(crate) blocked: bool,
    pub(crate) ended: bool,
}

/// What the training's threads and the sending thread have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) orders: watch::Sender<Order>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn new(sent: Sent, written: u64) -> Self {
        let orders = watch::Sender::new(Order { written, ..Order::default() });
        Self { orders, progress: Mutex::new(Progress { sent, ..Progress::default() }), changed: Condvar::new() }
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
    }

    /// Waits until `enough`, but no longer than to `until`.
    pub(crate) fn wait(&self, until: Instant, enough: impl Fn(&Progress) -> bool) {
        let mut progress = self.progress();
        while !enough(&progress) {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            let woken = self.changed.wait_timeout(progress, left);
            progress = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Says that the thread has ended, however it did.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.publish(|progress| progress.ended = true);
    }
}

/// Starts the thread. It tells warnings to whoever listens on this one, and its requests belong to the trace of this one.
pub(crate) fn start(
    spool: Arc<Spool>,
    place: Place,
    credentials: Credentials,
    pace: Pace,
    shared: Arc<Shared>,
) -> io::Result<JoinHandle<()>> {
    let span = tracing::Span::current();
    let listener = tracing::dispatcher::get_default(Clone::clone);
    std::thread::Builder::new().name("swath-tracking".to_owned()).spawn(move || {
        let ending = Ending(shared.clone());
        tracing::dispatcher::with_default(&listener, || {
            span.in_scope(|| {
                let begun = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = match begun {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        return shared.publish(|progress| progress.trouble = Some(no_thread(&error)));
                    }
                };
                runtime.block_on(async {
                    match place {
                        Place::Folder(folder) => send(spool, Folder::new(folder), pace, &shared).await,
                        Place::Server(url) => match Mlflow::new(url, credentials, &pace) {
                            Ok(server) => send(spool, server, pace, &shared).await,
                            Err(fault) => {
                                tracing::warn!("{fault}");
                                shared.publish(|progress| progress.trouble = Some(fault));
                            }
                        },
                    }
                });
                // A name that is being looked up cannot be given up, and must not be waited for.
                runtime.shutdown_background();
            });
        });
        drop(ending);
    })
}

fn no_thread(error: &io::Error) -> Fault {
    Fault::new("K105", format!("nothing can be sent: no runtime on this machine: {error}"))
}

async fn send<S: Sink>(spool: Arc<Spool>, sink: S, pace: Pace, shared: &Arc<Shared>) {
    let orders = shared.orders.subscribe();
    let mut end = shared.orders.subscribe();
    let sent = shared.progress().sent.clone();
    let mut sender = Sender { spool, sink, shared: shared.clone(), orders, pace, sent, told: HashSet::new() };
    let stop = async {
        // The end may be told again, and earlier.
        loop {
            let until = end.borrow_and_update().until;
            tokio::select! {
                () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now).into()), if until.is_some() => return,
                changed = end.changed() => if changed.is_err() { return },
            }
        }
    };
    tokio::select! {
        () = sender.work() => {}
        () = stop => {}
    }
}

struct Sender<S> {
    spool: Arc<Spool>,
    sink: S,
    shared: Arc<Shared>,
    orders: watch::Receiver<Order>,
    pace: Pace,
    sent: Sent,
    /// Codes that a warning was given of.
    told: HashSet<String>,
}

impl<S: Sink> Sender<S> {
    async fn work(&mut self) {
        let mut pause = self.pace.first_pause;
        let mut closing = false;
        loop {
            let order = *self.orders.borrow_and_update();
            if order.until.is_some() && !closing {
                closing = true;
                pause = self.pace.first_pause;
            }
            if order.written <= self.sent.bytes {
                if closing || self.orders.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.parcel(order.written).await {
                Ok(()) => {
                    pause = self.pace.first_pause;
                    self.well();
                    self.rest(self.pace.gather, |order| order.hurry || order.until.is_some()).await;
                }
                Err(trouble) => {
                    let blocked = matches!(trouble, Trouble::Blocked(_));
                    let asked = self.ill(trouble);
                    if blocked && closing {
                        return;
                    }
                    let wait = if blocked { self.pace.longest_pause } else { pause.max(asked) };
                    pause = (pause * 2).min(self.pace.longest_pause);
                    let wait = wait.min(self.pace.longest_pause);
                    self.rest(wait, |order| !closing && order.until.is_some()).await;
                }
            }
        }
    }

    /// Pauses, unless the order is or becomes one that needs haste.
    async fn rest(&mut self, pause: Duration, haste: impl FnMut(&Order) -> bool) {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = self.orders.wait_for(haste) => {}
        }
    }

    /// Sends what comes next.
    async fn parcel(&mut self, written: u64) -> Result<(), Trouble> {
        let run = match self.sent.run.clone() {
            Some(run) => run,
            None => {
                let run = self.sink.run(&self.spool.head).await?;
                self.sent.run = Some(run.clone());
                self.remember();
                run
            }
        };
        let from = self.sent.bytes;
        // On the disk before it is on its way: what was sent and is no longer known would be told again, at another time.
        let next = self.spool.sync().and_then(|()| self.spool.next(from, written));
        let Parcel { entries, end } = next.map_err(|error| Trouble::Passing {
            fault: Fault::new("K102", format!("the spool `{}` cannot be read: {error}", self.spool.folder.display())),
            wait: None,
        })?;
        let (mut refused, mut done_with) = (Vec::new(), None);
        match entries.first() {
            None => {}
            Some(Entry { what: What::Artifact { file, to }, .. }) => {
                match self.sink.artifact(&run, &self.spool.folder.join(file), to).await {
                    Ok(()) => {}
                    Err(Trouble::Refused(fault)) => refused.push(told(&format!("file `{to}`"), fault)),
                    Err(other) => return Err(other),
                }
                done_with = Some(file.clone());
            }
            Some(Entry { what: What::Model { folder, version }, .. }) => {
                let name = version.name.clone();
                match self.model(&run, folder, version).await {
                    Ok(version) => self.sent.models.push(Registered { name, version, at: from }),
                    Err(Trouble::Refused(fault)) => refused.push(told(&format!("model `{name}`"), fault)),
                    Err(other) => return Err(other),
                }
                done_with = Some(folder.clone());
            }
            Some(Entry { what: What::State(state), at }) => match self.sink.state(&run, *state, *at).await {
                Ok(()) => {}
                Err(Trouble::Refused(fault)) => refused.push(told(&format!("state `{}`", state.name()), fault)),
                Err(other) => return Err(other),
            },
            Some(_) => refused = self.values(&run, &entries).await?,
        }
        let told = entries.iter().map(Entry::count).sum::<u64>();
        let taken = told.saturating_sub(refused.len() as u64);
        for fault in refused {
            if self.told.insert(fault.code.to_string()) {
                tracing::warn!("{fault}; the training goes on without it");
            }
            if self.sent.refused.len() < MOST_REFUSALS && !self.sent.refused.contains(&fault) {
                self.sent.refused.push(fault);
            }
        }
        self.sent.bytes = end;
        self.sent.count += taken;
        self.remember();
        if let Some(file) = done_with {
            let path = self.spool.folder.join(file);
            // What cannot be removed takes room and hurts nobody.
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
        Ok(())
    }

    /// Sends values, halving what is refused until it stands alone. Tells what was.
    async fn values(&mut self, run: &Run, entries: &[Entry]) -> Result<Vec<Fault>, Trouble> {
        let all = entries.iter().filter_map(Entry::facts).flatten();
        let mut tags = BTreeMap::new();
        let mut facts = Vec::new();
        for fact in all {
            match fact {
                // The last one counts, and a request may name a tag only once.
                Fact::Tag { key, value } => drop(tags.insert(key, value)),
                other => facts.push(other),
            }
        }
        facts.extend(tags.into_iter().map(|(key, value)| Fact::Tag { key, value }));
        let (mut refused, mut todo) = (Vec::new(), vec![&facts[..]]);
        while let Some(part) = todo.pop() {
            match self.sink.facts(run, part).await {
                Ok(()) => {}
                Err(Trouble::Refused(_)) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    todo.extend([second, first]);
                }
                Err(Trouble::Refused(fault)) => refused.extend(part.first().map(|fact| told(&fact.told(), fault))),
                Err(other) => return Err(other),
            }
        }
        Ok(refused)
    }

    /// Sends the files of a model and makes a version of them.
    async fn model(&mut self, run: &Run, folder: &str, version: &Version) -> Result<u32, Trouble> {
        let folder = self.spool.folder.join(folder);
        // A place of its own, whoever else registers models of the same run: a version never changes its content.
        let own = version.key.clone().unwrap_or_else(|| format!("{}/{}", self.spool.head.id, self.sent.bytes));
        let own = blake3::hash(own.as_bytes()).to_hex();
        let source = format!("models/{}-{}", version.name, &own[..16]);
        let number = match self.sink.find_version(run, &version.name, &source).await? {
            Some(number) => number,
            None => {
                let files = files_below(&folder);
                let files = files.map_err(|error| {
                    Trouble::Refused(Fault::new("K109", format!("its files cannot be read: {error}")))
                })?;
                for file in files {
                    let to = format!("{source}/{}", crate::names::artifact(&file));
                    self.sink.artifact(run, &folder.join(&file), &to).await?;
                }
                self.sink.add_version(run, version, &source).await?
            }
        };
        for alias in &version.aliases {
            self.sink.point(alias, number, version).await?;
        }
        Ok(number)
    }

    fn remember(&mut self) {
        if let Err(error) = self.spool.remember(&self.sent)
            && self.told.insert("remember".to_owned())
        {
            let place = self.spool.folder.display();
            tracing::warn!("how far was sent cannot be written to `{place}`: {error}; a restart sends again");
        }
        let sent = self.sent.clone();
        self.shared.publish(|progress| progress.sent = sent);
    }

    fn well(&mut self) {
        if self.shared.progress().trouble.is_none() {
            return;
        }
        tracing::info!("tracking goes on: `{}` takes in what waited", self.spool.head.address);
        self.told.clear();
        self.shared.publish(|progress| (progress.trouble, progress.blocked) = (None, false));
    }

    /// Tells of trouble, once, and the pause that was asked for.
    fn ill(&mut self, trouble: Trouble) -> Duration {
        let blocked = matches!(trouble, Trouble::Blocked(_));
        let (fault, wait) = match trouble {
            Trouble::Passing { fault, wait } => (fault, wait.unwrap_or_default()),
            Trouble::Blocked(fault) | Trouble::Refused(fault) => (fault, Duration::ZERO),
        };
        if self.told.insert(fault.code.to_string()) {
            let help = fault.help.as_ref().map(|help| format!(" ({help})")).unwrap_or_default();
            let place = self.spool.folder.display();
            tracing::warn!("tracking waits: {fault}{help}; the training goes on, what it tells waits in `{place}`");
        }
        self.shared.publish(|progress| (progress.trouble, progress.blocked) = (Some(fault), blocked));
        wait
    }
}

fn told(what: &str, fault: Fault) -> Fault {
    Fault { message: format!("the {what} is refused: {}", fault.message), ..fault }
}
