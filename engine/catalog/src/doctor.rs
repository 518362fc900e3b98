//! What the built-in tasks need of a machine, and whether it is there.

/// Something a machine has or lacks.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is.
    pub name: &'static str,
    /// Version and place, or why it cannot be used.
    pub found: Result<String, String>,
    /// How to get it.
    pub help: Option<String>,
}

/// Looks for everything the built-in tasks need.
pub fn findings() -> Vec<Finding> {
    vec![gdal(), onnx_runtime()]
}

fn gdal() -> Finding {
    let found = swath_geo::gdal_version().map_err(|error| error.message().to_owned());
    let help = "run `make setup`, or install GDAL 3.6 or newer (Debian: libgdal-dev) and set GDAL_LIBRARY if it lies elsewhere";
    Finding { name: "GDAL", found, help: Some(help.to_owned()) }
}

fn onnx_runtime() -> Finding {
    let found = swath_infer::locate_onnx_runtime().and_then(|path| {
        let version = swath_infer::onnx_runtime_version(&path)?;
        Ok(format!("{version} ({})", path.display()))
    });
    match found {
        Ok(found) => Finding { name: "ONNX Runtime", found: Ok(found), help: None },
        Err(fault) => Finding { name: "ONNX Runtime", found: Err(fault.message), help: fault.help },
    }
}
