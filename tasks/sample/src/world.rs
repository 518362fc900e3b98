//! The ground: what a place is and how it reflects. One function of easting and northing, seen alike from every grid.

use crate::noise::{fractal, hash, smooth, unit};

/// Bands that can be made, with their ground sampling distance in metres.
pub(crate) const BANDS: [(&str, u32); 10] = [
    ("B02", 10),
    ("B03", 10),
    ("B04", 10),
    ("B05", 20),
    ("B06", 20),
    ("B07", 20),
    ("B08", 10),
    ("B8A", 20),
    ("B11", 20),
    ("B12", 20),
];

/// What covers the ground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Cover {
    Crop,
    Grass,
    Forest,
    Soil,
    Built,
    Water,
}

/// Typical surface reflectance of each cover in the order of [`BANDS`], rounded from published Sentinel-2 spectra.
const SPECTRA: [[f32; 10]; 6] = [
    [0.030, 0.060, 0.040, 0.090, 0.250, 0.320, 0.360, 0.380, 0.200, 0.110],
    [0.045, 0.075, 0.060, 0.110, 0.220, 0.260, 0.300, 0.310, 0.240, 0.150],
    [0.020, 0.040, 0.025, 0.060, 0.180, 0.230, 0.260, 0.280, 0.130, 0.060],
    [0.080, 0.110, 0.150, 0.180, 0.200, 0.220, 0.250, 0.270, 0.340, 0.290],
    [0.140, 0.160, 0.180, 0.190, 0.200, 0.210, 0.230, 0.240, 0.270, 0.250],
    [0.050, 0.060, 0.040, 0.035, 0.030, 0.030, 0.025, 0.020, 0.010, 0.006],
];

impl Cover {
    /// Reflectance in a band, before the tone of the place.
    pub fn reflectance(self, band: usize) -> f32 {
        SPECTRA[self as usize][band]
    }

    /// Class in Sentinel-2's scene classification.
    pub fn scene_class(self) -> u8 {
        match self {
            Self::Crop | Self::Grass | Self::Forest => 4,
            Self::Soil | Self::Built => 5,
            Self::Water => 6,
        }
    }
}

/// A planted site: an elliptic pond.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Site {
    /// Centre, metres in the CRS of the world.
    pub x: f64,
    /// See `x`.
    pub y: f64,
    /// Longer half-axis, metres.
    pub long: f64,
    /// Shorter half-axis, metres.
    pub short: f64,
    /// Direction of the longer half-axis: a vector of length 1.
    pub direction: (f64, f64),
}

impl Site {
    fn contains(&self, x: f64, y: f64) -> bool {
        let (dx, dy) = (x - self.x, y - self.y);
        let along = (dx * self.direction.0 + dy * self.direction.1) / self.long;
        let across = (dy * self.direction.0 - dx * self.direction.1) / self.short;
        along * along + across * across <= 1.0
    }

    /// Square metres.
    pub fn area(&self) -> f64 {
        std::f64::consts::PI * self.long * self.short
    }

    /// The outline, `points` of it, counter-clockwise and closed.
    pub fn outline(&self, points: usize) -> Vec<(f64, f64)> {
        let point = |at: usize| {
            let (sin, cos) = (std::f64::consts::TAU * (at % points) as f64 / points as f64).sin_cos();
            let (along, across) = (self.long * cos, self.short * sin);
            let (east, north) = self.direction;
            (self.x + along * east - across * north, self.y + along * north + across * east)
        };
        (0..=points).map(point).collect()
    }
}

/// Shortest side of the square that a site has to itself, metres.
pub(crate) const SITE_CELL: f64 = 400.0;

/// The ground of a catalogue.
pub(crate) struct World {
    seed: u64,
    left: f64,
    top: f64,
    cell: f64,
    cells: usize,
    index: Vec<Option<u16>>,
    sites: Vec<Site>,
}

impl World {
    /// A square of `side` metres whose upper left corner is given, with `count` sites, each in a cell of its own. As many
    /// sites as fit are planted; [`World::capacity`] tells how many that is.
    pub fn new(seed: u64, left: f64, top: f64, side: f64, count: usize) -> Self {
        let mut cells = 1;
        while cells * cells < count {
            cells += 1;
        }
        let cell = side / cells as f64;
        // Cells in the order of a hash: a shuffle that depends on the seed alone.
        let mut order: Vec<usize> = (0..cells * cells).collect();
        order.sort_by_key(|at| hash(seed ^ 0xCE11, *at as i64, 0));
        order.truncate(count.min(Self::capacity(side)));
        order.sort_unstable();
        let mut index = vec![None; cells * cells];
        let sites = order
            .iter()
            .enumerate()
            .map(|(number, at)| {
                index[*at] = Some(number as u16);
                let random = |what: i64| f64::from(unit(hash(seed ^ 0x517E, *at as i64, what)));
                let long = (60.0 + 100.0 * random(0)).min(cell / 4.0);
                let short = long * (0.5 + 0.5 * random(1));
                let free = cell / 2.0 - long - 40.0;
                let middle = |cell_at: usize, what| (cell_at as f64 + 0.5) * cell + (2.0 * random(what) - 1.0) * free;
                let (east, north) = (2.0 * random(4) - 1.0, random(5) + 0.01);
                let length = (east * east + north * north).sqrt();
                Site {
                    x: left + middle(at % cells, 2),
                    y: top - middle(at / cells, 3),
                    long,
                    short,
                    direction: (east / length, north / length),
                }
            })
            .collect();
        Self { seed, left, top, cell, cells, index, sites }
    }

    /// Most sites in a square of `side` metres.
    pub fn capacity(side: f64) -> usize {
        let cells = (side / SITE_CELL).floor() as usize;
        (cells * cells).min(usize::from(u16::MAX))
    }

    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Whether a place lies in a site.
    pub fn in_site(&self, x: f64, y: f64) -> bool {
        let (column, row) = (((x - self.left) / self.cell).floor(), ((self.top - y) / self.cell).floor());
        let inside = |at: f64| (0.0..self.cells as f64).contains(&at);
        if !inside(column) || !inside(row) {
            return false;
        }
        let site = self.index[row as usize * self.cells + column as usize];
        site.is_some_and(|site| self.sites[usize::from(site)].contains(x, y))
    }

    /// What a place is, and the factor by which it is brighter than its cover usually is.
    pub fn ground(&self, x: f64, y: f64) -> (Cover, f32) {
        let texture = 0.96 + 0.08 * smooth(self.seed ^ 0x7E47, x / 40.0, y / 40.0);
        if self.in_site(x, y) {
            return (Cover::Water, texture);
        }
        if fractal(self.seed ^ 0xF0_4E57, x / 1500.0, y / 1500.0, 3) > 0.58 {
            return (Cover::Forest, texture);
        }
        // Fields: rows of rectangles, turned against the grid and shifted row by row.
        let (along, across) = (0.94 * x + 0.34 * y, 0.94 * y - 0.34 * x);
        let row = (across / 180.0).floor();
        let shift = f64::from(unit(hash(self.seed ^ 0x5_41F7, row as i64, 0)));
        let field = hash(self.seed ^ 0xF1E1D, (along / 260.0 + shift).floor() as i64, row as i64);
        let tone = (0.85 + 0.3 * unit(field << 24)) * texture;
        let cover = match unit(field) {
            kind if kind < 0.46 => Cover::Crop,
            kind if kind < 0.72 => Cover::Grass,
            kind if kind < 0.97 => Cover::Soil,
            _ => Cover::Built,
        };
        (cover, tone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_lie_inside_and_apart() {
        let world = World::new(3, 1000.0, 9000.0, 8000.0, 60);
        assert_eq!(world.sites().len(), 60);
        for (at, site) in world.sites().iter().enumerate() {
            assert!(world.in_site(site.x, site.y));
            for (x, y) in site.outline(32) {
                assert!((1000.0..=9000.0).contains(&x) && (1000.0..=9000.0).contains(&y), "{site:?}");
            }
            for other in &world.sites()[..at] {
                let distance = (site.x - other.x).hypot(site.y - other.y);
                assert!(distance > site.long + other.long + 60.0, "{site:?} touches {other:?}");
            }
        }
    }

    #[test]
    fn pixels_in_sites_add_up_to_their_areas() {
        let world = World::new(11, 0.0, 5000.0, 5000.0, 16);
        let mut pixels = 0;
        for row in 0..2500 {
            for column in 0..2500 {
                pixels +=
                    usize::from(world.in_site(f64::from(column) * 2.0 + 1.0, 5000.0 - f64::from(row) * 2.0 - 1.0));
            }
        }
        let area: f64 = world.sites().iter().map(Site::area).sum();
        assert!((pixels as f64 * 4.0 / area - 1.0).abs() < 0.005, "{} against {area}", pixels * 4);
    }
}
