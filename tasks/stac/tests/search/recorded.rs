//! Recorded answers of real catalogues (see `tests/data/README.md`).

use serde_json::{Value, json};
use swath_kinds::Signing;
use swath_testkit::http::{Reply, Server};

use crate::common::search;

fn recorded(name: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn pages_of_planetary_computer_are_followed_by_their_tokens() {
    let server = Server::start(|request| {
        // The recordings lead to the real host: they are served as this host's own.
        let here = format!("http://{}/api/stac/v1", request.header("host").unwrap());
        let local = |name: &str| recorded(name).replace("https://planetarycomputer.microsoft.com/api/stac/v1", &here);
        match (request.path(), request.json()["token"].as_str()) {
            ("/api/stac/v1", _) => Reply::json(
                &json!({"type": "Catalog", "id": "microsoft-pc", "description": "", "stac_version": "1.0.0",
                "links": [{"rel": "search", "href": format!("{here}/search"), "method": "POST"}]}),
            ),
            ("/api/stac/v1/search", None) => Reply::content("application/geo+json", local("naip-page-1.json")),
            ("/api/stac/v1/search", Some("next:vt_m_4407363_sw_18_h_20160804")) => {
                Reply::content("application/geo+json", local("naip-page-2.json"))
            }
            ("/api/stac/v1/search", Some("next:vt_m_4407363_se_18_1_20120712_20120927")) => {
                Reply::json(&json!({"type": "FeatureCollection", "features": [], "links": []}))
            }
            other => panic!("{other:?}"),
        }
    });
    let found = search(json!({"catalog": server.url("/api/stac/v1"), "collection": "naip", "limit": 10,
        "area": [-73.21, 43.99, -73.12, 44.05], "signing": "planetary_computer"}))
    .await;
    assert_eq!(found.metric("items_seen"), Some(8.0));
    assert_eq!(found.scenes.len(), 8);
    assert!(found.scenes.is_sorted_by_key(|scene| scene.datetime.clone()));
    let scene = found.scenes.iter().find(|scene| scene.id == "vt_m_4407364_sw_18_060_20181019_20190225").unwrap();
    let image = &scene.assets["image"];
    assert_eq!(scene.assets.len(), 1, "metadata and thumbnails are no rasters");
    assert_eq!(image.bands, ["red", "green", "blue", "nir"]);
    assert_eq!((image.crs.as_deref(), image.shape), (Some("EPSG:26918"), Some([12764, 9616])));
    assert!(image.href.starts_with("https://naipeuwest.blob.core.windows.net/") && !image.href.contains('?'));
    assert!(matches!(&found.signing, Signing::PlanetaryComputer { endpoint } if endpoint.contains("/api/sas/v1")));
    let bodies: Vec<Value> = server.requests()[1..].iter().map(|request| request.json()).collect();
    assert_eq!(bodies[0], json!({"limit": 10, "collections": ["naip"], "bbox": [-73.21, 43.99, -73.12, 44.05]}));
    assert_eq!(bodies[1]["collections"], json!(["naip"]), "the token's page keeps the search");
}

#[tokio::test]
async fn sentinel_2_items_of_two_catalogues_give_the_same_kind_of_scene() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, recorded(name)).unwrap();
        path
    };
    let found =
        search(json!({"catalog": of("planetary-computer-s2-item.json"), "collections": ["sentinel-2-l2a"]})).await;
    let scene = &found.scenes[0];
    assert_eq!((scene.tile.as_deref(), scene.processing_baseline.as_deref()), (Some("06VVN"), Some("02.12")));
    assert_eq!((scene.datetime.as_str(), scene.cloud_cover), ("2019-06-29T21:25:29.024Z", Some(0.314306)));
    let blue = &scene.assets["B02"];
    assert_eq!((blue.bands.as_slice(), blue.crs.as_deref()), (["blue".to_owned()].as_slice(), Some("EPSG:32606")));
    assert_eq!(blue.transform, Some([10.0, 0.0, 399960.0, 0.0, -10.0, 6800040.0]));
    assert!(scene.assets.contains_key("SCL") && !scene.assets.contains_key("product-metadata"));
    assert!(matches!(found.signing, Signing::PlanetaryComputer { .. }), "its links tell where it comes from");

    let found = search(json!({"catalog": of("earth-search-s2-item.json"), "assets": ["B02", "SCL"]})).await;
    let scene = &found.scenes[0];
    assert_eq!((scene.tile.as_deref(), scene.processing_baseline.as_deref()), (Some("28QCH"), Some("02.14")));
    assert_eq!(scene.assets.keys().collect::<Vec<_>>(), ["B02", "SCL"]);
    assert_eq!(scene.assets["B02"].crs.as_deref(), Some("EPSG:32628"));
    assert_eq!(found.signing, Signing::None);
}
