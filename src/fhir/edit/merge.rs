//! A resource that we author, brought into what a server holds of it: our elements as they should be, what we said
//! before and no longer say gone, and every byte that others added left as it is.

use serde_json::{Map, Value};

use super::holds;
use super::spans::{Kind, Node, Splices, member_text};

/// What must be done to what a server holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// The resource as it should be; `None` where it is so already.
    pub resource: Option<String>,
    /// Paths of what we said before, no longer say, and still stands: `Flag.meta.tag`.
    pub lingering: Vec<String>,
}

/// Merges `ours` into `held`. What is found in `earlier` (what we sent before) and not in `ours` is taken out. Where
/// the server's text cannot be edited safely, ours stands for all of it.
pub fn merged(earlier: &[&str], ours: &str, held: &str) -> Merge {
    let read = |text: &str| serde_json::from_str::<Map<String, Value>>(text).ok();
    let (Some(node), Some(our)) = (Node::read(held), read(ours)) else {
        return Merge { resource: Some(ours.to_owned()), lingering: Vec::new() };
    };
    let earlier: Vec<Map<String, Value>> = earlier.iter().filter_map(|text| read(text)).collect();
    let earlier: Vec<&Map<String, Value>> = earlier.iter().collect();
    let mut merging = Merging { text: held, splices: Splices::default(), lingering: Vec::new(), rebuilds: false };
    // Servers rename contained resources and what points at them: old and new must not be mixed.
    merging.rebuilds = our.get("contained").is_some_and(|our| node.member("contained").is_none_or(|there| !holds(our, &there.value(held))));
    let kind = our.get("resourceType").and_then(Value::as_str).unwrap_or_default().to_owned();
    merging.members(&node, &our, &earlier, &kind, true);
    Merge { resource: (!merging.splices.is_empty()).then(|| merging.splices.apply(held)), lingering: merging.lingering }
}

struct Merging<'a> {
    text: &'a str,
    splices: Splices,
    lingering: Vec<String>,
    rebuilds: bool,
}

impl Merging<'_> {
    /// Says whether nothing of the object would stay; then the caller cuts it out.
    fn members(&mut self, node: &Node, ours: &Map<String, Value>, earlier: &[&Map<String, Value>], path: &str, is_top: bool) -> bool {
        let Kind::Members(members) = &node.kind else { return false };
        let mut gone = Vec::new();
        for (at, member) in members.iter().enumerate() {
            let name = member.name.as_str();
            if name == "id" || (is_top && name == "resourceType") {
                continue;
            }
            let path = format!("{path}.{name}");
            let before: Vec<&Value> = earlier.iter().filter_map(|earlier| earlier.get(name)).collect();
            let is_gone = match ours.get(name) {
                Some(our) => self.value(&member.value, our, &before, &path, is_top),
                // Narrative that the server made of what stood there before would contradict it.
                None if is_top && name == "text" => self.is_generated(&member.value),
                None if before.is_empty() => false,
                None => self.taken_out(&member.value, &before, &path),
            };
            if is_gone {
                gone.push(at);
            }
        }
        let is_skipped = |name: &str| is_top && matches!(name, "resourceType" | "id");
        let new: Vec<String> =
            ours.iter().filter(|(name, _)| !is_skipped(name) && node.member(name).is_none()).map(|(name, our)| member_text(name, our)).collect();
        let is_all = gone.len() == members.len();
        if is_all && new.is_empty() && !gone.is_empty() {
            return true;
        }
        self.splices.cut(node, &gone);
        self.splices.add(node, is_all, &new);
        false
    }

    fn is_generated(&self, node: &Node) -> bool {
        node.member("status").is_some_and(|status| super::is_of_server(&status.value(self.text)))
    }

    /// Brings one element up to date; says whether it is to be cut out, which never happens to what we still say.
    fn value(&mut self, node: &Node, our: &Value, earlier: &[&Value], path: &str, is_top: bool) -> bool {
        if self.rebuilds && is_top && (path.ends_with(".contained") || our.to_string().contains("\"#")) {
            self.splices.replace(node.span.clone(), our.to_string());
            return false;
        }
        match (&node.kind, our) {
            (Kind::Items(items), Value::Array(our)) => {
                self.items(node, items, our, earlier, path);
            }
            (Kind::Members(_), Value::Object(our)) => {
                let earlier: Vec<&Map<String, Value>> = earlier.iter().filter_map(|earlier| earlier.as_object()).collect();
                self.members(node, our, &earlier, path, false);
            }
            (Kind::Items(_) | Kind::Members(_) | Kind::Scalar, _) => {
                let name = path.rsplit('.').next().unwrap_or_default();
                // Compared as a member, because a reference is known by its name.
                let side = |value: Value| Value::Object(Map::from_iter([(name.to_owned(), value)]));
                if !holds(&side(our.clone()), &side(node.value(self.text))) {
                    self.splices.replace(node.span.clone(), our.to_string());
                }
            }
        }
        false
    }

    fn items(&mut self, node: &Node, items: &[Node], ours: &[Value], earlier: &[&Value], path: &str) {
        let there: Vec<Value> = items.iter().map(|item| item.value(self.text)).collect();
        let mut stands = vec![false; there.len()];
        let mut new: Vec<&Value> = Vec::new();
        for our in ours {
            let free = |is_it: &dyn Fn(&Value) -> bool| (0..there.len()).find(|at| !stands[*at] && is_it(&there[*at]));
            match free(&|there| there == our).or_else(|| free(&|there| holds(our, there))) {
                Some(at) => stands[at] = true,
                None => new.push(our),
            }
        }
        let before: Vec<&Value> = earlier.iter().filter_map(|earlier| earlier.as_array()).flatten().collect();
        let mut gone = Vec::new();
        let mut new = new.into_iter().peekable();
        for at in (0..there.len()).filter(|at| !stands[*at]) {
            // What others added is theirs.
            let Some(said) = before.iter().find(|before| holds(before, &there[at])) else { continue };
            let is_as_we_said = holds(&there[at], said);
            // The only one there is keeps what others added to it; of several it would be another's.
            let takes_place = is_as_we_said || ours.len() == 1;
            match new.next_if(|_| takes_place) {
                Some(Value::Object(our)) if !is_as_we_said => {
                    let said: Vec<&Map<String, Value>> = said.as_object().into_iter().collect();
                    if self.members(&items[at], our, &said, path, false) {
                        gone.push(at);
                    }
                }
                Some(our) => self.splices.replace(items[at].span.clone(), our.to_string()),
                None => {
                    self.lingering.push(path.to_owned());
                    gone.push(at);
                }
            }
        }
        let new: Vec<String> = new.map(Value::to_string).collect();
        self.splices.cut(node, &gone);
        self.splices.add(node, gone.len() == items.len(), &new);
    }

    /// Takes out what we said before and no longer say; says whether nothing stays.
    fn taken_out(&mut self, node: &Node, earlier: &[&Value], path: &str) -> bool {
        match &node.kind {
            Kind::Items(items) => {
                let before: Vec<&Value> = earlier.iter().filter_map(|earlier| earlier.as_array()).flatten().collect();
                let is_ours = |item: &Node| before.iter().any(|before| holds(before, &item.value(self.text)));
                let gone: Vec<usize> = (0..items.len()).filter(|at| is_ours(&items[*at])).collect();
                if !gone.is_empty() {
                    self.lingering.push(path.to_owned());
                }
                if gone.len() == items.len() {
                    return true;
                }
                self.splices.cut(node, &gone);
                false
            }
            Kind::Members(_) => {
                let earlier: Vec<&Map<String, Value>> = earlier.iter().filter_map(|earlier| earlier.as_object()).collect();
                self.members(node, &Map::new(), &earlier, path, false)
            }
            Kind::Scalar => {
                self.lingering.push(path.to_owned());
                true
            }
        }
    }
}
