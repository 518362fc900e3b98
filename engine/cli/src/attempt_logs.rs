//! Sets telemetry up, and carries the lines of attempts from the buffer into the store, a few times a second.

use std::sync::Arc;
use std::time::Duration;

use swath_host::{Engine, SlotUse};
use swath_store::{LogBatch, LogLine, Store};
use swath_telemetry::{Buffer, Exporting, Format, Settings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_millis(300);

/// Logs being kept; call [`AttemptLogs::finish`] when the run has ended.
pub(crate) struct AttemptLogs {
    done: CancellationToken,
    carrier: JoinHandle<()>,
}

impl AttemptLogs {
    /// Sets telemetry up and starts carrying.
    pub fn start(store: Arc<dyn Store>, verbosity: u8, exporting: &Exporting) -> Self {
        let buffer = Arc::new(Buffer::default());
        let settings = Settings { verbosity, format: Format::Text, redact: swath_store::redact };
        if let Err(error) = swath_telemetry::init(settings, buffer.clone(), exporting) {
            tell!("warning: {error}: logs are not kept");
        }
        let done = CancellationToken::new();
        let ended = done.clone();
        let carrier = tokio::spawn(async move {
            loop {
                let last = tokio::select! {
                    () = ended.cancelled() => true,
                    () = tokio::time::sleep(INTERVAL) => false,
                };
                for batch in buffer.take() {
                    carry(store.as_ref(), batch).await;
                }
                if last {
                    return;
                }
            }
        });
        Self { done, carrier }
    }

    /// Carries what is left.
    pub async fn finish(self) {
        self.done.cancel();
        // The carrier does not panic; if it did, the run's result still stands.
        let _ = self.carrier.await;
    }
}

/// What is sent as the environment says; with `page` metrics can be asked for too.
pub(crate) fn exporting(page: bool) -> Exporting {
    Exporting::from_environment(swath_store::redact, page).unwrap_or_else(|error| {
        tell!("warning: {error}: no traces and metrics are sent");
        Exporting::nothing(page)
    })
}

/// Reads the slots of an engine as long as that lives.
pub(crate) fn slots(engine: &Arc<Engine>) -> impl Fn() -> Vec<SlotUse> + Send + Sync + use<> {
    let engine = Arc::downgrade(engine);
    move || engine.upgrade().map(|engine| engine.slots()).unwrap_or_default()
}

/// Sends what is left of traces and metrics.
pub(crate) async fn sent(exporting: Exporting) {
    // It waits for a collector, and does not panic.
    let _ = tokio::task::spawn_blocking(move || exporting.finish()).await;
}

async fn carry(store: &dyn Store, batch: swath_telemetry::Batch) {
    let line = |record: swath_telemetry::LogRecord| LogLine {
        at: record.at,
        level: record.level,
        target: record.target,
        message: record.message,
        fields: record.fields,
    };
    let batch = LogBatch {
        run: batch.of.run,
        step: batch.of.step,
        instance: batch.of.instance,
        attempt: batch.of.attempt,
        at: jiff::Timestamp::now().as_millisecond(),
        lines: batch.lines.into_iter().map(line).collect(),
        dropped: batch.dropped,
    };
    if let Err(error) = store.append_logs(batch).await {
        // Outside every attempt's span: it cannot feed itself.
        tracing::warn!(%error, "log lines could not be kept");
    }
}
