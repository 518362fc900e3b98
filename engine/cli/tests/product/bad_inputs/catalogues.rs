//! What STAC servers and catalogues answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use swath_testkit::closed::Closed;
use swath_testkit::http::{Reply, Request, Server};

use super::{Case, Ends, INPUTS, SECRET, hold};

pub fn item(id: &str, day: usize, [west, south, east, north]: [f64; 4]) -> Value {
    let ring = [[west, south], [east, south], [east, north], [west, north], [west, south]];
    json!({"type": "Feature", "stac_version": "1.0.0", "id": id, "collection": "c", "bbox": [west, south, east, north],
        "geometry": {"type": "Polygon", "coordinates": [ring]}, "links": [],
        "properties": {"datetime": format!("2024-03-{day:02}T10:00:00Z")},
        "assets": {"B": {"href": "b.tif", "type": "image/tiff; application=geotiff"}}})
}

fn scene(id: &str) -> Value {
    item(id, 1, [10.0, 50.0, 11.0, 51.0])
}

pub fn page(items: &[Value], next: &Value) -> Value {
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

pub fn search_steps(catalog: &str, more: &str) -> String {
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
    let mut nowhere = scene("a");
    nowhere["geometry"] = Value::Null;
    nowhere["bbox"] = Value::Null;
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
        ("an-item-that-is-none", "", "S121", &["/stac/search"], always(Reply::json(&page(&[json!(1)], &Value::Null)))),
        ("an-empty-body", "", "S111", &["/stac/search", "empty body"], always(Reply::status(200))),
    ];
    let here = ", area: [10, 50, 10.5, 50.5]";
    let survived: Vec<(&str, &str, u64, Answer)> = vec![
        ("an-asset-without-href", "", 1, always(changed("/assets/C", json!({"type": "image/tiff"})))),
        ("null-geometry", here, 1, always(changed("/geometry", Value::Null))),
        // The server has looked at the area.
        ("no-place", here, 1, items(&[nowhere])),
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
fn catalogues_on_this_machine() {
    let folder = INPUTS.path().join("catalogues");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let collection = json!({"type": "Collection", "id": "c", "stac_version": "1.0.0", "description": "",
        "license": "other", "extent": {}, "links": []});
    write("collection.json", &collection.to_string());
    write("cut.json", "{\"type\": \"Catalog\", ");
    write("empty.json", "");
    write("pixels.json", "II*\0");
    write("plain.json", "{\"name\": \"Ada\"}");
    let web = json!({"type": "Catalog", "id": "c", "stac_version": "1.0.0", "description": "",
        "links": [{"rel": "child", "href": format!("https://elsewhere.example/?sig={SECRET}")}]});
    write("web.json", &web.to_string());
    let rows: [(&str, &str, &str, &str, &[&str]); 7] = [
        ("a-folder", "../networks", "", "S125", &["networks"]),
        ("a-cut-file", "cut.json", "", "S110", &["cut.json", "line 1 column 20"]),
        ("an-empty-file", "empty.json", "", "S110", &["empty.json"]),
        ("pixels", "pixels.json", "", "S110", &["pixels.json"]),
        ("other-json", "plain.json", "", "S120", &["plain.json", "not a STAC document"]),
        ("no-such-collection", "collection.json", ", collection: d", "S130", &["collection.json", "`d`", "c"]),
        ("leads-to-the-web", "web.json", "", "S123", &["web.json", "another host: `https://elsewhere.example/"]),
    ];
    let case = |(name, file, more, code, words): (&str, &str, &str, _, _)| Case {
        name: name.to_owned(),
        steps: search_steps(&folder.join(file).display().to_string(), more),
        outputs: "count: search.count",
        ends: Ends::Badly(1, code, words),
        _server: None,
    };
    hold(rows.into_iter().map(case).collect());
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
    let closed = Closed::take();
    cases.push(Case {
        name: "refuses".to_owned(),
        steps: search_steps(&format!("http://{}/stac?key={SECRET}", closed.address()), ""),
        outputs: "count: search.count",
        ends: Badly(1, "S101", words),
        _server: None,
    });
    let mut slow = served("hangs-past-the-timeout-of-the-step", "", Badly(1, "E316", &["search:"]), |_| Reply::hang());
    slow.steps = slow.steps.replace("request_timeout: 2", "request_timeout: 600");
    slow.steps = slow.steps.replace("    retry", "    timeout: 1s\n    retry");
    cases.push(slow);
    hold(cases);
}
