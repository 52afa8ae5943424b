//! The statistics of a report against published and independent values (tests/golden/statistics.csv), and their laws.

use proptest::prelude::*;

use nephrogate::rules::statistics::{EXACT_UP_TO, SignedRankMethod, Summary, least_squares, summary, wilcoxon_signed_rank};

/// One line of the golden table.
struct Row {
    of: String,
    name: String,
    values: String,
    figure: String,
    expected: f64,
    within: f64,
}

fn golden() -> Vec<Row> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/statistics.csv")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.splitn(7, ',').collect();
        assert_eq!(cells.len(), 7, "{line}");
        assert!(!cells[6].is_empty(), "{line}: a figure without a source");
        let number = |text: &str| if text.is_empty() { 0.0 } else { text.parse().unwrap_or_else(|_| panic!("{line}: {text} is no number")) };
        Row {
            of: cells[0].to_string(),
            name: cells[1].to_string(),
            values: cells[2].to_string(),
            figure: cells[3].to_string(),
            expected: number(cells[4]),
            within: number(cells[5]),
        }
    };
    text.lines().skip(1).map(row).collect()
}

/// The numbers of a line: written out, or by one of two formulas where they would be too many.
fn values(written: &str) -> Vec<f64> {
    if let Some(count) = written.strip_prefix("whole-ranks:") {
        let signed = |rank: i32| f64::from(if (rank * 37) % 101 < 58 { rank } else { -rank });
        return (1..=count.parse().unwrap()).map(signed).collect();
    }
    if let Some(count) = written.strip_prefix("with-ties:") {
        return (1..=count.parse().unwrap()).map(|index: i32| f64::from((index * 37) % 101 - 48)).collect();
    }
    written.split(' ').map(|value| value.parse().unwrap()).collect()
}

fn figure(of: &str, written: &str, figure: &str) -> Option<f64> {
    let summed = |pick: fn(&Summary) -> Option<f64>| pick(&summary(&values(written)));
    let line = || {
        let point = |pair: &str| pair.split_once(':').map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap())).unwrap();
        least_squares(&written.split(' ').map(point).collect::<Vec<_>>()).unwrap()
    };
    let tested = || wilcoxon_signed_rank(&values(written)).unwrap();
    match (of, figure) {
        ("signed-rank", "statistic") => Some(tested().statistic),
        ("signed-rank", "p_two_sided") => Some(tested().p_two_sided),
        ("summary", "mean") => summed(|of| of.mean),
        ("summary", "standard_deviation") => summed(|of| of.standard_deviation),
        ("summary", "first_quartile") => summed(|of| of.first_quartile),
        ("summary", "median") => summed(|of| of.median),
        ("summary", "third_quartile") => summed(|of| of.third_quartile),
        ("line", "slope") => Some(line().slope),
        ("line", "standard_error") => line().standard_error,
        _ => panic!("no such figure: {of} {figure}"),
    }
}

#[test]
fn every_figure_agrees_with_its_source() {
    let rows = golden();
    for row in rows.iter().filter(|row| row.of != "critical") {
        let found = figure(&row.of, &row.values, &row.figure).unwrap_or_else(|| panic!("{}: no {}", row.name, row.figure));
        assert!((found - row.expected).abs() <= row.within, "{} {}: {found} is not {}", row.name, row.figure, row.expected);
    }
    assert!(30 < rows.len());
}

/// Differences of 1 to n of which those add up to `negative` that are below 0.
fn with_negative_sum(n: usize, negative: usize) -> Vec<f64> {
    let mut left = negative;
    let mut differences = Vec::new();
    for rank in (1..=n).rev() {
        let is_negative = rank <= left;
        left -= if is_negative { rank } else { 0 };
        differences.push(if is_negative { -(rank as f64) } else { rank as f64 });
    }
    assert_eq!(left, 0, "ranks of 1 to {n} cannot add up to {negative}");
    differences
}

#[test]
fn critical_values_are_the_largest_that_tables_reject() {
    for row in golden().iter().filter(|row| row.of == "critical") {
        for cell in row.values.split(' ') {
            let (n, critical) = cell.split_once(':').unwrap();
            let (n, critical): (usize, usize) = (n.parse().unwrap(), critical.parse().unwrap());
            let p = |negative: usize| wilcoxon_signed_rank(&with_negative_sum(n, negative)).unwrap().p_two_sided;
            assert!(p(critical) <= row.expected, "{} n {n}: {critical} has p {}", row.name, p(critical));
            assert!(row.expected < p(critical + 1), "{} n {n}: {} has p {}", row.name, critical + 1, p(critical + 1));
        }
    }
}

#[test]
fn the_method_the_count_and_the_zeros_that_were_dropped_are_stated() {
    let tested = wilcoxon_signed_rank(&[0.0, 1.0, -2.0, 0.0, 3.0]).unwrap();
    assert_eq!((tested.n_used, tested.zeros_dropped, tested.method), (3, 2, SignedRankMethod::Exact));
    assert_eq!((tested.statistic, tested.p_two_sided), (4.0, 0.75));
    let many = |n: usize| wilcoxon_signed_rank(&values(&format!("whole-ranks:{n}"))).unwrap();
    assert_eq!(many(EXACT_UP_TO).method, SignedRankMethod::Exact);
    assert_eq!(many(EXACT_UP_TO + 1).method, SignedRankMethod::NormalApproximation);
    assert!(!SignedRankMethod::Exact.words().is_empty());
}

#[test]
fn of_nothing_nothing_is_said() {
    assert_eq!(wilcoxon_signed_rank(&[]), None);
    assert_eq!(wilcoxon_signed_rank(&[0.0, 0.0]), None);
    assert_eq!(summary(&[]), Summary::default());
    let one = summary(&[3.0]);
    assert_eq!((one.n, one.mean, one.median, one.standard_deviation), (1, Some(3.0), Some(3.0), None));
    assert_eq!(least_squares(&[]), None);
    assert_eq!(least_squares(&[(1.0, 2.0)]), None);
    assert_eq!(least_squares(&[(1.0, 2.0), (1.0, 3.0)]), None);
    let two = least_squares(&[(0.0, 2.0), (2.0, 3.0)]).unwrap();
    assert_eq!((two.slope, two.standard_error, two.points), (0.5, None, 2));
}

#[test]
fn differences_that_are_equal_on_paper_tie() {
    let on_paper = wilcoxon_signed_rank(&[0.2, -0.1, 0.3, -0.2]);
    assert_eq!(wilcoxon_signed_rank(&[0.3 - 0.1, 0.2 - 0.3, 0.4 - 0.1, 0.7 - 0.9]), on_paper);
}

/// Mean ranks by counting who is smaller, and p by trying all signs: slow, and without anything in common with the rules.
fn by_hand(differences: &[f64]) -> Option<(f64, f64)> {
    let used: Vec<f64> = differences.iter().copied().filter(|difference| *difference != 0.0).collect();
    let rank = |value: f64| {
        let smaller = used.iter().filter(|other| other.abs() < value.abs()).count() as f64;
        let equal = used.iter().filter(|other| other.abs() == value.abs()).count() as f64;
        smaller + (equal + 1.0) / 2.0
    };
    let ranks: Vec<f64> = used.iter().map(|value| rank(*value)).collect();
    let half = ranks.iter().sum::<f64>() / 2.0;
    let statistic: f64 = used.iter().zip(&ranks).filter(|(value, _)| 0.0 < **value).map(|(_, rank)| rank).sum();
    let assignments = 1_u32 << used.len();
    let is_as_far = |signs: u32| {
        let sum: f64 = ranks.iter().enumerate().filter(|(index, _)| signs >> index & 1 == 1).map(|(_, rank)| rank).sum();
        (statistic - half).abs() <= (sum - half).abs()
    };
    let as_far = (0..assignments).filter(|signs| is_as_far(*signs)).count();
    (!used.is_empty()).then_some((statistic, as_far as f64 / f64::from(assignments)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn p_is_the_share_of_all_signs_that_lie_as_far_out(differences in prop::collection::vec(-6_i32..=6, 0..=12)) {
        let differences: Vec<f64> = differences.into_iter().map(f64::from).collect();
        let found = wilcoxon_signed_rank(&differences);
        prop_assert_eq!(found.map(|found| (found.statistic, found.p_two_sided)), by_hand(&differences));
    }

    #[test]
    fn order_and_scale_do_not_matter_and_turned_signs_mirror_the_statistic(
        (values, shuffled) in prop::collection::vec(-50_i32..50, 1..40).prop_flat_map(|values| (Just(values.clone()), Just(values).prop_shuffle())),
    ) {
        let of = |values: &[i32], times: f64| values.iter().map(|value| f64::from(*value) * times).collect::<Vec<f64>>();
        prop_assert_eq!(summary(&of(&values, 0.1)), summary(&of(&shuffled, 0.1)));
        let tested = wilcoxon_signed_rank(&of(&values, 1.0));
        prop_assert_eq!(tested, wilcoxon_signed_rank(&of(&shuffled, 8.0)));
        if let (Some(tested), Some(turned)) = (tested, wilcoxon_signed_rank(&of(&values, -1.0))) {
            let total = (tested.n_used * (tested.n_used + 1)) as f64 / 2.0;
            prop_assert_eq!((turned.statistic, turned.p_two_sided), (total - tested.statistic, tested.p_two_sided));
        }
        let summed = summary(&of(&values, 1.0));
        let ordered = [summed.min, summed.first_quartile, summed.median, summed.third_quartile, summed.max];
        prop_assert!(ordered.is_sorted(), "{ordered:?}");
    }
}
