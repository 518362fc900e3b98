//! Polygons on the globe: geodesic area and length on WGS 84, centroid, and RFC 7946's form (counter-clockwise
//! exteriors, nothing across the antimeridian, poles closed).
//!
//! Edges between corners are geodesics when they are measured; they are not densified, since an edge is one side of
//! one pixel or a straight row of them.

use geo::{BooleanOps, BoundingRect, Coord, GeodesicArea, Intersects, LineString, MultiPolygon, Polygon, Rect};

/// Semi-major axis of WGS 84 in metres.
const A: f64 = 6_378_137.0;
/// Flattening of WGS 84.
const F: f64 = 1.0 / 298.257_223_563;
const E2: f64 = F * (2.0 - F);
/// Edges below this many degrees are measured on the authalic sphere; longer ones by Karney's geodesics. At this
/// length both agree to about 1e-9 of the area.
const SHORT: f64 = 0.02;

/// A ring of `[longitude, latitude]` in degrees, not closed. Consecutive longitudes differ by less than 180: they may
/// leave -180..180, and a ring around a pole ends 360 degrees from its start.
pub type Ring = Vec<[f64; 2]>;

/// What was measured on one polygon or several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measures {
    /// Geodesic area in square metres.
    pub area: f64,
    /// Geodesic length of all rings in metres.
    pub perimeter: f64,
    /// Longitude and latitude of the centroid, taken in the plane of longitude and latitude.
    pub centroid: [f64; 2],
}

/// Takes out the jumps of 360 degrees between neighbours.
pub fn unwrap(ring: &mut Ring) {
    let mut last = ring[0][0];
    for point in ring.iter_mut().skip(1) {
        point[0] -= ((point[0] - last) / 360.0).round() * 360.0;
        last = point[0];
    }
}

/// Degrees of longitude from the last point of an unwrapped ring back over its first: 0, or +-360 around a pole.
fn winding(ring: &Ring) -> f64 {
    let (first, last) = (ring[0][0], ring[ring.len() - 1][0]);
    ((last - first) / 360.0).round() * 360.0
}

/// Measures polygons: for each, unwrapped rings, the exterior first.
pub fn measure(polygons: &[Vec<Ring>]) -> Measures {
    let (mut area, mut perimeter) = (0.0, 0.0);
    let (mut weight, mut east, mut north) = (0.0, 0.0, 0.0);
    let origin = polygons[0][0][0];
    for rings in polygons {
        let (own_area, own_perimeter) = if rings.iter().all(is_short) { short(rings) } else { long(rings) };
        area += own_area;
        perimeter += own_perimeter;
        // Rings of the other side of the antimeridian come to the side of the origin.
        let turn = ((rings[0][0][0] - origin[0]) / 360.0).round() * 360.0;
        for (index, ring) in rings.iter().enumerate() {
            let inner = ((ring[0][0] - rings[0][0][0]) / 360.0).round() * 360.0;
            let (mut doubled, mut x, mut y) = (0.0, 0.0, 0.0);
            let shift = |point: &[f64; 2]| [point[0] - turn - inner - origin[0], point[1] - origin[1]];
            let mut last = shift(&ring[ring.len() - 1]);
            last[0] -= winding(ring);
            for point in ring {
                let point = shift(point);
                let cross = last[0] * point[1] - point[0] * last[1];
                doubled += cross;
                x += (last[0] + point[0]) * cross;
                y += (last[1] + point[1]) * cross;
                last = point;
            }
            let sign = if (doubled >= 0.0) == (index == 0) { 1.0 } else { -1.0 };
            (weight, east, north) = (weight + sign * doubled, east + sign * x, north + sign * y);
        }
    }
    let centroid = if weight.abs() > 0.0 {
        [wrap(origin[0] + east / (3.0 * weight)), origin[1] + north / (3.0 * weight)]
    } else {
        [wrap(origin[0]), origin[1]]
    };
    Measures { area, perimeter, centroid }
}

/// A longitude in -180..=180.
fn wrap(longitude: f64) -> f64 {
    if (-180.0..=180.0).contains(&longitude) { longitude } else { (longitude + 180.0).rem_euclid(360.0) - 180.0 }
}

fn is_short(ring: &Ring) -> bool {
    let mut last = ring[ring.len() - 1];
    winding(ring) == 0.0
        && ring.iter().all(|point| {
            let short = (point[0] - last[0]).abs() < SHORT && (point[1] - last[1]).abs() < SHORT;
            last = *point;
            short && point[1].abs() < 89.0
        })
}

/// Area between the equator and a great circle of the authalic sphere, edge by edge (Karney 2013, equation 63 on that
/// sphere); lengths by the radii of curvature at the middle of each edge.
fn short(rings: &[Ring]) -> (f64, f64) {
    let e = E2.sqrt();
    let q = |sine: f64| (1.0 - E2) * (sine / (1.0 - E2 * sine * sine) + (e * sine).atanh() / e);
    let pole = q(1.0);
    let half_tangent = |latitude: f64| {
        let sine = q(latitude.to_radians().sin()) / pole;
        sine / (1.0 + (1.0 - sine * sine).max(0.0).sqrt())
    };
    let (mut area, mut perimeter) = (0.0, 0.0);
    for (index, ring) in rings.iter().enumerate() {
        let mut last = ring[ring.len() - 1];
        let mut last_tangent = half_tangent(last[1]);
        let mut excess = 0.0;
        for &point in ring {
            let tangent = if point[1] == last[1] { last_tangent } else { half_tangent(point[1]) };
            let turn = (point[0] - last[0]).to_radians();
            excess += 2.0 * ((turn / 2.0).tan() * (last_tangent + tangent)).atan2(1.0 + last_tangent * tangent);
            let (sine, cosine) = ((point[1] + last[1]) / 2.0).to_radians().sin_cos();
            let w2 = 1.0 - E2 * sine * sine;
            let prime_vertical = A / w2.sqrt();
            let meridian = prime_vertical * (1.0 - E2) / w2;
            perimeter += (prime_vertical * cosine * turn).hypot(meridian * (point[1] - last[1]).to_radians());
            (last, last_tangent) = (point, tangent);
        }
        let own = (excess * A * A * pole / 2.0).abs();
        area += if index == 0 { own } else { -own };
    }
    (area, perimeter)
}

fn long(rings: &[Ring]) -> (f64, f64) {
    let (mut area, mut perimeter) = (0.0, 0.0);
    for (index, ring) in rings.iter().enumerate() {
        let polygon = Polygon::new(line(ring.iter().map(|p| [wrap(p[0]), p[1]])), vec![]);
        let (length, own) = polygon.geodesic_perimeter_area_signed();
        perimeter += length;
        area += if index == 0 { own.abs() } else { -own.abs() };
    }
    (area, perimeter)
}

fn line(points: impl Iterator<Item = [f64; 2]>) -> LineString {
    LineString(points.map(|[x, y]| Coord { x, y }).collect())
}

/// The polygons as RFC 7946 wants them: longitudes in -180..=180, cut at the antimeridian, exteriors counter-clockwise
/// and holes clockwise. Rings stay unclosed.
pub fn rfc7946(polygons: Vec<Vec<Ring>>) -> Vec<Vec<Ring>> {
    let mut all = Vec::with_capacity(polygons.len());
    for rings in polygons {
        let inside = |ring: &Ring| winding(ring) == 0.0 && ring.iter().all(|point| point[0].abs() <= 180.0);
        if rings.iter().all(inside) {
            all.push(rings);
        } else {
            all.extend(cut(&rings));
        }
    }
    for rings in &mut all {
        for (index, ring) in rings.iter_mut().enumerate() {
            if (doubled_area(ring) > 0.0) != (index == 0) {
                ring.reverse();
            }
        }
    }
    all
}

fn doubled_area(ring: &Ring) -> f64 {
    let (origin, mut sum) = (ring[0], 0.0);
    for pair in ring.windows(2) {
        let ([ax, ay], [bx, by]) = (pair[0], pair[1]);
        sum += (ax - origin[0]) * (by - origin[1]) - (bx - origin[0]) * (ay - origin[1]);
    }
    sum
}

/// Cuts a polygon at the antimeridian: the windows of its exterior without the windows of its holes.
fn cut(rings: &[Ring]) -> Vec<Vec<Ring>> {
    let holes: Vec<MultiPolygon> = rings[1..].iter().map(windows).collect();
    let mut whole = Vec::new();
    // One side at a time: the overlay counts on an integer grid over all it is given.
    for side in windows(&rings[0]) {
        let bounds = side.bounding_rect();
        let near = |hole: &&Polygon| hole.bounding_rect().zip(bounds).is_some_and(|(a, b)| a.intersects(&b));
        let holes = MultiPolygon(holes.iter().flatten().filter(near).cloned().collect());
        if holes.0.is_empty() {
            whole.push(side);
        } else {
            whole.extend(side.difference(&holes));
        }
    }
    let open = |line: &LineString| line.0[..line.0.len() - 1].iter().map(|c| [snapped(c.x), c.y]).collect::<Ring>();
    whole
        .iter()
        .map(|polygon| std::iter::once(polygon.exterior()).chain(polygon.interiors()).map(open).collect())
        .collect()
}

/// What was cut at the antimeridian lies there exactly; the overlay rounds to its integer grid.
fn snapped(longitude: f64) -> f64 {
    if 180.0 - longitude.abs() < 1e-6 { 180f64.copysign(longitude) } else { longitude }
}

/// The area inside a ring, cut into windows of 360 degrees that are moved to -180..180.
fn windows(ring: &Ring) -> MultiPolygon {
    let mut points = ring.clone();
    let turn = winding(ring);
    if turn != 0.0 {
        // Around a pole: back along the pole's own edge of the map.
        let pole = 90f64.copysign(ring[0][1]);
        let first = ring[0];
        points.extend([[first[0] + turn, first[1]], [first[0] + turn, pole], [first[0], pole]]);
    }
    // Windows as low and narrow as can be: the overlay counts on an integer grid over all it is given.
    let (west, east) = points.iter().fold((f64::MAX, f64::MIN), |(w, e), p| (w.min(p[0]), e.max(p[0])));
    let (south, north) = points.iter().fold((f64::MAX, f64::MIN), |(s, n), p| (s.min(p[1]), n.max(p[1])));
    let polygon = Polygon::new(line(points.into_iter()), vec![]);
    let mut all = Vec::new();
    let (first, last) = (((west + 180.0) / 360.0).floor() as i32, ((east + 180.0) / 360.0).ceil() as i32);
    for window in first..last {
        let middle = f64::from(window) * 360.0;
        let (from, to) = ((middle - 180.0).max(west), (middle + 180.0).min(east));
        if from < to {
            let side = Rect::new(Coord { x: from, y: south }, Coord { x: to, y: north }).to_polygon();
            let mut inside = polygon.intersection(&side);
            let back = |c: &mut Coord| c.x -= middle;
            for part in &mut inside.0 {
                part.exterior_mut(|line| line.0.iter_mut().for_each(back));
                part.interiors_mut(|lines| lines.iter_mut().for_each(|line| line.0.iter_mut().for_each(back)));
            }
            all.extend(inside.0);
        }
    }
    MultiPolygon(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(west: f64, south: f64, side: f64) -> Vec<Ring> {
        vec![vec![[west, south], [west + side, south], [west + side, south + side], [west, south + side]]]
    }

    #[test]
    fn short_edges_measure_as_geodesics_do() {
        for latitude in [-80.0, -33.0, -0.005, 0.0, 10.0, 46.2, 60.0, 85.0] {
            for side in [0.0001, 0.001, 0.005, 0.019] {
                let mut rings = square(68.3, latitude, side);
                rings.push(square(68.3 + side / 4.0, latitude + side / 4.0, side / 2.0).remove(0));
                let ((area, perimeter), (exact, length)) = (short(&rings), long(&rings));
                assert!((area / exact - 1.0).abs() < 2e-8, "{latitude} {side}: {}", area / exact - 1.0);
                assert!((perimeter / length - 1.0).abs() < 1e-8, "{latitude} {side}: {}", perimeter / length - 1.0);
            }
        }
    }

    #[test]
    fn a_degree_at_the_equator_has_the_area_that_karney_gives() {
        // GeographicLib's Planimeter for the square 0,0 to 1,1.
        let measures = measure(&[square(0.0, 0.0, 1.0)]);
        assert!((measures.area - 12_308_778_361.469).abs() < 0.01, "{}", measures.area);
        assert!((measures.perimeter - 443_770.917).abs() < 0.01, "{}", measures.perimeter);
        assert!((measures.centroid[0] - 0.5).abs() < 1e-12 && (measures.centroid[1] - 0.5).abs() < 1e-12);
    }

    #[test]
    fn what_crosses_the_antimeridian_is_cut_there_and_measured_whole() {
        let mut ring: Ring = vec![[179.995, -17.0], [-179.995, -17.0], [-179.995, -16.99], [179.995, -16.99]];
        unwrap(&mut ring);
        let mut hole: Ring = vec![[179.998, -16.998], [179.998, -16.996], [-179.998, -16.996], [-179.998, -16.998]];
        unwrap(&mut hole);
        let polygons = vec![vec![ring, hole]];
        let measures = measure(&polygons);
        assert!((measures.centroid[0].abs() - 180.0).abs() < 1e-9, "{:?}", measures.centroid);
        let same = measure(&[vec![
            vec![[9.995, -17.0], [10.005, -17.0], [10.005, -16.99], [9.995, -16.99]],
            vec![[9.998, -16.998], [9.998, -16.996], [10.002, -16.996], [10.002, -16.998]],
        ]]);
        assert!((measures.area / same.area - 1.0).abs() < 1e-9);
        let cut = rfc7946(polygons);
        assert_eq!(cut.len(), 2);
        let total: f64 = cut.iter().flatten().map(doubled_area).sum::<f64>() / 2.0;
        assert!((total - (1e-4 - 8e-6)).abs() < 1e-10, "{total}");
        for point in cut.iter().flatten().flatten() {
            assert!((179.99..=180.0).contains(&point[0].abs()), "{point:?}");
        }
        assert!(cut.iter().all(|rings| rings.iter().any(|ring| ring.iter().any(|p| p[0].abs() == 180.0))));
    }

    #[test]
    fn what_surrounds_a_pole_is_closed_over_it() {
        let ring: Ring = (0..36).map(|n| [f64::from(n) * 10.0, 85.0]).collect();
        let mut ring: Ring = ring.into_iter().map(|p| [wrap(p[0]), p[1]]).collect();
        unwrap(&mut ring);
        let inner: Ring = ring.iter().map(|p| [p[0] + 5.0, 88.0]).collect();
        let cut = rfc7946(vec![vec![ring, inner]]);
        let total: f64 = cut.iter().flatten().map(doubled_area).sum::<f64>() / 2.0;
        assert!((total - 360.0 * 3.0).abs() < 1e-6, "{total}");
        assert!(cut.iter().flatten().flatten().all(|p| p[0].abs() <= 180.0 && (85.0..=90.0).contains(&p[1])));
    }

    #[test]
    fn rings_turn_as_rfc_7946_says() {
        let mut rings = square(1.0, 1.0, 1.0);
        rings.push(square(1.2, 1.2, 0.2).remove(0));
        rings[0].reverse();
        let turned = rfc7946(vec![rings]);
        assert!(doubled_area(&turned[0][0]) > 0.0 && doubled_area(&turned[0][1]) < 0.0);
    }
}
