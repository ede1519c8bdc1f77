//! `make bench`: omlxd beside mlx-lm's server on this machine, the same models, requests and client.
//!
//! Prints a table and exits with 1 when a goal is missed. See docs/testing.md.

mod batch;
mod measure;
mod neighbour;
mod reuse;
mod servers;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use measure::{Sample, Workload, median, ratio_of_pairs};
use servers::{MlxLm, Server};

/// One of the two benchmark models (see make_models.py), and what is asked of omlxd on it.
struct Model {
    name: &'static str,
    /// Bytes of the weights, which are float32.
    weight_bytes: u64,
    /// Bytes of one token's keys and values: layers x 2 x hidden x 4.
    kv_bytes_per_token: u64,
    /// Decode speed against mlx-lm's.
    decode_goal: f64,
    runs: usize,
}

const MODELS: [Model; 2] = [
    Model {
        name: "bench-2m",
        weight_bytes: 7_912_000,
        kv_bytes_per_token: 3 * 2 * 160 * 4,
        decode_goal: 2.0,
        runs: 7,
    },
    Model {
        name: "bench-60m",
        weight_bytes: 238_089_000,
        kv_bytes_per_token: 12 * 2 * 512 * 4,
        decode_goal: 1.05,
        runs: 3,
    },
];

/// Computing is compared, not remembering.
const NO_CACHE: &str = "[cache]\nenabled = false\n";

/// What is sent: prompt and answer lengths in tokens.
const WORKLOADS: [Workload; 3] = [
    Workload { name: "decode", prompt_tokens: 20, answer_tokens: 256 },
    Workload { name: "ttft 100", prompt_tokens: 100, answer_tokens: 2 },
    Workload { name: "ttft 3000", prompt_tokens: 3000, answer_tokens: 2 },
];

/// Host time per token while MLX evaluates nothing, median.
const HOST_GOAL_SECONDS: f64 = 100e-6;
/// Peak memory beyond weights and KV.
const MEMORY_GOAL_BYTES: u64 = 150_000_000;
/// The daemon before any model is loaded.
const READY_GOAL_SECONDS: f64 = 0.150;
const IDLE_MEMORY_GOAL_BYTES: u64 = 40_000_000;

/// The table, and whether every goal was met.
pub(crate) struct Report {
    out: io::Stdout,
    met: bool,
}

impl Report {
    fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// One row; `pass` is `None` where nothing is asked.
    pub(crate) fn row(
        &mut self,
        name: &str,
        cells: [&str; 4],
        pass: Option<bool>,
    ) -> io::Result<()> {
        let verdict = match pass {
            Some(true) => "PASS",
            Some(false) => "FAIL",
            None => "",
        };
        self.met &= pass.unwrap_or(true);
        let [ours, theirs, ratio, goal] = cells;
        self.line(&format!("{name:<34} {ours:>12} {theirs:>12} {ratio:>8} {goal:>12}  {verdict}"))
    }
}

fn main() -> ExitCode {
    let mut report = Report { out: io::stdout(), met: true };
    match run(&mut report) {
        Ok(()) if report.met => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            // Standard error may be closed too; the exit code still tells.
            let _ = writeln!(io::stderr(), "bench: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(report: &mut Report) -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
    let python = root.join(".venv/oracle/bin/python");
    let omlxd =
        std::env::var_os("OMLXD").map_or_else(|| root.join("target/release/omlxd"), PathBuf::from);
    for (file, hint) in
        [(&python, "run tests/oracle/setup.sh"), (&omlxd, "run cargo build --release -p omlxd")]
    {
        if !file.exists() {
            let hint = format!("{} is missing: {hint}", file.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, hint));
        }
    }
    let models = root.join("target/bench-models");
    let made =
        Command::new(&python).arg(root.join("tests/bench/make_models.py")).arg(&models).status()?;
    if !made.success() {
        return Err(io::Error::other("tests/bench/make_models.py failed"));
    }
    report.row("", ["omlxd", "mlx-lm", "ratio", "goal"], None)?;
    idle(report, &omlxd)?;
    let only = std::env::args().nth(1);
    for model in &MODELS {
        if only.as_deref().is_none_or(|only| only == model.name) {
            side_by_side(report, model, &models, &omlxd, &python)?;
        }
    }
    if only.as_deref().is_none_or(|only| only == "batch") {
        report.row("", ["omlxd", "mlx-lm", "ratio", "goal"], None)?;
        batch::run(report, &models, &omlxd, &python, std::env::args().nth(2).as_deref())?;
    }
    if only.as_deref().is_none_or(|only| only == "neighbour") {
        report.row("", ["omlxd", "mlx-lm", "ratio", "goal"], None)?;
        neighbour::run(report, &models, &omlxd, &python)?;
    }
    if only.as_deref().is_none_or(|only| only == "cache") {
        report.row("", ["omlxd", "other", "ratio", "goal"], None)?;
        reuse::run(report, &models, &omlxd, &python)?;
    }
    Ok(())
}

/// The daemon with no model loaded.
fn idle(report: &mut Report, omlxd: &Path) -> io::Result<()> {
    let (mut ready, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let server = Server::start(omlxd, None)?;
        ready.push(server.ready_seconds);
        resident.push(servers::resident_bytes(server.pid())? as f64);
    }
    let (ready, resident) = (median(&mut ready), median(&mut resident));
    let cell = format!("{:.0} ms", ready * 1e3);
    report.row("no model: ready", [&cell, "", "", "< 150 ms"], Some(ready < READY_GOAL_SECONDS))?;
    let cell = megabytes(resident as u64);
    let met = resident < IDLE_MEMORY_GOAL_BYTES as f64;
    report.row("no model: resident", [&cell, "", "", "< 40 MB"], Some(met))
}

/// Both servers on one model: runs alternate, and who goes first alternates too.
fn side_by_side(
    report: &mut Report,
    model: &Model,
    models: &Path,
    omlxd: &Path,
    python: &Path,
) -> io::Result<()> {
    // Memory that the cache may keep is the user's to set, and no part of what a model needs.
    let ours = Server::start_with(omlxd, Some((models, model.name)), NO_CACHE)?;
    let theirs = MlxLm::start(python, &models.join(model.name))?;
    let mut longest = 0;
    for workload in &WORKLOADS {
        let mut pairs = Vec::new();
        // The first pair warms both up.
        for run in 0..=model.runs {
            let seed = (run as u64) << 8;
            let (a, b);
            if run % 2 == 0 {
                a = measure::run(&ours.target, workload, seed)?;
                b = measure::run(&theirs.target, workload, seed + 1)?;
            } else {
                b = measure::run(&theirs.target, workload, seed + 1)?;
                a = measure::run(&ours.target, workload, seed)?;
            }
            longest = longest.max(a.prompt_tokens + a.answer_tokens);
            if run > 0 {
                pairs.push((a, b));
            }
        }
        workload_rows(report, model, workload, &pairs)?;
    }
    // What a token costs the host beyond MLX's evaluation, and the whole of the host's work, most of
    // which goes on while MLX computes the token before.
    let outside = ours.decode_median("omlx_scheduler_overhead_seconds")?;
    let cell = format!("{:.0} us", outside * 1e6);
    let name = format!("{}: host outside evaluation", model.name);
    report.row(&name, [&cell, "", "", "< 100 us"], Some(outside < HOST_GOAL_SECONDS))?;
    let host = ours.decode_median("omlx_engine_step_host_seconds")?;
    let cell = format!("{:.0} us", host * 1e6);
    report.row(&format!("{}: host in all", model.name), [&cell, "", "", ""], None)?;

    let (peak, peer) = (servers::peak_bytes(ours.pid())?, servers::peak_bytes(theirs.pid())?);
    let allowed = model.weight_bytes + model.kv_bytes_per_token * longest + MEMORY_GOAL_BYTES;
    let cells = [&*megabytes(peak), &megabytes(peer), "", &format!("< {}", megabytes(allowed))];
    report.row(&format!("{}: peak memory", model.name), cells, Some(peak < allowed))
}

fn workload_rows(
    report: &mut Report,
    model: &Model,
    workload: &Workload,
    pairs: &[(Sample, Sample)],
) -> io::Result<()> {
    let tokens = pairs[0].0.prompt_tokens;
    if workload.name == "decode" {
        let rate = |sample: &Sample| sample.decode_tokens_per_second;
        let (ours, theirs, ratio) = ratio_of_pairs(pairs, rate, |ours, theirs| ours / theirs);
        let cells = [
            &*format!("{ours:.1} t/s"),
            &format!("{theirs:.1} t/s"),
            &format!("{ratio:.2}x"),
            &format!(">= {:.2}x", model.decode_goal),
        ];
        let name = format!("{}: decode, one stream", model.name);
        return report.row(&name, cells, Some(ratio >= model.decode_goal));
    }
    let first = |sample: &Sample| sample.first_token_seconds;
    let (ours, theirs, ratio) = ratio_of_pairs(pairs, first, |ours, theirs| theirs / ours);
    let cells = [
        &*format!("{:.1} ms", ours * 1e3),
        &format!("{:.1} ms", theirs * 1e3),
        &format!("{ratio:.2}x"),
        ">= 1.00x",
    ];
    let name = format!("{}: first token of {tokens}", model.name);
    report.row(&name, cells, Some(ratio >= 1.0))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
