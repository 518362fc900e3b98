//! What a composite will read: files, bands, masks, radiometry and grids, checked before the first pixel.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use swath_geo::{Bounds, Crs, DataType, Grid, RasterInfo, Transform};
use swath_kinds::{Scene, SceneAsset, Scenes};
use swath_task::{Context, Fault, TaskError};

use super::grid::{AreaShape, choose};
use super::{Composite, Mask, Method, Missing, NamedMask};
use crate::bands::find_asset;
use crate::faults::{area_fault, geo_fault, told_of};
use crate::reader::Reader;
use crate::sources::Sources;

/// Items of one acquisition start within this many seconds of each other.
const SAME_ACQUISITION_SECONDS: i64 = 600;

/// One band of one file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path or address, unsigned.
    pub href: String,
    /// Bytes the file must have, when known.
    pub size: Option<u64>,
    /// Index of the band in the file.
    pub band: usize,
    /// Its pixels.
    pub grid: Grid,
    /// Their type.
    pub data_type: DataType,
    /// Pixels of this value hold nothing.
    pub nodata: Option<f64>,
    /// value = pixel * scale + offset.
    pub scale: f64,
    /// See `scale`.
    pub offset: f64,
}

/// A scene that takes part.
#[derive(Clone, Debug)]
pub struct PlannedScene {
    /// Item id.
    pub id: String,
    /// Scenes of one acquisition have the same number.
    pub group: usize,
    /// The mask.
    pub mask: Option<Source>,
    /// One for each band of the composite, in its order.
    pub bands: Vec<Source>,
    /// The box around its bands in the CRS of the composite; known once the grid is.
    pub bounds: Option<Bounds>,
}

/// All that is needed to work through the windows.
pub struct Plan {
    pub grid: Grid,
    /// The size of its pixels on the ground.
    pub metres: (f64, f64),
    /// The area's polygons in the CRS of the grid, when pixels outside of them become no-data.
    pub clip: Option<Vec<u8>>,
    pub names: Vec<String>,
    pub scenes: Vec<PlannedScene>,
    pub method: Method,
    pub nearest: bool,
    pub rule: super::mask::Rule,
    pub memory: u64,
    pub sources: Sources,
}

impl Plan {
    pub fn new(task: &Composite, scenes: &Scenes, ctx: &Context) -> Result<Self, TaskError> {
        if scenes.scenes.is_empty() {
            return Err(Fault::new("R121", "there is no scene to make a composite of")
                .help("widen the period, the area or the cloud cover of the search")
                .permanent());
        }
        let sources = Sources::new(&scenes.signing, ctx)?;
        let candidates = select(task, &scenes.scenes)?;
        let wanted = wanted_files(task, &candidates)?;
        let opened = open_all(&wanted, &task.bands, &sources)?;
        let mut planned = Vec::new();
        for (index, scene) in wanted.iter().enumerate() {
            planned.push(plan_scene(task, scene, &opened[index])?);
        }
        if planned.is_empty() {
            return Err(no_overlap(scenes.scenes.len()));
        }
        let grids: Vec<&Grid> = planned.iter().flat_map(|scene| &scene.bands).map(|source| &source.grid).collect();
        let (grid, shape) = choose(task, &unique(&grids))?;
        let mut kept = Vec::new();
        for mut scene in planned {
            scene.bounds = bounds_in(&scene, &grid)?;
            if scene.bounds.is_some_and(|bounds| grid.bounds().intersection(&bounds).is_some()) {
                kept.push(scene);
            }
        }
        if kept.is_empty() {
            return Err(no_overlap(scenes.scenes.len()));
        }
        let clip = shape.filter(|_| task.clip).map(|AreaShape { wkb, .. }| wkb);
        Ok(Self {
            metres: grid.metres(),
            grid,
            clip,
            names: task.bands.clone(),
            scenes: kept,
            method: task.method,
            nearest: task.resampling == super::BandResampling::Nearest,
            rule: super::mask::Rule::new(task),
            memory: task.memory.0,
            sources,
        })
    }

    /// How many acquisitions there are.
    pub fn groups(&self) -> usize {
        self.scenes.iter().map(|scene| scene.group + 1).max().unwrap_or(0)
    }
}

fn no_overlap(scenes: usize) -> TaskError {
    Fault::new("R109", format!("none of the {scenes} scenes touches the area"))
        .help("compare the area with the footprints of the scenes: coordinates are longitude, latitude")
        .permanent()
}

/// Scenes whose box touches the area, as far as the list tells, oldest first, with the number of their acquisition.
fn select<'a>(task: &Composite, scenes: &'a [Scene]) -> Result<Vec<(usize, &'a Scene)>, TaskError> {
    let boxes = match &task.area {
        Some(area) => area.bounds().map_err(area_fault)?.split(),
        None => Vec::new(),
    };
    let touches = |scene: &Scene| {
        let Some([west, south, east, north]) = scene.bbox else { return true };
        // A box over the antimeridian, or the opposite order, is left to the pixels to decide.
        boxes.is_empty()
            || west > east
            || boxes.iter().any(|b| b.west <= east && west <= b.east && b.south <= north && south <= b.north)
    };
    let mut found: Vec<&Scene> = scenes.iter().filter(|scene| touches(scene)).collect();
    if found.is_empty() {
        return Err(no_overlap(scenes.len()));
    }
    found.sort_by(|a, b| (instant(&a.datetime), &a.id).cmp(&(instant(&b.datetime), &b.id)));
    // The acquisitions so far, by number: when they began, and of which collection they are.
    let mut acquisitions: Vec<Option<(i64, Option<&str>)>> = Vec::new();
    let mut groups: Vec<(usize, &Scene)> = Vec::new();
    for scene in found {
        let key = instant(&scene.datetime).map(|(seconds, _)| (seconds, scene.collection.as_deref()));
        let known = key.and_then(|(time, collection)| {
            let same = |other: &Option<(i64, Option<&str>)>| {
                other.is_some_and(|(start, c)| c == collection && time - start <= SAME_ACQUISITION_SECONDS)
            };
            acquisitions.iter().rposition(same)
        });
        let group = known.unwrap_or_else(|| {
            acquisitions.push(key);
            acquisitions.len() - 1
        });
        groups.push((group, scene));
    }
    // Items of one acquisition follow each other, whatever other collection was seen in between.
    groups.sort_by_key(|(group, _)| *group);
    Ok(groups)
}

/// Seconds since 1970 and nanoseconds of an RFC 3339 time in UTC; `None` when it is none.
fn instant(datetime: &str) -> Option<(i64, u32)> {
    let number = |range: std::ops::Range<usize>| datetime.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days from civil, Hinnant 2013.
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let fraction = datetime[19..].strip_prefix('.').unwrap_or_default();
    let digits = fraction.bytes().take(9).take_while(u8::is_ascii_digit).count();
    let nanoseconds = format!("{:0<9}", &fraction[..digits]).parse().unwrap_or(0);
    Some((days * 86_400 + hour * 3600 + minute * 60 + second, nanoseconds))
}

/// The files of a scene: those of the bands, then the mask.
struct Wanted<'a> {
    scene: &'a Scene,
    group: usize,
    bands: Vec<(&'a SceneAsset, Option<usize>)>,
    mask: Option<(&'a SceneAsset, Option<usize>)>,
}

fn wanted_files<'a>(task: &Composite, scenes: &[(usize, &'a Scene)]) -> Result<Vec<Wanted<'a>>, TaskError> {
    let mut wanted = Vec::new();
    'scenes: for (group, scene) in scenes {
        let lacks = |what: &str| {
            let keys: Vec<&str> = scene.assets.keys().map(String::as_str).collect();
            let message = format!("scene `{}` has no {what}; its assets are: {}", scene.id, keys.join(", "));
            let help = "name an asset that every scene has, or set `missing: skip` to leave such scenes out";
            match task.missing {
                Missing::Error => Err(Fault::new("R122", message).help(help).permanent()),
                Missing::Skip => {
                    tracing::warn!("left out: {message}");
                    Ok(())
                }
            }
        };
        let mut bands = Vec::new();
        for band in &task.bands {
            match find_asset(scene, band) {
                Some(found) => bands.push(found),
                None => {
                    lacks(&format!("band `{band}`"))?;
                    continue 'scenes;
                }
            }
        }
        let name = match &task.mask {
            Mask::Named(NamedMask::None) => None,
            Mask::Named(NamedMask::Scl) => Some("SCL"),
            Mask::Asset(mask) => Some(mask.asset.as_str()),
        };
        let mask = match name {
            None => None,
            Some(name) => match find_asset(scene, name) {
                Some(found) => Some(found),
                None => {
                    lacks(&format!("mask `{name}`"))?;
                    continue 'scenes;
                }
            },
        };
        wanted.push(Wanted { scene, group: *group, bands, mask });
    }
    Ok(wanted)
}

/// What the files say of themselves, by scene: those of the bands, then that of the mask.
fn open_all(wanted: &[Wanted], names: &[String], sources: &Sources) -> Result<Vec<Vec<RasterInfo>>, TaskError> {
    let jobs: Vec<(usize, &str, &SceneAsset)> = wanted
        .iter()
        .enumerate()
        .flat_map(|(index, scene)| {
            let assets = scene.bands.iter().chain(&scene.mask).map(|(asset, _)| *asset);
            let names = names.iter().map(String::as_str).chain(["mask"]);
            names.zip(assets).map(move |(name, asset)| (index, name, asset))
        })
        .collect();
    let remote = jobs.iter().any(|(.., asset)| asset.href.contains("://"));
    // Opening a remote file is waiting, not work.
    let threads = if remote { 16 } else { sources.context().cpus() }.min(jobs.len().max(1));
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<RasterInfo>>> = Mutex::new(vec![None; jobs.len()]);
    let failure: Mutex<Option<TaskError>> = Mutex::new(None);
    let span = tracing::Span::current();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let _attempt = span.enter();
                let mut reader = Reader::new(sources, 1);
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some((scene, name, asset)) = jobs.get(index) else { break };
                    match reader.with(&asset.href, asset.size, |raster| Ok(raster.info().clone())) {
                        Ok(info) => lock(&results)[index] = Some(info),
                        Err(error) => {
                            let error = told_of(error, &wanted[*scene].scene.id, name);
                            lock(&failure).get_or_insert(error);
                            next.store(jobs.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = lock(&failure).take() {
        return Err(error);
    }
    let mut by_scene = vec![Vec::new(); wanted.len()];
    for ((index, ..), info) in jobs.iter().zip(lock(&results).iter_mut()) {
        by_scene[*index].extend(info.take());
    }
    Ok(by_scene)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn plan_scene(task: &Composite, wanted: &Wanted, infos: &[RasterInfo]) -> Result<PlannedScene, TaskError> {
    // The scene classification says 0 where there is nothing; in other masks 0 is mostly what is clear.
    let zero_is_nothing = |is_mask: bool| !is_mask || task.mask == Mask::Named(NamedMask::Scl);
    let source = |asset: &SceneAsset, band: Option<usize>, info: &RasterInfo, is_mask: bool| {
        let mut info = info.clone();
        if info.crs.is_none()
            && let Some(code) = &asset.crs
        {
            info.crs = Some(Crs::parse(code).map_err(geo_fault)?);
        }
        let grid = info.grid().map_err(geo_fault)?;
        let band = band.unwrap_or(0);
        let Some(described) = info.bands.get(band) else {
            let message = format!("`{}` has {} bands, none at index {band}", info.name, info.bands.len());
            return Err(Fault::new("R115", message).permanent());
        };
        let (scale, offset) = if is_mask { (1.0, 0.0) } else { radiometry(wanted.scene, asset, described) };
        let sentinel_2 = wanted.scene.processing_baseline.is_some()
            || wanted.scene.collection.as_deref().is_some_and(|name| name.contains("sentinel-2"));
        let integers = !described.data_type.is_float();
        let zero = (sentinel_2 && integers && zero_is_nothing(is_mask)).then_some(0.0);
        if is_mask && !matches!(described.data_type, DataType::U8 | DataType::U16) {
            return Err(mask_type(wanted.scene, &info.name, described.data_type));
        }
        Ok(Source {
            href: asset.href.clone(),
            size: asset.size,
            band,
            grid,
            data_type: described.data_type,
            nodata: asset.nodata.or(described.nodata).or(zero),
            scale,
            offset,
        })
    };
    let mut bands = Vec::new();
    for ((asset, band), info) in wanted.bands.iter().zip(infos) {
        bands.push(source(asset, *band, info, false)?);
    }
    let mask = match (wanted.mask, infos.get(wanted.bands.len())) {
        (Some((asset, band)), Some(info)) => Some(source(asset, band, info, true)?),
        _ => None,
    };
    Ok(PlannedScene { id: wanted.scene.id.clone(), group: wanted.group, mask, bands, bounds: None })
}

/// R125: values of other types have no place in the table of clear values, nor bits.
fn mask_type(scene: &Scene, file: &str, found: DataType) -> TaskError {
    let message = format!(
        "the mask of scene `{}`, `{file}`, holds {}: masks are taken from uint8 and uint16 only",
        scene.id,
        found.name()
    );
    Fault::new("R125", message)
        .help("name another asset in `mask`, or convert it: `gdal_translate -ot UInt16 IN OUT`")
        .permanent()
}

/// Scale and offset of an asset: what the catalogue says of it; for Sentinel-2 the offset of -1000 that pixels carry
/// since processing baseline 04.00, unless the catalogue has taken it off; else what the file says.
pub fn radiometry(scene: &Scene, asset: &SceneAsset, file: &swath_geo::BandInfo) -> (f64, f64) {
    if let Some(text) = &scene.processing_baseline {
        let scale = asset.scale.unwrap_or(1e-4);
        if scene.offset_applied {
            return (scale, 0.0);
        }
        let carries = text.parse::<f64>().is_ok_and(|version| version >= 4.0);
        let offset = asset.offset.unwrap_or(if carries { -1000.0 * scale } else { 0.0 });
        return (scale, offset);
    }
    if asset.scale.is_some() || asset.offset.is_some() {
        return (asset.scale.unwrap_or(1.0), asset.offset.unwrap_or(0.0));
    }
    (file.scale, file.offset)
}

fn unique<'a>(grids: &[&'a Grid]) -> Vec<&'a Grid> {
    let mut kept: BTreeMap<String, &Grid> = BTreeMap::new();
    for grid in grids {
        kept.entry(format!("{} {:?} {} {}", grid.crs, grid.geo_transform(), grid.width, grid.height)).or_insert(grid);
    }
    kept.into_values().collect()
}

/// The box around a scene's bands in the CRS of a grid; `None` when it is so far away that it cannot be projected.
fn bounds_in(scene: &PlannedScene, grid: &Grid) -> Result<Option<Bounds>, TaskError> {
    let mut all: Option<Bounds> = None;
    for source in &scene.bands {
        let bounds = if source.grid.crs == grid.crs {
            source.grid.bounds()
        } else {
            let transform = Transform::new(&source.grid.crs, &grid.crs).map_err(geo_fault)?;
            match source.grid.bounds().project(&transform) {
                Ok(bounds) => bounds,
                Err(_) => continue,
            }
        };
        all = Some(all.map_or(bounds, |so_far| so_far.union(&bounds)));
    }
    Ok(all)
}
