//! Reading tiled DEFLATE GeoTIFFs on this machine without GDAL in between.
//!
//! GDAL decodes a tile into its block cache, under a lock, and copies the window from there. Composites read each tile
//! once, so all of that is wasted: here a tile is read, decompressed (which verifies its checksum) and its rows go
//! straight to the caller. Whatever is not the plain common case (strips, other compressions, other byte order, remote
//! files) is left to GDAL, which has opened the file already and whose word on sizes and types is taken.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use libdeflater::Decompressor;

use crate::error::{ErrorKind, GeoError, Result};
use crate::grid::PixelWindow;
use crate::pixel::{DataType, Pixel};
use crate::raster::RasterInfo;

/// Larger directories or tiles than these are left to GDAL.
const MOST_ENTRIES: u64 = 4096;
const MOST_TILE_BYTES: usize = 32 << 20;
const MOST_TILES: usize = 1 << 22;

/// Where the tiles of a file lie.
pub struct Direct {
    /// Opened for each read: a composite has more files than a process may hold open.
    path: PathBuf,
    data_type: DataType,
    tile: (usize, usize),
    across: usize,
    down: usize,
    predictor: u16,
    offsets: Vec<u64>,
    sizes: Vec<u64>,
    nodata: f64,
}

thread_local! {
    /// Decompressor, compressed bytes, raw bytes.
    static SCRATCH: RefCell<(Decompressor, Vec<u8>, Vec<u8>)> =
        RefCell::new((Decompressor::new(), Vec::new(), Vec::new()));
}

impl Direct {
    /// The tile table of a file that GDAL describes as `info`; `None` when it is not the plain case.
    pub fn open(path: &Path, info: &RasterInfo) -> Option<Self> {
        let data_type = info.bands.first()?.data_type;
        if info.bands.iter().any(|band| band.data_type != data_type) {
            return None;
        }
        let file = File::open(path).ok()?;
        let tags = Directory::read(&file)?;
        let bands = info.bands.len();
        let tile = (tags.one(322)? as usize, tags.one(323)? as usize);
        let predictor = tags.one(317).unwrap_or(1) as u16;
        let planar = tags.one(284).unwrap_or(1);
        let plain = tags.one(256)? as usize == info.width
            && tags.one(257)? as usize == info.height
            && tags.one(277).unwrap_or(1) as usize == bands
            && matches!(tags.one(259)?, 8 | 32946)
            && (bands == 1 || planar == 2)
            && tags.one(266).unwrap_or(1) == 1
            && tags.one(258)? as usize == data_type.size() * 8
            && match predictor {
                1 => true,
                2 => !data_type.is_float(),
                3 => data_type.is_float(),
                _ => false,
            };
        let bytes = tile.0.checked_mul(tile.1)?.checked_mul(data_type.size())?;
        if !plain || bytes == 0 || bytes > MOST_TILE_BYTES {
            return None;
        }
        let (across, down) = (info.width.div_ceil(tile.0), info.height.div_ceil(tile.1));
        let (offsets, sizes) = (tags.all(324)?, tags.all(325)?);
        if offsets.len() != across * down * bands || sizes.len() != offsets.len() {
            return None;
        }
        let nodata = info.bands[0].nodata.unwrap_or(0.0);
        Some(Self { path: path.to_owned(), data_type, tile, across, down, predictor, offsets, sizes, nodata })
    }

    /// Whether [`Direct::read`] can give pixels of this type.
    pub fn gives<T: Pixel>(&self) -> bool {
        self.data_type == T::TYPE
    }

    /// Reads a window that lies within the raster into a buffer of its size.
    pub fn read<T: Pixel>(&self, name: &str, band: usize, window: &PixelWindow, out: &mut [T]) -> Result<()> {
        let (tile_width, tile_height) = self.tile;
        let file = File::open(&self.path)
            .map_err(|error| GeoError::new(ErrorKind::NotFound, format!("cannot open `{name}`: {error}")))?;
        SCRATCH.with_borrow_mut(|(decompressor, packed, raw)| {
            let mut line = vec![T::default(); tile_width];
            for row in window.row / tile_height..=(window.row + window.height - 1) / tile_height {
                for column in window.column / tile_width..=(window.column + window.width - 1) / tile_width {
                    let index = (band * self.down + row) * self.across + column;
                    let area = PixelWindow::new(column * tile_width, row * tile_height, tile_width, tile_height);
                    let Some(common) = area.intersection(window) else { continue };
                    let from = common.column - area.column;
                    let target = |line: usize| {
                        let at = (common.row + line - window.row) * window.width + common.column - window.column;
                        at..at + common.width
                    };
                    if self.sizes[index] == 0 {
                        // A tile that was never written is no-data by GDAL's convention.
                        for line in 0..common.height {
                            out[target(line)].fill(T::from_f64(self.nodata));
                        }
                        continue;
                    }
                    self.unpack(&file, index, decompressor, packed, raw)
                        .map_err(|why| self.damaged(name, band, &area, &why))?;
                    let stride = tile_width * size_of::<T>();
                    let first = common.row - area.row;
                    for (number, bytes) in
                        raw[first * stride..].chunks_exact_mut(stride).take(common.height).enumerate()
                    {
                        let place = &mut out[target(number)];
                        match self.predictor {
                            1 => T::plain(&bytes[from * size_of::<T>()..], place),
                            _ if common.width == tile_width => T::restore(bytes, place),
                            _ => {
                                T::restore(bytes, &mut line);
                                place.copy_from_slice(&line[from..from + common.width]);
                            }
                        }
                    }
                }
            }
            Ok(())
        })
    }

    fn unpack(
        &self,
        file: &File,
        index: usize,
        decompressor: &mut Decompressor,
        packed: &mut Vec<u8>,
        raw: &mut Vec<u8>,
    ) -> std::result::Result<(), String> {
        let size = self.tile.0 * self.tile.1 * self.data_type.size();
        let limit = size as u64 * 2 + 4096;
        if self.sizes[index] > limit {
            return Err(format!("its tile claims {} bytes", self.sizes[index]));
        }
        packed.resize(self.sizes[index] as usize, 0);
        file.read_exact_at(packed, self.offsets[index]).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => "the file ends within the tile".to_owned(),
            _ => error.to_string(),
        })?;
        raw.resize(size, 0);
        match decompressor.zlib_decompress(packed, raw) {
            Ok(count) if count == size => Ok(()),
            Ok(count) => Err(format!("the tile holds {count} of {size} bytes")),
            Err(error) => Err(format!("the tile cannot be decompressed ({error})")),
        }
    }

    fn damaged(&self, name: &str, band: usize, area: &PixelWindow, why: &str) -> GeoError {
        let PixelWindow { column, row, .. } = area;
        let message = format!("cannot read band {} of `{name}` at column {column}, row {row}: {why}", band + 1);
        GeoError::new(ErrorKind::Damaged, message)
    }
}

/// The first directory of a little-endian TIFF.
struct Directory<'a> {
    file: &'a File,
    big: bool,
    entries: Vec<[u8; 20]>,
}

impl<'a> Directory<'a> {
    fn read(file: &'a File) -> Option<Self> {
        let mut head = [0; 16];
        file.read_exact_at(&mut head, 0).ok()?;
        let big = match &head[..4] {
            b"II\x2A\0" => false,
            b"II\x2B\0" => true,
            _ => return None,
        };
        let start = if big { number(&head[8..16]) } else { number(&head[4..8]) };
        let (count_size, entry_size) = if big { (8, 20) } else { (2, 12) };
        let mut count = [0; 8];
        file.read_exact_at(&mut count[..count_size], start).ok()?;
        let count = number(&count[..count_size]);
        if count > MOST_ENTRIES {
            return None;
        }
        let mut bytes = vec![0; count as usize * entry_size];
        file.read_exact_at(&mut bytes, start + count_size as u64).ok()?;
        let entries = bytes
            .chunks_exact(entry_size)
            .map(|entry| {
                let mut padded = [0; 20];
                padded[..entry_size].copy_from_slice(entry);
                padded
            })
            .collect();
        Some(Self { file, big, entries })
    }

    /// All values of a tag of whole numbers.
    fn all(&self, tag: u16) -> Option<Vec<u64>> {
        let entry = self.entries.iter().find(|entry| number(&entry[..2]) == u64::from(tag))?;
        let size = match number(&entry[2..4]) {
            3 => 2,
            4 => 4,
            16 => 8,
            _ => return None,
        };
        let (count, value) =
            if self.big { (number(&entry[4..12]), &entry[12..20]) } else { (number(&entry[4..8]), &entry[8..12]) };
        let count = usize::try_from(count).ok().filter(|count| *count <= MOST_TILES)?;
        let mut bytes = vec![0; count * size];
        if bytes.len() <= value.len() {
            bytes.copy_from_slice(&value[..count * size]);
        } else {
            self.file.read_exact_at(&mut bytes, number(value)).ok()?;
        }
        Some(bytes.chunks_exact(size).map(number).collect())
    }

    /// The first value of a tag.
    fn one(&self, tag: u16) -> Option<u64> {
        self.all(tag)?.first().copied()
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
