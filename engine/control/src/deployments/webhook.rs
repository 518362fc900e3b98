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

use super::hooks::is_signed;
use super::registry::{DeployError, Registry, WEBHOOK, spec_of};

/// Names of the headers that carry a signature, ours and those of others that sign alike.
const SIGNATURES: [&str; 2] = ["x-swath-signature", "x-hub-signature-256"];
/// Names of the headers that tell one delivery from another.
const DELIVERIES: [&str; 3] = ["x-swath-delivery", "x-github-delivery", "idempotency-key"];
/// Longest name of a delivery.
const LONGEST_KEY: usize = 200;

/// Answers a request: 202 with the fire, 401 where the signature is not right, 404 where no webhook is.
pub async fn receive(
    State((registry, wake)): State<(Registry, Arc<Notify>)>,
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
    // A command may print it.
    let found = tokio::task::spawn_blocking(move || swath_host::secret(&variable)).await;
    let secret = match found.map_err(|error| error.to_string()).and_then(|found| found.map_err(|why| why.to_string())) {
        Ok(secret) => secret,
        Err(error) => {
            tracing::error!(deployment = name, "its webhook is refused: {error}");
            return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server lacks the secret of this webhook".to_owned());
        }
    };
    let header = |names: &[&str]| names.iter().find_map(|name| headers.get(*name)?.to_str().ok().map(str::to_owned));
    if secret.is_empty() || !is_signed(secret.as_bytes(), &body, &header(&SIGNATURES).unwrap_or_default()) {
        return refuse(StatusCode::UNAUTHORIZED, "the signature is not that of the body".to_owned());
    }
    let params = match body.trim_ascii() {
        b"" => Some(Map::new()),
        body => serde_json::from_slice::<Map<String, Value>>(body).ok(),
    };
    let Some(params) = params else {
        return refuse(StatusCode::BAD_REQUEST, "the body is a JSON object with parameters of the flow".to_owned());
    };
    let key = header(&DELIVERIES).filter(|key| key.len() <= LONGEST_KEY);
    match registry.trigger(&name, WEBHOOK, params, key, Timestamp::now()).await {
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
