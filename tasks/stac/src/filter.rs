//! What of a catalogue is wanted, and where the rest was lost: the funnel an empty search is explained by.

use std::collections::BTreeMap;

use geo::{BoundingRect, Intersects, MapCoords};
use jiff::Timestamp;
use serde_json::{Map, Value};
use swath_kinds::{Area, AreaError, BoundingBox};

use crate::item::Candidate;
use crate::period::Period;
use crate::search::{Comparison, NewBy};

/// The area, ready for questions.
pub(crate) struct Footprint {
    /// GeoJSON, as servers are asked with.
    pub geojson: Value,
    /// The box around it; crosses the antimeridian when its west is above its east.
    pub bounds: BoundingBox,
    /// It is a plain box.
    pub is_box: bool,
    shape: geo::Geometry,
}

impl Footprint {
    /// Reads the area (its file, if it is one).
    pub fn of(area: &Area) -> Result<Self, AreaError> {
        let geojson = area.geometry()?;
        let shape = shape_of(&geojson).ok_or_else(|| AreaError::NotGeoJson {
            place: area.file().map_or_else(|| "the area".to_owned(), |path| format!("`{}`", path.display())),
            reason: "its coordinates make no polygon".to_owned(),
        })?;
        Ok(Self { geojson, bounds: area.bounds()?, is_box: matches!(area, Area::Box(_)), shape })
    }

    /// Whether a scene's footprint touches the area; by its geometry, else by its box; `None` when it has neither.
    pub fn meets(&self, geometry: Option<&Value>, bbox: Option<[f64; 4]>) -> Option<bool> {
        let shapes = match geometry.and_then(shape_of) {
            Some(shape) => unwrap_antimeridian(shape),
            None => {
                let [west, south, east, north] = bbox?;
                let boxes = if west > east { vec![(west, 180.0), (-180.0, east)] } else { vec![(west, east)] };
                let rect = |(west, east)| geo::Rect::new((west, south), (east, north)).into();
                boxes.into_iter().map(rect).collect()
            }
        };
        Some(shapes.iter().any(|shape: &geo::Geometry| shape.intersects(&self.shape)))
    }
}

/// GeoJSON as a shape. `None` when it is none, an empty one, or nested too deeply. (The `geojson` crate's own
/// conversion panics on polygons without rings.)
fn shape_of(geojson: &Value) -> Option<geo::Geometry> {
    shape(geojson, 0)
}

fn shape(geojson: &Value, depth: usize) -> Option<geo::Geometry> {
    let coordinates = &geojson["coordinates"];
    Some(match geojson["type"].as_str()? {
        "Point" => geo::Point(point(coordinates)?).into(),
        "MultiPoint" => geo::MultiPoint(points(coordinates, 1)?.into_iter().map(geo::Point).collect()).into(),
        "LineString" => geo::LineString(points(coordinates, 2)?).into(),
        "MultiLineString" => {
            let lines = coordinates.as_array().filter(|lines| !lines.is_empty())?;
            let lines = lines.iter().map(|line| points(line, 2).map(geo::LineString));
            geo::MultiLineString(lines.collect::<Option<_>>()?).into()
        }
        "Polygon" => polygon(coordinates)?.into(),
        "MultiPolygon" => {
            let polygons = coordinates.as_array().filter(|polygons| !polygons.is_empty())?;
            geo::MultiPolygon(polygons.iter().map(polygon).collect::<Option<_>>()?).into()
        }
        "GeometryCollection" if depth < 4 => {
            let members = geojson["geometries"].as_array().filter(|members| !members.is_empty())?;
            let members = members.iter().map(|member| shape(member, depth + 1));
            geo::Geometry::GeometryCollection(geo::GeometryCollection(members.collect::<Option<_>>()?))
        }
        _ => return None,
    })
}

fn polygon(rings: &Value) -> Option<geo::Polygon> {
    let mut rings = rings.as_array()?.iter().map(|ring| points(ring, 4).map(geo::LineString));
    let outer = rings.next()??;
    Some(geo::Polygon::new(outer, rings.collect::<Option<_>>()?))
}

fn points(list: &Value, least: usize) -> Option<Vec<geo::Coord>> {
    list.as_array().filter(|list| list.len() >= least)?.iter().map(point).collect()
}

fn point(position: &Value) -> Option<geo::Coord> {
    Some(geo::Coord { x: position.get(0)?.as_f64()?, y: position.get(1)?.as_f64()? })
}

/// A footprint drawn across the antimeridian without the split that RFC 7946 asks for spans most of the globe: it is
/// laid to both sides of it. Exactly 360 degrees are a global product.
fn unwrap_antimeridian(shape: geo::Geometry) -> Vec<geo::Geometry> {
    let width = shape.bounding_rect().map_or(0.0, |rect| rect.width());
    if !(180.0 < width && width < 360.0) || matches!(shape, geo::Geometry::MultiPolygon(_)) {
        return vec![shape];
    }
    let east = shape.map_coords(|at| geo::Coord { x: if at.x < 0.0 { at.x + 360.0 } else { at.x }, y: at.y });
    let west = east.map_coords(|at| geo::Coord { x: at.x - 360.0, y: at.y });
    vec![east, west]
}

/// When what is new came: after one instant, up to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub after: Timestamp,
    pub up_to: Timestamp,
    pub by: NewBy,
}

impl Interval {
    /// Whether an item is new; `None` when it does not tell.
    fn holds(&self, item: &Candidate) -> Option<bool> {
        let at = match self.by {
            NewBy::Acquired => item.end,
            NewBy::Published => item.published?,
        };
        Some(self.after < at && at <= self.up_to)
    }
}

/// All conditions of a search.
#[derive(Default)]
pub(crate) struct Filter {
    pub collections: Vec<String>,
    pub period: Option<Period>,
    pub new: Option<Interval>,
    pub area: Option<Footprint>,
    pub max_cloud_cover: Option<f64>,
    pub query: BTreeMap<String, Comparison>,
}

/// How many items passed each condition.
#[derive(Clone, Debug, Default)]
pub(crate) struct Funnel {
    pub seen: u64,
    pub in_collections: u64,
    pub in_period: u64,
    pub new: u64,
    /// Those that do not tell whether they are new.
    pub untold: u64,
    pub in_area: u64,
    pub without_footprint: u64,
    pub clear_enough: u64,
    pub without_cloud_cover: u64,
    pub matching: u64,
}

impl Filter {
    /// Whether `item` is wanted; counts it in `funnel`. `placed` items come from a server that has looked at the area.
    pub fn wants(&self, item: &Candidate, placed: bool, funnel: &mut Funnel) -> bool {
        funnel.seen += 1;
        let scene = &item.scene;
        let collection = scene.collection.as_deref();
        if !self.collections.is_empty() && !self.collections.iter().any(|id| Some(id.as_str()) == collection) {
            return false;
        }
        funnel.in_collections += 1;
        if self.period.is_some_and(|period| !period.meets(item.start, item.end)) {
            return false;
        }
        funnel.in_period += 1;
        if let Some(area) = &self.area {
            let meets = area.meets(scene.geometry.as_ref(), scene.bbox);
            funnel.without_footprint += u64::from(meets.is_none());
            if !meets.unwrap_or(placed) {
                return false;
            }
        }
        funnel.in_area += 1;
        if let Some(limit) = self.max_cloud_cover {
            funnel.without_cloud_cover += u64::from(scene.cloud_cover.is_none());
            if scene.cloud_cover.is_some_and(|cover| cover > limit) {
                return false;
            }
        }
        funnel.clear_enough += 1;
        if !self.query.iter().all(|(name, comparison)| comparison.holds(property(&item.properties, name))) {
            return false;
        }
        funnel.matching += 1;
        if let Some(new) = &self.new {
            let is_new = new.holds(item);
            funnel.untold += u64::from(is_new.is_none());
            if is_new != Some(true) {
                return false;
            }
        }
        funnel.new += 1;
        true
    }

    /// The funnel in words: `12 items seen, 10 in the period, 0 in the area`.
    pub fn explain(&self, funnel: &Funnel) -> String {
        let mut steps = vec![format!("{} items seen", funnel.seen)];
        if !self.collections.is_empty() {
            steps.push(format!("{} in {}", funnel.in_collections, crate::search::list(&self.collections)));
        }
        if let Some(period) = self.period {
            steps.push(format!("{} in {}", funnel.in_period, period.to_stac()));
        }
        if self.area.is_some() {
            let lost = funnel.without_footprint;
            let lost = if lost > 0 { format!(" ({lost} without footprint)") } else { String::new() };
            steps.push(format!("{} in the area{lost}", funnel.in_area));
        }
        if let Some(limit) = self.max_cloud_cover {
            steps.push(format!("{} with cloud cover up to {limit} %", funnel.clear_enough));
        }
        if !self.query.is_empty() {
            steps.push(format!("{} with the properties asked for", funnel.matching));
        }
        if let Some(new) = &self.new {
            steps.push(format!("{} new from {} to {}", funnel.new, new.after, new.up_to));
        }
        steps.join(", ")
    }
}

fn property<'a>(properties: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    properties.get(name.strip_prefix("properties.").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footprint(west: f64, south: f64, east: f64, north: f64) -> Footprint {
        Footprint::of(&Area::Box(BoundingBox::new(west, south, east, north).unwrap())).unwrap()
    }

    #[test]
    fn an_area_is_met_by_geometry_before_box() {
        let area = footprint(0.0, 0.0, 1.0, 1.0);
        // A triangle whose box covers the area and whose shape does not touch it.
        let far =
            serde_json::json!({"type": "Polygon", "coordinates": [[[0.0, 5.0], [5.0, 0.0], [5.0, 5.0], [0.0, 5.0]]]});
        assert_eq!(area.meets(Some(&far), Some([0.0, 0.0, 5.0, 5.0])), Some(false));
        assert_eq!(area.meets(None, Some([0.0, 0.0, 5.0, 5.0])), Some(true));
        assert_eq!(area.meets(None, None), None);
    }

    #[test]
    fn both_sides_of_the_antimeridian_are_found() {
        let area = footprint(179.5, -17.0, -179.5, -16.0);
        let unsplit = serde_json::json!({"type": "Polygon", "coordinates":
            [[[179.8, -17.0], [-179.9, -17.0], [-179.9, -16.0], [179.8, -16.0], [179.8, -17.0]]]});
        assert_eq!(area.meets(Some(&unsplit), None), Some(true));
        assert_eq!(area.meets(None, Some([179.9, -17.0, -179.9, -16.0])), Some(true));
        assert_eq!(area.meets(None, Some([-179.8, -17.0, -179.0, -16.0])), Some(true));
        assert_eq!(area.meets(None, Some([-10.0, -17.0, 10.0, -16.0])), Some(false));
        assert_eq!(footprint(-10.0, -17.0, 10.0, -16.0).meets(Some(&unsplit), None), Some(false));
    }
}
