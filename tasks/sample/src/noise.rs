//! Smooth pseudo-random fields over the ground: functions of seed and place alone, so that any part of a scene can be
//! made by any thread, on any grid, at any time, and comes out the same. Only exactly rounded arithmetic: no `sin`, no `exp`.

/// 64 well-mixed bits of a seed and two whole numbers.
pub(crate) fn hash(seed: u64, x: i64, y: i64) -> u64 {
    let mut bits =
        seed ^ (x as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (y as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// The upper bits of a hash as a number from 0 to 1, 1 excluded.
pub(crate) fn unit(bits: u64) -> f32 {
    (bits >> 40) as f32 / (1u32 << 24) as f32
}

/// The next whole number below: `floor`, which is a call into the mathematical library on plain x86-64.
fn whole(value: f64) -> i64 {
    let cut = value as i64;
    cut - i64::from(cut as f64 > value)
}

/// Noise from 0 to 1 with features of size 1: hashed corners of whole numbers, smoothly joined.
pub(crate) fn smooth(seed: u64, x: f64, y: f64) -> f32 {
    let (column, row) = (whole(x), whole(y));
    let (left, bottom) = (column as f64, row as f64);
    let ease = |t: f64| (t * t * (3.0 - 2.0 * t)) as f32;
    let (right_share, top_share) = (ease(x - left), ease(y - bottom));
    let corner = |dx: i64, dy: i64| unit(hash(seed, column + dx, row + dy));
    let lower = corner(0, 0) + (corner(1, 0) - corner(0, 0)) * right_share;
    let upper = corner(0, 1) + (corner(1, 1) - corner(0, 1)) * right_share;
    lower + (upper - lower) * top_share
}

/// Noise from 0 to 1 of several octaves, each half as large and half as strong as the one before.
pub(crate) fn fractal(seed: u64, x: f64, y: f64, octaves: u32) -> f32 {
    let (mut sum, mut weights, mut weight, mut scale) = (0.0, 0.0, 1.0, 1.0);
    for octave in 0..octaves {
        sum += weight * smooth(seed.wrapping_add(u64::from(octave) * 0x51_7C_C1), x * scale, y * scale);
        weights += weight;
        weight *= 0.5;
        scale *= 2.0;
    }
    sum / weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_stays_in_range_and_is_continuous() {
        let mut last = smooth(7, -3.0, 0.4);
        for step in 1..6000 {
            let x = -3.0 + f64::from(step) / 1000.0;
            let value = smooth(7, x, 0.4);
            assert!((0.0..=1.0).contains(&value), "{value} at {x}");
            assert!((value - last).abs() < 0.002, "a jump at {x}");
            last = value;
        }
        assert_ne!(smooth(7, 0.5, 0.5), smooth(8, 0.5, 0.5));
    }
}
