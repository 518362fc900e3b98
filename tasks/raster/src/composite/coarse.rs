//! Pixels of the output that are coarser than those of the source: the mean of the source's pixels within a cell.
//!
//! Sources are read at their own size, block by block, so that memory does not follow from how much coarser the output
//! is, and no overview of a file, made who knows how, takes the place of its pixels.
//!
//! Invariants:
//! 1. A source pixel enters the mean of its cell only when the mask says clear at that very pixel and it is not no-data.
//! 2. A cell has a value when at least half of its pixels enter; where the nearest pixel is asked for, when the one in
//!    the middle does.

use crate::fit::Rectangle;

/// Side of the blocks that are read at a time, in source pixels; half of it where they are warped first.
pub const BLOCK: usize = 1024;

/// Sums of source pixels over the cells of an area.
pub struct Cells {
    /// Source pixels a side of a cell.
    fine: usize,
    area: Rectangle,
    /// Only the pixel in the middle of a cell counts.
    middle: bool,
    sums: Vec<f64>,
    counts: Vec<u32>,
}

impl Cells {
    /// Of `area` in pixels of the output.
    pub fn new(area: Rectangle, fine: usize, middle: bool) -> Self {
        Self { fine, area, middle, sums: vec![0.0; area.len()], counts: vec![0; area.len()] }
    }

    /// The blocks of source pixels that make up the area, cut where blocks of `side` pixels from `origin` on end.
    pub fn blocks(&self, side: usize, origin: (i64, i64)) -> Vec<Rectangle> {
        let fine = self.fine as i64;
        let cuts = |start: i64, length: usize, origin: i64| {
            let (mut from, end) = (start * fine, (start + length as i64) * fine);
            let mut cuts = Vec::new();
            while from < end {
                let next = ((from - origin).div_euclid(side as i64) + 1) * side as i64 + origin;
                cuts.push((from, next.min(end)));
                from = next;
            }
            cuts
        };
        let columns = cuts(self.area.column, self.area.width, origin.0);
        let rows = cuts(self.area.row, self.area.height, origin.1);
        let block = |(top, bottom): (i64, i64), (left, right): (i64, i64)| Rectangle {
            column: left,
            row: top,
            width: (right - left) as usize,
            height: (bottom - top) as usize,
        };
        rows.into_iter().flat_map(|row| columns.iter().map(move |column| block(row, *column))).collect()
    }

    /// Adds source pixels of one row from `column` on; `None` does not count. Both are within the area.
    pub fn add(&mut self, row: i64, column: i64, pixels: impl Iterator<Item = Option<f64>>) {
        let fine = self.fine as i64;
        if self.middle && row.rem_euclid(fine) != fine / 2 {
            return;
        }
        let line = (row.div_euclid(fine) - self.area.row) as usize * self.area.width;
        let mut at = line + (column.div_euclid(fine) - self.area.column) as usize;
        let mut within = column.rem_euclid(fine);
        for pixel in pixels {
            if let Some(value) = pixel.filter(|_| !self.middle || within == fine / 2) {
                self.sums[at] += value;
                self.counts[at] += 1;
            }
            within += 1;
            if within == fine {
                (within, at) = (0, at + 1);
            }
        }
    }

    /// The mean of each cell, `None` where too few pixels count.
    pub fn means(self) -> impl Iterator<Item = Option<f64>> {
        let all = (self.fine * self.fine) as u64;
        let needed = if self.middle { 1 } else { all.div_ceil(2) };
        let mean = move |(sum, count): (f64, u32)| (u64::from(count) >= needed).then(|| sum / f64::from(count));
        self.sums.into_iter().zip(self.counts).map(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_summed_over_blocks_that_cut_them_anywhere() {
        let area = Rectangle { column: 2, row: 1, width: 4, height: 3 };
        let value = |column: i64, row: i64| (column * 7 + row * row) as f64;
        for (fine, side) in [(3, 4), (5, 64), (2, 1), (7, 3)] {
            for middle in [false, true] {
                let mut cells = Cells::new(area, fine, middle);
                let mut seen = 0;
                for block in cells.blocks(side, (-5, 3)) {
                    assert!(block.width <= side && block.height <= side);
                    seen += block.len();
                    for row in block.row..block.row + block.height as i64 {
                        let columns = block.column..block.column + block.width as i64;
                        cells.add(row, block.column, columns.map(|column| Some(value(column, row))));
                    }
                }
                assert_eq!(seen, area.len() * fine * fine, "every pixel once");
                for (at, mean) in cells.means().enumerate() {
                    let (left, top) = ((2 + at as i64 % 4) * fine as i64, (1 + at as i64 / 4) * fine as i64);
                    let half = fine as i64 / 2;
                    let want = if middle {
                        value(left + half, top + half)
                    } else {
                        let pixels = (0..fine as i64).flat_map(|y| (0..fine as i64).map(move |x| (left + x, top + y)));
                        pixels.map(|(x, y)| value(x, y)).sum::<f64>() / (fine * fine) as f64
                    };
                    assert!((mean.unwrap() - want).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    fn half_of_a_cell_must_count() {
        let area = Rectangle { column: 0, row: 0, width: 3, height: 1 };
        let mut cells = Cells::new(area, 3, false);
        cells.add(
            0,
            0,
            [Some(1.0), Some(2.0), Some(3.0), Some(1.0), Some(2.0), Some(3.0), None, None, None].into_iter(),
        );
        cells.add(1, 0, [Some(4.0), Some(5.0), None, Some(4.0)].into_iter());
        assert_eq!(cells.means().collect::<Vec<_>>(), [Some(3.0), None, None]);
    }
}
