//! GeoPackages: layers of features, written in one transaction each.
#![expect(unsafe_code, reason = "FFI edge to GDAL's OGR")]

use std::collections::HashMap;
use std::ffi::c_int;
use std::path::{Path, PathBuf};

use gdal_sys::{GDALDatasetH, OGRErr, OGRFieldSubType, OGRFieldType, OGRLayerH, OGRwkbGeometryType};

use crate::crs::Crs;
use crate::error::{ErrorKind, GeoError, Result};
use crate::ffi::{Message, cstring, failed, start, text, told, watched};
use crate::geometry::Geometry;

/// `GDAL_OF_VECTOR`, `GDAL_OF_UPDATE` of gdal.h.
const OPEN_VECTOR: u32 = 0x04;
const OPEN_UPDATE: u32 = 0x01;

/// The type of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// Text.
    Text,
    /// Signed, 64 bits.
    Integer,
    /// Floating point, 64 bits.
    Real,
    /// True or false.
    Boolean,
}

/// An attribute of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Column name.
    pub name: String,
    /// Type.
    pub kind: FieldType,
}

impl Field {
    /// An attribute by name and type.
    pub fn new(name: impl Into<String>, kind: FieldType) -> Self {
        Self { name: name.into(), kind }
    }
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// No value.
    Null,
    /// Text.
    Text(String),
    /// Signed, 64 bits.
    Integer(i64),
    /// Floating point, 64 bits.
    Real(f64),
    /// True or false.
    Boolean(bool),
}

/// A row: a geometry in the CRS of its layer and values in the order of the layer's fields.
pub struct Feature {
    /// Geometry.
    pub geometry: Geometry,
    /// As many values as the layer has fields.
    pub values: Vec<Value>,
}

/// What a layer is made of.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Table name.
    pub name: String,
    /// CRS of its geometries.
    pub crs: Crs,
    /// Attributes.
    pub fields: Vec<Field>,
}

/// What happens with the rows that a layer has already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// They go.
    Replace,
    /// A row whose text in this field is the same gets the new values (columns that are not given keep theirs), all
    /// others stay. A row that has these values already is left untouched.
    Upsert {
        /// Name of the text field that tells rows apart.
        key: String,
    },
}

/// How many rows a write added and changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows added.
    pub added: u64,
    /// Rows changed: other values under the same key.
    pub replaced: u64,
}

/// A GeoPackage open for writing.
pub struct GeoPackage {
    handle: GDALDatasetH,
    path: PathBuf,
}

// SAFETY: a GDAL dataset may be used by any one thread at a time; `GeoPackage` is not `Sync`.
unsafe impl Send for GeoPackage {}

impl Drop for GeoPackage {
    fn drop(&mut self) {
        // SAFETY: the handle is owned by `self` and closed once.
        let _ = watched(|| unsafe { gdal_sys::GDALClose(self.handle) });
    }
}

impl GeoPackage {
    /// Opens the file, or makes an empty one. What exists and is not a GeoPackage is refused, never overwritten.
    pub fn open_or_create(path: &Path) -> Result<Self> {
        start()?;
        let c_path = cstring(&path.to_string_lossy())?;
        let exists = path.metadata().is_ok_and(|metadata| metadata.len() > 0);
        // SAFETY: strings and arrays are NUL-terminated and outlive the calls.
        let (handle, messages) = watched(|| unsafe {
            if exists {
                let drivers = [c"GPKG".as_ptr(), std::ptr::null()];
                gdal_sys::GDALOpenEx(
                    c_path.as_ptr(),
                    OPEN_VECTOR | OPEN_UPDATE | 0x40,
                    drivers.as_ptr(),
                    std::ptr::null(),
                    std::ptr::null(),
                )
            } else {
                let driver = gdal_sys::GDALGetDriverByName(c"GPKG".as_ptr());
                gdal_sys::GDALCreate(driver, c_path.as_ptr(), 0, 0, 0, 0, std::ptr::null_mut())
            }
        });
        if handle.is_null() {
            let verb = if exists { "open" } else { "create" };
            let message = format!("cannot {verb} the GeoPackage `{}`: {}", path.display(), told(&messages));
            return Err(GeoError::new(ErrorKind::Vector, message));
        }
        Ok(Self { handle, path: path.to_owned() })
    }

    fn error(&self, what: &str, messages: &[Message]) -> GeoError {
        GeoError::new(ErrorKind::Vector, format!("{what} of `{}`: {}", self.path.display(), told(messages)))
    }

    /// Rows of a layer; `None` when there is no such layer.
    pub fn count(&self, layer: &str) -> Result<Option<u64>> {
        let name = cstring(layer)?;
        // SAFETY: the dataset is live; a null layer is not used.
        let (count, _) = watched(|| unsafe {
            let handle = gdal_sys::GDALDatasetGetLayerByName(self.handle, name.as_ptr());
            (!handle.is_null()).then(|| gdal_sys::OGR_L_GetFeatureCount(handle, 1).max(0) as u64)
        });
        Ok(count)
    }

    /// Writes features in one transaction: all of them are seen, or none.
    pub fn write(
        &mut self,
        layer: &Layer,
        mode: &WriteMode,
        features: impl IntoIterator<Item = Result<Feature>>,
    ) -> Result<Written> {
        let _span = traced!("write features", swath.layer = layer.name.as_str());
        // SAFETY: the dataset is live.
        let (status, messages) = watched(|| unsafe { gdal_sys::GDALDatasetStartTransaction(self.handle, 0) });
        if status != OGRErr::OGRERR_NONE {
            return Err(self.error("cannot begin a change", &messages));
        }
        let outcome = self.write_rows(layer, mode, features);
        match outcome {
            Ok(written) => {
                // SAFETY: as above.
                let (status, messages) = watched(|| unsafe { gdal_sys::GDALDatasetCommitTransaction(self.handle) });
                if status != OGRErr::OGRERR_NONE {
                    return Err(self.error("cannot complete a change", &messages));
                }
                Ok(written)
            }
            Err(error) => {
                // SAFETY: as above.
                let _ = watched(|| unsafe { gdal_sys::GDALDatasetRollbackTransaction(self.handle) });
                Err(error)
            }
        }
    }

    fn write_rows(
        &mut self,
        layer: &Layer,
        mode: &WriteMode,
        features: impl IntoIterator<Item = Result<Feature>>,
    ) -> Result<Written> {
        let handle = self.layer(layer)?;
        let columns = self.columns(handle, layer)?;
        let kind = self.check_layer(handle, layer)?;
        if *mode == WriteMode::Replace {
            self.clear(handle)?;
        }
        let key = match mode {
            WriteMode::Upsert { key } => {
                let index = layer.fields.iter().position(|field| field.name == *key).ok_or_else(|| {
                    let message = format!("layer `{}` has no field `{key}` to tell rows apart by", layer.name);
                    GeoError::new(ErrorKind::Vector, message)
                })?;
                Some((index, self.keys(handle, columns[index])))
            }
            WriteMode::Replace => None,
        };
        let mut known = key;
        let mut written = Written::default();
        for feature in features {
            let mut feature = feature?;
            feature.geometry = self.fitting(feature.geometry, kind, layer)?;
            if feature.values.len() != columns.len() {
                let message = format!(
                    "a row of {} values does not fit the {} fields of layer `{}`",
                    feature.values.len(),
                    columns.len(),
                    layer.name
                );
                return Err(GeoError::new(ErrorKind::Vector, message));
            }
            let existing = known.as_ref().and_then(|(index, keys)| match &feature.values[*index] {
                Value::Text(text) => keys.get(text).copied(),
                _ => None,
            });
            let (id, changed) = self.put(handle, &columns, &feature, existing)?;
            match existing {
                Some(_) => written.replaced += u64::from(changed),
                None => written.added += 1,
            }
            if let Some((index, keys)) = &mut known
                && let Value::Text(text) = &feature.values[*index]
            {
                keys.insert(text.clone(), id);
            }
        }
        Ok(written)
    }

    /// The layer, made when missing.
    fn layer(&self, layer: &Layer) -> Result<OGRLayerH> {
        let name = cstring(&layer.name)?;
        let reference = layer.crs.reference()?;
        let fields =
            layer.fields.iter().map(|field| Ok((cstring(&field.name)?, field.kind))).collect::<Result<Vec<_>>>()?;
        // SAFETY: the dataset and reference are live; names outlive the calls; field definitions are destroyed here.
        let (handle, messages) = watched(|| unsafe {
            let found = gdal_sys::GDALDatasetGetLayerByName(self.handle, name.as_ptr());
            if !found.is_null() {
                return found;
            }
            let made = gdal_sys::GDALDatasetCreateLayer(
                self.handle,
                name.as_ptr(),
                reference.handle(),
                OGRwkbGeometryType::wkbUnknown,
                std::ptr::null_mut(),
            );
            for (name, kind) in fields.iter().filter(|_| !made.is_null()) {
                let field_type = match kind {
                    FieldType::Text => OGRFieldType::OFTString,
                    FieldType::Integer => OGRFieldType::OFTInteger64,
                    FieldType::Real => OGRFieldType::OFTReal,
                    FieldType::Boolean => OGRFieldType::OFTInteger,
                };
                let definition = gdal_sys::OGR_Fld_Create(name.as_ptr(), field_type);
                if *kind == FieldType::Boolean {
                    gdal_sys::OGR_Fld_SetSubType(definition, OGRFieldSubType::OFSTBoolean);
                }
                gdal_sys::OGR_L_CreateField(made, definition, 1);
                gdal_sys::OGR_Fld_Destroy(definition);
            }
            made
        });
        if handle.is_null() || failed(&messages) {
            return Err(self.error(&format!("cannot make the layer `{}`", layer.name), &messages));
        }
        Ok(handle)
    }

    /// The type of geometries of a layer. A layer in another CRS is refused: the same numbers would lie elsewhere.
    fn check_layer(&self, handle: OGRLayerH, layer: &Layer) -> Result<OGRwkbGeometryType::Type> {
        // SAFETY: the layer is live; its reference belongs to it and is copied.
        let (crs, kind) = unsafe {
            let crs = Crs::of_borrowed(watched(|| gdal_sys::OGR_L_GetSpatialRef(handle)).0);
            (crs, gdal_sys::OGR_GT_Flatten(gdal_sys::OGR_L_GetGeomType(handle)))
        };
        if crs.as_ref() != Some(&layer.crs) {
            let has = crs.map_or_else(|| "no known CRS".to_owned(), |crs| format!("the CRS {crs}"));
            let what = format!("layer `{}` has {has} in `{}`", layer.name, self.path.display());
            return Err(GeoError::new(ErrorKind::Vector, format!("{what}: rows in {} do not fit in", layer.crs)));
        }
        Ok(kind)
    }

    /// A geometry as a layer of this type takes it: a single polygon is one of a set.
    fn fitting(&self, geometry: Geometry, kind: OGRwkbGeometryType::Type, layer: &Layer) -> Result<Geometry> {
        let own = geometry.kind();
        if kind == OGRwkbGeometryType::wkbUnknown || kind == own {
            return Ok(geometry);
        }
        if kind == OGRwkbGeometryType::wkbMultiPolygon && own == OGRwkbGeometryType::wkbPolygon {
            return Ok(geometry.into_multi_polygon());
        }
        // SAFETY: the names are constants of GDAL.
        let name = |kind| unsafe { text(gdal_sys::OGRGeometryTypeToName(kind)) }.unwrap_or_default();
        let what = format!("layer `{}` holds {} only in `{}`", layer.name, name(kind), self.path.display());
        Err(GeoError::new(ErrorKind::Vector, format!("{what}: a {} does not fit in", name(own))))
    }

    /// The column of each field; an older layer without one of them is refused.
    fn columns(&self, handle: OGRLayerH, layer: &Layer) -> Result<Vec<c_int>> {
        let mut columns = Vec::new();
        for field in &layer.fields {
            let name = cstring(&field.name)?;
            // SAFETY: the layer is live; its definition belongs to it.
            let index = unsafe { gdal_sys::OGR_FD_GetFieldIndex(gdal_sys::OGR_L_GetLayerDefn(handle), name.as_ptr()) };
            if index < 0 {
                let what = format!("layer `{}` has no field `{}`", layer.name, field.name);
                return Err(GeoError::new(ErrorKind::Vector, format!("{what} in `{}`", self.path.display())));
            }
            columns.push(index);
        }
        Ok(columns)
    }

    fn clear(&self, handle: OGRLayerH) -> Result<()> {
        // SAFETY: the layer is live; each feature read is destroyed before the next.
        let (good, messages) = watched(|| unsafe {
            let mut ids = Vec::new();
            gdal_sys::OGR_L_ResetReading(handle);
            loop {
                let feature = gdal_sys::OGR_L_GetNextFeature(handle);
                if feature.is_null() {
                    break;
                }
                ids.push(gdal_sys::OGR_F_GetFID(feature));
                gdal_sys::OGR_F_Destroy(feature);
            }
            ids.into_iter().all(|id| gdal_sys::OGR_L_DeleteFeature(handle, id) == OGRErr::OGRERR_NONE)
        });
        if good { Ok(()) } else { Err(self.error("cannot clear a layer", &messages)) }
    }

    /// Row ids by the text of a column.
    fn keys(&self, handle: OGRLayerH, column: c_int) -> HashMap<String, i64> {
        // SAFETY: as in `clear`; the text belongs to the feature and is copied before it is destroyed.
        watched(|| unsafe {
            let mut keys = HashMap::new();
            gdal_sys::OGR_L_ResetReading(handle);
            loop {
                let feature = gdal_sys::OGR_L_GetNextFeature(handle);
                if feature.is_null() {
                    break keys;
                }
                if let Some(key) = text(gdal_sys::OGR_F_GetFieldAsString(feature, column)) {
                    keys.insert(key, gdal_sys::OGR_F_GetFID(feature));
                }
                gdal_sys::OGR_F_Destroy(feature);
            }
        })
        .0
    }

    /// Writes a row, over the one of this id if given. Its id, and whether anything changed.
    fn put(&self, handle: OGRLayerH, columns: &[c_int], feature: &Feature, id: Option<i64>) -> Result<(i64, bool)> {
        let texts = feature
            .values
            .iter()
            .map(|value| match value {
                Value::Text(text) => cstring(text).map(Some),
                _ => Ok(None),
            })
            .collect::<Result<Vec<_>>>()?;
        // SAFETY: the layer is live; the features are made or read, filled and destroyed here (destroying null does
        // nothing); texts outlive the calls; the geometry is copied by OGR.
        let ((status, id, changed), messages) = watched(|| unsafe {
            let found = id.map_or(std::ptr::null_mut(), |id| gdal_sys::OGR_L_GetFeature(handle, id));
            let row = if found.is_null() {
                gdal_sys::OGR_F_Create(gdal_sys::OGR_L_GetLayerDefn(handle))
            } else {
                gdal_sys::OGR_F_Clone(found)
            };
            for ((value, text), column) in feature.values.iter().zip(&texts).zip(columns) {
                match value {
                    Value::Null => gdal_sys::OGR_F_SetFieldNull(row, *column),
                    Value::Integer(number) => gdal_sys::OGR_F_SetFieldInteger64(row, *column, *number),
                    Value::Boolean(flag) => gdal_sys::OGR_F_SetFieldInteger64(row, *column, i64::from(*flag)),
                    Value::Real(number) if number.is_finite() => {
                        gdal_sys::OGR_F_SetFieldDouble(row, *column, *number);
                    }
                    Value::Real(_) => gdal_sys::OGR_F_SetFieldNull(row, *column),
                    Value::Text(_) => {
                        if let Some(text) = text {
                            gdal_sys::OGR_F_SetFieldString(row, *column, text.as_ptr());
                        }
                    }
                }
            }
            gdal_sys::OGR_F_SetGeometry(row, feature.geometry.handle());
            let changed = found.is_null() || gdal_sys::OGR_F_Equal(row, found) == 0;
            let status = if !changed {
                OGRErr::OGRERR_NONE
            } else if found.is_null() {
                gdal_sys::OGR_L_CreateFeature(handle, row)
            } else {
                gdal_sys::OGR_L_SetFeature(handle, row)
            };
            let id = gdal_sys::OGR_F_GetFID(row);
            gdal_sys::OGR_F_Destroy(row);
            gdal_sys::OGR_F_Destroy(found);
            (status, id, changed)
        });
        if status != OGRErr::OGRERR_NONE || failed(&messages) {
            return Err(self.error("cannot write a row", &messages));
        }
        Ok((id, changed))
    }

    /// Closes the file and says whether all of it was written.
    pub fn finish(self) -> Result<()> {
        let path = self.path.clone();
        // `Drop` must not close it again.
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: the handle is owned and closed once, here.
        let ((), messages) = watched(|| unsafe { gdal_sys::GDALClose(this.handle) });
        // SAFETY: `this` is never used or dropped after; only its path's memory is freed.
        drop(unsafe { std::ptr::read(&this.path) });
        if failed(&messages) {
            let message = format!("cannot close `{}`: {}", path.display(), told(&messages));
            return Err(GeoError::new(ErrorKind::Vector, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer() -> Layer {
        let fields = vec![
            Field::new("id", FieldType::Text),
            Field::new("score", FieldType::Real),
            Field::new("pixels", FieldType::Integer),
            Field::new("confirmed", FieldType::Boolean),
        ];
        Layer { name: "detections".into(), crs: Crs::wgs84().unwrap(), fields }
    }

    fn row(id: &str, score: f64) -> Result<Feature> {
        let json = r#"{"type":"Polygon","coordinates":[[[15,47],[15.1,47],[15.1,47.1],[15,47]]]}"#;
        Ok(Feature {
            geometry: Geometry::from_geojson(json)?,
            values: vec![Value::Text(id.into()), Value::Real(score), Value::Integer(9), Value::Boolean(true)],
        })
    }

    #[test]
    fn writing_the_same_rows_again_adds_nothing_and_a_failed_write_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d.gpkg");
        let key = WriteMode::Upsert { key: "id".into() };
        let mut package = GeoPackage::open_or_create(&path).unwrap();
        let written = package.write(&layer(), &key, [row("a", 0.5), row("b", 0.6), row("a", 0.7)]).unwrap();
        assert_eq!(written, Written { added: 2, replaced: 1 });
        package.finish().unwrap();

        let mut package = GeoPackage::open_or_create(&path).unwrap();
        let written = package.write(&layer(), &key, [row("a", 0.9), row("c", 0.1)]).unwrap();
        assert_eq!((written, package.count("detections").unwrap()), (Written { added: 1, replaced: 1 }, Some(3)));
        package.finish().unwrap();
        let before = std::fs::read(&path).unwrap();
        let mut package = GeoPackage::open_or_create(&path).unwrap();
        assert_eq!(package.write(&layer(), &key, [row("a", 0.9), row("c", 0.1)]).unwrap(), Written::default());
        package.finish().unwrap();
        assert!(before == std::fs::read(&path).unwrap(), "equal rows leave the file as it is");
        let mut package = GeoPackage::open_or_create(&path).unwrap();
        let broken = Err(GeoError::new(ErrorKind::Geometry, "broken"));
        assert!(package.write(&layer(), &WriteMode::Replace, [row("z", 0.1), broken]).is_err());
        assert_eq!(package.count("detections").unwrap(), Some(3), "rolled back");
        package.write(&layer(), &WriteMode::Replace, [row("z", 0.1)]).unwrap();
        assert_eq!(package.count("detections").unwrap(), Some(1));
        assert_eq!(package.count("other").unwrap(), None);
        package.finish().unwrap();

        let mut package = GeoPackage::open_or_create(&path).unwrap();
        let metres = Layer { crs: Crs::from_epsg(32633).unwrap(), ..layer() };
        let error = package.write(&metres, &key, [row("a", 0.9)]).unwrap_err();
        let (has, gives) = (error.message().contains("the CRS EPSG:4326"), error.message().contains("EPSG:32633"));
        assert!(has && gives, "{error}");
        assert_eq!(package.count("detections").unwrap(), Some(1), "left as it was");
        package.finish().unwrap();

        std::fs::write(&path, "not a GeoPackage").unwrap();
        assert_eq!(GeoPackage::open_or_create(&path).err().map(|e| e.code()), Some("R113"));
    }
}
