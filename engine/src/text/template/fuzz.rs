//! Entry points for the fuzz target (`engine/fuzz`) and for the same test under proptest: arbitrary
//! templates are compiled and rendered. They must end, must not end the process, and must give the
//! same result twice.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{ChatInputs, ChatTemplate, DEFAULT_NAME};

/// Fragments of templates, apart from plain characters.
const FRAGMENTS: &[&str] = &[
    "{{ ",
    " }}",
    "{% ",
    " %}",
    "{%- ",
    " -%}",
    "{# ",
    " #}",
    "{% raw %}",
    "{% endraw %}",
    "\n",
    "text ",
    "if ",
    "{% if x %}",
    "{% elif y %}",
    "{% else %}",
    "{% endif %}",
    "{% for m in messages %}",
    "{% for c in s %}",
    "{% for x in x recursive %}",
    "{% for k, v in d.items() %}",
    "{% for x in l if x %}",
    "{% endfor %}",
    "{% break %}",
    "{% continue %}",
    "{% set x = ",
    "{% set x %}",
    "{% endset %}",
    "{% set ns = namespace(x=x) %}",
    "{% set ns.x = ",
    "{% set ns.x = [ns.x, ns.x] %}",
    "{% set ns.x = ns %}",
    "{% set ns.x %}",
    "{% set x = [x] %}",
    "{% set x = {'a': x, 'b': x} %}",
    "{% set x = (x, x) %}",
    "{% set x = x ~ x %}",
    "{% set x = x + x %}",
    "{% set x = loop %}",
    "{% macro f(x, y=x) %}",
    "{% endmacro %}",
    "{{ f(x) }}",
    "{{ f([x], loop) }}",
    "{% call(x) f(x) %}",
    "{% endcall %}",
    "{{ caller([x]) }}",
    "{% with x = [x] %}",
    "{% endwith %}",
    "{% filter upper %}",
    "{% endfilter %}",
    "{% block b %}",
    "{% endblock %}",
    "{{ self.b() }}",
    "{{ loop(x) }}",
    "{{ loop.changed(x) }}",
    "{{ loop.cycle(x, 1) }}",
    "{{ raise_exception(x) }}",
    "{{ strftime_now(s) }}",
    "x",
    "ns",
    "ns.x",
    "l",
    "d",
    "s",
    "m",
    "m.content",
    "loop.index",
    "messages",
    "tools",
    "range(1000)",
    "[x]",
    "[x] * 1000",
    "'x' * 1000",
    "{'a': x}",
    "{x: x}",
    "(x, x)",
    "x[x]",
    "x[0]",
    "x[1:]",
    "x.a",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ", ",
    ": ",
    " | ",
    " ~ ",
    " + ",
    " - ",
    " * ",
    " / ",
    " // ",
    " % ",
    " ** ",
    " == ",
    " != ",
    " < ",
    " in ",
    " not in ",
    " and ",
    " or ",
    " not ",
    " is ",
    " if ",
    " else ",
    " = ",
    ".",
    "tojson",
    "tojson(indent=2)",
    "string",
    "length",
    "list",
    "sort",
    "unique",
    "join",
    "join(x)",
    "map('upper')",
    "map(attribute='content')",
    "selectattr('role', 'eq', x)",
    "groupby('role')",
    "dictsort",
    "batch(2)",
    "slice(3)",
    "reverse",
    "first",
    "last",
    "min",
    "max",
    "sum",
    "trim",
    "upper",
    "replace(x, x)",
    "indent(100)",
    "format(x)",
    "default(x)",
    "items",
    "split('a')",
    "strip()",
    "split()",
    "join(l)",
    "format(x, x)",
    "ljust(1000)",
    "get(x)",
    "keys()",
    "defined",
    "none",
    "mapping",
    "sequence",
    "eq x",
    "in l",
    "1",
    "-1",
    "0",
    "100000",
    "1.5e3",
    "9223372036854775807",
    "'a'",
    "\"b\"",
    "true",
    "none ",
    "\u{e9}",
    "\u{65e5}",
    "\\",
    "'",
    "\"",
    "cycler(x, 1)",
    "joiner(x)",
    "namespace(d)",
];

/// The first byte selects whether the others are a sequence of fragments and characters, or choices
/// of a grammar.
pub fn template(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let source = match first & 1 {
        0 => bytes.iter().map(|&byte| fragment(byte)).collect(),
        _ => Grammar { choices: bytes.iter() }.blocks(0),
    };
    let tokens = json!({"bos_token": "<s>"}).as_object().cloned().unwrap_or_default();
    let Ok(template) = ChatTemplate::new(vec![(DEFAULT_NAME.to_owned(), source.clone())], tokens)
    else {
        return;
    };
    let kwargs =
        json!({"x": [1, "a"], "l": [3, 1, 2], "s": "a\u{e9}b", "d": {"a": [1], "b": {"c": null}}});
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
    FRAGMENTS
        .get(usize::from(byte))
        .map_or_else(|| char::from(byte).to_string(), |text| (*text).to_owned())
}

/// Generates templates that parse.
struct Grammar<'a> {
    choices: std::slice::Iter<'a, u8>,
}

impl Grammar<'_> {
    /// Maximum nesting of blocks and of operands.
    const LEVELS: usize = 6;
    const OPERATORS: [&'static str; 14] =
        ["~", "+", "-", "*", "/", "//", "%", "**", "==", "<", "in", "not in", "and", "or"];
    const FILTERS: [&'static str; 22] = [
        "tojson",
        "string",
        "length",
        "list",
        "sort",
        "unique",
        "join",
        "map('upper')",
        "reverse",
        "first",
        "last",
        "batch(2)",
        "items",
        "dictsort",
        "upper",
        "indent(9)",
        "sum",
        "min",
        "groupby('a')",
        "default(x)",
        "pprint",
        "tojson(indent=2)",
    ];
    const NAMES: [&'static str; 12] =
        ["x", "ns", "ns.x", "l", "d", "s", "messages", "1", "'a'", "loop", "range(99)", "none"];

    fn next(&mut self) -> usize {
        self.choices.next().copied().map_or(0, usize::from)
    }

    fn blocks(&mut self, level: usize) -> String {
        let mut out = String::from("{% set ns = namespace(x=x) %}");
        while self.choices.len() > 0 && out.len() < 4_000 {
            let kind = self.next() % 16;
            if kind == 0 && level > 0 {
                break;
            }
            out.push_str(&self.block(kind, level));
        }
        out
    }

    fn block(&mut self, kind: usize, level: usize) -> String {
        let value = self.expression(0);
        let inner = |grammar: &mut Self| {
            if level < Self::LEVELS { grammar.blocks(level + 1) } else { String::new() }
        };
        match kind {
            1 => format!("{{% if {value} %}}{}{{% endif %}}", inner(self)),
            2 => format!("{{% for x in {value} %}}{}{{% endfor %}}", inner(self)),
            3 => format!("{{% for x in l if {value} %}}{}{{% endfor %}}", inner(self)),
            4 => format!(
                "{{% for x in [{value}] recursive %}}{}{{{{ loop(x) }}}}{{% endfor %}}",
                inner(self)
            ),
            5 => format!(
                "{{% macro f(x, y={value}) %}}{}{{% endmacro %}}{{{{ f(x) }}}}",
                inner(self)
            ),
            6 => format!("{{% call(x) f({value}) %}}{}{{% endcall %}}", inner(self)),
            7 => format!("{{% set x %}}{}{{% endset %}}", inner(self)),
            8 => format!("{{% with x = {value} %}}{}{{% endwith %}}", inner(self)),
            9 | 10 => format!("{{% set ns.x = {value} %}}"),
            11 | 12 => format!("{{% set x = {value} %}}"),
            13 => format!("{{{{ loop.changed({value}) }}}}"),
            _ => format!("{{{{ {value} }}}}"),
        }
    }

    fn expression(&mut self, level: usize) -> String {
        let choice = self.next();
        let name = Self::NAMES[choice / 16 % Self::NAMES.len()].to_owned();
        if level == Self::LEVELS {
            return name;
        }
        let mut next = || self.expression(level + 1);
        match choice % 12 {
            0 => format!("[{}, {}]", next(), next()),
            1 => format!("{{'a': {}, 'b': {}}}", next(), next()),
            2 => format!("({}, {})", next(), next()),
            3 | 4 => {
                let (left, right) = (next(), next());
                format!(
                    "({left}) {} ({right})",
                    Self::OPERATORS[self.next() % Self::OPERATORS.len()]
                )
            }
            5 | 6 => {
                let value = next();
                format!("({value}) | {}", Self::FILTERS[self.next() % Self::FILTERS.len()])
            }
            7 => format!("({})[{}]", next(), next()),
            8 => format!("({} if {} else {})", next(), next(), next()),
            9 => format!("(not ({}))", next()),
            _ => name,
        }
    }
}

fn conversations() -> [Vec<Value>; 2] {
    let call =
        json!({"type": "function", "function": {"name": "f", "arguments": {"a": [1, {"b": 2}]}}});
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
