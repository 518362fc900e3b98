//! `swath attempt-worker`: the process of a step, at the other end of an engine's channel.

use std::process::ExitCode;
use std::sync::Arc;

use swath_host::worker::{Channel, Line};
use swath_plan::Catalogue;
use swath_telemetry::{Exporting, Format, LogRecord, LogSink, Settings};

use crate::arguments::Global;
use crate::failure::Failure;

pub(crate) fn run(global: &Global, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    let channel = Channel::inherit().map_err(|error| {
        Failure::Usage(format!("`swath attempt-worker` is started by an engine, not by hand: {error}"))
    })?;
    let settings = Settings { verbosity: global.verbose, format: Format::Text, redact: swath_store::redact };
    // The engine shows the lines, and keeps them.
    let spans = channel.clone();
    let relaying = Exporting::relaying(move |span| spans.tell_span(span));
    if let Err(error) = swath_telemetry::init_to(settings, std::io::sink, Relay(channel.clone()), &relaying) {
        tell!("warning: {error}: what the step logs is lost");
    }
    let served = channel.serve(catalogue, swath_telemetry::worker_span);
    served.map(|()| ExitCode::SUCCESS).map_err(|error| Failure::Usage(format!("cannot start the event loop: {error}")))
}

/// Hands lines of the attempt to the engine.
struct Relay(Channel);

impl LogSink for Relay {
    fn write(&self, record: LogRecord) {
        let LogRecord { level, target, message, fields, .. } = record;
        self.0.tell(Line { level, target, message, fields });
    }
}
