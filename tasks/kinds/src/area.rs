//! Areas of interest as flows write them.

use std::borrow::Cow;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use swath_task::PATH_MARK;

/// A box in degrees, WGS 84: west, south, east, north. `west > east` crosses the antimeridian.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "[f64; 4]", into = "[f64; 4]")]
pub struct BoundingBox {
    /// Western longitude, -180 to 180.
    pub west: f64,
    /// Southern latitude, -90 to 90.
    pub south: f64,
    /// Eastern longitude, -180 to 180.
    pub east: f64,
    /// Northern latitude, -90 to 90.
    pub north: f64,
}

/// What is wrong with an area.
#[derive(Debug, thiserror::Error)]
pub enum AreaError {
    /// Numbers that make no box on the globe.
    #[error("`[{0}, {1}, {2}, {3}]` is not a box: it is [west, south, east, north] in degrees, south below north")]
    NotABox(f64, f64, f64, f64),
    /// A file that cannot be read.
    #[error("cannot read the area `{path}`: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file or value that is not GeoJSON with a polygon in degrees.
    #[error("{place} is not an area: {reason}")]
    NotGeoJson {
        /// File name, or `the area`.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl BoundingBox {
    /// A box, checked.
    pub fn new(west: f64, south: f64, east: f64, north: f64) -> Result<Self, AreaError> {
        let on_globe = (-180.0..=180.0).contains(&west)
            && (-180.0..=180.0).contains(&east)
            && (-90.0..=90.0).contains(&south)
            && (-90.0..=90.0).contains(&north);
        if !on_globe || south >= north || west == east {
            return Err(AreaError::NotABox(west, south, east, north));
        }
        Ok(Self { west, south, east, north })
    }

    /// Whether it crosses the antimeridian.
    pub fn crosses_antimeridian(&self) -> bool {
        self.west > self.east
    }

    /// One box, or the two on both sides of the antimeridian.
    pub fn split(&self) -> Vec<Self> {
        if self.crosses_antimeridian() {
            vec![Self { east: 180.0, ..*self }, Self { west: -180.0, ..*self }]
        } else {
            vec![*self]
        }
    }

    /// Longitude and latitude of its centre.
    pub fn centre(&self) -> (f64, f64) {
        let east = if self.crosses_antimeridian() { self.east + 360.0 } else { self.east };
        let longitude = (self.west + east) / 2.0;
        (if longitude > 180.0 { longitude - 360.0 } else { longitude }, (self.south + self.north) / 2.0)
    }
}

impl TryFrom<[f64; 4]> for BoundingBox {
    type Error = AreaError;
    fn try_from([west, south, east, north]: [f64; 4]) -> Result<Self, AreaError> {
        Self::new(west, south, east, north)
    }
}

impl From<BoundingBox> for [f64; 4] {
    fn from(b: BoundingBox) -> Self {
        [b.west, b.south, b.east, b.north]
    }
}

/// An area of interest: a box in degrees, or a GeoJSON file of polygons in degrees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a box in degrees, `[west, south, east, north]` with south below north, or the path of a GeoJSON file"
)]
pub enum Area {
    /// `[west, south, east, north]`.
    Box(BoundingBox),
    /// Path of a GeoJSON file: a geometry, a feature or a collection.
    File(PathBuf),
}

impl Area {
    /// The file to read, if it is one: belongs into `Task::reads`.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Box(_) => None,
        }
    }

    /// GeoJSON geometry of the area (Polygon or MultiPolygon, degrees). Reads the file. A box over the antimeridian
    /// becomes a MultiPolygon of two.
    pub fn geometry(&self) -> Result<Value, AreaError> {
        match self {
            Self::Box(b) => Ok(box_geometry(b)),
            Self::File(path) => {
                let place = format!("`{}`", path.display());
                let text = std::fs::read_to_string(path)
                    .map_err(|source| AreaError::Read { path: path.display().to_string(), source })?;
                let value: Value = serde_json::from_str(&text).map_err(|error| AreaError::NotGeoJson {
                    place: place.clone(),
                    reason: format!("it is not JSON: {error}"),
                })?;
                let mut polygons = Vec::new();
                collect_polygons(&value, &mut polygons, 0)
                    .map_err(|reason| AreaError::NotGeoJson { place: place.clone(), reason })?;
                match polygons.len() {
                    0 => Err(AreaError::NotGeoJson { place, reason: "it holds no Polygon or MultiPolygon".into() }),
                    1 => Ok(serde_json::json!({ "type": "Polygon", "coordinates": polygons[0] })),
                    _ => Ok(serde_json::json!({ "type": "MultiPolygon", "coordinates": polygons })),
                }
            }
        }
    }

    /// The box around the area. Reads the file. Polygons on both sides of the antimeridian (as RFC 7946 splits them)
    /// give a box that crosses it.
    pub fn bounds(&self) -> Result<BoundingBox, AreaError> {
        if let Self::Box(b) = self {
            return Ok(*b);
        }
        let geometry = self.geometry()?;
        let polygons: Vec<&Value> = match geometry["type"].as_str() {
            Some("Polygon") => vec![&geometry["coordinates"]],
            _ => geometry["coordinates"].as_array().into_iter().flatten().collect(),
        };
        let boxes: Vec<[f64; 4]> = polygons.iter().map(|rings| ring_bounds(&rings[0])).collect();
        let south = boxes.iter().map(|b| b[1]).fold(f64::INFINITY, f64::min);
        let north = boxes.iter().map(|b| b[3]).fold(f64::NEG_INFINITY, f64::max);
        let touches_east = boxes.iter().any(|b| b[2] == 180.0 && b[0] > 0.0);
        let touches_west = boxes.iter().any(|b| b[0] == -180.0 && b[2] < 0.0);
        let crosses = touches_east && touches_west;
        let side = |eastern: bool| boxes.iter().filter(move |b| !crosses || (b[0] > 0.0) == eastern);
        let west = side(true).map(|b| b[0]).fold(f64::INFINITY, f64::min);
        let east = side(false).map(|b| b[2]).fold(f64::NEG_INFINITY, f64::max);
        BoundingBox::new(west, south, east, north)
    }
}

fn box_geometry(b: &BoundingBox) -> Value {
    let ring = |b: &BoundingBox| {
        serde_json::json!([[
            [b.west, b.south],
            [b.east, b.south],
            [b.east, b.north],
            [b.west, b.north],
            [b.west, b.south]
        ]])
    };
    match b.split().as_slice() {
        [one] => serde_json::json!({ "type": "Polygon", "coordinates": ring(one) }),
        both => serde_json::json!({ "type": "MultiPolygon", "coordinates": both.iter().map(ring).collect::<Vec<_>>() }),
    }
}

fn ring_bounds(ring: &Value) -> [f64; 4] {
    let mut bounds = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
    for point in ring.as_array().into_iter().flatten() {
        let (x, y) = (point[0].as_f64().unwrap_or(f64::NAN), point[1].as_f64().unwrap_or(f64::NAN));
        bounds = [bounds[0].min(x), bounds[1].min(y), bounds[2].max(x), bounds[3].max(y)];
    }
    bounds
}

fn collect_polygons(value: &Value, polygons: &mut Vec<Value>, depth: usize) -> Result<(), String> {
    if depth > 8 {
        return Err("its collections are nested too deeply".into());
    }
    match value["type"].as_str() {
        Some("FeatureCollection") => each(&value["features"], polygons, depth),
        Some("GeometryCollection") => each(&value["geometries"], polygons, depth),
        Some("Feature") => collect_polygons(&value["geometry"], polygons, depth + 1),
        Some("Polygon") => push_polygon(&value["coordinates"], polygons),
        Some("MultiPolygon") => {
            let all = value["coordinates"].as_array().ok_or("its coordinates are not a list")?;
            all.iter().try_for_each(|rings| push_polygon(rings, polygons))
        }
        Some(other @ ("Point" | "LineString" | "MultiPoint" | "MultiLineString")) => {
            Err(format!("a {other} has no area: draw a polygon, or buffer it"))
        }
        _ => Err("it is not a GeoJSON geometry, feature or collection".into()),
    }
}

fn each(list: &Value, polygons: &mut Vec<Value>, depth: usize) -> Result<(), String> {
    let list = list.as_array().ok_or("its members are not a list")?;
    list.iter().try_for_each(|member| collect_polygons(member, polygons, depth + 1))
}

fn push_polygon(rings: &Value, polygons: &mut Vec<Value>) -> Result<(), String> {
    let rings_list = rings.as_array().filter(|r| !r.is_empty()).ok_or("a polygon has no ring")?;
    for ring in rings_list {
        let points = ring.as_array().filter(|p| p.len() >= 4).ok_or("a ring has fewer than four points")?;
        for point in points {
            let (Some(x), Some(y)) = (point[0].as_f64(), point[1].as_f64()) else {
                return Err("a point is not two numbers".into());
            };
            if !(-180.0..=180.0).contains(&x) || !(-90.0..=90.0).contains(&y) {
                return Err(format!(
                    "the point [{x}, {y}] is not longitude and latitude in degrees: reproject the file to EPSG:4326"
                ));
            }
        }
    }
    rings_list.iter().try_for_each(edges)?;
    polygons.push(rings.clone());
    Ok(())
}

/// Refuses an edge of more than half of the globe: drawn across the antimeridian it would enclose all the rest. From
/// -180 to 180 is the whole globe and is meant so.
fn edges(ring: &Value) -> Result<(), String> {
    let longitude = |point: &Value| point[0].as_f64().unwrap_or(f64::NAN);
    for pair in ring.as_array().map(Vec::as_slice).unwrap_or_default().windows(2) {
        let (from, to) = (longitude(&pair[0]), longitude(&pair[1]));
        let wide = (to - from).abs();
        if wide > 180.0 && wide < 360.0 {
            let (west, east) = (from.max(to), from.min(to));
            return Err(format!(
                "an edge goes from longitude {from} to {to}, around {wide} degrees of the globe: split a polygon across \
                 the antimeridian in two that meet at 180 and -180 (RFC 7946), or give the box [{west}, south, {east}, \
                 north]; an area that is this wide needs points in between"
            ));
        }
    }
    Ok(())
}

impl JsonSchema for Area {
    fn schema_name() -> Cow<'static, str> {
        "Area".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "array", "items": { "type": "number" }, "minItems": 4, "maxItems": 4,
                  "description": "west, south, east, north in degrees" },
                { "type": "string", "minLength": 1, (PATH_MARK): true, "description": "a GeoJSON file" },
            ],
            "format": "aoi",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area_of(json: &str) -> Result<BoundingBox, AreaError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json).unwrap();
        Area::File(file.path().to_owned()).bounds()
    }

    #[test]
    fn a_split_polygon_gives_a_box_across_the_antimeridian() {
        let json = r#"{"type":"MultiPolygon","coordinates":[
            [[[179,-17],[180,-17],[180,-16],[179,-16],[179,-17]]],
            [[[-180,-17],[-179,-17],[-179,-16],[-180,-16],[-180,-17]]]]}"#;
        let bounds = area_of(json).unwrap();
        assert_eq!(<[f64; 4]>::from(bounds), [179.0, -17.0, -179.0, -16.0]);
        assert_eq!(bounds.split().len(), 2);
        assert_eq!(bounds.centre(), (180.0, -16.5));
    }

    #[test]
    fn what_is_not_an_area_says_why() {
        for (json, word) in [
            ("{", "not JSON"),
            (r#"{"type":"Point","coordinates":[0,0]}"#, "no area"),
            (r#"{"type":"FeatureCollection","features":[]}"#, "no Polygon"),
            (r#"{"type":"Polygon","coordinates":[[[179,-17],[-179,-17],[-179,-16],[179,-16],[179,-17]]]}"#, "RFC 7946"),
            (r#"{"type":"Polygon","coordinates":[[[500000,0],[500010,0],[500010,9],[500000,0]]]}"#, "EPSG:4326"),
        ] {
            assert!(area_of(json).unwrap_err().to_string().contains(word), "{json}");
        }
        assert!(BoundingBox::new(10.0, 5.0, 11.0, 4.0).is_err());
        let globe = r#"{"type":"Polygon","coordinates":[[[-180,-60],[180,-60],[180,60],[-180,60],[-180,-60]]]}"#;
        assert_eq!(<[f64; 4]>::from(area_of(globe).unwrap()), [-180.0, -60.0, 180.0, 60.0]);
    }
}
