//! What mlx-lm generates from the fixture models: `tests/goldens/`, made by
//! `tests/oracle/make_goldens.py`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::fixtures::Case;

/// One golden file.
#[derive(Debug, Clone, Deserialize)]
pub struct Golden {
    /// The model.
    pub case: Case,
    /// Whether float32 arithmetic gives the same tokens (see make_goldens.py).
    pub agrees_in_float32: bool,
    /// Which versions computed it.
    pub oracle: String,
    /// Prompts and what follows them.
    pub paths: Vec<GreedyPath>,
    /// SHA-256 (hex) of each tensor's bytes, as Python made them.
    pub tensors: BTreeMap<String, String>,
}

/// A prompt and its greedy continuation.
#[derive(Debug, Clone, Deserialize)]
pub struct GreedyPath {
    /// Prompt token ids.
    pub prompt: Vec<u32>,
    /// The greedy tokens; end-of-sequence tokens did not end it.
    pub tokens: Vec<u32>,
    /// The smallest gap between the two likeliest tokens, in deviations of the logits.
    pub min_gap: f64,
    /// Natural log probability of each of `tokens`.
    pub logprobs: Vec<f32>,
    /// The likeliest (id, natural log probability) at the first positions, likeliest first.
    pub top_logprobs: Vec<Vec<(u32, f32)>>,
}

impl Golden {
    /// A golden by its name.
    ///
    /// # Panics
    /// When there is none of that name, or it cannot be read.
    pub fn named(name: &str) -> Self {
        Self::read(&folder().join(format!("{name}.json")))
    }

    /// All goldens, by name.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir(folder()).expect("tests/goldens");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens")
}
