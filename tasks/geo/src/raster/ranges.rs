//! Files whose bytes somebody else fetches, shown to GDAL as a file system of its own.
//!
//! GDAL's own HTTP reader takes any bytes a server sends for those asked for, and tells failures in prose. Here a
//! [`Ranges`] answers each read whole or fails, and its failure is kept for the caller of GDAL.
#![expect(unsafe_code, reason = "FFI edge to GDAL: callbacks")]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use gdal_sys::{VSIStatBufL, vsi_l_offset};

use crate::error::{ErrorKind, GeoError, Result};

/// Bytes of a file that lies elsewhere. Several threads may read it at a time.
pub trait Ranges: Send + Sync {
    /// Size of the file in bytes.
    fn size(&self) -> u64;

    /// Fills every buffer with the bytes from its offset; all of them lie within [`Ranges::size`].
    ///
    /// # Errors
    /// Any byte that did not come, or may be of another file: then no buffer is looked at.
    fn read(&self, parts: &mut [(u64, &mut [u8])]) -> std::result::Result<(), GeoError>;
}

/// A file that GDAL can open by [`Mount::path`] for as long as this lives.
pub(super) struct Mount {
    id: u64,
    file: Arc<Mounted>,
}

struct Mounted {
    ranges: Arc<dyn Ranges>,
    failure: Mutex<Option<GeoError>>,
}

const PREFIX: &CStr = c"/vsiswath/";

static FILES: OnceLock<Mutex<HashMap<u64, Arc<Mounted>>>> = OnceLock::new();

fn files() -> std::sync::MutexGuard<'static, HashMap<u64, Arc<Mounted>>> {
    FILES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mount {
    pub fn new(ranges: Arc<dyn Ranges>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        install()?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let file = Arc::new(Mounted { ranges, failure: Mutex::new(None) });
        files().insert(id, file.clone());
        Ok(Self { id, file })
    }

    pub fn path(&self) -> String {
        format!("{}{}", PREFIX.to_string_lossy(), self.id)
    }

    pub fn size(&self) -> u64 {
        self.file.ranges.size()
    }

    /// What failed since this was asked last.
    pub fn failure(&self) -> Option<GeoError> {
        self.file.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        files().remove(&self.id);
    }
}

impl Mounted {
    /// Whether all parts were read; a failure is kept.
    fn read(&self, parts: &mut [(u64, &mut [u8])]) -> bool {
        let read = catch_unwind(AssertUnwindSafe(|| self.ranges.read(parts)));
        let read = read.unwrap_or_else(|_| Err(GeoError::new(ErrorKind::Unreachable, "reading of ranges panicked")));
        match read {
            Ok(()) => true,
            Err(error) => {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                false
            }
        }
    }
}

/// A file as one of GDAL's threads has it open.
struct Open {
    file: Arc<Mounted>,
    position: u64,
    ended: bool,
}

/// Tells GDAL of the file system, once.
fn install() -> Result<()> {
    static INSTALLED: OnceLock<bool> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: the structure comes zeroed from GDAL and is as large as its version wants; GDAL copies it in the call.
        // All callbacks keep to the contract of cpl_vsi.h and never unwind.
        unsafe {
            let callbacks = gdal_sys::VSIAllocFilesystemPluginCallbacksStruct();
            if callbacks.is_null() {
                return false;
            }
            (*callbacks).stat = Some(stat);
            (*callbacks).open = Some(open);
            (*callbacks).tell = Some(tell);
            (*callbacks).seek = Some(seek);
            (*callbacks).read = Some(read);
            (*callbacks).read_multi_range = Some(read_multi_range);
            (*callbacks).eof = Some(eof);
            (*callbacks).close = Some(close);
            let status = gdal_sys::VSIInstallPluginHandler(PREFIX.as_ptr(), callbacks);
            gdal_sys::VSIFreeFilesystemPluginCallbacksStruct(callbacks);
            status == 0
        }
    });
    match installed {
        true => Ok(()),
        false => Err(GeoError::new(ErrorKind::Missing, "this GDAL takes no file systems of others")),
    }
}

/// The file of a name, given without the prefix.
///
/// # Safety
/// `name` is null or NUL-terminated.
unsafe fn find(name: *const c_char) -> Option<Arc<Mounted>> {
    if name.is_null() {
        return None;
    }
    // SAFETY: promised by the caller.
    let id = unsafe { CStr::from_ptr(name) }.to_str().ok()?.parse().ok()?;
    files().get(&id).cloned()
}

unsafe extern "C" fn stat(_: *mut c_void, name: *const c_char, out: *mut VSIStatBufL, _: c_int) -> c_int {
    // SAFETY: GDAL passes a NUL-terminated name.
    let Some(file) = (unsafe { find(name) }) else { return -1 };
    // SAFETY: `VSIStatBufL` is the platform's `stat64`, of which all zeros is a value; GDAL passes room for one.
    unsafe {
        let mut told: libc::stat64 = std::mem::zeroed();
        told.st_mode = libc::S_IFREG;
        told.st_size = i64::try_from(file.ranges.size()).unwrap_or(i64::MAX);
        out.cast::<libc::stat64>().write(told);
    }
    0
}

unsafe extern "C" fn open(_: *mut c_void, name: *const c_char, access: *const c_char) -> *mut c_void {
    // SAFETY: GDAL passes NUL-terminated strings.
    let (file, access) = unsafe { (find(name), CStr::from_ptr(access)) };
    match file {
        Some(file) if access.to_bytes().first() == Some(&b'r') && !access.to_bytes().contains(&b'+') => {
            Box::into_raw(Box::new(Open { file, position: 0, ended: false })).cast()
        }
        _ => std::ptr::null_mut(),
    }
}

/// # Safety
/// `file` came from [`open`], was not closed yet, and is used by one thread at a time, as GDAL does.
unsafe fn opened<'a>(file: *mut c_void) -> &'a mut Open {
    // SAFETY: promised by the caller.
    unsafe { &mut *file.cast::<Open>() }
}

unsafe extern "C" fn tell(file: *mut c_void) -> vsi_l_offset {
    // SAFETY: GDAL passes what `open` returned.
    unsafe { opened(file) }.position
}

unsafe extern "C" fn seek(file: *mut c_void, offset: vsi_l_offset, whence: c_int) -> c_int {
    // SAFETY: GDAL passes what `open` returned.
    let open = unsafe { opened(file) };
    let from = match whence {
        libc::SEEK_CUR => open.position,
        libc::SEEK_END => open.file.ranges.size(),
        _ => 0,
    };
    // GDAL steps back by adding the complement.
    open.position = from.wrapping_add(offset);
    open.ended = false;
    0
}

unsafe extern "C" fn read(file: *mut c_void, buffer: *mut c_void, size: usize, count: usize) -> usize {
    // SAFETY: GDAL passes what `open` returned.
    let open = unsafe { opened(file) };
    let Some(wanted) = size.checked_mul(count).filter(|wanted| *wanted > 0) else { return 0 };
    let left = open.file.ranges.size().saturating_sub(open.position);
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(wanted);
    open.ended = length < wanted;
    if length == 0 {
        return 0;
    }
    // SAFETY: GDAL's buffer has room for `size * count` bytes; it is zeroed before it is lent as initialised bytes.
    let buffer = unsafe {
        buffer.cast::<u8>().write_bytes(0, length);
        std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length)
    };
    if !open.file.read(&mut [(open.position, buffer)]) {
        return 0;
    }
    open.position += length as u64;
    length / size
}

unsafe extern "C" fn read_multi_range(
    file: *mut c_void,
    count: c_int,
    buffers: *mut *mut c_void,
    offsets: *const vsi_l_offset,
    sizes: *const usize,
) -> c_int {
    // SAFETY: GDAL passes what `open` returned.
    let open = unsafe { opened(file) };
    let end = open.file.ranges.size();
    let mut parts = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    for index in 0..usize::try_from(count).unwrap_or(0) {
        // SAFETY: the three arrays have `count` entries, and each buffer the size of its entry; it is zeroed before it is
        // lent as initialised bytes.
        let (offset, buffer) = unsafe {
            let (buffer, size) = ((*buffers.add(index)).cast::<u8>(), *sizes.add(index));
            if buffer.is_null() {
                return -1;
            }
            buffer.write_bytes(0, size);
            (*offsets.add(index), std::slice::from_raw_parts_mut(buffer, size))
        };
        if offset.checked_add(buffer.len() as u64).is_none_or(|last| last > end) {
            return -1;
        }
        parts.push((offset, buffer));
    }
    if open.file.read(&mut parts) { 0 } else { -1 }
}

unsafe extern "C" fn eof(file: *mut c_void) -> c_int {
    // SAFETY: GDAL passes what `open` returned.
    c_int::from(unsafe { opened(file) }.ended)
}

unsafe extern "C" fn close(file: *mut c_void) -> c_int {
    // SAFETY: GDAL passes what `open` returned, once.
    drop(unsafe { Box::from_raw(file.cast::<Open>()) });
    0
}
