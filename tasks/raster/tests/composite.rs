//! Composites against numpy's masked median, and what is refused.

#[path = "support/stack.rs"]
mod stack;
mod support;

use stack::{Stack, message};
use swath_geo::Raster;
use swath_raster::Composite;
use swath_task::Task;

#[test]
fn the_median_of_clear_pixels_equals_numpy_with_offset_no_data_and_both_resolutions() {
    let stack = Stack::new("shared");
    let (cog, scenes, share) = stack.run(serde_json::json!({ "bands": ["B04", "B11"] })).unwrap();
    assert_eq!(scenes, 7);
    assert!((0.3..1.0).contains(&share), "{share}");
    stack.agree(&cog);
}

#[test]
fn the_composite_does_not_depend_on_memory() {
    let stack = Stack::new("shared");
    let (wide, ..) = stack.run(serde_json::json!({ "bands": ["B04", "B11"] })).unwrap();
    let (narrow, ..) = stack.run(serde_json::json!({ "bands": ["B04", "B11"], "memory": "64 MiB" })).unwrap();
    assert_eq!(wide, narrow, "the path holds the digest");
    let coarse = |memory: &str| {
        let params =
            serde_json::json!({ "bands": ["B04", "B11"], "resolution": 30, "cloud_dilation": 50, "memory": memory });
        stack.run(params).unwrap().0
    };
    assert_eq!(coarse("256 MiB"), coarse("64 MiB"));
}

#[test]
fn the_mean_of_clear_pixels_equals_numpy() {
    let stack = Stack::new("mean");
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04", "B11"], "method": "mean" })).unwrap();
    stack.agree(&cog);
}

#[test]
fn dilated_clouds_equal_scipy() {
    let stack = Stack::new("dilated");
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04", "B11"], "cloud_dilation": 80.0 })).unwrap();
    stack.agree(&cog);
}

#[test]
fn scenes_of_differing_extent_are_laid_where_they_belong() {
    let stack = Stack::new("extents");
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04"] })).unwrap();
    stack.agree(&cog);
}

#[test]
fn two_zones_come_to_one_grid_and_shared_pixels_stay_untouched() {
    let stack = Stack::new("zones");
    for crs in ["EPSG:32633", "EPSG:32632"] {
        let (cog, scenes, _) = stack.run(serde_json::json!({ "bands": ["B04"], "mask": "none", "crs": crs })).unwrap();
        assert_eq!(scenes, 2);
        stack.agree(&cog);
    }
}

#[test]
fn both_sides_of_the_antimeridian_come_to_one_grid() {
    let stack = Stack::new("ends");
    for crs in [None, Some("EPSG:32660"), Some("EPSG:32601")] {
        let area = serde_json::json!([179.965, 0.885, -179.975, 0.92]);
        let mut params = serde_json::json!({ "bands": ["B04"], "mask": "none", "area": area });
        crs.into_iter().for_each(|crs| params["crs"] = crs.into());
        let (cog, scenes, _) = stack.run(params).unwrap();
        assert_eq!(scenes, 2);
        stack.agree(&cog);
    }
    // Without an area the zone is that of the middle of the scenes, not the one on the other side of the globe.
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04"], "mask": "none" })).unwrap();
    assert!([32660, 32601].map(Some).contains(&Raster::open_path(&cog).unwrap().grid().unwrap().crs.epsg()));
}

#[test]
fn coarser_pixels_are_means_of_what_is_clear_and_valid_whatever_overviews_say() {
    let stack = Stack::new("coarse");
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04", "B11", "B09"], "resolution": 40 })).unwrap();
    stack.agree(&cog);
    let stack = Stack::new("middle");
    let params = serde_json::json!({ "bands": ["B04", "B11", "B09"], "resolution": 40, "resampling": "nearest" });
    let (cog, ..) = stack.run(params).unwrap();
    stack.agree(&cog);
}

#[test]
fn scenes_of_another_zone_come_to_coarser_pixels_as_means_too() {
    let stack = Stack::new("coarse_zones");
    for crs in ["EPSG:32633", "EPSG:32632"] {
        let params = serde_json::json!({ "bands": ["B04"], "mask": "none", "crs": crs, "resolution": 40 });
        let (cog, ..) = stack.run(params).unwrap();
        stack.agree(&cog);
    }
}

#[test]
fn pixels_outside_of_the_polygons_are_left_out_when_asked() {
    let stack = Stack::new("clip");
    let area = stack.folder.path().join("area.geojson");
    let ring = "[[64.31,46.2225],[64.335,46.2245],[64.34,46.21],[64.318,46.2125],[64.31,46.2225]]";
    std::fs::write(&area, format!(r#"{{"type":"Polygon","coordinates":[{ring}]}}"#)).unwrap();
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04"], "area": area, "clip": true })).unwrap();
    stack.agree(&cog);
}

#[test]
fn jpeg_2000_is_read_as_it_was_written() {
    let stack = Stack::new("jp2");
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04"], "mask": "none" })).unwrap();
    stack.agree(&cog);
}

#[test]
fn neighbouring_tiles_of_one_acquisition_count_once() {
    let stack = Stack::new("tiles");
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04"] })).unwrap();
    stack.agree(&cog);
}

#[test]
fn tiles_of_one_datatake_with_differing_baselines_count_once_each_with_its_own_offset() {
    let stack = Stack::new("baselines");
    let (cog, scenes, _) = stack.run(serde_json::json!({ "bands": ["B04"] })).unwrap();
    assert_eq!(scenes, 3);
    stack.agree(&cog);
}

#[test]
fn zero_is_clear_where_the_mask_says_so() {
    for (case, mask) in [
        ("clm", serde_json::json!({ "asset": "CLM", "clear": [0] })),
        ("qa60", serde_json::json!({ "asset": "QA60", "cloudy_bits": [10, 11] })),
    ] {
        let stack = Stack::new(case);
        let (cog, ..) = stack.run(serde_json::json!({ "bands": ["B04"], "mask": mask })).unwrap();
        stack.agree(&cog);
    }
}

#[test]
fn a_mask_that_is_one_band_of_a_file_is_read_from_that_band() {
    let stack = Stack::new("listed");
    let mask = serde_json::json!({ "asset": "cloud_mask", "clear": [0] });
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["green"], "mask": mask })).unwrap();
    stack.agree(&cog);
}

#[test]
fn a_mask_of_signed_numbers_is_refused_before_anything_is_read() {
    let stack = Stack::new("fmask");
    let mask = serde_json::json!({ "asset": "red", "clear": [0] });
    let error = stack.run(serde_json::json!({ "bands": ["red"], "mask": mask })).unwrap_err();
    let (code, text) = message(&error);
    assert_eq!(code, "R125");
    assert!(text.contains("scene `L0`") && text.contains("0_red.tif") && text.contains("int16"), "{text}");
}

#[test]
fn masks_by_values_and_by_bits_and_signed_pixels_are_taken() {
    let stack = Stack::new("fmask");
    let mask = serde_json::json!({ "asset": "qa", "clear": [0, 1] });
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["red"], "mask": mask })).unwrap();
    stack.agree(&cog);
    let stack = Stack::new("bits");
    let mask = serde_json::json!({ "asset": "qa", "cloudy_bits": [1, 3] });
    let (cog, ..) = stack.run(serde_json::json!({ "bands": ["red"], "mask": mask })).unwrap();
    stack.agree(&cog);
}

#[test]
fn an_area_is_snapped_outward_to_the_pixels_of_the_scenes() {
    let stack = Stack::new("shared");
    let (whole, ..) = stack.run(serde_json::json!({ "bands": ["B04", "B11"] })).unwrap();
    let whole = Raster::open_path(&whole).unwrap();
    // Within the scenes, in degrees; its edges fall inside of pixels.
    let area = [64.3081, 46.1760, 64.3450, 46.2085];
    let (part, ..) = stack.run(serde_json::json!({ "bands": ["B04", "B11"], "area": area })).unwrap();
    let part = Raster::open_path(&part).unwrap();
    let (outer, inner) = (whole.grid().unwrap(), part.grid().unwrap());
    let (column, row) = inner.offset_in(&outer).expect("the same pixels");
    assert!(column > 0 && row > 0 && (column as usize + inner.width) < outer.width, "{column} {row} {inner:?}");
    for band in 0..3 {
        let window = swath_geo::PixelWindow::new(column as usize, row as usize, inner.width, inner.height);
        let (mut a, mut b) = (vec![0.0_f32; window.len()], vec![0.0_f32; window.len()]);
        whole.read(band, &window, &mut a).unwrap();
        part.read(band, &inner.window(), &mut b).unwrap();
        assert!(a.iter().zip(&b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan())), "band {band}");
    }
    let error = stack.run(serde_json::json!({ "bands": ["B04"], "area": [10.0, 10.0, 11.0, 11.0] })).unwrap_err();
    assert_eq!(message(&error).0, "R109");
}

#[test]
fn a_scene_that_lacks_a_band_is_named_and_left_out_only_when_asked() {
    let stack = Stack::new("extents");
    let mut scenes = stack.scenes();
    scenes["scenes"][1]["assets"].as_object_mut().unwrap().remove("B11");
    stack.write(&scenes);
    let params = serde_json::json!({ "bands": ["B04", "B11"] });
    let error = stack.run(params).unwrap_err();
    let (code, text) = message(&error);
    assert_eq!(code, "R122");
    assert!(text.contains("`S1`") && text.contains("`B11`") && text.contains("B04, SCL"), "{text}");
    let (_, used, _) = stack.run(serde_json::json!({ "bands": ["B04", "B11"], "missing": "skip" })).unwrap();
    assert_eq!(used, 4);
}

#[test]
fn a_damaged_or_changed_file_is_an_error_that_names_scene_band_and_file() {
    let stack = Stack::new("extents");
    let path = stack.folder.path().join("2_B04.tif");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - bytes.len() / 3]).unwrap();
    let error = stack.run(serde_json::json!({ "bands": ["B04"] })).unwrap_err();
    let (code, text) = message(&error);
    assert!(code == "R103" || code == "R102", "{code} {text}");
    assert!(text.contains("2_B04.tif"), "{text}");

    std::fs::write(&path, &bytes).unwrap();
    let mut scenes = stack.scenes();
    scenes["scenes"][2]["assets"]["B04"]["size"] = (bytes.len() + 1).into();
    stack.write(&scenes);
    let error = stack.run(serde_json::json!({ "bands": ["B04"] })).unwrap_err();
    assert_eq!(message(&error).0, "R114");
}

#[test]
fn wrong_parameters_are_told_all_at_once() {
    let task: Composite = serde_json::from_value(serde_json::json!({
        "bands": ["B04", "B04", "count"], "memory": "1 MiB", "clip": true, "resolution": -1.0,
        "mask": { "asset": "qa" }
    }))
    .unwrap();
    let problems = task.check().unwrap_err();
    let places: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
    assert_eq!(places, ["/bands/1", "/bands/2", "/mask", "/resolution", "/memory", "/clip"]);
}
