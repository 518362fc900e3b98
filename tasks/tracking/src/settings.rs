//! Where a training is told to, as whom, and how patiently.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::error::Error;
use crate::report::UNSENT_RUN;

/// The folder that is told to when no address is given, relative to the working folder.
pub const DEFAULT_FOLDER: &str = "mlruns";

/// Where a training is told to, as whom, and how patiently.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Server or folder.
    pub place: Place,
    /// The experiment that the run belongs to; made when there is none of that name.
    pub experiment: String,
    /// What opens the server.
    pub credentials: Credentials,
    /// How often and how long is tried.
    pub pace: Pace,
}

/// Server or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An MLflow server. No password in it.
    Server(Url),
    /// A folder in the layout of MLflow's file store.
    Folder(PathBuf),
}

/// What opens a server. Never shown, never stored.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing is asked for.
    #[default]
    None,
    /// `Authorization: Bearer TOKEN`.
    Token(String),
    /// User and password.
    User(String, String),
}

/// How often and how long is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two requests with values: what is told meanwhile travels together.
    pub gather: Duration,
    /// The first pause after a request that failed; it doubles with each further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long [`crate::Tracking::finish`] and [`crate::Tracking::register_model`] wait.
    pub finish: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            gather: Duration::from_secs(1),
            first_pause: Duration::from_secs(1),
            longest_pause: Duration::from_secs(60),
            answer: Duration::from_secs(60),
            finish: Duration::from_secs(30),
        }
    }
}

impl Settings {
    /// Settings for an address: `https://host`, a folder, or none. Without one `MLFLOW_TRACKING_URI` counts, and without that
    /// the folder [`DEFAULT_FOLDER`]. Credentials are those of the address or, as MLflow's own client has it,
    /// `MLFLOW_TRACKING_USERNAME` with `MLFLOW_TRACKING_PASSWORD`, or `MLFLOW_TRACKING_TOKEN`.
    pub fn new(address: Option<&str>, experiment: impl Into<String>) -> Result<Self, Error> {
        Self::of(address, experiment.into(), &|name| std::env::var(name).ok())
    }

    fn of(address: Option<&str>, experiment: String, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let given =
            address.map(str::to_owned).or_else(|| variable("MLFLOW_TRACKING_URI").filter(|uri| !uri.is_empty()));
        let (place, own) = Place::read(given.as_deref().unwrap_or(DEFAULT_FOLDER))?;
        let credentials = own.unwrap_or_else(|| Credentials::of(variable));
        Ok(Self { place, experiment, credentials, pace: Pace::default() })
    }

    /// These settings with other credentials.
    pub fn credentials(self, credentials: Credentials) -> Self {
        Self { credentials, ..self }
    }

    /// These settings with another pace.
    pub fn pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }
}

impl Place {
    /// Reads an address. Credentials in it are taken out of it.
    pub(crate) fn read(address: &str) -> Result<(Self, Option<Credentials>), Error> {
        let wrong = |reason: &str| {
            let address = swath_access::redact(address);
            Error::Address { address, reason: reason.to_owned() }
        };
        let folder = |path: PathBuf| {
            let path = std::path::absolute(&path).map_err(|error| wrong(&error.to_string()))?;
            Ok((Self::Folder(path), None))
        };
        let scheme = address.split_once(':').map_or("", |(scheme, _)| scheme);
        match scheme {
            "http" | "https" => {
                let mut url = Url::parse(address).map_err(|error| wrong(&error.to_string()))?;
                let own = match (percent_decoded(url.username()), url.password().map(percent_decoded)) {
                    (user, None) if user.is_empty() => None,
                    (user, password) => Some(Credentials::User(user, password.unwrap_or_default())),
                };
                // Both fail for addresses without a host only, which http has not.
                let _ = url.set_username("");
                let _ = url.set_password(None);
                url.set_query(None);
                url.set_fragment(None);
                let path = format!("{}/", url.path().trim_end_matches('/'));
                url.set_path(&path);
                Ok((Self::Server(url), own))
            }
            "file" => {
                let url = Url::parse(address).map_err(|error| wrong(&error.to_string()))?;
                folder(url.to_file_path().map_err(|()| wrong("it names a folder of another machine"))?)
            }
            "" if address.trim().is_empty() => Err(wrong("it is empty")),
            _ if address.contains("://") || matches!(address, "databricks" | "uc") => {
                Err(wrong("a server is spoken to by http; a database is opened by the server that it belongs to"))
            }
            _ => folder(PathBuf::from(address)),
        }
    }

    /// Whether a run may be one of this place, by what [`crate::Report::reference`] told of it, also without the folder.
    pub fn keeps(&self, reference: &str) -> bool {
        match self {
            Self::Server(url) => reference.starts_with(url.as_str()) || reference.starts_with(UNSENT_RUN),
            Self::Folder(path) => path.join(reference).is_dir(),
        }
    }

    /// For the head of the spool and for messages. No password is in it.
    pub(crate) fn told(&self) -> String {
        match self {
            Self::Server(url) => url.to_string(),
            Self::Folder(path) => path.display().to_string(),
        }
    }
}

impl Credentials {
    /// Those of the variables that MLflow's own client reads.
    pub fn from_env() -> Self {
        Self::of(&|name| std::env::var(name).ok())
    }

    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        match (set("MLFLOW_TRACKING_USERNAME"), set("MLFLOW_TRACKING_PASSWORD"), set("MLFLOW_TRACKING_TOKEN")) {
            (Some(user), Some(password), _) => Self::User(user, password),
            (_, _, Some(token)) => Self::Token(token),
            _ => Self::None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token",
            Self::User(..) => "User",
        })
    }
}

fn percent_decoded(text: &str) -> String {
    // A form's decoding turns `+` into a space, which an address does not mean.
    let form = text.replace('+', "%2B");
    url::form_urlencoded::parse(format!("v={form}").as_bytes()).map(|(_, value)| value.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: Option<&str>, variables: &[(&str, &str)]) -> Result<Settings, Error> {
        let variable =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Settings::of(address, "pads".to_owned(), &variable)
    }

    #[test]
    fn an_address_is_a_server_or_a_folder_and_keeps_no_password() {
        let given = settings(Some("https://me:p%40+ss@host/mlflow?x=1#/experiments"), &[]).unwrap();
        assert_eq!(given.place.told(), "https://host/mlflow/");
        assert!(given.credentials == Credentials::User("me".to_owned(), "p@+ss".to_owned()));
        assert!(!format!("{given:?}").contains("p@"), "{given:?}");

        let token = settings(Some("https://token@host"), &[]).unwrap();
        assert!(token.credentials == Credentials::User("token".to_owned(), String::new()), "{token:?}");
        // Not even of an address that is none.
        for address in
            ["http://me:SECRET@", "http://me:SEC/RET@host", "https://me:SECRET@host:port", "s3://me:SECRET@host"]
        {
            let error = settings(Some(address), &[]).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("SEC"), "{error}");
        }

        let folder = |address| settings(Some(address), &[]).unwrap().place;
        assert_eq!(folder("/data/my runs"), Place::Folder("/data/my runs".into()));
        assert_eq!(folder("file:///data/my%20runs"), Place::Folder("/data/my runs".into()));
        assert_eq!(folder("runs"), Place::Folder(std::env::current_dir().unwrap().join("runs")));

        for address in ["sqlite:///mlflow.db", "databricks", "s3://bucket/runs", "databricks://profile", " ", "http://"]
        {
            assert_eq!(settings(Some(address), &[]).unwrap_err().code(), "K101", "{address}");
        }
    }

    #[test]
    fn without_an_address_the_variables_of_mlflow_count_and_then_a_folder() {
        let variables = [("MLFLOW_TRACKING_URI", "http://tracking:5000"), ("MLFLOW_TRACKING_TOKEN", "SECRET")];
        let from = settings(None, &variables).unwrap();
        assert_eq!(from.place.told(), "http://tracking:5000/");
        assert!(from.credentials == Credentials::Token("SECRET".to_owned()));
        let given = settings(Some("http://other"), &variables).unwrap();
        assert_eq!(given.place.told(), "http://other/");

        let both =
            [("MLFLOW_TRACKING_TOKEN", "t"), ("MLFLOW_TRACKING_USERNAME", "u"), ("MLFLOW_TRACKING_PASSWORD", "p")];
        assert!(settings(None, &both).unwrap().credentials == Credentials::User("u".to_owned(), "p".to_owned()));
        let nothing = settings(None, &[("MLFLOW_TRACKING_URI", "")]).unwrap();
        assert_eq!(nothing.place, Place::Folder(std::env::current_dir().unwrap().join(DEFAULT_FOLDER)));
        assert!(nothing.credentials == Credentials::None);
    }
}
