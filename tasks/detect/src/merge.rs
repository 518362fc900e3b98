//! Which detections are one object: density clusters over the ground, or boxes that overlap.
//!
//! Distances are metres over the globe, never degrees: points become vectors on the unit sphere, where a cube grid
//! finds neighbours at the poles and over the antimeridian like anywhere else.

use std::collections::HashMap;

/// Mean radius of the Earth in metres (IUGG R1), the radius of haversine distances.
pub const EARTH_RADIUS: f64 = 6_371_008.8;

type Vector = [f64; 3];
type Cell = [i32; 3];

/// DBSCAN over longitudes and latitudes in degrees, by great-circle distance.
///
/// A point with at least `min_samples` points (itself among them) within `eps` metres is a core; cores within `eps` of
/// each other are one cluster; other points join the first cluster with a core within `eps`, or are noise (`None`).
/// Clusters are numbered by their first core: the numbers are those of scikit-learn.
pub fn dbscan(points: &[(f64, f64)], eps: f64, min_samples: usize) -> Vec<Option<u32>> {
    let grid = Grid::new(points, eps);
    let cores = grid.cores(min_samples);
    let mut sets = Sets::new(points.len());
    // Two points of one cell are always within eps (its diagonal), so cells are joined as wholes.
    let firsts: HashMap<Cell, usize> = grid
        .cells
        .iter()
        .filter_map(|(cell, members)| {
            let mut own = members.iter().copied().filter(|&at| cores[at]);
            let first = own.next()?;
            own.for_each(|at| sets.join(first, at));
            Some((*cell, first))
        })
        .collect();
    for (cell, &first) in &firsts {
        for near in neighbours(*cell).filter(|near| near > cell) {
            let Some(&other) = firsts.get(&near) else { continue };
            if !sets.same(first, other) && grid.touch(cell, &near, &cores) {
                sets.join(first, other);
            }
        }
    }
    let mut numbers: HashMap<usize, u32> = HashMap::new();
    let mut clusters: Vec<Option<u32>> = vec![None; points.len()];
    for at in (0..points.len()).filter(|&at| cores[at]) {
        let next = numbers.len() as u32;
        clusters[at] = Some(*numbers.entry(sets.root(at)).or_insert(next));
    }
    let borders: Vec<(usize, u32)> = (0..points.len())
        .filter(|&at| !cores[at])
        .filter_map(|at| {
            let near = grid.near(at).filter(|&other| cores[other]);
            near.filter_map(|other| clusters[other]).min().map(|cluster| (at, cluster))
        })
        .collect();
    for (at, cluster) in borders {
        clusters[at] = Some(cluster);
    }
    clusters
}

struct Grid {
    places: Vec<Vector>,
    own: Vec<Cell>,
    cells: HashMap<Cell, Vec<usize>>,
    /// Square of the chord that `eps` metres of arc span on the unit sphere.
    chord2: f64,
}

impl Grid {
    fn new(points: &[(f64, f64)], eps: f64) -> Self {
        let half = (eps / EARTH_RADIUS / 2.0).clamp(0.0, std::f64::consts::FRAC_PI_2);
        let chord = 2.0 * half.sin();
        // Cells whose diagonal is just below the chord. Tiny radii end at a grid that still counts in `i32`.
        let side = (chord / 3f64.sqrt() * (1.0 - 1e-12)).max(1e-9);
        let places: Vec<Vector> = points
            .iter()
            .map(|&(longitude, latitude)| {
                let (sin_lon, cos_lon) = longitude.to_radians().sin_cos();
                let (sin_lat, cos_lat) = latitude.to_radians().sin_cos();
                [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat]
            })
            .collect();
        let own: Vec<Cell> = places.iter().map(|place| place.map(|c| (c / side).floor() as i32)).collect();
        let mut cells: HashMap<Cell, Vec<usize>> = HashMap::new();
        for (at, cell) in own.iter().enumerate() {
            cells.entry(*cell).or_default().push(at);
        }
        Self { places, own, cells, chord2: chord * chord }
    }

    fn within(&self, a: usize, b: usize) -> bool {
        distance2(&self.places[a], &self.places[b]) <= self.chord2
    }

    /// The points within `eps` of a point, itself among them.
    fn near(&self, at: usize) -> impl Iterator<Item = usize> {
        let cells = neighbours(self.own[at]).filter_map(|cell| self.cells.get(&cell));
        cells.flatten().copied().filter(move |&other| other == at || self.within(at, other))
    }

    fn cores(&self, min_samples: usize) -> Vec<bool> {
        let core = |at| self.near(at).take(min_samples).count() >= min_samples;
        (0..self.places.len()).map(|at| min_samples <= 1 || core(at)).collect()
    }

    /// Whether a core of one cell is within `eps` of a core of the other.
    fn touch(&self, a: &Cell, b: &Cell, cores: &[bool]) -> bool {
        let of = |cell: &Cell| self.cells[cell].iter().copied().filter(|&at| cores[at]).collect::<Vec<_>>();
        let (a, b) = (of(a), of(b));
        let (a, b) = (self.facing(&a, &b), self.facing(&b, &a));
        a.iter().any(|&one| b.iter().any(|&other| self.within(one, other)))
    }

    /// The points of `points` within `eps` of the box around `others`: crowded cells are compared by their rims.
    fn facing(&self, points: &[usize], others: &[usize]) -> Vec<usize> {
        let (mut low, mut high) = ([f64::INFINITY; 3], [f64::NEG_INFINITY; 3]);
        for &other in others {
            for axis in 0..3 {
                low[axis] = low[axis].min(self.places[other][axis]);
                high[axis] = high[axis].max(self.places[other][axis]);
            }
        }
        let near = |at: &usize| {
            let place = &self.places[*at];
            let closest = [0, 1, 2].map(|axis| place[axis].clamp(low[axis], high[axis]));
            distance2(place, &closest) <= self.chord2
        };
        points.iter().copied().filter(near).collect()
    }
}

/// The cells that can hold a point within `eps` of a point of `cell`: the chord is shorter than two sides.
fn neighbours(cell: Cell) -> impl Iterator<Item = Cell> {
    (0..125).map(move |n| [cell[0] + n / 25 - 2, cell[1] + n / 5 % 5 - 2, cell[2] + n % 5 - 2])
}

fn distance2(a: &Vector, b: &Vector) -> f64 {
    (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum()
}

/// Union-find.
struct Sets(Vec<usize>);

impl Sets {
    fn new(len: usize) -> Self {
        Self((0..len).collect())
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.0[at] != at {
            self.0[at] = self.0[self.0[at]];
            at = self.0[at];
        }
        at
    }

    fn same(&mut self, a: usize, b: usize) -> bool {
        self.root(a) == self.root(b)
    }

    /// The smaller index becomes the root.
    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.0[a.max(b)] = a.min(b);
    }
}

/// Non-maximum suppression: `boxes` (first column, first row, end column, end row) come best first; a box whose
/// overlap (intersection over union) with a better one that stays is greater than `limit` joins it. The answer names,
/// for each box, the one that stands for it.
pub fn suppress(boxes: &[[u32; 4]], limit: f64) -> Vec<usize> {
    // Boxes live in a grid, so that each meets its neighbours only; the widest fills at most 64 x 64 cells.
    let extent = |b: &[u32; 4]| (b[2] - b[0]).max(b[3] - b[1]);
    let side = boxes.iter().map(extent).max().unwrap_or(1).div_ceil(64).max(16);
    let cells = |b: &[u32; 4]| {
        let (columns, rows) = (b[0] / side..=(b[2] - 1) / side, b[1] / side..=(b[3] - 1) / side);
        rows.flat_map(move |row| columns.clone().map(move |column| (column, row)))
    };
    let mut kept: HashMap<(u32, u32), Vec<usize>> = HashMap::new();
    let mut answer = Vec::with_capacity(boxes.len());
    for (at, own) in boxes.iter().enumerate() {
        let rivals = cells(own).filter_map(|cell| kept.get(&cell)).flatten();
        let better = rivals.copied().filter(|&other| overlap(own, &boxes[other]) > limit).min();
        if better.is_none() {
            cells(own).for_each(|cell| kept.entry(cell).or_default().push(at));
        }
        answer.push(better.unwrap_or(at));
    }
    answer
}

/// Intersection over union of two boxes.
fn overlap(a: &[u32; 4], b: &[u32; 4]) -> f64 {
    let width = a[2].min(b[2]).saturating_sub(a[0].max(b[0]));
    let height = a[3].min(b[3]).saturating_sub(a[1].max(b[1]));
    let shared = f64::from(width) * f64::from(height);
    let area = |b: &[u32; 4]| f64::from(b[2] - b[0]) * f64::from(b[3] - b[1]);
    shared / (area(a) + area(b) - shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn haversine(a: (f64, f64), b: (f64, f64)) -> f64 {
        let (dlon, dlat) = ((b.0 - a.0).to_radians(), (b.1 - a.1).to_radians());
        let h =
            (dlat / 2.0).sin().powi(2) + a.1.to_radians().cos() * b.1.to_radians().cos() * (dlon / 2.0).sin().powi(2);
        2.0 * EARTH_RADIUS * h.sqrt().min(1.0).asin()
    }

    /// DBSCAN as its authors wrote it, every distance computed.
    fn naive(points: &[(f64, f64)], eps: f64, min_samples: usize) -> Vec<Option<u32>> {
        let near = |a: usize| (0..points.len()).filter(move |&b| a == b || haversine(points[a], points[b]) <= eps);
        let cores: Vec<bool> = (0..points.len()).map(|a| near(a).count() >= min_samples).collect();
        let mut labels = vec![None; points.len()];
        let mut next = 0;
        for start in 0..points.len() {
            if !cores[start] || labels[start].is_some() {
                continue;
            }
            let mut stack = vec![start];
            labels[start] = Some(next);
            while let Some(at) = stack.pop() {
                for other in near(at).collect::<Vec<_>>() {
                    if labels[other].is_none() {
                        labels[other] = Some(next);
                        if cores[other] {
                            stack.push(other);
                        }
                    }
                }
            }
            next += 1;
        }
        labels
    }

    /// A small generator of numbers in 0..1 (SplitMix64).
    fn numbers(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    #[test]
    fn clusters_are_those_of_the_plain_algorithm() {
        let mut number = numbers(7);
        for (longitude, latitude, spread) in
            [(68.3, 46.2, 0.5), (180.0, 10.0, 0.3), (0.0, 89.9, 0.1), (-70.0, -33.0, 0.05)]
        {
            let points: Vec<(f64, f64)> = (0..400)
                .map(|_| {
                    let lon: f64 = longitude + (number() - 0.5) * spread / f64::to_radians(latitude).cos().max(1e-3);
                    let lon = if lon > 180.0 { lon - 360.0 } else { lon };
                    (lon, (latitude + (number() - 0.5) * spread).min(90.0))
                })
                .collect();
            for (eps, min_samples) in [(500.0, 1), (2000.0, 1), (1500.0, 3), (2500.0, 6), (0.0, 1), (3e7, 1)] {
                let got = dbscan(&points, eps, min_samples);
                assert_eq!(got, naive(&points, eps, min_samples), "{longitude} {latitude} {eps} {min_samples}");
            }
        }
    }

    #[test]
    fn two_kilometres_are_two_kilometres_in_every_direction_and_latitude() {
        for latitude in [0.0, 46.0, 70.0] {
            let east = 1900.0 / (111_195.0 * f64::to_radians(latitude).cos());
            let points = [(10.0, latitude), (10.0 + east, latitude), (10.0, latitude + 2100.0 / 111_195.0)];
            assert_eq!(dbscan(&points, 2000.0, 1), vec![Some(0), Some(0), Some(1)], "{latitude}");
        }
    }

    #[test]
    fn a_hundred_thousand_points_take_well_under_a_second_each_way() {
        for spread in [0.001, 0.1, 5.0] {
            let mut number = numbers(1);
            let points: Vec<_> = (0..100_000).map(|_| (20.0 + spread * number(), 40.0 + spread * number())).collect();
            let start = std::time::Instant::now();
            dbscan(&points, 2000.0, 1);
            assert!(start.elapsed().as_secs_f64() < 5.0, "{spread}: {:?}", start.elapsed());
        }
    }

    #[test]
    fn overlapping_boxes_join_the_best_one() {
        let boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [9, 9, 19, 19], [0, 0, 100, 100], [10, 0, 20, 10]];
        assert_eq!(suppress(&boxes, 0.5), vec![0, 0, 2, 3, 4]);
        assert_eq!(suppress(&boxes, 0.0), vec![0, 0, 0, 0, 4]);
        assert!(suppress(&[], 0.5).is_empty());
    }
}
