//! Reads JSON documents, local and remote, within bounds.

use std::path::Path;

use serde_json::Value;
use swath_access::{Client, Limits, Request, redact, same_origin};
use swath_task::{Bytes, Fault, TaskError};
use url::Url;

use crate::href::is_address;

/// Largest local document, and largest answer of a server.
const LARGEST_FILE: u64 = 256 << 20;
pub(crate) const LARGEST_ANSWER: Bytes = Bytes::mib(64);

/// Reads documents. Headers with keys go to the catalogue's own origin only.
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

    /// The JSON document at `href`, and where it really lies (redirects followed).
    pub async fn read(&self, href: &str) -> Result<(Value, String), TaskError> {
        if is_address(href) {
            return self.send(Request::get(href)?).await;
        }
        let path = href.to_owned();
        let read = tokio::task::spawn_blocking(move || read_file(Path::new(&path)));
        let value = read.await.map_err(|_| TaskError::Cancelled)??;
        Ok((value, href.to_owned()))
    }

    /// Sends a request of a search.
    pub async fn send(&self, mut request: Request) -> Result<(Value, String), TaskError> {
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
        let body = client.fetch(request).await?;
        Ok((body.json()?, body.url.to_string()))
    }
}

/// Takes the list `features` out of a document; `None` when it has none.
pub(crate) fn take_features(document: Value) -> Option<Vec<Value>> {
    match document {
        Value::Object(mut members) => match members.remove("features") {
            Some(Value::Array(features)) => Some(features),
            _ => None,
        },
        _ => None,
    }
}

fn read_file(path: &Path) -> Result<Value, TaskError> {
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
    let bytes = std::fs::read(path).map_err(failed)?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    serde_json::from_slice(text)
        .map_err(|error| Fault::new("S110", format!("the catalogue file `{place}` is not JSON: {error}")).permanent())
}
