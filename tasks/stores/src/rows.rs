//! Detections as rows: one feature after another out of a GeoJSON file.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use swath_task::{Fault, TaskError};

/// A feature as it stands in the file.
#[derive(Debug, Deserialize)]
pub struct Row {
    /// Its id: text, or a number as text.
    #[serde(default)]
    pub id: Value,
    /// GeoJSON geometry.
    #[serde(default)]
    pub geometry: Value,
    /// Its properties.
    #[serde(default)]
    pub properties: Option<Map<String, Value>>,
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
