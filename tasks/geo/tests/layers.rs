//! Layers of GeoPackages that other programs made.

mod support;

use swath_geo::{Crs, Feature, Field, FieldType, GeoPackage, Geometry, Layer, Value, WriteMode};

#[test]
fn a_layer_takes_only_geometries_of_its_type_and_single_polygons_into_sets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sites.gpkg");
    let layer =
        Layer { name: "sites".into(), crs: Crs::wgs84().unwrap(), fields: vec![Field::new("id", FieldType::Text)] };
    let row = |id: &str| {
        let json = r#"{"type":"Polygon","coordinates":[[[15,47],[15.1,47],[15.1,47.1],[15,47]]]}"#;
        Ok(Feature { geometry: Geometry::from_geojson(json)?, values: vec![Value::Text(id.into())] })
    };
    let key = WriteMode::Upsert { key: "id".into() };
    let write = |id: &str| {
        let mut package = GeoPackage::open_or_create(&path).unwrap();
        let written = package.write(&layer, &key, [row(id)]);
        package.finish().unwrap();
        written
    };
    write("a").unwrap();
    let change = |kind: &str| {
        let sql = format!("UPDATE gpkg_geometry_columns SET geometry_type_name = '{kind}'");
        let path = path.to_str().unwrap();
        support::run_python(
            &format!("import sqlite3; c = sqlite3.connect({path:?}); c.execute({sql:?}); c.commit()"),
            &[],
        );
    };
    change("POINT");
    let error = write("b").unwrap_err();
    assert!(error.message().contains("`sites` holds Point only") && error.message().contains("Polygon"), "{error}");
    change("MULTIPOLYGON");
    assert_eq!(write("b").unwrap().added, 1);
    let unchanged = write("b").unwrap();
    assert_eq!((unchanged.added, unchanged.replaced), (0, 0));
}
