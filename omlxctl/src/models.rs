//! `omlxctl models`, `pull`, `load`, `unload`, `pin`, `unpin`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use omlxctl::client::ClientError;
use omlxctl::protocol::{
    ErrorDetail, HUB_ENDPOINT_HEADER, HUB_TOKEN_HEADER, KnownModel, ModelChanged, ModelEvent,
    Models, Pinned, PullCancelled, PullEvent, PullList, PullProgress, Pulled, RemovedModel,
};

use crate::cache::encoded;
use crate::cli;
use crate::context::{Context, Done};
use crate::exit::CommandError;
use crate::output::{self, bytes, count, time};

/// Does what `omlxctl models` was told.
pub(crate) async fn run(context: &Context, command: cli::Models) -> Done {
    match command {
        cli::Models::List => list(context).await,
        cli::Models::Show(cli::Model { model }) => show(context, &model).await,
        cli::Models::Rm { model, cache, yes } => remove(context, &model, cache, yes).await,
    }
}

fn path(model: &str, verb: &str) -> String {
    format!("/models/{}{verb}", encoded(model))
}

async fn list(context: &Context) -> Done {
    let models: Models = context.get("/models").await?;
    // An older daemon knows no pulls, and so has none.
    let pulls = context.get::<PullList>("/pulls").await.map_or(Vec::new(), |list| list.pulls);
    context.output.document(&models, |out| {
        let mut rows: Vec<_> = models.models.iter().map(|model| row(model, &models)).collect();
        rows.extend(pulls.iter().map(pull_row));
        let heading = ["MODEL", "STATE", "ARCHITECTURE", "PARAMETERS", "MEMORY", "CONTEXT", "NOTE"];
        let none = "No model was found: get one with `omlxctl pull org/name`.";
        output::table(out, heading, &rows, none)
    })?;
    Ok(())
}

fn row(model: &KnownModel, models: &Models) -> [String; 7] {
    let facts = model.facts.as_ref();
    let fact =
        |of: fn(&omlxctl::protocol::ModelFacts) -> String| facts.map_or_else(|| "-".to_owned(), of);
    let mut notes = Vec::new();
    notes.extend(model.pinned.then(|| "pinned".to_owned()));
    notes.extend((models.default.as_ref() == Some(&model.id)).then(|| "default".to_owned()));
    notes.extend(model.aliases.iter().map(|alias| format!("alias {alias}")));
    notes.extend((model.source == "bundled").then(|| "bundled".to_owned()));
    notes.extend(facts.filter(|facts| !facts.fits).map(|_| "larger than memory.budget".to_owned()));
    notes.extend(model.error.clone().or_else(|| model.problem.clone()));
    [
        model.id.clone(),
        model.state.clone(),
        fact(|facts| facts.architecture.clone()),
        fact(|facts| count(facts.parameters)),
        fact(|facts| bytes(facts.memory_bytes)),
        fact(|facts| facts.context_tokens.to_string()),
        notes.join(", "),
    ]
}

fn pull_row(pull: &PullProgress) -> [String; 7] {
    let dash = || "-".to_owned();
    let note = match pull.total_bytes {
        0 => pull.phase.clone(),
        total => format!("{} of {}", bytes(pull.done_bytes), bytes(total)),
    };
    [pull.id.clone(), "pulling".to_owned(), dash(), dash(), dash(), dash(), note]
}

async fn show(context: &Context, model: &str) -> Done {
    let model: KnownModel = context.get(&path(model, "")).await?;
    context.output.document(&model, |out| {
        let mut facts = vec![
            ("id", model.id.clone()),
            ("folder", model.path.display().to_string()),
            ("source", model.source.clone()),
            ("state", model.state.clone()),
        ];
        facts.extend(model.revision.clone().map(|revision| ("revision", revision)));
        if !model.aliases.is_empty() {
            facts.push(("aliases", model.aliases.join(", ")));
        }
        let used = format!("{} running, {} waiting", model.requests, model.waiting);
        facts.push(("requests", used));
        facts.push(("pinned", if model.pinned { "yes" } else { "no" }.to_owned()));
        if let Some(own) = &model.facts {
            let fits = if own.fits { "" } else { ", more than memory.budget" };
            facts.extend([
                ("architecture", own.architecture.clone()),
                ("parameters", count(own.parameters)),
                ("weights", own.quantization.clone().unwrap_or_else(|| own.dtype.clone())),
                ("context", format!("{} tokens", own.context_tokens)),
                ("on disk", bytes(own.disk_bytes)),
                ("in memory", format!("{}{fits}", bytes(own.memory_bytes))),
            ]);
        }
        facts.extend(model.problem.clone().map(|problem| ("problem", problem)));
        facts.extend(model.error.clone().map(|error| ("last error", error)));
        output::facts(out, &facts)
    })?;
    Ok(())
}

async fn remove(context: &Context, model: &str, cache: bool, yes: bool) -> Done {
    if !yes {
        let known: KnownModel = context.get(&path(model, "")).await?;
        let all = if known.source == "hub" { ", all its revisions" } else { "" };
        if !confirmed(&format!("{} from disk{all} ({})", known.id, known.path.display()))? {
            context.output.warning("nothing was removed");
            return Err(CommandError::Negative);
        }
    }
    let query = if cache { "/remove?cache=1" } else { "/remove" };
    let removed: RemovedModel = context.post(&path(model, query)).await?;
    context.output.document(&removed, |out| {
        writeln!(out, "removed {} ({})", removed.id, bytes(removed.bytes))?;
        match removed.cache_records {
            Some(records) => writeln!(out, "and {records} records of its cache"),
            None => Ok(()),
        }
    })?;
    if cache && removed.cache_records.is_none() {
        context.output.warning(
            "its cache stays: the model was not loaded since omlxd started, so its records cannot be \
             told from others",
        );
    }
    Ok(())
}

fn confirmed(what: &str) -> Result<bool, CommandError> {
    let mut stdin = io::stdin().lock();
    if !stdin.is_terminal() {
        return Err(CommandError::Usage(format!("this removes {what}: confirm it with --yes")));
    }
    write!(io::stderr(), "Remove {what}? [y/N] ")?;
    let mut answer = String::new();
    io::BufRead::read_line(&mut stdin, &mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// `omlxctl load` and `omlxctl unload`.
pub(crate) async fn change(context: &Context, model: &str, verb: &str) -> Done {
    let path = path(model, verb);
    let answer = context.client.post_lines(&path, |event: ModelEvent| match event {
        ModelEvent::Progress(so_far) => {
            let text = match so_far.requests {
                0 => format!("{}, {}", so_far.state, time(so_far.seconds)),
                n => format!("{}, {n} requests on it, {}", so_far.state, time(so_far.seconds)),
            };
            context.output.progress(&text);
            None
        }
        ModelEvent::Done(changed) => Some(Ok(changed)),
        ModelEvent::Error(error) => Some(Err(error)),
    });
    let answer = answer.await;
    context.output.progress("");
    let answer = answer?;
    context.warn_of_other_version(&answer.daemon_version);
    let changed: ModelChanged = answer.value.map_err(refused)?;
    context.output.document(&changed, |out| {
        let ModelChanged { id, state, memory_bytes, seconds } = &changed;
        match state.as_str() {
            "ready" => {
                writeln!(out, "{id} is loaded: {} in {}", bytes(*memory_bytes), time(*seconds))
            }
            _ => writeln!(out, "{id} is unloaded: {} are free again", bytes(*memory_bytes)),
        }
    })?;
    Ok(())
}

/// `omlxctl pin` and `omlxctl unpin`.
pub(crate) async fn pin(context: &Context, model: &str, verb: &str) -> Done {
    let pinned: Pinned = context.post(&path(model, verb)).await?;
    context.output.document(&pinned, |out| {
        let now = if pinned.pinned { "pinned" } else { "not pinned" };
        let already = if pinned.changed { "" } else { " already" };
        writeln!(out, "{} is{already} {now}", pinned.id)
    })?;
    Ok(())
}

/// `omlxctl pull`.
pub(crate) async fn pull(context: &Context, options: cli::Pull) -> Done {
    let (id, revision) = match options.model.split_once('@') {
        Some((id, revision)) => (id, Some(revision)),
        None => (options.model.as_str(), None),
    };
    if id.is_empty() || revision == Some("") {
        let what = format!("{:?} is not a model: it looks like org/name@revision", options.model);
        return Err(CommandError::Usage(what));
    }
    if options.cancel {
        let cancelled: PullCancelled =
            context.post(&format!("/pulls/{}/cancel", encoded(id))).await?;
        return Ok(context.output.document(&cancelled, |out| {
            writeln!(out, "stopping the pull of {}; what was downloaded stays", cancelled.id)
        })?);
    }
    let force = if options.force { "1" } else { "0" };
    let mut path = format!("/pull/{}?force={force}", encoded(id));
    if let Some(revision) = revision {
        path.push_str(&format!("&revision={}", encoded(revision)));
    }
    let (shown, access) = (Shown::new(context), access());
    let work =
        context.client.post_lines_with(&path, &access, |event: PullEvent| shown.event(event));
    let answer = tokio::select! {
        answer = work => answer,
        _ = tokio::signal::ctrl_c() => {
            shown.clear();
            context.output.warning(&format!(
                "{id} is still being pulled by the daemon: `omlxctl pull {id}` shows it again, \
                 `omlxctl pull --cancel {id}` stops it"
            ));
            return Ok(());
        }
    };
    shown.clear();
    let answer = answer?;
    context.warn_of_other_version(&answer.daemon_version);
    let pulled: Pulled = answer.value.map_err(refused)?;
    if !context.output.json {
        let mut out = io::stdout().lock();
        let Pulled { id, revision, bytes: all, downloaded_bytes, seconds, .. } = &pulled;
        writeln!(out, "{id} is here: revision {revision}, {}", bytes(*all))?;
        match downloaded_bytes {
            0 => writeln!(out, "nothing was missing")?,
            new => writeln!(out, "downloaded {} in {}", bytes(*new), time(*seconds))?,
        }
    }
    Ok(())
}

/// What this shell has for the hub: the daemon's own environment may be another.
fn access() -> Vec<(&'static str, String)> {
    let names = [("HF_TOKEN", HUB_TOKEN_HEADER), ("HF_ENDPOINT", HUB_ENDPOINT_HEADER)];
    let value = |name| std::env::var(name).ok().map(|value| value.trim().to_owned());
    let set = names.into_iter().filter_map(|(name, header)| Some((header, value(name)?)));
    set.filter(|(_, value)| !value.is_empty()).collect()
}

fn refused(error: ErrorDetail) -> CommandError {
    ClientError::Refused { code: error.code, message: error.message }.into()
}

/// How a pull is shown: a bar on a terminal, a line now and then elsewhere, every event as JSON.
struct Shown<'a> {
    context: &'a Context,
    bar: ProgressBar,
    told: std::cell::Cell<u64>,
}

impl<'a> Shown<'a> {
    fn new(context: &'a Context) -> Self {
        let output = &context.output;
        let is_bar = io::stderr().is_terminal() && !output.json && !output.quiet;
        let target =
            if is_bar { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
        bar.set_style(
            ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        bar.enable_steady_tick(Duration::from_millis(200));
        Shown { context, bar, told: 0.into() }
    }

    fn event(&self, event: PullEvent) -> Option<Result<Pulled, ErrorDetail>> {
        if self.context.output.json {
            // A reader that is gone is found out by the next write of the command itself.
            let line = serde_json::to_string(&event).unwrap_or_default();
            let _ = writeln!(io::stdout(), "{line}");
        }
        match event {
            PullEvent::Progress(progress) => {
                self.progress(&progress);
                None
            }
            PullEvent::Done(pulled) => Some(Ok(pulled)),
            PullEvent::Error(error) => Some(Err(error)),
        }
    }

    fn progress(&self, progress: &PullProgress) {
        let left = progress.seconds_left.map(time);
        self.bar.set_prefix(format!("{} {}", progress.phase, progress.id));
        self.bar.set_length(progress.total_bytes);
        self.bar.set_position(progress.done_bytes);
        self.bar.set_message(left.clone().map_or_else(String::new, |left| format!("{left} left")));
        let output = &self.context.output;
        // A tenth at a time for whatever keeps the lines.
        let tenth = (progress.done_bytes * 10).checked_div(progress.total_bytes).unwrap_or(0);
        if self.bar.is_hidden() && !output.json && !output.quiet && tenth > self.told.replace(tenth)
        {
            let left = left.map_or_else(String::new, |left| format!(", {left} left"));
            let (done, all) = (bytes(progress.done_bytes), bytes(progress.total_bytes));
            let _ = writeln!(io::stderr(), "{}: {done} of {all}{left}", progress.id);
        }
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
