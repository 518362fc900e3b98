//! Signatures: what makes a stored, unsigned href readable at the moment of reading.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use swath_kinds::Signing;
use swath_task::{Bytes, Fault, TaskError};
use url::Url;

use crate::{Client, Limits, Request, redact};

/// Token endpoint of Planetary Computer.
pub const PLANETARY_COMPUTER_TOKENS: &str = "https://planetarycomputer.microsoft.com/api/sas/v1";

/// A token is renewed this long before it ends, so that a read that starts with it also ends with it.
const MARGIN: SignedDuration = SignedDuration::from_secs(5 * 60);

/// Storage accounts with public containers: a signature is neither needed nor given.
const PUBLIC_ACCOUNTS: &[&str] = &["ai4edatasetspublicassets"];

/// Signs hrefs as [`Signing`] says. Cheap to clone; clones share their tokens.
///
/// Invariants: one request at a time for a storage account and container, whoever asks; a token is used until
/// five minutes before `msft:expiry` (half of its life when it lives shorter) and then renewed.
#[derive(Clone, Debug)]
pub struct Signer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    signing: Signing,
    client: Option<Client>,
    slots: Mutex<HashMap<(String, String), Slot>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

#[derive(Clone)]
struct Token {
    query: String,
    renew_at: Timestamp,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token(renewed at {})", self.renew_at)
    }
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
    pub fn with_limits(signing: &Signing, limits: Limits) -> Result<Self, TaskError> {
        let client = match signing {
            Signing::None => None,
            Signing::PlanetaryComputer { .. } => Some(Client::unpooled(limits)?),
        };
        Ok(Self(Arc::new(Inner { signing: signing.clone(), client, slots: Mutex::default() })))
    }

    /// `href` made readable. Paths, addresses elsewhere and addresses that carry a signature are returned as they are.
    pub async fn sign(&self, href: &str) -> Result<String, TaskError> {
        let Signing::PlanetaryComputer { endpoint } = &self.0.signing else { return Ok(href.to_owned()) };
        let Some((account, container)) = container_of(href) else { return Ok(href.to_owned()) };
        let slot = self.slot(&account, &container);
        // Held while the token is fetched: who comes meanwhile waits and finds it.
        let mut token = slot.lock().await;
        if let Some(token) = token.as_ref().filter(|token| Timestamp::now() < token.renew_at) {
            return Ok(with_query(href, &token.query));
        }
        let fresh = self.fetch(endpoint, &account, &container).await?;
        let signed = with_query(href, &fresh.query);
        *token = Some(fresh);
        Ok(signed)
    }

    /// [`Signer::sign`] for threads without an async runtime. Call it from worker threads only: it waits.
    pub fn sign_blocking(&self, href: &str) -> Result<String, TaskError> {
        if self.0.signing == Signing::None {
            return Ok(href.to_owned());
        }
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

    /// Forgets the token of `href`: after a 403 the next [`Signer::sign`] asks for a new one.
    pub fn forget(&self, href: &str) {
        if let Some(key) = container_of(href) {
            self.0.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        }
    }

    fn slot(&self, account: &str, container: &str) -> Slot {
        let mut slots = self.0.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry((account.to_owned(), container.to_owned())).or_default().clone()
    }

    async fn fetch(&self, endpoint: &str, account: &str, container: &str) -> Result<Token, TaskError> {
        let address = format!("{}/token/{account}/{container}", endpoint.trim_end_matches('/'));
        let Some(client) = &self.0.client else {
            return Err(Fault::new("S112", "a signer without a client was asked to sign").permanent());
        };
        let answer: TokenAnswer = client.fetch(Request::get(&address)?).await?.json()?;
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
