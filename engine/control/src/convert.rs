//! Between what is stored and the messages of `swath.v1`.

use prost_types::Timestamp;
use swath_host::ask::Refusal;
use swath_host::steps::{self, StepFault, StepOf};
use swath_store::{Error, RunRow, Store, StoredEvent, redact};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::v1;

/// The domain of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "swath";

/// A timestamp of a message as milliseconds since 1970.
pub fn millis(time: Option<&Timestamp>) -> Option<i64> {
    time.map(|time| time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000))
}

/// Milliseconds since 1970 as a timestamp.
pub fn time(millis: i64) -> Timestamp {
    Timestamp { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as i32 }
}

/// Names in the store of the states of a run that has not ended.
pub const LIVE: [&str; 4] = ["pending", "running", "paused", "cancelling"];

/// Whether a run has not ended by its journal.
pub fn is_live(row: &RunRow) -> bool {
    LIVE.contains(&row.state.as_str())
}

/// A state by its name in the store.
pub fn run_state(name: &str) -> v1::RunState {
    match name {
        "pending" => v1::RunState::Pending,
        "running" => v1::RunState::Running,
        "paused" => v1::RunState::Paused,
        "cancelling" => v1::RunState::Cancelling,
        "completed" => v1::RunState::Completed,
        "failed" => v1::RunState::Failed,
        "cancelled" => v1::RunState::Cancelled,
        _ => v1::RunState::Unspecified,
    }
}

/// A run as it stands. `driven`: whether somebody drives it on.
pub fn run(row: RunRow, driven: bool) -> v1::Run {
    let state = match row.state.as_str() {
        // Whether or not somebody waits for their end, or for a place for them.
        "paused" => v1::RunState::Paused,
        "pending" => v1::RunState::Pending,
        _ if is_live(&row) && !driven => v1::RunState::Interrupted,
        state => run_state(state),
    };
    v1::Run {
        id: row.id,
        flow: row.flow,
        state: state.into(),
        created_at: Some(time(row.created_at)),
        started_at: row.started_at.map(time),
        ended_at: row.ended_at.map(time),
        last_event: row.seq,
        error: row.error.unwrap_or_default(),
        source: row.source,
    }
}

/// Names in the store of the states that are asked for.
pub fn stored_states(state: v1::RunState) -> Result<&'static [&'static str], Status> {
    Ok(match state {
        v1::RunState::Pending => &["pending"],
        v1::RunState::Running => &["running"],
        v1::RunState::Paused => &["paused"],
        v1::RunState::Cancelling => &["cancelling"],
        v1::RunState::Completed => &["completed"],
        v1::RunState::Failed => &["failed"],
        v1::RunState::Cancelled => &["cancelled"],
        v1::RunState::Interrupted => &LIVE,
        v1::RunState::Unspecified => return Err(wrong("states", "a state must be told")),
    })
}

/// An event of a journal.
pub fn event(stored: StoredEvent) -> v1::RunEvent {
    let detail: serde_json::Value = serde_json::from_str(&stored.payload).unwrap_or_default();
    v1::RunEvent {
        number: stored.seq,
        at: Some(time(stored.at)),
        kind: stored.kind,
        step: stored.step.unwrap_or_default(),
        instance: detail["i"].as_u64().and_then(|instance| u32::try_from(instance).ok()),
        detail_json: stored.payload,
    }
}

/// The steps of a run, in an order in which they can run.
pub async fn steps(store: &dyn Store, run: &str) -> Result<Vec<v1::Step>, Error> {
    Ok(steps::of_run(store, run).await?.into_iter().map(step).collect())
}

fn step(of: StepOf) -> v1::Step {
    let state = match of.state {
        "waiting" => v1::StepState::Waiting,
        "ready" => v1::StepState::Ready,
        "running" => v1::StepState::Running,
        "succeeded" => v1::StepState::Succeeded,
        "reused" => v1::StepState::Reused,
        "failed" => v1::StepState::Failed,
        "skipped" => v1::StepState::Skipped,
        "not run" => v1::StepState::NotRun,
        "cancelled" => v1::StepState::Cancelled,
        _ => v1::StepState::Unspecified,
    };
    let fault = |StepFault { kind, instance, fault }| v1::StepFault {
        instance,
        message: redact(&fault.message).into_owned(),
        help: fault.help.map(|help| redact(&help).into_owned()).unwrap_or_default(),
        code: fault.code,
        tried_again: kind == "retried",
    };
    v1::Step {
        id: of.id,
        state: state.into(),
        instances: of.instances,
        succeeded: of.succeeded,
        reused: of.reused,
        failed: of.failed,
        faults: of.faults.into_iter().map(fault).collect(),
    }
}

/// A field of a request that is wrong.
pub fn wrong(field: &str, why: impl Into<String>) -> Status {
    let why = why.into();
    let details = ErrorDetails::with_bad_request_violation(field, why.clone());
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {why}"), details)
}

/// A failure of the store as a status with its code.
pub fn refused(error: Error) -> Status {
    let code = match &error {
        Error::NoRun(_) | Error::NoDeployment(_) => Code::NotFound,
        Error::RunExists(_) => Code::AlreadyExists,
        Error::RunHeld { .. } | Error::StoreHeld { .. } => Code::FailedPrecondition,
        Error::LeaseLost { .. } => Code::Aborted,
        Error::Busy { .. } | Error::Closed | Error::Unreachable { .. } => Code::Unavailable,
        Error::DiskFull { .. } => Code::ResourceExhausted,
        _ => Code::Internal,
    };
    let fault = error.fault();
    let mut details = ErrorDetails::with_error_info(fault.code.to_string(), DOMAIN, std::collections::HashMap::new());
    if let Some(help) = &fault.help {
        details.set_localized_message("en", help.to_string());
    }
    Status::with_error_details(code, fault.message.clone(), details)
}

/// What a run cannot be asked for.
pub fn declined(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Store(error) => refused(error),
        refusal => not_now(refusal.reason(), refusal.to_string()),
    }
}

/// A precondition that does not hold.
pub fn not_now(reason: &str, why: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(Code::FailedPrecondition, why, details)
}

/// An error with what lies behind it.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
