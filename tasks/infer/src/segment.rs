//! The task `infer.segment`: parameters, checks against model and raster, and the ends of the pipeline.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::{BandInfo, GeoError, Pixel, PixelWindow, Raster, RasterInfo};
use swath_kinds::{Cog, Model as ModelFolder, ModelManifest, Normalisation, Stretch, StretchFile};
use swath_task::{Artifact, Bytes, Context, Fault, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::backend::{Backend, Opened};
use crate::model::Model;
use crate::pipeline::{self, Done, Job, Watch};
use crate::plan::{Plan, Sizes};
use crate::prepare::{Rule, Source, Window};
use crate::serving::{BackendChoice, DeviceChoice, Serving, Triton};
use crate::tiling::{Axis, Blend, Edges};
use crate::write::{self, Writer};

/// Runs a segmentation network over a raster of any size and writes a probability a pixel and class.
///
/// Tiles slide over the raster, overlap and are blended; every pixel is predicted, edges included. The model folder's
/// manifest says which bands the network takes, how they are normalised and what its output means; the raster is checked
/// against it. No-data pixels stay no-data. Reading, inference and writing run side by side in bounded memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Model folder (`manifest.json`, `1/model.onnx`). Leave it out when the model comes through the `model` input.
    #[serde(default)]
    pub model: Option<LocalPath>,
    /// Rows and columns of a tile, pixels. Default: what the manifest says.
    #[serde(default)]
    #[schemars(range(min = 1, max = 8192))]
    pub tile: Option<u32>,
    /// Pixels that neighbouring tiles share; at most seven eighths of a tile.
    #[serde(default = "default_overlap")]
    pub overlap: u32,
    /// Tiles given to the network at once: a number, or `auto` (what the network was exported for, else what suits: 1 on
    /// CPUs and for servers that gather requests themselves).
    #[serde(default)]
    pub batch: Batch,
    /// How overlapping tiles become one value.
    #[serde(default)]
    pub blend: Blend,
    /// What happens at the right and lower edge. A raster smaller than a tile is reflected in any case.
    #[serde(default)]
    pub edges: Edges,
    /// Type of the written probabilities. Integers carry a scale, so that readers see 0 to 1.
    #[serde(default)]
    pub values: Values,
    /// Most memory for pixels on their way, reading and writing included; the network's own comes on top.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
    /// Threads of the network, where it runs in this process on the CPU. Default: as many cores as the step has.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1024))]
    pub threads: Option<u32>,
    /// What computes.
    #[serde(default)]
    pub backend: BackendChoice,
    /// On what: `auto` (the GPU that the step holds, else the CPU), `cpu`, `cuda:N`, or `tensorrt:N` of ONNX Runtime.
    #[serde(default)]
    pub device: DeviceChoice,
    /// The model server: `{ url: grpc://host:8001 }`, see `docs/serving.md`.
    #[serde(default)]
    pub triton: Triton,
    /// Accept a raster whose pixels differ by more than 10 % from the size the network was trained at.
    #[serde(default)]
    pub allow_gsd: bool,
}

fn default_overlap() -> u32 {
    64
}

fn default_memory() -> Bytes {
    Bytes::mib(512)
}

/// How many tiles the network is given at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Batch {
    /// `auto`.
    Auto(Auto),
    /// This many.
    Count(#[schemars(range(min = 1, max = 1024))] u32),
}

/// The word `auto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    /// What suits the network and the machine.
    #[default]
    Auto,
}

impl Default for Batch {
    fn default() -> Self {
        Self::Auto(Auto::Auto)
    }
}

/// Type of the written probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Values {
    /// 0 to 1 as they are; no-data is NaN.
    #[default]
    Float32,
    /// 0 to 250 with scale 0.004; no-data is 255. A quarter of the size.
    Uint8,
    /// 0 to 50000 with scale 0.00002; no-data is 65535. Half of the size.
    Uint16,
}

/// What `infer.segment` reads.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SegmentInputs {
    /// The raster, its bands named as in the model's manifest.
    pub raster: Artifact<Cog>,
    /// The model, when a step before made it.
    #[serde(default)]
    pub model: Option<Artifact<ModelFolder>>,
    /// Percentile limits to use in place of those in the manifest, for networks trained on stretched composites.
    #[serde(default)]
    pub stretch: Option<Artifact<StretchFile>>,
}

/// What `infer.segment` makes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SegmentOutputs {
    /// Probabilities on the raster's grid, a band a class.
    pub raster: Artifact<Cog>,
    /// Tiles the network ran on; those without any data are left out.
    pub tiles: u64,
}

impl Task for Segment {
    const NAME: &'static str = "infer.segment";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = SegmentInputs;
    type Outputs = SegmentOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if let Some(tile) = self.tile {
            if !(1..=8192).contains(&tile) {
                problems.push(Problem::new("/tile", format!("`tile` is {tile}, which is not from 1 to 8192")));
            } else if let Err(reason) = check_overlap(tile, self.overlap) {
                problems.push(Problem::new("/overlap", reason).help("a quarter of the tile is usual"));
            }
        }
        if let Batch::Count(count) = self.batch
            && !(1..=1024).contains(&count)
        {
            problems.push(Problem::new("/batch", format!("`batch` is {count}, which is not from 1 to 1024")));
        }
        if let Some(threads) = self.threads
            && !(1..=1024).contains(&threads)
        {
            problems.push(Problem::new("/threads", format!("`threads` is {threads}, which is not from 1 to 1024")));
        }
        self.triton.problems(&mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        if self.backend == BackendChoice::Triton {
            // Another machine computes; tiles are cut and put together here.
            return Needs::new(1.0, Bytes(self.memory.0.saturating_add(CLIENT_MEMORY)));
        }
        let cpu = self.threads.map_or(Needs::ALL_CORES, |threads| threads as f32);
        Needs::new(cpu, Bytes(self.memory.0.saturating_add(NETWORK_MEMORY)))
    }

    fn reads(&self) -> Vec<PathBuf> {
        self.model.iter().map(|path| path.0.clone()).collect()
    }

    async fn run(&self, inputs: SegmentInputs, ctx: &Context) -> Result<SegmentOutputs, TaskError> {
        let model = match (&self.model, &inputs.model) {
            (Some(path), None) => path.0.clone(),
            (None, Some(artifact)) => ctx.locate(artifact).await?,
            (given, _) => {
                let what = if given.is_some() { "twice, as a parameter and as an input" } else { "nowhere" };
                return Err(Fault::new("M114", format!("`infer.segment` is given its model {what}"))
                    .help("set `model` under `with` to a folder, or connect the input `model` under `in`")
                    .permanent());
            }
        };
        let raster = ctx.locate(&inputs.raster).await?;
        let stretch = match &inputs.stretch {
            Some(artifact) => Some(ctx.locate(artifact).await?),
            None => None,
        };
        let draft = ctx.draft::<Cog>("probability.tif")?;
        let (settings, path) = (self.clone(), draft.path().to_owned());
        let done = ctx
            .blocking(move |ctx| {
                let work = Work::prepare(&settings, &model, &raster, stretch.as_deref(), ctx)?;
                work.run(&path, ctx)
            })
            .await?;
        let raster = draft.commit().await?;
        Ok(SegmentOutputs { raster, tiles: done.tiles })
    }
}

/// What a usual network takes on top of `memory`: weights and activations of one tile.
const NETWORK_MEMORY: u64 = 512 << 20;

/// What a client of a model server takes on top of `memory`.
const CLIENT_MEMORY: u64 = 128 << 20;

/// The pixel sizes of raster and training may differ by this share.
const GSD_TOLERANCE: f64 = 0.1;

/// A stride under an eighth of a tile predicts each pixel 64 times and more.
fn check_overlap(tile: u32, overlap: u32) -> Result<(), String> {
    let most = tile - tile.div_ceil(8);
    if overlap <= most {
        return Ok(());
    }
    Err(format!("`overlap` is {overlap}, and tiles of {tile} px may share at most {most}"))
}

/// Everything opened, checked and planned; nothing written yet.
struct Work {
    settings: Segment,
    manifest: ModelManifest,
    raster: Raster,
    bands: Vec<usize>,
    rules: Vec<Rule>,
    fill: f32,
    networks: Vec<Box<dyn Backend>>,
    full_batches: bool,
    sizes: Sizes,
    plan: Plan,
    threads: usize,
}

impl Work {
    fn prepare(
        settings: &Segment,
        model: &Path,
        raster: &Path,
        stretch: Option<&Path>,
        ctx: &Context,
    ) -> Result<Self, TaskError> {
        let model = Model::open(model)?;
        let manifest = model.manifest.clone();
        let raster = Raster::open_path(raster).map_err(geo_error)?;
        let info = raster.info();
        let bands = select_bands(&manifest, info)?;
        check_gsd(&manifest, &raster, settings.allow_gsd)?;
        let limits = stretch.map(|path| read_stretch(path, &manifest)).transpose()?;
        let (rules, fill) = rules(&manifest, info, &bands, limits.as_ref());
        let tile = choose_tile(settings, &manifest)?;
        let threads = settings.threads.map_or(ctx.cpus(), |threads| threads as usize);
        let serving = Serving { backend: settings.backend, device: settings.device, triton: &settings.triton };
        let opened = Opened::open(&serving, &model, tile as usize, threads, ctx)?;
        let (fixed_batch, remote) = (opened.fixed_batch(), opened.is_remote());
        let batch = choose_batch(settings, fixed_batch, opened.usual_batch())?;
        opened.check_batch(batch)?;
        let requests = settings.triton.requests.map(|requests| requests as usize);
        let mut networks = opened.networks(batch, requests);
        let axis = |length| Axis::new(length, tile as usize, settings.overlap as usize, settings.edges, settings.blend);
        let classes = manifest.classes.len();
        let mut sizes = Sizes {
            rows: axis(info.height),
            columns: axis(info.width),
            tile: tile as usize,
            batch,
            bands: bands.len(),
            classes,
            block: info.block,
            networks: networks.len(),
            remote,
            writer: BLOCK_CACHE + write::held(info.width, classes, threads),
        };
        let plan = loop {
            match Plan::new(&sizes, settings.memory) {
                // Fewer requests in flight are slower, and fit.
                Err(_) if remote && requests.is_none() && networks.len() > 1 => {
                    networks.pop();
                    sizes.networks = networks.len();
                }
                plan => break plan?,
            }
        };
        tracing::debug!(?plan, threads, batch, networks = networks.len(), "planned");
        let (settings, full_batches) = (settings.clone(), fixed_batch.is_some());
        Ok(Self { settings, manifest, raster, bands, rules, fill, networks, full_batches, sizes, plan, threads })
    }

    fn run(self, path: &Path, ctx: &Context) -> Result<Done, TaskError> {
        let grid = self.raster.grid().map_err(geo_error)?;
        let pixels = grid.window().len() as f64;
        let mut sink = Writer::create(
            path,
            &grid,
            self.settings.values,
            &self.manifest.classes,
            metadata(&self.settings, &self.manifest),
            self.threads,
        )?;
        let networks: Vec<&dyn Backend> = self.networks.iter().map(AsRef::as_ref).collect();
        let job = Job {
            sizes: &self.sizes,
            plan: &self.plan,
            rules: &self.rules,
            fill: self.fill,
            activation: self.manifest.activation,
            full_batches: self.full_batches,
            network: networks.first().map_or("", |network| network.place()),
            classes: &self.manifest.classes,
        };
        let mut source = Bands { raster: self.raster, bands: self.bands, integers: Vec::new() };
        let done = pipeline::run(&job, &mut source, &networks, &mut sink, &Watched(ctx))?;
        if let Some(network) = networks.first() {
            network.confirm()?;
        }
        sink.finish()?;
        if done.tiles == 0 {
            tracing::warn!(raster = %source.raster.info().name, "the raster holds no data: nothing was predicted");
        }
        tracing::debug!(tiles = done.tiles, skipped = done.skipped, threads = self.threads, "predicted");
        ctx.metric("tiles", done.tiles as f64);
        ctx.metric("tiles_without_data", done.skipped as f64);
        ctx.metric("pixels", pixels);
        Ok(done)
    }
}

/// GDAL's block cache, as `swath-geo` sets it.
const BLOCK_CACHE: u64 = 64 << 20;

/// A raster's error as a fault of the step.
pub(crate) fn geo_error(error: GeoError) -> TaskError {
    let fault = Fault::new(error.code(), error.message()).help(error.help());
    if error.is_transient() { fault.transient(None) } else { fault.permanent() }
}

/// Index of each of the model's bands in the raster, in the model's order.
fn select_bands(manifest: &ModelManifest, info: &RasterInfo) -> Result<Vec<usize>, Fault> {
    let find = |name: &str| -> Result<usize, String> {
        let mut found = info.bands.iter().enumerate().filter(|(_, band)| band.name == name).map(|(index, _)| index);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (None, _) => Err(format!("no band `{name}`")),
            (Some(_), Some(_)) => Err(format!("more than one band `{name}`")),
        }
    };
    let found: Vec<_> = manifest.bands.iter().map(|band| find(&band.name)).collect();
    let wrong: Vec<&str> = found.iter().filter_map(|found| found.as_ref().err()).map(String::as_str).collect();
    if wrong.is_empty() {
        return Ok(found.into_iter().flatten().collect());
    }
    let name = |band: &BandInfo| if band.name.is_empty() { "(unnamed)".to_owned() } else { format!("`{}`", band.name) };
    let bands: Vec<String> = info.bands.iter().map(name).collect();
    let message = format!(
        "`{}` does not suit the model `{}`: it has {}; its bands are {}",
        info.name,
        manifest.name,
        wrong.join(" and "),
        bands.join(", ")
    );
    Err(Fault::new("M108", message)
        .help("make the raster with the bands the model's manifest names, under these names"))
}

fn check_gsd(manifest: &ModelManifest, raster: &Raster, allowed: bool) -> Result<(), TaskError> {
    let (x, y) = raster.grid().map_err(geo_error)?.metres();
    let gsd = (x * y).sqrt();
    if allowed || (gsd / manifest.gsd - 1.0).abs() <= GSD_TOLERANCE {
        return Ok(());
    }
    let message = format!(
        "`{}` has pixels of {gsd:.2} m, and the model `{}` was trained at {} m",
        raster.info().name,
        manifest.name,
        manifest.gsd
    );
    Err(Fault::new("M109", message)
        .help("resample the raster to the model's resolution, or accept the difference with `allow_gsd: true`")
        .permanent())
}

fn read_stretch(path: &Path, manifest: &ModelManifest) -> Result<Vec<(f64, f64)>, Fault> {
    let wrong = |reason: String| {
        Fault::new(
            "M116",
            format!("the stretch `{}` does not suit the model `{}`: {reason}", path.display(), manifest.name),
        )
        .help("stretch the very raster that is predicted with `raster.normalise`, with all bands of the model")
    };
    if matches!(manifest.normalisation, Normalisation::Standard { .. }) {
        return Err(wrong("the model normalises by mean and standard deviation".to_owned()));
    }
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let stretch: Stretch = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let limits = |name: &str| {
        let band = stretch.bands.iter().find(|band| band.name == name);
        let band = band.ok_or_else(|| wrong(format!("it has no band `{name}`")))?;
        if band.low < band.high && band.low.is_finite() && band.high.is_finite() {
            Ok((band.low, band.high))
        } else {
            Err(wrong(format!("the limits of band `{name}` are {} and {}", band.low, band.high)))
        }
    };
    manifest.bands.iter().map(|band| limits(&band.name)).collect()
}

/// How each band's stored pixels become network input, and the value of no-data.
fn rules(
    manifest: &ModelManifest,
    info: &RasterInfo,
    bands: &[usize],
    limits: Option<&Vec<(f64, f64)>>,
) -> (Vec<Rule>, f32) {
    let rule = |(index, band): (usize, &usize)| {
        let BandInfo { nodata, scale, offset, .. } = info.bands[*band];
        // normalised = (pixel * scale + offset - subtract) / divide
        let (subtract, divide, unit) = match (&manifest.normalisation, limits) {
            (_, Some(limits)) => (limits[index].0, limits[index].1 - limits[index].0, true),
            (Normalisation::None { .. }, None) => (0.0, 1.0, false),
            (Normalisation::Standard { mean, std, .. }, None) => (f64::from(mean[index]), f64::from(std[index]), false),
            (Normalisation::Stretch { low, high, .. }, None) => {
                (f64::from(low[index]), f64::from(high[index]) - f64::from(low[index]), true)
            }
        };
        Rule {
            nodata: nodata.map_or(f32::NAN, |value| value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32),
            factor: (scale / divide) as f32,
            term: ((offset - subtract) / divide) as f32,
            unit,
        }
    };
    let fill = match manifest.normalisation {
        Normalisation::None { fill } | Normalisation::Standard { fill, .. } | Normalisation::Stretch { fill, .. } => {
            fill
        }
    };
    (bands.iter().enumerate().map(rule).collect(), fill)
}

fn choose_tile(settings: &Segment, manifest: &ModelManifest) -> Result<u32, Fault> {
    let wrong = |message: String, help: String| Err(Fault::new("M115", message).help(help));
    let (size, multiple) = (manifest.tile.size, manifest.tile.multiple_of);
    let tile = settings.tile.unwrap_or(size);
    if tile != size && !tile.is_multiple_of(multiple) {
        let name = &manifest.name;
        return if multiple == 0 {
            wrong(
                format!("the model `{name}` takes tiles of {size} px only, not {tile}"),
                "leave out `tile`".to_owned(),
            )
        } else {
            wrong(
                format!("the model `{name}` takes tiles whose size is a multiple of {multiple}, not {tile}"),
                format!("set `tile: {}`, or leave it out for {size}", tile.div_ceil(multiple) * multiple),
            )
        };
    }
    match check_overlap(tile, settings.overlap) {
        Ok(()) => Ok(tile),
        Err(reason) => wrong(reason, format!("set `overlap: {}`, a quarter of the tile", tile / 4)),
    }
}

fn choose_batch(settings: &Segment, fixed_batch: Option<usize>, usual: usize) -> Result<usize, Fault> {
    match (settings.batch, fixed_batch) {
        (Batch::Auto(_), fixed) => Ok(fixed.unwrap_or(usual)),
        (Batch::Count(count), Some(fixed)) if count as usize != fixed => {
            let message = format!("the network was exported for batches of {fixed} tiles, not {count}");
            Err(Fault::new("M115", message).help("leave out `batch`, or export the network with a free batch"))
        }
        (Batch::Count(count), _) => Ok(count as usize),
    }
}

/// Bands of a raster, in the model's order.
struct Bands {
    raster: Raster,
    bands: Vec<usize>,
    /// A window as it is stored: pixels that are read in their own type need not pass through GDAL's cache.
    integers: Vec<u16>,
}

impl Source for Bands {
    fn read(&mut self, window: &Window, buffer: &mut [f32]) -> Result<(), TaskError> {
        let (rows, columns) = (&window.rows, &window.columns);
        let window = PixelWindow::new(columns.start, rows.start, columns.len(), rows.len());
        for (band, part) in self.bands.iter().zip(buffer.chunks_exact_mut(window.len())) {
            if self.raster.info().bands[*band].data_type == u16::TYPE {
                self.integers.resize(window.len(), 0);
                self.raster.read(*band, &window, &mut self.integers).map_err(geo_error)?;
                part.iter_mut().zip(&self.integers).for_each(|(to, from)| *to = f32::from(*from));
            } else {
                self.raster.read(*band, &window, part).map_err(geo_error)?;
            }
        }
        Ok(())
    }
}

/// What the file says of how it was made.
fn metadata(settings: &Segment, manifest: &ModelManifest) -> Vec<(String, String)> {
    [
        ("SWATH_MODEL", manifest.name.clone()),
        ("SWATH_MODEL_VERSION", manifest.version.to_string()),
        ("SWATH_MODEL_DIGEST", manifest.digest.to_string()),
        ("SWATH_TILE", settings.tile.unwrap_or(manifest.tile.size).to_string()),
        ("SWATH_OVERLAP", settings.overlap.to_string()),
        ("SWATH_BLEND", settings.blend.word().to_owned()),
        ("SWATH_EDGES", settings.edges.word().to_owned()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec()
}

struct Watched<'a>(&'a Context);

impl Watch for Watched<'_> {
    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
    fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total, "tiles");
    }
}
