//! The texts made from the key table: a first start's file and the reference page.

use std::fmt::Write;

use super::load::VERSION;
use super::{Applies, KEYS, MODEL_KEYS, SECTIONS};

/// The `config.toml` of a first start: every key, explained, commented out at its default.
pub fn default_file() -> String {
    let mut text = String::from(
        "# omlxd reads this file at start, and again on SIGHUP. Every key is shown at its default:\n\
         # remove the # to change one. `omlxctl config show` tells what is in effect and why,\n\
         # `omlxd check-config` finds mistakes.\n\
         # Sizes have units (\"64MiB\", \"10GB\"), times too (\"500ms\", \"10s\", \"5m\", \"1h\").\n",
    );
    let _ = write!(text, "\n# The version of this file's format.\nversion = {VERSION}\n");
    for section in SECTIONS {
        text.push('\n');
        for line in section.doc {
            push_line(&mut text, "#", line);
        }
        push_line(&mut text, &format!("[{}]", section.name), "");
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            text.push('\n');
            for line in key.doc {
                push_line(&mut text, "#", line);
            }
            push_line(&mut text, &format!("#{} = {}", key.name, key.default), "");
        }
        if section.name == "models" {
            text.push_str(
                "\n# What one model has of its own: alias, pin, idle_ttl, context_limit, temperature, \
                 top_p,\n# top_k, min_p, repetition_penalty, kv_dtype, chat_template_kwargs.\n\
                 #[models.\"org/name\"]\n#alias = \"agent\"\n",
            );
        }
    }
    text
}

/// `docs/configuration.md`.
pub fn reference() -> String {
    let mut text = String::from(HEAD);
    for section in SECTIONS {
        let about = section.doc.join("");
        let _ = write!(text, "\n## `[{}]`\n\n{}\n\n", section.name, about.trim());
        text.push_str("| key | value | default | what it does |\n|---|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.section == section.name) {
            let doc = key.doc.join("").replace('|', "\\|");
            let when = match key.applies {
                Applies::Reload => " *SIGHUP applies a change.*",
                Applies::Restart => "",
            };
            let doc = doc.trim();
            let _ = writeln!(
                text,
                "| `{}` | {} | `{}` | {doc}{when} |",
                key.name, key.kind, key.default
            );
        }
        if section.name == "models" {
            text.push_str(PER_MODEL);
            for key in MODEL_KEYS {
                let _ = writeln!(text, "| `{}` | {} | {} |", key.name, key.kind, key.doc);
            }
        }
    }
    text
}

const PER_MODEL: &str = "
### `[models.\"<id>\"]`

Settings of a single model. The id is the one that `omlxctl models list` shows:

```toml
[models.\"acme/agent-8b\"]
alias = [\"agent\", \"gpt-5\"]
pin = true
temperature = 0.6
chat_template_kwargs = { enable_thinking = false }
```

| key | value | what it does |
|---|---|---|
";

const HEAD: &str = "\
# Configuration

<!-- Generated from the key table in omlxd/src/config/mod.rs. Do not edit: change the table and run
     `OMLX_UPDATE=1 cargo test -p omlxd config`. -->

omlxd needs no configuration. It reads `config.toml` in its base directory (`--base-dir`, else
`OMLX_BASE_DIR`, else `~/.omlx`), or the file that `--config` (or `OMLX_CONFIG`) names. The first
start writes that file with every key commented out at its default.

omlxd takes each value from the first of these that sets it:

1. a command line flag: `--host`, `--port`, `--model-dir` (may be repeated), `--log-format`;
2. an environment variable, `OMLX_<SECTION>_<KEY>`: `OMLX_SERVER_PORT=8080` sets `server.port`;
3. the file;
4. the default.

`omlxctl config show` prints each effective value and its source. `omlxd check-config` prints one line
for each problem, with file, line and key (the first 100, then how many more there are), and exits with 78 if
there is one. An unknown key is a problem, and so is an unknown variable such as `OMLX_SERVER_PROT`.

A size is a string with a unit: `B`, `kB`, `MB`, `GB`, `TB` count in 1000s, and `KiB`, `MiB`, `GiB`, `TiB`
in 1024s; the maximum is 1024 TiB. A time is a string with `ms`, `s`, `m`, `h` or `d`; the maximum is 365
days. Relative paths start at the base directory; `~/` is your home directory.
[Security](security.md#limits) lists the limits on the file itself.

A file may begin with `version = 1`; the file of the first start does. omlxd refuses a file of a later
version, because its keys may mean something else.

Unless a key says otherwise, a change takes effect when omlxd restarts.
";

fn push_line(text: &mut String, start: &str, rest: &str) {
    text.push_str(start);
    text.push_str(rest);
    text.push('\n');
}
