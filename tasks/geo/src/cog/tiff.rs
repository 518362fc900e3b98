//! The bytes of a TIFF: tiles with predictor and DEFLATE, directories, and their order in a COG.

use libdeflater::{CompressionLvl, Compressor};

use super::TILE;
use crate::pixel::{DataType, Pixel};

/// Compresses tiles; keeps its buffers.
pub struct Encoder {
    compressor: Compressor,
    raw: Vec<u8>,
    packed: Vec<u8>,
}

impl Encoder {
    pub fn new(level: u8) -> Self {
        let level = CompressionLvl::new(i32::from(level.clamp(1, 12))).unwrap_or_default();
        Self { compressor: Compressor::new(level), raw: Vec::new(), packed: Vec::new() }
    }

    /// One tile of one band, padded to 512 x 512 with `fill`, as the file holds it.
    pub fn encode<T: Pixel>(&mut self, pixels: &[T], width: usize, height: usize, fill: T) -> &[u8] {
        self.raw.resize(TILE * TILE * size_of::<T>(), 0);
        let mut padded = [fill; TILE];
        for (row, bytes) in self.raw.chunks_exact_mut(TILE * size_of::<T>()).enumerate() {
            if row < height {
                padded[..width].copy_from_slice(&pixels[row * width..][..width]);
            } else if row == height {
                padded = [fill; TILE];
            }
            T::predict(&padded, bytes);
        }
        self.packed.resize(self.compressor.zlib_compress_bound(self.raw.len()), 0);
        // The buffer has the bound that the library asks for: too little room is impossible.
        let size = self.compressor.zlib_compress(&self.raw, &mut self.packed).unwrap_or(0);
        &self.packed[..size]
    }
}

/// A level of the pyramid: its size and the sizes of its compressed tiles, band by band, row by row.
pub struct LevelTable {
    pub width: usize,
    pub height: usize,
    pub sizes: Vec<u32>,
}

/// A tag ready for a directory.
#[derive(Clone, Debug)]
pub struct Tag {
    pub id: u16,
    /// TIFF field type: 2 text, 3 short, 4 long, 12 double, 16 long8.
    pub kind: u16,
    pub count: u64,
    /// Little-endian bytes.
    pub value: Vec<u8>,
}

impl Tag {
    fn shorts(id: u16, values: impl IntoIterator<Item = u16>) -> Self {
        let value: Vec<u8> = values.into_iter().flat_map(u16::to_le_bytes).collect();
        Self { id, kind: 3, count: value.len() as u64 / 2, value }
    }
    fn long(id: u16, value: usize) -> Self {
        Self { id, kind: 4, count: 1, value: (value as u32).to_le_bytes().to_vec() }
    }
    fn longs(id: u16, values: impl IntoIterator<Item = u32>) -> Self {
        let value: Vec<u8> = values.into_iter().flat_map(u32::to_le_bytes).collect();
        Self { id, kind: 4, count: value.len() as u64 / 4, value }
    }
    fn offsets(id: u16, values: &[u64], big: bool) -> Self {
        if big {
            let value: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            return Self { id, kind: 16, count: values.len() as u64, value };
        }
        Self::longs(id, values.iter().map(|v| *v as u32))
    }
}

/// Georeferencing and metadata tags belong to the full resolution; only no-data belongs to overviews, too.
const NODATA_TAG: u16 = 42113;

/// GDAL's note on the structure (its COG driver's documentation, "header ghost area"): each tile is preceded by its
/// size and followed by its last four bytes once more. The last character leaves room to turn `NO` into `YES`.
const STRUCTURE: &str = "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n\
    BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n ";

/// One tile as it lies in the file.
pub fn write_tile(out: &mut impl std::io::Write, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(bytes)?;
    out.write_all(&bytes[bytes.len().saturating_sub(4)..])
}

/// All that precedes the tiles: header, structure note, directories. Tiles follow it, last level first.
pub fn header(levels: &[LevelTable], bands: usize, data_type: DataType, georeference: &[Tag]) -> Vec<u8> {
    let tile_bytes: u64 = levels.iter().flat_map(|level| &level.sizes).map(|size| u64::from(*size)).sum();
    let tables: u64 = levels.iter().map(|level| level.sizes.len() as u64 * 20 + 4096).sum();
    let metadata: u64 = georeference.iter().map(|tag| tag.value.len() as u64).sum();
    let big = tile_bytes + tables + metadata > u64::from(u32::MAX) - (1 << 20);
    // Offsets have fixed widths, so a first pass with zeros has the right length.
    let length = assemble(levels, bands, data_type, georeference, big, 0).len() as u64;
    assemble(levels, bands, data_type, georeference, big, length)
}

fn assemble(
    levels: &[LevelTable],
    bands: usize,
    data_type: DataType,
    georeference: &[Tag],
    big: bool,
    data_start: u64,
) -> Vec<u8> {
    let mut offsets = vec![Vec::new(); levels.len()];
    let mut at = data_start;
    for (level, offsets) in levels.iter().zip(&mut offsets).rev() {
        for size in &level.sizes {
            offsets.push(at + 4);
            at += u64::from(*size) + 8;
        }
    }
    let mut out: Vec<u8> = if big { b"II\x2B\0\x08\0\0\0".to_vec() } else { b"II\x2A\0".to_vec() };
    let first = out.len();
    out.extend_from_slice(if big { &[0; 8] } else { &[0; 4] });
    out.extend_from_slice(
        format!("GDAL_STRUCTURAL_METADATA_SIZE={:06} bytes\n{STRUCTURE}", STRUCTURE.len()).as_bytes(),
    );
    let mut link = first;
    for (index, (level, offsets)) in levels.iter().zip(&offsets).enumerate() {
        out.resize(out.len().next_multiple_of(16), 0);
        let here = out.len() as u64;
        patch(&mut out, link, here, big);
        let tags = directory(index, level, offsets, bands, data_type, georeference, big);
        link = write_directory(&mut out, &tags, big);
    }
    out.resize(out.len().next_multiple_of(16), 0);
    out
}

fn patch(out: &mut [u8], at: usize, value: u64, big: bool) {
    if big {
        out[at..at + 8].copy_from_slice(&value.to_le_bytes());
    } else {
        out[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
    }
}

fn directory(
    index: usize,
    level: &LevelTable,
    offsets: &[u64],
    bands: usize,
    data_type: DataType,
    georeference: &[Tag],
    big: bool,
) -> Vec<Tag> {
    let bits = data_type.size() as u16 * 8;
    let (predictor, format) = match data_type {
        DataType::F32 | DataType::F64 => (3, 3),
        DataType::I16 | DataType::I32 => (2, 2),
        DataType::U8 | DataType::U16 | DataType::U32 => (2, 1),
    };
    let mut tags = vec![
        Tag::long(254, usize::from(index > 0)),
        Tag::long(256, level.width),
        Tag::long(257, level.height),
        Tag::shorts(258, vec![bits; bands]),
        Tag::shorts(259, [8]),
        Tag::shorts(262, [1]),
        Tag::shorts(277, [bands as u16]),
        Tag::shorts(284, [if bands > 1 { 2 } else { 1 }]),
        Tag::shorts(317, [predictor]),
        Tag::long(322, TILE),
        Tag::long(323, TILE),
        Tag::offsets(324, offsets, big),
        Tag::longs(325, level.sizes.iter().copied()),
        Tag::shorts(339, vec![format; bands]),
    ];
    if bands > 1 {
        tags.push(Tag::shorts(338, vec![0; bands - 1]));
    }
    tags.extend(georeference.iter().filter(|tag| index == 0 || tag.id == NODATA_TAG).cloned());
    tags.sort_by_key(|tag| tag.id);
    tags
}

/// Writes a directory and the values that do not fit into it; returns where the link to the next one lies.
fn write_directory(out: &mut Vec<u8>, tags: &[Tag], big: bool) -> usize {
    let (word, entry) = if big { (8, 20) } else { (4, 12) };
    if big {
        out.extend_from_slice(&(tags.len() as u64).to_le_bytes());
    } else {
        out.extend_from_slice(&(tags.len() as u16).to_le_bytes());
    }
    let start = out.len();
    let link = start + tags.len() * entry;
    out.resize(link + word, 0);
    for (index, tag) in tags.iter().enumerate() {
        let mut record = Vec::with_capacity(entry);
        record.extend_from_slice(&tag.id.to_le_bytes());
        record.extend_from_slice(&tag.kind.to_le_bytes());
        if big {
            record.extend_from_slice(&tag.count.to_le_bytes());
        } else {
            record.extend_from_slice(&(tag.count as u32).to_le_bytes());
        }
        if tag.value.len() <= word {
            record.extend_from_slice(&tag.value);
        } else {
            out.resize(out.len().next_multiple_of(8), 0);
            let here = out.len() as u64;
            record.extend_from_slice(&here.to_le_bytes()[..word]);
            out.extend_from_slice(&tag.value);
        }
        record.resize(entry, 0);
        out[start + index * entry..][..entry].copy_from_slice(&record);
    }
    link
}
