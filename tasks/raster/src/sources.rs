//! The files a step reads, here and far away: signed when opened, and each of one version for the whole step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use swath_access::{RemoteFile, Signer};
use swath_geo::{ErrorKind, GeoError, OpenOptions, Ranges, Raster};
use swath_kinds::Signing;
use swath_task::{Context, TaskError};
use tokio::runtime::Handle;

use crate::faults::geo_fault;

/// All files of a step. Use it from threads that may wait, within the runtime of the step.
pub struct Sources {
    signer: Signer,
    runtime: Handle,
    context: Context,
    /// The remote files that were opened, by unsigned address: what is opened again must be the same.
    seen: Mutex<BTreeMap<String, RemoteFile>>,
}

/// A raster that is open, and who fetches its bytes.
pub struct Opened {
    pub raster: Raster,
    remote: Option<Arc<Remote>>,
}

impl Opened {
    /// Why `error` befell the raster, with the pause that a server asked for.
    pub fn fault(&self, error: GeoError) -> TaskError {
        let told = self.remote.as_ref().and_then(|remote| lock(&remote.failure).take());
        told.unwrap_or_else(|| geo_fault(error))
    }
}

impl Sources {
    /// Sources signed so.
    pub fn new(signing: &Signing, context: &Context) -> Result<Self, TaskError> {
        Ok(Self {
            signer: Signer::new(signing)?,
            runtime: Handle::current(),
            context: context.clone(),
            seen: Mutex::default(),
        })
    }

    /// The step they belong to.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Opens the raster at `href`. `size`: bytes it was listed with.
    pub fn open(&self, href: &str, size: Option<u64>) -> Result<Opened, TaskError> {
        let options = OpenOptions { expected_size: size };
        let address = self.signer.sign_blocking(href)?;
        if !address.starts_with("http://") && !address.starts_with("https://") {
            let raster = Raster::open_with(&address, &options).map_err(geo_fault)?;
            return Ok(Opened { raster, remote: None });
        }
        let seen = lock(&self.seen).get(href).cloned();
        let file = match seen {
            Some(file) if file.address() == address => file,
            Some(file) => file.anew(&address),
            None => self.runtime.block_on(until_cancelled(&self.context, RemoteFile::open(&address)))?,
        };
        lock(&self.seen).insert(href.to_owned(), file.clone());
        let (runtime, context) = (self.runtime.clone(), self.context.clone());
        let remote = Arc::new(Remote { file, runtime, context, failure: Mutex::default() });
        match Raster::open_ranges(href, remote.clone(), &options) {
            Ok(raster) => {
                // What the opening could do without is no reason for a later failure.
                *lock(&remote.failure) = None;
                Ok(Opened { raster, remote: Some(remote) })
            }
            Err(error) => Err(lock(&remote.failure).take().unwrap_or_else(|| geo_fault(error))),
        }
    }

    /// After a failure: the next reader of `href` fetches everything anew, by a new signature when access was denied.
    pub fn distrust(&self, href: &str, denied: bool) {
        if denied {
            self.signer.forget(href);
        }
        if let Some(file) = lock(&self.seen).get_mut(href) {
            *file = file.anew(file.address());
        }
    }
}

/// One remote file as GDAL reads it.
struct Remote {
    file: RemoteFile,
    runtime: Handle,
    context: Context,
    /// What failed last, in full.
    failure: Mutex<Option<TaskError>>,
}

impl Ranges for Remote {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn read(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), GeoError> {
        let read = self.runtime.block_on(until_cancelled(&self.context, self.file.read(parts)));
        read.map_err(|error| {
            let told = GeoError::new(ErrorKind::Unreachable, error.to_string());
            lock(&self.failure).get_or_insert(error);
            told
        })
    }
}

/// A server that is silent does not hold up a step that was told to stop.
async fn until_cancelled<T>(
    context: &Context,
    work: impl Future<Output = Result<T, TaskError>>,
) -> Result<T, TaskError> {
    tokio::select! {
        result = work => result,
        () = context.cancelled() => Err(TaskError::Cancelled),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
