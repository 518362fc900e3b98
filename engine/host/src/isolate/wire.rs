//! What engine and worker say to each other: MessagePack in frames, each after its length in four bytes.
//!
//! Not JSON: numbers must arrive to the last bit. Both sides are the same program, so there are no versions.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use swath_task::{ArtifactRecord, Fault, TaskError};

/// The longest frame, bytes: inputs and outputs of a step must fit into one.
pub(crate) const LONGEST: usize = 256 << 20;

/// What the engine says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    Start(Box<Start>),
    /// To the question of that number.
    Answer(u64, Answer),
    /// Stop soon.
    Cancel,
}

/// An attempt to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub task: String,
    pub version: u32,
    pub params: Value,
    pub inputs: Value,
    pub cpus: usize,
    pub gpus: Vec<u32>,
    pub scratch: PathBuf,
    pub keep: PathBuf,
    pub secrets: BTreeMap<String, String>,
    pub idempotency_key: String,
    pub run: String,
    /// Id of the step in that run.
    pub step: String,
    pub instance: String,
    pub attempt: u32,
    pub trace: BTreeMap<String, String>,
}

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    Alive,
    Progress {
        done: u64,
        total: u64,
        unit: String,
    },
    Metric {
        name: String,
        value: f64,
    },
    Line(Line),
    /// A span that has ended, in the words of whoever makes spans.
    Span(String),
    Ask(u64, Question),
    Ended(Result<Value, Failure>),
}

/// A line told inside an attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: String,
    /// Where it came from.
    pub target: String,
    /// The text.
    pub message: String,
    /// Structured fields as a JSON object; empty when there are none.
    pub fields: String,
}

/// What a worker needs of the engine.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Question {
    Locate(ArtifactRecord),
    Commit { path: PathBuf, name: String, kind: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Located(PathBuf),
    Committed(ArtifactRecord),
    Refused(Failure),
}

/// A [`TaskError`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    Transient { fault: Fault, retry_after: Option<Duration> },
    Permanent(Fault),
    Cancelled,
}

impl From<TaskError> for Failure {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Transient { fault, retry_after } => Self::Transient { fault, retry_after },
            TaskError::Permanent(fault) => Self::Permanent(fault),
            TaskError::Cancelled => Self::Cancelled,
        }
    }
}

impl From<Failure> for TaskError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Transient { fault, retry_after } => Self::Transient { fault, retry_after },
            Failure::Permanent(fault) => Self::Permanent(fault),
            Failure::Cancelled => Self::Cancelled,
        }
    }
}

/// A frame of `message`, with its length before it.
///
/// # Errors
/// It is longer than [`LONGEST`], or holds what cannot be written (a path that is no UTF-8).
pub(crate) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    let mut writer = rmp_serde::Serializer::new(&mut frame).with_struct_map();
    message.serialize(&mut writer).map_err(io::Error::other)?;
    let length = frame.len() - 4;
    if length > LONGEST {
        return Err(io::Error::other(format!("{} MiB at once, {} MiB fit", length >> 20, LONGEST >> 20)));
    }
    frame[..4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(frame)
}

/// How many bytes the frame after this head has.
pub(crate) fn length(head: [u8; 4]) -> io::Result<usize> {
    match u32::from_le_bytes(head) as usize {
        length if length <= LONGEST => Ok(length),
        length => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes"))),
    }
}

/// The message in a frame.
pub(crate) fn message<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(frame).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes a message.
pub(crate) fn write(to: &mut impl Write, what: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(what)?)
}

/// Reads a message.
pub(crate) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let mut frame = vec![0; length(head)?];
    from.read_exact(&mut frame)?;
    message(&frame)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_and_records_arrive_to_the_last_bit() {
        let values: Vec<f64> = (1..2_000).map(|n| 1.0 / f64::from(n) * 1e17_f64.powi(n % 7 - 3)).collect();
        let record = ArtifactRecord {
            kind: "k".to_owned(),
            name: "n".to_owned(),
            digest: swath_task::Digest::of(b"x"),
            size: u64::MAX,
            files: Vec::new(),
        };
        let outputs = json!({ "values": values, "least": i64::MIN, "most": u64::MAX, "none": null, "record": record });
        let sent = FromWorker::Ended(Ok(outputs.clone()));
        let mut bytes = Vec::new();
        write(&mut bytes, &sent).unwrap();
        write(&mut bytes, &FromWorker::Ask(7, Question::Locate(record.clone()))).unwrap();
        let mut reader = bytes.as_slice();
        let Ok(FromWorker::Ended(Ok(got))) = read(&mut reader) else { panic!("another message") };
        assert_eq!(got, outputs);
        let Ok(FromWorker::Ask(7, Question::Locate(got))) = read(&mut reader) else { panic!("another message") };
        assert_eq!(got, record);
        assert!(reader.is_empty());
    }

    #[test]
    fn a_length_that_no_frame_has_is_refused_before_memory_is_taken_for_it() {
        let error = read::<FromWorker>(&mut [0xff_u8; 16].as_slice()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
