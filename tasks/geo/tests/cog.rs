//! COGs written here, judged by GDAL, rasterio and rio-cogeo.

mod support;

use swath_geo::{BandSpec, Bounds, CogOptions, CogWriter, Crs, Grid, Overviews, PixelWindow, Raster};

fn grid(width: usize, height: usize) -> Grid {
    let crs = Crs::from_epsg(32633).unwrap();
    Grid { crs, left: 500_000.0, top: 5_200_000.0, pixel_width: 10.0, pixel_height: 10.0, width, height }
}

/// A pattern with no symmetry, a different one a band, and a hole of no-data.
fn value(band: usize, column: usize, row: usize) -> f32 {
    if (300..420).contains(&column) && (10..700).contains(&row) {
        return f32::NAN;
    }
    (band as f32 + 1.0) * 0.01 + ((column * 7 + row * 13) % 1009) as f32 * 1e-4
}

fn write(path: &std::path::Path, grid: &Grid, by_rows: bool) {
    let mut options = CogOptions::new(vec![BandSpec::new("B04"), BandSpec::new("B08")], Some(f64::NAN));
    options.bands[1].unit = Some("reflectance".into());
    options.metadata.push(("SWATH_METHOD".into(), "median".into()));
    let writer = CogWriter::<f32>::create(path, grid, options).unwrap();
    let pixels = |window: &PixelWindow| -> Vec<f32> {
        let mut data = Vec::new();
        for band in 0..2 {
            for row in window.row..window.row + window.height {
                data.extend((window.column..window.column + window.width).map(|column| value(band, column, row)));
            }
        }
        data
    };
    if by_rows {
        let mut row = 0;
        for rows in [100, 700, 3].into_iter().cycle() {
            let rows = rows.min(grid.height - row);
            if rows == 0 {
                break;
            }
            writer.write_rows(rows, &pixels(&PixelWindow::new(0, row, grid.width, rows))).unwrap();
            row += rows;
        }
    } else {
        let tiles = std::sync::Mutex::new(writer.tiles());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    loop {
                        let Some(window) = tiles.lock().unwrap().pop() else { break };
                        writer.write_tile(&window, &pixels(&window)).unwrap();
                    }
                });
            }
        });
    }
    writer.finish().unwrap();
}

const JUDGE: &str = r#"
import sys, numpy as np, rasterio
from rio_cogeo.cogeo import cog_validate
valid, errors, warnings = cog_validate(sys.argv[1], strict=True)
assert valid and not errors and not warnings, (errors, warnings)
with rasterio.open(sys.argv[1]) as s:
    h, w = s.shape
    c, r = np.meshgrid(np.arange(w), np.arange(h))
    for b in (0, 1):
        want = np.float32(np.float32(b + 1) * np.float32(0.01)) + ((c * 7 + r * 13) % 1009).astype('f4') * np.float32(1e-4)
        want[(c >= 300) & (c < 420) & (r >= 10) & (r < 700)] = np.nan
        got = s.read(b + 1)
        assert np.array_equal(got, want, equal_nan=True), b
        tags = s.tags(b + 1)
        v = want[~np.isnan(want)].astype('f8')
        assert abs(float(tags['STATISTICS_MEAN']) - v.mean()) < 1e-9, tags
        assert abs(float(tags['STATISTICS_STDDEV']) - v.std()) < 1e-9, tags
        assert float(tags['STATISTICS_MINIMUM']) == v.min() and float(tags['STATISTICS_MAXIMUM']) == v.max()
        # The first overview: the mean of the valid ones of each four, by numpy.
        p = np.pad(want, ((0, h % 2), (0, w % 2)), mode='edge').astype('f8')
        import warnings as wn; wn.simplefilter('ignore')
        half = np.nanmean(np.stack([p[::2, ::2], p[::2, 1::2], p[1::2, ::2], p[1::2, 1::2]]), 0)
        with rasterio.open(sys.argv[1], overview_level=0) as o:
            over = o.read(b + 1)
            assert over.shape == half.shape, (over.shape, half.shape)
            assert np.array_equal(np.isnan(over), np.isnan(half))
            assert np.nanmax(np.abs(over - half)) < 1e-7
    print(s.crs.to_epsg(), s.descriptions, np.isnan(s.nodata), s.transform.to_gdal(), s.block_shapes, s.overviews(1), s.tags()['SWATH_METHOD'], s.units, s.tags(ns='IMAGE_STRUCTURE').get('LAYOUT'))
"#;

#[test]
fn a_cog_is_valid_and_holds_the_pixels_names_statistics_and_overviews() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    write(&path, &grid(1301, 1027), true);
    let told = support::run_python(JUDGE, &[&path]);
    assert_eq!(
        told,
        "32633 ('B04', 'B08') True (500000.0, 10.0, 0.0, 5200000.0, 0.0, -10.0) [(512, 512), (512, 512)] [2, 4] median (None, 'reflectance') COG"
    );
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing but the COG is left");
}

#[test]
fn a_cog_is_the_same_bytes_whatever_the_order_of_its_tiles() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a.tif"), folder.path().join("b.tif"));
    write(&a, &grid(1301, 1027), true);
    write(&b, &grid(1301, 1027), false);
    assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap());
}

#[test]
fn integers_classes_scale_and_other_crs_are_written_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.tif");
    let lambert = "PROJCS[\"own\",GEOGCS[\"WGS 84\",DATUM[\"WGS_1984\",SPHEROID[\"WGS 84\",6378137,298.257223563]],\
        PRIMEM[\"Greenwich\",0],UNIT[\"degree\",0.0174532925199433]],PROJECTION[\"Lambert_Azimuthal_Equal_Area\"],\
        PARAMETER[\"latitude_of_center\",47],PARAMETER[\"longitude_of_center\",11],PARAMETER[\"false_easting\",0],\
        PARAMETER[\"false_northing\",0],UNIT[\"metre\",1]]";
    let crs = Crs::parse(lambert).unwrap();
    assert_eq!(crs.epsg(), None);
    let grid = Grid { crs: crs.clone(), ..grid(700, 600) };
    let mut options = CogOptions::new(vec![BandSpec::new("class")], Some(0.0));
    options.bands[0].overviews = Overviews::Nearest;
    options.bands[0].scale = Some(0.5);
    options.bands[0].offset = Some(-3.0);
    let writer = CogWriter::<i16>::create(&path, &grid, options).unwrap();
    let data: Vec<i16> = (0..700 * 600).map(|i| (i % 32749) as i16 - 100).collect();
    writer.write_rows(600, &data).unwrap();
    writer.finish().unwrap();
    let raster = Raster::open_path(&path).unwrap();
    let info = raster.info();
    assert_eq!((info.bands[0].scale, info.bands[0].offset, info.bands[0].nodata), (0.5, -3.0, Some(0.0)));
    assert_eq!(raster.grid().unwrap(), grid);
    let mut back = vec![0_i16; data.len()];
    raster.read(0, &grid.window(), &mut back).unwrap();
    assert!(back == data);
    let mut half = vec![0_i16; 350 * 300];
    raster.read_resampled(0, &grid.window(), (350, 300), Default::default(), &mut half).unwrap();
    assert_eq!(half[351], data[2 * 700 + 2], "overviews of classes are picked, not averaged");
}

#[test]
fn an_unfinished_cog_leaves_nothing_and_a_missing_tile_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.tif");
    let options = CogOptions::new(vec![BandSpec::new("p")], None);
    let writer = CogWriter::<u8>::create(&path, &grid(600, 600), options.clone()).unwrap();
    writer.write_rows(512, &vec![1; 512 * 600]).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(error.message().contains("tiles of level 0"), "{error}");
    drop(CogWriter::<u8>::create(&path, &grid(600, 600), options).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn windows_follow_floor_and_ceil_and_shared_grids_are_told() {
    let source = grid(1000, 1000);
    let area = Bounds { left: 500_015.0, bottom: 5_199_001.0, right: 500_101.0, top: 5_199_990.0 };
    assert_eq!(source.window_of(&area), Some(PixelWindow::new(1, 1, 10, 99)));
    let target = Grid::covering(source.crs.clone(), &area, (10.0, 10.0), (500_000.0, 5_200_000.0)).unwrap();
    assert_eq!((target.left, target.top, target.width, target.height), (500_010.0, 5_199_990.0, 10, 99));
    assert_eq!(target.offset_in(&source), Some((1, 1)));
    let shifted = Grid { left: source.left + 4.0, ..source.clone() };
    assert_eq!(target.offset_in(&shifted), None);
    assert_eq!(source.window_of(&Bounds { left: 0.0, bottom: 0.0, right: 1.0, top: 1.0 }), None);
}
