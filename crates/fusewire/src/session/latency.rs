//! How long requests took: counts by classes of time, four to each doubling, so that what is read from them is right within a
//! quarter.

use std::time::Duration;

/// The first class ends a quarter above this power of two of nanoseconds: 320 ns.
const FIRST: u32 = 8;
/// Classes of one doubling, as a power of two.
const SUB: u32 = 2;
/// The last doubling begins at this power of two of nanoseconds: 17 s. What took longer is in the last class.
const LAST: u32 = 34;
/// Number of classes.
pub(crate) const BUCKETS: usize = ((LAST - FIRST + 1) << SUB) as usize;

/// The class of a time.
pub(crate) fn bucket(ns: u64) -> usize {
    let ns = ns.max(1 << FIRST);
    let exponent = ns.ilog2();
    let sub = (ns >> (exponent - SUB)) as usize & ((1 << SUB) - 1);
    ((((exponent - FIRST) << SUB) as usize) | sub).min(BUCKETS - 1)
}

/// How long the requests of one operation took, from when they reached a slot until their answer was made. The kernel's
/// queue and its waking of threads and clients are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latency {
    sum_ns: u64,
    max_ns: u64,
    buckets: Vec<u64>,
}

impl Latency {
    /// Of no request yet.
    pub(crate) fn none() -> Self {
        Self { sum_ns: 0, max_ns: 0, buckets: vec![0; BUCKETS] }
    }

    pub(crate) fn add(&mut self, (sum_ns, max_ns, buckets): (u64, u64, [u64; BUCKETS])) {
        self.sum_ns += sum_ns;
        self.max_ns = self.max_ns.max(max_ns);
        self.buckets.iter_mut().zip(buckets).for_each(|(sum, one)| *sum += one);
    }

    /// How many requests were timed.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Of all of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns)
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The time that this share of the requests did not exceed, right within a quarter: 0.5 is the median. Zero without requests.
    pub fn quantile(&self, share: f64) -> Duration {
        let wanted = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        found.map_or(Duration::ZERO, |index| Self::bound(index).min(self.max()))
    }

    /// The classes that have requests in them: their upper bounds and numbers.
    pub fn classes(&self) -> impl Iterator<Item = (Duration, u64)> {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(index, count)| (Self::bound(index), *count))
    }

    /// The end of a class; times in it are shorter. The last one has none and is given that of the doubling.
    fn bound(index: usize) -> Duration {
        let (doubling, sub) = (index as u32 >> SUB, index as u64 & ((1 << SUB) - 1));
        Duration::from_nanos(((1 << SUB) + sub + 1) << (FIRST + doubling - SUB))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_below_the_end_of_its_class_and_not_below_the_one_before() {
        let mut last = 0;
        for exponent in 0..36 {
            for part in 0..64 {
                let ns: u64 = (1 << exponent) + ((part << exponent) >> 6);
                let index = bucket(ns);
                assert!(index >= last, "{ns}");
                last = index;
                let end = Latency::bound(index).as_nanos() as u64;
                assert!(ns < end || index == BUCKETS - 1, "{ns} is not below {end}");
                if index > 0 && index < BUCKETS - 1 {
                    let begin = Latency::bound(index - 1).as_nanos() as u64;
                    assert!(ns >= begin && end <= begin + begin / 4 + 1, "{begin} {ns} {end}");
                }
            }
        }
        assert_eq!((bucket(0), bucket(319), bucket(320)), (0, 0, 1));
        assert_eq!((bucket(u64::MAX), last), (BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_right_within_a_quarter() {
        let mut latency = Latency::none();
        assert_eq!((latency.quantile(0.5), latency.count()), (Duration::ZERO, 0));
        let mut buckets = [0; BUCKETS];
        (1..=1000u64).for_each(|micros| buckets[bucket(micros * 1000)] += 1);
        latency.add((500_500_000, 1_000_000, buckets));
        for (share, micros) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let told = latency.quantile(share).as_secs_f64() * 1e6;
            assert!((micros..=micros * 1.25).contains(&told), "{share}: {told}");
        }
        assert_eq!((latency.count(), latency.max()), (1000, Duration::from_millis(1)));
        assert_eq!(latency.classes().map(|(_, count)| count).sum::<u64>(), 1000);
    }
}
