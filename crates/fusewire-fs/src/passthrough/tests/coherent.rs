//! What the kernel is told, where it remembers everything.

use super::*;
use fusewire::abi::notify_code;

/// `None` where changes cannot be heard of.
fn told() -> Option<(TempDir, Kernel)> {
    let (dir, kernel) = start(Options { cache: CacheProfile::Coherent, ..Options::default() });
    match kernel.filesystem().caching().coherence() {
        Coherence::Told => Some((dir, kernel)),
        other => {
            eprintln!("skipped: {other:?}");
            None
        }
    }
}

/// Whose attributes alone it is to forget, according to the notifications that come within `limit`.
fn attributes_told(kernel: &Kernel, limit: Duration) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    let deadline = Instant::now() + limit;
    while let Some(message) = kernel.notification(deadline.saturating_duration_since(Instant::now())) {
        // `OutHeader`, `NotifyInvalInodeOut`
        let word = |at: usize| u64::from_ne_bytes(message[at..at + 8].try_into().expect("eight bytes"));
        let code = i32::from_ne_bytes(message[4..8].try_into().expect("four bytes"));
        if code == notify_code::INVAL_INODE {
            let (ino, offset) = (word(16), word(24).cast_signed());
            nodes.extend((offset < 0).then(|| NodeId::new(ino)));
        }
    }
    nodes
}

/// The answer before the change may arrive after that of the change, and the kernel takes it in.
#[test]
fn attributes_of_a_directory_answered_just_before_an_own_change_are_forgotten_in_a_moment() {
    let Some((dir, kernel)) = told() else { return };
    fs::create_dir(dir.path().join("d")).unwrap();
    // Of what was made below.
    attributes_told(&kernel, Duration::from_millis(1300));
    let d = node(&kernel.lookup(ROOT, c"d").unwrap());
    kernel.getattr(d).unwrap();
    kernel.mkdir(d, c"new", 0o755).unwrap();
    let told = attributes_told(&kernel, Duration::from_millis(300));
    assert!(told.contains(&d), "{told:?}");
    assert!(!told.contains(&ROOT), "nothing was changed there: {told:?}");
}

#[test]
fn extended_attributes_and_access_lists_stay_where_there_are_any() {
    let Some((dir, kernel)) = told() else { return };
    fs::write(dir.path().join("f"), "").unwrap();
    let Ok(()) =
        rustix::fs::setxattr(dir.path().join("f"), c"trusted.x", b"1", rustix::fs::XattrFlags::empty())
    else {
        return eprintln!("skipped: no extended attributes there");
    };
    let f = node(&kernel.lookup(ROOT, c"f").unwrap());
    let get = abi::GetxattrIn { size: 100, ..Default::default() };
    assert_eq!(kernel.call(Opcode::Getxattr, f.raw(), &get, b"trusted.x\0"), Ok(b"1".to_vec()));
}
