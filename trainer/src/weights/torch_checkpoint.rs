//! Reads the files that Python's `torch.save` writes, the zip archives of PyTorch 1.6 and later and the older plain form
//! (the first published BERT, RoBERTa and T5 checkpoints), without Python and without executing anything.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor};

use super::pickle::{self, Item, Storage, View};
use crate::torch::Params;

/// `0x1950a86a20f9469cfc6c`, with which the older form begins.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// Dictionaries inside which training programs keep the weights, beside the state of the optimiser and other things.
const WEIGHTS_KEYS: [&str; 3] = ["model", "state_dict", "model_state_dict"];

/// All tensors of the state dict in a file, by their names. When the file holds a dictionary with `model` or `state_dict`
/// in it, those are meant. Tensors of optimisers and the like are not read.
pub fn read(path: &Path) -> Result<Params> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| {
        format!("cannot read {} as a PyTorch checkpoint (torch.save) with a state dict", path.display())
    })
}

fn parse(bytes: &[u8]) -> Result<Params> {
    let mut file = if bytes.starts_with(b"PK") { archive(bytes)? } else { plain(bytes)? };
    let mut found = Params::new();
    for (name, view) in views(&file.root)? {
        let tensor = file.tensor(&view).with_context(|| format!("in the tensor {name}"))?;
        found.insert(name, tensor);
    }
    ensure!(!found.is_empty(), "there is no tensor in it");
    Ok(found)
}

type ReadStorage<'a> = Box<dyn FnMut(&str) -> Result<Vec<u8>> + 'a>;

/// A checkpoint whose numbers are decoded when they are asked for.
struct File<'a> {
    root: Item,
    /// Reads the bytes of a storage by its key.
    storage: ReadStorage<'a>,
    decoded: BTreeMap<String, Tensor>,
}

impl File<'_> {
    fn tensor(&mut self, view: &View) -> Result<Tensor> {
        let Storage { class, key } = &view.storage;
        if !self.decoded.contains_key(key) {
            let kind = kind(class)?;
            let bytes = (self.storage)(key)?;
            let count = bytes.len() / kind.elt_size_in_bytes();
            self.decoded.insert(key.clone(), Tensor::from_data_size(&bytes, &[count as i64], kind));
        }
        let flat = &self.decoded[key];
        let steps = view.size.iter().zip(&view.stride);
        let valid =
            view.size.len() == view.stride.len() && view.offset >= 0 && steps.clone().all(|(n, s)| *n >= 0 && *s >= 0);
        ensure!(valid, "size {:?}, stride {:?}, offset {}", view.size, view.stride, view.offset);
        let last = steps.map(|(n, s)| (n - 1).max(0).saturating_mul(*s)).fold(view.offset, i64::saturating_add);
        let empty = view.size.contains(&0);
        ensure!(empty || last < flat.size()[0], "it reaches element {last} of {} that are stored", flat.size()[0]);
        if empty {
            return Ok(Tensor::zeros(view.size.as_slice(), (flat.kind(), tch::Device::Cpu)));
        }
        Ok(flat.f_as_strided(&view.size, &view.stride, view.offset)?.copy())
    }
}

/// The zip form: `NAME/data.pkl`, `NAME/data/KEY`, `NAME/byteorder`.
fn archive(bytes: &[u8]) -> Result<File<'_>> {
    let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).context("the zip archive is damaged")?;
    let ends = |name: &&str| *name == "data.pkl" || name.ends_with("/data.pkl");
    let pickle = zip.file_names().find(ends).map(String::from).context("the archive holds no data.pkl")?;
    let folder = pickle.strip_suffix("data.pkl").expect("it was found by this ending").to_string();
    let mut entry = move |name: &str| -> Result<Vec<u8>> {
        let mut file = zip.by_name(name).with_context(|| format!("the archive holds no {name}"))?;
        let mut out = vec![];
        file.read_to_end(&mut out).with_context(|| format!("the archive is damaged at {name}"))?;
        Ok(out)
    };
    if let Ok(order) = entry(&format!("{folder}byteorder")) {
        ensure!(order == b"little", "its numbers are big-endian; save it again on a little-endian machine");
    }
    let (root, _) = pickle::read(&entry(&pickle)?)?;
    let storage = Box::new(move |key: &str| entry(&format!("{folder}data/{key}")));
    Ok(File { root, storage, decoded: BTreeMap::new() })
}

/// The older form: five pickles (magic number, version, system, the object, storage keys), then each storage as its count
/// of elements and its numbers.
fn plain(bytes: &[u8]) -> Result<File<'_>> {
    let mut at = 0;
    let mut next = || -> Result<Item> {
        let (item, length) = pickle::read(&bytes[at..])?;
        at += length;
        Ok(item)
    };
    match next() {
        Ok(Item::Long(magic)) if magic == MAGIC => {}
        _ => bail!("it is neither a zip archive nor does it begin with the magic number of older PyTorch"),
    }
    let (_version, _system, root, keys) = (next()?, next()?, next()?, next()?);
    let Item::List(keys) = keys else { bail!("the list of storages is missing") };
    let widths = element_widths(&root);
    let mut places = BTreeMap::new();
    for key in keys.borrow().iter() {
        let Item::Text(key) = key else { bail!("a storage has no key") };
        let header = bytes.get(at..at + 8).context("it is cut off before a storage")?;
        let count = u64::from_le_bytes(header.try_into().expect("eight bytes were taken"));
        // A storage that only the optimiser's tensors name is stepped over by the width its class says.
        let width = *widths.get(key).with_context(|| format!("nothing says what the storage {key} holds"))?;
        let length = usize::try_from(count)?.checked_mul(width).context("a storage is too long")?;
        let end = (at + 8).checked_add(length).filter(|end| *end <= bytes.len());
        places.insert(key.clone(), at + 8..end.context("it is cut off inside a storage")?);
        at = places[key].end;
    }
    let storage = Box::new(move |key: &str| {
        let place = places.get(key).with_context(|| format!("there is no storage {key}"))?;
        Ok(bytes[place.clone()].to_vec())
    });
    Ok(File { root, storage, decoded: BTreeMap::new() })
}

/// Bytes an element of every storage that is named anywhere in `root`.
fn element_widths(root: &Item) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let mut todo = vec![root.clone()];
    while let Some(item) = todo.pop() {
        match item {
            Item::Tensor(View { storage, .. }) | Item::Storage(storage) => {
                if let Ok(kind) = kind(&storage.class) {
                    found.insert(storage.key, kind.elt_size_in_bytes());
                }
            }
            Item::Tuple(items) => todo.extend(items),
            Item::List(items) => todo.extend(items.borrow().iter().cloned()),
            Item::Dict(pairs) => todo.extend(pairs.borrow().iter().map(|(_, value)| value.clone())),
            _ => {}
        }
    }
    found
}

/// Tensors of the state dict, with the names of nested dictionaries joined by dots.
fn views(root: &Item) -> Result<Vec<(String, View)>> {
    let Item::Dict(dict) = root else { bail!("it holds no dictionary") };
    let inner = dict.borrow().iter().find_map(|(key, value)| match (key, value) {
        (Item::Text(key), Item::Dict(inner)) if WEIGHTS_KEYS.contains(&key.as_str()) => Some(inner.clone()),
        _ => None,
    });
    let mut found = vec![];
    collect("", &inner.unwrap_or_else(|| dict.clone()), &mut found);
    Ok(found)
}

fn collect(path: &str, dict: &pickle::Shared<(Item, Item)>, found: &mut Vec<(String, View)>) {
    for (key, value) in dict.borrow().iter() {
        let Item::Text(key) = key else { continue };
        let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value {
            Item::Tensor(view) => found.push((name, view.clone())),
            Item::Dict(inner) => collect(&name, inner, found),
            _ => {}
        }
    }
}

fn kind(class: &str) -> Result<Kind> {
    Ok(match class {
        "FloatStorage" => Kind::Float,
        "DoubleStorage" => Kind::Double,
        "HalfStorage" => Kind::Half,
        "BFloat16Storage" => Kind::BFloat16,
        "LongStorage" => Kind::Int64,
        "IntStorage" => Kind::Int,
        "ShortStorage" => Kind::Int16,
        "CharStorage" => Kind::Int8,
        "ByteStorage" => Kind::Uint8,
        "BoolStorage" => Kind::Bool,
        other => bail!("a storage of the unknown class {other}"),
    })
}
