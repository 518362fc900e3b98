//! The shipped flow that stores in PostGIS, on the shipped imagery, with a password.

use std::path::Path;

use serde_json::{Value, json};
use swath_testkit::postgres::{Postgres, psql};

use crate::common::Place;

const PASSWORD: &str = "Tr0ub4dor-and-3";

/// Every file below a folder that holds a text.
fn holding(folder: &Path, text: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(holding(&entry, text));
        } else if std::fs::read(&entry).unwrap().windows(text.len()).any(|part| part == text.as_bytes()) {
            found.push(entry);
        }
    }
    found
}

#[test]
fn the_shipped_flow_fills_postgis_once_and_its_password_is_nowhere() {
    let server = Postgres::start(false);
    let superuser = server.create_database();
    let name = superuser.rsplit('/').next().unwrap();
    psql(&superuser, "create extension postgis; create role guarded");
    psql(&superuser, &format!("create role ann login password '{PASSWORD}' in role guarded"));
    psql(&superuser, &format!("alter database {name} owner to ann"));
    let place = Place::new("");
    let flow = concat!(env!("CARGO_MANIFEST_DIR"), "/../../flows/postgis.yaml");
    let run = || {
        let mut swath = place.swath(&["run", flow, "-p", "results=results", "--json"]);
        let address = superuser.replace("postgres@", &format!("ann:{PASSWORD}@"));
        let output = swath.env("SWATH_POSTGIS", address).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !told.contains(PASSWORD), "{told}");
    };
    let counts = || {
        let tables = ["detections", "imagery_catalog", "tiles", "known_sites", "ledger"];
        let counts = tables.map(|table| format!("(select count(*) from swath_geo.{table})"));
        let row = psql(&superuser, &format!("select {}", counts.join(", ")));
        row.split('|').map(|count| count.parse::<usize>().unwrap()).collect::<Vec<_>>()
    };
    run();
    let written = std::fs::read(place.path().join("results/detections.geojson")).unwrap();
    let written: Value = serde_json::from_slice(&written).unwrap();
    let found = written["features"].as_array().unwrap().len();
    let stored = counts();
    // One scene and the composite made of it, in one tile.
    assert!(found > 10 && stored[..3] == [found, 2, 1] && stored[3] > 10 && stored[4] == 3, "{found}: {stored:?}");
    let evidence = "select count(*) from swath_geo.detections d join swath_geo.imagery_catalog i on i.id = d.composite \
                    where st_covers(st_buffer(i.geometry, 1e-4), d.geometry) and d.model = 'water_unet' \
                    and d.step = 'detections' and abs(d.area_m2 - st_area(d.geometry::geography)) < 1";
    assert_eq!(psql(&superuser, evidence), found.to_string());
    let sums = "select count(*) from swath_geo.detections where abs(score - \
                (select sum(value::float8) from jsonb_each_text(score_breakdown))) < 3e-6";
    assert_eq!(psql(&superuser, sums), found.to_string());

    // Another run: nothing is new, and a line of its own in the ledger for each step tells so.
    run();
    assert_eq!(counts(), [&stored[..4], &[6]].concat());
    let added = "select coalesce(json_agg(outputs->'rows_added'), '[]') from swath_geo.ledger \
                 where run = (select run from swath_geo.ledger order by stored_at desc limit 1)";
    assert_eq!(serde_json::from_str::<Value>(&psql(&superuser, added)).unwrap(), json!([0, 0, 0]));
    assert_eq!(holding(place.path(), PASSWORD), Vec::<std::path::PathBuf>::new());
}
