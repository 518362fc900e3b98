//! `swath completions`: a script for a shell.

use std::process::ExitCode;

use clap::CommandFactory;
use serde_json::json;

use crate::arguments::{Arguments, Completions, Global};
use crate::failure::Failure;

pub(crate) fn run(global: &Global, command: Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(command.shell, &mut Arguments::command(), "swath", &mut script);
    let script = String::from_utf8_lossy(&script);
    if global.json {
        super::print_json(&json!({ "shell": command.shell.to_string(), "script": script }))?;
    } else {
        super::print(&script)?;
    }
    Ok(ExitCode::SUCCESS)
}
