//! Who is connected: how many at once, and how long somebody may stay who has not shown that he may ask.
//!
//! 1. A connection is a stranger's until the door has let a request on it in, with a token where they are needed. Open paths
//!    make nobody known where they are.
//! 2. There is room for so many strangers. One more, and the one that came first goes: whoever opens connections and says
//!    nothing takes no room from those who do.
//! 3. A stranger sends the head of a request in time, TLS included, and goes after [`Limits::stay`] whatever was asked for.
//! 4. There is room for so many connections. One more, and a stranger goes; where all are known, it is closed at once.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Connections that wait to be served.
const AHEAD: usize = 16;
/// How long no connection is accepted after one could not be: there may be no file descriptor left.
const REST: Duration = Duration::from_millis(100);
/// How often it is told that there is no room.
const TOLD: Duration = Duration::from_secs(60);

/// Who may be connected.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Of them, those that nobody has shown a token on; where none is needed, those without a request yet.
    pub strangers: usize,
    /// How long the first request may take to come, TLS included.
    pub patience: Duration,
    /// How long a stranger's connection lasts.
    pub stay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 512, strangers: 128, patience: Duration::from_secs(10), stay: Duration::from_secs(60) }
    }
}

/// The connections of a server.
struct Lobby {
    limits: Limits,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    open: usize,
    last: u64,
    /// What ends each stranger's connection, the oldest first.
    strangers: BTreeMap<u64, CancellationToken>,
    /// When it was last told that there is no room.
    told: Option<Instant>,
}

/// A connection. It counts until the last of its clones is gone.
#[derive(Clone)]
pub struct Guest(Arc<Seat>);

struct Seat {
    lobby: Arc<Lobby>,
    number: u64,
    asked: CancellationToken,
    known: CancellationToken,
    end: CancellationToken,
}

impl Lobby {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for one more, or nothing where all are known.
    fn enter(self: &Arc<Self>) -> Option<Guest> {
        let mut inside = self.lock();
        let is_full = inside.open >= self.limits.connections;
        if is_full || inside.strangers.len() >= self.limits.strangers {
            if inside.told.is_none_or(|told| told.elapsed() >= TOLD) {
                inside.told = Some(Instant::now());
                let (open, strangers) = (inside.open, inside.strangers.len());
                tracing::warn!(open, strangers, "there is no room for one more connection: strangers have to go");
            }
            match inside.strangers.pop_first() {
                Some((_, end)) => end.cancel(),
                None if is_full => return None,
                None => {}
            }
        }
        inside.open += 1;
        inside.last += 1;
        let (number, end) = (inside.last, CancellationToken::new());
        inside.strangers.insert(number, end.clone());
        let (asked, known) = (CancellationToken::new(), CancellationToken::new());
        Some(Guest(Arc::new(Seat { lobby: self.clone(), number, asked, known, end })))
    }
}

impl Guest {
    /// A request has come.
    pub fn asks(&self) {
        self.0.asked.cancel();
    }

    /// A request was let in: the connection is no stranger's any more.
    pub fn is_known(&self) {
        if !self.0.known.is_cancelled() {
            self.0.known.cancel();
            self.0.lobby.lock().strangers.remove(&self.0.number);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inside = self.lobby.lock();
        inside.open -= 1;
        inside.strangers.remove(&self.number);
        drop(inside);
        // Nobody need watch it any more.
        self.end.cancel();
    }
}

/// The connections of a listener, ready to be served: encrypted where `tls` is.
pub fn incoming(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
) -> impl Stream<Item = io::Result<Line>> {
    let (lines, mut served) = mpsc::channel(AHEAD);
    tokio::spawn(accept(listener, tls, limits, lines));
    futures::stream::poll_fn(move |context| served.poll_recv(context))
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    lines: mpsc::Sender<io::Result<Line>>,
) {
    let lobby = Arc::new(Lobby { limits, inside: Mutex::default() });
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = lines.closed() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let Some(guest) = lobby.enter() else { continue };
                // Small messages are not to wait for each other.
                let _ = stream.set_nodelay(true);
                tokio::spawn(attend(stream, guest, tls.clone(), lines.clone()));
            }
            Err(error) => {
                tracing::warn!("a connection cannot be accepted: {error}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Hands a connection over to be served, and ends it where it stays a stranger's.
async fn attend(stream: TcpStream, guest: Guest, tls: Option<TlsAcceptor>, lines: mpsc::Sender<io::Result<Line>>) {
    let come = Instant::now();
    let Limits { patience, stay, .. } = guest.0.lobby.limits;
    let in_time = come + patience;
    let (asked, known, end) = (guest.0.asked.clone(), guest.0.known.clone(), guest.0.end.clone());
    let encrypted = async {
        match tls {
            Some(tls) => tls.accept(stream).await.map(|stream| Either::Right(Box::new(stream))),
            None => Ok(Either::Left(stream)),
        }
    };
    let stream = tokio::select! {
        encrypted = encrypted => encrypted,
        () = tokio::time::sleep_until(in_time) => return,
        () = end.cancelled() => return,
    };
    let stream = match stream {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!("no TLS with a client: {error}"),
    };
    let line = Line { stream, ended: Box::pin(end.clone().cancelled_owned()), guest };
    if lines.send(Ok(line)).await.is_err() {
        return;
    }
    drop(lines);
    let too_long = async {
        tokio::select! {
            () = asked.cancelled() => tokio::time::sleep_until(come + stay).await,
            () = tokio::time::sleep_until(in_time) => {}
        }
    };
    tokio::select! {
        () = known.cancelled() => {}
        () = end.cancelled() => {}
        () = too_long => end.cancel(),
    }
}

/// Plain, or encrypted.
type Carrier = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that can be ended from outside.
pub struct Line {
    stream: Carrier,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    guest: Guest,
}

impl Line {
    /// Its stream, unless it was ended. Whoever waits on the stream is woken by the end.
    fn stream(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut Carrier>> {
        match self.ended.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl Connected for Line {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest.clone()
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream(context)?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream(context)?.poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream(context)?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::io::AsyncReadExt;

    use super::*;

    fn lobby(connections: usize, strangers: usize) -> Arc<Lobby> {
        let limits = Limits { connections, strangers, ..Limits::default() };
        Arc::new(Lobby { limits, inside: Mutex::default() })
    }

    #[test]
    fn the_stranger_that_came_first_gives_way() {
        let lobby = lobby(10, 2);
        let [one, two] = [(); 2].map(|()| lobby.enter().unwrap());
        let three = lobby.enter().unwrap();
        let ended = |guest: &Guest| guest.0.end.is_cancelled();
        assert_eq!([&one, &two, &three].map(ended), [true, false, false]);
        two.is_known();
        let four = lobby.enter().unwrap();
        assert_eq!([&two, &three, &four].map(ended), [false; 3], "who is known takes no stranger's room");
        drop(three);
        let five = lobby.enter().unwrap();
        assert_eq!([&four, &five].map(ended), [false; 2], "who has gone takes none");
    }

    #[test]
    fn where_all_are_known_nobody_gives_way() {
        let lobby = lobby(2, 2);
        let [one, two] = [(); 2].map(|()| lobby.enter().unwrap());
        one.is_known();
        let three = lobby.enter().unwrap();
        assert!(two.0.end.is_cancelled() && !one.0.end.is_cancelled());
        drop(two);
        three.is_known();
        assert!(lobby.enter().is_none());
        drop(one);
        assert!(lobby.enter().is_some());
        assert_eq!(lobby.lock().open, 1, "the last one has gone too");
    }

    #[tokio::test]
    async fn a_stranger_goes_in_the_end_whatever_it_asks_for_and_who_is_known_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limits = Limits { stay: Duration::from_secs(2), ..Limits::default() };
        let mut lines = std::pin::pin!(incoming(listener, None, limits));
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let mut stranger = lines.next().await.unwrap().unwrap();
        let mut known = lines.next().await.unwrap().unwrap();
        stranger.guest.asks();
        known.guest.asks();
        known.guest.is_known();
        assert_eq!(stranger.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(tokio::time::timeout(limits.stay * 2, known.read_u8()).await.is_err());
    }
}
