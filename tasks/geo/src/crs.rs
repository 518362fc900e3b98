//! Coordinate reference systems and transforms between them, always x before y.
#![expect(unsafe_code, reason = "FFI edge to GDAL's OSR")]

use std::ffi::c_int;
use std::fmt;
use std::sync::Arc;

use gdal_sys::{OGRSpatialReferenceH, OSRAxisMappingStrategy};

use crate::error::{ErrorKind, GeoError, Result};
use crate::ffi::{Options, cstring, start, text, told, watched};

/// A coordinate reference system. Cheap to clone; equal when it means the same.
#[derive(Clone, Debug)]
pub struct Crs {
    epsg: Option<u32>,
    wkt: Arc<str>,
    geographic: bool,
    metres_per_unit: f64,
}

/// An owned OSR handle.
pub(crate) struct Reference(OGRSpatialReferenceH);

impl Reference {
    fn empty() -> Self {
        // SAFETY: null asks for an empty reference; the traditional order is x before y.
        unsafe {
            let handle = gdal_sys::OSRNewSpatialReference(std::ptr::null());
            gdal_sys::OSRSetAxisMappingStrategy(handle, OSRAxisMappingStrategy::OAMS_TRADITIONAL_GIS_ORDER);
            Self(handle)
        }
    }

    pub fn handle(&self) -> OGRSpatialReferenceH {
        self.0
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and released once.
        unsafe { gdal_sys::OSRRelease(self.0) }
    }
}

impl Crs {
    /// WGS 84 longitude and latitude in degrees, `EPSG:4326`.
    pub fn wgs84() -> Result<Self> {
        Self::from_epsg(4326)
    }

    /// By EPSG code.
    pub fn from_epsg(code: u32) -> Result<Self> {
        Self::parse(&format!("EPSG:{code}"))
    }

    /// From `EPSG:32633` or WKT. Nothing is fetched: addresses and file names are refused.
    pub fn parse(definition: &str) -> Result<Self> {
        let trimmed = definition.trim();
        let unknown = |why: String| {
            let shown: String = trimmed.chars().take(80).collect();
            GeoError::new(ErrorKind::Projection, format!("`{shown}` is not a known CRS: {why}"))
        };
        let code = trimmed.get(..5).filter(|p| p.eq_ignore_ascii_case("EPSG:")).map(|_| &trimmed[5..]);
        start()?;
        let source = cstring(trimmed)?;
        let reference = watched(Reference::empty).0;
        let (status, messages) = match code {
            Some(code) => {
                let code: c_int = code.trim().parse().map_err(|_| unknown("its code is not a number".into()))?;
                // SAFETY: the handle is live.
                watched(|| unsafe { gdal_sys::OSRImportFromEPSG(reference.handle(), code) })
            }
            None => {
                let mut pointer = source.as_ptr().cast_mut();
                // SAFETY: the handle is live; `pointer` addresses a NUL-terminated string that outlives the call,
                // which only advances the pointer.
                watched(|| unsafe { gdal_sys::OSRImportFromWkt(reference.handle(), &mut pointer) })
            }
        };
        if status != gdal_sys::OGRErr::OGRERR_NONE {
            let why = if code.is_some() { "no such code" } else { "neither `EPSG:` and a number nor WKT" };
            let why = if messages.is_empty() { why.to_owned() } else { format!("{why} ({})", told(&messages)) };
            return Err(unknown(why));
        }
        Self::of(&reference)
    }

    /// Of a reference that belongs to another object of GDAL; `None` when it is null or cannot be told.
    ///
    /// # Safety
    /// `handle` is null or live.
    pub(crate) unsafe fn of_borrowed(handle: OGRSpatialReferenceH) -> Option<Self> {
        if handle.is_null() {
            return None;
        }
        // SAFETY: promised by the caller; the copy is owned from the start.
        let copy = watched(|| unsafe { Reference(gdal_sys::OSRClone(handle)) }).0;
        Self::of(&copy).ok()
    }

    /// Reads what a live OSR reference says.
    fn of(reference: &Reference) -> Result<Self> {
        let (crs, messages) = watched(|| {
            let mut wkt = std::ptr::null_mut();
            let handle = reference.handle();
            // SAFETY: the handle is live; strings returned are copied before anything else happens, and the WKT,
            // which is ours, is freed once.
            unsafe {
                let options = Options::new(["FORMAT=WKT2_2018"]).ok()?;
                let status = gdal_sys::OSRExportToWktEx(handle, &mut wkt, options.as_ptr().cast_const().cast());
                let definition = text(wkt);
                gdal_sys::VSIFree(wkt.cast());
                if status != gdal_sys::OGRErr::OGRERR_NONE {
                    return None;
                }
                let mut epsg = authority(handle);
                if epsg.is_none() {
                    let copy = Reference(gdal_sys::OSRClone(handle));
                    if gdal_sys::OSRAutoIdentifyEPSG(copy.handle()) == gdal_sys::OGRErr::OGRERR_NONE {
                        epsg = authority(copy.handle());
                    }
                }
                let geographic = gdal_sys::OSRIsGeographic(handle) != 0;
                let metres_per_unit = if geographic {
                    let mut status = gdal_sys::OGRErr::OGRERR_NONE;
                    let radius = gdal_sys::OSRGetSemiMajor(handle, &mut status);
                    gdal_sys::OSRGetAngularUnits(handle, std::ptr::null_mut()) * radius
                } else {
                    gdal_sys::OSRGetLinearUnits(handle, std::ptr::null_mut())
                };
                Some(Self { epsg, wkt: definition?.into(), geographic, metres_per_unit })
            }
        });
        crs.ok_or_else(|| {
            GeoError::new(ErrorKind::Projection, format!("a CRS cannot be written as WKT: {}", told(&messages)))
        })
    }

    /// A live OSR reference of this CRS.
    pub(crate) fn reference(&self) -> Result<Reference> {
        let wkt = cstring(&self.wkt)?;
        let (reference, messages) = watched(|| {
            let reference = Reference::empty();
            let mut pointer = wkt.as_ptr().cast_mut();
            // SAFETY: as in `parse`.
            let status = match self.epsg {
                Some(code) => unsafe { gdal_sys::OSRImportFromEPSG(reference.handle(), code as c_int) },
                None => unsafe { gdal_sys::OSRImportFromWkt(reference.handle(), &mut pointer) },
            };
            (status == gdal_sys::OGRErr::OGRERR_NONE).then_some(reference)
        });
        reference.ok_or_else(|| {
            GeoError::new(ErrorKind::Projection, format!("`{self}` cannot be used as a CRS: {}", told(&messages)))
        })
    }

    /// EPSG code, where it has one.
    pub fn epsg(&self) -> Option<u32> {
        self.epsg
    }

    /// WKT (2018).
    pub fn wkt(&self) -> &str {
        &self.wkt
    }

    /// Whether its coordinates are longitude and latitude.
    pub fn is_geographic(&self) -> bool {
        self.geographic
    }

    /// Metres in one unit of its coordinates; of a degree, along a meridian, for geographic ones.
    pub fn metres_per_unit(&self) -> f64 {
        self.metres_per_unit
    }
}

/// # Safety
/// `handle` is live.
unsafe fn authority(handle: OGRSpatialReferenceH) -> Option<u32> {
    // SAFETY: promised by the caller; both strings belong to the reference and are copied at once.
    unsafe {
        let name = text(gdal_sys::OSRGetAuthorityName(handle, std::ptr::null()))?;
        let code = text(gdal_sys::OSRGetAuthorityCode(handle, std::ptr::null()))?;
        (name == "EPSG").then(|| code.parse().ok())?
    }
}

impl PartialEq for Crs {
    fn eq(&self, other: &Self) -> bool {
        if let (Some(a), Some(b)) = (self.epsg, other.epsg) {
            return a == b;
        }
        if self.wkt == other.wkt {
            return true;
        }
        let (Ok(a), Ok(b)) = (self.reference(), other.reference()) else { return false };
        // SAFETY: both handles are live.
        watched(|| unsafe { gdal_sys::OSRIsSame(a.handle(), b.handle()) }).0 != 0
    }
}

impl fmt::Display for Crs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epsg {
            Some(code) => write!(f, "EPSG:{code}"),
            None => {
                let name = self.wkt.split('"').nth(1).unwrap_or("a CRS without a name");
                f.write_str(name)
            }
        }
    }
}

/// The UTM zone of a place as an EPSG code (326xx north, 327xx south), with the exceptions of Norway and Svalbard.
pub fn utm_zone(longitude: f64, latitude: f64) -> u32 {
    let wrapped = (longitude + 180.0).rem_euclid(360.0);
    let mut zone = (wrapped / 6.0).floor() as u32 % 60 + 1;
    let longitude = wrapped - 180.0;
    if (56.0..64.0).contains(&latitude) && (3.0..12.0).contains(&longitude) {
        zone = 32;
    }
    if (72.0..84.0).contains(&latitude) && (0.0..42.0).contains(&longitude) {
        zone = match longitude {
            l if l < 9.0 => 31,
            l if l < 21.0 => 33,
            l if l < 33.0 => 35,
            _ => 37,
        };
    }
    if latitude >= 0.0 { 32600 + zone } else { 32700 + zone }
}

/// A transform of coordinates from one CRS to another.
pub struct Transform {
    handle: gdal_sys::OGRCoordinateTransformationH,
    name: String,
    same: bool,
}

// SAFETY: a transform holds no thread-local state (PROJ gives each call its thread's own context); it is not `Sync`.
unsafe impl Send for Transform {}

impl Transform {
    /// From one CRS to another.
    pub fn new(from: &Crs, to: &Crs) -> Result<Self> {
        let name = format!("{from} to {to}");
        let (source, target) = (from.reference()?, to.reference()?);
        // SAFETY: both references are live; the transformation keeps copies of them.
        let (handle, messages) =
            watched(|| unsafe { gdal_sys::OCTNewCoordinateTransformation(source.handle(), target.handle()) });
        if handle.is_null() {
            let why = told(&messages);
            return Err(GeoError::new(ErrorKind::Projection, format!("no transform from {name}: {why}")));
        }
        Ok(Self { handle, name, same: from == to })
    }

    pub(crate) fn handle(&self) -> gdal_sys::OGRCoordinateTransformationH {
        self.handle
    }

    /// Transforms points in place. All or an error: points outside of the projection are refused.
    pub fn points(&self, xs: &mut [f64], ys: &mut [f64]) -> Result<()> {
        if xs.len() != ys.len() {
            return Err(GeoError::new(ErrorKind::Request, "as many x as y coordinates are needed"));
        }
        if self.same {
            return Ok(());
        }
        let count = c_int::try_from(xs.len())
            .map_err(|_| GeoError::new(ErrorKind::TooLarge, "too many points for one transform"))?;
        // SAFETY: the handle is live; both slices hold `count` values that are changed in place; z is optional.
        let (good, messages) = watched(|| unsafe {
            gdal_sys::OCTTransform(self.handle, count, xs.as_mut_ptr(), ys.as_mut_ptr(), std::ptr::null_mut())
        });
        if good == 0 || xs.iter().chain(ys.iter()).any(|v| !v.is_finite()) {
            return Err(GeoError::new(
                ErrorKind::Projection,
                format!("points lie outside of where {} is defined: {}", self.name, told(&messages)),
            ));
        }
        Ok(())
    }

    /// Transforms points in place; those outside of the projection become infinite.
    pub fn points_lossy(&self, xs: &mut [f64], ys: &mut [f64]) {
        if self.same || xs.len() != ys.len() {
            return;
        }
        let Ok(count) = c_int::try_from(xs.len()) else { return };
        // SAFETY: as in `points`.
        let _ = watched(|| unsafe {
            gdal_sys::OCTTransform(self.handle, count, xs.as_mut_ptr(), ys.as_mut_ptr(), std::ptr::null_mut())
        });
    }

    /// Transforms one point.
    pub fn point(&self, x: f64, y: f64) -> Result<(f64, f64)> {
        let (mut xs, mut ys) = ([x], [y]);
        self.points(&mut xs, &mut ys)?;
        Ok((xs[0], ys[0]))
    }
}

impl Drop for Transform {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and destroyed once.
        unsafe { gdal_sys::OCTDestroyCoordinateTransformation(self.handle) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinates_are_x_before_y_in_every_crs() {
        let (wgs84, utm) = (Crs::wgs84().unwrap(), Crs::from_epsg(32633).unwrap());
        // pyproj 3.7: Transformer.from_crs(4326, 32633, always_xy=True).transform(15.5, 47.25)
        let (x, y) = Transform::new(&wgs84, &utm).unwrap().point(15.5, 47.25).unwrap();
        assert!((x - 537_835.077_403).abs() < 1e-3 && (y - 5_233_067.540_993).abs() < 1e-3, "{x} {y}");
        let (longitude, latitude) = Transform::new(&utm, &wgs84).unwrap().point(x, y).unwrap();
        assert!((longitude - 15.5).abs() < 1e-9 && (latitude - 47.25).abs() < 1e-9);
    }

    #[test]
    fn a_crs_is_known_by_its_meaning_and_nonsense_is_refused() {
        let utm = Crs::from_epsg(32633).unwrap();
        let again = Crs::parse(utm.wkt()).unwrap();
        assert_eq!((again.epsg(), &again), (Some(32633), &utm));
        assert!(!utm.is_geographic() && utm.metres_per_unit() == 1.0);
        assert_ne!(utm, Crs::from_epsg(32634).unwrap());
        for bad in ["", "EPSG:", "EPSG:99999999", "EPSG:x", "hello", "https://example.com/crs", "/etc/passwd"] {
            let error = Crs::parse(bad).unwrap_err();
            assert_eq!(error.code(), "R110", "{bad}");
        }
    }

    #[test]
    fn utm_zones_follow_the_exceptions_of_norway_and_svalbard() {
        for (longitude, latitude, zone) in [
            (15.0, 47.0, 32633),
            (-180.0, 10.0, 32601),
            (180.0, 10.0, 32601),
            (179.9, -17.0, 32760),
            (5.0, 60.0, 32632),
            (2.9, 60.0, 32631),
            (8.0, 75.0, 32631),
            (10.0, 75.0, 32633),
        ] {
            assert_eq!(utm_zone(longitude, latitude), zone, "{longitude} {latitude}");
        }
    }
}
