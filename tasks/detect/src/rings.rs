//! Closed outlines to polygons: simple rings, one exterior each, holes with the exterior they belong to.
//!
//! Coordinates are pixel corners, rows down. Invariants, for every polygon of a component:
//! 1. Its first ring is the exterior, running with the pixels on its left hand as seen on a north-up map
//!    (counter-clockwise); the others are holes, running clockwise.
//! 2. No ring visits a corner twice; rings touch each other in single corners at most, and its interior is connected.
//! 3. The signed areas of all rings of a component sum to its pixels.
//! 4. Rings start at their first corner by (row, column) and are sorted by it: equal components are equal values.

use std::collections::HashMap;

/// A closed ring of corners `[column, row]`; the first is not repeated at the end.
pub type Ring = Vec<[u32; 2]>;

/// An exterior and its holes.
#[derive(Clone, Debug, PartialEq)]
pub struct Polygon {
    /// The exterior first, then the holes.
    pub rings: Vec<Ring>,
}

impl Polygon {
    /// Corners of all rings.
    pub fn corners(&self) -> usize {
        self.rings.iter().map(Vec::len).sum()
    }
}

/// A corner of a traced outline.
#[derive(Clone, Copy, Debug)]
pub struct Corner {
    /// Column of the corner.
    pub column: u32,
    /// Row of the corner.
    pub row: u32,
    /// Outlines meet here: this corner may come twice.
    pub pinch: bool,
}

/// Builds the polygons of one component from its closed outlines, each with the part it bounds.
pub fn assemble(outlines: Vec<(u32, Vec<Corner>)>) -> Vec<Polygon> {
    let mut rings: Vec<(u32, bool, Ring)> = Vec::with_capacity(outlines.len());
    for (part, corners) in outlines {
        for ring in cut_at_pinches(&corners) {
            rings.push((part, doubled_area(&ring) < 0, canonical(ring)));
        }
    }
    // Part by part, its exterior (the one ring that is no hole) before its holes, holes by their first corner.
    rings.sort_unstable_by_key(|(part, hole, ring)| (*part, *hole, ring[0][1], ring[0][0]));
    let mut polygons: Vec<Polygon> = Vec::new();
    for (_, hole, ring) in rings {
        match polygons.last_mut() {
            Some(polygon) if hole => polygon.rings.push(ring),
            _ => polygons.push(Polygon { rings: vec![ring] }),
        }
    }
    polygons.sort_unstable_by_key(|polygon| (polygon.rings[0][0][1], polygon.rings[0][0][0]));
    polygons
}

/// Twice the area inside a ring, in pixels; positive when it runs with the area on its left hand on a north-up map.
pub fn doubled_area(ring: &[[u32; 2]]) -> i64 {
    let mut sum = 0i64;
    let mut last = ring[ring.len() - 1];
    for &corner in ring {
        sum += i64::from(corner[0]) * i64::from(last[1]) - i64::from(last[0]) * i64::from(corner[1]);
        last = corner;
    }
    sum
}

/// Cuts an outline in two at each corner it visits twice.
fn cut_at_pinches(corners: &[Corner]) -> Vec<Ring> {
    let mut rings = Vec::new();
    let mut path: Vec<Corner> = Vec::with_capacity(corners.len());
    let mut places: HashMap<[u32; 2], usize> = HashMap::new();
    for &corner in corners {
        if corner.pinch {
            let at = [corner.column, corner.row];
            if let Some(&place) = places.get(&at) {
                for inner in &path[place + 1..] {
                    places.remove(&[inner.column, inner.row]);
                }
                rings.push(path.drain(place..).map(|inner| [inner.column, inner.row]).collect());
                path.push(corner);
                continue;
            }
            places.insert(at, path.len());
        }
        path.push(corner);
    }
    rings.push(path.into_iter().map(|corner| [corner.column, corner.row]).collect());
    rings
}

/// Turns a ring to start at its first corner by (row, column).
fn canonical(mut ring: Ring) -> Ring {
    let first = (0..ring.len()).min_by_key(|&at| (ring[at][1], ring[at][0])).unwrap_or(0);
    ring.rotate_left(first);
    ring
}
