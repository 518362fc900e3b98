//! Which negatives train: as many as the positives bear, half of them hard.
//!
//! A negative is hard when it looks like the positives or lies near them. Looks: the mean and standard deviation of each band,
//! standardised, and the mean distance to the three most similar positives, least first; that is NearMiss-1 (Zhang and Mani,
//! "kNN approach to unbalanced data distributions", ICML 2003 workshop), as imbalanced-learn has it. Place: the
//! distance to the nearest positive chip: the same landscape without what is looked for. No model takes part, so that the
//! choice is made before there is one. The other half is drawn at random, so that the rest of the world is seen, too.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_datasets::Chip;

use super::sides::draw;

/// Positives that a negative is compared with.
const NEIGHBOURS: usize = 3;
/// Of more positives than these, as many are drawn to compare with.
const MOST_POSITIVES: usize = 2_000;

/// How negatives of the training side are chosen.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Negatives {
    /// Negatives to each positive; `null` keeps all.
    pub ratio: Option<f64>,
    /// Share of them that are hard; the others are drawn at random.
    pub hard: f64,
    /// What makes a negative hard.
    pub by: Hardness,
}

impl Default for Negatives {
    fn default() -> Self {
        Self { ratio: Some(3.0), hard: 0.5, by: Hardness::Both }
    }
}

/// What makes a negative hard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Hardness {
    /// It looks like positives (NearMiss-1 on band means and deviations).
    Looks,
    /// It lies near a positive.
    Place,
    /// Both: the sum of its ranks.
    #[default]
    Both,
}

/// A chip of the training side.
pub struct Candidate<'a> {
    /// The chip.
    pub chip: &'a Chip,
    /// Longitude and latitude of its centre.
    pub centre: (f64, f64),
    /// A number of its own, for what is drawn.
    pub number: u64,
}

impl Negatives {
    /// How many of so many negatives are kept beside so many positives.
    fn keep(&self, positives: usize, negatives: usize) -> usize {
        self.ratio.map_or(negatives, |ratio| (ratio * positives as f64).ceil() as usize).min(negatives)
    }

    /// Indices of the negatives that train, sorted.
    pub fn choose(&self, positives: &[Candidate], negatives: &[Candidate], seed: u64) -> Vec<usize> {
        let keep = self.keep(positives.len(), negatives.len());
        if keep == negatives.len() {
            return (0..keep).collect();
        }
        let hard = (keep as f64 * self.hard).round() as usize;
        let mut by_chance: Vec<usize> = (0..negatives.len()).collect();
        by_chance.sort_by_cached_key(|index| draw(seed, &[1, negatives[*index].number]));
        let mut chosen = vec![false; negatives.len()];
        if hard > 0 {
            let positives = few(positives, seed);
            let ranks = match self.by {
                Hardness::Looks => ranks(&looks(&positives, negatives)),
                Hardness::Place => ranks(&distances(&positives, negatives)),
                Hardness::Both => {
                    let (looks, places) =
                        (ranks(&looks(&positives, negatives)), ranks(&distances(&positives, negatives)));
                    looks.iter().zip(places).map(|(a, b)| a + b).collect()
                }
            };
            let mut order = by_chance.clone();
            order.sort_by_key(|index| ranks[*index]);
            order[..hard].iter().for_each(|index| chosen[*index] = true);
        }
        let rest: Vec<usize> = by_chance.into_iter().filter(|index| !chosen[*index]).take(keep - hard).collect();
        rest.into_iter().for_each(|index| chosen[index] = true);
        (0..negatives.len()).filter(|index| chosen[*index]).collect()
    }
}

fn few<'a, 'b>(positives: &'b [Candidate<'a>], seed: u64) -> Vec<&'b Candidate<'a>> {
    let mut order: Vec<&Candidate> = positives.iter().collect();
    order.sort_by_cached_key(|candidate| draw(seed, &[2, candidate.number]));
    order.truncate(MOST_POSITIVES);
    order
}

/// The place of each value in the order of all; equal values share one.
fn ranks(values: &[f64]) -> Vec<usize> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    values.iter().map(|value| sorted.partition_point(|other| other.total_cmp(value) == Ordering::Less)).collect()
}

/// Mean distance of each negative to the most similar positives.
fn looks(positives: &[&Candidate], negatives: &[Candidate]) -> Vec<f64> {
    let features = |chip: &Chip| -> Vec<f64> {
        chip.mean.iter().chain(&chip.std).map(|value| value.map_or(f64::NAN, f64::from)).collect()
    };
    let mut own: Vec<Vec<f64>> = negatives.iter().map(|negative| features(negative.chip)).collect();
    let mut theirs: Vec<Vec<f64>> = positives.iter().map(|positive| features(positive.chip)).collect();
    let width = theirs.first().map_or(0, Vec::len);
    for feature in 0..width {
        let values = || own.iter().chain(&theirs).map(|row| row[feature]).filter(|value| !value.is_nan());
        let count = values().count().max(1) as f64;
        let mean = values().sum::<f64>() / count;
        let std = (values().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count).sqrt();
        let scale = if std > 0.0 { 1.0 / std } else { 0.0 };
        for row in own.iter_mut().chain(&mut theirs) {
            // A band without data says nothing: it is as any other.
            row[feature] = if row[feature].is_nan() { 0.0 } else { (row[feature] - mean) * scale };
        }
    }
    let squared = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    own.iter()
        .map(|row| {
            let mut nearest: Vec<f64> = theirs.iter().map(|other| squared(row, other)).collect();
            let count = NEIGHBOURS.min(nearest.len());
            nearest.select_nth_unstable_by(count - 1, f64::total_cmp);
            nearest[..count].iter().map(|squared| squared.sqrt()).sum::<f64>() / count as f64
        })
        .collect()
}

/// How far each negative lies from the nearest positive, as the chord through the Earth.
fn distances(positives: &[&Candidate], negatives: &[Candidate]) -> Vec<f64> {
    let point = |(longitude, latitude): (f64, f64)| {
        let ((sine, cosine), (up, across)) = (longitude.to_radians().sin_cos(), latitude.to_radians().sin_cos());
        [across * cosine, across * sine, up]
    };
    let theirs: Vec<[f64; 3]> = positives.iter().map(|positive| point(positive.centre)).collect();
    let chord = |a: &[f64; 3], b: &[f64; 3]| (0..3).map(|axis| (a[axis] - b[axis]) * (a[axis] - b[axis])).sum::<f64>();
    negatives
        .iter()
        .map(|negative| {
            let own = point(negative.centre);
            theirs.iter().map(|other| chord(&own, other)).fold(f64::INFINITY, f64::min)
        })
        .collect()
}
