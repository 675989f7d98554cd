//! Threads of queues whose clients may be on any CPU: those of virtual machines.
//!
//! Nobody here knows where a machine's processors run, so such a thread stays where the scheduler puts it, and all that its governor
//! decides is whether it polls. A process may serve many machines, each with a watch of its own; what the governors may hand out is
//! one for all of them.

use super::{
    ANYWHERE, Board, Governor, Room,
    govern::{Governed, online, others},
};
use crate::channel::watch::Status;
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How often the machine is looked at, at most: as often as one watch has a window.
const LOOK: Duration = Duration::from_millis(8);

/// How busy the machine is, and how many threads of this process poll.
#[derive(Debug)]
struct Machine {
    /// `/proc/loadavg`, opened while it could be.
    load: Option<File>,
    cpus: usize,
    room: Room,
    looked: Option<Instant>,
    /// Can it be seen whether somebody else wants the CPU of a thread? Not without proc.
    sees_threads: bool,
    /// Threads that poll, of all machines that this process serves.
    polling: usize,
}

/// There is one.
static MACHINE: LazyLock<Arc<Mutex<Machine>>> = LazyLock::new(|| Arc::new(Mutex::new(Machine::here())));

fn lock(machine: &Mutex<Machine>) -> MutexGuard<'_, Machine> {
    machine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Open what tells how busy the machine is. For a process that is about to shut itself in where that cannot be opened: what was not
/// opened before is never seen there, and [`Pollers`] let nobody poll.
pub fn look_around() {
    LazyLock::force(&MACHINE);
}

impl Machine {
    fn here() -> Self {
        let load = File::open("/proc/loadavg");
        if let Err(error) = &load {
            tracing::debug!(%error, "how busy the machine is cannot be seen: threads of queues sleep");
        }
        Self { load: load.ok(), ..Self::of(online()) }
    }

    fn of(cpus: usize) -> Self {
        Self { load: None, cpus, room: Room::default(), looked: None, sees_threads: true, polling: 0 }
    }

    /// Look at it, unless somebody just has.
    fn look(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < LOOK) {
            return;
        }
        if self.looked.replace(now).is_none() {
            self.sees_threads = is_proc("/proc");
        }
        let mut bytes = [0; 128];
        let read = self.load.as_ref().and_then(|load| load.read_at(&mut bytes, 0).ok()).unwrap_or(0);
        let load = std::str::from_utf8(&bytes[..read]).unwrap_or_default();
        self.room.look(others(load), self.cpus);
    }

    /// May one thread more poll?
    fn has_a_seat(&self) -> bool {
        self.sees_threads && self.polling < self.cpus / 2
    }
}

/// Is that the kernel's? In a sandbox that has none of it, what has its name is a guest's.
fn is_proc(path: &str) -> bool {
    use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, open};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = open(path, flags, Mode::empty()).and_then(fstatfs);
    opened.is_ok_and(|filesystem| filesystem.f_type == PROC_SUPER_MAGIC)
}

/// A thread of a queue, and whether it is one of those that poll.
#[derive(Debug)]
struct Poller {
    governed: Governed,
    sits: bool,
}

impl Poller {
    fn window(&mut self, elapsed: Duration, machine: &mut Machine) {
        let mut none = Room::default();
        let may = self.sits || machine.has_a_seat();
        self.governed.window(elapsed, if may { &mut machine.room } else { &mut none });
        self.sits(self.governed.polls(), machine);
    }

    fn sits(&mut self, sits: bool, machine: &mut Machine) {
        match (std::mem::replace(&mut self.sits, sits), sits) {
            (false, true) => machine.polling += 1,
            (true, false) => machine.polling -= 1,
            _ => {}
        }
    }

    /// After its watch has slept.
    fn resume(&mut self, machine: &mut Machine) {
        self.governed.skip();
        if !self.governed.polls() {
            return;
        }
        if machine.has_a_seat() {
            self.sits(true, machine);
            self.governed.resume(true);
        } else {
            // Others have taken its seat meanwhile.
            self.governed.window(Duration::ZERO, &mut Room::default());
        }
    }

    /// Its watch goes to sleep, and nobody decides until that wakes.
    fn rest(&mut self, machine: &mut Machine) {
        if self.sits {
            self.sits(false, machine);
            self.governed.resume(false);
        }
    }
}

/// The threads of one virtual machine's queues. Lives on the thread of their watch.
#[derive(Debug)]
pub struct Pollers {
    threads: Vec<Poller>,
    /// When the window began, if one has.
    last: Option<Instant>,
    machine: Arc<Mutex<Machine>>,
}

impl Pollers {
    /// What each thread is doing, and the board where it is told how to wait. Those whose boards nobody writes to are left alone.
    pub fn new(threads: impl IntoIterator<Item = (Arc<Status>, Arc<Board>)>) -> Self {
        Self::on(&MACHINE, threads)
    }

    fn on(
        machine: &Arc<Mutex<Machine>>,
        threads: impl IntoIterator<Item = (Arc<Status>, Arc<Board>)>,
    ) -> Self {
        let govern = |(status, board): (Arc<Status>, Arc<Board>)| {
            let governor = Governor::new(&[ANYWHERE], &[], 0);
            Poller { governed: Governed::anywhere(governor, status, board), sits: false }
        };
        let threads = threads.into_iter().filter(|(_, board)| board.is_governed()).map(govern).collect();
        Self { threads, last: None, machine: machine.clone() }
    }

    /// A window of the watch has passed.
    pub fn window(&mut self) {
        self.window_at(Instant::now());
    }

    fn window_at(&mut self, now: Instant) {
        if self.threads.is_empty() {
            return;
        }
        let mut machine = lock(&self.machine);
        machine.look(now);
        match self.last.replace(now) {
            Some(last) => {
                let elapsed = now.saturating_duration_since(last);
                self.threads.iter_mut().for_each(|thread| thread.window(elapsed, &mut machine));
            }
            None => self.threads.iter_mut().for_each(|thread| thread.resume(&mut machine)),
        }
    }

    /// Nobody watches until requests come again.
    pub fn sleeps(&mut self) {
        self.last = None;
        if self.threads.iter().any(|thread| thread.sits) {
            let mut machine = lock(&self.machine);
            self.threads.iter_mut().for_each(|thread| thread.rest(&mut machine));
        }
    }
}

impl Drop for Pollers {
    fn drop(&mut self) {
        self.sleeps();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::poll::{Poll, govern::runnable};

    const HOUR: Duration = Duration::from_secs(3600);

    /// A machine with four CPUs, on which one thread runs: as many more as this test says.
    fn idle() -> Arc<Mutex<Machine>> {
        let machine = Machine { looked: Some(Instant::now() + HOUR), ..Machine::of(4) };
        Arc::new(Mutex::new(machine))
    }

    /// A virtual machine with one queue, whose thread is this one.
    struct Guest {
        board: Arc<Board>,
        pollers: Pollers,
        now: Instant,
    }

    impl Guest {
        fn new(machine: &Arc<Mutex<Machine>>, poll: Poll) -> Self {
            let (status, board) = (Arc::<Status>::default(), Arc::new(Board::anywhere(poll)));
            status.begins();
            let pollers = Pollers::on(machine, [(status, board.clone())]);
            let mut guest = Self { board, pollers, now: Instant::now() };
            guest.pollers.window_at(guest.now);
            guest
        }

        /// A window with so many requests, each of which was caught if the thread polls, and `runnable` threads on the machine.
        fn window(&mut self, requests: u64, runnable: usize) -> Option<Duration> {
            {
                let mut machine = lock(&self.pollers.machine);
                let cpus = machine.cpus;
                machine.room.look(runnable, cpus);
            }
            self.board.have_come(requests);
            if self.board.limit().is_some() {
                (0..requests).for_each(|_| self.board.polled(Duration::from_micros(3), true));
            }
            self.now += LOOK;
            self.pollers.window_at(self.now);
            self.board.limit()
        }
    }

    fn polling(machine: &Arc<Mutex<Machine>>) -> usize {
        lock(machine).polling
    }

    #[test]
    fn a_thread_polls_while_requests_come_and_there_is_room() {
        let machine = idle();
        let mut guest = Guest::new(&machine, Poll::Auto);
        assert_eq!(guest.window(2, 1), None, "too few to tell");
        assert!(guest.window(1000, 1).is_some());
        assert!((0..20).all(|_| guest.window(1000, 2).is_some()));
        assert_eq!(polling(&machine), 1);
        // Others want all CPUs.
        assert!((0..20).any(|_| guest.window(1000, 9).is_none()));
        assert_eq!(polling(&machine), 0);
        drop(guest);
        assert_eq!(polling(&machine), 0);
    }

    #[test]
    fn virtual_machines_share_the_seats_there_are() {
        let machine = idle();
        let mut guests: Vec<_> = (0..100).map(|_| Guest::new(&machine, Poll::Auto)).collect();
        for _ in 0..50 {
            guests.iter_mut().for_each(|guest| _ = guest.window(1000, 1));
            assert_eq!(guests.iter().filter(|guest| guest.board.limit().is_some()).count(), 2);
            assert_eq!(polling(&machine), 2);
        }
        // One that goes leaves its seat to another.
        let at = guests.iter().position(|guest| guest.board.limit().is_some()).expect("one that polls");
        guests.remove(at);
        assert_eq!(polling(&machine), 1);
        guests.iter_mut().for_each(|guest| _ = guest.window(1000, 1));
        assert_eq!(polling(&machine), 2);
    }

    #[test]
    fn who_is_not_watched_does_not_poll_and_keeps_no_seat() {
        let machine = idle();
        let mut guests: Vec<_> = (0..3).map(|_| Guest::new(&machine, Poll::Auto)).collect();
        guests.iter_mut().for_each(|guest| _ = guest.window(1000, 1));
        let polls = |guests: &[Guest]| -> Vec<bool> {
            guests.iter().map(|guest| guest.board.limit().is_some()).collect()
        };
        assert_eq!(polls(&guests), [true, true, false]);
        guests[..2].iter_mut().for_each(|guest| guest.pollers.sleeps());
        assert_eq!((polls(&guests), polling(&machine)), (vec![false; 3], 0));
        // Another takes one of the seats; the first that comes back has the other, and goes on where it was.
        assert!(guests[2].window(1000, 1).is_some());
        for guest in &mut guests[..2] {
            guest.window(0, 1);
        }
        assert_eq!((polls(&guests), polling(&machine)), (vec![true, false, true], 2));
        // What failed for want of a seat is tried again later.
        guests.remove(0);
        assert!((0..20).any(|_| guests[0].window(1000, 1).is_some()));
    }

    #[test]
    fn nobody_polls_where_nobody_can_see_whom_that_disturbs() {
        let machine = idle();
        lock(&machine).sees_threads = false;
        let mut guest = Guest::new(&machine, Poll::Auto);
        assert!((0..50).all(|_| guest.window(1000, 1).is_none()));
        // Nor without any sight of the machine.
        let machine = Arc::new(Mutex::new(Machine::of(4)));
        let mut guest = Guest::new(&machine, Poll::Auto);
        guest.board.have_come(1000);
        guest.pollers.window_at(guest.now + LOOK);
        assert_eq!(guest.board.limit(), None);
    }

    #[test]
    fn who_is_told_how_to_wait_is_not_governed() {
        let machine = idle();
        let time = Duration::from_micros(20);
        for (poll, limit) in [(Poll::Off, None), (Poll::Fixed(time), Some(time))] {
            let mut guest = Guest::new(&machine, poll);
            assert_eq!((guest.window(1000, 9), polling(&machine)), (limit, 0));
        }
    }

    #[test]
    fn this_machine_can_be_seen() {
        look_around();
        let mut machine = Machine::here();
        machine.look(Instant::now());
        assert!(machine.sees_threads && machine.cpus > 0);
        assert!(is_proc("/proc/self/task") && !is_proc("/") && !is_proc("/nonexistent"));
        let mut read = [0; 128];
        let load = machine.load.as_ref().expect("proc");
        let text = |read: &[u8]| runnable(std::str::from_utf8(read).expect("text"));
        // Again and again through one descriptor.
        for _ in 0..3 {
            let len = load.read_at(&mut read, 0).expect("proc");
            assert!(text(&read[..len]).is_some_and(|runnable| runnable > 0));
        }
    }
}
