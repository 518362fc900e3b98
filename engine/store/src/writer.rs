//! The one writer of a process: takes requests from a queue and makes them durable, all that wait in one commit.
//!
//! The compare-and-set on the journal's head and on the epoch of the lease is a rule of the database that breaks the
//! group's commit. When a group fails for such a reason its members are tried one by one, so that each gets its own
//! answer.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

use crate::error::Error;
use crate::record::{Append, LogBatch};
use crate::rows::Rows;

/// How many requests may wait.
pub(crate) const QUEUE: usize = 4096;
/// How many requests share a commit.
const GROUP: usize = 1024;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the writer is asked for.
pub(crate) enum Request<Other> {
    Append(Box<Append>, Reply<u64>),
    Logs(LogBatch, Reply<()>),
    /// What only one database does here; in its turn, so that what was asked before it is durable before it.
    Other(Other),
    Close(Reply<()>),
}

/// The database behind a writer.
pub(crate) trait Database: Send + 'static {
    /// What else it is asked for.
    type Other: Send;

    /// The number of a run's row.
    fn number(&mut self, run: &str) -> impl Future<Output = Result<Option<i64>, Error>> + Send;

    /// Commits a group. After an error nothing of it is stored.
    fn commit(&mut self, rows: Rows) -> impl Future<Output = Result<(), sqlx::Error>> + Send;

    /// Whether a commit failed because a rule was broken: by the compare-and-set, or by a key that is there already.
    fn is_rule(&self, error: &sqlx::Error) -> bool;

    /// Where a transition ended that is stored already.
    fn transition(&mut self, number: i64, id: &str) -> impl Future<Output = Result<Option<u64>, Error>> + Send;

    /// Position of the last event of a run, and the epoch of its newest lease.
    fn head(&mut self, number: i64) -> impl Future<Output = Result<Option<(u64, u64)>, Error>> + Send;

    /// Counts a write that was refused because the lease of its writer has ended.
    fn refused(&mut self, run: &str) -> impl Future<Output = Result<(), Error>> + Send;

    /// Gives an error its name.
    fn classify(&self, error: &sqlx::Error) -> Error;

    /// Does what else was asked, and answers. Returns whether runs may be gone, and their numbers another's.
    fn other(&mut self, other: Self::Other) -> impl Future<Output = bool> + Send;

    /// Closes the connection.
    fn close(self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A caller that no longer waits has lost nothing: the write stands.
pub(crate) fn answer<T>(reply: Reply<T>, result: Result<T, Error>) {
    let _ = reply.send(result);
}

/// Serves until the queue is closed or a request says so.
pub(crate) async fn run<D: Database>(database: D, mut inbox: mpsc::Receiver<Request<D::Other>>) {
    let mut writer = Writer { database, runs: HashMap::new() };
    let mut waiting = Vec::with_capacity(GROUP);
    let mut closing = None;
    while closing.is_none() && inbox.recv_many(&mut waiting, GROUP).await > 0 {
        let mut group = Vec::with_capacity(waiting.len());
        for request in waiting.drain(..) {
            match request {
                Request::Append(append, reply) => group.push(Member::Append(append, reply)),
                Request::Logs(batch, reply) => group.push(Member::Logs(batch, reply)),
                Request::Other(other) => {
                    // Order is kept: what was asked before it is durable before it.
                    writer.commit(std::mem::take(&mut group)).await;
                    if writer.database.other(other).await {
                        writer.runs.clear();
                    }
                }
                Request::Close(reply) => closing = Some(reply),
            }
        }
        writer.commit(group).await;
    }
    let closed = writer.database.close().await;
    if let Some(reply) = closing {
        answer(reply, closed);
    }
}

/// A request that shares a commit with others.
enum Member {
    Append(Box<Append>, Reply<u64>),
    Logs(LogBatch, Reply<()>),
}

struct Writer<D> {
    database: D,
    /// Row numbers of run ids.
    runs: HashMap<String, i64>,
}

impl<D: Database> Writer<D> {
    async fn commit(&mut self, group: Vec<Member>) {
        let mut rows = Rows::default();
        let mut joined = Vec::with_capacity(group.len());
        let mut apart = Vec::new();
        for member in group {
            match member {
                Member::Append(append, reply) => match self.number(&append.run).await {
                    Ok(number) if rows.accepts(number, &append) => match rows.add(number, &append) {
                        Ok(seq) => joined.push((Member::Append(append, reply), seq)),
                        Err(error) => answer(reply, Err(error)),
                    },
                    Ok(_) => apart.push((append, reply)),
                    Err(error) => answer(reply, Err(error)),
                },
                Member::Logs(batch, reply) => match self.number(&batch.run).await {
                    Ok(number) => {
                        rows.add_logs(number, &batch);
                        joined.push((Member::Logs(batch, reply), 0));
                    }
                    Err(error) => answer(reply, Err(error)),
                },
            }
        }
        if !joined.is_empty() {
            match self.database.commit(rows).await {
                Ok(()) => {
                    for (member, seq) in joined {
                        match member {
                            Member::Append(_, reply) => answer(reply, Ok(seq)),
                            Member::Logs(_, reply) => answer(reply, Ok(())),
                        }
                    }
                }
                // One member breaks a rule: each gets its own answer.
                Err(error) if self.database.is_rule(&error) => {
                    for (member, _) in joined {
                        match member {
                            Member::Append(append, reply) => answer(reply, self.append_alone(&append).await),
                            Member::Logs(batch, reply) => answer(reply, self.logs_alone(&batch).await),
                        }
                    }
                }
                // The database itself failed: all get that answer.
                Err(error) => {
                    for (member, _) in joined {
                        let error = self.database.classify(&error);
                        match member {
                            Member::Append(_, reply) => answer(reply, Err(error)),
                            Member::Logs(_, reply) => answer(reply, Err(error)),
                        }
                    }
                }
            }
        }
        for (append, reply) in apart {
            answer(reply, self.append_alone(&append).await);
        }
    }

    async fn append_alone(&mut self, append: &Append) -> Result<u64, Error> {
        let number = self.number(&append.run).await?;
        let mut rows = Rows::default();
        let seq = rows.add(number, append)?;
        match self.database.commit(rows).await {
            Ok(()) => Ok(seq),
            Err(error) if self.database.is_rule(&error) => self.broken(number, append, &error).await,
            Err(error) => Err(self.database.classify(&error)),
        }
    }

    /// Which rule an append breaks.
    async fn broken(&mut self, number: i64, append: &Append, error: &sqlx::Error) -> Result<u64, Error> {
        // I4: the same transition again gets the stored answer.
        if let Some(transition) = &append.transition
            && let Some(seq) = self.database.transition(number, transition).await?
        {
            return Ok(seq);
        }
        let run = append.run.clone();
        match self.database.head(number).await? {
            None => {
                self.runs.remove(&run);
                Err(Error::NoRun(run))
            }
            Some((_, epoch)) if epoch != append.epoch => {
                tracing::warn!(
                    "a write to run `{run}` by lease {} is refused: lease {epoch} is the newest",
                    append.epoch
                );
                self.database.refused(&run).await?;
                Err(Error::LeaseLost { run, epoch: append.epoch })
            }
            Some((actual, _)) if actual != append.expected_seq => {
                Err(Error::Conflict { run, expected: append.expected_seq, actual })
            }
            Some(_) if error.as_database_error().is_some_and(|e| e.message().contains("result")) => {
                Err(Error::ResultExists { run })
            }
            Some(_) => Err(self.database.classify(error)),
        }
    }

    async fn logs_alone(&mut self, batch: &LogBatch) -> Result<(), Error> {
        let number = self.number(&batch.run).await?;
        let mut rows = Rows::default();
        rows.add_logs(number, batch);
        match self.database.commit(rows).await {
            Ok(()) => Ok(()),
            Err(error) if self.database.is_rule(&error) && self.database.head(number).await?.is_none() => {
                self.runs.remove(&batch.run);
                Err(Error::NoRun(batch.run.clone()))
            }
            Err(error) => Err(self.database.classify(&error)),
        }
    }

    async fn number(&mut self, run: &str) -> Result<i64, Error> {
        if let Some(number) = self.runs.get(run) {
            return Ok(*number);
        }
        let number = self.database.number(run).await?.ok_or_else(|| Error::NoRun(run.to_owned()))?;
        self.runs.insert(run.to_owned(), number);
        Ok(number)
    }
}
