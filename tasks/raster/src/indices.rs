//! `raster.indices`: spectral indices appended to a composite.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::{BandSpec, CogOptions, CogWriter, Overviews, Raster};
use swath_kinds::Cog;
use swath_task::{Artifact, Context, Draft, Needs, Problem, Purity, Task, TaskError};

use crate::bands::aliases;
use crate::composite::COUNT_BAND;
use crate::expression::Expression;
use crate::faults::geo_fault;
use crate::values::{MEMORY, map_tiles, no_band, read_values};

/// Appends spectral indices to a raster, computed on its values (reflectance), before any stretch.
///
/// Known by name: `NDVI` vegetation, `NDWI` water (McFeeters), `NDBI` built-up, `BSI` bare soil. Any other is given as a
/// name and an expression of band names. Where a band holds no data, or a division is 0/0 or by 0, the index is no-data.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Indices {
    /// The indices, in order.
    #[serde(default = "all_known")]
    #[schemars(length(min = 1))]
    pub indices: Vec<Index>,
}

/// An index.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Index {
    /// By name.
    Known(KnownIndex),
    /// By expression.
    Custom(CustomIndex),
}

/// Indices known by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum KnownIndex {
    /// Vegetation: (B08 - B04) / (B08 + B04).
    #[serde(rename = "NDVI")]
    Ndvi,
    /// Open water: (B03 - B08) / (B03 + B08).
    #[serde(rename = "NDWI")]
    Ndwi,
    /// Built-up land: (B11 - B08) / (B11 + B08).
    #[serde(rename = "NDBI")]
    Ndbi,
    /// Bare soil: ((B11 + B04) - (B08 + B02)) / ((B11 + B04) + (B08 + B02)).
    #[serde(rename = "BSI")]
    Bsi,
}

/// An index of one's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomIndex {
    /// Name of the new band.
    pub name: String,
    /// Arithmetic on band names: `+ - * /`, parentheses, `abs`, `sqrt`, `log10`, `exp`, `min`, `max`.
    pub expression: String,
}

impl Index {
    fn name(&self) -> &str {
        match self {
            Self::Known(KnownIndex::Ndvi) => "NDVI",
            Self::Known(KnownIndex::Ndwi) => "NDWI",
            Self::Known(KnownIndex::Ndbi) => "NDBI",
            Self::Known(KnownIndex::Bsi) => "BSI",
            Self::Custom(custom) => &custom.name,
        }
    }

    fn expression(&self) -> &str {
        match self {
            Self::Known(KnownIndex::Ndvi) => "(B08 - B04) / (B08 + B04)",
            Self::Known(KnownIndex::Ndwi) => "(B03 - B08) / (B03 + B08)",
            Self::Known(KnownIndex::Ndbi) => "(B11 - B08) / (B11 + B08)",
            Self::Known(KnownIndex::Bsi) => "((B11 + B04) - (B08 + B02)) / ((B11 + B04) + (B08 + B02))",
            Self::Custom(custom) => &custom.expression,
        }
    }
}

fn all_known() -> Vec<Index> {
    [KnownIndex::Ndvi, KnownIndex::Ndwi, KnownIndex::Ndbi, KnownIndex::Bsi].map(Index::Known).to_vec()
}

/// What indices are computed from.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// A raster with named bands.
    pub raster: Artifact<Cog>,
}

/// What indices make.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// All bands of the raster, then the indices; `count` stays last.
    pub raster: Artifact<Cog>,
}

impl Task for Indices {
    const NAME: &'static str = "raster.indices";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if self.indices.is_empty() {
            problems.push(Problem::new("/indices", "at least one index is needed"));
        }
        for (at, index) in self.indices.iter().enumerate() {
            if self.indices[..at].iter().any(|other| other.name() == index.name()) {
                problems.push(Problem::new(format!("/indices/{at}"), format!("`{}` is listed twice", index.name())));
            }
            if let Index::Custom(custom) = index {
                let parsed = Expression::parse(&custom.expression);
                let place = format!("/indices/{at}/expression");
                match parsed {
                    Err(why) => problems.push(Problem::new(place, why)),
                    Ok(parsed) if parsed.bands().is_empty() => {
                        problems.push(Problem::new(place, "it names no band"));
                    }
                    Ok(_) => {}
                }
                if custom.name.is_empty() || custom.name == COUNT_BAND {
                    let message = format!("`{}` cannot be the name of an index", custom.name);
                    problems.push(Problem::new(format!("/indices/{at}/name"), message));
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(MEMORY)
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let path = ctx.locate(&inputs.raster).await?;
        let draft: Draft<Cog> = ctx.draft("indices.tif")?;
        let (task, out) = (self.clone(), draft.path().to_owned());
        ctx.blocking(move |ctx| task.compute(&path, &out, ctx)).await?;
        Ok(Outputs { raster: draft.commit().await? })
    }
}

impl Indices {
    fn compute(&self, path: &std::path::Path, out: &std::path::Path, ctx: &Context) -> Result<(), TaskError> {
        let raster = Raster::open_path(path).map_err(geo_fault)?;
        let info = raster.info();
        let mut expressions = Vec::new();
        for index in &self.indices {
            let parsed = Expression::parse(index.expression()).map_err(|why| {
                swath_task::Fault::new("R123", format!("`{}` is no expression: {why}", index.expression())).permanent()
            })?;
            expressions.push((index.name(), parsed));
        }
        // A band by its name, or by any other name of the same band.
        let find = |name: &str| {
            let by = |name: &str| info.bands.iter().position(|band| band.name.eq_ignore_ascii_case(name));
            by(name).or_else(|| aliases(name).find_map(by))
        };
        let needed: std::collections::BTreeSet<&str> = expressions.iter().flat_map(|(_, e)| e.bands()).collect();
        let missing: Vec<&str> = needed.iter().copied().filter(|name| find(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(no_band(&raster, &missing));
        }
        // `count` stays last, so that the bands before it are those a network may read.
        let count = info.bands.iter().position(|band| band.name == COUNT_BAND);
        let kept: Vec<usize> = (0..info.bands.len()).filter(|index| Some(*index) != count).collect();
        if let Some((name, _)) = expressions.iter().find(|(name, _)| kept.iter().any(|i| info.bands[*i].name == *name))
        {
            let message = format!("`{}` has a band `{name}` already", info.name);
            return Err(swath_task::Fault::new("R123", message).help("give the index another name").permanent());
        }
        let mut bands: Vec<BandSpec> = kept.iter().map(|index| BandSpec::new(&info.bands[*index].name)).collect();
        bands.extend(expressions.iter().map(|(name, _)| BandSpec::new(*name)));
        bands.extend(count.map(|_| BandSpec { overviews: Overviews::Nearest, ..BandSpec::new(COUNT_BAND) }));
        let mut options = CogOptions::new(bands, Some(f64::NAN));
        options.level = 1;
        let writer = CogWriter::create(out, &raster.grid().map_err(geo_fault)?, options).map_err(geo_fault)?;
        // An expression holds some planes of doubles while it is evaluated.
        let planes = kept.len() + expressions.len() + 1 + 8;
        map_tiles(path, writer, planes, ctx, |raster, window| {
            let length = window.len();
            let mut planes = vec![0.0_f32; length * (kept.len() + expressions.len() + usize::from(count.is_some()))];
            let (read, rest) = planes.split_at_mut(length * kept.len());
            for (band, plane) in kept.iter().zip(read.chunks_exact_mut(length)) {
                read_values(raster, *band, window, plane)?;
            }
            let mut rest = rest.chunks_exact_mut(length);
            for (_, expression) in &expressions {
                let plane = |name: &str| {
                    let place = find(name).and_then(|band| kept.iter().position(|kept| *kept == band)).unwrap_or(0);
                    &read[place * length..][..length]
                };
                let values = expression.evaluate(length, &plane);
                for (slot, value) in rest.next().into_iter().flatten().zip(values) {
                    *slot = if value.is_finite() { value as f32 } else { f32::NAN };
                }
            }
            if let (Some(band), Some(plane)) = (count, rest.next()) {
                read_values(raster, band, window, plane)?;
            }
            Ok(planes)
        })
    }
}
