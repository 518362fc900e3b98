//! Networks for Earth observation: PyTorch's architectures, names of weights and numbers, in burn.
//!
//! Knows nothing of rasters, flows or training. Modules in reading order: what a network is asked for (`network`), the
//! networks themselves, a file each, whose fields are named as in PyTorch so that names of weights need no table
//! (`unet`, `deeplab`, `dual`, `convnext`, and the encoder of the first three, `resnet`); weights to and from files
//! (`weights`), made for another number of channels (`inflate`), and where ImageNet's are to be had (`imagenet`); what
//! training makes small (`losses`); and a GPU to compute on (`gpu`). Convolutions are burn's, and learn on the CPU as `convolve` has it.
//!
//! Forward passes are made of what burn-onnx 0.22 exports with a batch of any size. One operation is missing there: the
//! `Gelu` of ConvNeXt, which [`ConvNext::forward_with`] lets an exporter put something else for.
//!
//! "Equal to PyTorch" is what `tests/nets` holds: for every network, the same weights and input give the same
//! output as `segmentation_models_pytorch` and `torchvision` within 1e-4.

mod network;

mod convnext;
mod deeplab;
mod dual;
mod resnet;
mod unet;

mod convolve;
mod layers;

mod imagenet;
mod inflate;
mod weights;

mod losses;

mod gpu;

mod error;

pub use convnext::{ConvNext, ConvNextConfig, ConvNextSize};
pub use deeplab::{DeepLab, DeepLabConfig};
pub use dual::{DualUnet, DualUnetConfig};
pub use error::{Error, Misfit, Reshaped};
pub use gpu::{NoGpu, gpu};
pub use imagenet::{ImageNet, torch_folders};
pub use inflate::inflate;
pub use losses::{Focal, cross_entropy, dice, focal_dice};
pub use network::{Model, Network, Output};
pub use resnet::{Encoder, ResNet, ResNetConfig};
pub use unet::{Unet, UnetConfig};
pub use weights::Weights;
