//! The architecture's table, enforced: who may depend on whom, where `unsafe` may stand, and what
//! lies at the top of the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

mod imports;

use imports::{Imports, Module};

/// What speaks HTTP or listens on sockets, which only omlxd and omlxctl's client do.
const HTTP: [&str; 8] =
    ["hyper", "hyper-util", "http", "http-body-util", "axum", "tower", "reqwest", "ureq"];
/// What runs models.
const MLX: [&str; 3] = ["mlx-rs", "mlx-sys", "mlx-macros"];
/// What knows tokens and their text.
const TOKENS: [&str; 4] = ["tokenizers", "minijinja", "minijinja-contrib", "safetensors"];
/// What reads configuration files and command lines.
const CONFIG: [&str; 3] = ["toml", "toml_edit", "clap"];

/// For each package: which of ours it may depend on, and what else it may not.
fn rules() -> [(&'static str, &'static [&'static str], Vec<&'static str>); 5] {
    [
        ("kvstore", &[], [&HTTP[..], &MLX, &TOKENS, &CONFIG, &["tokio"]].concat()),
        ("engine", &["kvstore"], [&HTTP[..], &CONFIG].concat()),
        ("omlxctl", &[], [&MLX[..], &TOKENS].concat()),
        ("omlxd", &["kvstore", "engine", "omlxctl"], MLX.to_vec()),
        ("omlx-tests", &[], [&MLX[..], &["tokenizers", "minijinja"]].concat()),
    ]
}

/// Files in which `unsafe` may stand: the MLX bridge, calls of the system, kvstore's mapping.
const MAY_BE_UNSAFE: [&str; 5] = [
    "engine/src/mlx/bridge.rs",
    "kvstore/src/map.rs",
    "kvstore/src/platform/apple.rs",
    "kvstore/src/platform/linux.rs",
    "kvstore/src/platform/process.rs",
];

/// Everything that may lie at the top of the tree, apart from what .gitignore names.
const TOP_LEVEL: [&str; 24] = [
    ".cargo",
    ".ci",
    ".config",
    ".git",
    ".github",
    ".gitignore",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "deny.toml",
    "docs",
    "engine",
    "kvstore",
    "launchd",
    "omlxctl",
    "omlxd",
    "packaging",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The workspace's packages as cargo sees them.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn dependencies(package: &Value) -> Vec<&Value> {
    let all = package["dependencies"].as_array().expect("dependencies");
    // Tests may use anything.
    all.iter().filter(|dependency| dependency["kind"] != "dev").collect()
}

#[test]
fn no_package_depends_on_what_it_may_not_know() {
    let packages = packages();
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    let known: BTreeSet<&str> = rules().iter().map(|rule| rule.0).collect();
    assert_eq!(ours, known, "a new package needs a rule here and a row in the architecture");
    for (name, may_know, may_not) in rules() {
        let package = packages.iter().find(|package| package["name"] == name).expect("in ours");
        for dependency in dependencies(package) {
            let on = dependency["name"].as_str().expect("name");
            assert!(!ours.contains(on) || may_know.contains(&on), "{name} depends on {on}");
            assert!(!may_not.contains(&on), "{name} depends on {on}");
        }
    }
}

/// The packages that a Cargo.lock names, each with what it depends on.
fn locked(lock: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(lock).expect("a lock");
    let packages = text.split("[[package]]").skip(1).map(|package| {
        let (_, name) = package.split_once("name = \"").expect("a name");
        let (name, _) = name.split_once('"').expect("a name's end");
        let list = package.split_once("dependencies = [").map_or("", |(_, list)| list);
        let names = list.lines().filter_map(|line| line.trim().strip_prefix('"'));
        // A version follows where there are several of the name.
        let names = names.map(|name| name.split([' ', '"']).next().expect("a name").to_owned());
        (name.to_owned(), names.collect())
    });
    packages.collect()
}

/// They are workspaces of their own, so that nothing else would notice a dependency that they lack.
#[test]
fn the_fuzz_targets_lock_what_our_packages_depend_on() {
    let packages = packages();
    for fuzzed in ["engine", "kvstore", "omlxd"] {
        let locked = locked(&root().join(fuzzed).join("fuzz/Cargo.lock"));
        assert!(locked.contains_key(fuzzed), "{fuzzed}");
        for package in &packages {
            let name = package["name"].as_str().expect("name");
            let Some(theirs) = locked.get(name) else { continue };
            let ours = dependencies(package).into_iter().filter_map(|one| one["name"].as_str());
            let ours: BTreeSet<String> = ours.map(str::to_owned).collect();
            assert_eq!(
                *theirs, ours,
                "{fuzzed}/fuzz/Cargo.lock has other dependencies of {name}: run `cargo update --workspace \
                 --manifest-path {fuzzed}/fuzz/Cargo.toml`"
            );
        }
    }
}

#[test]
fn engine_opens_no_socket() {
    let packages = packages();
    let engine = packages.iter().find(|package| package["name"] == "engine").expect("engine");
    for dependency in dependencies(engine) {
        let features = dependency["features"].as_array().expect("features");
        let sockets = features.iter().any(|feature| feature == "net" || feature == "full");
        assert!(dependency["name"] != "tokio" || !sockets, "engine's tokio has sockets");
    }
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry").path()) {
        if entry.is_dir() {
            rust_files(&entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            into.push(entry);
        }
    }
}

/// Whether code (not a comment) holds the word `unsafe`; a name such as `unsafe_code` is another
/// word.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.split(|c| !word(c)).any(|name| name == "unsafe")
}

#[test]
fn unsafe_stands_only_where_it_may() {
    for package in ["engine", "kvstore", "omlxctl", "omlxd"] {
        let mut files = Vec::new();
        rust_files(&root().join(package).join("src"), &mut files);
        assert!(!files.is_empty(), "{package}");
        for file in files {
            let name = file.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).expect("readable");
            let first = text.lines().position(is_unsafe);
            let allowed = first.is_none() || MAY_BE_UNSAFE.contains(&name.as_str());
            assert!(allowed, "{name}:{}: unsafe", first.unwrap_or_default() + 1);
        }
    }
}

#[test]
fn daemon_and_client_forbid_unsafe_code() {
    for root_file in
        ["omlxd/src/lib.rs", "omlxd/src/main.rs", "omlxctl/src/lib.rs", "omlxctl/src/main.rs"]
    {
        let text = fs::read_to_string(root().join(root_file)).expect(root_file);
        assert!(text.contains("#![forbid(unsafe_code)]"), "{root_file}");
    }
}

#[test]
fn the_top_of_the_tree_holds_only_what_it_should() {
    let ignored = fs::read_to_string(root().join(".gitignore")).expect(".gitignore");
    let ignored: BTreeSet<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    for entry in fs::read_dir(root()).expect("readable") {
        let name = entry.expect("entry").file_name().to_string_lossy().into_owned();
        let expected = TOP_LEVEL.contains(&name.as_str()) || ignored.contains(name.as_str());
        assert!(expected, "{name} does not belong at the top of the tree");
    }
}

/// The folders and files at the root of `engine/src`, lowest first: a module knows only what stands
/// before it.
const ENGINE_FLOORS: [&str; 12] = [
    "panic_text",
    "limits",
    "types",
    "error",
    "small_file",
    "sched",
    "text",
    "mlx",
    "weights",
    "kv",
    "models",
    "runtime",
];

fn imports(package: &str) -> Imports {
    Imports::read(&root().join(package).join("src"))
}

fn name(module: &Module) -> String {
    if module.is_empty() { "lib".to_owned() } else { module.join("::") }
}

#[test]
fn no_modules_use_each_other_in_a_circle() {
    for package in ["engine", "kvstore", "omlxctl", "omlxd"] {
        let imports = imports(package);
        assert!(imports.uses.values().map(BTreeSet::len).sum::<usize>() > 20, "{package}");
        let circles = imports.circles();
        let mut text = String::new();
        for circle in &circles {
            for module in circle {
                let uses = imports.uses[module].intersection(circle).map(name);
                let uses = uses.collect::<Vec<_>>().join(", ");
                text.push_str(&format!("\n{package}: {} uses {uses}", name(module)));
            }
            text.push('\n');
        }
        assert!(circles.is_empty(), "modules use each other in circles:{text}");
    }
}

#[test]
fn the_engines_folders_know_only_those_below() {
    let floor = |module: &Module| {
        let top = module.first().expect("not lib.rs");
        let at = ENGINE_FLOORS.iter().position(|floor| floor == top);
        at.unwrap_or_else(|| panic!("{top} needs a place among the engine's floors"))
    };
    for (module, uses) in imports("engine").uses {
        for used in uses.iter().filter(|used| !module.is_empty() && !used.is_empty()) {
            assert!(floor(used) <= floor(&module), "{} uses {}", name(&module), name(used));
        }
    }
}
