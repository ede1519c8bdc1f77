//! Chat templates: render a conversation to the prompt format that the model was trained on.
//!
//! Templates are Jinja as used by Hugging Face transformers (`trim_blocks`, `lstrip_blocks`, loop
//! controls, `raise_exception`, `strftime_now`, its own `tojson`), rendered by minijinja with
//! Python's values (`template/python.rs`) and methods (`template/methods.rs`). They come with a
//! model and are not trusted: fuel bounds a rendering's time and output, `template/guard.rs` bounds
//! the depth of the template and its values, and both compiling and rendering run on a thread with
//! enough stack for that depth.

mod clock;
// Fuzz targets and tests call it; release builds do not contain it.
#[cfg(debug_assertions)]
pub mod fuzz;
mod guard;
mod lexer;
mod methods;
mod namespace;
mod probe;
mod python;
mod stack;
mod takes;
mod values;
mod walkers;

pub use python::template_json;
pub use takes::{EFFORTS, TakenArguments, Takes};

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value as JinjaValue;
use minijinja::{Environment, Error, ErrorKind, State};
use serde_json::{Map, Value, json};

use crate::error::{LoadError, TemplateError};
use crate::limits::{
    TEMPLATE_BYTES, TEMPLATE_FILE_BYTES, TEMPLATE_FUEL, TEMPLATE_RENDER_MILLIS, TEMPLATES,
};
use crate::small_file;
use crate::text::python_json;

/// The name of the main template in a list.
const DEFAULT_NAME: &str = "default";
/// The folder of additional templates.
const ADDITIONAL: &str = "additional_chat_templates";
/// The name of the template for requests with tools in a list.
const TOOL_NAME: &str = "tool_use";

/// A model's chat template. Clones share it.
#[derive(Clone)]
pub struct ChatTemplate {
    inner: Arc<Inner>,
    /// Variables that a rendering may override.
    defaults: Arc<Map<String, Value>>,
}

struct Inner {
    environment: Environment<'static>,
    /// `bos_token`, `eos_token` and the like, by name.
    special_tokens: Map<String, Value>,
    has_tool_template: bool,
    sources: String,
    /// The supported features in requests without and with tools, once they have been probed.
    takes: [OnceLock<Takes>; 2],
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTemplate({} bytes)", self.inner.sources.len())
    }
}

/// The input of a rendering.
#[derive(Debug, Clone)]
pub struct ChatInputs<'a> {
    /// In the format that templates expect: `role`, `content`, `tool_calls` with `arguments` as an
    /// object.
    pub messages: &'a [Value],
    /// Tool definitions, `{"type": "function", "function": {..}}`.
    pub tools: Option<&'a [Value]>,
    /// Whether the prompt ends with the start of the assistant's turn.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`.
    pub kwargs: &'a Map<String, Value>,
    /// The time whose day `strftime_now` shows.
    pub now: SystemTime,
}

/// The message of `raise_exception`, distinguished from other errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

impl ChatTemplate {
    /// Loads the templates of a model folder in the same order as transformers:
    /// `chat_template.jinja` and the files of `additional_chat_templates`, which give the
    /// templates' names; else `chat_template.json`; else `chat_template` of
    /// `tokenizer_config.json`, which may be a list of named templates. If there are only
    /// additional ones, the main one is searched in the other files. `None` if there is no
    /// template, as in base models. Only the main template and `tool_use` are rendered, so the
    /// others may be invalid.
    ///
    /// # Errors
    /// If a file cannot be read, or a template that is rendered does not parse.
    pub fn load(dir: &Path) -> Result<Option<Self>, LoadError> {
        let read = |name: &str| read_optional(&dir.join(name));
        let tokenizer_config = match read("tokenizer_config.json")? {
            Some(text) => parse_object(&dir.join("tokenizer_config.json"), &text)?,
            None => Map::new(),
        };
        let special_tokens = special_tokens(&tokenizer_config);
        let (path, mut named) = if let Some(source) = read("chat_template.jinja")? {
            (dir.join("chat_template.jinja"), vec![(DEFAULT_NAME.to_owned(), source)])
        } else if let Some(text) = read("chat_template.json")? {
            let path = dir.join("chat_template.json");
            let object = parse_object(&path, &text)?;
            (path, named_templates(object.get("chat_template")))
        } else {
            let path = dir.join("tokenizer_config.json");
            (path, named_templates(tokenizer_config.get("chat_template")))
        };
        let more = additional_templates(&dir.join(ADDITIONAL))?;
        named.retain(|(name, _)| more.iter().all(|(_, (other, _))| other != name));
        let mut paths = vec![path; named.len()];
        for (path, template) in more {
            paths.push(path);
            named.push(template);
        }
        if named.is_empty() {
            return Ok(None);
        }
        if named.len() > TEMPLATES {
            let what = format!("the model has more than {TEMPLATES} chat templates");
            return Err(LoadError::Invalid { path: dir.to_owned(), what });
        }
        Self::compile(named, special_tokens)
            .map(Some)
            .map_err(|(at, what)| LoadError::Invalid { path: paths[at].clone(), what })
    }

    #[cfg(debug_assertions)]
    pub(crate) fn new(
        named: Vec<(String, String)>,
        special_tokens: Map<String, Value>,
    ) -> Result<Self, String> {
        Self::compile(named, special_tokens).map_err(|(_, what)| what)
    }

    /// Compiles named sources. An error names the template.
    fn compile(
        mut named: Vec<(String, String)>,
        special_tokens: Map<String, Value>,
    ) -> Result<Self, (usize, String)> {
        if !named.iter().any(|(name, _)| name == DEFAULT_NAME) {
            named[0].0 = DEFAULT_NAME.to_owned();
        }
        let mut environment = environment().map_err(|error| (0, error.to_string()))?;
        let mut sources = String::new();
        let has_tool_template = named.iter().any(|(name, _)| name == TOOL_NAME);
        // The others have purposes that are not supported here.
        let is_used = |name: &str| name == DEFAULT_NAME || name == TOOL_NAME;
        let used = named.into_iter().enumerate().filter(|(_, (name, _))| is_used(name));
        for (at, (name, source)) in used {
            if source.len() > TEMPLATE_BYTES {
                let what = format!("the chat template \"{name}\" is over {TEMPLATE_BYTES} bytes");
                return Err((at, what));
            }
            // Jinja normalizes all line ends.
            let source = source.replace("\r\n", "\n").replace('\r', "\n");
            sources.push_str(&source);
            let compile = || {
                let guarded = guard::guarded(&source)?;
                let compiled = environment.add_template_owned(name, guarded);
                compiled.map_err(|error| format!("{error:#}"))
            };
            stack::on_own_thread(compile)
                .and_then(|compiled| compiled)
                .map_err(|what| (at, format!("the chat template does not parse: {what}")))?;
        }
        let takes = Default::default();
        let inner = Inner { environment, special_tokens, has_tool_template, sources, takes };
        Ok(Self { inner: Arc::new(inner), defaults: Arc::default() })
    }

    /// Sets variables for renderings that do not set them.
    pub(crate) fn with_defaults(self, defaults: Map<String, Value>) -> Self {
        Self { defaults: Arc::new(defaults), ..self }
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// If the template rejects the conversation, fails, or runs for too long.
    pub fn render(&self, inputs: &ChatInputs<'_>) -> Result<String, TemplateError> {
        self.render_until(inputs, deadline())
    }

    /// Renders a conversation until a deadline.
    fn render_until(
        &self,
        inputs: &ChatInputs<'_>,
        deadline: Instant,
    ) -> Result<String, TemplateError> {
        if Instant::now() >= deadline {
            return Err(TemplateError::TooSlow(TEMPLATE_RENDER_MILLIS));
        }
        let start = || {
            clock::set(deadline);
            self.render_here(inputs)
        };
        let rendered = stack::on_own_thread(|| match start() {
            // A template for tools only, such as Hermes 2 Pro's, loops over them without checking
            // whether there are any.
            Err(TemplateError::Failed(what)) if inputs.tools.is_none() => {
                let inputs = ChatInputs { tools: Some(&[]), ..inputs.clone() };
                self.render_here(&inputs).map_err(|_| TemplateError::Failed(what))
            }
            rendered => rendered,
        });
        rendered.unwrap_or_else(|what| Err(TemplateError::Failed(what)))
    }

    fn render_here(&self, inputs: &ChatInputs<'_>) -> Result<String, TemplateError> {
        let rendered = self.render_unguarded(inputs);
        namespace::forget_namespaces();
        match rendered {
            Err(TemplateError::OutOfFuel(_)) if clock::is_over() => {
                Err(TemplateError::TooSlow(TEMPLATE_RENDER_MILLIS))
            }
            rendered => rendered,
        }
    }

    fn render_unguarded(&self, inputs: &ChatInputs<'_>) -> Result<String, TemplateError> {
        let Inner { environment, special_tokens, has_tool_template, .. } = &*self.inner;
        let with_tools = *has_tool_template && inputs.tools.is_some();
        let name = if with_tools { TOOL_NAME } else { DEFAULT_NAME };
        let now = inputs.now;
        let mut variables: Vec<(&str, JinjaValue)> = Vec::new();
        for given in [special_tokens, &*self.defaults, inputs.kwargs] {
            // Variables cannot replace the guard's functions.
            let given = given.iter().filter(|(name, _)| !name.starts_with(values::PREFIX));
            variables.extend(given.map(|(name, value)| (name.as_str(), values::from_json(value))));
        }
        let messages: Vec<Cow<'_, Value>> = inputs.messages.iter().map(normalised).collect();
        variables.push(("messages", values::from_list(messages.iter().map(|m| &**m))));
        if let Some(tools) = inputs.tools {
            variables.push(("tools", values::from_list(tools)));
        }
        variables.push(("add_generation_prompt", inputs.add_generation_prompt.into()));
        let date = move |state: &State<'_, '_>, format: &str| {
            // A width in it has up to three digits.
            clock::burn(state, 1 + format.len())?;
            strftime(now, format)
        };
        variables.push(("strftime_now", JinjaValue::from_function(date)));
        let template = environment.get_template(name).map_err(failed)?;
        template.render(JinjaValue::from_pairs(variables)).map_err(failed)
    }

    /// The text right before a user's content, both in a first and in a later message, such as
    /// `<|im_start|>user`, including the text that always comes before that. `None` if the two have
    /// nothing in common.
    pub(crate) fn user_opening(&self) -> Option<String> {
        const TEXTS: [(&str, &str); 3] =
            [("user", "First-question."), ("assistant", "Answer."), ("user", "Second-question.")];
        let messages = TEXTS.map(|(role, content)| json!({"role": role, "content": content}));
        let rendered = self.render(&ChatInputs {
            messages: &messages,
            tools: None,
            add_generation_prompt: false,
            kwargs: &Map::new(),
            now: SystemTime::UNIX_EPOCH,
        });
        let rendered = rendered.ok()?;
        let (before_first, rest) = rendered.split_once(TEXTS[0].1)?;
        let (_, rest) = rest.split_once(TEXTS[1].1)?;
        let (before_second, _) = rest.split_once(TEXTS[2].1)?;
        let pairs = before_first.chars().rev().zip(before_second.chars().rev());
        let shared = pairs.take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum::<usize>();
        let opening = before_first[before_first.len() - shared..].trim();
        (!opening.is_empty()).then(|| opening.to_owned())
    }

    /// Whether the template's source contains `name` (a variable or a role that it may know).
    pub fn mentions(&self, name: &str) -> bool {
        self.inner.sources.contains(name)
    }
}

/// The deadline of a rendering that begins now.
fn deadline() -> Instant {
    Instant::now() + Duration::from_millis(TEMPLATE_RENDER_MILLIS)
}

/// A Jinja environment with the settings of transformers.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(TEMPLATE_FUEL));
    // Errors would quote the template as rewritten by the guard.
    environment.set_debug(false);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    python::install(&mut environment);
    methods::install(&mut environment);
    values::install(&mut environment);
    walkers::install(&mut environment);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
    });
    Ok(environment)
}

/// A message in the form that transformers passes to templates: without null fields, and with an
/// assistant's reasoning under every name that templates use.
fn normalised(message: &Value) -> Cow<'_, Value> {
    const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
    let Some(fields) = message.as_object() else { return Cow::Borrowed(message) };
    let said = REASONING.iter().find_map(|name| fields.get(*name).filter(|text| !text.is_null()));
    if said.is_none() && !fields.values().any(Value::is_null) {
        return Cow::Borrowed(message);
    }
    let mut whole = Map::new();
    if let Some(said) = said {
        whole.insert("thinking".to_owned(), said.clone());
    }
    let given = fields.iter().filter(|(_, value)| !value.is_null());
    whole.extend(given.map(|(name, value)| (name.clone(), value.clone())));
    if let Some(said) = said {
        whole.insert("reasoning_content".to_owned(), said.clone());
    }
    Cow::Owned(Value::Object(whole))
}

fn failed(error: Error) -> TemplateError {
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        if let Some(Raised(message)) = inner.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        source = inner.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::OutOfFuel(TEMPLATE_FUEL),
        _ => TemplateError::Failed(format!("{error:#}")),
    }
}

/// Python's `datetime.now().strftime` in local time without a zone, at the beginning of the day: a
/// prompt with the exact time would share no prefix with the previous one.
fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let invalid = |error: jiff::Error| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {error}"))
    };
    let zone = jiff::tz::TimeZone::system();
    let local = jiff::Timestamp::try_from(now).map_err(invalid)?.to_zoned(zone);
    let day = local.start_of_day().map_err(invalid)?;
    let mut adapted = String::with_capacity(format.len());
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        match (c, (c == '%').then(|| rest.next()).flatten()) {
            ('%', Some('Z' | 'z')) => {}
            ('%', Some('f')) => adapted.push_str("%6f"),
            ('%', Some('c')) => adapted.push_str("%a %b %e %H:%M:%S %Y"),
            ('%', Some('x')) => adapted.push_str("%m/%d/%y"),
            ('%', Some('X')) => adapted.push_str("%H:%M:%S"),
            (c, next) => adapted.extend([c].into_iter().chain(next)),
        }
    }
    jiff::fmt::strtime::format(adapted, &day).map_err(invalid)
}

/// Reads `chat_template`: one string, or a list of `{name, template}`.
fn named_templates(field: Option<&Value>) -> Vec<(String, String)> {
    match field {
        Some(Value::String(source)) => vec![(DEFAULT_NAME.to_owned(), source.clone())],
        Some(Value::Array(list)) => {
            let text = |entry: &Value, key: &str| Some(entry.get(key)?.as_str()?.to_owned());
            list.iter()
                .filter_map(|entry| Some((text(entry, "name")?, text(entry, "template")?)))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// A file, the name of its template, and the template.
type Additional = (PathBuf, (String, String));

/// The templates of such a folder, sorted by name.
fn additional_templates(dir: &Path) -> Result<Vec<Additional>, LoadError> {
    let io = |source| LoadError::Io { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(io(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let file = entry.map_err(io)?.file_name();
        let name = file.to_str().and_then(|file| file.strip_suffix(".jinja"));
        let Some(name) = name.filter(|name| !name.is_empty() && !name.starts_with('.')) else {
            continue;
        };
        found.push((dir.join(&file), name.to_owned()));
        if found.len() > TEMPLATES {
            let what = format!("it holds more than {TEMPLATES} chat templates");
            return Err(LoadError::Invalid { path: dir.to_owned(), what });
        }
    }
    found.sort();
    let read = |(path, name): (PathBuf, String)| {
        let text = read_optional(&path)?;
        Ok(text.map(|text| (path, (name, text))))
    };
    found.into_iter().filter_map(|file| read(file).transpose()).collect()
}

/// The `*_token` entries of tokenizer_config.json: strings, or objects with their `content`.
fn special_tokens(config: &Map<String, Value>) -> Map<String, Value> {
    let tokens = config.iter().filter(|(key, _)| key.ends_with("_token"));
    tokens
        .filter_map(|(key, value)| {
            let content = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((key.clone(), Value::from(content)))
        })
        .collect()
}

fn read_optional(path: &Path) -> Result<Option<String>, LoadError> {
    small_file::read_text(path, TEMPLATE_FILE_BYTES)
}

/// Parses a JSON file that must contain an object.
pub(crate) fn parse_object(path: &Path, text: &str) -> Result<Map<String, Value>, LoadError> {
    python_json::object(path, text)
}

#[cfg(test)]
mod bounds_tests;
#[cfg(test)]
mod corpus_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, messages: Value) -> Result<String, TemplateError> {
        let tokens = special_tokens(json!({"bos_token": {"content": "<s>"}}).as_object().unwrap());
        let named = vec![(DEFAULT_NAME.to_owned(), source.to_owned())];
        let template = ChatTemplate::new(named, tokens).map_err(TemplateError::Failed)?;
        template.render(&ChatInputs {
            messages: messages.as_array().unwrap(),
            tools: None,
            add_generation_prompt: true,
            kwargs: &Map::new(),
            now: SystemTime::UNIX_EPOCH,
        })
    }

    #[test]
    fn renders_as_jinja_does() {
        let source = "{{ bos_token }}{% for m in messages %}\n  {%- if loop.first %}{{ m.role }}: \
                      {% endif %}{{ m['content'].strip() }}\n{% endfor %}\n{% if \
                      add_generation_prompt %}bot:{% endif %}\n";
        let text = render(source, json!([{"role": "user", "content": "  hi "}])).unwrap();
        assert_eq!(text, "<s>user: hi\nbot:");
    }

    #[test]
    fn tojson_is_pythons() {
        let text = render(
            "{{ messages[0] | tojson }}|{{ messages[0].a | tojson(indent=2) }}",
            json!([{"role": "<&>", "a": [1, {"k": "\u{e9}'\"", "f": 1.0}], "n": [null]}]),
        );
        assert_eq!(
            text.unwrap(),
            "{\"role\": \"<&>\", \"a\": [1, {\"k\": \"\u{e9}'\\\"\", \"f\": 1.0}], \"n\": \
             [null]}|[\n  1,\n  {\n    \"k\": \"\u{e9}'\\\"\",\n    \"f\": 1.0\n  }\n]"
        );
    }

    #[test]
    fn a_template_that_fills_memory_runs_out_of_fuel() {
        // Fuel counts bytes as well: 64 bytes cost one unit.
        let doubled = "{% set n = namespace(s='x') %}{% for i in range(60) %}\
                       {% set n.s = n.s ~ n.s %}{% endfor %}";
        assert_eq!(render(doubled, json!([])), Err(TemplateError::OutOfFuel(TEMPLATE_FUEL)));
        for bomb in [
            "{{ 'x' * 99999999999 }}",
            "{{ 'x' | indent(99999999999, true) }}",
            "{{ '%99999999999d' | format(1) }}",
            "{{ 'x'.replace('', 'y' * 1000000).replace('y', 'z' * 1000000) }}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{{ messages | tojson(indent=99999999999) }}",
            "{{ (['x' * 1000000] * 10000) | tojson }}",
            "{{ ([1] * 10000) | tojson(separators=['x' * 1000000, ':']) }}",
            "{{ 'x'.ljust(99999999999) }}",
            "{{ '1'.zfill(99999999999) }}",
            "{{ 'x'.center(99999999999) }}",
        ] {
            let rendered = render(bomb, json!([{"role": "user"}]));
            assert!(rendered.as_ref().map_or(true, |text| text.len() < 1 << 20), "{bomb}");
        }
    }

    #[test]
    fn a_template_that_raises_or_loops_is_an_error() {
        let raised = render("{{ raise_exception('no system role') }}", json!([]));
        assert_eq!(raised, Err(TemplateError::Raised("no system role".to_owned())));
        let looped = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}\
                      {% endfor %}{% endfor %}";
        assert_eq!(render(looped, json!([])), Err(TemplateError::OutOfFuel(TEMPLATE_FUEL)));
        assert!(matches!(render("{% if %}", json!([])), Err(TemplateError::Failed(_))));
        assert!(matches!(render("{{ a.b.c }}", json!([])), Err(TemplateError::Failed(_))));
    }

    #[test]
    fn long_conversations_have_fuel_to_spare() {
        let source = include_str!("../../../../packaging/omlx-tiny/chat_template.jinja");
        // 40,000 messages of twenty tokens; with longer ones there are fewer to loop over.
        let text = "one two three four five six seven eight nine ten ".repeat(2);
        let call = json!({"type": "function", "function": {"name": "f", "arguments": {"a": text}}});
        let turn = [
            json!({"role": "user", "content": text}),
            json!({"role": "assistant", "content": "", "tool_calls": [call]}),
            json!({"role": "tool", "content": text}),
            json!({"role": "assistant", "reasoning_content": text, "content": text}),
        ];
        let messages: Vec<Value> = turn.iter().cycle().take(40_000).cloned().collect();
        let rendered = render(source, Value::from(messages)).unwrap();
        assert!(rendered.len() > 4_000_000);
        // One message of that length, of which templates split and search every part.
        let long = json!([{"role": "user", "content": "\u{1}two\n".repeat(800_000)}]);
        let usual = "{% for m in messages %}{% if m.content is string and not m.content.startswith('<') %}\
                     {{ m.content.split('</think>')[-1].lstrip('\\n') | trim }}{{ m.content | tojson }}\
                     {{ m.content.split('\\n')[0] }}{% endif %}{% endfor %}{{ messages[::-1][0].content[0] }}";
        for source in [source, usual] {
            assert!(render(source, long.clone()).unwrap().len() >= 4_000_000);
        }
    }

    #[test]
    fn the_opening_of_a_users_message_comes_from_the_template() {
        let opening = |source: &str| {
            let named = vec![(DEFAULT_NAME.to_owned(), source.to_owned())];
            ChatTemplate::new(named, Map::new()).unwrap().user_opening()
        };
        let chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                      {% endfor %}";
        assert_eq!(opening(chatml).as_deref(), Some("<|im_start|>user"));
        // Text that always comes before it cannot be distinguished from it here.
        let with_system = format!("<|im_start|>system\nBe kind.<|im_end|>\n{chatml}");
        assert_eq!(opening(&with_system).as_deref(), Some("<|im_end|>\n<|im_start|>user"));
        let mistral = "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} \
                       [/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}";
        // Neither can the end of an unrelated token.
        assert_eq!(opening(mistral).as_deref(), Some("s>[INST]"));
        let folded = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
        assert_eq!(opening(folded), None);
        assert_eq!(opening("{{ raise_exception('no') }}"), None);
    }

    #[test]
    fn generation_tags_render_nothing() {
        let source = "a {%- generation -%} b {% endgeneration %}c{% if true %}d{% endif %}";
        assert_eq!(render(source, json!([])).unwrap(), "ab cd");
    }

    #[test]
    fn the_day_is_given() {
        let text = render("{{ strftime_now('%Y %H:%M:%S') }}", json!([])).unwrap();
        assert!(text == "1970 00:00:00" || text == "1969 00:00:00", "{text}");
    }
}
