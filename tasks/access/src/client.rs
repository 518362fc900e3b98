//! The HTTP client every task shares: bounded in time, size and redirects.

use std::fs::File;
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use swath_task::{Bytes, Fault, TaskError};
use tokio::io::AsyncSeekExt;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;
use url::Url;

use crate::body::Body;
use crate::failure::transport_error;
use crate::{redact, same_origin, trace};

/// Bounds of one request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For name, connection and TLS.
    pub connect: Duration,
    /// From sending to the first header.
    pub first_byte: Duration,
    /// Longest silence within a body.
    pub idle: Duration,
    /// For the whole request with its body and redirects: ends a server that sends a byte a second.
    pub total: Duration,
    /// Largest body, after decompression.
    pub body: Bytes,
    /// Most redirects in a row.
    pub redirects: usize,
    /// Whether compressed bodies are unpacked.
    pub decompress: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(180),
            body: Bytes::mib(64),
            redirects: 8,
            decompress: true,
        }
    }
}

/// One request: method, address, what to send.
#[derive(Clone, Debug)]
pub struct Request {
    method: Method,
    url: Url,
    headers: HeaderMap,
    content: Content,
}

/// What a request carries.
#[derive(Clone, Debug)]
enum Content {
    None,
    Json(Vec<u8>),
    File { file: Arc<File>, size: u64 },
}

/// A file is given a second more for each of these, in bytes: what a slow line carries.
const SLOWEST_UPLOAD: u64 = 256 << 10;

impl Request {
    /// `GET address`. S113 when it is no HTTP address.
    pub fn get(address: &str) -> Result<Self, TaskError> {
        Self::new(Method::GET, address, Content::None)
    }

    /// `POST address` with a JSON body. S113 when it is no HTTP address.
    pub fn post(address: &str, body: &impl serde::Serialize) -> Result<Self, TaskError> {
        let json = serde_json::to_vec(body).map_err(|error| {
            Fault::new("S113", format!("the request to `{}` cannot be written as JSON: {error}", redact(address)))
        })?;
        Self::new(Method::POST, address, Content::Json(json))
    }

    /// `PUT address` with a file of `size` bytes, which is read while it is sent. The limits of time are longer by what a
    /// slow line needs for it. S113 when it is no HTTP address.
    pub fn put(address: &str, file: File, size: u64) -> Result<Self, TaskError> {
        Self::new(Method::PUT, address, Content::File { file: Arc::new(file), size })
    }

    fn new(method: Method, address: &str, content: Content) -> Result<Self, TaskError> {
        Ok(Self { method, url: http_url(address)?, headers: HeaderMap::new(), content })
    }

    /// How much longer the request may take for what it carries.
    fn allowance(&self) -> Duration {
        match &self.content {
            Content::File { size, .. } => Duration::from_secs(size / SLOWEST_UPLOAD),
            Content::None | Content::Json(_) => Duration::ZERO,
        }
    }

    /// Adds a header, which is not shown anywhere. Redirects to another origin are followed only by headers that say
    /// what is asked for (`Range`, `Accept`, `If-...`).
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, TaskError> {
        let name = HeaderName::try_from(name)
            .map_err(|_| Fault::new("S113", format!("`{name}` cannot be the name of an HTTP header")))?;
        let mut value = HeaderValue::try_from(value).map_err(|_| {
            Fault::new("S113", format!("the value of the HTTP header `{name}` has forbidden characters"))
        })?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Where it goes.
    pub fn url(&self) -> &Url {
        &self.url
    }
}

/// A client with its limits. Cheap to clone; connections are shared.
#[derive(Clone, Debug)]
pub struct Client {
    inner: reqwest::Client,
    limits: Limits,
}

impl Client {
    /// A client with these limits.
    pub fn new(limits: Limits) -> Result<Self, TaskError> {
        Self::build(limits, true)
    }

    /// The client of this process with the default limits.
    pub fn shared() -> Result<Self, TaskError> {
        static SHARED: OnceLock<Client> = OnceLock::new();
        if let Some(client) = SHARED.get() {
            return Ok(client.clone());
        }
        let client = Self::new(Limits::default())?;
        Ok(SHARED.get_or_init(|| client).clone())
    }

    /// A client that keeps no connection between requests, so that it may be used from several runtimes.
    pub(crate) fn unpooled(limits: Limits) -> Result<Self, TaskError> {
        Self::build(limits, false)
    }

    fn build(limits: Limits, pooled: bool) -> Result<Self, TaskError> {
        install_crypto();
        let inner = reqwest::Client::builder()
            .user_agent(concat!("swath/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(limits.connect)
            .redirect(reqwest::redirect::Policy::none())
            .gzip(limits.decompress)
            .pool_max_idle_per_host(if pooled { 16 } else { 0 })
            .pool_idle_timeout(Duration::from_secs(60))
            .tcp_keepalive(Duration::from_secs(30))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(20))
            .build()
            .map_err(|error| {
                Fault::new("S113", format!("the HTTP client cannot be set up: {error}"))
                    .help("check the certificates of this machine (`ca-certificates`) and the proxy variables")
            })?;
        Ok(Self { inner, limits })
    }

    /// Sends `request` and reads the whole answer; an answer that is not a success is an error.
    pub async fn fetch(&self, request: Request) -> Result<Body, TaskError> {
        let address = request.url.clone();
        let body = self.fetch_any(request).await?;
        if body.status.is_success() { Ok(body) } else { Err(body.failure(&address)) }
    }

    /// Sends `request` and reads the whole answer, whatever its status; of a failure's body only the beginning.
    pub async fn fetch_any(&self, request: Request) -> Result<Body, TaskError> {
        self.answered(request, StatusCode::is_success).await
    }

    /// Sends `request` and reads the answer whole when it has the status `wanted`, else only its beginning.
    pub(crate) async fn answer(&self, request: Request, wanted: StatusCode) -> Result<Body, TaskError> {
        self.answered(request, |status| *status == wanted).await
    }

    async fn answered(&self, request: Request, whole: impl Fn(&StatusCode) -> bool) -> Result<Body, TaskError> {
        let span = trace::request(&request.method, &request.url);
        let work = async {
            let deadline = Instant::now() + self.limits.total + request.allowance();
            let response = self.follow(request, deadline).await?;
            let (status, headers, url) = (response.status(), response.headers().clone(), response.url().clone());
            let bytes = self.read(response, deadline, !whole(&status)).await?;
            Ok(Body { status, headers, url, bytes })
        };
        let answer = work.instrument(span.clone()).await;
        trace::answered(&span, answer.as_ref().map(|body| (body.status, body.bytes.len())));
        answer
    }

    /// Sends, following redirects by the rules of invariant 4.
    async fn follow(&self, mut request: Request, deadline: Instant) -> Result<Response, TaskError> {
        let first = request.url.clone();
        for _ in 0..=self.limits.redirects {
            let response = self.send(&request, deadline).await?;
            let Some(target) = redirect_target(&response) else { return Ok(response) };
            let from = redact(request.url.as_str());
            let next = request.url.join(&target).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let Some(next) = next else {
                return Err(
                    Fault::new("S108", format!("`{from}` redirects to what is not an HTTP address")).permanent()
                );
            };
            if request.url.scheme() == "https" && next.scheme() == "http" {
                let message = format!("`{from}` redirects from https to plain http at `{}`", redact(next.as_str()));
                return Err(Fault::new("S108", message).permanent());
            }
            if !same_origin(&request.url, &next) {
                request.headers = harmless(&request.headers);
            }
            let keeps_body =
                matches!(response.status(), StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
            if !keeps_body && request.method == Method::POST {
                request.method = Method::GET;
                request.content = Content::None;
            }
            request.url = next;
        }
        let limit = self.limits.redirects;
        let message = format!("`{}` redirects more than {limit} times: it leads in a circle", redact(first.as_str()));
        Err(Fault::new("S108", message).help("give the address that the redirects are to end at").permanent())
    }

    async fn send(&self, request: &Request, deadline: Instant) -> Result<Response, TaskError> {
        let mut builder = self.inner.request(request.method.clone(), request.url.clone());
        let mut headers = request.headers.clone();
        trace::inject(&mut headers);
        builder = builder.headers(headers);
        builder = builder.header(header::ACCEPT, "application/geo+json, application/json, */*;q=0.5");
        builder = match &request.content {
            Content::None => builder,
            Content::Json(json) => builder.header(header::CONTENT_TYPE, "application/json").body(json.clone()),
            Content::File { file, size } => {
                let unread = |error: std::io::Error| {
                    let place = redact(request.url.as_str());
                    Fault::new("S101", format!("the file for `{place}` cannot be read: {error}")).transient(None)
                };
                let mut file = tokio::fs::File::from_std(file.try_clone().map_err(unread)?);
                // A redirect sends it again.
                file.rewind().await.map_err(unread)?;
                builder.header(header::CONTENT_LENGTH, *size).body(file)
            }
        };
        let until = deadline.min(Instant::now() + self.limits.connect + self.limits.first_byte + request.allowance());
        match timeout_at(until, builder.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(transport_error(&error, request.url.as_str())),
            Err(_) => {
                let waited = self.limits.connect + self.limits.first_byte;
                Err(timed_out(&request.url, &format!("no answer within {} s", seconds(waited.min(self.limits.total)))))
            }
        }
    }

    /// Reads a body within the limits. Of a failure's body only the beginning is wanted.
    async fn read(&self, mut response: Response, deadline: Instant, beginning: bool) -> Result<Vec<u8>, TaskError> {
        let url = response.url().clone();
        let mut bytes = Vec::new();
        let limit = usize::try_from(self.limits.body.0).unwrap_or(usize::MAX);
        loop {
            let now = Instant::now();
            let chunk = match timeout_at(deadline.min(now + self.limits.idle), response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => return Ok(bytes),
                _ if beginning => return Ok(bytes),
                Ok(Err(error)) => return Err(transport_error(&error, url.as_str())),
                Err(_) if Instant::now() >= deadline => {
                    let (total, got) = (seconds(self.limits.total), bytes.len());
                    return Err(timed_out(&url, &format!("not whole within {total} s ({got} bytes came)")));
                }
                Err(_) => {
                    return Err(timed_out(
                        &url,
                        &format!("silent for {} s within the body", seconds(self.limits.idle)),
                    ));
                }
            };
            if beginning && bytes.len() + chunk.len() > 64 << 10 {
                return Ok(bytes);
            }
            if bytes.len() + chunk.len() > limit {
                let place = redact(url.as_str());
                return Err(Fault::new("S109", format!("the answer of `{place}` is larger than {}", self.limits.body))
                    .help("ask for less at once (a smaller `limit`); a small file that unpacks to this much is refused")
                    .permanent());
            }
            bytes.extend_from_slice(&chunk);
        }
    }
}

/// What of the headers may go to another origin: what is asked for. All others may be keys.
fn harmless(headers: &HeaderMap) -> HeaderMap {
    let safe = [
        header::RANGE,
        header::ACCEPT,
        header::ACCEPT_ENCODING,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_UNMODIFIED_SINCE,
        header::IF_RANGE,
    ];
    safe.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}

fn redirect_target(response: &Response) -> Option<String> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let target = response.headers().get(header::LOCATION)?;
    redirects.then(|| String::from_utf8_lossy(target.as_bytes()).into_owned())
}

fn timed_out(url: &Url, what: &str) -> TaskError {
    Fault::new("S102", format!("`{}` did not answer in time: {what}", redact(url.as_str())))
        .help("the server hangs or is very slow: give the step `retry`, or ask for less at once")
        .transient(None)
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

fn http_url(address: &str) -> Result<Url, TaskError> {
    let url = Url::parse(address).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.ok_or_else(|| {
        Fault::new("S113", format!("`{}` is not an address that can be asked", redact(address)))
            .help("write `https://host/path`")
            .permanent()
    })
}

/// rustls is built without a default provider, so that none is linked twice: ring it is.
fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that the host program has installed one already: that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
