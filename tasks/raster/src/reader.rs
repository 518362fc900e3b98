//! Reading windows of files that may be far away, again when the network fails.

use std::time::Duration;

use swath_geo::{ErrorKind, GeoError, Raster};
use swath_task::{Context, TaskError};

use crate::sources::{Opened, Sources};

/// Waits before the second attempt and those after it: a blip passes within the attempt, an outage is for the `retry` of
/// the step.
const WAITS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(6), Duration::from_secs(15)];
/// How often a far file that seems to be no raster, or a damaged one, is opened again.
const UNFETCHED: usize = 2;
/// How often a file is opened again whose server refuses access: a new signature is let in at once, or never.
const DENIED: usize = 3;
/// The code of an HTTP answer that refuses access, and of one that is another part than was asked for.
const ACCESS_DENIED: &str = "S105";
const OTHER_PART: &str = "S117";
/// A server that asks for a longer pause is left to the engine, which does not hold the machine meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long to wait after attempt number `attempt` (from 0) that failed so; `None` when it is not to be tried again.
fn wait_after(error: &TaskError, attempt: usize) -> Option<Duration> {
    let TaskError::Transient { retry_after, .. } = error else { return None };
    let wait = *WAITS.get(attempt)?;
    let wait = retry_after.map_or(wait, |asked| asked.max(wait));
    (wait <= LONGEST_PAUSE).then_some(wait)
}

/// Open rasters of one thread, the most recently used last.
pub struct Reader<'a> {
    sources: &'a Sources,
    open: Vec<(String, Opened)>,
    capacity: usize,
}

impl<'a> Reader<'a> {
    /// A reader that keeps up to `capacity` files open.
    pub fn new(sources: &'a Sources, capacity: usize) -> Self {
        Self { sources, open: Vec::new(), capacity: capacity.max(1) }
    }

    /// Runs `work` on the raster at `href`, opening it when needed. Failures that may pass are tried again with the
    /// file opened anew, after a pause that ends when the step is cancelled.
    pub fn with<R>(
        &mut self,
        href: &str,
        size: Option<u64>,
        mut work: impl FnMut(&Raster) -> Result<R, GeoError>,
    ) -> Result<R, TaskError> {
        let mut attempts = Attempts { sources: self.sources, href, failed: 0, denied: 0 };
        loop {
            self.sources.context().check_cancelled()?;
            let error = match self.take(href, size) {
                Ok(opened) => match work(&opened.raster) {
                    Ok(value) => {
                        self.keep(href, opened);
                        return Ok(value);
                    }
                    Err(error) => opened.fault(error),
                },
                Err(error) => error,
            };
            let wait = attempts.after(&error).ok_or_else(|| attempts.last(error.clone()))?;
            tracing::warn!(wait_ms = wait.as_millis() as u64, "{error}");
            pause(self.sources.context(), wait)?;
        }
    }

    fn take(&mut self, href: &str, size: Option<u64>) -> Result<Opened, TaskError> {
        match self.open.iter().position(|(name, _)| name == href) {
            Some(at) => Ok(self.open.remove(at).1),
            None => self.sources.open(href, size),
        }
    }

    fn keep(&mut self, href: &str, opened: Opened) {
        if self.open.len() == self.capacity {
            self.open.remove(0);
        }
        self.open.push((href.to_owned(), opened));
    }
}

/// The attempts to read one window.
struct Attempts<'a> {
    sources: &'a Sources,
    href: &'a str,
    failed: usize,
    denied: usize,
}

impl Attempts<'_> {
    /// How long to wait before the next attempt, after one that failed so; `None`: there is none.
    fn after(&mut self, error: &TaskError) -> Option<Duration> {
        let (TaskError::Transient { fault, .. } | TaskError::Permanent(fault)) = error else { return None };
        let is = |kind: ErrorKind| fault.code == kind.code();
        // What was replaced while it was read is another file from now on.
        if is(ErrorKind::Changed) {
            return None;
        }
        if self.may_sign_anew(&fault.code) {
            self.sources.sign_anew(self.href);
            let wait = *WAITS.get(self.denied).filter(|_| self.denied < DENIED)?;
            self.denied += 1;
            return Some(wait);
        }
        // A page in place of pixels cannot be decoded, nor can what a proxy mixed up.
        let seems_bad = is(ErrorKind::NotARaster) || is(ErrorKind::Damaged);
        if seems_bad || fault.code == OTHER_PART {
            self.sources.distrust(self.href);
        }
        let unfetched = seems_bad && self.href.contains("://") && self.failed < UNFETCHED;
        let wait = if unfetched { WAITS.get(self.failed).copied() } else { wait_after(error, self.failed) };
        self.failed += 1;
        wait
    }

    /// The error of the last attempt: a signature that was refused may be granted to a later attempt of the step.
    fn last(&self, error: TaskError) -> TaskError {
        match error {
            TaskError::Permanent(fault) if self.may_sign_anew(&fault.code) => fault.transient(None),
            error => error,
        }
    }

    fn may_sign_anew(&self, code: &str) -> bool {
        code == ACCESS_DENIED && self.sources.signs_anew(self.href)
    }
}

/// Waits, unless the step is cancelled meanwhile.
fn pause(context: &Context, wait: Duration) -> Result<(), TaskError> {
    let step = Duration::from_millis(100);
    for _ in 0..wait.as_millis() / step.as_millis() {
        context.check_cancelled()?;
        std::thread::sleep(step);
    }
    context.check_cancelled()
}
