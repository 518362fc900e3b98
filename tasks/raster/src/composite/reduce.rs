//! Reducing the observations of each pixel to one value.
//!
//! The median sorts 64 pixels side by side through Batcher's odd-even merge network: every comparison is the same for
//! all of them, so that the compiler makes vector instructions of it, and no branch depends on the data. Observations
//! that do not count are infinite and end up behind all others.

use swath_geo::Pixel;

use super::Method;

/// Pixels worked on side by side.
const LANES: usize = 64;

/// A pixel type the reduction reads.
pub trait Sample: Pixel + PartialEq {
    /// Its value; integers up to 24 bits are exact.
    fn real(self) -> f32;
}

macro_rules! samples {
    ($($kind:ty),+) => {$(
        impl Sample for $kind {
            fn real(self) -> f32 {
                self as f32
            }
        }
    )+};
}
samples!(u8, u16, i16, f32);

/// The observations of one acquisition in a window.
pub struct Slot<'a, T> {
    /// Pixels of the window.
    pub pixels: &'a [T],
    /// 1 where they are clear; all of them when absent.
    pub clear: Option<&'a [u8]>,
    /// Pixels of this value hold nothing.
    pub nodata: Option<T>,
    /// value = pixel * gain + bias.
    pub gain: f64,
    /// See `gain`.
    pub bias: f64,
}

/// Reduces windows; keeps its buffers.
pub struct Reducer {
    method: Method,
    network: Vec<(usize, usize)>,
    size: usize,
    lanes: Vec<[f32; LANES]>,
}

impl Reducer {
    pub fn new(method: Method) -> Self {
        Self { method, network: Vec::new(), size: 0, lanes: Vec::new() }
    }

    /// Writes the reduced value times `scale` of each pixel (NaN where nothing counts) and how many counted.
    pub fn reduce<T: Sample>(&mut self, slots: &[Slot<T>], scale: f64, out: &mut [f32], counts: &mut [u16]) {
        if slots.is_empty() {
            out.fill(f32::NAN);
            counts.fill(0);
            return;
        }
        if self.size != slots.len() {
            self.size = slots.len();
            self.network = sorting_network(self.size);
            self.lanes = vec![[0.0; LANES]; self.size];
        }
        let mut start = 0;
        for (out, counts) in out.chunks_mut(LANES).zip(counts.chunks_mut(LANES)) {
            self.chunk(slots, start, scale, out, counts);
            start += out.len();
        }
    }

    fn chunk<T: Sample>(&mut self, slots: &[Slot<T>], start: usize, scale: f64, out: &mut [f32], counts: &mut [u16]) {
        let width = out.len();
        let mut valid = [0_u16; LANES];
        for (slot, lane) in slots.iter().zip(&mut self.lanes) {
            let pixels = &slot.pixels[start..start + width];
            // Values first, then what does not count: two simple loops are vector code, one clever loop is not.
            if slot.gain == 1.0 {
                let bias = slot.bias as f32;
                for (lane, pixel) in lane.iter_mut().zip(pixels) {
                    *lane = pixel.real() + bias;
                }
            } else {
                for (lane, pixel) in lane.iter_mut().zip(pixels) {
                    *lane = (pixel.to_f64() * slot.gain + slot.bias) as f32;
                }
            }
            let mut counted = [1_u8; LANES];
            if let Some(clear) = slot.clear {
                counted[..width].copy_from_slice(&clear[start..start + width]);
            }
            if let Some(nodata) = slot.nodata {
                for (counted, pixel) in counted.iter_mut().zip(pixels) {
                    *counted &= u8::from(*pixel != nodata);
                }
            }
            if T::TYPE.is_float() {
                for (counted, value) in counted.iter_mut().zip(lane.iter()) {
                    *counted &= u8::from(value.abs() < f32::INFINITY);
                }
            }
            for ((lane, counted), valid) in lane.iter_mut().zip(&counted).zip(&mut valid) {
                *lane = if *counted != 0 { *lane } else { f32::INFINITY };
                *valid += u16::from(*counted);
            }
        }
        match self.method {
            Method::Median => self.median(&valid, scale, out),
            Method::Mean => self.mean(&valid, scale, out),
        }
        counts.copy_from_slice(&valid[..width]);
    }

    fn median(&mut self, valid: &[u16; LANES], scale: f64, out: &mut [f32]) {
        for (low, high) in &self.network {
            let (left, right) = self.lanes.split_at_mut(*high);
            let (a, b) = (&mut left[*low], &mut right[0]);
            // Two selections of the form that is one instruction each; with one shared comparison it becomes branches.
            let (x, y) = (*a, *b);
            for index in 0..LANES {
                a[index] = if x[index] < y[index] { x[index] } else { y[index] };
            }
            for index in 0..LANES {
                b[index] = if x[index] > y[index] { x[index] } else { y[index] };
            }
        }
        for (index, out) in out.iter_mut().enumerate() {
            let count = usize::from(valid[index]);
            *out = if count == 0 {
                f32::NAN
            } else {
                let (low, high) = (self.lanes[(count - 1) / 2][index], self.lanes[count / 2][index]);
                ((f64::from(low) + f64::from(high)) * 0.5 * scale) as f32
            };
        }
    }

    fn mean(&mut self, valid: &[u16; LANES], scale: f64, out: &mut [f32]) {
        let mut sums = [0.0_f64; LANES];
        for lane in &self.lanes {
            for (sum, value) in sums.iter_mut().zip(lane) {
                *sum += if *value < f32::INFINITY { f64::from(*value) } else { 0.0 };
            }
        }
        for ((out, sum), count) in out.iter_mut().zip(sums).zip(valid) {
            *out = if *count == 0 { f32::NAN } else { (sum / f64::from(*count) * scale) as f32 };
        }
    }
}

/// The comparisons of Batcher's odd-even merge sort for any number of values (Knuth, volume 3, algorithm M).
fn sorting_network(size: usize) -> Vec<(usize, usize)> {
    let mut network = Vec::new();
    let mut run = 1;
    while run < size {
        let mut step = run;
        while step >= 1 {
            let mut start = step % run;
            while start + step < size {
                for i in 0..step.min(size - start - step) {
                    if (i + start) / (2 * run) == (i + start + step) / (2 * run) {
                        network.push((i + start, i + start + step));
                    }
                }
                start += 2 * step;
            }
            step /= 2;
        }
        run *= 2;
    }
    network
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain generator of test numbers (Steele and others, SplitMix64).
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    #[test]
    fn the_network_sorts_every_size_to_forty() {
        // A network that sorts all sequences of zeros and ones sorts everything; beyond 12 values, random ones.
        for size in 1..=40 {
            let network = sorting_network(size);
            let mut state = size as u64;
            for case in 0..(1_u64 << size.min(12)) {
                let bits = if size <= 12 { case } else { random(&mut state) };
                let mut values: Vec<u64> = (0..size).map(|i| bits >> i & 1).collect();
                for (a, b) in &network {
                    if values[*a] > values[*b] {
                        values.swap(*a, *b);
                    }
                }
                assert!(values.is_sorted(), "{size}: {bits:b}");
            }
        }
    }

    #[test]
    fn median_and_mean_agree_with_a_plain_computation_on_any_number_of_observations() {
        let mut state = 7;
        for count in [1, 2, 3, 4, 7, 12, 33] {
            let pixels: Vec<Vec<u16>> =
                (0..count).map(|_| (0..200).map(|_| (random(&mut state) % 5000) as u16).collect()).collect();
            let clear: Vec<Vec<u8>> = (0..count)
                .map(|_| (0..200).map(|_| u8::from(!random(&mut state).is_multiple_of(3))).collect())
                .collect();
            let slots: Vec<Slot<u16>> = pixels
                .iter()
                .zip(&clear)
                .enumerate()
                .map(|(i, (pixels, clear))| Slot {
                    pixels,
                    clear: Some(clear),
                    nodata: Some(0),
                    gain: 1.0,
                    bias: if i % 2 == 0 { -1000.0 } else { 0.0 },
                })
                .collect();
            for method in [Method::Median, Method::Mean] {
                let (mut out, mut counts) = (vec![0.0; 200], vec![0; 200]);
                Reducer::new(method).reduce(&slots, 1e-4, &mut out, &mut counts);
                for pixel in 0..200 {
                    let mut values: Vec<f64> = (0..count)
                        .filter(|i| clear[*i][pixel] == 1 && pixels[*i][pixel] != 0)
                        .map(|i| f64::from(pixels[i][pixel]) + if i % 2 == 0 { -1000.0 } else { 0.0 })
                        .collect();
                    values.sort_by(f64::total_cmp);
                    assert_eq!(usize::from(counts[pixel]), values.len());
                    let n = values.len();
                    if n == 0 {
                        assert!(out[pixel].is_nan());
                        continue;
                    }
                    let want = match method {
                        Method::Median => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
                        Method::Mean => values.iter().sum::<f64>() / n as f64,
                    };
                    assert!((f64::from(out[pixel]) - want * 1e-4).abs() < 1e-7, "{method:?}");
                }
            }
        }
    }
}
