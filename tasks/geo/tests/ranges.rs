//! Rasters whose bytes somebody else fetches: read in parts, and what does not come is an error, never pixels.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use swath_geo::{ErrorKind, GeoError, OpenOptions, PixelWindow, Ranges, Raster};

/// What happens to reads beyond the directory of the file.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Late {
    Fine,
    Fails,
    Panics,
    Zeros,
    /// Only the read of this byte fails.
    FailsAt(usize),
}

struct Bytes {
    content: Vec<u8>,
    late: Late,
    read: AtomicU64,
}

impl Ranges for Bytes {
    fn size(&self) -> u64 {
        self.content.len() as u64
    }

    fn read(&self, parts: &mut [(u64, &mut [u8])]) -> Result<(), GeoError> {
        for (offset, buffer) in parts {
            let from = *offset as usize;
            self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            buffer.copy_from_slice(&self.content[from..from + buffer.len()]);
            match self.late {
                Late::FailsAt(at) if (from..from + buffer.len()).contains(&at) => {
                    return Err(GeoError::new(ErrorKind::Unreachable, "503"));
                }
                Late::FailsAt(_) => {}
                _ if from <= 40_000 => {}
                Late::Fine => {}
                Late::Fails => return Err(GeoError::new(ErrorKind::Denied, "`https://h/x.tif?sig=SECRET` said no")),
                Late::Panics => panic!("a fault of the one who fetches"),
                Late::Zeros => buffer.fill(0),
            }
        }
        Ok(())
    }
}

const MAKE: &str = r#"
import sys, numpy as np, rasterio
from rasterio.transform import from_origin
a = np.random.default_rng(1).integers(1, 9000, (1024, 1024)).astype("u2")
for name, more in (("deflate", dict(compress="deflate", predictor=2)), ("raw", {}), ("tags", {})):
    with rasterio.open(f"{sys.argv[1]}/{name}.tif", "w", driver="GTiff", height=1024, width=1024, count=1, dtype="uint16", crs="EPSG:32633",
                       transform=from_origin(5e5, 5e6, 10, 10), tiled=True, blockxsize=256, blockysize=256, **more) as d:
        d.write(a, 1)
# Written again at the end of the file.
with rasterio.open(f"{sys.argv[1]}/tags.tif", "r+") as d:
    d.nodata = 65432
"#;

const NAME: &str = "https://h/x.tif?sig=SECRET";

fn open(content: &[u8], late: Late) -> Result<(Raster, Arc<Bytes>), GeoError> {
    let bytes = Arc::new(Bytes { content: content.to_vec(), late, read: AtomicU64::new(0) });
    Ok((Raster::open_ranges(NAME, bytes.clone(), &OpenOptions::default())?, bytes))
}

fn pixels(raster: &Raster, window: &PixelWindow) -> Result<Vec<u16>, GeoError> {
    let mut pixels = vec![0; window.len()];
    raster.read(0, window, &mut pixels)?;
    Ok(pixels)
}

#[test]
fn a_tag_that_does_not_come_is_an_error_and_not_another_raster() {
    let folder = tempfile::tempdir().unwrap();
    support::run_python(MAKE, &[folder.path()]);
    let file = std::fs::read(folder.path().join("tags.tif")).unwrap();
    let at = file.windows(6).rposition(|bytes| bytes == b"65432\0").expect("the no-data value");
    assert!(at > 40_000, "it lies behind the pixels: {at}");
    assert_eq!(open(&file, Late::Fine).unwrap().0.info().bands[0].nodata, Some(65432.0));
    let error = open(&file, Late::FailsAt(at)).err().expect("no raster without its no-data value");
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[test]
fn ranges_are_read_in_parts_and_what_does_not_come_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    support::run_python(MAKE, &[folder.path()]);
    let window = PixelWindow::new(600, 500, 300, 200);
    for name in ["deflate", "raw"] {
        let path = folder.path().join(format!("{name}.tif"));
        let want = pixels(&Raster::open_path(&path).unwrap(), &window).unwrap();
        let file = std::fs::read(&path).unwrap();

        let (raster, bytes) = open(&file, Late::Fine).unwrap();
        assert!(pixels(&raster, &window).unwrap() == want, "{name}");
        assert!(bytes.read.load(Ordering::Relaxed) < file.len() as u64, "{name}: only what is needed is read");

        let error = pixels(&open(&file, Late::Fails).unwrap().0, &window).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Denied, "{name}: {error}");
        // Told is the window where GDAL reads it, else the tile.
        let place = if name == "raw" { "column 600, row 500" } else { "column 512, row 256" };
        assert!(error.message().contains(&format!("band 1 of `https://h/x.tif` at {place}")), "{error}");
        assert!(!error.message().contains("SECRET"), "{error}");
        if name == "raw" {
            let error = pixels(&open(&file, Late::Panics).unwrap().0, &window).expect_err("a panic beneath GDAL");
            assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
        }
        if name == "deflate" {
            let error = pixels(&open(&file, Late::Zeros).unwrap().0, &window).expect_err("zeros");
            assert_eq!(error.kind(), ErrorKind::Damaged, "all bytes came: {error}");
        }
        let error = pixels(&open(&file[..file.len() / 2], Late::Fine).unwrap().0, &window).expect_err("half");
        assert!(error.kind() == ErrorKind::Damaged && error.message().contains("ends within the tile"), "{error}");
        let size = OpenOptions { expected_size: Some(file.len() as u64 + 1) };
        let error = Raster::open_ranges(NAME, bytes, &size).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
    }
    for content in [&b"<html>sign in</html>"[..], b"", &[0; 5000], b"II*\0\x08\0\0\0"] {
        let error = open(content, Late::Fine).err().unwrap();
        assert!(error.kind() == ErrorKind::NotARaster && error.message().contains("`https://h/x.tif`"), "{error}");
        assert!(!error.message().contains("vsiswath"), "{error}");
    }
    assert_eq!(Raster::open(NAME).err().unwrap().kind(), ErrorKind::Request);
}
