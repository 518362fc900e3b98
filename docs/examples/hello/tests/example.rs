//! The example works as the guide says, and so does every flow that the guides and the README show.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use swath_geo::{BandSpec, CogOptions, CogWriter, Crs, Grid};
use swath_hello::{Inputs, Mean, TASKS};
use swath_kinds::Cog;
use swath_task::Task;
use swath_task::local::LocalHost;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).unwrap().to_owned()
}

fn swath(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hello-swath"));
    command.current_dir(root()).env("SWATH_HOME", home).args(arguments).output().unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The code blocks of a guide that are marked with a language.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(guide)).unwrap();
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_end() == format!("```{language}") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push(block.join("\n") + "\n");
        }
    }
    found
}

#[test]
fn a_flow_with_a_task_of_ones_own_runs() {
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let out = out.to_str().unwrap();
    done(&swath(home.path(), &["run", "docs/examples/hello/greenness.yaml", "--out", out]));
    let mut report = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let report = report.find(|path| path.extension().is_some_and(|ending| ending == "txt")).unwrap();
    // numpy: the mean over pixels of the NDVI of the median over the clear dates.
    assert_eq!(std::fs::read_to_string(report).unwrap(), "NDVI: 0.176 over 2322 pixels\n");
    let listed = done(&swath(home.path(), &["tasks", "report.mean"]));
    assert!(listed.contains("no-data left out") && listed.contains("Digits after the point"), "{listed}");
}

#[tokio::test]
async fn the_task_runs_by_itself() {
    let home = tempfile::tempdir().unwrap();
    let host = LocalHost::new(home.path()).unwrap();
    let path = home.path().join("raster.tif");
    let crs = Crs::from_epsg(32633).unwrap();
    let grid = Grid { crs, left: 3e5, top: 5e6, pixel_width: 10.0, pixel_height: 10.0, width: 3, height: 2 };
    let writer = CogWriter::create(&path, &grid, CogOptions::new(vec![BandSpec::new("B04")], Some(f64::NAN))).unwrap();
    writer.write_rows(2, &[1.0_f32, 2.0, f32::NAN, 4.0, 5.0, f32::NAN]).unwrap();
    writer.finish().unwrap();

    let raster = host.import::<Cog>(&path).unwrap();
    let task = Mean { band: "B04".into(), digits: 1 };
    let outputs = task.run(Inputs { raster }, &host.context(1)).await.unwrap();
    assert_eq!((outputs.mean, outputs.pixels), (Some(3.0), 4));
    let report = std::fs::read_to_string(host.path(outputs.report.record())).unwrap();
    assert_eq!(report, "B04: 3.0 over 4 pixels\n");
}

#[test]
fn parameters_are_checked_before_anything_runs() {
    let problems = TASKS[0].bind(serde_json::json!({ "band": "", "digits": 12 })).err().unwrap();
    let places: Vec<&str> = problems.iter().map(|problem| problem.at.as_str()).collect();
    assert_eq!(places, ["/band", "/digits"]);
}

#[test]
fn the_guide_shows_the_example_as_it_is() {
    let example: String = ["src/lib.rs", "src/main.rs", "greenness.yaml"]
        .map(|file| std::fs::read_to_string(root().join("docs/examples/hello").join(file)).unwrap())
        .concat();
    let shown = blocks("docs/writing-a-task.md", "rust");
    assert!(shown.len() >= 5);
    for block in shown.into_iter().chain(blocks("docs/writing-a-task.md", "yaml")) {
        assert!(example.contains(&block), "the guide shows what the example does not hold:\n{block}");
    }
}

#[test]
fn every_flow_of_the_guides_is_valid() {
    let home = tempfile::tempdir().unwrap();
    let mut count = 0;
    for guide in ["README.md", "docs/domain.md"] {
        for flow in blocks(guide, "yaml") {
            assert!(flow.starts_with("flow:") || flow.starts_with('#'), "{guide}: a block that is no flow\n{flow}");
            let path = home.path().join(format!("flow-{count}.yaml"));
            std::fs::write(&path, &flow).unwrap();
            done(&swath(home.path(), &["validate", path.to_str().unwrap()]));
            count += 1;
        }
    }
    assert!(count >= 3, "the guides show {count} flows");
}

#[test]
fn the_first_flow_of_the_readme_runs_and_is_reused() {
    let home = tempfile::tempdir().unwrap();
    let data = root().join("flows").display().to_string();
    let flow = blocks("README.md", "yaml").remove(0).replace(" flows/", &format!(" {data}/"));
    let path = home.path().join("first.yaml");
    std::fs::write(&path, flow).unwrap();
    let out = home.path().join("out");
    let run = ["run", path.to_str().unwrap(), "--out", out.to_str().unwrap()];
    done(&swath(home.path(), &run));
    let picture = std::fs::read(out.join("picture.png")).unwrap();
    assert!(picture.starts_with(b"\x89PNG"));
    let again = swath(home.path(), &run);
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success() && told.contains("0 ran, 4 reused"), "{told}");
}
