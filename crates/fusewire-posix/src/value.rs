//! What an operation answered, and whether that is what the case expects.

use crate::words;
use std::collections::{BTreeMap, HashMap};

/// The answer of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Nothing but success.
    Unit,
    /// A count, an offset, a number of nanoseconds.
    Int(i128),
    /// Data, a link's target, a type's name.
    Bytes(Vec<u8>),
    /// Names in a directory or of attributes, events.
    List(Vec<Vec<u8>>),
    /// Attributes by name.
    Table(BTreeMap<String, Value>),
}

/// Expected and got, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What the case wants.
    pub expected: String,
    /// What the filesystem gave.
    pub got: String,
}

/// Values kept by `as`.
pub type Saved = HashMap<String, Value>;

impl Value {
    /// Short words for a message.
    pub fn show(&self) -> String {
        match self {
            Self::Unit => "success".to_owned(),
            Self::Int(n) => n.to_string(),
            Self::Bytes(b) => words::show_bytes(b),
            Self::List(l) if l.len() > 20 => {
                format!("{} names, {} ..", l.len(), Self::List(l[..5].to_vec()).show())
            }
            Self::List(l) => {
                format!("[{}]", l.iter().map(|b| words::show_bytes(b)).collect::<Vec<_>>().join(", "))
            }
            Self::Table(t) => {
                t.iter().map(|(k, v)| format!("{k}={}", v.show())).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

/// Whether `got` is what `want` asks for. `key` is the field's name inside a table: `mode` is written in octal there,
/// `uid` and `gid` may be `me`.
pub fn check(want: &toml::Value, got: &Value, saved: &Saved, key: Option<&str>) -> Result<(), Mismatch> {
    let differs = || Mismatch { expected: want.to_string(), got: got.show() };
    match (want, got) {
        (toml::Value::Table(fields), Value::Table(have)) if !fields.contains_key("same") => {
            check_table(fields, have, saved)
        }
        (toml::Value::Table(fields), _) => {
            let name = fields.get("same").and_then(toml::Value::as_str).ok_or_else(differs)?;
            match saved.get(name) {
                Some(kept) if kept == got => Ok(()),
                Some(kept) => {
                    Err(Mismatch { expected: format!("{} (as {name})", kept.show()), got: got.show() })
                }
                None => Err(Mismatch {
                    expected: format!("the same as `{name}`"),
                    got: "nothing kept under that name".to_owned(),
                }),
            }
        }
        (toml::Value::Integer(n), Value::Int(have)) if i128::from(*n) == *have => Ok(()),
        (toml::Value::String(text), Value::Int(have)) => check_number(text, *have, saved, key),
        (toml::Value::String(text), Value::Bytes(have)) => {
            let want = words::bytes(text)
                .map_err(|why| Mismatch { expected: why, got: "a case that cannot be read".to_owned() })?;
            if want == *have {
                return Ok(());
            }
            Err(Mismatch { expected: words::show_bytes(&want), got: words::show_difference(&want, have) })
        }
        (toml::Value::Array(items), Value::List(have)) => check_list(items, have),
        _ => Err(differs()),
    }
}

fn check_table(fields: &toml::Table, have: &BTreeMap<String, Value>, saved: &Saved) -> Result<(), Mismatch> {
    for (field, want) in fields {
        let Some(got) = have.get(field) else {
            return Err(Mismatch {
                expected: format!("a field `{field}`"),
                got: Value::Table(have.clone()).show(),
            });
        };
        check(want, got, saved, Some(field)).map_err(|m| {
            let octal = |text: String| match (field.as_str(), got) {
                ("mode", Value::Int(n)) if text == n.to_string() => format!("{n:04o}"),
                _ => text,
            };
            Mismatch {
                expected: format!("{field} = {}", m.expected),
                got: format!("{field} = {}", octal(m.got)),
            }
        })?;
    }
    Ok(())
}

fn check_list(items: &[toml::Value], have: &[Vec<u8>]) -> Result<(), Mismatch> {
    let mut want = Vec::with_capacity(items.len());
    for item in items {
        let bytes = words::bytes(item.as_str().unwrap_or_default());
        want.push(
            bytes.map_err(|why| Mismatch { expected: why, got: "a case that cannot be read".to_owned() })?,
        );
    }
    if want == have {
        return Ok(());
    }
    Err(Mismatch { expected: Value::List(want).show(), got: Value::List(have.to_vec()).show() })
}

/// `0644` (for a mode), `me`, `> before`, `= before.ino`, `<= 100`.
fn check_number(text: &str, have: i128, saved: &Saved, key: Option<&str>) -> Result<(), Mismatch> {
    let split = text.find(|c: char| !matches!(c, '<' | '>' | '=' | '!')).unwrap_or(text.len());
    let (comparison, operand) = (&text[..split], text[split..].trim());
    let other =
        number(operand, saved, key).map_err(|why| Mismatch { expected: why, got: have.to_string() })?;
    let holds = match comparison {
        "" | "=" => have == other,
        "!=" => have != other,
        "<" => have < other,
        "<=" => have <= other,
        ">" => have > other,
        ">=" => have >= other,
        _ => false,
    };
    match holds {
        true => Ok(()),
        false if comparison.is_empty() => Err(Mismatch { expected: text.to_owned(), got: have.to_string() }),
        false => {
            Err(Mismatch { expected: format!("{comparison} {operand} ({other})"), got: have.to_string() })
        }
    }
}

fn number(operand: &str, saved: &Saved, key: Option<&str>) -> Result<i128, String> {
    match (key, operand) {
        (Some("uid"), "me") => return Ok(i128::from(rustix::process::geteuid().as_raw())),
        (Some("gid"), "me") => return Ok(i128::from(rustix::process::getegid().as_raw())),
        (Some("mode"), octal) if octal.chars().all(|c| c.is_digit(8)) => {
            return i128::from_str_radix(octal, 8).map_err(|e| e.to_string());
        }
        _ => {}
    }
    if let Ok(n) = operand.parse() {
        return Ok(n);
    }
    let (name, field) = match operand.split_once('.') {
        Some((name, field)) => (name, Some(field)),
        None => (operand, key),
    };
    match (saved.get(name), field) {
        (Some(Value::Int(n)), _) => Ok(*n),
        (Some(Value::Table(t)), Some(field)) => match t.get(field) {
            Some(Value::Int(n)) => Ok(*n),
            _ => Err(format!("`{name}` has no number `{field}`")),
        },
        _ => Err(format!("nothing is kept as `{name}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(mode: i128, mtime: i128) -> Value {
        Value::Table([("mode".to_owned(), Value::Int(mode)), ("mtime".to_owned(), Value::Int(mtime))].into())
    }

    fn try_check(want: &str, got: &Value) -> Result<(), Mismatch> {
        let table: toml::Table = toml::from_str(&format!("v = {want}")).unwrap();
        let saved = Saved::from([("old".to_owned(), stat(0o600, 50)), ("n".to_owned(), Value::Int(7))]);
        check(&table["v"], got, &saved, None)
    }

    #[test]
    fn right_and_wrong_expectations() {
        let now = stat(0o644, 60);
        for right in [
            "{ mode = '0644' }",
            "{ mtime = '> old' }",
            "{ mtime = '!= old', mode = '= 644' }",
            "{ mtime = '>= old.mtime' }",
            "{ mtime = 60 }",
        ] {
            assert_eq!(try_check(right, &now), Ok(()), "{right}");
        }
        for wrong in [
            "{ mode = '0600' }",
            "{ mtime = '= old' }",
            "{ mtime = '< 60' }",
            "{ mtime = 61 }",
            "{ size = 1 }",
            "3",
            "{ mtime = '> nobody' }",
        ] {
            assert!(try_check(wrong, &now).is_err(), "{wrong}");
        }
        assert_eq!(try_check("{ mode = '0600' }", &now).unwrap_err().got, "mode = 0644");
        assert_eq!(try_check("'= n'", &Value::Int(7)), Ok(()));
        assert!(try_check("'= n'", &Value::Int(8)).is_err());
        assert!(try_check("['a']", &Value::List(vec![b"a".into(), b"b".into()])).is_err());
        assert!(try_check("'abc'", &Value::Bytes(b"abd".into())).unwrap_err().got.contains("offset 2"));
        assert!(try_check("{ same = 'n' }", &Value::Int(7)).is_ok());
        assert!(try_check("{ same = 'n' }", &Value::Int(9)).is_err());
    }
}
