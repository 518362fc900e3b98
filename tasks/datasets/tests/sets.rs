//! Chip sets as they are written, read, and found to be damaged.

use std::path::Path;

use serde_json::{Value, json};
use swath_datasets::{ChipSet, ChipSite, ChipWriter, Dataset, Error, Header, Measures, Place, SiteWindow, Sources};
use swath_task::Digest;

const SIDE: usize = 4;

fn image(chip: usize) -> Vec<f32> {
    (0..2 * SIDE * SIDE).map(|at| (chip * 1000 + at) as f32 / 7.0).collect()
}

fn label(chip: usize) -> Vec<f32> {
    let mut label = vec![0.0; SIDE * SIDE];
    label[..chip].fill(1.0);
    label[15] = f32::NAN;
    label
}

/// Sites over two chips, over one, and where nothing is labelled.
fn sites() -> Vec<SiteWindow> {
    let site = |id: &str, window| SiteWindow {
        site: ChipSite { id: id.to_owned(), lon: 15.0, lat: 47.0, buffer_m: 20.0 },
        window,
    };
    vec![site("both", [5, 0, 4, 1]), site("one", [12, 0, 2, 3]), site("none", [0, 0, 4, 4])]
}

/// Five chips, two to a shard.
fn write(folder: &Path) {
    let sources = Sources { raster: Digest::of(b"raster"), label: Digest::of(b"label") };
    let bands = vec!["B04".to_owned(), "B08".to_owned()];
    let header = Header { size: SIDE, stride: SIDE, bands, crs: "EPSG:32633".to_owned(), sources };
    let mut writer = ChipWriter::create(folder, header, 2 * 3 * SIDE * SIDE * 4).unwrap().with_sites(sites());
    for chip in 0..5 {
        let left = (chip * SIDE * 10) as f64;
        let place = Place {
            window: [chip * SIDE, 0, SIDE, SIDE],
            transform: [left, 10.0, 0.0, 40.0, 0.0, -10.0],
            bounds: [left, 0.0, left + 40.0, 40.0],
            bbox: [15.0, 47.0, 15.1, 47.1],
            area_km2: Some(0.0016),
        };
        let (image, label) = (image(chip), label(chip));
        writer.push(&place, &image, &label, &Measures::of(&image, &label)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn chips_are_read_as_they_were_written_whatever_their_shard() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let set = ChipSet::open(folder.path()).unwrap();
    let manifest = set.manifest();
    assert_eq!(manifest.shards.iter().map(|shard| shard.chips).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!((manifest.chips[3].valid, manifest.chips[3].positive), (15.0 / 16.0, 3.0 / 15.0));
    let counts: Vec<(f32, u64)> = manifest.labels.iter().map(|label| (label.value, label.pixels)).collect();
    assert_eq!(counts, [(0.0, 65), (1.0, 10)]);
    let (mut pixels, mut labels, mut scratch) = (vec![0.0; 32], vec![0.0; 16], Vec::new());
    for chip in [4, 0, 3] {
        set.read(chip, &mut pixels, &mut labels, &mut scratch).unwrap();
        assert_eq!(pixels, image(chip));
        assert_eq!(labels[..15], label(chip)[..15]);
        assert!(labels[15].is_nan());
    }
    set.verify().unwrap();
}

#[test]
fn a_chip_tells_which_sites_it_shows_and_how_much_ground() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let set = ChipSet::open(folder.path()).unwrap();
    let shown: Vec<Vec<String>> = set.manifest().chips.iter().map(|chip| chip.sites.clone()).collect();
    // Chip 1 has its only positive pixel in column 4, where no site is; chip 2 has two in columns 8 and 9.
    assert_eq!(shown, [vec![], vec![], vec!["both".to_owned()], vec!["one".to_owned()], vec![]]);
    let known: Vec<&str> = set.manifest().sites.iter().flatten().map(|site| site.id.as_str()).collect();
    assert_eq!(known, ["both", "one"], "only those that a chip shows");
    assert!(set.manifest().chips.iter().all(|chip| chip.area_km2 == Some(0.0016)));
    let classes: Vec<(f32, u64)> = set.manifest().chips[3].classes.iter().map(|c| (c.value, c.pixels)).collect();
    assert_eq!(classes, [(0.0, 12), (1.0, 3)]);
}

#[test]
fn a_set_from_before_sites_were_told_is_read() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("sites");
    for chip in manifest["chips"].as_array_mut().unwrap() {
        chip.as_object_mut().unwrap().retain(|field, _| !["sites", "classes", "area_km2"].contains(&field.as_str()));
    }
    std::fs::write(&path, manifest.to_string()).unwrap();
    let set = ChipSet::open(folder.path()).unwrap();
    assert!(set.manifest().sites.is_none() && set.manifest().chips[2].sites.is_empty());
}

#[test]
fn a_damaged_set_is_told_by_its_code() {
    let told = |damage: &dyn Fn(&Path)| -> (&'static str, String) {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        damage(folder.path());
        let error = ChipSet::open(folder.path()).and_then(|set| set.verify()).unwrap_err();
        (error.code(), error.to_string())
    };
    let shard = |folder: &Path| folder.join("chips-00001.safetensors");
    let replace = |folder: &Path, from: &str, to: &str| {
        let path = folder.join("manifest.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    };
    let (code, message) = told(&|folder| std::fs::remove_file(shard(folder)).unwrap());
    assert!(code == "L130" && message.contains("chips-00001"), "{message}");
    let (code, message) = told(&|folder| {
        let bytes = std::fs::read(shard(folder)).unwrap();
        std::fs::write(shard(folder), &bytes[..bytes.len() - 1]).unwrap();
    });
    assert!(code == "L133" && message.contains("bytes, the manifest tells of"), "{message}");
    let (code, message) = told(&|folder| {
        let mut bytes = std::fs::read(shard(folder)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(shard(folder), bytes).unwrap();
    });
    assert!(code == "L133" && message.contains("its digest is"), "{message}");
    let (code, message) = told(&|folder| {
        let mut bytes = std::fs::read(shard(folder)).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        std::fs::write(shard(folder), bytes).unwrap();
    });
    assert!(code == "L133" && message.contains("header claims"), "{message}");
    let (code, message) = told(&|folder| replace(folder, "swath.chips/1", "swath.chips/9"));
    assert!(code == "L132" && message.contains("swath.chips/9"), "{message}");
    let (code, message) = told(&|folder| replace(folder, "\"size\":4", "\"size\":8"));
    assert!(code == "L133" && message.contains("no tensor `image`"), "{message}");
    let (code, message) = told(&|folder| replace(folder, "\"chips-00000.safetensors\"", "\"../x\""));
    assert!(code == "L132" && message.contains("not the name of a shard"), "{message}");
    let (code, message) = told(&|folder| replace(folder, "\"id\":\"both\"", "\"id\":\"neither\""));
    assert!(code == "L132" && message.contains("shows the site `both`"), "{message}");
    let (code, _) = told(&|folder| replace(folder, "\"chips\":2", "\"chips\":3"));
    assert_eq!(code, "L132");
}

#[test]
fn a_folder_that_is_no_set_says_so() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(ChipSet::open(folder.path()), Err(Error::Read { .. })));
}

/// A dataset of the set in a folder: chip 0 and chip 2 train, chip 3 validates, chip 4 tests.
fn dataset(folder: &Path) -> Value {
    let set = ChipSet::open(folder).unwrap();
    let side = |chips: &[usize]| {
        let told = |chip: &usize| json!({ "set": 0, "chip": chip, "id": set.manifest().chips[*chip].id, "positive": *chip > 0 });
        let positives = chips.iter().filter(|chip| **chip > 0).count();
        let labelled: usize = chips.iter().sum();
        let labels = [(0.0, 15 * chips.len() - labelled), (1.0, labelled)];
        json!({
            "positives": positives, "negatives": chips.len() - positives, "blocks": 1,
            "labels": labels.map(|(value, pixels)| json!({ "value": value, "pixels": pixels })),
            "chips": chips.iter().map(told).collect::<Vec<_>>(),
        })
    };
    json!({
        "format": "swath.dataset/1", "size": SIDE, "bands": ["B04", "B08"], "seed": 0, "block_m": 1.0, "gap_m": 0.0,
        "sets": [{ "digest": set.digest(), "chips": 5 }],
        "sides": { "train": side(&[0, 2]), "validation": side(&[3]), "test": side(&[4]) },
        "left_out": { "ambiguous": 0, "border": 0, "negatives": 0 },
        "leakage": { "overlapping": 0, "within_gap": 0, "equal": 0 }, "statistics": [],
    })
}

#[test]
fn a_dataset_that_was_edited_by_hand_is_told() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let path = folder.path().join("dataset.json");
    let open = |edit: &dyn Fn(&mut Value)| {
        let mut dataset = dataset(folder.path());
        edit(&mut dataset);
        std::fs::write(&path, dataset.to_string()).unwrap();
        Dataset::open(&path, &[folder.path()]).map_err(|error| (error.code(), error.to_string()))
    };
    open(&|_| {}).unwrap();
    let refused = |part: &str, edit: &dyn Fn(&mut Value)| {
        let (code, message) = open(edit).unwrap_err();
        assert!(code == "L132" && message.contains(part), "{part}: {message}");
    };
    refused("of the test side is listed twice", &|dataset| {
        let chip = dataset["sides"]["test"]["chips"][0].clone();
        dataset["sides"]["train"]["chips"].as_array_mut().unwrap().push(chip);
        dataset["sides"]["train"]["positives"] = json!(2);
        dataset["sides"]["train"]["labels"] = json!([{ "value": 0.0, "pixels": 39 }, { "value": 1.0, "pixels": 6 }]);
    });
    refused("train side lists 0 positive and 1 negative chips, and tells of 1 and 1", &|dataset| {
        dataset["sides"]["train"]["chips"].as_array_mut().unwrap().pop();
    });
    refused("chips of the train side show 15 pixels of class 0, and it tells of 28", &|dataset| {
        dataset["sides"]["train"]["chips"].as_array_mut().unwrap().pop();
        dataset["sides"]["train"]["positives"] = json!(0);
    });
    refused("is not in the set", &|dataset| dataset["sides"]["test"]["chips"][0]["chip"] = json!(1));
}
