//! Datasets: which chips train, validate and test, and what was measured on them.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use swath_task::Digest;

use crate::DATASET_FORMAT;
use crate::error::Error;
use crate::set::{ChipSet, LabelCount};

/// A dataset file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetManifest {
    /// [`DATASET_FORMAT`].
    pub format: String,
    /// Rows and columns of a chip.
    pub size: usize,
    /// Bands, in order.
    pub bands: Vec<String>,
    /// What the random choices were drawn from.
    pub seed: u64,
    /// Side of a spatial block, in metres.
    pub block_m: f64,
    /// Least distance between chips of different sides, in metres.
    pub gap_m: f64,
    /// The chip sets, in the order that [`ChipRef::set`] counts.
    pub sets: Vec<SetRef>,
    /// The chips of each side.
    pub sides: Sides,
    /// Chips of the sets that are on no side.
    pub left_out: LeftOut,
    /// What training could see of what it is tested on.
    pub leakage: Leakage,
    /// Of the pixels with data of all chips that train.
    pub statistics: Vec<BandStatistics>,
}

impl DatasetManifest {
    /// What it tells of its sides must be what the chips that it lists are; none of them is listed twice.
    fn check(&self, sets: &[ChipSet]) -> Result<(), String> {
        let mut listed = HashSet::new();
        if let Some(twin) = sets.iter().find(|set| !listed.insert(set.digest())) {
            return Err(format!("the chip set with the digest {} is listed twice", twin.digest()));
        }
        let mut listed = HashSet::new();
        for name in SideName::ALL {
            let side = self.sides.get(name);
            if let Some(twice) = side.chips.iter().find(|chip| !listed.insert((chip.set, chip.chip))) {
                return Err(format!(
                    "chip `{}` of the {name} side is listed twice, there or on another side",
                    twice.id
                ));
            }
            let positives = side.chips.iter().filter(|chip| chip.positive).count();
            let negatives = side.chips.len() - positives;
            if (side.positives, side.negatives) != (positives, negatives) {
                return Err(format!(
                    "the {name} side lists {positives} positive and {negatives} negative chips, and tells of {} and {}",
                    side.positives, side.negatives
                ));
            }
            side.check_classes(name, sets)?;
        }
        Ok(())
    }

    /// Places of the bands that are shown as red, green and blue: natural colours where there are such, else the first ones.
    pub fn natural_colours(&self) -> [usize; 3] {
        let find = |name: &str| self.bands.iter().position(|band| band == name);
        for names in [["B04", "B03", "B02"], ["red", "green", "blue"]] {
            if let [Some(red), Some(green), Some(blue)] = names.map(find) {
                return [red, green, blue];
            }
        }
        if self.bands.len() >= 3 { [0, 1, 2] } else { [0; 3] }
    }
}

/// A chip set that a dataset draws from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetRef {
    /// [`ChipSet::digest`].
    pub digest: Digest,
    /// Chips in it.
    pub chips: usize,
}

/// A chip of one of the sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipRef {
    /// Index of its set.
    pub set: usize,
    /// Its index in the manifest of that set.
    pub chip: usize,
    /// Its id there.
    pub id: String,
    /// Whether it shows something of a class or site.
    pub positive: bool,
}

/// The three sides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sides {
    /// What a network learns from.
    pub train: Side,
    /// What tells when to stop, and which of several is best.
    pub validation: Side,
    /// What tells how good it is, looked at once.
    pub test: Side,
}

/// Which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SideName {
    /// See [`Sides::train`].
    Train,
    /// See [`Sides::validation`].
    Validation,
    /// See [`Sides::test`].
    Test,
}

impl SideName {
    /// All, in order.
    pub const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];
}

impl fmt::Display for SideName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        })
    }
}

/// The chips of a side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Chips that show something of a class or site.
    pub positives: usize,
    /// Chips that show nothing of any.
    pub negatives: usize,
    /// Spatial blocks that they lie in.
    pub blocks: usize,
    /// Pixels of each label.
    pub labels: Vec<LabelCount>,
    /// The chips, by set and index.
    pub chips: Vec<ChipRef>,
}

impl Side {
    /// Pixels of each class must be those of the chips, where all chips tell them: sets of before did not.
    fn check_classes(&self, name: SideName, sets: &[ChipSet]) -> Result<(), String> {
        let mut found: BTreeMap<u32, u64> = BTreeMap::new();
        for chip in &self.chips {
            let classes = &sets[chip.set].manifest().chips[chip.chip].classes;
            if classes.is_empty() {
                return Ok(());
            }
            classes.iter().for_each(|class| *found.entry(class.value as u32).or_default() += class.pixels);
        }
        let whole = self.labels.iter().filter(|label| label.from.is_none() && label.value.fract() == 0.0);
        let told: BTreeMap<u32, u64> = whole.map(|label| (label.value as u32, label.pixels)).collect();
        let Some(class) = found.keys().chain(told.keys()).find(|class| found.get(*class) != told.get(*class)) else {
            return Ok(());
        };
        let [shown, told] = [&found, &told].map(|pixels| pixels.get(class).copied().unwrap_or(0));
        Err(format!("the chips of the {name} side show {shown} pixels of class {class}, and it tells of {told}"))
    }
}

impl Sides {
    /// A side by name.
    pub fn get(&self, name: SideName) -> &Side {
        match name {
            SideName::Train => &self.train,
            SideName::Validation => &self.validation,
            SideName::Test => &self.test,
        }
    }

    /// See [`Sides::get`].
    pub fn get_mut(&mut self, name: SideName) -> &mut Side {
        match name {
            SideName::Train => &mut self.train,
            SideName::Validation => &mut self.validation,
            SideName::Test => &mut self.test,
        }
    }
}

/// Chips on no side, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeftOut {
    /// They show only what is ambiguous, or too little of a class or site.
    pub ambiguous: usize,
    /// They overlap a chip of another side, or lie nearer to one than the gap.
    pub border: usize,
    /// Negatives of the training side beyond the ratio asked for.
    pub negatives: usize,
}

/// What chips on different sides share, counted on the finished dataset: pairs of them, and sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leakage {
    /// Pairs that overlap.
    pub overlapping: u64,
    /// Pairs nearer to each other than the gap.
    pub within_gap: u64,
    /// Pairs with the same pixels.
    pub equal: u64,
    /// Known sites that chips of more than one side show.
    #[serde(default)]
    pub shared_sites: u64,
}

impl Leakage {
    /// All that was counted.
    pub fn total(&self) -> u64 {
        self.overlapping + self.within_gap + self.equal + self.shared_sites
    }
}

/// What was measured on a band.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BandStatistics {
    /// Band name.
    pub band: String,
    /// Pixels with data.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, as numpy's `std`.
    pub std: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// `[percentile, value]`, exact, as numpy's `percentile` has them.
    pub percentiles: Vec<[f64; 2]>,
}

/// A dataset with its chip sets, open for reading.
#[derive(Debug)]
pub struct Dataset {
    manifest: DatasetManifest,
    sets: Vec<ChipSet>,
}

impl Dataset {
    /// Opens a dataset file and finds its chip sets, by digest, among these folders. A file that contradicts itself or them is
    /// refused; whether pixels are those that were written only [`ChipSet::verify`] finds out.
    pub fn open(path: &Path, folders: &[impl AsRef<Path>]) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|error| Error::read(path, error))?;
        let manifest: DatasetManifest =
            serde_json::from_slice(&text).map_err(|error| Error::manifest(path, error.to_string()))?;
        if manifest.format != DATASET_FORMAT {
            let reason = format!("its format is `{}`, this program reads `{DATASET_FORMAT}`", manifest.format);
            return Err(Error::manifest(path, reason));
        }
        let mut given = folders.iter().map(|folder| ChipSet::open(folder.as_ref())).collect::<Result<Vec<_>, _>>()?;
        let count = given.len();
        let mut sets = Vec::with_capacity(manifest.sets.len());
        for wanted in &manifest.sets {
            let place = given.iter().position(|set| set.digest() == wanted.digest);
            let missing = || Error::MissingSet { digest: wanted.digest.to_string(), given: count };
            sets.push(given.swap_remove(place.ok_or_else(missing)?));
        }
        for chip in SideName::ALL.iter().flat_map(|side| &manifest.sides.get(*side).chips) {
            let found = sets.get(chip.set).and_then(|set| set.manifest().chips.get(chip.chip));
            if found.is_none_or(|found| found.id != chip.id) {
                return Err(Error::manifest(path, format!("chip `{}` is not in the set that it names", chip.id)));
            }
        }
        manifest.check(&sets).map_err(|reason| Error::manifest(path, reason))?;
        Ok(Self { manifest, sets })
    }

    /// What the dataset says of itself.
    pub fn manifest(&self) -> &DatasetManifest {
        &self.manifest
    }

    /// Its chip sets.
    pub fn sets(&self) -> &[ChipSet] {
        &self.sets
    }

    /// Reads a chip; see [`ChipSet::read`].
    pub fn read(
        &self,
        chip: &ChipRef,
        image: &mut [f32],
        label: &mut [f32],
        scratch: &mut Vec<u8>,
    ) -> Result<(), Error> {
        self.sets[chip.set].read(chip.chip, image, label, scratch)
    }
}
