//! The tracer against a flood fill written as plainly as possible.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::rings::doubled_area;
use crate::runs::append;

const ALL: Limits = Limits { min_pixels: 1, candidates: u64::MAX, corners: u64::MAX };

fn trace(values: &[Vec<f32>], connectivity: Connectivity, limits: Limits) -> Result<(Vec<Component>, u64), Error> {
    let mut tracer = Tracer::new(connectivity, limits);
    for row in values {
        tracer.push_row(&runs_of(row))?;
    }
    tracer.finish()
}

fn runs_of(row: &[f32]) -> Vec<Run> {
    let mut runs = Vec::new();
    append(&mut runs, row, 0, 0.5);
    runs
}

fn picture(rows: &[&str]) -> Vec<Vec<f32>> {
    rows.iter().map(|row| row.bytes().map(|b| if b == b'#' { 0.75 } else { 0.25 }).collect()).collect()
}

/// Components as sets of (row, column).
fn flood(values: &[Vec<f32>], connectivity: Connectivity) -> BTreeSet<BTreeSet<(i64, i64)>> {
    let set = |r: i64, c: i64| {
        usize::try_from(r)
            .ok()
            .and_then(|r| values.get(r))
            .is_some_and(|row| usize::try_from(c).ok().and_then(|c| row.get(c)).is_some_and(|value| *value > 0.5))
    };
    let mut seen = BTreeSet::new();
    let mut all = BTreeSet::new();
    for r in 0..values.len() as i64 {
        for c in 0..values[0].len() as i64 {
            if !set(r, c) || seen.contains(&(r, c)) {
                continue;
            }
            let mut own = BTreeSet::new();
            let mut stack = vec![(r, c)];
            while let Some((r, c)) = stack.pop() {
                if !set(r, c) || !seen.insert((r, c)) {
                    continue;
                }
                own.insert((r, c));
                for (dr, dc) in [(0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)] {
                    if dr == 0 || dc == 0 || connectivity == Connectivity::Eight {
                        stack.push((r + dr, c + dc));
                    }
                }
            }
            all.insert(own);
        }
    }
    all
}

/// The pixels inside a component's polygons: an exterior's less its holes', each by the even-odd rule.
fn fill(component: &Component) -> BTreeSet<(i64, i64)> {
    let [west, north, east, south] = component.bounds;
    let inside = |ring: &rings::Ring, row: u32, column: u32| {
        let edges = ring.iter().zip(ring.iter().cycle().skip(1));
        edges.filter(|(a, b)| a[0] == b[0] && a[0] <= column && a[1].min(b[1]) <= row && row < a[1].max(b[1])).count()
            % 2
            == 1
    };
    let mut pixels = BTreeSet::new();
    for row in north..south {
        for column in west..east {
            let holds = |polygon: &&Polygon| {
                inside(&polygon.rings[0], row, column) && !polygon.rings[1..].iter().any(|r| inside(r, row, column))
            };
            let count = component.polygons.iter().filter(holds).count();
            assert!(count <= 1, "polygons of one component overlap");
            if count == 1 {
                pixels.insert((i64::from(row), i64::from(column)));
            }
        }
    }
    pixels
}

/// The numbered invariants of `rings`.
fn assert_polygons(component: &Component) {
    let mut area = 0;
    for polygon in &component.polygons {
        for (index, ring) in polygon.rings.iter().enumerate() {
            let own = doubled_area(ring);
            assert_eq!(own > 0, index == 0, "exterior first, holes turned the other way (1)");
            area += own;
            let corners: BTreeSet<_> = ring.iter().collect();
            assert_eq!(corners.len(), ring.len(), "a ring visits a corner twice (2)");
            let first = ring.iter().min_by_key(|corner| (corner[1], corner[0]));
            assert_eq!(first, ring.first(), "rings start at their first corner (4)");
            for at in 0..ring.len() {
                let [a, b, c] = [0, 1, 2].map(|step| ring[(at + step) % ring.len()]);
                let turns = (a[0] == b[0] && b[1] == c[1]) || (a[1] == b[1] && b[0] == c[0]);
                assert!(turns, "every point of a ring is a corner: {a:?} {b:?} {c:?}");
            }
        }
    }
    assert_eq!(area, 2 * component.pixels as i64, "signed areas sum to the pixels (3)");
}

fn assert_equals_flood(values: &[Vec<f32>], connectivity: Connectivity) {
    let expected = flood(values, connectivity);
    let (components, total) = trace(values, connectivity, ALL).unwrap();
    assert_eq!(total as usize, expected.len());
    let mut found = BTreeMap::new();
    for component in &components {
        assert_polygons(component);
        let pixels = fill(component);
        let value = |at: &(i64, i64)| values[at.0 as usize][at.1 as usize];
        assert_eq!(component.pixels as usize, pixels.len());
        let sum: f64 = pixels.iter().map(|at| f64::from(value(at))).sum();
        assert!((component.sum - sum).abs() < 1e-9 * sum.max(1.0));
        assert_eq!(component.max, pixels.iter().map(value).fold(0.0, f32::max));
        let parts = flood_of(&pixels).len();
        assert_eq!(component.polygons.len(), parts, "one polygon for each part joined by pixel edges");
        found.insert(pixels, ());
    }
    assert_eq!(found.into_keys().collect::<BTreeSet<_>>(), expected);
}

fn flood_of(pixels: &BTreeSet<(i64, i64)>) -> BTreeSet<BTreeSet<(i64, i64)>> {
    let (rows, columns) = pixels.iter().fold((0, 0), |(r, c), at| (r.max(at.0 + 1), c.max(at.1 + 1)));
    let mut values = vec![vec![0.0f32; columns as usize]; rows as usize];
    pixels.iter().for_each(|at| values[at.0 as usize][at.1 as usize] = 1.0);
    flood(&values, Connectivity::Four)
}

#[test]
fn random_pictures_of_every_density_equal_a_flood_fill() {
    let mut seed = 1u64;
    let mut number = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1u64 << 24) as f32
    };
    for round in 0..400 {
        let (rows, columns) = (1 + round % 23, 1 + (round * 7) % 71);
        let density = [0.05, 0.3, 0.45, 0.55, 0.6, 0.7, 0.9][round % 7];
        let values: Vec<Vec<f32>> = (0..rows)
            .map(|_| {
                let pixel =
                    |(set, value): (f32, f32)| if set < density { 0.5 + value / 2.0 + 1e-6 } else { value / 2.0 };
                (0..columns).map(|_| pixel((number(), number()))).collect()
            })
            .collect();
        for connectivity in [Connectivity::Four, Connectivity::Eight] {
            assert_equals_flood(&values, connectivity);
        }
    }
}

#[test]
fn pictures_with_touching_corners_give_valid_polygons() {
    for rows in [
        &["###", "#.#", "##."] as &[&str],
        &["##.", "#.#", "###"],
        &["#.", ".#"],
        &[".#", "#."],
        &["#####", "#.#.#", "##.##", "#.#.#", "#####"],
        &["####", "#.##", "##.#", "####"],
        &["#.#.#", ".#.#.", "#.#.#"],
        &[".###.", "#...#", "#.#.#", "#...#", ".###."],
        &["#"],
        &["#.#"],
        &["#", ".", "#"],
    ] {
        for connectivity in [Connectivity::Four, Connectivity::Eight] {
            assert_equals_flood(&picture(rows), connectivity);
        }
    }
}

#[test]
fn a_ring_closed_by_a_corner_is_an_exterior_and_a_hole() {
    let (components, _) = trace(&picture(&["###", "#.#", "##."]), Connectivity::Four, ALL).unwrap();
    let expected = vec![vec![[0, 0], [0, 3], [2, 3], [2, 2], [3, 2], [3, 0]], vec![[1, 1], [2, 1], [2, 2], [1, 2]]];
    assert_eq!(components[0].polygons, vec![Polygon { rings: expected }]);
}

#[test]
fn noise_leaves_no_memory_behind() {
    let mut tracer = Tracer::new(Connectivity::Four, Limits { min_pixels: 2, ..ALL });
    let rows: Vec<Vec<Run>> =
        (0..2).map(|row| runs_of(&(0..512).map(|column| ((row + column) % 2) as f32).collect::<Vec<_>>())).collect();
    for _ in 0..500 {
        rows.iter().for_each(|runs| tracer.push_row(runs).unwrap());
    }
    assert!(tracer.nodes.values.len() < 4 * 512 && tracer.labels.values.len() < 2 * 512);
    let (kept, all) = tracer.finish().unwrap();
    assert_eq!((kept.len(), all), (0, 256 * 1000));
}

#[test]
fn limits_stop_the_pass() {
    let checkered: Vec<Vec<f32>> = (0..64).map(|r| (0..64).map(|c| ((r + c) % 2) as f32).collect()).collect();
    let few = Limits { candidates: 100, ..ALL };
    assert_eq!(trace(&checkered, Connectivity::Four, few).unwrap_err(), Error::Candidates(100));
    let coarse = Limits { corners: 1000, ..ALL };
    assert_eq!(trace(&checkered, Connectivity::Eight, coarse).unwrap_err(), Error::Corners(1000));
}
