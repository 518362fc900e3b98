//! `labels.sites`: known sites to a mask.

use std::path::{Path, PathBuf};

use geo::{Geometry, Point};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::{Crs, Grid, PixelWindow, Raster, TILE, Transform};
use swath_kinds::{Cog, Distance, KnownSites, SiteList};
use swath_task::{Artifact, Context, Draft, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::faults::{fault, geo_fault};
use crate::places::{self, Site, sound};
use crate::tiles::{MEMORY, draw_label, holds_value, positive_share, write_label};
use crate::zones::{BLOCK_MEMORY, Zone, label, near};

/// Points of the outlines of all sites that are held.
const MOST_POINTS: usize = 2_000_000;

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
    /// What may be a site that the list does not have: it gets no label rather than background.
    #[serde(default)]
    pub unknown: Option<Unknown>,
    /// Makes a mask without any site, too, where none lies on the raster: for areas of negatives only.
    #[serde(default)]
    pub allow_none: bool,
}

/// Pixels that may belong to a site that is not known.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unknown {
    /// A band of the raster: an index that is high where sites are.
    pub band: String,
    /// Pixels with a value above this have no label, unless they lie in a buffer or the ring around one.
    pub above: f64,
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
    /// The sites on the raster and the pixels of each, for `dataset.chips`.
    pub places: Artifact<SiteList>,
    /// Sites whose buffer or ring touches the raster, whether it has data there or not.
    pub sites: u64,
    /// Share of the pixels with data that lie in a buffer.
    pub positive_share: f64,
}

impl Task for LabelSites {
    const NAME: &'static str = "labels.sites";
    const VERSION: u32 = 2;
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
        if self.unknown.as_ref().is_some_and(|unknown| !unknown.above.is_finite()) {
            problems.push(Problem::new("/unknown/above", "it is no number"));
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
        let task = self.clone();
        let draw = move |raster: &Path, out: &Path, ctx: &Context| task.draw(raster, out, ctx);
        let (label, drawn) = draw_label(&inputs.raster, ctx, draw).await?;
        ctx.metric("sites", drawn.touched as f64);
        ctx.metric("positive_share", drawn.share);
        let places: Draft<SiteList> = ctx.draft("sites.json")?;
        let json = serde_json::to_vec(&drawn.known).map_err(std::io::Error::from);
        json.and_then(|json| std::fs::write(places.path(), json)).map_err(|error| {
            let message = format!("cannot write `{}`: {error}", places.path().display());
            fault("L131", message, "free disk space or choose a folder that can be written")
        })?;
        let places = places.commit().await?;
        Ok(Outputs { label, places, sites: drawn.touched, positive_share: drawn.share })
    }
}

/// What was drawn.
struct Drawn {
    known: KnownSites,
    touched: u64,
    share: f64,
}

impl LabelSites {
    fn draw(&self, raster: &Path, out: &Path, ctx: &Context) -> Result<Drawn, TaskError> {
        let sites = places::read(&self.sites.0, self.layer.as_deref())?;
        let source = Raster::open_path(raster).map_err(geo_fault)?;
        let grid = source.grid().map_err(geo_fault)?;
        let unknown = self.unknown.as_ref().map(|unknown| source.info().band(&unknown.band)).transpose();
        let unknown = unknown.map_err(geo_fault)?;
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
        let start = |grid: &Grid| {
            let source = unknown.map(|_| Raster::open_path(raster)).transpose().map_err(geo_fault)?;
            Ok((to_degrees(&grid.crs)?, source))
        };
        let work = |(transform, source): &mut (Transform, Option<Raster>), tile: &Grid, window: &PixelWindow| {
            let mut label = label(&all, self.ring.metres, tile, (window.column, window.row), transform);
            if let (Some(unknown), Some(band), Some(source)) = (&self.unknown, unknown, source) {
                unknown.blank(source, band, window, &mut label)?;
            }
            Ok(label)
        };
        let memory = BLOCK_MEMORY + self.unknown.as_ref().map_or(0, |_| (TILE * TILE * 4) as u64);
        let counts = write_label(raster, out, metadata, (MEMORY, memory), ctx, start, work)?;
        let touched = zones.iter().filter(|zone| zone.touched()).count() as u64;
        if touched == 0 && !self.allow_none {
            return Err(self.nowhere(&sites, raster, &grid));
        }
        let known = KnownSites { sites: zones.iter().filter_map(Zone::known).collect() };
        Ok(Drawn { known, touched, share: positive_share(&counts).1 })
    }

    fn zones(&self, sites: &[Site]) -> Result<Vec<Zone>, TaskError> {
        let (mut zones, mut points) = (Vec::with_capacity(sites.len()), 0);
        for site in sites {
            let zone = Zone::new(site, self.buffer.metres, self.ring.metres)?;
            points += zone.points();
            if points > MOST_POINTS {
                let message =
                    format!("the outlines of `{}` have more than {MOST_POINTS} points", self.sites.0.display());
                return Err(fault("R108", message, "simplify them, or give the sites of the area only"));
            }
            zones.push(zone);
        }
        Ok(zones)
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

impl Unknown {
    /// Takes the background away where the band is above the limit.
    fn blank(&self, source: &Raster, band: usize, window: &PixelWindow, label: &mut [f32]) -> Result<(), TaskError> {
        let mut pixels = vec![0.0_f32; window.len()];
        source.read(band, window, &mut pixels).map_err(geo_fault)?;
        let info = &source.info().bands[band];
        for (label, pixel) in label.iter_mut().zip(&pixels) {
            let value = f64::from(*pixel) * info.scale + info.offset;
            if *label == 0.0 && holds_value(info, *pixel) && value > self.above {
                *label = f32::NAN;
            }
        }
        Ok(())
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
