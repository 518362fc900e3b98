//! What a server tells of a model, held against the manifest.

use swath_kinds::{ModelManifest, TensorSpec};
use swath_task::Fault;

use super::wire::{Config, Described, End};
use crate::tiling::Tile;

/// The protocol's name of 32-bit floats.
pub(crate) const FLOAT: &str = "FP32";

/// How a served model takes tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// It takes this many tiles at once, no more and no fewer.
    pub fixed_batch: Option<usize>,
    /// It takes this many at most.
    pub largest_batch: Option<usize>,
}

/// Checks what a server tells against the manifest and the tile. `place` is where the model is, for messages.
pub(crate) fn check(
    told: &Described,
    config: Option<&Config>,
    manifest: &ModelManifest,
    tile: Tile,
    place: &str,
) -> Result<Fit, Fault> {
    let mismatch = |reason: String| {
        Fault::new("M122", format!("{place} is not the model of the manifest: {reason}"))
            .help("serve the model folder that the flow names, or name the folder that is served")
    };
    let input = end("input", &told.inputs, &manifest.input, (tile, tile.size)).map_err(mismatch)?;
    let output = end("output", &told.outputs, &manifest.output, (tile, tile.told())).map_err(mismatch)?;
    if let (Some(input), Some(output)) = (input, output)
        && input != output
    {
        return Err(mismatch(format!("it takes {input} tiles at once and returns {output}")));
    }
    if let Some(digest) = config.and_then(|config| config.digest.as_deref())
        && digest != manifest.digest.to_string()
    {
        let wanted = manifest.digest;
        return Err(mismatch(format!("its network has the digest `{digest}`, in the manifest it is `{wanted}`")));
    }
    let largest_batch = config.map(|config| config.largest_batch).filter(|largest| *largest > 0);
    // Where the server batches, a first side that is free is the batch, up to the largest.
    Ok(Fit { fixed_batch: input, largest_batch })
}

/// Checks one end. Returns the batch when it is fixed.
fn end(what: &str, ends: &[End], spec: &TensorSpec, (tile, side): (Tile, usize)) -> Result<Option<usize>, String> {
    let [end] = ends else {
        let names: Vec<&str> = ends.iter().map(|end| end.name.as_str()).collect();
        return Err(format!("it has {} {what}s (`{}`), not one", ends.len(), names.join("`, `")));
    };
    if end.name != spec.name {
        return Err(format!("its {what} is called `{}`, not `{}`", end.name, spec.name));
    }
    if end.datatype != FLOAT {
        return Err(format!("its {what} `{}` is of type {}, not {FLOAT}", end.name, end.datatype));
    }
    let wanted = [-1, i64::from(spec.channels), side as i64, side as i64];
    let fits = |(got, want): (&i64, i64)| *got == -1 || *got == want || (want == -1 && *got > 0);
    if end.shape.len() != wanted.len() || !end.shape.iter().zip(wanted).all(fits) {
        return Err(format!(
            "its {what} `{}` has shape {:?}, which does not take [batch, {}, {side}, {side}]{}",
            end.name,
            end.shape,
            spec.channels,
            if what == "output" { tile.other_task(&end.shape) } else { "" }
        ));
    }
    Ok(usize::try_from(end.shape[0]).ok())
}
