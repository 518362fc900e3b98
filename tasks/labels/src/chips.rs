//! `dataset.chips`: a raster and its label to a chip set.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::sync_channel;

use geographiclib_rs::{Geodesic, PolygonArea, Winding};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_datasets::{ChipSite, ChipWriter, Header, Measures, Place, SiteWindow, Sources};
use swath_geo::{Crs, GeoError, Grid, PixelWindow, Raster, TILE, Transform, piece_starts};
use swath_kinds::{ChipSetFolder, Cog, KnownSites, SiteList};
use swath_task::{Artifact, Bytes, Context, Draft, Needs, Problem, Purity, Task, TaskError};

use crate::faults::{fault, geo_fault, set_fault};
use crate::tiles::{BASE_MEMORY, COUNT_BAND, holds_value, threads};

/// Bytes of pixels in a shard: many enough that few files hold a set, few enough to wait in memory.
const SHARD: usize = 32 << 20;
/// What the manifest may take before it is written; of a chip, and of each of its bands.
const MANIFEST_MEMORY: u64 = 96 << 20;
const CHIP_MEMORY: u64 = 600;
const BAND_MEMORY: u64 = 16;
/// Places where a chip may lie: each is held.
const MOST_PLACES: u64 = 1_000_000;
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
    /// The sites on it, from the output `places` of `labels.sites`: each chip tells which of them it shows.
    #[serde(default)]
    pub sites: Option<Artifact<SiteList>>,
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
    const VERSION: u32 = 2;
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
        let bands = self.bands.as_ref().map_or(USUAL_BANDS, Vec::len);
        let memory = BASE_MEMORY + self.writer_memory(bands) + 2 * self.memory(bands);
        Needs::all_cores(Bytes(memory.max(Bytes::mib(256).0)))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let (raster, label) = (ctx.locate(&inputs.raster).await?, ctx.locate(&inputs.label).await?);
        let sources = Sources { raster: inputs.raster.record().digest, label: inputs.label.record().digest };
        let sites = match &inputs.sites {
            Some(sites) => Some(ctx.locate(sites).await?),
            None => None,
        };
        let draft: Draft<ChipSetFolder> = ctx.draft("chips")?;
        let (task, out) = (self.clone(), draft.path().to_owned());
        let cut = move |ctx: &Context| {
            let sites = sites.map(|sites| read_sites(&sites)).transpose()?;
            task.cut((&raster, &label), sources, sites, &out, ctx)
        };
        let (count, positives) = ctx.blocking(cut).await?;
        ctx.metric("chips", count as f64);
        ctx.metric("positive_chips", positives as f64);
        Ok(Outputs { chips: draft.commit().await?, count, positives })
    }
}

/// The sites that `labels.sites` told.
fn read_sites(path: &Path) -> Result<Vec<SiteWindow>, TaskError> {
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("cannot read the sites `{}`: {error}", path.display());
        fault("L101", message, "connect the output `places` of a `labels.sites` step")
    };
    let text = std::fs::read(path).map_err(|error| failed(&error))?;
    let known: KnownSites = serde_json::from_slice(&text).map_err(|error| failed(&error))?;
    let site = |site: swath_kinds::KnownSite| SiteWindow {
        site: ChipSite { id: site.id, lon: site.lon, lat: site.lat, buffer_m: site.buffer_m },
        window: site.window,
    };
    Ok(known.sites.into_iter().map(site).collect())
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

    /// Bytes of what is written: the shard at work, the file made of it, and the manifest.
    fn writer_memory(&self, bands: usize) -> u64 {
        let chip = self.size * self.size * (bands + 1) * 4;
        2 * SHARD.max(chip) as u64 + MANIFEST_MEMORY
    }

    /// Readers that stay within the memory of the step, whatever the raster; one at the least, or an error.
    fn readers(&self, cpus: usize, bands: usize) -> Result<usize, TaskError> {
        let memory = self.needs().memory.0;
        let (written, each) = (self.writer_memory(bands), self.memory(bands));
        if BASE_MEMORY + written + each > memory {
            let (size, more, most) = (self.size, (BASE_MEMORY + written + each) >> 20, memory >> 20);
            let message =
                format!("chips of {bands} bands and {size} x {size} pixels take {more} MiB, more than {most}");
            return Err(fault("R108", message, "name the bands that are needed with `bands`, or choose smaller chips"));
        }
        Ok(threads(cpus, Bytes(memory - written), each))
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
    fn windows(&self, grid: &Grid, bands: usize) -> Result<Vec<Vec<PixelWindow>>, TaskError> {
        let steps = |length: usize| length.saturating_sub(self.size).div_ceil(self.stride()) as u64 + 1;
        let places = steps(grid.height).saturating_mul(steps(grid.width));
        if places > MOST_PLACES {
            let (stride, most) = (self.stride(), MOST_PLACES);
            let message = format!("a chip every {stride} pixels makes {places} places, more than {most}");
            return Err(fault("R108", message, "choose a longer `stride`, or cut the raster in parts"));
        }
        let rows = piece_starts(grid.height, self.size, self.stride());
        let columns = piece_starts(grid.width, self.size, self.stride());
        let region = self.region(bands);
        let (width, height) = (self.size.min(grid.width), self.size.min(grid.height));
        let mut regions: BTreeMap<(usize, usize), Vec<PixelWindow>> = BTreeMap::new();
        for row in rows {
            for column in &columns {
                let window = PixelWindow::new(*column, row, width, height);
                regions.entry((row / region, column / region)).or_default().push(window);
            }
        }
        Ok(regions.into_values().collect())
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
        (raster, label): (&Path, &Path),
        sources: Sources,
        sites: Option<Vec<SiteWindow>>,
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
        let readers = self.readers(ctx.cpus(), first.bands.len())?;
        let regions = self.windows(grid, first.bands.len())?;
        let readers = readers.min(regions.len());
        let all: usize = regions.iter().map(Vec::len).sum();
        let most = MANIFEST_MEMORY / (CHIP_MEMORY + BAND_MEMORY * first.bands.len() as u64);
        let mut writer = ChipWriter::create(out, header, SHARD).map_err(set_fault)?;
        if let Some(sites) = sites {
            writer = writer.with_sites(sites);
        }
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
                    if count == most {
                        let message = format!("more than {most} chips of `{}` would be in one set", info.name);
                        return Err(fault("R108", message, "choose a longer `stride`, or cut the raster in parts"));
                    }
                    writer.push(&chip.place, &chip.image, &chip.label, &chip.measures).map_err(set_fault)?;
                    count += 1;
                    positives += u64::from(chip.measures.positive() > 0);
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
        let (xs, ys) = grid.outline(&self.to_degrees, EDGE_POINTS).map_err(geo_fault)?;
        Ok(Place {
            window: [window.column, window.row, window.width, window.height],
            transform: Grid { width: size, height: size, ..grid }.geo_transform(),
            bounds: [b.left, b.bottom, b.right, b.top],
            area_km2: Some(area_km2(&xs, &ys)),
            bbox: bbox(xs, &ys),
        })
    }
}

/// Ground within an outline in degrees, on the ellipsoid.
fn area_km2(xs: &[f64], ys: &[f64]) -> f64 {
    let geodesic = Geodesic::wgs84();
    let mut polygon = PolygonArea::new(&geodesic, Winding::CounterClockwise);
    xs.iter().zip(ys).skip(1).for_each(|(x, y)| polygon.add_point(*y, *x));
    let (_, square_metres, _) = polygon.compute(true);
    square_metres.abs() / 1e6
}

/// West, south, east, north around an outline in degrees.
fn bbox(mut xs: Vec<f64>, ys: &[f64]) -> [f64; 4] {
    // Neighbours are near each other: a jump is the antimeridian, and what does not close goes around a pole.
    for index in 1..xs.len() {
        xs[index] -= ((xs[index] - xs[index - 1]) / 360.0).round() * 360.0;
    }
    let (west, east) = xs.iter().fold((f64::MAX, f64::MIN), |(west, east), x| (west.min(*x), east.max(*x)));
    let (south, north) = ys.iter().fold((f64::MAX, f64::MIN), |(south, north), y| (south.min(*y), north.max(*y)));
    if (xs[xs.len() - 1] - xs[0]).abs() > 180.0 {
        return if north > 0.0 { [-180.0, south, 180.0, 90.0] } else { [-180.0, -90.0, 180.0, north] };
    }
    let wrap = |x: f64| if (-180.0..=180.0).contains(&x) { x } else { (x + 180.0).rem_euclid(360.0) - 180.0 };
    [wrap(west), south, wrap(east), north]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_that_need_more_than_was_asked_for_are_refused_and_all_others_fit() {
        let task = |size: usize, bands: Option<usize>| CutChips {
            size,
            stride: None,
            min_valid: 0.5,
            bands: bands.map(|bands| vec!["b".to_owned(); bands]),
        };
        for (size, bands) in [(16, 1), (64, 3), (256, 12), (512, 200), (2048, 12), (2048, 40)] {
            let task = task(size, Some(bands));
            let readers = task.readers(64, bands).unwrap() as u64;
            let taken = BASE_MEMORY + task.writer_memory(bands) + readers * task.memory(bands);
            assert!(readers >= 2 && taken <= task.needs().memory.0, "{size} {bands}: {readers}");
        }
        // Of a raster whose bands nobody told: as many as usual fit, and what does not is told before anything is read.
        assert!(task(2048, None).readers(2, 12).unwrap() >= 2);
        let Err(TaskError::Permanent(fault)) = task(2048, None).readers(2, 200) else { panic!() };
        assert!(fault.code == "R108" && fault.message.contains("200 bands and 2048 x 2048"), "{fault:?}");
    }

    #[test]
    fn more_places_than_can_be_held_are_refused() {
        let crs = Crs::from_epsg(32633).unwrap();
        let grid =
            Grid { crs, left: 0.0, top: 0.0, pixel_width: 10.0, pixel_height: 10.0, width: 60_000, height: 60_000 };
        let task = |stride| CutChips { size: 256, stride: Some(stride), min_valid: 0.5, bands: None };
        assert_eq!(task(256).windows(&grid, 4).unwrap().iter().map(Vec::len).sum::<usize>(), 235 * 235);
        let Err(TaskError::Permanent(fault)) = task(1).windows(&grid, 4) else { panic!() };
        assert!(fault.code == "R108" && fault.message.contains("places"), "{fault:?}");
    }
}
