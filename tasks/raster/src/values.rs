//! Bands as values: scale and offset applied, no-data as NaN; and working through a raster tile by tile.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use swath_geo::{BandInfo, CogWriter, PixelWindow, Raster, TILE};
use swath_task::{Bytes, Context, Fault, TaskError};

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

/// What a step that works through a raster tile by tile may take.
pub const MEMORY: Bytes = Bytes::mib(256);
/// What it takes whatever it does: code, GDAL's block cache, open files.
pub const BASE_MEMORY: u64 = 80 << 20;

/// Threads that stay within `memory` when each takes `each` bytes; one in any case.
fn threads(cpus: usize, memory: u64, each: u64) -> usize {
    let fit = memory.saturating_sub(BASE_MEMORY) / each.max(1);
    cpus.min(usize::try_from(fit).unwrap_or(usize::MAX)).max(1)
}

/// Calls `work` for every window on as many threads as `memory` allows, `each` bytes to a thread; each has the raster
/// opened for itself and a state of its own. Returns the states. Stops at the first error.
#[expect(clippy::too_many_arguments, reason = "three callers; a struct would only rename them")]
pub fn each_window<S: Send>(
    path: &Path,
    windows: &[PixelWindow],
    ctx: &Context,
    unit: &'static str,
    memory: u64,
    each: u64,
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
    let span = tracing::Span::current();
    std::thread::scope(|scope| {
        for _ in 0..threads(ctx.cpus(), memory, each).min(windows.len().max(1)) {
            scope.spawn(|| match span.in_scope(run) {
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
/// `planes`: how many planes of a tile a thread holds at most.
pub fn map_tiles(
    path: &Path,
    writer: CogWriter<f32>,
    planes: usize,
    ctx: &Context,
    work: impl Fn(&Raster, &PixelWindow) -> Result<Vec<f32>, TaskError> + Sync,
) -> Result<(), TaskError> {
    each_window(
        path,
        &writer.tiles(),
        ctx,
        "tiles",
        MEMORY.0,
        // Planes as they are read and computed, and as the writer makes overviews and compresses them.
        (planes * TILE * TILE * 10) as u64,
        || (),
        |(), raster, window| {
            let planes = work(raster, window)?;
            writer.write_tile(window, &planes).map_err(geo_fault)
        },
    )?;
    writer.finish().map_err(geo_fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_as_many_as_the_memory_holds() {
        assert_eq!(threads(4, MEMORY.0, 10 << 20), 4);
        assert_eq!(threads(64, MEMORY.0, 10 << 20), 17);
        assert_eq!(threads(64, MEMORY.0, 1 << 40), 1);
    }
}
