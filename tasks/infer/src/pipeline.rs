//! Reading, the network and writing, side by side: one thread prepares tiles, one runs the network, one stitches and
//! writes. Bounded queues between them, so that the slowest sets the pace and memory stays as planned.
//!
//! Invariants:
//! 1. Tiles are added to the mosaic in one order, whatever the threads do: equal input gives equal output.
//! 2. When one thread stops, the queues break and all stop; the first failure is the one that is told.
//! 3. A tile without data never reaches the network.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use swath_kinds::OutputActivation;
use swath_task::{Fault, TaskError};

use crate::plan::{Plan, Sizes, span};
use crate::prepare::{Panel, Rule, Source};
use crate::session::Backend;
use crate::stitch::{BadNumber, Mosaic, Sink};

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
    /// What the network's numbers are.
    pub activation: OutputActivation,
    /// The network takes full batches only: a last, smaller one is filled up.
    pub full_batches: bool,
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
    /// Tiles without data.
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
    /// All tiles of a group have been sent: rows before this one are final.
    Final(usize),
}

/// Buffers that were used and will be again: fresh ones would have to be cleared by the system, page by page.
#[derive(Default)]
struct Spare {
    inputs: Mutex<Vec<Vec<f32>>>,
    outputs: Mutex<Vec<Vec<f32>>>,
    masks: Mutex<Vec<Vec<u8>>>,
}

fn take<T: Clone + Default>(heap: &Mutex<Vec<Vec<T>>>, length: usize) -> Vec<T> {
    let used = heap.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
    used.unwrap_or_else(|| vec![T::default(); length])
}

fn give<T>(heap: &Mutex<Vec<Vec<T>>>, buffer: Vec<T>) {
    heap.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(buffer);
}

/// How often a wish to stop is looked for while the network runs.
const POLL: Duration = Duration::from_millis(50);

/// Runs a job to its end.
pub(crate) fn run(
    job: &Job<'_>,
    source: &mut dyn Source,
    backend: &dyn Backend,
    sink: &mut dyn Sink,
    watch: &dyn Watch,
) -> Result<Done, TaskError> {
    let (to_network, network_queue) = sync_channel(job.plan.input_queue);
    let (to_stitch, stitch_queue) = sync_channel(job.plan.output_queue);
    let spare = Spare::default();
    let skipped = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::Acquire) {
                if watch.cancelled() {
                    backend.interrupt();
                    break;
                }
                std::thread::park_timeout(POLL);
            }
        });
        let reader = scope.spawn(|| prepare(job, source, to_network, &spare, &skipped, watch));
        let network = scope.spawn(|| compute(job, backend, network_queue, to_stitch, &spare, watch));
        let stitched = stitch(job, stitch_queue, &spare, &skipped, sink, watch);
        let read = joined(reader.join());
        let computed = joined(network.join());
        over.store(true, Ordering::Release);
        watcher.thread().unpark();
        if watch.cancelled() {
            return Err(TaskError::Cancelled);
        }
        read?;
        computed?;
        Ok(Done { tiles: stitched?, skipped: skipped.load(Ordering::Relaxed) })
    })
}

fn joined<T>(result: std::thread::Result<T>) -> T {
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn prepare(
    job: &Job<'_>,
    source: &mut dyn Source,
    send: SyncSender<Work>,
    spare: &Spare,
    skipped: &AtomicU64,
    watch: &dyn Watch,
) -> Result<(), TaskError> {
    let Sizes { rows, columns, tile, batch, .. } = job.sizes;
    let area = tile * tile;
    let mut panel = Panel::new((rows, columns), *tile, job.rules, job.fill, job.plan);
    for first in (0..rows.tiles()).step_by(job.plan.group) {
        let end = (first + job.plan.group).min(rows.tiles());
        panel.start(span(rows, first, job.plan.group));
        let mut filling: Option<Batch> = None;
        for column in 0..columns.tiles() {
            if watch.cancelled() {
                return Err(TaskError::Cancelled);
            }
            panel.reach(column, source)?;
            for row in first..end {
                let current = filling.get_or_insert_with(|| empty_batch(job, spare));
                let at = current.tiles.len();
                let input = &mut current.numbers[at * area * job.sizes.bands..][..area * job.sizes.bands];
                if !panel.cut(row, column, input, &mut current.masks[at * area..][..area]) {
                    skipped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                current.tiles.push((row, column));
                if current.tiles.len() == *batch
                    && let Some(full) = filling.take()
                    && send.send(Work::Batch(full)).is_err()
                {
                    return Ok(());
                }
            }
        }
        if let Some(rest) = filling.take().filter(|rest| !rest.tiles.is_empty())
            && send.send(Work::Batch(rest)).is_err()
        {
            return Ok(());
        }
        if send.send(Work::Final(rows.finished(end - 1))).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn empty_batch(job: &Job<'_>, spare: &Spare) -> Batch {
    let Sizes { tile, batch, bands, .. } = *job.sizes;
    let pixels = batch * tile * tile;
    let (numbers, masks) = (take(&spare.inputs, pixels * bands), take(&spare.masks, pixels));
    Batch { tiles: Vec::with_capacity(batch), numbers, masks }
}

fn compute(
    job: &Job<'_>,
    backend: &dyn Backend,
    queue: Receiver<Work>,
    send: SyncSender<Work>,
    spare: &Spare,
    watch: &dyn Watch,
) -> Result<(), TaskError> {
    let Sizes { tile, batch: full, bands, classes, .. } = *job.sizes;
    let area = tile * tile;
    for mut work in queue {
        if watch.cancelled() {
            return Err(TaskError::Cancelled);
        }
        if let Work::Batch(batch) = &mut work {
            let filled = batch.tiles.len();
            let count = if job.full_batches { full } else { filled };
            let mut output = take(&spare.outputs, full * area * classes);
            let input = &mut batch.numbers[..count * area * bands];
            input[filled * area * bands..].fill(0.0);
            let result = backend.run(count, input, &mut output[..count * area * classes]);
            result.map_err(|fault| if watch.cancelled() { TaskError::Cancelled } else { fault.permanent() })?;
            give(&spare.inputs, std::mem::replace(&mut batch.numbers, output));
        }
        if send.send(work).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn stitch(
    job: &Job<'_>,
    queue: Receiver<Work>,
    spare: &Spare,
    skipped: &AtomicU64,
    sink: &mut dyn Sink,
    watch: &dyn Watch,
) -> Result<u64, TaskError> {
    let Sizes { rows, columns, tile, classes, .. } = job.sizes;
    let area = tile * tile;
    let total = (rows.tiles() * columns.tiles()) as u64;
    let mut mosaic = Mosaic::new((rows, columns), *tile, *classes, job.plan.rows, job.activation);
    let mut tiles = 0;
    for work in queue {
        match work {
            Work::Batch(batch) => {
                for (at, (row, column)) in batch.tiles.iter().enumerate() {
                    let output = &batch.numbers[at * area * classes..][..area * classes];
                    mosaic
                        .add(*row, *column, output, &batch.masks[at * area..][..area])
                        .map_err(|bad| bad_number(job, bad, (*row, *column)).permanent())?;
                }
                tiles += batch.tiles.len() as u64;
                give(&spare.outputs, batch.numbers);
                give(&spare.masks, batch.masks);
                watch.progress(tiles + skipped.load(Ordering::Relaxed), total);
            }
            Work::Final(end) => {
                if watch.cancelled() {
                    return Err(TaskError::Cancelled);
                }
                mosaic.finish(end, sink)?;
            }
        }
    }
    watch.progress(tiles + skipped.load(Ordering::Relaxed), total);
    Ok(tiles)
}

fn bad_number(job: &Job<'_>, bad: BadNumber, (tile_row, tile_column): (usize, usize)) -> Fault {
    let BadNumber { class, row, column, value } = bad;
    let class = job.classes.get(class).map_or("?", String::as_str);
    let place = format!("class `{class}` at row {row}, column {column} (tile {tile_column} of tile row {tile_row})");
    if value.is_finite() {
        Fault::new("M111", format!("the network gave {value} for {place}, which is no probability"))
            .help("if these are logits, say so in the manifest: `\"activation\": \"logits\"`")
    } else {
        Fault::new("M110", format!("the network gave {value} for {place}, where the input is data"))
            .help("check the manifest's normalisation against that of the training, and the network in float32")
    }
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;
