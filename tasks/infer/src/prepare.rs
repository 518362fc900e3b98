//! From pixels to network input: reads columns of a group of tile rows, normalises each pixel once, cuts out tiles.

use std::ops::Range;

use swath_task::TaskError;

use crate::plan::Plan;
use crate::tiling::Axis;

/// A rectangle of pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    /// Rows.
    pub rows: Range<usize>,
    /// Columns.
    pub columns: Range<usize>,
}

/// Where pixels come from.
///
/// # Contract
/// `read` fills `buffer` (`[band][row][column]`, exactly the window) with the pixels as stored, bands in the network's
/// order. It is called with windows inside of the raster.
pub(crate) trait Source: Send {
    /// Reads a window of all bands.
    fn read(&mut self, window: &Window, buffer: &mut [f32]) -> Result<(), TaskError>;
}

/// How a stored pixel of a band becomes network input: `pixel * factor + term`, cut to 0 to 1 if `unit`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    /// Stored value that means no data; NaN when there is none. NaN and infinite pixels are no data in any case.
    pub nodata: f32,
    /// Scale of the raster and of the normalisation in one.
    pub factor: f32,
    /// Offset of both in one.
    pub term: f32,
    /// Whether the result is cut to 0 to 1.
    pub unit: bool,
}

/// The part of a raster held as network input: a group's rows, and the columns from the leftmost that is still needed.
pub(crate) struct Panel<'a> {
    axes: (&'a Axis, &'a Axis),
    tile: usize,
    rules: &'a [Rule],
    fill: f32,
    plan: &'a Plan,
    rows: Range<usize>,
    columns: Range<usize>,
    /// Where the last chunk of columns begins; those before it are read from the first row to the last.
    chunk: usize,
    /// Rows of the last chunk before this one are read.
    ready: usize,
    /// `[band][row][column]`, rows of `plan.width`.
    values: Vec<f32>,
    /// `[row][column]`: 1 where every band has data.
    valid: Vec<u8>,
    stored: Vec<f32>,
}

impl<'a> Panel<'a> {
    /// An empty panel. `axes`: rows, columns.
    pub fn new(axes: (&'a Axis, &'a Axis), tile: usize, rules: &'a [Rule], fill: f32, plan: &'a Plan) -> Self {
        let held = plan.rows * plan.width;
        Self {
            axes,
            tile,
            rules,
            fill,
            plan,
            rows: 0..0,
            columns: 0..0,
            chunk: 0,
            ready: 0,
            values: vec![0.0; held * rules.len()],
            valid: vec![0; held],
            stored: vec![0.0; rules.len() * plan.slab * plan.chunk],
        }
    }

    /// Starts a group: rows as given, no columns yet.
    pub fn start(&mut self, rows: Range<usize>) {
        self.ready = rows.end;
        self.rows = rows;
        self.columns = 0..0;
        self.chunk = 0;
    }

    /// Makes sure that a tile can be cut out, forgetting columns that no later tile shows. Tiles of a column are asked
    /// for from top to bottom, and no more rows are read than they need: the network does not wait for a whole column.
    pub fn reach(&mut self, tile_row: usize, tile_column: usize, source: &mut dyn Source) -> Result<(), TaskError> {
        let (rows, columns) = self.axes;
        let needed = columns.reads(tile_column);
        if needed.end > self.columns.end {
            self.read(self.rows.end, source)?;
            // Only the last tile may reach back before its start, so two tiles tell what all later ones need.
            let last = columns.tiles() - 1;
            let keep = needed.start.min(columns.reads(last).start);
            self.forget(keep.min(self.columns.end));
        }
        while needed.end > self.columns.end {
            self.read(self.rows.end, source)?;
            self.chunk = self.columns.end;
            self.columns.end = ((self.chunk / self.plan.chunk + 1) * self.plan.chunk).min(columns.length());
            self.ready = self.rows.start;
        }
        if needed.end > self.chunk { self.read(rows.reads(tile_row).end, source) } else { Ok(()) }
    }

    fn forget(&mut self, before: usize) {
        let shift = before.saturating_sub(self.columns.start);
        if shift == 0 {
            return;
        }
        let (width, kept) = (self.plan.width, self.columns.len() - shift);
        for line in self.values.chunks_exact_mut(width) {
            line.copy_within(shift..shift + kept, 0);
        }
        for line in self.valid.chunks_exact_mut(width) {
            line.copy_within(shift..shift + kept, 0);
        }
        self.columns.start = before;
    }

    /// Reads the last chunk down to row `end`, in slabs of rows that follow the blocks of the file.
    fn read(&mut self, end: usize, source: &mut dyn Source) -> Result<(), TaskError> {
        let columns = self.chunk..self.columns.end;
        let width = self.plan.width;
        while self.ready < end {
            let at = self.chunk - self.columns.start;
            debug_assert!(at + columns.len() <= width, "the plan holds what a tile needs");
            let row = self.ready;
            let next = ((row / self.plan.slab + 1) * self.plan.slab).min(self.rows.end);
            let window = Window { rows: row..next, columns: columns.clone() };
            let pixels = window.rows.len() * columns.len();
            let stored = &mut self.stored[..pixels * self.rules.len()];
            source.read(&window, stored)?;
            for (band, (rule, stored)) in self.rules.iter().zip(stored.chunks_exact(pixels)).enumerate() {
                for (i, stored) in stored.chunks_exact(columns.len()).enumerate() {
                    let line = row - self.rows.start + i;
                    let valid = &mut self.valid[line * width + at..][..columns.len()];
                    if band == 0 {
                        valid.fill(1);
                    }
                    let values = &mut self.values[(band * self.plan.rows + line) * width + at..][..columns.len()];
                    normalise(rule, self.fill, stored, values, valid);
                }
            }
            self.ready = next;
        }
        Ok(())
    }

    /// Where a tile has data: `mask` is `[row][column]`, 1 where it does, inside of the raster. Returns its share of that.
    pub fn mask(&self, tile_row: usize, tile_column: usize, mask: &mut [u8]) -> f64 {
        let (rows, columns) = self.axes;
        let (tile, width) = (self.tile, self.plan.width);
        let (height_inside, width_inside) = (rows.inside(tile_row), columns.inside(tile_column));
        let left = columns.start(tile_column) - self.columns.start;
        mask.fill(0);
        let mut count = 0;
        for i in 0..height_inside {
            let line = rows.source(tile_row, i) - self.rows.start;
            let valid = &self.valid[line * width + left..][..width_inside];
            mask[i * tile..][..width_inside].copy_from_slice(valid);
            count += valid.iter().map(|valid| u32::from(*valid)).sum::<u32>() as usize;
        }
        count as f64 / (height_inside * width_inside) as f64
    }

    /// Cuts out a tile: `input` is `[band][row][column]`.
    pub fn cut(&self, tile_row: usize, tile_column: usize, input: &mut [f32]) {
        let (rows, columns) = self.axes;
        let (tile, width) = (self.tile, self.plan.width);
        let width_inside = columns.inside(tile_column);
        let left = columns.start(tile_column) - self.columns.start;
        for (band, input) in input.chunks_exact_mut(tile * tile).enumerate() {
            for (i, out) in input.chunks_exact_mut(tile).enumerate() {
                let line = rows.source(tile_row, i) - self.rows.start;
                let values = &self.values[(band * self.plan.rows + line) * width..][..width];
                out[..width_inside].copy_from_slice(&values[left..][..width_inside]);
                for (j, out) in out.iter_mut().enumerate().skip(width_inside) {
                    *out = values[columns.source(tile_column, j) - self.columns.start];
                }
            }
        }
    }
}

fn normalise(rule: &Rule, fill: f32, stored: &[f32], values: &mut [f32], valid: &mut [u8]) {
    let Rule { nodata, factor, term, unit } = *rule;
    let (low, high) = if unit { (0.0, 1.0) } else { (f32::NEG_INFINITY, f32::INFINITY) };
    for ((stored, value), valid) in stored.iter().zip(values).zip(valid) {
        // Not a NaN, not infinite, not the no-data value (which is never equal to anything when it is NaN).
        let good = stored.is_finite() & (*stored != nodata);
        let scaled = (stored * factor + term).max(low).min(high);
        *value = if good { scaled } else { fill };
        *valid &= u8::from(good);
    }
}
