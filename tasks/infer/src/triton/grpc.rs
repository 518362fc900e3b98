//! The protocol over gRPC.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::propagation::Injector;
use swath_task::Fault;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::address::{Address, Tls};
use super::proto::grpc_inference_service_client::GrpcInferenceServiceClient;
use super::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::proto::model_metadata_response::TensorMetadata;
use super::proto::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerMetadataRequest,
    ServerReadyRequest,
};
use super::retry::{Kind, Trouble};
use super::wire::{AROUND, Answer, Call, Config, Described, End, Lent};

/// What the other end may send before it is told that there is room for more.
const WINDOWS: (u32, u32) = (4 << 20, 16 << 20);

/// A connection, made when it is first needed and again when it was lost.
pub(crate) struct Grpc(GrpcInferenceServiceClient<Channel>);

impl Grpc {
    pub fn new(address: &Address, tls: &Tls, connect: Duration) -> Result<Self, Fault> {
        let wrong = |error: tonic::transport::Error| {
            let message = format!("the model server's address `{address}` cannot be used: {}", with_causes(&error));
            Fault::new("M126", message).help("`ca`, `certificate` and `key` are files in PEM")
        };
        // Keep-alive is TCP's: servers of gRPC take its own, when no answer is due for long, for an attack.
        let endpoint = Endpoint::from_shared(address.http())
            .map_err(wrong)?
            .connect_timeout(connect)
            .tcp_keepalive(Some(Duration::from_secs(20)))
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1);
        let endpoint = if address.tls {
            let mut config = match &tls.ca {
                Some(roots) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            if let Some((certificate, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            endpoint.tls_config(config).map_err(wrong)?
        } else {
            endpoint
        };
        let client = GrpcInferenceServiceClient::new(endpoint.connect_lazy());
        Ok(Self(client.max_decoding_message_size(AROUND)))
    }

    pub async fn server(&self) -> Result<String, Trouble> {
        let mut client = self.0.clone();
        let ready = client.server_ready(request(ServerReadyRequest {})).await.map_err(|status| {
            let trouble = trouble(status);
            match trouble.kind {
                // A server of other calls, or of no gRPC at all.
                Kind::Unsupported | Kind::Unknown => Trouble { kind: Kind::Foreign, ..trouble },
                _ => trouble,
            }
        })?;
        if !ready.into_inner().ready {
            return Err(Trouble::new(Kind::Away, "it says that it is not ready"));
        }
        let told = client.server_metadata(request(ServerMetadataRequest {})).await.map_err(trouble)?.into_inner();
        Ok(format!("{} {}", told.name, told.version))
    }

    pub async fn model(&self, name: &str, version: &str) -> Result<Described, Trouble> {
        let mut client = self.0.clone();
        let asked = ModelMetadataRequest { name: name.to_owned(), version: version.to_owned() };
        let told = client.model_metadata(request(asked)).await.map_err(trouble)?.into_inner();
        if !version.is_empty() {
            let asked = ModelReadyRequest { name: name.to_owned(), version: version.to_owned() };
            if !client.model_ready(request(asked)).await.map_err(trouble)?.into_inner().ready {
                return Err(Trouble::new(Kind::Away, "the model is there, and says that it is not ready"));
            }
        }
        let ends = |ends: Vec<TensorMetadata>| {
            ends.into_iter()
                .map(|end| End { name: end.name, datatype: end.datatype, shape: end.shape })
                .collect::<Vec<_>>()
        };
        Ok(Described { versions: told.versions, inputs: ends(told.inputs), outputs: ends(told.outputs) })
    }

    pub async fn config(&self, name: &str, version: &str) -> Result<Config, Trouble> {
        let asked = ModelConfigRequest { name: name.to_owned(), version: version.to_owned() };
        let told = self.0.clone().model_config(request(asked)).await.map_err(trouble)?.into_inner();
        let mut told = told.config.unwrap_or_default();
        let instances = told.instance_group.iter().map(|group| {
            let each = usize::try_from(group.count).unwrap_or(0).max(1);
            each * group.gpus.len().max(1)
        });
        Ok(Config {
            largest_batch: usize::try_from(told.max_batch_size).unwrap_or(0),
            instances: instances.sum::<usize>().max(1),
            gathers: told.dynamic_batching.is_some(),
            digest: told.parameters.remove("digest").map(|parameter| parameter.string_value),
        })
    }

    pub async fn infer(&self, call: &Call) -> Result<Answer, Trouble> {
        let asked = ModelInferRequest {
            model_name: call.model.clone(),
            model_version: call.version.clone(),
            id: call.id.clone(),
            inputs: vec![InferInputTensor {
                name: call.input.clone(),
                datatype: super::FLOAT.to_owned(),
                shape: call.shape.to_vec(),
            }],
            outputs: vec![InferRequestedOutputTensor { name: call.output.clone() }],
            raw_input_contents: vec![call.numbers.clone()],
        };
        let mut client = self.0.clone().max_decoding_message_size(call.size + AROUND);
        let told = client.model_infer(request(asked)).await.map_err(trouble)?.into_inner();
        let mut raw = told.raw_output_contents.into_iter();
        let outputs = told.outputs.into_iter().map(|output| {
            let numbers = match output.contents {
                Some(contents) => Bytes::from_owner(Lent(contents.fp32_contents.into())),
                None => raw.next().unwrap_or_default(),
            };
            (End { name: output.name, datatype: output.datatype, shape: output.shape }, numbers)
        });
        Ok(Answer { version: told.model_version, id: told.id, outputs: outputs.collect() })
    }
}

/// A request that says where in its trace it is made (W3C's `traceparent`).
fn request<T>(message: T) -> Request<T> {
    struct Metadata<'a>(&'a mut MetadataMap);
    impl Injector for Metadata<'_> {
        fn set(&mut self, name: &str, value: String) {
            if let (Ok(name), Ok(value)) = (name.parse::<AsciiMetadataKey>(), value.parse::<AsciiMetadataValue>()) {
                self.0.insert(name, value);
            }
        }
    }
    let mut request = Request::new(message);
    super::trace::inject(&mut Metadata(request.metadata_mut()));
    request
}

fn trouble(status: Status) -> Trouble {
    // What the server said has no source; what befell the connection has.
    let source = status.source();
    let said = match source {
        Some(source) => with_causes(source),
        None => format!("{}: {}", name(status.code()), status.message()),
    };
    let kind = match status.code() {
        _ if source.is_some_and(super::is_tls) => Kind::Stranger,
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => Kind::Away,
        // The server could not have said it: it went away meanwhile.
        Code::Unknown | Code::Internal | Code::Cancelled if source.is_some() => Kind::Away,
        Code::DeadlineExceeded => Kind::Late,
        Code::NotFound => Kind::Unknown,
        Code::Unimplemented => Kind::Unsupported,
        Code::Unauthenticated | Code::PermissionDenied => Kind::Stranger,
        Code::OutOfRange | Code::DataLoss => Kind::Garbled,
        _ => Kind::Refused,
    };
    Trouble::new(kind, said)
}

/// As the protocol's documents write it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// An error and what it comes from, each once.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}
