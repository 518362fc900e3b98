//! How a program ended, and whether it left what it was to make.

use std::ffi::OsStr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use swath_task::{Fault, TaskError};

use crate::output::Tail;

/// What its end means. `scratch` is where it could write.
pub fn judge(
    program: &str,
    status: ExitStatus,
    scratch: &Path,
    ok_codes: &[i32],
    transient_codes: &[i32],
    tail: &Tail,
) -> Result<(), TaskError> {
    let said = tail.text().map_or_else(String::new, |text| format!(", its last lines:\n{text}"));
    if let Some(code) = status.code() {
        if ok_codes.contains(&code) {
            return Ok(());
        }
        let fault = Fault::new("C103", format!("`{program}` ended with exit code {code}{said}"));
        let fault = with_full_disk(fault, scratch);
        return Err(if transient_codes.contains(&code) { fault.transient(None) } else { fault.permanent() });
    }
    let signal = status.signal().unwrap_or_default();
    let name = signal_name(signal);
    let fault = Fault::new("C104", format!("`{program}` was ended by signal {signal} ({name}){said}"));
    let fault = with_full_disk(fault, scratch);
    // KILL and TERM come from outside (out of memory, an operator); the others are the program's own failure.
    Err(match signal {
        9 => fault.help("often the machine was out of memory: give the step `needs: { memory: ... }`").transient(None),
        15 => fault.transient(None),
        _ => fault.permanent(),
    })
}

/// Programs that meet a full disk rarely say which one it is.
fn with_full_disk(fault: Fault, scratch: &Path) -> Fault {
    // What a program could not write may still be less than there is.
    const LITTLE: u64 = 64 << 10;
    let is_full = rustix::fs::statvfs(scratch).is_ok_and(|disk| {
        let no_files = disk.f_files > 0 && disk.f_favail == 0;
        no_files || disk.f_bavail.saturating_mul(disk.f_frsize) < LITTLE
    });
    match is_full {
        true => fault.help(format!("the disk of `{}` is full: free space, then `swath resume RUN`", scratch.display())),
        false => fault,
    }
}

/// Moves what the program left in its working folder to where the store expects it.
pub fn take_over(program: &str, output: &str, from: &Path, to: &Path) -> Result<(), TaskError> {
    if std::fs::symlink_metadata(from).is_err() {
        return Err(missing(program, output, from, None));
    }
    std::fs::rename(from, to).map_err(|error| {
        let message = format!("the output `{output}` at `{}` cannot be taken over: {error}", from.display());
        Fault::new("C106", message)
            .help("let the working folder be the default one, on the disk of the store")
            .permanent()
    })
}

/// An output is a file or a folder that is there. C105: it is missing. C106: it is something else.
pub fn present(program: &str, output: &str, path: &Path, tail: &Tail) -> Result<(), TaskError> {
    match std::fs::symlink_metadata(path) {
        Err(_) => Err(missing(program, output, path, tail.text())),
        Ok(metadata) if metadata.is_file() || metadata.is_dir() => Ok(()),
        Ok(_) => {
            let message = format!("`{program}` left neither a file nor a folder as the output `{output}`");
            Err(Fault::new("C106", message).help("a link or a device cannot be stored: copy the content").permanent())
        }
    }
}

fn missing(program: &str, output: &str, path: &Path, said: Option<String>) -> TaskError {
    let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
    let said = said.map_or_else(String::new, |text| format!("; its last lines:\n{text}"));
    Fault::new("C105", format!("`{program}` ended well but did not write the output `{output}` (`{name}`){said}"))
        .help("check that the program writes to the path it is given")
        .permanent()
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => "hang-up",
        2 => "interrupt",
        4 => "illegal instruction",
        6 => "abort",
        7 => "bus error",
        8 => "arithmetic error",
        9 => "kill",
        11 => "segmentation fault",
        13 => "broken pipe",
        15 => "terminate",
        24 => "CPU time limit",
        25 => "file size limit",
        _ => "a signal",
    }
}
