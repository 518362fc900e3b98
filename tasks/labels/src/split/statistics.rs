//! Statistics of bands over chips, exact and streamed.
//!
//! Mean and deviation are joined chip by chip (Chan, Golub and LeVeque 1979), percentiles are exact and take two passes
//! (`swath_geo::percentiles`). Memory is that of a few bands, whatever the number of chips and of bands: as many are looked at in a
//! pass as fit.

use swath_datasets::{BandStatistics, ChipRef, ChipSet, LabelCount, LabelCounts};
use swath_geo::percentiles::{Coarse, Fine, Ranks};
use swath_task::{Context, TaskError};

use crate::faults::set_fault;

/// The percentiles that are told.
const PERCENTILES: [f64; 5] = [1.0, 2.0, 50.0, 98.0, 99.0];

/// What is known of a band after the first pass.
struct Band {
    count: f64,
    mean: f64,
    spread: f64,
    min: f32,
    max: f32,
    values: Coarse,
}

/// Bytes of the planes and counts of those bands that are looked at in one pass.
const PASS_MEMORY: usize = 128 << 20;
/// Bytes of the counts of a band: those of the first pass, and of the second for as many classes as there may be.
const COUNTS: usize = (1 + 2 * PERCENTILES.len()) << 19;

/// Calls `each` with some bands of every chip.
fn each_chip(
    sets: &[ChipSet],
    chips: &[ChipRef],
    (first, planes): (usize, &mut [f32]),
    ctx: &Context,
    mut each: impl FnMut(&[f32]),
) -> Result<(), TaskError> {
    let mut scratch = Vec::new();
    for chip in chips {
        ctx.check_cancelled()?;
        sets[chip.set].read_bands(chip.chip, first, planes, &mut scratch).map_err(set_fault)?;
        each(planes);
    }
    Ok(())
}

/// Pixels of each label over chips.
pub fn labels(sets: &[ChipSet], chips: &[ChipRef], ctx: &Context) -> Result<Vec<LabelCount>, TaskError> {
    let mut counts = LabelCounts::default();
    let (mut label, mut scratch) = (vec![0.0; sets[0].manifest().label_len()], Vec::new());
    for chip in chips {
        ctx.check_cancelled()?;
        sets[chip.set].read_label(chip.chip, &mut label, &mut scratch).map_err(set_fault)?;
        counts.add(&label);
    }
    Ok(counts.list())
}

/// Statistics of every band over all pixels with data of these chips.
pub fn bands(sets: &[ChipSet], chips: &[ChipRef], ctx: &Context) -> Result<Vec<BandStatistics>, TaskError> {
    let manifest = sets[0].manifest();
    let plane = manifest.label_len();
    let at_once = (PASS_MEMORY / (plane * size_of::<f32>() + COUNTS)).max(1);
    let mut told = Vec::with_capacity(manifest.bands.len());
    for (pass, names) in manifest.bands.chunks(at_once).enumerate() {
        let planes = vec![0.0; names.len() * plane];
        told.extend(some_bands(sets, chips, (pass * at_once, planes), names, ctx)?);
    }
    Ok(told)
}

fn some_bands(
    sets: &[ChipSet],
    chips: &[ChipRef],
    (first, mut planes): (usize, Vec<f32>),
    names: &[String],
    ctx: &Context,
) -> Result<Vec<BandStatistics>, TaskError> {
    let plane = planes.len() / names.len();
    let empty = || Band {
        count: 0.0,
        mean: 0.0,
        spread: 0.0,
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
        values: Coarse::default(),
    };
    let mut bands: Vec<Band> = names.iter().map(|_| empty()).collect();
    each_chip(sets, chips, (first, planes.as_mut_slice()), ctx, |planes| {
        for (band, values) in bands.iter_mut().zip(planes.chunks_exact(plane)) {
            band.add(values);
        }
    })?;
    let ranks: Vec<Ranks> = bands.iter().map(|band| band.values.ranks(&PERCENTILES)).collect();
    let mut fine: Vec<Fine> = ranks.iter().map(Ranks::fine).collect();
    each_chip(sets, chips, (first, planes.as_mut_slice()), ctx, |planes| {
        for (fine, values) in fine.iter_mut().zip(planes.chunks_exact(plane)) {
            values.iter().for_each(|value| fine.add(*value));
        }
    })?;
    let told = bands.iter().zip(names).zip(ranks.iter().zip(&fine));
    Ok(told
        .map(|((band, name), (ranks, fine))| BandStatistics {
            band: name.clone(),
            count: band.count as u64,
            mean: band.mean,
            std: (band.spread / band.count.max(1.0)).sqrt(),
            min: if band.count > 0.0 { f64::from(band.min) } else { 0.0 },
            max: if band.count > 0.0 { f64::from(band.max) } else { 0.0 },
            percentiles: PERCENTILES.into_iter().zip(ranks.values(fine)).map(Into::into).collect(),
        })
        .collect())
}

impl Band {
    fn add(&mut self, values: &[f32]) {
        let (mut count, mut sum) = (0.0, 0.0);
        for value in values.iter().filter(|value| !value.is_nan()) {
            count += 1.0;
            sum += f64::from(*value);
            self.min = self.min.min(*value);
            self.max = self.max.max(*value);
            self.values.add(*value);
        }
        if count == 0.0 {
            return;
        }
        let mean = sum / count;
        let off = |value: &f32| (f64::from(*value) - mean) * (f64::from(*value) - mean);
        let spread: f64 = values.iter().filter(|value| !value.is_nan()).map(off).sum();
        let (all, apart) = (self.count + count, mean - self.mean);
        self.spread += spread + apart * apart * self.count * count / all;
        self.mean += apart * count / all;
        self.count = all;
    }
}
