//! Parts of a remote file: each is what was asked for, of one and the same version of the file, or an error.
//!
//! A reply is taken only when it is `206`, its `Content-Range` is the range that was asked for, its body is as long as
//! that, and size, entity tag and time of modification are those of the first reply. A part of nothing but zeros is
//! asked for again: servers and proxies have been seen to fill up what they could not read.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use lru::LruCache;
use reqwest::StatusCode;
use reqwest::header::{self, HeaderMap};
use swath_task::{Bytes, Fault, TaskError};

use crate::client::{Client, Limits, Request};
use crate::failure::status_error;
use crate::redact;
use crate::version::FileVersion;

/// What is fetched and kept at once: the directory of most COGs.
const CHUNK: u64 = 64 << 10;
/// Chunks kept, of all files of the process: 16 MiB.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Chunks in a row that one request asks for, at most: 4 MiB.
const RUN: u64 = 64;
/// Requests under way at a time for one reader.
const AT_ONCE: usize = 8;

type Chunks = LruCache<(u64, u64), Arc<[u8]>>;
static CACHE: LazyLock<Mutex<Chunks>> = LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));

fn cache() -> MutexGuard<'static, Chunks> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file behind HTTP, read by ranges.
#[derive(Clone, Debug)]
pub struct RemoteFile {
    client: Client,
    address: String,
    version: FileVersion,
    size: u64,
    /// The name of its chunks in the cache.
    id: u64,
}

impl RemoteFile {
    /// Reads the first bytes of the file at `address`, and from them its size and version.
    ///
    /// # Errors
    /// Those of any request. S116: the server does not serve parts of files. S118: the file is empty.
    pub async fn open(address: &str) -> Result<Self, TaskError> {
        let client = client()?;
        let (headers, bytes) = fetch(&client, address, 0, CHUNK - 1).await?;
        let version = FileVersion::told(&headers);
        let Some(size) = version.size() else {
            return Err(other_part(address, "does not tell how large the whole file is"));
        };
        check_range(address, &headers, (0, size.min(CHUNK)), bytes.len())?;
        let file = Self { client, address: address.to_owned(), version, size, id: next_id() };
        cache().put((file.id, 0), bytes.into());
        Ok(file)
    }

    /// The same version of the file by `address`, signed anew perhaps; nothing that was read before is trusted.
    pub fn anew(&self, address: &str) -> Self {
        Self { address: address.to_owned(), id: next_id(), ..self.clone() }
    }

    /// Where it is read, signature included.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills every buffer with the bytes from its offset.
    ///
    /// # Errors
    /// Those of any request. R114: the file is another one now. S117: what came is not what was asked for. An offset and
    /// buffer beyond [`RemoteFile::size`] are S117 as well.
    pub async fn read(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), TaskError> {
        let mut chunks: BTreeMap<u64, Option<Arc<[u8]>>> = BTreeMap::new();
        for (offset, buffer) in parts.iter().filter(|(_, buffer)| !buffer.is_empty()) {
            let end = offset.checked_add(buffer.len() as u64).filter(|end| *end <= self.size);
            let Some(end) = end else {
                return Err(other_part(&self.address, &format!("has {} bytes, and more were asked for", self.size)));
            };
            chunks.extend((offset / CHUNK..=(end - 1) / CHUNK).map(|chunk| (chunk, None)));
        }
        let mut missing = Vec::new();
        for (chunk, held) in &mut chunks {
            *held = cache().get(&(self.id, *chunk)).cloned();
            if held.is_none() {
                missing.push(*chunk);
            }
        }
        let fetched = stream::iter(runs(&missing)).map(|run| self.run(run)).buffer_unordered(AT_ONCE);
        let fetched: Vec<_> = fetched.try_collect().await?;
        for (chunk, bytes) in fetched.into_iter().flatten() {
            cache().put((self.id, chunk), bytes.clone());
            chunks.insert(chunk, Some(bytes));
        }
        for (offset, buffer) in parts {
            let mut filled = 0;
            while filled < buffer.len() {
                let at = *offset + filled as u64;
                let chunk = chunks.get(&(at / CHUNK)).and_then(Option::as_deref).unwrap_or_default();
                let from = chunk.get((at % CHUNK) as usize..).unwrap_or_default();
                if from.is_empty() {
                    return Err(other_part(&self.address, &format!("left out byte {at}")));
                }
                let length = from.len().min(buffer.len() - filled);
                buffer[filled..filled + length].copy_from_slice(&from[..length]);
                filled += length;
            }
        }
        Ok(())
    }

    /// Fetches `count` chunks from `first` on.
    async fn run(&self, (first, count): (u64, u64)) -> Result<Vec<(u64, Arc<[u8]>)>, TaskError> {
        let (from, end) = (first * CHUNK, ((first + count) * CHUNK).min(self.size));
        let mut bytes = self.part(from, end).await?;
        if bytes.iter().all(|byte| *byte == 0) {
            let again = self.part(from, end).await?;
            if again != bytes {
                let place = redact(&self.address);
                tracing::warn!("`{place}` answered bytes {from} to {} with zeros, and then with content", end - 1);
                bytes = again;
            }
        }
        let chunks = bytes.chunks(CHUNK as usize).zip(first..);
        Ok(chunks.map(|(bytes, chunk)| (chunk, Arc::from(bytes))).collect())
    }

    /// The bytes from `from` up to `end`, of the version that was opened.
    async fn part(&self, from: u64, end: u64) -> Result<Vec<u8>, TaskError> {
        let (headers, bytes) = fetch(&self.client, &self.address, from, end - 1).await?;
        if let Some(change) = self.version.change(&FileVersion::told(&headers)) {
            let message = format!("`{}` changed while it was read: {change}", redact(&self.address));
            return Err(Fault::new("R114", message)
                .help("run the search again, so that the list of scenes matches the files")
                .transient(None));
        }
        check_range(&self.address, &headers, (from, end), bytes.len())?;
        Ok(bytes)
    }
}

/// Rows of chunks without a gap: first and how many.
fn runs(chunks: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for chunk in chunks {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == *chunk && *count < RUN => *count += 1,
            _ => runs.push((*chunk, 1)),
        }
    }
    runs
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The client of all remote files: parts are small, so a server that takes long has failed.
fn client() -> Result<Client, TaskError> {
    static CLIENT: Mutex<Option<Client>> = Mutex::new(None);
    let mut held = CLIENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(client) = &*held {
        return Ok(client.clone());
    }
    let limits = Limits {
        connect: Duration::from_secs(10),
        first_byte: Duration::from_secs(30),
        idle: Duration::from_secs(20),
        total: Duration::from_secs(120),
        body: Bytes::mib(8),
        ..Limits::default()
    };
    Ok(held.insert(Client::new(limits)?).clone())
}

/// Asks for the bytes from `first` to `last`; S116 when anything but a part comes.
async fn fetch(client: &Client, address: &str, first: u64, last: u64) -> Result<(HeaderMap, Vec<u8>), TaskError> {
    let request = Request::get(address)?
        .header(header::RANGE.as_str(), &format!("bytes={first}-{last}"))?
        // Offsets are those of the file, not of a compressed copy.
        .header(header::ACCEPT_ENCODING.as_str(), "identity")?;
    let answer = client.answer(request, StatusCode::PARTIAL_CONTENT).await?;
    let (status, headers) = (answer.status, answer.headers);
    if status == StatusCode::PARTIAL_CONTENT {
        return Ok((headers, answer.bytes));
    }
    let place = redact(address);
    if status == StatusCode::RANGE_NOT_SATISFIABLE && first == 0 {
        return Err(Fault::new("S118", format!("`{place}` is empty"))
            .help("fetch or write the file again")
            .permanent());
    }
    if !status.is_success() {
        return Err(status_error(status, &headers, address, &String::from_utf8_lossy(&answer.bytes)));
    }
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media_type.contains("html") {
        return Err(Fault::new("S110", format!("`{place}` answered {status} with a web page, not with the file"))
            .help("check the address: this is often a log-in or error page of a proxy")
            .permanent());
    }
    Err(Fault::new("S116", format!("`{place}` answered {status} with a whole file when a part of it was asked for"))
        .help("the server must serve ranges (`206 Partial Content`), as object stores do; or fetch the file first")
        .permanent())
}

/// That a reply holds the bytes from `from` up to `end`, and all of them.
fn check_range(address: &str, headers: &HeaderMap, (from, end): (u64, u64), length: usize) -> Result<(), TaskError> {
    let asked = format!("bytes {from} to {}", end - 1);
    let told = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let range = told.trim().strip_prefix("bytes ").and_then(|range| range.split('/').next()?.split_once('-'));
    let range = range.and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse::<u64>().ok()?)));
    match range {
        Some((first, last)) if (first, last.checked_add(1)) == (from, Some(end)) => {}
        _ if told.is_empty() => return Err(other_part(address, &format!("does not tell whether it sent {asked}"))),
        _ => return Err(other_part(address, &format!("sent `{told}` when {asked} were asked for"))),
    }
    if length as u64 != end - from {
        return Err(other_part(address, &format!("sent {length} bytes when {asked} were asked for")));
    }
    Ok(())
}

fn other_part(address: &str, what: &str) -> TaskError {
    Fault::new("S117", format!("`{}` {what}", redact(address)))
        .help("a server or a proxy on the way answers ranges wrongly: nothing of it is taken for pixels")
        .transient(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_in_a_row_are_asked_for_at_once_up_to_a_bound() {
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[3, 4, 5, 9, 11, 12]), [(3, 3), (9, 1), (11, 2)]);
        let many: Vec<u64> = (0..RUN + 2).collect();
        assert_eq!(runs(&many), [(0, RUN), (RUN, 2)]);
    }
}
