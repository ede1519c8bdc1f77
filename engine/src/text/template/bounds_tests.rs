//! Templates that are too long, too deep or never end: tests each limit at its value and one past
//! it, and other ways to exceed it. None of them may end the process.

use serde_json::json;

use super::*;
use crate::limits::{
    TEMPLATE_BLOCK_LEVELS, TEMPLATE_BRACKET_LEVELS, TEMPLATE_TAG_TOKENS, TEMPLATE_VALUE_LEVELS,
};

fn rendered(source: &str) -> Result<String, TemplateError> {
    let named = vec![(DEFAULT_NAME.to_owned(), source.to_owned())];
    let template = ChatTemplate::new(named, Map::new()).map_err(TemplateError::Failed)?;
    template.render(&ChatInputs {
        messages: &[json!({"role": "user", "content": "Hello"})],
        tools: None,
        add_generation_prompt: true,
        kwargs: json!({"a": [1, 2, 3]}).as_object().unwrap(),
        now: SystemTime::UNIX_EPOCH,
    })
}

fn refusal(source: &str) -> String {
    match rendered(source) {
        Err(error) => error.to_string(),
        Ok(text) => panic!("{text:.60} of {source:.60}"),
    }
}

/// Compiles and renders on a quarter of the stack.
fn on_a_quarter(source: &str) -> Result<(), String> {
    stack::on_stack(stack::STACK_BYTES / 4, || {
        let mut environment = environment().map_err(|error| error.to_string())?;
        let guarded = guard::guarded(source)?;
        // The output or the kind of error does not matter here.
        if environment.add_template("it", &guarded).is_ok() {
            let _ =
                environment.get_template("it").unwrap().render(JinjaValue::from_pairs([("a", 1)]));
        }
        Ok(())
    })?
}

/// The start of a chain, its repeated part, and its end, each with its number of tokens.
type Chain = (&'static str, usize, &'static str, usize, &'static str, usize);

const CHAINS: [Chain; 38] = [
    ("", 0, "1 + ", 2, "1", 1),
    ("", 0, "1 * ", 2, "1", 1),
    ("", 0, "1 ** ", 2, "1", 1),
    ("", 0, "a ~ ", 2, "a", 1),
    ("", 0, "'a' ~ ", 2, "a", 1),
    ("", 0, "a and ", 2, "a", 1),
    ("", 0, "a or ", 2, "a", 1),
    ("", 0, "not ", 1, "a", 1),
    ("", 0, "- ", 1, "1", 1),
    ("", 0, "a == ", 2, "a", 1),
    ("", 0, "a < ", 2, "a", 1),
    ("", 0, "a in ", 2, "a", 1),
    ("", 0, "a not in ", 3, "a", 1),
    ("a", 1, ".b", 2, "", 0),
    ("a", 1, "[0]", 3, "", 0),
    ("a", 1, "[a]", 3, "", 0),
    ("a", 1, "[0:1]", 5, "", 0),
    ("a", 1, "()", 2, "", 0),
    ("a", 1, "(a)", 3, "", 0),
    ("a", 1, ".b()", 4, "", 0),
    ("a", 1, " | e", 2, "", 0),
    ("a", 1, " | default(a)", 5, "", 0),
    ("a", 1, " is defined", 2, "", 0),
    ("a", 1, " is eq 1", 3, "", 0),
    ("", 0, "1 if a else ", 4, "2", 1),
    ("1", 1, " if a", 2, "", 0),
    ("[", 1, "a, ", 2, "]", 1),
    ("{", 1, "a: a, ", 4, "}", 1),
    ("(", 1, "a, ", 2, ")", 1),
    ("a(", 2, "a, ", 2, ")", 1),
    ("a(", 2, "b=a, ", 4, ")", 1),
    ("'a'", 1, " 'b'", 1, "", 0),
    // Lazy lists, each made of the previous one only when it is read.
    ("[1]", 3, " * 1", 2, "", 0),
    ("[1]", 3, " + [1]", 4, "", 0),
    ("[1]", 3, " | reverse", 2, "", 0),
    ("[1]", 3, "[:]", 3, "", 0),
    ("[1]", 3, " | batch(1)", 5, "", 0),
    ("[1]", 3, " | map('list')", 5, "", 0),
];

#[test]
fn chains_at_their_limit() {
    for (first, before, link, length, last, after) in CHAINS {
        let chain = |links: usize| format!("{{{{ {first}{}{last} }}}}", link.repeat(links));
        let most = (TEMPLATE_TAG_TOKENS - before - after) / length;
        assert_eq!(on_a_quarter(&chain(most)), Ok(()), "{first}{link}{last}");
        let refused = on_a_quarter(&chain(most + 1)).unwrap_err();
        assert!(refused.contains("line 1") && refused.contains("2048 names"), "{refused}");
        // In a macro, where the compiler searches for captured variables.
        let inside = format!("{{% macro m() %}}{}{{% endmacro %}}{{{{ m() }}}}", chain(most));
        assert_eq!(on_a_quarter(&inside), Ok(()), "{first}{link}{last}");
        // The reported template was even longer.
        assert!(refusal(&chain(10_000)).contains("names, operators and brackets"));
    }
}

#[test]
fn nesting_at_its_limit() {
    let pairs = [
        ("(", ")"),
        ("[", "]"),
        ("{1: ", "}"),
        ("a(", ")"),
        ("a[", "]"),
        ("a(b=", ")"),
        ("[a == ", "]"),
    ];
    for (open, close) in pairs {
        let nested = |n: usize| format!("{{{{ {}a{} }}}}", open.repeat(n), close.repeat(n));
        assert_eq!(on_a_quarter(&nested(TEMPLATE_BRACKET_LEVELS)), Ok(()), "{open}");
        assert!(
            on_a_quarter(&nested(TEMPLATE_BRACKET_LEVELS + 1)).unwrap_err().contains("brackets")
        );
    }
    let blocks = [
        ("if a", "endif"),
        ("for x in a", "endfor"),
        ("set x", "endset"),
        ("macro m()", "endmacro"),
        ("with x = a", "endwith"),
        ("filter e", "endfilter"),
        ("call m()", "endcall"),
    ];
    for (open, close) in blocks {
        let (open, close) = (format!("{{% {open} %}}"), format!("{{% {close} %}}"));
        let nested = |n: usize| open.repeat(n) + "{{ [a, [a]] ~ a }}" + &close.repeat(n);
        assert_eq!(on_a_quarter(&nested(TEMPLATE_BLOCK_LEVELS)), Ok(()), "{open}");
        assert!(on_a_quarter(&nested(TEMPLATE_BLOCK_LEVELS + 1)).unwrap_err().contains("blocks"));
    }
    let arms = |n: usize| format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(n));
    assert_eq!(on_a_quarter(&arms(TEMPLATE_BLOCK_LEVELS - 1)), Ok(()));
    assert!(on_a_quarter(&arms(TEMPLATE_BLOCK_LEVELS)).unwrap_err().contains("elif"));
    // Consecutive blocks are not nested.
    assert_eq!(on_a_quarter(&"{% if a %}{% elif a %}{% endif %}".repeat(1000)), Ok(()));
}

#[test]
fn values_at_their_depth() {
    let steps = [
        "{% set ns.x = [ns.x] %}",
        "{% set ns.x = (ns.x,) %}",
        "{% set ns.x = {'a': ns.x} %}",
        "{% set ns.x = dict(a=ns.x) %}",
        "{% set ns.x = [ns.x] | list %}",
        "{% set ns.x = [ns.x] | reverse %}",
        "{% set ns.x = [ns.x] * 1 %}",
        "{% set ns.x = [ns.x] + [] %}",
        "{% set ns.x = [ns.x][0:1] %}",
        "{% set ns.x = ([ns.x] | batch(1) | list)[0] %}",
        "{% with y = [ns.x] %}{% set ns.x = y %}{% endwith %}",
        "{% for y in [ns.x] %}{% set ns.x = [y] %}{% endfor %}",
    ];
    for step in steps {
        let deep = |n: usize, then: &str| {
            format!(
                "{{% set ns = namespace(x=[]) %}}{{% for i in range({n}) %}}{step}{{% endfor %}}\
                 {{% set x = ns.x %}}{then}"
            )
        };
        let most = TEMPLATE_VALUE_LEVELS - 1;
        for then in [
            "{{ x == x }}{{ x != [x] }}{{ x in [x] }}{{ [x] | sort }}{{ [x, x] | unique | list | length }}",
            "{{ x | string | length }}{{ x ~ '' }}{{ x | tojson | length }}{{ x }}",
            "{{ {(1, 2): x} | length }}{% macro m(y) %}{{ y | length }}{% endmacro %}{{ m(x) }}",
            "{% for y in x %}{{ loop.changed(y) }}{% endfor %}",
        ] {
            let text = rendered(&deep(most, then));
            // The list around it adds one level.
            let is_refused =
                matches!(&text, Err(TemplateError::Failed(what)) if what.contains("levels"));
            assert!(text.is_ok() || is_refused, "{text:?}");
        }
        assert!(rendered(&deep(most, "{{ x | length }}")).is_ok(), "{step}");
        assert!(refusal(&deep(most + 1, "")).contains("200 levels"), "{step}");
        assert!(refusal(&deep(100_000, "")).contains("200 levels"), "{step}");
    }
}

#[test]
fn values_cannot_get_deep_in_another_way() {
    for source in [
        "{% macro m(x) %}{{ m([x]) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(x) %}{{ m([[[[[x]]]]]) }}{% endmacro %}{{ m(1) }}",
        "{% macro m(x, y=[[[[[x]]]]]) %}{{ m(y) }}{% endmacro %}{{ m(1) }}",
        "{% macro m() %}{{ caller([[1]]) }}{% endmacro %}{% macro r() %}{% call(x) m() %}{{ r() }}\
         {% endcall %}{% endmacro %}{{ r() }}",
        "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% for x in [[1]] recursive %}{% set l = loop %}{{ l([[x]]) }}{% endfor %}",
        "{% set ns = namespace() %}{% for i in range(9999) %}{% for x in [ns.l] %}{% set ns.l = loop %}\
         {% endfor %}{% endfor %}",
        "{% for x in [1] %}{{ loop.changed(loop) }}{% endfor %}",
        "{% for x in [1] %}{{ [loop] == [loop] }}{% endfor %}",
        "{{ cycler(cycler(1)) }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ [ns] | tojson }}",
        "{% block b %}{{ self.b() }}{% endblock %}",
        "{% include 'default' %}",
        "{% import 'default' as x %}",
        "{% from 'default' import x %}",
        "{% extends 'default' %}",
        // minijinja panics here.
        "{% for x in a %}{{ loop.cycle() }}{% endfor %}",
        "{% for x in a %}{% with y = 1 %}{% continue %}{% endwith %}{% endfor %}",
        "{% set omlx__checked = 1 %}",
    ] {
        refusal(source);
    }
    let straight =
        format!("{{% set x = [] %}}{}{{{{ x == x }}}}", "{% set x = [x] %}".repeat(50_000));
    assert!(refusal(&straight).contains("200 levels"));
    // A namespace that contains itself, or as many others as the fuel allows, is dropped and
    // compared.
    let selfish =
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns == ns.x.x }}{{ [ns] == [ns.x] }}";
    assert_eq!(rendered(selfish).unwrap(), "TrueTrue");
    let chain = "{% set ns = namespace() %}{% for i in range(100000) %}{% set ns.x = namespace(x=ns.x) %}\
                 {% endfor %}{{ ns.x.x.x is defined }}";
    assert_eq!(rendered(chain).unwrap(), "True");
    // Nothing can replace a function of the guard, not even a request's variables.
    let kwargs = json!({"omlx__checked": 1, "omlx__weighed": 1, "omlx__looped": "x"});
    let named =
        vec![(DEFAULT_NAME.to_owned(), "{% for x in [[1]] %}{{ x }}{% endfor %}".to_owned())];
    let inputs = ChatInputs {
        messages: &[],
        tools: None,
        add_generation_prompt: true,
        kwargs: kwargs.as_object().unwrap(),
        now: SystemTime::UNIX_EPOCH,
    };
    let template = ChatTemplate::new(named, Map::new()).unwrap();
    assert_eq!(template.render(&inputs).unwrap(), "[1]");
}

#[test]
fn values_that_others_expand_cost_fuel() {
    // A list of 10^12 numbers that uses the memory of four.
    let huge = "([[[[1] * 1000] * 1000] * 1000] * 1000)";
    for use_of in [
        "{{ X == X }}",
        "{{ X in [X] }}",
        "{{ X ~ 'x' }}",
        "{{ X | sort }}",
        "{{ X | join }}",
        "{{ X | upper }}",
        "{{ X | string }}",
        "{{ X | tojson }}",
        "{{ [X] | map('upper') | list }}",
        "{{ [X] | select('eq', X) | list }}",
        "{{ [X].index(X) }}",
        "{{ 'x' | replace('x', X) }}",
        "{{ '%s' | format(X) }}",
        "{{ a[X] }}",
        "{{ {(X, 1): 1} }}",
        "{% set x = X %}",
        "{% for x in X %}{% endfor %}",
    ] {
        let got = rendered(&use_of.replace('X', huge));
        assert_eq!(got, Err(TemplateError::OutOfFuel(TEMPLATE_FUEL)), "{use_of}");
    }
    let json = r#"{{ '{{"a": {}, "b": {:>3}}}'.format(1, 2) }}"#;
    assert_eq!(rendered(json).unwrap(), r#"{"a": 1, "b":   2}"#);
    for bomb in [
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 1000000000) }}",
        "{{ (['x' * 100000] * 100000) | join }}",
        "{{ ''.join(['x' * 100000] * 100000) }}",
        "{{ ('x\\n' * 100000) | indent('y' * 100000) }}",
        "{{ ('x' * 100000) | replace('x', 'y' * 100000) }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ] {
        refusal(bomb);
    }
}

#[test]
fn a_rendering_at_its_fuel() {
    let fits = |bytes: usize| {
        let big = "{% for i in range(49) %}{% set a = 'x' * 3000000 %}{% endfor %}";
        match rendered(&format!("{big}{{% set b = 'x' * {bytes} %}}")) {
            Ok(_) => true,
            Err(TemplateError::OutOfFuel(TEMPLATE_FUEL)) => false,
            Err(error) => panic!("{error}"),
        }
    };
    let (mut most, mut too_many) = (1, 64 << 20);
    while too_many - most > 1 {
        let middle = (most + too_many) / 2;
        *if fits(middle) { &mut most } else { &mut too_many } = middle;
    }
    // The text is made and then stored: each costs one unit per 64 bytes.
    let cost = 2 * (49 * 3_000_000 + most as u64) / 64;
    assert!(cost < TEMPLATE_FUEL && cost > TEMPLATE_FUEL - TEMPLATE_FUEL / 100, "{cost}");
}

#[test]
fn a_rendering_at_its_deadline() {
    let named = |source: &str| vec![(DEFAULT_NAME.to_owned(), source.to_owned())];
    let inputs = |messages| ChatInputs {
        messages,
        tools: None,
        add_generation_prompt: true,
        kwargs: &EMPTY,
        now: SystemTime::UNIX_EPOCH,
    };
    static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    let late = Err(TemplateError::TooSlow(TEMPLATE_RENDER_MILLIS));
    let plain = ChatTemplate::new(named("x"), Map::new()).unwrap();
    assert_eq!(plain.render_until(&inputs(&[]), deadline()), Ok("x".to_owned()));
    assert_eq!(plain.render_until(&inputs(&[]), Instant::now()), late);
    // Each of these takes much time for little fuel.
    let text = [json!({"role": "user", "content": "a".repeat(1 << 20)})];
    for slow in ["s[-1]", "s[1048575]", "s[-2:-1]", "s[1048570::2]"] {
        let source = format!(
            "{{% set s = messages[0].content %}}{{% for i in range(99000) %}}{{% if {slow} %}}{{% endif %}}{{% endfor %}}"
        );
        let template = ChatTemplate::new(named(&source), Map::new()).unwrap();
        let begun = Instant::now();
        let soon = begun + Duration::from_millis(30);
        let got = template.render_until(&inputs(&text), soon);
        let is_charged = matches!(got, Err(TemplateError::OutOfFuel(_)));
        assert!(got == late || is_charged, "{slow}: {got:?}");
        // All renderings of a probe share one deadline.
        let template = ChatTemplate::new(
            named(&source.replace("messages[0].content", "'a' * 1000000")),
            Map::new(),
        );
        let takes =
            probe::learn(&template.unwrap(), true, Instant::now() + Duration::from_millis(30));
        assert_eq!(takes, Takes::anything());
        assert!(begun.elapsed() < Duration::from_secs(5), "{slow}");
    }
}

#[test]
fn scanning_and_splitting_cost_fuel_first() {
    for (text, uses) in [
        (
            "'ab' * 5000000",
            &["s | list", "s | batch(1) | list", "s | slice(3) | list", "s | sort", "s | join"][..],
        ),
        (
            "'ab' * 5000000",
            &[
                "''.join(s)",
                "s.split('a')",
                "s.rsplit('a')",
                "s | split('a')",
                "s | e",
                "s | lines",
                "[s, s] | string",
                "[s, s] | tojson",
            ],
        ),
        ("'a ' * 5000000", &["s.split()", "s.rsplit()", "s[::-1] ~ s[::-1] ~ s[::-1] ~ s[::-1]"]),
        ("'\\n' * 10000000", &["s.splitlines()", "s.splitlines(true)", "s | pprint"]),
    ] {
        for use_of in uses {
            let got = rendered(&format!(
                "{{% set s = {text} %}}{{% if {use_of} %}}{{% endif %}}{{% if {use_of} %}}{{% endif %}}{{% if {use_of} %}}{{% endif %}}{{% if {use_of} %}}{{% endif %}}"
            ));
            assert_eq!(got, Err(TemplateError::OutOfFuel(TEMPLATE_FUEL)), "{use_of}");
        }
    }
    for test in [
        "s is lower",
        "s is upper",
        "s is startingwith('b')",
        "s is endingwith(s)",
        "s.isalpha()",
        "{s: 1}",
    ] {
        let many = format!(
            "{{% set s = 'a' * 1000000 %}}{{% for i in range(2000) %}}{{% if {test} %}}{{% endif %}}{{% endfor %}}"
        );
        assert_eq!(rendered(&many), Err(TemplateError::OutOfFuel(TEMPLATE_FUEL)), "{test}");
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn loaded(files: &[(&str, &str)], tools: bool) -> Result<Option<String>, String> {
    let folder = folder(files);
    let template = ChatTemplate::load(folder.path()).map_err(|error| error.to_string())?;
    let tool = [json!({"type": "function", "function": {"name": "f"}})];
    let inputs = ChatInputs {
        messages: &[],
        tools: tools.then_some(tool.as_slice()),
        add_generation_prompt: true,
        kwargs: &Map::new(),
        now: SystemTime::UNIX_EPOCH,
    };
    Ok(template.map(|template| template.render(&inputs).unwrap()))
}

#[test]
fn additional_templates_are_found_as_transformers_finds_them() {
    let main = ("chat_template.jinja", "main");
    let more = ("additional_chat_templates/tool_use.jinja", "{{ tools | length }} tools");
    let other = ("additional_chat_templates/rag.jinja", "{{ nobody asks }}");
    let config = ("tokenizer_config.json", r#"{"chat_template": "config"}"#);
    let says = |files: &[(&str, &str)], tools| loaded(files, tools).unwrap().unwrap();
    assert_eq!(says(&[main, more, config], false), "main");
    assert_eq!(says(&[main, more, config], true), "1 tools");
    assert_eq!(says(&[main, config], true), "main");
    assert_eq!(says(&[config, more], true), "1 tools");
    assert_eq!(says(&[config, more], false), "config");
    assert_eq!(says(&[more], true), "1 tools");
    // A file overrides an entry of the same name, and `default` is the main template.
    let list = r#"{"chat_template": [{"name": "tool_use", "template": "old"}, {"name": "default", "template": "c"}]}"#;
    assert_eq!(says(&[("tokenizer_config.json", list), more], true), "1 tools");
    assert_eq!(says(&[("tokenizer_config.json", list), more], false), "c");
    let default = ("additional_chat_templates/default.jinja", "default");
    assert_eq!(says(&[main, default], false), "default");
    // No caller requests any other template, so it may be invalid.
    assert_eq!(says(&[main, more, other], true), "1 tools");
    // Other files of the folder are ignored, and an error names the file.
    let notes = ("additional_chat_templates/notes.txt", "{{");
    assert_eq!(says(&[main, notes], false), "main");
    let broken = ("additional_chat_templates/tool_use.jinja", "{{ nobody asks }}");
    let error = loaded(&[main, broken], false).unwrap_err();
    assert!(error.contains("tool_use.jinja") && error.contains("does not parse"), "{error}");
    assert_eq!(loaded(&[], false), Ok(None));
}

#[test]
fn as_many_templates_as_allowed() {
    let names: Vec<String> =
        (0..=TEMPLATES).map(|n| format!("additional_chat_templates/{n}.jinja")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    assert_eq!(loaded(&files[..TEMPLATES], false), Ok(Some("x".to_owned())));
    assert!(loaded(&files, false).unwrap_err().contains("more than 64 chat templates"));
    let main = ("chat_template.jinja", "main");
    assert!(loaded(&[&files[..TEMPLATES], &[main]].concat(), false).is_err());
}

#[test]
fn a_template_at_its_length() {
    let long = "x".repeat(TEMPLATE_BYTES);
    assert_eq!(rendered(&long).unwrap().len(), TEMPLATE_BYTES);
    assert!(refusal(&(long + "x")).contains("over 1048576 bytes"));
}

#[test]
fn a_template_file_at_its_limit() {
    let text = r#"{"chat_template": "config"}"#.to_owned();
    let padded = |bytes: u64| text.clone() + &" ".repeat(bytes as usize - text.len());
    let at = |bytes: u64| loaded(&[("tokenizer_config.json", &padded(bytes))], false);
    assert_eq!(at(TEMPLATE_FILE_BYTES), Ok(Some("config".to_owned())));
    assert!(at(TEMPLATE_FILE_BYTES + 1).unwrap_err().contains("more than 16777216 bytes"));
}

/// The same test as the fuzz target.
#[test]
fn anything_at_all_is_compiled_and_rendered() {
    use proptest::prelude::*;
    let runner = &mut proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(500));
    let bytes = proptest::collection::vec(any::<u8>(), 1..40);
    let ran = runner.run(&bytes, |bytes| {
        fuzz::template(&bytes);
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}
