//! Laws of chart and rules, held by random charts.

use proptest::prelude::*;

use nephrogate::clinical::chart::Chart;
use nephrogate::clinical::date::{AsOf, Day};
use nephrogate::clinical::fact::{Body, Concept, Decided, DecidedState, Fact, Person, ResourceType, Sex, Status};
use nephrogate::clinical::quantity::{ANALYTES, Analyte, Comparator, Unit};
use nephrogate::rules::{Assessment, Verdict, assess};
use nephrogate::study::{Origin, Stage, Study};

use crate::facts::*;

const STUDIES: [&str; 3] = ["elixcyte-1", "egfr-window", "anaemia-1"];

/// The day of every judgement here; facts lie within some 300 days before and 100 after it.
const TODAY: &str = "2026-06-30";

fn day(days_before: i64) -> String {
    Day::from_number(date(TODAY).day().number() - days_before).to_string()
}

/// One analyte to an id, as at a source: an id does not become another test.
fn measurement() -> impl Strategy<Value = Fact> {
    let units = [
        (Analyte::Creatinine, Unit::MgPerDl, 1.0),
        (Analyte::Creatinine, Unit::UmolPerL, 88.42),
        (Analyte::Hemoglobin, Unit::GPerDl, 5.0),
        (Analyte::NeutrophilCount, Unit::ThousandPerUl, 0.8),
        (Analyte::HemoglobinA1c, Unit::Percent, 4.0),
        (Analyte::Alt, Unit::UPerL, 50.0),
    ];
    let status =
        prop_oneof![8 => Just(Status::Final), 1 => Just(Status::Corrected), 1 => Just(Status::Preliminary), 1 => Just(Status::EnteredInError)];
    let comparator = prop_oneof![
        8 => Just(None), 1 => Just(Some(Comparator::Less)), 1 => Just(Some(Comparator::GreaterOrEqual))
    ];
    let when = prop_oneof![
        3 => (-100_i64..300).prop_map(day),
        1 => (0_i64..10).prop_map(|ago| format!("{}T08:00:00Z", day(ago * 40))),
        1 => Just("2026-05".to_string()),
    ];
    let version = prop_oneof![Just(Some("1")), Just(Some("2")), Just(Some("10")), Just(Some("x")), Just(None)];
    (0..6_usize, 0..3_u8, version, status, when, 0.5_f64..3.0, comparator, 0..2_u8, prop::option::of(0..3_i64), any::<bool>(), any::<bool>())
        .prop_map(move |(kind, id, version, status, when, size, comparator, rank, issued, is_keyed, has_limit)| {
            let (analyte, unit, one) = units[kind];
            let mut fact = lab(&format!("{kind}-{id}"), analyte, &when, (size * one * 10.0).round() / 10.0, unit).status(status).rank(rank);
            fact.source.version = version.map(Into::into);
            fact.issued_ms = issued.map(|days| ms(TODAY) + days);
            fact.key = is_keyed.then(|| format!("{kind}-key").into());
            fact.measured(|m| {
                m.comparator = comparator;
                m.reference_high = has_limit.then_some(one);
            })
        })
}

fn patient() -> impl Strategy<Value = Fact> {
    let sex = prop_oneof![Just(Some(Sex::Female)), Just(Some(Sex::Male)), Just(Some(Sex::Unknown)), Just(None)];
    let birth = prop_oneof![2 => Just(Some("1966-01-01")), 1 => Just(Some("2010-07-01")), 1 => Just(Some("1946")), 1 => Just(None)];
    let version = prop_oneof![Just("1"), Just("2"), Just("x"), Just("y")];
    (sex, birth, version, any::<bool>()).prop_map(|(sex, birth, version, deceased)| {
        person_with(|person| {
            *person = Person { sex, birth_date: birth.map(date), deceased, ..person.clone() };
        })
        .version(version)
    })
}

fn a_condition() -> impl Strategy<Value = Fact> {
    let concept = prop_oneof![Just(Concept::Dialysis), Just(Concept::KidneyTransplant), Just(Concept::Diabetes), Just(Concept::Pregnancy)];
    let clinical = prop_oneof![Just("active"), Just("resolved"), Just("")];
    let verification = prop_oneof![Just("confirmed"), Just(""), Just("provisional"), Just("refuted")];
    (concept, clinical, verification, -100_i64..300, any::<bool>()).prop_map(|(concept, clinical, verification, ago, is_first)| {
        let fact = condition(&format!("{concept:?}"), concept, clinical, verification).version(if is_first { "1" } else { "2" });
        fact.conditioned(|condition| condition.onset = Some(date(&day(ago))))
    })
}

/// Without attestations: an answer that a person gave to an earlier state of the record is data of its own.
fn a_decision() -> impl Strategy<Value = Fact> {
    let what = prop_oneof![
        Just(Decided::Consent { given: true }),
        Just(Decided::Consent { given: false }),
        Just(Decided::OptOut { opted_out: true }),
        Just(Decided::State { to: DecidedState::Enrolled }),
        Just(Decided::State { to: DecidedState::ScreenFailed }),
    ];
    (0..3_usize, -100_i64..300, what).prop_map(|(study, ago, what)| decision(&format!("{study}-{ago}-{what:?}"), STUDIES[study], &day(ago), "", what))
}

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let one = prop_oneof![6 => measurement(), 1 => patient(), 2 => a_condition(), 1 => a_decision()];
    prop::collection::vec(one, 0..24)
}

/// Creatinines of the last ten days and of half a year ago, some within hours: rises, falls and contradictions in one draw.
fn a_close_history() -> impl Strategy<Value = Vec<Fact>> {
    let one = (0_i64..240, 100_u32..500, 0..3_u8, any::<bool>()).prop_map(|(hours, centi, rank, is_old)| {
        let at = ms(TODAY) - hours * 3_600_000 - if is_old { 180 * 86_400_000 } else { 0 };
        let when = nephrogate::clinical::date::PartialDate::instant(at).to_string();
        creatinine(&format!("close-{hours}-{rank}-{is_old}"), &when, f64::from(centi) / 100.0).rank(rank)
    });
    prop::collection::vec(one, 0..8)
}

/// A chart that most criteria can decide: a person of a known age and sex, and every laboratory value near its limit.
fn a_nearly_whole_chart() -> impl Strategy<Value = Vec<Fact>> {
    let kinds = [
        (Analyte::Hemoglobin, Unit::GPerDl, 8.0),
        (Analyte::NeutrophilCount, Unit::ThousandPerUl, 1.5),
        (Analyte::PlateletCount, Unit::ThousandPerUl, 100.0),
        (Analyte::HemoglobinA1c, Unit::Percent, 8.0),
        (Analyte::Bilirubin, Unit::MgPerDl, 2.5),
        (Analyte::Ast, Unit::UPerL, 100.0),
        (Analyte::Alt, Unit::UPerL, 100.0),
        (Analyte::AlkalinePhosphatase, Unit::UPerL, 250.0),
    ];
    prop::collection::vec((0_u32..20, 0..10_u8), kinds.len()).prop_map(move |sizes| {
        let value = |((analyte, unit, limit), (tenths, luck)): (&(Analyte, Unit, f64), (u32, u8))| {
            let limit_of_normal = (luck != 0).then_some(limit / 2.5);
            (luck != 1).then(|| {
                lab(analyte.word(), *analyte, &day(3), limit * f64::from(tenths) / 10.0, *unit).measured(|of| of.reference_high = limit_of_normal)
            })
        };
        std::iter::once(man_of_60()).chain(kinds.iter().zip(sizes).filter_map(value)).collect()
    })
}

fn without(facts: &[Fact], keep: impl Fn(&Fact) -> bool) -> Vec<Fact> {
    facts.iter().filter(|fact| keep(fact)).cloned().collect()
}

fn with_person(facts: &[Fact], change: fn(&mut Person)) -> Vec<Fact> {
    let mut facts = facts.to_vec();
    for fact in &mut facts {
        if let Body::Person(person) = &mut fact.body {
            change(person);
        }
    }
    facts
}

/// Every chart that lacks all data of one kind, with the name of the kind.
fn less(facts: &[Fact]) -> Vec<(String, Vec<Fact>)> {
    let mut less = vec![
        ("birth date".to_string(), with_person(facts, |person| person.birth_date = None)),
        ("sex".to_string(), with_person(facts, |person| person.sex = None)),
        ("patient".to_string(), without(facts, |fact| !matches!(fact.body, Body::Person(_)))),
        ("conditions".to_string(), without(facts, |fact| !matches!(fact.body, Body::Condition(_)))),
        ("decisions".to_string(), without(facts, |fact| !matches!(fact.body, Body::Decision(_)))),
    ];
    for analyte in ANALYTES.iter().map(|facts| facts.analyte) {
        let keep = |fact: &Fact| !matches!(&fact.body, Body::Measurement(measurement) if measurement.analyte == Some(analyte));
        less.push((analyte.word().to_string(), without(facts, keep)));
    }
    let mut unranged = facts.to_vec();
    for fact in &mut unranged {
        if let Body::Measurement(measurement) = &mut fact.body {
            measurement.reference_high = None;
        }
    }
    less.push(("reference ranges".to_string(), unranged));
    less
}

/// An answer of a person to everything that is open, given to the record as it stands.
fn answers(study: &Study, facts: &[Fact], complete: &[ResourceType], passes: bool) -> Vec<Fact> {
    let judged = assess(study, &Chart::fold(facts.to_vec(), complete), AsOf::parse(TODAY).unwrap());
    let open = judged.criteria.iter().filter(|criterion| criterion.verdict == Verdict::Unknown);
    open.map(|criterion| {
        let what = Decided::Attestation { criterion: criterion.id.as_str().into(), passes };
        decision(&format!("answer-{}", criterion.id), &study.id, TODAY, &criterion.evidence_hash, what)
    })
    .collect()
}

/// What less data may make of a verdict: what it was, or nothing that is known.
fn only_less_is_known(all: &Assessment, fewer: &Assessment) -> Result<(), String> {
    let law = |what: &str, before: Verdict, after: Verdict| {
        if after == before || after == Verdict::Unknown { Ok(()) } else { Err(format!("{what} was {} and is {}", before.word(), after.word())) }
    };
    law("prescreen", all.prescreen, fewer.prescreen)?;
    law("eligibility", all.eligibility, fewer.eligibility)?;
    for (before, after) in all.criteria.iter().zip(&fewer.criteria) {
        law(&before.id, before.verdict, after.verdict)?;
        law(&format!("{} by the protocol", before.id), before.protocol_verdict, after.protocol_verdict)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_chart_does_not_depend_on_order_or_duplicates(
        (facts, shuffled) in facts().prop_flat_map(|facts| (Just(facts.clone()), Just(facts).prop_shuffle())),
        again in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut twice = shuffled;
        for index in again {
            if !facts.is_empty() {
                // The same bytes by a later message.
                let mut copy = facts[index.index(facts.len())].clone();
                copy.source.message = 9;
                twice.insert(index.index(twice.len()), copy);
            }
        }
        prop_assert_eq!(Chart::fold(facts, &[]), Chart::fold(twice, &[]));
    }

    #[test]
    fn removing_all_data_of_one_kind_only_ever_makes_a_verdict_unknown(
        whole in prop_oneof![1 => Just(Vec::new()), 2 => a_nearly_whole_chart()],
        close in prop_oneof![1 => Just(Vec::new()), 2 => a_close_history()],
        scattered in facts(),
        passes in prop::option::of(any::<bool>()),
        is_complete in any::<bool>(),
    ) {
        let complete: &[ResourceType] = if is_complete { &[ResourceType::Condition] } else { &[] };
        let today = AsOf::parse(TODAY).unwrap();
        // Beside a nearly whole chart the scattered facts would mostly contradict it.
        let scattered = if whole.is_empty() { scattered } else { scattered.into_iter().take(3).collect() };
        for id in STUDIES {
            let study = study(id);
            let mut facts = [&whole[..], &close[..], &scattered[..]].concat();
            if let Some(passes) = passes {
                facts.extend(answers(&study, &facts, complete, passes));
            }
            let all = assess(&study, &Chart::fold(facts.clone(), complete), today);
            for (kind, fewer) in less(&facts) {
                // Where a site declares its Conditions complete, that there is none is an answer (rulings.md 12).
                if is_complete && kind == "conditions" {
                    continue;
                }
                let fewer = assess(&study, &Chart::fold(fewer, complete), today);
                let held = only_less_is_known(&all, &fewer);
                prop_assert!(held.is_ok(), "{id} without {kind}: {}", held.unwrap_err());
            }
        }
    }

    #[test]
    fn totals_are_kleene_and_over_the_criteria_that_count(facts in facts()) {
        let worst = |verdicts: &mut dyn Iterator<Item = Verdict>| {
            let verdicts: Vec<Verdict> = verdicts.collect();
            if verdicts.contains(&Verdict::NotMet) {
                Verdict::NotMet
            } else if verdicts.contains(&Verdict::Unknown) {
                Verdict::Unknown
            } else {
                Verdict::Met
            }
        };
        for id in STUDIES {
            let judged = judged(&study(id), &facts, TODAY);
            let first = worst(&mut judged.criteria.iter().filter(|one| one.stage == Stage::Prescreen).map(|one| one.verdict));
            let protocol = worst(&mut judged.criteria.iter().filter(|one| one.origin != Origin::SiteRule).map(|one| one.protocol_verdict));
            prop_assert_eq!((judged.prescreen, judged.eligibility), (first, protocol));
            for one in &judged.criteria {
                // Open has a reason; decided has none but what a person answered.
                prop_assert_eq!(one.verdict == Verdict::Unknown, one.reason.is_some() && one.attestation.is_none(), "{}", &one.id);
                prop_assert!(!one.explanation.is_empty());
                prop_assert_eq!(one.evidence_hash.len(), 64);
            }
        }
    }

    #[test]
    fn what_is_dated_later_never_changes_an_earlier_judgement(facts in facts(), later in facts()) {
        let today = AsOf::parse(TODAY).unwrap();
        let mut more = facts.clone();
        for (index, mut fact) in later.into_iter().enumerate() {
            fact.source.id = format!("later-{index}").into();
            fact.key = None;
            let after = Some(date(&day(-1 - index as i64)));
            match &mut fact.body {
                Body::Measurement(measurement) => measurement.effective = after,
                Body::Condition(condition) => condition.onset = after,
                Body::Decision(decision) => decision.at_ms = today.until_ms + 1,
                Body::Person(_)
                | Body::AdverseEvent(_)
                | Body::ResearchSubject(_)
                | Body::Administration(_)
                | Body::Encounter(_)
                | Body::PersonPart(_)
                | Body::Nothing => continue,
            }
            more.push(fact);
        }
        for id in STUDIES {
            let study = study(id);
            prop_assert_eq!(assess(&study, &Chart::fold(facts.clone(), &[]), today), assess(&study, &Chart::fold(more.clone(), &[]), today));
        }
    }
}

#[test]
fn six_versions_give_one_chart_in_all_720_orders() {
    let version = |version: &str, status: Status, mg_dl: f64| creatinine("a", "2026-06-01", mg_dl).version(version).status(status);
    let versions = [
        version("1", Status::Preliminary, 1.0),
        version("2", Status::Final, 2.0),
        version("3", Status::Corrected, 3.0),
        version("4", Status::EnteredInError, 3.0),
        version("10", Status::Final, 4.0),
        version("9", Status::Amended, 5.0),
    ];
    let expected = Chart::fold(versions.to_vec(), &[]);
    assert_eq!((expected.measurements.len(), expected.measurements[0].body.value, expected.retired.len()), (1, Some(4.0), 5));
    let mut orders = 0;
    permute(&mut versions.to_vec(), 0, &mut |order| {
        orders += 1;
        assert_eq!(Chart::fold(order.to_vec(), &[]), expected);
        // Early or late, a part of them shows the newest of the part.
        let newest = order[..3].iter().max_by_key(|fact| fact.source.version.as_ref().unwrap().parse::<u32>().unwrap()).unwrap();
        let part = Chart::fold(order[..3].to_vec(), &[]);
        assert_eq!(part.measurements.is_empty(), newest.status.is_withdrawn());
    });
    assert_eq!(orders, 720);
}

fn permute(facts: &mut Vec<Fact>, from: usize, see: &mut impl FnMut(&[Fact])) {
    if from == facts.len() {
        return see(facts);
    }
    for index in from..facts.len() {
        facts.swap(from, index);
        permute(facts, from + 1, see);
        facts.swap(from, index);
    }
}

/// One value that stands, or several that contradict each other.
fn standing(facts: &[Fact]) -> (Vec<f64>, bool) {
    let chart = Chart::fold(facts.to_vec(), &[]);
    (chart.measurements.iter().filter_map(|one| one.body.value).collect(), chart.measurements.iter().any(|one| one.is_conflicting))
}

#[test]
fn versions_are_put_in_order_by_number_then_update_then_issue_then_status() {
    let base = |mg_dl: f64| {
        let mut fact = creatinine("a", "2026-06-01", mg_dl);
        fact.source.version = None;
        fact
    };
    let updated = |mut fact: Fact, when: &str| {
        fact.source.last_updated_ms = Some(ms(when));
        fact
    };
    // 10 is newer than 9, whatever was updated or issued when.
    let by_number = [updated(base(2.0).version("10"), "2026-06-01"), updated(base(1.0).version("9"), "2026-06-02").issued("2026-06-02")];
    assert_eq!(standing(&by_number), (vec![2.0], false));
    let by_update = [updated(base(2.0).version("b"), "2026-06-02"), updated(base(1.0).version("9"), "2026-06-01").issued("2026-06-02")];
    assert_eq!(standing(&by_update), (vec![2.0], false));
    assert_eq!(standing(&[base(2.0).issued("2026-06-02"), base(1.0).issued("2026-06-01").status(Status::Corrected)]), (vec![2.0], false));
    assert_eq!(standing(&[base(2.0).status(Status::Corrected), base(1.0)]), (vec![2.0], false));
    assert_eq!(standing(&[base(2.0).status(Status::Final), base(1.0).status(Status::Preliminary)]), (vec![2.0], false));
    assert_eq!(standing(&[base(1.0), base(2.0).status(Status::EnteredInError)]), (vec![], false));
    assert_eq!(standing(&[base(2.0), base(1.0)]), (vec![1.0, 2.0], true));
    assert_eq!(standing(&[base(2.0).version("3"), base(1.0).version("3")]), (vec![1.0, 2.0], true));
    assert_eq!(standing(&[base(2.0).version("3"), base(2.0).version("3").status(Status::Deleted)]), (vec![], false));
    assert_eq!(standing(&[base(2.0).version("4"), base(2.0).version("3").status(Status::Deleted)]), (vec![2.0], false));
}

#[test]
fn one_result_by_two_doors_is_one_and_its_newer_version_retires_it_under_every_key() {
    let result = |id: &str, mg_dl: f64| creatinine(id, "2026-06-01", mg_dl).key("acc");
    assert_eq!(standing(&[result("a", 2.0).issued("2026-06-01"), result("b", 1.0).issued("2026-06-02")]), (vec![1.0], false));
    assert_eq!(standing(&[result("a", 2.0), result("b", 2.0)]), (vec![2.0, 2.0], false), "an exact copy contradicts nothing");
    assert_eq!(standing(&[result("a", 2.0), result("b", 1.0)]), (vec![2.0, 1.0], true));
    assert_eq!(standing(&[result("a", 2.0), result("b", 1.0).status(Status::Cancelled)]), (vec![], false));
    // The newer version of "a" names another accession: what the older gave under "acc" is gone too.
    let moved = creatinine("a", "2026-06-01", 3.0).version("2").key("other");
    assert_eq!(standing(&[result("a", 2.0).issued("2026-06-09"), moved, result("b", 1.0).issued("2026-06-02")]), (vec![3.0, 1.0], false));
    // A quarantined version retires the older and says nothing.
    let mut quarantined = result("a", 0.0).version("2");
    quarantined.body = Body::Nothing;
    assert_eq!(standing(&[result("a", 2.0), quarantined]), (vec![], false));
    // Three that beat each other in a circle (by status, by status, by issue) are rivals; none is lost.
    let circle = [
        result("a", 1.0).issued("2026-06-03").status(Status::Final),
        result("b", 2.0).status(Status::Corrected),
        result("c", 3.0).issued("2026-06-02").status(Status::Cancelled),
    ];
    assert_eq!(standing(&circle), (vec![1.0, 2.0], true));
}

#[test]
fn of_several_patient_records_what_they_agree_on_stands_with_every_reason_for_care() {
    let record = |version: &str, change: fn(&mut Person)| person_with(change).version(version);
    let of = |facts: &[Fact]| Chart::fold(facts.to_vec(), &[]).person.unwrap();
    let both = of(&[
        record("x", |person| (person.sex, person.birth_date, person.is_test) = (Some(Sex::Male), Some(date("1966-01-01")), true)),
        record("y", |person| (person.sex, person.birth_date, person.is_restricted) = (Some(Sex::Female), Some(date("1966-01-01")), true)),
    ]);
    assert!(both.is_conflicting && both.body.is_test && both.body.is_restricted);
    assert_eq!((both.body.sex, both.body.birth_date), (None, Some(date("1966-01-01"))));
    let died = |when: &'static str| move |person: &mut Person| (person.deceased, person.deceased_at) = (true, Some(date(when)));
    let deaths = of(&[person_with(died("2026-01-01")).version("x"), person_with(died("2026-02-01")).version("y")]);
    assert_eq!((deaths.body.deceased, deaths.body.deceased_at), (true, None));
    let death = of(&[record("x", |_| {}), person_with(died("2026-02-01")).version("y")]);
    assert_eq!((death.body.deceased, death.body.deceased_at), (true, Some(date("2026-02-01"))));
    // A record that was merged away does not speak for the one that stands.
    let mut old = person("1950-01-01", Sex::Male);
    old.source.id = "old".into();
    let Body::Person(body) = &mut old.body else { unreachable!("a person") };
    body.replaced_by = Some("p".into());
    let kept = of(&[old.clone(), person("1966-01-01", Sex::Female)]);
    assert_eq!((kept.source.id.as_str(), kept.is_conflicting, kept.body.sex), ("p", false, Some(Sex::Female)));
    assert!(of(&[old]).body.replaced_by.is_some());
    assert_eq!(Chart::fold(vec![man_of_60().version("2").status(Status::Deleted), man_of_60()], &[ResourceType::Condition]).person, None);
}
