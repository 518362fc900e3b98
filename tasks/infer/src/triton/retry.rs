//! What can go wrong between here and a model server, and what is asked again.
//!
//! Asked again is what may pass by itself and has changed nothing: no connection, a lost one, a server that says it is
//! not ready or too busy. Not asked again: a server that does not answer in time (it would only have more to do), and
//! whatever it refuses.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Longest that setting up a connection may take.
const LONGEST_CONNECT: Duration = Duration::from_secs(5);

/// What kind of trouble it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No connection, a lost one, or a server that is not ready or too busy. The only kind that is asked again.
    Away,
    /// No answer in time.
    Late,
    /// The server has no such model, or no such version of it.
    Unknown,
    /// What answers is no model server of this protocol.
    Foreign,
    /// The server does not know the call: Triton's own, on another server.
    Unsupported,
    /// The server, or this client, is not who it must be.
    Stranger,
    /// The server refuses the request, or fails at it.
    Refused,
    /// The answer cannot be read.
    Garbled,
}

/// Why a request came to nothing.
#[derive(Clone, Debug)]
pub(crate) struct Trouble {
    /// What kind it is.
    pub kind: Kind,
    /// What the server or the network said.
    pub said: String,
    /// How often it was asked.
    pub asked: u32,
}

impl Trouble {
    /// Trouble at the first try.
    pub fn new(kind: Kind, said: impl Into<String>) -> Self {
        Self { kind, said: said.into(), asked: 1 }
    }
}

/// How long a server may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// For one request.
    pub deadline: Duration,
    /// For being away, counted from the first request that found it so.
    pub away: Duration,
}

impl Patience {
    /// The same with a deadline of at most `deadline`.
    pub fn at_most(self, deadline: Duration) -> Self {
        Self { deadline: self.deadline.min(deadline), ..self }
    }

    /// For setting up a connection: less than a request may take, so that a machine that says nothing at all is told from a
    /// server that is slow to answer.
    pub fn connect(&self) -> Duration {
        (self.deadline / 2).min(LONGEST_CONNECT)
    }

    /// Asks until there is an answer, or trouble that does not pass.
    pub async fn ask<T>(&self, mut once: impl AsyncFnMut() -> Result<T, Trouble>) -> Result<T, Trouble> {
        let (mut away_since, mut pause, mut asked) = (None, PAUSES.0, 0);
        loop {
            asked += 1;
            let trouble = match timeout(self.deadline, once()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::new(Kind::Late, format!("no answer within {} s", self.deadline.as_secs_f32())),
            };
            let trouble = Trouble { asked, ..trouble };
            let since: Instant = *away_since.get_or_insert_with(Instant::now);
            let left = self.away.saturating_sub(since.elapsed());
            if trouble.kind != Kind::Away || left.is_zero() {
                return Err(trouble);
            }
            tracing::debug!(said = trouble.said, asked, ?pause, "the model server is away");
            sleep(jittered(pause).min(left)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

/// Half of a pause to the whole of it, so that those who wait do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() as u32;
    pause.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patience(away: u64) -> Patience {
        Patience { deadline: Duration::from_secs(7), away: Duration::from_secs(away) }
    }

    async fn asks(patience: Patience, troubles: &[Kind]) -> (Result<u32, Trouble>, Duration) {
        let (mut count, start) = (0, Instant::now());
        let result = patience
            .ask(async || {
                let trouble = troubles.get(count as usize).copied();
                count += 1;
                trouble.map_or(Ok(count), |kind| Err(Trouble::new(kind, "no")))
            })
            .await;
        (result, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_server_that_is_away_is_asked_again_and_the_pauses_grow() {
        let (result, took) = asks(patience(60), &[Kind::Away; 4]).await;
        assert_eq!(result.unwrap(), 5);
        // 100, 200, 400 and 800 ms, each between a half and the whole.
        assert!((750..=1500).contains(&took.as_millis()), "{took:?}");
        for kind in
            [Kind::Late, Kind::Unknown, Kind::Foreign, Kind::Unsupported, Kind::Stranger, Kind::Refused, Kind::Garbled]
        {
            let (result, took) = asks(patience(60), &[kind]).await;
            let trouble = result.unwrap_err();
            assert_eq!((trouble.kind, trouble.asked, took), (kind, 1, Duration::ZERO));
            let (result, _) = asks(patience(60), &[Kind::Away, kind]).await;
            assert_eq!(result.unwrap_err().asked, 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_so_does_a_request_without_answer() {
        let (result, took) = asks(patience(20), &[Kind::Away; 1000]).await;
        let trouble = result.unwrap_err();
        assert!(trouble.kind == Kind::Away && trouble.asked > 5, "{trouble:?}");
        assert!((20_000..20_100).contains(&took.as_millis()), "{took:?}");
        let none = patience(0);
        assert_eq!(asks(none, &[Kind::Away; 9]).await.0.unwrap_err().asked, 1);
        let start = Instant::now();
        let hangs = patience(60).ask(async || std::future::pending::<Result<(), Trouble>>().await).await;
        assert!(hangs.is_err_and(|trouble| trouble.kind == Kind::Late && trouble.said.contains("7 s")));
        assert_eq!(start.elapsed().as_secs(), 7);
    }
}
