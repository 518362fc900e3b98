//! run.command: any program as a step.
