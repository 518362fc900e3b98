//! Loss, scores and learning rate over the epochs.

use std::path::Path;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::text::Alignment;
use swath_task::TaskError;

use super::{Canvas, FAINT, INK};
use crate::record::{Epoch, Progress};

const BLUE: Rgb888 = Rgb888::new(30, 100, 200);
const ORANGE: Rgb888 = Rgb888::new(225, 110, 20);
const GREEN: Rgb888 = Rgb888::new(40, 140, 70);
const RED: Rgb888 = Rgb888::new(200, 40, 60);

/// Size of a panel, and the room around it.
const WIDTH: i32 = 380;
const HEIGHT: i32 = 260;
const LEFT: i32 = 62;
const RIGHT: i32 = 18;
const TOP: i32 = 44;
const BOTTOM: i32 = 34;

/// A curve: its name, colour and points, by epoch.
struct Curve {
    name: &'static str,
    colour: Rgb888,
    points: Vec<(f64, f64)>,
}

/// Draws the curves of a training into a PNG file.
pub(crate) fn curves(progress: &Progress, path: &Path) -> Result<(), TaskError> {
    let curve = |name, colour, of: &dyn Fn(&Epoch) -> Option<f64>| {
        let points = progress.history.iter().filter_map(|epoch| Some((f64::from(epoch.epoch), of(epoch)?)));
        Curve { name, colour, points: points.filter(|(_, value)| value.is_finite()).collect() }
    };
    let score = |name: &'static str, colour| curve(name, colour, &|epoch| epoch.validation.get(name));
    let panels = [
        (
            "loss",
            vec![
                curve("training", BLUE, &|epoch| Some(epoch.train_loss)),
                curve("validation", ORANGE, &|epoch| epoch.validation.get("loss")),
            ],
            None,
        ),
        ("validation", vec![score("f1", BLUE), score("iou", ORANGE), score("auroc", GREEN)], Some((0.0, 1.0))),
        ("learning rate", vec![curve("", BLUE, &|epoch| Some(epoch.learning_rate))], None),
    ];
    let mut canvas = Canvas::new((panels.len() as i32 * WIDTH) as u32, HEIGHT as u32);
    let best = progress.best.first().map(|best| f64::from(best.epoch));
    let last = progress.history.last().map_or(1.0, |epoch| f64::from(epoch.epoch));
    for (place, (title, curves, range)) in panels.iter().enumerate() {
        panel(&mut canvas, place as i32 * WIDTH, title, curves, *range, last, best);
    }
    canvas.save(path)
}

fn panel(
    canvas: &mut Canvas,
    at: i32,
    title: &str,
    curves: &[Curve],
    range: Option<(f64, f64)>,
    last: f64,
    best: Option<f64>,
) {
    let (left, right) = (f64::from(at + LEFT), f64::from(at + WIDTH - RIGHT));
    let (top, bottom) = (f64::from(TOP), f64::from(HEIGHT - BOTTOM));
    let values = || curves.iter().flat_map(|curve| curve.points.iter().map(|(_, value)| *value));
    let (low, high) = range.unwrap_or_else(|| {
        let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let room = ((high - low) * 0.05).max(high.abs() * 1e-3).max(1e-12);
        if low.is_finite() { (low - room, high + room) } else { (0.0, 1.0) }
    });
    let x = |epoch: f64| left + (right - left) * if last > 1.0 { (epoch - 1.0) / (last - 1.0) } else { 0.5 };
    let y = |value: f64| bottom - (bottom - top) * (value.clamp(low, high) - low) / (high - low);
    for tick in 0..=4 {
        let value = low + (high - low) * f64::from(tick) / 4.0;
        canvas.line((left, y(value)), (right, y(value)), FAINT, 1);
        canvas.text(&short(value), left as i32 - 5, y(value) as i32, Alignment::Right, INK);
    }
    let mut epochs: Vec<i64> =
        (0..=4).map(|tick| (1.0 + (last - 1.0) * f64::from(tick) / 4.0).round() as i64).collect();
    epochs.dedup();
    for epoch in epochs {
        canvas.text(&epoch.to_string(), x(epoch as f64) as i32, bottom as i32 + 10, Alignment::Center, INK);
    }
    canvas.text("epoch", ((left + right) / 2.0) as i32, bottom as i32 + 23, Alignment::Center, INK);
    if let Some(best) = best {
        canvas.line((x(best), top), (x(best), bottom), RED, 1);
    }
    canvas.frame(left as i32, top as i32, (right - left) as u32 + 1, (bottom - top) as u32 + 1, INK);
    canvas.text(title, left as i32, 14, Alignment::Left, INK);
    let mut along = left as i32;
    for curve in curves {
        for pair in curve.points.windows(2) {
            canvas.line((x(pair[0].0), y(pair[0].1)), (x(pair[1].0), y(pair[1].1)), curve.colour, 2);
        }
        if let [(epoch, value)] = curve.points[..] {
            canvas.line((x(epoch) - 2.0, y(value)), (x(epoch) + 2.0, y(value)), curve.colour, 3);
        }
        if !curve.name.is_empty() && !curve.points.is_empty() {
            canvas.line((f64::from(along), 32.0), (f64::from(along + 14), 32.0), curve.colour, 2);
            canvas.text(curve.name, along + 19, 32, Alignment::Left, INK);
            along += 34 + 6 * curve.name.len() as i32;
        }
    }
    if best.is_some() {
        canvas.line((f64::from(along), 32.0), (f64::from(along + 14), 32.0), RED, 1);
        canvas.text("best", along + 19, 32, Alignment::Left, INK);
    }
}

/// A number in few letters.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if !(1e-3..1e4).contains(&size) => format!("{value:.1e}"),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}
