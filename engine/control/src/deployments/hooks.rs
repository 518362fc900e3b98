//! Telling others what happened: by a signed request, or by a program. Each is told at least once, again and again with
//! growing waits until it answers; the number of the telling goes with it, so that it can be told from another.

use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use swath_schedule::Hook;
use swath_store::{Error, Store, Telling, redact};
use swath_task::Digest;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Semaphore;

use super::secrets::Secrets;
use super::signature;
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
    secrets: Arc<Secrets>,
    at_once: Arc<Semaphore>,
}

impl Hooks {
    /// Nothing is told yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, client: OnceLock::new(), secrets: Arc::default(), at_once: Arc::new(Semaphore::new(AT_ONCE)) }
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
            let (store, client, secrets) = (self.store.clone(), self.client(), self.secrets.clone());
            tokio::spawn(async move {
                let _permit = permit;
                let told = match hook {
                    // The deployment has another version by now.
                    None => Err(("its hook is gone".to_owned(), false)),
                    Some(hook) => tell(&hook, &telling, client, &secrets, PATIENCE).await.map_err(|why| (why, true)),
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

async fn tell(
    hook: &Hook,
    telling: &Telling,
    client: Result<reqwest::Client, String>,
    secrets: &Secrets,
    patience: Duration,
) -> Result<(), String> {
    match &hook.url {
        Some(url) => request(hook, url, telling, client?, secrets).await,
        None => tokio::time::timeout(patience, command(hook, telling))
            .await
            .unwrap_or_else(|_| Err(format!("`{}` took longer than {} s", hook.command[0], patience.as_secs()))),
    }
}

async fn request(
    hook: &Hook,
    url: &str,
    telling: &Telling,
    client: reqwest::Client,
    secrets: &Secrets,
) -> Result<(), String> {
    let (id, time) = (id_of(telling), Timestamp::now().as_second());
    let mut request = client
        .post(url)
        .header("content-type", "application/json")
        .header(signature::ID, &id)
        .header(signature::TIME, time)
        .header("x-swath-happening", &telling.happening);
    if let Some(variable) = &hook.secret {
        let secret = secrets.get(variable).await?;
        let signed = signature::sign(&secret, &id, time, telling.message.as_bytes());
        let signed = signed.ok_or("its secret holds no key: after `whsec_` comes base64")?;
        request = request.header(signature::SIGNATURE, signed);
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
        // What it starts is killed with it.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    if let Some(mut input) = child.stdin.take() {
        // A program need not read what it is told.
        let _ = input.write_all(telling.message.as_bytes()).await;
    }
    let status = child.wait().await.map_err(failed)?;
    // What goes on after its end was meant to.
    group.0 = None;
    if status.success() { Ok(()) } else { Err(format!("`{program}` ended with {status}")) }
}

/// What tells a telling from all others, also from those of other stores, however often it is tried.
fn id_of(telling: &Telling) -> String {
    let whole = json!([telling.id, telling.deployment, telling.hook, telling.message]);
    format!("msg_{}", &Digest::of(whole.to_string().as_bytes()).hex()[..24])
}

/// The processes of a command: killed together where it has not ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It fails when all of them are gone, which is what is wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use swath_schedule::Happening;

    use super::*;

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_with_all_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let noted = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; wait", noted.display());
        let hook = Hook {
            on: vec![Happening::Completed],
            url: None,
            secret: None,
            command: ["sh", "-c", &script].map(str::to_owned).to_vec(),
        };
        let telling = Telling {
            id: 1,
            deployment: "scan".into(),
            hook: 0,
            happening: "completed".into(),
            message: "{}".into(),
            attempts: 0,
        };
        let told = tell(&hook, &telling, Err("none".into()), &Secrets::default(), Duration::from_secs(5)).await;
        assert!(told.unwrap_err().contains("took longer than"));
        let started = std::fs::read_to_string(noted).unwrap().trim().to_owned();
        // Whoever takes in orphans need not have buried it yet.
        let lives = || {
            let state = std::fs::read_to_string(format!("/proc/{started}/stat")).unwrap_or_default();
            state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while lives() {
            assert!(std::time::Instant::now() < deadline, "what it started lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
