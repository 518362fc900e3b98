//! Exact percentiles of any number of values in two passes and bounded memory.
//!
//! Floats are ordered by their bits: a first pass ([`Coarse`]) counts their upper 16 bits, a second one ([`Fine`]) the lower 16
//! bits of those few classes in which the wanted ranks fall. Both are half a MiB, or that for each class. Counts of parts can
//! be joined.

/// What is known after the first pass. NaN is not counted.
#[derive(Clone, Debug)]
pub struct Coarse(Vec<u64>);

impl Default for Coarse {
    fn default() -> Self {
        Self(vec![0; 1 << 16])
    }
}

impl Coarse {
    /// Counts a value.
    pub fn add(&mut self, value: f32) {
        if !value.is_nan() {
            self.0[(key(value) >> 16) as usize] += 1;
        }
    }

    /// Adds the counts of another part.
    pub fn join(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }

    /// Values counted.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Where these percentiles lie; nowhere when nothing was counted.
    pub fn ranks(&self, percentiles: &[f64]) -> Ranks {
        let Some(last) = self.total().checked_sub(1) else { return Ranks { ranks: Vec::new(), classes: Vec::new() } };
        let rank = |percentile: &f64| {
            let place = percentile / 100.0 * last as f64;
            let low = place.floor() as u64;
            let places = [low, (low + 1).min(last)].map(|rank| class_of(&self.0, rank));
            Rank { places, share: place - place.floor() }
        };
        let ranks: Vec<Rank> = percentiles.iter().map(rank).collect();
        let mut classes: Vec<u32> = ranks.iter().flat_map(|rank| rank.places.map(|(class, _)| class)).collect();
        classes.sort_unstable();
        classes.dedup();
        Ranks { ranks, classes }
    }
}

/// The two values that each wanted percentile lies between, by class.
#[derive(Clone, Debug)]
pub struct Ranks {
    ranks: Vec<Rank>,
    classes: Vec<u32>,
}

/// The classes of two values that follow each other, the rank of each in its class, and how far towards the second.
#[derive(Clone, Debug)]
struct Rank {
    places: [(u32, u64); 2],
    share: f64,
}

impl Ranks {
    /// Counts for the second pass.
    pub fn fine(&self) -> Fine {
        Fine { classes: self.classes.clone(), counts: vec![0; self.classes.len() << 16] }
    }

    /// The percentiles, as numpy's `percentile` has them (linear interpolation).
    pub fn values(&self, fine: &Fine) -> Vec<f64> {
        let exact = |(class, rank): (u32, u64)| {
            let slot = fine.classes.binary_search(&class).unwrap_or(0);
            let (low, _) = class_of(&fine.counts[slot << 16..(slot + 1) << 16], rank);
            f64::from(value_of(class << 16 | low))
        };
        self.ranks.iter().map(|rank| between(rank.places.map(exact), rank.share)).collect()
    }
}

/// What is known after the second pass.
#[derive(Clone, Debug)]
pub struct Fine {
    classes: Vec<u32>,
    counts: Vec<u64>,
}

impl Fine {
    /// Bytes that these counts take.
    pub fn bytes(&self) -> usize {
        size_of_val(self.counts.as_slice())
    }

    /// Counts a value.
    pub fn add(&mut self, value: f32) {
        let key = key(value);
        if let (false, Ok(slot)) = (value.is_nan(), self.classes.binary_search(&(key >> 16))) {
            self.counts[slot << 16 | (key & 0xFFFF) as usize] += 1;
        }
    }

    /// Adds the counts of another part.
    pub fn join(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_keep_their_order_as_keys() {
        let values = [f32::MIN, -1.5, -1e-30, -0.0, 0.0, 1e-30, 0.2, 0.200_000_02, f32::MAX];
        for pair in values.windows(2) {
            assert!(key(pair[0]) < key(pair[1]) || pair[0] == pair[1], "{pair:?}");
            assert_eq!(value_of(key(pair[0])), pair[0]);
        }
    }

    #[test]
    fn percentiles_of_parts_are_those_of_the_whole() {
        let values: Vec<f32> = (0..1000).map(|at| ((at * 7919) % 1000) as f32 / 8.0 - 20.0).chain([f32::NAN]).collect();
        let (mut coarse, mut fine) = (Coarse::default(), None::<Fine>);
        for part in values.chunks(300) {
            let mut one = Coarse::default();
            part.iter().for_each(|value| one.add(*value));
            coarse.join(&one);
        }
        let ranks = coarse.ranks(&[0.0, 2.0, 50.0, 100.0]);
        for part in values.chunks(300) {
            let mut one = ranks.fine();
            part.iter().for_each(|value| one.add(*value));
            fine.get_or_insert_with(|| ranks.fine()).join(&one);
        }
        // numpy.percentile(numpy.arange(1000) / 8 - 20, [0, 2, 50, 100])
        assert_eq!(ranks.values(&fine.unwrap()), [-20.0, -17.5025, 42.4375, 104.875]);
        assert!(Coarse::default().ranks(&[50.0]).values(&Coarse::default().ranks(&[50.0]).fine()).is_empty());
    }
}
