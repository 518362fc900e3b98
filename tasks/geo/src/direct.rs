//! Reading tiled DEFLATE GeoTIFFs without GDAL in between.
//!
//! GDAL decodes a tile into its block cache, under a lock, and copies the window from there. Composites read each tile
//! once, so all of that is wasted: here a tile is read, decompressed (which verifies its checksum) and its rows go
//! straight to the caller. Whatever is not the plain common case (strips, other compressions, other byte order) is left
//! to GDAL, which has opened the file already and whose word on sizes and types is taken.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use libdeflater::Decompressor;

use crate::error::{ErrorKind, GeoError, Result};
use crate::grid::PixelWindow;
use crate::pixel::{DataType, Pixel};
use crate::raster::{Ranges, RasterInfo};

/// Larger directories or tiles than these are left to GDAL.
const MOST_ENTRIES: u64 = 4096;
const MOST_TILE_BYTES: usize = 32 << 20;
const MOST_TILES: usize = 1 << 22;

/// Packed tiles fetched at once from afar, at most.
const BATCH: u64 = 8 << 20;

/// Where the bytes of a file are.
#[derive(Clone)]
pub enum Place {
    /// On this machine. Opened for each read: a composite has more files than a process may hold open.
    Path(PathBuf),
    /// Wherever somebody fetches them from.
    Ranges(Arc<dyn Ranges>),
}

/// A file while it is read.
struct Content<'a> {
    bytes: Bytes<'a>,
    /// What failed while the directory was read.
    unfetched: Cell<Option<GeoError>>,
}

enum Bytes<'a> {
    File(File),
    Ranges(&'a dyn Ranges),
}

impl Place {
    fn open(&self) -> std::io::Result<Content<'_>> {
        let bytes = match self {
            Self::Path(path) => Bytes::File(File::open(path)?),
            Self::Ranges(ranges) => Bytes::Ranges(&**ranges),
        };
        Ok(Content { bytes, unfetched: Cell::new(None) })
    }
}

/// Why bytes did not come.
enum Failure {
    /// They are not there, or not what they should be.
    Damaged(String),
    /// Whoever fetches them could not.
    Unfetched(GeoError),
}

impl Content<'_> {
    fn read(&self, parts: &mut [(u64, &mut [u8])]) -> std::result::Result<(), Failure> {
        match &self.bytes {
            Bytes::File(file) => {
                for (offset, buffer) in parts {
                    file.read_exact_at(buffer, *offset).map_err(|error| match error.kind() {
                        std::io::ErrorKind::UnexpectedEof => Failure::Damaged("the file ends within the tile".into()),
                        _ => Failure::Damaged(error.to_string()),
                    })?;
                }
                Ok(())
            }
            Bytes::Ranges(ranges) => {
                let size = ranges.size();
                let ends = parts.iter().map(|(offset, buffer)| offset.checked_add(buffer.len() as u64));
                if ends.into_iter().any(|end| end.is_none_or(|end| end > size)) {
                    let why = format!("the file has {size} bytes and ends within the tile");
                    return Err(Failure::Damaged(why));
                }
                ranges.read(parts).map_err(Failure::Unfetched)
            }
        }
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Option<()> {
        match self.read(&mut [(offset, buffer)]) {
            Ok(()) => Some(()),
            Err(Failure::Damaged(_)) => None,
            Err(Failure::Unfetched(error)) => {
                self.unfetched.set(Some(error));
                None
            }
        }
    }
}

/// Where the tiles of a file lie.
pub struct Direct {
    place: Place,
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
    /// Decompressor, compressed bytes of tiles one after the other, raw bytes of one.
    static SCRATCH: RefCell<(Decompressor, Vec<u8>, Vec<u8>)> =
        RefCell::new((Decompressor::new(), Vec::new(), Vec::new()));
}

impl Direct {
    /// The tile table of a file that GDAL describes as `info`; `None` when it is not the plain case.
    pub fn open(place: Place, info: &RasterInfo) -> Result<Option<Self>> {
        let Ok(content) = place.open() else { return Ok(None) };
        let direct = Self::of(place.clone(), &content, info);
        // What could not be fetched is no reason to take the slow way from here on.
        match content.unfetched.take() {
            Some(error) => Err(error),
            None => Ok(direct),
        }
    }

    fn of(place: Place, content: &Content<'_>, info: &RasterInfo) -> Option<Self> {
        let data_type = info.bands.first()?.data_type;
        if info.bands.iter().any(|band| band.data_type != data_type) {
            return None;
        }
        let tags = Directory::read(content)?;
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
        Some(Self { place, data_type, tile, across, down, predictor, offsets, sizes, nodata })
    }

    /// Whether [`Direct::read`] can give pixels of this type.
    pub fn gives<T: Pixel>(&self) -> bool {
        self.data_type == T::TYPE
    }

    /// Reads a window that lies within the raster into a buffer of its size.
    pub fn read<T: Pixel>(&self, name: &str, band: usize, window: &PixelWindow, out: &mut [T]) -> Result<()> {
        let content = self
            .place
            .open()
            .map_err(|error| GeoError::new(ErrorKind::NotFound, format!("cannot open `{name}`: {error}")))?;
        let mut tiles = self.tiles(band, window);
        let limit = self.raw_size() as u64 * 2 + 4096;
        if let Some(tile) = tiles.iter().find(|tile| self.sizes[tile.index] > limit) {
            let why = format!("its tile claims {} bytes", self.sizes[tile.index]);
            return Err(self.failed(name, band, &[*tile], Failure::Damaged(why)));
        }
        // A tile that was never written is no-data by GDAL's convention.
        tiles.retain(|tile| {
            let written = self.sizes[tile.index] > 0;
            if !written {
                (0..tile.common.height).for_each(|line| out[tile.target(window, line)].fill(T::from_f64(self.nodata)));
            }
            written
        });
        SCRATCH.with_borrow_mut(|(decompressor, packed, raw)| {
            let mut line = vec![T::default(); self.tile.0];
            let mut rest = &tiles[..];
            while !rest.is_empty() {
                let (batch, later) = rest.split_at(self.batch(&content, rest));
                rest = later;
                self.fetch(&content, batch, packed).map_err(|why| self.failed(name, band, batch, why))?;
                let mut packed = &packed[..];
                for tile in batch {
                    let (own, others) = packed.split_at(self.sizes[tile.index] as usize);
                    packed = others;
                    self.unpack(own, decompressor, raw)
                        .map_err(|why| self.failed(name, band, &[*tile], Failure::Damaged(why)))?;
                    self.lay(tile, window, raw, &mut line, out);
                }
            }
            Ok(())
        })
    }

    /// The tiles of a band that a window touches.
    fn tiles(&self, band: usize, window: &PixelWindow) -> Vec<Tile> {
        let (width, height) = self.tile;
        let mut tiles = Vec::new();
        for row in window.row / height..=(window.row + window.height - 1) / height {
            for column in window.column / width..=(window.column + window.width - 1) / width {
                let index = (band * self.down + row) * self.across + column;
                let area = PixelWindow::new(column * width, row * height, width, height);
                tiles.extend(area.intersection(window).map(|common| Tile { index, area, common }));
            }
        }
        tiles
    }

    /// How many of `tiles` are fetched at once: one from this machine, and some from afar.
    fn batch(&self, content: &Content<'_>, tiles: &[Tile]) -> usize {
        if matches!(content.bytes, Bytes::File(_)) {
            return 1;
        }
        let mut bytes: u64 = 0;
        let fits = |tile: &&Tile| {
            bytes = self.sizes[tile.index].saturating_add(bytes);
            bytes <= BATCH
        };
        tiles.iter().take_while(fits).count().max(1)
    }

    /// Fetches the packed bytes of tiles, one after the other.
    fn fetch(&self, content: &Content<'_>, tiles: &[Tile], packed: &mut Vec<u8>) -> std::result::Result<(), Failure> {
        packed.resize(tiles.iter().map(|tile| self.sizes[tile.index] as usize).sum(), 0);
        let mut parts = Vec::with_capacity(tiles.len());
        let mut rest = &mut packed[..];
        for tile in tiles {
            let (own, others) = rest.split_at_mut(self.sizes[tile.index] as usize);
            parts.push((self.offsets[tile.index], own));
            rest = others;
        }
        content.read(&mut parts)
    }

    fn raw_size(&self) -> usize {
        self.tile.0 * self.tile.1 * self.data_type.size()
    }

    fn unpack(
        &self,
        packed: &[u8],
        decompressor: &mut Decompressor,
        raw: &mut Vec<u8>,
    ) -> std::result::Result<(), String> {
        let size = self.raw_size();
        raw.resize(size, 0);
        match decompressor.zlib_decompress(packed, raw) {
            Ok(count) if count == size => Ok(()),
            Ok(count) => Err(format!("the tile holds {count} of {size} bytes")),
            Err(error) => Err(format!("the tile cannot be decompressed ({error})")),
        }
    }

    /// Lays the rows of an unpacked tile into the window; `line` holds one row of a tile meanwhile.
    fn lay<T: Pixel>(&self, tile: &Tile, window: &PixelWindow, raw: &mut [u8], line: &mut [T], out: &mut [T]) {
        let Tile { area, common, .. } = tile;
        let stride = self.tile.0 * size_of::<T>();
        let (left, top) = (common.column - area.column, common.row - area.row);
        for (number, bytes) in raw[top * stride..].chunks_exact_mut(stride).take(common.height).enumerate() {
            let place = &mut out[tile.target(window, number)];
            match self.predictor {
                1 => T::plain(&bytes[left * size_of::<T>()..], place),
                _ if common.width == self.tile.0 => T::restore(bytes, place),
                _ => {
                    T::restore(bytes, line);
                    place.copy_from_slice(&line[left..left + common.width]);
                }
            }
        }
    }

    fn failed(&self, name: &str, band: usize, tiles: &[Tile], why: Failure) -> GeoError {
        let (column, row) = tiles.first().map_or((0, 0), |tile| (tile.area.column, tile.area.row));
        let (kind, why) = match why {
            Failure::Damaged(why) => (ErrorKind::Damaged, why),
            Failure::Unfetched(error) => (error.kind(), error.message().to_owned()),
        };
        let message = format!("cannot read band {} of `{name}` at column {column}, row {row}: {why}", band + 1);
        GeoError::new(kind, message)
    }
}

/// A tile that a window touches.
#[derive(Clone, Copy)]
struct Tile {
    index: usize,
    /// Its pixels.
    area: PixelWindow,
    /// Those of them within the window.
    common: PixelWindow,
}

impl Tile {
    /// Where line `line` of the common pixels lies in the window's buffer.
    fn target(&self, window: &PixelWindow, line: usize) -> std::ops::Range<usize> {
        let at = (self.common.row + line - window.row) * window.width + self.common.column - window.column;
        at..at + self.common.width
    }
}

/// The first directory of a little-endian TIFF.
struct Directory<'a> {
    file: &'a Content<'a>,
    big: bool,
    entries: Vec<[u8; 20]>,
}

impl<'a> Directory<'a> {
    fn read(file: &'a Content<'a>) -> Option<Self> {
        let mut head = [0; 16];
        file.read_exact_at(&mut head, 0)?;
        let big = match &head[..4] {
            b"II\x2A\0" => false,
            b"II\x2B\0" => true,
            _ => return None,
        };
        let start = if big { number(&head[8..16]) } else { number(&head[4..8]) };
        let (count_size, entry_size) = if big { (8, 20) } else { (2, 12) };
        let mut count = [0; 8];
        file.read_exact_at(&mut count[..count_size], start)?;
        let count = number(&count[..count_size]);
        if count > MOST_ENTRIES {
            return None;
        }
        let mut bytes = vec![0; count as usize * entry_size];
        file.read_exact_at(&mut bytes, start.checked_add(count_size as u64)?)?;
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
            self.file.read_exact_at(&mut bytes, number(value))?;
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
