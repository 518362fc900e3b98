//! Searches of servers that answer well, badly or not at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use swath_stac::TASKS;
use swath_task::local::LocalHost;
use swath_task::{Fault, TaskError};
use swath_testkit::http::{Reply, Request, Server};
use tokio_util::sync::CancellationToken;

use crate::common::{item, search, search_error, try_search};

/// A landing page, and `answer` for the search.
fn api(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |request| match request.path() {
        "/stac" | "/stac/" => Reply::json(&landing()),
        "/stac/search" => answer(request),
        _ => Reply::status(404).body(r#"{"detail": "not here"}"#),
    })
}

fn landing() -> Value {
    json!({"type": "Catalog", "id": "api", "stac_version": "1.0.0", "description": "",
        "conformsTo": ["https://api.stacspec.org/v1.0.0/item-search"],
        "links": [{"rel": "search", "method": "GET", "href": "/stac/search"},
                  {"rel": "search", "method": "POST", "href": "/stac/search"}]})
}

fn page(items: Vec<Value>, next: Option<Value>) -> Value {
    json!({"type": "FeatureCollection", "features": items, "links": next.into_iter().collect::<Vec<_>>()})
}

fn scene(id: &str) -> Value {
    let mut item = item(id, "2024-03-01T10:00:00Z", [10.0, 50.0, 11.0, 51.0]);
    item["collection"] = json!("s2");
    item
}

/// The error of a search for anything on a server that answers so, where each answer may take `patience` seconds.
async fn failed_within(patience: u32, answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> TaskError {
    let server = api(answer);
    let started = Instant::now();
    let error = match try_search(json!({"catalog": server.url("/stac"), "request_timeout": patience})).await {
        Err(error) => error,
        Ok(found) => panic!("found {} scenes", found.scenes.len()),
    };
    assert!(started.elapsed() < Duration::from_secs(50), "{:?}", started.elapsed());
    error
}

async fn failed(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> TaskError {
    failed_within(60, answer).await
}

async fn failed_for_good(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Fault {
    match failed(answer).await {
        TaskError::Permanent(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pages_are_followed_by_a_merged_body_token() {
    let server = api(|request| {
        let next = |token: &str| {
            Some(
                json!({"rel": "next", "method": "POST", "href": "/stac/search", "merge": true, "body": {"token": token}}),
            )
        };
        Reply::json(&match request.json()["token"].as_str() {
            None => page(vec![scene("c"), scene("b")], next("2")),
            Some("2") => page(vec![scene("a"), scene("b")], next("3")),
            _ => page(vec![scene("d")], None),
        })
    });
    let found = search(json!({"catalog": server.url("/stac"), "collections": ["s2"], "limit": 2,
        "area": [10.0, 50.0, 10.5, 50.5], "period": "2024-01-01T00:00:00Z/..", "query": {"gsd": {"neq": 1}}, "allow_empty": true}))
    .await;
    assert!(found.scenes.is_empty(), "no item has a gsd");
    let asked = server.requests();
    let bodies: Vec<Value> = asked[1..].iter().map(Request::json).collect();
    let first = json!({"limit": 2, "collections": ["s2"], "bbox": [10.0, 50.0, 10.5, 50.5],
        "datetime": "2024-01-01T00:00:00Z/..", "query": {"gsd": {"neq": 1}}});
    let with = |token: &str| {
        let mut body = first.clone();
        body["token"] = json!(token);
        body
    };
    assert_eq!(bodies, [first.clone(), with("2"), with("3")]);
    assert_eq!(found.metric("items_seen"), Some(4.0), "the repeated item is seen once");
    assert_eq!(found.metric("duplicates"), Some(1.0));
}

#[tokio::test]
async fn pages_are_followed_by_link_and_the_result_is_sorted() {
    let server = api(|request| {
        let next = Some(json!({"rel": "next", "href": "search?page=2"}));
        Reply::json(&match request.query() {
            "" => page(vec![scene("c"), scene("a")], next),
            "page=2" => page(vec![scene("b")], None),
            other => panic!("{other}"),
        })
    });
    let found = search(json!({"catalog": server.url("/stac/")})).await;
    assert_eq!(found.scenes.iter().map(|scene| scene.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_short_failure_does_not_cost_the_search() {
    let count = Arc::new(AtomicUsize::new(0));
    let server = api({
        let count = count.clone();
        move |_| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Reply::status(429).header("Retry-After", "1"),
            1 => Reply::close(),
            _ => Reply::json(&page(vec![scene("a")], None)),
        }
    });
    assert_eq!(search(json!({"catalog": server.url("/stac")})).await.scenes.len(), 1);
    assert_eq!(count.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn get_serves_where_post_is_not_offered() {
    for status in [404, 405, 501] {
        let server = api(move |request| match request.method.as_str() {
            "POST" => Reply::status(status),
            _ => Reply::json(&page(vec![scene("a")], None)),
        });
        let found = search(json!({"catalog": server.url("/stac"), "collection": "s2", "period": "2024-03-01",
            "area": [10.0, 50.0, 10.5, 50.5]}))
        .await;
        assert_eq!(found.scenes.len(), 1);
        let asked = server.requests().pop().unwrap();
        let pairs = "limit=100&collections=s2&bbox=10%2C50%2C10.5%2C50.5&datetime=2024-03-01T00%3A00%3A00Z%2F2024-03-01T23%3A59%3A59.999Z";
        assert_eq!((asked.method.as_str(), asked.query()), ("GET", pairs), "{status}");
    }
}

#[tokio::test]
async fn a_box_over_the_antimeridian_is_asked_for_in_two() {
    let server = api(|request| {
        let west = request.json()["bbox"][0].as_f64().unwrap();
        let mut item = if west > 0.0 {
            item("e", "2024-01-01T00:00:00Z", [179.0, -17.0, 180.0, -16.0])
        } else {
            item("w", "2024-01-01T00:00:00Z", [-180.0, -17.0, -179.0, -16.0])
        };
        item["collection"] = json!("s2");
        let mut both = item.clone();
        both["id"] = json!("both");
        both["geometry"] = Value::Null;
        both["bbox"] = json!([179.9, -17.0, 0.0, -179.9, -16.0, 100.0]);
        Reply::json(&page(vec![item, both], None))
    });
    let found = search(json!({"catalog": server.url("/stac"), "area": [179.5, -16.8, -179.5, -16.2]})).await;
    assert_eq!(found.scenes.iter().map(|scene| scene.id.as_str()).collect::<Vec<_>>(), ["both", "e", "w"]);
    assert_eq!(found.scenes[0].bbox, Some([179.9, -17.0, -179.9, -16.0]), "six numbers become four");
    let boxes: Vec<Value> = server.requests()[1..].iter().map(|request| request.json()["bbox"].clone()).collect();
    assert_eq!(boxes, [json!([179.5, -16.8, 180.0, -16.2]), json!([-180.0, -16.8, -179.5, -16.2])]);
}

#[tokio::test]
async fn the_second_side_of_the_antimeridian_may_begin_with_what_the_first_has_told() {
    let server = api(|request| {
        let next = |token: &str| {
            Some(
                json!({"rel": "next", "method": "POST", "href": "/stac/search", "merge": true, "body": {"token": token}}),
            )
        };
        let both = |id: &str| {
            let mut item = item(id, "2024-01-01T00:00:00Z", [179.9, -17.0, -179.9, -16.0]);
            item["geometry"] = Value::Null;
            item
        };
        let body = request.json();
        let west = body["bbox"][0].as_f64().unwrap();
        Reply::json(&match (west > 0.0, body["token"].as_str()) {
            (true, _) => page(vec![both("a"), both("b")], None),
            (false, None) => page(vec![both("a"), both("b")], next("2")),
            (false, _) => page(vec![both("c")], None),
        })
    });
    let found = search(json!({"catalog": server.url("/stac"), "area": [179.5, -16.8, -179.5, -16.2]})).await;
    assert_eq!(found.scenes.iter().map(|scene| scene.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(found.metric("duplicates"), Some(2.0));
}

#[tokio::test]
async fn a_collection_of_a_server_gives_all_pages_of_its_items() {
    let server = Server::start(|request| match (request.path(), request.query()) {
        ("/stac/collections/s2", _) => Reply::json(&json!({"type": "Collection", "id": "s2", "stac_version": "1.0.0",
            "description": "", "license": "other", "extent": {}, "links": [{"rel": "items", "href": "s2/items"}]})),
        ("/stac/collections/s2/items", "") => {
            Reply::json(&page(vec![scene("a"), scene("b")], Some(json!({"rel": "next", "href": "items?page=2"}))))
        }
        ("/stac/collections/s2/items", "page=2") => {
            Reply::json(&page(vec![scene("c")], Some(json!({"rel": "next", "href": "items?page=3"}))))
        }
        ("/stac/collections/s2/items", "page=3") => Reply::json(&page(vec![scene("d")], None)),
        other => panic!("{other:?}"),
    });
    let found = search(json!({"catalog": server.url("/stac/collections/s2")})).await;
    assert_eq!(found.scenes.iter().map(|scene| scene.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn no_signature_of_an_item_is_stored() {
    let azure = "https://account.blob.core.windows.net/c/B04.tif";
    let signed = move |href: &'static str| {
        api(move |_| {
            let mut item = scene("a");
            item["links"] = json!([{"rel": "self", "href": "https://host/items/a?token=SECRET"}]);
            item["assets"] = json!({"B04": {"href": href, "type": "image/tiff"}});
            Reply::json(&page(vec![item], None))
        })
    };
    let server = signed("https://account.blob.core.windows.net/c/B04.tif?sv=1&se=2024&sig=SECRET");
    let found = search(json!({"catalog": server.url("/stac"), "signing": "planetary_computer"})).await;
    assert_eq!(found.scenes[0].assets["B04"].href, azure);
    assert_eq!(found.scenes[0].href.as_deref(), Some("https://host/items/a"));
    for (href, word) in [
        ("https://account.blob.core.windows.net/c/B04.tif?sv=1&se=2024&sig=SECRET", "planetary_computer"),
        ("https://b.s3.amazonaws.com/B04.tif?X-Amz-Expires=9&X-Amz-Signature=SECRET", "unsigned"),
    ] {
        let server = signed(href);
        let fault = search_error(json!({"catalog": server.url("/stac")})).await;
        assert!(fault.code == "S132" && fault.message.contains("`B04` of `a`"), "{fault}");
        assert!(!fault.message.contains("SECRET") && fault.help.as_deref().unwrap().contains(word), "{fault:?}");
    }
}

#[tokio::test]
async fn a_shape_is_asked_for_as_a_shape_and_checked_again() {
    let folder = tempfile::tempdir().unwrap();
    let area = folder.path().join("area.geojson");
    let shape = json!({"type": "Polygon", "coordinates": [[[9.0, 52.0], [12.0, 49.0], [12.0, 52.0], [9.0, 52.0]]]});
    std::fs::write(&area, shape.to_string()).unwrap();
    let server = api(|_| {
        // Within the area's box, not touching its triangle.
        let outside = item("outside", "2024-03-01T10:00:00Z", [9.0, 49.0, 9.5, 49.5]);
        Reply::json(&page(vec![scene("a"), outside], None))
    });
    let found = search(json!({"catalog": server.url("/stac"), "area": area})).await;
    assert_eq!(found.scenes.len(), 1);
    assert_eq!(server.requests()[1].json()["intersects"], shape);
}

#[tokio::test]
async fn a_page_of_thousands_of_items_is_read_off_the_loop() {
    let server = api(|_| Reply::json(&page((0..5000).map(|i| scene(&format!("{i:04}"))).collect(), None)));
    // What ticks on the loop is held up by it and by the machine, a thread by the machine alone.
    let (ticks, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (over, ticking) = (Arc::new(AtomicBool::new(false)), ticks.clone());
    let ticking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            ticking.fetch_add(1, Ordering::Relaxed);
        }
    });
    let thread = std::thread::spawn({
        let (most, over) = (most.clone(), over.clone());
        move || {
            while !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
                most.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let found = search(json!({"catalog": server.url("/stac"), "limit": 5000})).await;
    let share = ticks.load(Ordering::Relaxed) as f64 / most.load(Ordering::Relaxed) as f64;
    ticking.abort();
    over.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    assert_eq!((found.scenes.len(), found.scenes[4999].id.as_str()), (5000, "4999"));
    // A loop that was held up would have ticked a few times only.
    assert!(share > 0.1, "{share}");
}

#[tokio::test]
async fn no_more_pages_are_read_than_wanted() {
    let count = Arc::new(AtomicUsize::new(0));
    let server = api({
        let count = count.clone();
        move |_| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            let next = json!({"rel": "next", "method": "POST", "href": "/stac/search", "body": {"token": number}});
            Reply::json(&page((0..10).map(|i| scene(&format!("{number:02}-{i}"))).collect(), Some(next)))
        }
    });
    let found = search(json!({"catalog": server.url("/stac"), "max_items": 25, "limit": 10})).await;
    assert_eq!((found.scenes.len(), count.load(Ordering::Relaxed)), (25, 3));
}

#[tokio::test]
async fn paging_that_does_not_end_is_an_error() {
    let post =
        |token: Value| json!({"rel": "next", "method": "POST", "href": "/stac/search", "body": {"token": token}});
    let count = AtomicUsize::new(0);
    let repeated = failed_for_good(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Reply::json(&page(vec![scene(&number.to_string())], Some(post(json!("same")))))
    });
    let to_itself =
        failed_for_good(|_| Reply::json(&page(vec![scene("a")], Some(json!({"rel": "next", "href": "search"})))));
    let count = AtomicUsize::new(0);
    let fresh_tokens = failed_for_good(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Reply::json(&page(vec![scene("a"), scene("b")], Some(post(json!(number)))))
    });
    let count = AtomicUsize::new(0);
    let empty = failed_for_good(move |_| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Reply::json(&page(vec![], Some(post(json!(number)))))
    });
    for (fault, word) in [
        (repeated.await, "read already"),
        (to_itself.await, "nothing else"),
        (fresh_tokens.await, "nothing else"),
        (empty.await, "empty"),
    ] {
        assert!(
            fault.code == "S122" && fault.message.contains(word) && fault.message.contains("/stac/search"),
            "{fault}"
        );
    }
}

#[tokio::test]
async fn the_next_page_stays_on_its_host() {
    let elsewhere = Server::start(|_| Reply::json(&page(vec![], None)));
    for href in ["https://elsewhere.example/search".to_owned(), elsewhere.url("/search")] {
        let fault = failed_for_good(move |_| {
            Reply::json(&page(vec![scene("a")], Some(json!({"rel": "next", "href": format!("{href}?key=SECRET")}))))
        })
        .await;
        assert!(fault.code == "S123" && !fault.message.contains("SECRET"), "{fault}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn answers_that_are_no_items_are_told_by_their_fault() {
    let whole = page(vec![scene("a")], None).to_string();
    for (reply, code, transient) in [
        (Reply::json(&json!({"type": "FeatureCollection"})), "S120", false),
        (Reply::json(&json!({"type": "FeatureCollection", "features": null})), "S120", false),
        (Reply::json(&json!({"code": "Oops", "description": "no such collection"})), "S120", false),
        (Reply::json(&json!([1, 2])), "S120", false),
        (Reply::content("text/html", "<html>Sign in</html>"), "S110", false),
        (Reply::content("application/json", &whole.as_bytes()[..100]), "S111", true),
        (Reply::content("application/json", whole.as_bytes()).cut_after(50), "S101", true),
        (Reply::status(429).header("Retry-After", "5"), "S103", true),
        (Reply::status(503), "S104", true),
        (Reply::status(403), "S105", false),
        (Reply::status(400).body(r#"{"description": "bad datetime"}"#), "S107", false),
        (Reply::hang(), "S102", true),
        (Reply::content("application/json", whole.as_bytes()).drip(Duration::from_secs(1)), "S102", true),
        (Reply::redirect(307, "/stac/search"), "S108", false),
        (Reply::gzip_bomb(), "S109", false),
    ] {
        let shown = format!("{reply:?}").chars().take(100).collect::<String>();
        let patience = if code == "S102" { 1 } else { 60 };
        match failed_within(patience, move |_| reply.clone()).await {
            TaskError::Transient { fault, retry_after } => {
                assert_eq!((fault.code.as_ref(), true), (code, transient), "{shown}: {fault}");
                let pause = (code == "S103").then_some(Duration::from_secs(5));
                assert_eq!(retry_after, pause);
            }
            TaskError::Permanent(fault) => {
                assert_eq!((fault.code.as_ref(), false), (code, transient), "{shown}: {fault}");
            }
            TaskError::Cancelled => panic!("{shown}"),
        }
    }
}

#[tokio::test]
async fn broken_items_are_named() {
    type Breaks = fn(&mut Value);
    let cases: [(Breaks, &str); 7] = [
        (|item| item["id"] = json!(""), "no `id`"),
        (|item| item["type"] = json!("Item"), "`type`"),
        (|item| item["properties"] = json!({"datetime": null}), "neither `datetime` nor"),
        (|item| item["properties"]["datetime"] = json!("yesterday"), "item `a`"),
        (|item| item["bbox"] = json!([1, 2, 3]), "four or six numbers"),
        (|item| item["geometry"] = json!({"type": "Polygon"}), "item `a`"),
        (|item| item["assets"] = json!(["a.tif"]), "item `a`"),
    ];
    for (breaks, word) in cases {
        let mut item = scene("a");
        breaks(&mut item);
        let shown = item.to_string();
        let fault = failed_for_good(move |_| Reply::json(&page(vec![item.clone()], None))).await;
        assert!(fault.code == "S121" && fault.message.contains(word), "{shown}: {fault}");
        assert!(fault.message.contains("/stac/search"), "{fault}");
    }
}

#[tokio::test]
async fn odd_items_are_taken_as_they_are_meant() {
    let server = api(|_| {
        let mut odd = scene("odd");
        odd["geometry"] = Value::Null;
        odd["bbox"] = json!([10.0, 50.0, -5.0, 11.0, 51.0, 900.0]);
        odd["properties"] = json!({"datetime": null, "start_datetime": "2024-01-05T01:00:00+01:00",
            "end_datetime": "2024-01-06T00:00:00Z", "updated": 5, "earthsearch:boa_offset_applied": true, "proj:epsg": 32632});
        odd["links"] = json!([{"rel": "self", "href": "../items/odd/item.json"}, {"rel": "broken"}, {"href": "x"}]);
        odd["assets"] = json!({
            "B04": {"href": "B04.tif", "roles": ["data"], "nodata": "nan", "data_type": "cint99",
                "raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}], "eo:bands": [{"name": "B04", "common_name": "red"}],
                "alternate": {"s3": {"href": "s3://bucket/B04.tif"}}},
            "none": {"title": "no href"}, "null": {"href": null}, "text": "x.tif",
            "rgb": {"href": "/rgb.tif", "type": "image/tiff", "bands": [{"name": "r", "nodata": 0}, {"name": "g", "nodata": 255}]},
            "xml": {"href": "m.xml", "type": "application/xml"}});
        Reply::json(&page(vec![odd], None))
    });
    let found = search(
        json!({"catalog": server.url("/stac"), "period": "2024-01-06/2024-01-07", "area": [10.0, 50.0, 10.1, 50.1]}),
    )
    .await;
    let scene = &found.scenes[0];
    assert_eq!((scene.datetime.as_str(), scene.offset_applied), ("2024-01-05T00:00:00Z", true));
    assert_eq!(scene.assets.keys().collect::<Vec<_>>(), ["B04", "rgb"]);
    let red = &scene.assets["B04"];
    assert_eq!(red.href, server.url("/items/odd/B04.tif"), "relative to the item's own address");
    assert_eq!((red.scale, red.offset, red.nodata), (Some(0.0001), Some(-0.1), Some(0.0)));
    assert_eq!((red.bands.as_slice(), red.crs.as_deref()), (["red".to_owned()].as_slice(), Some("EPSG:32632")));
    let rgb = &scene.assets["rgb"];
    assert_eq!((rgb.href.as_str(), rgb.nodata, rgb.bands.len()), (server.url("/rgb.tif").as_str(), None, 2));

    let found = search(json!({"catalog": server.url("/stac"), "alternate": "s3", "assets": ["B04"]})).await;
    assert_eq!(found.scenes[0].assets["B04"].href, "s3://bucket/B04.tif");
}

#[tokio::test]
async fn an_unknown_collection_is_told_from_an_empty_one() {
    let server = Server::start(|request| match request.path() {
        "/stac" => Reply::json(&landing()),
        "/stac/search" => Reply::json(&page(vec![], None)),
        "/stac/collections/s2" => Reply::json(&json!({"type": "Collection", "id": "s2"})),
        _ => Reply::status(404),
    });
    let fault = search_error(json!({"catalog": server.url("/stac"), "collection": "s2"})).await;
    assert!(fault.code == "S131" && fault.message.contains("0 items seen"), "{fault}");
    let fault = search_error(json!({"catalog": server.url("/stac"), "collection": "s3"})).await;
    assert!(fault.code == "S130" && fault.message.contains("`s3`"), "{fault}");
}

#[tokio::test]
async fn a_server_that_is_no_catalogue_is_told() {
    for (reply, code) in [
        (Reply::status(404), "S106"),
        (Reply::content("text/html", "<html>"), "S110"),
        (Reply::json(&json!({"hello": "world"})), "S120"),
    ] {
        let server = Server::start(move |_| reply.clone());
        assert_eq!(search_error(json!({"catalog": server.url("/")})).await.code, code);
    }
}

#[tokio::test]
async fn a_static_catalogue_on_a_server_is_walked_and_does_not_leave_it() {
    let of = |links: Value| json!({"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "", "links": links});
    let server = Server::start(move |request| {
        Reply::json(&match request.path() {
            "/data/catalog.json" => of(
                json!([{"rel": "child", "href": "./a/catalog.json"}, {"rel": "child", "href": "/data/catalog.json"}]),
            ),
            "/data/a/catalog.json" => of(json!([{"rel": "item", "href": "i/i.json"}])),
            "/data/a/i/i.json" => {
                let mut item = scene("i");
                item["assets"] = json!({"B04": {"href": "../B04.tif"}});
                item["links"] = json!([{"rel": "self", "href": "https://published.example/i.json"}]);
                item
            }
            "/leaving" => of(json!([{"rel": "item", "href": "http://169.254.169.254/latest"}])),
            _ => return Reply::status(404),
        })
    });
    let found = search(json!({"catalog": server.url("/data/catalog.json")})).await;
    assert_eq!(
        found.scenes[0].assets["B04"].href,
        server.url("/data/a/B04.tif"),
        "where it was read, not where it says it is"
    );
    assert_eq!(found.scenes[0].href, Some(server.url("/data/a/i/i.json")));
    assert_eq!(search_error(json!({"catalog": server.url("/leaving")})).await.code, "S123");
}

#[tokio::test]
async fn a_local_catalogue_does_not_reach_for_the_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.json");
    let catalogue = json!({"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "",
        "links": [{"rel": "item", "href": "http://127.0.0.1:9/i.json"}]});
    std::fs::write(&path, catalogue.to_string()).unwrap();
    assert_eq!(search_error(json!({"catalog": path})).await.code, "S123");
}

#[tokio::test]
async fn a_missing_secret_is_told_before_anything_is_asked() {
    let server = api(|_| Reply::json(&page(vec![], None)));
    let fault =
        search_error(json!({"catalog": server.url("/stac"), "secret_headers": {"X-API-Key": "catalogue_key"}})).await;
    assert!(fault.code == "S114" && fault.message.contains("catalogue_key"), "{fault}");
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn a_search_that_hangs_is_cancelled_at_once() {
    let server = api(|_| Reply::hang());
    let folder = tempfile::tempdir().unwrap();
    let host = LocalHost::new(folder.path()).unwrap();
    let cancel = CancellationToken::new();
    let task = TASKS[0].bind(json!({"catalog": server.url("/stac")})).unwrap();
    let running = tokio::spawn(task.run(json!({}), host.cancellable(1, cancel.clone())));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let started = Instant::now();
    cancel.cancel();
    assert!(matches!(running.await.unwrap(), Err(TaskError::Cancelled)));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}
