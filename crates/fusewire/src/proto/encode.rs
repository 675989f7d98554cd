//! Replies as the wire has them. Those of the hot path are inlined, so that they are made where they are to stand.

use crate::types::*;
use fusewire_abi as abi;
use zerocopy::{Immutable, IntoBytes};

#[inline(always)]
fn wire_attr(node: u64, a: &Attr) -> abi::Attr {
    abi::Attr {
        ino: a.ino.unwrap_or(node),
        size: a.size,
        blocks: a.blocks,
        atime: a.atime.seconds as u64,
        mtime: a.mtime.seconds as u64,
        ctime: a.ctime.seconds as u64,
        atimensec: a.atime.nanos,
        mtimensec: a.mtime.nanos,
        ctimensec: a.ctime.nanos,
        mode: a.mode(),
        nlink: a.nlink,
        uid: a.uid,
        gid: a.gid,
        rdev: a.rdev,
        blksize: a.blksize,
        flags: a.flags.bits(),
    }
}

#[inline(always)]
pub(crate) fn attr(node: NodeId, a: &Attr) -> abi::AttrOut {
    abi::AttrOut {
        attr_valid: a.ttl.as_secs(),
        attr_valid_nsec: a.ttl.subsec_nanos(),
        dummy: 0,
        attr: wire_attr(node.raw(), a),
    }
}

#[inline(always)]
pub(crate) fn entry(e: &Entry) -> abi::EntryOut {
    let nodeid = e.node.map_or(0, NodeId::raw);
    abi::EntryOut {
        nodeid,
        generation: e.generation.0,
        entry_valid: e.ttl.as_secs(),
        attr_valid: e.attr.ttl.as_secs(),
        entry_valid_nsec: e.ttl.subsec_nanos(),
        attr_valid_nsec: e.attr.ttl.subsec_nanos(),
        attr: wire_attr(nodeid, &e.attr),
    }
}

#[inline(always)]
pub(crate) fn opened(o: &Opened) -> abi::OpenOut {
    abi::OpenOut { fh: o.handle.0, open_flags: o.flags.bits(), backing_id: o.backing_id }
}

/// Reply to CREATE and TMPFILE.
#[derive(Immutable, IntoBytes)]
#[repr(C)]
pub(crate) struct Created {
    entry: abi::EntryOut,
    opened: abi::OpenOut,
}

#[inline(always)]
pub(crate) fn created(e: &Entry, o: &Opened) -> Created {
    Created { entry: entry(e), opened: opened(o) }
}

pub(crate) fn statfs(s: &StatFs) -> abi::StatfsOut {
    abi::StatfsOut {
        st: abi::Kstatfs {
            blocks: s.blocks,
            bfree: s.bfree,
            bavail: s.bavail,
            files: s.files,
            ffree: s.ffree,
            bsize: s.bsize,
            namelen: s.namelen,
            frsize: s.frsize,
            ..Default::default()
        },
    }
}

pub(crate) fn lock(lock: &FileLock) -> abi::LkOut {
    let typ = match lock.kind {
        LockKind::Read => 0,
        LockKind::Write => 1,
        LockKind::Unlock => 2,
    };
    abi::LkOut { lk: abi::FileLock { start: lock.start, end: lock.end, typ, pid: lock.pid } }
}

/// `STATX_BASIC_STATS`.
const BASIC_STATS: u32 = 0x7ff;
/// `STATX_BTIME`.
const BTIME: u32 = 0x800;

pub(crate) fn statx(node: NodeId, a: &Attr, x: &Extended) -> abi::StatxOut {
    let time = |t: Timestamp| abi::SxTime { tv_sec: t.seconds, tv_nsec: t.nanos, ..Default::default() };
    // The inverse of `new_encode_dev`: 12 bits of major number, 20 of minor.
    let (major, minor) = ((a.rdev >> 8) & 0xfff, (a.rdev & 0xff) | ((a.rdev >> 12) & 0xf_ff00));
    abi::StatxOut {
        attr_valid: a.ttl.as_secs(),
        attr_valid_nsec: a.ttl.subsec_nanos(),
        stat: abi::Statx {
            mask: BASIC_STATS | if x.btime.is_some() { BTIME } else { 0 },
            blksize: a.blksize,
            attributes: x.attributes,
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            mode: a.mode() as u16,
            ino: a.ino.unwrap_or(node.raw()),
            size: a.size,
            blocks: a.blocks,
            attributes_mask: x.attributes_mask,
            atime: time(a.atime),
            btime: time(x.btime.unwrap_or_default()),
            ctime: time(a.ctime),
            mtime: time(a.mtime),
            rdev_major: major,
            rdev_minor: minor,
            ..Default::default()
        },
        ..Default::default()
    }
}
