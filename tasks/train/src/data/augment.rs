//! Chips turned, mirrored and made noisy.

use rand::Rng;

use crate::settings::Augmentation;

/// One of the eight ways in which a square lies on itself: its rows and columns change places, then it is mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Turn {
    transposed: bool,
    mirrored_x: bool,
    mirrored_y: bool,
}

impl Turn {
    /// One of those that are asked for.
    pub fn draw(how: &Augmentation, random: &mut impl Rng) -> Self {
        let mut turn = Self::default();
        if how.rotate {
            let quarters = random.random_range(0..4u8);
            turn.transposed = quarters % 2 == 1;
            turn.mirrored_x = quarters == 1 || quarters == 2;
            turn.mirrored_y = quarters == 2 || quarters == 3;
        }
        if how.flip {
            turn.mirrored_x ^= random.random_bool(0.5);
            turn.mirrored_y ^= random.random_bool(0.5);
        }
        turn
    }

    /// Turns a plane of `size` rows and columns.
    pub fn apply(self, from: &[f32], to: &mut [f32], size: usize) {
        if self == Self::default() {
            to.copy_from_slice(from);
            return;
        }
        for (row, to) in to.chunks_exact_mut(size).enumerate() {
            let y = if self.mirrored_y { size - 1 - row } else { row };
            for (column, to) in to.iter_mut().enumerate() {
                let x = if self.mirrored_x { size - 1 - column } else { column };
                *to = if self.transposed { from[x * size + y] } else { from[y * size + x] };
            }
        }
    }
}

/// Adds normal noise to all but what is no data. (Data that happens to equal the fill stays as it is, too.)
pub(super) fn noise(values: &mut [f32], deviation: f64, fill: f32, random: &mut impl Rng) {
    for pair in values.chunks_mut(2) {
        // Box and Muller, 1958: two normal numbers of two even ones.
        let radius = (-2.0 * (1.0 - random.random::<f32>()).ln()).sqrt() * deviation as f32;
        let (sine, cosine) = (std::f32::consts::TAU * random.random::<f32>()).sin_cos();
        for (value, normal) in pair.iter_mut().zip([sine, cosine]) {
            if *value != fill {
                *value += radius * normal;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::random::{For, generator};

    fn turned(turn: Turn) -> Vec<i32> {
        let from: Vec<f32> = (0..9u8).map(f32::from).collect();
        let mut to = vec![0.0; 9];
        turn.apply(&from, &mut to, 3);
        to.into_iter().map(|value| value as i32).collect()
    }

    fn drawn(rotate: bool, flip: bool) -> HashSet<Vec<i32>> {
        let how = Augmentation { rotate, flip, brightness: 0.0, noise: 0.0 };
        (0..200).map(|item| turned(Turn::draw(&how, &mut generator(1, For::Chip, 0, item)))).collect()
    }

    /// numpy's `rot90(x, k)` of 0 to 8, and its `fliplr` and `flipud`.
    #[test]
    fn turns_are_those_of_numpy() {
        let [quarter, half, three] =
            [[2, 5, 8, 1, 4, 7, 0, 3, 6], [8, 7, 6, 5, 4, 3, 2, 1, 0], [6, 3, 0, 7, 4, 1, 8, 5, 2]];
        let same = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        let rotated: HashSet<Vec<i32>> = [same, quarter, half, three].map(Vec::from).into();
        assert_eq!(drawn(true, false), rotated);
        let [left_right, up_down] = [[2, 1, 0, 5, 4, 3, 8, 7, 6], [6, 7, 8, 3, 4, 5, 0, 1, 2]];
        assert_eq!(drawn(false, true), [same, left_right, up_down, half].map(Vec::from).into());
        assert_eq!(drawn(true, true).len(), 8);
        assert_eq!(drawn(false, false), [same.to_vec()].into());
    }

    #[test]
    fn noise_is_normal_and_spares_no_data() {
        let mut values = vec![5.0; 100_000];
        values[7] = -1.0;
        noise(&mut values, 0.5, -1.0, &mut generator(3, For::Chip, 1, 1));
        assert_eq!(values[7], -1.0);
        let values: Vec<f64> =
            values.iter().filter(|value| **value != -1.0).map(|value| f64::from(*value) - 5.0).collect();
        let moment = |power: i32| values.iter().map(|value| value.powi(power)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < 0.01 && (moment(2) - 0.25).abs() < 0.01, "{} {}", moment(1), moment(2));
        assert!((moment(4) - 3.0 * 0.0625).abs() < 0.01, "as heavy in its tails as a normal one: {}", moment(4));
    }
}
