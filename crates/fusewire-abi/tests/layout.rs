//! The layout of the structures, against numbers written down independently of their declarations.

use std::collections::BTreeSet;

use fusewire_abi::layout;
use fusewire_abi::*;
use zerocopy::{FromBytes, IntoBytes};

/// Sizes in bytes of protocol 7.46, as a C compiler gives them for Linux 7.3.
const SIZES: &[(&str, usize)] = &[
    ("AccessIn", 8),
    ("Attr", 88),
    ("AttrOut", 104),
    ("BackingMap", 16),
    ("BatchForgetIn", 8),
    ("BmapIn", 16),
    ("BmapOut", 8),
    ("CopyFileRangeIn", 56),
    ("CopyFileRangeOut", 8),
    ("CreateIn", 16),
    ("CuseInitIn", 16),
    ("CuseInitOut", 72),
    ("Dirent", 24),
    ("Direntplus", 152),
    ("EntryOut", 128),
    ("ExtHeader", 8),
    ("FallocateIn", 32),
    ("FileLock", 24),
    ("FlushIn", 24),
    ("ForgetIn", 8),
    ("ForgetOne", 16),
    ("FsyncIn", 16),
    ("GetattrIn", 16),
    ("GetxattrIn", 8),
    ("GetxattrOut", 8),
    ("InHeader", 40),
    ("InitIn", 64),
    ("InitOut", 64),
    ("InterruptIn", 8),
    ("IoctlIn", 32),
    ("IoctlIovec", 16),
    ("IoctlOut", 16),
    ("Kstatfs", 80),
    ("LinkIn", 8),
    ("LkIn", 48),
    ("LkOut", 24),
    ("LseekIn", 24),
    ("LseekOut", 8),
    ("MkdirIn", 8),
    ("MknodIn", 16),
    ("NotifyDeleteOut", 24),
    ("NotifyInvalEntryOut", 16),
    ("NotifyInvalInodeOut", 24),
    ("NotifyPollWakeupOut", 8),
    ("NotifyPruneOut", 16),
    ("NotifyRetrieveIn", 40),
    ("NotifyRetrieveOut", 32),
    ("NotifyStoreOut", 24),
    ("OpenIn", 8),
    ("OpenOut", 16),
    ("OutHeader", 16),
    ("PollIn", 24),
    ("PollOut", 8),
    ("ReadIn", 40),
    ("ReleaseIn", 24),
    ("RemovemappingIn", 4),
    ("RemovemappingOne", 16),
    ("Rename2In", 16),
    ("RenameIn", 8),
    ("Secctx", 8),
    ("SecctxHeader", 8),
    ("SetattrIn", 88),
    ("SetupmappingIn", 40),
    ("SetxattrIn", 16),
    ("SetxattrInCompat", 8),
    ("StatfsOut", 80),
    ("Statx", 256),
    ("StatxIn", 24),
    ("StatxOut", 288),
    ("SuppGroups", 4),
    ("SxTime", 16),
    ("SyncfsIn", 8),
    ("UringBufpool", 16),
    ("UringCmdReq", 40),
    ("UringCmdReqV45", 24),
    ("UringEntInOut", 32),
    ("UringReqHeader", 288),
    ("VirtioFsConfig", 44),
    ("WriteIn", 40),
    ("WriteOut", 8),
];

#[test]
fn sizes_are_those_of_linux() {
    let described: BTreeSet<_> = layout::all().map(|layout| (layout.name, layout.size)).collect();
    let expected: BTreeSet<_> = SIZES.iter().copied().collect();
    let differences: Vec<_> = described.symmetric_difference(&expected).collect();
    assert!(differences.is_empty(), "{differences:?}");
    assert_eq!(layout::all().count(), SIZES.len(), "a structure is described twice");
}

#[test]
fn fields_leave_no_gaps() {
    for layout in layout::all() {
        let mut end = 0;
        for field in layout.fields {
            assert_eq!(field.offset, end, "{}.{}", layout.name, field.name);
            end += field.size;
        }
        assert_eq!(end, layout.size, "{}", layout.name);
    }
}

#[test]
fn structures_with_64_bit_fields_end_on_8_bytes() {
    // 32-bit servers of 64-bit kernels depend on this: `u64` may be aligned to 4 there.
    for layout in layout::all().filter(|layout| layout.size > 8) {
        let exempt = matches!(layout.name, "VirtioFsConfig");
        assert!(exempt || layout.size % 8 == 0, "{} has {} bytes", layout.name, layout.size);
    }
}

#[test]
fn bytes_are_where_they_belong() {
    // A LOOKUP of "a" in the root, byte for byte, as a little-endian client sends it.
    let mut message = [0_u8; 42];
    message[0] = 42; // len
    message[4] = 1; // opcode
    message[8] = 0x34; // unique
    message[9] = 0x12;
    message[16] = 1; // nodeid
    message[24] = 0xe8; // uid
    message[25] = 0x03;
    message[28] = 0x64; // gid
    message[32] = 0x07; // pid
    message[36] = 0x02; // total_extlen
    message[40] = b'a';
    if cfg!(target_endian = "big") {
        return;
    }
    let (header, rest) = InHeader::read_from_prefix(&message).expect("is long enough");
    let expected = InHeader {
        len: 42,
        opcode: Opcode::Lookup as u32,
        unique: 0x1234,
        nodeid: ROOT_ID,
        uid: 1000,
        gid: 100,
        pid: 7,
        total_extlen: 2,
        padding: 0,
    };
    assert_eq!(header, expected);
    assert_eq!(rest, b"a\0");
    assert_eq!(expected.as_bytes(), &message[..40]);
}

#[test]
fn replies_may_be_built_in_place() {
    let mut buffer = [0xff_u8; 128];
    let entry = EntryOut::mut_from_bytes(&mut buffer[..]);
    // Alignment decides whether a byte buffer can be borrowed as a structure; copying always works.
    if let Ok(entry) = entry {
        *entry = EntryOut { nodeid: 5, ..EntryOut::default() };
    } else {
        EntryOut { nodeid: 5, ..EntryOut::default() }.write_to(&mut buffer).expect("has the size");
    }
    assert_eq!(EntryOut::read_from_bytes(&buffer).expect("has the size").nodeid, 5);
    assert!(buffer[8..].iter().all(|&byte| byte == 0));
}

#[test]
fn one_removemapping_fits_a_page() {
    assert_eq!(removemapping_max_entry(4096), 256);
    assert_eq!(removemapping_max_entry(65536), 4096);
}

#[test]
fn records_are_padded_to_eight() {
    assert_eq!([0, 1, 7, 8, 9].map(rec_align), [0, 8, 8, 8, 16]);
}
