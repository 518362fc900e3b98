//! `dataset.chips`: a raster and its label to a chip set.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_datasets::{ChipWriter, Header, Measures, POSITIVE_ABOVE, Place, Sources};
use swath_geo::{Crs, GeoError, Grid, PixelWindow, Raster, TILE, Transform};
use swath_kinds::{ChipSetFolder, Cog};
use swath_task::{Artifact, Bytes, Context, Draft, Needs, Problem, Purity, Task, TaskError};

use crate::faults::{fault, geo_fault, set_fault};
use crate::tiles::{BASE_MEMORY, COUNT_BAND, holds_value, threads};

/// Bytes of pixels in a shard: many enough that few files hold a set, few enough to wait in memory.
const SHARD: usize = 32 << 20;
/// What a shard takes while it is written: its pixels, and the file made of them.
const SHARD_MEMORY: u64 = 3 * SHARD as u64;
/// Bands of a raster of which nothing is known.
const USUAL_BANDS: usize = 12;
/// Rows and columns of the region that chips which begin in it are cut from at once: as a tile, which is decoded whole.
const REGION: usize = TILE;
/// Most bytes of such a region; larger chips are read one by one.
const REGION_MEMORY: usize = 64 << 20;
/// Points on each edge of a chip whose longitude and latitude make its box.
const EDGE_POINTS: usize = 8;

/// Cuts a raster and its label into a chip set: square chips in files that training reads at once, with a manifest that tells
/// where each lies and what is in it.
///
/// The last chip of a row or column is shifted back so that it ends at the edge: all chips have the same size and all pixels are
/// covered. A raster smaller than a chip gives one chip, filled up with no-data. Values have scale and offset applied;
/// no-data is NaN. A pixel without data in one of the bands has no label. `docs/datasets.md` tells the format.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CutChips {
    /// Rows and columns of a chip.
    #[serde(default = "default_size")]
    #[schemars(range(min = 16, max = 2048))]
    pub size: usize,
    /// Pixels from one chip to the next: as many as `size` when absent, fewer for chips that overlap.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub stride: Option<usize>,
    /// Chips with a smaller share of pixels that have a label and data in all bands are left out.
    #[serde(default = "default_valid")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_valid: f64,
    /// Bands of a chip, in order; all but `count` when absent.
    #[serde(default)]
    pub bands: Option<Vec<String>>,
}

fn default_size() -> usize {
    256
}

fn default_valid() -> f64 {
    0.5
}

/// What chips are cut from.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// A raster with named bands.
    pub raster: Artifact<Cog>,
    /// Its label, on the same grid, as `labels.*` make it.
    pub label: Artifact<Cog>,
}

/// A chip set.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The chips and their manifest.
    pub chips: Artifact<ChipSetFolder>,
    /// How many there are.
    pub count: u64,
    /// How many of them show something of a class or site.
    pub positives: u64,
}

impl Task for CutChips {
    const NAME: &'static str = "dataset.chips";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if !(16..=2048).contains(&self.size) {
            problems.push(Problem::new("/size", format!("{} is not between 16 and 2048", self.size)));
        }
        if self.stride.is_some_and(|stride| stride == 0 || stride > self.size) {
            let message = format!("a stride of {} is not between 1 and the size, {}", self.stride(), self.size);
            problems.push(Problem::new("/stride", message).help("a longer stride would leave gaps"));
        }
        if !(0.0..=1.0).contains(&self.min_valid) {
            problems.push(Problem::new("/min_valid", format!("{} is not a share from 0 to 1", self.min_valid)));
        }
        if self.bands.as_ref().is_some_and(Vec::is_empty) {
            problems.push(Problem::new("/bands", "at least one band is needed"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        // Two readers are the least that keeps the writer busy.
        let chips = 2 * self.memory(self.bands.as_ref().map_or(USUAL_BANDS, Vec::len));
        Needs::all_cores(Bytes((BASE_MEMORY + SHARD_MEMORY + chips).max(Bytes::mib(256).0)))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let (raster, label) = (ctx.locate(&inputs.raster).await?, ctx.locate(&inputs.label).await?);
        let sources = Sources { raster: inputs.raster.record().digest, label: inputs.label.record().digest };
        let draft: Draft<ChipSetFolder> = ctx.draft("chips")?;
        let (task, out) = (self.clone(), draft.path().to_owned());
        let (count, positives) = ctx.blocking(move |ctx| task.cut(&raster, &label, sources, &out, ctx)).await?;
        ctx.metric("chips", count as f64);
        ctx.metric("positive_chips", positives as f64);
        Ok(Outputs { chips: draft.commit().await?, count, positives })
    }
}

/// Where chips begin along a side: steps of `stride`, the last one shifted back to end at the edge.
fn starts(length: usize, size: usize, stride: usize) -> Vec<usize> {
    let last = length.saturating_sub(size);
    let mut starts: Vec<usize> = (0..=last).step_by(stride).collect();
    if starts.last() != Some(&last) {
        starts.push(last);
    }
    starts
}

/// A chip as a reader hands it to the writer.
struct Cut {
    place: Place,
    image: Vec<f32>,
    label: Vec<f32>,
    measures: Measures,
}

/// What a reader has open.
struct Reader {
    raster: Raster,
    bands: Vec<usize>,
    label: Raster,
    grid: Grid,
    to_degrees: Transform,
}

/// Values and labels that several chips are cut from.
struct Region {
    window: PixelWindow,
    label: Vec<f32>,
    bands: Vec<Vec<f32>>,
}

impl Region {
    /// Copies a window of one of its planes into the upper left of a chip's.
    fn copy(&self, values: &[f32], window: &PixelWindow, size: usize, plane: &mut [f32]) {
        let (left, top) = (window.column - self.window.column, window.row - self.window.row);
        for (row, line) in plane.chunks_exact_mut(size).take(window.height).enumerate() {
            line[..window.width].copy_from_slice(&values[(top + row) * self.window.width + left..][..window.width]);
        }
    }
}

/// A window of a band as values, scale and offset applied; NaN where there is none.
fn read_values(raster: &Raster, band: usize, window: &PixelWindow) -> Result<Vec<f32>, TaskError> {
    let mut values = vec![0.0_f32; window.len()];
    raster.read(band, window, &mut values).map_err(geo_fault)?;
    let info = &raster.info().bands[band];
    for value in &mut values {
        let scaled = (f64::from(*value) * info.scale + info.offset) as f32;
        *value = if holds_value(info, *value) && scaled.is_finite() { scaled } else { f32::NAN };
    }
    Ok(values)
}

impl CutChips {
    fn stride(&self) -> usize {
        self.stride.unwrap_or(self.size)
    }

    /// Bytes of a reader: its region, the chip at work, those that wait for the writer, and what is decoded.
    fn memory(&self, bands: usize) -> u64 {
        let chip = self.size * self.size * (bands + 1) * 4;
        (self.region_memory(bands) + 3 * chip + (4 << 20)) as u64
    }

    /// Bytes of the pixels and labels of a region.
    fn region_memory(&self, bands: usize) -> usize {
        let side = self.size + if self.region(bands) > 1 { REGION } else { 0 };
        side * side * (bands + 1) * 4
    }

    /// Rows and columns in which the chips of a region begin.
    fn region(&self, bands: usize) -> usize {
        let side = self.size + REGION;
        if side * side * (bands + 1) * 4 <= REGION_MEMORY { REGION } else { 1 }
    }

    /// The windows of all chips, those of a region together.
    fn windows(&self, grid: &Grid, bands: usize) -> Vec<Vec<PixelWindow>> {
        let region = self.region(bands);
        let (width, height) = (self.size.min(grid.width), self.size.min(grid.height));
        let mut regions: BTreeMap<(usize, usize), Vec<PixelWindow>> = BTreeMap::new();
        for row in starts(grid.height, self.size, self.stride()) {
            for column in starts(grid.width, self.size, self.stride()) {
                let window = PixelWindow::new(column, row, width, height);
                regions.entry((row / region, column / region)).or_default().push(window);
            }
        }
        regions.into_values().collect()
    }

    fn open(&self, raster: &Path, label: &Path) -> Result<Reader, GeoError> {
        let (raster, label) = (Raster::open_path(raster)?, Raster::open_path(label)?);
        let bands = raster.info().bands.iter().enumerate();
        let bands = match &self.bands {
            Some(names) => names.iter().map(|name| raster.info().band(name)).collect::<Result<_, _>>()?,
            None => bands.filter(|(_, band)| band.name != COUNT_BAND).map(|(index, _)| index).collect(),
        };
        let grid = raster.grid()?;
        let to_degrees = Transform::new(&grid.crs, &Crs::wgs84()?)?;
        Ok(Reader { raster, bands, label, grid, to_degrees })
    }

    fn cut(
        &self,
        raster: &Path,
        label: &Path,
        sources: Sources,
        out: &Path,
        ctx: &Context,
    ) -> Result<(u64, u64), TaskError> {
        let first = self.open(raster, label).map_err(geo_fault)?;
        first.check_label()?;
        let (grid, info) = (&first.grid, first.raster.info());
        let header = Header {
            size: self.size,
            stride: self.stride(),
            bands: first.bands.iter().map(|band| info.bands[*band].name.clone()).collect(),
            crs: grid.crs.epsg().map_or_else(|| grid.crs.wkt().to_owned(), |code| format!("EPSG:{code}")),
            sources,
        };
        let mut writer = ChipWriter::create(out, header, SHARD).map_err(set_fault)?;
        let regions = self.windows(grid, first.bands.len());
        let all: usize = regions.iter().map(Vec::len).sum();
        let memory = Bytes(self.needs().memory.0.saturating_sub(SHARD_MEMORY));
        let readers = threads(ctx.cpus(), memory, self.memory(first.bands.len())).min(regions.len());
        let span = tracing::Span::current();
        let (mut count, mut positives, mut best) = (0, 0, 0.0_f64);
        // Each reader takes every n-th region; the writer asks them in turn, so that chips keep their order.
        std::thread::scope(|scope| -> Result<(), TaskError> {
            let channels: Vec<_> = (0..readers)
                .map(|reader| {
                    let (sender, receiver) = sync_channel(1);
                    let (span, regions) = (&span, &regions);
                    scope.spawn(move || {
                        let _entered = span.enter();
                        let open = self.open(raster, label).map_err(geo_fault);
                        let open = match open {
                            Ok(open) => open,
                            Err(error) => return drop(sender.send(Err(error))),
                        };
                        for windows in regions.iter().skip(reader).step_by(readers) {
                            let region = match open.read(windows) {
                                Ok(region) => region,
                                Err(error) => return drop(sender.send(Err(error))),
                            };
                            for window in windows {
                                // A writer that stopped has no ear any more.
                                if sender.send(open.chip(&region, window, self.size)).is_err() {
                                    return;
                                }
                            }
                        }
                    });
                    receiver
                })
                .collect();
            let windows =
                regions.iter().enumerate().flat_map(|(region, windows)| windows.iter().map(move |w| (region, w)));
            for (done, (region, window)) in (1..).zip(windows) {
                ctx.check_cancelled()?;
                let chip = channels[region % readers].recv();
                let chip = chip.map_err(|_| fault("E202", "a reader of chips ended early", "report this defect"))??;
                let valid = chip.measures.valid() as f64 / window.len() as f64;
                best = best.max(valid);
                if valid >= self.min_valid && valid > 0.0 {
                    writer.push(&chip.place, &chip.image, &chip.label, &chip.measures).map_err(set_fault)?;
                    count += 1;
                    positives += u64::from(chip.measures.labels().iter().any(|label| label.value > POSITIVE_ABOVE));
                }
                ctx.progress(done, all as u64, "chips");
            }
            Ok(())
        })?;
        if count == 0 {
            let message = if best == 0.0 {
                format!("none of the {all} chips of `{}` has a pixel with a label and data in all bands", info.name)
            } else {
                let least = self.min_valid;
                format!(
                    "none of the {all} chips of `{}` has {least} of its pixels valid; the best has {best:.3}",
                    info.name
                )
            };
            return Err(fault("L111", message, "look at the no-data of raster and label, or lower `min_valid`"));
        }
        writer.finish().map_err(set_fault)?;
        Ok((count, positives))
    }
}

impl Reader {
    /// A label has one band and lies on the grid of its raster.
    fn check_label(&self) -> Result<(), TaskError> {
        let (raster, label) = (self.raster.info(), self.label.info());
        if label.bands.len() != 1 {
            let message = format!("`{}` has {} bands, a label has one", label.name, label.bands.len());
            return Err(fault("L110", message, "connect the output `label` of a `labels.*` step"));
        }
        let grid = label.grid().map_err(geo_fault)?;
        let same = grid.offset_in(&self.grid) == Some((0, 0));
        if !same || (grid.width, grid.height) != (self.grid.width, self.grid.height) {
            let message = format!("the label `{}` does not lie on the grid of `{}`", label.name, raster.name);
            let help = "make the label of this very raster; `labels.raster` lays a map of another grid onto it";
            return Err(fault("L110", message, help));
        }
        Ok(())
    }

    /// Reads what these windows cover: one read of each band serves them all.
    fn read(&self, windows: &[PixelWindow]) -> Result<Region, TaskError> {
        let edge = |of: fn(&PixelWindow) -> usize| windows.iter().map(of);
        let (left, top) = (edge(|w| w.column).min().unwrap_or(0), edge(|w| w.row).min().unwrap_or(0));
        let right = edge(|w| w.column + w.width).max().unwrap_or(0);
        let bottom = edge(|w| w.row + w.height).max().unwrap_or(0);
        let window = PixelWindow::new(left, top, right - left, bottom - top);
        let label = read_values(&self.label, 0, &window)?;
        let known = |value: f32| {
            value.is_nan() || (0.0..=1.0).contains(&value) || (value.fract() == 0.0 && (0.0..=255.0).contains(&value))
        };
        if let Some(value) = label.iter().find(|value| !known(**value)) {
            let message = format!("`{}` holds {value}, which is no label", self.label.info().name);
            let help = "labels are classes from 0 to 255, or between 0 and 1 where it is not known";
            return Err(fault("L108", message, help));
        }
        let bands =
            self.bands.iter().map(|band| read_values(&self.raster, *band, &window)).collect::<Result<_, _>>()?;
        Ok(Region { window, label, bands })
    }

    fn chip(&self, region: &Region, window: &PixelWindow, size: usize) -> Result<Cut, TaskError> {
        let mut label = vec![f32::NAN; size * size];
        region.copy(&region.label, window, size, &mut label);
        let mut image = vec![f32::NAN; size * size * self.bands.len()];
        for (band, plane) in region.bands.iter().zip(image.chunks_exact_mut(size * size)) {
            region.copy(band, window, size, plane);
            for (label, pixel) in label.iter_mut().zip(plane.iter()) {
                if pixel.is_nan() {
                    *label = f32::NAN;
                }
            }
        }
        let measures = Measures::of(&image, &label);
        Ok(Cut { place: self.place(window, size)?, image, label, measures })
    }

    fn place(&self, window: &PixelWindow, size: usize) -> Result<Place, TaskError> {
        let grid = self.grid.crop(window);
        let b = grid.bounds();
        Ok(Place {
            window: [window.column, window.row, window.width, window.height],
            transform: Grid { width: size, height: size, ..grid }.geo_transform(),
            bounds: [b.left, b.bottom, b.right, b.top],
            bbox: self.bbox([b.left, b.bottom, b.right, b.top])?,
        })
    }

    /// West, south, east, north around a box of the grid's CRS.
    fn bbox(&self, [left, bottom, right, top]: [f64; 4]) -> Result<[f64; 4], TaskError> {
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        let corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)];
        for pair in corners.windows(2) {
            for step in 0..EDGE_POINTS {
                let share = step as f64 / EDGE_POINTS as f64;
                xs.push(pair[0].0 + (pair[1].0 - pair[0].0) * share);
                ys.push(pair[0].1 + (pair[1].1 - pair[0].1) * share);
            }
        }
        self.to_degrees.points(&mut xs, &mut ys).map_err(geo_fault)?;
        xs.push(xs[0]);
        // Neighbours are near each other: a jump is the antimeridian, and what does not close goes around a pole.
        for index in 1..xs.len() {
            xs[index] -= ((xs[index] - xs[index - 1]) / 360.0).round() * 360.0;
        }
        let (west, east) = xs.iter().fold((f64::MAX, f64::MIN), |(west, east), x| (west.min(*x), east.max(*x)));
        let (south, north) = ys.iter().fold((f64::MAX, f64::MIN), |(south, north), y| (south.min(*y), north.max(*y)));
        if (xs[xs.len() - 1] - xs[0]).abs() > 180.0 {
            return Ok(if north > 0.0 { [-180.0, south, 180.0, 90.0] } else { [-180.0, -90.0, 180.0, north] });
        }
        let wrap = |x: f64| if (-180.0..=180.0).contains(&x) { x } else { (x + 180.0).rem_euclid(360.0) - 180.0 };
        Ok([wrap(west), south, wrap(east), north])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_cover_every_pixel_and_the_last_one_ends_at_the_edge() {
        assert_eq!(starts(1000, 256, 128), [0, 128, 256, 384, 512, 640, 744]);
        assert_eq!(starts(512, 256, 256), [0, 256]);
        assert_eq!(starts(100, 256, 256), [0]);
        for (length, stride) in (1..700).flat_map(|length| [1, 100, 256].map(|stride| (length, stride))) {
            let starts = starts(length, 256, stride);
            let covered = starts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= pair[0] + stride);
            assert!(covered && starts[starts.len() - 1] + 256 == length.max(256), "{length} {stride}: {starts:?}");
        }
    }
}
