//! `labels.vector`: polygons to a class map.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::{
    Bounds, Crs, FeatureReader, GeoError, Geometry, Grid, PixelWindow, Raster, TILE, Transform, Value,
    rasterize_classes,
};
use swath_kinds::Cog;
use swath_task::{Artifact, Bytes, Context, LocalPath, Needs, Problem, Purity, Task, TaskError};

use crate::classes::{self, Class, Name};
use crate::faults::{fault, geo_fault};
use crate::places;
use crate::tiles::{self, draw_label, lock, positive_share, write_label};

/// Bytes of polygons that are held, as well-known binary: in memory they take about twice that.
const MOST_BYTES: usize = 128 << 20;
/// Bytes of a polygon beside its points.
const POLYGON: usize = 256;
/// Longest text of polygons: GDAL holds some forms of it as a whole.
const LONGEST_TEXT: u64 = 256 << 20;
/// Longest edge of a polygon in metres that is projected without points in between.
const EDGE: f64 = 2_000.0;
/// What the step may take, with so many polygons.
const MEMORY: Bytes = Bytes::mib(512);
/// Bytes that a thread takes for the classes of a tile.
const BURN_MEMORY: u64 = (2 * TILE * TILE) as u64;
/// Values that a message lists.
const LISTED: usize = 10;

/// Makes a class map of polygons on the grid of a raster.
///
/// The centre of a pixel decides. Where polygons lie over each other, the last of the file counts. Where the raster has no data,
/// in any band but `count`, the map has none.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelVector {
    /// The polygons: a GeoJSON, GeoPackage, Shapefile, FlatGeobuf or KML file in any CRS.
    pub polygons: LocalPath,
    /// Layer of the file, where it has several.
    #[serde(default)]
    pub layer: Option<String>,
    /// Attribute that tells the class. All polygons are of class 1 when absent.
    #[serde(default)]
    pub attribute: Option<String>,
    /// Values of the attribute to classes. The value itself is the class when absent.
    #[serde(default)]
    pub classes: Option<Vec<Class>>,
    /// What happens with polygons whose value has no class.
    #[serde(default)]
    pub others: Others,
    /// Class of what no polygon covers; `null` for no data, where only polygons are known.
    #[serde(default = "background")]
    pub background: Option<u8>,
    /// Takes every pixel that a polygon touches.
    #[serde(default)]
    pub all_touched: bool,
    /// Makes a map without any polygon, too, where none lies on the raster.
    #[serde(default)]
    pub allow_none: bool,
}

/// What happens with a value that is in no class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// It is an error, which lists the values.
    #[default]
    Refuse,
    /// Its polygons are passed over.
    Ignore,
}

fn background() -> Option<u8> {
    Some(0)
}

/// What is labelled.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// A raster, on whose grid the map lies.
    pub raster: Artifact<Cog>,
}

/// A class map.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The map: numbers of classes, NaN for no data.
    pub label: Artifact<Cog>,
    /// Polygons near the raster.
    pub polygons: u64,
    /// Share of the pixels with data that have class 1 or above.
    pub positive_share: f64,
}

/// Polygons in the CRS of the raster, the class and the box of each.
type Shapes = Vec<(Geometry, u8, Bounds)>;

impl Task for LabelVector {
    const NAME: &'static str = "labels.vector";
    const VERSION: u32 = 2;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if let Some(classes) = &self.classes {
            classes::check(classes, &mut problems);
            if self.attribute.is_none() {
                let problem = Problem::new("/classes", "classes of which attribute is not told");
                problems.push(problem.help("name it with `attribute`"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::all_cores(MEMORY)
    }

    fn reads(&self) -> Vec<PathBuf> {
        places::files(&self.polygons.0)
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let task = self.clone();
        let draw = move |raster: &Path, out: &Path, ctx: &Context| task.draw(raster, out, ctx);
        let (label, (polygons, positive_share)) = draw_label(&inputs.raster, ctx, draw).await?;
        ctx.metric("polygons", polygons as f64);
        ctx.metric("positive_share", positive_share);
        Ok(Outputs { label, polygons, positive_share })
    }
}

impl LabelVector {
    fn draw(&self, raster: &Path, out: &Path, ctx: &Context) -> Result<(u64, f64), TaskError> {
        let grid = Raster::open_path(raster).and_then(|raster| raster.grid()).map_err(geo_fault)?;
        let (shapes, count) = self.shapes(&grid, ctx)?;
        if shapes.is_empty() && !self.allow_none {
            let message = format!("no polygon of `{}` lies on `{}`", self.polygons.0.display(), raster.display());
            return Err(fault("L104", message, "compare both areas; set `allow_none` where no polygon is expected"));
        }
        // Geometries belong to one thread at a time; burning is the shorter part of the work.
        let shapes = Mutex::new(shapes);
        let mut metadata = vec![("LABEL".to_owned(), "classes".to_owned())];
        metadata.extend(classes::metadata(self.classes.as_deref().unwrap_or_default()));
        let work = |(): &mut (), tile: &Grid, _: &PixelWindow| {
            let bounds = tile.bounds();
            let shapes = lock(&shapes);
            let here = shapes.iter().filter(|(_, _, own)| own.intersection(&bounds).is_some());
            let here: Vec<(&Geometry, u8)> = here.map(|(geometry, class, _)| (geometry, *class)).collect();
            let burn = |none: u8| rasterize_classes(&here, tile, none, self.all_touched).map_err(geo_fault);
            let map = burn(self.background.unwrap_or(0))?;
            let mut label: Vec<f32> = map.iter().map(|class| f32::from(*class)).collect();
            if self.background.is_none() {
                // What differs by what lies under it is covered by nothing.
                for ((label, class), other) in label.iter_mut().zip(&map).zip(burn(255)?) {
                    if *class != other {
                        *label = f32::NAN;
                    }
                }
            }
            Ok(label)
        };
        let counts = write_label(raster, out, metadata, (tiles::MEMORY, BURN_MEMORY), ctx, |_| Ok(()), work)?;
        Ok((count, positive_share(&counts).1))
    }

    /// The polygons that may touch the grid, with their classes, and how many there are.
    fn shapes(&self, grid: &Grid, ctx: &Context) -> Result<(Shapes, u64), TaskError> {
        let path = &self.polygons.0;
        places::check_length(path, LONGEST_TEXT)?;
        let mut reader = FeatureReader::open(path, self.layer.as_deref()).map_err(geo_fault)?;
        let crs = reader.crs().cloned().ok_or_else(|| {
            let message = format!("`{}` has no coordinate reference system", path.display());
            fault("R106", message, "assign one, for example with `ogr2ogr -a_srs`")
        })?;
        let column = self.attribute.as_ref().map(|name| self.column(&reader, name)).transpose()?;
        let lay = Lay::new(&crs, grid).map_err(geo_fault)?;
        let (mut shapes, mut unknown, mut held, mut count) = (Shapes::new(), Vec::<Name>::new(), 0, 0);
        for (index, feature) in reader.features().enumerate() {
            if index % 1024 == 0 {
                ctx.check_cancelled()?;
            }
            let Some(feature) = feature.map_err(geo_fault)? else { continue };
            let name = column.map(|column| name_of(&feature.values[column]));
            let class = match &name {
                None => Some(1),
                Some(Some(name)) => match &self.classes {
                    Some(classes) => name.class(classes),
                    None => name.own_class(),
                },
                Some(None) => None,
            };
            let Some(class) = class else {
                let name = name.flatten().unwrap_or_else(|| Name::Text("null".to_owned()));
                if self.others == Others::Refuse && !unknown.contains(&name) && unknown.len() <= LISTED {
                    unknown.push(name);
                }
                continue;
            };
            if !feature.geometry.is_polygonal() {
                let message = format!("feature {} of `{}` is not a polygon", index + 1, path.display());
                return Err(fault("L106", message, "buffer points and lines with `labels.sites`, or give polygons"));
            }
            let parts = lay.parts(&feature.geometry).map_err(geo_fault)?;
            count += u64::from(!parts.is_empty());
            for (part, bounds) in parts {
                held += part.to_wkb().map_err(geo_fault)?.len() + POLYGON;
                if held > MOST_BYTES {
                    let message = format!("the polygons of `{}` on the raster take more than 128 MiB", path.display());
                    return Err(fault("R108", message, "choose a smaller raster, or simplify the polygons"));
                }
                shapes.push((part, class, bounds));
            }
        }
        if unknown.is_empty() { Ok((shapes, count)) } else { Err(self.unknown(&unknown)) }
    }

    fn column(&self, reader: &FeatureReader, name: &str) -> Result<usize, TaskError> {
        reader.fields().position(|field| field == name).ok_or_else(|| {
            let fields: Vec<String> = reader.fields().map(|field| format!("`{field}`")).collect();
            let message = format!("`{}` has no attribute `{name}`", self.polygons.0.display());
            fault("L105", message, format!("it has: {}", fields.join(", ")))
        })
    }

    fn unknown(&self, names: &[Name]) -> TaskError {
        let more = if names.len() > LISTED { " and others" } else { "" };
        let names: Vec<String> = names.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
        let attribute = self.attribute.as_deref().unwrap_or_default();
        let values = names.join(", ");
        let message = format!(
            "the attribute `{attribute}` of `{}` has values of no class: {values}{more}",
            self.polygons.0.display()
        );
        fault("L105", message, "name them in `classes`, or pass over them with `others: ignore`")
    }
}

/// How polygons of a CRS are laid onto a grid.
struct Lay {
    to_grid: Transform,
    bounds: Bounds,
    /// Boxes around the grid in the CRS of the polygons. What lies beyond them may lie where the projection of the raster is not
    /// defined. `None` where the CRS of the polygons does not hold all of the grid: nothing is cut then.
    around: Option<Vec<Bounds>>,
    /// [`EDGE`] in the unit of the polygons.
    edge: f64,
}

impl Lay {
    fn new(crs: &Crs, grid: &Grid) -> Result<Self, GeoError> {
        let to_grid = Transform::new(crs, &grid.crs)?;
        let edge = EDGE / crs.metres_per_unit();
        Ok(Self { to_grid, bounds: grid.bounds(), around: grid.boxes_in(crs)?, edge })
    }

    /// The parts of a polygon on the grid and a little beyond, in its CRS, each with its box.
    fn parts(&self, polygon: &Geometry) -> Result<Vec<(Geometry, Bounds)>, GeoError> {
        if polygon.is_empty() {
            return Ok(Vec::new());
        }
        let own = polygon.bounds();
        let near = match &self.around {
            Some(boxes) => {
                let boxes = boxes.iter().filter(|around| touches(around, &own));
                boxes.map(|around| polygon.clip(around)).collect::<Result<Vec<_>, _>>()?
            }
            None => vec![polygon.clip(&own)?],
        };
        let near = near.into_iter().filter(|part| !part.is_empty());
        let projected = near.map(|part| part.dense(self.edge).project(&self.to_grid)).collect::<Result<Vec<_>, _>>()?;
        let boxed = projected.into_iter().map(|part| {
            let bounds = part.bounds();
            (part, bounds)
        });
        Ok(boxed.filter(|(_, bounds)| touches(bounds, &self.bounds)).collect())
    }
}

/// Whether two boxes meet, a point or line among them, too.
fn touches(a: &Bounds, b: &Bounds) -> bool {
    a.left <= b.right && b.left <= a.right && a.bottom <= b.top && b.bottom <= a.top
}

fn name_of(value: &Value) -> Option<Name> {
    match value {
        Value::Null => None,
        Value::Text(text) => Some(Name::Text(text.clone())),
        Value::Integer(number) => Some(Name::Number(*number as f64)),
        Value::Real(number) => Some(Name::Number(*number)),
        Value::Boolean(flag) => Some(Name::Number(f64::from(u8::from(*flag)))),
    }
}
