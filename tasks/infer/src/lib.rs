//! infer.segment: ONNX models over rasters of any size.
