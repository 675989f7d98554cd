//! What a client knows is noted for whoever comes next.

use super::*;
use crate::passthrough::Ledger;
use std::{fs::File, sync::Arc};

/// A filesystem that a client has begun with.
fn begun(dir: &TempDir, ledger: &Arc<Ledger>, beginning: &[u8]) -> Option<Kernel> {
    let fs = Passthrough::new(dir.path(), options(FileHandles::Auto)).unwrap();
    let fs = match fs.with_ledger(ledger.clone()) {
        Ok(fs) => fs,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    fs.ledger_begins(beginning).unwrap();
    Some(Kernel::start(fs).unwrap())
}

#[test]
fn what_requests_of_a_client_before_still_do_is_not_noted() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    let state = dir.path().join("state");
    let file = File::options().read(true).write(true).create_new(true).open(state).unwrap();
    let reader = Ledger::new(file.try_clone().unwrap()).unwrap();
    let ledger = Arc::new(Ledger::new(file).unwrap());
    // As another process would find it.
    let known = || {
        let (beginning, kept) = reader.read().unwrap()?;
        Some((String::from_utf8(beginning).unwrap(), kept.nodes.len(), kept.opens.len()))
    };
    let Some(one) = begun(&dir, &ledger, b"one") else { return };
    let a = node(&one.lookup(ROOT, c"a").unwrap());
    let open = one.open(a, 0).unwrap().fh;
    assert_eq!(known(), Some(("one".into(), 1, 1)));
    let Some(two) = begun(&dir, &ledger, b"two") else { return };
    one.lookup(ROOT, c"b").unwrap();
    let c = node(&two.lookup(ROOT, c"c").unwrap());
    assert_eq!(two.open(c, 0).unwrap().fh, open, "another file by the same number");
    one.release(a, open).unwrap();
    one.forget(c, 1);
    one.getattr(ROOT).unwrap();
    assert_eq!(known(), Some(("two".into(), 1, 1)));
    // What is stuck when the client is gone gets numbers that mean other files to it.
    FileSystem::abandoned(two.filesystem());
    two.lookup(ROOT, c"b").unwrap();
    assert_eq!(known(), Some(("two".into(), 1, 1)));
    // Whoever goes on with it writes, as from the start.
    let (_, kept) = ledger.read().unwrap().unwrap();
    let mut fs = Passthrough::new(dir.path(), options(FileHandles::Auto)).unwrap();
    fs.resume(kept);
    let three = Kernel::start(fs.with_ledger(ledger.clone()).unwrap()).unwrap();
    three.lookup(ROOT, c"a").unwrap();
    one.lookup(ROOT, c"b").unwrap();
    assert_eq!(known(), Some(("two".into(), 2, 1)));
    ledger.end().unwrap();
    three.lookup(ROOT, c"b").unwrap();
    assert_eq!(known(), None);
}
