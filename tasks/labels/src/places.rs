//! Known sites as files hold them: a JSON list, GeoJSON, or any other vector file.

use std::path::{Path, PathBuf};

use geo::{CoordsIter, Geometry, Point};
use serde_json::Value;
use swath_geo::{Crs, FeatureReader, Transform};
use swath_kinds::Distance;
use swath_task::TaskError;

use crate::faults::{fault, geo_fault};

/// More sites than any list of known sites has: each is held in memory.
const MOST_SITES: usize = 1_000_000;
/// A JSON list longer than this is not looked for sites in our own form.
const LONGEST_LIST: u64 = 64 << 20;
/// Wrong sites that a message names.
const TOLD: usize = 5;

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
        Some(entries) => entries.iter().enumerate().map(|(index, entry)| listed(index, entry)).collect(),
        None => features(path, layer)?,
    };
    if found.is_empty() {
        let message = format!("`{}` holds no site", path.display());
        return Err(fault("L101", message, "give at least one site with its coordinates"));
    }
    let (mut sites, mut refused) = (Vec::with_capacity(found.len()), Vec::new());
    for site in found {
        match site {
            Ok(site) => sites.push(site),
            Err(why) => refused.push(why),
        }
    }
    let Some((code, _)) = refused.first().cloned() else { return Ok(sites) };
    let of_code: Vec<&str> = refused.iter().filter(|(other, _)| *other == code).map(|(_, why)| why.as_str()).collect();
    let mut message = format!("`{}`: {}", path.display(), of_code[..of_code.len().min(TOLD)].join("; "));
    if refused.len() > TOLD {
        message = format!("{message}; {} sites are wrong in all", refused.len());
    }
    let help = match code {
        "L103" => "a buffer is larger than 0 and at most 500 km: `buffer_km: 2`, or leave it out for the step's own",
        _ => "give each site `lon` and `lat` in degrees, WGS 84; GeoJSON has longitude first",
    };
    Err(fault(code, message, help))
}

/// The entries of `[{..}]` or `{"sites": [{..}]}`; `None` for any other file.
fn list(path: &Path) -> Result<Option<Vec<Value>>, TaskError> {
    let unreadable = |error: std::io::Error| {
        fault("L101", format!("cannot read the sites `{}`: {error}", path.display()), "check the path")
    };
    let json = path.extension().is_some_and(|extension| extension == "json" || extension == "geojson");
    if std::fs::metadata(path).map_err(unreadable)?.len() > LONGEST_LIST || !json {
        return Ok(None);
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let document: Value = serde_json::from_slice(&text).map_err(|error| {
        let message = format!("the sites `{}` are not JSON: {error}", path.display());
        fault("L101", message, "give a JSON list of sites, GeoJSON, or another vector file")
    })?;
    match document {
        Value::Array(entries) => Ok(Some(entries)),
        Value::Object(mut fields) => match fields.remove("sites") {
            Some(Value::Array(entries)) => Ok(Some(entries)),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// A site of a JSON list.
fn listed(index: usize, entry: &Value) -> Result<Site, Refused> {
    let name = entry["name"].as_str().map_or_else(|| format!("site {}", index + 1), str::to_owned);
    let either = |short: &str, long: &str| entry.get(short).or(entry.get(long)).cloned().unwrap_or_default();
    let (lon, lat) = (either("lon", "longitude"), either("lat", "latitude"));
    let (Some(x), Some(y)) = (lon.as_f64(), lat.as_f64()) else {
        return Err(("L102", format!("`{name}` has no coordinates: `lon` is {lon}, `lat` is {lat}")));
    };
    let shape = on_globe(&name, Geometry::Point(Point::new(x, y)))?;
    let buffer = own_buffer(&name, |field| entry.get(field).filter(|value| !value.is_null()).cloned())?;
    Ok(Site { name, shape, buffer })
}

/// The sites of a vector file.
fn features(path: &Path, layer: Option<&str>) -> Result<Vec<Result<Site, Refused>>, TaskError> {
    let mut reader = FeatureReader::open(path, layer).map_err(geo_fault)?;
    let wgs84 = Crs::wgs84().map_err(geo_fault)?;
    let crs = reader.crs().cloned().ok_or_else(|| {
        let message = format!("`{}` has no coordinate reference system", path.display());
        fault("R106", message, "assign one, for example with `ogr2ogr -a_srs`")
    })?;
    let transform = (crs != wgs84).then(|| Transform::new(&crs, &wgs84)).transpose().map_err(geo_fault)?;
    let fields: Vec<String> = reader.fields().map(str::to_owned).collect();
    let mut sites = Vec::new();
    for feature in reader.features() {
        if sites.len() == MOST_SITES {
            let message = format!("`{}` holds more than {MOST_SITES} sites", path.display());
            return Err(fault("R108", message, "give the sites of the area only"));
        }
        let number = sites.len() + 1;
        let Some(feature) = feature.map_err(geo_fault)? else {
            sites.push(Err(("L102", format!("feature {number} has no geometry"))));
            continue;
        };
        let field = |wanted: &str| {
            let index = fields.iter().position(|name| name == wanted)?;
            match &feature.values[index] {
                swath_geo::Value::Null => None,
                swath_geo::Value::Text(text) => Some(Value::from(text.as_str())),
                swath_geo::Value::Integer(number) => Some(Value::from(*number)),
                swath_geo::Value::Real(number) => Some(Value::from(*number)),
                swath_geo::Value::Boolean(flag) => Some(Value::from(*flag)),
            }
        };
        let name = field("name").and_then(|name| name.as_str().map(str::to_owned));
        let name = name.unwrap_or_else(|| format!("feature {number}"));
        let geometry = match &transform {
            Some(transform) => feature.geometry.project(transform).map_err(geo_fault)?,
            None => feature.geometry,
        };
        let json = geometry.to_geojson().map_err(geo_fault)?;
        let shape = json.parse::<geojson::Geometry>().and_then(Geometry::try_from);
        let site = shape.map_err(|error| ("L102", format!("`{name}` has a geometry that is not taken: {error}")));
        sites.push(site.and_then(|shape| {
            let shape = on_globe(&name, shape)?;
            let buffer = own_buffer(&name, field)?;
            Ok(Site { name, shape, buffer })
        }));
    }
    Ok(sites)
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
    let refuse = |what: &str, value: &Value| Err(("L103", format!("`{name}` has the `{what}` {value}")));
    for (what, unit) in [("buffer_km", 1000.0), ("buffer_m", 1.0), ("buffer", 1.0)] {
        let Some(value) = field(what) else { continue };
        let distance = match (&value, what) {
            (Value::String(text), "buffer") => text.parse().ok(),
            (value, _) => value.as_f64().map(|number| Distance::metres(number * unit)),
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
