//! Reading features of vector files: GeoJSON, GeoPackage, Shapefile, FlatGeobuf and KML.
#![expect(unsafe_code, reason = "FFI edge to GDAL's OGR")]

use std::ffi::c_int;
use std::path::Path;

use gdal_sys::{GDALDatasetH, OGRFieldType, OGRLayerH};

use crate::crs::Crs;
use crate::error::{ErrorKind, GeoError, Result};
use crate::ffi::{Options, cstring, failed, start, text, told, watched};
use crate::geometry::Geometry;
use crate::vector::{Feature, Value};

/// `GDAL_OF_VECTOR` and `GDAL_OF_VERBOSE_ERROR` of gdal.h.
const OPEN_VECTOR: u32 = 0x04;
const OPEN_VERBOSE_ERROR: u32 = 0x40;
/// Formats whose files hold their features themselves: a VRT or a database connection may point anywhere.
const DRIVERS: [&str; 5] = ["GeoJSON", "GPKG", "ESRI Shapefile", "FlatGeobuf", "KML"];

/// A layer of a vector file open for reading.
pub struct FeatureReader {
    dataset: GDALDatasetH,
    layer: OGRLayerH,
    name: String,
    crs: Option<Crs>,
    fields: Vec<(String, OGRFieldType::Type)>,
}

// SAFETY: a GDAL dataset may be used by any one thread at a time; `FeatureReader` is not `Sync`.
unsafe impl Send for FeatureReader {}

impl Drop for FeatureReader {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and closed once.
        let _ = watched(|| unsafe { gdal_sys::GDALClose(self.dataset) });
    }
}

impl FeatureReader {
    /// Opens a layer by name, or the only one.
    ///
    /// # Errors
    /// A file that is missing or of no accepted format, a layer that it does not have, several when none is named.
    pub fn open(path: &Path, layer: Option<&str>) -> Result<Self> {
        start()?;
        let name = path.display().to_string();
        if !path.exists() {
            return Err(GeoError::new(ErrorKind::NotFound, format!("cannot open `{name}`: no such file")));
        }
        let c_path = cstring(&path.to_string_lossy())?;
        let drivers = Options::new(DRIVERS)?;
        // SAFETY: all pointers are to NUL-terminated strings and arrays that outlive the call.
        let (dataset, messages) = watched(|| unsafe {
            gdal_sys::GDALOpenEx(
                c_path.as_ptr(),
                OPEN_VECTOR | OPEN_VERBOSE_ERROR,
                drivers.as_ptr().cast_const().cast(),
                std::ptr::null(),
                std::ptr::null(),
            )
        });
        if dataset.is_null() {
            let message = format!("cannot open `{name}` as {}: {}", DRIVERS.join(", "), told(&messages));
            return Err(GeoError::new(ErrorKind::Vector, message));
        }
        // From here on, `reader` closes the handle whatever happens.
        let mut reader = Self { dataset, layer: std::ptr::null_mut(), name, crs: None, fields: Vec::new() };
        reader.layer = reader.find(layer)?;
        // SAFETY: the layer is live; its reference and definition belong to it and are copied.
        (reader.crs, reader.fields) = watched(|| unsafe {
            let definition = gdal_sys::OGR_L_GetLayerDefn(reader.layer);
            let fields = (0..gdal_sys::OGR_FD_GetFieldCount(definition)).map(|index| {
                let field = gdal_sys::OGR_FD_GetFieldDefn(definition, index);
                let name = text(gdal_sys::OGR_Fld_GetNameRef(field)).unwrap_or_default();
                (name, gdal_sys::OGR_Fld_GetType(field))
            });
            (Crs::of_borrowed(gdal_sys::OGR_L_GetSpatialRef(reader.layer)), fields.collect())
        })
        .0;
        Ok(reader)
    }

    fn find(&self, wanted: Option<&str>) -> Result<OGRLayerH> {
        // SAFETY: the dataset is live; layers belong to it.
        let layers: Vec<(OGRLayerH, String)> = watched(|| unsafe {
            (0..gdal_sys::GDALDatasetGetLayerCount(self.dataset))
                .map(|index| {
                    let layer = gdal_sys::GDALDatasetGetLayer(self.dataset, index);
                    (layer, text(gdal_sys::OGR_L_GetName(layer)).unwrap_or_default())
                })
                .collect()
        })
        .0;
        let names = || layers.iter().map(|(_, name)| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let refuse = |why: String| Err(GeoError::new(ErrorKind::Vector, format!("`{}` {why}", self.name)));
        match (wanted, layers.as_slice()) {
            (_, []) => refuse("has no layer".to_owned()),
            (None, [(layer, _)]) => Ok(*layer),
            (None, _) => refuse(format!("has {} layers and none is named: {}", layers.len(), names())),
            (Some(wanted), _) => match layers.iter().find(|(_, name)| name == wanted) {
                Some((layer, _)) => Ok(*layer),
                None => refuse(format!("has no layer `{wanted}`; it has: {}", names())),
            },
        }
    }

    /// CRS of its geometries, if it tells one.
    pub fn crs(&self) -> Option<&Crs> {
        self.crs.as_ref()
    }

    /// Names of its attributes, in the order of the values of a [`Feature`].
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().map(|(name, _)| name.as_str())
    }

    /// Every feature in the order of the file; `None` in place of one without a geometry. Ends after an error.
    pub fn features(&mut self) -> impl Iterator<Item = Result<Option<Feature>>> {
        // SAFETY: the layer is live.
        let _ = watched(|| unsafe { gdal_sys::OGR_L_ResetReading(self.layer) });
        let mut ended = false;
        std::iter::from_fn(move || {
            let next = if ended { None } else { self.next().transpose() };
            ended = !matches!(next, Some(Ok(_)));
            next
        })
    }

    fn next(&mut self) -> Result<Option<Option<Feature>>> {
        // SAFETY: the feature read is destroyed here; its geometry is taken out and owned.
        let (feature, messages) = watched(|| unsafe {
            let feature = gdal_sys::OGR_L_GetNextFeature(self.layer);
            if feature.is_null() {
                return None;
            }
            let values = self.fields.iter().enumerate().map(|(index, (_, kind))| value(feature, index, *kind));
            let values = values.collect();
            let geometry = gdal_sys::OGR_F_StealGeometry(feature);
            gdal_sys::OGR_F_Destroy(feature);
            let geometry = (!geometry.is_null()).then(|| Geometry::owning(geometry));
            Some(geometry.map(|geometry| Feature { geometry, values }))
        });
        if failed(&messages) {
            let message = format!("cannot read the features of `{}`: {}", self.name, told(&messages));
            return Err(GeoError::new(ErrorKind::Vector, message));
        }
        Ok(feature)
    }
}

/// # Safety
/// `feature` is live and has a field at `index` of type `kind`.
unsafe fn value(feature: gdal_sys::OGRFeatureH, index: usize, kind: OGRFieldType::Type) -> Value {
    let index = index as c_int;
    // SAFETY: promised by the caller; texts belong to the feature and are copied at once.
    unsafe {
        if gdal_sys::OGR_F_IsFieldSetAndNotNull(feature, index) == 0 {
            return Value::Null;
        }
        match kind {
            OGRFieldType::OFTInteger | OGRFieldType::OFTInteger64 => {
                Value::Integer(gdal_sys::OGR_F_GetFieldAsInteger64(feature, index))
            }
            OGRFieldType::OFTReal => Value::Real(gdal_sys::OGR_F_GetFieldAsDouble(feature, index)),
            _ => text(gdal_sys::OGR_F_GetFieldAsString(feature, index)).map_or(Value::Null, Value::Text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Field, FieldType, GeoPackage, Layer, WriteMode};

    fn told(path: &Path, layer: Option<&str>) -> String {
        FeatureReader::open(path, layer).err().expect("an error").message().to_owned()
    }

    #[test]
    fn features_of_geojson_and_geopackage_are_read_with_their_values() {
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("a.geojson");
        let feature = |geometry: &str, name: &str| {
            format!(r#"{{"type":"Feature","properties":{{"name":{name},"km":2.5,"n":3}},"geometry":{geometry}}}"#)
        };
        let point = r#"{"type":"Point","coordinates":[15,47]}"#;
        let features = [feature(point, r#""a""#), feature("null", "null")].join(",");
        std::fs::write(&json, format!(r#"{{"type":"FeatureCollection","features":[{features}]}}"#)).unwrap();
        let mut reader = FeatureReader::open(&json, None).unwrap();
        assert_eq!(reader.crs(), Some(&Crs::wgs84().unwrap()));
        assert_eq!(reader.fields().collect::<Vec<_>>(), ["name", "km", "n"]);
        let seen = reader
            .features()
            .map(|feature| feature.unwrap().map(|feature| (feature.geometry.bounds().left, feature.values)));
        let seen: Vec<_> = seen.collect();
        let values = vec![Value::Text("a".into()), Value::Real(2.5), Value::Integer(3)];
        assert_eq!(seen, [Some((15.0, values)), None]);

        let package = folder.path().join("b.gpkg");
        let crs = Crs::from_epsg(32633).unwrap();
        let layer =
            |name: &str| Layer { name: name.into(), crs: crs.clone(), fields: vec![Field::new("c", FieldType::Text)] };
        let mut written = GeoPackage::open_or_create(&package).unwrap();
        for name in ["one", "two"] {
            let geometry = Geometry::from_geojson(point).unwrap();
            let row = Feature { geometry, values: vec![Value::Text(name.into())] };
            written.write(&layer(name), &WriteMode::Replace, [Ok(row)]).unwrap();
        }
        written.finish().unwrap();
        let reader = FeatureReader::open(&package, Some("two")).unwrap();
        assert_eq!(reader.crs(), Some(&crs));
        assert!(told(&package, None).contains("2 layers and none is named: `one`, `two`"));
        assert!(told(&package, Some("three")).contains("no layer `three`; it has: `one`, `two`"));
        let wrong = folder.path().join("c.geojson");
        std::fs::write(&wrong, "{").unwrap();
        assert!(told(&wrong, None).contains("cannot open"));
        assert!(told(&folder.path().join("none.shp"), None).contains("no such file"));
    }
}
