//! Every constant of the crate under its C name.

use std::collections::BTreeMap;

use abi::flags::*;
use fusewire_abi as abi;

/// Flags under C names: prefix and name, except for those that C calls otherwise.
macro_rules! flags {
    ($all:ident, $( $prefix:literal $typ:ident ),* $(,)?) => {$(
        for (name, flag) in $typ::all().iter_names() {
            let name = match (stringify!($typ), name) {
                ("IoctlFlags", "IS_32BIT") => "FUSE_IOCTL_32BIT".to_owned(),
                _ => format!("{}{name}", $prefix),
            };
            insert(&mut $all, name, u64::from(flag.bits()));
        }
    )*};
}

fn insert(all: &mut BTreeMap<String, u64>, name: String, value: u64) {
    let before = all.insert(name.clone(), value);
    assert_eq!(before, None, "{name} twice");
}

/// The constants by C name.
pub fn all() -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    flags!(
        all,
        "FUSE_" InitFlags,
        "CUSE_" CuseInitFlags,
        "FOPEN_" FopenFlags,
        "FATTR_" SetattrValid,
        "FUSE_GETATTR_" GetattrFlags,
        "FUSE_READ_" ReadFlags,
        "FUSE_WRITE_" WriteFlags,
        "FUSE_RELEASE_" ReleaseFlags,
        "FUSE_OPEN_" OpenInFlags,
        "FUSE_LK_" LkFlags,
        "FUSE_IOCTL_" IoctlFlags,
        "FUSE_POLL_" PollFlags,
        "FUSE_FSYNC_" FsyncFlags,
        "FUSE_ATTR_" AttrFlags,
        "FUSE_SETXATTR_" SetxattrFlags,
        "FUSE_" NotifyEntryFlags,
        "FUSE_SETUPMAPPING_FLAG_" SetupmappingFlags,
        "FUSE_URING_ENT_" UringEntFlags,
        "FUSE_URING_" UringQueueFlags,
    );
    for opcode in abi::Opcode::ALL {
        let name = opcode.name();
        let name = if name == "CUSE_INIT" { name.to_owned() } else { format!("FUSE_{name}") };
        insert(&mut all, name, u64::from(*opcode as u32));
    }
    for code in abi::NotifyCode::ALL {
        insert(&mut all, format!("FUSE_NOTIFY_{code}"), *code as u64);
    }
    for command in abi::UringCmd::ALL {
        insert(&mut all, format!("FUSE_IO_URING_CMD_{}", command.name()), *command as u64);
    }
    for (name, value) in numbers() {
        insert(&mut all, name.to_owned(), value);
    }
    all
}

fn numbers() -> [(&'static str, u64); 31] {
    [
        ("FUSE_KERNEL_VERSION", abi::KERNEL_VERSION.into()),
        ("FUSE_ROOT_ID", abi::ROOT_ID),
        ("FUSE_MIN_READ_BUFFER", abi::MIN_READ_BUFFER as u64),
        ("FUSE_UNIQUE_RESEND", abi::UNIQUE_RESEND),
        ("FUSE_INVALID_UIDGID", abi::INVALID_UIDGID.into()),
        ("FUSE_COMPAT_ENTRY_OUT_SIZE", abi::COMPAT_ENTRY_OUT_SIZE as u64),
        ("FUSE_COMPAT_ATTR_OUT_SIZE", abi::COMPAT_ATTR_OUT_SIZE as u64),
        ("FUSE_COMPAT_MKNOD_IN_SIZE", abi::COMPAT_MKNOD_IN_SIZE as u64),
        ("FUSE_COMPAT_WRITE_IN_SIZE", abi::COMPAT_WRITE_IN_SIZE as u64),
        ("FUSE_COMPAT_STATFS_SIZE", abi::COMPAT_STATFS_SIZE as u64),
        ("FUSE_COMPAT_SETXATTR_IN_SIZE", abi::COMPAT_SETXATTR_IN_SIZE as u64),
        ("FUSE_COMPAT_INIT_OUT_SIZE", abi::COMPAT_INIT_OUT_SIZE as u64),
        ("FUSE_COMPAT_22_INIT_OUT_SIZE", abi::COMPAT_22_INIT_OUT_SIZE as u64),
        ("CUSE_INIT_INFO_MAX", abi::CUSE_INIT_INFO_MAX as u64),
        ("FUSE_IOCTL_MAX_IOV", abi::IOCTL_MAX_IOV as u64),
        ("FUSE_MAX_NR_SECCTX", abi::MAX_NR_SECCTX.into()),
        ("FUSE_EXT_GROUPS", abi::EXT_GROUPS.into()),
        ("FUSE_NAME_OFFSET", abi::NAME_OFFSET as u64),
        ("FUSE_NAME_OFFSET_DIRENTPLUS", abi::NAME_OFFSET_DIRENTPLUS as u64),
        ("FUSE_URING_IN_OUT_HEADER_SZ", abi::URING_IN_OUT_HEADER_SZ as u64),
        ("FUSE_URING_OP_IN_OUT_SZ", abi::URING_OP_IN_OUT_SZ as u64),
        ("FUSE_DEV_IOC_MAGIC", abi::DEV_IOC_MAGIC.into()),
        ("FUSE_DEV_IOC_CLONE", abi::DEV_IOC_CLONE.into()),
        ("FUSE_DEV_IOC_BACKING_OPEN", abi::DEV_IOC_BACKING_OPEN.into()),
        ("FUSE_DEV_IOC_BACKING_CLOSE", abi::DEV_IOC_BACKING_CLOSE.into()),
        ("FUSE_DEV_IOC_SYNC_INIT", abi::DEV_IOC_SYNC_INIT.into()),
        ("CUSE_INIT_BSWAP_RESERVED", abi::opcode::CUSE_INIT_BSWAP_RESERVED.into()),
        ("FUSE_INIT_BSWAP_RESERVED", abi::opcode::INIT_BSWAP_RESERVED.into()),
        // Second names of flags.
        ("FUSE_WRITE_KILL_PRIV", WriteFlags::KILL_SUIDGID.bits().into()),
        ("FUSE_DIRECT_IO_RELAX", InitFlags::DIRECT_IO_ALLOW_MMAP.bits()),
        // Not a command, so not in `UringCmd`.
        ("FUSE_IO_URING_CMD_INVALID", 0),
    ]
}
