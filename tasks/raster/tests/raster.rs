//! Indices, stretches, chips and pictures against numpy.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use swath_kinds::{Cog, Detections};
use swath_raster::{ChipRaster, Composite, Indices, Normalise, Preview, TASKS};
use swath_task::local::LocalHost;
use swath_task::{ArtifactRecord, Task, TaskError};

struct Bench {
    folder: tempfile::TempDir,
    host: Arc<LocalHost>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = LocalHost::new(folder.path().join("host")).unwrap();
        let bench = Self { folder, host };
        bench.judge("make", &[]);
        bench
    }

    fn raster(&self) -> PathBuf {
        self.folder.path().join("raster.tif")
    }

    fn judge(&self, what: &str, others: &[&Path]) {
        let raster = self.raster();
        let mut arguments = vec![what.as_ref(), raster.as_os_str()];
        arguments.extend(others.iter().map(|path| path.as_os_str()));
        assert_eq!(support::run_file("oracle_raster.py", &arguments), "agree");
    }

    /// Runs a task on the raster and returns its outputs as JSON.
    fn run<T: Task>(&self, params: serde_json::Value, more: serde_json::Value) -> Result<serde_json::Value, TaskError> {
        let task: T = serde_json::from_value(params).unwrap();
        assert_eq!(task.check(), Ok(()));
        let raster = self.host.import::<Cog>(&self.raster()).unwrap();
        let mut inputs = serde_json::json!({ "raster": raster });
        inputs.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let outputs = runtime.block_on(task.run(serde_json::from_value(inputs).unwrap(), &self.host.context(2)))?;
        Ok(serde_json::to_value(outputs).unwrap())
    }

    fn path(&self, output: &serde_json::Value) -> PathBuf {
        self.host.path(&serde_json::from_value::<ArtifactRecord>(output.clone()).unwrap())
    }
}

fn problems<T: Task>(params: serde_json::Value) -> Vec<String> {
    let task: T = serde_json::from_value(params).unwrap();
    task.check().unwrap_err().into_iter().map(|problem| format!("{}: {}", problem.at, problem.message)).collect()
}

#[test]
fn indices_are_computed_on_reflectance_and_undefined_ones_are_no_data() {
    let bench = Bench::new();
    let ratio = serde_json::json!({ "name": "ratio", "expression": "sqrt(abs(swir16)) / 2 - 0.5" });
    let params = serde_json::json!({ "indices": ["NDVI", "NDWI", "NDBI", "BSI", ratio] });
    let outputs = bench.run::<Indices>(params, serde_json::json!({})).unwrap();
    bench.judge("indices", &[&bench.path(&outputs["raster"])]);

    let missing = serde_json::json!({ "indices": [{ "name": "x", "expression": "B08 + B99" }] });
    let error = bench.run::<Indices>(missing, serde_json::json!({})).unwrap_err();
    assert!(error.to_string().contains("no band `B99`; it has: B02"), "{error}");
    let told =
        problems::<Indices>(serde_json::json!({ "indices": ["NDVI", { "name": "count", "expression": "1 +" }] }));
    assert_eq!(told.len(), 2, "{told:?}");
}

#[test]
fn a_stretch_has_exact_percentiles_of_the_whole_raster_and_can_be_shared() {
    let bench = Bench::new();
    let outputs = bench.run::<Normalise>(serde_json::json!({}), serde_json::json!({})).unwrap();
    let (raster, stretch) = (bench.path(&outputs["raster"]), bench.path(&outputs["stretch"]));
    bench.judge("normalise", &[&raster, &stretch]);

    let again =
        bench.run::<Normalise>(serde_json::json!({}), serde_json::json!({ "stretch": outputs["stretch"] })).unwrap();
    assert_eq!(again["raster"]["digest"], outputs["raster"]["digest"], "the stored stretch gives the same pixels");
    let chosen = bench.run::<Normalise>(serde_json::json!({ "bands": ["B08"] }), serde_json::json!({})).unwrap();
    let text = std::fs::read_to_string(bench.path(&chosen["stretch"])).unwrap();
    assert!(text.contains("B08") && !text.contains("B02"));
    assert_eq!(problems::<Normalise>(serde_json::json!({ "percentiles": [98, 2] })).len(), 1);
}

#[test]
fn chips_cover_the_edges_and_leave_out_what_is_mostly_empty() {
    let bench = Bench::new();
    let outputs = bench.run::<ChipRaster>(serde_json::json!({}), serde_json::json!({})).unwrap();
    bench.judge("chips", &[&bench.path(&outputs["chips"])]);
    let error = bench.run::<ChipRaster>(serde_json::json!({ "min_valid": 1.0, "size": 600 }), serde_json::json!({}));
    assert!(error.unwrap_err().to_string().contains("R124"));
    assert_eq!(problems::<ChipRaster>(serde_json::json!({ "size": 64, "overlap": 64 })).len(), 1);
}

#[test]
fn a_preview_shows_bands_holes_and_outlines() {
    let bench = Bench::new();
    let detections = bench.folder.path().join("detections.geojson");
    let square = "[[[15.03,46.91],[15.035,46.91],[15.035,46.913],[15.03,46.913],[15.03,46.91]]]";
    let feature =
        format!(r#"{{"type":"Feature","properties":{{}},"geometry":{{"type":"Polygon","coordinates":{square}}}}}"#);
    std::fs::write(&detections, format!(r#"{{"type":"FeatureCollection","features":[{feature}]}}"#)).unwrap();
    let detections = bench.host.import::<Detections>(&detections).unwrap();
    let params = serde_json::json!({ "max_size": 550 });
    let outputs = bench.run::<Preview>(params, serde_json::json!({ "detections": detections })).unwrap();
    bench.judge("preview", &[&bench.path(&outputs["picture"])]);
    assert_eq!(problems::<Preview>(serde_json::json!({ "bands": ["a", "b"] })).len(), 1);
}

#[test]
fn every_task_has_ports_and_documentation() {
    let names: Vec<&str> = TASKS.iter().map(|task| task.name).collect();
    assert_eq!(
        names,
        ["raster.composite", "raster.indices", "raster.normalise", "raster.chips", "raster.preview", "raster.item"]
    );
    for task in TASKS {
        assert!(!task.about().is_empty() && !task.ports().inputs.is_empty() && !task.ports().outputs.is_empty());
    }
    let stretch = TASKS[2].ports().inputs.into_iter().find(|port| port.name == "stretch").unwrap();
    assert!(!stretch.required);
    assert_eq!(Composite::NAME, "raster.composite");
}
