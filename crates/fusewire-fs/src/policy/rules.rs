//! The rules themselves: who may do what, where. No I/O, no state: the same question has the same answer.

use super::fold::fold;
use std::{fmt, ops::RangeInclusive, sync::Arc};

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Action {
    /// See its attributes and, if it is a directory, pass through it. Whoever may not can do nothing else there.
    Access = 1,
    /// List a directory.
    List = 1 << 1,
    /// Open a file for reading.
    Read = 1 << 2,
    /// Open a file for writing, or change its length.
    Write = 1 << 3,
    /// Run a program.
    Execute = 1 << 4,
    /// Make something new of that name, or move something there.
    Create = 1 << 5,
    /// Remove the name, or move something away from it.
    Remove = 1 << 6,
    /// Change owner, permissions, times and extended attributes.
    Change = 1 << 7,
}

impl Action {
    /// All of them, as they are called in the file.
    pub const ALL: [(&'static str, Self); 8] = [
        ("access", Self::Access),
        ("list", Self::List),
        ("read", Self::Read),
        ("write", Self::Write),
        ("execute", Self::Execute),
        ("create", Self::Create),
        ("remove", Self::Remove),
        ("change", Self::Change),
    ];

    /// From the word in the file.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == word).map(|&(_, action)| action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(_, action)| action == self).map_or("?", |(word, _)| word);
        f.write_str(word)
    }
}

/// A set of actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Actions(u16);

impl Actions {
    /// Everything.
    pub const ALL: Self = Self(0xff);
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// The same and one more.
    pub const fn with(self, action: Action) -> Self {
        Self(self.0 | action as u16)
    }

    /// Is it one of them?
    pub const fn has(self, action: Action) -> bool {
        self.0 & action as u16 != 0
    }
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing against it.
    Allow,
    /// No.
    Deny,
}

/// Who asks, as far as rules are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// User.
    pub uid: u32,
    /// Group: the one that new files of theirs get. Supplementary groups do not come with requests.
    pub gid: u32,
}

/// Subjects that are treated alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subjects {
    /// How.
    pub effect: Effect,
    /// Users.
    pub uids: RangeInclusive<u32>,
    /// Groups.
    pub gids: RangeInclusive<u32>,
}

/// Some ids.
pub type Ids = Arc<[RangeInclusive<u32>]>;

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) enum Whom {
    #[default]
    Anyone,
    /// These, and those that stand for what the placeholders with these numbers matched.
    Some { ids: Ids, placeholders: Box<[usize]> },
}

/// One component of a rule's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Exact(Box<[u8]>),
    /// With `*` and `?`.
    Glob(Box<[u8]>),
    /// A number, which stands for itself.
    Number,
    /// A name of a table, which stands for ids.
    Table(Arc<Table>),
}

/// Names and the ids they stand for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub name: String,
    /// Sorted by name.
    pub rows: Vec<(Box<[u8]>, Ids)>,
}

/// One rule.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub name: Option<String>,
    pub line: usize,
    pub effect: Effect,
    pub path: String,
    pub parts: Box<[Part]>,
    /// Whether it holds for everything below as well.
    pub below: bool,
    pub uid: Whom,
    pub gid: Whom,
    pub actions: Actions,
}

/// The rules of one file.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) rules: Vec<Rule>,
    pub(super) default: Effect,
    pub(super) ignore_case: bool,
}

/// No rules: everything is allowed.
impl Default for Policy {
    fn default() -> Self {
        Self { rules: Vec::new(), default: Effect::Allow, ignore_case: false }
    }
}

/// Which rules have to do with a place, and with the places below it. Two places of equal standing are treated alike, and so
/// is what has the same path below them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Standing(Vec<Live>);

/// A rule whose path has matched so far.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Live {
    rule: usize,
    /// How many of its components.
    matched: usize,
    /// What its placeholders stand for.
    bound: Vec<Ids>,
}

/// An answer, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Yes or no.
    pub effect: Effect,
    /// Because of which.
    pub because: Because,
}

/// Why something is decided so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// Of the rule with this number, from 0.
    Rule(usize),
    /// It is on the way to what this rule allows.
    OnTheWay(usize),
    /// No rule says anything.
    Default,
}

impl Decision {
    /// Yes?
    pub fn is_allowed(self) -> bool {
        self.effect == Effect::Allow
    }
}

impl Policy {
    /// The root's standing.
    pub fn root(&self) -> Standing {
        let live = |rule| Live { rule, matched: 0, bound: Vec::new() };
        Standing((0..self.rules.len()).map(live).collect())
    }

    /// The standing of `name` in a directory.
    pub fn child(&self, directory: &Standing, name: &[u8]) -> Standing {
        let folded;
        let name = if self.ignore_case {
            folded = fold(name);
            &*folded
        } else {
            name
        };
        Standing(directory.0.iter().filter_map(|live| self.step(live, name)).collect())
    }

    /// The standing of a path, which begins at the root.
    pub fn standing<'a>(&self, path: impl IntoIterator<Item = &'a [u8]>) -> Standing {
        path.into_iter().fold(self.root(), |above, name| self.child(&above, name))
    }

    fn step(&self, live: &Live, name: &[u8]) -> Option<Live> {
        let rule = &self.rules[live.rule];
        let Some(part) = rule.parts.get(live.matched) else { return rule.below.then(|| live.clone()) };
        let bound = match part {
            Part::Exact(exact) => (**exact == *name).then_some(None),
            Part::Glob(glob) => matches(glob, name).then_some(None),
            Part::Number => number(name).map(|number| Some(Ids::from([number..=number]))),
            Part::Table(table) => table.find(name).map(|ids| Some(ids.clone())),
        }?;
        let mut next = Live { rule: live.rule, matched: live.matched + 1, bound: live.bound.clone() };
        next.bound.extend(bound);
        Some(next)
    }

    /// May `subject` do this to what stands here? `None` is somebody who is not known, and of whom the worst is assumed.
    ///
    /// The first rule that is about the place, the subject and the action decides; where there is none, the default does.
    pub fn decide(&self, here: &Standing, subject: Option<Subject>, action: Action) -> Decision {
        for live in &here.0 {
            let rule = &self.rules[live.rule];
            let is_here = live.matched == rule.parts.len() && rule.actions.has(action);
            if is_here && rule.concerns(live, subject) {
                return Decision { effect: rule.effect, because: Because::Rule(live.rule) };
            }
        }
        if self.default == Effect::Deny && action == Action::Access {
            let leads = |live: &&Live| {
                let rule = &self.rules[live.rule];
                live.matched < rule.parts.len()
                    && rule.effect == Effect::Allow
                    && rule.may_concern(live, subject)
            };
            if let Some(live) = here.0.iter().find(leads) {
                return Decision { effect: Effect::Allow, because: Because::OnTheWay(live.rule) };
            }
        }
        Decision { effect: self.default, because: Because::Default }
    }

    /// May `subject` do this to the path, passing through what is above it? With the number of components of the place where
    /// that was decided.
    pub fn decide_path<'a>(
        &self,
        path: impl IntoIterator<Item = &'a [u8]>,
        subject: Option<Subject>,
        action: Action,
    ) -> (Decision, usize) {
        let (mut here, mut passed) = (self.root(), 0);
        for (depth, name) in path.into_iter().enumerate() {
            let decision = self.decide(&here, subject, Action::Access);
            if !decision.is_allowed() {
                return (decision, depth);
            }
            here = self.child(&here, name);
            passed = depth + 1;
        }
        (self.decide(&here, subject, action), passed)
    }

    /// Whether anybody at all may be refused access here: then the kernel must ask each time.
    pub fn guards(&self, here: &Standing) -> bool {
        for live in &here.0 {
            let rule = &self.rules[live.rule];
            if live.matched < rule.parts.len() || !rule.actions.has(Action::Access) {
                continue;
            }
            match rule.effect {
                Effect::Deny => return true,
                Effect::Allow if rule.is_about_anyone() => return false,
                Effect::Allow => {}
            }
        }
        self.default == Effect::Deny
    }

    /// Who has access here: the first that fits decides, and the default for the rest.
    pub fn access_list(&self, here: &Standing) -> (Vec<Subjects>, Effect) {
        let mut list = Vec::new();
        let is_here = |live: &&Live| {
            let rule = &self.rules[live.rule];
            live.matched == rule.parts.len() && rule.actions.has(Action::Access)
        };
        for live in here.0.iter().filter(is_here) {
            let rule = &self.rules[live.rule];
            rule.each_subject(live, rule.effect, &mut list);
            if rule.is_about_anyone() {
                return (list, self.default);
            }
        }
        if self.default == Effect::Deny {
            for live in &here.0 {
                let rule = &self.rules[live.rule];
                if live.matched < rule.parts.len() && rule.effect == Effect::Allow {
                    rule.each_subject(live, Effect::Allow, &mut list);
                }
            }
        }
        (list, self.default)
    }

    /// What to call a reason in a message.
    pub fn explain(&self, because: Because) -> String {
        let describe = |rule: usize| {
            let rule = &self.rules[rule];
            let name = rule.name.as_ref().map_or(String::new(), |name| format!(" «{name}»"));
            format!("the rule in line {}{name} for {}", rule.line, rule.path)
        };
        match because {
            Because::Rule(rule) => describe(rule),
            Because::OnTheWay(rule) => format!("it is on the way to {}", describe(rule)),
            Because::Default => "no rule is about it, and the default holds".into(),
        }
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    fn is_about_anyone(&self) -> bool {
        self.uid == Whom::Anyone && self.gid == Whom::Anyone
    }

    fn concerns(&self, live: &Live, subject: Option<Subject>) -> bool {
        match subject {
            Some(subject) => self.uid.has(subject.uid, live) && self.gid.has(subject.gid, live),
            None => self.is_about_anyone() || self.effect == Effect::Deny,
        }
    }

    /// Whom it concerns, or may concern while not all placeholders are bound, as ranges.
    fn each_subject(&self, live: &Live, effect: Effect, list: &mut Vec<Subjects>) {
        let (uids, gids) = (self.uid.ranges(live), self.gid.ranges(live));
        for uids in &uids {
            list.extend(gids.iter().map(|gids| Subjects { effect, uids: uids.clone(), gids: gids.clone() }));
        }
    }

    /// As far as is known before all placeholders are bound.
    fn may_concern(&self, live: &Live, subject: Option<Subject>) -> bool {
        match subject {
            Some(subject) => self.uid.may_have(subject.uid, live) && self.gid.may_have(subject.gid, live),
            None => self.is_about_anyone(),
        }
    }
}

impl Whom {
    fn has(&self, id: u32, live: &Live) -> bool {
        match self {
            Self::Anyone => true,
            Self::Some { ids, placeholders } => {
                contains(ids, id)
                    || placeholders
                        .iter()
                        .any(|&one| live.bound.get(one).is_some_and(|ids| contains(ids, id)))
            }
        }
    }

    fn ranges(&self, live: &Live) -> Vec<RangeInclusive<u32>> {
        const ALL: RangeInclusive<u32> = 0..=u32::MAX;
        match self {
            Self::Anyone => vec![ALL],
            Self::Some { placeholders, .. } if placeholders.iter().any(|&one| one >= live.bound.len()) => {
                vec![ALL]
            }
            Self::Some { ids, placeholders } => {
                let bound = placeholders.iter().flat_map(|&one| live.bound[one].iter());
                ids.iter().chain(bound).cloned().collect()
            }
        }
    }

    fn may_have(&self, id: u32, live: &Live) -> bool {
        match self {
            Self::Some { placeholders, .. } if placeholders.iter().any(|&one| one >= live.bound.len()) => {
                true
            }
            _ => self.has(id, live),
        }
    }
}

impl Table {
    fn find(&self, name: &[u8]) -> Option<&Ids> {
        let at = self.rows.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(&self.rows[at].1)
    }
}

fn contains(ids: &[RangeInclusive<u32>], id: u32) -> bool {
    ids.iter().any(|range| range.contains(&id))
}

/// A decimal number as it is written without need: no sign, no leading zeros.
fn number(name: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(name).ok()?;
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Does a pattern with `*` and `?` match the whole name? `?` is one character if the name is UTF-8, else one byte.
pub(crate) fn matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                retry = Some((g + 1, n));
                g += 1;
                continue;
            }
            Some(b'?') => {
                g += 1;
                n += character(&name[n..]);
                continue;
            }
            Some(byte) if *byte == name[n] => {
                g += 1;
                n += 1;
                continue;
            }
            _ => {}
        }
        let Some((after, at)) = retry else { return false };
        let at = at + character(&name[at..]);
        retry = Some((after, at));
        (g, n) = (after, at);
    }
    glob[g..].iter().all(|byte| *byte == b'*')
}

/// How long the first character is.
fn character(name: &[u8]) -> usize {
    let limit = name.len().min(4);
    (1..=limit).find(|&len| std::str::from_utf8(&name[..len]).is_ok()).unwrap_or(1)
}
