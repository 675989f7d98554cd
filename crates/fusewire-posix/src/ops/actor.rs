//! Forked processes, which run the steps that name them with `in`.

use super::{Args, Done, Operation, Trouble, wrong};
use crate::process::Actor;
use crate::value::Value;
use crate::words;
use crate::world::World;
use std::time::Duration;

pub(super) const OPERATIONS: &[Operation] = &[
    Operation::new("fork", "", "a process with the same descriptors, called `as`; answers its pid", fork),
    Operation::new("finish", "of", "waits for the step started there with background = true", finish),
    Operation::new(
        "busy",
        "of ms",
        "the step started there must still be running after so many milliseconds",
        busy,
    ),
    Operation::new(
        "idle",
        "of ms",
        "the step started there must have ended within so many milliseconds",
        idle,
    ),
    Operation::new("signal", "to signal", "sends a signal to a forked process", signal),
    Operation::new("catch", "signal", "catches a signal in this process, so that it interrupts calls", catch),
    Operation::new("end", "of", "lets a forked process end by itself", end),
    Operation::new(
        "died",
        "of signal",
        "the step started there must kill its process with this signal",
        died,
    ),
    Operation::new("sleep", "ms", "waits", sleep),
    Operation::new(
        "capable",
        "caps",
        "EPERM unless this process has these capabilities in effect (a list of numbers)",
        capable,
    ),
];

fn find<'w>(world: &'w mut World<'_>, name: &str) -> Result<&'w mut Actor, Trouble> {
    world.actors.get_mut(name).ok_or_else(|| Trouble::Case(format!("no process is called `{name}`")))
}

fn fork(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let actor = Actor::fork(world)?;
    let pid = actor.pid().as_raw_nonzero().get();
    world.actors.insert(args.save()?, actor);
    Ok(Value::Int(i128::from(pid)))
}

fn finish(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let name = args.text("of")?;
    match find(world, &name)?.finish() {
        Ok(Ok(())) => Ok(Value::Unit),
        Ok(Err(failure)) => {
            wrong(format!("step {} ({}): {}", failure.step, failure.text, failure.expected), failure.got)
        }
        Err(why) => wrong(format!("process {name} lives"), why),
    }
}

fn busy(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let time = Duration::from_millis(args.int("ms")? as u64);
    let actor = find(world, &args.text("of")?)?;
    if actor.still_busy(time) {
        return Ok(Value::Unit);
    }
    let how = match actor.finish() {
        Ok(Ok(())) => "as its step expects it to, but too early".to_owned(),
        Ok(Err(failure)) => format!("with {} (step {}: {})", failure.got, failure.step, failure.text),
        Err(why) => why,
    };
    wrong(format!("the call still waits after {time:?}"), format!("it came back: {how}"))
}

fn idle(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let time = Duration::from_millis(args.int("ms")? as u64);
    match find(world, &args.text("of")?)?.still_busy(time) {
        false => Ok(Value::Unit),
        true => wrong(format!("the call ends within {time:?}"), "it still waits"),
    }
}

fn signal(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let name = args.text("signal")?;
    let number =
        words::signal(&name).ok_or_else(|| Trouble::Case(format!("no signal is called `{name}`")))?;
    find(world, &args.text("to")?)?.signal(number)?;
    Ok(Value::Unit)
}

fn catch(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let name = args.text("signal")?;
    crate::sys::catch(
        words::signal(&name).ok_or_else(|| Trouble::Case(format!("no signal is called `{name}`")))?,
    )?;
    Ok(Value::Unit)
}

fn end(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let name = args.text("of")?;
    find(world, &name)?;
    match world.actors.remove(&name).map(Actor::end) {
        Some(how) if how == "ended with status 0" => Ok(Value::Unit),
        how => wrong("ended with status 0", how.unwrap_or_default()),
    }
}

fn died(world: &mut World<'_>, args: &Args<'_>) -> Done {
    let (name, signal) = (args.text("of")?, args.text("signal")?);
    match find(world, &name)?.finish() {
        Err(how) if how == format!("killed by {signal}") => {
            world.actors.remove(&name);
            Ok(Value::Unit)
        }
        Err(how) => wrong(format!("killed by {signal}"), how),
        Ok(_) => wrong(format!("killed by {signal}"), "the call came back"),
    }
}

fn sleep(_: &mut World<'_>, args: &Args<'_>) -> Done {
    std::thread::sleep(Duration::from_millis(args.int("ms")? as u64));
    Ok(Value::Unit)
}

fn capable(_: &mut World<'_>, args: &Args<'_>) -> Done {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:")).unwrap_or_default();
    let effective = u64::from_str_radix(line.trim(), 16)
        .map_err(|_| Trouble::Case("no CapEff in /proc/self/status".to_owned()))?;
    for name in args.list("caps")? {
        let name = String::from_utf8_lossy(&name).into_owned();
        let bit: u32 =
            name.parse().map_err(|_| Trouble::Case(format!("`{name}` is no capability number")))?;
        if effective & (1 << bit) == 0 {
            return Err(Trouble::Errno(rustix::io::Errno::PERM));
        }
    }
    Ok(Value::Unit)
}
