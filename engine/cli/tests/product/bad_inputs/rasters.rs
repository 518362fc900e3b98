//! Rasters on this machine and on servers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use swath_task::Digest;
use swath_testkit::http::{Reply, Request, Server};

use super::catalogues::{item, page, search_steps};
use super::{Case, Ends, INPUTS, SECRET, hold, raster};
use crate::common::Place;

/// A composite of the asset `B` of scenes, one a day.
fn composite(name: &str, hrefs: &[String], bbox: [f64; 4], more: &str, ends: Ends) -> Case {
    let scenes = hrefs.iter().enumerate().map(|(at, href)| {
        let mut item = item(&format!("scene-{at}"), at + 1, bbox);
        item["assets"]["B"]["href"] = json!(href);
        item
    });
    let list = INPUTS.path().join(format!("{name}.json"));
    std::fs::write(&list, page(&scenes.collect::<Vec<_>>(), &Value::Null).to_string()).unwrap();
    let composite = format!(
        "  composite:
    task: raster.composite
    retry: {{ times: 0 }}
    in: {{ scenes: search.scenes }}
    with: {{ bands: [B], mask: none{more} }}
"
    );
    let steps = search_steps(&list.display().to_string(), "") + &composite;
    Case { name: name.to_owned(), steps, outputs: "raster: composite.raster", ends, _server: None }
}

const EAST: [f64; 4] = [15.0, 46.8, 16.5, 47.0];
const BORDER: [f64; 4] = [11.9, 49.9, 12.1, 50.1];

/// A composite of one file, told of by a path relative to the catalogue.
fn local(name: &str, file: &str, ends: Ends) -> Case {
    composite(name, &[format!("./rasters/{file}.tif")], EAST, "", ends)
}

#[test]
fn rasters_on_this_machine() {
    use Ends::{Badly, Nothing, Raster};
    let mut bytes = std::fs::read(raster("good")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 8;
    std::fs::write(raster("flipped"), bytes).unwrap();
    let mut cases: Vec<Case> = [
        ("empty", "R102", &["composite:", "empty.tif", "it is empty"][..]),
        ("header", "R102", &["header.tif", "cannot open"]),
        ("random", "R102", &["random.tif", "not recognized"]),
        ("page", "R102", &["page.tif", "HTML page"]),
        ("vrt", "R102", &["vrt.tif", "VRT"]),
        ("folder", "R102", &["folder.tif", "folder"]),
        ("wide", "R102", &["wide.tif", "Too large image size: 4294967280 x 1"]),
        ("complex", "R102", &["complex.tif", "CFloat32"]),
        ("bands", "R108", &["bands.tif", "5000 bands"]),
        ("most_bands", "R108", &["most_bands.tif", "65535 bands"]),
        ("truncated", "R103", &["truncated.tif", "cannot read band 1"]),
        ("truncated_raw", "R103", &["truncated_raw.tif", "cannot read band 1"]),
        ("flipped", "R103", &["flipped.tif", "cannot read band 1"]),
        ("no_crs", "R106", &["no_crs.tif", "no coordinate reference system"]),
        ("no_transform", "R106", &["no_transform.tif", "no geotransform"]),
        ("rotated", "R107", &["rotated.tif", "rotated"]),
        ("south_up", "R107", &["south_up.tif", "not north-up"]),
    ]
    .into_iter()
    .map(|(file, code, words)| local(&file.replace('_', "-"), file, Badly(1, code, words)))
    .collect();
    for (name, file, told) in [
        ("one-pixel", "one", "1 x 1 EPSG:32633 7.0..7.0 valid 1.00"),
        ("long", "long", "1 x 100000 EPSG:32633 0.0..99999.0 valid 1.00"),
        ("broad", "broad", "100000 x 1 EPSG:32633 7.0..7.0 valid 1.00"),
        ("without-a-no-data-tag", "zero", "200 x 200 EPSG:32633 0.0..0.0 valid 1.00"),
    ] {
        cases.push(local(name, file, Raster(told)));
    }
    for (name, file) in [("no-data-only", "nodata"), ("nan-only", "nan")] {
        cases.push(local(name, file, Nothing("no pixel of the composite is clear")));
    }
    let paths = |names: &[&str]| names.iter().map(|name| raster(name).display().to_string()).collect::<Vec<_>>();
    let border = ", area: [11.995, 49.997, 12.005, 50.003], crs: \"EPSG:32633\", resolution: 10";
    let both = "75 x 71 EPSG:32633 2000.0..2000.0 valid 1.00";
    cases.push(composite("two-zones", &paths(&["zone32", "zone33"]), BORDER, border, Raster(both)));
    cases.push(composite("two-types", &paths(&["zone33", "floats"]), BORDER, border, Raster(both)));
    let around = Raster("216 x 216 EPSG:32633 1000.0..3000.0 valid 0.89");
    cases.push(composite("two-zones-unasked", &paths(&["zone32", "zone33"]), BORDER, "", around));
    let far = ", area: [11.99, 49.99, 12.01, 50.01]";
    cases.push(composite("no-overlap", &paths(&["elsewhere"]), BORDER, far, Badly(1, "R109", &["composite:", "area"])));
    cases.push(local("gone", "gone", Badly(1, "S126", &["search:", "`scene-0`", "gone.tif", "No such file"])));
    let mut bandless = local("a-band-that-no-asset-holds", "good", Badly(1, "R122", &["`scene-0`", "band `C`"]));
    bandless.steps = bandless.steps.replace("bands: [B]", "bands: [B, C]");
    cases.push(bandless);
    std::fs::copy(raster("good"), raster("grown")).unwrap();
    let mut changed = local("grown-after-the-search", "grown", Badly(1, "R114", &["composite:", "grown.tif", "bytes"]));
    let grow = format!(
        "  grow: {{ task: run.command, after: [search], with: {{ command: [sh, -c, \"echo more >> {}\"] }} }}\n",
        raster("grown").display()
    );
    changed.steps = changed.steps.replace("    in: {", "    after: [grow]\n    in: {") + &grow;
    cases.push(changed);
    hold(cases);
}

/// A composite of a good raster on a server that answers so.
fn remote(name: &str, ends: Ends, answer: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static) -> Case {
    let good = std::fs::read(raster("good")).unwrap();
    let server = Server::start(move |request| answer(request, &good));
    let href = server.url(&format!("/good.tif?key={SECRET}"));
    Case { _server: Some(server), ..composite(name, &[href], EAST, "", ends) }
}

/// Whether a request is for pixels, not for the directory of the file.
fn late(request: &Request) -> bool {
    let first = request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse().ok());
    first.is_some_and(|first: usize| first > 30_000)
}

#[test]
fn rasters_on_a_server() {
    use Ends::{Badly, Same};
    let local = local("local", "good", Ends::Counting(0));
    let place = Place::new(&format!("flow: local\nsteps:\n{}outputs: {{ raster: composite.raster }}\n", local.steps));
    let (_, ended) = place.json(&["run", "flow.yaml"]);
    let digest: Digest = serde_json::from_value(ended["outputs"]["raster"]["digest"].clone()).unwrap();
    // From the first pixels on, the server answers with nothing else: a signature has expired, a machine went down.
    let after = |reply: Reply| {
        let ended = AtomicBool::new(false);
        move |request: &Request, good: &[u8]| {
            if late(request) || ended.load(Ordering::Relaxed) {
                ended.store(true, Ordering::Relaxed);
                reply.clone()
            } else {
                Reply::ranged(request, good)
            }
        }
    };
    let for_a_while = |reply: Reply| {
        let asked = AtomicUsize::new(0);
        move |request: &Request, good: &[u8]| {
            if late(request) && asked.fetch_add(1, Ordering::Relaxed) < 3 {
                reply.clone()
            } else {
                Reply::ranged(request, good)
            }
        }
    };
    let changing = |request: &Request, good: &[u8]| {
        Reply::ranged(request, good).header("ETag", if late(request) { "\"new\"" } else { "\"old\"" })
    };
    let mut hangs = remote("remote-hangs", Badly(1, "E316", &["composite:"]), |_, _| Reply::hang());
    let mut hangs_late =
        remote("remote-hangs-from-the-pixels-on", Badly(1, "E316", &["composite:"]), after(Reply::hang()));
    let mut drips = remote("remote-drips", Badly(1, "E316", &["composite:"]), |request, good| {
        Reply::ranged(request, good).drip(Duration::from_secs(1))
    });
    for case in [&mut hangs, &mut hangs_late, &mut drips] {
        case.steps = case.steps.replace("    in: {", "    timeout: 3s\n    in: {");
    }
    let presigned = format!("https://elsewhere.example/good.tif?X-Amz-Signature={SECRET}");
    let fault = Badly(1, "S132", &["search:", "good.tif", "signed already"]);
    hold(vec![
        composite("remote-signed-already", &[presigned], EAST, "", fault),
        hangs,
        hangs_late,
        drips,
        remote("remote-404", Badly(1, "S106", &["composite:", "scene `scene-0`, B: ", "/good.tif", "404"]), |_, _| {
            Reply::status(404)
        }),
        remote("remote-403", Badly(1, "S105", &["/good.tif", "403"]), |_, _| Reply::status(403)),
        remote("remote-403-from-the-pixels-on", Badly(1, "S105", &["/good.tif", "403"]), after(Reply::status(403))),
        remote("remote-503-from-the-pixels-on", Badly(1, "S104", &["/good.tif", "503"]), after(Reply::status(503))),
        remote("remote-closes-from-the-pixels-on", Badly(1, "S101", &["/good.tif"]), after(Reply::close())),
        remote("remote-cut", Badly(1, "S101", &["/good.tif"]), |request, good| match late(request) {
            true => Reply::ranged(request, good).cut_after(10_000),
            false => Reply::ranged(request, good),
        }),
        remote("remote-page", Badly(1, "S110", &["/good.tif", "web page"]), |_, _| {
            Reply::content("text/html", "<!DOCTYPE html><html>Sign in</html>")
        }),
        remote("remote-zeros", Badly(1, "R103", &["/good.tif"]), |request, good| match late(request) {
            true => Reply::ranged(request, &vec![0; good.len()]),
            false => Reply::ranged(request, good),
        }),
        remote("remote-truncated", Badly(1, "R103", &["/good.tif", "ends within the tile"]), |request, good| {
            Reply::ranged(request, &good[..good.len() * 2 / 3])
        }),
        remote("remote-shifts", Badly(1, "S117", &["/good.tif", "were asked for"]), |request, good| {
            match late(request) {
                true => Reply::status(206)
                    .header("Content-Range", &format!("bytes 0-999/{}", good.len()))
                    .body(&good[..1000]),
                false => Reply::ranged(request, good),
            }
        }),
        remote("remote-is-empty", Badly(1, "S118", &["/good.tif", "is empty"]), |_, _| {
            Reply::status(416).header("Content-Range", "bytes */0")
        }),
        remote("remote-changes", Badly(1, "R114", &["/good.tif", "entity tag"]), changing),
        remote("remote-redirects", Badly(1, "S108", &["/good.tif", "in a circle"]), |_, _| {
            Reply::redirect(302, "/good.tif")
        }),
        remote("remote-is-whole", Badly(1, "S116", &["/good.tif", "a whole file"]), |_, good| {
            Reply::content("image/tiff", good)
        }),
        remote("remote-well", Same(digest), Reply::ranged),
        remote("remote-503-for-a-while", Same(digest), for_a_while(Reply::status(503))),
        remote("remote-429-for-a-while", Same(digest), for_a_while(Reply::status(429).header("Retry-After", "1"))),
        remote("remote-closes-for-a-while", Same(digest), for_a_while(Reply::close())),
    ]);
}
