//! The server: all services on one port, beside `/healthz`, `/readyz` and `/metrics` for those who ask over plain HTTP.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, StatusCode, Version, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::deployments::{DeploymentService, Registry, Scheduler, receive};
use crate::fleet::Fleet;
use crate::flows::FlowService;
use crate::runs::RunService;
use crate::system::SystemService;
use crate::tasks::TaskService;
use crate::v1::deployment_service_server::DeploymentServiceServer;
use crate::v1::flow_service_server::FlowServiceServer;
use crate::v1::run_service_server::RunServiceServer;
use crate::v1::system_service_server::SystemServiceServer;
use crate::v1::task_service_server::TaskServiceServer;

/// Largest request: the text of a flow with what is around it.
const LARGEST_REQUEST: usize = swath_flow::MAX_TEXT + (1 << 20);
/// Largest body of a webhook.
const LARGEST_WEBHOOK: usize = 1 << 20;
/// Streams that one connection may have open.
const STREAMS: u32 = 256;
/// How often a silent connection is asked whether it lives, and how long its answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
/// How long clients may take to go once everything has ended.
const GOODBYE: Duration = Duration::from_secs(2);
/// Headers of a request, at most.
const HEADERS: u32 = 16 << 10;

/// Why there is no server.
#[derive(Debug)]
pub enum ServeError {
    /// The address cannot be listened on.
    Listen(SocketAddr, std::io::Error),
    /// The services cannot be described, or the transport failed.
    Transport(String),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Transport(why) => write!(f, "the server failed: {why}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// Takes `address`; the port is chosen by the system where it has 0.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Listen(address, error))
}

/// The content of Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves `fleet` until `stop` comes true and the fleet has drained. `metrics` writes what `/metrics` answers.
pub async fn serve(
    fleet: Fleet,
    metrics: impl Fn() -> String + Send + Sync + 'static,
    listener: TcpListener,
    grace: Duration,
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    let described = |error: tonic_reflection::server::Error| ServeError::Transport(error.to_string());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(crate::v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RunServiceServer<RunService>>().await;
    let runs = RunServiceServer::new(RunService { fleet: fleet.clone() });
    let (registry, wake) = (Registry::new(fleet.store().clone(), fleet.catalogue().clone()), Arc::new(Notify::new()));
    let deployments =
        DeploymentServiceServer::new(DeploymentService { registry: registry.clone(), wake: wake.clone() });
    let flows = FlowServiceServer::new(FlowService { catalogue: fleet.catalogue().clone() });
    let grpc = Routes::new(runs.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(flows.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(deployments.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(TaskServiceServer::new(TaskService { catalogue: fleet.catalogue().clone() }))
        .add_service(SystemServiceServer::new(SystemService { fleet: fleet.clone(), started: Timestamp::now() }))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(described)?)
        // Python's client asks by the older name.
        .add_service(reflection().build_v1alpha().map_err(described)?);
    let asked = fleet.clone();
    let webhooks = Router::new()
        .route("/hooks/{name}", post(receive))
        .layer(DefaultBodyLimit::max(LARGEST_WEBHOOK))
        .with_state((registry.clone(), wake.clone()));
    let probes = Router::new().route("/healthz", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || async move {
            match asked.is_draining() {
                false => (StatusCode::OK, "ready\n"),
                true => (StatusCode::SERVICE_UNAVAILABLE, "about to stop\n"),
            }
        }),
    );
    let metrics = Arc::new(metrics);
    let page = move || async move {
        let text = tokio::task::spawn_blocking(move || metrics()).await;
        match text {
            Ok(text) => ([(header::CONTENT_TYPE, METRICS)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        }
    };
    let probes = probes.route("/metrics", get(page));
    let grpc = grpc.into_axum_router().layer(middleware::from_fn(only_grpc));
    let routes = Routes::from(probes.merge(webhooks).merge(grpc).layer(middleware::from_fn(only_this_machine)));
    let adopting = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.keep_adopting().await }
    });
    let scheduling = tokio::spawn(Scheduler::new(fleet.clone(), registry, wake).run());
    let last = {
        let fleet = fleet.clone();
        async move {
            fleet.drained().await;
            tokio::time::sleep(GOODBYE).await;
        }
    };
    let drained = async {
        stop.await;
        health.set_not_serving::<RunServiceServer<RunService>>().await;
        fleet.drain(grace).await;
    };
    let serving = tonic::transport::Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .http2_max_header_list_size(HEADERS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), drained);
    let served = tokio::select! {
        served = serving => served.map_err(|error| ServeError::Transport(error.to_string())),
        // A client that never ends its stream does not keep the server.
        () = last => Ok(()),
    };
    adopting.abort();
    scheduling.abort();
    served
}

/// gRPC and nothing that a web page could send without asking: that would start programs on this machine.
async fn only_grpc(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    let is_grpc = request.version() == Version::HTTP_2
        && request.method() == Method::POST
        && content_type.starts_with(b"application/grpc");
    match is_grpc && !headers.contains_key(header::ORIGIN) {
        true => next.run(request).await,
        false => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "this is gRPC over HTTP/2\n").into_response(),
    }
}

/// Requests that name this machine: another name that leads here may be that of a web page.
async fn only_this_machine(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = request.uri().authority().map(|authority| authority.as_str()).or(host).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    let is_here = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match is_here {
        true => next.run(request).await,
        false => (StatusCode::FORBIDDEN, "this server answers to 127.0.0.1 and localhost\n").into_response(),
    }
}
