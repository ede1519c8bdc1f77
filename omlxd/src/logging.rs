//! Logs on standard error (text for people, JSON for machines) and in a file. They never hold prompts, answers or
//! keys; the libraries below us may only warn, because what they log at lower levels is not ours to
//! vouch for. Panics are logged like everything else.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal};
use std::panic::PanicHookInfo;
use std::path::Path;

use kvstore::platform::Severity;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};
use crate::crash;
use crate::log_file::LogFile;

/// The log file's name in the folder of logs.
const FILE_NAME: &str = "omlxd.log";

/// The packages whose level `log.level` sets.
const OURS: [&str; 4] = ["omlxd", "omlxctl", "engine", "kvstore"];

/// What can be changed of a running process's log.
#[derive(Clone)]
pub struct LogHandle {
    level: reload::Handle<Targets, Registry>,
    file: Option<LogFile>,
}

impl LogHandle {
    /// Logs at this level from now on.
    pub fn set(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and then there is nothing to log to.
        let _ = self.level.reload(targets(level));
    }

    /// Reopens the file after it was moved away.
    pub fn reopen(&self) {
        if let Some(file) = &self.file {
            file.reopen();
        }
    }
}

/// Starts logging, to standard error and to `omlxd.log` in `dir`. A file that cannot be written is no
/// reason not to serve. Does nothing but give an idle handle when this process already logs.
pub fn start(log: &Log, dir: Option<&Path>) -> LogHandle {
    let (filter, level) = reload::Layer::new(targets(log.level));
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stderr().is_terminal(),
    };
    let lines = if !log.stderr {
        None
    } else if json {
        Some(fmt::layer().json().flatten_event(true).with_writer(io::stderr).boxed())
    } else {
        Some(fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr).boxed())
    };
    let opened = dir.map(|dir| LogFile::open(&dir.join(FILE_NAME), log.max_size)).transpose();
    let (file, problem) = match opened {
        Ok(file) => (file, None),
        Err(error) => (None, Some(error)),
    };
    let kept = file.clone().map(|file| {
        fmt::layer().json().flatten_event(true).with_writer(move || file.clone()).boxed()
    });
    let system = log.system.then(|| {
        let lines = fmt::layer().without_time().with_level(false).with_ansi(false);
        lines.with_writer(SystemLog).with_filter(LevelFilter::WARN).boxed()
    });
    let layers: Vec<_> = lines.into_iter().chain(kept).chain(system).collect();
    let _ = tracing_subscriber::registry().with(layers.with_filter(filter)).try_init();
    if let Some(error) = problem {
        tracing::warn!(%error, "there is no log file");
    }
    std::panic::set_hook(Box::new(log_panic));
    LogHandle { level, file }
}

/// Gives each line to the system's log, as bad as it is.
#[derive(Debug, Clone, Copy)]
struct SystemLog;

impl<'a> fmt::MakeWriter<'a> for SystemLog {
    type Writer = SystemLine;

    fn make_writer(&'a self) -> SystemLine {
        SystemLine(Severity::Warning)
    }

    fn make_writer_for(&'a self, event: &tracing::Metadata<'_>) -> SystemLine {
        let is_error = *event.level() == tracing::Level::ERROR;
        SystemLine(if is_error { Severity::Error } else { Severity::Warning })
    }
}

/// One line for the system's log.
#[derive(Debug)]
struct SystemLine(Severity);

impl io::Write for SystemLine {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        kvstore::platform::system_log(self.0, String::from_utf8_lossy(line).trim_end());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One event, in the log's own format: the default would print lines that are no JSON.
fn log_panic(info: &PanicHookInfo<'_>) {
    let message = engine::panic_text(info.payload());
    let at = info.location().map_or_else(String::new, ToString::to_string);
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // Empty unless RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let is_asked_for = backtrace.status() == BacktraceStatus::Captured;
    let backtrace = is_asked_for.then(|| backtrace.to_string());
    crash::note_panic(&format!("{message}, at {at} in thread {thread}"));
    tracing::error!(at, thread, backtrace, "panicked: {message}");
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Runs itself as a process that panics: hook and subscriber are the process's own.
    #[test]
    fn a_panic_is_one_line_of_json() {
        const INSIDE: &str = "OMLX_TEST_PANICS";
        if std::env::var_os(INSIDE).is_some() {
            start(&Log { format: LogFormat::Json, ..Log::default() }, None);
            let thread = std::thread::Builder::new().name("unlucky".into());
            let ended = thread.spawn(|| panic!("two\nlines")).unwrap().join();
            assert!(ended.is_err());
            return;
        }
        let test = "logging::tests::a_panic_is_one_line_of_json";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--nocapture"]).env(INSIDE, "1").env("RUST_BACKTRACE", "0");
        let output = command.output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["level"], "ERROR");
        assert_eq!(line["message"], "panicked: two\nlines");
        assert_eq!(line["thread"], "unlucky");
        assert!(line["at"].as_str().unwrap().contains("logging.rs:"), "{text}");
    }
}
