//! Opening rasters and reading windows of them.
#![expect(unsafe_code, reason = "FFI edge to GDAL")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_int, c_void};
use std::path::Path;

use gdal_sys::{CPLErr, GDALDatasetH, GDALRIOResampleAlg, GDALRWFlag, GDALRasterBandH};

use crate::crs::Crs;
use crate::direct::Direct;
use crate::error::{ErrorKind, GeoError, Result, without_queries};
use crate::ffi::{Message, Options, cstring, failed, start, text, told, watched};
use crate::grid::{Grid, PixelWindow};
use crate::pixel::{DataType, Pixel};

/// More bands than any sensor has: a file that claims them is refused before memory is taken for each.
const MOST_BANDS: usize = 4096;

/// `GDAL_OF_RASTER` and `GDAL_OF_VERBOSE_ERROR` of gdal.h; macros have no bindings. Read-only is 0.
const OPEN_RASTER: u32 = 0x02;
const OPEN_VERBOSE_ERROR: u32 = 0x40;

/// How a window is read at another size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resampling {
    /// The pixel whose centre is nearest. The only one for classes and masks.
    #[default]
    Nearest,
    /// The mean of all pixels that fall together.
    Average,
}

impl Resampling {
    fn code(self) -> GDALRIOResampleAlg::Type {
        match self {
            Self::Nearest => GDALRIOResampleAlg::GRIORA_NearestNeighbour,
            Self::Average => GDALRIOResampleAlg::GRIORA_Average,
        }
    }
}

/// What a band says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct BandInfo {
    /// Band name (GDAL's description), empty when it has none.
    pub name: String,
    /// Type of its pixels.
    pub data_type: DataType,
    /// No-data value, NaN included.
    pub nodata: Option<f64>,
    /// value = pixel * scale + offset; 1 when not told.
    pub scale: f64,
    /// See `scale`; 0 when not told.
    pub offset: f64,
    /// Unit of the value, empty when not told.
    pub unit: String,
}

/// What a raster says of itself.
#[derive(Clone, Debug)]
pub struct RasterInfo {
    /// Where it lies, without any query string.
    pub name: String,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Bands, in order.
    pub bands: Vec<BandInfo>,
    /// CRS, if it has one.
    pub crs: Option<Crs>,
    /// GDAL's six numbers, if it has them.
    pub geo_transform: Option<[f64; 6]>,
    /// Width and height of the blocks it is stored in.
    pub block: (usize, usize),
    /// Whether the samples of all bands lie together in one block.
    pub pixel_interleaved: bool,
}

impl RasterInfo {
    /// The grid of its pixels. Refuses rasters without CRS or geotransform, and rotated or south-up ones.
    pub fn grid(&self) -> Result<Grid> {
        let name = &self.name;
        let crs = self.crs.clone().ok_or_else(|| {
            GeoError::new(ErrorKind::NotGeoreferenced, format!("`{name}` has no coordinate reference system"))
        })?;
        let [left, pixel_width, row_shear, top, column_shear, pixel_height] = self.geo_transform.ok_or_else(|| {
            GeoError::new(ErrorKind::NotGeoreferenced, format!("`{name}` has no geotransform (where its pixels lie)"))
        })?;
        if row_shear != 0.0 || column_shear != 0.0 {
            return Err(GeoError::new(
                ErrorKind::NotNorthUp,
                format!("`{name}` is rotated or sheared (its geotransform has {row_shear} and {column_shear})"),
            ));
        }
        if !(pixel_height < 0.0 && pixel_width > 0.0) {
            return Err(GeoError::new(
                ErrorKind::NotNorthUp,
                format!("`{name}` is not north-up: its pixel size is {pixel_width} by {pixel_height}"),
            ));
        }
        if ![left, top, pixel_width, pixel_height].into_iter().all(f64::is_finite) {
            return Err(GeoError::new(
                ErrorKind::NotGeoreferenced,
                format!("`{name}` has a geotransform that is not finite"),
            ));
        }
        Ok(Grid { crs, left, top, pixel_width, pixel_height: -pixel_height, width: self.width, height: self.height })
    }

    /// Index of the band of this name.
    pub fn band(&self, name: &str) -> Result<usize> {
        self.bands.iter().position(|b| b.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.bands.iter().map(|b| b.name.as_str()).collect();
            let message = format!("`{}` has no band `{name}`; it has: {}", self.name, names.join(", "));
            GeoError::new(ErrorKind::Request, message)
        })
    }
}

/// How to open a raster.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Size in bytes the file must have; another size is [`ErrorKind::Changed`].
    pub expected_size: Option<u64>,
}

/// A raster open for reading. Move it to the thread that reads.
pub struct Raster {
    /// Null while pixels are read around GDAL: an open dataset holds a file descriptor.
    handle: Cell<GDALDatasetH>,
    /// The name GDAL opens it by, signature included.
    path: CString,
    info: RasterInfo,
    remote: bool,
    /// A way around GDAL for plain local files.
    direct: Option<Direct>,
}

// SAFETY: a GDAL dataset may be used by any one thread at a time; `Raster` is not `Sync` and not `Clone`.
unsafe impl Send for Raster {}

impl Drop for Raster {
    fn drop(&mut self) {
        self.close();
    }
}

/// The name GDAL knows a location by.
pub(crate) fn gdal_path(location: &str) -> String {
    if let Some(rest) = location.strip_prefix("s3://") {
        format!("/vsis3/{rest}")
    } else if location.starts_with("http://") || location.starts_with("https://") {
        format!("/vsicurl/{location}")
    } else {
        location.strip_prefix("file://").unwrap_or(location).to_owned()
    }
}

fn is_remote(path: &str) -> bool {
    ["/vsicurl/", "/vsis3/"].iter().any(|prefix| path.starts_with(prefix))
}

/// The class of a failure, from GDAL's messages: HTTP status where there is one.
fn classify(messages: &[Message], remote: bool, local: ErrorKind) -> ErrorKind {
    if !remote {
        return local;
    }
    for message in messages {
        // GDAL says `HTTP response code: 503`, `HTTP response code on ADDRESS : 503` or `response_code=503`.
        let after = ["HTTP response code", "response_code="].iter().find_map(|words| message.text.split_once(words));
        let status = after.and_then(|(_, rest)| {
            let digits: String = rest.rsplit(':').next()?.trim().chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u16>().ok()
        });
        match status {
            Some(404 | 410) => return ErrorKind::NotFound,
            Some(401 | 403) => return ErrorKind::Denied,
            Some(_) => return ErrorKind::Unreachable,
            None => {}
        }
        if message.text.contains("not recognized as a supported file format") {
            return ErrorKind::NotARaster;
        }
    }
    // All bytes came, and they are no pixels. What came in part is a `Read error`.
    let says = |words: &str| messages.iter().any(|message| message.text.contains(words));
    if says("Decod") && !says("Read error") {
        return ErrorKind::Damaged;
    }
    ErrorKind::Unreachable
}

impl Raster {
    /// Opens a GeoTIFF, COG or JPEG 2000 file by path, `https://`, `http://` or `s3://`. Other formats are refused,
    /// whatever their name: a VRT may point anywhere.
    pub fn open(location: &str) -> Result<Self> {
        Self::open_with(location, &OpenOptions::default())
    }

    /// Opens a local file.
    pub fn open_path(path: &Path) -> Result<Self> {
        Self::open(&path.to_string_lossy())
    }

    /// Opens with options.
    pub fn open_with(location: &str, options: &OpenOptions) -> Result<Self> {
        start()?;
        let path = gdal_path(location);
        let remote = is_remote(&path);
        let name = without_queries(location);
        if !remote {
            check_local(&path, &name, options)?;
        }
        let c_path = cstring(&path)?;
        let (handle, messages) = open_dataset(&c_path)?;
        if handle.is_null() {
            let kind = classify(&messages, remote, ErrorKind::NotARaster);
            if remote {
                forget_cached(&path);
            }
            let why = told(&messages);
            return Err(GeoError::new(kind, format!("cannot open `{name}` as a raster: {why}")));
        }
        // From here on, `raster` closes the handle whatever happens.
        let empty = RasterInfo {
            name: name.clone(),
            width: 0,
            height: 0,
            bands: Vec::new(),
            crs: None,
            geo_transform: None,
            block: (0, 0),
            pixel_interleaved: false,
        };
        let mut raster = Self { handle: Cell::new(handle), path: c_path, info: empty, remote, direct: None };
        if remote && let Some(expected) = options.expected_size {
            raster.check_remote_size(&path, expected)?;
        }
        let (info, _) = watched(|| raster.describe(name));
        raster.info = info?;
        if !remote {
            raster.direct = Direct::open(Path::new(&path), &raster.info);
            if raster.direct.is_some() {
                raster.close();
            }
        }
        Ok(raster)
    }

    fn check_remote_size(&self, path: &str, expected: u64) -> Result<()> {
        match remote_size(path)? {
            Some(size) if size != expected => Err(changed(&self.info.name, expected, size)),
            _ => Ok(()),
        }
    }

    fn describe(&self, name: String) -> Result<RasterInfo> {
        // SAFETY: the handle is live; strings returned belong to the dataset and are copied at once; arrays and
        // numbers are written through pointers to locals of the right size.
        let handle = self.handle.get();
        unsafe {
            let count = gdal_sys::GDALGetRasterCount(handle).max(0) as usize;
            if count == 0 {
                return Err(GeoError::new(ErrorKind::NotARaster, format!("`{name}` has no raster band")));
            }
            if count > MOST_BANDS {
                let message = format!("`{name}` has {count} bands; at most {MOST_BANDS} are taken");
                return Err(GeoError::new(ErrorKind::TooLarge, message));
            }
            let mut bands = Vec::with_capacity(count);
            for index in 0..count {
                bands.push(describe_band(self.band(index), &name, index)?);
            }
            let (mut block_width, mut block_height) = (0, 0);
            gdal_sys::GDALGetBlockSize(self.band(0), &mut block_width, &mut block_height);
            let reference = gdal_sys::GDALGetSpatialRef(handle);
            let crs = if reference.is_null() {
                None
            } else {
                let mut wkt = std::ptr::null_mut();
                let options = Options::new(["FORMAT=WKT2_2018"])?;
                gdal_sys::OSRExportToWktEx(reference, &mut wkt, options.as_ptr().cast_const().cast());
                let definition = text(wkt).unwrap_or_default();
                gdal_sys::VSIFree(wkt.cast());
                // What GeoTIFF calls "unnamed" or leaves local says nothing about where on Earth it lies.
                if definition.is_empty() || definition.starts_with("ENGCRS") || definition.starts_with("LOCAL_CS") {
                    None
                } else {
                    Some(Crs::parse(&definition)?)
                }
            };
            let mut geo_transform = [0.0; 6];
            let status = gdal_sys::GDALGetGeoTransform(handle, geo_transform.as_mut_ptr());
            let interleave =
                text(gdal_sys::GDALGetMetadataItem(handle, c"INTERLEAVE".as_ptr(), c"IMAGE_STRUCTURE".as_ptr()));
            Ok(RasterInfo {
                name,
                width: gdal_sys::GDALGetRasterXSize(handle).max(0) as usize,
                height: gdal_sys::GDALGetRasterYSize(handle).max(0) as usize,
                bands,
                crs,
                // The identity is what programs write for want of a place.
                geo_transform: (status == CPLErr::CE_None && geo_transform != [0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
                    .then_some(geo_transform),
                block: (block_width.max(1) as usize, block_height.max(1) as usize),
                pixel_interleaved: count > 1 && interleave.as_deref() == Some("PIXEL"),
            })
        }
    }

    /// What the raster says of itself.
    pub fn info(&self) -> &RasterInfo {
        &self.info
    }

    /// The grid of its pixels; see [`RasterInfo::grid`].
    pub fn grid(&self) -> Result<Grid> {
        self.info.grid()
    }

    /// Closes the dataset; [`Raster::reopen`] opens it again when it is needed.
    fn close(&self) {
        let handle = self.handle.replace(std::ptr::null_mut());
        if !handle.is_null() {
            // SAFETY: the handle was owned by `self` and is closed once; a read-only dataset has nothing to flush.
            let _ = watched(|| unsafe { gdal_sys::GDALClose(handle) });
        }
    }

    /// Makes sure that the dataset is open.
    fn reopen(&self) -> Result<()> {
        if self.handle.get().is_null() {
            let (handle, messages) = open_dataset(&self.path)?;
            if handle.is_null() {
                let message = format!("cannot open `{}` again: {}", self.info.name, told(&messages));
                return Err(GeoError::new(ErrorKind::Changed, message));
            }
            self.handle.set(handle);
        }
        Ok(())
    }

    /// The handle of a band by index from 0; null when there is none.
    fn band(&self, index: usize) -> GDALRasterBandH {
        // SAFETY: the handle is live; GDAL returns null for a band that does not exist.
        unsafe { gdal_sys::GDALGetRasterBand(self.handle.get(), index as c_int + 1) }
    }

    fn check_request(&self, band: usize, window: &PixelWindow, wanted: usize, buffer: usize) -> Result<()> {
        let info = &self.info;
        let request = |message: String| Err(GeoError::new(ErrorKind::Request, message));
        if band >= info.bands.len() {
            return request(format!("`{}` has {} bands, none at index {band}", info.name, info.bands.len()));
        }
        let inside = |start: usize, length: usize, limit: usize| {
            length > 0 && start.checked_add(length).is_some_and(|end| end <= limit)
        };
        if !inside(window.column, window.width, info.width) || !inside(window.row, window.height, info.height) {
            let name = &info.name;
            return request(format!("{window:?} lies outside of `{name}` ({} x {})", info.width, info.height));
        }
        if wanted != buffer {
            return request(format!("a buffer of {buffer} pixels does not hold the {wanted} of {window:?}"));
        }
        Ok(())
    }

    /// Reads a window of one band (index from 0) into `buffer`, row by row. The buffer holds exactly the window.
    pub fn read<T: Pixel>(&self, band: usize, window: &PixelWindow, buffer: &mut [T]) -> Result<()> {
        self.check_request(band, window, window.len(), buffer.len())?;
        if let Some(direct) = self.direct.as_ref().filter(|direct| direct.gives::<T>()) {
            return direct.read(&self.info.name, band, window, buffer);
        }
        self.raster_io(band, window, (window.width, window.height), Resampling::Nearest, buffer)
    }

    /// Reads a window of several bands, one band after the other, into `buffer`.
    pub fn read_bands<T: Pixel>(&self, bands: &[usize], window: &PixelWindow, buffer: &mut [T]) -> Result<()> {
        if buffer.len() != bands.len() * window.len() {
            return self.check_request(0, window, bands.len() * window.len(), buffer.len());
        }
        if bands.is_empty() || window.is_empty() {
            return Ok(());
        }
        for (band, part) in bands.iter().zip(buffer.chunks_exact_mut(window.len())) {
            self.read(*band, window, part)?;
        }
        Ok(())
    }

    /// Reads a window of one band at another size, using overviews where there are fitting ones.
    pub fn read_resampled<T: Pixel>(
        &self,
        band: usize,
        window: &PixelWindow,
        (width, height): (usize, usize),
        resampling: Resampling,
        buffer: &mut [T],
    ) -> Result<()> {
        self.check_request(band, window, width * height, buffer.len())?;
        self.raster_io(band, window, (width, height), resampling, buffer)
    }

    fn raster_io<T: Pixel>(
        &self,
        band: usize,
        window: &PixelWindow,
        (width, height): (usize, usize),
        resampling: Resampling,
        buffer: &mut [T],
    ) -> Result<()> {
        debug_assert_eq!(buffer.len(), width * height);
        self.reopen()?;
        let mut extra = gdal_sys::GDALRasterIOExtraArg {
            nVersion: 1,
            eResampleAlg: resampling.code(),
            pfnProgress: None,
            pProgressData: std::ptr::null_mut(),
            bFloatingPointWindowValidity: 0,
            dfXOff: 0.0,
            dfYOff: 0.0,
            dfXSize: 0.0,
            dfYSize: 0.0,
        };
        // SAFETY: band and window were checked against the raster and `buffer` holds `width * height` values of
        // `T::TYPE`; spacings of 0 mean densely packed rows.
        let (status, messages) = watched(|| unsafe {
            gdal_sys::GDALRasterIOEx(
                self.band(band),
                GDALRWFlag::GF_Read,
                window.column as c_int,
                window.row as c_int,
                window.width as c_int,
                window.height as c_int,
                buffer.as_mut_ptr().cast::<c_void>(),
                width as c_int,
                height as c_int,
                T::TYPE.code(),
                0,
                0,
                &mut extra,
            )
        });
        self.verdict(status, &messages, band, window)
    }

    /// Reads one whole block of one band past GDAL's block cache. `buffer` holds a full block (see
    /// [`RasterInfo::block`]) of the band's own type; what lies beyond the raster's edge is undefined.
    pub fn read_block<T: Pixel>(&self, band: usize, column: usize, row: usize, buffer: &mut [T]) -> Result<()> {
        let info = &self.info;
        let (block_width, block_height) = info.block;
        let (left, top) = (column * block_width, row * block_height);
        let width = block_width.min(info.width.saturating_sub(left));
        let height = block_height.min(info.height.saturating_sub(top));
        let window = PixelWindow::new(left, top, width, height);
        self.check_request(band, &window, block_width * block_height, buffer.len())?;
        if info.bands[band].data_type != T::TYPE {
            let message = format!("band {} of `{}` is not {}", band + 1, info.name, T::TYPE.name());
            return Err(GeoError::new(ErrorKind::Request, message));
        }
        self.reopen()?;
        // SAFETY: the block exists (its window was checked) and `buffer` holds a full block of the band's own type.
        let (status, messages) = watched(|| unsafe {
            gdal_sys::GDALReadBlock(
                self.band(band),
                column as c_int,
                row as c_int,
                buffer.as_mut_ptr().cast::<c_void>(),
            )
        });
        self.verdict(status, &messages, band, &window)
    }

    fn verdict(&self, status: CPLErr::Type, messages: &[Message], band: usize, window: &PixelWindow) -> Result<()> {
        if status == CPLErr::CE_None && !failed(messages) {
            return Ok(());
        }
        let info = &self.info;
        let (mut kind, mut why) = (classify(messages, self.remote, ErrorKind::Damaged), told(messages));
        if self.remote {
            if kind == ErrorKind::Unreachable
                && let Some(size) = self.ends_within(band, window)
            {
                (kind, why) = (ErrorKind::Damaged, format!("the file has {size} bytes and ends within the tile"));
            }
            // What was cached of a broken reply must not answer the next attempt.
            forget_cached(&gdal_path(&info.name));
        }
        let PixelWindow { column, row, width, height } = window;
        let message = format!(
            "cannot read band {} of `{}` at column {column}, row {row} ({width} x {height}): {why}",
            band + 1,
            info.name,
        );
        Err(GeoError::new(kind, message))
    }

    /// The size of a TIFF that is shorter than its own directory says of the tiles of a window.
    fn ends_within(&self, band: usize, window: &PixelWindow) -> Option<u64> {
        let size = remote_size(self.path.to_str().ok()?).ok()??;
        let (width, height) = self.info.block;
        let number = |name: String| {
            let name = cstring(&name).ok()?;
            // SAFETY: the handle is live; the string belongs to the band and is copied at once.
            let told = watched(|| unsafe {
                text(gdal_sys::GDALGetMetadataItem(self.band(band), name.as_ptr(), c"TIFF".as_ptr()))
            });
            told.0?.parse::<u64>().ok()
        };
        let columns = window.column / width..=(window.column + window.width - 1) / width;
        let mut rows = window.row / height..=(window.row + window.height - 1) / height;
        let past_the_end = |column: usize, row: usize| {
            let offset = number(format!("BLOCK_OFFSET_{column}_{row}"))?;
            Some(offset.checked_add(number(format!("BLOCK_SIZE_{column}_{row}"))?)? > size)
        };
        rows.any(|row| columns.clone().any(|column| past_the_end(column, row) == Some(true))).then_some(size)
    }
}

/// Opens a raster of an accepted format; null when it is none, with what GDAL said.
fn open_dataset(path: &CStr) -> Result<(GDALDatasetH, Vec<Message>)> {
    let drivers = Options::new(["GTiff", "JP2OpenJPEG"])?;
    // SAFETY: all pointers are to NUL-terminated strings and arrays that outlive the call.
    Ok(watched(|| unsafe {
        gdal_sys::GDALOpenEx(
            path.as_ptr(),
            OPEN_RASTER | OPEN_VERBOSE_ERROR,
            drivers.as_ptr().cast_const().cast(),
            std::ptr::null(),
            std::ptr::null(),
        )
    }))
}

/// Forgets what an earlier reader in this process was told of a remote file: what is opened next comes from the server.
pub fn forget_remote(location: &str) -> Result<()> {
    start()?;
    forget_cached(&gdal_path(location));
    Ok(())
}

/// How many bytes a remote file has, when its server tells.
fn remote_size(path: &str) -> Result<Option<u64>> {
    let c_path = cstring(path)?;
    // SAFETY: the file is opened, measured and closed here; the handle is checked for null before use.
    let (size, _) = watched(|| unsafe {
        let file = gdal_sys::VSIFOpenL(c_path.as_ptr(), c"rb".as_ptr());
        if file.is_null() {
            return None;
        }
        let moved = gdal_sys::VSIFSeekL(file, 0, 2) == 0;
        let size = gdal_sys::VSIFTellL(file);
        gdal_sys::VSIFCloseL(file);
        moved.then_some(size)
    });
    Ok(size)
}

/// Drops what GDAL has cached of a remote file (all signatures of it).
fn forget_cached(path: &str) {
    let prefix = path.split('?').next().unwrap_or(path);
    if let Ok(prefix) = cstring(prefix) {
        // SAFETY: a NUL-terminated string that outlives the call; GDAL locks its own cache.
        let _ = watched(|| unsafe { gdal_sys::VSICurlPartialClearCache(prefix.as_ptr()) });
    }
}

fn changed(name: &str, expected: u64, size: u64) -> GeoError {
    GeoError::new(ErrorKind::Changed, format!("`{name}` has {size} bytes where {expected} were listed"))
}

/// What can be told of a local file before GDAL sees it.
fn check_local(path: &str, name: &str, options: &OpenOptions) -> Result<()> {
    let metadata = std::fs::metadata(path)
        .map_err(|error| GeoError::new(ErrorKind::NotFound, format!("cannot open `{name}`: {error}")))?;
    let refuse = |why: &str| Err(GeoError::new(ErrorKind::NotARaster, format!("`{name}` is not a raster: {why}")));
    if metadata.is_dir() {
        return refuse("it is a folder");
    }
    if metadata.len() == 0 {
        return refuse("it is empty");
    }
    if let Some(expected) = options.expected_size
        && metadata.len() != expected
    {
        return Err(changed(name, expected, metadata.len()));
    }
    let mut head = [0; 512];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read(&mut file, &mut head));
    let read = read.map_err(|error| GeoError::new(ErrorKind::NotFound, format!("cannot read `{name}`: {error}")))?;
    let head = String::from_utf8_lossy(&head[..read]);
    if head.contains("<VRTDataset") {
        return refuse("it is a VRT, which may point at other files, and is not accepted");
    }
    let start = head.trim_start().to_ascii_lowercase();
    if start.starts_with("<!doctype html") || start.starts_with("<html") {
        return refuse("it is an HTML page, perhaps an error message saved under a raster's name");
    }
    Ok(())
}

/// # Safety
/// `band` is a live band handle.
unsafe fn describe_band(band: GDALRasterBandH, name: &str, index: usize) -> Result<BandInfo> {
    // SAFETY: the handle is live; strings belong to the band and are copied at once.
    unsafe {
        let code = gdal_sys::GDALGetRasterDataType(band);
        let data_type = DataType::of_code(code).ok_or_else(|| {
            let type_name = text(gdal_sys::GDALGetDataTypeName(code)).unwrap_or_default();
            let message = format!("band {} of `{name}` holds {type_name}, which is not taken", index + 1);
            GeoError::new(ErrorKind::NotARaster, message)
        })?;
        let mut has = 0;
        let nodata = gdal_sys::GDALGetRasterNoDataValue(band, &mut has);
        let nodata = (has != 0).then_some(nodata);
        let scale = gdal_sys::GDALGetRasterScale(band, &mut has);
        let scale = if has != 0 { scale } else { 1.0 };
        let offset = gdal_sys::GDALGetRasterOffset(band, &mut has);
        let offset = if has != 0 { offset } else { 0.0 };
        Ok(BandInfo {
            name: text(gdal_sys::GDALGetDescription(band)).unwrap_or_default(),
            data_type,
            nodata,
            scale,
            offset,
            unit: text(gdal_sys::GDALGetRasterUnitType(band)).unwrap_or_default(),
        })
    }
}
