//! `swath doctor`: what is missing on this machine, and how to get it.

use std::process::ExitCode;

use serde_json::json;
use swath_catalog::doctor::{Finding, findings};
use swath_host::Capacity;

use crate::arguments::Global;
use crate::failure::Failure;
use crate::style;

pub(crate) fn run(global: &Global) -> Result<ExitCode, Failure> {
    let mut findings = findings();
    let capacity = Capacity::of_this_machine();
    let machine = format!("{} cores, {} of memory free", capacity.cpu, capacity.memory);
    findings.push(Finding { name: "machine", found: Ok(machine), help: None });
    findings.push(store(global));
    let missing = findings.iter().filter(|finding| finding.found.is_err()).count();
    if global.json {
        let all: Vec<_> = findings.iter().map(|f| json!({ "name": f.name, "ok": f.found.is_ok(), "detail": f.found.as_ref().unwrap_or_else(|e| e), "help": f.help })).collect();
        super::print_json(&all)?;
    } else {
        let colour = style::colour();
        for Finding { name, found, help } in &findings {
            let line = match found {
                Ok(found) => format!("{}  {name:14} {found}\n", style::good("ok     ", colour)),
                Err(reason) => format!("{}  {name:14} {reason}\n", style::error("missing", colour)),
            };
            super::print(&line)?;
            if let Some(help) = help.as_ref().filter(|_| found.is_err()) {
                super::print(&format!("{:25}{help}\n", ""))?;
            }
        }
    }
    Ok(if missing > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// The same about tasks and services, for those who ask a server over HTTP; and whether nothing is missing.
pub(crate) fn page() -> (bool, String) {
    let findings = findings();
    let line = |finding: &Finding| match &finding.found {
        Ok(found) => format!("ok       {:14} {found}\n", finding.name),
        Err(reason) => format!("missing  {:14} {reason}\n", finding.name),
    };
    (findings.iter().all(|finding| finding.found.is_ok()), findings.iter().map(line).collect())
}

fn store(global: &Global) -> Finding {
    if global.store.is_none() && matches!(super::has_store(&global.home), Ok(false)) {
        let found = format!("none yet in `{}`: the first run makes one", global.home.display());
        return Finding { name: "store", found: Ok(found), help: None };
    }
    let opened = super::block_on(async { Ok(super::reader(global).await?.place()) });
    let (found, help) = match opened {
        Ok(path) => (Ok(path), None),
        Err(Failure::Fault(fault)) => (Err(fault.message), fault.help),
        Err(other) => (Err(other.render(false).trim().to_owned()), None),
    };
    Finding { name: "store", found, help }
}
