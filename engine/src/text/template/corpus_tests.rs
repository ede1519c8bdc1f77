//! Compares renderings with those of transformers, byte for byte: `tests/fixtures/templates`, made
//! by `tests/oracle/make_template_goldens.py`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/templates")
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn expected() -> Value {
    read(&fixtures().join("expected.json"))
}

/// Noon of the day at whose beginning the oracle's clock stands.
fn now() -> SystemTime {
    let day = expected()["day"].as_str().unwrap().parse::<jiff::civil::Date>().unwrap();
    day.at(12, 0, 0, 0).to_zoned(jiff::tz::TimeZone::system()).unwrap().timestamp().into()
}

fn template(source: &str) -> Result<ChatTemplate, TemplateError> {
    let tokens = json!({"bos_token": "<s>", "eos_token": "</s>"}).as_object().unwrap().clone();
    let named = vec![(DEFAULT_NAME.to_owned(), source.to_owned())];
    ChatTemplate::new(named, tokens).map_err(TemplateError::Failed)
}

fn render(template: &ChatTemplate, case: &Value, kwargs: &Value, now: SystemTime) -> Rendered {
    template.render(&ChatInputs {
        messages: case["messages"].as_array().unwrap(),
        tools: case.get("tools").map(|tools| tools.as_array().unwrap().as_slice()),
        add_generation_prompt: case.get("add_generation_prompt") != Some(&Value::Bool(false)),
        kwargs: kwargs.as_object().unwrap_or(&Map::new()),
        now,
    })
}

type Rendered = Result<String, TemplateError>;

/// Describes the difference from the oracle's outcome.
fn difference(got: &Rendered, expected: &Value) -> Option<String> {
    let same = match got {
        Ok(text) => match expected.get("sha256") {
            Some(hash) => *hash == sha256(text),
            None => expected.get("text").is_some_and(|expected| expected == text),
        },
        Err(TemplateError::Raised(message)) => match expected.get("raised") {
            Some(Value::String(expected)) => expected == message,
            raised => raised.is_some(),
        },
        Err(_) => expected.get("failed").is_some(),
    };
    (!same).then(|| format!("got {got:?}\nnot {expected}"))
}

fn sha256(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Renders every conversation of the corpus with one template.
fn conversations(name: &str, source: &str, expected: &Value) -> Vec<String> {
    let corpus = read(&fixtures().join("conversations.json"));
    let (template, now) = (template(source), now());
    let check = |case: &Value| {
        let title = case["name"].as_str().unwrap();
        // One of two named templates: it is chosen for requests with tools, and loops over them.
        if name.contains("tool-use") && case.get("tools").is_none() {
            return None;
        }
        let got = template.clone().and_then(|t| render(&t, case, &case["kwargs"], now));
        difference(&got, &expected[title]).map(|what| format!("{name}, {title}: {what}"))
    };
    corpus.as_array().unwrap().iter().filter_map(check).collect()
}

/// Cases in which Jinja2 raises an error, or renders something else, but minijinja renders:
/// comparisons of incomparable values, and views and ranges that are printed completely.
const OTHERWISE: [&str; 20] = [
    "{{ 'a' < 1 }}",
    "{{ none < 1 }}",
    "{{ 1 in 'a1' }}",
    "{{ [1, 'a'] | sort }}",
    "{{ range(3) | tojson }}",
    "{{ range(3) }}",
    "{{ d | items }}",
    "{{ d.items() }}",
    "{{ d.items() is sequence }}",
    "{{ d.keys() }}",
    "{{ d.nested.values() }}",
    "{{ l | map('string') }}",
    "{{ l | pprint }}",
    "{{ '½'.isdigit() }}",
    "{{ d | attr('b') }}",
    "{{ s | attr('upper') is defined }}",
    "{{ lipsum is defined }}",
    "{% macro m() %}x{% endmacro %}{{ m.name }}{{ m.arguments }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}",
    "{{ self is defined }}",
];

#[test]
fn snippets_render_as_jinja2_renders_them() {
    let (expected, snippets) = (expected(), read(&fixtures().join("snippets.json")));
    let case = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let now = now();
    let (mut otherwise, mut refused) = (Vec::new(), Vec::new());
    for (source, expected) in expected["snippets"].as_object().unwrap() {
        let got = template(source).and_then(|t| render(&t, &case, &snippets["context"], now));
        match (difference(&got, expected), &got) {
            (None, _) => {}
            // An unsupported feature gives a clear error, never a wrong prompt.
            (Some(_), Err(TemplateError::Failed(_))) => refused.push(source.as_str()),
            (Some(what), _) => otherwise.push((source.as_str(), what)),
        }
    }
    let new: Vec<_> = otherwise.iter().filter(|(source, _)| !OTHERWISE.contains(source)).collect();
    assert!(new.is_empty(), "{new:#?}");
    assert_eq!(otherwise.len(), OTHERWISE.len(), "fewer differ than are listed");
    assert!(refused.len() <= MOST_REFUSED, "{} are refused: {refused:#?}", refused.len());
}

/// Number of cases with filters, methods and globals that chat templates do not use and that are
/// not supported: `%`, `xmlattr`, `varargs` and the like.
const MOST_REFUSED: usize = 26;

#[test]
fn the_bundled_template_renders_as_in_transformers() {
    let source = include_str!("../../../../packaging/omlx-tiny/chat_template.jinja");
    let wrong = conversations("omlx-tiny", source, &expected()["omlx-tiny"]);
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Published templates are outside the checkout, because they are not ours to distribute.
#[test]
#[expect(clippy::print_stderr, reason = "who runs the tests must see what did not run")]
fn published_templates_render_as_in_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/templates");
    if !folder.is_dir() {
        eprintln!("SKIPPED: no templates in {}", folder.display());
        return;
    }
    let mut wrong = Vec::new();
    for (name, expected) in expected()["published"].as_object().unwrap() {
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let source = if name.ends_with(".json") {
            read(&folder.join(name))["chat_template"].as_str().unwrap().to_owned()
        } else {
            text
        };
        assert_eq!(expected["sha256"], sha256(&source), "{name} has changed: make goldens anew");
        wrong.extend(conversations(name, &source, &expected["renders"]));
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn dates_are_written_as_python_writes_them() {
    let now = now();
    for (format, expected) in expected()["strftime"].as_object().unwrap() {
        assert_eq!(strftime(now, format).ok().as_deref(), expected.as_str(), "{format}");
    }
}
