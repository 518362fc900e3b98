//! Plans and diagnoses over the toy catalogue, and the stored flows.

use std::path::{Path, PathBuf};

use swath_flow::{Diagnostic, render_all};
use swath_plan::{Catalogue, Given, PlanInput, check, plan};

use crate::fixture;

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

pub fn with_input<T>(catalogue: &Catalogue, params: &[(String, Given)], work: impl FnOnce(PlanInput<'_>) -> T) -> T {
    within("valid", catalogue, params, work)
}

/// Plans in `flows/KIND`.
pub fn within<T>(
    kind: &str,
    catalogue: &Catalogue,
    params: &[(String, Given)],
    work: impl FnOnce(PlanInput<'_>) -> T,
) -> T {
    let folder = root().join("flows").join(kind);
    let load = |path: &Path| {
        let in_flows = path.starts_with(root().join("flows"));
        if !in_flows {
            return Err("it does not exist".to_owned());
        }
        std::fs::read(path).map_err(|_| "it does not exist".to_owned())
    };
    work(PlanInput {
        fire: None,
        catalogue,
        params,
        params_folder: Path::new("/home/user"),
        folder: &folder,
        now: "2024-08-15T10:20:30Z".parse().unwrap(),
        load: &load,
    })
}

pub fn diagnose(name: &str, bytes: &[u8]) -> Vec<Diagnostic> {
    diagnose_in("valid", name, bytes)
}

pub fn diagnose_in(kind: &str, name: &str, bytes: &[u8]) -> Vec<Diagnostic> {
    let catalogue = Catalogue::new(&[fixture::TASKS]);
    let reading = swath_flow::read(name, bytes);
    let mut all = reading.diagnostics;
    if let Some(flow) = &reading.flow {
        all.extend(within(kind, &catalogue, &[], |input| check(flow, input)));
    }
    all
}

pub fn see(text: &str) -> String {
    render_all(&diagnose("flow.yaml", text.as_bytes()), false)
}

pub fn codes(bytes: &[u8]) -> Vec<&'static str> {
    diagnose("flow.yaml", bytes).iter().map(|one| one.code).collect()
}

pub fn flows(kind: &str) -> Vec<PathBuf> {
    let folder = root().join("flows").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

pub fn plan_text(text: &str, params: &[(&str, &str)]) -> Result<swath_plan::Plan, String> {
    let catalogue = Catalogue::new(&[fixture::TASKS]);
    let reading = swath_flow::read("flow.yaml", text.as_bytes());
    assert!(reading.diagnostics.is_empty(), "{}", render_all(&reading.diagnostics, false));
    let params: Vec<(String, Given)> =
        params.iter().map(|(name, value)| ((*name).to_owned(), Given::Text((*value).to_owned()))).collect();
    with_input(&catalogue, &params, |input| plan(&reading.flow.unwrap(), input)).map_err(|all| render_all(&all, false))
}

pub const PARAMETERS: &str = "
flow: parameters
params:
  area: { type: aoi }
  period: { type: period, default: P90D/now }
  method: { type: enum, values: [median, mean], default: median }
  cover: { type: number, default: 20, min: 0, max: 100 }
  token: { type: secret, default: STAC_TOKEN }
steps:
  search:
    task: stac.search
    with:
      catalog: data/catalog.json
      area: $area
      period: $period
      max_cloud_cover: ${params.cover / 2.0}
      secret_headers: { authorization: $token }
  composite:
    task: raster.composite
    in: { scenes: search.scenes }
    with: { bands: [B02], method: $method }
    when: ${steps.search.count > 3}
";
