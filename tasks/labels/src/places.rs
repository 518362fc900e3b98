//! Known sites as files hold them: a JSON list, GeoJSON, or any other vector file.
//!
//! Memory is that of the sites, [`MOST_SITES`] of [`MOST_POINTS`] points each at the most, and of one JSON text among them: lists
//! are read entry by entry, and what is not a site is passed over without being held.

mod list;

use std::path::{Path, PathBuf};

use geo::{CoordsIter, Geometry};
use swath_geo::{Crs, FeatureReader, Transform, Value};
use swath_kinds::Distance;
use swath_task::TaskError;

use crate::faults::{fault, geo_fault};
use crate::outline::MOST_POINTS;
use list::Document;

/// More sites than any list of known sites has: each is held in memory.
const MOST_SITES: usize = 200_000;
/// A text of sites longer than this is refused. One that is no collection of features is read at once by GDAL, which takes many
/// times its length.
const LONGEST_TEXT: u64 = 64 << 20;
const LONGEST_WHOLE: u64 = 4 << 20;
/// Wrong sites that a message names, and those that are held until then.
const TOLD: usize = 5;
/// Characters of a name that are kept.
const LONGEST_NAME: usize = 120;

/// A known site.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its name, or its place in the file.
    pub name: String,
    /// Where it is: longitude and latitude in degrees, WGS 84.
    pub shape: Geometry,
    /// Its own buffer, where it has one.
    pub buffer: Option<Distance>,
}

/// A site that cannot be used, and why.
type Refused = (&'static str, String);

/// The sites of a file, and what is wrong with the others.
#[derive(Default)]
struct Found {
    sites: Vec<Site>,
    /// The first ones.
    refused: Vec<Refused>,
    wrong: usize,
}

impl Found {
    /// Adds a site; whether there is room for more.
    fn add(&mut self, site: Result<Site, Refused>) -> bool {
        match site {
            Ok(site) => self.sites.push(site),
            Err(why) => {
                self.wrong += 1;
                if self.refused.len() < TOLD {
                    self.refused.push(why);
                }
            }
        }
        self.count() < MOST_SITES
    }

    fn count(&self) -> usize {
        self.sites.len() + self.wrong
    }
}

/// The file, and those beside it that belong to it.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let shapefile = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("shp"));
    let beside = ["dbf", "shx", "prj", "cpg"].map(|extension| path.with_extension(extension));
    let beside = beside.into_iter().filter(|file| shapefile && file.exists());
    std::iter::once(path.to_owned()).chain(beside).collect()
}

/// Reads the sites of a file. All that are wrong are told at once.
pub fn read(path: &Path, layer: Option<&str>) -> Result<Vec<Site>, TaskError> {
    let found = match list(path)? {
        Some(found) => found,
        None => features(path, layer)?,
    };
    let Found { sites, refused, wrong } = found;
    if sites.is_empty() && wrong == 0 {
        let message = format!("`{}` holds no site", path.display());
        return Err(fault("L101", message, "give at least one site with its coordinates"));
    }
    let Some((code, _)) = refused.first().cloned() else { return Ok(sites) };
    let of_code: Vec<&str> = refused.iter().filter(|(other, _)| *other == code).map(|(_, why)| why.as_str()).collect();
    let mut message = format!("`{}`: {}", path.display(), of_code.join("; "));
    if wrong > of_code.len() {
        message = format!("{message}; {wrong} sites are wrong in all");
    }
    let help = match code {
        "L103" => "a buffer is larger than 0 and at most 500 km: `buffer_km: 2`, or leave it out for the step's own",
        _ => "give each site `lon` and `lat` in degrees, WGS 84; GeoJSON has longitude first",
    };
    Err(fault(code, message, help))
}

/// A file of text that GDAL would take too much memory for.
pub fn check_length(path: &Path, most: u64) -> Result<(), TaskError> {
    let text = path
        .extension()
        .is_some_and(|extension| ["json", "geojson", "kml"].iter().any(|text| extension.eq_ignore_ascii_case(text)));
    let length = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if !text || length <= most {
        return Ok(());
    }
    let message = format!("`{}` is a text of {} MiB, more than {} MiB", path.display(), length >> 20, most >> 20);
    Err(fault("R108", message, "give what lies in the area only, or a GeoPackage, which is read piece by piece"))
}

/// The entries of `[{..}]` or `{"sites": [{..}]}`; `None` for any other file.
fn list(path: &Path) -> Result<Option<Found>, TaskError> {
    let unreadable = |error: std::io::Error| {
        fault("L101", format!("cannot read the sites `{}`: {error}", path.display()), "check the path")
    };
    check_length(path, LONGEST_TEXT)?;
    if !path.extension().is_some_and(|extension| extension == "json" || extension == "geojson") {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let document = list::read(&text).map_err(|error| {
        let message = format!("the sites `{}` are not JSON: {error}", path.display());
        fault("L101", message, "give a JSON list of sites, GeoJSON, or another vector file")
    })?;
    match document {
        Document::List(found) if found.count() >= MOST_SITES => Err(too_many(path)),
        Document::List(found) => Ok(Some(found)),
        Document::Collection => Ok(None),
        Document::Other => check_length(path, LONGEST_WHOLE).map(|()| None),
    }
}

fn too_many(path: &Path) -> TaskError {
    let message = format!("`{}` holds {MOST_SITES} sites or more", path.display());
    fault("R108", message, "give the sites of the area only")
}

/// The sites of a vector file.
fn features(path: &Path, layer: Option<&str>) -> Result<Found, TaskError> {
    let mut reader = FeatureReader::open(path, layer).map_err(geo_fault)?;
    let wgs84 = Crs::wgs84().map_err(geo_fault)?;
    let crs = reader.crs().cloned().ok_or_else(|| {
        let message = format!("`{}` has no coordinate reference system", path.display());
        fault("R106", message, "assign one, for example with `ogr2ogr -a_srs`")
    })?;
    let transform = (crs != wgs84).then(|| Transform::new(&crs, &wgs84)).transpose().map_err(geo_fault)?;
    let fields: Vec<String> = reader.fields().map(str::to_owned).collect();
    let mut found = Found::default();
    for feature in reader.features() {
        let number = found.count() + 1;
        let site = match feature.map_err(geo_fault)? {
            Some(feature) => featured(number, feature, &fields, transform.as_ref())?,
            None => Err(("L102", format!("feature {number} has no geometry"))),
        };
        if !found.add(site) {
            return Err(too_many(path));
        }
    }
    Ok(found)
}

/// A site of a vector file.
fn featured(
    number: usize,
    feature: swath_geo::Feature,
    fields: &[String],
    transform: Option<&Transform>,
) -> Result<Result<Site, Refused>, TaskError> {
    let field = |wanted: &str| {
        let index = fields.iter().position(|name| name == wanted)?;
        Some(feature.values[index].clone()).filter(|value| *value != Value::Null)
    };
    let name = match field("name") {
        Some(Value::Text(name)) => short(name),
        _ => format!("feature {number}"),
    };
    // A point takes two numbers of 8 bytes.
    if feature.geometry.to_wkb().map_err(geo_fault)?.len() > 24 * MOST_POINTS {
        return Ok(Err(("L103", format!("`{name}` has more than {MOST_POINTS} points"))));
    }
    let geometry = match transform {
        Some(transform) => &feature.geometry.project(transform).map_err(geo_fault)?,
        None => &feature.geometry,
    };
    let json = geometry.to_geojson().map_err(geo_fault)?;
    let shape = json.parse::<geojson::Geometry>().and_then(Geometry::try_from);
    let shape = shape.map_err(|error| ("L102", format!("`{name}` has a geometry that is not taken: {error}")));
    Ok(shape.and_then(|shape| {
        let shape = on_globe(&name, shape)?;
        let buffer = own_buffer(&name, field)?;
        Ok(Site { name, shape, buffer })
    }))
}

/// A name that a message can hold.
fn short(name: String) -> String {
    if name.chars().nth(LONGEST_NAME).is_some() { name.chars().take(LONGEST_NAME).collect() } else { name }
}

/// A value as a message shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Text(text) => format!("{:?}", short(text.clone())),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Boolean(flag) => flag.to_string(),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(number) => Some(*number as f64),
        Value::Real(number) => Some(*number),
        _ => None,
    }
}

/// The shape, when all of it lies on the globe.
fn on_globe(name: &str, shape: Geometry) -> Result<Geometry, Refused> {
    let refuse = |why: String| Err(("L102", format!("`{name}` {why}")));
    if shape.coords_count() == 0 {
        return refuse("has no coordinates".to_owned());
    }
    for point in shape.coords_iter() {
        let (lon, lat) = (point.x, point.y);
        if !lon.is_finite() || !lat.is_finite() {
            return refuse("has coordinates that are no numbers".to_owned());
        }
        if lon.abs() > 180.0 || lat.abs() > 90.0 {
            let swapped = lon.abs() <= 90.0 && lat.abs() <= 180.0;
            let hint = if swapped { "longitude and latitude are swapped" } else { "these are not degrees" };
            return refuse(format!("lies at longitude {lon}, latitude {lat}: {hint}"));
        }
    }
    Ok(shape)
}

/// The buffer that a site has of its own: `buffer_km`, `buffer_m`, or `buffer` with a unit.
fn own_buffer(name: &str, field: impl Fn(&str) -> Option<Value>) -> Result<Option<Distance>, Refused> {
    let refuse = |what: &str, value: &Value| Err(("L103", format!("`{name}` has the `{what}` {}", shown(value))));
    for (what, unit) in [("buffer_km", 1000.0), ("buffer_m", 1.0), ("buffer", 1.0)] {
        let Some(value) = field(what) else { continue };
        let distance = match (&value, what) {
            (Value::Text(text), "buffer") => text.parse().ok(),
            (value, _) => number(value).map(|number| Distance::metres(number * unit)),
        };
        return match distance {
            Some(distance) if sound(distance) => Ok(Some(distance)),
            _ => refuse(what, &value),
        };
    }
    Ok(None)
}

/// Whether a distance can be a buffer.
pub fn sound(buffer: Distance) -> bool {
    buffer.metres > 0.0 && buffer.metres <= 500_000.0
}
