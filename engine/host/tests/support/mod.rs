//! A task that lists are lifted over, for the tests and the benchmark of the loop.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_task::{Context, NoInputs, Purity, Task, TaskError};

/// Gives the numbers below `to`.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// How many.
    to: u32,
}

#[derive(Serialize, JsonSchema)]
pub struct Counted {
    /// From 0.
    values: Vec<u32>,
}

impl Task for Count {
    const NAME: &'static str = "toy.count";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Volatile;
    type Inputs = NoInputs;
    type Outputs = Counted;

    async fn run(&self, _: NoInputs, _: &Context) -> Result<Counted, TaskError> {
        Ok(Counted { values: (0..self.to).collect() })
    }
}
