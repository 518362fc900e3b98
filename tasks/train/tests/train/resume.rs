//! A training that is killed goes on to the same result, whatever it finds of itself.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};
use swath_task::local::LocalHost;
use swath_task::{ArtifactRecord, Context, Host, Staged, TaskError};
use tokio_util::sync::CancellationToken;

use crate::support::{Bench, Chips, files, run, small};

const EPOCHS: u32 = 6;

/// Settings in which everything that has a state is at work.
fn settings() -> Value {
    let mut settings = small(EPOCHS);
    settings["freeze_epochs"] = json!(2);
    settings["accumulate"] = json!(2);
    settings["schedule"] = json!({"kind": "plateau", "patience": 0, "factor": 0.5});
    settings["patience"] = json!(20);
    settings
}

/// A host that cancels the attempt when an epoch has been told.
struct Stopping {
    host: Arc<LocalHost>,
    after: u32,
    told: AtomicU32,
    cancel: CancellationToken,
}

#[async_trait]
impl Host for Stopping {
    fn scratch(&self) -> Result<&Path, TaskError> {
        self.host.scratch()
    }
    fn keep(&self) -> Result<&Path, TaskError> {
        self.host.keep()
    }
    async fn locate(&self, artifact: &ArtifactRecord) -> Result<std::path::PathBuf, TaskError> {
        self.host.locate(artifact).await
    }
    async fn commit(&self, staged: Staged) -> Result<ArtifactRecord, TaskError> {
        self.host.commit(staged).await
    }
    fn progress(&self, _: u64, _: u64, _: &'static str) {}
    fn metric(&self, name: &'static str, _: f64) {
        if name == "train_loss" && self.told.fetch_add(1, Ordering::SeqCst) + 1 == self.after {
            self.cancel.cancel();
        }
    }
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
}

/// Trains until an epoch is told, and is cancelled then.
fn cut_off(bench: &Bench, host: &Arc<LocalHost>, after: u32) {
    let cancel = CancellationToken::new();
    let host = Stopping { host: host.clone(), after, told: AtomicU32::new(0), cancel: cancel.clone() };
    let context = Context::new(Arc::new(host), cancel, 2, "key");
    let fault = run("train.segmentation", settings(), &bench.inputs, context).unwrap_err();
    assert_eq!(fault.code, "cancelled", "{fault}");
}

fn finish(bench: &Bench, host: &Arc<LocalHost>) -> (Value, u32) {
    let before = host.metrics().len();
    let outputs = run("train.segmentation", settings(), &bench.inputs, host.context(2)).unwrap();
    let epochs = host.metrics()[before..].iter().filter(|(name, _)| *name == "train_loss").count();
    (outputs, epochs as u32)
}

#[test]
fn a_training_that_is_cut_off_goes_on_to_the_same_result() {
    let bench = Bench::new(&Chips::usual(10));
    let (wanted, epochs) = finish(&bench, &bench.host);
    assert_eq!(epochs, EPOCHS);
    assert!(files(&wanted).len() >= 8, "{:?}", files(&wanted));
    for after in [1, 2, 4] {
        let host = bench.fresh(&format!("cut-{after}"));
        cut_off(&bench, &host, after);
        let (outputs, epochs) = finish(&bench, &host);
        assert_eq!(epochs, EPOCHS - after, "cut off after epoch {after}");
        assert_eq!(files(&outputs), files(&wanted), "cut off after epoch {after}");
        assert_eq!(outputs, wanted);
    }
    // Another training on the same host does not take over what is not its own.
    let other = bench.fresh("cut-4");
    let mut longer = settings();
    longer["seed"] = json!(4);
    let before = other.metrics().len();
    run("train.segmentation", longer, &bench.inputs, other.context(2)).unwrap();
    let epochs = other.metrics()[before..].iter().filter(|(name, _)| *name == "train_loss").count();
    assert_eq!(epochs as u32, EPOCHS);
}

#[test]
fn the_number_of_cores_changes_nothing() {
    let bench = Bench::new(&Chips::usual(10));
    let trained = |name: &str, cores: usize| {
        let context = bench.fresh(name).context(cores);
        files(&run("train.segmentation", settings(), &bench.inputs, context).unwrap())
    };
    assert_eq!(trained("one", 1), trained("five", 5));
}

#[test]
fn what_is_damaged_is_passed_over() {
    let bench = Bench::new(&Chips::usual(8));
    let (wanted, _) = finish(&bench, &bench.host);
    let damage = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let cases: [(&str, &[&str], u32); 4] = [
        ("model", &["state-00004/model.bpk"], EPOCHS - 3),
        ("optimiser", &["state-00004/optimiser.bpk"], EPOCHS - 3),
        ("both", &["state-00004/progress", "state-00003/model.bpk"], EPOCHS),
        ("seal", &["state-00004/seal.json"], EPOCHS - 3),
    ];
    for (name, paths, left) in cases {
        let host = bench.fresh(name);
        cut_off(&bench, &host, 4);
        let keep = bench.folder.path().join(name).join("keep");
        paths.iter().for_each(|path| damage(&keep.join(path)));
        // What a kill in the middle of a write leaves.
        std::fs::create_dir_all(keep.join("state-00005.part")).unwrap();
        let (outputs, epochs) = finish(&bench, &host);
        assert_eq!(epochs, left, "{name}");
        assert_eq!(files(&outputs), files(&wanted), "{name}");
    }
}

/// The name by which this test starts itself as the process that is killed.
const CHILD: &str = "SWATH_TRAIN_CHILD";

#[test]
fn a_process_that_is_killed_loses_at_most_an_epoch() {
    if let Some(told) = std::env::var_os(CHILD) {
        let told: Value = serde_json::from_str(told.to_str().unwrap()).unwrap();
        let host = LocalHost::new(told["host"].as_str().unwrap()).unwrap();
        let _ = run("train.segmentation", settings(), &told["inputs"], host.context(2));
        return;
    }
    let bench = Bench::new(&Chips::usual(8));
    let (wanted, _) = finish(&bench, &bench.host);
    let mut cut = 0;
    for (round, state) in ["state-00001", "state-00003.part", "best/epoch-00002.safetensors"].into_iter().enumerate() {
        let name = format!("killed-{round}");
        let host = bench.fresh(&name);
        let home = bench.folder.path().join(&name);
        let told = json!({"host": home, "inputs": bench.inputs});
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "resume::a_process_that_is_killed_loses_at_most_an_epoch"])
            .env(CHILD, told.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let began = Instant::now();
        while !home.join("keep").join(state).exists() && child.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < Duration::from_secs(300), "the child never came so far");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let (outputs, epochs) = finish(&bench, &host);
        cut += u32::from(epochs > 0 && epochs < EPOCHS);
        assert_eq!(files(&outputs), files(&wanted), "killed at {state}");
    }
    assert!(cut >= 1, "no kill came in the middle of a training");
}
