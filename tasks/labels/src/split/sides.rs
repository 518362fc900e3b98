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
    /// Their negative chips.
    pub negatives: usize,
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
        group.negatives += block.negatives;
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
pub fn assign(groups: &[Group], shares: Shares, seed: u64) -> Result<Vec<SideName>, TaskError> {
    let total = |of: fn(&Group) -> usize| groups.iter().map(of).sum::<usize>();
    let totals = [total(|group| group.positives), total(|group| group.negatives)];
    let sides = shares.iter().filter(|share| **share > 0.0).count();
    for (count, what, other) in [(totals[0], "positive", "negative"), (totals[1], "negative", "positive")] {
        if count == 0 {
            let message = format!("no chip is {what}: all that could be used are {other}");
            return Err(fault("L121", message, "add an area with chips of both kinds, or look at the label"));
        }
    }
    for (what, has) in [("positive", has_positives as fn(&Group) -> bool), ("negative", has_negatives)] {
        let found = groups.iter().filter(|group| has(group)).count();
        if found < sides {
            let message = format!("{what} chips lie in {found} spatial blocks, too few for {sides} sides");
            return Err(fault(
                "L120",
                message,
                "choose a smaller `block`, add an area, or do without a test side (`test: 0`)",
            ));
        }
    }
    let best = (0..TRIES).map(|turn| attempt(groups, shares, totals, seed, turn)).min_by(|a, b| a.0.total_cmp(&b.0));
    Ok(best.map(|(_, sides)| sides).unwrap_or_default())
}

fn has_positives(group: &Group) -> bool {
    group.positives > 0
}

fn has_negatives(group: &Group) -> bool {
    group.negatives > 0
}

/// One order: how uneven it comes out, and the side of each group.
fn attempt(groups: &[Group], shares: Shares, totals: [usize; 2], seed: u64, turn: u64) -> (f64, Vec<SideName>) {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_cached_key(|index| {
        let first = groups[*index].blocks.first().copied().unwrap_or_default();
        (groups[*index].positives == 0, draw(seed, &[turn, first as u64]))
    });
    let targets = totals.map(|total| shares.map(|share| share * total as f64));
    let mut held = [[0.0; 3]; 2];
    let mut sides = vec![SideName::Train; groups.len()];
    for (place, index) in order.iter().enumerate() {
        let group = &groups[*index];
        // A group with positives goes where positives lack, any other where negatives do.
        let (kind, has) =
            if group.positives > 0 { (0, has_positives as fn(&Group) -> bool) } else { (1, has_negatives as _) };
        let left = order[place..].iter().filter(|index| has(&groups[**index])).count();
        let without = (0..3).filter(|side| shares[*side] > 0.0 && held[kind][*side] == 0.0).count();
        let may = |side: &usize| shares[*side] > 0.0 && (left > without || held[kind][*side] == 0.0);
        let lacks = |side: usize| targets[kind][side] - held[kind][side];
        let side = (0..3).filter(may).max_by(|a, b| lacks(*a).total_cmp(&lacks(*b)).then(b.cmp(a))).unwrap_or(0);
        held[0][side] += group.positives as f64;
        held[1][side] += group.negatives as f64;
        sides[*index] = SideName::ALL[side];
    }
    let uneven = |kind: usize| {
        let off = |side: usize| (held[kind][side] - targets[kind][side]) / totals[kind] as f64;
        (0..3).map(|side| off(side) * off(side)).sum::<f64>()
    };
    // A side without a kind is worse than any uneven one.
    let empty = (0..3).filter(|side| shares[*side] > 0.0 && (held[0][*side] == 0.0 || held[1][*side] == 0.0)).count();
    (uneven(0) + uneven(1) + 10.0 * empty as f64, sides)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARES: Shares = [0.7, 0.15, 0.15];

    fn block(index: usize, positives: usize, negatives: usize) -> Group {
        Group { blocks: vec![index], positives, negatives }
    }

    fn held(groups: &[Group], sides: &[SideName]) -> [[usize; 2]; 3] {
        SideName::ALL.map(|side| {
            let own = || groups.iter().zip(sides).filter(|(_, other)| **other == side).map(|(group, _)| group);
            [own().map(|group| group.positives).sum(), own().map(|group| group.negatives).sum()]
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
