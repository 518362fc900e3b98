//! Which version of a remote file one reads: a file that changes under its reader must not become pixels.

use reqwest::header::{self, HeaderMap};

use crate::failure::excerpt;

/// What a server tells of the version of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileVersion {
    etag: Option<String>,
    modified: Option<String>,
    size: Option<u64>,
}

impl FileVersion {
    /// What the headers of a reply tell.
    pub(crate) fn told(headers: &HeaderMap) -> Self {
        let text = |name: header::HeaderName| Some(headers.get(name)?.to_str().ok()?.trim().to_owned());
        // `bytes 0-9/1234`: the length of a part says nothing of the whole.
        let size = text(header::CONTENT_RANGE).and_then(|range| range.rsplit('/').next()?.parse().ok());
        Self { etag: text(header::ETAG), modified: text(header::LAST_MODIFIED), size }
    }

    /// Size of the whole file in bytes.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// What differs in `later`, in words; `None` when nothing that both tell does. Entity tags decide before times.
    pub(crate) fn change(&self, later: &Self) -> Option<String> {
        let differ = |what: &str, before: &str, after: &str| {
            (before != after).then(|| format!("its {what} was `{}` and is `{}`", excerpt(before), excerpt(after)))
        };
        if let (Some(before), Some(after)) = (self.size, later.size)
            && before != after
        {
            return differ("size", &before.to_string(), &after.to_string());
        }
        // Whether a tag is weak says nothing of what it names.
        let strong = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
        match (&self.etag, &later.etag, &self.modified, &later.modified) {
            (Some(before), Some(after), _, _) => differ("entity tag", &strong(before), &strong(after)),
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
        let cases: [(&[_], _); 6] = [
            (
                &[(header::CONTENT_RANGE, "bytes 0-0/11"), (header::ETAG, "\"a\"")],
                Some("its size was `10` and is `11`"),
            ),
            (&[range.clone(), (header::ETAG, "W/\"a\"")], None),
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
