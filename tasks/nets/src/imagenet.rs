//! Where weights trained on ImageNet are to be had: torchvision's files, which this project neither ships nor fetches.

use std::path::PathBuf;

use crate::Error;

/// A file of ImageNet weights that torchvision publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageNet {
    /// Its name, which ends in the beginning of its SHA-256.
    pub file: &'static str,
}

impl ImageNet {
    /// Where it can be downloaded.
    pub fn url(&self) -> String {
        format!("https://download.pytorch.org/models/{}", self.file)
    }

    /// The file in the first of these folders that has it.
    pub fn find(&self, folders: &[PathBuf]) -> Result<PathBuf, Error> {
        let mut paths = folders.iter().map(|folder| folder.join(self.file));
        paths.find(|path| path.is_file()).ok_or_else(|| Error::NoImageNet {
            file: self.file,
            url: self.url(),
            folders: folders.to_vec(),
        })
    }
}

/// Where PyTorch itself keeps the files that it has downloaded: `$TORCH_HOME`, else `$XDG_CACHE_HOME/torch`, else
/// `~/.cache/torch`, and there `hub/checkpoints`.
pub fn torch_folders(variable: impl Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let home = variable("TORCH_HOME").or_else(|| Some(cache()?.join("torch")));
    home.into_iter().map(|home| home.join("hub/checkpoints")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_says_what_to_download_and_where_to_put_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let folders = [PathBuf::from("weights"), folder.path().to_owned()];
        let wanted = ImageNet { file: "resnet34-b627a593.pth" };
        let error = wanted.find(&folders).expect_err("no such file").to_string();
        assert!(error.contains("https://download.pytorch.org/models/resnet34-b627a593.pth"), "{error}");
        assert!(error.contains(&format!("`weights`, `{}`", folder.path().display())), "{error}");

        let file = folder.path().join(wanted.file);
        std::fs::write(&file, "").expect("written");
        assert_eq!(wanted.find(&folders).expect("the file"), file);
    }

    #[test]
    fn folders_are_those_of_pytorch() {
        let folders = |set: &[(&str, &str)]| {
            torch_folders(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| PathBuf::from(value)))
        };
        assert_eq!(folders(&[("HOME", "/h")]), [PathBuf::from("/h/.cache/torch/hub/checkpoints")]);
        assert_eq!(folders(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c")]), [PathBuf::from("/c/torch/hub/checkpoints")]);
        assert_eq!(folders(&[("HOME", "/h"), ("TORCH_HOME", "/t")]), [PathBuf::from("/t/hub/checkpoints")]);
        assert_eq!(folders(&[]), [] as [PathBuf; 0]);
    }
}
