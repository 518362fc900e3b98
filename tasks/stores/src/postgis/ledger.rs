//! The ledger: what a step instance of a run has stored, in the transaction that stored it.
//!
//! Invariants:
//! 1. A key is in the ledger if and only if what it stored was committed (I16).
//! 2. Of attempts at one key at once, one stores and the others wait for it, then answer as it did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use swath_task::{ArtifactRecord, Context, Digest, TaskError};

use super::database::Database;
use super::faults::database_fault;

/// What a store in PostGIS tells.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PostgisOutputs {
    /// Host, port and name of the database.
    pub database: String,
    /// Rows of the layer or table now.
    pub rows_total: u64,
    /// Rows that are new.
    pub rows_added: u64,
    /// Rows whose values have changed.
    pub rows_updated: u64,
}

/// Rows that one statement or several have stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stored {
    /// New ones.
    pub added: u64,
    /// Those whose values have changed.
    pub updated: u64,
}

impl Stored {
    /// What a statement answers that ends by counting both.
    pub fn of(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (added, updated): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        Ok(Self { added: added.unsigned_abs(), updated: updated.unsigned_abs() })
    }
}

impl std::ops::AddAssign for Stored {
    fn add_assign(&mut self, more: Self) {
        self.added += more.added;
        self.updated += more.updated;
    }
}

/// A step instance of a run, and the digest of what it is to store.
pub struct Key {
    /// The run.
    pub run: String,
    /// The step, with those above it.
    pub step: String,
    /// The instance, from 0.
    pub instance: i64,
    digest: String,
}

impl Key {
    /// The key of an attempt of a task with these parameters, on these inputs. An attempt after changed parameters or
    /// inputs is no replay: it has another digest.
    pub fn of(task: &impl Serialize, inputs: &[Option<&ArtifactRecord>], ctx: &Context) -> Self {
        let whole = ctx.idempotency_key();
        let (run, rest) = whole.split_once('/').unwrap_or((whole, ""));
        let (step, instance) = rest.rsplit_once('/').unwrap_or((rest, "0"));
        let mut text = serde_json::to_string(task).unwrap_or_default();
        for input in inputs {
            text.push('\n');
            text.push_str(&input.map(|record| record.digest.to_string()).unwrap_or_default());
        }
        Self {
            run: run.to_owned(),
            step: step.to_owned(),
            instance: instance.parse().unwrap_or(0),
            digest: Digest::of(text.as_bytes()).to_string(),
        }
    }

    /// Stores once: `work` stores its rows in the transaction it is given, and tells how many and how many there are
    /// now. It is not called when this key has stored the same before. Other work for the same `turn` waits meanwhile,
    /// that of other machines too: two transactions on the same rows could wait for each other crosswise.
    pub async fn store(
        &self,
        secret: &str,
        turn: &str,
        ctx: &Context,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<(Stored, i64), sqlx::Error>,
    ) -> Result<PostgisOutputs, TaskError> {
        let whole = async {
            let mut database = Database::open(secret, ctx).await?;
            let name = database.name.clone();
            self.store_in(&mut database, turn, work).await.map_err(|error| database_fault(&name, &error))
        };
        tokio::select! {
            stored = whole => stored,
            // What was begun is taken back by the server when the connection ends.
            () = ctx.cancelled() => Err(TaskError::Cancelled),
        }
    }

    async fn store_in(
        &self,
        database: &mut Database,
        turn: &str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<(Stored, i64), sqlx::Error>,
    ) -> Result<PostgisOutputs, sqlx::Error> {
        let name = database.name.clone();
        let mut transaction = database.begin().await?;
        if let Some(answer) = self.claim(&mut transaction).await? {
            return Ok(answer);
        }
        let taken = sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))").bind(turn);
        taken.execute(&mut *transaction).await?;
        let (stored, total) = work(&mut transaction).await?;
        let outputs = PostgisOutputs {
            database: name,
            rows_total: total.unsigned_abs(),
            rows_added: stored.added,
            rows_updated: stored.updated,
        };
        self.settle(&outputs, &mut transaction).await?;
        transaction.commit().await?;
        Ok(outputs)
    }

    /// Takes the key for this transaction: waits for another one that has it. What that one answered, when it stored
    /// the same.
    async fn claim(&self, transaction: &mut PgConnection) -> Result<Option<PostgisOutputs>, sqlx::Error> {
        let new = "INSERT INTO swath_geo.ledger (run, step, instance, digest, outputs) VALUES ($1, $2, $3, $4, 'null') \
                   ON CONFLICT DO NOTHING";
        let new = sqlx::query(new).bind(&self.run).bind(&self.step).bind(self.instance).bind(&self.digest);
        if new.execute(&mut *transaction).await?.rows_affected() == 1 {
            return Ok(None);
        }
        let old = "SELECT digest, outputs::text FROM swath_geo.ledger \
                   WHERE run = $1 AND step = $2 AND instance = $3 FOR UPDATE";
        let old = sqlx::query(old).bind(&self.run).bind(&self.step).bind(self.instance);
        let old = old.fetch_one(transaction).await?;
        let (digest, outputs): (String, String) = (old.try_get(0)?, old.try_get(1)?);
        if digest != self.digest {
            return Ok(None);
        }
        serde_json::from_str(&outputs).map(Some).map_err(|error| sqlx::Error::Decode(error.into()))
    }

    /// Writes down what is answered.
    async fn settle(&self, outputs: &PostgisOutputs, transaction: &mut PgConnection) -> Result<(), sqlx::Error> {
        let outputs = serde_json::to_string(outputs).map_err(|error| sqlx::Error::Encode(error.into()))?;
        let settled = "UPDATE swath_geo.ledger SET digest = $4, outputs = $5::jsonb, stored_at = now() \
                       WHERE run = $1 AND step = $2 AND instance = $3";
        let settled = sqlx::query(settled).bind(&self.run).bind(&self.step).bind(self.instance);
        settled.bind(&self.digest).bind(outputs).execute(transaction).await.map(drop)
    }
}
