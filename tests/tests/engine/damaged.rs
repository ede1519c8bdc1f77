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
