//! Geodesic buffers: how far the pixels of a grid lie from sites, on the ellipsoid WGS 84.
//!
//! Distances are those of C. F. F. Karney, "Algorithms for geodesics", Journal of Geodesy 87 (2013), 43-55, by the crate
//! `geographiclib-rs`: exact to nanometres at any latitude, across the antimeridian and over the poles; no projection takes
//! part. A site that is a line or polygon is laid into the plane around its own centre by distance and azimuth (the
//! azimuthal equidistant projection of the ellipsoid), where the distance to its outline is measured: within 100 km of the
//! centre that is off by less than one part in 10,000.
//!
//! Most pixels are far from every site: tiles and blocks of pixels are compared with the sites first, by a circle around each.

use std::sync::atomic::{AtomicBool, Ordering};

use geo::{Coord, CoordsIter, Distance as _, Euclidean, Geometry, LineString, MapCoords, Point, Polygon};
use geographiclib_rs::{Geodesic, InverseGeodesic};
use swath_geo::{Grid, PixelWindow, Transform};
use swath_task::TaskError;

use crate::faults::fault;
use crate::places::Site;

/// Rows and columns of a block of pixels.
const BLOCK: usize = 64;
/// Bytes that a thread takes for the places of a block.
pub const BLOCK_MEMORY: u64 = (BLOCK * BLOCK * 16) as u64;
/// Farthest that a part of a site may lie from its centre, in metres.
const WIDEST: f64 = 100_000.0;
/// Longest edge of a shape, in degrees, that is laid into the plane without points in between.
const EDGE: f64 = 0.01;
/// What circles around blocks are drawn larger by: a projection may bulge between the points that are looked at.
const SLACK: f64 = 1.05;

/// Inside of the buffer, in the ring around it, beyond.
const INSIDE: f32 = 1.0;
const RING: f32 = 0.5;
const BEYOND: f32 = 0.0;

/// A site with its buffer.
pub struct Zone {
    longitude: f64,
    latitude: f64,
    /// Around the centre, in metres by distance and azimuth; `None` for a point.
    shape: Option<Geometry>,
    buffer: f64,
    /// Farther from the centre than this nothing is inside of the buffer or its ring.
    reach: f64,
    touched: AtomicBool,
}

impl Zone {
    /// A site with its own buffer, or else `buffer`, and a ring, all in metres.
    pub fn new(site: &Site, buffer: f64, ring: f64) -> Result<Self, TaskError> {
        let geodesic = Geodesic::wgs84();
        let buffer = site.buffer.map_or(buffer, |own| own.metres);
        let centre = centre(&site.shape);
        let shape = match &site.shape {
            Geometry::Point(_) => None,
            shape => Some(dense(shape).map_coords(|Coord { x, y }| {
                let (distance, azimuth, ..): (f64, f64, f64, f64) = geodesic.inverse(centre.y, centre.x, y, x);
                in_plane(distance, azimuth)
            })),
        };
        let corners = shape.iter().flat_map(|shape| shape.coords_iter());
        let extent = corners.map(|corner| corner.x.hypot(corner.y)).fold(0.0, f64::max);
        if extent > WIDEST {
            let (name, km) = (&site.name, extent / 1000.0);
            let message = format!("the site `{name}` reaches {km:.0} km from its centre, farther than 100 km");
            return Err(fault(
                "L103",
                message,
                "give its parts as sites of their own, or make its mask with `labels.vector`",
            ));
        }
        let reach = extent + buffer + ring;
        Ok(Self { longitude: centre.x, latitude: centre.y, shape, buffer, reach, touched: AtomicBool::new(false) })
    }

    /// Whether a pixel lies in its buffer or the ring around it.
    pub fn touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// Metres from the site; 0 within a polygon.
    fn distance(&self, geodesic: &Geodesic, longitude: f64, latitude: f64) -> f64 {
        match &self.shape {
            None => geodesic.inverse(self.latitude, self.longitude, latitude, longitude),
            Some(shape) => {
                let (distance, azimuth, ..): (f64, f64, f64, f64) =
                    geodesic.inverse(self.latitude, self.longitude, latitude, longitude);
                if distance > self.reach {
                    return distance;
                }
                Euclidean.distance(&Point::from(in_plane(distance, azimuth)), shape)
            }
        }
    }
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

/// A shape with points in its long edges, so that they stay straight in degrees.
fn dense(shape: &Geometry) -> Geometry {
    let line = |line: &LineString| {
        let mut points = Vec::with_capacity(line.0.len());
        for pair in line.0.windows(2) {
            let (from, to) = (pair[0], pair[1]);
            let parts = ((to.x - from.x).hypot(to.y - from.y) / EDGE).ceil().clamp(1.0, 36_000.0);
            points.extend((0..parts as usize).map(|part| from + (to - from) * (part as f64 / parts)));
        }
        points.extend(line.0.last());
        LineString(points)
    };
    let polygon = |p: &Polygon| Polygon::new(line(p.exterior()), p.interiors().iter().map(line).collect());
    match shape {
        Geometry::LineString(one) => line(one).into(),
        Geometry::MultiLineString(many) => Geometry::MultiLineString(many.iter().map(line).collect()),
        Geometry::Polygon(one) => polygon(one).into(),
        Geometry::MultiPolygon(many) => Geometry::MultiPolygon(many.iter().map(polygon).collect()),
        Geometry::GeometryCollection(many) => Geometry::GeometryCollection(many.iter().map(dense).collect()),
        other => other.clone(),
    }
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

/// The label of a grid: 1 within the buffer of a zone, 0.5 within `ring` metres beyond it, 0 elsewhere; NaN where a pixel has
/// no place on the globe. The centre of a pixel decides.
pub fn label(zones: &[&Zone], ring: f64, grid: &Grid, to_degrees: &Transform) -> Vec<f32> {
    let mut label = vec![BEYOND; grid.width * grid.height];
    let here = near(zones, grid, to_degrees);
    if here.is_empty() {
        return label;
    }
    let geodesic = Geodesic::wgs84();
    for top in (0..grid.height).step_by(BLOCK) {
        for left in (0..grid.width).step_by(BLOCK) {
            let window = PixelWindow::new(left, top, BLOCK.min(grid.width - left), BLOCK.min(grid.height - top));
            let block = grid.crop(&window);
            let zones = near(&here, &block, to_degrees);
            if zones.is_empty() {
                continue;
            }
            let (mut xs, mut ys) = (Vec::with_capacity(window.len()), Vec::with_capacity(window.len()));
            for row in 0..window.height {
                for column in 0..window.width {
                    let (x, y) = block.centre(column, row);
                    xs.push(x);
                    ys.push(y);
                }
            }
            to_degrees.points_lossy(&mut xs, &mut ys);
            for (at, (x, y)) in xs.iter().zip(&ys).enumerate() {
                let value = &mut label[(top + at / window.width) * grid.width + left + at % window.width];
                if !x.is_finite() || !y.is_finite() {
                    *value = f32::NAN;
                    continue;
                }
                for zone in &zones {
                    let distance = zone.distance(&geodesic, *x, *y);
                    let own = if distance <= zone.buffer {
                        INSIDE
                    } else if distance <= zone.buffer + ring {
                        RING
                    } else {
                        continue;
                    };
                    zone.touched.store(true, Ordering::Relaxed);
                    *value = value.max(own);
                }
            }
        }
    }
    label
}
