//! `omlxctl service`: omlxd as a job of launchd, which starts it and keeps it running.

pub(crate) mod launchctl;
mod plist;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use omlxctl::files::{self, Links};
use serde::Serialize;

pub(crate) use launchctl::JobInfo;

use launchctl::{LaunchError, Launchctl};
use plist::{BREW_LABEL, LABEL};

use crate::cli::{Service, Whose};
use crate::context::Done;
use crate::exit::CommandError;
use crate::output::{self, Output};

/// The base directory of the whole Mac's job, when none is named.
const SYSTEM_BASE: &str = "/Library/Application Support/omlx";

/// How often launchd is asked again while it is busy: together longer than the job's ExitTimeOut.
const ASKS: u32 = 240;
/// How often a bootstrap that is refused is tried: for a moment after a bootout launchd still has the
/// old job in mind.
const BOOTSTRAPS: u32 = 8;
/// How often a job is looked at until it has been seen to run.
const LOOKS: u32 = 40;
/// How often in a row it must be seen to: what fails at start ends at once.
const SIGHTS: u32 = 3;

/// What of the machine this works with.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// launchctl's path.
    pub(crate) launchctl: PathBuf,
    /// The program that tells a user's number.
    pub(crate) id: PathBuf,
    /// omlxd's path, if it is where it should be.
    pub(crate) omlxd: Option<PathBuf>,
    /// The caller's home.
    pub(crate) home: Option<PathBuf>,
    /// Where the whole Mac's jobs are.
    pub(crate) daemons: PathBuf,
    /// The caller.
    pub(crate) uid: u32,
    /// Between two questions.
    pub(crate) pause: Duration,
}

impl Site {
    /// This machine.
    pub(crate) fn here() -> Site {
        let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("omlxd"));
        Site {
            launchctl: "/bin/launchctl".into(),
            id: "/usr/bin/id".into(),
            omlxd: beside.map(|path| plist::stable(&path)).filter(|path| path.exists()),
            home: std::env::home_dir(),
            daemons: "/Library/LaunchDaemons".into(),
            uid: rustix::process::geteuid().as_raw(),
            pause: Duration::from_millis(250),
        }
    }
}

/// What `omlxctl service status` tells.
#[derive(Debug, Serialize)]
struct ServiceStatus {
    /// The job's name.
    label: &'static str,
    /// The domain of launchd that it belongs to.
    domain: String,
    /// Its property list; null when it is not installed.
    plist: Option<PathBuf>,
    /// Whether launchd has it.
    loaded: bool,
    /// What launchd says of it.
    state: Option<String>,
    pid: Option<u32>,
    runs: Option<u64>,
    last_exit: Option<String>,
    spawn_type: Option<String>,
    /// The job of `brew services`, when that is loaded.
    homebrew: Option<String>,
}

/// What the other commands tell.
#[derive(Debug, Serialize)]
struct Told {
    label: &'static str,
    domain: String,
    plist: PathBuf,
    /// `installed`, `uninstalled`, `started`, `stopped`, `restarted`.
    done: &'static str,
    /// The process, when there is one now.
    pid: Option<u32>,
}

/// Does what the command line says.
pub(crate) async fn run(
    site: &Site,
    command: Service,
    base: Option<&Path>,
    output: Output,
) -> Done {
    match command {
        Service::Install { whose, user } => {
            let job = Job::of(site, whose)?;
            job.refuse_twin()?;
            install(&job, base, whose.system.then_some(user.as_str())).await?;
            tell(&job, "installed", output)
        }
        Service::Uninstall(whose) => {
            let job = Job::of(site, whose)?;
            let was_there = job.bootout().await? | job.is_installed();
            if !was_there {
                return Err(CommandError::Failed("the service is not installed".to_owned()));
            }
            remove(&job.plist)?;
            tell(&job, "uninstalled", output)
        }
        Service::Start(whose) => {
            let job = Job::of(site, whose)?.needed()?;
            job.refuse_twin()?;
            job.start().await?;
            tell(&job, "started", output)
        }
        Service::Stop(whose) => {
            let job = Job::of(site, whose)?.needed()?;
            if !job.bootout().await? {
                return Err(CommandError::Failed("the service does not run".to_owned()));
            }
            tell(&job, "stopped", output)
        }
        Service::Restart(whose) => {
            let job = Job::of(site, whose)?.needed()?;
            job.refuse_twin()?;
            // kickstart -k would not read the property list again, which may be new.
            job.bootout().await?;
            job.start().await?;
            tell(&job, "restarted", output)
        }
        Service::Status(whose) => status(&Job::of(site, whose)?, output),
    }
}

/// The job, as one user's or as the whole Mac's.
struct Job {
    launchctl: Launchctl,
    site: Site,
    /// `gui/501`, `user/501` or `system`.
    domain: String,
    /// Its property list, whether it is there or not.
    plist: PathBuf,
}

impl Job {
    fn of(site: &Site, whose: Whose) -> Result<Job, CommandError> {
        let launchctl = Launchctl::at(&site.launchctl);
        let (domain, folder) = if whose.system {
            // Reading is everybody's.
            ("system".to_owned(), site.daemons.clone())
        } else {
            let home = site.home.as_ref().ok_or_else(|| {
                CommandError::Usage("there is no home directory for a service of yours".to_owned())
            })?;
            (own_domain(&launchctl, site.uid)?, home.join("Library/LaunchAgents"))
        };
        let plist = folder.join(format!("{LABEL}.plist"));
        Ok(Job { launchctl, site: site.clone(), domain, plist })
    }

    fn is_system(&self) -> bool {
        self.domain == "system"
    }

    fn target(&self) -> String {
        format!("{}/{LABEL}", self.domain)
    }

    fn is_installed(&self) -> bool {
        self.plist.exists()
    }

    /// Itself, when it is installed and the caller may change it.
    fn needed(self) -> Result<Job, CommandError> {
        self.check_caller()?;
        if self.is_installed() {
            return Ok(self);
        }
        let twin = twin(&self.launchctl, self.site.uid)?;
        let next = match twin {
            Some(_) => "Homebrew runs omlxd: use `brew services`",
            None => "run `omlxctl service install`",
        };
        Err(CommandError::Failed(format!("{} is not there: {next}", self.plist.display())))
    }

    fn check_caller(&self) -> Done {
        match (self.is_system(), self.site.uid) {
            (true, 0) => Ok(()),
            (true, _) => Err(denied("the whole Mac's service needs root: run this with sudo")),
            (false, 0) => Err(denied(
                "this is a user's own service: run it without sudo, or with --system for the whole \
                 Mac's",
            )),
            (false, _) => Ok(()),
        }
    }

    /// Two daemons would fight for one base directory.
    fn refuse_twin(&self) -> Done {
        match twin(&self.launchctl, self.site.uid)? {
            None => Ok(()),
            Some(twin) => Err(CommandError::Failed(format!(
                "Homebrew runs omlxd already ({twin}): keep to `brew services`, or stop it first with \
                 `brew services stop omlx`"
            ))),
        }
    }

    /// Has launchd forget the job, which ends its process as SIGTERM does; waits until it has. Gives
    /// whether it had it.
    async fn bootout(&self) -> Result<bool, CommandError> {
        self.check_caller()?;
        let target = self.target();
        let mut had = false;
        for _ in 0..ASKS {
            match self.launchctl.call(&["bootout", &target]) {
                Ok(_) => had = true,
                Err(error) if error.is_not_loaded() => return Ok(had),
                Err(error) if error.is_busy() => had = true,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(self.site.pause).await;
        }
        let message = format!("launchd still has {target}: `launchctl print {target}` tells more");
        Err(CommandError::Failed(message))
    }

    /// Loads the job if need be, starts its process if need be, and sees it run.
    async fn start(&self) -> Done {
        let target = self.target();
        match self.launchctl.print(&target)? {
            Some(info) if info.is_running() => return Ok(()),
            Some(_) => drop(self.launchctl.call(&["kickstart", &target])?),
            None => self.bootstrap().await?,
        }
        self.see_it_run().await
    }

    async fn bootstrap(&self) -> Done {
        let plist = self.plist.to_string_lossy();
        // What was disabled once would not be taken.
        self.launchctl.call(&["enable", &self.target()])?;
        let mut refused = 0;
        for _ in 0..ASKS {
            match self.launchctl.call(&["bootstrap", &self.domain, &plist]) {
                Ok(_) => return Ok(()),
                Err(error) if error.is_busy() => {}
                Err(error) if error.is_not_taken() && refused < BOOTSTRAPS => refused += 1,
                Err(error) => return Err(error.into()),
            }
            tokio::time::sleep(self.site.pause).await;
        }
        Err(CommandError::Failed("launchd is busy with the job: try again".to_owned()))
    }

    /// Waits until the process has been there for a moment.
    async fn see_it_run(&self) -> Done {
        let target = self.target();
        let mut seen: (Option<u32>, u32) = (None, 0);
        for _ in 0..LOOKS {
            let info = self.launchctl.print(&target)?.unwrap_or_default();
            if info.has_failed() {
                return Err(CommandError::Failed(self.failure(&info)));
            }
            let pid = info.pid.filter(|_| info.is_running());
            seen = if pid.is_some() && pid == seen.0 { (pid, seen.1 + 1) } else { (pid, 1) };
            if pid.is_some() && seen.1 >= SIGHTS {
                return Ok(());
            }
            tokio::time::sleep(self.site.pause).await;
        }
        let info = self.launchctl.print(&target)?.unwrap_or_default();
        Err(CommandError::Failed(self.failure(&info)))
    }

    fn failure(&self, info: &JobInfo) -> String {
        let state = info.state.as_deref().unwrap_or("not there");
        let last = info.ending().map_or_else(String::new, |last| format!("; it ended with {last}"));
        format!(
            "launchd has the job, but omlxd does not stay up (state: {state}{last}). `omlxctl doctor` and \
             `omlxctl logs` say more"
        )
    }
}

/// Writes the property list and what the job needs to start, and starts it.
async fn install(job: &Job, base: Option<&Path>, user: Option<&str>) -> Done {
    job.check_caller()?;
    let site = &job.site;
    let omlxd = site.omlxd.as_deref().ok_or_else(|| {
        let message = "there is no omlxd beside omlxctl: install both into one folder";
        CommandError::Failed(message.to_owned())
    })?;
    let base = match (base, user, &site.home) {
        (Some(base), ..) => std::path::absolute(base)?,
        (None, Some(_), _) => SYSTEM_BASE.into(),
        (None, None, Some(home)) => home.join(".omlx"),
        (None, None, None) => return Err(CommandError::Usage("name a --base-dir".to_owned())),
    };
    let owner = user.map(|user| user_number(site, user)).transpose()?;
    prepare(&base, owner).map_err(|error| {
        CommandError::Failed(format!("cannot prepare {}: {error}", base.display()))
    })?;
    let filling = plist::Filling { omlxd, base: &base, user };
    let text = plist::text(&filling).map_err(CommandError::Failed)?;
    // An older job may run from an older list.
    job.bootout().await?;
    plist::write(&job.plist, &text).map_err(|error| {
        CommandError::Failed(format!("cannot write {}: {error}", job.plist.display()))
    })?;
    job.start().await
}

/// Makes what launchd needs before omlxd makes the rest: the folder to start in and the file for what
/// ends the process.
fn prepare(base: &Path, owner: Option<u32>) -> io::Result<()> {
    let logs = base.join("logs");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&logs)?;
    let file = logs.join("launchd.log");
    let mut options = fs::OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    files::open(&file, &mut options, Links::Refused)?;
    if let Some(owner) = owner {
        for path in [base, &logs, &file] {
            chown(path, Some(owner), None)?;
        }
    }
    Ok(())
}

fn user_number(site: &Site, user: &str) -> Result<u32, CommandError> {
    let output = Command::new(&site.id).args(["-u", "--", user]).output()?;
    let number = String::from_utf8_lossy(&output.stdout).trim().parse::<u32>();
    match number {
        Ok(0) => Err(CommandError::Usage("omlxd has no need of root: name another --user".into())),
        Ok(number) if output.status.success() => Ok(number),
        _ => Err(CommandError::Failed(format!(
            "there is no user {user}: make one (docs/operations.md says how), or name another with --user"
        ))),
    }
}

/// The caller's domain: that of the screen, or of a session without one.
fn own_domain(launchctl: &Launchctl, uid: u32) -> Result<String, LaunchError> {
    let gui = format!("gui/{uid}");
    match launchctl.call(&["print", &gui]) {
        Ok(_) => Ok(gui),
        Err(LaunchError::Refused { .. }) => Ok(format!("user/{uid}")),
        Err(error) => Err(error),
    }
}

/// The first of these domains in which Homebrew's job is loaded.
fn twin(launchctl: &Launchctl, uid: u32) -> Result<Option<String>, LaunchError> {
    for domain in domains(uid) {
        let target = format!("{domain}/{BREW_LABEL}");
        if launchctl.print(&target)?.is_some() {
            return Ok(Some(target));
        }
    }
    Ok(None)
}

/// The job that launchd has, ours or Homebrew's, by its full name.
pub(crate) fn loaded(site: &Site) -> Result<Option<(String, JobInfo)>, LaunchError> {
    let launchctl = Launchctl::at(&site.launchctl);
    for (label, domain) in
        [LABEL, BREW_LABEL].iter().flat_map(|l| domains(site.uid).map(|d| (l, d)))
    {
        let target = format!("{domain}/{label}");
        if let Some(info) = launchctl.print(&target)? {
            return Ok(Some((target, info)));
        }
    }
    Ok(None)
}

/// Where a job of this user's may be.
fn domains(uid: u32) -> [String; 3] {
    [format!("gui/{uid}"), format!("user/{uid}"), "system".to_owned()]
}

fn remove(path: &Path) -> Done {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CommandError::Failed(format!("cannot remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

fn denied(message: &str) -> CommandError {
    CommandError::Denied(message.to_owned())
}

fn tell(job: &Job, done: &'static str, output: Output) -> Done {
    let pid = job.launchctl.print(&job.target())?.and_then(|info| info.pid);
    let (domain, plist) = (job.domain.clone(), job.plist.clone());
    let told = Told { label: LABEL, domain, plist, done, pid };
    output.document(&told, |out| {
        let process = pid.map_or_else(String::new, |pid| format!(", process {pid}"));
        writeln!(out, "{done}: {}{process}", job.target())?;
        match done {
            "installed" => writeln!(
                out,
                "{} keeps omlxd running; `omlxctl service uninstall` undoes it",
                told.plist.display()
            ),
            "stopped" => writeln!(out, "until `omlxctl service start`, or the next login or boot"),
            _ => Ok(()),
        }
    })?;
    Ok(())
}

fn status(job: &Job, output: Output) -> Done {
    let info = job.launchctl.print(&job.target())?;
    let homebrew = twin(&job.launchctl, job.site.uid)?;
    let loaded = info.is_some();
    let info = info.unwrap_or_default();
    let status = ServiceStatus {
        label: LABEL,
        domain: job.domain.clone(),
        plist: job.is_installed().then(|| job.plist.clone()),
        loaded,
        last_exit: info.ending(),
        state: info.state.clone(),
        pid: info.pid,
        runs: info.runs,
        spawn_type: info.spawn_type.clone(),
        homebrew,
    };
    output.document(&status, |out| write_status(out, job, &status))?;
    if info.is_running() || status.homebrew.is_some() {
        return Ok(());
    }
    let next = if status.plist.is_some() { "start" } else { "install" };
    Err(CommandError::Unreachable(format!(
        "the service does not run: `omlxctl service {next}` changes that"
    )))
}

fn write_status(out: &mut dyn Write, job: &Job, status: &ServiceStatus) -> io::Result<()> {
    let or = |value: &Option<String>, none: &str| value.clone().unwrap_or_else(|| none.to_owned());
    let plist = status.plist.as_ref().map(|path| path.display().to_string());
    let mut facts = vec![
        ("job", job.target()),
        ("installed", or(&plist, "no")),
        ("state", or(&status.state, "not loaded")),
    ];
    if let Some(pid) = status.pid {
        facts.push(("process", pid.to_string()));
    }
    if let Some(runs) = status.runs {
        facts.push(("started", format!("{runs} times")));
    }
    if let Some(last) = &status.last_exit {
        facts.push(("last end", last.clone()));
    }
    if let Some(kind) = &status.spawn_type {
        facts.push(("spawn type", kind.clone()));
    }
    if let Some(twin) = &status.homebrew {
        facts.push(("Homebrew", format!("runs omlxd as {twin}")));
    }
    output::facts(out, &facts)
}

#[cfg(test)]
mod tests;
