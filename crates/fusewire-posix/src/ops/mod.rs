//! The operations that steps name with `do`, by area. Each is a row: name, arguments, one sentence, function.

mod actor;
mod data;
mod event;
mod file;
mod lock;
mod map;
mod meta;
mod name;
mod xattr;

pub(crate) use name::{entries, open_dir};

use crate::case::Step;
use crate::value::{Mismatch, Value};
use crate::words;
use crate::world::World;
use rustix::fs::Mode;
use rustix::io::Errno;

/// Why an operation did not answer.
pub(crate) enum Trouble {
    /// The system call failed.
    Errno(Errno),
    /// The answer is wrong by itself, whatever the case expects.
    Wrong(Mismatch),
    /// The case cannot mean what it says.
    Case(String),
}

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(errno) => Self::Errno(errno),
            None => Self::Case(error.to_string()),
        }
    }
}

impl From<String> for Trouble {
    fn from(why: String) -> Self {
        Self::Case(why)
    }
}

/// A wrong answer in words.
pub(crate) fn wrong<T>(expected: impl Into<String>, got: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Wrong(Mismatch { expected: expected.into(), got: got.into() }))
}

pub(crate) type Done = Result<Value, Trouble>;

/// An operation that steps may name.
#[derive(Clone, Copy)]
pub struct Operation {
    /// Name, as in `do = "open"`.
    pub name: &'static str,
    /// Arguments, separated by spaces; `?` marks those that may be left out.
    pub args: &'static str,
    /// What it does, and what it answers.
    pub help: &'static str,
    pub(crate) run: fn(&mut World<'_>, &Args<'_>) -> Done,
}

impl Operation {
    const fn new(
        name: &'static str,
        args: &'static str,
        help: &'static str,
        run: fn(&mut World<'_>, &Args<'_>) -> Done,
    ) -> Self {
        Self { name, args, help, run }
    }

    /// Refuses arguments that are missing or unknown.
    pub(crate) fn check(&self, given: &toml::Table) -> Result<(), String> {
        let known = |key: &str| self.args.split_whitespace().any(|a| a.trim_end_matches('?') == key);
        if let Some(key) = given.keys().find(|k| !known(k)) {
            return Err(format!("`{key}` is no argument of {} (it takes: {})", self.name, self.args));
        }
        match self.args.split_whitespace().find(|a| !a.ends_with('?') && !given.contains_key(*a)) {
            Some(key) => Err(format!("{} needs `{key}`", self.name)),
            None => Ok(()),
        }
    }
}

/// Every operation, for documentation and tools.
pub fn operations() -> impl Iterator<Item = &'static Operation> {
    [
        file::OPERATIONS,
        data::OPERATIONS,
        meta::OPERATIONS,
        name::OPERATIONS,
        xattr::OPERATIONS,
        lock::OPERATIONS,
        map::OPERATIONS,
        event::OPERATIONS,
        actor::OPERATIONS,
    ]
    .into_iter()
    .flatten()
}

pub(crate) fn find(name: &str) -> Option<&'static Operation> {
    operations().find(|o| o.name == name)
}

/// A step's arguments, with `{i}` filled in.
pub(crate) struct Args<'a> {
    pub step: &'a Step,
    pub count: u64,
}

impl Args<'_> {
    fn raw(&self, key: &str) -> Option<&toml::Value> {
        self.step.args.get(key)
    }

    fn fill(&self, text: &str) -> String {
        text.replace("{i}", &self.count.to_string())
    }

    pub fn opt_text(&self, key: &str) -> Result<Option<String>, Trouble> {
        match self.raw(key) {
            None => Ok(None),
            Some(toml::Value::String(text)) => Ok(Some(self.fill(text))),
            Some(other) => Err(Trouble::Case(format!("{key} = {other} is no string"))),
        }
    }

    pub fn text(&self, key: &str) -> Result<String, Trouble> {
        self.opt_text(key)?.ok_or_else(|| Trouble::Case(format!("`{key}` is missing")))
    }

    /// Bytes in the notation of [`words::bytes`].
    pub fn bytes(&self, key: &str) -> Result<Vec<u8>, Trouble> {
        Ok(words::bytes(&self.text(key)?)?)
    }

    pub fn opt_bytes(&self, key: &str) -> Result<Option<Vec<u8>>, Trouble> {
        Ok(self.opt_text(key)?.map(|t| words::bytes(&t)).transpose()?)
    }

    pub fn opt_int(&self, key: &str) -> Result<Option<i64>, Trouble> {
        match self.raw(key) {
            None => Ok(None),
            Some(toml::Value::Integer(n)) => Ok(Some(*n)),
            Some(toml::Value::String(text)) => {
                let number = self.fill(text).parse();
                number.map(Some).map_err(|_| Trouble::Case(format!("{key} = {text} is no number")))
            }
            Some(other) => Err(Trouble::Case(format!("{key} = {other} is no number"))),
        }
    }

    pub fn int(&self, key: &str) -> Result<i64, Trouble> {
        self.opt_int(key)?.ok_or_else(|| Trouble::Case(format!("`{key}` is missing")))
    }

    pub fn len(&self, key: &str) -> Result<usize, Trouble> {
        usize::try_from(self.int(key)?).map_err(|_| Trouble::Case(format!("`{key}` is negative")))
    }

    pub fn bool(&self, key: &str) -> Result<bool, Trouble> {
        match self.raw(key) {
            None => Ok(false),
            Some(toml::Value::Boolean(b)) => Ok(*b),
            Some(other) => Err(Trouble::Case(format!("{key} = {other} is neither true nor false"))),
        }
    }

    /// An octal mode; `default` when not given.
    pub fn mode(&self, default: u32) -> Result<Mode, Trouble> {
        let Some(text) = self.opt_text("mode")? else { return Ok(Mode::from_raw_mode(default)) };
        let bits = u32::from_str_radix(&text, 8)
            .map_err(|_| Trouble::Case(format!("mode `{text}` is not octal")))?;
        Ok(Mode::from_bits_retain(bits))
    }

    /// Bits of `flags`; 0 when not given.
    pub fn flags(&self) -> Result<u64, Trouble> {
        Ok(words::flags(&self.opt_text("flags")?.unwrap_or_default())?)
    }

    pub fn list(&self, key: &str) -> Result<Vec<Vec<u8>>, Trouble> {
        let Some(toml::Value::Array(items)) = self.raw(key) else {
            return Err(Trouble::Case(format!("`{key}` is no list")));
        };
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            let text = item.as_str().ok_or_else(|| Trouble::Case(format!("{key}: {item} is no string")))?;
            out.push(words::bytes(&self.fill(text))?);
        }
        Ok(out)
    }

    /// The name given by `as`.
    pub fn save(&self) -> Result<String, Trouble> {
        let name = self.step.save.as_deref().ok_or_else(|| Trouble::Case("`as` is missing".to_owned()))?;
        Ok(self.fill(name))
    }
}
