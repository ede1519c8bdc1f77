//! Thoughts are apart from the answer, are counted, and end when they must. The model is random: the
//! template opens its thoughts, and a budget ends them.

use std::fs;

use omlx_tests::fixtures::Case;
use serde_json::{Value, json};

use crate::support::{Server, chunks};

const MODEL: &str = "test/thinker";
const TEMPLATE: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n{% if enable_thinking is \
    defined and not enable_thinking %}<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}";

fn server() -> Server {
    Server::with(|config| {
        let dir = config.base_dir.join("models").join(MODEL);
        Case::any().write(&dir).unwrap();
        let path = dir.join("tokenizer_config.json");
        let mut file: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        file["chat_template"] = json!(TEMPLATE);
        fs::write(path, file.to_string()).unwrap();
    })
}

fn fields(changes: Value) -> Value {
    let mut fields = json!({"model": MODEL, "max_tokens": 12, "ignore_eos": true});
    fields.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    fields
}

#[test]
fn a_budget_ends_the_thoughts_and_they_stand_apart() {
    let server = server();
    // No end of its own: neither marker comes by chance.
    let bias = json!({"4": -100, "5": -100});
    let with = |more: Value| {
        let mut fields = fields(more);
        fields["logit_bias"] = bias.clone();
        fields
    };
    let endless = server.chat(with(json!({}))).ok();
    let message = &endless["choices"][0]["message"];
    assert_eq!(message["content"], "");
    assert_eq!(endless["choices"][0]["finish_reason"], "length");
    assert_eq!(endless["usage"]["completion_tokens_details"]["reasoning_tokens"], 12);
    let thoughts = message["reasoning_content"].as_str().unwrap().to_owned();

    for named in [
        json!({"thinking_budget": 5}),
        json!({"thinking_token_budget": 5}),
        json!({"reasoning": {"max_tokens": 5}}),
    ] {
        let answer = server.chat(with(named.clone())).ok();
        let message = &answer["choices"][0]["message"];
        let fewer = message["reasoning_content"].as_str().unwrap();
        assert!(thoughts.starts_with(fewer) && thoughts.len() > fewer.len(), "{fewer:?}");
        // Five thoughts and their end.
        assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 6);
        let streamed = chunks(&server.chat_stream(with(named)));
        for (name, whole) in
            [("content", &message["content"]), ("reasoning_content", &json!(fewer))]
        {
            let pieces = streamed.iter().filter_map(|c| c["choices"][0]["delta"][name].as_str());
            assert_eq!(&json!(pieces.collect::<String>()), whole);
        }
    }
    let none = server.chat(with(json!({"thinking_budget": 0}))).ok();
    assert!(none["choices"][0]["message"].get("reasoning_content").is_none());
    assert_eq!(none["usage"]["completion_tokens_details"]["reasoning_tokens"], 1);
}

#[test]
fn without_thinking_all_is_the_answer() {
    let server = server();
    for off in [
        json!({"reasoning_effort": "none"}),
        json!({"reasoning": {"effort": "none"}}),
        json!({"chat_template_kwargs": {"enable_thinking": false}}),
    ] {
        let answer = server.chat(fields(off)).ok();
        let message = &answer["choices"][0]["message"];
        assert!(!message["content"].as_str().unwrap().is_empty());
        assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
    }
}

#[test]
fn a_budget_is_a_number() {
    let server = server();
    let reply = server.chat(fields(json!({"thinking_budget": -1})));
    reply.is_error(400, Some("invalid_value"), Some("thinking_budget"));
    let reply = server.chat(fields(json!({"reasoning": {"max_tokens": "5"}})));
    reply.is_error(400, Some("invalid_type"), Some("reasoning.max_tokens"));
}
