//! Python's pickle format, as far as tensors need it: containers, numbers, text, storages and tensors.
//!
//! A pickle is a program that may name any function of Python and call it. Nothing is called here: a handful of names stand for
//! values that this file knows how to make, and a pickle that mentions any other is refused with that name.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Entries of a dictionary, or attributes of a module, in the order of the file.
pub(super) type Entries = Rc<RefCell<Vec<(Value, Value)>>>;

/// A value in a pickle.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer of more than 64 bits, least byte first.
    Long(Vec<u8>),
    Float(f64),
    Text(Rc<str>),
    Tuple(Rc<[Value]>),
    List(Rc<RefCell<Vec<Value>>>),
    /// A dictionary, or a module of TorchScript with its attributes.
    Dict(Entries),
    Storage(Rc<Storage>),
    Tensor(Rc<Tensor>),
    /// An object that nothing here asks for and that is not made: a number or an array of NumPy, a device.
    Unmade,
    /// A class or function that may be named.
    Known(Known),
}

/// The names that may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    OrderedDict,
    /// A module of TorchScript.
    Module,
    RebuildTensor,
    RebuildParameter,
    Size,
    StorageType(ElementType),
    /// What makes objects that checkpoints keep beside their weights. It is not called: the result is [`Value::Unmade`].
    Unneeded,
}

/// Types of a storage's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ElementType {
    F16,
    BF16,
    F32,
    F64,
    /// Integers and truth values of so many bytes: counters beside the weights.
    Other(usize),
}

impl ElementType {
    pub fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
            Self::Other(bytes) => bytes,
        }
    }

    fn of(class: &str) -> Option<Self> {
        Some(match class {
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "FloatStorage" => Self::F32,
            "DoubleStorage" => Self::F64,
            "BoolStorage" | "ByteStorage" | "CharStorage" => Self::Other(1),
            "ShortStorage" => Self::Other(2),
            "IntStorage" => Self::Other(4),
            "LongStorage" => Self::Other(8),
            _ => return None,
        })
    }
}

/// A run of elements that is stored elsewhere in the file.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub key: Rc<str>,
    pub element: ElementType,
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub storage: Rc<Storage>,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

impl Known {
    fn of(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", "Size") => Some(Self::Size),
            ("torch", "device") | ("_codecs", "encode") | ("numpy", "dtype" | "ndarray") => {
                Some(Self::Unneeded)
            }
            ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar" | "_reconstruct") => {
                Some(Self::Unneeded)
            }
            ("torch" | "torch.storage", class) => ElementType::of(class).map(Self::StorageType),
            _ if module == "__torch__" || module.starts_with("__torch__.") => Some(Self::Module),
            _ => None,
        }
    }
}

/// Most values on the stack, in the memo and of containers together: a file of a network holds some thousand.
const MOST_VALUES: usize = 1 << 21;

/// The value of a pickle.
pub(super) struct Pickle {
    pub root: Value,
    /// Bytes that it was read from.
    pub length: usize,
    /// Held for its drop.
    _made: Made,
}

/// Reads one pickle from the start of `bytes`.
///
/// # Errors
/// A truncated or malformed pickle, or one that names or calls anything but what tensors need.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        made: Made::default(),
    };
    let root = machine.run()?;
    Ok(Pickle { root, length: machine.at, _made: machine.made })
}

/// All containers of a pickle in the order in which they were made. They may hold each other as deep as the file is long, or
/// within themselves: dropped one within the other they would overflow the stack, or stay for good.
#[derive(Default)]
struct Made(Vec<Value>);

impl Drop for Made {
    fn drop(&mut self) {
        for container in &self.0 {
            match container {
                Value::List(items) => items.borrow_mut().clear(),
                Value::Dict(entries) => entries.borrow_mut().clear(),
                _ => {}
            }
        }
        // A tuple holds only what was made before it.
        while self.0.pop().is_some() {}
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// After all that holds values: fields are dropped in this order.
    made: Made,
}

fn text(value: &Value) -> Result<&str, String> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(format!("has {} where text should be", kind(other))),
    }
}

fn index(value: &Value) -> Result<usize, String> {
    match value {
        Value::Int(n) => usize::try_from(*n).map_err(|_| format!("has {n} where a count should be")),
        other => Err(format!("has {} where a count should be", kind(other))),
    }
}

fn indices(value: &Value) -> Result<Vec<usize>, String> {
    match value {
        Value::Tuple(items) => items.iter().map(index).collect(),
        other => Err(format!("has {} where a shape should be", kind(other))),
    }
}

/// What a value is, in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::None => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Int(_) | Value::Long(_) | Value::Float(_) => "a number",
        Value::Text(_) => "text",
        Value::Tuple(_) => "a tuple",
        Value::List(_) => "a list",
        Value::Dict(_) => "a dictionary",
        Value::Storage(_) => "a storage",
        Value::Tensor(_) => "a tensor",
        Value::Unmade => "an object",
        Value::Known(_) => "a class",
    }
}

impl Machine<'_> {
    fn take(&mut self, n: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or("ends in the middle of a pickle")?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// An unsigned number of `n` bytes, 8 at most.
    fn number(&mut self, n: usize) -> Result<u64, String> {
        let mut wide = [0; 8];
        wide[..n].copy_from_slice(self.take(n)?);
        Ok(u64::from_le_bytes(wide))
    }

    fn string(&mut self, length_bytes: usize) -> Result<Value, String> {
        let n = usize::try_from(self.number(length_bytes)?).map_err(|e| e.to_string())?;
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| "holds text that is not UTF-8")?;
        Ok(Value::Text(text.into()))
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.bytes[self.at..];
        let n = rest.iter().position(|&b| b == b'\n').ok_or("ends in the middle of a pickle")?;
        self.at += n + 1;
        Ok(String::from_utf8_lossy(&rest[..n]).into_owned())
    }

    fn push(&mut self, container: Value) {
        self.made.0.push(container.clone());
        self.stack.push(container);
    }

    fn pop(&mut self) -> Result<Value, String> {
        self.stack.pop().ok_or_else(|| "takes a value from an empty stack".to_owned())
    }

    fn top(&self) -> Result<&Value, String> {
        self.stack.last().ok_or_else(|| "reads a value from an empty stack".to_owned())
    }

    fn since_mark(&mut self) -> Result<Vec<Value>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or("lacks a mark")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, n: usize) -> Result<(), String> {
        let start = self.stack.len().checked_sub(n).ok_or("takes a value from an empty stack")?;
        let items = self.stack.split_off(start);
        self.push(Value::Tuple(items.into()));
        Ok(())
    }

    fn remember(&mut self, place: u64) -> Result<(), String> {
        let place = u32::try_from(place).map_err(|e| e.to_string())?;
        let value = self.top()?.clone();
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, place: u64) -> Result<(), String> {
        let known = u32::try_from(place).ok().and_then(|place| self.memo.get(&place));
        let value = known.cloned().ok_or_else(|| format!("recalls value {place}, which it never stored"))?;
        self.stack.push(value);
        Ok(())
    }

    fn name(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = Known::of(module, name).ok_or_else(|| {
            format!(
                "asks for Python's '{module}.{name}', which is not run here: only tensors and containers are read; \
                 if you trust the file, load it in PyTorch and save the state dict alone"
            )
        })?;
        self.stack.push(Value::Known(known));
        Ok(())
    }

    fn call(&mut self, function: &Value, arguments: &Value) -> Result<Value, String> {
        let Value::Tuple(arguments) = arguments else { return Err("calls without arguments".into()) };
        match (function, arguments.as_ref()) {
            (Value::Known(Known::OrderedDict), []) | (Value::Known(Known::Module), []) => {
                Ok(Value::Dict(Rc::default()))
            }
            (Value::Known(Known::OrderedDict), [Value::List(pairs)]) => {
                let pairs = pairs.borrow();
                let entries = pairs.iter().map(|pair| match pair {
                    Value::Tuple(pair) if pair.len() == 2 => Ok((pair[0].clone(), pair[1].clone())),
                    Value::List(pair) if pair.borrow().len() == 2 => {
                        Ok((pair.borrow()[0].clone(), pair.borrow()[1].clone()))
                    }
                    other => Err(format!("has {} where a pair should be", kind(other))),
                });
                Ok(Value::Dict(Rc::new(RefCell::new(entries.collect::<Result<_, _>>()?))))
            }
            (Value::Known(Known::RebuildTensor), [Value::Storage(storage), offset, shape, strides, ..]) => {
                let tensor = Tensor {
                    storage: Rc::clone(storage),
                    offset: index(offset)?,
                    shape: indices(shape)?,
                    strides: indices(strides)?,
                };
                if tensor.shape.len() != tensor.strides.len() {
                    return Err("has a tensor with more strides than extents, or fewer".into());
                }
                Ok(Value::Tensor(Rc::new(tensor)))
            }
            (Value::Known(Known::RebuildParameter), [tensor @ Value::Tensor(_), ..]) => Ok(tensor.clone()),
            (Value::Known(Known::Size), [sizes @ Value::Tuple(_)]) => Ok(sizes.clone()),
            (Value::Known(Known::Unneeded), _) => Ok(Value::Unmade),
            (Value::Known(known), _) => Err(format!("calls {known:?} with arguments that do not fit")),
            (other, _) => Err(format!("calls {}", kind(other))),
        }
    }

    /// The storage that a persistent identifier stands for: `('storage', type, key, location, elements)`, and in old files a
    /// sixth entry for views.
    fn storage(id: &Value) -> Result<Value, String> {
        let Value::Tuple(parts) = id else {
            return Err("has a persistent identifier of another kind".into());
        };
        match parts.as_ref() {
            [tag, Value::Known(Known::StorageType(element)), key, _, _, rest @ ..]
                if text(tag)? == "storage" && rest.iter().all(|v| matches!(v, Value::None)) =>
            {
                Ok(Value::Storage(Rc::new(Storage { key: text(key)?.into(), element: *element })))
            }
            _ => Err("has a persistent identifier of another kind".into()),
        }
    }

    fn entries(&self) -> Result<Entries, String> {
        match self.top()? {
            Value::Dict(entries) => Ok(Rc::clone(entries)),
            other => Err(format!("sets an entry of {}", kind(other))),
        }
    }

    fn append(&self, items: Vec<Value>) -> Result<(), String> {
        match self.top()? {
            Value::List(list) => list.borrow_mut().extend(items),
            other => return Err(format!("appends to {}", kind(other))),
        }
        Ok(())
    }

    fn set(&self, pairs: Vec<Value>) -> Result<(), String> {
        let entries = self.entries()?;
        let mut pairs = pairs.into_iter();
        while let (Some(key), Some(value)) = (pairs.next(), pairs.next()) {
            entries.borrow_mut().push((key, value));
        }
        Ok(())
    }

    /// What follows an object: the attributes of a module; those of a dictionary (PyTorch's versions) do not matter.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        match (self.top()?, state) {
            (Value::Dict(entries), Value::Dict(state)) if entries.borrow().is_empty() => {
                if !Rc::ptr_eq(entries, &state) {
                    entries.borrow_mut().extend(state.borrow().iter().cloned());
                }
                Ok(())
            }
            (Value::Dict(_), Value::Dict(_)) | (Value::Unmade, _) => Ok(()),
            (object, _) => Err(format!("gives {} a state", kind(object))),
        }
    }

    fn run(&mut self) -> Result<Value, String> {
        loop {
            if self.stack.len() + self.memo.len() + self.made.0.len() > MOST_VALUES {
                return Err("holds more values than a network has".into());
            }
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                0x80 => {
                    let version = self.number(1)?;
                    if version > 5 {
                        return Err(format!("is a pickle of the unknown version {version}"));
                    }
                }
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.since_mark()?),
                b'2' => self.stack.push(self.top()?.clone()),
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'J' => {
                    let bits = self.number(4)? as u32;
                    self.stack.push(Value::Int(bits.cast_signed().into()));
                }
                b'K' => self.push_count(1)?,
                b'M' => self.push_count(2)?,
                0x8a => {
                    let n = self.number(1)? as usize;
                    self.push_long(n)?;
                }
                b'G' => {
                    let bits = self.number(8)?.swap_bytes();
                    self.stack.push(Value::Float(f64::from_bits(bits)));
                }
                b'X' => self.push_text(4)?,
                0x8c => self.push_text(1)?,
                0x8d => self.push_text(8)?,
                b'U' => self.push_text(1)?,
                b'T' => self.push_text(4)?,
                b')' => self.tuple(0)?,
                0x85 => self.tuple(1)?,
                0x86 => self.tuple(2)?,
                0x87 => self.tuple(3)?,
                b't' => {
                    let items = self.since_mark()?;
                    self.push(Value::Tuple(items.into()));
                }
                b']' => self.push(Value::List(Rc::default())),
                b'l' => {
                    let items = self.since_mark()?;
                    self.push(Value::List(Rc::new(RefCell::new(items))));
                }
                b'}' => self.push(Value::Dict(Rc::default())),
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' => {
                    let items = self.since_mark()?;
                    self.append(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![key, value])?;
                }
                b'u' => {
                    let pairs = self.since_mark()?;
                    self.set(pairs)?;
                }
                b'q' => {
                    let place = self.number(1)?;
                    self.remember(place)?;
                }
                b'r' => {
                    let place = self.number(4)?;
                    self.remember(place)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' => {
                    let place = self.number(1)?;
                    self.recall(place)?;
                }
                b'j' => {
                    let place = self.number(4)?;
                    self.recall(place)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.name(&module, &name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    self.name(text(&module)?, text(&name)?)?;
                }
                b'R' | 0x81 => {
                    let (arguments, function) = (self.pop()?, self.pop()?);
                    let made = self.call(&function, &arguments)?;
                    self.push(made);
                }
                b'b' => self.build()?,
                b'Q' => {
                    let id = self.pop()?;
                    self.stack.push(Self::storage(&id)?);
                }
                other => {
                    return Err(format!("uses the pickle instruction 0x{other:02x}, which no tensor needs"));
                }
            }
        }
    }

    fn push_count(&mut self, bytes: usize) -> Result<(), String> {
        let count = self.number(bytes)?;
        self.stack.push(Value::Int(count.cast_signed()));
        Ok(())
    }

    fn push_text(&mut self, length_bytes: usize) -> Result<(), String> {
        let value = self.string(length_bytes)?;
        self.stack.push(value);
        Ok(())
    }

    fn push_long(&mut self, n: usize) -> Result<(), String> {
        let bytes = self.take(n)?;
        let value = match n {
            0 => Value::Int(0),
            1..=8 => {
                let fill = if bytes[n - 1] >= 0x80 { 0xff } else { 0 };
                let mut wide = [fill; 8];
                wide[..n].copy_from_slice(bytes);
                Value::Int(i64::from_le_bytes(wide))
            }
            _ => Value::Long(bytes.to_vec()),
        };
        self.stack.push(value);
        Ok(())
    }
}
