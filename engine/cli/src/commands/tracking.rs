//! `swath tracking send`: what steps told of trainings and models while the tracking server was down.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use swath_catalog::tracking::{Credentials, Pace, Report, send_all};
use swath_task::Fault;

use crate::arguments::{Global, Tracking, TrackingCommand};
use crate::failure::Failure;
use crate::style;

/// Somebody waits for it: a server that comes back is noticed soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(crate) fn run(global: &Global, command: Tracking) -> Result<ExitCode, Failure> {
    let TrackingCommand::Send { folder, patience } = command.command;
    // It may be called `.`, and what waits lies beside it.
    let folder = std::path::absolute(&folder).map_err(|error| Failure::io("find", &folder, &error))?;
    let pace = Pace { finish: patience, longest_pause: LONGEST_PAUSE, ..Pace::default() };
    let until = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
    let until = style::time(jiff::Timestamp::now().as_millisecond().saturating_add(until));
    let told = RefCell::new(HashSet::new());
    let waits = |fault: &Fault| {
        if !global.quiet && told.borrow_mut().insert(fault.code.to_string()) {
            tell!("trying again until {until} (`--patience`): {fault}");
        }
    };
    let sent = send_all(&folder, None, &Credentials::from_env(), &pace, &|| false, &waits);
    if sent.is_empty() && !folder.exists() && !folder.parent().is_some_and(Path::exists) {
        return Err(Failure::Usage(format!("there is no folder `{}`, and nothing waits beside it", folder.display())));
    }
    let arrived = |report: &Report| report.waiting == 0;
    let all = sent.iter().all(|(_, sent)| sent.as_ref().is_ok_and(arrived));
    if global.json {
        let told: Vec<_> = sent
            .iter()
            .map(|(spool, sent)| match sent {
                Ok(report) => json!({
                    "spool": spool, "run": report.run, "sent": report.sent, "waiting": report.waiting,
                    "models": report.models, "refused": report.refused, "trouble": report.trouble,
                }),
                Err(error) => json!({ "spool": spool, "trouble": error.fault() }),
            })
            .collect();
        super::print_json(&told)?;
    } else {
        let row = |report: &Report| {
            let run = report.run.clone().unwrap_or_else(|| report.spool.display().to_string());
            vec![run, report.sent.to_string(), report.waiting.to_string(), report.refused.len().to_string()]
        };
        let rows: Vec<_> = sent.iter().filter_map(|(_, sent)| sent.as_ref().ok().map(row)).collect();
        if !rows.is_empty() {
            super::print(&style::table(&["RUN", "SENT", "WAITING", "REFUSED"], &rows, false))?;
        } else if sent.is_empty() && !global.quiet {
            tell!("nothing waits in `{}`", folder.display());
        }
        for (_, sent) in &sent {
            match sent {
                Ok(report) => report.trouble.iter().chain(&report.refused).for_each(|fault| say(fault.clone())),
                Err(error) => say(error.fault()),
            }
        }
    }
    Ok(if all { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn say(fault: Fault) {
    style::say(&Failure::Fault(fault).render(style::colour()));
}
