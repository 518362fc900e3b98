//! Networks, weights and losses, held against PyTorch.

mod pytorch;
mod support;
mod weights;
