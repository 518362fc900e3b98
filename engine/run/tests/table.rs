//! Every kind of input in every state of an instance and its run: a table of the events that follow.
//!
//! The graph: `a` is evaluated, tried twice and may be lost once; `b` reads `a`; `c` stands alone. Inputs speak of `a`.

use expect_test::expect;
use swath_run::{Event, Failure, Fault, FaultClass, Graph, Input, Machine, Retry, StepSpec};

fn fault() -> Fault {
    Fault::new("T100", "it broke", None)
}

fn begun() -> Machine {
    let step = |id: &str, reads: &[u32]| StepSpec { id: id.into(), reads: reads.to_vec(), ..StepSpec::default() };
    let retry = Retry { times: 1, wait: 100, losses: 1, ..Retry::default() };
    let a = StepSpec { evaluated: true, retry, ..step("a", &[]) };
    let mut machine = Machine::new(Graph { steps: vec![a, step("b", &[0]), step("c", &[])] });
    machine.offer(Input::Begin, 0);
    machine
}

fn given(inputs: impl IntoIterator<Item = Input>) -> Machine {
    let mut machine = begun();
    for input in inputs {
        let now = if input == Input::TimerDue { 100 } else { 0 };
        assert!(!machine.offer(input.clone(), now).is_empty(), "{input:?}");
    }
    machine
}

fn open() -> Input {
    Input::Evaluated { step: 0, outcome: Ok(Some(1)) }
}

fn claim(step: u32) -> Input {
    Input::Claim { step, index: 0 }
}

fn failed(step: u32, epoch: u64, class: FaultClass) -> Input {
    let failure = Failure { class, retry_after: 0, fault: fault() };
    Input::Finished { step, index: 0, epoch, outcome: Err(failure) }
}

fn succeeded(step: u32, epoch: u64) -> Input {
    Input::Finished { step, index: 0, epoch, outcome: Ok(()) }
}

#[test]
fn every_state_meets_every_input() {
    let cancel = Input::Cancel { deadline: 1_000 };
    let fresh = Machine::new(begun().graph().clone());
    let (transient, permanent, lost) = (FaultClass::Transient, FaultClass::Permanent, FaultClass::Lost);
    let states: [(&str, Machine); 15] = [
        ("pending", fresh),
        ("evaluating", given([])),
        ("ready", given([open()])),
        ("running", given([open(), claim(0)])),
        ("running, its last attempt", given([open(), claim(0), failed(0, 1, transient), Input::TimerDue, claim(0)])),
        ("running, lost before", given([open(), claim(0), failed(0, 1, lost), Input::TimerDue, claim(0)])),
        ("running, the run failing", given([open(), claim(0), claim(2), failed(2, 2, permanent)])),
        ("running, the run cancelling", given([open(), claim(0), cancel.clone()])),
        ("running, the run paused", given([open(), claim(0), Input::Pause])),
        ("backoff", given([open(), claim(0), failed(0, 1, transient)])),
        ("backoff, the run paused", given([open(), claim(0), failed(0, 1, transient), Input::Pause])),
        ("succeeded", given([open(), claim(0), succeeded(0, 1)])),
        ("skipped", given([Input::Evaluated { step: 0, outcome: Ok(None) }])),
        ("failed", given([open(), claim(0), failed(0, 1, permanent)])),
        ("cancelled", given([cancel.clone()])),
    ];
    let mut table = String::new();
    for (name, state) in states {
        // The answer of the attempt that runs, or of the last one that might.
        let epoch = state.running().find(|r| r.0 == 0).map_or(1, |r| r.3);
        let inputs = [
            ("begin", Input::Begin, 0),
            ("evaluated: one", open(), 0),
            ("evaluated: none", Input::Evaluated { step: 0, outcome: Ok(Some(0)) }, 0),
            ("evaluated: condition false", Input::Evaluated { step: 0, outcome: Ok(None) }, 0),
            ("evaluated: fault", Input::Evaluated { step: 0, outcome: Err(fault()) }, 0),
            ("claim", claim(0), 0),
            ("claim, no such instance", Input::Claim { step: 0, index: 1 }, 0),
            ("claim, no such step", claim(3), 0),
            ("reused", Input::Reused { step: 0, index: 0 }, 0),
            ("refused", Input::Refused { step: 0, index: 0, fault: fault() }, 0),
            ("finished: success", succeeded(0, epoch), 0),
            ("finished: success, other epoch", succeeded(0, epoch + 7), 0),
            ("finished: transient", failed(0, epoch, transient), 0),
            ("finished: timeout", failed(0, epoch, FaultClass::Timeout), 0),
            ("finished: permanent", failed(0, epoch, permanent), 0),
            ("finished: permanent, other epoch", failed(0, epoch + 7, permanent), 0),
            ("finished: lost", failed(0, epoch, lost), 0),
            ("finished: cancelled", failed(0, epoch, FaultClass::Cancelled), 0),
            ("stopped", Input::Stopped { step: 0, index: 0, epoch }, 0),
            ("stopped, other epoch", Input::Stopped { step: 0, index: 0, epoch: epoch + 7 }, 0),
            ("timer, too early", Input::TimerDue, 99),
            ("timer, in time for a wait", Input::TimerDue, 100),
            ("timer, past the deadline", Input::TimerDue, 1_000),
            ("recovered", Input::Recovered, 0),
            ("cancel", cancel.clone(), 0),
            ("pause", Input::Pause, 0),
            ("unpause", Input::Unpause, 0),
            ("reopen", Input::Reopen, 0),
        ];
        table.push_str(&format!("{name}\n"));
        let mut silent = Vec::new();
        for (said, input, now) in inputs {
            let mut machine = state.clone();
            let events = machine.offer(input, now);
            assert_eq!(machine.check_invariants(), Vec::<String>::new(), "{name}: {said}");
            let of = |event: &Event| match event.step() {
                Some(step) => format!("{}({})", event.kind(), ["a", "b", "c"][step as usize]),
                None => event.kind().to_owned(),
            };
            match events.as_slice() {
                [] => {
                    assert!(machine == state, "{name}: {said} changed the state without an event");
                    silent.push(said);
                }
                events => {
                    let events: Vec<String> = events.iter().map(of).collect();
                    table.push_str(&format!("  {said} -> {}, run {}\n", events.join(" "), machine.state().name()));
                }
            }
        }
        table.push_str(&format!("  nothing: {}\n", silent.join("; ")));
    }
    expect![[r#"
        pending
          begin -> begun opened(c), run running
          cancel -> cancel_requested dropped(a) dropped(b) dropped(c) ended, run cancelled
          nothing: evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; recovered; pause; unpause; reopen
        evaluating
          evaluated: one -> opened(a), run running
          evaluated: none -> opened(a) opened(b), run running
          evaluated: condition false -> skipped(a) skipped(b), run running
          evaluated: fault -> step_failed(a) dropped(c) upstream_failed(b) ended, run failed
          cancel -> cancel_requested dropped(a) dropped(c) dropped(b) ended, run cancelled
          pause -> paused, run paused
          nothing: begin; claim; claim, no such instance; claim, no such step; reused; refused; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; recovered; unpause; reopen
        ready
          claim -> started(a), run running
          reused -> succeeded(a) opened(b), run running
          refused -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          cancel -> cancel_requested dropped(a) dropped(c) dropped(b) ended, run cancelled
          pause -> paused, run paused
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim, no such instance; claim, no such step; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; recovered; unpause; reopen
        running
          finished: success -> succeeded(a) opened(b), run running
          finished: transient -> retried(a), run running
          finished: timeout -> retried(a), run running
          finished: permanent -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          finished: lost -> retried(a), run running
          finished: cancelled -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          stopped -> released(a), run running
          recovered -> retried(a), run running
          cancel -> cancel_requested dropped(c), run cancelling
          pause -> paused, run paused
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success, other epoch; finished: permanent, other epoch; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; unpause; reopen
        running, its last attempt
          finished: success -> succeeded(a) opened(b), run running
          finished: transient -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          finished: timeout -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          finished: permanent -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          finished: lost -> retried(a), run running
          finished: cancelled -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          stopped -> released(a), run running
          recovered -> retried(a), run running
          cancel -> cancel_requested dropped(c), run cancelling
          pause -> paused, run paused
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success, other epoch; finished: permanent, other epoch; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; unpause; reopen
        running, lost before
          finished: success -> succeeded(a) opened(b), run running
          finished: transient -> retried(a), run running
          finished: timeout -> retried(a), run running
          finished: permanent -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          finished: lost -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          finished: cancelled -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          stopped -> released(a), run running
          recovered -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          cancel -> cancel_requested dropped(c), run cancelling
          pause -> paused, run paused
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success, other epoch; finished: permanent, other epoch; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; unpause; reopen
        running, the run failing
          finished: success -> succeeded(a) dropped(b) ended, run failed
          finished: transient -> failed(a) upstream_failed(b) ended, run failed
          finished: timeout -> failed(a) upstream_failed(b) ended, run failed
          finished: permanent -> failed(a) upstream_failed(b) ended, run failed
          finished: lost -> failed(a) upstream_failed(b) ended, run failed
          finished: cancelled -> failed(a) upstream_failed(b) ended, run failed
          stopped -> cancelled(a) dropped(b) ended, run failed
          recovered -> failed(a) upstream_failed(b) ended, run failed
          cancel -> cancel_requested, run cancelling
          pause -> paused, run paused
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success, other epoch; finished: permanent, other epoch; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; unpause; reopen
        running, the run cancelling
          finished: success -> succeeded(a) dropped(b) ended, run cancelled
          finished: transient -> failed(a) upstream_failed(b) ended, run cancelled
          finished: timeout -> failed(a) upstream_failed(b) ended, run cancelled
          finished: permanent -> failed(a) upstream_failed(b) ended, run cancelled
          finished: lost -> failed(a) upstream_failed(b) ended, run cancelled
          finished: cancelled -> cancelled(a) dropped(b) ended, run cancelled
          stopped -> cancelled(a) dropped(b) ended, run cancelled
          timer, past the deadline -> cancelled(a) dropped(b) ended, run cancelled
          recovered -> cancelled(a) dropped(b) ended, run cancelled
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success, other epoch; finished: permanent, other epoch; stopped, other epoch; timer, too early; timer, in time for a wait; cancel; pause; unpause; reopen
        running, the run paused
          finished: success -> succeeded(a) opened(b), run paused
          finished: transient -> retried(a), run paused
          finished: timeout -> retried(a), run paused
          finished: permanent -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          finished: lost -> retried(a), run paused
          finished: cancelled -> failed(a) dropped(c) upstream_failed(b) ended, run failed
          stopped -> released(a), run paused
          recovered -> retried(a), run paused
          cancel -> cancel_requested dropped(c), run cancelling
          unpause -> unpaused, run running
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success, other epoch; finished: permanent, other epoch; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; pause; reopen
        backoff
          timer, in time for a wait -> readied(a), run running
          timer, past the deadline -> readied(a), run running
          cancel -> cancel_requested dropped(a) dropped(c) dropped(b) ended, run cancelled
          pause -> paused, run paused
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; recovered; unpause; reopen
        backoff, the run paused
          cancel -> cancel_requested dropped(a) dropped(c) dropped(b) ended, run cancelled
          unpause -> unpaused, run running
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; recovered; pause; reopen
        succeeded
          cancel -> cancel_requested dropped(b) dropped(c) ended, run cancelled
          pause -> paused, run paused
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; recovered; unpause; reopen
        skipped
          cancel -> cancel_requested dropped(c) ended, run cancelled
          pause -> paused, run paused
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; recovered; unpause; reopen
        failed
          reopen -> reopened, run running
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; recovered; cancel; pause; unpause
        cancelled
          reopen -> reopened, run running
          nothing: begin; evaluated: one; evaluated: none; evaluated: condition false; evaluated: fault; claim; claim, no such instance; claim, no such step; reused; refused; finished: success; finished: success, other epoch; finished: transient; finished: timeout; finished: permanent; finished: permanent, other epoch; finished: lost; finished: cancelled; stopped; stopped, other epoch; timer, too early; timer, in time for a wait; timer, past the deadline; recovered; cancel; pause; unpause
    "#]].assert_eq(&table);
}
