//! Nothing may hang: a connection that makes no progress is aborted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::mounts;

/// Time between an interrupt by the user and the abort of what is still running.
const GRACE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(200);

/// Watches over the mounts of one run.
#[derive(Debug, Clone)]
pub struct Watchdog {
    shared: Arc<Shared>,
    limit: Duration,
}

#[derive(Debug)]
struct Shared {
    stop: Arc<AtomicBool>,
    fired: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    deadline: Instant,
    connections: Vec<u32>,
}

impl Watchdog {
    /// Starts watching; every step may take `limit`. SIGINT, SIGTERM and SIGHUP ask the run to stop.
    ///
    /// # Errors
    /// If the signal handlers cannot be set.
    pub fn start(limit: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        let state = State { deadline: Instant::now() + limit, connections: Vec::new() };
        let shared = Arc::new(Shared { stop, fired: AtomicBool::new(false), state: Mutex::new(state) });
        let watched = Arc::downgrade(&shared);
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            while let Some(shared) = watched.upgrade() {
                shared.look();
                drop(shared);
                thread::sleep(LOOK);
            }
        })?;
        Ok(Self { shared, limit })
    }

    /// Begins a step, which again may take the whole limit.
    ///
    /// # Errors
    /// If the run was interrupted or a connection has been aborted.
    pub fn step(&self) -> Result<()> {
        self.shared.state().deadline = Instant::now() + self.limit;
        if self.shared.fired.load(Ordering::Relaxed) {
            bail!(
                "no progress within {} s: connections were aborted; see the daemon's messages, or give it more \
                 time with --limit",
                self.limit.as_secs()
            );
        }
        if self.shared.stop.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Set when the run should end soon; clients look at it between two operations.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.shared.stop)
    }

    /// Watches one more connection.
    pub fn add(&self, connection: u32) {
        self.shared.state().connections.push(connection);
    }

    /// Stops watching a connection.
    pub fn remove(&self, connection: u32) {
        self.shared.state().connections.retain(|other| *other != connection);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let mut state = self.state();
        let now = Instant::now();
        if self.stop.load(Ordering::Relaxed) {
            state.deadline = state.deadline.min(now + GRACE);
        }
        if now < state.deadline {
            return;
        }
        self.fired.store(true, Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        for connection in &state.connections {
            mounts::abort(*connection);
        }
        // An abort is final, but a daemon may have opened a new connection meanwhile.
        state.deadline = now + GRACE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_takes_too_long_is_noticed() {
        let watchdog = Watchdog::start(Duration::from_millis(50)).unwrap();
        watchdog.step().unwrap();
        thread::sleep(LOOK * 3);
        assert!(watchdog.step().unwrap_err().to_string().contains("no progress"));
        assert!(watchdog.stop_flag().load(Ordering::Relaxed));
    }

    #[test]
    fn steps_in_time_go_on() {
        let watchdog = Watchdog::start(Duration::from_secs(60)).unwrap();
        thread::sleep(LOOK * 2);
        watchdog.step().unwrap();
    }
}
