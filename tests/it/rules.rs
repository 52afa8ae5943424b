//! Judgement, entered by `assess`.

use nephrogate::clinical::date::AsOf;
use nephrogate::clinical::fact::{Concept, Decided, DecidedState, Fact, ResourceType, Sex, Status};
use nephrogate::clinical::quantity::{Analyte, Comparator, Unit};
use nephrogate::rules::state::allowed;
use nephrogate::rules::{Alert, Assessment, Hidden, Reason, Role, SubjectState, Verdict, assess};
use nephrogate::study::{Study, StudyFault};

use crate::facts::*;
use Verdict::{Met, NotMet, Unknown};

const TRIAL: &str = "elixcyte-1";
const WINDOW: &str = "egfr-window";

/// Verdict and reason of the eGFR criterion of the trial.
fn trial_egfr(facts: &[Fact], as_of: &str) -> (Verdict, Option<Reason>) {
    let assessment = judged(&study(TRIAL), facts, as_of);
    let egfr = criterion(&assessment, "inclusion-2");
    (egfr.verdict, egfr.reason)
}

fn window(facts: &[Fact], as_of: &str) -> Assessment {
    judged(&study(WINDOW), facts, as_of)
}

#[test]
fn the_three_readings_of_15_to_44_disagree_in_two_bands_only() {
    // eGFR, trial (exact, rounded and cut must agree), window (rounded half up).
    let table = [
        (14.4, NotMet, NotMet),
        (14.4999, NotMet, NotMet),
        (14.5001, Unknown, Met),
        (14.9, Unknown, Met),
        (14.9999, Unknown, Met),
        (15.0001, Met, Met),
        (29.9, Met, Met),
        (43.9999, Met, Met),
        (44.0001, Unknown, Met),
        (44.4, Unknown, Met),
        (44.4999, Unknown, Met),
        (44.5001, Unknown, NotMet),
        (44.9999, Unknown, NotMet),
        (45.0001, NotMet, NotMet),
        (90.0, NotMet, NotMet),
    ];
    for (egfr, trial, whole) in table {
        let facts = [man_of_60(), creatinine("a", "2026-06-01", creatinine_of(egfr))];
        let reason = (trial == Unknown).then_some(Reason::Boundary);
        assert_eq!(trial_egfr(&facts, "2026-06-02"), (trial, reason), "{egfr}");
        let assessment = window(&facts, "2026-06-02");
        assert_eq!(assessment.prescreen, whole, "{egfr}");
        assert!((assessment.egfr.unwrap() - egfr).abs() < 1e-9);
    }
}

#[test]
fn creatinines_at_the_limits_give_the_egfr_that_was_derived_for_them() {
    // Age and sex, then creatinine in mg/dL for eGFR 45, 44.5, 44, 30, 15, 14.5 (derived from the cited coefficients, four decimals).
    let table = [
        ("1966-01-01", Sex::Male, [1.7183, 1.7343, 1.7507, 2.4090, 4.2923, 4.4153]),
        ("1966-01-01", Sex::Female, [1.3498, 1.3624, 1.3753, 1.8924, 3.3718, 3.4684]),
        ("1986-01-01", Sex::Male, [1.9059, 1.9238, 1.9420, 2.6721, 4.7611, 4.8975]),
        ("1951-01-01", Sex::Female, [1.2488, 1.2605, 1.2724, 1.7508, 3.1196, 3.2090]),
    ];
    for (birth, sex, values) in table {
        for (mg_dl, expected) in values.into_iter().zip([45.0, 44.5, 44.0, 30.0, 15.0, 14.5]) {
            let egfr = window(&[person(birth, sex), creatinine("a", "2026-06-01", mg_dl)], "2026-06-01").egfr.unwrap();
            assert!((egfr - expected).abs() < 0.002, "{birth} {mg_dl}: {egfr} is not {expected}");
        }
    }
}

#[test]
fn moles_are_converted_by_the_factor_of_the_study_and_never_rounded_between() {
    // 155 umol/L in a man of 60: 43.93 by 88.42 and 43.92 by 88.4; 44.02 if creatinine were rounded to 1.75 first.
    let facts = [man_of_60(), lab("a", Analyte::Creatinine, "2026-06-01", 155.0, Unit::UmolPerL)];
    let egfr = |text: &str| judged(&Study::parse(text).unwrap(), &facts, "2026-06-01").egfr.unwrap();
    let text = study_text(WINDOW);
    assert_eq!(format!("{:.2}", egfr(&text)), "43.93");
    assert_eq!(
        format!("{:.2}", egfr(&text.replace("\"creatinine_factor_umol_l_per_mg_dl\": 88.42", "\"creatinine_factor_umol_l_per_mg_dl\": 88.4"))),
        "43.92"
    );
}

#[test]
fn the_same_creatinine_flips_with_the_equation_that_the_study_names() {
    // 1.6 mg/dL, man of 60: 49.02, 46.14, 44.31, 46.04, 41.55 and 41.88 (derived; the Japanese form gives 35.82).
    let table = [
        ("ckd-epi-2021-creatinine", 49.02, NotMet),
        ("ckd-epi-2009-creatinine", 46.14, NotMet),
        ("mdrd-4-idms", 44.31, Met),
        ("ekfc-creatinine", 46.04, NotMet),
        ("japanese-2009", 35.82, Met),
        ("taiwanese-mdrd", 41.55, Met),
        ("taiwanese-ckd-epi", 41.88, Met),
    ];
    let facts = [man_of_60(), creatinine("a", "2026-06-01", 1.6)];
    for (equation, egfr, verdict) in table {
        let text = study_text(WINDOW).replace("ckd-epi-2021-creatinine", equation);
        let assessment = judged(&Study::parse(&text).unwrap(), &facts, "2026-06-01");
        assert_eq!(assessment.prescreen, verdict, "{equation}");
        assert!((assessment.egfr.unwrap() - egfr).abs() < 0.05, "{equation}: {:?}", assessment.egfr);
        assert_eq!(assessment.criteria[0].evidence[0].equation.as_deref(), Some(equation));
    }
}

#[test]
fn the_age_of_an_equation_is_that_of_the_specimens_own_day() {
    // Born 1 July 2008; adult equations begin at 18 completed years.
    let at = |when: &str| window(&[person("2008-07-01", Sex::Male), creatinine("a", when, 3.0)], "2026-12-31");
    let child = at("2026-06-30");
    assert_eq!((child.prescreen, child.egfr), (Unknown, None));
    assert_eq!(child.criteria[0].reason, Some(Reason::AgeOutOfRange));
    assert_eq!(at("2026-07-01").prescreen, Met);
    // The evening of 30 June in New York is 1 July in UTC; the date as written counts.
    assert_eq!(at("2026-06-30T23:30:00-05:00").criteria[0].reason, Some(Reason::AgeOutOfRange));
    assert_eq!(at("2026-07-01T00:30:00+05:00").prescreen, Met);
    // A month that holds the birthday cannot say the age.
    assert_eq!(at("2026-07").prescreen, Met);
    let coarse = window(&[person("2008-07-15", Sex::Male), creatinine("a", "2026-07", 2.0)], "2026-12-31");
    assert_eq!(coarse.criteria[0].reason, Some(Reason::ImpreciseDate));
}

#[test]
fn what_is_missing_is_unknown_and_named() {
    let value = || creatinine("a", "2026-06-01", 2.0);
    let born = |text: &str| person_with(|person| (person.birth_date, person.sex) = (Some(date(text)), Some(Sex::Male)));
    let table: [(&str, Vec<Fact>, Reason, &[&str]); 7] = [
        ("no creatinine", vec![man_of_60()], Reason::Missing, &["creatinine"]),
        ("no patient", vec![value()], Reason::MissingBirthDate, &["birth-date", "sex"]),
        ("no birth date", vec![person_with(|person| person.sex = Some(Sex::Male)), value()], Reason::MissingBirthDate, &["birth-date"]),
        ("a year of birth", vec![born("1966"), value()], Reason::ImpreciseDate, &["birth-date"]),
        ("no sex", vec![person_with(|person| person.birth_date = Some(date("1966-01-01"))), value()], Reason::MissingSex, &["sex"]),
        ("sex unknown", vec![person("1966-01-01", Sex::Unknown), value()], Reason::MissingSex, &["sex"]),
        ("sex other", vec![person("1966-01-01", Sex::Other), value()], Reason::MissingSex, &["sex"]),
    ];
    for (name, facts, reason, missing) in table {
        let assessment = window(&facts, "2026-06-01");
        assert_eq!((assessment.prescreen, assessment.egfr), (Unknown, None), "{name}");
        assert_eq!(assessment.criteria[0].reason, Some(reason), "{name}");
        assert_eq!(assessment.missing, missing, "{name}");
    }
}

#[test]
fn an_unknown_sex_shows_what_both_would_give_and_decides_by_neither() {
    let assessment = window(&[person("1966-01-01", Sex::Unknown), creatinine("a", "2026-06-01", 2.0)], "2026-06-01");
    let shown: Vec<(Option<&str>, String)> = assessment.criteria[0]
        .evidence
        .iter()
        .filter(|row| row.role == Role::IfKnown)
        .map(|row| (row.note.as_deref(), format!("{:.1}", row.egfr.unwrap())))
        .collect();
    assert_eq!(shown, [(Some("if female"), "28.1".to_string()), (Some("if male"), "37.5".to_string())]);
    assert!(assessment.criteria[0].explanation.ends_with("eGFR would be 28.1 if female, 37.5 if male"), "{}", assessment.criteria[0].explanation);
    // A year of birth leaves two ages and still both sexes.
    let coarse = window(&[person("1966", Sex::Other), creatinine("a", "2026-06-01", 2.0)], "2026-06-01");
    assert_eq!(coarse.criteria[0].evidence.iter().filter(|row| row.role == Role::IfKnown).count(), 4);
    assert_eq!(coarse.prescreen, Unknown);
}

#[test]
fn a_result_that_cannot_be_used_does_not_decide_and_is_shown_beside_the_older_one() {
    let older = || creatinine("old", "2026-05-01", 2.0);
    let newer = || creatinine("new", "2026-06-01", 1.0);
    let table: [(&str, Fact, &str); 9] = [
        ("preliminary", newer().status(Status::Preliminary), "preliminary"),
        ("registered", newer().status(Status::Registered), "registered"),
        ("no unit", newer().measured(|m| m.unit = None), "unit-missing"),
        ("a unit of something else", newer().measured(|m| m.unit = Some(Unit::MgPerG)), "unit-unmapped"),
        ("no value", newer().measured(|m| m.value = None), "no-value"),
        ("a mapping that refused", newer().measured(|m| m.unusable = Some("code-conflict".into())), "code-conflict"),
        ("more than a body holds", newer().measured(|m| m.value = Some(30.1)), "implausible"),
        ("less than a body holds", newer().measured(|m| m.value = Some(0.09)), "implausible"),
        ("no time", newer().measured(|m| m.effective = None), "time-missing"),
    ];
    for (name, unusable, word) in table {
        for id in [WINDOW, TRIAL] {
            let assessment = judged(&study(id), &[man_of_60(), older(), unusable.clone()], "2026-06-02");
            let egfr = assessment.criteria.iter().find(|criterion| criterion.text.contains("15 to 44")).unwrap();
            assert_eq!(egfr.verdict, Met, "{name}");
            let newest = egfr.evidence.iter().find(|row| row.role == Role::NewerUnusable).unwrap_or_else(|| panic!("{name} is not shown"));
            assert_eq!((newest.resource.as_str(), newest.unusable.as_deref()), ("Observation/new", Some(word)), "{name}");
        }
        let alone = window(&[man_of_60(), unusable], "2026-06-02");
        assert_eq!(alone.criteria[0].reason, Some(Reason::Missing), "{name}");
        assert_eq!(alone.criteria[0].evidence.len(), 1, "{name}");
    }
    // An older one that cannot be used is nobody's business.
    let assessment = window(&[man_of_60(), newer(), older().status(Status::Preliminary)], "2026-06-02");
    assert!(assessment.criteria[0].evidence.iter().all(|row| row.role == Role::Used));
}

#[test]
fn the_bounds_of_creatinine_themselves_are_believed() {
    for mg_dl in [0.1, 30.0] {
        assert!(window(&[man_of_60(), creatinine("a", "2026-06-01", mg_dl)], "2026-06-01").egfr.is_some());
    }
}

#[test]
fn a_comparator_decides_only_where_its_whole_interval_lies_on_one_side() {
    // Man of 60: 1.7183 mg/dL is eGFR 45, 4.4153 is 14.5.
    let table = [
        (Comparator::Less, 1.7, NotMet, None),
        (Comparator::Less, 1.8, Unknown, Some(Reason::Comparator)),
        (Comparator::LessOrEqual, 1.7, NotMet, None),
        (Comparator::Greater, 4.5, NotMet, None),
        (Comparator::GreaterOrEqual, 4.5, NotMet, None),
        (Comparator::Greater, 4.0, Unknown, Some(Reason::Comparator)),
        (Comparator::Greater, 1.2, Unknown, Some(Reason::Comparator)),
    ];
    for (comparator, mg_dl, verdict, reason) in table {
        let facts = [man_of_60(), creatinine("old", "2026-05-01", 2.0), creatinine("new", "2026-06-01", mg_dl).comparator(comparator)];
        assert_eq!(trial_egfr(&facts, "2026-06-01"), (verdict, reason), "{comparator:?} {mg_dl}");
        // The window study leaves comparators out and takes the older number.
        let assessment = window(&facts, "2026-06-01");
        assert_eq!(assessment.prescreen, Met);
        assert_eq!(assessment.criteria[0].evidence[1].unusable.as_deref(), Some("comparator"));
    }
    let facts = [man_of_60(), creatinine("new", "2026-06-01", 1.2).comparator(Comparator::Less)];
    let assessment = judged(&study(TRIAL), &facts, "2026-06-01");
    let row = &criterion(&assessment, "inclusion-2").evidence[0];
    assert_eq!((row.value_as_received.as_str(), row.value_used, row.egfr), ("<1.2", None, None));
    assert!(row.note.as_deref().unwrap().starts_with("eGFR above "), "{:?}", row.note);
    assert_eq!(assessment.egfr, None);
}

#[test]
fn of_one_instant_the_better_code_counts_then_the_newer_issue() {
    let at = "2026-06-01T08:00:00Z";
    let good = || creatinine("good", at, 2.0);
    let poor = || creatinine("poor", at, 1.0).rank(1);
    for facts in [[man_of_60(), good(), poor()], [man_of_60(), poor().issued("2026-06-03"), good().issued("2026-06-02")]] {
        let assessment = window(&facts, "2026-06-05");
        assert_eq!(assessment.prescreen, Met);
        // Whatever decides, both are named.
        assert_eq!(assessment.criteria[0].evidence[1].role, Role::Contradicting);
        assert_eq!(assessment.criteria[0].evidence[1].resource, "Observation/poor");
    }
    let late = window(&[man_of_60(), good().issued("2026-06-02"), creatinine("late", at, 1.0).issued("2026-06-03")], "2026-06-05");
    assert_eq!(late.prescreen, NotMet);
    // Nothing says which of two equals holds.
    let equals = window(&[man_of_60(), good(), creatinine("other", at, 1.0)], "2026-06-05");
    assert_eq!((equals.prescreen, equals.criteria[0].reason), (Unknown, Some(Reason::ConflictingResults)));
    let copies = window(&[man_of_60(), good(), creatinine("copy", at, 2.0)], "2026-06-05");
    assert_eq!((copies.prescreen, copies.criteria[0].evidence.len()), (Met, 1));
    // A date without a time may be the same draw.
    let coarse = window(&[man_of_60(), creatinine("day", "2026-06-01", 1.0).rank(1), good()], "2026-06-05");
    assert_eq!(coarse.prescreen, Met);
    let after = window(&[man_of_60(), creatinine("day", "2026-06-02", 1.0).rank(1), good()], "2026-06-05");
    assert_eq!(after.prescreen, NotMet);
}

#[test]
fn contradicting_values_of_one_draw_decide_nothing_in_the_trial() {
    // As in synthetic whole-life charts: 2160-0 says 2.0887, 38483-4 says 1.21, one instant, one encounter.
    let at = "2026-06-01T08:00:00Z";
    let pair = [man_of_60(), creatinine("a", at, 2.0887), creatinine("b", at, 1.21).rank(1)];
    assert_eq!(trial_egfr(&pair, "2026-06-02"), (Unknown, Some(Reason::ConflictingResults)));
    assert_eq!(window(&pair, "2026-06-02").prescreen, Met);
    let assessment = judged(&study(TRIAL), &pair, "2026-06-02");
    let named: Vec<&str> = criterion(&assessment, "inclusion-2").evidence.iter().map(|row| row.resource.as_str()).collect();
    assert_eq!(named, ["Observation/a", "Observation/b"]);
    // On one side of every limit they do not matter, and are named all the same.
    let near = [man_of_60(), creatinine("a", at, 2.0887), creatinine("b", at, 2.2).rank(1)];
    assert_eq!(trial_egfr(&near, "2026-06-02"), (Met, None));
    let assessment = judged(&study(TRIAL), &near, "2026-06-02");
    assert_eq!(criterion(&assessment, "inclusion-2").evidence[1].role, Role::Contradicting);
}

#[test]
fn a_stale_result_holds_back_the_prescreen_and_not_the_protocols_word() {
    let facts = [man_of_60(), creatinine("a", "2026-03-01", 2.0)];
    assert_eq!(trial_egfr(&facts, "2026-05-30"), (Met, None), "90 days old");
    assert_eq!(trial_egfr(&facts, "2026-05-31"), (Unknown, Some(Reason::Stale)), "91 days old");
    let assessment = judged(&study(TRIAL), &facts, "2026-05-31");
    let egfr = criterion(&assessment, "inclusion-2");
    assert_eq!((egfr.protocol_verdict, egfr.missing.as_slice()), (Met, ["creatinine".to_string()].as_slice()));
    assert_eq!(egfr.explanation, "eGFR 37.5 is within 15 to 44, but the result of 2026-03-01 is 91 days old and 90 are allowed");
    assert_eq!(window(&facts, "2036-05-31").prescreen, Met, "the window study has no such rule");
}

#[test]
fn an_acute_rise_is_no_steady_state() {
    let rise =
        |from: (&str, f64), to: (&str, f64)| trial_egfr(&[man_of_60(), creatinine("a", from.0, from.1), creatinine("b", to.0, to.1)], "2026-06-30");
    let aki = (Unknown, Some(Reason::PossibleAki));
    let (t0, h48, h49) = ("2026-06-01T08:00:00Z", "2026-06-03T08:00:00Z", "2026-06-03T09:00:00Z");
    let (d7, d8) = ("2026-06-08T08:00:00Z", "2026-06-08T09:00:00Z");
    // 1.9 - 1.6 falls short of 0.3 in binary; it is a rise of 0.3 nevertheless.
    assert_eq!(rise((t0, 1.9), (h48, 2.2)), aki);
    assert_eq!(rise((t0, 1.6), (h48, 1.9)), aki);
    assert_eq!(rise((t0, 1.9), (h48, 2.19)), (Met, None));
    assert_eq!(rise((t0, 1.9), (h49, 2.2)), (Met, None));
    assert_eq!(rise((t0, 2.0), (d7, 3.0)), aki);
    assert_eq!(rise((t0, 2.0), (d7, 2.99)), (Met, None));
    assert_eq!(rise((t0, 2.0), (d8, 3.0)), (Met, None));
    assert_eq!(rise((t0, 2.3), (h48, 2.0)), (Met, None), "a fall");
    // Dates without times may lie 48 hours apart.
    assert_eq!(rise(("2026-06-01", 1.9), ("2026-06-03", 2.2)), aki);
    assert_eq!(rise(("2026-06-01", 1.9), ("2026-06-04", 2.2)), (Met, None));
    // Two codes of one draw that disagree are a contradiction, not a rise.
    assert_eq!(trial_egfr(&[man_of_60(), creatinine("a", t0, 2.6), creatinine("b", t0, 2.0).rank(1)], "2026-06-30"), (Met, None));
    // A rise that has begun to fall again is one still, and both ends are shown.
    let peak = [man_of_60(), creatinine("a", t0, 1.8), creatinine("b", "2026-06-02T08:00:00Z", 2.6), creatinine("c", h49, 2.1)];
    assert_eq!(trial_egfr(&peak, "2026-06-30"), aki);
    let assessment = judged(&study(TRIAL), &peak, "2026-06-30");
    let egfr = criterion(&assessment, "inclusion-2");
    assert_eq!(egfr.protocol_verdict, Met);
    let named: Vec<(Role, &str)> = egfr.evidence.iter().map(|row| (row.role, row.resource.as_str())).collect();
    assert_eq!(named, [(Role::Used, "Observation/c"), (Role::History, "Observation/a"), (Role::History, "Observation/b")]);
    // An old rise is over.
    let old = [man_of_60(), creatinine("a", "2026-05-01", 1.8), creatinine("b", "2026-05-02", 2.6), creatinine("c", t0, 2.1)];
    assert_eq!(trial_egfr(&old, "2026-06-30"), (Met, None));
}

#[test]
fn sustained_needs_ninety_days_below_sixty_and_nothing_above_between() {
    // Creatinine of a man of 60: 1.0 is eGFR 86, 2.0 is 37.5. Days before 2026-06-30, oldest first.
    let (low, high) = (2.0, 1.0);
    type Row<'t> = (&'t str, &'t [(i64, f64)], Verdict, Option<Reason>);
    let table: [Row; 11] = [
        ("once below", &[(0, low)], Unknown, Some(Reason::ShortHistory)),
        ("89 days", &[(89, low), (0, low)], Unknown, Some(Reason::ShortHistory)),
        ("90 days", &[(90, low), (0, low)], Met, None),
        ("years", &[(900, low), (400, low), (0, low)], Met, None),
        ("newest above", &[(200, low), (100, low), (0, high)], NotMet, None),
        ("one above between", &[(200, low), (100, high), (0, low)], NotMet, None),
        ("above within the ninety days", &[(200, low), (30, high), (0, low)], NotMet, None),
        ("above before the ninety days", &[(400, high), (120, low), (0, low)], Met, None),
        ("above before a short history", &[(400, high), (30, low), (0, low)], Unknown, Some(Reason::ShortHistory)),
        ("only above before", &[(400, high), (0, low)], Unknown, Some(Reason::ShortHistory)),
        ("a nearer pair decides", &[(400, low), (300, high), (100, low), (0, low)], Met, None),
    ];
    let last = date("2026-06-30").day().number();
    for (name, history, verdict, reason) in table {
        let mut facts = vec![man_of_60()];
        for (index, (days, mg_dl)) in history.iter().enumerate() {
            let day = nephrogate::clinical::date::Day::from_number(last - days).to_string();
            facts.push(creatinine(&format!("o{index}"), &day, *mg_dl));
        }
        let assessment = judged(&study(TRIAL), &facts, "2026-07-01");
        let sustained = criterion(&assessment, "site-sustained");
        assert_eq!((sustained.verdict, sustained.reason), (verdict, reason), "{name}: {}", sustained.explanation);
    }
}

#[test]
fn sustained_ends_at_sixty_itself_and_does_not_guess_between() {
    let sustained = |facts: &[Fact]| {
        let assessment = judged(&study(TRIAL), facts, "2026-07-01");
        let found = criterion(&assessment, "site-sustained");
        (found.verdict, found.reason)
    };
    let newest = || creatinine("new", "2026-06-30", 2.0);
    let oldest = || creatinine("old", "2026-01-30", 2.0);
    let at = |egfr: f64| creatinine("mid", "2026-04-30", creatinine_of(egfr));
    assert_eq!(sustained(&[man_of_60(), oldest(), at(59.999), newest()]), (Met, None));
    assert_eq!(sustained(&[man_of_60(), oldest(), at(60.001), newest()]), (NotMet, None));
    // Between two that are below, one that may lie on either side.
    let open = creatinine("mid", "2026-04-30", 2.0).comparator(Comparator::Less);
    assert_eq!(sustained(&[man_of_60(), oldest(), open, newest()]), (Unknown, Some(Reason::Comparator)));
    let pair = [man_of_60(), oldest(), creatinine("m1", "2026-04-30", 2.0), creatinine("m2", "2026-04-30", 1.0).rank(1), newest()];
    assert_eq!(sustained(&pair), (Unknown, Some(Reason::ConflictingResults)));
    // The newest decides nothing by itself when it is open or contradicted.
    let open = creatinine("new", "2026-06-30", 2.0).comparator(Comparator::Less);
    assert_eq!(sustained(&[man_of_60(), oldest(), open]), (Unknown, Some(Reason::Comparator)));
    let pair = [man_of_60(), oldest(), newest(), creatinine("n2", "2026-06-30", 1.0).rank(1)];
    assert_eq!(sustained(&pair), (Unknown, Some(Reason::ConflictingResults)));
    assert_eq!(sustained(&[man_of_60()]), (Unknown, Some(Reason::Missing)));
    // The row that decided is shown: what lay above, or how long ago it was below.
    let assessment = judged(&study(TRIAL), &[man_of_60(), oldest(), at(70.0), newest()], "2026-07-01");
    let rows: Vec<(Role, &str)> = criterion(&assessment, "site-sustained").evidence.iter().map(|row| (row.role, row.resource.as_str())).collect();
    assert_eq!(rows, [(Role::Used, "Observation/new"), (Role::History, "Observation/mid"), (Role::History, "Observation/old")]);
}

#[test]
fn a_corrected_creatinine_reopens_the_verdict() {
    let first = creatinine("a", "2026-06-01", 2.0);
    let second = creatinine("a", "2026-06-01", 1.0).version("2").status(Status::Corrected);
    assert_eq!(window(&[man_of_60(), first.clone()], "2026-06-02").prescreen, Met);
    assert_eq!(window(&[man_of_60(), first.clone(), second.clone()], "2026-06-02").prescreen, NotMet);
    assert_eq!(window(&[man_of_60(), second, first.clone()], "2026-06-02").prescreen, NotMet);
    for status in [Status::EnteredInError, Status::Cancelled, Status::Deleted] {
        let withdrawn = creatinine("a", "2026-06-01", 2.0).version("2").status(status);
        let assessment = window(&[man_of_60(), withdrawn, first.clone()], "2026-06-02");
        assert_eq!(assessment.criteria[0].reason, Some(Reason::Missing), "{status:?}");
    }
    // Another id under the same accession replaces it too.
    let replaced = [man_of_60(), first.key("acc").issued("2026-06-02"), creatinine("b", "2026-06-01", 1.0).key("acc").issued("2026-06-03")];
    assert_eq!(window(&replaced, "2026-06-05").prescreen, NotMet);
}

#[test]
fn versions_that_nothing_puts_in_order_decide_only_where_they_agree() {
    let version = |version: &str, mg_dl: f64| creatinine("a", "2026-06-01", mg_dl).version(version);
    for id in [WINDOW, TRIAL] {
        let judge = |facts: &[Fact]| {
            let assessment = judged(&study(id), facts, "2026-06-02");
            let egfr = assessment.criteria.iter().find(|criterion| criterion.text.contains("15 to 44")).unwrap();
            (egfr.verdict, egfr.reason)
        };
        let conflict = (Unknown, Some(Reason::ConflictingResults));
        assert_eq!(judge(&[man_of_60(), version("x", 2.0), version("y", 1.0)]), conflict);
        assert_eq!(judge(&[man_of_60(), version("x", 2.0), version("y", 2.1)]), (Met, None));
        // The rival may name another day.
        let moved = creatinine("a", "2026-03-20", 1.0).version("y");
        assert_eq!(judge(&[man_of_60(), version("x", 2.0), moved]), conflict);
        // Or hold nothing that could be compared.
        let empty = creatinine("a", "2026-06-01", 1.0).version("y").measured(|m| m.unit = None);
        assert_eq!(judge(&[man_of_60(), version("x", 2.0), empty]), conflict);
    }
}

#[test]
fn what_is_dated_later_does_not_exist_yet() {
    let facts = [man_of_60(), creatinine("a", "2026-06-01", 2.0), creatinine("b", "2026-06-02T00:00:00Z", 1.0)];
    assert_eq!(window(&facts, "2026-06-01").prescreen, Met);
    assert_eq!(window(&facts, "2026-06-02").prescreen, NotMet);
    assert_eq!(window(&facts, "2026-06-01").criteria[0].evidence.len(), 1);
}

#[test]
fn age_is_counted_in_completed_years_and_a_coarse_birth_date_decides_where_both_ends_agree() {
    let age = |birth: &str, as_of: &str| {
        let assessment = judged(&study(TRIAL), &[person(birth, Sex::Female)], as_of);
        let age = criterion(&assessment, "inclusion-1");
        (age.verdict, age.reason, age.distance)
    };
    assert_eq!(age("2006-06-02", "2026-06-01"), (NotMet, None, Some(-1.0)));
    assert_eq!(age("2006-06-01", "2026-06-01"), (Met, None, Some(0.0)));
    assert_eq!(age("1945-06-02", "2026-06-01"), (Met, None, Some(0.0)));
    assert_eq!(age("1945-06-01", "2026-06-01"), (NotMet, None, Some(-1.0)));
    assert_eq!(age("2004-02-29", "2024-02-28").0, NotMet);
    assert_eq!(age("2004-02-29", "2024-03-01").0, Met);
    let unclear = (Unknown, Some(Reason::ImpreciseDate), None);
    assert_eq!(age("2006", "2026-06-01"), unclear);
    assert_eq!(age("2006-06", "2026-06-15"), unclear);
    assert_eq!(age("1945", "2026-06-01"), unclear);
    assert_eq!(age("1966", "2026-06-01").0, Met);
    assert_eq!(age("2010", "2026-06-01").0, NotMet);
    assert_eq!(age("1930", "2026-06-01").0, NotMet);
}

/// Verdict and reason of one criterion of the trial.
fn trial(id: &str, facts: &[Fact], as_of: &str) -> (Verdict, Option<Reason>) {
    let assessment = judged(&study(TRIAL), facts, as_of);
    let criterion = criterion(&assessment, id);
    (criterion.verdict, criterion.reason)
}

#[test]
fn laboratory_limits_pass_at_the_limit_itself() {
    use Analyte::{Hemoglobin, HemoglobinA1c, NeutrophilCount, PlateletCount};
    let table = [
        ("exclusion-2-neutrophils", NeutrophilCount, Unit::ThousandPerUl, 1.5, 1.49),
        ("exclusion-2-platelets", PlateletCount, Unit::ThousandPerUl, 100.0, 99.9),
        ("exclusion-2-hemoglobin", Hemoglobin, Unit::GPerDl, 8.0, 7.9),
        // 4.97 mmol/L is 8.01 g/dL, 4.96 is 7.99.
        ("exclusion-2-hemoglobin", Hemoglobin, Unit::MmolPerL, 4.97, 4.96),
        ("exclusion-4", HemoglobinA1c, Unit::Percent, 8.0, 8.1),
        // 63 mmol/mol is 7.915 %, 64 is 8.007 % (IFCC to NGSP master equation).
        ("exclusion-4", HemoglobinA1c, Unit::MmolPerMol, 63.0, 64.0),
    ];
    for (id, analyte, unit, passes, fails) in table {
        let at = |value: f64| trial(id, &[man_of_60(), lab("a", analyte, "2026-06-01", value, unit)], "2026-06-10");
        assert_eq!(at(passes), (Met, None), "{id} {passes}");
        assert_eq!(at(fails), (NotMet, None), "{id} {fails}");
        assert_eq!(trial(id, &[man_of_60()], "2026-06-10"), (Unknown, Some(Reason::Missing)), "{id}");
    }
    let hb = |value: f64| lab("a", Hemoglobin, "2026-06-01", value, Unit::GPerDl);
    let id = "exclusion-2-hemoglobin";
    // "< 8" leaves 8 itself out, and 8 would pass.
    assert_eq!(trial(id, &[hb(8.0).comparator(Comparator::Less)], "2026-06-10"), (NotMet, None));
    assert_eq!(trial(id, &[hb(8.0).comparator(Comparator::LessOrEqual)], "2026-06-10"), (Unknown, Some(Reason::Comparator)));
    assert_eq!(trial(id, &[hb(8.0).comparator(Comparator::GreaterOrEqual)], "2026-06-10"), (Met, None));
    assert_eq!(trial(id, &[hb(7.0).comparator(Comparator::Greater)], "2026-06-10"), (Unknown, Some(Reason::Comparator)));
    let other = lab("b", Hemoglobin, "2026-06-01", 7.0, Unit::GPerDl).rank(1);
    assert_eq!(trial(id, &[hb(9.0), other], "2026-06-10"), (Unknown, Some(Reason::ConflictingResults)));
    // A unit without a conversion cannot be used, and is shown.
    let percent = lab("a", Hemoglobin, "2026-06-01", 12.0, Unit::Percent);
    let assessment = judged(&study(TRIAL), &[percent], "2026-06-10");
    let found = criterion(&assessment, id);
    assert_eq!((found.reason, found.evidence[0].unusable.as_deref()), (Some(Reason::Missing), Some("unit-unmapped")));
    // An old one is no news, though the protocol's words name no age.
    let assessment = judged(&study(TRIAL), &[hb(9.0)], "2026-12-01");
    let found = criterion(&assessment, id);
    assert_eq!((found.verdict, found.protocol_verdict, found.reason), (Unknown, Met, Some(Reason::Stale)));
    assert_eq!(found.distance, Some(1.0));
    assert_eq!(found.evidence[0].threshold.as_deref(), Some("at least 8 g/dL"));
}

#[test]
fn liver_values_are_held_against_their_own_upper_limit_and_never_a_default() {
    use Analyte::{AlkalinePhosphatase, Alt, Ast, Bilirubin};
    let four = |alt: Fact| {
        [
            lab("bili", Bilirubin, "2026-06-01", 17.0, Unit::UmolPerL).upper(20.0),
            lab("ast", Ast, "2026-06-01", 30.0, Unit::UPerL).upper(40.0),
            alt,
            lab("alp", AlkalinePhosphatase, "2026-06-01", 100.0, Unit::UPerL).upper(120.0),
        ]
    };
    let alt = |value: f64| lab("alt", Alt, "2026-06-01", value, Unit::UPerL);
    let judge = |facts: &[Fact]| trial("exclusion-3", facts, "2026-06-10");
    assert_eq!(judge(&four(alt(100.0).upper(40.0))), (Met, None), "2.5 times itself passes");
    assert_eq!(judge(&four(alt(100.1).upper(40.0))), (NotMet, None));
    assert_eq!(judge(&four(alt(10.0))), (Unknown, Some(Reason::NoReferenceRange)));
    assert_eq!(judge(&four(alt(10.0).upper(0.0))), (Unknown, Some(Reason::NoReferenceRange)));
    assert_eq!(judge(&four(alt(100.0).upper(40.0).comparator(Comparator::Greater))), (NotMet, None));
    assert_eq!(judge(&four(alt(90.0).upper(40.0).comparator(Comparator::Greater))), (Unknown, Some(Reason::Comparator)));
    // One that fails decides, whatever else is missing.
    assert_eq!(judge(&[alt(200.0).upper(40.0)]), (NotMet, None));
    assert_eq!(judge(&[alt(10.0).upper(40.0)]), (Unknown, Some(Reason::Missing)));
    let assessment = judged(&study(TRIAL), &four(alt(10.0)), "2026-06-10");
    let found = criterion(&assessment, "exclusion-3");
    assert_eq!((found.missing.as_slice(), found.evidence.len()), (["reference-range".to_string()].as_slice(), 4));
    assert_eq!(found.explanation, "ALT came without an upper limit of normal");
    let mut stale = four(alt(10.0).upper(40.0));
    stale[0] = lab("bili", Bilirubin, "2026-01-01", 17.0, Unit::UmolPerL).upper(20.0);
    assert_eq!(judge(&stale), (Unknown, Some(Reason::Stale)));
    let assessment = judged(&study(TRIAL), &stale, "2026-06-10");
    assert_eq!(criterion(&assessment, "exclusion-3").protocol_verdict, Met);
}

#[test]
fn a_condition_counts_by_what_its_statuses_say_of_the_day() {
    let unconfirmed = (Unknown, Some(Reason::Unconfirmed));
    // Clinical status, verification status, dialysis (now), transplant (ever).
    let table = [
        ("active", "confirmed", (NotMet, None), (NotMet, None)),
        ("active", "", (NotMet, None), (NotMet, None)),
        ("recurrence", "confirmed", (NotMet, None), (NotMet, None)),
        ("relapse", "confirmed", (NotMet, None), (NotMet, None)),
        ("resolved", "confirmed", (Met, None), (NotMet, None)),
        ("inactive", "confirmed", (Met, None), (NotMet, None)),
        ("remission", "", (Met, None), (NotMet, None)),
        ("active", "refuted", (Met, None), (Met, None)),
        ("active", "entered-in-error", (Met, None), (Met, None)),
        ("active", "provisional", unconfirmed, unconfirmed),
        ("active", "differential", unconfirmed, unconfirmed),
        ("active", "unconfirmed", unconfirmed, unconfirmed),
        ("", "confirmed", unconfirmed, unconfirmed),
        ("", "", unconfirmed, unconfirmed),
    ];
    for (clinical, verification, dialysis, transplant) in table {
        let facts = [condition("d", Concept::Dialysis, clinical, verification), condition("t", Concept::KidneyTransplant, clinical, verification)];
        assert_eq!(trial("site-dialysis", &facts, "2026-06-01"), dialysis, "{clinical} {verification}");
        assert_eq!(trial("site-transplant", &facts, "2026-06-01"), transplant, "{clinical} {verification}");
    }
}

#[test]
fn a_condition_stands_from_its_onset_to_its_abatement() {
    let until = |abated: &str| condition("d", Concept::Dialysis, "resolved", "").conditioned(|c| c.abatement = Some(date(abated)));
    let judge = |fact: Fact| trial("site-dialysis", &[fact], "2026-06-15");
    assert_eq!(judge(until("2026-06-15")), (Met, None));
    assert_eq!(judge(until("2026-06-16")), (NotMet, None), "it stood on that day");
    assert_eq!(judge(until("2026-06")), (Unknown, Some(Reason::ImpreciseDate)));
    let from = |onset: Option<&str>, recorded: Option<&str>| {
        condition("d", Concept::Dialysis, "active", "").conditioned(|c| (c.onset, c.recorded) = (onset.map(date), recorded.map(date)))
    };
    assert_eq!(judge(from(Some("2026-06-15"), None)), (NotMet, None));
    assert_eq!(judge(from(Some("2026-06-16"), None)), (Met, None), "not yet");
    assert_eq!(judge(from(None, Some("2026-06-16"))), (Met, None), "not yet");
    assert_eq!(judge(from(Some("2026-06-01"), Some("2026-06-16"))), (NotMet, None), "it began before it was written down");
    assert_eq!(judge(from(None, None)), (NotMet, None));
    let rivals = [until("2026-06-01").version("x"), from(None, None).version("y")];
    assert_eq!(trial("site-dialysis", &rivals, "2026-06-15"), (Unknown, Some(Reason::ConflictingResults)));
}

#[test]
fn absence_proves_nothing_where_the_site_does_not_vouch_for_it() {
    use nephrogate::clinical::chart::Chart;
    let study = study(TRIAL);
    for complete in [&[][..], &[ResourceType::Observation]] {
        let assessment = assess(&study, &Chart::fold(vec![man_of_60()], complete), AsOf::parse("2026-06-01").unwrap());
        for id in ["site-dialysis", "site-transplant"] {
            let found = criterion(&assessment, id);
            assert_eq!((found.verdict, found.reason), (Unknown, Some(Reason::AbsenceNotProven)));
            assert_eq!(found.missing, ["condition"]);
        }
    }
    assert_eq!(trial("site-dialysis", &[man_of_60()], "2026-06-01"), (Met, None));
    let assessment = assess(&study, &Chart::fold(vec![condition("d", Concept::Dialysis, "active", "")], &[]), AsOf::parse("2026-06-01").unwrap());
    let found = criterion(&assessment, "site-dialysis");
    assert_eq!((found.verdict, found.evidence[0].resource.as_str(), found.evidence[0].what.as_str()), (NotMet, "Condition/d", "dialysis"));
    assert_eq!(found.explanation, "dialysis on record since 2024-01-01");
}

/// What passes the trial's prescreen on 2026-06-10.
fn candidate() -> Vec<Fact> {
    vec![man_of_60(), creatinine("c1", "2026-01-01", 2.0), creatinine("c2", "2026-06-01", 2.1)]
}

/// What passes every criterion that data decide.
fn sound() -> Vec<Fact> {
    use Analyte::{AlkalinePhosphatase, Alt, Ast, Bilirubin, Hemoglobin, HemoglobinA1c, NeutrophilCount, PlateletCount};
    let at = "2026-06-01";
    let mut facts = candidate();
    facts.extend([
        lab("anc", NeutrophilCount, at, 3.0, Unit::ThousandPerUl),
        lab("plt", PlateletCount, at, 200.0, Unit::ThousandPerUl),
        lab("hb", Hemoglobin, at, 11.0, Unit::GPerDl),
        lab("bili", Bilirubin, at, 0.6, Unit::MgPerDl).upper(1.2),
        lab("ast", Ast, at, 30.0, Unit::UPerL).upper(40.0),
        lab("alt", Alt, at, 30.0, Unit::UPerL).upper(40.0),
        lab("alp", AlkalinePhosphatase, at, 80.0, Unit::UPerL).upper(120.0),
        lab("a1c", HemoglobinA1c, at, 6.5, Unit::Percent),
    ]);
    facts
}

const OPEN: [&str; 4] = ["exclusion-1", "exclusion-5", "exclusion-6", "exclusion-unread"];

fn attest(facts: &[Fact], criterion_id: &str, when: &str, passes: bool) -> Fact {
    let assessment = judged(&study(TRIAL), facts, when);
    let seen = &criterion(&assessment, criterion_id).evidence_hash;
    decision(&format!("{criterion_id}-{when}"), TRIAL, when, seen, Decided::Attestation { criterion: criterion_id.into(), passes })
}

fn consent(when: &str, given: bool) -> Fact {
    decision(&format!("consent-{when}"), TRIAL, when, "", Decided::Consent { given })
}

fn moved(when: &str, to: DecidedState) -> Fact {
    decision(&format!("state-{when}"), TRIAL, when, "", Decided::State { to })
}

#[test]
fn a_subject_goes_from_candidate_to_completed_by_what_persons_decide() {
    let study = study(TRIAL);
    let state = |facts: &[Fact], as_of: &str| {
        let assessment = judged(&study, facts, as_of);
        (assessment.state, assessment.prescreen, assessment.eligibility)
    };
    let mut facts = sound();
    assert_eq!(state(&[man_of_60()], "2026-06-10"), (SubjectState::None, Unknown, Unknown));
    assert_eq!(state(&facts, "2026-06-10"), (SubjectState::Candidate, Met, Unknown));
    facts.push(consent("2026-06-11", true));
    assert_eq!(state(&facts, "2026-06-11"), (SubjectState::Consented, Met, Unknown));
    for id in OPEN {
        facts.push(attest(&facts, id, "2026-06-12", true));
    }
    assert_eq!(state(&facts, "2026-06-12"), (SubjectState::Eligible, Met, Met));
    assert_eq!(state(&facts, "2026-06-11"), (SubjectState::Consented, Met, Unknown), "as of the day before");
    facts.push(moved("2026-06-13", DecidedState::Enrolled));
    facts.push(moved("2026-08-01", DecidedState::OnFollowUp));
    facts.push(moved("2027-06-01", DecidedState::Completed));
    let assessment = judged(&study, &facts, "2026-06-13");
    assert_eq!((assessment.state, assessment.was_enrolled, assessment.alerts.as_slice()), (SubjectState::Enrolled, true, [].as_slice()));
    assert_eq!(state(&facts, "2026-08-01").0, SubjectState::OnFollowUp);
    let done = judged(&study, &facts, "2027-06-01");
    assert_eq!((done.state, done.prescreen, done.alerts.as_slice()), (SubjectState::Completed, Unknown, [].as_slice()));
    // A later fall of eGFR is the disease; a corrected screening result is a deviation for a person.
    facts.push(creatinine("later", "2026-09-01", 9.0));
    assert_eq!(judged(&study, &facts, "2026-09-02").alerts, []);
    facts.push(creatinine("c2", "2026-06-01", 1.0).version("2").status(Status::Corrected));
    let corrected = judged(&study, &facts, "2026-09-02");
    assert_eq!((corrected.alerts.as_slice(), corrected.state), ([Alert::EligibilityDeviation].as_slice(), SubjectState::OnFollowUp));
}

#[test]
fn one_failing_item_makes_the_totals_fail_and_one_open_item_keeps_them_open() {
    let study = study(TRIAL);
    let mut facts = sound();
    facts.push(attest(&facts, "exclusion-5", "2026-06-12", false));
    let assessment = judged(&study, &facts, "2026-06-12");
    assert_eq!((assessment.prescreen, assessment.eligibility), (Met, NotMet));
    // Ours decides the prescreen and never the protocol's total.
    facts = sound();
    facts.push(condition("d", Concept::Dialysis, "active", ""));
    let assessment = judged(&study, &facts, "2026-06-12");
    assert_eq!((assessment.prescreen, assessment.eligibility), (NotMet, Unknown));
}

#[test]
fn an_attestation_answers_only_what_is_open_and_lapses_with_its_evidence() {
    let study = study(TRIAL);
    let mut facts = vec![man_of_60(), creatinine("c1", "2026-01-01", 2.0), creatinine("c2", "2026-06-01", creatinine_of(44.3))];
    let open = judged(&study, &facts, "2026-06-10");
    assert_eq!((open.prescreen, criterion(&open, "inclusion-2").reason), (Unknown, Some(Reason::Boundary)));
    facts.push(attest(&facts, "inclusion-2", "2026-06-10", true));
    let answered = judged(&study, &facts, "2026-06-11");
    let egfr = criterion(&answered, "inclusion-2");
    assert_eq!((answered.prescreen, egfr.verdict, egfr.protocol_verdict, egfr.reason), (Met, Met, Met, Some(Reason::Boundary)));
    let attestation = egfr.attestation.as_ref().unwrap();
    assert_eq!((attestation.by.as_str(), attestation.passes), ("Dr. Chen", true));
    // A receipt or a version that says the same changes nothing.
    facts.push(creatinine("c2", "2026-06-01", creatinine_of(44.3)).version("2"));
    assert_eq!(judged(&study, &facts, "2026-06-11").prescreen, Met);
    // Nor does the day; until the result is stale, which is another question.
    assert_eq!(judged(&study, &facts, "2026-08-30").prescreen, Met);
    assert_eq!(judged(&study, &facts, "2026-09-01").alerts, [Alert::AttestationLapsed]);
    // Other evidence lapses it, in the trial's words and on the list.
    facts.push(creatinine("c3", "2026-06-12", creatinine_of(44.4)));
    let lapsed = judged(&study, &facts, "2026-06-13");
    assert_eq!((lapsed.prescreen, lapsed.alerts.as_slice()), (Unknown, [Alert::AttestationLapsed].as_slice()));
    assert_eq!(criterion(&lapsed, "inclusion-2").attestation, None);
    // What data decide, nobody overrules, and there is nothing to lapse.
    facts.push(creatinine("c4", "2026-06-14", 1.0));
    let decided = judged(&study, &facts, "2026-06-15");
    assert_eq!((criterion(&decided, "inclusion-2").verdict, decided.alerts.as_slice()), (NotMet, [].as_slice()));
    // A later answer replaces an earlier one; another study's answers are not heard.
    let mut facts = candidate();
    facts.push(attest(&facts, "exclusion-1", "2026-06-10", true));
    facts.push(attest(&facts, "exclusion-1", "2026-06-11", false));
    assert_eq!(trial("exclusion-1", &facts, "2026-06-10"), (Met, Some(Reason::NotAttested)));
    assert_eq!(trial("exclusion-1", &facts, "2026-06-11"), (NotMet, Some(Reason::NotAttested)));
    let elsewhere: Vec<Fact> = facts
        .into_iter()
        .map(|mut fact| {
            if let nephrogate::clinical::fact::Body::Decision(decision) = &mut fact.body {
                decision.study = "another".into();
            }
            fact
        })
        .collect();
    assert_eq!(trial("exclusion-1", &elsewhere, "2026-06-12"), (Unknown, Some(Reason::NotAttested)));
}

#[test]
fn an_answer_to_what_a_site_rule_held_back_leaves_the_protocols_verdict() {
    let study = study(TRIAL);
    let mut facts = vec![man_of_60(), creatinine("a", "2026-01-01", 1.0)];
    facts.push(attest(&facts, "inclusion-2", "2026-06-10", true));
    let assessment = judged(&study, &facts, "2026-06-10");
    let egfr = criterion(&assessment, "inclusion-2");
    assert_eq!((egfr.verdict, egfr.protocol_verdict, assessment.eligibility), (Met, NotMet, NotMet));
}

#[test]
fn consent_is_a_decision_and_its_withdrawal_another() {
    let mut facts = candidate();
    assert_eq!(trial("inclusion-3", &facts, "2026-06-10"), (Unknown, Some(Reason::NotAttested)));
    facts.push(consent("2026-06-11", true));
    assert_eq!(trial("inclusion-3", &facts, "2026-06-11"), (Met, None));
    facts.push(consent("2026-06-12", false));
    assert_eq!(trial("inclusion-3", &facts, "2026-06-12"), (NotMet, None));
    assert_eq!(judged(&study(TRIAL), &facts, "2026-06-12").state, SubjectState::Withdrawn);
    facts.push(consent("2026-06-13", true));
    assert_eq!(judged(&study(TRIAL), &facts, "2026-06-13").state, SubjectState::Consented);
}

#[test]
fn who_must_not_appear_is_hidden_by_a_reason() {
    let hidden = |facts: &[Fact], as_of: &str| judged(&study(TRIAL), facts, as_of).hidden;
    let with = |change: fn(&mut nephrogate::clinical::fact::Person)| hidden(&[person_with(change)], "2026-06-10");
    assert_eq!(hidden(&[man_of_60()], "2026-06-10"), None);
    assert_eq!(hidden(&[creatinine("a", "2026-06-01", 2.0)], "2026-06-10"), Some(Hidden::NoPatient));
    assert_eq!(with(|person| person.is_restricted = true), Some(Hidden::Restricted));
    assert_eq!(with(|person| person.is_test = true), Some(Hidden::TestPatient));
    assert_eq!(with(|person| person.replaced_by = Some("q".into())), Some(Hidden::Merged));
    assert_eq!(with(|person| person.deceased = true), Some(Hidden::Deceased));
    let dies = |person: &mut nephrogate::clinical::fact::Person| (person.deceased, person.deceased_at) = (true, Some(date("2026-06-10")));
    assert_eq!(hidden(&[person_with(dies)], "2026-06-09"), None);
    assert_eq!(hidden(&[person_with(dies)], "2026-06-10"), Some(Hidden::Deceased));
    // Where test patients are real, and only there.
    let mut chart = chart(&[person_with(|person| person.is_test = true)]);
    chart.tests_are_real = true;
    assert_eq!(assess(&study(TRIAL), &chart, AsOf::parse("2026-06-10").unwrap()).hidden, None);
    // A wish is heard until it is taken back.
    let opt_out = |when: &str, opted_out: bool| decision(&format!("o-{when}"), TRIAL, when, "", Decided::OptOut { opted_out });
    let facts = [man_of_60(), opt_out("2026-06-11", true), opt_out("2026-06-20", false)];
    assert_eq!(hidden(&facts, "2026-06-10"), None);
    assert_eq!(hidden(&facts, "2026-06-11"), Some(Hidden::OptedOut));
    assert_eq!(hidden(&facts, "2026-06-20"), None);
    // After enrolment a death is news of the trial, not a reason to hide.
    let mut enrolled = sound();
    enrolled.extend([consent("2026-06-11", true), moved("2026-06-12", DecidedState::Enrolled)]);
    enrolled[0] = person_with(|person| {
        (person.birth_date, person.sex) = (Some(date("1966-01-01")), Some(Sex::Male));
        (person.deceased, person.deceased_at) = (true, Some(date("2026-07-01")));
    });
    let assessment = judged(&study(TRIAL), &enrolled, "2026-07-02");
    assert_eq!((assessment.hidden, assessment.state), (None, SubjectState::Deceased));
    assert_eq!(judged(&study(TRIAL), &enrolled, "2026-06-30").state, SubjectState::Enrolled);
}

#[test]
fn impossible_steps_are_refused_from_every_state() {
    use SubjectState as S;
    let all = [
        S::None,
        S::Candidate,
        S::Consented,
        S::Eligible,
        S::Enrolled,
        S::OnFollowUp,
        S::Completed,
        S::ScreenFailed,
        S::Lost,
        S::Withdrawn,
        S::Deceased,
    ];
    let state = |to: DecidedState| Decided::State { to };
    let attest = Decided::Attestation { criterion: "c".into(), passes: true };
    // Each decision, from where it is possible before and after enrolment.
    let table: [(Decided, &[S], &[S]); 11] = [
        (attest, &[S::None, S::Candidate, S::Consented, S::Eligible], &[]),
        (Decided::OptOut { opted_out: true }, &all, &all),
        (Decided::OptOut { opted_out: false }, &all, &all),
        (Decided::Consent { given: true }, &[S::Candidate, S::ScreenFailed, S::Withdrawn], &[]),
        (
            Decided::Consent { given: false },
            &[S::None, S::Candidate, S::Consented, S::Eligible, S::ScreenFailed],
            &[S::Enrolled, S::OnFollowUp, S::Completed, S::Lost],
        ),
        (state(DecidedState::Enrolled), &[S::Eligible], &[]),
        (state(DecidedState::OnFollowUp), &[], &[S::Enrolled, S::Lost]),
        (state(DecidedState::Completed), &[], &[S::OnFollowUp]),
        (state(DecidedState::ScreenFailed), &[S::None, S::Candidate, S::Consented, S::Eligible], &[]),
        (state(DecidedState::Lost), &[], &[S::Enrolled, S::OnFollowUp]),
        (
            state(DecidedState::Withdrawn),
            &[S::None, S::Candidate, S::Consented, S::Eligible, S::ScreenFailed],
            &[S::Enrolled, S::OnFollowUp, S::Completed, S::Lost],
        ),
    ];
    let before = [S::None, S::Candidate, S::Consented, S::Eligible, S::ScreenFailed, S::Withdrawn, S::Deceased];
    let after = [S::Enrolled, S::OnFollowUp, S::Completed, S::Lost, S::Withdrawn, S::Deceased];
    for (decided, from_before, from_after) in table {
        for from in before {
            assert_eq!(allowed(from, false, &decided), from_before.contains(&from), "{decided:?} from {from:?}, never enrolled");
        }
        for from in after {
            assert_eq!(allowed(from, true, &decided), from_after.contains(&from), "{decided:?} from {from:?}, enrolled");
        }
    }
}

#[test]
fn a_step_that_no_door_would_have_let_in_moves_nobody() {
    let mut facts = sound();
    facts.push(moved("2026-06-11", DecidedState::Enrolled));
    let assessment = judged(&study(TRIAL), &facts, "2026-06-12");
    assert_eq!((assessment.state, assessment.was_enrolled), (SubjectState::Candidate, false));
}

#[test]
fn who_misses_by_one_is_named_with_the_distance_and_the_trend() {
    let study = study(TRIAL);
    let facts = [
        man_of_60(),
        creatinine("a", "2025-06-01", creatinine_of(52.0)),
        creatinine("b", "2025-12-01", creatinine_of(50.0)),
        creatinine("c", "2026-06-01", creatinine_of(48.0)),
    ];
    let miss = judged(&study, &facts, "2026-06-10").near_miss.unwrap();
    assert_eq!(miss.criterion, "inclusion-2");
    assert!((miss.distance.unwrap() + 4.0).abs() < 1e-9);
    // 52 to 48 in a year, and 0.3 more because he was 59 when the first two were drawn.
    assert!((miss.trend_per_year.unwrap() + 4.3).abs() < 0.05, "{:?}", miss.trend_per_year);
    // Two failing, or one open besides, is no near miss; nor is the only criterion of a study.
    let mut two = facts.to_vec();
    two.push(condition("d", Concept::Dialysis, "active", ""));
    assert_eq!(judged(&study, &two, "2026-06-10").near_miss, None);
    assert_eq!(judged(&study, &facts[..2], "2025-06-02").near_miss, None);
    assert_eq!(window(&facts, "2026-06-10").near_miss, None);
    assert_eq!(judged(&study, &candidate(), "2026-06-10").near_miss, None);
    // Two results, or three of one month, have no trend.
    let short = [man_of_60(), facts[1].clone(), creatinine("c", "2026-06-01", creatinine_of(48.0))];
    assert_eq!(judged(&study, &short, "2026-06-10").near_miss.unwrap().trend_per_year, None);
}

#[test]
fn the_series_holds_one_exact_point_for_each_draw_oldest_first() {
    let facts = [
        man_of_60(),
        creatinine("c", "2026-06-01", 2.1),
        creatinine("a", "2026-01-01", 2.0),
        creatinine("b", "2026-03-01", 2.0).comparator(Comparator::Less),
        creatinine("a2", "2026-01-01", 2.5).rank(1),
        creatinine("d", "2026-07-01", 2.0).status(Status::Preliminary),
    ];
    let series = judged(&study(TRIAL), &facts, "2026-08-01").series;
    let points: Vec<(&str, &str, f64)> = series.iter().map(|point| (point.resource.as_str(), point.date.as_str(), point.creatinine_mg_dl)).collect();
    assert_eq!(points, [("Observation/a", "2026-01-01", 2.0), ("Observation/c", "2026-06-01", 2.1)]);
}

#[test]
fn evidence_says_where_each_number_comes_from() {
    let facts = [man_of_60(), lab("a", Analyte::Creatinine, "2026-06-01T08:30:00+09:00", 185.6, Unit::UmolPerL)];
    let assessment = window(&facts, "2026-06-02");
    let row = &assessment.criteria[0].evidence[0];
    assert_eq!(
        (row.resource.as_str(), row.version.as_deref(), row.what.as_str(), row.code.as_str()),
        ("Observation/a", Some("1"), "creatinine", "loinc|0000-0")
    );
    assert_eq!((row.value_as_received.as_str(), row.unit_as_received.as_str()), ("185.6", "umol/L"));
    assert_eq!((row.date.as_deref(), row.status.as_str()), (Some("2026-06-01T08:30:00+09:00"), "final"));
    assert!((row.value_used.unwrap() - 2.0991).abs() < 0.0001);
    assert_eq!((row.unit_used.as_deref(), row.equation.as_deref()), (Some("mg/dL"), Some("ckd-epi-2021-creatinine")));
    assert_eq!(row.threshold.as_deref(), Some("15 to 44 mL/min/1.73 m2"));
    assert_eq!(assessment.criteria[0].explanation, "eGFR 35 (35.390 before rounding) is within 15 to 44");
    assert_eq!(assessment.egfr, row.egfr);
    assert_eq!((assessment.study.as_str(), assessment.study_hash.len()), (WINDOW, 64));
    // Newer results of other kinds of quantity do not stand beside it.
    assert_eq!(assessment.criteria[0].evidence.len(), 1);
}

#[test]
fn a_study_that_has_nothing_to_do_with_kidneys_runs_on_the_same_engine() {
    let study = study("anaemia-1");
    let woman = || person("1976-01-01", Sex::Female);
    let hb = |when: &str, value: f64| lab("hb", Analyte::Hemoglobin, when, value, Unit::GPerDl);
    let diabetes = || condition("e11", Concept::Diabetes, "active", "confirmed");
    let prescreen = |facts: &[Fact]| judged(&study, facts, "2026-06-10").prescreen;
    assert_eq!(prescreen(&[woman(), hb("2026-06-01", 9.5), diabetes()]), Met);
    assert_eq!(prescreen(&[woman(), hb("2026-06-01", 11.1), diabetes()]), NotMet);
    assert_eq!(prescreen(&[woman(), hb("2026-05-01", 9.5), diabetes()]), Unknown);
    assert_eq!(prescreen(&[man_of_60(), hb("2026-06-01", 9.5), diabetes()]), NotMet);
    assert_eq!(prescreen(&[person("1976-01-01", Sex::Other), hb("2026-06-01", 9.5), diabetes()]), Unknown);
    assert_eq!(prescreen(&[woman(), hb("2026-06-01", 9.5)]), NotMet, "complete Conditions without diabetes");
    assert_eq!(prescreen(&[woman(), diabetes()]), Unknown);
    let assessment = judged(&study, &[woman(), hb("2026-06-01", 9.5), diabetes()], "2026-06-10");
    assert_eq!((assessment.egfr, assessment.series.len(), assessment.state), (None, 0, SubjectState::Candidate));
    assert_eq!(study.needs().analytes, [Analyte::Hemoglobin]);
    assert_eq!(study.needs().concepts, [Concept::Pregnancy, Concept::Diabetes]);
}

#[test]
fn a_study_names_all_that_can_change_its_verdicts_and_courses() {
    assert_eq!(study(WINDOW).needs().analytes, [Analyte::Creatinine]);
    assert_eq!(study(WINDOW).needs().concepts, []);
    let trial = study(TRIAL);
    use Analyte::{AlkalinePhosphatase, Alt, Ast, Bilirubin, Creatinine, Hemoglobin, HemoglobinA1c, NeutrophilCount, PlateletCount};
    let analytes = [Creatinine, NeutrophilCount, PlateletCount, Hemoglobin, Bilirubin, Ast, Alt, AlkalinePhosphatase, HemoglobinA1c];
    assert_eq!(trial.needs().analytes, analytes);
    // The criteria's, and the Conditions that are news in a trial.
    assert_eq!(trial.needs().concepts, [Concept::Dialysis, Concept::KidneyTransplant, Concept::AcuteKidneyInjury, Concept::Pregnancy]);
    use ResourceType::{AdverseEvent, Encounter, MedicationAdministration, ResearchSubject};
    assert_eq!(trial.needs().types, [AdverseEvent, ResearchSubject, MedicationAdministration, Encounter]);
    assert_eq!(study(WINDOW).needs().types, []);
    // The report's arms and the registry's weeks.
    let arms: Vec<(f64, u32)> = trial.arms.iter().map(|arm| (arm.cells, arm.planned_subjects)).collect();
    assert_eq!(arms, [(6.4e7, 3), (19.2e7, 3), (32.0e7, 6)]);
    assert_eq!(trial.visits.iter().map(|visit| visit.week).collect::<Vec<_>>(), [0, 2, 4, 12, 24, 36, 48]);
    assert!(trial.registry.iter().all(|id| id.value == "NCT02933827"));
}

#[test]
fn a_study_that_cannot_be_meant_is_refused_with_the_place() {
    let base = r#"{"id":"s","title":"t","note":"n","egfr":{"equation":"ckd-epi-2021-creatinine","creatinine_factor_umol_l_per_mg_dl":88.42,"which_result":"newest-ranked-issued","note":"n"},"criteria":[CRITERIA]}"#;
    let criterion = |id: &str, rule: &str| {
        format!(r#"{{"id":"{id}","text":"t","type":"inclusion","origin":"registry","stage":"prescreen","note":"n","rule":{rule}}}"#)
    };
    let faults = |text: &str| Study::parse(text).expect_err(text);
    let paths = |faults: &[StudyFault]| faults.iter().map(|fault| fault.path.clone()).collect::<Vec<_>>();
    let ok = criterion("c", r#"{"kind":"attested"}"#);
    assert!(Study::parse(&base.replace("CRITERIA", &ok)).is_ok());
    let rules = [
        r#"{"kind":"age"}"#,
        r#"{"kind":"age","min_years":80,"max_years":20}"#,
        r#"{"kind":"sex","is":[]}"#,
        r#"{"kind":"egfr-range","low":44,"high":15,"boundary":"review"}"#,
        r#"{"kind":"egfr-range","low":15,"high":44.5,"boundary":"review"}"#,
        r#"{"kind":"egfr-range","low":14.5,"high":44,"boundary":"review"}"#,
        r#"{"kind":"egfr-range","low":15,"high":44,"boundary":"review","max_age_days":0}"#,
        r#"{"kind":"egfr-range","low":15,"high":44,"boundary":"review","acute_rise":{"rise_mg_dl":0.3,"within_hours":48,"ratio":0,"within_days":7}}"#,
        r#"{"kind":"egfr-sustained","below":0,"days":90}"#,
        r#"{"kind":"egfr-sustained","below":60,"days":-1}"#,
        r#"{"kind":"lab-limit","analyte":"hemoglobin","unit":"g/dL"}"#,
        r#"{"kind":"lab-limit","analyte":"hemoglobin","unit":"g/dL","min":9,"max":8}"#,
        r#"{"kind":"lab-limit","analyte":"hemoglobin","unit":"U/L","min":9}"#,
        r#"{"kind":"lab-limit","analyte":"hemoglobin","unit":"g/dL","min":9,"convert":[{"from":"U/L","times":1,"plus":0,"note":"n"}]}"#,
        r#"{"kind":"lab-limit","analyte":"hemoglobin","unit":"g/dL","min":9,"max_age_days":-1}"#,
        r#"{"kind":"lab-upper-limit","analytes":[],"times":2.5}"#,
        r#"{"kind":"lab-upper-limit","analytes":["ast"],"times":0}"#,
        r#"{"kind":"lab-upper-limit","analytes":["ast"],"times":1,"max_age_days":0}"#,
    ];
    for rule in rules {
        assert_eq!(paths(&faults(&base.replace("CRITERIA", &criterion("c", rule)))), ["/criteria/0/rule"], "{rule}");
    }
    let twice = format!("{ok},{ok}");
    assert_eq!(paths(&faults(&base.replace("CRITERIA", &twice))), ["/criteria/1/id"]);
    assert_eq!(paths(&faults(&base.replace("CRITERIA", &criterion("", r#"{"kind":"attested"}"#)))), ["/criteria/0/id"]);
    assert_eq!(paths(&faults(&base.replace("CRITERIA", ""))), ["/criteria"]);
    assert_eq!(paths(&faults(&base.replace("CRITERIA", &ok).replace(r#""id":"s""#, r#""id":"""#))), ["/id"]);
    assert_eq!(paths(&faults(&base.replace("CRITERIA", &ok).replace("88.42", "113.12"))), ["/egfr/creatinine_factor_umol_l_per_mg_dl"]);
    let needs = faults(&base.replace("CRITERIA", &ok).replace("ckd-epi-2021-creatinine", "ckd-epi-2012-cystatin-c"));
    assert_eq!((needs[0].path.as_str(), needs[0].message.as_str()), ("/egfr/equation", "ckd-epi-2012-cystatin-c also needs cystatin-c"));
    let without = base.replace("CRITERIA", &criterion("c", r#"{"kind":"egfr-sustained","below":60,"days":90}"#));
    let start = without.find(r#""egfr":"#).unwrap();
    let end = without.find(r#""criteria""#).unwrap();
    assert_eq!(paths(&faults(&format!("{}{}", &without[..start], &without[end..]))), ["/criteria/0/rule"]);
    // What cannot be read at all says where.
    for (text, word) in [("{", "EOF"), (&base.replace("ckd-epi-2021-creatinine", "ckd-epi-1999"), "ckd-epi-1999")] {
        let found = faults(&text.replace("CRITERIA", &ok));
        assert!(found[0].message.contains(word), "{}", found[0].message);
    }
    assert!(faults(&base.replace("CRITERIA", &criterion("c", r#"{"kind":"attested","extra":1}"#)))[0].message.contains("extra"));
    assert!(faults(&base.replace("CRITERIA", &criterion("c", r#"{"kind":"wish"}"#)))[0].message.contains("wish"));
}
