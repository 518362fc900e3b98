//! Detected objects, as `detect.polygons` writes and stores read them: the features of a GeoJSON file.

use serde::{Deserialize, Serialize};

/// One feature of a [`crate::Detections`] file: a GeoJSON FeatureCollection in EPSG:4326 (RFC 7946).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Always `Feature`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Sixteen hexadecimal digits made of class and outline: the same object found again has the same id.
    pub id: String,
    /// GeoJSON Polygon or MultiPolygon in degrees.
    pub geometry: serde_json::Value,
    /// What is known of it.
    pub properties: DetectionProperties,
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
