//! The sky of a date: clouds, their shadows and rims, and the wedge that an orbit's edge leaves without data. Decided
//! once for each cell of 20 m, the size of the scene classification: what it calls clear is clear in every band.

use crate::noise::{fractal, hash, unit};

/// Metres over which clouds vary.
const CLOUD_SIZE: f64 = 3000.0;
/// Where the shadow's cloud is, seen from the shadow, metres: the sun stands in the south-east.
const TO_THE_CLOUD: (f64, f64) = (500.0, -800.0);

/// The sky over one place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sky {
    /// Nothing was recorded.
    NoData,
    Clear,
    /// In the shadow of a cloud.
    Shadow,
    /// Thin cloud at the rim of a thick one.
    Cirrus,
    /// Thick cloud of this reflectance; near its rim it is classed as less certain.
    Cloud {
        reflectance: f32,
        rim: bool,
    },
}

impl Sky {
    /// Class in Sentinel-2's scene classification; `None` where the ground decides.
    pub fn scene_class(self) -> Option<u8> {
        match self {
            Self::NoData => Some(0),
            Self::Clear => None,
            Self::Shadow => Some(3),
            Self::Cirrus => Some(10),
            Self::Cloud { rim: true, .. } => Some(8),
            Self::Cloud { rim: false, .. } => Some(9),
        }
    }

    /// Reflectance seen through it, of ground of reflectance `ground`. `noise` is that of the sensor.
    pub fn seen(self, ground: f32, noise: f32) -> f32 {
        match self {
            Self::NoData => 0.0,
            Self::Clear => ground + noise,
            Self::Shadow => 0.45 * ground + noise,
            Self::Cirrus => ground + 0.05,
            Self::Cloud { reflectance, .. } => reflectance + 0.1 * ground,
        }
    }
}

/// The weather of a date over a square.
pub(crate) struct Weather {
    seed: u64,
    threshold: f32,
    wedge: Option<Wedge>,
}

/// Places with `(x - x0) + slope * (y - y0) < 0` (or `> 0`) have no data.
struct Wedge {
    x: f64,
    y: f64,
    slope: f64,
    east: bool,
}

impl Weather {
    /// Weather of date number `date` with clouds over about `cover` of the square, and a wedge on every second date.
    pub fn new(seed: u64, date: usize, cover: f64, left: f64, top: f64, side: f64, wedges: bool) -> Self {
        let seed = hash(seed ^ 0x03EA_74E4, date as i64, 0);
        // The value that this share of the field exceeds, from a grid of samples.
        const SAMPLES: usize = 96;
        let mut field: Vec<f32> = (0..SAMPLES * SAMPLES)
            .map(|at| {
                let place = |index: usize| (index as f64 + 0.5) / SAMPLES as f64 * side;
                let (x, y) = (left + place(at % SAMPLES), top - place(at / SAMPLES));
                fractal(seed, x / CLOUD_SIZE, y / CLOUD_SIZE, 5)
            })
            .collect();
        field.sort_by(f32::total_cmp);
        let clear = ((1.0 - cover) * field.len() as f64) as usize;
        let threshold = field.get(clear).copied().filter(|_| cover > 0.0).unwrap_or(f32::INFINITY);
        let random = |what: i64| f64::from(unit(hash(seed, what, 1)));
        let wedge = (wedges && date % 2 == 1).then(|| {
            let (east, share) = (random(0) < 0.5, 0.05 + 0.25 * random(1));
            let x = left + side * if east { 1.0 - share } else { share };
            Wedge { x, y: top - side / 2.0, slope: 0.1 + 0.3 * random(2), east }
        });
        Self { seed, threshold, wedge }
    }

    /// The sky over a place.
    pub fn sky(&self, x: f64, y: f64) -> Sky {
        if let Some(wedge) = &self.wedge {
            let side = (x - wedge.x) + wedge.slope * (y - wedge.y);
            if (side > 0.0) == wedge.east {
                return Sky::NoData;
            }
        }
        if self.threshold == f32::INFINITY {
            return Sky::Clear;
        }
        let density = |x: f64, y: f64| fractal(self.seed, x / CLOUD_SIZE, y / CLOUD_SIZE, 5) - self.threshold;
        let here = density(x, y);
        if here >= 0.0 {
            let reflectance = (0.32 + 3.0 * here).min(0.85);
            return Sky::Cloud { reflectance, rim: here < 0.02 };
        }
        if here > -0.012 {
            return Sky::Cirrus;
        }
        let (east, north) = TO_THE_CLOUD;
        if density(x + east, y + north) >= 0.0 { Sky::Shadow } else { Sky::Clear }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clouds_cover_about_the_share_that_was_asked_for() {
        for cover in [0.0, 0.1, 0.4, 0.8] {
            let weather = Weather::new(5, 2, cover, 0.0, 20_000.0, 20_000.0, false);
            let mut clouds = 0;
            for at in 0..40_000 {
                let (x, y) = (f64::from(at % 200) * 100.0, f64::from(at / 200) * 100.0);
                clouds += usize::from(matches!(weather.sky(x, y), Sky::Cloud { .. }));
            }
            assert!((clouds as f64 / 40_000.0 - cover).abs() < 0.03, "{clouds} of 40,000 for {cover}");
        }
    }
}
