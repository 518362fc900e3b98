//! Where tiles lie along one side of a raster and how much each counts at every pixel. Pure arithmetic.
//!
//! Rows and columns are independent: the weight of a tile at a pixel is its weight along the rows times its weight
//! along the columns, both divided by what all tiles together have there. So nothing has to be counted per pixel.
//!
//! Invariants:
//! 1. Every pixel of the side is inside at least one tile, right and lower edges included.
//! 2. The weights of all tiles at a pixel sum to one.
//! 3. Starts rise strictly; what lies before the start of the next tile is final once a tile is done.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_nets::Output;

/// The tiles that a network is shown, and what it tells of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Rows and columns.
    pub size: usize,
    /// Whether it tells of each pixel, or of the tile as a whole.
    pub output: Output,
}

impl Tile {
    /// Pixels of a tile.
    pub fn area(self) -> usize {
        self.size * self.size
    }

    /// Rows and columns of what the network tells of a tile.
    pub fn told(self) -> usize {
        match self.output {
            Output::Pixels => self.size,
            Output::Image => 1,
        }
    }

    /// Which task is for a network whose output has these sides, where it is another one. For messages.
    pub fn other_task(self, sides: &[i64]) -> &'static str {
        match (self.output, sides) {
            (Output::Pixels, [_, _, 1, 1]) if self.size > 1 => {
                ": it tells of whole images, as `infer.classify` wants it"
            }
            (Output::Image, [_, _, rows, columns]) if *rows > 1 || *columns > 1 => {
                ": it tells of every pixel, as `infer.segment` wants it"
            }
            _ => "",
        }
    }
}

/// How overlapping tiles become one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Blend {
    /// The mean of all tiles that cover a pixel.
    #[default]
    Average,
    /// A mean weighted by raised-cosine ramps across the overlap: a tile counts less towards its edges, where a
    /// network sees least of the surroundings.
    Smooth,
}

impl Blend {
    /// As a flow writes it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Average => "average",
            Self::Smooth => "smooth",
        }
    }
}

/// What happens at the right and lower edge, where tiles do not fit evenly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Edges {
    /// The last tile is shifted back until it ends at the edge: real pixels only, a larger overlap there.
    #[default]
    Shifted,
    /// The last tile keeps its place and is filled up with the raster reflected at its edge.
    Reflected,
}

impl Edges {
    /// As a flow writes it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Shifted => "shifted",
            Self::Reflected => "reflected",
        }
    }
}

/// The tiles along one side of a raster.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    length: usize,
    tile: usize,
    starts: Vec<usize>,
    /// One row of `tile` weights a tile; 0 outside of the raster.
    weights: Vec<f32>,
}

impl Axis {
    /// Tiles of `tile` pixels over `length` pixels, neighbours sharing `overlap`. Panics unless
    /// `overlap < tile` and `length > 0`: callers check parameters before.
    pub fn new(length: usize, tile: usize, overlap: usize, edges: Edges, blend: Blend) -> Self {
        assert!(overlap < tile && length > 0, "a stride of at least one pixel over at least one pixel");
        let stride = tile - overlap;
        let mut starts: Vec<usize> = (0..).map(|k| k * stride).take_while(|start| start + tile < length).collect();
        let next = starts.last().map_or(0, |last| last + stride);
        starts.push(match edges {
            Edges::Shifted => length.saturating_sub(tile),
            Edges::Reflected => next,
        });
        let window: Vec<f64> = (0..tile).map(|i| weight(i, tile, overlap, blend)).collect();
        let mut total = vec![0.0f64; length];
        for &start in &starts {
            for (sum, w) in total[start..].iter_mut().zip(&window) {
                *sum += w;
            }
        }
        let share = |start: usize, i: usize| total.get(start + i).map_or(0.0, |sum| (window[i] / sum) as f32);
        let weights = starts.iter().flat_map(|&start| (0..tile).map(move |i| share(start, i))).collect();
        Self { length, tile, starts, weights }
    }

    /// Pixels along the side.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many tiles there are.
    pub fn tiles(&self) -> usize {
        self.starts.len()
    }

    /// First pixel of a tile.
    pub fn start(&self, tile: usize) -> usize {
        self.starts[tile]
    }

    /// How many of a tile's pixels lie inside the raster.
    pub fn inside(&self, tile: usize) -> usize {
        self.tile.min(self.length - self.starts[tile])
    }

    /// The weights of a tile's pixels.
    pub fn weights(&self, tile: usize) -> &[f32] {
        &self.weights[tile * self.tile..][..self.tile]
    }

    /// Up to where pixels are final once this tile and all before it are done.
    pub fn finished(&self, tile: usize) -> usize {
        self.starts.get(tile + 1).copied().unwrap_or(self.length)
    }

    /// The pixel that a tile's `i`-th pixel shows: itself, or its mirror image beyond the edge.
    pub fn source(&self, tile: usize, i: usize) -> usize {
        reflect(self.starts[tile] + i, self.length)
    }

    /// The pixels of the raster that a tile shows.
    pub fn reads(&self, tile: usize) -> Range<usize> {
        let (start, end) = (self.starts[tile], self.starts[tile] + self.tile);
        if end <= self.length {
            return start..end;
        }
        let mirrored = (2 * (self.length - 1)).saturating_sub(end - 1);
        start.min(mirrored)..self.length
    }
}

/// `index` mirrored at both ends without repeating the outermost pixel (numpy's `reflect`).
fn reflect(index: usize, length: usize) -> usize {
    if index < length {
        return index;
    }
    let period = (2 * (length - 1)).max(1);
    let place = index % period;
    place.min(period - place).min(length - 1)
}

/// The weight of a tile's `i`-th pixel before it is divided by the sum over tiles.
fn weight(i: usize, tile: usize, overlap: usize, blend: Blend) -> f64 {
    match blend {
        Blend::Average => 1.0,
        Blend::Smooth => {
            let ramp = overlap.min(tile / 2);
            let from_edge = i.min(tile - 1 - i);
            if from_edge >= ramp {
                return 1.0;
            }
            let share = (from_edge as f64 + 0.5) / ramp as f64;
            (share * std::f64::consts::FRAC_PI_2).sin().powi(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Edges, Blend); 4] = [
        (Edges::Shifted, Blend::Average),
        (Edges::Shifted, Blend::Smooth),
        (Edges::Reflected, Blend::Average),
        (Edges::Reflected, Blend::Smooth),
    ];

    #[test]
    fn every_pixel_is_covered_and_weights_sum_to_one() {
        for (edges, blend) in ALL {
            for (tile, overlap) in [(8, 0), (8, 2), (8, 4), (8, 7), (16, 5), (1, 0), (256, 64)] {
                for length in (1..70).chain([255, 256, 257, 448, 449, 1000]) {
                    let axis = Axis::new(length, tile, overlap, edges, blend);
                    let mut sum = vec![0.0f64; length];
                    for k in 0..axis.tiles() {
                        for i in 0..axis.inside(k) {
                            assert!(axis.weights(k)[i] > 0.0);
                            sum[axis.start(k) + i] += f64::from(axis.weights(k)[i]);
                        }
                        assert!(axis.weights(k)[axis.inside(k)..].iter().all(|w| *w == 0.0));
                    }
                    let off = sum.iter().map(|s| (s - 1.0).abs()).fold(0.0, f64::max);
                    assert!(off < 1e-6, "{edges:?} {blend:?} tile {tile} overlap {overlap} length {length}: {off}");
                }
            }
        }
    }

    #[test]
    fn the_right_and_lower_edges_are_predicted() {
        // The defect: windows at 0, 192, 384, 576 end at 832 of 1000, so 31 % of a 1000 x 1000 raster stay empty.
        let axis = Axis::new(1000, 256, 64, Edges::Shifted, Blend::Average);
        let starts: Vec<usize> = (0..axis.tiles()).map(|k| axis.start(k)).collect();
        assert_eq!(starts, [0, 192, 384, 576, 744]);
        // A raster under one tile used to give no window at all.
        let small = Axis::new(100, 256, 64, Edges::Shifted, Blend::Average);
        assert_eq!((small.tiles(), small.start(0), small.inside(0)), (1, 0, 100));
    }

    #[test]
    fn reflection_is_that_of_numpy() {
        // numpy.pad([0, 1, 2, 3], (0, 9), "reflect")
        let expected = [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0];
        let got: Vec<usize> = (0..13).map(|i| reflect(i, 4)).collect();
        assert_eq!(got, expected);
        assert_eq!((0..4).map(|i| reflect(i, 1)).collect::<Vec<_>>(), [0, 0, 0, 0]);
    }

    #[test]
    fn a_tile_shows_nothing_outside_of_what_it_reads() {
        for (edges, blend) in ALL {
            for length in 1..100 {
                let axis = Axis::new(length, 16, 5, edges, blend);
                for k in 0..axis.tiles() {
                    let reads = axis.reads(k);
                    assert!(reads.end <= length);
                    assert!((0..16).all(|i| reads.contains(&axis.source(k, i))), "{length} {k} {reads:?}");
                    assert!(axis.finished(k) <= axis.start(k) + 16);
                }
                assert_eq!(axis.finished(axis.tiles() - 1), length);
            }
        }
    }
}
