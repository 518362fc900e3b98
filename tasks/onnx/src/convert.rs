//! A network as ONNX: recorded and lowered by burn-onnx, then given names that say something and are always the same.

use std::collections::{HashMap, HashSet};

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use burn_onnx::export::{AxisSpec, ExportError, InputSpec, OnnxExporter, OnnxModel};
use onnx_ir::{GraphProto, Message, ModelProto};
use swath_nets::Model;
use swath_task::Fault;

use crate::gelu::StandIn;

/// Name of the input tensor.
pub(crate) const INPUT: &str = "image";
/// Name of the output tensor.
pub(crate) const OUTPUT: &str = "logits";
/// Name of the axis that is free.
pub(crate) const BATCH: &str = "batch";
/// The operator set.
pub(crate) const OPSET: u32 = 18;

/// The network as an ONNX model that takes any number of images of `channels` and `tile` x `tile` pixels. `M143` when it
/// has an operation that cannot be written.
pub(crate) fn convert(network: &Model, channels: usize, tile: usize) -> Result<ModelProto, Fault> {
    let not_written = |reason: String| {
        Fault::new("M143", format!("the network cannot be written as ONNX: {reason}"))
            .help("this is a fault of Swath: please report it with the `network` of the training step")
    };
    // Clones share the running statistics of their norms, and the exporter moves those of its clone away.
    let network = &network.valid();
    let images = [channels, tile, tile];
    let gelu = StandIn::default();
    // The variants one by one, so that weights are called in the graph what they are called in PyTorch.
    let recorded = match network {
        Model::Unet(network) => record(network, images, |network, x| network.forward(x)),
        Model::DeepLab(network) => record(network, images, |network, x| network.forward(x)),
        Model::Dual(network) => record(network, images, |network, x| network.forward(x)),
        Model::ConvNext(network) => record(network, images, |network, x| network.forward_with(x, &|_, x| gelu.put(x))),
    };
    let recorded = recorded.map_err(|error| not_written(error.to_string()))?;
    let model = ModelProto::parse_from_bytes(recorded.as_bytes());
    let mut model = model.map_err(|error| not_written(error.to_string()))?;
    let graph = model.graph.mut_or_insert_default();
    gelu.replace(graph).map_err(|confused| not_written(confused.to_string()))?;
    rename(graph);
    Ok(model)
}

/// The bytes of a model file.
pub(crate) fn bytes(model: &ModelProto) -> Result<Vec<u8>, Fault> {
    model.write_to_bytes().map_err(|error| {
        Fault::new("M143", format!("the network cannot be written as ONNX: {error}"))
            .help("a network file ends at 2 GiB: choose a smaller network")
    })
}

fn record<M: Module>(
    network: &M,
    [channels, rows, columns]: [usize; 3],
    forward: impl Fn(&M, Tensor<4>) -> Tensor<4>,
) -> Result<OnnxModel, ExportError> {
    let images = |batch| Tensor::<4>::zeros([batch, channels, rows, columns], &Device::flex());
    let axes = InputSpec::new([AxisSpec::dynamic(BATCH), AxisSpec::Static, AxisSpec::Static, AxisSpec::Static]);
    OnnxExporter::new().export_dynamic(network, images(2), images(3), &[axes], forward)
}

/// Gives the ends their names, and values that have no name a number by their order. (burn-onnx numbers them by a count that
/// goes on as long as the process does, so that a network would be another file each time.) What nothing reads is left out.
fn rename(graph: &mut GraphProto) {
    let mut names = HashMap::new();
    for (ends, name) in [(&graph.input, INPUT), (&graph.output, OUTPUT)] {
        names.extend(ends.first().map(|end| (end.name.clone(), name.to_owned())));
    }
    let values = graph.node.iter().flat_map(|node| node.input.iter().chain(&node.output));
    for value in values.filter(|value| value.starts_with("tensor_")) {
        let number = names.len();
        names.entry(value.clone()).or_insert_with(|| format!("value_{number}"));
    }
    let read: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
    graph.initializer.retain(|tensor| read.contains(&tensor.name));

    let rename = |name: &mut String| {
        if let Some(new) = names.get(name) {
            name.clone_from(new);
        }
    };
    graph.node.iter_mut().flat_map(|node| node.input.iter_mut().chain(&mut node.output)).for_each(rename);
    graph.initializer.iter_mut().for_each(|tensor| rename(&mut tensor.name));
    graph.input.iter_mut().chain(&mut graph.output).for_each(|end| rename(&mut end.name));
    graph.initializer.sort_by(|a, b| a.name.cmp(&b.name));
    graph.name = "network".to_owned();
}
