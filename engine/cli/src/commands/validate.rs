//! `swath validate`: everything that is wrong with flows, without running anything.

use std::process::ExitCode;

use serde_json::{Value, json};
use swath_flow::Diagnostic;
use swath_plan::Catalogue;

use crate::arguments::{Global, Validate};
use crate::failure::Failure;
use crate::{flows, style};

pub(crate) fn run(global: &Global, command: Validate, catalogue: &Catalogue) -> Result<ExitCode, Failure> {
    let mut reports = Vec::new();
    let mut wrong = 0;
    for path in &command.flows {
        let opened = flows::open(path)?;
        let problems = flows::check(&opened, &command.params, catalogue)?;
        wrong += usize::from(!problems.is_empty());
        if global.json {
            reports.push(report(&opened.name, &problems));
        } else if !problems.is_empty() {
            style::say(&swath_flow::render_all(&problems, style::colour()));
        } else if !global.quiet {
            tell!("{}: {}", opened.name, style::good("valid", style::colour()));
        }
    }
    if global.json {
        super::print_json(&reports)?;
    }
    Ok(if wrong > 0 { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn report(flow: &str, problems: &[Diagnostic]) -> Value {
    let diagnostics: Vec<_> = problems.iter().map(Diagnostic::report).collect();
    json!({ "flow": flow, "valid": problems.is_empty(), "diagnostics": diagnostics })
}

/// What a command that needs a sound flow prints of one that is not, with `--json`: the list that this command prints.
pub(crate) fn refuse(flow: &str, problems: &[Diagnostic]) -> Result<ExitCode, Failure> {
    super::print_json(&[report(flow, problems)])?;
    Ok(ExitCode::from(2))
}
