//! Loads libgdal when it is first called, not when the program starts.
//!
//! Debian's libgdal pulls in more than a hundred shared libraries, which takes 50 to 90 ms: too long for
//! `swath validate`, which touches no raster. This crate defines every function of GDAL's C interface as a trampoline
//! that jumps through a slot; the first call of any of them loads the library and fills all slots. The linker then
//! finds nothing left for `-lgdal` to provide and drops it (`--as-needed`). A machine without GDAL can validate,
//! plan and show runs, and gets a clear error from [`load`] when a step needs it.
//!
//! `symbols.txt` lists the functions of the oldest supported GDAL (3.6). It knows nothing of what they do.
#![expect(unsafe_code, reason = "the foreign function edge: trampolines, dlopen and dlsym")]

use std::ffi::{CStr, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

include!(concat!(env!("OUT_DIR"), "/trampolines.rs"));

/// Why libgdal could not be loaded.
#[derive(Debug, Clone)]
pub struct LoadError(String);

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GDAL not found: {}", self.0)
    }
}

impl std::error::Error for LoadError {}

/// Names by which the library is looked for, after `GDAL_LIBRARY` from the environment. Newest first.
const NAMES: &[&str] = &[
    "libgdal.so",
    "libgdal.so.38",
    "libgdal.so.37",
    "libgdal.so.36",
    "libgdal.so.35",
    "libgdal.so.34",
    "libgdal.so.33",
    "libgdal.so.32",
];

/// Look a library's symbols up in itself and what it depends on before the rest of the program (`dlopen(3)`).
#[cfg(target_env = "gnu")]
const RTLD_DEEPBIND: std::ffi::c_int = 0x8;
#[cfg(not(target_env = "gnu"))]
const RTLD_DEEPBIND: std::ffi::c_int = 0;

/// Loads libgdal if that has not happened yet. Call it before the first call of GDAL to get an error in place of an
/// abort when the library is missing.
pub fn load() -> Result<(), LoadError> {
    static LOADED: OnceLock<Result<(), LoadError>> = OnceLock::new();
    LOADED.get_or_init(fill_slots).clone()
}

fn fill_slots() -> Result<(), LoadError> {
    let given = std::env::var("GDAL_LIBRARY").ok();
    let names: Vec<&str> = given.as_deref().map_or_else(|| NAMES.to_vec(), |name| vec![name]);
    let mut reason = String::new();
    for name in names {
        // libgdal brings an SQLite of its own, and so may this program: each must find its own first.
        let flags = libloading::os::unix::RTLD_NOW | RTLD_DEEPBIND;
        // SAFETY: loading libgdal runs its initialisers, which have no precondition; it stays loaded for ever.
        match unsafe { libloading::os::unix::Library::open(Some(name), flags) } {
            Ok(library) => {
                for (slot, symbol) in SLOTS.iter().zip(SYMBOLS) {
                    // SAFETY: the symbol is only stored and jumped to, with the arguments its caller declared for it.
                    let address = unsafe { library.get::<*mut c_void>(symbol.to_bytes_with_nul()) };
                    let address = address.map_or(missing_function as *mut c_void, |found| found.as_raw_ptr());
                    slot.store(address, Ordering::Release);
                }
                std::mem::forget(library);
                return Ok(());
            }
            Err(error) => reason = error.to_string(),
        }
    }
    Err(LoadError(reason))
}

/// A function that this GDAL does not have. Reached only by code written for a newer GDAL than the one installed.
extern "C" fn missing_function() -> ! {
    eprintln!("swath: the installed GDAL lacks a function that was called; install GDAL 3.6 or newer");
    std::process::abort()
}

/// Loads the library on behalf of [`first_call`]. Without one there is nothing to return to.
extern "C" fn load_or_abort() {
    if let Err(error) = load() {
        eprintln!("swath: {error}; run `make setup` or set GDAL_LIBRARY");
        std::process::abort()
    }
}

/// Where every slot points at first: saves the argument registers, loads the library, and goes on to the function
/// whose index its trampoline left in `r11`.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn first_call() {
    std::arch::naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "push rdi",
        "push rsi",
        "push rdx",
        "push rcx",
        "push r8",
        "push r9",
        "push rax",
        "push r11",
        "sub rsp, 128",
        "movups [rsp], xmm0",
        "movups [rsp + 16], xmm1",
        "movups [rsp + 32], xmm2",
        "movups [rsp + 48], xmm3",
        "movups [rsp + 64], xmm4",
        "movups [rsp + 80], xmm5",
        "movups [rsp + 96], xmm6",
        "movups [rsp + 112], xmm7",
        "call {load}",
        "movups xmm0, [rsp]",
        "movups xmm1, [rsp + 16]",
        "movups xmm2, [rsp + 32]",
        "movups xmm3, [rsp + 48]",
        "movups xmm4, [rsp + 64]",
        "movups xmm5, [rsp + 80]",
        "movups xmm6, [rsp + 96]",
        "movups xmm7, [rsp + 112]",
        "add rsp, 128",
        "pop r11",
        "pop rax",
        "pop r9",
        "pop r8",
        "pop rcx",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "pop rbp",
        "lea r10, {slots}[rip]",
        "jmp [r10 + r11*8]",
        load = sym load_or_abort,
        slots = sym SLOTS,
    )
}

/// Where every slot points at first: saves the argument registers, loads the library, and goes on to the function
/// whose index its trampoline left in `w17`.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn first_call() {
    std::arch::naked_asm!(
        "stp x29, x30, [sp, #-224]!",
        "mov x29, sp",
        "stp x0, x1, [sp, #16]",
        "stp x2, x3, [sp, #32]",
        "stp x4, x5, [sp, #48]",
        "stp x6, x7, [sp, #64]",
        "stp x8, x17, [sp, #80]",
        "stp q0, q1, [sp, #96]",
        "stp q2, q3, [sp, #128]",
        "stp q4, q5, [sp, #160]",
        "stp q6, q7, [sp, #192]",
        "bl {load}",
        "ldp q6, q7, [sp, #192]",
        "ldp q4, q5, [sp, #160]",
        "ldp q2, q3, [sp, #128]",
        "ldp q0, q1, [sp, #96]",
        "ldp x8, x17, [sp, #80]",
        "ldp x6, x7, [sp, #64]",
        "ldp x4, x5, [sp, #48]",
        "ldp x2, x3, [sp, #32]",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #224",
        "adrp x16, {slots}",
        "add x16, x16, :lo12:{slots}",
        "ldr x16, [x16, x17, lsl #3]",
        "br x16",
        load = sym load_or_abort,
        slots = sym SLOTS,
    )
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_char, c_double, c_int};

    use super::*;

    unsafe extern "C" {
        fn GDALVersionInfo(request: *const c_char) -> *const c_char;
        fn GDALApplyGeoTransform(
            transform: *const c_double,
            pixel: c_double,
            line: c_double,
            x: *mut c_double,
            y: *mut c_double,
        );
        fn CPLFormCIFilename(path: *const c_char, base: *const c_char, extension: *const c_char) -> *const c_char;
        fn CPLsnprintf(buffer: *mut c_char, size: usize, format: *const c_char, ...) -> c_int;
    }

    #[test]
    fn the_first_call_keeps_every_argument() {
        let loaded = || std::fs::read_to_string("/proc/self/maps").unwrap().contains("libgdal");
        assert!(!loaded(), "libgdal must not be loaded at the start");
        let transform = [100.0, 10.0, 0.0, 200.0, 0.0, -10.0];
        let (mut x, mut y) = (0.0, 0.0);
        // SAFETY: the declarations are those of GDAL's headers.
        unsafe { GDALApplyGeoTransform(transform.as_ptr(), 2.5, 3.5, &mut x, &mut y) };
        assert_eq!((x, y), (125.0, 165.0));
        assert!(loaded());
        // SAFETY: as above; the strings are terminated.
        unsafe {
            assert!(CStr::from_ptr(GDALVersionInfo(c"RELEASE_NAME".as_ptr())).to_str().unwrap().starts_with('3'));
            let path = CPLFormCIFilename(c"/a".as_ptr(), c"b".as_ptr(), c"tif".as_ptr());
            assert_eq!(CStr::from_ptr(path), c"/a/b.tif");
            let mut buffer = [0; 64];
            CPLsnprintf(buffer.as_mut_ptr(), 64, c"%d %.2f %s".as_ptr(), 7 as c_int, 1.25 as c_double, c"end".as_ptr());
            assert_eq!(CStr::from_ptr(buffer.as_ptr()), c"7 1.25 end");
        }
        load().unwrap();
    }
}
