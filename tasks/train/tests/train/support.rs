//! Datasets made on the spot, and trainings on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use swath_datasets::{
    BandStatistics, ChipManifest, ChipRef, ChipWriter, DATASET_FORMAT, DatasetManifest, Header, LabelCounts, Leakage,
    LeftOut, Measures, Place, SetRef, Side, Sides, SiteWindow, Sources,
};
use swath_kinds::{Checkpoint, ChipSetFolder, DatasetFile, Picture};
use swath_task::local::LocalHost;
use swath_task::{Artifact, ArtifactRecord, Context, Digest, Fault, Kind, TaskError};
use swath_train::TASKS;

pub const SIDE: usize = 32;

/// A chip: bands and label.
pub type Pixels = (Vec<f32>, Vec<f32>);

/// Numbers from 0 to 1 that are the same for ever.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Ground of two bands; where there is an object, the first is brighter and the second darker. Its outline is ambiguous, and
/// the first column has no label.
pub fn ground(index: u64, object: bool) -> Pixels {
    let mut numbers = Numbers(index * 7919 + 13);
    let mut image = vec![0.0; 2 * SIDE * SIDE];
    let mut label = vec![0.0; SIDE * SIDE];
    let (x, y) = (8.0 + 16.0 * numbers.next(), 8.0 + 16.0 * numbers.next());
    for pixel in 0..SIDE * SIDE {
        let (row, column) = ((pixel / SIDE) as f32, (pixel % SIDE) as f32);
        let far = (row - y).hypot(column - x);
        let here = object && far < 6.0;
        image[pixel] = 0.2 + 0.1 * numbers.next() + if here { 0.15 } else { 0.0 };
        image[SIDE * SIDE + pixel] = 0.5 + 0.1 * numbers.next() - if here { 0.12 } else { 0.0 };
        label[pixel] = if here { 1.0 } else { 0.0 };
        if object && (6.0..7.0).contains(&far) {
            label[pixel] = 0.5;
        }
        if column == 0.0 {
            label[pixel] = f32::NAN;
        }
    }
    image[5] = f32::NAN;
    label[5] = f32::NAN;
    (image, label)
}

/// Chips of each side.
pub struct Chips {
    pub train: Vec<Pixels>,
    pub validation: Vec<Pixels>,
    pub test: Vec<Pixels>,
}

impl Chips {
    /// Half of them with an object.
    pub fn usual(train: u64) -> Self {
        let some = |from: u64, count: u64| (from..from + count).map(|index| ground(index, index % 2 == 0)).collect();
        Self { train: some(0, train), validation: some(100, 6), test: some(200, 6) }
    }
}

/// A place for a training.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub host: Arc<LocalHost>,
    pub inputs: Value,
    pub chips: Vec<String>,
}

impl Bench {
    pub fn new(chips: &Chips) -> Self {
        Self::with(chips, &["B04", "B08"])
    }

    pub fn with(chips: &Chips, bands: &[&str]) -> Self {
        Self::made(chips, bands, Vec::new())
    }

    /// Chips that tell which of these sites they show; chips lie side by side, from left to right.
    pub fn with_sites(chips: &Chips, sites: Vec<SiteWindow>) -> Self {
        Self::made(chips, &["B04", "B08"], sites)
    }

    fn made(chips: &Chips, bands: &[&str], sites: Vec<SiteWindow>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = LocalHost::new(folder.path().join("host")).unwrap();
        let (inputs, chips) = write(folder.path(), &host, chips, bands, sites);
        Self { folder, host, inputs, chips }
    }

    /// A second host on the same inputs, with nothing kept.
    pub fn fresh(&self, name: &str) -> Arc<LocalHost> {
        let host = LocalHost::new(self.folder.path().join(name)).unwrap();
        let artifacts = self.folder.path().join(name).join("artifacts");
        std::fs::create_dir_all(&artifacts).unwrap();
        swath_task::files::copy(&self.folder.path().join("host/artifacts"), &artifacts, &|_| Ok(())).unwrap();
        host
    }

    pub fn train(&self, settings: Value) -> Result<Value, Fault> {
        run("train.segmentation", settings, &self.inputs, self.host.context(2))
    }
}

/// Runs a task to its end.
pub fn run(task: &str, settings: Value, inputs: &Value, context: Context) -> Result<Value, Fault> {
    let task = TASKS.iter().find(|definition| definition.name == task).unwrap().bind(settings);
    let task = task.unwrap_or_else(|problems| panic!("{problems:?}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(task.run(inputs.clone(), context)).map_err(|error| match error {
        TaskError::Transient { fault, .. } | TaskError::Permanent(fault) => fault,
        TaskError::Cancelled => Fault::new("cancelled", "cancelled"),
    })
}

/// A small network and few epochs.
pub fn small(epochs: u32) -> Value {
    json!({
        "network": {"architecture": "unet", "encoder": "small", "width": 8},
        "classes": ["object"], "epochs": epochs, "batch": 4, "seed": 3
    })
}

/// Where an output lies.
pub fn path<K: Kind>(host: &LocalHost, outputs: &Value, name: &str) -> PathBuf {
    let artifact: Artifact<K> = serde_json::from_value(outputs[name].clone()).unwrap();
    host.path(artifact.record())
}

pub fn checkpoint(host: &LocalHost, outputs: &Value) -> PathBuf {
    path::<Checkpoint>(host, outputs, "checkpoint")
}

pub fn curves(host: &LocalHost, outputs: &Value) -> PathBuf {
    path::<Picture>(host, outputs, "curves")
}

/// Digests of all files of a checkpoint.
pub fn files(outputs: &Value) -> BTreeMap<String, Digest> {
    let record: ArtifactRecord = serde_json::from_value(outputs["checkpoint"].clone()).unwrap();
    record.files.into_iter().map(|file| (file.path, file.digest)).collect()
}

pub fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn write(
    folder: &Path,
    host: &LocalHost,
    chips: &Chips,
    bands: &[&str],
    sites: Vec<SiteWindow>,
) -> (Value, Vec<String>) {
    let set = folder.join("chips");
    let sources = Sources { raster: Digest::of(b"raster"), label: Digest::of(b"label") };
    let bands: Vec<String> = bands.iter().map(|band| (*band).to_owned()).collect();
    let header = Header { size: SIDE, stride: SIDE, bands: bands.clone(), crs: "EPSG:32633".to_owned(), sources };
    let mut writer = ChipWriter::create(&set, header, 5 * (bands.len() + 1) * SIDE * SIDE * 4).unwrap();
    if !sites.is_empty() {
        writer = writer.with_sites(sites);
    }
    let all = || chips.train.iter().chain(&chips.validation).chain(&chips.test);
    for (index, (image, label)) in all().enumerate() {
        let metres = (SIDE * 10) as f64;
        let left = 500_000.0 + index as f64 * metres;
        let degrees = metres / 111_195.0;
        let place = Place {
            window: [index * SIDE, 0, SIDE, SIDE],
            transform: [left, 10.0, 0.0, 5_000_000.0 + metres, 0.0, -10.0],
            bounds: [left, 5_000_000.0, left + metres, 5_000_000.0 + metres],
            bbox: [15.0, 45.0, 15.0 + degrees, 45.0 + degrees],
            area_km2: Some(metres * metres / 1e6),
        };
        writer.push(&place, image, label, &Measures::of(image, label)).unwrap();
    }
    let manifest = writer.finish().unwrap();
    let mut from = 0;
    let mut side = |chips: &[Pixels]| {
        let side = side(&manifest, from, chips);
        from += chips.len();
        side
    };
    let sides = Sides { train: side(&chips.train), validation: side(&chips.validation), test: side(&chips.test) };
    let text = std::fs::read(set.join("manifest.json")).unwrap();
    let dataset = DatasetManifest {
        format: DATASET_FORMAT.to_owned(),
        size: SIDE,
        bands: bands.clone(),
        seed: 0,
        block_m: 1.0,
        gap_m: 0.0,
        sets: vec![SetRef { digest: Digest::of(&text), chips: manifest.chips.len() }],
        sides,
        left_out: LeftOut::default(),
        leakage: Leakage::default(),
        statistics: bands.iter().enumerate().map(|(band, name)| statistics(name, band, &chips.train)).collect(),
    };
    let path = folder.join("dataset.json");
    std::fs::write(&path, serde_json::to_vec(&dataset).unwrap()).unwrap();
    let inputs = json!({
        "dataset": host.import::<DatasetFile>(&path).unwrap(),
        "chips": [host.import::<ChipSetFolder>(&set).unwrap()],
    });
    (inputs, manifest.chips.into_iter().map(|chip| chip.id).collect())
}

fn side(manifest: &ChipManifest, from: usize, chips: &[Pixels]) -> Side {
    let mut labels = LabelCounts::default();
    let mut side = Side::default();
    for (index, (_, label)) in chips.iter().enumerate() {
        labels.add(label);
        let positive = label.iter().any(|value| *value > 0.5);
        side.positives += usize::from(positive);
        side.negatives += usize::from(!positive);
        let id = manifest.chips[from + index].id.clone();
        side.chips.push(ChipRef { set: 0, chip: from + index, id, positive });
    }
    side.labels = labels.list();
    side
}

fn statistics(name: &str, band: usize, chips: &[Pixels]) -> BandStatistics {
    let values = chips.iter().flat_map(|(image, _)| &image[band * SIDE * SIDE..(band + 1) * SIDE * SIDE]);
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).map(|value| f64::from(*value)).collect();
    values.sort_unstable_by(f64::total_cmp);
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let std = (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count).sqrt();
    let at = |percentile: f64| [percentile, values[((values.len() - 1) as f64 * percentile / 100.0) as usize]];
    BandStatistics {
        band: name.to_owned(),
        count: values.len() as u64,
        mean,
        std,
        min: values[0],
        max: values[values.len() - 1],
        percentiles: [2.0, 50.0, 98.0].map(at).to_vec(),
    }
}
