//! Scenes made by the oracle, and composites of them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use swath_kinds::SceneList;
use swath_raster::Composite;
use swath_task::local::LocalHost;
use swath_task::{Task, TaskError};
use tokio_util::sync::CancellationToken;

use crate::support;

/// A folder with the scenes of a case, made by the oracle.
pub struct Stack {
    pub folder: tempfile::TempDir,
    host: Arc<LocalHost>,
    pub case: &'static str,
}

impl Stack {
    pub fn new(case: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        support::run_file("oracle_composite.py", &["make".as_ref(), case.as_ref(), folder.path().as_os_str()]);
        let host = LocalHost::new(folder.path().join("host")).unwrap();
        Self { folder, host, case }
    }

    pub fn scenes(&self) -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(self.folder.path().join("scenes.json")).unwrap()).unwrap()
    }

    pub fn write(&self, scenes: &serde_json::Value) {
        std::fs::write(self.folder.path().join("scenes.json"), scenes.to_string()).unwrap();
    }

    pub fn run(&self, params: serde_json::Value) -> Result<(PathBuf, u64, f64), TaskError> {
        self.run_for(Duration::MAX, params)
    }

    /// Tells the step to stop after `time`.
    pub fn run_for(&self, time: Duration, params: serde_json::Value) -> Result<(PathBuf, u64, f64), TaskError> {
        let task: Composite = serde_json::from_value(params).unwrap();
        task.check().unwrap();
        let scenes = self.host.import::<SceneList>(&self.folder.path().join("scenes.json")).unwrap();
        let inputs = serde_json::from_value(serde_json::json!({ "scenes": scenes })).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let cancel = CancellationToken::new();
        let context = self.host.cancellable(2, cancel.clone());
        let outputs = runtime.block_on(async {
            let stop = async {
                tokio::time::sleep(time).await;
                cancel.cancel();
                std::future::pending().await
            };
            tokio::select! {
                outputs = task.run(inputs, &context) => outputs,
                () = stop => unreachable!(),
            }
        })?;
        Ok((self.host.path(outputs.raster.record()), outputs.scenes_used, outputs.clear_share))
    }

    pub fn agree(&self, cog: &Path) {
        let arguments = ["check".as_ref(), self.case.as_ref(), self.folder.path().as_os_str(), cog.as_os_str()];
        let told = support::run_file("oracle_composite.py", &arguments);
        assert!(told.ends_with("agree"), "{told}");
    }
}

pub fn message(error: &TaskError) -> (String, String) {
    match error {
        TaskError::Permanent(fault) | TaskError::Transient { fault, .. } => {
            (fault.code.to_string(), fault.message.clone())
        }
        TaskError::Cancelled => panic!("cancelled"),
    }
}
