//! Reads a band in strips on several threads and traces it on one: decoding ahead while tracing.
//!
//! Each reader has the raster open for itself and takes every n-th strip of block rows; what goes through the channels
//! is runs, not pixels. Memory is one strip for each reader and the tracer's own, whatever the size of the raster.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use swath_geo::{PixelWindow, Raster};
use swath_task::{Context, Fault, TaskError};

use crate::faults::geo_fault;
use crate::runs::{RunRows, not_a_probability};
use crate::trace::{self, Component, Connectivity, Limits, Tracer};

/// A strip takes at most this many pixels, or one row.
const STRIP_PIXELS: usize = 8 << 20;
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
    let strip = strip_rows(width, first.info().block.1);
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

/// Rows of a strip: whole rows of blocks, as many as make up half a megapixel and more where blocks are low.
fn strip_rows(width: usize, block: usize) -> usize {
    let block = block.max(1);
    if width * block > STRIP_PIXELS {
        return (STRIP_PIXELS / width).max(1);
    }
    let wanted = (512 << 10) / width.max(1);
    block * wanted.div_ceil(block).clamp(1, (STRIP_PIXELS / (width * block)).max(1))
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
    let band = &info.bands[scan.band];
    let nodata = band.nodata.map(|value| value as f32).filter(|value| !value.is_nan());
    let (scale, offset) = (band.scale as f32, band.offset as f32);
    let mut pixels = vec![0f32; info.width * strip.min(info.height)];
    let mut block = Vec::new();
    for row in strips {
        let rows = strip.min(info.height - row);
        let pixels = &mut pixels[..info.width * rows];
        fill(raster, scan.band, row, rows, pixels, &mut block)?;
        if let Some(nodata) = nodata {
            pixels.iter_mut().for_each(|value| *value = if *value == nodata { f32::NAN } else { *value });
        }
        if (scale, offset) != (1.0, 0.0) {
            pixels.iter_mut().for_each(|value| *value = *value * scale + offset);
        }
        if let Some((index, value)) = not_a_probability(pixels) {
            let (column, row) = (index % info.width, row + index / info.width);
            let message = format!(
                "band {} of `{}` holds {value} at column {column}, row {row}: probabilities lie between 0 and 1",
                scan.band + 1,
                info.name
            );
            let help = "connect the probabilities of `infer.segment`; logits need a sigmoid, bytes a scale of 1/255, \
                        and a no-data value must be told in the file";
            return Err(Fault::new("D101", message).help(help).permanent());
        }
        let mut batch = Batch { rows: RunRows::default(), valid: 0 };
        for row in pixels.chunks_exact(info.width) {
            batch.rows.push_row(row, scan.threshold);
            batch.valid += row.iter().map(|value| u64::from(!value.is_nan())).sum::<u64>();
            if batch.rows.len() >= BATCH {
                let full = std::mem::replace(&mut batch, Batch { rows: RunRows::default(), valid: 0 });
                if sender.send(Ok(full)).is_err() {
                    return Ok(());
                }
            }
        }
        if batch.rows.rows() > 0 && sender.send(Ok(batch)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads rows of a band. Whole blocks of floats go past GDAL's cache: each is read once.
fn fill(
    raster: &Raster,
    band: usize,
    row: usize,
    rows: usize,
    pixels: &mut [f32],
    block: &mut Vec<f32>,
) -> Result<(), TaskError> {
    let info = raster.info();
    let (block_width, block_height) = info.block;
    let whole = row.is_multiple_of(block_height) && (rows.is_multiple_of(block_height) || row + rows == info.height);
    let direct = info.bands[band].data_type == swath_geo::DataType::F32 && !info.pixel_interleaved;
    if !whole || !direct || block_width * block_height > STRIP_PIXELS {
        return raster.read(band, &PixelWindow::new(0, row, info.width, rows), pixels).map_err(geo_fault);
    }
    block.resize(block_width * block_height, 0.0);
    for top in (row..row + rows).step_by(block_height) {
        for left in (0..info.width).step_by(block_width) {
            raster.read_block(band, left / block_width, top / block_height, block).map_err(geo_fault)?;
            let width = block_width.min(info.width - left);
            for line in 0..block_height.min(row + rows - top) {
                let to = (top - row + line) * info.width + left;
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
        .help("this is noise rather than objects: raise `threshold`, or smooth the probabilities; `max_corners` costs about 40 bytes a corner"),
    }
    .permanent()
}
