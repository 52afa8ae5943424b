//! A fragment put into a resource that others author, and taken out of it: only the elements of the fragment change,
//! and every other byte stays. A fragment is a resource of the same type and id that holds nothing but our elements.

use serde_json::{Map, Value, json};

use super::holds;
use super::spans::{Kind, Node, Splices, member_text};

/// Why a fragment does not go into a resource.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("the resource is not one JSON object that names each element once")]
    NotReadable,
    /// The path of an element that says something else than the fragment, and cannot say both.
    #[error("another value stands in {0}")]
    Taken(String),
}

/// The resource with the fragment's elements added at the end of what they belong to; what stands there already is not
/// added again. `None`: all of it stands there.
pub fn with_fragment(resource: &str, fragment: &str) -> Result<Option<String>, Misfit> {
    let (node, ours) = read(resource, fragment)?;
    let mut splices = Splices::default();
    add(resource, &node, &ours, &mut splices, "")?;
    Ok((!splices.is_empty()).then(|| splices.apply(resource)))
}

/// The resource without the fragment's elements; an element that holds nothing else goes with them. `None`: nothing of
/// it stands there.
pub fn without_fragment(resource: &str, fragment: &str) -> Result<Option<String>, Misfit> {
    let (node, ours) = read(resource, fragment)?;
    let mut splices = Splices::default();
    remove(resource, &node, &ours, &mut splices);
    Ok((!splices.is_empty()).then(|| splices.apply(resource)))
}

/// Whether the resource holds all of the fragment.
pub fn has_fragment(resource: &str, fragment: &str) -> bool {
    with_fragment(resource, fragment) == Ok(None)
}

/// Elements of the fragment that the resource holds, by path; to see what stays that should be gone.
pub fn standing(resource: &str, fragment: &str) -> Vec<String> {
    let Ok((node, ours)) = read(resource, fragment) else { return Vec::new() };
    let mut paths = Vec::new();
    found(resource, &node, &ours, &kind_of(fragment), &mut paths);
    paths
}

/// The same change as a JSON Patch (RFC 6902): `test` operations hold what was seen, so that a server that lets a
/// version slip still refuses. `None` where there is nothing to do.
pub fn patch_of(resource: &str, fragment: &str, is_added: bool) -> Result<Option<String>, Misfit> {
    let (node, ours) = read(resource, fragment)?;
    let mut operations = Vec::new();
    if is_added {
        add(resource, &node, &ours, &mut Splices::default(), "")?;
        patch_in(resource, &node, &ours, "", &mut operations);
    } else {
        patch_out(resource, &node, &ours, "", &mut operations);
    }
    if operations.is_empty() {
        return Ok(None);
    }
    if let Some(id) = node.member("id") {
        operations.insert(0, json!({"op": "test", "path": "/id", "value": id.value(resource)}));
    }
    Ok(Some(Value::Array(operations).to_string()))
}

/// Paths of what others author that is not the same before and after, byte for byte in its numbers and texts; what a
/// server writes into `meta`, and narrative that it generates, do not count.
pub fn foreign_changes(before: &str, after: &str, fragment: &str) -> Vec<String> {
    let of_others = |resource: &str| -> Option<Value> {
        let rest = without_fragment(resource, fragment).ok()?;
        serde_json::from_str(rest.as_deref().unwrap_or(resource)).ok()
    };
    let kind = kind_of(fragment);
    let (Some(mut before), Some(mut after)) = (of_others(before), of_others(after)) else { return vec![kind] };
    for side in [&mut before, &mut after] {
        as_authored(side);
    }
    let mut paths = Vec::new();
    differences(&before, &after, &kind, &mut paths);
    paths
}

fn kind_of(fragment: &str) -> String {
    super::index(fragment).map(|index| index.resource_type).unwrap_or_default()
}

/// The resource by its places, and the elements of the fragment alone.
fn read(resource: &str, fragment: &str) -> Result<(Node, Map<String, Value>), Misfit> {
    let node = Node::read(resource).ok_or(Misfit::NotReadable)?;
    let mut ours: Map<String, Value> = serde_json::from_str(fragment).map_err(|_| Misfit::NotReadable)?;
    for name in ["resourceType", "id"] {
        ours.shift_remove(name);
    }
    Ok((node, ours))
}

fn add(text: &str, node: &Node, ours: &Map<String, Value>, splices: &mut Splices, path: &str) -> Result<(), Misfit> {
    let mut new = Vec::new();
    for (name, our) in ours {
        let path = format!("{path}{}{name}", if path.is_empty() { "" } else { "." });
        let Some(there) = node.member(name) else {
            new.push(member_text(name, our));
            continue;
        };
        match (&there.kind, our) {
            (Kind::Items(items), Value::Array(our)) => {
                let standing = standing_items(text, items, our);
                let missing: Vec<String> = our.iter().zip(&standing).filter(|(_, at)| at.is_none()).map(|(item, _)| item.to_string()).collect();
                splices.add(there, false, &missing);
            }
            (Kind::Members(_), Value::Object(our)) => add(text, there, our, splices, &path)?,
            (Kind::Scalar, our) if there.value(text) == *our => {}
            (Kind::Items(_) | Kind::Members(_) | Kind::Scalar, _) => return Err(Misfit::Taken(path)),
        }
    }
    splices.add(node, false, &new);
    Ok(())
}

/// Where each of our items stands, each place taken once: an item that says exactly the same before one that says more,
/// and of equals the last, since ours were added at the end.
fn standing_items(text: &str, items: &[Node], ours: &[Value]) -> Vec<Option<usize>> {
    let there: Vec<Value> = items.iter().map(|item| item.value(text)).collect();
    let mut taken = vec![false; there.len()];
    ours.iter()
        .map(|our| {
            let last = |is_it: &dyn Fn(&Value) -> bool| there.iter().zip(&taken).rposition(|(there, taken)| !taken && is_it(there));
            let at = last(&|there| there == our)
                .or_else(|| last(&|there| holds(our, there) && holds(there, our)))
                .or_else(|| last(&|there| holds(our, there)))?;
            taken[at] = true;
            Some(at)
        })
        .collect()
}

/// Cuts our elements out; says whether nothing of the node would stay.
fn remove(text: &str, node: &Node, ours: &Map<String, Value>, splices: &mut Splices) -> bool {
    let Kind::Members(members) = &node.kind else { return false };
    let mut gone = Vec::new();
    for (at, member) in members.iter().enumerate() {
        let Some(our) = ours.get(&member.name) else { continue };
        let is_gone = match (&member.value.kind, our) {
            (Kind::Items(items), Value::Array(our)) => {
                let mut places: Vec<usize> = standing_items(text, items, our).into_iter().flatten().collect();
                places.sort_unstable();
                let is_all = !places.is_empty() && places.len() == items.len();
                if !is_all {
                    splices.cut(&member.value, &places);
                }
                is_all
            }
            (Kind::Members(_), Value::Object(our)) => {
                let mut inner = Splices::default();
                let is_all = remove(text, &member.value, our, &mut inner);
                if !is_all {
                    splices.append(inner);
                }
                is_all
            }
            (Kind::Scalar, our) => member.value.value(text) == *our,
            (Kind::Items(_) | Kind::Members(_), _) => false,
        };
        if is_gone {
            gone.push(at);
        }
    }
    let is_all = !gone.is_empty() && gone.len() == members.len();
    if !is_all {
        splices.cut(node, &gone);
    }
    is_all
}

fn found(text: &str, node: &Node, ours: &Map<String, Value>, path: &str, paths: &mut Vec<String>) {
    for (name, our) in ours {
        let Some(there) = node.member(name) else { continue };
        let path = format!("{path}.{name}");
        match (&there.kind, our) {
            (Kind::Items(items), Value::Array(our)) => {
                if standing_items(text, items, our).iter().any(Option::is_some) {
                    paths.push(path);
                }
            }
            (Kind::Members(_), Value::Object(our)) => found(text, there, our, &path, paths),
            (Kind::Scalar, our) if there.value(text) == *our => paths.push(path),
            (Kind::Items(_) | Kind::Members(_) | Kind::Scalar, _) => {}
        }
    }
}

/// A step of a JSON pointer (RFC 6901).
fn step(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn patch_in(text: &str, node: &Node, ours: &Map<String, Value>, pointer: &str, operations: &mut Vec<Value>) {
    for (name, our) in ours {
        let pointer = format!("{pointer}/{}", step(name));
        let Some(there) = node.member(name) else {
            operations.push(json!({"op": "add", "path": pointer, "value": our}));
            continue;
        };
        match (&there.kind, our) {
            (Kind::Items(items), Value::Array(our)) => {
                let standing = standing_items(text, items, our);
                let missing: Vec<&Value> = our.iter().zip(&standing).filter(|(_, at)| at.is_none()).map(|(item, _)| item).collect();
                if let (Some(last), false) = (items.last(), missing.is_empty()) {
                    operations.push(json!({"op": "test", "path": format!("{pointer}/{}", items.len() - 1), "value": last.value(text)}));
                }
                operations.extend(missing.into_iter().map(|item| json!({"op": "add", "path": format!("{pointer}/-"), "value": item})));
            }
            (Kind::Members(_), Value::Object(our)) => patch_in(text, there, our, &pointer, operations),
            (Kind::Items(_) | Kind::Members(_) | Kind::Scalar, _) => {}
        }
    }
}

fn patch_out(text: &str, node: &Node, ours: &Map<String, Value>, pointer: &str, operations: &mut Vec<Value>) {
    for (name, our) in ours {
        let pointer = format!("{pointer}/{}", step(name));
        let Some(there) = node.member(name) else { continue };
        match (&there.kind, our) {
            (Kind::Items(items), Value::Array(our)) => {
                let mut places: Vec<usize> = standing_items(text, items, our).into_iter().flatten().collect();
                places.sort_unstable();
                if !places.is_empty() && places.len() == items.len() {
                    gone(operations, &pointer, there.value(text));
                    continue;
                }
                // From the end, so that no place moves before its turn.
                for at in places.into_iter().rev() {
                    gone(operations, &format!("{pointer}/{at}"), items[at].value(text));
                }
            }
            (Kind::Members(members), Value::Object(our)) => {
                if !members.is_empty() && remove(text, there, our, &mut Splices::default()) {
                    gone(operations, &pointer, there.value(text));
                    continue;
                }
                patch_out(text, there, our, &pointer, operations);
            }
            (Kind::Scalar, our) if there.value(text) == *our => gone(operations, &pointer, our.clone()),
            (Kind::Items(_) | Kind::Scalar, _) | (Kind::Members(_), _) => {}
        }
    }
}

fn gone(operations: &mut Vec<Value>, pointer: &str, value: Value) {
    operations.push(json!({"op": "test", "path": pointer, "value": value}));
    operations.push(json!({"op": "remove", "path": pointer}));
}

/// Leaves out what a server writes by itself, and orders what has no order.
fn as_authored(resource: &mut Value) {
    let Some(fields) = resource.as_object_mut() else { return };
    if fields.get("text").and_then(|text| text.get("status")).is_some_and(super::is_of_server) {
        fields.shift_remove("text");
    }
    let Some(meta) = fields.get_mut("meta").and_then(Value::as_object_mut) else { return };
    for name in ["versionId", "lastUpdated"] {
        meta.shift_remove(name);
    }
    // HAPI FHIR puts the number of the request behind it.
    if let Some(source) = meta.get("source").and_then(Value::as_str).map(|source| source.split('#').next().unwrap_or_default().to_owned()) {
        meta.insert("source".to_owned(), Value::from(source));
    }
    meta.retain(|_, value| value != "");
    for list in meta.values_mut().filter_map(Value::as_array_mut) {
        list.sort_by_key(Value::to_string);
    }
    if meta.is_empty() {
        fields.shift_remove("meta");
    }
}

fn differences(before: &Value, after: &Value, path: &str, paths: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                match after.get(name) {
                    Some(there) => differences(value, there, &format!("{path}.{name}"), paths),
                    None => paths.push(format!("{path}.{name}")),
                }
            }
            paths.extend(after.keys().filter(|name| !before.contains_key(*name)).map(|name| format!("{path}.{name}")));
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (at, (before, after)) in before.iter().zip(after).enumerate() {
                differences(before, after, &format!("{path}[{at}]"), paths);
            }
        }
        _ if before == after => {}
        _ => paths.push(path.to_owned()),
    }
}
