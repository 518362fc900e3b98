//! Finished rows become a COG: collected into strips of tiles, which are compressed on all threads at once.
//!
//! A group of tile rows is finished all at once, so its rows come in a burst. While it lasts the networks soon wait, and
//! their cores are free for compressing.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use swath_geo::{BandSpec, CogOptions, CogWriter, GeoError, Grid, Pixel, PixelWindow, TILE};
use swath_task::{Fault, TaskError};

use crate::settings::Values;
use crate::stitch::Sink;

/// Integer steps from 0 to 1, such that the scale is a short decimal.
const STEPS_U8: f32 = 250.0;
const STEPS_U16: f32 = 50_000.0;

/// Compression level: the low bits of probabilities are noise, on which higher levels spend twice the time to save a
/// thousandth of the size, while the network waits for the core.
const LEVEL: u8 = 1;

/// A raster's error as a fault of the step.
pub(crate) fn geo_error(error: GeoError) -> TaskError {
    let fault = Fault::new(error.code(), error.message()).help(error.help());
    if error.is_transient() { fault.transient(None) } else { fault.permanent() }
}

/// Most that a writer holds, bytes: a strip, the overview tiles that wait for their quarters, tiles being compressed.
pub(crate) fn held(width: usize, classes: usize, threads: usize) -> u64 {
    let (strip, tile) = (TILE * width * classes * 4, TILE * TILE * classes * 4);
    (2 * strip + 3 * threads * tile) as u64
}

/// The COG being written.
pub(crate) enum Writer {
    Float32(Strips<f32>),
    Uint8(Strips<u8>),
    Uint16(Strips<u16>),
}

impl Writer {
    /// Starts a COG, a band a class.
    pub fn create(
        path: &Path,
        grid: &Grid,
        values: Values,
        classes: &[String],
        metadata: Vec<(String, String)>,
        threads: usize,
    ) -> Result<Self, TaskError> {
        let (scale, nodata) = match values {
            Values::Float32 => (None, f64::NAN),
            Values::Uint8 => (Some(1.0 / f64::from(STEPS_U8)), f64::from(u8::MAX)),
            Values::Uint16 => (Some(1.0 / f64::from(STEPS_U16)), f64::from(u16::MAX)),
        };
        let band = |class: &String| BandSpec { scale, offset: scale.map(|_| 0.0), ..BandSpec::new(class) };
        let mut options = CogOptions::new(classes.iter().map(band).collect(), Some(nodata));
        options.metadata = metadata;
        options.level = LEVEL;
        let writer = match values {
            Values::Float32 => Strips::create(path, grid, options, threads).map(Self::Float32),
            Values::Uint8 => Strips::create(path, grid, options, threads).map(Self::Uint8),
            Values::Uint16 => Strips::create(path, grid, options, threads).map(Self::Uint16),
        };
        writer.map_err(geo_error)
    }

    /// Completes the file.
    pub fn finish(self) -> Result<(), TaskError> {
        match self {
            Self::Float32(strips) => strips.cog.finish(),
            Self::Uint8(strips) => strips.cog.finish(),
            Self::Uint16(strips) => strips.cog.finish(),
        }
        .map_err(geo_error)
    }
}

impl Sink for Writer {
    fn write(&mut self, _: usize, rows: usize, values: &[f32]) -> Result<(), TaskError> {
        match self {
            Self::Float32(strips) => strips.push(rows, values, |v| v),
            Self::Uint8(strips) => {
                strips.push(rows, values, |v| if v.is_nan() { u8::MAX } else { (v * STEPS_U8).round() as u8 })
            }
            Self::Uint16(strips) => {
                strips.push(rows, values, |v| if v.is_nan() { u16::MAX } else { (v * STEPS_U16).round() as u16 })
            }
        }
        .map_err(geo_error)
    }
}

/// Rows on their way into tiles.
pub(crate) struct Strips<T> {
    cog: CogWriter<T>,
    classes: usize,
    threads: usize,
    /// First row of the strip that is being filled.
    top: usize,
    /// Rows in it so far.
    count: usize,
    /// `[class][row][column]`
    rows: Vec<T>,
}

impl<T: Pixel> Strips<T> {
    fn create(path: &Path, grid: &Grid, options: CogOptions, threads: usize) -> Result<Self, GeoError> {
        let classes = options.bands.len();
        let rows = vec![T::default(); TILE.min(grid.height) * grid.width * classes];
        Ok(Self { cog: CogWriter::create(path, grid, options)?, classes, threads, top: 0, count: 0, rows })
    }

    /// Takes the next rows, `[class][row][column]`.
    fn push(&mut self, rows: usize, values: &[f32], convert: impl Fn(f32) -> T) -> Result<(), GeoError> {
        let (width, height) = (self.cog.grid().width, self.cog.grid().height);
        let mut used = 0;
        while used < rows {
            let strip = TILE.min(height - self.top);
            let taken = (strip - self.count).min(rows - used);
            for class in 0..self.classes {
                let from = &values[(class * rows + used) * width..][..taken * width];
                let to = &mut self.rows[(class * strip + self.count) * width..][..taken * width];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = convert(*from));
            }
            self.count += taken;
            used += taken;
            if self.count == strip {
                self.write(strip)?;
                self.top += strip;
                self.count = 0;
            }
        }
        Ok(())
    }

    /// Writes the tiles of a full strip.
    fn write(&self, height: usize) -> Result<(), GeoError> {
        let width = self.cog.grid().width;
        let across = width.div_ceil(TILE);
        let (next, failure) = (AtomicUsize::new(0), Mutex::new(None));
        let work = || {
            let mut tile = Vec::new();
            loop {
                let left = next.fetch_add(1, Ordering::Relaxed) * TILE;
                if left >= width {
                    return;
                }
                let window = PixelWindow::new(left, self.top, TILE.min(width - left), height);
                tile.clear();
                for line in self.rows[..self.classes * height * width].chunks_exact(width) {
                    tile.extend_from_slice(&line[left..left + window.width]);
                }
                if let Err(error) = self.cog.write_tile(&window, &tile) {
                    next.store(across, Ordering::Relaxed);
                    *failure.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(across) {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()).map_or(Ok(()), Err)
    }
}
