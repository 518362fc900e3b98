//! How the pixels of a source lie on those of an output, and reading them there.

use std::collections::VecDeque;

use swath_geo::{Grid, Pixel, PixelWindow, WarpMap, WarpResampling};
use swath_task::TaskError;

use crate::composite::Source;
use crate::faults::geo_fault;
use crate::reader::Reader;

/// A rectangle of pixels that may reach beyond the grid; pixels may be several output pixels wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rectangle {
    pub column: i64,
    pub row: i64,
    pub width: usize,
    pub height: usize,
}

impl Rectangle {
    /// The pixels of `factor` output pixels that a window touches. Windows start at multiples of the factor.
    pub fn of(window: &PixelWindow, factor: usize) -> Self {
        Self {
            column: (window.column / factor) as i64,
            row: (window.row / factor) as i64,
            width: (window.column + window.width).div_ceil(factor) - window.column / factor,
            height: (window.row + window.height).div_ceil(factor) - window.row / factor,
        }
    }

    pub fn len(&self) -> usize {
        self.width * self.height
    }

    /// As a window of a grid, which it lies in.
    pub fn window(&self) -> PixelWindow {
        PixelWindow::new(self.column as usize, self.row as usize, self.width, self.height)
    }

    /// With a margin on all sides.
    pub fn grown(&self, columns: i64, rows: i64) -> Self {
        Self {
            column: self.column - columns,
            row: self.row - rows,
            width: self.width + 2 * columns as usize,
            height: self.height + 2 * rows as usize,
        }
    }

    /// Parts of at most `side` pixels, row by row.
    pub fn parts(&self, side: usize) -> Vec<Self> {
        let mut parts = Vec::new();
        for row in (0..self.height).step_by(side) {
            for column in (0..self.width).step_by(side) {
                parts.push(Self {
                    column: self.column + column as i64,
                    row: self.row + row as i64,
                    width: side.min(self.width - column),
                    height: side.min(self.height - row),
                });
            }
        }
        parts
    }

    /// The values of a part of this rectangle.
    pub fn copy_part<T: Copy>(&self, values: &[T], part: &Self) -> Vec<T> {
        let mut out = Vec::with_capacity(part.len());
        for row in 0..part.height {
            let from = (part.row - self.row) as usize + row;
            let left = (part.column - self.column) as usize;
            out.extend_from_slice(&values[from * self.width + left..][..part.width]);
        }
        out
    }

    /// Sets all values of `whole` outside of this rectangle.
    pub fn blank<T: Copy>(&self, whole: &Self, values: &mut [T], value: T) {
        if self == whole {
            return;
        }
        for (at, slot) in values.iter_mut().enumerate() {
            let column = whole.column + (at % whole.width) as i64;
            let row = whole.row + (at / whole.width) as i64;
            let inside = (self.column..self.column + self.width as i64).contains(&column)
                && (self.row..self.row + self.height as i64).contains(&row);
            if !inside {
                *slot = value;
            }
        }
    }

    fn intersection(&self, other: &Self) -> Option<Self> {
        let column = self.column.max(other.column);
        let row = self.row.max(other.row);
        let right = (self.column + self.width as i64).min(other.column + other.width as i64);
        let bottom = (self.row + self.height as i64).min(other.row + other.height as i64);
        (column < right && row < bottom).then(|| Self {
            column,
            row,
            width: (right - column) as usize,
            height: (bottom - row) as usize,
        })
    }
}

/// How source pixels lie on output pixels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fit {
    /// A source pixel covers exactly `factor` by `factor` output pixels; its grid begins at this output pixel.
    Aligned { factor: usize, column: i64, row: i64 },
    /// Anything else: pixels are warped.
    Warped,
}

impl Fit {
    /// Of a source grid on an output grid.
    pub fn of(source: &Grid, output: &Grid) -> Self {
        if source.crs != output.crs {
            return Self::Warped;
        }
        let whole = |ratio: f64| {
            let rounded = ratio.round();
            (rounded >= 1.0 && (ratio / rounded - 1.0).abs() < 1e-6).then_some(rounded as usize)
        };
        if let (Some(x), Some(y)) =
            (whole(source.pixel_width / output.pixel_width), whole(source.pixel_height / output.pixel_height))
            && x == y
        {
            let like_output = Grid {
                pixel_width: source.pixel_width / x as f64,
                pixel_height: source.pixel_height / x as f64,
                width: source.width * x,
                height: source.height * x,
                ..source.clone()
            };
            if let Some((column, row)) = like_output.offset_in(output) {
                return Self::Aligned { factor: x, column, row };
            }
        }
        Self::Warped
    }

    /// The widest pixels, in output pixels, that this source can be read at without loss and that begin where
    /// windows (multiples of 512) begin: the source's own, or 1.
    pub fn factor(&self) -> usize {
        match self {
            Self::Aligned { factor, column, row }
                if factor.is_power_of_two()
                    && *factor <= 64
                    && column % *factor as i64 == 0
                    && row % *factor as i64 == 0 =>
            {
                *factor
            }
            _ => 1,
        }
    }

    /// Whether the source has a pixel for every output pixel.
    pub fn covers(&self, source: &Grid, output: &Grid) -> bool {
        let reaches = |start: i64, length: usize, limit: usize| start <= 0 && start + length as i64 >= limit as i64;
        match self {
            Self::Aligned { factor, column, row } => {
                reaches(*column, source.width * factor, output.width)
                    && reaches(*row, source.height * factor, output.height)
            }
            Self::Warped => false,
        }
    }
}

/// A source on an output whose pixels may be coarser: they are cells of `fine` by `fine` pixels of a finer grid then.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Pixels of the finer grid along a side of an output pixel; 1 where the source is not that much finer.
    pub fine: usize,
    /// How the source lies on that finer grid.
    pub fit: Fit,
}

impl Placement {
    /// `nearest`: where grids differ one pixel is taken, however many there are.
    pub fn of(source: &Grid, output: &Grid, nearest: bool) -> Self {
        let ratio = if source.crs == output.crs {
            let (x, y) = (output.pixel_width / source.pixel_width, output.pixel_height / source.pixel_height);
            x.min(y) * (1.0 + 1e-6)
        } else {
            // The same pixels are a little smaller or larger in each projection.
            let (to, from) = (output.metres(), source.metres());
            (to.0 / from.0).min(to.1 / from.1) * 1.02
        };
        let fine = (ratio.floor() as usize).max(1);
        let fit = Fit::of(source, &finer(output, fine));
        if fine > 1 && nearest && fit == Fit::Warped {
            return Self { fine: 1, fit: Fit::Warped };
        }
        Self { fine, fit }
    }

    /// See [`Fit::factor`].
    pub fn factor(&self) -> usize {
        if self.fine > 1 { 1 } else { self.fit.factor() }
    }
}

/// The grid with `fine` by `fine` pixels in place of each.
pub fn finer(grid: &Grid, fine: usize) -> Grid {
    Grid {
        pixel_width: grid.pixel_width / fine as f64,
        pixel_height: grid.pixel_height / fine as f64,
        width: grid.width * fine,
        height: grid.height * fine,
        ..grid.clone()
    }
}

/// Reads sources onto rectangles of the output.
pub struct Sampler<'a> {
    reader: Reader<'a>,
    nearest: bool,
    /// By source grid and target grid, the oldest first.
    maps: VecDeque<(Grid, Grid, Option<WarpMap>)>,
    /// Pixels of the targets of all maps kept, at most; one is kept in any case.
    most: usize,
}

impl<'a> Sampler<'a> {
    /// `nearest`: also bands are taken from the nearest pixel where grids differ. `most`: pixels whose ways from grid to
    /// grid are kept, [`WarpMap::BYTES`] each.
    pub fn new(reader: Reader<'a>, nearest: bool, most: usize) -> Self {
        Self { reader, nearest, maps: VecDeque::new(), most }
    }

    /// Fills `out` with the pixels of `area` (in pixels `factor` output pixels wide). Returns the part of `area` that
    /// the source covers, `None` when that is nothing; outside of it `out` keeps what it held.
    #[expect(clippy::too_many_arguments, reason = "one call site a kind of pixel; a struct would only rename them")]
    pub fn read<T: Pixel>(
        &mut self,
        source: &Source,
        fit: &Fit,
        factor: usize,
        area: &Rectangle,
        fill: T,
        output: &Grid,
        out: &mut [T],
    ) -> Result<Option<Rectangle>, TaskError> {
        match fit {
            Fit::Aligned { factor: own, column, row } => {
                self.read_aligned(source, (*own, *column, *row), factor, area, out)
            }
            Fit::Warped => self.read_warped(source, area, fill, output, out),
        }
    }

    fn read_aligned<T: Pixel>(
        &mut self,
        source: &Source,
        (own, column, row): (usize, i64, i64),
        factor: usize,
        area: &Rectangle,
        out: &mut [T],
    ) -> Result<Option<Rectangle>, TaskError> {
        // In pixels of `factor`, a source pixel is `times` wide and the source begins at (left, top).
        let (times, left, top) =
            ((own / factor) as i64, column.div_euclid(factor as i64), row.div_euclid(factor as i64));
        let extent = Rectangle {
            column: left,
            row: top,
            width: source.grid.width * times as usize,
            height: source.grid.height * times as usize,
        };
        let Some(common) = area.intersection(&extent) else { return Ok(None) };
        let first = |start: i64, origin: i64| ((start - origin) / times) as usize;
        let last = |end: i64, origin: i64| ((end - 1 - origin) / times) as usize;
        let (x, y) = (first(common.column, left), first(common.row, top));
        let window = PixelWindow::new(
            x,
            y,
            last(common.column + common.width as i64, left) - x + 1,
            last(common.row + common.height as i64, top) - y + 1,
        );
        let band = source.band;
        if times == 1 && common == *area {
            self.reader.with(&source.href, source.size, |raster| raster.read(band, &window, out))?;
            return Ok(Some(common));
        }
        let mut pixels = vec![T::default(); window.len()];
        self.reader.with(&source.href, source.size, |raster| raster.read(band, &window, &mut pixels))?;
        for line in 0..common.height {
            let from = &pixels[(first(common.row + line as i64, top) - y) * window.width..][..window.width];
            let at = (common.row - area.row) as usize + line;
            let to = &mut out[at * area.width + (common.column - area.column) as usize..][..common.width];
            if times == 1 {
                to.copy_from_slice(from);
                continue;
            }
            for (index, pixel) in to.iter_mut().enumerate() {
                *pixel = from[first(common.column + index as i64, left) - x];
            }
        }
        Ok(Some(common))
    }

    fn read_warped<T: Pixel>(
        &mut self,
        source: &Source,
        area: &Rectangle,
        fill: T,
        output: &Grid,
        out: &mut [T],
    ) -> Result<Option<Rectangle>, TaskError> {
        let how = if self.nearest { WarpResampling::Nearest } else { WarpResampling::Bilinear };
        let Some((map, pixels)) = self.warp_window(source, area, output)? else { return Ok(None) };
        map.resample(&pixels, source.nodata, how, fill, out).map_err(geo_fault)?;
        Ok(Some(*area))
    }

    /// The pixels that a warp onto `area` needs, and the way from one to the other.
    fn warp_window<T: Pixel>(
        &mut self,
        source: &Source,
        area: &Rectangle,
        output: &Grid,
    ) -> Result<Option<(&WarpMap, Vec<T>)>, TaskError> {
        let target = Grid {
            left: output.left + area.column as f64 * output.pixel_width,
            top: output.top - area.row as f64 * output.pixel_height,
            width: area.width,
            height: area.height,
            ..output.clone()
        };
        let known = self.maps.iter().position(|(grid, place, _)| *place == target && *grid == source.grid);
        if known.is_none() {
            let pixels = |target: &Grid| target.width * target.height;
            let mut held: usize = self.maps.iter().map(|(_, target, _)| pixels(target)).sum();
            while held + pixels(&target) > self.most
                && let Some((_, oldest, _)) = self.maps.pop_front()
            {
                held -= pixels(&oldest);
            }
            let map = WarpMap::new(&source.grid, &target).map_err(geo_fault)?;
            self.maps.push_back((source.grid.clone(), target, map));
        }
        let index = known.unwrap_or(self.maps.len() - 1);
        let Some((_, _, Some(map))) = self.maps.get(index) else { return Ok(None) };
        let window = map.source_window();
        let mut pixels = vec![T::default(); window.len()];
        self.reader.with(&source.href, source.size, |raster| raster.read(source.band, &window, &mut pixels))?;
        Ok(Some((map, pixels)))
    }

    /// Reads a mask as classes, from the nearest pixel where grids differ. `classify` makes classes of values; what the
    /// source does not cover is of class `outside`. `None` when the source covers nothing of `area`.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    pub fn read_classes<T: Pixel>(
        &mut self,
        source: &Source,
        fit: &Fit,
        factor: usize,
        area: &Rectangle,
        output: &Grid,
        outside: u8,
        classify: impl Fn(&[T]) -> Vec<u8>,
    ) -> Result<Option<Vec<u8>>, TaskError> {
        if let Fit::Aligned { factor: own, column, row } = fit {
            let mut values = vec![T::default(); area.len()];
            let covered = self.read_aligned(source, (*own, *column, *row), factor, area, &mut values)?;
            return Ok(covered.map(|covered| {
                let mut classes = classify(&values);
                covered.blank(area, &mut classes, outside);
                classes
            }));
        }
        let Some((map, values)) = self.warp_window::<T>(source, area, output)? else { return Ok(None) };
        let mut classes = vec![outside; area.len()];
        map.resample(&classify(&values), None, WarpResampling::Nearest, outside, &mut classes).map_err(geo_fault)?;
        Ok(Some(classes))
    }
}
