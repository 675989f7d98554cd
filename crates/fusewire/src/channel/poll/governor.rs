//! Decides for a thread that serves the queues of several CPUs where it sits, whether it polls there, and for how long.
//!
//! * Nearly all requests come from one CPU: the thread moves there and sleeps. A request then takes 3.2 us instead of 10.8, and polling
//!   from another CPU would still take 6.6.
//! * Some come from the CPU it sits on: it sleeps. Polling would keep that client from running.
//! * All come from other CPUs, and there is a CPU more than there are threads that want one: it tries polling. It goes on
//!   as long as nobody else wants its CPU and each wake-up that is saved costs at most [`PRICE`].
//! * What has failed is tried again later, each time after four times as long.
//!
//! A thread that serves its own CPU's queue alone has nothing to decide and no governor: it sleeps at home.

use std::time::Duration;

/// Requests below which a sample says nothing: it is added to the next.
const ENOUGH: u64 = 16;

/// Shortest and longest time of polling. On the machine that was measured 10 us catch all that 200 catch when a client does nothing
/// else; the rest is for clients that think.
const LEAST: Duration = Duration::from_micros(10);
const MOST: Duration = Duration::from_micros(50);

/// What a saved wake-up may cost: polling time, over all of a sample. It is worth 4.2 us of latency.
const PRICE: Duration = Duration::from_micros(20);

/// Beside that, this part of one CPU may be spent in vain.
const IN_VAIN: u32 = 64;

/// Involuntary switches in a sample from which on somebody else wants the CPU.
const DISTURBED: u64 = 2;

/// By how much the number of those who want to run must be off before one begins or ends.
const SLACK: f64 = 0.25;

/// For how many samples polling is not tried again after it failed; four times that the next time, and forgotten once polling has paid for [`STEADY`]
/// samples.
const PATIENCE: u32 = 8;
const MOST_PATIENCE: u32 = 512;
const STEADY: u32 = 64;

/// What was seen of one thread since the last time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample<'a> {
    /// How long that is.
    pub elapsed: Duration,
    /// Requests of each of its queues.
    pub requests: &'a [u64],
    /// CPU time it has taken, with polling.
    pub cpu: Duration,
    /// Time it has polled.
    pub spun: Duration,
    /// How often that found something.
    pub hits: u64,
    /// How often it had to leave the CPU although it could have gone on: involuntary context switches.
    pub preempted: u64,
}

/// What a thread is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Where it sits.
    pub cpu: usize,
    /// For how long it polls before it sleeps; zero if it sleeps at once.
    pub spin: Duration,
    /// For people.
    pub why: Why,
}

/// Why a thread does what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nothing is known yet.
    Start,
    /// Nearly all requests come from this CPU.
    Clients,
    /// Some requests come from this CPU.
    Company,
    /// As many threads want to run as there are CPUs, or more.
    Crowded,
    /// Somebody else wanted the CPU.
    Disturbed,
    /// Each wake-up saved cost too much.
    Dear,
    /// It has failed, and is not tried again yet.
    Patience,
    /// It is being tried.
    Trial,
    /// It saves wake-ups.
    Pays,
}

/// How much room the machine has for threads that poll. Looked at once for all threads of a mount, who then take their
/// part of it one after the other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Room {
    /// Threads that want to run, averaged.
    runnable: Option<f64>,
    /// CPUs that nobody wants.
    free: f64,
    /// How many threads may poll: half of the CPUs.
    seats: usize,
}

impl Room {
    /// `runnable` threads run or want to, those that poll among them, and there are `cpus` CPUs.
    pub(crate) fn look(&mut self, runnable: usize, cpus: usize) {
        // One look says little: a client and its server are seen both or none.
        let average = self.runnable.map_or(runnable as f64, |before| (before * 3.0 + runnable as f64) / 4.0);
        self.runnable = Some(average);
        self.free = cpus as f64 - average;
        self.seats = cpus / 2;
    }

    /// Room for one that polls; `is_polling` if it does so already and is among those who want to run.
    fn take(&mut self, is_polling: bool) -> bool {
        let needed = if is_polling { -SLACK } else { 1.0 + SLACK };
        if self.free < needed || self.seats == 0 {
            return false;
        }
        self.free -= if is_polling { 0.0 } else { 1.0 };
        self.seats -= 1;
        true
    }

    /// One that polled is going to sleep.
    fn leave(&mut self) {
        self.free += 1.0;
    }
}

/// Several samples together.
#[derive(Clone, Debug)]
struct Seen {
    requests: Vec<u64>,
    elapsed: Duration,
    cpu: Duration,
    spun: Duration,
    hits: u64,
    preempted: u64,
}

impl Seen {
    fn nothing(queues: usize) -> Self {
        let zero = Duration::ZERO;
        Self { requests: vec![0; queues], elapsed: zero, cpu: zero, spun: zero, hits: 0, preempted: 0 }
    }

    fn add(&mut self, sample: &Sample<'_>) {
        self.requests.iter_mut().zip(sample.requests).for_each(|(sum, more)| *sum += more);
        self.elapsed += sample.elapsed;
        self.cpu += sample.cpu;
        self.spun += sample.spun;
        self.hits += sample.hits;
        self.preempted += sample.preempted;
    }

    fn total(&self) -> u64 {
        self.requests.iter().sum()
    }

    /// CPU time of one request, without polling.
    fn service(&self) -> Duration {
        self.cpu.saturating_sub(self.spun) / self.total().clamp(1, u32::MAX.into()) as u32
    }

    /// From an answer to the next request, on average.
    fn gap(&self) -> Duration {
        let each = self.elapsed / self.total().clamp(1, u32::MAX.into()) as u32;
        each.saturating_sub(self.service())
    }

    /// Has polling cost more than it may?
    fn is_dear(&self) -> bool {
        self.spun > PRICE * self.hits.min(u32::MAX.into()) as u32 + self.elapsed / IN_VAIN
    }
}

/// The governor of one thread: fed with samples, answers with orders. Deterministic.
#[derive(Debug)]
pub(crate) struct Governor {
    queues: Vec<u16>,
    /// The CPUs that the thread may sit on.
    seats: Vec<usize>,
    order: Order,
    seen: Seen,
    patience: u32,
    until_trial: u32,
    /// Samples for which polling has paid.
    steady: u32,
}

impl Governor {
    /// For a thread on `cpu` that serves `queues` and may sit on the CPUs `seats`.
    pub(crate) fn new(queues: &[u16], seats: &[usize], cpu: usize) -> Self {
        let order = Order { cpu, spin: Duration::ZERO, why: Why::Start };
        let (queues, seats) = (queues.to_vec(), seats.to_vec());
        let seen = Seen::nothing(queues.len());
        Self { queues, seats, order, seen, patience: PATIENCE, until_trial: 1, steady: 0 }
    }

    /// A window has passed. What to do until the next. `room` is what the machine has for all threads.
    pub(crate) fn step(&mut self, sample: &Sample<'_>, room: &mut Room) -> &Order {
        self.seen.add(sample);
        if self.seen.total() >= ENOUGH {
            let seen = std::mem::replace(&mut self.seen, Seen::nothing(self.queues.len()));
            self.order = self.decide(&seen, room);
        } else if self.polls() && !room.take(true) {
            self.order = self.sleep(Why::Crowded, room);
        }
        &self.order
    }

    fn polls(&self) -> bool {
        !self.order.spin.is_zero()
    }

    fn decide(&mut self, seen: &Seen, room: &mut Room) -> Order {
        let total = seen.total();
        let of = |cpu: usize| {
            self.queues.iter().position(|&queue| usize::from(queue) == cpu).map_or(0, |at| seen.requests[at])
        };
        let most = self.seats.iter().copied().max_by_key(|&cpu| (of(cpu), cpu == self.order.cpu));
        let most = most.unwrap_or(self.order.cpu);
        if of(most) * 8 >= total * 7 {
            let order = self.sleep(Why::Clients, room);
            return Order { cpu: most, ..order };
        }
        if of(self.order.cpu) * 64 > total {
            return self.sleep(Why::Company, room);
        }
        if self.polls() { self.go_on(seen, room) } else { self.try_out(seen, room) }
    }

    /// It polls. Does that pay?
    fn go_on(&mut self, seen: &Seen, room: &mut Room) -> Order {
        let failed = if !room.take(true) {
            Why::Crowded
        } else if seen.preempted >= DISTURBED {
            Why::Disturbed
        } else if seen.is_dear() {
            Why::Dear
        } else {
            self.steady += 1;
            if self.steady >= STEADY {
                self.patience = PATIENCE;
            }
            // Four times what it takes on average is more than nearly all of them take.
            let each = seen.spun / seen.hits.clamp(1, u32::MAX.into()) as u32;
            return Order { spin: (each * 4).clamp(LEAST, MOST), why: Why::Pays, ..self.order };
        };
        self.sleep(failed, room)
    }

    /// It sleeps, and polling would disturb no client on this CPU.
    fn try_out(&mut self, seen: &Seen, room: &mut Room) -> Order {
        self.until_trial = self.until_trial.saturating_sub(1);
        // Even if every request came within the time of polling, that would be too long for what a wake-up is worth.
        if seen.gap() > MOST * 4 {
            return self.asleep(Why::Dear);
        }
        if self.until_trial > 0 {
            return self.asleep(Why::Patience);
        }
        if !room.take(false) {
            return self.asleep(Why::Crowded);
        }
        Order { spin: MOST, why: Why::Trial, ..self.order }
    }

    /// To sleep from now on. If it polled, that has failed.
    fn sleep(&mut self, why: Why, room: &mut Room) -> Order {
        if self.polls() {
            room.leave();
            self.until_trial = self.patience;
            self.patience = (self.patience * 4).min(MOST_PATIENCE);
            self.steady = 0;
        }
        self.asleep(why)
    }

    fn asleep(&self, why: Why) -> Order {
        Order { cpu: self.order.cpu, spin: Duration::ZERO, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_millis(8);
    const IDLE: Duration = Duration::ZERO;

    fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// Queues of CPUs 0 to 3, a thread on CPU 0 that may go anywhere.
    fn governor() -> Governor {
        Governor::new(&[0, 1, 2, 3], &[0, 1, 2, 3], 0)
    }

    fn room(runnable: usize) -> Room {
        let mut room = Room::default();
        room.look(runnable, 4);
        room
    }

    fn asks(requests: &[u64]) -> Sample<'_> {
        let count = requests.iter().sum::<u64>();
        Sample { elapsed: WINDOW, requests, cpu: us(2 * count), ..Sample::default() }
    }

    /// Two clients elsewhere, and each request was caught by polling for so long.
    fn polled(each: Duration, hits: u64) -> Sample<'static> {
        let spun = each * hits as u32;
        Sample { spun, hits, ..asks(&[0, 500, 500, 0]) }
    }

    fn polling() -> Governor {
        let mut governor = governor();
        assert_eq!(governor.step(&asks(&[0, 500, 500, 0]), &mut room(1)).why, Why::Trial);
        governor
    }

    fn order(cpu: usize, spin: Duration, why: Why) -> Order {
        Order { cpu, spin, why }
    }

    #[test]
    fn a_thread_goes_where_its_clients_are_and_sleeps_there() {
        let mut governor = governor();
        assert_eq!(*governor.step(&asks(&[10, 5, 985, 0]), &mut room(1)), order(2, IDLE, Why::Clients));
        assert_eq!(*governor.step(&asks(&[0, 0, 1000, 0]), &mut room(1)), order(2, IDLE, Why::Clients));
        assert_eq!(*governor.step(&asks(&[0, 800, 200, 0]), &mut room(1)), order(2, IDLE, Why::Company));
        assert_eq!(*governor.step(&asks(&[0, 900, 100, 0]), &mut room(1)), order(1, IDLE, Why::Clients));
    }

    #[test]
    fn a_thread_goes_only_where_it_may() {
        let mut governor = Governor::new(&[0, 1, 2, 3], &[0], 0);
        assert_eq!(*governor.step(&asks(&[0, 0, 1000, 0]), &mut room(1)), order(0, MOST, Why::Trial));
    }

    #[test]
    fn few_requests_decide_nothing_until_there_are_enough() {
        let mut governor = governor();
        for _ in 0..3 {
            assert_eq!(governor.step(&asks(&[0, 0, 4, 0]), &mut room(1)).why, Why::Start);
        }
        assert_eq!(*governor.step(&asks(&[0, 0, 4, 0]), &mut room(1)), order(2, IDLE, Why::Clients));
    }

    #[test]
    fn polling_that_pays_goes_on_and_is_as_long_as_needed() {
        let mut governor = polling();
        assert_eq!(*governor.step(&polled(us(6), 1000), &mut room(2)), order(0, us(24), Why::Pays));
        assert_eq!(*governor.step(&polled(us(1), 1000), &mut room(2)), order(0, LEAST, Why::Pays));
        assert_eq!(*governor.step(&polled(us(19), 400), &mut room(2)), order(0, MOST, Why::Pays));
    }

    #[test]
    fn polling_ends_when_a_saved_wake_up_costs_too_much() {
        assert_eq!(*polling().step(&polled(us(21), 1000), &mut room(2)), order(0, IDLE, Why::Dear));
        let in_vain = Sample { spun: WINDOW / 60, ..asks(&[0, 10, 10, 0]) };
        assert_eq!(*polling().step(&in_vain, &mut room(2)), order(0, IDLE, Why::Dear));
    }

    #[test]
    fn polling_ends_when_others_want_the_cpu() {
        let disturbed = Sample { preempted: DISTURBED, ..polled(us(6), 1000) };
        assert_eq!(*polling().step(&disturbed, &mut room(2)), order(0, IDLE, Why::Disturbed));
        assert_eq!(*polling().step(&polled(us(6), 1000), &mut room(5)), order(0, IDLE, Why::Crowded));
        assert_eq!(*polling().step(&asks(&[0, 0, 0, 0]), &mut room(5)), order(0, IDLE, Why::Crowded));
        let joined = Sample { requests: &[50, 500, 500, 0], ..polled(us(6), 1000) };
        assert_eq!(*polling().step(&joined, &mut room(2)), order(0, IDLE, Why::Company));
        let alone = Sample { requests: &[0, 1000, 0, 0], ..polled(us(6), 1000) };
        assert_eq!(*polling().step(&alone, &mut room(2)), order(1, IDLE, Why::Clients));
    }

    #[test]
    fn polling_is_not_tried_where_there_is_no_room_or_little_to_do() {
        for runnable in [3, 4, 9] {
            let why = governor().step(&asks(&[0, 500, 500, 0]), &mut room(runnable)).why;
            assert_eq!(why == Why::Trial, runnable < 3, "{runnable}");
            assert_eq!(why == Why::Crowded, runnable > 2, "{runnable}");
        }
        assert_eq!(governor().step(&asks(&[0, 10, 10, 0]), &mut room(1)).why, Why::Dear);
    }

    #[test]
    fn what_failed_is_tried_again_after_ever_longer_times() {
        let mut governor = polling();
        let mut trials = Vec::new();
        for window in 1..3000 {
            let tries = governor.polls();
            let sample = if tries { polled(us(30), 300) } else { asks(&[0, 500, 500, 0]) };
            if governor.step(&sample, &mut room(1)).why == Why::Trial {
                trials.push(window);
            }
        }
        let gaps: Vec<i32> = trials.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!((trials[0], &gaps[..]), (9, &[33, 129, 513, 513, 513, 513, 513][..]));
    }

    #[test]
    fn polling_that_has_paid_for_long_has_its_patience_back() {
        let mut governor = polling();
        governor.step(&polled(us(30), 1000), &mut room(2));
        assert!(governor.patience > PATIENCE);
        while governor.step(&asks(&[0, 500, 500, 0]), &mut room(1)).why != Why::Trial {}
        (0..STEADY)
            .for_each(|_| assert_eq!(governor.step(&polled(us(6), 1000), &mut room(2)).why, Why::Pays));
        assert_eq!(governor.patience, PATIENCE);
    }

    #[test]
    fn threads_share_the_room_there_is() {
        let mut room = room(1);
        let whys: Vec<Why> =
            (0..3).map(|_| governor().step(&asks(&[0, 500, 500, 0]), &mut room).why).collect();
        assert_eq!(whys, [Why::Trial, Why::Trial, Why::Crowded]);
    }

    #[test]
    fn never_more_than_half_of_the_cpus_poll() {
        let mut room = Room::default();
        room.look(0, 1);
        assert!(!room.take(false));
        room.look(0, 9);
        assert_eq!((0..9).filter(|_| room.take(true)).count(), 4);
    }

    #[test]
    fn one_look_at_the_machine_changes_little() {
        let mut room = room(1);
        room.look(6, 4);
        assert!(room.take(true));
        (0..6).for_each(|_| room.look(6, 4));
        assert!(!room.take(true));
    }
}
