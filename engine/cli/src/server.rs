//! A server at the other end of the network: how it is reached, by whose right, and what its refusals mean.

use std::path::PathBuf;
use std::time::Duration;

use swath_control::with_causes;
use swath_task::Fault;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use tonic_types::StatusExt;

use crate::failure::Failure;

/// Holds the token; it is no option of the command, so that no list of processes shows it.
const TOKEN: &str = "SWATH_TOKEN";
/// Files in PEM: roots of the server's certificate besides those of this machine, and the client's own.
const ROOTS: &str = "SWATH_TLS_CA";
const CERTIFICATE: &str = "SWATH_TLS_CERT";
const KEY: &str = "SWATH_TLS_KEY";

/// A connection to a server, with what it asks for.
pub(crate) type Server = InterceptedService<Channel, Bearer>;

/// Adds the token to each request.
#[derive(Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Reaches the server at an address, `http://127.0.0.1:7475` for example.
pub(crate) async fn connect(server: &str) -> Result<Server, Failure> {
    let wrong = || Failure::Usage(format!("`{server}` is no address of a server: write `http://127.0.0.1:7475`"));
    let endpoint = Endpoint::from_shared(server.to_owned()).map_err(|_| wrong())?;
    let endpoint = match endpoint.uri().scheme_str() {
        Some("http") => endpoint,
        Some("https") => endpoint.tls_config(tls()?).map_err(|error| Failure::Usage(with_causes(&error)))?,
        _ => return Err(wrong()),
    };
    let channel = endpoint.connect_timeout(Duration::from_secs(10)).connect().await.map_err(|error| {
        let fault = Fault::new("X104", format!("no server answers at {server}: {}", with_causes(&error)));
        Failure::Fault(fault.help("start one with `swath serve`, or leave `--server` out to run the flow here"))
    })?;
    Ok(InterceptedService::new(channel, Bearer(token()?)))
}

fn token() -> Result<Option<MetadataValue<Ascii>>, Failure> {
    let Some(token) = std::env::var(TOKEN).ok().filter(|token| !token.trim().is_empty()) else { return Ok(None) };
    let value = format!("Bearer {}", token.trim()).parse();
    value.map(Some).map_err(|_| Failure::Usage(format!("`{TOKEN}` holds no token: `swath token create` makes one")))
}

fn tls() -> Result<ClientTlsConfig, Failure> {
    let file = |variable: &str| -> Result<Option<Vec<u8>>, Failure> {
        let Some(path) = std::env::var_os(variable).map(PathBuf::from) else { return Ok(None) };
        std::fs::read(&path).map(Some).map_err(|error| Failure::io("read", &path, &error))
    };
    let mut config = ClientTlsConfig::new().with_native_roots();
    if let Some(roots) = file(ROOTS)? {
        config = config.ca_certificate(Certificate::from_pem(roots));
    }
    if let (Some(certificate), Some(key)) = (file(CERTIFICATE)?, file(KEY)?) {
        config = config.identity(Identity::from_pem(certificate, key));
    }
    Ok(config)
}

/// What a server refuses.
pub(crate) fn refused(status: Status) -> Failure {
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    let more: String = violations.iter().map(|one| format!("\n  {}: {}", one.field, one.description)).collect();
    let code = status.get_details_error_info().map(|info| info.reason).filter(|reason| reason.len() == 4);
    let code = code.map(|code| format!(" [{code}]")).unwrap_or_default();
    let fault = Fault::new("X105", format!("the server says: {}{code}{more}", status.message()));
    Failure::Fault(match status.code() {
        tonic::Code::Unauthenticated => {
            fault.help(format!("put a token into `{TOKEN}`; `swath token create` makes one"))
        }
        _ => fault,
    })
}
