//! What is written about flows: the schema, the reference, the pages of the codes and the guide.

use serde_json::json;
use swath_flow::render_all;
use swath_plan::{Catalogue, flow_schema, reference_pages};

use crate::fixture;
use crate::support::{diagnose, flows, root};

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
