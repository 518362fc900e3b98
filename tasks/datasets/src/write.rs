//! Writing chip sets, a shard at a time.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use swath_task::Digest;

use crate::error::Error;
use crate::set::{Chip, ChipManifest, LabelCount, Shard, Sources};
use crate::{CHIPS_FORMAT, MANIFEST, POSITIVE_ABOVE};

/// What all chips of a set share.
#[derive(Clone, Debug)]
pub struct Header {
    /// Rows and columns of a chip.
    pub size: usize,
    /// Pixels from one chip to the next.
    pub stride: usize,
    /// Bands, in order.
    pub bands: Vec<String>,
    /// `EPSG:32617`, or WKT.
    pub crs: String,
    /// What the chips are cut from.
    pub sources: Sources,
}

/// Where a chip lies; see [`Chip`].
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Column, row, width, height.
    pub window: [usize; 4],
    /// GDAL's six numbers.
    pub transform: [f64; 6],
    /// Left, bottom, right, top in the CRS.
    pub bounds: [f64; 4],
    /// West, south, east, north in degrees.
    pub bbox: [f64; 4],
}

/// What is in a chip. Measuring takes longer than writing: threads do it, each for its own chips.
#[derive(Clone, Debug)]
pub struct Measures {
    valid: u64,
    positive: u64,
    ambiguous: u64,
    mean: Vec<Option<f32>>,
    std: Vec<Option<f32>>,
    labels: Vec<LabelCount>,
}

impl Measures {
    /// Measures an image (band after band) and its label, whose NaN pixels take no part.
    pub fn of(image: &[f32], label: &[f32]) -> Self {
        let count = |of: fn(f32) -> bool| label.iter().filter(|value| of(**value)).count() as u64;
        let moments: Vec<_> = image.chunks_exact(label.len()).map(moments).collect();
        let mut labels = Vec::new();
        count_labels(label, &mut labels);
        Self {
            valid: count(|value| !value.is_nan()),
            positive: count(|value| value > POSITIVE_ABOVE),
            ambiguous: count(|value| value > 0.0 && value <= POSITIVE_ABOVE),
            mean: moments.iter().map(|moments| moments.map(|(mean, _)| mean as f32)).collect(),
            std: moments.iter().map(|moments| moments.map(|(_, std)| std as f32)).collect(),
            labels,
        }
    }

    /// Pixels that take part.
    pub fn valid(&self) -> u64 {
        self.valid
    }

    /// Pixels of each label, by value.
    pub fn labels(&self) -> &[LabelCount] {
        &self.labels
    }
}

/// Mean and standard deviation of the values that are not NaN.
fn moments(values: &[f32]) -> Option<(f64, f64)> {
    let valid = || values.iter().filter(|value| !value.is_nan()).map(|value| f64::from(*value));
    let count = valid().count() as f64;
    if count == 0.0 {
        return None;
    }
    let mean = valid().sum::<f64>() / count;
    let spread = valid().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count;
    Some((mean, spread.sqrt()))
}

/// Adds the labels that are not NaN to counts that stay sorted by value.
pub fn count_labels(labels: &[f32], counts: &mut Vec<LabelCount>) {
    let mut rest = labels;
    while let Some(value) = rest.first().copied() {
        // Labels come in runs.
        let run = rest.iter().take_while(|other| **other == value || value.is_nan() && other.is_nan()).count();
        if !value.is_nan() {
            add_label(LabelCount { value, pixels: run as u64 }, counts);
        }
        rest = &rest[run..];
    }
}

fn add_label(label: LabelCount, counts: &mut Vec<LabelCount>) {
    match counts.binary_search_by(|count| count.value.total_cmp(&label.value)) {
        Ok(place) => counts[place].pixels += label.pixels,
        Err(place) => counts.insert(place, label),
    }
}

/// A chip set being written. Memory is twice a shard.
pub struct ChipWriter {
    folder: PathBuf,
    header: Header,
    chips_a_shard: usize,
    images: Vec<u8>,
    labels: Vec<u8>,
    waiting: usize,
    counts: Vec<LabelCount>,
    shards: Vec<Shard>,
    chips: Vec<Chip>,
}

impl ChipWriter {
    /// Starts a set in `folder`, which is made. A shard takes as many chips as fit into `shard_bytes`, one at least.
    pub fn create(folder: &Path, header: Header, shard_bytes: usize) -> Result<Self, Error> {
        std::fs::create_dir_all(folder).map_err(|error| Error::write(folder, error))?;
        let chip = header.size * header.size * (header.bands.len() + 1) * size_of::<f32>();
        Ok(Self {
            folder: folder.to_owned(),
            header,
            chips_a_shard: (shard_bytes / chip.max(1)).max(1),
            images: Vec::new(),
            labels: Vec::new(),
            waiting: 0,
            counts: Vec::new(),
            shards: Vec::new(),
            chips: Vec::new(),
        })
    }

    /// Adds a chip: its image, band after band, and its label, both of `size` times `size` pixels.
    ///
    /// # Panics
    /// With an image or label of another size.
    pub fn push(&mut self, place: &Place, image: &[f32], label: &[f32], measures: &Measures) -> Result<(), Error> {
        let side = self.header.size * self.header.size;
        assert_eq!((image.len(), label.len()), (side * self.header.bands.len(), side));
        let (image_start, label_start) = (self.images.len(), self.labels.len());
        self.images.extend(image.iter().flat_map(|value| value.to_le_bytes()));
        self.labels.extend(label.iter().flat_map(|value| value.to_le_bytes()));
        let pixels = [&self.images[image_start..], &self.labels[label_start..]].concat();
        let [column, row, width, height] = place.window;
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let Sources { raster, label } = self.header.sources;
        self.chips.push(Chip {
            id: format!("{}-{}-{row:06}-{column:06}", &raster.hex()[..8], &label.hex()[..8]),
            shard: self.shards.len(),
            at: self.waiting,
            window: place.window,
            transform: place.transform,
            bounds: place.bounds,
            bbox: place.bbox,
            valid: share(measures.valid, (width * height) as u64),
            positive: share(measures.positive, measures.valid),
            ambiguous: share(measures.ambiguous, measures.valid),
            mean: measures.mean.clone(),
            std: measures.std.clone(),
            digest: Digest::of(&pixels),
        });
        for label in &measures.labels {
            add_label(*label, &mut self.counts);
        }
        self.waiting += 1;
        if self.waiting == self.chips_a_shard { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let (side, bands) = (self.header.size, self.header.bands.len());
        let file = format!("chips-{:05}.safetensors", self.shards.len());
        let path = self.folder.join(&file);
        let failed =
            |error: safetensors::SafeTensorError| Error::write(&path, std::io::Error::other(error.to_string()));
        let image = TensorView::new(Dtype::F32, vec![self.waiting, bands, side, side], &self.images).map_err(failed)?;
        let label = TensorView::new(Dtype::F32, vec![self.waiting, side, side], &self.labels).map_err(failed)?;
        let bytes = safetensors::serialize([("image", image), ("label", label)], None).map_err(failed)?;
        std::fs::write(&path, &bytes).map_err(|error| Error::write(&path, error))?;
        let digest = Digest::of(&bytes);
        self.shards.push(Shard { file, chips: self.waiting, bytes: bytes.len() as u64, digest });
        self.images.clear();
        self.labels.clear();
        self.waiting = 0;
        Ok(())
    }

    /// Completes the set and writes its manifest.
    pub fn finish(mut self) -> Result<ChipManifest, Error> {
        if self.waiting > 0 {
            self.flush()?;
        }
        let manifest = ChipManifest {
            format: CHIPS_FORMAT.to_owned(),
            size: self.header.size,
            stride: self.header.stride,
            bands: self.header.bands,
            crs: self.header.crs,
            sources: self.header.sources,
            labels: self.counts,
            shards: self.shards,
            chips: self.chips,
        };
        let path = self.folder.join(MANIFEST);
        let file = std::fs::File::create(&path).map_err(|error| Error::write(&path, error))?;
        let mut out = std::io::BufWriter::new(file);
        let written = serde_json::to_writer(&mut out, &manifest).map_err(std::io::Error::from);
        let written = written.and_then(|()| std::io::Write::flush(&mut out));
        written.map_err(|error| Error::write(&path, error))?;
        Ok(manifest)
    }
}
