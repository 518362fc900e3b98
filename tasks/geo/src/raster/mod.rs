//! Rasters: what they say of themselves, opening them, and reading windows of them.
#![expect(unsafe_code, reason = "FFI edge to GDAL")]

mod info;
mod open;
mod ranges;
mod remote;

pub use info::{BandInfo, RasterInfo};
pub use open::OpenOptions;
pub use ranges::Ranges;

use std::cell::Cell;
use std::ffi::{CString, c_int, c_void};

use gdal_sys::{CPLErr, GDALDatasetH, GDALRIOResampleAlg, GDALRWFlag, GDALRasterBandH};
use tracing::span::EnteredSpan;

use crate::direct::Direct;
use crate::error::{ErrorKind, GeoError, Result};
use crate::ffi::{Message, failed, told, watched};
use crate::grid::{Grid, PixelWindow};
use crate::pixel::Pixel;

use open::open_dataset;
use ranges::Mount;
use remote::{classify, forget_cached};

/// How a window is read at another size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resampling {
    /// The pixel whose centre is nearest. The only one for classes and masks.
    #[default]
    Nearest,
    /// The mean of all pixels that fall together.
    Average,
}

impl Resampling {
    fn code(self) -> GDALRIOResampleAlg::Type {
        match self {
            Self::Nearest => GDALRIOResampleAlg::GRIORA_NearestNeighbour,
            Self::Average => GDALRIOResampleAlg::GRIORA_Average,
        }
    }
}

/// Who fetches the bytes of a raster.
enum Origin {
    /// They lie on this machine.
    Local,
    /// GDAL, from an object store.
    Bucket,
    /// Whoever opened it.
    Ranges(Mount),
}

impl Origin {
    /// What failed to come since this was asked last.
    fn failure(&self) -> Option<GeoError> {
        match self {
            Self::Ranges(mount) => mount.failure(),
            Self::Local | Self::Bucket => None,
        }
    }
}

/// A raster open for reading. Move it to the thread that reads.
pub struct Raster {
    /// Null while pixels are read around GDAL: an open dataset holds a file descriptor.
    handle: Cell<GDALDatasetH>,
    /// The name GDAL opens it by.
    path: CString,
    info: RasterInfo,
    origin: Origin,
    /// A way around GDAL for plain files.
    direct: Option<Direct>,
}

// SAFETY: a GDAL dataset may be used by any one thread at a time; `Raster` is not `Sync` and not `Clone`.
unsafe impl Send for Raster {}

impl Drop for Raster {
    fn drop(&mut self) {
        self.close();
    }
}

impl Raster {
    /// What the raster says of itself.
    pub fn info(&self) -> &RasterInfo {
        &self.info
    }

    /// The grid of its pixels; see [`RasterInfo::grid`].
    pub fn grid(&self) -> Result<Grid> {
        self.info.grid()
    }

    /// Closes the dataset; [`Raster::reopen`] opens it again when it is needed.
    fn close(&self) {
        let handle = self.handle.replace(std::ptr::null_mut());
        if !handle.is_null() {
            // SAFETY: the handle was owned by `self` and is closed once; a read-only dataset has nothing to flush.
            let _ = watched(|| unsafe { gdal_sys::GDALClose(handle) });
        }
    }

    /// Makes sure that the dataset is open.
    fn reopen(&self) -> Result<()> {
        if self.handle.get().is_null() {
            let (handle, messages) = open_dataset(&self.path)?;
            if handle.is_null() {
                let why = self.why(&messages);
                let changed =
                    || GeoError::new(ErrorKind::Changed, format!("cannot open `{}` again: {why}", self.info.name));
                return Err(self.origin.failure().unwrap_or_else(changed));
            }
            self.handle.set(handle);
        }
        Ok(())
    }

    /// What GDAL says, of the file by its own name.
    fn why(&self, messages: &[Message]) -> String {
        told(messages).replace(&*self.path.to_string_lossy(), &self.info.name)
    }

    /// The handle of a band by index from 0; null when there is none.
    fn band(&self, index: usize) -> GDALRasterBandH {
        // SAFETY: the handle is live; GDAL returns null for a band that does not exist.
        unsafe { gdal_sys::GDALGetRasterBand(self.handle.get(), index as c_int + 1) }
    }

    fn check_request(&self, band: usize, window: &PixelWindow, wanted: usize, buffer: usize) -> Result<()> {
        let info = &self.info;
        let request = |message: String| Err(GeoError::new(ErrorKind::Request, message));
        if band >= info.bands.len() {
            return request(format!("`{}` has {} bands, none at index {band}", info.name, info.bands.len()));
        }
        let inside = |start: usize, length: usize, limit: usize| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= limit)
        };
        if !inside(window.column, window.width, info.width) || !inside(window.row, window.height, info.height) {
            let name = &info.name;
            return request(format!("{window:?} lies outside of `{name}` ({} x {})", info.width, info.height));
        }
        if wanted != buffer {
            return request(format!("a buffer of {buffer} pixels does not hold the {wanted} of {window:?}"));
        }
        Ok(())
    }

    /// Reads a window of one band (index from 0) into `buffer`, row by row. The buffer holds exactly the window.
    pub fn read<T: Pixel>(&self, band: usize, window: &PixelWindow, buffer: &mut [T]) -> Result<()> {
        self.check_request(band, window, window.len(), buffer.len())?;
        if let Some(direct) = self.direct.as_ref().filter(|direct| direct.gives::<T>()) {
            let _span = self.trace_read(band, window);
            return direct.read(&self.info.name, band, window, buffer);
        }
        self.read_resampled(band, window, (window.width, window.height), Resampling::Nearest, buffer)
    }

    /// Reads a window of several bands, one band after the other, into `buffer`.
    pub fn read_bands<T: Pixel>(&self, bands: &[usize], window: &PixelWindow, buffer: &mut [T]) -> Result<()> {
        if buffer.len() != bands.len() * window.len() {
            return self.check_request(0, window, bands.len() * window.len(), buffer.len());
        }
        if bands.is_empty() || window.is_empty() {
            return Ok(());
        }
        for (band, part) in bands.iter().zip(buffer.chunks_exact_mut(window.len())) {
            self.read(*band, window, part)?;
        }
        Ok(())
    }

    /// Reads a window of one band at another size, using overviews where there are fitting ones.
    pub fn read_resampled<T: Pixel>(
        &self,
        band: usize,
        window: &PixelWindow,
        (width, height): (usize, usize),
        resampling: Resampling,
        buffer: &mut [T],
    ) -> Result<()> {
        self.check_request(band, window, width * height, buffer.len())?;
        let _span = self.trace_read(band, window);
        self.reopen()?;
        let mut extra = gdal_sys::GDALRasterIOExtraArg {
            nVersion: 1,
            eResampleAlg: resampling.code(),
            pfnProgress: None,
            pProgressData: std::ptr::null_mut(),
            bFloatingPointWindowValidity: 0,
            dfXOff: 0.0,
            dfYOff: 0.0,
            dfXSize: 0.0,
            dfYSize: 0.0,
        };
        // SAFETY: band and window were checked against the raster and `buffer` holds `width * height` values of
        // `T::TYPE`; spacings of 0 mean densely packed rows.
        let (status, messages) = watched(|| unsafe {
            gdal_sys::GDALRasterIOEx(
                self.band(band),
                GDALRWFlag::GF_Read,
                window.column as c_int,
                window.row as c_int,
                window.width as c_int,
                window.height as c_int,
                buffer.as_mut_ptr().cast::<c_void>(),
                width as c_int,
                height as c_int,
                T::TYPE.code(),
                0,
                0,
                &mut extra,
            )
        });
        self.verdict(status, &messages, band, window)
    }

    /// Reads one whole block of one band past GDAL's block cache. `buffer` holds a full block (see
    /// [`RasterInfo::block`]) of the band's own type; what lies beyond the raster's edge is undefined.
    pub fn read_block<T: Pixel>(&self, band: usize, column: usize, row: usize, buffer: &mut [T]) -> Result<()> {
        let info = &self.info;
        let (block_width, block_height) = info.block;
        let (left, top) = (column * block_width, row * block_height);
        let width = block_width.min(info.width.saturating_sub(left));
        let height = block_height.min(info.height.saturating_sub(top));
        let window = PixelWindow::new(left, top, width, height);
        self.check_request(band, &window, block_width * block_height, buffer.len())?;
        if info.bands[band].data_type != T::TYPE {
            let message = format!("band {} of `{}` is not {}", band + 1, info.name, T::TYPE.name());
            return Err(GeoError::new(ErrorKind::Request, message));
        }
        let _span = self.trace_read(band, &window);
        self.reopen()?;
        // SAFETY: the block exists (its window was checked) and `buffer` holds a full block of the band's own type.
        let (status, messages) = watched(|| unsafe {
            gdal_sys::GDALReadBlock(
                self.band(band),
                column as c_int,
                row as c_int,
                buffer.as_mut_ptr().cast::<c_void>(),
            )
        });
        self.verdict(status, &messages, band, &window)
    }

    /// The span of the reading of a window.
    fn trace_read(&self, band: usize, window: &PixelWindow) -> EnteredSpan {
        traced!(
            "read a raster",
            swath.raster = %self.info.name,
            swath.band = band as i64 + 1,
            swath.pixels = window.len() as i64,
        )
    }

    fn verdict(&self, status: CPLErr::Type, messages: &[Message], band: usize, window: &PixelWindow) -> Result<()> {
        // A failed range is no pixel, whatever GDAL made of it.
        let failure = self.origin.failure();
        if status == CPLErr::CE_None && !failed(messages) && failure.is_none() {
            return Ok(());
        }
        let info = &self.info;
        let bucket = matches!(self.origin, Origin::Bucket);
        let (mut kind, mut why) = match failure {
            Some(failure) => (failure.kind(), failure.message().to_owned()),
            None => (classify(messages, bucket, ErrorKind::Damaged), self.why(messages)),
        };
        let doubtful = match self.origin {
            Origin::Local => false,
            Origin::Bucket => kind == ErrorKind::Unreachable,
            Origin::Ranges(_) => kind == ErrorKind::Damaged,
        };
        if doubtful && let Some(size) = self.ends_within(band, window) {
            (kind, why) = (ErrorKind::Damaged, format!("the file has {size} bytes and ends within the tile"));
        }
        if bucket {
            // What was cached of a broken reply must not answer the next attempt.
            forget_cached(&self.path.to_string_lossy());
        }
        let PixelWindow { column, row, width, height } = window;
        let message = format!(
            "cannot read band {} of `{}` at column {column}, row {row} ({width} x {height}): {why}",
            band + 1,
            info.name,
        );
        Err(GeoError::new(kind, message))
    }
}
