//! `omlxctl doctor`: what is wrong and what to do about it, with or without a running daemon.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use omlxctl::client::ClientError;
use omlxctl::files;
use omlxctl::protocol::{Check, CheckResult, Checks, CrashNote, RunInfo, Status};
use rustix::process::{Pid, Resource};
use serde_json::{Value, json};

use crate::api::{self, Api};
use crate::cli::Doctor;
use crate::context::{Context, Done};
use crate::exit::CommandError;
use crate::output::{self, bytes, paint};
use crate::service::{self, JobInfo, Site};

/// The longest path of a Unix socket on macOS.
const MAX_SOCKET_BYTES: usize = 104;
/// Less free disk space than this is reported.
const LITTLE_DISK: u64 = 10 << 30;
/// With less than this not even a log can be kept.
const FULL_DISK: u64 = 16 << 20;
/// Runs that ended badly longer ago are not told any more.
const CRASH_SECS: u64 = 7 * 24 * 3600;
/// Longest lock, run note or list of crashes that is read.
const SMALL_FILE_BYTES: u64 = 64 << 10;
/// How much of the log's end is looked through for an error.
const LOG_END_BYTES: u64 = 1 << 20;
/// Fewer open files than this are too few; omlxd raises its own limit up to the hard one.
const FEW_FILES: u64 = 1024;

/// Looks at everything, prints it, and fails when something does not work.
pub(crate) async fn run(context: &Context, base: &Path, options: Doctor) -> Done {
    let mut checks = vec![base_dir(base), key_file(base), socket_path(context.client.socket())];
    let status = context.client.get::<Status>("/status").await;
    let running = status.as_ref().ok().map(|answer| answer.value.http.as_str());
    let (config, address) = config(base, running);
    checks.extend([config, disk(base), open_files(), last_run(base)]);
    if cfg!(target_os = "macos") {
        checks.push(launchd(&Site::here()));
    }
    match &status {
        Ok(answer) => {
            checks.push(daemon(&answer.value, &answer.daemon_version));
            let theirs: Checks = context.get("/doctor").await?;
            checks.extend(theirs.checks);
            if options.no_generate {
                checks.push(skipped("generation", "--no-generate was given"));
            } else {
                checks.push(generation(context, options.model).await);
            }
        }
        Err(error) => {
            checks.push(unreachable(base, error));
            checks.push(port(base, address));
            checks.push(skipped("generation", "no daemon answers"));
        }
    }
    let checks = Checks { checks };
    context.output.document(&checks, |out| print(out, &checks.checks))?;
    let failed = |check: &Check| check.result == CheckResult::Fail;
    if checks.checks.iter().any(failed) { Err(CommandError::Negative) } else { Ok(()) }
}

fn print(out: &mut dyn Write, checks: &[Check]) -> std::io::Result<()> {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in checks {
        let word = word(check.result);
        let pad = " ".repeat(4 - word.len());
        writeln!(out, "{}{pad}  {:<width$}  {}", paint(word), check.name, check.detail)?;
        if let Some(fix) = check.fix.as_ref().filter(|_| check.result != CheckResult::Pass) {
            writeln!(out, "      {:<width$}  -> {fix}", "")?;
        }
    }
    Ok(())
}

fn word(result: CheckResult) -> &'static str {
    match result {
        CheckResult::Pass => "pass",
        CheckResult::Warn => "warn",
        CheckResult::Fail => "fail",
        CheckResult::Skip => "skip",
    }
}

fn check(name: &str, result: CheckResult, detail: String, fix: Option<&str>) -> Check {
    Check { name: name.to_owned(), result, detail, fix: fix.map(str::to_owned) }
}

fn pass(name: &str, detail: String) -> Check {
    check(name, CheckResult::Pass, detail, None)
}

fn skipped(name: &str, why: &str) -> Check {
    check(name, CheckResult::Skip, why.to_owned(), None)
}

fn base_dir(base: &Path) -> Check {
    const NAME: &str = "base directory";
    let shown = base.display();
    let data = match fs::metadata(base) {
        Ok(data) => data,
        Err(_) => {
            let parent = base.ancestors().skip(1).find(|parent| parent.exists());
            if let Some(parent) = parent.filter(|parent| !is_writable(parent)) {
                let detail =
                    format!("{shown} does not exist, and {} is read-only", parent.display());
                let fix = "name a --base-dir that can be made, or change who may write there";
                return check(NAME, CheckResult::Fail, detail, Some(fix));
            }
            let detail = format!("{shown} does not exist");
            let fix = "start omlxd once: it makes what it needs";
            return check(NAME, CheckResult::Fail, detail, Some(fix));
        }
    };
    let ours = rustix::process::geteuid().as_raw();
    if data.uid() != ours {
        let detail = format!("{shown} belongs to user {}, not to {ours}", data.uid());
        let fix = "run omlxctl as the user who runs omlxd";
        return check(NAME, CheckResult::Fail, detail, Some(fix));
    }
    let mode = data.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let detail = format!("{shown} has mode {mode:o}: others can look into it");
        let fix = format!("chmod 700 {shown}");
        return check(NAME, CheckResult::Fail, detail, Some(&fix));
    }
    if !is_writable(base) {
        let detail = format!("{shown} is read-only");
        let fix = format!("chmod 700 {shown}, or mount its disk for writing");
        return check(NAME, CheckResult::Fail, detail, Some(&fix));
    }
    pass(NAME, format!("{shown} is only yours"))
}

/// Whether its mode and its file system let us write.
fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

fn key_file(base: &Path) -> Check {
    const NAME: &str = "API key";
    let path = base.join("api-key");
    match fs::metadata(&path) {
        Ok(data) if data.permissions().mode() & 0o077 != 0 => {
            let detail = format!("others can read {}", path.display());
            let fix = format!("chmod 600 {}, then `omlxctl key rotate`", path.display());
            check(NAME, CheckResult::Fail, detail, Some(&fix))
        }
        Ok(_) => pass(NAME, format!("{} is only yours", path.display())),
        Err(_) => {
            let detail = format!("{} is not there", path.display());
            let fix = "omlxd makes one at its start, unless auth.key_file names another file";
            check(NAME, CheckResult::Warn, detail, Some(fix))
        }
    }
}

fn socket_path(socket: &Path) -> Check {
    let length = socket.as_os_str().len();
    if length >= MAX_SOCKET_BYTES {
        let detail = format!("{} has {length} bytes; macOS allows 103", socket.display());
        let fix = "use a base directory with a shorter path";
        return check("socket path", CheckResult::Fail, detail, Some(fix));
    }
    pass("socket path", format!("{} ({length} bytes)", socket.display()))
}

/// What `omlxd check-config` says, and the address that it names: only the daemon knows its keys.
/// `running`: the address of the daemon that runs, which its command line may have named.
fn config(base: &Path, running: Option<&str>) -> (Check, Option<String>) {
    const NAME: &str = "configuration";
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("omlxd"));
    let omlxd = beside.filter(|path| path.exists()).unwrap_or_else(|| PathBuf::from("omlxd"));
    let output = Command::new(omlxd).arg("check-config").arg("--base-dir").arg(base).output();
    let Ok(output) = output else {
        let fix = "put omlxd beside omlxctl or into PATH, so that the configuration can be checked";
        return (check(NAME, CheckResult::Warn, "omlxd was not found".to_owned(), Some(fix)), None);
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', "; ");
    if output.status.success() {
        return configured(NAME, text(&output.stdout), running);
    }
    let fix = "edit the line that it names; docs/configuration.md has every key";
    (check(NAME, CheckResult::Fail, text(&output.stderr), Some(fix)), None)
}

/// `said`: what `omlxd check-config` says of a configuration without problems.
fn configured(name: &str, said: String, running: Option<&str>) -> (Check, Option<String>) {
    let address = said.rsplit_once(" serves on ").map(|(_, address)| address.to_owned());
    let detail = match (running, &address) {
        (Some(running), Some(address)) if running != address => {
            format!(
                "{said} unless its command line says otherwise; the one that runs serves on {running}"
            )
        }
        _ => said,
    };
    (pass(name, detail), address)
}

fn disk(base: &Path) -> Check {
    let Some(disk) = base.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok()) else {
        return skipped("disk", "the system does not say how much is free");
    };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let detail = format!("{} are free", bytes(free));
    if free < FULL_DISK {
        let fix = "make room: `omlxctl cache clear`, `omlxctl models rm`";
        return check("disk", CheckResult::Fail, detail, Some(fix));
    }
    if free < LITTLE_DISK {
        let fix = "models and cache need more: `omlxctl models rm`, `omlxctl cache clear`";
        return check("disk", CheckResult::Warn, detail, Some(fix));
    }
    pass("disk", detail)
}

fn open_files() -> Check {
    let most = rustix::process::getrlimit(Resource::Nofile).maximum;
    let detail = most.map_or_else(|| "no limit".to_owned(), |most| format!("up to {most}"));
    if most.is_some_and(|most| most < FEW_FILES) {
        let fix = "raise the hard limit (`ulimit -Hn`) of the session or service";
        return check("open files", CheckResult::Warn, detail, Some(fix));
    }
    pass("open files", detail)
}

/// Whether runs of the daemon ended by themselves.
fn last_run(base: &Path) -> Check {
    const NAME: &str = "last run";
    let fix =
        "`omlxctl logs` and logs/launchd.log have its last lines; tell us if it happens again";
    // A clean end leaves the lock's file empty.
    let lock = files::read_text(&base.join("run/lock"), SMALL_FILE_BYTES).unwrap_or_default();
    let left = lock.trim().parse().ok().and_then(Pid::from_raw);
    let gone = |pid: &Pid| rustix::process::test_kill_process(*pid) == Err(rustix::io::Errno::SRCH);
    if let Some(pid) = left.filter(gone) {
        let step = files::read_text(&base.join("run/step"), SMALL_FILE_BYTES).unwrap_or_default();
        let at = if step.trim().is_empty() { "unknown work" } else { step.trim() };
        let detail = format!(
            "process {} ended without saying so, while at: {at}; none was started since",
            pid.as_raw_nonzero()
        );
        return check(NAME, CheckResult::Fail, detail, Some("start omlxd again"));
    }
    let notes = files::read(&base.join("logs/crashes.json"), SMALL_FILE_BYTES).ok();
    let notes: Vec<CrashNote> =
        notes.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let recent: Vec<_> =
        notes.iter().filter(|note| now.saturating_sub(note.noticed_at) < CRASH_SECS).collect();
    match (recent.len(), recent.last()) {
        (count, Some(last)) => {
            let ago = output::time(now.saturating_sub(last.noticed_at) as f64);
            let detail = format!(
                "{count} in the last week did not end by themselves, the last noticed {ago} ago: {}",
                last.summary()
            );
            check(NAME, CheckResult::Warn, detail, Some(fix))
        }
        _ => pass(NAME, "no run of the last week ended badly".to_owned()),
    }
}

/// Whether launchd has the job, runs it at full speed, and has had to start it anew.
fn launchd(site: &Site) -> Check {
    const NAME: &str = "launchd";
    let found = match service::loaded(site) {
        Ok(found) => found,
        Err(error) => return skipped(NAME, &error.to_string()),
    };
    let Some((target, info)) = found else {
        let fix = "`omlxctl service install` or `brew services start omlx` keeps omlxd running";
        return check(NAME, CheckResult::Warn, "no job of omlxd is loaded".to_owned(), Some(fix));
    };
    judged(NAME, &target, &info)
}

fn judged(name: &str, target: &str, info: &JobInfo) -> Check {
    if info.has_failed() {
        let ending = info.ending().unwrap_or_default();
        let detail = format!("{target} does not stay up: it ended with {ending}");
        let fix = "look at the checks above, at `omlxctl logs`, and at logs/launchd.log";
        return check(name, CheckResult::Fail, detail, Some(fix));
    }
    let slow = ["background", "adaptive", "daemon", "standard"];
    let kind = info.spawn_type.as_deref().unwrap_or_default();
    if slow.contains(&kind) {
        let detail = format!("{target} runs as a {kind} job, which the system slows down");
        let fix = "reinstall the service so that its ProcessType is Interactive";
        return check(name, CheckResult::Fail, detail, Some(fix));
    }
    let state = info.state.as_deref().unwrap_or("loaded");
    pass(name, format!("{target} is {state}"))
}

fn daemon(status: &Status, version: &str) -> Check {
    let ours = env!("CARGO_PKG_VERSION");
    if version != ours {
        let detail = format!("omlxd is {version}, omlxctl is {ours}");
        let fix = "restart the daemon: `omlxctl service restart` or `brew services restart omlx`; else `omlxctl \
             shutdown` and start it";
        return check("daemon", CheckResult::Warn, detail, Some(fix));
    }
    pass("daemon", format!("{version} answers, process {}, http://{}", status.pid, status.http))
}

fn unreachable(base: &Path, error: &ClientError) -> Check {
    let told = match error {
        ClientError::Unreachable { cause, .. } if cause.kind() == std::io::ErrorKind::NotFound => {
            "it does not run: there is no socket".to_owned()
        }
        ClientError::Unreachable { .. } => {
            "it does not run: its socket is there, but nobody listens".to_owned()
        }
        other => other.to_string(),
    };
    let last = last_error(base).map(|line| format!("; the last error in its log: {line}"));
    let detail = format!("{told}{}", last.unwrap_or_default());
    let fix = "start it with `omlxd` (on macOS `omlxctl service start` or `brew services start omlx`); \
               `omlxctl logs` shows its log";
    check("daemon", CheckResult::Fail, detail, Some(fix))
}

/// The message of the last line of the log with level ERROR.
fn last_error(base: &Path) -> Option<String> {
    let mut file = files::open_to_read(&base.join("logs/omlxd.log")).ok()?;
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(end.saturating_sub(LOG_END_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(LOG_END_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut errors = lines.filter(|line| line["level"] == "ERROR");
    Some(errors.next()?["message"].as_str()?.to_owned())
}

/// Whether another process has the address of the configuration, or that the last daemon had.
fn port(base: &Path, configured: Option<String>) -> Check {
    let info = files::read(&base.join("run/omlxd.json"), SMALL_FILE_BYTES).ok();
    let info = info.and_then(|text| serde_json::from_slice::<RunInfo>(&text).ok());
    let address = info.map(|info| info.http).or(configured);
    let address = address.unwrap_or_else(|| "127.0.0.1:1337".to_owned());
    match std::net::TcpListener::bind(&address) {
        Ok(_) => pass("port", format!("{address} is free")),
        Err(error) => {
            let detail = format!("{address} cannot be had: {error}");
            let fix = "stop what uses it (`lsof -i`), or set server.port";
            check("port", CheckResult::Fail, detail, Some(fix))
        }
    }
}

/// A real answer of a real model, through the API.
async fn generation(context: &Context, model: Option<String>) -> Check {
    const NAME: &str = "generation";
    let asked = async {
        let model = api::model(context, model).await?;
        let body = json!({"model": model, "prompt": "Hello", "max_tokens": 4, "ignore_eos": true,
            "temperature": 0});
        let answer = Api::open(context).await?.post("/v1/completions", &body).await?;
        Ok::<_, CommandError>((model, answer))
    };
    match asked.await {
        Ok((model, answer)) => {
            let tokens = answer.body.pointer("/usage/completion_tokens").and_then(Value::as_u64);
            let (tokens, took) = (tokens.unwrap_or(0), output::time(answer.total.as_secs_f64()));
            if tokens == 0 {
                let fix = "look at the log: `omlxctl logs`";
                let detail = format!("{model} generated nothing");
                return check(NAME, CheckResult::Fail, detail, Some(fix));
            }
            pass(NAME, format!("{model} generated {tokens} tokens in {took}"))
        }
        Err(error) => {
            let detail = crate::exit::with_sources(&error);
            let fix = "look at the log: `omlxctl logs`";
            check(NAME, CheckResult::Fail, detail, Some(fix))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_can_read_fails_with_the_command_that_mends_it() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().join("base");
        assert_eq!(base_dir(&base).result, CheckResult::Fail);
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
        let open = base_dir(&base);
        assert_eq!(open.result, CheckResult::Fail);
        assert!(open.fix.unwrap().starts_with("chmod 700"));
        fs::set_permissions(&base, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(base_dir(&base).result, CheckResult::Pass);
        assert_eq!(key_file(&base).result, CheckResult::Warn);
        fs::write(base.join("api-key"), "k").unwrap();
        fs::set_permissions(base.join("api-key"), fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(key_file(&base).result, CheckResult::Fail);
        assert_eq!(socket_path(Path::new(&"x".repeat(104))).result, CheckResult::Fail);
    }

    #[test]
    fn the_log_tells_why_the_daemon_ended() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("logs")).unwrap();
        let lines = "{\"level\":\"ERROR\",\"message\":\"old\"}\n{\"level\":\"ERROR\",\"message\":\"new\"}\n\
                     {\"level\":\"INFO\",\"message\":\"bye\"}\n{\"level\":";
        fs::write(temp.path().join("logs/omlxd.log"), lines).unwrap();
        assert_eq!(last_error(temp.path()).as_deref(), Some("new"));
    }

    #[test]
    fn a_run_that_ended_badly_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path();
        assert_eq!(last_run(base).result, CheckResult::Pass);
        fs::create_dir_all(base.join("logs")).unwrap();
        fs::create_dir_all(base.join("run")).unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let note = |noticed_at| {
            let step = Some("loading m".to_owned());
            CrashNote { pid: 7, version: None, noticed_at, last_sign_at: None, step, panic: None }
        };
        let notes = [note(now - CRASH_SECS - 1), note(now - 60)];
        fs::write(base.join("logs/crashes.json"), serde_json::to_vec(&notes).unwrap()).unwrap();
        let told = last_run(base);
        assert_eq!(told.result, CheckResult::Warn);
        assert!(told.detail.starts_with("1 in") && told.detail.contains("loading m"), "{told:?}");
        // No process has a number beyond what the system allows.
        fs::write(base.join("run/lock"), "1999999999\n").unwrap();
        fs::write(base.join("run/step"), "a step of m: 1 rows decoding      \n").unwrap();
        let told = last_run(base);
        assert_eq!(told.result, CheckResult::Fail);
        assert!(told.detail.contains("a step of m: 1 rows decoding;"), "{told:?}");
        fs::write(base.join("run/lock"), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(last_run(base).result, CheckResult::Warn, "this process is there");
    }

    #[test]
    fn a_job_that_is_slowed_down_or_does_not_stay_up_is_told() {
        let print = |lines: &str| JobInfo::read(&format!("x = {{\n{lines}\n}}"));
        for (lines, result, words) in [
            (
                "state = running\npid = 1\nspawn type = interactive (4)",
                CheckResult::Pass,
                "running",
            ),
            ("state = running\npid = 1\nspawn type = daemon (3)", CheckResult::Fail, "slows"),
            ("state = running\npid = 1\nspawn type = background (2)", CheckResult::Fail, "slows"),
            ("state = spawn scheduled\nlast exit code = 78: EX_CONFIG", CheckResult::Fail, "78"),
            ("state = not running\nlast exit code = 0", CheckResult::Pass, "not running"),
        ] {
            let judged = judged("launchd", "gui/501/job", &print(lines));
            assert!(judged.result == result && judged.detail.contains(words), "{judged:?}");
        }
    }
}
