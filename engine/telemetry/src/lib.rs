//! What a program tells about itself: lines on the terminal, the log of every attempt, traces and metrics.
//!
//! What is told is `tracing`. Two layers listen always, a third one where traces are sent:
//!
//! - [`Lines`] writes to standard error, as text or as JSON lines.
//! - [`AttemptLogs`] hands what happens inside an attempt's span ([`attempt_span`]) to a [`LogSink`]; [`Buffer`] is the
//!   bounded one that the host drains into the store.
//! - That of OpenTelemetry sends spans to a collector ([`Exporting`]), a trace a run. Figures go to the same place and to
//!   a page for Prometheus: [`Metrics`] observes the engine, which knows nothing of either.
//!
//! 1. No line holds a secret: all texts pass through [`Settings::redact`] (I19).
//! 2. No line is longer than [`LONGEST_LINE`] bytes, and none holds escape sequences.
//! 3. The lines of an attempt keep their order; lines dropped by a full buffer are counted (I21).
//! 4. Telling never blocks and never fails the teller: a full buffer drops, a closed terminal is ignored.
//!
//! It deliberately has no opinion about progress bars, and keeps nothing itself.

mod attempt;
mod export;
mod lines;
mod metrics;
mod relay;
mod text;
mod trace;

use std::borrow::Cow;

use tracing::Subscriber;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::{EnvFilter, Registry};

use attempt::TARGET as SPANS;
pub use attempt::{AttemptKey, AttemptLogs, Batch, Buffer, LogRecord, LogSink, attempt_span, worker_span};
pub use export::Exporting;
pub use lines::{Format, Lines};
pub use metrics::Metrics;
pub use relay::take_span;
pub use text::{LONGEST_LINE, plain};
pub use trace::{carrier, drive_span};

/// Takes secrets out of a text.
pub type Redact = fn(&str) -> Cow<'_, str>;

/// Libraries that say much and little of it about a flow: only their warnings are told.
const QUIET: &[&str] = &[
    "h2",
    "hyper",
    "hyper_util",
    "object_store",
    "opentelemetry",
    "ort",
    "reqwest",
    "rustls",
    "sqlx",
    "tonic",
    "tower",
];

/// The target of the fault that ended an attempt: kept among its lines, and told on the terminal by whoever shows steps.
pub const FAULTS: &str = "swath::fault";

/// The target of lines that a process of its own told of an attempt, told again here: their fields `from` and `said` are
/// the target and the fields (a JSON object) that the lines had there.
pub const RELAYED: &str = "swath::relayed";

/// How much is told, how, and what is taken out.
#[derive(Clone, Copy)]
pub struct Settings {
    /// 0: warnings, 1: what happens (`-v`), 2: details (`-vv`), 3 and more: everything. `RUST_LOG` overrides it.
    pub verbosity: u8,
    /// Text for people, JSON for programs.
    pub format: Format,
    /// Takes secrets out of every text.
    pub redact: Redact,
}

/// Telemetry was set up twice, or a variable of the environment cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `RUST_LOG` is not a filter.
    #[error("`RUST_LOG` cannot be read: {0}")]
    Filter(String),
    /// A variable of OpenTelemetry's is wrong.
    #[error("{0}")]
    Export(String),
    /// Another subscriber is installed already.
    #[error("telemetry is set up already")]
    Installed,
}

/// Sets telemetry up for the whole program: lines to standard error, attempts' lines to `sink`, spans to where
/// `exporting` sends them.
///
/// # Errors
/// [`SetupError`]: `RUST_LOG` is not a filter, or something has set up `tracing` before.
pub fn init(settings: Settings, sink: impl LogSink, exporting: &Exporting) -> Result<(), SetupError> {
    init_to(settings, std::io::stderr, sink, exporting)
}

/// [`init`] with lines going to what `writer` opens.
///
/// # Errors
/// Those of [`init`].
pub fn init_to<W, O>(settings: Settings, writer: W, sink: impl LogSink, exporting: &Exporting) -> Result<(), SetupError>
where
    W: Fn() -> O + Send + Sync + 'static,
    O: std::io::Write + 'static,
{
    let directives = std::env::var("RUST_LOG").ok().filter(|text| !text.trim().is_empty());
    let mut layers = layers(settings, directives.as_deref(), writer, sink)?;
    layers.extend(exporting.tracing.clone().map(|tracing| tracing.install().boxed()));
    tracing::subscriber::set_global_default(Registry::default().with(layers)).map_err(|_| SetupError::Installed)
}

/// The subscriber that [`init`] installs where nothing is sent, with lines going to what `writer` opens and `RUST_LOG`
/// given.
///
/// # Errors
/// [`SetupError::Filter`]: `directives` is not a filter.
pub fn subscriber<W, O>(
    settings: Settings,
    directives: Option<&str>,
    writer: W,
    sink: impl LogSink,
) -> Result<impl Subscriber + Send + Sync, SetupError>
where
    W: Fn() -> O + Send + Sync + 'static,
    O: std::io::Write,
{
    Ok(Registry::default().with(layers(settings, directives, writer, sink)?))
}

type Layers = Vec<Box<dyn Layer<Registry> + Send + Sync>>;

fn layers<W, O>(
    settings: Settings,
    directives: Option<&str>,
    writer: W,
    sink: impl LogSink,
) -> Result<Layers, SetupError>
where
    W: Fn() -> O + Send + Sync + 'static,
    O: std::io::Write,
{
    let lines = Lines::new(settings.format, settings.redact, writer);
    let logs = AttemptLogs::new(sink, settings.redact);
    // A log that is read after something went wrong must hold more than a quiet terminal shows.
    // What the kit says of its own failures is said by `Exporting`, once.
    let terminal = filter(directives, settings.verbosity, &[FAULTS, "opentelemetry"])?;
    let stored = filter(directives, settings.verbosity.max(1), &["opentelemetry"])?;
    Ok(vec![lines.with_filter(terminal).boxed(), logs.with_filter(stored).boxed()])
}

fn filter(directives: Option<&str>, verbosity: u8, hidden: &[&str]) -> Result<EnvFilter, SetupError> {
    let text = match directives {
        // Without the span a line would be of no attempt; what processes of attempts tell has been through the same filter there.
        Some(text) => format!("{text},{SPANS}=error,{RELAYED}=trace"),
        None => {
            let (all, quiet) = match verbosity {
                0 => ("warn", "error"),
                1 => ("info", "warn"),
                2 => ("debug", "warn"),
                _ => ("trace", "debug"),
            };
            let text = QUIET.iter().fold(all.to_owned(), |text, name| format!("{text},{name}={quiet}"));
            hidden.iter().fold(text, |text, name| format!("{text},{name}=off"))
        }
    };
    EnvFilter::builder().parse(&text).map_err(|error| SetupError::Filter(error.to_string()))
}
