//! ONNX's rules, for a file as `convert` writes it: the structural ones of `onnx.checker`. Operators, their attributes, types
//! and shapes are judged by ONNX Runtime, which loads every exported network (`agree`).
//!
//! Stricter than ONNX where networks here need less: one input and one output, the standard operator set alone, no
//! subgraphs, no functions, and weights that are finite numbers inside of the file.

use std::collections::HashSet;

use onnx_ir::{AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto};

use crate::convert::{BATCH, INPUT, OPSET, OUTPUT};

/// A rule that a model breaks, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule}, and {found}")]
pub(crate) struct Broken {
    rule: &'static str,
    found: String,
}

/// The version of the format that burn-onnx writes.
const IR_VERSION: i64 = 8;

/// `TensorProto.DataType`
const FLOAT: i32 = 1;
const INT32: i32 = 6;
const INT64: i32 = 7;

/// Whether a model of images of `channels` and logits of `classes` keeps all rules.
pub(crate) fn check(model: &ModelProto, channels: usize, classes: usize) -> Result<(), Broken> {
    need(model.ir_version == IR_VERSION, "the format's version is 8", || format!("it is {}", model.ir_version))?;
    let sets: Vec<_> = model.opset_import.iter().map(|set| (set.domain.as_str(), set.version)).collect();
    need(sets == [("", i64::from(OPSET))], "operators are of the standard set 18", || format!("it names {sets:?}"))?;
    need(model.functions.is_empty(), "there are no functions", || format!("there are {}", model.functions.len()))?;
    need(model.training_info.is_empty(), "there is nothing to train", || "there is".to_owned())?;
    let Some(graph) = model.graph.as_ref() else {
        return need(false, "there is a graph", || "there is none".to_owned());
    };
    need(!graph.name.is_empty(), "the graph has a name", || "it has none".to_owned())?;
    need(!graph.node.is_empty(), "the graph has nodes", || "it has none".to_owned())?;
    need(graph.sparse_initializer.is_empty(), "weights are dense", || "some are not".to_owned())?;
    end("input", &graph.input, INPUT, channels)?;
    end("output", &graph.output, OUTPUT, classes)?;
    graph.initializer.iter().try_for_each(tensor)?;
    values(graph)
}

/// The weights that hold something else than finite numbers.
pub(crate) fn not_finite(model: &ModelProto) -> Vec<&str> {
    let finite = |tensor: &TensorProto| {
        let raw =
            tensor.raw_data.chunks_exact(4).map(|number| f32::from_le_bytes(number.try_into().expect("four bytes")));
        raw.chain(tensor.float_data.iter().copied()).all(f32::is_finite)
    };
    let weights = model.graph.initializer.iter().filter(|tensor| tensor.data_type == FLOAT);
    weights.filter(|tensor| !finite(tensor)).map(|tensor| tensor.name.as_str()).collect()
}

fn need(kept: bool, rule: &'static str, found: impl FnOnce() -> String) -> Result<(), Broken> {
    if kept { Ok(()) } else { Err(Broken { rule, found: found() }) }
}

/// One end, `[batch, channels, rows, columns]` of floats, of which the batch alone is free.
fn end(what: &str, ends: &[ValueInfoProto], name: &str, channels: usize) -> Result<(), Broken> {
    let names: Vec<_> = ends.iter().map(|end| end.name.as_str()).collect();
    need(names == [name], "there is one input `image` and one output `logits`", || format!("its {what} is {names:?}"))?;
    let tensor = ends[0].type_.tensor_type();
    let kind = tensor.elem_type;
    need(kind == FLOAT, "ends are 32-bit floats", || format!("`{name}` is of type {kind}"))?;
    let sides: Vec<_> = tensor.shape.dim.iter().map(|side| (side.dim_param(), side.dim_value())).collect();
    let free = sides.first().is_some_and(|side| side.0 == BATCH);
    let fixed = sides.iter().skip(1).all(|side| side.0.is_empty() && side.1 > 0);
    let fits = sides.len() == 4 && free && fixed && sides[1].1 == channels as i64;
    need(fits, "ends are [batch, channels, rows, columns]", || format!("`{name}` is {sides:?} for {channels} channels"))
}

fn tensor(tensor: &TensorProto) -> Result<(), Broken> {
    let name = || format!("`{}` is not", tensor.name);
    let inside = tensor.external_data.is_empty() && tensor.data_location.value() == 0;
    need(inside, "weights lie in the file", name)?;
    let width = match tensor.data_type {
        FLOAT | INT32 => 4,
        INT64 => 8,
        other => {
            return need(false, "tensors are floats or integers", || format!("`{}` is of type {other}", tensor.name));
        }
    };
    let count = tensor.dims.iter().try_fold(1usize, |count, side| count.checked_mul(usize::try_from(*side).ok()?));
    let held =
        tensor.raw_data.len() / width + tensor.float_data.len() + tensor.int64_data.len() + tensor.int32_data.len();
    let whole = tensor.raw_data.len().is_multiple_of(width) && count == Some(held);
    need(whole, "a tensor has as many numbers as its shape says", || {
        format!("`{}` of shape {:?} has {held}", tensor.name, tensor.dims)
    })
}

/// Every value has a name, is made once, and is made before it is read.
fn values(graph: &GraphProto) -> Result<(), Broken> {
    let mut known: HashSet<&str> = HashSet::new();
    let given = graph.input.iter().map(|end| &end.name).chain(graph.initializer.iter().map(|tensor| &tensor.name));
    for name in given {
        need(!name.is_empty(), "every value has a name", || "one has none".to_owned())?;
        need(known.insert(name), "a value is made once", || format!("`{name}` is made twice"))?;
    }
    let mut nodes = HashSet::new();
    for node in &graph.node {
        let place = || format!("`{}` ({})", node.name, node.op_type);
        need(nodes.insert(&node.name), "nodes have names of their own", || format!("{} has not", place()))?;
        let standard = !node.op_type.is_empty() && node.domain.is_empty();
        need(standard, "operators are standard ones", || format!("{} is of `{}`", place(), node.domain))?;
        for input in node.input.iter().filter(|input| !input.is_empty()) {
            need(known.contains(input.as_str()), "a value is made before it is read", || {
                format!("{} reads `{input}`", place())
            })?;
        }
        for output in &node.output {
            need(!output.is_empty(), "every value has a name", || format!("one of {} has none", place()))?;
            need(known.insert(output), "a value is made once", || format!("{} makes `{output}` again", place()))?;
        }
        let plain = |attribute: &AttributeProto| attribute.g.is_none() && attribute.graphs.is_empty();
        need(node.attribute.iter().all(plain), "there are no subgraphs", || format!("{} has one", place()))?;
        node.attribute.iter().filter_map(|attribute| attribute.t.as_ref()).try_for_each(tensor)?;
    }
    let output = graph.output.iter().find(|end| !known.contains(end.name.as_str()));
    need(output.is_none(), "every output is made", || format!("`{OUTPUT}` is not"))
}

#[cfg(test)]
mod tests {
    use onnx_ir::{Message, NodeProto};
    use swath_nets::Network;

    use super::*;
    use crate::convert::convert;

    fn model() -> ModelProto {
        let unet = serde_json::json!({
            "architecture": "unet", "encoder": "small", "width": 4, "in_channels": 2, "classes": 1
        });
        let network: Network = serde_json::from_value(unet).unwrap();
        let network = network.init(&burn::tensor::Device::flex()).unwrap();
        convert(&network, 2, 32).unwrap()
    }

    #[test]
    fn what_breaks_a_rule_is_told_with_its_place() {
        let right = model();
        assert_eq!(check(&right, 2, 1), Ok(()));
        assert_eq!(not_finite(&right), [""; 0]);
        type Edit = fn(&mut ModelProto);
        let cases: &[(Edit, &str)] = &[
            (|m| m.ir_version = 3, "it is 3"),
            (|m| m.opset_import[0].version = 9, "it names [(\"\", 9)]"),
            (|m| m.opset_import[0].domain = "com.microsoft".to_owned(), "com.microsoft"),
            (|m| m.opset_import.clear(), "it names []"),
            (|m| m.functions.push(Default::default()), "there are 1"),
            (|m| m.training_info.push(Default::default()), "there is nothing to train"),
            (|m| drop(m.graph.take()), "there is a graph"),
            (|m| m.graph.mut_or_insert_default().name.clear(), "the graph has a name"),
            (|m| m.graph.mut_or_insert_default().node.clear(), "the graph has nodes"),
            (|m| m.graph.mut_or_insert_default().input[0].name = "x".to_owned(), "its input is [\"x\"]"),
            (|m| m.graph.mut_or_insert_default().output.clear(), "its output is []"),
            (|m| m.graph.mut_or_insert_default().initializer[0].dims.push(2), "as many numbers as its shape says"),
            (|m| m.graph.mut_or_insert_default().initializer[0].dims.push(-1), "as many numbers as its shape says"),
            (|m| m.graph.mut_or_insert_default().initializer[0].external_data.push(Default::default()), "in the file"),
            (|m| m.graph.mut_or_insert_default().initializer[0].data_type = 10, "is of type 10"),
            (|m| drop(m.graph.mut_or_insert_default().initializer.swap_remove(0)), "is made before it is read"),
            (|m| m.graph.mut_or_insert_default().node.reverse(), "a value is made before it is read"),
            (
                |m| {
                    let graph = m.graph.mut_or_insert_default();
                    let again = NodeProto { name: "again".to_owned(), ..graph.node[0].clone() };
                    graph.node.push(again);
                },
                "again` (",
            ),
            (|m| m.graph.mut_or_insert_default().node[0].domain = "com.microsoft".to_owned(), "is of `com.microsoft`"),
            (|m| m.graph.mut_or_insert_default().node[0].output[0].clear(), "has none"),
            (
                |m| {
                    let mut branch = AttributeProto::new();
                    branch.g.mut_or_insert_default();
                    m.graph.mut_or_insert_default().node[0].attribute.push(branch);
                },
                "there are no subgraphs",
            ),
            (|m| drop(m.graph.mut_or_insert_default().node.pop()), "every output is made"),
        ];
        for (edit, told) in cases {
            let mut wrong = right.clone();
            edit(&mut wrong);
            let broken = check(&wrong, 2, 1).expect_err(told).to_string();
            assert!(broken.contains(told), "{told}: {broken}");
        }
        assert!(check(&right, 3, 1).unwrap_err().to_string().contains("for 3 channels"));
    }

    #[test]
    fn the_same_network_makes_the_same_bytes_later_in_the_process() {
        let device = burn::tensor::Device::flex();
        let network: Network = serde_json::from_value(serde_json::json!({
            "architecture": "dual_unet", "encoder": "small", "width": 4, "optical_channels": 2, "sar_channels": 1
        }))
        .unwrap();
        let network = network.init(&device).unwrap();
        let bytes = || convert(&network, 3, 32).unwrap().write_to_bytes().unwrap();
        let first = bytes();
        drop(model());
        assert_eq!(first, bytes());
    }
}
