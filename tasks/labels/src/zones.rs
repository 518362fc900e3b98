//! Geodesic buffers: how far the pixels of a grid lie from sites, on the ellipsoid WGS 84.
//!
//! Distances are those of C. F. F. Karney, "Algorithms for geodesics", Journal of Geodesy 87 (2013), 43-55, by the crate
//! `geographiclib-rs`: exact to nanometres at any latitude, across the antimeridian and over the poles; no projection takes
//! part. A site that is a line or polygon is laid into the plane around its own centre by distance and azimuth (the
//! azimuthal equidistant projection of the ellipsoid), where the distance to its outline is measured (`outline`): within
//! 100 km of the centre that is off by less than one part in 10,000.
//!
//! Most pixels are far from every site: tiles and blocks of pixels are compared with the sites first, by a circle around each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use geo::{Coord, CoordsIter, Geometry};
use geographiclib_rs::{Geodesic, InverseGeodesic};
use swath_geo::{Grid, PixelWindow, Transform};
use swath_kinds::KnownSite;
use swath_task::TaskError;

use crate::faults::fault;
use crate::outline::Outline;
use crate::places::Site;
use crate::tiles::lock;

/// Rows and columns of a block of pixels.
const BLOCK: usize = 64;
/// Bytes that a thread takes for the places of a block.
pub const BLOCK_MEMORY: u64 = (BLOCK * BLOCK * 16) as u64;
/// Farthest that a part of a site may lie from its centre, in metres.
const WIDEST: f64 = 100_000.0;
/// What circles around blocks are drawn larger by: a projection may bulge between the points that are looked at.
const SLACK: f64 = 1.05;

/// Inside of the buffer, in the ring around it, beyond.
const INSIDE: f32 = 1.0;
const RING: f32 = 0.5;
const BEYOND: f32 = 0.0;

/// A site with its buffer.
pub struct Zone {
    name: String,
    longitude: f64,
    latitude: f64,
    /// Around the centre, in metres by distance and azimuth; `None` for a point.
    outline: Option<Outline>,
    buffer: f64,
    /// Farther from the centre than this nothing is inside of the buffer or its ring.
    reach: f64,
    touched: AtomicBool,
    inside: Mutex<Extent>,
}

/// First column and row, and last ones, of pixels; none yet where the first lies behind the last.
#[derive(Clone, Copy)]
struct Extent([usize; 4]);

impl Extent {
    const NONE: Self = Self([usize::MAX, usize::MAX, 0, 0]);

    fn add(&mut self, Self([left, top, right, bottom]): Self) {
        let own = &mut self.0;
        *own = [own[0].min(left), own[1].min(top), own[2].max(right), own[3].max(bottom)];
    }
}

impl Zone {
    /// A site with its own buffer, or else `buffer`, and a ring, all in metres.
    pub fn new(site: &Site, buffer: f64, ring: f64) -> Result<Self, TaskError> {
        let geodesic = Geodesic::wgs84();
        let buffer = site.buffer.map_or(buffer, |own| own.metres);
        let centre = centre(&site.shape);
        let to_plane = |Coord { x, y }| {
            let (distance, azimuth, ..): (f64, f64, f64, f64) = geodesic.inverse(centre.y, centre.x, y, x);
            in_plane(distance, azimuth)
        };
        let point = matches!(site.shape, Geometry::Point(_));
        // Its points first, then the points between them: whoever reaches too far is told so before there are many.
        let extent = if point { 0.0 } else { farthest(site.shape.coords_iter().map(to_plane)) };
        check_extent(site, extent)?;
        let outline = if point { None } else { Some(Outline::new(&site.name, &site.shape, to_plane)?) };
        let extent = outline.as_ref().map_or(0.0, |outline| farthest(outline.points()));
        check_extent(site, extent)?;
        Ok(Self {
            name: site.name.clone(),
            longitude: centre.x,
            latitude: centre.y,
            outline,
            buffer,
            reach: extent + buffer + ring,
            touched: AtomicBool::new(false),
            inside: Mutex::new(Extent::NONE),
        })
    }

    /// Whether a pixel lies in its buffer or the ring around it.
    pub fn touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Points of its outline in the plane that are held.
    pub fn points(&self) -> usize {
        self.outline.as_ref().map_or(0, |outline| outline.points().count())
    }

    /// The site and the box around the pixels in its buffer, if there are any.
    pub fn known(&self) -> Option<KnownSite> {
        let Extent([left, top, right, bottom]) = *lock(&self.inside);
        (left <= right).then(|| KnownSite {
            id: format!("{} @ {:.4},{:.4}", self.name, self.longitude, self.latitude),
            lon: self.longitude,
            lat: self.latitude,
            buffer_m: self.buffer,
            window: [left, top, right + 1 - left, bottom + 1 - top],
        })
    }
}

/// How far the farthest of some points of the plane lies from its centre.
fn farthest(points: impl Iterator<Item = Coord>) -> f64 {
    points.map(|point| point.x.hypot(point.y)).fold(0.0, f64::max)
}

fn check_extent(site: &Site, extent: f64) -> Result<(), TaskError> {
    if extent <= WIDEST {
        return Ok(());
    }
    let (name, km) = (&site.name, extent / 1000.0);
    let message = format!("the site `{name}` reaches {km:.0} km from its centre, farther than 100 km");
    Err(fault("L103", message, "give its parts as sites of their own, or make its mask with `labels.vector`"))
}

fn in_plane(distance: f64, azimuth: f64) -> Coord {
    let (sine, cosine) = azimuth.to_radians().sin_cos();
    Coord { x: distance * sine, y: distance * cosine }
}

/// The middle of the box around a shape; its longitudes may lie on both sides of the antimeridian.
fn centre(shape: &Geometry) -> Coord {
    let first = shape.coords_iter().next().unwrap_or_default();
    let (mut west, mut east, mut south, mut north) = (first.x, first.x, first.y, first.y);
    for point in shape.coords_iter() {
        let x = point.x - ((point.x - first.x) / 360.0).round() * 360.0;
        (west, east) = (west.min(x), east.max(x));
        (south, north) = (south.min(point.y), north.max(point.y));
    }
    Coord { x: (west + east) / 2.0, y: (south + north) / 2.0 }
}

/// The zones that may touch a grid, by a circle around it.
pub fn near<'a>(zones: &[&'a Zone], grid: &Grid, to_degrees: &Transform) -> Vec<&'a Zone> {
    let (width, height) = (grid.width as f64, grid.height as f64);
    let (mut xs, mut ys) = (vec![0.5], vec![0.5]);
    for step in 0..4 {
        let along = f64::from(step) / 4.0;
        xs.extend([along, 1.0, 1.0 - along, 0.0]);
        ys.extend([0.0, along, 1.0, 1.0 - along]);
    }
    for (x, y) in xs.iter_mut().zip(&mut ys) {
        *x = grid.left + *x * width * grid.pixel_width;
        *y = grid.top - *y * height * grid.pixel_height;
    }
    to_degrees.points_lossy(&mut xs, &mut ys);
    if xs.iter().chain(&ys).any(|value| !value.is_finite()) {
        return zones.to_vec();
    }
    let geodesic = Geodesic::wgs84();
    let from_centre = |x: f64, y: f64| -> f64 { geodesic.inverse(ys[0], xs[0], y, x) };
    let radius = xs.iter().zip(&ys).map(|(x, y)| from_centre(*x, *y)).fold(0.0, f64::max) * SLACK;
    zones.iter().filter(|zone| from_centre(zone.longitude, zone.latitude) <= radius + zone.reach).copied().collect()
}

/// The label of a grid, whose first pixel is `origin` of the raster: 1 within the buffer of a zone, 0.5 within `ring` metres
/// beyond it, 0 elsewhere; NaN where a pixel has no place on the globe. The centre of a pixel decides.
pub fn label(zones: &[&Zone], ring: f64, grid: &Grid, origin: (usize, usize), to_degrees: &Transform) -> Vec<f32> {
    let mut label = vec![BEYOND; grid.width * grid.height];
    let here = near(zones, grid, to_degrees);
    if here.is_empty() {
        return label;
    }
    for top in (0..grid.height).step_by(BLOCK) {
        for left in (0..grid.width).step_by(BLOCK) {
            let window = PixelWindow::new(left, top, BLOCK.min(grid.width - left), BLOCK.min(grid.height - top));
            let block = grid.crop(&window);
            let zones = near(&here, &block, to_degrees);
            if zones.is_empty() {
                continue;
            }
            let places = places(&block, to_degrees);
            let mut values: Vec<f32> =
                places.iter().map(|place| if place.is_some() { BEYOND } else { f32::NAN }).collect();
            for zone in zones {
                zone.lay(ring, &places, &mut values, &window, origin);
            }
            for (row, line) in values.chunks_exact(window.width).enumerate() {
                label[(top + row) * grid.width + left..][..window.width].copy_from_slice(line);
            }
        }
    }
    label
}

/// Longitude and latitude of the centre of every pixel that has a place on the globe.
fn places(block: &Grid, to_degrees: &Transform) -> Vec<Option<(f64, f64)>> {
    let pixels = (0..block.height).flat_map(|row| (0..block.width).map(move |column| (column, row)));
    let (mut xs, mut ys): (Vec<f64>, Vec<f64>) = pixels.map(|(column, row)| block.centre(column, row)).unzip();
    to_degrees.points_lossy(&mut xs, &mut ys);
    xs.into_iter().zip(ys).map(|(x, y)| (x.is_finite() && y.is_finite()).then_some((x, y))).collect()
}

impl Zone {
    /// Raises the values of a block of pixels to those of this zone.
    fn lay(
        &self,
        ring: f64,
        places: &[Option<(f64, f64)>],
        values: &mut [f32],
        window: &PixelWindow,
        (column, row): (usize, usize),
    ) {
        let geodesic = Geodesic::wgs84();
        let polar = |(longitude, latitude): (f64, f64)| -> (f64, f64) {
            let (distance, azimuth, ..): (f64, f64, f64, f64) =
                geodesic.inverse(self.latitude, self.longitude, latitude, longitude);
            (distance, azimuth)
        };
        let away: Vec<f64> = match &self.outline {
            None => places.iter().map(|place| place.map_or(f64::INFINITY, |place| polar(place).0)).collect(),
            Some(outline) => {
                let points: Vec<Option<Coord>> = places
                    .iter()
                    .map(|place| {
                        let (distance, azimuth) = polar((*place)?);
                        (distance <= self.reach).then(|| in_plane(distance, azimuth))
                    })
                    .collect();
                outline.distances(&points)
            }
        };
        let mut inside = Extent::NONE;
        for (at, (distance, value)) in away.into_iter().zip(values).enumerate() {
            let own = if distance <= self.buffer {
                let (x, y) = (column + window.column + at % window.width, row + window.row + at / window.width);
                inside.add(Extent([x, y, x, y]));
                INSIDE
            } else if distance <= self.buffer + ring {
                RING
            } else {
                continue;
            };
            self.touched.store(true, Ordering::Relaxed);
            *value = value.max(own);
        }
        lock(&self.inside).add(inside);
    }
}
