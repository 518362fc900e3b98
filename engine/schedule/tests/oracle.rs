//! Cron in every time zone against croniter and zoneinfo, around every change of the clocks in 33 years.

use std::path::Path;

use jiff::Timestamp;
use swath_schedule::{Gap, Overlap, ScheduleSpec};
use swath_testkit::python;

const EXPRESSIONS: [&str; 5] = ["30 2 * * *", "*/20 * * * *", "0 0 * * 1", "15 1,23 * * 0,6", "59 59 * * * *"];
const REACH: i64 = 10_000;

fn oracle(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle.py");
    python::run(&python::interpreter(), std::iter::once(script.as_os_str()).chain(arguments.iter().map(AsRef::as_ref)))
}

#[test]
fn cron_is_due_as_croniter_and_zoneinfo_say_in_every_zone() {
    let told = oracle(&[]);
    let (mut zones, mut checked) = (0, 0);
    for line in told.lines() {
        let [name, moments, hashes] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let moments: Vec<i64> = match moments {
            "-" => vec![1_000_000_000],
            moments => moments.split(',').map(|moment| moment.parse().unwrap()).collect(),
        };
        let mut hashes = hashes.split(',').map(|hash| hash.parse::<u128>().unwrap());
        for expression in EXPRESSIONS {
            for (gap, gap_name) in [(Gap::Shift, "shift"), (Gap::Skip, "skip")] {
                for (overlap, overlap_name) in
                    [(Overlap::First, "first"), (Overlap::Last, "last"), (Overlap::Both, "both")]
                {
                    let spec = ScheduleSpec {
                        cron: Some(expression.into()),
                        zone: Some(name.into()),
                        gap: Some(gap),
                        overlap: Some(overlap),
                        ..ScheduleSpec::default()
                    };
                    let schedule = spec.compile().unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
                    let due = |moment: i64| {
                        let at = |second| Timestamp::from_second(second).unwrap();
                        schedule.fires(at(moment - REACH), at(moment + REACH)).map(|fire| fire.at.as_second())
                    };
                    let hash = moments
                        .iter()
                        .flat_map(|moment| due(*moment))
                        .fold(0_u128, |sum, second| (sum * 1_000_003 + second as u128) % ((1 << 61) - 1));
                    if Some(hash) != hashes.next() {
                        for moment in moments {
                            let (from, to) = ((moment - REACH).to_string(), (moment + REACH).to_string());
                            let want = oracle(&[name, expression, gap_name, overlap_name, &from, &to]);
                            let want: Vec<i64> = want.split_whitespace().map(|t| t.parse().unwrap()).collect();
                            let got: Vec<i64> = due(moment).collect();
                            assert_eq!(got, want, "{name} `{expression}` {gap_name} {overlap_name} around {moment}");
                        }
                        panic!("{name} `{expression}`: the windows agree one by one, and not together");
                    }
                    checked += moments.len();
                }
            }
        }
        zones += 1;
    }
    assert!(zones > 100 && checked > 100_000, "{zones} zones, {checked} windows");
}
