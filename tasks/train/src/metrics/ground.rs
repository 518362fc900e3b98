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
}
