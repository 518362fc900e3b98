//! What travels between here and a model server, whichever protocol carries it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use swath_task::Fault;

use super::address::{Address, Protocol, Tls};
use super::grpc::Grpc;
use super::rest::Rest;
use super::retry::Trouble;

/// A tensor of a served model, or of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// Its name.
    pub name: String,
    /// The protocol's name of its type: `FP32`.
    pub datatype: String,
    /// Its sides; -1 is one that is free.
    pub shape: Vec<i64>,
}

/// What a server tells of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    /// Versions that are ready.
    pub versions: Vec<String>,
    /// What goes in.
    pub inputs: Vec<End>,
    /// What comes out.
    pub outputs: Vec<End>,
}

/// How a server runs a model, as far as Triton tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// Most tiles in one run of the network; 0: the network's shapes say.
    pub largest_batch: usize,
    /// Runs side by side.
    pub instances: usize,
    /// Whether requests are gathered into batches.
    pub gathers: bool,
    /// The digest of the network, where whoever exported it wrote it down (parameter `digest`).
    pub digest: Option<String>,
}

/// Tiles to run a network on.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// The model on the server.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Comes back in the answer.
    pub id: String,
    /// Name of the input.
    pub input: String,
    /// Its sides.
    pub shape: [i64; 4],
    /// Its numbers, little-endian.
    pub numbers: Bytes,
    /// Name of the output.
    pub output: String,
    /// Size of its numbers, bytes.
    pub size: usize,
}

/// What an answer is larger than its numbers by, at most; and the size of one without any.
pub(crate) const AROUND: usize = 1 << 20;

/// What came of them.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Version of the model that ran.
    pub version: String,
    /// That of the call.
    pub id: String,
    /// Each output and its numbers, little-endian.
    pub outputs: Vec<(End, Bytes)>,
}

/// A connection.
pub(crate) enum Wire {
    Grpc(Grpc),
    Rest(Rest),
}

impl Wire {
    /// Sets one up; nothing is sent yet. `connect` is how long a name, a connection and its TLS may take.
    pub fn new(address: &Address, tls: &Tls, connect: Duration) -> Result<Self, Fault> {
        Ok(match address.protocol {
            Protocol::Grpc => Self::Grpc(Grpc::new(address, tls, connect)?),
            Protocol::Rest => Self::Rest(Rest::new(address, tls, connect)?),
        })
    }

    /// Name and version of a server that is ready.
    pub async fn server(&self) -> Result<String, Trouble> {
        match self {
            Self::Grpc(wire) => wire.server().await,
            Self::Rest(wire) => wire.server().await,
        }
    }

    /// What the server tells of a version of a model, of any version when that is empty.
    pub async fn model(&self, name: &str, version: &str) -> Result<Described, Trouble> {
        match self {
            Self::Grpc(wire) => wire.model(name, version).await,
            Self::Rest(wire) => wire.model(name, version).await,
        }
    }

    /// How the server runs a version of a model. [`Kind::Unsupported`](super::retry::Kind) where it is not Triton.
    pub async fn config(&self, name: &str, version: &str) -> Result<Config, Trouble> {
        match self {
            Self::Grpc(wire) => wire.config(name, version).await,
            Self::Rest(wire) => wire.config(name, version).await,
        }
    }

    /// Runs a network.
    pub async fn infer(&self, call: &Call) -> Result<Answer, Trouble> {
        match self {
            Self::Grpc(wire) => wire.infer(call).await,
            Self::Rest(wire) => wire.infer(call).await,
        }
    }
}

/// The protocol's numbers are little-endian, and those of this machine are sent as they are.
const _: () = assert!(cfg!(target_endian = "little"), "tensors would have to be turned around");

/// Numbers that are sent without being copied first.
pub(crate) struct Lent(pub Arc<Vec<f32>>);

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
