//! A step that runs another flow: a run of its own below the run, with a journal of its own.
//!
//! Its id is the same for every attempt of the step instance, so an attempt goes on where the one before was cut off.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use swath_run::{FaultClass, RunState};
use swath_store::{NewRun, RunLease};
use swath_task::{Fault, TaskError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::attempt::{AttemptEnd, AttemptError};
use crate::drive::{Above, DriveError, Ending};
use crate::observe::{AttemptId, Figures};
use crate::program::Program;
use crate::{Engine, now};

/// How long another holder of the run below is waited for, and how often it is tried.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(200);

/// An attempt of a step that runs another flow.
pub(crate) struct SubFlow {
    /// The run above.
    pub parent: String,
    pub at: AttemptId,
    pub program: Arc<dyn Program>,
    pub timeout: Option<Duration>,
    pub cancel: CancellationToken,
    /// Whether the run above is paused.
    pub paused: watch::Receiver<bool>,
}

/// Drives it to its end. Boxed, because a sub-flow may hold sub-flows.
pub(crate) fn run(engine: Arc<Engine>, flow: SubFlow) -> Pin<Box<dyn Future<Output = AttemptEnd> + Send>> {
    Box::pin(async move {
        let mut below = (0, 0);
        let stop = flow.cancel.child_token();
        let result = {
            let work = drive(&engine, &flow, stop.clone(), &mut below);
            tokio::pin!(work);
            match flow.timeout {
                None => work.await,
                Some(limit) => match tokio::time::timeout(limit, &mut work).await {
                    Ok(result) => result,
                    Err(_) => {
                        stop.cancel();
                        // Its steps stop in good order; another attempt goes on from there.
                        let _ = work.await;
                        Err(AttemptError::TimedOut(limit))
                    }
                },
            }
        };
        AttemptEnd { result, figures: Figures::default(), below: Some(below), kept: None }
    })
}

/// Id of the run below.
fn child_id(flow: &SubFlow) -> String {
    let step = flow.at.step.rsplit('/').next().unwrap_or(&flow.at.step);
    match flow.at.instance.as_str() {
        "" => format!("{}.{step}", flow.parent),
        instance => format!("{}.{step}.{instance}", flow.parent),
    }
}

/// The lease of the run below. Whoever holds it has lost the run above, or will have done with this one soon: a lease that
/// was renewed later than that of the run above ends later.
async fn lease(engine: &Arc<Engine>, run: &str, stop: &CancellationToken) -> Result<RunLease, AttemptError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match engine.store.lease_run(run).await {
            Err(swath_store::Error::RunHeld { .. }) if tokio::time::Instant::now() < until => {}
            taken => return taken.map_err(|error| AttemptError::Task(error.into())),
        }
        tokio::select! {
            () = stop.cancelled() => return Err(AttemptError::Task(TaskError::Cancelled)),
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

async fn drive(
    engine: &Arc<Engine>,
    flow: &SubFlow,
    stop: CancellationToken,
    below: &mut (u64, u64),
) -> Result<Value, AttemptError> {
    let store = |error: swath_store::Error| AttemptError::Task(error.into());
    let failed = |fault: Fault| AttemptError::Task(fault.permanent());
    let child = child_id(flow);
    let lease = lease(engine, &child, &stop).await?;
    if matches!(engine.store.get_run(&child).await, Err(swath_store::Error::NoRun(_))) {
        let above = engine.store.get_run(&flow.parent).await.map_err(store)?;
        let run = NewRun {
            id: child.clone(),
            flow: flow.program.name().to_owned(),
            source: above.row.source,
            text: above.text.into(),
            text_digest: above.text_digest,
            params: "{}".to_owned(),
            plan: "".into(),
            state: RunState::Pending.name().to_owned(),
            created_at: now() as i64,
        };
        engine.store.create_run(run).await.map_err(store)?;
    }
    tracing::info!("its steps log to a run of their own: swath logs {child}");
    let instance = if flow.at.instance.is_empty() { String::new() } else { format!("[{}]", flow.at.instance) };
    let prefix = format!("{}{instance}/", flow.at.step);
    let above = Some(Above { run: flow.parent.clone(), paused: flow.paused.clone() });
    let ending = match engine.drive_below(lease.term().clone(), flow.program.clone(), prefix, above, stop).await {
        Ok(ending) => ending,
        Err(DriveError::Store(error)) => return Err(store(error)),
        Err(error) => return Err(failed(Fault::new("E315", error.to_string()))),
    };
    *below = (ending.ran, ending.reused);
    match ending {
        Ending { state: RunState::Completed, outputs: Some(outputs), .. } => Ok(outputs),
        Ending { state: RunState::Completed | RunState::Failed, failures, .. } => {
            // Trying again helps when it may help each step that failed.
            let lasting = failures.iter().any(|failed| failed.class == FaultClass::Permanent);
            let mut above = Fault::new("E314", "the sub-flow failed");
            if let Some(first) = failures.into_iter().next() {
                above.message =
                    format!("step `{}` failed with {}: {}", first.step, first.fault.code, first.fault.message);
                above.help = first.fault.help;
                if !lasting {
                    return Err(AttemptError::Task(above.transient(None)));
                }
            }
            Err(failed(above))
        }
        _ => Err(AttemptError::Task(TaskError::Cancelled)),
    }
}
