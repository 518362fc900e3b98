//! Pictures of a training: its curves, and what the network tells of some chips.

mod curves;
mod samples;

pub(crate) use curves::curves;
pub(crate) use samples::samples;

use std::convert::Infallible;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use embedded_graphics::Pixel;
use embedded_graphics::mono_font::ascii::FONT_6X10;
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::{DrawTarget, Drawable, OriginDimensions, Point, Primitive, RgbColor, Size};
use embedded_graphics::primitives::{Line, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use swath_task::TaskError;

use crate::faults::unwritable;

const PAPER: Rgb888 = Rgb888::WHITE;
const INK: Rgb888 = Rgb888::new(40, 40, 48);
const FAINT: Rgb888 = Rgb888::new(222, 222, 228);
const FONT: MonoFont<'static> = FONT_6X10;

/// A picture being drawn.
struct Canvas {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(width: u32, height: u32) -> Self {
        let paper = [PAPER.r(), PAPER.g(), PAPER.b()];
        Self { width, height, pixels: paper.repeat((width * height) as usize) }
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: Rgb888, width: u32) {
        let point = |(x, y): (f64, f64)| Point::new(x.round() as i32, y.round() as i32);
        let line = Line::new(point(from), point(to)).into_styled(PrimitiveStyle::with_stroke(colour, width));
        line.draw(self).unwrap_or_else(|never: Infallible| match never {});
    }

    fn frame(&mut self, left: i32, top: i32, width: u32, height: u32, colour: Rgb888) {
        let style = PrimitiveStyle::with_stroke(colour, 1);
        let frame = Rectangle::new(Point::new(left, top), Size::new(width, height)).into_styled(style);
        frame.draw(self).unwrap_or_else(|never| match never {});
    }

    /// Writes at a point that is the left, middle or right end of the text, in the middle of its height.
    fn text(&mut self, text: &str, x: i32, y: i32, alignment: Alignment, colour: Rgb888) {
        let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Middle).build();
        let text = Text::with_text_style(text, Point::new(x, y), MonoTextStyle::new(&FONT, colour), style);
        text.draw(self).map(drop).unwrap_or_else(|never| match never {});
    }

    fn dot(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width as usize && y < self.height as usize {
            self.pixels[(y * self.width as usize + x) * 3..][..3].copy_from_slice(&colour);
        }
    }

    fn save(&self, path: &Path) -> Result<(), TaskError> {
        let file = File::create(path).map_err(|error| unwritable(path, error))?;
        let mut encoder = png::Encoder::new(BufWriter::new(file), self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(|error| unwritable(path, error))?;
        writer.write_image_data(&self.pixels).map_err(|error| unwritable(path, error))?;
        writer.finish().map_err(|error| unwritable(path, error))
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width, self.height)
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) {
                self.dot(x, y, [colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}
