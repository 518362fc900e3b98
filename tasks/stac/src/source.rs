//! Fetches documents, local and remote, within bounds. They are read by [`crate::document`].

use std::path::Path;
use std::time::Duration;

use swath_access::{Body, Client, Limits, Request, redact, same_origin};
use swath_task::{Bytes, Fault, TaskError};
use url::Url;

use crate::href::is_address;

/// Largest local document, and largest answer of a server.
const LARGEST_FILE: u64 = 128 << 20;
pub(crate) const LARGEST_ANSWER: Bytes = Bytes::mib(32);

/// Pauses before the second and third attempt, and the longest a server may ask for to be waited for here.
const PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A document as it came.
pub(crate) enum Text {
    Answer(Body),
    File { path: String, bytes: Vec<u8> },
}

impl Text {
    /// Where it really lies (redirects followed).
    pub fn href(&self) -> &str {
        match self {
            Self::Answer(body) => body.url.as_str(),
            Self::File { path, .. } => path,
        }
    }

    /// The content without a byte order mark.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Answer(body) => body.text(),
            Self::File { bytes, .. } => bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes),
        }
    }

    /// What it means that it is not JSON.
    pub fn error(&self, error: &serde_json::Error) -> TaskError {
        match self {
            Self::Answer(body) => body.json_error(error),
            Self::File { path, .. } => {
                Fault::new("S110", format!("the catalogue file `{path}` is not JSON: {error}")).permanent()
            }
        }
    }
}

/// Fetches documents. Headers with keys go to the catalogue's own origin only.
#[derive(Clone)]
pub(crate) struct Source {
    client: Option<Client>,
    origin: Option<Url>,
    headers: Vec<(String, String)>,
}

impl Source {
    /// A source for the catalogue at `location`.
    pub fn new(location: &str, limits: Limits, headers: Vec<(String, String)>) -> Result<Self, TaskError> {
        let remote = is_address(location);
        let client = if remote { Some(Client::new(limits)?) } else { None };
        Ok(Self { client, origin: remote.then(|| Url::parse(location).ok()).flatten(), headers })
    }

    /// The document at `href`.
    pub async fn read(&self, href: &str) -> Result<Text, TaskError> {
        if is_address(href) {
            return self.send(Request::get(href)?).await;
        }
        let path = href.to_owned();
        let read = tokio::task::spawn_blocking(move || read_file(Path::new(&path)));
        let bytes = read.await.map_err(|_| TaskError::Cancelled)??;
        Ok(Text::File { path: href.to_owned(), bytes })
    }

    /// Sends a request of a search.
    pub async fn send(&self, mut request: Request) -> Result<Text, TaskError> {
        let Some(client) = &self.client else {
            let message = format!("a local catalogue leads to `{}`", redact(request.url().as_str()));
            return Err(Fault::new("S123", message)
                .help("local catalogues are searched without the network: search the server itself")
                .permanent());
        };
        if self.origin.as_ref().is_some_and(|origin| same_origin(origin, request.url())) {
            for (name, value) in &self.headers {
                request = request.header(name, value)?;
            }
        }
        // One answer of thousands may fail: asking again is cheaper than the whole search. What does not pass in
        // seconds is the engine's to retry.
        for pause in PAUSES {
            match client.fetch(request.clone()).await {
                Err(TaskError::Transient { fault, retry_after })
                    if fault.code != "S102" && retry_after.is_none_or(|asked| asked <= LONGEST_PAUSE) =>
                {
                    let pause = retry_after.unwrap_or(pause);
                    tracing::warn!(wait_ms = pause.as_millis() as u64, "{fault}");
                    tokio::time::sleep(pause).await;
                }
                outcome => return outcome.map(Text::Answer),
            }
        }
        client.fetch(request).await.map(Text::Answer)
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>, TaskError> {
    let place = path.display();
    let failed = |error: std::io::Error| {
        Fault::new("S125", format!("cannot read the catalogue file `{place}`: {error}"))
            .help("check the path; relative ones are relative to the flow's folder")
            .permanent()
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > LARGEST_FILE {
        let message =
            format!("the catalogue file `{place}` has {} MiB, more than {} MiB", size >> 20, LARGEST_FILE >> 20);
        return Err(Fault::new("S109", message).help("split it into several item collections").permanent());
    }
    std::fs::read(path).map_err(failed)
}
