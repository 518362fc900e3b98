//! Reading windows of files that may be far away: signed when opened, tried again when the network fails.

use std::time::Duration;

use swath_access::Signer;
use swath_geo::{ErrorKind, GeoError, OpenOptions, Raster};
use swath_task::{Context, TaskError};

use crate::faults::geo_fault;

/// Waits before the second attempt and those after it: a blip passes within the attempt, an outage is for the `retry` of
/// the step.
pub const WAITS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(6), Duration::from_secs(15)];
/// How often a far file that seems to be no raster, or a damaged one, is opened again.
const UNFETCHED: usize = 2;
/// How often a file is opened again whose server refuses access: a new signature is let in at once, or never.
const DENIED: usize = 3;
/// A server that asks for a longer pause is left to the engine, which does not hold the machine meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How long to wait after attempt number `attempt` (from 0) that failed so; `None` when it is not to be tried again.
pub fn wait_after(error: &TaskError, attempt: usize) -> Option<Duration> {
    let TaskError::Transient { retry_after, .. } = error else { return None };
    let wait = *WAITS.get(attempt)?;
    let wait = retry_after.map_or(wait, |asked| asked.max(wait));
    (wait <= LONGEST_PAUSE).then_some(wait)
}

/// Open rasters of one thread, the most recently used last.
pub struct Reader<'a> {
    signer: &'a Signer,
    context: &'a Context,
    open: Vec<(String, Raster)>,
    capacity: usize,
}

impl<'a> Reader<'a> {
    /// A reader that keeps up to `capacity` files open.
    pub fn new(signer: &'a Signer, context: &'a Context, capacity: usize) -> Self {
        Self { signer, context, open: Vec::new(), capacity: capacity.max(1) }
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
            self.context.check_cancelled()?;
            let opened = match self.take(href, size) {
                Ok(opened) => opened,
                // There was no signature to be had.
                Err(error) => {
                    let Some(wait) = wait_after(&error, attempt) else { return Err(error) };
                    tracing::warn!(attempt = attempt + 1, wait_ms = wait.as_millis() as u64, "{error}");
                    attempt += 1;
                    pause(self.context, wait)?;
                    continue;
                }
            };
            let error = match opened {
                Ok(raster) => match work(&raster) {
                    Ok(value) => {
                        self.keep(href, raster);
                        return Ok(value);
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if error.kind() == ErrorKind::Denied {
                self.signer.forget(href);
            }
            // GDAL says that a far file is no raster also when its first bytes could not be fetched, and a page in place
            // of pixels cannot be decoded.
            let seems_bad = matches!(error.kind(), ErrorKind::NotARaster | ErrorKind::Damaged);
            let unfetched = seems_bad && href.contains("://") && attempt < UNFETCHED;
            let may_pass = error.is_transient() && (error.kind() != ErrorKind::Denied || attempt < DENIED);
            let Some(wait) = WAITS.get(attempt).filter(|_| may_pass || unfetched) else {
                return Err(geo_fault(error));
            };
            tracing::warn!(attempt = attempt + 1, wait_ms = wait.as_millis() as u64, "{error}");
            attempt += 1;
            pause(self.context, *wait)?;
        }
    }

    fn take(&mut self, href: &str, size: Option<u64>) -> Result<Result<Raster, GeoError>, TaskError> {
        if let Some(at) = self.open.iter().position(|(name, _)| name == href) {
            return Ok(Ok(self.open.remove(at).1));
        }
        let signed = self.signer.sign_blocking(href)?;
        Ok(Raster::open_with(&signed, &OpenOptions { expected_size: size }))
    }

    fn keep(&mut self, href: &str, raster: Raster) {
        if self.open.len() == self.capacity {
            self.open.remove(0);
        }
        self.open.push((href.to_owned(), raster));
    }
}

/// Waits, unless the step is cancelled meanwhile.
pub fn pause(context: &Context, wait: Duration) -> Result<(), TaskError> {
    let step = Duration::from_millis(100);
    for _ in 0..wait.as_millis() / step.as_millis() {
        context.check_cancelled()?;
        std::thread::sleep(step);
    }
    context.check_cancelled()
}
