//! Rasters made in the tests themselves, byte by byte: uncompressed GeoTIFFs with any oddity a test needs.

use std::path::Path;

use swath_testkit::python;

/// A GeoTIFF of 32-bit floats, one strip a row, bands one after the other.
pub struct Tiff {
    pub width: u32,
    pub height: u32,
    /// Values of each band, row by row.
    pub bands: Vec<Vec<f32>>,
    /// Band names; empty: none.
    pub names: Vec<&'static str>,
    /// Projected EPSG code; `None`: no CRS and no place.
    pub epsg: Option<u16>,
    /// Left edge, top edge, pixel size.
    pub place: (f64, f64, f64),
    pub nodata: Option<&'static str>,
}

impl Tiff {
    /// One band of `width` x `height` made by a function of column and row, UTM 33 north, 10 m.
    pub fn of(width: u32, height: u32, value: impl Fn(u32, u32) -> f32) -> Self {
        let values = (0..height).flat_map(|row| (0..width).map(move |column| (column, row)));
        Self {
            width,
            height,
            bands: vec![values.map(|(column, row)| value(column, row)).collect()],
            names: Vec::new(),
            epsg: Some(32633),
            place: (500_000.0, 5_300_000.0, 10.0),
            nodata: None,
        }
    }

    pub fn write(&self, path: &Path) {
        // (tag, type, count, bytes), in ascending order of tags; types: 2 ASCII, 3 SHORT, 4 LONG, 12 DOUBLE.
        let mut tags: Vec<(u16, u16, u32, Vec<u8>)> = Vec::new();
        let short = |values: &[u16]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let long = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let double = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
        let ascii = |text: &str| [text.as_bytes(), &[0]].concat();
        let count = self.bands.len() as u16;
        let strips = self.height * u32::from(count);
        let row_bytes = self.width * 4;
        let offsets: Vec<u32> = (0..strips).map(|strip| 8 + strip * row_bytes).collect();
        tags.push((256, 4, 1, long(&[self.width])));
        tags.push((257, 4, 1, long(&[self.height])));
        tags.push((258, 3, count.into(), short(&vec![32; count.into()])));
        tags.push((259, 3, 1, short(&[1])));
        tags.push((262, 3, 1, short(&[1])));
        tags.push((273, 4, strips, long(&offsets)));
        tags.push((277, 3, 1, short(&[count])));
        tags.push((278, 4, 1, long(&[1])));
        tags.push((279, 4, strips, long(&vec![row_bytes; strips as usize])));
        tags.push((284, 3, 1, short(&[2])));
        if count > 1 {
            tags.push((338, 3, u32::from(count) - 1, short(&vec![0; usize::from(count) - 1])));
        }
        tags.push((339, 3, count.into(), short(&vec![3; count.into()])));
        if let Some(epsg) = self.epsg {
            let (left, top, pixel) = self.place;
            tags.push((33550, 12, 3, double(&[pixel, pixel, 0.0])));
            tags.push((33922, 12, 6, double(&[0.0, 0.0, 0.0, left, top, 0.0])));
            let model = if epsg == 4326 { (2, 2048) } else { (1, 3072) };
            let keys = [1, 1, 0, 3, 1024, 0, 1, model.0, 1025, 0, 1, 1, model.1, 0, 1, epsg];
            tags.push((34735, 3, 16, short(&keys)));
        }
        if !self.names.is_empty() {
            let items: String = self
                .names
                .iter()
                .enumerate()
                .map(|(at, name)| {
                    format!("<Item name=\"DESCRIPTION\" sample=\"{at}\" role=\"description\">{name}</Item>")
                })
                .collect();
            let text = ascii(&format!("<GDALMetadata>{items}</GDALMetadata>"));
            tags.push((42112, 2, text.len() as u32, text));
        }
        if let Some(nodata) = self.nodata {
            let text = ascii(nodata);
            tags.push((42113, 2, text.len() as u32, text));
        }
        let data: Vec<u8> = self.bands.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
        let directory = 8 + data.len() as u32;
        let mut out = [b"II*\0".as_slice(), &directory.to_le_bytes(), &data].concat();
        let mut far = directory + 2 + 12 * tags.len() as u32 + 4;
        let mut tail = Vec::new();
        out.extend((tags.len() as u16).to_le_bytes());
        for (tag, kind, count, mut bytes) in tags {
            out.extend(tag.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend(count.to_le_bytes());
            if bytes.len() <= 4 {
                bytes.resize(4, 0);
                out.extend(bytes);
            } else {
                out.extend(far.to_le_bytes());
                far += bytes.len() as u32;
                tail.extend(bytes);
            }
        }
        out.extend(0u32.to_le_bytes());
        out.extend(tail);
        std::fs::write(path, out).unwrap();
    }
}

/// Runs a script of the tests folder; a failure shows what it said.
pub fn run_python(script: &str, arguments: &[&std::ffi::OsStr]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(script);
    python::run(&python::interpreter(), std::iter::once(script.as_os_str()).chain(arguments.iter().copied()))
}
