//! Rasters behind HTTP: read in ranges, and a server that fails is an error, never pixels.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use swath_geo::{ErrorKind, GeoError, OpenOptions, PixelWindow, Raster};

/// A file server whose path says how it behaves: `/fine/x.tif`, `/503/x.tif`, `/403/x.tif`, `/cut/x.tif`, `/zeros/x.tif`,
/// `/page/x.tif`.
struct Server {
    address: String,
    sent: Arc<AtomicU64>,
}

impl Server {
    fn start(file: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let sent = Arc::new(AtomicU64::new(0));
        let (file, total) = (Arc::new(file), sent.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (file, total) = (file.clone(), total.clone());
                std::thread::spawn(move || answer(stream, &file, &total));
            }
        });
        Self { address, sent }
    }
}

fn answer(stream: TcpStream, file: &[u8], total: &AtomicU64) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut out = stream;
    loop {
        let mut request = String::new();
        if reader.by_ref().read_line(&mut request).ok()? == 0 {
            return None;
        }
        let mut range = None;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("range: bytes=") {
                let (from, to) = value.trim().split_once('-')?;
                let from: usize = from.parse().ok()?;
                range = Some((from, to.parse::<usize>().unwrap_or(usize::MAX).min(file.len() - 1)));
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let head = request.starts_with("HEAD");
        let mode = request.split('/').nth(1)?.to_owned();
        // The directory of the file is always served: what fails is the reading of pixels.
        let late = range.is_some_and(|(from, _)| from > 30_000);
        let status = match mode.as_str() {
            "503" | "403" if late => Some(mode.as_str()),
            "404" => Some("404"),
            _ => None,
        };
        if let Some(status) = status {
            write!(out, "HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\n").ok()?;
            out.write_all(if head { b"" } else { b"no" }).ok()?;
            continue;
        }
        if mode == "page" {
            let page = "<html>sign in</html>";
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", page.len()).ok()?;
            out.write_all(if head { b"" } else { page.as_bytes() }).ok()?;
            continue;
        }
        let (from, to) = range.unwrap_or((0, file.len() - 1));
        let part = &file[from.min(file.len())..(to + 1).max(from).min(file.len())];
        let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
        write!(
            out,
            "HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{to}/{}\r\n\r\n",
            part.len(),
            file.len()
        )
        .ok()?;
        if head {
            continue;
        }
        if mode == "cut" && late {
            out.write_all(&part[..part.len() / 2]).ok()?;
            return None;
        }
        total.fetch_add(part.len() as u64, Ordering::Relaxed);
        let zeros = vec![0; part.len()];
        out.write_all(if mode == "zeros" && late { &zeros } else { part }).ok()?;
    }
}

const MAKE: &str = r#"
import sys, numpy as np, rasterio
from rasterio.transform import from_origin
a = np.random.default_rng(1).integers(1, 9000, (1024, 1024)).astype("u2")
for name, more in (("deflate", dict(compress="deflate", predictor=2)), ("raw", {})):
    with rasterio.open(f"{sys.argv[1]}/{name}.tif", "w", driver="GTiff", height=1024, width=1024, count=1, dtype="uint16", crs="EPSG:32633",
                       transform=from_origin(5e5, 5e6, 10, 10), tiled=True, blockxsize=256, blockysize=256, **more) as d:
        d.write(a, 1)
"#;

fn read(address: &str, window: &PixelWindow) -> Result<Vec<u16>, GeoError> {
    let raster = Raster::open(address)?;
    let mut pixels = vec![0; window.len()];
    raster.read(0, window, &mut pixels)?;
    Ok(pixels)
}

#[test]
fn remote_rasters_are_read_in_parts_and_failures_have_their_class() {
    let folder = tempfile::tempdir().unwrap();
    support::run_python(MAKE, &[folder.path()]);
    let window = PixelWindow::new(600, 500, 300, 200);
    for name in ["deflate", "raw"] {
        let path = folder.path().join(format!("{name}.tif"));
        let want = read(&path.to_string_lossy(), &window).unwrap();
        let file = std::fs::read(&path).unwrap();
        let size = file.len() as u64;
        let half = Server::start(file[..file.len() / 2].to_vec());
        let error = read(&format!("{}/fine/{name}.tif", half.address), &window).expect_err("half");
        assert!(error.kind() == ErrorKind::Damaged && error.message().contains("ends within the tile"), "{error}");
        let server = Server::start(file);
        let address = |mode: &str| format!("{}/{mode}/{name}.tif?sig=SECRET", server.address);

        assert!(read(&address("fine"), &window).unwrap() == want, "{name}");
        let small = PixelWindow::new(0, 0, 10, 10);
        let before = server.sent.load(Ordering::Relaxed);
        read(&address("again"), &small).unwrap();
        assert!(server.sent.load(Ordering::Relaxed) - before < size / 2, "{name}: only what is needed is fetched");

        for (mode, kind) in [
            ("404", ErrorKind::NotFound),
            ("503", ErrorKind::Unreachable),
            ("403", ErrorKind::Denied),
            ("cut", ErrorKind::Unreachable),
            ("page", ErrorKind::NotARaster),
        ] {
            let error = read(&address(mode), &window).map(|pixels| pixels == want).expect_err(mode);
            assert_eq!(error.kind(), kind, "{name} {mode}: {error}");
            assert!(!error.message().contains("SECRET"), "{error}");
            assert!(error.message().contains(&format!("{name}.tif")), "{error}");
        }
        if name == "deflate" {
            let error = read(&address("zeros"), &window).expect_err("zeros");
            assert_eq!(error.kind(), ErrorKind::Damaged, "all bytes came: {error}");
        }
        let changed = OpenOptions { expected_size: Some(size + 1) };
        assert_eq!(Raster::open_with(&address("fine"), &changed).err().map(|error| error.code()), Some("R114"));
    }
    let nobody = read("http://127.0.0.1:9/x.tif", &window).unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unreachable, "{nobody}");
}
