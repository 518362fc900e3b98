//! Holds the arrows between rooms that `docs/architecture.md` draws, over what cargo resolves.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

type Names = BTreeSet<String>;

/// Dependencies by package, normal and build ones only (tests may know anyone).
fn dependencies() -> (Names, BTreeMap<String, Names>, BTreeMap<String, String>) {
    // Crates for other platforms may not have been downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let options = ["--offline", "--filter-platform", &platform].map(str::to_owned).to_vec();
    let metadata = MetadataCommand::new().other_options(options).exec().expect("cargo metadata");
    let resolve = metadata.resolve.as_ref().expect("a resolved graph");
    let name = |id| metadata[id].name.to_string();
    let ours: BTreeSet<String> = metadata.workspace_members.iter().map(name).collect();
    let folders = metadata.workspace_members.iter().map(|id| {
        let folder = metadata[id].manifest_path.strip_prefix(&metadata.workspace_root).expect("inside").to_string();
        (name(id), folder.trim_start_matches('/').to_owned())
    });
    let folders = folders.collect();
    let edges = resolve.nodes.iter().map(|node| {
        let uses =
            node.deps.iter().filter(|dep| dep.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development));
        (name(&node.id), uses.map(|dep| name(&dep.pkg)).collect())
    });
    (ours, edges.collect(), folders)
}

/// Everything reachable from `from`.
fn reach(from: &str, edges: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from.to_owned()];
    while let Some(next) = todo.pop() {
        for dep in edges.get(&next).into_iter().flatten() {
            if seen.insert(dep.clone()) {
                todo.push(dep.clone());
            }
        }
    }
    seen
}

#[test]
fn a_task_crate_knows_the_contract_and_nothing_else_of_the_engine() {
    let (ours, edges, folders) = dependencies();
    let shared = [
        "swath-kinds",
        "swath-datasets",
        "swath-geo",
        "swath-gdal-loader",
        "swath-access",
        "swath-nets",
        "swath-tracking",
        "swath-onnxruntime",
    ];
    let mut families = 0;
    for package in ours.iter().filter(|name| folders[*name].starts_with("tasks/")) {
        families += 1;
        for dep in reach(package, &edges).iter().filter(|dep| ours.contains(*dep)) {
            let allowed = dep == "swath-task" || shared.contains(&dep.as_str());
            assert!(allowed, "`{package}` reaches `{dep}`: a task crate sees swath-task and {shared:?} only");
        }
    }
    assert!(families >= 8, "the task crates were not found: {folders:?}");
}

#[test]
fn only_geo_links_gdal() {
    let (ours, edges, _) = dependencies();
    for package in &ours {
        let direct = edges[package].iter().any(|dep| dep == "gdal" || dep == "gdal-sys");
        assert_eq!(direct, package == "swath-geo", "`{package}` and GDAL");
    }
    for package in [
        "swath-task",
        "swath-kinds",
        "swath-datasets",
        "swath-access",
        "swath-tracking",
        "swath-stac",
        "swath-host",
        "swath-plan",
        "swath-store",
    ] {
        assert!(!reach(package, &edges).contains("gdal-sys"), "`{package}` must build without GDAL");
    }
}

#[test]
fn networks_know_nothing_of_ours() {
    let (ours, edges, _) = dependencies();
    let known: Names = reach("swath-nets", &edges).intersection(&ours).cloned().collect();
    assert_eq!(known, Names::new(), "`swath-nets` is burn and weights only");
    assert!(!reach("swath-nets", &edges).contains("gdal-sys"), "`swath-nets` must build without GDAL");
}

#[test]
fn pure_rooms_have_no_runtime_and_know_only_whom_they_may() {
    let (ours, edges, _) = dependencies();
    let rooms: [(&str, &[&str]); 5] = [
        ("swath-task", &[]),
        ("swath-flow", &[]),
        ("swath-plan", &["swath-flow", "swath-schedule", "swath-task"]),
        ("swath-run", &[]),
        ("swath-schedule", &[]),
    ];
    for (room, may) in rooms {
        let known: Vec<&str> = edges[room].iter().map(String::as_str).filter(|dep| ours.contains(*dep)).collect();
        assert!(known.iter().all(|dep| may.contains(dep)), "`{room}` knows {known:?}, may know {may:?}");
    }
    for room in ["swath-flow", "swath-run"] {
        let reached = reach(room, &edges);
        for runtime in ["tokio", "reqwest", "sqlx", "object_store", "rand", "swath-host", "swath-store"] {
            assert!(!reached.contains(runtime), "`{room}` reaches `{runtime}`: it takes time and seeds as arguments");
        }
    }
}

#[test]
fn the_store_knows_nothing_of_plans_and_only_the_command_line_knows_all() {
    let (ours, edges, _) = dependencies();
    let engine =
        |room: &str| -> BTreeSet<String> { edges[room].iter().filter(|d| ours.contains(*d)).cloned().collect() };
    assert_eq!(engine("swath-store"), BTreeSet::from(["swath-task".to_owned()]));
    for room in ["swath-host", "swath-store", "swath-plan", "swath-run", "swath-flow"] {
        assert!(!reach(room, &edges).contains("swath-catalog"), "`{room}` must not name task crates");
    }
}

#[test]
fn tasks_of_a_crate_that_links_native_code_say_so() {
    let (ours, edges, _) = dependencies();
    for tasks in swath_catalog::BUILTIN {
        let family = tasks[0].name.split('.').next().expect("`family.verb`");
        let package = match family {
            "store" => "swath-stores".to_owned(),
            "run" => "swath-process".to_owned(),
            family => format!("swath-{family}"),
        };
        assert!(ours.contains(&package), "`{package}`");
        let reached = reach(&package, &edges);
        let native = reached.contains("gdal-sys") || reached.contains("ort");
        for task in *tasks {
            assert_eq!(task.native, native, "`NATIVE` of `{}`", task.name);
        }
    }
}
