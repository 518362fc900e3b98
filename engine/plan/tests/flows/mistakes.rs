//! What is told of mistakes: all at once, each once, where it was made.

use expect_test::expect;
use serde_json::json;

use crate::support::{PARAMETERS, codes, diagnose, plan_text, see};

#[test]
fn all_mistakes_are_told_at_once_and_in_the_order_of_the_text() {
    let text = "\
flow: many
params:
  area: { typ: aoi }
  n: { type: integer, default: many }
steps:
  search:
    task: stac.serach
  composite:
    task: raster.composite
    in: { scenes: serch.scenes }
    with: { bands: [B02], method: medain, area: $aera }
    timeout: -5s
";
    expect![[r#"
        error[F102]: the parameter `area` has no `type`
         --> flow.yaml:3:3
          |
        3 |   area: { typ: aoi }
          |   ^^^^
          |
          = help: the types are `string`, `integer`, `number`, `boolean`, `enum`, `date`, `period`, `bbox`, `aoi`, `path`, `uri`, `model` and `secret`

        error[F101]: the parameter `area` has no field `typ`
         --> flow.yaml:3:11
    "#]]
    .assert_eq(&see(text).lines().take(10).fold(String::new(), |all, line| all + line + "\n"));
    let codes = codes(text.as_bytes());
    for code in ["F101", "F102", "F107", "F201", "F202", "F301", "F302", "F404"] {
        assert!(codes.contains(&code), "{code} in {codes:?}");
    }
}

#[test]
fn a_task_tells_its_own_mistakes_beside_those_of_the_schema_and_none_that_only_follow() {
    let composite = |with: &str| {
        let head = "flow: x\nsteps:\n  s: { task: stac.search, with: { catalog: c.json } }\n";
        let step = format!("  c: {{ task: raster.composite, in: {{ scenes: s.scenes }}, with: {{ {with} }} }}\n");
        codes(format!("{head}{step}").as_bytes())
    };
    let mut both = composite("bands: [B02, B02], method: medain, resolution: 0");
    both.sort_unstable();
    assert_eq!(both, ["F404", "F405", "F406"]);
    assert_eq!(composite("bands: [B02, B02], resolutoin: 10"), ["F406", "F401"]);
    // The list that the task would check is itself faulty, or missing.
    assert_eq!(composite("bands: [B02, B02, 3]"), ["F403"]);
    assert_eq!(composite("method: medain").len(), 2);
    assert_eq!(composite("band: [B02, B02]"), ["F401"]);
}

#[test]
fn what_follows_from_a_mistake_is_not_told_as_another() {
    let text = b"
flow: t
params:
  n: { type: integer, default: 99999999999999999999999999 }
  b: { type: number, default: 1, min: 1e999 }
  area: { type: aio }
steps:
  s: nothing
  t:
    task: run.command
    with: { command: [x, '${params.area}', '${steps.s.out}', '${params.n + 1}'] }
    after: s
outputs:
  o: s.out
  p: $area
";
    assert_eq!(codes(text), ["F013", "F013", "F110", "F103"]);
    let large = codes(b"flow: t\nparams: { n: { type: integer, default: 18446744073709551615 } }\nsteps: { s: { task: run.command, with: { command: [x] } } }\n");
    assert_eq!(large, ["F202"]);
}

#[test]
fn wrong_parameters_are_told_where_they_were_given() {
    expect![[r#"
        error[F205]: the flow `parameters` has no parameter `perriod`
         --> --param:1:1
          |
        1 | perriod=2024
          | ^^^^^^^
          |
          = help: did you mean `period`?

        error[F204]: the parameter `area` (aoi) has no value
         --> flow.yaml:4:3
          |
        4 |   area: { type: aoi }
          |   ^^^^
          |
          = help: give it: `-p area=...`, or write a `default`

        error[F203]: the parameter `method` expects one of `median` and `mean`, got `medain`
         --> --param:1:8
          |
        1 | method=medain
          |        ^^^^^^
          |
          = help: did you mean `median`?

        error[F203]: the parameter `token` expects the name of an environment variable in capitals, not the secret itself
         --> --param:1:7
          |
        1 | token=***
          |       ^^^
          |
          = help: put the secret into an environment variable and give its name, `PC_SUBSCRIPTION_KEY` for example

        4 mistakes; `swath explain F203` tells more
    "#]]
    .assert_eq(&plan_text(PARAMETERS, &[("perriod", "2024"), ("method", "medain"), ("token", "hunter2")]).unwrap_err());
}

#[test]
fn a_report_as_data_has_the_place() {
    let all = diagnose("flow.yaml", b"flow: x\nsteps: { a: { task: nothing.here } }\n");
    let report = serde_json::to_value(all[0].report()).unwrap();
    assert_eq!(
        (&report["code"], &report["line"], &report["column"], &report["file"]),
        (&json!("F301"), &json!(2), &json!(21), &json!("flow.yaml"))
    );
}
