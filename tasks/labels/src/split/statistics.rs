//! Statistics of bands over chips, exact and streamed.
//!
//! Mean and deviation are joined chip by chip (Chan, Golub and LeVeque 1979). Percentiles are exact: floats are ordered by
//! their bits, a first pass counts their upper 16 bits, a second one the lower 16 bits of those few classes in which the wanted
//! ranks fall. Memory is a few MiB a band, whatever the number of chips.

use swath_datasets::{BandStatistics, ChipRef, ChipSet, LabelCount, count_labels};
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
    upper: Vec<u64>,
}

/// Calls `each` with the image and label of every chip.
fn each_chip(
    sets: &[ChipSet],
    chips: &[ChipRef],
    ctx: &Context,
    mut each: impl FnMut(&[f32], &[f32]),
) -> Result<(), TaskError> {
    let manifest = sets[0].manifest();
    let (mut image, mut label) = (vec![0.0; manifest.image_len()], vec![0.0; manifest.label_len()]);
    let mut scratch = Vec::new();
    for chip in chips {
        ctx.check_cancelled()?;
        sets[chip.set].read(chip.chip, &mut image, &mut label, &mut scratch).map_err(set_fault)?;
        each(&image, &label);
    }
    Ok(())
}

/// Pixels of each label over chips.
pub fn labels(sets: &[ChipSet], chips: &[ChipRef], ctx: &Context) -> Result<Vec<LabelCount>, TaskError> {
    let mut counts = Vec::new();
    each_chip(sets, chips, ctx, |_, label| count_labels(label, &mut counts))?;
    Ok(counts)
}

/// Statistics of every band over all pixels with data of these chips.
pub fn bands(sets: &[ChipSet], chips: &[ChipRef], ctx: &Context) -> Result<Vec<BandStatistics>, TaskError> {
    let manifest = sets[0].manifest();
    let plane = manifest.label_len();
    let empty = || Band {
        count: 0.0,
        mean: 0.0,
        spread: 0.0,
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
        upper: vec![0; 1 << 16],
    };
    let mut bands: Vec<Band> = manifest.bands.iter().map(|_| empty()).collect();
    each_chip(sets, chips, ctx, |image, _| {
        for (band, values) in bands.iter_mut().zip(image.chunks_exact(plane)) {
            band.add(values);
        }
    })?;
    // For each band the classes of upper bits in which wanted ranks fall, and the counts of the lower bits in each.
    let wanted: Vec<Vec<Rank>> = bands.iter().map(Band::ranks).collect();
    let mut classes: Vec<Vec<u32>> = wanted
        .iter()
        .map(|ranks| ranks.iter().flat_map(|rank| rank.places.map(|(class, _)| class)).collect())
        .collect();
    for classes in &mut classes {
        classes.sort_unstable();
        classes.dedup();
    }
    let mut lower: Vec<Vec<u64>> = classes.iter().map(|classes| vec![0; classes.len() << 16]).collect();
    each_chip(sets, chips, ctx, |image, _| {
        for ((classes, lower), values) in classes.iter().zip(&mut lower).zip(image.chunks_exact(plane)) {
            for value in values.iter().filter(|value| !value.is_nan()) {
                let key = key(*value);
                if let Ok(slot) = classes.binary_search(&(key >> 16)) {
                    lower[slot << 16 | (key & 0xFFFF) as usize] += 1;
                }
            }
        }
    })?;
    let told = bands.iter().zip(&manifest.bands).zip(wanted.iter().zip(classes.iter().zip(&lower)));
    Ok(told
        .map(|((band, name), (ranks, (classes, lower)))| {
            let exact = |(class, rank): (u32, u64)| {
                let slot = classes.binary_search(&class).unwrap_or(0);
                let (low, _) = class_of(&lower[slot << 16..(slot + 1) << 16], rank);
                f64::from(value_of(class << 16 | low))
            };
            let percentiles = ranks.iter().map(|rank| [rank.percentile, between(rank.places.map(exact), rank.share)]);
            BandStatistics {
                band: name.clone(),
                count: band.count as u64,
                mean: band.mean,
                std: (band.spread / band.count.max(1.0)).sqrt(),
                min: if band.count > 0.0 { f64::from(band.min) } else { 0.0 },
                max: if band.count > 0.0 { f64::from(band.max) } else { 0.0 },
                percentiles: percentiles.collect(),
            }
        })
        .collect())
}

/// A percentile: the classes and ranks of the two values that it lies between, and how far towards the second.
struct Rank {
    percentile: f64,
    places: [(u32, u64); 2],
    share: f64,
}

impl Band {
    fn add(&mut self, values: &[f32]) {
        let (mut count, mut sum) = (0.0, 0.0);
        for value in values.iter().filter(|value| !value.is_nan()) {
            count += 1.0;
            sum += f64::from(*value);
            self.min = self.min.min(*value);
            self.max = self.max.max(*value);
            self.upper[(key(*value) >> 16) as usize] += 1;
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

    fn ranks(&self) -> Vec<Rank> {
        let last = self.count as u64;
        let Some(last) = last.checked_sub(1) else { return Vec::new() };
        let rank = |percentile: f64| {
            let place = percentile / 100.0 * last as f64;
            let low = place.floor() as u64;
            let places = [low, (low + 1).min(last)].map(|rank| class_of(&self.upper, rank));
            Rank { percentile, places, share: place - place.floor() }
        };
        PERCENTILES.map(rank).into()
    }
}

/// numpy's linear interpolation, which leans on the nearer of the two values.
fn between([low, high]: [f64; 2], share: f64) -> f64 {
    if share < 0.5 { low + (high - low) * share } else { high - (high - low) * (1.0 - share) }
}

/// The order of floats as the order of unsigned integers.
fn key(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn value_of(key: u32) -> f32 {
    f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key })
}

/// The class that holds a rank, and the rank within it.
fn class_of(counts: &[u64], mut rank: u64) -> (u32, u64) {
    for (class, count) in counts.iter().enumerate() {
        if rank < *count {
            return (class as u32, rank);
        }
        rank -= count;
    }
    (counts.len() as u32 - 1, 0)
}
