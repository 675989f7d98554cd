//! Memory of a daemon whose guests do nothing: nobody, one, and many of one daemon.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fusewire_vhost::kit::Monitor;
use serde::Serialize;

use crate::daemon::{Memory, Mounted, Site};
use crate::device;
use crate::target::{Kind, Target};
use crate::tree::SENTINEL;
use crate::watchdog::Watchdog;

/// A daemon that nobody is connected to may have so many bytes, resident.
pub const IDLE: u64 = 10 << 20;
/// And one of [`MANY`] guests that do nothing.
pub const ALL: u64 = 200 << 20;
/// How many guests that is.
pub const MANY: usize = 1000;

/// Memory of one daemon with more and more guests.
#[derive(Debug, Clone, Serialize)]
pub struct Guests {
    /// Short name of the target.
    pub target: String,
    /// What the source directory lay on.
    pub lower: String,
    /// Nobody is connected, to the only socket there is.
    pub nobody: Memory,
    /// One guest has mounted it, and looked at a file.
    pub one: Option<Memory>,
    /// So many have, each at a socket of its own; `None` for daemons that serve one guest each.
    pub many: Option<Many>,
    /// Why it ended early.
    pub error: Option<String>,
}

/// Many guests of one daemon.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Many {
    /// How many.
    pub guests: usize,
    /// Before the first of them has connected.
    pub nobody: Memory,
    /// When all have.
    pub all: Memory,
    /// Threads then.
    pub threads: u64,
}

/// A bound, and whether the number keeps to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// What is bounded.
    pub what: String,
    /// Bytes.
    pub is: u64,
    /// Most bytes.
    pub most: u64,
}

impl Guests {
    /// What is bounded; the bound of many guests is for [`MANY`] of them, and for as large a part where there are fewer.
    pub fn bounds(&self) -> Vec<Bound> {
        let idle = Bound { what: "idle".into(), is: self.nobody.resident, most: IDLE };
        let many = self.many.map(|many| Bound {
            what: format!("{} idle guests", many.guests),
            is: many.all.resident,
            most: (ALL * many.guests as u64 / MANY as u64).max(IDLE),
        });
        std::iter::once(idle).chain(many).collect()
    }
}

impl Many {
    /// Resident bytes that each guest adds.
    pub fn bytes_each(&self) -> u64 {
        self.all.resident.saturating_sub(self.nobody.resident) / self.guests.max(1) as u64
    }
}

/// Measures a daemon without guests and with one, and then another one of `many` guests, if it can have more than one.
///
/// # Errors
/// If it cannot be started, or the run was interrupted. Whatever fails afterwards is told in the result.
pub fn measure(
    target: &Target,
    lower: &str,
    (site, watchdog): (&Site<'_>, &Watchdog),
    many: usize,
) -> Result<Guests> {
    let daemon = Mounted::listen(target, site, 1)?;
    let nobody = at_rest(&daemon)?;
    let mut guests = Guests {
        target: target.name.clone(),
        lower: lower.to_owned(),
        nobody,
        one: None,
        many: None,
        error: None,
    };
    let one = connect_all(daemon.sockets(), watchdog).and_then(|monitors| Ok((at_rest(&daemon)?, monitors)));
    let ended = one.and_then(|(memory, monitors)| {
        guests.one = Some(memory);
        drop(monitors);
        daemon.stop()
    });
    let more = ended.and_then(|()| match many > 0 && has_many_sockets(target) {
        true => of_many(target, (site, watchdog), many).map(Some),
        false => Ok(None),
    });
    watchdog.step()?;
    match more {
        Ok(more) => guests.many = more,
        Err(error) => guests.error = Some(format!("{error:#}")),
    }
    Ok(guests)
}

fn of_many(target: &Target, (site, watchdog): (&Site<'_>, &Watchdog), many: usize) -> Result<Many> {
    let daemon = Mounted::listen(target, site, many)?;
    let nobody = at_rest(&daemon)?;
    let monitors = connect_all(daemon.sockets(), watchdog)?;
    let all = at_rest(&daemon)?;
    let measured = Many { guests: many, nobody, all, threads: daemon.threads()? };
    drop(monitors);
    daemon.stop()?;
    Ok(measured)
}

/// Whether the daemon takes the option for its socket several times, once for each guest.
fn has_many_sockets(target: &Target) -> bool {
    matches!(&target.kind, Kind::Device { command } if command.get(1).is_some_and(|word| word == "vhost"))
}

fn at_rest(daemon: &Mounted) -> Result<Memory> {
    daemon.settle()?;
    thread::sleep(Duration::from_millis(300));
    daemon.memory()?.context("there is no daemon")
}

/// A guest at each socket, which mounts the device and looks at a file.
fn connect_all(sockets: &[PathBuf], watchdog: &Watchdog) -> Result<Vec<Monitor>> {
    let mut monitors = Vec::with_capacity(sockets.len());
    for (number, socket) in sockets.iter().enumerate() {
        watchdog.step()?;
        let guest = || format!("guest {} of {}", number + 1, sockets.len());
        monitors.push(connect(socket).with_context(guest)?);
    }
    Ok(monitors)
}

fn connect(socket: &Path) -> Result<Monitor> {
    let mut monitor = Monitor::start(device::reach(socket)?, device::small())?;
    let name = std::ffi::CString::new(SENTINEL)?;
    let driver = monitor.driver();
    let looked = driver.init().and_then(|_| driver.lookup(1, &name));
    let found = looked.map_err(|errno| anyhow::anyhow!("it was answered with {errno}"))?;
    ensure!(found.nodeid > 1, "the file has the number of the directory");
    Ok(monitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_for_as_many_guests_as_there_are() {
        let memory = |mib: u64| Memory { resident: mib << 20, ..Memory::default() };
        let many = |guests, mib| Many { guests, nobody: memory(6), all: memory(mib), threads: 1 };
        let of = |many| Guests {
            target: "x".into(),
            lower: "y".into(),
            nobody: memory(6),
            one: None,
            many,
            error: None,
        };
        let told = |guests: &Guests| -> Vec<(String, bool)> {
            guests.bounds().into_iter().map(|bound| (bound.what, bound.is <= bound.most)).collect()
        };
        assert_eq!(told(&of(None)), [("idle".to_owned(), true)]);
        assert_eq!(told(&of(Some(many(1000, 200))))[1], ("1000 idle guests".to_owned(), true));
        assert!(!told(&of(Some(many(1000, 201))))[1].1);
        assert!(!told(&of(Some(many(100, 21))))[1].1);
        assert!(told(&of(Some(many(10, 9))))[1].1);
        assert_eq!(many(4, 10).bytes_each(), 1 << 20);
    }
}
