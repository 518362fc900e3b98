//! The documents of a sample: a static STAC catalogue, the same as an item collection, the area and the sites.

use std::path::Path;

use serde_json::{Value, json};
use swath_geo::{Crs, Grid, Transform};
use swath_task::TaskError;

use crate::faults::{geo_fault, write_fault};
use crate::scenes::Shares;
use crate::world::{BANDS, Site};

/// Collection id.
pub(crate) const COLLECTION: &str = "sentinel-2-l2a";

/// What an item is made of.
pub(crate) struct Scene<'a> {
    pub id: String,
    pub datetime: String,
    pub baseline: &'a str,
    pub datatake: String,
    pub tile: &'a str,
    pub fine: &'a Grid,
    pub coarse: &'a Grid,
    pub bands: &'a [usize],
    pub shares: Shares,
}

/// Longitudes and latitudes along the edge of a grid, closed, counter-clockwise, nine points a side.
pub(crate) fn outline(grid: &Grid, inset: f64) -> Result<Vec<[f64; 2]>, TaskError> {
    let bounds = grid.bounds();
    let (left, right) = (bounds.left + inset, bounds.right - inset);
    let (bottom, top) = (bounds.bottom + inset, bounds.top - inset);
    let corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)];
    let (mut xs, mut ys) = (Vec::new(), Vec::new());
    for side in corners.windows(2) {
        for step in 0..8 {
            let share = f64::from(step) / 8.0;
            xs.push(side[0].0 + (side[1].0 - side[0].0) * share);
            ys.push(side[0].1 + (side[1].1 - side[0].1) * share);
        }
    }
    xs.push(left);
    ys.push(bottom);
    to_degrees(&grid.crs, &mut xs, &mut ys)
}

fn to_degrees(crs: &Crs, xs: &mut [f64], ys: &mut [f64]) -> Result<Vec<[f64; 2]>, TaskError> {
    let transform = Transform::new(crs, &Crs::wgs84().map_err(geo_fault)?).map_err(geo_fault)?;
    transform.points(xs, ys).map_err(geo_fault)?;
    let rounded = |value: f64| (value * 1e7).round() / 1e7;
    Ok(xs.iter().zip(ys.iter()).map(|(x, y)| [rounded(*x), rounded(*y)]).collect())
}

fn bbox(ring: &[[f64; 2]]) -> [f64; 4] {
    ring.iter().fold([f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY], |b, p| {
        [b[0].min(p[0]), b[1].min(p[1]), b[2].max(p[0]), b[3].max(p[1])]
    })
}

fn percent(part: u64, whole: u64) -> f64 {
    (part as f64 / whole.max(1) as f64 * 10_000.0).round() / 100.0
}

impl Scene<'_> {
    /// The item, with asset hrefs below `base`.
    pub fn item(&self, base: &str) -> Result<Value, TaskError> {
        let ring = outline(self.fine, 0.0)?;
        let asset = |name: &str, grid: &Grid, data_type: &str| {
            json!({
                "href": format!("{base}/{name}.tif"),
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                "gsd": grid.pixel_width,
                "data_type": data_type,
                "nodata": 0,
                "proj:code": code(&grid.crs),
                "proj:shape": [grid.height, grid.width],
                "proj:transform": [grid.pixel_width, 0.0, grid.left, 0.0, -grid.pixel_height, grid.top],
            })
        };
        let mut assets = serde_json::Map::new();
        for band in self.bands {
            let (name, gsd) = BANDS[*band];
            assets.insert(name.into(), asset(name, if gsd == 10 { self.fine } else { self.coarse }, "uint16"));
        }
        assets.insert("SCL".into(), asset("SCL", self.coarse, "uint8"));
        let shares = self.shares;
        Ok(json!({
            "type": "Feature",
            "stac_version": "1.1.0",
            "stac_extensions": [
                "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
                "https://stac-extensions.github.io/eo/v2.0.0/schema.json",
            ],
            "id": self.id,
            "collection": COLLECTION,
            "geometry": { "type": "Polygon", "coordinates": [ring] },
            "bbox": bbox(&ring),
            "properties": {
                "datetime": self.datetime,
                "platform": "sentinel-2a",
                "constellation": "sentinel-2",
                "instruments": ["msi"],
                "eo:cloud_cover": percent(shares.cloud, shares.valid),
                "s2:nodata_pixel_percentage": percent(shares.empty, shares.valid + shares.empty),
                "s2:processing_baseline": self.baseline,
                "s2:datatake_id": self.datatake,
                "s2:mgrs_tile": self.tile,
                "x:synthetic": true,
            },
            "links": [],
            "assets": assets,
        }))
    }
}

fn code(crs: &Crs) -> Value {
    crs.epsg().map_or(Value::Null, |epsg| format!("EPSG:{epsg}").into())
}

/// Writes an item with its links, for the static catalogue.
pub(crate) fn write_item(scene: &Scene<'_>, folder: &Path) -> Result<(), TaskError> {
    let mut item = scene.item(".")?;
    item["links"] = json!([
        { "rel": "root", "href": "../../catalog.json", "type": "application/json" },
        { "rel": "parent", "href": "../collection.json", "type": "application/json" },
        { "rel": "collection", "href": "../collection.json", "type": "application/json" },
    ]);
    write(&folder.join(format!("{}.json", scene.id)), &item)
}

/// Writes `catalog.json`, `collection.json` and `items.json`.
pub(crate) fn write_catalogue(folder: &Path, about: &str, scenes: &[Scene<'_>]) -> Result<(), TaskError> {
    let mut items = Vec::new();
    for scene in scenes {
        items.push(scene.item(&format!("./{COLLECTION}/{}", scene.id))?);
    }
    let boxes: Vec<[f64; 4]> =
        items.iter().filter_map(|item| serde_json::from_value(item["bbox"].clone()).ok()).collect();
    let around = boxes.iter().fold([f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY], |b, c| {
        [b[0].min(c[0]), b[1].min(c[1]), b[2].max(c[2]), b[3].max(c[3])]
    });
    let times = || scenes.iter().map(|scene| scene.datetime.as_str());
    let links = scenes.iter().map(
        |scene| json!({ "rel": "item", "href": format!("./{0}/{0}.json", scene.id), "type": "application/geo+json" }),
    );
    let mut collection_links = vec![
        json!({ "rel": "root", "href": "../catalog.json", "type": "application/json" }),
        json!({ "rel": "parent", "href": "../catalog.json", "type": "application/json" }),
    ];
    collection_links.extend(links);
    let collection = json!({
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": COLLECTION,
        "title": "Synthetic scenes in the form of Sentinel-2 L2A",
        "description": about,
        "license": "CC0-1.0",
        "extent": {
            "spatial": { "bbox": [around] },
            "temporal": { "interval": [[times().min(), times().max()]] },
        },
        "links": collection_links,
    });
    write(&folder.join(COLLECTION).join("collection.json"), &collection)?;
    let catalogue = json!({
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": "swath-sample",
        "title": "Synthetic scenes with a known truth",
        "description": about,
        "links": [
            { "rel": "root", "href": "./catalog.json", "type": "application/json" },
            { "rel": "child", "href": format!("./{COLLECTION}/collection.json"), "type": "application/json" },
        ],
    });
    write(&folder.join("catalog.json"), &catalogue)?;
    write(&folder.join("items.json"), &json!({ "type": "FeatureCollection", "features": items }))
}

/// Writes the area all dates look at: the world, less a margin.
pub(crate) fn write_area(path: &Path, world: &Grid) -> Result<(), TaskError> {
    let ring = outline(world, 2.0 * world.pixel_width)?;
    let geometry = json!({ "type": "Polygon", "coordinates": [ring] });
    write(path, &features(vec![json!({ "type": "Feature", "properties": {}, "geometry": geometry })]))
}

/// Writes the planted sites.
pub(crate) fn write_sites(path: &Path, crs: &Crs, sites: &[Site]) -> Result<(), TaskError> {
    let mut found = Vec::new();
    for (number, site) in sites.iter().enumerate() {
        let (mut xs, mut ys): (Vec<f64>, Vec<f64>) = site.outline(64).into_iter().unzip();
        let ring = to_degrees(crs, &mut xs, &mut ys)?;
        found.push(json!({
            "type": "Feature",
            "id": format!("site-{:04}", number + 1),
            "geometry": { "type": "Polygon", "coordinates": [ring] },
            "properties": { "class": "water", "area_m2": site.area().round() },
        }));
    }
    write(path, &features(found))
}

fn features(list: Vec<Value>) -> Value {
    json!({ "type": "FeatureCollection", "features": list })
}

/// Writes a document.
pub(crate) fn write(path: &Path, document: &Value) -> Result<(), TaskError> {
    let mut text = serde_json::to_string_pretty(document).unwrap_or_default();
    text.push('\n');
    std::fs::write(path, text).map_err(|error| write_fault(path, &error))
}
