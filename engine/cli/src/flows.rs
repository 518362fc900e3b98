//! Reading and planning the flow that a command names.

use std::io::Read;
use std::path::Path;

use jiff::Timestamp;
use swath_flow::Diagnostic;
use swath_host::{Asked, FlowText, launch};
use swath_plan::{Catalogue, Plan};

use crate::failure::Failure;

/// Reads a flow; `-` is standard input. What is wrong with its text is told when it is planned.
pub(crate) fn open(path: &Path) -> Result<FlowText, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::io("find", Path::new("."), &error))?;
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
    Ok(FlowText::new(path.display().to_string(), folder, text))
}

/// Parameters as the command line has them: relative paths among them start from the current folder.
pub(crate) fn asked(params: &[(String, String)]) -> Result<Asked, Failure> {
    let here = std::env::current_dir().map_err(|error| Failure::io("find", Path::new("."), &error))?;
    Ok(Asked::of(params.iter().cloned(), here))
}

/// A plan for drawing: required parameters may lack a value.
pub(crate) fn sketch(flow: &FlowText, params: &[(String, String)], catalogue: &Catalogue) -> Result<Plan, Failure> {
    flow.sketch(&asked(params)?, catalogue, Timestamp::now()).map_err(Failure::Flow)
}

/// Everything that is wrong with a flow.
pub(crate) fn check(
    flow: &FlowText,
    params: &[(String, String)],
    catalogue: &Catalogue,
) -> Result<Vec<Diagnostic>, Failure> {
    Ok(flow.check(&asked(params)?, catalogue, Timestamp::now()))
}
