//! Live progress: bars on a terminal, plain lines elsewhere, nothing when quiet.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use swath_host::{AttemptId, Ended, Observer, Unobserved, Update};
use swath_task::{ArtifactRecord, Bytes};

use crate::style;

/// The observer for this command's standard error.
pub(crate) fn observer(quiet: bool) -> Arc<dyn Observer> {
    if quiet {
        Arc::new(Unobserved)
    } else if std::io::stderr().is_terminal() {
        Arc::new(Terminal::default())
    } else {
        Arc::new(Lines::default())
    }
}

/// What is said of a step that ended: mark, words.
fn words(how: &Ended, colour: bool) -> (String, String) {
    match how {
        Ended::Succeeded { took, artifacts } => {
            (style::good("done", colour), format!("{}{}", style::duration(*took), made(artifacts)))
        }
        Ended::Reused { from, artifacts } => (style::good("reused", colour), format!("from {from}{}", made(artifacts))),
        Ended::Failed { error } => (style::error("failed:", colour), error.clone()),
        Ended::Skipped { because } => (style::dim("skipped:", colour), because.clone()),
        Ended::UpstreamFailed => (style::dim("not run:", colour), "something it reads failed".to_owned()),
        Ended::Cancelled => (style::warn("cancelled", colour), String::new()),
    }
}

fn made(artifacts: &[ArtifactRecord]) -> String {
    match artifacts {
        [] => String::new(),
        [one] => format!(", {} ({})", one.name, Bytes(one.size)),
        several => format!(", {} artifacts ({})", several.len(), Bytes(several.iter().map(|a| a.size).sum())),
    }
}

fn name(step: &str, instance: &str) -> String {
    if instance.is_empty() { step.to_owned() } else { format!("{step}[{instance}]") }
}

/// Lifted steps with more instances than this are shown as one.
const MANY: u64 = 12;

#[derive(Default)]
struct Lines {
    expanded: Mutex<HashMap<String, (u64, u64)>>,
}

impl Observer for Lines {
    fn update(&self, _run: &str, update: &Update) {
        match update {
            Update::Retrying { at, error, wait, .. } => {
                tell!("{}: retrying in {}: {error}", name(&at.step, &at.instance), style::duration(*wait));
            }
            Update::StepExpanded { step, count } => {
                tell!("{step}: {count} instances");
                lock(&self.expanded).insert(step.clone(), (0, *count));
            }
            Update::StepEnded { step, instance, how } => {
                let mut expanded = lock(&self.expanded);
                if let (Some((ended, count)), false) = (expanded.get_mut(step), matches!(how, Ended::Failed { .. })) {
                    *ended += 1;
                    if *count > MANY && *ended % count.div_ceil(10) != 0 && ended != count {
                        return;
                    }
                    if *count > MANY {
                        tell!("{step}: {ended} of {count}");
                        return;
                    }
                }
                let (mark, words) = words(how, false);
                tell!("{}: {mark} {words}", name(step, instance));
            }
            _ => {}
        }
    }
}

/// One bar a live attempt, finished steps above them.
struct Terminal {
    bars: MultiProgress,
    live: Mutex<HashMap<AttemptId, Bar>>,
    expanded: Mutex<HashMap<String, (ProgressBar, u64)>>,
}

struct Bar {
    bar: ProgressBar,
    sized: bool,
    shown: Instant,
}

impl Default for Terminal {
    fn default() -> Self {
        Self { bars: MultiProgress::new(), live: Mutex::default(), expanded: Mutex::default() }
    }
}

fn template(text: &str) -> ProgressStyle {
    // The templates are constants of this file: one that does not parse falls back to the default bar.
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Observer for Terminal {
    fn update(&self, _run: &str, update: &Update) {
        match update {
            Update::AttemptStarted { at, .. } => {
                if lock(&self.expanded).get(&at.step).is_some_and(|(_, count)| *count > MANY) {
                    return;
                }
                let bar = self
                    .bars
                    .add(ProgressBar::new_spinner().with_style(template("{spinner:.cyan} {msg:24} {elapsed}")));
                bar.set_message(name(&at.step, &at.instance));
                bar.enable_steady_tick(Duration::from_millis(120));
                lock(&self.live).insert(at.clone(), Bar { bar, sized: false, shown: Instant::now() });
            }
            Update::Progress { at, done, total, unit } => {
                let mut live = lock(&self.live);
                let Some(bar) = live.get_mut(at) else { return };
                // A task may report each of a million tiles.
                if bar.sized && bar.shown.elapsed() < Duration::from_millis(50) && done < total {
                    return;
                }
                bar.shown = Instant::now();
                if !bar.sized && *total > 0 {
                    bar.sized = true;
                    let text = format!(
                        "{{spinner:.cyan}} {{msg:24}} {{bar:30.cyan/dim}} {{pos}}/{{len}} {unit} {{per_sec}} eta {{eta}}"
                    );
                    bar.bar.set_style(template(&text));
                }
                bar.bar.set_length(*total);
                bar.bar.set_position(*done);
            }
            Update::StepExpanded { step, count } => {
                let bar = self.bars.add(ProgressBar::new(*count));
                bar.set_style(template("  {msg:24} {bar:30.blue/dim} {pos}/{len} instances {per_sec}"));
                bar.set_message(step.clone());
                lock(&self.expanded).insert(step.clone(), (bar, *count));
            }
            Update::Retrying { at, error, wait, .. } => {
                self.forget(&at.step, &at.instance);
                let line = format!("{:24} {error}, again in {}", name(&at.step, &at.instance), style::duration(*wait));
                self.say(&format!("{} {line}", style::warn("retry    ", true)));
            }
            Update::StepEnded { step, instance, how } => {
                self.forget(step, instance);
                let mut expanded = lock(&self.expanded);
                if let Some((bar, count)) = expanded.get(step) {
                    bar.inc(1);
                    let all = bar.position() >= *count;
                    if all {
                        bar.finish_and_clear();
                    }
                    if *count > MANY && !all && !matches!(how, Ended::Failed { .. }) {
                        return;
                    }
                    if *count > MANY && all {
                        expanded.remove(step);
                        self.say(&format!("{} {step}, {instance} and all before", style::good("done     ", true)));
                        return;
                    }
                }
                let (mark, words) = words(how, true);
                // Marks carry colour codes of nine characters.
                self.say(&format!("{mark:<18} {:24} {words}", name(step, instance)));
            }
            _ => {}
        }
    }
}

impl Terminal {
    fn forget(&self, step: &str, instance: &str) {
        lock(&self.live).retain(|at, bar| {
            let ended = at.step == step && at.instance == instance;
            if ended {
                bar.bar.finish_and_clear();
            }
            !ended
        });
    }

    fn say(&self, line: &str) {
        // Printing above the bars fails only when the terminal is gone; the run goes on.
        let _ = self.bars.println(line);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
