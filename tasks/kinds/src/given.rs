//! A model that a step takes as a folder or from a step before.

use std::path::PathBuf;

use swath_task::{Artifact, Context, Fault, LocalPath, TaskError};

use crate::Model;

impl Model {
    /// The folder of the model of a step of `task`, which is given as its parameter `model` or as its input `model`: one of
    /// them. `M114` otherwise.
    pub async fn given(
        task: &str,
        parameter: Option<&LocalPath>,
        input: Option<&Artifact<Self>>,
        ctx: &Context,
    ) -> Result<PathBuf, TaskError> {
        match (parameter, input) {
            (Some(path), None) => Ok(path.0.clone()),
            (None, Some(artifact)) => ctx.locate(artifact).await,
            (given, _) => {
                let what = if given.is_some() { "twice, as a parameter and as an input" } else { "nowhere" };
                Err(Fault::new("M114", format!("`{task}` is given its model {what}"))
                    .help("set `model` under `with` to a folder, or connect the input `model` under `in`")
                    .permanent())
            }
        }
    }
}
