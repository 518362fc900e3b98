//! Searches of catalogues on disk: a static catalogue with collections, an item collection, a single item.

use crate::common::{item, search, search_error, write_json};
use serde_json::json;
use swath_stac::Search;
use swath_task::{Purity, Task};
use tempfile::TempDir;

/// catalog.json -> s2/collection.json -> five items, and landsat/collection.json -> one.
fn catalogue() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    write_json(
        &at("catalog.json"),
        &json!({"type": "Catalog", "id": "root", "stac_version": "1.1.0", "description": "",
        "links": [{"rel": "root", "href": "./catalog.json"}, {"rel": "child", "href": "./s2/collection.json"},
            {"rel": "child", "href": "landsat/collection.json"}]}),
    );
    let mut links = vec![json!({"rel": "parent", "href": "../catalog.json"})];
    for (id, day, cloud, west) in [
        ("c", "2024-03-01", Some(5.0), 10.0),
        ("a", "2024-01-01", Some(90.0), 10.0),
        ("b", "2024-02-01", None, 10.0),
        ("far", "2024-02-02", Some(0.0), 40.0),
        ("late", "2025-01-01", Some(0.0), 10.0),
    ] {
        let mut item = item(id, &format!("{day}T10:00:00Z"), [west, 50.0, west + 1.0, 51.0]);
        item["collection"] = json!("s2");
        if let Some(cloud) = cloud {
            item["properties"]["eo:cloud_cover"] = json!(cloud);
        }
        item["assets"] = json!({"B04": {"href": "./B04.tif", "type": "image/tiff; application=geotiff", "nodata": 0,
            "proj:code": "EPSG:32633", "raster:scale": 0.0001, "raster:offset": -0.1, "proj:shape": [10, 20],
            "proj:transform": [10.0, 0.0, 300000.0, 0.0, -10.0, 5000000.0, 0.0, 0.0, 1.0],
            "bands": [{"name": "B04", "eo:common_name": "red"}]},
            "thumbnail": {"href": "./missing.png", "type": "image/png", "roles": ["thumbnail"]}});
        write_json(&at(&format!("s2/{id}/{id}.json")), &item);
        std::fs::write(at(&format!("s2/{id}/B04.tif")), b"pixels").unwrap();
        links.push(json!({"rel": "item", "href": format!("./{id}/{id}.json")}));
    }
    write_json(
        &at("s2/collection.json"),
        &json!({"type": "Collection", "id": "s2", "stac_version": "1.1.0",
        "description": "", "license": "other", "extent": {}, "links": links}),
    );
    let mut item = item("l", "2024-02-15T10:00:00Z", [10.0, 50.0, 11.0, 51.0]);
    item["collection"] = json!("landsat");
    write_json(&at("landsat/l.json"), &item);
    write_json(
        &at("landsat/collection.json"),
        &json!({"type": "Collection", "id": "landsat", "stac_version": "1.0.0",
        "description": "", "license": "other", "extent": {}, "links": [{"rel": "item", "href": "l.json"}]}),
    );
    folder
}

#[tokio::test]
async fn a_static_catalogue_is_walked_filtered_and_sorted() {
    let folder = catalogue();
    let found = search(json!({"catalog": folder.path().join("catalog.json"), "collection": "s2",
        "area": [10.2, 50.2, 10.4, 50.4], "period": "2024-01-01/2024-12-31", "max_cloud_cover": 20}))
    .await;
    let ids: Vec<&str> = found.scenes.iter().map(|scene| scene.id.as_str()).collect();
    assert_eq!(ids, ["b", "c"], "too cloudy, elsewhere and too late are gone; unknown cover stays");
    let asset = &found.scenes[0].assets["B04"];
    assert_eq!(found.scenes[0].assets.len(), 1, "a thumbnail is no raster");
    assert_eq!(asset.href, folder.path().join("s2/b/B04.tif").to_string_lossy());
    assert_eq!((asset.size, asset.nodata, asset.scale, asset.offset), (Some(6), Some(0.0), Some(0.0001), Some(-0.1)));
    assert!(asset.modified.is_some());
    assert_eq!((asset.crs.as_deref(), asset.shape), (Some("EPSG:32633"), Some([10, 20])));
    assert_eq!(asset.transform, Some([10.0, 0.0, 300000.0, 0.0, -10.0, 5000000.0]));
    assert_eq!(asset.bands, ["red"]);
    assert_eq!(found.metric("without_cloud_cover"), Some(1.0));
}

#[tokio::test]
async fn equal_catalogues_give_equal_bytes() {
    let folder = catalogue();
    let params = json!({"catalog": folder.path().join("catalog.json")});
    let (one, two) = (search(params.clone()).await, search(params).await);
    assert_eq!(one.scenes.len(), 6);
    assert_eq!(one.digest, two.digest);
}

#[tokio::test]
async fn an_item_collection_and_a_single_item_are_catalogues_too() {
    let folder = catalogue();
    let item_path = folder.path().join("s2/c/c.json");
    let found = search(json!({"catalog": &item_path})).await;
    assert_eq!(found.scenes[0].assets["B04"].href, folder.path().join("s2/c/B04.tif").to_string_lossy());

    let mut one: serde_json::Value = serde_json::from_slice(&std::fs::read(&item_path).unwrap()).unwrap();
    one["assets"]["B04"]["href"] = json!("s2/c/B04.tif");
    let collection = folder.path().join("items.json");
    write_json(
        &collection,
        &json!({"type": "FeatureCollection", "features": [one.clone(), one],
        "links": [{"rel": "next", "href": "https://elsewhere.example/next"}]}),
    );
    let found = search(json!({"catalog": &collection})).await;
    assert_eq!((found.scenes.len(), found.metric("duplicates")), (1, Some(1.0)));
    assert_eq!(found.scenes[0].assets["B04"].href, folder.path().join("s2/c/B04.tif").to_string_lossy());

    let found = search(json!({"catalog": folder.path(), "signing": {"custom": "my_archive"}})).await;
    assert_eq!(found.signing, swath_kinds::Signing::Custom("my_archive".into()));
    assert_eq!(found.scenes.len(), 6, "a folder is its catalog.json");
}

#[tokio::test]
async fn the_newest_baseline_of_a_tile_and_datatake_stays() {
    let folder = tempfile::tempdir().unwrap();
    let of = |id: &str| item(id, "2020-07-14T11:21:21Z", [10.0, 50.0, 11.0, 51.0]);
    write_json(
        &folder.path().join("items.json"),
        &json!({"type": "FeatureCollection", "features": [
            of("S2A_MSIL2A_20200714T112121_N0500_R037_T28QCH_20230401T010101"),
            of("S2A_MSIL2A_20200714T112121_N0214_R037_T28QCH_20200714T140000"),
            of("S2A_MSIL2A_20200714T112121_N0214_R037_T28QCJ_20200714T140000"),
        ]}),
    );
    let found = search(json!({"catalog": folder.path().join("items.json")})).await;
    let kept: Vec<_> = found.scenes.iter().map(|s| (s.tile.as_deref(), s.processing_baseline.as_deref())).collect();
    assert_eq!(kept, [(Some("28QCJ"), Some("02.14")), (Some("28QCH"), Some("05.00"))]);
    assert_eq!(found.metric("replaced_by_newer_baseline"), Some(1.0));
}

#[tokio::test]
async fn what_is_kept_of_too_many_follows_sort() {
    let folder = catalogue();
    for (sort, ids) in [("newest", ["c", "late"]), ("oldest", ["a", "b"]), ("least_cloud", ["far", "late"])] {
        let found = search(json!({"catalog": folder.path().join("catalog.json"), "collections": ["s2"],
            "max_items": 2, "sort": sort}))
        .await;
        assert_eq!(found.scenes.iter().map(|scene| scene.id.as_str()).collect::<Vec<_>>(), ids, "{sort}");
    }
}

#[tokio::test]
async fn nothing_found_tells_where_the_items_were_lost() {
    let folder = catalogue();
    let catalog = folder.path().join("catalog.json");
    let fault = search_error(json!({"catalog": &catalog, "collection": "s2", "period": "2024-01-01/2024-12-31",
        "area": [100.0, 0.0, 101.0, 1.0]}))
    .await;
    assert_eq!(fault.code, "S131");
    assert!(fault.message.contains("6 items seen") || fault.message.contains("5 items seen"), "{}", fault.message);
    assert!(
        fault.message.contains("4 in 2024-01-01T00:00:00Z/") && fault.message.contains("0 in the area"),
        "{}",
        fault.message
    );

    let fault = search_error(json!({"catalog": &catalog, "collection": "sentinel2"})).await;
    assert_eq!((fault.code.as_ref(), fault.help.as_deref()), ("S130", Some("it has `landsat`, `s2`")));

    let found = search(json!({"catalog": &catalog, "period": "1999-01-01/1999-01-02", "allow_empty": true})).await;
    assert!(found.scenes.is_empty());
}

#[tokio::test]
async fn broken_files_are_named() {
    let folder = catalogue();
    let catalog = folder.path().join("catalog.json");
    std::fs::remove_file(folder.path().join("s2/b/B04.tif")).unwrap();
    let fault = search_error(json!({"catalog": &catalog})).await;
    assert!(
        fault.code == "S126" && fault.message.contains("`B04` of `b`") && fault.message.contains("B04.tif"),
        "{fault}"
    );

    std::fs::write(folder.path().join("s2/b/b.json"), r#"{"type": "Feature", "id": "b""#).unwrap();
    let fault = search_error(json!({"catalog": &catalog})).await;
    assert!(fault.code == "S110" && fault.message.contains("b.json"), "{fault}");

    std::fs::remove_file(folder.path().join("s2/b/b.json")).unwrap();
    let fault = search_error(json!({"catalog": &catalog})).await;
    assert!(fault.code == "S125" && fault.message.contains("b.json"), "{fault}");

    write_json(&folder.path().join("s2/b/b.json"), &json!({"hello": "world"}));
    assert_eq!(search_error(json!({"catalog": &catalog})).await.code, "S120");

    let fault = search_error(json!({"catalog": folder.path().join("s2")})).await;
    assert_eq!(fault.code, "S120", "the folder's collection.json is walked");
    let fault = search_error(json!({"catalog": folder.path().join("s2/b")})).await;
    assert_eq!(fault.code, "S125");
}

#[tokio::test]
async fn a_catalogue_that_contains_itself_ends() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    let of = |child: &str| {
        json!({"type": "Catalog", "id": "x", "stac_version": "1.0.0", "description": "",
        "links": [{"rel": "child", "href": child}, {"rel": "item", "href": "i.json"}]})
    };
    write_json(&at("catalog.json"), &of("b.json"));
    write_json(&at("b.json"), &of("./sub/../catalog.json"));
    write_json(&at("i.json"), &item("i", "2024-01-01T00:00:00Z", [0.0, 0.0, 1.0, 1.0]));
    let found = search(json!({"catalog": at("catalog.json")})).await;
    assert_eq!(found.scenes.len(), 1);
}

#[test]
fn a_local_catalogue_is_pure_and_reads_its_folder_and_area() {
    let of = |value: serde_json::Value| serde_json::from_value::<Search>(value).unwrap();
    let paths = |all: &[&str]| all.iter().map(std::path::PathBuf::from).collect::<Vec<_>>();
    let local = of(json!({"catalog": "/data/stac/catalog.json", "area": "/data/area.geojson"}));
    assert_eq!((local.purity(), local.reads()), (Purity::Pure, paths(&["/data/stac", "/data/area.geojson"])));
    let folder = of(json!({"catalog": "/data/stac"}));
    assert_eq!((folder.purity(), folder.reads()), (Purity::Pure, paths(&["/data/stac"])));
    let items = of(json!({"catalog": "/data/items.json"}));
    assert_eq!((items.purity(), items.reads()), (Purity::Volatile, paths(&["/data/items.json"])));
    let remote = of(json!({"catalog": "https://host/stac"}));
    assert_eq!((remote.purity(), remote.reads()), (Purity::Volatile, paths(&[])));
}

#[test]
fn wrong_parameters_are_told_before_anything_runs() {
    for (params, at) in [
        (json!({"catalog": "s3://bucket/catalog.json"}), "/catalog"),
        (json!({"catalog": "x", "collection": "a", "collections": ["b"]}), "/collection"),
        (json!({"catalog": "x", "period": "last spring"}), "/period"),
        (json!({"catalog": "x", "max_cloud_cover": 120}), "/max_cloud_cover"),
        (json!({"catalog": "x", "limit": 0}), "/limit"),
        (json!({"catalog": "x", "max_items": 0}), "/max_items"),
        (json!({"catalog": "x", "request_timeout": 0}), "/request_timeout"),
    ] {
        let problems = serde_json::from_value::<Search>(params.clone()).unwrap().check().unwrap_err();
        assert_eq!(problems.iter().map(|problem| problem.at.as_str()).collect::<Vec<_>>(), [at], "{params}");
    }
}

#[tokio::test]
async fn of_intervals_that_meet_each_scene_is_new_in_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut items = Vec::new();
    // Acquired on the days, and in the catalogue two days later: at midnight, within a second, and by either name.
    for (id, day, property, came) in [
        ("a", "01", "created", "2024-06-03T00:00:00Z"),
        ("b", "02", "published", "2024-06-04T00:00:00.5Z"),
        ("c", "03", "created", "2024-06-05T02:00:00+02:00"),
        ("d", "04", "created", "2024-06-06T23:59:59.999Z"),
    ] {
        let mut item = item(id, &format!("2024-06-{day}T00:00:00Z"), [10.0, 50.0, 11.0, 51.0]);
        item["properties"][property] = json!(came);
        items.push(item);
    }
    let path = folder.path().join("items.json");
    write_json(&path, &json!({"type": "FeatureCollection", "features": items}));
    let day = |day: u32| format!("2024-06-{day:02}T00:00:00Z");
    for (by, want) in [("published", ["", "a", "", "b c", "", "d"]), ("acquired", ["b", "c", "d", "", "", ""])] {
        for (offset, want) in want.into_iter().enumerate() {
            let (after, up_to) = (day(offset as u32 + 1), day(offset as u32 + 2));
            let found = search(json!({"catalog": &path, "allow_empty": true,
                "new": {"after": after, "up_to": up_to, "by": by}}))
            .await;
            let ids: Vec<&str> = found.scenes.iter().map(|scene| scene.id.as_str()).collect();
            assert_eq!(ids.join(" "), want, "{by}: after {after}, up to {up_to}");
        }
    }
    // What does not tell is neither lost nor guessed.
    items[2]["properties"].as_object_mut().unwrap().remove("created");
    write_json(&path, &json!({"type": "FeatureCollection", "features": items}));
    let new = json!({"after": day(1), "up_to": day(9)});
    let fault = search_error(json!({"catalog": &path, "allow_empty": true, "new": new})).await;
    assert_eq!(fault.code, "S133");
    assert!(fault.message.starts_with("1 of 4 items"), "{}", fault.message);
    // Those that the rest of the search does not want need not tell.
    let found = search(json!({"catalog": &path, "period": "2024-06-01/2024-06-02", "new": new})).await;
    assert_eq!(found.scenes.len(), 2);
    assert!(
        Search::check(
            &serde_json::from_value(json!({"catalog": "c", "new": {"after": "x", "up_to": day(1)}})).unwrap()
        )
        .is_err()
    );
}
