//! Whole texts: those that are stored, and those that are too large or too odd to be.

use std::time::{Duration, Instant};

use swath_flow::render_all;
use swath_plan::{Catalogue, terminal};

use crate::fixture;
use crate::support::{codes, diagnose, diagnose_in, flows, with_input};

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
