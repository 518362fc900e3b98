//! `store.postgis` and its sisters: the ledger, the evidence, the schema, and what other programs see of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::Connection;
use swath_stores::{PostgisInputs, StorePostgis, StoreScenes, StoreSites};
use swath_task::NoInputs;
use swath_testkit::postgres::{Postgres, psql};

use crate::support::{Bench, POSTGRES, detection, fault, rows};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files that a container of PostGIS applies when it is first started, in their order.
fn steps() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(workspace().join("infra/postgres-init")).unwrap();
    let mut steps: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    steps.sort();
    assert!(steps.len() >= 2 && steps.iter().all(|step| step.extension().is_some_and(|end| end == "sql")), "{steps:?}");
    steps
}

fn apply(database: &str, steps: &[PathBuf]) {
    for step in steps {
        psql(database, &std::fs::read_to_string(step).unwrap());
    }
}

fn scene(id: &str, day: u32, west: f64) -> Value {
    json!({
        "id": id, "collection": "s2", "datetime": format!("2024-06-{day:02}T10:00:00Z"), "cloud_cover": 12.5,
        "tile": "33UUU", "bbox": [west, 47.0, west + 1.0, 48.0], "href": format!("https://example.com/{id}.json"),
        "assets": {}
    })
}

#[tokio::test]
async fn a_replayed_step_answers_as_it_did_and_a_changed_one_stores_anew() {
    let database = POSTGRES.create_database();
    let bench = Bench::with_database(&database);
    let first = bench.store_postgis("r1/sub/store/7", &[detection("a", 10.0, 0.9)]).await.unwrap();
    bench.store_postgis("r2/store/0", &[detection("b", 10.0, 0.9)]).await.unwrap();
    // By now the layer has another row, and one of them is gone: a replay neither counts nor stores anew.
    psql(&database, "delete from swath_geo.detections where id = 'a'");
    let replayed = bench.store_postgis("r1/sub/store/7", &[detection("a", 10.0, 0.9)]).await.unwrap();
    assert_eq!(replayed, first);
    assert_eq!(psql(&database, "select string_agg(id, ',') from swath_geo.detections"), "b");
    // The same step of the same run, told to store something else after its input changed.
    let changed = bench.store_postgis("r1/sub/store/7", &[detection("c", 10.0, 0.9)]).await.unwrap();
    assert_eq!((changed.rows_total, changed.rows_added), (2, 1));
    let ledger = rows(
        &database,
        "select run, step, instance, outputs->>'rows_total' as total from swath_geo.ledger order by run",
    );
    assert_eq!(
        ledger,
        [
            json!({ "run": "r1", "step": "sub/store", "instance": 7, "total": "2" }),
            json!({ "run": "r2", "step": "store", "instance": 0, "total": "2" })
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_attempts_at_one_step_at_once_one_stores_and_all_answer_the_same() {
    let database = POSTGRES.create_database();
    let bench = std::sync::Arc::new(Bench::with_database(&database));
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let bench = bench.clone();
        let found: Vec<_> = (0..50).map(|n| detection(&n.to_string(), f64::from(n), 0.5)).collect();
        attempts.spawn(async move { bench.store_postgis("run/store/0", &found).await });
    }
    while let Some(attempt) = attempts.join_next().await {
        let outputs = attempt.unwrap().unwrap();
        assert_eq!((outputs.rows_total, outputs.rows_added, outputs.rows_updated), (50, 50, 0));
    }
    // A row that was inserted once and never touched again.
    assert_eq!(psql(&database, "select count(*), count(distinct xmin::text) from swath_geo.detections"), "50|1");
}

#[tokio::test]
async fn a_detection_carries_its_evidence() {
    let database = POSTGRES.create_database();
    let bench = Bench::with_database(&database);
    let item = json!({
        "type": "Feature", "stac_version": "1.1.0", "id": "composite-1a2b", "bbox": [9, 46, 12, 48], "links": [],
        "geometry": { "type": "Polygon", "coordinates": [[[9, 46], [12, 46], [12, 48], [9, 48], [9, 46]]] },
        "properties":
            { "datetime": null, "start_datetime": "2024-06-01T10:00:00Z", "end_datetime": "2024-06-30T10:00:00Z" },
        "assets": { "composite": { "href": "./composite.tif" } }
    });
    let mut found = detection("a", 10.0, 0.9);
    found["score_breakdown"] = json!({ "probability": 0.5, "compactness": 0.3, "area": 0.1 });
    let inputs = || PostgisInputs {
        detections: bench.detections(std::slice::from_ref(&found)),
        composite: Some(bench.artifact("composite.json", &item.to_string())),
    };
    let model = workspace().join("model_repository/water_unet");
    let parameters = json!({ "database": "DB", "layer": "water", "model": model });
    bench.run::<StorePostgis>("run-1/store/0", parameters.clone(), inputs()).await.unwrap();
    let manifest: Value = serde_json::from_slice(&std::fs::read(model.join("manifest.json")).unwrap()).unwrap();
    let evidence = "select composite, box, model, model_version, model_digest, run, step, score_breakdown \
                    from swath_geo.detections";
    assert_eq!(
        rows(&database, evidence),
        [json!({
            "composite": "composite-1a2b", "box": [10, 47, 10.01, 47.01], "model": manifest["name"],
            "model_version": manifest["version"], "model_digest": manifest["digest"], "run": "run-1", "step": "store",
            "score_breakdown": { "probability": 0.5, "compactness": 0.3, "area": 0.1 }
        })]
    );
    let composite = "select i.datetime = '2024-06-01T10:00Z' as first, i.end_datetime = '2024-06-30T10:00Z' as last, \
                     i.item->'assets'->'composite'->>'href' as href, st_contains(i.geometry, d.geometry) as around \
                     from swath_geo.imagery_catalog i join swath_geo.detections d on d.composite = i.id";
    assert_eq!(
        rows(&database, composite),
        [json!({ "first": true, "last": true, "href": "./composite.tif", "around": true })]
    );
    // Found again by another run: the row tells who stored its values first.
    bench.run::<StorePostgis>("run-2/store/0", parameters, inputs()).await.unwrap();
    assert_eq!(psql(&database, "select string_agg(run, ',') from swath_geo.detections"), "run-1");
    assert_eq!(psql(&database, "select string_agg(run, ',') from swath_geo.imagery_catalog"), "run-1");
}

#[tokio::test]
async fn scenes_fill_the_catalogue_and_its_tiles() {
    let database = POSTGRES.create_database();
    let bench = Bench::with_database(&database);
    let store = async |run: &str, scenes: &[Value]| {
        let text = json!({ "signing": "none", "scenes": scenes }).to_string();
        let inputs =
            serde_json::from_value(json!({ "scenes": bench.artifact::<swath_kinds::SceneList>("scenes.json", &text) }));
        let key = format!("{run}/scenes/0");
        let stored = bench.run::<StoreScenes>(&key, json!({ "database": "DB" }), inputs.unwrap());
        stored.await.map(|stored| (stored.rows_total, stored.rows_added, stored.rows_updated))
    };
    let mut second = scene("b", 20, 11.0);
    let both = [scene("a", 1, 10.0), second.clone()];
    assert_eq!(store("1", &both).await.unwrap(), (2, 2, 0));
    assert_eq!(store("2", &both).await.unwrap(), (2, 0, 0));
    second["cloud_cover"] = json!(50);
    // Over the antimeridian, and without a tile.
    let mut third = scene("c", 3, 179.5);
    third["bbox"] = json!([179.5, -17, -179.5, -16]);
    third.as_object_mut().unwrap().remove("tile");
    assert_eq!(store("3", &[second, third]).await.unwrap(), (3, 1, 1));
    let tiles = "select tile, scenes, first_datetime = '2024-06-01T10:00Z' as first, \
                 last_datetime = '2024-06-20T10:00Z' as last, \
                 st_astext(st_normalize(geometry)) as outline from swath_geo.tiles";
    let outline = "POLYGON((10 47,10 48,11 48,12 48,12 47,11 47,10 47))";
    let tiles = rows(&database, tiles);
    assert_eq!(tiles.len(), 1);
    assert_eq!(
        (&tiles[0]["tile"], &tiles[0]["scenes"], &tiles[0]["first"], &tiles[0]["last"]),
        (&json!("33UUU"), &json!(2), &json!(true), &json!(true))
    );
    let same = format!("select st_equals(geometry, st_geomfromtext('{outline}', 4326)) from swath_geo.tiles");
    assert_eq!(psql(&database, &same), "t", "{tiles:?}");
    assert_eq!(
        psql(
            &database,
            "select st_area(geometry), collection, item->>'cloud_cover' from swath_geo.imagery_catalog where id = 'c'"
        ),
        "1|s2|12.5"
    );
}

#[tokio::test]
async fn known_sites_are_stored_by_name_from_either_form() {
    let database = POSTGRES.create_database();
    let bench = Bench::with_database(&database);
    let store = async |run: &str, sites: &Path| {
        let key = format!("{run}/sites/0");
        let stored = bench.run::<StoreSites>(&key, json!({ "database": "DB", "sites": sites }), NoInputs {});
        stored.await.map(|stored| (stored.rows_total, stored.rows_added, stored.rows_updated))
    };
    let shipped = workspace().join("flows/data/s2-l1c-t33uuu/labels/known_sites_water.json");
    let count =
        serde_json::from_slice::<Value>(&std::fs::read(&shipped).unwrap()).unwrap()["sites"].as_array().unwrap().len()
            as u64;
    assert_eq!(store("1", &shipped).await.unwrap(), (count, count, 0));
    assert_eq!(store("2", &shipped).await.unwrap(), (count, 0, 0));
    let site = "select country, radius_km, st_astext(geometry) as point from swath_geo.known_sites \
                where name = 'osm-water-1401769'";
    assert_eq!(
        rows(&database, site),
        [json!({ "country": "DE", "radius_km": 0.344, "point": "POINT(12.607671 52.453155)" })]
    );

    let file = bench.path("sites.geojson");
    let write = |features: Value| {
        std::fs::write(&file, json!({ "type": "FeatureCollection", "features": features }).to_string()).unwrap()
    };
    let site = |name: &str, position: Value| {
        let geometry = json!({ "type": "Point", "coordinates": position });
        json!({ "type": "Feature", "properties": { "name": name }, "geometry": geometry })
    };
    write(json!([site("osm-water-1401769", json!([12.6, 52.4])), site("new", json!([1, 2, 8848]))]));
    assert_eq!(store("3", &file).await.unwrap(), (count + 1, 1, 1));
    for (features, word) in [
        (json!([site("", json!([1, 2]))]), "no `name`"),
        (json!([site("a", json!([1, 2])), site("a", json!([1, 2]))]), "two sites"),
        (json!([site("a", json!([500_000, 5_000_000]))]), "degrees"),
        (json!([{ "properties": { "name": "a" }, "geometry": null }]), "no geometry"),
    ] {
        write(features);
        let told = fault(store("4", &file).await.unwrap_err());
        assert!(told.code == "D131" && told.message.contains(word), "{told}");
    }
}

#[tokio::test]
async fn a_database_made_by_the_shipped_files_is_the_one_the_tasks_make() {
    let (made, shipped) = (POSTGRES.create_database(), POSTGRES.create_database());
    Bench::with_database(&made).store_postgis("r/s/0", &[]).await.unwrap();
    apply(&shipped, &steps());
    let structure = "select table_name, column_name, data_type, is_nullable, is_generated \
                     from information_schema.columns where table_schema = 'swath_geo' order by 1, 2";
    let indices = "select indexname, indexdef from pg_indexes where schemaname = 'swath_geo' order by 1";
    let versions = "select version from swath_geo.schema_steps order by 1";
    for query in [structure, indices, versions] {
        assert_eq!(rows(&made, query), rows(&shipped, query));
    }
    assert_eq!(rows(&made, versions).len(), steps().len());
    Bench::with_database(&shipped).store_postgis("r/s/0", &[detection("a", 1.0, 0.5)]).await.unwrap();
    let geometries =
        "select f_table_name, type, srid from geometry_columns where f_table_schema = 'swath_geo' order by 1";
    let expected = [
        ("detections", "MULTIPOLYGON"),
        ("imagery_catalog", "GEOMETRY"),
        ("known_sites", "GEOMETRY"),
        ("tiles", "GEOMETRY"),
    ];
    let expected = expected.map(|(table, kind)| json!({ "f_table_name": table, "type": kind, "srid": 4326 }));
    assert_eq!(rows(&made, geometries), expected);
    let gist =
        "select count(*) from pg_indexes where schemaname = 'swath_geo' and indexdef like '%USING gist (geometry)%'";
    assert_eq!(psql(&made, gist), "4");
}

#[tokio::test]
async fn an_older_schema_is_brought_up_to_date_and_a_newer_one_is_left_alone() {
    let database = POSTGRES.create_database();
    let bench = Bench::with_database(&database);
    apply(&database, &steps()[..1]);
    psql(
        &database,
        "insert into swath_geo.known_sites (name, properties, run, geometry) \
         values ('x', '{}', 'old', 'SRID=4326;POINT(1 2)')",
    );
    bench.store_postgis("r/s/0", &[detection("a", 1.0, 0.5)]).await.unwrap();
    assert_eq!(psql(&database, "select count(*) from swath_geo.known_sites"), "1", "what was there stays");
    assert_eq!(psql(&database, "select max(version) from swath_geo.schema_steps"), steps().len().to_string());

    psql(&database, "insert into swath_geo.schema_steps (version) values (99)");
    let told = fault(bench.store_postgis("r/s/1", &[detection("b", 1.0, 0.5)]).await.unwrap_err());
    assert!(told.code == "D127" && told.message.contains("schema 99"), "{told}");
    assert_eq!(psql(&database, "select count(*) from swath_geo.detections"), "1");
}

#[tokio::test]
async fn gdal_opens_the_detections_as_a_layer() {
    let database = POSTGRES.create_database();
    let bench = Bench::with_database(&database);
    let found = [detection("a", 10.0, 0.9), detection("b", 11.0, 0.8)];
    bench.store_postgis("r/s/0", &found).await.unwrap();
    let mut ogr = Command::new("ogr2ogr");
    // The form that GDAL asks for; the address has the parts `postgres://USER@HOST:PORT/NAME`.
    let parts: Vec<&str> = database.trim_start_matches("postgres://").split(['@', ':', '/']).collect();
    let source = format!("PG:user={} host={} port={} dbname={}", parts[0], parts[1], parts[2], parts[3]);
    ogr.args(["-f", "GeoJSON", "/vsistdout/", &source, "swath_geo.detections", "-where", "id = 'b'"]);
    let output = ogr.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(read["features"].as_array().unwrap().len(), 1);
    let feature = &read["features"][0];
    assert_eq!((&feature["properties"]["class"], &feature["properties"]["score"]), (&json!("lake"), &json!(0.8)));
    let ring = |coordinates: &Value| serde_json::from_value::<Vec<[f64; 2]>>(coordinates.clone()).unwrap();
    let mut corners = ring(&feature["geometry"]["coordinates"][0][0]);
    let mut given = ring(&found[1]["geometry"]["coordinates"][0]);
    for ring in [&mut corners, &mut given] {
        ring.sort_by(|a, b| a.partial_cmp(b).unwrap());
    }
    assert_eq!(corners, given);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_in_a_store_loses_nothing_and_doubles_nothing() {
    let mut server = Postgres::start(true);
    let database = server.create_database();
    let bench = std::sync::Arc::new(Bench::with_database(&database));
    bench.store_postgis("first/store/0", &[detection("before", 1.0, 0.5)]).await.unwrap();
    // Somebody has given a row a key that the store will insert, and has not committed: the store waits in the middle of its work.
    let mut another = sqlx::PgConnection::connect(&database).await.unwrap();
    let renames = "begin; update swath_geo.detections set key = replace(key, 'before', '19999')";
    sqlx::raw_sql(renames).execute(&mut another).await.unwrap();
    let found: Vec<_> = (0..20_000).map(|n| detection(&n.to_string(), f64::from(n % 170), 0.5)).collect();
    let store = tokio::spawn({
        let (bench, found) = (bench.clone(), found.clone());
        async move { bench.store_postgis("second/store/0", &found).await }
    });
    let waits = "select count(*) from pg_stat_activity where application_name = 'swath' \
                 and query like '-- Inserts detections%' and wait_event_type = 'Lock'";
    let began = Instant::now();
    while psql(&database, waits) == "0" {
        assert!(began.elapsed() < Duration::from_secs(300), "the store does not come to the row");
        assert!(!store.is_finished(), "the store does not wait for the row");
    }
    server.restart_immediate();
    let cut = store.await.unwrap();
    let Err(swath_task::TaskError::Transient { fault, .. }) = cut else { panic!("{cut:?}") };
    assert_eq!(fault.code, "D122", "{fault}");
    assert_eq!(psql(&database, "select string_agg(id, ',') from swath_geo.detections"), "before");
    let again = bench.store_postgis("second/store/0", &found).await.unwrap();
    assert_eq!((again.rows_total, again.rows_added), (20_001, 20_000));
    let replayed = bench.store_postgis("second/store/0", &found).await.unwrap();
    assert_eq!(replayed, again);
}
