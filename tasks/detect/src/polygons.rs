//! `detect.polygons`: a raster of probabilities to scored polygons.

use std::io::BufWriter;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::Raster;
use swath_kinds::{Cog, DetectionProperties, Detections, ScoreBreakdown};
use swath_task::{Artifact, Bytes, Context, Fault, Needs, Problem, Purity, Task, TaskError};

use crate::candidates::{self, Candidate, Placer, Scoring};
use crate::faults::geo_fault;
use crate::globe;
use crate::merge;
use crate::scan::{Found, Scan, scan};
use crate::trace::{Component, Connectivity, Limits};
use crate::write::{Collection, rounded};

/// Turns a raster of probabilities into detections: what lies above a threshold is gathered into connected areas,
/// outlined along pixel edges, measured on the globe, scored, and merged where several are one object.
///
/// The raster is read once, in strips, on all threads; memory does not grow with it. Areas that cross strips are
/// whole, holes are kept, polygons are valid. No-data and NaN are never inside. The result is GeoJSON in longitude and
/// latitude (RFC 7946), best score first; the id of a detection is made of its class and outline, so that the same
/// object found again has the same id.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Polygons {
    /// Pixels with a probability greater than this are inside.
    #[serde(default = "defaults::threshold")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub threshold: f64,
    /// Which pixels touch: 4 (by edges) or 8 (by corners too; an area held together by corners is one MultiPolygon).
    #[serde(default = "defaults::connectivity")]
    #[schemars(extend("enum" = [4, 8]))]
    pub connectivity: u8,
    /// Band that holds the probabilities: its name, or its number from 1. Not needed when the raster has one band, or
    /// one called `probability`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub band: Option<BandChoice>,
    /// Areas of fewer pixels are noise and dropped.
    #[serde(default = "defaults::min_pixels")]
    #[schemars(range(min = 1))]
    pub min_pixels: u64,
    /// Areas smaller than this many square metres (geodesic) are dropped.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub min_area_m2: f64,
    /// What the three parts of the score weigh. Only their ratio counts.
    #[serde(default)]
    pub weights: Weights,
    /// Area in square kilometres at which the area part of the score is 1; it falls to 0 at no area and at twice this.
    #[serde(default = "defaults::ideal_area_km2")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub ideal_area_km2: f64,
    /// Which detections are one object. The one with the best score stays for all of them.
    #[serde(default)]
    pub merge: Merge,
    /// Straightens outlines: corners that stand out by less than about this many metres are left out, without making
    /// an outline cross itself. 0 keeps every pixel edge. Measures, score and id are those of the pixel edges anyway.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub simplify_m: f64,
    /// What is looked for; part of every detection and of its id.
    #[serde(default = "defaults::class")]
    #[schemars(length(min = 1, max = 200))]
    pub class: String,
    /// More areas than this (noise not counted) are an error: the threshold does not fit the raster.
    #[serde(default = "defaults::max_candidates")]
    #[schemars(range(min = 1))]
    pub max_candidates: u64,
    /// Outlines of more corners than this, all together, are an error: it bounds the memory.
    #[serde(default = "defaults::max_corners")]
    #[schemars(range(min = 4))]
    pub max_corners: u64,
}

/// A band by name, or by number from 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum BandChoice {
    /// Number, from 1.
    Number(u32),
    /// Name.
    Name(String),
}

/// What the parts of the score weigh.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    /// The mean probability inside.
    #[schemars(range(min = 0.0))]
    pub probability: f64,
    /// The compactness (Polsby-Popper, 4 pi area / perimeter^2) of the polygon along pixel edges, in the raster's CRS.
    #[schemars(range(min = 0.0))]
    pub compactness: f64,
    /// The closeness of the area to `ideal_area_km2`.
    #[schemars(range(min = 0.0))]
    pub area: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { probability: 0.6, compactness: 0.2, area: 0.2 }
    }
}

/// How detections of one object are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Merge {
    /// `dbscan`: centroids near each other on the ground; `iou`: bounding boxes that overlap; `none`.
    pub method: MergeMethod,
    /// For `dbscan`: metres over the ground between centroids of neighbours. Neighbours of neighbours belong together.
    #[schemars(range(min = 0.0))]
    pub eps_m: f64,
    /// For `dbscan`: detections within `eps_m`, itself among them, that make one a core. With 1, the usual choice here,
    /// every detection belongs somewhere; with more, lonely ones are noise and dropped.
    #[schemars(range(min = 1))]
    pub min_samples: u32,
    /// For `iou`: a bounding box that overlaps a better one by more than this (intersection over union) joins it.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub iou: f64,
}

impl Default for Merge {
    fn default() -> Self {
        Self { method: MergeMethod::Dbscan, eps_m: 2000.0, min_samples: 1, iou: 0.3 }
    }
}

/// How detections of one object are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MergeMethod {
    /// Density clusters of centroids.
    Dbscan,
    /// Overlap of bounding boxes.
    Iou,
    /// Nothing is merged.
    None,
}

mod defaults {
    pub fn threshold() -> f64 {
        0.5
    }
    pub fn connectivity() -> u8 {
        4
    }
    pub fn min_pixels() -> u64 {
        10
    }
    pub fn ideal_area_km2() -> f64 {
        2.0
    }
    pub fn class() -> String {
        "detection".to_owned()
    }
    pub fn max_candidates() -> u64 {
        200_000
    }
    pub fn max_corners() -> u64 {
        5_000_000
    }
}

impl Default for Polygons {
    fn default() -> Self {
        Self {
            threshold: defaults::threshold(),
            connectivity: defaults::connectivity(),
            band: None,
            min_pixels: defaults::min_pixels(),
            min_area_m2: 0.0,
            weights: Weights::default(),
            ideal_area_km2: defaults::ideal_area_km2(),
            merge: Merge::default(),
            simplify_m: 0.0,
            class: defaults::class(),
            max_candidates: defaults::max_candidates(),
            max_corners: defaults::max_corners(),
        }
    }
}

/// What `detect.polygons` reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// Probabilities, 0 to 1, on a north-up grid with a CRS.
    pub raster: Artifact<Cog>,
}

/// What `detect.polygons` makes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The detections, best score first.
    pub detections: Artifact<Detections>,
    /// How many there are.
    pub count: u64,
}

impl Task for Polygons {
    const NAME: &'static str = "detect.polygons";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut demand = |holds: bool, at: &str, message: String| {
            if !holds {
                problems.push(Problem::new(at, message));
            }
        };
        let weights = [self.weights.probability, self.weights.compactness, self.weights.area];
        let shown = |value: f64| format!("`{value}`");
        demand(
            (0.0..=1.0).contains(&self.threshold),
            "/threshold",
            format!("the threshold {} is not a probability between 0 and 1", shown(self.threshold)),
        );
        demand(
            matches!(self.connectivity, 4 | 8),
            "/connectivity",
            format!("connectivity is 4 or 8, not `{}`", self.connectivity),
        );
        demand(self.min_pixels >= 1, "/min_pixels", "an area has at least 1 pixel".to_owned());
        demand(
            self.min_area_m2 >= 0.0 && self.min_area_m2.is_finite(),
            "/min_area_m2",
            format!("{} is not an area in square metres", shown(self.min_area_m2)),
        );
        demand(
            self.ideal_area_km2 > 0.0 && self.ideal_area_km2.is_finite(),
            "/ideal_area_km2",
            format!("the ideal area {} is not greater than 0", shown(self.ideal_area_km2)),
        );
        demand(
            weights.iter().all(|weight| *weight >= 0.0 && weight.is_finite()),
            "/weights",
            "weights are numbers from 0 up".to_owned(),
        );
        demand(weights.iter().sum::<f64>() > 0.0, "/weights", "at least one weight is greater than 0".to_owned());
        demand(
            self.merge.eps_m >= 0.0 && self.merge.eps_m.is_finite(),
            "/merge/eps_m",
            format!("{} is not a distance in metres", shown(self.merge.eps_m)),
        );
        demand(self.merge.min_samples >= 1, "/merge/min_samples", "a core has at least 1 sample: itself".to_owned());
        demand(
            (0.0..=1.0).contains(&self.merge.iou),
            "/merge/iou",
            format!("{} is not an overlap between 0 and 1", shown(self.merge.iou)),
        );
        demand(
            self.simplify_m >= 0.0 && self.simplify_m.is_finite(),
            "/simplify_m",
            format!("{} is not a length in metres", shown(self.simplify_m)),
        );
        demand(
            !self.class.trim().is_empty() && self.class.len() <= 200,
            "/class",
            "the class is a name of at most 200 bytes".to_owned(),
        );
        demand(self.max_candidates >= 1, "/max_candidates", "at least 1 candidate must be allowed".to_owned());
        demand(self.max_corners >= 4, "/max_corners", "a polygon has at least 4 corners".to_owned());
        demand(!matches!(self.band, Some(BandChoice::Number(0))), "/band", "bands are counted from 1".to_owned());
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(Bytes::mib(512))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let path = ctx.locate(&inputs.raster).await?;
        let draft = ctx.draft::<Detections>("detections.geojson")?;
        let (task, target) = (self.clone(), draft.path().to_owned());
        let count = ctx.blocking(move |ctx| task.detect(&path, &target, ctx)).await?;
        Ok(Outputs { detections: draft.commit().await?, count })
    }
}

impl Polygons {
    /// Reads the raster at `path` and writes its detections to `target`. Returns how many there are.
    pub fn detect(&self, path: &Path, target: &Path, ctx: &Context) -> Result<u64, TaskError> {
        let raster = Raster::open_path(path).map_err(geo_fault)?;
        let grid = raster.grid().map_err(geo_fault)?;
        let band = self.choose_band(&raster)?;
        drop(raster);
        let pixel_area = grid.metres().0 * grid.metres().1;
        // No projection in use shrinks areas by half: what is dropped early would have been dropped anyway.
        let certainly = if grid.crs.is_geographic() { 0.0 } else { self.min_area_m2 / pixel_area / 2.0 };
        let found = scan(
            &Scan {
                path,
                band,
                threshold: self.threshold as f32,
                connectivity: if self.connectivity == 8 { Connectivity::Eight } else { Connectivity::Four },
                limits: Limits {
                    min_pixels: self.min_pixels.max(certainly as u64),
                    candidates: self.max_candidates,
                    corners: self.max_corners,
                },
            },
            ctx,
        )?;
        let Found { components, all, valid } = found;
        if valid == 0 {
            tracing::warn!(raster = %path.display(), "the raster holds no value at all: every pixel is no-data or NaN");
        }
        let scoring = Scoring {
            probability: self.weights.probability,
            compactness: self.weights.compactness,
            area: self.weights.area,
            ideal_area: self.ideal_area_km2 * 1e6,
        };
        let mut candidates = candidates::measure(&components, &grid, &scoring, &self.class, ctx)?;
        candidates.retain(|candidate| candidate.area >= self.min_area_m2);
        candidates.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        let merged = self.merged(&candidates, &components);
        self.tell_losses(&merged, &candidates);
        ctx.metric("components", all as f64);
        ctx.metric("candidates", candidates.len() as f64);
        ctx.metric("detections", merged.len() as f64);
        self.write(&merged, &candidates, &components, &Placer::new(&grid)?, target, ctx)?;
        Ok(merged.len() as u64)
    }

    /// Merging by distance keeps one detection of each neighbourhood: right for sites, and a surprise for lakes.
    fn tell_losses(&self, merged: &[(usize, u64)], candidates: &[Candidate]) {
        let all: f64 = candidates.iter().map(|candidate| candidate.area).sum();
        let kept: f64 = merged.iter().map(|(at, _)| candidates[*at].area).sum();
        if kept < all / 2.0 {
            let share = (100.0 * (1.0 - kept / all)).round();
            tracing::warn!(
                "{} areas became {} detections, and {share} % of their area is left out: `merge: {{ method: none }}` keeps all",
                candidates.len(),
                merged.len()
            );
        }
    }

    fn choose_band(&self, raster: &Raster) -> Result<usize, TaskError> {
        let info = raster.info();
        let listed = || {
            let names = info.bands.iter().enumerate().map(|(index, band)| match band.name.as_str() {
                "" => format!("{}", index + 1),
                name => format!("{} (`{name}`)", index + 1),
            });
            names.collect::<Vec<_>>().join(", ")
        };
        let found = match &self.band {
            Some(BandChoice::Number(number)) => (*number as usize).checked_sub(1).filter(|at| *at < info.bands.len()),
            Some(BandChoice::Name(name)) => info.bands.iter().position(|band| band.name == *name),
            None if info.bands.len() == 1 => Some(0),
            None => info.bands.iter().position(|band| band.name == "probability"),
        };
        found.ok_or_else(|| {
            let message = match &self.band {
                Some(BandChoice::Number(number)) => format!("`{}` has no band {number}", info.name),
                Some(BandChoice::Name(name)) => format!("`{}` has no band `{name}`", info.name),
                None => format!("`{}` has {} bands and none is called `probability`", info.name, info.bands.len()),
            };
            Fault::new("D103", message).help(format!("set `band` to one of its bands: {}", listed())).permanent()
        })
    }

    /// The candidates that stay, by their place in the list, and for how many each stands. `candidates` is sorted, best
    /// first: the first of a cluster is its best.
    fn merged(&self, candidates: &[Candidate], components: &[Component]) -> Vec<(usize, u64)> {
        let stands_for: Vec<Option<usize>> = match self.merge.method {
            MergeMethod::None => (0..candidates.len()).map(Some).collect(),
            MergeMethod::Iou => {
                let boxes: Vec<_> = candidates.iter().map(|candidate| components[candidate.component].bounds).collect();
                merge::suppress(&boxes, self.merge.iou).into_iter().map(Some).collect()
            }
            MergeMethod::Dbscan => {
                let places: Vec<_> = candidates.iter().map(|c| (c.centroid[0], c.centroid[1])).collect();
                let clusters = merge::dbscan(&places, self.merge.eps_m, self.merge.min_samples as usize);
                let mut best = std::collections::HashMap::new();
                clusters.iter().enumerate().map(|(at, c)| c.map(|cluster| *best.entry(cluster).or_insert(at))).collect()
            }
        };
        let mut counts = vec![0; candidates.len()];
        stands_for.iter().flatten().for_each(|&best| counts[best] += 1);
        counts.into_iter().enumerate().filter(|(_, count)| *count > 0).collect()
    }

    fn write(
        &self,
        merged: &[(usize, u64)],
        candidates: &[Candidate],
        components: &[Component],
        placer: &Placer,
        target: &Path,
        ctx: &Context,
    ) -> Result<(), TaskError> {
        let failed = |error: std::io::Error| {
            Fault::new("D110", format!("cannot write `{}`: {error}", target.display()))
                .help("free disk space or set `--home` to a disk that has some")
                .transient(None)
        };
        let out = BufWriter::new(std::fs::File::create(target).map_err(failed)?);
        let mut collection = Collection::new(out).map_err(failed)?;
        for &(at, count) in merged {
            ctx.check_cancelled()?;
            let candidate = &candidates[at];
            let component = &components[candidate.component];
            let placed = placer.place_simplified(component, self.simplify_m)?;
            let properties = DetectionProperties {
                class: self.class.clone(),
                score: rounded(candidate.score, 1e6),
                mean_probability: rounded(candidate.mean, 1e6),
                max_probability: rounded(f64::from(component.max), 1e6),
                area_m2: rounded(candidate.area, 1e2),
                perimeter_m: rounded(candidate.perimeter, 1e2),
                compactness: rounded(candidate.compactness, 1e6),
                pixels: component.pixels,
                longitude: rounded(candidate.centroid[0], 1e8),
                latitude: rounded(candidate.centroid[1], 1e8),
                merged: count,
            };
            let breakdown = ScoreBreakdown {
                probability: rounded(candidate.breakdown.probability, 1e6),
                compactness: rounded(candidate.breakdown.compactness, 1e6),
                area: rounded(candidate.breakdown.area, 1e6),
            };
            collection.push(&candidate.id, &properties, breakdown, globe::rfc7946(placed)).map_err(failed)?;
        }
        collection.finish().map_err(failed).map(drop)
    }
}
