//! `raster.item`: the STAC item of a raster, so that a catalogue can hold what a flow has made.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use swath_geo::{BandInfo, Crs, DataType, Grid, Raster, Transform};
use swath_kinds::{Cog, ModelManifest, Normalisation, OutputActivation, SceneList, Scenes, StacItem};
use swath_task::{Artifact, Bytes, Context, Draft, Fault, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::faults::{content_fault, geo_fault};

/// Points a side by which the outline of a raster is projected.
const POINTS_A_SIDE: usize = 16;

/// Writes the STAC 1.1 item of a raster: footprint, grid, bands, the scenes it was derived from and the model that made
/// it.
///
/// Extensions: projection, raster, processing, and mlm when a model is given: the model is an asset of its own then. Made an
/// output of the flow like the raster, the item lies beside it; put into a catalogue, it is what another `stac.search`
/// finds. Times are those of the scenes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Address of the raster as the item tells it, relative to where the item will lie: `./composite.tif` when the output
    /// of the flow that holds the raster is called `composite`.
    pub href: String,
    /// Id of the item. Default: the name of the raster and the first digits of its digest.
    #[serde(default)]
    pub id: Option<String>,
    /// Collection the item will be put into.
    #[serde(default)]
    pub collection: Option<String>,
    /// Folder of the model that made the raster: its manifest is told by the mlm extension.
    #[serde(default)]
    pub model: Option<LocalPath>,
}

/// What the item tells of.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Inputs {
    /// The raster.
    pub raster: Artifact<Cog>,
    /// The scenes it was made from, for time and lineage.
    pub scenes: Artifact<SceneList>,
}

/// The item.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// A STAC item (GeoJSON feature).
    pub item: Artifact<StacItem>,
}

impl Task for Item {
    const NAME: &'static str = "raster.item";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if self.href.trim().is_empty() {
            problems.push(Problem::new("/href", "it is empty: the raster lies somewhere"));
        }
        for (place, given) in [("/id", &self.id), ("/collection", &self.collection)] {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if given.as_ref().is_some_and(|given| given.is_empty() || !given.chars().all(plain)) {
                problems.push(Problem::new(place, "ids in a catalogue are of letters, digits, `-`, `_` and `.`"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::new(0.5, Bytes::mib(64))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let raster = ctx.locate(&inputs.raster).await?;
        let scenes = ctx.locate(&inputs.scenes).await?;
        let record = inputs.raster.record();
        let stem = record.name.split('.').next().unwrap_or_default().to_owned();
        let id = self.id.clone().unwrap_or_else(|| format!("{stem}-{}", &record.digest.hex()[..12]));
        let draft: Draft<StacItem> = ctx.draft(&format!("{stem}.json"))?;
        let (task, out) = (self.clone(), draft.path().to_owned());
        ctx.blocking(move |_| {
            let item = task.document(&raster, &scenes, &id, &stem)?;
            let text = serde_json::to_string_pretty(&item).map_err(|error| content_fault("the item", error))?;
            std::fs::write(&out, text).map_err(|error| {
                Fault::new("E201", format!("cannot write `{}`: {error}", out.display())).transient(None)
            })
        })
        .await?;
        Ok(Outputs { item: draft.commit().await? })
    }
}

impl Item {
    /// The item of a raster, whose asset is called `key`.
    fn document(&self, raster: &Path, scenes: &Path, id: &str, key: &str) -> Result<Value, TaskError> {
        let raster = Raster::open_path(raster).map_err(geo_fault)?;
        let grid = raster.grid().map_err(geo_fault)?;
        let scenes = std::fs::read(scenes).map_err(|error| content_fault("the list of scenes", error))?;
        let scenes: Scenes =
            serde_json::from_slice(&scenes).map_err(|error| content_fault("the list of scenes", error))?;
        let (geometry, bbox) = footprint(&grid)?;
        let mut extensions = vec![
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
            "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
        ];
        let mut properties = times(&scenes);
        properties.insert("processing:software".into(), json!({ "swath": env!("CARGO_PKG_VERSION") }));
        let made_of: Vec<&str> = scenes.scenes.iter().map(|scene| scene.id.as_str()).collect();
        let mut lineage = format!("from scenes {}", made_of.join(", "));
        let mut model_asset = None;
        if let Some(folder) = &self.model {
            let model = ModelManifest::of_folder(&folder.0)?;
            lineage += &format!(", by model {} version {} ({})", model.name, model.version, model.digest);
            extensions.push("https://stac-extensions.github.io/mlm/v1.4.0/schema.json");
            properties.extend(mlm(&model));
            model_asset = Some(json!({
                "href": folder.0.join(&model.file).to_string_lossy(),
                "type": "application/octet-stream; framework=onnx",
                "title": model.about,
                "roles": ["mlm:model"],
                "mlm:artifact_type": "onnx",
            }));
        }
        properties.insert("processing:lineage".into(), lineage.into());
        let derived_from = scenes.scenes.iter().filter_map(|scene| {
            let href = scene.href.as_ref()?;
            Some(json!({ "rel": "derived_from", "href": href, "type": "application/geo+json", "title": scene.id }))
        });
        let bounds = grid.bounds();
        let mut item = json!({
            "type": "Feature",
            "stac_version": "1.1.0",
            "stac_extensions": extensions,
            "id": id,
            "geometry": geometry,
            "bbox": bbox,
            "properties": properties,
            "links": derived_from.collect::<Vec<_>>(),
            "assets": { key: {
                "href": self.href,
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
                "gsd": grid.metres().0,
                "proj:code": grid.crs.epsg().map(|code| format!("EPSG:{code}")),
                "proj:shape": [grid.height, grid.width],
                "proj:transform": [grid.pixel_width, 0.0, grid.left, 0.0, -grid.pixel_height, grid.top],
                "raster:spatial_resolution": grid.metres().0,
                "proj:bbox": [bounds.left, bounds.bottom, bounds.right, bounds.top],
                "bands": raster.info().bands.iter().map(band).collect::<Vec<_>>(),
            }},
        });
        if grid.crs.epsg().is_none() {
            item["assets"][key]["proj:wkt2"] = grid.crs.wkt().into();
        }
        if let Some(asset) = model_asset {
            item["assets"]["model"] = asset;
        }
        if let Some(collection) = &self.collection {
            item["collection"] = collection.as_str().into();
        }
        Ok(item)
    }
}

/// `datetime` of one scene, the span of several.
fn times(scenes: &Scenes) -> Map<String, Value> {
    let times = || scenes.scenes.iter().map(|scene| scene.datetime.as_str());
    let mut properties = Map::new();
    match (times().min(), times().max()) {
        (Some(first), Some(last)) if first != last => {
            properties.insert("datetime".into(), Value::Null);
            properties.insert("start_datetime".into(), first.into());
            properties.insert("end_datetime".into(), last.into());
        }
        (first, _) => {
            properties.insert("datetime".into(), first.into());
        }
    }
    properties
}

fn band(info: &BandInfo) -> Value {
    let mut band = json!({ "name": info.name, "data_type": data_type(info.data_type) });
    if let Some(nodata) = info.nodata {
        // JSON has no NaN; STAC writes it as a word.
        band["nodata"] = if nodata.is_nan() { "nan".into() } else { nodata.into() };
    }
    if !info.unit.is_empty() {
        band["unit"] = info.unit.as_str().into();
    }
    if (info.scale, info.offset) != (1.0, 0.0) {
        band["raster:scale"] = info.scale.into();
        band["raster:offset"] = info.offset.into();
    }
    band
}

fn data_type(of: DataType) -> &'static str {
    match of {
        DataType::U8 => "uint8",
        DataType::U16 => "uint16",
        DataType::I16 => "int16",
        DataType::U32 => "uint32",
        DataType::I32 => "int32",
        DataType::F32 => "float32",
        DataType::F64 => "float64",
    }
}

/// The outline of a grid as RFC 7946 wants it, and its box: west, south, east, north.
fn footprint(grid: &Grid) -> Result<(Value, [f64; 4]), TaskError> {
    let bounds = grid.bounds();
    let corners = [
        (bounds.left, bounds.bottom),
        (bounds.right, bounds.bottom),
        (bounds.right, bounds.top),
        (bounds.left, bounds.top),
        (bounds.left, bounds.bottom),
    ];
    let (mut xs, mut ys) = (Vec::new(), Vec::new());
    for side in corners.windows(2) {
        for point in 0..POINTS_A_SIDE {
            let share = point as f64 / POINTS_A_SIDE as f64;
            xs.push(side[0].0 + (side[1].0 - side[0].0) * share);
            ys.push(side[0].1 + (side[1].1 - side[0].1) * share);
        }
    }
    let to_degrees = Transform::new(&grid.crs, &Crs::wgs84().map_err(geo_fault)?).map_err(geo_fault)?;
    to_degrees.points(&mut xs, &mut ys).map_err(geo_fault)?;
    let around = |xs: &[f64]| xs.iter().fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
    let (west, east) = around(&xs);
    let crosses = east - west > 180.0;
    if crosses {
        xs.iter_mut().filter(|x| **x < 0.0).for_each(|x| *x += 360.0);
    }
    let ring: Vec<[f64; 2]> = xs.iter().zip(&ys).map(|(x, y)| [*x, *y]).collect();
    let ((west, east), (south, north)) = (around(&xs), around(&ys));
    if !crosses {
        return Ok((
            json!({ "type": "Polygon", "coordinates": [closed(&ring, 0.0)] }),
            [rounded(west), rounded(south), rounded(east), rounded(north)],
        ));
    }
    let parts = [closed(&side_of_antimeridian(&ring, 1.0), 0.0), closed(&side_of_antimeridian(&ring, -1.0), 360.0)];
    Ok((
        json!({ "type": "MultiPolygon", "coordinates": [[parts[0]], [parts[1]]] }),
        [rounded(west), rounded(south), rounded(east - 360.0), rounded(north)],
    ))
}

/// The part of a ring, with longitudes on to 360, that lies west (1) or east (-1) of the antimeridian. The ring meets it
/// twice, as the outline of a box does.
fn side_of_antimeridian(ring: &[[f64; 2]], side: f64) -> Vec<[f64; 2]> {
    let inside = |x: f64| (180.0 - x) * side >= 0.0;
    let mut part = Vec::new();
    for (at, &[x, y]) in ring.iter().enumerate() {
        let [next_x, next_y] = ring[(at + 1) % ring.len()];
        if inside(x) {
            part.push([x, y]);
        }
        if inside(x) != inside(next_x) {
            part.push([180.0, y + (next_y - y) * (180.0 - x) / (next_x - x)]);
        }
    }
    part
}

/// A ring that ends where it begins, `east` degrees to the west of where it was, to a centimetre.
fn closed(ring: &[[f64; 2]], east: f64) -> Vec<[f64; 2]> {
    ring.iter().chain(ring.first()).map(|[x, y]| [rounded(x - east), rounded(*y)]).collect()
}

fn rounded(degrees: f64) -> f64 {
    (degrees * 1e7).round() / 1e7
}

/// The number as it was written: 0.1, not the nearest of 32 bits in 64.
fn short(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(value.into())
}

/// What the mlm extension asks for, as far as the manifest tells it.
fn mlm(model: &ModelManifest) -> Map<String, Value> {
    let tile = model.tile.size;
    let tensor = |channels: u32| {
        json!({
            "shape": [-1, channels, tile, tile],
            "dim_order": ["batch", "channel", "height", "width"],
            "data_type": "float32",
        })
    };
    let scaling: Option<Vec<Value>> = match &model.normalisation {
        Normalisation::None { .. } => None,
        Normalisation::Standard { mean, std, .. } => Some(
            mean.iter()
                .zip(std)
                .map(|(mean, std)| json!({ "type": "z-score", "mean": short(*mean), "stddev": short(*std) }))
                .collect(),
        ),
        Normalisation::Stretch { low, high, .. } => Some(
            low.iter()
                .zip(high)
                .map(|(low, high)| json!({ "type": "min-max", "minimum": short(*low), "maximum": short(*high) }))
                .collect(),
        ),
    };
    // One class is what is 1 against a background of 0; of several, each is a channel.
    let first = usize::from(model.classes.len() == 1);
    let classes = model.classes.iter().enumerate().map(|(at, name)| json!({ "value": first + at, "name": name }));
    let bands = || model.bands.iter().map(|band| band.name.as_str());
    let values = match model.activation {
        OutputActivation::Logits => "logits; the raster holds their sigmoid",
        OutputActivation::ClassLogits => "logits of classes; the raster holds their softmax",
        OutputActivation::Probability => "probabilities",
    };
    let properties = json!({
        "bands": bands().map(|name| json!({ "name": name })).collect::<Vec<_>>(),
        "mlm:name": model.name,
        "mlm:architecture": model.architecture.as_deref().unwrap_or("unknown"),
        "mlm:framework": "ONNX",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:input": [{
            "name": model.input.name,
            "bands": bands().collect::<Vec<_>>(),
            "input": tensor(model.input.channels),
            "value_scaling": scaling,
            "description": model.about,
        }],
        "mlm:output": [{
            "name": model.output.name,
            "tasks": ["semantic-segmentation"],
            "result": tensor(model.output.channels),
            "classification:classes": classes.collect::<Vec<_>>(),
            "description": values,
        }],
    });
    match properties {
        Value::Object(properties) => properties,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(epsg: u32, left: f64, top: f64) -> Grid {
        let crs = Crs::from_epsg(epsg).unwrap();
        Grid { crs, left, top, pixel_width: 10.0, pixel_height: 10.0, width: 5000, height: 2000 }
    }

    #[test]
    fn a_footprint_is_counter_clockwise_closed_and_in_degrees() {
        let (geometry, bbox) = footprint(&grid(32633, 330_000.0, 5_822_040.0)).unwrap();
        let ring: Vec<[f64; 2]> = serde_json::from_value(geometry["coordinates"][0].clone()).unwrap();
        assert_eq!(ring.first(), ring.last());
        let twice_area: f64 = ring.windows(2).map(|p| p[0][0] * p[1][1] - p[1][0] * p[0][1]).sum();
        assert!(twice_area > 0.0, "{twice_area}");
        // pyproj 3.7.2, sixteen points a side.
        for (got, wanted) in bbox.iter().zip([12.494_241_1, 52.342_275_6, 13.237_955_2, 52.535_216_5]) {
            assert!((got - wanted).abs() < 1e-6, "{bbox:?}");
        }
    }

    #[test]
    fn a_footprint_over_the_antimeridian_is_cut_there() {
        let (geometry, [west, _, east, _]) = footprint(&grid(32601, 150_000.0, 100_000.0)).unwrap();
        assert!(west > 179.0 && east < -179.0, "{west} {east}");
        let parts: Vec<Vec<Vec<[f64; 2]>>> = serde_json::from_value(geometry["coordinates"].clone()).unwrap();
        assert_eq!(parts.len(), 2);
        let within =
            |part: &[Vec<[f64; 2]>], low: f64, high: f64| part[0].iter().all(|[x, _]| (low..=high).contains(x));
        assert!(within(&parts[0], 179.0, 180.0) && within(&parts[1], -180.0, -179.0), "{parts:?}");
        assert!(parts.iter().all(|part| part[0].len() > 4 && part[0].first() == part[0].last()));
    }

    #[test]
    fn the_shipped_model_is_told_by_mlm() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../model_repository/water_unet");
        let told = mlm(&ModelManifest::of_folder(Path::new(folder)).unwrap());
        // What the schema of mlm 1.4 requires.
        for required in ["mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"] {
            assert!(told.contains_key(required), "{required}");
        }
        assert_eq!(told["mlm:architecture"], "U-Net with a small encoder");
        let text = std::fs::read(Path::new(folder).join("manifest.json")).unwrap();
        let normalisation = &serde_json::from_slice::<Value>(&text).unwrap()["normalisation"];
        let scaling = told["mlm:input"][0]["value_scaling"].as_array().unwrap();
        assert_eq!(scaling.len(), 7);
        let first = json!({ "type": "z-score", "mean": normalisation["mean"][0], "stddev": normalisation["std"][0] });
        assert_eq!(scaling[0], first);
        assert_eq!(told["mlm:output"][0]["classification:classes"][0]["name"], "water");
        let fault = ModelManifest::of_folder(Path::new("/nowhere")).unwrap_err();
        assert_eq!(fault.code, "M101");
    }
}
