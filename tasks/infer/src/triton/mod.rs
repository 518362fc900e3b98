//! Networks on a model server that speaks KServe's protocol, version 2: Triton Inference Server most of all.
//!
//! Modules in reading order: where the server is (`address`), what travels (`wire`) and how (`grpc`, `rest`), what is
//! asked again (`retry`), what the server has (`served`), and what traces show (`trace`).
//!
//! Invariants:
//! 1. Nothing is sent before the server's model was held against the manifest: version, names, types, shapes, and the
//!    digest where the server tells it.
//! 2. Every answer is checked before a number of it counts: version, id, name, type, shape and size.
//! 3. Every request ends: by its answer, by its deadline, when the server was away for too long, or when told to stop.
//! 4. A tile is copied once on its way out and once on its way in.

mod address;
mod grpc;
mod rest;
mod retry;
mod served;
mod trace;
mod wire;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use swath_kinds::ModelManifest;
use swath_task::{Context, Fault, TaskError};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::backend::Backend;
use crate::serving::Triton;
use crate::tiling::Tile;
pub(crate) use address::URL_VARIABLE;
use address::{Address, Tls, TlsFiles};
use retry::{Kind, Patience, Trouble};
use served::{FLOAT, Fit};
use wire::{Answer, Call, Config, Described, Lent, Wire};

/// Messages and client, generated from `proto/`.
#[expect(unused_qualifications, reason = "generated")]
mod proto {
    tonic::include_proto!("inference");
}

/// For a question that is not a tile.
const QUESTION: Duration = Duration::from_secs(10);
/// Largest message of gRPC.
const LARGEST_MESSAGE: usize = i32::MAX as usize;
/// Requests in flight where the server does not tell what it needs.
const USUAL_REQUESTS: usize = 4;
/// Most requests in flight unless a flow asks for more.
const MOST_REQUESTS: usize = 16;
/// Tiles a request where the server gathers no requests and takes several.
const USUAL_BATCH: usize = 4;

/// The address of the model server that the environment names.
pub(crate) fn address_of_environment() -> Option<String> {
    std::env::var(URL_VARIABLE).ok().filter(|url| !url.trim().is_empty())
}

/// Whether a text names model servers.
pub(crate) fn check_url(url: &str) -> Result<(), Fault> {
    Address::list(url).map(drop)
}

/// A model on a server, found ready and held against its manifest.
pub(crate) struct Served {
    /// Drives connections; dropped without waiting for them.
    runtime: Option<Runtime>,
    wire: Wire,
    address: Address,
    name: String,
    version: String,
    manifest: ModelManifest,
    tile: Tile,
    told: Described,
    config: Option<Config>,
    fit: Fit,
    patience: Patience,
    /// Requests so far, for their ids.
    asked: AtomicU64,
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Served {
    /// Finds a model on its server. Ends early when the attempt is told to stop.
    pub fn open(settings: &Triton, manifest: &ModelManifest, tile: Tile, ctx: &Context) -> Result<Self, TaskError> {
        let url = settings.url.clone().or_else(address_of_environment).ok_or_else(|| {
            Fault::new("M126", format!("no model server is named, and {URL_VARIABLE} is not set"))
                .help("set `triton: { url: grpc://host:8001 }`, or TRITON_URL in the environment")
        })?;
        let addresses = Address::list(&url)?;
        let path = |path: &Option<swath_task::LocalPath>| path.as_ref().map(|path| path.0.clone());
        let files =
            TlsFiles { ca: path(&settings.ca), certificate: path(&settings.certificate), key: path(&settings.key) };
        let tls = files.or_environment().read()?;
        let patience = Patience {
            deadline: Duration::from_secs(settings.request_timeout.into()),
            away: Duration::from_secs(settings.patience.into()),
        };
        let runtime = runtime()?;
        let found = runtime.block_on(async {
            tokio::select! {
                biased;
                () = ctx.cancelled() => Err(TaskError::Cancelled),
                found = find(settings, manifest, addresses, &tls, patience) => found,
            }
        });
        let Found { wire, address, name, version, told, config } = match found {
            Ok(found) => found,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let mut served = Self {
            runtime: Some(runtime),
            wire,
            address,
            name,
            version,
            manifest: manifest.clone(),
            tile,
            told,
            config,
            fit: Fit { fixed_batch: None, largest_batch: None },
            patience,
            asked: AtomicU64::new(0),
        };
        let place = served.place();
        served.fit = served::check(&served.told, served.config.as_ref(), manifest, tile, &place)?;
        Ok(served)
    }

    /// The number of tiles the network takes at once, when it is fixed.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.fit.fixed_batch
    }

    /// Tiles a request that suit the server.
    pub fn usual_batch(&self) -> usize {
        match (&self.config, self.fit.largest_batch) {
            (Some(config), Some(largest)) if !config.gathers => largest.min(USUAL_BATCH),
            _ => 1,
        }
    }

    /// Requests in flight that keep the server busy: while its instances run one batch each, the next one gathers.
    pub fn usual_requests(&self, batch: usize) -> usize {
        let Some(config) = &self.config else { return USUAL_REQUESTS };
        let at_once = if config.gathers { config.largest_batch.max(batch) } else { batch };
        (2 * config.instances * at_once.div_ceil(batch)).clamp(2, MOST_REQUESTS)
    }

    fn place(&self) -> String {
        place(&self.name, &self.version, &self.address)
    }

    /// Checks that a request of this many tiles can be sent.
    pub fn check_batch(&self, batch: usize) -> Result<(), Fault> {
        let sent = self.manifest.input.channels as usize * self.tile.area();
        let told = self.manifest.output.channels as usize * self.tile.told().pow(2);
        let numbers = batch.saturating_mul(sent.max(told));
        match self.fit.largest_batch {
            Some(largest) if batch > largest => {
                let message = format!("{} takes {largest} tiles at once, not {batch}", self.place());
                Err(Fault::new("M115", message).help("leave out `batch`, or raise `max_batch_size` on the server"))
            }
            _ if numbers.saturating_mul(4) > LARGEST_MESSAGE - (1 << 20) => {
                let message = format!("{batch} tiles are more than a request or its answer may hold (2 GiB)");
                Err(Fault::new("M115", message).help("set a smaller `batch` or `tile`"))
            }
            _ => Ok(()),
        }
    }

    /// Runs the network on the server.
    async fn ask(&self, batch: usize, numbers: Bytes, output: &mut [f32]) -> Result<(), TaskError> {
        let id = format!("swath-{}", self.asked.fetch_add(1, Ordering::Relaxed));
        let sides = |channels: u32, side: usize| [batch as i64, i64::from(channels), side as i64, side as i64];
        let told = sides(self.manifest.output.channels, self.tile.told());
        let call = Call {
            model: self.name.clone(),
            version: self.version.clone(),
            id,
            input: self.manifest.input.name.clone(),
            shape: sides(self.manifest.input.channels, self.tile.size),
            numbers,
            output: self.manifest.output.name.clone(),
            size: size_of_val(output),
        };
        let answer = self.patience.ask(async || self.wire.infer(&call).await).await;
        let answer = answer.map_err(|trouble| {
            trace::failed(&tracing::Span::current(), trouble.kind);
            fault(&self.place(), &trouble)
        })?;
        let numbers = self.judge(&call, answer, &told).map_err(|reason| {
            Fault::new("M123", format!("{} gave a wrong answer: {reason}", self.place()))
                .help("look at the model's configuration and the server's log; a model that was exchanged needs a new version")
        })?;
        bytemuck::cast_slice_mut(output).copy_from_slice(&numbers);
        Ok(())
    }

    /// The numbers of an answer that is the answer to `call`.
    fn judge(&self, call: &Call, answer: Answer, shape: &[i64]) -> Result<Bytes, String> {
        if !answer.version.is_empty() && answer.version != call.version {
            return Err(format!("it is of version {}, asked for was {}", answer.version, call.version));
        }
        if !answer.id.is_empty() && answer.id != call.id {
            return Err(format!("it answers request `{}`, not `{}`", answer.id, call.id));
        }
        let count = answer.outputs.len();
        let mut outputs = answer.outputs.into_iter().filter(|(end, _)| end.name == call.output);
        let Some((end, numbers)) = outputs.next() else {
            return Err(format!("none of its {count} outputs is called `{}`", call.output));
        };
        if end.datatype != FLOAT {
            return Err(format!("`{}` is of type {}, not {FLOAT}", end.name, end.datatype));
        }
        if end.shape != shape {
            let other = self.tile.other_task(&end.shape);
            return Err(format!("`{}` has shape {:?}, not {shape:?}{other}", end.name, end.shape));
        }
        let expected = shape.iter().product::<i64>() * 4;
        if numbers.len() as i64 != expected {
            return Err(format!("`{}` has {} bytes, not {expected}", end.name, numbers.len()));
        }
        Ok(numbers)
    }

    /// Whether the server has the same model still.
    async fn confirm(&self) -> Result<(), TaskError> {
        let patience = self.patience.at_most(QUESTION);
        let asked = patience.ask(async || {
            let told = self.wire.model(&self.name, &self.version).await?;
            Ok((told, configuration(&self.wire, &self.name, &self.version).await?))
        });
        let (told, config) = asked.await.map_err(|trouble| fault(&self.place(), &trouble))?;
        if !same_model((&told, config.as_ref()), (&self.told, self.config.as_ref())) {
            let message = format!("{} was exchanged while it was used", self.place());
            return Err(Fault::new("M123", message)
                .help("serve a changed model under a new version; run the step again")
                .permanent());
        }
        Ok(())
    }
}

/// A server and a model on it, before it is held against the manifest.
struct Found {
    wire: Wire,
    address: Address,
    name: String,
    version: String,
    told: Described,
    config: Option<Config>,
}

async fn find(
    settings: &Triton,
    manifest: &ModelManifest,
    addresses: Vec<Address>,
    tls: &Tls,
    patience: Patience,
) -> Result<Found, TaskError> {
    let mut wires = wires(addresses, tls, patience)?;
    let patience = patience.at_most(QUESTION);
    let all = wires.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(", ");
    let trouble = |trouble: Trouble| fault(&format!("the model server at {all}"), &trouble);
    let index = ready(&wires, patience).await.map_err(trouble)?;
    let (address, wire) = wires.swap_remove(index);
    let name = settings.model.clone().unwrap_or_else(|| manifest.name.clone());
    let version = manifest.version.to_string();
    let known = patience.ask(async || wire.model(&name, "").await).await;
    let known = known.map_err(|trouble| fault(&format!("the model `{name}` at {address}"), &trouble))?;
    if !known.versions.is_empty() && !known.versions.contains(&version) {
        let versions = known.versions.join(", ");
        let message = format!(
            "the model server at {address} has version {versions} of `{name}`, the manifest is of version {version}"
        );
        return Err(Fault::new("M121", message)
            .help("serve the manifest's version too (`version_policy`), or take the model folder of a version that is served")
            .permanent());
    }
    let asked = patience.ask(async || {
        let told = wire.model(&name, &version).await?;
        Ok((told, configuration(&wire, &name, &version).await?))
    });
    let (told, config) = asked.await.map_err(|trouble| fault(&place(&name, &version, &address), &trouble))?;
    tracing::debug!(%address, name, version, ?config, "found on the model server");
    Ok(Found { wire, address, name, version, told, config })
}

/// A connection for each address. Within a runtime, which drives them.
fn wires(addresses: Vec<Address>, tls: &Tls, patience: Patience) -> Result<Vec<(Address, Wire)>, Fault> {
    let wire = |address: Address| Ok((address.clone(), Wire::new(&address, tls, patience.connect())?));
    addresses.into_iter().map(wire).collect()
}

/// The index of the first server that is ready.
async fn ready(wires: &[(Address, Wire)], patience: Patience) -> Result<usize, Trouble> {
    let each = patience.deadline;
    let together = Patience { deadline: each * (wires.len() as u32 + 1), ..patience };
    let asked = together.ask(async || {
        let mut troubles: Vec<Trouble> = Vec::new();
        for (index, (address, wire)) in wires.iter().enumerate() {
            let trouble = match tokio::time::timeout(each, wire.server()).await {
                Ok(Ok(server)) => {
                    tracing::debug!(%address, server, "the model server is ready");
                    for ((address, _), trouble) in wires.iter().zip(&troubles) {
                        tracing::warn!(%address, said = trouble.said, "passed over for another address");
                    }
                    return Ok(index);
                }
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::new(Kind::Late, format!("no answer within {} s", each.as_secs_f32())),
            };
            troubles.push(trouble);
        }
        // As long as one of them may come back, all are asked again.
        let kind = troubles.iter().map(|trouble| trouble.kind).min_by_key(|kind| *kind != Kind::Away);
        let said = troubles.into_iter().map(|trouble| trouble.said).collect::<Vec<_>>().join("; ");
        Err(Trouble::new(kind.unwrap_or(Kind::Unknown), said))
    });
    asked.await
}

/// Whether a server tells of the same model as before. Where it tells the network's digest that decides: the server may have been
/// told meanwhile to run the same network in another way.
fn same_model((told, config): (&Described, Option<&Config>), before: (&Described, Option<&Config>)) -> bool {
    let digest = |config: Option<&Config>| config.and_then(|config| config.digest.clone());
    let same_network = match (digest(config), digest(before.1)) {
        (Some(now), Some(then)) => now == then,
        _ => config == before.1,
    };
    (&told.inputs, &told.outputs) == (&before.0.inputs, &before.0.outputs) && same_network
}

/// How the server runs the model, where it is one that tells.
async fn configuration(wire: &Wire, name: &str, version: &str) -> Result<Option<Config>, Trouble> {
    match wire.config(name, version).await {
        Ok(config) => Ok(Some(config)),
        Err(trouble) if trouble.kind == Kind::Unsupported => Ok(None),
        Err(trouble) => Err(trouble),
    }
}

fn place(name: &str, version: &str, address: &Address) -> String {
    format!("`{name}` version {version} at {address}")
}

fn runtime() -> Result<Runtime, Fault> {
    let builder =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("infer-wire").enable_all().build();
    builder
        .map_err(|error| Fault::new("M120", format!("the connection to the model server cannot be started: {error}")))
}

/// What trouble with `place` means for the step.
fn fault(place: &str, trouble: &Trouble) -> TaskError {
    let (said, asked) = (&trouble.said, trouble.asked);
    let times = if asked > 1 { format!(" (asked {asked} times)") } else { String::new() };
    match trouble.kind {
        Kind::Away => Fault::new("M120", format!("{place} cannot be reached{times}: {said}"))
            .help("check that the server runs and is ready, and that protocol and port belong together: `grpc://host:8001`, or its HTTP address `http://host:8000`, also where gRPC is closed; `patience` and the step's `retry` cover outages")
            .transient(None),
        Kind::Late => Fault::new("M124", format!("{place} did not answer in time: {said}"))
            .help("set a longer `request_timeout` or fewer `requests`, or give the server more instances")
            .transient(None),
        Kind::Unknown => Fault::new("M121", format!("{place} is not on the server: {said}"))
            .help("load the model there, or name it with `triton: { model: NAME }`")
            .permanent(),
        Kind::Foreign => {
            Fault::new("M126", format!("{place} is none: what answers there does not speak KServe's protocol ({said})"))
                .help("give the address of a model server: Triton answers HTTP on port 8000 (`http://host:8000`) and gRPC on port 8001 (`grpc://host:8001`)")
                .permanent()
        }
        Kind::Stranger => Fault::new("M126", format!("{place} cannot be used: {said}"))
            .help("check `ca`, `certificate` and `key` of `triton`, and the name in the address")
            .permanent(),
        Kind::Unsupported | Kind::Refused => Fault::new("M125", format!("{place} refused the request{times}: {said}"))
            .help("the server's log tells more; a smaller `batch` or `tile` helps where memory ran out")
            .permanent(),
        Kind::Garbled => Fault::new("M123", format!("{place} gave a wrong answer: {said}"))
            .help("check that the address is a model server's, and the model's configuration")
            .permanent(),
    }
}

/// Whether an error comes from TLS: a certificate that does not fit does not fit the next time.
fn is_tls(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<rustls::Error>() {
            return true;
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
        cause = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    false
}

/// One of several requests to a model that are in flight at once.
pub(crate) struct TritonBackend {
    served: Arc<Served>,
    place: String,
    stop: CancellationToken,
}

impl TritonBackend {
    /// A place for one request at a time.
    pub fn new(served: &Arc<Served>) -> Self {
        // It stands between backticks.
        let place = format!("{} version {} at {}", served.name, served.version, served.address);
        Self { served: served.clone(), place, stop: CancellationToken::new() }
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, TaskError>>) -> Result<T, TaskError> {
        let Some(runtime) = &self.served.runtime else { return Err(TaskError::Cancelled) };
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(TaskError::Cancelled),
                done = work => done,
            }
        })
    }
}

impl Backend for TritonBackend {
    fn run(&self, batch: usize, input: &mut Vec<f32>, output: &mut [f32]) -> Result<(), TaskError> {
        let served = &self.served;
        let length = batch * served.manifest.input.channels as usize * served.tile.area();
        // Lent to the request, and back again once it has ended.
        let numbers = Arc::new(std::mem::take(input));
        let body = Bytes::from_owner(Lent(numbers.clone())).slice(..length * size_of::<f32>());
        let span = trace::request(&served.address, &served.name, &served.version, batch);
        let done = self.wait(served.ask(batch, body, output).instrument(span));
        *input = Arc::try_unwrap(numbers).unwrap_or_else(|held| vec![0.0; held.len()]);
        done
    }

    fn place(&self) -> &str {
        &self.place
    }

    fn interrupt(&self) {
        self.stop.cancel();
    }

    fn confirm(&self, ctx: &Context) -> Result<(), TaskError> {
        self.wait(async {
            tokio::select! {
                biased;
                () = ctx.cancelled() => Err(TaskError::Cancelled),
                done = self.served.confirm() => done,
            }
        })
    }
}

/// Whether the model server that the environment names is ready: its name, version and address. `None` when the
/// environment names none.
pub fn model_server() -> Option<Result<String, Fault>> {
    let url = address_of_environment()?;
    let asked = || -> Result<String, TaskError> {
        let addresses = Address::list(&url)?;
        let tls = TlsFiles::default().or_environment().read()?;
        let patience = Patience { deadline: Duration::from_secs(5), away: Duration::ZERO };
        let runtime = runtime()?;
        let told = runtime.block_on(async {
            let wires = wires(addresses, &tls, patience)?;
            let trouble = |trouble: Trouble| fault(&format!("the model server at {url}"), &trouble);
            let index = ready(&wires, patience).await.map_err(trouble)?;
            let (address, wire) = &wires[index];
            Ok::<_, TaskError>(format!("{} at {address}", wire.server().await.map_err(trouble)?))
        });
        // Connections go with the runtime; what they wait for is of no interest any more.
        runtime.shutdown_background();
        told
    };
    Some(asked().map_err(|error| match error {
        TaskError::Transient { fault, .. } | TaskError::Permanent(fault) => fault,
        TaskError::Cancelled => Fault::new("M120", "it was not asked"),
    }))
}

#[cfg(test)]
mod tests {
    use swath_nets::Output;
    use swath_task::Digest;
    use swath_task::local::LocalHost;
    use swath_testkit::closed::Closed;

    use super::wire::End;
    use super::*;

    fn described(side: i64) -> Described {
        let end =
            |name: &str| End { name: name.to_owned(), datatype: FLOAT.to_owned(), shape: vec![-1, 1, side, side] };
        Described { versions: vec!["3".to_owned()], inputs: vec![end("image")], outputs: vec![end("logits")] }
    }

    fn config(instances: usize, digest: Option<&str>) -> Config {
        Config { largest_batch: 4, instances, gathers: false, digest: digest.map(str::to_owned) }
    }

    #[test]
    fn a_model_is_the_same_by_its_digest_else_by_all_that_is_told() {
        let (one, other) = (described(-1), described(64));
        for (before, now, same) in [
            (config(1, None), config(1, None), true),
            (config(1, None), config(2, None), false),
            // The same network on more instances.
            (config(1, Some("a")), config(2, Some("a")), true),
            (config(1, Some("a")), config(1, Some("b")), false),
            (config(1, Some("a")), config(1, None), false),
        ] {
            assert_eq!(same_model((&one, Some(&now)), (&one, Some(&before))), same, "{before:?} {now:?}");
            assert!(!same_model((&other, Some(&now)), (&one, Some(&before))));
        }
        assert!(same_model((&one, None), (&one, None)) && !same_model((&one, None), (&one, Some(&config(1, None)))));
    }

    /// A model on a server that has gone away since it was found.
    fn gone(closed: &Closed, size: usize, channels: u32) -> Arc<Served> {
        let manifest = serde_json::json!({
            "name": "gone", "version": 3, "about": "", "file": "3/model.onnx", "digest": Digest::of(b""),
            "bands": [{ "name": "P" }], "normalisation": { "method": "none", "fill": 0.0 },
            "input": { "name": "image", "channels": 1 }, "output": { "name": "logits", "channels": channels },
            "activation": "logits", "tile": { "size": size, "multiple_of": 1 }, "classes": ["a"], "gsd": 1.0
        });
        let address = Address::list(&format!("grpc://{}", closed.address())).unwrap().remove(0);
        let patience = Patience { deadline: Duration::from_secs(1), away: Duration::from_secs(3600) };
        let runtime = runtime().unwrap();
        let wire = {
            let _inside = runtime.enter();
            Wire::new(&address, &Tls::default(), patience.connect()).unwrap()
        };
        Arc::new(Served {
            runtime: Some(runtime),
            wire,
            address,
            name: "gone".to_owned(),
            version: "3".to_owned(),
            manifest: serde_json::from_value(manifest).unwrap(),
            tile: Tile { size, output: Output::Pixels },
            told: described(-1),
            config: None,
            fit: Fit { fixed_batch: None, largest_batch: None },
            patience,
            asked: AtomicU64::new(0),
        })
    }

    #[test]
    fn a_wish_to_stop_is_heard_while_a_server_that_went_away_is_asked_for_the_last_time() {
        let folder = tempfile::tempdir().unwrap();
        let cancel = CancellationToken::new();
        let ctx = LocalHost::new(folder.path()).unwrap().cancellable(1, cancel.clone());
        let closed = Closed::take();
        let network = TritonBackend::new(&gone(&closed, 16, 1));
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| network.confirm(&ctx));
            std::thread::sleep(Duration::from_millis(300));
            assert!(!asked.is_finished(), "it is patient for an hour");
            cancel.cancel();
            assert!(matches!(asked.join().unwrap(), Err(TaskError::Cancelled)));
        });
    }

    #[test]
    fn the_place_of_a_network_stands_between_backticks_and_has_none() {
        let place = TritonBackend::new(&gone(&Closed::take(), 16, 1)).place().to_owned();
        assert!(place.starts_with("gone version 3 at grpc://") && !place.contains('`'), "{place}");
    }

    #[test]
    fn a_request_and_its_answer_end_at_what_a_message_may_hold() {
        let closed = Closed::take();
        assert!(gone(&closed, 8192, 1).check_batch(7).is_ok());
        assert_eq!(gone(&closed, 8192, 1).check_batch(8).unwrap_err().code, "M115");
        // One band in, four classes out.
        assert_eq!(gone(&closed, 8192, 4).check_batch(2).unwrap_err().code, "M115");
        assert_eq!(gone(&closed, 8192, 1).check_batch(usize::MAX).unwrap_err().code, "M115");
    }
}
