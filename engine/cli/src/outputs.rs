//! Where the outputs of a flow go: one folder, tried before anything runs, kept with the run, filled at its end.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use swath_plan::Plan;
use swath_store::{Artifacts, Error, Store};
use swath_task::{ArtifactRecord, Fault, PortType};

use crate::failure::Failure;

/// The folder that the artifacts in a flow's outputs are copied to.
pub(crate) struct Outputs {
    /// As a person would name it.
    folder: PathBuf,
}

impl Outputs {
    /// The folder that is asked for; else the one that the run was begun with; else `results/FLOW`.
    pub async fn choose(
        store: &dyn Store,
        run: Option<&str>,
        asked: Option<PathBuf>,
        plan: &Plan,
    ) -> Result<Self, Failure> {
        let kept = match run {
            Some(run) if asked.is_none() => store.outputs_of(run).await?,
            _ => None,
        };
        // What lies below the current folder is named from there, as it would be without having been kept.
        let here = std::env::current_dir().unwrap_or_default();
        let kept = kept.map(|folder| folder.strip_prefix(&here).map(Path::to_owned).unwrap_or(folder));
        Ok(Self { folder: asked.or(kept).unwrap_or_else(|| Path::new("results").join(&plan.name)) })
    }

    /// Finds out whether the outputs of this plan could be written now: hours of work must not end in a misspelt
    /// folder. Makes nothing that stays.
    pub fn try_writing(&self, plan: &Plan) -> Result<(), Failure> {
        if !plan.outputs.iter().any(|output| matches!(output.of, PortType::Artifact(_))) {
            return Ok(());
        }
        let refused = |path: &Path, reason: &str, fix: &str| {
            let folder = self.folder.display();
            let whose = if path == self.folder { String::new() } else { format!(" (`{}`)", path.display()) };
            Failure::Usage(format!(
                "the outputs cannot be written to `{folder}`{whose}: {reason}; {fix}; nothing has run"
            ))
        };
        let absolute = std::path::absolute(&self.folder);
        let absolute = absolute.map_err(|error| Failure::io("find", &self.folder, &error))?;
        let there = absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let named = if there == absolute { self.folder.as_path() } else { there };
        if !there.is_dir() {
            return Err(refused(named, "it is not a folder", "name another with `--out FOLDER`"));
        }
        let probe = there.join(format!(".swath-{}.part", std::process::id()));
        let tried = std::fs::File::create(&probe).and_then(|mut file| {
            file.write_all(&[0; 4096])?;
            file.sync_all()
        });
        let removed = if probe.exists() { std::fs::remove_file(&probe) } else { Ok(()) };
        tried.and(removed).map_err(|error| {
            let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
            let fix = if full { "free space, or" } else { "make it writable, or" };
            refused(named, &error.to_string(), &format!("{fix} name another with `--out FOLDER`"))
        })
    }

    /// Keeps the folder with the run, so that whoever goes on with it needs not name it again.
    pub async fn keep(&self, store: &dyn Store, run: &str) -> Result<(), Failure> {
        let folder = std::path::absolute(&self.folder).map_err(|error| Failure::io("find", &self.folder, &error))?;
        Ok(store.keep_outputs(run, &folder).await?)
    }

    /// Copies the artifacts in a flow's outputs to where a person looks for them, and tells in `places` where each is.
    /// Plain values stay in the summary.
    pub async fn publish(
        &self,
        run: &str,
        artifacts: &Artifacts,
        outputs: &Value,
        places: &mut BTreeMap<String, String>,
    ) -> Result<(), Fault> {
        self.put(artifacts, outputs, "", places).await.map_err(|error| {
            let mut fault = error.fault();
            fault.message = format!("not all outputs were put into `{}`: {}", self.folder.display(), fault.message);
            if !matches!(error, Error::ArtifactMissing { .. } | Error::ArtifactCorrupt { .. }) {
                let help =
                    format!("the run itself has completed: `swath resume {run} --out FOLDER` puts them elsewhere");
                fault = fault.help(help);
            }
            fault
        })
    }

    async fn put(
        &self,
        artifacts: &Artifacts,
        value: &Value,
        name: &str,
        places: &mut BTreeMap<String, String>,
    ) -> Result<(), Error> {
        if let Ok(record) = serde_json::from_value::<ArtifactRecord>(value.clone()) {
            let from = artifacts.locate(&record).await?;
            let extension =
                Path::new(&record.name).extension().map(|e| format!(".{}", e.to_string_lossy())).unwrap_or_default();
            let to = self.folder.join(format!("{}{extension}", name.replace('/', "-")));
            replace(&from, &to).map_err(|error| unwritten(&to, &error))?;
            places.insert(name.to_owned(), to.display().to_string());
            return Ok(());
        }
        let below: Vec<(String, &Value)> = match value {
            Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), value)).collect(),
            Value::Array(items) => items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
            _ => return Ok(()),
        };
        for (key, value) in below {
            let name = if name.is_empty() { key } else { format!("{name}/{key}") };
            Box::pin(self.put(artifacts, value, &name, places)).await?;
        }
        Ok(())
    }
}

fn unwritten(path: &Path, error: &std::io::Error) -> Error {
    let (path, reason) = (path.to_owned(), error.to_string());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::DiskFull { path },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::ReadOnly { path, reason },
        _ => Error::Io { action: "write", path, reason },
    }
}

/// Puts a copy in place whole, and a copy that fails leaves nothing. Readers see the old one or the new one; of a folder,
/// for a moment neither.
fn replace(from: &Path, to: &Path) -> std::io::Result<()> {
    let folder = to.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let (partial, aside) = (folder.join(format!(".{name}.part")), folder.join(format!(".{name}.old")));
    remove(&partial)?;
    let placed = swath_task::files::copy(from, &partial, &make_writable).and_then(|()| {
        if !from.is_dir() {
            return std::fs::rename(&partial, to);
        }
        if to.is_dir() {
            own(folder, &name, to)?;
            remove(&aside)?;
            std::fs::rename(to, &aside)?;
        }
        std::fs::rename(&partial, to)?;
        claim(folder, &name)?;
        remove(&aside)
    });
    if placed.is_err() {
        // The error that led here is the one to tell.
        let _ = remove(&partial);
    }
    placed
}

/// Names of the folders that were put beside this file, a line each: no other folder is ever replaced.
const PUT: &str = ".swath-folders";

/// Refuses a folder that was not put there as an output.
fn own(folder: &Path, name: &str, path: &Path) -> std::io::Result<()> {
    let put = std::fs::read_to_string(folder.join(PUT)).unwrap_or_default();
    if put.lines().any(|line| line == name) || std::fs::read_dir(path)?.next().is_none() {
        return Ok(());
    }
    Err(std::io::Error::other("there is a folder that is no earlier output; move it away, or name another folder"))
}

fn claim(folder: &Path, name: &str) -> std::io::Result<()> {
    let path = folder.join(PUT);
    let put = std::fs::read_to_string(&path).unwrap_or_default();
    if put.lines().any(|line| line == name) { Ok(()) } else { std::fs::write(path, format!("{put}{name}\n")) }
}

fn remove(path: &Path) -> std::io::Result<()> {
    let removed = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    removed.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Artifacts are read-only in the store; what is published is the user's.
fn make_writable(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut permissions = std::fs::metadata(path)?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(path, permissions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_only_where_it_was_put() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("artifact"), place.path().join("out/model"));
        let write = |path: &Path, name: &str| {
            std::fs::create_dir_all(path).unwrap();
            std::fs::write(path.join(name), name).unwrap();
        };
        write(&from, "first");
        write(&to, "thesis.txt");
        let refused = replace(&from, &to).unwrap_err();
        assert!(refused.to_string().contains("no earlier output"), "{refused}");
        assert_eq!(std::fs::read_to_string(to.join("thesis.txt")).unwrap(), "thesis.txt");
        std::fs::remove_dir_all(&to).unwrap();
        replace(&from, &to).unwrap();
        std::fs::remove_file(from.join("first")).unwrap();
        write(&from, "second");
        replace(&from, &to).unwrap();
        let names: Vec<_> = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["second"]);
        assert_eq!(
            std::fs::read_dir(to.parent().unwrap()).unwrap().count(),
            2,
            "the output and the list of what was put"
        );
    }
}
