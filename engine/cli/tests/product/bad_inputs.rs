//! Bad catalogues, servers, rasters and models through the command: each ends soon with a code, its cause and its place,
//! or survives with the right pixels; nothing half-written is left, and an unrelated flow on the same store completes.

mod catalogues;
mod models;
mod rasters;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_task::Digest;
use swath_testkit::http::Server;
use swath_testkit::python;

use crate::common::Place;

const DEADLINE: Duration = Duration::from_secs(300);
const AT_ONCE: usize = 6;
const SECRET: &str = "SIGNED";

/// How a case must end.
enum Ends {
    /// With this exit code, and an error of this code on one line with all these words.
    Badly(i32, &'static str, &'static [&'static str]),
    /// Well, with this output `count`.
    Counting(u64),
    /// Well, with an output `raster` of which Python tells this.
    Raster(&'static str),
    /// Well, with an output `raster` without a valid pixel, and these words of warning.
    Nothing(&'static str),
    /// Well, with an output `raster` of these very bytes.
    Same(Digest),
}

/// A flow and how it must end. A server lives as long as its case.
struct Case {
    name: String,
    steps: String,
    outputs: &'static str,
    ends: Ends,
    _server: Option<Server>,
}

fn checkout() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).canonicalize().unwrap()
}

fn python(script: &str, arguments: &[&Path]) -> String {
    let script = checkout().join(script);
    python::run(&python::interpreter(), std::iter::once(script.as_path()).chain(arguments.iter().copied()))
}

/// Damaged and odd rasters, networks and the rasters they are run over; made once.
static INPUTS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let (rasters, networks) = (folder.path().join("rasters"), folder.path().join("networks"));
    std::fs::create_dir(&rasters).unwrap();
    std::fs::create_dir(&networks).unwrap();
    python("tasks/geo/tests/make_bad.py", &[&rasters]);
    python("engine/cli/tests/product/bad_inputs.py", &[Path::new("make"), &rasters]);
    python("tasks/infer/tests/make_inputs.py", &[&networks]);
    folder
});

/// Size, grid and values of a raster, told by Python.
fn tell(raster: &Path) -> String {
    python("engine/cli/tests/product/bad_inputs.py", &[Path::new("tell"), raster])
}

fn raster(name: &str) -> PathBuf {
    INPUTS.path().join(format!("rasters/{name}.tif"))
}

/// Ends of one command: exit code, standard output, standard error.
type Said = (Option<i32>, String, String);

fn run_within_deadline(place: &Place, arguments: &[&str]) -> Said {
    let started = Instant::now();
    let mut child = place.swath(arguments).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > DEADLINE {
            child.kill().unwrap();
            let said = child.wait_with_output().unwrap();
            panic!("{arguments:?} does not end: {}", String::from_utf8_lossy(&said.stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = child.wait_with_output().unwrap();
    (said.status.code(), String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap())
}

fn try_case(place: &Place, case: &Case) -> Result<(), String> {
    let Case { name, steps, outputs, ends, .. } = case;
    std::fs::write(
        place.path().join(format!("{name}.yaml")),
        format!("flow: {name}\nsteps:\n{steps}outputs: {{ {outputs} }}\n"),
    )
    .unwrap();
    let file = format!("{name}.yaml");
    let arguments: &[&str] = match ends {
        Ends::Badly(..) => &["run", &file],
        _ => &["run", &file, "--json"],
    };
    let (code, out, err) = run_within_deadline(place, arguments);
    let told = format!("{name}: exit {code:?}\n{err}");
    let holds = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {told}")) };
    holds(!err.contains("panicked") && !out.contains("panicked"), "a panic")?;
    holds(!err.contains(SECRET) && !out.contains(SECRET), "a secret is told")?;
    let ended: Value = serde_json::from_str(&out).unwrap_or_default();
    let results = place.path().join("results").join(name);
    match ends {
        Ends::Badly(exit, fault, words) => {
            holds(code == Some(*exit), "another exit code")?;
            let line = err.lines().find(|line| line.starts_with(&format!("error[{fault}]: "))).unwrap_or_default();
            let missing: Vec<&&str> = words.iter().filter(|word| !line.contains(**word)).collect();
            holds(!line.is_empty() && missing.is_empty(), &format!("[{fault}] {missing:?} are not told"))?;
            holds(!results.exists(), "something lies in the results")
        }
        Ends::Counting(count) => {
            holds(code == Some(0) && ended["outputs"]["count"] == json!(count), &format!("{}", ended["outputs"]))
        }
        Ends::Raster(expected) => {
            holds(code == Some(0), "no success")?;
            let told = tell(&results.join("raster.tif"));
            holds(told == *expected, &format!("`{told}`, not `{expected}`"))
        }
        Ends::Nothing(warning) => {
            let warned = err.lines().any(|line| line.starts_with("warn") && line.contains(warning));
            holds(code == Some(0) && warned, "no warning")?;
            let told = tell(&results.join("raster.tif"));
            holds(told.ends_with("nothing valid 0.00"), &told)
        }
        Ends::Same(digest) => {
            let same = ended["outputs"]["raster"]["digest"] == json!(digest.to_string());
            holds(code == Some(0) && same, &format!("other pixels: {}", ended["outputs"]))
        }
    }
}

/// A flow over the shipped imagery, computed anew each time.
fn good_flow() -> String {
    let catalog = checkout().join("flows/data/catalog.json");
    format!(
        "flow: good
steps:
  search: {{ task: stac.search, cache: off, with: {{ catalog: {}, collection: s2-l1c-t33uuu }} }}
  composite:
    task: raster.composite
    cache: off
    in: {{ scenes: search.scenes }}
    with: {{ bands: [B11], area: [12.55, 52.48, 12.6, 52.5] }}
outputs: {{ raster: composite.raster }}
",
        catalog.display()
    )
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Every visible artifact is whole and in its place, and nothing else lies there or among the results.
fn nothing_half_written(place: &Place) {
    let artifacts = files(&place.home().join("artifacts"));
    assert!(!artifacts.is_empty());
    for file in artifacts {
        let digest = Digest::of(&std::fs::read(&file).unwrap()).to_string();
        let folder = file.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert!(digest.ends_with(folder) && folder.len() == 64, "`{}` is {digest}", file.display());
    }
    for file in files(&place.path().join("results")) {
        assert!(file.ends_with("raster.tif"), "`{}`", file.display());
    }
    for folder in ["scratch", "incoming"] {
        assert_eq!(files(&place.home().join(folder)), Vec::<PathBuf>::new(), "{folder}");
    }
}

/// Runs all cases on one store, several at a time, and an unrelated flow after each.
fn hold(cases: Vec<Case>) {
    let count = cases.len();
    let place = Place::new(&good_flow());
    let good = |out: &str| {
        let (code, said, err) = run_within_deadline(&place, &["run", "flow.yaml", "--json", "--out", out]);
        let ended: Value = serde_json::from_str(&said).unwrap_or_default();
        assert_eq!(code, Some(0), "an unrelated flow fails: {err}");
        ended["outputs"]["raster"]["digest"].clone()
    };
    let first = good("results/good");
    let (queue, failures) = (Mutex::new(VecDeque::from(cases)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().pop_front() else { return };
                    if let Err(failure) = try_case(&place, &case) {
                        failures.lock().unwrap().push(failure);
                    }
                    assert_eq!(good(&format!("results/after-{}", case.name)), first, "after {}", case.name);
                }
            });
        }
    });
    nothing_half_written(&place);
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {count} cases:\n{}", failures.len(), failures.join("\n"));
}
