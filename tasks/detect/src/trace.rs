//! Connected components and their outlines in one pass over the rows, top to bottom.
//!
//! Components are joined by union-find over runs; outlines grow as chains of corners at the vertical edges of the
//! current row (the two-arm chains of GDAL's polygonizer) and close when a sweep along a row boundary joins both ends
//! of one chain. A component is handed out, or dropped as noise, at the first row it does not reach: memory holds the
//! components that are still open and the ones worth keeping, never the raster.
//!
//! Two levels of union-find live side by side: *parts* (joined by pixel edges: each is one polygon with a connected
//! interior) and *components* (joined by the connectivity asked for: each is one detection). With 4-connectivity both
//! are the same. At a corner where only diagonal pixels are set, outlines keep to their own pixel; where such a corner
//! visits one ring twice it is cut in two later ([`crate::rings`]), so that polygons are valid with both connectivities.
//!
//! Invariants:
//! 1. Every vertical edge of the current row holds exactly one open chain end: a head at a left edge (the chain runs
//!    down, the component on its left hand), a tail at a right edge.
//! 2. `nodes[head].partner == tail` and `nodes[tail].partner == head` for every open chain.
//! 3. A component is open exactly while a run of the latest row belongs to it; when it closes, all its rings have closed.
//! 4. Every label and every node of a closed component is free again.

use crate::rings::{self, Corner, Polygon};
use crate::runs::Run;

const NONE: u32 = u32::MAX;
/// Corners where the outline touches itself or a neighbour carry this bit in their column: columns stay below 2^31.
const PINCH: u32 = 1 << 31;

/// Which pixels touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// By edges.
    Four,
    /// By edges and corners.
    Eight,
}

/// Limits of one pass. Reaching one is an error: the result would not be the whole truth.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Components smaller than this many pixels are noise and dropped.
    pub min_pixels: u64,
    /// Most components kept.
    pub candidates: u64,
    /// Most corners held at once, open outlines and kept ones together.
    pub corners: u64,
}

/// Why a pass stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More components than [`Limits::candidates`].
    #[error("more than {0} components")]
    Candidates(u64),
    /// More corners than [`Limits::corners`].
    #[error("outlines of more than {0} corners")]
    Corners(u64),
}

/// A connected component, closed.
#[derive(Clone, Debug, PartialEq)]
pub struct Component {
    /// Pixels in it.
    pub pixels: u64,
    /// Sum of its values.
    pub sum: f64,
    /// Greatest value.
    pub max: f32,
    /// First column, first row, one past the last column, one past the last row.
    pub bounds: [u32; 4],
    /// Its outline in pixel corners: one polygon, or with 8-connectivity one for each part joined by pixel edges.
    pub polygons: Vec<Polygon>,
}

#[derive(Clone, Copy)]
struct Node {
    column: u32,
    row: u32,
    next: u32,
    partner: u32,
}

#[derive(Clone, Copy)]
struct Ring {
    start: u32,
    label: u32,
    next: u32,
}

/// Chains of indices, joined in constant time.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

#[derive(Clone, Copy)]
struct Label {
    part: u32,
    component: u32,
    next_member: u32,
    last_member: u32,
    live: u32,
    rings: List,
    bounds: [u32; 4],
    max: f32,
    pixels: u64,
    sum: f64,
}

/// A run of the current row with its chain ends.
#[derive(Clone, Copy)]
struct Active {
    start: u32,
    end: u32,
    label: u32,
    left: u32,
    right: u32,
}

/// The pass. Feed it rows from the top, then call [`Tracer::finish`].
pub struct Tracer {
    connectivity: Connectivity,
    limits: Limits,
    row: u32,
    above: Vec<Active>,
    current: Vec<Active>,
    labels: Slab<Label>,
    nodes: Slab<Node>,
    rings: Slab<Ring>,
    kept: Vec<Component>,
    kept_corners: u64,
    components: u64,
}

impl Tracer {
    /// A pass that has seen no row.
    pub fn new(connectivity: Connectivity, limits: Limits) -> Self {
        Self {
            connectivity,
            limits,
            row: 0,
            above: Vec::new(),
            current: Vec::new(),
            labels: Slab::new(),
            nodes: Slab::new(),
            rings: Slab::new(),
            kept: Vec::new(),
            kept_corners: 0,
            components: 0,
        }
    }

    /// Takes the next row: its runs, maximal and sorted.
    pub fn push_row(&mut self, runs: &[Run]) -> Result<(), Error> {
        self.label(runs);
        self.sweep();
        self.close()?;
        std::mem::swap(&mut self.above, &mut self.current);
        self.row += 1;
        Ok(())
    }

    /// Closes what the last row left open and returns every component kept, in the order they closed, and how many
    /// components there were in all.
    pub fn finish(mut self) -> Result<(Vec<Component>, u64), Error> {
        self.push_row(&[])?;
        debug_assert_eq!(self.labels.live() + self.nodes.live() + self.rings.live(), 0, "invariant 4");
        Ok((self.kept, self.components))
    }

    /// Gives every run of the row a label, that of the row above where it can, joining what it touches.
    fn label(&mut self, runs: &[Run]) {
        let reach = u32::from(self.connectivity == Connectivity::Eight);
        self.current.clear();
        let mut first = 0;
        for run in runs {
            // Runs of the row above that end before this one can touch it are done with: they touch none after it.
            while first < self.above.len() && self.above[first].end + reach <= run.start {
                first += 1;
            }
            let touching = self.above[first..].iter().take_while(|other| other.start < run.end + reach).count();
            let touching = first..first + touching;
            let shares_edge = |other: &Active| other.start < run.end && run.start < other.end;
            let label = match self.above[touching.clone()].iter().find(|other| shares_edge(other)) {
                Some(other) => self.extend(other.label, run),
                None => self.new_label(run),
            };
            for at in touching {
                let other = self.above[at];
                if shares_edge(&other) {
                    self.join_parts(label, other.label);
                }
                self.join_components(label, other.label);
            }
            self.current.push(Active { start: run.start, end: run.end, label, left: NONE, right: NONE });
        }
    }

    /// Adds a run to the component of `label`.
    fn extend(&mut self, label: u32, run: &Run) -> u32 {
        let root = self.component(label);
        let (row, root) = (self.row, &mut self.labels[root]);
        root.live += 1;
        root.pixels += u64::from(run.end - run.start);
        root.sum += run.sum;
        root.max = root.max.max(run.max);
        root.bounds = [root.bounds[0].min(run.start), root.bounds[1], root.bounds[2].max(run.end), row + 1];
        label
    }

    fn new_label(&mut self, run: &Run) -> u32 {
        let label = Label {
            part: 0,
            component: 0,
            next_member: NONE,
            last_member: 0,
            live: 1,
            rings: List { first: NONE, last: NONE },
            bounds: [run.start, self.row, run.end, self.row + 1],
            max: run.max,
            pixels: u64::from(run.end - run.start),
            sum: run.sum,
        };
        let id = self.labels.insert(label);
        let label = &mut self.labels[id];
        (label.part, label.component, label.last_member) = (id, id, id);
        id
    }

    fn join_parts(&mut self, a: u32, b: u32) {
        let (a, b) = (self.part(a), self.part(b));
        if a != b {
            self.labels[a].part = b;
        }
    }

    /// The older label (`b`, of the row above) stays the root: sums are added in row order whatever the strips.
    fn join_components(&mut self, a: u32, b: u32) {
        let (a, b) = (self.component(a), self.component(b));
        if a == b {
            return;
        }
        let from = self.labels[a];
        self.labels[a].component = b;
        let last = self.labels[b].last_member;
        self.labels[last].next_member = a;
        let into = &mut self.labels[b];
        into.last_member = from.last_member;
        into.live += from.live;
        into.pixels += from.pixels;
        into.sum += from.sum;
        into.max = into.max.max(from.max);
        let (own, other) = (into.bounds, from.bounds);
        into.bounds = [own[0].min(other[0]), own[1].min(other[1]), own[2].max(other[2]), own[3].max(other[3])];
        if from.rings.first != NONE {
            let own = into.rings;
            into.rings = List { first: if own.first == NONE { from.rings.first } else { own.first }, ..from.rings };
            if own.first != NONE {
                self.rings[own.last].next = from.rings.first;
            }
        }
    }

    fn part(&mut self, mut id: u32) -> u32 {
        while self.labels[id].part != id {
            let up = self.labels[id].part;
            self.labels[id].part = self.labels[up].part;
            id = up;
        }
        id
    }

    fn component(&mut self, mut id: u32) -> u32 {
        while self.labels[id].component != id {
            let up = self.labels[id].component;
            self.labels[id].component = self.labels[up].component;
            id = up;
        }
        id
    }

    /// Sweeps the boundary between the row above and the current one, left to right, growing and joining chains.
    /// `flight` is the open end that travels along the boundary: the head of a lower edge (running right) or the tail
    /// of an upper edge (running left).
    fn sweep(&mut self) {
        let (mut up, mut down) = (0, 0);
        let (mut in_up, mut in_down) = (false, false);
        let mut flight = NONE;
        loop {
            let next_up = self.above.get(up).map(|run| if in_up { run.end } else { run.start });
            let next_down = self.current.get(down).map(|run| if in_down { run.end } else { run.start });
            let x = match (next_up, next_down) {
                (None, None) => break,
                (Some(x), None) | (None, Some(x)) => x,
                (Some(a), Some(b)) => a.min(b),
            };
            let (edge_up, edge_down) = (next_up == Some(x), next_down == Some(x));
            match (edge_up, edge_down) {
                (true, true) if in_up == in_down => {
                    if in_up {
                        self.current[down].right = self.above[up].right;
                    } else {
                        self.current[down].left = self.above[up].left;
                    }
                }
                (true, true) if in_up => {
                    // Set: upper left and lower right. The upper ring turns up here, a new chain starts below.
                    let head = self.grow_head(flight, x | PINCH);
                    self.join(head, self.above[up].right, self.above[up].label);
                    flight = self.start_chain(x | PINCH);
                    self.current[down].left = flight;
                }
                (true, true) => {
                    // Set: lower left and upper right.
                    self.current[down].right = self.grow_tail(flight, x | PINCH);
                    flight = self.grow_head(self.above[up].left, x | PINCH);
                }
                (true, false) => {
                    let run = self.above[up];
                    flight = match (in_up, in_down) {
                        (false, true) => {
                            let head = self.grow_head(run.left, x);
                            self.join(head, flight, run.label);
                            NONE
                        }
                        (false, false) => self.grow_head(run.left, x),
                        (true, true) => self.grow_tail(run.right, x),
                        (true, false) => {
                            let head = self.grow_head(flight, x);
                            self.join(head, run.right, run.label);
                            NONE
                        }
                    };
                }
                (false, true) => match (in_down, in_up) {
                    (false, true) => {
                        self.current[down].left = self.grow_head(flight, x);
                        flight = NONE;
                    }
                    (false, false) => {
                        flight = self.start_chain(x);
                        self.current[down].left = flight;
                    }
                    (true, true) => {
                        flight = self.start_chain(x);
                        self.current[down].right = flight;
                    }
                    (true, false) => {
                        self.current[down].right = self.grow_tail(flight, x);
                        flight = NONE;
                    }
                },
                (false, false) => break,
            }
            if edge_up {
                up += usize::from(in_up);
                in_up = !in_up;
            }
            if edge_down {
                down += usize::from(in_down);
                in_down = !in_down;
            }
        }
        debug_assert_eq!(flight, NONE, "a row boundary ends with no chain in flight");
        debug_assert!(self.current.iter().all(|run| run.left != NONE && run.right != NONE), "invariant 1");
    }

    fn start_chain(&mut self, column: u32) -> u32 {
        let id = self.nodes.insert(Node { column, row: self.row, next: NONE, partner: NONE });
        self.nodes[id].partner = id;
        id
    }

    fn grow_head(&mut self, head: u32, column: u32) -> u32 {
        let tail = self.nodes[head].partner;
        let id = self.nodes.insert(Node { column, row: self.row, next: NONE, partner: tail });
        self.nodes[head].next = id;
        self.nodes[tail].partner = id;
        id
    }

    fn grow_tail(&mut self, tail: u32, column: u32) -> u32 {
        let head = self.nodes[tail].partner;
        let id = self.nodes.insert(Node { column, row: self.row, next: tail, partner: head });
        self.nodes[head].partner = id;
        id
    }

    /// Joins the head of a chain to the tail of a chain; of one chain, it closes a ring of the component of `label`.
    fn join(&mut self, head: u32, tail: u32, label: u32) {
        let (first, last) = (self.nodes[head].partner, self.nodes[tail].partner);
        debug_assert!(self.nodes[first].partner == head && self.nodes[last].partner == tail, "invariant 2");
        self.nodes[head].next = tail;
        if first != tail {
            self.nodes[first].partner = last;
            self.nodes[last].partner = first;
            return;
        }
        let ring = self.rings.insert(Ring { start: tail, label, next: NONE });
        let root = self.component(label);
        let list = &mut self.labels[root].rings;
        let last = std::mem::replace(&mut list.last, ring);
        if last == NONE {
            list.first = ring;
        } else {
            self.rings[last].next = ring;
        }
    }

    /// Closes the components that the current row does not reach.
    fn close(&mut self) -> Result<(), Error> {
        for index in 0..self.above.len() {
            let root = self.component(self.above[index].label);
            self.labels[root].live -= 1;
            if self.labels[root].live == 0 {
                self.components += 1;
                let keep = self.labels[root].pixels >= self.limits.min_pixels;
                if keep && self.kept.len() as u64 == self.limits.candidates {
                    return Err(Error::Candidates(self.limits.candidates));
                }
                self.release(root, keep);
            }
        }
        if self.nodes.live() as u64 + self.kept_corners > self.limits.corners {
            return Err(Error::Corners(self.limits.corners));
        }
        Ok(())
    }

    /// Frees a component, keeping its outline when it is worth it.
    fn release(&mut self, root: u32, keep: bool) {
        let label = self.labels[root];
        let mut outlines = Vec::new();
        let mut ring = label.rings.first;
        while ring != NONE {
            let Ring { start, label, next } = self.rings.remove(ring);
            let part = self.part(label);
            let mut corners = Vec::new();
            let mut node = start;
            loop {
                let Node { column, row, next, .. } = self.nodes.remove(node);
                if keep {
                    corners.push(Corner { column: column & !PINCH, row, pinch: column & PINCH != 0 });
                }
                node = next;
                if node == start {
                    break;
                }
            }
            if keep {
                outlines.push((part, corners));
            }
            ring = next;
        }
        let mut member = root;
        while member != NONE {
            member = self.labels.remove(member).next_member;
        }
        if keep {
            let polygons = rings::assemble(outlines);
            self.kept_corners += polygons.iter().map(|polygon| polygon.corners() as u64).sum::<u64>();
            let Label { pixels, sum, max, bounds, .. } = label;
            self.kept.push(Component { pixels, sum, max, bounds, polygons });
        }
    }
}

/// Values with stable indices; freed places are used again.
struct Slab<T> {
    values: Vec<T>,
    free: Vec<u32>,
}

impl<T: Copy> Slab<T> {
    fn new() -> Self {
        Self { values: Vec::new(), free: Vec::new() }
    }

    fn live(&self) -> usize {
        self.values.len() - self.free.len()
    }

    fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.values[id as usize] = value;
                id
            }
            None => {
                self.values.push(value);
                (self.values.len() - 1) as u32
            }
        }
    }

    fn remove(&mut self, id: u32) -> T {
        self.free.push(id);
        self.values[id as usize]
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, id: u32) -> &T {
        &self.values[id as usize]
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, id: u32) -> &mut T {
        &mut self.values[id as usize]
    }
}

#[cfg(test)]
mod tests;
