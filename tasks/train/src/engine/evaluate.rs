//! A side of a dataset seen by a network that does not learn.

use swath_datasets::SideName;
use swath_nets::Model;
use swath_task::{Context, TaskError};

use super::{Job, step};
use crate::data::{Batch, Reader};
use crate::metrics::Tally;

/// What a network tells of a batch.
pub(crate) struct Seeing<'a> {
    pub batch: &'a Batch,
    pub logits: &'a [f32],
}

/// Counts what a network tells of a side. `see` is shown every batch.
pub(crate) fn evaluate(
    job: &Job,
    model: &Model,
    side: SideName,
    ctx: &Context,
    see: &mut dyn FnMut(&Seeing<'_>),
) -> Result<Tally, TaskError> {
    let mut tally = Tally::new(job.samples.classes);
    let mut reader = Reader::start(&job.samples, job.reading(job.samples.side(side).to_vec(), None))?;
    while let Some(mut batch) = reader.next(ctx)? {
        let [images, targets, valid] = job.tensors(&mut batch, &job.machine.device);
        let logits = model.forward(images);
        let loss = step::objective(job.settings.loss(), logits.clone(), targets, valid);
        let loss = f64::from(loss.into_scalar::<f32>());
        let logits = logits.into_data().convert::<f32>();
        let logits = logits.as_slice::<f32>().expect("they were made 32-bit floats");
        tally.add(&batch, logits, loss)?;
        see(&Seeing { batch: &batch, logits });
    }
    Ok(tally)
}
