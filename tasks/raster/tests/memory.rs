//! Peak memory of a composite whose scenes lie in two zones: a program of its own, so that nothing else counts.

mod support;

use swath_kinds::SceneList;
use swath_raster::Composite;
use swath_task::Task;
use swath_task::local::LocalHost;

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[test]
fn a_composite_of_two_zones_keeps_to_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    support::run_file("oracle_composite.py", &["make".as_ref(), "many".as_ref(), folder.path().as_os_str()]);
    let host = LocalHost::new(folder.path().join("host")).unwrap();
    let before = peak();
    for more in [serde_json::json!({}), serde_json::json!({ "resolution": 50 })] {
        let mask = serde_json::json!({ "asset": "CLM", "clear": [0, 1] });
        let mut params =
            serde_json::json!({ "bands": ["B04"], "mask": mask, "cloud_dilation": 500, "memory": "160 MiB" });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let task: Composite = serde_json::from_value(params).unwrap();
        let scenes = host.import::<SceneList>(&folder.path().join("scenes.json")).unwrap();
        let inputs = serde_json::from_value(serde_json::json!({ "scenes": scenes })).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outputs = runtime.block_on(task.run(inputs, &host.context(4))).unwrap();
        assert_eq!(outputs.scenes_used, 10);
        let taken = peak() - before;
        eprintln!("{more}: {} MiB", taken >> 20);
        assert!(taken < 160 << 20, "{more}: {} MiB", taken >> 20);
    }
}
