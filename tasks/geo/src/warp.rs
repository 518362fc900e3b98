//! Resampling from one grid to another.
//!
//! A [`WarpMap`] holds, for every pixel of a target window, where its centre lies in the source grid. It is computed
//! once and serves all bands and files on that source grid. Coordinates are projected exactly on a lattice of 16
//! pixels and interpolated between: the error stays below a hundredth of a source pixel, which [`WarpMap::new`] checks
//! in the middle of every fourth of the lattice's cells, taking a finer lattice where it does not.

use crate::crs::Transform;
use crate::error::{ErrorKind, GeoError, Result};
use crate::grid::{Grid, PixelWindow};
use crate::pixel::Pixel;

/// Pixels between exactly projected points.
const LATTICE: usize = 16;
/// Largest error of interpolated coordinates, in source pixels.
const TOLERANCE: f64 = 0.01;

/// How a warp makes a pixel of those around its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarpResampling {
    /// The pixel that the place lies in. The only one for classes and masks.
    Nearest,
    /// Linear in both directions between four pixels.
    Bilinear,
}

/// Where the pixel centres of a target grid lie in a source grid.
pub struct WarpMap {
    /// Column and row in the source, in pixels from its upper left corner, for each target pixel.
    columns: Vec<f64>,
    rows: Vec<f64>,
    window: PixelWindow,
    source: (usize, usize),
}

impl WarpMap {
    /// Memory that a map takes for each pixel of its target.
    pub const BYTES: usize = 2 * size_of::<f64>();

    /// For all of `target` (a window of a larger grid, usually). `None` when it does not touch `source`.
    pub fn new(source: &Grid, target: &Grid) -> Result<Option<Self>> {
        let transform = Transform::new(&target.crs, &source.crs)?;
        let to_pixels = |xs: &mut [f64], ys: &mut [f64]| {
            transform.points_lossy(xs, ys);
            for (x, y) in xs.iter_mut().zip(ys) {
                *x = (*x - source.left) / source.pixel_width;
                *y = (source.top - *y) / source.pixel_height;
            }
        };
        let exact = |columns: &[usize], rows: &[usize]| {
            let mut xs = Vec::with_capacity(columns.len() * rows.len());
            let mut ys = Vec::with_capacity(columns.len() * rows.len());
            for row in rows {
                for column in columns {
                    let (x, y) = target.centre(*column, *row);
                    xs.push(x);
                    ys.push(y);
                }
            }
            to_pixels(&mut xs, &mut ys);
            (xs, ys)
        };
        let knots = |length: usize, step: usize| -> Vec<usize> {
            let last = length.saturating_sub(1).div_ceil(step).max(1);
            (0..=last).map(|i| i * step).collect()
        };
        let mut step = LATTICE;
        let (columns, rows) = loop {
            let (xs, ys) = (knots(target.width, step), knots(target.height, step));
            let (lattice_columns, lattice_rows) = exact(&xs, &ys);
            let columns = spread(&lattice_columns, xs.len(), step, target.width, target.height);
            let rows = spread(&lattice_rows, xs.len(), step, target.width, target.height);
            if step == 1 {
                break (columns, rows);
            }
            let middle = |length: usize| -> Vec<usize> { (0..length).skip(step / 2).step_by(step * 4).collect() };
            let (mx, my) = (middle(target.width), middle(target.height));
            let (exact_columns, exact_rows) = exact(&mx, &my);
            let mut worst = 0.0_f64;
            for (j, row) in my.iter().enumerate() {
                for (i, column) in mx.iter().enumerate() {
                    let (at, here) = (row * target.width + column, j * mx.len() + i);
                    let error = (columns[at] - exact_columns[here]).abs().max((rows[at] - exact_rows[here]).abs());
                    // Both outside of the projection is agreement; one of them is not.
                    worst = worst.max(if error.is_nan() { 0.0 } else { error });
                }
            }
            if worst <= TOLERANCE {
                break (columns, rows);
            }
            step /= 2;
        };
        let mut reach = [f64::INFINITY, f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY];
        let (width, height) = (source.width as f64, source.height as f64);
        for (column, row) in columns.iter().zip(&rows) {
            if (0.0..width).contains(column) && (0.0..height).contains(row) {
                reach = [reach[0].min(*column), reach[1].min(*row), reach[2].max(*column), reach[3].max(*row)];
            }
        }
        if reach[0] > reach[2] {
            return Ok(None);
        }
        // Two pixels more on each side serve the neighbours of bilinear resampling.
        let low = |value: f64| (value.floor() as usize).saturating_sub(2);
        let high = |value: f64, limit: usize| (value.floor() as usize + 3).min(limit);
        let (left, top) = (low(reach[0]), low(reach[1]));
        let (right, bottom) = (high(reach[2], source.width), high(reach[3], source.height));
        let window = PixelWindow::new(left, top, right - left, bottom - top);
        Ok(Some(Self { columns, rows, window, source: (source.width, source.height) }))
    }

    /// The window of the source that must be read.
    pub fn source_window(&self) -> PixelWindow {
        self.window
    }

    /// Fills `out` (the target, row by row) from `pixels`, which hold [`WarpMap::source_window`]. What lies outside of
    /// the source, or is no-data there, becomes `fill`. With `Bilinear`, a target pixel is valid when its nearest
    /// source pixel is, and no-data neighbours take no part.
    pub fn resample<T: Pixel>(
        &self,
        pixels: &[T],
        nodata: Option<f64>,
        how: WarpResampling,
        fill: T,
        out: &mut [T],
    ) -> Result<()> {
        if pixels.len() != self.window.len() || out.len() != self.columns.len() {
            return Err(GeoError::new(ErrorKind::Request, "a warp got buffers of another size than its windows"));
        }
        let _span = traced!("warp pixels", swath.pixels = out.len() as i64);
        let (left, top) = (self.window.column as f64, self.window.row as f64);
        let width = self.window.width;
        let valid = |value: f64| !value.is_nan() && nodata != Some(value);
        let inside = |column: f64, row: f64| {
            (0.0..self.source.0 as f64).contains(&column) && (0.0..self.source.1 as f64).contains(&row)
        };
        for ((column, row), out) in self.columns.iter().zip(&self.rows).zip(out) {
            *out = fill;
            if !inside(*column, *row) {
                continue;
            }
            let (x, y) = ((column.floor() - left) as usize, (row.floor() - top) as usize);
            let nearest = pixels[y * width + x];
            if !valid(nearest.to_f64()) {
                continue;
            }
            *out = match how {
                WarpResampling::Nearest => nearest,
                WarpResampling::Bilinear => {
                    let (u, v) = (column - left - 0.5, row - top - 0.5);
                    let (mut sum, mut weights) = (0.0, 0.0);
                    for (dy, wy) in [(0, 1.0 - (v - v.floor())), (1, v - v.floor())] {
                        for (dx, wx) in [(0, 1.0 - (u - u.floor())), (1, u - u.floor())] {
                            let (px, py) = (u.floor() as i64 + dx, v.floor() as i64 + dy);
                            if px < 0 || py < 0 || px >= width as i64 || py >= self.window.height as i64 {
                                continue;
                            }
                            let value = pixels[py as usize * width + px as usize].to_f64();
                            if valid(value) {
                                sum += value * wx * wy;
                                weights += wx * wy;
                            }
                        }
                    }
                    if weights > 0.0 { T::from_f64(sum / weights) } else { nearest }
                }
            };
        }
        Ok(())
    }
}

/// Interpolates lattice values (`across` a row, `step` pixels apart) to every pixel.
fn spread(lattice: &[f64], across: usize, step: usize, width: usize, height: usize) -> Vec<f64> {
    let mut out = Vec::with_capacity(width * height);
    for row in 0..height {
        let (j, v) = (row / step, (row % step) as f64 / step as f64);
        for column in 0..width {
            let (i, u) = (column / step, (column % step) as f64 / step as f64);
            let at = |dx: usize, dy: usize| {
                let rows = lattice.len() / across;
                lattice[(j + dy).min(rows - 1) * across + (i + dx).min(across - 1)]
            };
            let upper = if u == 0.0 { at(0, 0) } else { at(0, 0) * (1.0 - u) + at(1, 0) * u };
            let value = if v == 0.0 {
                upper
            } else {
                let lower = if u == 0.0 { at(0, 1) } else { at(0, 1) * (1.0 - u) + at(1, 1) * u };
                upper * (1.0 - v) + lower * v
            };
            out.push(value);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crs::Crs;

    fn grid(epsg: u32, left: f64, top: f64, width: usize, height: usize) -> Grid {
        let crs = Crs::from_epsg(epsg).unwrap();
        Grid { crs, left, top, pixel_width: 10.0, pixel_height: 10.0, width, height }
    }

    #[test]
    fn a_warp_onto_the_same_grid_changes_nothing() {
        let source = grid(32633, 500_000.0, 5_200_000.0, 70, 50);
        let target = source.crop(&PixelWindow::new(13, 7, 40, 30));
        let map = WarpMap::new(&source, &target).unwrap().unwrap();
        let window = map.source_window();
        let value = |column: usize, row: usize| (row * 70 + column + 1) as u16;
        let mut pixels = Vec::new();
        for row in window.row..window.row + window.height {
            pixels.extend((window.column..window.column + window.width).map(|column| value(column, row)));
        }
        for how in [WarpResampling::Nearest, WarpResampling::Bilinear] {
            let mut out = vec![0_u16; target.width * target.height];
            map.resample(&pixels, Some(0.0), how, 0, &mut out).unwrap();
            for (i, got) in out.iter().enumerate() {
                assert_eq!(*got, value(13 + i % 40, 7 + i / 40), "{how:?}");
            }
        }
    }

    #[test]
    fn places_in_another_zone_are_right_to_a_hundredth_of_a_pixel() {
        let source = grid(32633, 300_000.0, 5_300_000.0, 2000, 2000);
        let zone = Crs::from_epsg(32632).unwrap();
        let (x, y) = Transform::new(&source.crs, &zone).unwrap().point(310_000.0, 5_290_000.0).unwrap();
        let target = grid(32632, x, y, 300, 200);
        let map = WarpMap::new(&source, &target).unwrap().unwrap();
        let transform = Transform::new(&target.crs, &source.crs).unwrap();
        for (column, row) in [(0, 0), (299, 199), (151, 77), (8, 8)] {
            let (x, y) = target.centre(column, row);
            let (x, y) = transform.point(x, y).unwrap();
            let at = row * 300 + column;
            assert!((map.columns[at] - (x - source.left) / 10.0).abs() < TOLERANCE);
            assert!((map.rows[at] - (source.top - y) / 10.0).abs() < TOLERANCE);
        }
        let far = grid(32632, 200_000.0, 1_000_000.0, 10, 10);
        assert!(WarpMap::new(&source, &far).unwrap().is_none());
    }

    #[test]
    fn no_data_takes_no_part_in_bilinear_resampling() {
        let source = grid(32633, 0.0, 20.0, 2, 2);
        let target =
            Grid { left: 2.0, top: 18.0, pixel_width: 16.0, pixel_height: 16.0, width: 1, height: 1, ..source.clone() };
        let map = WarpMap::new(&source, &target).unwrap().unwrap();
        let mut out = [0_u16];
        map.resample(&[0_u16, 10, 20, 40], Some(0.0), WarpResampling::Bilinear, 7, &mut out).unwrap();
        // The centre is the corner of all four: its nearest pixel is the lower right one.
        assert_eq!(out, [23]);
    }
}
