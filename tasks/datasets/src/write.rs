//! Writing chip sets, a shard at a time.

use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use swath_task::Digest;

use crate::counts::LabelCounts;
use crate::error::Error;
use crate::set::{Chip, ChipManifest, ChipSite, Shard, Sources};
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
    /// Ground that the window covers, in square kilometres, where it is known.
    pub area_km2: Option<f64>,
}

/// A known site, and the pixels of the raster around it that are positive because of it.
#[derive(Clone, Debug)]
pub struct SiteWindow {
    /// The site.
    pub site: ChipSite,
    /// Column, row, width, height of the box around those pixels.
    pub window: [usize; 4],
}

/// What is in a chip. Measuring takes longer than writing: threads do it, each for its own chips.
#[derive(Clone, Debug)]
pub struct Measures {
    valid: u64,
    positive: u64,
    ambiguous: u64,
    mean: Vec<Option<f32>>,
    std: Vec<Option<f32>>,
    labels: LabelCounts,
}

impl Measures {
    /// Measures an image (band after band) and its label, whose NaN pixels take no part.
    pub fn of(image: &[f32], label: &[f32]) -> Self {
        let count = |of: fn(f32) -> bool| label.iter().filter(|value| of(**value)).count() as u64;
        let moments: Vec<_> = image.chunks_exact(label.len()).map(moments).collect();
        let mut labels = LabelCounts::default();
        labels.add(label);
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

    /// Pixels that belong to a class or site.
    pub fn positive(&self) -> u64 {
        self.positive
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

/// A chip set being written. Memory is twice a shard, and the manifest.
pub struct ChipWriter {
    folder: PathBuf,
    header: Header,
    chips_a_shard: usize,
    images: Vec<u8>,
    labels: Vec<u8>,
    waiting: usize,
    counts: LabelCounts,
    shards: Vec<Shard>,
    chips: Vec<Chip>,
    sites: Option<Sites>,
}

/// Known sites, and which of them chips show.
struct Sites {
    /// By the first row of their windows.
    all: Vec<SiteWindow>,
    shown: Vec<bool>,
    /// Rows of the highest window.
    highest: usize,
}

impl Sites {
    fn new(mut all: Vec<SiteWindow>) -> Self {
        all.sort_by_key(|site| site.window[1]);
        let highest = all.iter().map(|site| site.window[3]).max().unwrap_or(0);
        Self { shown: vec![false; all.len()], all, highest }
    }

    /// Ids of the sites of which a chip of `side` pixels shows a positive one.
    fn of(&mut self, [left, top, width, height]: [usize; 4], label: &[f32], side: usize) -> Vec<String> {
        let first = self.all.partition_point(|site| site.window[1] + self.highest <= top);
        let mut ids = Vec::new();
        for (index, site) in self.all.iter().enumerate().skip(first) {
            let [column, row, columns, rows] = site.window;
            if row >= top + height {
                break;
            }
            let (from, to) = (column.max(left), (column + columns).min(left + width));
            let (above, below) = (row.max(top), (row + rows).min(top + height));
            let line = |row: usize| &label[(row - top) * side..][from - left..to - left];
            if from < to && (above..below).any(|row| line(row).iter().any(|value| *value > POSITIVE_ABOVE)) {
                ids.push(site.site.id.clone());
                self.shown[index] = true;
            }
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn shown(self) -> Vec<ChipSite> {
        let shown = self.all.into_iter().zip(self.shown).filter(|(_, shown)| *shown);
        let mut sites: Vec<ChipSite> = shown.map(|(site, _)| site.site).collect();
        sites.sort_by(|a, b| a.id.cmp(&b.id));
        sites.dedup_by(|a, b| a.id == b.id);
        sites
    }
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
            counts: LabelCounts::default(),
            shards: Vec::new(),
            chips: Vec::new(),
            sites: None,
        })
    }

    /// Tells with each chip, and with the set, which of these sites it shows.
    pub fn with_sites(mut self, sites: Vec<SiteWindow>) -> Self {
        self.sites = Some(Sites::new(sites));
        self
    }

    /// Adds a chip: its image, band after band, and its label, both of `size` times `size` pixels.
    ///
    /// # Panics
    /// With an image or label of another size.
    pub fn push(&mut self, place: &Place, image: &[f32], label: &[f32], measures: &Measures) -> Result<(), Error> {
        let side = self.header.size * self.header.size;
        assert_eq!((image.len(), label.len()), (side * self.header.bands.len(), side));
        let (image_start, label_start) = (self.images.len(), self.labels.len());
        if self.waiting == 0 {
            // All at once: a vector that grows by itself may take twice of what it holds.
            self.images.reserve_exact(self.chips_a_shard * size_of_val(image));
            self.labels.reserve_exact(self.chips_a_shard * size_of_val(label));
        }
        self.images.extend(image.iter().flat_map(|value| value.to_le_bytes()));
        self.labels.extend(label.iter().flat_map(|value| value.to_le_bytes()));
        let pixels = Read::chain(&self.images[image_start..], &self.labels[label_start..]);
        let (digest, _) = Digest::of_reader(pixels).map_err(|error| Error::write(&self.folder, error))?;
        let sites = self.sites.as_mut().map(|sites| sites.of(place.window, label, self.header.size));
        let [column, row, width, height] = place.window;
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let Sources { raster, label } = self.header.sources;
        self.counts.join(&measures.labels);
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
            classes: measures.labels.classes(),
            sites: sites.unwrap_or_default(),
            area_km2: place.area_km2,
            mean: measures.mean.clone(),
            std: measures.std.clone(),
            digest,
        });
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
            labels: self.counts.list(),
            sites: self.sites.map(Sites::shown),
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
