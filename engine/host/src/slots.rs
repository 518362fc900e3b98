//! Slots: how much of the machine the running attempts hold, and who may start next.
//!
//! Invariant I10: what is in use never exceeds what there is, except that one attempt which asks for more memory than
//! there is is admitted while no other holds any (it would wait for ever otherwise).
//!
//! Whatever fits may start, so that the machine is busy. One that has waited too long for that is put first: until it starts,
//! or wants to no more, nobody takes of what it lacks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use swath_task::{Bytes, Needs};

/// What the machine (or the operator) gives to all attempts together.
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// CPU cores.
    pub cpu: f32,
    /// Memory.
    pub memory: Bytes,
    /// GPUs.
    pub gpu: f32,
    /// Named limits; a name that is not listed is not limited.
    pub limits: BTreeMap<String, u32>,
}

impl Capacity {
    /// What this machine has: its cores, and the memory that the kernel says is available now, within the control group
    /// of this process (a container's limit).
    pub fn of_this_machine() -> Self {
        let cpu = std::thread::available_parallelism().map_or(1, |n| n.get());
        let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        let available = available.unwrap_or(4 << 20) << 10;
        let group = std::fs::read_to_string("/proc/self/cgroup").ok();
        let group = group.and_then(|text| left_in_groups(Path::new("/sys/fs/cgroup"), &text));
        let memory = Bytes(available.min(group.unwrap_or(u64::MAX)));
        Self { cpu: cpu as f32, memory, gpu: 0.0, limits: BTreeMap::new() }
    }
}

/// The least memory that a control group (version 2) of this process, or one above it, leaves. `None` when none limits it.
fn left_in_groups(root: &Path, membership: &str) -> Option<u64> {
    let group = membership.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left = |folder: &Path| {
        let limit = number(folder.join("memory.max"))?;
        Some(limit.saturating_sub(number(folder.join("memory.current")).unwrap_or(0)))
    };
    let group = root.join(group);
    group.ancestors().take_while(|folder| folder.starts_with(root)).filter_map(left).min()
}

/// What one attempt holds; given back with [`Slots::release`].
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    needs: Needs,
    /// Threads the attempt may keep busy.
    pub cpus: usize,
    /// GPUs by index, and how much of each.
    gpus: Vec<(usize, f32)>,
}

impl Held {
    /// The GPUs it may use, by index.
    pub fn gpus(&self) -> Vec<u32> {
        self.gpus.iter().map(|(gpu, _)| *gpu as u32).collect()
    }
}

/// The ledger.
#[derive(Debug)]
pub struct Slots {
    capacity: Capacity,
    cpu: f32,
    memory: u64,
    /// How much of each GPU is in use.
    gpus: Vec<f32>,
    limits: BTreeMap<String, u32>,
    holders: usize,
    /// Whom nobody passes, and what that one lacks.
    first: Option<(Ticket, Missing)>,
    tickets: Ticket,
}

/// Whom nobody passes.
pub(crate) type Ticket = u64;

impl Slots {
    /// All free.
    pub fn new(capacity: Capacity) -> Self {
        let gpus = vec![0.0; capacity.gpu.ceil().max(0.0) as usize];
        Self { capacity, cpu: 0.0, memory: 0, gpus, limits: BTreeMap::new(), holders: 0, first: None, tickets: 0 }
    }

    /// GPUs for a wish: as many whole ones as it holds, and for the rest the one that it fills best. An attempt never gets
    /// parts of several: what is left of two is no whole.
    fn choose_gpus(&self, wish: f32) -> Option<Vec<(usize, f32)>> {
        const NEAR: f32 = 1e-4;
        let room = |gpu: usize| (self.capacity.gpu - gpu as f32).min(1.0) - self.gpus[gpu];
        let whole = (wish + NEAR).floor() as usize;
        let rest = (wish - whole as f32).max(0.0);
        let free = (0..self.gpus.len()).filter(|gpu| room(*gpu) > 1.0 - NEAR);
        let mut chosen: Vec<(usize, f32)> = free.take(whole).map(|gpu| (gpu, 1.0)).collect();
        if chosen.len() < whole {
            return None;
        }
        if rest > NEAR {
            let fits = |gpu: &usize| room(*gpu) > rest - NEAR && !chosen.iter().any(|(taken, _)| taken == gpu);
            let best = (0..self.gpus.len()).filter(fits).min_by(|one, other| room(*one).total_cmp(&room(*other)))?;
            chosen.push((best, rest));
        }
        Some(chosen)
    }

    /// Takes `needs` if they are free. `Err` names what is missing, for "why is it not running".
    pub fn take(&mut self, needs: &Needs) -> Result<Held, Missing> {
        match &self.first {
            Some((_, lacks)) if lacks.is_of(needs) => Err(Missing::Turn),
            _ => self.take_what_is_free(needs),
        }
    }

    /// As [`Self::take`], for whoever has been put first.
    pub(crate) fn take_first(&mut self, ticket: Ticket, needs: &Needs) -> Result<Held, Missing> {
        if self.first.as_ref().is_none_or(|(first, _)| *first != ticket) {
            return self.take(needs);
        }
        self.take_what_is_free(needs).inspect_err(|missing| self.first = Some((ticket, missing.clone())))
    }

    /// Puts one that lacks something first, unless another one is.
    pub(crate) fn put_first(&mut self, lacks: &Missing) -> Option<Ticket> {
        if self.first.is_some() {
            return None;
        }
        self.tickets += 1;
        self.first = Some((self.tickets, lacks.clone()));
        Some(self.tickets)
    }

    /// Lets others pass again.
    pub(crate) fn step_back(&mut self, ticket: Ticket) {
        self.first.take_if(|(first, _)| *first == ticket);
    }

    fn take_what_is_free(&mut self, needs: &Needs) -> Result<Held, Missing> {
        let mut needs = needs.clone();
        // A wish beyond the machine is a wish for all of it.
        needs.cpu = needs.cpu.clamp(0.0, self.capacity.cpu);
        // Attempts that hold no memory (sub-flows, whose steps hold theirs) crowd nobody.
        let alone = self.memory == 0;
        if self.cpu + needs.cpu > self.capacity.cpu + 1e-4 {
            return Err(Missing::Cpu);
        }
        let crowded = self.memory.saturating_add(needs.memory.0) > self.capacity.memory.0;
        if needs.memory.0 > 0 && crowded && !alone {
            return Err(Missing::Memory);
        }
        let Some(gpus) = self.choose_gpus(needs.gpu) else { return Err(Missing::Gpu) };
        for (name, amount) in &needs.limits {
            let Some(limit) = self.capacity.limits.get(name) else { continue };
            if self.limits.get(name).copied().unwrap_or(0).saturating_add(*amount) > *limit {
                return Err(Missing::Limit(name.clone()));
            }
        }
        self.cpu += needs.cpu;
        self.memory = self.memory.saturating_add(needs.memory.0);
        gpus.iter().for_each(|(gpu, part)| self.gpus[*gpu] += part);
        for (name, amount) in &needs.limits {
            *self.limits.entry(name.clone()).or_default() += amount;
        }
        self.holders += 1;
        Ok(Held { cpus: (needs.cpu.round() as usize).max(1), needs, gpus })
    }

    /// Whether `needs` can ever be met: a step that waits for a GPU on a machine without one never starts.
    pub fn possible(&self, needs: &Needs) -> Result<(), Beyond> {
        if needs.gpu > self.capacity.gpu {
            return Err(Beyond::Gpu);
        }
        let beyond = needs
            .limits
            .iter()
            .find(|(name, amount)| self.capacity.limits.get(*name).is_some_and(|limit| *amount > limit));
        beyond.map_or(Ok(()), |(name, _)| Err(Beyond::Limit(name.clone())))
    }

    /// Gives back what an attempt held.
    pub fn release(&mut self, held: Held) {
        self.cpu = (self.cpu - held.needs.cpu).max(0.0);
        self.memory = self.memory.saturating_sub(held.needs.memory.0);
        held.gpus.iter().for_each(|(gpu, part)| self.gpus[*gpu] = (self.gpus[*gpu] - part).max(0.0));
        for (name, amount) in &held.needs.limits {
            if let Some(used) = self.limits.get_mut(name) {
                *used = used.saturating_sub(*amount);
            }
        }
        self.holders -= 1;
        if self.holders == 0 {
            // Sums of floats drift; an empty ledger is exactly empty.
            self.cpu = 0.0;
            self.gpus.fill(0.0);
        }
    }

    /// What there is and how much of it is held. A wish for more memory than there is is admitted alone: more is held then.
    pub fn in_use(&self) -> Vec<SlotUse> {
        let slot = |name: &str, used, capacity| SlotUse { name: name.to_owned(), used, capacity };
        let named = self.capacity.limits.iter().map(|(name, limit)| {
            let used = self.limits.get(name).copied().unwrap_or(0);
            slot(name, f64::from(used), f64::from(*limit))
        });
        let machine = [
            slot("cpu", f64::from(self.cpu), f64::from(self.capacity.cpu)),
            slot("memory", self.memory as f64, self.capacity.memory.0 as f64),
            slot("gpu", f64::from(self.gpus.iter().fold(0.0, |sum, used| sum + used)), f64::from(self.capacity.gpu)),
        ];
        machine.into_iter().chain(named).collect()
    }

    /// Attempts that hold something now.
    pub fn holders(&self) -> usize {
        self.holders
    }
}

/// One kind of slot: cores, bytes of memory, GPUs, or units of a named limit.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotUse {
    /// `cpu`, `memory`, `gpu`, or the name of the limit.
    pub name: String,
    /// Held by attempts.
    pub used: f64,
    /// What there is.
    pub capacity: f64,
}

/// What an attempt waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// CPU cores.
    Cpu,
    /// Memory.
    Memory,
    /// A GPU.
    Gpu,
    /// A named limit.
    Limit(String),
    /// The start of one that has waited long, and needs what this one would take.
    Turn,
    /// The end of another sub-flow of the run: so many may go on at a time.
    SubFlow,
    /// The end of equal work that this run does, whose result will be taken.
    EqualWork(String),
}

impl Missing {
    /// Whether `needs` take of what is missing.
    fn is_of(&self, needs: &Needs) -> bool {
        match self {
            Self::Cpu => needs.cpu > 0.0,
            Self::Memory => needs.memory.0 > 0,
            Self::Gpu => needs.gpu > 0.0,
            Self::Limit(name) => needs.limits.get(name).is_some_and(|amount| *amount > 0),
            Self::Turn | Self::SubFlow | Self::EqualWork(_) => false,
        }
    }
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("CPU cores, which other attempts hold"),
            Self::Memory => f.write_str("memory, which other attempts hold"),
            Self::Gpu => f.write_str("a GPU, which other attempts hold"),
            Self::Limit(name) => write!(f, "the limit `{name}`, which other attempts hold"),
            Self::Turn => f.write_str("its turn: an attempt that has waited longer needs what this one would take"),
            Self::EqualWork(run) => write!(f, "the result of equal work, which run `{run}` does now"),
            Self::SubFlow => f.write_str("another sub-flow of the run to end: as many run as may"),
        }
    }
}

/// What there is too little of, however long an attempt waits. A wish for more cores or memory than there are is met alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// GPUs.
    Gpu,
    /// A named limit.
    Limit(String),
}

impl std::fmt::Display for Beyond {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gpu => f.write_str("GPU"),
            Self::Limit(name) => write!(f, "limit `{name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots() -> Slots {
        let limits = BTreeMap::from([("server".to_owned(), 2)]);
        Slots::new(Capacity { cpu: 4.0, memory: Bytes::mib(1000), gpu: 1.0, limits })
    }

    #[test]
    fn what_is_in_use_never_exceeds_what_there_is() {
        let mut slots = slots();
        let half = Needs { gpu: 0.5, ..Needs::new(1.5, Bytes::mib(400)) };
        let first = slots.take(&half).unwrap();
        let second = slots.take(&half).unwrap();
        assert_eq!(slots.take(&half), Err(Missing::Cpu));
        assert_eq!(slots.take(&Needs::new(1.0, Bytes::mib(400))), Err(Missing::Memory));
        assert_eq!(slots.take(&Needs { gpu: 0.5, ..Needs::waiting() }), Err(Missing::Gpu));
        slots.release(first);
        let third = slots.take(&half).unwrap();
        for held in [second, third] {
            slots.release(held);
        }
        assert_eq!(slots.holders(), 0);
        let all = slots.take(&Needs::all_cores(Bytes::mib(5000))).unwrap();
        assert_eq!(all.cpus, 4, "a wish beyond the machine is admitted alone, with all it has");
        assert!(slots.take(&Needs::default()).is_err());
        slots.take(&Needs::waiting()).unwrap();
    }

    #[test]
    fn nobody_passes_one_that_has_waited_too_long() {
        let mut slots = slots();
        let (small, large) = (Needs::new(1.0, Bytes::mib(300)), Needs::new(1.0, Bytes::mib(900)));
        let held = slots.take(&small).unwrap();
        let lacks = slots.take(&large).unwrap_err();
        assert_eq!(lacks, Missing::Memory);
        let other = slots.take(&small).unwrap();
        let ticket = slots.put_first(&lacks).unwrap();
        assert_eq!(slots.put_first(&Missing::Cpu), None, "one is first");
        slots.release(held);
        assert_eq!(slots.take(&small), Err(Missing::Turn), "it would fit");
        let busy = slots.take(&Needs::new(2.0, Bytes(0))).unwrap();
        assert_eq!(slots.take_first(ticket, &large), Err(Missing::Memory));
        slots.release(other);
        assert_eq!(
            slots.take_first(ticket, &Needs::new(3.0, Bytes::mib(900))),
            Err(Missing::Cpu),
            "now it lacks a core"
        );
        assert_eq!(slots.take(&Needs::new(1.0, Bytes(0))), Err(Missing::Turn));
        slots.release(busy);
        let first = slots.take_first(ticket, &large).unwrap();
        assert_eq!(slots.take(&Needs::new(1.0, Bytes(0))), Err(Missing::Turn), "it has not stepped back yet");
        slots.step_back(ticket);
        slots.step_back(ticket);
        assert_eq!(slots.take(&small), Err(Missing::Memory));
        slots.release(first);
        slots.take(&small).unwrap();
    }

    #[test]
    fn an_attempt_gets_whole_gpus_or_a_share_of_one_by_index() {
        let needs = |gpu| Needs { gpu, ..Needs::waiting() };
        let mut slots = Slots::new(Capacity { gpu: 3.0, ..slots().capacity });
        let half = slots.take(&needs(0.5)).unwrap();
        assert_eq!(slots.take(&needs(0.5)).unwrap().gpus(), half.gpus(), "two halves share one");
        let two = slots.take(&needs(2.0)).unwrap();
        assert_eq!((half.gpus(), two.gpus()), (vec![0], vec![1, 2]));
        assert_eq!(slots.take(&needs(0.1)), Err(Missing::Gpu));
        slots.release(two);
        let most = slots.take(&needs(0.6)).unwrap();
        let other = slots.take(&needs(0.6)).unwrap();
        assert_ne!(most.gpus(), other.gpus());
        assert_eq!(slots.take(&needs(0.6)), Err(Missing::Gpu), "what is left of two is no whole");
        slots.release(half);
        assert_eq!(slots.take(&needs(0.5)).unwrap().gpus(), [0]);
        slots.release(most);
        slots.release(other);
        assert_eq!(slots.take(&needs(1.5)).unwrap().gpus(), [1, 2]);
        let mut part = Slots::new(Capacity { gpu: 0.5, ..self::slots().capacity });
        assert_eq!(part.take(&needs(0.6)), Err(Missing::Gpu));
        assert_eq!(part.take(&needs(0.5)).unwrap().gpus(), [0]);
    }

    #[test]
    fn one_that_asks_for_more_memory_than_there_is_starts_beside_those_that_hold_none() {
        let mut slots = slots();
        let _sub_flow = slots.take(&Needs::waiting()).unwrap();
        let huge = slots.take(&Needs::new(1.0, Bytes::mib(5000))).unwrap();
        assert_eq!(slots.take(&Needs::new(1.0, Bytes::mib(1))), Err(Missing::Memory));
        slots.release(huge);
        slots.take(&Needs::new(1.0, Bytes::mib(1))).unwrap();
    }

    #[test]
    fn the_memory_of_a_container_is_what_its_tightest_group_leaves() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        std::fs::create_dir_all(&inner).unwrap();
        let write = |path: &str, text: &str| std::fs::write(root.path().join(path), text).unwrap();
        assert_eq!(left_in_groups(root.path(), "0::/outer/inner\n"), None);
        write("outer/inner/memory.max", "max\n");
        write("outer/memory.max", "1000\n");
        write("outer/memory.current", "300\n");
        assert_eq!(left_in_groups(root.path(), "0::/outer/inner\n"), Some(700));
        write("outer/inner/memory.max", "500\n");
        assert_eq!(left_in_groups(root.path(), "1:name=systemd:/\n0::/outer/inner\n"), Some(500));
        assert_eq!(left_in_groups(root.path(), "4:memory:/old\n"), None);
    }

    #[test]
    fn a_named_limit_counts_over_all_holders() {
        let mut slots = slots();
        let needs = |n| Needs { limits: BTreeMap::from([("server".to_owned(), n)]), ..Needs::waiting() };
        let one = slots.take(&needs(1)).unwrap();
        assert_eq!(slots.take(&needs(2)), Err(Missing::Limit("server".into())));
        slots.take(&needs(1)).unwrap();
        assert_eq!(slots.take(&needs(1)), Err(Missing::Limit("server".into())));
        slots.release(one);
        slots.take(&needs(1)).unwrap();
        assert_eq!(slots.possible(&needs(3)), Err(Beyond::Limit("server".into())));
        assert_eq!(slots.possible(&Needs { gpu: 2.0, ..Needs::waiting() }), Err(Beyond::Gpu));
    }
}
