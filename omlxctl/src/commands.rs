//! Every command but `chat`: ask, then print.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use serde::Serialize;

use omlxctl::client::Client;
use omlxctl::protocol::{
    ADMIN_API, ApiKey, ApiKeys, Cancelled, ConfigCheck, KeyAdded, KeyRevoked, Loaded, Requests,
    Settings, ShuttingDown, State, Status, Version,
};

use crate::cli::{self, Cli, Command};
use crate::context::{Context, Done, check_request_id};
use crate::exit::CommandError;
use crate::output::{self, Output};
use crate::{bench, cache, chat, doctor, logs, models, service, top};

/// Does what the command line says.
pub(crate) async fn run(cli: Cli, output: Output) -> Done {
    let timeout = cli.global.timeout;
    match &cli.command {
        Command::Completions { shell } => return completions(*shell, output),
        Command::Man => return man(output),
        _ => {}
    }
    if let Command::Service(command) = cli.command {
        let named = cli.global.base_dir.as_deref();
        return service::run(&service::Site::here(), command, named, output).await;
    }
    let base = base_dir(&cli.global);
    let client = Client::new(socket(&cli.global, base.as_deref())?, timeout);
    let context = Context { client, output, warned: false.into() };
    match cli.command {
        Command::Status => status(&context).await,
        Command::Ps => ps(&context).await,
        Command::Models(command) => models::run(&context, command).await,
        Command::Pull(options) => models::pull(&context, options).await,
        Command::Load(cli::Model { model }) => models::change(&context, &model, "/load").await,
        Command::Unload(cli::Model { model }) => models::change(&context, &model, "/unload").await,
        Command::Pin(cli::Model { model }) => models::pin(&context, &model, "/pin").await,
        Command::Unpin(cli::Model { model }) => models::pin(&context, &model, "/unpin").await,
        Command::Logs(options) => logs::run(&needed(base)?, options, output).await,
        Command::Doctor(options) => doctor::run(&context, &needed(base)?, options).await,
        Command::Bench(options) => bench::run(&context, options).await,
        Command::Top(options) => top::run(&context, options).await,
        Command::Chat(options) => chat::run(&context, options, timeout).await,
        Command::Requests => requests(&context).await,
        Command::Cancel { id } => cancel(&context, &id).await,
        Command::Cache(command) => cache::run(&context, command).await,
        Command::Key(cli::Key::Show) => key(&context.get("/key").await?, output),
        Command::Key(cli::Key::Rotate) => key(&context.post("/key/rotate").await?, output),
        Command::Key(cli::Key::List) => key_list(&context).await,
        Command::Key(cli::Key::Add { name }) => key_add(&context, &name).await,
        Command::Key(cli::Key::Revoke { name }) => key_revoke(&context, &name).await,
        Command::Config(cli::Config::Show) => config_show(&context).await,
        Command::Config(cli::Config::Check) => config_check(&context).await,
        Command::Shutdown => shutdown(&context).await,
        Command::Version => version(&context).await,
        Command::Completions { .. } | Command::Man | Command::Service(_) => Ok(()),
    }
}

fn base_dir(global: &cli::Global) -> Option<PathBuf> {
    global.base_dir.clone().or_else(|| Some(std::env::home_dir()?.join(".omlx")))
}

fn needed(base: Option<PathBuf>) -> Result<PathBuf, CommandError> {
    base.ok_or_else(|| {
        CommandError::Usage("there is no home directory: name the daemon's with --base-dir".into())
    })
}

/// `--socket`, else the socket of the base directory.
fn socket(global: &cli::Global, base: Option<&Path>) -> Result<PathBuf, CommandError> {
    match &global.socket {
        Some(socket) => Ok(socket.clone()),
        None => needed(base.map(|base| base.join("run/omlxd.sock"))),
    }
}

async fn status(context: &Context) -> Done {
    let status: Status = context.get("/status").await?;
    context.output.document(&status, |out| {
        let state = match status.state {
            State::Ready => "ready",
            State::Stopping => "stopping",
        };
        let loaded = match status.loaded_models.as_slice() {
            [] => "none".to_owned(),
            models => models.join(", "),
        };
        let memory = status.memory;
        writeln!(out, "omlxd {}: {state}", status.version)?;
        writeln!(out, "process   {}, up {}", status.pid, output::time(status.uptime_seconds))?;
        writeln!(out, "http      http://{}", status.http)?;
        writeln!(out, "base dir  {}", status.base_dir.display())?;
        writeln!(out, "models    {} known; loaded: {loaded}", status.known_models)?;
        if let Some(budget) = &status.budget {
            let (used, all) = (budget.used_bytes, budget.budget_bytes);
            writeln!(out, "budget    {} of {} used", output::bytes(used), output::bytes(all))?;
        }
        if status.pulls > 0 {
            writeln!(out, "pulls     {} (`omlxctl models list` shows them)", status.pulls)?;
        }
        writeln!(
            out,
            "requests  {} running, {} waiting",
            status.requests_running, status.requests_waiting
        )?;
        writeln!(
            out,
            "memory    {} in use, {} cached, {} at most",
            output::bytes(memory.active_bytes),
            output::bytes(memory.cache_bytes),
            output::bytes(memory.peak_bytes)
        )?;
        if status.held_awake {
            writeln!(out, "awake     this machine is kept from falling asleep meanwhile")?;
        }
        if let Some(cache) = &status.cache {
            writeln!(out, "cache     {}", cache::summary(cache))?;
        }
        match &status.last_crash {
            Some(crash) => writeln!(out, "crashed   the run before this one: {}", crash.summary()),
            None => Ok(()),
        }
    })?;
    Ok(())
}

async fn ps(context: &Context) -> Done {
    let loaded: Loaded = context.get("/ps").await?;
    context.output.document(&loaded, |out| {
        let rows: Vec<_> = loaded
            .models
            .iter()
            .map(|model| {
                let weights = model.quantization.as_ref().unwrap_or(&model.dtype).clone();
                let pinned = if model.pinned { ", pinned" } else { "" };
                [
                    model.id.clone(),
                    format!("{}{pinned}", model.state),
                    model.architecture.clone(),
                    output::count(model.parameters),
                    output::bytes(model.weight_bytes),
                    weights,
                    model.context_tokens.to_string(),
                    model.requests.to_string(),
                    output::time(model.idle_seconds),
                ]
            })
            .collect();
        let heading = [
            "MODEL",
            "STATE",
            "ARCHITECTURE",
            "PARAMETERS",
            "SIZE",
            "WEIGHTS",
            "CONTEXT",
            "REQUESTS",
            "IDLE",
        ];
        output::table(out, heading, &rows, "No model is loaded; the first request loads one.")
    })?;
    Ok(())
}

async fn requests(context: &Context) -> Done {
    let requests: Requests = context.get("/requests").await?;
    context.output.document(&requests, |out| {
        let rows: Vec<_> = requests
            .requests
            .iter()
            .map(|request| {
                [
                    request.id.clone(),
                    // Its body is being parsed.
                    if request.model.is_empty() { "-".into() } else { request.model.clone() },
                    request.endpoint.clone(),
                    request.phase.clone(),
                    request.prompt_tokens.to_string(),
                    request.completion_tokens.to_string(),
                    output::time(request.age_seconds),
                ]
            })
            .collect();
        let heading = ["ID", "MODEL", "ENDPOINT", "PHASE", "PROMPT", "GENERATED", "AGE"];
        output::table(out, heading, &rows, "No request is in flight.")
    })?;
    Ok(())
}

async fn cancel(context: &Context, id: &str) -> Done {
    check_request_id(id)?;
    let cancelled: Cancelled = context.post(&format!("/requests/{id}/cancel")).await?;
    context.output.document(&cancelled, |out| writeln!(out, "cancelled {}", cancelled.id))?;
    Ok(())
}

fn key(key: &ApiKey, output: Output) -> Done {
    let Some(text) = &key.key else {
        output.document(key, |_| Ok(()))?;
        output.warning("auth.enabled is false: the API asks for no key");
        return Err(CommandError::Negative);
    };
    output.document(key, |out| writeln!(out, "{text}"))?;
    Ok(())
}

async fn key_list(context: &Context) -> Done {
    let keys: ApiKeys = context.get("/keys").await?;
    context.output.document(&keys, |out| {
        let rows = keys.keys.iter().map(|key| {
            let name = if key.name.is_empty() { "-" } else { key.name.as_str() };
            let note = if key.own { "what `omlxctl key show` prints" } else { "" };
            [name.to_owned(), format!("...{}", key.tail), note.to_owned()]
        });
        let rows: Vec<_> = rows.collect();
        let none = "auth.enabled is false: the API asks for no key.";
        output::table(out, ["NAME", "ENDS IN", "NOTE"], &rows, none)
    })?;
    Ok(())
}

async fn key_add(context: &Context, name: &str) -> Done {
    let path = format!("/keys/{}/add", key_name(name)?);
    let added: KeyAdded = context.post(&path).await?;
    context.output.document(&added, |out| writeln!(out, "{}", added.key))?;
    Ok(())
}

async fn key_revoke(context: &Context, name: &str) -> Done {
    let path = format!("/keys/{}/revoke", key_name(name)?);
    let revoked: KeyRevoked = context.post(&path).await?;
    context.output.document(&revoked, |out| {
        let KeyRevoked { name, tail } = &revoked;
        let name = if name.is_empty() { "" } else { &format!(" {name}") };
        writeln!(out, "the key{name} ending in {tail} works no longer")
    })?;
    Ok(())
}

/// A key's name as one part of a path.
fn key_name(name: &str) -> Result<String, CommandError> {
    if name.is_empty() {
        return Err(CommandError::Usage("a key's name is not empty".to_owned()));
    }
    Ok(cache::encoded(name))
}

async fn config_show(context: &Context) -> Done {
    let settings: Settings = context.get("/config").await?;
    context.output.document(&settings, |out| {
        let rows: Vec<_> = settings
            .settings
            .iter()
            .map(|setting| [setting.key.clone(), setting.value.clone(), setting.origin.clone()])
            .collect();
        output::table(out, ["KEY", "VALUE", "FROM"], &rows, "No settings.")
    })?;
    Ok(())
}

async fn config_check(context: &Context) -> Done {
    let check: ConfigCheck = context.get("/config/check").await?;
    context.output.document(&check, |out| {
        check.problems.iter().try_for_each(|problem| writeln!(out, "{problem}"))?;
        if check.problems.is_empty() {
            writeln!(out, "{}: no problems", check.file.display())?;
        }
        check.changed.iter().try_for_each(|changed| {
            let how = if changed.needs_restart { "a restart" } else { "SIGHUP" };
            writeln!(out, "{} was changed: {how} applies it", changed.key)
        })
    })?;
    if check.problems.is_empty() { Ok(()) } else { Err(CommandError::Negative) }
}

async fn shutdown(context: &Context) -> Done {
    let stopping: ShuttingDown = context.post("/shutdown").await?;
    context.output.document(&stopping, |out| {
        writeln!(
            out,
            "omlxd (process {}) stops: it takes no new requests and gives running ones {}s",
            stopping.pid, stopping.drain_seconds
        )
    })?;
    Ok(())
}

/// What `omlxctl version --json` prints.
#[derive(Serialize)]
struct Versions {
    omlxctl: &'static str,
    admin_api: u32,
    omlxd: Version,
}

async fn version(context: &Context) -> Done {
    let ours = env!("CARGO_PKG_VERSION");
    let daemon = match context.get::<Version>("/version").await {
        Ok(version) => version,
        Err(error) => {
            if !context.output.json {
                writeln!(io::stdout(), "omlxctl {ours}")?;
            }
            return Err(error);
        }
    };
    let versions = Versions { omlxctl: ours, admin_api: ADMIN_API, omlxd: daemon };
    context.output.document(&versions, |out| {
        writeln!(out, "omlxctl {ours}\nomlxd   {}", versions.omlxd.version)
    })?;
    Ok(())
}

/// A generated text, for `--json`.
#[derive(Serialize)]
struct Generated {
    text: String,
}

fn completions(shell: clap_complete::Shell, output: Output) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "omlxctl", &mut script);
    generated(script, output)
}

/// One page: omlxctl itself, then what each command's own help says.
fn man(output: Output) -> Done {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(page, ".SH COMMANDS")?;
    command_sections(&mut command, &mut page)?;
    man.render_extra_section(&mut page)?;
    generated(page, output)
}

fn command_sections(command: &mut clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    for command in command.get_subcommands_mut() {
        if command.has_subcommands() {
            command_sections(command, page)?;
            continue;
        }
        let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
        let help = command.render_help().to_string();
        let own = help.split(cli::GLOBAL).next().unwrap_or_default().trim_end();
        writeln!(page, ".SS \"{name}\"\n.nf")?;
        for line in own.lines() {
            // \& keeps a line that begins with a point from being read as an instruction.
            writeln!(page, "\\&{}", line.replace('\\', "\\e").replace('-', "\\-"))?;
        }
        writeln!(page, ".fi")?;
    }
    Ok(())
}

fn generated(text: Vec<u8>, output: Output) -> Done {
    let text = String::from_utf8(text).map_err(|error| CommandError::Failed(error.to_string()))?;
    let document = Generated { text };
    output.document(&document, |out| out.write_all(document.text.as_bytes()))?;
    Ok(())
}
