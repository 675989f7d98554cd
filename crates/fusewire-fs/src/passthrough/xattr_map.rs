//! Extended attributes under other names, by the rules of virtiofsd.

use rustix::io::{Errno, Result};
use std::{
    borrow::Cow,
    ffi::{CStr, CString},
    str::FromStr,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Prefix,
    Ok,
    Bad,
    Unsupported,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    kind: Kind,
    client: bool,
    server: bool,
    key: String,
    prepend: String,
}

impl Rule {
    fn all(kind: Kind, key: &str, prepend: &str) -> Self {
        Self { kind, client: true, server: true, key: key.into(), prepend: prepend.into() }
    }

    /// Does it say what becomes of this name of the directory's?
    fn is_for_listed(&self, name: &[u8]) -> bool {
        let Some(rest) = name.strip_prefix(self.prepend.as_bytes()) else { return false };
        // What clients could not ask for is not theirs.
        self.server && (self.kind != Kind::Prefix || rest.starts_with(self.key.as_bytes()))
    }
}

/// Rules in order; the first that matches counts. As text, each is `:TYPE:SCOPE:KEY:PREPEND:` with any separator, where
///
/// * TYPE is `prefix` (KEY gets PREPEND in front), `ok` (as it is), `bad` (`EPERM`, hidden) or `unsupported` (`EOPNOTSUPP`, hidden),
/// * SCOPE is `client` (names that are asked for, which begin with KEY), `server` (names that are listed, which begin with PREPEND)
///   or `all`;
///
/// or, as the last one, `:map:KEY:PREPEND:`, which stands for all that it takes to keep names that begin with KEY under PREPEND.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XattrMap {
    rules: Vec<Rule>,
}

impl FromStr for XattrMap {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let mut rules = Vec::new();
        let mut rest = text.trim();
        while let Some(separator) = rest.chars().next() {
            let number = rules.len() + 1;
            let mut fields = rest[separator.len_utf8()..].split(separator);
            let mut field =
                |what: &str| fields.next().ok_or_else(|| format!("rule {number} of `{text}` has no {what}"));
            let kind = field("type")?;
            let scope = if kind == "map" { "all" } else { field("scope")? };
            let (key, prepend) = (field("key")?, field("text to prepend")?);
            let length = separator.len_utf8();
            let words = [kind, key, prepend].map(|word| word.len() + length).iter().sum::<usize>();
            let used = length + words + if kind == "map" { 0 } else { scope.len() + length };
            rest = rest
                .get(used..)
                .ok_or_else(|| format!("rule {number} of `{text}` ends without {separator}"))?;
            rest = rest.trim_start();
            if kind == "map" {
                if !rest.is_empty() {
                    return Err(format!("`map` must be the last rule of `{text}`"));
                }
                rules.extend(expand(key, prepend));
                break;
            }
            let kind = match kind {
                "prefix" => Kind::Prefix,
                "ok" => Kind::Ok,
                "bad" => Kind::Bad,
                "unsupported" => Kind::Unsupported,
                other => return Err(format!("`{other}` is not prefix, ok, bad, unsupported or map")),
            };
            let (client, server) = match scope {
                "client" => (true, false),
                "server" => (false, true),
                "all" => (true, true),
                other => return Err(format!("`{other}` is not client, server or all")),
            };
            rules.push(Rule { kind, client, server, key: key.into(), prepend: prepend.into() });
        }
        let has_last = |last: fn(&Rule) -> bool| rules.iter().any(last);
        if !has_last(|rule| rule.client && rule.key.is_empty())
            || !has_last(|rule| rule.server && rule.prepend.is_empty())
        {
            return Err(format!(
                "`{text}` does not say what becomes of all names: end it with :ok:all::: or :bad:all:::"
            ));
        }
        Ok(Self { rules })
    }
}

fn expand(key: &str, prepend: &str) -> Vec<Rule> {
    let prefix = Rule::all(Kind::Prefix, key, prepend);
    match key {
        "" => vec![prefix, Rule::all(Kind::Bad, "", "")],
        // Nothing goes round it: neither by the names it makes, nor by those that were there before.
        key => vec![prefix, Rule::all(Kind::Bad, prepend, key), Rule::all(Kind::Ok, "", "")],
    }
}

impl XattrMap {
    /// The name in the directory of what a client calls so.
    pub(super) fn stored<'a>(&self, name: &'a CStr) -> Result<Cow<'a, CStr>> {
        let bytes = name.to_bytes();
        let rule = self.rules.iter().find(|rule| rule.client && bytes.starts_with(rule.key.as_bytes()));
        match rule.map(|rule| (rule.kind, &rule.prepend)) {
            Some((Kind::Ok, _)) => Ok(Cow::Borrowed(name)),
            Some((Kind::Bad, _)) => Err(Errno::PERM),
            Some((Kind::Prefix, prepend)) => {
                let stored = [prepend.as_bytes(), bytes].concat();
                CString::new(stored).map(Cow::Owned).map_err(|_| Errno::INVAL)
            }
            Some((Kind::Unsupported, _)) | None => Err(Errno::NOTSUP),
        }
    }

    /// What clients call what has this name in the directory; nothing if it is not for them.
    pub(super) fn shown<'a>(&self, name: &'a [u8]) -> Option<&'a [u8]> {
        let rule = self.rules.iter().find(|rule| rule.is_for_listed(name))?;
        match rule.kind {
            Kind::Ok => Some(name),
            Kind::Prefix => Some(&name[rule.prepend.len()..]),
            Kind::Bad | Kind::Unsupported => None,
        }
    }

    /// Does the lower filesystem know of a file's capabilities, and drop them when it must?
    pub(super) fn keeps_capabilities(&self) -> bool {
        let name = c"security.capability";
        self.stored(name).is_ok_and(|stored| *stored == *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> XattrMap {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    fn stored(map: &XattrMap, name: &CStr) -> std::result::Result<String, Errno> {
        map.stored(name).map(|name| name.to_string_lossy().into_owned())
    }

    #[test]
    fn everything_goes_under_a_prefix() {
        for text in [":map::user.virtiofs.:", ":prefix:all::user.virtiofs.::bad:all:::"] {
            let map = map(text);
            assert_eq!(stored(&map, c"trusted.a"), Ok("user.virtiofs.trusted.a".into()));
            assert_eq!(map.shown(b"user.virtiofs.trusted.a"), Some(&b"trusted.a"[..]));
            assert_eq!(map.shown(b"security.selinux"), None);
            assert!(!map.keeps_capabilities());
        }
    }

    #[test]
    fn one_namespace_goes_under_a_prefix_that_nobody_gets_round() {
        let long = "/prefix/all/trusted./user.virtiofs./\n  /bad/server//trusted./
            /bad/client/user.virtiofs.// /ok/all///";
        for text in ["/map/trusted./user.virtiofs./", long] {
            let map = map(text);
            assert_eq!(stored(&map, c"trusted.a"), Ok("user.virtiofs.trusted.a".into()));
            assert_eq!(stored(&map, c"user.virtiofs.trusted.a"), Err(Errno::PERM));
            assert_eq!(stored(&map, c"user.a"), Ok("user.a".into()));
            assert_eq!(map.shown(b"user.virtiofs.trusted.a"), Some(&b"trusted.a"[..]));
            assert_eq!(map.shown(b"trusted.a"), None);
            assert_eq!(map.shown(b"user.a"), Some(&b"user.a"[..]));
            assert!(map.keeps_capabilities());
        }
    }

    #[test]
    fn what_is_unsupported_is_told_so() {
        let map = map(":unsupported:all:security.:security.::ok:all:::");
        assert_eq!(stored(&map, c"security.selinux"), Err(Errno::NOTSUP));
        assert_eq!(map.shown(b"security.selinux"), None);
        assert_eq!(stored(&map, c"user.a"), Ok("user.a".into()));
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        for text in [
            "",
            ":",
            ":map:",
            ":map::",
            ":map::user.",
            ":nothing:all:::",
            ":ok:some:::",
            ":ok:all::",
            ":ok:client:::",
            ":ok:server:::",
            ":map:a:b::ok:all:::",
            ":prefix:all:trusted.:user.:",
        ] {
            assert!(text.parse::<XattrMap>().is_err(), "{text}");
        }
    }
}
