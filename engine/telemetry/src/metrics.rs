//! The instruments, all of them, and how what happens in runs moves them.
//!
//! Names are OpenTelemetry's, from which Prometheus' follow (`swath.step.duration` in seconds is
//! `swath_step_duration_seconds`). Labels are flow, task, state, limit and figure, never a run: the number of series is
//! bounded by what is installed and deployed, and by the kit's own limit for each instrument.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use swath_host::{Observer, SlotUse, Update};

/// Bounds in seconds: from a step that does nothing to one that runs for a night.
const SECONDS: [f64; 14] =
    [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0];

/// A run that this process drives.
struct Live {
    flow: String,
    state: &'static str,
    ready: u64,
    /// Whether it is a sub-flow's, which is counted with the run above it.
    below: bool,
}

/// All instruments.
pub struct Metrics {
    meter: Meter,
    live: Arc<Mutex<HashMap<String, Live>>>,
    runs_started: Counter<u64>,
    runs_ended: Counter<u64>,
    step_duration: Histogram<f64>,
    step_wait: Histogram<f64>,
    step_retries: Counter<u64>,
    cache_hits: Counter<u64>,
    cache_misses: Counter<u64>,
    bytes_read: Counter<u64>,
    bytes_written: Counter<u64>,
    figures: Counter<f64>,
    schedule_lag: Gauge<f64>,
}

impl Metrics {
    pub(crate) fn new(meter: Meter) -> Self {
        let live: Arc<Mutex<HashMap<String, Live>>> = Arc::default();
        let counter = |name, about| meter.u64_counter(name).with_description(about);
        let seconds = |name, about| {
            meter.f64_histogram(name).with_unit("s").with_boundaries(SECONDS.to_vec()).with_description(about).build()
        };
        let runs = live.clone();
        meter
            .u64_observable_gauge("swath.runs")
            .with_description("Runs that this process drives")
            .with_callback(move |gauge| {
                let mut counts: BTreeMap<(String, &str), u64> = BTreeMap::new();
                for run in lock(&runs).values().filter(|run| !run.below) {
                    *counts.entry((run.flow.clone(), run.state)).or_default() += 1;
                }
                for ((flow, state), count) in counts {
                    gauge.observe(count, &[flow_label(&flow), state_label(state)]);
                }
            })
            .build();
        let runs = live.clone();
        meter
            .u64_observable_gauge("swath.queue.depth")
            .with_description("Step instances that could start if there were slots for them")
            .with_callback(move |gauge| gauge.observe(lock(&runs).values().map(|run| run.ready).sum(), &[]))
            .build();
        meter
            .u64_observable_gauge("process.memory.usage")
            .with_unit("By")
            .with_description("Memory of this process that is resident")
            .with_callback(|gauge| {
                if let Some(bytes) = resident() {
                    gauge.observe(bytes, &[]);
                }
            })
            .build();
        Self {
            live,
            runs_started: counter("swath.runs.started", "Runs begun").build(),
            runs_ended: counter("swath.runs.ended", "Runs ended, by their final state").build(),
            step_duration: seconds("swath.step.duration", "From the start of an attempt to its end"),
            step_wait: seconds("swath.step.wait", "From when an attempt could have started to its start"),
            step_retries: counter("swath.step.retries", "Attempts that failed and were tried again").build(),
            cache_hits: counter("swath.cache.hits", "Steps whose earlier results were taken").build(),
            cache_misses: counter("swath.cache.misses", "Steps that ran because no earlier result fitted").build(),
            bytes_read: counter("swath.artifact.read", "Bytes of the artifacts that attempts asked for")
                .with_unit("By")
                .build(),
            bytes_written: counter("swath.artifact.written", "Bytes of the artifacts that attempts made")
                .with_unit("By")
                .build(),
            figures: meter
                .f64_counter("swath.task.figures")
                .with_description("What attempts told of their work, summed: pixels, chips, scenes, detections")
                .build(),
            schedule_lag: meter
                .f64_gauge("swath.schedule.lag")
                .with_unit("s")
                .with_description("How late the last run of a schedule was started")
                .build(),
            meter,
        }
    }

    /// Reads the slots from here on, whenever somebody asks for metrics.
    pub fn watch_slots(&self, slots: impl Fn() -> Vec<SlotUse> + Send + Sync + 'static) {
        let slots = Arc::new(slots);
        let gauge = |name, about, value: fn(&SlotUse) -> f64| {
            let slots = slots.clone();
            let read = move |gauge: &dyn opentelemetry::metrics::AsyncInstrument<f64>| {
                for slot in slots() {
                    gauge.observe(value(&slot), &[KeyValue::new("limit", slot.name.clone())]);
                }
            };
            self.meter.f64_observable_gauge(name).with_description(about).with_callback(read).build();
        };
        gauge(
            "swath.slots.used",
            "Cores, bytes of memory, GPUs and units of named limits that attempts hold",
            |slot| slot.used,
        );
        gauge("swath.slots.capacity", "What there is of them", |slot| slot.capacity);
    }

    fn of_live(&self, run: &str, change: impl FnOnce(&mut Live)) {
        if let Some(live) = lock(&self.live).get_mut(run) {
            change(live);
        }
    }
}

impl Observer for Metrics {
    fn update(&self, run: &str, update: &Update) {
        match update {
            Update::RunStarted { flow, above, resumed, .. } => {
                let below = above.is_some();
                if !below && !resumed {
                    self.runs_started.add(1, &[flow_label(flow)]);
                }
                let live = Live { flow: flow.clone(), state: "running", ready: 0, below };
                lock(&self.live).insert(run.to_owned(), live);
            }
            Update::Paused => self.of_live(run, |live| live.state = "paused"),
            Update::Unpaused => self.of_live(run, |live| live.state = "running"),
            Update::Cancelling => self.of_live(run, |live| live.state = "cancelling"),
            Update::Queued { ready } => self.of_live(run, |live| live.ready = *ready),
            Update::RunEnded { state } => self.of_live(run, |live| {
                if !live.below {
                    self.runs_ended.add(1, &[flow_label(&live.flow), state_label(state)]);
                }
            }),
            Update::Left => drop(lock(&self.live).remove(run)),
            Update::LookedUp { task, found } => {
                // Both are there from the first lookup on: a share of what is absent is absent too.
                self.cache_hits.add(u64::from(*found), &[task_label(task)]);
                self.cache_misses.add(u64::from(!*found), &[task_label(task)]);
            }
            Update::Due { flow, lag } => self.schedule_lag.record(lag.as_secs_f64(), &[flow_label(flow)]),
            Update::AttemptStarted { task, waited, .. } => {
                self.step_wait.record(waited.as_secs_f64(), &[task_label(task)]);
            }
            Update::AttemptEnded { task, how, took, figures, .. } => {
                let task = task_label(task);
                self.step_duration.record(took.as_secs_f64(), &[task.clone(), state_label(how.name())]);
                for (counter, bytes) in
                    [(&self.bytes_read, figures.bytes_read), (&self.bytes_written, figures.bytes_written)]
                {
                    if bytes > 0 {
                        counter.add(bytes, std::slice::from_ref(&task));
                    }
                }
                for (name, value) in figures.told.iter().filter(|(_, value)| value.is_finite() && *value >= 0.0) {
                    self.figures.add(*value, &[task.clone(), KeyValue::new("figure", name.clone())]);
                }
            }
            Update::Retrying { task, .. } => self.step_retries.add(1, &[task_label(task)]),
            _ => {}
        }
    }
}

fn lock(live: &Mutex<HashMap<String, Live>>) -> MutexGuard<'_, HashMap<String, Live>> {
    live.lock().unwrap_or_else(PoisonError::into_inner)
}

fn flow_label(flow: &str) -> KeyValue {
    KeyValue::new("flow", flow.to_owned())
}

fn task_label(task: &str) -> KeyValue {
    KeyValue::new("task", task.to_owned())
}

fn state_label(state: &str) -> KeyValue {
    KeyValue::new("state", state.to_owned())
}

/// Resident memory of this process in bytes, where the system tells it.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}
