//! A relay between client and server, as a proxy in front of a model server is one: it ends TLS, and cuts answers off.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, WebPkiClientVerifier};
use rustls::{RootCertStore, crypto};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// How many connections are cut off, and after how many bytes of what the server says.
#[derive(Clone, Copy)]
pub struct Cut {
    pub connections: usize,
    pub after: usize,
}

/// A relay on a port of its own, until it is dropped.
pub struct Relay {
    runtime: Option<Runtime>,
    address: SocketAddr,
    cut: Arc<AtomicUsize>,
}

impl Relay {
    /// Passes connections on as they are, but for those that are cut off.
    pub fn cutting(upstream: &str, cut: Cut) -> Self {
        Self::start(upstream, move |client, server, count| async move {
            // How many were cut off so far is counted before one is, so that no more are.
            let many =
                count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| (n < cut.connections).then_some(n + 1));
            match many {
                Ok(_) => cut_off(client, server, cut.after).await,
                Err(_) => whole(client, server).await,
            }
        })
    }

    /// Ends TLS: certificate and key of the server, and the root of the certificates that clients must have.
    pub fn ending_tls(upstream: &str, [certificate, key, clients]: [&Path; 3]) -> Self {
        let provider = Arc::new(crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(clients).unwrap()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Self::start(upstream, move |client, server, _| {
            let acceptor = acceptor.clone();
            async move {
                // Who is not let in is told so by TLS itself.
                if let Ok(client) = acceptor.accept(client).await {
                    whole(client, server).await;
                }
            }
        })
    }

    fn start<F: Future<Output = ()> + Send + 'static>(
        upstream: &str,
        each: impl Fn(TcpStream, TcpStream, Arc<AtomicUsize>) -> F + Send + Sync + 'static,
    ) -> Self {
        let upstream = upstream.split_once("://").unwrap().1.to_owned();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, cut) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = cut.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let server = TcpStream::connect(&upstream).await.unwrap();
                tokio::spawn(each(client, server, count.clone()));
            }
        });
        Self { runtime: Some(runtime), address, cut }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections it has cut off.
    pub fn cut(&self) -> usize {
        self.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may be dropped within another runtime, which must not wait.
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn whole(mut client: impl AsyncRead + AsyncWrite + Unpin, mut server: TcpStream) {
    // An end that goes away ends both.
    let _ = copy_bidirectional(&mut client, &mut server).await;
}

/// Passes on so many bytes of what the server says, and resets the connection in the middle of what follows.
async fn cut_off(client: TcpStream, server: TcpStream, after: usize) {
    client.set_zero_linger().unwrap();
    let (mut from_client, mut to_client) = split(client);
    let (mut from_server, mut to_server) = split(server);
    let up = tokio::io::copy(&mut from_client, &mut to_server);
    let down = async {
        let (mut left, mut buffer) = (after, vec![0; 4096]);
        while left > 0 {
            let room = left.min(buffer.len());
            let Ok(count @ 1..) = from_server.read(&mut buffer[..room]).await else { return };
            if to_client.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            left -= count;
        }
    };
    tokio::select! {
        _ = up => {}
        () = down => {}
    }
}
