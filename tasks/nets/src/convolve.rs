//! Convolutions that learn on the CPU in less time.
//!
//! burn computes the gradient of a convolution's weight as one more convolution, whose kernel is as large as the image: on
//! the CPU that is matrix products nine columns wide, which take most of a training step. Here it is a few products with all pixels
//! along the inner side, of the image moved by each place of the kernel (Chellapilla and others, 2006). Everything else is
//! burn's: the output, the gradient of the image, other devices, and what is exported.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::{FloatTensorOps, ModuleOps};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

/// Values of the moved image that are held at once, unless one place of the kernel alone has more.
const MOST_VALUES: usize = 4 << 20;

/// The CPU that computes gradients.
type Cpu = Autodiff<Flex>;

/// `Conv2d::forward`.
pub(crate) fn convolve(conv: &Conv2d, x: Tensor<4>) -> Tensor<4> {
    let padding = match conv.padding {
        PaddingConfig2d::Explicit(top, left, bottom, right) if (top, left) == (bottom, right) => Some([top, left]),
        PaddingConfig2d::Valid => Some([0, 0]),
        _ => None,
    };
    let Some(padding) = padding.filter(|_| conv.groups == 1) else { return conv.forward(x) };
    let options = ConvOptions::new(conv.stride, padding, conv.dilation, 1);
    let bias = conv.bias.as_ref().map(|bias| bias.val());
    convolution(x, conv.weight.val(), bias, options)
}

/// burn's `conv2d` of one group.
pub(crate) fn convolution(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    options: ConvOptions<2>,
) -> Tensor<4> {
    let single = x.dtype() == DType::F32 && weight.dtype() == DType::F32;
    if single && x.device().is_autodiff() {
        let parts = (x.clone().try_into_primitive::<Cpu>(), weight.clone().try_into_primitive::<Cpu>());
        if let (Ok(x), Ok(weight)) = parts {
            let out = Tensor::<4>::from_primitive::<Cpu>(tracked(x, weight, options));
            return match bias {
                Some(bias) => out + bias.reshape([1, -1, 1, 1]),
                None => out,
            };
        }
    }
    conv2d(x, weight, bias, options)
}

fn tracked(x: FloatTensor<Cpu>, weight: FloatTensor<Cpu>, options: ConvOptions<2>) -> FloatTensor<Cpu> {
    let nodes = [x.node(), weight.node()];
    match Convolution.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prepared) => {
            let state = (prepared.checkpoint(&x), prepared.checkpoint(&weight), options.clone());
            prepared.finish(state, Flex::conv2d(x.into_primitive(), weight.into_primitive(), None, options))
        }
        OpsKind::UnTracked(prepared) => {
            prepared.finish(Flex::conv2d(x.into_primitive(), weight.into_primitive(), None, options))
        }
    }
}

#[derive(Debug)]
struct Convolution;

impl Backward<Flex, 2> for Convolution {
    type State = (NodeId, NodeId, ConvOptions<2>);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, checkpointer: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let (x, weight, options) = ops.state;
        let x: FlexTensor = checkpointer.retrieve_node_output(x);
        let weight: FlexTensor = checkpointer.retrieve_node_output(weight);
        let [of_x, of_weight] = ops.parents;
        let [.., rows, columns] = weight.layout().shape().dims::<4>();
        if let Some(node) = of_weight {
            let own = weight_gradient(&x, &gradient, [rows, columns], &options);
            gradients.register::<Flex>(node.id, own);
        }
        if let Some(node) = of_x {
            gradients.register::<Flex>(node.id, Flex::conv2d_x_backward(x, weight, gradient, options));
        }
    }
}

/// The gradient of a weight whose kernel has these rows and columns.
fn weight_gradient(x: &FlexTensor, gradient: &FlexTensor, kernel: [usize; 2], options: &ConvOptions<2>) -> FlexTensor {
    let (x, gradient) = (x.to_contiguous(), gradient.to_contiguous());
    let [batch, from, height, width] = x.layout().shape().dims::<4>();
    let [_, to, rows, columns] = gradient.layout().shape().dims::<4>();
    let (places, pixels) = (kernel[0] * kernel[1], batch * rows * columns);
    let image = Image {
        values: x.storage(),
        shape: [batch, from, height, width],
        seen: [rows, columns],
        stride: options.stride,
        padding: options.padding_begin(),
        dilation: options.dilation,
    };
    let gradient = FlexTensor::from_data(TensorData::new(
        channels_first(gradient.storage(), [batch, to, rows * columns]),
        [to, pixels],
    ));
    let at_once = (MOST_VALUES / (from * pixels).max(1)).clamp(1, places);
    let mut sums = vec![0.0; to * from * places];
    for first in (0..places).step_by(at_once) {
        let count = at_once.min(places - first);
        let mut moved = vec![0.0; count * from * pixels];
        moved.par_chunks_mut(pixels.max(1)).enumerate().for_each(|(plane, values)| {
            let place = first + plane / from;
            image.moved(plane % from, [place / kernel[1], place % kernel[1]], values);
        });
        let moved = FlexTensor::from_data(TensorData::new(moved, [count * from, pixels]));
        let product = Flex::float_matmul(gradient.clone(), moved.transpose(0, 1));
        let product: &[f32] = product.storage();
        for (own, product) in sums.chunks_exact_mut(from * places).zip(product.chunks_exact(count * from)) {
            for (plane, value) in product.iter().enumerate() {
                own[plane % from * places + first + plane / from] = *value;
            }
        }
    }
    FlexTensor::from_data(TensorData::new(sums, [to, from, kernel[0], kernel[1]]))
}

/// `[batch, channels, pixels]` as `[channels, batch, pixels]`.
fn channels_first(values: &[f32], [batch, channels, pixels]: [usize; 3]) -> Vec<f32> {
    let mut all = Vec::with_capacity(values.len());
    for channel in 0..channels {
        for image in 0..batch {
            all.extend_from_slice(&values[(image * channels + channel) * pixels..][..pixels]);
        }
    }
    all
}

/// What a kernel runs over.
struct Image<'a> {
    values: &'a [f32],
    /// Batch, channels, rows, columns.
    shape: [usize; 4],
    /// Rows and columns of the output.
    seen: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

impl Image<'_> {
    /// What a place of the kernel sees of a channel of every image of the batch. `values` are zeros, and stay so where that is padding.
    fn moved(&self, channel: usize, place: [usize; 2], values: &mut [f32]) {
        let ([_, channels, height, width], [rows, columns]) = (self.shape, self.seen);
        let sources = self.values.chunks_exact(height * width).skip(channel).step_by(channels);
        let [down, across] = [0, 1].map(|axis| Steps::new(self, axis, place[axis]));
        if across.inside.is_empty() {
            return;
        }
        for (source, values) in sources.zip(values.chunks_exact_mut(rows * columns)) {
            for row in down.inside.clone() {
                let source = &source[down.at(row) * width..][..width];
                let values = &mut values[row * columns..][..columns];
                let (inside, from) = (across.inside.clone(), across.at(across.inside.start));
                if across.stride == 1 {
                    let count = inside.len();
                    values[inside].copy_from_slice(&source[from..from + count]);
                } else {
                    for (value, source) in values[inside].iter_mut().zip(source[from..].iter().step_by(across.stride)) {
                        *value = *source;
                    }
                }
            }
        }
    }
}

/// Which steps along an axis a place of the kernel makes within the image.
struct Steps {
    inside: std::ops::Range<usize>,
    stride: usize,
    ahead: usize,
    padding: usize,
}

impl Steps {
    fn new(image: &Image<'_>, axis: usize, place: usize) -> Self {
        let (stride, padding) = (image.stride[axis], image.padding[axis]);
        let ahead = place * image.dilation[axis];
        let start = padding.saturating_sub(ahead).div_ceil(stride);
        let end = (image.shape[2 + axis] + padding).saturating_sub(ahead).div_ceil(stride).min(image.seen[axis]);
        Self { inside: start.min(end)..end, stride, ahead, padding }
    }

    /// Where in the image a step is that lies within it.
    fn at(&self, step: usize) -> usize {
        (step * self.stride + self.ahead).saturating_sub(self.padding)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn gradients_are_those_of_burns_own_convolution() {
        let device = Device::flex().autodiff();
        // Not burn's numbers, which all tests of the process share.
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        let mut random = |shape: [usize; 4]| {
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
            Tensor::<4>::from_data(TensorData::new(values, shape), &device)
        };
        for (x, kernel, stride, padding, dilation) in [
            ([2, 3, 9, 8], [3, 3], [1, 1], [1, 1], [1, 1]),
            ([2, 3, 9, 8], [7, 7], [2, 2], [3, 3], [1, 1]),
            ([1, 4, 6, 6], [1, 1], [2, 2], [0, 0], [1, 1]),
            ([3, 2, 5, 7], [3, 3], [1, 1], [4, 4], [4, 4]),
            ([2, 2, 8, 8], [2, 2], [2, 2], [0, 0], [1, 1]),
            ([2, 2, 4, 4], [3, 2], [1, 3], [1, 0], [2, 1]),
            ([2, 2, 1, 1], [3, 3], [1, 1], [6, 6], [6, 6]),
        ] {
            let options = ConvOptions::new(stride, padding, dilation, 1);
            let (image, weight) = (random(x).require_grad(), random([5, x[1], kernel[0], kernel[1]]).require_grad());
            let bias = random([1, 1, 1, 5]).reshape([5]).require_grad();
            let learn = |out: Tensor<4>, slopes: &Tensor<4>| {
                let gradients = (out.clone() * slopes.clone()).sum().backward();
                let of = |gradient: Option<Tensor<4>>| gradient.expect("a gradient").into_data();
                let of_bias = bias.grad(&gradients).expect("a gradient").into_data();
                [out.into_data(), of(image.grad(&gradients)), of(weight.grad(&gradients)), of_bias]
            };
            let theirs = conv2d(image.clone(), weight.clone(), Some(bias.clone()), options.clone());
            let slopes = random(theirs.dims());
            let theirs = learn(theirs, &slopes);
            let ours = learn(convolution(image.clone(), weight.clone(), Some(bias.clone()), options.clone()), &slopes);
            for (ours, theirs) in ours.iter().zip(&theirs) {
                assert_eq!(ours.shape(), theirs.shape());
                let pairs = ours.iter::<f32>().zip(theirs.iter::<f32>());
                let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(off < 1e-4, "{off} with {options:?}");
            }
        }
    }

    #[test]
    fn a_frozen_weight_costs_no_gradient_and_lets_the_images_through() {
        let device = Device::flex().autodiff();
        let (x, weight) =
            (Tensor::<4>::ones([1, 2, 4, 4], &device).require_grad(), Tensor::ones([3, 2, 3, 3], &device));
        let options = ConvOptions::new([1, 1], [1, 1], [1, 1], 1);
        let gradients = convolution(x.clone(), weight.clone(), None, options).sum().backward();
        assert!(weight.grad(&gradients).is_none());
        assert_eq!(x.grad(&gradients).expect("a gradient").max().into_scalar::<f32>(), 27.0);
    }
}
