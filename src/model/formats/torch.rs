//! Files of PyTorch: state dicts and TorchScript archives (zip), and state dicts of PyTorch before 1.6.

use std::collections::{HashMap, HashSet};
use std::io::{Cursor, Read};
use std::rc::Rc;

use half::{bf16, f16};
use serde_json::{Value as Json, json};

use super::pickle::{self, ElementType, Pickle, Tensor, Value};

/// Named single-precision tensors in the order of their file.
pub type NamedTensors = Vec<(String, (Vec<usize>, Vec<f32>))>;

/// How the first pickle of an old file begins and what it says: 0x1950a86a20f9469cfc6c.
const OLD_START: &[u8] = &[0x80, 2, 0x8a, 10];
const OLD_MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The version that follows it.
const OLD_VERSION: i64 = 1001;
/// Deepest nesting of dictionaries and modules.
const MOST_LEVELS: usize = 64;
/// Largest storage, in bytes, that is read: no network for brains comes near.
const MOST_BYTES: u64 = 4 << 30;

/// Whether a file is one of PyTorch's by its first bytes.
pub(super) fn is_torch(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(OLD_START)
}

/// The tensors of floating-point numbers that are wanted, in the order of the file, under the names of their dictionaries and
/// modules joined by points.
///
/// # Errors
/// A damaged file, or one that holds or calls anything else.
pub(super) fn read(bytes: &[u8], wanted: &dyn Fn(&str) -> bool) -> Result<NamedTensors, String> {
    let mut file = File::open(bytes)?;
    let mut found = Found { seen: HashSet::new(), tensors: Vec::new() };
    found.walk(&file.pickle.root, &mut Vec::new())?;
    let mut tensors = NamedTensors::new();
    for (name, tensor) in found.tensors {
        if matches!(tensor.storage.element, ElementType::Other(_)) || !wanted(&name) {
            continue;
        }
        let storage = file
            .storage(&tensor.storage.key)?
            .ok_or_else(|| format!("lacks the storage '{}' of tensor '{name}'", tensor.storage.key))?;
        let values =
            values(&tensor, storage).ok_or_else(|| format!("has too few values for tensor '{name}'"))?;
        tensors.push((name, (tensor.shape.clone(), values)));
    }
    Ok(tensors)
}

/// What a file says beside its tensors: its dictionaries, lists, texts and numbers, with nothing in the place of all else.
///
/// # Errors
/// As [`read`].
pub(super) fn facts(bytes: &[u8]) -> Result<Json, String> {
    let mut left = MOST_FACTS;
    json_of(&File::open(bytes)?.pickle.root, 0, &mut left)
}

/// Most values that [`facts`] gives: a list may hold another many times.
const MOST_FACTS: usize = 1 << 18;

fn json_of(value: &Value, level: usize, left: &mut usize) -> Result<Json, String> {
    if level > MOST_LEVELS || *left == 0 {
        return Err("says more beside its tensors than any network".into());
    }
    *left -= 1;
    let mut list = |items: &[Value]| -> Result<Json, String> {
        Ok(Json::Array(items.iter().map(|item| json_of(item, level + 1, left)).collect::<Result<_, _>>()?))
    };
    Ok(match value {
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!(value),
        Value::Text(text) => json!(text.as_ref()),
        Value::Tuple(items) => list(items)?,
        Value::List(items) => list(&items.borrow())?,
        Value::Dict(entries) => {
            let mut object = serde_json::Map::new();
            for (key, value) in entries.borrow().iter() {
                if let Some(key) = key_of(key) {
                    object.insert(key, json_of(value, level + 1, left)?);
                }
            }
            Json::Object(object)
        }
        Value::None
        | Value::Long(_)
        | Value::Storage(_)
        | Value::Tensor(_)
        | Value::Unmade
        | Value::Known(_) => Json::Null,
    })
}

/// Bytes of each storage by its key.
type Storages = HashMap<String, Vec<u8>>;

/// A file of PyTorch: what its pickle says, and where the numbers lie.
struct File<'a> {
    pickle: Pickle,
    /// The storages that have been read.
    storages: Storages,
    /// The archive that holds the others, and the folder that they lie in.
    archive: Option<(Archive<'a>, String)>,
}

type Archive<'a> = zip::ZipArchive<Cursor<&'a [u8]>>;

impl<'a> File<'a> {
    fn open(bytes: &'a [u8]) -> Result<Self, String> {
        if bytes.starts_with(b"PK") {
            return read_zip(bytes);
        }
        let (pickle, storages) = read_old(bytes)?;
        Ok(Self { pickle, storages, archive: None })
    }

    fn storage(&mut self, key: &str) -> Result<Option<&[u8]>, String> {
        if let (false, Some((archive, folder))) = (self.storages.contains_key(key), &mut self.archive) {
            let name = format!("{folder}{key}");
            if archive.index_for_name(&name).is_some() {
                self.storages.insert(key.to_owned(), member(archive, &name)?);
            }
        }
        Ok(self.storages.get(key).map(Vec::as_slice))
    }
}

fn damaged(e: &dyn std::fmt::Display) -> String {
    format!("is a damaged zip archive ({e}); get it again")
}

fn member(archive: &mut Archive<'_>, name: &str) -> Result<Vec<u8>, String> {
    let file = archive.by_name(name).map_err(|e| damaged(&e))?;
    if file.size() > MOST_BYTES {
        return Err(format!("holds '{name}' of {} bytes, more than any network", file.size()));
    }
    let mut content = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut content).map_err(|e| damaged(&e))?;
    Ok(content)
}

fn read_zip(bytes: &[u8]) -> Result<File<'_>, String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| damaged(&e))?;
    let names = (archive.file_names())
        .map(|name| Ok(name.map_err(|e| damaged(&e))?.into_owned()))
        .collect::<Result<Vec<String>, String>>()?;
    let root = names.iter().find_map(|name| match name.strip_suffix("data.pkl")? {
        root if root.is_empty() || root.ends_with('/') => Some(root.to_owned()),
        _ => None,
    });
    let root = root.ok_or("is a zip archive without data.pkl; PyTorch's files have one")?;
    let order = format!("{root}byteorder");
    if names.contains(&order) && member(&mut archive, &order)? != b"little" {
        return Err(
            "stores its numbers with the highest byte first; save it again on a common computer".into()
        );
    }
    let pickle = pickle::read(&member(&mut archive, &format!("{root}data.pkl"))?)?;
    Ok(File { pickle, storages: Storages::new(), archive: Some((archive, format!("{root}data/"))) })
}

fn read_old(bytes: &[u8]) -> Result<(Pickle, Storages), String> {
    let mut at = 0;
    let next = |at: &mut usize| -> Result<Pickle, String> {
        let pickle = pickle::read(&bytes[*at..])?;
        *at += pickle.length;
        Ok(pickle)
    };
    match (next(&mut at)?.root, next(&mut at)?.root) {
        (Value::Long(magic), Value::Int(OLD_VERSION)) if magic == OLD_MAGIC => {}
        _ => return Err("is a pickle, but none of PyTorch's".into()),
    }
    let system = next(&mut at)?;
    let Value::Dict(system) = &system.root else { return Err("does not say how it stores numbers".into()) };
    for (key, value) in system.borrow().iter() {
        if let (Value::Text(key), Value::Bool(false)) = (key, value)
            && key.as_ref() == "little_endian"
        {
            return Err(
                "stores its numbers with the highest byte first; save it again on a common computer".into()
            );
        }
    }
    let pickle = next(&mut at)?;
    let keys = next(&mut at)?;
    let Value::List(keys) = &keys.root else { return Err("does not list its storages".into()) };
    let mut elements = HashMap::new();
    let mut found = Found { seen: HashSet::new(), tensors: Vec::new() };
    found.walk(&pickle.root, &mut Vec::new())?;
    for (_, tensor) in &found.tensors {
        elements.insert(tensor.storage.key.to_string(), tensor.storage.element);
    }
    let mut storages = Storages::new();
    for key in keys.borrow().iter() {
        let Value::Text(key) = key else { return Err("names a storage by something that is no text".into()) };
        let element =
            elements.get(key.as_ref()).ok_or_else(|| format!("stores '{key}', which no tensor uses"))?;
        let ends = || "ends in the middle of a storage".to_owned();
        let count = bytes.get(at..at + 8).ok_or_else(ends)?;
        let count = u64::from_le_bytes(count.try_into().expect("eight bytes"));
        at += 8;
        let n = usize::try_from(count).ok().and_then(|n| n.checked_mul(element.bytes())).ok_or_else(ends)?;
        let end = at.checked_add(n).ok_or_else(ends)?;
        storages.insert(key.to_string(), bytes.get(at..end).ok_or_else(ends)?.to_vec());
        at = end;
    }
    Ok((pickle, storages))
}

/// A dictionary's key as text.
fn key_of(key: &Value) -> Option<String> {
    match key {
        Value::Text(key) => Some(key.to_string()),
        Value::Int(key) => Some(key.to_string()),
        _ => None,
    }
}

/// Tensors on the way through dictionaries and modules.
struct Found {
    /// Dictionaries that the walk is in or has seen: a file may mention one twice, or within itself.
    seen: HashSet<*const ()>,
    tensors: Vec<(String, Rc<Tensor>)>,
}

impl Found {
    fn walk(&mut self, value: &Value, path: &mut Vec<String>) -> Result<(), String> {
        if path.len() > MOST_LEVELS {
            return Err("nests its dictionaries deeper than any network".into());
        }
        match value {
            Value::Tensor(tensor) => self.tensors.push((path.join("."), Rc::clone(tensor))),
            Value::Dict(entries) if self.seen.insert(Rc::as_ptr(entries).cast()) => {
                for (key, value) in entries.borrow().iter() {
                    let Some(key) = key_of(key) else { continue };
                    path.push(key);
                    self.walk(value, path)?;
                    path.pop();
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// The elements of a tensor in the order of its axes; `None` where the storage ends before.
fn values(tensor: &Tensor, storage: &[u8]) -> Option<Vec<f32>> {
    let count = tensor.shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))?;
    let size = tensor.storage.element.bytes();
    // Not a value more than are stored, however a file repeats them by strides of 0.
    if count > storage.len() / size {
        return None;
    }
    (0..count)
        .map(|ix| {
            let (mut rest, mut at) = (ix, tensor.offset);
            for (extent, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
                at = at.checked_add((rest % extent).checked_mul(*stride)?)?;
                rest /= extent;
            }
            let start = at.checked_mul(size)?;
            let bytes = storage.get(start..start.checked_add(size)?)?;
            Some(match tensor.storage.element {
                ElementType::F16 => bytemuck::pod_read_unaligned::<f16>(bytes).to_f32(),
                ElementType::BF16 => bytemuck::pod_read_unaligned::<bf16>(bytes).to_f32(),
                ElementType::F32 => bytemuck::pod_read_unaligned(bytes),
                ElementType::F64 => bytemuck::pod_read_unaligned::<f64>(bytes) as f32,
                ElementType::Other(_) => return None,
            })
        })
        .collect()
}
