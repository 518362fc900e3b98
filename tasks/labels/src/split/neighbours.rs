//! Where chips lie, and which of them are near each other.
//!
//! Chips of one CRS overlap when their boxes in it do. Of chips in different CRSs, and for distances, the boxes around them in
//! degrees are taken, which are larger: what is told to be apart is apart. A pair that is nearer than it seems is not missed; one
//! that is a little farther than it seems may be counted.

use std::collections::{BTreeMap, BTreeSet};

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
        let boxes = self.apart(other) == (0.0, 0.0);
        if self.crs != other.crs {
            return boxes;
        }
        let [left, bottom, right, top] = self.bounds;
        let [left2, bottom2, right2, top2] = other.bounds;
        let height = top.min(top2) - bottom.max(bottom2);
        let meet = |turn: f64| {
            let width = right.min(right2 + turn) - left.max(left2 + turn);
            width > (right - left) * ROUNDING && height > (top - bottom) * ROUNDING
        };
        // In a CRS that goes around the globe the same place has several x. In others a turn is farther than any zone is wide.
        let turn = 360.0 * (right - left) / (self.east - self.west);
        meet(0.0) || boxes && (meet(turn) || meet(-turn))
    }

    /// Grows to hold another place of the same CRS, too.
    fn cover(&mut self, other: &Self) {
        let [left, bottom, right, top] = &mut self.bounds;
        (*left, *bottom) = (left.min(other.bounds[0]), bottom.min(other.bounds[1]));
        (*right, *top) = (right.max(other.bounds[2]), top.max(other.bounds[3]));
        (self.west, self.south) = (self.west.min(other.west), self.south.min(other.south));
        (self.east, self.north) = (self.east.max(other.east), self.north.max(other.north));
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

type Boxed = GeomWithData<Rectangle<[f64; 2]>, usize>;

/// Some places among which those near another one are found.
pub struct Neighbours<'a> {
    places: &'a [Place],
    gap: f64,
    tree: RTree<Boxed>,
}

impl<'a> Neighbours<'a> {
    /// Those of `members` that overlap a place or are nearer to it than `gap` metres are its neighbours.
    pub fn new(places: &'a [Place], members: impl Iterator<Item = usize>, gap: f64) -> Self {
        let boxes = members.map(|index| boxed(places, index)).collect();
        Self { places, gap, tree: RTree::bulk_load(boxes) }
    }

    /// The neighbours of a place, itself among them when it is a member. One that goes around the globe may be named twice.
    pub fn of(&self, place: usize) -> impl Iterator<Item = (usize, Near)> {
        let place = &self.places[place];
        let [west, south, east, north] = place.around(self.gap);
        [-360.0, 0.0, 360.0].into_iter().flat_map(move |turn| {
            let area = AABB::from_corners([west + turn, south], [east + turn, north]);
            let found = self.tree.locate_in_envelope_intersecting(&area).map(|found| found.data);
            found.filter_map(|other| Some((other, place.near(&self.places[other], self.gap)?)))
        })
    }

    /// Takes a member out.
    pub fn remove(&mut self, place: usize) {
        self.tree.remove(&boxed(self.places, place));
    }
}

fn boxed(places: &[Place], index: usize) -> Boxed {
    let place = &places[index];
    GeomWithData::new(Rectangle::from_corners([place.west, place.south], [place.east, place.north]), index)
}

/// Pairs of groups of which two places overlap or are nearer than `gap` metres. Where many places of a group lie over each other,
/// those within a quarter of a place are taken as one, so that the work follows the ground and not the square of their number.
pub fn touching(places: &[Place], groups: &[usize], gap: f64) -> BTreeSet<(usize, usize)> {
    let mut few: BTreeMap<(usize, usize, i64, i64), Place> = BTreeMap::new();
    for (place, group) in places.iter().zip(groups) {
        let step = ((place.north - place.south) / 4.0).max(1e-9);
        let (longitude, latitude) = place.centre();
        let across = (longitude / step * latitude.to_radians().cos().max(0.01)).floor();
        let cell = (*group, place.crs, across as i64, (latitude / step).floor() as i64);
        few.entry(cell).and_modify(|one| one.cover(place)).or_insert_with(|| place.clone());
    }
    let (groups, places): (Vec<usize>, Vec<Place>) = few.into_iter().map(|((group, ..), place)| (group, place)).unzip();
    let neighbours = Neighbours::new(&places, 0..places.len(), gap);
    let mut found = BTreeSet::new();
    for (index, group) in groups.iter().enumerate() {
        let others = neighbours.of(index).map(|(other, _)| groups[other]).filter(|other| other != group);
        found.extend(others.map(|other| (*group.min(&other), *group.max(&other))));
    }
    found
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
        let neighbours = Neighbours::new(places, 0..places.len(), gap);
        let of = |a: usize| neighbours.of(a).map(move |(b, near)| (a, b, near)).collect::<Vec<_>>();
        let mut found: Vec<_> = (0..places.len()).flat_map(of).filter(|(a, b, _)| a < b).collect();
        found.sort_by_key(|(a, b, _)| (*a, *b));
        found.dedup();
        found
    }

    #[test]
    fn chips_of_one_crs_overlap_over_the_antimeridian() {
        // Two rasters in degrees: one ends beyond 180 east, the other begins at 180 west. The third only touches the first.
        let east = place(0, 179.95, -17.0, 0.1);
        let west = Place {
            bounds: [-179.99, -17.0, -179.89, -16.9],
            west: -179.99,
            east: -179.89,
            ..place(0, 0.0, -17.0, 0.1)
        };
        let beside = Place {
            bounds: [-179.95, -17.0, -179.85, -16.9],
            west: -179.95,
            east: -179.85,
            ..place(0, 0.0, -17.0, 0.1)
        };
        assert_eq!(all(&[east.clone(), west.clone()], 0.0), [(0, 1, Near::Overlap)]);
        assert_eq!(all(&[west, east.clone()], 0.0), [(0, 1, Near::Overlap)]);
        assert_eq!(all(&[east.clone(), beside], 0.0), []);
        // One raster counts longitudes from 0 to 360, the other from -180 to 180.
        let far = Place { bounds: [180.01, -17.0, 180.11, -16.9], west: -179.99, east: -179.89, ..east.clone() };
        let near = Place { bounds: [-179.97, -17.0, -179.87, -16.9], west: -179.97, east: -179.87, ..east.clone() };
        assert_eq!(all(&[far, near], 0.0), [(0, 1, Near::Overlap)]);
        // Chips of zone 1 on both sides of it lie side by side, though the boxes around them meet.
        let utm = |left: f64, west: f64| Place {
            bounds: [left, 0.0, left + 5000.0, 5000.0],
            west,
            east: west + 0.06,
            ..east.clone()
        };
        assert_eq!(all(&[utm(170_000.0, -180.02), utm(175_000.0, 179.97)], 0.0), [], "they only touch");
    }

    #[test]
    fn thousands_of_chips_over_each_other_join_their_groups_and_no_others() {
        // Two piles of 20,000 chips side by side, one apart; every two of a pile overlap.
        let pile = |west: f64| (0..20_000).map(move |at| place(0, west + f64::from(at) * 1e-6, 10.0, 0.1));
        let places: Vec<Place> = pile(10.0).chain(pile(10.11)).chain(pile(11.0)).collect();
        let groups: Vec<usize> = (0..60_000).map(|at| at / 20_000).collect();
        assert_eq!(touching(&places, &groups, 0.0).into_iter().collect::<Vec<_>>(), [(0, 1)]);
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
