//! Continues a text with a model folder: `generate <folder> <text> [tokens]`. Prints the text, then
//! speeds. For trying out a model family while adding it.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;

use engine::{Engine, EngineConfig, Event, GenerateRequest, SamplingParams};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, text, rest @ ..] = &arguments[..] else {
        return Err("usage: generate <model folder> <text> [tokens]".into());
    };
    let engine = Engine::start(EngineConfig::default())?;
    let model = engine.load(Path::new(folder), folder).await?;
    let mut generation = model.generate(GenerateRequest {
        prompt: model.tokenizer().encode(text, true)?,
        sampling: SamplingParams { temperature: 0.0, ..SamplingParams::default() },
        max_tokens: rest.first().map_or(Ok(128), |n| n.parse())?,
        ..GenerateRequest::default()
    })?;
    while let Some(event) = generation.next().await {
        match event {
            Event::Delta(delta) => print!("{}", delta.text),
            Event::Done(outcome) => {
                let (usage, timings) = (outcome.usage, outcome.timings);
                let speed = |tokens: usize, time: std::time::Duration| {
                    tokens as f64 / time.as_secs_f64().max(1e-9)
                };
                println!(
                    "\n{} prompt tokens at {:.0}/s, {} new ones at {:.1}/s",
                    usage.prompt_tokens,
                    speed(usage.prompt_tokens, timings.prefill),
                    usage.completion_tokens,
                    speed(usage.completion_tokens.saturating_sub(1), timings.decode),
                );
            }
            Event::Failed(error) => return Err(error.into()),
        }
    }
    Ok(())
}
