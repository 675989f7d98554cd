//! Descriptors: open, close, what a descriptor says about itself, fsync.

use super::{Args, Done, Operation, Trouble, wrong};
use crate::sys;
use crate::value::Value;
use crate::world::World;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{fcntl_getfd, fcntl_setfd};

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        "open",
        "path flags? mode? dir?",
        "openat; the descriptor is kept as `as` (O_RDONLY when no flags)",
        open,
    ),
    Operation::new(
        "create",
        "path mode? data?",
        "a new file (O_CREAT|O_EXCL, mode 0644) with this content",
        create,
    ),
    Operation::new("close", "fd", "closes a descriptor", close),
    Operation::new("dup", "fd", "dup; the copy is kept as `as`", dup),
    Operation::new("reopen", "fd flags", "opens /proc/self/fd/N; kept as `as`", reopen),
    Operation::new("link-fd", "fd to", "linkat of /proc/self/fd/N with AT_SYMLINK_FOLLOW", link_fd),
    Operation::new("get-flags", "fd flags", "F_GETFL: answers which of `flags` are set", get_flags),
    Operation::new("set-flags", "fd flags", "F_SETFL", set_flags),
    Operation::new("get-cloexec", "fd", "F_GETFD: 1 when close-on-exec", get_cloexec),
    Operation::new("set-cloexec", "fd", "F_SETFD FD_CLOEXEC", set_cloexec),
    Operation::new("fsync", "fd", "fsync", |w, a| {
        Ok(rustix::fs::fsync(w.arg_fd(a, "fd")?).map(|()| Value::Unit)?)
    }),
    Operation::new("fdatasync", "fd", "fdatasync", |w, a| {
        Ok(rustix::fs::fdatasync(w.arg_fd(a, "fd")?).map(|()| Value::Unit)?)
    }),
    Operation::new("syncfs", "fd", "syncfs", |w, a| {
        Ok(rustix::fs::syncfs(w.arg_fd(a, "fd")?).map(|()| Value::Unit)?)
    }),
    Operation::new("sync-range", "fd at len flags", "sync_file_range", sync_range),
    Operation::new(
        "advise",
        "fd at len advice",
        "posix_fadvise: normal, sequential, random, willneed, dontneed, noreuse",
        advise,
    ),
    Operation::new("exec", "path args?", "executes a file; answers its exit status", exec),
    Operation::new("program", "name", "a check written in Rust, by name", program),
];

fn open(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let flags = OFlags::from_bits_retain(args.flags()? as u32);
    let fd = openat(world.dir(args, "dir")?, args.bytes("path")?, flags, args.mode(0o644)?)?;
    world.keep(args, fd)
}

fn create(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let fd = openat(
        CWD,
        args.bytes("path")?,
        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC,
        args.mode(0o644)?,
    )?;
    let data = args.opt_bytes("data")?.unwrap_or_default();
    let mut rest = &data[..];
    while !rest.is_empty() {
        match rustix::io::write(&fd, rest)? {
            0 => return wrong("bytes written", "write gave 0"),
            n => rest = &rest[n..],
        }
    }
    Ok(Value::Unit)
}

fn close(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let name = args.text("fd")?;
    world
        .fds
        .remove(&name)
        .map(|_| Value::Unit)
        .ok_or_else(|| Trouble::Case(format!("no descriptor is called `{name}`")))
}

fn dup(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let copy = rustix::io::dup(world.arg_fd(args, "fd")?)?;
    world.keep(args, copy)
}

fn proc_path(world: &World<'_>, args: &Args<'_>) -> Result<String, Trouble> {
    use rustix::fd::AsRawFd;
    Ok(format!("/proc/self/fd/{}", world.arg_fd(args, "fd")?.as_raw_fd()))
}

fn reopen(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let path = proc_path(world, args)?;
    let fd = openat(CWD, path, OFlags::from_bits_retain(args.flags()? as u32), Mode::from_raw_mode(0o644))?;
    world.keep(args, fd)
}

fn link_fd(world: &mut World<'_>, args: &Args<'_>) -> Done {
    rustix::fs::linkat(
        CWD,
        proc_path(world, args)?,
        CWD,
        args.bytes("to")?,
        rustix::fs::AtFlags::SYMLINK_FOLLOW,
    )?;
    Ok(Value::Unit)
}

fn get_flags(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let set = rustix::fs::fcntl_getfl(world.arg_fd(args, "fd")?)?.bits();
    Ok(Value::Int(i128::from(set & args.flags()? as u32)))
}

fn set_flags(world: &mut World<'_>, args: &Args<'_>) -> Done {
    rustix::fs::fcntl_setfl(world.arg_fd(args, "fd")?, OFlags::from_bits_retain(args.flags()? as u32))?;
    Ok(Value::Unit)
}

fn get_cloexec(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let flags = fcntl_getfd(world.arg_fd(args, "fd")?)?;
    Ok(Value::Int(i128::from(flags.contains(rustix::io::FdFlags::CLOEXEC))))
}

fn set_cloexec(world: &mut World<'_>, args: &Args<'_>) -> Done {
    fcntl_setfd(world.arg_fd(args, "fd")?, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Value::Unit)
}

fn sync_range(world: &mut World<'_>, args: &Args<'_>) -> Done {
    sys::sync_file_range(world.arg_fd(args, "fd")?, args.int("at")?, args.int("len")?, args.flags()? as u32)?;
    Ok(Value::Unit)
}

fn advise(world: &mut World<'_>, args: &Args<'_>) -> Done {
    use rustix::fs::Advice;
    let advice = match args.text("advice")?.as_str() {
        "normal" => Advice::Normal,
        "sequential" => Advice::Sequential,
        "random" => Advice::Random,
        "willneed" => Advice::WillNeed,
        "dontneed" => Advice::DontNeed,
        "noreuse" => Advice::NoReuse,
        other => return Err(Trouble::Case(format!("no advice is called `{other}`"))),
    };
    let len = std::num::NonZeroU64::new(args.len("len")? as u64);
    rustix::fs::fadvise(world.arg_fd(args, "fd")?, args.len("at")? as u64, len, advice)?;
    Ok(Value::Unit)
}

fn exec(_: &mut World<'_>, args: &Args<'_>) -> Done {
    use std::os::unix::{ffi::OsStringExt, process::ExitStatusExt};
    let path = std::ffi::OsString::from_vec(args.bytes("path")?);
    let mut command = std::process::Command::new(std::path::Path::new(".").join(path));
    if args.step.args.contains_key("args") {
        command.args(args.list("args")?.into_iter().map(std::ffi::OsString::from_vec));
    }
    let status = command.status()?;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ok(Value::Int(i128::from(code))),
        (None, signal) => wrong("an exit status", format!("killed by signal {}", signal.unwrap_or(0))),
    }
}

fn program(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let name = args.text("name")?;
    let program = crate::programs::find(&name)
        .ok_or_else(|| Trouble::Case(format!("no program is called `{name}`")))?;
    program(world).map(|()| Value::Unit)
}
