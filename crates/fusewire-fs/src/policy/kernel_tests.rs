//! What the kernel is told to answer by itself, and what it is to forget: with a kernel that closes what it is told to.

use super::*;
use fusewire::{
    Attr, Caller, Context, Entry, Errno, FileSystem, Generation, NodeId, Opened, Result, Started, abi,
    channel::FakeKernel, notify::Notifier, op::*, reply::DirPlusSink,
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const SECOND: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);

fn parse(text: &str) -> Policy {
    Policy::parse(text, Path::new("rules.toml")).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// `/secret` is closed to whom `more` says.
fn closed_to(more: &str) -> String {
    format!("[[rule]]\npath = \"/secret\"\neffect = \"deny\"\n{more}\n")
}

/// What the kernel was told.
#[derive(Debug, Default)]
struct Told {
    closed: BTreeMap<NodeId, (Vec<Subjects>, Effect)>,
    /// How often a list was handed over.
    lists: usize,
    absent: BTreeMap<NodeId, Duration>,
}

/// Closes all places whose lists are not longer than it can bear.
#[derive(Clone, Debug, Default)]
struct Closing(Arc<Mutex<Told>>);

const LIST_MAX: usize = 2;

impl InKernel for Closing {
    fn denied(&self, _: Moment, _: Subject, _: Action) {}
    fn denials_of(&self, _: u64) {}
    fn close(&self, (node, _): (NodeId, Generation), list: &[Subjects], others: Effect) -> bool {
        let fits = list.len() <= LIST_MAX;
        let mut told = self.0.lock().unwrap();
        if fits {
            told.lists += 1;
            told.closed.insert(node, (list.to_vec(), others));
        }
        fits
    }
    fn open(&self, (node, _): (NodeId, Generation)) {
        self.0.lock().unwrap().closed.remove(&node);
    }
    fn absent(&self, (node, _): (NodeId, Generation), _: &[u8], valid: Duration) {
        self.0.lock().unwrap().absent.insert(node, valid);
    }
    fn answered(&self) -> (u64, u64) {
        (0, 0)
    }
    fn ended(&self) {}
    fn perhaps_present(&self, (node, _): (NodeId, Generation), _: &[u8]) {
        self.0.lock().unwrap().absent.remove(&node);
    }
}

const SECRET: NodeId = NodeId::new(2);
const OPEN: NodeId = NodeId::new(3);
const FILE: NodeId = NodeId::new(4);
/// Its attributes are valid for a second, those of all others without limit.
const BRIEF: NodeId = NodeId::new(5);

/// Two directories with a file that has a name in each, and another file. Names are whatever it is told they are.
#[derive(Debug, Default)]
struct Shelf {
    gone: Arc<Mutex<Vec<(NodeId, &'static str)>>>,
    /// Whether the kernel may remember that a name is absent.
    remembers_absent: bool,
    notifier: Arc<OnceLock<Notifier>>,
}

fn entry(node: NodeId) -> Entry {
    let attr = if [SECRET, OPEN].contains(&node) { Attr::directory() } else { Attr::file(0) };
    Entry::new(node, attr.with_ttl(if node == BRIEF { SECOND } else { Duration::MAX }))
}

impl FileSystem for Shelf {
    fn started(&self, session: &Started) {
        _ = self.notifier.set(session.notifier.clone());
    }

    async fn lookup(&self, _: &Context, op: Lookup<'_>) -> Result<Entry> {
        let name = std::str::from_utf8(op.name.as_bytes()).unwrap();
        let is_gone = self.gone.lock().unwrap().contains(&(op.parent, name));
        match (op.parent, name) {
            (NodeId::ROOT, "secret") => Ok(entry(SECRET)),
            (NodeId::ROOT, "open") => Ok(entry(OPEN)),
            (NodeId::ROOT, "brief") => Ok(entry(BRIEF)),
            (SECRET | OPEN, "f") if !is_gone => Ok(entry(FILE)),
            _ if self.remembers_absent => Ok(Entry::absent(SECOND)),
            _ => Err(Errno::NOENT),
        }
    }

    async fn getattr(&self, _: &Context, op: Getattr) -> Result<Attr> {
        Ok(entry(op.node).attr)
    }

    async fn rename(&self, _: &Context, _: Rename<'_>) -> Result<()> {
        Ok(())
    }

    async fn readdirplus(&self, _: &Context, _: Readdirplus, out: &mut DirPlusSink<'_>) -> Result<()> {
        assert!(out.put(&entry(BRIEF), b"brief", 1) && out.put(&entry(OPEN), b"open", 2));
        Ok(())
    }

    async fn tmpfile(&self, _: &Context, _: Tmpfile<'_>) -> Result<(Entry, Opened)> {
        Ok((entry(BRIEF), Opened::default()))
    }

    async fn getxattr(
        &self,
        _: &Context,
        _: Getxattr<'_>,
        _: &mut fusewire::reply::XattrSink<'_>,
    ) -> Result<()> {
        Err(Errno::NODATA)
    }
}

/// The shelf under these rules, the kernel that asks, and what it was told.
fn start(shelf: Shelf, rules: &str) -> (FakeKernel<Policed<Shelf>>, PolicySwitch, Closing) {
    let policed = Policed::new(shelf, parse(rules));
    let (switch, closing) = (policed.switch(), Closing::default());
    switch.answer_in_kernel(Box::new(closing.clone()));
    (FakeKernel::start(policed).expect("a session"), switch, closing)
}

/// Puts rules in force while the kernel reads what it is told; answers which nodes it is to forget.
fn put_in_force(kernel: &FakeKernel<Policed<Shelf>>, switch: &PolicySwitch, rules: &str) -> Vec<NodeId> {
    let (is_done, mut nodes) = (AtomicBool::new(false), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            switch.put_in_force(parse(rules));
            is_done.store(true, Ordering::Release);
        });
        loop {
            let was_done = is_done.load(Ordering::Acquire);
            let told = kernel.notification(Duration::from_millis(20));
            nodes.extend(told.as_deref().map(forgotten));
            if was_done && told.is_none() {
                break;
            }
        }
    });
    nodes
}

/// The node of a notification.
fn forgotten(message: &[u8]) -> NodeId {
    let at = size_of::<abi::OutHeader>();
    NodeId::new(u64::from_ne_bytes(message[at..at + 8].try_into().unwrap()))
}

fn as_user(kernel: &FakeKernel<Policed<Shelf>>, uid: u32) {
    kernel.set_caller(Caller { uid, gid: uid, pid: 1 });
}

#[test]
fn new_rules_reach_what_the_kernel_has_closed() {
    let first = closed_to("uid = 1000");
    for rules in [
        closed_to("uid = 1001"),
        closed_to("uid = [1000, 1001]"),
        closed_to("gid = 1000"),
        closed_to("uid = 1000\ngid = 7"),
        closed_to(""),
        format!("default = \"deny\"\n{first}"),
        format!("default = \"deny\"\n{first}").replace("\"deny\"\nuid", "\"allow\"\nuid"),
        // The same for this place, but by a rule of another number.
        format!("[[rule]]\npath = \"/open\"\neffect = \"allow\"\n{}", closed_to("uid = 1001")),
    ] {
        let (kernel, switch, closing) = start(Shelf::default(), &first);
        let list = || closing.0.lock().unwrap().closed.get(&SECRET).cloned();
        let expected = |rules: &str| {
            let policy = parse(rules);
            Some(policy.access_list(&policy.standing([&b"secret"[..]])))
        };
        kernel.lookup(NodeId::ROOT, c"secret").expect("found");
        assert_eq!(list(), expected(&first));
        put_in_force(&kernel, &switch, &rules);
        assert_eq!(list(), expected(&rules), "{rules}");
        put_in_force(&kernel, &switch, &first);
        assert_eq!(list(), expected(&first), "back from {rules}");
    }
}

#[test]
fn what_new_rules_leave_as_it_was_is_not_told_again() {
    let rules = closed_to("uid = 1000");
    let (kernel, switch, closing) = start(Shelf::default(), &rules);
    kernel.lookup(NodeId::ROOT, c"secret").expect("found");
    for rules in [rules.clone(), format!("{rules}[[rule]]\npath = \"/open\"\neffect = \"deny\"\n")] {
        assert_eq!(put_in_force(&kernel, &switch, &rules), []);
        assert_eq!(kernel.getattr(SECRET).map(drop), Ok(()));
        assert_eq!(closing.0.lock().unwrap().lists, 1, "{rules}");
    }
}

#[test]
fn what_the_kernel_can_close_no_more_is_asked_about() {
    let (kernel, switch, closing) = start(Shelf::default(), &closed_to("uid = 1000"));
    kernel.lookup(NodeId::ROOT, c"secret").expect("found");
    let forgets = put_in_force(&kernel, &switch, &closed_to("uid = [1, 3, 5]"));
    assert_eq!(forgets, [SECRET], "its attributes were for everybody");
    assert_eq!(closing.0.lock().unwrap().closed.len(), 0);
    as_user(&kernel, 3);
    assert_eq!(kernel.getattr(SECRET).map(drop), Err(Errno::ACCESS));
    as_user(&kernel, 1000);
    assert_eq!(kernel.getattr(SECRET).map(drop), Ok(()));
}

/// A file that was moved out of a closed directory underneath, or whose name there was removed.
#[test]
fn a_name_that_is_gone_underneath_takes_its_rules_along() {
    for remembers_absent in [false, true] {
        let shelf = Shelf { remembers_absent, ..Shelf::default() };
        let gone = shelf.gone.clone();
        let (kernel, _, closing) = start(shelf, &closed_to("uid = 1000"));
        for (parent, name) in
            [(NodeId::ROOT, c"secret"), (NodeId::ROOT, c"open"), (SECRET, c"f"), (OPEN, c"f")]
        {
            kernel.lookup(parent, name).expect("found");
        }
        let may = |uid| {
            as_user(&kernel, uid);
            kernel.getattr(FILE).map(drop)
        };
        assert_eq!((may(1000), may(1001)), (Err(Errno::ACCESS), Ok(())));
        gone.lock().unwrap().push((SECRET, "f"));
        let found = kernel.lookup(SECRET, c"f").map(|entry| entry.nodeid);
        assert_eq!(found, if remembers_absent { Ok(0) } else { Err(Errno::NOENT) });
        assert_eq!((may(1000), may(1001)), (Ok(()), Ok(())), "remembers_absent {remembers_absent}");
        assert!(!closing.0.lock().unwrap().closed.contains_key(&FILE), "the kernel must not close it either");
        // The last name: it stands as it stood.
        gone.lock().unwrap().push((OPEN, "f"));
        _ = kernel.lookup(OPEN, c"f");
        assert_eq!(may(1000), Ok(()));
    }
}

/// By whichever request the kernel came to know a file, its attributes are believed for as long as its own are valid.
#[test]
fn what_is_absent_is_believed_for_as_long_as_the_filesystem_said_of_that_file() {
    let get = abi::GetxattrIn { size: 100, ..Default::default() };
    let list = abi::ReadIn { size: 4096, fh: u64::MAX, ..Default::default() };
    let make = abi::CreateIn { mode: 0o100600, ..Default::default() };
    for opcode in [abi::Opcode::Readdirplus, abi::Opcode::Tmpfile] {
        let (kernel, _, closing) = start(Shelf::default(), "");
        let root = NodeId::ROOT.raw();
        let answer = match opcode {
            abi::Opcode::Tmpfile => kernel.call(opcode, root, &make, b"/\0"),
            _ => kernel.call(opcode, root, &list, &[]),
        };
        answer.expect("answered");
        kernel.lookup(NodeId::ROOT, c"open").expect("found");
        for (node, valid) in [(BRIEF, SECOND), (OPEN, Duration::MAX)] {
            let asked = kernel.call(abi::Opcode::Getxattr, node.raw(), &get, b"user.x\0");
            assert_eq!(asked, Err(Errno::NODATA));
            let told = closing.0.lock().unwrap().absent.get(&node).copied();
            assert_eq!(told.map(|told| told.min(2 * SECOND)), Some(valid.min(2 * SECOND)), "{opcode:?}");
        }
    }
}

#[test]
fn what_the_queue_has_no_room_for_is_taken_back_later() {
    let shelf = Shelf::default();
    let notifier = shelf.notifier.clone();
    let policed = Policed::new(shelf, parse(&closed_to("uid = 1000")));
    let kernel = FakeKernel::start(policed).expect("a session");
    kernel.lookup(NodeId::ROOT, c"brief").expect("found");
    let notifier = notifier.get().expect("a session");
    let mut waiting = 0;
    while notifier.inval_inode(OPEN, -1, 0).is_ok() {
        waiting += 1;
    }
    assert!(waiting > 1000 && notifier.inval_inode(OPEN, -1, 0) == Err(Errno::AGAIN));
    let to = abi::RenameIn { newdir: NodeId::ROOT.raw() };
    let moved = kernel.call(abi::Opcode::Rename, NodeId::ROOT.raw(), &to, b"brief\0secret\0");
    assert_eq!(moved, Ok(Vec::new()));
    let mut told = Vec::new();
    while told.last() != Some(&BRIEF) {
        let message = kernel.notification(SOON).expect("it is taken back once there is room");
        told.push(forgotten(&message));
    }
    assert_eq!(told.len(), waiting + 1);
}
