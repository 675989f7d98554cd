//! The file that rules are written in; `docs/policy.md` is its manual.

use super::{
    fold::fold,
    rules::{Action, Actions, Effect, Ids, Part, Policy, Rule, Table, Whom},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use toml::{Spanned, Value};

/// More would make each request slow, and nobody could tell what they come to.
const RULES_MAX: usize = 4096;

/// The placeholder that stands for any number, and for the id of that number.
const NUMBER: &str = "uid";

/// Why rules cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    file: PathBuf,
    /// From 1; `None` if the file cannot be read at all.
    at: Option<(usize, usize)>,
    what: String,
    remedy: String,
}

impl PolicyError {
    /// Line and column, from 1.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.at
    }

    /// What to do about it; empty if that is plain.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.at {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for PolicyError {}

/// What is wrong, where, and what would be right.
struct Wrong {
    span: Range<usize>,
    what: String,
    remedy: String,
}

type Checked<T> = Result<T, Wrong>;

fn wrong<T>(span: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) -> Checked<T> {
    Err(Wrong { span, what: what.into(), remedy: remedy.into() })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    default: Option<Spanned<String>>,
    #[serde(default)]
    ignore_case: bool,
    #[serde(default)]
    tables: BTreeMap<Spanned<String>, BTreeMap<String, Spanned<Value>>>,
    #[serde(default)]
    rule: Vec<Spanned<RawRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Option<String>,
    path: Spanned<String>,
    effect: Spanned<String>,
    #[serde(default = "yes")]
    below: bool,
    uid: Option<Spanned<Value>>,
    gid: Option<Spanned<Value>>,
    op: Option<Spanned<Value>>,
}

fn yes() -> bool {
    true
}

impl Policy {
    /// Read the rules in a file.
    ///
    /// # Errors
    /// If it cannot be read, or is not what `docs/policy.md` describes; then with line and column.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read_to_string(path).map_err(|error| PolicyError {
            file: path.to_owned(),
            at: None,
            what: format!("the policy cannot be read: {error}"),
            remedy: "an existing file in TOML, as docs/policy.md describes it".into(),
        })?;
        Self::parse(&text, path)
    }

    /// The rules in `text`, which was read from `path`.
    ///
    /// # Errors
    /// See [`load`](Self::load).
    pub fn parse(text: &str, path: &Path) -> Result<Self, PolicyError> {
        compile(text).map_err(|Wrong { span, what, remedy }| PolicyError {
            file: path.to_owned(),
            at: Some(position(text, span.start)),
            what,
            remedy,
        })
    }
}

/// Line and column, from 1.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (line, String::from_utf8_lossy(&before[begin..]).chars().count() + 1)
}

fn compile(text: &str) -> Checked<Policy> {
    let raw: RawPolicy = toml::from_str(text).map_err(|error| Wrong {
        span: error.span().unwrap_or(0..0),
        what: error.message().trim_end().replace('\n', ", "),
        remedy: String::new(),
    })?;
    let default = raw.default.as_ref().map_or(Ok(Effect::Allow), effect)?;
    let tables = tables(&raw.tables, raw.ignore_case)?;
    if let Some(one_too_many) = raw.rule.get(RULES_MAX) {
        let what = format!("there are {} rules, and at most {RULES_MAX} are taken", raw.rule.len());
        return wrong(
            one_too_many.span(),
            what,
            "a table and one rule with a placeholder, for many rules alike",
        );
    }
    let rules = raw.rule.iter().map(|rule| {
        let (line, _) = position(text, rule.span().start);
        compile_rule(rule.get_ref(), line, &tables, raw.ignore_case)
    });
    Ok(Policy { rules: rules.collect::<Checked<_>>()?, default, ignore_case: raw.ignore_case })
}

fn effect(word: &Spanned<String>) -> Checked<Effect> {
    match word.get_ref().as_str() {
        "allow" => Ok(Effect::Allow),
        "deny" => Ok(Effect::Deny),
        other => wrong(word.span(), format!("`{other}` is no effect"), "\"allow\" or \"deny\""),
    }
}

fn tables(
    raw: &BTreeMap<Spanned<String>, BTreeMap<String, Spanned<Value>>>,
    ignore_case: bool,
) -> Checked<BTreeMap<String, Arc<Table>>> {
    let mut tables = BTreeMap::new();
    for (name, rows) in raw {
        if name.get_ref() == NUMBER {
            let what = format!("a table cannot be called {NUMBER}: {{{NUMBER}}} stands for a number");
            return wrong(name.span(), what, "another name, such as app");
        }
        let mut checked = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            let (ids, placeholders) = ids(value)?;
            if let Some(placeholder) = placeholders.first() {
                return wrong(
                    value.span(),
                    format!("`{placeholder}` is no id"),
                    "numbers and ranges, such as \"10000-10999\"",
                );
            }
            let key = if ignore_case { fold(key.as_bytes()) } else { key.as_bytes().into() };
            checked.push((key, ids));
        }
        checked.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some(pair) = checked.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            let what =
                format!("{} is in the table twice, case not regarded", String::from_utf8_lossy(&pair[0].0));
            return wrong(name.span(), what, "one row with a list of ids");
        }
        let name = name.get_ref().clone();
        tables.insert(name.clone(), Arc::new(Table { name, rows: checked }));
    }
    Ok(tables)
}

fn compile_rule(
    raw: &RawRule,
    line: usize,
    tables: &BTreeMap<String, Arc<Table>>,
    ignore_case: bool,
) -> Checked<Rule> {
    let parts = parts(&raw.path, tables, ignore_case)?;
    let names: Vec<&str> = parts
        .iter()
        .filter_map(|part| match part {
            Part::Number => Some(NUMBER),
            Part::Table(table) => Some(table.name.as_str()),
            Part::Exact(_) | Part::Glob(_) => None,
        })
        .collect();
    Ok(Rule {
        name: raw.name.clone(),
        line,
        effect: effect(&raw.effect)?,
        path: raw.path.get_ref().clone(),
        below: raw.below,
        uid: whom(raw.uid.as_ref(), &names)?,
        gid: whom(raw.gid.as_ref(), &names)?,
        actions: raw.op.as_ref().map_or(Ok(Actions::ALL), actions)?,
        parts: parts.into(),
    })
}

fn parts(
    path: &Spanned<String>,
    tables: &BTreeMap<String, Arc<Table>>,
    ignore_case: bool,
) -> Checked<Vec<Part>> {
    let text = path.get_ref().as_str();
    let Some(relative) = text.strip_prefix('/') else {
        return wrong(
            path.span(),
            format!("`{text}` does not begin with /"),
            format!("\"/{text}\", from the root of the mount"),
        );
    };
    let mut parts = Vec::new();
    for component in relative.split('/') {
        let placeholder = component.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let part = match (component, placeholder) {
            ("", _) if relative.is_empty() => break,
            ("" | "." | "..", _) => {
                let what = format!("`{text}` has a component `{component}`, which no path has");
                return wrong(path.span(), what, "names between single slashes, without one at the end");
            }
            (_, Some(NUMBER)) => Part::Number,
            (_, Some(name)) => match tables.get(name) {
                Some(table) => Part::Table(table.clone()),
                None => {
                    let what = format!("`{component}`: there is no table of this name");
                    return wrong(
                        path.span(),
                        what,
                        format!("[tables.{name}], with rows like \"some name\" = 10001"),
                    );
                }
            },
            ("**", _) => {
                let remedy = "`*` for any one name; what is below is meant anyway, unless below = false";
                return wrong(path.span(), "`**` has no meaning", remedy);
            }
            _ if component.contains(['{', '}']) => {
                let what = format!("`{component}`: a placeholder is a component of its own");
                return wrong(path.span(), what, "\"/users/{uid}\", or `*` for a part of a name");
            }
            _ => {
                let bytes =
                    if ignore_case { fold(component.as_bytes()) } else { component.as_bytes().into() };
                if component.contains(['*', '?']) { Part::Glob(bytes) } else { Part::Exact(bytes) }
            }
        };
        if matches!(part, Part::Number | Part::Table(_)) && parts.contains(&part) {
            return wrong(
                path.span(),
                format!("`{component}` is there twice"),
                "one of them, and `*` for the other",
            );
        }
        parts.push(part);
    }
    Ok(parts)
}

fn whom(value: Option<&Spanned<Value>>, names: &[&str]) -> Checked<Whom> {
    let Some(value) = value else { return Ok(Whom::Anyone) };
    let (ids, placeholders) = ids(value)?;
    let mut numbers = Vec::new();
    for placeholder in &placeholders {
        let name = placeholder.trim_matches(['{', '}']);
        match names.iter().position(|known| *known == name) {
            Some(number) => numbers.push(number),
            None => {
                let what = format!("`{placeholder}` is not in the path of the rule");
                return wrong(value.span(), what, "the same placeholder as a component of `path`");
            }
        }
    }
    if ids.is_empty() && numbers.is_empty() {
        return wrong(
            value.span(),
            "the list is empty: the rule is about nobody",
            "the line left out, for everybody",
        );
    }
    Ok(Whom::Some { ids, placeholders: numbers.into() })
}

fn each(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        one => std::slice::from_ref(one),
    }
}

/// Ids, and placeholders for ids.
fn ids(value: &Spanned<Value>) -> Checked<(Ids, Vec<String>)> {
    const REMEDY: &str = "a number, a range such as \"10000-10999\", a placeholder of the path such as \"{uid}\", or a list of them";
    let (mut ids, mut placeholders) = (Vec::new(), Vec::new());
    for one in each(value.get_ref()) {
        match one {
            Value::Integer(number) => match u32::try_from(*number) {
                Ok(id) if id != u32::MAX => ids.push(id..=id),
                _ => return wrong(value.span(), format!("{number} is no id"), "0 to 4294967294"),
            },
            Value::String(text) if text.starts_with('{') && text.ends_with('}') => {
                placeholders.push(text.clone());
            }
            Value::String(text) => {
                let ends = text.split_once('-').unwrap_or((text, text));
                let parse = |end: &str| end.trim().parse::<u32>().ok();
                match (parse(ends.0), parse(ends.1)) {
                    (Some(first), Some(last)) if first <= last => ids.push(first..=last),
                    _ => return wrong(value.span(), format!("`{text}` is no id and no range"), REMEDY),
                }
            }
            other => return wrong(value.span(), format!("{other} is no id"), REMEDY),
        }
    }
    Ok((ids.into(), placeholders))
}

fn actions(value: &Spanned<Value>) -> Checked<Actions> {
    let words = || Action::ALL.map(|(word, _)| word).join(", ");
    let mut actions = Actions::NONE;
    for one in each(value.get_ref()) {
        match one.as_str().and_then(Action::from_word) {
            Some(action) => actions = actions.with(action),
            None => {
                return wrong(value.span(), format!("{one} is no operation"), format!("some of {}", words()));
            }
        }
    }
    if actions == Actions::NONE {
        return wrong(
            value.span(),
            "the list is empty: the rule is about nothing",
            "the line left out, for all operations",
        );
    }
    Ok(actions)
}
