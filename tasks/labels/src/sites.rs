//! `labels.sites`: known sites to a mask.

use std::path::{Path, PathBuf};

use geo::{Geometry, Point};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::{Crs, Grid, PixelWindow, Raster, TILE, Transform};
use swath_kinds::{Cog, Distance};
use swath_task::{Artifact, Context, Draft, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::faults::{fault, geo_fault};
use crate::places::{self, Site, sound};
use crate::tiles::{MEMORY, positive_share, write_label};
use crate::zones::{BLOCK_MEMORY, Zone, label, near};

/// Makes a mask of known sites on the grid of a raster: 1 within a buffer around each, 0.5 in a ring around the buffer, where it
/// is not known, 0 elsewhere.
///
/// Buffers are geodesic (Karney 2013, WGS 84): round on the ground and of the same size at every latitude, in whatever CRS the
/// raster has, across zones and the antimeridian. The centre of a pixel decides. Where the raster has no data, in any band but
/// `count`, the mask has none.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelSites {
    /// The sites: `[{"name", "lon", "lat"}]`, the same under `"sites"`, GeoJSON, or a GeoPackage, Shapefile, FlatGeobuf or KML file
    /// in any CRS. A site may have a buffer of its own: `buffer_km`, `buffer_m`, or `buffer` with a unit. Points, lines
    /// and polygons are taken.
    pub sites: LocalPath,
    /// Layer of the file, where it has several.
    #[serde(default)]
    pub layer: Option<String>,
    /// Buffer around sites that have none of their own: `2 km`.
    #[serde(default = "two_kilometres")]
    pub buffer: Distance,
    /// Width of the ambiguous ring around a buffer; `0` for none.
    #[serde(default = "half_a_kilometre")]
    pub ring: Distance,
    /// Makes a mask without any site, too, where none lies on the raster: for areas of negatives only.
    #[serde(default)]
    pub allow_none: bool,
}

fn two_kilometres() -> Distance {
    Distance::kilometres(2.0)
}

fn half_a_kilometre() -> Distance {
    Distance::metres(500.0)
}

/// What is labelled.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// A raster, on whose grid the mask lies.
    pub raster: Artifact<Cog>,
}

/// A mask.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The mask: 0, 0.5 and 1, NaN for no data.
    pub label: Artifact<Cog>,
    /// Sites whose buffer or ring touches the raster, whether it has data there or not.
    pub sites: u64,
    /// Share of the pixels with data that lie in a buffer.
    pub positive_share: f64,
}

impl Task for LabelSites {
    const NAME: &'static str = "labels.sites";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if !sound(self.buffer) {
            let message = format!("a buffer of {} is not larger than 0 and at most 500 km", self.buffer);
            problems.push(Problem::new("/buffer", message).help("write `2 km`, or `500 m`"));
        }
        if !(0.0..=500_000.0).contains(&self.ring.metres) {
            let message = format!("a ring of {} is not between 0 and 500 km wide", self.ring);
            problems.push(Problem::new("/ring", message).help("write `500 m`, or `0` for none"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(MEMORY)
    }

    fn reads(&self) -> Vec<PathBuf> {
        places::files(&self.sites.0)
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let raster = ctx.locate(&inputs.raster).await?;
        let draft: Draft<Cog> = ctx.draft("label.tif")?;
        let (task, out) = (self.clone(), draft.path().to_owned());
        let (sites, share) = ctx.blocking(move |ctx| task.draw(&raster, &out, ctx)).await?;
        ctx.metric("sites", sites as f64);
        ctx.metric("positive_share", share);
        Ok(Outputs { label: draft.commit().await?, sites, positive_share: share })
    }
}

impl LabelSites {
    fn draw(&self, raster: &Path, out: &Path, ctx: &Context) -> Result<(u64, f64), TaskError> {
        let sites = places::read(&self.sites.0, self.layer.as_deref())?;
        let grid = Raster::open_path(raster).and_then(|raster| raster.grid()).map_err(geo_fault)?;
        let zones = self.zones(&sites)?;
        let all = near(&zones.iter().collect::<Vec<_>>(), &grid, &to_degrees(&grid.crs)?);
        if !self.allow_none && !on_grid(&all, &grid)? {
            return Err(self.nowhere(&sites, raster, &grid));
        }
        let metadata = vec![
            ("LABEL".to_owned(), "sites".to_owned()),
            ("BUFFER_M".to_owned(), self.buffer.metres.to_string()),
            ("RING_M".to_owned(), self.ring.metres.to_string()),
        ];
        let start = |grid: &Grid| to_degrees(&grid.crs);
        let work = |transform: &mut Transform, tile: &Grid| Ok(label(&all, self.ring.metres, tile, transform));
        let counts = write_label(raster, out, metadata, (MEMORY, BLOCK_MEMORY), ctx, start, work)?;
        let touched = zones.iter().filter(|zone| zone.touched()).count() as u64;
        if touched == 0 && !self.allow_none {
            return Err(self.nowhere(&sites, raster, &grid));
        }
        Ok((touched, positive_share(&counts).1))
    }

    fn zones(&self, sites: &[Site]) -> Result<Vec<Zone>, TaskError> {
        sites.iter().map(|site| Zone::new(site, self.buffer.metres, self.ring.metres)).collect()
    }

    /// The fault of sites that all lie elsewhere; tells when they would not with their coordinates swapped.
    fn nowhere(&self, sites: &[Site], raster: &Path, grid: &Grid) -> TaskError {
        let swapped = sites.iter().filter_map(|site| match site.shape {
            Geometry::Point(point) if point.x().abs() <= 90.0 => {
                Some(Site { shape: Point::new(point.y(), point.x()).into(), ..site.clone() })
            }
            _ => None,
        });
        let swapped = self.zones(&swapped.collect::<Vec<_>>()).unwrap_or_default();
        let would = on_grid(&swapped.iter().collect::<Vec<_>>(), grid).unwrap_or(false);
        let message =
            format!("none of the {} sites of `{}` lies on `{}`", sites.len(), self.sites.0.display(), raster.display());
        let help = if would {
            "some would with longitude and latitude swapped: `lon` is east, `lat` is north"
        } else {
            "compare the sites with the area of the raster; set `allow_none` where none is expected"
        };
        fault("L104", message, help)
    }
}

fn to_degrees(crs: &Crs) -> Result<Transform, TaskError> {
    Transform::new(crs, &Crs::wgs84().map_err(geo_fault)?).map_err(geo_fault)
}

/// Whether one of the zones may touch a tile of the grid.
fn on_grid(zones: &[&Zone], grid: &Grid) -> Result<bool, TaskError> {
    let transform = to_degrees(&grid.crs)?;
    Ok(tiles(grid).iter().any(|tile| !near(zones, tile, &transform).is_empty()))
}

/// The grid in pieces of the size of a tile.
fn tiles(grid: &Grid) -> Vec<Grid> {
    let rows = (0..grid.height).step_by(TILE);
    let windows = rows.flat_map(|row| (0..grid.width).step_by(TILE).map(move |column| (column, row)));
    let size = |start: usize, length: usize| TILE.min(length - start);
    windows
        .map(|(column, row)| {
            grid.crop(&PixelWindow::new(column, row, size(column, grid.width), size(row, grid.height)))
        })
        .collect()
}
