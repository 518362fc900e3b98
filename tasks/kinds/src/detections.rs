//! Detected objects, as `detect.polygons` writes and stores read them: the features of a GeoJSON file.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One feature of a [`crate::Detections`] file: a GeoJSON FeatureCollection in EPSG:4326 (RFC 7946).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Always `Feature`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Sixteen hexadecimal digits made of class and outline: the same object found again has the same id.
    pub id: String,
    /// GeoJSON Polygon or MultiPolygon in degrees.
    pub geometry: Value,
    /// What is known of it.
    pub properties: DetectionProperties,
    /// How its score came about. Not a property: tables would get columns of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score_breakdown: Option<ScoreBreakdown>,
}

/// What each part adds to the score of a detection, weighted: the three make the score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreBreakdown {
    /// The mean probability's part.
    pub probability: f64,
    /// The compactness' part.
    pub compactness: f64,
    /// The part of the area's closeness to the ideal one.
    pub area: f64,
}

/// What is known of a detection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetectionProperties {
    /// What was looked for.
    pub class: String,
    /// 0 to 1, higher is better: the weighted sum that `detect.polygons` is told.
    pub score: f64,
    /// Mean of the probabilities inside.
    pub mean_probability: f64,
    /// Greatest probability inside.
    pub max_probability: f64,
    /// Geodesic area in square metres (WGS 84).
    pub area_m2: f64,
    /// Geodesic length of the outline in metres, holes included.
    pub perimeter_m: f64,
    /// Polsby-Popper: 4 pi area / perimeter^2 of the polygon as vectorised along pixel edges; a square has 0.785.
    pub compactness: f64,
    /// Pixels inside.
    pub pixels: u64,
    /// Longitude of the centroid in degrees.
    pub longitude: f64,
    /// Latitude of the centroid in degrees.
    pub latitude: f64,
    /// How many detections were merged into this one, itself among them.
    pub merged: u64,
}

impl DetectionProperties {
    /// The properties in the order they are written, each with its JSON type: what a table of detections has for
    /// columns, also when there are none.
    pub const FIELDS: &[(&str, PropertyType)] = &[
        ("class", PropertyType::Text),
        ("score", PropertyType::Real),
        ("mean_probability", PropertyType::Real),
        ("max_probability", PropertyType::Real),
        ("area_m2", PropertyType::Real),
        ("perimeter_m", PropertyType::Real),
        ("compactness", PropertyType::Real),
        ("pixels", PropertyType::Integer),
        ("longitude", PropertyType::Real),
        ("latitude", PropertyType::Real),
        ("merged", PropertyType::Integer),
    ];
}

/// What a property holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyType {
    /// Text.
    Text,
    /// A whole number.
    Integer,
    /// A number.
    Real,
    /// True or false.
    Boolean,
}

impl PropertyType {
    /// Whether a column of this type can hold a value. Text holds any, as it is written in JSON; all hold `null`.
    pub fn holds(self, value: &Value) -> bool {
        match self {
            _ if value.is_null() => true,
            Self::Text => true,
            Self::Integer => value.is_i64(),
            Self::Real => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_that_are_written() {
        let properties = DetectionProperties {
            class: "lake".into(),
            score: 0.5,
            mean_probability: 0.5,
            max_probability: 0.5,
            area_m2: 0.5,
            perimeter_m: 0.5,
            compactness: 0.5,
            pixels: 1,
            longitude: 0.5,
            latitude: 0.5,
            merged: 1,
        };
        let written = serde_json::to_value(properties).unwrap();
        let found: Vec<_> = written
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| {
                let kind = match value {
                    Value::String(_) => PropertyType::Text,
                    value if value.is_u64() => PropertyType::Integer,
                    _ => PropertyType::Real,
                };
                (name.as_str(), kind)
            })
            .collect();
        assert_eq!(found, DetectionProperties::FIELDS);
    }
}
