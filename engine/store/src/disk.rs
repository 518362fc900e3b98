//! Artifacts on this machine's disk: renames, syncs and digests. Blocking.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use swath_task::{ArtifactFile, ArtifactRecord, Digest};

use crate::error::Error;

/// What a folder's manifest is called, after the folder's name.
pub(crate) const MANIFEST: &str = ".files.json";

/// Files whose digest was found right, as long as they look the same.
#[derive(Default)]
pub(crate) struct Verified(Mutex<HashMap<PathBuf, Stamp>>);

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    digest: Digest,
    size: u64,
    modified: (i64, i64),
    /// No program can set this one back, and inode numbers are used again.
    changed: (i64, i64),
    inode: u64,
}

impl Stamp {
    fn of(metadata: &fs::Metadata, digest: Digest) -> Self {
        Self {
            digest,
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: metadata.ino(),
        }
    }
}

impl Verified {
    fn knows(&self, path: &Path, stamp: Stamp) -> bool {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).get(path) == Some(&stamp)
    }

    fn learn(&self, path: &Path, digest: Digest) {
        if let Ok(metadata) = fs::metadata(path) {
            let stamp = Stamp::of(&metadata, digest);
            self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(path.to_owned(), stamp);
        }
    }
}

/// A folder of artifacts, and a folder beside it for what is on its way in.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    incoming: PathBuf,
}

impl Disk {
    pub fn create(home: &Path, name: &str) -> Result<Self, Error> {
        let disk = Self { root: home.join(name), incoming: home.join("incoming") };
        for folder in [&disk.root, &disk.incoming] {
            fs::create_dir_all(folder).map_err(|error| Error::io("create", folder, &error))?;
        }
        Ok(disk)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path of nobody else's, on the same disk as the artifacts.
    pub fn incoming(&self) -> Result<PathBuf, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = self.incoming.join(name);
        discard(&path)?;
        Ok(path)
    }

    fn folder(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.root.join(&hex[..2]).join(hex)
    }

    /// Moves a staged file or folder in. It is described, synced, renamed, and the folders above are synced.
    pub fn take(&self, staged: &Path, name: &str, kind: &str, verified: &Verified) -> Result<ArtifactRecord, Error> {
        let record = describe(staged, name, kind, true)?;
        let folder = self.folder(&record.digest);
        let shard = folder.parent().unwrap_or(&self.root).to_owned();
        let fresh = !shard.exists();
        fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, &error))?;
        let target = folder.join(name);
        if record.files.is_empty() {
            // Over a copy that is there: equal bytes, or damaged ones that are mended by this.
            self.shift(staged, &target)?;
            verified.learn(&target, record.digest);
        } else {
            self.take_folder(staged, &target, &record, verified)?;
        }
        sync_folder(&folder)?;
        sync_folder(&shard)?;
        if fresh {
            sync_folder(&self.root)?;
        }
        Ok(record)
    }

    fn take_folder(
        &self,
        staged: &Path,
        target: &Path,
        record: &ArtifactRecord,
        verified: &Verified,
    ) -> Result<(), Error> {
        let manifest = manifest_path(target);
        if target.exists() {
            if self.check_files(target, record, verified).is_ok() {
                // Whole, though perhaps a crash came before its manifest.
                discard(staged)?;
                return self.write_manifest(&manifest, record);
            }
            let damaged = self.incoming()?;
            fs::rename(target, &damaged).map_err(|error| Error::io("move", target, &error))?;
            discard(&damaged)?;
        }
        match self.shift(staged, target) {
            // Another process was first.
            Err(_) if target.exists() && self.check_files(target, record, verified).is_ok() => discard(staged)?,
            other => other?,
        }
        for file in &record.files {
            verified.learn(&target.join(&file.path), file.digest);
        }
        sync_folder(target.parent().unwrap_or(&self.root))?;
        self.write_manifest(&manifest, record)
    }

    fn write_manifest(&self, manifest: &Path, record: &ArtifactRecord) -> Result<(), Error> {
        let draft = self.incoming()?;
        fs::write(&draft, manifest_text(&record.files)?).map_err(|error| Error::io("write", &draft, &error))?;
        let file = File::open(&draft).map_err(|error| Error::io("read", &draft, &error))?;
        file.sync_all().map_err(|error| Error::io("write", &draft, &error))?;
        fs::rename(&draft, manifest).map_err(|error| Error::io("write", manifest, &error))
    }

    /// A rename; from another disk a copy to this one and then the rename.
    fn shift(&self, staged: &Path, target: &Path) -> Result<(), Error> {
        match fs::rename(staged, target) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::CrossesDevices => {
                let near = self.incoming()?;
                let sync = |path: &Path| File::open(path).and_then(|made| made.sync_all());
                let moved = swath_task::files::copy(staged, &near, &sync)
                    .map_err(|error| Error::io("write", target, &error))
                    .and_then(|()| fs::rename(&near, target).map_err(|error| Error::io("write", target, &error)));
                if moved.is_err() {
                    discard(&near)?;
                }
                moved?;
                discard(staged)
            }
            Err(error) => Err(Error::io("write", target, &error)),
        }
    }

    /// Where an artifact lies, after its sizes and (once) its digests are checked.
    pub fn locate(&self, record: &ArtifactRecord, verified: &Verified) -> Result<PathBuf, Error> {
        let target = self.check_sizes(record)?;
        if record.files.is_empty() {
            check_digest(&target, &record.digest, record, verified)?;
        } else {
            self.check_files(&target, record, verified)?;
        }
        Ok(target)
    }

    fn check_sizes(&self, record: &ArtifactRecord) -> Result<PathBuf, Error> {
        let target = self.folder(&record.digest).join(&record.name);
        if record.files.is_empty() {
            check_size(&target, record.size, record)?;
        } else {
            if !manifest_path(&target).is_file() {
                return Err(missing(record));
            }
            for file in &record.files {
                check_size(&inside(&target, file, record)?, file.size, record)?;
            }
        }
        Ok(target)
    }

    fn check_files(&self, target: &Path, record: &ArtifactRecord, verified: &Verified) -> Result<(), Error> {
        for file in &record.files {
            let path = inside(target, file, record)?;
            check_size(&path, file.size, record)?;
            check_digest(&path, &file.digest, record, verified)?;
        }
        Ok(())
    }

    pub fn remove(&self, digest: &Digest) -> Result<(), Error> {
        let folder = self.folder(digest);
        let away = self.incoming()?;
        // In one step: a crash leaves nothing half-removed under a digest.
        match fs::rename(&folder, &away) {
            Ok(()) => discard(&away),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", folder, &error)),
        }
    }

    /// Removes what a listing of objects does not show: unfinished arrivals, empty folders, fetched copies.
    pub fn sweep_rest(&self, referenced: &HashSet<Digest>, before: SystemTime) -> Result<u64, Error> {
        let mut freed = 0;
        for path in entries(&self.incoming)? {
            if modified(&path).is_some_and(|at| at < before) {
                freed += size_of(&path);
                discard(&path)?;
            }
        }
        for shard in entries(&self.root)? {
            for folder in entries(&shard)? {
                let hex = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let known = format!("blake3:{hex}").parse().is_ok_and(|digest| referenced.contains(&digest));
                if !known && modified(&folder).is_some_and(|at| at < before) && is_bare(&folder)? {
                    discard(&folder)?;
                }
            }
            if entries(&shard)?.is_empty() && shard.is_dir() {
                // Another process may just have put something there: then it is not empty and stays.
                let _ = fs::remove_dir(&shard);
            }
        }
        Ok(freed)
    }
}

/// The record of a staged file or folder. With `sync`, its bytes are on the disk and it is read-only when this returns.
pub(crate) fn describe(path: &Path, name: &str, kind: &str, sync: bool) -> Result<ArtifactRecord, Error> {
    let staged = |reason: String| Error::Stage { name: name.to_owned(), reason };
    let metadata = fs::symlink_metadata(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => staged(format!("there is nothing at `{}`", path.display())),
        _ => Error::io("read", path, &error),
    })?;
    if metadata.is_file() {
        let (digest, size) = digest_file(path, sync)?;
        return Ok(ArtifactRecord { kind: kind.to_owned(), name: name.to_owned(), digest, size, files: Vec::new() });
    }
    if !metadata.is_dir() {
        return Err(staged("it is neither a file nor a folder".to_owned()));
    }
    let mut files = Vec::new();
    walk(path, "", name, sync, &mut files)?;
    if files.is_empty() {
        return Err(staged("the folder is empty".to_owned()));
    }
    Ok(ArtifactRecord::of_folder(name, kind, files))
}

fn walk(folder: &Path, prefix: &str, name: &str, sync: bool, files: &mut Vec<ArtifactFile>) -> Result<(), Error> {
    let listed = fs::read_dir(folder).map_err(|error| Error::io("read", folder, &error))?;
    for entry in listed {
        let entry = entry.map_err(|error| Error::io("read", folder, &error))?;
        let refused = |what: &str| {
            let reason = format!("`{prefix}{}` {what}", entry.file_name().to_string_lossy());
            Error::Stage { name: name.to_owned(), reason }
        };
        let file_name = entry.file_name();
        let Some(file_name) = file_name.to_str() else { return Err(refused("has a name that is not UTF-8")) };
        let path = format!("{prefix}{file_name}");
        let kind = entry.file_type().map_err(|error| Error::io("read", entry.path(), &error))?;
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), name, sync, files)?;
        } else if kind.is_file() {
            let (digest, size) = digest_file(&entry.path(), sync)?;
            files.push(ArtifactFile { path, size, digest });
        } else {
            return Err(refused("is neither a file nor a folder"));
        }
    }
    if sync {
        sync_folder(folder)?;
    }
    Ok(())
}

fn digest_file(path: &Path, sync: bool) -> Result<(Digest, u64), Error> {
    let file = File::open(path).map_err(|error| Error::io("read", path, &error))?;
    let described = Digest::of_reader(&file).map_err(|error| Error::io("read", path, &error))?;
    if sync {
        // Its age counts from the commit, not from when a tool says it was written.
        file.set_modified(SystemTime::now()).map_err(|error| Error::io("write", path, &error))?;
        file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(|error| Error::io("write", path, &error))?;
        file.sync_all().map_err(|error| Error::io("write", path, &error))?;
    }
    Ok(described)
}

fn check_size(path: &Path, size: u64, record: &ArtifactRecord) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == size => Ok(()),
        Ok(metadata) => {
            let reason = format!("`{}` has {} bytes, not {size}", path.display(), metadata.len());
            Err(Error::ArtifactCorrupt { name: record.name.clone(), digest: record.digest, reason })
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Err(missing(record)),
        Err(error) => Err(Error::io("read", path, &error)),
    }
}

fn check_digest(path: &Path, due: &Digest, record: &ArtifactRecord, verified: &Verified) -> Result<(), Error> {
    let metadata = fs::metadata(path).map_err(|error| Error::io("read", path, &error))?;
    if verified.knows(path, Stamp::of(&metadata, *due)) {
        return Ok(());
    }
    let file = File::open(path).map_err(|error| Error::io("read", path, &error))?;
    let (found, _) = Digest::of_reader(file).map_err(|error| Error::io("read", path, &error))?;
    if found != *due {
        let reason = format!("`{}` has digest {found}", path.display());
        return Err(Error::ArtifactCorrupt { name: record.name.clone(), digest: record.digest, reason });
    }
    verified.learn(path, found);
    Ok(())
}

/// The path of a folder's file, which a forged record must not lead elsewhere.
fn inside(target: &Path, file: &ArtifactFile, record: &ArtifactRecord) -> Result<PathBuf, Error> {
    let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    if file.path.is_empty() || !Path::new(&file.path).components().all(plain) {
        let reason = format!("its list of files names `{}`", file.path.escape_debug());
        return Err(Error::ArtifactCorrupt { name: record.name.clone(), digest: record.digest, reason });
    }
    Ok(target.join(&file.path))
}

fn missing(record: &ArtifactRecord) -> Error {
    Error::ArtifactMissing { name: record.name.clone(), digest: record.digest }
}

fn manifest_path(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(MANIFEST);
    target.with_file_name(name)
}

/// The text of a folder's manifest.
pub(crate) fn manifest_text(files: &[ArtifactFile]) -> Result<String, Error> {
    serde_json::to_string(files)
        .map_err(|error| Error::Record { what: "artifact manifest".to_owned(), reason: error.to_string() })
}

/// Removes a file or folder; nothing there is as good.
pub(crate) fn discard(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, &error)),
        _ => Ok(()),
    }
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    File::open(folder).and_then(|file| file.sync_all()).map_err(|error| Error::io("write", folder, &error))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let listed = match fs::read_dir(folder) {
        Ok(listed) => listed,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", folder, &error)),
    };
    let paths: Result<Vec<PathBuf>, _> = listed.map(|entry| entry.map(|entry| entry.path())).collect();
    paths.map_err(|error| Error::io("read", folder, &error))
}

/// Whether no file lies anywhere below.
fn is_bare(folder: &Path) -> Result<bool, Error> {
    for path in entries(folder)? {
        if !path.is_dir() || !is_bare(&path)? {
            return Ok(false);
        }
    }
    Ok(folder.is_dir())
}

fn size_of(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => entries(path).unwrap_or_default().iter().map(|path| size_of(path)).sum(),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(path).and_then(|metadata| metadata.modified()).ok()
}
