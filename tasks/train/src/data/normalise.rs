//! Band values to network input: the rules of a checkpoint, from the statistics of a dataset.

use swath_datasets::{BandStatistics, DatasetManifest};
use swath_kinds::Normalisation;
use swath_task::{Fault, TaskError};

use crate::settings::NormaliseBy;

/// The normalisation that a checkpoint keeps. No data becomes 0, which is the mean, or the lower end of the stretch.
pub(crate) fn normalisation(by: NormaliseBy, dataset: &DatasetManifest) -> Result<Normalisation, TaskError> {
    let statistics = &dataset.statistics;
    let wrong = |message: String, help: &str| Fault::new("N107", message).help(help).permanent();
    let told = |band: &&String| statistics.iter().all(|statistics| statistics.band != **band || statistics.count == 0);
    let bare = by == NormaliseBy::None;
    if let Some(band) = dataset.bands.iter().find(told).filter(|_| !bare) {
        let message = format!("the dataset has no statistics of the band `{band}`: no training chip has data in it");
        return Err(wrong(message, "leave the band out of the raster, or set `normalisation: { method: none }`"));
    }
    let each = |of: &dyn Fn(&BandStatistics) -> f64| -> Vec<f32> {
        let find = |band: &String| statistics.iter().find(|statistics| statistics.band == *band);
        dataset.bands.iter().filter_map(find).map(|statistics| of(statistics) as f32).collect()
    };
    Ok(match by {
        NormaliseBy::None => Normalisation::None { fill: 0.0 },
        NormaliseBy::Standard => {
            let mut std = each(&|statistics| statistics.std);
            for (std, band) in std.iter_mut().zip(&dataset.bands) {
                if *std <= 0.0 {
                    tracing::warn!("the band `{band}` has the same value in all training chips: it tells nothing");
                    *std = 1.0;
                }
            }
            Normalisation::Standard { mean: each(&|statistics| statistics.mean), std, fill: 0.0 }
        }
        NormaliseBy::Stretch { low, high } => {
            let has = |wanted: f64| {
                statistics
                    .iter()
                    .all(|statistics| statistics.percentiles.iter().any(|[percentile, _]| *percentile == wanted))
            };
            if let Some(missing) = [low, high].into_iter().find(|wanted| !has(*wanted)) {
                let first = statistics.first().map(|statistics| statistics.percentiles.as_slice()).unwrap_or_default();
                let there: Vec<String> = first.iter().map(|[percentile, _]| percentile.to_string()).collect();
                let message = format!("the dataset has no percentile {missing}; it has {}", there.join(", "));
                return Err(wrong(message, "take one of these, or ask for others in `dataset.split`"));
            }
            let at = |wanted: f64| {
                each(&|statistics| {
                    let found = statistics.percentiles.iter().find(|[percentile, _]| *percentile == wanted);
                    found.map_or(f64::NAN, |[_, value]| *value)
                })
            };
            let (low, high) = (at(low), at(high));
            if let Some(flat) = low.iter().zip(&high).position(|(low, high)| high <= low) {
                let message = format!(
                    "band `{}` is {} at both percentiles: it cannot be stretched",
                    dataset.bands[flat], low[flat]
                );
                return Err(wrong(message, "take percentiles farther apart, or `method: standard`"));
            }
            Normalisation::Stretch { low, high, fill: 0.0 }
        }
    })
}

/// What becomes of the values of one band: `(x - less) / by`, within 0 and 1 if so asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    less: f32,
    by: f32,
    within: bool,
}

/// A rule for each of `bands`, and the value of no data.
pub(super) fn rules(normalisation: &Normalisation, bands: usize) -> (Vec<Rule>, f32) {
    let rule = |less: f32, by: f32, within| Rule { less, by, within };
    match normalisation {
        Normalisation::None { fill } => (vec![rule(0.0, 1.0, false); bands], *fill),
        Normalisation::Standard { mean, std, fill } => {
            (mean.iter().zip(std).map(|(mean, std)| rule(*mean, *std, false)).collect(), *fill)
        }
        Normalisation::Stretch { low, high, fill } => {
            (low.iter().zip(high).map(|(low, high)| rule(*low, high - low, true)).collect(), *fill)
        }
    }
}

impl Rule {
    /// Normalises in place, raised by `raise`; what is no number becomes `fill`.
    pub fn apply(self, values: &mut [f32], raise: f32, fill: f32) {
        for value in values {
            let normal = (*value - self.less) / self.by;
            let normal = if self.within { normal.clamp(0.0, 1.0) } else { normal };
            *value = if value.is_finite() { normal + raise } else { fill };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_becomes_the_fill() {
        let stretch = Normalisation::Stretch { low: vec![1.0], high: vec![3.0], fill: -9.0 };
        let (rules, fill) = rules(&stretch, 1);
        let mut values = [0.0, 1.5, 4.0, f32::NAN, f32::INFINITY];
        rules[0].apply(&mut values, 0.0, fill);
        assert_eq!(values, [0.0, 0.25, 1.0, -9.0, -9.0]);
        let standard = Normalisation::Standard { mean: vec![2.0], std: vec![0.5], fill: 0.0 };
        let (rules, fill) = self::rules(&standard, 1);
        let mut values = [2.0, 3.0, f32::NAN];
        rules[0].apply(&mut values, 0.25, fill);
        assert_eq!(values, [0.25, 2.25, 0.0]);
    }
}
