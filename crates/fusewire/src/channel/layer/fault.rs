//! Things that go wrong, on purpose.

use super::Layer;
use crate::{
    proto::{
        message::Message,
        negotiate::Agreed,
        operations::{Answer, Operation},
    },
    session::{Answered, Slot},
    types::*,
};
use fusewire_abi::{Opcode, WriteIn, WriteOut};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use zerocopy::{FromBytes, IntoBytes};

/// What befalls a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Refuse(Errno),
    Fail(Errno),
    Lose,
    Delay(Duration),
}

/// To which of the requests it applies to a rule's effect comes.
#[derive(Clone, Copy, Debug)]
enum Chance {
    /// Each n-th.
    Every(u64),
    /// Each with this probability, in units of 2^-64.
    Odds(u64),
}

/// One kind of fault and when it comes. Without further words: always, to all operations.
#[derive(Clone, Debug)]
pub struct Rule {
    effect: Effect,
    opcodes: Vec<Opcode>,
    chance: Chance,
    at_most: u64,
}

impl Rule {
    fn new(effect: Effect) -> Self {
        Self { effect, opcodes: Vec::new(), chance: Chance::Every(1), at_most: u64::MAX }
    }

    /// The operation does not reach the filesystem and is answered with this error. Where there is no answer (FORGET,
    /// INTERRUPT) it merely gets lost.
    pub fn refuse(errno: Errno) -> Self {
        Self::new(Effect::Refuse(errno))
    }

    /// The filesystem carries the operation out, and then it is answered with this error all the same, as if the answer
    /// had got lost. The filesystem is left with lookup counts and handles that the kernel knows nothing of.
    pub fn fail(errno: Errno) -> Self {
        Self::new(Effect::Fail(errno))
    }

    /// The operation does not reach the filesystem and is answered as if it had succeeded. Only for operations whose
    /// answer says no more than that (FSYNC, UNLINK, SETXATTR ...), and for WRITE, which is said to have written
    /// everything; others are left alone.
    pub fn lose() -> Self {
        Self::new(Effect::Lose)
    }

    /// The answer is held back for so long.
    pub fn delay(time: Duration) -> Self {
        Self::new(Effect::Delay(time))
    }

    /// Only to these operations.
    pub fn on(mut self, opcodes: impl IntoIterator<Item = Opcode>) -> Self {
        self.opcodes.extend(opcodes);
        self
    }

    /// Only to every `n`-th of them, beginning with the `n`-th itself; 0 is taken for 1.
    pub fn every(mut self, n: u64) -> Self {
        self.chance = Chance::Every(n.max(1));
        self
    }

    /// Only with this probability, 0 to 1.
    pub fn probability(mut self, probability: f64) -> Self {
        // A float that is out of range is brought into it by the cast.
        self.chance = Chance::Odds((probability * 2f64.powi(64)) as u64);
        self
    }

    /// Only `n` times in all.
    pub fn at_most(mut self, n: u64) -> Self {
        self.at_most = n;
        self
    }

    fn applies_to(&self, opcode: Opcode, row: &Operation) -> bool {
        let possible = match self.effect {
            Effect::Refuse(_) => true,
            Effect::Fail(_) | Effect::Delay(_) => row.is_answered(),
            Effect::Lose => row.answer == Answer::Empty || opcode == Opcode::Write,
        };
        possible && (self.opcodes.is_empty() || self.opcodes.contains(&opcode))
    }
}

/// Lets operations fail, get lost or take long, by rules. The first rule that strikes a request decides.
///
/// With the same seed and the same requests in the same order the same requests are struck.
#[derive(Clone, Debug)]
pub struct Fault {
    rules: Arc<Rules>,
}

#[derive(Debug)]
struct Rules {
    seed: u64,
    armed: Vec<Armed>,
}

#[derive(Debug)]
struct Armed {
    rule: Rule,
    seen: AtomicU64,
    struck: AtomicU64,
}

impl Fault {
    /// Faults by these rules.
    pub fn new(seed: u64, rules: impl IntoIterator<Item = Rule>) -> Self {
        let arm = |rule| Armed { rule, seen: AtomicU64::new(0), struck: AtomicU64::new(0) };
        Self { rules: Arc::new(Rules { seed, armed: rules.into_iter().map(arm).collect() }) }
    }

    /// How many requests were struck so far, by each rule.
    pub fn strikes(&self) -> Vec<u64> {
        self.rules.armed.iter().map(|armed| armed.struck.load(Ordering::Relaxed)).collect()
    }
}

impl Rules {
    fn strike(&self, opcode: u32) -> Option<Effect> {
        let row = Operation::of(opcode)?;
        let hit = |(index, armed): (usize, &Armed)| {
            (armed.rule.applies_to(row.opcode, row) && armed.strikes(self.seed.wrapping_add(index as u64)))
                .then_some(armed.rule.effect)
        };
        self.armed.iter().enumerate().find_map(hit)
    }
}

impl Armed {
    fn strikes(&self, seed: u64) -> bool {
        let nth = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let struck = match self.rule.chance {
            Chance::Every(n) => nth.is_multiple_of(n),
            Chance::Odds(odds) => odds == u64::MAX || mix(mix(seed).wrapping_add(nth)) < odds,
        };
        let limit = |n| (n < self.rule.at_most).then_some(n + 1);
        struck && self.struck.fetch_update(Ordering::Relaxed, Ordering::Relaxed, limit).is_ok()
    }
}

/// Scatters numbers (the finalizer of SplitMix64): the n-th number of a sequence without the n-1 before it, so that
/// threads need not share a generator.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl Layer for Fault {
    type Slot<S: Slot> = FaultSlot<S>;

    fn wrap<S: Slot>(&self, inner: S) -> FaultSlot<S> {
        FaultSlot { inner, rules: self.rules.clone(), effect: None, answered: true, written: None }
    }
}

/// A slot under [`Fault`].
#[derive(Debug)]
pub struct FaultSlot<S> {
    inner: S,
    rules: Arc<Rules>,
    /// What befalls the request in work.
    effect: Option<Effect>,
    /// An answer is due to it.
    answered: bool,
    /// How much it writes.
    written: Option<u32>,
}

/// Not an opcode: decoding refuses it before the filesystem is asked.
const NO_OPCODE: u32 = 0;

impl<S: Slot> Slot for FaultSlot<S> {
    fn agreed(&self) -> Agreed {
        self.inner.agreed()
    }

    async fn next(&mut self) -> Option<(Message<'_>, &mut [u8])> {
        let (mut message, area) = self.inner.next().await?;
        let opcode = message.header.opcode;
        self.effect = self.rules.strike(opcode);
        self.answered = Operation::of(opcode).is_none_or(Operation::is_answered);
        self.written = None;
        match self.effect {
            Some(Effect::Lose) if opcode == Opcode::Write as u32 => {
                // A malformed one goes its way, and is refused.
                match WriteIn::read_from_bytes(message.args) {
                    Ok(args) => {
                        self.written = Some(args.size);
                        message.header.opcode = NO_OPCODE;
                    }
                    Err(_) => self.effect = None,
                }
            }
            Some(Effect::Refuse(_) | Effect::Lose) => message.header.opcode = NO_OPCODE,
            Some(Effect::Fail(_) | Effect::Delay(_)) | None => {}
        }
        Some((message, area))
    }

    fn area(&mut self) -> &mut [u8] {
        self.inner.area()
    }

    async fn finish(&mut self, unique: u64, answer: Answered) {
        let answer = match self.effect {
            None => answer,
            Some(Effect::Refuse(errno)) => self.answered.then_some(Err(errno)).into(),
            Some(Effect::Fail(errno)) => answer.get().map(|_| Err(errno)).into(),
            Some(Effect::Lose) => self.pretend().into(),
            Some(Effect::Delay(time)) => {
                blocking::unblock(move || std::thread::sleep(time)).await;
                answer
            }
        };
        self.inner.finish(unique, answer).await;
    }
}

impl<S: Slot> FaultSlot<S> {
    /// The answer to what was not done.
    fn pretend(&mut self) -> Result<usize> {
        let Some(size) = self.written else { return Ok(0) };
        let out = WriteOut { size, padding: 0 };
        let room = self.inner.area().get_mut(..size_of_val(&out)).ok_or(Errno::IO)?;
        room.copy_from_slice(out.as_bytes());
        Ok(size_of_val(&out))
    }
}
