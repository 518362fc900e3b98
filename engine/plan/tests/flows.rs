//! `flows/valid` and `flows/invalid` over a catalogue of toy tasks, and texts too large or too odd to be stored.
//! What the user sees of each stored flow is held in `engine/cli/tests/flows.rs`.

mod fixture;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use expect_test::expect;
use serde_json::{Value, json};
use swath_flow::{Diagnostic, Scope, render_all};
use swath_plan::{
    Catalogue, Given, PlanInput, borrowed, check, dot, flow_schema, mermaid, plan, reference_pages, terminal,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn with_input<T>(catalogue: &Catalogue, params: &[(String, Given)], work: impl FnOnce(PlanInput<'_>) -> T) -> T {
    within("valid", catalogue, params, work)
}

/// Plans in `flows/KIND`.
fn within<T>(
    kind: &str,
    catalogue: &Catalogue,
    params: &[(String, Given)],
    work: impl FnOnce(PlanInput<'_>) -> T,
) -> T {
    let folder = root().join("flows").join(kind);
    let load = |path: &Path| {
        let in_flows = path.starts_with(root().join("flows"));
        if !in_flows {
            return Err("it does not exist".to_owned());
        }
        std::fs::read(path).map_err(|_| "it does not exist".to_owned())
    };
    work(PlanInput {
        catalogue,
        params,
        params_folder: Path::new("/home/user"),
        folder: &folder,
        now: "2024-08-15T10:20:30Z".parse().unwrap(),
        load: &load,
    })
}

fn diagnose(name: &str, bytes: &[u8]) -> Vec<Diagnostic> {
    diagnose_in("valid", name, bytes)
}

fn diagnose_in(kind: &str, name: &str, bytes: &[u8]) -> Vec<Diagnostic> {
    let catalogue = Catalogue::new(&[fixture::TASKS]);
    let reading = swath_flow::read(name, bytes);
    let mut all = reading.diagnostics;
    if let Some(flow) = &reading.flow {
        all.extend(within(kind, &catalogue, &[], |input| check(flow, input)));
    }
    all
}

fn see(text: &str) -> String {
    render_all(&diagnose("flow.yaml", text.as_bytes()), false)
}

fn codes(bytes: &[u8]) -> Vec<&'static str> {
    diagnose("flow.yaml", bytes).iter().map(|one| one.code).collect()
}

fn flows(kind: &str) -> Vec<PathBuf> {
    let folder = root().join("flows").join(kind);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

#[test]
fn every_valid_flow_is_planned() {
    let catalogue = Catalogue::new(&[fixture::TASKS]);
    let files = flows("valid");
    assert!(files.len() >= 25, "{}", files.len());
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let reading = swath_flow::read(name, &bytes);
        assert!(reading.diagnostics.is_empty(), "{}", render_all(&reading.diagnostics, false));
        let flow = reading.flow.unwrap();
        let planned = with_input(&catalogue, &[], |input| swath_plan::sketch(&flow, input));
        let plan = planned.unwrap_or_else(|all| panic!("{}", render_all(&all, false)));
        // What is pinned in the store is what was planned.
        let again: swath_plan::Plan = serde_json::from_str(&serde_json::to_string(&plan).unwrap()).unwrap();
        assert_eq!(again, plan, "{name}");
        for (at, step) in plan.steps.iter().enumerate() {
            assert!(step.reads.iter().chain(&step.after).all(|from| *from < at), "{name}: {}", step.id);
        }
        assert!(!terminal(&plan).is_empty(), "{name}");
    }
}

#[test]
fn every_invalid_flow_is_refused() {
    let files = flows("invalid");
    assert!(files.len() >= 45, "{}", files.len());
    for path in files {
        let bytes = std::fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let all = diagnose_in("invalid", name, &bytes);
        assert!(!all.is_empty(), "{name} is valid");
    }
}

/// Runs on a thread with a small stack, against a clock.
fn ends<T: Send>(limit: Duration, work: impl FnOnce() -> T + Send) -> T {
    let start = Instant::now();
    let done = std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(2 << 20).spawn_scoped(scope, work).unwrap().join().unwrap()
    });
    assert!(start.elapsed() < limit, "took {:?}", start.elapsed());
    done
}

#[test]
fn a_flow_of_a_hundred_thousand_steps_is_planned_in_seconds() {
    let mut text = String::from("flow: long\nsteps:\n  s0: { task: run.command, with: { command: [\"true\"] } }\n");
    for at in 1..100_000 {
        text.push_str(&format!(
            "  s{at}: {{ task: run.command, with: {{ command: [\"true\"] }}, after: [s{}] }}\n",
            at - 1
        ));
    }
    assert_eq!(ends(Duration::from_secs(60), || codes(text.as_bytes())), Vec::<&str>::new());
    text.push_str("  one_more: { task: run.command, with: { command: [\"true\"] } }\n");
    assert_eq!(ends(Duration::from_secs(60), || codes(text.as_bytes())), ["F113"]);
}

#[test]
fn hostile_texts_end_soon_with_an_error_that_names_the_cause() {
    let second = Duration::from_secs(10);
    let steps = "steps: { a: { task: run.command, with: { command: [x] } } }\n";
    let brackets = "[".repeat(100_000);
    let braces = "{a: ".repeat(100_000);
    let blocks: String = (0..2_000).map(|depth| format!("{}- \n", " ".repeat(depth))).collect();
    for text in [&brackets, &braces, &format!("flow: x\nabout: {brackets}"), &blocks] {
        let codes = ends(second, || codes(text.as_bytes()));
        assert!(matches!(codes.as_slice(), ["F005"] | ["F004"]), "{codes:?}");
    }
    let nested =
        |depth: usize| format!("flow: x\n{steps}outputs: {{ deep: {}1{} }}\n", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(codes(nested(30).as_bytes()), Vec::<&str>::new());
    assert_eq!(codes(nested(33).as_bytes()), ["F005"]);

    let mut laughs = String::from("flow: x\nabout: y\nouts: \n  - &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for at in 1..20 {
        let one = format!("*a{}", at - 1);
        laughs.push_str(&format!("  - &a{at} [{}]\n", [one.as_str(); 9].join(", ")));
    }
    assert_eq!(ends(second, || codes(laughs.as_bytes())), ["F006"]);
    assert_eq!(codes(b"flow: &x [*x]\n"), ["F007"]);
    let anchors: String = (0..30).map(|at| format!("&a{at} [")).collect();
    let anchored = format!("flow: x\nabout: {anchors}{}{}\n", "1, ".repeat(200_000), "]".repeat(30));
    assert_eq!(ends(second, || codes(anchored.as_bytes())), ["F006"]);

    let scalar = format!("flow: x\nabout: {}\n{steps}", "a".repeat(2 << 20));
    assert_eq!(ends(second, || codes(scalar.as_bytes())), ["F001"]);
    let huge = format!("flow: x\nabout: {}\n{steps}", "a".repeat(20 << 20));
    assert_eq!(ends(second, || codes(huge.as_bytes())), ["F001"]);
    assert_eq!(codes(b"flow: x\nabout: \xff\xfe\n"), ["F002"]);
    assert_eq!(codes("flow: x\nabout: a\0b\n".as_bytes()), ["F003"]);
    assert_eq!(codes("flow: x\nabout: a\u{202e}b\n".as_bytes()), ["F003"]);
    assert_eq!(codes(format!("\u{feff}flow: x\n{steps}").as_bytes()), Vec::<&str>::new());
    assert_eq!(codes(b"\xff\xfef\0l\0"), ["F002"]);
    assert_eq!(codes(b""), ["F012"]);
    let digits = format!("flow: x\nabout: {}\n", "9".repeat(100_000));
    assert!(ends(second, || codes(digits.as_bytes())).contains(&"F013"));
    let dollars =
        format!("flow: x\nsteps: {{ a: {{ task: run.command, with: {{ command: ['{}'] }} }} }}\n", "${".repeat(50_000));
    assert!(ends(second, || codes(dollars.as_bytes())).contains(&"F111"));

    // A cycle of a thousand steps is told in one line.
    let mut cycle = String::from("flow: ring\nsteps:\n");
    for at in 0..1_000 {
        cycle.push_str(&format!(
            "  s{at}: {{ task: run.command, with: {{ command: [x] }}, after: [s{}] }}\n",
            (at + 1) % 1_000
        ));
    }
    let all = ends(second, || diagnose("flow.yaml", cycle.as_bytes()));
    assert_eq!(all.len(), 1);
    assert!(all[0].message.len() < 200 && all[0].message.contains("994 more"), "{}", all[0].message);

    // So are inputs that are connected to nothing, in a flow so long that no search over all of it would end.
    let mut loose = String::from("flow: loose\nsteps:\n");
    for at in 0..50_000 {
        loose.push_str(&format!("  s{at}: {{ task: raster.indices, with: {{ indices: [NDVI] }} }}\n"));
    }
    let all = ends(Duration::from_secs(30), || codes(loose.as_bytes()));
    assert!(all.len() == 201 && all[0] == "F305", "{}", all.len());

    // Mistakes without number do not make a report without end.
    let mut wrong = String::from("flow: wrong\nsteps:\n");
    for at in 0..20_000 {
        wrong.push_str(&format!("  s{at}: {{ task: no.such_{at}, in: {{ a: t{at}.x }} }}\n"));
    }
    let all = ends(Duration::from_secs(30), || codes(wrong.as_bytes()));
    assert!(all.len() <= 201 && all.last() == Some(&"F016"), "{}", all.len());
}

#[test]
fn any_piece_of_a_flow_is_read_without_a_panic() {
    let mut texts: Vec<Vec<u8>> =
        ["valid", "invalid"].iter().flat_map(|kind| flows(kind)).map(|path| std::fs::read(path).unwrap()).collect();
    texts.retain(|text| text.len() < 1_500);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize
    };
    let pieces: [&[u8]; 14] =
        [b"{", b"}", b"[", b"]", b": ", b"\n", b"- ", b"&a ", b"*a", b"${", b"}", b"\xff", b"'", b"!!x "];
    for _ in 0..1_500 {
        let mut text = texts[random() % texts.len()].clone();
        for _ in 0..1 + random() % 3 {
            let at = random() % (text.len() + 1);
            match random() % 3 {
                0 => text.truncate(at),
                1 => drop(text.splice(at..at, pieces[random() % pieces.len()].iter().copied())),
                _ => drop(text.drain(at..(at + random() % 20).min(text.len()))),
            }
        }
        render_all(&diagnose("mutant.yaml", &text), true);
    }
}

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

fn plan_text(text: &str, params: &[(&str, &str)]) -> Result<swath_plan::Plan, String> {
    let catalogue = Catalogue::new(&[fixture::TASKS]);
    let reading = swath_flow::read("flow.yaml", text.as_bytes());
    assert!(reading.diagnostics.is_empty(), "{}", render_all(&reading.diagnostics, false));
    let params: Vec<(String, Given)> =
        params.iter().map(|(name, value)| ((*name).to_owned(), Given::Text((*value).to_owned()))).collect();
    with_input(&catalogue, &params, |input| plan(&reading.flow.unwrap(), input)).map_err(|all| render_all(&all, false))
}

const PARAMETERS: &str = "
flow: parameters
params:
  area: { type: aoi }
  period: { type: period, default: P90D/now }
  method: { type: enum, values: [median, mean], default: median }
  cover: { type: number, default: 20, min: 0, max: 100 }
  token: { type: secret, default: STAC_TOKEN }
steps:
  search:
    task: stac.search
    with:
      catalog: data/catalog.json
      area: $area
      period: $period
      max_cloud_cover: ${params.cover / 2.0}
      secret_headers: { authorization: $token }
  composite:
    task: raster.composite
    in: { scenes: search.scenes }
    with: { bands: [B02], method: $method }
    when: ${steps.search.count > 3}
";

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
fn a_step_that_runs_a_flow_has_no_needs() {
    let text = std::fs::read_to_string(root().join("flows/valid/sub-flow-defaults.yaml")).unwrap();
    let plan = plan_text(&text, &[]).unwrap();
    assert_eq!(plan.step("lake").unwrap().needs, swath_plan::NeedsOverride::default());
    assert_eq!(plan.step("keep").unwrap().needs.cpu, Some(2.0));
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
fn the_schema_accepts_valid_flows_and_the_reference_has_a_page_a_task() {
    let catalogue = Catalogue::new(&[fixture::TASKS]);
    let schema = flow_schema(&catalogue);
    let validator = jsonschema::validator_for(&schema).unwrap();
    for path in flows("valid") {
        let source = std::sync::Arc::new(swath_flow::Source::new("flow.yaml", std::fs::read_to_string(&path).unwrap()));
        let value = swath_flow::to_json(&source).unwrap();
        let errors: Vec<String> =
            validator.iter_errors(&value).map(|error| format!("{} at {}", error, error.instance_path())).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
    }
    let wrong = json!({ "flow": "x", "steps": { "a": { "task": "raster.indices", "with": { "index": [] } } } });
    assert!(!validator.is_valid(&wrong));
    let flow = |needs: &str| json!({ "flow": "x", "steps": { "a": { "flow": "y.yaml", needs: {} } } });
    assert!(!validator.is_valid(&flow("needs")) && validator.is_valid(&flow("with")));
    let pages = reference_pages(&catalogue);
    assert_eq!(pages.len(), fixture::TASKS.len() + 1);
    let page = &pages.iter().find(|(name, _)| name == "stac.search.md").unwrap().1;
    assert!(page.contains("| `max_cloud_cover` | number 0 to 100 |  | Most cloud cover in percent. |"), "{page}");
    assert!(page.contains("| `catalog` | path | required |"), "{page}");
}

#[test]
fn every_code_in_the_sources_has_a_page_and_every_page_a_code() {
    let mut used = std::collections::BTreeSet::new();
    let mut folders = vec![root().join("engine/flow/src"), root().join("engine/plan/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            for part in text.split('"').filter(|part| part.len() == 4 && part.starts_with('F')) {
                if part[1..].bytes().all(|b| b.is_ascii_digit()) {
                    used.insert(part.to_owned());
                }
            }
        }
    }
    let pages: std::collections::BTreeSet<String> = std::fs::read_dir(root().join("docs/errors"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name.starts_with('F'))
        .collect();
    assert_eq!(used, pages);
    for code in pages {
        let text = std::fs::read_to_string(root().join(format!("docs/errors/{code}.md"))).unwrap();
        assert!(text.starts_with(&format!("# {code}: ")), "{code}");
        let lines = text.lines().count();
        assert!((8..=30).contains(&lines), "{code} has {lines} lines");
    }
}

#[test]
fn every_yaml_block_of_the_guide_is_a_flow_without_mistakes() {
    let guide = std::fs::read_to_string(root().join("docs/flow-language.md")).unwrap();
    let mut blocks = 0;
    for block in guide.split("```yaml\n").skip(1) {
        let text = block.split("```").next().unwrap();
        // A block that begins with a step or a field is a part of a flow.
        let whole = if text.starts_with("flow:") || text.starts_with('#') {
            text.to_owned()
        } else if ["params:", "steps:", "outputs:", "defaults:"].iter().any(|field| text.starts_with(field)) {
            let steps = if text.contains("steps:") {
                ""
            } else {
                "steps: { a: { task: run.command, with: { command: [x] } } }\n"
            };
            format!("flow: block\n{text}{steps}")
        } else {
            panic!("a block begins with a field of a flow:\n{text}");
        };
        let all = diagnose("flow.yaml", whole.as_bytes());
        assert!(all.is_empty(), "{whole}\n{}", render_all(&all, false));
        blocks += 1;
    }
    assert!(blocks >= 9, "{blocks}");
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
