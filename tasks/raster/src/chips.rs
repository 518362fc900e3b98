//! `raster.chips`: equally sized pieces of a raster for training.

use std::path::Path;
use std::sync::Mutex;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use swath_geo::{BandSpec, CogOptions, CogWriter, Crs, Grid, PixelWindow, Raster, Transform, piece_starts};
use swath_kinds::{Chips, Cog};
use swath_task::{Artifact, Bytes, Context, Draft, Fault, Needs, Problem, Purity, Task, TaskError};

use crate::composite::COUNT_BAND;
use crate::faults::geo_fault;
use crate::values::{BASE_MEMORY, MEMORY, band_indices, each_window, read_values};

/// Cuts a raster into square chips that overlap, edges included.
///
/// The last chip of a row or column is shifted back so that it ends at the edge: all chips have the same size and all
/// pixels are covered. A raster smaller than a chip gives one chip, filled up with no-data. The folder holds a GeoTIFF
/// a chip and `index.geojson` with the place, the pixel window and the valid share of each.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChipRaster {
    /// Rows and columns of a chip.
    #[serde(default = "default_size")]
    #[schemars(range(min = 16, max = 2048))]
    pub size: usize,
    /// Pixels that neighbouring chips share.
    #[serde(default = "default_overlap")]
    pub overlap: usize,
    /// Chips with a smaller share of pixels that are valid in all bands are left out.
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

fn default_overlap() -> usize {
    32
}

fn default_valid() -> f64 {
    0.5
}

/// What chips are cut from.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// A raster with named bands.
    pub raster: Artifact<Cog>,
}

/// What chips are.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The chips and their index.
    pub chips: Artifact<Chips>,
    /// How many there are.
    pub count: u64,
}

impl Task for ChipRaster {
    const NAME: &'static str = "raster.chips";
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
        if self.overlap >= self.size {
            let message = format!("an overlap of {} leaves nothing of a chip of {}", self.overlap, self.size);
            problems.push(Problem::new("/overlap", message));
        }
        if !(0.0..=1.0).contains(&self.min_valid) {
            problems.push(Problem::new("/min_valid", format!("{} is not a share from 0 to 1", self.min_valid)));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        // One chip at a time is the least.
        let bands = self.bands.as_ref().map_or(USUAL_BANDS, Vec::len);
        Needs::all_cores(Bytes(MEMORY.0.max(BASE_MEMORY + self.memory(bands))))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let path = ctx.locate(&inputs.raster).await?;
        let draft: Draft<Chips> = ctx.draft("chips")?;
        let (task, out) = (self.clone(), draft.path().to_owned());
        let count = ctx.blocking(move |ctx| task.cut(&path, &out, ctx)).await?;
        ctx.metric("chips", count as f64);
        Ok(Outputs { chips: draft.commit().await?, count })
    }
}

/// Bands of a raster of which nothing is known.
const USUAL_BANDS: usize = 8;

impl ChipRaster {
    /// Bytes that a chip takes: its pixels, those of its overviews and what they are compressed to, and what is read.
    fn memory(&self, bands: usize) -> u64 {
        let pixels = (self.size * self.size) as u64;
        pixels * (bands as u64 * 10 + 5) + (2 << 20)
    }

    fn cut(&self, path: &Path, folder: &Path, ctx: &Context) -> Result<u64, TaskError> {
        let raster = Raster::open_path(path).map_err(geo_fault)?;
        let info = raster.info();
        let names: Vec<String> = match &self.bands {
            Some(names) => names.clone(),
            None => info.bands.iter().map(|band| band.name.clone()).filter(|name| name != COUNT_BAND).collect(),
        };
        let bands = band_indices(&raster, &names)?;
        let grid = raster.grid().map_err(geo_fault)?;
        let write_fault = |error: std::io::Error| {
            Fault::new("R111", format!("cannot write to `{}`: {error}", folder.display())).permanent()
        };
        std::fs::create_dir_all(folder).map_err(write_fault)?;
        let mut windows = Vec::new();
        for row in piece_starts(info.height, self.size, self.size - self.overlap) {
            for column in piece_starts(info.width, self.size, self.size - self.overlap) {
                let (width, height) = (self.size.min(info.width), self.size.min(info.height));
                windows.push(PixelWindow::new(column, row, width, height));
            }
        }
        let wgs84 = Crs::wgs84().map_err(geo_fault)?;
        let features: Mutex<Vec<(usize, usize, Value)>> = Mutex::new(Vec::new());
        each_window(
            path,
            &windows,
            ctx,
            "chips",
            self.needs().memory.0,
            self.memory(bands.len()),
            || (),
            |(), raster, window| {
                let side = self.size;
                let mut chip = vec![f32::NAN; side * side * bands.len()];
                let mut valid = vec![true; window.len()];
                let mut pixels = vec![0.0; window.len()];
                for (band, plane) in bands.iter().zip(chip.chunks_exact_mut(side * side)) {
                    read_values(raster, *band, window, &mut pixels)?;
                    for (row, line) in pixels.chunks_exact(window.width).enumerate() {
                        plane[row * side..][..window.width].copy_from_slice(line);
                    }
                    valid.iter_mut().zip(&pixels).for_each(|(valid, pixel)| *valid &= !pixel.is_nan());
                }
                // Of the pixels that there are: a raster smaller than a chip has no others.
                let share = valid.iter().filter(|valid| **valid).count() as f64 / window.len() as f64;
                if share < self.min_valid {
                    return Ok(());
                }
                let place = Grid { width: side, height: side, ..grid.crop(window) };
                let file = format!("chip_{:06}_{:06}.tif", window.row, window.column);
                let mut options = CogOptions::new(names.iter().map(BandSpec::new).collect(), Some(f64::NAN));
                options.level = 1;
                let writer = CogWriter::create(&folder.join(&file), &place, options).map_err(geo_fault)?;
                if side <= swath_geo::TILE {
                    writer.write_tile(&place.window(), &chip).map_err(geo_fault)?;
                } else {
                    writer.write_rows(side, &chip).map_err(geo_fault)?;
                }
                writer.finish().map_err(geo_fault)?;
                let ring = footprint(&place, &Transform::new(&place.crs, &wgs84).map_err(geo_fault)?)?;
                let feature = json!({
                    "type": "Feature",
                    "geometry": { "type": "Polygon", "coordinates": [ring] },
                    "properties": { "file": file, "column": window.column, "row": window.row, "size": side, "valid": share },
                });
                let mut features = features.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                features.push((window.row, window.column, feature));
                Ok(())
            },
        )?;
        let mut features = features.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        features.sort_by_key(|(row, column, _)| (*row, *column));
        if features.is_empty() {
            let message = format!("no chip of `{}` has {} of its pixels valid", info.name, self.min_valid);
            return Err(Fault::new("R124", message).help("lower `min_valid`, or widen the period").permanent());
        }
        let count = features.len() as u64;
        let index = json!({
            "type": "FeatureCollection",
            "bands": names,
            "crs_of_chips": grid.crs.to_string(),
            "features": features.into_iter().map(|(_, _, feature)| feature).collect::<Vec<_>>(),
        });
        std::fs::write(folder.join("index.geojson"), index.to_string()).map_err(write_fault)?;
        Ok(count)
    }
}

/// The corners of a grid in degrees, counter-clockwise, closed (RFC 7946).
fn footprint(grid: &Grid, transform: &Transform) -> Result<Vec<[f64; 2]>, TaskError> {
    let (xs, ys) = grid.outline(transform, 1).map_err(geo_fault)?;
    let round = |value: f64| (value * 1e7).round() / 1e7;
    Ok(xs.iter().zip(&ys).map(|(x, y)| [round(*x), round(*y)]).collect())
}
