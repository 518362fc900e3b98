//! Whom a training is told to: a tracking server or folder, or nobody.

use std::path::Path;

/// A run of an experiment.
///
/// # Contract
/// - Nothing here fails or blocks a training.
/// - After a kill the same run is gone on with, and an epoch that is told twice counts once.
pub(crate) trait Tracker: Send {
    /// The parameters.
    fn params(&mut self, params: &serde_json::Value);
    /// The figures of an epoch.
    fn metrics(&mut self, epoch: u32, figures: &[(&'static str, f64)]);
    /// A file or folder of results, under a name.
    fn artifact(&mut self, path: &Path, name: &str);
    /// The end; the address of the run for people, if it has one.
    fn finish(&mut self, completed: bool) -> Option<String>;
}

/// Tells the log alone.
pub(crate) struct Untracked;

impl Tracker for Untracked {
    fn params(&mut self, params: &serde_json::Value) {
        tracing::debug!(%params, "training begins");
    }
    fn metrics(&mut self, epoch: u32, figures: &[(&'static str, f64)]) {
        let figures: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        tracing::info!("epoch {epoch}: {}", figures.join(", "));
    }
    fn artifact(&mut self, path: &Path, name: &str) {
        tracing::debug!(path = %path.display(), name, "result");
    }
    fn finish(&mut self, completed: bool) -> Option<String> {
        tracing::debug!(completed, "training ends");
        None
    }
}
