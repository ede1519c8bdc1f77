//! `POST /v1/chat/completions`: the request, and the prompt that it becomes.

use std::time::SystemTime;

use bytes::Bytes;
use engine::{CallIds, ChatInputs, ChatTemplate, EFFORTS, Model, Takes, TemplateError};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::chat_reply::ChatReply;
use super::dialect;
use super::fold;
use super::messages;
use super::params::{PARAMS, Params, tokens};
use super::parse::parse;
use super::read::{Fields, Path};
use super::reading::Reading;
use super::reply::{Identity, Reply};
use super::run::{self, Endpoint, Prompt, Wanted};
use super::tools::Tools;
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::Call;
use crate::limits::TOP_LOGPROBS;

/// Fields of chat requests besides the shared ones.
const FIELDS: &[&str] = &[
    "messages",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning_effort",
    "reasoning",
    "thinking_budget",
    "thinking_token_budget",
    "chat_template_kwargs",
    "verbosity",
    "audio",
    "modalities",
    "prediction",
    "web_search_options",
    "moderation",
    "best_of",
    "functions",
    "function_call",
];

/// Answers `POST /v1/chat/completions`.
pub(super) async fn create(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = parse(caller, call, body, ChatRequest::read).await?;
    run::answer(caller, call, request).await
}

/// A chat request that passed validation.
#[derive(Debug)]
pub(super) struct ChatRequest {
    params: Params,
    messages: Vec<Value>,
    tools: Tools,
    logprobs: Option<usize>,
    effort: Option<&'static str>,
    /// Most tokens to think.
    thinking_budget: Option<usize>,
    template_kwargs: Map<String, Value>,
}

impl ChatRequest {
    /// Validates a body. E3 to E9, E14, E15.
    pub(super) fn read(body: &Map<String, Value>, reading: &Reading) -> Result<Self, ApiError> {
        let path = Path::Root;
        let fields = Fields::new(body, &path);
        for name in fields.unknown(PARAMS).filter(|name| !FIELDS.contains(name)) {
            reading.ignore(&path.field(name))?;
        }
        let mut params = Params::read(&fields, reading)?;
        let messages = messages::read(&fields, reading)?;
        unsupported(&fields)?;
        if let Some(max_tokens) = tokens(&fields, "max_completion_tokens", 1)? {
            params.max_tokens = Some(max_tokens);
        }
        fields.choice("verbosity", &["low", "medium", "high"])?;
        let path = path.field("reasoning");
        let empty = Map::new();
        let reasoning = Fields::new(fields.object("reasoning")?.unwrap_or(&empty), &path);
        for name in reasoning.unknown(&["effort", "max_tokens"]) {
            reading.ignore(&path.field(name))?;
        }
        Ok(ChatRequest {
            messages,
            tools: Tools::read(&fields, reading)?,
            logprobs: logprobs(&fields)?,
            effort: match fields.choice("reasoning_effort", &EFFORTS)? {
                Some(effort) => Some(effort),
                None => reasoning.choice("effort", &EFFORTS)?,
            },
            thinking_budget: thinking_budget(&fields, &reasoning)?,
            template_kwargs: fields.object("chat_template_kwargs")?.cloned().unwrap_or_default(),
            params,
        })
    }

    /// How much the model is to think.
    #[cfg(test)]
    pub(super) fn effort(&self) -> Option<&'static str> {
        self.effort
    }

    /// What the template gets besides messages and tools. `reasoning_effort` goes by the name and the
    /// word that the template takes; `chat_template_kwargs` have the last word.
    fn kwargs(&self, template: &ChatTemplate, takes: &Takes) -> Map<String, Value> {
        let mut kwargs = Map::new();
        if let Some(effort) = self.effort {
            let can_switch_off = template.mentions("enable_thinking");
            if can_switch_off {
                kwargs.insert("enable_thinking".to_owned(), json!(effort != "none"));
            }
            let taken = takes.effort(effort);
            // A switch says better than a low effort that there are to be no thoughts.
            let taken = taken.filter(|word| effort != "none" || *word == "none" || !can_switch_off);
            if let Some(word) = taken {
                kwargs.insert("reasoning_effort".to_owned(), json!(word));
            }
        }
        kwargs.extend(self.template_kwargs.clone());
        kwargs
    }

    /// The conversation as text. What the template is known not to take is folded into what it takes; a
    /// conversation that it refuses all the same is folded further.
    pub(super) fn render(&self, template: &ChatTemplate, ids: CallIds) -> Result<String, ApiError> {
        let takes = template.takes(!self.tools.offered.is_empty());
        let kwargs = self.kwargs(template, takes);
        let now = SystemTime::now();
        let offered = &self.tools.offered[..];
        let render = |takes: &Takes, tools: &[Value]| {
            let mut messages = self.messages.clone();
            dialect::adapt_to_template(&mut messages, takes, ids);
            template.render(&ChatInputs {
                messages: &fold::fit(messages, takes),
                tools: (!tools.is_empty()).then_some(tools),
                add_generation_prompt: true,
                kwargs: &kwargs,
                now,
            })
        };
        let first = render(takes, offered);
        if first.as_ref().is_err_and(is_refusal) {
            let filled = dialect::filled(offered);
            let tools = [Some(offered), Some(&filled[..]).filter(|filled| *filled != offered)];
            let less = takes.less();
            let attempts = std::iter::once(takes).chain(&less);
            let attempts =
                attempts.flat_map(|takes| tools.iter().flatten().map(move |tools| (takes, tools)));
            for (takes, tools) in attempts.skip(1) {
                match render(takes, tools) {
                    Err(error) if is_refusal(&error) => {}
                    rendered => return rendered.map_err(|error| ApiError::template(&error)),
                }
            }
            if let (Err(error), Some(place)) = (&first, self.refused_tool(template, &filled)) {
                return Err(ApiError::tool_template(place, error));
            }
        }
        first.map_err(|error| ApiError::template(&error))
    }

    /// Where the first tool stands that the template does not render, though it renders others.
    fn refused_tool(&self, template: &ChatTemplate, filled: &[Value]) -> Option<&str> {
        let messages = [json!({"role": "user", "content": "Hello."})];
        let is_refused = |tool: &Value| {
            let rendered = template.render(&ChatInputs {
                messages: &messages,
                tools: Some(std::slice::from_ref(tool)),
                add_generation_prompt: true,
                kwargs: &Map::new(),
                now: SystemTime::UNIX_EPOCH,
            });
            rendered.is_err_and(|error| is_refusal(&error))
        };
        let plain = json!({"type": "function", "function": {"name": "f"}});
        if dialect::filled(&[plain]).iter().any(is_refused) {
            return None;
        }
        let found = filled.iter().position(is_refused)?;
        // In the other APIs a tool has no member `function`.
        self.tools.places.get(found).map(|place| place.trim_end_matches(".function"))
    }

    /// How many tools the request offers that the template does not show to the model.
    fn unshown_tools(&self, template: &ChatTemplate) -> usize {
        match self.tools.offered.len() {
            0 => 0,
            _ if template.takes(true).tools => 0,
            offered => offered,
        }
    }
}

impl Endpoint for ChatRequest {
    const NAME: &'static str = "chat.completions";
    const PROMPT_FIELD: &'static str = "messages";
    type Reply = ChatReply;

    fn params(&self) -> &Params {
        &self.params
    }

    fn logprobs(&self) -> Option<usize> {
        self.logprobs
    }

    fn thinking_budget(&self) -> Option<usize> {
        self.thinking_budget
    }

    fn default_max_tokens(&self) -> usize {
        usize::MAX
    }

    fn prompts(&self, model: &Model, wanted: &Wanted) -> Result<Vec<Prompt>, ApiError> {
        let template =
            model.chat_template().ok_or_else(|| ApiError::no_template(&self.params.model))?;
        let text = self.render(template, model.output_format().call_ids())?;
        let tokens = model.encode(&text, false, wanted);
        let tokens = tokens.map_err(|error| ApiError::tokenize("messages", &error))?;
        let Tools { offered, parallel, .. } = &self.tools;
        let parser = model.output_format().parser(&text, offered, *parallel);
        let grammar = self.tools.grammar(model, &text, self.params.constraint.as_ref())?;
        let unshown_tools = self.unshown_tools(template);
        Ok(vec![Prompt { tokens, echo: String::new(), parser, grammar, unshown_tools }])
    }

    fn reply(&self, identity: Identity, model: &Model) -> ChatReply {
        let reply = Reply::new(&identity, "chat.completion", &self.params);
        ChatReply::new(reply, identity, model.tokenizer().clone())
    }
}

/// Whether a template refused what it was given, rather than that it ran for too long.
fn is_refusal(error: &TemplateError) -> bool {
    matches!(error, TemplateError::Raised(_) | TemplateError::Failed(_))
}

/// Known parameters that are not supported: only a value that asks for something is refused (E7).
fn unsupported(fields: &Fields<'_, '_>) -> Result<(), ApiError> {
    for (name, hint) in [
        ("audio", "; this server generates text only"),
        ("prediction", ""),
        ("web_search_options", "; offer a function in 'tools' instead"),
        ("moderation", ""),
        ("functions", "; use 'tools' instead"),
        ("function_call", "; use 'tool_choice' instead"),
    ] {
        let asks = fields.get(name).filter(|value| !is_empty(value));
        if asks.is_some() {
            return Err(ApiError::unsupported_parameter(name, hint));
        }
    }
    if fields.get("best_of").is_some_and(|value| *value != json!(1)) {
        return Err(ApiError::unsupported_parameter("best_of", " for chat; use 'n'"));
    }
    let modalities = fields.array("modalities")?;
    if modalities.is_some_and(|list| list.iter().any(|kind| kind != "text")) {
        return Err(ApiError::unsupported_value("modalities", "only [\"text\"] is supported"));
    }
    Ok(())
}

/// The most tokens to think, by the names that are in use for it.
fn thinking_budget(
    fields: &Fields<'_, '_>,
    reasoning: &Fields<'_, '_>,
) -> Result<Option<usize>, ApiError> {
    let mut budget = tokens(reasoning, "max_tokens", 0)?;
    for name in ["thinking_token_budget", "thinking_budget"] {
        budget = tokens(fields, name, 0)?.or(budget);
    }
    Ok(budget)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::String(word) => word == "auto" || word == "none",
        _ => false,
    }
}

fn logprobs(fields: &Fields<'_, '_>) -> Result<Option<usize>, ApiError> {
    let wanted = fields.boolean("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS)?;
    match top {
        Some(top) if top > 0 && !wanted => {
            Err(ApiError::invalid_value("top_logprobs", "it needs \"logprobs\": true"))
        }
        _ => Ok(wanted.then_some(top.unwrap_or(0) as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_gets_the_fields_of_tools_that_it_reads_unasked() {
        let source = "{%- macro kind(spec) %}{% if spec.type == 'string' %}str{% else %}\
            {% for t in spec.type %}{{ kind({'type': t}) }}{% endfor %}{% endif %}{% endmacro %}\
            {%- for tool in tools %}{{ tool.function.name + ' - ' + tool.function.description }}(\
            {%- for name, spec in tool.function.parameters.properties | items %}{{ name }}: \
            {{- kind(spec) }}{% endfor %}){% endfor %}{% for m in messages %}|{{ m.content }}{% endfor %}";
        let dir = tempfile::tempdir().unwrap();
        let file = json!({"chat_template": source}).to_string();
        std::fs::write(dir.path().join("tokenizer_config.json"), file).unwrap();
        let template = ChatTemplate::load(dir.path()).unwrap().unwrap();
        let render = |functions: &[Value]| {
            let tools = functions.iter().map(|f| json!({"type": "function", "function": f}));
            let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}],
                              "tools": tools.collect::<Vec<_>>()});
            let request =
                ChatRequest::read(body.as_object().unwrap(), &Reading::new(false, 8, 4)).unwrap();
            request.render(&template, CallIds::Any)
        };
        for function in [
            json!({"name": "f"}),
            json!({"name": "f", "description": null, "parameters": null}),
            json!({"name": "f", "parameters": {}}),
            json!({"name": "f", "parameters": {"type": "object"}}),
        ] {
            assert_eq!(render(std::slice::from_ref(&function)).unwrap(), "f - ()|hi", "{function}");
        }
        let with = |name: &str, kind: Value| {
            json!({"name": name, "description": "D.", "parameters":
                {"type": "object", "properties": {"a": {"type": kind}}}})
        };
        assert_eq!(render(&[with("f", json!("string"))]).unwrap(), "f - D.(a:str)|hi");
        let nullable = with("g", json!(["string", "null"]));
        let error = render(&[with("f", json!("string")), nullable]).unwrap_err();
        assert_eq!((error.status().as_u16(), error.param()), (400, Some("tools[1]")));
    }

    #[test]
    fn top_logprobs_at_their_limit() {
        let read = |top: i64| {
            let body = json!({"logprobs": true, "top_logprobs": top});
            let path = Path::Root;
            logprobs(&Fields::of(&body, &path).unwrap())
        };
        assert_eq!(read(TOP_LOGPROBS).unwrap(), Some(20));
        assert_eq!(read(TOP_LOGPROBS + 1).unwrap_err().param(), Some("top_logprobs"));
    }
}
