//! Cases as data: reading the TOML, and refusing what the engine would not understand.

use crate::ops;
use crate::words;
use rustix::io::Errno;
use serde::Deserialize;
use std::time::Duration;

/// One rule of POSIX or Linux and the steps that show whether a filesystem keeps it.
#[derive(Debug, Clone)]
pub struct Case {
    /// Name in kebab-case, unique in the suite.
    pub name: String,
    /// File it comes from, without `.toml`: `open`, `rename`, ...
    pub topic: String,
    /// The rule in plain words.
    pub rule: String,
    /// Where the rule is written down, such as `POSIX open` or `rename(2)`.
    pub source: String,
    /// Names of needs ([`Need`]) without which the case is skipped.
    pub needs: Vec<String>,
    /// The steps, executed in order; the first that fails ends the case.
    pub steps: Vec<Step>,
    /// Time allowed, where the suite's default is too short.
    pub limit: Option<Duration>,
}

/// Something a directory may or may not offer. Its steps are tried once per run; when one of them answers with an
/// errno named in `missing`, cases that need it are skipped. Any other failure counts as a failure of the filesystem.
#[derive(Debug, Clone)]
pub struct Need {
    /// What says that it is missing: errnos; `wrong` for a wrong answer.
    pub missing: Vec<String>,
    /// The probe itself: name, sentence, steps.
    pub probe: Case,
}

/// One call and what must come of it.
#[derive(Debug, Clone)]
pub struct Step {
    /// Name of the operation, one of [`crate::operations`].
    pub operation: String,
    /// Arguments of the operation.
    pub args: toml::Table,
    /// The errnos allowed; empty when the step must succeed.
    pub errno: Vec<Errno>,
    /// What the answer must be.
    pub expect: Option<toml::Value>,
    /// Name under which the answer (or descriptor) is kept.
    pub save: Option<String>,
    /// Who does it, when not the user who runs the suite.
    pub user: Option<User>,
    /// File mode creation mask for this step; 022 when not given.
    pub umask: Option<u32>,
    /// Name of the forked process that does it.
    pub actor: Option<String>,
    /// Do not wait for the forked process.
    pub background: bool,
    /// How often; `{i}` in strings is the count, from 0.
    pub repeat: u64,
    /// Why the step is there, for the failure text.
    pub note: Option<String>,
    /// The step as text, for messages.
    pub text: String,
}

/// An identity to switch to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    #[serde(default)]
    pub groups: Vec<u32>,
}

impl User {
    /// The users that cases call by name.
    pub fn named(name: &str) -> Option<Self> {
        let (uid, gid, groups) = match name {
            "alice" => (65501, 65501, vec![65510]),
            "bob" => (65502, 65502, vec![65510]),
            "carol" => (65503, 65503, vec![]),
            // Without capabilities, though of uid 0's group: what root becomes when it only drops its user id.
            "grouproot" => (65504, 0, vec![]),
            _ => return None,
        };
        Some(Self { uid, gid, groups })
    }
}

/// Why a file of cases was refused.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {why}")]
pub struct CaseError {
    /// The file's name as given.
    pub file: String,
    /// What is wrong, with the case and step where known.
    pub why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    case: Vec<RawCase>,
    #[serde(default)]
    need: Vec<RawCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCase {
    name: String,
    rule: String,
    source: String,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    missing: Vec<String>,
    limit: Option<u64>,
    steps: Vec<toml::Table>,
}

/// Cases and needs of one file. `file` is the name for messages; its stem becomes the topic.
pub fn parse(file: &str, text: &str) -> Result<(Vec<Case>, Vec<Need>), CaseError> {
    let fail = |why: String| CaseError { file: file.to_owned(), why };
    let raw: RawFile = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
    let topic = file.rsplit('/').next().unwrap_or(file).trim_end_matches(".toml");
    let build = |raw: RawCase| {
        let name = raw.name.clone();
        raw_case(topic, raw).map_err(|why| fail(format!("case {name}: {why}")))
    };
    let mut needs = Vec::new();
    for raw in raw.need {
        let missing = raw.missing.clone();
        needs.push(Need { missing, probe: build(raw)? });
    }
    let mut cases = Vec::new();
    for raw in raw.case {
        if !raw.missing.is_empty() {
            return Err(fail(format!("case {}: `missing` belongs to a need", raw.name)));
        }
        cases.push(build(raw)?);
    }
    Ok((cases, needs))
}

fn raw_case(topic: &str, raw: RawCase) -> Result<Case, String> {
    let kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if raw.name.is_empty() || !raw.name.chars().all(kebab) {
        return Err("the name is not in kebab-case".to_owned());
    }
    if raw.rule.len() < 15 || raw.source.is_empty() {
        return Err("`rule` must be a sentence and `source` must name where it is written".to_owned());
    }
    if raw.steps.is_empty() {
        return Err("no steps".to_owned());
    }
    let mut steps = Vec::with_capacity(raw.steps.len());
    for (at, table) in raw.steps.into_iter().enumerate() {
        steps.push(Step::from_table(table).map_err(|why| format!("step {}: {why}", at + 1))?);
    }
    let mut needs = raw.needs;
    // A step under another user needs what the data would otherwise have to repeat (but for the need itself).
    if raw.name != "users" && steps.iter().any(|s| s.user.is_some()) && !needs.iter().any(|n| n == "users") {
        needs.insert(0, "users".to_owned());
    }
    let limit = raw.limit.map(Duration::from_secs);
    Ok(Case {
        name: raw.name,
        topic: topic.to_owned(),
        rule: raw.rule,
        source: raw.source,
        needs,
        steps,
        limit,
    })
}

impl Step {
    fn from_table(mut table: toml::Table) -> Result<Self, String> {
        let text = show_table(&table);
        let operation = take_string(&mut table, "do")?.ok_or("no `do`")?;
        let errno = take_errnos(&mut table)?;
        let user = match table.remove("user") {
            None => None,
            Some(toml::Value::String(name)) => {
                Some(User::named(&name).ok_or(format!("no user is called `{name}`"))?)
            }
            Some(value) => Some(value.try_into::<User>().map_err(|e| format!("user: {e}"))?),
        };
        let umask = match take_string(&mut table, "umask")? {
            None => None,
            Some(text) => {
                Some(u32::from_str_radix(&text, 8).map_err(|_| format!("umask `{text}` is not octal"))?)
            }
        };
        let repeat = match table.remove("repeat") {
            None => 1,
            Some(toml::Value::Integer(n)) if n > 0 => n as u64,
            Some(other) => return Err(format!("repeat = {other} is no count")),
        };
        let background = match table.remove("background") {
            None => false,
            Some(toml::Value::Boolean(b)) => b,
            Some(other) => return Err(format!("background = {other} is neither true nor false")),
        };
        let step = Self {
            operation,
            errno,
            user,
            umask,
            repeat,
            background,
            text,
            expect: table.remove("expect"),
            save: take_string(&mut table, "as")?,
            actor: take_string(&mut table, "in")?,
            note: take_string(&mut table, "note")?,
            args: table,
        };
        step.validate()?;
        Ok(step)
    }

    fn validate(&self) -> Result<(), String> {
        let operation =
            ops::find(&self.operation).ok_or(format!("no operation is called `{}`", self.operation))?;
        operation.check(&self.args)?;
        if self.background && self.actor.is_none() {
            return Err("`background` needs `in`".to_owned());
        }
        if self.expect.is_some() && !self.errno.is_empty() {
            return Err("`expect` and `errno` exclude each other".to_owned());
        }
        Ok(())
    }
}

fn take_string(table: &mut toml::Table, key: &str) -> Result<Option<String>, String> {
    match table.remove(key) {
        None => Ok(None),
        Some(toml::Value::String(text)) => Ok(Some(text)),
        Some(other) => Err(format!("{key} = {other} is no string")),
    }
}

fn take_errnos(table: &mut toml::Table) -> Result<Vec<Errno>, String> {
    let names = match table.remove("errno") {
        None => return Ok(Vec::new()),
        Some(toml::Value::String(name)) => vec![name],
        Some(list) => list.try_into::<Vec<String>>().map_err(|e| format!("errno: {e}"))?,
    };
    names.iter().map(|n| words::errno(n).ok_or(format!("`{n}` is no errno this suite knows"))).collect()
}

/// `open path="a" flags="O_RDWR"`, without what only matters to the engine.
fn show_table(table: &toml::Table) -> String {
    let mut text = table.get("do").and_then(toml::Value::as_str).unwrap_or("?").to_owned();
    for (key, value) in table {
        if !matches!(key.as_str(), "do" | "errno" | "expect" | "note") {
            let value = value.to_string();
            let short: String = value.chars().take(120).collect();
            text.push_str(&format!(" {key}={}{}", short, if short.len() < value.len() { ".." } else { "" }));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(steps: &str) -> String {
        let text = format!(
            "[[case]]\nname = \"a\"\nrule = \"a rule long enough\"\nsource = \"x(2)\"\nsteps = [{steps}]\n"
        );
        parse("t.toml", &text).unwrap_err().to_string()
    }

    #[test]
    fn mistakes_are_refused_with_their_place() {
        let text = refuse("{ do = 'mkdir', path = 'a' }, { do = 'nope' }");
        assert!(text.contains("t.toml: case a: step 2: no operation is called `nope`"), "{text}");
        assert!(refuse("{ do = 'mkdir' }").contains("`path`"));
        assert!(refuse("{ do = 'mkdir', path = 'a', size = 3 }").contains("`size`"));
        assert!(refuse("{ do = 'mkdir', path = 'a', errno = 'ENOPE' }").contains("ENOPE"));
        assert!(refuse("{ do = 'mkdir', path = 'a', user = 'zoe' }").contains("zoe"));
        assert!(refuse("{ do = 'mkdir', path = 'a', background = true }").contains("background"));
        assert!(refuse("").contains("no steps"));
    }

    #[test]
    fn a_user_brings_the_need() {
        let text = "[[case]]\nname='a'\nrule='a rule long enough'\nsource='x'\nsteps=[{do='mkdir',path='a',user='bob'}]";
        let (cases, _) = parse("dir/topic.toml", text).unwrap();
        assert_eq!(cases[0].needs, ["users"]);
        assert_eq!(cases[0].topic, "topic");
        assert_eq!(cases[0].steps[0].user, User::named("bob"));
    }
}
