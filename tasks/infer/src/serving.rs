//! Parameters that say what computes, and where.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use swath_onnxruntime::Device;
use swath_task::{LocalPath, Problem};

/// What computes. All give the same probabilities within 1e-4.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackendChoice {
    /// The model server that `triton` or the variable `TRITON_URL` names; else, and where `device` is named, ONNX Runtime.
    #[default]
    Auto,
    /// ONNX Runtime, in this process.
    Ort,
    /// A model server: Triton Inference Server, or another that speaks KServe's protocol, version 2.
    Triton,
    /// burn, in this process, on the weights that the network was made from.
    Burn,
}

/// What ONNX Runtime and burn compute on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The GPU that the step holds, where it can be used, else the CPU.
    #[default]
    Auto,
    /// This one, or it is a failure.
    Named(Device),
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Named(device) => device.fmt(f),
        }
    }
}

impl Serialize for DeviceChoice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "auto" => Ok(Self::Auto),
            text => text.parse().map(Self::Named).map_err(serde::de::Error::custom),
        }
    }
}

impl JsonSchema for DeviceChoice {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(auto|cpu|(cuda|tensorrt)(:[0-9]{1,9})?)$" })
    }
}

/// A model server, and how long it may take.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Triton {
    /// Its address: `grpc://host:8001`, `http://host:8000` where gRPC is closed, `grpcs://` and `https://` with TLS. Several,
    /// parted by commas, are tried in order. By default the variable `TRITON_URL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Name of the model there. By default the manifest's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Requests in flight at once. By default what keeps the server's instances and its batcher busy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub requests: Option<u32>,
    /// Longest that a request may take, in seconds. Not asked again: a server that is slow is not helped by it.
    #[schemars(range(min = 1, max = 3600))]
    pub request_timeout: u32,
    /// Longest that the server may be away (no connection, not ready, too busy), in seconds. So long it is asked again,
    /// after pauses that grow.
    #[schemars(range(max = 86400))]
    pub patience: u32,
    /// Roots of the server's certificate, PEM. By default the variable `TRITON_CA`, else what the machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<LocalPath>,
    /// This client's certificate, PEM. By default the variable `TRITON_CERT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<LocalPath>,
    /// Its key, PEM. By default the variable `TRITON_KEY`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<LocalPath>,
}

impl Default for Triton {
    fn default() -> Self {
        Self {
            url: None,
            model: None,
            requests: None,
            request_timeout: 60,
            patience: 60,
            ca: None,
            certificate: None,
            key: None,
        }
    }
}

impl Triton {
    /// What types cannot say.
    pub(crate) fn problems(&self, problems: &mut Vec<Problem>) {
        let mut bounded = |name: &str, value: u32, (least, most): (u32, u32)| {
            if !(least..=most).contains(&value) {
                let message = format!("`{name}` is {value}, which is not from {least} to {most}");
                problems.push(Problem::new(format!("/triton/{name}"), message));
            }
        };
        bounded("requests", self.requests.unwrap_or(1), (1, 256));
        bounded("request_timeout", self.request_timeout, (1, 3600));
        bounded("patience", self.patience, (0, 86400));
        if let Some(url) = &self.url
            && let Err(fault) = crate::triton::check_url(url)
        {
            let problem = Problem::new("/triton/url", fault.message);
            problems.push(match fault.help {
                Some(help) => problem.help(help),
                None => problem,
            });
        }
    }
}

/// What of a step's parameters says what computes.
pub(crate) struct Serving<'a> {
    /// What computes.
    pub backend: BackendChoice,
    /// On what.
    pub device: DeviceChoice,
    /// On which server.
    pub triton: &'a Triton,
}
