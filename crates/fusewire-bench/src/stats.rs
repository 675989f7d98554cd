//! Medians, spreads and ratios of few, noisy samples.

use serde::Serialize;
use statrs::stats_tests::Alternative;
use statrs::stats_tests::mannwhitneyu::{MannWhitneyUMethod, mannwhitneyu};

/// Five numbers that describe a set of samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many samples there were.
    pub count: usize,
    /// Smallest sample.
    pub min: f64,
    /// First quartile.
    pub q1: f64,
    /// Median.
    pub median: f64,
    /// Third quartile.
    pub q3: f64,
    /// Largest sample.
    pub max: f64,
    /// Samples that lie so far out (modified Z score over 3.5) that something else happened during them.
    pub outliers: usize,
}

/// Summary of the samples, `None` if there are none. Samples that are not finite do not count.
pub fn summary(samples: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut sorted: Vec<f64> = samples.into_iter().filter(|sample| sample.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (&min, &max) = (sorted.first()?, sorted.last()?);
    let median = quantile(&sorted, 0.5);
    Some(Summary {
        count: sorted.len(),
        min,
        q1: quantile(&sorted, 0.25),
        median,
        q3: quantile(&sorted, 0.75),
        max,
        outliers: outliers(&sorted, median),
    })
}

/// How likely turns as far apart as these are if both sides are alike: the one-sided p-value of the Mann-Whitney U test
/// that `subject` is larger. 1 if a side has no samples.
pub fn chance_of_larger(subject: &[f64], baseline: &[f64]) -> f64 {
    // The normal approximation: of ten samples it makes 0.006 out of 0.004, and it knows ties.
    let method = MannWhitneyUMethod::AsymptoticInclContinuityCorrection;
    match mannwhitneyu(subject, baseline, method, Alternative::Greater) {
        // If all samples are equal, there is no number.
        Ok((_, p)) if !p.is_nan() => p,
        _ => 1.0,
    }
}

/// Geometric mean, `None` if there are no values or one is not positive.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u32);
    for value in values {
        if value <= 0.0 || !value.is_finite() {
            return None;
        }
        sum += value.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// Linear interpolation between the two samples beside the wanted rank.
fn quantile(sorted: &[f64], wanted: f64) -> f64 {
    let rank = wanted * (sorted.len() - 1) as f64;
    let (low, high) = (rank.floor() as usize, rank.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (rank - low as f64)
}

fn outliers(sorted: &[f64], median: f64) -> usize {
    let mut deviations: Vec<f64> = sorted.iter().map(|sample| (sample - median).abs()).collect();
    deviations.sort_by(f64::total_cmp);
    let mad = quantile(&deviations, 0.5);
    if mad == 0.0 {
        return 0;
    }
    deviations.iter().filter(|deviation| 0.6745 * **deviation / mad > 3.5).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_interpolates_quartiles() {
        let s = summary([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((s.count, s.min, s.q1, s.median, s.q3, s.max), (4, 1.0, 1.75, 2.5, 3.25, 4.0));
    }

    #[test]
    fn nothing_and_not_a_number_have_no_summary() {
        assert!(summary([]).is_none());
        assert!(summary([f64::NAN]).is_none());
    }

    #[test]
    fn outlier_is_counted() {
        assert_eq!(summary([1.0, 1.1, 0.9, 1.0, 1.05, 9.0]).unwrap().outliers, 1);
        assert_eq!(summary([1.0, 1.1, 0.9, 1.0, 1.05, 1.2]).unwrap().outliers, 0);
    }

    #[test]
    fn chance_is_small_only_if_samples_are_apart() {
        let low = [1.0, 1.1, 1.2, 1.3, 1.4];
        let high = [2.0, 2.1, 2.2, 2.3, 2.4];
        // One of 252 ways to put ten samples in order, and one of 70 to put eight.
        assert!((0.004..0.007).contains(&chance_of_larger(&high, &low)));
        assert!((0.01..0.02).contains(&chance_of_larger(&high[1..], &low[1..])));
        assert!(chance_of_larger(&low, &high) > 0.99);
        assert!(chance_of_larger(&[1.05, 1.15, 1.25], &low) > 0.3);
        assert_eq!(chance_of_larger(&[1.0; 5], &[1.0; 5]), 1.0);
        assert_eq!(chance_of_larger(&[], &low), 1.0);
        let many = |from: f64| (0..30).map(|n| from + f64::from(n)).collect::<Vec<_>>();
        assert!(chance_of_larger(&many(20.0), &many(0.0)) < 1e-6);
        // One turn in which something else happened changes nothing.
        assert!(chance_of_larger(&[9.0, 1.15, 1.25, 1.12, 1.22], &low) > 0.2);
    }

    #[test]
    fn geometric_mean_of_inverse_ratios_is_one() {
        assert!((geometric_mean([0.5, 2.0]).unwrap() - 1.0).abs() < 1e-12);
        assert!(geometric_mean([0.5, 0.0]).is_none());
    }
}
