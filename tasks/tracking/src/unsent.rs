//! Spool folders in which something waits, and the sending of all of it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use swath_task::Fault;

use crate::error::Error;
use crate::report::{Report, UNSENT_RUN};
use crate::settings::{Credentials, Pace, Place};
use crate::spool::{self, Head};
use crate::tracking::Tracking;

/// Where the spool folders lie of what is told to a folder, or to a server in its stead: beside it, hidden. Within it MLflow would
/// take them for an experiment, and open nothing.
pub fn spools_beside(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    folder.with_file_name(format!(".{name}.unsent"))
}

/// Whether a folder is called as those that [`spools_beside`] tells.
pub(crate) fn is_of_spools(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.ends_with(".unsent")
}

/// Sends what waits in a folder: in itself where it is a spool folder, in those in it, and in those beside it in `.NAME.unsent`; with
/// `only`, what is told to that place. Those that began first come first. All of it together takes no longer than
/// [`Pace::finish`], and ends when `stop` says so. `waits` is told, again and again, what is waited for. Spool folders that nobody
/// needs any more are removed.
pub fn send_all(
    folder: &Path,
    only: Option<&Place>,
    credentials: &Credentials,
    pace: &Pace,
    stop: &dyn Fn() -> bool,
    waits: &dyn Fn(&Fault),
) -> Vec<(PathBuf, Result<Report, Error>)> {
    let until = Instant::now() + pace.finish;
    let here = spools(folder).into_iter().filter(|(_, head)| only.is_none_or(|place| is_told_to(head, place)));
    let send = |(spool, _): (PathBuf, Head)| {
        let pace = Pace { finish: until.saturating_duration_since(Instant::now()), ..pace.clone() };
        let sent = Tracking::send_unless(&spool, credentials.clone(), pace, stop, waits).inspect(Report::tidy);
        (spool, sent)
    };
    here.map(send).collect()
}

/// The spool folder in which the run of a reference waits that no server has made yet, to be told to this place.
pub(crate) fn of_run(folder: &Path, place: &Place, reference: &str) -> Option<PathBuf> {
    let id = reference.strip_prefix(UNSENT_RUN)?;
    let is_it = |head: &Head| head.id == id && is_told_to(head, place);
    spools(folder).into_iter().find(|(_, head)| is_it(head)).map(|(spool, _)| spool)
}

fn is_told_to(head: &Head, place: &Place) -> bool {
    head.address == place.told()
}

/// The spool folders in a folder and those beside it, oldest first.
fn spools(folder: &Path) -> Vec<(PathBuf, Head)> {
    let inside = |folder: &Path| {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let own = std::iter::once(folder.to_owned());
    let all = own.chain(inside(folder)).chain(inside(&spools_beside(folder)));
    let mut found: Vec<_> = all.filter_map(|path| spool::head_of(&path).map(|head| (path, head))).collect();
    found.sort_by_key(|(_, head)| head.created);
    found
}
