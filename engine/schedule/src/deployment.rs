//! How a flow goes once it is deployed: when, on what occasions, how many at a time, and who is told.

use std::time::Duration;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};

use crate::policy::Concurrency;
use crate::spec::{Problem, ScheduleSpec, length};

/// How a flow goes once it is deployed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeploymentSpec {
    /// When it is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleSpec>,
    /// What else starts it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// What happens when a run is due while as many are live as may be.
    pub while_running: Concurrency,
    /// How many of its runs may be live at once.
    #[schemars(range(min = 1))]
    pub max_running: u32,
    /// Who is told of its runs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// A run that has not ended so long after it was due is late, such as `2h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_after: Option<String>,
}

impl Default for DeploymentSpec {
    fn default() -> Self {
        Self {
            schedule: None,
            triggers: Vec::new(),
            while_running: Concurrency::default(),
            max_running: 1,
            hooks: Vec::new(),
            late_after: None,
        }
    }
}

/// What starts a run besides the clock. Exactly one of `after` and `webhook` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Trigger {
    /// The name of another deployment: a run of it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// How that run has ended; `completed` where nothing is given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<RunEnding>,
    /// The name of an output of that run: it counts only when this is neither false, 0, empty nor missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// The name of the environment variable that holds the secret of a webhook: a request to `/hooks/NAME` that is
    /// signed with it starts a run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
}

/// How a run has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunEnding {
    /// Every step is done.
    Completed,
    /// A step failed for good.
    Failed,
    /// It was told to end.
    Cancelled,
}

/// Whom to tell of what. Exactly one of `url` and `command` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hook {
    /// What is told.
    pub on: Vec<Happening>,
    /// An address that is told by a POST request with a JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The name of the environment variable that holds the secret which the request is signed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// A program and its arguments: it gets the same JSON object on standard input.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

/// What hooks are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// A run has completed.
    Completed,
    /// A run has failed, or could not be started.
    Failed,
    /// A run was cancelled.
    Cancelled,
    /// A run has not ended `late_after` after it was due.
    Late,
}

impl Happening {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Late => "late",
        }
    }
}

impl RunEnding {
    /// Its name in the store.
    pub fn name(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Trigger {
    /// Whether it counts that a run has ended in the state of this name.
    pub fn counts(&self, state: &str) -> bool {
        match self.states.as_slice() {
            [] => state == RunEnding::Completed.name(),
            states => states.iter().any(|one| one.name() == state),
        }
    }
}

impl DeploymentSpec {
    /// JSON Schema, without references.
    pub fn schema() -> serde_json::Value {
        let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
        settings.into_generator().into_root_schema_for::<Self>().to_value()
    }

    /// How many of its runs may be live at once.
    pub fn most_running(&self) -> usize {
        self.max_running.max(1) as usize
    }

    /// How long after it was due a run is late.
    pub fn late_after(&self) -> Option<Duration> {
        length(self.late_after.as_deref()?).ok().map(|length| length.unsigned_abs())
    }

    /// Everything that is wrong with it.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut wrong = |at: String, message: &str| problems.push(Problem { at, message: message.to_owned() });
        for (index, trigger) in self.triggers.iter().enumerate() {
            let at = format!("/triggers/{index}");
            if let Some(variable) = &trigger.webhook {
                check_variable(&mut wrong, format!("{at}/webhook"), variable);
            }
            match (&trigger.after, &trigger.webhook) {
                (Some(_), None) => {}
                (None, Some(_)) => {
                    for (field, given) in [("states", !trigger.states.is_empty()), ("output", trigger.output.is_some())]
                    {
                        if given {
                            wrong(format!("{at}/{field}"), "it means something for `after` only");
                        }
                    }
                }
                _ => wrong(at, "a trigger has one of `after` and `webhook`"),
            }
        }
        if self.triggers.iter().filter(|trigger| trigger.webhook.is_some()).count() > 1 {
            wrong("/triggers".to_owned(), "a deployment has one webhook at most");
        }
        for (index, hook) in self.hooks.iter().enumerate() {
            let at = format!("/hooks/{index}");
            if hook.on.is_empty() {
                wrong(format!("{at}/on"), "a hook says what it is told `on`: `on: [failed, late]`");
            }
            if hook.on.contains(&Happening::Late) && self.late_after.is_none() {
                wrong(format!("{at}/on"), "nothing is ever late without `late_after`: `late_after: 2h`");
            }
            if hook.url.is_some() != hook.command.is_empty() {
                wrong(at.clone(), "a hook has one of `url` and `command`");
            }
            if let Some(url) = &hook.url
                && !url.starts_with("https://")
                && !url.starts_with("http://")
            {
                wrong(format!("{at}/url"), "an address begins with `https://` or `http://`");
            }
            match &hook.secret {
                Some(_) if hook.url.is_none() => {
                    wrong(format!("{at}/secret"), "it means something for `url` only");
                }
                Some(variable) => check_variable(&mut wrong, format!("{at}/secret"), variable),
                None => {}
            }
        }
        if let Some(Err(message)) = self.late_after.as_deref().map(length) {
            wrong("/late_after".to_owned(), &message);
        }
        let of_schedule = self.schedule.as_ref().and_then(|schedule| schedule.compile().err()).unwrap_or_default();
        problems.extend(of_schedule.into_iter().map(|one| Problem { at: format!("/schedule{}", one.at), ..one }));
        problems
    }
}

/// A secret is named, never written.
fn check_variable(wrong: &mut impl FnMut(String, &str), at: String, name: &str) {
    let is_variable = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    if !is_variable {
        wrong(at, "this is the name of an environment variable, in capitals: the secret itself is never written");
    }
}
