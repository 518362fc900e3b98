//! A look into an ONNX file before anything loads it: is it whole, is it ONNX, and does it stay inside itself?
//!
//! ONNX is a protocol buffer. A tensor in it may name a file by path where its numbers lie (`external_data`), in an
//! initialiser, in the attribute of a node, in a sparse tensor, in a subgraph of `If`, `Loop` or `Scan`, in a function
//! body or in training information. Such a path can lead anywhere on the machine, so all of it is walked and any such
//! tensor is refused. Deliberately not a full reader: fields that cannot hold a tensor are skipped.

/// Deepest nesting of messages that is followed; protocol buffers' own readers stop at 100.
const DEEPEST: usize = 64;

/// Why a network file is refused before it is loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// An ONNX Runtime flatbuffer, which the walk cannot see into.
    #[error("it is in ONNX Runtime's own `.ort` format, not ONNX")]
    OrtFormat,
    /// Not a protocol buffer, or cut off.
    #[error("it is not a whole ONNX file: {reason} at byte {at} of {size}")]
    Malformed {
        /// What was wrong.
        reason: &'static str,
        /// Where.
        at: usize,
        /// Size of the file.
        size: usize,
    },
    /// A protocol buffer without a graph.
    #[error("it is not an ONNX model: it holds no graph with nodes")]
    NoGraph,
    /// A tensor whose numbers lie in another file.
    #[error("tensor `{tensor}` keeps its numbers in another file, `{location}`")]
    External {
        /// Name of the tensor, possibly empty.
        tensor: String,
        /// The path as written.
        location: String,
    },
    /// A node that loads a compiled network from another file.
    #[error("node `{node}` loads a compiled network (`EPContext`)")]
    Compiled {
        /// Name of the node, possibly empty.
        node: String,
    },
}

/// The messages on the way to a tensor. Field numbers are those of onnx.proto (ONNX 1.x, stable by its rules).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    Training,
}

impl Message {
    /// The message in field `number`, if it may hold a tensor.
    fn field(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Model, 7) => Self::Graph,
            (Self::Model, 20) => Self::Training,
            (Self::Model, 25) => Self::Function,
            (Self::Training, 1 | 2) => Self::Graph,
            (Self::Graph, 1) | (Self::Function, 7) => Self::Node,
            (Self::Graph, 5) => Self::Tensor,
            (Self::Graph, 15) => Self::SparseTensor,
            (Self::Node, 5) | (Self::Function, 11) => Self::Attribute,
            (Self::Attribute, 5 | 10) => Self::Tensor,
            (Self::Attribute, 6 | 11) => Self::Graph,
            (Self::Attribute, 22 | 23) => Self::SparseTensor,
            (Self::SparseTensor, 1 | 2) => Self::Tensor,
            _ => return None,
        })
    }
}

/// Walks a network file. `Ok` when it is a whole ONNX file that names no other file.
pub fn inspect(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.is_empty() {
        return Err(Refusal::Empty);
    }
    // Flatbuffers carry their identifier after the first four bytes.
    if bytes.get(4..8) == Some(b"ORTM") {
        return Err(Refusal::OrtFormat);
    }
    let mut walk = Walk { bytes, nodes: 0, ir_version: false };
    walk.message(Message::Model, 0, bytes.len(), 0)?;
    if walk.nodes == 0 || !walk.ir_version {
        return Err(Refusal::NoGraph);
    }
    Ok(())
}

struct Walk<'a> {
    bytes: &'a [u8],
    nodes: usize,
    ir_version: bool,
}

impl Walk<'_> {
    fn message(&mut self, message: Message, mut at: usize, end: usize, depth: usize) -> Result<(), Refusal> {
        if depth > DEEPEST {
            return Err(self.malformed("messages nested too deeply", at));
        }
        let (mut name, mut operator, mut external, mut location) = ("", "", false, String::new());
        while at < end {
            let key = self.varint(&mut at, end)?;
            let (number, wire) = (key >> 3, key & 7);
            match wire {
                0 => {
                    let value = self.varint(&mut at, end)?;
                    self.ir_version |= message == Message::Model && number == 1 && value > 0;
                    // TensorProto.data_location: EXTERNAL
                    external |= message == Message::Tensor && number == 14 && value == 1;
                }
                1 => self.skip(&mut at, 8, end)?,
                5 => self.skip(&mut at, 4, end)?,
                2 => {
                    let length = self.varint(&mut at, end)?;
                    let from = at;
                    self.skip(&mut at, usize::try_from(length).unwrap_or(usize::MAX), end)?;
                    let content = &self.bytes[from..at];
                    match (message, number) {
                        // TensorProto.name and NodeProto.name, NodeProto.op_type
                        (Message::Tensor, 8) | (Message::Node, 3) => name = str::from_utf8(content).unwrap_or("?"),
                        (Message::Node, 4) => operator = str::from_utf8(content).unwrap_or("?"),
                        // TensorProto.external_data: StringStringEntryProto
                        (Message::Tensor, 13) => {
                            external = true;
                            let (key, value) = self.entry(from, at)?;
                            if key == "location" {
                                location = value;
                            }
                        }
                        _ => {
                            if let Some(inner) = message.field(number) {
                                self.message(inner, from, at, depth + 1)?;
                            }
                        }
                    }
                }
                _ => return Err(self.malformed("an unknown wire type", at)),
            }
            if number == 0 {
                return Err(self.malformed("a field without a number", at));
            }
        }
        if external {
            return Err(Refusal::External { tensor: name.to_owned(), location });
        }
        if message == Message::Node {
            self.nodes += 1;
            if operator == "EPContext" {
                return Err(Refusal::Compiled { node: name.to_owned() });
            }
        }
        Ok(())
    }

    /// Key and value of a StringStringEntryProto.
    fn entry(&self, mut at: usize, end: usize) -> Result<(String, String), Refusal> {
        let (mut key, mut value) = (String::new(), String::new());
        while at < end {
            let tag = self.varint(&mut at, end)?;
            if tag & 7 != 2 {
                return Err(self.malformed("an unknown wire type", at));
            }
            let length = self.varint(&mut at, end)?;
            let from = at;
            self.skip(&mut at, usize::try_from(length).unwrap_or(usize::MAX), end)?;
            let text = String::from_utf8_lossy(&self.bytes[from..at]).into_owned();
            match tag >> 3 {
                1 => key = text,
                2 => value = text,
                _ => {}
            }
        }
        Ok((key, value))
    }

    fn varint(&self, at: &mut usize, end: usize) -> Result<u64, Refusal> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            if *at >= end {
                return Err(self.malformed("it ends inside of a number", *at));
            }
            let byte = self.bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("a number of more than ten bytes", *at))
    }

    fn skip(&self, at: &mut usize, length: usize, end: usize) -> Result<(), Refusal> {
        match at.checked_add(length) {
            Some(after) if after <= end => {
                *at = after;
                Ok(())
            }
            _ => Err(self.malformed("it ends inside of a field", *at)),
        }
    }

    fn malformed(&self, reason: &'static str, at: usize) -> Refusal {
        Refusal::Malformed { reason, at, size: self.bytes.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn varint(mut value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        while value > 0x7f {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
        out
    }

    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
    }

    fn external_tensor() -> Vec<u8> {
        let entry = [field(1, b"location"), field(2, b"/etc/shadow")].concat();
        [field(8, b"w"), field(13, &entry), varint(14 << 3), varint(1)].concat()
    }

    fn model(graph: &[u8]) -> Vec<u8> {
        [varint(1 << 3), varint(8), field(7, graph)].concat()
    }

    fn node(attribute: &[u8]) -> Vec<u8> {
        field(1, &[field(4, b"If"), field(5, attribute)].concat())
    }

    #[test]
    fn external_data_is_found_wherever_a_tensor_can_be() {
        let tensor = external_tensor();
        let plain = field(1, &field(4, b"Relu"));
        let sparse_values = field(1, &tensor);
        let inner_graph = field(5, &tensor);
        let places: Vec<(&str, Vec<u8>)> = vec![
            ("initialiser", model(&[plain.clone(), field(5, &tensor)].concat())),
            ("sparse initialiser", model(&[plain.clone(), field(15, &sparse_values)].concat())),
            ("sparse indices", model(&[plain.clone(), field(15, &field(2, &tensor))].concat())),
            ("attribute tensor", model(&node(&field(5, &tensor)))),
            ("attribute tensors", model(&node(&field(10, &tensor)))),
            ("attribute sparse tensor", model(&node(&field(22, &sparse_values)))),
            ("attribute sparse tensors", model(&node(&field(23, &sparse_values)))),
            ("subgraph", model(&node(&field(6, &inner_graph)))),
            ("subgraphs", model(&node(&field(11, &inner_graph)))),
            ("nested subgraph", model(&node(&field(6, &node(&field(6, &inner_graph)))))),
            ("function body", [model(&plain), field(25, &field(7, &field(5, &field(5, &tensor))))].concat()),
            ("function default", [model(&plain), field(25, &field(11, &field(5, &tensor)))].concat()),
            ("training", [model(&plain), field(20, &field(1, &field(5, &tensor)))].concat()),
            ("second graph", [model(&plain), field(7, &inner_graph)].concat()),
        ];
        for (place, bytes) in places {
            let expected = Refusal::External { tensor: "w".into(), location: "/etc/shadow".into() };
            assert_eq!(inspect(&bytes), Err(expected), "{place}");
        }
        // The mark alone, without a path, is enough: older writers leave the entries out.
        let marked = [field(8, b"w"), varint(14 << 3), varint(1)].concat();
        assert!(matches!(inspect(&model(&field(5, &marked))), Err(Refusal::External { .. })));
        assert_eq!(inspect(&model(&plain)), Ok(()));
    }

    #[test]
    fn what_is_not_onnx_is_told_apart() {
        assert_eq!(inspect(b""), Err(Refusal::Empty));
        assert_eq!(inspect(b"\x18\0\0\0ORTM\0\0"), Err(Refusal::OrtFormat));
        assert!(matches!(inspect(b"<!DOCTYPE html><html>"), Err(Refusal::Malformed { .. })));
        assert_eq!(inspect(&[varint(1 << 3), varint(8)].concat()), Err(Refusal::NoGraph));
        let compiled = model(&field(1, &[field(3, b"n"), field(4, b"EPContext")].concat()));
        assert_eq!(inspect(&compiled), Err(Refusal::Compiled { node: "n".into() }));
    }

    #[test]
    fn every_truncation_of_a_model_is_refused() {
        let whole = model(&[node(&field(5, &field(9, &[7; 40]))), field(1, &field(4, b"Relu"))].concat());
        assert_eq!(inspect(&whole), Ok(()));
        for length in 0..whole.len() {
            assert!(inspect(&whole[..length]).is_err(), "{length} of {}", whole.len());
        }
    }

    #[test]
    fn random_bytes_and_bottomless_nesting_end_in_a_refusal() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for length in 0..2000usize {
            let bytes: Vec<u8> = (0..length % 97)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (state >> 33) as u8
                })
                .collect();
            let _ = inspect(&bytes);
        }
        let mut graph = field(4, b"If");
        for _ in 0..500 {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        assert!(matches!(inspect(&model(&graph)), Err(Refusal::Malformed { .. })));
    }
}
