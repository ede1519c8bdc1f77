//! What the rest of the machine notices: a process that draws frames, as an editor or a browser does,
//! while eight streams are being answered.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Report;
use crate::measure::{self, Target, Workload, median, percentile_99};
use crate::servers::{MlxLm, Server};

const MODEL: &str = "bench-60m";
const STREAMS: u64 = 8;
const ANSWER: Workload = Workload { name: "streams", prompt_tokens: 20, answer_tokens: 400 };
/// A frame every 16 ms, with so much to compute for it.
const PERIOD: Duration = Duration::from_millis(16);
const WORK: Duration = Duration::from_millis(4);
const FRAMES: usize = 500;

pub(crate) fn run(
    report: &mut Report,
    models: &Path,
    omlxd: &Path,
    python: &Path,
) -> io::Result<()> {
    let rounds = rounds_of(WORK);
    let (alone, alone_99) = frames(rounds);
    let ms = |seconds: f64| format!("{:.1} ms", seconds * 1e3);
    let ours = {
        let server =
            Server::start_with(omlxd, Some((models, MODEL)), "[cache]\nenabled = false\n")?;
        beside(&server.target, rounds)?
    };
    let theirs = {
        let server = MlxLm::start(python, &models.join(MODEL))?;
        beside(&server.target, rounds)?
    };
    let name = "a neighbour's frame, alone";
    report.row(name, [&ms(alone), "", "", ""], None)?;
    report.row("  p99", [&ms(alone_99), "", "", ""], None)?;
    let cell = format!("{:.2}x", ours.0 / theirs.0);
    report.row("  beside 8 streams", [&ms(ours.0), &ms(theirs.0), &cell, ""], None)?;
    let ratio = ours.1 / theirs.1;
    let period = PERIOD.as_secs_f64();
    let cells =
        [&*ms(ours.1), &ms(theirs.1), &format!("{ratio:.2}x"), &format!("< {}", ms(period))];
    // The next frame is due then: one that takes longer is missed.
    report.row("  p99", cells, Some(ours.1 < period))
}

/// Frames while streams are answered, again and again.
fn beside(target: &Target, rounds: u64) -> io::Result<(f64, f64)> {
    // Load the model.
    measure::run(target, &Workload { answer_tokens: 1, ..ANSWER }, 1)?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|n| {
                let done = &done;
                scope.spawn(move || -> io::Result<()> {
                    let mut seed = n;
                    while !done.load(Ordering::Relaxed) {
                        seed += STREAMS;
                        measure::run(target, &ANSWER, seed)?;
                    }
                    Ok(())
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(1));
        let seen = frames(rounds);
        done.store(true, Ordering::Relaxed);
        for stream in streams {
            stream.join().expect("a stream")?;
        }
        Ok(seen)
    })
}

/// From when a frame is due to when it is done, in seconds: median and 99th percentile.
fn frames(rounds: u64) -> (f64, f64) {
    let mut due = Instant::now() + PERIOD;
    let mut times: Vec<f64> = (0..FRAMES)
        .map(|_| {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            compute(rounds);
            let late = due.elapsed().as_secs_f64();
            due = (due + PERIOD).max(Instant::now());
            late
        })
        .collect();
    (median(&mut times.clone()), percentile_99(&mut times))
}

/// How many rounds take so long on a machine that does nothing else.
fn rounds_of(time: Duration) -> u64 {
    let mut best = Duration::MAX;
    for _ in 0..20 {
        let begin = Instant::now();
        compute(100_000);
        best = best.min(begin.elapsed());
    }
    (time.as_secs_f64() / best.as_secs_f64() * 100_000.0) as u64
}

fn compute(rounds: u64) {
    let mut value = 1_u64;
    for n in 0..rounds {
        value = std::hint::black_box(value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n));
    }
}
