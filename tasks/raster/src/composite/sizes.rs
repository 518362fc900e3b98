//! How large the windows of a composite may be, and in which order they come: pure arithmetic over the plan.

use swath_geo::{PixelWindow, TILE, WarpMap};

use super::coarse::BLOCK;
use super::depth::BandPlan;
use super::plan::{Plan, PlannedScene};
use crate::fit::{Fit, Placement};

/// Sizes that follow from the memory the step may take.
pub struct Sizes {
    /// Side of a window that is finished in one go, a multiple of the tile.
    pub unit: usize,
    /// Side of the part of it whose observations are held together.
    pub part: usize,
    /// Pixels whose ways to other grids are kept.
    pub warped: usize,
    pub threads: usize,
}

/// Ways from grid to grid that are kept, of the largest size: of two tiles for masks and for bands.
const KEPT_WAYS: u64 = 4;

/// The scenes that touch a window, by index.
pub fn touching(plan: &Plan, unit: &PixelWindow) -> Vec<usize> {
    let bounds = plan.grid.crop(unit).bounds();
    let touches = |scene: &PlannedScene| scene.bounds.is_some_and(|b| b.intersection(&bounds).is_some());
    (0..plan.scenes.len()).filter(|index| touches(&plan.scenes[*index])).collect()
}

/// The most scenes, and the most acquisitions, that any window touches.
fn busiest(plan: &Plan) -> (u64, u64) {
    let (mut scenes, mut groups) = (1, 1);
    for unit in units(plan, 2 * TILE) {
        let found = touching(plan, &unit);
        scenes = scenes.max(found.len());
        groups = groups.max(found.chunk_by(|a, b| plan.scenes[*a].group == plan.scenes[*b].group).count());
    }
    (scenes as u64, groups as u64)
}

/// The largest windows whose buffers stay within the memory of the step.
pub fn sizes(plan: &Plan, bands: &[BandPlan], masks: &[Option<Placement>], cpus: usize) -> Sizes {
    // Code, GDAL, files, overview tiles that wait, and what the allocator holds back.
    let fixed = (48 << 20) + plan.memory / 16 + plan.memory / 8;
    let budget = plan.memory.saturating_sub(fixed).max(plan.memory / 4);
    let pixel = bands.iter().map(|band| band.depth.size()).max().unwrap_or(4) as u64;
    let (scenes, groups) = busiest(plan);
    let planes = bands.len() as u64 + 1;
    let places = || bands.iter().flat_map(|band| &band.places);
    let coarse: Vec<usize> = places().map(|place| place.fine).filter(|fine| *fine > 1).collect();
    let warped = |place: &Placement| place.fit == Fit::Warped;
    let mask_is_warped = masks.iter().flatten().any(warped);
    let fine_is_warped = places().any(|place| place.fine > 1 && warped(place))
        || bands.iter().flat_map(|band| &band.fine_masks).any(|fit| *fit == Some(Fit::Warped));
    // A mask of pixels as wide as two of the output takes a quarter.
    let mask_factor = masks.iter().flatten().map(Placement::factor).min().unwrap_or(1) as u64;
    let metres = plan.metres;
    // A window of output pixels (or `fine` finer ones) with the margin that dilation looks at.
    let wide = |side: usize, fine: usize| {
        let margin = |size: f64| (plan.rule.dilation * fine as f64 / size).ceil() as u64;
        (side as u64 + 2 * margin(metres.0)) * (side as u64 + 2 * margin(metres.1))
    };
    let block = if fine_is_warped { BLOCK / 2 } else { BLOCK };
    let widest_block = coarse.iter().map(|fine| wide(block, *fine)).max().unwrap_or(0);
    // Ways from grid to grid: of the part for bands, of the unit for masks, of the block.
    let ways = |unit: usize, part: usize| {
        let of_bands = if places().any(|place| place.fine == 1 && warped(place)) { (part * part) as u64 } else { 0 };
        let of_masks = if mask_is_warped { wide(unit, 1) } else { 0 };
        let of_blocks = if fine_is_warped { widest_block } else { 0 };
        KEPT_WAYS * of_bands.max(of_masks).max(of_blocks)
    };
    let cost = |unit: usize, part: usize| {
        let (units, parts) = ((unit * unit) as u64, (part * part) as u64);
        // Masks of the unit and the part; observations, what is being read and reduced; results, one tile apart.
        let kept = scenes * (units / (mask_factor * mask_factor) + parts) + groups * parts * pixel;
        let results = parts * 24 + units * 4 * planes + units * 4 + (8 << 20);
        // One mask while it is read and dilated: values, classes, counts along rows, the result and its inner part.
        let mask = 9 * wide(unit, 1) / (mask_factor * mask_factor);
        // One block at its own size, its mask, and the sums of the cells.
        let blocks = if coarse.is_empty() { 0 } else { (block * block) as u64 * 8 + 9 * widest_block + parts * 20 };
        // What is warped is read on the source's grid first.
        let warps = ways(unit, part);
        kept + results + mask + blocks + warps * WarpMap::BYTES as u64 + warps / KEPT_WAYS * 8
    };
    let widest = bands.iter().map(|band| band.factor).max().unwrap_or(1);
    let largest = if widest > 1 { 2 * TILE } else { TILE };
    let sizes =
        |unit: usize, part: usize, threads: usize| Sizes { unit, part, warped: ways(unit, part) as usize, threads };
    for threads in (1..=cpus).rev() {
        let mut unit = largest;
        while unit >= TILE {
            // Wide parts first: where the output begins within a block of the source, each part reads the blocks
            // at its edges again. Threads are given up before parts become narrow for the same reason.
            for part in [unit, 512, 256].into_iter().filter(|part| *part <= unit) {
                if threads as u64 * cost(unit, part) <= budget {
                    return sizes(unit, part, threads);
                }
            }
            unit /= 2;
        }
    }
    sizes(TILE, 128, 1)
}

/// The windows of `unit` pixels, on a Z-curve: those that wait for a common overview tile come close together.
pub fn units(plan: &Plan, unit: usize) -> Vec<PixelWindow> {
    let spread = |value: usize| (0..31).fold(0_u64, |bits, i| bits | ((value as u64 >> i) & 1) << (2 * i));
    let mut units = Vec::new();
    for row in (0..plan.grid.height).step_by(unit) {
        for column in (0..plan.grid.width).step_by(unit) {
            let (width, height) = (unit.min(plan.grid.width - column), unit.min(plan.grid.height - row));
            units.push(PixelWindow::new(column, row, width, height));
        }
    }
    units.sort_by_key(|window| spread(window.column / unit) | spread(window.row / unit) << 1);
    units
}
