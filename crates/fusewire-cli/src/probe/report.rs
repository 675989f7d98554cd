//! What probing found, and how it is shown.

use std::fmt::Write;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::channel::Choice;

/// Whether something is possible here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is.
    Yes,
    /// It is not; the check says why, and what to change.
    No,
    /// It cannot be told without changing something.
    Unknown,
}

/// How a verdict was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Evidence {
    /// It was done.
    Tried,
    /// The kernel or a configuration file says so.
    Read,
    /// It follows from the kernel's version or the filesystem's type.
    Inferred,
}

/// One thing that may or may not be possible.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Stable name for programs; never changes its meaning.
    #[serde(skip)]
    pub key: &'static str,
    /// What it is about.
    pub title: String,
    /// Whether it is possible.
    pub verdict: Verdict,
    /// How that is known.
    pub evidence: Evidence,
    /// The reason for a "no"; for a "yes" something worth knowing, or nothing.
    pub detail: String,
    /// What to change.
    pub remedy: Option<String>,
}

impl Check {
    /// It is possible.
    pub fn yes(key: &'static str, title: &str, evidence: Evidence) -> Self {
        Self {
            key,
            title: title.into(),
            verdict: Verdict::Yes,
            evidence,
            detail: String::new(),
            remedy: None,
        }
    }

    /// It is not, because of `reason`.
    pub fn no(key: &'static str, title: &str, evidence: Evidence, reason: impl Into<String>) -> Self {
        Self { key, title: title.into(), verdict: Verdict::No, evidence, detail: reason.into(), remedy: None }
    }

    /// It cannot be told, because of `reason`.
    pub fn unknown(key: &'static str, title: &str, evidence: Evidence, reason: impl Into<String>) -> Self {
        Self {
            key,
            title: title.into(),
            verdict: Verdict::Unknown,
            evidence,
            detail: reason.into(),
            remedy: None,
        }
    }

    /// Adds something worth knowing.
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }

    /// Adds what to change.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// A number that bounds something.
#[derive(Clone, Debug, Serialize)]
pub struct Limit {
    /// Stable name for programs.
    #[serde(skip)]
    pub key: &'static str,
    /// What it bounds, with its unit.
    pub title: String,
    /// The number; none means unlimited.
    pub value: Option<u64>,
    /// What follows from it, and how to change it.
    pub detail: String,
}

/// What the kernel said in INIT, or what its version suggests.
#[derive(Clone, Debug, Serialize)]
pub struct Protocol {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Feature bits offered in INIT; none if the kernel could not be asked.
    pub flags: Option<u64>,
    /// How it is known.
    pub evidence: Evidence,
    /// The same in words.
    pub how: String,
}

/// Checks that belong together.
#[derive(Clone, Debug)]
pub struct Section {
    /// Heading for people.
    pub title: String,
    /// What was found.
    pub checks: Vec<Check>,
}

/// Everything that was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Release of the kernel, as `uname -r` tells it.
    pub kernel: String,
    /// The FUSE protocol.
    pub protocol: Protocol,
    /// By which way requests would come.
    pub channel: Choice,
    /// Type of the filesystem that the directory is on, if one was given.
    pub directory: Option<Directory>,
    /// What was checked, by subject.
    pub sections: Vec<Section>,
    /// Numbers.
    pub limits: Vec<Limit>,
}

/// The directory that was probed.
#[derive(Clone, Debug, Serialize)]
pub struct Directory {
    /// Its path, resolved.
    pub path: String,
    /// Type of its filesystem.
    pub fstype: String,
    /// Options it is mounted with.
    pub options: String,
}

/// Layout of the JSON; raised if a key goes away or changes its meaning, not if one is added.
const SCHEMA: u32 = 1;

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema", &SCHEMA)?;
        map.serialize_entry("version", env!("CARGO_PKG_VERSION"))?;
        map.serialize_entry("kernel", &self.kernel)?;
        map.serialize_entry("protocol", &self.protocol)?;
        map.serialize_entry("channel", &self.channel)?;
        map.serialize_entry("directory", &self.directory)?;
        map.serialize_entry("checks", &ByKey(self.checks().map(|check| (check.key, check)).collect()))?;
        map.serialize_entry("limits", &ByKey(self.limits.iter().map(|limit| (limit.key, limit)).collect()))?;
        map.end()
    }
}

/// A list that JSON shows as an object, in its order.
struct ByKey<'a, T>(Vec<(&'static str, &'a T)>);

impl<T: Serialize> Serialize for ByKey<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl Report {
    /// All checks, in order.
    pub fn checks(&self) -> impl Iterator<Item = &Check> {
        self.sections.iter().flat_map(|section| &section.checks)
    }

    /// The report as people read it.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let protocol = &self.protocol;
        line(
            &mut out,
            &format!(
                "Linux {}, FUSE protocol {}.{} ({})",
                self.kernel, protocol.major, protocol.minor, protocol.how
            ),
        );
        line(&mut out, &self.channel.text());
        for section in &self.sections {
            line(&mut out, &format!("\n{}", section.title));
            let mut before = None;
            for check in &section.checks {
                show(&mut out, check, before);
                before = Some(check);
            }
        }
        line(&mut out, "\nLimits");
        for limit in &self.limits {
            let value = limit.value.map_or("unlimited".to_owned(), |value| value.to_string());
            line(&mut out, &format!("  {value:>9}  {}", limit.title));
            if !limit.detail.is_empty() {
                line(&mut out, &format!("             {}", limit.detail));
            }
        }
        out
    }
}

/// A reason and remedy that are those of the check before are not repeated.
fn show(out: &mut String, check: &Check, before: Option<&Check>) {
    let verdict = match check.verdict {
        Verdict::Yes => "yes",
        Verdict::No => "no",
        Verdict::Unknown => "?",
    };
    let note = match (check.verdict, check.evidence) {
        (Verdict::Yes | Verdict::No, Evidence::Inferred) => " (inferred, not tried)",
        _ => "",
    };
    line(out, &format!("  {verdict:<4} {}{note}", check.title));
    if before.is_some_and(|before| before.detail == check.detail && before.remedy == check.remedy) {
        return;
    }
    if !check.detail.is_empty() {
        line(out, &format!("         {}", check.detail));
    }
    if let Some(remedy) = &check.remedy {
        line(out, &format!("         try: {remedy}"));
    }
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            kernel: "6.18.1".into(),
            protocol: Protocol {
                major: 7,
                minor: 45,
                flags: Some(3),
                evidence: Evidence::Tried,
                how: "asked the kernel".into(),
            },
            channel: Choice { auto: "dev-fuse", why: "there is no ring".into(), ring: None },
            directory: None,
            sections: vec![Section {
                title: "Mounting".into(),
                checks: vec![
                    Check::yes("device", "open /dev/fuse", Evidence::Tried),
                    Check::no("ring", "ring", Evidence::Read, "it is off").remedy("switch it on"),
                ],
            }],
            limits: vec![Limit {
                key: "max_write",
                title: "bytes in a write".into(),
                value: Some(4096),
                detail: String::new(),
            }],
        }
    }

    #[test]
    fn people_see_reason_and_remedy() {
        let text = report().text();
        assert!(text.contains("  no   ring\n         it is off\n         try: switch it on\n"), "{text}");
        assert!(text.starts_with("Linux 6.18.1, FUSE protocol 7.45 (asked the kernel)\n"), "{text}");
        assert!(text.contains("/dev/fuse (--channel auto): there is no ring\n"), "{text}");
        assert!(text.contains("     4096  bytes in a write\n"), "{text}");
    }

    #[test]
    fn programs_find_checks_by_key() {
        let json = serde_json::to_value(report()).expect("json");
        assert_eq!(json["schema"], 1);
        assert_eq!(json["channel"]["auto"], "dev-fuse");
        assert_eq!(json["checks"]["ring"]["verdict"], "no");
        assert_eq!(json["checks"]["ring"]["remedy"], "switch it on");
        assert_eq!(json["checks"]["device"]["evidence"], "tried");
        assert_eq!(json["limits"]["max_write"]["value"], 4096);
    }
}
