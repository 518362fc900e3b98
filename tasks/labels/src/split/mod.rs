//! `dataset.split`: which chips train, validate and test.
//!
//! The way of the chips: those that show neither something nor nothing are left out; `neighbours` finds the block of each and who is
//! near whom; `sides` assigns the blocks; chips along the borders are left out, until no two of different sides are near
//! each other; `negatives` thins the training side; `statistics` reads what is left; `sheet` draws some of it.
//!
//! Invariants:
//! 1. No two chips of different sides overlap, are nearer than the gap, have the same pixels, or show the same known site: counted
//!    on the result.
//! 2. The same sets, parameters and seed give the same dataset on every machine.
//! 3. Memory is the manifests, which have a bound, and a few bands of a chip; no list of pairs is kept.

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
    Chip, ChipRef, ChipSet, DATASET_FORMAT, DatasetManifest, Leakage, LeftOut, MANIFEST, SetRef, Side, SideName, Sides,
};
use swath_kinds::{ChipSetFolder, DatasetFile, Distance, Picture};
use swath_task::{Artifact, Bytes, Context, Digest, Draft, Needs, Problem, Purity, Task, TaskError};

use crate::faults::{fault, set_fault};
use negatives::Candidate;
use neighbours::{Near, Neighbours, Place, touching};
use sides::{Group, Kinds, assign, draw, groups};

/// Bytes of all manifests together: chips take about as much in memory as in their text.
const LONGEST_MANIFESTS: u64 = 256 << 20;

/// Says which chips of one or more chip sets train, validate and test a network.
///
/// Spatial blocks go to the sides, not chips, stratified by chips with and without something to find, or by the classes of a
/// map of several; chips that overlap a chip of another side, lie nearer to one than `gap`, or show a site of another
/// side, are left out. What is left of leakage is counted and must be none. The training side keeps as many negatives as `negatives` says, hard ones preferred; validation and test stay as the
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
    /// Pairs of chips on different sides that overlap, are nearer than the gap, or are equal, and sites on several sides: 0.
    pub leaks: u64,
}

impl Task for SplitDataset {
    const NAME: &'static str = "dataset.split";
    const VERSION: u32 = 2;
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
        let leaks = manifest.leakage.total();
        let [train, validation, test] = SideName::ALL.map(|side| count(manifest.sides.get(side)));
        ctx.metric("chips_train", train as f64);
        ctx.metric("chips_validation", validation as f64);
        ctx.metric("chips_test", test as f64);
        ctx.metric("leaks", leaks as f64);
        Ok(Outputs { dataset: dataset.commit().await?, sheet: sheet.commit().await?, train, validation, test, leaks })
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
    /// Places of its kinds among [`Kinds::list`].
    kinds: Vec<usize>,
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
        check_manifests(folders)?;
        let sets =
            folders.iter().map(|folder| ChipSet::open(folder)).collect::<Result<Vec<_>, _>>().map_err(set_fault)?;
        check_sets(&sets)?;
        let mut left_out = LeftOut::default();
        let (mut items, kinds) = self.items(&sets, &mut left_out)?;
        self.assign(&mut items, &kinds, &sets)?;
        left_out.border = self.clear_borders(&mut items);
        self.check_sides(&items, &kinds)?;
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

    /// The chips that could be used, and the kinds that they are of.
    fn items<'a>(&self, sets: &'a [ChipSet], left_out: &mut LeftOut) -> Result<(Vec<Item<'a>>, Kinds), TaskError> {
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
                items.push(Item { set, index, chip, place, positive, kinds: Vec::new(), block: 0, side: None });
            }
        }
        if items.is_empty() {
            let message =
                format!("none of the {} chips can be used: each shows only what is ambiguous", left_out.ambiguous);
            return Err(fault("L120", message, "lower `min_positive`, or look at the label"));
        }
        for (block, members) in places.into_values().enumerate() {
            members.into_iter().for_each(|member| items[member].block = block);
        }
        let mut counts = BTreeMap::new();
        for item in &items {
            self.classes(item).into_iter().for_each(|class| *counts.entry(class).or_default() += 1);
        }
        let kinds = Kinds::of(&counts);
        for item in &mut items {
            item.kinds = kinds.of_chip(item.positive, &self.classes(item));
        }
        Ok((items, kinds))
    }

    /// The classes that a chip shows enough of; at least the one that it shows most of.
    fn classes(&self, item: &Item) -> Vec<usize> {
        let found = || item.chip.classes.iter().filter(|class| item.positive && class.value >= 1.0);
        let pixels: u64 = item.chip.classes.iter().map(|class| class.pixels).sum();
        let most = found().max_by_key(|class| class.pixels).map_or(0, |class| class.pixels);
        let enough = most.min((self.min_positive * pixels as f64) as u64);
        found().filter(|class| class.pixels >= enough).map(|class| class.value as usize).collect()
    }

    /// Gives every chip a side.
    fn assign(&self, items: &mut [Item], kinds: &Kinds, sets: &[ChipSet]) -> Result<(), TaskError> {
        let list = kinds.list();
        let count = items.iter().map(|item| item.block + 1).max().unwrap_or(0);
        let mut blocks: Vec<Group> =
            (0..count).map(|block| Group { blocks: vec![block], positives: 0, counts: vec![0; list.len()] }).collect();
        for item in items.iter() {
            let block = &mut blocks[item.block];
            block.positives += usize::from(item.positive);
            item.kinds.iter().for_each(|kind| block.counts[*kind] += 1);
        }
        let shares = self.shares.list();
        let groups = groups(&blocks, &self.shared(items, sets), shares);
        let sides = assign(&groups, &list, shares, self.seed)?;
        let mut of_block = vec![SideName::Train; blocks.len()];
        for (group, side) in groups.iter().zip(sides) {
            group.blocks.iter().for_each(|block| of_block[*block] = side);
        }
        items.iter_mut().for_each(|item| item.side = Some(of_block[item.block]));
        Ok(())
    }

    /// Pairs of blocks that show one site.
    fn shared(&self, items: &[Item], sets: &[ChipSet]) -> Vec<(usize, usize)> {
        let mut shared = Vec::new();
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        for item in items {
            for site in &item.chip.sites {
                let block = *first.entry(site).or_insert(item.block);
                if block != item.block {
                    shared.push((block, item.block));
                }
            }
        }
        // Without sites told, positives beside each other show one, also where they only touch or a stride leaves a gap. Where
        // there are no negatives, everything is beside each other, and says nothing.
        if items.iter().any(|item| !item.positive) {
            let untold = |item: &&Item| item.positive && sets[item.set].manifest().sites.is_none();
            let (blocks, places): (Vec<usize>, Vec<Place>) =
                items.iter().filter(untold).map(|item| (item.block, item.place.clone())).unzip();
            let reach = places.iter().map(Place::height).fold(self.gap.metres, f64::max);
            shared.extend(touching(&places, &blocks, reach));
        }
        shared.sort_unstable();
        shared.dedup();
        shared
    }

    /// Takes chips off their sides until no two of different sides are near each other, equal or show one site. How many.
    fn clear_borders(&self, items: &mut [Item]) -> usize {
        let mut gone = keep_together(items, twins) + keep_together(items, by_site);
        let places: Vec<Place> = items.iter().map(|item| item.place.clone()).collect();
        let mut sides = SideName::ALL.map(|side| {
            let own = (0..items.len()).filter(|index| items[*index].side == Some(side));
            Neighbours::new(&places, own, self.gap.metres)
        });
        for index in 0..items.len() {
            // Every turn takes one chip away: the work does not grow with the number of pairs.
            while let Some(side) = items[index].side {
                let others = SideName::ALL.into_iter().filter(|other| *other != side);
                let Some((other, near)) =
                    others.filter_map(|other| Some((other, sides[other as usize].of(index).next()?.0))).next()
                else {
                    break;
                };
                // Positives are rarer; the training side has most to lose from.
                let own = match (items[index].positive, items[near].positive) {
                    (false, true) => true,
                    (true, false) => false,
                    _ => side < other,
                };
                let (side, lost) = if own { (side, index) } else { (other, near) };
                sides[side as usize].remove(lost);
                items[lost].side = None;
                gone += 1;
            }
        }
        gone
    }

    /// Whether every side that has a share has chips of both kinds.
    fn check_sides(&self, items: &[Item], kinds: &Kinds) -> Result<(), TaskError> {
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
            if *kinds == Kinds::Two && (positives == 0 || negatives == 0) {
                let kind = if positives == 0 { "negative" } else { "positive" };
                let count = positives + negatives;
                return Err(fault("L121", format!("all {count} chips left for {side} are {kind}"), help));
            }
            for (kind, told) in kinds.list().iter().enumerate().filter(|(_, told)| !told.needed) {
                let on = |item: &Item| item.kinds.contains(&kind);
                if items.iter().any(on) && !items.iter().any(|item| item.side == Some(side) && on(item)) {
                    tracing::warn!(%side, lacks = told.name, "no chip of a kind is left for a side");
                }
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
        let places: Vec<Place> = items.iter().map(|item| item.place.clone()).collect();
        let on = |side: SideName| (0..items.len()).filter(move |index| items[*index].side == Some(side));
        let equal = twins(items).into_values().map(|sides| {
            let [train, validation, test] = sides.map(|own| own.len() as u64);
            train * validation + train * test + validation * test
        });
        let mut leakage =
            Leakage { equal: equal.sum(), shared_sites: by_site(items).len() as u64, ..Leakage::default() };
        for (side, others) in [(SideName::Train, &SideName::ALL[1..]), (SideName::Validation, &SideName::ALL[2..])] {
            for other in others {
                let neighbours = Neighbours::new(&places, on(*other), self.gap.metres);
                for index in on(side) {
                    let found: BTreeMap<usize, Near> = neighbours.of(index).collect();
                    let overlapping = found.values().filter(|near| **near == Near::Overlap).count() as u64;
                    leakage.overlapping += overlapping;
                    leakage.within_gap += found.len() as u64 - overlapping;
                }
            }
        }
        leakage
    }
}

/// Manifests that fit into memory together.
fn check_manifests(folders: &[PathBuf]) -> Result<(), TaskError> {
    let length = |folder: &PathBuf| std::fs::metadata(folder.join(MANIFEST)).map_or(0, |metadata| metadata.len());
    let all: u64 = folders.iter().map(length).sum();
    if all > LONGEST_MANIFESTS {
        let (all, most) = (all >> 20, LONGEST_MANIFESTS >> 20);
        let message = format!("the manifests of the chip sets have {all} MiB together, more than {most}");
        return Err(fault("R108", message, "split fewer sets at a time, or cut them with a longer `stride`"));
    }
    Ok(())
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

/// What chips of several sides have in common, and the chips of each side that do.
type Common<K> = BTreeMap<K, [Vec<usize>; 3]>;

fn common<K: Ord>(items: &[Item], keys: impl Fn(&Item) -> Vec<K>) -> Common<K> {
    let mut same: Common<K> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let Some(side) = item.side else { continue };
        for key in keys(item) {
            same.entry(key).or_default()[side as usize].push(index);
        }
    }
    same.retain(|_, sides| sides.iter().filter(|own| !own.is_empty()).count() > 1);
    same
}

/// Chips with the same pixels.
fn twins(items: &[Item]) -> Common<Digest> {
    common(items, |item| vec![item.chip.digest])
}

/// Chips that show the same site.
fn by_site(items: &[Item]) -> Common<String> {
    common(items, |item| item.chip.sites.clone())
}

/// Leaves chips with something in common on the side that has most of them. How many are taken off the others.
fn keep_together<K: Ord>(items: &mut [Item], find: impl Fn(&[Item]) -> Common<K>) -> usize {
    let mut gone = 0;
    for sides in find(items).into_values() {
        // Some may have gone for another reason by now.
        let left = sides.map(|own| own.into_iter().filter(|index| items[*index].side.is_some()).collect::<Vec<_>>());
        let most = (0..3).rev().max_by_key(|side| left[*side].len()).unwrap_or(0);
        for index in (0..3).filter(|side| *side != most).flat_map(|side| &left[side]) {
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
