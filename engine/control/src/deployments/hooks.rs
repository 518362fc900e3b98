//! Telling others what happened: by a signed request, or by a program. Each is told at least once, again and again with
//! growing waits until it answers; the number of the telling goes with it, so that it can be told from another.

use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use sha2::Sha256;
use swath_schedule::Hook;
use swath_store::{Error, Store, Telling, redact};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;

use crate::convert::with_causes;

/// How many are told at once.
const AT_ONCE: usize = 16;
/// How long one may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often one is tried.
const MOST_TRIES: u32 = 10;
/// Wait after the first try, milliseconds; it doubles each time.
const FIRST_WAIT: i64 = 5_000;
const LONGEST_WAIT: i64 = 3_600_000;

/// Tells hooks what is in the store for them.
pub struct Hooks {
    store: Arc<dyn Store>,
    /// Made when an address is first told something.
    client: OnceLock<Result<reqwest::Client, String>>,
    at_once: Arc<Semaphore>,
}

impl Hooks {
    /// Nothing is told yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, client: OnceLock::new(), at_once: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    fn client(&self) -> Result<reqwest::Client, String> {
        let made = self.client.get_or_init(|| {
            // No provider is linked by default; whoever was first has installed one.
            let _ = rustls::crypto::ring::default_provider().install_default();
            reqwest::Client::builder()
                .user_agent(concat!("swath/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(Duration::from_secs(10))
                .timeout(PATIENCE)
                // The signature is for the address that was written.
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .map_err(|error| error.to_string())
        });
        made.clone()
    }

    /// Begins to tell what is due. `hook_of` finds a hook by deployment and number.
    pub async fn tell(&self, now: Timestamp, hook_of: impl Fn(&str, usize) -> Option<Hook>) -> Result<(), Error> {
        let free = u32::try_from(self.at_once.available_permits()).unwrap_or(0);
        if free == 0 {
            return Ok(());
        }
        for telling in self.store.tellings(now.as_millisecond(), free).await? {
            let Ok(permit) = self.at_once.clone().try_acquire_owned() else { break };
            let hook = hook_of(&telling.deployment, telling.hook as usize);
            let (store, client) = (self.store.clone(), self.client());
            tokio::spawn(async move {
                let _permit = permit;
                let told = match hook {
                    // The deployment has another version by now.
                    None => Err(("its hook is gone".to_owned(), false)),
                    Some(hook) => tell(&hook, &telling, client).await.map_err(|why| (why, true)),
                };
                let now = Timestamp::now().as_millisecond();
                let (error, next) = match told {
                    Ok(()) => (None, None),
                    Err((why, again)) => {
                        let wait = FIRST_WAIT.saturating_mul(1 << telling.attempts.min(20)).min(LONGEST_WAIT);
                        let again = again && telling.attempts + 1 < MOST_TRIES;
                        let ending = if again { "it is tried again" } else { "it is given up" };
                        tracing::warn!(
                            deployment = telling.deployment,
                            "a hook was not told: {}; {ending}",
                            redact(&why)
                        );
                        (Some(why), again.then_some(now.saturating_add(wait)))
                    }
                };
                if let Err(error) = store.told(telling.id, now, error, next).await {
                    tracing::warn!("what became of a hook cannot be noted: {error}");
                }
            });
        }
        Ok(())
    }
}

async fn tell(hook: &Hook, telling: &Telling, client: Result<reqwest::Client, String>) -> Result<(), String> {
    match &hook.url {
        Some(url) => request(hook, url, telling, client?).await,
        None => tokio::time::timeout(PATIENCE, command(hook, telling))
            .await
            .unwrap_or_else(|_| Err(format!("`{}` took longer than {} s", hook.command[0], PATIENCE.as_secs()))),
    }
}

async fn request(hook: &Hook, url: &str, telling: &Telling, client: reqwest::Client) -> Result<(), String> {
    let mut request = client
        .post(url)
        .header("content-type", "application/json")
        .header("x-swath-delivery", telling.id)
        .header("x-swath-happening", &telling.happening);
    if let Some(variable) = &hook.secret {
        let variable = variable.clone();
        let found = tokio::task::spawn_blocking(move || swath_host::secret(&variable)).await;
        let secret = found.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        request = request.header("x-swath-signature", signature(secret.as_bytes(), telling.message.as_bytes()));
    }
    let answer = request.body(telling.message.clone()).send().await.map_err(|error| {
        // The path of an address may itself be a secret.
        with_causes(&error.without_url())
    })?;
    match answer.status().is_success() {
        true => Ok(()),
        false => Err(format!("the address answered {}", answer.status())),
    }
}

async fn command(hook: &Hook, telling: &Telling) -> Result<(), String> {
    let Some((program, arguments)) = hook.command.split_first() else { return Err("it has no command".to_owned()) };
    let failed = |error: std::io::Error| format!("`{program}` cannot be run: {error}");
    let mut child = Command::new(program)
        .args(arguments)
        .env("SWATH_DELIVERY", telling.id.to_string())
        .env("SWATH_HAPPENING", &telling.happening)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        // A program need not read what it is told.
        let _ = input.write_all(telling.message.as_bytes()).await;
    }
    let status = child.wait().await.map_err(failed)?;
    if status.success() { Ok(()) } else { Err(format!("`{program}` ended with {status}")) }
}

/// `sha256=` and the HMAC-SHA256 of a body by a secret, in hexadecimal digits, as GitHub signs its webhooks.
pub fn signature(secret: &[u8], body: &[u8]) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// Whether a signature is that of a body, in a time that does not tell how much of it is right.
pub fn is_signed(secret: &[u8], body: &[u8], signature: &str) -> bool {
    let Some(bytes) = signature.strip_prefix("sha256=").and_then(|digits| hex::decode(digits).ok()) else {
        return false;
    };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret) else { return false };
    mac.update(body);
    mac.verify_slice(&bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_signed_as_rfc_4231_says() {
        // Test case 2.
        let signed = signature(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(signed, "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        assert!(is_signed(b"Jefe", b"what do ya want for nothing?", &signed));
        for (secret, body, signature) in [
            ("jefe", "what do ya want for nothing?", signed.as_str()),
            ("Jefe", "what do ya want for nothing!", &signed),
            ("Jefe", "what do ya want for nothing?", ""),
            ("Jefe", "what do ya want for nothing?", "sha256="),
            ("Jefe", "what do ya want for nothing?", &signed[..70]),
            ("Jefe", "what do ya want for nothing?", &signed.replace("5b", "5c")),
            ("Jefe", "what do ya want for nothing?", &signed.replace("5b", "+b")),
        ] {
            assert!(!is_signed(secret.as_bytes(), body.as_bytes(), signature), "{signature}");
        }
    }
}
