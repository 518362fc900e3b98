//! Opening rasters: by path or address, of accepted formats only.
#![expect(unsafe_code, reason = "FFI edge to GDAL")]

use std::cell::Cell;
use std::ffi::CStr;
use std::path::Path;
use std::sync::Arc;

use gdal_sys::GDALDatasetH;

use super::ranges::{Mount, Ranges};
use super::remote::{classify, forget_cached, gdal_path, is_bucket, size_of};
use super::{Origin, Raster, RasterInfo};
use crate::direct::{Direct, Place};
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
    /// Opens a GeoTIFF, COG or JPEG 2000 file by path or `s3://`. Other formats are refused, whatever their name: a VRT
    /// may point anywhere. What lies behind HTTP is opened by [`Raster::open_ranges`].
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
        let name = without_queries(location);
        if location.starts_with("http://") || location.starts_with("https://") {
            let message = format!("`{name}` is read by ranges, which somebody has to fetch");
            return Err(GeoError::new(ErrorKind::Request, message));
        }
        let path = gdal_path(location);
        if is_bucket(&path) {
            return Self::open_as(name, &path, Origin::Bucket, options);
        }
        check_local(&path, &name, options)?;
        let mut raster = Self::open_as(name, &path, Origin::Local, options)?;
        raster.read_around_gdal(Place::Path(path.into()))?;
        Ok(raster)
    }

    /// Opens what `ranges` reads; `name` tells of it in messages. What `ranges` failed with is the error of the call of
    /// this raster that needed the bytes.
    pub fn open_ranges(name: &str, ranges: Arc<dyn Ranges>, options: &OpenOptions) -> Result<Self> {
        start()?;
        let mount = Mount::new(ranges.clone())?;
        let path = mount.path();
        let mut raster = Self::open_as(without_queries(name), &path, Origin::Ranges(mount), options)?;
        raster.read_around_gdal(Place::Ranges(ranges))?;
        Ok(raster)
    }

    /// Reads pixels without GDAL from here on, where they are packed in the plain common way.
    fn read_around_gdal(&mut self, place: Place) -> Result<()> {
        self.direct = Direct::open(place, &self.info)?;
        if self.direct.is_some() {
            self.close();
        }
        Ok(())
    }

    fn open_as(name: String, path: &str, origin: Origin, options: &OpenOptions) -> Result<Self> {
        let _span = traced!("open a raster", swath.raster = %name);
        let c_path = cstring(path)?;
        let (handle, messages) = open_dataset(&c_path)?;
        if handle.is_null() {
            if let Some(failure) = origin.failure() {
                return Err(failure);
            }
            let kind = classify(&messages, matches!(origin, Origin::Bucket), ErrorKind::NotARaster);
            if matches!(origin, Origin::Bucket) {
                forget_cached(path);
            }
            let why = told(&messages).replace(path, &name);
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
        let mut raster = Self { handle: Cell::new(handle), path: c_path, info: empty, origin, direct: None };
        if !matches!(raster.origin, Origin::Local)
            && let Some(expected) = options.expected_size
            && let Some(size) = raster.size().filter(|size| *size != expected)
        {
            return Err(changed(&raster.info.name, expected, size));
        }
        let (info, _) = watched(|| raster.describe(name));
        raster.info = info?;
        // Without a tag that could not be fetched GDAL opens the file all the same, with other pixels or elsewhere.
        match raster.origin.failure() {
            Some(failure) => Err(failure),
            None => Ok(raster),
        }
    }

    /// How many bytes a file that lies elsewhere has, when that is told.
    pub(super) fn size(&self) -> Option<u64> {
        match &self.origin {
            Origin::Ranges(mount) => Some(mount.size()),
            Origin::Bucket | Origin::Local => size_of(&self.path),
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
