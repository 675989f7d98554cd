//! Latencies, counted in buckets.

/// Number of buckets; as in `top.bpf.c`.
pub const BUCKETS: usize = 128;

/// Where a bucket begins, in nanoseconds. Four of them double the time: from 256 ns to 18 minutes.
pub fn begin_of(bucket: usize) -> u64 {
    let (octave, quarter) = (bucket / 4, bucket as u64 % 4);
    (4 + quarter) << (octave + 6)
}

/// How many requests took how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell into each bucket.
    pub buckets: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS] }
    }
}

impl Histogram {
    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The time below which this share (0 to 1) of the requests was answered, in nanoseconds: by linear interpolation within
    /// a bucket, which is at most a quarter long of what it holds. `None` if there were no requests.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = (share.clamp(0.0, 1.0) * count as f64).max(1.0);
        let mut before = 0.0;
        for (bucket, here) in self.buckets.iter().enumerate().filter(|(_, here)| **here > 0) {
            let here = *here as f64;
            if before + here >= wanted {
                let (begin, end) = (begin_of(bucket) as f64, begin_of(bucket + 1) as f64);
                return Some((begin + (end - begin) * (wanted - before) / here) as u64);
            }
            before += here;
        }
        None
    }

    /// What was counted here and not in `earlier`, which this one continues.
    pub fn since(&self, earlier: &Self) -> Self {
        Self { buckets: std::array::from_fn(|i| self.buckets[i].saturating_sub(earlier.buckets[i])) }
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(here, there)| *here += there);
    }

    /// Adds numbers as the kernel has them.
    pub(super) fn add_raw(&mut self, raw: &[u64]) {
        self.buckets.iter_mut().zip(raw).for_each(|(here, there)| *here += there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other() {
        assert_eq!([0, 1, 3, 4, 5].map(begin_of), [256, 320, 448, 512, 640]);
        assert!((0..BUCKETS).all(|bucket| begin_of(bucket) < begin_of(bucket + 1)));
    }

    #[test]
    fn quantiles_lie_in_their_buckets() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        histogram.buckets[8] = 90;
        histogram.buckets[40] = 10;
        let median = histogram.quantile(0.5).unwrap();
        assert!((begin_of(8)..=begin_of(9)).contains(&median), "{median}");
        let slow = histogram.quantile(0.99).unwrap();
        assert!((begin_of(40)..=begin_of(41)).contains(&slow), "{slow}");
        assert!(histogram.quantile(1.0).unwrap() >= slow);
    }

    #[test]
    fn what_happened_since() {
        let mut earlier = Histogram::default();
        earlier.buckets[3] = 2;
        let mut now = earlier.clone();
        now.buckets[3] += 5;
        assert_eq!(now.since(&earlier).count(), 5);
    }
}
