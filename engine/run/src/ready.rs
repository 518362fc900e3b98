//! The queue of ready instances: first come, first served, a million instances of one step in one entry.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    step: u32,
    from: u32,
    to: u32,
}

/// Ranges of ready instances in the order in which they became ready.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ready {
    ranges: VecDeque<Range>,
    count: u64,
}

impl Ready {
    /// Adds instances `from..to` of a step.
    pub fn push(&mut self, step: u32, from: u32, to: u32) {
        if from >= to {
            return;
        }
        self.count += u64::from(to - from);
        match self.ranges.back_mut() {
            // Neighbours that become ready one after the other share an entry: a lifted step taken up again stays small.
            Some(last) if last.step == step && last.to == from => last.to = to,
            _ => self.ranges.push_back(Range { step, from, to }),
        }
    }

    /// Takes one instance out; whether it was in.
    pub fn remove(&mut self, step: u32, index: u32) -> bool {
        let holds = |r: &Range| r.step == step && (r.from..r.to).contains(&index);
        let Some(at) = self.ranges.iter().position(holds) else { return false };
        let range = self.ranges[at];
        self.count -= 1;
        match (index == range.from, index + 1 == range.to) {
            (true, true) if at == 0 => drop(self.ranges.pop_front()),
            (true, true) => drop(self.ranges.remove(at)),
            (true, false) => self.ranges[at].from += 1,
            (false, true) => self.ranges[at].to -= 1,
            (false, false) => {
                self.ranges[at].to = index;
                self.ranges.insert(at + 1, Range { step, from: index + 1, to: range.to });
            }
        }
        true
    }

    /// The first instance of every entry, in order.
    pub fn heads(&self) -> impl Iterator<Item = (u32, u32)> {
        self.ranges.iter().map(|range| (range.step, range.from))
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.count = 0;
    }

    /// Instances in the queue.
    pub fn len(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_that_come_one_by_one_share_an_entry() {
        let mut ready = Ready::default();
        (0..1_000).for_each(|index| ready.push(7, index, index + 1));
        ready.push(7, 5, 5);
        ready.push(8, 1_000, 1_001);
        assert_eq!(ready.heads().collect::<Vec<_>>(), [(7, 0), (8, 1_000)]);
        assert_eq!(ready.len(), 1_001);
    }

    #[test]
    fn taking_from_the_middle_keeps_the_rest_in_order() {
        let mut ready = Ready::default();
        ready.push(0, 0, 5);
        ready.push(1, 0, 1);
        for (index, taken) in [(2, true), (2, false), (0, true), (4, true), (7, false)] {
            assert_eq!(ready.remove(0, index), taken, "{index}");
        }
        assert_eq!(ready.heads().collect::<Vec<_>>(), [(0, 1), (0, 3), (1, 0)]);
        assert_eq!(ready.len(), 3);
        assert!(ready.remove(0, 1) && ready.remove(1, 0) && ready.remove(0, 3));
        assert_eq!((ready.len(), ready.heads().count()), (0, 0));
    }
}
