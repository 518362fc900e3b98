//! An HTTP server that misbehaves as it is told: hangs, drips, lies about lengths, cuts off, redirects in circles,
//! sends bombs. On `std` alone, so that tests with and without a runtime can use it.
//!
//! ```
//! use swath_testkit::http::{Reply, Server};
//!
//! let server = Server::start(|request| match request.path() {
//!     "/ok" => Reply::json(&serde_json::json!({ "asked": request.method })),
//!     "/slow" => Reply::hang(),
//!     _ => Reply::status(404),
//! });
//! assert!(server.url("/ok").starts_with("http://127.0.0.1:"));
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Largest request body that is read.
const LARGEST_REQUEST: usize = 16 << 20;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `POST`, ...
    pub method: String,
    /// Path with query.
    pub target: String,
    /// Header names in lower case, and their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// Path without query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Query, empty when there is none. Still percent-encoded.
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// First and last byte of a `Range: bytes=a-b` header over a content of `length` bytes.
    fn range(&self, length: usize) -> Option<(usize, usize)> {
        let (from, to) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let last = length.checked_sub(1)?;
        let range = match (from.parse::<usize>(), to.parse::<usize>()) {
            (Ok(from), Ok(to)) => (from, to.min(last)),
            (Ok(from), Err(_)) => (from, last),
            (Err(_), Ok(suffix)) => (length.saturating_sub(suffix), last),
            _ => return None,
        };
        (range.0 <= range.1).then_some(range)
    }
}

/// How a body is sent.
#[derive(Clone, Debug)]
enum Manner {
    /// At once.
    Whole,
    /// Nothing at all is said, the connection stays open.
    Hang,
    /// The connection is closed without an answer.
    Close,
    /// This many bytes of the body are sent, then the connection is closed.
    CutAfter(usize),
    /// This many bytes of the body are sent, then silence.
    StallAfter(usize),
    /// One byte at a time with this pause.
    Drip(Duration),
    /// The body again and again, without end.
    Forever,
}

/// An answer, and how it is given.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    length: Option<usize>,
    manner: Manner,
}

impl Reply {
    /// An empty answer of a status.
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new(), length: None, manner: Manner::Whole }
    }

    /// `200` with JSON.
    pub fn json(value: &serde_json::Value) -> Self {
        Self::content("application/json", value.to_string().into_bytes())
    }

    /// `200` with a body of a media type.
    pub fn content(media_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).header("Content-Type", media_type).body(body)
    }

    /// `200`, or `206` with the part a `Range` header asks for.
    pub fn ranged(request: &Request, content: &[u8]) -> Self {
        let reply = match request.range(content.len()) {
            Some((from, to)) => Self::status(206)
                .header("Content-Range", &format!("bytes {from}-{to}/{}", content.len()))
                .body(&content[from..=to]),
            None => Self::status(200).body(content),
        };
        reply.header("Accept-Ranges", "bytes").header("Content-Type", "application/octet-stream")
    }

    /// A redirect.
    pub fn redirect(status: u16, target: &str) -> Self {
        Self::status(status).header("Location", target)
    }

    /// Says nothing and keeps the connection open.
    pub fn hang() -> Self {
        Self { manner: Manner::Hang, ..Self::status(200) }
    }

    /// Closes the connection without an answer.
    pub fn close() -> Self {
        Self { manner: Manner::Close, ..Self::status(200) }
    }

    /// A small gzip stream that unpacks to zeros without end.
    pub fn gzip_bomb() -> Self {
        let mut reply = Self::status(200).header("Content-Type", "application/json").header("Content-Encoding", "gzip");
        reply.body = zeros();
        reply.manner = Manner::Forever;
        reply
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Promises another length than the body has.
    pub fn claim_length(mut self, length: usize) -> Self {
        self.length = Some(length);
        self
    }

    /// Sends this many bytes of the body, then closes the connection.
    pub fn cut_after(mut self, bytes: usize) -> Self {
        self.manner = Manner::CutAfter(bytes);
        self
    }

    /// Sends this many bytes of the body, then nothing more.
    pub fn stall_after(mut self, bytes: usize) -> Self {
        self.manner = Manner::StallAfter(bytes);
        self
    }

    /// Sends the body a byte at a time.
    pub fn drip(mut self, pause: Duration) -> Self {
        self.manner = Manner::Drip(pause);
        self
    }
}

/// Ten bytes of gzip header, then a block of a mebibyte of zeros that may be repeated: it ends with a full flush, so
/// it refers to nothing before it.
fn zeros() -> Vec<u8> {
    let mut deflate = flate2::Compress::new(flate2::Compression::best(), false);
    let mut block = Vec::with_capacity(8192);
    let done = deflate.compress_vec(&vec![0; 1 << 20], &mut block, flate2::FlushCompress::Full);
    assert!(done.is_ok() && deflate.total_in() == 1 << 20, "the block fits");
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    gzip.extend(block);
    gzip
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    requests: Mutex<Vec<Request>>,
    bytes_sent: AtomicUsize,
    stop: AtomicBool,
}

/// A server on a free port of the loopback interface, stopped when dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server that answers as `handler` says.
    ///
    /// # Panics
    /// When no port is free.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            requests: Mutex::default(),
            bytes_sent: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let accepting = std::thread::spawn({
            let shared = shared.clone();
            move || {
                for connection in listener.incoming() {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let Ok(connection) = connection else { continue };
                    let shared = shared.clone();
                    // What goes wrong with one connection is the business of its client.
                    std::thread::spawn(move || drop(serve(&connection, &shared)));
                }
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    /// Address of a path on this server.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Host and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many bytes of bodies were sent.
    pub fn bytes_sent(&self) -> usize {
        self.shared.bytes_sent.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that waits for connections.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

fn serve(connection: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.set_write_timeout(Some(Duration::from_secs(30)))?;
    let Some(request) = read_request(connection)? else { return Ok(()) };
    let head_only = request.method == "HEAD";
    shared.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
    let reply = (shared.handler)(&request);
    match reply.manner {
        Manner::Close => return Ok(()),
        Manner::Hang => {
            wait(shared, Duration::from_secs(600));
            return Ok(());
        }
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} {}\r\nConnection: close\r\n", reply.status, reason(reply.status));
    if !matches!(reply.manner, Manner::Forever) {
        head += &format!("Content-Length: {}\r\n", reply.length.unwrap_or(reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut out = connection;
    out.write_all(head.as_bytes())?;
    out.write_all(b"\r\n")?;
    if head_only {
        return Ok(());
    }
    let mut send = |bytes: &[u8]| {
        shared.bytes_sent.fetch_add(bytes.len(), Ordering::Relaxed);
        out.write_all(bytes)
    };
    match reply.manner {
        Manner::Whole => send(&reply.body)?,
        Manner::CutAfter(count) => send(&reply.body[..count.min(reply.body.len())])?,
        Manner::StallAfter(count) => {
            send(&reply.body[..count.min(reply.body.len())])?;
            wait(shared, Duration::from_secs(600));
        }
        Manner::Drip(pause) => {
            for byte in &reply.body {
                send(&[*byte])?;
                if wait(shared, pause) {
                    return Ok(());
                }
            }
        }
        Manner::Forever => {
            send(&reply.body)?;
            while !shared.stop.load(Ordering::Relaxed) {
                send(&reply.body[10..])?;
            }
        }
        Manner::Hang | Manner::Close => {}
    }
    Ok(())
}

/// Sleeps; `true` when the server was stopped meanwhile.
fn wait(shared: &Shared, time: Duration) -> bool {
    let mut left = time;
    while !left.is_zero() {
        if shared.stop.load(Ordering::Relaxed) {
            return true;
        }
        let nap = left.min(Duration::from_millis(20));
        std::thread::sleep(nap);
        left -= nap;
    }
    shared.stop.load(Ordering::Relaxed)
}

fn read_request(connection: &TcpStream) -> std::io::Result<Option<Request>> {
    let mut reader = BufReader::new(connection);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut parts = line.split_whitespace();
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else { return Ok(None) };
    let (method, target) = (method.to_owned(), target.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok());
    let mut body = vec![0; length.unwrap_or(0_usize).min(LARGEST_REQUEST)];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, target, headers, body }))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
