//! Networks that tell of whole tiles, against a naive reference.

use super::*;

/// A network as a function of one tile: `[band][row][column]` to a number a class.
struct Whole<F> {
    tile: usize,
    classes: usize,
    function: F,
    runs: AtomicUsize,
}

impl<F: Fn(&[f32], &mut [f32]) + Send + Sync> Backend for Whole<F> {
    fn run(&self, batch: usize, input: &mut Vec<f32>, output: &mut [f32]) -> Result<(), TaskError> {
        self.runs.fetch_add(batch, Ordering::Relaxed);
        assert_eq!(output.len(), batch * self.classes);
        let tiles = input.chunks_exact(self.tile * self.tile).zip(output.chunks_exact_mut(self.classes));
        tiles.take(batch).for_each(|(input, output)| (self.function)(input, output));
        Ok(())
    }
    fn place(&self) -> &str {
        "toy"
    }
}

struct Outcome {
    values: Vec<Vec<f32>>,
    done: Done,
    runs: usize,
}

fn tell<F: Fn(&[f32], &mut [f32]) + Send + Sync>(
    array: &mut Array,
    setting: Setting,
    least: f64,
    activation: OutputActivation,
    function: F,
) -> Result<Outcome, TaskError> {
    let Setting { tile, overlap, batch, edges, held, .. } = setting;
    let axis = |length| Axis::new(length, tile, overlap, edges, Blend::Average);
    let sizes = Sizes {
        rows: axis(array.height),
        columns: axis(array.width),
        tile: Tile { size: tile, output: Output::Image },
        batch,
        bands: 1,
        classes: 2,
        block: (8, 8),
        networks: 2,
        remote: false,
        writer: 0,
    };
    let (plan, rules) = (Plan::of(&sizes, held.0, held.1), as_is(1));
    let names = ["mean".to_owned(), "first".to_owned()];
    let job = Job { activation, least, ..plain_job(&sizes, &plan, &rules, &names) };
    let network = Whole { tile, classes: 2, function, runs: AtomicUsize::new(0) };
    let mut rows = Rows { next: 0, values: vec![Vec::new(); 2] };
    let networks: [&dyn Backend; 2] = [&network, &network];
    let done = run(&job, array, &networks, &mut rows, &Quiet::default())?;
    assert_eq!(rows.next, sizes.rows.tiles());
    assert_eq!(done.tiles + done.skipped, (sizes.rows.tiles() * sizes.columns.tiles()) as u64);
    Ok(Outcome { values: rows.values, done, runs: network.runs.into_inner() })
}

/// The mean of a tile, and its first pixel: which tile it is, and where it begins.
fn mean_and_first(input: &[f32], output: &mut [f32]) {
    output[0] = input.iter().sum::<f32>() / input.len() as f32;
    output[1] = input[0];
}

#[test]
fn what_is_told_of_each_tile_stands_where_the_tile_does() {
    for edges in [Edges::Shifted, Edges::Reflected] {
        for (height, width) in [(100, 77), (16, 16), (17, 16), (53, 129), (10, 60), (12, 12)] {
            for (overlap, batch, held) in [(0, 1, (1, 5)), (4, 3, (2, 24)), (0, 2, (100, 1000)), (12, 1, (3, 16))] {
                let setting = Setting { edges, batch, overlap, held, ..SETTING };
                let mut array = Array::new(height, width, 1, pattern);
                let got = tell(&mut array, setting, 0.0, OutputActivation::Probability, mean_and_first).unwrap();
                let starts = |length: usize| -> Vec<usize> {
                    let mut at: Vec<usize> =
                        (0..length).step_by(16 - overlap).take_while(|at| at + 16 < length).collect();
                    let next = at.last().map_or(0, |last| last + 16 - overlap);
                    at.push(if edges == Edges::Shifted { length.saturating_sub(16) } else { next });
                    at
                };
                let mirror = |i: usize, n: usize| if i < n { i } else { 2 * (n - 1) - i };
                let places =
                    starts(height).into_iter().flat_map(|top| starts(width).into_iter().map(move |left| (top, left)));
                for (at, (top, left)) in places.enumerate() {
                    let pixel = |i: usize| pattern(0, mirror(top + i / 16, height), mirror(left + i % 16, width));
                    let mean = (0..256).map(pixel).sum::<f32>() / 256.0;
                    let case = format!("{edges:?} {height} x {width}, overlap {overlap}, batch {batch}, tile {at}");
                    assert!((got.values[0][at] - mean).abs() < 1e-6, "{case}: {} is not {mean}", got.values[0][at]);
                    assert_eq!(got.values[1][at], pixel(0), "{case}");
                }
                assert_eq!(got.values[0].len() as u64, got.done.tiles);
            }
        }
    }
}

#[test]
fn a_tile_with_too_little_data_is_left_out_and_told_as_no_data() {
    // Three tiles of 16: whole, half, and a pixel less than half.
    let value = |_: usize, row: usize, column: usize| match column / 16 {
        1 if row < 8 => f32::NAN,
        2 if row < 8 || (row, column) == (8, 32) => f32::NAN,
        _ => 0.25,
    };
    let setting = Setting { overlap: 0, ..SETTING };
    for (least, expected) in [(0.0, [true, true, true]), (0.5, [true, true, false]), (0.6, [true, false, false])] {
        let mut array = Array::new(16, 48, 1, value);
        let got = tell(&mut array, setting, least, OutputActivation::Probability, mean_and_first).unwrap();
        let told: Vec<bool> = got.values[0].iter().map(|value| !value.is_nan()).collect();
        assert_eq!(told, expected, "{least}");
        let count = expected.iter().filter(|told| **told).count();
        assert_eq!((got.runs, got.done), (count, Done { tiles: count as u64, skipped: 3 - count as u64 }));
    }
    let mut array = Array::new(16, 48, 1, |_, _, _| f32::NAN);
    let got = tell(&mut array, setting, 0.0, OutputActivation::Probability, mean_and_first).unwrap();
    assert!(got.values.iter().flatten().all(|value| value.is_nan()) && got.runs == 0);
}

#[test]
fn a_tile_that_reaches_beyond_the_raster_is_judged_by_what_lies_inside() {
    // The second tile shows four columns of the raster and twelve of their mirror image; two of the four have data.
    let mut array = Array::new(16, 20, 1, |_, _, column| if column >= 18 { f32::NAN } else { 0.5 });
    let setting = Setting { overlap: 0, edges: Edges::Reflected, ..SETTING };
    for (least, told) in [(0.5, true), (0.51, false)] {
        let got = tell(&mut array, setting, least, OutputActivation::Probability, mean_and_first).unwrap();
        assert_eq!(!got.values[0][1].is_nan(), told, "{least}");
    }
}

#[test]
fn logits_of_a_tile_become_probabilities_as_those_of_a_pixel_do() {
    let mut array = Array::new(40, 33, 1, pattern);
    let logits = |_: &[f32], output: &mut [f32]| output.copy_from_slice(&[900.0, 898.5]);
    let setting = Setting { overlap: 0, ..SETTING };
    let got = tell(&mut array, setting, 0.0, OutputActivation::ClassLogits, logits).unwrap();
    // numpy: e = exp(x - x.max()); e / e.sum()
    let second = (-1.5f32).exp() / (1.0 + (-1.5f32).exp());
    assert!(got.values[0].iter().all(|value| (value - (1.0 - second)).abs() < 1e-6), "{:?}", got.values[0]);
    assert!(got.values[1].iter().all(|value| (value - second).abs() < 1e-6));
    let logits = |_: &[f32], output: &mut [f32]| output.copy_from_slice(&[0.0, 2.0]);
    let got = tell(&mut array, setting, 0.0, OutputActivation::Logits, logits).unwrap();
    let second = 1.0 / (1.0 + (-2.0f32).exp());
    assert!(got.values[0].iter().all(|value| *value == 0.5) && (got.values[1][0] - second).abs() < 1e-6);
}

#[test]
fn a_number_that_is_no_probability_names_class_and_tile() {
    for (activation, value, code) in [
        (OutputActivation::Probability, 1.5, "M111"),
        (OutputActivation::Logits, f32::NAN, "M110"),
        (OutputActivation::ClassLogits, f32::INFINITY, "M110"),
    ] {
        let mut array = Array::new(40, 40, 1, pattern);
        let bad = |input: &[f32], output: &mut [f32]| {
            output.fill(0.5);
            if input[0] == pattern(0, 16, 24) {
                output[1] = value;
            }
        };
        let error = tell(&mut array, Setting { overlap: 0, ..SETTING }, 0.0, activation, bad).err().unwrap();
        let TaskError::Permanent(fault) = error else { panic!("{error}") };
        let place = "for class `first` at row 16, column 24 (tile 2 of tile row 1)";
        assert!(fault.code == code && fault.message.contains(place), "{fault}");
    }
}
