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
/// The code of an HTTP answer that refuses access.
const ACCESS_DENIED: &str = "S105";
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
        let mut attempt = 0;
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
            let Some(wait) = self.again(&error, href, attempt) else { return Err(error) };
            tracing::warn!(attempt = attempt + 1, wait_ms = wait.as_millis() as u64, "{error}");
            attempt += 1;
            pause(self.sources.context(), wait)?;
        }
    }

    /// How long to wait before `href` is read again, after attempt number `attempt` (from 0) failed so; `None`: not.
    fn again(&self, error: &TaskError, href: &str, attempt: usize) -> Option<Duration> {
        let (TaskError::Transient { fault, .. } | TaskError::Permanent(fault)) = error else { return None };
        let code = fault.code.as_ref();
        let is = |kind: ErrorKind| code == kind.code();
        // What was replaced while it was read is another file from now on.
        if is(ErrorKind::Changed) {
            return None;
        }
        let denied = is(ErrorKind::Denied) || code == ACCESS_DENIED;
        self.sources.distrust(href, denied);
        if denied {
            return WAITS.get(attempt).filter(|_| attempt < DENIED).copied();
        }
        // A page in place of pixels cannot be decoded, nor can what a proxy mixed up.
        let seems_bad = is(ErrorKind::NotARaster) || is(ErrorKind::Damaged);
        if seems_bad && href.contains("://") && attempt < UNFETCHED {
            return WAITS.get(attempt).copied();
        }
        wait_after(error, attempt)
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

/// Waits, unless the step is cancelled meanwhile.
fn pause(context: &Context, wait: Duration) -> Result<(), TaskError> {
    let step = Duration::from_millis(100);
    for _ in 0..wait.as_millis() / step.as_millis() {
        context.check_cancelled()?;
        std::thread::sleep(step);
    }
    context.check_cancelled()
}
