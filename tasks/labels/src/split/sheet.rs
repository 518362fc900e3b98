//! The contact sheet: some chips of each side, with the outline of their label.
//!
//! For each side a row of positives and one of negatives, evenly taken from the side. Frames are blue for training, green for
//! validation, red for test; bright around positives. Yellow outlines what belongs to class 1 or a site, other colours other
//! classes, orange what is ambiguous; what has no label is dimmed.

use std::io::BufWriter;
use std::path::Path;

use swath_datasets::{ChipRef, ChipSet, DatasetManifest, POSITIVE_ABOVE, SideName};
use swath_task::TaskError;

use crate::faults::{fault, set_fault};

/// Chips in a row.
const COLUMNS: usize = 8;
/// Pixels of a chip on the sheet.
const CELL: usize = 160;
/// Pixels of the frame around a chip, and of the space around that.
const FRAME: usize = 3;
const SPACE: usize = 5;

type Colour = [u8; 3];

const PAPER: Colour = [24, 24, 28];
const EMPTY: Colour = [60, 60, 66];
/// Of class 1, 2 and on.
const CLASSES: [Colour; 8] = [
    [255, 225, 0],
    [0, 230, 230],
    [255, 90, 220],
    [150, 255, 90],
    [170, 140, 255],
    [255, 255, 255],
    [255, 120, 120],
    [90, 170, 255],
];
const AMBIGUOUS: Colour = [255, 140, 0];

fn frame(side: SideName, positive: bool) -> Colour {
    let bright = match side {
        SideName::Train => [70, 150, 255],
        SideName::Validation => [70, 220, 110],
        SideName::Test => [255, 90, 80],
    };
    if positive { bright } else { bright.map(|channel| channel / 3) }
}

/// Draws the sheet of a dataset whose statistics are known.
pub fn write(dataset: &DatasetManifest, sets: &[ChipSet], path: &Path) -> Result<(), TaskError> {
    let rows = SideName::ALL.iter().flat_map(|side| [true, false].map(|positive| (*side, positive)));
    let rows: Vec<(SideName, bool, Vec<&ChipRef>)> = rows
        .map(|(side, positive)| {
            let own = dataset.sides.get(side).chips.iter().filter(|chip| chip.positive == positive);
            (side, positive, some(own.collect()))
        })
        .filter(|(_, _, chips)| !chips.is_empty())
        .collect();
    let step = CELL + 2 * FRAME + SPACE;
    let (width, height) = (COLUMNS * step + SPACE, rows.len() * step + SPACE);
    let mut pixels = vec![PAPER; width * height];
    let manifest = sets[0].manifest();
    let bands = dataset.natural_colours();
    let limits = bands.map(|band| limits(dataset, band));
    let mut label = vec![0.0; manifest.label_len()];
    let mut planes = [label.clone(), label.clone(), label.clone()];
    let mut scratch = Vec::new();
    for (row, (side, positive, chips)) in rows.iter().enumerate() {
        for (column, chip) in chips.iter().enumerate() {
            let set = &sets[chip.set];
            set.read_label(chip.chip, &mut label, &mut scratch).map_err(set_fault)?;
            for (band, plane) in bands.iter().zip(&mut planes) {
                set.read_bands(chip.chip, *band, plane, &mut scratch).map_err(set_fault)?;
            }
            let picture = picture(planes.each_ref().map(Vec::as_slice), limits, &label, manifest.size);
            let (left, top) = (SPACE + column * step, SPACE + row * step);
            for y in 0..CELL + 2 * FRAME {
                for x in 0..CELL + 2 * FRAME {
                    let inside = (FRAME..CELL + FRAME).contains(&x) && (FRAME..CELL + FRAME).contains(&y);
                    let colour = if inside { picture[(y - FRAME) * CELL + x - FRAME] } else { frame(*side, *positive) };
                    pixels[(top + y) * width + left + x] = colour;
                }
            }
        }
    }
    save(path, width, height, pixels.as_flattened())
}

/// As many as fit into a row, evenly taken.
fn some(chips: Vec<&ChipRef>) -> Vec<&ChipRef> {
    let count = chips.len().min(COLUMNS);
    (0..count).map(|place| chips[place * chips.len() / count]).collect()
}

/// The second and second to last percentile of a band over the training side.
fn limits(dataset: &DatasetManifest, band: usize) -> [f64; 2] {
    let percentiles =
        dataset.statistics.get(band).map(|statistics| statistics.percentiles.as_slice()).unwrap_or_default();
    let at =
        |wanted: f64| percentiles.iter().find(|[percentile, _]| *percentile == wanted).map_or(0.0, |[_, value]| *value);
    [at(2.0), at(98.0)]
}

/// What a label belongs to, if to anything. Of two that meet, the higher one is outlined.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Area {
    Ambiguous,
    Class(usize),
}

fn area(value: f32) -> Option<Area> {
    if value > POSITIVE_ABOVE {
        return Some(Area::Class(value.round() as usize));
    }
    (value > 0.0).then_some(Area::Ambiguous)
}

/// A chip of `side` pixels as a picture of [`CELL`], outlined.
fn picture(planes: [&[f32]; 3], limits: [[f64; 2]; 3], label: &[f32], side: usize) -> Vec<Colour> {
    let span = |place: usize| (place * side / CELL, ((place + 1) * side / CELL).max(place * side / CELL + 1));
    let tone = |plane: &[f32], [low, high]: [f64; 2], x: usize, y: usize| {
        let ((left, right), (top, bottom)) = (span(x), span(y));
        let values = (top..bottom).flat_map(|row| &plane[row * side + left..row * side + right]);
        let (count, sum) = values
            .filter(|value| !value.is_nan())
            .fold((0.0, 0.0), |(count, sum), value| (count + 1.0, sum + f64::from(*value)));
        let share = if high > low { (sum / count - low) / (high - low) } else { 0.5 };
        (count > 0.0).then(|| (share.clamp(0.0, 1.0) * 255.0).round() as u8)
    };
    let value = |x: usize, y: usize| label[(2 * y + 1) * side / (2 * CELL) * side + (2 * x + 1) * side / (2 * CELL)];
    // Of an area, beside what is not of it.
    let edge = |x: usize, y: usize, own: Option<Area>| {
        let (x, y) = (x as i64, y as i64);
        let beyond = |dx: i64, dy: i64| {
            let (x, y) = (x + dx, y + dy);
            let inside = (0..CELL as i64).contains(&x) && (0..CELL as i64).contains(&y);
            inside && area(value(x as usize, y as usize)) < own
        };
        [(0, 1), (1, 0), (0, -1), (-1, 0)].iter().any(|(dx, dy)| beyond(*dx, *dy))
    };
    let draw = |place: usize| {
        let (x, y) = (place % CELL, place / CELL);
        let own = area(value(x, y));
        if let Some(area) = own.filter(|_| edge(x, y, own)) {
            return match area {
                Area::Ambiguous => AMBIGUOUS,
                Area::Class(class) => CLASSES[class.saturating_sub(1) % CLASSES.len()],
            };
        }
        match [0, 1, 2].map(|channel| tone(planes[channel], limits[channel], x, y)) {
            [Some(red), Some(green), Some(blue)] if value(x, y).is_nan() => [red, green, blue].map(|tone| tone / 3),
            [Some(red), Some(green), Some(blue)] => [red, green, blue],
            _ => EMPTY,
        }
    };
    (0..CELL * CELL).map(draw).collect()
}

fn save(path: &Path, width: usize, height: usize, pixels: &[u8]) -> Result<(), TaskError> {
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("cannot write `{}`: {error}", path.display());
        fault("L131", message, "free disk space or choose a folder that can be written")
    };
    let file = std::fs::File::create(path).map_err(|error| failed(&error))?;
    let mut encoder = png::Encoder::new(BufWriter::new(file), width as u32, height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(|error| failed(&error))?;
    writer.write_image_data(pixels).map_err(|error| failed(&error))?;
    writer.finish().map_err(|error| failed(&error))
}
