//! Indices, stretches, chips and pictures against numpy.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use swath_geo::{BandSpec, CogOptions, CogWriter, Crs, Grid, PixelWindow};
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

    /// A raster of one value, 10 m pixels from `left` on.
    fn plain(&self, name: &str, left: f64, width: usize, height: usize, value: f32) -> serde_json::Value {
        let crs = Crs::from_epsg(32633).unwrap();
        let grid = Grid { crs, left, top: 5_200_000.0, pixel_width: 10.0, pixel_height: 10.0, width, height };
        let path = self.folder.path().join(name);
        let options = CogOptions::new(vec![BandSpec::new("B04")], Some(f64::NAN));
        let writer = CogWriter::<f32>::create(&path, &grid, options).unwrap();
        writer.write_tile(&PixelWindow::new(0, 0, width, height), &vec![value; width * height]).unwrap();
        writer.finish().unwrap();
        serde_json::to_value(self.host.import::<Cog>(&path).unwrap()).unwrap()
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
fn a_raster_smaller_than_a_chip_is_judged_by_the_pixels_that_it_has() {
    let bench = Bench::new();
    let small = bench.plain("small.tif", 500_000.0, 150, 150, 0.5);
    let params = serde_json::json!({ "size": 256, "min_valid": 1.0 });
    let outputs = bench.run::<ChipRaster>(params, serde_json::json!({ "raster": small })).unwrap();
    assert_eq!(outputs["count"], 1);
    let index = std::fs::read_to_string(bench.path(&outputs["chips"]).join("index.geojson")).unwrap();
    let index: serde_json::Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["features"][0]["properties"]["valid"], 1.0);
    let needs = |params| serde_json::from_value::<ChipRaster>(params).unwrap().needs().memory;
    let large = needs(serde_json::json!({ "size": 2048, "overlap": 0 }));
    assert!(large > needs(serde_json::json!({})), "a large chip of many bands is more than usual: {large}");
}

#[test]
fn probabilities_of_a_part_are_laid_where_they_belong() {
    let bench = Bench::new();
    let picture = bench.plain("picture.tif", 500_000.0, 200, 100, 0.5);
    // It covers the right half of the picture and goes on beyond it.
    let part = bench.plain("part.tif", 501_000.0, 300, 100, 1.0);
    let inputs = serde_json::json!({ "raster": picture, "probability": part });
    let outputs = bench.run::<Preview>(serde_json::json!({}), inputs).unwrap();
    let file = std::io::BufReader::new(std::fs::File::open(bench.path(&outputs["picture"])).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut pixels).unwrap();
    for (at, pixel) in pixels.chunks_exact(4).enumerate() {
        assert_eq!(pixel[0] > pixel[2], at % 200 >= 100, "{at}: {pixel:?}");
    }
    let picture = bench.plain("picture.tif", 500_000.0, 200, 100, 0.5);
    let far = bench.plain("far.tif", 600_000.0, 100, 100, 1.0);
    let inputs = serde_json::json!({ "raster": picture, "probability": far });
    let error = bench.run::<Preview>(serde_json::json!({}), inputs).unwrap_err();
    assert!(error.to_string().contains("R109") && error.to_string().contains("far.tif"), "{error}");
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
