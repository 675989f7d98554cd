//! Files mapped into memory.

use super::{Args, Done, Operation, Trouble};
use crate::sys::Map;
use crate::value::Value;
use crate::words;
use crate::world::World;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new(
        "mmap",
        "fd len at? prot? private?",
        "mmap shared (or private = true), PROT_READ|PROT_WRITE; kept as `as`",
        mmap,
    ),
    Operation::new("munmap", "map", "munmap", munmap),
    Operation::new("peek", "map at len", "answers bytes of a mapping", peek),
    Operation::new("poke", "map at data", "stores bytes into a mapping", poke),
    Operation::new("msync", "map flags?", "msync of the whole mapping, MS_SYNC", msync),
];

fn mmap(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let protection = match args.opt_text("prot")? {
        None => libc::PROT_READ | libc::PROT_WRITE,
        Some(text) => words::flags(&text)? as i32,
    };
    let kind = if args.bool("private")? { libc::MAP_PRIVATE } else { libc::MAP_SHARED };
    let map = Map::new(
        world.arg_fd(args, "fd")?,
        args.opt_int("at")?.unwrap_or(0),
        args.len("len")?,
        (protection, kind),
    )?;
    if args.step.save.is_some() {
        world.maps.insert(args.save()?, map);
    }
    Ok(Value::Unit)
}

fn find<'w>(world: &'w World<'_>, args: &Args<'_>) -> Result<&'w Map, Trouble> {
    let name = args.text("map")?;
    world.maps.get(&name).ok_or_else(|| Trouble::Case(format!("no mapping is called `{name}`")))
}

fn munmap(world: &mut World<'_>, args: &Args<'_>) -> Done {
    find(world, args)?;
    world.maps.remove(&args.text("map")?);
    Ok(Value::Unit)
}

fn peek(world: &mut World<'_>, args: &Args<'_>) -> Done {
    Ok(Value::Bytes(find(world, args)?.read(args.len("at")?, args.len("len")?)?))
}

fn poke(world: &mut World<'_>, args: &Args<'_>) -> Done {
    find(world, args)?.write(args.len("at")?, &args.bytes("data")?)?;
    Ok(Value::Unit)
}

fn msync(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let flags = if args.opt_text("flags")?.is_some() { args.flags()? as i32 } else { libc::MS_SYNC };
    find(world, args)?.sync(flags)?;
    Ok(Value::Unit)
}
