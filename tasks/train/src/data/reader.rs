//! Batches read ahead: threads read, vary and normalise while the network computes.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use swath_datasets::ChipRef;
use swath_task::{Context, Fault, TaskError};

use super::{Batch, Raw, Samples, Vary};

/// How often a wait looks whether the attempt was told to stop.
const LOOK: Duration = Duration::from_millis(100);

/// What is read.
pub(crate) struct Reading {
    /// The chips, in order.
    pub chips: Vec<ChipRef>,
    /// Chips of a batch.
    pub batch: usize,
    pub vary: Option<Vary>,
    pub threads: usize,
}

/// Batches in order. Each thread reads every so-manieth batch and waits with the next one until the last was taken, so that at
/// most two a thread are in memory. Dropped, the threads end.
pub(crate) struct Reader {
    queues: Vec<Receiver<Result<Batch, TaskError>>>,
    next: usize,
    count: usize,
    /// How long the network has waited.
    pub waited: Duration,
}

impl Reader {
    pub fn start(samples: &Arc<Samples>, reading: Reading) -> Result<Self, TaskError> {
        let count = reading.chips.len().div_ceil(reading.batch);
        let threads = reading.threads.clamp(1, count.max(1));
        let reading = Arc::new(reading);
        let start = |thread: usize| {
            let (sender, receiver) = sync_channel(1);
            let (samples, reading) = (samples.clone(), reading.clone());
            let work = move || read(&samples, &reading, (thread..count).step_by(threads), &sender);
            let started = std::thread::Builder::new().name("swath-chips".to_owned()).spawn(work);
            started.map(|_| receiver).map_err(|error| {
                Fault::new("N109", format!("no thread for reading chips can be started: {error}")).transient(None)
            })
        };
        let queues = (0..threads).map(start).collect::<Result<_, _>>()?;
        Ok(Self { queues, next: 0, count, waited: Duration::ZERO })
    }

    /// The next batch; `None` after the last.
    pub fn next(&mut self, ctx: &Context) -> Result<Option<Batch>, TaskError> {
        if self.next == self.count {
            return Ok(None);
        }
        let queue = &self.queues[self.next % self.queues.len()];
        let began = Instant::now();
        let batch = loop {
            ctx.check_cancelled()?;
            match queue.recv_timeout(LOOK) {
                Ok(batch) => break batch?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Fault::new("N109", "the thread that reads chips has ended without a word").permanent());
                }
            }
        };
        self.waited += began.elapsed();
        self.next += 1;
        Ok(Some(batch))
    }
}

fn read(
    samples: &Samples,
    reading: &Reading,
    batches: impl Iterator<Item = usize>,
    sender: &SyncSender<Result<Batch, TaskError>>,
) {
    let mut raw = Raw::default();
    for batch in batches {
        let first = batch * reading.batch;
        let chips = &reading.chips[first..reading.chips.len().min(first + reading.batch)];
        let batch = samples.batch(chips, first, reading.vary.as_ref(), &mut raw);
        let failed = batch.is_err();
        // Nobody takes it: the training has ended.
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}
