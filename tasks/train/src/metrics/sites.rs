//! Scores of sites in place of pixels: which known sites are found, how early in the list of detections, and how many
//! detections there are where nothing is known.
//!
//! The known sites are those that the chips of the side show, by their ids: one that several chips show, of one set or of
//! several, counts once. Where a chip set names no sites, a site is a group of neighbouring labelled pixels.
//!
//! A detection is a group of neighbouring pixels at or above the threshold; its score is its highest. It has found the sites
//! of which it covers a pixel, and those whose box is no farther from its own than the distance asked for. On ambiguous ground
//! alone it is neither right nor wrong, and does not count.
//!
//! What several chips of a set show of one group is one: groups of different chips whose boxes touch in the raster's grid are
//! joined.

use std::collections::{BTreeMap, BTreeSet};

use swath_datasets::{Chip, ChipSite};

use super::Scores;
use super::frames::{Frame, Spot, covered, groups, roots};
use super::ground::{metres_between, metres_of_pixel, place_of_pixel, square_kilometres};
use crate::data::truth;

/// A site that is known.
#[derive(Clone, Debug)]
struct Known {
    /// Whether the set names it; else it is a group of pixels, which may go on in another chip.
    named: bool,
    spots: Vec<Spot>,
}

/// A group of pixels, or a whole chip, that is told.
#[derive(Clone, Debug)]
struct Detection {
    spot: Spot,
    score: f32,
    /// Width and height of a pixel in metres.
    metres: (f64, f64),
    /// Indices of the known sites of which it covers a pixel.
    covers: BTreeSet<usize>,
    /// Whether any of its ground is known to be a site or none.
    decided: bool,
}

/// What the chips of a set cover.
#[derive(Clone, Debug, Default)]
struct Ground {
    windows: Vec<Frame>,
    /// Pixels of all windows, and the labelled ground in them, in square kilometres: what two show counted twice.
    pixels: f64,
    labelled: f64,
}

/// What was found and what is known, collected chip by chip.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sites {
    found: Vec<Detection>,
    known: Vec<Known>,
    /// Places in `known` of those that sets name.
    named: BTreeMap<String, usize>,
    ground: BTreeMap<usize, Ground>,
    chips: usize,
    /// Objects are chips.
    whole: bool,
}

/// A chip as it is collected.
pub(crate) struct Seen<'a> {
    pub set: usize,
    pub chip: &'a Chip,
    /// The known sites that it shows; none where its set does not name them.
    pub sites: Vec<&'a ChipSite>,
    /// Rows and columns of the slices, which may be more than the window's.
    pub size: usize,
    pub logits: &'a [f32],
    pub targets: &'a [f32],
    pub valid: &'a [f32],
}

impl Seen<'_> {
    /// Whether a pixel is labelled, and as what.
    fn truth(&self, pixel: usize) -> Option<bool> {
        if self.valid[pixel] > 0.0 { truth(self.targets[pixel]) } else { None }
    }

    fn window(&self) -> Frame {
        let [left, top, width, height] = self.chip.window.map(|value| value as i64);
        Frame { left, top, right: left + width, bottom: top + height }
    }

    /// The frame of some of its pixels in the raster.
    fn frame(&self, pixels: &[usize]) -> Option<Frame> {
        let window = self.window();
        let frame = |pixel: &usize| {
            let left = window.left + (pixel % self.size) as i64;
            let top = window.top + (pixel / self.size) as i64;
            Frame { left, top, right: left + 1, bottom: top + 1 }
        };
        pixels.iter().map(frame).reduce(Frame::around)
    }

    /// The positive pixels of each of its sites: those within its buffer, and those within none to which it is nearest, for a
    /// buffer may be around an outline.
    fn pixels_of_sites(&self) -> Vec<Vec<usize>> {
        let mut pixels = vec![Vec::new(); self.sites.len()];
        for pixel in (0..self.size * self.size).filter(|pixel| self.truth(*pixel) == Some(true)) {
            let place = place_of_pixel(self.chip, pixel / self.size, pixel % self.size);
            let beyond: Vec<f64> =
                self.sites.iter().map(|site| metres_between(place, (site.lon, site.lat)) - site.buffer_m).collect();
            let nearest = beyond.iter().copied().fold(f64::INFINITY, f64::min);
            for (own, beyond) in pixels.iter_mut().zip(beyond) {
                if beyond <= nearest.max(0.0) {
                    own.push(pixel);
                }
            }
        }
        pixels
    }
}

impl Sites {
    /// Collects a chip; what has at least this logit is detected.
    pub fn add(&mut self, seen: &Seen<'_>, least: f32) {
        let chip = self.look(seen);
        let all = seen.size * seen.size;
        let sites = if seen.sites.is_empty() {
            let labelled = groups(seen.size, &|pixel| seen.truth(pixel) == Some(true));
            labelled.into_iter().map(|pixels| (self.unnamed(), pixels)).collect::<Vec<_>>()
        } else {
            let indices = seen.sites.iter().map(|site| self.place(site)).collect::<Vec<_>>();
            indices.into_iter().zip(seen.pixels_of_sites()).collect()
        };
        let mut owners: Vec<Vec<usize>> = vec![Vec::new(); all];
        for (index, pixels) in sites {
            pixels.iter().for_each(|pixel| owners[*pixel].push(index));
            let frame = seen.frame(&pixels);
            self.known[index].spots.extend(frame.map(|frame| Spot { set: seen.set, chip, frame }));
        }
        for pixels in groups(seen.size, &|pixel| seen.valid[pixel] > 0.0 && seen.logits[pixel] >= least) {
            let Some(frame) = seen.frame(&pixels) else { continue };
            self.found.push(Detection {
                spot: Spot { set: seen.set, chip, frame },
                score: pixels.iter().map(|pixel| seen.logits[*pixel]).fold(f32::NEG_INFINITY, f32::max),
                metres: metres_of_pixel(seen.chip),
                covers: pixels.iter().flat_map(|pixel| &owners[*pixel]).copied().collect(),
                decided: pixels.iter().any(|pixel| seen.truth(*pixel).is_some()),
            });
        }
    }

    /// Collects a chip of which only one thing is told: all of it is a detection or not, and shows its sites or, where its set
    /// names none, is one. Detections are not joined.
    pub fn add_whole(&mut self, seen: &Seen<'_>, least: f32) {
        self.whole = true;
        let chip = self.look(seen);
        let spot = Spot { set: seen.set, chip, frame: seen.window() };
        let mut covers = BTreeSet::new();
        if seen.truth(0) == Some(true) {
            covers.extend(seen.sites.iter().map(|site| self.place(site)));
            if covers.is_empty() {
                covers.insert(self.unnamed());
            }
            covers.iter().for_each(|index| self.known[*index].spots.push(spot));
        }
        if seen.valid[0] > 0.0 && seen.logits[0] >= least {
            let (score, metres, decided) = (seen.logits[0], metres_of_pixel(seen.chip), seen.truth(0).is_some());
            self.found.push(Detection { spot, score, metres, covers, decided });
        }
    }

    /// Counts a chip and its ground; its number.
    fn look(&mut self, seen: &Seen<'_>) -> usize {
        let [_, _, width, height] = seen.chip.window;
        let ground = self.ground.entry(seen.set).or_default();
        ground.windows.push(seen.window());
        ground.pixels += (width * height) as f64;
        ground.labelled += square_kilometres(seen.chip) * seen.chip.valid;
        self.chips += 1;
        self.chips - 1
    }

    /// The place in `known` of a site that has a name.
    fn place(&mut self, site: &ChipSite) -> usize {
        if let Some(index) = self.named.get(&site.id) {
            return *index;
        }
        self.known.push(Known { named: true, spots: Vec::new() });
        self.named.insert(site.id.clone(), self.known.len() - 1);
        self.known.len() - 1
    }

    fn unnamed(&mut self) -> usize {
        self.known.push(Known { named: false, spots: Vec::new() });
        self.known.len() - 1
    }

    /// Adds the scores of all that was collected.
    pub fn scores(self, distance: f64, recall_at: &[usize], scores: &mut Scores) {
        let area: f64 = self.ground.values().map(Ground::area).sum();
        let (known, mut found) = if self.whole { (self.known, self.found) } else { join(self.known, self.found) };
        if distance > 0.0 && !self.whole {
            for detection in &mut found {
                let near = |site: &Known| site.spots.iter().any(|spot| detection.metres_to(spot) <= distance);
                let near: Vec<usize> = (0..known.len()).filter(|index| near(&known[*index])).collect();
                detection.covers.extend(near);
            }
        }
        found.retain(|detection| detection.decided || !detection.covers.is_empty());
        // Of equal scores the one farther north and west comes first, whatever the order of the chips.
        let place = |detection: &Detection| (detection.spot.set, detection.spot.frame.top, detection.spot.frame.left);
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| place(a).cmp(&place(b))));
        let mut first: Vec<Option<usize>> = vec![None; known.len()];
        for (rank, detection) in found.iter().enumerate() {
            for site in &detection.covers {
                first[*site].get_or_insert(rank);
            }
        }
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
        let false_alarms = found.iter().filter(|detection| detection.covers.is_empty()).count();
        let alarms = (area > 0.0).then(|| false_alarms as f64 / area * 1000.0);
        scores.put_or("false_alarms_per_1000_km2", alarms, "no labelled ground was seen");
    }
}

impl Ground {
    /// Labelled ground in square kilometres, what several chips show counted once: the mean of a pixel times the pixels.
    fn area(&self) -> f64 {
        if self.pixels > 0.0 { covered(&self.windows) as f64 * self.labelled / self.pixels } else { 0.0 }
    }
}

impl Detection {
    /// Metres between its box and another one; infinitely many in another raster.
    fn metres_to(&self, other: &Spot) -> f64 {
        if self.spot.set != other.set {
            return f64::INFINITY;
        }
        let (columns, rows) = self.spot.frame.apart(other.frame);
        (columns as f64 * self.metres.0).hypot(rows as f64 * self.metres.1)
    }
}

/// Joins what several chips show of one group, and tells the detections the new places of their sites.
fn join(known: Vec<Known>, found: Vec<Detection>) -> (Vec<Known>, Vec<Detection>) {
    let groups = known.iter().enumerate().filter(|(_, site)| !site.named);
    let (groups, spots): (Vec<usize>, Vec<Spot>) =
        groups.flat_map(|(index, group)| group.spots.iter().map(move |spot| (index, *spot))).unzip();
    let mut first: Vec<usize> = (0..known.len()).collect();
    for (index, root) in groups.iter().zip(roots(&spots)) {
        first[*index] = groups[root];
    }
    let mut sites: Vec<Known> = Vec::new();
    let mut places = vec![0; known.len()];
    for (index, site) in known.into_iter().enumerate() {
        // The root of a group is its first one.
        if first[index] == index {
            places[index] = sites.len();
            sites.push(site);
        } else {
            places[index] = places[first[index]];
            sites[places[index]].spots.extend(site.spots);
        }
    }
    let spots: Vec<Spot> = found.iter().map(|detection| detection.spot).collect();
    let mut joined: BTreeMap<usize, Detection> = BTreeMap::new();
    for (root, mut detection) in roots(&spots).into_iter().zip(found) {
        detection.covers = detection.covers.iter().map(|site| places[*site]).collect();
        match joined.get_mut(&root) {
            Some(one) => {
                one.spot.frame = one.spot.frame.around(detection.spot.frame);
                one.score = one.score.max(detection.score);
                one.decided |= detection.decided;
                one.covers.append(&mut detection.covers);
            }
            None => {
                joined.insert(root, detection);
            }
        }
    }
    (sites, joined.into_values().collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use swath_task::Digest;

    use super::*;

    const SIDE: usize = 8;
    /// Degrees of a pixel of 100 metres, at the equator.
    const DEGREES: f64 = 100.0 / 111_195.0;

    fn chip([column, row, width, height]: [usize; 4], valid: f64) -> Chip {
        let (left, top) = (column as f64, -(row as f64));
        let chip = json!({
            "id": "a", "shard": 0, "at": 0, "window": [column, row, width, height],
            "transform": [left * 100.0, 100.0, 0.0, top * 100.0, 0.0, -100.0],
            "bounds": [left * 100.0, (top - height as f64) * 100.0, (left + width as f64) * 100.0, top * 100.0],
            "bbox": [left * DEGREES, (top - height as f64) * DEGREES, (left + width as f64) * DEGREES, top * DEGREES],
            "valid": valid, "positive": 0.0, "ambiguous": 0.0, "area_km2": (width * height) as f64 / 100.0,
            "mean": [], "std": [], "digest": Digest::of(b"")
        });
        serde_json::from_value(chip).unwrap()
    }

    /// A site around the middle of a pixel of the raster.
    fn site(id: &str, row: usize, column: usize, pixels: f64) -> ChipSite {
        let (lon, lat) = ((column as f64 + 0.5) * DEGREES, -(row as f64 + 0.5) * DEGREES);
        ChipSite { id: id.to_owned(), lon, lat, buffer_m: pixels * 100.0 }
    }

    /// What a chip of a set shows; a label of 0.5 is ambiguous.
    struct Shown<'a> {
        set: usize,
        window: [usize; 4],
        valid: f64,
        sites: Vec<&'a ChipSite>,
        labelled: &'a [(usize, usize, f32)],
        told: &'a [(usize, usize, f32)],
    }

    const NOTHING: Shown<'_> =
        Shown { set: 0, window: [0, 0, SIDE, SIDE], valid: 1.0, sites: Vec::new(), labelled: &[], told: &[] };

    fn see(sites: &mut Sites, shown: Shown<'_>) {
        let (mut logits, mut targets) = (vec![-5.0; SIDE * SIDE], vec![0.0; SIDE * SIDE]);
        shown.labelled.iter().for_each(|(row, column, label)| targets[row * SIDE + column] = *label);
        shown.told.iter().for_each(|(row, column, logit)| logits[row * SIDE + column] = *logit);
        let (chip, valid) = (chip(shown.window, shown.valid), vec![1.0; SIDE * SIDE]);
        let seen = Seen {
            set: shown.set,
            chip: &chip,
            sites: shown.sites,
            size: SIDE,
            logits: &logits,
            targets: &targets,
            valid: &valid,
        };
        sites.add(&seen, 0.0);
    }

    fn scored(sites: &Sites, distance: f64) -> BTreeMap<String, f64> {
        let mut scores = Scores::default();
        sites.clone().scores(distance, &[1, 2], &mut scores);
        scores.figures
    }

    #[test]
    fn where_no_site_has_a_name_labelled_groups_are_counted_once_and_ranked_by_the_best_detection() {
        let mut sites = Sites::default();
        // Two chips that overlap by half and both show the site at row 2, column 6 of the raster; it is found with 3.
        let first = [(2, 6, 1.0), (2, 7, 1.0)];
        see(&mut sites, Shown { labelled: &first, told: &[(2, 6, 3.0), (7, 0, 5.0)], ..NOTHING });
        let second = [(2, 2, 1.0), (2, 3, 1.0)];
        see(&mut sites, Shown { window: [4, 0, 8, 8], labelled: &second, told: &[(2, 2, 1.0)], ..NOTHING });
        // Another one, whose detection lies three pixels beside it.
        let beside = Shown { window: [20, 0, 8, 8], labelled: &[(4, 1, 1.0)], told: &[(4, 5, 2.0)], ..NOTHING };
        see(&mut sites, beside);
        let strict = scored(&sites, 0.0);
        assert_eq!((strict["sites"], strict["detections"]), (2.0, 3.0));
        assert_eq!((strict["site_recall"], strict["site_recall_at_1"], strict["site_recall_at_2"]), (0.5, 0.0, 0.5));
        // 12 x 8 and 8 x 8 pixels of a hectare: 1.6 square kilometres; two detections found nothing.
        assert!((strict["false_alarms_per_1000_km2"] - 2.0 / 1.6e-3).abs() < 1e-6, "{strict:?}");
        let near = scored(&sites, 300.0);
        assert_eq!((near["site_recall"], near["site_recall_at_2"]), (1.0, 0.5));
        assert!((near["false_alarms_per_1000_km2"] - 1.0 / 1.6e-3).abs() < 1e-6);
    }

    #[test]
    fn a_site_that_has_a_name_counts_once_in_whatever_chips_and_sets_it_is() {
        let site = site("pad", 2, 5, 1.2);
        let mut sites = Sites::default();
        let label = [(1, 5, 1.0), (2, 4, 1.0), (2, 5, 1.0), (2, 6, 1.0), (3, 5, 1.0)];
        see(&mut sites, Shown { sites: vec![&site], labelled: &label, ..NOTHING });
        // The same ground in another set, on another day, is found; parts of it that do not touch are still one site.
        let label = [(1, 5, 1.0), (3, 5, 1.0)];
        let (sites_shown, told) = (vec![&site], [(3, 5, 1.0), (3, 6, 1.0)]);
        see(&mut sites, Shown { set: 1, sites: sites_shown, labelled: &label, told: &told, ..NOTHING });
        let scores = scored(&sites, 0.0);
        assert_eq!((scores["sites"], scores["site_recall"], scores["detections"]), (1.0, 1.0, 1.0));
        assert_eq!(scores["false_alarms_per_1000_km2"], 0.0);
    }

    #[test]
    fn sites_whose_buffers_run_into_each_other_are_still_as_many() {
        let (one, two) = (site("one", 3, 1, 1.2), site("two", 3, 4, 1.6));
        let row: Vec<_> = (0..6).map(|column| (3, column, 1.0)).collect();
        let count = |told: &[(usize, usize, f32)]| {
            let mut sites = Sites::default();
            see(&mut sites, Shown { sites: vec![&one, &two], labelled: &row, told, ..NOTHING });
            let scores = scored(&sites, 0.0);
            (scores["sites"], scores["site_recall"], scores["false_alarms_per_1000_km2"])
        };
        assert_eq!(count(&[(3, 0, 1.0)]), (2.0, 0.5, 0.0));
        assert_eq!(count(&[(3, 5, 1.0)]), (2.0, 0.5, 0.0));
        assert_eq!(count(&[(3, 2, 1.0), (3, 3, 2.0)]), (2.0, 1.0, 0.0), "one detection may cover both");
        assert_eq!(count(&[(6, 6, 1.0)]).1, 0.0);
    }

    #[test]
    fn what_is_told_on_ambiguous_ground_alone_is_neither_right_nor_wrong() {
        let label = [(4, 4, 1.0), (4, 5, 0.5), (0, 0, 0.5)];
        let count = |told: &[(usize, usize, f32)]| {
            let mut sites = Sites::default();
            see(&mut sites, Shown { labelled: &label, told, ..NOTHING });
            let scores = scored(&sites, 0.0);
            (scores["detections"], scores["site_recall"], scores["false_alarms_per_1000_km2"])
        };
        assert_eq!(count(&[(0, 0, 3.0)]), (0.0, 0.0, 0.0));
        assert_eq!(count(&[(4, 5, 3.0)]), (0.0, 0.0, 0.0));
        assert_eq!(count(&[(4, 5, 3.0), (4, 4, 1.0)]), (1.0, 1.0, 0.0));
        let (detections, recall, alarms) = count(&[(0, 0, 3.0), (0, 1, 1.0)]);
        assert_eq!((detections, recall), (1.0, 0.0));
        assert!((alarms - 1.0 / 0.64e-3).abs() < 1e-6, "it reaches onto background: {alarms}");
    }

    #[test]
    fn groups_are_one_where_they_touch_and_not_where_a_box_around_one_holds_the_other() {
        let mut sites = Sites::default();
        // A bracket and a dot in its bend.
        let told = [(0, 0, 1.0), (1, 0, 1.0), (2, 0, 1.0), (3, 0, 1.0), (3, 1, 1.0), (3, 2, 1.0), (1, 2, 1.0)];
        see(&mut sites, Shown { told: &told, ..NOTHING });
        assert_eq!(scored(&sites, 0.0)["detections"], 2.0);
    }

    #[test]
    fn ground_without_a_label_bears_no_false_alarms() {
        let mut sites = Sites::default();
        see(&mut sites, Shown { valid: 0.5, told: &[(1, 1, 1.0)], ..NOTHING });
        let alarms = scored(&sites, 0.0)["false_alarms_per_1000_km2"];
        assert!((alarms - 1.0 / 0.32e-3).abs() < 1e-6, "{alarms}");
    }

    #[test]
    fn chips_that_are_told_as_a_whole_find_the_sites_that_they_show() {
        let pad = site("pad", 2, 2, 1.0);
        let count = |named: bool| {
            let mut sites = Sites::default();
            for (column, target, logit) in [(0, 1.0, -1.0), (4, 1.0, 2.0), (20, 0.0, 1.0), (40, 0.0, -3.0)] {
                let chip = chip([column, 0, SIDE, SIDE], 1.0);
                let shown = if named && target == 1.0 { vec![&pad] } else { Vec::new() };
                let (logits, targets, valid) = (&[logit], &[target], &[1.0]);
                let seen = Seen { set: 0, chip: &chip, sites: shown, size: 1, logits, targets, valid };
                sites.add_whole(&seen, 0.0);
            }
            let scores = scored(&sites, 0.0);
            assert_eq!(scores["detections"], 2.0);
            assert!((scores["false_alarms_per_1000_km2"] - 1.0 / 2.24e-3).abs() < 1e-6, "{scores:?}");
            (scores["sites"], scores["site_recall"])
        };
        assert_eq!(count(true), (1.0, 1.0), "two chips of one site");
        assert_eq!(count(false), (2.0, 0.5));
    }

    #[test]
    fn where_nothing_is_known_recall_is_not_defined() {
        let mut sites = Sites::default();
        see(&mut sites, Shown { told: &[(1, 1, 1.0), (2, 2, 1.0)], ..NOTHING });
        let mut scores = Scores::default();
        sites.scores(0.0, &[10], &mut scores);
        assert_eq!(scores.undefined, ["site_recall: there are no sites", "site_recall_at_10: there are no sites"]);
        assert_eq!(scores.figures["detections"], 1.0, "neighbours over a corner are one");
    }
}
