//! Deployments in tables, in words that both databases understand.

use async_trait::async_trait;

use super::{
    DeploymentRow, Deployments, FireChange, FireFilter, FireRow, Follows, Looked, NewFire, NewTelling, NewVersion,
    TAKEN_FOR, Telling, Version, fire_state,
};
use crate::error::Error;
use crate::read::{Ask, Columns, Value, unreadable};
use crate::redact::{redact, storable};

/// What a parameter of a statement stands for.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    Integer(Option<i64>),
    Text(Option<String>),
}

impl From<i64> for Given {
    fn from(value: i64) -> Self {
        Self::Integer(Some(value))
    }
}

impl From<Option<i64>> for Given {
    fn from(value: Option<i64>) -> Self {
        Self::Integer(value)
    }
}

impl From<bool> for Given {
    fn from(value: bool) -> Self {
        Self::Integer(Some(i64::from(value)))
    }
}

impl From<&str> for Given {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<Option<String>> for Given {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

/// A statement with its parameters `$1`, `$2`, ...; it may be carried out again after it was.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub text: &'static str,
    pub given: Vec<Given>,
}

/// A statement and what its parameters stand for.
macro_rules! statement {
    ($text:expr $(, $given:expr)* $(,)?) => {
        $crate::deployments::Statement { text: $text, given: vec![$($crate::deployments::Given::from($given)),*] }
    };
}
pub(crate) use statement;

/// A database with the tables of deployments.
pub(crate) trait Tables: Send + Sync + 'static {
    /// Who reads them.
    type Reads: Ask;

    fn reads(&self) -> &Self::Reads;

    /// Carries statements out in one transaction. The answer has, of each, the first number of every row it returned.
    fn alter(&self, statements: Vec<Statement>) -> impl Future<Output = Result<Vec<Vec<i64>>, Error>> + Send;
}

/// Removes fires that were acted on before `$1`, but for the newest of each deployment: the next may go on from there.
pub(crate) const OLD_FIRES: &str = "DELETE FROM fire WHERE settled = 1 AND created_at < $1 \
     AND NOT EXISTS (SELECT 1 FROM telling t WHERE t.fire = fire.n AND t.ended_at IS NULL) \
     AND n < (SELECT max(newer.n) FROM fire newer WHERE newer.deployment = fire.deployment)";

const DEPLOYMENT: &str = "SELECT d.name, d.version, v.flow, v.spec, d.paused, d.handled, d.created_at, d.updated_at \
     FROM deployment d JOIN deployment_version v ON v.deployment = d.n AND v.version = d.version";

fn count(value: i64) -> Result<u32, Error> {
    u32::try_from(value).map_err(|_| unreadable("row", format!("{value} is no count")))
}

fn deployment(row: &impl Columns) -> Result<DeploymentRow, Error> {
    Ok(DeploymentRow {
        name: row.text(0)?,
        version: count(row.integer(1)?)?,
        flow: row.text(2)?,
        spec: row.text(3)?,
        paused: row.integer(4)? != 0,
        handled: row.integer(5)?,
        created_at: row.integer(6)?,
        updated_at: row.integer(7)?,
    })
}

fn version(row: &impl Columns) -> Result<Version, Error> {
    Ok(Version {
        version: count(row.integer(0)?)?,
        digest: row.text(1)?,
        created_at: row.integer(2)?,
        flow: row.text(3)?,
        source: row.text(4)?,
    })
}

fn fire(row: &impl Columns) -> Result<FireRow, Error> {
    Ok(FireRow {
        id: row.integer(0)?,
        deployment: row.text(1)?,
        key: row.text(2)?,
        cause: row.text(3)?,
        since: row.integer_or_none(4)?,
        at: row.integer(5)?,
        due: row.integer(6)?,
        params: row.text(7)?,
        state: row.text(8)?,
        run: row.text_or_none(9)?,
        run_state: row.text_or_none(10)?,
        note: row.text(11)?,
        settled: row.integer(12)? != 0,
        created_at: row.integer(13)?,
        deployed_at: row.integer(14)?,
    })
}

fn telling(row: &impl Columns) -> Result<Telling, Error> {
    Ok(Telling {
        id: row.integer(0)?,
        deployment: row.text(1)?,
        hook: count(row.integer(2)?)?,
        happening: row.text(3)?,
        message: row.text(4)?,
        attempts: count(row.integer(5)?)?,
    })
}

async fn select<D: Tables, T>(
    tables: &D,
    text: &str,
    values: &[Value<'_>],
    of: impl Fn(&<D::Reads as Ask>::Row) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    tables.reads().ask(text, values).await?.iter().map(of).collect()
}

fn insert_fire(name: &str, fire: &NewFire, looked: Option<Looked>) -> Statement {
    statement!(
        "INSERT INTO fire (deployment, key, cause, since, at, due, params, state, note, created_at) \
         SELECT n, $2, $3, $4, $5, $6, $7, 'due', '', $8 FROM deployment WHERE name = $1 AND paused = 0 \
         AND ($9 = 0 OR (version = $9 AND created_at = $10)) ON CONFLICT (deployment, key) DO NOTHING RETURNING n",
        name,
        fire.key.as_str(),
        fire.cause.as_str(),
        fire.since,
        fire.at,
        fire.due,
        fire.params.as_str(),
        fire.created_at,
        looked.map_or(0, |looked| i64::from(looked.version)),
        looked.map_or(0, |looked| looked.created_at),
    )
}

fn insert_telling(fire: i64, telling: &NewTelling) -> Statement {
    statement!(
        "INSERT INTO telling (fire, hook, happening, message, next_at) \
         SELECT n, $2, $3, $4, $5 FROM fire WHERE n = $1 ON CONFLICT (fire, hook, happening) DO NOTHING",
        fire,
        i64::from(telling.hook),
        telling.happening,
        redact(&telling.message).as_ref(),
        telling.at,
    )
}

#[async_trait]
impl<D: Tables> Deployments for D {
    async fn deploy(&self, new: NewVersion) -> Result<DeploymentRow, Error> {
        let (name, digest) = (new.name.as_str(), new.digest().hex());
        self.alter(vec![
            statement!(
                "INSERT INTO deployment (name, version, paused, handled, created_at, updated_at) \
                 VALUES ($1, 0, $2, $3, $3, $3) ON CONFLICT (name) DO NOTHING",
                name,
                new.paused,
                new.now
            ),
            // Two who deploy at once do so one after the other.
            statement!("UPDATE deployment SET name = name WHERE name = $1", name),
            statement!(
                "INSERT INTO deployment_version (deployment, version, digest, created_at, flow, spec, content, source) \
                 SELECT d.n, d.version + 1, $2, $3, $4, $5, $6, $7 FROM deployment d WHERE d.name = $1 AND NOT EXISTS \
                 (SELECT 1 FROM deployment_version v WHERE v.deployment = d.n AND v.version = d.version AND v.digest = $2)",
                name,
                digest.as_str(),
                new.now,
                new.flow.as_str(),
                new.spec.as_str(),
                new.content.as_str(),
                new.source.as_str(),
            ),
            statement!(
                "UPDATE deployment SET version = version + 1, updated_at = $2, \
                 handled = CASE WHEN handled > $3 THEN handled ELSE $3 END WHERE name = $1 AND EXISTS \
                 (SELECT 1 FROM deployment_version v WHERE v.deployment = n AND v.version = deployment.version + 1)",
                name,
                new.now,
                if new.rescheduled { new.now } else { 0 },
            ),
        ])
        .await?;
        self.deployment(name).await
    }

    async fn deployments(&self) -> Result<Vec<DeploymentRow>, Error> {
        select(self, &format!("{DEPLOYMENT} ORDER BY d.name"), &[], deployment).await
    }

    async fn deployment(&self, name: &str) -> Result<DeploymentRow, Error> {
        let rows = select(self, &format!("{DEPLOYMENT} WHERE d.name = $1"), &[name.into()], deployment).await?;
        rows.into_iter().next().ok_or_else(|| Error::NoDeployment(name.to_owned()))
    }

    async fn versions(&self, name: &str) -> Result<Vec<Version>, Error> {
        self.deployment(name).await?;
        let text = "SELECT v.version, v.digest, v.created_at, v.flow, v.source FROM deployment_version v \
             JOIN deployment d ON d.n = v.deployment WHERE d.name = $1 ORDER BY v.version DESC";
        select(self, text, &[name.into()], version).await
    }

    async fn content(&self, name: &str, version: u32) -> Result<Option<String>, Error> {
        let text = "SELECT v.content FROM deployment_version v JOIN deployment d ON d.n = v.deployment \
             WHERE d.name = $1 AND v.version = $2";
        let found = select(self, text, &[name.into(), i64::from(version).into()], |row| row.text(0)).await?;
        Ok(found.into_iter().next())
    }

    async fn set_paused(&self, name: &str, paused: bool, now: i64) -> Result<DeploymentRow, Error> {
        self.alter(vec![statement!(
            "UPDATE deployment SET paused = $2, updated_at = $3, \
             handled = CASE WHEN handled > $3 THEN handled ELSE $3 END WHERE name = $1 AND paused <> $2",
            name,
            paused,
            now
        )])
        .await?;
        self.deployment(name).await
    }

    async fn delete_deployment(&self, name: &str) -> Result<(), Error> {
        let gone = self.alter(vec![statement!("DELETE FROM deployment WHERE name = $1 RETURNING n", name)]).await?;
        match gone.iter().flatten().count() {
            0 => Err(Error::NoDeployment(name.to_owned())),
            _ => Ok(()),
        }
    }

    async fn add_fires(&self, name: &str, fires: Vec<NewFire>, looked: Option<Looked>) -> Result<usize, Error> {
        let mut statements: Vec<Statement> = fires.iter().map(|fire| insert_fire(name, fire, looked)).collect();
        statements.extend(looked.map(|Looked { up_to, version, created_at }| {
            let text = "UPDATE deployment SET handled = $2 WHERE name = $1 AND paused = 0 AND handled < $2 \
                        AND version = $3 AND created_at = $4";
            statement!(text, name, up_to, i64::from(version), created_at)
        }));
        Ok(self.alter(statements).await?.iter().flatten().count())
    }

    async fn fires(&self, filter: &FireFilter) -> Result<Vec<FireRow>, Error> {
        let mut text = String::from(
            "SELECT f.n, d.name, f.key, f.cause, f.since, f.at, f.due, f.params, f.state, f.run, r.state, f.note, \
             f.settled, f.created_at, d.created_at FROM fire f JOIN deployment d ON d.n = f.deployment \
             LEFT JOIN run r ON r.id = f.run WHERE ",
        );
        // Texts of their own, so that each finds its index.
        text.push_str(if filter.open { "f.settled = 0" } else { "1 = 1" });
        text.push_str(if filter.deployment.is_some() { " AND d.name = $1" } else { " AND $1 = ''" });
        text.push_str(if filter.run.is_some() { " AND f.run = $2" } else { " AND $2 = ''" });
        text.push_str(if filter.key.is_some() { " AND f.key = $3" } else { " AND $3 = ''" });
        text.push_str(if filter.before.is_some() { " AND f.n < $4" } else { " AND $4 = 0" });
        text.push_str(" ORDER BY f.n DESC LIMIT $5");
        let limit = filter.limit.map_or(i64::MAX, i64::from);
        let given = [&filter.deployment, &filter.run, &filter.key].map(|text| text.as_deref().unwrap_or_default());
        let [deployment, run, key] = given.map(Value::from);
        select(self, &text, &[deployment, run, key, filter.before.unwrap_or(0).into(), limit.into()], fire).await
    }

    async fn change_fire(&self, fire: i64, from: &str, change: FireChange) -> Result<bool, Error> {
        // What never becomes a run has ended with that.
        let over = change.state == fire_state::SKIPPED;
        let changed = self
            .alter(vec![
                // Two who start runs of one deployment do so one after the other.
                statement!(
                    "UPDATE deployment SET name = name WHERE n = (SELECT deployment FROM fire WHERE n = $1)",
                    fire
                ),
                statement!(
                    "UPDATE fire SET state = $3, run = coalesce($4, run), note = $5, since = coalesce($6, since), \
                 settled = CASE WHEN $7 = 1 THEN 1 ELSE settled END WHERE n = $1 AND state = $2 \
                 AND ($3 <> 'refused' OR NOT EXISTS (SELECT 1 FROM run WHERE run.id = fire.run)) \
                 AND ($8 < 0 OR $8 > (SELECT count(*) FROM fire other LEFT JOIN run r ON r.id = other.run \
                 WHERE other.deployment = fire.deployment AND other.settled = 0 AND other.state = 'started' \
                 AND r.ended_at IS NULL)) RETURNING n",
                    fire,
                    from,
                    change.state,
                    change.run,
                    storable(&change.note).as_str(),
                    change.since,
                    over,
                    change.most.map_or(-1, i64::from),
                ),
            ])
            .await?;
        Ok(changed.iter().flatten().count() == 1)
    }

    async fn settle(&self, fire: i64, follows: Follows) -> Result<(), Error> {
        let mut statements: Vec<Statement> =
            follows.fires.iter().map(|(name, other)| insert_fire(name, other, None)).collect();
        statements.extend(follows.tellings.iter().map(|telling| insert_telling(fire, telling)));
        if let Some(ended) = follows.ended.as_deref() {
            let text = "UPDATE fire SET settled = 1 WHERE n = $1 AND \
                        NOT EXISTS (SELECT 1 FROM run WHERE run.id = fire.run AND run.state <> $2)";
            statements.push(statement!(text, fire, ended));
        }
        self.alter(statements).await.map(drop)
    }

    async fn unsettle(&self, run: &str) -> Result<(), Error> {
        self.alter(vec![statement!("UPDATE fire SET settled = 0 WHERE run = $1 AND settled = 1", run)]).await.map(drop)
    }

    async fn tellings(&self, now: i64, limit: u32) -> Result<Vec<Telling>, Error> {
        let text = "SELECT t.n, d.name, t.hook, t.happening, t.message, t.attempts FROM telling t \
             JOIN fire f ON f.n = t.fire JOIN deployment d ON d.n = f.deployment \
             WHERE t.ended_at IS NULL AND t.next_at <= $1 ORDER BY t.next_at, t.n LIMIT $2";
        let mut due = select(self, text, &[now.into(), i64::from(limit).into()], telling).await?;
        if due.is_empty() {
            return Ok(due);
        }
        let take = |one: &Telling| {
            statement!(
                "UPDATE telling SET next_at = $3 WHERE n = $1 AND next_at <= $2 AND ended_at IS NULL RETURNING n",
                one.id,
                now,
                now.saturating_add(TAKEN_FOR),
            )
        };
        let taken: Vec<i64> = self.alter(due.iter().map(take).collect()).await?.into_iter().flatten().collect();
        due.retain(|one| taken.contains(&one.id));
        Ok(due)
    }

    async fn told(&self, telling: i64, at: i64, error: Option<String>, next_at: Option<i64>) -> Result<(), Error> {
        let error = error.as_deref().map(storable);
        self.alter(vec![match next_at {
            Some(next_at) => statement!(
                "UPDATE telling SET attempts = attempts + 1, error = $2, next_at = $3 WHERE n = $1",
                telling,
                error,
                next_at
            ),
            None => statement!(
                "UPDATE telling SET attempts = attempts + 1, error = $2, ended_at = $3 WHERE n = $1",
                telling,
                error,
                at
            ),
        }])
        .await
        .map(drop)
    }
}
