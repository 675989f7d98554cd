use super::{node::SET_GROUP_ID, *};
use fusewire::{NodeId, Owner};
use tree::Place;

const ROOT: NodeId = NodeId::ROOT;
const OWNER: Owner = Owner { uid: 10, gid: 20, supplementary: None };
const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;
const WHITEOUT: u32 = 4;

fn state() -> State {
    State::new(&MemOptions { capacity: 16 * PAGE, nodes: 20, ..Default::default() })
}

fn plan(body: Body, mode: u32) -> Plan<'static> {
    Plan { body, mode, umask: 0o022, owner: OWNER, security: None }
}

fn file(state: &mut State, place: Place<'_>) -> NodeId {
    state.make(place, plan(Body::File(Default::default()), 0o666)).unwrap()
}

fn dir(state: &mut State, place: Place<'_>) -> NodeId {
    state.make(place, plan(Body::Directory(Directory::new(place.0)), 0o777)).unwrap()
}

fn rename(state: &mut State, from: Place<'_>, to: Place<'_>, flags: u32) -> Result<()> {
    state.rename(from, to, flags, OWNER)
}

/// Names in a directory that come after `cookie`, with their cookies, as a listing shows them.
fn listing(state: &mut State, id: NodeId, cookie: u64, room: usize) -> Vec<(String, u64)> {
    let mut buffer = vec![0; room];
    let mut sink = DirSink::new(&mut buffer, room);
    state.read_dir(id, cookie, &mut sink).unwrap();
    let n = sink.len();
    let mut names = Vec::new();
    let mut rest = &buffer[..n];
    while !rest.is_empty() {
        let length = u32::from_ne_bytes(rest[16..20].try_into().unwrap()) as usize;
        let next = u64::from_ne_bytes(rest[8..16].try_into().unwrap());
        names.push((String::from_utf8(rest[24..24 + length].to_vec()).unwrap(), next));
        rest = &rest[(24 + length).next_multiple_of(8)..];
    }
    names
}

fn nlink(state: &State, id: NodeId) -> u32 {
    state.node(id).unwrap().nlink
}

#[test]
fn names_and_link_counts() {
    let mut s = state();
    let f = file(&mut s, (ROOT, b"f"));
    let d = dir(&mut s, (ROOT, b"d"));
    assert_eq!((nlink(&s, ROOT), nlink(&s, d), nlink(&s, f)), (3, 2, 1));
    s.link(f, (d, b"g")).unwrap();
    assert_eq!((nlink(&s, f), s.find((d, b"g"))), (2, Ok(f)));
    assert_eq!(s.link(f, (ROOT, b"d")), Err(Errno::EXIST));
    assert_eq!(s.link(d, (ROOT, b"e")), Err(Errno::PERM));
    assert_eq!(s.unlink((ROOT, b"d")), Err(Errno::ISDIR));
    assert_eq!(s.rmdir((ROOT, b"f")), Err(Errno::NOTDIR));
    assert_eq!(s.rmdir((ROOT, b"d")), Err(Errno::NOTEMPTY));
    assert_eq!(s.find((f, b"x")), Err(Errno::NOTDIR));
    assert_eq!(s.find((ROOT, &[b'x'; 256])), Err(Errno::NAMETOOLONG));
    s.unlink((d, b"g")).unwrap();
    s.rmdir((ROOT, b"d")).unwrap();
    assert_eq!((nlink(&s, ROOT), nlink(&s, f), s.find((ROOT, b"d"))), (2, 1, Err(Errno::NOENT)));
}

#[test]
fn a_node_lives_as_long_as_it_is_used() {
    let mut s = state();
    let f = file(&mut s, (ROOT, b"f"));
    s.entry(f).unwrap();
    s.entry(f).unwrap();
    let handle = s.open(f, libc::O_RDWR as u32).unwrap();
    let (node, space) = s.file(f).unwrap();
    let Body::File(data) = &mut node.body else { panic!() };
    data.write(0, b"still here", space).unwrap();
    s.unlink((ROOT, b"f")).unwrap();
    assert_eq!((nlink(&s, f), s.space.free()), (0, 15));
    assert_eq!(s.link(f, (ROOT, b"again")), Err(Errno::NOENT), "what was removed has no way back");
    s.forget(f, 2);
    assert_eq!(s.data(f).unwrap().size(), 10, "it is open");
    s.close(f, handle).unwrap();
    assert_eq!(s.node(f).unwrap_err(), Errno::STALE);
    assert_eq!((s.count(), s.space.free()), (1, 16));
    assert_eq!(s.close(f, handle), Err(Errno::BADF));

    let g = file(&mut s, (ROOT, b"g"));
    s.entry(g).unwrap();
    s.unlink((ROOT, b"g")).unwrap();
    assert!(s.node(g).is_ok(), "the kernel knows it");
    s.forget(g, 1);
    assert!(s.node(g).is_err());
    s.forget(ROOT, 1 << 40);
    assert!(s.node(ROOT).is_ok(), "the root is never forgotten");
}

#[test]
fn removed_directories_take_nothing_in() {
    let mut s = state();
    let d = dir(&mut s, (ROOT, b"d"));
    s.entry(d).unwrap();
    s.rmdir((ROOT, b"d")).unwrap();
    let f = file(&mut s, (ROOT, b"f"));
    assert_eq!(s.make((d, b"x"), plan(Body::File(Default::default()), 0)), Err(Errno::NOENT));
    assert_eq!(s.link(f, (d, b"x")), Err(Errno::NOENT));
    assert_eq!(rename(&mut s, (ROOT, b"f"), (d, b"x"), 0), Err(Errno::NOENT));
    assert_eq!(s.find((ROOT, b"f")), Ok(f));
}

#[test]
fn renames_that_are_refused() {
    let mut s = state();
    let (a, f) = (dir(&mut s, (ROOT, b"a")), file(&mut s, (ROOT, b"f")));
    let b = dir(&mut s, (a, b"b"));
    let g = file(&mut s, (b, b"g"));
    let cases: [(Place<'_>, Place<'_>, u32, Errno); 13] = [
        ((ROOT, b"none"), (ROOT, b"x"), 0, Errno::NOENT),
        ((ROOT, b"f"), (ROOT, b"a"), 0, Errno::ISDIR),
        ((ROOT, b"a"), (ROOT, b"f"), 0, Errno::NOTDIR),
        ((a, b"b"), (ROOT, b"a"), 0, Errno::NOTEMPTY),
        ((ROOT, b"a"), (b, b"x"), 0, Errno::INVAL),
        ((ROOT, b"a"), (a, b"x"), 0, Errno::INVAL),
        ((ROOT, b"f"), (b, b"g"), NOREPLACE, Errno::EXIST),
        ((ROOT, b"f"), (b, b"x"), EXCHANGE, Errno::NOENT),
        ((ROOT, b"f"), (b, b"g"), EXCHANGE | NOREPLACE, Errno::INVAL),
        ((ROOT, b"f"), (b, b"g"), EXCHANGE | WHITEOUT, Errno::INVAL),
        ((ROOT, b"f"), (b, b"g"), 8, Errno::INVAL),
        ((b, b"g"), (ROOT, b"a"), EXCHANGE, Errno::INVAL),
        ((ROOT, b"f"), (f, b"x"), 0, Errno::NOTDIR),
    ];
    for (from, to, flags, error) in cases {
        assert_eq!(rename(&mut s, from, to, flags), Err(error), "{from:?} {to:?} {flags}");
    }
    assert_eq!((s.find((a, b"b")), s.find((b, b"g")), s.find((ROOT, b"f"))), (Ok(b), Ok(g), Ok(f)));
}

#[test]
fn renames_move_replace_exchange_and_white_out() {
    let mut s = state();
    let (a, b) = (dir(&mut s, (ROOT, b"a")), dir(&mut s, (ROOT, b"b")));
    let (f, g) = (file(&mut s, (a, b"f")), file(&mut s, (b, b"g")));

    rename(&mut s, (a, b"f"), (b, b"g"), 0).unwrap();
    assert_eq!((s.find((b, b"g")), s.find((a, b"f"))), (Ok(f), Err(Errno::NOENT)));
    assert!(s.node(g).is_err(), "what was replaced is gone");

    s.link(f, (a, b"same")).unwrap();
    rename(&mut s, (a, b"same"), (b, b"g"), 0).unwrap();
    assert_eq!((nlink(&s, f), s.find((a, b"same"))), (2, Ok(f)), "two names of one node: nothing happens");

    rename(&mut s, (ROOT, b"a"), (b, b"a2"), 0).unwrap();
    assert_eq!((nlink(&s, ROOT), nlink(&s, b), nlink(&s, a)), (3, 3, 2));
    let c = dir(&mut s, (ROOT, b"c"));
    let inner = dir(&mut s, (c, b"inner"));
    rename(&mut s, (c, b"inner"), (b, b"g"), EXCHANGE).unwrap();
    assert_eq!((s.find((c, b"inner")), s.find((b, b"g"))), (Ok(f), Ok(inner)));
    assert_eq!((nlink(&s, c), nlink(&s, b), nlink(&s, inner), nlink(&s, f)), (2, 4, 2, 2));
    rename(&mut s, (b, b"g"), (b, b"a2"), EXCHANGE).unwrap();
    assert_eq!((s.find((b, b"a2")), s.find((b, b"g"))), (Ok(inner), Ok(a)));
    assert_eq!((nlink(&s, b), nlink(&s, inner), nlink(&s, a)), (4, 2, 2));

    rename(&mut s, (c, b"inner"), (ROOT, b"out"), WHITEOUT).unwrap();
    let white = s.find((c, b"inner")).unwrap();
    assert!(matches!(s.node(white).unwrap().body, Body::Special(FileType::CharDevice, 0)));
    assert_eq!((s.find((ROOT, b"out")), s.node(white).unwrap().uid), (Ok(f), OWNER.uid));
    rename(&mut s, (b, b"a2"), (b, b"g"), 0).unwrap_err();
    s.unlink((a, b"same")).unwrap();
    rename(&mut s, (b, b"a2"), (b, b"g"), 0).unwrap();
    assert_eq!((s.find((b, b"g")), nlink(&s, b)), (Ok(inner), 3));
}

#[test]
fn names_that_stay_are_listed_once_whatever_else_happens() {
    let mut s = state();
    for name in [&b"a"[..], b"b", b"c", b"d", b"e"] {
        file(&mut s, (ROOT, name));
    }
    // Room for five names: "." and "..", and three more.
    let first = listing(&mut s, ROOT, 0, 5 * 32);
    assert_eq!(first.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), [".", "..", "a", "b", "c"]);
    s.unlink((ROOT, b"a")).unwrap();
    s.unlink((ROOT, b"c")).unwrap();
    file(&mut s, (ROOT, b"new"));
    rename(&mut s, (ROOT, b"b"), (ROOT, b"d"), 0).unwrap();
    let second = listing(&mut s, ROOT, first[4].1, 4096);
    assert_eq!(second.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>(), ["d", "e", "new"]);
    assert!(listing(&mut s, ROOT, second[2].1, 4096).is_empty());
    assert_eq!(listing(&mut s, ROOT, 1, 4096)[0].0, "..");
    assert!(listing(&mut s, ROOT, u64::MAX, 4096).is_empty());
}

#[test]
fn limits_are_enospc_and_space_comes_back() {
    let mut s = state();
    for n in 0..19u8 {
        file(&mut s, (ROOT, &[b'a' + n]));
    }
    let result = s.make((ROOT, b"more"), plan(Body::File(Default::default()), 0));
    assert_eq!(result, Err(Errno::NOSPC));
    assert_eq!(rename(&mut s, (ROOT, b"a"), (ROOT, b"more"), WHITEOUT), Err(Errno::NOSPC));
    assert!(s.find((ROOT, b"a")).is_ok(), "a failed rename changes nothing");
    s.unlink((ROOT, b"a")).unwrap();
    file(&mut s, (ROOT, b"more"));
}

#[test]
fn new_nodes_take_after_their_directory() {
    let mut s = state();
    assert_eq!(s.node(ROOT).unwrap().perm, 0o755);
    let d = dir(&mut s, (ROOT, b"d"));
    let node = s.node_mut(d).unwrap();
    node.perm |= SET_GROUP_ID;
    node.gid = 99;
    let (sub, f) = (dir(&mut s, (d, b"sub")), file(&mut s, (d, b"f")));
    let of = |id| {
        let node = s.node(id).unwrap();
        (node.perm, node.uid, node.gid)
    };
    assert_eq!((of(sub), of(f)), ((0o2755, 10, 99), (0o644, 10, 99)));
}

#[test]
fn attributes_with_rules() {
    let mut s = state();
    let f = file(&mut s, (ROOT, b"f"));
    let node = s.node_mut(f).unwrap();
    assert_eq!(node.xattr(b"user.x"), Err(Errno::NODATA));
    assert_eq!(node.xattr(b"other.x"), Err(Errno::OPNOTSUPP));
    assert_eq!(node.xattr(b"user."), Err(Errno::OPNOTSUPP));
    assert_eq!(node.set_xattr(b"user.x", b"1", 2), Err(Errno::NODATA));
    node.set_xattr(b"user.x", b"1", 1).unwrap();
    assert_eq!(node.set_xattr(b"user.x", b"2", 1), Err(Errno::EXIST));
    node.set_xattr(b"trusted.y", b"", 0).unwrap();
    assert_eq!(node.xattr(b"user.x"), Ok(&b"1"[..]));
    assert_eq!(node.xattrs.names(false).collect::<Vec<_>>(), [b"user.x"]);
    assert_eq!(node.xattrs.names(true).count(), 2);
    for n in 0..15u8 {
        node.set_xattr(&[b"user.big", &[b'a' + n][..]].concat(), &[0; 65536], 0).unwrap();
    }
    assert_eq!(node.set_xattr(b"user.bigz", &[0; 65536], 0), Err(Errno::NOSPC));
    node.remove_xattr(b"user.x").unwrap();
    assert_eq!(node.remove_xattr(b"user.x"), Err(Errno::NODATA));
}

#[test]
fn set_user_id_ends_with_a_change() {
    let mut s = state();
    let f = file(&mut s, (ROOT, b"f"));
    let node = s.node_mut(f).unwrap();
    node.xattrs.set(b"security.capability", b"x");
    node.set_perm(0o6755);
    node.kill_suid_gid();
    node.kill_capabilities();
    assert_eq!((node.perm, node.xattr(b"security.capability")), (0o755, Err(Errno::NODATA)));
    node.set_perm(0o6745);
    node.kill_suid_gid();
    assert_eq!(node.perm, 0o2745, "without execution by the group set-group-id means something else");
}

#[test]
fn copies_keep_holes_and_refuse_overlap() {
    let mut s = state();
    let (f, g) = (file(&mut s, (ROOT, b"f")), file(&mut s, (ROOT, b"g")));
    let (node, space) = s.file(f).unwrap();
    let Body::File(data) = &mut node.body else { panic!() };
    data.write(2 * PAGE - 1, b"ab", space).unwrap();
    data.resize(5 * PAGE, space).unwrap();
    assert_eq!(s.copy((f, 0), (g, 0), u64::MAX), Ok(5 * PAGE));
    let copy = s.data(g).unwrap();
    assert_eq!((copy.size(), copy.pages(), copy.next_data(0)), (5 * PAGE, 2, Ok(PAGE)));
    assert_eq!(s.copy((f, 0), (f, PAGE), 2 * PAGE), Err(Errno::INVAL));
    assert_eq!(s.copy((f, 2 * PAGE - 1), (f, 6 * PAGE), 2), Ok(2));
    assert_eq!(s.copy((f, 100 * PAGE), (g, 0), 1), Ok(0));
    assert_eq!(s.copy((f, 0), (ROOT, 0), 1), Err(Errno::ISDIR));
    assert_eq!(s.data(f).unwrap().size(), 6 * PAGE + 2);
}

/// The same through the whole protocol.
mod served {
    use crate::{MemFs, MemOptions};
    use fusewire::{
        Errno, NodeId,
        abi::Opcode,
        channel::{FakeKernel, loopback::Ticket},
    };
    use std::time::Duration;

    const ROOT: NodeId = NodeId::ROOT;
    const READ: u32 = 0;
    const WRITE: u32 = 1;
    const UNLOCK: u32 = 2;
    /// `FUSE_LK_FLOCK`.
    const FLOCK: u32 = 1;

    fn kernel() -> FakeKernel<MemFs> {
        FakeKernel::start(MemFs::new(MemOptions { capacity: 1 << 20, nodes: 100, ..Default::default() }))
            .unwrap()
    }

    /// Make a file and open it.
    fn file(kernel: &FakeKernel<MemFs>) -> (NodeId, u64) {
        let (entry, opened) = kernel.create(ROOT, c"f", 0o644, libc::O_RDWR as u32).unwrap();
        (NodeId::new(entry.nodeid), opened.fh)
    }

    fn lock(
        opcode: Opcode,
        at: (NodeId, u64),
        owner: u64,
        range: (u64, u64),
        kind: (u32, u32),
    ) -> (Opcode, u64, Vec<u8>) {
        let mut args = Vec::new();
        for word in [at.1, owner, range.0, range.1] {
            args.extend(word.to_ne_bytes());
        }
        for word in [kind.0, 1000 + owner as u32, kind.1, 0] {
            args.extend(word.to_ne_bytes());
        }
        (opcode, at.0.raw(), args)
    }

    fn send(kernel: &FakeKernel<MemFs>, (opcode, node, args): (Opcode, u64, Vec<u8>)) -> Ticket {
        kernel.send(opcode, node, &args, &[])
    }

    /// Time enough for a request to be answered if it is not going to wait.
    const MOMENT: Duration = Duration::from_millis(50);

    fn is_waiting(ticket: &Ticket) -> bool {
        std::thread::sleep(MOMENT);
        !ticket.is_answered()
    }

    const ALL: (u64, u64) = (0, u64::MAX >> 1);

    #[test]
    fn locks_are_waited_for() {
        let kernel = kernel();
        let at = file(&kernel);
        send(&kernel, lock(Opcode::Setlk, at, 1, (0, 9), (WRITE, 0))).wait().unwrap();
        assert_eq!(send(&kernel, lock(Opcode::Setlk, at, 2, (5, 6), (READ, 0))).wait(), Err(Errno::AGAIN));
        let waiting = send(&kernel, lock(Opcode::Setlkw, at, 2, (5, 6), (READ, 0)));
        let other = send(&kernel, lock(Opcode::Setlkw, at, 3, (8, 8), (WRITE, 0)));
        assert!(is_waiting(&waiting) && is_waiting(&other));
        send(&kernel, lock(Opcode::Setlk, at, 1, (0, 6), (UNLOCK, 0))).wait().unwrap();
        waiting.wait().unwrap();
        assert!(is_waiting(&other), "its range is still locked");
        let mut flush = at.1.to_ne_bytes().to_vec();
        flush.extend([0; 8]);
        flush.extend(1u64.to_ne_bytes());
        kernel.send(Opcode::Flush, at.0.raw(), &flush, &[]).wait().unwrap();
        other.wait().expect("closing the file dropped the locks of owner 1");

        let held = send(&kernel, lock(Opcode::Getlk, at, 1, ALL, (WRITE, 0))).wait().unwrap();
        let (start, pid) = (&held[..8], &held[20..24]);
        assert_eq!((start, pid), (&5u64.to_ne_bytes()[..], &1002u32.to_ne_bytes()[..]));
    }

    /// Who asks in vain is answered at once, unless whoever has it may be giving it up: then it is tried for again, for some milliseconds.
    #[test]
    fn what_is_given_up_just_then_is_had_without_waiting() {
        let kernel = kernel();
        let at = file(&kernel);
        let flock = |owner, kind| send(&kernel, lock(Opcode::Setlk, at, owner, ALL, (kind, FLOCK)));
        let is_had = |_| {
            flock(1, WRITE).wait().unwrap();
            let asked = flock(2, WRITE);
            flock(1, UNLOCK).wait().unwrap();
            let is_had = asked.wait().is_ok();
            flock(2, UNLOCK).wait().unwrap();
            is_had
        };
        // Once for certain: a thread may lose its CPU for longer than that.
        assert!((0..1000).any(is_had));
    }

    #[test]
    fn waiting_ends_with_an_interrupt() {
        let kernel = kernel();
        let at = file(&kernel);
        for flags in [0, FLOCK] {
            send(&kernel, lock(Opcode::Setlk, at, 1, ALL, (WRITE, flags))).wait().unwrap();
            let waiting = send(&kernel, lock(Opcode::Setlkw, at, 2, ALL, (WRITE, flags)));
            assert!(is_waiting(&waiting));
            kernel.interrupt(&waiting);
            assert_eq!(waiting.wait(), Err(Errno::INTR));
            send(&kernel, lock(Opcode::Setlk, at, 1, ALL, (UNLOCK, flags))).wait().unwrap();
            send(&kernel, lock(Opcode::Setlk, at, 3, ALL, (WRITE, flags)))
                .wait()
                .expect("who was interrupted does not get the lock afterwards");
            send(&kernel, lock(Opcode::Setlk, at, 3, ALL, (UNLOCK, flags))).wait().unwrap();
        }
    }

    #[test]
    fn who_would_wait_for_himself_is_told() {
        let kernel = kernel();
        let at = file(&kernel);
        for owner in [1, 2, 3] {
            send(&kernel, lock(Opcode::Setlk, at, owner, (owner, owner), (WRITE, 0))).wait().unwrap();
        }
        let first = send(&kernel, lock(Opcode::Setlkw, at, 1, (2, 2), (WRITE, 0)));
        let second = send(&kernel, lock(Opcode::Setlkw, at, 2, (3, 3), (WRITE, 0)));
        assert!(is_waiting(&first) && is_waiting(&second));
        let third = send(&kernel, lock(Opcode::Setlkw, at, 3, (1, 1), (WRITE, 0)));
        assert_eq!(third.wait(), Err(Errno::DEADLK));
        assert!(is_waiting(&first) && is_waiting(&second), "the others go on waiting");
        send(&kernel, lock(Opcode::Setlk, at, 3, (3, 3), (UNLOCK, 0))).wait().unwrap();
        second.wait().unwrap();
    }

    #[test]
    fn flock_ends_with_the_open_file() {
        let kernel = kernel();
        let at = file(&kernel);
        let again = kernel.open(at.0, libc::O_RDONLY as u32).unwrap().fh;
        send(&kernel, lock(Opcode::Setlk, at, 1, ALL, (READ, FLOCK))).wait().unwrap();
        send(&kernel, lock(Opcode::Setlk, (at.0, again), 2, ALL, (READ, FLOCK))).wait().unwrap();
        let waiting = send(&kernel, lock(Opcode::Setlkw, at, 1, ALL, (WRITE, FLOCK)));
        assert!(is_waiting(&waiting));
        release(&kernel, (at.0, again), 2).wait().unwrap();
        waiting.wait().unwrap();
    }

    /// The end of an open file, and of the `flock` lock of `owner`.
    fn release(kernel: &FakeKernel<MemFs>, at: (NodeId, u64), owner: u64) -> Ticket {
        let mut release = at.1.to_ne_bytes().to_vec();
        // Flags of open; FUSE_RELEASE_FLOCK_UNLOCK; the owner.
        release.extend(0u32.to_ne_bytes());
        release.extend(2u32.to_ne_bytes());
        release.extend(owner.to_ne_bytes());
        kernel.send(Opcode::Release, at.0.raw(), &release, &[])
    }

    #[test]
    fn a_lock_whose_end_is_told_late_is_not_in_the_way() {
        let kernel = kernel();
        let at = file(&kernel);
        for flags in [0, FLOCK] {
            // The end may come too late on a busy machine: not every time.
            let is_had = (0..50).any(|_| {
                let first = (at.0, kernel.open(at.0, libc::O_RDWR as u32).unwrap().fh);
                send(&kernel, lock(Opcode::Setlk, first, 1, ALL, (WRITE, flags))).wait().unwrap();
                let tried = send(&kernel, lock(Opcode::Setlk, at, 2, ALL, (WRITE, flags)));
                release(&kernel, first, 1).wait().unwrap();
                let is_had = tried.wait().is_ok();
                send(&kernel, lock(Opcode::Setlk, at, 2, ALL, (UNLOCK, flags))).wait().unwrap();
                is_had
            });
            assert!(is_had, "flags {flags}");
        }
    }

    #[test]
    fn a_file_from_its_making_to_its_end() {
        let kernel = kernel();
        let (node, handle) = file(&kernel);
        assert_eq!(kernel.write(node, handle, 3, b"abc"), Ok(3));
        assert_eq!(kernel.read(node, handle, 0, 100).unwrap(), b"\0\0\0abc");
        assert_eq!(kernel.read(node, handle, 6, 100).unwrap(), b"");
        assert_eq!(kernel.read(node, handle + 1, 0, 100), Err(Errno::BADF));
        let reader = kernel.open(node, libc::O_RDONLY as u32).unwrap().fh;
        assert_eq!(kernel.write(node, reader, 0, b"x"), Err(Errno::BADF));
        kernel.release(node, reader).unwrap();
        kernel.unlink(ROOT, c"f").unwrap();
        assert_eq!(kernel.lookup(ROOT, c"f").unwrap().nodeid, 0, "absence may be remembered");
        assert_eq!(kernel.read(node, handle, 3, 3).unwrap(), b"abc");
        kernel.release(node, handle).unwrap();
        assert_eq!(kernel.getattr(node).unwrap().nlink, 0, "the kernel may still ask");
        kernel.forget(node, 1);
        assert_eq!(kernel.getattr(node).unwrap_err(), Errno::STALE);
        let state = kernel.filesystem().state();
        assert_eq!((state.count(), state.space.free()), (1, state.space.total()));
    }

    #[test]
    fn a_session_leaves_nothing_open_behind() {
        let fs = MemFs::default();
        let mut state = fs.state();
        let f = super::file(&mut state, (ROOT, b"f"));
        state.entry(f).unwrap();
        state.open(f, 0).unwrap();
        state.unlink((ROOT, b"f")).unwrap();
        assert_eq!(state.count(), 2);
        drop(state);
        fusewire::FileSystem::destroyed(&fs);
        assert_eq!(fs.state().count(), 1);
    }
}
