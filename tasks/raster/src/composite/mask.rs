//! Masks: which pixels of a scene are clear.

use super::{Composite, Mask, NamedMask};

/// How mask values are read.
#[derive(Clone, Debug)]
pub struct Rule {
    test: Test,
    /// Metres around masked pixels that are masked, too.
    pub dilation: f64,
}

#[derive(Clone, Debug)]
enum Test {
    /// Clear values, as a table over all 16-bit values.
    Values(Box<[bool]>),
    /// Bits that must not be set.
    Bits(u16),
}

impl Rule {
    pub fn new(task: &Composite) -> Self {
        let table = |values: &[u16]| {
            let mut table = vec![false; 1 << 16].into_boxed_slice();
            for value in values {
                table[usize::from(*value)] = true;
            }
            Test::Values(table)
        };
        let test = match &task.mask {
            Mask::Named(NamedMask::Scl | NamedMask::None) => table(&task.clear),
            Mask::Asset(mask) if mask.cloudy_bits.is_empty() => table(&mask.clear),
            Mask::Asset(mask) => Test::Bits(mask.cloudy_bits.iter().fold(0, |bits, bit| bits | 1 << bit)),
        };
        Self { test, dilation: task.cloud_dilation }
    }

    /// Clear pixels become 1, masked ones 0, those without data (`nodata`) 2: nothing spreads from them. A value that is
    /// listed as clear is clear, also when it is the no-data value; so is 0 where bits are asked for: no bit is set.
    pub fn classify<T: Copy + Into<u16>>(&self, values: &[T], nodata: Option<u16>) -> Vec<u8> {
        let one = |value: u16| match &self.test {
            Test::Values(table) if table[usize::from(value)] => 1,
            Test::Bits(bits) if value & bits == 0 && (nodata != Some(value) || value == 0) => 1,
            _ if nodata == Some(value) => 2,
            _ => 0,
        };
        values.iter().map(|value| one((*value).into())).collect()
    }
}

/// Clears the pixels within a disk of `radius` pixels (one number for columns, one for rows) around masked ones.
/// Returns 1 for clear, 0 for all others.
pub fn dilate(classes: &[u8], width: usize, height: usize, (radius_x, radius_y): (f64, f64)) -> Vec<u8> {
    let mut clear: Vec<u8> = classes.iter().map(|class| u8::from(*class == 1)).collect();
    if radius_x < 1.0 && radius_y < 1.0 {
        return clear;
    }
    // Masked pixels before each column of a row: the number in any stretch of it is one subtraction.
    let mut before = vec![0_u32; (width + 1) * height];
    for row in 0..height {
        for column in 0..width {
            let masked = u32::from(classes[row * width + column] == 0);
            before[row * (width + 1) + column + 1] = before[row * (width + 1) + column] + masked;
        }
    }
    let reach = radius_y.floor() as i64;
    for dy in -reach..=reach {
        let share = if radius_y > 0.0 { dy as f64 / radius_y } else { 0.0 };
        let half = (radius_x * (1.0 - share * share).max(0.0).sqrt()).floor() as usize;
        for row in 0..height {
            let other = row as i64 + dy;
            if other < 0 || other >= height as i64 {
                continue;
            }
            let counts = &before[other as usize * (width + 1)..][..width + 1];
            for (column, clear) in clear[row * width..][..width].iter_mut().enumerate() {
                let (from, to) = (column.saturating_sub(half), (column + half + 1).min(width));
                if counts[to] > counts[from] {
                    *clear = 0;
                }
            }
        }
    }
    clear
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_pixel_spreads_as_a_disk_and_no_data_does_not_spread() {
        let (width, height) = (9, 9);
        let mut classes = vec![1; 81];
        classes[4 * 9 + 4] = 0;
        classes[0] = 2;
        let clear = dilate(&classes, width, height, (3.0, 3.0));
        for row in 0..9_i64 {
            for column in 0..9_i64 {
                let near = (row - 4).pow(2) + (column - 4).pow(2) <= 9;
                let want = u8::from(!near && (row, column) != (0, 0));
                assert_eq!(clear[(row * 9 + column) as usize], want, "{column}, {row}");
            }
        }
        assert_eq!(dilate(&classes, width, height, (0.0, 0.0)).iter().filter(|c| **c == 1).count(), 79);
    }
}
