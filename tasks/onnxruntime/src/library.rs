//! Finding ONNX Runtime on this machine and asking it for its version, before anything relies on it.
//!
//! It is loaded at run time, so that the program starts, validates and runs flows without inference where it is missing.
//! The order is the product's: `ORT_DYLIB_PATH`; beside the executable; the project's tools (`.tools/`) upwards from the
//! current folder and from the executable; the system's library folders.
#![expect(unsafe_code, reason = "FFI edge: asks a shared library for its version")]

use std::ffi::CStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ort::logging::LogLevel;
use swath_task::Fault;

/// Oldest minor version of ONNX Runtime 1.x whose C API is the one that is called.
pub const OLDEST_MINOR: u32 = ort::MINOR_VERSION;

/// Variable that names the library.
const VARIABLE: &str = "ORT_DYLIB_PATH";

/// Where ONNX Runtime's shared library lies on this machine. `X101` when it is nowhere.
pub fn locate_onnx_runtime() -> Result<PathBuf, Fault> {
    let named = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from);
    let executable = std::env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let current = std::env::current_dir().ok();
    let system = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&system).filter(|p| !p.as_os_str().is_empty()).collect();
    folders.extend(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    locate(named, executable.as_deref(), current.as_deref(), &folders)
}

const SYSTEM_FOLDERS: &[&str] = &[
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/opt/homebrew/lib",
];

fn locate(
    named: Option<PathBuf>,
    executable: Option<&Path>,
    current: Option<&Path>,
    system: &[PathBuf],
) -> Result<PathBuf, Fault> {
    if let Some(path) = named {
        // A name that was given is meant: no search behind the user's back.
        return if path.is_file() {
            Ok(path)
        } else {
            let message = format!("ONNX Runtime not found: `{VARIABLE}` names `{}`, which is no file", path.display());
            Err(Fault::new("X101", message).help(HELP))
        };
    }
    let upwards = |from: Option<&Path>| -> Vec<PathBuf> {
        let folders = from.into_iter().flat_map(Path::ancestors);
        folders.flat_map(|folder| tool_folders(&folder.join(".tools"))).collect()
    };
    let beside = executable.map(Path::to_owned).into_iter();
    let candidates = beside.chain(upwards(current)).chain(upwards(executable)).chain(system.iter().cloned());
    candidates.into_iter().find_map(|folder| library_in(&folder)).ok_or_else(|| {
        let message = format!(
            "ONNX Runtime not found: no `{}` beside the program, in `.tools` or in the system's library folders",
            file_name()
        );
        Fault::new("X101", message).help(HELP)
    })
}

const HELP: &str = "run `make setup` or set ORT_DYLIB_PATH to the file `libonnxruntime.so`";

/// `.tools/ort` and the Python environment's onnxruntime package.
fn tool_folders(tools: &Path) -> Vec<PathBuf> {
    let mut folders = vec![tools.join("ort"), tools.join("ort/lib")];
    let pythons = std::fs::read_dir(tools.join("py/lib")).into_iter().flatten().flatten();
    let mut pythons: Vec<PathBuf> = pythons.map(|entry| entry.path()).collect();
    pythons.sort();
    folders.extend(pythons.into_iter().rev().map(|path| path.join("site-packages/onnxruntime/capi")));
    folders
}

fn file_name() -> String {
    format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// The library in a folder: the plain name, else the highest version (`libonnxruntime.so.1.31.1`).
fn library_in(folder: &Path) -> Option<PathBuf> {
    let plain = folder.join(file_name());
    if plain.is_file() {
        return Some(plain);
    }
    let versioned = format!("{}.1", file_name());
    let version_of = |path: &PathBuf| -> Vec<u32> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.split('.').filter_map(|part| part.parse().ok()).collect()
    };
    let entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let fits = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&versioned)) && path.is_file()
    };
    entries.filter(fits).max_by_key(version_of)
}

/// The version of the library at `path`, `1.31.1` for example. `X102` when it cannot be loaded, is no ONNX Runtime, or
/// is older than the C API that is called.
pub fn onnx_runtime_version(path: &Path) -> Result<String, Fault> {
    let refused = |reason: String| {
        Fault::new("X102", format!("ONNX Runtime at `{}` cannot be used: {reason}", path.display())).help(format!(
            "install ONNX Runtime 1.{OLDEST_MINOR} or later: run `make setup`, or let ORT_DYLIB_PATH name one"
        ))
    };
    let load = || -> Result<String, libloading::Error> {
        type GetApiBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;
        // SAFETY: loading runs the library's initialisers; the file is the one the user installed as ONNX Runtime. The
        // symbol has this signature in every release, its result is a static structure, and the version a static
        // NUL-terminated string. The library is leaked, so that what was started by it stays in memory.
        unsafe {
            let library = libloading::Library::new(path)?;
            let base = library.get::<GetApiBase>(b"OrtGetApiBase\0")?();
            let text = ((*base).GetVersionString)();
            let version = CStr::from_ptr(text).to_string_lossy().into_owned();
            std::mem::forget(library);
            Ok(version)
        }
    };
    let version = load().map_err(|error| refused(error.to_string()))?;
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if major != 1 || minor < OLDEST_MINOR {
        return Err(refused(format!("its version is {version}, and 1.{OLDEST_MINOR} to 1.x is needed")));
    }
    Ok(version)
}

/// The process's one ONNX Runtime environment, started by the first call. A failure is not kept: a library installed
/// meanwhile is found by the next call.
pub(crate) fn environment() -> Result<&'static ort::environment::Environment, Fault> {
    static ENVIRONMENT: OnceLock<ort::environment::Environment> = OnceLock::new();
    static STARTING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = STARTING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    // Relative names would be looked for beside the executable first; what was found must be what is loaded.
    let found = locate_onnx_runtime()?;
    let path = std::path::absolute(&found).unwrap_or(found);
    let version = onnx_runtime_version(&path)?;
    let refused = |reason: String| {
        let message = format!("ONNX Runtime {version} at `{}` does not start: {reason}", path.display());
        Fault::new("X102", message).help("run `make setup`, or let ORT_DYLIB_PATH name another version")
    };
    // What ONNX Runtime would print becomes a log line; errors come back as values besides.
    let logger = |level: LogLevel, category: &str, _: &str, place: &str, message: &str| {
        tracing::debug!(target: "onnxruntime", ?level, category, place, "{message}");
    };
    let builder = ort::init_from(&path).map_err(|error| refused(error.to_string()))?;
    let environment = builder.with_name("swath").with_telemetry(false).with_logger(Arc::new(logger)).build();
    let environment = environment.map_err(|error| refused(error.to_string()))?;
    environment.set_log_level(LogLevel::Warning);
    tracing::debug!(path = %path.display(), version, "ONNX Runtime started");
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"not a library").unwrap();
    }

    #[test]
    fn the_order_is_named_then_beside_then_tools_then_system() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let (program, work, system) = (root.join("bin"), root.join("a/b/c"), root.join("usr"));
        std::fs::create_dir_all(&work).unwrap();
        let find = |named: Option<PathBuf>| locate(named, Some(&program), Some(&work), std::slice::from_ref(&system));
        let fault = find(None).unwrap_err();
        assert_eq!(fault.code, "X101");
        assert!(fault.help.unwrap().contains("make setup"));

        let installed = system.join("libonnxruntime.so.1.27.0");
        touch(&installed);
        assert_eq!(find(None).unwrap(), installed);
        let wheel = root.join("a/.tools/py/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.31.1");
        touch(&wheel);
        touch(&wheel.with_file_name("libonnxruntime.so.1.9.3"));
        assert_eq!(find(None).unwrap(), wheel);
        let tools = root.join("a/b/.tools/ort/libonnxruntime.so");
        touch(&tools);
        assert_eq!(find(None).unwrap(), tools);
        let beside = program.join("libonnxruntime.so");
        touch(&beside);
        assert_eq!(find(None).unwrap(), beside);
        assert_eq!(find(Some(wheel.clone())).unwrap(), wheel);
        let fault = find(Some(root.join("gone.so"))).unwrap_err();
        assert!(fault.code == "X101" && fault.message.contains("gone.so"), "{fault}");
    }

    #[test]
    fn what_is_no_onnx_runtime_is_refused_by_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("libonnxruntime.so");
        touch(&path);
        let fault = onnx_runtime_version(&path).unwrap_err();
        assert!(fault.code == "X102" && fault.message.contains("libonnxruntime.so"), "{fault}");
    }

    #[test]
    fn the_installed_library_tells_its_version() {
        let path = locate_onnx_runtime().expect("ONNX Runtime: run `make setup`");
        let version = onnx_runtime_version(&path).unwrap();
        assert!(version.starts_with("1."), "{version}");
        assert!(std::ptr::eq(environment().unwrap(), environment().unwrap()));
    }
}
