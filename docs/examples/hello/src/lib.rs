//! A task family of one task: `report.mean`.

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_geo::{PixelWindow, Raster};
use swath_kinds::{Cog, File};
use swath_task::{Artifact, Bytes, Context, Fault, Needs, Problem, Purity, Task, TaskDef, TaskError};

/// The mean of one band of a raster, no-data left out, as a number and as a line of text.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mean {
    /// Name of the band, `NDVI` for example.
    #[schemars(length(min = 1))]
    pub band: String,
    /// Digits after the point in the text.
    #[serde(default = "three")]
    #[schemars(range(max = 9))]
    pub digits: usize,
}

fn three() -> usize {
    3
}

/// What it reads.
#[derive(Debug, Deserialize, JsonSchema)]
pub struct Inputs {
    /// A raster with named bands.
    pub raster: Artifact<Cog>,
}

/// What it makes.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Outputs {
    /// The mean; absent when there is no pixel with data.
    pub mean: Option<f64>,
    /// Pixels that had data.
    pub pixels: u64,
    /// The text.
    pub report: Artifact<File>,
}

impl Task for Mean {
    const NAME: &'static str = "report.mean";
    const VERSION: u32 = 1;
    const PURITY: Purity = Purity::Pure;
    const NATIVE: bool = true;
    type Inputs = Inputs;
    type Outputs = Outputs;

    fn check(&self) -> Result<(), Vec<Problem>> {
        let mut problems = Vec::new();
        if self.band.is_empty() {
            problems.push(Problem::new("/band", "a band has a name"));
        }
        if self.digits > 9 {
            let message = format!("{} digits are more than 9", self.digits);
            problems.push(Problem::new("/digits", message).help("3 is plenty"));
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn needs(&self) -> Needs {
        Needs::new(1.0, Bytes::mib(64))
    }

    async fn run(&self, inputs: Inputs, ctx: &Context) -> Result<Outputs, TaskError> {
        let raster = ctx.locate(&inputs.raster).await?;
        let band = self.band.clone();
        let (sum, pixels) = ctx.blocking(move |ctx| sum(&raster, &band, ctx)).await?;
        let mean = (pixels > 0).then(|| sum / pixels as f64);

        let draft = ctx.draft::<File>("report.txt")?;
        let text = match mean {
            Some(mean) => format!("{}: {mean:.*} over {pixels} pixels\n", self.band, self.digits),
            None => format!("{}: no data\n", self.band),
        };
        std::fs::write(draft.path(), text).map_err(|error| {
            Fault::new("H101", format!("`{}` cannot be written: {error}", draft.path().display())).transient(None)
        })?;
        Ok(Outputs { mean, pixels, report: draft.commit().await? })
    }
}

/// Sum and count of the pixels with data, strip by strip: memory does not grow with the raster.
fn sum(path: &Path, band: &str, ctx: &Context) -> Result<(f64, u64), TaskError> {
    let fault = |error: swath_geo::GeoError| Fault::new(error.code(), error.message()).help(error.help()).permanent();
    let raster = Raster::open_path(path).map_err(fault)?;
    let info = raster.info();
    let index = info.band(band).map_err(fault)?;
    let (mut sum, mut pixels) = (0.0, 0);
    for row in (0..info.height).step_by(512) {
        ctx.check_cancelled()?;
        let window = PixelWindow::new(0, row, info.width, 512.min(info.height - row));
        let mut values = vec![0.0_f32; window.len()];
        raster.read(index, &window, &mut values).map_err(fault)?;
        for value in values.iter().filter(|value| value.is_finite()) {
            sum += f64::from(*value);
            pixels += 1;
        }
        ctx.progress((row + window.height) as u64, info.height as u64, "rows");
    }
    Ok((sum, pixels))
}

/// The tasks of this family.
pub const TASKS: &[TaskDef] = &[TaskDef::of::<Mean>()];
