//! How much memory a worker and what it started take, as the kernel counts it.
//!
//! What is watched is the resident memory that is no file's: pages of mapped files are the kernel's to take back. A limit of
//! the address space (`RLIMIT_AS`, `RLIMIT_DATA`) would refuse honest libraries that reserve much and use little, and a
//! control group of its own for each worker needs rights that a server in a container seldom has.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use swath_task::Bytes;

/// How often it is looked for processes that workers have started.
const SEARCH: Duration = Duration::from_secs(1);

/// The memory of a worker and of the processes in its session.
pub(crate) struct Memory {
    leader: Pid,
    peak: Bytes,
}

impl Memory {
    /// Of the session that this process leads.
    pub fn of(leader: Pid) -> Self {
        Self { leader, peak: Bytes(0) }
    }

    /// What they take together now.
    pub fn used(&mut self) -> Bytes {
        // Itself by name: it may be too young to have been seen.
        let others = recent_members(self.leader).into_iter().filter(|pid| *pid != self.leader);
        let used = Bytes(std::iter::once(self.leader).chain(others).map(resident).sum());
        self.peak = self.peak.max(used);
        used
    }

    /// The most that they were seen to take since the last time this was asked.
    pub fn peak(&mut self) -> Bytes {
        std::mem::replace(&mut self.peak, Bytes(0))
    }
}

/// Every process of a session, itself included. They may have groups of their own and may have lost their parents.
pub(crate) fn members(session: Pid) -> Vec<Pid> {
    sessions().remove(&session).unwrap_or_default()
}

/// [`members`] as they were at most [`SEARCH`] ago: all workers share one look around.
fn recent_members(session: Pid) -> Vec<Pid> {
    static LOOKED: Mutex<Option<(Instant, Sessions)>> = Mutex::new(None);
    let mut looked = crate::lock(&LOOKED);
    let fresh = looked.take().filter(|(at, _)| at.elapsed() < SEARCH);
    let (_, sessions) = looked.insert(fresh.unwrap_or_else(|| (Instant::now(), sessions())));
    sessions.get(&session).cloned().unwrap_or_default()
}

type Sessions = HashMap<Pid, Vec<Pid>>;

fn sessions() -> Sessions {
    let mut sessions = Sessions::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).filter(|pid| *pid > 0);
        if let Some(pid) = pid.and_then(Pid::from_raw)
            && let Some(session) = session_of(pid)
        {
            sessions.entry(session).or_default().push(pid);
        }
    }
    sessions
}

/// The session of a process. Read and not asked of the kernel by `getsid`, whose answer about processes outside of the
/// container of this one (0) is no process.
fn session_of(pid: Pid) -> Option<Pid> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // After the name in brackets, which may hold anything: state, parent, group, session.
    let session = text.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()?;
    (session > 0).then(|| Pid::from_raw(session)).flatten()
}

/// Resident bytes of a process that belong to no file; 0 when it is gone.
fn resident(pid: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", pid.as_raw_nonzero())).unwrap_or_default();
    let mut pages = text.split(' ').skip(1).map_while(|number| number.parse::<u64>().ok());
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}
