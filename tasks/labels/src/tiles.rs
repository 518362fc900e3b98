//! Labels on the grid of a raster, written tile by tile on several threads.
//!
//! A label is one band of 32-bit floats: NaN where it says nothing. It says nothing where the raster has no data, whatever the
//! sites or polygons there. Memory is a few tiles a thread, whatever the size of the raster.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use swath_datasets::{LabelCount, LabelCounts};
use swath_geo::{BandInfo, BandSpec, CogOptions, CogWriter, Grid, Overviews, PixelWindow, Raster, TILE};
use swath_kinds::Cog;
use swath_task::{Artifact, Bytes, Context, Draft, TaskError};

use crate::faults::geo_fault;

/// What a step that works tile by tile may take.
pub const MEMORY: Bytes = Bytes::mib(256);
/// What it takes whatever it does: code, GDAL's block cache, open files.
pub const BASE_MEMORY: u64 = 80 << 20;
/// The band in which a composite counts its clear observations: it is 0, not no-data, where there is none.
pub const COUNT_BAND: &str = "count";

/// Bytes of a thread for a tile: label, one band, what the writer compresses and makes overviews of.
const TILE_MEMORY: u64 = (TILE * TILE * 40) as u64;

/// Threads that stay within `memory` when each takes `each` bytes; one in any case.
pub fn threads(cpus: usize, memory: Bytes, each: u64) -> usize {
    let fit = memory.0.saturating_sub(BASE_MEMORY) / each.max(1);
    cpus.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}

/// A lock whose holder panicked still guards whole values here.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a pixel of a band may be no-data at all.
fn may_be_empty(band: &BandInfo) -> bool {
    band.nodata.is_some() || band.data_type.is_float()
}

/// The bands that say where a raster has data.
pub fn data_bands(raster: &Raster) -> Vec<usize> {
    let bands = raster.info().bands.iter().enumerate();
    bands.filter(|(_, band)| band.name != COUNT_BAND && may_be_empty(band)).map(|(index, _)| index).collect()
}

/// Whether a pixel of a band holds a value.
pub fn holds_value(band: &BandInfo, pixel: f32) -> bool {
    !pixel.is_nan() && band.nodata.is_none_or(|nodata| pixel != nodata as f32)
}

/// Makes the label of a raster: `draw` writes it, from the first path to the second, and tells something about it.
pub async fn draw_label<T: Send + 'static>(
    raster: &Artifact<Cog>,
    ctx: &Context,
    draw: impl FnOnce(&Path, &Path, &Context) -> Result<T, TaskError> + Send + 'static,
) -> Result<(Artifact<Cog>, T), TaskError> {
    let raster = ctx.locate(raster).await?;
    let draft: Draft<Cog> = ctx.draft("label.tif")?;
    let out = draft.path().to_owned();
    let told = ctx.blocking(move |ctx| draw(&raster, &out, ctx)).await?;
    Ok((draft.commit().await?, told))
}

/// Writes the label that `work` gives for each tile, which is a window of the raster, and counts its values. `start` makes what a thread needs for itself;
/// `memory` is what all of them may take, each of them `each` bytes beside its tile.
pub fn write_label<S>(
    raster: &Path,
    out: &Path,
    metadata: Vec<(String, String)>,
    (memory, each): (Bytes, u64),
    ctx: &Context,
    start: impl Fn(&Grid) -> Result<S, TaskError> + Sync,
    work: impl Fn(&mut S, &Grid, &PixelWindow) -> Result<Vec<f32>, TaskError> + Sync,
) -> Result<Vec<LabelCount>, TaskError> {
    let grid = Raster::open_path(raster).and_then(|raster| raster.grid()).map_err(geo_fault)?;
    let band = BandSpec { overviews: Overviews::Nearest, ..BandSpec::new("label") };
    let options = CogOptions { metadata, ..CogOptions::new(vec![band], Some(f64::NAN)) };
    let writer = CogWriter::<f32>::create(out, &grid, options).map_err(geo_fault)?;
    let windows = writer.tiles();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let failure: Mutex<Option<TaskError>> = Mutex::new(None);
    let counts: Mutex<LabelCounts> = Mutex::default();
    let run = || -> Result<(), TaskError> {
        let source = Raster::open_path(raster).map_err(geo_fault)?;
        let bands = data_bands(&source);
        let mut state = start(&grid)?;
        loop {
            ctx.check_cancelled()?;
            let Some(window) = windows.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(()) };
            let mut label = work(&mut state, &grid.crop(window), window)?;
            blank(&source, &bands, window, &mut label)?;
            lock(&counts).add(&label);
            writer.write_tile(window, &label).map_err(geo_fault)?;
            ctx.progress(done.fetch_add(1, Ordering::Relaxed) + 1, windows.len() as u64, "tiles");
        }
    };
    let span = tracing::Span::current();
    std::thread::scope(|scope| {
        for _ in 0..threads(ctx.cpus(), memory, TILE_MEMORY + each).min(windows.len()) {
            scope.spawn(|| {
                if let Err(error) = span.in_scope(run) {
                    next.store(windows.len(), Ordering::Relaxed);
                    lock(&failure).get_or_insert(error);
                }
            });
        }
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    writer.finish().map_err(geo_fault)?;
    Ok(counts.into_inner().unwrap_or_else(PoisonError::into_inner).list())
}

/// Takes the label away where the raster has no data in one of the bands.
fn blank(raster: &Raster, bands: &[usize], window: &PixelWindow, label: &mut [f32]) -> Result<(), TaskError> {
    let mut pixels = vec![0.0_f32; window.len()];
    for band in bands {
        raster.read(*band, window, &mut pixels).map_err(geo_fault)?;
        let info = &raster.info().bands[*band];
        for (label, pixel) in label.iter_mut().zip(&pixels) {
            if !holds_value(info, *pixel) {
                *label = f32::NAN;
            }
        }
    }
    Ok(())
}

/// Pixels of a label above 0.5, those of it that say something, and their share.
pub fn positive_share(counts: &[LabelCount]) -> (u64, f64) {
    let sum =
        |of: fn(f32) -> bool| counts.iter().filter(|count| of(count.value)).map(|count| count.pixels).sum::<u64>();
    let (positive, valid) = (sum(|value| value > swath_datasets::POSITIVE_ABOVE), sum(|_| true));
    (positive, if valid == 0 { 0.0 } else { positive as f64 / valid as f64 })
}
