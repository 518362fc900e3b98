//! Writing Cloud-Optimized GeoTIFFs tile by tile, from many threads, in bounded memory.
//!
//! Tiles of 512 x 512 pixels are compressed as they come and laid into an unnamed file; overviews grow from the tiles
//! just written, so nothing is read back. At the end the directories and then the tiles, smallest overview first,
//! are written in one pass. GDAL writes the georeferencing and metadata tags (into a raster of one pixel in memory
//! from which they are copied); the pixels never pass through GDAL, whose COG driver compresses everything twice.
//!
//! Invariants:
//! 1. The file depends on pixels and options only, not on the order in which tiles came or on the number of threads.
//! 2. Every tile is written exactly once; a missing or repeated one is an error.
//! 3. Memory is the tiles in flight and the overview tiles that wait for their quarters: little when tiles come in
//!    [`CogWriter::tiles`] order (a Z-curve), half a strip of tiles when they come row by row.

mod pyramid;
mod template;
mod tiff;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{ErrorKind, GeoError, Result};
use crate::grid::{Grid, PixelWindow};
use crate::pixel::Pixel;
use pyramid::{Pending, Statistics, quarter};

/// Rows and columns of a tile.
pub const TILE: usize = 512;

/// What is written about a band.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BandSpec {
    /// Band name.
    pub name: String,
    /// value = pixel * scale + offset, if told.
    pub scale: Option<f64>,
    /// See `scale`.
    pub offset: Option<f64>,
    /// Unit of the value, if told.
    pub unit: Option<String>,
    /// How overviews of this band are made.
    pub overviews: Overviews,
}

impl BandSpec {
    /// A band with a name and averaged overviews.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }
}

/// How a pixel of an overview comes from the four below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overviews {
    /// The mean of those that are not no-data.
    #[default]
    Average,
    /// The upper left one: for classes and masks.
    Nearest,
}

/// How a COG is written.
#[derive(Clone, Debug)]
pub struct CogOptions {
    /// Its bands, in order.
    pub bands: Vec<BandSpec>,
    /// No-data value; NaN is one.
    pub nodata: Option<f64>,
    /// Compression level of DEFLATE, 1 (fast) to 12 (small).
    pub level: u8,
    /// Metadata of the whole file (`KEY`, value).
    pub metadata: Vec<(String, String)>,
}

impl CogOptions {
    /// Bands, no-data, level 4 and no metadata.
    pub fn new(bands: Vec<BandSpec>, nodata: Option<f64>) -> Self {
        Self { bands, nodata, level: 4, metadata: Vec::new() }
    }
}

/// Where a compressed tile lies in the unnamed file.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    offset: u64,
    size: u32,
}

/// One resolution of the pyramid.
struct Level {
    width: usize,
    height: usize,
    /// `band * across * down + row * across + column`; size 0: not written yet.
    places: Mutex<Vec<Place>>,
}

impl Level {
    fn across(&self) -> usize {
        self.width.div_ceil(TILE)
    }
    fn down(&self) -> usize {
        self.height.div_ceil(TILE)
    }
    /// Width and height of a tile without its padding.
    fn extent(&self, column: usize, row: usize) -> (usize, usize) {
        (TILE.min(self.width - column * TILE), TILE.min(self.height - row * TILE))
    }
}

/// A COG being written. `&self` methods may be called from many threads.
pub struct CogWriter<T> {
    path: PathBuf,
    grid: Grid,
    options: CogOptions,
    levels: Vec<Level>,
    tiles: File,
    end: AtomicU64,
    pending: Mutex<Pending<T>>,
    statistics: Mutex<Vec<Statistics>>,
    rows: Mutex<Rows<T>>,
}

/// Rows that wait for a full strip of tiles.
struct Rows<T> {
    next: usize,
    held: Vec<T>,
    count: usize,
}

impl<T: Pixel> CogWriter<T> {
    /// Starts a COG at `path`, where nothing is seen before [`CogWriter::finish`].
    pub fn create(path: &Path, grid: &Grid, options: CogOptions) -> Result<Self> {
        if options.bands.is_empty() || options.bands.len() > 4096 || grid.window().is_empty() {
            let message = format!(
                "`{}` cannot have {} bands of {} x {} pixels",
                path.display(),
                options.bands.len(),
                grid.width,
                grid.height
            );
            return Err(GeoError::new(ErrorKind::Request, message));
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let tiles = tempfile::tempfile_in(folder).map_err(|error| write_error(path, &error))?;
        let mut levels = Vec::new();
        let (mut width, mut height) = (grid.width, grid.height);
        loop {
            let count = options.bands.len() * width.div_ceil(TILE) * height.div_ceil(TILE);
            levels.push(Level { width, height, places: Mutex::new(vec![Place::default(); count]) });
            if width <= TILE && height <= TILE {
                break;
            }
            (width, height) = (width.div_ceil(2), height.div_ceil(2));
        }
        let statistics = vec![Statistics::default(); levels[0].places.lock().map_or(0, |places| places.len())];
        Ok(Self {
            path: path.to_owned(),
            grid: grid.clone(),
            options,
            levels,
            tiles,
            end: AtomicU64::new(0),
            pending: Mutex::new(Pending::new()),
            statistics: Mutex::new(statistics),
            rows: Mutex::new(Rows { next: 0, held: Vec::new(), count: 0 }),
        })
    }

    /// The grid being written.
    pub fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The windows of all tiles in the order that needs least memory.
    pub fn tiles(&self) -> Vec<PixelWindow> {
        let level = &self.levels[0];
        let mut places: Vec<(usize, usize)> =
            (0..level.down()).flat_map(|row| (0..level.across()).map(move |column| (column, row))).collect();
        places.sort_by_key(|(column, row)| interleave(*column) | interleave(*row) << 1);
        let window = |(column, row)| {
            let (width, height) = level.extent(column, row);
            PixelWindow::new(column * TILE, row * TILE, width, height)
        };
        places.into_iter().map(window).collect()
    }

    /// Writes one tile: `window` is one of [`CogWriter::tiles`], `data` its pixels, one band after the other.
    pub fn write_tile(&self, window: &PixelWindow, data: &[T]) -> Result<()> {
        let (column, row) = (window.column / TILE, window.row / TILE);
        let level = &self.levels[0];
        let fits = window.column.is_multiple_of(TILE)
            && window.row.is_multiple_of(TILE)
            && column < level.across()
            && row < level.down()
            && (window.width, window.height) == level.extent(column, row)
            && data.len() == window.len() * self.options.bands.len();
        if !fits {
            let message = format!("{window:?} with {} pixels is no tile of `{}`", data.len(), self.path.display());
            return Err(GeoError::new(ErrorKind::Request, message));
        }
        let per_band = level.across() * level.down();
        for (band, pixels) in data.chunks_exact(window.len()).enumerate() {
            let statistics = Statistics::of(pixels, self.options.nodata);
            lock(&self.statistics)[band * per_band + row * level.across() + column] = statistics;
        }
        let mut encoder = tiff::Encoder::new(self.options.level);
        self.write_level(0, column, row, data, &mut encoder)
    }

    fn write_level(
        &self,
        index: usize,
        column: usize,
        row: usize,
        data: &[T],
        encoder: &mut tiff::Encoder,
    ) -> Result<()> {
        let level = &self.levels[index];
        let (width, height) = level.extent(column, row);
        let fill = T::from_f64(self.options.nodata.unwrap_or(0.0));
        for (band, pixels) in data.chunks_exact(width * height).enumerate() {
            let bytes = encoder.encode(pixels, width, height, fill);
            let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let offset = self.end.fetch_add(u64::from(size), Ordering::Relaxed);
            self.tiles.write_all_at(bytes, offset).map_err(|error| write_error(&self.path, &error))?;
            let place = &mut lock(&level.places)[(band * level.down() + row) * level.across() + column];
            if place.size != 0 {
                let message = format!("tile {column}, {row} of `{}` was written twice", self.path.display());
                return Err(GeoError::new(ErrorKind::Request, message));
            }
            *place = Place { offset, size };
        }
        let Some(above) = self.levels.get(index + 1) else { return Ok(()) };
        let quarters: Vec<(usize, usize, Vec<T>)> = data
            .chunks_exact(width * height)
            .zip(&self.options.bands)
            .map(|(pixels, band)| quarter(pixels, width, height, self.options.nodata, band.overviews))
            .collect();
        let (upper_column, upper_row) = (column / 2, row / 2);
        let extent = above.extent(upper_column, upper_row);
        let across = 1 + usize::from(2 * upper_column + 1 < level.across());
        let down = 1 + usize::from(2 * upper_row + 1 < level.down());
        let at = ((column % 2) * TILE / 2, (row % 2) * TILE / 2);
        let key = (index + 1, upper_column, upper_row);
        let full = lock(&self.pending).deposit(key, extent, across * down, at, &quarters);
        match full {
            Some(tile) => self.write_level(index + 1, upper_column, upper_row, &tile, encoder),
            None => Ok(()),
        }
    }

    /// Writes the next `rows` rows of the raster, one band after the other. Whole strips of 512 rows pass through;
    /// fewer are held until their strip is full. From one thread, in order; do not mix with [`CogWriter::write_tile`].
    pub fn write_rows(&self, rows: usize, data: &[T]) -> Result<()> {
        let (width, bands) = (self.grid.width, self.options.bands.len());
        let mut state = lock(&self.rows);
        if data.len() != rows * width * bands || state.next + state.count + rows > self.grid.height {
            let message = format!(
                "{} pixels are not the next {rows} rows of {bands} bands of `{}`",
                data.len(),
                self.path.display()
            );
            return Err(GeoError::new(ErrorKind::Request, message));
        }
        let mut used = 0;
        while used < rows {
            let strip = TILE.min(self.grid.height - state.next);
            if state.count == 0 && rows - used >= strip {
                self.write_strip(state.next, strip, |band, row| &data[(band * rows + used + row) * width..][..width])?;
                state.next += strip;
                used += strip;
                continue;
            }
            if state.held.is_empty() {
                state.held = vec![T::default(); strip * width * bands];
            }
            let take = (strip - state.count).min(rows - used);
            for band in 0..bands {
                let from = (band * rows + used) * width;
                let to = (band * strip + state.count) * width;
                state.held[to..to + take * width].copy_from_slice(&data[from..from + take * width]);
            }
            state.count += take;
            used += take;
            if state.count == strip {
                let held = std::mem::take(&mut state.held);
                self.write_strip(state.next, strip, |band, row| &held[(band * strip + row) * width..][..width])?;
                state.next += strip;
                state.count = 0;
            }
        }
        Ok(())
    }

    fn write_strip<'a>(&self, top: usize, rows: usize, source: impl Fn(usize, usize) -> &'a [T] + Sync) -> Result<()>
    where
        T: 'a,
    {
        let bands = self.options.bands.len();
        for left in (0..self.grid.width).step_by(TILE) {
            let width = TILE.min(self.grid.width - left);
            let mut tile = Vec::with_capacity(width * rows * bands);
            for band in 0..bands {
                for row in 0..rows {
                    tile.extend_from_slice(&source(band, row)[left..left + width]);
                }
            }
            self.write_tile(&PixelWindow::new(left, top, width, rows), &tile)?;
        }
        Ok(())
    }

    /// Completes the file and gives it its name.
    pub fn finish(self) -> Result<()> {
        let _span = traced!("write a COG", swath.raster = %self.path.display());
        let statistics = self.band_statistics();
        let tags = template::tags(&self.grid, T::TYPE, &self.options, &statistics)?;
        let mut levels = Vec::new();
        for (index, level) in self.levels.iter().enumerate() {
            let places = lock(&level.places).clone();
            let missing = places.iter().filter(|place| place.size == 0).count();
            if missing > 0 {
                let message = format!("{missing} tiles of level {index} of `{}` were not written", self.path.display());
                return Err(GeoError::new(ErrorKind::Request, message));
            }
            levels.push((level.width, level.height, places));
        }
        let sizes: Vec<tiff::LevelTable> = levels
            .iter()
            .map(|(width, height, places)| tiff::LevelTable {
                width: *width,
                height: *height,
                sizes: places.iter().map(|place| place.size).collect(),
            })
            .collect();
        let header = tiff::header(&sizes, self.options.bands.len(), T::TYPE, &tags);
        let partial = self.path.with_extension("partial");
        let assemble = || -> std::io::Result<()> {
            let mut out = BufWriter::with_capacity(1 << 20, File::create(&partial)?);
            out.write_all(&header)?;
            let mut buffer = Vec::new();
            for (_, _, places) in levels.iter().rev() {
                for place in places {
                    buffer.resize(place.size as usize, 0);
                    self.tiles.read_exact_at(&mut buffer, place.offset)?;
                    tiff::write_tile(&mut out, &buffer)?;
                }
            }
            out.into_inner().map_err(|error| error.into_error())?;
            std::fs::rename(&partial, &self.path)
        };
        assemble().map_err(|error| {
            let _ = std::fs::remove_file(&partial);
            write_error(&self.path, &error)
        })
    }

    fn band_statistics(&self) -> Vec<Statistics> {
        let all = lock(&self.statistics);
        let per_band = all.len() / self.options.bands.len();
        all.chunks_exact(per_band).map(Statistics::combine).collect()
    }
}

/// A lock whose holder panicked still guards whole values here: each is replaced in one step.
fn lock<V>(mutex: &Mutex<V>) -> std::sync::MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn write_error(path: &Path, error: &std::io::Error) -> GeoError {
    GeoError::new(ErrorKind::Write, format!("cannot write `{}`: {error}", path.display()))
}

/// Spreads the bits of a number to the even places: two interleaved give the place on a Z-curve.
fn interleave(value: usize) -> u64 {
    (0..31).fold(0, |bits, i| bits | ((value as u64 >> i) & 1) << (2 * i))
}
