//! Chip sets: the manifest, and reading chips.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata};
use serde::{Deserialize, Serialize};
use swath_task::Digest;

use crate::error::Error;
use crate::{CHIPS_FORMAT, MANIFEST};

/// A shard's header is a few hundred bytes; one that claims more than this is not ours.
const LONGEST_HEADER: u64 = 1 << 20;
/// Values that are read at once.
const READ: usize = 1 << 18;

/// `manifest.json` of a chip set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipManifest {
    /// [`CHIPS_FORMAT`].
    pub format: String,
    /// Rows and columns of a chip.
    pub size: usize,
    /// Pixels from one chip to the next.
    pub stride: usize,
    /// Bands of `image`, in order.
    pub bands: Vec<String>,
    /// CRS of the chips: `EPSG:32617`, or WKT where it has no code.
    pub crs: String,
    /// What the chips were cut from.
    pub sources: Sources,
    /// Pixels of each label over all chips, those of several chips counted in each; without the NaN ones.
    pub labels: Vec<LabelCount>,
    /// The files that hold the chips.
    pub shards: Vec<Shard>,
    /// The known sites that chips show; none where the label does not tell which site is which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sites: Option<Vec<ChipSite>>,
    /// The chips, in the order in which they lie in the shards.
    pub chips: Vec<Chip>,
}

/// A known site that at least one chip shows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChipSite {
    /// The same in every set that shows it: its name and place.
    pub id: String,
    /// Longitude of its centre in degrees, WGS 84.
    pub lon: f64,
    /// Latitude of its centre.
    pub lat: f64,
    /// How far around it, or around its outline, pixels are positive, in metres.
    pub buffer_m: f64,
}

/// Digests of what chips were cut from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// The raster.
    pub raster: Digest,
    /// The label.
    pub label: Digest,
}

/// How many pixels have a label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelCount {
    /// The label: 0, 0.5, 1, or the number of a class. The upper end of a bin, which belongs to it, where `from` is told.
    pub value: f32,
    /// The lower end of a bin, which does not belong to it: of labels between 0 and 1 that are too many to tell apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<f32>,
    /// Pixels.
    pub pixels: u64,
}

/// A file of chips.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// Name in the folder.
    pub file: String,
    /// Chips in it.
    pub chips: usize,
    /// Size in bytes.
    pub bytes: u64,
    /// Digest of its content.
    pub digest: Digest,
}

/// A chip: where it lies in the set and on the globe, and what is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chip {
    /// Unlike that of any other chip, also of other sets: digests of its sources, row and column.
    pub id: String,
    /// Index of its shard.
    pub shard: usize,
    /// Its place in the shard, from 0.
    pub at: usize,
    /// The pixels of the raster that it shows: column, row, width, height. Less than `size` only where the raster is smaller.
    pub window: [usize; 4],
    /// GDAL's six numbers.
    pub transform: [f64; 6],
    /// Left, bottom, right, top of `window` in the CRS.
    pub bounds: [f64; 4],
    /// West, south, east, north in degrees, WGS 84, around `bounds`; west > east crosses the antimeridian.
    pub bbox: [f64; 4],
    /// Share of the pixels of `window` that have a label and data in all bands.
    pub valid: f64,
    /// Share of the valid pixels that belong to a class or site (label above 0.5).
    pub positive: f64,
    /// Share of the valid pixels that are ambiguous (label above 0, up to 0.5).
    pub ambiguous: f64,
    /// Pixels of each class, 0 included. None in sets that were made before it was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<LabelCount>,
    /// Ids of the known sites of which it shows a positive pixel, see [`ChipManifest::sites`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<String>,
    /// Ground that `window` covers, in square kilometres. None in sets that were made before it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub area_km2: Option<f64>,
    /// Mean of each band over its pixels with data; none without.
    pub mean: Vec<Option<f32>>,
    /// Standard deviation of each band, as numpy's `std`.
    pub std: Vec<Option<f32>>,
    /// Digest of its pixels and labels.
    pub digest: Digest,
}

impl ChipManifest {
    /// Values of an image: bands times rows times columns.
    pub fn image_len(&self) -> usize {
        self.bands.len() * self.label_len()
    }

    /// Values of a label.
    pub fn label_len(&self) -> usize {
        self.size * self.size
    }

    fn read(path: &Path) -> Result<(Self, Digest), Error> {
        let text = std::fs::read(path).map_err(|error| Error::read(path, error))?;
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| Error::manifest(path, error.to_string()))?;
        manifest.check().map_err(|reason| Error::manifest(path, reason))?;
        Ok((manifest, Digest::of(&text)))
    }

    /// What the parts of a manifest must agree on.
    fn check(&self) -> Result<(), String> {
        if self.format != CHIPS_FORMAT {
            return Err(format!("its format is `{}`, this program reads `{CHIPS_FORMAT}`", self.format));
        }
        if self.size == 0 || self.size > 1 << 15 || self.bands.is_empty() || self.bands.len() > 4096 {
            return Err(format!("chips of {} bands and {} pixels a side", self.bands.len(), self.size));
        }
        for shard in &self.shards {
            if shard.file.is_empty() || shard.file.contains(['/', '\\']) || shard.file.starts_with('.') {
                return Err(format!("`{}` is not the name of a shard", shard.file));
            }
        }
        let places =
            self.shards.iter().enumerate().flat_map(|(shard, told)| (0..told.chips).map(move |at| (shard, at)));
        let mut count = 0;
        for (chip, place) in self.chips.iter().zip(places) {
            if (chip.shard, chip.at) != place
                || chip.mean.len() != self.bands.len()
                || chip.std.len() != self.bands.len()
            {
                return Err(format!("chip `{}` is not where the shards have it, or has other bands", chip.id));
            }
            count += 1;
        }
        let told: usize = self.shards.iter().map(|shard| shard.chips).sum();
        if count != self.chips.len() || count != told {
            return Err(format!("it lists {} chips, its shards hold {told}", self.chips.len()));
        }
        let named: BTreeSet<&String> = self.sites.iter().flatten().map(|site| &site.id).collect();
        for chip in &self.chips {
            if let Some(site) = chip.sites.iter().find(|site| !named.contains(site)) {
                return Err(format!("chip `{}` shows the site `{site}`, which is not among its sites", chip.id));
            }
        }
        Ok(())
    }
}

/// Where the two tensors of a shard begin.
#[derive(Clone, Copy, Debug)]
struct Tensors {
    image: u64,
    label: u64,
}

/// A chip set open for reading. Many threads may read it at a time.
#[derive(Debug)]
pub struct ChipSet {
    folder: PathBuf,
    manifest: ChipManifest,
    digest: Digest,
    tensors: Vec<Tensors>,
}

impl ChipSet {
    /// Opens a folder: reads the manifest, and the header of every shard.
    ///
    /// # Errors
    /// A manifest that is wrong, a shard that is missing, cut short or of another shape. Whether pixels are those that were
    /// written only [`ChipSet::verify`] finds out.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (manifest, digest) = ChipManifest::read(&folder.join(MANIFEST))?;
        let tensors = manifest.shards.iter().map(|shard| header(&folder.join(&shard.file), shard, &manifest));
        let tensors = tensors.collect::<Result<_, _>>()?;
        Ok(Self { folder: folder.to_owned(), manifest, digest, tensors })
    }

    /// What the set says of itself.
    pub fn manifest(&self) -> &ChipManifest {
        &self.manifest
    }

    /// Digest of the manifest, and by the digests in it of all pixels: the identity of the set.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Reads a chip by its index in the manifest. The slices hold [`ChipManifest::image_len`] and
    /// [`ChipManifest::label_len`] values, `scratch` is the reader's own and stays small.
    ///
    /// # Panics
    /// With slices of another length or an index beyond the last chip.
    pub fn read(&self, index: usize, image: &mut [f32], label: &mut [f32], scratch: &mut Vec<u8>) -> Result<(), Error> {
        assert_eq!(image.len(), self.manifest.image_len());
        self.read_bands(index, 0, image, scratch)?;
        self.read_label(index, label, scratch)
    }

    /// Reads as many bands of a chip as fit into the slice, from `first` on.
    ///
    /// # Panics
    /// With a slice that holds no whole number of bands or more than there are, or an index beyond the last chip.
    pub fn read_bands(
        &self,
        index: usize,
        first: usize,
        bands: &mut [f32],
        scratch: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let plane = self.manifest.label_len();
        assert!(bands.len().is_multiple_of(plane) && first * plane + bands.len() <= self.manifest.image_len());
        let chip = &self.manifest.chips[index];
        let start = chip.at * self.manifest.image_len() + first * plane;
        self.values(chip.shard, self.tensors[chip.shard].image, start, bands, scratch)
    }

    /// Reads the label of a chip.
    ///
    /// # Panics
    /// With a slice of another length or an index beyond the last chip.
    pub fn read_label(&self, index: usize, label: &mut [f32], scratch: &mut Vec<u8>) -> Result<(), Error> {
        assert_eq!(label.len(), self.manifest.label_len());
        let chip = &self.manifest.chips[index];
        self.values(chip.shard, self.tensors[chip.shard].label, chip.at * label.len(), label, scratch)
    }

    /// Reads values of a tensor that begins at a byte of a shard, from the value `first` on.
    fn values(
        &self,
        shard: usize,
        tensor: u64,
        first: usize,
        values: &mut [f32],
        scratch: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let path = self.folder.join(&self.manifest.shards[shard].file);
        let file = File::open(&path).map_err(|error| Error::read(&path, error))?;
        let mut place = tensor + (first * size_of::<f32>()) as u64;
        for part in values.chunks_mut(READ) {
            scratch.resize(size_of_val(part), 0);
            file.read_exact_at(scratch, place).map_err(|error| Error::read(&path, error))?;
            place += scratch.len() as u64;
            for (value, bytes) in part.iter_mut().zip(scratch.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Ok(())
    }

    /// Reads every shard and compares its digest with the manifest's.
    pub fn verify(&self) -> Result<(), Error> {
        for shard in &self.manifest.shards {
            let path = self.folder.join(&shard.file);
            let file = File::open(&path).map_err(|error| Error::read(&path, error))?;
            let (digest, _) = Digest::of_reader(file).map_err(|error| Error::read(&path, error))?;
            if digest != shard.digest {
                return Err(Error::shard(&path, format!("its digest is {digest}, the manifest has {}", shard.digest)));
            }
        }
        Ok(())
    }
}

/// Reads the header of a shard and holds it against the manifest.
fn header(path: &Path, shard: &Shard, manifest: &ChipManifest) -> Result<Tensors, Error> {
    let failed = |error| Error::read(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    if size != shard.bytes {
        return Err(Error::shard(path, format!("it has {size} bytes, the manifest tells of {}", shard.bytes)));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER || length + 8 > size {
        return Err(Error::shard(path, format!("its header claims {length} bytes")));
    }
    let mut text = vec![0; length as usize];
    file.read_exact(&mut text).map_err(failed)?;
    let metadata: Metadata = serde_json::from_slice(&text)
        .map_err(|error| Error::shard(path, format!("its header is no header: {error}")))?;
    let start = |name: &str, shape: &[usize]| {
        let info = metadata.info(name).filter(|info| info.dtype == Dtype::F32 && info.shape == shape);
        let (from, to) = info.map(|info| info.data_offsets).unwrap_or_default();
        let values: usize = shape.iter().product();
        if info.is_none() || to.checked_sub(from) != Some(values * 4) || 8 + length + to as u64 > size {
            return Err(Error::shard(
                path,
                format!("it has no tensor `{name}` of 32-bit floats, {shape:?}, where its header says"),
            ));
        }
        Ok(8 + length + from as u64)
    };
    let side = manifest.size;
    Ok(Tensors {
        image: start("image", &[shard.chips, manifest.bands.len(), side, side])?,
        label: start("label", &[shard.chips, side, side])?,
    })
}
