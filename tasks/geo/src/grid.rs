//! Pixel grids: where pixels lie, which of them a box touches, and whether two grids share their pixels.

use crate::crs::{Crs, Transform};
use crate::error::{ErrorKind, GeoError, Result};

/// A box in a CRS: x is easting or longitude.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// Smallest x.
    pub left: f64,
    /// Smallest y.
    pub bottom: f64,
    /// Largest x.
    pub right: f64,
    /// Largest y.
    pub top: f64,
}

impl Bounds {
    /// The smallest box around both.
    pub fn union(&self, other: &Self) -> Self {
        Self {
            left: self.left.min(other.left),
            bottom: self.bottom.min(other.bottom),
            right: self.right.max(other.right),
            top: self.top.max(other.top),
        }
    }

    /// What both cover, if that has an area.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let both = Self {
            left: self.left.max(other.left),
            bottom: self.bottom.max(other.bottom),
            right: self.right.min(other.right),
            top: self.top.min(other.top),
        };
        (both.left < both.right && both.bottom < both.top).then_some(both)
    }

    /// The same box in another CRS, by edges of 65 points each: corners alone would cut off what bulges.
    pub fn project(&self, transform: &Transform) -> Result<Self> {
        const POINTS: usize = 64;
        let (mut xs, mut ys) = (Vec::with_capacity(4 * POINTS), Vec::with_capacity(4 * POINTS));
        for i in 0..POINTS {
            let share = i as f64 / POINTS as f64;
            let (dx, dy) = ((self.right - self.left) * share, (self.top - self.bottom) * share);
            for (x, y) in [
                (self.left + dx, self.bottom),
                (self.right, self.bottom + dy),
                (self.right - dx, self.top),
                (self.left, self.top - dy),
            ] {
                xs.push(x);
                ys.push(y);
            }
        }
        transform.points(&mut xs, &mut ys)?;
        let mut bounds = Self { left: xs[0], bottom: ys[0], right: xs[0], top: ys[0] };
        for (x, y) in xs.iter().zip(&ys) {
            bounds = bounds.union(&Self { left: *x, bottom: *y, right: *x, top: *y });
        }
        Ok(bounds)
    }
}

/// A rectangle of whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PixelWindow {
    /// First column.
    pub column: usize,
    /// First row.
    pub row: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl PixelWindow {
    /// A window from its first column and row and its size.
    pub const fn new(column: usize, row: usize, width: usize, height: usize) -> Self {
        Self { column, row, width, height }
    }

    /// Pixels in it.
    pub const fn len(&self) -> usize {
        self.width * self.height
    }

    /// Whether it has no pixels.
    pub const fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// What both cover.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let column = self.column.max(other.column);
        let row = self.row.max(other.row);
        let right = (self.column + self.width).min(other.column + other.width);
        let bottom = (self.row + self.height).min(other.row + other.height);
        (column < right && row < bottom).then(|| Self::new(column, row, right - column, bottom - row))
    }
}

/// Where pieces of `size` pixels begin along a side: steps of `stride`, the last one shifted back so that it ends at the edge. A
/// side shorter than a piece has one.
pub fn piece_starts(length: usize, size: usize, stride: usize) -> Vec<usize> {
    let last = length.saturating_sub(size);
    let mut starts: Vec<usize> = (0..=last).step_by(stride).collect();
    if starts.last() != Some(&last) {
        starts.push(last);
    }
    starts
}

/// A north-up grid of pixels in a CRS.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Its CRS.
    pub crs: Crs,
    /// x of the left edge of the first column.
    pub left: f64,
    /// y of the upper edge of the first row.
    pub top: f64,
    /// Width of a pixel in units of the CRS, above 0.
    pub pixel_width: f64,
    /// Height of a pixel in units of the CRS, above 0.
    pub pixel_height: f64,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// Two pixel edges closer than this share of a pixel are the same edge: catalogues round what they print.
const SAME_EDGE: f64 = 1e-3;
/// GDAL's limit on a side of a raster.
const LONGEST_SIDE: f64 = i32::MAX as f64;

/// A projection whose scale differs from 1 by less is taken to be true to scale.
const TRUE_TO_SCALE: f64 = 0.01;

/// Metres between two places a pixel apart, longitude and latitude in degrees, by the radii of curvature of WGS 84 there.
fn distance((x0, y0): (f64, f64), (x1, y1): (f64, f64)) -> f64 {
    const AXIS: f64 = 6_378_137.0;
    const SQUARED_ECCENTRICITY: f64 = 0.006_694_379_990_141;
    let (sine, cosine) = ((y0 + y1) / 2.0).to_radians().sin_cos();
    let denominator = 1.0 - SQUARED_ECCENTRICITY * sine * sine;
    let across = AXIS / denominator.sqrt() * cosine;
    let along = AXIS * (1.0 - SQUARED_ECCENTRICITY) / denominator.powf(1.5);
    let turn = (x1 - x0 + 540.0).rem_euclid(360.0) - 180.0;
    (turn.to_radians() * across).hypot((y1 - y0).to_radians() * along)
}

impl Grid {
    /// The grid whose pixel edges lie at multiples of the pixel size from `anchor` and that covers `bounds`:
    /// left and top are rounded down and up, outward.
    pub fn covering(crs: Crs, bounds: &Bounds, pixel: (f64, f64), anchor: (f64, f64)) -> Result<Self> {
        let (pixel_width, pixel_height) = pixel;
        let sound = |size: f64| size.is_finite() && size > 0.0;
        if !sound(pixel_width) || !sound(pixel_height) {
            return Err(GeoError::new(
                ErrorKind::Request,
                format!("a pixel of {pixel_width} by {pixel_height} has no area"),
            ));
        }
        // An edge that falls on a multiple but for rounding stays there.
        let down = |value: f64| (value + SAME_EDGE).floor();
        let up = |value: f64| (value - SAME_EDGE).ceil();
        let first_column = down((bounds.left - anchor.0) / pixel_width);
        let last_column = up((bounds.right - anchor.0) / pixel_width);
        let first_row = down((anchor.1 - bounds.top) / pixel_height);
        let last_row = up((anchor.1 - bounds.bottom) / pixel_height);
        let (width, height) = ((last_column - first_column).max(1.0), (last_row - first_row).max(1.0));
        if !(width <= LONGEST_SIDE && height <= LONGEST_SIDE) {
            return Err(GeoError::new(
                ErrorKind::TooLarge,
                format!("a grid of {width} x {height} pixels of {pixel_width} has a side beyond {LONGEST_SIDE}"),
            ));
        }
        Ok(Self {
            crs,
            left: anchor.0 + first_column * pixel_width,
            top: anchor.1 - first_row * pixel_height,
            pixel_width,
            pixel_height,
            width: width as usize,
            height: height as usize,
        })
    }

    /// GDAL's six numbers: left, pixel width, 0, top, 0, minus pixel height.
    pub fn geo_transform(&self) -> [f64; 6] {
        [self.left, self.pixel_width, 0.0, self.top, 0.0, -self.pixel_height]
    }

    /// Its outer edges.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            left: self.left,
            bottom: self.top - self.pixel_height * self.height as f64,
            right: self.left + self.pixel_width * self.width as f64,
            top: self.top,
        }
    }

    /// The whole grid as a window.
    pub fn window(&self) -> PixelWindow {
        PixelWindow::new(0, 0, self.width, self.height)
    }

    /// x and y of the centre of a pixel.
    pub fn centre(&self, column: usize, row: usize) -> (f64, f64) {
        (self.left + (column as f64 + 0.5) * self.pixel_width, self.top - (row as f64 + 0.5) * self.pixel_height)
    }

    /// The grid of a window of this grid.
    pub fn crop(&self, window: &PixelWindow) -> Self {
        Self {
            crs: self.crs.clone(),
            left: self.left + window.column as f64 * self.pixel_width,
            top: self.top - window.row as f64 * self.pixel_height,
            pixel_width: self.pixel_width,
            pixel_height: self.pixel_height,
            width: window.width,
            height: window.height,
        }
    }

    /// Its outline in degrees, `points` to an edge, from the lower left corner counter-clockwise and back to it.
    pub fn outline(&self, to_degrees: &Transform, points: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        let Bounds { left, bottom, right, top } = self.bounds();
        let corners = [(left, bottom), (right, bottom), (right, top), (left, top), (left, bottom)];
        let (mut xs, mut ys) = (Vec::new(), Vec::new());
        for pair in corners.windows(2) {
            for step in 0..points {
                let share = step as f64 / points as f64;
                xs.push(pair[0].0 + (pair[1].0 - pair[0].0) * share);
                ys.push(pair[0].1 + (pair[1].1 - pair[0].1) * share);
            }
        }
        to_degrees.points(&mut xs, &mut ys)?;
        xs.push(xs[0]);
        ys.push(ys[0]);
        Ok((xs, ys))
    }

    /// The pixels that a box in the grid's CRS touches, cut to the grid; `None` when it touches none.
    pub fn window_of(&self, bounds: &Bounds) -> Option<PixelWindow> {
        let column = |x: f64| (x - self.left) / self.pixel_width;
        let row = |y: f64| (self.top - y) / self.pixel_height;
        let clamp = |value: f64, limit: usize| value.clamp(0.0, limit as f64) as usize;
        let left = clamp((column(bounds.left) + SAME_EDGE).floor(), self.width);
        let right = clamp((column(bounds.right) - SAME_EDGE).ceil(), self.width);
        let top = clamp((row(bounds.top) + SAME_EDGE).floor(), self.height);
        let bottom = clamp((row(bounds.bottom) - SAME_EDGE).ceil(), self.height);
        (left < right && top < bottom).then(|| PixelWindow::new(left, top, right - left, bottom - top))
    }

    /// How many pixels right and down of `other`'s origin this grid's lies, when both share pixel size, pixel edges
    /// and CRS: then pixels can be copied untouched.
    pub fn offset_in(&self, other: &Self) -> Option<(i64, i64)> {
        let close = |a: f64, b: f64, length: usize| ((a - b) / b * length.max(1) as f64).abs() < SAME_EDGE;
        let same_pixel = close(self.pixel_width, other.pixel_width, self.width.max(other.width))
            && close(self.pixel_height, other.pixel_height, self.height.max(other.height));
        if !same_pixel || self.crs != other.crs {
            return None;
        }
        let x = (self.left - other.left) / other.pixel_width;
        let y = (other.top - self.top) / other.pixel_height;
        let on_edge = (x - x.round()).abs() < 10.0 * SAME_EDGE && (y - y.round()).abs() < 10.0 * SAME_EDGE;
        on_edge.then(|| (x.round() as i64, y.round() as i64))
    }

    /// The pixel size in metres on the ground at the grid's centre: x and y. Where the projection is true to scale within
    /// one percent, as those of UTM are, its own unit is taken: 10 m are 10 m then. Other
    /// projections cost a [`Transform`].
    pub fn metres(&self) -> (f64, f64) {
        let unit = self.crs.metres_per_unit();
        let (width, height) = (self.pixel_width * unit, self.pixel_height * unit);
        let bounds = self.bounds();
        let (x, y) = ((bounds.left + bounds.right) / 2.0, (bounds.top + bounds.bottom) / 2.0);
        if self.crs.is_geographic() {
            return (width * y.to_radians().cos(), height);
        }
        // Zones of UTM need no transform to know it.
        if self.crs.epsg().is_some_and(|code| matches!(code, 32601..=32660 | 32701..=32760)) {
            return (width, height);
        }
        let on_ground = || -> Result<(f64, f64)> {
            let transform = Transform::new(&self.crs, &Crs::wgs84()?)?;
            let (dx, dy) = (self.pixel_width / 2.0, self.pixel_height / 2.0);
            let (mut xs, mut ys) = ([x - dx, x + dx, x, x], [y, y, y - dy, y + dy]);
            transform.points(&mut xs, &mut ys)?;
            Ok((distance((xs[0], ys[0]), (xs[1], ys[1])), distance((xs[2], ys[2]), (xs[3], ys[3]))))
        };
        let either = |nominal: f64, measured: f64| {
            let off = (measured / nominal - 1.0).abs();
            if measured.is_finite() && off > TRUE_TO_SCALE { measured } else { nominal }
        };
        // Where the centre has no place on the globe, the unit is all there is.
        on_ground().map_or((width, height), |(x, y)| (either(width, x), either(height, y)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_pixel_and_the_last_one_ends_at_the_edge() {
        assert_eq!(piece_starts(1000, 256, 128), [0, 128, 256, 384, 512, 640, 744]);
        assert_eq!(piece_starts(1000, 256, 224), [0, 224, 448, 672, 744]);
        assert_eq!(piece_starts(512, 256, 256), [0, 256]);
        assert_eq!(piece_starts(100, 256, 256), [0]);
        for (length, stride) in (1..700).flat_map(|length| [1, 100, 256].map(|stride| (length, stride))) {
            let starts = piece_starts(length, 256, stride);
            let covered = starts.windows(2).all(|pair| pair[0] < pair[1] && pair[1] <= pair[0] + stride);
            assert!(covered && starts[starts.len() - 1] + 256 == length.max(256), "{length} {stride}: {starts:?}");
        }
    }

    #[test]
    fn a_pixel_is_measured_on_the_ground_and_not_on_the_map() {
        let at = |epsg: u32, left: f64, top: f64| {
            let crs = Crs::from_epsg(epsg).unwrap();
            Grid { crs, left, top, pixel_width: 10.0, pixel_height: 10.0, width: 2, height: 2 }
        };
        // 60 degrees north, 15 east: pyproj's Geod gives 5.01261 and 5.00417 m of ground for 10 m of Web Mercator there.
        let (x, y) = at(3857, 1_669_792.36, 8_399_737.89).metres();
        assert!((x - 5.01261).abs() < 1e-4 && (y - 5.00417).abs() < 1e-4, "{x} {y}");
        assert_eq!(at(32633, 500_000.0, 5_200_000.0).metres(), (10.0, 10.0));
        assert_eq!(at(32633, 730_000.0, 5_200_000.0).metres(), (10.0, 10.0));
    }
}
