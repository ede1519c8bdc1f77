//! Answers that are held to a schema, a grammar or a call of a tool. The model is random: whatever
//! makes sense in its answers the grammar made.

use std::fs;
use std::path::Path;

use engine::{Keyword, SCHEMA_FORMATS, SCHEMA_KEYWORDS, Treatment};
use omlx_tests::fixtures::Case;
use serde_json::{Value, json};

use crate::support::{Server, chunks};

const MODEL: &str = "test/caller";
/// As Qwen3's, as far as it matters here.
const TEMPLATE: &str = "{% for tool in tools or [] %}{{ tool | tojson }} in <tool_call>\n{% endfor %}\
    {% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n\
    {% endfor %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}\
    <think>\n\n</think>\n\n{% endif %}";

fn server() -> Server {
    Server::with(|config| {
        let dir = config.base_dir.join("models").join(MODEL);
        let case = Case::any().with_config(json!({"max_position_embeddings": 4096}));
        case.write(&dir).unwrap();
        let path = dir.join("tokenizer_config.json");
        let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        file["chat_template"] = json!(TEMPLATE);
        fs::write(path, file.to_string()).unwrap();
    })
}

/// A request without thoughts.
fn fields(changes: Value) -> Value {
    let mut fields = json!({
        "model": MODEL, "max_tokens": 300, "temperature": 1, "seed": 3,
        "chat_template_kwargs": {"enable_thinking": false},
    });
    fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fields
}

fn schema() -> Value {
    json!({
        "type": "object", "additionalProperties": false, "required": ["kind", "count", "open"],
        "properties": {
            "kind": {"enum": ["tea", "coffee"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
            "open": {"type": "boolean"},
        },
    })
}

fn fits(value: &Value) -> bool {
    let kind = value["kind"] == "tea" || value["kind"] == "coffee";
    let count = value["count"].as_i64().is_some_and(|count| (0..100).contains(&count));
    kind && count && value["open"].is_boolean() && value.as_object().unwrap().len() == 3
}

fn json_schema(schema: &Value) -> Value {
    json!({"response_format": {"type": "json_schema",
                               "json_schema": {"name": "order", "schema": schema, "strict": true}}})
}

fn tool(name: &str, strict: bool) -> Value {
    json!({"type": "function",
           "function": {"name": name, "parameters": schema(), "strict": strict}})
}

#[test]
fn a_schema_holds_the_answer() {
    let server = server();
    let mut body = fields(json_schema(&schema()));
    body["n"] = json!(3);
    let answer = server.chat(body).ok();
    for choice in answer["choices"].as_array().unwrap() {
        let content = choice["message"]["content"].as_str().unwrap();
        let value: Value =
            serde_json::from_str(content).unwrap_or_else(|e| panic!("{e}: {content}"));
        assert!(fits(&value), "{content}");
        assert_eq!(choice["finish_reason"], "stop");
    }
    let streamed = chunks(&server.chat_stream(fields(json_schema(&schema()))));
    let text: String = streamed
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert!(fits(&serde_json::from_str(&text).unwrap()), "{text}");
    assert!(server.metric("omlx_constrained_mask_seconds_count", &[MODEL]) > 20.0);

    let mut cut = fields(json_schema(&schema()));
    cut["max_tokens"] = json!(4);
    assert_eq!(server.chat(cut).ok()["choices"][0]["finish_reason"], "length");
}

#[test]
fn thoughts_are_free_and_the_answer_is_held() {
    let server = server();
    let mut body = fields(json_schema(&schema()));
    body["chat_template_kwargs"] = json!({});
    // The model opens thoughts (token 4), and a budget ends them.
    body["logit_bias"] = json!({"4": 100, "5": -100});
    body["thinking_budget"] = json!(7);
    let answer = server.chat(body).ok();
    let message = &answer["choices"][0]["message"];
    assert!(!message["reasoning_content"].as_str().unwrap().is_empty());
    let content = message["content"].as_str().unwrap();
    assert!(fits(&serde_json::from_str(content).unwrap()), "{content}");
}

#[test]
fn vllms_names_hold_the_answer_too() {
    let server = server();
    let content = |changes: Value| {
        let answer = server.chat(fields(changes)).ok();
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let choice = content(json!({"structured_outputs": {"choice": ["left", "right"]}}));
    assert!(["left", "right"].contains(&choice.as_str()), "{choice}");
    let regex = content(json!({"guided_regex": "[0-9]{3}-[0-9]{2}"}));
    assert!(regex.len() == 6 && regex.as_bytes()[3] == b'-', "{regex}");
    assert_eq!(content(json!({"guided_grammar": "start: \"a\" \"b\"~3"})), "abbb");
    assert!(fits(&serde_json::from_str(&content(json!({"guided_json": schema()}))).unwrap()));

    let body = json!({"model": MODEL, "guided_choice": ["yes"], "max_tokens": 20});
    assert_eq!(server.complete(body).ok()["choices"][0]["text"], "yes");
}

#[test]
fn a_call_is_forced() {
    let server = server();
    let tools = json!([tool("order", false), tool("cancel", true)]);
    let named = json!({"type": "function", "function": {"name": "cancel"}});
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "order"}}]}});
    for (choice, names) in [
        (json!("required"), vec!["order", "cancel"]),
        (named, vec!["cancel"]),
        (allowed, vec!["order"]),
    ] {
        let changes = json!({"tools": tools, "tool_choice": choice, "parallel_tool_calls": false});
        let answer = server.chat(fields(changes.clone())).ok();
        let message = &answer["choices"][0]["message"];
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
        assert_eq!(message["content"], Value::Null);
        let calls = message["tool_calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1);
        let function = &calls[0]["function"];
        assert!(names.contains(&function["name"].as_str().unwrap()), "{function}");
        let arguments = function["arguments"].as_str().unwrap();
        assert!(fits(&serde_json::from_str(arguments).unwrap()), "{arguments}");

        let streamed = chunks(&server.chat_stream(fields(changes)));
        let delta = |chunk: &Value| {
            let call = &chunk["choices"][0]["delta"]["tool_calls"][0];
            call["function"]["arguments"].as_str().map(str::to_owned)
        };
        let arguments: String = streamed.iter().filter_map(delta).collect();
        assert!(fits(&serde_json::from_str(&arguments).unwrap()), "{arguments}");
    }
}

#[test]
fn a_strict_function_is_held_to_its_schema_where_calls_are_free() {
    let server = server();
    // The model likes nothing more than to call (token 6).
    let changes = json!({"tools": [tool("order", true)], "logit_bias": {"6": 100}});
    let answer = server.chat(fields(changes)).ok();
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    for call in calls {
        let arguments = call["function"]["arguments"].as_str().unwrap();
        // The last one may be cut by max_tokens.
        if let Ok(arguments) = serde_json::from_str(arguments) {
            assert!(fits(&arguments), "{arguments}");
        }
    }
    assert!(!calls.is_empty());
}

#[test]
fn what_cannot_be_held_to_is_refused_before_any_token() {
    let server = server();
    let bad = json!({"type": "object", "properties": {"a": {"type": "strin"}}});
    let deep = (0..100).fold(json!({}), |inner, _| json!({"items": inner}));
    for (changes, param, words) in [
        (json_schema(&bad), "response_format", "Invalid schema for response_format 'order'"),
        (json_schema(&json!({"uniqueItems": true})), "response_format", "uniqueItems"),
        (json_schema(&deep), "response_format", "64 levels"),
        (
            json!({"structured_outputs": {"regex": "("}}),
            "structured_outputs.regex",
            "Invalid regular expression",
        ),
        (json!({"guided_grammar": "start: nothing"}), "guided_grammar", "nothing"),
        (
            json!({"tool_choice": "required", "tools": [
                tool("ok", false),
                {"type": "function",
                 "function": {"name": "bad", "strict": true, "parameters": bad}}]}),
            "tools[1].function.parameters",
            "Invalid schema for function 'bad'",
        ),
    ] {
        let mut body = fields(changes);
        for stream in [false, true] {
            body["stream"] = json!(stream);
            let message = server.chat(body.clone()).is_error(400, None, Some(param));
            assert!(message.contains(words), "{message}");
        }
    }
    // The Responses API has a code for it, and names the schema itself.
    let format = |schema: &Value| json!({"format": {"type": "json_schema", "name": "order", "schema": schema}});
    let strict = json!({"type": "function", "name": "bad", "strict": true, "parameters": bad});
    for (changes, param) in [
        (json!({"text": format(&bad)}), "text.format.schema"),
        (json!({"text": format(&json!({"uniqueItems": true}))}), "text.format.schema"),
        (json!({"tools": [strict], "tool_choice": "required"}), "tools[0].parameters"),
    ] {
        let mut body = json!({"model": MODEL, "input": "x"});
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        for path in ["/v1/responses", "/v1/responses/input_tokens"] {
            let code = Some("invalid_json_schema");
            let message = server.post(path, &body).is_error(400, code, Some(param));
            assert!(message.starts_with("Invalid schema for "), "{message}");
        }
    }

    // So does Anthropic's API.
    let format =
        json!({"type": "json_schema", "schema": {"properties": {"a/b": {"uniqueItems": true}}}});
    let body = json!({"model": MODEL, "max_tokens": 9, "output_config": {"format": format},
                      "messages": [{"role": "user", "content": "x"}]});
    let reply = server.post("/v1/messages", &body);
    assert_eq!(reply.status, 400, "{}", reply.text);
    assert!(reply.text.contains("uniqueItems at /properties/a~1b"), "{}", reply.text);

    // Nobody asked for it to be exact: what can be enforced is.
    let odd = json!({"type": "function", "function": {"name": "odd", "parameters":
        {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true,
         "items": {"const": 1}, "minItems": 1, "maxItems": 2}}, "required": ["a"]}}});
    let answer = server.chat(fields(json!({"tools": [odd], "tool_choice": "required"}))).ok();
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "odd");
}

/// The table of keywords as the page shows it.
fn keywords() -> String {
    let mut table = "| keyword | what becomes of it |\n|---|---|\n".to_owned();
    for (treatment, word) in [
        (Treatment::Enforced, "enforced"),
        (Treatment::Refused, "refused"),
        (Treatment::Note, "note"),
    ] {
        let rows = SCHEMA_KEYWORDS.iter().filter(|keyword| keyword.treatment == treatment);
        // Rows that have nothing more to say share one.
        let (plain, others): (Vec<&Keyword>, Vec<_>) =
            rows.partition(|keyword| keyword.says.is_empty());
        let names: Vec<String> =
            plain.iter().map(|keyword| format!("`{}`", keyword.name)).collect();
        if !names.is_empty() {
            table.push_str(&format!("| {} | {word} |\n", names.join(", ")));
        }
        for keyword in others {
            table.push_str(&format!("| `{}` | {word}: {} |\n", keyword.name, keyword.says));
        }
    }
    let formats: Vec<String> = SCHEMA_FORMATS.iter().map(|format| format!("`{format}`")).collect();
    table.push_str(&format!("\nFormats that are enforced: {}.\n", formats.join(", ")));
    table
}

#[test]
fn the_page_has_every_keyword_of_schemas() {
    const OPENING: &str = "<!-- keywords: made by omlxd/tests/http/structured.rs -->\n";
    const CLOSING: &str = "<!-- end of keywords -->";
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/api.md");
    let page = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = page.split_once(OPENING).expect("the opening comment");
    let (_, after) = rest.split_once(CLOSING).expect("the closing comment");
    let made = format!("{before}{OPENING}\n{}\n{CLOSING}{after}", keywords());
    if std::env::var_os("OMLX_UPDATE").is_some() {
        std::fs::write(&file, made).unwrap();
    } else {
        assert!(page == made, "run `OMLX_UPDATE=1 cargo test -p omlxd --test http keyword`");
    }
}
