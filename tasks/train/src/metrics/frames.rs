//! Boxes of pixels in a raster: groups of neighbouring pixels in a chip, which of several chips' groups are one, and how many
//! pixels some boxes cover.

/// Columns and rows of a raster, the last ones not in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Frame {
    pub left: i64,
    pub top: i64,
    pub right: i64,
    pub bottom: i64,
}

/// Where a chip shows something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spot {
    pub set: usize,
    /// Counts the chips that were collected.
    pub chip: usize,
    /// In the raster of the set.
    pub frame: Frame,
}

impl Frame {
    /// Columns and rows between two frames; 0 where they touch or overlap.
    pub fn apart(self, other: Self) -> (i64, i64) {
        let gap = |a: i64, b: i64| (a - b).max(0);
        (
            gap(self.left, other.right).max(gap(other.left, self.right)),
            gap(self.top, other.bottom).max(gap(other.top, self.bottom)),
        )
    }

    pub fn around(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }
}

/// Groups of neighbours, also over corners, of pixels that are so.
pub(super) fn groups(size: usize, is: &dyn Fn(usize) -> bool) -> Vec<Vec<usize>> {
    let mut left: Vec<bool> = (0..size * size).map(is).collect();
    let (mut all, mut open) = (Vec::new(), Vec::new());
    for start in 0..size * size {
        if !std::mem::take(&mut left[start]) {
            continue;
        }
        open.push(start);
        let mut group = Vec::new();
        while let Some(pixel) = open.pop() {
            group.push(pixel);
            let (row, column) = (pixel / size, pixel % size);
            for row in row.saturating_sub(1)..(row + 2).min(size) {
                for column in column.saturating_sub(1)..(column + 2).min(size) {
                    if std::mem::take(&mut left[row * size + column]) {
                        open.push(row * size + column);
                    }
                }
            }
        }
        all.push(group);
    }
    all
}

/// The first of those that are one with each spot: of different chips of a set, with frames that touch.
pub(super) fn roots(spots: &[Spot]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..spots.len()).collect();
    order.sort_by_key(|index| (spots[*index].set, spots[*index].frame.left, spots[*index].frame.top));
    let mut parents: Vec<usize> = (0..spots.len()).collect();
    let mut near: Vec<usize> = Vec::new();
    for index in order {
        let own = spots[index];
        near.retain(|other| spots[*other].set == own.set && spots[*other].frame.right >= own.frame.left);
        let touches = |other: &usize| spots[*other].chip != own.chip && spots[*other].frame.apart(own.frame) == (0, 0);
        for other in near.iter().filter(|other| touches(other)) {
            let (a, b) = (root(&mut parents, index), root(&mut parents, *other));
            parents[a.max(b)] = a.min(b);
        }
        near.push(index);
    }
    (0..spots.len()).map(|index| root(&mut parents, index)).collect()
}

fn root(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

/// Pixels that lie in at least one of these frames: between two neighbouring edges of frames, what the frames there cover.
pub(super) fn covered(frames: &[Frame]) -> i64 {
    let mut edges: Vec<i64> = frames.iter().flat_map(|frame| [frame.top, frame.bottom]).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut by_top: Vec<&Frame> = frames.iter().collect();
    by_top.sort_unstable_by_key(|frame| frame.top);
    let (mut next, mut open, mut sum) = (0, Vec::new(), 0);
    for rows in edges.windows(2) {
        open.retain(|frame: &&Frame| frame.bottom > rows[0]);
        while next < by_top.len() && by_top[next].top <= rows[0] {
            open.push(by_top[next]);
            next += 1;
        }
        open.sort_unstable_by_key(|frame| frame.left);
        let (mut columns, mut reached) = (0, i64::MIN);
        for frame in &open {
            columns += (frame.right - frame.left.max(reached)).max(0);
            reached = reached.max(frame.right);
        }
        sum += columns * (rows[1] - rows[0]);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ground_is_counted_once() {
        let frame = |left, top, right, bottom| Frame { left, top, right, bottom };
        assert_eq!(covered(&[frame(0, 0, 4, 4), frame(2, 2, 6, 6), frame(10, 0, 11, 1)]), 16 + 16 - 4 + 1);
        assert_eq!(covered(&[]), 0);
    }

    #[test]
    fn spots_are_one_with_those_that_touch_them_in_other_chips_of_their_set() {
        let spot = |set, chip, left: i64| Spot { set, chip, frame: Frame { left, top: 0, right: left + 3, bottom: 2 } };
        // The first and the second are of one chip; the third touches both, the fourth lies apart, the last in another set.
        let spots = [spot(0, 0, 0), spot(0, 0, 3), spot(0, 1, 2), spot(0, 1, 7), spot(1, 2, 2)];
        assert_eq!(roots(&spots[..2]), [0, 1]);
        assert_eq!(roots(&spots), [0, 0, 0, 3, 4]);
    }
}
