//! Geometries, their projection, and burning them into masks.
#![expect(unsafe_code, reason = "FFI edge to GDAL's OGR")]

use std::ffi::{c_int, c_void};

use gdal_sys::{CPLErr, GDALDataType, GDALRWFlag, OGRErr, OGRGeometryH, OGRwkbGeometryType};

use crate::crs::Transform;
use crate::error::{ErrorKind, GeoError, Result};
use crate::ffi::{Options, cstring, start, text, told, watched};
use crate::grid::{Bounds, Grid};

/// A geometry in some CRS that its owner knows.
pub struct Geometry(OGRGeometryH);

// SAFETY: an OGR geometry belongs to no thread; `Geometry` is not `Sync`.
unsafe impl Send for Geometry {}

impl Drop for Geometry {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and destroyed once.
        unsafe { gdal_sys::OGR_G_DestroyGeometry(self.0) }
    }
}

impl Geometry {
    /// From the text of a GeoJSON geometry.
    pub fn from_geojson(json: &str) -> Result<Self> {
        start()?;
        let c_json = cstring(json)?;
        // SAFETY: a NUL-terminated string that outlives the call.
        let (handle, messages) = watched(|| unsafe { gdal_sys::OGR_G_CreateGeometryFromJson(c_json.as_ptr()) });
        Self::checked(handle, "GeoJSON", &messages)
    }

    /// From well-known binary.
    pub fn from_wkb(wkb: &[u8]) -> Result<Self> {
        start()?;
        let mut handle = std::ptr::null_mut();
        let length = c_int::try_from(wkb.len())
            .map_err(|_| GeoError::new(ErrorKind::TooLarge, "a geometry of more than 2 GiB"))?;
        // SAFETY: the pointer and length describe `wkb`; the handle is written only on success.
        let (status, messages) = watched(|| unsafe {
            gdal_sys::OGR_G_CreateFromWkb(wkb.as_ptr().cast::<c_void>(), std::ptr::null_mut(), &mut handle, length)
        });
        let handle = if status == OGRErr::OGRERR_NONE { handle } else { std::ptr::null_mut() };
        Self::checked(handle, "WKB", &messages)
    }

    fn checked(handle: OGRGeometryH, format: &str, messages: &[crate::ffi::Message]) -> Result<Self> {
        if handle.is_null() {
            let message = format!("a geometry is not valid {format}: {}", told(messages));
            return Err(GeoError::new(ErrorKind::Geometry, message));
        }
        Ok(Self(handle))
    }

    /// As little-endian well-known binary (ISO).
    pub fn to_wkb(&self) -> Result<Vec<u8>> {
        // SAFETY: the handle is live and the buffer has the size that OGR asks for.
        let ((status, wkb), messages) = watched(|| unsafe {
            let mut wkb = vec![0; gdal_sys::OGR_G_WkbSize(self.0).max(0) as usize];
            let order = gdal_sys::OGRwkbByteOrder::wkbNDR;
            (gdal_sys::OGR_G_ExportToIsoWkb(self.0, order, wkb.as_mut_ptr()), wkb)
        });
        if status != OGRErr::OGRERR_NONE {
            return Err(GeoError::new(ErrorKind::Geometry, format!("no WKB: {}", told(&messages))));
        }
        Ok(wkb)
    }

    /// As the text of a GeoJSON geometry.
    pub fn to_geojson(&self) -> Result<String> {
        // SAFETY: the handle is live; the text is ours, is copied and freed once.
        let (json, messages) = watched(|| unsafe {
            let handle = gdal_sys::OGR_G_ExportToJson(self.0);
            let json = text(handle);
            gdal_sys::VSIFree(handle.cast());
            json
        });
        json.ok_or_else(|| GeoError::new(ErrorKind::Geometry, format!("no GeoJSON: {}", told(&messages))))
    }

    /// The box around it.
    pub fn bounds(&self) -> Bounds {
        let mut envelope = gdal_sys::OGREnvelope { MinX: 0.0, MaxX: 0.0, MinY: 0.0, MaxY: 0.0 };
        // SAFETY: the handle is live; the envelope is written through the pointer.
        unsafe { gdal_sys::OGR_G_GetEnvelope(self.0, &mut envelope) };
        Bounds { left: envelope.MinX, bottom: envelope.MinY, right: envelope.MaxX, top: envelope.MaxY }
    }

    /// Whether it has no points.
    pub fn is_empty(&self) -> bool {
        // SAFETY: the handle is live.
        unsafe { gdal_sys::OGR_G_IsEmpty(self.0) != 0 }
    }

    /// Whether it is a polygon or a set of polygons.
    pub fn is_polygonal(&self) -> bool {
        [OGRwkbGeometryType::wkbPolygon, OGRwkbGeometryType::wkbMultiPolygon].contains(&self.kind())
    }

    /// Takes a handle over.
    ///
    /// # Safety
    /// `handle` is live and nobody else destroys it.
    pub(crate) unsafe fn owning(handle: OGRGeometryH) -> Self {
        Self(handle)
    }

    /// Its type, without a third dimension.
    pub(crate) fn kind(&self) -> OGRwkbGeometryType::Type {
        // SAFETY: the handle is live.
        unsafe { gdal_sys::OGR_GT_Flatten(gdal_sys::OGR_G_GetGeometryType(self.0)) }
    }

    /// A polygon as a set of one.
    pub(crate) fn into_multi_polygon(self) -> Self {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the call consumes the handle, which `this` no longer destroys, and returns one that is ours.
        Self(watched(|| unsafe { gdal_sys::OGR_G_ForceToMultiPolygon(this.0) }).0)
    }

    /// The same shape with points in all edges that are longer than this.
    pub fn dense(&self, longest: f64) -> Self {
        // SAFETY: the handle is live; the copy is owned by the new geometry from the start and changed in place.
        watched(|| unsafe {
            let copy = Self(gdal_sys::OGR_G_Clone(self.0));
            gdal_sys::OGR_G_Segmentize(copy.0, longest);
            copy
        })
        .0
    }

    /// The same shape in another CRS. Long edges get points in between first: a straight line stays where it was.
    pub fn project(&self, transform: &Transform) -> Result<Self> {
        // SAFETY: the handles are live; the copy is owned by the new geometry from the start.
        let ((status, copy), messages) = watched(|| unsafe {
            let copy = Self(gdal_sys::OGR_G_Clone(self.0));
            densify(copy.0);
            (gdal_sys::OGR_G_Transform(copy.0, transform.handle()), copy)
        });
        if status != OGRErr::OGRERR_NONE {
            let message = format!("a geometry lies outside of where its projection is defined: {}", told(&messages));
            return Err(GeoError::new(ErrorKind::Projection, message));
        }
        Ok(copy)
    }

    pub(crate) fn handle(&self) -> OGRGeometryH {
        self.0
    }
}

/// Puts points into the edges of each part by itself, 64 along its longer side: parts may lie far from each other, as
/// those on both sides of the antimeridian do.
///
/// # Safety
/// `handle` is live.
unsafe fn densify(handle: OGRGeometryH) {
    // SAFETY: promised by the caller; parts belong to the whole and are changed in place; the envelope is written.
    unsafe {
        let kind = gdal_sys::OGR_GT_Flatten(gdal_sys::OGR_G_GetGeometryType(handle));
        let collections = [
            OGRwkbGeometryType::wkbMultiPolygon,
            OGRwkbGeometryType::wkbMultiLineString,
            OGRwkbGeometryType::wkbGeometryCollection,
        ];
        if collections.contains(&kind) {
            for part in 0..gdal_sys::OGR_G_GetGeometryCount(handle) {
                densify(gdal_sys::OGR_G_GetGeometryRef(handle, part));
            }
            return;
        }
        let mut envelope = gdal_sys::OGREnvelope { MinX: 0.0, MaxX: 0.0, MinY: 0.0, MaxY: 0.0 };
        gdal_sys::OGR_G_GetEnvelope(handle, &mut envelope);
        let longest = (envelope.MaxX - envelope.MinX).max(envelope.MaxY - envelope.MinY);
        if longest > 0.0 {
            gdal_sys::OGR_G_Segmentize(handle, longest / 64.0);
        }
    }
}

/// A mask of `grid`: 1 where a pixel's centre (or any of it, with `all_touched`) lies in a geometry, else 0.
/// The geometries are in the CRS of the grid.
pub fn rasterize(geometries: &[Geometry], grid: &Grid, all_touched: bool) -> Result<Vec<u8>> {
    let shapes: Vec<(&Geometry, u8)> = geometries.iter().map(|geometry| (geometry, 1)).collect();
    rasterize_classes(&shapes, grid, 0, all_touched)
}

/// As [`rasterize`], with a value for each geometry and one for where there is none. Where several lie on one pixel, the
/// last of them counts.
pub fn rasterize_classes(shapes: &[(&Geometry, u8)], grid: &Grid, none: u8, all_touched: bool) -> Result<Vec<u8>> {
    start()?;
    let values: Vec<f64> = shapes.iter().map(|(_, value)| f64::from(*value)).collect();
    let failure = |messages: &[crate::ffi::Message]| {
        GeoError::new(ErrorKind::Geometry, format!("geometries cannot be rasterized: {}", told(messages)))
    };
    let (Ok(width), Ok(height)) = (c_int::try_from(grid.width), c_int::try_from(grid.height)) else {
        return Err(failure(&[]));
    };
    let mut mask = vec![none; grid.width * grid.height];
    if shapes.is_empty() || mask.is_empty() {
        return Ok(mask);
    }
    let options = Options::new(if all_touched { &["ALL_TOUCHED=TRUE"][..] } else { &[] })?;
    let handles: Vec<OGRGeometryH> = shapes.iter().map(|(geometry, _)| geometry.handle()).collect();
    // SAFETY: the dataset is made, used and closed here; handles and values have the same length, which is passed;
    // the mask holds width * height bytes and is read into after burning.
    let (good, messages) = watched(|| unsafe {
        let driver = gdal_sys::GDALGetDriverByName(c"MEM".as_ptr());
        let byte = GDALDataType::GDT_Byte;
        let dataset = gdal_sys::GDALCreate(driver, c"".as_ptr(), width, height, 1, byte, std::ptr::null_mut());
        if dataset.is_null() {
            return false;
        }
        gdal_sys::GDALSetGeoTransform(dataset, grid.geo_transform().as_ptr().cast_mut());
        gdal_sys::GDALFillRaster(gdal_sys::GDALGetRasterBand(dataset, 1), f64::from(none), 0.0);
        let burnt = gdal_sys::GDALRasterizeGeometries(
            dataset,
            1,
            [1].as_ptr(),
            handles.len() as c_int,
            handles.as_ptr(),
            None,
            std::ptr::null_mut(),
            values.as_ptr(),
            options.as_ptr(),
            None,
            std::ptr::null_mut(),
        );
        let read = gdal_sys::GDALRasterIO(
            gdal_sys::GDALGetRasterBand(dataset, 1),
            GDALRWFlag::GF_Read,
            0,
            0,
            width,
            height,
            mask.as_mut_ptr().cast::<c_void>(),
            width,
            height,
            byte,
            0,
            0,
        );
        gdal_sys::GDALClose(dataset);
        burnt == CPLErr::CE_None && read == CPLErr::CE_None
    });
    if good { Ok(mask) } else { Err(failure(&messages)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crs::Crs;

    #[test]
    fn a_polygon_burns_the_pixels_whose_centre_it_holds() {
        let crs = Crs::from_epsg(32633).unwrap();
        let grid = Grid { crs, left: 0.0, top: 40.0, pixel_width: 10.0, pixel_height: 10.0, width: 5, height: 4 };
        let json = r#"{"type":"Polygon","coordinates":[[[4,4],[26,4],[26,36],[4,36],[4,4]]]}"#;
        let mask = rasterize(&[Geometry::from_geojson(json).unwrap()], &grid, false).unwrap();
        assert_eq!(mask, [1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0]);
    }

    #[test]
    fn the_last_of_several_polygons_counts() {
        let crs = Crs::from_epsg(32633).unwrap();
        let grid = Grid { crs, left: 0.0, top: 10.0, pixel_width: 10.0, pixel_height: 10.0, width: 4, height: 1 };
        let part = |left: u8, right: u8| {
            let json = format!(
                r#"{{"type":"Polygon","coordinates":[[[{left},0],[{right},0],[{right},10],[{left},10],[{left},0]]]}}"#
            );
            Geometry::from_geojson(&json).unwrap()
        };
        let (first, last) = (part(0, 20), part(10, 30));
        let shapes = [(&first, 3), (&last, 7)];
        assert_eq!(rasterize_classes(&shapes, &grid, 255, false).unwrap(), [3, 7, 7, 255]);
        assert_eq!(rasterize_classes(&[], &grid, 9, false).unwrap(), [9; 4]);
    }

    #[test]
    fn geometries_travel_through_wkb_and_projections() {
        let square = r#"{ "type": "Polygon", "coordinates": [ [ [ 15.0, 47.0 ], [ 15.1, 47.0 ], [ 15.1, 47.1 ], [ 15.0, 47.1 ], [ 15.0, 47.0 ] ] ] }"#;
        let geometry = Geometry::from_geojson(square).unwrap();
        let again = Geometry::from_wkb(&geometry.to_wkb().unwrap()).unwrap();
        assert_eq!(again.to_wkb().unwrap(), geometry.to_wkb().unwrap());
        assert_eq!(again.bounds(), Bounds { left: 15.0, bottom: 47.0, right: 15.1, top: 47.1 });
        let (wgs84, utm) = (Crs::wgs84().unwrap(), Crs::from_epsg(32633).unwrap());
        let projected = geometry.project(&Transform::new(&wgs84, &utm).unwrap()).unwrap();
        assert!((projected.bounds().left - 500_000.0).abs() < 1e-6);
        // Two boxes at both ends of the globe: the northern edge of each bulges by the same as that of one alone.
        let part = |west: f64, east: f64| format!("[[[{west},60],[{east},60],[{east},61],[{west},61],[{west},60]]]");
        let both =
            format!(r#"{{"type":"MultiPolygon","coordinates":[{},{}]}}"#, part(172.0, 180.0), part(-180.0, -172.0));
        let alone = format!(r#"{{"type":"Polygon","coordinates":{}}}"#, part(172.0, 180.0));
        let zone = Transform::new(&wgs84, &Crs::from_epsg(32660).unwrap()).unwrap();
        let southern = |json: &str| Geometry::from_geojson(json).unwrap().project(&zone).unwrap().bounds().bottom;
        assert!((southern(&both) - southern(&alone)).abs() < 1.0, "{} {}", southern(&both), southern(&alone));
        for bad in ["", "{", r#"{"type":"Nothing"}"#] {
            assert!(Geometry::from_geojson(bad).is_err(), "{bad}");
        }
        assert!(Geometry::from_wkb(&[1, 2, 3]).is_err());
    }
}
