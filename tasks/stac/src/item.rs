//! From a STAC item of any version to a scene: bands, radiometry and grid of each raster, hrefs absolute.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use serde_json::{Map, Value};
use stac::{Asset, Bbox, Item};
use swath_access::{is_signed, redact, signs_anew, unsigned};
use swath_kinds::{Scene, SceneAsset, Signing};
use swath_task::{Fault, TaskError};

use crate::href::{is_address, resolve};
use crate::twins::{Identity, identify};

/// An item, reduced to its scene and to what conditions are asked of.
pub(crate) struct Candidate {
    pub scene: Scene,
    pub identity: Identity,
    pub start: Timestamp,
    pub end: Timestamp,
    /// When it entered the catalogue, if it tells.
    pub published: Option<Timestamp>,
    pub properties: Map<String, Value>,
    /// Hosts its links lead to: tells whose catalogue a copied item came from.
    pub from_planetary_computer: bool,
}

/// Which assets of an item become part of its scene.
#[derive(Clone, Debug, Default)]
pub(crate) struct Choice {
    /// Asset keys; empty: every raster.
    pub assets: Vec<String>,
    /// Name of the alternate href to use where an asset has it.
    pub alternate: Option<String>,
}

/// Reads an item that stands in `document`. An item on a page or in a collection file (`embedded`) has its own
/// address in its `self` link.
pub(crate) fn read(mut value: Value, document: &str, embedded: bool, choice: &Choice) -> Result<Candidate, TaskError> {
    let id = value["id"].as_str().unwrap_or_default().to_owned();
    let broken = |why: String| {
        let name = if id.is_empty() { "an item without id".to_owned() } else { format!("the item `{id}`") };
        let message = format!("{name} in `{}` cannot be used: {why}", redact(document));
        Fault::new("S121", message).help("the catalogue is at fault: leave the item out or have it mended")
    };
    if id.is_empty() {
        return Err(broken("it has no `id`".into()).permanent());
    }
    if value["type"] != "Feature" {
        return Err(broken(format!("its `type` is {}, not `Feature`", value["type"])).permanent());
    }
    let without_href = prune(&mut value).map_err(|why| broken(why).permanent())?;
    let geometry = value.get("geometry").filter(|geometry| !geometry.is_null()).cloned();
    let mut item: Item = serde_json::from_value(value).map_err(|error| broken(error.to_string()).permanent())?;
    if !without_href.is_empty() {
        tracing::warn!(item = id, assets = ?without_href, "assets without `href` are left out");
    }

    let own = item.links.iter().find(|link| link.rel == "self").and_then(|link| resolve(document, &link.href));
    let base = if embedded { own.clone().unwrap_or_else(|| document.to_owned()) } else { document.to_owned() };
    let from_planetary_computer =
        item.links.iter().any(|link| url::Url::parse(&link.href).is_ok_and(|url| is_planetary_computer(&url)));

    let (start, end) = times(&item).map_err(|why| broken(why).permanent())?;
    let datetime = item.properties.datetime.map(|at| (at.timestamp(), at.timestamp_subsec_nanos()));
    let datetime = datetime.and_then(|(s, n)| Timestamp::new(s, n.cast_signed()).ok()).unwrap_or(start);
    let identity = identify(&item);

    let mut assets = BTreeMap::new();
    for (key, asset) in std::mem::take(&mut item.assets) {
        let wanted = if choice.assets.is_empty() { is_raster(&asset) } else { choice.assets.contains(&key) };
        if !wanted {
            continue;
        }
        let href = choice.alternate.as_deref().and_then(|name| alternate(&asset, name)).unwrap_or(&asset.href);
        let Some(href) = resolve(&base, href) else {
            let href = redact(href);
            return Err(broken(format!("the href `{href}` of its asset `{key}` leads nowhere")).permanent());
        };
        let scene_asset = scene_asset(&asset, &item.properties.additional_fields, href);
        assets.insert(key, scene_asset);
    }

    let created = item.properties.created.take();
    let properties = item.properties.additional_fields;
    let published = properties.get("published").and_then(Value::as_str).map(str::to_owned).or(created);
    let published = published.and_then(|text| text.parse().ok());
    let number = |name: &str| properties.get(name).and_then(Value::as_f64);
    let scene = Scene {
        id: item.id,
        collection: item.collection,
        datetime: datetime.to_string(),
        geometry,
        bbox: item.bbox.map(flat),
        cloud_cover: number("eo:cloud_cover").or_else(|| number("s2:cloud_cover")),
        processing_baseline: identity.baseline.clone(),
        offset_applied: properties.get("earthsearch:boa_offset_applied").and_then(Value::as_bool).unwrap_or(false),
        tile: identity.tile.clone(),
        href: Some(own.filter(|_| embedded).unwrap_or(base)),
        assets,
    };
    Ok(Candidate { scene, identity, start, end, published, properties, from_planetary_computer })
}

/// Whether an address belongs to Planetary Computer.
pub(crate) fn is_planetary_computer(url: &url::Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "planetarycomputer.microsoft.com" || host.ends_with(".planetarycomputer.microsoft.com")
    })
}

/// Takes out what the `stac` crate would refuse an item for and nobody needs. Returns the assets without href.
fn prune(value: &mut Value) -> Result<Vec<String>, String> {
    if let Some(bbox) = value.get("bbox").filter(|bbox| !bbox.is_null()) {
        let numbers = bbox.as_array().filter(|all| all.iter().all(Value::is_number)).map(Vec::len);
        if !matches!(numbers, Some(4 | 6)) {
            return Err(format!("its `bbox` is not four or six numbers: {bbox}"));
        }
    }
    let Some(members) = value.as_object_mut() else { return Err("it is not an object".into()) };
    if let Some(Value::Array(links)) = members.get_mut("links") {
        links.retain(|link| link["href"].is_string() && link["rel"].is_string());
        for link in links {
            if let Some(link) = link.as_object_mut() {
                link.retain(|name, _| matches!(name.as_str(), "href" | "rel"));
            }
        }
    }
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        for name in ["title", "description", "created", "updated"] {
            if properties.get(name).is_some_and(|text| !text.is_string()) {
                properties.remove(name);
            }
        }
    }
    let mut lost = Vec::new();
    if let Some(Value::Object(assets)) = members.get_mut("assets") {
        assets.retain(|key, asset| {
            let usable = asset["href"].as_str().is_some_and(|href| !href.trim().is_empty());
            if !usable {
                lost.push(key.clone());
            }
            usable
        });
        for asset in assets.values_mut().filter_map(Value::as_object_mut) {
            prune_band(asset);
            asset.retain(|name, value| match name.as_str() {
                "title" | "description" | "type" => value.is_string(),
                "roles" => value.as_array().is_some_and(|roles| roles.iter().all(Value::is_string)),
                "bands" => value.is_array(),
                _ => true,
            });
            if let Some(Value::Array(bands)) = asset.get_mut("bands") {
                bands.iter_mut().filter_map(Value::as_object_mut).for_each(prune_band);
            }
        }
    }
    Ok(lost)
}

/// No-data may be text (`nan`), which no JSON number says: the file tells it then.
fn prune_band(band: &mut Map<String, Value>) {
    band.retain(|name, value| match name.as_str() {
        "nodata" => value.is_number(),
        "name" => value.is_string(),
        "data_type" | "statistics" | "unit" | "created" | "updated" => false,
        _ => true,
    });
}

fn times(item: &Item) -> Result<(Timestamp, Timestamp), String> {
    let properties = &item.properties;
    let start = properties.start_datetime.or(properties.datetime);
    let end = properties.end_datetime.or(properties.datetime).or(start);
    let (Some(start), Some(end)) = (start, end) else {
        return Err("it has neither `datetime` nor `start_datetime`".into());
    };
    let instant = |seconds: i64, nanoseconds: u32| {
        Timestamp::new(seconds, nanoseconds.cast_signed()).map_err(|error| format!("its time is out of range: {error}"))
    };
    Ok((
        instant(start.timestamp(), start.timestamp_subsec_nanos())?,
        instant(end.timestamp(), end.timestamp_subsec_nanos())?,
    ))
}

fn flat(bbox: Bbox) -> [f64; 4] {
    match bbox {
        Bbox::TwoDimensional(numbers) => numbers,
        Bbox::ThreeDimensional([west, south, _, east, north, _]) => [west, south, east, north],
    }
}

/// By media type; by file name where none is given.
fn is_raster(asset: &Asset) -> bool {
    const RASTERS: &[&str] =
        &["image/tiff", "image/vnd.stac.geotiff", "image/jp2", "image/geotiff", "application/x-hdf"];
    const FILES: &[&str] = &["tif", "tiff", "jp2", "vrt", "nc", "h5", "hdf", "img"];
    const OTHERS: &[&str] = &["application/x-netcdf", "application/netcdf"];
    let pictures = ["thumbnail", "overview"];
    if asset.roles.iter().any(|role| pictures.contains(&role.as_str())) {
        return false;
    }
    if let Some(media) = &asset.r#type {
        let media = media.to_ascii_lowercase();
        return RASTERS.iter().chain(OTHERS).any(|raster| media.starts_with(raster));
    }
    let path = asset.href.split(['?', '#']).next().unwrap_or_default();
    path.rsplit_once('.').is_some_and(|(_, end)| FILES.contains(&end.to_ascii_lowercase().as_str()))
}

/// The href of an alternate location (alternate-assets extension).
fn alternate<'a>(asset: &'a Asset, name: &str) -> Option<&'a str> {
    asset.additional_fields.get("alternate")?.get(name)?.get("href")?.as_str()
}

fn scene_asset(asset: &Asset, item: &Map<String, Value>, href: String) -> SceneAsset {
    let own = &asset.additional_fields;
    let list = |name: &str| own.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (eo_bands, raster_bands) = (list("eo:bands"), list("raster:bands"));

    // STAC 1.1 has one list, STAC 1.0 one an extension; an asset of one band may say it without a list.
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let mut bands: Vec<String> = if asset.bands.is_empty() {
        let name = |band: &Value| text(band.get("common_name")).or_else(|| text(band.get("name")));
        eo_bands.iter().map(|band| name(band).unwrap_or_default()).collect()
    } else {
        let name = |band: &stac::Band| text(band.additional_fields.get("eo:common_name")).or_else(|| band.name.clone());
        asset.bands.iter().map(|band| name(band).unwrap_or_default()).collect()
    };
    if bands.is_empty() {
        bands.extend(text(own.get("eo:common_name")));
    }
    if bands.iter().all(String::is_empty) {
        bands.clear();
    }

    // A number that holds for the whole file: said once, or the same for each band.
    let number = |newer: &str, older: &str| {
        let per_band = |values: Vec<Option<f64>>| match values.split_first() {
            Some((first, rest)) if rest.iter().all(|value| value == first) => *first,
            _ => None,
        };
        own.get(newer)
            .and_then(Value::as_f64)
            .or_else(|| {
                let of = |band: &stac::Band| band.additional_fields.get(newer).and_then(Value::as_f64);
                per_band(asset.bands.iter().map(of).collect())
            })
            .or_else(|| per_band(raster_bands.iter().map(|band| band.get(older).and_then(Value::as_f64)).collect()))
    };
    let nodata = asset.nodata.or_else(|| {
        let same = |values: Vec<Option<f64>>| {
            values.first().copied().flatten().filter(|first| values.iter().all(|v| *v == Some(*first)))
        };
        same(asset.bands.iter().map(|band| band.nodata).collect())
            .or_else(|| same(raster_bands.iter().map(|band| band.get("nodata").and_then(Value::as_f64)).collect()))
    });

    let code = |fields: &Map<String, Value>| {
        text(fields.get("proj:code"))
            .or_else(|| fields.get("proj:epsg").and_then(Value::as_u64).map(|code| format!("EPSG:{code}")))
    };
    // The grid is one thing: its shape and transform come from the same place.
    let grid = [own, item]
        .into_iter()
        .find(|fields| fields.contains_key("proj:transform") || fields.contains_key("proj:shape"));
    let numbers = |name: &str| -> Option<Vec<f64>> { grid?.get(name)?.as_array()?.iter().map(Value::as_f64).collect() };
    let transform =
        numbers("proj:transform").filter(|t| matches!(t.len(), 6 | 9)).and_then(|t| <[f64; 6]>::try_from(&t[..6]).ok());
    let shape = numbers("proj:shape")
        .filter(|shape| shape.len() == 2 && shape.iter().all(|n| *n >= 1.0 && n.fract() == 0.0))
        .map(|shape| [shape[0] as u64, shape[1] as u64]);
    SceneAsset {
        media_type: asset.r#type.clone(),
        bands,
        scale: number("raster:scale", "scale"),
        offset: number("raster:offset", "offset"),
        nodata,
        crs: code(own).or_else(|| code(item)),
        transform,
        shape,
        size: None,
        modified: None,
        href,
    }
}

/// Hrefs are stored unsigned. S132: an asset's carries a signature that nobody could renew.
pub(crate) fn take_signatures_off(scene: &mut Scene, signing: &Signing) -> Result<(), TaskError> {
    // Nothing is read from the item's own address any more: it is lineage.
    scene.href = scene.href.take().map(|href| unsigned(&href));
    for (key, asset) in &mut scene.assets {
        let local = !is_address(&asset.href) && !asset.href.starts_with("/vsi");
        if local || !is_signed(&asset.href) {
            continue;
        }
        if !signs_anew(signing, &asset.href) {
            let message = format!(
                "the asset `{key}` of `{}` is a link that is signed already, `{}`: its signature would be stored, and \
                 could not be renewed",
                scene.id,
                redact(&asset.href)
            );
            let azure = Signing::PlanetaryComputer { endpoint: String::new() };
            let help = match signs_anew(&azure, &asset.href) {
                true => {
                    "set `signing: planetary_computer`, if it lies there; else search a catalogue with unsigned links"
                }
                false => {
                    "search a catalogue with unsigned links, name unsigned `assets`, or bring a `signing` of your own"
                }
            };
            return Err(Fault::new("S132", message).help(help).permanent());
        }
        asset.href = unsigned(&asset.href);
    }
    Ok(())
}

/// Records size and time of local files, so that a changed file is another scene. S126: a file is missing.
pub(crate) fn look_at_files(scene: &mut Scene) -> Result<(), TaskError> {
    for (key, asset) in &mut scene.assets {
        if is_address(&asset.href) || asset.href.starts_with("/vsi") {
            continue;
        }
        let metadata = std::fs::metadata(&asset.href).map_err(|error| {
            let message = format!("the asset `{key}` of `{}` cannot be read: `{}`: {error}", scene.id, asset.href);
            Fault::new("S126", message).help("restore the file, or name the assets you need in `assets`").permanent()
        })?;
        asset.size = Some(metadata.len());
        // The later of both times: that of modification can be set back, that of change cannot.
        let nanoseconds = |seconds: i64, rest: i64| seconds.checked_mul(1_000_000_000)?.checked_add(rest);
        let written = nanoseconds(metadata.mtime(), metadata.mtime_nsec());
        let changed = nanoseconds(metadata.ctime(), metadata.ctime_nsec());
        asset.modified = written.max(changed).and_then(|at| u64::try_from(at).ok());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// JSON pointers of everything in `value`.
    fn pointers(value: &Value, here: &str, all: &mut Vec<String>) {
        all.push(here.to_owned());
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    pointers(member, &format!("{here}/{}", name.replace('~', "~0").replace('/', "~1")), all);
                }
            }
            Value::Array(items) => {
                items.iter().enumerate().take(2).for_each(|(i, item)| pointers(item, &format!("{here}/{i}"), all));
            }
            _ => {}
        }
    }

    #[test]
    fn whatever_stands_anywhere_in_an_item_gives_a_scene_or_s121() {
        let area = swath_kinds::BoundingBox::new(-152.0, 60.0, -150.0, 61.0).map(swath_kinds::Area::Box).unwrap();
        let area = crate::filter::Footprint::of(&area).unwrap();
        let (mut taken, mut refused) = (0, 0);
        for text in [
            include_str!("../tests/data/planetary-computer-s2-item.json"),
            include_str!("../tests/data/earth-search-s2-item.json"),
        ] {
            let mut item: Value = serde_json::from_str(text).unwrap();
            item["assets"].as_object_mut().unwrap().retain(|key, _| ["B02", "SCL", "overview"].contains(&key.as_str()));
            item["links"].as_array_mut().unwrap().truncate(2);
            let mut all = Vec::new();
            pointers(&item, "", &mut all);
            for pointer in all {
                let huge = serde_json::json!(1e300);
                let deep = serde_json::json!([[[[[{"a": [null]}]]]]]);
                for odd in [
                    Value::Null,
                    Value::from(-1),
                    huge,
                    Value::from(""),
                    Value::from("\u{0}é"),
                    Value::Array(vec![]),
                    deep,
                    Value::Object(Map::new()),
                    Value::Bool(true),
                ] {
                    let mut changed = item.clone();
                    *changed.pointer_mut(&pointer).unwrap() = odd;
                    match read(changed, "https://host/items/a.json", true, &Choice::default()) {
                        Ok(candidate) => {
                            let scene = candidate.scene;
                            area.meets(scene.geometry.as_ref(), scene.bbox);
                            serde_json::to_vec(&scene).unwrap();
                            taken += 1;
                        }
                        Err(TaskError::Permanent(fault)) if fault.code == "S121" => refused += 1,
                        Err(other) => panic!("{pointer}: {other}"),
                    }
                }
            }
        }
        assert!(taken > 500 && refused > 50, "{taken} taken, {refused} refused");
    }
}
