//! `POST /v1/chat/completions`.

use bytes::Bytes;
use engine::{EFFORTS, Model};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::chat_reply::ChatReply;
use super::chat_request::ChatRequest;
use super::messages;
use super::params::{PARAMS, Params, tokens};
use super::parse::parse;
use super::read::{Fields, Path, asks_for_nothing};
use super::reading::Reading;
use super::reply::{Identity, Reply};
use super::run::{self, ApiRequest, Prompt, Wanted};
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
    let request = parse(caller, call, body, ChatCompletionRequest::read).await?;
    run::answer(caller, call, request).await
}

/// A request of this endpoint.
#[derive(Debug)]
pub(super) struct ChatCompletionRequest(pub ChatRequest);

impl ChatCompletionRequest {
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
        Ok(ChatCompletionRequest(ChatRequest {
            messages,
            tools: Tools::read(&fields, reading)?,
            logprobs: logprobs(&fields)?,
            effort: match fields.choice("reasoning_effort", &EFFORTS)? {
                Some(effort) => Some(effort),
                None => reasoning.choice("effort", &EFFORTS)?,
            },
            thinking_budget: thinking_budget(&fields, &reasoning)?,
            template_kwargs: fields.object("chat_template_kwargs")?.cloned().unwrap_or_default(),
            prompt_field: Self::PROMPT_FIELD,
            params,
        }))
    }
}

impl ApiRequest for ChatCompletionRequest {
    const NAME: &'static str = "chat.completions";
    const PROMPT_FIELD: &'static str = "messages";
    type Reply = ChatReply;

    fn params(&self) -> &Params {
        &self.0.params
    }

    fn logprobs(&self) -> Option<usize> {
        self.0.logprobs
    }

    fn thinking_budget(&self) -> Option<usize> {
        self.0.thinking_budget
    }

    fn default_max_tokens(&self) -> usize {
        usize::MAX
    }

    fn prompts(&self, model: &Model, wanted: &Wanted) -> Result<Vec<Prompt>, ApiError> {
        Ok(vec![self.0.prompt(model, wanted)?])
    }

    fn reply(&self, identity: Identity, model: &Model) -> ChatReply {
        let reply = Reply::new(&identity, "chat.completion", &self.0.params);
        ChatReply::new(reply, identity, model.tokenizer().clone())
    }
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
        let asks = fields.get(name).filter(|value| !asks_for_nothing(value));
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
    use engine::{CallIds, ChatTemplate};

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
                ChatCompletionRequest::read(body.as_object().unwrap(), &Reading::new(false, 8, 4));
            request.unwrap().0.render(&template, CallIds::Any)
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
