//! Which threads serve which guest: what they change, that guest has asked for.

use super::heat::Who;
use std::{
    cell::RefCell,
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock, Weak},
};

/// Threads by number, and whose they are.
#[derive(Debug, Default)]
pub struct Threads(RwLock<HashMap<i32, Who>>);

/// What this thread is known as; taken back when it ends, before its number can be another's.
struct Known {
    tid: i32,
    by: Weak<Threads>,
    who: Who,
}

thread_local! {
    static KNOWN: RefCell<Option<Known>> = const { RefCell::new(None) };
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(threads) = self.by.upgrade() {
            threads.change(|threads| _ = threads.remove(&self.tid));
        }
    }
}

impl Threads {
    fn change(&self, change: impl FnOnce(&mut HashMap<i32, Who>)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// This thread serves `who` from now on, and nobody else any more.
    pub fn enter(self: &Arc<Self>, who: Who) {
        KNOWN.with_borrow_mut(|known| {
            if let Some(known) = known
                && known.who == who
                && std::ptr::eq(known.by.as_ptr(), Arc::as_ptr(self))
            {
                return;
            }
            // First what it was known as is taken back.
            *known = None;
            let tid = rustix::thread::gettid().as_raw_nonzero().get();
            self.change(|threads| _ = threads.insert(tid, who));
            *known = Some(Known { tid, by: Arc::downgrade(self), who });
        });
    }

    /// Whose thread is it?
    pub fn whose(&self, tid: i32) -> Who {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&tid).copied().unwrap_or(Who::OTHER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tid() -> i32 {
        rustix::thread::gettid().as_raw_nonzero().get()
    }

    #[test]
    fn a_thread_is_its_last_guests_while_it_lives() {
        let threads = Arc::<Threads>::default();
        let there = threads.clone();
        let ended = std::thread::spawn(move || {
            assert_eq!(there.whose(tid()), Who::OTHER);
            // Its guest has mounted the directory once more.
            for guest in [0, 0, 1] {
                there.enter(Who::guest(guest));
                assert_eq!(there.whose(tid()), Who::guest(guest));
            }
            tid()
        });
        let tid = ended.join().expect("it ended");
        assert_eq!(threads.whose(tid), Who::OTHER);
        assert!(threads.0.read().expect("no panic").is_empty());
    }
}
