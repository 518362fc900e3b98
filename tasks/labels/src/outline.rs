//! Outlines of sites that are lines or polygons, in a plane, and how far points lie from them.
//!
//! Distances are asked for a block of points at a time: only edges that may be nearest to one of them are looked at, so that
//! an outline of many points costs its length once for a block, not for a point. What is told is exact.

use geo::{Coord, Geometry, LineString, Polygon};
use swath_task::TaskError;

use crate::faults::fault;

/// Longest edge of a shape, in degrees, that is laid into the plane without points in between.
const EDGE: f64 = 0.01;
/// Points that an outline may have, those between its own included.
pub const MOST_POINTS: usize = 100_000;

/// An edge of an outline; both ends are the same for a point.
type Edge = [Coord; 2];

/// The edges of a shape.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// Edges that enclose nothing.
    lines: Vec<Edge>,
    /// The edges of each polygon, holes included.
    polygons: Vec<Vec<Edge>>,
}

impl Outline {
    /// The outline of a shape in degrees, each point laid into the plane by `to_plane`. Long edges get points in between, so that
    /// they stay straight in degrees.
    pub fn new(name: &str, shape: &Geometry, to_plane: impl Fn(Coord) -> Coord) -> Result<Self, TaskError> {
        let mut outline = Self::default();
        let mut points = 0;
        outline.add(shape, &mut |line: &LineString| {
            let mut edges = Vec::new();
            let mut last = line.0.first().copied().map(&to_plane);
            for pair in line.0.windows(2) {
                let (from, to) = (pair[0], pair[1]);
                let parts = ((to.x - from.x).hypot(to.y - from.y) / EDGE).ceil().clamp(1.0, 36_000.0) as usize;
                points += parts;
                if points > MOST_POINTS {
                    let message = format!("the outline of the site `{name}` has more than {MOST_POINTS} points");
                    return Err(fault("L103", message, "simplify it, or make its mask with `labels.vector`"));
                }
                for part in 1..=parts {
                    let next = to_plane(from + (to - from) * (part as f64 / parts as f64));
                    edges.push([last.unwrap_or(next), next]);
                    last = Some(next);
                }
            }
            if let (true, Some(alone)) = (edges.is_empty(), last) {
                edges.push([alone; 2]);
            }
            Ok(edges)
        })?;
        Ok(outline)
    }

    fn add(
        &mut self,
        shape: &Geometry,
        edges: &mut impl FnMut(&LineString) -> Result<Vec<Edge>, TaskError>,
    ) -> Result<(), TaskError> {
        let mut polygon = |polygon: &Polygon| -> Result<Vec<Edge>, TaskError> {
            let mut all = edges(polygon.exterior())?;
            for hole in polygon.interiors() {
                all.extend(edges(hole)?);
            }
            Ok(all)
        };
        match shape {
            Geometry::Polygon(one) => self.polygons.push(polygon(one)?),
            Geometry::MultiPolygon(many) => {
                for one in many {
                    self.polygons.push(polygon(one)?);
                }
            }
            Geometry::Rect(one) => self.polygons.push(polygon(&one.to_polygon())?),
            Geometry::Triangle(one) => self.polygons.push(polygon(&one.to_polygon())?),
            Geometry::Point(one) => self.lines.extend(edges(&LineString(vec![one.0]))?),
            Geometry::MultiPoint(many) => {
                for one in many {
                    self.lines.extend(edges(&LineString(vec![one.0]))?);
                }
            }
            Geometry::Line(one) => self.lines.extend(edges(&LineString(vec![one.start, one.end]))?),
            Geometry::LineString(one) => self.lines.extend(edges(one)?),
            Geometry::MultiLineString(many) => {
                for one in many {
                    self.lines.extend(edges(one)?);
                }
            }
            Geometry::GeometryCollection(many) => {
                for one in many {
                    self.add(one, edges)?;
                }
            }
        }
        Ok(())
    }

    fn edges(&self) -> impl Iterator<Item = &Edge> {
        self.lines.iter().chain(self.polygons.iter().flatten())
    }

    /// The ends of its edges.
    pub fn points(&self) -> impl Iterator<Item = Coord> {
        self.edges().flatten().copied()
    }

    /// How far each point lies from it: 0 within a polygon, infinitely far where there is no point.
    pub fn distances(&self, points: &[Option<Coord>]) -> Vec<f64> {
        let Some(centre) = points.iter().flatten().next().copied() else { return vec![f64::INFINITY; points.len()] };
        let radius = points.iter().flatten().map(|point| between(*point, centre)).fold(0.0, f64::max);
        let nearest = self.edges().map(|edge| to_edge(centre, edge)).fold(f64::INFINITY, f64::min);
        // The edge nearest to a point is at most this far from the centre: there and back over the nearest to the centre.
        let far = nearest + 2.0 * radius;
        let close: Vec<Edge> = self.edges().filter(|edge| to_edge(centre, edge) <= far).copied().collect();
        // Only edges beside a point tell on which side of them it lies.
        let (above, below) = (centre.y + radius, centre.y - radius);
        let beside = |edge: &&Edge| edge[0].y.min(edge[1].y) <= above && edge[0].y.max(edge[1].y) >= below;
        let polygons: Vec<Vec<Edge>> =
            self.polygons.iter().map(|edges| edges.iter().filter(beside).copied().collect()).collect();
        // Without an outline between them all points lie on one side.
        let all = (nearest > radius).then(|| holds(&polygons, centre));
        let distance = |point: &Option<Coord>| {
            let Some(point) = *point else { return f64::INFINITY };
            if all.unwrap_or_else(|| holds(&polygons, point)) {
                return 0.0;
            }
            close.iter().map(|edge| to_edge(point, edge)).fold(f64::INFINITY, f64::min)
        };
        points.iter().map(distance).collect()
    }
}

/// Whether a point lies within one of the polygons: whether a line from it to the right crosses an odd number of edges.
fn holds(polygons: &[Vec<Edge>], point: Coord) -> bool {
    let crosses = |[from, to]: &&Edge| {
        (from.y > point.y) != (to.y > point.y)
            && point.x < from.x + (to.x - from.x) * (point.y - from.y) / (to.y - from.y)
    };
    polygons.iter().any(|edges| edges.iter().filter(crosses).count() % 2 == 1)
}

fn between(a: Coord, b: Coord) -> f64 {
    (a.x - b.x).hypot(a.y - b.y)
}

fn to_edge(point: Coord, [from, to]: &Edge) -> f64 {
    let along = *to - *from;
    let square = along.x * along.x + along.y * along.y;
    let share = if square > 0.0 { ((point - *from).x * along.x + (point - *from).y * along.y) / square } else { 0.0 };
    between(point, *from + along * share.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use geo::{Distance as _, Euclidean, Point, polygon};

    use super::*;

    #[test]
    fn distances_are_those_of_the_whole_outline_wherever_a_block_of_points_lies() {
        let hole = LineString::from(vec![(-0.2, -0.2), (0.3, -0.2), (0.3, 0.3), (-0.2, -0.2)]);
        let star = polygon![(x: 0.0, y: 1.0), (x: 0.3, y: 0.3), (x: 1.0, y: 0.1), (x: 0.2, y: -0.4), (x: -0.7, y: -0.9), (x: -0.4, y: 0.2)];
        let star = Polygon::new(star.exterior().clone(), vec![hole]);
        let line = LineString::from(vec![(2.0, 2.0), (2.5, -1.0)]);
        let shape = Geometry::GeometryCollection(vec![Geometry::from(star), line.into()].into());
        let outline = Outline::new("star", &shape, |point| point).unwrap();
        for (left, bottom) in [(-0.3, -0.3), (-1.5, -1.5), (0.5, 0.5), (1.9, 0.0), (8.0, 8.0), (0.0, 0.0)] {
            let points: Vec<Option<Coord>> = (0..400)
                .map(|at| {
                    (at % 7 > 0)
                        .then(|| Coord { x: left + f64::from(at % 20) / 20.0, y: bottom + f64::from(at / 20) / 20.0 })
                })
                .collect();
            for (point, distance) in points.iter().zip(outline.distances(&points)) {
                let expected = point.map_or(f64::INFINITY, |point| Euclidean.distance(&Point(point), &shape));
                assert!(distance == expected || (distance - expected).abs() < 1e-12, "{point:?} {distance} {expected}");
            }
        }
    }

    #[test]
    fn an_outline_of_too_many_points_is_refused_before_it_is_made() {
        // A million edges, each a degree long: a hundred million points once they are straight in degrees.
        let zigzag = (0..1_000_000).map(|at| Coord { x: f64::from(at % 2), y: f64::from(at) * 1e-6 });
        let shape = Geometry::Polygon(Polygon::new(LineString::from_iter(zigzag), vec![]));
        let Err(TaskError::Permanent(fault)) = Outline::new("zigzag", &shape, |point| point) else { panic!() };
        assert!(fault.code == "L103" && fault.message.contains("`zigzag` has more than 100000 points"), "{fault:?}");
    }
}
