//! Rasters that cannot be read end in an error that names the file and what is wrong with it; never in pixels.

mod support;

use std::path::PathBuf;
use std::sync::LazyLock;

use swath_geo::{ErrorKind, GeoError, OpenOptions, PixelWindow, Raster};

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let script = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/make_bad.py")).unwrap();
    support::run_python(&script, &[folder.path()]);
    folder
});

fn path(name: &str) -> PathBuf {
    FOLDER.path().join(format!("{name}.tif"))
}

/// Opens a file, asks for its grid and reads all of its first band.
fn read_all(name: &str) -> Result<Vec<u16>, GeoError> {
    let raster = Raster::open_path(&path(name))?;
    let grid = raster.grid()?;
    let mut pixels = vec![0; grid.width * grid.height];
    raster.read(0, &grid.window(), &mut pixels)?;
    Ok(pixels)
}

#[test]
fn every_unreadable_raster_has_a_typed_error_that_names_it() {
    for (name, kind, words) in [
        ("absent", ErrorKind::NotFound, "No such file"),
        ("empty", ErrorKind::NotARaster, "it is empty"),
        ("header", ErrorKind::NotARaster, "cannot open"),
        ("random", ErrorKind::NotARaster, "not recognized"),
        ("page", ErrorKind::NotARaster, "HTML page"),
        ("vrt", ErrorKind::NotARaster, "VRT"),
        ("folder", ErrorKind::NotARaster, "folder"),
        ("wide", ErrorKind::NotARaster, "cannot open"),
        ("complex", ErrorKind::NotARaster, "CFloat32"),
        ("bands", ErrorKind::TooLarge, "5000 bands"),
        ("truncated", ErrorKind::Damaged, "cannot read band 1"),
        ("truncated_raw", ErrorKind::Damaged, "cannot read band 1"),
        ("no_crs", ErrorKind::NotGeoreferenced, "no coordinate reference system"),
        ("no_transform", ErrorKind::NotGeoreferenced, "no geotransform"),
        ("rotated", ErrorKind::NotNorthUp, "rotated"),
        ("south_up", ErrorKind::NotNorthUp, "not north-up"),
    ] {
        let error = read_all(name).expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.message().contains(words), "{name}: {error}");
        assert!(error.message().contains(&format!("{name}.tif")), "{name}: {error}");
        assert!(!error.is_transient(), "{name}");
    }
}

#[test]
fn unusual_rasters_that_are_sound_are_read() {
    let good = read_all("good").unwrap();
    assert_eq!(read_all("strips").unwrap(), good);
    assert_eq!(read_all("raw").unwrap(), good);
    assert_eq!(read_all("one").unwrap(), [7]);
    assert!(read_all("nodata").unwrap().iter().all(|pixel| *pixel == 0));
    let long = Raster::open_path(&path("long")).unwrap();
    let mut pixels = [0.0_f32; 3];
    long.read(0, &PixelWindow::new(0, 99_997, 1, 3), &mut pixels).unwrap();
    assert_eq!(pixels, [99_997.0, 99_998.0, 99_999.0]);
    let nan = Raster::open_path(&path("nan")).unwrap();
    let mut pixels = vec![0.0_f32; 300 * 400];
    nan.read(0, &PixelWindow::new(0, 0, 400, 300), &mut pixels).unwrap();
    assert!(pixels.iter().all(|pixel| pixel.is_nan()));
}

#[test]
fn the_direct_way_and_gdal_read_the_same_pixels_in_any_window() {
    let raster = Raster::open_path(&path("good")).unwrap();
    for window in [
        PixelWindow::new(0, 0, 400, 300),
        PixelWindow::new(127, 127, 2, 2),
        PixelWindow::new(128, 128, 128, 128),
        PixelWindow::new(399, 299, 1, 1),
        PixelWindow::new(5, 250, 390, 50),
    ] {
        // Asked for another type than the file's, GDAL does the work.
        let (mut direct, mut converted) = (vec![0_u16; window.len()], vec![0_i32; window.len()]);
        raster.read(0, &window, &mut direct).unwrap();
        raster.read(0, &window, &mut converted).unwrap();
        assert!(direct.iter().zip(&converted).all(|(a, b)| i32::from(*a) == *b), "{window:?}");
    }
}

#[test]
fn a_flipped_bit_is_an_error_or_changes_nothing() {
    let good = std::fs::read(path("good")).unwrap();
    let pixels = read_all("good").unwrap();
    let (mut caught, mut harmless) = (0, 0);
    let folder = tempfile::tempdir().unwrap();
    let flipped = folder.path().join("flipped.tif");
    for step in 0..400 {
        let at = 1000 + step * (good.len() - 1000) / 400;
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (step % 8);
        std::fs::write(&flipped, &bytes).unwrap();
        let outcome = Raster::open_path(&flipped).and_then(|raster| {
            let mut read = vec![0_u16; pixels.len()];
            raster.read(0, &PixelWindow::new(0, 0, 400, 300), &mut read).map(|()| read)
        });
        match outcome {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                caught += 1;
            }
            Ok(read) => {
                assert!(read == pixels, "a wrong pixel passed: byte {at}");
                harmless += 1;
            }
        }
    }
    assert!(caught > 350, "{caught} caught, {harmless} harmless");
}

#[test]
fn a_file_of_another_size_than_listed_is_refused() {
    let size = std::fs::metadata(path("good")).unwrap().len();
    let open =
        |expected| Raster::open_with(&path("good").to_string_lossy(), &OpenOptions { expected_size: Some(expected) });
    assert!(open(size).is_ok());
    assert_eq!(open(size + 1).err().map(|error| error.code()), Some("R114"));
}

#[test]
fn requests_outside_of_the_raster_are_refused() {
    let raster = Raster::open_path(&path("good")).unwrap();
    for (band, window, size) in [
        (1, PixelWindow::new(0, 0, 1, 1), 1),
        (0, PixelWindow::new(399, 0, 2, 1), 2),
        (0, PixelWindow::new(0, 0, 0, 1), 0),
        (0, PixelWindow::new(usize::MAX, 0, 2, 1), 2),
        (0, PixelWindow::new(0, 0, 10, 10), 99),
    ] {
        let error = raster.read(band, &window, &mut vec![0_u16; size]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Request, "{window:?}");
    }
}
