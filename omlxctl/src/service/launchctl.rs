//! Running launchctl, and what it says.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// launchctl, wherever it lies.
#[derive(Debug, Clone)]
pub(crate) struct Launchctl {
    program: PathBuf,
}

/// Why launchctl did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    /// This is no Mac.
    #[error(
        "there is no launchctl here: `omlxctl service` is for macOS. Elsewhere have the system's own \
         service manager run `omlxd serve`"
    )]
    Missing,
    /// It could not be run.
    #[error("cannot run {program}: {cause}")]
    Run {
        /// Which program.
        program: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It said no.
    #[error("`launchctl {call}` failed with {code}: {}", reason(*.code, .text))]
    Refused {
        /// What it was asked.
        call: String,
        /// Its exit code, which is an error number of the system or of launchd's own.
        code: i32,
        /// What it said.
        text: String,
    },
}

// launchctl's exit codes; those below 107 are the system's error numbers.
const EPERM: i32 = 1;
const ESRCH: i32 = 3;
const EIO: i32 = 5;
const EINPROGRESS: i32 = 36;
const EALREADY: i32 = 37;
const NO_SERVICE: i32 = 113;
const DISABLED: i32 = 119;
const WRONG_DOMAIN: i32 = 125;

/// The meaning of an exit code, for people.
fn reason(code: i32, text: &str) -> String {
    let meaning = match code {
        EPERM => "not permitted; a system service needs sudo",
        EIO => {
            "launchd does not take the property list: it is damaged, has another owner or mode than \
             launchd wants, or the job is loaded already"
        }
        DISABLED => "the job is disabled; `omlxctl service install` enables it",
        WRONG_DOMAIN => "this session has no such domain; log in at the Mac, or use --system",
        _ => return text.to_owned(),
    };
    format!("{meaning} ({text})")
}

impl LaunchError {
    fn code(&self) -> Option<i32> {
        match self {
            LaunchError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// launchd does not have the job.
    pub(crate) fn is_not_loaded(&self) -> bool {
        matches!(self.code(), Some(ESRCH | NO_SERVICE))
    }

    /// launchd is still at something with the job: ask again.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.code(), Some(EINPROGRESS | EALREADY))
    }

    /// What a bootstrap says for a moment after a bootout, and of a property list that is not good.
    pub(crate) fn is_not_taken(&self) -> bool {
        self.code() == Some(EIO)
    }
}

impl Launchctl {
    /// The one at this path.
    pub(crate) fn at(program: &Path) -> Self {
        Launchctl { program: program.to_owned() }
    }

    /// Runs it, and gives what it printed.
    pub(crate) fn call(&self, args: &[&str]) -> Result<String, LaunchError> {
        let output = Command::new(&self.program).args(args).output();
        let output = output.map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => LaunchError::Missing,
            _ => LaunchError::Run { program: self.program.clone(), cause },
        })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = [output.stderr, output.stdout].concat();
        let said = String::from_utf8_lossy(&said);
        let text = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no reason");
        // Ended by a signal it has no code.
        let code = output.status.code().unwrap_or(-1);
        Err(LaunchError::Refused { call: args.join(" "), code, text: text.to_owned() })
    }

    /// What launchd knows of a job; nothing when it does not have it.
    pub(crate) fn print(&self, target: &str) -> Result<Option<JobInfo>, LaunchError> {
        match self.call(&["print", target]) {
            Ok(text) => Ok(Some(JobInfo::read(&text))),
            // It has other codes for a domain that is not there, and then the job is not either.
            Err(LaunchError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What `launchctl print` says of a job. Its text is made for people: what is not there is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct JobInfo {
    /// `running`, `not running`, `waiting`, `spawn scheduled`.
    pub(crate) state: Option<String>,
    /// The process, while it runs.
    pub(crate) pid: Option<u32>,
    /// How it ended last: an exit code and perhaps its name, or a signal.
    pub(crate) last_exit: Option<String>,
    /// `interactive`, `daemon`, `adaptive`, `background`.
    pub(crate) spawn_type: Option<String>,
    /// The property list.
    pub(crate) path: Option<PathBuf>,
    /// How often it was started.
    pub(crate) runs: Option<u64>,
}

impl JobInfo {
    /// Reads the job's own lines; blocks inside it (its environment, its sockets) have keys of the
    /// same names.
    pub(crate) fn read(text: &str) -> JobInfo {
        let mut info = JobInfo::default();
        let mut depth = 0_usize;
        for line in text.lines().map(str::trim) {
            if line.ends_with('{') {
                depth += 1;
            } else if line == "}" {
                depth = depth.saturating_sub(1);
            } else if depth == 1
                && let Some((key, value)) = line.split_once(" = ")
            {
                info.set(key, value);
            }
        }
        info
    }

    fn set(&mut self, key: &str, value: &str) {
        match key {
            "state" => self.state = Some(value.to_owned()),
            "pid" => self.pid = value.parse().ok(),
            "runs" => self.runs = value.parse().ok(),
            "path" => self.path = Some(value.into()),
            "last exit code" if value == "(never exited)" => {}
            // A signal tells more than the code beside it.
            "last exit code" => {
                self.last_exit.get_or_insert_with(|| format!("exit code {value}"));
            }
            "last terminating signal" => self.last_exit = Some(value.to_owned()),
            "spawn type" => {
                self.spawn_type = value.split(" (").next().map(str::to_lowercase);
            }
            _ => {}
        }
    }

    /// Whether there is a process.
    pub(crate) fn is_running(&self) -> bool {
        self.pid.is_some() && self.state.as_deref() == Some("running")
    }

    /// Whether it ended by itself with a failure.
    pub(crate) fn has_failed(&self) -> bool {
        let good = |last: &String| last == "exit code 0" || last.starts_with("exit code 0:");
        !self.is_running() && self.last_exit.as_ref().is_some_and(|last| !good(last))
    }

    /// How it ended last, with what omlxd means by it.
    pub(crate) fn ending(&self) -> Option<String> {
        let last = self.last_exit.as_ref()?;
        let code = last.strip_prefix("exit code ").and_then(|rest| rest.split(':').next());
        let meaning = match code {
            Some("69") => "the HTTP address is in use or cannot be had",
            Some("75") => "another omlxd runs with this base directory",
            Some("77") => "a file or directory is open to others, or not its own",
            Some("78") => "the configuration has problems, or the program or a folder is not there",
            _ => return Some(last.clone()),
        };
        Some(format!("{last}: {meaning}"))
    }
}
