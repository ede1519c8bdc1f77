//! The location of a text model's tensors in a checkpoint.

use crate::weights::Weights;

/// Possible prefixes of a text model's tensors: for a text-only model, and inside a multimodal
/// checkpoint as published and as converted by mlx-lm.
const ROOTS: [&str; 3] = ["model", "model.language_model", "language_model.model"];

/// The entry of [`ROOTS`] that these weights use.
pub(crate) fn root(weights: &Weights) -> &'static str {
    let holds = |root: &&&str| weights.contains(&format!("{root}.embed_tokens.weight"));
    ROOTS.iter().find(holds).unwrap_or(&ROOTS[0])
}

/// Whether a tensor belongs to the text model: it is under its root, or is its output head.
pub(crate) fn is_text(weights: &Weights, tensor: &str) -> bool {
    let under = |path: &str| tensor.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    under(root(weights)) || under(head_path(weights))
}

/// The output head's path that belongs to the root.
pub(crate) fn head_path(weights: &Weights) -> &'static str {
    if weights.contains("language_model.lm_head.weight") {
        "language_model.lm_head"
    } else {
        "lm_head"
    }
}
