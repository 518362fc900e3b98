//! What a worker's process writes to its standard output and standard error (native libraries do): lines of the attempt.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe::Receiver;

/// Longest line kept, most lines of an attempt a stream, and how many of the last are told when the process dies.
const LONGEST_LINE: usize = 4096;
const MOST_LINES: u64 = 20_000;
const LAST_LINES: usize = 5;

/// One of the two streams.
pub(crate) struct Stream {
    name: &'static str,
    pipe: Receiver,
    line: Vec<u8>,
    lines: u64,
    last: VecDeque<String>,
    ended: bool,
}

impl Stream {
    /// What comes out of `pipe`.
    pub fn new(name: &'static str, pipe: OwnedFd) -> io::Result<Self> {
        let pipe = Receiver::from_owned_fd(pipe)?;
        Ok(Self { name, pipe, line: Vec::new(), lines: 0, last: VecDeque::new(), ended: false })
    }

    /// Waits until there is something to [`Stream::drain`]; for ever after its end. May be dropped and asked again.
    pub async fn ready(&self) {
        if self.ended || self.pipe.readable().await.is_err() {
            std::future::pending().await
        }
    }

    /// Tells what is there inside the current span: as much as a pipe holds, so that one who never ends keeps nobody.
    pub fn drain(&mut self) {
        let mut buffer = [0; 8192];
        for _ in 0..16 {
            match self.pipe.try_read(&mut buffer) {
                Ok(0) => return self.ended = true,
                Ok(read) => self.take(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.ended = error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Ends an attempt: what came since the last line's end is a line. Returns its last lines.
    pub fn finish(&mut self) -> Vec<String> {
        self.drain();
        self.tell();
        if self.lines > MOST_LINES {
            tracing::warn!(stream = self.name, "{} more lines were not logged", self.lines - MOST_LINES);
        }
        self.lines = 0;
        std::mem::take(&mut self.last).into()
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            // A carriage return redraws a progress bar: each drawing is a line.
            if matches!(byte, b'\n' | b'\r') {
                self.tell();
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(byte);
            }
        }
    }

    fn tell(&mut self) {
        let text = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        self.line.clear();
        if text.is_empty() {
            return;
        }
        self.lines += 1;
        if self.lines <= MOST_LINES {
            tracing::info!(stream = self.name, "{text}");
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text);
    }
}
