//! Secrets that messages are signed with, kept for a while: a command may print one, and whoever sends requests must not
//! make it run again and again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as Waiting;
use tokio::time::Instant;

/// How long a value is kept.
const KEPT: Duration = Duration::from_secs(60);
/// How long it is kept that there is none: whoever mends that wants to see it.
const MISSED: Duration = Duration::from_secs(5);

type Found = Result<String, String>;
type Kept = Arc<Waiting<Option<(Instant, Found)>>>;

/// Values of secrets, by name.
#[derive(Default)]
pub struct Secrets(Mutex<HashMap<String, Kept>>);

impl Secrets {
    /// The value of a secret, or why there is none. Whoever asks while it is looked up waits for that.
    pub async fn get(&self, name: &str) -> Found {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone();
        let mut kept = kept.lock().await;
        if let Some((since, found)) = &*kept
            && since.elapsed() < if found.is_ok() { KEPT } else { MISSED }
        {
            return found.clone();
        }
        let asked = name.to_owned();
        let looked = tokio::task::spawn_blocking(move || swath_host::secret(&asked)).await;
        let found = looked.map_err(|error| error.to_string()).and_then(|found| found.map_err(|why| why.to_string()));
        *kept = Some((Instant::now(), found.clone()));
        found
    }
}
