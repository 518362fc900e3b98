//! What rasters say of themselves.
#![expect(unsafe_code, reason = "FFI edge to GDAL")]

use gdal_sys::{CPLErr, GDALRasterBandH};

use super::Raster;
use crate::crs::Crs;
use crate::error::{ErrorKind, GeoError, Result};
use crate::ffi::{Options, text};
use crate::grid::Grid;
use crate::pixel::DataType;

/// More bands than any sensor has: a file that claims them is refused before memory is taken for each.
const MOST_BANDS: usize = 4096;

/// What a band says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct BandInfo {
    /// Band name (GDAL's description), empty when it has none.
    pub name: String,
    /// Type of its pixels.
    pub data_type: DataType,
    /// No-data value, NaN included.
    pub nodata: Option<f64>,
    /// value = pixel * scale + offset; 1 when not told.
    pub scale: f64,
    /// See `scale`; 0 when not told.
    pub offset: f64,
    /// Unit of the value, empty when not told.
    pub unit: String,
}

/// What a raster says of itself.
#[derive(Clone, Debug)]
pub struct RasterInfo {
    /// Where it lies, without any query string.
    pub name: String,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bands, in order.
    pub bands: Vec<BandInfo>,
    /// CRS, if it has one.
    pub crs: Option<Crs>,
    /// GDAL's six numbers, if it has them.
    pub geo_transform: Option<[f64; 6]>,
    /// Width and height of the blocks it is stored in.
    pub block: (usize, usize),
    /// Whether the samples of all bands lie together in one block.
    pub pixel_interleaved: bool,
}

impl RasterInfo {
    /// The grid of its pixels. Refuses rasters without CRS or geotransform, and rotated or south-up ones.
    pub fn grid(&self) -> Result<Grid> {
        let name = &self.name;
        let crs = self.crs.clone().ok_or_else(|| {
            GeoError::new(ErrorKind::NotGeoreferenced, format!("`{name}` has no coordinate reference system"))
        })?;
        let [left, pixel_width, row_shear, top, column_shear, pixel_height] = self.geo_transform.ok_or_else(|| {
            GeoError::new(ErrorKind::NotGeoreferenced, format!("`{name}` has no geotransform (where its pixels lie)"))
        })?;
        if row_shear != 0.0 || column_shear != 0.0 {
            return Err(GeoError::new(
                ErrorKind::NotNorthUp,
                format!("`{name}` is rotated or sheared (its geotransform has {row_shear} and {column_shear})"),
            ));
        }
        if !(pixel_height < 0.0 && pixel_width > 0.0) {
            return Err(GeoError::new(
                ErrorKind::NotNorthUp,
                format!("`{name}` is not north-up: its pixel size is {pixel_width} by {pixel_height}"),
            ));
        }
        if ![left, top, pixel_width, pixel_height].into_iter().all(f64::is_finite) {
            return Err(GeoError::new(
                ErrorKind::NotGeoreferenced,
                format!("`{name}` has a geotransform that is not finite"),
            ));
        }
        Ok(Grid { crs, left, top, pixel_width, pixel_height: -pixel_height, width: self.width, height: self.height })
    }

    /// Index of the band of this name.
    pub fn band(&self, name: &str) -> Result<usize> {
        self.bands.iter().position(|b| b.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.bands.iter().map(|b| b.name.as_str()).collect();
            let message = format!("`{}` has no band `{name}`; it has: {}", self.name, names.join(", "));
            GeoError::new(ErrorKind::Request, message)
        })
    }
}

impl Raster {
    /// What GDAL knows of the open dataset.
    pub(super) fn describe(&self, name: String) -> Result<RasterInfo> {
        // SAFETY: the handle is live; strings returned belong to the dataset and are copied at once; arrays and
        // numbers are written through pointers to locals of the right size.
        let handle = self.handle.get();
        unsafe {
            let count = gdal_sys::GDALGetRasterCount(handle).max(0) as usize;
            if count == 0 {
                return Err(GeoError::new(ErrorKind::NotARaster, format!("`{name}` has no raster band")));
            }
            if count > MOST_BANDS {
                let message = format!("`{name}` has {count} bands; at most {MOST_BANDS} are taken");
                return Err(GeoError::new(ErrorKind::TooLarge, message));
            }
            let mut bands = Vec::with_capacity(count);
            for index in 0..count {
                bands.push(describe_band(self.band(index), &name, index)?);
            }
            let (mut block_width, mut block_height) = (0, 0);
            gdal_sys::GDALGetBlockSize(self.band(0), &mut block_width, &mut block_height);
            let reference = gdal_sys::GDALGetSpatialRef(handle);
            let crs = if reference.is_null() {
                None
            } else {
                let mut wkt = std::ptr::null_mut();
                let options = Options::new(["FORMAT=WKT2_2018"])?;
                gdal_sys::OSRExportToWktEx(reference, &mut wkt, options.as_ptr().cast_const().cast());
                let definition = text(wkt).unwrap_or_default();
                gdal_sys::VSIFree(wkt.cast());
                // What GeoTIFF calls "unnamed" or leaves local says nothing about where on Earth it lies.
                if definition.is_empty() || definition.starts_with("ENGCRS") || definition.starts_with("LOCAL_CS") {
                    None
                } else {
                    Some(Crs::parse(&definition)?)
                }
            };
            let mut geo_transform = [0.0; 6];
            let status = gdal_sys::GDALGetGeoTransform(handle, geo_transform.as_mut_ptr());
            let interleave =
                text(gdal_sys::GDALGetMetadataItem(handle, c"INTERLEAVE".as_ptr(), c"IMAGE_STRUCTURE".as_ptr()));
            Ok(RasterInfo {
                name,
                width: gdal_sys::GDALGetRasterXSize(handle).max(0) as usize,
                height: gdal_sys::GDALGetRasterYSize(handle).max(0) as usize,
                bands,
                crs,
                // The identity is what programs write for want of a place.
                geo_transform: (status == CPLErr::CE_None && geo_transform != [0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
                    .then_some(geo_transform),
                block: (block_width.max(1) as usize, block_height.max(1) as usize),
                pixel_interleaved: count > 1 && interleave.as_deref() == Some("PIXEL"),
            })
        }
    }
}

/// # Safety
/// `band` is a live band handle.
unsafe fn describe_band(band: GDALRasterBandH, name: &str, index: usize) -> Result<BandInfo> {
    // SAFETY: the handle is live; strings belong to the band and are copied at once.
    unsafe {
        let code = gdal_sys::GDALGetRasterDataType(band);
        let data_type = DataType::of_code(code).ok_or_else(|| {
            let type_name = text(gdal_sys::GDALGetDataTypeName(code)).unwrap_or_default();
            let message = format!("band {} of `{name}` holds {type_name}, which is not taken", index + 1);
            GeoError::new(ErrorKind::NotARaster, message)
        })?;
        let mut has = 0;
        let nodata = gdal_sys::GDALGetRasterNoDataValue(band, &mut has);
        let nodata = (has != 0).then_some(nodata);
        let scale = gdal_sys::GDALGetRasterScale(band, &mut has);
        let scale = if has != 0 { scale } else { 1.0 };
        let offset = gdal_sys::GDALGetRasterOffset(band, &mut has);
        let offset = if has != 0 { offset } else { 0.0 };
        Ok(BandInfo {
            name: text(gdal_sys::GDALGetDescription(band)).unwrap_or_default(),
            data_type,
            nodata,
            scale,
            offset,
            unit: text(gdal_sys::GDALGetRasterUnitType(band)).unwrap_or_default(),
        })
    }
}
