//! `swath sample`: a synthetic catalogue with a known truth, from task `sample.catalogue`.

use std::process::ExitCode;

use indicatif::ProgressBar;
use swath_catalog::Sample as Catalogue;
use swath_task::{Task, TaskError};

use crate::arguments::{Global, Sample};
use crate::failure::Failure;

pub(crate) fn run(global: &Global, command: Sample) -> Result<ExitCode, Failure> {
    let sample = Catalogue {
        size: command.size,
        dates: command.dates,
        zones: command.zones,
        sites: command.sites,
        cloud: command.cloud,
        seed: command.seed,
        ..Catalogue::new(command.folder)
    };
    sample.check().map_err(|problems| {
        let words =
            problems.iter().map(|problem| format!("--{}: {}", problem.at.trim_start_matches('/'), problem.message));
        Failure::Usage(words.collect::<Vec<_>>().join("; "))
    })?;
    let bar = if global.quiet || global.json { ProgressBar::hidden() } else { ProgressBar::new(0) };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let progress = |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    };
    let made = sample.make(threads, &progress, &|| false);
    bar.finish_and_clear();
    let made = made.map_err(|error| match error {
        TaskError::Transient { fault, .. } | TaskError::Permanent(fault) => Failure::Fault(fault),
        TaskError::Cancelled => Failure::Usage("cancelled".to_owned()),
    })?;
    if global.json {
        super::print_json(&made)?;
    } else {
        super::print(&format!(
            "catalog  {}\narea     {}\ntruth    {}\nscenes   {}\n",
            made.catalog, made.area, made.truth, made.scenes
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
