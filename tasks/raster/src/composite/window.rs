//! Working through the windows of a composite.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use swath_geo::{
    BandSpec, BlockCache, CogOptions, CogWriter, DataType, Geometry, Grid, Overviews, PixelWindow, TILE, rasterize,
};
use swath_task::{Context, TaskError};

use super::coarse::{BLOCK, Cells};
use super::depth::{BandPlan, nodata_in, plan_band, same_meaning};
use super::plan::{Plan, Source};
use super::reduce::{Reducer, Sample, Slot};
use super::sizes::{sizes, touching, units};
use super::{COUNT_BAND, Method};
use crate::faults::{geo_fault, told_of};
use crate::fit::{Fit, Placement, Rectangle, Sampler, finer};
use crate::reader::Reader;

/// What a finished composite tells.
pub struct Made {
    pub scenes: u64,
    pub clear_share: f64,
}

/// Reads, reduces and writes everything.
pub fn run(plan: &Plan, path: &Path, ctx: &Context) -> Result<Made, TaskError> {
    let place = |source: &Source| Placement::of(&source.grid, &plan.grid, plan.nearest);
    let masks: Vec<Option<Placement>> = plan.scenes.iter().map(|scene| scene.mask.as_ref().map(place)).collect();
    let bands: Vec<BandPlan> = (0..plan.names.len()).map(|band| plan_band(plan, band, &masks)).collect();
    let sizes = sizes(plan, &bands, &masks, ctx.cpus());
    let _cache = BlockCache::new(plan.memory / 16).map_err(geo_fault)?;
    tracing::debug!(
        unit = sizes.unit,
        part = sizes.part,
        threads = sizes.threads,
        scenes = plan.scenes.len(),
        "windows"
    );

    let writer = CogWriter::<f32>::create(path, &plan.grid, options(plan)).map_err(geo_fault)?;
    let units = units(plan, sizes.unit);
    let (next, done, clear) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let failure: Mutex<Option<TaskError>> = Mutex::new(None);
    let work = || -> Result<(), TaskError> {
        let mut worker = Worker {
            plan,
            bands: &bands,
            mask_places: &masks,
            part: sizes.part,
            here: Vec::new(),
            sampler: Sampler::new(
                Reader::new(&plan.sources, (512 / sizes.threads).max(16)),
                plan.nearest,
                sizes.warped,
            ),
            reducer: Reducer::new(plan.method),
        };
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(unit) = units.get(index) else { return Ok(()) };
            clear.fetch_add(worker.unit(unit, &writer)?, Ordering::Relaxed);
            ctx.progress(done.fetch_add(1, Ordering::Relaxed) + 1, units.len() as u64, "windows");
        }
    };
    let span = tracing::Span::current();
    std::thread::scope(|scope| {
        for _ in 0..sizes.threads {
            scope.spawn(|| {
                let _attempt = span.enter();
                if let Err(error) = work() {
                    next.store(units.len(), Ordering::Relaxed);
                    failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get_or_insert(error);
                }
            });
        }
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(error);
    }
    ctx.check_cancelled()?;
    writer.finish().map_err(geo_fault)?;
    let pixels = (plan.grid.width * plan.grid.height) as f64;
    Ok(Made { scenes: plan.scenes.len() as u64, clear_share: clear.into_inner() as f64 / pixels })
}

fn options(plan: &Plan) -> CogOptions {
    let mut bands: Vec<BandSpec> = plan.names.iter().map(BandSpec::new).collect();
    bands.push(BandSpec { overviews: Overviews::Nearest, ..BandSpec::new(COUNT_BAND) });
    let mut options = CogOptions::new(bands, Some(f64::NAN));
    options.level = 1;
    let method = match plan.method {
        Method::Median => "median",
        Method::Mean => "mean",
    };
    options.metadata = vec![
        ("SWATH_METHOD".into(), method.into()),
        ("SWATH_SCENES".into(), plan.scenes.len().to_string()),
        ("SWATH_ACQUISITIONS".into(), plan.groups().to_string()),
    ];
    options
}

/// What a scene has to give in a unit, or a part of it.
enum Clear<T> {
    /// Nothing: it does not touch, or no pixel is clear.
    Nothing,
    /// All that is not no-data: it has no mask.
    All,
    /// What its mask says.
    Masked(T),
}

/// A mask of one scene in a unit, on pixels `factor` output pixels wide. 1 is clear.
struct MaskPlane {
    factor: usize,
    area: Rectangle,
    clear: Vec<u8>,
}

/// One thread.
struct Worker<'a> {
    plan: &'a Plan,
    bands: &'a [BandPlan],
    mask_places: &'a [Option<Placement>],
    part: usize,
    /// Which scenes touch the unit.
    here: Vec<bool>,
    sampler: Sampler<'a>,
    reducer: Reducer,
}

/// The result of a unit: planes of all bands, and counts.
struct UnitResult {
    width: usize,
    height: usize,
    planes: Vec<Vec<f32>>,
    counts: Vec<u16>,
}

impl Worker<'_> {
    /// Makes and writes one unit; returns how many of its pixels have an observation.
    fn unit(&mut self, unit: &PixelWindow, writer: &CogWriter<f32>) -> Result<u64, TaskError> {
        self.here = vec![false; self.plan.scenes.len()];
        touching(self.plan, unit).into_iter().for_each(|index| self.here[index] = true);
        let masks = self.masks(unit)?;
        let pixels = unit.len();
        let mut result = UnitResult {
            width: unit.width,
            height: unit.height,
            planes: vec![vec![f32::NAN; pixels]; self.bands.len()],
            counts: vec![u16::MAX; pixels],
        };
        let mut factors: Vec<usize> = self.bands.iter().map(|band| band.factor).collect();
        factors.sort_unstable();
        factors.dedup();
        for factor in factors {
            let whole = Rectangle::of(unit, factor);
            for area in whole.parts(self.part) {
                let clear: Vec<Clear<Vec<u8>>> = masks.iter().map(|mask| part_of(mask, &area, factor)).collect();
                for band in 0..self.bands.len() {
                    if self.bands[band].factor != factor {
                        continue;
                    }
                    let offset = (area.column - whole.column, area.row - whole.row);
                    match self.bands[band].depth {
                        DataType::U8 => self.band::<u8>(band, &area, offset, &clear, &mut result)?,
                        DataType::U16 => self.band::<u16>(band, &area, offset, &clear, &mut result)?,
                        DataType::I16 => self.band::<i16>(band, &area, offset, &clear, &mut result)?,
                        _ => self.band::<f32>(band, &area, offset, &clear, &mut result)?,
                    }
                }
            }
        }
        drop(masks);
        self.clip(unit, &mut result)?;
        write(unit, &result, writer)
    }

    /// Masks in a unit of the scenes that have a band of its pixels, or of coarser ones.
    fn masks(&mut self, unit: &PixelWindow) -> Result<Vec<Clear<MaskPlane>>, TaskError> {
        let scenes = 0..self.plan.scenes.len();
        let one = |index: usize| -> Result<Clear<MaskPlane>, TaskError> {
            if !self.here[index] || self.bands.iter().all(|band| band.places[index].fine > 1) {
                return Ok(Clear::Nothing);
            }
            let Some(place) = self.mask_places[index] else { return Ok(Clear::All) };
            let plane = if place.fine > 1 {
                self.coarse_mask(index, &place, unit)?
            } else {
                self.mask(index, &place.fit, &self.plan.grid, 1, unit)?
            };
            Ok(plane.map_or(Clear::Nothing, Clear::Masked))
        };
        scenes.map(one).collect()
    }

    /// The mask of a scene in a window of a grid, `fine` times as fine as the output; `None` when no pixel is clear.
    fn mask(
        &mut self,
        scene: usize,
        fit: &Fit,
        grid: &Grid,
        fine: usize,
        window: &PixelWindow,
    ) -> Result<Option<MaskPlane>, TaskError> {
        let scene = &self.plan.scenes[scene];
        let Some(source) = &scene.mask else { return Ok(None) };
        let factor = fit.factor();
        let area = Rectangle::of(window, factor);
        let radius = |size: f64| self.plan.rule.dilation * fine as f64 / (size * factor as f64);
        let radius = (radius(self.plan.metres.0), radius(self.plan.metres.1));
        let wide = area.grown(radius.0.ceil() as i64, radius.1.ceil() as i64);
        let classes = match source.data_type {
            DataType::U8 => self.classes::<u8>(source, fit, grid, &wide),
            _ => self.classes::<u16>(source, fit, grid, &wide),
        };
        let Some(classes) = classes.map_err(|error| told_of(error, &scene.id, "mask"))? else { return Ok(None) };
        let clear = super::mask::dilate(&classes, wide.width, wide.height, radius);
        if !clear.contains(&1) {
            return Ok(None);
        }
        let clear = if wide == area { clear } else { wide.copy_part(&clear, &area) };
        Ok(Some(MaskPlane { factor, area, clear }))
    }

    /// A mask of finer pixels than the output's: a pixel is clear when at least half of its mask's are.
    fn coarse_mask(
        &mut self,
        scene: usize,
        place: &Placement,
        unit: &PixelWindow,
    ) -> Result<Option<MaskPlane>, TaskError> {
        let grid = finer(&self.plan.grid, place.fine);
        let area = Rectangle::of(unit, 1);
        let mut cells = Cells::new(area, place.fine, self.plan.nearest);
        for block in cells.blocks(BLOCK, (0, 0)) {
            let Some(mask) = self.mask(scene, &place.fit, &grid, place.fine, &block.window())? else { continue };
            let clear = cut(&mask, &block, 1);
            for (line, clear) in clear.chunks_exact(block.width).enumerate() {
                let clear = clear.iter().map(|clear| (*clear == 1).then_some(1.0));
                cells.add(block.row + line as i64, block.column, clear);
            }
        }
        let clear: Vec<u8> = cells.means().map(|mean| u8::from(mean.is_some())).collect();
        Ok(clear.contains(&1).then_some(MaskPlane { factor: 1, area, clear }))
    }

    /// The means over the clear pixels of a scene that is finer than the output; NaN where there is none. `None` when
    /// no pixel of `area` has one.
    fn means(&mut self, scene: usize, band: usize, area: &Rectangle) -> Result<Option<Vec<f32>>, TaskError> {
        let source = &self.plan.scenes[scene].bands[band];
        let place = self.bands[band].places[scene];
        match (place.fit, source.data_type) {
            (Fit::Aligned { .. }, DataType::U8) => self.means_of::<u8>(scene, band, area),
            (Fit::Aligned { .. }, DataType::U16) => self.means_of::<u16>(scene, band, area),
            (Fit::Aligned { .. }, DataType::I16) => self.means_of::<i16>(scene, band, area),
            // Warped pixels hold NaN where the source has nothing.
            _ => self.means_of::<f32>(scene, band, area),
        }
    }

    fn means_of<T: Sample>(
        &mut self,
        index: usize,
        band: usize,
        area: &Rectangle,
    ) -> Result<Option<Vec<f32>>, TaskError> {
        let plan = &self.bands[band];
        let (scene, place) = (&self.plan.scenes[index], &plan.places[index]);
        let source = &scene.bands[band];
        let grid = finer(&self.plan.grid, place.fine);
        let nodata = nodata_in(source.nodata, T::TYPE).map(T::from_f64);
        let fill = T::from_f64(f64::NAN);
        let mut cells = Cells::new(*area, place.fine, self.plan.nearest);
        let warped = place.fit == Fit::Warped || plan.fine_masks[index] == Some(Fit::Warped);
        let (side, origin) = match place.fit {
            // Blocks of files are mostly as wide, or fit in: each is read once.
            Fit::Aligned { column, row, .. } if !warped => (BLOCK, (column, row)),
            _ => (BLOCK / 2, (0, 0)),
        };
        let mut any = false;
        for block in cells.blocks(side, origin) {
            let clear = match &plan.fine_masks[index] {
                None => None,
                Some(fit) => match self.mask(index, fit, &grid, place.fine, &block.window())? {
                    Some(mask) => Some(cut(&mask, &block, 1)),
                    None => continue,
                },
            };
            let mut pixels = vec![fill; block.len()];
            let read = self.sampler.read(source, &place.fit, 1, &block, fill, &grid, &mut pixels);
            let Some(covered) = read.map_err(|error| told_of(error, &scene.id, &self.plan.names[band]))? else {
                continue;
            };
            any = true;
            for row in covered.row..covered.row + covered.height as i64 {
                let at = (row - block.row) as usize * block.width + (covered.column - block.column) as usize;
                let line = &pixels[at..at + covered.width];
                let valid = |pixel: &T| {
                    let value = pixel.to_f64();
                    (Some(*pixel) != nodata && value.is_finite()).then_some(value)
                };
                match &clear {
                    None => cells.add(row, covered.column, line.iter().map(valid)),
                    Some(clear) => {
                        let clear = &clear[at..at + covered.width];
                        let both = line.iter().zip(clear).map(|(pixel, clear)| valid(pixel).filter(|_| *clear == 1));
                        cells.add(row, covered.column, both);
                    }
                }
            }
        }
        Ok(any.then(|| cells.means().map(|mean| mean.map_or(f32::NAN, |mean| mean as f32)).collect()))
    }

    /// What a mask says in `area`, see [`super::mask::Rule::classify`]; `None` when it has no pixel there.
    fn classes<T: Sample + Into<u16>>(
        &mut self,
        source: &Source,
        fit: &Fit,
        grid: &Grid,
        area: &Rectangle,
    ) -> Result<Option<Vec<u8>>, TaskError> {
        let nodata = nodata_in(source.nodata, T::TYPE).map(|value| value as u16);
        let classify = |values: &[T]| self.plan.rule.classify(values, nodata);
        self.sampler.read_classes(source, fit, fit.factor(), area, grid, 2, classify)
    }

    /// Reduces one band in `area` (in pixels of its factor) and lays it into the result.
    fn band<T: Sample>(
        &mut self,
        band: usize,
        area: &Rectangle,
        offset: (i64, i64),
        clear: &[Clear<Vec<u8>>],
        result: &mut UnitResult,
    ) -> Result<(), TaskError> {
        let plan = &self.bands[band];
        let scenes = &self.plan.scenes;
        struct Held<T> {
            pixels: Vec<T>,
            scene: usize,
            merged: bool,
        }
        let mut held: Vec<Held<T>> = Vec::new();
        // Means of finer pixels are of clear and valid ones only, and NaN where there is none.
        let nodata_of = |scene: usize| {
            let nodata = scenes[scene].bands[band].nodata.filter(|_| plan.places[scene].fine == 1);
            nodata_in(nodata, plan.depth).map(T::from_f64)
        };
        let clear_of = |scene: usize| match &clear[scene] {
            Clear::Masked(clear) if plan.places[scene].fine == 1 => Some(clear),
            _ => None,
        };
        for (index, scene) in scenes.iter().enumerate() {
            let place = &plan.places[index];
            let source = &scene.bands[band];
            let fill = if T::TYPE.is_float() { T::from_f64(f64::NAN) } else { nodata_of(index).unwrap_or_default() };
            let mut pixels;
            if place.fine > 1 {
                let means = if self.here[index] { self.means(index, band, area)? } else { None };
                let Some(means) = means else { continue };
                pixels = means.into_iter().map(|mean| T::from_f64(mean.into())).collect();
            } else {
                if matches!(clear[index], Clear::Nothing) {
                    continue;
                }
                pixels = vec![fill; area.len()];
                let read = self.sampler.read(source, &place.fit, plan.factor, area, fill, &self.plan.grid, &mut pixels);
                if read.map_err(|error| told_of(error, &scene.id, &self.plan.names[band]))?.is_none() {
                    continue;
                }
            }
            let own_clear = clear_of(index);
            let same = held.last().is_some_and(|last| scenes[last.scene].group == scene.group);
            match held.last_mut() {
                // A second item of the same acquisition fills what the first left open.
                Some(last) if same => {
                    let first = last.scene;
                    // Floats hold NaN where nothing is, so that no value is taken for a hole.
                    let nodata = nodata_of(first);
                    let hole = if T::TYPE.is_float() { fill } else { nodata.unwrap_or(fill) };
                    if !last.merged {
                        let masked = clear_of(first);
                        for (at, pixel) in last.pixels.iter_mut().enumerate() {
                            if Some(*pixel) == nodata || masked.is_some_and(|clear| clear[at] != 1) {
                                *pixel = hole;
                            }
                        }
                        last.merged = true;
                    }
                    let open = |pixel: T| pixel == hole || pixel.to_f64().is_nan();
                    let own = nodata_of(index);
                    let first = &scenes[first].bands[band];
                    let convert = |pixel: T| match same_meaning(first, source) {
                        true => pixel,
                        false => {
                            let value = pixel.to_f64() * source.scale + source.offset;
                            T::from_f64((value - first.offset) / first.scale)
                        }
                    };
                    for (at, pixel) in last.pixels.iter_mut().enumerate() {
                        let usable = own_clear.is_none_or(|clear| clear[at] == 1);
                        if open(*pixel) && usable && Some(pixels[at]) != own {
                            *pixel = convert(pixels[at]);
                        }
                    }
                }
                _ => held.push(Held { pixels, scene: index, merged: false }),
            }
        }
        let slots: Vec<Slot<T>> = held
            .iter()
            .map(|held| {
                let source = &scenes[held.scene].bands[band];
                let (gain, bias) = match plan.scale {
                    Some(_) => (1.0, (source.offset / source.scale).round()),
                    None => (source.scale, source.offset),
                };
                Slot {
                    pixels: &held.pixels,
                    clear: clear_of(held.scene).filter(|_| !held.merged).map(Vec::as_slice),
                    nodata: nodata_of(held.scene).filter(|_| !held.merged || !T::TYPE.is_float()),
                    gain,
                    bias,
                }
            })
            .collect();
        let (mut values, mut counts) = (vec![0.0; area.len()], vec![0; area.len()]);
        self.reducer.reduce(&slots, plan.scale.unwrap_or(1.0), &mut values, &mut counts);
        let factor = plan.factor;
        let (left, top) = (offset.0 as usize * factor, offset.1 as usize * factor);
        let plane = &mut result.planes[band];
        for row in top..(top + area.height * factor).min(result.height) {
            let from = (row - top) / factor * area.width;
            let to = row * result.width;
            let end = (left + area.width * factor).min(result.width);
            if factor == 1 {
                plane[to + left..to + end].copy_from_slice(&values[from..from + end - left]);
                for (total, count) in result.counts[to + left..to + end].iter_mut().zip(&counts[from..]) {
                    *total = (*total).min(*count);
                }
                continue;
            }
            for column in left..end {
                let at = from + (column - left) / factor;
                plane[to + column] = values[at];
                let total = &mut result.counts[to + column];
                *total = (*total).min(counts[at]);
            }
        }
        Ok(())
    }

    /// Blanks what lies outside of the area's polygons.
    fn clip(&self, unit: &PixelWindow, result: &mut UnitResult) -> Result<(), TaskError> {
        let Some(wkb) = &self.plan.clip else { return Ok(()) };
        let geometry = Geometry::from_wkb(wkb).map_err(geo_fault)?;
        let inside = rasterize(&[geometry], &self.plan.grid.crop(unit), true).map_err(geo_fault)?;
        for (at, inside) in inside.iter().enumerate() {
            if *inside == 0 {
                result.counts[at] = 0;
                for plane in &mut result.planes {
                    plane[at] = f32::NAN;
                }
            }
        }
        Ok(())
    }
}

/// What a scene has to give in a part of a unit.
fn part_of(mask: &Clear<MaskPlane>, area: &Rectangle, factor: usize) -> Clear<Vec<u8>> {
    match mask {
        Clear::Nothing => Clear::Nothing,
        Clear::All => Clear::All,
        Clear::Masked(mask) => {
            let clear = cut(mask, area, factor);
            if clear.contains(&1) { Clear::Masked(clear) } else { Clear::Nothing }
        }
    }
}

/// The part of a mask that covers `area` of pixels `factor` output pixels wide, repeated where the mask is coarser.
fn cut(mask: &MaskPlane, area: &Rectangle, factor: usize) -> Vec<u8> {
    // A band's factor divides the mask's: it is the greatest common divisor of both.
    let times = mask.factor / factor;
    let mut out = Vec::with_capacity(area.len());
    for row in area.row..area.row + area.height as i64 {
        let line = (row / times as i64 - mask.area.row) as usize * mask.area.width;
        let start = area.column / times as i64 - mask.area.column;
        if times == 1 {
            out.extend_from_slice(&mask.clear[line + start as usize..][..area.width]);
            continue;
        }
        for column in area.column..area.column + area.width as i64 {
            out.push(mask.clear[line + (column / times as i64 - mask.area.column) as usize]);
        }
    }
    out
}

/// Writes a unit tile by tile; returns how many of its pixels have an observation.
fn write(unit: &PixelWindow, result: &UnitResult, writer: &CogWriter<f32>) -> Result<u64, TaskError> {
    let clear = result.counts.iter().filter(|count| **count > 0).count() as u64;
    for top in (0..unit.height).step_by(TILE) {
        for left in (0..unit.width).step_by(TILE) {
            let (width, height) = (TILE.min(unit.width - left), TILE.min(unit.height - top));
            let mut tile = Vec::with_capacity(width * height * (result.planes.len() + 1));
            for plane in &result.planes {
                for row in top..top + height {
                    tile.extend_from_slice(&plane[row * unit.width + left..][..width]);
                }
            }
            for row in top..top + height {
                tile.extend(result.counts[row * unit.width + left..][..width].iter().map(|count| f32::from(*count)));
            }
            let window = PixelWindow::new(unit.column + left, unit.row + top, width, height);
            writer.write_tile(&window, &tile).map_err(geo_fault)?;
        }
    }
    Ok(clear)
}
