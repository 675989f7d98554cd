//! Attributes: stat in its forms, mode, owner, access, times, the filesystem's own.

use super::{Args, Done, Operation, Trouble};
use crate::sys;
use crate::value::Value;
use crate::world::World;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Stat, StatxFlags, StatxTimestamp, Timespec, Timestamps, Uid};
use std::collections::BTreeMap;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        "stat",
        "path dir?",
        "answers type mode size nlink uid gid ino dev rdev blocks blksize atime mtime ctime",
        stat,
    ),
    Operation::new("lstat", "path dir?", "like stat, of a symbolic link itself", lstat),
    Operation::new("fstat", "fd", "like stat, of a descriptor", fstat),
    Operation::new("statx", "path", "like lstat with btime; has-btime, has-basic, mask", statx),
    Operation::new("fstatx", "fd", "statx with AT_EMPTY_PATH", fstatx),
    Operation::new("chmod", "path mode", "chmod", chmod),
    Operation::new("fchmod", "fd mode", "fchmod", fchmod),
    Operation::new("chown", "path uid? gid?", "chown; what is left out is -1", chown),
    Operation::new("lchown", "path uid? gid?", "lchown", lchown),
    Operation::new("fchown", "fd uid? gid?", "fchown", fchown),
    Operation::new("access", "path want flags? dir?", "faccessat2: `want` of the letters r w x f", access),
    Operation::new(
        "utimens",
        "path atime? mtime?",
        "utimensat: nanoseconds, `now`, or `omit` (the default)",
        utimens,
    ),
    Operation::new("lutimens", "path atime? mtime?", "utimensat with AT_SYMLINK_NOFOLLOW", lutimens),
    Operation::new("futimens", "fd atime? mtime?", "futimens", futimens),
    Operation::new("utimens-null", "path", "utimensat without times: both become now", utimens_null),
    Operation::new("now", "", "answers the kernel's coarse clock, in nanoseconds", now),
    Operation::new("tick", "", "waits until timestamps must differ", tick),
    Operation::new("statfs", "path", "statvfs: bsize frsize blocks bfree bavail files ffree namemax", statfs),
    Operation::new("fstatfs", "fd", "fstatvfs", fstatfs),
];

/// The name of a file type.
pub(crate) fn type_name(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "file",
        FileType::Directory => "dir",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "char",
        FileType::BlockDevice => "block",
        _ => "unknown",
    }
}

fn nanos(seconds: i64, nanos: i64) -> Value {
    Value::Int(i128::from(seconds) * 1_000_000_000 + i128::from(nanos))
}

/// Attributes as a table.
pub(crate) fn attributes(stat: &Stat) -> Value {
    let kind = type_name(FileType::from_raw_mode(stat.st_mode));
    let rdev = format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let table = BTreeMap::from(
        [
            ("type", Value::Bytes(kind.into())),
            ("mode", Value::Int(i128::from(stat.st_mode & 0o7777))),
            ("size", Value::Int(stat.st_size as i128)),
            ("nlink", Value::Int(stat.st_nlink as i128)),
            ("uid", Value::Int(i128::from(stat.st_uid))),
            ("gid", Value::Int(i128::from(stat.st_gid))),
            ("ino", Value::Int(stat.st_ino as i128)),
            ("dev", Value::Int(stat.st_dev as i128)),
            ("rdev", Value::Bytes(rdev.into())),
            ("blocks", Value::Int(stat.st_blocks as i128)),
            ("blksize", Value::Int(stat.st_blksize as i128)),
            ("atime", nanos(stat.st_atime, stat.st_atime_nsec as i64)),
            ("mtime", nanos(stat.st_mtime, stat.st_mtime_nsec as i64)),
            ("ctime", nanos(stat.st_ctime, stat.st_ctime_nsec as i64)),
        ]
        .map(|(k, v)| (k.to_owned(), v)),
    );
    Value::Table(table)
}

fn stat(world: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(attributes(&rustix::fs::statat(world.dir(args, "dir")?, args.bytes("path")?, AtFlags::empty())?))
}

fn lstat(world: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(attributes(&rustix::fs::statat(
        world.dir(args, "dir")?,
        args.bytes("path")?,
        AtFlags::SYMLINK_NOFOLLOW,
    )?))
}

fn fstat(world: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(attributes(&rustix::fs::fstat(world.arg_fd(args, "fd")?)?))
}

fn extended(x: &rustix::fs::Statx) -> Value {
    let time = |t: StatxTimestamp| nanos(t.tv_sec, i64::from(t.tv_nsec));
    let mode = u32::from(x.stx_mode);
    let has = |bits: StatxFlags| Value::Int(i128::from(x.stx_mask & bits.bits() == bits.bits()));
    let table = [
        ("type", Value::Bytes(type_name(FileType::from_raw_mode(mode)).into())),
        ("mode", Value::Int(i128::from(mode & 0o7777))),
        ("size", Value::Int(x.stx_size.into())),
        ("nlink", Value::Int(x.stx_nlink.into())),
        ("uid", Value::Int(x.stx_uid.into())),
        ("gid", Value::Int(x.stx_gid.into())),
        ("ino", Value::Int(x.stx_ino.into())),
        ("blocks", Value::Int(x.stx_blocks.into())),
        ("blksize", Value::Int(x.stx_blksize.into())),
        ("rdev", Value::Bytes(format!("{}:{}", x.stx_rdev_major, x.stx_rdev_minor).into())),
        ("dev", Value::Int(rustix::fs::makedev(x.stx_dev_major, x.stx_dev_minor).into())),
        ("mask", Value::Int(x.stx_mask.into())),
        ("atime", time(x.stx_atime)),
        ("btime", time(x.stx_btime)),
        ("ctime", time(x.stx_ctime)),
        ("mtime", time(x.stx_mtime)),
        ("has-basic", has(StatxFlags::BASIC_STATS)),
        ("has-btime", has(StatxFlags::BTIME)),
    ];
    Value::Table(table.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())
}

fn statx(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(extended(&rustix::fs::statx(CWD, args.bytes("path")?, AtFlags::SYMLINK_NOFOLLOW, want)?))
}

fn fstatx(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let want = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(extended(&rustix::fs::statx(world.arg_fd(args, "fd")?, c"", AtFlags::EMPTY_PATH, want)?))
}

fn chmod(_: &mut World<'_>, args: &Args<'_>) -> Done {
    rustix::fs::chmodat(CWD, args.bytes("path")?, args.mode(0)?, AtFlags::empty())?;
    Ok(Value::Unit)
}

fn fchmod(world: &mut World<'_>, args: &Args<'_>) -> Done {
    rustix::fs::fchmod(world.arg_fd(args, "fd")?, args.mode(0)?)?;
    Ok(Value::Unit)
}

fn owner(args: &Args<'_>) -> Result<(Option<Uid>, Option<Gid>), Trouble> {
    let (uid, gid) = (args.opt_int("uid")?, args.opt_int("gid")?);
    Ok((uid.map(|n| Uid::from_raw(n as u32)), gid.map(|n| Gid::from_raw(n as u32))))
}

fn chown(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let (uid, gid) = owner(args)?;
    rustix::fs::chownat(CWD, args.bytes("path")?, uid, gid, AtFlags::empty())?;
    Ok(Value::Unit)
}

fn lchown(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let (uid, gid) = owner(args)?;
    rustix::fs::chownat(CWD, args.bytes("path")?, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Value::Unit)
}

fn fchown(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let (uid, gid) = owner(args)?;
    rustix::fs::fchown(world.arg_fd(args, "fd")?, uid, gid)?;
    Ok(Value::Unit)
}

fn access(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let letters = args.text("want")?;
    let bit = |letter: char, bit: i32| if letters.contains(letter) { bit } else { 0 };
    let mode = bit('r', libc::R_OK) | bit('w', libc::W_OK) | bit('x', libc::X_OK);
    sys::faccessat2(world.dir(args, "dir")?, &args.bytes("path")?, mode, args.flags()? as i32)?;
    Ok(Value::Unit)
}

fn time(args: &Args<'_>, key: &str) -> Result<Timespec, Trouble> {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match args.step.args.get(key) {
        None => Ok(special(rustix::fs::UTIME_OMIT)),
        Some(toml::Value::String(word)) if word == "now" => Ok(special(rustix::fs::UTIME_NOW)),
        Some(toml::Value::String(word)) if word == "omit" => Ok(special(rustix::fs::UTIME_OMIT)),
        Some(_) => {
            let nanos = args.int(key)?;
            Ok(Timespec { tv_sec: nanos.div_euclid(1_000_000_000), tv_nsec: nanos.rem_euclid(1_000_000_000) })
        }
    }
}

fn times(args: &Args<'_>) -> Result<Timestamps, Trouble> {
    Ok(Timestamps { last_access: time(args, "atime")?, last_modification: time(args, "mtime")? })
}

fn utimens(_: &mut World<'_>, args: &Args<'_>) -> Done {
    rustix::fs::utimensat(CWD, args.bytes("path")?, &times(args)?, AtFlags::empty())?;
    Ok(Value::Unit)
}

fn lutimens(_: &mut World<'_>, args: &Args<'_>) -> Done {
    rustix::fs::utimensat(CWD, args.bytes("path")?, &times(args)?, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Value::Unit)
}

fn futimens(world: &mut World<'_>, args: &Args<'_>) -> Done {
    rustix::fs::futimens(world.arg_fd(args, "fd")?, &times(args)?)?;
    Ok(Value::Unit)
}

fn utimens_null(_: &mut World<'_>, args: &Args<'_>) -> Done {
    sys::utimens_null(&args.bytes("path")?)?;
    Ok(Value::Unit)
}

fn now(_: &mut World<'_>, _: &Args<'_>) -> Done {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Ok(nanos(now.tv_sec, now.tv_nsec))
}

fn tick(world: &mut World<'_>, _: &Args<'_>) -> Done {
    std::thread::sleep(world.tick);
    Ok(Value::Unit)
}

fn space(v: &rustix::fs::StatVfs) -> Value {
    let table = [
        ("bsize", v.f_bsize),
        ("frsize", v.f_frsize),
        ("blocks", v.f_blocks),
        ("bfree", v.f_bfree),
        ("bavail", v.f_bavail),
        ("files", v.f_files),
        ("ffree", v.f_ffree),
        ("namemax", v.f_namemax),
    ];
    Value::Table(table.into_iter().map(|(k, n)| (k.to_owned(), Value::Int(n.into()))).collect())
}

fn statfs(_: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(space(&rustix::fs::statvfs(args.bytes("path")?)?))
}

fn fstatfs(world: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(space(&rustix::fs::fstatvfs(world.arg_fd(args, "fd")?)?))
}
