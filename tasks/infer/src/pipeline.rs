//! Reading, the network and writing, side by side: one thread prepares tiles, some run the network or wait for a server
//! that does, one stitches and writes. Bounded queues between them, so that the slowest sets the pace and memory stays as planned.
//!
//! Invariants:
//! 1. Tiles are added to the mosaic in the order they were read, whoever ran them: equal input gives equal output.
//! 2. When one thread stops, the queues break and all stop; the first failure is the one that is told.
//! 3. A tile without data, or with too little of it, never reaches the network.
//! 4. No network runs further ahead of the mosaic than the plan has room for, however long another one takes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, Scope, ScopedJoinHandle, Thread};
use std::time::Duration;

use swath_kinds::OutputActivation;
use swath_nets::Output;
use swath_task::{Fault, TaskError};

use crate::backend::Backend;
use crate::plan::{Plan, Sizes, span};
use crate::prepare::{Panel, Rule, Source};
use crate::stitch::{BadNumber, Canvas, Mosaic, Sheet, Sink};

/// All that is to be done.
pub(crate) struct Job<'a> {
    /// Tiles and channels.
    pub sizes: &'a Sizes,
    /// What is held at once.
    pub plan: &'a Plan,
    /// One a band, in the network's order.
    pub rules: &'a [Rule],
    /// Network input where there is no data.
    pub fill: f32,
    /// A tile of which a smaller share has data is left out, as is one without any.
    pub least: f64,
    /// What the network's numbers are.
    pub activation: OutputActivation,
    /// The network takes full batches only: a last, smaller one is filled up.
    pub full_batches: bool,
    /// Where the network lies, for messages.
    pub network: &'a str,
    /// Names of the classes, for messages.
    pub classes: &'a [String],
}

/// What the engine says and hears meanwhile.
pub(crate) trait Watch: Sync {
    /// Whether to stop.
    fn cancelled(&self) -> bool;
    /// Tiles done of all.
    fn progress(&self, done: u64, total: u64);
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// Tiles the network ran on.
    pub tiles: u64,
    /// Tiles without data, or with too little.
    pub skipped: u64,
}

/// Tiles of one run of the network: row and column of each, its input or its output, and masks.
struct Batch {
    tiles: Vec<(usize, usize)>,
    numbers: Vec<f32>,
    masks: Vec<u8>,
}

enum Work {
    Batch(Batch),
    /// All tiles of a group have been sent: no tile row before this one is still to come.
    Final(usize),
}

/// Work and its place in the order of reading.
type Numbered = (u64, Work);

/// Buffers that were used and will be again: fresh ones would have to be cleared by the system, page by page.
#[derive(Default)]
struct Spare {
    inputs: Mutex<Vec<Vec<f32>>>,
    outputs: Mutex<Vec<Vec<f32>>>,
    masks: Mutex<Vec<Vec<u8>>>,
}

fn take<T: Clone + Default>(heap: &Mutex<Vec<Vec<T>>>, length: usize) -> Vec<T> {
    let used = heap.lock().unwrap_or_else(PoisonError::into_inner).pop();
    used.unwrap_or_else(|| vec![T::default(); length])
}

fn give<T>(heap: &Mutex<Vec<Vec<T>>>, buffer: Vec<T>) {
    heap.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
}

/// How far the mosaic is, for those who must not run too far ahead of it.
#[derive(Default)]
struct Turn {
    next: Mutex<u64>,
    moved: Condvar,
}

impl Turn {
    /// Waits until work of this number is less than `window` ahead. False when there is a wish to stop meanwhile.
    fn wait(&self, number: u64, window: u64, halt: &Halt<'_>) -> bool {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        while number >= *next + window {
            if halt.asked() {
                return false;
            }
            next = self.moved.wait_timeout(next, POLL).unwrap_or_else(PoisonError::into_inner).0;
        }
        !halt.asked()
    }

    /// All work before this number is in the mosaic.
    fn reach(&self, number: u64) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = number;
        self.moved.notify_all();
    }
}

/// How often a wish to stop is looked for while the network runs.
const POLL: Duration = Duration::from_millis(50);

/// Tells every thread to stop: the engine wishes it, or another thread failed.
struct Halt<'a> {
    watch: &'a dyn Watch,
    failed: AtomicBool,
    /// The failure that came first: others may follow from it.
    first: Mutex<Option<TaskError>>,
}

impl Halt<'_> {
    fn asked(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.watch.cancelled()
    }

    /// Does a thread's work; when it fails or panics, the others hear of it. `None`: it failed.
    fn guard<T>(&self, work: impl FnOnce() -> Result<T, TaskError>) -> Option<T> {
        struct Alarm<'a>(&'a AtomicBool);
        impl Drop for Alarm<'_> {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.store(true, Ordering::Relaxed);
                }
            }
        }
        let _alarm = Alarm(&self.failed);
        match work() {
            Ok(done) => Some(done),
            Err(error) => {
                self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                self.failed.store(true, Ordering::Release);
                None
            }
        }
    }
}

/// Ends the watcher when it is dropped, by a panic as well: the scope would wait for it for ever.
struct Dismissal<'a> {
    over: &'a AtomicBool,
    watcher: &'a Thread,
}

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        self.watcher.unpark();
    }
}

/// Runs a job to its end. Each of `networks` has a thread of its own.
pub(crate) fn run(
    job: &Job<'_>,
    source: &mut dyn Source,
    networks: &[&dyn Backend],
    sink: &mut dyn Sink,
    watch: &dyn Watch,
) -> Result<Done, TaskError> {
    let (to_network, network_queue) = sync_channel(job.plan.input_queue);
    let (to_stitch, stitch_queue) = sync_channel(job.plan.output_queue);
    // Owned by the network threads alone: with the last of them the queue breaks and the reader stops.
    let network_queue = Arc::new(Mutex::new(network_queue));
    let (spare, turn) = (Spare::default(), Turn::default());
    let skipped = AtomicU64::new(0);
    let halt = Halt { watch, failed: AtomicBool::new(false), first: Mutex::new(None) };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (spare, turn, skipped, halt, over) = (&spare, &turn, &skipped, &halt, &over);
        let watcher = named(scope, "infer-watch", move || {
            while !over.load(Ordering::Acquire) {
                if halt.asked() {
                    networks.iter().for_each(|network| network.interrupt());
                    break;
                }
                std::thread::park_timeout(POLL);
            }
        });
        let dismissal = Dismissal { over, watcher: watcher.thread() };
        let reader =
            named(scope, "infer-read", move || halt.guard(|| prepare(job, source, to_network, spare, skipped, halt)));
        let lanes: Vec<_> = networks
            .iter()
            .map(|network| {
                let (queue, send) = (network_queue.clone(), to_stitch.clone());
                let work = move || compute(job, *network, &queue, &send, (spare, turn), halt);
                named(scope, "infer-network", move || halt.guard(work))
            })
            .collect();
        drop((network_queue, to_stitch));
        let stitched = halt.guard(|| stitch(job, stitch_queue, (spare, turn), skipped, sink, halt));
        joined(reader.join());
        for lane in lanes {
            joined(lane.join());
        }
        drop(dismissal);
        if watch.cancelled() {
            return Err(TaskError::Cancelled);
        }
        match (halt.first.lock().unwrap_or_else(PoisonError::into_inner).take(), stitched) {
            (Some(error), _) => Err(error),
            // Whatever ends a thread early is kept, so this is the whole raster.
            (None, tiles) => Ok(Done { tiles: tiles.unwrap_or_default(), skipped: skipped.load(Ordering::Relaxed) }),
        }
    })
}

/// A thread that debuggers and profilers show by name, and that works within the attempt.
fn named<'s, 'e, T: Send + 's>(
    scope: &'s Scope<'s, 'e>,
    name: &str,
    work: impl FnOnce() -> T + Send + 's,
) -> ScopedJoinHandle<'s, T> {
    let span = tracing::Span::current();
    let work = move || span.in_scope(work);
    // As `Scope::spawn` does: a system that gives no thread leaves nothing to go on with.
    Builder::new().name(name.to_owned()).spawn_scoped(scope, work).expect("a thread can be started")
}

fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn prepare(
    job: &Job<'_>,
    source: &mut dyn Source,
    send: SyncSender<Numbered>,
    spare: &Spare,
    skipped: &AtomicU64,
    halt: &Halt<'_>,
) -> Result<(), TaskError> {
    let Sizes { rows, columns, tile, batch, bands, .. } = job.sizes;
    let area = tile.area();
    let mut panel = Panel::new((rows, columns), tile.size, job.rules, job.fill, job.plan);
    let mut numbers = 0..;
    // False when nobody takes work any more.
    let mut sent = |work: Work| send.send((numbers.next().unwrap_or(u64::MAX), work)).is_ok();
    for first in (0..rows.tiles()).step_by(job.plan.group) {
        let end = (first + job.plan.group).min(rows.tiles());
        panel.start(span(rows, first, job.plan.group));
        let mut filling: Option<Batch> = None;
        for column in 0..columns.tiles() {
            for row in first..end {
                if halt.asked() {
                    return Ok(());
                }
                panel.reach(row, column, source)?;
                let current = filling.get_or_insert_with(|| empty_batch(job, spare));
                let at = current.tiles.len();
                let share = panel.mask(row, column, &mut current.masks[at * area..][..area]);
                if share == 0.0 || share < job.least {
                    skipped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                panel.cut(row, column, &mut current.numbers[at * area * bands..][..area * bands]);
                current.tiles.push((row, column));
                if current.tiles.len() == *batch
                    && let Some(full) = filling.take()
                    && !sent(Work::Batch(full))
                {
                    return Ok(());
                }
            }
        }
        if let Some(rest) = filling.take().filter(|rest| !rest.tiles.is_empty())
            && !sent(Work::Batch(rest))
        {
            return Ok(());
        }
        if !sent(Work::Final(end)) {
            return Ok(());
        }
    }
    Ok(())
}

/// A batch from the heap of used buffers, or of new ones.
fn empty_batch(job: &Job<'_>, spare: &Spare) -> Batch {
    let Sizes { tile, batch, bands, .. } = *job.sizes;
    let pixels = batch * tile.area();
    let (numbers, masks) = (take(&spare.inputs, pixels * bands), take(&spare.masks, pixels));
    Batch { tiles: Vec::with_capacity(batch), numbers, masks }
}

fn compute(
    job: &Job<'_>,
    network: &dyn Backend,
    queue: &Mutex<Receiver<Numbered>>,
    send: &SyncSender<Numbered>,
    (spare, turn): (&Spare, &Turn),
    halt: &Halt<'_>,
) -> Result<(), TaskError> {
    let Sizes { tile, batch: full, bands, networks, .. } = *job.sizes;
    let (area, answer) = (tile.area(), job.sizes.answer());
    let window = (job.plan.output_queue + networks) as u64;
    // The lock is held while waiting: who gets it next is next to be served.
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
    while let Ok((number, mut work)) = next() {
        if !turn.wait(number, window, halt) {
            return Ok(());
        }
        if let Work::Batch(batch) = &mut work {
            let filled = batch.tiles.len();
            let count = if job.full_batches { full } else { filled };
            let mut output = take(&spare.outputs, full * answer);
            batch.numbers[filled * area * bands..count * area * bands].fill(0.0);
            network.run(count, &mut batch.numbers, &mut output[..count * answer])?;
            give(&spare.inputs, std::mem::replace(&mut batch.numbers, output));
        }
        if send.send((number, work)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn stitch(
    job: &Job<'_>,
    queue: Receiver<Numbered>,
    (spare, turn): (&Spare, &Turn),
    skipped: &AtomicU64,
    sink: &mut dyn Sink,
    halt: &Halt<'_>,
) -> Result<u64, TaskError> {
    let Sizes { rows, columns, tile, classes, .. } = job.sizes;
    let (area, answer) = (tile.area(), job.sizes.answer());
    let total = (rows.tiles() * columns.tiles()) as u64;
    let mut canvas: Box<dyn Canvas> = match tile.output {
        Output::Pixels => Box::new(Mosaic::new((rows, columns), tile.size, *classes, job.plan.rows, job.activation)),
        Output::Image => {
            Box::new(Sheet::new((rows, columns), *classes, job.plan.group.min(rows.tiles()), job.activation))
        }
    };
    let mut tiles = 0;
    // Networks may finish out of order.
    let (mut early, mut next) = (BTreeMap::new(), 0);
    for (number, work) in queue {
        early.insert(number, work);
        while let Some(work) = early.remove(&next) {
            next += 1;
            if halt.asked() {
                return Ok(tiles);
            }
            match work {
                Work::Batch(batch) => {
                    for (at, (row, column)) in batch.tiles.iter().enumerate() {
                        let output = &batch.numbers[at * answer..][..answer];
                        canvas
                            .add(*row, *column, output, &batch.masks[at * area..][..area])
                            .map_err(|bad| bad_number(job, bad, (*row, *column)).permanent())?;
                    }
                    tiles += batch.tiles.len() as u64;
                    give(&spare.outputs, batch.numbers);
                    give(&spare.masks, batch.masks);
                    halt.watch.progress(tiles + skipped.load(Ordering::Relaxed), total);
                }
                Work::Final(end) => canvas.finish(end, sink)?,
            }
            turn.reach(next);
        }
    }
    halt.watch.progress(tiles + skipped.load(Ordering::Relaxed), total);
    Ok(tiles)
}

fn bad_number(job: &Job<'_>, bad: BadNumber, (tile_row, tile_column): (usize, usize)) -> Fault {
    let BadNumber { class, row, column, value } = bad;
    let class = job.classes.get(class).map_or("?", String::as_str);
    let place = format!("class `{class}` at row {row}, column {column} (tile {tile_column} of tile row {tile_row})");
    if value.is_finite() {
        Fault::new("M111", format!("the network `{}` gave {value} for {place}, which is no probability", job.network))
            .help("if these are logits, say so in the manifest: `\"activation\": \"logits\"`")
    } else {
        Fault::new("M110", format!("the network `{}` gave {value} for {place}, where the input is data", job.network))
            .help("check the manifest's normalisation against that of the training, and the network in float32")
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
