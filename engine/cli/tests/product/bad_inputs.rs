//! Bad catalogues, servers, rasters and models through the command: each ends soon with a code, its cause and its place,
//! or survives with the right pixels; nothing half-written is left, and an unrelated flow on the same store completes.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_task::Digest;
use swath_testkit::http::{Reply, Request, Server};

use crate::common::Place;

const DEADLINE: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 6;
const SECRET: &str = "SIGNED";

/// How a case must end.
enum Ends {
    /// With this exit code, and an error of this code on one line with all these words.
    Badly(i32, &'static str, &'static [&'static str]),
    /// Well, with this output `count`.
    Counting(u64),
    /// Well, with an output `raster` of which Python tells this.
    Raster(&'static str),
    /// Well, with an output `raster` without a valid pixel, and these words of warning.
    Nothing(&'static str),
    /// Well, with an output `raster` of these very bytes.
    Same(Digest),
}

/// A flow and how it must end. A server lives as long as its case.
struct Case {
    name: String,
    steps: String,
    outputs: &'static str,
    ends: Ends,
    _server: Option<Server>,
}

fn checkout() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).canonicalize().unwrap()
}

fn python(script: &str, arguments: &[&Path]) -> String {
    let named = std::env::var_os("SWATH_PYTHON").map(PathBuf::from);
    let python = named.unwrap_or_else(|| checkout().join(".tools/py/bin/python"));
    let output = Command::new(python).arg(checkout().join(script)).args(arguments).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Damaged and odd rasters, networks and the rasters they are run over; made once.
static INPUTS: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let (rasters, networks) = (folder.path().join("rasters"), folder.path().join("networks"));
    std::fs::create_dir(&rasters).unwrap();
    std::fs::create_dir(&networks).unwrap();
    python("tasks/geo/tests/make_bad.py", &[&rasters]);
    python("engine/cli/tests/product/bad_inputs.py", &[Path::new("make"), &rasters]);
    python("tasks/infer/tests/make_inputs.py", &[&networks]);
    folder
});

/// Size, grid and values of a raster, told by Python.
fn tell(raster: &Path) -> String {
    python("engine/cli/tests/product/bad_inputs.py", &[Path::new("tell"), raster])
}

fn raster(name: &str) -> PathBuf {
    INPUTS.path().join(format!("rasters/{name}.tif"))
}

/// Ends of one command: exit code, standard output, standard error.
type Said = (Option<i32>, String, String);

fn run_within_deadline(place: &Place, arguments: &[&str]) -> Said {
    let started = Instant::now();
    let mut child = place.swath(arguments).spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > DEADLINE {
            child.kill().unwrap();
            let said = child.wait_with_output().unwrap();
            panic!("{arguments:?} does not end: {}", String::from_utf8_lossy(&said.stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = child.wait_with_output().unwrap();
    (said.status.code(), String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap())
}

fn try_case(place: &Place, case: &Case) -> Result<(), String> {
    let Case { name, steps, outputs, ends, .. } = case;
    std::fs::write(
        place.path().join(format!("{name}.yaml")),
        format!("flow: {name}\nsteps:\n{steps}outputs: {{ {outputs} }}\n"),
    )
    .unwrap();
    let file = format!("{name}.yaml");
    let arguments: &[&str] = match ends {
        Ends::Badly(..) => &["run", &file],
        _ => &["run", &file, "--json"],
    };
    let (code, out, err) = run_within_deadline(place, arguments);
    let told = format!("{name}: exit {code:?}\n{err}");
    let holds = |holds: bool, what: &str| if holds { Ok(()) } else { Err(format!("{what}: {told}")) };
    holds(!err.contains("panicked") && !out.contains("panicked"), "a panic")?;
    holds(!err.contains(SECRET) && !out.contains(SECRET), "a secret is told")?;
    let ended: Value = serde_json::from_str(&out).unwrap_or_default();
    let results = place.path().join("results").join(name);
    match ends {
        Ends::Badly(exit, fault, words) => {
            holds(code == Some(*exit), "another exit code")?;
            let line = err.lines().find(|line| line.starts_with(&format!("error[{fault}]: "))).unwrap_or_default();
            let missing: Vec<&&str> = words.iter().filter(|word| !line.contains(**word)).collect();
            holds(!line.is_empty() && missing.is_empty(), &format!("[{fault}] {missing:?} are not told"))?;
            holds(!results.exists(), "something lies in the results")
        }
        Ends::Counting(count) => {
            holds(code == Some(0) && ended["outputs"]["count"] == json!(count), &format!("{}", ended["outputs"]))
        }
        Ends::Raster(expected) => {
            holds(code == Some(0), "no success")?;
            let told = tell(&results.join("raster.tif"));
            holds(told == *expected, &format!("`{told}`, not `{expected}`"))
        }
        Ends::Nothing(warning) => {
            let warned = err.lines().any(|line| line.starts_with("warn") && line.contains(warning));
            holds(code == Some(0) && warned, "no warning")?;
            let told = tell(&results.join("raster.tif"));
            holds(told.ends_with("nothing valid 0.00"), &told)
        }
        Ends::Same(digest) => {
            let same = ended["outputs"]["raster"]["digest"] == json!(digest.to_string());
            holds(code == Some(0) && same, &format!("other pixels: {}", ended["outputs"]))
        }
    }
}

/// A flow over the shipped imagery, computed anew each time.
fn good_flow() -> String {
    let catalog = checkout().join("flows/data/catalog.json");
    format!(
        "flow: good
steps:
  search: {{ task: stac.search, cache: off, with: {{ catalog: {}, collection: s2-l1c-t33uuu }} }}
  composite:
    task: raster.composite
    cache: off
    in: {{ scenes: search.scenes }}
    with: {{ bands: [B11], area: [12.55, 52.48, 12.6, 52.5] }}
outputs: {{ raster: composite.raster }}
",
        catalog.display()
    )
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Every visible artifact is whole and in its place, and nothing else lies there.
fn nothing_half_written(place: &Place) {
    for file in files(&place.home().join("artifacts")) {
        let digest = Digest::of(&std::fs::read(&file).unwrap()).to_string();
        let folder = file.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert!(digest.ends_with(folder) && folder.len() == 64, "`{}` is {digest}", file.display());
    }
    for folder in ["scratch", "incoming"] {
        assert_eq!(files(&place.home().join(folder)), Vec::<PathBuf>::new(), "{folder}");
    }
}

/// Runs all cases on one store, several at a time, and an unrelated flow after each.
fn hold(cases: Vec<Case>) {
    let count = cases.len();
    let place = Place::new(&good_flow());
    let good = |out: &str| {
        let (code, said, err) = run_within_deadline(&place, &["run", "flow.yaml", "--json", "--out", out]);
        let ended: Value = serde_json::from_str(&said).unwrap_or_default();
        assert_eq!(code, Some(0), "an unrelated flow fails: {err}");
        ended["outputs"]["raster"]["digest"].clone()
    };
    let first = good("results/good");
    let (queue, failures) = (Mutex::new(VecDeque::from(cases)), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(case) = queue.lock().unwrap().pop_front() else { return };
                    if let Err(failure) = try_case(&place, &case) {
                        failures.lock().unwrap().push(failure);
                    }
                    assert_eq!(good(&format!("results/after-{}", case.name)), first, "after {}", case.name);
                }
            });
        }
    });
    nothing_half_written(&place);
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {count} cases:\n{}", failures.len(), failures.join("\n"));
}

// What STAC servers and catalogues answer.

fn item(id: &str, day: usize, [west, south, east, north]: [f64; 4]) -> Value {
    let ring = [[west, south], [east, south], [east, north], [west, north], [west, south]];
    json!({"type": "Feature", "stac_version": "1.0.0", "id": id, "collection": "c", "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "links": [],
        "properties": {"datetime": format!("2024-03-{day:02}T10:00:00Z")},
        "assets": {"B": {"href": "b.tif", "type": "image/tiff; application=geotiff"}}})
}

fn scene(id: &str) -> Value {
    item(id, 1, [10.0, 50.0, 11.0, 51.0])
}

fn page(items: &[Value], next: &Value) -> Value {
    let links: Vec<&Value> = [next].into_iter().filter(|next| !next.is_null()).collect();
    json!({"type": "FeatureCollection", "features": items, "links": links})
}

/// A page of the scene `a`, in which one member is another.
fn changed(pointer: &str, value: Value) -> Reply {
    let mut item = scene("a");
    let (above, name) = pointer.rsplit_once('/').unwrap();
    item.pointer_mut(above).unwrap()[name] = value;
    Reply::json(&page(&[item], &Value::Null))
}

fn landing() -> Reply {
    Reply::json(&json!({"type": "Catalog", "id": "api", "stac_version": "1.0.0", "description": "",
        "conformsTo": ["https://api.stacspec.org/v1.0.0/item-search"],
        "links": [{"rel": "search", "method": "POST", "href": "/stac/search"}]}))
}

fn catalogue(links: Value) -> Reply {
    Reply::json(&json!({"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "", "links": links}))
}

fn search_steps(catalog: &str, more: &str) -> String {
    format!(
        "  search:
    task: stac.search
    retry: {{ times: 0 }}
    with: {{ catalog: \"{catalog}\", request_timeout: 2{more} }}
"
    )
}

type Answer = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

fn always(reply: Reply) -> Answer {
    Box::new(move |_| reply.clone())
}

/// A search of an API whose search answers so.
fn search(name: &str, more: &str, ends: Ends, answer: Answer) -> Case {
    served(name, more, ends, move |request| match request.path() {
        "/stac" => landing(),
        "/stac/search" => answer(request),
        _ => Reply::status(404),
    })
}

/// A search of a server that answers so to everything.
fn served(name: &str, more: &str, ends: Ends, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Case {
    let server = Server::start(answer);
    let steps = search_steps(&server.url(&format!("/stac?key={SECRET}")), more);
    Case { name: name.to_owned(), steps, outputs: "count: search.count", ends, _server: Some(server) }
}

#[test]
fn documents_of_a_catalogue() {
    use Ends::{Badly, Counting};
    let items = |items: &[Value]| always(Reply::json(&page(items, &Value::Null)));
    let whole = page(&[scene("a")], &Value::Null).to_string();
    let next = |link: Value| always(Reply::json(&page(&[scene("a")], &link)));
    let text = |text: Vec<u8>| always(Reply::content("application/json", text));
    let token = json!({"rel": "next", "method": "POST", "href": "/stac/search", "body": {"token": "same"}});
    let counted = AtomicUsize::new(0);
    let repeats_its_token: Answer = Box::new(move |_| {
        let id = counted.fetch_add(1, Ordering::Relaxed).to_string();
        Reply::json(&page(&[scene(&id)], &token))
    });
    let mut over = item("over", 1, [179.0, -17.0, -179.0, -16.0]);
    over["geometry"] = Value::Null;
    let elsewhere = json!({"rel": "next", "href": format!("https://elsewhere.example/?sig={SECRET}")});
    let rows: Vec<(&str, &str, &str, &[&str], Answer)> = vec![
        (
            "no-features",
            "",
            "S120",
            &["search:", "/stac/search", "without `features`"],
            always(Reply::json(&json!({"type": "FeatureCollection"}))),
        ),
        (
            "an-error-for-items",
            "",
            "S120",
            &["/stac/search", "out of memory"],
            always(Reply::json(&json!({"code": "Oops", "description": "out of memory"}))),
        ),
        (
            "no-time",
            "",
            "S121",
            &["/stac/search", "item `a`", "datetime"],
            always(changed("/properties/datetime", Value::Null)),
        ),
        ("no-id", "", "S121", &["/stac/search", "no `id`"], always(changed("/id", json!("")))),
        (
            "short-bbox",
            "",
            "S121",
            &["/stac/search", "item `a`", "four or six numbers"],
            always(changed("/bbox", json!([1, 2, 3]))),
        ),
        ("no-items", "", "S131", &["search:", "/stac", "0 items"], items(&[])),
        ("nothing-touches", ", area: [20, 20, 21, 21]", "S131", &["1 item", "0 in the area"], items(&[scene("a")])),
        ("next-loops", "", "S122", &["/stac/search", "nothing else"], next(json!({"rel": "next", "href": "search"}))),
        ("next-repeats-its-token", "", "S122", &["/stac/search", "read already"], repeats_its_token),
        (
            "next-leads-elsewhere",
            "",
            "S123",
            &["/stac/search", "another host: `https://elsewhere.example/"],
            next(elsewhere),
        ),
        (
            "a-page-of-html",
            "",
            "S110",
            &["/stac/search", "a web page, not JSON"],
            always(Reply::content("text/html", "<!DOCTYPE html><html>Sign in</html>")),
        ),
        ("json-that-is-none", "", "S110", &["/stac/search", "column 20"], text(b"{\"type\": \"Feature\" ? }".to_vec())),
        ("no-utf8", "", "S110", &["/stac/search", "unicode"], text(b"{\"type\": \"\xff\xfe\"}".to_vec())),
        (
            "deep-json",
            "",
            "S110",
            &["/stac/search", "recursion limit"],
            text(format!("{{\"features\": {}", "[".repeat(100_000)).into_bytes()),
        ),
        (
            "truncated-json",
            "",
            "S111",
            &["/stac/search", "ends too early, after 100 bytes"],
            text(whole.as_bytes()[..100].to_vec()),
        ),
        ("an-empty-body", "", "S111", &["/stac/search", "empty body"], always(Reply::status(200))),
    ];
    let here = ", area: [10, 50, 10.5, 50.5]";
    let survived: Vec<(&str, &str, u64, Answer)> = vec![
        ("an-asset-without-href", "", 1, always(changed("/assets/C", json!({"type": "image/tiff"})))),
        ("null-geometry", here, 1, always(changed("/geometry", Value::Null))),
        ("six-number-bbox", here, 1, always(changed("/bbox", json!([10, 50, -5, 11, 51, 900])))),
        ("antimeridian", ", area: [179.5, -16.8, -179.5, -16.2]", 1, items(&[over])),
        ("no-items-allowed", ", allow_empty: true", 0, items(&[])),
        ("duplicate-ids", "", 2, items(&[scene("a"), scene("b"), scene("a")])),
    ];
    let failed = |(name, more, code, words, answer)| search(name, more, Badly(1, code, words), answer);
    let mut cases: Vec<Case> = rows.into_iter().map(failed).collect();
    cases.extend(survived.into_iter().map(|(name, more, count, answer)| search(name, more, Counting(count), answer)));
    cases.push(served("a-catalogue-in-itself", "", Badly(1, "S131", &["/stac", "0 items"]), |request| {
        let above = if request.path() == "/stac" { "child" } else { "stac" };
        catalogue(json!([{"rel": "child", "href": above}, {"rel": "child", "href": "stac"}]))
    }));
    cases.push(served("an-item-that-is-gone", "", Badly(1, "S106", &["/gone.json", "404"]), |request| {
        match request.path() {
            "/stac" => catalogue(json!([{"rel": "item", "href": "gone.json"}])),
            _ => Reply::status(404),
        }
    }));
    hold(cases);
}

#[test]
fn answers_of_a_server() {
    use Ends::{Badly, Counting};
    let whole = page(&[scene("a")], &Value::Null);
    let text = whole.to_string();
    let once = |first: Reply| -> Answer {
        let (asked, whole) = (AtomicUsize::new(0), whole.clone());
        Box::new(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
            0 => first.clone(),
            _ => Reply::json(&whole),
        })
    };
    let later = |seconds: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    let busy = |after: &str| Reply::status(429).header("Retry-After", after);
    let json = || Reply::content("application/json", text.as_bytes());
    let failed: Vec<(&str, &str, &[&str], Reply)> = vec![
        ("status-429-for-years", "S103", &["search:", "/stac/search", "429"], busy("99999999999")),
        ("status-429-for-ever", "S103", &["/stac/search", "429"], Reply::status(429)),
        ("status-503-for-ever", "S104", &["/stac/search", "503"], Reply::status(503)),
        ("status-401", "S105", &["/stac/search", "401"], Reply::status(401)),
        ("status-403", "S105", &["/stac/search", "403", "key expired"], Reply::status(403).body("key expired")),
        ("status-400", "S107", &["/stac/search", "400", "bad limit"], Reply::status(400).body("bad limit")),
        ("closes", "S101", &["/stac/search", "broke off"], Reply::close()),
        ("breaks-off", "S101", &["/stac/search", "broke off"], json().cut_after(50)),
        ("hangs", "S102", &["/stac/search", "no answer within 2 s"], Reply::hang()),
        ("stalls", "S102", &["/stac/search", "2 s"], json().stall_after(50)),
        ("a-byte-a-second", "S102", &["/stac/search", "2 s"], json().drip(Duration::from_secs(1))),
        ("redirects-in-circles", "S108", &["/stac/search", "8"], Reply::redirect(307, "/stac/search")),
        (
            "redirects-to-a-file",
            "S108",
            &["/stac/search", "not an HTTP address"],
            Reply::redirect(307, "file:///etc/passwd"),
        ),
        ("a-gzip-bomb", "S109", &["/stac/search", "32 MiB"], Reply::gzip_bomb()),
    ];
    let survived = [
        ("status-429-with-seconds", busy("1")),
        ("status-429-with-a-date", busy(&later(2))),
        ("status-429-without-a-pause", Reply::status(429)),
        ("status-503-once", Reply::status(503)),
        ("breaks-off-once", json().cut_after(50)),
    ];
    let failed =
        failed.into_iter().map(|(name, code, words, reply)| search(name, "", Badly(1, code, words), always(reply)));
    let mut cases: Vec<Case> = failed.collect();
    cases.extend(survived.into_iter().map(|(name, reply)| search(name, "", Counting(1), once(reply))));
    cases.push(served("status-404", "", Badly(1, "S106", &["/stac", "404"]), |_| Reply::status(404)));
    let words = &["127.0.0.1", "cannot be reached", "refused"];
    let mut refuses = served("refuses", "", Badly(1, "S101", words), |_| landing());
    refuses._server = None;
    cases.push(refuses);
    let mut slow = served("hangs-past-the-timeout-of-the-step", "", Badly(1, "E316", &["search:"]), |_| Reply::hang());
    slow.steps = slow.steps.replace("request_timeout: 2", "request_timeout: 600");
    slow.steps = slow.steps.replace("    retry", "    timeout: 1s\n    retry");
    cases.push(slow);
    hold(cases);
}

// Rasters.

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
    let href = server.url(&format!("/good.tif?sig={SECRET}"));
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
    // GDAL asks again by itself once: it takes more to make the task do so.
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
    let reads = AtomicUsize::new(0);
    let changing = move |request: &Request, good: &[u8]| {
        let tag = if late(request) { reads.fetch_add(1, Ordering::Relaxed) } else { reads.load(Ordering::Relaxed) };
        Reply::ranged(request, good).header("ETag", &format!("\"{}\"", tag.min(1)))
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
    hold(vec![
        hangs,
        hangs_late,
        drips,
        remote("remote-404", Badly(1, "R101", &["composite:", "/good.tif", "404"]), |_, _| Reply::status(404)),
        remote("remote-403", Badly(1, "R105", &["/good.tif", "403"]), |_, _| Reply::status(403)),
        remote("remote-403-from-the-pixels-on", Badly(1, "R105", &["/good.tif", "403"]), after(Reply::status(403))),
        remote("remote-503-from-the-pixels-on", Badly(1, "R104", &["/good.tif", "503"]), after(Reply::status(503))),
        remote("remote-closes-from-the-pixels-on", Badly(1, "R104", &["/good.tif"]), after(Reply::close())),
        remote("remote-cut", Badly(1, "R104", &["/good.tif"]), |request, good| match late(request) {
            true => Reply::ranged(request, good).cut_after(10_000),
            false => Reply::ranged(request, good),
        }),
        remote("remote-page", Badly(1, "R102", &["/good.tif", "not recognized"]), |_, _| {
            Reply::content("text/html", "<!DOCTYPE html><html>Sign in</html>")
        }),
        remote("remote-zeros", Badly(1, "R103", &["/good.tif"]), |request, good| match late(request) {
            true => Reply::ranged(request, &vec![0; good.len()]),
            false => Reply::ranged(request, good),
        }),
        remote("remote-truncated", Badly(1, "R103", &["/good.tif", "ends within the tile"]), |request, good| {
            Reply::ranged(request, &good[..good.len() * 2 / 3])
        }),
        remote("remote-changes", Badly(1, "R114", &["/good.tif", "entity tag"]), changing),
        remote("remote-redirects", Badly(1, "R104", &["/good.tif"]), |_, _| Reply::redirect(302, "/good.tif")),
        remote("remote-is-whole", Same(digest), |_, good| Reply::content("image/tiff", good)),
        remote("remote-well", Same(digest), Reply::ranged),
        remote("remote-503-for-a-while", Same(digest), for_a_while(Reply::status(503))),
        remote("remote-429-for-a-while", Same(digest), for_a_while(Reply::status(429).header("Retry-After", "1"))),
        remote("remote-closes-for-a-while", Same(digest), for_a_while(Reply::close())),
    ]);
}

// Models.

/// A model folder around a network, told of as `edit` leaves it.
fn model(name: &str, network: &[u8], edit: impl FnOnce(&mut Value)) -> PathBuf {
    let folder = INPUTS.path().join("models").join(name);
    std::fs::create_dir_all(folder.join("1")).unwrap();
    std::fs::write(folder.join("1/model.onnx"), network).unwrap();
    let mut manifest = json!({
        "name": name, "version": 1, "about": "for a test", "file": "1/model.onnx", "digest": Digest::of(network).to_string(),
        "bands": [{"name": "P"}], "normalisation": {"method": "none", "fill": 0.0},
        "input": {"name": "image", "channels": 1}, "output": {"name": "logits", "channels": 1}, "activation": "probability",
        "tile": {"size": 64, "multiple_of": 8}, "classes": ["ship"], "gsd": 10.0
    });
    edit(&mut manifest);
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    folder
}

fn segment(name: &str, model: &Path, raster: &str, ends: Ends) -> Case {
    let raster = INPUTS.path().join(format!("networks/{raster}.tif"));
    let steps = format!(
        "  raster:
    task: run.command
    with: {{ command: [cp, {}, \"{{outputs.raster}}\"], outputs: {{ raster: {{ kind: raster.cog, name: raster.tif }} }} }}
  predict:
    task: infer.segment
    in: {{ raster: raster.raster }}
    with: {{ model: {}, overlap: 16 }}
",
        raster.display(),
        model.display()
    );
    Case { name: name.to_owned(), steps, outputs: "raster: predict.raster", ends, _server: None }
}

#[test]
fn models() {
    use Ends::{Badly, Nothing};
    let network = |name: &str| std::fs::read(INPUTS.path().join(format!("networks/{name}.onnx"))).unwrap();
    let mut cases: Vec<Case> = [
        ("empty", "M104", &["predict:", "model.onnx", "it is empty"][..]),
        ("random", "M104", &["model.onnx", "not a whole ONNX file"]),
        ("truncated", "M104", &["model.onnx", "not a whole ONNX file"]),
        ("external", "M105", &["model.onnx", "weights.bin"]),
        ("unknown_operator", "M107", &["model.onnx", "Frobnicate"]),
        ("two_outputs", "M106", &["model.onnx", "2 outputs (`logits`, `more`)"]),
        ("two_inputs", "M106", &["model.onnx", "2 inputs (`image`, `more`)"]),
        ("wrong_input_name", "M106", &["model.onnx", "its input is called `x`, not `image`"]),
        ("wrong_output_name", "M106", &["model.onnx", "its output is called `y`, not `logits`"]),
        ("wrong_channels", "M106", &["model.onnx", "[any, 4, any, any]"]),
        ("wrong_rank", "M106", &["model.onnx", "[any, 1, any]"]),
        ("wrong_type", "M106", &["model.onnx", "f64"]),
        ("wrong_size", "M106", &["model.onnx", "[any, 1, 100, 100]"]),
        ("half_size", "M106", &["model.onnx", "its output has shape"]),
    ]
    .into_iter()
    .map(|(name, code, words)| {
        segment(&name.replace('_', "-"), &model(name, &network(name), |_| {}), "one", Badly(1, code, words))
    })
    .collect();
    let sound = network("identity");
    let water = std::fs::read(checkout().join("model_repository/water_unet/1/model.onnx")).unwrap();
    let mut flipped = water.clone();
    flipped[water.len() / 2] ^= 1;
    let original = Digest::of(&water).to_string();
    let outside = INPUTS.path().join("networks/identity.onnx");
    let linked = model("linked", &sound, |_| {});
    std::fs::remove_file(linked.join("1/model.onnx")).unwrap();
    std::os::unix::fs::symlink(&outside, linked.join("1/model.onnx")).unwrap();
    let broken = model("broken", &sound, |_| {});
    std::fs::write(broken.join("manifest.json"), "{\"name\": \"broken\", ").unwrap();
    let bare = INPUTS.path().join("models");
    let more: Vec<(&str, PathBuf, &str, Ends)> = vec![
        (
            "flipped-weight",
            model("flipped", &flipped, |manifest| manifest["digest"] = json!(original)),
            "one",
            Badly(1, "M103", &["model.onnx", "not the one the manifest tells of"]),
        ),
        (
            "half-of-the-water-model",
            model("half", &water[..water.len() / 2], |_| {}),
            "one",
            Badly(1, "M104", &["model.onnx", "not a whole ONNX file"]),
        ),
        ("no-such-model", INPUTS.path().join("no-such-model"), "one", Badly(1, "M101", &["no-such-model"])),
        ("no-manifest", bare, "one", Badly(1, "M101", &["manifest.json"])),
        ("broken-manifest", broken, "one", Badly(1, "M102", &["manifest.json", "line 1"])),
        (
            "no-network",
            model("no-network", &sound, |manifest| manifest["file"] = json!("2/model.onnx")),
            "one",
            Badly(1, "M101", &["2/model.onnx"]),
        ),
        (
            "network-above",
            model("above", &sound, |manifest| manifest["file"] = json!("../identity.onnx")),
            "one",
            Badly(1, "M102", &["../identity.onnx"]),
        ),
        ("network-linked-elsewhere", linked, "one", Badly(1, "M102", &["manifest.json", "networks/identity.onnx"])),
        (
            "not-a-number",
            model("sqrt", &network("sqrt"), |_| {}),
            "negative",
            Badly(1, "M110", &["class `ship` at row 0, column 0"]),
        ),
        (
            "no-probability",
            model("identity", &sound, |_| {}),
            "negative",
            Badly(1, "M111", &["-0.5", "class `ship` at row 0, column 0"]),
        ),
        ("other-bands", model("identity", &sound, |_| {}), "unnamed", Badly(1, "M108", &["no band `P`", "`P2`"])),
        ("other-pixels", model("identity", &sound, |_| {}), "coarse", Badly(1, "M109", &["20.00 m"])),
        ("no-data-to-predict", model("identity", &sound, |_| {}), "empty", Nothing("the raster holds no data")),
    ];
    cases.extend(more.into_iter().map(|(name, folder, raster, ends)| segment(name, &folder, raster, ends)));
    hold(cases);
}
