//! The task `sample.catalogue`: parameters, layout of the scenes, and what is made in which order.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::{Bounds, Crs, Grid, Transform};
use swath_task::{Bytes, Context, LocalPath, Needs, NoInputs, Problem, Purity, Task, TaskError};

use crate::documents::{self, COLLECTION, Scene};
use crate::faults::{geo_fault, taken, write_fault};
use crate::noise::{hash, unit};
use crate::scenes::{Date, Part, Workshop, refined};
use crate::weather::Weather;
use crate::world::{BANDS, SITE_CELL, World};

/// Makes a static STAC catalogue of synthetic scenes in the form of Sentinel-2 L2A, with the truth beside it.
///
/// Every date has clouds with their shadows, marked in a scene classification of 20 m; every second date is of a
/// processing baseline with radiometric offset, and lacks data on one side. Ponds are planted as sites to be found. With
/// two zones, each date comes as two overlapping scenes on both sides of a UTM zone border. Beside the scenes lie
/// `truth/reflectance.tif` (what clear observations show), `truth/sites.tif` and `truth/sites.geojson` (where the sites
/// are) and `area.geojson`. The same parameters make the same pixels; a folder that holds them already is left as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Catalogue {
    /// Folder to make. It must be missing, empty, or hold the same sample.
    pub folder: LocalPath,
    /// Rows and columns of the area in pixels of 10 m; even.
    #[serde(default = "defaults::size")]
    #[schemars(range(min = 64, max = 20000))]
    pub size: u32,
    /// Dates, five days apart.
    #[serde(default = "defaults::dates")]
    #[schemars(range(min = 1, max = 400))]
    pub dates: u32,
    /// First date.
    #[serde(default = "defaults::start")]
    #[schemars(pattern(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"))]
    pub start: String,
    /// Mean share of thick cloud over the dates, 0 to 0.9; single dates have from none to twice as much.
    #[serde(default = "defaults::cloud")]
    #[schemars(range(min = 0.0, max = 0.9))]
    pub cloud: f64,
    /// Planted sites; each takes a square of 400 m.
    #[serde(default = "defaults::sites")]
    pub sites: u32,
    /// UTM zones, 1 or 2.
    #[serde(default = "defaults::zones")]
    #[schemars(range(min = 1, max = 2))]
    pub zones: u8,
    /// Bands, in order, of B02 to B08, B8A, B11 and B12. B05, B06, B07, B8A, B11 and B12 have pixels of 20 m.
    #[serde(default = "defaults::bands")]
    #[schemars(length(min = 1))]
    pub bands: Vec<String>,
    /// Whether every second date lacks data on one side.
    #[serde(default = "defaults::wedges")]
    pub wedges: bool,
    /// Another seed makes another place and other weather.
    #[serde(default)]
    pub seed: u64,
}

mod defaults {
    pub(super) fn size() -> u32 {
        512
    }
    pub(super) fn dates() -> u32 {
        6
    }
    pub(super) fn start() -> String {
        "2024-05-01".to_owned()
    }
    pub(super) fn cloud() -> f64 {
        0.3
    }
    pub(super) fn sites() -> u32 {
        12
    }
    pub(super) fn zones() -> u8 {
        2
    }
    pub(super) fn bands() -> Vec<String> {
        ["B02", "B03", "B04", "B08", "B11", "B12"].map(str::to_owned).to_vec()
    }
    pub(super) fn wedges() -> bool {
        true
    }
}

/// What `sample.catalogue` reads: nothing.
pub type Inputs = NoInputs;

/// Where what was made lies.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Outputs {
    /// `catalog.json`, for `stac.search`.
    pub catalog: String,
    /// The area as GeoJSON.
    pub area: String,
    /// Folder of the truth: `reflectance.tif`, `sites.tif`, `sites.geojson`.
    pub truth: String,
    /// Scenes.
    pub scenes: u64,
}

/// Zone border at 12 degrees east: the world lies on both sides of it.
const ZONES: [(u32, &str); 2] = [(32633, "33UUU"), (32632, "32UQC")];
/// Easting of the middle of the world and northing of its upper edge in the first zone.
const MIDDLE: f64 = 300_000.0;
const TOP: f64 = 5_840_000.0;
/// Share of the world's width that each of two zones covers; they overlap in the middle.
const PART: f64 = 0.65;

impl Catalogue {
    /// A sample with every parameter at its default.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: LocalPath(folder.into()),
            size: defaults::size(),
            dates: defaults::dates(),
            start: defaults::start(),
            cloud: defaults::cloud(),
            sites: defaults::sites(),
            zones: defaults::zones(),
            bands: defaults::bands(),
            wedges: defaults::wedges(),
            seed: 0,
        }
    }

    /// Makes the sample on `threads` threads. `progress` hears blocks done and blocks in all. Fails with `R111` when the
    /// folder cannot be written and `R130` when it holds something else.
    pub fn make(
        &self,
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<Outputs, TaskError> {
        let folder = &self.folder.0;
        let told = self.told();
        if self.is_there(&told)? {
            return Ok(self.outputs(folder));
        }
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent).map_err(|error| write_fault(parent, &error))?;
        let staged = tempfile::Builder::new().prefix(".sample-").tempdir_in(parent);
        let staged = staged.map_err(|error| write_fault(parent, &error))?;
        let made = staged.path().join("sample");
        self.fill(&made, threads, progress, is_cancelled)?;
        documents::write(&made.join(MANIFEST), &told)?;
        // An empty folder may stand in the way of the new one.
        if folder.is_dir() {
            std::fs::remove_dir(folder).map_err(|error| write_fault(folder, &error))?;
        }
        std::fs::rename(&made, folder).map_err(|error| write_fault(folder, &error))?;
        Ok(self.outputs(folder))
    }

    /// The parameters as they are kept with the sample: all but the folder, and the version of what makes it.
    fn told(&self) -> serde_json::Value {
        let mut told = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = told.as_object_mut() {
            fields.remove("folder");
            fields.insert("version".into(), Self::VERSION.into());
        }
        told
    }

    /// Whether the folder holds this very sample. Another content is a fault.
    fn is_there(&self, told: &serde_json::Value) -> Result<bool, TaskError> {
        let folder = &self.folder.0;
        let mut entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(write_fault(folder, &error)),
        };
        if entries.next().is_none() {
            return Ok(false);
        }
        match std::fs::read(folder.join(MANIFEST)) {
            Err(_) => Err(taken(folder, "it holds no sample")),
            Ok(bytes) if serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|there| there == *told) => {
                Ok(true)
            }
            Ok(_) => Err(taken(folder, "it holds a sample of other parameters")),
        }
    }

    fn outputs(&self, folder: &Path) -> Outputs {
        let path = |name: &str| folder.join(name).display().to_string();
        let scenes = u64::from(self.dates) * u64::from(self.zones);
        Outputs { catalog: path("catalog.json"), area: path("area.geojson"), truth: path("truth"), scenes }
    }

    fn band_indices(&self) -> Vec<usize> {
        self.bands.iter().filter_map(|name| BANDS.iter().position(|(band, _)| band == name)).collect()
    }

    /// The world on a grid of 20 m in the first zone.
    fn world_grid(&self) -> Result<Grid, TaskError> {
        let cells = self.size as usize / 2;
        let crs = Crs::from_epsg(ZONES[0].0).map_err(geo_fault)?;
        // On whole cells of 20 m, whatever the size.
        let left = MIDDLE - (cells / 2) as f64 * 20.0;
        Ok(Grid { crs, left, top: TOP, pixel_width: 20.0, pixel_height: 20.0, width: cells, height: cells })
    }

    /// One part a zone. With two, the first covers the east of the world and the second its west.
    fn parts(&self, world: &Grid) -> Result<Vec<Part>, TaskError> {
        if self.zones == 1 {
            return Ok(vec![Part { coarse: world.clone(), tile: ZONES[0].1 }]);
        }
        let columns = (world.width as f64 * PART).ceil() as usize;
        let window = swath_geo::PixelWindow::new(world.width - columns, 0, columns, world.height);
        let east = Part { coarse: world.crop(&window), tile: ZONES[0].1 };
        let other = Crs::from_epsg(ZONES[1].0).map_err(geo_fault)?;
        let transform = Transform::new(&world.crs, &other).map_err(geo_fault)?;
        let bounds = world.bounds();
        let west = Bounds { right: bounds.left + columns as f64 * 20.0, ..bounds };
        let west = west.project(&transform).map_err(geo_fault)?;
        let coarse = Grid::covering(other, &west, (20.0, 20.0), (0.0, 0.0)).map_err(geo_fault)?;
        Ok(vec![east, Part { coarse, tile: ZONES[1].1 }])
    }

    fn fill(
        &self,
        folder: &Path,
        threads: usize,
        progress: &(dyn Fn(u64, u64) + Sync),
        is_cancelled: &(dyn Fn() -> bool + Sync),
    ) -> Result<(), TaskError> {
        let coarse = self.world_grid()?;
        let parts = self.parts(&coarse)?;
        let side = coarse.width as f64 * coarse.pixel_width;
        let world = World::new(self.seed, coarse.left, coarse.top, side, self.sites as usize);
        let bands = self.band_indices();

        let blocks = |grid: &Grid| (grid.width.div_ceil(512) * grid.height.div_ceil(512)) as u64;
        let groups = u64::from(self.dates).div_ceil(4);
        let total = parts.iter().map(|part| blocks(&part.coarse) * groups).sum::<u64>() + blocks(&refined(&coarse));
        let done = AtomicU64::new(0);
        let advance = |count: u64| progress(done.fetch_add(count, Ordering::Relaxed) + count, total);
        let shop =
            Workshop { world: &world, crs: &coarse.crs, bands: &bands, threads, progress: &advance, is_cancelled };

        let create =
            |path: PathBuf| std::fs::create_dir_all(&path).map_err(|error| write_fault(&path, &error)).map(|()| path);
        let truth = create(folder.join("truth"))?;
        shop.write_truth(&coarse, &truth.join("reflectance.tif"), &truth.join("sites.tif"))?;
        documents::write_sites(&truth.join("sites.geojson"), &coarse.crs, world.sites())?;
        documents::write_area(&folder.join("area.geojson"), &coarse)?;

        let fine: Vec<Grid> = parts.iter().map(Part::fine).collect();
        let mut scenes = Vec::new();
        for (part, fine) in parts.iter().zip(&fine) {
            let named: Vec<Named> = (0..self.dates).map(|date| self.named(date, part.tile)).collect();
            let mut dates = Vec::new();
            for (at, name) in named.iter().enumerate() {
                let cover = (2.0 * self.cloud * f64::from(unit(hash(self.seed ^ 0xC0_7E4, at as i64, 0)))).min(0.97);
                let weather = Weather::new(self.seed, at, cover, coarse.left, coarse.top, side, self.wedges);
                dates.push(Date {
                    weather,
                    offset: if name.baseline == "05.10" { 1000 } else { 0 },
                    folder: create(folder.join(COLLECTION).join(&name.id))?,
                    noise: hash(self.seed ^ 0x4015E, at as i64, i64::from(part.coarse.crs.epsg().unwrap_or(0))),
                });
            }
            let shares = shop.write_part(part, &dates)?;
            for ((name, date), shares) in named.into_iter().zip(&dates).zip(shares) {
                let scene = Scene {
                    id: name.id,
                    datetime: name.datetime,
                    baseline: name.baseline,
                    datatake: name.datatake,
                    tile: part.tile,
                    fine,
                    coarse: &part.coarse,
                    bands: &bands,
                    shares,
                };
                documents::write_item(&scene, &date.folder)?;
                scenes.push(scene);
            }
        }
        let about =
            "Made by sample.catalogue of Swath. Not a real place: land cover, weather and sites are hashed noise.";
        documents::write_catalogue(folder, about, &scenes)
    }

    /// Names of a date's scene in a tile, as ESA forms them.
    fn named(&self, date: u32, tile: &str) -> Named {
        let first = parse_day(&self.start).unwrap_or(0);
        let (year, month, day) = civil(first + 5 * i64::from(date));
        let compact = format!("{year:04}{month:02}{day:02}T101021");
        let (baseline, written) = if date % 2 == 1 { ("05.10", "N0510") } else { ("03.01", "N0301") };
        Named {
            id: format!("S2A_MSIL2A_{compact}_{written}_R022_T{tile}"),
            datetime: format!("{year:04}-{month:02}-{day:02}T10:10:21Z"),
            datatake: format!(
                "GS2A_{compact}_{:06}_{}",
                40_000 + date,
                written.replace("05", "05.").replace("03", "03.")
            ),
            baseline,
        }
    }
}

/// The file that tells what a folder holds.
const MANIFEST: &str = "sample.json";

struct Named {
    id: String,
    datetime: String,
    datatake: String,
    baseline: &'static str,
}

/// Days since 1970-01-01 of `2024-05-01`; `None` for what is no day of the calendar.
fn parse_day(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    // Howard Hinnant's `days_from_civil`.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted - era * 400;
    let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    (text.len() == 10 && (1900..=2200).contains(&year) && civil(days) == (year, month, day)).then_some(days)
}

/// Year, month and day of a number of days since 1970-01-01: Howard Hinnant's `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days - era * 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

impl Task for Catalogue {
    const NAME: &'static str = "sample.catalogue";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Effect;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut problem = |at: &str, message: String, help: &str| problems.push(Problem::new(at, message).help(help));
        if !(64..=20_000).contains(&self.size) || self.size % 2 == 1 {
            let message = format!("{} is not an even number from 64 to 20000", self.size);
            problem("/size", message, "pixels of 20 m cover two of 10 m");
        }
        if !(1..=400).contains(&self.dates) {
            problem("/dates", format!("{} is not between 1 and 400", self.dates), "24 is a season");
        }
        if parse_day(&self.start).is_none() {
            problem("/start", format!("`{}` is not a day", self.start), "write it `2024-05-01`");
        }
        if !(0.0..=0.9).contains(&self.cloud) {
            problem("/cloud", format!("{} is not between 0 and 0.9", self.cloud), "it is a share, not percent");
        }
        let capacity = World::capacity(f64::from(self.size) * 10.0);
        if self.sites as usize > capacity {
            let message = format!("{} sites of {SITE_CELL} m do not fit into {} pixels", self.sites, self.size);
            problem("/sites", message, &format!("at most {capacity} do"));
        }
        if !(1..=2).contains(&self.zones) {
            problem("/zones", format!("{} is neither 1 nor 2", self.zones), "1 is simpler, 2 tests more");
        }
        if self.bands.is_empty() {
            problem("/bands", "at least one band is needed".into(), "B02, B03 and B04 make a picture");
        }
        for (at, band) in self.bands.iter().enumerate() {
            let known: Vec<&str> = BANDS.iter().map(|(name, _)| *name).collect();
            if !known.contains(&band.as_str()) {
                problem(&format!("/bands/{at}"), format!("there is no band `{band}`"), &known.join(", "));
            } else if self.bands[..at].contains(band) {
                problem(&format!("/bands/{at}"), format!("`{band}` is listed twice"), "list it once");
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(Bytes::mib(256))
    }

    async fn run(&self, _: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let task = self.clone();
        ctx.blocking(move |ctx| {
            task.make(ctx.cpus(), &|done, total| ctx.progress(done, total, "blocks"), &|| ctx.is_cancelled())
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(parse_day("1970-01-01"), Some(0));
        assert_eq!(parse_day("2024-02-29"), Some(19_782));
        assert_eq!(civil(19_783), (2024, 3, 1));
        for bad in ["2023-02-29", "2024-13-01", "2024-5-1", "yesterday", "2024-04-31"] {
            assert_eq!(parse_day(bad), None, "{bad}");
        }
    }

    #[test]
    fn parameters_that_make_no_sample_are_told() {
        let sample = Catalogue {
            size: 101,
            dates: 0,
            start: "soon".into(),
            cloud: 30.0,
            sites: 5000,
            zones: 3,
            bands: vec!["B02".into(), "B02".into(), "NIR".into()],
            ..Catalogue::new("x")
        };
        let places: Vec<String> = sample.check().unwrap_err().into_iter().map(|problem| problem.at).collect();
        assert_eq!(places, ["/size", "/dates", "/start", "/cloud", "/sites", "/zones", "/bands/1", "/bands/2"]);
        assert!(Catalogue::new("x").check().is_ok());
    }
}
