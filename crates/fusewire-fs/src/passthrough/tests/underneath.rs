//! Names that are changed underneath, or through the mount, while the kernel knows what they led to.

use super::*;
use rustix::{
    fs::{CWD, inotify},
    io::Errno,
};
use std::{os::unix::fs::FileTypeExt, path::Path};

/// Until files that were made just now are told apart by their birth.
fn grow_old() {
    std::thread::sleep(Duration::from_millis(60));
}

fn look_up(kernel: &Kernel, name: &CStr) -> NodeId {
    node(&kernel.lookup(ROOT, name).unwrap())
}

/// Has nodes that were not used for longest give up their descriptors.
fn use_others(dir: &Path, kernel: &Kernel) {
    for i in 0..100 {
        let other = dir.join(format!("other{i}"));
        if !other.exists() {
            fs::write(&other, "").unwrap();
        }
        let id = look_up(kernel, &name(&format!("other{i}")));
        let get = abi::GetxattrIn { size: 100, ..Default::default() };
        let _used = kernel.call(Opcode::Getxattr, id.raw(), &get, b"user.none\0");
    }
}

fn rename(kernel: &Kernel, from: &CStr, to: &CStr, flags: u32) {
    let args = abi::Rename2In { newdir: ROOT.raw(), flags, ..Default::default() };
    let names = [from.to_bytes_with_nul(), to.to_bytes_with_nul()].concat();
    kernel.call(Opcode::Rename2, ROOT.raw(), &args, &names).unwrap();
}

fn content(kernel: &Kernel, id: NodeId) -> Result<Vec<u8>> {
    let open = kernel.open(id, libc::O_RDONLY as u32)?;
    let read = kernel.read(id, open.fh, 0, 100);
    kernel.release(id, open.fh)?;
    read
}

/// Everything that the kernel asks for without naming an open file, though the client does it by one.
fn use_without_handle(kernel: &Kernel, id: NodeId) {
    assert!(kernel.getattr(id).is_ok(), "fstat");
    let set = |valid: abi::SetattrValid| {
        let args =
            abi::SetattrIn { valid: valid.bits(), mode: 0o600, size: 2, mtime: 7, ..Default::default() };
        kernel.call(Opcode::Setattr, id.raw(), &args, &[])
    };
    for valid in [
        abi::SetattrValid::MODE,
        abi::SetattrValid::UID | abi::SetattrValid::GID,
        abi::SetattrValid::SIZE,
        abi::SetattrValid::MTIME,
    ] {
        assert!(set(valid).is_ok(), "{valid:?}: {:?}", set(valid));
    }
    let attr = kernel.getattr(id).unwrap();
    assert_eq!((attr.mode & 0o7777, attr.size, attr.mtime), (0o600, 2, 7));
    let get = abi::GetxattrIn { size: 100, ..Default::default() };
    let missing = kernel.call(Opcode::Getxattr, id.raw(), &get, b"user.none\0");
    assert!(matches!(missing, Err(Errno::NODATA | Errno::OPNOTSUPP)), "fgetxattr: {missing:?}");
    assert!(kernel.call(Opcode::Listxattr, id.raw(), &get, &[]).is_ok(), "flistxattr");
    assert!(content(kernel, id).is_ok(), "opened again through /proc/self/fd");
}

#[test]
fn an_open_file_is_found_whatever_becomes_of_its_name() {
    let rename: &dyn Fn(&Path) = &|dir| fs::rename(dir.join("f"), dir.join("g")).unwrap();
    let remove: &dyn Fn(&Path) = &|dir| fs::remove_file(dir.join("f")).unwrap();
    let replace: &dyn Fn(&Path) = &|dir| {
        fs::write(dir.join("new"), "new").unwrap();
        fs::rename(dir.join("new"), dir.join("f")).unwrap();
    };
    for way in WAYS {
        for options in [options(way), scarce(way)] {
            for change in [rename, remove, replace] {
                let (dir, kernel) = start(options.clone());
                fs::write(dir.path().join("f"), "text").unwrap();
                grow_old();
                let id = look_up(&kernel, c"f");
                let first = kernel.open(id, libc::O_RDWR as u32).unwrap();
                let second = kernel.open(id, libc::O_RDONLY as u32).unwrap();
                kernel.release(id, first.fh).unwrap();
                use_others(dir.path(), &kernel);
                change(dir.path());
                use_without_handle(&kernel, id);
                use_others(dir.path(), &kernel);
                use_without_handle(&kernel, id);
                assert_eq!(kernel.read(id, second.fh, 0, 100).unwrap(), b"te", "{way:?}");
                kernel.release(id, second.fh).unwrap();
                assert!(kernel.filesystem().nodes.open_files.get(id).is_none());
            }
        }
    }
}

#[test]
fn an_open_directory_is_found_whatever_becomes_of_its_name() {
    for way in WAYS {
        let (dir, kernel) = start(scarce(way));
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/f"), "text").unwrap();
        grow_old();
        let id = look_up(&kernel, c"d");
        let open = opened_directory(&kernel, id);
        use_others(dir.path(), &kernel);
        fs::rename(dir.path().join("d"), dir.path().join("e")).unwrap();
        assert!(kernel.lookup(id, c"f").is_ok(), "{way:?}");
        let args = abi::ReleaseIn { fh: open.fh, ..Default::default() };
        kernel.call(Opcode::Releasedir, id.raw(), &args, &[]).unwrap();
    }
}

/// A client may have it in ways that we are not told of.
#[test]
fn what_is_moved_or_unlinked_through_the_mount_is_found() {
    const EXCHANGE: u32 = 2;
    for way in WAYS {
        for options in [options(way), scarce(way)] {
            let (dir, kernel) = start(options);
            let known = ["moved", "this", "that", "target", "source", "linked"].map(|file| {
                fs::write(dir.path().join(file), file).unwrap();
                name(file)
            });
            fs::hard_link(dir.path().join("linked"), dir.path().join("again")).unwrap();
            symlink("somewhere", dir.path().join("link")).unwrap();
            grow_old();
            let known = known.map(|name| (look_up(&kernel, &name), name.into_bytes()));
            assert_eq!(look_up(&kernel, c"again"), known[5].0);
            let link = look_up(&kernel, c"link");
            rename(&kernel, c"moved", c"elsewhere", 0);
            rename(&kernel, c"this", c"that", EXCHANGE);
            rename(&kernel, c"source", c"target", 0);
            rename(&kernel, c"link", c"renamed", 0);
            kernel.unlink(ROOT, c"again").unwrap();
            if way == FileHandles::Never {
                // It was last seen under the name that is gone, and if it has to be found by a name it must be seen again.
                look_up(&kernel, c"linked");
            }
            for _ in 0..2 {
                for (id, text) in &known {
                    assert_eq!(kernel.getattr(*id).map(|attr| attr.size), Ok(text.len() as u64), "{way:?}");
                    assert_eq!(content(&kernel, *id).as_ref(), Ok(text), "{way:?}");
                }
                let target = kernel.call(Opcode::Readlink, link.raw(), &[0_u8; 0], &[]).unwrap();
                assert_eq!(target, b"somewhere");
                use_others(dir.path(), &kernel);
            }
        }
    }
}

#[test]
fn names_looked_up_to_be_removed_keep_their_files() {
    for way in WAYS {
        let (dir, kernel) = start(options(way));
        let names: Vec<_> = (0..50).map(|i| name(&format!("f{i}"))).collect();
        for (i, name) in names.iter().enumerate() {
            fs::write(dir.path().join(name.to_str().unwrap()), i.to_string()).unwrap();
        }
        grow_old();
        for (i, name) in names.iter().enumerate() {
            let id = look_up(&kernel, name);
            if i % 5 == 4 {
                // What was looked up is not what is removed.
                rename(&kernel, name, c"moved", 0);
                fs::write(dir.path().join(name.to_str().unwrap()), "another").unwrap();
                kernel.unlink(ROOT, name).unwrap();
                assert_eq!(content(&kernel, id).unwrap(), i.to_string().as_bytes());
                kernel.unlink(ROOT, c"moved").unwrap();
            } else {
                kernel.unlink(ROOT, name).unwrap();
            }
            assert_eq!(kernel.getattr(id).map(|attr| attr.nlink), Ok(0), "{way:?} {i}");
            assert_eq!(content(&kernel, id).unwrap(), i.to_string().as_bytes());
            kernel.forget(id, 1);
        }
        eventually("nodes are forgotten", || kernel.filesystem().nodes() == 1);
        let used = kernel.filesystem().descriptor_use();
        assert_eq!((used.cached, used.open), (0, 0), "{used:?}");
    }
}

/// Counts how often what `path` leads to is opened, `O_PATH` aside.
struct Openings(std::os::fd::OwnedFd);

impl Openings {
    fn of(path: &Path) -> Self {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
        let flags = inotify::WatchFlags::OPEN | inotify::WatchFlags::DONT_FOLLOW;
        inotify::add_watch(&fd, path, flags).unwrap();
        Self(fd)
    }

    fn any(&self) -> bool {
        rustix::io::read(&self.0, &mut [0; 4096]).is_ok()
    }
}

/// Each is put in the place of a regular file.
fn impostors(dir: &Path) {
    let special = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::from_raw_mode(0o666), device)
    };
    special("fifo", rustix::fs::FileType::Fifo, 0).unwrap();
    special("socket", rustix::fs::FileType::Socket, 0).unwrap();
    if special("device", rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3)).is_err() {
        eprintln!("skipped: devices cannot be made here");
        fs::write(dir.join("device"), "").unwrap();
    }
    fs::write(dir.join("file"), "another").unwrap();
    symlink("file", dir.join("symlink")).unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
}

#[test]
fn whatever_took_a_name_is_neither_opened_nor_shown_for_what_had_it() {
    for way in WAYS {
        for options in [options(way), scarce(way)] {
            let (dir, kernel) = start(options);
            impostors(dir.path());
            for impostor in ["fifo", "socket", "device", "file", "symlink", "directory"] {
                let (path, victim) = (dir.path().join(impostor), dir.path().join("victim"));
                fs::write(&victim, "victim").unwrap();
                grow_old();
                let id = look_up(&kernel, c"victim");
                use_others(dir.path(), &kernel);
                fs::remove_file(&victim).unwrap();
                fs::rename(&path, &victim).unwrap();
                let openings = Openings::of(&victim);
                for flags in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR | libc::O_TRUNC] {
                    let opened = kernel.open(id, flags as u32).map(|open| open.fh);
                    // With a descriptor the removed file is still there.
                    assert!(
                        matches!(opened, Err(Errno::STALE)) || content(&kernel, id).is_ok(),
                        "{opened:?}"
                    );
                    if let Ok(fh) = opened {
                        kernel.release(id, fh).unwrap();
                    }
                }
                let attr = kernel.getattr(id);
                assert!(attr.is_err() || attr.is_ok_and(|attr| attr.mode & libc::S_IFMT == libc::S_IFREG));
                assert!(!openings.any(), "{way:?}: the {impostor} was opened");
                let now = kernel.lookup(ROOT, c"victim").unwrap();
                assert_ne!(node(&now), id, "{way:?} {impostor}");
                fs::rename(&victim, &path).unwrap();
            }
            assert!(fs::metadata(dir.path().join("fifo")).unwrap().file_type().is_fifo());
            assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"another", "nothing was truncated");
        }
    }
}

/// The place where a file was seen last may lead through a directory that was forgotten, whose number is another node's.
#[test]
fn a_forgotten_directory_leads_nowhere() {
    for way in WAYS {
        let (dir, kernel) = start(scarce(way));
        for sub in ["d1", "d2"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        fs::write(dir.path().join("d1/f"), "text").unwrap();
        fs::hard_link(dir.path().join("d1/f"), dir.path().join("d2/f")).unwrap();
        fs::create_dir(dir.path().join("files")).unwrap();
        grow_old();
        let [d1, d2, files] = [c"d1", c"d2", c"files"].map(|name| look_up(&kernel, name));
        let id = node(&kernel.lookup(d1, c"f").unwrap());
        assert_eq!(node(&kernel.lookup(d2, c"f").unwrap()), id);
        use_others(dir.path(), &kernel);
        kernel.forget(d2, 1);
        eventually("the directory is forgotten", || kernel.getattr(d2).is_err());
        // The number may be free a moment after the node is gone.
        let count = std::cell::Cell::new(0);
        eventually("a file has got the number of the directory", || {
            let file = count.replace(count.get() + 1).to_string();
            fs::write(dir.path().join("files").join(&file), "").unwrap();
            node(&kernel.lookup(files, &name(&file)).unwrap()) == d2
        });
        for _ in 0..2 {
            let size = kernel.getattr(id).map(|attr| attr.size);
            assert!(matches!(size, Ok(4) | Err(Errno::STALE)), "{way:?} {size:?}");
            let text = content(&kernel, id);
            assert!(text.as_deref() == Ok(b"text") || text == Err(Errno::STALE), "{way:?} {text:?}");
            // What the kernel does when it is told so.
            assert_eq!(node(&kernel.lookup(d1, c"f").unwrap()), id);
            assert_eq!(content(&kernel, id).unwrap(), b"text");
        }
    }
}

/// A file that was only looked at takes neither descriptor nor handle, one that is opened has a handle.
#[test]
fn looking_takes_nothing() {
    let (dir, kernel) = start(options(FileHandles::Auto));
    if !kernel.filesystem().nodes.mounts.root().handles {
        eprintln!("skipped: no file handles here");
        return;
    }
    (0..500).for_each(|i| fs::write(dir.path().join(i.to_string()), "").unwrap());
    grow_old();
    let before = kernel.filesystem().descriptor_use();
    for i in 0..500 {
        let id = look_up(&kernel, &name(&i.to_string()));
        kernel.getattr(id).unwrap();
        assert_eq!(look_up(&kernel, &name(&i.to_string())), id);
    }
    assert_eq!(kernel.filesystem().descriptor_use(), before);
    // Moved underneath before anybody opened it, it is found by its new name only.
    fs::rename(dir.path().join("7"), dir.path().join("seven")).unwrap();
    let id = look_up(&kernel, c"8");
    let open = kernel.open(id, 0).unwrap();
    kernel.release(id, open.fh).unwrap();
    fs::rename(dir.path().join("8"), dir.path().join("eight")).unwrap();
    assert!(content(&kernel, id).is_ok(), "it was opened once");
}

/// A client that is told `ESTALE` looks the name up once more, and then gives up.
#[test]
fn what_is_looked_up_again_after_it_was_gone_is_there_when_it_is_used() {
    for way in WAYS {
        let (dir, kernel) = start(options(way));
        let path = dir.path().join("link");
        let replace = |target: &str| {
            _ = fs::remove_file(&path);
            symlink(target, &path).unwrap();
        };
        let target = |id: NodeId| {
            let args: [u8; 0] = [];
            kernel.call(Opcode::Readlink, id.raw(), &args, &[])
        };
        replace("first");
        let id = look_up(&kernel, c"link");
        replace("second");
        let first = target(id);
        let id = look_up(&kernel, c"link");
        replace("third");
        let second = target(id).expect("the link that the name led to");
        match first {
            Ok(first) => assert_eq!((&*first, &*second), (&b"first"[..], &b"second"[..]), "{way:?}"),
            Err(error) => assert_eq!((error, &*second), (Errno::STALE, &b"second"[..]), "{way:?}"),
        }
    }
}
