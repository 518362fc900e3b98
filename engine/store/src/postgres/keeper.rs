//! Keeps the leases of a process: one task that takes them, renews all of them in one statement, and gives them back.
//!
//! Until when a lease holds is decided by the clock of the server alone. A process that could not renew a lease for as
//! long as it holds gives the run up by its own count of time: another process may have it. What it still writes is
//! refused by the epoch in any case.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::open::{Server, classify};
use crate::error::Error;
use crate::lease::{Terms, Wish};
use crate::locks::{UNKNOWN, this_process};
use crate::read::wish;
use crate::store::LOOK;

/// A lease is renewed this many times before it would end.
const RENEWALS: u32 = 3;

/// How long the server may take to answer, however late it is.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// What the keeper is asked for.
pub(super) enum Order {
    Take(String, oneshot::Sender<Result<u64, Error>>),
    GiveBack(String, u64),
    /// Gives everything back, after what was asked before.
    Close(oneshot::Sender<()>),
}

/// A lease that this process has.
struct Held {
    epoch: u64,
    /// When the last renewal that succeeded was asked for.
    renewed: Instant,
}

pub(super) struct Keeper {
    pub server: Server,
    /// One connection, which nobody else keeps busy.
    pub pool: PgPool,
    pub lease: Duration,
    pub terms: Arc<Terms>,
    /// Tells this process from all others, also from one of the same number on another machine.
    owner: String,
    held: HashMap<String, Held>,
}

impl Keeper {
    pub(super) fn new(server: Server, lease: Duration, terms: Arc<Terms>) -> Self {
        let pool = server.pool(1, lease / RENEWALS);
        let owner = format!("{:032x}", rand::random::<u128>());
        Self { server, pool, lease, terms, owner, held: HashMap::new() }
    }

    /// Serves until nobody can ask any more.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut ticks = interval(LOOK.min(self.lease / (2 * RENEWALS)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                biased;
                _ = ticks.tick() => {
                    if self.held.is_empty() {
                        continue;
                    }
                    let done = if renewed.elapsed() >= self.lease / RENEWALS {
                        self.renew().await
                    } else {
                        self.look().await
                    };
                    match done {
                        Ok(None) => {}
                        Ok(Some((asked, ours))) => {
                            renewed = asked;
                            self.note(asked, ours);
                        }
                        Err(error) => tracing::warn!("leases cannot be renewed: {error}"),
                    }
                    self.give_up();
                }
                order = orders.recv() => match order {
                    Some(Order::Take(run, reply)) => {
                        let taken = self.take(&run).await;
                        if let Err(Ok(epoch)) = reply.send(taken) {
                            // Who asked does not wait any more.
                            self.give_back(&run, epoch).await;
                        }
                    }
                    Some(Order::GiveBack(run, epoch)) => self.give_back(&run, epoch).await,
                    Some(Order::Close(done)) => {
                        self.close().await;
                        let _ = done.send(());
                    }
                    None => return self.close().await,
                },
            }
        }
    }

    /// Waits for the server no longer than until the first lease would have to be given up.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        let oldest = self.held.values().map(|held| held.renewed.elapsed()).max().unwrap_or_default();
        let left = self.lease.saturating_sub(oldest).max(LEAST_WAIT);
        let late = |_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
        timeout(left.min(self.lease / RENEWALS), work).await.map_err(late)?
    }

    async fn take(&mut self, run: &str) -> Result<u64, Error> {
        let held = |holder: String| Error::RunHeld { run: run.to_owned(), holder };
        if self.held.contains_key(run) {
            return Err(held(this_process()));
        }
        let asked = Instant::now();
        let failed = |error: sqlx::Error| classify(self.server.place(), &error);
        match self.in_time(self.raise(run)).await.map_err(failed)? {
            Ok(epoch) => {
                self.held.insert(run.to_owned(), Held { epoch, renewed: asked });
                Ok(epoch)
            }
            Err(holder) => Err(held(holder)),
        }
    }

    /// Takes the lease, unless another process has it: then the answer is who.
    async fn raise(&self, run: &str) -> Result<Result<u64, String>, sqlx::Error> {
        let mut transaction = self.pool.begin().await?;
        // What is ours by the table and not by our books is left of a try whose answer did not come. A lease that was not
        // given back is one whose holder died, maybe before it heard what was asked of it.
        let raise = sqlx::query(
            "INSERT INTO claim AS c (run, epoch, owner, holder, until) \
             VALUES ($1, 1, $2, $3, clock_timestamp() + $4 * interval '1 millisecond') \
             ON CONFLICT (run) DO UPDATE SET epoch = c.epoch + 1, \
             cancel = CASE WHEN c.until IS NULL THEN 0 ELSE c.cancel END, \
             pause = CASE WHEN c.until IS NULL THEN NULL ELSE c.pause END, owner = excluded.owner, \
             holder = excluded.holder, until = excluded.until \
             WHERE c.until IS NULL OR c.until < clock_timestamp() OR c.owner = $2 RETURNING epoch",
        );
        let raise = raise.bind(run).bind(&self.owner).bind(this_process()).bind(self.lease.as_millis() as i64);
        let Some(row) = raise.fetch_optional(&mut *transaction).await? else {
            let holder = sqlx::query("SELECT holder FROM claim WHERE run = $1").bind(run);
            let holder: Option<String> = holder.fetch_one(&mut *transaction).await?.try_get(0)?;
            return Ok(Err(holder.unwrap_or_else(|| UNKNOWN.to_owned())));
        };
        let epoch: i64 = row.try_get(0)?;
        // Another statement, which sees a run that was pinned while the first one waited.
        let fence = sqlx::query("UPDATE run SET epoch = $2 WHERE id = $1").bind(run).bind(epoch);
        fence.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(Ok(epoch as u64))
    }

    /// Renews all leases, and hears what is asked of the runs. Returns the leases that this process still has.
    async fn renew(&self) -> Result<Option<(Instant, Vec<String>)>, Error> {
        let asked = Instant::now();
        let (runs, epochs): (Vec<&str>, Vec<i64>) =
            self.held.iter().map(|(run, held)| (run.as_str(), held.epoch as i64)).unzip();
        let query = sqlx::query(
            "UPDATE claim AS c SET until = clock_timestamp() + $4 * interval '1 millisecond' \
             FROM unnest($1::text[], $2::bigint[]) AS h (run, epoch) \
             WHERE c.run = h.run AND c.epoch = h.epoch AND c.owner = $3 RETURNING c.run, c.cancel, c.pause",
        );
        let query = query.bind(runs).bind(epochs).bind(&self.owner).bind(self.lease.as_millis() as i64);
        let wishes = self.wishes(query.fetch_all(&self.pool)).await?;
        self.terms.tell_read(asked, &wishes);
        Ok(Some((asked, wishes.into_iter().map(|wish| wish.run).collect())))
    }

    /// Hears what is asked of the runs: one question for all of them.
    async fn look(&self) -> Result<Option<(Instant, Vec<String>)>, Error> {
        let asked = Instant::now();
        let query = sqlx::query("SELECT run, cancel, pause FROM claim WHERE cancel = 1 OR pause IS NOT NULL");
        self.terms.tell_read(asked, &self.wishes(query.fetch_all(&self.pool)).await?);
        Ok(None)
    }

    async fn wishes(&self, rows: impl Future<Output = Result<Vec<PgRow>, sqlx::Error>>) -> Result<Vec<Wish>, Error> {
        let rows = self.in_time(rows).await.map_err(|error| classify(self.server.place(), &error))?;
        rows.iter().map(wish).collect()
    }

    fn note(&mut self, asked: Instant, ours: Vec<String>) {
        let mut held = std::mem::take(&mut self.held);
        for run in ours {
            if let Some(epoch) = held.remove(&run).map(|held| held.epoch) {
                self.held.insert(run, Held { epoch, renewed: asked });
            }
        }
        held.into_iter().for_each(|(run, held)| self.lose(&run, &held, "another process has taken it over"));
    }

    /// Gives up what could not be renewed for as long as it held.
    fn give_up(&mut self) {
        let (lease, ended) = (self.lease, |_: &String, held: &mut Held| held.renewed.elapsed() > self.lease);
        let over: Vec<(String, Held)> = self.held.extract_if(ended).collect();
        for (run, held) in over {
            self.lose(&run, &held, &format!("it could not be renewed for {lease:?}"));
        }
    }

    fn lose(&self, run: &str, held: &Held, why: &str) {
        tracing::error!(run, "lease {} of the run is lost: {why}", held.epoch);
        self.terms.live().iter().filter(|term| term.run() == run && term.epoch() == held.epoch).for_each(|t| t.lose());
    }

    async fn give_back(&mut self, run: &str, epoch: u64) {
        if self.held.get(run).is_some_and(|held| held.epoch == epoch) {
            self.held.remove(run);
        }
        let text =
            "UPDATE claim SET until = NULL, owner = NULL, holder = NULL WHERE run = $1 AND epoch = $2 AND owner = $3";
        let query = sqlx::query(text).bind(run).bind(epoch as i64).bind(&self.owner);
        if let Err(error) = self.in_time(query.execute(&self.pool)).await {
            tracing::warn!("the lease of run `{run}` is not given back, it ends by itself: {error}");
        }
    }

    async fn close(&mut self) {
        let held = std::mem::take(&mut self.held);
        held.iter().for_each(|(run, held)| self.lose(run, held, "the store is closed"));
        let text = "UPDATE claim SET until = NULL, owner = NULL, holder = NULL WHERE owner = $1";
        let query = sqlx::query(text).bind(&self.owner);
        if let Err(error) = self.in_time(query.execute(&self.pool)).await {
            tracing::warn!("leases are not given back, they end by themselves: {error}");
        }
        self.pool.close().await;
    }
}
