//! The `swath` command, as a library: the only code of the project that prints.
//!
//! A binary with tasks of its own is two lines; what the flow language, validation, the reference and the schema need
//! comes from the [`TaskDef`]s:
//!
//! ```no_run
//! # mod my_tasks { pub const TASKS: &[swath_task::TaskDef] = &[]; }
//! fn main() -> std::process::ExitCode {
//!     swath::main(&[swath::builtin(), &[my_tasks::TASKS]].concat())
//! }
//! ```
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 the flow or the
//! command line is wrong, 130 interrupted and resumable.

#![warn(clippy::print_stderr, clippy::print_stdout)]

/// Prints a line on standard error, if it can be: see [`style::say`].
macro_rules! tell {
    () => { $crate::style::say("\n") };
    ($($words:tt)*) => { $crate::style::say(&format!("{}\n", format_args!($($words)*))) };
}

mod arguments;
mod attempt_logs;
mod commands;
mod failure;
mod flows;
mod outputs;
mod pages;
mod progress;
mod runs_at;
mod server;
mod style;
mod test_file;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use swath_plan::Catalogue;
use swath_task::TaskDef;

use crate::arguments::{Arguments, Command};
use crate::failure::Failure;

/// The built-in tasks, one slice a family.
pub fn builtin() -> &'static [&'static [TaskDef]] {
    swath_catalog::BUILTIN
}

/// Runs the command line of this process with these tasks.
pub fn main(tasks: &[&[TaskDef]]) -> ExitCode {
    let arguments = Arguments::parse();
    let catalogue = Arc::new(Catalogue::new(tasks));
    let colour = style::colour();
    match run(arguments, catalogue) {
        Ok(code) => code,
        Err(failure) => {
            style::say(&failure.render(colour));
            failure.code()
        }
    }
}

fn run(arguments: Arguments, catalogue: Arc<Catalogue>) -> Result<ExitCode, Failure> {
    let Arguments { mut global, command } = arguments;
    // Steps may run elsewhere than here (`run.command` has a folder of its own): no path may depend on it.
    global.home = std::path::absolute(&global.home).map_err(|error| Failure::io("find", &global.home, &error))?;
    match command {
        Command::Run(command) => commands::run::run(&global, command, catalogue),
        Command::Resume(command) => commands::resume::run(&global, command, catalogue),
        Command::Rerun(command) => commands::rerun::run(&global, command, catalogue),
        Command::Validate(command) => commands::validate::run(&global, command, &catalogue),
        Command::Test(command) => commands::test::run(&global, command, catalogue),
        Command::Graph(command) => commands::graph::run(&global, command, &catalogue),
        Command::Tasks(command) => commands::tasks::run(&global, command, &catalogue),
        Command::Explain(command) => commands::explain::run(&global, command),
        Command::Schema(command) => commands::schema::run(command, &catalogue),
        Command::Serve(command) => commands::serve::run(&global, command, catalogue),
        Command::Deploy(command) => commands::deployments::deploy(&global, command, catalogue),
        Command::Deployments(command) => commands::deployments::deployments(&global, command, catalogue),
        Command::Backfill(command) => commands::deployments::backfill(&global, command, catalogue),
        Command::Token(command) => commands::token::run(&global, command),
        Command::Workers(command) => commands::workers::run(&global, command),
        Command::Runs(command) => commands::runs::run(&global, command),
        Command::Show(command) => commands::show::run(&global, command),
        Command::Logs(command) => commands::logs::run(&global, command),
        Command::Pause(command) => commands::pause::run(&global, command),
        Command::Cancel(command) => commands::cancel::run(&global, command),
        Command::Cache(command) => commands::cache::run(&global, command),
        Command::Gc(command) => commands::gc::run(&global, command),
        Command::Tracking(command) => commands::tracking::run(&global, command),
        Command::Sample(command) => commands::sample::run(&global, command),
        Command::Doctor => commands::doctor::run(&global),
        Command::Check => commands::check::run(&global),
        Command::Completions(command) => commands::completions::run(&global, command),
        Command::AttemptWorker => commands::attempt_worker::run(&global, catalogue),
    }
}
