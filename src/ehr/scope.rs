//! SMART scopes of the system, as asked for and as granted: version 2 (`system/Observation.rs?category=laboratory`) and
//! version 1 (`system/Observation.read`). Knows no server.

/// What of this was asked for and not granted, each scope in the words in which it was asked for.
pub fn not_granted<'a>(asked: &'a [String], granted: &str) -> Vec<&'a str> {
    asked.iter().map(String::as_str).filter(|asked| !granted.split_whitespace().any(|granted| covers(granted, asked))).collect()
}

/// Whether these scopes let a type be read (`r`), searched (`s`), created (`c`), updated (`u`) or deleted (`d`), at least in part.
pub fn allows(granted: &str, resource_type: &str, right: char) -> bool {
    let parts = granted.split_whitespace().filter_map(parts);
    parts.into_iter().any(|scope| (scope.resource_type == "*" || scope.resource_type == resource_type) && scope.rights.contains(right))
}

struct Scope<'a> {
    context: &'a str,
    resource_type: &'a str,
    rights: &'a str,
    /// Behind the question mark: only resources that this search finds.
    part: Option<&'a str>,
}

fn parts(scope: &str) -> Option<Scope<'_>> {
    let (context, rest) = scope.split_once('/')?;
    let (resource_type, rest) = rest.split_once('.')?;
    let (rights, part) = rest.split_once('?').map_or((rest, None), |(rights, part)| (rights, Some(part)));
    let rights = match rights {
        "read" => "rs",
        "write" => "cud",
        "*" => "cruds",
        rights => rights,
    };
    Some(Scope { context, resource_type, rights, part })
}

fn covers(granted: &str, asked: &str) -> bool {
    let (Some(granted), Some(asked)) = (parts(granted), parts(asked)) else { return granted == asked };
    granted.context == asked.context
        && (granted.resource_type == "*" || granted.resource_type == asked.resource_type)
        && asked.rights.chars().all(|right| granted.rights.contains(right))
        && (granted.part.is_none() || granted.part == asked.part)
}
