//! What the steps of simulated runs do: they take their time, fail, panic and hang as the seed has it.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_task::{Context, Fault, NoInputs, Purity, Task, TaskError};

use crate::world::World;

thread_local! {
    /// The world of this thread: all of a world happens in one.
    pub static WORLD: RefCell<Option<Arc<Mutex<World>>>> = const { RefCell::new(None) };
}

/// Works as the world has it.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// It changes nothing in the world, and may start ahead of its claim.
    #[serde(default)]
    pure: bool,
}

#[derive(Serialize, JsonSchema)]
pub struct Worked {}

enum End {
    Good,
    Transient,
    Permanent,
    Panic,
    Never,
}

impl Task for Work {
    const NAME: &'static str = "sim.work";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Effect;
    type Inputs = NoInputs;
    type Outputs = Worked;

    fn purity(&self) -> Purity {
        if self.pure { Purity::Pure } else { Purity::Effect }
    }

    async fn run(&self, _: NoInputs, ctx: &Context) -> Result<Worked, TaskError> {
        let (takes, end) = begin(ctx.idempotency_key(), self.pure);
        let takes = Duration::from_millis(takes);
        tokio::select! {
            biased;
            () = ctx.cancelled() => return Err(TaskError::Cancelled),
            () = tokio::time::sleep(takes) => {}
        }
        match end {
            End::Good => Ok(Worked {}),
            End::Transient => Err(Fault::new("T100", "it may pass").transient(None)),
            End::Permanent => Err(Fault::new("T101", "it stays").permanent()),
            // Without the hook that would print it.
            End::Panic => std::panic::resume_unwind(Box::new("a defect in a task")),
            End::Never => {
                ctx.cancelled().await;
                Err(TaskError::Cancelled)
            }
        }
    }
}

/// How long an attempt takes, and how it ends.
fn begin(key: &str, pure: bool) -> (u64, End) {
    let world = WORLD.with_borrow(Clone::clone).expect("a world");
    let world = &mut *world.lock().unwrap_or_else(PoisonError::into_inner);
    world.note(format_args!("an attempt of {key} begins"));
    let verdict = world.audit.begins(key, pure);
    world.judge(verdict);
    let end = match world.rng.random_range(0..100) {
        _ if world.malice == 0.0 => End::Good,
        0..8 => End::Transient,
        8..12 => End::Permanent,
        12..14 => End::Panic,
        14..20 => End::Never,
        _ => End::Good,
    };
    (world.rng.random_range(0..6_000), end)
}
