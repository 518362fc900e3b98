//! The reference that PyTorch makes, once a version of the scripts that make it, and what tests read of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use burn::tensor::{Device, Tensor, TensorData};
use burn_store::{ModuleStore, SafetensorsStore, bridge};
use serde::Deserialize;
use swath_nets::Network;
use swath_testkit::python;

/// A script of `tests/reference`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference").join(name)
}

/// Runs a script of `tests/reference` and fails with what it said when it fails.
pub fn run(name: &str, arguments: &[&Path]) -> String {
    let script = script(name);
    python::run(&python::torch(), std::iter::once(script.as_path()).chain(arguments.iter().copied()))
}

/// The folder that `make.py` filled: kept between runs, made anew when a script changes.
pub fn reference() -> &'static Path {
    static REFERENCE: LazyLock<PathBuf> = LazyLock::new(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nets-reference");
        fs::create_dir_all(&all).expect("a folder");
        let lock = File::create(all.join("lock")).expect("a lock");
        lock.lock().expect("one process at a time");

        let mut digest = blake3::Hasher::new();
        for name in ["make.py", "networks.py"] {
            digest.update(&fs::read(script(name)).expect("the script"));
        }
        let folder = all.join(&digest.finalize().to_hex()[..16]);
        if !folder.exists() {
            let old = fs::read_dir(&all).expect("the folder").map(|entry| entry.expect("an entry").path());
            old.filter(|path| path.is_dir()).for_each(|path| fs::remove_dir_all(path).expect("removed"));
            let unfinished = folder.with_extension("part");
            fs::create_dir(&unfinished).expect("a folder");
            run("make.py", &[&unfinished]);
            fs::rename(&unfinished, &folder).expect("complete");
        }
        folder
    });
    &REFERENCE
}

/// The CPU.
pub fn device() -> Device {
    Device::flex()
}

/// A JSON file.
pub fn json(path: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(path).expect("a file")).expect("JSON")
}

/// A network as a flow writes it.
pub fn network(value: &serde_json::Value) -> Network {
    Network::deserialize(value).expect("a network")
}

/// Tensors of a safetensors file.
pub struct Tensors(SafetensorsStore);

impl Tensors {
    /// Opens it.
    pub fn open(path: &Path) -> Self {
        Self(SafetensorsStore::from_file(path))
    }

    /// Their names.
    pub fn names(&mut self) -> Vec<String> {
        self.0.keys().expect("a safetensors file")
    }

    /// One of them.
    pub fn data(&mut self, name: &str) -> TensorData {
        let tensor = self.0.get_tensor(name).expect("a safetensors file");
        bridge::to_data(tensor.unwrap_or_else(|| panic!("no `{name}`"))).expect("its numbers")
    }

    /// One of them, of four dimensions.
    pub fn images(&mut self, name: &str, device: &Device) -> Tensor<4> {
        Tensor::from_data(self.data(name), device)
    }
}

/// The largest absolute difference between two tensors of one size, and the largest absolute value of the second.
pub fn difference(found: &TensorData, wanted: &TensorData) -> (f32, f32) {
    assert_eq!(found.num_elements(), wanted.num_elements());
    let (found, wanted) = (found.as_slice::<f32>().expect("f32"), wanted.as_slice::<f32>().expect("f32"));
    assert!(found.iter().all(|value| value.is_finite()), "a result is not finite");
    let largest = wanted.iter().map(|value| value.abs()).fold(0.0, f32::max);
    (found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max), largest)
}
