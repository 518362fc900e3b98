//! What a plan holds: parameters, lists, conditions, flows below flows; and how it is drawn.

use std::path::Path;

use expect_test::expect;
use serde_json::{Value, json};
use swath_flow::{Scope, render_all};
use swath_plan::{Catalogue, PlanInput, borrowed, check, dot, mermaid, plan};

use crate::fixture;
use crate::support::{PARAMETERS, plan_text, root};

#[test]
fn parameters_are_typed_resolved_and_made_absolute() {
    let plan = plan_text(PARAMETERS, &[("area", "lake.geojson"), ("cover", "30.0")]).unwrap();
    let folder = root().join("flows/valid");
    assert_eq!(
        plan.steps[0].with.known(),
        Some(&json!({
            "catalog": folder.join("data/catalog.json").to_str().unwrap(),
            "area": "/home/user/lake.geojson",
            "period": "2024-05-17T10:20:30Z/2024-08-15T10:20:30Z",
            "max_cloud_cover": 15.0,
            "secret_headers": { "authorization": "STAC_TOKEN" },
        }))
    );
    let outputs: Value = json!({ "count": 4 });
    let scope = Scope { params: borrowed(&plan.params), steps: [("search", &outputs)].into(), item: None };
    assert_eq!(plan.steps[1].condition(&scope), Ok(true));
    assert_eq!(plan.steps[1].reads, [0]);
}

#[test]
fn a_lifted_step_makes_lists_and_a_sub_flow_takes_computed_parameters() {
    let text = "
flow: lifted
steps:
  scenes:
    each: [2022, 2023, 2024]
    task: stac.search
    with: { catalog: c.json, period: '${string(item)}-04-01/${string(item)}-09-30' }
  composite:
    each: scenes.scenes
    task: raster.composite
    in: { scenes: item }
    with: { bands: [B04] }
  best:
    flow: detect.yaml
    when: ${size(steps.scenes.count) == 3}
    with: { max_cloud_cover: '${steps.scenes.count[0]}' }
outputs:
  composites: composite.raster
";
    let plan = plan_text(text, &[]).unwrap();
    assert_eq!((plan.outputs[0].lists, plan.steps[1].outputs[0].lists), (1, 1));
    let with = plan.steps[0].with.evaluate(&Scope { item: Some((&json!(2023), 1)), ..Scope::default() }).unwrap();
    assert_eq!(with["period"], "2023-04-01/2023-09-30");
    let swath_plan::Action::Flow(sub) = &plan.steps[2].action else { panic!("a sub-flow") };
    let now = "2024-08-15T00:00:00Z".parse().unwrap();
    let given = json!({ "max_cloud_cover": 12 });
    assert_eq!(sub.bind(given.as_object().unwrap(), now).unwrap()["max_cloud_cover"], 12.0);
    assert!(sub.bind(json!({ "max_cloud_cover": 120 }).as_object().unwrap(), now).is_err());
}

#[test]
fn a_step_that_runs_a_flow_has_no_needs_and_no_process() {
    let text = std::fs::read_to_string(root().join("flows/valid/sub-flow-defaults.yaml")).unwrap();
    let plan = plan_text(&text, &[]).unwrap();
    assert_eq!(plan.step("lake").unwrap().needs, swath_plan::NeedsOverride::default());
    assert_eq!(plan.step("keep").unwrap().needs.cpu, Some(2.0));
    assert_eq!(plan.step("lake").unwrap().isolate, None);
    assert_eq!(plan.step("keep").unwrap().isolate, Some(swath_plan::Isolate::Process));
}

#[test]
fn paths_and_periods_given_to_a_sub_flow_are_those_of_the_giver() {
    let above = "
flow: above
steps:
  lakes:
    each: [north, south]
    flow: below/lake.yaml
    with: { area: \"${'areas/' + item + '.geojson'}\", period: \"${item == 'north' ? 'P1D/now' : '2024-06'}\" }
  one:
    flow: below/lake.yaml
    with: { area: areas/one.geojson, period: P1D/now }
";
    let below = b"
flow: lake
params: { area: { type: aoi }, period: { type: period } }
steps: { a: { task: run.command, with: { command: [\"${params.area}\", \"${params.period}\"] } } }
";
    let reading = swath_flow::read("above.yaml", above.as_bytes());
    let catalogue = Catalogue::new(&[fixture::TASKS]);
    let plan = plan(
        &reading.flow.unwrap(),
        PlanInput {
            fire: None,
            catalogue: &catalogue,
            params: &[],
            params_folder: Path::new("/home/user"),
            folder: Path::new("/flows"),
            now: "2024-08-15T10:20:30Z".parse().unwrap(),
            load: &|_| Ok(below.to_vec()),
        },
    )
    .unwrap_or_else(|all| panic!("{}", render_all(&all, false)));
    let given = |step: usize, item: &Value| {
        let with = plan.steps[step].bind_params(&Scope { item: Some((item, 0)), ..Scope::default() }).unwrap();
        let swath_plan::Action::Flow(sub) = &plan.steps[step].action else { panic!("a sub-flow") };
        // A run that is resumed a year later.
        Value::Object(sub.bind(with.as_object().unwrap(), "2025-08-15T00:00:00Z".parse().unwrap()).unwrap())
    };
    let day = "2024-08-14T10:20:30Z/2024-08-15T10:20:30Z";
    assert_eq!(given(0, &json!("north")), json!({ "area": "/flows/areas/north.geojson", "period": day }));
    assert_eq!(given(1, &json!(null)), json!({ "area": "/flows/areas/one.geojson", "period": day }));
}

#[test]
fn lists_fit_into_lists_and_each_takes_one_level_away() {
    let head = "
flow: lists
steps:
  search: { task: stac.search, with: { catalog: c.json } }
  composite: { task: raster.composite, in: { scenes: search.scenes }, with: { bands: [B04] } }
  split: { task: fixture.split, in: { raster: composite.raster } }
";
    let fits = |rest: &str| plan_text(&format!("{head}{rest}"), &[]);
    let lifted = "  find: { each: split.tiles, task: detect.polygons, in: { raster: item } }\n";
    let one = "  one: { task: detect.polygons, in: { raster: composite.raster } }\n";
    assert!(
        fits(&format!("{lifted}  all: {{ task: fixture.merge, in: {{ detections: find.detections }} }}\n")).is_ok()
    );
    assert!(
        fits(&format!(
            "{one}  all: {{ task: fixture.merge, in: {{ detections: [one.detections, one.detections] }} }}\n"
        ))
        .is_ok()
    );
    let plan = fits(
        "  again: { each: split.tiles, task: fixture.split, in: { raster: item } }\noutputs: { t: again.tiles }\n",
    )
    .unwrap();
    assert_eq!(plan.outputs[0].lists, 2);
    let wrong = fits("  find: { task: detect.polygons, in: { raster: split.tiles } }\n").unwrap_err();
    assert!(wrong.contains("error[F307]") && wrong.contains("each: split.tiles"), "{wrong}");
    let deep = "  again: { each: split.tiles, task: fixture.split, in: { raster: item } }\n  find: { each: again.tiles, task: detect.polygons, in: { raster: item } }\n";
    assert!(fits(deep).unwrap_err().contains("error[F307]"));
    let over_one =
        fits("  find: { each: composite.raster, task: detect.polygons, in: { raster: item } }\n").unwrap_err();
    assert!(over_one.contains("error[F503]"), "{over_one}");
}

#[test]
fn a_run_below_another_has_an_id_that_the_store_takes() {
    let nested = |steps: &str| {
        let text = format!("flow: deep\nsteps: {{ {steps}: {{ flow: next.yaml }} }}\n");
        let last = b"flow: last\nsteps: { a: { task: run.command, with: { command: [x] } } }\n".to_vec();
        let flow = swath_flow::read("deep.yaml", text.as_bytes()).flow.unwrap();
        let catalogue = Catalogue::new(&[fixture::TASKS]);
        // Each flow names the next in a folder of its own, twelve deep.
        let load = |path: &Path| {
            let deep = path.components().count();
            Ok(if deep > 12 { last.clone() } else { text.replace("next.yaml", "in/next.yaml").into_bytes() })
        };
        let input = PlanInput {
            fire: None,
            catalogue: &catalogue,
            params: &[],
            params_folder: Path::new("/"),
            folder: Path::new("/flows"),
            now: "2024-08-15T00:00:00Z".parse().unwrap(),
            load: &load,
        };
        check(&flow, input).iter().map(|one| one.code).collect::<Vec<_>>()
    };
    assert_eq!(nested("lake"), Vec::<&str>::new());
    assert_eq!(nested("a_step_whose_id_is_rather_long"), ["F310"]);
}

#[test]
fn drawings_show_steps_edges_and_conditions() {
    let plan = plan_text(PARAMETERS, &[("area", "1,2,3,4")]).unwrap();
    expect![[r#"
        flowchart LR
            s0["search<br/><small>stac.search</small>"]
            s1["composite<br/><small>raster.composite [when]</small>"]
            s0 -->|"scenes"| s1
    "#]]
    .assert_eq(&mermaid(&plan));
    expect![[r#"
        digraph "parameters" {
            rankdir=LR;
            node [shape=box, style=rounded];
            s0 [label="search\nstac.search"];
            s1 [label="composite\nraster.composite [when]"];
            s0 -> s1 [label="scenes"];
        }
    "#]]
    .assert_eq(&dot(&plan));
}

#[test]
fn a_flow_reads_the_interval_that_its_run_covers() {
    let text = |deployment: &str| {
        format!(
            "flow: scan\n{deployment}steps:\n  a:\n    each: [x]\n    task: run.command\n    with: \
             {{ command: [$schedule.start, \"${{item}} to ${{schedule.end}}\"] }}\n"
        )
    };
    let scheduled = text("deployment: { schedule: { cron: '0 6 * * *' } }\n");
    let command = |plan: &swath_plan::Plan| {
        let scope = Scope { params: borrowed(&plan.params), item: Some((&json!("x"), 0)), ..Scope::default() };
        plan.steps[0].bind_params(&scope).unwrap()["command"].clone()
    };
    // Somebody starts it at 10:20:30: it covers the time since it was last due.
    let plan = plan_text(&scheduled, &[]).unwrap();
    assert_eq!(command(&plan), json!(["2024-08-15T06:00:00Z", "x to 2024-08-15T10:20:30Z"]));
    assert_eq!(plan.params["schedule"]["start"], "2024-08-15T06:00:00Z");
    assert_eq!(plan_text(&text(""), &[]).unwrap_err().matches("error[F207]").count(), 2);
    // Checking does not need it: a deployment may bring the schedule.
    let reading = swath_flow::read("scan.yaml", text("").as_bytes());
    let catalogue = Catalogue::new(&[fixture::TASKS]);
    let problems = crate::support::with_input(&catalogue, &[], |input| check(reading.flow.as_ref().unwrap(), input));
    assert!(problems.is_empty(), "{}", render_all(&problems, false));
    let fire = swath_schedule::Fire {
        since: "2024-05-01T00:00:00Z".parse().unwrap(),
        at: "2024-05-02T00:00:00Z".parse().unwrap(),
    };
    let given = crate::support::with_input(&catalogue, &[], |input| {
        swath_plan::plan(reading.flow.as_ref().unwrap(), PlanInput { fire: Some(fire), ..input })
    });
    assert_eq!(command(&given.unwrap()), json!(["2024-05-01T00:00:00Z", "x to 2024-05-02T00:00:00Z"]));
}
