//! How much memory a worker and what it started take, as the kernel counts it.
//!
//! What is watched is the resident memory that is no file's: pages of mapped files are the kernel's to take back. A limit of
//! the address space (`RLIMIT_AS`, `RLIMIT_DATA`) would refuse honest libraries that reserve much and use little, and a
//! control group of its own for each worker needs rights that a server in a container seldom has.

use std::time::{Duration, Instant};

use rustix::process::Pid;
use swath_task::Bytes;

/// How often it is looked for processes that the worker has started.
const SEARCH: Duration = Duration::from_secs(1);

/// The members of a worker's session, and their memory.
pub(crate) struct Memory {
    session: Pid,
    members: Vec<Pid>,
    searched: Instant,
    peak: Bytes,
}

impl Memory {
    /// Of the session that this process leads.
    pub fn of(session: Pid) -> Self {
        Self { session, members: vec![session], searched: Instant::now(), peak: Bytes(0) }
    }

    /// What they take together now.
    pub fn used(&mut self) -> Bytes {
        if self.searched.elapsed() >= SEARCH {
            self.members = members(self.session);
            self.searched = Instant::now();
        }
        let used = Bytes(self.members.iter().map(|pid| resident(*pid)).sum());
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
    let listed = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids =
        listed.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok().filter(|pid| *pid > 0)?));
    pids.filter(|pid| session_of(*pid) == Some(session)).collect()
}

/// The session of a process. Read and not asked of the kernel by `getsid`, whose answer about processes outside of the
/// container of this one (0) is no process.
fn session_of(pid: Pid) -> Option<Pid> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // After the name in brackets, which may hold anything: state, parent, group, session.
    let session = text.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?;
    Pid::from_raw(session.parse().ok()?)
}

/// Resident bytes of a process that belong to no file; 0 when it is gone.
fn resident(pid: Pid) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", pid.as_raw_nonzero())).unwrap_or_default();
    let mut pages = text.split(' ').skip(1).map_while(|number| number.parse::<u64>().ok());
    let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    resident.saturating_sub(shared) * rustix::param::page_size() as u64
}
