//! `dataset.split`: which chips train, validate and test.
//!
//! The way of the chips: those that show neither something nor nothing are left out; `neighbours` finds the block of each and who is
//! near whom; `sides` assigns the blocks; chips along the borders are left out, until no two of different sides are near
//! each other; `negatives` thins the training side; `statistics` reads what is left; `sheet` draws some of it.
//!
//! Invariants:
//! 1. No two chips of different sides overlap, are nearer than the gap, or have the same pixels: counted on the result.
//! 2. The same sets, parameters and seed give the same dataset on every machine.
//! 3. Memory is the manifests and a few chips.

mod negatives;
mod neighbours;
mod sheet;
mod sides;
mod statistics;

pub use negatives::{Hardness, Negatives};

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_datasets::{
    Chip, ChipRef, ChipSet, DATASET_FORMAT, DatasetManifest, Leakage, LeftOut, SetRef, Side, SideName, Sides,
};
use swath_kinds::{ChipSetFolder, DatasetFile, Distance, Picture};
use swath_task::{Artifact, Bytes, Context, Draft, Needs, Problem, Purity, Task, TaskError};

use crate::faults::{fault, set_fault};
use negatives::Candidate;
use neighbours::{Near, Place, pairs};
use sides::{Group, assign, draw, groups};

/// Says which chips of one or more chip sets train, validate and test a network.
///
/// Spatial blocks go to the sides, not chips, stratified by chips with and without something to find; chips that overlap a chip
/// of another side, or lie nearer to one than `gap`, are left out. What is left of leakage is counted and must be
/// none. The training side keeps as many negatives as `negatives` says, hard ones preferred; validation and test stay as the
/// world is. The dataset file holds the chips of each side, class balance, and statistics of each band over the training
/// side; the contact sheet shows some chips of each side with the outline of their label.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitDataset {
    /// Share of the chips of each side.
    #[serde(default)]
    pub shares: Shares,
    /// Side of a spatial block. A few times the size of a chip: smaller blocks lose more chips along their borders.
    #[serde(default = "ten_kilometres")]
    pub block: Distance,
    /// Least distance between chips of different sides.
    #[serde(default = "nothing")]
    pub gap: Distance,
    /// What random choices are drawn from.
    #[serde(default)]
    pub seed: u64,
    /// Share of a chip's valid pixels that must belong to a class or site for it to be positive. Chips with less, but not none, are
    /// left out, as are those that show only what is ambiguous.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub min_positive: f64,
    /// Which negatives train.
    #[serde(default)]
    pub negatives: Negatives,
}

/// The share of each side; together 1.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// What a network learns from.
    pub train: f64,
    /// What tells when to stop.
    pub validation: f64,
    /// What tells how good it is; 0 for none.
    pub test: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { train: 0.7, validation: 0.15, test: 0.15 }
    }
}

fn ten_kilometres() -> Distance {
    Distance::kilometres(10.0)
}

fn nothing() -> Distance {
    Distance::metres(0.0)
}

/// What is split.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// Chip sets of the same bands and size, of one area or several.
    pub chips: Vec<Artifact<ChipSetFolder>>,
}

/// A dataset.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The dataset file.
    pub dataset: Artifact<DatasetFile>,
    /// Chips of each side with the outline of their label: frames of training blue, of validation green, of test red; bright
    /// ones around positives.
    pub sheet: Artifact<Picture>,
    /// Chips that train.
    pub train: u64,
    /// Chips that validate.
    pub validation: u64,
    /// Chips that test.
    pub test: u64,
    /// Pairs of chips on different sides that overlap, are nearer than the gap, or are equal: 0.
    pub leaks: u64,
}

impl Task for SplitDataset {
    const NAME: &'static str = "dataset.split";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        let mut wrong = |at: &str, message: String| problems.push(Problem::new(at, message));
        let shares = self.shares.list();
        if shares.iter().any(|share| !(0.0..=1.0).contains(share)) || (shares.iter().sum::<f64>() - 1.0).abs() > 1e-6 {
            wrong("/shares", format!("{shares:?} are not shares from 0 to 1 that make 1 together"));
        } else if self.shares.train == 0.0 || self.shares.validation == 0.0 {
            wrong("/shares", "training and validation each need a share".to_owned());
        }
        if !(self.block.metres > 0.0 && self.block.metres <= 1e6) {
            wrong("/block", format!("a block of {} is not larger than 0 and at most 1000 km", self.block));
        }
        if !(0.0..=1e6).contains(&self.gap.metres) {
            wrong("/gap", format!("a gap of {} is not between 0 and 1000 km", self.gap));
        }
        if !(0.0..=1.0).contains(&self.min_positive) {
            wrong("/min_positive", format!("{} is not a share from 0 to 1", self.min_positive));
        }
        if self.negatives.ratio.is_some_and(|ratio| !(ratio > 0.0 && ratio.is_finite())) {
            wrong("/negatives/ratio", "a ratio is larger than 0; `null` keeps all negatives".to_owned());
        }
        if !(0.0..=1.0).contains(&self.negatives.hard) {
            wrong("/negatives/hard", format!("{} is not a share from 0 to 1", self.negatives.hard));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(512))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let mut folders = Vec::new();
        for chips in &inputs.chips {
            folders.push(ctx.locate(chips).await?);
        }
        let dataset: Draft<DatasetFile> = ctx.draft("dataset.json")?;
        let sheet: Draft<Picture> = ctx.draft("contact-sheet.png")?;
        let (task, out, picture) = (self.clone(), dataset.path().to_owned(), sheet.path().to_owned());
        let manifest = ctx.blocking(move |ctx| task.make(&folders, &out, &picture, ctx)).await?;
        let count = |side: &Side| side.chips.len() as u64;
        let Leakage { overlapping, within_gap, equal } = manifest.leakage;
        let [train, validation, test] = SideName::ALL.map(|side| count(manifest.sides.get(side)));
        ctx.metric("chips_train", train as f64);
        ctx.metric("chips_validation", validation as f64);
        ctx.metric("chips_test", test as f64);
        ctx.metric("leaks", (overlapping + within_gap + equal) as f64);
        Ok(Outputs {
            dataset: dataset.commit().await?,
            sheet: sheet.commit().await?,
            train,
            validation,
            test,
            leaks: overlapping + within_gap + equal,
        })
    }
}

impl Shares {
    fn list(&self) -> sides::Shares {
        [self.train, self.validation, self.test]
    }
}

/// A chip that could be used.
struct Item<'a> {
    set: usize,
    index: usize,
    chip: &'a Chip,
    place: Place,
    positive: bool,
    block: usize,
    side: Option<SideName>,
}

impl SplitDataset {
    fn make(
        &self,
        folders: &[PathBuf],
        out: &Path,
        picture: &Path,
        ctx: &Context,
    ) -> Result<DatasetManifest, TaskError> {
        let sets =
            folders.iter().map(|folder| ChipSet::open(folder)).collect::<Result<Vec<_>, _>>().map_err(set_fault)?;
        check_sets(&sets)?;
        let mut left_out = LeftOut::default();
        let (mut items, blocks) = self.items(&sets, &mut left_out)?;
        self.assign(&mut items, blocks)?;
        left_out.border = self.clear_borders(&mut items);
        self.check_sides(&items)?;
        left_out.negatives = self.thin(&mut items);
        let leakage = self.leakage(&items);
        let mut manifest = DatasetManifest {
            format: DATASET_FORMAT.to_owned(),
            size: sets[0].manifest().size,
            bands: sets[0].manifest().bands.clone(),
            seed: self.seed,
            block_m: self.block.metres,
            gap_m: self.gap.metres,
            sets: sets.iter().map(|set| SetRef { digest: set.digest(), chips: set.manifest().chips.len() }).collect(),
            sides: sides_of(&items),
            left_out,
            leakage,
            statistics: Vec::new(),
        };
        for (done, name) in (1..).zip(SideName::ALL) {
            let side = manifest.sides.get_mut(name);
            side.labels = statistics::labels(&sets, &side.chips, ctx)?;
            ctx.progress(done, 5, "passes");
        }
        manifest.statistics = statistics::bands(&sets, &manifest.sides.train.chips, ctx)?;
        ctx.progress(4, 5, "passes");
        sheet::write(&manifest, &sets, picture)?;
        ctx.progress(5, 5, "passes");
        let json = serde_json::to_vec(&manifest).map_err(std::io::Error::from);
        json.and_then(|json| std::fs::write(out, json)).map_err(|error| {
            let message = format!("cannot write `{}`: {error}", out.display());
            fault("L131", message, "free disk space or choose a folder that can be written")
        })?;
        Ok(manifest)
    }

    /// The chips that could be used, and the blocks that they lie in.
    fn items<'a>(&self, sets: &'a [ChipSet], left_out: &mut LeftOut) -> Result<(Vec<Item<'a>>, Vec<Group>), TaskError> {
        let mut systems: Vec<&str> = Vec::new();
        let mut items = Vec::new();
        let mut places: BTreeMap<(i64, i64), Vec<usize>> = BTreeMap::new();
        for (set, manifest) in sets.iter().map(ChipSet::manifest).enumerate() {
            let crs = systems.iter().position(|crs| *crs == manifest.crs).unwrap_or_else(|| {
                systems.push(&manifest.crs);
                systems.len() - 1
            });
            for (index, chip) in manifest.chips.iter().enumerate() {
                let positive = chip.positive > 0.0 && chip.positive >= self.min_positive;
                if !positive && (chip.positive > 0.0 || chip.ambiguous > 0.0) {
                    left_out.ambiguous += 1;
                    continue;
                }
                let place = Place::of(chip, crs);
                places.entry(place.block(self.block.metres)).or_default().push(items.len());
                items.push(Item { set, index, chip, place, positive, block: 0, side: None });
            }
        }
        if items.is_empty() {
            let message =
                format!("none of the {} chips can be used: each shows only what is ambiguous", left_out.ambiguous);
            return Err(fault("L120", message, "lower `min_positive`, or look at the label"));
        }
        let mut blocks = Vec::new();
        for (block, members) in places.into_values().enumerate() {
            let positives = members.iter().filter(|member| items[**member].positive).count();
            blocks.push(Group { blocks: vec![block], positives, negatives: members.len() - positives });
            members.into_iter().for_each(|member| items[member].block = block);
        }
        Ok((items, blocks))
    }

    /// Gives every chip a side.
    fn assign(&self, items: &mut [Item], blocks: Vec<Group>) -> Result<(), TaskError> {
        let positives: Vec<&Item> = items.iter().filter(|item| item.positive).collect();
        let places: Vec<Place> = positives.iter().map(|item| item.place.clone()).collect();
        // Positives beside each other show one site, also where they only touch or a stride leaves a gap.
        let reach = places.iter().map(Place::height).fold(self.gap.metres, f64::max);
        let mut shared = Vec::new();
        pairs(&places, reach, |a, b, _| {
            let (a, b) = (positives[a].block, positives[b].block);
            if a != b {
                shared.push((a, b));
            }
        });
        shared.sort_unstable();
        shared.dedup();
        let shares = self.shares.list();
        let groups = groups(&blocks, &shared, shares);
        let sides = assign(&groups, shares, self.seed)?;
        let mut of_block = vec![SideName::Train; blocks.len()];
        for (group, side) in groups.iter().zip(sides) {
            group.blocks.iter().for_each(|block| of_block[*block] = side);
        }
        items.iter_mut().for_each(|item| item.side = Some(of_block[item.block]));
        Ok(())
    }

    /// Takes chips off their sides until no two of different sides are near each other or equal. How many.
    fn clear_borders(&self, items: &mut [Item]) -> usize {
        let mut close = Vec::new();
        let places: Vec<Place> = items.iter().map(|item| item.place.clone()).collect();
        pairs(&places, self.gap.metres, |a, b, _| {
            if items[a].side != items[b].side {
                close.push((a, b));
            }
        });
        close.sort_unstable();
        let mut gone = clear_twins(items);
        for (a, b) in close {
            if let (Some(side_a), Some(side_b)) = (items[a].side, items[b].side) {
                // Positives are rarer; the training side has most to lose from.
                let first = match (items[a].positive, items[b].positive) {
                    (false, true) => true,
                    (true, false) => false,
                    _ => side_a < side_b,
                };
                items[if first { a } else { b }].side = None;
                gone += 1;
            }
        }
        gone
    }

    /// Whether every side that has a share has chips of both kinds.
    fn check_sides(&self, items: &[Item]) -> Result<(), TaskError> {
        for (side, share) in SideName::ALL.into_iter().zip(self.shares.list()).filter(|(_, share)| *share > 0.0) {
            let count = |positive: bool| {
                items.iter().filter(|item| item.side == Some(side) && item.positive == positive).count()
            };
            let (positives, negatives) = (count(true), count(false));
            let help = "choose a larger `block`, a smaller `gap`, another `seed`, or add an area";
            if positives + negatives == 0 {
                let message = format!(
                    "no chip is left for {side}, which should have a share of {share}: all lie along its border"
                );
                return Err(fault("L120", message, help));
            }
            if positives == 0 || negatives == 0 {
                let kind = if positives == 0 { "negative" } else { "positive" };
                let count = positives + negatives;
                return Err(fault("L121", format!("all {count} chips left for {side} are {kind}"), help));
            }
        }
        Ok(())
    }

    /// Takes negatives off the training side, as many as `negatives` says. How many.
    fn thin(&self, items: &mut [Item]) -> usize {
        let of = |positive: bool| -> Vec<usize> {
            let own = |item: &Item| item.side == Some(SideName::Train) && item.positive == positive;
            items.iter().enumerate().filter(|(_, item)| own(item)).map(|(index, _)| index).collect()
        };
        let (positives, negatives) = (of(true), of(false));
        let candidate = |index: &usize| {
            let item = &items[*index];
            // The id, not the place in the list: what is drawn does not depend on how many others there are.
            let number = draw(0, &item.chip.id.bytes().map(u64::from).collect::<Vec<_>>());
            Candidate { chip: item.chip, centre: item.place.centre(), number }
        };
        let (for_them, against): (Vec<_>, Vec<_>) =
            (positives.iter().map(candidate).collect(), negatives.iter().map(candidate).collect());
        let kept = self.negatives.choose(&for_them, &against, self.seed);
        let mut keep = vec![false; negatives.len()];
        kept.iter().for_each(|place| keep[*place] = true);
        for (index, keep) in negatives.iter().zip(keep) {
            if !keep {
                items[*index].side = None;
            }
        }
        negatives.len() - kept.len()
    }

    /// Counts what invariant 1 says, on the chips that are left.
    fn leakage(&self, items: &[Item]) -> Leakage {
        let left: Vec<&Item> = items.iter().filter(|item| item.side.is_some()).collect();
        let places: Vec<Place> = left.iter().map(|item| item.place.clone()).collect();
        let equal = twins(items).into_values().map(|sides| {
            let [train, validation, test] = sides.map(|own| own.len() as u64);
            train * validation + train * test + validation * test
        });
        let mut leakage = Leakage { equal: equal.sum(), ..Leakage::default() };
        pairs(&places, self.gap.metres, |a, b, near| {
            if left[a].side != left[b].side {
                match near {
                    Near::Overlap => leakage.overlapping += 1,
                    Near::Within => leakage.within_gap += 1,
                }
            }
        });
        leakage
    }
}

/// Chip sets that can be used together.
fn check_sets(sets: &[ChipSet]) -> Result<(), TaskError> {
    let Some(first) = sets.first().map(ChipSet::manifest) else {
        return Err(fault("L111", "no chip set is given", "connect the output `chips` of a `dataset.chips` step"));
    };
    for (index, set) in sets.iter().enumerate() {
        let manifest = set.manifest();
        let help = "cut all sets with the same `size` and `bands`, and give each once";
        if (manifest.size, &manifest.bands) != (first.size, &first.bands) {
            let form = |size: usize, bands: &[String]| format!("{} of {size} x {size} pixels", bands.join(", "));
            let (own, other) = (form(manifest.size, &manifest.bands), form(first.size, &first.bands));
            return Err(fault(
                "L113",
                format!("chip set {} has chips of {own}, the first of {other}", index + 1),
                help,
            ));
        }
        if let Some(twin) = sets[..index].iter().position(|other| other.digest() == set.digest()) {
            let message = format!("chip sets {} and {} are the same", twin + 1, index + 1);
            return Err(fault("L113", message, help));
        }
    }
    Ok(())
}

/// Chips with the same pixels: those of each side.
fn twins(items: &[Item]) -> BTreeMap<String, [Vec<usize>; 3]> {
    let mut same: BTreeMap<String, [Vec<usize>; 3]> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        if let Some(side) = item.side {
            same.entry(item.chip.digest.hex()).or_default()[side as usize].push(index);
        }
    }
    same.retain(|_, sides| sides.iter().filter(|own| !own.is_empty()).count() > 1);
    same
}

/// Leaves chips with the same pixels on the side that has most of them. How many are taken off the others.
fn clear_twins(items: &mut [Item]) -> usize {
    let mut gone = 0;
    for sides in twins(items).into_values() {
        let most = (0..3).rev().max_by_key(|side| sides[*side].len()).unwrap_or(0);
        for index in (0..3).filter(|side| *side != most).flat_map(|side| &sides[side]) {
            items[*index].side = None;
            gone += 1;
        }
    }
    gone
}

fn sides_of(items: &[Item]) -> Sides {
    let mut sides = Sides::default();
    for name in SideName::ALL {
        let own: Vec<&Item> = items.iter().filter(|item| item.side == Some(name)).collect();
        let positives = own.iter().filter(|item| item.positive).count();
        let blocks: BTreeSet<usize> = own.iter().map(|item| item.block).collect();
        let chip = |item: &&Item| ChipRef {
            set: item.set,
            chip: item.index,
            id: item.chip.id.clone(),
            positive: item.positive,
        };
        *sides.get_mut(name) = Side {
            positives,
            negatives: own.len() - positives,
            blocks: blocks.len(),
            labels: Vec::new(),
            chips: own.iter().map(chip).collect(),
        };
    }
    sides
}
