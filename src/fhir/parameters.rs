//! The Parameters resource by which an operation is asked: names with plain values. Knows no operation; whoever asks for
//! one says which names it takes.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::RawResource;
use crate::issue::{Code, Issue};

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    parameter: Vec<Map<String, Value>>,
}

/// Names and values; a name that comes more than once has its values separated by commas, as in a query.
pub fn read(bytes: &[u8]) -> Result<Vec<(String, String)>, Vec<Issue>> {
    let resource = RawResource::parse(bytes).map_err(|issue| vec![issue])?;
    if resource.resource_type != "Parameters" {
        return Err(vec![Issue::new(Code::WrongResourceType, "resourceType")]);
    }
    let view: View = serde_json::from_str(resource.text()).map_err(|_| vec![Issue::new(Code::Shape, "Parameters")])?;
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut issues = Vec::new();
    for (index, parameter) in view.parameter.iter().enumerate() {
        match plain(parameter) {
            Some((name, value)) => match pairs.iter_mut().find(|(known, _)| *known == name) {
                Some((_, values)) => *values = format!("{values},{value}"),
                None => pairs.push((name, value)),
            },
            None => issues.push(Issue::new(Code::Shape, format!("Parameters.parameter[{index}]")).with_detail("a name and one plain value")),
        }
    }
    if issues.is_empty() { Ok(pairs) } else { Err(issues) }
}

/// `{"name": "id", "valueId": "a"}`: the type of the value does not matter, as long as it is a text or a number. Anything
/// beside the two would be passed over in silence, so it is not taken.
fn plain(parameter: &Map<String, Value>) -> Option<(String, String)> {
    let name = parameter.get("name")?.as_str()?.to_owned();
    let mut others = parameter.iter().filter(|(key, _)| *key != "name");
    let (Some((key, value)), None) = (others.next(), others.next()) else { return None };
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    key.starts_with("value").then_some((name, value))
}
