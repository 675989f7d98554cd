//! Advisory locks: of processes (POSIX), of open file descriptions (OFD), of whole files (flock).

use super::{Args, Done, Operation, Trouble};
use crate::sys::{Lock, record_lock};
use crate::value::Value;
use crate::world::World;
use rustix::fs::FlockOperation;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        "lock",
        "fd type start? len? whence? wait?",
        "F_SETLK, or F_SETLKW with wait = true; type read, write or unlock",
        lock,
    ),
    Operation::new(
        "test-lock",
        "fd type start? len? whence?",
        "F_GETLK; answers type start len pid",
        test_lock,
    ),
    Operation::new("ofd-lock", "fd type start? len? whence? wait?", "F_OFD_SETLK or F_OFD_SETLKW", ofd_lock),
    Operation::new(
        "test-ofd-lock",
        "fd type start? len? whence?",
        "F_OFD_GETLK; answers type start len pid",
        test_ofd_lock,
    ),
    Operation::new(
        "flock",
        "fd type wait?",
        "flock: shared, exclusive or unlock; LOCK_NB unless wait = true",
        flock,
    ),
];

fn wanted(args: &Args<'_>) -> Result<Lock, Trouble> {
    let kind = match args.text("type")?.as_str() {
        "read" => libc::F_RDLCK,
        "write" => libc::F_WRLCK,
        "unlock" => libc::F_UNLCK,
        other => return Err(Trouble::Case(format!("no lock is called `{other}`"))),
    };
    let whence = match args.opt_text("whence")?.as_deref() {
        None | Some("set") => libc::SEEK_SET,
        Some("cur") => libc::SEEK_CUR,
        Some("end") => libc::SEEK_END,
        Some(other) => return Err(Trouble::Case(format!("no whence is called `{other}`"))),
    };
    let (start, len) = (args.opt_int("start")?.unwrap_or(0), args.opt_int("len")?.unwrap_or(0));
    Ok(Lock { kind: i32::from(kind as i16), whence, start, len, pid: 0 })
}

fn set(world: &World<'_>, args: &Args<'_>, commands: (i32, i32)) -> Done {
    let command = if args.bool("wait")? { commands.1 } else { commands.0 };
    record_lock(world.arg_fd(args, "fd")?, command, wanted(args)?)?;
    Ok(Value::Unit)
}

fn lock(world: &mut World<'_>, args: &Args<'_>) -> Done {
    set(world, args, (libc::F_SETLK, libc::F_SETLKW))
}

fn ofd_lock(world: &mut World<'_>, args: &Args<'_>) -> Done {
    set(world, args, (libc::F_OFD_SETLK, libc::F_OFD_SETLKW))
}

fn get(world: &World<'_>, args: &Args<'_>, command: i32) -> Done {
    let lock = record_lock(world.arg_fd(args, "fd")?, command, wanted(args)?)?;
    let kind = match lock.kind {
        k if k == i32::from(libc::F_RDLCK as i16) => "read",
        k if k == i32::from(libc::F_WRLCK as i16) => "write",
        _ => "unlock",
    };
    let table = [
        ("type", Value::Bytes(kind.into())),
        ("start", Value::Int(lock.start.into())),
        ("len", Value::Int(lock.len.into())),
        ("pid", Value::Int(lock.pid.into())),
    ];
    Ok(Value::Table(table.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()))
}

fn test_lock(world: &mut World<'_>, args: &Args<'_>) -> Done {
    get(world, args, libc::F_GETLK)
}

fn test_ofd_lock(world: &mut World<'_>, args: &Args<'_>) -> Done {
    get(world, args, libc::F_OFD_GETLK)
}

fn flock(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let operation = match (args.text("type")?.as_str(), args.bool("wait")?) {
        ("shared", true) => FlockOperation::LockShared,
        ("shared", false) => FlockOperation::NonBlockingLockShared,
        ("exclusive", true) => FlockOperation::LockExclusive,
        ("exclusive", false) => FlockOperation::NonBlockingLockExclusive,
        ("unlock", _) => FlockOperation::Unlock,
        (other, _) => return Err(Trouble::Case(format!("no lock is called `{other}`"))),
    };
    rustix::fs::flock(world.arg_fd(args, "fd")?, operation)?;
    Ok(Value::Unit)
}
