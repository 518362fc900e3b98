//! `raster.preview`: a picture of a raster.

use std::io::BufWriter;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use swath_geo::{Crs, Geometry, Grid, Raster, Resampling, Transform, rasterize};
use swath_kinds::{BandStretch, Cog, Detections, Picture, StretchFile};
use swath_task::{Artifact, Bytes, Context, Draft, Fault, Needs, Problem, Purity, Task, TaskError};

use crate::composite::COUNT_BAND;
use crate::faults::{content_fault, geo_fault};
use crate::normalise::{read_stretch, stretched};
use crate::values::{band_indices, to_values};

/// Draws a raster as a PNG, with detections outlined and probabilities laid over it when they are connected.
///
/// No-data is transparent. Brightness is stretched between percentiles of the picture's own pixels unless a stretch is
/// given.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preview {
    /// One band (grey) or three (red, green, blue); natural colours when absent and possible, else the first bands.
    #[serde(default)]
    pub bands: Option<Vec<String>>,
    /// Longest side of the picture in pixels.
    #[serde(default = "default_size")]
    #[schemars(range(min = 16, max = 8192))]
    pub max_size: usize,
    /// Percentiles that become black and white.
    #[serde(default = "default_percentiles")]
    pub percentiles: [f64; 2],
    /// Brightens the middle tones: 1 leaves them as they are.
    #[serde(default = "default_gamma")]
    #[schemars(range(min = 0.2, max = 5.0))]
    pub gamma: f64,
}

fn default_size() -> usize {
    1024
}

fn default_percentiles() -> [f64; 2] {
    [2.0, 98.0]
}

fn default_gamma() -> f64 {
    1.0
}

/// What is drawn.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// The raster.
    pub raster: Artifact<Cog>,
    /// A stretch of its bands.
    #[serde(default)]
    pub stretch: Option<Artifact<StretchFile>>,
    /// Objects to outline.
    #[serde(default)]
    pub detections: Option<Artifact<Detections>>,
    /// Probabilities (0 to 1) on the same grid, laid over in red.
    #[serde(default)]
    pub probability: Option<Artifact<Cog>>,
}

/// The picture.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// A PNG.
    pub picture: Artifact<Picture>,
}

impl Task for Preview {
    const NAME: &'static str = "raster.preview";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if self.bands.as_ref().is_some_and(|bands| bands.len() != 1 && bands.len() != 3) {
            problems.push(Problem::new("/bands", "a picture has one band (grey) or three (red, green, blue)"));
        }
        if !(16..=8192).contains(&self.max_size) {
            problems.push(Problem::new("/max_size", format!("{} is not between 16 and 8192", self.max_size)));
        }
        let [low, high] = self.percentiles;
        if !(0.0 <= low && low < high && high <= 100.0) {
            let message = format!("[{low}, {high}] are not two rising percentiles from 0 to 100");
            problems.push(Problem::new("/percentiles", message));
        }
        if !(0.2..=5.0).contains(&self.gamma) {
            problems.push(Problem::new("/gamma", format!("{} is not between 0.2 and 5", self.gamma)));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        let side = self.max_size as u64;
        Needs::new(1.0, Bytes(side * side * 24 + (64 << 20)))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let raster = ctx.locate(&inputs.raster).await?;
        let mut stretch = None;
        if let Some(artifact) = &inputs.stretch {
            stretch = Some(ctx.locate(artifact).await?);
        }
        let mut detections = None;
        if let Some(artifact) = &inputs.detections {
            detections = Some(ctx.locate(artifact).await?);
        }
        let mut probability = None;
        if let Some(artifact) = &inputs.probability {
            probability = Some(ctx.locate(artifact).await?);
        }
        let draft: Draft<Picture> = ctx.draft("preview.png")?;
        let (task, out) = (self.clone(), draft.path().to_owned());
        ctx.blocking(move |ctx| {
            let mut canvas = task.draw(&raster, stretch.as_deref(), ctx)?;
            if let Some(path) = probability {
                canvas.tint(&path)?;
            }
            if let Some(path) = detections {
                canvas.outline(&path)?;
            }
            ctx.check_cancelled()?;
            canvas.write(&out)
        })
        .await?;
        Ok(Outputs { picture: draft.commit().await? })
    }
}

/// A picture and the grid it lies on.
struct Canvas {
    grid: Grid,
    /// Red, green, blue, opacity.
    pixels: Vec<[u8; 4]>,
}

impl Preview {
    fn draw(&self, path: &Path, stretch: Option<&Path>, ctx: &Context) -> Result<Canvas, TaskError> {
        let raster = Raster::open_path(path).map_err(geo_fault)?;
        let names = self.names(&raster);
        let bands = band_indices(&raster, &names)?;
        let given = stretch.map(|path| read_stretch(path, &names)).transpose()?;
        let (width, height) = fitted(raster.info().width, raster.info().height, self.max_size);
        let whole = swath_geo::PixelWindow::new(0, 0, raster.info().width, raster.info().height);
        let mut planes = Vec::new();
        for (index, band) in bands.iter().enumerate() {
            ctx.check_cancelled()?;
            let mut plane = vec![0.0_f32; width * height];
            raster
                .read_resampled(*band, &whole, (width, height), Resampling::Average, &mut plane)
                .map_err(geo_fault)?;
            to_values(&raster.info().bands[*band], &mut plane);
            let limits = match &given {
                Some(stretch) => stretch.bands[index].clone(),
                None => limits(&names[index], &plane, self.percentiles),
            };
            let tone = |value: f32| (f64::from(stretched(value, &limits)).powf(1.0 / self.gamma) * 255.0).round();
            planes.push(plane.iter().map(|value| (!value.is_nan()).then(|| tone(*value) as u8)).collect::<Vec<_>>());
        }
        let pixels = (0..width * height)
            .map(|at| {
                let tone = |plane: usize| planes[plane.min(planes.len() - 1)][at];
                match (tone(0), tone(1), tone(2)) {
                    (Some(red), Some(green), Some(blue)) => [red, green, blue, 255],
                    _ => [0; 4],
                }
            })
            .collect();
        let full = raster.grid().map_err(geo_fault)?;
        let grid = Grid {
            pixel_width: full.pixel_width * full.width as f64 / width as f64,
            pixel_height: full.pixel_height * full.height as f64 / height as f64,
            width,
            height,
            ..full
        };
        Ok(Canvas { grid, pixels })
    }

    fn names(&self, raster: &Raster) -> Vec<String> {
        if let Some(names) = &self.bands {
            return names.clone();
        }
        let all: Vec<&str> = raster.info().bands.iter().map(|band| band.name.as_str()).collect();
        for natural in [["B04", "B03", "B02"], ["red", "green", "blue"]] {
            if natural.iter().all(|name| all.contains(name)) {
                return natural.map(str::to_owned).to_vec();
            }
        }
        let bands: Vec<&str> = all.into_iter().filter(|name| *name != COUNT_BAND).collect();
        let count = if bands.len() >= 3 { 3 } else { 1 };
        bands.into_iter().take(count).map(str::to_owned).collect()
    }
}

/// Width and height that keep the shape and do not exceed `longest`.
fn fitted(width: usize, height: usize, longest: usize) -> (usize, usize) {
    let side = width.max(height);
    if side <= longest {
        return (width, height);
    }
    let scaled = |length: usize| ((length as f64 * longest as f64 / side as f64).round() as usize).max(1);
    (scaled(width), scaled(height))
}

/// Percentiles of the valid pixels of a plane.
fn limits(name: &str, plane: &[f32], percentiles: [f64; 2]) -> BandStretch {
    let mut values: Vec<f32> = plane.iter().copied().filter(|value| value.is_finite()).collect();
    values.sort_by(f32::total_cmp);
    let at = |percentile: f64| {
        let place = percentile / 100.0 * values.len().saturating_sub(1) as f64;
        values.get(place.round() as usize).copied().map_or(0.0, f64::from)
    };
    BandStretch { name: name.to_owned(), low: at(percentiles[0]), high: at(percentiles[1]) }
}

impl Canvas {
    /// Lays probabilities over the picture: the more, the redder.
    fn tint(&mut self, path: &Path) -> Result<(), TaskError> {
        let raster = Raster::open_path(path).map_err(geo_fault)?;
        let info = raster.info();
        let grid = raster.grid().map_err(geo_fault)?;
        if grid.crs != self.grid.crs {
            let message = format!("`{}` lies in {}, the picture in {}", info.name, grid.crs, self.grid.crs);
            return Err(Fault::new("R109", message).help("give probabilities of the same raster").permanent());
        }
        // What both show, in pixels of the picture; the probabilities of exactly that.
        let here = self.grid.window_of(&grid.bounds());
        let there = here.and_then(|here| grid.window_of(&self.grid.crop(&here).bounds()));
        let (Some(here), Some(there)) = (here, there) else {
            let message = format!("`{}` does not lie where the picture does", info.name);
            return Err(Fault::new("R109", message).help("give probabilities of the same raster").permanent());
        };
        let mut plane = vec![0.0_f32; here.len()];
        let size = (here.width, here.height);
        raster.read_resampled(0, &there, size, Resampling::Average, &mut plane).map_err(geo_fault)?;
        to_values(&info.bands[0], &mut plane);
        let rows = self.pixels.chunks_exact_mut(self.grid.width).skip(here.row).take(here.height);
        let pixels = rows.flat_map(|row| &mut row[here.column..here.column + here.width]);
        for (pixel, value) in pixels.zip(plane) {
            if value.is_nan() || pixel[3] == 0 {
                continue;
            }
            let share = 0.7 * value.clamp(0.0, 1.0);
            for (channel, colour) in pixel.iter_mut().zip([255.0, 40.0, 30.0]) {
                *channel = (f32::from(*channel) * (1.0 - share) + colour * share).round() as u8;
            }
        }
        Ok(())
    }

    /// Draws a line around each detection.
    fn outline(&mut self, path: &Path) -> Result<(), TaskError> {
        let text = std::fs::read_to_string(path).map_err(|error| content_fault("the detections", error))?;
        let collection: Value = serde_json::from_str(&text).map_err(|error| content_fault("the detections", error))?;
        let wgs84 = Crs::wgs84().map_err(geo_fault)?;
        let transform = Transform::new(&wgs84, &self.grid.crs).map_err(geo_fault)?;
        let mut shapes = Vec::new();
        for feature in collection["features"].as_array().into_iter().flatten() {
            let geometry = &feature["geometry"];
            if geometry.is_object() {
                let geometry = Geometry::from_geojson(&geometry.to_string()).map_err(geo_fault)?;
                shapes.push(geometry.project(&transform).map_err(geo_fault)?);
            }
        }
        let inside = rasterize(&shapes, &self.grid, true).map_err(geo_fault)?;
        let (width, height) = (self.grid.width as i64, self.grid.height as i64);
        let is_inside = |column: i64, row: i64| {
            (0..width).contains(&column) && (0..height).contains(&row) && inside[(row * width + column) as usize] == 1
        };
        for row in 0..height {
            for column in 0..width {
                // Outside of an object, beside one: the line hides nothing of it.
                let near = [(0, 1), (1, 0), (0, -1), (-1, 0)].iter().any(|(x, y)| is_inside(column + x, row + y));
                if near && !is_inside(column, row) {
                    self.pixels[(row * width + column) as usize] = [255, 225, 0, 255];
                }
            }
        }
        Ok(())
    }

    fn write(&self, path: &Path) -> Result<(), TaskError> {
        let failed = |error: &dyn std::fmt::Display| {
            Fault::new("R111", format!("cannot write `{}`: {error}", path.display())).permanent()
        };
        let file = std::fs::File::create(path).map_err(|error| failed(&error))?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.grid.width as u32, self.grid.height as u32);
        encoder.set_color(png::ColorType::Rgba);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|error| failed(&error))?;
        writer.write_image_data(self.pixels.as_flattened()).map_err(|error| failed(&error))?;
        writer.finish().map_err(|error| failed(&error))
    }
}
