//! The process of a worker: started, spoken with, told dead, killed with all it started.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::Isolation;
use super::memory::{Memory, members};
use super::output::Stream;
use super::wire::{self, FromWorker, ToWorker};

/// How long the kernel may take to end a process.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many messages of a worker wait here; then it waits.
const WAITING: usize = 64;

/// A worker, idle or at work. Killed with all it started when dropped.
pub(crate) struct Worker {
    child: Child,
    pid: Pid,
    to: mpsc::UnboundedSender<Vec<u8>>,
    pub from: mpsc::Receiver<io::Result<FromWorker>>,
    pub out: Stream,
    pub err: Stream,
    pub memory: Memory,
    /// Its end was taken note of: its id may be another's by now.
    reaped: bool,
    _alive: Alive,
}

/// Counts a worker as long as there is one.
pub(crate) struct Alive(Arc<AtomicU32>);

impl Alive {
    /// One more.
    pub fn new(count: &Arc<AtomicU32>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    /// Starts one. `secret` names environment variables that it must not see.
    pub async fn start(isolation: &Isolation, secret: &[String], alive: Alive) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let ((out, its_out), (err, its_err)) = (io::pipe()?, io::pipe()?);
        ours.set_nonblocking(true)?;
        let mut command = Command::new(&isolation.program);
        command.arg0("swath").args(&isolation.arguments).kill_on_drop(true);
        for name in secret {
            command.env_remove(name);
        }
        // The channel is its standard input: the one place that every program finds without being told.
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::from(its_out)).stderr(Stdio::from(its_err));
        // The engine's own files are closed on exec; what it has itself inherited is not.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let child = spawn(command).await?;
        let raw = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let pid = raw.ok_or_else(|| io::Error::other("it ended at once"))?;
        let (reading, writing) = UnixStream::from_std(ours)?.into_split();
        let (told, from) = mpsc::channel(WAITING);
        let (to, waiting) = mpsc::unbounded_channel();
        tokio::spawn(listen(reading, told));
        tokio::spawn(speak(writing, waiting));
        let (out, err) = (Stream::new("stdout", out.into())?, Stream::new("stderr", err.into())?);
        Ok(Self { child, pid, to, from, out, err, memory: Memory::of(pid), reaped: false, _alive: alive })
    }

    /// Says something, without waiting. What cannot be said because it has died is found out by listening.
    ///
    /// # Errors
    /// The message is too long, or holds what cannot be sent.
    pub fn say(&self, message: &ToWorker) -> io::Result<()> {
        let frame = wire::frame(message)?;
        // Its death ends the task at the other end.
        let _ = self.to.send(frame);
        Ok(())
    }

    /// Whether it can still be spoken with.
    pub fn lives(&mut self) -> bool {
        self.reaped = !matches!(self.child.try_wait(), Ok(None));
        !self.reaped && !self.to.is_closed()
    }

    /// Kills it with all it started, and waits until it is gone.
    pub async fn end(mut self) {
        if !self.reaped {
            kill(self.pid);
            // Longer only when the kernel itself hangs in a call of it.
            self.reaped = tokio::time::timeout(PATIENCE, self.child.wait()).await.is_ok();
        }
    }

    /// How it ended, when its channel has. What it had started is killed.
    pub async fn status(&mut self) -> io::Result<ExitStatus> {
        // A dying process closes its files before it can be waited for; by what it dies is settled then.
        kill(self.pid);
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => {
                self.reaped = true;
                status
            }
            Err(_) => Err(io::Error::other("it does not die")),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.reaped {
            kill(self.pid);
        }
    }
}

/// Kills the members of a session, and by name the one that leads it: it may not have come as far as to do so.
fn kill(leader: Pid) {
    for process in std::iter::once(leader).chain(members(leader)) {
        // It fails when the process is gone, which is what is wanted.
        let _ = kill_process(process, Signal::KILL);
    }
}

async fn listen(mut reading: OwnedReadHalf, told: mpsc::Sender<io::Result<FromWorker>>) {
    loop {
        let message = hear(&mut reading).await;
        let last = message.is_err();
        if told.send(message).await.is_err() || last {
            return;
        }
    }
}

async fn hear(reading: &mut OwnedReadHalf) -> io::Result<FromWorker> {
    let mut head = [0; 4];
    reading.read_exact(&mut head).await?;
    let mut frame = vec![0; wire::length(head)?];
    reading.read_exact(&mut frame).await?;
    wire::message(&frame)
}

async fn speak(mut writing: OwnedWriteHalf, mut waiting: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = waiting.recv().await {
        if writing.write_all(&frame).await.is_err() {
            return;
        }
    }
}

struct Wanted {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts a program from a thread that ends with this process only: the kernel tells a child of its parent's death when
/// the thread ends that started it.
async fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Sender<Wanted>> = OnceLock::new();
    let gone = || io::Error::other("the thread that starts workers has ended");
    let spawner = match SPAWNER.get() {
        Some(spawner) => spawner,
        None => {
            let (sender, wishes) = channel::<Wanted>();
            std::thread::Builder::new().name("swath-workers".to_owned()).spawn(move || {
                for Wanted { mut command, runtime, reply } in wishes {
                    let _inside = runtime.enter();
                    // A panic must not end the thread, and with it every worker.
                    let spawned = catch_unwind(AssertUnwindSafe(|| command.spawn()));
                    // Dropped when nobody waits any more: the worker is killed then.
                    let _ = reply.send(spawned.unwrap_or_else(|_| Err(io::Error::other("starting it panicked"))));
                }
            })?;
            SPAWNER.get_or_init(|| sender)
        }
    };
    let (reply, answer) = oneshot::channel();
    spawner.send(Wanted { command, runtime: Handle::current(), reply }).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}
