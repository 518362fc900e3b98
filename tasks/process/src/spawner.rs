//! Starts programs that do not outlive this process, however it ends.
//!
//! Linux ends a child when the thread that started it ends, if the child has asked for that. So all of them are started by
//! one thread, which ends with the process only. What the child itself has started is not reached this way: that is for
//! its group, when there is somebody left to signal it.
#![expect(unsafe_code, reason = "what a child does between fork and exec")]

use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Wanted {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command`, killed when this process ends. Within a runtime.
pub(crate) async fn spawn(mut command: Command) -> io::Result<Child> {
    refuse_plain_text(Path::new(command.as_std().get_program()))?;
    static SPAWNER: OnceLock<Sender<Wanted>> = OnceLock::new();
    let parent = getpid();
    // SAFETY: two system calls between fork and exec, which allocate nothing and take no lock.
    unsafe {
        command.pre_exec(move || die_with(parent));
    }
    let (reply, answer) = oneshot::channel();
    let wanted = Wanted { command, runtime: Handle::current(), reply };
    let gone = || io::Error::other("the thread that starts programs has ended");
    let spawner = match SPAWNER.get() {
        Some(spawner) => spawner,
        None => {
            let (sender, wishes) = channel::<Wanted>();
            std::thread::Builder::new().name("swath-spawner".to_owned()).spawn(move || {
                for Wanted { mut command, runtime, reply } in wishes {
                    let _inside = runtime.enter();
                    // A panic must not end the thread, and with it every program.
                    let spawned = catch_unwind(AssertUnwindSafe(|| command.spawn()));
                    let spawned = spawned.unwrap_or_else(|_| Err(io::Error::other("starting it panicked")));
                    // Dropped when nobody waits any more: the child is killed then.
                    let _ = reply.send(spawned);
                }
            })?;
            SPAWNER.get_or_init(|| sender)
        }
    };
    spawner.send(wanted).map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// What the kernel does not take for a program, the C library would hand to a shell after a fork.
fn refuse_plain_text(program: &Path) -> io::Result<()> {
    if program.components().count() < 2 {
        return Ok(());
    }
    let mut head = [0; 256];
    let Ok(read) = std::fs::File::open(program).and_then(|mut file| file.read(&mut head)) else { return Ok(()) };
    let head = &head[..read];
    match head.starts_with(b"#!") || head.contains(&0) {
        true => Ok(()),
        false => Err(rustix::io::Errno::NOEXEC.into()),
    }
}

fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before this was asked for.
    match getppid() == Some(parent) {
        true => Ok(()),
        false => Err(io::ErrorKind::BrokenPipe.into()),
    }
}
