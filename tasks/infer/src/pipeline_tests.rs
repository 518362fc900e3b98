//! The pipeline on plain arrays, with networks written in Rust, against a naive whole-raster reference.

#[path = "pipeline_tile_tests.rs"]
mod tiles;

use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::*;
use crate::prepare::Window;
use crate::tiling::{Axis, Blend, Edges, Tile};

/// A raster in memory.
struct Array {
    height: usize,
    width: usize,
    bands: Vec<Vec<f32>>,
}

impl Source for Array {
    fn read(&mut self, window: &Window, buffer: &mut [f32]) -> Result<(), TaskError> {
        let mut out = buffer.iter_mut();
        for band in &self.bands {
            for row in window.rows.clone() {
                for column in window.columns.clone() {
                    *out.next().unwrap() = band[row * self.width + column];
                }
            }
        }
        assert!(out.next().is_none());
        Ok(())
    }
}

impl Array {
    fn new(height: usize, width: usize, bands: usize, value: impl Fn(usize, usize, usize) -> f32) -> Self {
        let band = |b| (0..height * width).map(|i| value(b, i / width, i % width)).collect();
        Self { height, width, bands: (0..bands).map(band).collect() }
    }
}

/// Collects rows; they must come in order.
#[derive(Default)]
struct Rows {
    next: usize,
    values: Vec<Vec<f32>>,
}

impl Sink for Rows {
    fn write(&mut self, row: usize, rows: usize, values: &[f32]) -> Result<(), TaskError> {
        assert_eq!(row, self.next);
        self.next += rows;
        let classes = self.values.len();
        for (all, new) in self.values.iter_mut().zip(values.chunks_exact(values.len() / classes)) {
            all.extend_from_slice(new);
        }
        Ok(())
    }
}

/// A network as a function of one tile: `[band][row][column]` to `[class][row][column]`.
struct Network<F> {
    tile: usize,
    bands: usize,
    classes: usize,
    function: F,
    runs: AtomicUsize,
}

impl<F: Fn(&[f32], &mut [f32]) + Send + Sync> Backend for Network<F> {
    fn run(&self, batch: usize, input: &mut Vec<f32>, output: &mut [f32]) -> Result<(), TaskError> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let area = self.tile * self.tile;
        assert_eq!(output.len(), batch * area * self.classes);
        let input = &input[..batch * area * self.bands];
        let pairs = input.chunks_exact(area * self.bands).zip(output.chunks_exact_mut(area * self.classes));
        pairs.for_each(|(input, output)| (self.function)(input, output));
        Ok(())
    }

    fn place(&self) -> &str {
        "toy"
    }
}

#[derive(Default)]
struct Quiet {
    stop: AtomicBool,
    stop_after: Option<u64>,
}

impl Watch for Quiet {
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    fn progress(&self, done: u64, total: u64) {
        assert!(done <= total);
        if self.stop_after.is_some_and(|after| done >= after) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }
}

#[derive(Clone, Copy)]
struct Setting {
    tile: usize,
    overlap: usize,
    batch: usize,
    edges: Edges,
    blend: Blend,
    /// Tile rows worked on together, columns read at once.
    held: (usize, usize),
}

const SETTING: Setting =
    Setting { tile: 16, overlap: 4, batch: 1, edges: Edges::Shifted, blend: Blend::Average, held: (3, 24) };

fn as_is(bands: usize) -> Vec<Rule> {
    vec![Rule { nodata: f32::NAN, factor: 1.0, term: 0.0, unit: false }; bands]
}

fn infer<F: Fn(&[f32], &mut [f32]) + Send + Sync>(
    array: &mut Array,
    setting: Setting,
    rules: &[Rule],
    classes: usize,
    function: F,
    watch: &Quiet,
) -> Result<(Vec<Vec<f32>>, Done, usize), TaskError> {
    infer_as(OutputActivation::Probability, array, setting, rules, classes, function, watch)
}

fn infer_as<F: Fn(&[f32], &mut [f32]) + Send + Sync>(
    activation: OutputActivation,
    array: &mut Array,
    setting: Setting,
    rules: &[Rule],
    classes: usize,
    function: F,
    watch: &Quiet,
) -> Result<(Vec<Vec<f32>>, Done, usize), TaskError> {
    let Setting { tile, overlap, batch, edges, blend, held } = setting;
    let bands = array.bands.len();
    let sizes = Sizes {
        rows: Axis::new(array.height, tile, overlap, edges, blend),
        columns: Axis::new(array.width, tile, overlap, edges, blend),
        tile: Tile { size: tile, output: Output::Pixels },
        batch,
        bands,
        classes,
        block: (8, 8),
        networks: 2,
        remote: false,
        writer: 0,
    };
    let plan = Plan::of(&sizes, held.0, held.1);
    let names: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
    let job = Job {
        sizes: &sizes,
        plan: &plan,
        rules,
        fill: 0.0,
        least: 0.0,
        activation,
        full_batches: false,
        network: "toy",
        classes: &names,
    };
    let network = Network { tile, bands, classes, function, runs: AtomicUsize::new(0) };
    let mut rows = Rows { next: 0, values: vec![Vec::new(); classes] };
    let networks: [&dyn Backend; 2] = [&network, &network];
    let done = run(&job, array, &networks, &mut rows, watch)?;
    assert_eq!(rows.next, array.height);
    assert_eq!(done.tiles + done.skipped, (sizes.rows.tiles() * sizes.columns.tiles()) as u64);
    Ok((rows.values, done, network.runs.into_inner()))
}

/// A number that depends on where in the tile it is: shows weights and positions.
fn positional(tile: usize) -> impl Fn(&[f32], &mut [f32]) + Send + Sync {
    move |input, output| {
        for (i, (out, value)) in output.iter_mut().zip(input).enumerate() {
            *out = (value * 0.5 + ((i / tile) * 3 + i % tile) as f32 / 200.0).clamp(0.0, 1.0);
        }
    }
}

/// The same, tile by tile on the whole raster in double precision, coverage counted per pixel.
fn reference(array: &Array, setting: Setting, function: impl Fn(&[f32], &mut [f32])) -> Vec<f64> {
    let Setting { tile, overlap, edges, blend, .. } = setting;
    let starts = |length: usize| -> Vec<usize> {
        let mut starts = vec![];
        let mut at = 0;
        while at + tile < length {
            starts.push(at);
            at += tile - overlap;
        }
        starts.push(if edges == Edges::Shifted { length.saturating_sub(tile) } else { at });
        starts
    };
    let mirror = |i: usize, n: usize| if i < n { i } else { 2 * (n - 1) - i };
    let weight = |i: usize| -> f64 {
        let ramp = overlap.min(tile / 2);
        let edge = i.min(tile - 1 - i);
        if blend == Blend::Average || edge >= ramp {
            return 1.0;
        }
        (std::f64::consts::FRAC_PI_2 * (edge as f64 + 0.5) / ramp as f64).sin().powi(2)
    };
    let (mut sum, mut count) = (vec![0.0; array.height * array.width], vec![0.0; array.height * array.width]);
    for top in starts(array.height) {
        for left in starts(array.width) {
            let source =
                |i: usize| mirror(top + i / tile, array.height) * array.width + mirror(left + i % tile, array.width);
            let input: Vec<f32> = (0..tile * tile).map(|i| array.bands[0][source(i)]).collect();
            let mut output = vec![0.0; tile * tile];
            function(&input, &mut output);
            for (i, output) in output.iter().enumerate() {
                let (row, column) = (top + i / tile, left + i % tile);
                if row < array.height && column < array.width {
                    let w = weight(i / tile) * weight(i % tile);
                    sum[row * array.width + column] += w * f64::from(*output);
                    count[row * array.width + column] += w;
                }
            }
        }
    }
    sum.iter().zip(&count).map(|(sum, count)| sum / count).collect()
}

fn pattern(band: usize, row: usize, column: usize) -> f32 {
    ((row * 37 + column * 11 + band * 5) % 101) as f32 / 100.0
}

#[test]
fn stitching_agrees_with_a_naive_whole_raster_reference() {
    for edges in [Edges::Shifted, Edges::Reflected] {
        for blend in [Blend::Average, Blend::Smooth] {
            for (height, width) in [(100, 77), (16, 16), (17, 16), (16, 40), (53, 129), (10, 60), (60, 9), (12, 12)] {
                for batch in [1, 3] {
                    for held in [(1, 5), (2, 24), (100, 1000)] {
                        let setting = Setting { edges, blend, batch, held, ..SETTING };
                        let mut array = Array::new(height, width, 1, pattern);
                        let expected = reference(&array, setting, positional(16));
                        let (got, ..) =
                            infer(&mut array, setting, &as_is(1), 1, positional(16), &Quiet::default()).unwrap();
                        let off = got[0].iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs());
                        let off = off.fold(0.0, f64::max);
                        assert!(off < 1e-6, "{edges:?} {blend:?} {height} x {width} batch {batch} {held:?}: {off}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_constant_image_gives_a_constant_output() {
    for blend in [Blend::Average, Blend::Smooth] {
        for edges in [Edges::Shifted, Edges::Reflected] {
            let mut array = Array::new(203, 151, 2, |_, _, _| 0.3);
            let setting = Setting { blend, edges, overlap: 7, ..SETTING };
            let mean = |input: &[f32], output: &mut [f32]| {
                let area = output.len();
                (0..area).for_each(|i| output[i] = (input[i] + input[area + i]) / 2.0);
            };
            let (got, ..) = infer(&mut array, setting, &as_is(2), 1, mean, &Quiet::default()).unwrap();
            assert!(got[0].iter().all(|value| (value - 0.3).abs() < 1e-6), "{blend:?} {edges:?}");
        }
    }
}

#[test]
fn no_data_in_is_no_data_out_and_costs_no_inference() {
    // The left half has no data in band 1 only; one pixel is NaN, one infinite.
    let value = |band: usize, row: usize, column: usize| match (band, row, column) {
        (0, 30, 90) => f32::NAN,
        (1, 40, 95) => f32::INFINITY,
        (1, _, c) if c < 64 => -9999.0,
        _ => 0.5,
    };
    let mut array = Array::new(64, 128, 2, value);
    let rules = [Rule { nodata: -9999.0, factor: 1.0, term: 0.0, unit: false }; 2];
    let first = |input: &[f32], output: &mut [f32]| {
        assert!(input.iter().all(|value| value.is_finite() && *value != -9999.0));
        output.copy_from_slice(&input[..output.len()]);
    };
    let (got, done, runs) = infer(&mut array, SETTING, &rules, 1, first, &Quiet::default()).unwrap();
    assert!(done.skipped > 0 && done.tiles as usize == runs, "{done:?}");
    for (i, value) in got[0].iter().enumerate() {
        let (row, column) = (i / 128, i % 128);
        let none = column < 64 || (row, column) == (30, 90) || (row, column) == (40, 95);
        assert!(if none { value.is_nan() } else { (value - 0.5).abs() < 1e-6 }, "{row} {column}: {value}");
    }
    let mut empty = Array::new(40, 40, 1, |_, _, _| f32::NAN);
    let (got, done, _) = infer(&mut empty, SETTING, &as_is(1), 1, positional(16), &Quiet::default()).unwrap();
    assert!(got[0].iter().all(|value| value.is_nan()) && done.tiles == 0);
}

#[test]
fn rules_normalise_before_the_network_sees_a_pixel() {
    let mut array = Array::new(20, 20, 2, |band, row, _| if band == 0 { row as f32 * 100.0 } else { 7.0 });
    let rules = [
        Rule { nodata: f32::NAN, factor: 0.001, term: -0.5, unit: true },
        Rule { nodata: 7.0, factor: 1.0, term: 0.0, unit: false },
    ];
    // Band 1 has no data anywhere: the output is no data, and no tile is run.
    let (_, done, _) = infer(&mut array, SETTING, &rules, 1, positional(16), &Quiet::default()).unwrap();
    assert_eq!(done.tiles, 0);
    let rules = [rules[0], Rule { nodata: f32::NAN, ..rules[1] }];
    let first = |input: &[f32], output: &mut [f32]| output.copy_from_slice(&input[..output.len()]);
    let (got, ..) = infer(&mut array, SETTING, &rules, 1, first, &Quiet::default()).unwrap();
    for (i, value) in got[0].iter().enumerate() {
        let expected = ((i / 20) as f32 * 0.1 - 0.5).clamp(0.0, 1.0);
        assert!((value - expected).abs() < 1e-6, "row {}: {value}", i / 20);
    }
}

#[test]
fn classes_keep_apart() {
    let mut array = Array::new(50, 70, 1, pattern);
    let two = |input: &[f32], output: &mut [f32]| {
        let (first, second) = output.split_at_mut(input.len());
        first.copy_from_slice(input);
        second.iter_mut().zip(input).for_each(|(out, value)| *out = 1.0 - value);
    };
    let (got, ..) = infer(&mut array, SETTING, &as_is(1), 2, two, &Quiet::default()).unwrap();
    for (i, (first, second)) in got[0].iter().zip(&got[1]).enumerate() {
        let value = pattern(0, i / 70, i % 70);
        assert!((first - value).abs() < 1e-6 && (second - (1.0 - value)).abs() < 1e-6);
    }
}

#[test]
fn a_number_that_is_no_probability_names_class_and_place() {
    for (value, code) in [(f32::NAN, "M110"), (f32::INFINITY, "M110"), (3.5, "M111"), (-0.2, "M111")] {
        let mut array = Array::new(50, 50, 1, pattern);
        let bad = |_: &[f32], output: &mut [f32]| {
            output.fill(0.5);
            output[5 * 16 + 3] = value;
        };
        let error = infer(&mut array, SETTING, &as_is(1), 1, bad, &Quiet::default()).err().unwrap();
        let TaskError::Permanent(fault) = error else { panic!("{error}") };
        assert!(fault.code == code && fault.message.contains("row 5, column 3"), "{fault}");
    }
}

#[test]
fn a_failing_source_or_network_or_sink_ends_everything_with_its_own_error() {
    struct Broken;
    impl Source for Broken {
        fn read(&mut self, _: &Window, _: &mut [f32]) -> Result<(), TaskError> {
            Err(Fault::new("R103", "damaged").permanent())
        }
    }
    impl Sink for Broken {
        fn write(&mut self, _: usize, _: usize, _: &[f32]) -> Result<(), TaskError> {
            Err(Fault::new("R111", "disk full").permanent())
        }
    }
    impl Backend for Broken {
        fn run(&self, _: usize, _: &mut Vec<f32>, _: &mut [f32]) -> Result<(), TaskError> {
            Err(Fault::new("M112", "no").permanent())
        }
        fn place(&self) -> &str {
            "broken"
        }
    }
    let (sizes, names) = (plain_sizes(500, 2), ["water".to_owned()]);
    let (plan, rules) = (Plan::of(&sizes, 1, 64), as_is(1));
    let job = plain_job(&sizes, &plan, &rules, &names);
    let network = Network { tile: 16, bands: 1, classes: 1, function: positional(16), runs: AtomicUsize::new(0) };
    let code = |result: Result<Done, TaskError>| match result {
        Err(TaskError::Permanent(fault)) => fault.code.into_owned(),
        other => panic!("{other:?}"),
    };
    let watch = Quiet::default();
    // The network that fails leaves a gap in the order: the other must not work on for ever.
    let mut array = Array::new(500, 500, 1, pattern);
    let mut rows = Rows { next: 0, values: vec![Vec::new()] };
    let network: &dyn Backend = &network;
    assert_eq!(code(run(&job, &mut Broken, &[network], &mut rows, &watch)), "R103");
    assert_eq!(code(run(&job, &mut array, &[network, &Broken], &mut rows, &watch)), "M112");
    assert_eq!(code(run(&job, &mut array, &[network, network], &mut Broken, &watch)), "R111");
}

/// A square raster of one band and one class in tiles of 16.
fn plain_sizes(side: usize, networks: usize) -> Sizes {
    let axis = || Axis::new(side, 16, 4, Edges::Shifted, Blend::Average);
    let (rows, columns) = (axis(), axis());
    Sizes {
        rows,
        columns,
        tile: Tile { size: 16, output: Output::Pixels },
        batch: 1,
        bands: 1,
        classes: 1,
        block: (64, 64),
        networks,
        remote: false,
        writer: 0,
    }
}

fn plain_job<'a>(sizes: &'a Sizes, plan: &'a Plan, rules: &'a [Rule], classes: &'a [String]) -> Job<'a> {
    Job {
        sizes,
        plan,
        rules,
        fill: 0.0,
        least: 0.0,
        activation: OutputActivation::Probability,
        full_batches: false,
        network: "toy",
        classes,
    }
}

/// A network that takes for ever, until it is told to stop.
#[derive(Default)]
struct Endless {
    stopped: Mutex<bool>,
    told: Condvar,
}

impl Backend for Endless {
    fn run(&self, _: usize, _: &mut Vec<f32>, _: &mut [f32]) -> Result<(), TaskError> {
        let stopped = self.stopped.lock().unwrap();
        let _stopped = self.told.wait_while(stopped, |stopped| !*stopped).unwrap();
        Err(Fault::new("M120", "stopped").transient(None))
    }
    fn place(&self) -> &str {
        "endless"
    }
    fn interrupt(&self) {
        *self.stopped.lock().unwrap() = true;
        self.told.notify_all();
    }
}

#[test]
fn a_network_that_waits_is_freed_by_the_failure_of_another_which_is_the_one_told() {
    struct Refuses;
    impl Backend for Refuses {
        fn run(&self, _: usize, _: &mut Vec<f32>, _: &mut [f32]) -> Result<(), TaskError> {
            Err(Fault::new("M125", "refused").permanent())
        }
        fn place(&self) -> &str {
            "refuses"
        }
    }
    let (sizes, names) = (plain_sizes(500, 2), ["water".to_owned()]);
    let (plan, rules) = (Plan::of(&sizes, 1, 64), as_is(1));
    let job = plain_job(&sizes, &plan, &rules, &names);
    let mut rows = Rows { next: 0, values: vec![Vec::new()] };
    let mut array = Array::new(500, 500, 1, pattern);
    let error = run(&job, &mut array, &[&Endless::default(), &Refuses], &mut rows, &Quiet::default());
    assert!(matches!(&error, Err(TaskError::Permanent(fault)) if fault.code == "M125"), "{error:?}");
}

#[test]
fn nobody_runs_far_ahead_of_a_network_that_takes_its_time() {
    struct Late<'a> {
        ahead: &'a AtomicUsize,
        most: AtomicUsize,
        begun: &'a AtomicBool,
    }
    impl Backend for Late<'_> {
        fn run(&self, _: usize, _: &mut Vec<f32>, output: &mut [f32]) -> Result<(), TaskError> {
            self.begun.store(true, Ordering::Relaxed);
            let before = self.ahead.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(100));
            self.most.fetch_max(self.ahead.load(Ordering::Relaxed) - before, Ordering::Relaxed);
            output.fill(0.5);
            Ok(())
        }
        fn place(&self) -> &str {
            "late"
        }
    }
    // Thousands of tiles, of which the fast network alone could run hundreds meanwhile.
    let (sizes, names) = (plain_sizes(400, 2), ["water".to_owned()]);
    let plan = Plan { output_queue: 3, ..Plan::of(&sizes, 1, 64) };
    let rules = as_is(1);
    let job = plain_job(&sizes, &plan, &rules, &names);
    // The fast one begins when the other has a tile, too.
    let (begun, run_over, started) = (AtomicBool::new(false), positional(16), Instant::now());
    let function = |input: &[f32], output: &mut [f32]| {
        while !begun.load(Ordering::Relaxed) {
            assert!(started.elapsed() < Duration::from_secs(60), "the other has no tile");
            std::thread::sleep(Duration::from_millis(1));
        }
        run_over(input, output);
    };
    let fast = Network { tile: 16, bands: 1, classes: 1, function, runs: AtomicUsize::new(0) };
    let late = Late { ahead: &fast.runs, most: AtomicUsize::new(0), begun: &begun };
    let mut rows = Rows { next: 0, values: vec![Vec::new()] };
    let mut array = Array::new(400, 400, 1, pattern);
    let watch = Quiet { stop_after: Some(60), ..Quiet::default() };
    let stopped = run(&job, &mut array, &[&late, &fast], &mut rows, &watch);
    assert!(matches!(stopped, Err(TaskError::Cancelled)), "{stopped:?}");
    let (most, window) = (late.most.into_inner(), plan.output_queue + 2);
    assert!(most > 0 && most <= window, "{most} tiles ahead, {window} may wait");
}

#[test]
fn logits_of_classes_become_shares_that_sum_to_one() {
    // Bands are logits of three classes; large ones must not overflow.
    let logit = |class: usize, row: usize, column: usize| -> f32 {
        match class {
            0 => row as f32 / 10.0 - 2.0,
            1 => {
                if column == 7 {
                    900.0
                } else {
                    (column % 5) as f32
                }
            }
            _ => {
                if row == 9 {
                    -900.0
                } else {
                    0.25
                }
            }
        }
    };
    let mut array = Array::new(40, 33, 3, logit);
    let same = |input: &[f32], output: &mut [f32]| output.copy_from_slice(input);
    let (got, ..) =
        infer_as(OutputActivation::ClassLogits, &mut array, SETTING, &as_is(3), 3, same, &Quiet::default()).unwrap();
    for i in 0..40 * 33 {
        // numpy: e = exp(x - x.max()); e / e.sum()
        let x: Vec<f64> = (0..3).map(|class| f64::from(logit(class, i / 33, i % 33))).collect();
        let most = x.iter().copied().fold(f64::MIN, f64::max);
        let e: Vec<f64> = x.iter().map(|x| (x - most).exp()).collect();
        for class in 0..3 {
            let expected = e[class] / e.iter().sum::<f64>();
            let off = (f64::from(got[class][i]) - expected).abs();
            assert!(off < 1e-6, "class {class} at {i}: {} is not {expected}", got[class][i]);
        }
        assert!((got.iter().map(|class| class[i]).sum::<f32>() - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_logit_of_a_class_that_is_no_number_is_refused_with_its_place() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for class in 0..2 {
            let mut array = Array::new(50, 50, 1, pattern);
            let network = |_: &[f32], output: &mut [f32]| {
                output.fill(0.5);
                output[class * 256 + 5 * 16 + 3] = bad;
            };
            let error =
                infer_as(OutputActivation::ClassLogits, &mut array, SETTING, &as_is(1), 2, network, &Quiet::default());
            let Err(TaskError::Permanent(fault)) = error else { panic!("{bad}") };
            let place = format!("gave {bad} for class `class {class}` at row 5, column 3");
            assert!(fault.code == "M110" && fault.message.contains(&place), "{fault}");
        }
    }
}

#[test]
fn a_panic_in_one_thread_ends_all_of_them_and_goes_on_to_the_caller() {
    let mut array = Array::new(500, 500, 1, pattern);
    let watch = Quiet::default();
    let broken = |_: &[f32], _: &mut [f32]| panic!("a defect in the network");
    let run = || infer(&mut array, SETTING, &as_is(1), 1, broken, &watch).map(drop);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a defect in the network"));
}

#[test]
fn two_networks_at_odds_in_speed_give_the_same_numbers_as_one() {
    let mut array = Array::new(150, 150, 1, pattern);
    let slow_at_times = |input: &[f32], output: &mut [f32]| {
        if input[0] > 0.7 {
            std::thread::sleep(Duration::from_millis(2));
        }
        positional(16)(input, output);
    };
    let (even, ..) = infer(&mut array, SETTING, &as_is(1), 1, positional(16), &Quiet::default()).unwrap();
    let (odd, ..) = infer(&mut array, SETTING, &as_is(1), 1, slow_at_times, &Quiet::default()).unwrap();
    assert_eq!(even, odd);
}

#[test]
fn a_wish_to_stop_ends_the_work() {
    let mut array = Array::new(2000, 400, 1, pattern);
    let watch = Quiet { stop_after: Some(5), ..Quiet::default() };
    let error = infer(&mut array, SETTING, &as_is(1), 1, positional(16), &watch).err().unwrap();
    assert!(matches!(error, TaskError::Cancelled), "{error}");
}
