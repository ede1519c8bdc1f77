//! The Grafana dashboard asks for nothing that `/metrics` does not have.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::Server;

/// What a query asks of one family: its name, and labels with the values asked for.
#[derive(Debug, PartialEq)]
struct Selector {
    name: String,
    labels: Vec<(String, String)>,
}

/// The selectors of a query. A name is ours by its beginning; what stands in braces behind it are its
/// labels.
fn selectors(query: &str) -> Vec<Selector> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_name) {
        let end = rest[start..].find(|c| !is_name(c)).map_or(rest.len(), |end| start + end);
        let name = rest[start..end].to_owned();
        rest = &rest[end..];
        if !name.starts_with("omlx_") && !name.starts_with("process_") {
            continue;
        }
        let mut labels = Vec::new();
        if let Some(inside) = rest.strip_prefix('{') {
            let (inside, after) = inside.split_once('}').expect("a closing brace");
            rest = after;
            for label in inside.split(',') {
                let (key, value) = label.split_once('=').expect("a label with a value");
                let value = value.trim_start_matches('~').trim_matches('"');
                labels.push((key.trim().to_owned(), value.to_owned()));
            }
        }
        found.push(Selector { name, labels });
    }
    found
}

/// The labels that a query groups by.
fn grouped(query: &str) -> BTreeSet<String> {
    let after = query.split("by (").skip(1);
    let lists = after.filter_map(|text| Some(text.split_once(')')?.0));
    lists.flat_map(|list| list.split(',')).map(|label| label.trim().to_owned()).collect()
}

/// Whether a line of a scrape is what a selector asks for.
fn matches(line: &str, selector: &Selector) -> bool {
    let Some((series, _)) = line.rsplit_once(' ') else { return false };
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    name == selector.name
        && selector.labels.iter().all(|(key, value)| {
            // Grafana puts any model into its variable.
            let any = value == "$model";
            let wanted = if any { format!("{key}=\"") } else { format!("{key}=\"{value}\"") };
            labels.contains(&wanted)
        })
}

fn dashboard() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/grafana/omlx.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_query_of_the_dashboard_finds_series() {
    let server = Server::start();
    server.chat(json!({"max_tokens": 2})).ok();
    let scrape = server.get("/metrics").text;
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 50, "{}", queries.len());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables = variables.filter_map(|variable| variable["definition"].as_str());
    for query in queries.iter().copied().chain(variables) {
        assert_answered(query, &scrape);
    }
}

/// Whatever a query asks for is in the scrape, with the labels that it groups by.
pub(crate) fn assert_answered(query: &str, scrape: &str) {
    let selectors = selectors(query);
    assert!(!selectors.is_empty(), "{query} asks for nothing of ours");
    for selector in &selectors {
        let found: Vec<&str> = scrape.lines().filter(|line| matches(line, selector)).collect();
        assert!(!found.is_empty(), "{query}: nothing is {selector:?}");
        for label in grouped(query) {
            let known = found.iter().any(|line| line.contains(&format!("{label}=\"")));
            assert!(known, "{query}: {} has no label {label}", selector.name);
        }
    }
}

#[test]
fn selectors_are_read_from_queries() {
    let query =
        "sum by (le, tier) (rate(omlx_a_bucket{model=~\"$model\",x=\"y\"}[5m])) / process_b";
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let first = vec![label("model", "$model"), label("x", "y")];
    let expected = [("omlx_a_bucket", first), ("process_b", Vec::new())]
        .map(|(name, labels)| Selector { name: name.to_owned(), labels });
    assert_eq!(selectors(query), expected);
    assert_eq!(grouped(query), ["le", "tier"].map(str::to_owned).into());
    assert!(matches("omlx_a_bucket{model=\"m\",x=\"y\",le=\"1\"} 3", &expected[0]));
    assert!(!matches("omlx_a_bucket{model=\"m\",x=\"z\"} 3", &expected[0]));
    assert!(!matches("omlx_a_bucket 3", &expected[0]));
}
