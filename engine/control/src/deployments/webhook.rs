//! `POST /hooks/NAME`: a signed request that starts a run of a deployment.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::registry::{DeployError, Registry, WEBHOOK, spec_of};
use super::secrets::Secrets;
use super::signature::{Signed, check, may_be_signed};

/// What webhooks start runs with.
#[derive(Clone)]
pub struct Webhooks {
    registry: Registry,
    /// Tells the scheduler that something is to be done.
    wake: Arc<Notify>,
    secrets: Arc<Secrets>,
}

impl Webhooks {
    /// Of the deployments of a registry.
    pub fn new(registry: Registry, wake: Arc<Notify>) -> Self {
        Self { registry, wake, secrets: Arc::default() }
    }
}

/// Answers a request: 202 with the fire, 401 where the signature is not right, 404 where no webhook is.
pub async fn receive(
    State(Webhooks { registry, wake, secrets }): State<Webhooks>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let refuse = |code: StatusCode, why: String| (code, Json(json!({ "error": why }))).into_response();
    let spec = match registry.store().deployment(&name).await.and_then(|row| spec_of(&row.spec)) {
        Ok(spec) => spec,
        Err(swath_store::Error::NoDeployment(_)) => {
            return refuse(StatusCode::NOT_FOUND, "there is no webhook of this name".to_owned());
        }
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };
    let Some(variable) = spec.triggers.into_iter().find_map(|trigger| trigger.webhook) else {
        return refuse(StatusCode::NOT_FOUND, "there is no webhook of this name".to_owned());
    };
    let unsigned =
        || refuse(StatusCode::UNAUTHORIZED, "the signature is not that of the message, or too old".to_owned());
    // Nobody looks for a secret for whoever does not even say that he has it.
    if !may_be_signed(&headers) {
        return unsigned();
    }
    let secret = match secrets.get(&variable).await {
        Ok(secret) => secret,
        Err(error) => {
            tracing::error!(deployment = name, "its webhook is refused: {error}");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server lacks the secret of this webhook".to_owned());
        }
    };
    let now = Timestamp::now();
    let Some(Signed { id }) = check(&secret, &headers, &body, now.as_second()) else { return unsigned() };
    let params = match body.trim_ascii() {
        b"" => Some(Map::new()),
        body => serde_json::from_slice::<Map<String, Value>>(body).ok(),
    };
    let Some(params) = params else {
        return refuse(StatusCode::BAD_REQUEST, "the body is a JSON object with parameters of the flow".to_owned());
    };
    match registry.trigger(&name, WEBHOOK, params, id, now).await {
        Ok(fire) => {
            wake.notify_one();
            (StatusCode::ACCEPTED, Json(json!({ "deployment": name, "fire": fire.id, "key": fire.key })))
                .into_response()
        }
        Err(DeployError::Flow(problems)) => {
            let told: Vec<_> = problems
                .iter()
                .map(|problem| json!({ "code": problem.code, "message": problem.report().message }))
                .collect();
            (StatusCode::BAD_REQUEST, Json(json!({ "error": "the parameters are wrong", "diagnostics": told })))
                .into_response()
        }
        Err(DeployError::Store(error)) => refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        Err(error) => refuse(StatusCode::CONFLICT, error.to_string()),
    }
}
