//! The server: all services on one port, beside `/healthz` and `/readyz` for those who ask over plain HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::fleet::Fleet;
use crate::flows::FlowService;
use crate::runs::RunService;
use crate::system::SystemService;
use crate::tasks::TaskService;
use crate::v1::flow_service_server::FlowServiceServer;
use crate::v1::run_service_server::RunServiceServer;
use crate::v1::system_service_server::SystemServiceServer;
use crate::v1::task_service_server::TaskServiceServer;

/// Largest request: the text of a flow with what is around it.
const LARGEST_REQUEST: usize = swath_flow::MAX_TEXT + (1 << 20);
/// Streams that one connection may have open.
const STREAMS: u32 = 256;
/// How often a silent connection is asked whether it lives, and how long its answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));
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

/// Serves `fleet` on `address` until `stop` comes true and the fleet has drained. `ready` is told the address that is
/// listened on: the port is chosen by the system where `address` has 0.
pub async fn serve(
    fleet: Fleet,
    address: SocketAddr,
    grace: Duration,
    stop: impl Future<Output = ()>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let listen = |error| ServeError::Listen(address, error);
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let bound = listener.local_addr().map_err(listen)?;
    let described = |error: tonic_reflection::server::Error| ServeError::Transport(error.to_string());
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(crate::v1::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<RunServiceServer<RunService>>().await;
    let runs = RunServiceServer::new(RunService { fleet: fleet.clone() });
    let flows = FlowServiceServer::new(FlowService { catalogue: fleet.catalogue().clone() });
    let grpc = Routes::new(runs.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(flows.max_decoding_message_size(LARGEST_REQUEST))
        .add_service(TaskServiceServer::new(TaskService { catalogue: fleet.catalogue().clone() }))
        .add_service(SystemServiceServer::new(SystemService { fleet: fleet.clone(), started: Timestamp::now() }))
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(described)?)
        // Python's client asks by the older name.
        .add_service(reflection().build_v1alpha().map_err(described)?);
    let asked = fleet.clone();
    let probes = Router::new().route("/healthz", get(|| async { "ok\n" })).route(
        "/readyz",
        get(move || async move {
            match asked.is_draining() {
                false => (StatusCode::OK, "ready\n"),
                true => (StatusCode::SERVICE_UNAVAILABLE, "about to stop\n"),
            }
        }),
    );
    let routes = Routes::from(probes.merge(grpc.into_axum_router()));
    ready(bound);
    let drained = async {
        stop.await;
        health.set_not_serving::<RunServiceServer<RunService>>().await;
        fleet.drain(grace).await;
    };
    tonic::transport::Server::builder()
        .accept_http1(true)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .http2_max_header_list_size(HEADERS)
        .add_routes(routes)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), drained)
        .await
        .map_err(|error| ServeError::Transport(error.to_string()))
}
