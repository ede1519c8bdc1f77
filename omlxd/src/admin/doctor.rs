//! What the daemon knows of its own health. `omlxctl doctor` adds what can be seen from outside.

use omlxctl::protocol::{Check, CheckResult, Checks};

use super::answer::{Answer, Asked, json};
use super::peer::AdminPeer;
use crate::daemon::Daemon;
use crate::registry::other_purpose;

pub(super) fn checks(_: AdminPeer, daemon: &Daemon, _: &Asked) -> Answer {
    json(&Checks { checks: vec![device(), progress(daemon), models(daemon), cache(daemon)] })
}

fn check(name: &str, result: CheckResult, detail: String, fix: Option<&str>) -> Check {
    Check { name: name.to_owned(), result, detail, fix: fix.map(str::to_owned) }
}

fn device() -> Check {
    let version = engine::mlx_version();
    if engine::has_metal() {
        return check("GPU", CheckResult::Pass, format!("MLX {version} computes with Metal"), None);
    }
    let detail = format!("MLX {version} computes on the CPU: there is no Metal device");
    // What a Mac without one lacks is a session with access to the GPU, or a metallib.
    let result = if cfg!(target_os = "macos") { CheckResult::Fail } else { CheckResult::Warn };
    let fix = "on Apple Silicon, run omlxd as a login user's service (`brew services start omlx`)";
    check("GPU", result, detail, Some(fix))
}

fn progress(daemon: &Daemon) -> Check {
    let progress = daemon.app.engine.progress();
    let since = progress.since_last_step.as_secs();
    if progress.busy && !progress.loading && since > 30 {
        let detail = format!("a request runs, and the last step ended {since} s ago");
        let fix = Some("look at `omlxctl requests` and the log; restart omlxd if it stays so");
        return check("engine", CheckResult::Fail, detail, fix);
    }
    let detail = format!("{} requests running, {} waiting", progress.running, progress.waiting);
    check("engine", CheckResult::Pass, detail, None)
}

fn models(daemon: &Daemon) -> Check {
    let registry = &daemon.app.registry;
    let budget = registry.room().budget_bytes;
    let (mut usable, mut problems) = (0, Vec::new());
    for entry in registry.catalog().list() {
        match registry.catalog().facts(&entry) {
            Ok(facts) if facts.weight_bytes <= budget => match other_purpose(&entry.dir) {
                None => usable += 1,
                Some(what) => problems.push(format!("{}: {what}", entry.id)),
            },
            Ok(_) => problems.push(format!("{} is larger than memory.budget", entry.id)),
            Err(why) => problems.push(format!("{}: {why}", entry.id)),
        }
    }
    if usable == 0 {
        let detail = format!("no model can be used. {}", problems.join("; "));
        let fix = Some("get one with `omlxctl pull org/name`");
        return check("models", CheckResult::Fail, detail, fix);
    }
    if problems.is_empty() {
        return check("models", CheckResult::Pass, format!("{usable} can be used"), None);
    }
    let detail =
        format!("{usable} can be used, {} cannot: {}", problems.len(), problems.join("; "));
    check(
        "models",
        CheckResult::Warn,
        detail,
        Some("remove what you do not need with `omlxctl models rm`"),
    )
}

fn cache(daemon: &Daemon) -> Check {
    let app = &daemon.app;
    if !app.config.cache.enabled {
        let fix = Some("set cache.enabled = true");
        return check("cache", CheckResult::Warn, "it is off".to_owned(), fix);
    }
    if let Some(problem) = &app.cache.problem {
        let fix = Some("make the folder usable, or name another with cache.ssd_dir, and restart");
        return check("cache", CheckResult::Fail, problem.clone(), fix);
    }
    let stats = app.cache.store.as_ref().map(|store| store.stats());
    let failures = stats.as_ref().map_or(0, |s| s.counters.verify_failures.iter().sum::<u64>());
    if stats.as_ref().is_some_and(|stats| stats.saving_paused) {
        let detail = "the disk is full, or below cache.ssd_min_free: nothing is saved".to_owned();
        return check("cache", CheckResult::Warn, detail, Some("make room on the disk"));
    }
    if failures > 0 {
        let detail = format!("{failures} records failed their checks and were set aside");
        return check("cache", CheckResult::Warn, detail, Some("check the disk"));
    }
    check("cache", CheckResult::Pass, format!("{} is in use", app.cache.dir.display()), None)
}
