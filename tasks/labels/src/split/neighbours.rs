//! Where chips lie, and which of them are near each other.
//!
//! Chips of one CRS overlap when their boxes in it do. Of chips in different CRSs, and for distances, the boxes around them in
//! degrees are taken, which are larger: what is told to be apart is apart. A pair that is nearer than it seems is not missed; one
//! that is a little farther than it seems may be counted.

use rstar::primitives::{GeomWithData, Rectangle};
use rstar::{AABB, RTree};
use swath_datasets::Chip;

/// Metres of a degree of latitude at the equator of WGS 84, where it is shortest.
const LATITUDE_DEGREE: f64 = 110_574.0;
/// Metres of a degree of longitude at the equator.
const LONGITUDE_DEGREE: f64 = 111_319.0;
/// Mean radius of the Earth in metres.
const RADIUS: f64 = 6_371_008.8;
/// Shares of a chip's side by which two may overlap from rounding.
const ROUNDING: f64 = 1e-6;

/// Where a chip lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// Which CRS `bounds` are in.
    crs: usize,
    /// Left, bottom, right, top.
    bounds: [f64; 4],
    /// Degrees; `east` is above 180 for what crosses the antimeridian.
    west: f64,
    south: f64,
    east: f64,
    north: f64,
}

/// Two chips that are not apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Near {
    /// They share ground.
    Overlap,
    /// They are nearer than the gap.
    Within,
}

impl Place {
    /// The place of a chip whose set has the CRS of this number.
    pub fn of(chip: &Chip, crs: usize) -> Self {
        let [west, south, east, north] = chip.bbox;
        Self { crs, bounds: chip.bounds, west, south, east: if east < west { east + 360.0 } else { east }, north }
    }

    /// Longitude and latitude of its centre.
    pub fn centre(&self) -> (f64, f64) {
        ((self.west + self.east) / 2.0, (self.south + self.north) / 2.0)
    }

    /// Row and column of the square block of this side in which its centre lies. Rows are bands of latitude; each is cut into
    /// as many columns as fit, so that blocks are about as wide as high.
    pub fn block(&self, side: f64) -> (i64, i64) {
        let (longitude, latitude) = self.centre();
        let height = side / RADIUS;
        let row = (latitude.to_radians() / height).floor();
        let middle = ((row + 0.5) * height).clamp(-1.57, 1.57);
        let columns = (std::f64::consts::TAU * middle.cos() / height).floor().max(1.0);
        let turn = (longitude + 180.0).rem_euclid(360.0) / 360.0;
        (row as i64, (turn * columns).floor() as i64)
    }

    /// Metres from south to north.
    pub fn height(&self) -> f64 {
        (self.north - self.south) * LATITUDE_DEGREE
    }

    fn overlaps(&self, other: &Self) -> bool {
        if self.crs != other.crs {
            return self.apart(other) == (0.0, 0.0);
        }
        let [left, bottom, right, top] = self.bounds;
        let [left2, bottom2, right2, top2] = other.bounds;
        let (width, height) = (right.min(right2) - left.max(left2), top.min(top2) - bottom.max(bottom2));
        width > (right - left) * ROUNDING && height > (top - bottom) * ROUNDING
    }

    /// Degrees of longitude and latitude between two boxes.
    fn apart(&self, other: &Self) -> (f64, f64) {
        let turn = (((self.west + self.east) - (other.west + other.east)) / 720.0).round() * 360.0;
        let (west, east) = (other.west + turn, other.east + turn);
        (
            (west - self.east).max(self.west - east).max(0.0),
            (other.south - self.north).max(self.south - other.north).max(0.0),
        )
    }

    /// Not more than the metres between two chips that are near each other.
    fn distance(&self, other: &Self) -> f64 {
        let (across, along) = self.apart(other);
        (across * LONGITUDE_DEGREE * self.narrowest(other)).hypot(along * LATITUDE_DEGREE)
    }

    /// How much shorter a degree of longitude is where these two are farthest from the equator.
    fn narrowest(&self, other: &Self) -> f64 {
        let highest = [self.south, self.north, other.south, other.north].map(f64::abs).into_iter().fold(0.0, f64::max);
        highest.min(90.0).to_radians().cos()
    }

    fn near(&self, other: &Self, gap: f64) -> Option<Near> {
        if self.overlaps(other) {
            return Some(Near::Overlap);
        }
        (gap > 0.0 && self.distance(other) < gap).then_some(Near::Within)
    }

    /// What may be near: its box and `gap` metres around it, in degrees.
    fn around(&self, gap: f64) -> [f64; 4] {
        let along = gap / LATITUDE_DEGREE;
        let highest = (self.north.abs().max(self.south.abs()) + along).min(90.0);
        let across = (gap / (LONGITUDE_DEGREE * highest.to_radians().cos()).max(1e-9)).min(360.0);
        [self.west - across, self.south - along, self.east + across, self.north + along]
    }
}

/// Calls `each` once for every two places that overlap or are nearer than `gap` metres.
pub fn pairs(places: &[Place], gap: f64, mut each: impl FnMut(usize, usize, Near)) {
    let boxed = places.iter().enumerate().map(|(index, place)| {
        GeomWithData::new(Rectangle::from_corners([place.west, place.south], [place.east, place.north]), index)
    });
    let tree = RTree::bulk_load(boxed.collect());
    let mut found = Vec::new();
    for (index, place) in places.iter().enumerate() {
        let [west, south, east, north] = place.around(gap);
        for turn in [-360.0, 0.0, 360.0] {
            let area = AABB::from_corners([west + turn, south], [east + turn, north]);
            found.extend(
                tree.locate_in_envelope_intersecting(&area).map(|other| other.data).filter(|other| *other > index),
            );
        }
        found.sort_unstable();
        found.dedup();
        for other in found.drain(..) {
            if let Some(near) = place.near(&places[other], gap) {
                each(index, other, near);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(crs: usize, west: f64, south: f64, side: f64) -> Place {
        Place {
            crs,
            bounds: [west, south, west + side, south + side],
            west,
            south,
            east: west + side,
            north: south + side,
        }
    }

    fn all(places: &[Place], gap: f64) -> Vec<(usize, usize, Near)> {
        let mut found = Vec::new();
        pairs(places, gap, |a, b, near| found.push((a, b, near)));
        found
    }

    #[test]
    fn chips_that_touch_do_not_overlap_and_those_across_the_antimeridian_do() {
        let side = 0.1;
        let row =
            [place(0, 10.0, 50.0, side), place(0, 10.0 + side, 50.0, side), place(0, 10.0 + side * 1.5, 50.0, side)];
        assert_eq!(all(&row, 0.0), [(1, 2, Near::Overlap)]);
        assert_eq!(all(&row, 10_000.0), [(0, 1, Near::Within), (0, 2, Near::Within), (1, 2, Near::Overlap)]);
        assert_eq!(
            all(&row, 3_000.0),
            [(0, 1, Near::Within), (1, 2, Near::Overlap)],
            "0.05 degrees are 3.6 km at 50 north"
        );
        let ends = [place(0, 179.95, -17.0, side), place(1, -179.99, -17.0, side)];
        assert_eq!(all(&ends, 0.0), [(0, 1, Near::Overlap)]);
        let ends = [place(0, 179.8, -17.0, side), place(1, -179.95, -17.0, side)];
        assert_eq!(all(&ends, 10_000.0), []);
        assert_eq!(all(&ends, 20_000.0), [(0, 1, Near::Within)]);
    }

    #[test]
    fn blocks_are_about_square_and_the_same_on_both_sides_of_the_antimeridian() {
        for latitude in [-70.0, 0.0, 45.0, 80.0] {
            let at = |longitude: f64, latitude: f64| place(0, longitude, latitude, 0.0).block(10_000.0);
            let (row, column) = at(20.0, latitude);
            assert_eq!(at(20.0, latitude + 0.17987).0, row + 2, "{latitude}");
            let degree = 10_000.0 / (LONGITUDE_DEGREE * latitude.to_radians().cos());
            assert!(((at(20.0 + 20.0 * degree, latitude).1 - column) - 20).abs() <= 1, "{latitude}");
            assert_eq!(at(180.001, latitude), at(-179.999, latitude));
        }
    }
}
