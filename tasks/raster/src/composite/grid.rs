//! The grid of a composite, from scenes, area and parameters.

use swath_geo::{Bounds, Crs, GeoError, Geometry, Grid, Transform, utm_zone};
use swath_kinds::Area;
use swath_task::{Fault, TaskError};

use super::Composite;
use crate::faults::{area_fault, geo_fault};

/// More output pixels than these are a mistake in the area or the resolution.
const MOST_PIXELS: f64 = 4e10;

/// The area in the CRS of the composite.
pub struct AreaShape {
    /// WKB of its polygons.
    pub wkb: Vec<u8>,
    /// The box around them.
    pub bounds: Bounds,
}

/// The area's polygons in `crs`.
pub fn area_shape(area: &Area, crs: &Crs) -> Result<AreaShape, TaskError> {
    let json = area.geometry().map_err(area_fault)?.to_string();
    let project = || -> Result<AreaShape, GeoError> {
        let geometry = Geometry::from_geojson(&json)?.project(&Transform::new(&Crs::wgs84()?, crs)?)?;
        Ok(AreaShape { wkb: geometry.to_wkb()?, bounds: geometry.bounds() })
    };
    project().map_err(geo_fault)
}

/// The grid, and the area in its CRS. `grids` are those of the bands of all scenes, finest bands included.
pub fn choose(task: &Composite, grids: &[&Grid]) -> Result<(Grid, Option<AreaShape>), TaskError> {
    let crs = choose_crs(task, grids)?;
    let shape = task.area.as_ref().map(|area| area_shape(area, &crs)).transpose()?;
    let bounds = match &shape {
        Some(shape) => shape.bounds,
        None => union(grids, &crs)?,
    };
    // The finest grid in this CRS gives pixel size and edges, so that its pixels stay untouched.
    let native = grids
        .iter()
        .filter(|grid| grid.crs == crs)
        .min_by(|a, b| (a.pixel_width * a.pixel_height).total_cmp(&(b.pixel_width * b.pixel_height)));
    let pixel = match (task.resolution, native) {
        (Some(size), Some(native)) if (size / native.pixel_width - 1.0).abs() < 1e-3 => {
            (native.pixel_width, native.pixel_height)
        }
        (Some(size), _) => (size, size),
        (None, Some(native)) => (native.pixel_width, native.pixel_height),
        (None, None) => {
            let finest = grids.iter().map(|grid| grid.metres().0).fold(f64::INFINITY, f64::min);
            let size = finest / crs.metres_per_unit();
            // Metres that were degrees before come out crooked: a tenth of a metre is exact enough for a grid.
            let size = if crs.is_geographic() { size } else { (size * 10.0).round().max(1.0) / 10.0 };
            (size, size)
        }
    };
    let anchor = native.map_or((0.0, 0.0), |grid| (grid.left, grid.top));
    let grid = Grid::covering(crs, &bounds, pixel, anchor).map_err(geo_fault)?;
    let pixels = grid.width as f64 * grid.height as f64;
    if pixels > MOST_PIXELS {
        let message = format!(
            "the composite would have {} x {} pixels of {} in {}",
            grid.width, grid.height, grid.pixel_width, grid.crs
        );
        let help = "check the area and `resolution`: its unit is that of the CRS";
        return Err(Fault::new("R108", message).help(help).permanent());
    }
    Ok((grid, shape))
}

fn choose_crs(task: &Composite, grids: &[&Grid]) -> Result<Crs, TaskError> {
    if let Some(given) = &task.crs {
        return Crs::parse(given).map_err(geo_fault);
    }
    let first = &grids[0].crs;
    if grids.iter().all(|grid| grid.crs == *first) {
        return Ok(first.clone());
    }
    let (longitude, latitude) = match &task.area {
        Some(area) => area.bounds().map_err(area_fault)?.centre(),
        None => middle(&centres(grids)?),
    };
    Crs::from_epsg(utm_zone(longitude, latitude)).map_err(geo_fault)
}

/// Longitude and latitude of the centre of each grid.
fn centres(grids: &[&Grid]) -> Result<Vec<(f64, f64)>, TaskError> {
    let wgs84 = Crs::wgs84().map_err(geo_fault)?;
    let centre = |grid: &&Grid| {
        let bounds = grid.bounds();
        let transform = Transform::new(&grid.crs, &wgs84)?;
        transform.point((bounds.left + bounds.right) / 2.0, (bounds.bottom + bounds.top) / 2.0)
    };
    grids.iter().map(centre).collect::<Result<_, GeoError>>().map_err(geo_fault)
}

/// The middle of places on the globe: between the outermost, seen from their mean direction, so that those on both sides
/// of the antimeridian are neighbours.
fn middle(places: &[(f64, f64)]) -> (f64, f64) {
    let (east, north) = places.iter().fold((0.0, 0.0), |(east, north), (longitude, _)| {
        let (sine, cosine) = longitude.to_radians().sin_cos();
        (east + sine, north + cosine)
    });
    let mean = east.atan2(north).to_degrees();
    let around = |degrees: f64| (degrees + 540.0).rem_euclid(360.0) - 180.0;
    let half = |values: &mut dyn Iterator<Item = f64>| {
        let ends = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)));
        (ends.0 + ends.1) / 2.0
    };
    let longitude = mean + half(&mut places.iter().map(|(longitude, _)| around(longitude - mean)));
    (around(longitude), half(&mut places.iter().map(|(_, latitude)| *latitude)))
}

/// The box around all grids in a CRS.
fn union(grids: &[&Grid], crs: &Crs) -> Result<Bounds, TaskError> {
    let mut all: Option<Bounds> = None;
    for grid in grids {
        let bounds = if grid.crs == *crs {
            grid.bounds()
        } else {
            let transform = Transform::new(&grid.crs, crs).map_err(geo_fault)?;
            grid.bounds().project(&transform).map_err(geo_fault)?
        };
        all = Some(all.map_or(bounds, |so_far| so_far.union(&bounds)));
    }
    all.ok_or_else(|| Fault::new("R121", "there is no scene to make a composite of").permanent())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_both_sides_of_the_antimeridian_is_between_them() {
        let close = |a: (f64, f64), b: (f64, f64)| (a.0 - b.0).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9;
        assert!(close(middle(&[(178.0, 1.0), (179.5, 1.0), (-177.0, 3.0)]), (-179.5, 2.0)));
        assert!(close(middle(&[(10.0, 47.0), (11.0, 47.0), (16.0, 48.0)]), (13.0, 47.5)));
    }
}
