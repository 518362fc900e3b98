//! Where a model server is, and how it is known to be the right one.

use std::fmt;
use std::path::{Path, PathBuf};

use swath_task::Fault;

/// Variables of the environment that say what the parameters leave open.
pub(crate) const URL_VARIABLE: &str = "TRITON_URL";
const CA_VARIABLE: &str = "TRITON_CA";
const CERTIFICATE_VARIABLE: &str = "TRITON_CERT";
const KEY_VARIABLE: &str = "TRITON_KEY";

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// gRPC.
    Grpc,
    /// REST, with tensors as bytes.
    Rest,
}

/// One address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Whether over TLS.
    pub tls: bool,
    /// Host and port.
    pub authority: String,
    /// What comes before the protocol's own paths; empty, or beginning with `/`.
    pub prefix: String,
}

impl Address {
    /// The addresses in a text, parted by commas.
    pub fn list(text: &str) -> Result<Vec<Self>, Fault> {
        let addresses: Result<Vec<_>, _> =
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(Self::parse).collect();
        match addresses {
            Ok(addresses) if addresses.is_empty() => Err(wrong(text, "it is empty")),
            other => other,
        }
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
        let (protocol, tls) = match scheme {
            "grpc" => (Protocol::Grpc, false),
            "grpcs" => (Protocol::Grpc, true),
            "http" => (Protocol::Rest, false),
            "https" => (Protocol::Rest, true),
            _ => return Err(wrong(text, &format!("`{scheme}` is no protocol of a model server"))),
        };
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let path = path.trim_end_matches('/');
        if host.contains('@') || rest.contains(['?', '#']) {
            // What stands there may be a password.
            return Err(wrong(scheme, "an address is a protocol, a host and a port"));
        }
        if protocol == Protocol::Grpc && !path.is_empty() {
            return Err(wrong(text, "gRPC has no path"));
        }
        let name_and_port = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
        let good_port = name_and_port.is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
        let name = name_and_port.map_or(host, |(name, _)| name);
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
        if bare.is_empty() || !bare.bytes().all(good) || !good_port {
            return Err(wrong(text, "its host or port is none"));
        }
        let port = match (protocol, tls) {
            (Protocol::Grpc, _) => 8001,
            (Protocol::Rest, false) => 80,
            (Protocol::Rest, true) => 443,
        };
        let authority = if name_and_port.is_some() { host.to_owned() } else { format!("{host}:{port}") };
        Ok(Self { protocol, tls, authority, prefix: path.to_owned() })
    }

    /// As a client of HTTP wants it.
    pub fn http(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.prefix)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.protocol, self.tls) {
            (Protocol::Grpc, false) => "grpc",
            (Protocol::Grpc, true) => "grpcs",
            (Protocol::Rest, false) => "http",
            (Protocol::Rest, true) => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

fn wrong(text: &str, reason: &str) -> Fault {
    Fault::new("M126", format!("the model server's address `{text}` cannot be used: {reason}")).help(
        "write `grpc://host:8001`, `http://host:8000` where gRPC is closed, or `grpcs://` and `https://` with TLS",
    )
}

/// Files with what TLS needs beyond what the machine trusts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Roots of the server's certificate.
    pub ca: Option<PathBuf>,
    /// This client's certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

impl TlsFiles {
    /// These, and from the environment what they leave open.
    pub fn or_environment(self) -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        Self {
            ca: self.ca.or_else(|| variable(CA_VARIABLE)),
            certificate: self.certificate.or_else(|| variable(CERTIFICATE_VARIABLE)),
            key: self.key.or_else(|| variable(KEY_VARIABLE)),
        }
    }

    /// Reads them.
    pub fn read(&self) -> Result<Tls, Fault> {
        let identity = match (&self.certificate, &self.key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => {
                let message = "of the model server's TLS, a client certificate or its key is given without the other";
                return Err(Fault::new("M126", message)
                    .help("give both, `certificate` and `key` (TRITON_CERT and TRITON_KEY), or neither"));
            }
        };
        Ok(Tls { ca: self.ca.as_deref().map(read).transpose()?, identity })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    let wrong = |reason: String| {
        Fault::new("M126", format!("`{}`, of the model server's TLS, cannot be used: {reason}", path.display()))
            .help("`ca`, `certificate` and `key` are files in PEM")
    };
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let begins = b"-----BEGIN ";
    if text.windows(begins.len()).any(|part| part == begins) {
        Ok(text)
    } else {
        Err(wrong("it holds nothing in PEM".to_owned()))
    }
}

/// What TLS needs beyond what the machine trusts, in PEM.
#[derive(Clone, Default)]
pub(crate) struct Tls {
    /// Roots of the server's certificate, in place of the machine's.
    pub ca: Option<Vec<u8>>,
    /// This client's certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_how_the_server_is_spoken_to() {
        for (text, told, http) in [
            ("triton:8001", "grpc://triton:8001", "http://triton:8001"),
            ("grpc://10.0.0.7:9001", "grpc://10.0.0.7:9001", "http://10.0.0.7:9001"),
            ("grpcs://triton.example.com", "grpcs://triton.example.com:8001", "https://triton.example.com:8001"),
            ("http://[::1]:8000/", "http://[::1]:8000", "http://[::1]:8000"),
            (
                "https://example.com/serving/eo",
                "https://example.com:443/serving/eo",
                "https://example.com:443/serving/eo",
            ),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!((address.to_string(), address.http()), (told.to_owned(), http.to_owned()));
        }
        let both = Address::list("grpc://a:8001, http://a:8000,").unwrap();
        assert_eq!(both.iter().map(|address| address.protocol).collect::<Vec<_>>(), [Protocol::Grpc, Protocol::Rest]);
    }

    #[test]
    fn what_is_no_address_is_refused_and_shows_no_password() {
        for text in ["", " , ", "ftp://a:1", "grpc://", "grpc://a:0", "grpc://a:70000", "grpc://a/b", "a b:1", "[]:1"] {
            let fault = Address::list(text).unwrap_err();
            assert_eq!(fault.code, "M126", "{text}");
        }
        for text in ["http://me:SECRET@a:8000", "http://a:8000?token=SECRET"] {
            let fault = Address::list(text).unwrap_err();
            assert!(fault.code == "M126" && !fault.message.contains("SECRET"), "{fault}");
        }
    }

    #[test]
    fn files_of_tls_are_read_whole_or_named() {
        let folder = tempfile::tempdir().unwrap();
        let (pem, other) = (folder.path().join("a.pem"), folder.path().join("b.pem"));
        std::fs::write(&pem, "-----BEGIN CERTIFICATE-----\n").unwrap();
        std::fs::write(&other, "hello").unwrap();
        let files = |ca: Option<&PathBuf>, certificate: Option<&PathBuf>, key: Option<&PathBuf>| TlsFiles {
            ca: ca.cloned(),
            certificate: certificate.cloned(),
            key: key.cloned(),
        };
        assert!(files(Some(&pem), Some(&pem), Some(&pem)).read().unwrap().identity.is_some());
        for (files, told) in [
            (files(None, Some(&pem), None), "without the other"),
            (files(Some(&other), None, None), "b.pem"),
            (files(Some(&folder.path().join("gone.pem")), None, None), "gone.pem"),
        ] {
            let fault = files.read().err().unwrap();
            assert!(fault.code == "M126" && fault.message.contains(told), "{fault}");
        }
    }
}
