//! What types cannot say about a manifest: that its numbers and names agree with each other.

use std::collections::BTreeSet;

use crate::{BandInput, CheckpointManifest, ModelManifest, Normalisation};

/// Largest tile that memory can be planned for.
pub const LARGEST_TILE: u32 = 8192;

/// A manifest contradicts itself; the message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Contradiction(String);

type Checked = Result<(), Contradiction>;

impl ModelManifest {
    /// Whether its numbers and names agree with each other. Nothing outside of it is looked at.
    pub fn check(&self) -> Checked {
        if self.name.trim().is_empty() {
            return wrong("`name` is empty".to_owned());
        }
        fed_and_told(&self.bands, &self.normalisation, &self.classes, self.gsd)?;
        let (bands, classes) = (self.bands.len(), self.classes.len());
        if self.input.channels as usize != bands {
            return wrong(format!("`input.channels` is {}, but `bands` names {bands}", self.input.channels));
        }
        if self.output.channels as usize != classes {
            return wrong(format!("`output.channels` is {}, but `classes` names {classes}", self.output.channels));
        }
        let (size, multiple) = (self.tile.size, self.tile.multiple_of);
        tile("tile.size", size)?;
        if multiple != 0 && size % multiple != 0 {
            return wrong(format!("`tile.size` is {size}, which is no multiple of `tile.multiple_of`, {multiple}"));
        }
        Ok(())
    }
}

impl CheckpointManifest {
    /// Whether its numbers and names agree with each other. Nothing outside of it is looked at.
    pub fn check(&self) -> Checked {
        fed_and_told(&self.bands, &self.normalisation, &self.classes, self.gsd)?;
        tile("tile", self.tile)
    }
}

fn wrong(reason: String) -> Checked {
    Err(Contradiction(reason))
}

fn fed_and_told(bands: &[BandInput], normalisation: &Normalisation, classes: &[String], gsd: f64) -> Checked {
    if bands.is_empty() {
        return wrong("`bands` is empty: name the bands the network was trained on, in order".to_owned());
    }
    unique("bands", bands.iter().map(|band| band.name.as_str()))?;
    if classes.is_empty() {
        return wrong("`classes` is empty: name the output channels".to_owned());
    }
    unique("classes", classes.iter().map(String::as_str))?;
    if !(gsd.is_finite() && gsd > 0.0) {
        return wrong(format!("`gsd` is {gsd}, which is not a size of a pixel in metres"));
    }
    normalised(normalisation, bands.len())
}

fn tile(field: &str, size: u32) -> Checked {
    match size {
        1..=LARGEST_TILE => Ok(()),
        _ => wrong(format!("`{field}` is {size}, which is not from 1 to {LARGEST_TILE}")),
    }
}

fn unique<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Checked {
    let mut seen = BTreeSet::new();
    for (index, name) in names.enumerate() {
        if name.trim().is_empty() {
            return wrong(format!("`{field}[{index}]` has no name"));
        }
        if !seen.insert(name) {
            return wrong(format!("`{field}` names `{name}` twice"));
        }
    }
    Ok(())
}

fn normalised(normalisation: &Normalisation, bands: usize) -> Checked {
    let numbers = |field: &str, values: &[f32]| -> Checked {
        if values.len() != bands {
            return wrong(format!("`normalisation.{field}` has {} numbers for {bands} bands", values.len()));
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => wrong(format!("`normalisation.{field}[{index}]` is not a finite number")),
            None => Ok(()),
        }
    };
    let fill = match normalisation {
        Normalisation::None { fill } => *fill,
        Normalisation::Standard { mean, std, fill } => {
            numbers("mean", mean)?;
            numbers("std", std)?;
            if let Some(index) = std.iter().position(|value| *value <= 0.0) {
                return wrong(format!("`normalisation.std[{index}]` is {}, which is not above 0", std[index]));
            }
            *fill
        }
        Normalisation::Stretch { low, high, fill } => {
            numbers("low", low)?;
            numbers("high", high)?;
            if let Some(index) = low.iter().zip(high).position(|(low, high)| low >= high) {
                return wrong(format!(
                    "`normalisation.high[{index}]` is {}, which is not above `low`, {}",
                    high[index], low[index]
                ));
            }
            *fill
        }
    };
    if fill.is_finite() { Ok(()) } else { wrong("`normalisation.fill` is not a finite number".to_owned()) }
}
