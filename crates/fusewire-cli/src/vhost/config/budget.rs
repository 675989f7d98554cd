//! What each guest may have: what the file says, or a part of what is left.

use fusewire_fs::passthrough::Bounds;
use fusewire_vhost::{MAPPING, mappings};
use toml::Spanned;

use super::file::{Checked, File, Guest, wrong};
use super::limits::Machine;

/// Descriptors that belong to no guest: the process's own, shares', and some to spare.
const OWN_DESCRIPTORS: u64 = 256;
/// A guest's connection, twice, and what holds it up; its socket and the file beside it; the tree and what files are found by; regions of
/// memory.
const DESCRIPTORS: u64 = 22;
/// Of each queue: what wakes it, kicks, calls, errors, and what its thread waits with.
const DESCRIPTORS_OF_QUEUE: u64 = 7;
/// With fewer descriptors for files than this, and the eight for moments, nothing works.
const FILES: u64 = 40;

/// Threads of a guest besides those of queues: for the connection, for its end, and the watch.
const THREADS: u64 = 3;
/// Threads beyond those that there must be, if there are enough: of one guest at most, and of all. Each takes memory for its buffers.
const EXTRA_THREADS: (u64, u64) = (16, 64);

/// What a guest costs that does nothing, without buffers.
const MEMORY: u64 = 1 << 20;
/// The longest request and the longest answer, where they lie in the guest's memory, and a stack: each thread that serves has one of each.
const BUFFERS: u64 = (1 << 20) + (256 << 10) + (64 << 10) + (64 << 10);
/// What a request keeps that waits beside others: of itself and of its answer, and where they lie.
const SLOT: u64 = 2 * (32 << 10) + 2 * (1 << 10);
/// Fewest requests of a thread that can wait at once, and most.
const SLOTS: (u64, u64) = (4, 256);
/// A file that the guest's kernel knows, with a long name.
const NODE: u64 = 512;
/// An open directory, with what was read ahead of it.
const HANDLE: u64 = 17 << 10;
/// A locked range.
const RANGE: u64 = 64;
/// With less memory for nodes and handles than this, no guest can boot.
const TABLES: u64 = 6 << 20;

/// What one guest may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Request queues.
    pub queues: u16,
    /// Descriptors for files.
    pub files: u64,
    /// Threads that may stand in for others.
    pub spares: usize,
    /// Requests that may wait for locks.
    pub waits: usize,
    /// Requests of one thread that may wait at once.
    pub slots: usize,
    /// What of its memory is left for files that it knows and has open.
    tables: u64,
}

impl Budget {
    /// What the filesystem has to keep to.
    pub fn bounds(&self) -> Bounds {
        let count = |bytes: u64, one: u64| Some(usize::try_from(bytes / one).unwrap_or(usize::MAX));
        Bounds {
            nodes: count(self.tables / 8 * 5, NODE),
            handles: count(self.tables / 4, HANDLE),
            ranges: count(self.tables / 8, RANGE),
            waits: Some(self.waits),
        }
    }
}

/// One kind of what there is.
struct Kind {
    name: &'static str,
    /// How much there is for guests.
    all: u64,
    /// How that came.
    source: String,
    remedy: &'static str,
}

/// Divides what the machine has: what guests ask for first, what they need of the rest, and the rest evenly.
///
/// # Errors
/// If there is not enough, or a guest asks for less than it needs.
pub fn divide(file: &File, machine: Machine) -> Checked<Vec<Budget>> {
    let guests = &file.guests;
    let default_queues = fusewire_vhost::Options::default().queues;
    let queues: Vec<_> = guests.iter().map(|guest| guest.queues.unwrap_or(default_queues)).collect();
    let locks: Vec<_> = guests.iter().map(|guest| file.shares[guest.share].args.shared_locks).collect();
    let kind = Kind {
        name: "threads",
        all: machine.threads / 4 * 3,
        source: format!("three quarters of {} (threads-max, pids.max, ulimit -u)", machine.threads),
        remedy: "fewer queues or threads for each guest, or a larger limit",
    };
    // One that stands in, and one that waits for a lock.
    let needs: Vec<_> = queues
        .iter()
        .zip(&locks)
        .map(|(&queues, &locks)| own_threads(queues) + 1 + u64::from(locks))
        .collect();
    let extra = (EXTRA_THREADS.1 / guests.len() as u64).min(EXTRA_THREADS.0);
    let most: Vec<_> = needs.iter().map(|need| need + extra).collect();
    let threads = share_out(&kind, guests, |guest| guest.asked.threads.as_ref(), (&needs, Some(&most)))?;
    let spares: Vec<_> = (0..guests.len())
        .map(|at| {
            let extra = threads[at] - own_threads(queues[at]);
            if locks[at] { (extra.div_ceil(2), extra / 2) } else { (extra, 0) }
        })
        .collect();
    let kind = Kind {
        name: "descriptors",
        all: machine.descriptors.saturating_sub(OWN_DESCRIPTORS),
        source: format!(
            "{} that the process may have, without {OWN_DESCRIPTORS} of its own",
            machine.descriptors
        ),
        remedy: "--rlimit-nofile N as root, ulimit -n N, or LimitNOFILE=N in the unit; or smaller budgets",
    };
    let needs: Vec<_> =
        (0..guests.len()).map(|at| own_descriptors(queues[at], spares[at].0) + FILES).collect();
    let descriptors = share_out(&kind, guests, |guest| guest.asked.descriptors.as_ref(), (&needs, None))?;
    let kind = Kind {
        name: "bytes of memory",
        all: machine.memory / 4 * 3,
        source: format!("three quarters of {} (of the machine, or its control group)", machine.memory),
        remedy: "fewer queues or threads for each guest, or smaller budgets",
    };
    let serving = |at: usize| u64::from(queues[at]) + 1 + spares[at].0;
    let least_slots = |at: usize| SLOTS.0.max(spares[at].1 + 2);
    let window = |at: usize| mappings(file.shares[guests[at].share].args.dax.window()) * MAPPING;
    let own = |at: usize, slots| {
        MEMORY + window(at) + serving(at) * (BUFFERS + slots * SLOT) + spares[at].1 * (64 << 10)
    };
    let needs: Vec<_> = (0..guests.len()).map(|at| own(at, least_slots(at)) + TABLES).collect();
    let memory = share_out(&kind, guests, |guest| guest.asked.memory.as_ref(), (&needs, None))?;
    Ok((0..guests.len())
        .map(|at| {
            let slots =
                (memory[at] / 8 / (serving(at) * SLOT)).clamp(least_slots(at), SLOTS.1.max(least_slots(at)));
            // A large number of slots must not take what tables need.
            let slots = if own(at, slots) + TABLES > memory[at] { least_slots(at) } else { slots };
            let open = descriptors[at] - own_descriptors(queues[at], spares[at].0);
            Budget {
                queues: queues[at],
                files: files(open),
                spares: spares[at].0 as usize,
                waits: spares[at].1 as usize,
                slots: slots as usize,
                tables: memory[at] - own(at, slots),
            }
        })
        .collect())
}

fn own_threads(queues: u16) -> u64 {
    u64::from(queues) + 1 + THREADS
}

fn own_descriptors(queues: u16, spares: u64) -> u64 {
    DESCRIPTORS + DESCRIPTORS_OF_QUEUE * (u64::from(queues) + 1) + spares
}

/// Of so many descriptors, how many may stay open, so that there are some for moments: an eighth more, 8 at least and 64 at most.
fn files(open: u64) -> u64 {
    let moments = (open / 9).clamp(8, 64);
    open - moments
}

/// What each guest gets: `needs` is the least of each, `most` what one that says nothing gets at most.
fn share_out(
    kind: &Kind,
    guests: &[Guest],
    asked: impl Fn(&Guest) -> Option<&Spanned<u64>>,
    (needs, most): (&[u64], Option<&[u64]>),
) -> Checked<Vec<u64>> {
    let mut sum = 0u64;
    for (guest, &need) in guests.iter().zip(needs) {
        let wants = match asked(guest) {
            Some(wants) if *wants.get_ref() < need => {
                let what = format!(
                    "{} has {} {}, and needs {need}",
                    guest.name.get_ref(),
                    wants.get_ref(),
                    kind.name
                );
                return wrong(wants.span(), what, format!("at least {need}, or fewer queues"));
            }
            Some(wants) => *wants.get_ref(),
            None => need,
        };
        sum = sum.saturating_add(wants);
        if sum > kind.all {
            let span = asked(guest).map_or_else(|| guest.name.span(), Spanned::span);
            let total: u64 = guests
                .iter()
                .zip(needs)
                .map(|(guest, need)| asked(guest).map_or(*need, |wants| *wants.get_ref()))
                .fold(0, u64::saturating_add);
            let what = format!(
                "{} guests take {total} {} at least, and there are {}: {}",
                guests.len(),
                kind.name,
                kind.all,
                kind.source
            );
            return wrong(span, what, kind.remedy);
        }
    }
    let silent = guests.iter().filter(|guest| asked(guest).is_none()).count() as u64;
    let more = (kind.all - sum).checked_div(silent).unwrap_or(0);
    let parts = guests.iter().zip(needs).enumerate().map(|(at, (guest, need))| match asked(guest) {
        Some(wants) => *wants.get_ref(),
        None => (need + more).min(most.map_or(u64::MAX, |most| most[at])),
    });
    Ok(parts.collect())
}

#[cfg(test)]
mod tests {
    use super::super::file;
    use super::*;
    use std::path::Path;

    const GIB: u64 = 1 << 30;

    fn machine() -> Machine {
        Machine { descriptors: 20_000, threads: 32_768, memory: 16 * GIB }
    }

    fn text(share: &str, guests: &[&str]) -> String {
        let mut text = format!("[defaults]\nqueues = 1\n[shares.a]\nshared-dir = '/a'\n{share}\n");
        for (number, budget) in guests.iter().enumerate() {
            text += &format!("[guests.g{number:04}]\nsocket-path = '/s{number}'\nshare = 'a'\n{budget}\n");
        }
        text
    }

    fn of(text: &str, machine: Machine) -> Result<Vec<Budget>, String> {
        let file = file::parse(text).unwrap_or_else(|wrong| panic!("{}", wrong.tell(Path::new("f"), text)));
        divide(&file, machine).map_err(|wrong| wrong.tell(Path::new("f"), text).to_string())
    }

    #[test]
    fn what_nobody_asked_for_is_divided_evenly() {
        let two = of(&text("", &["", ""]), machine()).expect("budgets");
        assert_eq!(two[0], two[1]);
        assert!(
            two[0].files > 9000 && two[0].spares == 17 && two[0].waits == 0 && two[0].slots == 256,
            "{two:?}"
        );
        let bounds = two[0].bounds();
        assert!(bounds.nodes > Some(5_000_000) && bounds.handles > Some(50_000), "{bounds:?}");
        let asked = of(&text("", &["descriptors = 19000", ""]), machine()).expect("budgets");
        assert!(asked[0].files > 18_000 && asked[1].files < 1000, "{asked:?}");
    }

    #[test]
    fn with_shared_locks_half_of_the_threads_wait_for_them() {
        let one = of(&text("shared-locks = true", &["threads = 15"]), machine()).expect("budgets");
        assert_eq!((one[0].spares, one[0].waits), (5, 5));
        assert!(one[0].slots > one[0].waits, "who waits for locks does not keep a queue from others");
    }

    #[test]
    fn what_a_guest_may_map_counts() {
        let with = |share: &str| of(&text(share, &["memory = '70M'"]), machine());
        assert!(with("").is_ok() && with("dax-window = '2M'").is_ok());
        // 4096 ranges.
        let error = with("dax-window = '8G'").expect_err("too little");
        assert!(error.contains("bytes of memory, and needs"), "{error}");
    }

    #[test]
    fn a_thousand_guests_have_enough_each() {
        let guests = vec![""; 1000];
        let error = of(&text("", &guests), machine()).expect_err("too few descriptors");
        assert!(error.contains("19744") && error.contains("--rlimit-nofile"), "{error}");
        let all = of(&text("", &guests), Machine { descriptors: 131_072, ..machine() }).expect("budgets");
        assert!(all.iter().all(|one| one.files >= 32 && one.spares >= 1 && one.bounds().nodes > Some(5000)));
    }

    #[test]
    fn what_cannot_be_had_is_told_with_its_line() {
        for (guests, line, words) in [
            (&["descriptors = 30"][..], "f:9:15:", "needs"),
            (&["descriptors = 15000", "descriptors = 15000"], "f:13:15:", "30000 descriptors"),
            (&["memory = '1M'"], "f:9:10:", "needs"),
            (&["memory = '10G'", "memory = '10G'"], "f:13:10:", "bytes of memory"),
            (&["threads = 5"], "f:9:11:", "needs 6"),
            (&["threads = 30000"], "f:9:11:", "threads-max"),
        ] {
            let error = of(&text("", guests), machine()).expect_err("an error");
            assert!(error.starts_with(line) && error.contains(words) && error.contains("try:"), "{error}");
        }
    }

    #[test]
    fn parts_come_to_no_more_than_there_is() {
        for open in [40, 48, 100, 1000, 100_000] {
            let files = files(open);
            // As `fds.rs` has it.
            assert!(files >= 32 && files + (files / 8).clamp(8, 64) <= open, "{open} {files}");
        }
    }
}
