//! Bad models and bad bodies are errors, and the next request works.

use omlx_tests::fixtures::Damage;
use serde_json::{Value, json};

use crate::world::{World, chat_body};

/// Asserts an error object with all four keys; returns its message.
fn error_message(answer: omlx_tests::http::Response, what: &str) -> String {
    assert!(answer.status >= 400, "{what}: status {}", answer.status);
    assert!(answer.header("x-request-id").is_some(), "{what}: no x-request-id");
    let text = answer.text().expect("a body");
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{what}: {e}: {text}"));
    let error = body["error"].as_object().unwrap_or_else(|| panic!("{what}: {text}"));
    for key in ["message", "type", "param", "code"] {
        assert!(error.contains_key(key), "{what}: no {key}: {text}");
    }
    error["message"].as_str().expect("a message").to_string()
}

#[test]
fn every_damaged_model_is_an_error_that_names_a_file_or_field() {
    let world = World::with(|dir| {
        for (damage, _) in Damage::UNLOADABLE {
            damage.write(&dir.join("models").join(format!("{damage:?}")))?;
        }
        Damage::NanWeights.write(&dir.join("models/NanWeights"))
    });
    for (damage, words) in Damage::UNLOADABLE {
        let name = format!("{damage:?}");
        let message = error_message(world.chat(json!({"model": name})), &name);
        // A folder without config.json or weights is no model at all.
        let unknown = message.contains("does not exist");
        let named = words.iter().any(|word| message.contains(word));
        let may_be_unknown = matches!(damage, Damage::NoConfig | Damage::NoWeights);
        assert!(named || (unknown && may_be_unknown), "{name}: {message}");
        world.assert_still_works();
    }
    let message = error_message(world.chat(json!({"model": "NanWeights"})), "NanWeights");
    assert!(message.contains("NaN"), "{message}");
    world.assert_still_works();
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let world = World::new();
    let content = "x".repeat(65 << 20);
    let body = chat_body(json!({"messages": [{"role": "user", "content": content}]})).to_string();
    // The daemon may answer and close while the body is still being sent.
    if let Ok(answer) = world.daemon.request("POST", "/v1/chat/completions", &body) {
        assert_eq!(answer.status, 413);
    }
    world.assert_still_works();
}

#[test]
fn deep_json_is_refused() {
    let world = World::new();
    for depth in [200, 100_000] {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let body = format!("{{\"model\": \"x\", \"messages\": {deep}}}");
        let answer = world.daemon.request("POST", "/v1/chat/completions", &body).expect("answer");
        assert_eq!(answer.status, 400);
        error_message(answer, "deep JSON");
        world.assert_still_works();
    }
}

#[test]
fn a_template_that_raises_or_loops_is_an_error() {
    let raising = "{{ raise_exception('roles must alternate') }}";
    let looping = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}\
                   x{% endfor %}{% endfor %}{% endfor %}";
    let world = World::with(|dir| {
        for (name, template) in [("raising", raising), ("looping", looping)] {
            let folder = dir.join("models").join(name);
            omlx_tests::fixtures::Case::any().write(&folder)?;
            std::fs::write(folder.join("chat_template.jinja"), template)?;
        }
        Ok(())
    });
    let message = error_message(world.chat(json!({"model": "raising"})), "raising");
    assert!(message.contains("roles must alternate"), "{message}");
    let message = error_message(world.chat(json!({"model": "looping"})), "looping");
    assert!(message.contains("template"), "{message}");
    world.assert_still_works();
}
