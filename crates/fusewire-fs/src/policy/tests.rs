//! Rules against a plain reading of them, and mistakes in files.

use super::{
    rules::{Part, Rule, Whom, matches},
    *,
};
use fusewire::{Generation, NodeId, abi, channel::FakeKernel};
use proptest::prelude::*;
use std::{path::Path, time::Duration};

fn parse(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text, Path::new("rules.toml"))
}

fn path(text: &str) -> Vec<&[u8]> {
    text.split('/').filter(|name| !name.is_empty()).map(str::as_bytes).collect()
}

fn may(policy: &Policy, uid: u32, action: Action, at: &str) -> bool {
    policy.decide_path(path(at), Some(Subject { uid, gid: uid }), action).0.is_allowed()
}

const APPS: &str = r#"
[tables.app]
"com.example.mail" = 10101
"com.example.chat" = [10102, "10200-10299"]

[[rule]]
name = "its own"
path = "/Android/data/{app}"
effect = "allow"
uid = "{app}"

[[rule]]
path = "/Android/data/*"
effect = "deny"

[[rule]]
path = "/Android/data"
below = false
effect = "deny"
op = ["list", "create"]
"#;

#[test]
fn an_application_has_a_directory_of_its_own() {
    let policy = parse(APPS).expect("parses");
    let (mail, chat) = ("/Android/data/com.example.mail", "/Android/data/com.example.chat/cache/x");
    for (uid, at, expected) in [
        (10101, mail, true),
        (10101, chat, false),
        (10102, chat, true),
        (10250, chat, true),
        (0, mail, false),
    ] {
        for (_, action) in Action::ALL {
            assert_eq!(may(&policy, uid, action, at), expected, "{uid} {action} {at}");
        }
    }
    assert!(!may(&policy, 10101, Action::Access, "/Android/data/other"), "not in the table");
    assert!(may(&policy, 10101, Action::Access, "/Android/data"));
    assert!(!may(&policy, 10101, Action::List, "/Android/data"));
    assert!(may(&policy, 10101, Action::List, mail), "the rule is about the directory above alone");
    assert!(may(&policy, 5, Action::Write, "/Music/song"));
    let (decision, depth) = policy.decide_path(path(chat), Some(Subject { uid: 1, gid: 1 }), Action::Read);
    assert_eq!((decision.because, depth), (Because::Rule(1), 3));
    assert!(policy.explain(decision.because).contains("line 12"), "{}", policy.explain(decision.because));
}

#[test]
fn a_number_in_a_path_is_its_users() {
    let rules = "[[rule]]\npath = \"/users/{uid}\"\neffect = \"allow\"\nuid = \"{uid}\"\n\
                 [[rule]]\npath = \"/users/*\"\neffect = \"deny\"\n";
    let policy = parse(rules).expect("parses");
    assert!(may(&policy, 7, Action::Write, "/users/7/x") && !may(&policy, 7, Action::Access, "/users/8"));
    for name in ["07", "+7", "7x", "4294967296", " 7"] {
        assert!(!may(&policy, 7, Action::Access, &format!("/users/{name}")), "{name}");
    }
}

#[test]
fn what_is_denied_by_default_is_reached_on_the_way_to_what_is_allowed() {
    let policy = parse("default = \"deny\"\n[[rule]]\npath = \"/a/b\"\neffect = \"allow\"\nuid = [5, 6]\n")
        .expect("parses");
    assert!(may(&policy, 5, Action::Read, "/a/b/c") && may(&policy, 5, Action::Access, "/a"));
    assert!(!may(&policy, 5, Action::List, "/a") && !may(&policy, 5, Action::Access, "/b"));
    assert!(!may(&policy, 7, Action::Access, "/") && !may(&policy, 7, Action::Read, "/a/b/c"));
}

#[test]
fn case_is_regarded_unless_told_otherwise() {
    let rule = "[[rule]]\npath = \"/Secret/Ümlaut\"\neffect = \"deny\"\n";
    let strict = parse(rule).expect("parses");
    let loose = parse(&format!("ignore_case = true\n{rule}")).expect("parses");
    assert!(
        may(&strict, 1, Action::Read, "/SECRET/ümlaut") && !may(&loose, 1, Action::Read, "/SECRET/ümlaut")
    );
    assert!(!may(&strict, 1, Action::Read, "/Secret/Ümlaut"));
}

/// Directories of ext4, F2FS and tmpfs that ignore case compare names in the form NFDICF: full folding of case, canonical
/// decomposition, without what is not displayed.
#[test]
fn a_name_spelled_otherwise_is_the_same_name_where_case_is_ignored() {
    for (rule, name, is_same) in [
        ("secret", "\u{17f}ecret", true),
        ("secret", "se\u{ad}cret", true),
        ("secret", "\u{feff}sec\u{200d}ret\u{e0101}", true),
        ("se\u{200b}cret", "SECRET", true),
        ("straße", "STRASSE", true),
        ("STRASSE", "stra\u{1e9e}e", true),
        ("\u{39f}\u{394}\u{39f}\u{3a3}", "\u{3bf}\u{3b4}\u{3bf}\u{3c2}", true),
        ("\u{e9}", "e\u{301}", true),
        ("\u{c9}", "e\u{ad}\u{301}", true),
        ("\u{1eb7}", "A\u{306}\u{323}", true),
        ("\u{1fb3}", "\u{391}\u{345}", true),
        ("\u{1fb3}", "\u{3b1}\u{3b9}", true),
        ("kelvin", "\u{212a}elvin", true),
        ("\u{212b}", "a\u{30a}", true),
        ("file", "\u{fb01}le", true),
        ("\u{130}", "i\u{307}", true),
        ("\u{ac01}", "\u{1100}\u{1161}\u{11a8}", true),
        // Other letters, whatever they look like.
        ("i", "\u{131}", false),
        ("a", "\u{ff21}", false),
        ("e", "\u{e9}", false),
        ("1", "\u{2460}", false),
        ("secret", "sec ret", false),
    ] {
        let rule = format!("[[rule]]\npath = \"/{rule}\"\neffect = \"deny\"\n");
        let strict = parse(&rule).expect("parses");
        let loose = parse(&format!("ignore_case = true\n{rule}")).expect("parses");
        assert!(may(&strict, 1, Action::Access, name), "{rule} {name:?}");
        assert_eq!(!may(&loose, 1, Action::Access, name), is_same, "{rule} {name:?}");
    }
    // Patterns see the name as it is compared: a letter with its accent is one character.
    let glob = parse("ignore_case = true\n[[rule]]\npath = \"/A?C*\"\neffect = \"deny\"\n").expect("parses");
    for name in ["a\u{e9}c", "ae\u{301}c", "ABCD"] {
        assert!(!may(&glob, 1, Action::Access, name), "{name}");
    }
    // Not text: as it is.
    let table =
        "ignore_case = true\n[tables.t]\n\"Stra\u{df}e\" = 5\n[[rule]]\npath = \"/{t}\"\neffect = \"deny\"\n";
    let table = parse(table).expect("parses");
    let standing = |name: &'static [u8]| table.standing([name]);
    assert!(table.guards(&standing(b"STRASSE")) && !table.guards(&standing(b"STRASSE\xff")));
}

#[test]
fn mistakes_are_found_and_explained() {
    let at = |text: &str| {
        let error = parse(text).expect_err(text);
        let (line, _) = error.position().expect("a place");
        (line, format!("{error}\n{}", error.remedy()))
    };
    let rule = |more: &str| format!("\n[[rule]]\npath = \"/a\"\neffect = \"deny\"\n{more}\n");
    for (text, line, words) in [
        ("default = \"no\"".to_owned(), 1, "allow"),
        ("rules = 1".to_owned(), 1, "rules"),
        ("x = [".to_owned(), 1, "rules.toml:1:"),
        (rule("uid = -1"), 5, "4294967294"),
        (rule("uid = \"5-3\""), 5, "range"),
        (rule("uid = \"{app}\""), 5, "not in the path"),
        (rule("uid = []"), 5, "nobody"),
        (rule("op = \"chmod\""), 5, "access, list, read, write"),
        (rule("op = []"), 5, "about nothing"),
        (rule("user = 5"), 5, "user"),
        ("[[rule]]\neffect = \"deny\"".to_owned(), 1, "path"),
        ("[[rule]]\npath = \"a\"\neffect = \"deny\"".to_owned(), 2, "\"/a\""),
        ("[[rule]]\npath = \"/a/../b\"\neffect = \"deny\"".to_owned(), 2, ".."),
        ("[[rule]]\npath = \"/a/\"\neffect = \"deny\"".to_owned(), 2, "single slashes"),
        ("[[rule]]\npath = \"/{app}\"\neffect = \"deny\"".to_owned(), 2, "[tables.app]"),
        ("[[rule]]\npath = \"/x{uid}\"\neffect = \"deny\"".to_owned(), 2, "of its own"),
        ("[[rule]]\npath = \"/**\"\neffect = \"deny\"".to_owned(), 2, "below = false"),
        ("[tables.app]\na = \"b\"\n".to_owned(), 2, "range"),
        ("ignore_case = true\n[tables.app]\na = 1\nA = 2\n".to_owned(), 2, "twice"),
    ] {
        let (found, said) = at(&text);
        assert!(found == line && said.contains(words), "{text}\nline {found}: {said}");
    }
    let error = Policy::load(Path::new("/nowhere/rules.toml")).expect_err("missing");
    assert!(error.position().is_none() && error.to_string().contains("/nowhere/rules.toml"), "{error}");
}

#[test]
fn patterns_match_as_in_a_shell() {
    for (glob, name, expected) in [
        ("*", "", true),
        ("a*", "a", true),
        ("a*c", "abbc", true),
        ("a*c", "abcb", false),
        ("*.key", "x.key", true),
        ("*.key", "x.keys", false),
        ("a?c", "aüc", true),
        ("?", "", false),
        ("**a", "bba", true),
    ] {
        assert_eq!(matches(glob.as_bytes(), name.as_bytes()), expected, "{glob} {name}");
    }
}

/// Names, few enough to meet often.
const NAMES: [&str; 4] = ["a", "b", "7", "8"];

fn any_name() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&NAMES[..])
}

fn any_path(longest: usize) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(any_name(), 0..=longest)
}

fn any_rule() -> impl Strategy<Value = String> {
    let part = proptest::sample::select(&["a", "b", "7", "*", "?", "{uid}", "{t}"][..]);
    let path = proptest::collection::vec(part, 0..4);
    let uid = proptest::sample::select(&["", "7", "8", "[7, 8]", "\"8-9\"", "\"own\""][..]);
    let ops = proptest::sample::select(&["", "\"access\"", "\"read\"", "[\"read\", \"write\"]"][..]);
    (path, any::<bool>(), any::<bool>(), uid, ops).prop_map(|(mut path, allow, below, uid, ops)| {
        for placeholder in ["{uid}", "{t}"] {
            if path.iter().filter(|part| **part == placeholder).count() > 1 {
                path.retain(|part| *part != placeholder);
            }
        }
        let own = ["{uid}", "{t}"].into_iter().find(|placeholder| path.contains(placeholder));
        let uid = match (uid, own) {
            ("\"own\"", Some(own)) => format!("uid = \"{own}\"\n"),
            ("" | "\"own\"", _) => String::new(),
            (uid, _) => format!("uid = {uid}\n"),
        };
        let ops = if ops.is_empty() { String::new() } else { format!("op = {ops}\n") };
        let effect = if allow { "allow" } else { "deny" };
        let path = path.join("/");
        format!("[[rule]]\npath = \"/{path}\"\neffect = \"{effect}\"\nbelow = {below}\n{uid}{ops}")
    })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (any::<bool>(), proptest::collection::vec(any_rule(), 0..6)).prop_map(|(allow, rules)| {
        let default = if allow { "allow" } else { "deny" };
        let text = format!("default = \"{default}\"\n[tables.t]\na = 7\nb = [8, 9]\n{}", rules.concat());
        parse(&text).unwrap_or_else(|error| panic!("{text}\n{error}"))
    })
}

/// What the manual says, read naively: is the rule about the path, and about whom?
fn reading(rule: &Rule, path: &[&str], uid: u32) -> bool {
    let reaches = if rule.below { path.len() >= rule.parts.len() } else { path.len() == rule.parts.len() };
    let mut stands_for = Vec::new();
    let matching = rule.parts.iter().zip(path).all(|(part, name)| match part {
        Part::Exact(exact) => **exact == *name.as_bytes(),
        Part::Glob(glob) => glob[..] == *b"*" || name.len() == 1,
        Part::Number => name.parse::<u32>().inspect(|id| stands_for.push(vec![*id])).is_ok(),
        Part::Table(_) => match *name {
            "a" => {
                stands_for.push(vec![7]);
                true
            }
            "b" => {
                stands_for.push(vec![8, 9]);
                true
            }
            _ => false,
        },
    });
    let whom = match &rule.uid {
        Whom::Anyone => true,
        Whom::Some { ids, placeholders } => {
            ids.iter().any(|range| range.contains(&uid))
                || placeholders.iter().any(|one| stands_for.get(*one).is_some_and(|ids| ids.contains(&uid)))
        }
    };
    reaches && matching && whom
}

proptest! {
    #[test]
    fn the_first_rule_that_is_about_it_decides(
        policy in any_policy(), path in any_path(5), uid in 6_u32..10, action in 0_usize..8,
    ) {
        let action = Action::ALL[action].1;
        let names = path.iter().map(|name| name.as_bytes());
        let decision = policy.decide(&policy.standing(names), Some(Subject { uid, gid: 1 }), action);
        let first = policy.rules.iter().position(|rule| rule.actions.has(action) && reading(rule, &path, uid));
        match first {
            Some(first) => {
                prop_assert_eq!(decision.because, Because::Rule(first));
                prop_assert_eq!(decision.effect, policy.rules[first].effect);
            }
            None => {
                let on_the_way = matches!(decision.because, Because::OnTheWay(_));
                prop_assert!(on_the_way || decision.because == Because::Default && decision.effect == policy.default);
            }
        }
    }

    #[test]
    fn where_nothing_is_guarded_nobody_is_refused_access(policy in any_policy(), path in any_path(5), uid in 6_u32..10) {
        let standing = policy.standing(path.iter().map(|name| name.as_bytes()));
        if !policy.guards(&standing) {
            let subject = Some(Subject { uid, gid: 1 });
            prop_assert!(policy.decide(&standing, subject, Action::Access).is_allowed());
            prop_assert!(policy.decide(&standing, None, Action::Access).is_allowed());
        }
    }

    #[test]
    fn whoever_may_not_pass_reaches_nothing_below(
        policy in any_policy(), above in any_path(3), below in any_path(3), uid in 6_u32..10, action in 0_usize..8,
    ) {
        let subject = Some(Subject { uid, gid: 1 });
        let names = || above.iter().map(|name| name.as_bytes());
        if !policy.decide_path(names(), subject, Action::Access).0.is_allowed() && !below.is_empty() {
            let all = names().chain(below.iter().map(|name| name.as_bytes()));
            prop_assert!(!policy.decide_path(all, subject, Action::ALL[action].1).0.is_allowed());
        }
    }

    #[test]
    fn of_equal_standing_is_what_is_treated_alike(
        policy in any_policy(), one in any_path(3), other in any_path(3), below in any_path(3), uid in 6_u32..10,
    ) {
        let standing = |path: &[&str]| policy.standing(path.iter().map(|name| name.as_bytes()));
        let (mut one, mut other) = (standing(&one), standing(&other));
        prop_assume!(one == other);
        for name in below {
            (one, other) = (policy.child(&one, name.as_bytes()), policy.child(&other, name.as_bytes()));
            for (_, action) in Action::ALL {
                let subject = Some(Subject { uid, gid: 1 });
                prop_assert_eq!(policy.decide(&one, subject, action), policy.decide(&other, subject, action));
            }
        }
    }

    #[test]
    fn a_list_of_subjects_says_what_the_rules_say(policy in any_policy(), path in any_path(5), uid in 6_u32..10) {
        let standing = policy.standing(path.iter().map(|name| name.as_bytes()));
        let (list, others) = policy.access_list(&standing);
        let first = list.iter().find(|one| one.uids.contains(&uid) && one.gids.contains(&1));
        let decision = policy.decide(&standing, Some(Subject { uid, gid: 1 }), Action::Access);
        prop_assert_eq!(first.map_or(others, |one| one.effect), decision.effect);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        let _ = parse(&text);
        let _ = parse(&format!("[[rule]]\npath = \"{text}\"\neffect = \"deny\""));
    }
}

/// Opens nothing: the kernel need not ask.
#[derive(Debug)]
struct Opener;

impl fusewire::FileSystem for Opener {}

#[test]
fn the_kernel_may_open_without_asking_only_where_there_are_never_rules() {
    let open = |kernel: &FakeKernel<Policed<Opener>>| {
        kernel.call(abi::Opcode::Opendir, NodeId::ROOT.raw(), &abi::OpenIn::default(), &[]).map(drop)
    };
    let none = Policed::without_rules(Opener);
    let switch = none.switch();
    let kernel = FakeKernel::start(none).expect("a session");
    assert_eq!(open(&kernel), Err(fusewire::Errno::NOSYS));
    // Were they put in force, whoever has opened would not be kept to them.
    switch.put_in_force(parse("default = \"deny\"").expect("parses"));
    assert_eq!(open(&kernel), Err(fusewire::Errno::NOSYS));
    for (rules, expected) in [("", Ok(())), ("default = \"deny\"", Err(fusewire::Errno::ACCESS))] {
        let some = Policed::new(Opener, parse(rules).expect("parses"));
        assert_eq!(open(&FakeKernel::start(some).expect("a session")), expected, "{rules}");
    }
}

/// What the kernel would answer again.
#[derive(Debug, Default)]
struct Answers(std::sync::Mutex<std::collections::BTreeSet<(u64, Vec<u8>)>>);

#[derive(Debug)]
struct ByKernel(std::sync::Arc<Answers>);

impl InKernel for ByKernel {
    fn denied(&self, _: Moment, _: Subject, _: Action) {}
    fn denials_of(&self, _: u64) {}
    fn close(&self, _: (NodeId, Generation), _: &[Subjects], _: Effect) -> bool {
        false
    }
    fn open(&self, _: (NodeId, Generation)) {}
    fn absent(&self, node: (NodeId, Generation), name: &[u8], _: Duration) {
        self.0.0.lock().unwrap().insert((node.0.raw(), name.to_vec()));
    }
    fn answered(&self) -> (u64, u64) {
        (0, 0)
    }
    fn ended(&self) {}
    fn perhaps_present(&self, node: (NodeId, Generation), name: &[u8]) {
        self.0.0.lock().unwrap().remove(&(node.0.raw(), name.to_vec()));
    }
}

/// Not only those that are set through the mount: the filesystem hears of changes below, and says so to the kernel.
#[test]
fn what_is_absent_is_so_until_it_is_set_below() {
    use crate::passthrough::{CacheProfile, Coherence, Options, Passthrough};
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f");
    std::fs::write(&path, "").expect("a file");
    let options = Options { cache: CacheProfile::Coherent, ..Options::default() };
    let inner = Passthrough::new(dir.path(), options).expect("a filesystem");
    let caching = inner.caching();
    let policed = Policed::new(inner, parse("").expect("no rules"));
    let answers = std::sync::Arc::new(Answers::default());
    policed.switch().answer_in_kernel(Box::new(ByKernel(answers.clone())));
    let kernel = FakeKernel::start(policed).expect("a session");
    if caching.coherence() != Coherence::Told {
        return eprintln!("skipped: {:?}", caching.coherence());
    }
    let node = kernel.lookup(NodeId::ROOT, c"f").expect("found").nodeid;
    let get = abi::GetxattrIn { size: 100, ..Default::default() };
    let ask = || kernel.call(abi::Opcode::Getxattr, node, &get, b"user.x\0");
    assert_eq!(ask(), Err(fusewire::Errno::NODATA));
    let is_told = || answers.0.lock().unwrap().contains(&(node, b"user.x".to_vec()));
    assert!(is_told());
    rustix::fs::setxattr(&path, c"user.x", b"1", rustix::fs::XattrFlags::empty()).expect("set below");
    let begin = std::time::Instant::now();
    while is_told() {
        assert!(begin.elapsed() < Duration::from_secs(5), "it was set below");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(ask(), Ok(b"1".to_vec()));
}
