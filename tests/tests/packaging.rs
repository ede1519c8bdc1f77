//! What macOS and Homebrew will be given, checked as far as it can be elsewhere: property lists, the
//! formula's template, and the script that fills it in.

#![expect(clippy::print_stderr, reason = "who runs the tests must see what did not run")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

const FORMULA: &str = "packaging/homebrew/omlx.rb.in";
const AGENT: &str = "launchd/agent/io.github.omlx.omlxd.plist";
const DAEMON: &str = "launchd/daemon/io.github.omlx.omlxd.plist";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A program's output; `None` with a message where it is not installed, which CI does not accept.
fn output_of(program: &str, args: &[&str]) -> Option<std::process::Output> {
    match Command::new(program).args(args).current_dir(root()).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{program}: {error}");
            eprintln!("skipped: {program} is not there");
            None
        }
    }
}

/// A property list as JSON, read by Python's plistlib.
fn plist(path: &str) -> Option<Value> {
    const PROGRAM: &str = "import json, plistlib, sys\n\
        print(json.dumps(plistlib.load(open(sys.argv[1], 'rb'))))";
    let output = output_of("python3", &["-c", PROGRAM, path])?;
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[test]
fn property_lists_keep_to_the_rules() {
    // What is not here was left out for a reason: see launchd/README.md.
    let both = [
        "EnvironmentVariables",
        "ExitTimeOut",
        "KeepAlive",
        "Label",
        "ProcessType",
        "ProgramArguments",
        "RunAtLoad",
        "StandardErrorPath",
        "StandardOutPath",
        "ThrottleInterval",
        "Umask",
        "WorkingDirectory",
    ];
    for (path, own) in [(AGENT, "LimitLoadToSessionType"), (DAEMON, "UserName")] {
        let Some(list) = plist(path) else { return };
        let list = list.as_object().expect("a dictionary");
        let mut expected: Vec<&str> = both.iter().copied().chain([own]).collect();
        expected.sort_unstable();
        let mut keys: Vec<&str> = list.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, expected, "{path}");

        let stem = Path::new(path).file_stem().and_then(|stem| stem.to_str()).expect("a stem");
        assert_eq!(list["Label"], stem, "launchd wants the file to be called as the job");
        let arguments = json!(["@OMLXD@", "serve", "--base-dir", "@BASE_DIR@"]);
        assert_eq!(list["ProgramArguments"], arguments);
        assert_eq!(list["ProcessType"], "Interactive");
        assert_eq!(list["KeepAlive"], json!({"SuccessfulExit": false}));
        assert_eq!(list["RunAtLoad"], true);
        assert_eq!(list["Umask"], 0o077, "decimal in the file");
        assert_eq!(list["EnvironmentVariables"], json!({"OMLX_LOG_STDERR": "false"}));
        for number in ["ExitTimeOut", "ThrottleInterval", "Umask"] {
            assert!(list[number].is_i64(), "{path}: {number}");
        }
        assert_eq!(list["WorkingDirectory"], "@BASE_DIR@");
        assert_eq!(list["StandardOutPath"], list["StandardErrorPath"]);
        let text = read(path).to_lowercase();
        for secret in ["sk-omlx", "token", "api-key", "password"] {
            assert!(!text.contains(secret), "{path} names {secret}");
        }
    }
    let session = json!(["Aqua", "Background"]);
    assert_eq!(plist(AGENT).expect("it was read")["LimitLoadToSessionType"], session);
    assert_eq!(plist(DAEMON).expect("it was read")["UserName"], "@USER@");
}

#[test]
fn the_formula_is_ruby_and_the_scripts_are_bash() {
    for (program, file) in [
        ("ruby", FORMULA),
        ("bash", "packaging/homebrew/release.sh"),
        ("sh", "packaging/homebrew/sources.sh"),
    ] {
        let check = if program == "ruby" { "-c" } else { "-n" };
        let Some(output) = output_of(program, &[check, file]) else { continue };
        assert!(output.status.success(), "{file}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The first word of each line at the formula's own depth, in order; a run of one word counts once.
fn stanzas(formula: &str) -> Vec<&str> {
    let own = formula.lines().filter_map(|line| line.strip_prefix("  "));
    let words = own.filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())).map(|line| {
        let mut words = line.split([' ', '(']);
        match words.next().expect("a word") {
            "def" => words.next().expect("a name"),
            word => word,
        }
    });
    let mut words: Vec<&str> = words.filter(|word| *word != "end").collect();
    words.dedup();
    words
}

#[test]
fn the_formula_keeps_to_homebrews_rules() {
    let formula = read(FORMULA);
    assert_eq!(
        stanzas(&formula),
        [
            "desc",
            "homepage",
            "url",
            "sha256",
            "license",
            "head",
            "livecheck",
            "depends_on",
            "uses_from_macos",
            "resource",
            "install",
            "caveats",
            "service",
            "test",
        ]
    );
    let desc = formula.lines().find_map(|line| line.trim().strip_prefix("desc \"")).expect("desc");
    let desc = desc.trim_end_matches('"');
    assert!(desc.len() <= 80 && !desc.ends_with('.'), "{desc}");
    assert!(desc.starts_with(|c: char| c.is_ascii_uppercase()), "{desc}");
    for start in ["A ", "An ", "The ", "Omlx", "omlx"] {
        assert!(!desc.starts_with(start), "{desc}");
    }
    for (never, why) in [
        ("post_install", "official taps refuse it"),
        ("\"cargo\", \"build\"", "cargo install with std_cargo_args is the rule"),
        ("bin.install \"mlx.metallib\"", "bin is for programs"),
        ("run [bin/", "a service survives an upgrade only with opt paths"),
        ("sk-omlx", "no key stands in a formula"),
        ("git clone", "resources are pinned archives"),
    ] {
        assert!(!formula.contains(never), "{never}: {why}");
    }
    // cops want build dependencies first, and each kind in the order of the alphabet.
    let build: Vec<&str> = formula.lines().filter(|line| line.contains("=> :build")).collect();
    assert!(build[0].contains("cmake") && build[1].contains("rust"), "{build:?}");
}

#[test]
fn the_formula_names_what_exists() {
    let formula = read(FORMULA);
    for binary in ["omlxd", "omlxctl"] {
        assert!(formula.contains(&format!("path: \"{binary}\"")), "{binary}");
        assert!(root().join(binary).join("src/main.rs").exists(), "{binary}");
    }
    for path in ["launchd", "packaging/grafana/omlx.json", "packaging/man/omlxd.1", "docs"] {
        assert!(formula.contains(path) && root().join(path).exists(), "{path}");
    }
    let help = read("docs/omlxctl.md");
    for command in ["key show", "pull", "version", "completions", "man"] {
        let used = formula.contains(&format!("omlxctl {command}"))
            || formula.contains(&format!("\"omlxctl\", \"{command}\""))
            || formula.contains(&format!("--base-dir #{{base}} {command}"));
        assert!(used, "{command} is not used any more");
        assert!(help.contains(&format!("## omlxctl {command}\n")), "{command}");
    }
    assert!(root().join("packaging/omlx-tiny/model/config.json").exists(), "the test's model");
}

/// What stands in the service block, as the property list would have it.
fn service() -> BTreeMap<&'static str, Value> {
    let formula = read(FORMULA);
    let block = formula.split("  service do\n").nth(1).expect("a service");
    let block = block.split("\n  end\n").next().expect("its end");
    let lines = block.lines().map(str::trim).filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(word, rest)| {
            let number = || json!(rest.parse::<u32>().expect("a number"));
            Some(match word {
                "keep_alive" if rest == "successful_exit: false" => {
                    ("KeepAlive", json!({"SuccessfulExit": false}))
                }
                "throttle_interval" => ("ThrottleInterval", number()),
                "stop_timeout" => ("ExitTimeOut", number()),
                "process_type" if rest == ":interactive" => ("ProcessType", json!("Interactive")),
                "environment_variables" => {
                    let (name, value) = rest.split_once(": ").expect("a pair");
                    ("EnvironmentVariables", json!({name: value.trim_matches('"')}))
                }
                "run" => {
                    let parts = rest.trim_matches(['[', ']']).split(", ").skip(1);
                    let parts: Vec<_> = parts.map(|part| part.trim_matches('"')).collect();
                    ("ProgramArguments", json!(parts))
                }
                "working_dir" | "log_path" | "error_log_path" => return None,
                _ => panic!("{word} {rest}: say here what it is in a property list"),
            })
        })
        .collect()
}

#[test]
fn the_service_block_is_the_property_list() {
    let Some(list) = plist(AGENT) else { return };
    let service = service();
    for key in
        ["KeepAlive", "ThrottleInterval", "ExitTimeOut", "ProcessType", "EnvironmentVariables"]
    {
        assert_eq!(service.get(key), Some(&list[key]), "{key}");
    }
    // Homebrew's job is its user's and needs no --base-dir.
    assert_eq!(service["ProgramArguments"], json!(["serve"]));
}

/// The values of sources.sh.
fn sources() -> BTreeMap<String, String> {
    const SHOW: &str = ". packaging/homebrew/sources.sh; for n in VERSION MLX_VERSION JSON_VERSION \
        FMT_VERSION GGUFLIB_COMMIT METAL_CPP_FILE NAMES; do eval echo $n=\\$$n; done";
    let output = output_of("bash", &["-c", SHOW]).expect("bash");
    let text = String::from_utf8(output.stdout).expect("text");
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn versions_are_those_that_are_built() {
    let sources = sources();
    assert_eq!(sources["VERSION"], env!("CARGO_PKG_VERSION"));
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let metadata: Value = serde_json::from_slice(&metadata.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let mlx_sys = packages.iter().find(|package| package["name"] == "mlx-sys").expect("mlx-sys");
    let manifest = Path::new(mlx_sys["manifest_path"].as_str().expect("a path"));
    let cmake = fs::read_to_string(manifest.with_file_name("src/mlx-c/CMakeLists.txt"));
    let pinned = format!("GIT_TAG v{})", sources["MLX_VERSION"]);
    assert!(cmake.expect("mlx-c").contains(&pinned), "mlx-sys builds another MLX than {pinned}");
    let linux = format!("MLX_VERSION={} ", sources["MLX_VERSION"]);
    assert!(read("packaging/linux/setup.sh").contains(&linux), "Linux tests another MLX");
}

#[test]
fn every_place_of_the_formula_has_a_source() {
    let formula = read(FORMULA);
    let names: Vec<String> = sources()["NAMES"].split(' ').map(str::to_owned).collect();
    for name in &names {
        for place in [format!("\"@URL_{name}@\""), format!("\"@SHA256_{name}@\"")] {
            assert_eq!(formula.matches(&place).count(), 1, "{place}");
        }
    }
    assert_eq!(formula.matches("sha256 ").count(), names.len());
    let is_digest = |word: &str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let mut words = formula.split(|c: char| !c.is_ascii_alphanumeric());
    assert!(!words.any(is_digest), "a checksum in the template was made up");
}

/// Archives that look as the real ones do where release.sh looks.
fn archives(at: &Path) {
    let sources = sources();
    let pack = |name: &str, top: &str, files: &[(&str, String)]| {
        let work = tempfile::tempdir().expect("a folder");
        for (file, text) in files {
            let path = work.path().join(top).join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        let archive = at.join(name);
        let packed = Command::new("tar")
            .args(["-czf", archive.to_str().expect("UTF-8"), "-C"])
            .arg(work.path())
            .arg(top)
            .status();
        assert!(packed.expect("tar").success());
    };
    let (json, fmt) = (&sources["JSON_VERSION"], &sources["FMT_VERSION"]);
    let cmake = format!(
        "https://developer.apple.com/metal/cpp/files/{}\n\
         https://github.com/nlohmann/json/releases/download/v{json}/json.tar.xz\nGIT_TAG {fmt}\n",
        sources["METAL_CPP_FILE"]
    );
    let gguf = format!("GIT_TAG {})\n", sources["GGUFLIB_COMMIT"]);
    let ours = [("Cargo.toml", read("Cargo.toml")), ("Cargo.lock", read("Cargo.lock"))];
    pack("OMLX", "omlx-0", &ours);
    pack("MLX", "mlx-0", &[("CMakeLists.txt", cmake), ("mlx/io/CMakeLists.txt", gguf)]);
    for name in ["METAL_CPP", "JSON", "FMT", "GGUFLIB"] {
        pack(name, "x", &[("README", name.to_owned())]);
    }
}

fn release(archives: &Path, output: &Path) -> std::process::Output {
    Command::new("bash")
        .arg(root().join("packaging/homebrew/release.sh"))
        .arg(output)
        .env("ARCHIVES", archives)
        .output()
        .expect("bash")
}

#[test]
fn release_fills_in_every_place_or_writes_nothing() {
    let temp = tempfile::tempdir().expect("a folder");
    let (from, formula) = (temp.path().join("archives"), temp.path().join("Formula/omlx.rb"));
    fs::create_dir(&from).expect("made");
    archives(&from);
    let made = release(&from, &formula);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = fs::read_to_string(&formula).expect("the formula");
    assert!(text.starts_with("class Omlx < Formula\n") && !text.contains('@'), "{text}");
    let sum = Command::new("sha256sum").arg(from.join("FMT")).output().expect("sha256sum");
    let sum = String::from_utf8(sum.stdout).expect("text");
    assert!(text.contains(sum.split(' ').next().expect("a sum")), "{text}");
    if let Some(output) = output_of("ruby", &["-c", formula.to_str().expect("UTF-8")]) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fs::remove_file(&formula).expect("removed");
    let wrong = |name: &str, why: &str| {
        let output = release(&from, &formula);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{name}: {said}");
        assert!(!formula.exists(), "{name}: nothing may be written");
    };
    fs::rename(from.join("JSON"), from.join("away")).expect("moved");
    wrong("a missing archive", "is missing");
    fs::rename(from.join("away"), from.join("JSON")).expect("moved");
    fs::copy(from.join("FMT"), from.join("MLX")).expect("copied");
    wrong("another MLX", "has no CMakeLists.txt");
}

#[test]
fn the_list_of_parts_has_what_is_linked_in_and_no_more() {
    let Some(output) = output_of("python3", &["packaging/sbom.py"]) else { return };
    if !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("tomllib") {
        eprintln!("skipped: needs Python 3.11");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&list["bomFormat"], &list["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
    let parts = list["components"].as_array().expect("components");
    let has = |name: &str| parts.iter().any(|part| part["name"] == name);
    for linked in ["mlx", "mlx-rs", "mlx-sys", "hyper", "tokio", "tokenizers", "rustls", "clap"] {
        assert!(has(linked), "{linked} is missing");
    }
    for never in ["insta", "proptest", "shuttle", "omlxd", "omlx-tests", "openssl-sys"] {
        assert!(!has(never), "{never} is not linked in");
    }
    for part in parts {
        assert!(part["licenses"].is_array(), "{part}");
        assert!(part["name"] == "mlx" || part["hashes"][0]["content"].is_string(), "{part}");
    }
}
