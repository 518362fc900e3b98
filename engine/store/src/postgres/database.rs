//! The connection that writes, as the writer of the process asks it.

use std::convert::Infallible;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, PgPool, Row};

use super::open::{self, Pause, Server, passes};
use super::statement::Group;
use crate::error::Error;
use crate::read::{self, Ask};
use crate::rows::Rows;
use crate::writer::Database;

/// The connection, made again when it breaks.
pub(super) struct Journal<R> {
    pub server: Server,
    pub connection: Option<PgConnection>,
    /// Whether this process writes alone.
    pub alone: bool,
    pub reads: R,
    pub pool: PgPool,
}

impl<R: Ask + Send + 'static> Database for Journal<R> {
    type Other = Infallible;

    async fn number(&mut self, run: &str) -> Result<Option<i64>, Error> {
        read::number_or_none(&self.reads, run).await
    }

    async fn commit(&mut self, rows: Rows) -> Result<(), sqlx::Error> {
        let group = Group::of(rows);
        let name: i64 = rand::random();
        let mut pause = Pause::new(self.server.patience());
        // Whether an earlier try may have been committed although no answer came.
        let mut sent = false;
        loop {
            let tried = tokio::time::timeout(self.server.patience(), self.attempt(&group, name, &mut sent)).await;
            let error = match tried {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error,
                Err(_) => sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
            };
            if !passes(&error) {
                return Err(error);
            }
            self.connection = None;
            tracing::warn!("the database `{}` is out of reach: {error}", self.server.place().display());
            if !pause.again().await {
                return Err(error);
            }
        }
    }

    fn is_rule(&self, error: &sqlx::Error) -> bool {
        open::is_rule(error)
    }

    async fn transition(&mut self, number: i64, id: &str) -> Result<Option<u64>, Error> {
        read::transition(&self.reads, number, id).await
    }

    async fn head(&mut self, number: i64) -> Result<Option<(u64, u64)>, Error> {
        read::head(&self.reads, number).await
    }

    async fn refused(&mut self, run: &str) -> Result<(), Error> {
        let text = "INSERT INTO claim AS c (run, refused) VALUES ($1, 1) ON CONFLICT (run) DO UPDATE SET refused = c.refused + 1";
        self.server.patiently(|| sqlx::query(text).bind(run).execute(&self.pool)).await.map(drop)
    }

    fn classify(&self, error: &sqlx::Error) -> Error {
        open::classify(self.server.place(), error)
    }

    async fn other(&mut self, other: Infallible) -> bool {
        match other {}
    }

    async fn close(self) -> Result<(), Error> {
        use sqlx::Connection;
        let Some(connection) = self.connection else { return Ok(()) };
        connection.close().await.map_err(|error| open::classify(self.server.place(), &error))
    }
}

impl<R: Ask> Journal<R> {
    async fn attempt(&mut self, group: &Group, name: i64, sent: &mut bool) -> Result<(), sqlx::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.server.writer(self.alone).await?),
        };
        let again = std::mem::replace(sent, true);
        if again && is_stored(connection, group, name).await? {
            return Ok(());
        }
        let arguments = group.arguments(name).map_err(sqlx::Error::Encode)?;
        let query = sqlx::query_with(AssertSqlSafe(group.text.clone()), arguments);
        match query.execute(&mut *connection).await {
            // The server was still busy with the earlier try.
            Err(error) if again && open::is_rule(&error) && is_stored(connection, group, name).await? => Ok(()),
            done => done.map(drop),
        }
    }
}

/// Whether an earlier try of a group was committed. Log lines without a head are not known: they may come twice.
async fn is_stored(connection: &mut PgConnection, group: &Group, name: i64) -> Result<bool, sqlx::Error> {
    let text = "SELECT count(*) FROM run WHERE n = ANY($1) AND write = $2";
    let query = sqlx::query(text).bind(group.heads.as_slice()).bind(name);
    Ok(query.fetch_one(connection).await?.try_get::<i64, _>(0)? > 0)
}
