//! Both layers under one subscriber, as the program installs them.

use std::borrow::Cow;
use std::io::Write;
use std::sync::{Arc, Mutex};

use swath_telemetry::{
    AttemptKey, Buffer, Format, LONGEST_LINE, LogRecord, LogSink, Settings, SetupError, attempt_span, subscriber,
};
use tracing::{debug, error, info, trace, warn};

#[derive(Clone, Default)]
struct Terminal(Arc<Mutex<Vec<u8>>>);

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct World {
    terminal: Terminal,
    logs: Arc<Buffer>,
}

impl World {
    fn shown(&self) -> String {
        String::from_utf8(self.terminal.0.lock().unwrap().clone()).unwrap()
    }

    fn kept(&self) -> Vec<LogRecord> {
        self.logs.take().into_iter().flat_map(|batch| batch.lines).collect()
    }
}

fn within(verbosity: u8, format: Format, directives: Option<&str>, work: impl FnOnce()) -> World {
    let world = World { terminal: Terminal::default(), logs: Arc::default() };
    let settings = Settings { verbosity, format, redact: swath_store::redact };
    let terminal = world.terminal.clone();
    let subscriber = subscriber(settings, directives, move || terminal.clone(), world.logs.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, work);
    world
}

fn key(step: &str, instance: &str, attempt: u32) -> AttemptKey {
    AttemptKey { run: "r".into(), step: step.into(), instance: instance.into(), attempt }
}

#[test]
fn an_attempts_lines_are_kept_in_order_with_their_fields() {
    let world = within(0, Format::Text, None, || {
        info!("outside of every attempt");
        attempt_span("r", "composite", "3", 2).in_scope(|| {
            info!(scenes = 12, share = 0.5, ok = true, name = "B04", missing = f64::NAN, "reading");
            let deeper = tracing::info_span!("window", n = 1);
            deeper.in_scope(|| warn!(target: "stderr", "from the program"));
            debug!("too fine");
        });
        info!("outside again");
    });
    let kept = world.kept();
    let lines: Vec<_> = kept.iter().map(|r| (r.level.as_str(), r.target.as_str(), r.message.as_str())).collect();
    assert_eq!(lines, [("info", "telemetry", "reading"), ("warn", "stderr", "from the program")]);
    assert!(kept.iter().all(|record| record.of == key("composite", "3", 2) && record.at > 1_700_000_000_000));
    let fields = r#"{"scenes":12,"share":0.5,"ok":true,"name":"B04","missing":"NaN"}"#;
    assert_eq!((kept[0].fields.as_str(), kept[1].fields.as_str()), (fields, ""));
    // The quiet terminal shows only the warning, and whose it is.
    assert_eq!(world.shown(), "warn  composite[3] #2: from the program\n");
}

#[test]
fn attempts_at_the_same_time_do_not_mix() {
    let world = World { terminal: Terminal::default(), logs: Arc::default() };
    let settings = Settings { verbosity: 0, format: Format::Text, redact: |text| Cow::Borrowed(text) };
    let dispatch = tracing::Dispatch::new(subscriber(settings, None, std::io::sink, world.logs.clone()).unwrap());
    std::thread::scope(|threads| {
        for step in 0..4 {
            let dispatch = dispatch.clone();
            threads.spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || {
                    let span = attempt_span("r", &format!("s{step}"), "", 1);
                    for n in 0..200 {
                        span.in_scope(|| info!(n, "line"));
                    }
                });
            });
        }
    });
    let batches = world.logs.take();
    assert_eq!(batches.len(), 4);
    for (step, batch) in batches.iter().enumerate() {
        assert_eq!((batch.of.step.as_str(), batch.dropped), (format!("s{step}").as_str(), 0));
        let fields: Vec<_> = batch.lines.iter().map(|line| line.fields.clone()).collect();
        assert_eq!(fields, (0..200).map(|n| format!(r#"{{"n":{n}}}"#)).collect::<Vec<_>>());
    }
    assert!(world.logs.take().is_empty());
}

#[test]
fn secrets_and_escape_sequences_reach_neither_terminal_nor_log() {
    for format in [Format::Text, Format::Json] {
        let world = within(1, format, None, || {
            attempt_span("r", "s", "", 1).in_scope(|| {
                let url = "https://h/x.tif?se=1&sig=S3CRET";
                warn!(url, at = %url, "\u{1b}[31mGET {url}\u{1b}[0m failed");
                info!("{}", "x".repeat(3 * LONGEST_LINE));
            });
        });
        let kept = world.kept();
        assert_eq!(kept[0].message, "GET https://h/x.tif?se=1&sig=REDACTED failed");
        assert!(kept[1].message.len() <= LONGEST_LINE);
        let shown = world.shown();
        for text in [shown.as_str(), kept[0].fields.as_str()] {
            assert!(!text.contains("S3CRET") && !text.contains('\u{1b}'), "{text}");
            assert!(text.contains("sig=REDACTED"), "{text}");
        }
    }
}

#[test]
fn json_lines_are_one_object_each() {
    let world = within(1, Format::Json, None, || {
        info!(n = 7, "two\nlines");
        attempt_span("r", "s", "1/2", 3).in_scope(|| error!("bad"));
    });
    let lines: Vec<serde_json::Value> = world.shown().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((lines[0]["level"].as_str(), lines[0]["message"].as_str()), (Some("info"), Some("two\nlines")));
    assert_eq!((lines[0]["fields"]["n"].as_u64(), lines[0].get("run")), (Some(7), None));
    let time = lines[0]["time"].as_str().unwrap();
    assert!(time.starts_with("20") && time.contains('T') && time.ends_with('Z'), "{time}");
    let attempt = ["run", "step", "instance"].map(|name| lines[1][name].as_str().unwrap());
    assert_eq!((attempt, lines[1]["attempt"].as_u64()), (["r", "s", "1/2"], Some(3)));
}

#[test]
fn text_lines_cannot_be_forged_by_a_message() {
    let world = within(1, Format::Text, None, || info!(path = "a b", "first\nwarn  second"));
    assert_eq!(world.shown(), "info  first\n      warn  second path=\"a b\"\n");
}

#[test]
fn verbosity_and_rust_log_decide_what_is_told() {
    let tell = || {
        error!("e");
        warn!("w");
        info!("i");
        debug!("d");
        trace!("t");
        error!(target: "sqlx::query", "E");
        warn!(target: "sqlx::query", "W");
        info!(target: "hyper", "I");
        debug!(target: "hyper", "D");
    };
    for (verbosity, directives, due) in [
        (0, None, "ewE"),
        (1, None, "ewiEW"),
        (2, None, "ewidEW"),
        (3, None, "ewidtEWID"),
        (0, Some("error,hyper=debug"), "eEID"),
        (3, Some("off"), ""),
    ] {
        let world = within(verbosity, Format::Text, directives, tell);
        let told: String = world.shown().lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect();
        assert_eq!(told, due, "{verbosity} {directives:?}");
    }
    let settings = Settings { verbosity: 0, format: Format::Text, redact: swath_store::redact };
    let refused = subscriber(settings, Some("swath=loud"), std::io::sink, Buffer::default()).err().unwrap();
    assert!(matches!(refused, SetupError::Filter(_)) && refused.to_string().contains("RUST_LOG"), "{refused}");
}

#[test]
fn a_full_buffer_drops_the_oldest_and_counts() {
    let buffer = Buffer::new(3, 1 << 20);
    let line = |n: usize, length: usize| LogRecord {
        of: key("s", "", 1),
        at: n as i64,
        level: "info".into(),
        target: "t".into(),
        message: "x".repeat(length),
        fields: String::new(),
    };
    for n in 0..10 {
        buffer.write(line(n, 1));
    }
    let batch = &buffer.take()[0];
    assert_eq!((batch.lines.iter().map(|l| l.at).collect::<Vec<_>>(), batch.dropped), (vec![7, 8, 9], 7));
    assert!(buffer.take().is_empty());
    // By bytes; the newest line always stays.
    let buffer = Buffer::new(1000, 1000);
    for n in 0..5 {
        buffer.write(line(n, 600));
    }
    let batch = &buffer.take()[0];
    assert_eq!((batch.lines.len(), batch.lines[0].at, batch.dropped), (1, 4, 4));
    buffer.write(line(9, 5000));
    assert_eq!(buffer.take()[0].lines[0].message.len(), 5000);
}

#[test]
fn a_terminal_that_is_gone_fails_nobody() {
    struct Gone;
    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
    }
    let logs: Arc<Buffer> = Arc::default();
    let settings = Settings { verbosity: 1, format: Format::Text, redact: swath_store::redact };
    let subscriber = subscriber(settings, None, || Gone, logs.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || attempt_span("r", "s", "", 1).in_scope(|| info!("kept")));
    assert_eq!(logs.take()[0].lines[0].message, "kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drained_lines_are_read_back_from_the_store() {
    use swath_store::{Access, LogBatch, LogFilter, LogLine, NewRun, SqliteStore, Store};
    use tracing::Instrument;
    use tracing::instrument::WithSubscriber;
    let home = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(home.path(), Access::Write).await.unwrap();
    let run = NewRun {
        id: "r".into(),
        flow: "f".into(),
        source: "f.yaml".into(),
        text: "".into(),
        text_digest: "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262".parse().unwrap(),
        params: "{}".into(),
        plan: "{}".into(),
        state: "running".into(),
        created_at: 0,
    };
    store.create_run(run).await.unwrap();
    let buffer: Arc<Buffer> = Arc::default();
    let settings = Settings { verbosity: 0, format: Format::Text, redact: swath_store::redact };
    let subscriber = subscriber(settings, None, std::io::sink, buffer.clone()).unwrap();
    async {
        for n in 0..3 {
            info!(n, "before and after waiting");
            tokio::task::yield_now().await;
        }
    }
    .with_subscriber(subscriber)
    .await;
    assert!(buffer.take().is_empty(), "told outside of every attempt");
    let subscriber = swath_telemetry::subscriber(settings, None, std::io::sink, buffer.clone()).unwrap();
    async {
        let span = attempt_span("r", "s", "", 1);
        async {
            for n in 0..3 {
                info!(n, "before and after waiting");
                tokio::task::yield_now().await;
            }
        }
        .instrument(span)
        .await;
    }
    .with_subscriber(subscriber)
    .await;
    for batch in buffer.take() {
        let lines = batch.lines.into_iter().map(|r| LogLine {
            at: r.at,
            level: r.level,
            target: r.target,
            message: r.message,
            fields: r.fields,
        });
        let stored = LogBatch {
            run: batch.of.run,
            step: batch.of.step,
            instance: batch.of.instance,
            attempt: batch.of.attempt,
            at: 0,
            lines: lines.collect(),
            dropped: batch.dropped,
        };
        store.append_logs(stored).await.unwrap();
    }
    let read = store.read_logs("r", &LogFilter::default()).await.unwrap();
    assert_eq!(
        read.iter().map(|l| l.line.fields.as_str()).collect::<Vec<_>>(),
        [r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#]
    );
}
