//! The protocol over HTTP, with tensors as bytes behind a head in JSON (the extension for binary data).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use opentelemetry::propagation::Injector;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Identity, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use swath_task::Fault;

use super::address::{Address, Tls};
use super::grpc::with_causes;
use super::retry::{Kind, Trouble};
use super::wire::{AROUND, Answer, Call, Config, Described, End};

/// Tells where the JSON ends and the bytes begin.
const HEAD_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

/// A client; connections are kept between requests.
pub(crate) struct Rest {
    client: Client,
    base: String,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    versions: Vec<String>,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: Parameters,
    #[serde(default)]
    data: Vec<f32>,
}

#[derive(Default, Deserialize)]
struct Parameters {
    binary_data_size: Option<usize>,
}

impl From<Tensor> for End {
    fn from(tensor: Tensor) -> Self {
        Self { name: tensor.name, datatype: tensor.datatype, shape: tensor.shape }
    }
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    model_version: String,
    #[serde(default)]
    id: String,
    outputs: Vec<Tensor>,
}

#[derive(Deserialize)]
struct ServerMetadata {
    name: String,
    #[serde(default)]
    version: String,
}

/// As Triton writes its configuration.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ModelConfig {
    max_batch_size: usize,
    instance_group: Vec<Instances>,
    dynamic_batching: Option<serde_json::Value>,
    parameters: BTreeMap<String, Parameter>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Instances {
    count: usize,
    gpus: Vec<u32>,
}

#[derive(Deserialize)]
struct Parameter {
    string_value: String,
}

impl Rest {
    pub fn new(address: &Address, tls: &Tls, connect: Duration) -> Result<Self, Fault> {
        let wrong = |error: reqwest::Error| {
            let message = format!("the model server's address `{address}` cannot be used: {}", with_causes(&error));
            Fault::new("M126", message).help("`ca`, `certificate` and `key` are files in PEM")
        };
        // An error says that this program has one already: that one serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // An answer that is packed costs more than it saves.
        let mut builder = Client::builder()
            .user_agent(concat!("swath/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect)
            .tcp_keepalive(Duration::from_secs(20))
            .redirect(reqwest::redirect::Policy::none())
            .gzip(false);
        if address.tls {
            if let Some(roots) = &tls.ca {
                builder = builder.tls_certs_only(Certificate::from_pem_bundle(roots).map_err(wrong)?);
            }
            if let Some((certificate, key)) = &tls.identity {
                let both = [certificate.as_slice(), b"\n", key].concat();
                builder = builder.identity(Identity::from_pem(&both).map_err(wrong)?);
            }
        }
        Ok(Self { client: builder.build().map_err(wrong)?, base: address.http() })
    }

    pub async fn server(&self) -> Result<String, Trouble> {
        let foreign = |trouble: Trouble| match trouble.kind {
            Kind::Unknown | Kind::Garbled => Trouble { kind: Kind::Foreign, ..trouble },
            Kind::Refused if trouble.said.starts_with(['3', '4']) => Trouble { kind: Kind::Foreign, ..trouble },
            _ => trouble,
        };
        self.get("/v2/health/ready").await.map_err(|trouble| match trouble.kind {
            // How Triton says it.
            Kind::Refused if trouble.said.starts_with("400") => {
                Trouble::new(Kind::Away, format!("it says that it is not ready ({})", trouble.said))
            }
            _ => foreign(trouble),
        })?;
        let told = self.get("/v2").await.and_then(|told| read::<ServerMetadata>(&told)).map_err(foreign)?;
        Ok(format!("{} {}", told.name, told.version))
    }

    pub async fn model(&self, name: &str, version: &str) -> Result<Described, Trouble> {
        let path = model_path(name, version);
        // Triton answers 400 for what it does not have.
        let told = self.get(&path).await.map_err(|trouble| match trouble.kind {
            Kind::Refused => Trouble::new(Kind::Unknown, trouble.said),
            _ => trouble,
        })?;
        let told: Metadata = read(&told)?;
        if !version.is_empty() {
            self.get(&format!("{path}/ready")).await.map_err(|trouble| match trouble.kind {
                Kind::Refused | Kind::Unknown => {
                    Trouble::new(Kind::Away, "the model is there, and says that it is not ready")
                }
                _ => trouble,
            })?;
        }
        let ends = |ends: Vec<Tensor>| ends.into_iter().map(End::from).collect::<Vec<_>>();
        Ok(Described { versions: told.versions, inputs: ends(told.inputs), outputs: ends(told.outputs) })
    }

    pub async fn config(&self, name: &str, version: &str) -> Result<Config, Trouble> {
        let told = self.get(&format!("{}/config", model_path(name, version))).await;
        let told = told.map_err(|trouble| match trouble.kind {
            Kind::Unknown | Kind::Refused => Trouble::new(Kind::Unsupported, trouble.said),
            _ => trouble,
        })?;
        let mut told: ModelConfig = read(&told)?;
        let instances = told.instance_group.iter().map(|group| group.count.max(1) * group.gpus.len().max(1));
        Ok(Config {
            largest_batch: told.max_batch_size,
            instances: instances.sum::<usize>().max(1),
            gathers: told.dynamic_batching.is_some(),
            digest: told.parameters.remove("digest").map(|parameter| parameter.string_value),
        })
    }

    pub async fn infer(&self, call: &Call) -> Result<Answer, Trouble> {
        let head = json!({
            "id": call.id,
            "inputs": [{
                "name": call.input, "shape": call.shape, "datatype": super::FLOAT,
                "parameters": { "binary_data_size": call.numbers.len() }
            }],
            "outputs": [{ "name": call.output, "parameters": { "binary_data": true } }]
        });
        let head = head.to_string();
        let mut content = BytesMut::with_capacity(head.len() + call.numbers.len());
        content.extend_from_slice(head.as_bytes());
        content.extend_from_slice(&call.numbers);
        let url = format!("{}{}/infer", self.base, model_path(&call.model, &call.version));
        let request = self.client.post(url).headers(traced()).header(HEAD_LENGTH, head.len());
        let request = request.header(CONTENT_TYPE, "application/octet-stream").body(content.freeze());
        let response = request.send().await.map_err(|error| lost(&error))?;
        let head_length = response.headers().get(HEAD_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = body(response, call.size + AROUND).await?;
        let head_length = head_length.unwrap_or(body.len());
        if head_length > body.len() {
            return Err(garbled("it ends within its head"));
        }
        let head: Head = read(&body.slice(..head_length))?;
        let mut rest = body.slice(head_length..);
        let mut outputs = Vec::new();
        for mut output in head.outputs {
            let numbers = match output.parameters.binary_data_size {
                Some(size) if size > rest.len() => return Err(garbled("it ends within its numbers")),
                Some(size) => rest.split_to(size),
                None => Bytes::from(bytemuck::cast_slice::<f32, u8>(&std::mem::take(&mut output.data)).to_vec()),
            };
            outputs.push((output.into(), numbers));
        }
        Ok(Answer { version: head.model_version, id: head.id, outputs })
    }

    async fn get(&self, path: &str) -> Result<Bytes, Trouble> {
        let request = self.client.get(format!("{}{path}", self.base)).headers(traced());
        let response = request.send().await.map_err(|error| lost(&error))?;
        body(response, AROUND).await
    }
}

/// The body of an answer that is a success.
async fn body(mut response: Response, largest: usize) -> Result<Bytes, Trouble> {
    let status = response.status();
    let mut body = BytesMut::with_capacity(response.content_length().unwrap_or(0).min(largest as u64) as usize);
    while let Some(chunk) = response.chunk().await.map_err(|error| lost(&error))? {
        if body.len() + chunk.len() > largest {
            return Err(garbled("it is larger than the output can be"));
        }
        body.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return Ok(body.freeze());
    }
    let kind = match status {
        StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::GATEWAY_TIMEOUT => Kind::Away,
        StatusCode::NOT_FOUND => Kind::Unknown,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Stranger,
        _ => Kind::Refused,
    };
    Err(Trouble::new(kind, format!("{status}{}", said(&body))))
}

/// What a server says of a failure: `{"error": "..."}`, or the beginning of whatever else it is but a page for browsers.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Said {
        error: String,
    }
    let text = match serde_json::from_slice::<Said>(body) {
        Ok(said) => said.error,
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned(),
    };
    if text.is_empty() || text.starts_with('<') { String::new() } else { format!(": {text}") }
}

fn read<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(body).map_err(|error| garbled(&error.to_string()))
}

fn garbled(reason: &str) -> Trouble {
    Trouble::new(Kind::Garbled, reason)
}

fn lost(error: &reqwest::Error) -> Trouble {
    let kind = match error {
        _ if super::is_tls(error) => Kind::Stranger,
        error if error.is_builder() => Kind::Refused,
        _ => Kind::Away,
    };
    // Without the address, which the outer error repeats.
    let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), with_causes);
    Trouble::new(kind, cause)
}

fn model_path(name: &str, version: &str) -> String {
    // A name may hold anything; only what a path may hold as well goes into it as it is.
    let encoded = |text: &str| -> String {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        text.bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
            .collect()
    };
    let model = format!("/v2/models/{}", encoded(name));
    if version.is_empty() { model } else { format!("{model}/versions/{}", encoded(version)) }
}

/// Where in its trace a request is made (W3C's `traceparent`).
fn traced() -> HeaderMap {
    struct Headers<'a>(&'a mut HeaderMap);
    impl Injector for Headers<'_> {
        fn set(&mut self, name: &str, value: String) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                self.0.insert(name, value);
            }
        }
    }
    let mut headers = HeaderMap::new();
    super::trace::inject(&mut Headers(&mut headers));
    headers
}
