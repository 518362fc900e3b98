//! Addresses: what of them may be shown, and which belong together.

use url::Url;

/// `address` without query, fragment, user and password: fit for messages. What is not an address is returned up to its
/// first `?`, and without what stands between `://` and `@`: a password with a `/` in it makes an address none.
pub fn redact(address: &str) -> String {
    match Url::parse(address) {
        Ok(mut url) if url.has_host() => {
            let hidden = url.query().is_some();
            url.set_query(None);
            url.set_fragment(None);
            // Both fail only for addresses without a host.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            if hidden { format!("{url}?...") } else { url.to_string() }
        }
        parsed => {
            let hidden = address.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?.1)));
            let address = match hidden {
                Some((scheme, rest)) if parsed.is_err() => format!("{scheme}://{rest}"),
                _ => address.to_owned(),
            };
            match address.split_once('?') {
                Some((before, _)) => format!("{before}?..."),
                None => address,
            }
        }
    }
}

/// Query parameters that are secrets or make an address readable for a while, in lower case: keys and tokens, the
/// signatures of S3, Google Cloud Storage and CloudFront. `key` alone is not among them: it also names objects.
const SIGNATURES: &[&str] = &[
    "sig",
    "signature",
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "api_key",
    "apikey",
    "api-key",
    "subscription-key",
    "secret",
    "client_secret",
    "password",
    "credential",
    "awsaccesskeyid",
    "googleaccessid",
    "key-pair-id",
    "policy",
];
/// How the names of signatures begin.
const PREFIXES: &[&str] = &["x-amz-", "x-goog-"];
/// What a shared access signature of Azure consists of beside `sig`.
const SHARED_ACCESS: &[&str] = &[
    "sv", "ss", "srt", "sr", "sp", "si", "st", "se", "sip", "spr", "sdd", "skoid", "sktid", "skt", "ske", "sks", "skv",
    "saoid", "suoid", "scid",
];

/// Whether `href` carries a signature or key in its query: it must not be stored.
pub fn is_signed(href: &str) -> bool {
    parameters(href).any(|pair| is_signature(&name_of(pair)))
}

/// `href` without signature and keys; all else stays as it is written.
pub fn unsigned(href: &str) -> String {
    if !is_signed(href) {
        return href.to_owned();
    }
    let shared_access = parameters(href).any(|pair| name_of(pair) == "sig");
    let goes = |name: &str| {
        // `Expires` belongs to the signatures of S3 and CloudFront.
        is_signature(name) || name == "expires" || (shared_access && SHARED_ACCESS.contains(&name))
    };
    let stays: Vec<&str> = parameters(href).filter(|pair| !goes(&name_of(pair))).collect();
    let (before, rest) = href.split_once('?').unwrap_or((href, ""));
    let fragment = rest.split_once('#').map_or_else(String::new, |(_, fragment)| format!("#{fragment}"));
    let query = if stays.is_empty() { String::new() } else { format!("?{}", stays.join("&")) };
    format!("{before}{query}{fragment}")
}

fn is_signature(name: &str) -> bool {
    SIGNATURES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The `name=value` parts of the query.
fn parameters(href: &str) -> impl Iterator<Item = &str> {
    let query = href.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    query.split('&').filter(|pair| !pair.is_empty())
}

fn name_of(pair: &str) -> String {
    let name = url::form_urlencoded::parse(pair.as_bytes()).next().map(|(name, _)| name.to_ascii_lowercase());
    name.unwrap_or_default()
}

/// Whether two addresses have the same scheme, host and port.
pub fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_taken_off_and_nothing_else() {
        for (signed, bare) in [
            (
                "https://a.blob.core.windows.net/c/x.tif?st=1&se=2&sp=rl&sv=3&sr=c&skoid=4&sig=S",
                "https://a.blob.core.windows.net/c/x.tif",
            ),
            (
                "https://b.s3.amazonaws.com/x?X-Amz-Algorithm=A&X-Amz-Expires=9&X-Amz-Signature=S",
                "https://b.s3.amazonaws.com/x",
            ),
            (
                "https://b.s3.amazonaws.com/x?versionId=7&AWSAccessKeyId=A&Expires=9&Signature=S#f",
                "https://b.s3.amazonaws.com/x?versionId=7#f",
            ),
            ("/vsicurl/https://h/x.tif?page=2&Token=S&sp=1", "/vsicurl/https://h/x.tif?page=2&sp=1"),
        ] {
            assert!(is_signed(signed), "{signed}");
            assert_eq!(unsigned(signed), bare);
            assert!(!is_signed(bare));
        }
        for bare in ["https://h/x?key=a/b.tif&sp=1", "https://h/x?expires=never", "/data/sig=1.tif", "https://h/x"] {
            assert!(!is_signed(bare), "{bare}");
            assert_eq!(unsigned(bare), bare);
        }
    }

    #[test]
    fn no_signature_or_password_is_shown() {
        for (address, shown) in [
            ("https://a.blob.core.windows.net/c/x.tif?sv=1&sig=SECRET", "https://a.blob.core.windows.net/c/x.tif?..."),
            ("https://me:SECRET@host/x#f", "https://host/x"),
            ("https://host/x", "https://host/x"),
            ("/data/x.tif", "/data/x.tif"),
            ("x.tif?sig=SECRET", "x.tif?..."),
            ("https://me:SEC/RET@host:port/x?sig=SECRET", "https://host:port/x?..."),
            ("file:///data/a@b.tif", "file:///data/a@b.tif"),
        ] {
            assert_eq!(redact(address), shown);
        }
    }
}
