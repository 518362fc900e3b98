//! `store.geopackage`: detections to a layer of a GeoPackage.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use swath_geo::{Crs, ErrorKind, Feature, Field, FieldType, GeoError, GeoPackage, Geometry, Layer, Value, WriteMode};
use swath_kinds::{DetectionProperties, PropertyType};
use swath_task::{Bytes, Context, Fault, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::folder::{Folder, write_fault};
use crate::{Inputs, rows};

/// Stores detections in a layer of a GeoPackage, a file that opens in QGIS and every other GIS.
///
/// Rows are told apart by a key, the id of a detection unless another is named: storing the same detections again adds
/// nothing, and a detection whose values have changed is updated in its row. Columns that someone added to the layer
/// keep their values. The file changes in one transaction; a run that is killed leaves it as it was, and a missing file
/// or folder is made. The layer exists afterwards even when there are no detections.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// The file, ending in `.gpkg`.
    pub path: LocalPath,
    /// Table in it.
    #[serde(default = "default_layer")]
    #[schemars(length(min = 1, max = 200))]
    pub layer: String,
    /// `append`: rows of earlier runs stay, those with the same key are updated. `replace`: they go.
    #[serde(default)]
    pub mode: StoreMode,
    /// What tells rows apart: `id`, or a property that is text.
    #[serde(default = "default_key")]
    #[schemars(length(min = 1))]
    pub key: String,
}

/// What happens to the rows of earlier runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreMode {
    /// They stay.
    #[default]
    Append,
    /// They go.
    Replace,
}

pub(crate) fn default_layer() -> String {
    "detections".to_owned()
}

pub(crate) fn default_key() -> String {
    "id".to_owned()
}

/// What `store.geopackage` tells.
#[derive(Debug, Serialize, JsonSchema)]
pub struct GeoPackageOutputs {
    /// The file.
    pub geopackage: String,
    /// Digest of the file as it was left.
    pub digest: String,
    /// Rows of the layer now.
    pub rows_total: u64,
    /// Rows that are new.
    pub rows_added: u64,
    /// Rows whose values have changed.
    pub rows_updated: u64,
}

impl Task for Store {
    const NAME: &'static str = "store.geopackage";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Lasting;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = GeoPackageOutputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if !self.path.0.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gpkg")) {
            let message = format!("`{}` does not end in `.gpkg`", self.path.0.display());
            problems.push(Problem::new("/path", message).help("other programs know a GeoPackage by its ending"));
        }
        let plain = |name: &str| !name.is_empty() && name.len() <= 200 && !name.contains(['"', '\'', '\0', '\n']);
        if !plain(&self.layer) || self.layer.starts_with("gpkg_") || self.layer.starts_with("sqlite_") {
            let message = format!("`{}` is not a name for a layer", self.layer);
            let help = "use letters, digits and `_`; `gpkg_` and `sqlite_` are taken";
            problems.push(Problem::new("/layer", message).help(help));
        }
        if !plain(&self.key) {
            problems.push(Problem::new("/key", format!("`{}` is not a name of a column", self.key)));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn stands(&self, outputs: &serde_json::Value) -> bool {
        crate::digest_of(&self.path.0).is_ok_and(|digest| outputs["digest"] == digest)
    }

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(256))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<GeoPackageOutputs, TaskError> {
        let detections = ctx.locate(&inputs.detections).await?;
        let task = self.clone();
        ctx.blocking(move |ctx| task.store(&detections, ctx)).await
    }
}

impl Store {
    fn store(&self, detections: &Path, ctx: &Context) -> Result<GeoPackageOutputs, TaskError> {
        let path = self.path.0.as_path();
        let table = Table::read(detections, &self.key)?;
        let folder = Folder::of(path, ctx)?;
        ctx.check_cancelled()?;
        let exists = std::fs::symlink_metadata(path).is_ok();
        let (written, total) = if exists {
            check_geopackage(path)?;
            self.write(path, table, ctx)?
        } else {
            folder.place(path, |made| self.write(made, table, ctx))?
        };
        Ok(GeoPackageOutputs {
            geopackage: path.display().to_string(),
            digest: crate::digest_of(path).map_err(|error| write_fault(path, &error))?,
            rows_total: total,
            rows_added: written.added,
            rows_updated: written.replaced,
        })
    }

    fn write(&self, path: &Path, table: Table, ctx: &Context) -> Result<(swath_geo::Written, u64), TaskError> {
        let fault = |error: GeoError| geopackage_fault(&self.path.0, &error);
        let mode = match self.mode {
            StoreMode::Append => WriteMode::Upsert { key: self.key.clone() },
            StoreMode::Replace => WriteMode::Replace,
        };
        let layer = Layer { name: self.layer.clone(), crs: Crs::wgs84().map_err(fault)?, fields: table.fields };
        let mut package = GeoPackage::open_or_create(path).map_err(fault)?;
        // An error in place of a row takes the transaction back.
        let stop = || GeoError::new(ErrorKind::Request, "cancelled");
        let rows = table.features.into_iter().map(|row| if ctx.is_cancelled() { Err(stop()) } else { Ok(row) });
        let written = match package.write(&layer, &mode, rows) {
            Ok(written) => written,
            Err(_) if ctx.is_cancelled() => return Err(TaskError::Cancelled),
            Err(error) => return Err(fault(error)),
        };
        let total = package.count(&self.layer).map_err(fault)?.unwrap_or(0);
        package.finish().map_err(fault)?;
        Ok((written, total))
    }
}

/// Refuses, untouched, a file that is not a GeoPackage: an SQLite database with its application id.
fn check_geopackage(path: &Path) -> Result<(), TaskError> {
    let refuse = |why: &str| {
        let message = format!("`{}` is not a GeoPackage: {why}", path.display());
        Err(Fault::new("D113", message).help("give `path` another name; the file was left as it is").permanent())
    };
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(100).read_to_end(&mut head));
    read.map_err(|error| write_fault(path, &error))?;
    if head.is_empty() {
        return refuse("it is empty");
    }
    if head.len() < 100 || !head.starts_with(b"SQLite format 3\0") {
        return refuse("it is not an SQLite database");
    }
    if !matches!(&head[68..72], b"GPKG" | b"GP10" | b"GP11") {
        return refuse("it is an SQLite database of another kind");
    }
    let writable = File::options().append(true).open(path);
    writable.map(drop).map_err(|error| write_fault(path, &error))
}

/// What OGR says, as faults of their own where a person acts differently.
fn geopackage_fault(path: &Path, error: &GeoError) -> TaskError {
    let said = error.message().to_ascii_lowercase();
    let message = error.message().to_owned();
    if error.kind() != ErrorKind::Vector {
        return Fault::new(error.code(), message).help(error.help()).permanent();
    }
    if said.contains("database is locked") || said.contains("database table is locked") {
        return Fault::new("D115", format!("`{}` is being written by another program: {message}", path.display()))
            .help("end editing in the other program, then resume the run")
            .transient(None);
    }
    if said.contains("disk is full") || said.contains("disk i/o error") || said.contains("no space") {
        return Fault::new("D114", message).help("free disk space, then resume the run").transient(None);
    }
    if said.contains("readonly") || said.contains("read-only") || said.contains("unable to open") {
        return Fault::new("D114", message).help("give `path` a place that may be written").permanent();
    }
    if said.contains("has no field") || said.contains("not fit in") {
        let help = "the layer was made for other rows: choose another `layer`, or remove it from the file";
        return Fault::new("D116", message).help(help).permanent();
    }
    Fault::new("D117", message).help("look at the file with `ogrinfo`; it was left as it was").permanent()
}

/// Detections as rows and columns.
struct Table {
    fields: Vec<Field>,
    features: Vec<Feature>,
}

impl Table {
    /// Reads a file of detections. Columns: the id, what every detection has, then other properties as they come.
    fn read(path: &Path, key: &str) -> Result<Self, TaskError> {
        let mut columns: Vec<(String, FieldType)> = vec![("id".to_owned(), FieldType::Text)];
        columns.extend(DetectionProperties::FIELDS.iter().map(|(name, kind)| ((*name).to_owned(), field_type(*kind))));
        let known = columns.len();
        let mut found = Vec::new();
        rows::detections(path, key, |index, mut row| {
            let place = |why: GeoError| format!("feature {index} (`{}`): {why}", row.id);
            let geometry = Geometry::from_wkb(&row.wkb).map_err(place)?;
            for (name, value) in &row.properties {
                match columns.iter_mut().position(|(column, _)| column == name) {
                    Some(at) if at < known => {}
                    Some(at) => columns[at].1 = wider(columns[at].1, value),
                    None => columns.push((name.clone(), narrowest(value))),
                }
            }
            row.properties.insert("id".to_owned(), Json::String(row.id));
            found.push((geometry, row.properties));
            Ok(())
        })?;
        let fields = columns.iter().map(|(name, kind)| Field::new(name.clone(), *kind)).collect();
        let feature = |(geometry, mut properties): (Geometry, Map<String, Json>)| {
            let values = columns.iter().map(|(name, kind)| cell(properties.remove(name), *kind)).collect();
            Feature { geometry, values }
        };
        Ok(Self { fields, features: found.into_iter().map(feature).collect() })
    }
}

fn field_type(kind: PropertyType) -> FieldType {
    match kind {
        PropertyType::Text => FieldType::Text,
        PropertyType::Integer => FieldType::Integer,
        PropertyType::Real => FieldType::Real,
        PropertyType::Boolean => FieldType::Boolean,
    }
}

fn narrowest(value: &Json) -> FieldType {
    match value {
        Json::Bool(_) => FieldType::Boolean,
        Json::Number(number) if number.is_i64() => FieldType::Integer,
        Json::Number(_) => FieldType::Real,
        _ => FieldType::Text,
    }
}

/// The type that holds what a column has had and this value too.
fn wider(kind: FieldType, value: &Json) -> FieldType {
    match (kind, narrowest(value)) {
        _ if value.is_null() => kind,
        (kind, other) if kind == other => kind,
        (FieldType::Integer, FieldType::Real) | (FieldType::Real, FieldType::Integer) => FieldType::Real,
        _ => FieldType::Text,
    }
}

fn cell(value: Option<Json>, kind: FieldType) -> Value {
    match (value, kind) {
        (None | Some(Json::Null), _) => Value::Null,
        (Some(Json::String(text)), FieldType::Text) => Value::Text(text),
        (Some(other), FieldType::Text) => Value::Text(other.to_string()),
        (Some(value), FieldType::Boolean) => value.as_bool().map_or(Value::Null, Value::Boolean),
        (Some(value), FieldType::Integer) => value.as_i64().map_or(Value::Null, Value::Integer),
        (Some(value), FieldType::Real) => value.as_f64().map_or(Value::Null, Value::Real),
    }
}
