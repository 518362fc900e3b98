//! What the spans of a run are told by its drive. They are the caller's, and need not have a field for all of it.

use swath_run::{Failure, FaultClass, RunState};
use tracing::Span;

use super::{DriveError, Driver, Ending, show};

/// What a trace shows of a drive that ended.
pub(super) fn end(span: &Span, ending: &Result<Ending, DriveError>) {
    let failed = match ending {
        Ok(ending) => {
            span.record("swath.run.state", ending.state.name());
            span.record("swath.run.ran", ending.ran as i64);
            span.record("swath.run.reused", ending.reused as i64);
            let first = ending.failures.first().filter(|_| ending.state == RunState::Failed);
            first.map(|first| format!("{}: {}", first.step, show(&first.fault)))
        }
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = failed {
        error(span, &why);
    }
}

/// What a trace shows of an attempt that failed. One that was told to stop is no error.
pub(super) fn failure(span: &Span, failure: &Failure) {
    span.record("error.type", failure.fault.code.as_str());
    if failure.class != FaultClass::Cancelled {
        error(span, &failure.fault.message);
    }
}

fn error(span: &Span, why: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", why);
}

impl Driver {
    /// A span of no length in place of an attempt.
    pub(super) fn trace_reuse(&self, step: u32, index: u32, from: &str) {
        let id = &self.machine.graph().steps[step as usize].id;
        let span = (self.engine.span)(&self.run, id, &self.instance(step, index), 0);
        span.record("swath.task", self.program.task(step as usize));
        span.record("swath.step.state", "reused");
        span.record("swath.reused_from", from);
    }
}
