//! Against a launchctl that notes what it is asked and plays what it is given. Its texts are written
//! after what macOS prints; they do not come from a Mac.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

const RUNNING: &str = include_str!("../../tests/launchctl/print-running.txt");
const FAILED: &str = include_str!("../../tests/launchctl/print-failed.txt");
const GUI: &str = "gui/501";
const TARGET: &str = "gui/501/io.github.omlx.omlxd";
const OWN: Whose = Whose { system: false };

/// A home, a launchctl, and an omlxd.
struct Mac {
    temp: tempfile::TempDir,
    site: Site,
    plays: usize,
}

impl Mac {
    fn new() -> Mac {
        let temp = tempfile::tempdir().unwrap();
        let at = temp.path();
        fs::create_dir_all(at.join("plays")).unwrap();
        fs::create_dir_all(at.join("home")).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/launchctl/fake.sh");
        symlink(script, at.join("launchctl")).unwrap();
        let site = Site {
            launchctl: at.join("launchctl"),
            id: "/usr/bin/id".into(),
            omlxd: Some("/opt/homebrew/opt/omlx/libexec/bin/omlxd".into()),
            home: Some(at.join("home")),
            daemons: at.join("daemons"),
            uid: 501,
            pause: Duration::from_millis(1),
        };
        let mut mac = Mac { temp, site, plays: 0 };
        // Somebody sits at the screen, and Homebrew runs nothing.
        mac.always("print gui/501", 0, "gui/501 = {\n}");
        mac
    }

    fn add(&mut self, pattern: &str, code: i32, text: &str, suffix: &str) {
        // Earlier ones first, and lasting ones last.
        let name =
            format!("{}{:03}{suffix}", if suffix.is_empty() { 'a' } else { 'b' }, self.plays);
        self.plays += 1;
        let play = self.temp.path().join("plays").join(name);
        fs::write(play, format!("{pattern}\n{code}\n{text}\n")).unwrap();
    }

    fn once(&mut self, pattern: &str, code: i32, text: &str) {
        self.add(pattern, code, text, "");
    }

    fn always(&mut self, pattern: &str, code: i32, text: &str) {
        self.add(pattern, code, text, ".always");
    }

    /// launchd does not have the job until it is told to.
    fn absent_then_running(&mut self) {
        self.once(&format!("print {TARGET}"), 113, "Could not find service");
        self.always(&format!("enable {TARGET}"), 0, "");
        self.always("bootstrap *", 0, "");
        self.always(&format!("print {TARGET}"), 0, RUNNING);
    }

    fn run(&self, command: Service) -> Done {
        let base = self.temp.path().join("base");
        let output = Output::new(true, true, true);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(&self.site, command, Some(&base), output))
    }

    /// What was asked that changes something.
    fn changes(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.temp.path().join("calls")).unwrap_or_default();
        let changes = calls.lines().filter(|call| !call.starts_with("print "));
        changes.map(str::to_owned).collect()
    }

    fn plist(&self) -> PathBuf {
        self.temp.path().join("home/Library/LaunchAgents/io.github.omlx.omlxd.plist")
    }

    fn install_file(&self) {
        plist::write(&self.plist(), "a property list").unwrap();
    }
}

fn install() -> Service {
    Service::Install { whose: OWN, user: "_omlx".to_owned() }
}

fn message(done: Done) -> String {
    done.unwrap_err().to_string()
}

#[test]
fn install_writes_the_list_and_bootstraps_the_job() {
    let mut mac = Mac::new();
    mac.absent_then_running();
    mac.run(install()).unwrap();
    let plist = mac.plist();
    assert_eq!(
        mac.changes(),
        [
            format!("bootout {TARGET}"),
            format!("enable {TARGET}"),
            format!("bootstrap {GUI} {}", plist.display()),
        ]
    );
    let text = fs::read_to_string(&plist).unwrap();
    assert_eq!(fs::metadata(&plist).unwrap().permissions().mode() & 0o777, 0o644);
    assert!(!text.contains('@'), "{text}");
    let base = mac.temp.path().join("base");
    assert!(text.contains(&format!("<string>{}/logs/launchd.log</string>", base.display())));
    assert!(text.contains("<string>/opt/homebrew/opt/omlx/libexec/bin/omlxd</string>"));
    assert_eq!(fs::metadata(&base).unwrap().permissions().mode() & 0o777, 0o700);
    let log = fs::metadata(base.join("logs/launchd.log")).unwrap();
    assert_eq!(log.permissions().mode() & 0o777, 0o600);
}

#[test]
fn without_a_screen_the_job_is_the_users_own() {
    let mut mac = Mac::new();
    mac.site.uid = 777;
    mac.once("print user/777/io.github.omlx.omlxd", 113, "Could not find service");
    mac.always("enable *", 0, "");
    mac.always("bootstrap user/777 *", 0, "");
    mac.always("print user/777/io.github.omlx.omlxd", 0, RUNNING);
    mac.run(install()).unwrap();
    assert!(mac.changes()[2].starts_with("bootstrap user/777 "), "{:?}", mac.changes());
}

#[test]
fn a_job_that_homebrew_runs_is_left_alone() {
    for domain in [GUI, "system"] {
        let mut mac = Mac::new();
        mac.install_file();
        mac.always(&format!("print {domain}/homebrew.mxcl.omlx"), 0, RUNNING);
        for command in [install(), Service::Start(OWN), Service::Restart(OWN)] {
            let said = message(mac.run(command));
            assert!(said.contains(&format!("({domain}/homebrew.mxcl.omlx)")), "{said}");
            assert!(said.contains("brew services stop omlx"), "{said}");
        }
        assert_eq!(mac.changes(), [""; 0], "nothing was changed");
    }
}

#[test]
fn what_is_not_installed_says_what_to_run() {
    let mut mac = Mac::new();
    for command in [Service::Start(OWN), Service::Stop(OWN), Service::Restart(OWN)] {
        let said = message(mac.run(command));
        assert!(said.contains("run `omlxctl service install`"), "{said}");
    }
    assert!(message(mac.run(Service::Uninstall(OWN))).contains("is not installed"));
    mac.always("print gui/501/homebrew.mxcl.omlx", 0, RUNNING);
    assert!(message(mac.run(Service::Stop(OWN))).contains("use `brew services`"));
}

#[test]
fn stop_asks_again_while_launchd_is_busy() {
    let mut mac = Mac::new();
    mac.install_file();
    let bootout = format!("bootout {TARGET}");
    mac.once(&bootout, 0, "");
    mac.once(&bootout, 36, "Boot-out failed: 36: Operation now in progress");
    mac.once(&bootout, 37, "Boot-out failed: 37: Operation already in progress");
    mac.once(&bootout, 3, "Boot-out failed: 3: No such process");
    mac.run(Service::Stop(OWN)).unwrap();
    assert_eq!(mac.changes(), vec![bootout; 4]);
    assert!(message(mac.run(Service::Stop(OWN))).contains("does not run"));
}

#[test]
fn start_bootstraps_or_kickstarts_or_has_nothing_to_do() {
    let mut mac = Mac::new();
    mac.install_file();
    let bootstrap = format!("bootstrap {GUI} {}", mac.plist().display());
    // For a moment after a bootout launchd does not take it.
    mac.once("bootstrap *", 5, "Bootstrap failed: 5: Input/output error");
    mac.once("bootstrap *", 37, "Bootstrap failed: 37: Operation already in progress");
    mac.absent_then_running();
    mac.run(Service::Start(OWN)).unwrap();
    let enable = format!("enable {TARGET}");
    assert_eq!(mac.changes(), [enable, bootstrap.clone(), bootstrap.clone(), bootstrap]);
    mac.run(Service::Start(OWN)).unwrap();
    assert_eq!(mac.changes().len(), 4, "it runs already");

    let mut mac = Mac::new();
    mac.install_file();
    let stopped = "x = {\n\tstate = not running\n\tlast exit code = 0\n}";
    mac.once(&format!("print {TARGET}"), 0, stopped);
    mac.once("kickstart *", 0, "");
    mac.always(&format!("print {TARGET}"), 0, RUNNING);
    mac.run(Service::Start(OWN)).unwrap();
    assert_eq!(mac.changes(), [format!("kickstart {TARGET}")]);
}

#[test]
fn restart_lets_the_old_process_end_before_it_loads_the_new_list() {
    let mut mac = Mac::new();
    mac.install_file();
    let bootout = format!("bootout {TARGET}");
    mac.once(&bootout, 0, "");
    mac.once(&bootout, 36, "Boot-out failed: 36: Operation now in progress");
    mac.absent_then_running();
    mac.run(Service::Restart(OWN)).unwrap();
    let verbs: Vec<String> =
        mac.changes().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(verbs, ["bootout", "bootout", "bootout", "enable", "bootstrap"]);
}

#[test]
fn a_daemon_that_does_not_stay_up_is_told_with_its_exit_code() {
    let mut mac = Mac::new();
    mac.install_file();
    mac.once(&format!("print {TARGET}"), 113, "");
    mac.always("enable *", 0, "");
    mac.always("bootstrap *", 0, "");
    mac.always(&format!("print {TARGET}"), 0, FAILED);
    let said = message(mac.run(Service::Start(OWN)));
    assert!(said.contains("exit code 78: EX_CONFIG: the configuration has problems"), "{said}");
    assert!(said.contains("omlxctl doctor"), "{said}");
}

#[test]
fn what_launchd_refuses_is_told_in_words() {
    for (code, text, words) in [
        (5, "Bootstrap failed: 5: Input/output error", "does not take the property list"),
        (119, "Bootstrap failed: 119: Service is disabled", "is disabled"),
        (125, "Bootstrap failed: 125: Domain does not support specified action", "--system"),
        (1, "Not privileged", "sudo"),
        (140, "something new", "something new"),
    ] {
        let mut mac = Mac::new();
        mac.install_file();
        mac.always("enable *", 0, "");
        mac.always("bootstrap *", code, text);
        let said = message(mac.run(Service::Start(OWN)));
        assert!(said.contains(words) && said.contains(text), "{said}");
        assert!(said.contains(&format!("failed with {code}")), "{said}");
    }
}

#[test]
fn uninstall_stops_the_job_and_removes_its_list() {
    let mut mac = Mac::new();
    mac.install_file();
    mac.once("bootout *", 0, "");
    mac.run(Service::Uninstall(OWN)).unwrap();
    assert!(!mac.plist().exists());
}

#[test]
fn status_is_0_while_it_runs_and_3_otherwise() {
    let mut mac = Mac::new();
    let absent = mac.run(Service::Status(OWN)).unwrap_err();
    assert_eq!(absent.exit(), crate::exit::Exit::Unreachable);
    assert!(absent.to_string().contains("service install"), "{absent}");
    mac.once(&format!("print {TARGET}"), 0, RUNNING);
    mac.run(Service::Status(OWN)).unwrap();
    mac.once(&format!("print {TARGET}"), 0, FAILED);
    assert!(mac.run(Service::Status(OWN)).is_err());
    assert_eq!(mac.changes(), [""; 0]);
}

#[test]
fn the_whole_macs_job_is_roots_and_a_users_is_not() {
    let mac = Mac::new();
    let whole = Service::Install { whose: Whose { system: true }, user: "nobody".to_owned() };
    let refused = mac.run(whole).unwrap_err();
    assert_eq!(refused.exit(), crate::exit::Exit::Permission);
    assert!(refused.to_string().contains("sudo"), "{refused}");
    let mut mac = Mac::new();
    mac.site.uid = 0;
    let refused = mac.run(install()).unwrap_err();
    assert_eq!(refused.exit(), crate::exit::Exit::Permission);
    assert!(refused.to_string().contains("without sudo"), "{refused}");
    assert_eq!(mac.changes(), [""; 0]);
}

#[test]
fn the_whole_macs_job_runs_as_a_user_of_its_own() {
    let mut mac = Mac::new();
    mac.site.uid = 0;
    let whole =
        |user: &str| Service::Install { whose: Whose { system: true }, user: user.to_owned() };
    assert!(message(mac.run(whole("no-such-user"))).contains("there is no user no-such-user"));
    assert!(message(mac.run(whole("root"))).contains("no need of root"));
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: giving a folder to another user needs root");
        return;
    }
    mac.once("print system/io.github.omlx.omlxd", 113, "");
    mac.always("enable *", 0, "");
    mac.always("bootstrap system *", 0, "");
    mac.always("print system/io.github.omlx.omlxd", 0, RUNNING);
    mac.run(whole("nobody")).unwrap();
    let text = fs::read_to_string(mac.site.daemons.join("io.github.omlx.omlxd.plist")).unwrap();
    assert!(text.contains("<key>UserName</key>\n\t<string>nobody</string>"), "{text}");
    for path in ["base", "base/logs", "base/logs/launchd.log"] {
        assert_ne!(fs::metadata(mac.temp.path().join(path)).unwrap().uid(), 0, "{path}");
    }
}

#[test]
fn without_launchctl_there_is_one_line() {
    let mut mac = Mac::new();
    mac.site.launchctl = "/nonexistent/launchctl".into();
    let error = mac.run(Service::Status(OWN)).unwrap_err();
    assert_eq!(error.exit(), crate::exit::Exit::Failed);
    assert!(error.to_string().starts_with("there is no launchctl here"), "{error}");
}

#[test]
fn only_the_jobs_own_lines_count() {
    let info = JobInfo::read(RUNNING);
    assert_eq!(
        info,
        JobInfo {
            state: Some("running".to_owned()),
            pid: Some(4242),
            last_exit: Some("Abort trap: 6".to_owned()),
            spawn_type: Some("interactive".to_owned()),
            path: Some("/Users/me/Library/LaunchAgents/io.github.omlx.omlxd.plist".into()),
            runs: Some(2),
        }
    );
    assert!(info.is_running() && !info.has_failed());
    let failed = JobInfo::read(FAILED);
    assert!(!failed.is_running() && failed.has_failed());
    for good in ["last exit code = 0", "last exit code = 0: EX_OK"] {
        assert!(!JobInfo::read(&format!("x = {{\n\t{good}\n}}")).has_failed(), "{good}");
    }
    assert_eq!(JobInfo::read("nothing of the kind\n}\n}"), JobInfo::default());
}

#[test]
fn paths_are_stable_and_escaped() {
    for (path, stable) in [
        (
            "/opt/homebrew/Cellar/omlx/0.1.0/libexec/bin/omlxd",
            "/opt/homebrew/opt/omlx/libexec/bin/omlxd",
        ),
        ("/opt/homebrew/Cellar/omlx", "/opt/homebrew/Cellar/omlx"),
        ("/usr/local/bin/omlxd", "/usr/local/bin/omlxd"),
    ] {
        assert_eq!(plist::stable(Path::new(path)), Path::new(stable));
    }
    let filling =
        plist::Filling { omlxd: Path::new("/a & b/<omlxd>"), base: Path::new("/b"), user: None };
    let text = plist::text(&filling).unwrap();
    assert!(text.contains("<string>/a &amp; b/&lt;omlxd&gt;</string>"), "{text}");
}
