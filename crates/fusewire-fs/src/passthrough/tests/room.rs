//! More files than can be watched one by one.

use super::*;
use fusewire::abi::notify_code;

/// Longer than what is remembered for a moment, in seconds.
const LONG: u64 = 1000;

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Name(NodeId, Vec<u8>),
    Content(NodeId),
}

/// What the kernel is told within `limit`, and before nothing comes for so long.
fn told(kernel: &Kernel, limit: Duration) -> Vec<Told> {
    let mut told = Vec::new();
    while let Some(message) = kernel.notification(limit) {
        // `OutHeader`, then the node, and of a name its length, flags and the name itself.
        let node = NodeId::new(u64::from_ne_bytes(message[16..24].try_into().expect("the number of a node")));
        match i32::from_ne_bytes(message[4..8].try_into().expect("the code")) {
            notify_code::INVAL_ENTRY => told.push(Told::Name(node, message[32..message.len() - 1].to_vec())),
            notify_code::INVAL_INODE if message[24..32] == [0; 8] => told.push(Told::Content(node)),
            _ => {}
        }
    }
    told
}

/// A directory that is watched file by file, with 24 watches: three eighths of what may be open. `None`, said why, where that cannot be had.
fn by_file(dir: &Path, sole: bool) -> Option<Kernel> {
    let options = Options {
        cache: CacheProfile::Coherent,
        file_handles: FileHandles::Never,
        fd_limit: Some(64),
        sole,
        ..Options::default()
    };
    let kernel = FakeKernel::start(Passthrough::new(dir, options).unwrap()).unwrap();
    match kernel.filesystem().caching().coherence() {
        Coherence::ToldOfKnown(_) => Some(kernel),
        other => {
            eprintln!("skipped: {other:?}");
            None
        }
    }
}

fn is_remembered(kernel: &Kernel, node: NodeId) -> bool {
    let out = kernel.call(Opcode::Getattr, node.raw(), &abi::GetattrIn::default(), &[]).unwrap();
    u64::from_ne_bytes(out[..8].try_into().expect("how long it is valid")) > LONG
}

#[test]
fn what_nobody_asks_for_is_forgotten_with_its_names_before_it_is_watched_no_more() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::create_dir(dir.path().join("d")).unwrap();
    fs::write(dir.path().join("d/f"), "x").unwrap();
    (0..60).for_each(|number| fs::write(dir.path().join(number.to_string()), "x").unwrap());
    let Some(kernel) = by_file(dir.path(), false) else { return };
    let caching = kernel.filesystem().caching();
    let stats = || caching.feed_stats().expect("a feed");
    let d = kernel.lookup(ROOT, c"d").unwrap();
    let (f, none) = (kernel.lookup(node(&d), c"f").unwrap(), kernel.lookup(node(&d), c"none").unwrap());
    assert!([&d, &f, &none].iter().all(|entry| entry.entry_valid > LONG), "{none:?}");
    assert!(none.nodeid == 0 && f.attr_valid > LONG);
    let others: Vec<_> =
        (0..60).map(|number| kernel.lookup(ROOT, &name(&number.to_string())).unwrap()).collect();
    let unwatched: Vec<_> = others.iter().filter(|entry| entry.attr_valid <= LONG).map(node).collect();
    assert_eq!((stats().watched, unwatched.len()), (24, 60 - (24 - 3)));
    assert_eq!(stats().given_up, 0, "what is new takes no watch from others");

    // As many as there are watches are asked for again and again.
    let mut all = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !all.contains(&Told::Content(node(&d))) {
        assert!(Instant::now() < deadline, "{:?}, {all:?}", stats());
        for &node in &unwatched[..24] {
            is_remembered(&kernel, node);
            all.extend(told(&kernel, Duration::from_millis(3)));
        }
    }
    let at = |what: &Told| all.iter().position(|told| told == what).unwrap_or(usize::MAX);
    let names = ["f", "none"].map(|name| at(&Told::Name(node(&d), name.into())));
    assert!(names.iter().all(|&name| name < at(&Told::Content(node(&d)))), "{all:?}");
    assert!(stats().given_up > 0 && stats().watched <= 24, "{:?}", stats());
    assert!(unwatched[..24].iter().any(|&node| is_remembered(&kernel, node)));

    // By the watch that went nothing is remembered, and it is heard of no more.
    let remembered = [c"f", c"none"].map(|name| kernel.lookup(node(&d), name).map(|entry| entry.entry_valid));
    assert!(remembered[0].is_ok_and(|time| time <= LONG), "{remembered:?}");
    assert_eq!(remembered[1], Err(Errno::NOENT), "not for a moment");
    told(&kernel, Duration::from_millis(1500));
    fs::write(dir.path().join("d/none"), "").unwrap();
    let heard = told(&kernel, Duration::from_millis(200));
    assert!(!heard.contains(&Told::Name(node(&d), b"none".into())), "{heard:?}");
}

/// The root is asked for by nobody, and everything is found through it.
#[test]
fn the_root_keeps_its_watch() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    (0..90).for_each(|number| fs::write(dir.path().join(number.to_string()), "x").unwrap());
    let Some(kernel) = by_file(dir.path(), false) else { return };
    let caching = kernel.filesystem().caching();
    let nodes: Vec<_> =
        (0..90).map(|number| node(&kernel.lookup(ROOT, &name(&number.to_string())).unwrap())).collect();
    let deadline = Instant::now() + Duration::from_secs(30);
    while caching.feed_stats().expect("a feed").given_up < 20 {
        assert!(Instant::now() < deadline, "{:?}", caching.feed_stats());
        for &node in &nodes[30..] {
            is_remembered(&kernel, node);
            told(&kernel, Duration::from_millis(2));
        }
    }
    assert!(kernel.lookup(ROOT, c"1").unwrap().entry_valid > LONG);
}

/// The kernel takes the time along for which it was to remember the old name.
#[test]
fn a_name_that_is_moved_to_where_nothing_is_watched_is_to_be_asked_for_again() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::create_dir(dir.path().join("to")).unwrap();
    (0..40).for_each(|number| fs::write(dir.path().join(number.to_string()), "x").unwrap());
    let Some(kernel) = by_file(dir.path(), true) else { return };
    (0..40).for_each(|number| _ = kernel.lookup(ROOT, &name(&number.to_string())).unwrap());
    let to = kernel.lookup(ROOT, c"to").unwrap();
    assert!(to.attr_valid <= LONG, "there are no watches left");
    let rename = |to: NodeId, names: &[u8]| {
        kernel.call(Opcode::Rename, ROOT.raw(), &abi::RenameIn { newdir: to.raw() }, names).unwrap();
        told(&kernel, Duration::from_millis(300))
    };
    let within = rename(ROOT, b"0\0new\0");
    assert!(!within.contains(&Told::Name(ROOT, b"new".into())), "changes there are heard of: {within:?}");
    let moved = rename(node(&to), b"new\0there\0");
    assert!(moved.contains(&Told::Name(node(&to), b"there".into())), "{moved:?}");
}
