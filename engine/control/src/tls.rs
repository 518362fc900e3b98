//! TLS of the server, from what lies in files.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto};
use tokio_rustls::TlsAcceptor;

use crate::convert::with_causes;
use crate::server::ServeError;

/// Certificates in PEM.
pub struct Tls {
    /// The server's certificate, with those that lead to a root.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The roots of the certificates that clients must have; `None`: they need none.
    pub client_roots: Option<String>,
}

impl Tls {
    /// What accepts connections by them: HTTP/2, and HTTP/1.1 for probes, webhooks and browsers.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, ServeError> {
        let wrong =
            |what: &str, error: &dyn std::error::Error| ServeError::Tls(format!("{what}: {}", with_causes(error)));
        let provider = Arc::new(crypto::ring::default_provider());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|error| wrong("the key", &error))?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| wrong("its versions", &error))?;
        let builder = match &self.client_roots {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for root in certificates("the roots of clients", pem)? {
                    roots.add(root).map_err(|error| wrong("the roots of clients", &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| wrong("the roots of clients", &error))?)
            }
        };
        let chain = certificates("the certificate", &self.certificate)?;
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| wrong("the certificate and its key", &error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(read) if read.is_empty() => Err(ServeError::Tls(format!("{what}: the file holds no certificate in PEM"))),
        Ok(read) => Ok(read),
        Err(error) => Err(ServeError::Tls(format!("{what}: {}", with_causes(&error)))),
    }
}
