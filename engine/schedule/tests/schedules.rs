//! Schedules as people write them: what is due, what it covers, what is refused, and what happens to runs.

use jiff::{SignedDuration, Timestamp};
use swath_schedule::{Admission, CatchUp, Concurrency, Gap, Overlap, Schedule, ScheduleSpec, admit, missed};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn spec(json: serde_json::Value) -> ScheduleSpec {
    serde_json::from_value(json).unwrap()
}

fn schedule(json: serde_json::Value) -> Schedule {
    spec(json).compile().unwrap()
}

fn due(schedule: &Schedule, from: &str, to: &str) -> Vec<String> {
    schedule.fires(at(from), at(to)).map(|fire| fire.at.to_string()).collect()
}

#[test]
fn fields_of_cron_count_as_people_know_them() {
    // 2024-07-01 was a Monday.
    for (cron, first) in [
        ("0 6 * * 1", "2024-07-08T06:00:00Z"),
        ("0 6 * * MON", "2024-07-08T06:00:00Z"),
        ("0 6 * * sun", "2024-07-07T06:00:00Z"),
        ("0 6 * * 0", "2024-07-07T06:00:00Z"),
        ("0 6 * * 7", "2024-07-07T06:00:00Z"),
        ("0 6 * * 1-5", "2024-07-02T06:00:00Z"),
        ("*/15 * * * *", "2024-07-01T12:15:00Z"),
        ("30 */5 * * * *", "2024-07-01T12:00:30Z"),
        ("0 0 13 * FRI", "2024-07-05T00:00:00Z"),
        ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
        ("0 0 1 JAN,jul *", "2025-01-01T00:00:00Z"),
        ("@daily", "2024-07-02T00:00:00Z"),
        ("@Hourly", "2024-07-01T13:00:00Z"),
        ("@weekly", "2024-07-07T00:00:00Z"),
    ] {
        let next = schedule(serde_json::json!({ "cron": cron })).next(at("2024-07-01T12:00:00Z")).unwrap();
        assert_eq!(next.at.to_string(), first, "{cron}");
    }
}

#[test]
fn the_clock_of_a_zone_is_followed_by_the_rule_that_is_given() {
    let berlin = |gap: Gap, overlap: Option<Overlap>, cron: &str| {
        ScheduleSpec {
            cron: Some(cron.into()),
            zone: Some("Europe/Berlin".into()),
            gap: Some(gap),
            overlap,
            ..ScheduleSpec::default()
        }
        .compile()
        .unwrap()
    };
    let (spring, autumn) = (("2024-03-30T12:00Z", "2024-03-31T12:00Z"), ("2024-10-26T12:00Z", "2024-10-27T12:00Z"));
    let daily = "30 2 * * *";
    assert_eq!(due(&berlin(Gap::Shift, None, daily), spring.0, spring.1), ["2024-03-31T01:30:00Z"]);
    assert!(due(&berlin(Gap::Skip, None, daily), spring.0, spring.1).is_empty());
    let (first, last) = ("2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z");
    for (overlap, want) in [
        (None, vec![first]),
        (Some(Overlap::First), vec![first]),
        (Some(Overlap::Last), vec![last]),
        (Some(Overlap::Both), vec![first, last]),
    ] {
        assert_eq!(due(&berlin(Gap::Shift, overlap, daily), autumn.0, autumn.1), want);
    }
    // What goes round the clock goes on, an hour apart, in both nights.
    for night in [("2024-03-30T23:00Z", "2024-03-31T04:00Z"), ("2024-10-26T22:00Z", "2024-10-27T03:00Z")] {
        let fires: Vec<_> = berlin(Gap::Shift, None, "0 * * * *").fires(at(night.0), at(night.1)).collect();
        assert_eq!(fires.len(), 5);
        assert!(fires.iter().all(|fire| fire.at.duration_since(fire.since) == SignedDuration::from_hours(1)));
    }
    // A day that a zone left out.
    let samoa = schedule(serde_json::json!({ "cron": "0 12 * * *", "zone": "Pacific/Apia", "gap": "skip" }));
    assert_eq!(
        due(&samoa, "2011-12-29T00:00Z", "2012-01-01T12:00Z"),
        ["2011-12-29T22:00:00Z", "2011-12-30T22:00:00Z", "2011-12-31T22:00:00Z"],
    );
}

#[test]
fn intervals_of_fires_meet() {
    for json in [
        serde_json::json!({ "cron": "30 2 * * *", "zone": "America/New_York" }),
        serde_json::json!({ "cron": "30 2 * * *", "zone": "America/New_York", "gap": "skip", "overlap": "both" }),
        serde_json::json!({ "cron": "*/20 1-3 * * *", "zone": "Australia/Lord_Howe", "overlap": "last" }),
        serde_json::json!({ "cron": "17 3 * 3,10,11 0", "zone": "Asia/Tehran" }),
        serde_json::json!({ "every": "5h", "start": "2024-01-01T01:00Z" }),
        serde_json::json!({ "every": "7d" }),
        serde_json::json!({ "at": ["2024-05-01T00:00Z", "2024-02-01T00:00Z", "2024-05-01T00:00Z", "2024-11-11T11:11Z"] }),
    ] {
        let schedule = schedule(json.clone());
        let fires: Vec<_> = schedule.fires(at("2024-01-01T00:00Z"), at("2025-01-01T00:00Z")).collect();
        assert!(fires.len() >= 3, "{json}");
        for pair in fires.windows(2) {
            assert_eq!(pair[0].at, pair[1].since, "{json}");
        }
        for fire in &fires {
            // Before the first of listed instants there is none.
            assert!(fire.since == fire.at || schedule.latest(fire.since, fire.at) == Some(*fire), "{json} {fire:?}");
        }
    }
}

#[test]
fn a_schedule_begins_and_ends_when_it_says() {
    let json = serde_json::json!({ "cron": "0 0 * * *", "start": "2024-03-01T00:00Z", "end": "2024-03-03T00:00Z" });
    let days = ["2024-03-01T00:00:00Z", "2024-03-02T00:00:00Z", "2024-03-03T00:00:00Z"];
    assert_eq!(due(&schedule(json), "2020-01-01T00:00Z", "2030-01-01T00:00Z"), days);
    let json = serde_json::json!({ "every": "24h", "start": "2024-03-01T00:00Z", "end": "2024-03-03T00:00Z" });
    assert_eq!(due(&schedule(json), "2020-01-01T00:00Z", "2030-01-01T00:00Z"), days);
}

#[test]
fn jitter_is_the_same_each_time_and_within_its_width() {
    let jittered = schedule(serde_json::json!({ "every": "1h", "jitter": "10m" }));
    let delays: std::collections::BTreeSet<_> = jittered
        .fires(at("2024-01-01T00:00Z"), at("2024-01-05T00:00Z"))
        .map(|fire| {
            assert_eq!(jittered.starts(&fire, 7), jittered.starts(&fire, 7));
            let delay = jittered.starts(&fire, 7).duration_since(fire.at);
            assert!((SignedDuration::ZERO..=SignedDuration::from_mins(10)).contains(&delay));
            delay
        })
        .collect();
    assert!(delays.len() > 80, "they differ");
    let fire = jittered.next(at("2024-01-01T00:00Z")).unwrap();
    assert_ne!(jittered.starts(&fire, 1), jittered.starts(&fire, 2), "deployments differ");
}

#[test]
fn what_was_missed_runs_by_the_policy() {
    let daily = schedule(serde_json::json!({ "cron": "0 6 * * *" }));
    let (handled, now) = (at("2024-05-01T06:00Z"), at("2024-05-04T07:00Z"));
    assert_eq!(missed(&daily, CatchUp::None, handled, now).count(), 0);
    let all: Vec<_> = missed(&daily, CatchUp::All, handled, now).collect();
    assert_eq!(all.len(), 3);
    assert!(all.windows(2).all(|pair| pair[0].at == pair[1].since) && all[0].since == handled);
    let last: Vec<_> = missed(&daily, CatchUp::Last, handled, now).collect();
    assert_eq!(last.len(), 1);
    assert_eq!((last[0].since, last[0].at), (handled, at("2024-05-04T06:00Z")), "it covers all that was missed");
    for policy in [CatchUp::None, CatchUp::Last, CatchUp::All] {
        assert_eq!(missed(&daily, policy, now, now).count(), 0);
    }
    // However long nobody watched, one fire is made at a time.
    let secondly = schedule(serde_json::json!({ "every": "1s" }));
    assert_eq!(missed(&secondly, CatchUp::All, at("1990-01-01T00:00Z"), now).take(3).count(), 3);
    assert_eq!(missed(&secondly, CatchUp::Last, at("1990-01-01T00:00Z"), now).count(), 1);
}

#[test]
fn runs_that_meet_are_admitted_by_the_policy() {
    use Admission::{CancelOthers, Skip, Start, Wait};
    for (policy, alone, beside, queued) in [
        (Concurrency::Allow, Start, Start, Start),
        (Concurrency::Skip, Start, Skip, Skip),
        (Concurrency::Queue, Start, Wait, Skip),
        (Concurrency::Cancel, Start, CancelOthers, CancelOthers),
    ] {
        assert_eq!(admit(policy, 0, 0, 1), alone, "{policy:?}");
        assert_eq!(admit(policy, 1, 0, 1), beside, "{policy:?}");
        assert_eq!(admit(policy, 1, 1, 1), queued, "{policy:?}");
        assert_eq!(admit(policy, 1, 0, 2), alone, "{policy:?}: two may");
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let told = |json: serde_json::Value| -> Vec<String> {
        let problems = spec(json).compile().unwrap_err();
        problems.iter().map(|problem| format!("{}: {}", problem.at.trim_start_matches('/'), problem.message)).collect()
    };
    for (json, want) in [
        (serde_json::json!({}), "cron: a schedule has one of `cron`, `every` and `at`: none is given"),
        (serde_json::json!({ "cron": "@daily", "every": "1h" }), "more than one is given"),
        (serde_json::json!({ "cron": "0 6 * *" }), "this has 4"),
        (serde_json::json!({ "cron": "0 0 6 * * MON 2024" }), "this has 7"),
        (serde_json::json!({ "cron": "@fortnightly" }), "is none of @yearly"),
        (serde_json::json!({ "cron": "61 * * * *" }), "cron: "),
        (serde_json::json!({ "cron": "0 25 * * *" }), "cron: "),
        (serde_json::json!({ "cron": "0 0 30 2 *" }), "it would never be due"),
        (serde_json::json!({ "cron": "" }), "this has 0"),
        (serde_json::json!({ "cron": "* * * * FOO" }), "cron: "),
        (serde_json::json!({ "cron": "@daily", "zone": "Europe/Berlni" }), "`Europe/Berlni` is no time zone"),
        (serde_json::json!({ "every": "1h", "zone": "Europe/Berlin" }), "for `cron` only"),
        (serde_json::json!({ "every": "0s" }), "too short"),
        (serde_json::json!({ "every": "-5m" }), "no length of time"),
        (serde_json::json!({ "every": "99999999999999999999d" }), "no length of time"),
        (serde_json::json!({ "every": "9223372036854775807d" }), "no length of time"),
        (serde_json::json!({ "every": "½h" }), "no length of time"),
        (serde_json::json!({ "every": "h€" }), "no length of time"),
        (serde_json::json!({ "at": [] }), "it names no instant"),
        (serde_json::json!({ "at": ["tomorrow"] }), "`tomorrow` is no instant"),
        (serde_json::json!({ "cron": "@daily", "start": "2024-02-30T00:00Z" }), "start: "),
        (
            serde_json::json!({ "cron": "@daily", "start": "2025-01-01T00:00Z", "end": "2024-01-01T00:00Z" }),
            "before the start",
        ),
        (serde_json::json!({ "cron": "@daily", "jitter": "soon" }), "jitter: "),
        (serde_json::json!({ "cron": "@daily", "jitter": "500000000000000000s" }), "longer than a day"),
    ] {
        let all = told(json.clone());
        assert!(all.iter().any(|problem| problem.contains(want)), "{json}: {all:?}");
    }
    let many = told(serde_json::json!({ "cron": "x", "zone": "Mars/Base", "start": "now", "jitter": "y" }));
    assert_eq!(many.len(), 4, "{many:?}");
    assert!(serde_json::from_value::<ScheduleSpec>(serde_json::json!({ "crom": "@daily" })).is_err());
}
