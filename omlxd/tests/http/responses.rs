//! `/v1/responses`.

use std::fs;
use std::time::Duration;

use omlx_tests::http;
use serde_json::{Value, json};

use crate::support::{KEY, LONG, Reply, SCRIPT, SMALL, Server, check_error, tools, typed_events};

fn body(input: Value) -> Value {
    let tool = |(name, schema): (&str, Value)| json!({"type": "function", "name": name, "parameters": schema});
    json!({"model": SCRIPT, "input": input, "tools": tools().map(tool), "temperature": 0})
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[test]
fn a_stream_has_every_event_in_order_and_ends_in_what_the_document_says() {
    let server = Server::scripted();
    let whole = server.post("/v1/responses", &body(json!("What is up there?"))).ok();
    let events = server.typed_stream("/v1/responses", &body(json!("What is up there?")));
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let mut order = kinds(&events);
    order.dedup();
    assert_eq!(
        order,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let done = &events.last().unwrap()["response"];
    let output = done["output"].as_array().unwrap();
    let types: Vec<_> = output.iter().map(|item| &item["type"]).collect();
    assert_eq!(types, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(output[0]["content"][0]["text"], "I should look.");
    assert_eq!(output[1]["content"][0]["text"], "Let me see.");
    let arguments =
        |item: &Value| serde_json::from_str::<Value>(item["arguments"].as_str().unwrap());
    assert_eq!(arguments(&output[2]).unwrap(), json!({"at": "the sky", "how": {"long": 3}}));
    assert_eq!(arguments(&output[3]).unwrap(), json!({}));
    assert_ne!(output[2]["call_id"], output[3]["call_id"]);

    // Every event of an item names it, its deltas make its text, and the last event has it whole.
    for (index, item) in output.iter().enumerate() {
        let own = |event: &&Value| event["output_index"] == index;
        let mut delta = String::new();
        for event in events.iter().filter(own) {
            match &event["item"] {
                Value::Null => assert_eq!(event["item_id"], item["id"]),
                inner => assert_eq!(inner["id"], item["id"]),
            }
            delta += event["delta"].as_str().unwrap_or_default();
        }
        let text = if item["type"] == "function_call" {
            &item["arguments"]
        } else {
            &item["content"][0]["text"]
        };
        assert_eq!(delta, text.as_str().unwrap());
        let last = events.iter().rfind(own).unwrap();
        assert_eq!((&last["type"], &last["item"]), (&json!("response.output_item.done"), item));
    }

    let same = |response: &Value| {
        let mut response = response.clone();
        for name in ["id", "created_at", "usage"] {
            response.as_object_mut().unwrap().remove(name);
        }
        for item in response["output"].as_array_mut().unwrap() {
            for name in ["id", "call_id"] {
                item.as_object_mut().unwrap().remove(name);
            }
        }
        response
    };
    assert_eq!(same(done), same(&whole));
    let usage = &whole["usage"];
    assert_eq!(usage["input_tokens_details"]["cached_tokens"], 0);
    assert_eq!(usage["output_tokens_details"]["reasoning_tokens"], 2);
    assert!(done["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0);
}

#[test]
fn an_answer_has_the_fields_that_clients_need() {
    let server = Server::scripted();
    let fields = json!({"instructions": "Be brief.", "metadata": {"a": "b"}, "store": false,
                        "reasoning": {"effort": "low", "summary": "auto"}, "user": "u",
                        "parallel_tool_calls": false, "prompt_cache_key": "k"});
    let mut body = body(json!([{"role": "user", "content": "x"}]));
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let answer = server.post("/v1/responses", &body).ok();
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(answer[name], *value, "{name}");
    }
    for (name, value) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("model", json!(SCRIPT)),
        ("error", Value::Null),
        ("incomplete_details", Value::Null),
        ("tool_choice", json!("auto")),
        ("text", json!({"format": {"type": "text"}})),
        ("truncation", json!("disabled")),
        ("previous_response_id", Value::Null),
        ("background", json!(false)),
    ] {
        assert_eq!(answer[name], value, "{name}");
    }
    // What a tool left out is told.
    for tool in body["tools"].as_array_mut().unwrap() {
        tool["strict"] = json!(false);
    }
    assert_eq!(answer["tools"], body["tools"]);
    assert_eq!((answer["temperature"].as_f64(), answer["top_p"].as_f64()), (Some(0.0), Some(1.0)));
    assert!(answer["created_at"].as_u64().unwrap() > 1_600_000_000);
}

#[test]
fn thoughts_come_back_by_seal_and_the_second_turn_extends_the_first() {
    let server = Server::scripted();
    let mut first = body(json!([{"role": "user", "content": "What is up there? ".repeat(40)}]));
    first["include"] = json!(["reasoning.encrypted_content"]);
    first["store"] = json!(false);
    let answer = server.post("/v1/responses", &first).ok();
    let mut items = first["input"].as_array().unwrap().clone();
    for item in answer["output"].as_array().unwrap() {
        let mut item = item.clone();
        if item["type"] == "reasoning" {
            // As clients do that hold thoughts for opaque.
            item["content"] = json!([]);
        }
        items.push(item);
    }
    for call in
        answer["output"].as_array().unwrap().iter().filter(|item| item["call_id"].is_string())
    {
        items.push(
            json!({"type": "function_call_output", "call_id": call["call_id"], "output": "ok"}),
        );
    }
    let mut second = first.clone();
    second["input"] = json!(items);
    let answer_2 = server.post("/v1/responses", &second).ok();
    assert_eq!(answer_2["output"][0]["content"][0]["text"], "The sky is blue.");
    let (before, now) = (&answer["usage"], &answer_2["usage"]);
    let whole_turn =
        before["input_tokens"].as_u64().unwrap() + before["output_tokens"].as_u64().unwrap();
    let cached = now["input_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached + 2 >= whole_turn, "{cached} of {whole_turn}");
}

#[test]
fn a_stored_answer_can_be_continued_fetched_and_deleted() {
    let server = Server::scripted();
    let first = server.post("/v1/responses", &body(json!("What is up there?"))).ok();
    let id = first["id"].as_str().unwrap();
    assert_eq!(first["store"], true);
    assert_eq!(server.get(&format!("/v1/responses/{id}")).ok(), first);

    let outputs: Vec<Value> = first["output"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|item| item["type"] == "function_call")
        .map(|call| json!({"type": "function_call_output", "call_id": call["call_id"], "output": "ok"}))
        .collect();
    let mut second = body(json!(outputs));
    second["previous_response_id"] = json!(id);
    let events = server.typed_stream("/v1/responses", &second);
    let second = &events.last().unwrap()["response"];
    assert_eq!(second["output"][0]["content"][0]["text"], "The sky is blue.");
    assert_eq!(second["previous_response_id"], id);

    // The client keeps the conversation itself and names an item that is stored here.
    let reference = json!({"type": "item_reference", "id": first["output"][1]["id"]});
    let named =
        json!([{"role": "user", "content": "x"}, reference, {"role": "user", "content": "y"}]);
    server.post("/v1/responses", &body(named)).ok();

    let deleted = server.reply("DELETE", &format!("/v1/responses/{id}"), "").ok();
    assert_eq!(deleted, json!({"id": id, "object": "response", "deleted": true}));
    server.get(&format!("/v1/responses/{id}")).is_error(404, Some("not_found"), None);
    let mut third = body(json!("go on"));
    third["previous_response_id"] = second["id"].clone();
    let message = server.post("/v1/responses", &third).is_error(
        400,
        Some("previous_response_not_found"),
        Some("previous_response_id"),
    );
    assert!(message.contains(id));
}

#[test]
fn answers_belong_to_the_key_that_asked_and_some_are_never_stored() {
    let server = Server::scripted();
    let other = "sk-omlx-another-key-0123456789";
    fs::write(server.base().join("api-key"), format!("{KEY}\n{other}\n")).unwrap();
    server.app.keys.reload().unwrap();
    let id = server.post("/v1/responses", &body(json!("x"))).ok()["id"].clone();
    let path = format!("/v1/responses/{}", id.as_str().unwrap());
    server.get(&path).ok();
    for method in ["GET", "DELETE"] {
        let headers = [("x-api-key", other)];
        let response = http::request(server.address, method, &path, &headers, b"").unwrap();
        Reply::read(response).is_error(404, Some("not_found"), None);
    }
    let mut body = body(json!("x"));
    body["store"] = json!(false);
    let answer = server.post("/v1/responses", &body).ok();
    assert_eq!(answer["store"], false);
    let path = format!("/v1/responses/{}", answer["id"].as_str().unwrap());
    server.get(&path).is_error(404, Some("not_found"), None);
}

#[test]
fn a_server_that_stores_nothing_says_so() {
    let server = Server::with(|config| config.server.store_responses = false);
    let body = json!({"model": SMALL, "input": "x", "max_output_tokens": 2});
    let answer = server.post("/v1/responses", &body).ok();
    assert_eq!(answer["store"], false);
    let mut next = body;
    next["previous_response_id"] = answer["id"].clone();
    let message = server.post("/v1/responses", &next).is_error(
        400,
        Some("unsupported_parameter"),
        Some("previous_response_id"),
    );
    assert!(message.contains("server.store_responses"), "{message}");
    assert!(!server.base().join("responses").exists());
}

#[test]
fn an_answer_that_is_cut_is_incomplete() {
    let server = Server::start();
    let body = json!({"model": SMALL, "input": "x", "max_output_tokens": 3, "ignore_eos": true});
    let answer = server.post("/v1/responses", &body).ok();
    assert_eq!(answer["status"], "incomplete");
    assert_eq!(answer["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(answer["output"][0]["status"], "incomplete");
    let events = server.typed_stream("/v1/responses", &body);
    assert_eq!(events.last().unwrap()["type"], "response.incomplete");
}

#[test]
fn probabilities_come_when_they_are_included() {
    let server = Server::uncached();
    let body = json!({"model": SMALL, "input": "x", "max_output_tokens": 4, "ignore_eos": true,
                      "temperature": 0, "top_logprobs": 2,
                      "include": ["message.output_text.logprobs"]});
    let answer = server.post("/v1/responses", &body).ok();
    let logprobs = answer["output"][0]["content"][0]["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 4);
    for entry in logprobs {
        assert_eq!(entry["top_logprobs"].as_array().unwrap().len(), 2);
        assert!(entry["logprob"].as_f64().unwrap() <= 0.0 && entry["bytes"].is_array());
    }
}

#[test]
fn the_length_of_a_prompt_can_be_asked_for() {
    let server = Server::scripted();
    let body = body(json!("What is up there?"));
    let answer = server.post("/v1/responses/input_tokens", &body).ok();
    let whole = server.post("/v1/responses", &body).ok();
    let tokens = &whole["usage"]["input_tokens"];
    assert_eq!(answer, json!({"object": "response.input_tokens", "input_tokens": tokens}));
    assert!(server.app.requests.list().is_empty());
}

#[test]
fn what_is_not_supported_is_refused_by_its_own_name() {
    let server = Server::start();
    let input = json!("x");
    for (change, code, param) in [
        (json!({"input": null}), "missing_required_parameter", "input"),
        (json!({"input": []}), "invalid_value", "input"),
        (json!({"input": 3}), "invalid_type", "input"),
        (json!({"input": [{"role": "user", "content": 3}]}), "invalid_type", "input[0].content"),
        (json!({"background": true}), "unsupported_parameter", "background"),
        (json!({"conversation": "c"}), "unsupported_parameter", "conversation"),
        (json!({"prompt": {"id": "p"}}), "unsupported_parameter", "prompt"),
        (json!({"truncation": "auto"}), "unsupported_value", "truncation"),
        (json!({"max_output_tokens": 0}), "invalid_value", "max_output_tokens"),
        (json!({"reasoning": {"effort": "huge"}}), "invalid_value", "reasoning.effort"),
        (json!({"reasoning": {"summary": "huge"}}), "invalid_value", "reasoning.summary"),
        (json!({"include": ["all"]}), "invalid_value", "include[0]"),
        (json!({"text": {"format": {"type": "xml"}}}), "invalid_value", "text.format.type"),
        (
            json!({"text": {"format": {"type": "json_schema"}}}),
            "missing_required_parameter",
            "text.format.name",
        ),
        (json!({"tools": [{"type": "function"}]}), "missing_required_parameter", "tools[0].name"),
        (
            json!({"tools": [{"type": "function", "name": "f", "parameters": 3}]}),
            "invalid_type",
            "tools[0].parameters",
        ),
        (json!({"temperature": 3}), "invalid_value", "temperature"),
        (
            json!({"previous_response_id": "resp_1"}),
            "previous_response_not_found",
            "previous_response_id",
        ),
    ] {
        let mut body = json!({"model": SMALL, "input": input});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        server.post("/v1/responses", &body).is_error(400, Some(code), Some(param));
    }
    let long = json!({"model": SMALL, "input": "x ".repeat(300)});
    let reply = server.post("/v1/responses", &long);
    reply.is_error(400, Some("context_length_exceeded"), Some("input"));
    server.get("/v1/responses/nothing").is_error(404, Some("not_found"), None);
    let reply = server.reply("POST", "/v1/responses/resp_1", "{}");
    reply.is_error(405, Some("method_not_allowed"), None);
}

#[test]
fn a_stream_that_fails_says_so_in_a_flat_event_and_a_failed_answer() {
    let server = Server::start();
    let body = json!({"model": LONG, "input": "x", "stream": true, "ignore_eos": true});
    let response = server.open("POST", "/v1/responses", &body.to_string());
    let id = response.header("x-request-id").unwrap().to_owned();
    assert!(server.app.requests.cancel(&id));
    let events = typed_events("/v1/responses", response);
    let [.., error, failed] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("request_cancelled")));
    assert_eq!(failed["type"], "response.failed");
    assert_eq!(failed["response"]["status"], "failed");
    assert_eq!(failed["response"]["error"]["code"], "server_error");
}

#[test]
fn a_stream_that_fails_before_it_begins_has_one_event() {
    let server = Server::with(|config| {
        config.server.keepalive = Some(Duration::from_millis(10));
        config.models.max_wait = Duration::from_secs(60);
    });
    fs::write(server.models().join(SMALL).join("config.json"), "{").unwrap();
    let body = json!({"model": SMALL, "input": "x"});
    // Whether headers went out before the load failed is a matter of time; both are right.
    let response = server.open("POST", "/v1/responses", &{
        let mut body = body;
        body["stream"] = json!(true);
        body.to_string()
    });
    if response.status == 200 {
        let events = typed_events("/v1/responses", response);
        let [error] = &events[..] else { panic!("{events:?}") };
        assert_eq!((&error["type"], &error["sequence_number"]), (&json!("error"), &json!(0)));
        assert_eq!(error["code"], "model_load_failed");
    } else {
        check_error(
            &Reply::read(response).json()["error"],
            503,
            Some("model_load_failed"),
            Some("model"),
        );
    }
}

#[test]
fn embeddings_are_refused_clearly() {
    let server = Server::start();
    let body = json!({"model": SMALL, "input": "x"});
    let reply = server.post("/v1/embeddings", &body);
    let message = reply.is_error(400, Some("unsupported_value"), Some("model"));
    assert!(message.contains("embeddings"));
    let reply = server.post("/v1/embeddings", &json!({"model": SMALL}));
    reply.is_error(400, Some("missing_required_parameter"), Some("input"));
}
