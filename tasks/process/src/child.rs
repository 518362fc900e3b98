//! One child process with its group: started clean, waited for, stopped whole.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use swath_task::{Context, TaskError};
use tokio::process::{Child, Command};

use crate::output::{Secrets, Tail, follow};
use crate::spawner::spawn;

/// Kills what is left of a process group when it goes out of scope, however the step ends.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It fails when nobody is left, which is what is wanted.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Runs `command` to its end. Cancelled: `SIGTERM` to its group, after `grace` `SIGKILL`.
pub(crate) async fn run(
    mut command: Command,
    grace: Duration,
    tail: &Tail,
    secrets: &Secrets,
    ctx: &Context,
) -> Result<std::io::Result<ExitStatus>, TaskError> {
    command.process_group(0).stderr(Stdio::piped()).kill_on_drop(true);
    // The engine's own files are closed on exec; what it has itself inherited (a build tool's pipes) is not.
    close_fds::set_fds_cloexec_threadsafe(3, &[]);
    let mut child = match spawn(command).await {
        Ok(child) => child,
        Err(error) => return Ok(Err(error)),
    };
    let group = Group::of(&child);
    let out = child.stdout.take();
    let err = child.stderr.take();
    let listen = {
        let (tail, secrets) = (tail.clone(), secrets.clone());
        async move {
            let out = async {
                if let Some(stream) = out {
                    follow(stream, "stdout", tail.clone(), secrets.clone()).await;
                }
            };
            let err = async {
                if let Some(stream) = err {
                    follow(stream, "stderr", tail.clone(), secrets.clone()).await;
                }
            };
            tokio::join!(out, err);
        }
    };
    tokio::pin!(listen);
    let mut listening = true;
    loop {
        tokio::select! {
            status = child.wait() => {
                // What it left in the background is stopped, and with it the last holders of the streams.
                group.signal(Signal::KILL);
                if listening {
                    let _ = tokio::time::timeout(Duration::from_secs(2), &mut listen).await;
                }
                return Ok(status);
            }
            () = &mut listen, if listening => listening = false,
            () = ctx.cancelled() => break,
        }
    }
    tracing::info!("stopping the program");
    group.signal(Signal::TERM);
    let ended = async {
        loop {
            tokio::select! {
                status = child.wait() => return status,
                () = &mut listen, if listening => listening = false,
            }
        }
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        tracing::warn!("the program did not stop within {} s: killing it", grace.as_secs_f64());
        group.signal(Signal::KILL);
        let _ = tokio::time::timeout(Duration::from_secs(5), child.wait()).await;
    }
    Err(TaskError::Cancelled)
}
