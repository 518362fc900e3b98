//! Web pages that speak gRPC-Web: of which origins, and what their browsers are told about that.
//!
//! A page of the server's own origin may ask; one of another only where the operator has named that origin. The browser asks
//! first (CORS), and what it is told is no more than that; the door looks at the origin of each request by itself.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

/// How long a browser may keep what it was told.
const KEPT: Duration = Duration::from_secs(3600);
/// Headers of requests besides those that every page may send.
const SENT: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
];
/// Headers of answers that a page may read: how a request ended that got no message.
const READ: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// Where web pages come from, as browsers write it: `https://maps.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// Why a text is no origin.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "it is no origin: write `https://HOST` or `http://HOST:PORT`, in small letters, without a path and without the port that the scheme has anyway"
)]
pub struct OriginError;

impl std::str::FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let uri: Uri = text.parse().map_err(|_| OriginError)?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(OriginError) };
        let own_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return Err(OriginError),
        };
        // What a browser would not write never matches.
        let written = format!("{scheme}://{authority}").to_ascii_lowercase();
        if written != text || authority.as_str().contains('@') || authority.port_u16() == Some(own_port) {
            return Err(OriginError);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| OriginError)
    }
}

impl PartialEq<HeaderValue> for Origin {
    fn eq(&self, other: &HeaderValue) -> bool {
        self.0 == *other
    }
}

/// What browsers are told: nothing where no other origin may ask.
pub fn cors(origins: &[Origin]) -> Option<CorsLayer> {
    let allowed = origins.iter().map(|origin| origin.0.clone());
    (!origins.is_empty()).then(|| {
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(allowed))
            .allow_methods([Method::POST])
            .allow_headers(SENT)
            .expose_headers(READ)
            .max_age(KEPT)
    })
}

/// Whether a page of this origin came from the host that it asks.
pub fn is_own(origin: &HeaderValue, request: &Request) -> bool {
    let origin = origin.to_str().unwrap_or_default();
    let from = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    from.is_some_and(|from| !from.is_empty() && from.eq_ignore_ascii_case(host_of(request)))
}

/// The host, and port if it has one, that a request names.
pub fn host_of(request: &Request) -> &str {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    request.uri().authority().map(|authority| authority.as_str()).or(host).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_a_browser_would_write() {
        for good in ["https://maps.example.com", "http://localhost:5173", "https://[::1]:8443", "http://127.0.0.1:443"]
        {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "null",
            "maps.example.com",
            "https://",
            "https://maps.example.com/",
            "https://maps.example.com/app",
            "https://Maps.example.com",
            "https://maps.example.com:443",
            "http://maps.example.com:80",
            "ftp://maps.example.com",
            "https://user@maps.example.com",
            "https://*.example.com?x",
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(OriginError), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_the_servers_own_by_its_host_and_port() {
        let asks = |host: &str, origin: &'static str| {
            let request = Request::builder().header("host", host).body(axum::body::Body::empty()).unwrap();
            is_own(&HeaderValue::from_static(origin), &request)
        };
        assert!(asks("127.0.0.1:7475", "http://127.0.0.1:7475"));
        assert!(asks("swath.example.com", "https://swath.example.com"));
        assert!(!asks("127.0.0.1:7475", "http://127.0.0.1:5173"));
        assert!(!asks("127.0.0.1:7475", "http://evil.example"));
        assert!(!asks("127.0.0.1:7475", "null") && !asks("", "http://"));
    }
}
