//! Which files of a revision the engine needs, and whether the model can run here.

use std::path::Path;

use engine::NoWeightFiles;

use super::error::PullError;
use super::hub::{Revision, Sibling};
use crate::limits::{PULL_SMALL_FILE_BYTES, PULL_WEIGHT_FILES};

/// What the engine reads besides weights.
const SMALL: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    INDEX,
];
const INDEX: &str = "model.safetensors.index.json";
/// Without these there is no model.
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
const NO_WEIGHTS: &str = "the repository has no files *.safetensors at its top: only models in that \
                           format run here (not GGUF, not PyTorch's)";

/// The hash that a file must have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Digest {
    /// SHA-256 of its content.
    Sha256(String),
    /// SHA-1 of git's header and its content.
    Git(String),
}

impl Digest {
    /// The name of its blob in the hub cache layout.
    pub(super) fn name(&self) -> &str {
        match self {
            Digest::Sha256(hex) | Digest::Git(hex) => hex,
        }
    }
}

/// A file to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

/// The commit, checked: it becomes the name of a folder.
pub(super) fn commit(revision: &Revision) -> Result<String, PullError> {
    if revision.sha.len() == 40 && is_hex(&revision.sha) {
        return Ok(revision.sha.clone());
    }
    Err(PullError::Refused("the hub names a commit that is none".to_owned()))
}

/// The small files.
pub(super) fn small(revision: &Revision) -> Result<Vec<Wanted>, PullError> {
    let has = |name: &str| revision.siblings.iter().any(|file| file.name == name);
    if let Some(missing) = REQUIRED.iter().find(|name| !has(name)) {
        return Err(PullError::Refused(format!(
            "the repository has no {missing}, so it is not a model that runs here (MLX and \
             transformers checkpoints have one)"
        )));
    }
    let is_small = |name: &str| SMALL.contains(&name) || is_additional_template(name);
    let small = revision.siblings.iter().filter(|file| is_small(&file.name));
    let small = small.map(wanted).collect::<Result<Vec<_>, _>>()?;
    match small.iter().find(|file| file.size > PULL_SMALL_FILE_BYTES) {
        None => Ok(small),
        Some(file) => {
            Err(PullError::Refused(format!("{} has {} bytes, far too many", file.name, file.size)))
        }
    }
}

/// A chat template besides the main one: the only files in a folder that are followed.
fn is_additional_template(name: &str) -> bool {
    let file = name.strip_prefix("additional_chat_templates/");
    file.and_then(|file| file.strip_suffix(".jinja")).is_some_and(|stem| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        !stem.is_empty() && !stem.starts_with('.') && stem.bytes().all(is_plain)
    })
}

/// The files of weights, as the engine chooses them when it loads. `index`: the text of the index.
pub(super) fn weights(revision: &Revision, index: Option<&[u8]>) -> Result<Vec<Wanted>, PullError> {
    // Names with a folder in them are never followed, so no name leads out of the snapshot.
    let at_top = |file: &&Sibling| !file.name.contains(['/', '\\', '\0']);
    let files: Vec<&Sibling> = revision.siblings.iter().filter(at_top).collect();
    let names = files.iter().map(|file| file.name.as_str());
    let chosen = engine::choose_weight_files(names, index).map_err(|error| {
        PullError::Refused(match error {
            NoWeightFiles::None => NO_WEIGHTS.to_owned(),
            NoWeightFiles::Missing(name) => {
                format!("{INDEX} names {name:?}, which is not a file of weights of this repository")
            }
            NoWeightFiles::Index(what) => format!("{INDEX} cannot be read: {what}"),
        })
    })?;
    if chosen.needed.len() > PULL_WEIGHT_FILES {
        let many = chosen.needed.len();
        return Err(PullError::Refused(format!(
            "the repository has {many} files of weights, and {PULL_WEIGHT_FILES} are the most that are pulled"
        )));
    }
    files.into_iter().filter(|file| chosen.needed.contains(&file.name)).map(wanted).collect()
}

fn wanted(file: &Sibling) -> Result<Wanted, PullError> {
    let name = file.name.clone();
    let told = |what: &str| PullError::Refused(format!("the hub tells no {what} of {name}"));
    let (size, digest) = match &file.lfs {
        Some(lfs) => (Some(lfs.size), Digest::Sha256(lfs.sha256.to_lowercase())),
        None => {
            let id = file.blob_id.as_ref().ok_or_else(|| told("hash"))?;
            (file.size, Digest::Git(id.to_lowercase()))
        }
    };
    let length = if matches!(digest, Digest::Sha256(_)) { 64 } else { 40 };
    if digest.name().len() != length || !is_hex(digest.name()) {
        return Err(told("hash"));
    }
    let size = size.ok_or_else(|| told("size"))?;
    Ok(Wanted { name, size, digest })
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What this machine has for a model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    /// Bytes of memory for models.
    pub(super) budget_bytes: u64,
    /// Bytes free on the disk that it goes to.
    pub(super) free_bytes: u64,
}

/// Free disk that a pull leaves alone.
const SPARE_BYTES: u64 = 1 << 30;

/// Whether a model with this config.json and so many bytes of weights, of which `missing_bytes` are
/// not here yet, can run here. `force` leaves memory and architecture to later.
pub(super) fn check(
    config: &str,
    weight_bytes: u64,
    missing_bytes: u64,
    machine: Machine,
    force: bool,
) -> Result<(), PullError> {
    if let Err(error) = engine::read_config(Path::new("config.json"), config)
        && !force
    {
        return Err(PullError::Refused(format!("{error}; --force downloads it all the same")));
    }
    if weight_bytes > machine.budget_bytes && !force {
        return Err(PullError::Refused(format!(
            "its weights take {weight_bytes} bytes and memory.budget leaves {} for them: choose a \
             smaller or more strongly quantized model, or raise the budget; --force downloads it all \
             the same",
            machine.budget_bytes
        )));
    }
    let room = machine.free_bytes.saturating_sub(SPARE_BYTES);
    if missing_bytes > room {
        return Err(PullError::Refused(format!(
            "{missing_bytes} bytes are to be downloaded, and of the disk's {} free ones 1 GiB stays \
             free: remove something (`omlxctl models rm`)",
            machine.free_bytes
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(names: &[&str]) -> Revision {
        let siblings = names.iter().map(|name| Sibling {
            name: (*name).to_owned(),
            size: Some(10),
            blob_id: Some("a".repeat(40)),
            lfs: None,
        });
        Revision { sha: "b".repeat(40), siblings: siblings.collect() }
    }

    fn names(files: Result<Vec<Wanted>, PullError>) -> Vec<String> {
        files.unwrap().into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn only_what_the_engine_reads_is_wanted() {
        let all = revision(&[
            "README.md",
            "config.json",
            "tokenizer.json",
            "pytorch_model.bin",
            "model-1.safetensors",
            "model-2.safetensors",
            "consolidated.safetensors",
            "original/model.safetensors",
            "../../evil.safetensors",
            ".hidden.safetensors",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/notes.txt",
            "additional_chat_templates/../../evil.jinja",
            "additional_chat_templates/..jinja",
            "other/tool_use.jinja",
        ]);
        let additional = "additional_chat_templates/tool_use.jinja";
        assert_eq!(names(small(&all)), ["config.json", "tokenizer.json", additional]);
        assert_eq!(names(weights(&all, None)), ["model-1.safetensors", "model-2.safetensors"]);
        let index = br#"{"weight_map": {"a": "model-2.safetensors"}}"#;
        assert_eq!(names(weights(&all, Some(index))), ["model-2.safetensors"]);
        for bad in ["../../evil.safetensors", "missing.safetensors", "README.md"] {
            let index = format!(r#"{{"weight_map": {{"a": "{bad}"}}}}"#);
            let error = weights(&all, Some(index.as_bytes())).unwrap_err().to_string();
            assert!(error.contains(bad), "{error}");
        }
        let whole = revision(&["config.json", "model.safetensors", "model.gguf"]);
        for stale in [&br#"{"weight_map": {"a": "model-00001-of-00002.safetensors"}}"#[..], b"{}"] {
            assert_eq!(names(weights(&whole, Some(stale))), ["model.safetensors"]);
        }
        assert!(weights(&revision(&["model.gguf"]), None).is_err());
        assert!(small(&revision(&["config.json"])).is_err());
    }

    #[test]
    fn hashes_and_commits_become_names_only_when_they_are_some() {
        let mut bad = revision(&["config.json", "tokenizer.json"]);
        bad.siblings[0].blob_id = Some("../../../../../../../../../../etc/passwd".to_owned());
        assert!(small(&bad).is_err());
        bad.sha = "..".to_owned();
        assert!(commit(&bad).is_err());
    }

    #[test]
    fn what_cannot_run_is_refused_unless_forced() {
        let machine = Machine { budget_bytes: 100, free_bytes: SPARE_BYTES + 50 };
        let good = r#"{"model_type": "llama", "max_position_embeddings": 100}"#;
        let says = |config: &str, weights, missing, force| {
            check(config, weights, missing, machine, force).map_err(|error| error.to_string())
        };
        assert_eq!(says(good, 100, 50, false), Ok(()));
        assert!(says(r#"{"model_type": "gpt9"}"#, 1, 1, false).unwrap_err().contains("gpt9"));
        assert!(says(good, 101, 1, false).unwrap_err().contains("memory.budget leaves 100"));
        assert_eq!(says(good, 101, 1, true), Ok(()));
        assert!(says(good, 1, 51, true).unwrap_err().contains("omlxctl models rm"));
    }

    #[test]
    fn listings_at_their_limits() {
        let shards: Vec<String> =
            (0..=PULL_WEIGHT_FILES).map(|n| format!("model-{n:05}.safetensors")).collect();
        let shards: Vec<&str> = shards.iter().map(String::as_str).collect();
        let fits = weights(&revision(&shards[1..]), None);
        assert_eq!(fits.unwrap().len(), PULL_WEIGHT_FILES);
        assert!(weights(&revision(&shards), None).is_err());
        let mut listing = revision(&["config.json", "tokenizer.json"]);
        for (bytes, fits) in [(PULL_SMALL_FILE_BYTES, true), (PULL_SMALL_FILE_BYTES + 1, false)] {
            listing.siblings[1].size = Some(bytes);
            assert_eq!(small(&listing).is_ok(), fits, "{bytes}");
        }
    }
}
