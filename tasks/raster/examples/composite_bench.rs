//! Times `raster.composite` on a STAC item collection, for the benchmarks: `composite_bench ITEMS.json OUT.tif [THREADS]`.

use std::time::Instant;

use serde_json::{Value, json};
use swath_kinds::SceneList;
use swath_raster::Composite;
use swath_task::Task;
use swath_task::local::LocalHost;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, items, out, rest @ ..] = arguments.as_slice() else {
        return Err("composite_bench ITEMS.json OUT.tif [THREADS] [PARAMETERS]".into());
    };
    let threads = rest.first().map_or(Ok(2), |text| text.parse())?;
    let folder = tempfile::tempdir_in(std::path::Path::new(out).parent().ok_or("OUT.tif has no folder")?)?;
    let collection: Value = serde_json::from_str(&std::fs::read_to_string(items)?)?;
    let scenes: Vec<Value> = collection["features"].as_array().into_iter().flatten().map(scene).collect();
    let list = folder.path().join("scenes.json");
    std::fs::write(&list, json!({ "signing": "none", "scenes": scenes }).to_string())?;
    let host = LocalHost::new(folder.path().join("host"))?;
    let scenes = host.import::<SceneList>(&list)?;
    let mut params = json!({ "bands": ["B02", "B03", "B04", "B08", "B11", "B12"] });
    if let Some(more) = rest.get(1) {
        let more: Value = serde_json::from_str(more)?;
        params
            .as_object_mut()
            .into_iter()
            .flat_map(|p| more.as_object().map(|m| (p, m.clone())))
            .for_each(|(p, m)| p.extend(m));
    }
    let task: Composite = serde_json::from_value(params)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let start = Instant::now();
    let inputs = serde_json::from_value(json!({ "scenes": scenes }))?;
    let outputs = runtime.block_on(task.run(inputs, &host.context(threads)))?;
    let wall = start.elapsed().as_secs_f64();
    std::fs::rename(host.path(outputs.raster.record()), out)?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(str::trim).unwrap_or_default();
    println!(
        "{}",
        json!({ "wall_s": wall, "peak": peak, "clear_share": outputs.clear_share, "bytes": outputs.raster.record().size })
    );
    Ok(())
}

/// What the composite needs of a STAC item.
fn scene(item: &Value) -> Value {
    let assets: serde_json::Map<String, Value> = item["assets"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, asset)| {
            let mut kept = json!({ "href": asset["href"] });
            for name in ["scale", "offset"] {
                if let Some(value) = asset["raster:bands"][0][name].as_f64() {
                    kept[name] = value.into();
                }
            }
            (key.clone(), kept)
        })
        .collect();
    json!({
        "id": item["id"], "datetime": item["properties"]["datetime"], "collection": item["collection"],
        "bbox": item["bbox"], "processing_baseline": item["properties"]["s2:processing_baseline"], "assets": assets,
    })
}
