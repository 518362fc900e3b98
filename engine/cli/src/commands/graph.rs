//! `swath graph`: the steps of a flow, drawn.

use std::process::ExitCode;

use swath_plan::Catalogue;

use crate::arguments::{Graph, GraphFormat};
use crate::failure::Failure;
use crate::flows;

pub(crate) fn run(command: Graph, catalogue: &Catalogue) -> Result<ExitCode, Failure> {
    let opened = flows::open(&command.flow.flow)?;
    let plan = flows::sketch(&opened, &command.flow.params, catalogue)?;
    super::print(&match command.format {
        GraphFormat::Terminal => swath_plan::terminal(&plan),
        GraphFormat::Mermaid => swath_plan::mermaid(&plan),
        GraphFormat::Dot => swath_plan::dot(&plan),
    })?;
    Ok(ExitCode::SUCCESS)
}
