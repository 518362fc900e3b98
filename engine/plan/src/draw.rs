//! Drawings of a plan: Mermaid, DOT, and lines for a terminal.

use std::fmt::Write as _;

use crate::plan::{Action, Each, InputSource, OutputSource, Plan, PlannedStep};

/// An edge of a drawing: from, to, what travels.
fn links(step: &PlannedStep) -> Vec<(usize, String)> {
    let mut links: Vec<(usize, String)> = Vec::new();
    for input in &step.inputs {
        for from in &input.from {
            if let InputSource::Output { step, output, .. } = from {
                links.push((*step, output.clone()));
            }
        }
    }
    if let Some(Each::Output { step, output }) = &step.each {
        links.push((*step, format!("each {output}")));
    }
    for read in &step.reads {
        if !links.iter().any(|(from, _)| from == read) {
            links.push((*read, "${ }".to_owned()));
        }
    }
    links.dedup();
    links
}

fn action(step: &PlannedStep) -> &str {
    match &step.action {
        Action::Task { name, .. } => name,
        Action::Flow(plan) => &plan.name,
    }
}

fn marks(step: &PlannedStep) -> String {
    let mut marks = String::new();
    if step.each.is_some() {
        marks.push_str(" [each]");
    }
    if step.when.is_some() {
        marks.push_str(" [when]");
    }
    if matches!(step.action, Action::Flow(_)) {
        marks.push_str(" [flow]");
    }
    marks
}

/// A Mermaid flowchart.
pub fn mermaid(plan: &Plan) -> String {
    let mut out = String::from("flowchart LR\n");
    for (at, step) in plan.steps.iter().enumerate() {
        let label = format!("{}<br/><small>{}{}</small>", step.id, action(step), marks(step));
        let (open, close) = match (&step.action, &step.each) {
            (Action::Flow(_), _) => ("[[", "]]"),
            (_, Some(_)) => ("[/", "/]"),
            _ => ("[", "]"),
        };
        let _ = writeln!(out, "    s{at}{open}\"{}\"{close}", label.replace('"', "#quot;"));
    }
    for (at, step) in plan.steps.iter().enumerate() {
        for (from, what) in links(step) {
            let _ = writeln!(out, "    s{from} -->|\"{what}\"| s{at}");
        }
        for from in &step.after {
            let _ = writeln!(out, "    s{from} -.-> s{at}");
        }
    }
    for (at, output) in plan.outputs.iter().enumerate() {
        if let OutputSource::Output { step, output: from } = &output.from {
            let _ = writeln!(out, "    o{at}([\"{}\"])\n    s{step} -->|\"{from}\"| o{at}", output.name);
        }
    }
    out
}

/// A graph in the DOT language of Graphviz.
pub fn dot(plan: &Plan) -> String {
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut out = format!("digraph {} {{\n    rankdir=LR;\n    node [shape=box, style=rounded];\n", quote(&plan.name));
    for (at, step) in plan.steps.iter().enumerate() {
        let label = format!("{}\n{}{}", step.id, action(step), marks(step));
        let _ = writeln!(out, "    s{at} [label={}];", quote(&label).replace('\n', "\\n"));
    }
    for (at, step) in plan.steps.iter().enumerate() {
        for (from, what) in links(step) {
            let _ = writeln!(out, "    s{from} -> s{at} [label={}];", quote(&what));
        }
        for from in &step.after {
            let _ = writeln!(out, "    s{from} -> s{at} [style=dashed];");
        }
    }
    out.push_str("}\n");
    out
}

/// Most lanes that are drawn side by side; a graph wider than that is listed without lines.
const MOST_LANES: usize = 24;

/// Lines for a terminal, one a step in the order they run, with lanes for what travels between them, as version
/// histories are drawn.
pub fn terminal(plan: &Plan) -> String {
    let width = plan.steps.iter().map(|step| step.id.chars().count()).max().unwrap_or(0).min(40);
    let mut last_use: Vec<usize> = (0..plan.steps.len()).collect();
    for (at, step) in plan.steps.iter().enumerate() {
        step.reads.iter().chain(&step.after).for_each(|from| last_use[*from] = at);
    }
    let mut lanes: Vec<Option<usize>> = Vec::new();
    let mut out = String::new();
    for (at, step) in plan.steps.iter().enumerate() {
        let sources: Vec<usize> = step.reads.iter().chain(&step.after).copied().collect();
        // A step takes the lane of a source that nothing after it reads, or a free one.
        let ending =
            lanes.iter().position(|lane| lane.is_some_and(|from| sources.contains(&from) && last_use[from] == at));
        let lane = ending.or_else(|| lanes.iter().position(Option::is_none)).unwrap_or_else(|| {
            lanes.push(None);
            lanes.len() - 1
        });
        let drawn = lanes.len() <= MOST_LANES;
        if drawn {
            let mut row = String::new();
            let joined: Vec<usize> =
                (0..lanes.len()).filter(|other| lanes[*other].is_some_and(|from| sources.contains(&from))).collect();
            let left = joined.iter().copied().chain([lane]).min().unwrap_or(lane);
            let right = joined.iter().copied().chain([lane]).max().unwrap_or(lane);
            for (column, held) in lanes.iter().enumerate() {
                let ends = held.is_some_and(|from| last_use[from] == at);
                let mark = match () {
                    () if column == lane => '●',
                    () if joined.contains(&column) && column > lane => {
                        if ends {
                            '╯'
                        } else {
                            '┤'
                        }
                    }
                    () if joined.contains(&column) => {
                        if ends {
                            '╰'
                        } else {
                            '├'
                        }
                    }
                    () if held.is_some() && column > left && column < right => '┼',
                    () if held.is_some() => '│',
                    () if column > left && column < right => '─',
                    () => ' ',
                };
                row.push(mark);
                row.push(if column >= left && column < right { '─' } else { ' ' });
            }
            let _ = write!(out, "{row} ");
        }
        let mut line = format!("{:<width$}  {}{}", step.id, action(step), marks(step));
        let from: Vec<String> =
            links(step).iter().map(|(from, what)| format!("{}.{what}", plan.steps[*from].id)).collect();
        if !from.is_empty() {
            line.push_str(&format!("  <- {}", from.join(", ")));
        }
        let _ = writeln!(out, "{}", line.trim_end());
        for held in &mut lanes {
            if held.is_some_and(|from| last_use[from] == at) {
                *held = None;
            }
        }
        lanes[lane] = (last_use[at] > at).then_some(at);
        while lanes.last() == Some(&None) {
            lanes.pop();
        }
    }
    for output in &plan.outputs {
        if let OutputSource::Output { step, output: from } = &output.from {
            let _ = writeln!(out, "=> {}: {}.{from}", output.name, plan.steps[*step].id);
        }
    }
    out
}
