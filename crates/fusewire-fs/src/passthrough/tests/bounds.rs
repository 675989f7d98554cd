//! A client that wants more than it may have.

use super::*;

fn bounded(bounds: Bounds, way: FileHandles) -> (TempDir, Kernel) {
    start(Options { bounds, ..options(way) })
}

#[test]
fn files_that_are_one_too_many_are_not_found_and_others_are() {
    for way in WAYS {
        let (dir, kernel) = bounded(Bounds { nodes: Some(11), ..Bounds::default() }, way);
        for i in 0..20 {
            fs::write(dir.path().join(i.to_string()), i.to_string()).unwrap();
        }
        let known: Vec<_> =
            (0..10).map(|i| node(&kernel.lookup(ROOT, &name(&i.to_string())).unwrap())).collect();
        for _ in 0..3 {
            assert_eq!(kernel.lookup(ROOT, c"11").map(drop), Err(Errno::NOMEM), "{way:?}");
            assert_eq!(kernel.lookup(ROOT, c"none").map(drop), Err(Errno::NOENT));
        }
        // Nothing is made that could not be told of.
        assert_eq!(kernel.mkdir(ROOT, c"dir", 0o755).map(drop), Err(Errno::NOMEM));
        assert_eq!(kernel.create(ROOT, c"new", 0o644, libc::O_RDWR as u32).map(drop), Err(Errno::NOMEM));
        assert!(!dir.path().join("dir").exists() && !dir.path().join("new").exists());
        // What is known goes on working.
        let again = node(&kernel.lookup(ROOT, c"7").unwrap());
        assert_eq!(again, known[7]);
        let open = kernel.open(again, libc::O_RDWR as u32).unwrap();
        assert_eq!(kernel.read(again, open.fh, 0, 10).unwrap(), b"7");
        kernel.release(again, open.fh).unwrap();
        assert_eq!(kernel.filesystem().nodes(), 11);
        kernel.forget(known[3], 1);
        eventually("a node is forgotten", || kernel.filesystem().nodes() == 10);
        kernel.create(ROOT, c"new", 0o644, libc::O_RDWR as u32).unwrap();
        kernel.forget(again, 1);
        assert_eq!(kernel.getattr(again).map(|attr| attr.size), Ok(1), "looked up twice, forgotten once");
    }
}

#[test]
fn open_files_that_are_one_too_many_are_refused_and_others_go_on() {
    let (dir, kernel) = bounded(Bounds { handles: Some(3), ..Bounds::default() }, FileHandles::Auto);
    fs::write(dir.path().join("file"), "content").unwrap();
    let file = node(&kernel.lookup(ROOT, c"file").unwrap());
    let open: Vec<_> = (0..3).map(|_| kernel.open(file, 0).unwrap().fh).collect();
    assert_eq!(kernel.open(file, 0).map(drop), Err(Errno::NFILE));
    assert_eq!(kernel.create(ROOT, c"new", 0o644, libc::O_RDWR as u32).map(drop), Err(Errno::NFILE));
    assert!(!dir.path().join("new").exists());
    assert_eq!(kernel.read(file, open[0], 0, 100).unwrap(), b"content");
    kernel.release(file, open[0]).unwrap();
    kernel.open(file, 0).unwrap();
}

#[test]
fn who_waits_counts_for_the_client_and_not_for_one_of_its_filesystems() {
    let dir = tempfile::tempdir().unwrap();
    let open = |waits: Option<Waits>| {
        let bounds = Bounds { waits: Some(9), ..Bounds::default() };
        Passthrough::new(dir.path(), Options { bounds, waits, ..options(FileHandles::Auto) }).unwrap()
    };
    let waits = Some(Waits::new(Some(2)));
    let (one, other, alone) = (open(waits.clone()), open(waits), open(None));
    let taken = [one.waits.take().unwrap(), one.waits.take().unwrap()];
    assert_eq!(other.waits.take().map(drop), Err(Errno::NOLCK));
    assert!(alone.waits.take().is_ok());
    drop(taken);
    assert!(other.waits.take().is_ok());
    assert!((0..100).all(|_| Waits::new(None).take().is_ok()));
}
