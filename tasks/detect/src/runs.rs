//! Rows of probabilities to runs: the maximal stretches of a row above the threshold, with their sums.
//!
//! This is the only part that touches every pixel; it runs on the threads that decode. What is not above the
//! threshold (no-data and NaN included) leaves no trace.

/// Values this far outside 0..1 still count as probabilities: float arithmetic of a sigmoid or a blend ends there.
pub const TOLERANCE: f32 = 1e-5;

/// A maximal stretch of pixels above the threshold in one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// First column.
    pub start: u32,
    /// One past the last column.
    pub end: u32,
    /// Greatest value.
    pub max: f32,
    /// Sum of the values.
    pub sum: f64,
}

/// The runs of some consecutive rows.
#[derive(Clone, Debug, Default)]
pub struct RunRows {
    runs: Vec<Run>,
    /// For each row, one past its last run.
    ends: Vec<u32>,
}

impl RunRows {
    /// Rows held.
    pub fn rows(&self) -> usize {
        self.ends.len()
    }

    /// Runs held.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// The runs of each row, top to bottom, each sorted by column.
    pub fn iter(&self) -> impl Iterator<Item = &[Run]> {
        let mut from = 0;
        self.ends.iter().map(move |&end| {
            let row = &self.runs[from..end as usize];
            from = end as usize;
            row
        })
    }

    /// Appends a row.
    pub fn push(&mut self, row: &[Run]) {
        self.runs.extend_from_slice(row);
        self.ends.push(self.runs.len() as u32);
    }
}

/// Appends the stretches of `values` that are greater than `threshold` (NaN never is). `values` is the part of a row
/// that begins at `column`; a stretch that goes on from the part before it becomes one with it.
pub fn append(runs: &mut Vec<Run>, values: &[f32], column: u32, threshold: f32) {
    let mut open: Option<u32> = None;
    let mut carry = 0u64;
    let mut close = |start: u32, end: u32| {
        let run = run(values, start, end, column);
        match runs.last_mut() {
            Some(last) if last.end == run.start => {
                last.end = run.end;
                last.max = last.max.max(run.max);
                last.sum += run.sum;
            }
            _ => runs.push(run),
        }
    };
    for (index, chunk) in values.chunks(64).enumerate() {
        let base = index as u32 * 64;
        let mask = above(chunk, threshold);
        // A set bit marks a pixel whose state differs from the pixel before it.
        let mut edges = mask ^ ((mask << 1) | carry);
        carry = mask >> 63;
        while edges != 0 {
            let at = base + edges.trailing_zeros();
            edges &= edges - 1;
            match open.take() {
                None => open = Some(at),
                Some(start) => close(start, at),
            }
        }
    }
    if let Some(start) = open {
        close(start, values.len() as u32);
    }
}

fn above(chunk: &[f32], threshold: f32) -> u64 {
    let bit = |(index, value): (usize, &f32)| u64::from(*value > threshold) << index;
    match <&[f32; 64]>::try_from(chunk) {
        // Most of a scene is empty: a comparison of the whole chunk that vectorises comes first.
        Ok(full) if !full.iter().fold(false, |any, value| any | (*value > threshold)) => 0,
        Ok(full) => full.iter().enumerate().map(bit).fold(0, |mask, bit| mask | bit),
        Err(_) => chunk.iter().enumerate().map(bit).fold(0, |mask, bit| mask | bit),
    }
}

fn run(values: &[f32], start: u32, end: u32, column: u32) -> Run {
    let inside = &values[start as usize..end as usize];
    let sum = inside.iter().map(|value| f64::from(*value)).sum();
    let max = inside.iter().fold(f32::NEG_INFINITY, |max, value| max.max(*value));
    Run { start: column + start, end: column + end, max, sum }
}

/// The first value that is no probability: its index and itself. NaN is no value.
pub fn not_a_probability(values: &[f32]) -> Option<(usize, f32)> {
    // False for NaN.
    let bad = |value: f32| (value - 0.5).abs() > 0.5 + TOLERANCE;
    let (chunks, rest) = values.as_chunks::<256>();
    let mut at = 0;
    for chunk in chunks {
        if chunk.iter().fold(false, |any, value| any | bad(*value)) {
            break;
        }
        at += 256;
    }
    let from = at.min(values.len() - rest.len());
    let tail = &values[from..];
    tail.iter().position(|value| bad(*value)).map(|index| (from + index, tail[index]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(row: &[f32], threshold: f32) -> Vec<(u32, u32)> {
        let mut runs = Vec::new();
        append(&mut runs, row, 0, threshold);
        runs.iter().map(|run| (run.start, run.end)).collect()
    }

    #[test]
    fn a_row_in_parts_has_the_runs_of_the_whole() {
        let row: Vec<f32> = (0..300).map(|x| if (x / 7) % 3 == 0 || x > 250 { 0.75 } else { 0.25 }).collect();
        let mut whole = Vec::new();
        append(&mut whole, &row, 0, 0.5);
        for part in [1, 5, 64, 100, 299] {
            let mut runs = Vec::new();
            row.chunks(part).enumerate().for_each(|(at, values)| append(&mut runs, values, (at * part) as u32, 0.5));
            assert_eq!(runs, whole, "{part}");
        }
    }

    #[test]
    fn runs_cross_words_and_end_with_the_row() {
        for width in [1usize, 63, 64, 65, 128, 200] {
            for (from, to) in [(0, width), (width / 2, width), (width - 1, width), (0, 1)] {
                let row: Vec<f32> = (0..width).map(|x| if (from..to).contains(&x) { 0.9 } else { 0.1 }).collect();
                assert_eq!(stretches(&row, 0.5), vec![(from as u32, to as u32)], "{width} {from}..{to}");
            }
        }
    }

    #[test]
    fn the_threshold_itself_and_nan_are_not_above() {
        assert_eq!(stretches(&[0.5, f32::NAN, 0.500_001, f32::NAN, 0.6], 0.5), vec![(2, 3), (4, 5)]);
        assert!(stretches(&[f32::NAN; 70], 0.0).is_empty());
    }

    #[test]
    fn a_value_outside_0_to_1_is_found_where_it_lies() {
        let mut values = vec![0.5f32; 1000];
        assert_eq!(not_a_probability(&values), None);
        values[3] = f32::NAN;
        values[999] = 1.0 + TOLERANCE / 2.0;
        assert_eq!(not_a_probability(&values), None);
        values[999] = 255.0;
        assert_eq!(not_a_probability(&values), Some((999, 255.0)));
        values[300] = -0.5;
        assert_eq!(not_a_probability(&values), Some((300, -0.5)));
    }
}
