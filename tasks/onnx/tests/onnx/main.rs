//! `onnx.export` and `model.publish`: judged by Python's onnx and onnxruntime, and by those who look while it happens.

mod export;
mod publish;
mod register;
mod support;
