//! Random numbers that follow from the seed and from what they are for.

use rand::SeedableRng;
use rand::rngs::SmallRng;

/// What numbers are drawn for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum For {
    /// The weights a network begins with.
    Weights,
    /// The order of the chips in an epoch.
    Order,
    /// The augmentation of a chip in an epoch.
    Chip,
    /// What a network draws in the forward pass of a batch (dropout).
    Forward,
    /// The chips in the picture of samples.
    Picture,
}

/// A seed for this purpose; `epoch` and `item` tell its instances apart.
pub(crate) fn seed(seed: u64, purpose: For, epoch: u64, item: u64) -> u64 {
    [purpose as u64, epoch, item].into_iter().fold(mix(seed), |state, value| mix(state ^ mix(value)))
}

/// A generator for this purpose.
pub(crate) fn generator(own: u64, purpose: For, epoch: u64, item: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed(own, purpose, epoch, item))
}

/// SplitMix64 (Steele and others, 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_purposes_share_their_numbers() {
        let purposes = [For::Weights, For::Order, For::Chip, For::Forward, For::Picture];
        let all = purposes
            .into_iter()
            .flat_map(|purpose| (0..20).flat_map(move |epoch| (0..20).map(move |item| seed(42, purpose, epoch, item))));
        assert_eq!(all.collect::<HashSet<_>>().len(), 5 * 20 * 20);
        assert_ne!(seed(1, For::Order, 0, 0), seed(2, For::Order, 0, 0));
    }
}
