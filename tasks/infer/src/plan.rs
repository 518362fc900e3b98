//! How much of a raster is held at once. Decided before any pixel is read, from sizes alone.
//!
//! A raster is worked through in groups of tile rows, and a group from left to right. Held at once are: the columns of
//! a group that the next tiles show (`panel`), the sums of a group's rows (or what was told of its tiles), tiles on their way to
//! and from the network, and what reading and writing need. None of them grows with the height of the raster, and only the
//! sums with its width.

use std::ops::Range;

use swath_nets::Output;
use swath_task::{Bytes, Fault};

use crate::tiling::{Axis, Tile};

/// Batches that wait for the network, besides those it computes and the one in the making.
const INPUT_QUEUE: usize = 2;
/// What may wait for stitching, so that the network goes on while finished rows are compressed.
const OUTPUT_QUEUE_BYTES: u64 = 16 << 20;
/// A group of more rows than these saves no reading worth the memory.
const MOST_ROWS: usize = 2048;
/// Rows handed to the writer at once.
pub(crate) const WRITE_ROWS: usize = 256;
/// Columns read at once, at least.
const LEAST_COLUMNS: usize = 256;

/// All sizes that decide the plan.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    /// Tiles down.
    pub rows: Axis,
    /// Tiles across.
    pub columns: Axis,
    /// What the network is shown, and tells of it.
    pub tile: Tile,
    /// Tiles the network takes at once.
    pub batch: usize,
    /// Channels in.
    pub bands: usize,
    /// Channels out.
    pub classes: usize,
    /// Width and height of the blocks the raster is stored in.
    pub block: (usize, usize),
    /// How many networks run side by side.
    pub networks: usize,
    /// Whether they run elsewhere: each holds what it sends and what comes back once more.
    pub remote: bool,
    /// What the writer and GDAL's block cache hold, bytes.
    pub writer: u64,
}

impl Sizes {
    /// Numbers that the network tells of a tile.
    pub fn answer(&self) -> usize {
        self.tile.told() * self.tile.told() * self.classes
    }
}

/// What is held at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Tile rows worked on together.
    pub group: usize,
    /// Rows of the raster that a group shows, at most.
    pub rows: usize,
    /// Columns read at once.
    pub chunk: usize,
    /// Columns held at once.
    pub width: usize,
    /// Rows read at once.
    pub slab: usize,
    /// Batches that may wait for the network.
    pub input_queue: usize,
    /// Batches that may wait for stitching.
    pub output_queue: usize,
    /// All of it in bytes.
    pub bytes: u64,
}

impl Plan {
    /// The plan that reads least twice within `memory`. `M113` when not even one row of tiles fits.
    pub fn new(sizes: &Sizes, memory: Bytes) -> Result<Self, Fault> {
        let mut best: Option<Self> = None;
        for group in 1..=sizes.rows.tiles() {
            let plan = Self::of(sizes, group, whole_blocks(sizes));
            let plan = if plan.bytes > memory.0 { Self::of(sizes, group, LEAST_COLUMNS) } else { plan };
            if plan.bytes > memory.0 || (group > 1 && plan.rows > MOST_ROWS) {
                break;
            }
            best = Some(plan);
        }
        best.ok_or_else(|| {
            let least = Self::of(sizes, 1, LEAST_COLUMNS).bytes;
            let mebibytes = least.div_ceil(1 << 20);
            let message = format!(
                "`memory: {memory}` is too little for tiles of {} px in batches of {} over {} columns: {mebibytes} MiB \
                 are needed",
                sizes.tile.size,
                sizes.batch,
                sizes.columns.length()
            );
            let others = if sizes.remote { "`tile` or `batch`, or fewer `requests`" } else { "`tile` or `batch`" };
            Fault::new("M113", message).help(format!("set `memory: {mebibytes} MiB`, or a smaller {others}"))
        })
    }

    /// What is held when `group` tile rows are worked on together and `chunk` columns read at once.
    pub fn of(sizes: &Sizes, group: usize, chunk: usize) -> Self {
        let (tile, area) = (sizes.tile.size, sizes.tile.area() as u64);
        let chunk = chunk.min(sizes.columns.length());
        let firsts = (0..sizes.rows.tiles()).step_by(group);
        let rows = firsts.map(|first| span(&sizes.rows, first, group).len()).max().unwrap_or(tile);
        let back = (0..sizes.columns.tiles())
            .map(|k| sizes.columns.start(k).saturating_sub(sizes.columns.reads(k).start))
            .max()
            .unwrap_or(0);
        let width = (back + tile + chunk).min(sizes.columns.length());
        let slab = sizes.block.1.clamp(1, 512).max(64).min(rows);
        let (bands, classes) = (sizes.bands as u64, sizes.classes as u64);
        let panel = (rows * width) as u64 * (bands * 4 + 1);
        let reading = (slab * chunk) as u64 * bands * 4;
        let (canvas, writing) = match sizes.tile.output {
            Output::Pixels => (
                (rows * sizes.columns.length()) as u64 * (classes * 4 + 1),
                (WRITE_ROWS.min(rows) * sizes.columns.length()) as u64 * classes * 4,
            ),
            Output::Image => {
                let sheet = (group * sizes.columns.tiles()) as u64 * classes * 4;
                (sheet, sheet)
            }
        };
        let input_tile = area * (bands * 4 + 1) * sizes.batch as u64;
        let output_tile = (sizes.answer() as u64 * 4 + area) * sizes.batch as u64;
        let output_queue = (OUTPUT_QUEUE_BYTES / output_tile.max(1)).clamp(2, 256) as usize;
        let inputs = input_tile * (INPUT_QUEUE + sizes.networks + 1) as u64;
        let outputs = output_tile * (output_queue + 2 * sizes.networks + 1) as u64;
        let travelling = if sizes.remote { (input_tile + output_tile) * sizes.networks as u64 } else { 0 };
        let bytes = panel + reading + canvas + writing + inputs + outputs + travelling + sizes.writer;
        Self { group, rows, chunk, width, slab, input_queue: INPUT_QUEUE, output_queue, bytes }
    }
}

/// Columns to read at once so that no block is decoded twice for its width.
fn whole_blocks(sizes: &Sizes) -> usize {
    let block = sizes.block.0.max(1);
    block * LEAST_COLUMNS.max(sizes.tile.size).div_ceil(block)
}

/// The rows of the raster that tile rows `first..first + group` show.
pub(crate) fn span(rows: &Axis, first: usize, group: usize) -> Range<usize> {
    let reads = (first..(first + group).min(rows.tiles())).map(|k| rows.reads(k));
    reads.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiling::{Blend, Edges};

    fn sizes(height: usize, width: usize, tile: usize, bands: usize, classes: usize) -> Sizes {
        let axis = |length| Axis::new(length, tile, tile / 4, Edges::Shifted, Blend::Average);
        Sizes {
            rows: axis(height),
            columns: axis(width),
            tile: Tile { size: tile, output: Output::Pixels },
            batch: 1,
            bands,
            classes,
            block: (512, 512),
            networks: 2,
            remote: false,
            writer: 96 << 20,
        }
    }

    #[test]
    fn eleven_thousand_pixels_squared_fit_half_a_gibibyte() {
        let memory = Bytes::mib(512);
        let large = Plan::new(&sizes(11_000, 11_000, 256, 10, 1), memory).unwrap();
        assert!(large.bytes <= memory.0 && large.group > 4, "{large:?}");
        // The height of the raster changes nothing.
        let taller = Plan::new(&sizes(110_000, 11_000, 256, 10, 1), memory).unwrap();
        assert_eq!(large, taller);
        let wider = Plan::new(&sizes(11_000, 60_000, 256, 10, 1), memory).unwrap();
        assert!(wider.bytes <= memory.0, "{wider:?}");
        // Sixteen requests in flight to a server.
        let served = Sizes { networks: 16, remote: true, ..sizes(11_000, 11_000, 256, 10, 1) };
        let served = Plan::new(&served, memory).unwrap();
        assert!(served.bytes <= memory.0 && served.group > 1, "{served:?}");
    }

    #[test]
    fn what_is_told_of_whole_tiles_takes_next_to_nothing() {
        let pixels = sizes(11_000, 11_000, 256, 10, 5);
        let tile = Tile { output: Output::Image, ..pixels.tile };
        let images = Plan::of(&Sizes { tile, ..pixels.clone() }, 4, 512);
        let pixels = Plan::of(&pixels, 4, 512);
        // The sums of four rows of tiles over the whole width, five classes.
        assert!(images.bytes + (800 * 11_000 * 5 * 4) < pixels.bytes, "{images:?} {pixels:?}");
        assert_eq!((images.rows, images.width), (pixels.rows, pixels.width));
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed_and_that_is_enough() {
        let sizes = sizes(5000, 5000, 1024, 13, 4);
        let fault = Plan::new(&sizes, Bytes::mib(64)).unwrap_err();
        assert_eq!(fault.code, "M113");
        let help = fault.help.unwrap();
        let needed = help.split('`').nth(1).unwrap().strip_prefix("memory: ").unwrap();
        assert!(Plan::new(&sizes, needed.parse().unwrap()).is_ok());
    }

    #[test]
    fn strips_as_wide_as_the_raster_are_read_whole_when_they_fit() {
        let mut sizes = sizes(4000, 4000, 256, 4, 1);
        sizes.block = (4000, 1);
        assert_eq!(Plan::new(&sizes, Bytes::mib(512)).unwrap().chunk, 4000);
        assert_eq!(Plan::new(&sizes, Bytes::mib(130)).unwrap().chunk, LEAST_COLUMNS);
    }
}
