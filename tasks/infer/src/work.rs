//! A step from its parameters to the written raster, whichever task it is of: everything is opened, checked and planned
//! before the first pixel is read.

use std::path::{Path, PathBuf};

use swath_geo::{Grid, Pixel, PixelWindow, Raster};
use swath_kinds::{Cog, Model as ModelFolder, ModelManifest};
use swath_task::{Artifact, Context, TaskError};

use crate::backend::{Backend, Opened};
use crate::model::Model;
use crate::pipeline::{self, Done, Job, Watch};
use crate::plan::{Plan, Sizes};
use crate::prepare::{Rule, Source, Window};
use crate::serving::Serving;
use crate::settings::{Inputs, Scheme, Settings};
use crate::suit;
use crate::tiling::{Axis, Blend, Tile};
use crate::write::{self, Writer, geo_error};

/// Runs a step: the raster that it makes, and what was done.
pub(crate) async fn run(settings: Settings, inputs: Inputs, ctx: &Context) -> Result<(Artifact<Cog>, Done), TaskError> {
    let model = ModelFolder::given(settings.task, settings.model.as_ref(), inputs.model.as_ref(), ctx).await?;
    let raster = ctx.locate(&inputs.raster).await?;
    let stretch = match &inputs.stretch {
        Some(artifact) => Some(ctx.locate(artifact).await?),
        None => None,
    };
    let draft = ctx.draft::<Cog>("probability.tif")?;
    let path = draft.path().to_owned();
    let files = Files { model, raster, stretch };
    let done = ctx.blocking(move |ctx| Work::prepare(settings, &files, ctx)?.run(&path, ctx)).await?;
    Ok((draft.commit().await?, done))
}

/// Where what a step reads lies.
struct Files {
    model: PathBuf,
    raster: PathBuf,
    stretch: Option<PathBuf>,
}

/// Everything opened, checked and planned; nothing written yet.
struct Work {
    settings: Settings,
    manifest: ModelManifest,
    raster: Raster,
    bands: Vec<usize>,
    rules: Vec<Rule>,
    fill: f32,
    networks: Vec<Box<dyn Backend>>,
    full_batches: bool,
    /// Pixels that neighbouring tiles share.
    overlap: u32,
    sizes: Sizes,
    plan: Plan,
    threads: usize,
}

impl Work {
    fn prepare(settings: Settings, files: &Files, ctx: &Context) -> Result<Self, TaskError> {
        let model = Model::open(&files.model)?;
        let manifest = model.manifest.clone();
        let raster = Raster::open_path(&files.raster).map_err(geo_error)?;
        let info = raster.info();
        let bands = suit::select_bands(&manifest, info)?;
        suit::check_gsd(&manifest, &raster, settings.allow_gsd)?;
        let limits = files.stretch.as_deref().map(|path| suit::read_stretch(path, &manifest)).transpose()?;
        let (rules, fill) = suit::rules(&manifest, info, &bands, limits.as_ref());
        let (size, overlap) = settings.tiles(&manifest)?;
        let tile = Tile { size: size as usize, output: settings.scheme.output() };
        let threads = settings.threads.map_or(ctx.cpus(), |threads| threads as usize);
        let serving = Serving { backend: settings.backend, device: settings.device, triton: &settings.triton };
        let opened = Opened::open(&serving, &model, tile, threads, ctx)?;
        let (fixed_batch, remote) = (opened.fixed_batch(), opened.is_remote());
        let batch = settings.batch(fixed_batch, opened.usual_batch())?;
        opened.check_batch(batch)?;
        let requests = settings.triton.requests.map(|requests| requests as usize);
        let mut networks = opened.networks(batch, requests);
        let blend = match settings.scheme {
            Scheme::Pixels { blend, .. } => blend,
            // Nothing is blended.
            Scheme::Tiles { .. } => Blend::Average,
        };
        let axis = |length| Axis::new(length, tile.size, overlap as usize, settings.edges, blend);
        let (rows, columns) = (axis(info.height), axis(info.width));
        let classes = manifest.classes.len();
        let width = match settings.scheme {
            Scheme::Pixels { .. } => info.width,
            Scheme::Tiles { .. } => columns.tiles(),
        };
        let mut sizes = Sizes {
            rows,
            columns,
            tile,
            batch,
            bands: bands.len(),
            classes,
            block: info.block,
            networks: networks.len(),
            remote,
            writer: BLOCK_CACHE + write::held(width, classes, threads),
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
        let full_batches = fixed_batch.is_some();
        Ok(Self {
            settings,
            manifest,
            raster,
            bands,
            rules,
            fill,
            networks,
            full_batches,
            overlap,
            sizes,
            plan,
            threads,
        })
    }

    fn run(self, path: &Path, ctx: &Context) -> Result<Done, TaskError> {
        let grid = self.raster.grid().map_err(geo_error)?;
        let pixels = grid.window().len() as f64;
        let (grid, least) = match self.settings.scheme {
            Scheme::Pixels { .. } => (grid, 0.0),
            Scheme::Tiles { min_valid, .. } => (grid_of_tiles(&grid, &self.sizes, self.overlap as usize), min_valid),
        };
        let mut sink = Writer::create(
            path,
            &grid,
            self.settings.values,
            &self.manifest.classes,
            self.settings.metadata(&self.manifest, self.sizes.tile.size as u32, self.overlap),
            self.threads,
        )?;
        let networks: Vec<&dyn Backend> = self.networks.iter().map(AsRef::as_ref).collect();
        let job = Job {
            sizes: &self.sizes,
            plan: &self.plan,
            rules: &self.rules,
            fill: self.fill,
            least,
            activation: self.manifest.activation,
            full_batches: self.full_batches,
            network: networks.first().map_or("", |network| network.place()),
            classes: &self.manifest.classes,
        };
        let mut source = Bands { raster: self.raster, bands: self.bands, integers: Vec::new() };
        let done = pipeline::run(&job, &mut source, &networks, &mut sink, &Watched(ctx))?;
        if let Some(network) = networks.first() {
            network.confirm(ctx)?;
        }
        sink.finish()?;
        if done.tiles == 0 {
            let raster = &source.raster.info().name;
            let what = match self.settings.scheme {
                Scheme::Pixels { .. } => "the raster holds no data",
                Scheme::Tiles { .. } => "no tile of the raster holds enough data",
            };
            tracing::warn!(%raster, "{what}: nothing was predicted");
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

/// The grid of what is told of tiles: a pixel in the middle of each, as large as tiles are apart.
fn grid_of_tiles(raster: &Grid, sizes: &Sizes, overlap: usize) -> Grid {
    let (margin, stride) = (overlap as f64 / 2.0, (sizes.tile.size - overlap) as f64);
    Grid {
        crs: raster.crs.clone(),
        left: raster.left + margin * raster.pixel_width,
        top: raster.top - margin * raster.pixel_height,
        pixel_width: raster.pixel_width * stride,
        pixel_height: raster.pixel_height * stride,
        width: sizes.columns.tiles(),
        height: sizes.rows.tiles(),
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

struct Watched<'a>(&'a Context);

impl Watch for Watched<'_> {
    fn cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
    fn progress(&self, done: u64, total: u64) {
        self.0.progress(done, total, "tiles");
    }
}
