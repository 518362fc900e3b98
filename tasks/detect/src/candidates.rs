//! Components to candidates: placed on the globe, measured, scored and named.

use geo::{LineString, MultiPolygon, Polygon, SimplifyVwPreserve, Validation};
use swath_geo::{Crs, Grid, Transform};
use swath_kinds::ScoreBreakdown;
use swath_task::{Context, Digest, TaskError};

use crate::faults::geo_fault;
use crate::globe::{self, Ring};
use crate::rings;
use crate::trace::Component;
use crate::write;

/// Components placed at once: one call of the projection for many of them.
const CORNERS_AT_ONCE: usize = 32 << 10;
/// Neighbouring corners further apart than this are joined by a row of points: the edge of a raster that spans the
/// globe would else run the short way round.
const LONGEST_STEP: f64 = 90.0;

/// How a score is made: a weighted mean of three numbers in 0..1.
#[derive(Clone, Copy, Debug)]
pub struct Scoring {
    /// Weight of the mean probability.
    pub probability: f64,
    /// Weight of the compactness.
    pub compactness: f64,
    /// Weight of the closeness of the area to the ideal one.
    pub area: f64,
    /// The ideal area in square metres.
    pub ideal_area: f64,
}

/// A component with what was measured on it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its component's place in the list.
    pub component: usize,
    /// Sixteen hexadecimal digits.
    pub id: String,
    /// 0 to 1.
    pub score: f64,
    /// What the score is made of.
    pub breakdown: ScoreBreakdown,
    /// Mean probability.
    pub mean: f64,
    /// Geodesic area in square metres.
    pub area: f64,
    /// Geodesic perimeter in metres.
    pub perimeter: f64,
    /// Polsby-Popper.
    pub compactness: f64,
    /// Longitude and latitude of the centroid.
    pub centroid: [f64; 2],
}

/// From pixel corners to the globe.
pub struct Placer<'a> {
    grid: &'a Grid,
    transform: Transform,
    geographic: bool,
}

impl<'a> Placer<'a> {
    /// For the pixels of a grid; one for each thread.
    pub fn new(grid: &'a Grid) -> Result<Self, TaskError> {
        let wgs84 = Crs::wgs84().map_err(geo_fault)?;
        let transform = Transform::new(&grid.crs, &wgs84).map_err(geo_fault)?;
        Ok(Self { grid, transform, geographic: grid.crs.is_geographic() })
    }

    /// The polygons of components in longitude and latitude, rings unwrapped.
    pub fn place(&self, components: &[Component]) -> Result<Vec<Vec<Vec<Ring>>>, TaskError> {
        let corners = || {
            let polygons = components.iter().flat_map(|component| &component.polygons);
            polygons.flat_map(|polygon| &polygon.rings).flatten()
        };
        let mut xs: Vec<f64> = corners().map(|corner| self.x(f64::from(corner[0]))).collect();
        let mut ys: Vec<f64> = corners().map(|corner| self.y(f64::from(corner[1]))).collect();
        self.transform.points(&mut xs, &mut ys).map_err(geo_fault)?;
        let mut points = xs.into_iter().zip(ys);
        let mut placed = Vec::with_capacity(components.len());
        for component in components {
            let mut polygons = Vec::with_capacity(component.polygons.len());
            for polygon in &component.polygons {
                let mut rings = Vec::with_capacity(polygon.rings.len());
                for ring in &polygon.rings {
                    // Pixels around a pole may end half a pixel beyond it.
                    let place = |(x, y): (f64, f64)| [x, y.clamp(-90.0, 90.0)];
                    let mut own: Ring = points.by_ref().take(ring.len()).map(place).collect();
                    if !self.geographic {
                        self.continuous(ring, &mut own)?;
                    }
                    rings.push(own);
                }
                polygons.push(rings);
            }
            placed.push(polygons);
        }
        Ok(placed)
    }

    /// The polygons of one component with corners left out that span less than `metres` squared with their neighbours
    /// (Visvalingam and Whyatt 1993, kept free of crossings). As it was where that would not be valid, or where it
    /// spans much of the globe.
    pub fn place_simplified(&self, component: &Component, metres: f64) -> Result<Vec<Vec<Ring>>, TaskError> {
        let exact = self.place(std::slice::from_ref(component))?.remove(0);
        let corners = component.polygons.iter().flat_map(|polygon| &polygon.rings).map(Vec::len);
        let densified = exact.iter().flatten().map(Vec::len).zip(corners).any(|(placed, corners)| placed != corners);
        if metres == 0.0 || densified {
            return Ok(exact);
        }
        let (width, height) = self.grid.metres();
        let line = |ring: &rings::Ring| LineString::from_iter(ring.iter().map(|c| (f64::from(c[0]), f64::from(c[1]))));
        let polygon = |polygon: &rings::Polygon| {
            let mut lines = polygon.rings.iter().map(line);
            Polygon::new(lines.next().unwrap_or_else(|| LineString(Vec::new())), lines.collect())
        };
        let whole = MultiPolygon(component.polygons.iter().map(polygon).collect());
        let simple = whole.simplify_vw_preserve(metres * metres / (width * height));
        let mut polygons = Vec::with_capacity(simple.0.len());
        for polygon in &simple.0 {
            let mut rings = Vec::with_capacity(1 + polygon.interiors().len());
            for ring in std::iter::once(polygon.exterior()).chain(polygon.interiors()) {
                let open = &ring.0[..ring.0.len() - 1];
                let mut xs: Vec<f64> = open.iter().map(|corner| self.x(corner.x)).collect();
                let mut ys: Vec<f64> = open.iter().map(|corner| self.y(corner.y)).collect();
                self.transform.points(&mut xs, &mut ys).map_err(geo_fault)?;
                let mut own: Ring = xs.into_iter().zip(ys).map(|(x, y)| [x, y.clamp(-90.0, 90.0)]).collect();
                if !self.geographic {
                    globe::unwrap(&mut own);
                }
                rings.push(own);
            }
            polygons.push(rings);
        }
        // Asked of what is written: an edge through a corner of another may cross it once projected and rounded.
        let line = |ring: &Ring| LineString::from_iter(ring.iter().map(|point| point.map(write::rounded_coordinate)));
        let written = MultiPolygon::from_iter(polygons.iter().map(|rings| {
            let mut lines = rings.iter().map(line);
            Polygon::new(lines.next().unwrap_or_else(|| LineString(Vec::new())), lines.collect())
        }));
        Ok(if written.is_valid() { polygons } else { exact })
    }

    fn x(&self, column: f64) -> f64 {
        self.grid.left + column * self.grid.pixel_width
    }

    fn y(&self, row: f64) -> f64 {
        self.grid.top - row * self.grid.pixel_height
    }

    /// Makes the longitudes of a ring continuous, with points along edges that span much of the globe.
    fn continuous(&self, ring: &[[u32; 2]], own: &mut Ring) -> Result<(), TaskError> {
        let jumps = |ring: &Ring| {
            let pairs = ring.iter().zip(ring.iter().cycle().skip(1));
            pairs.into_iter().any(|(a, b)| (a[0] - b[0]).abs() > LONGEST_STEP)
        };
        if jumps(own) {
            const PIECES: usize = 64;
            let (mut xs, mut ys) = (Vec::new(), Vec::new());
            for (a, b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
                let along =
                    |from: u32, to: u32, share: f64| f64::from(from) + (f64::from(to) - f64::from(from)) * share;
                // No more pieces than pixels: an edge of one pixel stays as it is.
                let pieces = (a[0].abs_diff(b[0]).max(a[1].abs_diff(b[1])) as usize).min(PIECES);
                for piece in 0..pieces {
                    let share = piece as f64 / pieces as f64;
                    xs.push(self.x(along(a[0], b[0], share)));
                    ys.push(self.y(along(a[1], b[1], share)));
                }
            }
            self.transform.points(&mut xs, &mut ys).map_err(geo_fault)?;
            *own = xs.into_iter().zip(ys).map(|(x, y)| [x, y]).collect();
        }
        globe::unwrap(own);
        Ok(())
    }

    /// A name that the same outline of the same class gets in every run, on any raster whose pixels share its grid:
    /// made of the coordinates in the grid's own CRS, in sixteenths of a pixel.
    fn id(&self, class: &str, component: &Component) -> String {
        let grid = self.grid;
        let mut text = format!("{class}\n{}\n", grid.crs).into_bytes();
        let (left, top) = (grid.left / grid.pixel_width, grid.top / grid.pixel_height);
        for (index, polygon) in component.polygons.iter().enumerate() {
            text.extend((index as u64).to_le_bytes());
            for [column, row] in polygon.rings.iter().flatten() {
                let x = ((left + f64::from(*column)) * 16.0).round() as i64;
                let y = ((top - f64::from(*row)) * 16.0).round() as i64;
                text.extend(x.to_le_bytes());
                text.extend(y.to_le_bytes());
            }
        }
        Digest::of(&text).hex()[..16].to_owned()
    }

    fn candidate(
        &self,
        index: usize,
        component: &Component,
        polygons: &[Vec<Ring>],
        scoring: &Scoring,
        class: &str,
    ) -> Candidate {
        let measures = globe::measure(polygons);
        let compactness = if self.geographic {
            polsby_popper(measures.area, measures.perimeter)
        } else {
            polsby_popper(
                component.pixels as f64 * self.grid.pixel_width * self.grid.pixel_height,
                planar_perimeter(component, self.grid),
            )
        };
        let mean = component.sum / component.pixels as f64;
        let breakdown = breakdown(mean, compactness, measures.area, scoring);
        Candidate {
            component: index,
            id: self.id(class, component),
            score: breakdown.probability + breakdown.compactness + breakdown.area,
            breakdown,
            mean,
            area: measures.area,
            perimeter: measures.perimeter,
            compactness,
            centroid: measures.centroid,
        }
    }
}

/// 4 pi A / P^2 (Polsby and Popper 1991), at most 1.
fn polsby_popper(area: f64, perimeter: f64) -> f64 {
    (4.0 * std::f64::consts::PI * area / (perimeter * perimeter)).min(1.0)
}

/// Length of all rings in units of the CRS.
fn planar_perimeter(component: &Component, grid: &Grid) -> f64 {
    let (mut columns, mut rows) = (0u64, 0u64);
    for ring in component.polygons.iter().flat_map(|polygon| &polygon.rings) {
        for (a, b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
            columns += u64::from(a[0].abs_diff(b[0]));
            rows += u64::from(a[1].abs_diff(b[1]));
        }
    }
    columns as f64 * grid.pixel_width + rows as f64 * grid.pixel_height
}

fn breakdown(mean: f64, compactness: f64, area: f64, scoring: &Scoring) -> ScoreBreakdown {
    let closeness = 1.0 - ((area - scoring.ideal_area).abs() / scoring.ideal_area).min(1.0);
    let sum = scoring.probability + scoring.compactness + scoring.area;
    ScoreBreakdown {
        probability: scoring.probability * mean / sum,
        compactness: scoring.compactness * compactness / sum,
        area: scoring.area * closeness / sum,
    }
}

/// Measures all components, on all threads of the context; in their order whatever the threads.
pub fn measure(
    components: &[Component],
    grid: &Grid,
    scoring: &Scoring,
    class: &str,
    ctx: &Context,
) -> Result<Vec<Candidate>, TaskError> {
    let share = components.len().div_ceil(ctx.cpus()).max(1);
    let work = |first: usize, own: &[Component]| -> Result<Vec<Candidate>, TaskError> {
        let placer = Placer::new(grid)?;
        let mut candidates = Vec::with_capacity(own.len());
        let mut from = 0;
        while from < own.len() {
            ctx.check_cancelled()?;
            let to = from + batch(&own[from..]);
            for (offset, polygons) in placer.place(&own[from..to])?.iter().enumerate() {
                let at = from + offset;
                candidates.push(placer.candidate(first + at, &own[at], polygons, scoring, class));
            }
            from = to;
        }
        Ok(candidates)
    };
    let parts = std::thread::scope(|scope| {
        let work = &work;
        let parts = components.chunks(share).enumerate();
        let threads: Vec<_> = parts.map(|(part, own)| scope.spawn(move || work(part * share, own))).collect();
        threads.into_iter().map(|thread| thread.join()).collect::<Vec<_>>()
    });
    let mut all = Vec::with_capacity(components.len());
    for part in parts {
        all.extend(part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
    }
    Ok(all)
}

/// How many of the next components are placed together: at least one.
pub fn batch(components: &[Component]) -> usize {
    let mut corners = 0;
    let fits = components.iter().take_while(|component| {
        corners += component.polygons.iter().map(|polygon| polygon.corners()).sum::<usize>();
        corners <= CORNERS_AT_ONCE
    });
    fits.count().max(1)
}
