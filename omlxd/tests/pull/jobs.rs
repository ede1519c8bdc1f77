//! Pulls of a daemon: asked for, left, joined, and survived.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Duration;

use omlx_tests::fixtures::Case;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::common::{Daemon, eventually};
use crate::hub::{Fault, Hub, TOKEN};

fn world() -> (Hub, Daemon) {
    let source = tempfile::tempdir().unwrap();
    Case::named("qwen3-default-f32").write(source.path()).unwrap();
    let hub = Hub::of(source.path());
    let mut daemon = Daemon::new();
    daemon.env.push(("HF_ENDPOINT", hub.endpoint.clone()));
    (hub, daemon)
}

fn ids(daemon: &Daemon) -> Vec<String> {
    let models = daemon.ctl_json(&["models", "list"]);
    let models = models["models"].as_array().unwrap();
    models.iter().map(|model| model["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pull_goes_on_without_its_client_and_is_joined() {
    let (hub, mut daemon) = world();
    hub.fault("model.safetensors", [Fault::Slow(2048, Duration::from_millis(10))]);
    daemon.start(&[]);
    let mut first = daemon.ctl_command(&["--json", "pull", "org/model"]);
    let mut first = first.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    let begun: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&begun["event"], &begun["id"]), (&"progress".into(), &"org/model".into()));
    // Ctrl-C leaves the daemon to it, and says how to come back.
    let pid = Pid::from_raw(first.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    drop(lines);
    let first = first.wait_with_output().unwrap();
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(said.contains("org/model is still being pulled by the daemon"), "{said}");
    for next in ["`omlxctl pull org/model` shows it again", "`omlxctl pull --cancel org/model`"] {
        assert!(said.contains(next), "{said}");
    }
    let shown = daemon.ctl(&["models", "list"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("pulling"), "{shown:?}");
    let refused = daemon.ctl(&["models", "rm", "org/model", "--yes"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let second = daemon.ctl(&["pull", "org/model"]);
    assert!(second.status.success(), "{second:?}");
    let text = String::from_utf8_lossy(&second.stdout).into_owned();
    assert!(text.contains("org/model") && text.contains(&"a1".repeat(20)), "{text}");
    assert_eq!(hub.ranges("model.safetensors"), [0], "one download for both");
    let answer = daemon.ctl(&["chat", "org/model", "hello", "--max-tokens", "2"]);
    assert!(answer.status.success(), "{answer:?}");
    let removed = daemon.ctl_json(&["models", "rm", "org/model", "--yes", "--cache"]);
    assert!(removed["bytes"].as_u64() > Some(1000), "{removed}");
    assert!(!ids(&daemon).contains(&"org/model".to_owned()));
}

#[test]
fn a_token_is_never_in_the_log() {
    let (hub, mut daemon) = world();
    hub.change(|state| state.needs_token = true);
    daemon.env.push(("OMLX_LOG_LEVEL", "trace".to_owned()));
    daemon.start(&[]);
    let refused = daemon.ctl(&["pull", "org/model"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("HF_TOKEN"), "{refused:?}");
    let mut with_token = daemon.ctl_command(&["pull", "org/model"]);
    let pulled = with_token.env("HF_TOKEN", TOKEN).output().unwrap();
    assert!(pulled.status.success(), "{pulled:?}");
    for text in [daemon.log(), format!("{pulled:?}")] {
        assert!(!text.contains(TOKEN), "{text}");
    }
}

/// `OMLX_PULL_KILLS` sets another number.
#[test]
fn a_daemon_killed_at_any_moment_of_a_pull_goes_on_to_a_verified_model() {
    let kills = std::env::var("OMLX_PULL_KILLS").ok().and_then(|kills| kills.parse().ok());
    let kills: u64 = kills.unwrap_or(5);
    let (hub, mut daemon) = world();
    hub.change(|state| state.always = Some(Fault::Slow(8192, Duration::from_millis(4))));
    let mut random = 0x9E37_79B9_7F4A_7C15u64;
    let (mut pulls, mut whole) = (0, 0);
    for _ in 0..kills {
        daemon.start(&[]);
        if ids(&daemon).contains(&"org/model".to_owned()) {
            // Done before it was killed: it must be whole; begin anew.
            let answer = daemon.ctl(&["chat", "org/model", "hello", "--max-tokens", "1"]);
            assert!(answer.status.success(), "{answer:?}");
            whole += 1;
            daemon.ctl_json(&["models", "rm", "org/model", "--yes"]);
        }
        let mut pull = daemon.ctl_command(&["-q", "pull", "org/model"]);
        let mut pull = pull.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        pulls += 1;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        std::thread::sleep(Duration::from_millis((random >> 33) % 400));
        daemon.signal(Signal::KILL);
        daemon.wait();
        let _ = pull.wait();
    }
    hub.change(|state| state.always = None);
    daemon.start(&[]);
    let last = daemon.ctl(&["pull", "org/model"]);
    assert!(last.status.success(), "{last:?}");
    let answer = daemon.ctl(&["chat", "org/model", "hello", "--max-tokens", "2"]);
    assert!(answer.status.success(), "{answer:?}");
    eventually("the pull has left the list", || {
        daemon.ctl_json(&["status"])["pulls"].as_u64().filter(|pulls| *pulls == 0)
    });
    let resumed = hub.ranges("model.safetensors").iter().filter(|from| **from > 0).count();
    let told = format!(
        "{pulls} pulls killed, {whole} of them after their end; {resumed} ranges resumed\n"
    );
    let _ = std::io::stdout().write_all(told.as_bytes());
    assert!(kills < 5 || resumed > 0, "no pull was killed in the middle of a file");
}
