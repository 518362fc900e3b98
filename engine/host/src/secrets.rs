//! Where the values of secrets come from. A secret has the name of an environment variable, and its value is what that
//! holds, or what is in the file that `NAME_FILE` names, or what the command in `NAME_COMMAND` prints: flows and plans know
//! the name alone, and each process that runs them looks for itself.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest value of a secret, bytes.
const LONGEST: u64 = 64 << 10;
/// How long a command may take to print one.
const PATIENCE: Duration = Duration::from_secs(10);

/// A secret that has no value here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSecret {
    /// None of the three variables is set.
    #[error("the environment variable `{0}` is not set, nor `{0}_FILE` or `{0}_COMMAND`")]
    Unset(String),
    /// The file or the command that was named gives none.
    #[error("`{variable}` gives no secret: {why}")]
    Failed {
        /// Which of the variables.
        variable: String,
        /// Why, without any value.
        why: String,
    },
}

/// The value of the secret `name`, without the end of line after it. Blocks, for ten seconds at most.
pub fn secret(name: &str) -> Result<String, NoSecret> {
    if let Ok(value) = std::env::var(name) {
        return Ok(value);
    }
    type Source = fn(&str) -> Result<Vec<u8>, String>;
    let sources: [(&str, Source); 2] = [("FILE", from_file), ("COMMAND", from_command)];
    for (kind, read) in sources {
        let variable = format!("{name}_{kind}");
        let Ok(source) = std::env::var(&variable) else { continue };
        let failed = |why: String| NoSecret::Failed { variable: variable.clone(), why };
        let bytes = read(&source).map_err(failed)?;
        let text = String::from_utf8(bytes).map_err(|_| failed("it is no text".to_owned()))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        return match text {
            "" => Err(failed("it is empty".to_owned())),
            text => Ok(text.to_owned()),
        };
    }
    Err(NoSecret::Unset(name.to_owned()))
}

fn from_file(path: &str) -> Result<Vec<u8>, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("`{path}`: {error}"))?;
    bounded(file)
}

fn from_command(command: &str) -> Result<Vec<u8>, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut command =
        Command::new("sh").args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    let output = command.stdout.take().map(|output| std::thread::spawn(move || bounded(output)));
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match command.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if Instant::now() > until => {
                // It may have ended this very moment.
                let _ = command.kill();
                let _ = command.wait();
                return Err(format!("the command took longer than {} s", PATIENCE.as_secs()));
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if !status.success() {
        return Err(format!("the command ended with {status}"));
    }
    output.and_then(|output| output.join().ok()).unwrap_or_else(|| Err("the command cannot be read".to_owned()))
}

fn bounded(from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(LONGEST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > LONGEST {
        return Err(format!("it is longer than {} KiB", LONGEST >> 10));
    }
    Ok(bytes)
}
