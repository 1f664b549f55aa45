//! Reads the pickles that `torch.save` writes: dictionaries, lists, numbers, texts and descriptions of tensors. Nothing is
//! ever executed: a call of anything but the few functions that rebuild tensors and ordered dictionaries gives [`Item::Other`],
//! and so does any object of a class of its own. Opcodes as in Python's `pickletools`, protocols 0 to 4.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

/// A list or dictionary that several places of a pickle may share.
pub type Shared<T> = Rc<RefCell<Vec<T>>>;

/// A value of a pickle.
#[derive(Clone, Debug)]
pub enum Item {
    /// A number.
    Integer(i64),
    /// A text.
    Text(String),
    /// The bytes of a whole number of more than 64 bits, little-endian.
    Long(Vec<u8>),
    /// A tuple.
    Tuple(Vec<Item>),
    /// A list or set.
    List(Shared<Item>),
    /// A dictionary, ordered or not.
    Dict(Shared<(Item, Item)>),
    /// A class or function by module and name.
    Global(String),
    /// Numbers kept elsewhere in the file.
    Storage(Storage),
    /// A view of a storage.
    Tensor(View),
    /// Anything else; it is not needed for weights.
    Other,
}

/// Where numbers are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Class of the storage, such as `FloatStorage`.
    pub class: String,
    /// Key of the storage inside the file.
    pub key: String,
}

/// A strided view of a storage, all in elements.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What it is a view of.
    pub storage: Storage,
    /// First element.
    pub offset: i64,
    /// Shape.
    pub size: Vec<i64>,
    /// Steps between neighbours of each axis.
    pub stride: Vec<i64>,
}

/// Reads one pickle from the start of `bytes`; returns its value and its length in bytes.
pub fn read(bytes: &[u8]) -> Result<(Item, usize)> {
    let mut machine = Machine { bytes, at: 0, stack: vec![], marks: vec![], memo: HashMap::new() };
    while let Some(done) = machine.step().with_context(|| format!("at byte {} of the pickle", machine.at))? {
        if done {
            let value = machine.stack.pop().context("the pickle has no value")?;
            return Ok((value, machine.at));
        }
    }
    bail!("the pickle ends without its end mark")
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Item>,
    marks: Vec<usize>,
    memo: HashMap<usize, Item>,
}

impl<'a> Machine<'a> {
    /// One instruction: `Some(true)` at the end mark, `None` when there is none left.
    fn step(&mut self) -> Result<Option<bool>> {
        let Some(&code) = self.bytes.get(self.at) else { return Ok(None) };
        self.at += 1;
        match code {
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(Some(true)),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'2' => self.push(self.top()?.clone()),
            b'N' | 0x88 | 0x89 => self.push(Item::Other),
            b'K' => self.number(1)?,
            b'M' => self.number(2)?,
            b'J' => {
                let raw = self.take(4)?.try_into().expect("four bytes were taken");
                self.push(Item::Integer(i64::from(i32::from_le_bytes(raw))));
            }
            b'I' | b'L' => {
                let line = self.line()?;
                self.push(line.trim_end_matches('L').parse().map_or(Item::Other, Item::Integer));
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => self.other(8)?,
            b'F' | b'S' | b'P' => {
                self.line()?;
                self.push(Item::Other);
            }
            b'V' => {
                let line = self.line()?;
                self.push(Item::Text(line));
            }
            b'U' | 0x8c => self.text(1)?,
            b'T' | b'X' => self.text(4)?,
            0x8d => self.text(8)?,
            b'C' => self.blob(1)?,
            b'B' => self.blob(4)?,
            0x8e => self.blob(8)?,
            b')' => self.push(Item::Tuple(vec![])),
            0x85..=0x87 => {
                let count = usize::from(code) - 0x84;
                let from = self.stack.len().checked_sub(count).context("a tuple of nothing")?;
                let items = self.stack.split_off(from);
                self.push(Item::Tuple(items));
            }
            b't' => {
                let items = self.since_mark()?;
                self.push(Item::Tuple(items));
            }
            b']' | 0x8f => self.push(Item::List(Shared::default())),
            b'l' | 0x91 => {
                let items = self.since_mark()?;
                self.push(Item::List(Rc::new(RefCell::new(items))));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.since_mark()?;
                self.extend(items)?;
            }
            b'}' => self.push(Item::Dict(Shared::default())),
            b'd' => {
                let items = self.since_mark()?;
                self.push(Item::Dict(Shared::default()));
                self.assign(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.assign(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.assign(items)?;
            }
            b'q' | b'r' | b'p' | 0x94 => {
                let index = self.index(code)?;
                let item = self.top()?.clone();
                self.memo.insert(index, item);
            }
            b'h' | b'j' | b'g' => {
                let index = self.index(code)?;
                let item = self.memo.get(&index).with_context(|| format!("nothing is remembered as {index}"))?;
                self.push(item.clone());
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Item::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                self.push(match (module, name) {
                    (Item::Text(module), Item::Text(name)) => Item::Global(format!("{module}.{name}")),
                    _ => Item::Other,
                });
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(storage(&id));
            }
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.push(call(&function, arguments));
            }
            // A new object: class and arguments.
            0x81 => self.forget(2)?,
            0x92 => self.forget(3)?,
            b'o' | b'i' => {
                if code == b'i' {
                    let (_module, _name) = (self.line()?, self.line()?);
                }
                self.since_mark()?;
                self.push(Item::Other);
            }
            // The state of an object; an ordered dictionary keeps its entries.
            b'b' => drop(self.pop()?),
            other => bail!("unknown pickle instruction {other:#04x}"),
        }
        Ok(Some(false))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len()).context("the pickle is cut off")?;
        let slice = &self.bytes[self.at..end];
        self.at = end;
        Ok(slice)
    }

    fn unsigned(&mut self, width: usize) -> Result<usize> {
        let bytes = self.take(width)?;
        Ok(usize::try_from(bytes.iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte)))?)
    }

    fn line(&mut self) -> Result<String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|b| *b == b'\n').context("the pickle is cut off inside a line")?;
        self.at += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn number(&mut self, width: usize) -> Result<()> {
        let value = self.unsigned(width)? as i64;
        self.push(Item::Integer(value));
        Ok(())
    }

    fn long(&mut self, width: usize) -> Result<()> {
        let length = self.unsigned(width)?;
        let bytes = self.take(length)?;
        self.push(if length > 8 {
            Item::Long(bytes.to_vec())
        } else {
            let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
            let start = if negative { -1i64 } else { 0 };
            Item::Integer(bytes.iter().rev().fold(start, |sum, byte| sum << 8 | i64::from(*byte)))
        });
        Ok(())
    }

    fn text(&mut self, width: usize) -> Result<()> {
        let length = self.unsigned(width)?;
        let text = Item::Text(String::from_utf8_lossy(self.take(length)?).into_owned());
        self.push(text);
        Ok(())
    }

    fn blob(&mut self, width: usize) -> Result<()> {
        self.unsigned(width).and_then(|length| self.other(length))
    }

    fn other(&mut self, length: usize) -> Result<()> {
        self.take(length)?;
        self.push(Item::Other);
        Ok(())
    }

    fn index(&mut self, code: u8) -> Result<usize> {
        match code {
            b'q' | b'h' => self.unsigned(1),
            b'r' | b'j' => self.unsigned(4),
            b'p' | b'g' => Ok(self.line()?.trim().parse()?),
            _ => Ok(self.memo.len()),
        }
    }

    fn push(&mut self, item: Item) {
        self.stack.push(item);
    }

    fn pop(&mut self) -> Result<Item> {
        self.stack.pop().context("the pickle takes more than it has")
    }

    fn forget(&mut self, count: usize) -> Result<()> {
        (0..count).try_for_each(|_| self.pop().map(drop))?;
        self.push(Item::Other);
        Ok(())
    }

    fn top(&self) -> Result<&Item> {
        self.stack.last().context("the pickle takes more than it has")
    }

    fn since_mark(&mut self) -> Result<Vec<Item>> {
        let from = self.marks.pop().context("the pickle has no mark")?;
        ensure!(from <= self.stack.len(), "the pickle takes what lies before its mark");
        Ok(self.stack.split_off(from))
    }

    fn extend(&mut self, items: Vec<Item>) -> Result<()> {
        if let Item::List(list) = self.top()? {
            list.borrow_mut().extend(items);
        }
        Ok(())
    }

    fn assign(&mut self, items: Vec<Item>) -> Result<()> {
        if let Item::Dict(dict) = self.top()? {
            let mut items = items.into_iter();
            while let (Some(key), Some(value)) = (items.next(), items.next()) {
                dict.borrow_mut().push((key, value));
            }
        }
        Ok(())
    }
}

/// What a persistent id stands for: `("storage", class, key, location, size)`.
fn storage(id: &Item) -> Item {
    let Item::Tuple(parts) = id else { return Item::Other };
    match parts.as_slice() {
        [Item::Text(kind), Item::Global(class), Item::Text(key), ..] if kind == "storage" => {
            let class = class.rsplit('.').next().unwrap_or(class).to_string();
            Item::Storage(Storage { class, key: key.clone() })
        }
        _ => Item::Other,
    }
}

/// What a call gives, for the few functions that are understood.
fn call(function: &Item, arguments: Item) -> Item {
    let (Item::Global(name), Item::Tuple(arguments)) = (function, arguments) else { return Item::Other };
    match (name.as_str(), arguments.as_slice()) {
        (
            "torch._utils._rebuild_tensor_v2" | "torch._utils._rebuild_tensor",
            [Item::Storage(s), Item::Integer(offset), size, stride, ..],
        ) => match (integers(size), integers(stride)) {
            (Some(size), Some(stride)) => Item::Tensor(View { storage: s.clone(), offset: *offset, size, stride }),
            _ => Item::Other,
        },
        ("torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state", [tensor, ..]) => {
            tensor.clone()
        }
        ("torch.Size", [size]) => size.clone(),
        ("collections.OrderedDict", pairs) => {
            let dict: Shared<(Item, Item)> = Shared::default();
            if let Some(Item::List(list)) = pairs.first() {
                for pair in list.borrow().iter() {
                    let parts = match pair {
                        Item::Tuple(parts) => parts.clone(),
                        Item::List(parts) => parts.borrow().clone(),
                        _ => continue,
                    };
                    if let [key, value] = parts.as_slice() {
                        dict.borrow_mut().push((key.clone(), value.clone()));
                    }
                }
            }
            Item::Dict(dict)
        }
        _ => Item::Other,
    }
}

fn integers(item: &Item) -> Option<Vec<i64>> {
    let one = |item: &Item| if let Item::Integer(n) = item { Some(*n) } else { None };
    match item {
        Item::Tuple(items) => items.iter().map(one).collect(),
        Item::List(items) => items.borrow().iter().map(one).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_of_anything_else_is_not_made() {
        // What `pickle.dumps(object whose __reduce__ is (os.system, ("touch x",)))` writes with protocol 2.
        let bytes = b"\x80\x02cposix\nsystem\nq\x00X\x07\x00\x00\x00touch xq\x01\x85q\x02Rq\x03.";
        let (item, length) = read(bytes).unwrap();
        assert!(matches!(item, Item::Other), "{item:?}");
        assert_eq!(length, bytes.len());
    }

    #[test]
    fn dictionaries_and_shared_values_are_read() {
        // {"a": 1, "b": [2, -3]} and the list once more as "c", protocol 2.
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02]q\x03(K\x02J\xfd\xff\xff\xffeX\x01\x00\x00\x00cq\x04h\x03u.";
        let (Item::Dict(dict), _) = read(bytes).unwrap() else { panic!("a dictionary was written") };
        let dict = dict.borrow();
        assert_eq!(dict.len(), 3);
        assert!(matches!(dict[0], (Item::Text(_), Item::Integer(1))));
        assert_eq!(integers(&dict[1].1), Some(vec![2, -3]));
        assert_eq!(integers(&dict[2].1), Some(vec![2, -3]));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aK\x01\x8a\x01\x05u.";
        for end in 0..bytes.len() {
            assert!(read(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}
