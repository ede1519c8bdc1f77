//! A Responses request: read, and put into the words of a chat request, whose rules then hold.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use engine::Model;
use serde_json::{Map, Value, json};

use super::super::chat::ChatRequest;
use super::super::code::Code;
use super::super::conversation::Conversation;
use super::super::error::ApiError;
use super::super::params::{Params, Reading};
use super::super::read::{Fields, Path, not_one_of, wrong};
use super::super::reply::Identity;
use super::super::run::{Endpoint, Prompt, Wanted};
use super::archive::Archive;
use super::input;
use super::reply::ResponsesReply;
use crate::limits::{MESSAGES, TOP_LOGPROBS};

/// Fields that a chat request has under the same name.
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
    "moderation",
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

/// What a chat request's field is called here.
const NAMES: [(&str, &str); 6] = [
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("verbosity", "text.verbosity"),
    ("reasoning_effort", "reasoning.effort"),
    ("messages", "input"),
];

/// A request that passed validation.
#[derive(Debug)]
pub(crate) struct ResponsesRequest {
    chat: ChatRequest,
    told: ResponseEcho,
}

/// What the answer repeats or depends on besides the generation.
#[derive(Debug, Clone, Default)]
pub(super) struct ResponseEcho {
    /// Fields of the request that the answer repeats, by name.
    pub echo: Map<String, Value>,
    /// Put thoughts also into `encrypted_content`.
    pub seal: bool,
    /// Which namespace a function was offered in, by its name.
    pub namespaces: BTreeMap<String, String>,
    /// What the client sent.
    pub input: Vec<Value>,
    /// The answer that this one goes on from.
    pub previous: Option<String>,
    /// Where to store the answer; `None` when it is not to be stored.
    pub archive: Option<Archive>,
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
        let include = include(&fields)?;
        let mut chat = chat_fields(&fields, &include, reading)?;
        chat.insert("messages".to_owned(), Value::Array(messages));
        let chat = ChatRequest::read(&chat, reading).map_err(renamed)?;
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

impl Endpoint for ResponsesRequest {
    const NAME: &'static str = "responses";
    const PROMPT_FIELD: &'static str = "input";
    type Reply = ResponsesReply;

    fn params(&self) -> &Params {
        self.chat.params()
    }

    fn logprobs(&self) -> Option<usize> {
        self.chat.logprobs()
    }

    fn thinking_budget(&self) -> Option<usize> {
        self.chat.thinking_budget()
    }

    fn default_max_tokens(&self) -> usize {
        self.chat.default_max_tokens()
    }

    fn prompts(&self, model: &Model, wanted: &Wanted) -> Result<Vec<Prompt>, ApiError> {
        self.chat.prompts(model, wanted).map_err(|error| match error.is_bad_grammar() {
            true => bad_schema(error),
            false => renamed(error),
        })
    }

    fn reply(&self, identity: Identity, model: &Model) -> ResponsesReply {
        let sampling = self.params().sampling(model.sampling_defaults(), 0);
        ResponsesReply::new(&identity, self.told.clone(), &sampling, model.tokenizer().clone())
    }
}

/// An error of the chat request in the words of this one.
fn renamed(error: ApiError) -> ApiError {
    error.renamed(|param| {
        let flat = param.replacen(".function.", ".", 1);
        let under = |name: &str| {
            let rest = flat.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| rest.to_owned())
        };
        let found = NAMES.iter().find_map(|(from, to)| Some(format!("{to}{}", under(from)?)));
        found.unwrap_or(flat)
    })
}

/// E13 as this API tells it: with a code, and at the schema itself.
fn bad_schema(error: ApiError) -> ApiError {
    let error = error.with_code(Code::InvalidJsonSchema);
    match error.param() == Some("response_format") {
        true => error.renamed(|_| "text.format.schema".to_owned()),
        false => renamed(error),
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

/// The request's other fields as those of a chat request.
fn chat_fields(
    fields: &Fields<'_, '_>,
    include: &[&'static str],
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
    put("max_completion_tokens", fields.get("max_output_tokens").cloned());
    put("tools", tools(fields, reading)?);
    put("tool_choice", tool_choice(fields, reading)?);
    let path = fields.path().field("reasoning");
    if let Some(reasoning) = fields.get("reasoning") {
        let reasoning = Fields::of(reasoning, &path)?;
        for name in ["summary", "generate_summary"] {
            reasoning.choice(name, &["auto", "concise", "detailed", "none"])?;
        }
        reading.known(&reasoning, &["effort", "summary", "generate_summary"])?;
        put("reasoning_effort", reasoning.get("effort").cloned());
    }
    let path = fields.path().field("text");
    if let Some(text) = fields.get("text") {
        let text = Fields::of(text, &path)?;
        reading.known(&text, &["format", "verbosity"])?;
        put("verbosity", text.get("verbosity").cloned());
        put("response_format", text_format(&text)?);
    }
    let top = fields.integer("top_logprobs", 0..=TOP_LOGPROBS)?;
    if include.contains(&INCLUDES[1]) {
        put("logprobs", Some(json!(true)));
        put("top_logprobs", top.map(|top| json!(top)));
    }
    Ok(chat)
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

/// `tools`, functions in the shape of a chat request. The others go as they are: chat knows a
/// namespace, and leaves out what does not run here.
fn tools(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Option<Value>, ApiError> {
    let path = fields.path().field("tools");
    let Some(tools) = fields.array("tools")? else { return Ok(None) };
    let translate = |(index, tool): (usize, &Value)| {
        let path = path.index(index);
        let fields = Fields::of(tool, &path)?;
        if fields.required_string("type")? != "function" {
            return Ok(tool.clone());
        }
        fields.required_string("name")?;
        reading.known(&fields, TOOL)?;
        let known = &TOOL[..4];
        let function: Map<String, Value> = fields
            .entries()
            .filter(|(name, _)| known.contains(name))
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect();
        Ok(json!({"type": "function", "function": function}))
    };
    let tools: Vec<Value> =
        tools.iter().enumerate().map(translate).collect::<Result<_, ApiError>>()?;
    Ok(Some(Value::Array(tools)))
}

/// `tool_choice` in the shape of a chat request.
fn tool_choice(fields: &Fields<'_, '_>, reading: &Reading) -> Result<Option<Value>, ApiError> {
    let Some(choice) = fields.get("tool_choice") else { return Ok(None) };
    if choice.is_object() {
        let path = fields.path().field("tool_choice");
        reading.known(&Fields::of(choice, &path)?, &["type", "name", "mode", "tools"])?;
    }
    let has_tools = fields.array("tools")?.is_some_and(|tools| !tools.is_empty());
    if !has_tools && (choice == "auto" || choice == "none") {
        return Ok(None);
    }
    let named = |tool: &Value| json!({"type": "function", "function": {"name": tool["name"]}});
    Ok(Some(match choice["type"].as_str() {
        Some("function") => named(choice),
        Some("allowed_tools") => {
            let tools = choice["tools"].as_array().map(|tools| tools.iter().map(named));
            let tools: Option<Vec<Value>> = tools.map(Iterator::collect);
            let mode = &choice["mode"];
            json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
        }
        _ => choice.clone(),
    }))
}

/// `text.format` as `response_format`.
fn text_format(text: &Fields<'_, '_>) -> Result<Option<Value>, ApiError> {
    let path = text.path().field("format");
    let Some(format) = text.get("format") else { return Ok(None) };
    let fields = Fields::of(format, &path)?;
    if fields.required_string("type")? != "json_schema" {
        return Ok(Some(format.clone()));
    }
    for name in ["name", "schema"] {
        fields.required(name)?;
    }
    let mut schema = format.as_object().cloned().unwrap_or_default();
    schema.shift_remove("type");
    Ok(Some(json!({"type": "json_schema", "json_schema": schema})))
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
