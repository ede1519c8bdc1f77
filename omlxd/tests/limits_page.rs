//! The table of limits in docs/security.md is the code's, and every limit has the test that it names.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use engine::limits::{ControlledBy, Limit, Unit};

const OPENING: &str = "<!-- limits: made by omlxd/tests/limits_page.rs -->\n";
const CLOSING: &str = "<!-- end of limits -->";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn all() -> Vec<&'static Limit> {
    let mut all: Vec<_> = engine::limits::ALL.iter().chain(omlxd::limits::ALL).collect();
    all.sort_by_key(|limit| limit.controlled_by);
    all
}

fn amount(limit: &Limit) -> String {
    let value = limit.value;
    match limit.unit {
        Unit::Bytes if value >= 1 << 20 && value.is_multiple_of(1 << 20) => {
            format!("{} MiB", value >> 20)
        }
        Unit::Bytes if value >= 1 << 10 && value.is_multiple_of(1 << 10) => {
            format!("{} KiB", value >> 10)
        }
        Unit::Bytes => format!("{value} bytes"),
        Unit::Count => value.to_string(),
        Unit::Levels => format!("{value} levels"),
        Unit::Seconds => format!("{value} s"),
        Unit::Milliseconds => format!("{value} ms"),
    }
}

fn table() -> String {
    let mut table =
        "| controlled by | bounds | limit | past it | name |\n|---|---|---|---|---|\n".to_owned();
    for limit in all() {
        let by = match limit.controlled_by {
            ControlledBy::ModelFolder => "a model folder",
            ControlledBy::Request => "a request",
            ControlledBy::Configuration => "the configuration",
        };
        let bounds = limit.bounds.trim().trim_end_matches('.');
        let (amount, past, name) = (amount(limit), limit.past_it, limit.name);
        writeln!(table, "| {by} | {bounds} | {amount} | {past} | `{name}` |").expect("a text");
    }
    table
}

#[test]
fn the_page_shows_the_limits() {
    let path = root().join("docs/security.md");
    let page = fs::read_to_string(&path).expect("the page");
    let (before, rest) = page.split_once(OPENING).expect("the opening comment");
    let (_, after) = rest.split_once(CLOSING).expect("the closing comment");
    let wanted = format!("{before}{OPENING}\n{}\n{CLOSING}{after}", table());
    if std::env::var_os("OMLX_UPDATE").is_some() {
        fs::write(&path, wanted).expect("written");
    } else {
        assert!(page == wanted, "run `OMLX_UPDATE=1 cargo test -p omlxd --test limits_page`");
    }
}

fn sources(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push_str(&fs::read_to_string(&path).expect("readable"));
        }
    }
}

#[test]
fn every_limit_has_its_test() {
    let mut text = String::new();
    for folder in ["engine/src", "omlxd/src", "omlxd/tests", "tests/tests"] {
        sources(&root().join(folder), &mut text);
    }
    for limit in all() {
        let function = format!("fn {}(", limit.test);
        assert!(text.contains(&function), "{}: there is no test {}", limit.name, limit.test);
    }
}
