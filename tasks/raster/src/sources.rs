//! The files a step reads, here and far away: signed when opened. What lies behind HTTP is of one version for the step.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use swath_access::{Client, RemoteFile, Signer, signs_anew};
use swath_geo::{ErrorKind, GeoError, OpenOptions, Ranges, Raster};
use swath_kinds::Signing;
use swath_task::{Context, TaskError};
use tokio::runtime::Handle;

use crate::faults::geo_fault;

/// All files of a step. Use it from threads that may wait, within the runtime of the step.
pub struct Sources {
    signing: Signing,
    signer: Signer,
    client: Client,
    runtime: Handle,
    context: Context,
    /// The remote files that were opened, by unsigned address: what is opened again must be the same. A file's own lock is
    /// held while it is opened, so that it is opened once.
    seen: Mutex<BTreeMap<String, Arc<Mutex<Option<RemoteFile>>>>>,
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
            signing: signing.clone(),
            signer: Signer::new(signing)?,
            client: Client::for_ranges()?,
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
        let slot = lock(&self.seen).entry(href.to_owned()).or_default().clone();
        let file = {
            let mut seen = lock(&slot);
            let file = match &*seen {
                Some(file) => file.at(&address),
                None => {
                    self.runtime.block_on(until_cancelled(&self.context, RemoteFile::open(&self.client, &address)))?
                }
            };
            seen.insert(file).clone()
        };
        let (runtime, context) = (self.runtime.clone(), self.context.clone());
        let remote = Arc::new(Remote { file, runtime, context, failure: Mutex::default() });
        match Raster::open_ranges(href, remote.clone(), &options) {
            Ok(raster) => Ok(Opened { raster, remote: Some(remote) }),
            Err(error) => Err(lock(&remote.failure).take().unwrap_or_else(|| geo_fault(error))),
        }
    }

    /// Whether access that was denied to `href` may be granted to a new signature.
    pub fn signs_anew(&self, href: &str) -> bool {
        signs_anew(&self.signing, href)
    }

    /// After access was denied: the next reader of `href` asks for a new signature.
    pub fn sign_anew(&self, href: &str) {
        self.signer.forget(href);
    }

    /// After bytes that cannot be right: the next reader of `href` fetches all of them anew.
    pub fn distrust(&self, href: &str) {
        let slot = lock(&self.seen).get(href).cloned();
        if let Some(file) = slot.as_deref().map(lock).as_deref_mut().and_then(Option::as_mut) {
            *file = file.anew();
        }
    }
}

/// One remote file as GDAL reads it.
struct Remote {
    file: RemoteFile,
    runtime: Handle,
    context: Context,
    /// What failed first since it was asked, in full.
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
