//! Rasters in buckets, which GDAL fetches itself: their names, what its failures mean, what it has cached of them.
#![expect(unsafe_code, reason = "FFI edge to GDAL")]

use std::ffi::CStr;

use super::Raster;
use crate::error::ErrorKind;
use crate::ffi::{Message, cstring, text, watched};
use crate::grid::PixelWindow;

/// The name GDAL knows a location by.
pub(crate) fn gdal_path(location: &str) -> String {
    match location.strip_prefix("s3://") {
        Some(rest) => format!("/vsis3/{rest}"),
        None => location.strip_prefix("file://").unwrap_or(location).to_owned(),
    }
}

/// Whether GDAL itself fetches what lies under a name of its own.
pub(super) fn is_bucket(path: &str) -> bool {
    path.starts_with("/vsis3/")
}

/// The class of a failure, from GDAL's messages: HTTP status where there is one.
pub(super) fn classify(messages: &[Message], remote: bool, local: ErrorKind) -> ErrorKind {
    if !remote {
        return local;
    }
    for message in messages {
        // GDAL says `HTTP response code: 503`, `HTTP response code on ADDRESS : 503` or `response_code=503`.
        let after = ["HTTP response code", "response_code="].iter().find_map(|words| message.text.split_once(words));
        let status = after.and_then(|(_, rest)| {
            let digits: String = rest.rsplit(':').next()?.trim().chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u16>().ok()
        });
        match status {
            Some(404 | 410) => return ErrorKind::NotFound,
            Some(401 | 403) => return ErrorKind::Denied,
            Some(_) => return ErrorKind::Unreachable,
            None => {}
        }
        if message.text.contains("not recognized as a supported file format") {
            return ErrorKind::NotARaster;
        }
    }
    // All bytes came, and they are no pixels. What came in part is a `Read error`.
    let says = |words: &str| messages.iter().any(|message| message.text.contains(words));
    if says("Decod") && !says("Read error") {
        return ErrorKind::Damaged;
    }
    ErrorKind::Unreachable
}

/// How many bytes a file has, when its server tells.
pub(super) fn size_of(path: &CStr) -> Option<u64> {
    // SAFETY: the file is opened, measured and closed here; the handle is checked for null before use.
    let (size, _) = watched(|| unsafe {
        let file = gdal_sys::VSIFOpenL(path.as_ptr(), c"rb".as_ptr());
        if file.is_null() {
            return None;
        }
        let moved = gdal_sys::VSIFSeekL(file, 0, 2) == 0;
        let size = gdal_sys::VSIFTellL(file);
        gdal_sys::VSIFCloseL(file);
        moved.then_some(size)
    });
    size
}

/// Drops what GDAL has cached of a file in a bucket.
pub(super) fn forget_cached(path: &str) {
    if let Ok(path) = cstring(path) {
        // SAFETY: a NUL-terminated string that outlives the call; GDAL locks its own cache.
        let _ = watched(|| unsafe { gdal_sys::VSICurlPartialClearCache(path.as_ptr()) });
    }
}

impl Raster {
    /// The size of a TIFF that is shorter than its own directory says of the tiles of a window.
    pub(super) fn ends_within(&self, band: usize, window: &PixelWindow) -> Option<u64> {
        let size = self.size()?;
        let (width, height) = self.info.block;
        let number = |name: String| {
            let name = cstring(&name).ok()?;
            // SAFETY: the handle is live; the string belongs to the band and is copied at once.
            let told = watched(|| unsafe {
                text(gdal_sys::GDALGetMetadataItem(self.band(band), name.as_ptr(), c"TIFF".as_ptr()))
            });
            told.0?.parse::<u64>().ok()
        };
        let columns = window.column / width..=(window.column + window.width - 1) / width;
        let mut rows = window.row / height..=(window.row + window.height - 1) / height;
        let past_the_end = |column: usize, row: usize| {
            let offset = number(format!("BLOCK_OFFSET_{column}_{row}"))?;
            Some(offset.checked_add(number(format!("BLOCK_SIZE_{column}_{row}"))?)? > size)
        };
        rows.any(|row| columns.clone().any(|column| past_the_end(column, row) == Some(true))).then_some(size)
    }
}
