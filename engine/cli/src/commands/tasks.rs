//! `swath tasks`: what a flow may name.

use std::process::ExitCode;

use serde_json::json;
use swath_plan::Catalogue;
use swath_task::Port;

use crate::arguments::{Global, Tasks};
use crate::failure::Failure;
use crate::style;

pub(crate) fn run(global: &Global, command: Tasks, catalogue: &Catalogue) -> Result<ExitCode, Failure> {
    if let Some(name) = &command.task {
        let Some(known) = catalogue.get(name) else {
            let guess = swath_flow::nearest(name, catalogue.names());
            let hint = guess.map(|guess| format!("; did you mean `{guess}`?"));
            let hint = hint.unwrap_or_else(|| "; `swath tasks` lists them".to_owned());
            return Err(Failure::Usage(format!("there is no task `{name}`{hint}")));
        };
        if global.json {
            super::print_json(&json!({
                "name": name, "version": known.definition.version, "purity": known.definition.purity,
                "parameters": known.schema(), "ports": known.ports(),
            }))?;
        } else {
            let page =
                swath_plan::reference_pages(catalogue).into_iter().find(|(file, _)| *file == format!("{name}.md"));
            super::print(&page.map(|(_, text)| text).unwrap_or_default())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if global.json {
        let all = catalogue.tasks().map(|known| {
            json!({ "name": known.definition.name, "version": known.definition.version, "purity": known.definition.purity,
                    "about": known.definition.about(), "ports": known.ports() })
        });
        super::print_json(&all.collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let ports = |ports: &[Port]| -> String {
        let shown: Vec<String> =
            ports.iter().map(|port| format!("{}{}", port.name, if port.required { "" } else { "?" })).collect();
        shown.join(", ")
    };
    let rows: Vec<Vec<String>> = catalogue
        .tasks()
        .map(|known| {
            let first = sentence(&known.definition.about()).to_owned();
            vec![known.definition.name.to_owned(), ports(&known.ports().inputs), ports(&known.ports().outputs), first]
        })
        .collect();
    super::print(&style::table(&["TASK", "READS", "MAKES", "ABOUT"], &rows, false))?;
    Ok(ExitCode::SUCCESS)
}

/// The first sentence of the first line, without its dot. A dot inside a number ends nothing.
fn sentence(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default().trim_end();
    let end = line.match_indices('.').map(|(at, _)| at).find(|at| {
        let rest = &line[at + 1..];
        rest.is_empty() || rest.starts_with(char::is_whitespace)
    });
    &line[..end.unwrap_or(line.len())]
}

#[cfg(test)]
mod tests {
    use super::sentence;

    #[test]
    fn a_sentence_ends_at_a_dot_before_white_space_or_the_end() {
        for (text, first) in [
            ("Writes the STAC 1.0 item. And more.", "Writes the STAC 1.0 item"),
            ("Stretches bands to 0.5.\nMore.", "Stretches bands to 0.5"),
            ("No dot", "No dot"),
            ("Two lines\nof it.", "Two lines"),
            ("", ""),
        ] {
            assert_eq!(sentence(text), first);
        }
    }
}
