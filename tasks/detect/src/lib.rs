//! detect.polygons: probabilities to detections.
