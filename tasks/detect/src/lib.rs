//! detect.polygons: probabilities to detections.

mod globe;
mod merge;
mod rings;
mod runs;
mod trace;
