//! Detects reasoning that an earlier prompt has and a later one lacks: templates omit the reasoning
//! of earlier turns, and clients do not send it back.

use super::format::OutputFormat;

/// What is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostThought {
    /// A reasoning text of the model.
    Written,
    /// The markers around an empty reasoning, which some templates write when reasoning is
    /// disabled.
    Empty,
}

/// A reasoning section in a prompt.
struct Thought {
    is_empty: bool,
    /// Text follows its end.
    continues: bool,
}

impl OutputFormat {
    /// Two prompts are equal up to the end of `before`; one continues with `earlier`, the other
    /// with `now`. Returns whether a reasoning section begins there that only the first one has.
    /// Also `None` if the given texts are too short to decide.
    pub fn lost_thought(&self, before: &str, earlier: &str, now: &str) -> Option<LostThought> {
        let (open, close, label) = match (&self.inner.thinking, self.inner.harmony) {
            (Some(thinking), _) => (thinking.open.text, thinking.close.text, thinking.label),
            (None, Some(_)) => ("<|channel|>analysis<|message|>", "<|end|>", ""),
            (None, None) => return None,
        };
        let thought = |text: &str| {
            let rest = text.strip_prefix(open)?;
            let rest = rest.strip_prefix(label).unwrap_or(rest).trim_start();
            let (is_empty, rest) = match rest.strip_prefix(close) {
                Some(rest) => (true, rest.trim_start()),
                None => (false, rest),
            };
            Some(Thought { is_empty, continues: !rest.is_empty() })
        };
        let (was, is) = ([before, earlier].concat(), [before, now].concat());
        // At the difference a reasoning section begins or has just begun: only space is in between.
        let blank = |from: usize, to: usize| was[from..to.max(from)].trim().is_empty();
        let begins = was.match_indices(open).map(|(at, _)| at).find(|&at| {
            let body = at + open.len();
            let label = if was[body..].starts_with(label) { label.len() } else { 0 };
            blank(before.len(), at) && blank(body + label, before.len())
        })?;
        let lost = thought(&was[begins..]).filter(|thought| thought.continues)?;
        let left = is[begins.min(before.len())..].trim_start();
        let lacks = match thought(left) {
            // An empty section at the end of a prompt starts the answer and is not the rest of a
            // removed one.
            Some(left) => left.is_empty && left.continues && !lost.is_empty,
            None => !left.is_empty() && !open.starts_with(left),
        };
        let kind = if lost.is_empty { LostThought::Empty } else { LostThought::Written };
        lacks.then_some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tokenizer;
    use super::*;

    fn lost(template: &str, before: &str, earlier: &str, now: &str) -> Option<LostThought> {
        let format = OutputFormat::of(|text| template.contains(text), &tokenizer(&[]));
        format.lost_thought(before, earlier, now)
    }

    #[test]
    fn omitted_reasoning_is_detected() {
        const QWEN: &str = "<think></think>";
        let turn = "?<|im_end|>\n<|im_start|>assistant\n";
        let opened = "assistant\n<think>\n";
        for (before, earlier, now) in [
            (turn, "<think>\nHm", "It is 4.<|im_end|>"),
            // Only the end is kept; only both markers are kept.
            (turn, "<think>\nHm", "</think>It"),
            (opened, "Hm", "</think>\n\nIt is"),
            ("assistant\n<think>", "\nHm", "\n\n</think>\n\nIt"),
            // The difference is inside the marker's characters, where the marker is not a token.
            ("assistant\n<", "think>Hm", "b>It"),
            ("assistant", "\n<think>Hm", "\n\nIt"),
        ] {
            let found = lost(QWEN, before, earlier, now);
            assert_eq!(found, Some(LostThought::Written), "{before:?} {earlier:?} {now:?}");
        }
        let empty = lost(QWEN, turn, "<think>\n\n</think>\n\nIt", "It is 4.");
        assert_eq!(empty, Some(LostThought::Empty));
        let gemma = "<|channel>thought\n<channel|>";
        let model = "<|turn>model\n";
        assert_eq!(lost(gemma, model, "<|channel>thought\nHm", "It"), Some(LostThought::Written));
        let labelled = "<|turn>model\n<|channel>thought\n";
        assert_eq!(lost(gemma, labelled, "Hm", "<channel|>It"), Some(LostThought::Written));
        let harmony = "<|channel|><|message|>";
        let start = "<|start|>assistant<|channel|>";
        assert_eq!(
            lost(harmony, start, "analysis<|message|>Hm", "final<|message|>It"),
            Some(LostThought::Written)
        );
    }

    #[test]
    fn other_differences_are_not_lost_reasoning() {
        const QWEN: &str = "<think></think>";
        let turn = "?<|im_end|>\n<|im_start|>assistant\n";
        for (before, earlier, now) in [
            // Another question, another answer, another reasoning text.
            ("user\n", "What", "Who"),
            (turn, "It is 4", "It is 5"),
            ("assistant\n<think>\n", "Hm", "So"),
            ("assistant\n<think>\nHm, ", "so", "no"),
            ("assistant\n<think>Hm</think>", "It", "He"),
            // The reasoning is new.
            (turn, "It is 4.", "<think>\nHm"),
            (turn, "<think>\n\n</think>\n\nIt", "<think>\n"),
            // The same question without reasoning: the answer begins here.
            ("assistant\n<think>", "\nHm", "\n\n</think>\n\n"),
            // The texts are too short to decide.
            (turn, "<think>\n", "It"),
            (turn, "<think>Hm", "<th"),
            (turn, "<think>Hm", ""),
        ] {
            assert_eq!(lost(QWEN, before, earlier, now), None, "{before:?} {earlier:?} {now:?}");
        }
        assert_eq!(lost("", turn, "<think>Hm", "It"), None, "it does not think");
    }
}
