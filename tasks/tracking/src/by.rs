//! The parameter `tracking` of the tasks that tell something: where to, and what of it has not arrived yet.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swath_task::{LocalPath, Problem};

use crate::error::Error;
use crate::report::Report;
use crate::settings::{Credentials, Pace, Place, Settings};
use crate::tracking::Tracking;
use crate::unsent::{of_run, send_all, spools_beside};

/// Whom a step tells what it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrackBy {
    /// An MLflow server, `https://mlflow.example`. Default: `MLFLOW_TRACKING_URI`, and without that the folder. Who may write
    /// there is told by `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`.
    #[serde(default)]
    pub address: Option<String>,
    /// A folder in the layout of MLflow's file store, where there is no server. What has not arrived yet waits beside it, in
    /// `.NAME.unsent`, also with a server.
    pub folder: LocalPath,
    /// The experiment that the run belongs to; made when there is none of that name.
    #[serde(default = "swath")]
    pub experiment: String,
    /// Seconds that a step waits at its end for what the server has not taken yet; what is left then waits in the folder.
    #[serde(default = "half_a_minute")]
    pub patience: u32,
}

fn swath() -> String {
    "swath".to_owned()
}

fn half_a_minute() -> u32 {
    30
}

impl TrackBy {
    /// What is wrong with it.
    pub fn check(&self) -> Option<Problem> {
        let address = self.address.as_deref()?;
        match Settings::new(Some(address), self.experiment.as_str()) {
            Err(error) => Some(Problem::new("/tracking/address", error.to_string()).help(error.help())),
            Ok(Settings { place: Place::Folder(_), .. }) => {
                let message = format!("`{address}` is no address of a server");
                Some(Problem::new("/tracking/address", message).help("a folder is told by `folder`"))
            }
            Ok(_) => Place::read(address).is_ok_and(|(_, own)| own.is_some()).then(|| {
                Problem::new("/tracking/address", "a flow is no place for a password")
                    .help("set `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD` where steps run")
            }),
        }
    }

    /// Where it goes: the server, or else the folder.
    pub fn settings(&self) -> Result<Settings, Error> {
        let server = self.address.clone().or_else(|| std::env::var("MLFLOW_TRACKING_URI").ok());
        let settings = match server.filter(|server| !server.is_empty()) {
            Some(server) => Settings::new(Some(&server), self.experiment.as_str())?,
            None => {
                let folder = Settings::new(Some(&self.folder.0.to_string_lossy()), self.experiment.as_str())?;
                folder.credentials(Credentials::None)
            }
        };
        let finish = Duration::from_secs(self.patience.into());
        Ok(settings.pace(Pace { finish, ..Pace::default() }))
    }

    /// The spool folder of what is called so, which nothing else may be.
    pub fn spool(&self, name: &str) -> PathBuf {
        spools_beside(&self.folder.0).join(name)
    }

    /// Goes on in the run that [`crate::Report::reference`] tells of, as a checkpoint has it. Where that is no run of this place,
    /// a run called `name` is begun, which is the same for the same `key`. The spool folder is called by the key.
    pub fn follow(&self, run: Option<&str>, name: &str, key: &str) -> Result<Tracking, Error> {
        let (settings, spool) = (self.settings()?, self.spool(key));
        match run.filter(|run| settings.place.keeps(run)) {
            Some(run) => Tracking::join(settings, run, &spool),
            None => {
                let of: Vec<(&str, &str)> = run.map(|run| ("swath.training_run", run)).into_iter().collect();
                Tracking::begin_as(settings, name, &spool, &of, key)
            }
        }
    }

    /// Sends what waits of a run that no server has made yet, if it waits here, until `stop` says so; whether there is such a run
    /// now, as far as is known.
    pub fn send_run(&self, reference: &str, stop: &dyn Fn() -> bool) -> bool {
        let Ok(to) = self.settings() else { return true };
        let Some(spool) = of_run(&self.folder.0, &to.place, reference) else { return true };
        let sent = Tracking::send_unless(&spool, to.credentials, to.pace, stop, &|_| {});
        sent.inspect(Report::tidy).is_ok_and(|report| report.run.is_some())
    }

    /// Sends what waits here for the same place, of steps whose server was down, until `stop` says so.
    pub fn send_earlier(&self, stop: &dyn Fn() -> bool) {
        let Ok(Settings { place, credentials, pace, .. }) = self.settings() else { return };
        for (spool, sent) in send_all(&self.folder.0, Some(&place), &credentials, &pace, stop, &|_| {}) {
            match sent {
                Ok(report) => tracing::debug!("{} things wait in `{}`", report.waiting, spool.display()),
                // One that is in use belongs to a training that goes on beside this one.
                Err(error) => tracing::debug!("what waits in `{}` stays: {error}", spool.display()),
            }
        }
    }
}

/// What a checkpoint tells of its run. A folder's place on this machine is nothing to those who read that: it is left out.
pub fn portable(reference: String, place: &Place) -> String {
    let Place::Folder(folder) = place else { return reference };
    match Path::new(&reference).strip_prefix(folder) {
        Ok(inside) => inside.display().to_string(),
        Err(_) => reference,
    }
}
