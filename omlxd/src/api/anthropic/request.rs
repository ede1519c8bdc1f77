//! An Anthropic request.

use engine::{EFFORTS, Model, Pattern};
use serde_json::{Map, Value, json};

use super::super::chat_request::ChatRequest;
use super::super::constrain::Constraint;
use super::super::conversation::Conversation;
use super::super::params::{Params, stop, tokens};
use super::super::read::{Fields, Path, not_one_of};
use super::super::reading::Reading;
use super::super::reply::Identity;
use super::super::run::{ApiRequest, Prompt, Wanted};
use super::super::tools::{ToolChoice, Tools};
use super::input;
use super::reply::{MessagesReply, Thoughts};
use crate::error::ApiError;
use crate::limits::{MESSAGES, TOOLS};

/// Fields that mean the same as in every API.
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
        let messages = conversation.into_messages();
        if messages.is_empty() {
            let what = "at least one message is needed";
            return Err(ApiError::invalid_value("messages", what));
        }
        reading.check_count(&path.field("messages"), messages.len(), MESSAGES)?;
        let thinking = thinking(&fields, reading)?;
        let output = output_config(&fields, thinking.is_on, reading)?;
        let mut params = Params::read(&fields.only(SHARED), reading)?;
        params.max_tokens = tokens(&fields, "max_tokens", 1)?;
        if fields.array("stop_sequences")?.is_some() {
            params.stop = stop(&fields, "stop_sequences", reading)?;
        }
        params.constraint = output.constraint;
        let mut template_kwargs =
            Map::from_iter([("enable_thinking".to_owned(), json!(thinking.is_on))]);
        template_kwargs.extend(fields.object("chat_template_kwargs")?.cloned().unwrap_or_default());
        let chat = ChatRequest {
            params,
            messages,
            tools: tools(&fields, reading)?,
            logprobs: None,
            effort: output.effort,
            thinking_budget: thinking.budget_tokens,
            template_kwargs,
            prompt_field: Self::PROMPT_FIELD,
        };
        Ok(MessagesRequest { chat, thoughts: thinking.thoughts })
    }
}

#[cfg(test)]
impl MessagesRequest {
    /// The chat request that it became.
    pub(super) fn into_chat(self) -> ChatRequest {
        self.chat
    }
}

impl ApiRequest for MessagesRequest {
    const NAME: &'static str = "messages";
    const PROMPT_FIELD: &'static str = "messages";
    type Reply = MessagesReply;

    fn params(&self) -> &Params {
        &self.chat.params
    }

    fn logprobs(&self) -> Option<usize> {
        None
    }

    fn thinking_budget(&self) -> Option<usize> {
        self.chat.thinking_budget
    }

    fn default_max_tokens(&self) -> usize {
        usize::MAX
    }

    fn prompts(&self, model: &Model, wanted: &Wanted) -> Result<Vec<Prompt>, ApiError> {
        Ok(vec![self.chat.prompt(model, wanted)?])
    }

    fn reply(&self, identity: Identity, _model: &Model) -> MessagesReply {
        MessagesReply::new(&identity, &self.params().model, self.thoughts)
    }
}

/// What `thinking` says.
struct Thinking {
    /// Whether the model is to think.
    is_on: bool,
    /// What is shown of it.
    thoughts: Thoughts,
    /// Most tokens to think.
    budget_tokens: Option<usize>,
}

/// Whether to think, and what to show of it. As this API has it, a request that does not ask for
/// thoughts gets none; nor does one that leaves it to the model, but asks for an effort of none.
fn thinking(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Thinking, ApiError> {
    let path = fields.path().field("thinking");
    let Some(thinking) = fields.get("thinking") else {
        return Ok(Thinking { is_on: false, thoughts: Thoughts::Dropped, budget_tokens: None });
    };
    let thinking = Fields::of(thinking, &path)?;
    thinking.required_string("type")?;
    let kind = thinking.choice("type", &["enabled", "adaptive", "disabled"])?;
    let budget_tokens = tokens(&thinking, "budget_tokens", 1)?;
    let display = thinking.choice("display", &["summarized", "omitted"])?;
    reading.known(&thinking, &["type", "budget_tokens", "display"])?;
    let effort = fields.get("output_config").map(|output| &output["effort"]);
    let is_none = effort.is_some_and(|effort| effort == "none");
    let (is_on, thoughts) = match (kind, display) {
        (Some("disabled"), _) => (false, Thoughts::Dropped),
        (Some("adaptive"), _) if is_none => (false, Thoughts::Dropped),
        (_, Some("omitted")) => (true, Thoughts::Sealed),
        _ => (true, Thoughts::Shown),
    };
    Ok(Thinking { is_on, thoughts, budget_tokens })
}

/// What `output_config` says.
#[derive(Default)]
struct Output {
    effort: Option<&'static str>,
    constraint: Option<Constraint>,
}

/// Reads `output_config`, and `output_format`, the older name of a part of it.
fn output_config(
    fields: &Fields<'_, '_>,
    thinks: bool,
    reading: &Reading,
) -> Result<Output, ApiError> {
    let path = fields.path().field("output_config");
    let mut output = Output::default();
    let mut format = fields.get("output_format");
    if let Some(config) = fields.get("output_config") {
        let config = Fields::of(config, &path)?;
        reading.known(&config, &["effort", "format"])?;
        output.effort = config.choice("effort", &EFFORTS)?;
        // An effort of none does not take back thoughts that were asked for by name.
        if thinks && output.effort == Some("none") {
            output.effort = Some("minimal");
        }
        format = config.get("format").or(format);
    }
    if let Some(format) = format {
        let path = path.field("format");
        let format = Fields::of(format, &path)?;
        reading.known(&format, &["type", "schema", "name"])?;
        let kind = format.required_string("type")?;
        if kind != "json_schema" {
            return Err(not_one_of(&path.field("type"), kind, &["json_schema"]));
        }
        let schema = format.required("schema")?.clone();
        output.constraint = Some(Constraint::new(Pattern::Json { schema, exactly: true }, &path));
    }
    Ok(output)
}

/// `tools` and `tool_choice`. What a template shows of a tool is its name, its description and its
/// schema, in the client's order. Tools that Anthropic runs, or whose schema only its models know,
/// are ignored.
fn tools(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Tools, ApiError> {
    let path = fields.path().field("tool_choice");
    let choice = fields.get("tool_choice").map(|choice| Fields::of(choice, &path)).transpose()?;
    let is_single = choice.map(|choice| choice.boolean("disable_parallel_tool_use")).transpose()?;
    let is_parallel = is_single.flatten() != Some(true);
    let mut tools = Tools::new(is_parallel, "input_schema");
    let path = fields.path().field("tools");
    let list = fields.array("tools")?.map_or(&[][..], Vec::as_slice);
    reading.check_count(&path, list.len(), TOOLS)?;
    for (index, tool) in list.iter().enumerate() {
        let path = path.index(index);
        let tool = Fields::of(tool, &path)?;
        match tool.string("type")? {
            // `function` is how other APIs name the same thing.
            None | Some("custom" | "function") => {
                tool.required_string("name")?;
                tool.required("input_schema")?;
                tools.offer_flat(&tool, TOOL, reading)?;
            }
            Some(_) => reading.ignore(&path)?,
        }
    }
    if let Some(choice) = choice {
        choose(&mut tools, &choice, !list.is_empty(), reading)?;
    }
    Ok(tools)
}

/// Applies `tool_choice`.
fn choose(
    tools: &mut Tools,
    choice: &Fields<'_, '_>,
    has_tools: bool,
    reading: &Reading,
) -> Result<(), ApiError> {
    choice.required_string("type")?;
    reading.known(choice, &["type", "name", "disable_parallel_tool_use"])?;
    let kind = choice.choice("type", &["auto", "any", "tool", "none"])?;
    let wanted = match kind {
        Some("any") => ToolChoice::Required,
        Some("tool") => ToolChoice::Function(choice.required_string("name")?.to_owned()),
        Some("none") if has_tools => ToolChoice::None,
        _ => ToolChoice::Auto,
    };
    tools.choose(&wanted, choice.path())
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
            (request.thoughts, request.chat.effort)
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
