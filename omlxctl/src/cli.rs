//! The command line. Help, man page and completions all come from this one table.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Manage a running omlxd: inspect it, chat with its models, stop it.
#[derive(Debug, Parser)]
#[command(name = "omlxctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// The options of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The heading of [`Global`] in every help text.
pub(crate) const GLOBAL: &str = "Global options";

const EXIT_CODES: &str = "\
Exit codes: 0 success, 1 failed or the answer is no, 2 wrong usage, 3 the daemon cannot be reached, \
4 no permission, 5 timeout, 6 the daemon speaks another version of the admin API.";

/// The options of every command.
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
    /// How long to wait for the daemon's answer (for chat: for its first event)
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = time)]
    pub(crate) timeout: Duration,
    /// Disable colors (same as NO_COLOR)
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// Hide warnings and hints
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the daemon's health and activity
    Status,
    /// List the loaded models
    Ps,
    /// List, show and delete models on disk
    #[command(subcommand)]
    Models(Models),
    /// Download a model from the Hugging Face hub
    Pull(Pull),
    /// Load a model into memory and wait until it is ready
    Load(Model),
    /// Unload a model from memory once its requests have ended
    Unload(Model),
    /// Keep a model in memory until it is unpinned or the daemon ends
    Pin(Model),
    /// Allow a pinned model to be unloaded again
    Unpin(Model),
    /// Chat with a model; without a prompt, read standard input or start a conversation
    Chat(Chat),
    /// List the running and waiting requests
    Requests,
    /// Cancel a request
    Cancel {
        /// The request's id, as `omlxctl requests` shows it
        id: String,
    },
    /// Inspect, verify and clear the KV cache
    #[command(subcommand)]
    Cache(Cache),
    /// Show, rotate, add and revoke API keys
    #[command(subcommand)]
    Key(Key),
    /// Show and check the daemon's configuration
    #[command(subcommand)]
    Config(Config),
    /// Show the daemon's log, even when it isn't running
    Logs(Logs),
    /// Diagnose problems, with or without a running daemon
    Doctor(Doctor),
    /// Measure prefill, decode, and restoring a prompt from memory and SSD compared with computing it
    Bench(Bench),
    /// Watch tokens, requests, models and memory live
    Top(Top),
    /// Run omlxd as a launchd service (macOS)
    #[command(subcommand)]
    Service(Service),
    /// Stop the daemon after its running requests have ended
    Shutdown,
    /// Show the versions of omlxctl and the daemon
    Version,
    /// Print a shell completion script
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

/// `omlxctl models`.
#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// List the models on disk
    List,
    /// Show a model's details and memory needs
    Show(Model),
    /// Delete a model from disk
    Rm {
        /// The model's id
        model: String,
        /// Also delete its KV cache
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
    /// Download even if the model cannot run here (unknown architecture, or too large for memory.budget)
    #[arg(long)]
    pub(crate) force: bool,
    /// Stop a running pull; the next pull continues where it stopped
    #[arg(long, conflicts_with = "force")]
    pub(crate) cancel: bool,
}

/// `omlxctl logs`.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Show new lines as they are written
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Number of last lines to show first
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    pub(crate) lines: usize,
}

/// `omlxctl doctor`.
#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// The model to generate with [default: as for chat]
    #[arg(long, value_name = "ID")]
    pub(crate) model: Option<String>,
    /// Do not generate tokens
    #[arg(long)]
    pub(crate) no_generate: bool,
}

/// `omlxctl bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The model's id [default: as for chat]
    pub(crate) model: Option<String>,
    /// Approximate number of prompt tokens
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    pub(crate) prompt_tokens: u32,
    /// Number of tokens to generate
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    pub(crate) tokens: u32,
    /// Number of measurements; the result is their median
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    pub(crate) rounds: u32,
}

/// `omlxctl top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Time between two updates
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = time)]
    pub(crate) interval: Duration,
    /// Print this many updates as text and exit [default without a terminal: 1]
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) count: Option<u32>,
}

/// `omlxctl chat`.
#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// The model's id [default: models.default, else a loaded model, else the first by name]
    pub(crate) model: Option<String>,
    /// The user's message
    pub(crate) prompt: Option<String>,
    /// The system message
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Maximum number of tokens in the answer
    #[arg(long, value_name = "N")]
    pub(crate) max_tokens: Option<u32>,
    /// Sampling temperature, from 0 (most likely tokens) to 2
    #[arg(long, value_name = "T")]
    pub(crate) temperature: Option<f32>,
    /// Seed for sampling; the same seed gives the same answer
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<i64>,
}

/// `omlxctl cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Show the cache's tiers, contents and hit rates
    Stats,
    /// Read and check every record on disk; exits with 1 if one is damaged
    Verify,
    /// Flush the in-memory cache to SSD, as a restart would
    Demote,
    /// Delete the cache, in memory and on disk
    Clear {
        /// Delete only this model's cache; the model must have been loaded since the daemon started
        #[arg(long, value_name = "ID")]
        model: Option<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Explain how much of a request's prompt was reused, and why not more
    Explain {
        /// The x-request-id of the answer, or the id in the answer
        request_id: String,
    },
}

/// `omlxctl key`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Print the API key
    Show,
    /// Replace all API keys by a new one; the old keys stop working at once
    Rotate,
    /// List the keys by name and last four characters
    List,
    /// Add a key and print it; each key has its own cache
    Add {
        /// The key's name: 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-', '@'
        name: String,
    },
    /// Revoke a key; it stops working at once
    Revoke {
        /// The key's name or its last four characters
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
        /// The user that the system service runs as
        #[arg(long, value_name = "NAME", default_value = "_omlx", requires = "system")]
        user: String,
    },
    /// Stop the service and remove it from login; models, cache, configuration and keys stay
    Uninstall(Whose),
    /// Start the service
    Start(Whose),
    /// Stop the service until the next login or start
    Stop(Whose),
    /// Restart the service with its current property list
    Restart(Whose),
    /// Show whether the service is running; exits with 3 if not
    Status(Whose),
}

/// The user's service or the system's.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Whose {
    /// Manage the system service, which starts before anyone logs in, instead of yours (needs sudo)
    #[arg(long)]
    pub(crate) system: bool,
}

/// `omlxctl config`.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Print every effective value and its source
    Show,
    /// Check the daemon's configuration file
    Check,
}

/// Longest time that an option takes: a day.
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
