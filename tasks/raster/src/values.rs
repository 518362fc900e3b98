//! Bands as values: scale and offset applied, no-data as NaN; and working through a raster tile by tile.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use swath_geo::{BandInfo, CogWriter, PixelWindow, Raster};
use swath_task::{Context, Fault, TaskError};

use crate::faults::geo_fault;

/// Pixels of a band as values of its unit.
pub fn to_values(info: &BandInfo, pixels: &mut [f32]) {
    if let Some(nodata) = info.nodata.filter(|value| !value.is_nan()) {
        let nodata = nodata as f32;
        for pixel in pixels.iter_mut().filter(|pixel| **pixel == nodata) {
            *pixel = f32::NAN;
        }
    }
    if info.scale != 1.0 || info.offset != 0.0 {
        for pixel in pixels.iter_mut() {
            *pixel = (f64::from(*pixel) * info.scale + info.offset) as f32;
        }
    }
}

/// Reads a window of a band as values.
pub fn read_values(raster: &Raster, band: usize, window: &PixelWindow, out: &mut [f32]) -> Result<(), TaskError> {
    raster.read(band, window, out).map_err(geo_fault)?;
    to_values(&raster.info().bands[band], out);
    Ok(())
}

/// The indices of bands by name, all missing ones told at once.
pub fn band_indices(raster: &Raster, names: &[String]) -> Result<Vec<usize>, TaskError> {
    let bands = &raster.info().bands;
    let find = |name: &String| bands.iter().position(|band| band.name == *name);
    let missing: Vec<&str> = names.iter().filter(|name| find(name).is_none()).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(no_band(raster, &missing));
    }
    Ok(names.iter().filter_map(find).collect())
}

/// The fault of bands that are not there.
pub fn no_band(raster: &Raster, missing: &[&str]) -> TaskError {
    let info = raster.info();
    let has: Vec<&str> = info.bands.iter().map(|band| band.name.as_str()).collect();
    let message = format!("`{}` has no band `{}`; it has: {}", info.name, missing.join("`, `"), has.join(", "));
    Fault::new("R123", message).help("name bands as the step that made the raster names them").permanent()
}

/// Calls `work` for every window on all threads, each with the raster opened for itself and a state of its own;
/// returns the states. Stops at the first error.
pub fn each_window<S: Send>(
    path: &Path,
    windows: &[PixelWindow],
    ctx: &Context,
    unit: &'static str,
    start: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &Raster, &PixelWindow) -> Result<(), TaskError> + Sync,
) -> Result<Vec<S>, TaskError> {
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let failure: Mutex<Option<TaskError>> = Mutex::new(None);
    let states: Mutex<Vec<S>> = Mutex::new(Vec::new());
    let run = || -> Result<S, TaskError> {
        let raster = Raster::open_path(path).map_err(geo_fault)?;
        let mut state = start();
        loop {
            ctx.check_cancelled()?;
            let Some(window) = windows.get(next.fetch_add(1, Ordering::Relaxed)) else { return Ok(state) };
            work(&mut state, &raster, window)?;
            ctx.progress(done.fetch_add(1, Ordering::Relaxed) + 1, windows.len() as u64, unit);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..ctx.cpus().min(windows.len().max(1)) {
            scope.spawn(|| match run() {
                Ok(state) => lock(&states).push(state),
                Err(error) => {
                    next.store(windows.len(), Ordering::Relaxed);
                    lock(&failure).get_or_insert(error);
                }
            });
        }
    });
    match lock(&failure).take() {
        Some(error) => Err(error),
        None => Ok(std::mem::take(&mut *lock(&states))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Makes a COG tile by tile from a raster on the same grid: `work` returns the planes of a window, band after band.
pub fn map_tiles(
    path: &Path,
    writer: CogWriter<f32>,
    ctx: &Context,
    work: impl Fn(&Raster, &PixelWindow) -> Result<Vec<f32>, TaskError> + Sync,
) -> Result<(), TaskError> {
    each_window(
        path,
        &writer.tiles(),
        ctx,
        "tiles",
        || (),
        |(), raster, window| {
            let planes = work(raster, window)?;
            writer.write_tile(window, &planes).map_err(geo_fault)
        },
    )?;
    writer.finish().map_err(geo_fault)
}
