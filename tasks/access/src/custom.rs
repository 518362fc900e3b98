//! Signatures of services that are not built in: a binary registers them by name, flows name them.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use swath_task::{Fault, TaskError};

/// Makes hrefs of one service readable.
///
/// # Contract
/// - `sign` returns hrefs of other services as they are.
/// - `sign` may wait (it is called off the async loop) and is called from several threads at once.
/// - What it returns is used at once and never stored.
pub trait SignHref: Send + Sync {
    /// `href` made readable.
    fn sign(&self, href: &str) -> Result<String, TaskError>;
    /// The service refused what [`SignHref::sign`] returned: the next call must not return the same.
    fn forget(&self, _href: &str) {}
}

type Registry = RwLock<BTreeMap<String, Arc<dyn SignHref>>>;

static REGISTRY: Registry = RwLock::new(BTreeMap::new());

/// Makes `signer` known under a name that flows use: `signing: { custom: NAME }`. For the `main` of a binary of one's
/// own; a later registration under the same name replaces the earlier.
pub fn register_signing(name: impl Into<String>, signer: Arc<dyn SignHref>) {
    REGISTRY.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), signer);
}

/// S115: this binary has none of that name.
pub(crate) fn registered(name: &str) -> Result<Arc<dyn SignHref>, TaskError> {
    let registry = REGISTRY.read().unwrap_or_else(PoisonError::into_inner);
    registry.get(name).cloned().ok_or_else(|| {
        let known = registry.keys().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "it registers none".to_owned() } else { format!("it registers {known}") };
        Fault::new("S115", format!("this binary does not know the signing `{name}`"))
            .help(format!("{known}: run the flow with the binary that calls `register_signing`"))
            .permanent()
    })
}
