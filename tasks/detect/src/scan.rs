//! Reads a band in strips on several threads and traces it on one: decoding ahead while tracing.
//!
//! Each reader has the raster open for itself and takes every n-th strip of block rows; what goes through the channels
//! is runs, not pixels. A reader holds one panel of a strip (a block, or some) and the strip's runs: memory does not
//! depend on the size of the raster.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use swath_geo::{DataType, PixelWindow, Raster};
use swath_task::{Context, Fault, TaskError};

use crate::faults::geo_fault;
use crate::runs::{self, Run, RunRows, not_a_probability};
use crate::trace::{self, Component, Connectivity, Limits, Tracer};

/// Most pixels of a panel. Larger blocks are read in parts.
const PANEL_PIXELS: usize = 8 << 20;
/// Pixels of a strip that make it worth sending.
const STRIP_PIXELS: usize = 512 << 10;
/// Runs sent at once; a strip without noise has fewer.
const BATCH: usize = 32 << 10;

/// What to look for, and where.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    /// The raster.
    pub path: &'a Path,
    /// Band, from 0.
    pub band: usize,
    /// Greater than this is inside.
    pub threshold: f32,
    /// Which pixels touch.
    pub connectivity: Connectivity,
    /// Limits of the pass.
    pub limits: Limits,
}

/// What a scan found.
#[derive(Debug)]
pub struct Found {
    /// Components worth keeping, in the order they closed.
    pub components: Vec<Component>,
    /// Components in all, noise included.
    pub all: u64,
    /// Pixels that hold a value.
    pub valid: u64,
}

struct Batch {
    rows: RunRows,
    valid: u64,
}

/// Runs the pass.
pub fn scan(scan: &Scan, ctx: &Context) -> Result<Found, TaskError> {
    let first = open(scan)?;
    let (width, height) = (first.info().width, first.info().height);
    let strip = strip_rows(width, first.info().block);
    let readers = ctx.cpus().min(height.div_ceil(strip));
    std::thread::scope(|scope| {
        let mut raster = Some(first);
        let mut inputs = Vec::with_capacity(readers);
        for reader in 0..readers {
            let (sender, receiver) = sync_channel(8);
            let raster = raster.take();
            inputs.push(receiver);
            scope.spawn(move || {
                let opened = raster.map_or_else(|| open(scan), Ok);
                let strips = (0..height).step_by(strip).skip(reader).step_by(readers);
                let result = opened.and_then(|raster| read(scan, &raster, strips, strip, &sender));
                if let Err(error) = result {
                    // A consumer that has stopped already has an error of its own.
                    let _ = sender.send(Err(error));
                }
            });
        }
        // Dropping the receivers, on any way out, stops the readers.
        consume(scan, ctx, inputs, height, strip)
    })
}

fn open(scan: &Scan) -> Result<Raster, TaskError> {
    Raster::open_path(scan.path).map_err(geo_fault)
}

/// Rows of a strip: whole rows of blocks, several where they are low or the raster is narrow.
fn strip_rows(width: usize, (block_width, block_height): (usize, usize)) -> usize {
    if block_width * block_height > PANEL_PIXELS {
        return (PANEL_PIXELS / block_width).max(1);
    }
    let wanted = STRIP_PIXELS.div_ceil(width).min(PANEL_PIXELS / block_width);
    block_height * (wanted / block_height).max(1)
}

/// Reads strips into runs. Stops without an error when nobody listens any more.
fn read(
    scan: &Scan,
    raster: &Raster,
    strips: impl Iterator<Item = usize>,
    strip: usize,
    sender: &SyncSender<Result<Batch, TaskError>>,
) -> Result<(), TaskError> {
    let info = raster.info();
    let block_width = info.block.0.min(info.width);
    // Several narrow blocks make a panel.
    let panel = (block_width * (256 / block_width).max(1)).min(info.width);
    let mut pixels = vec![0f32; panel * strip.min(info.height)];
    let mut block = Vec::new();
    let mut lines: Vec<Vec<Run>> = vec![Vec::new(); strip.min(info.height)];
    for row in strips {
        let rows = strip.min(info.height - row);
        let mut batch = Batch { rows: RunRows::default(), valid: 0 };
        for column in (0..info.width).step_by(panel) {
            let window = PixelWindow::new(column, row, panel.min(info.width - column), rows);
            let pixels = &mut pixels[..window.len()];
            fill(raster, scan.band, &window, pixels, &mut block)?;
            batch.valid += probabilities(scan, raster, &window, pixels)?;
            for (values, line) in pixels.chunks_exact(window.width).zip(&mut lines) {
                runs::append(line, values, column as u32, scan.threshold);
            }
        }
        for line in &mut lines[..rows] {
            batch.rows.push(line);
            line.clear();
            if batch.rows.len() >= BATCH {
                let full = std::mem::replace(&mut batch, Batch { rows: RunRows::default(), valid: 0 });
                if sender.send(Ok(full)).is_err() {
                    return Ok(());
                }
            }
        }
        if sender.send(Ok(batch)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Turns pixels into probabilities, NaN where there is no data. Returns how many have a value.
fn probabilities(scan: &Scan, raster: &Raster, window: &PixelWindow, pixels: &mut [f32]) -> Result<u64, TaskError> {
    let info = raster.info();
    let band = &info.bands[scan.band];
    if let Some(nodata) = band.nodata.map(|value| value as f32).filter(|value| !value.is_nan()) {
        pixels.iter_mut().for_each(|value| *value = if *value == nodata { f32::NAN } else { *value });
    }
    let (scale, offset) = (band.scale as f32, band.offset as f32);
    if (scale, offset) != (1.0, 0.0) {
        pixels.iter_mut().for_each(|value| *value = *value * scale + offset);
    }
    if let Some((index, value)) = not_a_probability(pixels) {
        let (column, row) = (window.column + index % window.width, window.row + index / window.width);
        let message = format!(
            "band {} of `{}` holds {value} at column {column}, row {row}: probabilities lie between 0 and 1",
            scan.band + 1,
            info.name
        );
        let help = "connect the probabilities of `infer.segment`; logits need a sigmoid, bytes a scale of 1/255, \
                    and a no-data value must be told in the file";
        return Err(Fault::new("D101", message).help(help).permanent());
    }
    Ok(pixels.iter().map(|value| u64::from(!value.is_nan())).sum())
}

/// Reads a window of a band. Whole blocks of floats go past GDAL's cache: each is read once.
fn fill(
    raster: &Raster,
    band: usize,
    window: &PixelWindow,
    pixels: &mut [f32],
    block: &mut Vec<f32>,
) -> Result<(), TaskError> {
    let info = raster.info();
    let (block_width, block_height) = info.block;
    let (right, bottom) = (window.column + window.width, window.row + window.height);
    let whole = window.column.is_multiple_of(block_width)
        && window.row.is_multiple_of(block_height)
        && (right.is_multiple_of(block_width) || right == info.width)
        && (bottom.is_multiple_of(block_height) || bottom == info.height);
    let floats = info.bands[band].data_type == DataType::F32 && !info.pixel_interleaved;
    if !whole || !floats || block_width * block_height > PANEL_PIXELS {
        return raster.read(band, window, pixels).map_err(geo_fault);
    }
    block.resize(block_width * block_height, 0.0);
    for top in (window.row..bottom).step_by(block_height) {
        for left in (window.column..right).step_by(block_width) {
            raster.read_block(band, left / block_width, top / block_height, block).map_err(geo_fault)?;
            let width = block_width.min(right - left);
            for line in 0..block_height.min(bottom - top) {
                let to = (top - window.row + line) * window.width + left - window.column;
                pixels[to..to + width].copy_from_slice(&block[line * block_width..][..width]);
            }
        }
    }
    Ok(())
}

fn consume(
    scan: &Scan,
    ctx: &Context,
    inputs: Vec<Receiver<Result<Batch, TaskError>>>,
    height: usize,
    strip: usize,
) -> Result<Found, TaskError> {
    let mut tracer = Tracer::new(scan.connectivity, scan.limits);
    let mut valid = 0;
    for (index, row) in (0..height).step_by(strip).enumerate() {
        let mut missing = strip.min(height - row);
        while missing > 0 {
            ctx.check_cancelled()?;
            let batch = inputs[index % inputs.len()]
                .recv()
                .map_err(|_| Fault::new("E202", "a thread that reads the raster ended early").transient(None))??;
            missing -= batch.rows.rows();
            valid += batch.valid;
            for runs in batch.rows.iter() {
                tracer.push_row(runs).map_err(|error| limit_fault(error, scan))?;
            }
        }
        ctx.progress((height.min(row + strip)) as u64, height as u64, "rows");
    }
    let (components, all) = tracer.finish().map_err(|error| limit_fault(error, scan))?;
    Ok(Found { components, all, valid })
}

fn limit_fault(error: trace::Error, scan: &Scan) -> TaskError {
    let name = scan.path.file_name().unwrap_or_default().to_string_lossy();
    match error {
        trace::Error::Candidates(limit) => Fault::new(
            "D104",
            format!(
                "more than {limit} areas of `{name}` lie above the threshold {} (`max_candidates`)",
                scan.threshold
            ),
        )
        .help("raise `threshold` or `min_pixels`; if there really are so many objects, raise `max_candidates`"),
        trace::Error::Corners(limit) => Fault::new(
            "D105",
            format!(
                "the outlines above the threshold {} in `{name}` have more than {limit} corners (`max_corners`)",
                scan.threshold
            ),
        )
        .help("this is noise rather than objects: raise `threshold`, or smooth the probabilities"),
    }
    .permanent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_are_whole_rows_of_blocks_and_panels_are_bounded() {
        for (width, block) in [
            (4096, (512, 512)),
            (1_000_000, (512, 512)),
            (1, (1, 1)),
            (1, (1, 8)),
            (100_000, (100_000, 1)),
            (900, (900, 9)),
            (300, (16, 16)),
            (11_000, (11_000, 11_000)),
            (i32::MAX as usize, (i32::MAX as usize, 1)),
        ] {
            let strip = strip_rows(width, block);
            assert!(
                strip > 0 && (strip.is_multiple_of(block.1) || block.0 * block.1 > PANEL_PIXELS),
                "{width} {block:?}"
            );
            assert!(strip * block.0 <= PANEL_PIXELS || strip == 1, "{width} {block:?}: {strip}");
        }
    }
}
