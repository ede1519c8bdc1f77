//! The command line. Help, man page and completions all come from this one table.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Operate a running omlxd: look at it, talk to its models, stop it.
#[derive(Debug, Parser)]
#[command(name = "omlxctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The heading of [`Global`] in every help text.
pub(crate) const GLOBAL: &str = "Options of every command";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failed or the answer is no, 2 wrong usage, 3 the daemon cannot be reached, \
4 no permission, 5 no answer in time, 6 the daemon speaks another admin API.";

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = GLOBAL)]
pub(crate) struct Global {
    /// The daemon's base directory [default: ~/.omlx]
    #[arg(long, global = true, value_name = "DIR", env = "OMLX_BASE_DIR", hide_env_values = true)]
    pub(crate) base_dir: Option<PathBuf>,
    /// The daemon's admin socket [default: run/omlxd.sock in the base directory]
    #[arg(long, global = true, value_name = "PATH", env = "OMLX_SOCKET", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Longest wait for an answer of the daemon (for chat: for its first sign of life)
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) timeout: Duration,
    /// Print no colors (NO_COLOR does the same)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Print no warnings and no hints
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show whether the daemon is well and what it is doing
    Status,
    /// List the models in memory
    Ps,
    /// Look at the models on disk, remove one
    #[command(subcommand)]
    Models(Models),
    /// Download a model from the Hugging Face hub
    Pull(Pull),
    /// Load a model into memory and wait until it is there
    Load(Model),
    /// Take a model out of memory once the requests on it have ended
    Unload(Model),
    /// Keep a model in memory: nothing unloads it until it is unpinned or the daemon ends
    Pin(Model),
    /// Let a model be unloaded again
    Unpin(Model),
    /// Talk to a model; without a prompt, reads standard input or starts a conversation
    Chat(Chat),
    /// List the requests in flight
    Requests,
    /// Stop a request
    Cancel {
        /// The request's id, as `omlxctl requests` shows it
        id: String,
    },
    /// Look at the KV cache, check it, empty it
    #[command(subcommand)]
    Cache(Cache),
    /// Show, replace, add and revoke API keys
    #[command(subcommand)]
    Key(Key),
    /// Look at the daemon's configuration
    #[command(subcommand)]
    Config(Config),
    /// Show the daemon's log, also of one that does not run
    Logs(Logs),
    /// Find out what is wrong, with or without a running daemon
    Doctor(Doctor),
    /// Measure this machine: prefill, decode, and restoring from memory and SSD beside computing
    Bench(Bench),
    /// Watch tokens, requests, models and memory as they change
    Top(Top),
    /// Have launchd run omlxd (macOS)
    #[command(subcommand)]
    Service(Service),
    /// Let the daemon finish what runs, then exit
    Shutdown,
    /// Show the versions of omlxctl and of the daemon
    Version,
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

/// `omlxctl models`.
#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// List them
    List,
    /// Show what one is and needs
    Show(Model),
    /// Delete one from disk
    Rm {
        /// The model's id
        model: String,
        /// Also what it has computed, from the KV cache
        #[arg(long)]
        cache: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// A command on one model.
#[derive(Debug, Args)]
pub(crate) struct Model {
    /// The model's id or alias
    pub(crate) model: String,
}

/// `omlxctl pull`.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// `org/name`, or `org/name@revision` for a branch, tag or commit other than main
    #[arg(value_name = "MODEL[@REVISION]")]
    pub(crate) model: String,
    /// Download what will not run here: an unknown architecture, or one too large for memory.budget
    #[arg(long)]
    pub(crate) force: bool,
    /// Stop a pull that runs; what was downloaded stays for the next one
    #[arg(long, conflicts_with = "force")]
    pub(crate) cancel: bool,
}

/// `omlxctl logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Show new lines as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Lines to begin with
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub(crate) lines: usize,
}

/// `omlxctl doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The model to generate with [default: as for chat]
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,
    /// Generate nothing
    #[arg(long)]
    pub(crate) no_generate: bool,
}

/// `omlxctl bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The model's id [default: as for chat]
    pub(crate) model: Option<String>,
    /// Tokens of the prompt, about
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    pub(crate) prompt_tokens: u32,
    /// Tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    pub(crate) tokens: u32,
    /// Times that each is measured; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub(crate) rounds: u32,
}

/// `omlxctl top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Pause between two looks
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = time)]
    pub(crate) interval: Duration,
    /// Print this many looks as text and exit; without a terminal, one
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u32>,
}

/// `omlxctl chat`.
#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The model's id [default: models.default, else a loaded model, else the first by name]
    pub(crate) model: Option<String>,
    /// What to say
    pub(crate) prompt: Option<String>,
    /// What the model is told first
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Most tokens to answer with
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 for the likeliest answer, up to 2 for variety
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Same seed, same answer
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<i64>,
}

/// `omlxctl cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Show what is cached, and what of prompts was reused
    Stats,
    /// Read and check every record on disk; exits with 1 when one is damaged
    Verify,
    /// Leave what is in memory on SSD only, as a restart would
    Demote,
    /// Remove what is cached, in memory and on disk
    Clear {
        /// Only what this model computed; it must have been loaded since the daemon's start
        #[arg(long, value_name = "ID")]
        model: Option<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Tell what of a request's prompt was reused, and why not more
    Explain {
        /// The request's id: the x-request-id of its answer, or the answer's own id
        request_id: String,
    },
}

/// `omlxctl key`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Print the API key
    Show,
    /// Replace the API key, and all others; the old ones stop working at once
    Rotate,
    /// List the keys by name and last characters
    List,
    /// Make another key and print it; with several, each reuses its own prompts only
    Add {
        /// What to call it: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-', '@'
        name: String,
    },
    /// Remove a key; it stops working at once
    Revoke {
        /// Its name, or its last characters
        name: String,
    },
}

/// `omlxctl service`.
#[derive(Debug, Subcommand)]
pub(crate) enum Service {
    /// Start omlxd now, at every login, and after a crash
    Install {
        #[command(flatten)]
        whose: Whose,
        /// The user that the whole Mac's service runs as
        #[arg(long, value_name = "NAME", default_value = "_omlx", requires = "system")]
        user: String,
    },
    /// Stop it, and start it no more; models, cache, configuration and key stay
    Uninstall(Whose),
    /// Start it
    Start(Whose),
    /// Stop it until the next login, or until it is started
    Stop(Whose),
    /// Stop it, and start it as its property list now says
    Restart(Whose),
    /// Show whether it runs; exits with 3 when it does not
    Status(Whose),
}

/// Whose service.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Whose {
    /// The whole Mac's, which runs before anybody logs in, instead of your own (needs sudo)
    #[arg(long)]
    pub(crate) system: bool,
}

/// `omlxctl config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print every effective value and where it came from
    Show,
    /// Check the daemon's configuration file as it is now
    Check,
}

/// Longest time that can be asked for: a day.
const MAX_TIME: Duration = Duration::from_secs(24 * 3600);

/// A time such as `500ms`, `10s` or `2m`; a number alone counts seconds.
fn time(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)];
    let (number, scale) = units
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))
        .unwrap_or((text, 1.0));
    let seconds = number.parse::<f64>().ok().filter(|number| *number > 0.0);
    seconds
        .and_then(|number| Duration::try_from_secs_f64(number * scale).ok())
        .filter(|time| *time <= MAX_TIME)
        .ok_or_else(|| "expected a time such as 500ms, 10s or 2m, of at most a day".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_table_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(time("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(time("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(time("1.5"), Ok(Duration::from_millis(1500)));
        assert_eq!(time("1440m"), Ok(MAX_TIME));
        for bad in
            ["", "s", "-1s", "0", "inf", "1h5", "nan", "1440.1m", "18446744073709551615", "1e300"]
        {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
