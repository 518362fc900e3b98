//! `labels.vector` and `labels.raster` against rasterio and numpy, and with bad input.

use serde_json::{Value, json};
use swath_kinds::Cog;
use swath_labels::{LabelRaster, LabelVector};

use crate::support::{Bench, judge};
use crate::{problems, told};

fn bench() -> Bench {
    let bench = Bench::new();
    judge("maps.py", &["make", bench.folder.path().to_str().unwrap()]);
    bench
}

fn agrees(bench: &Bench, what: &str, mode: &str, outputs: &Value) {
    let label = bench.path(&outputs["label"]);
    let folder = bench.folder.path().to_str().unwrap();
    assert_eq!(judge("maps.py", &[what, folder, label.to_str().unwrap(), mode]), "agree", "{mode}");
}

#[test]
fn polygons_become_the_classes_of_their_attribute() {
    let bench = bench();
    let run = |more: Value| {
        let mut params = json!({ "polygons": bench.file("polygons.geojson") });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        bench.run::<LabelVector>(params, bench.cog("raster.tif"))
    };
    let classes = json!([{ "from": ["lake", "river"], "to": 1, "name": "water" }, { "from": [7], "to": 2 }]);
    let kind = json!({ "attribute": "kind", "classes": classes, "others": "ignore" });
    agrees(&bench, "vector", "classes", &run(kind.clone()).unwrap());
    let mut touched = kind.clone();
    touched["all_touched"] = json!(true);
    agrees(&bench, "vector", "touched", &run(touched).unwrap());
    agrees(&bench, "vector", "one", &run(json!({})).unwrap());
    let sparse = run(json!({ "attribute": "number", "background": null })).unwrap();
    agrees(&bench, "vector", "sparse", &sparse);
    assert_eq!(sparse["polygons"], 43, "the others lie beyond the edges of the raster");

    let mut refused = kind;
    refused["others"] = json!("refuse");
    let (code, message, _) = told(run(refused).unwrap_err());
    assert!(code == "L105" && message.contains("`meadow`"), "{message}");
    let (code, message, help) = told(run(json!({ "attribute": "color" })).unwrap_err());
    assert!(code == "L105" && message.contains("no attribute `color`") && help.contains("`kind`"), "{message} {help}");
    let (code, message, _) = told(run(json!({ "attribute": "kind" })).unwrap_err());
    assert!(code == "L105" && message.contains("`lake`"), "{message}");
    let (code, _, _) = told(run(json!({ "layer": "other" })).unwrap_err());
    assert_eq!(code, "R113");
}

#[test]
fn what_is_no_polygon_on_the_raster_is_refused() {
    let bench = bench();
    let feature = |geometry: Value| {
        let feature = json!({ "type": "Feature", "properties": {}, "geometry": geometry });
        bench.write("one.geojson", &json!({ "type": "FeatureCollection", "features": [feature] }))
    };
    let run = |allow: bool| {
        let params = json!({ "polygons": bench.file("one.geojson"), "allow_none": allow });
        bench.run::<LabelVector>(params, bench.cog("raster.tif"))
    };
    feature(json!({ "type": "Point", "coordinates": [18.02, 47.0] }));
    let (code, message, help) = told(run(false).unwrap_err());
    assert!(code == "L106" && message.contains("not a polygon") && help.contains("labels.sites"), "{message}");
    feature(json!({ "type": "Polygon", "coordinates": [[[8, 47], [8.1, 47], [8.1, 47.1], [8, 47]]] }));
    let (code, message, _) = told(run(false).unwrap_err());
    assert!(code == "L104" && message.contains("no polygon"), "{message}");
    assert_eq!(run(true).unwrap()["positive_share"], 0.0);
    let twice = json!([{ "from": ["a"], "to": 1 }, { "from": ["b", "a"], "to": 2 }, { "from": [], "to": 3 }]);
    let told = problems::<LabelVector>(json!({ "polygons": "p.gpkg", "classes": twice }));
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("/classes/1/from/1: `a` belongs to another class"), "{told:?}");
}

#[test]
fn a_class_map_of_another_zone_and_resolution_is_laid_onto_the_grid() {
    let bench = bench();
    let map = bench.file("landuse.tif");
    let table = json!([{ "from": [10, "80"], "to": 1 }, { "from": [50], "to": 2 }]);
    let params = json!({ "map": map, "classes": table });
    assert_eq!(problems::<LabelRaster>(params.clone()).len(), 1, "a text is no value of a map");
    let table = json!([{ "from": [10, 80], "to": 1 }, { "from": [50], "to": 2 }]);
    let outputs = bench.run::<LabelRaster>(json!({ "map": map, "classes": table }), bench.cog("raster.tif")).unwrap();
    agrees(&bench, "map", "table", &outputs);
    let mut inputs = bench.cog("raster.tif");
    inputs["map"] = bench.import::<Cog>(&map);
    let outputs = bench.run::<LabelRaster>(json!({}), inputs.clone()).unwrap();
    agrees(&bench, "map", "own", &outputs);

    let fails = |params: Value, inputs: Value| told(bench.run::<LabelRaster>(params, inputs).unwrap_err());
    let (code, message, _) = fails(json!({ "map": map }), inputs);
    assert!(code == "L107" && message.contains("twice"), "{message}");
    let (code, message, _) = fails(json!({}), bench.cog("raster.tif"));
    assert!(code == "L107" && message.contains("nowhere"), "{message}");
    let (code, message, _) = fails(json!({ "map": bench.file("floats.tif") }), bench.cog("raster.tif"));
    assert!(code == "L105" && message.contains("not a class"), "{message}");
    let (code, message, _) = fails(json!({ "map": bench.file("elsewhere.tif") }), bench.cog("raster.tif"));
    assert!(code == "R109" && message.contains("does not lie on"), "{message}");
}

#[test]
fn polygons_beyond_the_projection_around_a_pole_and_over_the_antimeridian_are_laid_where_they_are() {
    for case in ["continent", "north-pole", "south-pole", "antimeridian"] {
        let bench = Bench::new();
        let folder = bench.folder.path().to_str().unwrap();
        judge("wide.py", &["make", case, folder]);
        let params = json!({ "polygons": bench.file("polygons.geojson"), "attribute": "c" });
        let outputs = bench.run::<LabelVector>(params, bench.cog("raster.tif")).unwrap();
        let label = bench.path(&outputs["label"]);
        assert_eq!(judge("wide.py", &["check", case, folder, label.to_str().unwrap()]), "agree", "{case}");
    }
}
