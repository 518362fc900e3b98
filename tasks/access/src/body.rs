//! A whole answer, read within its bounds.

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;
use swath_task::{Fault, TaskError};
use url::Url;

use crate::failure::{excerpt, status_error};
use crate::redact;

/// An answer with its body, decompressed.
#[derive(Clone, Debug)]
pub struct Body {
    /// Status, a success unless it was asked for without a check.
    pub status: StatusCode,
    /// Headers of the last answer.
    pub headers: HeaderMap,
    /// Where redirects ended: relative references are relative to this.
    pub url: Url,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Body {
    /// Reads the content as JSON. S110: it is something else (an HTML page). S111: it is broken JSON; a body that
    /// ends too early may come whole the next time.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, TaskError> {
        serde_json::from_slice(self.text()).map_err(|error| self.json_error(&error))
    }

    /// What it means that `address` answered with this status, which is not a success.
    pub fn failure(&self, address: &Url) -> TaskError {
        let said = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(2000)]);
        status_error(self.status, &self.headers, address.as_str(), &said)
    }

    /// The content without a byte order mark.
    pub fn text(&self) -> &[u8] {
        self.bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.bytes)
    }

    /// What it means that [`Body::text`] could not be read as JSON, for those who read it themselves.
    pub fn json_error(&self, error: &serde_json::Error) -> TaskError {
        let place = redact(self.url.as_str());
        match self.text().iter().find(|byte| !byte.is_ascii_whitespace()) {
            None => {
                Fault::new("S111", format!("`{place}` answered {} with an empty body", self.status)).transient(None)
            }
            Some(b'<') => Fault::new("S110", format!("`{place}` answered {} with a web page, not JSON", self.status))
                .help("check the address: this is often a log-in or error page of a proxy")
                .permanent(),
            Some(_) if error.is_eof() => {
                let size = self.bytes.len();
                Fault::new("S111", format!("the JSON of `{place}` ends too early, after {size} bytes")).transient(None)
            }
            Some(_) if error.is_data() => {
                Fault::new("S110", format!("the JSON of `{place}` is not what was asked for: {error}")).permanent()
            }
            Some(_) => {
                let text = excerpt(&String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(400)]));
                Fault::new("S110", format!("`{place}` did not answer with JSON ({error}): {text}")).permanent()
            }
        }
    }
}
