//! The cache: what a restart costs, and what saving costs.

use std::io;
use std::path::Path;

use crate::Report;
use crate::measure::{self, Target, Workload, median, percentile_99};
use crate::servers::{MlxLm, Server};

const MODEL: &str = "bench-60m";
/// A prompt of 6,000 words: in the benchmark tokenizer each is two tokens.
const RESTART: Workload = Workload { name: "restart", prompt_tokens: 12_000, answer_tokens: 2 };
/// Loads the model, and nothing else.
const WARM_UP: Workload = Workload { name: "warm-up", prompt_tokens: 4, answer_tokens: 2 };
/// The prompt's blocks are written while the answer is generated.
const SAVING: Workload = Workload { name: "saving", prompt_tokens: 2000, answer_tokens: 300 };
const SAVING_RUNS: u64 = 6;
/// Computing the prompt takes minutes on Linux, which evens out what disturbs it.
const RESTART_RUNS: u64 = 1;

const TRACE_MODEL: &str = "bench-2m";
const SYSTEM_TOKENS: usize = 4000;
const SESSIONS: usize = 3;
const TURNS: u64 = 30;
/// The prompt is the conversation.
const TURN: Workload = Workload { name: "turn", prompt_tokens: 0, answer_tokens: 24 };
/// Reused tokens over those that a cache without limits would reuse.
const REUSE_GOAL: f64 = 0.97;

/// First token after a restart, against computing the prompt again.
const RESTART_GOAL: f64 = 25.0;
/// Tokens of the prompt that come from SSD.
const SSD_SHARE_GOAL: f64 = 0.95;
/// Median token gap while blocks are saved, against that without a cache.
const MEDIAN_GAP_GOAL: f64 = 1.02;
/// 99th percentile of the token gap: seconds longer than without a cache.
const P99_GAP_GOAL_SECONDS: f64 = 0.005;

const OFF: &str = "[cache]\nenabled = false\n";
const ON: &str = "[cache]\nssd_min_free = \"0MiB\"\n";

pub(crate) fn run(
    report: &mut Report,
    models: &Path,
    omlxd: &Path,
    python: &Path,
) -> io::Result<()> {
    trace(report, models, omlxd, python)?;
    restart(report, models, omlxd)?;
    saving(report, models, omlxd)
}

/// Three agents turn by turn, each server on its own: a common system prompt, then a tool's result and
/// an answer each turn. What a cache without limits would reuse is the prompt and the answer of the
/// turn before.
fn trace(report: &mut Report, models: &Path, omlxd: &Path, python: &Path) -> io::Result<()> {
    let ours = Server::start_with(omlxd, Some((models, TRACE_MODEL)), ON)?;
    let (share, seconds) = agents(&ours.target)?;
    drop(ours);
    let theirs = MlxLm::start(python, &models.join(TRACE_MODEL))?;
    let (their_share, their_seconds) = agents(&theirs.target)?;
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let cells = [&*percent(share), &percent(their_share), "", ">= 97 %"];
    report.row("three agents, reused", cells, Some(share >= REUSE_GOAL))?;
    let cells = [
        &*format!("{seconds:.1} s"),
        &format!("{their_seconds:.1} s"),
        &format!("{:.2}x", their_seconds / seconds),
        "",
    ];
    report.row("  first tokens, all turns", cells, None)
}

/// The share of what could be reused that was, and the sum of the times to the first token.
fn agents(target: &Target) -> io::Result<(f64, f64)> {
    let system = measure::words(SYSTEM_TOKENS, 1);
    let mut conversations = [const { String::new() }; SESSIONS];
    conversations.fill(system);
    // Tokens known of each conversation; at first, those of the system prompt once it was seen.
    let mut known = [0_u64; SESSIONS];
    let (mut reused, mut reusable, mut seconds) = (0, 0, 0.0);
    for turn in 0..TURNS {
        for (session, conversation) in conversations.iter_mut().enumerate() {
            let seed = 1000 * (session as u64 + 1) + turn;
            conversation.push_str(&measure::words(160 + (seed * 7919 % 120) as usize * 2, seed));
            let done = measure::complete(target, &TURN, conversation)?;
            reused += done.cached_tokens.min(known[session]);
            reusable += known[session];
            seconds += done.sample.first_token_seconds;
            conversation.push_str(&done.answer);
            // The last token of an answer was never computed.
            known[session] = done.sample.prompt_tokens + done.sample.answer_tokens - 1;
            for other in &mut known {
                *other = (*other).max(SYSTEM_TOKENS as u64);
            }
        }
    }
    Ok((reused as f64 / reusable as f64, seconds))
}

/// The same prompt before and after a restart.
fn restart(report: &mut Report, models: &Path, omlxd: &Path) -> io::Result<()> {
    let (mut speedups, mut cold_times, mut warm_times, mut restores) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut share: f64 = 1.0;
    for seed in 1..=RESTART_RUNS {
        let mut server = Server::start_with(omlxd, Some((models, MODEL)), ON)?;
        measure::run(&server.target, &WARM_UP, 7)?;
        let cold = measure::run(&server.target, &RESTART, seed)?;
        server.restart(omlxd, models)?;
        measure::run(&server.target, &WARM_UP, 8)?;
        let warm = measure::run(&server.target, &RESTART, seed)?;
        share = share.min(warm.ssd_tokens as f64 / warm.prompt_tokens as f64);
        speedups.push(cold.first_token_seconds / warm.first_token_seconds);
        cold_times.push(cold.first_token_seconds);
        warm_times.push(warm.first_token_seconds);
        restores.push(warm.restore_seconds);
    }
    let (cold, warm, speedup) =
        (median(&mut cold_times), median(&mut warm_times), median(&mut speedups));
    let cells = [
        &*format!("{:.0} ms", warm * 1e3),
        &format!("{:.0} ms", cold * 1e3),
        &format!("1/{speedup:.0}"),
        "<= 1/25",
    ];
    let name = format!("{MODEL}: restored after restart");
    report.row(&name, cells, Some(speedup >= RESTART_GOAL))?;
    let restore = median(&mut restores);
    let cells = [&*format!("{:.0} ms", restore * 1e3), "", "", ""];
    report.row("  of it reading and placing blocks", cells, None)?;
    let cell = format!("{:.1} %", share * 100.0);
    report.row(
        "  prompt tokens from SSD",
        [&cell, "", "", ">= 95 %"],
        Some(share >= SSD_SHARE_GOAL),
    )
}

/// Token gaps with the cache on, while the prompt's blocks are written, and with it off.
fn saving(report: &mut Report, models: &Path, omlxd: &Path) -> io::Result<()> {
    let on = Server::start_with(omlxd, Some((models, MODEL)), ON)?;
    let off = Server::start_with(omlxd, Some((models, MODEL)), OFF)?;
    let (mut gaps_on, mut gaps_off, mut medians) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=SAVING_RUNS {
        let mut pair = [None, None];
        for which in if run % 2 == 0 { [0, 1] } else { [1, 0] } {
            let server = if which == 0 { &on } else { &off };
            pair[which] = Some(measure::gaps(&server.target, &SAVING, 1000 + run)?);
        }
        let [Some(with), Some(without)] = pair else { unreachable!("both were run") };
        // The first pair warms both up.
        if run > 0 {
            medians.push(median(&mut with.clone()) / median(&mut without.clone()));
            gaps_on.extend(with);
            gaps_off.extend(without);
        }
    }
    let ratio = median(&mut medians);
    let cells = [
        &*format!("{:.2} ms", median(&mut gaps_on) * 1e3),
        &format!("{:.2} ms", median(&mut gaps_off) * 1e3),
        &format!("{ratio:.3}x"),
        "<= 1.02x",
    ];
    report.row(
        &format!("{MODEL}: gap while saving, off"),
        cells,
        Some(ratio <= MEDIAN_GAP_GOAL),
    )?;
    let (with, without) = (percentile_99(&mut gaps_on), percentile_99(&mut gaps_off));
    let cells = [
        &*format!("{:.2} ms", with * 1e3),
        &format!("{:.2} ms", without * 1e3),
        &format!("{:+.1} ms", (with - without) * 1e3),
        "<= +5 ms",
    ];
    report.row("  its 99th percentile", cells, Some(with - without <= P99_GAP_GOAL_SECONDS))
}
