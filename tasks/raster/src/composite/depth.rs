//! How each band is reduced: on pixels of which type and width.

use swath_geo::DataType;

use super::plan::{Plan, PlannedScene, Source};
use crate::fit::{Fit, Placement, finer};

/// How one band is reduced.
pub struct BandPlan {
    /// Type that holds the pixels of all scenes.
    pub depth: DataType,
    /// The band is reduced on pixels that are this many output pixels wide, and then repeated.
    pub factor: usize,
    /// Common scale of all scenes, when their offsets are whole numbers of pixel steps: then integers are reduced.
    pub scale: Option<f64>,
    /// How each scene's pixels lie on the output's.
    pub places: Vec<Placement>,
    /// How the mask of a scene lies on the finer grid of its band, where there is one.
    pub fine_masks: Vec<Option<Fit>>,
}

/// The plan of a band by its index; `masks`: how each scene's mask lies on the output's pixels.
pub fn plan_band(plan: &Plan, band: usize, masks: &[Option<Placement>]) -> BandPlan {
    let sources: Vec<&Source> = plan.scenes.iter().map(|scene| &scene.bands[band]).collect();
    let places: Vec<Placement> =
        sources.iter().map(|source| Placement::of(&source.grid, &plan.grid, plan.nearest)).collect();
    let all = |types: &[DataType]| sources.iter().all(|source| types.contains(&source.data_type));
    let mut depth = match () {
        () if all(&[DataType::U8]) => DataType::U8,
        () if all(&[DataType::U8, DataType::U16]) => DataType::U16,
        () if all(&[DataType::U8, DataType::I16]) => DataType::I16,
        () => DataType::F32,
    };
    // Integers that cannot say "nothing here" can only be taken where a scene covers everything by itself.
    let alone = |index: usize| {
        let group = plan.scenes[index].group;
        plan.scenes.iter().filter(|scene| scene.group == group).count() == 1
    };
    let complete = |index: usize| alone(index) && places[index].fit.covers(&sources[index].grid, &plan.grid);
    if (0..sources.len()).any(|i| nodata_in(sources[i].nodata, depth).is_none() && !complete(i)) {
        depth = DataType::F32;
    }
    // Pixels of one acquisition that mean different things are brought to one meaning, which takes fractions and signs.
    let mixed = |pair: &[usize]| {
        plan.scenes[pair[0]].group == plan.scenes[pair[1]].group && !same_meaning(sources[pair[0]], sources[pair[1]])
    };
    let indices: Vec<usize> = (0..sources.len()).collect();
    // Means have fractions.
    let coarse = places.iter().any(|place| place.fine > 1);
    if coarse || indices.windows(2).any(mixed) {
        depth = DataType::F32;
    }
    let scale = sources[0].scale;
    let common = depth != DataType::F32
        && sources.iter().all(|source| {
            let steps = source.offset / source.scale;
            (source.scale / scale - 1.0).abs() < 1e-9 && (steps - steps.round()).abs() < 1e-6
        });
    let factor = places.iter().chain(masks.iter().flatten()).map(Placement::factor).fold(0, gcd).max(1);
    let fine_mask = |(scene, place): (&PlannedScene, &Placement)| {
        let mask = scene.mask.as_ref().filter(|_| place.fine > 1)?;
        Some(Fit::of(&mask.grid, &finer(&plan.grid, place.fine)))
    };
    let fine_masks = plan.scenes.iter().zip(&places).map(fine_mask).collect();
    BandPlan { depth, factor, scale: common.then_some(scale), places, fine_masks }
}

/// Whether equal pixels of both are equal values.
pub fn same_meaning(one: &Source, other: &Source) -> bool {
    one.scale == other.scale && one.offset == other.offset
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A no-data value as an integer type holds it; `None` when the type cannot.
pub fn nodata_in(nodata: Option<f64>, depth: DataType) -> Option<f64> {
    let value = nodata?;
    let (low, high) = match depth {
        DataType::U8 => (0.0, 255.0),
        DataType::U16 => (0.0, 65535.0),
        DataType::I16 => (-32768.0, 32767.0),
        _ => return Some(value),
    };
    (value.fract() == 0.0 && (low..=high).contains(&value)).then_some(value)
}
