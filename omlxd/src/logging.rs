//! Logs on standard error: text for people, JSON for machines. They never hold prompts, answers or
//! keys; the libraries below us may only warn, because what they log at lower levels is not ours to
//! vouch for.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// The packages whose level `log.level` sets.
const OURS: [&str; 4] = ["omlxd", "omlxctl", "engine", "kvstore"];

/// Changes the level of a running process.
#[derive(Clone)]
pub struct LevelHandle(reload::Handle<Targets, Registry>);

impl LevelHandle {
    /// Logs at this level from now on.
    pub fn set(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and then there is nothing to log to.
        let _ = self.0.reload(targets(level));
    }
}

/// Starts logging. Does nothing but give an idle handle when this process already logs.
pub fn start(log: &Log) -> LevelHandle {
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let lines = if json {
        fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed()
    } else {
        fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).boxed()
    };
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    LevelHandle(handle)
}

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_targets(OURS.map(|t| (t, level)))
}
