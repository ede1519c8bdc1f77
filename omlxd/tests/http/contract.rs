//! The documents against the code, and answers of every form against the documents.

use std::collections::BTreeSet;

use hyper::Method;
use omlxd::api::routes;
use serde_json::{Value, json};

use crate::schemas::{OPENAIS, OURS, named};
use crate::support::{
    CHAT, LONG, SCRIPT, SMALL, Server, chat_body, chunks, completion_body, tools, typed_events,
};

const METHODS: [&str; 5] = ["get", "post", "put", "delete", "patch"];

#[test]
fn the_document_has_every_route_and_no_other() {
    let paths = OURS.value["paths"].as_object().unwrap();
    for route in routes::all() {
        let of_path = paths.get(route.template);
        let of_path = of_path.unwrap_or_else(|| panic!("{} is not in it", route.template));
        for method in METHODS {
            let allowed = route.allows(&method.to_uppercase().parse::<Method>().unwrap());
            let what = format!("{method} {}", route.template);
            assert_eq!(of_path.get(method).is_some(), allowed, "{what}");
            if !allowed {
                continue;
            }
            for status in route.statuses.iter().filter(|status| **status != "499") {
                // Embeddings have no answer to give.
                let undescribed = *status == "200" && route.template == "/v1/embeddings";
                let described = !of_path[method]["responses"][*status].is_null();
                assert!(described != undescribed, "{what} {status}");
            }
        }
    }
    for path in paths.keys() {
        assert!(routes::all().any(|route| route.template == path), "{path} is not served");
    }
}

#[test]
fn every_schema_is_one_and_is_used() {
    let text = OURS.value.to_string();
    for (name, schema) in OURS.value["components"]["schemas"].as_object().unwrap() {
        let reference = format!("\"#/components/schemas/{name}\"");
        assert!(text.contains(&reference), "nothing refers to {name}");
        let mut root = schema.clone();
        root["components"] = json!({"schemas": OURS.value["components"]["schemas"]});
        assert!(jsonschema::draft202012::new(&root).is_ok(), "{name}");
    }
}

/// Whole and streamed, with all that changes the form of an answer.
#[test]
fn chat_answers_of_every_form_are_as_the_documents_say() {
    let server = Server::scripted();
    let tool = |(name, schema): (&str, Value)| json!({"type": "function", "function": {"name": name, "parameters": schema}});
    let forms = [
        json!({}),
        json!({"model": SCRIPT, "tools": tools().map(tool), "max_tokens": 200}),
        json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 4}),
        json!({"n": 3, "temperature": 1, "max_tokens": 4, "seed": 1}),
        json!({"service_tier": "auto", "max_tokens": 1, "metadata": {"a": "b"}, "store": true}),
        json!({"response_format": {"type": "json_object"}, "max_tokens": 4}),
    ];
    for form in forms {
        let whole = server.chat(form.clone()).ok();
        let mut body = chat_body(form);
        body["stream_options"] = json!({"include_usage": true});
        let events = chunks(&server.stream(CHAT, body));
        assert_eq!(usage(&events.last().unwrap()["usage"]), usage(&whole["usage"]));
    }
}

/// Counts that do not depend on what was asked before.
fn usage(usage: &Value) -> [&Value; 4] {
    let reasoning = &usage["completion_tokens_details"]["reasoning_tokens"];
    let counts =
        [&usage["prompt_tokens"], &usage["completion_tokens"], &usage["total_tokens"], reasoning];
    assert!(counts.iter().all(|count| count.is_u64()), "{usage}");
    counts
}

#[test]
fn text_answers_of_every_form_are_as_the_documents_say() {
    let server = Server::start();
    for form in [
        json!({}),
        json!({"prompt": ["a", "b"], "echo": true, "n": 2, "max_tokens": 3}),
        json!({"logprobs": 2, "max_tokens": 4}),
    ] {
        let whole = server.complete(form.clone()).ok();
        let mut body = completion_body(form);
        body["stream_options"] = json!({"include_usage": true});
        let events = chunks(&server.stream("/v1/completions", body));
        assert_eq!(usage(&events.last().unwrap()["usage"]), usage(&whole["usage"]));
    }
}

/// Every type of event that the document has is sent, and is one of OpenAI's.
#[test]
fn every_event_of_responses_is_as_the_documents_say() {
    const PATH: &str = "/v1/responses";
    let server = Server::scripted();
    let tool = |(name, schema): (&str, Value)| json!({"type": "function", "name": name, "parameters": schema});
    let other = json!({"type": "web_search"});
    let asked = json!({"model": SCRIPT, "input": "What is up there?", "temperature": 0});
    let with = |fields: Value| {
        let mut body = asked.clone();
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        body
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}}});
    let format = json!({"type": "json_schema", "name": "x", "schema": schema});
    let namespace = json!({"type": "namespace", "name": "sky", "description": "Above.",
                           "tools": tools().map(tool)});
    let mut seen = BTreeSet::new();
    for body in [
        with(json!({"tools": tools().map(tool)})),
        with(json!({"tools": [namespace, other], "tool_choice": "auto",
                    "include": ["reasoning.encrypted_content"]})),
        with(json!({"max_output_tokens": 3, "reasoning": {"effort": "high", "summary": "auto"}})),
        with(json!({"model": SMALL, "max_output_tokens": 4, "top_logprobs": 2, "ignore_eos": true,
                    "include": ["message.output_text.logprobs"]})),
        with(json!({"model": SMALL, "max_output_tokens": 4, "text": {"format": format}})),
    ] {
        server.post(PATH, &body).ok();
        let events = server.typed_stream(PATH, &body);
        seen.extend(events.iter().map(|event| event["type"].as_str().unwrap().to_owned()));
    }
    let endless = with(json!({"model": LONG, "stream": true, "ignore_eos": true}));
    let response = server.open("POST", PATH, &endless.to_string());
    assert!(server.app.requests.cancel(response.header("x-request-id").unwrap()));
    let failed = typed_events(PATH, response);
    seen.extend(failed.iter().map(|event| event["type"].as_str().unwrap().to_owned()));

    let described = OURS.at("#/components/schemas/ResponseEvent")["oneOf"].as_array().unwrap();
    let types = described.iter().flat_map(|event| {
        let one = &event["properties"]["type"];
        one["enum"].as_array().cloned().unwrap_or_else(|| vec![one["const"].clone()])
    });
    let types: BTreeSet<String> = types.map(|one| one.as_str().unwrap().to_owned()).collect();
    assert_eq!(seen, types);
}

/// The documents are no formality: what lacks a field, or has a word of its own, is found.
#[test]
fn what_is_not_as_openai_says_is_found() {
    let server = Server::start();
    let answer = server.chat(json!({"max_tokens": 1})).ok();
    let finds = |schema: &str, value: &Value| !OPENAIS.wrong(&named(schema), value).is_empty();
    assert!(!finds("CreateChatCompletionResponse", &answer));
    for place in ["/id", "/choices/0/logprobs", "/choices/0/message/refusal", "/usage/total_tokens"]
    {
        let mut less = answer.clone();
        let (parent, name) = place.rsplit_once('/').unwrap();
        let parent = less.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        assert!(parent.shift_remove(name).is_some(), "{place}");
        assert!(finds("CreateChatCompletionResponse", &less), "{place}");
    }
    let mut other = answer;
    other["choices"][0]["finish_reason"] = json!("cancelled");
    assert!(finds("CreateChatCompletionResponse", &other));
    assert!(finds("ErrorResponse", &json!({"error": {"message": "", "type": "", "code": null}})));
    let event = json!({"type": "response.in_progress", "sequence_number": 1, "response": {}});
    assert!(finds("ResponseStreamEvent", &event));
    assert!(finds("ResponseStreamEvent", &json!({"type": "response.new", "sequence_number": 1})));
}
