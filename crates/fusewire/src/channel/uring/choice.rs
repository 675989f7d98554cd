//! Who is put to work in a group of queues some of whose threads are stuck, or which is to be helped.

use crate::limits;

/// What a thread of the group is found doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hand {
    /// It serves, or waits for a request.
    TakesPart,
    /// It is stuck in a handler.
    Stuck,
    /// Its entries rest.
    Rests,
    /// It has ended: its entries were refused, or it has panicked.
    Gone,
}

/// Who is put to work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// Those who are called: which of the hands.
    pub call: Vec<usize>,
    /// How many threads are made.
    pub hire: usize,
}

/// How many more have to take part: as many as are stuck, once all who take part are.
pub(super) fn wanted(hands: &[Hand]) -> usize {
    match hands.contains(&Hand::TakesPart) {
        true => 0,
        false => hands.iter().filter(|&&hand| hand == Hand::Stuck).count(),
    }
}

/// Who is to take part if so many more are `wanted`: those who rest first. `elsewhere`: how many threads there are in other groups
/// that stand in.
pub(super) fn choose(hands: &[Hand], wanted: usize, elsewhere: usize) -> Choice {
    let resting = hands.iter().enumerate().filter(|&(_, &hand)| hand == Hand::Rests).map(|(at, _)| at);
    let call: Vec<usize> = resting.take(wanted).collect();
    let there = hands.iter().filter(|&&hand| hand != Hand::Gone).count();
    let most = limits::SPARE_READERS.saturating_sub(elsewhere).max(limits::SPARE_READERS_OWN);
    Choice { hire: (wanted - call.len()).min(most.saturating_sub(there)), call }
}

/// Which of a group's queues a further thread serves: those that a request can come on, of CPUs that are `online`, or all if
/// none is known to be.
pub(super) fn reachable(group: &[u16], online: &[usize]) -> Vec<usize> {
    let is_online = |&at: &usize| online.contains(&usize::from(group[at]));
    let some: Vec<usize> = (0..group.len()).filter(is_online).collect();
    if some.is_empty() { (0..group.len()).collect() } else { some }
}

/// The CPUs in a list as the kernel writes it, such as `0-3,8`.
pub(super) fn parse_cpus(list: &str) -> Vec<usize> {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::{Hand::*, *};

    fn choice(hands: &[Hand]) -> Choice {
        choose(hands, wanted(hands), 0)
    }

    #[test]
    fn nobody_stands_in_while_somebody_takes_part() {
        for hands in [&[TakesPart][..], &[Stuck, TakesPart], &[Stuck, Stuck, Rests, TakesPart, Gone]] {
            assert_eq!(choice(hands), Choice::default(), "{hands:?}");
        }
    }

    #[test]
    fn as_many_stand_in_as_are_stuck() {
        assert_eq!(choice(&[Stuck]), Choice { call: vec![], hire: 1 });
        assert_eq!(choice(&[Stuck, Stuck, Stuck]), Choice { call: vec![], hire: 3 });
    }

    #[test]
    fn those_who_rest_are_called_before_anybody_is_hired() {
        assert_eq!(choice(&[Stuck, Rests, Rests]), Choice { call: vec![1], hire: 0 });
        assert_eq!(choice(&[Stuck, Rests, Stuck, Stuck]), Choice { call: vec![1], hire: 2 });
    }

    #[test]
    fn who_has_ended_does_not_take_part_and_leaves_room() {
        assert_eq!(choice(&[Stuck, Gone]), Choice { call: vec![], hire: 1 });
        assert_eq!(choice(&[Stuck, Gone, Rests]), Choice { call: vec![2], hire: 0 });
        let mut hands = vec![Gone; 2 * limits::SPARE_READERS];
        hands.push(Stuck);
        assert_eq!(choice(&hands).hire, 1);
        // Nobody is stuck where all have ended.
        assert_eq!(choice(&[Gone]), Choice::default());
    }

    #[test]
    fn there_are_only_so_many_but_some_for_each_group() {
        let hands = [Stuck; limits::SPARE_READERS - 1];
        assert_eq!(choice(&hands).hire, 1);
        assert_eq!(choice(&[Stuck; limits::SPARE_READERS]).hire, 0);
        assert_eq!(choose(&[Stuck], 1, 10 * limits::SPARE_READERS).hire, 1);
        assert_eq!(choose(&[Stuck; limits::SPARE_READERS_OWN], 4, 10 * limits::SPARE_READERS).hire, 0);
    }

    #[test]
    fn a_further_thread_serves_queues_that_requests_can_come_on() {
        let group: Vec<u16> = (0..64).filter(|cpu| cpu % 2 == 1).collect();
        assert_eq!(reachable(&group, &[0, 1]), [0]);
        assert_eq!(reachable(&group, &[0, 1, 5]), [0, 2]);
        assert_eq!(reachable(&[0, 1], &[]), [0, 1]);
        assert_eq!(parse_cpus("0-1,5\n"), [0, 1, 5]);
        assert_eq!(parse_cpus("\n"), [0; 0]);
    }
}
