//! The `swath` command with one task family more.

fn main() -> std::process::ExitCode {
    swath::main(&[swath::builtin(), &[swath_hello::TASKS]].concat())
}
