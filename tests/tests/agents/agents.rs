//! The agents: how each is started, and what the model is to say to it.

use std::fs;
use std::io;
use std::path::Path;

use omlx_tests::script::Script;
use serde_json::{Value, json};

/// The model's id in every test.
pub(crate) const MODEL: &str = "omlx/agent";
/// What the agents are asked, one run after the other: the second run continues the first's session.
pub(crate) const PROMPTS: [&str; 2] = ["Write one and two into note.txt.", "And now say goodbye."];
/// What the file holds after the first run.
pub(crate) const NOTE: &str = "one\ntwo\n";
/// What the model says at the end of the runs.
pub(crate) const ANSWERS: [&str; 2] = ["The note is written.", "Goodbye then."];

/// An agent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Agent {
    /// Its name in file names.
    pub(crate) name: &'static str,
    /// Its npm package.
    pub(crate) package: &'static str,
    /// The tool that runs a shell command, and the parameter that holds the command.
    shell: (&'static str, &'static str),
    /// Parameters that the tool needs besides.
    extra: &'static [(&'static str, &'static str)],
    /// Its command line without the prompt, the first time and to continue.
    pub(crate) runs: [&'static [&'static str]; 2],
}

pub(crate) const AGENTS: [Agent; 3] = [
    Agent {
        name: "codex",
        package: "@openai/codex",
        shell: ("exec_command", "cmd"),
        extra: &[],
        runs: [
            &["codex", "exec", "--skip-git-repo-check", "--sandbox", "danger-full-access"],
            &[
                "codex",
                "exec",
                "--skip-git-repo-check",
                "--sandbox",
                "danger-full-access",
                "resume",
                "--last",
            ],
        ],
    },
    Agent {
        name: "claude-code",
        package: "@anthropic-ai/claude-code",
        shell: ("Bash", "command"),
        extra: &[("description", "Write the note")],
        runs: [
            &["claude", "--dangerously-skip-permissions", "-p"],
            &["claude", "--dangerously-skip-permissions", "-c", "-p"],
        ],
    },
    Agent {
        name: "opencode",
        package: "opencode-ai",
        shell: ("bash", "command"),
        extra: &[("description", "Write the note")],
        runs: [&["opencode", "run"], &["opencode", "run", "-c"]],
    },
];

impl Agent {
    pub(crate) fn named(name: &str) -> Self {
        AGENTS.into_iter().find(|agent| agent.name == name).expect("a known agent")
    }

    /// Two calls of the shell, the first after a thought, then an answer, then another.
    pub(crate) fn script(&self) -> Script {
        let call = |command: &str| {
            let (tool, parameter) = self.shell;
            let mut arguments = json!({ parameter: command });
            for (name, value) in self.extra {
                arguments[*name] = json!(value);
            }
            Script::call(tool, &arguments)
        };
        let (one, two) = (call("echo one > note.txt"), call("echo two >> note.txt; cat note.txt"));
        // Pieces differ: the calls share their beginning.
        let (head, tail) = one.split_at(one.find("one").expect("the command"));
        Script::new(
            &[
                &["<think>\nA file is", " wanted.\n</think>\n\n", "I begin.\n", head, tail],
                &[&two],
                &["The note ", "is written."],
                &["Goodbye ", "then."],
            ],
            &["A note"],
        )
    }

    /// Writes what the agent reads, and gives its environment.
    pub(crate) fn configure(
        &self,
        home: &Path,
        work: &Path,
        base_url: &str,
        key: &str,
    ) -> io::Result<Vec<(&'static str, String)>> {
        match self.name {
            "codex" => {
                fs::create_dir_all(home.join(".codex"))?;
                let config = format!(
                    "model = \"{MODEL}\"\nmodel_provider = \"omlx\"\n\n[model_providers.omlx]\n\
                     name = \"omlx\"\nbase_url = \"{base_url}/v1\"\nenv_key = \"OMLX_API_KEY\"\n\
                     wire_api = \"responses\"\n"
                );
                fs::write(home.join(".codex/config.toml"), config)?;
                Ok(vec![("OMLX_API_KEY", key.to_owned())])
            }
            "claude-code" => Ok(vec![
                ("ANTHROPIC_BASE_URL", base_url.to_owned()),
                ("ANTHROPIC_AUTH_TOKEN", key.to_owned()),
                ("ANTHROPIC_MODEL", MODEL.to_owned()),
                ("ANTHROPIC_SMALL_FAST_MODEL", MODEL.to_owned()),
                ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
                ("DISABLE_AUTOUPDATER", "1".to_owned()),
                ("IS_SANDBOX", "1".to_owned()),
            ]),
            _ => {
                let config = json!({
                    "$schema": "https://opencode.ai/config.json",
                    "provider": {"omlx": {
                        "npm": "@ai-sdk/openai-compatible",
                        "name": "omlx",
                        "options": {"baseURL": format!("{base_url}/v1"), "apiKey": key},
                        "models": {MODEL: {"name": MODEL,
                                           "limit": {"context": 131_072, "output": 32_000}}},
                    }},
                    "model": format!("omlx/{MODEL}"),
                    "autoupdate": false,
                    "share": "disabled",
                });
                fs::write(work.join("opencode.json"), config.to_string())?;
                Ok(Vec::new())
            }
        }
    }
}

/// Whether a request is one of the conversation itself, rather than for a title or the like.
pub(crate) fn is_turn(body: &Value) -> bool {
    body["tools"].as_array().is_some_and(|tools| !tools.is_empty())
}
