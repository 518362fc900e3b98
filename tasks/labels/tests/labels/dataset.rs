//! `dataset.chips` and `dataset.split` against numpy, rasterio, shapely and scikit-learn, and with bad input.

use std::path::PathBuf;

use serde_json::{Value, json};
use swath_datasets::{ChipSet, Dataset, SideName};
use swath_kinds::{ChipSetFolder, Cog};
use swath_labels::{CutChips, LabelSites, OpenDataset, SaveDataset, SplitDataset};

use crate::support::{Bench, judge};
use crate::{problems, told};

/// Two areas with sites, their labels and their chip sets.
struct Areas {
    bench: Bench,
    sets: Vec<Value>,
}

const SIZE: usize = 64;
const STRIDE: usize = 48;

impl Areas {
    fn new() -> Self {
        let bench = Bench::new();
        judge("dataset.py", &["make", bench.folder.path().to_str().unwrap()]);
        let mut areas = Self { bench, sets: Vec::new() };
        for name in ["west", "east"] {
            let inputs = areas.labelled(name);
            let params = json!({ "size": SIZE, "stride": STRIDE, "min_valid": 0.4 });
            let outputs = areas.bench.run::<CutChips>(params, inputs).unwrap();
            areas.sets.push(outputs["chips"].clone());
        }
        areas
    }

    /// A raster and the mask of its sites.
    fn labelled(&self, name: &str) -> Value {
        let params = json!({ "sites": self.bench.file("sites.json"), "buffer": "400 m", "ring": "100 m" });
        let mut inputs = self.bench.cog(&format!("{name}.tif"));
        let outputs = self.bench.run::<LabelSites>(params, inputs.clone()).unwrap();
        inputs["label"] = outputs["label"].clone();
        inputs["sites"] = outputs["places"].clone();
        inputs
    }

    fn split(&self, params: Value, sets: &[usize]) -> Result<Value, swath_task::TaskError> {
        let chips: Vec<&Value> = sets.iter().map(|set| &self.sets[*set]).collect();
        self.bench.run::<SplitDataset>(params, json!({ "chips": chips }))
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.sets.iter().map(|set| self.bench.path(set)).collect()
    }
}

fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

#[test]
fn chips_hold_what_the_raster_and_its_label_hold() {
    let bench = Bench::new();
    judge("dataset.py", &["make", bench.folder.path().to_str().unwrap()]);
    let areas = Areas { bench, sets: Vec::new() };
    let bench = &areas.bench;
    let inputs = areas.labelled("west");
    let label = bench.path(&inputs["label"]);
    for (size, stride, min_valid) in [(64, 48, 0.4), (256, 256, 0.8)] {
        let params = json!({ "size": size, "stride": stride, "min_valid": min_valid });
        let outputs = bench.run::<CutChips>(params, inputs.clone()).unwrap();
        let arguments = [
            "chips".to_owned(),
            text(bench.file("west.tif")),
            text(label.clone()),
            text(bench.path(&outputs["chips"])),
            size.to_string(),
            stride.to_string(),
            min_valid.to_string(),
            text(bench.file("sites.json")),
        ];
        let verdict = judge("dataset.py", &arguments);
        assert_eq!(verdict, format!("agree {} {}", outputs["count"], outputs["positives"]));
    }
    let few = json!({ "bands": ["B02"], "size": 64 });
    let outputs = bench.run::<CutChips>(few, inputs.clone()).unwrap();
    let set = ChipSet::open(&bench.path(&outputs["chips"])).unwrap();
    assert_eq!((set.manifest().bands.as_slice(), set.manifest().stride), (&["B02".to_owned()][..], 64));
    let again = bench.run::<CutChips>(json!({ "bands": ["B02"], "size": 64 }), inputs).unwrap();
    assert_eq!(outputs["chips"]["digest"], again["chips"]["digest"], "threads do not change what is written");
}

#[test]
fn chips_of_what_does_not_fit_are_refused() {
    let areas = Areas::new();
    let bench = &areas.bench;
    let inputs = areas.labelled("west");
    let fails = |params: Value, inputs: Value| told(bench.run::<CutChips>(params, inputs).unwrap_err());
    let mut crossed = inputs.clone();
    crossed["label"] = areas.labelled("east")["label"].clone();
    let (code, message, help) = fails(json!({}), crossed);
    assert!(
        code == "L110" && message.contains("does not lie on the grid") && help.contains("labels.raster"),
        "{message}"
    );
    let mut several = inputs.clone();
    several["label"] = inputs["raster"].clone();
    let (code, message, _) = fails(json!({}), several);
    assert!(code == "L110" && message.contains("4 bands"), "{message}");
    let (code, message, _) = fails(json!({ "min_valid": 1.0, "size": 800 }), inputs.clone());
    assert!(code == "L111" && message.contains("the best has 0."), "{message}");
    let (code, _, _) = fails(json!({ "bands": ["B99"] }), inputs);
    assert_eq!(code, "R115");
    judge("odd.py", &[bench.folder.path()]);
    let pair = |raster: &str, label: &str| json!({ "raster": bench.import::<Cog>(&bench.file(raster)), "label": bench.import::<Cog>(&bench.file(label)) });
    let (code, message, _) = fails(json!({ "size": 32 }), pair("empty.tif", "zeros.tif"));
    assert!(code == "L111" && message.contains("none of the 4 chips") && message.contains("has a pixel"), "{message}");
    let (code, message, _) = fails(json!({ "size": 32 }), pair("zeros.tif", "logits.tif"));
    assert!(code == "L108" && message.contains("holds -3.5"), "{message}");
    let small = bench.run::<CutChips>(json!({ "size": 256 }), pair("zeros.tif", "zeros.tif")).unwrap();
    assert_eq!(small["count"], 1, "a raster smaller than a chip gives one");
    assert_eq!(problems::<CutChips>(json!({ "size": 8, "stride": 9, "min_valid": 2, "bands": [] })).len(), 4);
    assert_eq!(problems::<CutChips>(json!({ "stride": 0 })).len(), 1);
}

#[test]
fn no_chip_of_one_side_is_near_a_chip_of_another() {
    let areas = Areas::new();
    let mut seen = std::collections::BTreeSet::new();
    for (seed, block, gap) in [(0, "3 km", 0.0), (1, "2 km", 0.0), (2, "3 km", 400.0)] {
        let params = json!({ "block": block, "gap": gap, "seed": seed });
        let outputs = areas.split(params.clone(), &[0, 1]).unwrap();
        assert_eq!(outputs["leaks"], 0);
        let path = areas.bench.path(&outputs["dataset"]);
        let mut arguments = vec!["split".to_owned(), text(path.clone()), gap.to_string()];
        arguments.extend(areas.folders().into_iter().map(text));
        let verdict = judge("dataset.py", &arguments);
        let numbers: Vec<f64> = verdict.split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
        let [positives, negatives] = [0, 1].map(|kind| [numbers[kind], numbers[kind + 2], numbers[kind + 4]]);
        let share = positives[0] / positives.iter().sum::<f64>();
        assert!((0.5..0.85).contains(&share), "{verdict}");
        assert!(positives.iter().chain(&negatives).all(|count| *count >= 1.0), "{verdict}");
        assert!(negatives[0] <= 3.0 * positives[0], "{verdict}");
        let again = areas.split(params, &[0, 1]).unwrap();
        assert_eq!(again["dataset"]["digest"], outputs["dataset"]["digest"]);
        seen.insert(outputs["dataset"]["digest"].to_string());

        let folders = areas.folders();
        let reversed: Vec<_> = folders.iter().rev().collect();
        let dataset = Dataset::open(&path, &reversed).unwrap();
        let manifest = dataset.manifest();
        let (mut image, mut label) = (vec![0.0; 3 * SIZE * SIZE], vec![0.0; SIZE * SIZE]);
        for side in SideName::ALL {
            for chip in &manifest.sides.get(side).chips {
                dataset.read(chip, &mut image, &mut label, &mut Vec::new()).unwrap();
                assert_eq!(label.iter().any(|value| *value > 0.5), chip.positive);
            }
        }
        let missing = Dataset::open(&path, &folders[..1]).unwrap_err();
        assert_eq!(missing.code(), "L134");
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn a_site_on_several_blocks_is_shown_on_one_side() {
    let areas = Areas::new();
    // Blocks smaller than a chip: every site lies on several, and most of all sites hang together by the chips that show two.
    for seed in 0..3 {
        let outputs = areas.split(json!({ "block": "900 m", "seed": seed }), &[0]).unwrap();
        assert_eq!(outputs["leaks"], 0);
        let dataset = text(areas.bench.path(&outputs["dataset"]));
        let verdict =
            judge("dataset.py", &["split".to_owned(), dataset, "0".to_owned(), text(areas.folders().remove(0))]);
        assert!(verdict.starts_with("agree"), "{verdict}");
    }
}

#[test]
fn a_map_of_which_every_pixel_has_a_class_is_split_by_its_classes() {
    let areas = Areas::new();
    let mut inputs = areas.bench.cog("west.tif");
    inputs["label"] = json!(areas.bench.import::<Cog>(&areas.bench.file("classes.tif")));
    let chips = areas.bench.run::<CutChips>(json!({ "size": 32 }), inputs).unwrap();
    assert_eq!(chips["count"], chips["positives"], "no chip shows nothing");
    let outputs =
        areas.bench.run::<SplitDataset>(json!({ "block": "1300 m" }), json!({ "chips": [chips["chips"]] })).unwrap();
    let (dataset, folder) = (areas.bench.path(&outputs["dataset"]), areas.bench.path(&chips["chips"]));
    let verdict =
        judge("dataset.py", &["split".to_owned(), text(dataset.clone()), "0".to_owned(), text(folder.clone())]);
    assert!(verdict.starts_with("agree"), "{verdict}");
    let dataset = Dataset::open(&dataset, &[folder]).unwrap();
    let sides = &dataset.manifest().sides;
    for class in 1..=5 {
        let of = |side| sides.get(side).labels.iter().find(|label| label.value == class as f32).map_or(0, |l| l.pixels);
        let pixels = SideName::ALL.map(of);
        let share = pixels[0] as f64 / pixels.iter().sum::<u64>() as f64;
        assert!(pixels.iter().all(|pixels| *pixels > 0), "class {class}: {pixels:?}");
        assert!(class == 5 || (0.5..0.85).contains(&share), "class {class}: {pixels:?}");
    }
    assert!(sides.train.negatives == 0 && sides.train.positives == sides.train.chips.len());
}

#[test]
fn hard_negatives_are_those_of_near_miss() {
    let areas = Areas::new();
    let run = |negatives: Value| {
        let params = json!({ "block": "3 km", "negatives": negatives });
        areas.bench.path(&areas.split(params, &[0]).unwrap()["dataset"])
    };
    let all = run(json!({ "ratio": null }));
    let chosen = run(json!({ "ratio": 1.0, "hard": 1.0, "by": "looks" }));
    let folder = text(areas.folders().remove(0));
    let verdict = judge("dataset.py", &["hard".to_owned(), text(all.clone()), text(chosen.clone()), folder]);
    assert!(verdict.starts_with("agree"), "{verdict}");
    let places = run(json!({ "ratio": 1.0, "hard": 1.0, "by": "place" }));
    let chance = run(json!({ "ratio": 1.0, "hard": 0.0 }));
    let mut contents: Vec<_> = [all, chosen, places, chance].map(|path| std::fs::read(path).unwrap()).into();
    contents.sort();
    contents.dedup();
    assert_eq!(contents.len(), 4);
}

#[test]
fn chips_with_the_same_pixels_are_on_one_side_only() {
    let bench = Bench::new();
    judge("odd.py", &[bench.folder.path()]);
    // Four sites in the corners of 12.8 km; no two of their chips show the same part of a buffer.
    let places = [(15.012, 46.945), (15.151, 46.946), (15.014, 46.848), (15.153, 46.847)];
    let sites: Vec<Value> = places.iter().map(|(lon, lat)| json!({ "lon": lon, "lat": lat })).collect();
    let params = json!({ "sites": bench.write("four.json", &json!(sites)), "buffer": "300 m", "ring": 0 });
    let mut inputs = bench.cog("flat.tif");
    inputs["label"] = bench.run::<LabelSites>(params, inputs.clone()).unwrap()["label"].clone();
    let chips = bench.run::<CutChips>(json!({ "size": 64 }), inputs).unwrap();
    let split = json!({ "block": "2 km" });
    let failed = bench.run::<SplitDataset>(split, json!({ "chips": [chips["chips"]] })).unwrap_err();
    let (code, message, _) = told(failed);
    assert!(code == "L121" && message.contains("are positive"), "{message}");
}

#[test]
fn a_split_that_cannot_be_made_says_why() {
    let areas = Areas::new();
    let fails = |params: Value, sets: &[usize]| told(areas.split(params, sets).unwrap_err());
    let (code, message, help) = fails(json!({ "block": "500 km" }), &[0]);
    assert!(code == "L120" && message.contains("too few for 3 sides") && help.contains("`block`"), "{message}");
    let (code, message, _) = fails(json!({ "min_positive": 1.0 }), &[0]);
    assert!(code == "L121" && message.contains("no chip is positive"), "{message}");
    let (code, message, _) = fails(json!({ "gap": "8 km", "block": "2 km" }), &[0, 1]);
    assert!(["L120", "L121"].contains(&code.as_str()), "{code}: {message}");
    let (code, message, _) = fails(json!({}), &[0, 0]);
    assert!(code == "L113" && message.contains("chip sets 1 and 2 are the same"), "{message}");
    let (code, message, _) = fails(json!({}), &[]);
    assert!(code == "L111" && message.contains("no chip set"), "{message}");
    let other = areas.bench.run::<CutChips>(json!({ "size": 128 }), areas.labelled("west")).unwrap();
    let mixed = json!({ "chips": [areas.sets[0], other["chips"]] });
    let (code, message, _) = told(areas.bench.run::<SplitDataset>(json!({}), mixed).unwrap_err());
    assert!(code == "L113" && message.contains("128 x 128"), "{message}");
    let none = json!({ "sites": areas.bench.write("far.json", &json!([{ "lon": 1, "lat": 1 }])), "allow_none": true });
    let mut inputs = areas.bench.cog("west.tif");
    inputs["label"] = areas.bench.run::<LabelSites>(none, inputs.clone()).unwrap()["label"].clone();
    let blank = areas.bench.run::<CutChips>(json!({ "size": 64 }), inputs).unwrap();
    let only = json!({ "chips": [blank["chips"]] });
    let (code, message, _) = told(areas.bench.run::<SplitDataset>(json!({}), only).unwrap_err());
    assert!(code == "L121" && message.contains("no chip is positive"), "{message}");

    let folder = areas.bench.file("no-set");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("readme.txt"), "nothing").unwrap();
    let wrong = json!({ "chips": [areas.bench.import::<ChipSetFolder>(&folder)] });
    let (code, _, _) = told(areas.bench.run::<SplitDataset>(json!({}), wrong).unwrap_err());
    assert_eq!(code, "L130");

    let shares = json!({ "train": 0.9, "validation": 0.0, "test": 0.1 });
    let params =
        json!({ "shares": shares, "block": 0, "gap": -1, "min_positive": 2, "negatives": { "ratio": 0, "hard": 2 } });
    assert_eq!(problems::<SplitDataset>(params).len(), 6);
    let half = json!({ "shares": { "train": 0.5, "validation": 0.1, "test": 0.1 } });
    assert!(problems::<SplitDataset>(half)[0].contains("make 1 together"));
}

#[test]
fn a_dataset_that_is_saved_is_opened_as_it_was() {
    let areas = Areas::new();
    let split = areas.split(json!({ "block": "1 km", "seed": 7 }), &[0, 1]).unwrap();
    let folder = areas.bench.file("kept/dataset");
    let params = json!({ "path": folder });
    let inputs = json!({ "dataset": split["dataset"], "chips": areas.sets });
    let saved = areas.bench.run::<SaveDataset>(params.clone(), inputs.clone()).unwrap();
    let task: SaveDataset = serde_json::from_value(params.clone()).unwrap();
    assert!(swath_task::Task::stands(&task, &saved));

    let opened = areas.bench.run::<OpenDataset>(params.clone(), json!({})).unwrap();
    for side in SideName::ALL {
        assert_eq!(opened[side.to_string()], split[side.to_string()], "{side}");
    }
    assert_eq!(opened["dataset"]["digest"], split["dataset"]["digest"]);
    let sets: Vec<PathBuf> = opened["chips"].as_array().unwrap().iter().map(|set| areas.bench.path(set)).collect();
    for (opened, was) in sets.iter().zip(areas.folders()) {
        assert_eq!(ChipSet::open(opened).unwrap().digest(), ChipSet::open(&was).unwrap().digest());
    }
    Dataset::open(&areas.bench.path(&opened["dataset"]), &sets).unwrap();

    // A byte that a disk, a copy or a person changed is found, and what was saved no longer stands.
    let shard = folder.join("chips-01/chips-00000.safetensors");
    let bytes = std::fs::read(&shard).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    std::fs::write(&shard, flipped).unwrap();
    let (code, message, _) = told(areas.bench.run::<OpenDataset>(params.clone(), json!({})).unwrap_err());
    assert!(
        code == "L133" && message.contains("chips-01/chips-00000") && message.contains("the manifest has"),
        "{message}"
    );
    assert!(!swath_task::Task::stands(&task, &saved));
    std::fs::write(&shard, bytes).unwrap();

    // It is replaced by another as a whole, and what is no dataset is left alone.
    let other = areas.split(json!({ "block": "1 km", "seed": 8 }), &[0]).unwrap();
    let one = json!({ "dataset": other["dataset"], "chips": [areas.sets[0]] });
    areas.bench.run::<SaveDataset>(params.clone(), one).unwrap();
    assert!(!swath_task::Task::stands(&task, &saved));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    let refused = areas.bench.run::<SaveDataset>(params, inputs.clone()).unwrap_err();
    assert_eq!(told(refused).0, "L140");
    assert_eq!(std::fs::read(folder.join("notes.txt")).unwrap(), b"mine");

    // What cannot be opened is told, and nothing is put in place of anything.
    let nowhere = json!({ "path": areas.bench.file("nowhere") });
    assert_eq!(told(areas.bench.run::<OpenDataset>(nowhere.clone(), json!({})).unwrap_err()).0, "L141");
    let half = json!({ "dataset": split["dataset"], "chips": [areas.sets[0]] });
    areas.bench.run::<SaveDataset>(nowhere.clone(), half).unwrap_err();
    assert!(!areas.bench.file("nowhere").exists());
}
