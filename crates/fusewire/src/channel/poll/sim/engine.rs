//! The events, and what they do.

use super::{Governor, Order, Outcome, Pattern, Poll, Room, Sample, Scene, Shape, Why, cost};
use std::{cmp::Reverse, collections::BinaryHeap, collections::VecDeque, time::Duration};

/// What a thread is doing with the CPU, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// A hog.
    Computing,
    /// A client, up to its request.
    Asking,
    /// A server, with a request of that client.
    Serving(usize),
    /// A server that has woken another CPU.
    Interrupting,
    /// A server.
    Polling,
    /// It waits for something.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Asleep,
    /// It will be runnable once a wake-up has arrived.
    Waking,
    Ready,
    Running,
}

#[derive(Debug)]
struct Thread {
    cpu: usize,
    doing: Doing,
    state: State,
    /// CPU time that it still needs for what it is doing.
    left: u64,
    /// CPU time it has had, as far as scheduling is concerned.
    had: u64,
    /// CPU time it has taken.
    used: u64,
}

#[derive(Debug, Default)]
struct Core {
    runs: Option<usize>,
    since: u64,
    ready: Vec<usize>,
    /// Changes whenever another thread runs or the same one does something else: older events are void.
    turn: u64,
    /// Changes whenever another thread runs.
    shift: u64,
    /// The most time that any thread has had that ran here.
    least: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Done { core: usize, turn: u64 },
    Slice { core: usize, shift: u64 },
    Awake(usize),
    Window,
}

#[derive(Debug)]
struct Server {
    thread: usize,
    queues: Vec<u16>,
    waiting: VecDeque<usize>,
    order: Order,
    always: bool,
    last: usize,
    polls_since: u64,
    spun: u64,
    in_vain: u64,
    hits: u64,
    requests: Vec<u64>,
    governor: Option<Governor>,
    seen: (u64, u64, u64, u64),
    preempted: u64,
    changes: usize,
}

#[derive(Debug)]
struct Client {
    server: usize,
    /// Since when it has wanted an answer.
    asked: Option<u64>,
    /// There is one that it has not seen yet.
    answered: bool,
    /// When its next request is due.
    due: u64,
    burst: u32,
}

/// The machine.
#[derive(Debug)]
pub(super) struct Machine {
    now: u64,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    cores: Vec<Core>,
    threads: Vec<Thread>,
    clients: Vec<Client>,
    servers: Vec<Server>,
    pattern: Pattern,
    room: Room,
    random: u64,
    /// Nanoseconds from request to answer.
    times: Vec<u64>,
}

impl Machine {
    pub fn new(scene: &Scene) -> Self {
        let cores = (0..scene.cpus).map(|_| Core::default()).collect();
        let mut machine = Self {
            now: 0,
            events: BinaryHeap::new(),
            count: 0,
            cores,
            threads: Vec::new(),
            clients: Vec::new(),
            servers: Vec::new(),
            pattern: scene.pattern,
            room: Room::default(),
            random: 0x9e37_79b9_7f4a_7c15,
            times: Vec::new(),
        };
        machine.populate(scene);
        machine
    }

    /// Clients come first, so that a client and its thread have the same number.
    fn populate(&mut self, scene: &Scene) {
        let on = |client: usize| (client + 1) % scene.cpus;
        for client in 0..scene.clients {
            self.spawn(on(client), Doing::Asking, cost::CLIENT);
            let server = if scene.shape == Shape::Home { on(client) } else { 0 };
            self.clients.push(Client { server, asked: None, answered: false, due: 0, burst: 0 });
        }
        let all: Vec<u16> = (0..scene.cpus as u16).collect();
        let groups: Vec<Vec<u16>> = match scene.shape {
            Shape::Home => all.iter().map(|&queue| vec![queue]).collect(),
            _ => vec![all],
        };
        for (cpu, queues) in groups.into_iter().enumerate() {
            let seats = if scene.shape == Shape::Folded { (0..scene.cpus).collect() } else { vec![cpu] };
            let governed = scene.poll == Poll::Auto && queues.len() > 1;
            let fixed = if let Poll::Fixed(time) = scene.poll { time } else { Duration::ZERO };
            let thread = self.spawn(cpu, Doing::Nothing, 0);
            self.servers.push(Server {
                thread,
                waiting: VecDeque::new(),
                order: Order { cpu, spin: fixed, why: Why::Start },
                always: !fixed.is_zero(),
                last: usize::MAX,
                polls_since: 0,
                spun: 0,
                in_vain: 0,
                hits: 0,
                requests: vec![0; queues.len()],
                governor: governed.then(|| Governor::new(&queues, &seats, cpu)),
                queues,
                seen: (0, 0, 0, 0),
                preempted: 0,
                changes: 0,
            });
        }
        if scene.busy {
            (0..scene.cpus).filter(|&cpu| cpu != on(0)).for_each(|cpu| {
                self.spawn(cpu, Doing::Computing, u64::MAX / 2);
            });
        }
        for thread in 0..self.threads.len() {
            if self.threads[thread].doing != Doing::Nothing {
                self.awake(thread);
            }
        }
        self.at(cost::WINDOW, Event::Window);
    }

    fn spawn(&mut self, cpu: usize, doing: Doing, left: u64) -> usize {
        let state = if doing == Doing::Nothing { State::Asleep } else { State::Waking };
        self.threads.push(Thread { cpu, doing, state, left, had: 0, used: 0 });
        self.threads.len() - 1
    }

    fn at(&mut self, time: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((time, self.count, event)));
    }

    pub fn run(&mut self, until: u64) {
        while let Some(&Reverse((time, _, event))) = self.events.peek() {
            if time > until {
                break;
            }
            self.events.pop();
            self.now = time;
            match event {
                Event::Awake(thread) => self.awake(thread),
                Event::Window => self.window(),
                Event::Done { core, turn } if self.cores[core].turn == turn => self.done(core),
                Event::Slice { core, shift } if self.cores[core].shift == shift => self.slice(core),
                _ => {}
            }
        }
        self.now = until;
        (0..self.cores.len()).for_each(|core| self.account(core));
    }

    /// What runs on the core has had its time up to now.
    fn account(&mut self, core: usize) {
        let Core { runs, since, least, .. } = &mut self.cores[core];
        let time = self.now.saturating_sub(*since);
        *since = self.now.max(*since);
        if let Some(thread) = runs {
            let thread = &mut self.threads[*thread];
            thread.left = thread.left.saturating_sub(time);
            thread.had += time;
            thread.used += time;
            *least = (*least).max(thread.had);
        }
    }

    /// Whoever has had least time runs, after a switch if that is somebody else.
    fn dispatch(&mut self, core: usize) {
        let next =
            (0..self.cores[core].ready.len()).min_by_key(|&at| self.threads[self.cores[core].ready[at]].had);
        let Some(next) = next else { return };
        let thread = self.cores[core].ready.swap_remove(next);
        self.threads[thread].state = State::Running;
        self.threads[thread].left += cost::SWITCH;
        self.cores[core].runs = Some(thread);
        self.cores[core].since = self.now;
        self.cores[core].shift += 1;
        self.share(core);
        if let Some(client) = self.clients.get_mut(thread) {
            let begins = self.now + cost::SWITCH;
            if std::mem::take(&mut client.answered)
                && let Some(asked) = client.asked.take()
            {
                self.times.push(begins - asked);
            }
            client.asked.get_or_insert(begins);
        }
        self.plan(core);
    }

    /// The thread that runs on the core does something new, or goes on with it.
    fn plan(&mut self, core: usize) {
        let Some(thread) = self.cores[core].runs else { return };
        self.cores[core].turn += 1;
        let (turn, left) = (self.cores[core].turn, self.threads[thread].left);
        self.at(self.now + left, Event::Done { core, turn });
    }

    /// Whoever runs on the core does so for a slice, if others want to.
    fn share(&mut self, core: usize) {
        if !self.cores[core].ready.is_empty() {
            let shift = self.cores[core].shift;
            self.at(self.now + cost::SLICE, Event::Slice { core, shift });
        }
    }

    fn awake(&mut self, thread: usize) {
        let core = self.threads[thread].cpu;
        self.account(core);
        if let Some(server) = self.server_of(thread).filter(|_| self.threads[thread].doing == Doing::Nothing)
        {
            self.take(server);
        }
        let had = self.threads[thread].had.max(self.cores[core].least.saturating_sub(cost::SLICE));
        self.threads[thread].had = had;
        self.threads[thread].state = State::Ready;
        self.cores[core].ready.push(thread);
        match self.cores[core].runs {
            None => self.dispatch(core),
            Some(runs) if self.threads[runs].had > had => {
                self.stop(core);
                self.dispatch(core);
            }
            // From now on there is somebody to share with.
            Some(_) if self.cores[core].ready.len() == 1 => self.share(core),
            Some(_) => {}
        }
    }

    /// Who runs has to wait.
    fn stop(&mut self, core: usize) {
        self.account(core);
        self.cores[core].turn += 1;
        let Some(thread) = self.cores[core].runs.take() else { return };
        self.threads[thread].state = State::Ready;
        self.cores[core].ready.push(thread);
        if let Some(server) = self.server_of(thread) {
            self.servers[server].preempted += 1;
        }
    }

    /// Who runs has nothing to do.
    fn sleep(&mut self, core: usize) {
        self.cores[core].turn += 1;
        if let Some(thread) = self.cores[core].runs.take() {
            self.threads[thread].state = State::Asleep;
            self.threads[thread].doing = Doing::Nothing;
        }
        self.dispatch(core);
    }

    fn slice(&mut self, core: usize) {
        self.stop(core);
        self.dispatch(core);
    }

    fn server_of(&self, thread: usize) -> Option<usize> {
        thread.checked_sub(self.clients.len()).filter(|&server| server < self.servers.len())
    }

    /// Have `thread` run as soon as a wake-up from `core` is there. Is it on another one?
    fn wake(&mut self, thread: usize, core: usize) -> bool {
        let other = self.threads[thread].cpu != core;
        self.threads[thread].state = State::Waking;
        self.threads[thread].used += if other { cost::WAKE_UP } else { cost::WAKE };
        self.at(self.now + if other { cost::WAKE_OTHER } else { cost::WAKE }, Event::Awake(thread));
        other
    }

    fn done(&mut self, core: usize) {
        self.account(core);
        let Some(thread) = self.cores[core].runs else { return };
        match self.threads[thread].doing {
            Doing::Asking => self.asks(thread, core),
            Doing::Serving(client) => self.answers((thread, client), core),
            Doing::Polling => {
                let server = self.server_of(thread).expect("only servers poll");
                self.polled(server, false);
                self.sleep(core);
            }
            Doing::Interrupting => self.next(thread, core),
            Doing::Computing | Doing::Nothing => self.sleep(core),
        }
    }

    /// A client's request is in the queue.
    fn asks(&mut self, client: usize, core: usize) {
        let at = self.clients[client].server;
        let thread = self.servers[at].thread;
        self.servers[at].waiting.push_back(client);
        match self.threads[thread].state {
            State::Asleep => {
                let other = self.wake(thread, core);
                self.threads[client].used += if other { cost::INTERRUPT } else { 0 };
            }
            State::Ready | State::Running if self.threads[thread].doing == Doing::Polling => {
                let cpu = self.threads[thread].cpu;
                self.account(cpu);
                self.polled(at, true);
                self.take(at);
                self.threads[thread].left += cost::CATCH;
                if self.threads[thread].state == State::Running {
                    self.plan(cpu);
                }
            }
            _ => {}
        }
        self.sleep(core);
    }

    fn polled(&mut self, server: usize, hit: bool) {
        let server = &mut self.servers[server];
        let time = self.now - server.polls_since;
        server.spun += time;
        server.hits += u64::from(hit);
        if !hit {
            server.in_vain += time;
        }
    }

    /// The server begins with a request, if there is one.
    fn take(&mut self, server: usize) -> bool {
        let Some(client) = self.servers[server].waiting.pop_front() else { return false };
        let thread = self.servers[server].thread;
        self.threads[thread].doing = Doing::Serving(client);
        self.threads[thread].left = cost::SERVER;
        let queue = self.threads[client].cpu;
        let server = &mut self.servers[server];
        server.last = queue;
        let at = server.queues.iter().position(|&of| usize::from(of) == queue).expect("it is this server's");
        server.requests[at] += 1;
        true
    }

    fn answers(&mut self, (thread, client): (usize, usize), core: usize) {
        // As the clock of a client shows it, the time until it is due again is not waiting.
        let begin = self.now;
        let due = self.next_request(client, begin);
        let other = if due > begin {
            self.answered_later(client, due, core)
        } else {
            self.clients[client].answered = true;
            self.wake(client, core)
        };
        if other {
            self.threads[thread].doing = Doing::Interrupting;
            self.threads[thread].left = cost::INTERRUPT;
            self.plan(core);
        } else {
            self.next(thread, core);
        }
    }

    /// The answer reaches a client that asks again at `due` only. Is it on another CPU?
    fn answered_later(&mut self, client: usize, due: u64, core: usize) -> bool {
        let other = self.threads[client].cpu != core;
        let way = if other { cost::WAKE_OTHER } else { cost::WAKE } + cost::SWITCH;
        if let Some(asked) = self.clients[client].asked.take() {
            self.times.push(self.now + way - asked);
        }
        if other {
            self.threads[client].used += cost::WAKE_UP;
        }
        self.threads[client].state = State::Waking;
        self.at(due.max(self.now + way), Event::Awake(client));
        other
    }

    /// The client gets ready for its next request. When will that be due?
    fn next_request(&mut self, client: usize, now: u64) -> u64 {
        self.threads[client].doing = Doing::Asking;
        self.threads[client].left = cost::CLIENT;
        match self.pattern {
            Pattern::Closed(think) => now + think,
            Pattern::Poisson(mean) => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                let uniform = ((self.random >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
                self.clients[client].due += (-uniform.ln() * mean as f64) as u64;
                self.clients[client].due
            }
            Pattern::Burst(length, period) => {
                let state = &mut self.clients[client];
                state.burst += 1;
                if state.burst == length {
                    state.burst = 0;
                    state.due += period;
                }
                state.due
            }
        }
    }

    /// What the server does after an answer.
    fn next(&mut self, thread: usize, core: usize) {
        let at = self.server_of(thread).expect("only servers answer");
        if self.take(at) {
            return self.plan(core);
        }
        let server = &mut self.servers[at];
        if server.order.spin.is_zero() || (!server.always && server.last == server.order.cpu) {
            return self.sleep(core);
        }
        server.polls_since = self.now;
        self.threads[thread].doing = Doing::Polling;
        self.threads[thread].left = server.order.spin.as_nanos() as u64;
        self.plan(core);
    }

    fn window(&mut self) {
        (0..self.cores.len()).for_each(|core| self.account(core));
        let runnable =
            self.threads.iter().filter(|thread| matches!(thread.state, State::Ready | State::Running));
        self.room.look(runnable.count(), self.cores.len());
        for server in 0..self.servers.len() {
            let Some(mut governor) = self.servers[server].governor.take() else { continue };
            let order = self.govern(server, &mut governor);
            self.servers[server].governor = Some(governor);
            self.obey(server, order);
        }
        self.at(self.now + cost::WINDOW, Event::Window);
    }

    fn govern(&mut self, server: usize, governor: &mut Governor) -> Order {
        let server = &mut self.servers[server];
        let used = self.threads[server.thread].used;
        let before = std::mem::replace(&mut server.seen, (used, server.spun, server.hits, server.preempted));
        let requests = std::mem::replace(&mut server.requests, vec![0; server.queues.len()]);
        let sample = Sample {
            elapsed: Duration::from_nanos(cost::WINDOW),
            requests: &requests,
            cpu: Duration::from_nanos(used - before.0),
            spun: Duration::from_nanos(server.spun - before.1),
            hits: server.hits - before.2,
            preempted: server.preempted - before.3,
        };
        governor.step(&sample, &mut self.room).clone()
    }

    fn obey(&mut self, at: usize, order: Order) {
        let server = &mut self.servers[at];
        let (thread, from) = (server.thread, server.order.cpu);
        server.changes += usize::from((server.order.cpu, server.order.why) != (order.cpu, order.why));
        server.order = order;
        let to = server.order.cpu;
        if from == to {
            return;
        }
        self.threads[thread].left += cost::MOVE;
        let state = self.threads[thread].state;
        if state == State::Running {
            self.stop(from);
        }
        self.cores[from].ready.retain(|&other| other != thread);
        self.threads[thread].cpu = to;
        if state == State::Running {
            self.dispatch(from);
        }
        if matches!(state, State::Running | State::Ready) {
            self.awake(thread);
        }
    }

    /// What was counted so far does not count.
    pub fn forget(&mut self) {
        self.times.clear();
        self.threads.iter_mut().for_each(|thread| thread.used = 0);
        for server in &mut self.servers {
            (server.spun, server.in_vain, server.hits, server.changes) = (0, 0, 0, 0);
            server.seen = (0, 0, 0, server.seen.3);
        }
    }

    pub fn outcome(mut self, time: Duration) -> Outcome {
        self.times.sort_unstable();
        let count = self.times.len().max(1);
        let used: u64 = self
            .threads
            .iter()
            .filter(|thread| thread.doing != Doing::Computing)
            .map(|thread| thread.used)
            .sum();
        let sum = |part: fn(&Server) -> u64| {
            self.servers.iter().map(part).sum::<u64>() as f64 / time.as_nanos() as f64
        };
        Outcome {
            rate: self.times.len() as f64 / time.as_secs_f64(),
            mean: self.times.iter().sum::<u64>() as f64 / 1e3 / count as f64,
            p99: self.times.get(count * 99 / 100).map_or(0.0, |&time| time as f64 / 1e3),
            cpu: used as f64 / 1e3 / count as f64,
            polling: sum(|server| server.spun),
            in_vain: sum(|server| server.in_vain),
            changes: self.servers.iter().map(|server| server.changes).sum(),
        }
    }
}
