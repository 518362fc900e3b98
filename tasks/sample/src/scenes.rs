//! Writing the rasters: block by block of 512 cells of 20 m, on all threads, a few dates at a time, so that memory follows
//! from the number of bands and not from the size of the scene.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use swath_geo::{BandSpec, CogOptions, CogWriter, Crs, Grid, Overviews, PixelWindow, TILE, Transform};
use swath_task::TaskError;

use crate::faults::{cancelled, geo_fault};
use crate::noise::{hash, unit};
use crate::weather::{Sky, Weather};
use crate::world::{BANDS, Cover, World};

/// Pixels from one projected place to the next.
const KNOT: usize = 32;
/// Dates whose files are open at once.
const DATES_AT_ONCE: usize = 4;

/// Where scenes of one UTM zone lie.
pub(crate) struct Part {
    /// Grid of the 20 m rasters; that of the 10 m ones has twice as many pixels.
    pub coarse: Grid,
    /// Tile name, as items carry it.
    pub tile: &'static str,
}

impl Part {
    /// Grid of the 10 m rasters.
    pub fn fine(&self) -> Grid {
        refined(&self.coarse)
    }
}

/// The same area in pixels of half the size.
pub(crate) fn refined(coarse: &Grid) -> Grid {
    Grid {
        crs: coarse.crs.clone(),
        pixel_width: coarse.pixel_width / 2.0,
        pixel_height: coarse.pixel_height / 2.0,
        width: coarse.width * 2,
        height: coarse.height * 2,
        ..*coarse
    }
}

/// One date.
pub(crate) struct Date {
    pub weather: Weather,
    /// Added to reflectance x 10,000: 1000 since processing baseline 04.00.
    pub offset: u16,
    /// Folder of its files.
    pub folder: PathBuf,
    /// Seed of the sensor's noise.
    pub noise: u64,
}

/// What was written of a date.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Shares {
    /// Cells with data.
    pub valid: u64,
    /// Cells without.
    pub empty: u64,
    /// Cells of thick cloud and cirrus.
    pub cloud: u64,
}

/// What all writing shares.
pub(crate) struct Workshop<'a> {
    pub world: &'a World,
    /// CRS of the world.
    pub crs: &'a Crs,
    /// Indices into [`BANDS`].
    pub bands: &'a [usize],
    pub threads: usize,
    pub progress: &'a (dyn Fn(u64) + Sync),
    pub is_cancelled: &'a (dyn Fn() -> bool + Sync),
}

/// The files of one date being written.
struct Files<'a> {
    date: &'a Date,
    bands: Vec<(usize, CogWriter<u16>)>,
    classes: CogWriter<u8>,
    valid: AtomicU64,
    empty: AtomicU64,
    cloud: AtomicU64,
}

/// What a pixel of a block is.
struct Ground {
    covers: Vec<Cover>,
    tones: Vec<f32>,
}

impl Workshop<'_> {
    /// Writes all dates of a part.
    pub fn write_part(&self, part: &Part, dates: &[Date]) -> Result<Vec<Shares>, TaskError> {
        let mut shares = Vec::new();
        for some in dates.chunks(DATES_AT_ONCE) {
            shares.extend(self.write_dates(part, some)?);
        }
        Ok(shares)
    }

    fn write_dates(&self, part: &Part, dates: &[Date]) -> Result<Vec<Shares>, TaskError> {
        let fine = part.fine();
        let files: Vec<Files<'_>> = dates
            .iter()
            .map(|date| {
                let bands = self.bands.iter().map(|band| {
                    let (name, gsd) = BANDS[*band];
                    let grid = if gsd == 10 { &fine } else { &part.coarse };
                    let options = CogOptions::new(vec![BandSpec::new(name)], Some(0.0));
                    Ok((*band, CogWriter::create(&date.folder.join(format!("{name}.tif")), grid, options)?))
                });
                let spec = BandSpec { overviews: Overviews::Nearest, ..BandSpec::new("SCL") };
                let options = CogOptions::new(vec![spec], Some(0.0));
                Ok(Files {
                    date,
                    bands: bands.collect::<Result<_, _>>()?,
                    classes: CogWriter::create(&date.folder.join("SCL.tif"), &part.coarse, options)?,
                    valid: AtomicU64::new(0),
                    empty: AtomicU64::new(0),
                    cloud: AtomicU64::new(0),
                })
            })
            .collect::<Result<_, _>>()
            .map_err(geo_fault)?;
        let blocks = files[0].classes.tiles();
        self.on_all_threads(blocks.len(), |maker, at| maker.block(part, &files, &blocks[at]))?;
        files
            .into_iter()
            .map(|files| {
                let shares = Shares {
                    valid: files.valid.load(Ordering::Relaxed),
                    empty: files.empty.load(Ordering::Relaxed),
                    cloud: files.cloud.load(Ordering::Relaxed),
                };
                for (_, writer) in files.bands {
                    writer.finish().map_err(geo_fault)?;
                }
                files.classes.finish().map_err(geo_fault)?;
                Ok(shares)
            })
            .collect()
    }

    /// Writes what every clear observation shows, less noise: all bands at 10 m, and the mask of the sites.
    pub fn write_truth(&self, coarse: &Grid, reflectance: &Path, sites: &Path) -> Result<(), TaskError> {
        let fine = refined(coarse);
        let bands = self.bands.iter().map(|band| BandSpec { scale: Some(1e-4), ..BandSpec::new(BANDS[*band].0) });
        let values = CogWriter::create(reflectance, &fine, CogOptions::new(bands.collect(), Some(0.0)));
        let values: CogWriter<u16> = values.map_err(geo_fault)?;
        let spec = BandSpec { overviews: Overviews::Nearest, ..BandSpec::new("sites") };
        let mask: CogWriter<u8> =
            CogWriter::create(sites, &fine, CogOptions::new(vec![spec], None)).map_err(geo_fault)?;
        let tiles = values.tiles();
        self.on_all_threads(tiles.len(), |maker, at| {
            let window = &tiles[at];
            let cells = cells_of(window);
            let at_10 = maker.ground(&fine, window)?;
            let at_20 = maker.ground(coarse, &cells)?;
            let mut pixels = Vec::with_capacity(window.len() * self.bands.len());
            for band in self.bands {
                for row in 0..window.height {
                    for column in 0..window.width {
                        let (ground, at) = match BANDS[*band].1 {
                            10 => (&at_10, row * window.width + column),
                            _ => (&at_20, row / 2 * cells.width + column / 2),
                        };
                        pixels.push(stored(ground.covers[at].reflectance(*band) * ground.tones[at], 0));
                    }
                }
            }
            values.write_tile(window, &pixels).map_err(geo_fault)?;
            let inside: Vec<u8> = at_10.covers.iter().map(|cover| u8::from(*cover == Cover::Water)).collect();
            mask.write_tile(window, &inside).map_err(geo_fault)
        })?;
        values.finish().map_err(geo_fault)?;
        mask.finish().map_err(geo_fault)
    }

    /// Calls `work` for each number below `count`, each thread with a maker of its own. The first failure ends all.
    fn on_all_threads<F>(&self, count: usize, work: F) -> Result<(), TaskError>
    where
        F: Fn(&mut Maker<'_>, usize) -> Result<(), TaskError> + Sync,
    {
        let next = AtomicUsize::new(0);
        let failure = Mutex::new(None);
        let fail = |error: TaskError| {
            next.store(count, Ordering::Relaxed);
            if let Ok(mut first) = failure.lock() {
                first.get_or_insert(error);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(count).max(1) {
                scope.spawn(|| {
                    let mut maker = Maker { shop: self, transform: None };
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= count {
                            return;
                        }
                        if (self.is_cancelled)() {
                            return fail(cancelled());
                        }
                        if let Err(error) = work(&mut maker, at) {
                            return fail(error);
                        }
                        (self.progress)(1);
                    }
                });
            }
        });
        match failure.into_inner() {
            Ok(None) => Ok(()),
            Ok(Some(error)) => Err(error),
            Err(poisoned) => poisoned.into_inner().map_or(Ok(()), Err),
        }
    }
}

/// The cells of 20 m under a tile of 10 m: tiles begin at even pixels and end there.
fn cells_of(window: &PixelWindow) -> PixelWindow {
    PixelWindow::new(window.column / 2, window.row / 2, window.width / 2, window.height / 2)
}

/// Reflectance as it is stored: x 10,000, never 0 where there is data.
fn stored(reflectance: f32, offset: u16) -> u16 {
    (reflectance * 10_000.0 + f32::from(offset) + 0.5).clamp(1.0, 65_535.0) as u16
}

/// What one thread makes blocks with.
struct Maker<'a> {
    shop: &'a Workshop<'a>,
    /// From the CRS of the part at hand to that of the world.
    transform: Option<(Crs, Transform)>,
}

impl Maker<'_> {
    /// Calls `visit` with index, easting and northing (in the world's CRS) of the centre of each pixel of a window.
    fn places(
        &mut self,
        grid: &Grid,
        window: &PixelWindow,
        mut visit: impl FnMut(usize, f64, f64),
    ) -> Result<(), TaskError> {
        if !self.transform.as_ref().is_some_and(|(crs, _)| *crs == grid.crs) {
            let transform = Transform::new(&grid.crs, self.shop.crs).map_err(geo_fault)?;
            self.transform = Some((grid.crs.clone(), transform));
        }
        // Places are projected at every 32nd pixel of a row and at its end, and lie evenly between: two UTM zones bend
        // against each other by less than a millimetre over 320 m.
        let knots: Vec<usize> = (0..window.width).step_by(KNOT).chain([window.width - 1]).collect();
        for row in 0..window.height {
            let (mut xs, mut ys): (Vec<f64>, Vec<f64>) =
                knots.iter().map(|column| grid.centre(window.column + column, window.row + row)).unzip();
            if let Some((_, transform)) = &self.transform {
                transform.points(&mut xs, &mut ys).map_err(geo_fault)?;
            }
            for (at, from) in knots[..knots.len() - 1].iter().enumerate() {
                let steps = knots[at + 1] - from;
                let step = |ends: &[f64]| (ends[at + 1] - ends[at]) / steps.max(1) as f64;
                let (dx, dy) = (step(&xs), step(&ys));
                for after in 0..steps {
                    visit(row * window.width + from + after, xs[at] + dx * after as f64, ys[at] + dy * after as f64);
                }
            }
            let last = knots.len() - 1;
            visit(row * window.width + window.width - 1, xs[last], ys[last]);
        }
        Ok(())
    }

    fn ground(&mut self, grid: &Grid, window: &PixelWindow) -> Result<Ground, TaskError> {
        let world = self.shop.world;
        let mut ground = Ground { covers: Vec::with_capacity(window.len()), tones: Vec::with_capacity(window.len()) };
        self.places(grid, window, |_, x, y| {
            let (cover, tone) = world.ground(x, y);
            ground.covers.push(cover);
            ground.tones.push(tone);
        })?;
        Ok(ground)
    }

    /// Writes one block of all bands of the dates: a tile at 20 m, up to four at 10 m.
    fn block(&mut self, part: &Part, files: &[Files<'_>], cells: &PixelWindow) -> Result<(), TaskError> {
        let fine = part.fine();
        let at_20 = self.ground(&part.coarse, cells)?;
        let mut quarters = Vec::new();
        for (dx, dy) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            let (left, top) = (2 * cells.column + dx * TILE, 2 * cells.row + dy * TILE);
            let right = (2 * (cells.column + cells.width)).min(left + TILE);
            let bottom = (2 * (cells.row + cells.height)).min(top + TILE);
            if left < right && top < bottom {
                let window = PixelWindow::new(left, top, right - left, bottom - top);
                quarters.push((window, self.ground(&fine, &window)?));
            }
        }
        let mut places = Vec::with_capacity(cells.len());
        self.places(&part.coarse, cells, |_, x, y| places.push((x, y)))?;
        let mut pixels = Vec::with_capacity(TILE * TILE);
        for files in files {
            let skies: Vec<Sky> = places.iter().map(|(x, y)| files.date.weather.sky(*x, *y)).collect();
            let classes: Vec<u8> = skies
                .iter()
                .zip(&at_20.covers)
                .map(|(sky, cover)| sky.scene_class().unwrap_or_else(|| cover.scene_class()))
                .collect();
            let count = |of: &[u8]| classes.iter().filter(|class| of.contains(class)).count() as u64;
            let empty = count(&[0]);
            files.empty.fetch_add(empty, Ordering::Relaxed);
            files.valid.fetch_add(cells.len() as u64 - empty, Ordering::Relaxed);
            files.cloud.fetch_add(count(&[8, 9, 10]), Ordering::Relaxed);
            files.classes.write_tile(cells, &classes).map_err(geo_fault)?;
            for (band, writer) in &files.bands {
                let observe = |pixels: &mut Vec<u16>,
                               ground: &Ground,
                               window: &PixelWindow,
                               sky_of: &dyn Fn(usize, usize) -> Sky| {
                    pixels.clear();
                    let seed = files.date.noise ^ ((*band as u64) << 56);
                    for row in 0..window.height {
                        for column in 0..window.width {
                            let sky = sky_of(row, column);
                            if sky == Sky::NoData {
                                pixels.push(0);
                                continue;
                            }
                            let at = row * window.width + column;
                            let place = ((window.column + column) as i64, (window.row + row) as i64);
                            let noise = 0.003 * (unit(hash(seed, place.0, place.1)) - 0.5);
                            let truth = ground.covers[at].reflectance(*band) * ground.tones[at];
                            pixels.push(stored(sky.seen(truth, noise), files.date.offset));
                        }
                    }
                };
                if BANDS[*band].1 == 20 {
                    observe(&mut pixels, &at_20, cells, &|row, column| skies[row * cells.width + column]);
                    writer.write_tile(cells, &pixels).map_err(geo_fault)?;
                    continue;
                }
                for (window, ground) in &quarters {
                    let (left, top) = (window.column / 2 - cells.column, window.row / 2 - cells.row);
                    let sky_of = |row: usize, column: usize| skies[(top + row / 2) * cells.width + left + column / 2];
                    observe(&mut pixels, ground, window, &sky_of);
                    writer.write_tile(window, &pixels).map_err(geo_fault)?;
                }
            }
        }
        Ok(())
    }
}
