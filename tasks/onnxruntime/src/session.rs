//! Sessions of ONNX Runtime.

use ort::logging::LogLevel;
use ort::session::{Session, builder::GraphOptimizationLevel, builder::SessionBuilder};
use swath_task::Fault;

use crate::device::Device;
use crate::library::environment;

/// Loads a network that [`inspect`](crate::inspect) let through. `place` is where it lies, for messages. `X101` or `X102`
/// when there is no ONNX Runtime to load it into, `M107` when that refuses it.
pub fn open(network: &[u8], place: &str, threads: usize) -> Result<Session, Fault> {
    open_on(network, place, threads, Device::Cpu)
}

/// The same on a device. `M128` when that cannot be had.
pub fn open_on(network: &[u8], place: &str, threads: usize, device: Device) -> Result<Session, Fault> {
    let environment = environment()?;
    let refused = |reason: &str| {
        let message = format!("ONNX Runtime refuses the network `{place}`: {reason}");
        Fault::new("M107", message)
            .help("export it with standard operators and an operator set that this ONNX Runtime knows")
    };
    let builder = Session::builder(environment).map_err(|error| refused(error.message()))?;
    let builder = configure(builder, threads).map_err(|reason| refused(&reason))?;
    let builder = builder.with_execution_providers(device.providers()?);
    let mut builder = builder.map_err(|error| device.refused(error.message()))?;
    builder.commit_from_memory(network).map_err(|error| refused(error.message()))
}

fn configure(builder: SessionBuilder, threads: usize) -> Result<SessionBuilder, String> {
    fn text(error: ort::Error<SessionBuilder>) -> String {
        error.message().to_owned()
    }
    let builder = builder.with_intra_threads(threads).map_err(text)?;
    let builder = builder.with_inter_threads(1).map_err(text)?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(text)?;
    // Reading and writing run beside the network on the same cores: threads that wait must not burn them.
    let builder = builder.with_intra_op_spinning(false).map_err(text)?;
    let builder = builder.with_log_level(LogLevel::Warning).map_err(text)?;
    builder.with_config_entry("session.load_model_format", "ONNX").map_err(text)
}
