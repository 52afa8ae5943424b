//! What notifications say, in every shape; their numbers; and our own Subscription in every style.

use nephrogate::fhir::notification::numbers::Numbers;
use nephrogate::fhir::notification::{self, Event, Focus, Kind as Told, Notification};
use nephrogate::fhir::subscribe::{self, Ask, Standing, Style};
use nephrogate::fhir::subscription::Content;
use nephrogate::issue::Code;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{TOPIC, focus};
use crate::gateway::creatinine;
use crate::subscriptions::passes_hl7s_validator;

fn hook(foci: Vec<Option<Focus>>) -> Notification {
    Notification {
        kind: Told::EventNotification,
        subscription: None,
        topic: None,
        events_since_start: None,
        events: foci.into_iter().map(|focus| Event { focus, ..Event::default() }).collect(),
        is_in_trouble: false,
    }
}

/// A status as each release writes it: the first entry of a notification.
pub fn status_entry(release: &str, kind: &str, status: &str, so_far: u64, events: &[(u64, Option<&str>)]) -> Value {
    let time = "2026-11-26T08:00:00.000Z";
    let resource = match release {
        "R4" => {
            let mut parameter = vec![
                json!({"name": "subscription", "valueReference": {"reference": "https://ehr.example/fhir/Subscription/s1"}}),
                json!({"name": "topic", "valueCanonical": TOPIC}),
                json!({"name": "status", "valueCode": status}),
                json!({"name": "type", "valueCode": kind}),
                json!({"name": "events-since-subscription-start", "valueString": so_far.to_string()}),
            ];
            parameter.extend(events.iter().map(|(number, focus)| {
                let mut part =
                    vec![json!({"name": "event-number", "valueString": number.to_string()}), json!({"name": "timestamp", "valueInstant": time})];
                part.extend(
                    focus.map(|focus| json!({"name": "focus", "valueReference": {"reference": format!("https://ehr.example/fhir/{focus}")}})),
                );
                json!({"name": "notification-event", "part": part})
            }));
            json!({"resourceType": "Parameters", "parameter": parameter})
        }
        _ => {
            let event = |(number, focus): &(u64, Option<&str>)| {
                // R5 has 64-bit numbers as texts in JSON; R4B has texts; some servers write numbers.
                let number = if release == "R4B" { json!(number.to_string()) } else { json!(number) };
                let mut event = json!({"eventNumber": number, "timestamp": time});
                if let Some(focus) = focus {
                    event["focus"] = json!({"reference": *focus});
                }
                event
            };
            let events: Vec<Value> = events.iter().map(event).collect();
            let mut status = json!({"resourceType": "SubscriptionStatus", "status": status, "type": kind, "topic": TOPIC,
                "eventsSinceSubscriptionStart": so_far.to_string(), "subscription": {"reference": "Subscription/s1"}});
            if !events.is_empty() {
                status["notificationEvent"] = json!(events);
            }
            status
        }
    };
    json!({"fullUrl": "urn:uuid:7c1f0b52-0000-4000-8000-00000000000a", "resource": resource,
        "request": {"method": "GET", "url": "https://ehr.example/fhir/Subscription/s1/$status"}, "response": {"status": "200"}})
}

pub fn bundle(release: &str, entries: Vec<Value>) -> Value {
    let kind = if release == "R5" { "subscription-notification" } else { "history" };
    json!({"resourceType": "Bundle", "type": kind, "timestamp": "2026-11-26T08:00:01Z", "entry": entries})
}

#[test]
fn every_shape_of_a_notification_says_the_same() {
    let event = |number: u64, focus: Option<Focus>| Event { number: Some(number), at_ms: Some(1_795_680_000_000), focus };
    let told = |kind: Told, so_far: u64, events: Vec<Event>| Notification {
        kind,
        subscription: Some("s1".to_owned()),
        topic: Some(TOPIC.to_owned()),
        events_since_start: Some(so_far),
        events,
        is_in_trouble: false,
    };
    let mut table: Vec<(String, Value, Notification)> = Vec::new();
    for release in ["R4", "R4B", "R5"] {
        let mut row =
            |what: &str, entries: Vec<Value>, expected: Notification| table.push((format!("{release} {what}"), bundle(release, entries), expected));
        row("handshake", vec![status_entry(release, "handshake", "requested", 0, &[])], told(Told::Handshake, 0, vec![]));
        row("heartbeat", vec![status_entry(release, "heartbeat", "active", 7, &[])], told(Told::Heartbeat, 7, vec![]));
        let trouble = Notification { is_in_trouble: true, ..told(Told::Heartbeat, 7, vec![]) };
        row("heartbeat in error", vec![status_entry(release, "heartbeat", "error", 7, &[])], trouble);
        row(
            "empty",
            vec![status_entry(release, "event-notification", "active", 2, &[(2, None)])],
            told(Told::EventNotification, 2, vec![event(2, None)]),
        );
        let two = [(4, Some("Observation/o4")), (5, Some("Observation/o5"))];
        let foci = vec![event(4, focus("Observation", "o4")), event(5, focus("Observation", "o5"))];
        row("id-only", vec![status_entry(release, "event-notification", "active", 5, &two)], told(Told::EventNotification, 5, foci.clone()));
        row("query", vec![status_entry(release, "query-event", "active", 9, &two)], told(Told::QueryEvent, 9, foci));
        let context = json!({"fullUrl": "https://ehr.example/fhir/Patient/p1", "resource": {"resourceType": "Patient", "id": "p1"}, "request": {"method": "GET", "url": "Patient/p1"}});
        let whole = json!({"fullUrl": "https://ehr.example/fhir/Observation/o6", "resource": creatinine("o6", "p1", 1, 1, 2.0),
            "request": {"method": "PUT", "url": "Observation/o6"}, "response": {"status": "200"}});
        row(
            "full-resource",
            vec![status_entry(release, "event-notification", "active", 6, &[(6, Some("Observation/o6/_history/3"))]), whole.clone(), context.clone()],
            told(Told::EventNotification, 6, vec![event(6, focus("Observation", "o6"))]),
        );
        row(
            "full-resource whose event names nothing",
            vec![status_entry(release, "event-notification", "active", 6, &[(6, None)]), whole, context],
            told(Told::EventNotification, 6, vec![event(6, focus("Observation", "o6"))]),
        );
        let gone = json!({"fullUrl": "https://ehr.example/fhir/Observation/o7", "request": {"method": "DELETE", "url": "Observation/o7"}, "response": {"status": "204"}});
        row(
            "a delete",
            vec![status_entry(release, "event-notification", "active", 7, &[(7, Some("Observation/o7"))]), gone],
            told(Told::EventNotification, 7, vec![event(7, focus("Observation", "o7"))]),
        );
        // Without events or entries: something happened.
        let nothing = told(Told::EventNotification, 3, vec![Event::default()]);
        row("no event", vec![status_entry(release, "event-notification", "active", 3, &[])], nothing);
        let by_identifier = json!({"fullUrl": "urn:uuid:1", "request": {"method": "POST", "url": "ServiceRequest"}, "response": {"status": "201"}});
        row(
            "a focus without an address",
            vec![status_entry(release, "event-notification", "active", 3, &[(3, None)]), by_identifier],
            told(Told::EventNotification, 3, vec![event(3, None)]),
        );
    }
    let mut full = creatinine("o1", "p1", 3, 1, 2.0);
    full["extension"] = json!([]);
    table.push(("rest-hook with the resource, however sloppy".into(), full, hook(vec![focus("Observation", "o1")])));
    let entry = |id: &str| json!({"fullUrl": format!("urn:uuid:{id}"), "resource": creatinine(id, "p1", 1, 1, 2.0), "request": {"method": "PUT", "url": format!("Observation/{id}")}});
    let transaction = json!({"resourceType": "Bundle", "type": "transaction", "entry": [entry("a"), entry("b")]});
    table.push(("rest-hook with a transaction".into(), transaction, hook(vec![focus("Observation", "a"), focus("Observation", "b")])));
    let empty = json!({"resourceType": "Bundle", "type": "collection"});
    table.push(("rest-hook with an empty Bundle".into(), empty, hook(vec![None])));
    for (what, body, expected) in table {
        let read = notification::read(body.to_string().as_bytes());
        assert_eq!(read, Ok(expected), "{what}: {body}");
    }
    for nothing in ["", " \r\n", "\u{feff}"] {
        assert_eq!(notification::read(nothing.as_bytes()), Ok(hook(vec![None])), "an empty body says that something happened");
    }
}

#[test]
fn what_is_no_notification_is_refused_by_a_code() {
    let first = |resource: Value| json!({"resourceType": "Bundle", "type": "history", "entry": [{"resource": resource}]}).to_string();
    let parameters = |parameter: Value| first(json!({"resourceType": "Parameters", "parameter": parameter}));
    let many = vec![json!({"name": "notification-event"}); 10_001];
    let table = [
        (Code::NotJson, "<html><body>Please sign in</body></html>".to_owned()),
        (Code::NotJson, "{".to_owned()),
        (Code::NotJson, "[1, 2]".to_owned()),
        (Code::WrongResourceType, "{}".to_owned()),
        (Code::WrongResourceType, r#"{"resourceType":"../etc"}"#.to_owned()),
        (Code::InvalidId, r#"{"resourceType":"Observation"}"#.to_owned()),
        (Code::InvalidId, r#"{"resourceType":"Observation","id":"a b"}"#.to_owned()),
        (Code::InvalidBundle, r#"{"resourceType":"Bundle"}"#.to_owned()),
        (Code::InvalidBundle, r#"{"resourceType":"Bundle","type":"history"}"#.to_owned()),
        (Code::InvalidBundle, r#"{"resourceType":"Bundle","type":"searchset","entry":[]}"#.to_owned()),
        (Code::InvalidBundle, r#"{"resourceType":"Bundle","type":"history","entry":[{"fullUrl":"urn:uuid:1"}]}"#.to_owned()),
        (Code::InvalidBundle, r#"{"resourceType":"Bundle","type":"history","entry":{}}"#.to_owned()),
        (Code::InvalidBundle, first(json!({"resourceType": "Patient", "id": "p"}))),
        (Code::Shape, parameters(json!([{"name": "type", "valueCode": "whatever"}]))),
        (Code::Shape, parameters(json!([{"name": "status", "valueCode": "active"}]))),
        (
            Code::Shape,
            parameters(json!([{"name": "type", "valueCode": "heartbeat"}, {"name": "events-since-subscription-start", "valueString": "many"}])),
        ),
        (
            Code::Shape,
            parameters(
                json!([{"name": "type", "valueCode": "event-notification"}, {"name": "notification-event", "part": [{"name": "event-number", "valueInteger": -1}]}]),
            ),
        ),
        (
            Code::Shape,
            parameters(
                json!(many)
                    .as_array()
                    .map(|many| json!([&[json!({"name": "type", "valueCode": "event-notification"})], many.as_slice()].concat()))
                    .unwrap(),
            ),
        ),
        (Code::Shape, first(json!({"resourceType": "SubscriptionStatus", "type": {}}))),
    ];
    for (code, body) in table {
        assert_eq!(notification::read(body.as_bytes()).map_err(|issue| issue.code), Err(code), "{}", &body[..body.len().min(200)]);
    }
    assert_eq!(notification::read(b"{\"resourceType\":\"\xff\"}").map_err(|issue| issue.code), Err(Code::NotUtf8));
}

fn numbered(kind: Told, so_far: u64, numbers: &[u64]) -> Notification {
    let events = numbers.iter().map(|number| Event { number: Some(*number), ..Event::default() }).collect();
    Notification { kind, subscription: Some("s1".into()), topic: None, events_since_start: Some(so_far), events, is_in_trouble: false }
}

#[test]
fn a_missing_number_shows_after_a_while_and_a_new_beginning_at_once() {
    let mut numbers = Numbers::after(None, &numbered(Told::Handshake, 0, &[]), 0);
    assert_eq!((numbers.heard, numbers.due_ms()), (0, Some(0)), "what was before the first notification is not known");
    numbers.caught_up(0, 1);
    let mut hear = |kind: Told, so_far: u64, events: &[u64], now_ms: i64| {
        numbers = Numbers::after(Some(numbers.clone()), &numbered(kind, so_far, events), now_ms);
        (numbers.heard, numbers.told, numbers.missing_since_ms, numbers.unsure_since_ms)
    };
    let event = Told::EventNotification;
    assert_eq!(hear(event, 1, &[1], 10), (1, 1, None, None));
    assert_eq!(hear(event, 3, &[3], 20), (1, 3, Some(20), None), "2 is missing");
    assert_eq!(hear(event, 4, &[4], 25), (1, 4, Some(20), None), "and still is");
    assert_eq!(hear(event, 2, &[2], 30), (4, 4, None, None), "it was overtaken, no more");
    assert_eq!(hear(event, 2, &[2], 40), (4, 4, None, None), "doubled");
    assert_eq!(hear(Told::Heartbeat, 4, &[], 50), (4, 4, None, None));
    assert_eq!(hear(Told::Heartbeat, 6, &[], 60), (4, 6, Some(60), None), "a heartbeat counts events that never came");
    assert_eq!(hear(event, 6, &[5], 70), (5, 6, Some(70), None), "one of them came: the other has time again");
    assert_eq!(hear(event, 6, &[6], 80), (6, 6, None, None));
    assert_eq!(hear(Told::Heartbeat, 2, &[], 90), (2, 2, None, Some(90)), "the source has lost count");
    assert_eq!(hear(event, 3, &[3], 100), (3, 3, None, Some(90)));
    assert_eq!(hear(Told::Handshake, 0, &[], 110), (0, 0, None, Some(110)), "a new beginning");
    assert_eq!(hear(Told::QueryStatus, 2, &[], 120), (0, 2, Some(120), Some(110)));
    let (_, told, ..) = hear(event, u64::MAX, &[u64::MAX], 130);
    assert_eq!(told, u64::MAX, "a number beyond all reason stops nothing");
    numbers.caught_up(u64::MAX, 140);
    assert_eq!((numbers.is_missing(), numbers.due_ms()), (false, None));
    // Without a first notification everything until the one that came counts as unsure, and is not missing.
    let late = Numbers::after(None, &numbered(event, 57, &[56, 57]), 5);
    assert_eq!((late.heard, late.is_missing(), late.unsure_since_ms), (57, false, Some(5)));
    let troubled = Notification { is_in_trouble: true, ..numbered(Told::Heartbeat, 57, &[]) };
    let mut troubled = Numbers::after(Some(late), &troubled, 7);
    assert_eq!(troubled.trouble_since_ms, Some(7));
    troubled.looked_after(6);
    assert_eq!(troubled.trouble_since_ms, Some(7), "what came later is not looked after yet");
    troubled.looked_after(7);
    assert_eq!(troubled.trouble_since_ms, None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("NEPHROGATE_SOAK").is_some() { 5_000 } else { 300 }))]

    #[test]
    fn in_any_order_with_doubles_all_is_heard_and_one_that_is_lost_is_missed(
        order in Just((1..=12_u64).collect::<Vec<_>>()).prop_shuffle(),
        doubles in proptest::collection::vec(1..=12_u64, 0..8),
        lost in proptest::option::of(1..=12_u64),
    ) {
        let mut numbers = Numbers::after(None, &numbered(Told::Handshake, 0, &[]), 0);
        numbers.caught_up(0, 0);
        for (at, number) in order.iter().chain(&doubles).filter(|number| Some(**number) != lost).enumerate() {
            numbers = Numbers::after(Some(numbers), &numbered(Told::EventNotification, *number, &[*number]), at as i64);
        }
        numbers = Numbers::after(Some(numbers), &numbered(Told::Heartbeat, 12, &[]), 100);
        prop_assert_eq!(numbers.is_missing(), lost.is_some());
        prop_assert_eq!(numbers.heard, lost.map_or(12, |lost| lost - 1));
        prop_assert_eq!(numbers.unsure_since_ms, None);
    }
}

fn ask(style: Style) -> Ask {
    let has_topics = style.has_topics();
    Ask {
        style,
        reason: "nephrogate, feed told of a hospital".to_owned(),
        about: if has_topics { TOPIC.to_owned() } else { "Observation?category=laboratory".to_owned() },
        filters: if has_topics { vec!["Observation?category=laboratory&status=final".to_owned()] } else { Vec::new() },
        content: if has_topics { Content::IdOnly } else { Content::FullResource },
        endpoint: "https://gateway.example/notify/h/told".to_owned(),
        heartbeat_s: has_topics.then_some(60),
        timeout_s: has_topics.then_some(10),
        max_count: has_topics.then_some(20),
        tells_deletes: style == Style::R4,
    }
}

#[test]
fn a_subscription_is_written_in_each_style_and_recognised_again() {
    let end_ms = 1_800_000_000_000;
    let mut of_r4 = Vec::new();
    for style in [Style::R4, Style::R4Backport, Style::R5] {
        let ask = ask(style);
        let text = ask.resource(None, "zebra", end_ms).unwrap();
        let shown = subscribe::shown(&text).unwrap();
        assert_eq!((shown.standing, shown.endpoint.as_deref(), shown.end_ms), (Standing::Requested, Some(ask.endpoint.as_str()), Some(end_ms)));
        assert_eq!(shown.key, ask.key(), "{style:?}");
        let again: Value = serde_json::from_str(&ask.resource(Some("s9"), "zebra", end_ms).unwrap()).unwrap();
        assert_eq!(again["id"], "s9");
        let value: Value = serde_json::from_str(&text).unwrap();
        match style {
            Style::R4 => {
                assert_eq!(value["channel"]["header"], json!(["Authorization: Bearer zebra"]));
                assert_eq!((&value["channel"]["payload"], &value["_criteria"]), (&json!("application/fhir+json"), &Value::Null));
                let pings = Ask { content: Content::Empty, ..ask };
                assert!(!pings.resource(None, "zebra", end_ms).unwrap().contains("payload"), "without a payload R4 sends no body");
            }
            Style::R4Backport => {
                assert_eq!(value["criteria"], TOPIC);
                assert_eq!(value["channel"]["_payload"]["extension"][0]["valueCode"], "id-only");
                assert_eq!(value["channel"]["extension"].as_array().unwrap().len(), 3);
            }
            Style::R5 => {
                assert_eq!(
                    (&value["topic"], &value["content"], &value["channelType"]["code"]),
                    (&json!(TOPIC), &json!("id-only"), &json!("rest-hook"))
                );
                assert_eq!(value["filterBy"][1], json!({"resourceType": "Observation", "filterParameter": "status", "value": "final"}));
                assert_eq!(value["parameter"], json!([{"name": "Authorization", "value": "Bearer zebra"}]));
            }
        }
        if style != Style::R5 {
            of_r4.push(text);
        }
    }
    // Filters say the same in any order, and a definition's address is its type.
    let other = r#"{"resourceType":"Subscription","status":"off","topic":"https://ehr.example/SubscriptionTopic/results","endpoint":"x",
        "filterBy":[{"resourceType":"http://hl7.org/fhir/StructureDefinition/Observation","filterParameter":"status","value":"final"},
                    {"resourceType":"Observation","filterParameter":"category","value":"laboratory"}]}"#;
    let other = subscribe::shown(other).unwrap();
    assert_eq!((other.standing, other.key), (Standing::Ended, ask(Style::R5).key()));
    assert_eq!(subscribe::shown(r#"{"resourceType":"Patient"}"#), None);
    passes_hl7s_validator(&of_r4);
}
