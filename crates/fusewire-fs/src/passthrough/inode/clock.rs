//! Which nodes have a descriptor, and which of them is to give it up next.

use fusewire::NodeId;
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

/// The nodes with a descriptor on a dial, over which a hand goes round.
///
/// Each knows its place on the dial, so that one that is forgotten leaves at once. Its lock is taken while a node's shard
/// is locked, never the other way round.
#[derive(Debug, Default)]
pub struct Clock {
    dial: Mutex<Dial>,
    len: AtomicUsize,
}

#[derive(Debug, Default)]
struct Dial {
    places: Vec<Option<NodeId>>,
    vacant: Vec<u32>,
    hand: usize,
}

impl Clock {
    fn dial(&self) -> MutexGuard<'_, Dial> {
        self.dial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many nodes have a descriptor.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// A node has got a descriptor. Answers its place.
    pub fn insert(&self, node: NodeId) -> u32 {
        self.len.fetch_add(1, Ordering::Relaxed);
        let dial = &mut *self.dial();
        if let Some(place) = dial.vacant.pop() {
            dial.places[place as usize] = Some(node);
            return place;
        }
        dial.places.push(Some(node));
        (dial.places.len() - 1) as u32
    }

    /// The node at that place has none any more.
    pub fn remove(&self, place: u32) {
        self.len.fetch_sub(1, Ordering::Relaxed);
        let dial = &mut *self.dial();
        dial.places[place as usize] = None;
        dial.vacant.push(place);
    }

    /// Move the hand to the next node. `None`: there are none.
    pub fn advance(&self) -> Option<(u32, NodeId)> {
        let dial = &mut *self.dial();
        for _ in 0..dial.places.len() {
            dial.hand = (dial.hand + 1) % dial.places.len();
            if let Some(node) = dial.places[dial.hand] {
                return Some((dial.hand as u32, node));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hand_meets_those_that_are_there_in_turn() {
        let clock = Clock::default();
        let [a, b, c, d] = [2, 3, 4, 5].map(NodeId::new);
        assert_eq!(clock.advance(), None);
        let places = [a, b, c].map(|node| clock.insert(node));
        clock.remove(places[1]);
        let round = |clock: &Clock| (0..clock.len()).map(|_| clock.advance().unwrap()).collect::<Vec<_>>();
        let mut met = round(&clock);
        met.sort_unstable();
        assert_eq!(met, [(places[0], a), (places[2], c)]);
        assert_eq!(clock.insert(d), places[1], "a place is used again");
        let mut met = round(&clock);
        met.sort_unstable();
        assert_eq!(met, [(places[0], a), (places[1], d), (places[2], c)]);
        places.into_iter().for_each(|place| clock.remove(place));
        assert_eq!((clock.len(), clock.advance()), (0, None));
    }

    #[test]
    fn nodes_that_come_and_go_leave_nothing_behind() {
        let clock = Clock::default();
        for round in 0..1000 {
            let place = clock.insert(NodeId::new(round + 2));
            clock.remove(place);
        }
        assert_eq!(clock.dial().places.len(), 1);
    }
}
