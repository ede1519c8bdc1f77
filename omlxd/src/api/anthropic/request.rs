//! An Anthropic request: read, and put into the words of a chat request, whose rules then hold.

use engine::Model;
use serde_json::{Map, Value, json};

use super::super::chat::ChatRequest;
use super::super::conversation::Conversation;
use super::super::error::ApiError;
use super::super::params::{Params, Reading};
use super::super::read::{Fields, Path, not_one_of};
use super::super::reply::Identity;
use super::super::run::{Endpoint, Prompt, Wanted};
use super::input;
use super::reply::MessagesReply;

/// Fields that a chat request has under the same name.
const SHARED: &[&str] = &[
    "model",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "metadata",
    // Extensions, as in chat.
    "min_p",
    "repetition_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
    "cache_salt",
];

/// Fields that are read here, or ask for nothing that changes an answer.
const OWN: &[&str] = &[
    "messages",
    "system",
    "max_tokens",
    "stop_sequences",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "output_format",
    "chat_template_kwargs",
    "cache_control",
    "context_management",
    "service_tier",
    "inference_geo",
    "betas",
];

/// The fields of a tool. Only the first four change anything.
const TOOL: &[&str] = &[
    "name",
    "description",
    "input_schema",
    "strict",
    "type",
    "cache_control",
    "defer_loading",
    "input_examples",
    "allowed_callers",
    "eager_input_streaming",
];

/// What a chat request's field is called here.
const NAMES: [(&str, &str); 6] = [
    ("max_completion_tokens", "max_tokens"),
    ("stop", "stop_sequences"),
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
    ("reasoning_effort", "output_config.effort"),
    ("thinking_budget", "thinking.budget_tokens"),
];

/// How an answer shows thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thoughts {
    /// In full.
    Shown,
    /// Only sealed, for the next request.
    Sealed,
    /// Not at all: nobody asked for them.
    Dropped,
}

/// A request that passed validation.
#[derive(Debug)]
pub(crate) struct MessagesRequest {
    chat: ChatRequest,
    thoughts: Thoughts,
}

impl MessagesRequest {
    /// Validates the body of `/v1/messages`. E3 to E9, E13 to E15.
    pub(super) fn read(body: &Map<String, Value>, reading: &Reading) -> Result<Self, ApiError> {
        Fields::new(body, &Path::Root).required("max_tokens")?;
        Self::read_any(body, reading)
    }

    /// The same for `count_tokens`, which needs no `max_tokens`.
    pub(super) fn read_any(body: &Map<String, Value>, reading: &Reading) -> Result<Self, ApiError> {
        let path = Path::Root;
        let fields = Fields::new(body, &path);
        for name in fields.unknown(SHARED).filter(|name| !OWN.contains(name)) {
            reading.ignore(&path.field(name))?;
        }
        fields.string("service_tier")?;
        let system = input::system(&fields, reading)?;
        let mut conversation = Conversation::with(system.as_deref());
        input::messages(&fields, &mut conversation, reading)?;
        let (thinks, thoughts) = thinking(&fields, reading)?;
        let mut chat = chat_fields(&fields, thinks, reading)?;
        chat.insert("messages".to_owned(), Value::Array(conversation.into_messages()));
        let chat = ChatRequest::read(&chat, reading).map_err(renamed)?;
        Ok(MessagesRequest { chat, thoughts })
    }
}

#[cfg(test)]
impl MessagesRequest {
    /// The chat request that it became.
    pub(super) fn into_chat(self) -> ChatRequest {
        self.chat
    }
}

impl Endpoint for MessagesRequest {
    const NAME: &'static str = "messages";
    const PROMPT_FIELD: &'static str = "messages";
    type Reply = MessagesReply;

    fn params(&self) -> &Params {
        self.chat.params()
    }

    fn logprobs(&self) -> Option<usize> {
        None
    }

    fn thinking_budget(&self) -> Option<usize> {
        self.chat.thinking_budget()
    }

    fn default_max_tokens(&self) -> usize {
        self.chat.default_max_tokens()
    }

    fn prompts(&self, model: &Model, wanted: &Wanted) -> Result<Vec<Prompt>, ApiError> {
        self.chat.prompts(model, wanted).map_err(renamed)
    }

    fn reply(&self, identity: Identity, _model: &Model) -> MessagesReply {
        MessagesReply::new(&identity, &self.params().model, self.thoughts)
    }
}

/// An error of the chat request in the words of this one.
fn renamed(error: ApiError) -> ApiError {
    error.renamed(|param| {
        let schema = param.replacen(".function.parameters", ".input_schema", 1);
        let flat = schema.replacen(".function", "", 1);
        let under = |name: &str| {
            let rest = flat.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| rest.to_owned())
        };
        let found = NAMES.iter().find_map(|(from, to)| Some(format!("{to}{}", under(from)?)));
        found.unwrap_or(flat)
    })
}

/// Whether to think, and what to show of it. As this API has it, a request that does not ask for
/// thoughts gets none; nor does one that leaves it to the model, but asks for an effort of none.
fn thinking(fields: &Fields<'_, '_>, reading: &Reading) -> Result<(bool, Thoughts), ApiError> {
    let path = fields.path().field("thinking");
    let Some(thinking) = fields.get("thinking") else { return Ok((false, Thoughts::Dropped)) };
    let thinking = Fields::of(thinking, &path)?;
    thinking.required_string("type")?;
    let kind = thinking.choice("type", &["enabled", "adaptive", "disabled"])?;
    thinking.integer("budget_tokens", 1..=i64::MAX)?;
    let display = thinking.choice("display", &["summarized", "omitted"])?;
    reading.known(&thinking, &["type", "budget_tokens", "display"])?;
    let effort = fields.get("output_config").map(|output| &output["effort"]);
    let is_none = effort.is_some_and(|effort| effort == "none");
    Ok(match (kind, display) {
        (Some("disabled"), _) => (false, Thoughts::Dropped),
        (Some("adaptive"), _) if is_none => (false, Thoughts::Dropped),
        (_, Some("omitted")) => (true, Thoughts::Sealed),
        _ => (true, Thoughts::Shown),
    })
}

/// The request's other fields as those of a chat request.
fn chat_fields(
    fields: &Fields<'_, '_>,
    thinks: bool,
    reading: &Reading,
) -> Result<Map<String, Value>, ApiError> {
    let mut chat = Map::new();
    for name in SHARED {
        if let Some(value) = fields.get(name) {
            chat.insert((*name).to_owned(), value.clone());
        }
    }
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            chat.insert(name.to_owned(), value);
        }
    };
    put("max_completion_tokens", fields.get("max_tokens").cloned());
    put("stop", fields.array("stop_sequences")?.map(|stop| json!(stop)));
    put("tools", tools(fields, reading)?);
    let (choice, parallel) = tool_choice(fields, reading)?;
    put("tool_choice", choice);
    let budget = fields.get("thinking").and_then(|thinking| thinking.get("budget_tokens"));
    put("thinking_budget", budget.cloned());
    put("parallel_tool_calls", parallel.map(|parallel| json!(parallel)));
    let path = fields.path().field("output_config");
    let mut format = fields.get("output_format").cloned();
    if let Some(output) = fields.get("output_config") {
        let output = Fields::of(output, &path)?;
        reading.known(&output, &["effort", "format"])?;
        // Thoughts that are asked for in so many words are not taken back by an effort of none.
        let effort = output.get("effort").map(|effort| match effort == "none" && thinks {
            true => json!("minimal"),
            false => effort.clone(),
        });
        put("reasoning_effort", effort);
        format = output.get("format").cloned().or(format);
    }
    if let Some(format) = format {
        let path = path.field("format");
        let format = Fields::of(&format, &path)?;
        reading.known(&format, &["type", "schema", "name"])?;
        match format.required_string("type")? {
            "json_schema" => {
                let schema = json!({"name": "output", "schema": format.required("schema")?,
                                    "strict": true});
                put("response_format", Some(json!({"type": "json_schema", "json_schema": schema})));
            }
            kind => return Err(not_one_of(&path.field("type"), kind, &["json_schema"])),
        }
    }
    let mut kwargs = Map::from_iter([("enable_thinking".to_owned(), json!(thinks))]);
    kwargs.extend(fields.object("chat_template_kwargs")?.cloned().unwrap_or_default());
    put("chat_template_kwargs", Some(Value::Object(kwargs)));
    Ok(chat)
}

/// `tools` in the shape of a chat request: what a template shows of a tool is its name, its
/// description and its schema, in the client's order. Tools that Anthropic runs, or whose schema only
/// its models know, go as they are, and chat leaves them out.
fn tools(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Option<Value>, ApiError> {
    let path = fields.path().field("tools");
    let Some(tools) = fields.array("tools")? else { return Ok(None) };
    let translate = |(index, tool): (usize, &Value)| {
        let path = path.index(index);
        let tool = Fields::of(tool, &path)?;
        if let Some(kind) = tool.string("type")?.filter(|kind| *kind != "custom") {
            return Ok(json!({"type": kind}));
        }
        tool.required_string("name")?;
        tool.required("input_schema")?;
        reading.known(&tool, TOOL)?;
        let mut function = Map::new();
        for (name, value) in tool.entries() {
            match name {
                "name" | "description" | "strict" => {
                    function.insert(name.to_owned(), value.clone())
                }
                "input_schema" => function.insert("parameters".to_owned(), value.clone()),
                _ => None,
            };
        }
        Ok(json!({"type": "function", "function": function}))
    };
    let tools: Vec<Value> =
        tools.iter().enumerate().map(translate).collect::<Result<_, ApiError>>()?;
    Ok(Some(Value::Array(tools)))
}

/// `tool_choice` in the words of a chat request, and `parallel_tool_calls`.
fn tool_choice(
    fields: &Fields<'_, '_>,
    reading: &Reading,
) -> Result<(Option<Value>, Option<bool>), ApiError> {
    let path = fields.path().field("tool_choice");
    let Some(choice) = fields.get("tool_choice") else { return Ok((None, None)) };
    let choice = Fields::of(choice, &path)?;
    let parallel = choice.boolean("disable_parallel_tool_use")?.map(|disabled| !disabled);
    let has_tools = fields.array("tools")?.is_some_and(|tools| !tools.is_empty());
    choice.required_string("type")?;
    reading.known(&choice, &["type", "name", "disable_parallel_tool_use"])?;
    let kind = choice.choice("type", &["auto", "any", "tool", "none"])?;
    let word = match kind {
        Some("auto" | "none") if !has_tools => None,
        Some("any") => Some(json!("required")),
        Some("tool") => {
            let name = choice.required_string("name")?;
            Some(json!({"type": "function", "function": {"name": name}}))
        }
        word => word.map(|word| json!(word)),
    };
    Ok((word, parallel))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(change: Value) -> (String, Option<String>, String) {
        let mut body = json!({"model": "m", "max_tokens": 5,
                              "messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let body = body.as_object().unwrap();
        let error = MessagesRequest::read(body, &Reading::new(false, 8, 4)).unwrap_err();
        let param = error.param().map(str::to_owned);
        (error.label().to_owned(), param, error.message().to_owned())
    }

    #[test]
    fn unknown_fields_of_nested_objects_are_refused_when_strict() {
        for (change, param) in [
            (json!({"thinking": {"type": "adaptive", "x": 1}}), "thinking.x"),
            (json!({"output_config": {"x": 1}}), "output_config.x"),
            (json!({"tools": [{"name": "f", "input_schema": {}, "x": 1}]}), "tools[0].x"),
            (json!({"tool_choice": {"type": "auto", "x": 1}}), "tool_choice.x"),
            (json!({"messages": [{"role": "user", "content": "x", "x": 1}]}), "messages[0].x"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "x": 1}]}]}),
                "messages[0].content[0].x",
            ),
        ] {
            let mut body = json!({"model": "m", "max_tokens": 5,
                                  "messages": [{"role": "user", "content": "x"}]});
            body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let read = |strict: bool| {
                let reading = Reading::new(strict, 8, 4);
                let read = MessagesRequest::read(body.as_object().unwrap(), &reading);
                read.map(|_| reading.into_ignored().names)
            };
            // What is noted for the log has neither numbers nor the client's own names.
            let noted = param.replace("[0]", "[]").replace(".x", ".?");
            assert!(read(false).unwrap().iter().eq([&noted]));
            assert_eq!(read(true).unwrap_err().param(), Some(param));
        }
    }

    #[test]
    fn an_effort_of_none_beside_thinking() {
        let read = |kind: &str| {
            let body = json!({"model": "m", "max_tokens": 5, "thinking": {"type": kind},
                              "output_config": {"effort": "none"},
                              "messages": [{"role": "user", "content": "x"}]});
            let request =
                MessagesRequest::read(body.as_object().unwrap(), &Reading::new(false, 8, 4));
            let request = request.unwrap();
            (request.thoughts, request.chat.effort())
        };
        assert_eq!(read("adaptive"), (Thoughts::Dropped, Some("none")));
        assert_eq!(read("enabled"), (Thoughts::Shown, Some("minimal")));
        assert_eq!(read("disabled"), (Thoughts::Dropped, Some("none")));
    }

    #[test]
    fn refusals_use_this_api_s_names() {
        let tool = json!({"name": "f", "input_schema": {"type": "object"}});
        let cases = [
            (json!({"max_tokens": null}), "missing_required_parameter", "max_tokens"),
            (json!({"max_tokens": 0}), "invalid_value", "max_tokens"),
            (json!({"stop_sequences": "x"}), "invalid_type", "stop_sequences"),
            (json!({"stop_sequences": [""]}), "invalid_value", "stop_sequences"),
            (json!({"output_config": {"effort": "huge"}}), "invalid_value", "output_config.effort"),
            (json!({"thinking": {"type": "deep"}}), "invalid_value", "thinking.type"),
            (
                json!({"tools": [{"name": "f"}]}),
                "missing_required_parameter",
                "tools[0].input_schema",
            ),
            (
                json!({"tools": [{"name": "f", "input_schema": 3}]}),
                "invalid_type",
                "tools[0].input_schema",
            ),
            (json!({"tools": [tool, tool]}), "invalid_value", "tools[1].name"),
            (json!({"tool_choice": {"type": "most"}}), "invalid_value", "tool_choice.type"),
            (
                json!({"tools": [tool], "tool_choice": {"type": "tool", "name": "g"}}),
                "invalid_value",
                "tool_choice",
            ),
        ];
        for (change, code, param) in cases {
            let (label, named, message) = refusal(change);
            assert_eq!((label.as_str(), named.as_deref()), (code, Some(param)), "{message}");
            assert!(message.contains(&format!("'{param}'")), "{message}");
        }
    }
}
