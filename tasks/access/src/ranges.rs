//! Parts of a remote file: each is what was asked for, of one and the same version of the file, or an error.
//!
//! A reply is taken only when it is `206`, its `Content-Range` is the range that was asked for, its body is as long as
//! that, and size, entity tag and time of modification, as far as it tells them, are those of the first reply. Where
//! [`CHUNK`] bytes in a row are zeros they are asked for again: servers and proxies have been seen to fill up what they
//! could not read.

use std::collections::BTreeMap;
use std::fmt;
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
use crate::failure::{excerpt, status_error};
use crate::redact;
use crate::version::FileVersion;

/// What is fetched and kept at once: the directory of most COGs.
const CHUNK: u64 = 64 << 10;
/// Chunks kept, of all files of the process: 16 MiB.
const KEPT: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// Chunks in a row that one request asks for, at most: 4 MiB.
const RUN: u64 = 64;
/// Requests under way at a time for one read.
const AT_ONCE: usize = 8;

type Chunks = LruCache<(u64, u64), Arc<[u8]>>;
static CACHE: LazyLock<Mutex<Chunks>> = LazyLock::new(|| Mutex::new(LruCache::new(KEPT)));

fn cache() -> MutexGuard<'static, Chunks> {
    CACHE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file behind HTTP, read by ranges.
#[derive(Clone)]
pub struct RemoteFile {
    client: Client,
    address: String,
    version: FileVersion,
    size: u64,
    /// The name of its chunks in the cache.
    id: u64,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address may carry a signature.
        write!(f, "RemoteFile({}, {} bytes)", redact(&self.address), self.size)
    }
}

impl RemoteFile {
    /// Reads the first bytes of the file at `address`, and from them its size and version. `client`: see
    /// [`Client::for_ranges`].
    ///
    /// # Errors
    /// Those of any request. S116: the server does not serve parts of files. S118: the file is empty.
    pub async fn open(client: &Client, address: &str) -> Result<Self, TaskError> {
        let reply = fetch(client, address, 0, CHUNK - 1).await?;
        let place = || redact(address);
        let empty = || Fault::new("S118", format!("`{}` is empty", place())).help("write the file again").permanent();
        match reply.status {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(empty()),
            status => {
                let what = format!("`{}` answered {status} with a whole file when a part of it was asked for", place());
                return Err(Fault::new("S116", what).help(NO_RANGES).permanent());
            }
        }
        let version = FileVersion::told(&reply.headers);
        let size = match version.size() {
            Some(0) => return Err(empty()),
            Some(size) => size,
            None => {
                let what = format!("`{}` does not tell how large the whole file is", place());
                return Err(Fault::new("S116", what).help(NO_RANGES).permanent());
            }
        };
        reply.check(address, (0, size.min(CHUNK)))?;
        let file = Self { client: client.clone(), address: address.to_owned(), version, size, id: next_id() };
        cache().put((file.id, 0), reply.bytes.into());
        Ok(file)
    }

    /// The same version of the file by another address: one that is signed anew.
    pub fn at(&self, address: &str) -> Self {
        Self { address: address.to_owned(), ..self.clone() }
    }

    /// The same version of the file, with nothing of what was read before.
    pub fn anew(&self) -> Self {
        Self { id: next_id(), ..self.clone() }
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
        chunks.extend(fetched.into_iter().flatten().map(|(chunk, bytes)| (chunk, Some(bytes))));
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

    /// Fetches `count` chunks from `first` on, and keeps them.
    async fn run(&self, (first, count): (u64, u64)) -> Result<Vec<(u64, Arc<[u8]>)>, TaskError> {
        let (from, end) = (first * CHUNK, ((first + count) * CHUNK).min(self.size));
        let bytes = self.part(from, end).await?;
        let mut chunks: Vec<(u64, Arc<[u8]>)> = (first..).zip(bytes.chunks(CHUNK as usize).map(Arc::from)).collect();
        let empty = |chunk: &(u64, Arc<[u8]>)| chunk.1.iter().all(|byte| *byte == 0);
        let empty: Vec<u64> = chunks.iter().filter(|chunk| empty(chunk)).map(|(chunk, _)| *chunk).collect();
        for (start, count) in runs(&empty) {
            let (from, end) = (start * CHUNK, ((start + count) * CHUNK).min(self.size));
            let again = self.part(from, end).await?;
            if again.iter().any(|byte| *byte != 0) {
                let place = redact(&self.address);
                tracing::warn!("`{place}` answered bytes {from} to {} with zeros, and then with content", end - 1);
                for ((_, held), bytes) in
                    chunks[(start - first) as usize..].iter_mut().zip(again.chunks(CHUNK as usize))
                {
                    *held = bytes.into();
                }
            }
        }
        let mut cache = cache();
        for (chunk, bytes) in &chunks {
            cache.put((self.id, *chunk), bytes.clone());
        }
        Ok(chunks)
    }

    /// The bytes from `from` up to `end`, of the version that was opened.
    async fn part(&self, from: u64, end: u64) -> Result<Vec<u8>, TaskError> {
        let reply = fetch(&self.client, &self.address, from, end - 1).await?;
        match reply.status {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::RANGE_NOT_SATISFIABLE => return Err(self.changed("it has become shorter")),
            status => return Err(other_part(&self.address, &format!("answered {status} in place of a part"))),
        }
        if let Some(change) = self.version.change(&FileVersion::told(&reply.headers)) {
            return Err(self.changed(&change));
        }
        reply.check(&self.address, (from, end))?;
        Ok(reply.bytes)
    }

    fn changed(&self, change: &str) -> TaskError {
        Fault::new("R114", format!("`{}` changed while it was read: {change}", redact(&self.address)))
            .help("run the search again, so that the list of scenes matches the files")
            .transient(None)
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

impl Client {
    /// A client for [`RemoteFile`]: parts are small, so a server that takes long has failed; and they are those of the
    /// file, not of a compressed copy. Use one within one runtime.
    pub fn for_ranges() -> Result<Self, TaskError> {
        Self::new(Limits {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(30),
            idle: Duration::from_secs(20),
            total: Duration::from_secs(120),
            body: Bytes(2 * RUN * CHUNK),
            decompress: false,
            ..Limits::default()
        })
    }
}

/// An answer to a request for a part: `206`, `416`, or another success.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
}

/// Asks for the bytes from `first` to `last`.
async fn fetch(client: &Client, address: &str, first: u64, last: u64) -> Result<Reply, TaskError> {
    let request = Request::get(address)?
        .header(header::RANGE.as_str(), &format!("bytes={first}-{last}"))?
        .header(header::ACCEPT_ENCODING.as_str(), "identity")?;
    let answer = client.answer(request, StatusCode::PARTIAL_CONTENT).await.map_err(|error| match error {
        TaskError::Permanent(fault) if fault.code == "S109" => {
            other_part(address, &format!("sent far more than bytes {first} to {last}"))
        }
        error => error,
    })?;
    let (status, headers) = (answer.status, answer.headers);
    let told = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if status == StatusCode::PARTIAL_CONTENT {
        let encoding = told(header::CONTENT_ENCODING);
        if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
            let what = format!("`{}` sends parts compressed (`{}`)", redact(address), excerpt(encoding));
            return Err(Fault::new("S116", what).help("store the file without a content encoding").permanent());
        }
    } else if status.is_success() && told(header::CONTENT_TYPE).contains("html") {
        let what = format!("`{}` answered {status} with a web page, not with the file", redact(address));
        return Err(Fault::new("S110", what)
            .help("check the address: this is often a log-in or error page of a proxy")
            .permanent());
    } else if !status.is_success() && status != StatusCode::RANGE_NOT_SATISFIABLE {
        return Err(status_error(status, &headers, address, &String::from_utf8_lossy(&answer.bytes)));
    }
    Ok(Reply { status, headers, bytes: answer.bytes })
}

impl Reply {
    /// That it holds the bytes from `from` up to `end`, and all of them.
    fn check(&self, address: &str, (from, end): (u64, u64)) -> Result<(), TaskError> {
        let asked = format!("bytes {from} to {}", end - 1);
        let told = self.headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let range = told.trim().strip_prefix("bytes ").and_then(|range| range.split('/').next()?.split_once('-'));
        let range = range.and_then(|(from, to)| Some((from.trim().parse().ok()?, to.trim().parse::<u64>().ok()?)));
        match range {
            Some((first, last)) if (first, last.checked_add(1)) == (from, Some(end)) => {}
            _ if told.is_empty() => return Err(other_part(address, &format!("does not tell whether it sent {asked}"))),
            _ => {
                let told = excerpt(told);
                return Err(other_part(address, &format!("sent `{told}` when {asked} were asked for")));
            }
        }
        let length = self.bytes.len();
        if length as u64 != end - from {
            return Err(other_part(address, &format!("sent {length} bytes when {asked} were asked for")));
        }
        Ok(())
    }
}

/// What helps where a server serves no parts of files.
const NO_RANGES: &str =
    "the server must serve ranges (`206 Partial Content`), as object stores do; or fetch the file first";

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
