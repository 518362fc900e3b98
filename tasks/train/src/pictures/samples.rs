//! What the network tells of some chips of the validation side: the chip, its label, and the prediction, side by side.

use std::path::Path;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;
use rand::seq::SliceRandom;
use swath_datasets::{ChipRef, SideName};
use swath_nets::Model;
use swath_task::{Context, TaskError};

use super::{Canvas, INK};
use crate::data::{Batch, Reader};
use crate::engine::Job;
use crate::metrics::sigmoid;
use crate::random::{self, For};

/// Chips that show something, and as many that do not.
const EACH: usize = 4;
/// Pixels of a chip in the picture, and the space around it.
const CELL: usize = 160;
const SPACE: usize = 6;
const CAPTION: usize = 14;
/// Chips in a row.
const COLUMNS: usize = 2;

const IGNORED: [u8; 3] = [60, 60, 90];
const CLASSES: [[u8; 3]; 10] = [
    [20, 20, 24],
    [230, 80, 60],
    [70, 150, 255],
    [90, 200, 110],
    [250, 190, 40],
    [170, 100, 220],
    [60, 200, 210],
    [240, 130, 180],
    [150, 110, 70],
    [200, 200, 200],
];

/// Draws some chips into a PNG file.
pub(crate) fn samples(job: &Job, model: &Model, ctx: &Context, path: &Path) -> Result<(), TaskError> {
    let mut chips: Vec<ChipRef> = Vec::new();
    for positive in [true, false] {
        let own = job.samples.side(SideName::Validation).iter().filter(|chip| chip.positive == positive);
        let mut own: Vec<ChipRef> = own.cloned().collect();
        own.shuffle(&mut random::generator(job.settings.seed, For::Picture, u64::from(positive), 0));
        chips.extend(own.into_iter().take(EACH));
    }
    let of_pixels = job.network.output() == swath_nets::Output::Pixels;
    let parts = if of_pixels { 3 } else { 1 };
    let (wide, tall) = (parts * (CELL + 1) + 2 * SPACE, CELL + CAPTION + SPACE);
    let rows = chips.len().div_ceil(COLUMNS);
    let mut canvas = Canvas::new((COLUMNS * wide) as u32, (rows * tall + SPACE) as u32);
    let bands = job.samples.dataset.manifest().natural_colours();
    let mut reader = Reader::start(&job.samples, job.reading(chips, None))?;
    let mut place = 0;
    while let Some(mut batch) = reader.next(ctx)? {
        let images = batch.images.clone();
        let [input, ..] = job.tensors(&mut batch, &job.machine.device);
        let logits = model.forward(input).into_data().convert::<f32>();
        let logits = logits.as_slice::<f32>().expect("they were made 32-bit floats");
        let pixels = batch.size * batch.size;
        let image_of = |chip: usize| &images[chip * job.network.in_channels() * pixels..];
        for chip in 0..batch.chips.len() {
            let (left, top) = (place % COLUMNS * wide + SPACE, place / COLUMNS * tall + SPACE);
            let planes = bands.map(|band| stretched(&image_of(chip)[band * pixels..][..pixels]));
            let colour = |pixel: usize| [0, 1, 2].map(|channel| planes[channel][pixel]);
            picture(&mut canvas, left, top, batch.size, &colour);
            let of = Told { batch: &batch, logits, chip, classes: job.samples.classes };
            let caption = if of_pixels {
                picture(&mut canvas, left + CELL + 1, top, batch.size, &|pixel| of.truth(pixel));
                picture(&mut canvas, left + 2 * (CELL + 1), top, batch.size, &|pixel| of.prediction(pixel));
                batch.chips[chip].id.clone()
            } else {
                of.words(&job.names)
            };
            let across = (left + (parts * (CELL + 1)) / 2) as i32;
            canvas.text(&caption, across, (top + CELL + CAPTION / 2) as i32, Alignment::Center, INK);
            canvas.frame(
                left as i32 - 1,
                top as i32 - 1,
                (parts * (CELL + 1) + 1) as u32,
                CELL as u32 + 2,
                frame(&batch.chips[chip]),
            );
            place += 1;
        }
    }
    canvas.save(path)
}

fn frame(chip: &ChipRef) -> Rgb888 {
    if chip.positive { Rgb888::new(70, 200, 100) } else { Rgb888::new(170, 170, 178) }
}

/// What is told of a chip.
struct Told<'a> {
    batch: &'a Batch,
    logits: &'a [f32],
    chip: usize,
    classes: usize,
}

impl Told<'_> {
    fn of<'b>(&self, values: &'b [f32], channels: usize) -> &'b [f32] {
        let pixels = self.batch.told * self.batch.told;
        &values[self.chip * channels * pixels..][..channels * pixels]
    }

    fn truth(&self, pixel: usize) -> [u8; 3] {
        if self.of(&self.batch.valid, 1)[pixel] == 0.0 {
            return IGNORED;
        }
        let targets = self.of(&self.batch.targets, self.classes);
        if self.classes == 1 {
            grey(f64::from(targets[pixel]))
        } else {
            CLASSES[self.highest(targets, pixel) % CLASSES.len()]
        }
    }

    fn prediction(&self, pixel: usize) -> [u8; 3] {
        let logits = self.of(self.logits, self.classes);
        if self.classes == 1 {
            grey(sigmoid(f64::from(logits[pixel])))
        } else {
            CLASSES[self.highest(logits, pixel) % CLASSES.len()]
        }
    }

    fn highest(&self, values: &[f32], pixel: usize) -> usize {
        let pixels = self.batch.told * self.batch.told;
        let of = |class: &usize| values[class * pixels + pixel];
        (0..self.classes).reduce(|best, class| if of(&class) > of(&best) { class } else { best }).unwrap_or(0)
    }

    /// `is river, told forest`.
    fn words(&self, names: &[String]) -> String {
        let (targets, logits) = (self.of(&self.batch.targets, self.classes), self.of(self.logits, self.classes));
        if self.classes == 1 {
            let is = if targets[0] > 0.5 { "is" } else { "is no" };
            return format!("{is} {}, told {:.2}", names[0], sigmoid(f64::from(logits[0])));
        }
        format!("is {}, told {}", names[self.highest(targets, 0)], names[self.highest(logits, 0)])
    }
}

fn grey(share: f64) -> [u8; 3] {
    [(share.clamp(0.0, 1.0) * 255.0).round() as u8; 3]
}

/// A square of `size` pixels as one of [`CELL`], each as the nearest.
fn picture(canvas: &mut Canvas, left: usize, top: usize, size: usize, colour: &dyn Fn(usize) -> [u8; 3]) {
    for y in 0..CELL {
        for x in 0..CELL {
            canvas.dot(left + x, top + y, colour(y * size / CELL * size + x * size / CELL));
        }
    }
}

/// A band from black at its second percentile to white at its second to last.
fn stretched(plane: &[f32]) -> Vec<u8> {
    let mut sorted = plane.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share) as usize];
    let (low, high) = (at(0.02), at(0.98));
    let share = |value: f32| if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.5 };
    plane.iter().map(|value| (share(*value) * 255.0).round() as u8).collect()
}
