//! Who may come in, and what for.
//!
//! 1. On a loopback address nobody needs a token, unless the server is told so; then only requests under a name of this
//!    machine are answered, and none that a web page of another origin could send, unless that origin was let in.
//! 2. Elsewhere everything needs a token but the probes (which tell nothing) and webhooks (which are signed).
//! 3. What is not listed needs the widest scope: a method that somebody adds is closed until it is opened.
//! 4. Of a token a digest is kept. Whether it is there, right, or still good is not told apart to whoever has none.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use swath_store::{NewToken, Store, TokenRow};
use swath_task::Digest;
use tonic::Status;
use tonic::body::Body;

use crate::connections::Guest;
use crate::web::{Origin, host_of, is_own};

/// What a token allows. Each allows what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Looking at what there is.
    Read,
    /// Starting, pausing and ending runs: flows run programs, so this is the right to run programs on the server.
    Run,
    /// Deploying flows, and all else.
    Admin,
}

impl Scope {
    /// All of them, the narrowest first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Run, Self::Admin];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Admin => "admin",
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// A new token: its text, which is told once and never again, and what is kept of it.
pub fn new_token(name: &str, scope: Scope, now: Timestamp, expires: Option<Timestamp>) -> (String, NewToken) {
    let (id, secret): (u64, [u8; 32]) = (rand::random(), rand::random());
    let id = format!("{id:016x}");
    let secret = hex::encode(secret);
    let kept = NewToken {
        id: id.clone(),
        name: name.to_owned(),
        scope: scope.name().to_owned(),
        // The secret is as long as its digest and drawn at random: a slow digest would add nothing.
        digest: Digest::of(secret.as_bytes()).hex(),
        created_at: now.as_millisecond(),
        expires_at: expires.map(Timestamp::as_millisecond),
    };
    (format!("swath_{id}_{secret}"), kept)
}

/// Who is let in.
#[derive(Clone)]
pub struct Door {
    /// Where tokens are kept; `None`: nobody needs one.
    pub tokens: Option<Arc<dyn Store>>,
    /// Of what other origins web pages may ask.
    pub origins: Arc<[Origin]>,
}

/// What a request speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tongue {
    Grpc,
    /// gRPC as web pages can speak it.
    Web,
    /// Plain HTTP.
    Http,
}

impl Tongue {
    fn of(request: &Request) -> Self {
        let content_type =
            request.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
        match request.version() {
            _ if request.method() != Method::POST => Self::Http,
            _ if content_type.starts_with(b"application/grpc-web") => Self::Web,
            Version::HTTP_2 if content_type.starts_with(b"application/grpc") => Self::Grpc,
            _ => Self::Http,
        }
    }
}

/// Lets a request in, or says why not.
pub async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    let tongue = Tongue::of(&request);
    let guest = request.extensions().get::<Guest>().cloned();
    if let Some(guest) = &guest {
        guest.asks();
    }
    match &door.tokens {
        None if !is_this_machine(&request) => {
            return (StatusCode::FORBIDDEN, "this server answers to 127.0.0.1 and localhost\n").into_response();
        }
        None => {}
        Some(store) => match needed(request.uri().path()) {
            // Whoever asks for no more than this stays a stranger.
            None => return next.run(request).await,
            Some(scope) => {
                if let Err(status) = check(store.as_ref(), request.headers(), scope).await {
                    return refuse(&status, tongue);
                }
            }
        },
    }
    if let Some(guest) = &guest {
        guest.is_known();
    }
    next.run(request).await
}

/// gRPC, and nothing that a web page could send without asking: that would start programs on this machine.
pub async fn only_grpc(State(door): State<Door>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN);
    match (Tongue::of(&request), origin) {
        (Tongue::Grpc | Tongue::Web, None) => next.run(request).await,
        (Tongue::Web, Some(origin)) if is_own(origin, &request) || door.origins.iter().any(|own| own == origin) => {
            next.run(request).await
        }
        (Tongue::Web, Some(_)) => {
            (StatusCode::FORBIDDEN, "pages of this origin may not ask: `--web-origin` lets them\n").into_response()
        }
        _ => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "this is gRPC over HTTP/2, or gRPC-Web\n").into_response(),
    }
}

/// Whether a request names this machine: another name that leads here may be that of a web page.
fn is_this_machine(request: &Request) -> bool {
    let host = host_of(request);
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The scope that a path needs; `None`: it is open.
fn needed(path: &str) -> Option<Scope> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let (service, method) = path.split_once('/').unwrap_or((path, ""));
    match (service, method) {
        ("healthz" | "readyz", "") | ("grpc.health.v1.Health", _) => None,
        // These are signed, each with a secret of its own.
        ("hooks", _) => None,
        ("metrics" | "doctor", "") => Some(Scope::Read),
        (service, _) if service.starts_with("grpc.reflection.") => Some(Scope::Read),
        (service, method) if service.starts_with("swath.v1.") => {
            Some(match method {
                "GetRun" | "ListRuns" | "WatchRun" | "ReadLogs" | "ListSteps" | "ExplainStep" | "ListDeployments"
                | "GetDeployment" | "ListNextFires" | "ListTasks" | "GetInfo" | "ListArtifacts" | "GetLineage"
                | "ReadArtifact" | "ListWorkers" => Scope::Read,
                // It reads files that the flow names.
                "ValidateFlow" | "StartRun" | "CancelRun" | "PauseRun" | "ResumeRun" | "RerunRun"
                | "TriggerDeployment" => Scope::Run,
                _ => Scope::Admin,
            })
        }
        _ => Some(Scope::Admin),
    }
}

async fn check(store: &dyn Store, headers: &HeaderMap, needed: Scope) -> Result<(), Status> {
    let refused = || Status::unauthenticated("a token is needed: `authorization: Bearer swath_...`");
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = given.and_then(|text| text.strip_prefix("Bearer ")).ok_or_else(refused)?;
    let (id, secret) = token.strip_prefix("swath_").and_then(|rest| rest.split_once('_')).ok_or_else(refused)?;
    if id.len() != 16 || secret.len() != 64 {
        return Err(refused());
    }
    let kept = store.token(id).await.map_err(|error| Status::unavailable(error.to_string()))?;
    let kept = kept.filter(|kept| is_good(kept, secret)).ok_or_else(refused)?;
    match Scope::named(&kept.scope) {
        Some(scope) if scope >= needed => Ok(()),
        _ => Err(Status::permission_denied(format!(
            "the token `{}` allows `{}`, and this needs `{}`",
            kept.name,
            kept.scope,
            needed.name()
        ))),
    }
}

fn is_good(kept: &TokenRow, secret: &str) -> bool {
    let now = Timestamp::now().as_millisecond();
    // Digests are compared, so how long that takes tells nothing of the secret.
    kept.digest == Digest::of(secret.as_bytes()).hex() && kept.expires_at.is_none_or(|end| now < end)
}

fn refuse(status: &Status, tongue: Tongue) -> Response {
    if tongue != Tongue::Http {
        let mut refused = status.clone().into_http::<Body>().map(axum::body::Body::new);
        if tongue == Tongue::Web {
            let web = HeaderValue::from_static("application/grpc-web+proto");
            refused.headers_mut().insert(header::CONTENT_TYPE, web);
        }
        return refused;
    }
    let code = match status.code() {
        tonic::Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        tonic::Code::PermissionDenied => StatusCode::FORBIDDEN,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, [(header::WWW_AUTHENTICATE, "Bearer")], format!("{}\n", status.message())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_there_is_needs_a_scope_and_what_is_unknown_the_widest() {
        let descriptors: prost_types::FileDescriptorSet = prost::Message::decode(crate::v1::DESCRIPTORS).unwrap();
        let mut methods = 0;
        for file in descriptors.file.iter().filter(|file| file.package() == "swath.v1") {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/swath.v1.{}/{}", service.name(), method.name());
                    let needed = needed(&path).expect("it is closed");
                    let looks = ["Get", "List", "Watch", "Read", "Explain"];
                    let looks = looks.iter().any(|verb| method.name().starts_with(verb));
                    assert_eq!(needed == Scope::Read, looks, "{path} needs {needed:?}");
                    methods += 1;
                }
            }
        }
        assert!(methods > 15);
        for path in ["/", "/swath.v1.RunService/New", "/x", "/healthz/x", "//swath.v1.RunService/GetRun", "/metrics/x"]
        {
            assert_eq!(needed(path), Some(Scope::Admin), "{path}");
        }
        for path in ["/healthz", "/readyz", "/hooks/scan", "/grpc.health.v1.Health/Check"] {
            assert_eq!(needed(path), None, "{path}");
        }
    }
}
