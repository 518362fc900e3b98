//! `labels.sites` against pyproj's geodesics, and with bad input.

use serde_json::{Value, json};
use swath_labels::LabelSites;

use crate::support::{Bench, judge};
use crate::{problems, told};

/// Makes the raster and the sites of a case, runs the task, and lets Python judge.
fn agrees(case: &str) {
    let bench = Bench::new();
    let folder = bench.folder.path().to_str().unwrap();
    judge("sites.py", &["make", case, folder]);
    let outputs =
        bench.run::<LabelSites>(json!({ "sites": bench.file("sites.json") }), bench.cog("raster.tif")).unwrap();
    let label = bench.path(&outputs["label"]);
    let verdict = judge("sites.py", &["check", case, folder, label.to_str().unwrap()]);
    let share: f64 = verdict.split(' ').next_back().unwrap().parse().unwrap();
    assert!(
        verdict.starts_with("agree") && (share - outputs["positive_share"].as_f64().unwrap()).abs() < 1e-8,
        "{verdict}"
    );
    assert!(outputs["sites"].as_u64() >= Some(1));
}

#[test]
fn buffers_are_geodesic_in_the_crs_of_the_raster() {
    for case in ["plain", "south", "zone-edge", "mercator", "feet"] {
        agrees(case);
    }
}

#[test]
fn buffers_are_round_at_the_pole_and_whole_across_the_antimeridian() {
    for case in ["far-north", "pole", "antimeridian", "antimeridian-degrees"] {
        agrees(case);
    }
}

#[test]
fn lines_and_polygons_have_buffers_of_their_own() {
    agrees("shapes");
}

/// A bench with the raster of the case `south`, around longitude -69.5, latitude -33.4.
fn south() -> Bench {
    let bench = Bench::new();
    judge("sites.py", &["make", "south", bench.folder.path().to_str().unwrap()]);
    bench
}

fn failure(bench: &Bench, sites: &Value) -> (String, String, String) {
    let path = bench.write("other.json", sites);
    told(bench.run::<LabelSites>(json!({ "sites": path }), bench.cog("raster.tif")).unwrap_err())
}

#[test]
fn sites_that_are_wrong_are_told_by_name() {
    let bench = south();
    let (code, message, help) =
        failure(&bench, &json!([{ "name": "a" }, { "name": "b", "lon": "-69.5", "lat": -33.4 }]));
    assert!(
        code == "L102" && message.contains("`a` has no coordinates") && message.contains("`b` has no"),
        "{message}"
    );
    assert!(help.contains("`lon` and `lat` in degrees"));
    let (code, message, _) = failure(&bench, &json!({ "sites": [{ "name": "Kourou", "lon": 5.2, "lat": -152.8 }] }));
    assert!(code == "L102" && message.contains("`Kourou`") && message.contains("swapped"), "{message}");
    let (code, message, _) = failure(&bench, &json!([{ "lon": 453_000.0, "lat": 6_300_000.0 }]));
    assert!(code == "L102" && message.contains("`site 1`") && message.contains("not degrees"), "{message}");
    for own in [
        json!({ "buffer_km": 0 }),
        json!({ "buffer_m": -5 }),
        json!({ "buffer": "2 miles" }),
        json!({ "buffer_km": 900 }),
    ] {
        let mut site = json!({ "name": "s", "lon": -69.5, "lat": -33.4 });
        site.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let (code, message, _) = failure(&bench, &json!([site]));
        assert!(code == "L103" && message.contains("`s` has the `buffer"), "{message}");
    }
    let (code, message, _) = failure(&bench, &json!({ "sites": [] }));
    assert!(code == "L101" && message.contains("holds no site"), "{message}");
    let feature = json!({ "type": "Feature", "properties": { "name": "n" }, "geometry": null });
    let (code, message, _) = failure(&bench, &json!({ "type": "FeatureCollection", "features": [feature] }));
    assert!(code == "L102" && message.contains("no geometry"), "{message}");
    let path = bench.file("broken.json");
    std::fs::write(&path, "{").unwrap();
    let inputs = || bench.cog("raster.tif");
    let (code, _, _) = told(bench.run::<LabelSites>(json!({ "sites": path }), inputs()).unwrap_err());
    assert_eq!(code, "L101");
    let missing = bench.file("none.json");
    let (code, message, _) = told(bench.run::<LabelSites>(json!({ "sites": missing }), inputs()).unwrap_err());
    assert!(code == "L101" && message.contains("none.json"), "{message}");
}

#[test]
fn what_may_be_a_site_that_is_not_in_the_list_has_no_label() {
    let bench = Bench::new();
    judge("unknown.py", &["make", bench.folder.path().to_str().unwrap()]);
    let params = |unknown: Value| json!({ "sites": bench.file("sites.json"), "buffer": "600 m", "ring": "200 m", "unknown": unknown });
    let unknown = json!({ "band": "NDWI", "above": 0.1 });
    let outputs = bench.run::<LabelSites>(params(unknown), bench.cog("raster.tif")).unwrap();
    let label = bench.path(&outputs["label"]);
    let arguments = ["check", bench.folder.path().to_str().unwrap(), label.to_str().unwrap()];
    assert_eq!(judge("unknown.py", &arguments), "agree");
    let places: Value = serde_json::from_slice(&std::fs::read(bench.path(&outputs["places"])).unwrap()).unwrap();
    assert_eq!(places["sites"].as_array().unwrap().len(), 1);
    let other = json!({ "band": "B99", "above": 0.1 });
    let (code, ..) = told(bench.run::<LabelSites>(params(other), bench.cog("raster.tif")).unwrap_err());
    assert_eq!(code, "R115");
}

#[test]
fn lists_made_to_fill_the_memory_are_refused() {
    let bench = south();
    let path = bench.file("hostile.json");
    let fails = |text: String| {
        std::fs::write(&path, text).unwrap();
        told(bench.run::<LabelSites>(json!({ "sites": path }), bench.cog("raster.tif")).unwrap_err())
    };
    let (code, message, _) = fails(format!("[{}{{}}]", "[],".repeat(150_000)));
    assert!(code == "L102" && message.contains("150001 sites are wrong in all") && message.len() < 1000, "{message}");
    let (code, message, _) = fails(format!("[{}{{}}]", "[],".repeat(250_000)));
    assert!(code == "R108" && message.contains("200000 sites or more"), "{message}");
    let (code, message, _) = fails(format!(r#"[{{"name": "{}", "lon": "x"}}]"#, "n".repeat(5 << 20)));
    assert!(code == "L102" && message.len() < 1000, "{} bytes", message.len());
    let (code, message, _) = fails(format!("[{}]", " ".repeat(65 << 20)));
    assert!(code == "R108" && message.contains("a text of 65 MiB"), "{message}");
    let ring = |count: usize| {
        let point = |at: usize| format!("[{},{}]", -69.5 + (at % 2) as f64 / 50.0, -33.4 + at as f64 * 1e-8);
        (0..count).chain([0]).map(point).collect::<Vec<_>>().join(",")
    };
    let feature = |count: usize| {
        format!(
            r#"{{"type":"Feature","properties":{{"name":"zigzag"}},"geometry":{{"type":"Polygon","coordinates":[[{}]]}}}}"#,
            ring(count)
        )
    };
    let (code, message, _) = fails(format!(r#"{{"type":"FeatureCollection","features":[{}]}}"#, feature(200_000)));
    assert!(["L103", "R113"].contains(&code.as_str()), "{code} {message}");
    let (code, message, _) = fails(feature(250_000));
    assert!(code == "R108" && message.contains("more than 4 MiB"), "{message}");
}

#[test]
fn sites_that_lie_elsewhere_are_told_and_so_is_the_likely_swap() {
    let bench = south();
    let (code, message, help) = failure(&bench, &json!([{ "lon": 15.0, "lat": 47.0 }]));
    assert!(
        code == "L104" && message.contains("none of the 1 sites") && help.contains("allow_none"),
        "{message} {help}"
    );
    let (code, _, help) = failure(&bench, &json!([{ "lon": -33.4, "lat": -69.5 }]));
    assert!(code == "L104" && help.contains("swapped"), "{help}");
    let sites = bench.write("far.json", &json!([{ "lon": 15.0, "lat": 47.0 }]));
    let params = json!({ "sites": sites, "allow_none": true });
    let outputs = bench.run::<LabelSites>(params, bench.cog("raster.tif")).unwrap();
    assert_eq!((&outputs["sites"], &outputs["positive_share"]), (&json!(0), &json!(0.0)));
}

#[test]
fn a_buffer_that_is_none_is_refused_before_anything_runs() {
    let told = problems::<LabelSites>(json!({ "sites": "s.json", "buffer": 0, "ring": "-1 m" }));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("/buffer: a buffer of 0 m") && told[1].starts_with("/ring"), "{told:?}");
    assert_eq!(problems::<LabelSites>(json!({ "sites": "s.json", "buffer": "-2 km" })).len(), 1);
    assert!(serde_json::from_value::<LabelSites>(json!({ "sites": "s.json", "buffer": "2 miles" })).is_err());
}

#[test]
fn rasters_that_lie_nowhere_are_refused() {
    let bench = south();
    judge("rasters.py", &["odd", bench.folder.path().to_str().unwrap()]);
    for (raster, code) in [("no-crs.tif", "R106"), ("rotated.tif", "R107"), ("south-up.tif", "R107")] {
        let params = json!({ "sites": bench.file("sites.json") });
        let (told, message, _) = told(bench.run::<LabelSites>(params, bench.cog(raster)).unwrap_err());
        assert_eq!(told, code, "{raster}: {message}");
    }
}

#[test]
fn the_launch_sites_that_ship_lie_in_their_areas() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../flows/sites/launch-sites.geojson");
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let features = document["features"].as_array().unwrap();
    assert_eq!(features.len(), 90);
    let mut names = std::collections::BTreeSet::new();
    for (area, count) in [("florida-coast", 16), ("vandenberg", 9), ("baikonur", 12), ("south-texas", 3)] {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../flows/aois/{area}.geojson"));
        let bounds = swath_kinds::Area::File(file).bounds().unwrap();
        let own: Vec<_> = features.iter().filter(|feature| feature["properties"]["area"] == area).collect();
        assert_eq!(own.len(), count, "{area}");
        for feature in own {
            let place = &feature["geometry"]["coordinates"];
            let (lon, lat) = (place[0].as_f64().unwrap(), place[1].as_f64().unwrap());
            assert!(bounds.west < lon && lon < bounds.east && bounds.south < lat && lat < bounds.north, "{feature}");
        }
    }
    // Those that earlier lists lacked: Dnepr from Baikonur and Yasny, Nordmela, and where Suzaku-2, Chollima-1 and Kosmos 1 rose.
    let at = |lon: f64, lat: f64| {
        let near = |place: &Value| (place[0].as_f64().unwrap() - lon).hypot(place[1].as_f64().unwrap() - lat) < 1e-3;
        features.iter().any(|feature| near(&feature["geometry"]["coordinates"]))
    };
    let added = [
        (63.442, 45.944),
        (59.6975, 51.0655),
        (15.5895, 69.1084),
        (100.2456, 40.9149),
        (124.7363, 39.6526),
        (46.2839, 48.6841),
    ];
    assert!(added.iter().all(|(lon, lat)| at(*lon, *lat)));
    assert!(features.iter().all(|feature| names.insert(feature["properties"]["name"].as_str().unwrap().to_owned())));
}
