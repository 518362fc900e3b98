//! Samples against an independent reader of them, and against themselves made again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use swath_sample::{Catalogue, TASKS};
use swath_task::local::LocalHost;
use swath_task::{Context, TaskError};
use swath_testkit::python;

fn oracle(folder: &Path) -> serde_json::Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle.py");
    let told = python::run(&python::interpreter(), [script.as_path(), folder]);
    serde_json::from_str(&told).unwrap()
}

fn make(sample: &Catalogue, threads: usize) -> Result<(), TaskError> {
    sample.make(threads, &|_, _| (), &|| false).map(drop)
}

/// Every file below a folder with its content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn the_clear_median_of_a_sample_is_its_truth() {
    let home = tempfile::tempdir().unwrap();
    // Not a multiple of a tile, so that blocks are cut at the edges.
    let sample =
        Catalogue { size: 1064, dates: 7, zones: 1, sites: 20, seed: 4, ..Catalogue::new(home.path().join("one")) };
    make(&sample, 2).unwrap();
    let report = oracle(&home.path().join("one"));
    assert_eq!(report["scenes"], 7, "{report}");
    assert_eq!(report["sites"], 20, "{report}");
    assert_eq!(report["cogs"], 7 * 7, "{report}");
    assert_eq!(report["baselines"], serde_json::json!(["03.01", "05.10"]));
    assert!(report["empty"].as_u64() > Some(0), "no wedge without data: {report}");
    assert!(report["known"].as_f64() > Some(0.95), "{report}");
    // Noise of half of 0.003, and rounding to 0.0001 on both sides.
    assert!(report["worst"].as_f64() <= Some(0.0016), "{report}");
    assert!(report["site_area_error"].as_f64() < Some(0.05), "{report}");
}

#[test]
fn both_zones_see_the_same_sites() {
    let home = tempfile::tempdir().unwrap();
    let sample = Catalogue { size: 640, dates: 2, sites: 16, cloud: 0.2, ..Catalogue::new(home.path().join("two")) };
    make(&sample, 2).unwrap();
    let report = oracle(&home.path().join("two"));
    assert_eq!(report["scenes"], 4, "{report}");
    assert_eq!(report["cogs"], 4 * 7, "{report}");
    assert!(report["worst"].as_f64() <= Some(0.0016), "{report}");
}

#[test]
fn a_sample_is_the_same_on_any_number_of_threads_and_another_with_another_seed() {
    let home = tempfile::tempdir().unwrap();
    let sample = |name: &str, seed| Catalogue {
        size: 1100,
        dates: 5,
        sites: 4,
        seed,
        bands: vec!["B04".into(), "B8A".into()],
        ..Catalogue::new(home.path().join(name))
    };
    make(&sample("a", 1), 1).unwrap();
    make(&sample("b", 1), 3).unwrap();
    make(&sample("c", 2), 3).unwrap();
    let [a, b, c] = ["a", "b", "c"].map(|name| contents(&home.path().join(name)));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, content) in &a {
        assert!(b[path] == *content, "`{}` differs between 1 and 3 threads", path.display());
    }
    let pictures = a.keys().filter(|path| path.extension().is_some_and(|ending| ending == "tif"));
    assert!(pictures.clone().count() > 20);
    assert!(pictures.filter(|path| a[*path] == c[*path]).count() == 0, "another seed, the same raster");
}

#[test]
fn a_folder_with_the_sample_is_left_as_it_is_and_with_anything_else_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("sample");
    let sample = Catalogue { size: 64, dates: 1, sites: 1, zones: 1, ..Catalogue::new(&folder) };
    std::fs::create_dir(&folder).unwrap();
    make(&sample, 1).unwrap();
    let before = std::fs::metadata(folder.join("items.json")).unwrap().modified().unwrap();
    let outputs = sample.make(1, &|_, _| panic!("made again"), &|| false).unwrap();
    assert_eq!(std::fs::metadata(folder.join("items.json")).unwrap().modified().unwrap(), before);
    assert_eq!(outputs.catalog, folder.join("catalog.json").display().to_string());

    let code = |result: Result<(), TaskError>| match result {
        Err(TaskError::Permanent(fault)) => fault.code.into_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(code(make(&Catalogue { seed: 1, ..sample.clone() }, 1)), "R130");
    std::fs::create_dir(home.path().join("mine")).unwrap();
    std::fs::write(home.path().join("mine/thesis.txt"), "years of work").unwrap();
    assert_eq!(code(make(&Catalogue::new(home.path().join("mine")), 1)), "R130");
    std::fs::write(home.path().join("file"), "").unwrap();
    assert_eq!(code(make(&Catalogue::new(home.path().join("file/below")), 1)), "R111");
    assert_eq!(contents(&home.path().join("mine")).len(), 1);
}

#[test]
fn a_cancelled_sample_leaves_nothing() {
    let home = tempfile::tempdir().unwrap();
    let sample = Catalogue { size: 2048, sites: 4, ..Catalogue::new(home.path().join("sample")) };
    let blocks = AtomicU64::new(0);
    let stopped = sample.make(
        2,
        &|done, total| {
            assert!(done <= total);
            blocks.store(done, Ordering::Relaxed);
        },
        &|| blocks.load(Ordering::Relaxed) > 3,
    );
    assert!(matches!(stopped, Err(TaskError::Cancelled)), "{stopped:?}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "something was left behind");
}

#[tokio::test]
async fn the_task_tells_where_things_lie() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("sample");
    let task = TASKS[0]
        .bind(serde_json::json!({ "folder": folder, "size": 128, "dates": 2, "sites": 1, "zones": 1 }))
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let host = LocalHost::new(home.path().join("host")).unwrap();
    let context = Context::new(host, tokio_util::sync::CancellationToken::new(), 2, "test");
    let outputs = task.run(serde_json::json!({}), context).await.unwrap();
    assert_eq!(outputs["scenes"], 2);
    for path in ["catalog", "area", "truth"] {
        assert!(Path::new(outputs[path].as_str().unwrap()).exists(), "{outputs}");
    }
}
