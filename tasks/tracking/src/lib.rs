//! Tells a tracking server what a training does: parameters, metrics by step, files and the model that came of it. The server
//! is MLflow's, spoken to by its REST API; without one a folder in the layout of MLflow's file store takes its place.
//!
//! ```no_run
//! use std::path::Path;
//! use swath_tracking::{Settings, State, Tracking};
//!
//! # fn main() -> Result<(), swath_tracking::Error> {
//! let settings = Settings::new(Some("http://127.0.0.1:5000"), "launch pads")?;
//! let tracking = Tracking::open(settings, "unet-r18", Path::new("training/tracking"), &[("dataset", "blake3:ab12")])?;
//! tracking.params([("lr", "0.001"), ("epochs", "20")]);
//! for epoch in 1..=20 {
//!     tracking.metrics(epoch, [("train/loss", 0.5), ("val/iou", 0.7)]);
//! }
//! tracking.artifact(Path::new("training/curves.png"), "plots/curves.png");
//! let report = tracking.finish(State::Finished);
//! println!("{} sent, {} waiting", report.sent, report.waiting);
//! # Ok(())
//! # }
//! ```
//!
//! What a call is told goes into a file of the spool folder and the call returns; a thread of its own reads that file and sends
//! on what it finds there. A training that goes on after a kill opens the same spool folder and so goes on in the same run.
//!
//! Invariants:
//! 1. No call waits for the network but [`Tracking::finish`], [`Tracking::close`] and [`Tracking::register_model`], and these
//!    no longer than [`Pace::finish`].
//! 2. What a call took in lies in the spool when it returns: it outlives this process, and after `finish` the machine.
//! 3. A value is told once. A metric has one value a step and a parameter one value, the first; what is sent again because it
//!    is not known whether it arrived changes nothing where it did.
//! 4. Nothing here fails a training: what cannot be kept or sent is told by a warning and in the [`Report`].
//! 5. No password and no token is written anywhere.

mod by;
mod entry;
mod error;
mod folder;
mod meta;
mod mlflow;
mod names;
mod report;
mod sender;
mod settings;
mod sink;
mod spool;
mod tracking;
mod unsent;

pub use by::{TrackBy, portable};
pub use entry::State;
pub use error::Error;
pub use report::{Registered, Report};
pub use settings::{Credentials, DEFAULT_FOLDER, Pace, Place, Settings};
pub use tracking::{NewVersion, Tracking};
pub use unsent::{send_all, spools_beside};
