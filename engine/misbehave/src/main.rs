//! The `swath` command with tasks that do to their process what native code can do to it.
#![expect(unsafe_code, reason = "a task that crashes its process is what this is for")]

use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_task::{Bytes, Context, Fault, LocalPath, Needs, NoInputs, Purity, Task, TaskDef, TaskError};

fn main() -> ExitCode {
    swath::main(&[swath::builtin(), TASKS].concat())
}

const TASKS: &[&[TaskDef]] = &[&[TaskDef::of::<Harm>()]];

/// Does harm to its process.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Harm {
    /// What it does.
    does: Does,
    /// A file to which each attempt adds a line: its process id.
    ledger: LocalPath,
    /// The first so many attempts do it, later ones do nothing; left out, all do it.
    times: Option<usize>,
    /// Name of a secret.
    token: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Does {
    /// Nothing.
    Nothing,
    /// Writes to memory that is not its own.
    Segfault,
    /// Gives up as a failed assertion of C does.
    Abort,
    /// Ends its process.
    Exit,
    /// Panics.
    Panic,
    /// Takes memory without end.
    Allocate,
    /// Works without end, deaf to everything.
    Spin,
    /// Starts a program that does not end, and then works without end.
    Breed,
    /// Sleeps for half a second.
    Pause,
    /// Waits until it is told to stop, and leaves a mark then.
    Wait,
    /// Prints as native code does, and logs.
    Print,
}

#[derive(Serialize, JsonSchema)]
struct Done {
    /// The process it ran in.
    process: u32,
    /// Length of the secret.
    secret: usize,
}

impl Task for Harm {
    const NAME: &'static str = "harm.do";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Effect;
    const NATIVE: bool = true;
    type Inputs = NoInputs;
    type Outputs = Done;

    fn needs(&self) -> Needs {
        Needs::new(0.0, Bytes::mib(16))
    }

    async fn run(&self, _: NoInputs, ctx: &Context) -> Result<Done, TaskError> {
        let process = std::process::id();
        let before = std::fs::read_to_string(&self.ledger.0).unwrap_or_default().lines().count();
        let ledger = std::fs::File::options().create(true).append(true).open(&self.ledger.0);
        ledger
            .and_then(|mut ledger| writeln!(ledger, "{process}"))
            .map_err(|error| Fault::new("T101", error.to_string()))?;
        let secret = self.token.as_ref().and_then(|name| ctx.secret(name)).map_or(0, |secret| secret.len());
        if self.times.is_some_and(|times| before >= times) {
            return Ok(Done { process, secret });
        }
        let (does, ledger) = (self.does, self.ledger.clone());
        if does == Does::Wait {
            ctx.cancelled().await;
            std::fs::write(ledger.0.with_extension("told"), "")
                .map_err(|error| Fault::new("T101", error.to_string()))?;
            return Err(TaskError::Cancelled);
        }
        ctx.blocking(move |_| {
            do_harm(does, &ledger);
            Ok(())
        })
        .await?;
        Ok(Done { process, secret })
    }
}

fn do_harm(does: Does, ledger: &LocalPath) {
    match does {
        Does::Nothing | Does::Wait => {}
        // SAFETY: none; that is the point.
        Does::Segfault => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) },
        Does::Abort => std::process::abort(),
        Does::Exit => std::process::exit(3),
        Does::Panic => panic!("a task that panics"),
        Does::Allocate => {
            let mut hoard = Vec::new();
            loop {
                // Written, so that it is there and not only promised.
                hoard.push(vec![1_u8; 8 << 20]);
                std::thread::sleep(Duration::from_millis(1));
                std::hint::black_box(&hoard);
            }
        }
        Does::Pause => std::thread::sleep(Duration::from_millis(500)),
        Does::Spin => spin(),
        Does::Breed => {
            let child = Command::new("sleep").arg("300").spawn();
            let bred = child.map(|child| std::fs::write(ledger.0.with_extension("bred"), child.id().to_string()));
            bred.and_then(|written| written).expect("`sleep` starts");
            spin();
        }
        Does::Print => {
            println!("printed by Rust");
            // SAFETY: a text with its end. Without a line's end, as a library prints whose buffer is never full.
            unsafe {
                libc::printf(c"printed by C".as_ptr());
            }
            eprintln!("complained");
            tracing::warn!(target: "harm::inner", tiles = 7, "logged");
        }
    }
}

fn spin() {
    loop {
        std::hint::spin_loop();
    }
}
