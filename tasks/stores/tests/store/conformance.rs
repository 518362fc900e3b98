//! What every store of detections does, whatever it stores into.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use swath_stores::{GeoPackageOutputs, Inputs, PostgisInputs, PostgisOutputs, Store, StorePostgis};
use swath_task::{Task, TaskError};
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, POSTGRES, detection, fault, look, rows};

/// Where a case stores.
enum Target {
    GeoPackage(Bench),
    Postgis(Bench, String),
}

/// Rows there are, rows added, rows updated.
type Counts = (u64, u64, u64);

impl Target {
    fn geopackage() -> Arc<Self> {
        Arc::new(Self::GeoPackage(Bench::new()))
    }

    fn postgis() -> Arc<Self> {
        let database = POSTGRES.create_database();
        Arc::new(Self::Postgis(Bench::with_database(&database), database))
    }

    /// Stores as the step of a run.
    async fn store(&self, run: &str, features: &[Value]) -> Result<Counts, TaskError> {
        self.store_with(run, json!({}), features).await
    }

    async fn store_with(&self, run: &str, parameters: Value, features: &[Value]) -> Result<Counts, TaskError> {
        let text = json!({ "type": "FeatureCollection", "features": features }).to_string();
        self.store_text(run, parameters, &text, CancellationToken::new()).await
    }

    async fn store_text(
        &self,
        run: &str,
        mut parameters: Value,
        text: &str,
        cancel: CancellationToken,
    ) -> Result<Counts, TaskError> {
        let key = format!("{run}/store/0");
        match self {
            Self::GeoPackage(bench) => {
                parameters["path"] = json!(bench.path("found.gpkg"));
                let task: Store = serde_json::from_value(parameters).unwrap();
                task.check().unwrap();
                let inputs = Inputs { detections: bench.artifact("detections.geojson", text) };
                let GeoPackageOutputs { rows_total, rows_added, rows_updated, .. } =
                    task.run(inputs, &bench.host.attempt(&key, cancel)).await?;
                Ok((rows_total, rows_added, rows_updated))
            }
            Self::Postgis(bench, _) => {
                parameters["database"] = json!("DB");
                let task: StorePostgis = serde_json::from_value(parameters).unwrap();
                task.check().unwrap();
                let inputs = PostgisInputs { detections: bench.artifact("detections.geojson", text), composite: None };
                let PostgisOutputs { rows_total, rows_added, rows_updated, .. } =
                    task.run(inputs, &bench.host.attempt(&key, cancel)).await?;
                Ok((rows_total, rows_added, rows_updated))
            }
        }
    }

    /// The rows of a layer in the order of their ids, with `geom` as west, east, south, north; none where nothing was
    /// ever stored.
    fn rows(&self, layer: &str) -> Vec<Value> {
        let mut found = match self {
            Self::GeoPackage(bench) => {
                let path = bench.path("found.gpkg");
                if !path.exists() {
                    return Vec::new();
                }
                look(&path, layer)["rows"].as_array().unwrap().clone()
            }
            Self::Postgis(_, database) => {
                if rows(database, "select to_regclass('swath_geo.detections') as made")[0]["made"].is_null() {
                    return Vec::new();
                }
                let columns =
                    "*, array[st_xmin(geometry), st_xmax(geometry), st_ymin(geometry), st_ymax(geometry)] as geom";
                let query = format!("select {columns} from swath_geo.detections where layer = '{layer}'");
                let mut found = rows(database, &query);
                for row in &mut found {
                    // Beside the columns, as in a layer.
                    let others = row["properties"].as_object().unwrap().clone();
                    row.as_object_mut().unwrap().extend(others);
                }
                found
            }
        };
        found.sort_by_key(|row| row["id"].as_str().unwrap().to_owned());
        found
    }

    fn ids(&self, layer: &str) -> Vec<String> {
        self.rows(layer).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Every case on every store.
macro_rules! cases {
    ($($case:ident),+ $(,)?) => {
        mod geopackage {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                super::$case(super::Target::geopackage()).await;
            })+
        }
        mod postgis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                super::$case(super::Target::postgis()).await;
            })+
        }
    };
}

cases!(
    what_is_stored_is_read_back_by_others,
    the_same_detections_again_add_nothing_and_changed_ones_are_updated,
    a_step_that_is_run_again_adds_nothing,
    replacing_leaves_the_rows_of_this_run_and_other_layers,
    no_detections_are_an_empty_layer,
    other_properties_are_kept,
    another_key_tells_rows_apart,
    what_are_no_detections_is_told_and_stores_nothing,
    writers_at_the_same_time_lose_nothing,
    a_cancelled_store_stores_nothing,
    a_store_that_is_cut_off_anywhere_is_whole_when_it_is_run_again,
);

async fn what_is_stored_is_read_back_by_others(target: Arc<Target>) {
    let mut both = [detection("a", 10.0, 0.9), detection("b", 11.0, 0.8)];
    let (first, second) = (both[0]["geometry"]["coordinates"].clone(), both[1]["geometry"]["coordinates"].clone());
    both[1]["geometry"] = json!({ "type": "MultiPolygon", "coordinates": [first, second] });
    assert_eq!(target.store("1", &both).await.unwrap(), (2, 2, 0));
    let rows = target.rows("detections");
    let sides = |row: &Value| serde_json::from_value::<[f64; 4]>(row["geom"].clone()).unwrap();
    assert_eq!(sides(&rows[0]), [10.0, 10.01, 47.0, 47.01]);
    assert_eq!(sides(&rows[1]), [10.0, 11.01, 47.0, 47.01], "both polygons");
    for (column, value) in both[0]["properties"].as_object().unwrap() {
        match value.as_f64() {
            Some(number) => assert_eq!(rows[0][column].as_f64(), Some(number), "{column}"),
            None => assert_eq!(rows[0][column], *value, "{column}"),
        }
    }
}

async fn the_same_detections_again_add_nothing_and_changed_ones_are_updated(target: Arc<Target>) {
    let both = [detection("a", 10.0, 0.9), detection("b", 11.0, 0.8)];
    assert_eq!(target.store("1", &both).await.unwrap(), (2, 2, 0));
    assert_eq!(target.store("2", &both).await.unwrap(), (2, 0, 0));
    let third = [detection("b", 11.0, 0.85), detection("c", 12.0, 0.1)];
    assert_eq!(target.store("3", &third).await.unwrap(), (3, 1, 1));
    let rows: Vec<_> = target.rows("detections").iter().map(|r| (r["id"].clone(), r["score"].clone())).collect();
    assert_eq!(rows, vec![(json!("a"), json!(0.9)), (json!("b"), json!(0.85)), (json!("c"), json!(0.1))]);
}

async fn a_step_that_is_run_again_adds_nothing(target: Arc<Target>) {
    for _ in 0..3 {
        target.store("1", &[detection("a", 10.0, 0.9)]).await.unwrap();
    }
    let replace = json!({ "mode": "replace", "layer": "new" });
    for _ in 0..3 {
        target.store_with("2", replace.clone(), &[detection("b", 10.0, 0.9)]).await.unwrap();
    }
    assert_eq!((target.ids("detections"), target.ids("new")), (vec!["a".to_owned()], vec!["b".to_owned()]));
}

async fn replacing_leaves_the_rows_of_this_run_and_other_layers(target: Arc<Target>) {
    let all = [detection("a", 10.0, 0.9), detection("b", 11.0, 0.8)];
    target.store_with("1", json!({ "layer": "first" }), &all).await.unwrap();
    target.store_with("2", json!({ "layer": "second" }), &[detection("a", 1.0, 0.5)]).await.unwrap();
    let replace = json!({ "layer": "first", "mode": "replace" });
    let stored = target.store_with("3", replace, &[detection("c", 12.0, 0.7)]).await.unwrap();
    assert_eq!(stored, (1, 1, 0));
    assert_eq!((target.ids("first"), target.ids("second")), (vec!["c".to_owned()], vec!["a".to_owned()]));
}

async fn no_detections_are_an_empty_layer(target: Arc<Target>) {
    assert_eq!(target.store("1", &[]).await.unwrap(), (0, 0, 0));
    assert_eq!(target.ids("detections"), Vec::<String>::new());
    assert_eq!(target.store("2", &[detection("a", 10.0, 0.9)]).await.unwrap(), (1, 1, 0));
    assert_eq!(target.store_with("3", json!({ "mode": "replace" }), &[]).await.unwrap(), (0, 0, 0));
}

async fn other_properties_are_kept(target: Arc<Target>) {
    let (mut a, mut b) = (detection("a", 10.0, 0.9), detection("b", 11.0, 0.8));
    a["properties"]["depth"] = json!(3);
    b["properties"]["depth"] = json!(3.5);
    b["properties"]["site"] = json!("Ü'\"; drop table x");
    a["properties"].as_object_mut().unwrap().remove("class");
    target.store("1", &[a, b]).await.unwrap();
    let rows = target.rows("detections");
    assert_eq!((rows[0]["depth"].as_f64(), rows[1]["depth"].as_f64()), (Some(3.0), Some(3.5)));
    assert_eq!((&rows[0]["site"], &rows[1]["site"]), (&Value::Null, &json!("Ü'\"; drop table x")));
    assert_eq!(rows[0]["class"], Value::Null, "a property that is left out");
}

async fn another_key_tells_rows_apart(target: Arc<Target>) {
    let sighting = |id: &str, site: &str| {
        let mut found = detection(id, 10.0, 0.9);
        found["properties"]["site"] = json!(site);
        found
    };
    let by_site = json!({ "key": "site" });
    target.store_with("1", by_site.clone(), &[sighting("a", "north"), sighting("b", "south")]).await.unwrap();
    let again = target.store_with("2", by_site.clone(), &[sighting("c", "north")]).await.unwrap();
    assert_eq!(again, (2, 0, 1), "the same site under another id");
    let none = target.store_with("3", by_site, &[detection("d", 10.0, 0.9)]).await.unwrap_err();
    assert_eq!(fault(none).code, "D111");
    assert_eq!(target.ids("detections"), ["b", "c"]);
}

async fn what_are_no_detections_is_told_and_stores_nothing(target: Arc<Target>) {
    let mut nameless = detection("a", 10.0, 0.9);
    nameless.as_object_mut().unwrap().remove("id");
    let mut placeless = detection("a", 10.0, 0.9);
    placeless["geometry"] = Value::Null;
    let mut metres = detection("a", 10.0, 0.9);
    metres["geometry"]["coordinates"] = json!([[[5e5, 5e6], [5.1e5, 5e6], [5.1e5, 5.1e6], [5e5, 5e6]]]);
    let mut open = detection("a", 10.0, 0.9);
    open["geometry"]["coordinates"] = json!([[[1, 1], [2, 1], [2, 2], [1, 2]]]);
    let mut point = detection("a", 10.0, 0.9);
    point["geometry"] = json!({ "type": "Point", "coordinates": [1, 1] });
    let mut odd = detection("a", 10.0, 0.9);
    odd["properties"]["pixels"] = json!("many");
    let collection = |features: Value| json!({ "type": "FeatureCollection", "features": features }).to_string();
    for (text, word) in [
        ("".to_owned(), "EOF"),
        ("{\"features\":[".to_owned(), "EOF"),
        ("[]".to_owned(), "FeatureCollection"),
        ("{}".to_owned(), "features"),
        (collection(json!([nameless])), "no id"),
        (collection(json!([placeless])), "no geometry"),
        (collection(json!([metres])), "degrees"),
        (collection(json!([open])), "closed"),
        (collection(json!([point])), "MultiPolygon"),
        (collection(json!([odd])), "pixels"),
        (collection(json!([detection("a", 1.0, 0.1), detection("a", 2.0, 0.1)])), "two features"),
    ] {
        let stored = target.store_text("1", json!({}), &text, CancellationToken::new()).await;
        let told = fault(stored.unwrap_err());
        assert_eq!(told.code, "D111", "{told}");
        assert!(told.message.contains(word), "{told}");
        assert!(target.rows("detections").is_empty());
    }
}

async fn writers_at_the_same_time_lose_nothing(target: Arc<Target>) {
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let target = target.clone();
        writers.spawn(async move {
            // Five of its own, and five that all of them find, in an order of its own.
            let mut found: Vec<_> = (0..5).map(|n| detection(&format!("{writer}-{n}"), f64::from(n), 0.5)).collect();
            found.extend((0..5).map(|n| detection(&format!("all-{}", (n + writer) % 5), 20.0, 0.5)));
            target.store(&writer.to_string(), &found).await
        });
    }
    let mut added = 0;
    while let Some(writer) = writers.join_next().await {
        added += writer.unwrap().unwrap().1;
    }
    assert_eq!((added, target.rows("detections").len()), (45, 45));
}

async fn a_cancelled_store_stores_nothing(target: Arc<Target>) {
    let cancel = CancellationToken::new();
    cancel.cancel();
    let text = json!({ "type": "FeatureCollection", "features": [detection("a", 10.0, 0.9)] }).to_string();
    let result = target.store_text("1", json!({}), &text, cancel).await;
    assert!(matches!(result, Err(TaskError::Cancelled)), "{result:?}");
    assert!(target.rows("detections").is_empty());
}

async fn a_store_that_is_cut_off_anywhere_is_whole_when_it_is_run_again(target: Arc<Target>) {
    let found: Vec<_> = (0..4000).map(|n| detection(&format!("{n:04}"), f64::from(n % 170), 0.5)).collect();
    let text = json!({ "type": "FeatureCollection", "features": found }).to_string();
    for pause in [1, 20, 60, 120, 250] {
        let cancel = CancellationToken::new();
        let cut = tokio::spawn({
            let (target, text, cancel) = (target.clone(), text.clone(), cancel.clone());
            async move { target.store_text("1", json!({}), &text, cancel).await }
        });
        tokio::time::sleep(Duration::from_millis(pause)).await;
        cancel.cancel();
        let end = cut.await.unwrap();
        assert!(matches!(end, Ok((4000, _, 0)) | Err(TaskError::Cancelled)), "{end:?}");
        let left = target.rows("detections").len();
        assert!(left == 0 || left == 4000, "{left} rows after {pause} ms");
    }
    let (total, ..) = target.store_text("1", json!({}), &text, CancellationToken::new()).await.unwrap();
    assert_eq!((total, target.rows("detections").len()), (4000, 4000));
}
