//! Addresses: what of them may be shown, and which belong together.

use url::Url;

/// `address` without query, fragment, user and password: fit for messages. What is not an address is returned as it
/// is up to its first `?`.
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
        _ => address.split_once('?').map_or_else(|| address.to_owned(), |(before, _)| format!("{before}?...")),
    }
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
    fn no_signature_or_password_is_shown() {
        for (address, shown) in [
            ("https://a.blob.core.windows.net/c/x.tif?sv=1&sig=SECRET", "https://a.blob.core.windows.net/c/x.tif?..."),
            ("https://me:SECRET@host/x#f", "https://host/x"),
            ("https://host/x", "https://host/x"),
            ("/data/x.tif", "/data/x.tif"),
            ("x.tif?sig=SECRET", "x.tif?..."),
        ] {
            assert_eq!(redact(address), shown);
        }
    }
}
