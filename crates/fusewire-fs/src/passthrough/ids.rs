//! Users and groups that have other numbers for clients than in the directory, as virtiofsd translates them.

use rustix::io::{Errno, Result};
use std::{fmt, str::FromStr};

/// How a range of ids is translated. *Guest* ids are the clients', *host* ids those of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Guest,
    Host,
    Map,
    SquashGuest,
    SquashHost,
    ForbidGuest,
}

/// One rule, as text `KIND:FROM:TO:COUNT`, with any separator:
///
/// * `guest:GUEST:HOST:COUNT`, `host:HOST:GUEST:COUNT`: a range becomes another, in one direction;
/// * `map:GUEST:HOST:COUNT`: in both;
/// * `squash-guest:GUEST:HOST:COUNT`, `squash-host:HOST:GUEST:COUNT`: a range becomes one id, in one direction;
/// * `forbid-guest:GUEST:COUNT`: clients get nothing in the name of these, and cannot give anything to them (`EPERM`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRule {
    kind: Kind,
    from: u32,
    to: u32,
    count: u32,
}

impl FromStr for IdRule {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let end = text
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_')
            .ok_or_else(|| format!("`{text}` is not KIND:FROM:TO:COUNT"))?;
        let kind = match text[..end].to_ascii_lowercase().as_str() {
            "guest" => Kind::Guest,
            "host" => Kind::Host,
            "map" => Kind::Map,
            "squash-guest" => Kind::SquashGuest,
            "squash-host" => Kind::SquashHost,
            "forbid-guest" => Kind::ForbidGuest,
            other => {
                return Err(format!(
                    "`{other}` is not guest, host, map, squash-guest, squash-host or forbid-guest"
                ));
            }
        };
        let separator = text[end..].chars().next().unwrap_or(':');
        let numbers: Vec<u32> = text[end + separator.len_utf8()..]
            .split(separator)
            .map(|word| word.parse().map_err(|_| format!("`{word}` in `{text}` is no id")))
            .collect::<std::result::Result<_, _>>()?;
        let (from, to, count) = match (kind, &numbers[..]) {
            (Kind::ForbidGuest, &[from, count]) => (from, 0, count),
            (Kind::ForbidGuest, _) => return Err(format!("`{text}` is not forbid-guest:FROM:COUNT")),
            (_, &[from, to, count]) => (from, to, count),
            _ => return Err(format!("`{text}` is not KIND:FROM:TO:COUNT")),
        };
        let single = matches!(kind, Kind::SquashGuest | Kind::SquashHost | Kind::ForbidGuest);
        let fits = |first: u32| first.checked_add(count).is_some();
        if count == 0 || !fits(from) || !(single || fits(to)) {
            return Err(format!("`{text}`: there is no such range of ids"));
        }
        Ok(Self { kind, from, to, count })
    }
}

/// What becomes of a range of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// They become those that begin here.
    Range(u32),
    /// They all become this one.
    One(u32),
    Forbidden,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first: u32,
    count: u32,
    fate: Fate,
}

/// Spans in order, none of which lies over another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Spans(Vec<Span>);

impl Spans {
    fn add(&mut self, first: u32, count: u32, fate: Fate) -> std::result::Result<(), String> {
        let at = self.0.partition_point(|span| span.first < first);
        let before = at.checked_sub(1).map(|at| self.0[at]);
        let meets = before.is_some_and(|span| first - span.first < span.count)
            || self.0.get(at).is_some_and(|span| span.first - first < count);
        if meets {
            return Err(format!(
                "two rules say what becomes of some of the ids {first} to {}",
                first + count - 1
            ));
        }
        self.0.insert(at, Span { first, count, fate });
        Ok(())
    }

    fn fate(&self, id: u32) -> Fate {
        let at = self.0.partition_point(|span| span.first <= id);
        match at.checked_sub(1).map(|at| self.0[at]) {
            Some(span) if id - span.first < span.count => match span.fate {
                Fate::Range(to) => Fate::One(to + (id - span.first)),
                fate => fate,
            },
            _ => Fate::One(id),
        }
    }
}

/// All rules for users, or for groups. What none speaks of stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap {
    to_host: Spans,
    to_guest: Spans,
}

impl fmt::Display for IdMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ranges of the guest, {} of the host", self.to_host.0.len(), self.to_guest.0.len())
    }
}

impl IdMap {
    /// From rules, in any order.
    ///
    /// # Errors
    /// If two of them speak of the same ids in the same direction.
    pub fn new(rules: &[IdRule]) -> std::result::Result<Self, String> {
        let mut map = Self::default();
        for &IdRule { kind, from, to, count } in rules {
            match kind {
                Kind::Guest => map.to_host.add(from, count, Fate::Range(to))?,
                Kind::Host => map.to_guest.add(from, count, Fate::Range(to))?,
                Kind::SquashGuest => map.to_host.add(from, count, Fate::One(to))?,
                Kind::SquashHost => map.to_guest.add(from, count, Fate::One(to))?,
                Kind::ForbidGuest => map.to_host.add(from, count, Fate::Forbidden)?,
                Kind::Map => {
                    map.to_host.add(from, count, Fate::Range(to))?;
                    map.to_guest.add(to, count, Fate::Range(from))?;
                }
            }
        }
        Ok(map)
    }

    /// Does it change nothing?
    pub fn is_empty(&self) -> bool {
        self.to_host.0.is_empty() && self.to_guest.0.is_empty()
    }

    /// A client's id, as the directory has it.
    pub(super) fn host(&self, id: u32) -> Result<u32> {
        match self.to_host.fate(id) {
            Fate::Forbidden => Err(Errno::PERM),
            Fate::One(id) | Fate::Range(id) => Ok(id),
        }
    }

    /// An id of the directory, as clients see it.
    pub(super) fn guest(&self, id: u32) -> u32 {
        match self.to_guest.fate(id) {
            Fate::One(id) | Fate::Range(id) => id,
            Fate::Forbidden => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rules: &[&str]) -> std::result::Result<IdMap, String> {
        let rules: Vec<IdRule> =
            rules.iter().map(|rule| rule.parse()).collect::<std::result::Result<_, _>>()?;
        IdMap::new(&rules)
    }

    #[test]
    fn ids_are_translated_each_way() {
        let map = map(&["map:0:100000:1000", "squash-guest/1000/5/10", "forbid-guest:2000:2", "host:7:70:1"])
            .expect("map");
        for (guest, host) in [
            (0, Ok(100_000)),
            (999, Ok(100_999)),
            (1000, Ok(5)),
            (1009, Ok(5)),
            (1010, Ok(1010)),
            (2000, Err(Errno::PERM)),
            (2001, Err(Errno::PERM)),
            (2002, Ok(2002)),
            (u32::MAX, Ok(u32::MAX)),
        ] {
            assert_eq!(map.host(guest), host, "{guest}");
        }
        for (host, guest) in [(100_000, 0), (100_999, 999), (101_000, 101_000), (7, 70), (5, 5), (0, 0)] {
            assert_eq!(map.guest(host), guest, "{host}");
        }
        assert!(IdMap::default().is_empty() && !map.is_empty());
    }

    #[test]
    fn rules_that_cannot_be_meant_are_refused() {
        for rules in [
            &["map:0:1"][..],
            &["map:0:1:2:3"],
            &["maps:0:1:2"],
            &["forbid-guest:1:2:3"],
            &["map"],
            &["guest:a:0:1"],
            &["guest:0:0:0"],
            &["guest:4294967295:0:1"],
            &["guest:0:4294967295:1"],
            &["guest:0:5:10", "map:9:50:1"],
            &["guest:9:5:10", "map:0:50:10"],
        ] {
            assert!(map(rules).is_err(), "{rules:?}");
        }
        assert!(map(&["guest:0:5:10", "guest:10:50:1", "squash-guest:11:4294967294:10"]).is_ok());
    }
}
