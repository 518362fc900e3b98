//! The server: all services on one port, beside `/healthz`, `/readyz`, `/doctor` and `/metrics` for those who ask
//! over plain HTTP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;

use crate::artifacts::ArtifactService;
use crate::connections::{Limits, incoming};
use crate::deployments::{DeploymentService, Registry, Scheduler, Webhooks, receive};
use crate::door::{Door, admit, only_grpc};
use crate::fleet::Fleet;
use crate::flows::FlowService;
use crate::runs::RunService;
use crate::system::SystemService;
use crate::tasks::TaskService;
use crate::tls::Tls;
use crate::v1::artifact_service_server::ArtifactServiceServer;
use crate::v1::deployment_service_server::DeploymentServiceServer;
use crate::v1::flow_service_server::FlowServiceServer;
use crate::v1::run_service_server::RunServiceServer;
use crate::v1::system_service_server::SystemServiceServer;
use crate::v1::task_service_server::TaskServiceServer;
use crate::v1::worker_service_server::WorkerServiceServer;
use crate::web::{self, Origin};
use crate::workers::{Herald, WorkerService};

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
/// How long a connection lasts: clients come again, those that watch from the last number they saw.
const CONNECTION_AGE: Duration = Duration::from_secs(6 * 3600);
/// Requests of one connection that are answered at once; more wait.
const AT_ONCE: usize = 128;
/// Headers of a request, at most.
const HEADERS: u32 = 16 << 10;
/// Streams that a client may have taken back before they were looked at.
const RESETS: usize = 20;

/// Why there is no server.
#[derive(Debug)]
pub enum ServeError {
    /// The address cannot be listened on.
    Listen(SocketAddr, std::io::Error),
    /// The certificate, its key or those of clients cannot be used.
    Tls(String),
    /// The services cannot be described, or the transport failed.
    Transport(String),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Listen(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Tls(why) => write!(f, "TLS cannot be set up: {why}"),
            Self::Transport(why) => write!(f, "the server failed: {why}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// By what rules a server is run.
#[derive(Default)]
pub struct Rules {
    /// How long live runs may take to end when the server is told to stop.
    pub grace: Duration,
    /// Whether requests need a token.
    pub tokens: bool,
    /// What is encrypted, and by what.
    pub tls: Option<Tls>,
    /// Of what other origins web pages may ask.
    pub origins: Vec<Origin>,
    /// Who may be connected.
    pub limits: Limits,
}

/// Takes `address`; the port is chosen by the system where it has 0.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|error| ServeError::Listen(address, error))
}

/// The content of Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves `fleet` until `stop` comes true and the fleet has drained. `metrics` writes what `/metrics` answers, `doctor` what
/// `/doctor` does, and whether all is well.
pub async fn serve(
    fleet: Fleet,
    metrics: impl Fn() -> String + Send + Sync + 'static,
    doctor: impl Fn() -> (bool, String) + Clone + Send + Sync + 'static,
    listener: TcpListener,
    rules: Rules,
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
    let started = Timestamp::now();
    let address = listener.local_addr().map_err(|error| ServeError::Transport(error.to_string()))?;
    let herald = Herald::new(fleet.clone(), address, started);
    let grpc = Routes::new(runs.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(flows.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(deployments.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(ArtifactServiceServer::new(ArtifactService { fleet: fleet.clone() }))
        .add_service(TaskServiceServer::new(TaskService { catalogue: fleet.catalogue().clone() }))
        .add_service(SystemServiceServer::new(SystemService { fleet: fleet.clone(), started }))
        .add_service(WorkerServiceServer::new(WorkerService { herald: herald.clone() }))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(described)?)
        // Python's client asks by the older name.
        .add_service(reflection().build_v1alpha().map_err(described)?);
    let asked = fleet.clone();
    let webhooks = Router::new()
        .route("/hooks/{name}", post(receive))
        .layer(DefaultBodyLimit::max(LARGEST_WEBHOOK))
        .with_state(Webhooks::new(registry.clone(), wake.clone()));
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
    let looked = move || async move {
        match tokio::task::spawn_blocking(doctor).await {
            Ok((true, text)) => (StatusCode::OK, text),
            Ok((false, text)) => (StatusCode::SERVICE_UNAVAILABLE, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    };
    let probes = probes.route("/metrics", get(page)).route("/doctor", get(looked));
    let door = Door { tokens: rules.tokens.then(|| fleet.store().clone()), origins: rules.origins.clone().into() };
    let admit = middleware::from_fn_with_state(door.clone(), admit);
    let grpc = grpc
        .into_axum_router()
        .layer(GrpcWebLayer::new())
        .layer(middleware::from_fn_with_state(door, only_grpc))
        .layer(admit.clone());
    // Browsers ask without a token whether they may ask.
    let grpc = match web::cors(&rules.origins) {
        Some(cors) => grpc.layer(cors),
        None => grpc,
    };
    let routes = Routes::from(probes.merge(webhooks).layer(admit).merge(grpc));
    let acceptor = rules.tls.as_ref().map(Tls::acceptor).transpose()?;
    let adopting = tokio::spawn({
        let fleet = fleet.clone();
        async move { fleet.keep_adopting().await }
    });
    let telling = tokio::spawn({
        let herald = herald.clone();
        async move { herald.keep_telling().await }
    });
    let mut scheduling = tokio::spawn(Scheduler::new(fleet.clone(), registry, wake).run());
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
        fleet.drain(rules.grace).await;
    };
    let serving = tonic::transport::Server::builder()
        .accept_http1(true)
        .max_connection_age(CONNECTION_AGE)
        .concurrency_limit_per_connection(AT_ONCE)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .http2_max_header_list_size(HEADERS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener, acceptor, rules.limits), drained);
    let served = tokio::select! {
        served = serving => served.map_err(|error| ServeError::Transport(error.to_string())),
        // A client that never ends its stream does not keep the server.
        () = last => Ok(()),
        // It ends by itself when the server stops.
        Err(error) = &mut scheduling => Err(ServeError::Transport(format!("the scheduler: {error}"))),
    };
    adopting.abort();
    scheduling.abort();
    telling.abort();
    // What it was about to tell must not come after this.
    let _ = telling.await;
    herald.leave().await;
    served
}
