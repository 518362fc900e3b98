//! `raster.normalise`: one percentile stretch for a whole raster.
//!
//! Percentiles are exact (`swath_geo::percentiles`): two passes over each band. Memory does not depend on the raster.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::percentiles::{Coarse, Fine};
use swath_geo::{BandSpec, CogOptions, CogWriter, PixelWindow, Raster};
use swath_kinds::{BandStretch, Cog, Stretch, StretchFile};
use swath_task::{Artifact, Context, Draft, Fault, Needs, Problem, Purity, Task, TaskError};

use crate::composite::COUNT_BAND;
use crate::faults::{content_fault, geo_fault};
use crate::values::{MEMORY, band_indices, each_window, map_tiles, read_values};

/// Stretches bands to 0..1 between two percentiles, computed once over the whole raster and stored beside it.
///
/// Training and inference share the stored stretch, and no tile has limits of its own: there are no seams. Given a
/// stretch, it is applied and none is computed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalise {
    /// Bands of the result, in order; all but `count` when absent. Indices may be left out here.
    #[serde(default)]
    pub bands: Option<Vec<String>>,
    /// The percentiles that become 0 and 1, as numpy's `percentile` has them (linear interpolation).
    #[serde(default = "default_percentiles")]
    pub percentiles: [f64; 2],
}

fn default_percentiles() -> [f64; 2] {
    [2.0, 98.0]
}

/// What a stretch is computed from.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// A raster with named bands.
    pub raster: Artifact<Cog>,
    /// A stretch made before, to apply as it is.
    #[serde(default)]
    pub stretch: Option<Artifact<StretchFile>>,
}

/// What a stretch makes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The bands stretched to 0..1.
    pub raster: Artifact<Cog>,
    /// The limits of each band.
    pub stretch: Artifact<StretchFile>,
}

impl Task for Normalise {
    const NAME: &'static str = "raster.normalise";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let [low, high] = self.percentiles;
        let mut problems = Vec::new();
        if !(0.0 <= low && low < high && high <= 100.0) {
            let message = format!("[{low}, {high}] are not two rising percentiles from 0 to 100");
            problems.push(Problem::new("/percentiles", message));
        }
        if self.bands.as_ref().is_some_and(Vec::is_empty) {
            problems.push(Problem::new("/bands", "at least one band is needed"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(MEMORY)
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let path = ctx.locate(&inputs.raster).await?;
        let given = match &inputs.stretch {
            Some(stretch) => Some(ctx.locate(stretch).await?),
            None => None,
        };
        let draft: Draft<Cog> = ctx.draft("normalised.tif")?;
        let stretch_draft: Draft<StretchFile> = ctx.draft("stretch.json")?;
        let (task, out, stretch_out) = (self.clone(), draft.path().to_owned(), stretch_draft.path().to_owned());
        ctx.blocking(move |ctx| {
            let names = task.names(&path)?;
            let stretch = match given {
                Some(given) => read_stretch(&given, &names)?,
                None => compute(&path, &names, task.percentiles, ctx)?,
            };
            apply(&path, &out, &stretch, ctx)?;
            let json = serde_json::to_vec_pretty(&stretch).map_err(|error| content_fault("the stretch", error))?;
            std::fs::write(&stretch_out, json).map_err(|error| {
                Fault::new("R111", format!("cannot write `{}`: {error}", stretch_out.display())).permanent()
            })
        })
        .await?;
        Ok(Outputs { raster: draft.commit().await?, stretch: stretch_draft.commit().await? })
    }
}

impl Normalise {
    fn names(&self, path: &Path) -> Result<Vec<String>, TaskError> {
        if let Some(names) = &self.bands {
            return Ok(names.clone());
        }
        let raster = Raster::open_path(path).map_err(geo_fault)?;
        Ok(raster.info().bands.iter().map(|band| band.name.clone()).filter(|name| name != COUNT_BAND).collect())
    }
}

/// The limits of the named bands from a stretch file.
pub fn read_stretch(path: &Path, names: &[String]) -> Result<Stretch, TaskError> {
    let text = std::fs::read_to_string(path).map_err(|error| content_fault("the stretch", error))?;
    let stretch: Stretch = serde_json::from_str(&text).map_err(|error| content_fault("the stretch", error))?;
    let mut bands = Vec::new();
    for name in names {
        let found = stretch.bands.iter().find(|band| band.name == *name).cloned().ok_or_else(|| {
            let known: Vec<&str> = stretch.bands.iter().map(|band| band.name.as_str()).collect();
            let message = format!("the stretch has no limits for band `{name}`; it has: {}", known.join(", "));
            Fault::new("R123", message).help("compute a stretch over these bands").permanent()
        })?;
        bands.push(found);
    }
    Ok(Stretch { percentiles: stretch.percentiles, bands })
}

/// Exact percentiles of each named band over the whole raster.
fn compute(path: &Path, names: &[String], percentiles: [f64; 2], ctx: &Context) -> Result<Stretch, TaskError> {
    let raster = Raster::open_path(path).map_err(geo_fault)?;
    let indices = band_indices(&raster, names)?;
    let windows = strips(raster.info().width, raster.info().height);
    let mut limits = Vec::new();
    // One band at a time: its counts are 512 KiB a thread, and its pixels are read once for each pass.
    for (name, band) in names.iter().zip(&indices) {
        let coarse = count(path, &windows, *band, 1 << 19, ctx, Coarse::default, Coarse::add)?;
        let coarse = coarse.into_iter().reduce(|mut all, part| {
            all.join(&part);
            all
        });
        let coarse = coarse.unwrap_or_default();
        if coarse.total() == 0 {
            let message =
                format!("band `{name}` of `{}` has no valid pixel to take percentiles of", raster.info().name);
            return Err(Fault::new("R124", message)
                .help("check the mask and the period of the composite: nothing in it is clear")
                .permanent());
        }
        let ranks = coarse.ranks(&percentiles);
        let mut fine = ranks.fine();
        for part in count(path, &windows, *band, fine.bytes(), ctx, || ranks.fine(), Fine::add)? {
            fine.join(&part);
        }
        let values = ranks.values(&fine);
        limits.push(BandStretch { name: name.clone(), low: values[0], high: values[1] });
    }
    Ok(Stretch { percentiles, bands: limits })
}

/// Counts the values of a band on several threads, each for itself in `bytes` of memory.
fn count<S: Send>(
    path: &Path,
    windows: &[PixelWindow],
    band: usize,
    bytes: usize,
    ctx: &Context,
    start: impl Fn() -> S + Sync,
    add: impl Fn(&mut S, f32) + Sync,
) -> Result<Vec<S>, TaskError> {
    each_window(
        path,
        windows,
        ctx,
        "strips",
        MEMORY.0,
        (bytes + STRIP.0 * STRIP.1 * size_of::<f32>()) as u64,
        start,
        |counts, raster, window| {
            let mut values = vec![0.0; window.len()];
            read_values(raster, band, window, &mut values)?;
            values.into_iter().filter(|value| value.is_finite()).for_each(|value| add(counts, value));
            Ok(())
        },
    )
}

/// Width and height of a strip.
const STRIP: (usize, usize) = (4096, 512);

/// Windows of at most [`STRIP`] pixels that cover a raster.
fn strips(width: usize, height: usize) -> Vec<PixelWindow> {
    let mut windows = Vec::new();
    for row in (0..height).step_by(STRIP.1) {
        for column in (0..width).step_by(STRIP.0) {
            windows.push(PixelWindow::new(column, row, STRIP.0.min(width - column), STRIP.1.min(height - row)));
        }
    }
    windows
}

fn apply(path: &Path, out: &Path, stretch: &Stretch, ctx: &Context) -> Result<(), TaskError> {
    let raster = Raster::open_path(path).map_err(geo_fault)?;
    let names: Vec<String> = stretch.bands.iter().map(|band| band.name.clone()).collect();
    let indices = band_indices(&raster, &names)?;
    let mut options = CogOptions::new(names.iter().map(BandSpec::new).collect(), Some(f64::NAN));
    options.level = 1;
    options.metadata =
        vec![("SWATH_PERCENTILES".into(), format!("{} {}", stretch.percentiles[0], stretch.percentiles[1]))];
    let writer = CogWriter::create(out, &raster.grid().map_err(geo_fault)?, options).map_err(geo_fault)?;
    map_tiles(path, writer, indices.len(), ctx, |raster, window| {
        let mut planes = vec![0.0; window.len() * indices.len()];
        for ((band, limits), plane) in indices.iter().zip(&stretch.bands).zip(planes.chunks_exact_mut(window.len())) {
            read_values(raster, *band, window, plane)?;
            plane.iter_mut().for_each(|value| *value = stretched(*value, limits));
        }
        Ok(planes)
    })
}

/// `clamp((x - low) / (high - low), 0, 1)`; a band of one value becomes 0; NaN stays.
pub fn stretched(value: f32, limits: &BandStretch) -> f32 {
    let range = limits.high - limits.low;
    if value.is_nan() || range > 0.0 { ((f64::from(value) - limits.low) / range).clamp(0.0, 1.0) as f32 } else { 0.0 }
}
