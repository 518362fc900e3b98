//! What the built-in tasks need of a machine, and whether it is there; and the services that the environment names, and
//! whether they answer.

use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use swath_tracking::{Pace, Settings, Tracking};

/// Something a machine has or lacks.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is.
    pub name: &'static str,
    /// Version and place, or why it cannot be used.
    pub found: Result<String, String>,
    /// How to get it.
    pub help: Option<String>,
}

/// Looks for everything the built-in tasks need.
pub fn findings() -> Vec<Finding> {
    vec![gdal(), onnx_runtime(), model_server(), tracking(), s3()]
}

/// Longest that a service is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

fn model_server() -> Finding {
    let name = "Triton";
    match swath_infer::model_server() {
        None => unnamed(name, "TRITON_URL"),
        Some(Ok(found)) => Finding { name, found: Ok(found), help: None },
        Some(Err(fault)) => Finding { name, found: Err(fault.message), help: fault.help },
    }
}

fn tracking() -> Finding {
    let (name, variable) = ("MLflow", "MLFLOW_TRACKING_URI");
    let Some(place) = variable_of(&[variable]).map(|(_, place)| place) else { return unnamed(name, variable) };
    let found = match place.strip_prefix("file://").or((!place.contains("://")).then_some(&*place)) {
        Some(folder) if Path::new(folder).is_dir() => Ok(format!("the folder `{folder}`")),
        Some(folder) => Ok(format!("the folder `{folder}`, which the first run makes")),
        None => mlflow(&place),
    };
    Finding { name, found, help: Some(format!("start the tracking server, or correct {variable}")) }
}

/// Whether MLflow answers, and takes the credentials.
fn mlflow(address: &str) -> Result<String, String> {
    let settings = Settings::new(Some(address), "").map_err(|error| error.to_string())?;
    let settings = settings.pace(Pace { answer: PATIENCE, ..Pace::default() });
    // A thread of its own: who asks may be within a runtime.
    let asked = std::thread::spawn(move || Tracking::health(&settings).map_err(|error| error.to_string())).join();
    asked.unwrap_or_else(|_| Err("nobody could be asked".to_owned()))
}

fn s3() -> Finding {
    let (name, variables) = ("S3", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_S3_ENDPOINT", "AWS_ENDPOINT"]);
    let Some((variable, place)) = variable_of(&variables) else {
        return match variable_of(&["AWS_REGION", "AWS_DEFAULT_REGION"]) {
            Some((_, region)) => Finding { name, found: Ok(format!("that of AWS, region {region}")), help: None },
            None => unnamed(name, variables[1]),
        };
    };
    Finding { name, found: answers(&place), help: Some(format!("start the store, or correct {variable}")) }
}

/// The first variable of the environment that is set, and what it says.
fn variable_of<'a>(names: &[&'a str]) -> Option<(&'a str, String)> {
    let value = |name: &&'a str| Some((*name, std::env::var(name).ok().filter(|value| !value.trim().is_empty())?));
    names.iter().find_map(value)
}

fn unnamed(name: &'static str, variable: &str) -> Finding {
    Finding { name, found: Ok(format!("not used: {variable} is not set")), help: None }
}

/// Whether somebody listens at an address, `https://host:port/path` or `host:port`. What it says of users and keys is not
/// shown.
fn answers(address: &str) -> Result<String, String> {
    let (scheme, rest) = address.split_once("://").unwrap_or(("http", address));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let port = if scheme == "https" { 443 } else { 80 };
    let place = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
    let told = |error: std::io::Error| format!("{place} cannot be reached: {error}");
    let mut last = format!("{place} has no address");
    for socket in place.to_socket_addrs().map_err(told)? {
        match TcpStream::connect_timeout(&socket, PATIENCE) {
            Ok(_) => return Ok(format!("{place} answers")),
            Err(error) => last = told(error),
        }
    }
    Err(last)
}

fn gdal() -> Finding {
    let found = swath_geo::gdal_version().map_err(|error| error.message().to_owned());
    let help = "run `make setup`, or install GDAL 3.6 or newer (Debian: libgdal-dev) and set GDAL_LIBRARY if it lies elsewhere";
    Finding { name: "GDAL", found, help: Some(help.to_owned()) }
}

fn onnx_runtime() -> Finding {
    let found = swath_infer::locate_onnx_runtime().and_then(|path| {
        let version = swath_infer::onnx_runtime_version(&path)?;
        Ok(format!("{version} ({})", path.display()))
    });
    match found {
        Ok(found) => Finding { name: "ONNX Runtime", found: Ok(found), help: None },
        Err(fault) => Finding { name: "ONNX Runtime", found: Err(fault.message), help: fault.help },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_service_is_reached_or_told_by_its_host_and_no_password() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for address in [format!("127.0.0.1:{port}"), format!("http://me:SECRET@127.0.0.1:{port}/path?key=SECRET")] {
            assert_eq!(answers(&address), Ok(format!("127.0.0.1:{port} answers")));
        }
        drop(listener);
        let told = answers(&format!("http://me:SECRET@127.0.0.1:{port}")).unwrap_err();
        assert!(told.starts_with(&format!("127.0.0.1:{port} cannot be reached: ")), "{told}");
    }
}
