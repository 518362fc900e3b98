//! From network output to probabilities in place: weighs tiles, sums them up, hands on rows that are final. Of networks that
//! tell of whole tiles: puts what they tell side by side.

use swath_kinds::OutputActivation;
use swath_task::TaskError;

use crate::plan::WRITE_ROWS;
use crate::tiling::Axis;

/// Where finished rows go.
///
/// # Contract
/// `write` is called with rows in order, each once, `[class][row][column]`, NaN where there is no data.
pub(crate) trait Sink: Send {
    /// Takes rows from `row` on.
    fn write(&mut self, row: usize, rows: usize, values: &[f32]) -> Result<(), TaskError>;
}

/// What the network tells, put in place.
///
/// # Contract
/// Tiles are added in the order of groups of tile rows; after those of a group `finish` is called with the first tile row
/// that follows it.
pub(crate) trait Canvas {
    /// Adds what the network tells of a tile, `[class][row][column]`. `mask` is where the tile has data.
    fn add(&mut self, tile_row: usize, tile_column: usize, output: &[f32], mask: &[u8]) -> Result<(), BadNumber>;
    /// Hands on what is final once all tile rows before `end` are done.
    fn finish(&mut self, end: usize, sink: &mut dyn Sink) -> Result<(), TaskError>;
}

/// How far outside of 0 to 1 a probability may lie for rounding's sake.
const ROUNDING: f32 = 1e-4;

/// A number that a network must not give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BadNumber {
    /// Index of the class.
    pub class: usize,
    /// Row in the raster.
    pub row: usize,
    /// Column in the raster.
    pub column: usize,
    /// The number.
    pub value: f32,
}

/// The rows that tiles are being summed up in.
pub(crate) struct Mosaic<'a> {
    axes: (&'a Axis, &'a Axis),
    tile: usize,
    activation: OutputActivation,
    /// Of the row that is being added, see [`log_sum_exp`].
    log_sums: Vec<LogSum>,
    rows: usize,
    first: usize,
    /// `[class][row][column]`
    sums: Vec<f32>,
    /// `[row][column]`: 1 where there is data.
    valid: Vec<u8>,
    out: Vec<f32>,
    classes: usize,
}

impl<'a> Mosaic<'a> {
    /// A mosaic of `rows` rows, from row 0 of the raster on. `axes`: rows, columns.
    pub fn new(
        axes: (&'a Axis, &'a Axis),
        tile: usize,
        classes: usize,
        rows: usize,
        activation: OutputActivation,
    ) -> Self {
        let area = rows * axes.1.length();
        Self {
            axes,
            tile,
            activation,
            rows,
            first: 0,
            sums: vec![0.0; area * classes],
            valid: vec![0; area],
            out: vec![0.0; WRITE_ROWS.min(rows) * axes.1.length() * classes],
            log_sums: Vec::new(),
            classes,
        }
    }
}

impl Canvas for Mosaic<'_> {
    fn add(&mut self, tile_row: usize, tile_column: usize, output: &[f32], mask: &[u8]) -> Result<(), BadNumber> {
        let (rows, columns) = self.axes;
        let (tile, width) = (self.tile, columns.length());
        let (height_inside, width_inside) = (rows.inside(tile_row), columns.inside(tile_column));
        let (top, left) = (rows.start(tile_row), columns.start(tile_column));
        let across = &columns.weights(tile_column)[..width_inside];
        for i in 0..height_inside {
            let line = top + i - self.first;
            let mask = &mask[i * tile..][..width_inside];
            let valid = &mut self.valid[line * width + left..][..width_inside];
            valid.iter_mut().zip(mask).for_each(|(valid, mask)| *valid |= mask);
            let down = rows.weights(tile_row)[i];
            if self.activation == OutputActivation::ClassLogits {
                let values = |j: usize| (0..self.classes).map(move |class| output[(class * tile + i) * tile + j]);
                self.log_sums.clear();
                self.log_sums.extend((0..width_inside).map(|j| log_sum_exp(values(j))));
            }
            for class in 0..self.classes {
                let output = &output[(class * tile + i) * tile..][..width_inside];
                let sums = &mut self.sums[(class * self.rows + line) * width + left..][..width_inside];
                let pixels = sums.iter_mut().zip(output).zip(mask.iter().zip(across)).enumerate();
                for (j, ((sum, output), (mask, across))) in pixels {
                    if *mask != 0 {
                        let log_sum = self.log_sums.get(j).copied().unwrap_or_default();
                        let probability = probability(self.activation, *output, log_sum).ok_or(BadNumber {
                            class,
                            row: top + i,
                            column: left + j,
                            value: *output,
                        })?;
                        *sum += down * across * probability;
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, end: usize, sink: &mut dyn Sink) -> Result<(), TaskError> {
        let width = self.axes.1.length();
        let end = self.axes.0.finished(end - 1);
        let done = end - self.first;
        let mut line = 0;
        while line < done {
            let count = WRITE_ROWS.min(self.rows).min(done - line);
            let valid = &self.valid[line * width..][..count * width];
            for class in 0..self.classes {
                let sums = &self.sums[(class * self.rows + line) * width..][..count * width];
                let out = &mut self.out[class * count * width..][..count * width];
                for ((out, sum), valid) in out.iter_mut().zip(sums).zip(valid) {
                    // Weights that sum to one but for rounding must not leave 0 to 1.
                    *out = if *valid == 0 { f32::NAN } else { sum.clamp(0.0, 1.0) };
                }
            }
            sink.write(self.first + line, count, &self.out[..self.classes * count * width])?;
            line += count;
        }
        let (gone, all) = (done * width, self.rows * width);
        for sums in self.sums.chunks_exact_mut(all) {
            sums.copy_within(gone.., 0);
            sums[all - gone..].fill(0.0);
        }
        self.valid.copy_within(gone.., 0);
        self.valid[all - gone..].fill(0);
        self.first = end;
        Ok(())
    }
}

/// What a network tells of the tiles of a group, each a pixel.
pub(crate) struct Sheet<'a> {
    axes: (&'a Axis, &'a Axis),
    activation: OutputActivation,
    /// First tile row of the group.
    first: usize,
    /// Tile rows that there is room for.
    rows: usize,
    /// `[class][tile row][tile column]`, NaN where no tile was added.
    values: Vec<f32>,
    out: Vec<f32>,
}

impl<'a> Sheet<'a> {
    /// A sheet for groups of `rows` tile rows. `axes`: rows, columns.
    pub fn new(axes: (&'a Axis, &'a Axis), classes: usize, rows: usize, activation: OutputActivation) -> Self {
        let values = vec![f32::NAN; rows * axes.1.tiles() * classes];
        Self { axes, activation, first: 0, rows, out: Vec::with_capacity(values.len()), values }
    }
}

impl Canvas for Sheet<'_> {
    fn add(&mut self, tile_row: usize, tile_column: usize, output: &[f32], _: &[u8]) -> Result<(), BadNumber> {
        let (rows, columns) = self.axes;
        let log_sum = match self.activation {
            OutputActivation::ClassLogits => log_sum_exp(output.iter().copied()),
            OutputActivation::Logits | OutputActivation::Probability => LogSum::default(),
        };
        for (class, value) in output.iter().enumerate() {
            let (row, column) = (rows.start(tile_row), columns.start(tile_column));
            let bad = BadNumber { class, row, column, value: *value };
            let probability = probability(self.activation, *value, log_sum).ok_or(bad)?;
            let line = class * self.rows + tile_row - self.first;
            self.values[line * columns.tiles() + tile_column] = probability.clamp(0.0, 1.0);
        }
        Ok(())
    }

    fn finish(&mut self, end: usize, sink: &mut dyn Sink) -> Result<(), TaskError> {
        let (rows, width) = (end - self.first, self.axes.1.tiles());
        self.out.clear();
        for class in self.values.chunks_exact(self.rows * width) {
            self.out.extend_from_slice(&class[..rows * width]);
        }
        sink.write(self.first, rows, &self.out)?;
        self.values.fill(f32::NAN);
        self.first = end;
        Ok(())
    }
}

/// The logarithm of a sum of exponentials, in two parts: their sum would round away what large logits differ by.
#[derive(Clone, Copy, Debug, Default)]
struct LogSum {
    largest: f32,
    /// How far it lies above the largest.
    above: f32,
}

/// The logarithm of the sum of exponentials, without overflow: what softmax takes from each.
fn log_sum_exp(values: impl Iterator<Item = f32> + Clone) -> LogSum {
    let largest = values.clone().fold(f32::NEG_INFINITY, f32::max);
    LogSum { largest, above: values.map(|value| (value - largest).exp()).sum::<f32>().ln() }
}

/// `sum` is the [`log_sum_exp`] of the pixel over its classes, where the activation asks for one.
fn probability(activation: OutputActivation, output: f32, sum: LogSum) -> Option<f32> {
    match activation {
        OutputActivation::ClassLogits => output.is_finite().then(|| (output - sum.largest - sum.above).exp()),
        OutputActivation::Logits => output.is_finite().then(|| 1.0 / (1.0 + (-output).exp())),
        OutputActivation::Probability => (-ROUNDING..=1.0 + ROUNDING).contains(&output).then(|| output.clamp(0.0, 1.0)),
    }
}
