//! Each rule of the configuration, as tables of good and bad texts.

use std::path::Path;

use super::*;
use crate::limits::{
    CONFIG_ALIAS_HOPS, CONFIG_CONTEXT_TOKENS, CONFIG_LIST_ITEMS, CONFIG_MODELS, CONFIG_PROBLEMS,
    CONFIG_SIZE_BYTES, CONFIG_TEXT_BYTES, CONFIG_TIME_SECS, CONFIG_TOP_K, MODEL_NAME_BYTES,
};

fn sources(text: &str) -> Sources {
    let file = FileText { path: PathBuf::from("config.toml"), text: text.to_owned() };
    Sources { file: Some(file), ..Sources::default() }
}

fn load_text(text: &str) -> Result<Loaded, Vec<Problem>> {
    load(Path::new("/base"), &sources(text))
}

fn problems(text: &str) -> Vec<String> {
    load_text(text).expect_err("this text has problems").iter().map(Problem::to_string).collect()
}

fn origin_of<'a>(loaded: &'a Loaded, key: &str) -> &'a Setting {
    loaded.settings.iter().find(|setting| setting.key == key).expect("a key of the table")
}

#[test]
fn every_default_is_accepted_by_its_own_key() {
    let mut text = String::new();
    for section in SECTIONS {
        text.push_str(&format!("[{}]\n", section.name));
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            text.push_str(&format!("{} = {}\n", key.name, key.default));
        }
    }
    let written = load_text(&text).expect("the defaults hold");
    let silent = load_text("").expect("an empty file holds");
    assert_eq!(written.config, silent.config);
    assert_eq!(written.settings.len(), KEYS.len());
}

#[test]
fn the_first_starts_file_changes_nothing_until_a_key_is_uncommented() {
    let text = default_file();
    assert_eq!(load_text(&text).unwrap().config, load_text("").unwrap().config);
    let uncommented: String = text
        .lines()
        .map(|line| {
            let is_key = KEYS.iter().any(|key| line.starts_with(&format!("#{} = ", key.name)));
            format!("{}\n", if is_key { &line[1..] } else { line })
        })
        .collect();
    let loaded = load_text(&uncommented).expect("every default holds");
    assert!(loaded.settings.iter().all(|setting| setting.origin != Origin::Default));
    assert_eq!(loaded.config, load_text("").unwrap().config);
}

#[test]
fn the_reference_page_is_the_key_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    if std::env::var_os("OMLX_UPDATE").is_some() {
        std::fs::write(&path, reference()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(page, reference(), "run `OMLX_UPDATE=1 cargo test -p omlxd config`");
}

#[test]
fn each_bad_text_names_its_line_its_key_and_what_to_do() {
    let cases = [
        (
            "[server]\nprot = 1",
            "config.toml:2: server.prot: unknown key; the nearest key is server.port",
        ),
        (
            "[server]\nmax_body = \"1MiB\"",
            "config.toml:2: server.max_body: unknown key; the nearest key is limits.max_body",
        ),
        ("port = 1", "config.toml:1: port: unknown key; the nearest key is server.port"),
        (
            "\n\n[sever]\nport = 1",
            "config.toml:3: sever: unknown section; the nearest section is [server]",
        ),
        (
            "server = 1",
            "config.toml:1: server: this is a section: write [server] on a line of its own",
        ),
        (
            "[server]\nport = 65536",
            "config.toml:2: server.port: expected a port number from 0 to 65535, got 65536",
        ),
        (
            "[server]\nport = \"x\"",
            "config.toml:2: server.port: expected a port number from 0 to 65535, got \"x\"",
        ),
        (
            "[server]\nhost = \"example.org\"",
            "config.toml:2: server.host: expected an IP address such as \"127.0.0.1\" or \"::1\", \
             got \"example.org\"",
        ),
        (
            "[server]\nkeepalive = 10",
            "config.toml:2: server.keepalive: expected a time such as \"10s\", or \"off\", got 10",
        ),
        (
            "[server]\nkeepalive = \"0s\"",
            "config.toml:2: server.keepalive: 0ns is too short: it must be at least 10ms",
        ),
        (
            "[server]\nkeepalive_mode = \"ping\"",
            "config.toml:2: server.keepalive_mode: expected one of \"comment\" \"chunk\" \"off\", \
             got \"ping\"",
        ),
        (
            "[server]\ndrain = \"-1s\"",
            "config.toml:2: server.drain: expected a time such as \"10s\", got \"-1s\"",
        ),
        (
            "[server]\nstrict = \"yes\"",
            "config.toml:2: server.strict: expected true or false, got \"yes\"",
        ),
        (
            "[limits]\nmax_body = 100",
            "config.toml:2: limits.max_body: expected a size such as \"64MiB\", got 100",
        ),
        (
            "[limits]\nmax_body = \"1KB\"",
            "config.toml:2: limits.max_body: expected a size such as \"64MiB\", got \"1KB\"",
        ),
        (
            "[limits]\nmax_body = \"1B\"",
            "config.toml:2: limits.max_body: 1 is out of range: it must be between 1024 and \
             4294967296",
        ),
        (
            "[memory]\nbudget = \"101%\"",
            "config.toml:2: memory.budget: expected a size such as \"8GiB\", a share such as \
             \"25%\", or \"auto\", got \"101%\"",
        ),
        (
            "[scheduler]\nmax_batch = 0",
            "config.toml:2: scheduler.max_batch: 0 is out of range: it must be between 1 and 256",
        ),
        (
            "[scheduler]\nmax_batch = -1",
            "config.toml:2: scheduler.max_batch: expected a whole number, got -1",
        ),
        (
            "[models]\ndirs = \"~/models\"",
            "config.toml:2: models.dirs: expected a list of paths such as [\"~/models\"], got \
             \"~/models\"",
        ),
        (
            "[server]\nhost = \"0.0.0.0\"\n[auth]\nenabled = false",
            "config.toml:2: server.host: 0.0.0.0 can be reached from other machines, so an API \
             key is needed: set auth.enabled = true, or use 127.0.0.1",
        ),
    ];
    for (text, line) in cases {
        assert_eq!(problems(text), [line], "for {text:?}");
    }
}

#[test]
fn a_text_that_is_not_toml_is_reported_with_its_line() {
    for (text, line) in [("[server]\nport = ", 2), ("[server\n", 1), ("[log]\nlevel = info", 2)] {
        let problems = problems(text);
        let start = format!("config.toml:{line}: this is not TOML: ");
        assert!(problems[0].starts_with(&start), "{text:?} gave {problems:?}");
    }
    let twice = problems("[server]\nport = 1\nport = 2");
    assert!(twice[0].starts_with("config.toml:3: this is not TOML: "), "{twice:?}");
}

#[test]
fn every_problem_is_reported_in_the_order_of_the_file() {
    let text = "[server]\nport = -1\n[cache]\nblok_tokens = 1\n[auth]\nenabled = 1";
    let lines = problems(text);
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, start) in lines.iter().zip([
        "config.toml:2: server.port",
        "config.toml:4: cache.blok_tokens",
        "config.toml:6: auth.enabled",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn values_with_units_are_read() {
    let loaded = load_text(
        "[server]\nkeepalive = \"250ms\"\ndrain = \"1.5m\"\nhost = \"localhost\"\n\
         [limits]\nmax_body = \"1.5MiB\"\nmax_header = \"10kB\"\n\
         [memory]\nbudget = \"25%\"\n[cache]\nram_budget = \"2 GiB\"\nssd_quota = \"auto\"\n\
         [models]\nidle_ttl = \"1h\"",
    )
    .unwrap();
    let config = loaded.config;
    assert_eq!(config.server.keepalive, Some(Duration::from_millis(250)));
    assert_eq!(config.server.drain, Duration::from_secs(90));
    assert!(config.server.host.is_loopback());
    assert_eq!(config.limits.max_body, 3 << 19);
    assert_eq!(config.limits.max_header, 10_000);
    assert_eq!(config.memory.budget, Size::Percent(25));
    assert_eq!(config.cache.ram_budget, Size::Bytes(2 << 30));
    assert_eq!(config.cache.ssd_quota, Size::Auto);
    assert_eq!(config.models.idle_ttl, Some(Duration::from_secs(3600)));
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let mut sources = sources("[server]\nport = 1\nstrict = true\n[log]\nlevel = \"debug\"");
    sources.env = vec![
        ("OMLX_SERVER_PORT".into(), "2".into()),
        ("OMLX_LOG_LEVEL".into(), "warn".into()),
        ("OMLX_BASE_DIR".into(), "/elsewhere".into()),
        ("PATH".into(), "/bin".into()),
    ];
    sources.flags = vec![Flag { flag: "--port", key: "server.port", value: 3.into() }];
    let loaded = load(Path::new("/base"), &sources).unwrap();
    assert_eq!(loaded.config.server.port, 3);
    assert_eq!(origin_of(&loaded, "server.port").origin.to_string(), "--port");
    assert_eq!(loaded.config.log.level, LogLevel::Warn);
    assert_eq!(origin_of(&loaded, "log.level").origin.to_string(), "environment OMLX_LOG_LEVEL");
    assert_eq!(origin_of(&loaded, "log.level").value, "\"warn\"");
    assert_eq!(origin_of(&loaded, "server.strict").origin.to_string(), "config.toml:3");
    assert_eq!(origin_of(&loaded, "server.host").origin, Origin::Default);
}

#[test]
fn a_misspelt_variable_is_a_problem_too() {
    let env = vec![("OMLX_SERVER_PROT".to_owned(), "1".to_owned())];
    let problems = load(Path::new("/base"), &Sources { env, ..Sources::default() }).unwrap_err();
    assert_eq!(
        problems[0].to_string(),
        "environment OMLX_SERVER_PROT: server.prot: unknown key; the nearest key is server.port"
    );
}

#[test]
fn a_file_of_another_version_is_refused_and_none_is_fine() {
    assert!(load_text("version = 1\n[server]\nport = 7").is_ok());
    assert!(load_text("").is_ok());
    for (text, words) in [
        ("version = 2\n", "this file is of version 2, and this omlxd reads 1"),
        ("version = \"1\"\n", "version: "),
        ("\nversion = 0\n", ":2: version: this file is of version 0"),
    ] {
        let problems = load_text(text).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].to_string().contains(words), "{}", problems[0]);
    }
}

#[test]
fn relative_paths_start_at_the_base_directory() {
    let loaded = load_text("[models]\ndirs = [\"more\", \"/abs\"]").unwrap();
    let dirs = loaded.config.model_dirs();
    assert_eq!(dirs, ["/base/models", "/base/more", "/abs"].map(PathBuf::from));
    assert_eq!(loaded.config.auth.key_file, Path::new("/base/api-key"));
    assert_eq!(loaded.config.cache.ssd_dir, None);
}

/// The one problem of a text.
fn problem(text: &str) -> String {
    let problems = problems(text);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.into_iter().next().unwrap()
}

#[test]
fn times_and_sizes_at_their_limits() {
    let days = CONFIG_TIME_SECS / 86_400;
    let tebibytes = CONFIG_SIZE_BYTES >> 40;
    for key in KEYS {
        let set = |value: &str| format!("[{}]\n{} = \"{value}\"", key.section, key.name);
        if key.kind.starts_with("time") {
            assert!(load_text(&set(&format!("{days}d"))).is_ok(), "{}", key.path());
            for long in [format!("{days}.001d"), "213503982334601d".into(), "9".repeat(400) + "ms"]
            {
                let problem = problem(&set(&long));
                assert!(problem.contains("is too long: a time is at most 365d"), "{problem}");
            }
        } else if key.kind.starts_with("size") {
            for large in [format!("{}TiB", tebibytes + 1), "99999999999999999999TB".into()] {
                let problem = problem(&set(&large));
                assert!(problem.contains("is too large: a size is at most 1024TiB"), "{problem}");
            }
        }
    }
    assert!(load_text(&format!("[memory]\nbudget = \"{tebibytes}TiB\"")).is_ok());
    let long = problem("[models.\"a\"]\nidle_ttl = \"366d\"");
    assert!(long.contains("is too long"), "{long}");
}

#[test]
fn texts_and_lists_at_their_limits() {
    let text = |bytes: usize| format!("[cache]\nssd_dir = \"/{}\"", "x".repeat(bytes - 1));
    assert!(load_text(&text(CONFIG_TEXT_BYTES)).is_ok());
    assert!(problem(&text(CONFIG_TEXT_BYTES + 1)).contains("4096 are the most"));
    let origins = |count: usize| format!("[server]\ncors_origins = [{}]", "\"a\",".repeat(count));
    assert!(load_text(&origins(CONFIG_LIST_ITEMS)).is_ok());
    assert!(problem(&origins(CONFIG_LIST_ITEMS + 1)).contains("256 are the most"));
    let name = |bytes: usize| format!("[models]\ndefault = \"{}\"", "x".repeat(bytes));
    assert!(load_text(&name(MODEL_NAME_BYTES)).is_ok());
    assert!(problem(&name(MODEL_NAME_BYTES + 1)).contains("256 are the most"));
}

#[test]
fn model_sections_at_their_limit() {
    let sections = |count: usize| -> String {
        (0..count).map(|n| format!("[models.\"org/m{n:05}\"]\npin = true\n")).collect()
    };
    let loaded = load_text(&sections(CONFIG_MODELS)).unwrap();
    assert_eq!(loaded.config.per_model.len(), CONFIG_MODELS);
    assert!(
        problem(&sections(CONFIG_MODELS + 1)).contains("1024 models with settings of their own")
    );
    let id = |bytes: usize| format!("[models.\"{}\"]\npin = true", "x".repeat(bytes));
    assert!(load_text(&id(MODEL_NAME_BYTES)).is_ok());
    assert!(problem(&id(MODEL_NAME_BYTES + 1)).contains("a model's id has 1 to 256 bytes"));
}

#[test]
fn numbers_of_a_model_at_their_limits() {
    for (key, limit) in [("context_limit", CONFIG_CONTEXT_TOKENS), ("top_k", CONFIG_TOP_K)] {
        assert!(load_text(&format!("[models.\"m\"]\n{key} = {limit}")).is_ok());
        assert!(problem(&format!("[models.\"m\"]\n{key} = {}", limit + 1)).contains("it must be"));
        assert!(problem(&format!("[models.\"m\"]\n{key} = {}", i64::MAX)).contains("it must be"));
    }
}

#[test]
fn aliases_that_lead_in_a_circle_are_refused() {
    let section = |id: &str, alias: &str| format!("[models.\"{id}\"]\nalias = \"{alias}\"\n");
    let two = section("a", "b") + &section("b", "a");
    let three = section("a", "b") + &section("b", "c") + &section("c", "a");
    let beside = section("a", "b") + &section("b", "a") + "[models]\ndefault = \"a\"\n";
    let pinned = "[models.\"a\"]\npin = true\nalias = [\"x\", \"a\"]\n".to_owned();
    for text in [section("a", "a"), two, three, beside, pinned] {
        let problems = problems(&text);
        assert!(
            problems.iter().all(|problem| problem.contains("leads back to itself")),
            "{problems:?}"
        );
        assert!(problems[0].contains(".alias: "), "{problems:?}");
    }
    // To a name that is nothing, to the default, from one section's name to another: all end.
    let fine = section("a", "b") + &section("b", "gone") + &section("c", "missing");
    assert!(load_text(&fine).is_ok());
    assert!(load_text(&(section("a", "auto") + "[models]\ndefault = \"auto\"\n")).is_ok());
}

#[test]
fn alias_chains_at_their_limit() {
    // m0 is an alias of m1, which is an alias of m2, and so on.
    let chain = |hops: usize| -> String {
        (0..hops).map(|n| format!("[models.\"m{}\"]\nalias = \"m{n}\"\n", n + 1)).collect()
    };
    assert!(load_text(&chain(CONFIG_ALIAS_HOPS)).is_ok());
    let long = problem(&chain(CONFIG_ALIAS_HOPS + 1));
    assert!(long.contains("more than 8 aliases lead from \"m0\" to a model"), "{long}");
    assert_eq!(problems(&chain(CONFIG_MODELS)).len(), CONFIG_PROBLEMS + 1);
}

#[test]
fn problems_at_their_limit() {
    let unknown = |count: usize| -> String {
        let keys: String = (0..count).map(|n| format!("k{n:06} = 1\n")).collect();
        format!("[server]\n{keys}")
    };
    assert_eq!(problems(&unknown(CONFIG_PROBLEMS)).len(), CONFIG_PROBLEMS);
    let shown = problems(&unknown(CONFIG_PROBLEMS + 1));
    assert_eq!(shown.len(), CONFIG_PROBLEMS + 1);
    assert_eq!(
        shown[CONFIG_PROBLEMS],
        "config.toml:102: problems from here on are not shown: there are 1 more"
    );
    assert!(shown[0].starts_with("config.toml:2: server.k000000: unknown key"), "{}", shown[0]);
}

#[test]
fn texts_full_of_mistakes_take_no_time() {
    let many = |line: fn(usize) -> String| -> String { (0..200_000).map(line).collect() };
    let texts = [
        ("keys", many(|n| format!("k{n}=1\n"))),
        ("keys of a section", format!("[server]\n{}", many(|n| format!("k{n}=1\n")))),
        ("keys of a model", format!("[models.m]\n{}", many(|n| format!("k{n}=1\n")))),
        ("sections", many(|n| format!("[s{n}]\n"))),
        ("models", many(|n| format!("[models.m{n}]\n"))),
        ("the same alias", many(|n| format!("[models.m{n}]\nalias=\"a\"\n"))),
        ("lines that are no TOML", many(|_| "x y\n".to_owned())),
        ("the same key", many(|_| "a=1\n".to_owned())),
        ("a long name", format!("{} = 1\n", "k".repeat(1 << 20))),
        ("a long value", format!("[server]\nhost = \"{}\"\n", "h".repeat(1 << 20))),
        ("a long list", format!("[models]\ndirs = [{}]\n", "\"a\",".repeat(200_000))),
        ("deep lists", format!("[models]\ndirs = {}\n", "[".repeat(200_000))),
        ("deep tables", format!("[models.m]\nchat_template_kwargs = {}", "{a=".repeat(100_000))),
        ("deep names", format!("[{}x]\n", "models.".repeat(100_000))),
        ("deep keys", format!("{}x = 1\n", "models.".repeat(100_000))),
    ];
    for (name, text) in texts {
        let began = std::time::Instant::now();
        let problems = problems(&text);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(20), "{name} took {took:?}");
        assert!(problems.len() <= CONFIG_PROBLEMS + 1, "{name}: {}", problems.len());
        let longest = problems.iter().map(String::len).max().unwrap_or_default();
        assert!(longest < 1000, "{name}: {longest} bytes");
    }
}

#[test]
fn a_message_holds_nothing_that_a_terminal_obeys() {
    for text in ["[server]\n\"a\\u001b[2J\" = 1", "\"\\u001b\" = 1", "[server]\nhost = \"\\u001b\""]
    {
        let problem = problem(text);
        assert!(!problem.contains('\u{1b}') && problem.contains("\\u{1b}"), "{problem}");
    }
}

#[test]
fn the_cache_has_a_folder_of_its_own() {
    let temp = tempfile::tempdir().unwrap();
    let base = temp.path().join("base");
    std::fs::create_dir(&base).unwrap();
    std::os::unix::fs::symlink(&base, temp.path().join("link")).unwrap();
    let load_dir = |dir: &str| load(&base, &sources(&format!("[cache]\nssd_dir = \"{dir}\"")));
    for dir in [".", "..", "/", "../link", &base.display().to_string()] {
        let problems = load_dir(dir).unwrap_err();
        assert!(problems[0].to_string().contains("the cache needs a folder of its own"), "{dir}");
    }
    assert!(load_dir("cache/other").is_ok() && load_dir("../beside").is_ok());
}
