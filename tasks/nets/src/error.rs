//! What can be wrong with a network or its weights.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::Shape;

/// A network that cannot be made, or weights that cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting of a network is out of bounds.
    #[error("`{setting}` of a network is {value}, which must be {must}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What it is.
        value: usize,
        /// What it must be.
        must: &'static str,
    },

    /// A file of weights cannot be opened.
    #[error("the weights `{}` cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },

    /// A file is not weights, or is damaged.
    #[error("`{}` is neither a whole safetensors file nor a whole PyTorch file of weights: {source}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What its reader says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// A file holds several sets of weights for the network.
    #[error("`{}` holds weights for this network more than once, below {}: keep one of them", path.display(), list(below))]
    Several {
        /// The file.
        path: PathBuf,
        /// What the names in each set begin with.
        below: Vec<String>,
    },

    /// The weights are another network's.
    #[error("the weights `{}` do not fit this network: {misfit}", path.display())]
    Misfit {
        /// The file.
        path: PathBuf,
        /// All that does not fit.
        misfit: Misfit,
    },

    /// Weights cannot be written.
    #[error("the weights `{}` cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What its writer says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },

    /// ImageNet's weights are wanted, and the user does not have the file.
    #[error(
        "the ImageNet weights `{file}` were not found in {}: download {url} into one of these folders",
        list(folders.iter().map(|folder| folder.display()))
    )]
    NoImageNet {
        /// Name of the file.
        file: &'static str,
        /// Where it is to be had.
        url: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },

    /// ImageNet's weights are wanted for a network that has none.
    #[error(
        "there are no ImageNet weights for this network: they are for `resnet18`, `resnet34` and `resnet50` of width 64, \
         and for `convnext`"
    )]
    NotPublished,
}

/// How weights and a network differ. Names are PyTorch's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// The network has them, the file does not.
    pub missing: Vec<String>,
    /// The file has them, the network does not.
    pub unexpected: Vec<String>,
    /// Both have them, in different shapes.
    pub reshaped: Vec<Reshaped>,
    /// The file has them as something else than floating-point numbers.
    pub not_numbers: Vec<String>,
}

/// A tensor whose shape is not the one that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reshaped {
    /// Its name.
    pub name: String,
    /// Its shape in the network.
    pub wanted: Shape,
    /// Its shape in the file.
    pub found: Shape,
}

impl Misfit {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let mut tell = |what: &str, names: &[String]| {
            if !names.is_empty() {
                parts.push(format!("{} {what} ({})", names.len(), list(names)));
            }
        };
        tell("missing", &self.missing);
        tell("unexpected", &self.unexpected);
        tell("of no floating-point type", &self.not_numbers);
        if !self.reshaped.is_empty() {
            let shapes = self.reshaped.iter().map(|Reshaped { name, wanted, found }| {
                format!("`{name}` is {:?}, must be {:?}", found.as_slice(), wanted.as_slice())
            });
            parts.push(format!("{} of another shape ({})", shapes.len(), shapes.collect::<Vec<_>>().join(", ")));
        }
        f.write_str(&parts.join("; "))
    }
}

fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ")
}
