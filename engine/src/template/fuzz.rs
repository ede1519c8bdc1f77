//! What the fuzz target (`engine/fuzz`) and its twin under proptest call: templates made of anything at all,
//! compiled and rendered. Whatever they are, they end, they leave the process alive, and they say the same
//! twice.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{ChatInputs, ChatTemplate, DEFAULT_NAME};

/// What a template is made of besides plain characters.
const FRAGMENTS: &[&str] = &[
    "{{ ", " }}", "{% ", " %}", "{%- ", " -%}", "{# ", " #}", "{% raw %}", "{% endraw %}", "\n", "text ", "if ",
    "{% if x %}", "{% elif y %}", "{% else %}", "{% endif %}", "{% for m in messages %}", "{% for c in s %}",
    "{% for x in x recursive %}", "{% for k, v in d.items() %}", "{% for x in l if x %}", "{% endfor %}",
    "{% break %}", "{% continue %}", "{% set x = ", "{% set x %}", "{% endset %}", "{% set ns = namespace(x=x) %}",
    "{% set ns.x = ", "{% set ns.x = [ns.x, ns.x] %}", "{% set ns.x = ns %}", "{% set ns.x %}", "{% set x = [x] %}",
    "{% set x = {'a': x, 'b': x} %}", "{% set x = (x, x) %}", "{% set x = x ~ x %}", "{% set x = x + x %}",
    "{% set x = loop %}", "{% macro f(x, y=x) %}", "{% endmacro %}", "{{ f(x) }}", "{{ f([x], loop) }}",
    "{% call(x) f(x) %}", "{% endcall %}", "{{ caller([x]) }}", "{% with x = [x] %}", "{% endwith %}",
    "{% filter upper %}", "{% endfilter %}", "{% block b %}", "{% endblock %}", "{{ self.b() }}", "{{ loop(x) }}",
    "{{ loop.changed(x) }}", "{{ loop.cycle(x, 1) }}", "{{ raise_exception(x) }}", "{{ strftime_now(s) }}",
    "x", "ns", "ns.x", "l", "d", "s", "m", "m.content", "loop.index", "messages", "tools", "range(1000)", "[x]",
    "[x] * 1000", "'x' * 1000", "{'a': x}", "{x: x}", "(x, x)", "x[x]", "x[0]", "x[1:]", "x.a", "(", ")", "[", "]",
    "{", "}", ", ", ": ", " | ", " ~ ", " + ", " - ", " * ", " / ", " // ", " % ", " ** ", " == ", " != ", " < ",
    " in ", " not in ", " and ", " or ", " not ", " is ", " if ", " else ", " = ", ".", "tojson", "tojson(indent=2)",
    "string", "length", "list", "sort", "unique", "join", "join(x)", "map('upper')", "map(attribute='content')",
    "selectattr('role', 'eq', x)", "groupby('role')", "dictsort", "batch(2)", "slice(3)", "reverse", "first", "last",
    "min", "max", "sum", "trim", "upper", "replace(x, x)", "indent(100)", "format(x)", "default(x)", "items",
    "split('a')", "strip()", "split()", "join(l)", "format(x, x)", "ljust(1000)", "get(x)", "keys()", "defined",
    "none", "mapping", "sequence", "eq x", "in l", "1", "-1", "0", "100000", "1.5e3", "9223372036854775807", "'a'",
    "\"b\"", "true", "none ", "\u{e9}", "\u{65e5}", "\\", "'", "\"", "cycler(x, 1)", "joiner(x)", "namespace(d)",
];

/// A byte chooses a fragment; those that are left are characters.
pub fn template(bytes: &[u8]) {
    let source: String = bytes.iter().map(|&byte| fragment(byte)).collect();
    let tokens = json!({"bos_token": "<s>"}).as_object().cloned().unwrap_or_default();
    let Ok(template) = ChatTemplate::new(vec![(DEFAULT_NAME.to_owned(), source.clone())], tokens) else { return };
    let kwargs = json!({"x": [1, "a"], "l": [3, 1, 2], "s": "a\u{e9}b", "d": {"a": [1], "b": {"c": null}}});
    for messages in conversations() {
        let render = || {
            template.render(&ChatInputs {
                messages: &messages,
                tools: None,
                add_generation_prompt: true,
                kwargs: kwargs.as_object().unwrap_or(&Map::new()),
                now: SystemTime::UNIX_EPOCH,
            })
        };
        assert_eq!(render(), render(), "{source:?}");
    }
}

fn fragment(byte: u8) -> String {
    FRAGMENTS.get(usize::from(byte)).map_or_else(|| char::from(byte).to_string(), |text| (*text).to_owned())
}

fn conversations() -> [Vec<Value>; 2] {
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"a": [1, {"b": 2}]}}});
    [
        vec![json!({"role": "user", "content": "Hello"})],
        vec![
            json!({"role": "system", "content": "Be kind."}),
            json!({"role": "user", "content": [{"type": "text", "text": "Hi"}]}),
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            json!({"role": "tool", "content": "3"}),
        ],
    ]
}
