//! Which threads serve which mount: what they change on the source, the mount's own clients have asked for.

use std::{
    cell::RefCell,
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock, Weak},
};

/// The threads that have changed something in the name of one mount's clients, and of nobody else's.
#[derive(Debug, Default)]
pub struct Actors(RwLock<HashSet<i32>>);

/// What this thread is known as; taken back when it ends, before its number can be another's.
struct Known {
    tid: i32,
    by: Weak<Actors>,
    /// It serves several mounts: then its changes are news to all of them.
    is_shared: bool,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(actors) = self.by.upgrade() {
            actors.change(|threads| _ = threads.remove(&self.tid));
        }
    }
}

impl Actors {
    fn change(&self, change: impl FnOnce(&mut HashSet<i32>)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// This thread is about to change something for a client.
    pub fn enter(self: &Arc<Self>) {
        KNOWN.with_borrow_mut(|known| {
            match known {
                Some(known) if known.is_shared || std::ptr::eq(known.by.as_ptr(), Arc::as_ptr(self)) => {
                    return;
                }
                Some(known) => {
                    if let Some(other) = known.by.upgrade() {
                        other.change(|threads| _ = threads.remove(&known.tid));
                        known.is_shared = true;
                        return;
                    }
                }
                None => {}
            }
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            self.change(|threads| _ = threads.insert(tid));
            *known = Some(Known { tid, by: Arc::downgrade(self), is_shared: false });
        });
    }

    /// Is it a thread that serves this mount and no other?
    pub fn has(&self, tid: i32) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&tid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tid() -> i32 {
        rustix::thread::gettid().as_raw_nonzero().get()
    }

    #[test]
    fn a_thread_is_known_while_it_lives() {
        let actors = Arc::<Actors>::default();
        let there = actors.clone();
        let ended = std::thread::spawn(move || {
            assert!(!there.has(tid()));
            there.enter();
            there.enter();
            assert!(there.has(tid()));
            tid()
        });
        let tid = ended.join().expect("it ended");
        assert!(!actors.has(tid));
    }

    #[test]
    fn a_thread_that_serves_two_mounts_is_neither_s() {
        let [one, two] = [Arc::<Actors>::default(), Arc::default()];
        std::thread::spawn(move || {
            one.enter();
            two.enter();
            one.enter();
            assert!(!one.has(tid()) && !two.has(tid()));
        })
        .join()
        .expect("it ended");
    }

    #[test]
    fn a_thread_whose_mount_has_ended_may_serve_another() {
        let [one, two] = [Arc::<Actors>::default(), Arc::default()];
        std::thread::spawn(move || {
            one.enter();
            drop(one);
            two.enter();
            assert!(two.has(tid()));
        })
        .join()
        .expect("it ended");
    }
}
