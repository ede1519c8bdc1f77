//! A model folder that is wrong is a clear error, and the engine goes on.

use std::error::Error;
use std::fs;
use std::time::SystemTime;

use crate::common::{engine, greedy, ids, last_event, load};
use engine::{ChatInputs, Engine, Event, GenerateError, TemplateError};
use omlx_tests::fixtures::{Case, Damage};
use omlx_tests::golden::Golden;
use serde_json::{Map, Value, json};

/// The error's own text and that of everything under it.
fn whole_text(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

async fn assert_still_works(engine: &Engine) {
    let golden = Golden::named("llama-default-f32");
    let model = load(engine, &golden.case).await;
    let path = &golden.paths[0];
    assert_eq!(ids(&model, greedy(&path.prompt, path.tokens.len())).await, path.tokens);
}

#[tokio::test]
async fn every_unloadable_model_is_an_error_that_says_where() {
    let engine = engine();
    for (damage, words) in Damage::UNLOADABLE {
        let dir = tempfile::tempdir().expect("temporary folder");
        damage.write(dir.path()).expect("fixture");
        let Err(error) = engine.load(dir.path(), "damaged").await else {
            panic!("{damage:?} was loaded");
        };
        let text = whole_text(&error);
        assert!(words.iter().any(|word| text.contains(word)), "{damage:?}: {text}");
        let folder = dir.path().to_string_lossy();
        assert!(text.contains(&*folder), "{damage:?} does not say which folder: {text}");
    }
    assert_still_works(&engine).await;
}

/// What a config of each family may say wrongly, with a word that the error must hold.
fn lies() -> Vec<(&'static str, Value, &'static str)> {
    let (moe, delta, gemma) =
        ("qwen3_moe-default-f32", "qwen3_5-flat-tied-f32", "gemma3_text-default-f32");
    let both = "qwen3_5_moe-default-f32";
    let nested = |key: &str, value: Value| {
        let mut text = Case::named(both).config["text_config"].clone();
        text[key] = value;
        json!({"text_config": text})
    };
    vec![
        (moe, json!({"num_experts": 0}), "num_experts"),
        (moe, json!({"num_experts": 9}), "gate"),
        (moe, json!({"num_experts": 1 << 30}), "num_experts"),
        (moe, json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
        (moe, json!({"num_experts_per_tok": 0}), "num_experts_per_tok"),
        (moe, json!({"moe_intermediate_size": -1}), "moe_intermediate_size"),
        (moe, json!({"moe_intermediate_size": 96}), "switch_mlp"),
        (moe, json!({"decoder_sparse_step": 0}), "decoder_sparse_step"),
        (moe, json!({"num_hidden_layers": 1 << 24}), "num_hidden_layers"),
        (moe, json!({"mlp_only_layers": [0]}), "layers.0.mlp"),
        (delta, json!({"linear_num_key_heads": 0}), "linear_num_key_heads"),
        (delta, json!({"linear_num_key_heads": 3}), "linear_num_value_heads"),
        (delta, json!({"linear_key_head_dim": 24}), "linear_attn"),
        (delta, json!({"linear_key_head_dim": 1 << 24}), "channels"),
        (delta, json!({"linear_conv_kernel_dim": 5}), "conv1d"),
        (delta, json!({"linear_value_head_dim": null}), "linear_value_head_dim"),
        (delta, json!({"full_attention_interval": 0}), "full_attention_interval"),
        (delta, json!({"full_attention_interval": 3}), "layers.1"),
        (delta, json!({"layer_types": ["full_attention"]}), "layer_types"),
        (delta, json!({"layer_types": ["full", "full", "full"]}), "full"),
        (delta, json!({"num_key_value_heads": 3}), "num_attention_heads"),
        (delta, json!({"num_hidden_layers": 1 << 24}), "num_hidden_layers"),
        (delta, json!({"intermediate_size": null}), "intermediate_size"),
        (delta, json!({"rope_parameters": {"partial_rotary_factor": 9}}), "partial_rotary_factor"),
        (delta, json!({"rope_parameters": {"partial_rotary_factor": 0.0}}), "rope"),
        (both, nested("vocab_size", json!(0)), "vocab_size"),
        (both, nested("num_experts_per_tok", Value::Null), "num_experts_per_tok"),
        (both, nested("shared_expert_intermediate_size", json!(0)), "shared_expert"),
        (both, nested("num_attention_heads", json!(0)), "num_attention_heads"),
        (gemma, json!({"sliding_window": 0}), "sliding_window"),
        (gemma, json!({"sliding_window_pattern": 0}), "sliding_window_pattern"),
        (gemma, json!({"layer_types": []}), "layer_types"),
        (gemma, json!({"num_key_value_heads": null}), "num_key_value_heads"),
        (gemma, json!({"head_dim": 1 << 24}), "head_dim"),
        (gemma, json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar"),
        (gemma, json!({"final_logit_softcapping": -1.0}), "final_logit_softcapping"),
        (gemma, json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (gemma, json!({"hidden_activation": "relu"}), "relu"),
        (gemma, json!({"use_bidirectional_attention": true}), "bidirectional"),
        (gemma, json!({"rope_local_base_freq": 0.5}), "rope"),
        // Left out, it is what published configs mean: another vocabulary than the weights have.
        (gemma, json!({"vocab_size": null}), "embed_tokens"),
    ]
}

#[tokio::test]
async fn a_config_that_lies_about_experts_states_or_windows_is_an_error_that_says_what() {
    let engine = engine();
    for (name, lie, word) in lies() {
        let dir = tempfile::tempdir().expect("temporary folder");
        Case::named(name).write(dir.path()).expect("fixture");
        let config = Case::named(name).with_config(lie.clone()).config;
        let config = serde_json::to_string(&config).expect("JSON");
        fs::write(dir.path().join("config.json"), config).expect("written");
        let Err(error) = engine.load(dir.path(), "lying").await else {
            panic!("{name} was loaded with {lie}");
        };
        let text = whole_text(&error);
        assert!(text.contains(word), "{name} with {lie}: {text}");
        let folder = dir.path().to_string_lossy();
        assert!(text.contains(&*folder), "{name} does not say which folder: {text}");
    }
    assert_still_works(&engine).await;
}

#[tokio::test]
async fn nan_weights_fail_the_request_and_nothing_else() {
    let engine = engine();
    let dir = tempfile::tempdir().expect("temporary folder");
    Damage::NanWeights.write(dir.path()).expect("fixture");
    match engine.load(dir.path(), "nan").await {
        Ok(model) => {
            let generation = model.generate(greedy(&[9, 10, 11], 8)).expect("accepted");
            let event = last_event(generation).await;
            assert!(matches!(event, Event::Failed(GenerateError::NotANumber { .. })), "{event:?}");
        }
        Err(error) => assert!(whole_text(&error).contains("NaN"), "{error}"),
    }
    assert_still_works(&engine).await;
}

/// Renders one message with a template that is put into tokenizer_config.json.
async fn render(engine: &Engine, template: &str) -> Result<String, TemplateError> {
    let dir = tempfile::tempdir().expect("temporary folder");
    Case::any().write(dir.path()).expect("fixture");
    let path = dir.path().join("tokenizer_config.json");
    let mut config: Map<String, Value> =
        serde_json::from_slice(&fs::read(&path).expect("config")).expect("JSON");
    config.insert("chat_template".into(), json!(template));
    fs::write(&path, serde_json::to_string(&config).expect("JSON")).expect("written");
    let model = engine.load(dir.path(), "template").await.expect("loads");
    let inputs = ChatInputs {
        messages: &[json!({"role": "user", "content": "hello"})],
        tools: None,
        add_generation_prompt: true,
        kwargs: &Map::new(),
        now: SystemTime::UNIX_EPOCH,
    };
    model.chat_template().expect("has one").render(&inputs)
}

#[tokio::test]
async fn a_template_that_raises_or_loops_is_an_error() {
    let engine = engine();
    let raising = "{{ raise_exception('roles must alternate') }}";
    let raised = render(&engine, raising).await;
    assert_eq!(raised, Err(TemplateError::Raised("roles must alternate".into())));

    let looping = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}\
                   x{% endfor %}{% endfor %}{% endfor %}";
    let looped = render(&engine, looping).await;
    assert!(matches!(looped, Err(TemplateError::OutOfFuel(_))), "{looped:?}");

    let failing = render(&engine, "{{ messages[0].content.no_such_method() }}").await;
    assert!(matches!(failing, Err(TemplateError::Failed(_))), "{failing:?}");

    let good = render(&engine, "{{ messages[0]['content'] }}").await;
    assert_eq!(good, Ok("hello".into()));
}
