//! One case of the corpus.

/// The parts of a model's template and vocabulary that identify the format.
pub(super) struct Family {
    /// Text of the chat template.
    pub(super) template: &'static str,
    /// Added tokens.
    pub(super) tokens: &'static [&'static str],
}

/// An answer, and its expected parts.
pub(super) struct Case {
    /// The end of the prompt.
    pub(super) prompt: &'static str,
    pub(super) answer: &'static str,
    /// In the form that `show` writes.
    pub(super) parts: &'static str,
}

/// A [`Case`] in one line.
pub(super) const fn case(prompt: &'static str, answer: &'static str, parts: &'static str) -> Case {
    Case { prompt, answer, parts }
}
