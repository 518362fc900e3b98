//! The seam to GDAL: start-up, error capture, strings. Everything `unsafe` that is not a raster or vector call itself.
#![expect(unsafe_code, reason = "FFI edge to GDAL")]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, Once, PoisonError};

use gdal_sys::{CPLErr, CPLErrorNum};

use crate::error::{ErrorKind, GeoError, Result};

/// One message GDAL raised on this thread.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub class: CPLErr::Type,
    pub text: String,
}

thread_local! {
    static MESSAGES: RefCell<Vec<Message>> = const { RefCell::new(Vec::new()) };
}

/// More messages than these of one call say nothing new.
const MESSAGES_KEPT: usize = 32;

unsafe extern "C" fn collect(class: CPLErr::Type, _number: CPLErrorNum, text: *const c_char) {
    if class < CPLErr::CE_Warning || text.is_null() {
        return;
    }
    // SAFETY: GDAL passes a NUL-terminated string that lives for this call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // A thread that is being torn down has no list any more: the message is lost, nothing else.
    let _ = MESSAGES.try_with(|list| {
        if let Ok(mut list) = list.try_borrow_mut()
            && list.len() < MESSAGES_KEPT
        {
            list.push(Message { class, text });
        }
    });
}

/// Starts GDAL once per process; an error when the library is missing. Every way into this crate asks it first.
pub(crate) fn start() -> Result<()> {
    static START: Once = Once::new();
    swath_gdal_loader::load().map_err(|error| GeoError::new(ErrorKind::Missing, error.to_string()))?;
    START.call_once(|| {
        let options = [
            // One file is one file: no listing of folders or buckets, no side-car files that change pixels.
            (c"GDAL_DISABLE_READDIR_ON_OPEN", c"EMPTY_DIR"),
            (c"GDAL_PAM_ENABLED", c"NO"),
            // Retries belong to callers, who know the deadline and can sign again.
            (c"GDAL_HTTP_MAX_RETRY", c"0"),
            (c"GDAL_HTTP_CONNECTTIMEOUT", c"10"),
            (c"GDAL_HTTP_TIMEOUT", c"60"),
            (c"GDAL_HTTP_LOW_SPEED_TIME", c"20"),
            (c"GDAL_HTTP_LOW_SPEED_LIMIT", c"1000"),
            (c"GDAL_HTTP_MULTIPLEX", c"YES"),
            (c"GDAL_HTTP_VERSION", c"2"),
            (c"VSI_CACHE", c"FALSE"),
            (c"CPL_VSIL_CURL_CHUNK_SIZE", c"65536"),
            (c"CPL_VSIL_CURL_CACHE_SIZE", c"33554432"),
            (c"GDAL_INGESTED_BYTES_AT_OPEN", c"32768"),
            (c"GTIFF_HONOUR_NEGATIVE_SCALEY", c"NO"),
            // A feature of GeoJSON that takes more than so many MiB while it is read is refused.
            (c"OGR_GEOJSON_MAX_OBJ_SIZE", c"100"),
        ];
        // SAFETY: called once, before any other GDAL call of this process made through this crate; the strings are
        // NUL-terminated and static. `collect` is `extern "C"` and never unwinds.
        unsafe {
            for (key, value) in options {
                gdal_sys::CPLSetConfigOption(key.as_ptr(), value.as_ptr());
            }
            gdal_sys::CPLSetErrorHandler(Some(collect));
            gdal_sys::GDALAllRegister();
            gdal_sys::GDALSetCacheMax64(USUAL_CACHE as i64);
        }
    });
    Ok(())
}

/// What those who use GDAL's block cache at this moment have asked for.
static CACHES: Mutex<Vec<u64>> = Mutex::new(Vec::new());
/// The bound of GDAL's block cache while nobody asks for another.
const USUAL_CACHE: u64 = 64 << 20;

/// A bound of GDAL's block cache, which all rasters of the process share, for as long as this lives: the largest of those
/// that live, and 64 MiB when none does.
#[derive(Debug)]
pub struct BlockCache(u64);

impl BlockCache {
    /// Asks for `bytes`, at least 1 MiB.
    pub fn new(bytes: u64) -> Result<Self> {
        start()?;
        let mut asked = CACHES.lock().unwrap_or_else(PoisonError::into_inner);
        asked.push(bytes);
        bound_cache(&asked);
        Ok(Self(bytes))
    }
}

impl Drop for BlockCache {
    fn drop(&mut self) {
        let mut asked = CACHES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = asked.iter().position(|bytes| *bytes == self.0) {
            asked.swap_remove(own);
        }
        bound_cache(&asked);
    }
}

fn bound_cache(asked: &[u64]) {
    let bytes = asked.iter().copied().max().unwrap_or(USUAL_CACHE).max(1 << 20);
    // SAFETY: sets a number under GDAL's own lock.
    unsafe { gdal_sys::GDALSetCacheMax64(i64::try_from(bytes).unwrap_or(i64::MAX)) }
}

/// The version of the GDAL library in use, `3.6.2` for example.
pub fn gdal_version() -> Result<String> {
    start()?;
    // SAFETY: returns a static NUL-terminated string for this key.
    Ok(unsafe { text(gdal_sys::GDALVersionInfo(c"RELEASE_NAME".as_ptr())) }.unwrap_or_default())
}

/// Runs GDAL calls with a clean list of messages and returns what they raised. [`start`] has succeeded before.
pub(crate) fn watched<T>(work: impl FnOnce() -> T) -> (T, Vec<Message>) {
    let outer = MESSAGES.with(RefCell::take);
    let value = work();
    let messages = MESSAGES.with(|list| list.replace(outer));
    (value, messages)
}

/// The messages as one text, most telling first; warnings only when there is no failure.
pub(crate) fn told(messages: &[Message]) -> String {
    let failures = messages.iter().filter(|m| m.class >= CPLErr::CE_Failure);
    let mut texts: Vec<String> = Vec::new();
    for message in failures.chain(messages) {
        let text = message.text.trim().trim_end_matches('.').replace(['\n', '\r'], " ");
        if !texts.contains(&text) {
            texts.push(text);
        }
        if texts.len() == 3 {
            break;
        }
    }
    if texts.is_empty() { "GDAL gave no reason".to_owned() } else { texts.join("; ") }
}

/// Whether a failure (not a mere warning) is among the messages.
pub(crate) fn failed(messages: &[Message]) -> bool {
    messages.iter().any(|m| m.class >= CPLErr::CE_Failure)
}

/// A C string, refusing NUL bytes.
pub(crate) fn cstring(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| GeoError::new(ErrorKind::Request, "a text for GDAL holds a NUL byte"))
}

/// A copy of a C string GDAL owns; `None` for null.
///
/// # Safety
/// `text` is null or a NUL-terminated string that stays valid for this call.
pub(crate) unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: promised by the caller.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// `KEY=VALUE` options as the null-terminated array GDAL wants.
pub(crate) struct Options {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl Options {
    /// From whole entries.
    pub fn new<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Result<Self> {
        let strings = entries.into_iter().map(|entry| cstring(entry.as_ref())).collect::<Result<Vec<_>>>()?;
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Ok(Self { strings, pointers })
    }

    /// Valid as long as `self`.
    pub fn as_ptr(&self) -> *mut *mut c_char {
        debug_assert_eq!(self.strings.len() + 1, self.pointers.len());
        self.pointers.as_ptr().cast_mut().cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_cache_is_the_largest_asked_for_and_goes_back() {
        // SAFETY: reads a number.
        let bound = || unsafe { gdal_sys::GDALGetCacheMax64() } as u64;
        let small = BlockCache::new(16 << 20).unwrap();
        assert_eq!(bound(), 16 << 20);
        let large = BlockCache::new(128 << 20).unwrap();
        drop(small);
        assert_eq!(bound(), 128 << 20);
        drop(large);
        assert_eq!(bound(), USUAL_CACHE);
    }
}
