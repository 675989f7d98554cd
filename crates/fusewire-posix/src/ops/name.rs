//! Names: directories, links, renames, special files, reading directories.

use super::{Args, Done, Operation, Trouble, wrong};
use crate::value::Value;
use crate::world::World;
use rustix::fs::{AtFlags, CWD, FileType, RawDir, RenameFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new("mkdir", "path mode? dir?", "mkdirat, mode 0755", mkdir),
    Operation::new("rmdir", "path", "rmdir", rmdir),
    Operation::new("unlink", "path dir?", "unlinkat", unlink),
    Operation::new("rename", "from to", "rename", rename),
    Operation::new("rename2", "from to flags", "renameat2 with RENAME flags", rename2),
    Operation::new("link", "from to flags?", "linkat", link),
    Operation::new("symlink", "target path", "symlink", symlink),
    Operation::new("readlink", "path", "readlink; answers the target", readlink),
    Operation::new(
        "mknod",
        "path type mode? major? minor?",
        "mknod of fifo, socket, char, block or file",
        mknod,
    ),
    Operation::new("chdir", "path", "chdir, for the rest of the case", chdir),
    Operation::new("fchdir", "fd", "fchdir, for the rest of the case", fchdir),
    Operation::new("list", "path", "names in a directory, sorted, without . and ..", list),
    Operation::new(
        "list-types",
        "path",
        "`name type` for every entry, sorted, . and .. included, by d_type",
        list_types,
    ),
    Operation::new(
        "list-fd",
        "fd",
        "names read from where the descriptor stands, sorted, without . and ..",
        list_fd,
    ),
    Operation::new("count", "path", "how many names; fails when one comes twice", count),
    Operation::new("mkdir-deep", "name levels", "mkdir and chdir into it, again and again", mkdir_deep),
];

fn unit(result: rustix::io::Result<()>) -> Done {
    Ok(result.map(|()| Value::Unit)?)
}

fn mkdir(world: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(rustix::fs::mkdirat(world.dir(args, "dir")?, args.bytes("path")?, args.mode(0o755)?))
}

fn rmdir(_: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(rustix::fs::unlinkat(CWD, args.bytes("path")?, AtFlags::REMOVEDIR))
}

fn unlink(world: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(rustix::fs::unlinkat(world.dir(args, "dir")?, args.bytes("path")?, AtFlags::empty()))
}

fn rename(_: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(rustix::fs::renameat(CWD, args.bytes("from")?, CWD, args.bytes("to")?))
}

fn rename2(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let flags = RenameFlags::from_bits_retain(args.flags()? as u32);
    unit(rustix::fs::renameat_with(CWD, args.bytes("from")?, CWD, args.bytes("to")?, flags))
}

fn link(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let flags = AtFlags::from_bits_retain(args.flags()? as u32);
    unit(rustix::fs::linkat(CWD, args.bytes("from")?, CWD, args.bytes("to")?, flags))
}

fn symlink(_: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(rustix::fs::symlinkat(args.bytes("target")?, CWD, args.bytes("path")?))
}

fn readlink(_: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(Value::Bytes(rustix::fs::readlinkat(CWD, args.bytes("path")?, Vec::new())?.into_bytes()))
}

fn mknod(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let kind = match args.text("type")?.as_str() {
        "fifo" => FileType::Fifo,
        "socket" => FileType::Socket,
        "char" => FileType::CharacterDevice,
        "block" => FileType::BlockDevice,
        "file" => FileType::RegularFile,
        other => return Err(Trouble::Case(format!("no type is called `{other}`"))),
    };
    let (major, minor) = (args.opt_int("major")?.unwrap_or(0), args.opt_int("minor")?.unwrap_or(0));
    let device = rustix::fs::makedev(major as u32, minor as u32);
    unit(rustix::fs::mknodat(CWD, args.bytes("path")?, kind, args.mode(0o644)?, device))
}

fn chdir(_: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(rustix::process::chdir(args.bytes("path")?))
}

fn fchdir(world: &mut World<'_>, args: &Args<'_>) -> Done {
    unit(rustix::process::fchdir(world.arg_fd(args, "fd")?))
}

/// One entry as `getdents64` gave it.
pub(crate) struct Entry {
    pub name: Vec<u8>,
    pub ino: u64,
    pub kind: FileType,
}

/// Everything from the descriptor's position to the end, `.` and `..` included.
pub(crate) fn entries(fd: impl rustix::fd::AsFd) -> rustix::io::Result<Vec<Entry>> {
    let mut buffer = [MaybeUninit::uninit(); 32768];
    let mut raw = RawDir::new(fd, &mut buffer);
    let mut out = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = match entry {
            // The kernel says so of a removed directory; for the C library, too, that is the end.
            Err(Errno::NOENT) => break,
            other => other?,
        };
        out.push(Entry {
            name: entry.file_name().to_bytes().to_vec(),
            ino: entry.ino(),
            kind: entry.file_type(),
        });
    }
    Ok(out)
}

pub(crate) fn open_dir(path: &[u8]) -> rustix::io::Result<rustix::fd::OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

fn names(entries: Vec<Entry>) -> Vec<Vec<u8>> {
    let mut names: Vec<_> = entries.into_iter().map(|e| e.name).filter(|n| n != b"." && n != b"..").collect();
    names.sort();
    names
}

fn list(_: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(Value::List(names(entries(open_dir(&args.bytes("path")?)?)?)))
}

fn list_fd(world: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(Value::List(names(entries(world.arg_fd(args, "fd")?)?)))
}

fn list_types(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let mut lines = Vec::new();
    for entry in entries(open_dir(&args.bytes("path")?)?)? {
        lines.push([&entry.name[..], b" ", super::meta::type_name(entry.kind).as_bytes()].concat());
    }
    lines.sort();
    Ok(Value::List(lines))
}

fn count(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let names = names(entries(open_dir(&args.bytes("path")?)?)?);
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => wrong("every name once", format!("{} twice", crate::words::show_bytes(&pair[0]))),
        None => Ok(Value::Int(names.len() as i128)),
    }
}

fn mkdir_deep(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let name = args.bytes("name")?;
    for _ in 0..args.len("levels")? {
        rustix::fs::mkdirat(CWD, &name, rustix::fs::Mode::from_raw_mode(0o755))?;
        rustix::process::chdir(&name)?;
    }
    Ok(Value::Unit)
}
