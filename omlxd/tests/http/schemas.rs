//! Two documents that answers are held to: our own, `docs/openapi.json`, and OpenAI's of the same
//! objects. Every answer and every event that a test reads from a server is checked.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{LazyLock, Mutex};

use jsonschema::Validator;
use omlx_tests::sse::Event;
use omlxd::api::routes;
use serde_json::{Value, json};

use crate::support::Reply;

/// A document, and validators of its schemas as they are asked for.
pub(crate) struct Document {
    pub(crate) value: Value,
    validators: Mutex<BTreeMap<String, &'static Validator>>,
}

impl Document {
    fn read(path: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let text = std::fs::read_to_string(&path).unwrap();
        let value = serde_json::from_str(&text).unwrap();
        Document { value, validators: Mutex::default() }
    }

    /// What follows a `#/` reference.
    pub(crate) fn at(&self, reference: &str) -> &Value {
        self.value.pointer(reference.trim_start_matches('#')).expect("a reference in the document")
    }

    /// Follows a reference, where there is one.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        value["$ref"].as_str().map_or(value, |reference| self.at(reference))
    }

    /// Asserts that a value has a schema of the document.
    #[track_caller]
    fn check(&self, schema: &Value, value: &Value, whose: &str) {
        let wrong = self.wrong(schema, value);
        assert!(wrong.is_empty(), "{whose}: {}\n{value:#}", wrong.join("\n"));
    }

    /// What of a value is not as a schema of the document says.
    pub(crate) fn wrong(&self, schema: &Value, value: &Value) -> Vec<String> {
        let key = schema.to_string();
        let mut validators =
            self.validators.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let validator = *validators.entry(key).or_insert_with(|| {
            let mut root = schema.clone();
            root["components"] = json!({"schemas": self.value["components"]["schemas"]});
            Box::leak(Box::new(jsonschema::draft202012::new(&root).expect("a valid schema")))
        });
        drop(validators);
        let errors = validator.iter_errors(value);
        errors.map(|error| format!("{error} at {}", error.instance_path())).collect()
    }
}

pub(crate) static OURS: LazyLock<Document> = LazyLock::new(|| Document::read("docs/openapi.json"));
pub(crate) static OPENAIS: LazyLock<Document> =
    LazyLock::new(|| Document::read("tests/fixtures/openai/schemas.json"));

/// OpenAI's names for the whole answer of a path, and for an event of its stream.
fn openais(template: &str) -> Option<(&'static str, Option<&'static str>)> {
    match template {
        "/v1/chat/completions" => {
            Some(("CreateChatCompletionResponse", Some("CreateChatCompletionStreamResponse")))
        }
        "/v1/completions" => Some(("CreateCompletionResponse", Some("CreateCompletionResponse"))),
        "/v1/models" => Some(("ListModelsResponse", None)),
        "/v1/models/{id}" => Some(("Model", None)),
        "/v1/responses" => Some(("Response", Some("ResponseStreamEvent"))),
        "/v1/responses/{id}" => Some(("Response", None)),
        "/v1/responses/input_tokens" => Some(("TokenCountsResource", None)),
        _ => None,
    }
}

/// A schema of a document by its name.
pub(crate) fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// Asserts what the documents say of a whole answer.
#[track_caller]
pub(crate) fn check_reply(method: &str, path: &str, reply: &Reply) {
    let bare = path.split('?').next().unwrap_or_default();
    let route = routes::all().find(|route| route.id_in(bare).is_some());
    let template = route.map_or("unknown", |route| route.template);
    let operation = &OURS.value["paths"][template][method.to_lowercase()];
    let whose = format!("{method} {path} {}", reply.status);
    // What is not in the document is refused as one of the rows that hold everywhere.
    let general = operation.is_null() || matches!(reply.status, 404 | 405);
    let answer = OURS.resolved(&operation["responses"][reply.status.to_string()]);
    assert!(general || !answer.is_null(), "{whose} is not in docs/openapi.json");
    let Some("application/json") = reply.header("content-type") else { return };
    let value = reply.json();
    let is_anthropics = value["type"] == "error";
    match &answer["content"]["application/json"]["schema"] {
        Value::Null if is_anthropics => OURS.check(&named("MessageError"), &value, &whose),
        Value::Null => OURS.check(&named("Error"), &value, &whose),
        schema => OURS.check(schema, &value, &whose),
    }
    match openais(template) {
        // OpenAI does not say what a deletion answers.
        Some(_) if method == "DELETE" && reply.status == 200 => {}
        Some((whole, _)) if reply.status == 200 => OPENAIS.check(&named(whole), &value, &whose),
        _ if value.get("error").is_some_and(Value::is_object) && !is_anthropics => {
            OPENAIS.check(&named("ErrorResponse"), &value, &whose);
        }
        _ => {}
    }
}

/// Asserts what the documents say of the events of a stream.
#[track_caller]
pub(crate) fn check_events(path: &str, events: &[Event]) {
    let data = events.iter().filter_map(|event| match event {
        Event::Data(data) if data != "[DONE]" => Some(data),
        _ => None,
    });
    for data in data {
        check_event(path, &serde_json::from_str(data).expect("JSON"));
    }
}

/// Asserts what the documents say of one event of a stream.
#[track_caller]
pub(crate) fn check_event(path: &str, event: &Value) {
    if event.get("error").is_some() && event.get("type").is_none() {
        OURS.check(&named("Error"), event, path);
        return OPENAIS.check(&named("ErrorResponse"), event, path);
    }
    let operation = &OURS.value["paths"][path]["post"];
    let content = &operation["responses"]["200"]["content"]["text/event-stream"];
    OURS.check(&content["x-event"], event, path);
    let Some((_, Some(schema))) = openais(path) else { return };
    let mut event = event.clone();
    if path == "/v1/completions" {
        // OpenAI describes its chunks by the whole answer, which has ended and has its usage.
        if event["usage"].is_null() {
            event.as_object_mut().expect("an object").shift_remove("usage");
        }
        for choice in event["choices"].as_array_mut().expect("choices") {
            if choice["finish_reason"].is_null() {
                choice["finish_reason"] = json!("stop");
            }
        }
    }
    OPENAIS.check(&named(schema), &event, path);
}
