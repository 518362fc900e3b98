//! Artifacts on a disk and in an object store: whole, immutable, verified, collected.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use swath_store::{Access, Artifacts, Error, Home, SqliteStore, Store};
use swath_task::{ArtifactRecord, Digest};

struct Bench {
    home: tempfile::TempDir,
    artifacts: Artifacts,
    remote: bool,
}

impl Bench {
    fn local() -> Self {
        let home = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::local(home.path()).unwrap();
        Self { home, artifacts, remote: false }
    }

    fn remote() -> Self {
        let home = tempfile::tempdir().unwrap();
        let objects = Arc::new(object_store::memory::InMemory::new());
        let artifacts = Artifacts::remote(objects, home.path()).unwrap();
        Self { home, artifacts, remote: true }
    }

    fn stage(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.home.path().join("scratch").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn stage_folder(&self) -> PathBuf {
        for (name, content) in [("model/1/model.onnx", "onnx"), ("model/card.md", "# Card"), ("model/empty", "")] {
            self.stage(name, content.as_bytes());
        }
        self.home.path().join("scratch/model")
    }

    async fn commit(&self, name: &str, content: &[u8]) -> ArtifactRecord {
        self.artifacts.commit(&self.stage(name, content), name, "raster.cog").await.unwrap()
    }
}

#[tokio::test]
async fn a_file_becomes_an_artifact_and_is_found_again() {
    for bench in [Bench::local(), Bench::remote()] {
        let content = vec![7_u8; 300_000];
        let staged = bench.stage("composite.tif", &content);
        let record = bench.artifacts.commit(&staged, "composite.tif", "raster.cog").await.unwrap();
        assert_eq!((record.digest, record.size), (Digest::of(&content), 300_000));
        assert_eq!((record.kind.as_str(), record.name.as_str()), ("raster.cog", "composite.tif"));
        let path = bench.artifacts.locate(&record).await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), content);
        assert_eq!(path.file_name().unwrap(), "composite.tif");
        assert!(bench.artifacts.verify(&record).await);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o222, 0, "an artifact is read-only");
        if !bench.remote {
            assert!(!staged.exists(), "a commit moves");
            let hex = record.digest.hex();
            assert!(path.ends_with(format!("artifacts/{}/{hex}/composite.tif", &hex[..2])));
        }
        // Equal content again: the same artifact, stored once; under another name as well.
        assert_eq!(bench.commit("composite.tif", &content).await, record);
        let other = bench.commit("other.tif", &content).await;
        assert_eq!(other.digest, record.digest);
        assert_eq!(std::fs::read(bench.artifacts.locate(&other).await.unwrap()).unwrap(), content);
        assert_eq!(bench.artifacts.list().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_folder_becomes_an_artifact_with_its_manifest() {
    for bench in [Bench::local(), Bench::remote()] {
        let staged = bench.stage_folder();
        let as_tasks_see_it = swath_task::files::describe(&staged, "model", "model.onnx").unwrap();
        let record = bench.artifacts.commit(&staged, "model", "model.onnx").await.unwrap();
        assert_eq!(record, as_tasks_see_it);
        let paths: Vec<_> = record.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, ["1/model.onnx", "card.md", "empty"]);
        let path = bench.artifacts.locate(&record).await.unwrap();
        assert_eq!(std::fs::read_to_string(path.join("1/model.onnx")).unwrap(), "onnx");
        assert!(bench.artifacts.verify(&record).await);
        let again = bench.artifacts.commit(&bench.stage_folder(), "model", "model.onnx").await.unwrap();
        assert_eq!(again, record);
        if !bench.remote {
            // Without its manifest it is not there, and a commit brings it back.
            let manifest = path.with_file_name("model.files.json");
            std::fs::remove_file(&manifest).unwrap();
            assert!(matches!(bench.artifacts.locate(&record).await, Err(Error::ArtifactMissing { .. })));
            bench.artifacts.commit(&bench.stage_folder(), "model", "model.onnx").await.unwrap();
            assert!(bench.artifacts.verify(&record).await);
            assert!(entries(&bench.home.path().join("incoming")).is_empty());
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Writes as a fault would, past the file's mode and keeping its times.
fn damage(path: &Path, content: &[u8]) {
    // Longer than a tick of the clock that stamps files.
    std::thread::sleep(Duration::from_millis(20));
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, content).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[tokio::test]
async fn damage_is_found_and_mended_by_the_next_commit() {
    let bench = Bench::local();
    let record = bench.commit("a.tif", b"good").await;
    let path = bench.artifacts.locate(&record).await.unwrap();
    for bad in [&b"g"[..], b"evil", b""] {
        damage(&path, bad);
        let error = bench.artifacts.locate(&record).await.unwrap_err();
        assert!(matches!(error, Error::ArtifactCorrupt { .. }), "{error:?}");
        assert!(!bench.artifacts.verify(&record).await);
        // A fresh process sees it, too.
        assert!(!Artifacts::local(bench.home.path()).unwrap().verify(&record).await);
        bench.commit("a.tif", b"good").await;
        assert!(bench.artifacts.verify(&record).await);
    }
    std::fs::remove_file(&path).unwrap();
    let error = bench.artifacts.locate(&record).await.unwrap_err();
    assert_eq!(error.code(), "E115");
    let folder = bench.artifacts.commit(&bench.stage_folder(), "model", "model.onnx").await.unwrap();
    let inner = bench.artifacts.locate(&folder).await.unwrap().join("card.md");
    damage(&inner, b"# Cord");
    assert_eq!(bench.artifacts.locate(&folder).await.unwrap_err().code(), "E116");
    bench.artifacts.commit(&bench.stage_folder(), "model", "model.onnx").await.unwrap();
    assert_eq!(std::fs::read_to_string(&inner).unwrap(), "# Card");
    assert!(bench.artifacts.verify(&folder).await);
}

#[tokio::test]
async fn a_remote_object_that_is_damaged_or_gone_is_found() {
    let home = tempfile::tempdir().unwrap();
    let objects = Arc::new(object_store::memory::InMemory::new());
    let artifacts = Artifacts::remote(objects.clone(), home.path()).unwrap();
    let staged = home.path().join("a.tif");
    std::fs::write(&staged, "good").unwrap();
    let record = artifacts.commit(&staged, "a.tif", "raster.cog").await.unwrap();
    let hex = record.digest.hex();
    let key = object_store::path::Path::from(format!("{}/{hex}/a.tif", &hex[..2]));
    use object_store::ObjectStoreExt;
    objects.put(&key, "evil".into()).await.unwrap();
    assert_eq!(artifacts.locate(&record).await.unwrap_err().code(), "E116");
    objects.put(&key, "good".into()).await.unwrap();
    assert_eq!(std::fs::read(artifacts.locate(&record).await.unwrap()).unwrap(), b"good");
    artifacts.remove(&record.digest).await.unwrap();
    assert!(artifacts.list().await.unwrap().is_empty());
    assert!(entries(&home.path().join("incoming")).is_empty());
}

#[tokio::test]
async fn what_cannot_be_an_artifact_is_refused_and_leaves_nothing() {
    for bench in [Bench::local(), Bench::remote()] {
        let staged = bench.stage("a.tif", b"x");
        let long = "n".repeat(201);
        for name in ["", ".", "..", ".hidden", "a/b", "../a", "a\0b", "a\nb", "m.files.json", long.as_str()] {
            let error = bench.artifacts.commit(&staged, name, "k").await.unwrap_err();
            assert_eq!(error.code(), "E117", "{name:?}: {error:?}");
        }
        let scratch = bench.home.path().join("scratch");
        let refused = |path: PathBuf| {
            let artifacts = bench.artifacts.clone();
            async move { artifacts.commit(&path, "a", "k").await.unwrap_err() }
        };
        assert_eq!(refused(scratch.join("nothing")).await.code(), "E117");
        std::fs::create_dir(scratch.join("bare")).unwrap();
        assert_eq!(refused(scratch.join("bare")).await.code(), "E117");
        std::os::unix::fs::symlink("/etc/passwd", scratch.join("link")).unwrap();
        assert_eq!(refused(scratch.join("link")).await.code(), "E117");
        std::fs::create_dir(scratch.join("tree")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", scratch.join("tree/link")).unwrap();
        let error = refused(scratch.join("tree")).await;
        assert!(error.to_string().contains("`link`"), "{error}");
        assert!(bench.artifacts.list().await.unwrap().is_empty());
        // A forged record leads nowhere.
        let mut record = bench.artifacts.commit(&bench.stage_folder(), "model", "k").await.unwrap();
        record.files[0].path = "../../../../../../etc/passwd".into();
        assert!(bench.artifacts.locate(&record).await.is_err());
        record.name = "../../x".into();
        assert_eq!(bench.artifacts.locate(&record).await.unwrap_err().code(), "E117");
    }
}

#[tokio::test]
async fn many_commits_of_equal_content_at_once_give_one_artifact() {
    let bench = Arc::new(Bench::local());
    let committing: Vec<_> = (0..16)
        .map(|n| {
            let bench = bench.clone();
            tokio::spawn(async move {
                let file = bench.stage(&format!("{n}/a.tif"), &vec![1; 100_000]);
                let file = bench.artifacts.commit(&file, "a.tif", "k").await.unwrap();
                let folder = bench.home.path().join(format!("scratch/{n}/tree"));
                bench.stage(&format!("{n}/tree/deep/x"), b"x");
                let folder = bench.artifacts.commit(&folder, "tree", "k").await.unwrap();
                assert!(bench.artifacts.verify(&file).await && bench.artifacts.verify(&folder).await);
            })
        })
        .collect();
    for one in committing {
        one.await.unwrap();
    }
    assert_eq!(bench.artifacts.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_sweep_removes_old_orphans_and_nothing_else() {
    for bench in [Bench::local(), Bench::remote()] {
        let kept = bench.commit("kept.tif", b"kept").await;
        let orphan = bench.commit("orphan.tif", b"orphan").await;
        let folder = bench.artifacts.commit(&bench.stage_folder(), "model", "k").await.unwrap();
        let referenced: HashSet<Digest> = [kept.digest].into();
        // Too young, all of them.
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        assert_eq!(bench.artifacts.sweep(&referenced, hour_ago).await.unwrap(), swath_store::Swept::default());
        assert!(bench.artifacts.verify(&orphan).await);
        let leftover = bench.stage("../incoming/123-0", b"half");
        let later = SystemTime::now() + Duration::from_secs(1);
        let swept = bench.artifacts.sweep(&referenced, later).await.unwrap();
        let mut due = vec![orphan.digest, folder.digest];
        due.sort_unstable();
        assert_eq!(swept.artifacts, due);
        assert!(swept.bytes >= 6 + 10, "{}", swept.bytes);
        assert!(bench.artifacts.verify(&kept).await);
        assert!(!leftover.exists());
        let left: Vec<_> = bench.artifacts.list().await.unwrap().into_iter().map(|stored| stored.digest).collect();
        assert_eq!(left, [kept.digest]);
        let empty = bench.artifacts.sweep(&HashSet::new(), later).await.unwrap();
        assert_eq!(empty.artifacts, [kept.digest]);
        if !bench.remote {
            assert!(entries(&bench.home.path().join("artifacts")).is_empty(), "no empty folders stay");
        }
    }
}

#[tokio::test]
async fn scratch_folders_are_fresh_and_those_of_dead_runs_go() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path(), Access::Write).await.unwrap();
    let home = Home::new(folder.path());
    let scratch = home.scratch("live", "inner", "3", 2).unwrap();
    assert!(scratch.ends_with("scratch/live/inner-3-2"), "{}", scratch.display());
    std::fs::write(scratch.join("x"), "x").unwrap();
    assert_eq!(home.scratch("live", "inner", "3", 2).unwrap(), scratch);
    assert!(entries(&scratch).is_empty(), "what a killed attempt left is gone");
    let long = "a".repeat(90);
    let names = [("a-1", ""), ("a", "1"), (long.as_str(), ""), (&long[1..], ""), ("a.1", "")];
    let folders: std::collections::BTreeSet<_> =
        names.iter().map(|(step, instance)| home.scratch("live", step, instance, 1).unwrap()).collect();
    assert_eq!(folders.len(), names.len(), "no two steps share a folder: {folders:?}");
    assert_eq!(home.scratch("../x", "a", "", 1).unwrap_err().code(), "E108");
    home.scratch("dead", "../../evil", "", 1).unwrap();
    let _lease = store.lease_run("live").await.unwrap();
    assert_eq!(home.clean_scratch(&store).await.unwrap(), ["dead"]);
    assert!(scratch.exists());
    home.discard_scratch(&scratch).unwrap();
    assert!(!scratch.exists());
    assert_eq!(home.discard_run_scratch("..").unwrap_err().code(), "E108");
    home.discard_run_scratch("live").unwrap();
    assert!(!folder.path().join("scratch/live").exists());
    home.clean_locks(|run| run == "live").unwrap();
    let locks: Vec<_> = entries(&folder.path().join("runs"));
    assert_eq!(locks, [folder.path().join("runs/live.lock")]);
}

#[test]
fn what_a_step_keeps_is_its_own_and_goes_with_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path());
    let kept = home.keep("run", "train", "").unwrap();
    assert!(kept.ends_with("keep/run/train") && !kept.exists(), "{}", kept.display());
    let others = [home.keep("run", "train", "0"), home.keep("run", "train.0", ""), home.keep("other", "train", "")];
    let others: std::collections::BTreeSet<_> = others.into_iter().map(Result::unwrap).collect();
    assert!(others.len() == 3 && !others.contains(&kept), "{others:?}");
    assert_eq!(home.keep("../x", "a", "").unwrap_err().code(), "E108");
    home.clean_keep(|_| false).unwrap();
    for folder in others.iter().chain([&kept]) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("state"), "x").unwrap();
    }
    home.clean_keep(|run| run == "run").unwrap();
    assert!(kept.join("state").exists() && !folder.path().join("keep/other").exists());
    home.discard_keep(&kept).unwrap();
    home.discard_keep(&kept).unwrap();
    assert!(!kept.exists() && home.keep("run", "train", "0").unwrap().exists());
    home.discard_run_keep("run").unwrap();
    assert!(entries(&folder.path().join("keep")).is_empty());
}

#[test]
fn attempts_that_begin_while_others_end_have_their_scratch() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path());
    std::thread::scope(|scope| {
        for step in ["a", "b", "c", "d"] {
            let home = &home;
            scope.spawn(move || {
                for attempt in 1..500 {
                    let scratch = home.scratch("run", step, "", attempt).unwrap();
                    std::fs::write(scratch.join("file"), "x").unwrap();
                    home.discard_scratch(&scratch).unwrap();
                }
            });
        }
    });
    assert!(entries(&folder.path().join("scratch/run")).is_empty());
}
