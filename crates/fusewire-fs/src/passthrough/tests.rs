//! The filesystem as the kernel sees it, without a mount.

mod bounds;
mod coherent;
mod dax;
mod groups;
mod keep;
mod overflow;
mod room;
mod underneath;

use super::*;
use fusewire::{
    Caller, NodeId,
    abi::{self, Opcode},
    channel::FakeKernel,
};
use std::{
    ffi::{CStr, CString},
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const ROOT: NodeId = NodeId::ROOT;

type Kernel = FakeKernel<Passthrough>;

/// A directory and the filesystem on it.
fn start(options: Options) -> (TempDir, Kernel) {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let kernel = FakeKernel::start(Passthrough::new(dir.path(), options).unwrap()).unwrap();
    (dir, kernel)
}

fn options(file_handles: FileHandles) -> Options {
    Options { file_handles, ..Options::default() }
}

/// Few descriptors, so that nodes must do without.
fn scarce(file_handles: FileHandles) -> Options {
    Options { fd_limit: Some(40), ..options(file_handles) }
}

/// Ways to recognise files.
const WAYS: [FileHandles; 2] = [FileHandles::Auto, FileHandles::Never];

fn node(entry: &abi::EntryOut) -> NodeId {
    NodeId::new(entry.nodeid)
}

fn name(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A `forget` has no answer.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_source_that_is_no_directory_is_refused() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Passthrough::new(file.path(), Options::default()).unwrap_err();
    assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    assert_eq!(error.kind(), io::ErrorKind::NotADirectory);
    let missing = Passthrough::new("/does/not/exist", Options::default()).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}

#[test]
fn one_file_is_one_node_whatever_its_names() {
    for way in WAYS {
        let (dir, kernel) = start(options(way));
        fs::write(dir.path().join("a"), "x").unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        fs::write(dir.path().join("c"), "y").unwrap();
        let ids = [c"a", c"b", c"c", c"a"].map(|name| kernel.lookup(ROOT, name).unwrap().nodeid);
        assert!(ids[0] == ids[1] && ids[0] == ids[3] && ids[0] != ids[2], "{way:?} {ids:?}");
        assert_eq!(kernel.lookup(ROOT, c"none").map(|entry| entry.nodeid), Err(Errno::NOENT));
        let (own, file) = (fs::metadata(dir.path()).unwrap(), fs::metadata(dir.path().join("a")).unwrap());
        let shown = kernel.getattr(NodeId::new(ids[0])).unwrap().ino;
        // On another device than the root (overlayfs puts files on one), it must be a number of its own.
        assert_eq!(shown == file.ino(), own.dev() == file.dev());
    }
}

#[test]
fn another_file_of_the_same_name_is_another_node() {
    for way in WAYS {
        let (dir, kernel) = start(options(way));
        let path = dir.path().join("f");
        let mut before = None;
        // The inode number is likely to be used again at once; the kernel has not forgotten the earlier ones.
        for round in 0..20 {
            fs::write(&path, vec![b'x'; round]).unwrap();
            let entry = kernel.lookup(ROOT, c"f").unwrap();
            assert_ne!(Some((entry.nodeid, entry.generation)), before, "{way:?}");
            assert_eq!(entry.attr.size, round as u64);
            before = Some((entry.nodeid, entry.generation));
            fs::remove_file(&path).unwrap();
        }
    }
}

#[test]
fn forgotten_nodes_are_gone_with_their_descriptors() {
    for way in WAYS {
        let (dir, kernel) = start(options(way));
        let before = kernel.filesystem().descriptor_use();
        let mut known = Vec::new();
        for i in 0..100 {
            fs::write(dir.path().join(i.to_string()), "").unwrap();
            known.push(node(&kernel.lookup(ROOT, &name(&i.to_string())).unwrap()));
            kernel.lookup(ROOT, &name(&i.to_string())).unwrap();
        }
        assert_eq!(kernel.filesystem().nodes(), 101);
        known.iter().for_each(|&id| kernel.forget(id, 1));
        assert_eq!(kernel.getattr(known[0]).map(|attr| attr.size), Ok(0), "counted twice, forgotten once");
        known.iter().for_each(|&id| kernel.forget(id, 1));
        eventually("nodes are forgotten", || kernel.filesystem().nodes() == 1);
        assert_eq!(kernel.filesystem().descriptor_use(), before);
        assert_eq!(kernel.getattr(known[0]).map(|attr| attr.size), Err(Errno::STALE));
    }
}

#[test]
fn more_files_than_descriptors() {
    for way in WAYS {
        let (dir, kernel) = start(scarce(way));
        let make = |i: usize| fs::write(dir.path().join(i.to_string()), i.to_string()).unwrap();
        (0..500).for_each(make);
        let known: Vec<_> =
            (0..500).map(|i| node(&kernel.lookup(ROOT, &name(&i.to_string())).unwrap())).collect();
        // Renamed through the mount or not, those without a descriptor are found again by their handles.
        let moved = [c"7".to_bytes_with_nul(), c"seven".to_bytes_with_nul()].concat();
        let args = abi::RenameIn { newdir: ROOT.raw() };
        kernel.call(Opcode::Rename, ROOT.raw(), &args, &moved).unwrap();
        for round in 0..2 {
            for (i, &id) in known.iter().enumerate() {
                let text = i.to_string();
                assert_eq!(
                    kernel.getattr(id).map(|attr| attr.size),
                    Ok(text.len() as u64),
                    "{way:?} {round} {i}"
                );
                let open = kernel.open(id, libc::O_RDONLY as u32).unwrap();
                assert_eq!(kernel.read(id, open.fh, 0, 100).unwrap(), text.as_bytes());
                kernel.release(id, open.fh).unwrap();
            }
            let again = node(&kernel.lookup(ROOT, c"9").unwrap());
            assert_eq!(again, known[9], "{way:?}");
        }
        let used = kernel.filesystem().descriptor_use();
        assert!(used.used <= used.limit && used.limit == 40, "{used:?}");
    }
}

#[test]
fn a_file_that_took_a_place_is_not_taken_for_the_old_one() {
    let (dir, kernel) = start(scarce(FileHandles::Never));
    fs::write(dir.path().join("victim"), "old").unwrap();
    let victim = node(&kernel.lookup(ROOT, c"victim").unwrap());
    for i in 0..100 {
        fs::write(dir.path().join(i.to_string()), "").unwrap();
        kernel.lookup(ROOT, &name(&i.to_string())).unwrap();
    }
    fs::write(dir.path().join("other"), "new").unwrap();
    fs::rename(dir.path().join("other"), dir.path().join("victim")).unwrap();
    assert_eq!(kernel.open(victim, 0).map(|open| open.fh), Err(Errno::STALE));
}

#[test]
fn at_the_limit_what_is_open_goes_on_working() {
    for way in WAYS {
        let (dir, kernel) = start(scarce(way));
        let mut open = Vec::new();
        let error = loop {
            match kernel.create(ROOT, &name(&open.len().to_string()), 0o644, libc::O_RDWR as u32) {
                Ok((entry, opened)) => open.push((node(&entry), opened.fh)),
                Err(error) => break error,
            }
        };
        assert_eq!(error, Errno::MFILE);
        assert!(open.len() > 20, "{way:?} {}", open.len());
        for &(id, fh) in &open {
            assert_eq!(kernel.write(id, fh, 0, b"data"), Ok(4));
            assert_eq!(kernel.getattr(id).map(|attr| attr.size), Ok(4), "{way:?}");
            let flush = abi::FlushIn { fh, ..Default::default() };
            kernel.call(Opcode::Flush, id.raw(), &flush, &[]).unwrap();
        }
        kernel.mkdir(ROOT, c"dir", 0o755).unwrap();
        for (id, fh) in open {
            kernel.release(id, fh).unwrap();
        }
        kernel.create(ROOT, c"more", 0o644, libc::O_RDWR as u32).unwrap();
        assert_eq!(fs::read(dir.path().join("0")).unwrap(), b"data");
    }
}

#[test]
fn a_removed_file_lives_on_while_it_is_known() {
    for way in WAYS {
        for options in [options(way), scarce(way)] {
            let (dir, kernel) = start(options);
            fs::write(dir.path().join("f"), "text").unwrap();
            let id = node(&kernel.lookup(ROOT, c"f").unwrap());
            kernel.unlink(ROOT, c"f").unwrap();
            for i in 0..100 {
                fs::write(dir.path().join(i.to_string()), "").unwrap();
                kernel.lookup(ROOT, &name(&i.to_string())).unwrap();
            }
            let attr = kernel.getattr(id).unwrap();
            assert_eq!((attr.nlink, attr.size), (0, 4), "{way:?}");
        }
    }
}

#[test]
fn handles_are_of_their_node_and_end_with_release() {
    let (_dir, kernel) = start(Options::default());
    let (one, open) = kernel.create(ROOT, c"one", 0o644, libc::O_RDWR as u32).unwrap();
    let (two, _) = kernel.create(ROOT, c"two", 0o644, libc::O_RDWR as u32).unwrap();
    assert_eq!(kernel.write(node(&one), open.fh, 0, b"x"), Ok(1));
    assert_eq!(kernel.write(node(&two), open.fh, 0, b"x"), Err(Errno::BADF));
    assert_eq!(kernel.write(node(&one), open.fh ^ 1 << 32, 0, b"x"), Err(Errno::BADF));
    kernel.release(node(&one), open.fh).unwrap();
    assert_eq!(kernel.write(node(&one), open.fh, 0, b"x"), Err(Errno::BADF));
    assert_eq!(kernel.filesystem().descriptor_use().open, 1);
}

#[test]
fn nothing_leads_out_of_the_directory() {
    let (dir, kernel) = start(Options::default());
    symlink("/etc", dir.path().join("out")).unwrap();
    let link = kernel.lookup(ROOT, c"out").unwrap();
    assert_eq!(link.attr.mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(kernel.lookup(node(&link), c"passwd").map(|entry| entry.nodeid), Err(Errno::NOTDIR));
    assert_eq!(kernel.open(node(&link), 0).map(|open| open.fh), Err(Errno::LOOP));
    for bad in [c"..", c"../etc", c"/etc/passwd"] {
        assert!(kernel.lookup(ROOT, bad).is_err(), "{bad:?}");
    }
    assert!(kernel.create(ROOT, c"out", 0o644, libc::O_RDWR as u32).is_err(), "links are not followed");
    // What is above is not told, either.
    let open: abi::OpenOut = opened_directory(&kernel, ROOT);
    let names = kernel.readdir(ROOT, open.fh).unwrap();
    assert!(names.contains(&b"..".to_vec()) && names.contains(&b"out".to_vec()));
}

fn opened_directory(kernel: &Kernel, id: NodeId) -> abi::OpenOut {
    let args = abi::OpenIn { flags: libc::O_DIRECTORY as u32, open_flags: 0 };
    let bytes = kernel.call(Opcode::Opendir, id.raw(), &args, &[]).unwrap();
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
    let fh = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
    abi::OpenOut { fh, open_flags: word(8), ..Default::default() }
}

#[test]
fn special_files_are_never_opened() {
    let (dir, kernel) = start(Options::default());
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o666), 0)
        .unwrap();
    let entry = kernel.lookup(ROOT, c"fifo").unwrap();
    // It would block for ever.
    assert_eq!(kernel.open(node(&entry), libc::O_WRONLY as u32).map(|open| open.fh), Err(Errno::NXIO));
    assert_eq!(
        kernel.create(ROOT, c"fifo", 0o644, libc::O_WRONLY as u32).map(|made| made.1.fh),
        Err(Errno::STALE)
    );
}

#[test]
fn listings_are_complete_and_resume_anywhere() {
    let (dir, kernel) = start(Options::default());
    let mut all: Vec<Vec<u8>> = (0..1000).map(|i| format!("file-number-{i}").into_bytes()).collect();
    for file in &all {
        fs::write(dir.path().join(std::str::from_utf8(file).unwrap()), "").unwrap();
    }
    all.extend([b".".to_vec(), b"..".to_vec()]);
    all.sort();
    let open = opened_directory(&kernel, ROOT);
    for _ in 0..2 {
        let mut names = kernel.readdir(ROOT, open.fh).unwrap();
        names.sort();
        assert!(names == all, "the second time from the start again");
    }
    fs::write(dir.path().join("new"), "").unwrap();
    assert!(kernel.readdir(ROOT, open.fh).unwrap().contains(&b"new".to_vec()), "rewinding reads afresh");
}

#[test]
fn new_files_belong_to_the_caller() {
    if !is_root() {
        eprintln!("skipped: taking on ids needs root");
        return;
    }
    let (dir, kernel) = start(Options::default());
    kernel.set_caller(Caller { uid: 1234, gid: 2345, pid: 0 });
    kernel.create(ROOT, c"file", 0o666, libc::O_RDWR as u32).unwrap();
    kernel.mkdir(ROOT, c"dir", 0o777).unwrap();
    for (made, mode) in [("file", 0o644), ("dir", 0o755)] {
        let made = fs::metadata(dir.path().join(made)).unwrap();
        assert_eq!((made.uid(), made.gid(), made.mode() & 0o7777), (1234, 2345, mode));
    }
    fs::create_dir(dir.path().join("closed")).unwrap();
    fs::set_permissions(dir.path().join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let closed = node(&kernel.lookup(ROOT, c"closed").unwrap());
    let refused = kernel.create(closed, c"f", 0o644, libc::O_RDWR as u32).map(|_| ());
    assert_eq!(refused, Err(Errno::ACCESS), "the directory itself knows best who may write there");
}

#[test]
fn appending_files_append_but_the_cache_is_written_to_its_place() {
    let (dir, kernel) = start(Options::default());
    let append = (libc::O_RDWR | libc::O_APPEND) as u32;
    let (entry, open) = kernel.create(ROOT, c"f", 0o644, append).unwrap();
    let id = node(&entry);
    let write = |data: &[u8], offset: u64, flags: u32, write_flags: u32| {
        let args = abi::WriteIn {
            fh: open.fh,
            offset,
            size: data.len() as u32,
            flags,
            write_flags,
            ..Default::default()
        };
        kernel.call(Opcode::Write, id.raw(), &args, data).unwrap();
    };
    let content = || fs::read(dir.path().join("f")).unwrap();
    write(b"one", 0, append, 0);
    write(b"two", 0, append, 0);
    assert_eq!(content(), b"onetwo");
    write(b"ONE", 0, append, abi::WriteFlags::CACHE.bits());
    assert_eq!(content(), b"ONEtwo");
    write(b"TWO", 3, libc::O_RDWR as u32, 0);
    assert_eq!(content(), b"ONETWO", "appending was switched off");
}

#[test]
fn the_kernel_keeps_data_of_files_that_did_not_change() {
    let keeps = |kernel: &Kernel, id: NodeId| {
        let open = kernel.open(id, 0).unwrap();
        kernel.release(id, open.fh).unwrap();
        open.open_flags & abi::FopenFlags::KEEP_CACHE.bits() != 0
    };
    let (dir, kernel) = start(Options::default());
    let path = dir.path().join("f");
    fs::write(&path, "one").unwrap();
    std::thread::sleep(Duration::from_millis(60));
    let id = node(&kernel.lookup(ROOT, c"f").unwrap());
    assert!(!keeps(&kernel, id), "the first time there is nothing to keep");
    assert!(keeps(&kernel, id));
    fs::write(&path, "two").unwrap();
    assert!(!keeps(&kernel, id), "changed underneath");
    std::thread::sleep(Duration::from_millis(60));
    assert!(!keeps(&kernel, id), "was too young to tell whether it changed");
    assert!(keeps(&kernel, id));
}

#[test]
fn absent_names_are_remembered_only_where_that_is_wanted() {
    for (cache, absent) in
        [(CacheProfile::None, false), (CacheProfile::Auto, false), (CacheProfile::Always, true)]
    {
        let (_dir, kernel) = start(Options { cache, ..Options::default() });
        let looked_up = kernel.lookup(ROOT, c"none");
        assert_eq!(
            looked_up.is_ok_and(|entry| entry.nodeid == 0 && entry.entry_valid > 1000),
            absent,
            "{cache:?}"
        );
    }
}

#[test]
fn lengths_of_attributes_are_answered() {
    let (dir, kernel) = start(Options::default());
    fs::write(dir.path().join("f"), "").unwrap();
    let id = node(&kernel.lookup(ROOT, c"f").unwrap());
    let set = |name: &CStr| {
        rustix::fs::setxattr(dir.path().join("f"), name, b"12345", rustix::fs::XattrFlags::empty())
    };
    if set(c"user.a").is_err() {
        eprintln!("skipped: no attributes on this filesystem");
        return;
    }
    let trusted = is_root() && set(c"trusted.b").is_ok();
    let get = |opcode, size, name: &CStr| {
        let args = abi::GetxattrIn { size, ..Default::default() };
        let tail = if opcode == Opcode::Getxattr { name.to_bytes_with_nul() } else { &[] };
        kernel.call(opcode, id.raw(), &args, tail)
    };
    let length = |bytes: Vec<u8>| u32::from_ne_bytes(bytes[..4].try_into().unwrap());
    assert_eq!(get(Opcode::Getxattr, 0, c"user.a").map(length), Ok(5));
    assert_eq!(get(Opcode::Getxattr, 100, c"user.a").unwrap(), b"12345");
    assert_eq!(get(Opcode::Getxattr, 4, c"user.a"), Err(Errno::RANGE));
    assert_eq!(get(Opcode::Getxattr, 100, c"user.none"), Err(Errno::NODATA));
    for (uid, all) in [(0, trusted), (1000, false)] {
        kernel.set_caller(Caller { uid, gid: 0, pid: 1 });
        let names = get(Opcode::Listxattr, 1000, c"").unwrap();
        let has = |name: &[u8]| names.split(|&byte| byte == 0).any(|other| other == name);
        assert!(has(b"user.a") && has(b"trusted.b") == all, "{uid}");
        assert_eq!(get(Opcode::Listxattr, 0, c"").map(length), Ok(names.len() as u32));
    }
}

/// The number of a removed file may be given to a new one at any moment, and while that is being made some filesystems have no
/// better answer to the old handle than that there is no memory.
#[test]
fn a_file_that_is_gone_is_stale_also_while_its_number_is_given_to_another() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let mount = fs::File::open(dir.path()).unwrap();
    let path = dir.path().join("link");
    let link = name(path.to_str().unwrap());
    let handle = std::sync::Mutex::new(None);
    std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            for _ in 0..20_000 {
                symlink("target", &path).unwrap();
                let found = sys::name_to_handle_at(&mount, &link, 0).ok();
                *handle.lock().unwrap() = found.map(|(handle, _)| handle);
                fs::remove_file(&path).unwrap();
            }
        });
        let flags = OFlags::PATH.bits();
        while !maker.is_finished() {
            let Some(handle) = handle.lock().unwrap().clone() else { continue };
            match sys::open_by_handle_at(&mount, &handle, flags) {
                Ok(_) | Err(Errno::STALE | Errno::LOOP) => {}
                Err(Errno::PERM | Errno::OPNOTSUPP) => return eprintln!("skipped: no file handles here"),
                Err(error) => panic!("{error}"),
            }
        }
    });
}
