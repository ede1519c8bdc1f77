//! A Responses request.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use engine::{EFFORTS, Model};
use serde_json::{Map, Value, json};

use super::super::chat_request::ChatRequest;
use super::super::constrain::{Constraint, Layout, output_format};
use super::super::conversation::Conversation;
use super::super::params::{Params, tokens};
use super::super::read::{Fields, Path, asks_for_nothing, not_one_of, wrong};
use super::super::reading::Reading;
use super::super::reply::Identity;
use super::super::run::{ApiRequest, Prompt, Wanted};
use super::super::tools::{ToolChoice, Tools};
use super::archive::Archive;
use super::input;
use super::reply::{ResponseEcho, ResponsesReply};
use crate::error::ApiError;
use crate::error_code::Code;
use crate::limits::{MESSAGES, TOOLS, TOP_LOGPROBS};

/// Fields that mean the same as in every API.
const SHARED: &[&str] = &[
    "model",
    "stream",
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
    "prompt_cache_options",
    "service_tier",
    "store",
    // Extensions, as in chat.
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
    "cache_salt",
    "chat_template_kwargs",
    "thinking_budget",
];

/// Fields that are read here.
const OWN: &[&str] = &[
    "input",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "max_output_tokens",
    "max_tool_calls",
    "reasoning",
    "include",
    "top_logprobs",
    "previous_response_id",
    "truncation",
    "background",
    "moderation",
    "conversation",
    "prompt",
    "context_management",
    "stream_options",
    // What Codex says of itself.
    "client_metadata",
];

/// The fields of a function. Only the first four change anything.
const TOOL: &[&str] =
    &["name", "description", "parameters", "strict", "type", "defer_loading", "output_schema"];

/// What can be asked for with `include`. Only the first two name something that exists here.
const INCLUDES: [&str; 8] = [
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];

/// A request that passed validation.
#[derive(Debug)]
pub(crate) struct ResponsesRequest {
    chat: ChatRequest,
    told: ResponseEcho,
}

impl ResponsesRequest {
    /// Validates a body. E3 to E9, E13 to E15. Reads stored answers: not for an async thread.
    pub(super) fn read(
        body: &Map<String, Value>,
        reading: &Reading,
        archive: Archive,
    ) -> Result<Self, ApiError> {
        let path = Path::Root;
        let fields = Fields::new(body, &path);
        for name in fields.unknown(SHARED).filter(|name| !OWN.contains(name)) {
            reading.ignore(&path.field(name))?;
        }
        unsupported(&fields)?;
        let previous = fields.string("previous_response_id")?;
        let items = own_input(&fields, &archive)?;
        let mut conversation = Conversation::with(fields.string("instructions")?);
        if let Some(previous) = previous {
            go_on(&mut conversation, previous, &archive, reading)?;
        }
        let input_path = path.field("input");
        reading.check_count(&input_path, items.len(), MESSAGES)?;
        let asked = items.iter().rposition(input::asks);
        for (index, item) in items.iter().enumerate() {
            let is_asked = asked == Some(index);
            input::add(&mut conversation, item, &input_path.index(index), reading, is_asked)?;
        }
        let messages = conversation.into_messages();
        if messages.is_empty() {
            return Err(ApiError::invalid_value("input", "at least one item is needed"));
        }
        reading.check_count(&input_path, messages.len(), MESSAGES)?;
        let include = include(&fields)?;
        let (format, effort) = (text(&fields, reading)?, effort(&fields, reading)?);
        let shared = fields.only(SHARED);
        let mut params = Params::read(&shared, reading)?;
        params.max_tokens = tokens(&fields, "max_output_tokens", 1)?;
        params.constraint = format;
        let top_logprobs = fields.integer("top_logprobs", 0..=TOP_LOGPROBS)?.unwrap_or(0) as usize;
        let chat = ChatRequest {
            params,
            messages,
            tools: tools(&fields, reading)?,
            logprobs: include.contains(&INCLUDES[1]).then_some(top_logprobs),
            effort,
            thinking_budget: tokens(&fields, "thinking_budget", 0)?,
            template_kwargs: fields.object("chat_template_kwargs")?.cloned().unwrap_or_default(),
            prompt_field: Self::PROMPT_FIELD,
        };
        let wants_store = fields.boolean("store")?.unwrap_or(true) && archive.is_enabled();
        Ok(ResponsesRequest {
            chat,
            told: ResponseEcho {
                echo: echo(&fields, wants_store),
                seal: include.contains(&INCLUDES[0]),
                namespaces: namespaces(&fields),
                input: items,
                previous: previous.map(str::to_owned),
                archive: wants_store.then_some(archive),
            },
        })
    }
}

#[cfg(test)]
impl ResponsesRequest {
    /// The chat request that it became.
    pub(super) fn into_chat(self) -> ChatRequest {
        self.chat
    }
}

impl ApiRequest for ResponsesRequest {
    const NAME: &'static str = "responses";
    // Earlier answers are on disk.
    const READS_DISK: bool = true;
    const PROMPT_FIELD: &'static str = "input";
    type Reply = ResponsesReply;

    fn params(&self) -> &Params {
        &self.chat.params
    }

    fn logprobs(&self) -> Option<usize> {
        self.chat.logprobs
    }

    fn thinking_budget(&self) -> Option<usize> {
        self.chat.thinking_budget
    }

    fn default_max_tokens(&self) -> usize {
        usize::MAX
    }

    fn prompts(&self, model: &Model, wanted: &Wanted) -> Result<Vec<Prompt>, ApiError> {
        let prompt = self.chat.prompt(model, wanted).map_err(|error| {
            // This API has a code for a schema that cannot be compiled.
            if error.is_bad_grammar() { error.with_code(Code::InvalidJsonSchema) } else { error }
        });
        Ok(vec![prompt?])
    }

    fn reply(&self, identity: Identity, model: &Model) -> ResponsesReply {
        let sampling = self.params().sampling(model.sampling_defaults(), 0);
        ResponsesReply::new(&identity, self.told.clone(), &sampling, model.tokenizer().clone())
    }
}

/// Known parameters that are not supported: only a value that asks for something is refused (E7).
fn unsupported(fields: &Fields<'_, '_>) -> Result<(), ApiError> {
    for (name, hint) in [
        ("conversation", "; use 'previous_response_id', or send the items"),
        ("prompt", "; send 'instructions' and 'input'"),
    ] {
        if fields.get(name).is_some() {
            return Err(ApiError::unsupported_parameter(name, hint));
        }
    }
    if fields.get("moderation").is_some_and(|value| !asks_for_nothing(value)) {
        return Err(ApiError::unsupported_parameter("moderation", ""));
    }
    if fields.boolean("background")? == Some(true) {
        let hint = "; use 'stream' and keep the connection open";
        return Err(ApiError::unsupported_parameter("background", hint));
    }
    if fields.choice("truncation", &["disabled", "auto"])? == Some("auto") {
        let what = "'auto': items are never dropped; leave out yourself what is to be forgotten";
        return Err(ApiError::unsupported_value("truncation", what));
    }
    for name in ["client_metadata", "stream_options"] {
        fields.object(name)?;
    }
    fields.integer("max_tool_calls", 1..=i64::MAX)?;
    Ok(())
}

/// The items of this request; a string is one message. A reference to an item of a stored answer is
/// replaced by that item.
fn own_input(fields: &Fields<'_, '_>, archive: &Archive) -> Result<Vec<Value>, ApiError> {
    let path = fields.path().field("input");
    let items = match fields.get("input") {
        Some(Value::String(text)) => {
            return Ok(vec![json!({"type": "message", "role": "user", "content": text})]);
        }
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(&path, "a string or an array of items", other)),
        None if fields.get("previous_response_id").is_some() => return Ok(Vec::new()),
        None => return Err(ApiError::missing(path)),
    };
    let resolve = |(index, item): (usize, &Value)| {
        if item["type"] != "item_reference" {
            return Ok(item.clone());
        }
        let path = path.index(index);
        let id = Fields::of(item, &path)?.required_string("id")?;
        archive.item(id).ok_or_else(|| {
            let what = format_args!("no item '{id:.64}' is stored; send the item itself");
            ApiError::invalid_value(path.field("id"), what)
        })
    };
    items.iter().enumerate().map(resolve).collect()
}

/// Puts the conversation up to a stored answer before what comes.
fn go_on(
    conversation: &mut Conversation,
    previous: &str,
    archive: &Archive,
    reading: &Reading,
) -> Result<(), ApiError> {
    let records = archive.chain(previous, SystemTime::now())?;
    let path = Path::Root.field("previous_response_id");
    for item in records.iter().flat_map(|record| record.input.iter().chain(record.output())) {
        input::add(conversation, item, &path, reading, false)?;
    }
    Ok(())
}

/// `text`: what the answer is held to. `verbosity` changes nothing.
fn text(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Option<Constraint>, ApiError> {
    let path = fields.path().field("text");
    let Some(text) = fields.get("text") else { return Ok(None) };
    let text = Fields::of(text, &path)?;
    reading.known(&text, &["format", "verbosity"])?;
    text.choice("verbosity", &["low", "medium", "high"])?;
    let path = path.field("format");
    let Some(format) = text.get("format") else { return Ok(None) };
    output_format(&Fields::of(format, &path)?, Layout::Flat, reading)
}

/// `reasoning`: how much to think. Summaries are not made.
fn effort(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Option<&'static str>, ApiError> {
    let path = fields.path().field("reasoning");
    let Some(reasoning) = fields.get("reasoning") else { return Ok(None) };
    let reasoning = Fields::of(reasoning, &path)?;
    for name in ["summary", "generate_summary"] {
        reasoning.choice(name, &["auto", "concise", "detailed", "none"])?;
    }
    reading.known(&reasoning, &["effort", "summary", "generate_summary"])?;
    reasoning.choice("effort", &EFFORTS)
}

fn include(fields: &Fields<'_, '_>) -> Result<Vec<&'static str>, ApiError> {
    let path = fields.path().field("include");
    let mut include = Vec::new();
    for (index, name) in fields.array("include")?.into_iter().flatten().enumerate() {
        let name = name.as_str().ok_or_else(|| wrong(&path.index(index), "a string", name))?;
        let Some(known) = INCLUDES.iter().find(|known| **known == name) else {
            return Err(not_one_of(&path.index(index), name, &INCLUDES));
        };
        include.push(*known);
    }
    Ok(include)
}

/// `tools` and `tool_choice`. Tools that do not run here are ignored.
fn tools(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Tools, ApiError> {
    let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
    let mut tools = Tools::new(parallel, "parameters");
    let path = fields.path().field("tools");
    let list = fields.array("tools")?.map_or(&[][..], Vec::as_slice);
    reading.check_count(&path, list.len(), TOOLS)?;
    for (index, tool) in list.iter().enumerate() {
        let path = path.index(index);
        let tool = Fields::of(tool, &path)?;
        match tool.required_string("type")? {
            "function" => tools.offer_flat(&tool, TOOL, reading)?,
            "namespace" if !reading.strict => tools.namespace(&tool, &path, reading)?,
            _ => reading.ignore(&path)?,
        }
    }
    let path = fields.path().field("tool_choice");
    let has_tools = !list.is_empty();
    let choice = match fields.get("tool_choice") {
        None => return Ok(tools),
        Some(Value::String(word)) if !has_tools && (word == "auto" || word == "none") => {
            return Ok(tools);
        }
        Some(Value::String(word)) => ToolChoice::of_word(word, &path)?,
        Some(object @ Value::Object(_)) => tool_choice(&Fields::of(object, &path)?, reading)?,
        Some(other) => return Err(wrong(&path, "a string or an object", other)),
    };
    tools.choose(&choice, &path)?;
    Ok(tools)
}

/// A `tool_choice` that is an object.
fn tool_choice(choice: &Fields<'_, '_>, reading: &Reading) -> Result<ToolChoice, ApiError> {
    let kind = choice.required_string("type")?;
    reading.known(choice, &["type", "name", "mode", "tools"])?;
    let name = |tool: &Fields<'_, '_>| tool.required_string("name").map(str::to_owned);
    match kind {
        "function" => name(choice).map(ToolChoice::Function),
        "allowed_tools" => ToolChoice::allowed(choice, name),
        other => Err(not_one_of(&choice.path().field("type"), other, &ToolChoice::TYPES)),
    }
}

/// The namespace of each function in one, for the calls of the answer.
fn namespaces(fields: &Fields<'_, '_>) -> BTreeMap<String, String> {
    let tools = fields.get("tools").and_then(Value::as_array).into_iter().flatten();
    let mut taken: HashSet<&str> = HashSet::new();
    let mut namespaces = BTreeMap::new();
    for tool in tools {
        match (tool["type"].as_str(), tool["name"].as_str()) {
            (Some("function"), Some(name)) => drop(taken.insert(name)),
            (Some("namespace"), Some(namespace)) => {
                let inner = tool["tools"].as_array().into_iter().flatten();
                for name in inner.filter_map(|tool| tool["name"].as_str()) {
                    namespaces.entry(name.to_owned()).or_insert_with(|| namespace.to_owned());
                }
            }
            _ => {}
        }
    }
    namespaces.retain(|name, _| !taken.contains(name.as_str()));
    namespaces
}

/// The fields that an answer repeats, with their defaults.
fn echo(fields: &Fields<'_, '_>, stored: bool) -> Map<String, Value> {
    let or = |name: &str, default: Value| fields.get(name).cloned().unwrap_or(default);
    let reasoning = |name: &str| or("reasoning", json!({}))[name].clone();
    let format = or("text", json!({}))["format"].clone();
    let format = if format.is_null() { json!({"type": "text"}) } else { format };
    let mut text = json!({"format": format});
    if let Some(verbosity) = fields.get("text").and_then(|text| text.get("verbosity")) {
        text["verbosity"] = verbosity.clone();
    }
    let echo = json!({
        "background": false,
        "instructions": or("instructions", Value::Null),
        "max_output_tokens": or("max_output_tokens", Value::Null),
        "max_tool_calls": or("max_tool_calls", Value::Null),
        "metadata": or("metadata", json!({})),
        "model": or("model", Value::Null),
        "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "previous_response_id": or("previous_response_id", Value::Null),
        "prompt_cache_key": or("prompt_cache_key", Value::Null),
        "reasoning": {"effort": reasoning("effort"), "summary": reasoning("summary")},
        "safety_identifier": or("safety_identifier", Value::Null),
        "service_tier": "default",
        "store": stored,
        "temperature": or("temperature", Value::Null),
        "text": text,
        "tool_choice": or("tool_choice", json!("auto")),
        "tools": tools_told(fields),
        "top_logprobs": or("top_logprobs", json!(0)),
        "top_p": or("top_p", Value::Null),
        "truncation": "disabled",
    });
    let Value::Object(mut echo) = echo else { unreachable!("written as an object") };
    if let Some(user) = fields.get("user") {
        echo.insert("user".to_owned(), user.clone());
    }
    echo
}

/// `tools` as an answer repeats them: a function's optional fields are there.
fn tools_told(fields: &Fields<'_, '_>) -> Value {
    let mut tools = fields.get("tools").cloned().unwrap_or_else(|| json!([]));
    let functions = tools.as_array_mut().into_iter().flatten();
    for function in functions.filter(|tool| tool["type"] == "function") {
        let Some(function) = function.as_object_mut() else { continue };
        function.entry("parameters").or_insert(Value::Null);
        function.entry("strict").or_insert(json!(false));
    }
    tools
}
