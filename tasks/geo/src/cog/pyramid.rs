//! Overviews and statistics of tiles.

use std::collections::HashMap;

use super::{Overviews, TILE};
use crate::pixel::Pixel;

/// Overview tiles that wait for their quarters, by level, column and row.
pub struct Pending<T> {
    tiles: HashMap<(usize, usize, usize), Waiting<T>>,
}

struct Waiting<T> {
    data: Vec<T>,
    missing: usize,
}

impl<T: Pixel> Pending<T> {
    pub fn new() -> Self {
        Self { tiles: HashMap::new() }
    }

    /// Lays one quarter of each band into the tile `key`; returns the tile when that was the last of `quarters_needed`.
    pub fn deposit(
        &mut self,
        key: (usize, usize, usize),
        (width, height): (usize, usize),
        quarters_needed: usize,
        (left, top): (usize, usize),
        quarters: &[(usize, usize, Vec<T>)],
    ) -> Option<Vec<T>> {
        let waiting = self.tiles.entry(key).or_insert_with(|| Waiting {
            data: vec![T::default(); width * height * quarters.len()],
            missing: quarters_needed,
        });
        for (band, (quarter_width, quarter_height, pixels)) in quarters.iter().enumerate() {
            let plane = &mut waiting.data[band * width * height..][..width * height];
            for row in 0..*quarter_height {
                let to = (top + row) * width + left;
                plane[to..to + quarter_width].copy_from_slice(&pixels[row * quarter_width..][..*quarter_width]);
            }
        }
        waiting.missing = waiting.missing.saturating_sub(1);
        if waiting.missing > 0 {
            return None;
        }
        self.tiles.remove(&key).map(|waiting| waiting.data)
    }
}

/// Halves a tile in both directions; odd edges keep their last pixel.
pub fn quarter<T: Pixel>(
    pixels: &[T],
    width: usize,
    height: usize,
    nodata: Option<f64>,
    how: Overviews,
) -> (usize, usize, Vec<T>) {
    debug_assert!(width <= TILE && height <= TILE);
    let (half_width, half_height) = (width.div_ceil(2), height.div_ceil(2));
    let mut out = Vec::with_capacity(half_width * half_height);
    let is_nodata = |value: f64| value.is_nan() || nodata == Some(value);
    for row in 0..half_height {
        let upper = &pixels[2 * row * width..][..width];
        let lower = &pixels[(2 * row + 1).min(height - 1) * width..][..width];
        for column in 0..half_width {
            let left = 2 * column;
            if how == Overviews::Nearest {
                out.push(upper[left]);
                continue;
            }
            let right = (left + 1).min(width - 1);
            // At an odd edge the same pixel counts twice on both sides of the division: the mean stays right.
            let four = [upper[left], upper[right], lower[left], lower[right]].map(Pixel::to_f64);
            let (mut sum, mut count) = (0.0, 0_u32);
            for value in four {
                if !is_nodata(value) {
                    sum += value;
                    count += 1;
                }
            }
            out.push(if count == 0 { upper[left] } else { T::from_f64(sum / f64::from(count)) });
        }
    }
    (half_width, half_height, out)
}

/// What is known of the valid pixels of a tile or band.
#[derive(Clone, Copy, Debug)]
pub struct Statistics {
    pub count: u64,
    pub pixels: u64,
    pub minimum: f64,
    pub maximum: f64,
    pub mean: f64,
    /// Sum of squared differences from the mean.
    pub spread: f64,
}

impl Default for Statistics {
    fn default() -> Self {
        Self { count: 0, pixels: 0, minimum: f64::INFINITY, maximum: f64::NEG_INFINITY, mean: 0.0, spread: 0.0 }
    }
}

impl Statistics {
    pub fn of<T: Pixel>(pixels: &[T], nodata: Option<f64>) -> Self {
        let mut all = Self { pixels: pixels.len() as u64, ..Self::default() };
        // Differences from one valid value keep the squares small, so that a single pass is exact enough.
        let valid = |value: f64| value.is_finite() && nodata != Some(value);
        let Some(anchor) = pixels.iter().map(|p| p.to_f64()).find(|value| valid(*value)) else { return all };
        let (mut sum, mut squares) = (0.0, 0.0);
        for value in pixels.iter().map(|p| p.to_f64()) {
            if valid(value) {
                all.count += 1;
                all.minimum = all.minimum.min(value);
                all.maximum = all.maximum.max(value);
                let difference = value - anchor;
                sum += difference;
                squares += difference * difference;
            }
        }
        let count = all.count as f64;
        all.mean = anchor + sum / count;
        all.spread = (squares - sum * sum / count).max(0.0);
        all
    }

    /// Statistics of all parts together, in their order (Chan, Golub and LeVeque 1979).
    pub fn combine(parts: &[Self]) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.pixels += part.pixels;
            if part.count == 0 {
                continue;
            }
            let (a, b) = (all.count as f64, part.count as f64);
            let difference = part.mean - all.mean;
            all.mean += difference * b / (a + b);
            all.spread += part.spread + difference * difference * a * b / (a + b);
            all.count += part.count;
            all.minimum = all.minimum.min(part.minimum);
            all.maximum = all.maximum.max(part.maximum);
        }
        all
    }

    /// Population standard deviation.
    pub fn deviation(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.spread / self.count as f64).sqrt() }
    }
}
