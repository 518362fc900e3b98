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

/// Rule and question. An answer is the id of a run and what is wrong with it. `$1` is a list of names: those that
/// [`Names`] says.
const QUESTIONS: &[(&str, Names, &str)] = &[
    (
        "I3",
        Names::None,
        "SELECT r.id, 'its row is at event ' || r.seq || ', its journal has ' || count(e.seq) || ' events, from ' || \
         coalesce(min(e.seq), 0) || ' to ' || coalesce(max(e.seq), 0) \
         FROM run r LEFT JOIN event e ON e.run = r.n GROUP BY r.n, r.id, r.seq \
         HAVING count(e.seq) <> r.seq OR coalesce(max(e.seq), 0) <> r.seq OR coalesce(min(e.seq), 1) <> 1",
    ),
    (
        "I5",
        Names::None,
        "SELECT r.id, 'its row is of lease ' || r.epoch || ', the newest is ' || c.epoch \
         FROM run r JOIN claim c ON c.run = r.id WHERE c.epoch <> r.epoch",
    ),
    (
        "I6",
        Names::Results,
        "SELECT r.id, 'it has ' || \
         (SELECT count(*) FROM result x WHERE x.run = r.n) || ' results for ' || \
         (SELECT count(*) FROM event e WHERE e.run = r.n AND e.kind IN {LIST}) || ' events that give one' FROM run r \
         WHERE (SELECT count(*) FROM result x WHERE x.run = r.n) \
         <> (SELECT count(*) FROM event e WHERE e.run = r.n AND e.kind IN {LIST})",
    ),
    (
        "I8",
        Names::EndedStates,
        "SELECT r.id, 'it is ' || r.state || ' and has no time of its end' FROM run r \
         WHERE r.state IN {LIST} AND r.ended_at IS NULL",
    ),
    (
        "I8",
        Names::EndedStates,
        "SELECT r.id, 'it is ' || r.state || ' and has a time of its end' FROM run r \
         WHERE r.state NOT IN {LIST} AND r.ended_at IS NOT NULL",
    ),
    (
        "lineage",
        Names::None,
        "SELECT r.id, 'artifact ' || l.digest || ' is of step ' || l.step || ' ' || l.instance || ', which has no result' \
         FROM lineage l JOIN run r ON r.n = l.run WHERE NOT EXISTS \
         (SELECT 1 FROM result x WHERE x.run = l.run AND x.step = l.step AND x.instance = l.instance)",
    ),
    (
        "lineage",
        Names::None,
        "SELECT r.id, 'artifact ' || l.digest || ' is not in the outputs of step ' || l.step || ' ' || l.instance \
         FROM lineage l JOIN run r ON r.n = l.run \
         JOIN result x ON x.run = l.run AND x.step = l.step AND x.instance = l.instance \
         WHERE x.outputs NOT LIKE '%' || l.digest || '%'",
    ),
    (
        "references",
        Names::None,
        "SELECT '', 'rows of `' || t || '` are of run number ' || o.run || ', which is not there' FROM (\
         SELECT 'event' AS t, run FROM event UNION SELECT 'result', run FROM result \
         UNION SELECT 'lineage', run FROM lineage UNION SELECT 'metric', run FROM metric \
         UNION SELECT 'log', run FROM log UNION SELECT 'pinned', run FROM pinned) o \
         WHERE NOT EXISTS (SELECT 1 FROM run r WHERE r.n = o.run)",
    ),
    (
        "references",
        Names::None,
        "SELECT r.id, 'nothing is pinned of it' FROM run r WHERE NOT EXISTS (SELECT 1 FROM pinned p WHERE p.run = r.n)",
    ),
];

/// Which names a question is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    None,
    EndedStates,
    Results,
}

pub(crate) async fn audit<D: Ask>(of: &D, vocabulary: &Vocabulary) -> Result<Vec<Broken>, Error> {
    let (ended, results) = (json!(vocabulary.ended_states).to_string(), json!(vocabulary.result_kinds).to_string());
    let mut broken = BTreeSet::new();
    for (rule, names, text) in QUESTIONS {
        let values: &[Value<'_>] = match names {
            Names::None => &[],
            Names::EndedStates => &[ended.as_str().into()],
            Names::Results => &[results.as_str().into()],
        };
        for row in of.ask(&text.replace("{LIST}", D::LIST_1), values).await? {
            broken.insert(Broken { run: row.text(0)?, rule: (*rule).to_owned(), what: row.text(1)? });
        }
    }
    broken.extend(attempts(of, vocabulary).await?);
    Ok(broken.into_iter().collect())
}

/// I8: of a run that has ended, every attempt has.
async fn attempts<D: Ask>(of: &D, vocabulary: &Vocabulary) -> Result<Vec<Broken>, Error> {
    let counted = |kinds: &[String]| {
        let kinds = json!(kinds).to_string();
        let text = format!("SELECT run, count(*) FROM event WHERE kind IN {} GROUP BY run", D::LIST_1);
        async move {
            let rows = of.ask(&text, &[kinds.as_str().into()]).await?;
            rows.iter().map(|row| Ok((row.integer(0)?, row.integer(1)?))).collect::<Result<Vec<_>, Error>>()
        }
    };
    let ended = json!(vocabulary.ended_states).to_string();
    let text = format!("SELECT n, id, state FROM run r WHERE r.state IN {}", D::LIST_1);
    let rows = of.ask(&text, &[ended.as_str().into()]).await?;
    let begun = counted(&vocabulary.begin_kinds).await?;
    let over: std::collections::HashMap<i64, i64> = counted(&vocabulary.end_kinds).await?.into_iter().collect();
    let begun: std::collections::HashMap<i64, i64> = begun.into_iter().collect();
    let mut broken = Vec::new();
    for row in rows {
        let number = row.integer(0)?;
        let (begun, over) = (begun.get(&number).unwrap_or(&0), over.get(&number).unwrap_or(&0));
        if begun > over {
            let what = format!("it is {}, and of its {begun} attempts {over} have ended", row.text(2)?);
            broken.push(Broken { run: row.text(1)?, rule: "I8".to_owned(), what });
        }
    }
    Ok(broken)
}
