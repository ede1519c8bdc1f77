//! `omlxctl bench`: how fast this machine is, measured through the API that every client uses.
//!
//! Each round has a prompt of its own that begins like no other, so nothing of it is cached at first;
//! then the same prompt is sent again from memory, and again from SSD alone.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use omlxctl::protocol::Demoted;
use serde::Serialize;
use serde_json::{Value, json};

use crate::api::{self, Api, Timed};
use crate::cli::Bench;
use crate::context::{Context, Done};
use crate::exit::CommandError;
use crate::output;

/// Words for prompts: short and common, so that most vocabularies have them whole.
const WORDS: [&str; 16] = [
    "time", "people", "water", "house", "light", "river", "paper", "music", "garden", "winter",
    "number", "story", "letter", "morning", "market", "window",
];

/// What was measured; medians of the rounds.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    rounds: u32,
    prompt_tokens: u64,
    generated_tokens: u64,
    /// Nothing was cached.
    computed: Measured,
    /// All but the end was in memory.
    from_ram: Measured,
    /// All but the end was on SSD.
    from_ssd: Measured,
    prefill_tokens_per_second: f64,
    decode_tokens_per_second: f64,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Measured {
    seconds_to_first_token: f64,
    tokens_from_ram: u64,
    tokens_from_ssd: u64,
    tokens_computed: u64,
    /// How many times faster than computing it.
    speedup: f64,
}

/// Measures and prints.
pub(crate) async fn run(context: &Context, options: Bench) -> Done {
    let model = api::model(context, options.model.clone()).await?;
    let api = Api::open(context).await?;
    // Loads the model, and has MLX prepare what it prepares once.
    context.output.progress(&format!("loading {model}"));
    let warm = json!({"model": model, "prompt": "Hello", "max_tokens": 8, "ignore_eos": true});
    let warm = api.post("/v1/completions", &warm).await;
    context.output.progress("");
    warm?;
    let mut rounds = Vec::new();
    for round in 1..=options.rounds {
        context.output.progress(&format!("{model}: round {round} of {}", options.rounds));
        rounds.push(measure(context, &api, &model, &options, round).await);
        context.output.progress("");
    }
    let rounds = rounds.into_iter().collect::<Result<Vec<_>, _>>()?;
    let report = summarize(model, &options, &rounds);
    context.output.document(&report, |out| print(out, &report))?;
    Ok(())
}

/// One round: computed, from memory, from SSD; then a longer answer for the decode rate.
struct Round {
    prefills: [Measured; 3],
    generated: u64,
    decode_per_second: f64,
}

async fn measure(
    context: &Context,
    api: &Api,
    model: &str,
    options: &Bench,
    round: u32,
) -> Result<Round, CommandError> {
    let prompt = prompt(options.prompt_tokens, round);
    let body = |tokens: u32| {
        json!({
            "model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0,
            "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true},
        })
    };
    let computed = api.post("/v1/completions", &body(1)).await?;
    let from_ram = api.post("/v1/completions", &body(1)).await?;
    let _: Demoted = context.post("/cache/demote").await?;
    let from_ssd = api.post("/v1/completions", &body(1)).await?;
    let long = api.post("/v1/completions", &body(options.tokens)).await?;
    let generated = usage(&long.body, "/usage/completion_tokens");
    let decoding = long.total.saturating_sub(long.first).max(Duration::from_micros(1));
    Ok(Round {
        prefills: [measured(&computed), measured(&from_ram), measured(&from_ssd)],
        generated,
        decode_per_second: generated.saturating_sub(1) as f64 / decoding.as_secs_f64(),
    })
}

fn measured(timed: &Timed) -> Measured {
    let ram = usage(&timed.body, "/usage/omlx/cached_tokens_ram");
    let ssd = usage(&timed.body, "/usage/omlx/cached_tokens_ssd");
    let prompt = usage(&timed.body, "/usage/prompt_tokens");
    Measured {
        seconds_to_first_token: timed.first.as_secs_f64(),
        tokens_from_ram: ram,
        tokens_from_ssd: ssd,
        tokens_computed: prompt.saturating_sub(ram + ssd),
        speedup: 0.0,
    }
}

fn usage(body: &Value, pointer: &str) -> u64 {
    body.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// A text of about `tokens` tokens that shares no prefix with an earlier prompt.
fn prompt(tokens: u32, round: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut random = (now.as_nanos() as u64) ^ (u64::from(round) << 48) | 1;
    let mut text = String::new();
    for _ in 0..tokens {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        text.push(' ');
        text.push_str(WORDS[(random >> 32) as usize % WORDS.len()]);
    }
    text
}

fn summarize(model: String, options: &Bench, rounds: &[Round]) -> Report {
    let prefill = |which: usize| {
        let mut all: Vec<Measured> = rounds.iter().map(|round| round.prefills[which]).collect();
        all.sort_by(|a, b| a.seconds_to_first_token.total_cmp(&b.seconds_to_first_token));
        all[all.len() / 2]
    };
    let computed = Measured { speedup: 1.0, ..prefill(0) };
    let beside = |which: usize| {
        let measured = prefill(which);
        let speedup = computed.seconds_to_first_token / measured.seconds_to_first_token.max(1e-9);
        Measured { speedup, ..measured }
    };
    let mut decodes: Vec<f64> = rounds.iter().map(|round| round.decode_per_second).collect();
    decodes.sort_by(f64::total_cmp);
    // Of the round that the rate is of: prompts differ by a few tokens.
    let prompt_tokens =
        computed.tokens_computed + computed.tokens_from_ram + computed.tokens_from_ssd;
    Report {
        model,
        rounds: options.rounds,
        prompt_tokens,
        generated_tokens: rounds.first().map_or(0, |round| round.generated),
        from_ram: beside(1),
        from_ssd: beside(2),
        prefill_tokens_per_second: prompt_tokens as f64 / computed.seconds_to_first_token.max(1e-9),
        decode_tokens_per_second: decodes[decodes.len() / 2],
        computed,
    }
}

fn print(out: &mut dyn Write, report: &Report) -> std::io::Result<()> {
    output::facts(
        out,
        &[
            ("model", report.model.clone()),
            ("rounds", format!("{}, medians below", report.rounds)),
            (
                "prefill",
                format!(
                    "{:.0} tokens/s ({} tokens)",
                    report.prefill_tokens_per_second, report.prompt_tokens
                ),
            ),
            (
                "decode",
                format!(
                    "{:.1} tokens/s ({} tokens)",
                    report.decode_tokens_per_second, report.generated_tokens
                ),
            ),
        ],
    )?;
    let row = |name: &str, measured: &Measured| {
        [
            name.to_owned(),
            format!("{:.1} ms", measured.seconds_to_first_token * 1e3),
            measured.tokens_computed.to_string(),
            measured.tokens_from_ram.to_string(),
            measured.tokens_from_ssd.to_string(),
            format!("{:.1}x", measured.speedup),
        ]
    };
    let rows = [
        row("computed", &report.computed),
        row("from RAM", &report.from_ram),
        row("from SSD", &report.from_ssd),
    ];
    let heading = ["PROMPT", "FIRST TOKEN", "COMPUTED", "RAM", "SSD", "SPEEDUP"];
    output::table(out, heading, &rows, "")
}
