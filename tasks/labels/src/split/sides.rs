//! Which side each block of chips goes to.
//!
//! Blocks, not chips, are assigned: neighbours are alike, and a network that was trained on one of two is not tested by the
//! other (Roberts et al., "Cross-validation strategies for data with temporal, spatial, hierarchical, or phylogenetic structure",
//! Ecography 40 (2017), 913-929). Blocks that share a site (positive chips of both that overlap) go together, where enough
//! sites are left for every side; else the site is cut, and the chips along the cut are left out.
//!
//! The assignment is greedy, as scikit-learn's `StratifiedGroupKFold` is: groups with positives first, each to the side that
//! lacks most of its share. Several orders are tried, drawn from the seed, and the most even result is taken.

use std::collections::BTreeMap;

use swath_datasets::SideName;
use swath_task::TaskError;

use crate::faults::fault;

/// Orders that are tried.
const TRIES: u64 = 64;
/// How much more than its share the largest group of blocks may hold before sites are cut rather than kept whole.
const UNEVEN: f64 = 0.15;

/// Number of chips of a block, or of blocks that go together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The blocks.
    pub blocks: Vec<usize>,
    /// Their positive chips.
    pub positives: usize,
    /// Their chips of each kind. A chip may be of several.
    pub counts: Vec<usize>,
}

/// What the sides should each have their share of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `positive`, `negative`, `class 3`, `chosen`.
    pub name: String,
    /// Whether a side without it is of no use.
    pub needed: bool,
}

/// Which kinds of chips there are, the rarest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kinds {
    /// Something is to be found or not: positive and negative chips.
    Two,
    /// Chips of each of these classes, of none of them, and all.
    Classes(Vec<usize>),
}

impl Kinds {
    /// Kinds for chips of these classes: two of them when there is one class, or none. `counts` are chips by class.
    pub fn of(counts: &BTreeMap<usize, usize>) -> Self {
        if counts.len() < 2 {
            return Self::Two;
        }
        let mut classes: Vec<usize> = counts.keys().copied().collect();
        classes.sort_by_key(|class| (counts[class], *class));
        Self::Classes(classes)
    }

    /// All kinds, in order.
    pub fn list(&self) -> Vec<Kind> {
        let kind = |name: String, needed: bool| Kind { name, needed };
        match self {
            Self::Two => ["positive", "negative"].map(|name| kind(name.to_owned(), true)).into(),
            Self::Classes(classes) => {
                let classes = classes.iter().map(|class| kind(format!("class {class}"), false));
                classes.chain([kind("negative".to_owned(), false), kind("usable".to_owned(), true)]).collect()
            }
        }
    }

    /// The kinds of a chip, by their places in the list.
    pub fn of_chip(&self, positive: bool, own: &[usize]) -> Vec<usize> {
        match self {
            Self::Two => vec![usize::from(!positive)],
            Self::Classes(classes) => {
                let mut kinds: Vec<usize> = (0..classes.len()).filter(|place| own.contains(&classes[*place])).collect();
                if !positive {
                    kinds.push(classes.len());
                }
                kinds.push(classes.len() + 1);
                kinds
            }
        }
    }
}

/// The share of each side: train, validation, test.
pub type Shares = [f64; 3];

/// A number that looks random and is the same for the same seed and words on every machine.
pub fn draw(seed: u64, words: &[u64]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for word in std::iter::once(&seed).chain(words) {
        hasher.update(&word.to_le_bytes());
    }
    let bytes = hasher.finalize();
    u64::from_le_bytes(*bytes.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}

/// Joins blocks that share positives. The largest groups are taken apart again until every side can get its share. `shared`
/// are pairs of blocks.
pub fn groups(blocks: &[Group], shared: &[(usize, usize)], shares: Shares) -> Vec<Group> {
    let mut parent: Vec<usize> = (0..blocks.len()).collect();
    for (a, b) in shared {
        let (a, b) = (root(&mut parent, *a), root(&mut parent, *b));
        // The smaller number is the root: the result does not depend on the order of pairs.
        parent[a.max(b)] = a.min(b);
    }
    let mut joined: BTreeMap<usize, Group> = BTreeMap::new();
    for (index, block) in blocks.iter().enumerate() {
        let group = joined.entry(root(&mut parent, index)).or_default();
        group.blocks.extend(&block.blocks);
        group.positives += block.positives;
        group.counts.resize(block.counts.len(), 0);
        group.counts.iter_mut().zip(&block.counts).for_each(|(sum, count)| *sum += count);
    }
    let mut joined: Vec<Group> = joined.into_values().collect();
    let positives: usize = joined.iter().map(|group| group.positives).sum();
    let sides = shares.iter().filter(|share| **share > 0.0).count();
    let widest = (shares.into_iter().fold(0.0, f64::max) + UNEVEN) * positives as f64;
    loop {
        let largest =
            (0..joined.len()).filter(|at| joined[*at].blocks.len() > 1).max_by_key(|at| joined[*at].positives);
        let with_positives = joined.iter().filter(|group| group.positives > 0).count();
        match largest {
            Some(at) if with_positives < sides || joined[at].positives as f64 > widest => {
                let apart = joined.swap_remove(at).blocks;
                joined.extend(apart.into_iter().map(|block| blocks[block].clone()));
            }
            _ => break,
        }
    }
    joined.sort_by_key(|group| group.blocks[0]);
    joined
}

fn root(parent: &mut [usize], mut index: usize) -> usize {
    while parent[index] != index {
        parent[index] = parent[parent[index]];
        index = parent[index];
    }
    index
}

/// The side of each group.
pub fn assign(groups: &[Group], kinds: &[Kind], shares: Shares, seed: u64) -> Result<Vec<SideName>, TaskError> {
    let total = |kind: usize| groups.iter().map(|group| group.counts[kind]).sum::<usize>();
    let totals: Vec<usize> = (0..kinds.len()).map(total).collect();
    let sides = shares.iter().filter(|share| **share > 0.0).count();
    let found = |kind: usize| groups.iter().filter(|group| group.counts[kind] > 0).count();
    if let (Some(lacking), [one, other]) = (totals.iter().position(|total| *total == 0), kinds) {
        let (what, other) = if lacking == 0 { (one, other) } else { (other, one) };
        let message = format!("no chip is {}: all that could be used are {}", what.name, other.name);
        return Err(fault("L121", message, "add an area with chips of both kinds, or look at the label"));
    }
    for (kind, told) in kinds.iter().enumerate().filter(|(_, kind)| kind.needed) {
        let (found, what) = (found(kind), &told.name);
        if found < sides {
            let message = format!("{what} chips lie in {found} spatial blocks, too few for {sides} sides");
            return Err(fault(
                "L120",
                message,
                "choose a smaller `block`, add an area, or do without a test side (`test: 0`)",
            ));
        }
    }
    // A class in fewer blocks than there are sides cannot be on all of them.
    let everywhere: Vec<bool> = (0..kinds.len()).map(|kind| found(kind) >= sides).collect();
    let tries = (0..TRIES).map(|turn| attempt(groups, shares, &totals, &everywhere, (seed, turn)));
    let best = tries.min_by(|a, b| a.0.total_cmp(&b.0));
    Ok(best.map(|(_, sides)| sides).unwrap_or_default())
}

/// One order: how uneven it comes out, and the side of each group.
fn attempt(
    groups: &[Group],
    shares: Shares,
    totals: &[usize],
    everywhere: &[bool],
    (seed, turn): (u64, u64),
) -> (f64, Vec<SideName>) {
    // A group goes where the rarest kind lacks of which it has some.
    let rarest = |group: &Group| group.counts.iter().position(|count| *count > 0).unwrap_or(0);
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_cached_key(|index| {
        let first = groups[*index].blocks.first().copied().unwrap_or_default();
        (rarest(&groups[*index]), draw(seed, &[turn, first as u64]))
    });
    let used = |side: usize| shares[side] > 0.0;
    let mut left: Vec<usize> =
        (0..totals.len()).map(|kind| groups.iter().filter(|group| group.counts[kind] > 0).count()).collect();
    let mut held = vec![[0.0; 3]; totals.len()];
    let mut sides = vec![SideName::Train; groups.len()];
    for index in order {
        let group = &groups[index];
        let kind = rarest(group);
        let without = (0..3).filter(|side| used(*side) && held[kind][*side] == 0.0).count();
        let may = |side: &usize| used(*side) && (left[kind] > without || held[kind][*side] == 0.0);
        let lacks = |side: usize| shares[side] * totals[kind] as f64 - held[kind][side];
        let side = (0..3).filter(may).max_by(|a, b| lacks(*a).total_cmp(&lacks(*b)).then(b.cmp(a))).unwrap_or(0);
        for (kind, count) in group.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            held[kind][side] += *count as f64;
            left[kind] -= 1;
        }
        sides[index] = SideName::ALL[side];
    }
    let uneven = |kind: usize| {
        let off = |side: usize| held[kind][side] / totals[kind].max(1) as f64 - shares[side];
        if totals[kind] == 0 { 0.0 } else { (0..3).map(|side| off(side) * off(side)).sum::<f64>() }
    };
    // A side without a kind that could be on all sides is worse than any uneven one.
    let lacks = |kind: usize| everywhere[kind] && (0..3).any(|side| used(side) && held[kind][side] == 0.0);
    let lacking = (0..totals.len()).filter(|kind| lacks(*kind)).count();
    ((0..totals.len()).map(uneven).sum::<f64>() + 10.0 * lacking as f64, sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = [0.7, 0.15, 0.15];

    fn block(index: usize, positives: usize, negatives: usize) -> Group {
        Group { blocks: vec![index], positives, counts: vec![positives, negatives] }
    }

    fn assign(groups: &[Group], shares: Shares, seed: u64) -> Result<Vec<SideName>, TaskError> {
        super::assign(groups, &Kinds::Two.list(), shares, seed)
    }

    fn held(groups: &[Group], sides: &[SideName]) -> [[usize; 2]; 3] {
        SideName::ALL.map(|side| {
            let own = || groups.iter().zip(sides).filter(|(_, other)| **other == side).map(|(group, _)| group);
            [0, 1].map(|kind| own().map(|group| group.counts[kind]).sum())
        })
    }

    #[test]
    fn sides_get_their_shares_of_both_kinds_for_every_seed() {
        let groups: Vec<Group> =
            (0..80).map(|i| block(i, if i % 4 == 0 { 1 + i % 7 } else { 0 }, 10 + i % 9)).collect();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..20 {
            let sides = assign(&groups, SHARES, seed).unwrap();
            let totals = held(&groups, &[SideName::Train; 80])[0];
            for (side, share) in held(&groups, &sides).iter().zip(SHARES) {
                for kind in 0..2 {
                    let off = side[kind] as f64 / totals[kind] as f64 - share;
                    assert!(off.abs() < 0.04, "{seed} {share} {off}");
                }
            }
            assert_eq!(sides, assign(&groups, SHARES, seed).unwrap());
            seen.insert(sides);
        }
        assert!(seen.len() > 10, "{} different splits of 20 seeds", seen.len());
    }

    #[test]
    fn sides_get_their_shares_of_every_class_of_a_complete_map() {
        // Twelve classes of which each block has three or four, and no chip without any.
        let chips: BTreeMap<usize, usize> = (0..12).map(|class| (class, 100 * (class + 1))).collect();
        let kinds = Kinds::of(&chips);
        let has = |block: usize, class: usize| (block + class * class).is_multiple_of(4) || block % 12 == class;
        let groups: Vec<Group> = (0..120)
            .map(|block| {
                let mut counts: Vec<usize> =
                    (0..12).map(|class| if has(block, class) { 3 + class } else { 0 }).collect();
                counts.extend([0, 30]);
                Group { blocks: vec![block], positives: 30, counts }
            })
            .collect();
        for seed in 0..10 {
            let sides = super::assign(&groups, &kinds.list(), SHARES, seed).unwrap();
            for kind in (0..12).chain([13]) {
                let total: usize = groups.iter().map(|group| group.counts[kind]).sum();
                for (side, share) in SideName::ALL.into_iter().zip(SHARES) {
                    let own = groups.iter().zip(&sides).filter(|(_, other)| **other == side);
                    let held: usize = own.map(|(group, _)| group.counts[kind]).sum();
                    let off = held as f64 / total as f64 - share;
                    assert!(off.abs() < 0.12 && held > 0, "{seed} {kind} {side}: {off}");
                }
            }
        }
        assert_eq!(Kinds::of(&BTreeMap::from([(1, 9)])), Kinds::Two, "one class is found or not");
        assert_eq!(kinds.of_chip(true, &[0, 11]), [0, 11, 13]);
        assert_eq!(kinds.of_chip(false, &[]), [12, 13]);
    }

    #[test]
    fn a_class_in_two_blocks_is_on_two_sides_and_not_all_on_one() {
        let rare = |block: usize| usize::from(block < 2);
        let groups: Vec<Group> = (0..30)
            .map(|block| Group { blocks: vec![block], positives: 9, counts: vec![rare(block), 9, 0, 9] })
            .collect();
        let kinds = Kinds::of(&BTreeMap::from([(7, 2), (3, 270)]));
        for seed in 0..10 {
            let sides = super::assign(&groups, &kinds.list(), SHARES, seed).unwrap();
            assert_ne!(sides[0], sides[1], "{seed}");
        }
    }

    #[test]
    fn three_sites_give_each_side_one() {
        let groups = [block(0, 30, 5), block(1, 1, 5), block(2, 1, 5), block(3, 0, 50), block(4, 0, 9), block(5, 0, 9)];
        for seed in 0..50 {
            let held = held(&groups, &assign(&groups, SHARES, seed).unwrap());
            assert!(held.iter().all(|side| side[0] > 0 && side[1] > 0), "{seed}: {held:?}");
            assert!(held[0][0] == 30, "{seed}: the large one trains: {held:?}");
        }
        let two = assign(&[block(0, 3, 3), block(1, 3, 3)], [0.8, 0.2, 0.0], 1).unwrap();
        assert!(two.contains(&SideName::Train) && two.contains(&SideName::Validation));
    }

    #[test]
    fn too_few_blocks_or_kinds_are_told() {
        let code = |groups: &[Group]| match assign(groups, SHARES, 0) {
            Err(TaskError::Permanent(fault)) => fault.code.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(code(&[block(0, 3, 3), block(1, 3, 3)]), "L120");
        assert_eq!(code(&[block(0, 3, 3), block(1, 0, 3), block(2, 0, 3)]), "L120");
        assert_eq!(code(&[block(0, 0, 3), block(1, 0, 3), block(2, 0, 3)]), "L121");
        assert_eq!(code(&[block(0, 2, 0), block(1, 2, 0), block(2, 2, 0)]), "L121");
    }

    #[test]
    fn a_site_over_two_blocks_keeps_them_together_unless_it_is_most_of_all() {
        let blocks = [block(0, 5, 1), block(1, 5, 1), block(2, 5, 1), block(3, 5, 1)];
        let joined = groups(&blocks, &[(1, 0)], SHARES);
        assert_eq!(joined.iter().map(|group| group.blocks.clone()).collect::<Vec<_>>(), [vec![0, 1], vec![2], vec![3]]);
        assert_eq!(groups(&blocks, &[(0, 1), (1, 2)], SHARES).len(), 4, "two groups are too few for three sides");
        let blocks = [block(0, 50, 1), block(1, 50, 1), block(2, 2, 1), block(3, 2, 1)];
        assert_eq!(groups(&blocks, &[(0, 1)], SHARES).len(), 4, "nearly all positives would be on one side");
    }
}
