//! Where the tensors of a text model lie within a checkpoint.

use crate::weights::Weights;

/// Where a text model's tensors may lie: alone, and within a multimodal checkpoint as published and
/// as mlx-lm converts it.
const ROOTS: [&str; 3] = ["model", "model.language_model", "language_model.model"];

/// The one of [`ROOTS`] under which these weights lie.
pub(crate) fn root(weights: &Weights) -> &'static str {
    let holds = |root: &&&str| weights.contains(&format!("{root}.embed_tokens.weight"));
    ROOTS.iter().find(holds).unwrap_or(&ROOTS[0])
}

/// Whether a tensor belongs to the text model: it lies under its root, or is its output head.
pub(crate) fn is_text(weights: &Weights, tensor: &str) -> bool {
    let under = |path: &str| tensor.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    under(root(weights)) || under(head_path(weights))
}

/// The output head's path beside a root.
pub(crate) fn head_path(weights: &Weights) -> &'static str {
    if weights.contains("language_model.lm_head.weight") {
        "language_model.lm_head"
    } else {
        "lm_head"
    }
}
