//! Detections as rows: one feature after another out of a GeoJSON file.

use std::collections::HashSet;
use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use swath_kinds::DetectionProperties;
use swath_task::{Fault, TaskError};

/// A feature as it stands in the file.
#[derive(Debug, Deserialize)]
pub struct Row {
    /// Its id: text, or a number as text.
    #[serde(default)]
    pub id: Value,
    /// Its geometry.
    #[serde(default)]
    pub geometry: Option<Polygons>,
    /// Its properties.
    #[serde(default)]
    pub properties: Option<Map<String, Value>>,
    /// How its score came about, by the names of its parts.
    #[serde(default)]
    pub score_breakdown: Option<Map<String, Value>>,
}

/// A polygon: rings of longitude and latitude, the exterior first.
pub type Rings = Vec<Vec<[f64; 2]>>;

/// The geometry of a detection.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", content = "coordinates")]
pub enum Polygons {
    /// One polygon.
    Polygon(Rings),
    /// Several.
    MultiPolygon(Vec<Rings>),
}

impl Polygons {
    /// Well-known binary, or what is wrong with the geometry. Metres that pass for degrees are found here.
    pub fn wkb(&self) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        match self {
            Self::Polygon(rings) => polygon(&mut out, rings)?,
            Self::MultiPolygon(polygons) => {
                header(&mut out, 6, polygons.len());
                polygons.iter().try_for_each(|rings| polygon(&mut out, rings))?;
            }
        }
        Ok(out)
    }
}

/// Little-endian, the type of geometry, how many parts it has.
fn header(out: &mut Vec<u8>, kind: u32, parts: usize) {
    out.push(1);
    out.extend(kind.to_le_bytes());
    out.extend((parts as u32).to_le_bytes());
}

fn polygon(out: &mut Vec<u8>, rings: &Rings) -> Result<(), String> {
    if rings.is_empty() {
        return Err("a polygon has no ring".to_owned());
    }
    header(out, 3, rings.len());
    for ring in rings {
        if ring.len() < 4 || ring.first() != ring.last() {
            return Err("a ring is not closed, or has fewer than four points".to_owned());
        }
        out.extend((ring.len() as u32).to_le_bytes());
        for [longitude, latitude] in ring {
            if !(-180.0..=180.0).contains(longitude) || !(-90.0..=90.0).contains(latitude) {
                return Err(format!("[{longitude}, {latitude}] is not longitude and latitude in degrees"));
            }
            out.extend(longitude.to_le_bytes());
            out.extend(latitude.to_le_bytes());
        }
    }
    Ok(())
}

/// A feature that has all that a row of a table needs.
pub struct Detected {
    /// Its id, not empty.
    pub id: String,
    /// What tells it from all others of the file.
    pub key: String,
    /// Its geometry as well-known binary, in degrees.
    pub wkb: Vec<u8>,
    /// Its properties: those that every detection has are of their type.
    pub properties: Map<String, Value>,
    /// How its score came about, where the file tells it.
    pub score_breakdown: Option<Map<String, Value>>,
}

/// Calls `each` for every detection of a file, told apart by `key`: `id`, or a property that is text.
pub fn detections(
    path: &Path,
    key: &str,
    mut each: impl FnMut(u64, Detected) -> Result<(), String>,
) -> Result<u64, TaskError> {
    let mut keys = HashSet::new();
    read(path, |index, row| {
        let id = match row.id {
            Value::String(id) if !id.is_empty() => id,
            Value::Number(id) => id.to_string(),
            _ => return Err(format!("feature {index} has no id")),
        };
        let polygons = row.geometry.ok_or_else(|| format!("feature {index} (`{id}`) has no geometry"))?;
        let wkb = polygons.wkb().map_err(|why| format!("feature {index} (`{id}`): {why}"))?;
        let properties = row.properties.unwrap_or_default();
        for (name, kind) in DetectionProperties::FIELDS {
            if let Some(value) = properties.get(*name).filter(|value| !kind.holds(value)) {
                return Err(format!("`{name}` of feature {index} (`{id}`) is {value}"));
            }
        }
        let own = if key == "id" { Some(id.as_str()) } else { properties.get(key).and_then(Value::as_str) };
        let own = own.ok_or_else(|| format!("feature {index} (`{id}`) has no text `{key}` to tell it by"))?.to_owned();
        if !keys.insert(own.clone()) {
            return Err(format!("two features have the {key} `{own}`"));
        }
        each(index, Detected { id, key: own, wkb, properties, score_breakdown: row.score_breakdown })
    })
}

/// Calls `each` for every feature of a FeatureCollection, holding one at a time. Returns how many there were.
pub fn read(path: &Path, each: impl FnMut(u64, Row) -> Result<(), String>) -> Result<u64, TaskError> {
    let fault = |why: String| {
        Fault::new("D111", format!("`{}` does not hold detections: {why}", path.display()))
            .help("detections are a GeoJSON FeatureCollection of polygons in degrees, an id each")
            .permanent()
    };
    let file = File::open(path).map_err(|error| fault(error.to_string()))?;
    let mut reader = serde_json::Deserializer::from_reader(BufReader::new(file));
    let mut each = Each { each, count: 0 };
    (&mut each).deserialize(&mut reader).and_then(|()| reader.end()).map_err(|error| fault(error.to_string()))?;
    Ok(each.count)
}

struct Each<F> {
    each: F,
    count: u64,
}

impl<'de, F: FnMut(u64, Row) -> Result<(), String>> DeserializeSeed<'de> for &mut Each<F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(Collection(self))
    }
}

struct Collection<'a, F>(&'a mut Each<F>);

impl<'de, F: FnMut(u64, Row) -> Result<(), String>> Visitor<'de> for Collection<'_, F> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a GeoJSON FeatureCollection")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "features" {
                seen = true;
                map.next_value_seed(Features(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if seen { Ok(()) } else { Err(serde::de::Error::missing_field("features")) }
    }
}

struct Features<'a, F>(&'a mut Each<F>);

impl<'de, F: FnMut(u64, Row) -> Result<(), String>> DeserializeSeed<'de> for Features<'_, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(u64, Row) -> Result<(), String>> Visitor<'de> for Features<'_, F> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of features")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(row) = seq.next_element::<Row>()? {
            (self.0.each)(self.0.count, row).map_err(serde::de::Error::custom)?;
            self.0.count += 1;
        }
        Ok(())
    }
}
