//! Rows that break a rule, found by questions to the database alone: what is stored is checked without the code that
//! stored it.
//!
//! | rule | the question |
//! |---|---|
//! | I3 | the events of a run are numbered from 1 without gaps, up to the place that its row tells |
//! | I5 | the row of a run has the epoch of its newest lease |
//! | I6 | as many results as events that give one, at most one each |
//! | I8 | a run that has ended has a time of its end, and no more attempts begun than ended |
//! | lineage | every artifact of a result is of a result that is there, and has its digest |
//! | references | no row is of a run that is not there |

use std::collections::BTreeSet;

use serde_json::json;

use crate::error::Error;
use crate::read::{Ask, Columns, Value};
use crate::record::{Broken, Vocabulary};

/// Rule and question. An answer is the id of a run and what is wrong with it. `{ENDED}` and the like stand for lists of
/// names.
const QUESTIONS: &[(&str, &str)] = &[
    (
        "I3",
        "SELECT r.id, 'its row is at event ' || r.seq || ', its journal has ' || count(e.seq) || ' events, from ' || \
         coalesce(min(e.seq), 0) || ' to ' || coalesce(max(e.seq), 0) \
         FROM run r LEFT JOIN event e ON e.run = r.n GROUP BY r.n, r.id, r.seq \
         HAVING count(e.seq) <> r.seq OR coalesce(max(e.seq), 0) <> r.seq OR coalesce(min(e.seq), 1) <> 1",
    ),
    (
        "I5",
        "SELECT r.id, 'its row is of lease ' || r.epoch || ', the newest is ' || c.epoch \
         FROM run r JOIN claim c ON c.run = r.id WHERE c.epoch <> r.epoch",
    ),
    (
        "I6",
        "SELECT r.id, 'it has ' || \
         (SELECT count(*) FROM result x WHERE x.run = r.n) || ' results for ' || \
         (SELECT count(*) FROM event e WHERE e.run = r.n AND e.kind IN {RESULTS}) || ' events that give one' FROM run r \
         WHERE (SELECT count(*) FROM result x WHERE x.run = r.n) \
         <> (SELECT count(*) FROM event e WHERE e.run = r.n AND e.kind IN {RESULTS})",
    ),
    (
        "I8",
        "SELECT r.id, 'it is ' || r.state || ' and has no time of its end' FROM run r \
         WHERE r.state IN {ENDED} AND r.ended_at IS NULL",
    ),
    (
        "I8",
        "SELECT r.id, 'it is ' || r.state || ' and has a time of its end' FROM run r \
         WHERE r.state NOT IN {ENDED} AND r.ended_at IS NOT NULL",
    ),
    (
        "I8",
        "SELECT x.id, 'it is ' || x.state || ', and of its ' || x.begun || ' attempts ' || x.done || ' have ended' FROM (\
         SELECT r.id, r.state, \
         (SELECT count(*) FROM event e WHERE e.run = r.n AND e.kind IN {BEGUN}) AS begun, \
         (SELECT count(*) FROM event e WHERE e.run = r.n AND e.kind IN {OVER}) AS done \
         FROM run r WHERE r.state IN {ENDED}) x WHERE x.begun > x.done",
    ),
    (
        "lineage",
        "SELECT r.id, 'artifact ' || l.digest || ' is of step ' || l.step || ' ' || l.instance || ', which has no result' \
         FROM lineage l JOIN run r ON r.n = l.run WHERE NOT EXISTS \
         (SELECT 1 FROM result x WHERE x.run = l.run AND x.step = l.step AND x.instance = l.instance)",
    ),
    (
        "lineage",
        "SELECT r.id, 'artifact ' || l.digest || ' is not in the outputs of step ' || l.step || ' ' || l.instance \
         FROM lineage l JOIN run r ON r.n = l.run \
         JOIN result x ON x.run = l.run AND x.step = l.step AND x.instance = l.instance \
         WHERE x.outputs NOT LIKE '%' || l.digest || '%'",
    ),
    (
        "references",
        "SELECT '', 'rows of `' || t || '` are of run number ' || o.run || ', which is not there' FROM (\
         SELECT 'event' AS t, run FROM event UNION SELECT 'result', run FROM result \
         UNION SELECT 'lineage', run FROM lineage UNION SELECT 'metric', run FROM metric \
         UNION SELECT 'log', run FROM log UNION SELECT 'pinned', run FROM pinned) o \
         WHERE NOT EXISTS (SELECT 1 FROM run r WHERE r.n = o.run)",
    ),
    (
        "references",
        "SELECT r.id, 'nothing is pinned of it' FROM run r WHERE NOT EXISTS (SELECT 1 FROM pinned p WHERE p.run = r.n)",
    ),
];

pub(crate) async fn audit<D: Ask>(of: &D, vocabulary: &Vocabulary) -> Result<Vec<Broken>, Error> {
    let lists = [
        ("{ENDED}", json!(vocabulary.ended_states).to_string()),
        ("{RESULTS}", json!(vocabulary.result_kinds).to_string()),
        ("{BEGUN}", json!(vocabulary.begin_kinds).to_string()),
        ("{OVER}", json!(vocabulary.end_kinds).to_string()),
    ];
    let mut broken = BTreeSet::new();
    for (rule, question) in QUESTIONS {
        let (mut text, mut values) = ((*question).to_owned(), Vec::new());
        for (name, list) in &lists {
            if text.contains(name) {
                values.push(Value::from(list.as_str()));
                text = text.replace(name, &D::list(values.len()));
            }
        }
        for row in of.ask(&text, &values).await? {
            broken.insert(Broken { run: row.text(0)?, rule: (*rule).to_owned(), what: row.text(1)? });
        }
    }
    Ok(broken.into_iter().collect())
}
