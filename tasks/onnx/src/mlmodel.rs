//! `MLmodel`: what MLflow's own client must know to load a published version, by
//! <https://mlflow.org/docs/latest/ml/model/#storage-format>.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use swath_kinds::ModelManifest;

use crate::folder::NETWORK;

/// Content of the file: `mlflow.onnx.load_model` and `mlflow.pyfunc.load_model` take the network that lies beside it. YAML, of
/// which JSON's values are part. The same manifest makes the same bytes.
pub(crate) fn mlmodel(manifest: &ModelManifest) -> String {
    let ModelManifest { input, output, tile, .. } = manifest;
    let side = if tile.multiple_of == 0 { i64::from(tile.size) } else { -1 };
    let inputs = tensor(&input.name, [i64::from(input.channels), side, side]);
    let outputs = tensor(&output.name, [i64::from(output.channels), -1, -1]);
    let fields = BTreeMap::from([
        (
            "flavors",
            json!({
                "onnx": { "data": NETWORK, "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"] },
                "python_function": { "data": NETWORK, "loader_module": "mlflow.onnx" },
            }),
        ),
        (
            "metadata",
            json!({
                "bands": manifest.bands.iter().map(|band| &band.name).collect::<Vec<_>>(),
                "classes": manifest.classes,
                "normalisation": manifest.normalisation,
                "swath": "pixels are normalised before they are given: manifest.json tells how",
            }),
        ),
        ("signature", json!({ "inputs": inputs, "outputs": outputs, "params": null })),
    ]);
    fields.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

/// The schema of one tensor with any number of images: a text of JSON.
fn tensor(name: &str, [channels, rows, columns]: [i64; 3]) -> Value {
    let shape = [-1, channels, rows, columns];
    let spec = json!([{ "name": name, "type": "tensor", "tensor-spec": { "dtype": "float32", "shape": shape } }]);
    spec.to_string().into()
}
