//! Detections as GeoJSON (RFC 7946): equal detections are equal bytes.

use std::io::Write;

use serde::Serialize;
use swath_kinds::{DetectionProperties, ScoreBreakdown};

use crate::globe::Ring;

/// Decimals of a coordinate: about a millimetre.
const DECIMALS: f64 = 1e8;

/// Rounds for writing; -0 becomes 0.
pub fn rounded(value: f64, factor: f64) -> f64 {
    (value * factor).round() / factor + 0.0
}

/// A coordinate as it is written.
pub fn rounded_coordinate(value: f64) -> f64 {
    rounded(value, DECIMALS)
}

#[derive(Serialize)]
struct Feature<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    properties: &'a DetectionProperties,
    score_breakdown: ScoreBreakdown,
    geometry: Geometry,
}

#[derive(Serialize)]
#[serde(tag = "type", content = "coordinates")]
enum Geometry {
    Polygon(Vec<Vec<[f64; 2]>>),
    MultiPolygon(Vec<Vec<Vec<[f64; 2]>>>),
}

/// A FeatureCollection being written, one feature a line.
pub struct Collection<W> {
    out: W,
    count: u64,
}

impl<W: Write> Collection<W> {
    /// Begins the collection.
    pub fn new(mut out: W) -> std::io::Result<Self> {
        out.write_all(b"{\"type\":\"FeatureCollection\",\"features\":[")?;
        Ok(Self { out, count: 0 })
    }

    /// Writes a feature. `polygons` as [`crate::globe::rfc7946`] makes them.
    pub fn push(
        &mut self,
        id: &str,
        properties: &DetectionProperties,
        score_breakdown: ScoreBreakdown,
        polygons: Vec<Vec<Ring>>,
    ) -> std::io::Result<()> {
        let separator: &[u8] = if self.count == 0 { b"\n" } else { b",\n" };
        self.out.write_all(separator)?;
        let mut polygons: Vec<Vec<Ring>> =
            polygons.into_iter().map(|rings| rings.into_iter().map(closed).collect()).collect();
        let geometry = match polygons.len() {
            1 => Geometry::Polygon(polygons.remove(0)),
            _ => Geometry::MultiPolygon(polygons),
        };
        serde_json::to_writer(&mut self.out, &Feature { kind: "Feature", id, properties, score_breakdown, geometry })?;
        self.count += 1;
        Ok(())
    }

    /// Ends the collection.
    pub fn finish(mut self) -> std::io::Result<W> {
        self.out.write_all(if self.count == 0 { b"]}\n" } else { b"\n]}\n" })?;
        self.out.flush()?;
        Ok(self.out)
    }
}

/// A ring as GeoJSON has it: rounded, its first point repeated.
fn closed(mut ring: Ring) -> Ring {
    ring.iter_mut().for_each(|point| *point = point.map(rounded_coordinate));
    ring.push(ring[0]);
    ring
}
