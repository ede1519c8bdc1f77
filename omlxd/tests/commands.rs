//! omlxctl against a running daemon: what it shows is what the daemon does.

#[allow(dead_code)]
mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{Daemon, eventually};
use omlx_tests::fixtures::Case;
use serde_json::{Value, json};

/// The model that comes with the daemon.
const TINY: &str = "omlx-tiny";
/// A random model with room for long prompts.
const LONG: &str = "test/long";

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A daemon with [`LONG`] beside the bundled model.
fn with_long() -> Daemon {
    let mut daemon = Daemon::new();
    let config = json!({"max_position_embeddings": 1_000_000});
    Case::any().with_config(config).write(&daemon.base.join("models").join(LONG)).unwrap();
    daemon.start(&[]);
    daemon
}

fn said(daemon: &Daemon, args: &[&str]) -> String {
    let output = daemon.ctl(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
    text(&output.stdout)
}

fn refused(daemon: &Daemon, args: &[&str]) -> String {
    let output = daemon.ctl(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {output:?}");
    text(&output.stderr)
}

/// The fields of a document, those of its parts with their paths; of a list, those of its first part.
fn fields(document: &Value, path: &str, found: &mut Vec<String>) {
    match document {
        Value::Object(map) => {
            for (key, value) in map {
                let path = format!("{path}.{key}");
                found.push(path.clone());
                fields(value, &path, found);
            }
        }
        Value::Array(list) => list.iter().take(1).for_each(|part| fields(part, path, found)),
        _ => {}
    }
}

/// The golden documents of omlxctl are what the daemon says: a field that one has, both have.
#[test]
fn the_daemon_answers_in_the_form_of_the_golden_documents() {
    let daemon = with_long();
    let answer = said(&daemon, &["chat", TINY, "Say hello", "--max-tokens", "4"]);
    assert!(!answer.is_empty());
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../omlxctl/tests/golden");
    // Maps whose keys are names and not fields, and what is there only while something runs.
    let open = [".models.misses.", ".store.dropped.", ".store.evicted.", ".store.namespaces."];
    for (method, path, file) in [
        ("GET", "version", "version.json"),
        ("GET", "status", "status.json"),
        ("GET", "models", "models.json"),
        ("GET", "models/omlx-tiny", "models_acme%2Fagent.json"),
        ("GET", "ps", "ps.json"),
        ("GET", "activity", "activity.json"),
        ("GET", "requests", "requests.json"),
        ("GET", "key", "key.json"),
        ("GET", "config", "config.json"),
        ("GET", "config/check", "config_check.json"),
        ("GET", "cache", "cache.json"),
        ("GET", "pulls", "pulls.json"),
        ("GET", "doctor", "doctor.json"),
        ("POST", "cache/verify", "cache_verify.ndjson"),
        ("POST", "cache/demote", "cache_demote.json"),
        ("POST", "cache/clear", "cache_clear.json"),
        ("POST", "models/test%2Flong/load", "models_acme%2Fagent_load.ndjson"),
        ("POST", "models/test%2Flong/unload", "models_acme%2Fagent_unload.ndjson"),
        ("POST", "models/test%2Flong/pin", "models_acme%2Fagent_pin.json"),
        ("POST", "models/test%2Flong/unpin", "models_acme%2Fagent_unpin.json"),
        ("POST", "models/test%2Flong/remove?cache=1", "models_acme%2Fagent_remove.json"),
        ("POST", "key/rotate", "key_rotate.json"),
        ("POST", "keys/laptop/add", "keys_laptop_add.json"),
        ("GET", "keys", "keys.json"),
        ("POST", "keys/laptop/revoke", "keys_laptop_revoke.json"),
        ("POST", "shutdown", "shutdown.json"),
    ] {
        let theirs = last_document(&daemon, method, path);
        let ours = fs::read_to_string(golden.join(file)).unwrap();
        let ours = if file.ends_with(".ndjson") { ours.lines().last().unwrap() } else { &ours };
        let shape = |document: &Value| {
            let mut all = Vec::new();
            fields(document, "", &mut all);
            all.retain(|field| !open.iter().any(|part| field.starts_with(part)));
            all
        };
        let (theirs, ours) = (shape(&theirs), shape(&serde_json::from_str(ours).unwrap()));
        let missing: Vec<_> = ours.iter().filter(|field| !may_lack(&theirs, field)).collect();
        assert!(missing.is_empty(), "{path}: the daemon does not say {missing:?}");
        let unknown: Vec<_> = theirs.iter().filter(|field| !ours.contains(field)).collect();
        assert!(unknown.is_empty(), "{file} lacks {unknown:?}");
    }
}

/// Whether a document with these fields has this one too, or has nothing where it would be: an empty
/// list has no part to look at.
fn may_lack(fields: &[String], field: &str) -> bool {
    if fields.iter().any(|other| other == field) {
        return true;
    }
    let parents = field.match_indices('.').map(|(end, _)| &field[..end]).filter(|p| !p.is_empty());
    let known: Vec<&str> = parents.filter(|parent| fields.iter().any(|f| f == parent)).collect();
    known.last().is_some_and(|parent| {
        let below = format!("{parent}.");
        !fields.iter().any(|other| other.starts_with(&below))
    })
}

/// The answer of an admin route; of lines the last one.
fn last_document(daemon: &Daemon, method: &str, path: &str) -> Value {
    let answer = daemon.admin(&format!(
        "{method} /admin/v1/{path} HTTP/1.1\r\nHost: omlxd\r\nConnection: close\r\n\r\n"
    ));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    let mut lines = body.lines().filter(|line| line.starts_with('{'));
    serde_json::from_str(lines.next_back().unwrap()).unwrap()
}

#[test]
fn a_model_is_loaded_pinned_shown_unloaded_and_removed() {
    let daemon = with_long();
    let shown = daemon.ctl_json(&["models", "show", LONG]);
    assert_eq!((&shown["state"], &shown["source"]), (&json!("unloaded"), &json!("folder")));
    assert_eq!(shown["facts"]["context_tokens"], 1_000_000);
    assert!(shown["facts"]["memory_bytes"].as_u64() > Some(1000), "{shown}");
    assert!(said(&daemon, &["pin", LONG]).contains("is pinned"));
    assert!(said(&daemon, &["pin", LONG]).contains("already pinned"));
    assert!(said(&daemon, &["load", LONG]).starts_with("test/long is loaded: "));
    let ps = daemon.ctl_json(&["ps"]);
    assert_eq!((&ps["models"][0]["id"], &ps["models"][0]["pinned"]), (&json!(LONG), &json!(true)));
    assert!(refused(&daemon, &["unload", LONG]).contains("`omlxctl unpin test/long` first"));
    assert!(refused(&daemon, &["models", "rm", LONG, "-y"]).contains("pinned"));
    assert!(said(&daemon, &["unpin", LONG]).contains("is not pinned"));
    assert!(said(&daemon, &["unload", LONG]).starts_with("test/long is unloaded: "));
    assert_eq!(daemon.ctl_json(&["ps"])["models"], json!([]));
    assert!(refused(&daemon, &["unload", LONG]).contains("is not loaded"));
    assert!(said(&daemon, &["models", "rm", LONG, "-y"]).starts_with("removed test/long"));
    assert!(!daemon.base.join("models").join(LONG).exists());
    let unknown = refused(&daemon, &["load", "omlx-tyni"]);
    assert!(unknown.contains("no model is called omlx-tyni; there is: omlx-tiny"), "{unknown}");
}

#[test]
fn doctor_generates_for_real_and_says_what_is_wrong() {
    let daemon = Daemon::started();
    let checks = daemon.ctl(&["--json", "doctor"]);
    assert_eq!(checks.status.code(), Some(0), "{}", text(&checks.stdout));
    let checks: Value = serde_json::from_slice(&checks.stdout).unwrap();
    let find = |name: &str| {
        let all = checks["checks"].as_array().unwrap();
        all.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {checks}"))
    };
    for name in ["base directory", "API key", "configuration", "daemon", "engine", "models"] {
        assert_eq!(find(name)["result"], "pass", "{name}: {checks}");
    }
    // Its port is none that the configuration has.
    let (detail, http) = (find("configuration")["detail"].as_str(), daemon.info().unwrap().http);
    assert!(detail.unwrap().ends_with(&format!("the one that runs serves on {http}")), "{checks}");
    let generated = find("generation");
    assert_eq!(generated["result"], "pass");
    let detail = generated["detail"].as_str().unwrap();
    assert!(detail.starts_with("omlx-tiny generated 4 tokens in "), "{detail}");
    let loaded = daemon.ctl_json(&["ps"]);
    assert_eq!(loaded["models"][0]["id"], TINY, "it was a real one");

    fs::set_permissions(daemon.base.join("api-key"), fs::Permissions::from_mode(0o644)).unwrap();
    let ill = daemon.ctl(&["doctor", "--no-generate"]);
    assert_eq!(ill.status.code(), Some(1), "{}", text(&ill.stdout));
    assert!(text(&ill.stdout).contains("-> chmod 600 "), "{}", text(&ill.stdout));
}

#[test]
fn bench_measures_computing_and_restoring() {
    let daemon = Daemon::started();
    let args = ["bench", TINY, "--prompt-tokens", "1200", "--tokens", "16", "--rounds", "1"];
    let report = daemon.ctl_json(&args);
    let prompt = report["prompt_tokens"].as_u64().unwrap();
    assert!(prompt >= 1200, "{report}");
    assert_eq!((&report["model"], &report["generated_tokens"]), (&json!(TINY), &json!(16)));
    let number = |of: &str, name: &str| report[of][name].as_f64().unwrap();
    assert_eq!(number("computed", "tokens_computed"), prompt as f64);
    assert!(number("from_ram", "tokens_from_ram") >= 1024.0, "{report}");
    assert_eq!(number("from_ssd", "tokens_from_ram"), 0.0, "{report}");
    assert!(number("from_ssd", "tokens_from_ssd") >= 1024.0, "{report}");
    for of in ["computed", "from_ram", "from_ssd"] {
        assert!(number(of, "seconds_to_first_token") > 0.0, "{report}");
    }
    assert!(report["decode_tokens_per_second"].as_f64() > Some(0.0), "{report}");
    let table =
        said(&daemon, &["bench", "--prompt-tokens", "64", "--tokens", "8", "--rounds", "1"]);
    for word in ["prefill", "decode", "FIRST TOKEN", "from RAM", "from SSD"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn logs_shows_what_the_daemon_logs_and_follows_it() {
    let daemon = Daemon::started();
    let shown = said(&daemon, &["logs"]);
    assert!(shown.contains("INFO") && shown.contains("ready"), "{shown}");
    let mode = fs::metadata(daemon.base.join("logs/omlxd.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut follow = daemon.ctl_command(&["logs", "-f", "-n", "0"]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    // Whatever is logged while it looks comes out, in full lines.
    let load = std::thread::scope(|scope| {
        let found = scope
            .spawn(move || lines.map_while(Result::ok).find(|line| line.contains("model loaded")));
        while !found.is_finished() {
            daemon.ctl(&["load", TINY]);
            daemon.ctl(&["unload", TINY]);
        }
        found.join().unwrap()
    });
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert!(load.is_some_and(|line| line.contains("model=omlx-tiny")), "it shows the fields too");
}

#[test]
fn top_counts_what_is_generated() {
    let daemon = Daemon::started();
    said(&daemon, &["chat", TINY, "Say hello", "--max-tokens", "8"]);
    let look = daemon.ctl_json(&["top", "--interval", "10ms"]);
    assert!(look["activity"]["generated_tokens"].as_u64() > Some(0), "{look}");
    assert_eq!(look["models"]["models"][0]["id"], TINY);
    let shown = said(&daemon, &["top", "-n", "2", "--interval", "10ms"]);
    assert_eq!(shown.matches("tokens/s").count(), 2, "{shown}");
    assert!(shown.contains(TINY) && shown.contains("No request is in flight."), "{shown}");
}

/// The kernel says who asks: another user is refused even where files would let them in.
#[test]
fn another_user_cannot_use_the_socket() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        // Only root may start a process of another user; the check itself has a test beside it.
        return;
    }
    let daemon = Daemon::started();
    let open = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // Where the build put omlxctl, the other user may have no way to.
    let outside = daemon.base.parent().unwrap();
    let copy = outside.join("omlxctl");
    // Not by this process: a program that it writes cannot be run while a child of another test, forked
    // meanwhile, still has the file open.
    let mut cp = Command::new("cp");
    cp.arg(daemon.ctl_command(&[]).get_program()).arg(&copy);
    assert!(cp.status().unwrap().success());
    open(outside, 0o755);
    open(&copy, 0o755);
    let as_nobody = || -> Output {
        let mut command = Command::new(&copy);
        command.env_clear().uid(NOBODY).gid(NOBODY).arg("--socket").arg(daemon.socket());
        // A busy machine is no reason for another exit code.
        command.args(["--timeout", "60s", "status"]).output().unwrap()
    };
    let no_way = as_nobody();
    assert_eq!(no_way.status.code(), Some(4), "{no_way:?}");
    open(&daemon.base, 0o755);
    open(&daemon.base.join("run"), 0o755);
    open(&daemon.socket(), 0o666);
    let inside = as_nobody();
    assert_eq!(inside.status.code(), Some(4), "{inside:?}");
    let said = text(&inside.stderr);
    assert!(said.contains("only the user who runs omlxd, and root"), "{said}");
    assert!(inside.stdout.is_empty());
}

/// The admin socket never waits for the engine.
#[test]
fn status_answers_at_once_while_a_long_prompt_is_computed() {
    const LIMIT: Duration = Duration::from_millis(50);
    const LOOKS: usize = 21;
    let daemon = with_long();
    said(&daemon, &["load", LONG]);
    let prompt: Vec<u32> = (0..40_000).map(|n| n % 200 + 20).collect();
    let body = json!({"model": LONG, "prompt": prompt, "max_tokens": 1, "stream": true});
    let key = fs::read_to_string(daemon.base.join("api-key")).unwrap();
    let body = body.to_string();
    let request = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        key.trim(),
        body.len()
    );
    std::thread::scope(|scope| {
        scope.spawn(|| daemon.http(&request));
        let in_flight = || daemon.ctl_json(&["requests"])["requests"][0].clone();
        eventually("the prefill", || (in_flight()["phase"] == "prefill").then_some(()));
        let mut took: Vec<Duration> = (0..LOOKS)
            .map(|_| {
                let begin = Instant::now();
                let answer = daemon.admin(
                    "GET /admin/v1/status HTTP/1.1\r\nHost: omlxd\r\nConnection: close\r\n\r\n",
                );
                assert!(
                    answer.contains("\"busy\":true"),
                    "the prefill was over too soon: {answer}"
                );
                begin.elapsed()
            })
            .collect();
        took.sort();
        let still = in_flight();
        assert_eq!(still["phase"], "prefill", "{still}");
        daemon.ctl(&["cancel", still["id"].as_str().unwrap()]);
        // Other tests use the same processors: what is looked for is a wait for the engine, which
        // would be in all of them.
        assert!(took[LOOKS / 2] < LIMIT, "{took:?}");
    });
}
