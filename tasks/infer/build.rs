//! Generates the messages and the client of `proto/`, without protoc.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["inference.proto"], ["proto"])?;
    // Tensors are taken out of what was received, and put into what is sent, without a copy of their own.
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(descriptors)?;
    Ok(())
}
