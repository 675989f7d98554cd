//! Others who want the CPU: threads that compute and never wait.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use super::pin_to;

/// Threads that compute until this is dropped. Their CPU time is the bench's own, so it does not make a row noisy.
#[derive(Debug)]
pub struct Hogs {
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hogs {
    /// None.
    pub fn none() -> Self {
        Self { end: Arc::default(), threads: Vec::new() }
    }

    /// One on each of these CPUs, all of them at work.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn on(cpus: &[usize]) -> Result<Self> {
        let mut hogs = Self::none();
        let begun = Arc::new(AtomicUsize::new(0));
        for &cpu in cpus {
            let (end, begun) = (hogs.end.clone(), begun.clone());
            let body = move || {
                // A CPU that is gone has nobody to disturb.
                let is_there = pin_to(cpu).is_ok();
                begun.fetch_add(1, Ordering::Release);
                while is_there && !end.load(Ordering::Relaxed) {
                    (0..1000).for_each(|_| spin_loop());
                }
            };
            let thread = thread::Builder::new().name("bench-hog".into()).spawn(body);
            hogs.threads.push(thread.context("cannot start a thread that keeps a CPU busy")?);
        }
        while begun.load(Ordering::Acquire) < cpus.len() {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| _ = thread.join());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Pin, allowed_cpus};
    use rustix::time::{ClockId, clock_gettime};

    fn used() -> Duration {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    #[test]
    fn hogs_compute_until_they_are_dropped() {
        let cpus = allowed_cpus();
        let hogs = Hogs::on(&cpus).unwrap();
        let before = used();
        while used() - before < Duration::from_millis(20) {
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(hogs.threads.len(), cpus.len());
        drop(hogs);
    }

    #[test]
    fn the_first_client_keeps_its_cpu_to_itself() {
        let all = allowed_cpus();
        for (pin, first) in [(Pin::Each, all[0]), (Pin::One(all[0]), all[0]), (Pin::Free, all[all.len() - 1])]
        {
            let others = pin.others();
            assert!(others.len() + 1 == all.len() && !others.contains(&first), "{pin:?}: {others:?}");
        }
    }
}
