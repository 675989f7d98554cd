//! `docs/polling.md`. With `UPDATE=1` in the environment it is rewritten.

use super::{
    Outcome, Pattern, Shape,
    cells::{Cell, SHAPES, closed, open},
    cost,
};
use std::{fmt::Write, fs, path::Path};

const HEAD: &str = "\
# Polling: what the governor does, in numbers

This page is made by a test from a simulated machine (`crates/fusewire/src/channel/poll/sim`):
`UPDATE=1 cargo test -p fusewire --lib poll`. The governor in it is the one that runs in a mount and in a virtio-fs device. Why it does
what it does: [decision 9](adr/0009-polling.md).

The machine knows what a hand-over costs, that threads share a CPU in slices, and no more: no caches, no scheduler that moves
threads. So the tables tell where polling pays and where it steals, not what a mount of yours will do; for that there is
`fusewire-bench run polling`.
";

const CLOSED: &str = "\
Clients do nothing but ask, each on a CPU of its own as far as there are enough (1, 2, ..., 0). Where others are busy, each CPU but that of the first
client has a thread that computes without end. `auto / better` is against the better of off and fixed.
";

const OPEN: &str = "\
Clients that ask now and then, on 8 CPUs: at random with that mean time between requests of each client, after thinking that long, or in bursts.
Waiting is from request to answer.
";

const QUEUES: &str = "
## Queues of virtual machines

`fusewire vhost --poll` takes the same words. The thread of a request queue that has served all there was looks at the queue for as long as
it is told, before it sleeps. The guest need not tell it of requests meanwhile, which would be an exit of the guest's processor and a wake-up
here. What stops a queue, begins or ends a session, or makes an answer ready ends the polling at once. The governor is the one of the
tables above; the nearest to a queue is the one thread that is kept on its CPU. What is different ([decision 28](adr/0028-queue-polling.md)):

* Nobody here knows where a guest's processors run, so threads are not moved, and all requests count as coming from other CPUs.
* The room for polling is that of the process, not of each guest: with `auto` at most half of the CPUs, all guests together, and no more than are
  free; a guest that asks for nothing has no part in it. With `fixed` never more threads at once than the process has CPUs.
* The queue for FORGET is never polled. With `--sandbox chroot`, where there is no proc, `auto` is `off`.
";

fn about(shape: Shape) -> &'static str {
    match shape {
        Shape::Home => "A thread on each CPU: the default",
        Shape::Folded => "One thread for all CPUs, which may go anywhere (`--threads 1`)",
        Shape::Confined => "One thread for all CPUs, kept on CPU 0 (`taskset -c 0`)",
    }
}

fn pattern(pattern: Pattern) -> String {
    match pattern {
        Pattern::Closed(think) => format!("thinks {} us", think / 1000),
        Pattern::Poisson(mean) => format!("at random, {} us", mean / 1000),
        Pattern::Burst(length, period) => format!("{length} every {} ms", period / 1_000_000),
    }
}

fn others(busy: bool) -> &'static str {
    if busy { "busy" } else { "idle" }
}

/// Thousands of requests per second under off, fixed and auto.
fn rates(cell: &Cell) -> [f64; 4] {
    let [ten, fifty] = &cell.fixed;
    [&cell.off, ten, fifty, &cell.auto].map(|outcome| (outcome.rate / 1e3).round())
}

fn costs(page: &mut String) {
    page.push_str("## What things take\n\nNanoseconds; fitted to what was measured with a null filesystem and one client on a virtual machine with 2 CPUs, Linux 6.18: 3.2 us there and back on one CPU, 10.8 us between two, 6.6 us if the server polls.\n\n| | ns |\n|---|--:|\n");
    for (what, time) in [
        ("the client's system call and what it does with the answer", cost::CLIENT),
        ("taking a request, copying, handling, answering", cost::SERVER),
        ("from one thread to another on a CPU", cost::SWITCH),
        ("waking a thread of the same CPU", cost::WAKE),
        ("waking a thread of another CPU", cost::WAKE_OTHER),
        ("of that, what keeps the waking CPU busy", cost::INTERRUPT),
        ("of that, what keeps the other CPU busy", cost::WAKE_UP),
        ("from a request to a thread that polls", cost::CATCH),
        ("moving a thread", cost::MOVE),
    ] {
        _ = writeln!(page, "| {what} | {time} |");
    }
}

fn closed_table(page: &mut String, shape: Shape) {
    _ = write!(page, "\n### {}\n\n", about(shape));
    page.push_str("| CPUs | clients | others | off k/s | fixed:10 | fixed:50 | auto | auto / better | off us CPU | fixed:50 | auto | auto polls, CPUs |\n");
    page.push_str("|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
    let mut rows: Vec<Vec<String>> = Vec::new();
    for cell in closed().iter().filter(|cell| cell.scene.shape == shape) {
        let [off, ten, fifty, auto] = rates(cell);
        let scene = &cell.scene;
        let row = format!(
            "{} | {} | {off} | {ten} | {fifty} | {auto} | {:.2} | {:.1} | {:.1} | {:.1} | {:.2} |",
            scene.clients,
            others(scene.busy),
            cell.auto.rate / cell.better().rate,
            cell.off.cpu,
            cell.fixed[1].cpu,
            cell.auto.cpu,
            cell.auto.polling
        );
        match rows.last_mut() {
            Some(last) if last[0] == scene.cpus.to_string() => last.push(row),
            _ => rows.push(vec![scene.cpus.to_string(), row]),
        }
    }
    // From some number of CPUs on, more of them change nothing.
    for (at, block) in rows.iter().enumerate() {
        if at > 0 && rows[at - 1][1..] == block[1..] {
            continue;
        }
        let same = rows[at..].iter().take_while(|other| other[1..] == block[1..]).last().unwrap_or(block);
        let cpus =
            if same[0] == block[0] { block[0].clone() } else { format!("{} to {}", block[0], same[0]) };
        block[1..].iter().for_each(|row| _ = writeln!(page, "| {cpus} | {row}"));
    }
}

fn open_table(page: &mut String, shape: Shape) {
    _ = write!(page, "\n### {}\n\n", about(shape));
    page.push_str(
        "| a client | clients | others | off waits us | fixed:50 | auto | off us CPU | fixed:50 | auto |\n",
    );
    page.push_str("|---|--:|---|--:|--:|--:|--:|--:|--:|\n");
    for cell in open().iter().filter(|cell| cell.scene.shape == shape && cell.scene.cpus == 8) {
        let scene = &cell.scene;
        let outcomes = [&cell.off, &cell.fixed[1], &cell.auto];
        let row =
            |value: fn(&Outcome) -> f64| outcomes.map(|outcome| format!("{:.1}", value(outcome))).join(" | ");
        let (waits, cpu) = (row(|outcome| outcome.mean), row(|outcome| outcome.cpu));
        let (what, busy) = (pattern(scene.pattern), others(scene.busy));
        _ = writeln!(page, "| {what} | {} | {busy} | {waits} | {cpu} |", scene.clients);
    }
}

fn page() -> String {
    let mut page = String::from(HEAD);
    page.push('\n');
    costs(&mut page);
    _ = write!(page, "\n## Clients that only ask\n\n{CLOSED}");
    SHAPES.iter().for_each(|&shape| closed_table(&mut page, shape));
    _ = write!(page, "\n## Clients that ask now and then\n\n{OPEN}");
    SHAPES.iter().for_each(|&shape| open_table(&mut page, shape));
    page.push_str(QUEUES);
    page
}

/// Is the page up to date?
pub(super) fn check() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/polling.md");
    let page = page();
    if std::env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differ = written.lines().zip(page.lines()).find(|(written, page)| written != page);
    assert!(
        written == page,
        "docs/polling.md is out of date (first difference: {differ:?}); run UPDATE=1 cargo test -p fusewire --lib poll"
    );
}
