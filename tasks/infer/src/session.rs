//! The network in ONNX Runtime, in this process.
//!
//! A session is shared within the process by all that use the same network with the same number of threads on the same
//! device, so that a step lifted over a list loads it once. It is dropped with its last user.
//!
//! Threads are spread over two sessions side by side: the threads of one wait for each other at the end of every
//! operator, those of two do not, and while one tile is between operators the other keeps the cores busy. On a GPU the one
//! computes while the tiles of the other travel.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use ort::session::{RunOptions, Session};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};
use swath_kinds::TensorSpec;
use swath_onnxruntime::Device;
use swath_task::{Digest, Fault, TaskError};

use crate::backend::Backend;
use crate::model::Model;
use crate::tiling::Tile;

/// How threads are spread over sessions.
fn lanes(threads: usize, device: Device) -> Vec<usize> {
    match device {
        Device::Cpu if threads < 2 => vec![1],
        Device::Cpu => vec![threads.div_ceil(2), threads / 2],
        Device::Cuda(_) | Device::TensorRt(_) => vec![1, 1],
    }
}

/// A network loaded into ONNX Runtime, for tiles of one size.
pub(crate) struct OrtBackend {
    session: Arc<Mutex<Session>>,
    options: RunOptions,
    place: String,
    input: TensorSpec,
    output: TensorSpec,
    tile: Tile,
    /// The network takes this many tiles at once, no more and no fewer; `None`: any number.
    fixed_batch: Option<usize>,
}

impl OrtBackend {
    /// Loads a network, or finds it loaded, and checks its ends against the manifest and the tile. Two backends with
    /// different `lane`s run side by side; with the same, one waits for the other.
    fn open(
        model: &Model,
        network: &[u8],
        tile: Tile,
        (threads, device): (usize, Device),
        lane: usize,
    ) -> Result<Self, Fault> {
        let place = model.network_place();
        let session = shared_session(model, network, (threads, device), lane)?;
        let fixed_batch = check_ends(&lock(&session), model, &place, tile)?;
        let options = RunOptions::new().map_err(|error| not_run(&place, &error.to_string()))?;
        let (input, output) = (model.manifest.input.clone(), model.manifest.output.clone());
        Ok(Self { session, options, place, input, output, tile, fixed_batch })
    }

    /// Opens as many as run well side by side with so many threads, at the same time.
    pub fn open_lanes(model: &Model, tile: Tile, threads: usize, device: Device) -> Result<Vec<Self>, Fault> {
        let network = &model.network()?;
        std::thread::scope(|scope| {
            let open = |(lane, threads): (usize, usize)| {
                scope.spawn(move || Self::open(model, network, tile, (threads, device), lane))
            };
            let opening: Vec<_> = lanes(threads, device).into_iter().enumerate().map(open).collect();
            opening.into_iter().map(|lane| lane.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        })
    }

    /// The number of tiles the network takes at once, when it is fixed.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }
}

impl Backend for OrtBackend {
    fn run(&self, batch: usize, input: &mut Vec<f32>, output: &mut [f32]) -> Result<(), TaskError> {
        let failed = |error: ort::Error| not_run(&self.place, error.message());
        let shape = |channels: u32, side: usize| [batch, channels as usize, side, side];
        let expected = shape(self.input.channels, self.tile.size);
        let input = &input[..expected.iter().product()];
        let tensor = TensorRef::from_array_view((expected, input)).map_err(failed)?;
        let mut session = lock(&self.session);
        let values = ort::inputs![self.input.name.as_str() => tensor];
        let outputs = session.run_with_options(values, &self.options).map_err(failed)?;
        let (got, numbers) = outputs[self.output.name.as_str()].try_extract_tensor::<f32>().map_err(failed)?;
        let expected = shape(self.output.channels, self.tile.told());
        if !got.iter().copied().eq(expected.iter().map(|n| *n as i64)) || numbers.len() != output.len() {
            let other = self.tile.other_task(got);
            let message = format!("its output has shape {got:?}, not {expected:?}{other}");
            return Err(mismatch(&self.place, &message).permanent());
        }
        output.copy_from_slice(numbers);
        Ok(())
    }

    fn place(&self) -> &str {
        &self.place
    }

    fn interrupt(&self) {
        // Nothing can be done about a failure here, and the run then simply takes its time.
        let _ = self.options.terminate();
    }
}

/// By digest of the network, threads, device and lane.
type Sessions = HashMap<(Digest, usize, Device, usize), Arc<Mutex<Weak<Mutex<Session>>>>>;

fn shared_session(
    model: &Model,
    network: &[u8],
    (threads, device): (usize, Device),
    lane: usize,
) -> Result<Arc<Mutex<Session>>, Fault> {
    static SESSIONS: Mutex<Option<Sessions>> = Mutex::new(None);
    let place = {
        let mut sessions = lock(&SESSIONS);
        let sessions = sessions.get_or_insert_default();
        // A place that somebody else holds is being looked at, and stays.
        sessions.retain(|_, place| Arc::strong_count(place) > 1 || lock(place).strong_count() > 0);
        sessions.entry((model.manifest.digest, threads, device, lane)).or_default().clone()
    };
    // Held while loading: who comes second waits for the session instead of loading the network again. Other networks
    // and lanes load meanwhile.
    let mut place = lock(&place);
    if let Some(session) = place.upgrade() {
        return Ok(session);
    }
    let opened = swath_onnxruntime::open_on(network, &model.network_place(), threads, device)?;
    let session = Arc::new(Mutex::new(opened));
    *place = Arc::downgrade(&session);
    Ok(session)
}

/// Locks, after a panic as well: neither a session nor the list of them is left half-written by one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Checks names, number, type and shape of what goes in and comes out. Returns the batch when it is fixed.
fn check_ends(session: &Session, model: &Model, place: &str, tile: Tile) -> Result<Option<usize>, Fault> {
    let manifest = &model.manifest;
    let input = end(place, "input", session.inputs(), &manifest.input, (tile, tile.size))?;
    let output = end(place, "output", session.outputs(), &manifest.output, (tile, tile.told()))?;
    if let (Some(input), Some(output)) = (input, output)
        && input != output
    {
        return Err(mismatch(place, &format!("it takes {input} tiles at once and returns {output}")));
    }
    Ok(input)
}

fn end(
    place: &str,
    what: &str,
    ends: &[Outlet],
    spec: &TensorSpec,
    (tile, side): (Tile, usize),
) -> Result<Option<usize>, Fault> {
    let names: Vec<&str> = ends.iter().map(Outlet::name).collect();
    let [outlet] = ends else {
        return Err(mismatch(place, &format!("it has {} {what}s (`{}`), not one", ends.len(), names.join("`, `"))));
    };
    if outlet.name() != spec.name {
        let message = format!("its {what} is called `{}`, not `{}` as in the manifest", outlet.name(), spec.name);
        return Err(mismatch(place, &message));
    }
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(mismatch(place, &format!("its {what} `{}` is not a tensor", spec.name)));
    };
    if *ty != TensorElementType::Float32 {
        return Err(mismatch(place, &format!("its {what} `{}` is of type {ty}, not f32", spec.name)));
    }
    // -1 is a dimension that is free.
    let expected = [-1, i64::from(spec.channels), side as i64, side as i64];
    let fits = |(got, want): (&i64, i64)| *got == -1 || *got == want || (want == -1 && *got > 0);
    if shape.len() != expected.len() || !shape.iter().zip(expected).all(fits) {
        let message = format!(
            "its {what} `{}` has shape {}, which does not take [batch, {}, {side}, {side}]{}",
            spec.name,
            shape_text(shape),
            spec.channels,
            if what == "output" { tile.other_task(shape) } else { "" }
        );
        return Err(mismatch(place, &message));
    }
    Ok(usize::try_from(shape[0]).ok())
}

fn shape_text(shape: &[i64]) -> String {
    let sides: Vec<String> =
        shape.iter().map(|side| if *side < 0 { "any".to_owned() } else { side.to_string() }).collect();
    format!("[{}]", sides.join(", "))
}

fn mismatch(place: &str, reason: &str) -> Fault {
    Fault::new("M106", format!("the network `{place}` does not match its manifest: {reason}"))
        .help("correct `input`, `output`, `classes` or `tile` in the manifest, or export the network again")
}

fn not_run(place: &str, reason: &str) -> Fault {
    Fault::new("M112", format!("ONNX Runtime could not run the network `{place}`: {reason}"))
        .help("try a smaller `batch` or tile; if it persists, run the network in Python's onnxruntime to compare")
}

#[cfg(test)]
mod tests {
    use swath_nets::Output;

    use super::*;

    /// A message field of a protocol buffer, shorter than 128 bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, content.len() as u8], content].concat()
    }

    /// `y = x`, `[batch, 1, row, column]`, written by hand.
    fn identity(name: &str) -> Vec<u8> {
        let free = field(1, &field(2, b"n"));
        let one = field(1, &[1 << 3, 1]);
        let shape = [free.clone(), one, free.clone(), free].concat();
        let tensor = field(1, &[vec![1 << 3, 1], field(2, &shape)].concat());
        let end = |name: &[u8]| [field(1, name), field(2, &tensor)].concat();
        let node = [field(1, b"x"), field(2, b"y"), field(4, b"Identity")].concat();
        let graph = [field(1, &node), field(2, name.as_bytes()), field(11, &end(b"x")), field(12, &end(b"y"))].concat();
        [vec![1 << 3, 8], field(7, &graph), field(8, &[2 << 3, 13])].concat()
    }

    fn model(name: &str) -> (Model, Vec<u8>) {
        let network = identity(name);
        let manifest = serde_json::json!({
            "name": name, "version": 1, "about": "", "file": "1/model.onnx", "digest": Digest::of(&network),
            "bands": [{ "name": "P" }], "normalisation": { "method": "none", "fill": 0.0 },
            "input": { "name": "x", "channels": 1 }, "output": { "name": "y", "channels": 1 },
            "activation": "probability", "tile": { "size": 4, "multiple_of": 1 }, "classes": ["a"], "gsd": 1.0
        });
        (Model { folder: name.into(), manifest: serde_json::from_value(manifest).unwrap() }, network)
    }

    fn tile(size: usize) -> Tile {
        Tile { size, output: Output::Pixels }
    }

    #[test]
    fn a_network_is_loaded_once_for_all_who_use_it_and_dropped_with_the_last() {
        let (model, network) = model("shared");
        let open = |size, threads| OrtBackend::open(&model, &network, tile(size), (threads, Device::Cpu), 0).unwrap();
        let (first, second) = (open(4, 1), open(8, 1));
        assert!(Arc::ptr_eq(&first.session, &second.session));
        let more_threads = open(4, 2);
        assert!(!Arc::ptr_eq(&first.session, &more_threads.session));
        let weak = Arc::downgrade(&first.session);
        drop((first, second));
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn an_interrupted_backend_runs_no_more_and_the_others_do() {
        let (model, network) = model("interrupted");
        let open = || OrtBackend::open(&model, &network, tile(4), (1, Device::Cpu), 0).unwrap();
        let (one, other) = (open(), open());
        let (mut input, mut output) = (vec![0.25; 16], [0.0; 16]);
        one.run(1, &mut input, &mut output).unwrap();
        assert_eq!(input, output);
        one.interrupt();
        assert!(
            matches!(one.run(1, &mut input, &mut output), Err(TaskError::Permanent(fault)) if fault.code == "M112")
        );
        other.run(1, &mut input, &mut output).unwrap();
    }
}
