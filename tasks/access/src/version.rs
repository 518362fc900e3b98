//! Which version of a remote file one reads: a file that changes under its reader must not become pixels.

use reqwest::header::{self, HeaderMap};

use crate::client::{Client, Request};
use crate::failure::status_error;
use swath_task::TaskError;

/// What a server tells of the version of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileVersion {
    etag: Option<String>,
    modified: Option<String>,
    size: Option<u64>,
}

impl FileVersion {
    /// Asks for the first byte of `address`, not with `HEAD`: an address signed for `GET` refuses that.
    ///
    /// # Errors
    /// Those of any request; nothing of the file's content is looked at.
    pub async fn of(client: &Client, address: &str) -> Result<Self, TaskError> {
        let request = Request::get(address)?.header(header::RANGE.as_str(), "bytes=0-0")?;
        let (status, headers) = client.head(request).await?;
        if !status.is_success() {
            return Err(status_error(status, &headers, address, ""));
        }
        Ok(Self::told(&headers))
    }

    fn told(headers: &HeaderMap) -> Self {
        let text = |name: header::HeaderName| Some(headers.get(name)?.to_str().ok()?.trim().to_owned());
        // `bytes 0-0/1234` of a range, the whole length of a server that knows no ranges.
        let size = match text(header::CONTENT_RANGE) {
            Some(range) => range.rsplit('/').next().and_then(|size| size.parse().ok()),
            None => text(header::CONTENT_LENGTH).and_then(|size| size.parse().ok()),
        };
        Self { etag: text(header::ETAG), modified: text(header::LAST_MODIFIED), size }
    }

    /// What differs in `later`, in words; `None` when nothing that both tell does. Entity tags decide before times.
    pub fn change(&self, later: &Self) -> Option<String> {
        let differ = |what: &str, before: &str, after: &str| {
            (before != after).then(|| format!("its {what} was `{before}` and is `{after}`"))
        };
        if let (Some(before), Some(after)) = (self.size, later.size)
            && before != after
        {
            return differ("size", &before.to_string(), &after.to_string());
        }
        match (&self.etag, &later.etag, &self.modified, &later.modified) {
            (Some(before), Some(after), _, _) => differ("entity tag", before, after),
            (_, _, Some(before), Some(after)) => differ("time of modification", before, after),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn told(headers: &[(HeaderName, &'static str)]) -> FileVersion {
        FileVersion::told(&headers.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect())
    }

    #[test]
    fn a_change_is_told_by_size_then_entity_tag_then_time() {
        let range = (header::CONTENT_RANGE, "bytes 0-0/10");
        let old = told(&[range.clone(), (header::ETAG, "\"a\""), (header::LAST_MODIFIED, "Mon")]);
        assert_eq!(old.size, Some(10));
        assert_eq!(old.change(&old), None);
        let cases: [(&[_], _); 5] = [
            (&[(header::CONTENT_LENGTH, "11"), (header::ETAG, "\"a\"")], Some("its size was `10` and is `11`")),
            (&[range.clone(), (header::ETAG, "\"b\"")], Some("its entity tag was `\"a\"` and is `\"b\"`")),
            (&[(header::ETAG, "\"a\""), (header::LAST_MODIFIED, "Tue")], None),
            (&[(header::LAST_MODIFIED, "Tue")], Some("its time of modification was `Mon` and is `Tue`")),
            (&[(header::CONTENT_RANGE, "bytes 0-0/*")], None),
        ];
        for (headers, change) in cases {
            assert_eq!(old.change(&told(headers)).as_deref(), change);
        }
    }
}
