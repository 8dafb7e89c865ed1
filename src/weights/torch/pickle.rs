//! Pickles as data: a machine for the few opcodes that a dictionary of tensors is written with.
//!
//! A pickle is a program. This one cannot import, call or build anything: the handful of names that it may mention are
//! made into plain values here, and any other name or opcode is refused. Values lie in one list and refer to each other by
//! their places in it, so neither cycles nor depth can do harm. Opcodes: CPython's `pickletools.py`.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::weights::clip;
use crate::weights::reader::Reader;

/// The largest pickle that is read. A model's is about 150 bytes for each tensor.
const LARGEST: usize = 8 << 20;

/// The place of a value in [`Pickle::values`].
pub(super) type Id = u32;

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// What carries no meaning here: None, floats, what hooks are kept in.
    Other,
    /// An integer, or yes and no.
    Int(i64),
    /// A window of the pickle, known to be UTF-8.
    Text(Range<u32>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
}

/// The names that a pickle may mention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// `torch.FloatStorage` and its like: elements of this type, in the words of safetensors.
    Storage(&'static str),
}

/// A storage that tensors are views of: an entry of the archive.
#[derive(Clone, Debug)]
pub(super) struct Storage {
    pub dtype: &'static str,
    /// The entry's name below `data/`.
    pub key: Range<u32>,
    /// Elements.
    pub count: usize,
}

/// A view of a storage, in elements.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub storage: Id,
    pub offset: usize,
    pub dims: Vec<usize>,
    pub strides: Vec<usize>,
}

/// What a pickle holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    bytes: &'a [u8],
    values: Vec<Node>,
    pub root: Id,
}

impl<'a> Pickle<'a> {
    /// A value.
    pub fn node(&self, id: Id) -> &Node {
        self.values.get(id as usize).unwrap_or(&Node::Other)
    }

    /// A window of the pickle as text.
    pub fn text(&self, range: &Range<u32>) -> &'a str {
        let bytes = self.bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// The element types of the storages that it mentions, by their keys.
    pub fn storages(&self) -> BTreeMap<&'a str, &'static str> {
        let storage = |node: &Node| match node {
            Node::Storage(storage) => Some((self.text(&storage.key), storage.dtype)),
            _ => None,
        };
        self.values.iter().filter_map(storage).collect()
    }

    /// A dictionary's key, of which only text and whole numbers have a use.
    pub fn key(&self, id: Id) -> Option<String> {
        match self.node(id) {
            Node::Text(range) => Some(self.text(range).to_owned()),
            Node::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

/// Reads a pickle of a dictionary of tensors.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    if bytes.len() > LARGEST {
        return Err(format!("a pickle of {} bytes is refused: {LARGEST} are enough for any model", bytes.len()));
    }
    read_first(bytes).map(|(pickle, _)| pickle)
}

/// Reads the pickle at the front of bytes that go on behind it, and says how long it is.
pub(super) fn read_first(bytes: &[u8]) -> Result<(Pickle<'_>, usize), String> {
    let bytes = bytes.get(..LARGEST).unwrap_or(bytes);
    let mut machine = Machine { reader: Reader::new(bytes), ..Machine::default() };
    let root = loop {
        let at = machine.reader.position();
        let opcode = machine.reader.u8()?;
        if let Some(root) = machine.step(opcode).map_err(|reason| format!("byte {at} of its pickle: {reason}"))? {
            break root;
        }
    };
    let length = machine.reader.position();
    Ok((Pickle { bytes, values: machine.values, root }, length))
}

struct Machine<'a> {
    reader: Reader<'a>,
    values: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
}

impl Default for Machine<'_> {
    fn default() -> Self {
        Self {
            reader: Reader::new(&[]),
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        }
    }
}

const UNDERFLOW: &str = "it takes more from its stack than is there";

impl Machine<'_> {
    /// One opcode; the result when it was the last.
    fn step(&mut self, opcode: u8) -> Result<Option<Id>, String> {
        match opcode {
            0x80 => match self.reader.u8()? {
                0..=5 => {}
                version => return Err(format!("pickle protocol {version} is not known")),
            },
            0x95 => _ = self.reader.take(8)?, // FRAME
            b'.' => return self.pop().map(Some),
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Node::Other),
            0x88 => self.push(Node::Int(1)),
            0x89 => self.push(Node::Int(0)),
            b'J' => {
                let value = self.reader.i32()?.into();
                self.push(Node::Int(value));
            }
            b'K' => {
                let value = self.reader.u8()?.into();
                self.push(Node::Int(value));
            }
            b'M' => {
                let value = self.reader.u16()?.into();
                self.push(Node::Int(value));
            }
            0x8a => {
                let value = self.long()?;
                self.push(Node::Int(value));
            }
            b'G' => {
                self.reader.take(8)?;
                self.push(Node::Other);
            }
            b'X' => {
                let length = self.reader.u32()? as usize;
                self.push_text(length)?;
            }
            0x8c => {
                let length = self.reader.u8()?.into();
                self.push_text(length)?;
            }
            b'}' => self.push(Node::Dict(Vec::new())),
            b']' => self.push(Node::List(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            b't' => {
                let items = self.since_mark()?;
                self.push(Node::Tuple(items));
            }
            0x85..=0x87 => {
                let count = usize::from(opcode - 0x84);
                let from = self.stack.len().checked_sub(count).ok_or(UNDERFLOW)?;
                let items = self.stack.split_off(from);
                self.push(Node::Tuple(items));
            }
            b'q' => {
                let key = self.reader.u8()?.into();
                self.memorise(key)?;
            }
            b'r' => {
                let key = self.reader.u32()?;
                self.memorise(key)?;
            }
            0x94 => {
                let key = u32::try_from(self.memo.len()).map_err(|_| "its memory is full")?;
                self.memorise(key)?;
            }
            b'h' => {
                let key = self.reader.u8()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = self.reader.u32()?;
                self.recall(key)?;
            }
            b'c' => {
                let (module, name) = (self.reader.line()?, self.reader.line()?);
                let global = global(&String::from_utf8_lossy(module), &String::from_utf8_lossy(name))?;
                self.push(Node::Global(global));
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                let global = global(&module, &name)?;
                self.push(Node::Global(global));
            }
            b'Q' => {
                let storage = self.storage()?;
                self.push(Node::Storage(Box::new(storage)));
            }
            b'R' => self.reduce()?,
            b'b' => {
                self.pop()?; // of a dictionary: attributes such as `_metadata`
                match self.top()? {
                    Node::Dict(_) => {}
                    _ => return Err("it sets attributes of something that is no dictionary".into()),
                }
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.dict()?.push((key, value));
            }
            b'u' => {
                let items = self.since_mark()?;
                let pairs = items.as_chunks::<2>();
                if !pairs.1.is_empty() {
                    return Err("a key without a value".into());
                }
                self.dict()?.extend(pairs.0.iter().map(|&[key, value]| (key, value)));
            }
            b'a' => {
                let item = self.pop()?;
                self.list()?.push(item);
            }
            b'e' => {
                let items = self.since_mark()?;
                self.list()?.extend(items);
            }
            other => {
                return Err(format!(
                    "opcode 0x{other:02x} is none that a dictionary of tensors needs, so the file is refused; nothing in \
                     it has been executed"
                ));
            }
        }
        Ok(None)
    }

    fn push(&mut self, node: Node) {
        // One value takes at least a byte of a pickle, whose length is bounded far below 2^32.
        self.stack.push(self.values.len() as Id);
        self.values.push(node);
    }

    fn push_text(&mut self, length: usize) -> Result<(), String> {
        let start = self.reader.position() as u32;
        let bytes = self.reader.take(length)?;
        std::str::from_utf8(bytes).map_err(|_| "a string is not UTF-8")?;
        self.push(Node::Text(start..self.reader.position() as u32));
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, String> {
        if self.marks.last().is_some_and(|&mark| mark >= self.stack.len()) {
            return Err(UNDERFLOW.into());
        }
        self.stack.pop().ok_or_else(|| UNDERFLOW.into())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or("it looks for a mark that was not set")?))
    }

    fn top(&mut self) -> Result<&mut Node, String> {
        let top = self.stack.last().copied().ok_or(UNDERFLOW)?;
        self.values.get_mut(top as usize).ok_or_else(|| UNDERFLOW.into())
    }

    fn dict(&mut self) -> Result<&mut Vec<(Id, Id)>, String> {
        match self.top()? {
            Node::Dict(items) => Ok(items),
            _ => Err("it puts a key into something that is no dictionary".into()),
        }
    }

    fn list(&mut self) -> Result<&mut Vec<Id>, String> {
        match self.top()? {
            Node::List(items) => Ok(items),
            _ => Err("it appends to something that is no list".into()),
        }
    }

    fn memorise(&mut self, key: u32) -> Result<(), String> {
        let top = self.stack.last().copied().ok_or(UNDERFLOW)?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let id = self.memo.get(&key).copied().ok_or_else(|| format!("it recalls {key}, which was never memorised"))?;
        self.stack.push(id);
        Ok(())
    }

    /// LONG1: two's complement of a few bytes.
    fn long(&mut self) -> Result<i64, String> {
        let length = usize::from(self.reader.u8()?);
        let bytes = self.reader.take(length)?;
        let fill = if bytes.last().is_some_and(|&high| high >= 0x80) { 0xff } else { 0 };
        let mut value = [fill; 8];
        for (to, from) in value.iter_mut().zip(bytes) {
            *to = *from;
        }
        if bytes.get(8..).is_some_and(|more| more.iter().any(|&byte| byte != fill)) {
            return Err("an integer of more than 64 bits".into());
        }
        Ok(i64::from_le_bytes(value))
    }

    fn node(&self, id: Id) -> &Node {
        self.values.get(id as usize).unwrap_or(&Node::Other)
    }

    fn pop_text(&mut self) -> Result<String, String> {
        let id = self.pop()?;
        match self.node(id) {
            Node::Text(range) => {
                let mut reader = self.reader.clone().back_to(range.start as usize);
                let bytes = reader.take(range.len())?;
                Ok(String::from_utf8_lossy(bytes).into_owned())
            }
            _ => Err("it names something by what is no text".into()),
        }
    }

    fn tuple(&self, id: Id) -> Result<&[Id], String> {
        match self.node(id) {
            Node::Tuple(items) => Ok(items),
            _ => Err("arguments that are no tuple".into()),
        }
    }

    fn size(&self, id: Id) -> Result<usize, String> {
        match self.node(id) {
            Node::Int(value) => usize::try_from(*value).map_err(|_| format!("a size of {value}")),
            _ => Err("a size that is no whole number".into()),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, String> {
        self.tuple(id)?.iter().map(|&item| self.size(item)).collect()
    }

    /// BINPERSID: `('storage', torch.FloatStorage, '0', 'cpu', 1024)`.
    fn storage(&mut self) -> Result<Storage, String> {
        let id = self.pop()?;
        let items = self.tuple(id)?;
        let (kind, key, count) = match *items {
            [_, kind, key, _, count] => (kind, key, count),
            // Files from before version 1.6 say as well which part of another storage it is, or None.
            [_, kind, key, _, count, view] if matches!(self.node(view), Node::Other) => (kind, key, count),
            [_, _, _, _, _, _] => return Err("a storage that is a part of another, which is not supported".into()),
            _ => return Err(format!("a storage is named by 5 things, not {}", items.len())),
        };
        match (self.node(kind), self.node(key)) {
            (Node::Global(Global::Storage(dtype)), Node::Text(key)) => {
                Ok(Storage { dtype, key: key.clone(), count: self.size(count)? })
            }
            _ => Err("it refers to something outside that is no storage of tensors".into()),
        }
    }

    /// A call of one of the known names.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Node::Global(function) = *self.node(function) else {
            return Err("it calls something that is no function".into());
        };
        let arguments = self.tuple(arguments)?;
        match (function, arguments) {
            (Global::OrderedDict, []) => self.push(Node::Dict(Vec::new())),
            (Global::RebuildTensor, &[storage, offset, dims, strides, _, _, ref more @ ..]) => {
                if !matches!(self.node(storage), Node::Storage(_)) {
                    return Err("a tensor of no storage".into());
                }
                if more.iter().any(|&id| matches!(self.node(id), Node::Dict(items) if !items.is_empty())) {
                    return Err("a tensor with a conjugate or negative view, which is not supported".into());
                }
                let offset = self.size(offset)?;
                let tensor = Tensor { storage, offset, dims: self.sizes(dims)?, strides: self.sizes(strides)? };
                self.push(Node::Tensor(Box::new(tensor)));
            }
            (Global::RebuildParameter, &[tensor, ..]) => self.stack.push(tensor),
            (function, arguments) => {
                return Err(format!("{function:?} with {} arguments is not known", arguments.len()));
            }
        }
        Ok(())
    }
}

fn global(module: &str, name: &str) -> Result<Global, String> {
    Ok(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_parameter") => Global::RebuildParameter,
        ("torch", "FloatStorage") => Global::Storage("F32"),
        ("torch", "HalfStorage") => Global::Storage("F16"),
        ("torch", "BFloat16Storage") => Global::Storage("BF16"),
        ("torch", "DoubleStorage") => Global::Storage("F64"),
        ("torch", "LongStorage") => Global::Storage("I64"),
        ("torch", "IntStorage") => Global::Storage("I32"),
        ("torch", "ShortStorage") => Global::Storage("I16"),
        ("torch", "CharStorage") => Global::Storage("I8"),
        ("torch", "ByteStorage") => Global::Storage("U8"),
        ("torch", "BoolStorage") => Global::Storage("BOOL"),
        _ => {
            return Err(format!(
                "it asks for `{}`, which tensors do not need, so the file is refused; nothing in it has been executed",
                clip(&format!("{module}.{name}"))
            ));
        }
    })
}
