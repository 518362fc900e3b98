//! Opening rasters: by path or address, of accepted formats only.
#![expect(unsafe_code, reason = "FFI edge to GDAL")]

use std::cell::Cell;
use std::ffi::CStr;
use std::path::Path;

use gdal_sys::GDALDatasetH;

use super::remote::{classify, forget_cached, gdal_path, is_remote, remote_size};
use super::{Raster, RasterInfo};
use crate::direct::Direct;
use crate::error::{ErrorKind, GeoError, Result, without_queries};
use crate::ffi::{Message, Options, cstring, start, told, watched};

/// `GDAL_OF_RASTER` and `GDAL_OF_VERBOSE_ERROR` of gdal.h; macros have no bindings. Read-only is 0.
const OPEN_RASTER: u32 = 0x02;
const OPEN_VERBOSE_ERROR: u32 = 0x40;

/// How to open a raster.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Size in bytes the file must have; another size is [`ErrorKind::Changed`].
    pub expected_size: Option<u64>,
}

impl Raster {
    /// Opens a GeoTIFF, COG or JPEG 2000 file by path, `https://`, `http://` or `s3://`. Other formats are refused,
    /// whatever their name: a VRT may point anywhere.
    pub fn open(location: &str) -> Result<Self> {
        Self::open_with(location, &OpenOptions::default())
    }

    /// Opens a local file.
    pub fn open_path(path: &Path) -> Result<Self> {
        Self::open(&path.to_string_lossy())
    }

    /// Opens with options.
    pub fn open_with(location: &str, options: &OpenOptions) -> Result<Self> {
        start()?;
        let path = gdal_path(location);
        let remote = is_remote(&path);
        let name = without_queries(location);
        if !remote {
            check_local(&path, &name, options)?;
        }
        let c_path = cstring(&path)?;
        let (handle, messages) = open_dataset(&c_path)?;
        if handle.is_null() {
            let kind = classify(&messages, remote, ErrorKind::NotARaster);
            if remote {
                forget_cached(&path);
            }
            let why = told(&messages);
            return Err(GeoError::new(kind, format!("cannot open `{name}` as a raster: {why}")));
        }
        // From here on, `raster` closes the handle whatever happens.
        let empty = RasterInfo {
            name: name.clone(),
            width: 0,
            height: 0,
            bands: Vec::new(),
            crs: None,
            geo_transform: None,
            block: (0, 0),
            pixel_interleaved: false,
        };
        let mut raster = Self { handle: Cell::new(handle), path: c_path, info: empty, remote, direct: None };
        if remote && let Some(expected) = options.expected_size {
            raster.check_remote_size(&path, expected)?;
        }
        let (info, _) = watched(|| raster.describe(name));
        raster.info = info?;
        if !remote {
            raster.direct = Direct::open(Path::new(&path), &raster.info);
            if raster.direct.is_some() {
                raster.close();
            }
        }
        Ok(raster)
    }

    fn check_remote_size(&self, path: &str, expected: u64) -> Result<()> {
        match remote_size(path)? {
            Some(size) if size != expected => Err(changed(&self.info.name, expected, size)),
            _ => Ok(()),
        }
    }
}

/// Opens a raster of an accepted format; null when it is none, with what GDAL said.
pub(super) fn open_dataset(path: &CStr) -> Result<(GDALDatasetH, Vec<Message>)> {
    let drivers = Options::new(["GTiff", "JP2OpenJPEG"])?;
    // SAFETY: all pointers are to NUL-terminated strings and arrays that outlive the call.
    Ok(watched(|| unsafe {
        gdal_sys::GDALOpenEx(
            path.as_ptr(),
            OPEN_RASTER | OPEN_VERBOSE_ERROR,
            drivers.as_ptr().cast_const().cast(),
            std::ptr::null(),
            std::ptr::null(),
        )
    }))
}

fn changed(name: &str, expected: u64, size: u64) -> GeoError {
    GeoError::new(ErrorKind::Changed, format!("`{name}` has {size} bytes where {expected} were listed"))
}

/// What can be told of a local file before GDAL sees it.
fn check_local(path: &str, name: &str, options: &OpenOptions) -> Result<()> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| GeoError::new(ErrorKind::NotFound, format!("cannot open `{name}`: {error}")))?;
    let refuse = |why: &str| Err(GeoError::new(ErrorKind::NotARaster, format!("`{name}` is not a raster: {why}")));
    if metadata.is_dir() {
        return refuse("it is a folder");
    }
    if metadata.len() == 0 {
        return refuse("it is empty");
    }
    if let Some(expected) = options.expected_size
        && metadata.len() != expected
    {
        return Err(changed(name, expected, metadata.len()));
    }
    let mut head = [0; 512];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut head));
    let read = read.map_err(|error| GeoError::new(ErrorKind::NotFound, format!("cannot read `{name}`: {error}")))?;
    let head = String::from_utf8_lossy(&head[..read]);
    if head.contains("<VRTDataset") {
        return refuse("it is a VRT, which may point at other files, and is not accepted");
    }
    let start = head.trim_start().to_ascii_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        return refuse("it is an HTML page, perhaps an error message saved under a raster's name");
    }
    Ok(())
}
