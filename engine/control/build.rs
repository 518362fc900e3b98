//! Generates the messages and services of `proto/`, without protoc.

use std::error::Error;
use std::path::PathBuf;

const FILES: [&str; 7] = [
    "swath/v1/artifact_service.proto",
    "swath/v1/deployment_service.proto",
    "swath/v1/flow_service.proto",
    "swath/v1/run_service.proto",
    "swath/v1/system_service.proto",
    "swath/v1/task_service.proto",
    "swath/v1/worker_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("swath.bin"), prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
