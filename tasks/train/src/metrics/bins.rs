//! Positives and negatives by logit.

use super::{Counts, logit, sigmoid};

/// As many as the upper half of a 32-bit float has values.
const COUNT: usize = 1 << 16;
/// A logit beyond this is as good as certain: its probability differs from 0 or 1 by 1e-13.
const CERTAIN: f32 = 30.0;

/// How many positives and negatives have a logit in each bin. Bins are ranges of 32-bit floats whose upper halves are equal, in
/// order: near 0 they are fine, and nowhere wider than 1/128 of the logit.
pub(super) struct Bins(Vec<[u64; 2]>);

impl Bins {
    pub fn new() -> Self {
        Self(vec![[0; 2]; COUNT])
    }

    pub fn add(&mut self, logit: f32, positive: bool) {
        self.0[bin(logit.clamp(-CERTAIN, CERTAIN))][usize::from(positive)] += 1;
    }

    /// Positives and negatives.
    pub fn totals(&self) -> (u64, u64) {
        self.0.iter().fold((0, 0), |(positives, negatives), [no, yes]| (positives + yes, negatives + no))
    }

    /// How likely a positive has a higher logit than a negative; half of a chance where they share a bin.
    pub fn auroc(&self) -> Option<f64> {
        let (positives, negatives) = self.totals();
        let (mut below, mut area) = (0u64, 0.0);
        for [no, yes] in &self.0 {
            area += *yes as f64 * (below as f64 + *no as f64 / 2.0);
            below += no;
        }
        (positives > 0 && negatives > 0).then(|| area / (positives as f64 * negatives as f64))
    }

    /// Precision, weighted by how much recall each threshold adds.
    pub fn average_precision(&self) -> Option<f64> {
        let (positives, _) = self.totals();
        let (mut hits, mut told, mut sum) = (0u64, 0u64, 0.0);
        for [no, yes] in self.0.iter().rev() {
            hits += yes;
            told += no + yes;
            if *yes > 0 {
                sum += *yes as f64 * hits as f64 / told as f64;
            }
        }
        (positives > 0).then(|| sum / positives as f64)
    }

    /// The threshold of the best F1: halfway down to the next lower prediction, at the edge of a bin.
    pub fn best_threshold(&self) -> Option<f64> {
        let (positives, _) = self.totals();
        let (mut hits, mut told) = (0u64, 0u64);
        let mut best: Option<(f64, usize)> = None;
        for (place, [no, yes]) in self.0.iter().enumerate().rev().filter(|(_, [no, yes])| no + yes > 0) {
            hits += yes;
            told += no + yes;
            let f1 = 2.0 * hits as f64 / (told + positives) as f64;
            if best.is_none_or(|(most, _)| f1 > most) {
                best = Some((f1, place));
            }
        }
        let (_, place) = best.filter(|_| positives > 0)?;
        let lower = self.0[..place].iter().rposition(|[no, yes]| no + yes > 0);
        let middle = lower.map_or(edge(place), |lower| (edge(place) + edge(lower + 1)) / 2.0);
        // Never below what was found: an edge above all lower predictions.
        let middle = lower.map_or(place, |lower| bin(middle).clamp(lower + 1, place));
        Some(sigmoid(f64::from(edge(middle))))
    }

    /// What a threshold finds.
    pub fn counts(&self, threshold: f64) -> Counts {
        let first = place_of(threshold);
        let (positives, _) = self.totals();
        let (hits, false_alarms) =
            self.0[first..].iter().fold((0, 0), |(hits, false_alarms), [no, yes]| (hits + yes, false_alarms + no));
        Counts { hits, false_alarms, misses: positives - hits }
    }
}

/// The bin of a logit. The bits of floats, the sign turned, are in the order of the floats.
fn bin(logit: f32) -> usize {
    let bits = logit.to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (ordered >> 16) as usize
}

/// The lowest logit of a bin.
fn edge(bin: usize) -> f32 {
    let ordered = (bin as u32) << 16;
    f32::from_bits(if ordered >> 31 == 1 { ordered & !(1 << 31) } else { !ordered })
}

/// The bin whose edge this threshold is.
fn place_of(threshold: f64) -> usize {
    // The lowest bin begins a little below the lowest logit.
    let logit = logit(threshold).clamp(f64::from(edge(bin(-CERTAIN))), f64::from(CERTAIN));
    let near = bin(logit as f32);
    let off = |place: &usize| (f64::from(edge(*place)) - logit).abs();
    let candidates = near.saturating_sub(1)..=(near + 1).min(COUNT - 1);
    candidates.min_by(|a, b| off(a).total_cmp(&off(b))).unwrap_or(near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_in_order_and_begin_at_their_edges() {
        let logits = [-30.0f32, -2.0, -1.999, -0.3, -1e-20, 0.0, 1e-20, 0.01, 1.0, 1.01, 29.0];
        assert!(logits.windows(2).all(|pair| bin(pair[0]) <= bin(pair[1])));
        for logit in logits {
            let place = bin(logit);
            assert!(edge(place) <= logit && logit < edge(place + 1), "{logit}");
            let wide = edge(place + 1) - edge(place);
            assert!(wide <= logit.abs() / 100.0 || logit.abs() < 1e-18, "{logit}: {wide}");
        }
        assert_eq!(edge(bin(0.0)), 0.0);
        for place in (bin(-29.0)..bin(29.0)).step_by(97).filter(|place| edge(*place).abs() > 1e-6) {
            assert_eq!(place_of(sigmoid(f64::from(edge(place)))), place, "{}", edge(place));
        }
        assert_eq!(edge(place_of(0.5)), 0.0);
    }

    #[test]
    fn a_threshold_that_is_told_finds_what_it_was_chosen_for_however_certain_the_network_is() {
        let certain = [(-1e3, true), (-1e3, false), (-500.0, false), (-500.0, false)];
        let sure = [(1e3, true), (1e3, false), (1e3, true), (-1e3, false)];
        let spread = [(-1e3, false), (-30.0, false), (-29.9, true), (-12.0, true), (35.0, true)];
        for (given, found) in [(&certain[..], [1, 3, 0]), (&sure[..], [2, 1, 0]), (&spread[..], [3, 0, 0])] {
            let mut bins = Bins::new();
            given.iter().for_each(|(logit, positive)| bins.add(*logit, *positive));
            let threshold = bins.best_threshold().unwrap();
            let [hits, false_alarms, misses] = found;
            assert_eq!(bins.counts(threshold), Counts { hits, false_alarms, misses }, "{given:?}: {threshold:e}");
        }
        let mut bins = Bins::new();
        certain.iter().for_each(|(logit, positive)| bins.add(*logit, *positive));
        assert_eq!(bins.counts(0.0).hits, 1);
    }

    #[test]
    fn a_gap_between_the_classes_is_halved() {
        let mut bins = Bins::new();
        for (logit, positive) in [(4.0, true), (3.0, true), (-1.0, false), (-5.0, false)] {
            bins.add(logit, positive);
        }
        let threshold = bins.best_threshold().unwrap();
        assert!((logit(threshold) - 1.0).abs() < 0.02, "{}", logit(threshold));
        assert_eq!(bins.counts(threshold), Counts { hits: 2, false_alarms: 0, misses: 0 });
        assert_eq!((bins.auroc(), bins.average_precision()), (Some(1.0), Some(1.0)));
    }
}
