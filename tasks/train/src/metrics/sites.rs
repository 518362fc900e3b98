//! Scores of sites in place of pixels: which known sites are found, how early in the list of detections, and how many
//! detections there are where nothing is known.
//!
//! A detection is a group of neighbouring pixels at or above the threshold, a site one of labelled pixels; its score is its
//! highest. What several chips of a set show of one is one: groups whose boxes touch in the raster's grid are joined. A
//! detection has found a site when their boxes are no farther apart than the distance asked for.

use std::collections::BTreeMap;

use super::Scores;
use crate::data::truth;

/// Columns and rows of a raster, the last ones not in it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Frame {
    left: i64,
    top: i64,
    right: i64,
    bottom: i64,
}

/// A detection or site.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Object {
    set: usize,
    frame: Frame,
    score: f32,
}

/// What was found and what is known, collected chip by chip.
#[derive(Default)]
pub(crate) struct Sites {
    found: Vec<Object>,
    known: Vec<Object>,
    windows: BTreeMap<usize, Vec<Frame>>,
    /// Width and height of a pixel of each set, in metres.
    pixels: BTreeMap<usize, (f64, f64)>,
    /// Objects are chips.
    whole: bool,
}

/// A chip as it is collected.
pub(crate) struct Seen<'a> {
    pub set: usize,
    /// Column, row, width, height in the raster of its set.
    pub window: [usize; 4],
    /// Rows and columns of the slices, which may be more than the window's.
    pub size: usize,
    /// See [`super::metres_of_pixel`].
    pub metres: (f64, f64),
    pub logits: &'a [f32],
    pub targets: &'a [f32],
    pub valid: &'a [f32],
}

impl Sites {
    /// Collects a chip; what has at least this logit is detected.
    pub fn add(&mut self, chip: &Seen<'_>, least: f32) {
        let [column, row, width, height] = chip.window.map(|value| value as i64);
        let window = Frame { left: column, top: row, right: column + width, bottom: row + height };
        self.windows.entry(chip.set).or_default().push(window);
        self.pixels.insert(chip.set, chip.metres);
        let collect = |objects: &mut Vec<Object>, is: &dyn Fn(usize) -> bool| {
            for (frame, score) in groups(chip.size, is, chip.logits) {
                let frame = Frame {
                    left: frame.left + column,
                    right: frame.right + column,
                    top: frame.top + row,
                    bottom: frame.bottom + row,
                };
                objects.push(Object { set: chip.set, frame, score });
            }
        };
        let counts = |pixel: usize| chip.valid[pixel] > 0.0;
        collect(&mut self.found, &|pixel| counts(pixel) && chip.logits[pixel] >= least);
        collect(&mut self.known, &|pixel| counts(pixel) && truth(chip.targets[pixel]) == Some(true));
    }

    /// Collects a chip of which only one thing is told: all of it is a detection, a site, or neither. Chips are not joined: each
    /// stands for itself.
    pub fn add_whole(&mut self, chip: &Seen<'_>, least: f32) {
        let [column, row, width, height] = chip.window.map(|value| value as i64);
        let frame = Frame { left: column, top: row, right: column + width, bottom: row + height };
        self.windows.entry(chip.set).or_default().push(frame);
        self.pixels.insert(chip.set, chip.metres);
        self.whole = true;
        let object = Object { set: chip.set, frame, score: chip.logits[0] };
        if chip.valid[0] > 0.0 && chip.logits[0] >= least {
            self.found.push(object);
        }
        if chip.valid[0] > 0.0 && truth(chip.targets[0]) == Some(true) {
            self.known.push(object);
        }
    }

    /// Adds the scores of all that was collected.
    pub fn scores(self, distance: f64, recall_at: &[usize], scores: &mut Scores) {
        let whole = self.whole;
        let join = |objects| if whole { objects } else { joined(objects) };
        let (known, mut found) = (join(self.known), join(self.found));
        // Of equal scores the one farther north and west comes first, whatever the order of the chips.
        let place = |object: &Object| (object.set, object.frame.top, object.frame.left);
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| place(a).cmp(&place(b))));
        let mut first: Vec<Option<usize>> = vec![None; known.len()];
        let mut false_alarms = 0;
        for (rank, object) in found.iter().enumerate() {
            let (width, height) = self.pixels.get(&object.set).copied().unwrap_or((1.0, 1.0));
            let mut hit = false;
            for (site, first) in known.iter().zip(&mut first).filter(|(site, _)| site.set == object.set) {
                let (columns, rows) = object.frame.apart(site.frame);
                let near = (columns as f64 * width).hypot(rows as f64 * height) <= distance;
                let same = object.frame == site.frame;
                if same || near && !whole {
                    hit = true;
                    first.get_or_insert(rank);
                }
            }
            false_alarms += usize::from(!hit);
        }
        let square_metres = |(set, windows): (&usize, &Vec<Frame>)| {
            let (width, height) = self.pixels[set];
            covered(windows) as f64 * width * height
        };
        let area = self.windows.iter().map(square_metres).sum::<f64>() / 1e9;
        let share = |most: usize| {
            let count = first.iter().flatten().filter(|rank| **rank < most).count();
            (!known.is_empty()).then(|| count as f64 / known.len() as f64)
        };
        scores.put("sites", known.len() as f64);
        scores.put("detections", found.len() as f64);
        scores.put_or("site_recall", share(usize::MAX), "there are no sites");
        for most in recall_at {
            scores.put_or(&format!("site_recall_at_{most}"), share(*most), "there are no sites");
        }
        let alarms = (area > 0.0).then(|| false_alarms as f64 / area);
        scores.put_or("false_alarms_per_1000_km2", alarms, "no chip was seen");
    }
}

impl Frame {
    /// Columns and rows between two frames; 0 where they touch or overlap.
    fn apart(self, other: Self) -> (i64, i64) {
        let gap = |a: i64, b: i64| (a - b).max(0);
        (
            gap(self.left, other.right).max(gap(other.left, self.right)),
            gap(self.top, other.bottom).max(gap(other.top, self.bottom)),
        )
    }

    fn around(self, other: Self) -> Self {
        Self {
            left: self.left.min(other.left),
            top: self.top.min(other.top),
            right: self.right.max(other.right),
            bottom: self.bottom.max(other.bottom),
        }
    }
}

/// Groups of neighbours, also over corners, of pixels that are so: their frames in the chip, and their highest logits.
fn groups(size: usize, is: &dyn Fn(usize) -> bool, logits: &[f32]) -> Vec<(Frame, f32)> {
    let mut left: Vec<bool> = (0..size * size).map(is).collect();
    let (mut all, mut open) = (Vec::new(), Vec::new());
    for start in 0..size * size {
        if !std::mem::take(&mut left[start]) {
            continue;
        }
        open.push(start);
        let (mut frame, mut score) = (None::<Frame>, f32::NEG_INFINITY);
        while let Some(pixel) = open.pop() {
            let (row, column) = ((pixel / size) as i64, (pixel % size) as i64);
            let own = Frame { left: column, top: row, right: column + 1, bottom: row + 1 };
            frame = Some(frame.map_or(own, |frame| frame.around(own)));
            score = score.max(logits[pixel]);
            for row in (row - 1).max(0)..(row + 2).min(size as i64) {
                for column in (column - 1).max(0)..(column + 2).min(size as i64) {
                    let next = row as usize * size + column as usize;
                    if std::mem::take(&mut left[next]) {
                        open.push(next);
                    }
                }
            }
        }
        all.extend(frame.map(|frame| (frame, score)));
    }
    all
}

/// Objects of a set whose frames touch are one.
fn joined(mut objects: Vec<Object>) -> Vec<Object> {
    objects.sort_by_key(|object| (object.set, object.frame.left, object.frame.top));
    let mut parents: Vec<usize> = (0..objects.len()).collect();
    let mut near: Vec<usize> = Vec::new();
    for index in 0..objects.len() {
        let own = objects[index];
        near.retain(|other| objects[*other].set == own.set && objects[*other].frame.right >= own.frame.left);
        for other in near.iter().copied().filter(|other| objects[*other].frame.apart(own.frame) == (0, 0)) {
            let (a, b) = (root(&mut parents, index), root(&mut parents, other));
            parents[a.max(b)] = a.min(b);
        }
        near.push(index);
    }
    let mut whole: BTreeMap<usize, Object> = BTreeMap::new();
    for (index, own) in objects.iter().copied().enumerate() {
        let merged = whole.entry(root(&mut parents, index)).or_insert(own);
        merged.frame = merged.frame.around(own.frame);
        merged.score = merged.score.max(own.score);
    }
    whole.into_values().collect()
}

fn root(parents: &mut [usize], mut index: usize) -> usize {
    while parents[index] != index {
        parents[index] = parents[parents[index]];
        index = parents[index];
    }
    index
}

/// Pixels that lie in at least one of these frames: between two neighbouring edges of frames, what the frames there cover.
fn covered(frames: &[Frame]) -> i64 {
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

    const SIZE: usize = 8;

    fn see(sites: &mut Sites, window: [usize; 4], labelled: &[(usize, usize)], told: &[(usize, usize, f32)]) {
        let (mut logits, mut targets) = (vec![-5.0; SIZE * SIZE], vec![0.0; SIZE * SIZE]);
        labelled.iter().for_each(|(row, column)| targets[row * SIZE + column] = 1.0);
        told.iter().for_each(|(row, column, logit)| logits[row * SIZE + column] = *logit);
        let valid = vec![1.0; SIZE * SIZE];
        let metres = (100.0, 100.0);
        let chip = Seen { set: 0, window, size: SIZE, metres, logits: &logits, targets: &targets, valid: &valid };
        sites.add(&chip, 0.0);
    }

    #[test]
    fn sites_are_counted_once_and_ranked_by_the_best_detection() {
        let mut sites = Sites::default();
        // Two chips that overlap by half and both show the site at row 2, column 6 of the raster; it is found with 3.
        see(&mut sites, [0, 0, 8, 8], &[(2, 6), (2, 7)], &[(2, 6, 3.0), (7, 0, 5.0)]);
        see(&mut sites, [4, 0, 8, 8], &[(2, 2), (2, 3)], &[(2, 2, 1.0)]);
        // Another one, whose detection lies three pixels beside it.
        see(&mut sites, [20, 0, 8, 8], &[(4, 1)], &[(4, 5, 2.0)]);
        let scored = |distance: f64| {
            let mut scores = Scores::default();
            let copy = Sites {
                found: sites.found.clone(),
                known: sites.known.clone(),
                windows: sites.windows.clone(),
                pixels: sites.pixels.clone(),
                whole: false,
            };
            copy.scores(distance, &[1, 2], &mut scores);
            scores.figures
        };
        let strict = scored(0.0);
        assert_eq!((strict["sites"], strict["detections"]), (2.0, 3.0));
        assert_eq!((strict["site_recall"], strict["site_recall_at_1"], strict["site_recall_at_2"]), (0.5, 0.0, 0.5));
        // 12 x 8 and 8 x 8 pixels of a hectare: 1.6 square kilometres; two detections found nothing.
        assert!((strict["false_alarms_per_1000_km2"] - 2.0 / 1.6e-3).abs() < 1e-6, "{strict:?}");
        let near = scored(300.0);
        assert_eq!((near["site_recall"], near["site_recall_at_2"]), (1.0, 0.5));
        assert!((near["false_alarms_per_1000_km2"] - 1.0 / 1.6e-3).abs() < 1e-6);
    }

    #[test]
    fn where_nothing_is_known_recall_is_not_defined() {
        let mut sites = Sites::default();
        see(&mut sites, [0, 0, 8, 8], &[], &[(1, 1, 1.0), (2, 2, 1.0)]);
        let mut scores = Scores::default();
        sites.scores(0.0, &[10], &mut scores);
        assert_eq!(scores.undefined, ["site_recall: there are no sites", "site_recall_at_10: there are no sites"]);
        assert_eq!(scores.figures["detections"], 1.0, "neighbours over a corner are one");
    }

    #[test]
    fn ground_is_counted_once() {
        let frame = |left, top, right, bottom| Frame { left, top, right, bottom };
        assert_eq!(covered(&[frame(0, 0, 4, 4), frame(2, 2, 6, 6), frame(10, 0, 11, 1)]), 16 + 16 - 4 + 1);
        assert_eq!(covered(&[]), 0);
    }
}
