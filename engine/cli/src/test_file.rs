//! Tests of a flow: `detect.test.yaml` beside `detect.yaml`. What such a file may say, and whether it fits the flow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use swath_flow::{Data, Diagnostic, Node, Source, Span, did_you_mean};
use swath_plan::{Plan, PlannedStep};

/// A file of tests.
pub(crate) struct TestFile {
    /// The flow they are of.
    pub flow: PathBuf,
    /// The tests, in the order of the text.
    pub tests: Vec<(String, Test)>,
    source: Arc<Source>,
    root: Node,
}

/// One test.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Test {
    /// Parameters of the flow, as they are written in it.
    pub params: BTreeMap<String, Value>,
    /// Steps that are faked.
    pub fake: BTreeMap<String, FakedStep>,
    /// What is to come of it.
    pub expect: Expected,
}

/// What a faked step does.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FakedStep {
    /// Its outputs. An artifact is the path of a file, or `{ text: ... }`.
    pub outputs: BTreeMap<String, Value>,
    /// How it fails.
    pub fault: Option<FakedFault>,
    /// Instances of a lifted step that do something else, by index.
    pub instances: BTreeMap<u64, FakedStep>,
}

/// How a faked step fails.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FakedFault {
    /// What it says.
    pub message: String,
    /// Its code.
    #[serde(default = "faked_code")]
    pub code: String,
    /// Whether it may pass by itself.
    #[serde(default)]
    pub transient: bool,
    /// How many attempts fail; all of them without it.
    #[serde(default = "always")]
    pub times: u32,
}

fn faked_code() -> String {
    "E321".to_owned()
}

fn always() -> u32 {
    u32::MAX
}

/// What is to come of a run.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expected {
    /// How it ends; completed without it.
    pub run: Option<String>,
    /// How steps end.
    pub steps: BTreeMap<String, ExpectedStep>,
    /// Outputs of the flow.
    pub outputs: BTreeMap<String, Value>,
}

/// How a step is to end.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum ExpectedStep {
    /// Its state.
    State(String),
    /// Its state and more.
    More(StepEnd),
}

/// How a step is to end, in detail.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StepEnd {
    /// Its state.
    pub state: Option<String>,
    /// Code of a fault it fails with.
    pub code: Option<String>,
    /// How many instances it has.
    pub instances: Option<u32>,
    /// How many attempts of it begin, those of all instances together.
    pub attempts: Option<usize>,
}

impl ExpectedStep {
    pub fn state(&self) -> Option<&str> {
        match self {
            Self::State(state) => Some(state),
            Self::More(more) => more.state.as_deref(),
        }
    }
}

/// States that a step may be expected in.
pub(crate) const STEP_STATES: [&str; 5] = ["succeeded", "failed", "skipped", "not run", "cancelled"];
const RUN_STATES: [&str; 2] = ["completed", "failed"];

/// The file of tests that is meant: itself, or the one beside a flow.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml")) {
        Some(stem) if !stem.ends_with(".test") => path.with_file_name(format!("{stem}.test.yaml")),
        _ => path.to_owned(),
    }
}

/// Reads a file of tests.
pub(crate) fn read(path: &Path, bytes: &[u8]) -> Result<TestFile, Vec<Diagnostic>> {
    let (source, root) = swath_flow::read_tree(&path.display().to_string(), bytes)?;
    let wrong = |span: Span, message: String, help: Option<&str>| {
        vec![Diagnostic::at("X110", &source, span, message).maybe_help(help.map(str::to_owned))]
    };
    let help = "a file of tests has `tests: { NAME: { params, fake, expect } }`; `swath explain X110` shows one";
    let Data::Mapping(entries) = &root.data else {
        return Err(wrong(root.span, format!("a file of tests is a mapping, this is {}", root.kind()), Some(help)));
    };
    if let Some((key, _)) = entries.iter().find(|(key, _)| !matches!(key.value.as_str(), "flow" | "tests")) {
        return Err(wrong(key.span, format!("a file of tests has no `{}`", key.value), Some(help)));
    }
    let named = match root.get("flow") {
        None => path.file_name().map(|name| name.to_string_lossy().replace(".test.", ".")),
        Some(node) => node.as_str().map(str::to_owned),
    };
    let Some(named) = named else { return Err(wrong(root.span, "`flow` is the path of a flow".to_owned(), None)) };
    let flow = path.parent().unwrap_or(Path::new("")).join(named);
    let Some(Node { data: Data::Mapping(written), .. }) = root.get("tests") else {
        return Err(wrong(root.span, "there are no `tests`".to_owned(), Some(help)));
    };
    let (mut tests, mut problems) = (Vec::new(), Vec::new());
    for (name, node) in written {
        match serde_json::from_value::<Test>(node.to_json()) {
            Ok(test) => tests.push((name.value.clone(), test)),
            Err(error) => {
                problems.extend(wrong(
                    name.span,
                    format!("the test `{}` cannot be read: {error}", name.value),
                    Some(help),
                ));
            }
        }
    }
    if problems.is_empty() { Ok(TestFile { flow, tests, source, root }) } else { Err(problems) }
}

impl TestFile {
    /// Everything in a test that does not fit the plan of its flow.
    pub fn check(&self, name: &str, test: &Test, plan: &Plan) -> Vec<Diagnostic> {
        let mut problems = Vec::new();
        let mut wrong = |place: &str, message: String, help: Option<String>| {
            let pointer = format!("/tests/{}{place}", name.replace('~', "~0").replace('/', "~1"));
            let span = self.root.key_span_at(&pointer);
            problems.push(Diagnostic::at("X111", &self.source, span, message).maybe_help(help));
        };
        let ids: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).collect();
        let unknown = |step: &str| format!("the flow has no step `{step}`");
        for (id, fake) in &test.fake {
            let Some(step) = plan.step(id) else {
                wrong(&format!("/fake/{id}"), unknown(id), did_you_mean(id, &ids, "its steps are"));
                continue;
            };
            let names: Vec<&str> = step.outputs.iter().map(|output| output.name.as_str()).collect();
            for one in std::iter::once(fake).chain(fake.instances.values()) {
                for output in one.outputs.keys().filter(|output| !names.contains(&output.as_str())) {
                    let message = format!("the step `{id}` has no output `{output}`");
                    wrong(&format!("/fake/{id}/outputs"), message, did_you_mean(output, &names, "it has"));
                }
            }
            if !fake.instances.is_empty() && step.each.is_none() {
                let message = format!("the step `{id}` is not lifted: it has one instance");
                wrong(&format!("/fake/{id}/instances"), message, None);
            }
        }
        for (id, expected) in &test.expect.steps {
            if plan.step(id).is_none() {
                wrong(&format!("/expect/steps/{id}"), unknown(id), did_you_mean(id, &ids, "its steps are"));
            }
            if let Some(state) = expected.state().filter(|state| !STEP_STATES.contains(state)) {
                let help = did_you_mean(state, &STEP_STATES, "it is");
                wrong(&format!("/expect/steps/{id}"), format!("no step ends `{state}`"), help);
            }
        }
        if let Some(state) = test.expect.run.as_deref().filter(|state| !RUN_STATES.contains(state)) {
            wrong("/expect/run", format!("no run ends `{state}`"), did_you_mean(state, &RUN_STATES, "it is"));
        }
        let outputs: Vec<&str> = plan.outputs.iter().map(|output| output.name.as_str()).collect();
        for output in test.expect.outputs.keys().filter(|output| !outputs.contains(&output.as_str())) {
            let message = format!("the flow has no output `{output}`");
            wrong("/expect/outputs", message, did_you_mean(output, &outputs, "its outputs are"));
        }
        problems
    }
}

/// How deep in lists an output of one instance is.
pub(crate) fn lists_of_instance(step: &PlannedStep, lists: u8) -> u8 {
    lists.saturating_sub(u8::from(step.each.is_some()))
}

/// Where a value is not what was expected. An expected mapping holds when each of its entries does; numbers are equal by
/// their value.
pub(crate) fn difference(place: &str, found: &Value, expected: &Value) -> Option<String> {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => expected.iter().find_map(|(key, value)| {
            difference(&format!("{place}.{key}"), found.get(key).unwrap_or(&Value::Null), value)
        }),
        (Value::Array(found), Value::Array(expected)) if found.len() == expected.len() => {
            let pairs = found.iter().zip(expected).enumerate();
            pairs.into_iter().find_map(|(at, (found, value))| difference(&format!("{place}[{at}]"), found, value))
        }
        (Value::Number(one), Value::Number(other)) if one.as_f64() == other.as_f64() => None,
        (found, expected) if found == expected => None,
        (found, expected) => Some(format!("{place} is {found}, expected {expected}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_expected_mapping_holds_when_its_entries_do_and_a_list_when_all_of_it_does() {
        let found = json!({ "n": 1, "list": [{ "a": 1, "b": 2 }], "more": null });
        assert_eq!(difference("o", &found, &json!({ "n": 1.0, "list": [{ "a": 1 }] })), None);
        let told = |expected: Value| difference("o", &found, &expected).unwrap();
        assert_eq!(told(json!({ "n": 2 })), "o.n is 1, expected 2");
        assert_eq!(told(json!({ "list": [{ "b": 3 }] })), "o.list[0].b is 2, expected 3");
        assert_eq!(told(json!({ "list": [] })), "o.list is [{\"a\":1,\"b\":2}], expected []");
        assert_eq!(told(json!({ "none": 1 })), "o.none is null, expected 1");
    }

    #[test]
    fn tests_lie_beside_their_flow() {
        for (path, tests) in [("a/b.yaml", "a/b.test.yaml"), ("b.yml", "b.test.yaml"), ("c.test.yaml", "c.test.yaml")] {
            assert_eq!(beside(Path::new(path)), Path::new(tests));
        }
    }
}
