//! `Gelu`, the one operation of these networks that burn-onnx 0.22 does not lower.
//!
//! burn-onnx has no place where a lowering can be added from outside. So something stands in for `Gelu` while a network is
//! recorded: `Tanh`, which burn-onnx knows, which makes one tensor of another of the same shape as `Gelu` does, and which
//! no network here has. In the exported graph every stand-in is then replaced by what `Gelu` is.
//!
//! [`nodes`] is the lowering alone. In burn-onnx it would be an arm for `ActivationOperationIr::Gelu` in
//! `export/lower/direct.rs`, and `same_axes` for it in `export/shape/dynamic_axes.rs`.

use std::cell::Cell;
use std::f32::consts::SQRT_2;

use burn::tensor::Tensor;
use onnx_ir::{GraphProto, NodeProto, TensorProto};

/// What stands in.
const STAND_IN: &str = "Tanh";
/// A network is recorded twice: with batches of two sizes.
const RECORDINGS: usize = 2;
/// `TensorProto.DataType.FLOAT`
const FLOAT: i32 = 1;

/// The scalars that every `Gelu` of a graph shares.
const SCALARS: [(&str, f32); 3] = [("gelu_root_of_two", SQRT_2), ("gelu_one", 1.0), ("gelu_half", 0.5)];

/// Stands in for every `Gelu` of a network while it is recorded, and counts them.
#[derive(Default)]
pub(crate) struct StandIn(Cell<usize>);

/// Other nodes than the stand-ins are of their kind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found} `{STAND_IN}` in the graph where {placed} stand in for `Gelu`: the network has some of its own")]
pub(crate) struct Confused {
    found: usize,
    placed: usize,
}

impl StandIn {
    /// In place of `gelu(x)`.
    pub fn put(&self, x: Tensor<4>) -> Tensor<4> {
        self.0.set(self.0.get() + 1);
        x.tanh()
    }

    /// Puts `Gelu` where something stands in for it.
    pub fn replace(self, graph: &mut GraphProto) -> Result<(), Confused> {
        let (found, placed) = (graph.node.iter().filter(|node| stands_in(node)).count(), self.0.get() / RECORDINGS);
        if found != placed {
            return Err(Confused { found, placed });
        }
        if placed == 0 {
            return Ok(());
        }
        graph.initializer.extend(SCALARS.map(|(name, value)| scalar(name, value)));
        let recorded = std::mem::take(&mut graph.node);
        graph.node =
            recorded.into_iter().flat_map(|node| if stands_in(&node) { nodes(&node) } else { vec![node] }).collect();
        Ok(())
    }
}

fn stands_in(node: &NodeProto) -> bool {
    node.op_type == STAND_IN
}

/// `x / sqrt(2)`, `erf`, `+ 1`, `* x`, `* 0.5`: `Gelu` in operations of operator set 18, which has it only from 20 on. ONNX
/// Runtime knows the five together and runs them as one.
fn nodes(stand_in: &NodeProto) -> Vec<NodeProto> {
    let (x, y) = (stand_in.input[0].clone(), stand_in.output[0].clone());
    let [root_of_two, one, half] = SCALARS.map(|(name, _)| name.to_owned());
    let value = |step: &str| format!("{}_{step}", stand_in.name);
    let steps = [
        ("Div", vec![x.clone(), root_of_two], value("scaled")),
        ("Erf", vec![value("scaled")], value("erf")),
        ("Add", vec![value("erf"), one], value("share")),
        ("Mul", vec![x, value("share")], value("twice")),
        ("Mul", vec![value("twice"), half], y),
    ];
    let node = |(step, (operation, input, output)): (usize, (&str, Vec<String>, String))| {
        let mut node = NodeProto::new();
        node.name = format!("{}_gelu_{step}", stand_in.name);
        node.op_type = operation.to_owned();
        node.input = input;
        node.output = vec![output];
        node
    };
    steps.into_iter().enumerate().map(node).collect()
}

fn scalar(name: &str, value: f32) -> TensorProto {
    let mut tensor = TensorProto::new();
    tensor.name = name.to_owned();
    tensor.data_type = FLOAT;
    tensor.float_data = vec![value];
    tensor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tanh() -> GraphProto {
        let mut node = NodeProto::new();
        (node.name, node.op_type) = ("node_7".to_owned(), STAND_IN.to_owned());
        (node.input, node.output) = (vec!["x".to_owned()], vec!["y".to_owned()]);
        let mut graph = GraphProto::new();
        graph.node = vec![node];
        graph
    }

    #[test]
    fn a_stand_in_becomes_the_five_operations_of_gelu() {
        let mut graph = tanh();
        StandIn(Cell::new(2)).replace(&mut graph).unwrap();
        let operations: Vec<_> = graph.node.iter().map(|node| node.op_type.as_str()).collect();
        assert_eq!(operations, ["Div", "Erf", "Add", "Mul", "Mul"]);
        assert_eq!((graph.node[0].input[0].as_str(), graph.node[4].output[0].as_str()), ("x", "y"));
        assert_eq!(graph.initializer.len(), 3);
    }

    #[test]
    fn a_network_with_a_tanh_of_its_own_is_not_touched() {
        let mut graph = tanh();
        let refused = StandIn::default().replace(&mut graph).unwrap_err();
        assert_eq!(refused, Confused { found: 1, placed: 0 });
        assert_eq!(graph, tanh());
    }
}
