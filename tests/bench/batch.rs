//! Several requests at once: what they get together, and what a long prompt costs the others.

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::measure::{self, Sample, Target, Workload, median, percentile_99};
use crate::servers::{MlxLm, Server};

/// One answer of each stream.
const STREAM: Workload = Workload { name: "streams", prompt_tokens: 20, answer_tokens: 128 };
const STREAM_RUNS: u64 = 5;
/// Total tokens per second of eight streams, against mlx-lm's.
const STREAM_GOALS: [(&str, f64); 2] = [("bench-2m", 2.0), ("bench-60m", 1.5)];
/// More streams must not be slower together than fewer; measuring takes its share.
const SCALING_GOAL: f64 = 0.97;

const CONFIG: &str = "[scheduler]\nmax_batch = 32\n[cache]\nenabled = false\n";

/// What goes on while the long prompt comes.
const RUNNING: Workload = Workload { name: "running", prompt_tokens: 20, answer_tokens: 6000 };
const ALONE: Workload = Workload { name: "alone", prompt_tokens: 20, answer_tokens: 600 };
const LONG: Workload = Workload { name: "long prompt", prompt_tokens: 12_000, answer_tokens: 2 };
const SHORT: Workload = Workload { name: "short prompt", prompt_tokens: 100, answer_tokens: 2 };
/// 99th percentile of a running stream's gaps beside a long prompt, over its median alone. Behind 12,000
/// tokens of the small model a single token reads six times its weights, and a step with one takes three
/// times as long as one without on memory alone: there nothing is asked.
const STALL_GOALS: [(&str, Option<f64>); 2] = [("bench-wide", Some(3.0)), ("bench-2m", None)];

/// `part`: the streams of one model, or `stalls`; else all.
pub(crate) fn run(
    report: &mut Report,
    models: &Path,
    omlxd: &Path,
    python: &Path,
    part: Option<&str>,
) -> io::Result<()> {
    let wanted = |name: &str| part.is_none_or(|part| part == name);
    for (model, goal) in STREAM_GOALS.into_iter().filter(|(model, _)| wanted(model)) {
        let ours = Server::start_with(omlxd, Some((models, model)), CONFIG)?;
        let theirs = MlxLm::start(python, &models.join(model))?;
        streams(report, model, goal, &ours.target, &theirs.target)?;
    }
    if !wanted("stalls") {
        return Ok(());
    }
    for (model, goal) in STALL_GOALS {
        let ours = Server::start_with(omlxd, Some((models, model)), CONFIG)?;
        let theirs = MlxLm::start(python, &models.join(model))?;
        stalls(report, model, goal, &ours.target, &theirs.target)?;
    }
    Ok(())
}

/// Tokens per second of so many streams together.
fn together(target: &Target, streams: u64, seed: u64) -> io::Result<f64> {
    let started = Instant::now();
    let samples: Vec<io::Result<Sample>> = thread::scope(|scope| {
        let streams: Vec<_> = (0..streams)
            .map(|n| scope.spawn(move || measure::run(target, &STREAM, seed + n)))
            .collect();
        streams.into_iter().map(|stream| stream.join().expect("a stream")).collect()
    });
    let mut tokens = 0;
    for sample in samples {
        tokens += sample?.answer_tokens;
    }
    Ok(tokens as f64 / started.elapsed().as_secs_f64())
}

fn streams(
    report: &mut Report,
    model: &str,
    goal: f64,
    ours: &Target,
    theirs: &Target,
) -> io::Result<()> {
    let mut seed = 1;
    let mut rate = |target: &Target, streams: u64| {
        seed += 100;
        together(target, streams, seed)
    };
    // Warm both up.
    rate(ours, 8)?;
    rate(theirs, 8)?;
    let (mut one, mut their_one, mut eight, mut their_eight, mut ratios) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STREAM_RUNS {
        let (a, b) = (rate(ours, 8)?, rate(theirs, 8)?);
        ratios.push(a / b);
        eight.push(a);
        their_eight.push(b);
        one.push(rate(ours, 1)?);
        their_one.push(rate(theirs, 1)?);
    }
    let speed = |rate: f64| format!("{rate:.0} t/s");
    let (one, their_one) = (median(&mut one), median(&mut their_one));
    let name = format!("{model}: one stream");
    let cells = [&*speed(one), &speed(their_one), &format!("{:.2}x", one / their_one), ""];
    report.row(&name, cells, None)?;
    let ratio = median(&mut ratios);
    let cells = [
        &*speed(median(&mut eight)),
        &speed(median(&mut their_eight)),
        &format!("{ratio:.2}x"),
        &format!(">= {goal:.1}x"),
    ];
    report.row("  8 streams", cells, Some(ratio >= goal))?;
    for streams in [16, 32] {
        // By turns with half as many: what else the machine does comes and goes.
        let (mut more, mut ratios) = (Vec::new(), Vec::new());
        for _ in 0..STREAM_RUNS {
            let (half, whole) = (rate(ours, streams / 2)?, rate(ours, streams)?);
            ratios.push(whole / half);
            more.push(whole);
        }
        let ratio = median(&mut ratios);
        let cells = [&*speed(median(&mut more)), "", &format!("{ratio:.2}x"), ">= half as many"];
        report.row(&format!("  {streams} streams"), cells, Some(ratio >= SCALING_GOAL))?;
    }
    Ok(())
}

/// What a long prompt does to a running stream and to a short request.
struct Stall {
    /// Gaps of a stream alone: median.
    alone: f64,
    /// Gaps beside the long prompt: 99th percentile.
    beside: f64,
    /// First token of a short request beside the running stream, and beside the long prompt too:
    /// medians.
    short: f64,
    short_beside: f64,
    /// First token of the long prompt.
    long: f64,
}

fn stall(target: &Target, seed: u64) -> io::Result<Stall> {
    let mut gaps = measure::gaps(target, &ALONE, seed)?;
    let alone = median(&mut gaps);
    let prompts = [&RUNNING, &LONG].map(|workload| {
        measure::words(workload.prompt_tokens, seed + workload.prompt_tokens as u64)
    });
    thread::scope(|scope| {
        let [running, long] = &prompts;
        let stream = scope.spawn(|| measure::complete(target, &RUNNING, running));
        thread::sleep(Duration::from_millis(500));
        let mut short = Vec::new();
        for n in 0..5 {
            short.push(measure::run(target, &SHORT, seed + 10 + n)?.first_token_seconds);
        }
        let began = Instant::now();
        let long = scope.spawn(|| measure::complete(target, &LONG, long));
        thread::sleep(Duration::from_millis(300));
        let mut beside = Vec::new();
        let mut n = 20;
        while !long.is_finished() && n < 30 {
            n += 1;
            beside.push(measure::run(target, &SHORT, seed + n)?.first_token_seconds);
        }
        let long = long.join().expect("the long prompt")?.sample.first_token_seconds;
        let ended = began + Duration::from_secs_f64(long);
        let stream = stream.join().expect("the stream")?;
        let inside = stream.times.windows(2).filter(|pair| pair[0] >= began && pair[0] < ended);
        let mut inside: Vec<f64> = inside.map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
        if inside.is_empty() || beside.is_empty() {
            return Err(io::Error::other("the stream was over before the long prompt"));
        }
        Ok(Stall {
            alone,
            beside: percentile_99(&mut inside),
            short: median(&mut short),
            short_beside: median(&mut beside),
            long,
        })
    })
}

fn stalls(
    report: &mut Report,
    model: &str,
    goal: Option<f64>,
    ours: &Target,
    theirs: &Target,
) -> io::Result<()> {
    let a = stall(ours, 1)?;
    let b = stall(theirs, 2)?;
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let times = |stall: &Stall| stall.beside / stall.alone;
    let name = format!("{model}: gap of a stream alone");
    report.row(&name, [&ms(a.alone), &ms(b.alone), "", ""], None)?;
    let cells = [
        &*format!("{:.1}x", times(&a)),
        &format!("{:.1}x", times(&b)),
        "",
        &goal.map_or(String::new(), |goal| format!("< {goal:.0}x")),
    ];
    let met = goal.map(|goal| times(&a) < goal);
    report.row("  p99 beside a prompt of 12,000", cells, met)?;
    let cells = [&*ms(a.short), &ms(b.short), "", ""];
    report.row("  first token of 100 before it", cells, None)?;
    let limit = 2.0 * a.beside + a.short;
    let shown = goal.map_or(String::new(), |_| format!("< {}", ms(limit)));
    let cells = [&*ms(a.short_beside), &ms(b.short_beside), "", &shown];
    let met = goal.map(|_| a.short_beside < limit);
    report.row("  first token of 100 beside it", cells, met)?;
    report.row("  first token of 12,000", [&ms(a.long), &ms(b.long), "", ""], None)
}
