//! The statistics of a trial report: what a group of numbers looks like, whether paired changes lean to one side, and a
//! straight line with its uncertainty. Plain numbers in, plain numbers out; knows no subject and no study.
//!
//! The formulas are held to published and to independent values in `tests/golden/statistics.csv`.

use serde::Serialize;

/// A group of numbers. Of none there is only the count.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    pub n: usize,
    pub mean: Option<f64>,
    /// Of the sample (divided by n - 1); `None` below two values.
    pub standard_deviation: Option<f64>,
    pub min: Option<f64>,
    /// Quartiles and median by linear interpolation between order statistics at 1 + (n - 1) p: type 7 of Hyndman RJ, Fan Y,
    /// Am Stat 1996;50:361-365, which R and NumPy take where nothing else is asked.
    pub first_quartile: Option<f64>,
    pub median: Option<f64>,
    pub third_quartile: Option<f64>,
    pub max: Option<f64>,
}

/// The order of the values does not matter, not even to the last bit.
///
/// # Panics
/// When a value is not finite.
pub fn summary(values: &[f64]) -> Summary {
    let sorted = sorted(values);
    let n = sorted.len();
    let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return Summary::default() };
    let mean = sorted.iter().sum::<f64>() / n as f64;
    let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
    Summary {
        n,
        mean: Some(mean),
        standard_deviation: (1 < n).then(|| (squares / (n - 1) as f64).sqrt()),
        min: Some(*min),
        first_quartile: Some(quantile(&sorted, 0.25)),
        median: Some(quantile(&sorted, 0.5)),
        third_quartile: Some(quantile(&sorted, 0.75)),
        max: Some(*max),
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    assert!(values.iter().all(|value| value.is_finite()), "only finite numbers are summed up: a missing value is left out before");
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() - 1) as f64 * share;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

/// Wilcoxon's signed-rank test of paired differences against a median of 0 (Wilcoxon F, Biometrics Bulletin 1945;1:80-83).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SignedRank {
    /// Sum of the ranks of the positive differences (V in R, T+ in textbooks).
    pub statistic: f64,
    pub p_two_sided: f64,
    /// Differences that were ranked.
    pub n_used: usize,
    /// Differences of exactly 0, left out before ranking, as Wilcoxon did.
    pub zeros_dropped: usize,
    pub method: SignedRankMethod,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignedRankMethod {
    /// Every assignment of signs to the ranks counted; equal differences share their mean rank, and the count is over
    /// those ranks.
    Exact,
    /// Normal approximation with corrections for continuity (0.5) and for ties.
    NormalApproximation,
}

impl SignedRankMethod {
    /// For a report.
    pub const fn words(self) -> &'static str {
        match self {
            SignedRankMethod::Exact => "exact, over the ranks as they are where differences tie",
            SignedRankMethod::NormalApproximation => "normal approximation, corrected for continuity and ties",
        }
    }
}

/// Up to this many differences p is exact: the count takes n^3 steps, and at 200 the approximation is good to four decimals.
pub const EXACT_UP_TO: usize = 200;

/// Differences that agree to this part of themselves tie: 0.3 - 0.1 is 0.2 on paper.
const TIES_WITHIN: f64 = 1e-10;

/// Tests whether paired differences lean to one side; `None` where none differs from 0.
///
/// # Panics
/// When a difference is not finite.
pub fn wilcoxon_signed_rank(differences: &[f64]) -> Option<SignedRank> {
    assert!(differences.iter().all(|value| value.is_finite()), "only finite differences are tested: a missing value is left out before");
    let mut used: Vec<f64> = differences.iter().copied().filter(|difference| *difference != 0.0).collect();
    if used.is_empty() {
        return None;
    }
    used.sort_by(|a, b| a.abs().total_cmp(&b.abs()).then(a.total_cmp(b)));
    let ties = ties(&used);
    // Mean ranks are halves at most, so twice a rank is a whole number.
    let twice_ranks: Vec<usize> = ties.iter().flat_map(|tie| vec![tie.twice_rank; tie.size]).collect();
    let twice_positive = used.iter().zip(&twice_ranks).filter(|(difference, _)| 0.0 < **difference).map(|(_, rank)| *rank).sum();
    let (p_two_sided, method) = if used.len() <= EXACT_UP_TO {
        (exact_p(&twice_ranks, twice_positive), SignedRankMethod::Exact)
    } else {
        (approximate_p(used.len(), &ties, twice_positive as f64 / 2.0), SignedRankMethod::NormalApproximation)
    };
    Some(SignedRank {
        statistic: twice_positive as f64 / 2.0,
        p_two_sided,
        n_used: used.len(),
        zeros_dropped: differences.len() - used.len(),
        method,
    })
}

/// Neighbours of one size and the rank they share, doubled.
struct Tie {
    size: usize,
    twice_rank: usize,
}

fn ties(by_size: &[f64]) -> Vec<Tie> {
    let mut ties: Vec<Tie> = Vec::new();
    let mut first = 0;
    while first < by_size.len() {
        let least = by_size[first].abs();
        let size = by_size[first..].iter().take_while(|value| value.abs() - least <= least * TIES_WITHIN).count();
        // Ranks first + 1 to first + size; their mean, doubled, is the first plus the last.
        ties.push(Tie { size, twice_rank: 2 * first + size + 1 });
        first += size;
    }
    ties
}

/// P of a rank sum as far from its mean as this one or farther, every sign being equally likely either way.
fn exact_p(twice_ranks: &[usize], twice_positive: usize) -> f64 {
    let total: usize = twice_ranks.iter().sum();
    // Probability of each doubled rank sum; halves of halves are exact in a double up to 53 of them.
    let mut probability = vec![0.0; total + 1];
    probability[0] = 1.0;
    let mut reached = 0;
    for rank in twice_ranks {
        reached += rank;
        for sum in (0..=reached).rev() {
            let with = if *rank <= sum { probability[sum - rank] } else { 0.0 };
            probability[sum] = 0.5 * (probability[sum] + with);
        }
    }
    // The distribution is symmetric, ties or not: twice the smaller tail.
    let smaller = twice_positive.min(total - twice_positive);
    (2.0 * probability[..=smaller].iter().sum::<f64>()).min(1.0)
}

fn approximate_p(n: usize, ties: &[Tie], positive: f64) -> f64 {
    let n = n as f64;
    let mean = n * (n + 1.0) / 4.0;
    let tied: f64 = ties.iter().map(|tie| (tie.size as f64).powi(3) - tie.size as f64).sum();
    let variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0 - tied / 48.0;
    let z = ((positive - mean).abs() - 0.5).max(0.0) / variance.sqrt();
    libm::erfc(z / std::f64::consts::SQRT_2)
}

/// A straight line by ordinary least squares.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Line {
    /// y per x.
    pub slope: f64,
    /// Of the slope, with n - 2 degrees of freedom; `None` below three points.
    pub standard_error: Option<f64>,
    pub points: usize,
}

/// The line through pairs of x and y; `None` where all lie at one x.
pub fn least_squares(points: &[(f64, f64)]) -> Option<Line> {
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let xy: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let xx: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if points.len() < 2 || xx == 0.0 {
        return None;
    }
    let slope = xy / xx;
    let residuals: f64 = points.iter().map(|(x, y)| (y - mean_y - slope * (x - mean_x)).powi(2)).sum();
    let standard_error = (2 < points.len()).then(|| (residuals / (count - 2.0) / xx).sqrt());
    Some(Line { slope, standard_error, points: points.len() })
}
