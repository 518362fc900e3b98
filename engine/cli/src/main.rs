//! The `swath` command with the built-in tasks.

fn main() -> std::process::ExitCode {
    swath::main(swath::builtin())
}
