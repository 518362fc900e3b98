//! `raster.normalise`: one percentile stretch for a whole raster.
//!
//! Percentiles are exact: floats are ordered by their bits, a first pass counts their upper 16 bits, a second one the
//! lower 16 bits of those few classes in which the wanted ranks fall. Memory does not depend on the raster.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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

/// The order of floats as the order of unsigned integers.
fn key(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn value_of(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// Exact percentiles of each named band over the whole raster.
fn compute(path: &Path, names: &[String], percentiles: [f64; 2], ctx: &Context) -> Result<Stretch, TaskError> {
    let raster = Raster::open_path(path).map_err(geo_fault)?;
    let indices = band_indices(&raster, names)?;
    let windows = strips(raster.info().width, raster.info().height);
    let mut limits = Vec::new();
    // One band at a time: its counts are 512 KiB a thread, and its pixels are read once for each pass.
    for (name, band) in names.iter().zip(&indices) {
        let count_upper = |counts: &mut Vec<u64>, value: f32| counts[(key(value) >> 16) as usize] += 1;
        let upper = count(path, &windows, *band, 1 << 16, ctx, count_upper)?;
        let total: u64 = upper.iter().sum();
        if total == 0 {
            let message =
                format!("band `{name}` of `{}` has no valid pixel to take percentiles of", raster.info().name);
            return Err(Fault::new("R124", message)
                .help("check the mask and the period of the composite: nothing in it is clear")
                .permanent());
        }
        let ranks: Vec<(u64, f64)> = percentiles
            .iter()
            .map(|percentile| {
                let place = percentile / 100.0 * (total - 1) as f64;
                (place.floor() as u64, place - place.floor())
            })
            .collect();
        let wanted: Vec<u64> = ranks.iter().flat_map(|(rank, _)| [*rank, (rank + 1).min(total - 1)]).collect();
        // The class of upper bits in which each rank falls, and its rank within that class.
        let places: Vec<(u32, u64)> = wanted.iter().map(|rank| class_of(&upper, *rank)).collect();
        let mut classes: Vec<u32> = places.iter().map(|(class, _)| *class).collect();
        classes.sort_unstable();
        classes.dedup();
        let lower = count(path, &windows, *band, classes.len() << 16, ctx, |counts: &mut Vec<u64>, value: f32| {
            let key = key(value);
            if let Ok(slot) = classes.binary_search(&(key >> 16)) {
                counts[slot << 16 | (key & 0xFFFF) as usize] += 1;
            }
        })?;
        let exact: Vec<f64> = places
            .iter()
            .map(|(class, rank)| {
                let slot = classes.binary_search(class).unwrap_or(0);
                let (low, _) = class_of(&lower[slot << 16..(slot + 1) << 16], *rank);
                f64::from(value_of(class << 16 | low))
            })
            .collect();
        // numpy's linear interpolation, which leans on the nearer of the two values.
        let interpolate = |a: f64, b: f64, t: f64| if t < 0.5 { a + (b - a) * t } else { b - (b - a) * (1.0 - t) };
        limits.push(BandStretch {
            name: name.clone(),
            low: interpolate(exact[0], exact[1], ranks[0].1),
            high: interpolate(exact[2], exact[3], ranks[1].1),
        });
    }
    Ok(Stretch { percentiles, bands: limits })
}

/// The class that holds a rank, and the rank within it.
fn class_of(counts: &[u64], mut rank: u64) -> (u32, u64) {
    for (class, count) in counts.iter().enumerate() {
        if rank < *count {
            return (class as u32, rank);
        }
        rank -= count;
    }
    (counts.len() as u32 - 1, 0)
}

fn count(
    path: &Path,
    windows: &[PixelWindow],
    band: usize,
    size: usize,
    ctx: &Context,
    add: impl Fn(&mut Vec<u64>, f32) + Sync,
) -> Result<Vec<u64>, TaskError> {
    let states = each_window(
        path,
        windows,
        ctx,
        "strips",
        MEMORY.0,
        (size * size_of::<u64>() + STRIP.0 * STRIP.1 * size_of::<f32>()) as u64,
        || vec![0_u64; size],
        |counts, raster, window| {
            let mut values = vec![0.0; window.len()];
            read_values(raster, band, window, &mut values)?;
            values.into_iter().filter(|value| value.is_finite()).for_each(|value| add(counts, value));
            Ok(())
        },
    )?;
    let mut all = vec![0; size];
    for state in states {
        all.iter_mut().zip(state).for_each(|(sum, count)| *sum += count);
    }
    Ok(all)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_order_as_keys() {
        let values = [f32::MIN, -1.5, -1e-30, -0.0, 0.0, 1e-30, 0.2, 0.200_000_02, f32::MAX];
        for pair in values.windows(2) {
            assert!(key(pair[0]) < key(pair[1]) || pair[0] == pair[1], "{pair:?}");
            assert_eq!(value_of(key(pair[0])), pair[0]);
        }
    }
}
