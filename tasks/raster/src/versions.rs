//! Remote files that change while a step reads them: the versions before the first and after the last pixel must agree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use swath_access::{Client, FileVersion, Signer};
use swath_geo::ErrorKind;
use swath_task::{Context, Fault, TaskError};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::faults::geo_fault;
use crate::reader::{pause, wait_after};

/// Questions under way at a time.
const AT_ONCE: usize = 16;

/// The versions of the remote files of a step, by unsigned address.
#[derive(Default)]
pub struct Versions {
    seen: Mutex<BTreeMap<String, FileVersion>>,
}

impl Versions {
    /// Notes the version of a file about to be read for the first time, and forgets what this process had cached of it.
    /// A file that does not answer is left to its reader, whose error says more. Call it from a thread that may wait.
    pub fn note(&self, href: &str, signer: &Signer, runtime: &Handle, ctx: &Context) -> Result<(), TaskError> {
        if !is_http(href) {
            return Ok(());
        }
        swath_geo::forget_remote(href).map_err(geo_fault)?;
        let client = Client::shared()?;
        let mut attempt = 0;
        let address = loop {
            match signer.sign_blocking(href) {
                Ok(address) => break address,
                Err(error) => {
                    let Some(wait) = wait_after(&error, attempt) else { return Err(error) };
                    tracing::warn!(attempt = attempt + 1, wait_ms = wait.as_millis() as u64, "{error}");
                    attempt += 1;
                    pause(ctx, wait)?;
                }
            }
        };
        match runtime.block_on(FileVersion::of(&client, &address)) {
            Ok(version) => drop(lock(&self.seen).insert(href.to_owned(), version)),
            Err(error) => tracing::debug!("the version of `{}` is not known: {error}", swath_access::redact(href)),
        }
        Ok(())
    }

    /// Asks for all versions again. One that differs is a failure that may pass: the step reads everything anew.
    pub fn check(&self, signer: &Signer, runtime: &Handle, ctx: &Context) -> Result<(), TaskError> {
        let seen = Arc::new(std::mem::take(&mut *lock(&self.seen)));
        let hrefs: Vec<String> = seen.keys().cloned().collect();
        for some in hrefs.chunks(AT_ONCE) {
            ctx.check_cancelled()?;
            let asked = some.to_vec();
            let (seen, signer) = (seen.clone(), signer.clone());
            runtime.block_on(async move {
                let mut answers = JoinSet::new();
                for href in asked {
                    let (seen, signer) = (seen.clone(), signer.clone());
                    answers.spawn(async move {
                        let version = asked_again(&href, &signer).await?;
                        match seen.get(&href).and_then(|before| before.change(&version)) {
                            Some(change) => Err(changed(&href, &change)),
                            None => Ok(()),
                        }
                    });
                }
                while let Some(answer) = answers.join_next().await {
                    answer.map_err(|error| Fault::new("E202", error.to_string()).permanent())??;
                }
                Ok::<_, TaskError>(())
            })?;
        }
        Ok(())
    }
}

/// The version of a file now; a server that fails is asked again, as the readers do.
async fn asked_again(href: &str, signer: &Signer) -> Result<FileVersion, TaskError> {
    let client = Client::shared()?;
    let mut attempt = 0;
    loop {
        let asked = async { FileVersion::of(&client, &signer.sign(href).await?).await };
        let error = match asked.await {
            Ok(version) => return Ok(version),
            Err(error) => error,
        };
        let Some(wait) = wait_after(&error, attempt) else { return Err(error) };
        tracing::warn!(attempt = attempt + 1, wait_ms = wait.as_millis() as u64, "{error}");
        attempt += 1;
        signer.forget(href);
        tokio::time::sleep(wait).await;
    }
}

fn changed(href: &str, change: &str) -> TaskError {
    let message = format!("`{}` changed while it was read: {change}", swath_access::redact(href));
    Fault::new(ErrorKind::Changed.code(), message).help(ErrorKind::Changed.help()).transient(None)
}

fn is_http(href: &str) -> bool {
    href.starts_with("http://") || href.starts_with("https://")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
