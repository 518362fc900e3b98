//! Weights to and from files: safetensors, and what `torch.save` writes, which is read without executing its pickles.
//!
//! A tensor's name is its path through the network's fields, which are named as in PyTorch.
//!
//! Names and shapes are compared before any number is read, so that all that is wrong is told at once, and a file
//! cannot make the program allocate more than the network needs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Shape, Tensor, TensorData};
use burn_store::burn_pack::Tensor as Stored;
use burn_store::pytorch_reader::PytorchReader;
use burn_store::{FloatCastAdapter, ModuleSnapshot, ModuleStore, SafetensorsStore, bridge};

use crate::error::{Error, Misfit, Reshaped};
use crate::inflate;

/// Channels of a first layer that is made fit for others.
const MOST_CHANNELS: usize = 1024;
/// Batches that a `BatchNorm2d` has seen: PyTorch counts them, and uses the count in no network here.
const UNUSED: &str = ".num_batches_tracked";

/// A file of weights, opened: its names and shapes are known, its numbers are read when a network takes them.
pub struct Weights {
    path: PathBuf,
    tensors: BTreeMap<String, Stored>,
}

impl Weights {
    /// Opens a safetensors or PyTorch file; its content says which it is.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let broken = |source| Error::Broken { path: path.to_owned(), source };
        let tensors = if is_safetensors(path).map_err(|source| Error::Read { path: path.to_owned(), source })? {
            let mut store = SafetensorsStore::from_file(path);
            store.get_all_tensors().map_err(|source| broken(source.into()))?.clone()
        } else {
            let reader = PytorchReader::new(path).map_err(|source| broken(source.into()))?;
            let tensors = reader.into_tensors().into_values().map(bridge::from_pytorch);
            tensors.map(|tensor| (tensor.name.clone(), tensor)).collect()
        };
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// Names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The network with these weights, which must be exactly its own.
    pub fn load<M: Module>(&self, network: M) -> Result<M, Error> {
        let slots = slots(&network);
        let given = self.given(&slots)?;
        self.fill(network, &slots, given)
    }

    /// The network with these weights, of which `first`, the weight of its first convolution, is inflated to the
    /// network's channels. What begins with `head` is left: in the file, and in the network as it is.
    pub fn transfer<M: Module>(&self, network: M, first: &str, head: &str) -> Result<M, Error> {
        let mut slots = slots(&network);
        slots.retain(|name, _| !name.starts_with(head));
        let mut given = self.given(&slots)?;
        given.retain(|name, _| !name.starts_with(head));
        if let (Some(wanted), Some(found)) = (slots.get(first), given.get(first))
            && let Some(inflated) = self.inflated(found, wanted)?
        {
            given.insert(first.to_owned(), inflated);
        }
        self.fill(network, &slots, given)
    }

    /// Names of the tensors that are none of `slots`, nor of a layer whose name begins with `head`.
    pub(crate) fn beyond(&self, slots: &BTreeMap<String, Shape>, head: &str) -> Result<Vec<String>, Error> {
        let root = self.root(slots)?;
        let known = |name: &str| {
            let slot = name.strip_prefix(root);
            name.ends_with(UNUSED) || slot.is_some_and(|slot| slots.contains_key(slot) || slot.starts_with(head))
        };
        Ok(self.names().filter(|name| !known(name)).map(str::to_owned).collect())
    }

    /// The tensors that are meant for these slots, by the names that they have there.
    fn given(&self, slots: &BTreeMap<String, Shape>) -> Result<BTreeMap<String, Stored>, Error> {
        let root = self.root(slots)?;
        let below = self.tensors.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(root)?, tensor)));
        let below = below.filter(|(name, _)| !name.ends_with(UNUSED));
        let named = below.map(|(name, tensor)| {
            let mut tensor = tensor.clone();
            name.clone_into(&mut tensor.name);
            (name.to_owned(), tensor)
        });
        Ok(named.collect())
    }

    /// What the names of the tensors begin with that are meant for these slots.
    ///
    /// A checkpoint often holds the weights below a name of its own (`state_dict.`, `model.`, `module.`), beside the
    /// optimizer's state and more. The weights are below the name that has most of what is looked for.
    fn root(&self, slots: &BTreeMap<String, Shape>) -> Result<&str, Error> {
        let mut roots: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, slot) in self.names().flat_map(|name| endings(name).map(move |slot| (name, slot))) {
            if slots.contains_key(slot) {
                *roots.entry(&name[..name.len() - slot.len()]).or_default() += 1;
            }
        }
        let most = roots.values().copied().max().unwrap_or(0);
        let best: Vec<&str> = roots.into_iter().filter(|(_, count)| *count == most).map(|(root, _)| root).collect();
        match best[..] {
            [] => Ok(""),
            [root] => Ok(root),
            _ => {
                let below = best.into_iter().map(|root| root.trim_end_matches('.').to_owned()).collect();
                Err(Error::Several { path: self.path.clone(), below })
            }
        }
    }

    fn fill<M: Module>(
        &self,
        mut network: M,
        slots: &BTreeMap<String, Shape>,
        given: BTreeMap<String, Stored>,
    ) -> Result<M, Error> {
        let misfit = compare(slots, &given);
        if !misfit.is_empty() {
            return Err(Error::Misfit { path: self.path.clone(), misfit });
        }
        let single = Box::new(FloatCastAdapter::to(DType::F32));
        let applied = network.apply(given.into_values().collect(), None, Some(single), true);
        match applied.errors.into_iter().next() {
            Some(error) => Err(self.broken(error)),
            None => Ok(network),
        }
    }

    /// `found` with the input channels of `wanted`; nothing when it has them, or is another layer altogether.
    fn inflated(&self, found: &Stored, wanted: &Shape) -> Result<Option<Stored>, Error> {
        let (&[to, from, height, width], &[_, channels, ..]) = (found.shape.as_slice(), wanted.as_slice()) else {
            return Ok(None);
        };
        let mut inflated = found.shape.clone();
        inflated[1] = channels;
        // No sensor has more bands, and a file that says so is not read into memory.
        let sensible = (1..=MOST_CHANNELS).contains(&from);
        if channels == from || inflated != *wanted || !found.dtype.is_float() || !sensible {
            return Ok(None);
        }
        let weight = bridge::to_data(found).map_err(|source| self.broken(source))?.convert::<f32>();
        let weight = weight.as_slice::<f32>().map_err(|source| self.broken(source))?;
        let weight = inflate(weight, [to, from, height, width], channels);
        Ok(Some(bridge::from_data(TensorData::new(weight, inflated), found.name.clone(), None)))
    }

    fn broken(&self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        Error::Broken { path: self.path.clone(), source: source.into() }
    }
}

/// Writes a network's weights as safetensors under PyTorch's names.
///
/// The file appears whole or not at all. Statistics of `BatchNorm2d` are those of the last batch, which the network
/// itself takes over a batch later.
pub(crate) fn save<M: Module>(network: &M, path: &Path) -> Result<(), Error> {
    let store = SafetensorsStore::from_file(path).overwrite(true).skip_enum_variants(true);
    // Of several entries the order is left to chance, and equal weights shall be equal files.
    let mut store = store.clear_metadata().metadata("format", "pt");
    let saved = store.collect_from(&network.valid());
    saved.map_err(|source| Error::Write { path: path.to_owned(), source: source.into() })
}

/// A safetensors file begins with the length of its header, a JSON object.
fn is_safetensors(path: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(path)?.take(9).read_to_end(&mut start)?;
    let named = path.extension().is_some_and(|extension| extension == "safetensors");
    Ok(named || start.get(8) == Some(&b'{'))
}

/// The name, and what is left of it when its first fields are taken away one after the other.
fn endings(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, rest)| rest))
}

fn compare(slots: &BTreeMap<String, Shape>, given: &BTreeMap<String, Stored>) -> Misfit {
    let mut misfit = Misfit {
        missing: slots.keys().filter(|name| !given.contains_key(*name)).cloned().collect(),
        ..Misfit::default()
    };
    for (name, tensor) in given {
        match slots.get(name) {
            None => misfit.unexpected.push(name.clone()),
            Some(_) if !tensor.dtype.is_float() => misfit.not_numbers.push(name.clone()),
            Some(wanted) if *wanted != tensor.shape => misfit.reshaped.push(Reshaped {
                name: name.clone(),
                wanted: wanted.clone(),
                found: tensor.shape.clone(),
            }),
            Some(_) => {}
        }
    }
    misfit
}

/// The tensors of a network, by PyTorch's names.
pub(crate) fn slots<M: Module>(network: &M) -> BTreeMap<String, Shape> {
    let mut slots = Slots::default();
    network.visit(&mut slots);
    slots.found
}

#[derive(Default)]
struct Slots {
    found: BTreeMap<String, Shape>,
    path: Vec<String>,
}

impl ModuleVisitor for Slots {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found.insert(self.path.join("."), param.lazy_shape());
    }
}
