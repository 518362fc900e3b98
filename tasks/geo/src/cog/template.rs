//! Georeferencing and metadata tags, made by GDAL in a raster of one pixel in memory and read back as bytes.
#![expect(unsafe_code, reason = "FFI edge to GDAL")]

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};

use super::CogOptions;
use super::pyramid::Statistics;
use super::tiff::Tag;
use crate::error::{ErrorKind, GeoError, Result};
use crate::ffi::{Options, cstring, failed, told, watched};
use crate::grid::Grid;
use crate::pixel::DataType;

/// Scale, tie point, matrix, keys, doubles, texts of GeoTIFF; metadata and no-data of GDAL.
const COPIED: [u16; 8] = [33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113];

/// The tags that say where the raster lies and what its bands are.
pub fn tags(grid: &Grid, data_type: DataType, options: &CogOptions, statistics: &[Statistics]) -> Result<Vec<Tag>> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("/vsimem/swath-template-{}.tif", NEXT.fetch_add(1, Ordering::Relaxed));
    let c_name = cstring(&name)?;
    let (written, messages) = watched(|| write(&c_name, grid, data_type, options, statistics));
    let bytes = watched(|| {
        let mut length = 0;
        // SAFETY: the buffer returned belongs to the file in memory, is copied at once, and the file is removed after.
        unsafe {
            let buffer = gdal_sys::VSIGetMemFileBuffer(c_name.as_ptr(), &mut length, 0);
            let bytes = (!buffer.is_null()).then(|| std::slice::from_raw_parts(buffer, length as usize).to_vec());
            gdal_sys::VSIUnlink(c_name.as_ptr());
            bytes
        }
    })
    .0;
    written?;
    let refused = || GeoError::new(ErrorKind::Write, format!("GDAL wrote no georeferencing: {}", told(&messages)));
    if failed(&messages) {
        return Err(refused());
    }
    bytes.and_then(|bytes| parse(&bytes)).ok_or_else(refused)
}

fn write(
    name: &std::ffi::CStr,
    grid: &Grid,
    data_type: DataType,
    options: &CogOptions,
    statistics: &[Statistics],
) -> Result<()> {
    let reference = grid.crs.reference()?;
    let creation = Options::new(["PHOTOMETRIC=MINISBLACK", "INTERLEAVE=BAND", "BIGTIFF=NO"])?;
    let mut items: Vec<(usize, String, String)> = Vec::new();
    for (index, all) in statistics.iter().enumerate() {
        if all.count > 0 {
            let percent = 100.0 * all.count as f64 / all.pixels as f64;
            for (key, value) in [
                ("MAXIMUM", format!("{}", all.maximum)),
                ("MEAN", format!("{}", all.mean)),
                ("MINIMUM", format!("{}", all.minimum)),
                ("STDDEV", format!("{}", all.deviation())),
                ("VALID_PERCENT", format!("{percent:.4}")),
            ] {
                items.push((index + 1, format!("STATISTICS_{key}"), value));
            }
        }
    }
    items.extend(options.metadata.iter().map(|(key, value)| (0, key.clone(), value.clone())));
    // SAFETY: the dataset is created, filled and closed here; every string outlives the call that takes it.
    unsafe {
        let driver = gdal_sys::GDALGetDriverByName(c"GTiff".as_ptr());
        let bands = options.bands.len() as c_int;
        let dataset = gdal_sys::GDALCreate(driver, name.as_ptr(), 1, 1, bands, data_type.code(), creation.as_ptr());
        if dataset.is_null() {
            return Err(GeoError::new(ErrorKind::Write, "GDAL cannot create a GeoTIFF in memory"));
        }
        let fill = || -> Result<()> {
            gdal_sys::GDALSetSpatialRef(dataset, reference.handle());
            gdal_sys::GDALSetGeoTransform(dataset, grid.geo_transform().as_ptr().cast_mut());
            if let Some(nodata) = options.nodata {
                gdal_sys::GDALSetRasterNoDataValue(gdal_sys::GDALGetRasterBand(dataset, 1), nodata);
            }
            for (index, band) in options.bands.iter().enumerate() {
                let handle = gdal_sys::GDALGetRasterBand(dataset, index as c_int + 1);
                gdal_sys::GDALSetDescription(handle, cstring(&band.name)?.as_ptr());
                if let Some(scale) = band.scale {
                    gdal_sys::GDALSetRasterScale(handle, scale);
                }
                if let Some(offset) = band.offset {
                    gdal_sys::GDALSetRasterOffset(handle, offset);
                }
                if let Some(unit) = &band.unit {
                    gdal_sys::GDALSetRasterUnitType(handle, cstring(unit)?.as_ptr());
                }
            }
            for (band, key, value) in &items {
                let object = if *band == 0 { dataset } else { gdal_sys::GDALGetRasterBand(dataset, *band as c_int) };
                gdal_sys::GDALSetMetadataItem(
                    object,
                    cstring(key)?.as_ptr(),
                    cstring(value)?.as_ptr(),
                    std::ptr::null(),
                );
            }
            Ok(())
        };
        let filled = fill();
        gdal_sys::GDALClose(dataset);
        filled
    }
}

/// Reads the copied tags off a classic little-endian TIFF. `None` when it is not one.
fn parse(bytes: &[u8]) -> Option<Vec<Tag>> {
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if bytes.get(..4)? != b"II\x2A\0" {
        return None;
    }
    let directory = u32_at(4)? as usize;
    let mut tags = Vec::new();
    for index in 0..u16_at(directory)? as usize {
        let entry = directory + 2 + index * 12;
        let (id, kind, count) = (u16_at(entry)?, u16_at(entry + 2)?, u32_at(entry + 4)? as usize);
        if !COPIED.contains(&id) {
            continue;
        }
        let size = count
            * match kind {
                1 | 2 | 6 | 7 => 1,
                3 | 8 => 2,
                4 | 9 | 11 => 4,
                _ => 8,
            };
        let at = if size <= 4 { entry + 8 } else { u32_at(entry + 8)? as usize };
        tags.push(Tag { id, kind, count: count as u64, value: bytes.get(at..at + size)?.to_vec() });
    }
    Some(tags)
}
