//! The book holds together, and its commands do what they say: every `sh` block of the documentation is
//! run against a daemon of its own, unless a comment above it says why not:
//!
//! ```text
//! <!-- not run: needs launchd -->
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use omlx_tests::daemon::{self, Daemon};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn markdown_under(folder: &Path, into: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry").path()) {
        if path.is_dir() {
            markdown_under(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            into.push(path);
        }
    }
}

/// The pages of the book, and the README.
fn pages() -> Vec<PathBuf> {
    let mut pages = vec![root().join("README.md")];
    markdown_under(&root().join("docs"), &mut pages);
    pages.sort();
    pages
}

/// A block of commands, and why it is not run, if it is not.
struct Block {
    line: usize,
    script: String,
    not_run: Option<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut comment = None;
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim();
        if let Some(kind) = trimmed.strip_prefix("```").filter(|kind| !kind.is_empty()) {
            let inside =
                lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
            let script = inside.collect::<Vec<_>>().join("\n");
            let is_shell = ["sh", "bash", "console", "shell"].contains(&kind);
            if is_shell {
                blocks.push(Block { line: number + 1, script, not_run: comment.take() });
            }
            comment = None;
        } else if !trimmed.is_empty() {
            let why =
                trimmed.strip_prefix("<!-- not run:").and_then(|rest| rest.strip_suffix("-->"));
            comment = why.map(|why| why.trim().to_owned());
        }
    }
    blocks
}

/// The links of a page to files of this tree, without what follows `#`.
fn links(text: &str) -> Vec<String> {
    let ends = text.match_indices("](").map(|(at, mark)| &text[at + mark.len()..]);
    let targets = ends.filter_map(|rest| rest.split(')').next());
    let own = targets.filter(|target| !target.contains("://") && !target.starts_with('#'));
    own.filter_map(|target| target.split('#').next()).map(str::to_owned).collect()
}

#[test]
fn every_page_is_in_the_book_and_every_link_leads_somewhere() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("the summary");
    let listed: BTreeSet<String> = links(&summary).into_iter().collect();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("readable");
        for link in links(&text) {
            let target = page.parent().expect("a folder").join(&link);
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
        }
        let Ok(name) = page.strip_prefix(&docs) else { continue };
        let name = name.to_string_lossy().into_owned();
        assert!(name == "SUMMARY.md" || listed.contains(&name), "{name} is not in the summary");
    }
}

#[test]
fn every_command_of_the_documentation_works() {
    let temp = tempfile::tempdir().expect("a folder");
    let base = temp.path().join(".omlx");
    let binary = daemon::built_binary();
    let daemon = Daemon::start(&binary, &base, None, &[]).expect("a daemon");
    let path = format!(
        "{}:{}",
        binary.parent().expect("a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut run = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).expect("readable");
        for block in blocks(&text) {
            if let Some(why) = block.not_run {
                assert!(why.len() > 3, "{}:{}: say why", page.display(), block.line);
                continue;
            }
            let script = block.script.replace("127.0.0.1:1337", &daemon.address.to_string());
            let output = Command::new("bash")
                .args(["-euo", "pipefail", "-c", &script])
                .current_dir(temp.path())
                .env("HOME", temp.path())
                .env("PATH", &path)
                .output()
                .expect("bash");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let at = format!("{}:{}", page.display(), block.line);
            assert!(output.status.success(), "{at}: {}\n{script}\n{said}", output.status);
            run += 1;
        }
    }
    assert!(run >= 5, "only {run} blocks were run");
}

#[test]
fn blocks_are_found_with_their_reasons() {
    let text = "```sh\na\nb\n```\n\n<!-- not run: why -->\n\n```sh\nc\n```\n\n<!-- not run: why -->\ntext\n\n\
                ```sh\nd\n```\n```text\ne\n```\n";
    let found: Vec<_> =
        blocks(text).into_iter().map(|block| (block.line, block.script, block.not_run)).collect();
    let some = |text: &str| text.to_owned();
    assert_eq!(
        found,
        [(1, some("a\nb"), None), (8, some("c"), Some(some("why"))), (15, some("d"), None),]
    );
}
