//! How many pixels have which label, in bounded memory.
//!
//! Labels are classes, whole numbers from 0 to 255, or lie between 0 and 1 where it is not known. Masks hold a few such values
//! (0.5 in a ring); soft labels may hold as many as there are floats. Up to [`MOST_VALUES`] of them are told apart; more
//! are counted in ten bins, of which the upper end belongs to each: 0.5 stays ambiguous and what is above stays positive.
//! Which of both it is follows from the values alone, not from their order.

use std::collections::BTreeMap;

use crate::set::LabelCount;

/// Values between 0 and 1 that are told apart.
const MOST_VALUES: usize = 16;
/// Bins of more.
const BINS: usize = 10;
/// Classes.
const CLASSES: usize = 256;

/// Counts of labels. NaN is none; a number that is no label counts as the nearest one.
#[derive(Clone, Debug, Default)]
pub struct LabelCounts {
    /// Pixels of each class up to the highest.
    classes: Vec<u64>,
    between: Between,
}

/// Labels between 0 and 1.
#[derive(Clone, Debug)]
enum Between {
    /// By value: positive floats are ordered as their bits.
    Values(BTreeMap<u32, u64>),
    Bins([u64; BINS]),
}

impl Default for Between {
    fn default() -> Self {
        Self::Values(BTreeMap::new())
    }
}

impl Between {
    fn add(&mut self, value: f32, pixels: u64) {
        match self {
            Self::Values(values) => {
                *values.entry(value.to_bits()).or_default() += pixels;
                if values.len() > MOST_VALUES {
                    let mut bins = [0; BINS];
                    values.iter().for_each(|(bits, pixels)| bins[bin(f32::from_bits(*bits))] += pixels);
                    *self = Self::Bins(bins);
                }
            }
            Self::Bins(bins) => bins[bin(value)] += pixels,
        }
    }

    fn join(&mut self, other: &Self) {
        match other {
            Self::Values(values) => values.iter().for_each(|(bits, pixels)| self.add(f32::from_bits(*bits), *pixels)),
            Self::Bins(theirs) => {
                let mut bins = *theirs;
                match self {
                    Self::Values(own) => {
                        own.iter().for_each(|(bits, pixels)| bins[bin(f32::from_bits(*bits))] += pixels)
                    }
                    Self::Bins(own) => bins.iter_mut().zip(own).for_each(|(sum, pixels)| *sum += *pixels),
                }
                *self = Self::Bins(bins);
            }
        }
    }

    fn list(&self) -> Vec<LabelCount> {
        match self {
            Self::Values(values) => {
                let told = |(bits, pixels): (&u32, &u64)| count(f32::from_bits(*bits), *pixels);
                values.iter().map(told).collect()
            }
            Self::Bins(bins) => {
                let bins = bins.iter().enumerate().filter(|(_, pixels)| **pixels > 0);
                bins.map(|(bin, pixels)| LabelCount { value: end(bin + 1), from: Some(end(bin)), pixels: *pixels })
                    .collect()
            }
        }
    }
}

/// The end of so many bins.
fn end(bins: usize) -> f32 {
    bins as f32 / BINS as f32
}

/// The bin whose upper end is the first that is not below a value.
fn bin(value: f32) -> usize {
    (0..BINS).find(|bin| value <= end(bin + 1)).unwrap_or(BINS - 1)
}

fn count(value: f32, pixels: u64) -> LabelCount {
    LabelCount { value, from: None, pixels }
}

impl LabelCounts {
    /// Counts the labels that are not NaN.
    pub fn add(&mut self, labels: &[f32]) {
        let mut rest = labels;
        while let Some(value) = rest.first().copied() {
            // Labels come in runs.
            let run = rest.iter().take_while(|other| **other == value || value.is_nan() && other.is_nan()).count();
            if value > 0.0 && value < 1.0 {
                self.between.add(value, run as u64);
            } else if !value.is_nan() {
                let class = value.round().clamp(0.0, (CLASSES - 1) as f32) as usize;
                self.add_class(class, run as u64);
            }
            rest = &rest[run..];
        }
    }

    fn add_class(&mut self, class: usize, pixels: u64) {
        if self.classes.len() <= class {
            self.classes.resize(class + 1, 0);
        }
        self.classes[class] += pixels;
    }

    /// Adds other counts.
    pub fn join(&mut self, other: &Self) {
        other.classes.iter().enumerate().for_each(|(class, pixels)| self.add_class(class, *pixels));
        self.between.join(&other.between);
    }

    /// Pixels of each class that there is, by number.
    pub fn classes(&self) -> Vec<LabelCount> {
        let classes = self.classes.iter().enumerate().filter(|(_, pixels)| **pixels > 0);
        classes.map(|(class, pixels)| count(class as f32, *pixels)).collect()
    }

    /// Pixels of each label, by value.
    pub fn list(&self) -> Vec<LabelCount> {
        let mut all = self.classes();
        all.extend(self.between.list());
        all.sort_by(|a, b| a.value.total_cmp(&b.value).then(b.from.is_some().cmp(&a.from.is_some())));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(labels: &[f32]) -> Vec<(Option<f32>, f32, u64)> {
        let mut counts = LabelCounts::default();
        counts.add(labels);
        counts.list().iter().map(|count| (count.from, count.value, count.pixels)).collect()
    }

    #[test]
    fn classes_and_a_few_values_between_are_told_one_by_one() {
        let nan = f32::NAN;
        let labels = [0.0, 0.0, nan, 1.0, 0.5, 0.5, 7.0, nan, 0.0];
        assert_eq!(told(&labels), [(None, 0.0, 3), (None, 0.5, 2), (None, 1.0, 1), (None, 7.0, 1)]);
    }

    #[test]
    fn soft_labels_are_counted_in_bins_whatever_their_number_and_order() {
        // As many different values as pixels: this took a time that grew with their square.
        let soft: Vec<f32> = (0..1 << 20).map(|at| at as f32 / (1 << 20) as f32).collect();
        let counts = told(&soft);
        assert_eq!(counts.len(), 11, "{counts:?}");
        assert_eq!(counts[0], (None, 0.0, 1));
        assert_eq!((counts[5].0, counts[5].1), (Some(0.4), 0.5));
        let above: u64 = counts.iter().filter(|(_, value, _)| *value > 0.5).map(|(.., pixels)| pixels).sum();
        assert_eq!(above, soft.iter().filter(|value| **value > 0.5).count() as u64);

        let (mut parts, mut backwards) = (LabelCounts::default(), LabelCounts::default());
        for part in soft.chunks(1000) {
            let mut one = LabelCounts::default();
            one.add(part);
            parts.join(&one);
        }
        backwards.add(&soft.iter().rev().copied().collect::<Vec<_>>());
        for counts in [parts, backwards] {
            assert_eq!(
                counts.list().iter().map(|count| (count.from, count.value, count.pixels)).collect::<Vec<_>>(),
                told(&soft)
            );
        }
    }
}
