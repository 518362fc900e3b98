//! Signatures: what makes a stored, unsigned href readable at the moment of reading.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use swath_kinds::Signing;
use swath_task::{Bytes, Fault, TaskError};
use url::Url;

use crate::custom::{SignHref, registered};
use crate::{Client, Limits, Request, redact};

/// Token endpoint of Planetary Computer.
pub const PLANETARY_COMPUTER_TOKENS: &str = "https://planetarycomputer.microsoft.com/api/sas/v1";

/// A token is renewed this long before it ends, so that a read that starts with it also ends with it.
const MARGIN: SignedDuration = SignedDuration::from_secs(5 * 60);

/// Storage accounts with public containers: a signature is neither needed nor given.
const PUBLIC_ACCOUNTS: &[&str] = &["ai4edatasetspublicassets"];

/// Signs hrefs as [`Signing`] says. Cheap to clone; clones share their tokens.
///
/// For Planetary Computer: one request at a time for a storage account and container, whoever asks; a token is used until
/// five minutes before `msft:expiry` (half of its life when it lives shorter) and then renewed.
#[derive(Clone)]
pub struct Signer(Arc<Way>);

enum Way {
    /// Hrefs are readable as they are.
    None,
    Tokens(Tokens),
    Custom(Arc<dyn SignHref>),
}

/// Tokens of a Planetary Computer endpoint, by storage account and container.
struct Tokens {
    endpoint: String,
    client: Client,
    slots: Mutex<HashMap<(String, String), Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

struct Token {
    query: String,
    renew_at: Timestamp,
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(rename = "msft:expiry")]
    expiry: Timestamp,
    token: String,
}

impl Signer {
    /// A signer for how a scene list says that its hrefs are signed.
    pub fn new(signing: &Signing) -> Result<Self, TaskError> {
        let limits = Limits {
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(15),
            total: Duration::from_secs(60),
            body: Bytes::mib(1),
            ..Limits::default()
        };
        Self::with_limits(signing, limits)
    }

    /// A signer whose token requests have these limits.
    fn with_limits(signing: &Signing, limits: Limits) -> Result<Self, TaskError> {
        let way = match signing {
            Signing::None => Way::None,
            Signing::PlanetaryComputer { endpoint } => Way::Tokens(Tokens {
                endpoint: endpoint.trim_end_matches('/').to_owned(),
                client: Client::unpooled(limits)?,
                slots: Mutex::default(),
            }),
            Signing::Custom(name) => Way::Custom(registered(name)?),
        };
        Ok(Self(Arc::new(way)))
    }

    /// `href` made readable. Paths, addresses elsewhere and addresses that carry a signature are returned as they are.
    pub async fn sign(&self, href: &str) -> Result<String, TaskError> {
        match &*self.0 {
            Way::None => Ok(href.to_owned()),
            Way::Tokens(tokens) => tokens.sign(href).await,
            Way::Custom(signer) => {
                let (signer, href) = (signer.clone(), href.to_owned());
                let signed = tokio::task::spawn_blocking(move || signer.sign(&href)).await;
                signed
                    .unwrap_or_else(|error| Err(Fault::new("S112", format!("the signing failed: {error}")).permanent()))
            }
        }
    }

    /// [`Signer::sign`] for threads without an async runtime. Call it from worker threads only: it waits.
    pub fn sign_blocking(&self, href: &str) -> Result<String, TaskError> {
        match &*self.0 {
            Way::None => Ok(href.to_owned()),
            Way::Tokens(tokens) => tokens.sign_blocking(href),
            Way::Custom(signer) => signer.sign(href),
        }
    }

    /// Forgets the token of `href`: after a 403 the next [`Signer::sign`] asks for a new one.
    pub fn forget(&self, href: &str) {
        match &*self.0 {
            Way::None => {}
            Way::Tokens(tokens) => tokens.forget(href),
            Way::Custom(signer) => signer.forget(href),
        }
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Tokens are secrets.
        f.write_str("Signer")
    }
}

impl Tokens {
    async fn sign(&self, href: &str) -> Result<String, TaskError> {
        let Some((account, container)) = container_of(href) else { return Ok(href.to_owned()) };
        let slot = self.slot(&account, &container);
        // Held while the token is fetched: who comes meanwhile waits and finds it.
        let mut token = slot.lock().await;
        if let Some(token) = token.as_ref().filter(|token| Timestamp::now() < token.renew_at) {
            return Ok(with_query(href, &token.query));
        }
        let fresh = self.fetch(&account, &container).await?;
        let signed = with_query(href, &fresh.query);
        *token = Some(fresh);
        Ok(signed)
    }

    fn sign_blocking(&self, href: &str) -> Result<String, TaskError> {
        let Some((account, container)) = container_of(href) else { return Ok(href.to_owned()) };
        if let Ok(token) = self.slot(&account, &container).try_lock()
            && let Some(token) = token.as_ref().filter(|token| Timestamp::now() < token.renew_at)
        {
            return Ok(with_query(href, &token.query));
        }
        // A thread of its own for the rare request: a runtime must not be entered twice on one thread.
        let failed =
            |what: String| Fault::new("S112", format!("cannot sign `{}`: {what}", redact(href))).transient(None);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.map_err(|error| failed(error.to_string()))?.block_on(self.sign(href))
            });
            worker.join().unwrap_or_else(|_| Err(failed("the thread that asks for tokens died".to_owned())))
        })
    }

    fn forget(&self, href: &str) {
        if let Some(key) = container_of(href) {
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }

    fn slot(&self, account: &str, container: &str) -> Slot {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((account.to_owned(), container.to_owned())).or_default().clone()
    }

    async fn fetch(&self, account: &str, container: &str) -> Result<Token, TaskError> {
        let address = format!("{}/token/{account}/{container}", self.endpoint);
        let answer: TokenAnswer = self.client.fetch(Request::get(&address)?).await?.json()?;
        let now = Timestamp::now();
        let life = answer.expiry.duration_since(now);
        if answer.token.trim().is_empty() || life <= SignedDuration::ZERO {
            let message = format!("`{}` gave a token that is empty or has expired already", redact(&address));
            return Err(Fault::new("S112", message).help("check the clock of this machine").transient(None));
        }
        let usable = (life - MARGIN).max(life / 2);
        let renew_at = now.checked_add(usable).unwrap_or(answer.expiry);
        Ok(Token { query: answer.token.trim_start_matches('?').to_owned(), renew_at })
    }
}

/// Whether a signer of this kind gives `href` a signature of its own, once the one that it carries is taken off.
pub fn signs_anew(signing: &Signing, href: &str) -> bool {
    match signing {
        Signing::None => false,
        Signing::PlanetaryComputer { .. } => is_azure_blob(href),
        // What the registered signer knows is not told; the user has named it for this catalogue.
        Signing::Custom(_) => true,
    }
}

/// Whether an address lies in the blob storage of Azure, whose signatures Planetary Computer gives out.
fn is_azure_blob(href: &str) -> bool {
    let host = Url::parse(href).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.is_some_and(|host| host.ends_with(".blob.core.windows.net"))
}

/// Storage account and container of an unsigned Azure blob address.
fn container_of(href: &str) -> Option<(String, String)> {
    let url = Url::parse(href).ok()?;
    let account = url.host_str()?.strip_suffix(".blob.core.windows.net")?;
    let signed = url.query_pairs().any(|(key, _)| key == "sig");
    if signed || account.is_empty() || PUBLIC_ACCOUNTS.contains(&account) {
        return None;
    }
    let container = url.path_segments()?.next().filter(|name| !name.is_empty())?;
    Some((account.to_owned(), container.to_owned()))
}

fn with_query(href: &str, query: &str) -> String {
    format!("{href}{}{query}", if href.contains('?') { '&' } else { '?' })
}
