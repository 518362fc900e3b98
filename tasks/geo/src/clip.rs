//! Cutting polygons to a box, and telling which boxes of a CRS hold a grid.
//!
//! The cut is that of Sutherland and Hodgman ("Reentrant polygon clipping", CACM 17 (1974), 32-42), ring by ring: it asks nothing of
//! a polygon, valid or not, and takes no more than its points. Parts of a polygon may hang together along the edge of the
//! box: outside of the grid, which such a box surrounds with room to spare.

use crate::crs::{Crs, Transform};
use crate::error::{ErrorKind, GeoError, Result};
use crate::geometry::Geometry;
use crate::grid::{Bounds, Grid};

/// Points of each edge of a grid that are projected, and lines across it.
const POINTS: usize = 64;
/// Room around a grid, as a share of it.
const ROOM: f64 = 0.05;

impl Grid {
    /// Boxes in another CRS that together hold all of this grid and some room around it: two or three where it crosses the
    /// antimeridian, since the same place has several longitudes. `None` where a part of the grid has no place in that CRS.
    pub fn boxes_in(&self, crs: &Crs) -> Result<Option<Vec<Bounds>>> {
        let transform = Transform::new(&self.crs, crs)?;
        let bounds = self.bounds();
        let (wide, high) = (bounds.right - bounds.left, bounds.top - bounds.bottom);
        // Points all over the grid, not on its edges only: a pole within it lies in no edge's box.
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for row in 0..=POINTS {
            for column in 0..=POINTS {
                xs.push(bounds.left + wide * column as f64 / POINTS as f64);
                ys.push(bounds.bottom + high * row as f64 / POINTS as f64);
            }
        }
        transform.points_lossy(&mut xs, &mut ys);
        if xs.iter().chain(&ys).any(|value| !value.is_finite()) {
            return Ok(None);
        }
        if !crs.is_geographic() {
            return Ok(Some(vec![roomy(&xs, &ys)]));
        }
        // A row of points is followed along the parallel: neighbours are near each other.
        let mut round = false;
        for index in 1..xs.len() {
            let near = if index % (POINTS + 1) == 0 { index - POINTS - 1 } else { index - 1 };
            xs[index] -= ((xs[index] - xs[near]) / 360.0).round() * 360.0;
        }
        let back = Transform::new(crs, &self.crs)?;
        let (mut pole_xs, mut pole_ys) = (vec![0.0, 0.0], vec![90.0, -90.0]);
        back.points_lossy(&mut pole_xs, &mut pole_ys);
        let mut around = roomy(&xs, &ys);
        for (pole, (x, y)) in [90.0, -90.0].into_iter().zip(pole_xs.into_iter().zip(pole_ys)) {
            let (x_room, y_room) = (wide * ROOM, high * ROOM);
            let within = (bounds.left - x_room..=bounds.right + x_room).contains(&x)
                && (bounds.bottom - y_room..=bounds.top + y_room).contains(&y);
            if within {
                round = true;
                around = around.union(&Bounds { left: 0.0, bottom: pole, right: 0.0, top: pole });
            }
        }
        if round || around.right - around.left >= 360.0 {
            return Ok(Some(vec![Bounds { left: -540.0, right: 540.0, ..around }]));
        }
        let turned = |turn: f64| Bounds { left: around.left + turn, right: around.right + turn, ..around };
        let usual = |b: &Bounds| b.left <= 360.0 && b.right >= -180.0;
        Ok(Some([-360.0, 0.0, 360.0].map(turned).into_iter().filter(usual).collect()))
    }
}

/// The box around points, and some room around it.
fn roomy(xs: &[f64], ys: &[f64]) -> Bounds {
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = |values: &[f64]| values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (left, right, bottom, top) = (least(xs), most(xs), least(ys), most(ys));
    let (wide, high) = ((right - left) * ROOM, (top - bottom) * ROOM);
    Bounds { left: left - wide, bottom: bottom - high, right: right + wide, top: top + high }
}

impl Geometry {
    /// The part of a polygon, or of a set of polygons, in a box; empty where there is none. A third dimension is dropped.
    pub fn clip(&self, to: &Bounds) -> Result<Self> {
        let wkb = self.to_wkb()?;
        let mut reader = Reader { rest: &wkb };
        let mut polygons = Vec::new();
        reader.polygons(to, &mut polygons)?;
        let mut out = head(6, polygons.len());
        for rings in polygons {
            out.extend(head(3, rings.len()));
            for ring in rings {
                out.extend((ring.len() as u32).to_le_bytes());
                out.extend(ring.iter().flatten().flat_map(|value| value.to_le_bytes()));
            }
        }
        Self::from_wkb(&out)
    }
}

/// The first bytes of well-known binary: little-endian, a type, and how many parts.
fn head(kind: u32, parts: usize) -> Vec<u8> {
    let mut out = vec![1];
    out.extend(kind.to_le_bytes());
    out.extend((parts as u32).to_le_bytes());
    out
}

type Ring = Vec<[f64; 2]>;

/// Little-endian ISO well-known binary, as [`Geometry::to_wkb`] writes it.
struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| GeoError::new(ErrorKind::Geometry, "a geometry ends before its last point"))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn polygons(&mut self, to: &Bounds, found: &mut Vec<Vec<Ring>>) -> Result<()> {
        self.take::<1>()?;
        let kind = self.number()?;
        // Thousands tell of a third and fourth dimension.
        let more = [0, 1, 1, 2][(kind / 1000 % 4) as usize];
        match kind % 1000 {
            6 => (0..self.number()?).try_for_each(|_| self.polygons(to, found)),
            3 => {
                let rings = (0..self.number()?).map(|_| self.ring(to, more)).collect::<Result<Vec<_>>>()?;
                // Without an outer ring holes mean nothing.
                if rings.first().is_some_and(|ring| !ring.is_empty()) {
                    found.push(rings.into_iter().filter(|ring| !ring.is_empty()).collect());
                }
                Ok(())
            }
            _ => Err(GeoError::new(ErrorKind::Request, "only polygons can be cut to a box")),
        }
    }

    fn ring(&mut self, to: &Bounds, more: usize) -> Result<Ring> {
        let mut ring = Ring::new();
        for _ in 0..self.number()? {
            let point = [f64::from_le_bytes(self.take()?), f64::from_le_bytes(self.take()?)];
            for _ in 0..more {
                self.take::<8>()?;
            }
            ring.push(point);
        }
        let sides = [(0, to.left, 1.0), (0, to.right, -1.0), (1, to.bottom, 1.0), (1, to.top, -1.0)];
        Ok(sides.into_iter().fold(ring, |ring, (axis, limit, sign)| cut(&ring, axis, limit, sign)))
    }
}

/// What of a closed ring lies above (`sign` 1) or below (-1) a limit; closed, or empty.
fn cut(ring: &[[f64; 2]], axis: usize, limit: f64, sign: f64) -> Ring {
    let inside = |point: &[f64; 2]| (point[axis] - limit) * sign >= 0.0;
    if ring.iter().all(inside) {
        return ring.to_vec();
    }
    let mut kept = Ring::new();
    for pair in ring.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        if inside(&from) {
            kept.push(from);
        }
        if inside(&from) != inside(&to) {
            let share = (limit - from[axis]) / (to[axis] - from[axis]);
            let mut crossing = [0, 1].map(|axis| from[axis] + (to[axis] - from[axis]) * share);
            crossing[axis] = limit;
            kept.push(crossing);
        }
    }
    kept.extend(kept.first().copied());
    if kept.len() < 4 { Ring::new() } else { kept }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clipped(json: &str, to: [f64; 4]) -> String {
        let [left, bottom, right, top] = to;
        let geometry = Geometry::from_geojson(json).unwrap().clip(&Bounds { left, bottom, right, top }).unwrap();
        geometry.to_geojson().unwrap().replace(' ', "")
    }

    #[test]
    fn polygons_are_cut_to_a_box_with_their_holes() {
        let json = r#"{"type":"Polygon","coordinates":[[[0,0,5],[8,0,5],[8,8,5],[0,8,5],[0,0,5]],[[1,1,5],[1,7,5],[3,7,5],[3,1,5],[1,1,5]]]}"#;
        let cut = clipped(json, [2.0, 2.0, 10.0, 6.0]);
        let outer = "[[2.0,2.0],[8.0,2.0],[8.0,6.0],[2.0,6.0],[2.0,2.0]]";
        assert!(cut.contains("\"MultiPolygon\"") && cut.contains("[3.0,6.0]"), "{cut}");
        let corners: Vec<&str> = outer.trim_matches(['[', ']']).split("],[").collect();
        assert!(corners.iter().all(|corner| cut.contains(corner)), "{cut}");
        assert!(!clipped(json, [20.0, 20.0, 30.0, 30.0]).contains('.'), "nothing is left");
        assert!(
            Geometry::from_geojson(r#"{"type":"Point","coordinates":[0,0]}"#)
                .unwrap()
                .clip(&Bounds { left: 0.0, bottom: 0.0, right: 1.0, top: 1.0 })
                .is_err()
        );
    }

    #[test]
    fn the_boxes_of_a_grid_hold_its_pole_and_both_sides_of_the_antimeridian() {
        let grid = |epsg: u32, left: f64, top: f64| {
            let crs = Crs::from_epsg(epsg).unwrap();
            Grid { crs, left, top, pixel_width: 100.0, pixel_height: 100.0, width: 1000, height: 1000 }
        };
        let wgs84 = Crs::wgs84().unwrap();
        let of = |grid: Grid| grid.boxes_in(&wgs84).unwrap().unwrap();
        let pole = of(grid(3413, -40_000.0, 60_000.0));
        assert!(pole.len() == 1 && pole[0].top >= 90.0 && pole[0].bottom > 88.0 && pole[0].left <= -180.0, "{pole:?}");
        let south = of(grid(3031, -90_000.0, 10_000.0));
        assert!(south.len() == 1 && south[0].bottom <= -90.0 && south[0].top < -88.0, "{south:?}");
        // Zone 1 beyond its western edge, on the antimeridian.
        let fiji = of(grid(32701, 120_000.0, 8_100_000.0));
        assert!(fiji.iter().any(|b| b.left < -180.0 && b.right > -180.0), "{fiji:?}");
        assert!(fiji.iter().any(|b| b.left < 180.0 && b.right > 180.0), "{fiji:?}");
        assert!(fiji.iter().all(|b| b.right - b.left < 2.0), "{fiji:?}");
        let plain = of(grid(32633, 500_000.0, 5_200_000.0));
        assert!(plain.iter().any(|b| b.left < 15.0 && b.right > 16.0 && b.right < 17.0), "{plain:?}");
    }
}
