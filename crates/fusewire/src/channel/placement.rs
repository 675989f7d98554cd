//! Where threads that serve run.
//!
//! A caller that waits for an answer is woken by the thread that gives it. If that thread runs on the caller's own CPU, which is where
//! handing over costs least, the scheduler sees a CPU that is taken and a caller that wants one, and moves the caller to a CPU that is
//! free: by an interrupt, and the next request then comes from over there. Of all that a small request costs on `/dev/fuse`, such
//! interrupts are the most. Threads in the idle class (`SCHED_IDLE`) do not count as load: a CPU that runs nothing else is free in the
//! eyes of the scheduler (`sched_idle_cpu`), the caller stays, and runs at once. The server goes on when the caller sleeps.
//!
//! The price is that such a thread gets a CPU only when nobody else wants it. So it is tried, and kept only while it pays; the watch
//! looks every four milliseconds whether a thread that steps aside starves, and puts it back. Reasons and measurements:
//! `docs/adr/0022-placement.md`.

use super::watch::Status;
use crate::sys::sched::{Class, allow, keep_io_priority, set_class, stat_field, tasks};
use std::{fmt, str::FromStr, sync::Arc};

/// Whether threads that serve may be moved to where it is cheapest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// They are of the same class as any other thread, and over `/dev/fuse` the scheduler puts them where it likes.
    #[default]
    Off,
    /// While it pays, they sit on a CPU and step aside for others there, in the idle class; this needs CAP_SYS_NICE. A thread that a
    /// handler starts inherits its server's CPU and class, so a filesystem that starts threads inside of handlers has to start them with
    /// [`context::spawn`](crate::context::spawn). ([`Context::blocking`](crate::context::Context::blocking) does.)
    Auto,
}

/// A text is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is auto or off")]
pub struct PlacementError;

impl FromStr for Placement {
    type Err = PlacementError;

    fn from_str(text: &str) -> Result<Self, PlacementError> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => Err(PlacementError),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
        })
    }
}

/// Have threads step aside, or no longer.
pub(crate) fn step_aside<'a>(threads: impl IntoIterator<Item = &'a Arc<Status>>, aside: bool) {
    let class = if aside { Class::Idle } else { Class::Normal };
    for status in threads {
        let Some(tid) = status.tid() else { continue };
        let moved = if aside { keep_io_priority(Some(tid)) } else { Ok(()) };
        match moved.and_then(|()| set_class(Some(tid), class)) {
            Ok(()) => status.step_aside(aside),
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => tracing::warn!(?tid, ?class, %error, "a thread stays in its class"),
        }
    }
}

/// Have those leave the idle class who work for the rings of these threads. The kernel makes a worker as a copy of the thread
/// (`create_io_thread`), so that it is in the class that this was in then, and keeps it: what it does, such as a sync, has no callers that
/// it could step aside for, and nobody sees it starve.
pub(crate) fn put_workers_back(threads: &[Arc<Status>]) {
    let tids: Vec<_> = threads.iter().filter_map(|status| status.tid()).collect();
    let tasks = tasks();
    let ours = |name: &str| {
        let of = |tid: &rustix::thread::Pid| name == format!("iou-wrk-{}", tid.as_raw_nonzero());
        // Before it runs for the first time it is called as the thread is.
        tids.iter().any(of) || tasks.iter().any(|task| task.name == name && tids.contains(&task.thread))
    };
    for task in tasks.iter().filter(|task| task.is_io_worker && task.is_idle && ours(&task.name)) {
        // One that has ended meanwhile is no loss.
        let left = set_class(Some(task.thread), Class::Normal);
        tracing::debug!(worker = ?task.thread, ?left, "of a ring, inherited the idle class");
    }
}

/// Have a thread run on these CPUs alone.
pub(crate) fn seat(status: &Status, cpus: &[usize]) {
    if let Some(tid) = status.tid() {
        allow(Some(tid), cpus);
    }
}

/// On which CPU a thread of any process is, or was when it last ran.
pub(crate) fn cpu_of(thread: u32) -> Option<usize> {
    stat_field(thread, 39)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        for placement in [Placement::Auto, Placement::Off] {
            assert_eq!(placement.to_string().parse(), Ok(placement));
        }
        assert_eq!("on".parse::<Placement>(), Err(PlacementError));
    }

    #[test]
    fn a_thread_is_found_where_it_is() {
        let cpus = rustix::thread::sched_getaffinity(None).expect("affinity");
        let cpu = (0..1024).find(|&cpu| cpus.is_set(cpu)).expect("a CPU");
        std::thread::spawn(move || {
            allow(None, &[cpu]);
            let tid = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            assert_eq!(cpu_of(tid), Some(cpu));
        })
        .join()
        .expect("a thread");
        assert_eq!(cpu_of(u32::MAX), None);
    }
}
