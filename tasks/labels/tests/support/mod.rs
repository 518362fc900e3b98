//! Tasks run by themselves, and Python as an independent judge of what they made.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use swath_kinds::Cog;
use swath_task::local::LocalHost;
use swath_task::{Kind, Task, TaskError};
use swath_testkit::python;

/// Runs a script of `tests/oracle` and returns what it printed; fails with its error when it fails.
pub fn judge<A: AsRef<OsStr>>(script: &str, arguments: &[A]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle").join(script);
    python::run(&python::interpreter(), std::iter::once(script.as_os_str()).chain(arguments.iter().map(AsRef::as_ref)))
}

/// A folder of files, and a host that runs tasks on them.
pub struct Bench {
    pub folder: tempfile::TempDir,
    pub host: Arc<LocalHost>,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = LocalHost::new(folder.path().join("host")).unwrap();
        Self { folder, host }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// An artifact of a file or folder, as an input of a task.
    pub fn import<K: Kind>(&self, path: &Path) -> Value {
        json!(self.host.import::<K>(path).unwrap())
    }

    /// A raster as the input of a task.
    pub fn cog(&self, name: &str) -> Value {
        json!({ "raster": self.import::<Cog>(&self.file(name)) })
    }

    /// Runs a task and returns its outputs as JSON.
    pub fn run<T: Task>(&self, params: Value, inputs: Value) -> Result<Value, TaskError> {
        let task: T = serde_json::from_value(params).unwrap();
        assert_eq!(task.check(), Ok(()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let inputs = serde_json::from_value(inputs).unwrap();
        let outputs = runtime.block_on(task.run(inputs, &self.host.context(2)))?;
        Ok(serde_json::to_value(outputs).unwrap())
    }
}
