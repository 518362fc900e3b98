//! `labels.raster`: an existing class map onto the grid of a raster.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::{Grid, PixelWindow, Raster, TILE, WarpMap, WarpResampling};
use swath_kinds::Cog;
use swath_task::{Artifact, Context, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::classes::{self, Class, Name};
use crate::faults::{fault, geo_fault};
use crate::tiles::{MEMORY, draw_label, holds_value, positive_share, write_label};

/// Most pixels of the map that are read at once; where it is much finer than the raster, a tile is made in parts.
const MOST_PIXELS: usize = 2 << 20;
/// Bytes that a thread takes: those pixels, where the pixels of a tile lie in the map, and their classes.
const MAP_MEMORY: u64 = (MOST_PIXELS * 4 + TILE * TILE * (WarpMap::BYTES + 4)) as u64;

/// Lays an existing class map onto the grid of a raster: each pixel gets the class of the map's pixel that its centre lies in.
///
/// The map may lie in another CRS and have another resolution. Its no-data, what it does not cover, and where the raster has no
/// data in any band but `count`, become no data.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelRaster {
    /// File of the map, where it is not the output of another step (input `map`).
    #[serde(default)]
    pub map: Option<LocalPath>,
    /// Band of the map; its only or first one when absent.
    #[serde(default)]
    pub band: Option<String>,
    /// Values of the map to classes. The value itself, from 0 to 255, is the class when absent.
    #[serde(default)]
    pub classes: Option<Vec<Class>>,
    /// Class of values that `classes` does not name; `null` for no data.
    #[serde(default = "other")]
    pub other: Option<u8>,
}

fn other() -> Option<u8> {
    Some(0)
}

/// What is labelled, and by what.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// A raster, on whose grid the label lies.
    pub raster: Artifact<Cog>,
    /// The map, instead of the parameter `map`.
    #[serde(default)]
    pub map: Option<Artifact<Cog>>,
}

/// A class map.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The map on the grid of the raster: numbers of classes, NaN for no data.
    pub label: Artifact<Cog>,
    /// Share of the pixels with data that have class 1 or above.
    pub positive_share: f64,
}

impl Task for LabelRaster {
    const NAME: &'static str = "labels.raster";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let classes = self.classes.as_deref().unwrap_or_default();
        classes::check(classes, &mut problems);
        for (index, class) in classes.iter().enumerate() {
            for (place, name) in class.from.iter().enumerate().filter(|(_, name)| matches!(name, Name::Text(_))) {
                let at = format!("/classes/{index}/from/{place}");
                problems.push(Problem::new(at, format!("`{name}` is a text; the values of a map are numbers")));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(MEMORY)
    }

    fn reads(&self) -> Vec<PathBuf> {
        self.map.iter().map(|path| path.0.clone()).collect()
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let map = match (&inputs.map, &self.map) {
            (Some(map), None) => ctx.locate(map).await?,
            (None, Some(path)) => path.0.clone(),
            (given, _) => {
                let how = if given.is_some() { "twice" } else { "nowhere" };
                let message = format!("`labels.raster` is told its map {how}");
                return Err(fault("L107", message, "name a file with the parameter `map`, or connect the input `map`"));
            }
        };
        let task = self.clone();
        let draw = move |raster: &Path, out: &Path, ctx: &Context| task.draw(&map, raster, out, ctx);
        let (label, positive_share) = draw_label(&inputs.raster, ctx, draw).await?;
        ctx.metric("positive_share", positive_share);
        Ok(Outputs { label, positive_share })
    }
}

impl LabelRaster {
    fn draw(&self, map: &Path, raster: &Path, out: &Path, ctx: &Context) -> Result<f64, TaskError> {
        let met = AtomicBool::new(false);
        let start = |_: &Grid| {
            let map = Raster::open_path(map).map_err(geo_fault)?;
            let band = self.band.as_ref().map_or(Ok(0), |name| map.info().band(name)).map_err(geo_fault)?;
            let grid = map.grid().map_err(geo_fault)?;
            Ok(Map { map, band, grid })
        };
        let work = |map: &mut Map, tile: &Grid, _: &PixelWindow| {
            let mut label = vec![f32::NAN; tile.width * tile.height];
            if self.lay(map, tile, &tile.window(), &mut label)? {
                met.store(true, Ordering::Relaxed);
            }
            Ok(label)
        };
        let mut metadata = vec![("LABEL".to_owned(), "classes".to_owned())];
        metadata.extend(classes::metadata(self.classes.as_deref().unwrap_or_default()));
        let counts = write_label(raster, out, metadata, (MEMORY, MAP_MEMORY), ctx, start, work)?;
        if !met.into_inner() {
            let message = format!("the map `{}` does not lie on `{}`", map.display(), raster.display());
            return Err(fault("R109", message, "compare the areas of both"));
        }
        Ok(positive_share(&counts).1)
    }

    /// Fills a window of a tile; whether the map covers any of it.
    fn lay(&self, map: &Map, tile: &Grid, window: &PixelWindow, label: &mut [f32]) -> Result<bool, TaskError> {
        let part = tile.crop(window);
        let Some(warp) = WarpMap::new(&map.grid, &part).map_err(geo_fault)? else { return Ok(false) };
        let source = warp.source_window();
        if source.len() > MOST_PIXELS && window.len() > 1 {
            let mut met = false;
            for half in halves(window) {
                met |= self.lay(map, tile, &half, label)?;
            }
            return Ok(met);
        }
        let mut pixels = vec![0.0_f32; source.len()];
        map.map.read(map.band, &source, &mut pixels).map_err(geo_fault)?;
        let info = &map.map.info().bands[map.band];
        // Values that follow each other are mostly equal.
        let mut last = (f32::NAN, f32::NAN);
        for pixel in &mut pixels {
            if *pixel != last.0 || last.0.is_nan() {
                let class = if holds_value(info, *pixel) { self.class(*pixel, map)? } else { f32::NAN };
                last = (*pixel, class);
            }
            *pixel = last.1;
        }
        let mut values = vec![f32::NAN; window.len()];
        warp.resample(&pixels, None, WarpResampling::Nearest, f32::NAN, &mut values).map_err(geo_fault)?;
        for (row, line) in values.chunks_exact(window.width).enumerate() {
            label[(window.row + row) * tile.width + window.column..][..window.width].copy_from_slice(line);
        }
        Ok(true)
    }

    fn class(&self, value: f32, map: &Map) -> Result<f32, TaskError> {
        let name = Name::Number(f64::from(value));
        let class = match &self.classes {
            Some(classes) => name.class(classes).or(self.other),
            None => Some(name.own_class().ok_or_else(|| {
                let message =
                    format!("the map `{}` holds {value}, which is not a class from 0 to 255", map.map.info().name);
                fault("L105", message, "name the classes of its values with `classes`")
            })?),
        };
        Ok(class.map_or(f32::NAN, f32::from))
    }
}

/// A class map as a thread has it open.
struct Map {
    map: Raster,
    band: usize,
    grid: Grid,
}

/// A window cut in two across its longer side.
fn halves(window: &PixelWindow) -> [PixelWindow; 2] {
    let PixelWindow { column, row, width, height } = *window;
    if width >= height {
        let left = width / 2;
        [PixelWindow::new(column, row, left, height), PixelWindow::new(column + left, row, width - left, height)]
    } else {
        let top = height / 2;
        [PixelWindow::new(column, row, width, top), PixelWindow::new(column, row + top, width, height - top)]
    }
}
