//! Models on disk.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use engine::limits::CONFIG_BYTES;
use omlxctl::files;

use crate::limits::REVISION_FILE_BYTES;

/// Name of the model that comes with the daemon.
pub const BUNDLED: &str = "omlx-tiny";

/// The reference that a pull writes: the revision that is served, whatever other programs do to
/// `refs/main` later.
pub(crate) const PULLED_REF: &str = "omlx";

/// A model folder on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// `<org>/<name>` or `<name>`.
    pub id: String,
    /// Where its files are.
    pub dir: PathBuf,
    /// Seconds from 1970 to the last change of its config.json.
    pub created: u64,
    /// Where it comes from.
    pub source: Source,
}

/// Where a model's folder comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// It came with the daemon.
    Bundled,
    /// A folder of a model directory.
    Folder,
    /// A snapshot in the hub cache layout.
    Hub {
        /// The folder `models--org--name`.
        repo: PathBuf,
        /// The commit.
        revision: String,
    },
}

/// Every model in `dirs`, in order, then the bundled one; the first found under an id keeps it.
pub(super) fn models(dirs: &[PathBuf], bundled: Option<&Path>) -> BTreeMap<String, ModelEntry> {
    let mut found = BTreeMap::new();
    for dir in dirs {
        scan(dir, &mut found);
    }
    if let Some(dir) = bundled {
        add(&mut found, BUNDLED.to_owned(), dir.to_owned(), Source::Bundled);
    }
    found
}

/// `<name>/`, `<org>/<name>/` and `models--org--name/snapshots/<revision>/`.
fn scan(dir: &Path, found: &mut BTreeMap<String, ModelEntry>) {
    for (name, path) in folders(dir) {
        if let Some(id) = name.strip_prefix("models--") {
            if let Some((revision, snapshot)) = snapshot(&path) {
                let source = Source::Hub { repo: path, revision };
                add(found, id.replace("--", "/"), snapshot, source);
            }
        } else if is_model(&path) {
            add(found, name, path, Source::Folder);
        } else {
            for (inner, path) in folders(&path) {
                if is_model(&path) {
                    add(found, format!("{name}/{inner}"), path, Source::Folder);
                }
            }
        }
    }
}

/// Whether a name can be shown as it is, on a terminal, in a log, in a label and in a sentence: it holds no
/// control character, nothing invisible, nothing that turns the direction of the text, and no quote or
/// backslash.
pub(crate) fn is_printable(name: &str) -> bool {
    let hides = |c: char| {
        c.is_control()
            || matches!(c, '"' | '\\' | '`')
            || matches!(u32::from(c), 0xAD | 0x61C | 0x180E | 0x200B..=0x200F | 0x2028..=0x202E
                | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFF0..=0xFFFF
                | 0x1D173..=0x1D17A | 0xE000..=0xF8FF | 0xE0000..=0x10_FFFF)
    };
    !name.chars().any(hides)
}

fn add(found: &mut BTreeMap<String, ModelEntry>, id: String, dir: PathBuf, source: Source) {
    let changed = fs::metadata(dir.join("config.json")).and_then(|data| data.modified());
    let created = changed.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let created = created.map_or(0, |since| since.as_secs());
    found.entry(id.clone()).or_insert(ModelEntry { id, dir, created, source });
}

/// The revision that a pull chose, else the one of `refs/main`, else the one changed last.
fn snapshot(repo: &Path) -> Option<(String, PathBuf)> {
    let snapshots = repo.join("snapshots");
    let named = [PULLED_REF, "main"].into_iter().find_map(|name| {
        let revision = files::read_text(&repo.join("refs").join(name), REVISION_FILE_BYTES).ok()?;
        let revision = revision.trim().to_owned();
        let is_plain = revision.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let path = snapshots.join(&revision);
        (is_plain && is_model(&path)).then_some((revision, path))
    });
    named.or_else(|| {
        let changed = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
        let all = folders(&snapshots).into_iter();
        all.filter(|(_, path)| is_model(path)).max_by_key(|(_, path)| changed(path))
    })
}

pub(super) fn is_model(dir: &Path) -> bool {
    dir.join("config.json").is_file()
}

/// What a folder's model is for, where its files say that it generates no text. It may be a decoder by its
/// config all the same.
pub(crate) fn other_purpose(dir: &Path) -> Option<String> {
    let is_there = |name: &&str| dir.join(name).is_file();
    if ["modules.json", "config_sentence_transformers.json"].iter().any(is_there) {
        return Some("it makes embeddings, as a model of sentence-transformers".to_owned());
    }
    let config = files::read_text(&dir.join("config.json"), CONFIG_BYTES).ok()?;
    let config = serde_json::from_str::<Architectures>(&config).ok()?;
    let names = config.architectures?;
    if names.is_empty() || names.iter().any(|name| may_generate(name)) {
        return None;
    }
    let shown = if is_printable(&names[0]) { names[0].as_str() } else { "no generator" };
    Some(format!("it generates no text: its architecture is {shown:.64}"))
}

/// The part of config.json that says what a model is for.
#[derive(serde::Deserialize)]
struct Architectures {
    architectures: Option<Vec<String>>,
}

/// Whether a class of transformers may generate text, by its name: those that classify, rank, fill in or only
/// encode do not.
fn may_generate(architecture: &str) -> bool {
    const OTHER_TASKS: [&str; 12] = [
        "Classification",
        "MaskedLM",
        "QuestionAnswering",
        "MultipleChoice",
        "NextSentencePrediction",
        "ForPreTraining",
        "ForRetrieval",
        "ForScore",
        "Regression",
        "Reward",
        "Rank",
        "Embedding",
    ];
    let generates = ["CausalLM", "ConditionalGeneration", "LMHead", "ChatGLM"];
    generates.iter().any(|word| architecture.contains(word))
        || !(architecture.ends_with("Model")
            || OTHER_TASKS.iter().any(|word| architecture.contains(word)))
}

/// What changes when someone changes a model's files.
pub(super) fn fingerprint(dir: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut files: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    // Compared within this process only.
    let mut hash = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hash);
        if let Ok(data) = fs::metadata(file.path()) {
            (data.len(), data.modified().ok()).hash(&mut hash);
        }
    }
    hash.finish()
}

/// Folders in `dir`, by name; hidden ones and names that nobody should be shown are left out.
fn folders(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut folders: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.to_owned();
            (!name.starts_with('.') && is_printable(&name) && path.is_dir()).then_some((name, path))
        })
        .collect();
    folders.sort();
    folders
}

/// Where the bundled model is: `OMLX_BUNDLED_DIR`, else beside an installed daemon, else in the
/// source tree that the executable was built in.
pub(super) fn bundled_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("OMLX_BUNDLED_DIR") {
        return Some(PathBuf::from(dir)).filter(|dir| is_model(dir));
    }
    let exe = std::env::current_exe().and_then(fs::canonicalize).ok()?;
    let bin = exe.parent()?;
    let installed = bin.join("../share/omlx/models").join(BUNDLED);
    let built = bin.ancestors().map(|dir| dir.join("packaging/omlx-tiny/model"));
    std::iter::once(installed).chain(built).find(|dir| is_model(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), "{}").unwrap();
    }

    #[test]
    fn models_are_found_in_the_three_layouts() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        model(&at("plain"));
        model(&at("org/inner"));
        model(&at(".hidden"));
        model(&at("models--acme--big/snapshots/aaa"));
        model(&at("models--acme--big/snapshots/bbb"));
        model(&at("models--acme--big/snapshots/.unfinished"));
        fs::create_dir_all(at("models--acme--big/refs")).unwrap();
        fs::write(at("models--acme--big/refs/main"), "aaa\n").unwrap();
        fs::create_dir_all(at("models--acme--empty/snapshots")).unwrap();
        let found = models(&[root.path().to_owned()], None);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["acme/big", "org/inner", "plain"]);
        assert_eq!(found["acme/big"].dir, at("models--acme--big/snapshots/aaa"));
        fs::write(at("models--acme--big/refs/omlx"), "bbb").unwrap();
        let found = models(&[root.path().to_owned()], None);
        assert_eq!(found["acme/big"].dir, at("models--acme--big/snapshots/bbb"));
        fs::write(at("models--acme--big/refs/omlx"), ".unfinished/../../..").unwrap();
        let found = models(&[root.path().to_owned()], None);
        assert_eq!(found["acme/big"].dir, at("models--acme--big/snapshots/aaa"));
    }

    #[test]
    fn a_model_that_generates_no_text_is_known_by_its_files() {
        let root = tempfile::tempdir().unwrap();
        let purpose = |config: &str| {
            fs::write(root.path().join("config.json"), config).unwrap();
            other_purpose(root.path())
        };
        for name in [
            "Qwen3ForSequenceClassification",
            "LlamaForTokenClassification",
            "Qwen3Model",
            "BertModel",
            "ModernBertForMaskedLM",
            "Qwen2ForRewardModel",
            "Qwen2ForQuestionAnswering",
        ] {
            let said = purpose(&format!("{{\"architectures\": [\"{name}\"]}}")).unwrap();
            assert!(said.contains(name), "{said}");
        }
        for names in [
            r#"["Qwen3ForCausalLM"]"#,
            r#"["Gemma3ForConditionalGeneration"]"#,
            r#"["GPT2LMHeadModel"]"#,
            r#"["ChatGLMModel"]"#,
            r#"["Qwen3Model", "Qwen3ForCausalLM"]"#,
            r#"["SomethingNew"]"#,
            "[]",
            "null",
            "3",
        ] {
            assert_eq!(purpose(&format!("{{\"architectures\": {names}}}")), None, "{names}");
        }
        assert_eq!(purpose("{}"), None);
        fs::write(root.path().join("modules.json"), "[]").unwrap();
        assert!(purpose("{}").unwrap().contains("embeddings"));
    }

    #[test]
    fn names_that_nobody_should_be_shown_are_left_out() {
        use std::os::unix::ffi::OsStrExt;
        let root = tempfile::tempdir().unwrap();
        for name in ["plain", "with space", "\u{43c}\u{43e}\u{434}\u{435}\u{43b}\u{44c}", "it's"] {
            model(&root.path().join(name));
        }
        for name in [
            "esc\u{1b}[31m",
            "line\nbreak",
            "quo\"te",
            "back\\slash",
            "bi\u{202e}di",
            "bell\u{7}",
            "c1\u{9b}",
            "zero\u{200b}width",
            "isolate\u{2066}",
            "tag\u{e0041}",
            "sep\u{2028}",
            "tab\t",
            "models--org--x\u{1b}y",
            "del\u{7f}",
        ] {
            model(&root.path().join(name));
            model(&root.path().join(name).join("inner"));
            model(&root.path().join(name).join("snapshots/aaa"));
            model(&root.path().join("org").join(name));
        }
        model(&root.path().join(std::ffi::OsStr::from_bytes(b"no\xffutf8")));
        let found = models(&[root.path().to_owned()], None);
        let names: Vec<&String> = found.keys().collect();
        assert_eq!(
            names,
            ["it's", "plain", "with space", "\u{43c}\u{43e}\u{434}\u{435}\u{43b}\u{44c}"]
        );
    }

    #[test]
    fn a_changed_file_changes_the_fingerprint() {
        let root = tempfile::tempdir().unwrap();
        model(root.path());
        let before = fingerprint(root.path());
        assert_eq!(before, fingerprint(root.path()));
        fs::write(root.path().join("config.json"), "{ }").unwrap();
        assert_ne!(before, fingerprint(root.path()));
    }

    #[test]
    fn a_reference_at_its_limit() {
        let root = tempfile::tempdir().unwrap();
        let repo = root.path();
        for sha in ["aaa", "bbb"] {
            let dir = repo.join("snapshots").join(sha);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("config.json"), "{}").unwrap();
        }
        fs::create_dir(repo.join("refs")).unwrap();
        let limit = usize::try_from(REVISION_FILE_BYTES).unwrap();
        fs::write(repo.join("refs/main"), "bbb").unwrap();
        for (bytes, followed) in [(limit, "aaa"), (limit + 1, "bbb")] {
            fs::write(repo.join("refs").join(PULLED_REF), format!("{:<bytes$}", "aaa")).unwrap();
            assert_eq!(snapshot(repo).unwrap().0, followed, "{bytes}");
        }
        fs::remove_file(repo.join("refs").join(PULLED_REF)).unwrap();
        let pipe =
            std::process::Command::new("mkfifo").arg(repo.join("refs").join(PULLED_REF)).status();
        assert!(pipe.unwrap().success());
        assert_eq!(snapshot(repo).unwrap().0, "bbb");
    }
}
