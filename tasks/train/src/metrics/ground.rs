//! How large pixels are on the ground, of what a chip set says of its grid.

use swath_datasets::{Chip, ChipSet};

/// Metres of a degree of latitude on a sphere of the earth's mean radius.
const DEGREE: f64 = 111_195.0;

/// Width and height of a pixel in metres, to about half a percent.
///
/// A grid in metres or feet is known by its box in degrees, which is a little larger than the chip where the grid is turned
/// against north. Of any other unit the box itself tells the size.
pub(crate) fn metres_of_pixel(chip: &Chip) -> (f64, f64) {
    let [_, across, turned, _, turned_too, down] = chip.transform;
    let (width, height) = (across.hypot(turned_too), down.hypot(turned));
    let [left, bottom, right, top] = chip.bounds;
    let [_, south, _, north] = chip.bbox;
    let unit = (north - south) * DEGREE / (top - bottom).abs();
    if (0.9..1.25).contains(&unit) {
        return (width, height);
    }
    if (0.27..0.38).contains(&unit) {
        return (width * 0.3048, height * 0.3048);
    }
    let degrees = unit > 1e4 && left.abs().max(right.abs()) <= 360.0 && bottom.abs().max(top.abs()) <= 90.0;
    let narrowed = if degrees { ((south + north) / 2.0).to_radians().cos() } else { 1.0 };
    (width * unit * narrowed, height * unit)
}

/// Ground that a chip covers in square kilometres: as it tells, or of its pixels.
pub(super) fn square_kilometres(chip: &Chip) -> f64 {
    let of_pixels = || {
        let ((width, height), [_, _, columns, rows]) = (metres_of_pixel(chip), chip.window);
        (columns * rows) as f64 * width * height / 1e6
    };
    chip.area_km2.unwrap_or_else(of_pixels)
}

/// Longitude and latitude of the middle of a pixel of a chip, as if its grid were not turned against its box in degrees.
pub(super) fn place_of_pixel(chip: &Chip, row: usize, column: usize) -> (f64, f64) {
    let ([west, south, east, north], [_, _, columns, rows]) = (chip.bbox, chip.window);
    let east = if east < west { east + 360.0 } else { east };
    let along = |from: f64, to: f64, at: usize, of: usize| from + (to - from) * (at as f64 + 0.5) / of as f64;
    (along(west, east, column, columns), along(north, south, row, rows))
}

/// Metres between two places near each other, given by longitude and latitude.
pub(super) fn metres_between((lon, lat): (f64, f64), (other_lon, other_lat): (f64, f64)) -> f64 {
    let turns = ((lon - other_lon) / 360.0).round();
    let across = (lon - other_lon - 360.0 * turns) * ((lat + other_lat) / 2.0).to_radians().cos();
    across.hypot(lat - other_lat) * DEGREE
}

/// The ground sampling distance of some sets: that of their first chip.
pub(crate) fn resolution(sets: &[ChipSet]) -> f64 {
    let chip = sets.iter().find_map(|set| set.manifest().chips.first());
    chip.map_or(0.0, |chip| {
        let (width, height) = metres_of_pixel(chip);
        (width * height).sqrt()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use swath_task::Digest;

    use super::*;

    fn chip(pixel: f64, bounds: [f64; 4], bbox: [f64; 4]) -> Chip {
        let chip = json!({
            "id": "a", "shard": 0, "at": 0, "window": [0, 0, 256, 256],
            "transform": [bounds[0], pixel, 0.0, bounds[3], 0.0, -pixel], "bounds": bounds, "bbox": bbox,
            "valid": 1.0, "positive": 0.0, "ambiguous": 0.0, "mean": [], "std": [], "digest": Digest::of(b"")
        });
        serde_json::from_value(chip).unwrap()
    }

    #[test]
    fn metres_feet_degrees_and_mercator_are_told_apart() {
        let side = 2560.0 / DEGREE;
        let box_of = |stretch: f64| [15.0, 50.0, 15.0 + 1.6 * side, 50.0 + stretch * side];
        let utm = chip(10.0, [500_000.0, 5_500_000.0, 502_560.0, 5_502_560.0], box_of(1.04));
        assert_eq!(metres_of_pixel(&utm), (10.0, 10.0));
        let feet = chip(10.0 / 0.3048, [0.0, 0.0, 2560.0 / 0.3048, 2560.0 / 0.3048], box_of(1.0));
        assert!((metres_of_pixel(&feet).0 - 10.0).abs() < 0.01);
        let degrees = chip(1e-4, [15.0, 50.0, 15.0256, 50.0256], [15.0, 50.0, 15.0256, 50.0256]);
        let (width, height) = metres_of_pixel(&degrees);
        assert!((height - 11.12).abs() < 0.01 && (width - 7.146).abs() < 0.01, "{width} {height}");
        let mercator = chip(10.0 / 0.6428, [1.6e6, 6.4e6, 1.6e6 + 3982.6, 6.4e6 + 3982.6], box_of(1.0));
        let (width, height) = metres_of_pixel(&mercator);
        assert!((width - 10.0).abs() < 0.05 && (height - 10.0).abs() < 0.05, "{width} {height}");
    }

    #[test]
    fn a_chip_over_the_antimeridian_has_its_pixels_on_both_sides() {
        let chip = chip(0.01, [179.0, -18.0, 181.56, -15.44], [179.0, -18.0, -178.44, -15.44]);
        let (lon, lat) = place_of_pixel(&chip, 0, 255);
        assert!((lon - 181.555).abs() < 1e-9 && (lat + 15.445).abs() < 1e-9, "{lon} {lat}");
        assert!(metres_between((lon, lat), (-178.445, -15.445)) < 1e-3);
        let east = metres_between((179.9, 60.0), (-179.9, 60.0));
        assert!((east - 0.2 * DEGREE / 2.0).abs() < 1.0, "{east}");
        // A square degree at 45 degrees north has 8,764 square kilometres (WGS 84); the sphere is off by half a percent.
        let chip = chip_of_degree();
        assert!((square_kilometres(&chip) / 8764.0 - 1.0).abs() < 0.006, "{}", square_kilometres(&chip));
    }

    fn chip_of_degree() -> Chip {
        chip(1.0 / 256.0, [15.0, 44.5, 16.0, 45.5], [15.0, 44.5, 16.0, 45.5])
    }
}
