//! Probes which features a chat template supports by rendering small conversations.

use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};

use super::takes::{EFFORTS, TakenArguments, Takes, USUAL_EFFORTS};
use super::{ChatInputs, ChatTemplate};
use crate::error::TemplateError;

impl ChatTemplate {
    /// The features that it supports in requests with or without tools. The first call probes them
    /// by rendering about thirty small conversations.
    pub fn takes(&self, with_tools: bool) -> &Takes {
        self.inner.takes[usize::from(with_tools)]
            .get_or_init(|| learn(self, with_tools, super::deadline()))
    }
}

/// Texts that no template writes by itself.
const SYSTEM: &str = "Probe-system";
const QUESTION: &str = "Probe-question";
const ANSWER: &str = "Probe-answer";
const MORE: &str = "Probe-more";
const LAST: &str = "Probe-last";
const RESULT: &str = "Probe-result";
const NAME: &str = "probe_name";
const OTHER_NAME: &str = "probe_other";
const VALUE: &str = "probe_value";
const TEXT_ARGUMENTS: &str = "{ \"probe_key\":\"probe_value\"}";

/// Renders conversations and checks their output for the expected texts.
struct Probe<'a> {
    template: &'a ChatTemplate,
    tools: Option<Vec<Value>>,
    /// The deadline of all renderings together.
    deadline: Instant,
}

impl Probe<'_> {
    fn render(&self, messages: &[Value], kwargs: Value) -> Result<String, TemplateError> {
        let none = Map::new();
        let inputs = ChatInputs {
            messages,
            tools: self.tools.as_deref(),
            add_generation_prompt: true,
            kwargs: kwargs.as_object().unwrap_or(&none),
            now: SystemTime::UNIX_EPOCH,
        };
        self.template.render_until(&inputs, self.deadline)
    }

    /// Whether a conversation is rendered with all of these texts.
    fn says(&self, messages: &[Value], texts: &[&str]) -> bool {
        let rendered = self.render(messages, json!({}));
        rendered.is_ok_and(|rendered| texts.iter().all(|text| rendered.contains(text)))
    }

    /// Whether calls are rendered with all of these texts, with or without the usual messages after
    /// them.
    fn calls(&self, message: &Value, texts: &[&str]) -> bool {
        let alone = [user(QUESTION), message.clone()];
        let mut whole = alone.to_vec();
        let calls = message["tool_calls"].as_array().into_iter().flatten();
        whole.extend(calls.map(|call| result(&call["id"])));
        whole.extend([assistant(ANSWER), user(LAST)]);
        self.says(&alone, texts) || self.says(&whole, texts)
    }

    /// The supported form of a call's arguments; `None` if calls are not rendered at all.
    fn arguments(&self) -> Option<TakenArguments> {
        let with = |arguments: Value| calling("", &[call(NAME, arguments)]);
        let object = self.calls(&with(json!({"probe_key": VALUE})), &[NAME, VALUE]);
        let text = with(json!(TEXT_ARGUMENTS));
        match (object, self.calls(&text, &[NAME, TEXT_ARGUMENTS])) {
            (true, true) => Some(TakenArguments::ObjectOrText),
            (false, true) => Some(TakenArguments::Text),
            (true, false) if self.calls(&text, &[NAME, VALUE]) => {
                Some(TakenArguments::ObjectOrQuoted)
            }
            (true, false) => Some(TakenArguments::Object),
            (false, false) => None,
        }
    }

    fn efforts(&self) -> Vec<&'static str> {
        if !self.template.mentions("reasoning_effort") {
            return Vec::new();
        }
        let render = |word: &str| {
            let kwargs = json!({"reasoning_effort": word, "enable_thinking": true});
            self.render(&[user(QUESTION)], kwargs)
        };
        let writes_any = render(LAST).is_ok_and(|rendered| rendered.contains(LAST));
        let words = if writes_any { &USUAL_EFFORTS[..] } else { &EFFORTS[..] };
        words.iter().copied().filter(|word| render(word).is_ok()).collect()
    }

    fn takes(&self) -> Takes {
        let plain = [user(QUESTION), assistant(ANSWER), user(LAST)];
        match self.render(&plain, json!({})) {
            Ok(text) if [QUESTION, ANSWER, LAST].iter().all(|said| text.contains(said)) => {}
            // Every further rendering would take as long.
            Err(TemplateError::OutOfFuel(_) | TemplateError::TooSlow(_)) => {
                return Takes::anything();
            }
            _ => return Takes { efforts: self.efforts(), ..Takes::anything() },
        }
        let says = |messages: &[Value], texts: &[&str]| self.says(messages, texts);
        let arguments = self.arguments();
        let one_call = |said: &str| {
            let arguments = match arguments {
                Some(TakenArguments::Text) => json!(TEXT_ARGUMENTS),
                _ => json!({"probe_key": VALUE}),
            };
            calling(said, &[call(NAME, arguments)])
        };
        let mut two_calls = one_call("");
        let mut second = two_calls["tool_calls"][0].clone();
        second["id"] = json!("probeid02");
        second["function"]["name"] = json!(OTHER_NAME);
        two_calls["tool_calls"].as_array_mut().expect("a list").push(second);
        let mut thinking = one_call(MORE);
        thinking["reasoning_content"] = json!("Probe-thought");
        let made = one_call("");
        let answered = [user(QUESTION), made.clone(), result(&made["tool_calls"][0]["id"])];
        let answered_and = |rest: &[Value]| [&answered[..], rest].concat();
        Takes {
            system: says(&[system(SYSTEM), user(QUESTION)], &[SYSTEM, QUESTION]),
            later_system: says(
                &[user(QUESTION), assistant(ANSWER), system(SYSTEM), user(LAST)],
                &[SYSTEM, LAST],
            ) && says(
                &[system(MORE), system(SYSTEM), user(LAST)],
                &[MORE, SYSTEM, LAST],
            ),
            developer: self.template.mentions("developer")
                && says(&[message("developer", SYSTEM), user(QUESTION)], &[SYSTEM, QUESTION]),
            users_in_a_row: says(&[user(QUESTION), user(LAST)], &[QUESTION, LAST]),
            assistants_in_a_row: says(
                &[user(QUESTION), assistant(ANSWER), assistant(MORE), user(LAST)],
                &[ANSWER, MORE, LAST],
            ),
            assistant_first: says(&[assistant(ANSWER), user(LAST)], &[ANSWER, LAST]),
            user_after_call: says(&[user(QUESTION), made.clone(), user(LAST)], &[LAST]),
            user_after_result: says(&answered_and(&[user(LAST)]), &[LAST]),
            calls: arguments.is_some(),
            many_calls: self.calls(&two_calls, &[NAME, OTHER_NAME]),
            text_beside_calls: self.calls(&one_call(MORE), &[NAME, MORE]),
            thoughts_beside_both: self.calls(&thinking, &[NAME, MORE]),
            results: says(&answered, &[RESULT])
                || says(&answered_and(&[assistant(ANSWER), user(LAST)]), &[RESULT]),
            tools: says(&plain, &["probe_tool"]),
            arguments: arguments.unwrap_or(TakenArguments::ObjectOrQuoted),
            blank: self.blank(),
            efforts: self.efforts(),
        }
    }

    /// The shortest supported text of an answer.
    fn blank(&self) -> &'static str {
        let taken = |text: &str| {
            self.says(&[user(QUESTION), assistant(text), user(LAST)], &[QUESTION, LAST])
        };
        ["", " ", "..."].into_iter().find(|text| taken(text)).unwrap_or_default()
    }
}

/// Probes the features that a template supports, with or without tools. If that takes too long, all
/// features are assumed.
pub(super) fn learn(template: &ChatTemplate, with_tools: bool, deadline: Instant) -> Takes {
    // Variables set by the configuration are not part of the template.
    let template = ChatTemplate { defaults: std::sync::Arc::default(), ..template.clone() };
    let parameters = json!({"type": "object", "required": ["probe_key"], "properties": {
        "probe_key": {"type": "string", "description": "Probe."}}});
    let tool = json!({"type": "function", "function": {
        "name": "probe_tool", "description": "Probe.", "parameters": parameters}});
    let probe = Probe { template: &template, tools: with_tools.then(|| vec![tool]), deadline };
    let takes = probe.takes();
    // Renderings that did not finish in time prove nothing.
    if Instant::now() >= deadline { Takes::anything() } else { takes }
}

fn message(role: &str, text: &str) -> Value {
    json!({"role": role, "content": text})
}

fn system(text: &str) -> Value {
    message("system", text)
}

fn user(text: &str) -> Value {
    message("user", text)
}

fn assistant(text: &str) -> Value {
    message("assistant", text)
}

fn calling(text: &str, calls: &[Value]) -> Value {
    json!({"role": "assistant", "content": text, "tool_calls": calls})
}

/// A call whose id every template accepts.
fn call(name: &str, arguments: Value) -> Value {
    json!({"id": "probeid01", "type": "function",
           "function": {"name": name, "arguments": arguments}})
}

fn result(id: &Value) -> Value {
    json!({"role": "tool", "tool_call_id": id, "content": RESULT})
}

#[cfg(test)]
mod tests {
    use super::super::DEFAULT_NAME;
    use super::*;

    fn takes(source: &str) -> Takes {
        let named = vec![(DEFAULT_NAME.to_owned(), source.to_owned())];
        ChatTemplate::new(named, Map::new()).unwrap().takes(true).clone()
    }

    #[test]
    fn arguments_have_the_form_that_the_template_renders() {
        let with = |arguments: &str| {
            let calls = "{% for c in m.tool_calls or [] %}{{ c.function.name }} ";
            takes(&format!(
                "{{% for m in messages %}}{{{{ m.content }}}}{calls}{arguments}{{% endfor %}}{{% endfor %}}"
            ))
        };
        for (source, expected) in [
            ("{{ c.function.arguments | tojson }}", TakenArguments::ObjectOrQuoted),
            (
                "{% for k, v in c.function.arguments | items %}{{ v }}{% endfor %}",
                TakenArguments::Object,
            ),
            (
                "{% for k, v in c.function.arguments.items() %}{{ v }}{% endfor %}",
                TakenArguments::Object,
            ),
            (
                "{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}\
                 {{ c.function.arguments | tojson }}{% endif %}",
                TakenArguments::ObjectOrText,
            ),
            ("{{ 'args: ' + c.function.arguments }}", TakenArguments::Text),
        ] {
            let takes = with(source);
            assert_eq!((takes.calls, takes.arguments), (true, expected), "{source}");
        }
        assert!(!with("").calls, "the arguments fell out");
    }

    #[test]
    fn the_nearest_effort_is_handed_over() {
        let with = |source: &str| {
            let takes = takes(&format!(
                "{source}{{% for m in messages %}}{{{{ m.content }}}}{{% endfor %}}"
            ));
            EFFORTS.map(|effort| takes.effort(effort).unwrap_or("-"))
        };
        let strict = |words: &str| {
            let raise = "{{ raise_exception('unknown effort') }}";
            with(&format!(
                "{{% if reasoning_effort is defined and reasoning_effort not in {words} %}}{raise}{{% endif %}}"
            ))
        };
        assert_eq!(
            strict("['low', 'medium', 'xhigh']"),
            ["low", "low", "low", "medium", "xhigh", "xhigh", "xhigh"]
        );
        assert_eq!(
            strict("['none', 'high']"),
            ["none", "high", "high", "high", "high", "high", "high"]
        );
        assert_eq!(strict("['none']"), ["none", "-", "-", "-", "-", "-", "-"]);
        assert_eq!(strict("['unheard-of']"), ["-"; 7]);
        assert_eq!(with(""), ["-"; 7]);
        let written = with("Reasoning: {{ reasoning_effort or 'medium' }}");
        assert_eq!(written, ["low", "low", "low", "medium", "high", "high", "high"]);
        let refusing = |words: &str| {
            with(&format!(
                "{{% if reasoning_effort in {words} %}}{{{{ raise_exception('no') }}}}{{% endif %}}\
                 Reasoning: {{{{ reasoning_effort or 'medium' }}}}"
            ))
        };
        assert_eq!(
            refusing("['high', 'max']"),
            ["low", "low", "low", "medium", "medium", "medium", "medium"]
        );
        assert_eq!(refusing("['low', 'medium', 'high']"), ["-"; 7]);
        assert_eq!(with("{% if reasoning_effort == 'max' %}Think.{% endif %}"), EFFORTS);
    }

    #[test]
    fn a_template_that_renders_nothing_is_assumed_to_take_anything() {
        assert_eq!(takes("{{ raise_exception('no') }}"), Takes::anything());
        assert_eq!(takes(""), Takes::anything());
    }
}
