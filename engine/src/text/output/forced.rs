//! Patterns for grammar-constrained answers in each format.

use serde_json::Value;

use super::format::{CallFormat, OutputFormat, Thinking};
use super::harmony;
use super::input::Marker;
use super::kinds::Search;
use super::layout::Layout;
use crate::text::grammar::Pattern;

/// A function that an answer may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The function's name.
    pub name: String,
    /// The pattern of its arguments, which are a JSON object.
    pub arguments: Pattern,
}

/// The required content of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    /// A text with this pattern.
    Text(Pattern),
    /// At least one call.
    Calls(Vec<Call>),
    /// Either a text with this pattern, or calls.
    Either(Pattern, Vec<Call>),
    /// Any text, and calls whose arguments are constrained.
    Free(Vec<Call>),
}

impl OutputFormat {
    /// The pattern of an answer to `prompt`. Reasoning comes first if the prompt opens it or leaves
    /// the choice to the model. Without `parallel` there is at most one call. `None`: calls of this
    /// format cannot be described by a pattern.
    pub fn pattern(&self, prompt: &str, expected: &Expected, parallel: bool) -> Option<Pattern> {
        if let Some(markers) = &self.inner.harmony {
            return harmony_answer(markers, expected);
        }
        let calls = |functions: &[Call]| self.calls(functions, parallel);
        let answer = match expected {
            Expected::Text(text) => text.clone(),
            Expected::Calls(functions) => calls(functions)?,
            Expected::Either(text, functions) => match calls(functions) {
                Some(calls) => Pattern::Any(vec![text.clone(), calls]),
                None => text.clone(),
            },
            Expected::Free(functions) => {
                // If the opener is not a token, text may look like a call.
                self.inner.calls.as_ref()?.opener().id?;
                let calls = Pattern::Maybe(Box::new(calls(functions)?));
                Pattern::All(vec![Pattern::Free, calls])
            }
        };
        Some(self.after_thoughts(prompt, answer))
    }

    fn calls(&self, functions: &[Call], parallel: bool) -> Option<Pattern> {
        let format = self.inner.calls.as_ref().filter(|_| !functions.is_empty())?;
        let calls: Option<Vec<Pattern>> = functions.iter().map(|call| one(format, call)).collect();
        let call = Pattern::Any(calls?);
        let (before, between, after) = around(format);
        let mut all = vec![before, call.clone()];
        if let Some(between) = between.filter(|_| parallel) {
            all.push(Pattern::Many(Box::new(Pattern::All(vec![between, call]))));
        }
        // Many models write a line break after their calls, so the answer may end after one.
        all.extend([after, Pattern::Space]);
        Some(Pattern::All(all))
    }

    /// A template that disables reasoning writes its end marker itself.
    fn after_thoughts(&self, prompt: &str, answer: Pattern) -> Pattern {
        let Some(Thinking { open, close, .. }) = self.inner.thinking else { return answer };
        let end = prompt.trim_end();
        if end.ends_with(close.text) {
            return answer;
        }
        let thoughts = Pattern::All(vec![Pattern::Until(close.text.into()), Pattern::Space]);
        if end.ends_with(open.text) {
            Pattern::All(vec![thoughts, answer])
        } else {
            let thoughts = Pattern::All(vec![marker(open), thoughts]);
            Pattern::All(vec![Pattern::Maybe(Box::new(thoughts)), answer])
        }
    }
}

/// One call as the model writes it, without the text around all calls.
fn one(format: &CallFormat, Call { name, arguments }: &Call) -> Option<Pattern> {
    let quoted = Value::from(name.as_str());
    let object = |key: &str, end: &str| {
        let begin = format!("{{\"name\": {quoted}, \"{key}\": ");
        [Pattern::Text(begin), arguments.clone(), Pattern::text(end)]
    };
    Some(Pattern::All(match *format {
        CallFormat::Tagged { open, close } => {
            let [begin, arguments, end] = object("arguments", "}\n");
            vec![marker(open), Pattern::text("\n"), begin, arguments, end, marker(close)]
        }
        CallFormat::Llama { .. } => object("parameters", "}").to_vec(),
        CallFormat::Mistral { open, args, .. } if args.id.is_some() => {
            vec![marker(open), Pattern::text(name.as_str()), marker(args), arguments.clone()]
        }
        CallFormat::Mistral { .. } => object("arguments", "}").to_vec(),
        CallFormat::Sectioned { markers, is_kimi } => {
            // Kimi K2 numbers its calls.
            let name = if is_kimi { format!("functions.{name}:0") } else { name.clone() };
            let name = Pattern::Text(name);
            let arguments = arguments.clone();
            vec![
                marker(markers.call),
                name,
                marker(markers.separator),
                arguments,
                marker(markers.call_end),
            ]
        }
        CallFormat::Pairs(layout) => return pairs(&layout, name, arguments),
        CallFormat::Gemma { .. } => return None,
    }))
}

/// The text before all calls, between two calls if several are allowed, and after all calls.
fn around(format: &CallFormat) -> (Pattern, Option<Pattern>, Pattern) {
    let nothing = || Pattern::text("");
    match *format {
        CallFormat::Mistral { open, args, .. } if args.id.is_none() => {
            let before = Pattern::All(vec![marker(open), Pattern::text("[")]);
            (before, Some(Pattern::text(", ")), Pattern::text("]"))
        }
        CallFormat::Mistral { .. } => (nothing(), Some(nothing()), nothing()),
        CallFormat::Sectioned { markers, is_kimi } => {
            let between = (!is_kimi).then(nothing);
            (marker(markers.open), between, marker(markers.close))
        }
        CallFormat::Llama { .. } => (nothing(), None, nothing()),
        _ => (nothing(), Some(Pattern::Space), nothing()),
    }
}

/// A call whose parameters are written one by one. Required parameters come in the schema's order.
/// Of a string only its choices are enforced, because it is not written as JSON.
fn pairs(layout: &Layout, name: &str, arguments: &Pattern) -> Option<Pattern> {
    let Pattern::Json { schema, exactly } = arguments else { return None };
    let (fields, required) = Search::new(schema).properties();
    let quote = |name: &str, begin: Marker| {
        if begin.text.ends_with("name=") { format!("\"{name}\"") } else { name.to_owned() }
    };
    let mut all = vec![marker(layout.open)];
    match layout.name {
        Some((begin, end)) => all.extend([
            Pattern::Text(format!("\n{}{}", begin.text, quote(name, begin))),
            Pattern::Text(format!("{}\n", end.text)),
        ]),
        None => all.push(Pattern::Text(format!("{name}\n"))),
    }
    for (key, field) in fields {
        let field = Search::new(schema).target(field);
        let value = value(layout, schema, field, *exactly);
        // If a value is marked as text or JSON, its schema decides which.
        let mark = layout.prefix.map(|_| format!(" string=\"{}\"", is_text(schema, field)));
        let parameter = Pattern::All(vec![
            marker(layout.key.0),
            Pattern::Text(quote(key, layout.key.0) + &mark.unwrap_or_default()),
            marker(layout.key.1),
            layout.value.map_or(Pattern::text(""), |begin| {
                Pattern::All(vec![Pattern::text("\n"), marker(begin)])
            }),
            value,
            Pattern::text("\n"),
        ]);
        let is_required = required.contains(&key.as_str());
        all.push(if is_required { parameter } else { Pattern::Maybe(Box::new(parameter)) });
    }
    if let Some(end) = layout.function_end {
        all.push(Pattern::Text(format!("{}\n", end.text)));
    }
    all.push(marker(layout.close));
    Some(Pattern::All(all))
}

/// A value and its end.
fn value(layout: &Layout, schema: &Value, field: &Value, exactly: bool) -> Pattern {
    let line = if layout.lines { "\n" } else { "" };
    let end = marker(layout.value_end);
    let what = match choices(field) {
        Some(texts) => Pattern::Choice(texts),
        None if is_text(schema, field) => {
            let until = Pattern::Until(format!("{line}{}", layout.value_end.text));
            return Pattern::All(vec![Pattern::text(line), until]);
        }
        None => {
            let mut field = field.clone();
            // Its references point into the whole schema.
            for name in ["$defs", "definitions"] {
                if let (Some(all), Some(field)) = (schema.get(name), field.as_object_mut()) {
                    field.insert(name.to_owned(), all.clone());
                }
            }
            Pattern::Json { schema: field, exactly }
        }
    };
    Pattern::All(vec![Pattern::text(line), what, Pattern::text(line), end])
}

/// The values that a schema lists, if there are texts among them, as a model writes them.
fn choices(field: &Value) -> Option<Vec<String>> {
    let one = field.get("const").map(std::slice::from_ref);
    let values = one.or(field.get("enum").and_then(Value::as_array).map(Vec::as_slice))?;
    let as_written = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let has_text = values.iter().any(Value::is_string);
    has_text.then(|| values.iter().map(as_written).collect())
}

/// Whether [`value`] constrains a field as text and not as JSON.
fn is_text(schema: &Value, field: &Value) -> bool {
    Search::new(schema).kinds(field).may_be_text()
}

/// gpt-oss: reasoning, then a message to the user or to a function.
fn harmony_answer(markers: &harmony::Markers, expected: &Expected) -> Option<Pattern> {
    let [end, call_end, _] = markers.ends;
    let header = |text: &str| {
        Pattern::All(vec![marker(markers.channel), Pattern::text(text), marker(markers.message)])
    };
    let say = |text: &Pattern| Pattern::All(vec![header("final"), text.clone()]);
    let call = |Call { name, arguments }: &Call| {
        Pattern::All(vec![
            marker(markers.channel),
            Pattern::Text(format!("commentary to=functions.{name} ")),
            marker(markers.constrain),
            Pattern::text("json"),
            marker(markers.message),
            arguments.clone(),
            marker(call_end),
        ])
    };
    let options: Vec<Pattern> = match expected {
        Expected::Text(text) => vec![say(text)],
        Expected::Calls(functions) => functions.iter().map(call).collect(),
        Expected::Either(text, functions) => {
            std::iter::once(say(text)).chain(functions.iter().map(call)).collect()
        }
        Expected::Free(functions) => {
            std::iter::once(say(&Pattern::Free)).chain(functions.iter().map(call)).collect()
        }
    };
    let thoughts = Pattern::All(vec![
        header("analysis"),
        Pattern::Until(end.text.into()),
        marker(markers.start),
        Pattern::text("assistant"),
    ]);
    Some(Pattern::All(vec![Pattern::Maybe(Box::new(thoughts)), Pattern::Any(options)]))
}

fn marker(marker: Marker) -> Pattern {
    Pattern::text(marker.text)
}
