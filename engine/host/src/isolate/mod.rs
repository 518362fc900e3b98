//! Attempts in processes of their own: what a task does to its process, the engine survives.
//!
//! A worker is this very program, started again ([`crate::worker`] is its side). One attempt at a time is sent to it; it
//! answers with progress, log lines, requests and at last the result. The engine's side of the attempt stays what it is:
//! the worker asks it to find and to commit artifacts, so that digests are checked once a process, any store will do, and
//! only an attempt that the engine still waits for commits anything.
//!
//! 1. A worker that dies ends one attempt, which is lost and counted apart (I11).
//! 2. A worker whose attempt is given up (cancelled, out of time, over its memory, silent) is killed with all it started:
//!    no late answer of it can come (I5).
//! 3. A worker dies with the engine: the kernel sends it SIGKILL, and it ends itself when its channel does.
//! 4. No secret that the engine knows is on the command line or in the environment of a worker that it starts.
//! 5. Only a worker whose attempt succeeded, and which did not grow, takes another, of the same task.

mod attempt;
mod memory;
mod output;
mod pool;
mod process;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use swath_plan::Isolate;
use swath_task::{Bytes, Fault};

pub(crate) use attempt::{Apart, run};
pub(crate) use pool::Pool;

/// Which attempts run in processes of their own where the flow does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolated {
    /// None.
    None,
    /// Those of tasks that call native code ([`swath_task::Task::NATIVE`]).
    Native,
    /// All.
    All,
}

/// How attempts run in processes of their own.
#[derive(Clone, Debug)]
pub struct Isolation {
    /// Which do where the flow does not say.
    pub which: Isolated,
    /// The program of the workers: with `arguments` it is a [`crate::worker`] of the same tasks.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// A worker that shows no sign of life for so long is killed. It gives one every quarter of a second, from a thread of
    /// its own: a long call of native code does not stop it, a process that is suspended or whose machine hangs does.
    pub heartbeat: Duration,
    /// How many workers may wait for another attempt.
    pub idle: usize,
    /// What a worker is told of the trace that the current attempt belongs to.
    pub trace: fn() -> BTreeMap<String, String>,
    /// What becomes of what workers tell of the spans in it ([`crate::worker::Channel::tell_span`]).
    pub spans: fn(&str),
}

impl Isolation {
    /// [`Isolation::heartbeat`] unless somebody says otherwise.
    pub const HEARTBEAT: Duration = Duration::from_secs(30);

    /// Workers that are this program, with these arguments.
    pub fn new(which: Isolated, arguments: Vec<OsString>) -> Self {
        // By this name it is what runs now, even when another program has been put in its place meanwhile.
        let program = PathBuf::from("/proc/self/exe");
        let idle = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        Self { which, program, arguments, heartbeat: Self::HEARTBEAT, idle, trace: BTreeMap::new, spans: |_| {} }
    }
}

/// The memory at which an attempt that needs so much is ended: half as much again for what a task cannot foresee, and
/// 256 MiB for the program and its libraries. Nothing needed is no limit.
pub(crate) fn limit_of(needed: Bytes) -> Option<Bytes> {
    (needed.0 > 0).then(|| Bytes(needed.0.saturating_add(needed.0 / 2).saturating_add(256 << 20)))
}

/// The least share of a core that an isolated attempt holds: steps that only wait must not start processes without end.
pub(crate) const LEAST_CPU: f32 = 0.125;

/// Whether an attempt runs in a process of its own, as the flow or else the engine says it.
///
/// # Errors
/// E334: the flow asks for it, and this engine cannot.
pub(crate) fn applies(isolation: Option<&Isolation>, asked: Option<Isolate>, native: bool) -> Result<bool, Fault> {
    match (asked, isolation) {
        (Some(Isolate::None), _) | (None, None) => Ok(false),
        (Some(Isolate::Process), Some(_)) => Ok(true),
        (Some(Isolate::Process), None) => {
            let message = "the flow asks for a process of its own, and this program starts none";
            Err(Fault::new("E334", message).help("take `isolate: process` away, or run the flow with `swath`"))
        }
        (None, Some(isolation)) => Ok(match isolation.which {
            Isolated::None => false,
            Isolated::Native => native,
            Isolated::All => true,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_decides_before_the_engine_and_the_engine_by_task() {
        let with = |which| Isolation::new(which, Vec::new());
        for (which, asked, native, isolated) in [
            (Isolated::None, None, true, false),
            (Isolated::None, Some(Isolate::Process), false, true),
            (Isolated::Native, None, true, true),
            (Isolated::Native, None, false, false),
            (Isolated::Native, Some(Isolate::None), true, false),
            (Isolated::All, None, false, true),
        ] {
            assert_eq!(applies(Some(&with(which)), asked, native), Ok(isolated), "{which:?} {asked:?} {native}");
        }
        assert_eq!(applies(None, None, true), Ok(false));
        assert_eq!(applies(None, Some(Isolate::Process), true).unwrap_err().code, "E334");
    }

    #[test]
    fn a_step_may_use_half_as_much_again_as_it_needs_and_what_the_program_takes() {
        assert_eq!(limit_of(Bytes::mib(1024)), Some(Bytes::mib(1024 + 512 + 256)));
        assert_eq!(limit_of(Bytes(0)), None);
    }
}
