//! By which way requests would come: the ring, or `/dev/fuse`.

use fusewire::channel::uring::{Reason, RingSize};
use fusewire::server::{Options, try_ring};
use fusewire_abi::InitFlags;
use serde::Serialize;

use super::offer::Offer;
use super::report::{Check, Evidence};

/// Bytes of an entry beside its data.
const HEADER: u64 = 4096;

/// What `fusewire mount` would do without `--channel`.
#[derive(Clone, Debug, Serialize)]
pub struct Choice {
    /// The word for `--channel` that `auto` comes to.
    pub auto: &'static str,
    /// Why.
    pub why: String,
    /// The ring, if there can be one.
    pub ring: Option<Ring>,
}

/// How large the ring would be.
#[derive(Clone, Debug, Serialize)]
pub struct Ring {
    /// One for each CPU there may ever be.
    pub queues: usize,
    /// Threads that serve them.
    pub threads: usize,
    /// Longest data of one request, bytes.
    pub payload: usize,
    /// How many requests of that length leave memory that is kept.
    pub entries: usize,
    /// What that is together, bytes.
    pub memory: u64,
}

impl From<RingSize> for Ring {
    fn from(size: RingSize) -> Self {
        let RingSize { queues, threads, payload, entries } = size;
        Self { queues, threads, payload, entries, memory: entries as u64 * (payload as u64 + HEADER) }
    }
}

/// Sets up what a mount would, and takes it away again.
pub fn probe(offer: Option<&Offer>) -> (Choice, Check) {
    judge(try_ring(&Options::default()), offer)
}

fn judge(tried: Result<RingSize, Reason>, offer: Option<&Offer>) -> (Choice, Check) {
    let is_declined = offer.is_some_and(|offer| !offer.has(InitFlags::OVER_IO_URING));
    let tried = tried.and_then(|size| if is_declined { Err(Reason::NotAgreed) } else { Ok(size) });
    let (key, title) = ("ring", "requests over io_uring, a ring for each CPU (--channel uring)");
    match tried {
        Ok(size) => {
            let ring = Ring::from(size);
            let check = Check::yes(key, title, Evidence::Tried).because(describe(&ring));
            let why = "the kernel offers it, and it can be set up".into();
            (Choice { auto: "uring", why, ring: Some(ring) }, check)
        }
        Err(reason) => {
            let evidence = match reason {
                Reason::SetUp(_) | Reason::NotAgreed => Evidence::Tried,
                _ => Evidence::Read,
            };
            let mut check = Check::no(key, title, evidence, reason.to_string());
            check.remedy = Some(reason.remedy()).filter(|remedy| !remedy.is_empty());
            let why = format!("there is no ring: {reason}");
            (Choice { auto: "dev-fuse", why, ring: None }, check)
        }
    }
}

fn describe(ring: &Ring) -> String {
    format!(
        "queues: {}, one for each CPU there may ever be; threads: {}; requests of up to {} KiB; {} of them \
         leave memory that is kept if it was ever used, {} MiB in all (--memory)",
        ring.queues,
        ring.threads,
        ring.payload >> 10,
        ring.entries,
        ring.memory.div_ceil(1 << 20)
    )
}

impl Choice {
    /// The same in a line.
    pub fn text(&self) -> String {
        let way = if self.ring.is_some() { "io_uring" } else { "/dev/fuse" };
        format!("A mount gets its requests over {way} (--channel auto): {}", self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    const SIZE: RingSize = RingSize { queues: 64, threads: 2, payload: 1 << 20, entries: 128 };

    fn offer(flags: InitFlags) -> Offer {
        Offer { major: 7, minor: 45, flags: flags.bits(), max_readahead: 0, backing: None }
    }

    #[test]
    fn a_ring_that_can_be_had_is_taken() {
        for offer in [None, Some(offer(InitFlags::OVER_IO_URING))] {
            let (choice, check) = judge(Ok(SIZE), offer.as_ref());
            assert_eq!((choice.auto, check.verdict), ("uring", Verdict::Yes));
            assert!(choice.text().contains("over io_uring"));
            assert_eq!(choice.ring.map(|ring| ring.memory), Some(128 * ((1 << 20) + 4096)));
            assert!(
                check.detail.contains("queues: 64") && check.detail.contains("129 MiB"),
                "{}",
                check.detail
            );
        }
    }

    #[test]
    fn a_switch_that_is_off_comes_with_the_word_that_turns_it_on() {
        let (choice, check) = judge(Err(Reason::Off), Some(&offer(InitFlags::empty())));
        assert_eq!((choice.auto, check.verdict), ("dev-fuse", Verdict::No));
        assert!(
            choice.text().contains("/dev/fuse") && choice.why.contains("switched off"),
            "{}",
            choice.text()
        );
        let remedy = check.remedy.expect("remedy");
        assert!(remedy.contains("echo Y > /sys/") && remedy.contains("fuse.enable_uring=1"), "{remedy}");
    }

    #[test]
    fn what_the_kernel_does_not_offer_is_not_taken() {
        let (choice, check) = judge(Ok(SIZE), Some(&offer(InitFlags::empty())));
        assert_eq!((choice.auto, check.verdict), ("dev-fuse", Verdict::No));
        assert_eq!(check.evidence, Evidence::Tried);
    }
}
