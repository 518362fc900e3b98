//! Whether a raster suits a model, and how its pixels become the network's input.

use std::path::Path;

use swath_geo::{BandInfo, Raster, RasterInfo};
use swath_kinds::{ModelManifest, Normalisation, Stretch};
use swath_task::{Fault, TaskError};

use crate::prepare::Rule;
use crate::write::geo_error;

/// The pixel sizes of raster and training may differ by this share.
const GSD_TOLERANCE: f64 = 0.1;

/// Index of each of the model's bands in the raster, in the model's order.
pub(crate) fn select_bands(manifest: &ModelManifest, info: &RasterInfo) -> Result<Vec<usize>, Fault> {
    let find = |name: &str| -> Result<usize, String> {
        let mut found = info.bands.iter().enumerate().filter(|(_, band)| band.name == name).map(|(index, _)| index);
        match (found.next(), found.next()) {
            (Some(index), None) => Ok(index),
            (None, _) => Err(format!("no band `{name}`")),
            (Some(_), Some(_)) => Err(format!("more than one band `{name}`")),
        }
    };
    let found: Vec<_> = manifest.bands.iter().map(|band| find(&band.name)).collect();
    let wrong: Vec<&str> = found.iter().filter_map(|found| found.as_ref().err()).map(String::as_str).collect();
    if wrong.is_empty() {
        return Ok(found.into_iter().flatten().collect());
    }
    let name = |band: &BandInfo| if band.name.is_empty() { "(unnamed)".to_owned() } else { format!("`{}`", band.name) };
    let bands: Vec<String> = info.bands.iter().map(name).collect();
    let message = format!(
        "`{}` does not suit the model `{}`: it has {}; its bands are {}",
        info.name,
        manifest.name,
        wrong.join(" and "),
        bands.join(", ")
    );
    Err(Fault::new("M108", message)
        .help("make the raster with the bands the model's manifest names, under these names"))
}

/// Whether the raster's pixels are as large as those of the training.
pub(crate) fn check_gsd(manifest: &ModelManifest, raster: &Raster, allowed: bool) -> Result<(), TaskError> {
    let (x, y) = raster.grid().map_err(geo_error)?.metres();
    let gsd = (x * y).sqrt();
    if allowed || (gsd / manifest.gsd - 1.0).abs() <= GSD_TOLERANCE {
        return Ok(());
    }
    let message = format!(
        "`{}` has pixels of {gsd:.2} m, and the model `{}` was trained at {} m",
        raster.info().name,
        manifest.name,
        manifest.gsd
    );
    Err(Fault::new("M109", message)
        .help("resample the raster to the model's resolution, or accept the difference with `allow_gsd: true`")
        .permanent())
}

/// The limits of each of the model's bands in a stretch file.
pub(crate) fn read_stretch(path: &Path, manifest: &ModelManifest) -> Result<Vec<(f64, f64)>, Fault> {
    let wrong = |reason: String| {
        Fault::new(
            "M116",
            format!("the stretch `{}` does not suit the model `{}`: {reason}", path.display(), manifest.name),
        )
        .help("stretch the very raster that is predicted with `raster.normalise`, with all bands of the model")
    };
    if matches!(manifest.normalisation, Normalisation::Standard { .. }) {
        return Err(wrong("the model normalises by mean and standard deviation".to_owned()));
    }
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let stretch: Stretch = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let limits = |name: &str| {
        let band = stretch.bands.iter().find(|band| band.name == name);
        let band = band.ok_or_else(|| wrong(format!("it has no band `{name}`")))?;
        if band.low < band.high && band.low.is_finite() && band.high.is_finite() {
            Ok((band.low, band.high))
        } else {
            Err(wrong(format!("the limits of band `{name}` are {} and {}", band.low, band.high)))
        }
    };
    manifest.bands.iter().map(|band| limits(&band.name)).collect()
}

/// How each band's stored pixels become network input, and the value of no-data.
pub(crate) fn rules(
    manifest: &ModelManifest,
    info: &RasterInfo,
    bands: &[usize],
    limits: Option<&Vec<(f64, f64)>>,
) -> (Vec<Rule>, f32) {
    let rule = |(index, band): (usize, &usize)| {
        let BandInfo { nodata, scale, offset, .. } = info.bands[*band];
        // normalised = (pixel * scale + offset - subtract) / divide
        let (subtract, divide, unit) = match (&manifest.normalisation, limits) {
            (_, Some(limits)) => (limits[index].0, limits[index].1 - limits[index].0, true),
            (Normalisation::None { .. }, None) => (0.0, 1.0, false),
            (Normalisation::Standard { mean, std, .. }, None) => (f64::from(mean[index]), f64::from(std[index]), false),
            (Normalisation::Stretch { low, high, .. }, None) => {
                (f64::from(low[index]), f64::from(high[index]) - f64::from(low[index]), true)
            }
        };
        Rule {
            nodata: nodata.map_or(f32::NAN, |value| value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32),
            factor: (scale / divide) as f32,
            term: ((offset - subtract) / divide) as f32,
            unit,
        }
    };
    let fill = match manifest.normalisation {
        Normalisation::None { fill } | Normalisation::Standard { fill, .. } | Normalisation::Stretch { fill, .. } => {
            fill
        }
    };
    (bands.iter().enumerate().map(rule).collect(), fill)
}
