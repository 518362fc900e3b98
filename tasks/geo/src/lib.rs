//! GDAL behind a safe, small face: windows, warps, COG and GeoPackage writing.
//!
//! The only crate that links GDAL and the only one with `unsafe` over it. It knows nothing of tasks, flows or async:
//! callers run it on blocking threads, retry what [`GeoError::is_transient`] says may pass, and turn errors into faults.
//!
//! Invariants:
//! 1. Bytes that could not be read never pass as pixels, nor as what a file says of them: every opening and every read
//!    checks GDAL's return value, the errors it raised on this thread, what a [`Ranges`] failed with, and the size of the
//!    buffer.
//! 2. GDAL prints nothing: its messages become part of the [`GeoError`] of the call that raised them, without
//!    the query strings of addresses (they may hold signatures).
//! 3. Coordinates are always x (easting, longitude) then y (northing, latitude), whatever the CRS's own axis order.
//! 4. A file being written is complete at its path or absent from it: writers work under a temporary name.
//! 5. A [`Raster`], [`Transform`], [`GeoPackage`] or [`FeatureReader`] is used by one thread at a time (`Send`, not `Sync`).

#[macro_use]
mod trace;

mod clip;
mod cog;
mod crs;
mod direct;
mod error;
mod features;
mod ffi;
mod geometry;
mod grid;
pub mod percentiles;
mod pixel;
mod raster;
mod vector;
mod warp;

pub use cog::{BandSpec, CogOptions, CogWriter, Overviews, TILE};
pub use crs::{Crs, Transform, utm_zone};
pub use error::{ErrorKind, GeoError};
pub use features::FeatureReader;
pub use ffi::{BlockCache, gdal_version};
pub use geometry::{Geometry, rasterize, rasterize_classes};
pub use grid::{Bounds, Grid, PixelWindow, piece_starts};
pub use pixel::{DataType, Pixel};
pub use raster::{BandInfo, OpenOptions, Ranges, Raster, RasterInfo, Resampling};
pub use vector::{Feature, Field, FieldType, GeoPackage, Layer, Value, WriteMode, Written};
pub use warp::{WarpMap, WarpResampling};
