//! Hrefs: what is relative to what.

use std::path::{Component, Path, PathBuf};

use url::Url;

/// Whether an href is an address with a scheme (`https://`, `s3://`), not a path.
pub(crate) fn is_address(href: &str) -> bool {
    swath_task::Location(href.to_owned()).is_remote()
}

/// `href` made absolute against the document it stands in. `None` when it cannot be.
pub(crate) fn resolve(document: &str, href: &str) -> Option<String> {
    if is_address(href) || href.starts_with("/vsi") {
        return Some(href.to_owned());
    }
    if let Some(path) = href.strip_prefix("file://") {
        return Some(path.to_owned());
    }
    if is_address(document) {
        return Url::parse(document).ok()?.join(href).ok().map(String::from);
    }
    let folder = Path::new(document).parent()?;
    Some(normal(&folder.join(href)).to_string_lossy().into_owned())
}

/// A path without `.` and `..`, by its text alone.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hrefs_are_relative_to_the_document_they_stand_in() {
        for (document, href, absolute) in [
            ("/data/a/item.json", "./B02.tif", "/data/a/B02.tif"),
            ("/data/a/item.json", "../b/B02.tif", "/data/b/B02.tif"),
            ("/data/a/item.json", "/mnt/B02.tif", "/mnt/B02.tif"),
            ("/data/a/item.json", "file:///mnt/B02.tif", "/mnt/B02.tif"),
            ("/data/a/item.json", "https://host/B02.tif", "https://host/B02.tif"),
            ("/data/a/item.json", "/vsizip/x.zip/B02.tif", "/vsizip/x.zip/B02.tif"),
            ("https://host/a/item.json", "../B02.tif", "https://host/B02.tif"),
            ("https://host/a/item.json?token=1", "B02.tif", "https://host/a/B02.tif"),
            ("https://host/a/item.json", "s3://bucket/B02.tif", "s3://bucket/B02.tif"),
        ] {
            assert_eq!(resolve(document, href).as_deref(), Some(absolute));
        }
    }
}
