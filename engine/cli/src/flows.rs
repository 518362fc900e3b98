//! Reading and planning the flow that a command names.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use swath_flow::{Diagnostic, Diagnostics, Flow, Source};
use swath_host::launch;
use swath_plan::{Catalogue, Given, Plan, PlanInput};

use crate::failure::Failure;

/// A flow read from a file, with what planning it needs.
pub(crate) struct Opened {
    pub flow: Option<Flow>,
    pub problems: Vec<Diagnostic>,
    pub text: Vec<u8>,
    pub folder: PathBuf,
    pub name: String,
}

/// Reads a flow; `-` is standard input. What is wrong with its text is in the result, not an error.
pub(crate) fn open(path: &Path) -> Result<Opened, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::io("find", Path::new("."), &error))?;
    let name = path.display().to_string();
    let (text, folder) = if path == Path::new("-") {
        let mut text = Vec::new();
        let limit = swath_flow::MAX_TEXT as u64 + 1;
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_end(&mut text)
            .map_err(|error| Failure::io("read", path, &error))?;
        (text, here)
    } else {
        let text = launch::read_text(path).map_err(|error| Failure::io("read", path, &error))?;
        let absolute = std::path::absolute(path).map_err(|error| Failure::io("find", path, &error))?;
        (text, absolute.parent().map_or(here, Path::to_owned))
    };
    let reading = swath_flow::read(&name, &text);
    Ok(Opened { flow: reading.flow, problems: reading.diagnostics, text, folder, name })
}

/// Calls `with` with all that planning needs.
fn planning<T>(
    opened: &Opened,
    params: &[(String, Given)],
    catalogue: &Catalogue,
    now: Timestamp,
    with: impl FnOnce(PlanInput<'_>) -> T,
) -> Result<T, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::io("find", Path::new("."), &error))?;
    let load = |path: &Path| launch::read_text(path).map_err(|error| error.to_string());
    Ok(with(PlanInput { catalogue, params, params_folder: &here, folder: &opened.folder, now, load: &load }))
}

/// The plan of a flow, or everything that is wrong with it. `now` is what relative periods count from.
pub(crate) fn plan(
    opened: &Opened,
    params: &[(String, String)],
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<Plan, Failure> {
    plan_given(opened, &texts(params), catalogue, now)
}

/// As [`plan`], with values of any type.
pub(crate) fn plan_given(
    opened: &Opened,
    params: &[(String, Given)],
    catalogue: &Catalogue,
    now: Timestamp,
) -> Result<Plan, Failure> {
    let Some(flow) = sound(opened, params, catalogue)? else { return Err(Failure::Flow(Vec::new())) };
    planning(opened, params, catalogue, now, |input| swath_plan::plan(flow, input))?.map_err(Failure::Flow)
}

fn texts(params: &[(String, String)]) -> Vec<(String, Given)> {
    params.iter().map(|(name, value)| (name.clone(), Given::Text(value.clone()))).collect()
}

/// A plan for drawing: required parameters may lack a value.
pub(crate) fn sketch(opened: &Opened, params: &[(String, String)], catalogue: &Catalogue) -> Result<Plan, Failure> {
    let params = &texts(params);
    let Some(flow) = sound(opened, params, catalogue)? else { return Err(Failure::Flow(Vec::new())) };
    planning(opened, params, catalogue, Timestamp::now(), |input| swath_plan::sketch(flow, input))?
        .map_err(Failure::Flow)
}

fn sound<'a>(
    opened: &'a Opened,
    params: &[(String, Given)],
    catalogue: &Catalogue,
) -> Result<Option<&'a Flow>, Failure> {
    if opened.problems.is_empty() {
        return Ok(opened.flow.as_ref());
    }
    Err(Failure::Flow(check_given(opened, params, catalogue)?))
}

/// Everything that is wrong with a flow.
pub(crate) fn check(
    opened: &Opened,
    params: &[(String, String)],
    catalogue: &Catalogue,
) -> Result<Vec<Diagnostic>, Failure> {
    check_given(opened, &texts(params), catalogue)
}

fn check_given(opened: &Opened, params: &[(String, Given)], catalogue: &Catalogue) -> Result<Vec<Diagnostic>, Failure> {
    let mut problems = Diagnostics::default();
    opened.problems.iter().cloned().for_each(|problem| problems.push(problem));
    if let Some(flow) = &opened.flow {
        let more = planning(opened, params, catalogue, Timestamp::now(), |input| swath_plan::check(flow, input))?;
        more.into_iter().for_each(|problem| problems.push(problem));
    }
    Ok(problems.into_vec())
}

/// The source that a run is pinned to.
pub(crate) fn source(opened: &Opened) -> Arc<Source> {
    let text = String::from_utf8_lossy(&opened.text);
    opened.flow.as_ref().map_or_else(|| Arc::new(Source::new(&opened.name, text)), |flow| flow.source.clone())
}
