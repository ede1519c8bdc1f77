//! Explains why no longer prefix of a prompt was reused, for `omlxctl cache explain`.

use std::collections::VecDeque;

use kvstore::Namespace;

use crate::kv::sequence::common_prefix;
use crate::text::output::{LostThought, OutputFormat};
use crate::text::tokenizer::Tokenizer;

/// Number of prompts remembered.
const MAX_PROMPTS: usize = 64;
/// Limit on the tokens of all remembered prompts together, at four bytes each.
const MAX_TOKENS: usize = 4 << 20;
/// Number of tokens shown before the first divergent token, and from it on.
const SHOWN_TOKENS: usize = 8;

/// Why a part of a prompt was not in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MissReason {
    /// No similar prompt was seen since the start, and nothing is stored.
    Cold,
    /// The part was computed before, but its records are gone.
    Evicted,
    /// The prompt differs from the earlier prompt with the longest common prefix.
    Diverged,
    /// A model of the same name, but with other content or another layout, computed the part
    /// before.
    Layout,
    /// A record failed its checks.
    VerifyFailed,
    /// A record could not be read.
    LoadFailed,
    /// The part was computed before for another tenant.
    Salt,
    /// The prompt is shorter than a block.
    TooShort,
}

impl MissReason {
    /// Every reason.
    pub const ALL: [Self; 8] = [
        Self::Cold,
        Self::Evicted,
        Self::Diverged,
        Self::Layout,
        Self::VerifyFailed,
        Self::LoadFailed,
        Self::Salt,
        Self::TooShort,
    ];

    /// The reason's label in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Evicted => "evicted",
            Self::Diverged => "diverged",
            Self::Layout => "layout",
            Self::VerifyFailed => "verify_failed",
            Self::LoadFailed => "load_failed",
            Self::Salt => "salt",
            Self::TooShort => "too_short",
        }
    }
}

/// The position at which a prompt differs from an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Divergence {
    /// Position of the first token that differs.
    pub position: usize,
    /// Index of the block that contains this position.
    pub block: usize,
    /// A few tokens before it, which are the same in both prompts.
    pub before: Vec<u32>,
    /// The earlier prompt's tokens from there; empty when it ended there.
    pub earlier: Vec<u32>,
    /// This prompt's tokens from there.
    pub now: Vec<u32>,
    /// True when the position is before the first message of a user.
    pub is_in_head: bool,
}

/// The cause of a difference between two prompts, if it can be determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The text before the first message of a user changed: the system message, the tools, and the
    /// text that the template adds to them.
    Head,
    /// The earlier prompt continues with a reasoning text that this prompt lacks.
    Thought(LostThought),
}

impl Divergence {
    /// The cause. `None` when it cannot be determined, for instance for a new question.
    pub fn cause(&self, tokenizer: &Tokenizer, format: &OutputFormat) -> Option<Cause> {
        if self.is_in_head {
            return Some(Cause::Head);
        }
        let text = |tokens: &[u32]| {
            let bytes: Vec<u8> = tokens.iter().flat_map(|id| tokenizer.token_bytes(*id)).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let lost = format.lost_thought(&text(&self.before), &text(&self.earlier), &text(&self.now));
        lost.map(Cause::Thought)
    }
}

/// The reused part of a prompt, and why it is not longer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReuseReport {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens whose KV was in unified memory, those of a live session included.
    pub ram_tokens: usize,
    /// Tokens whose KV came from SSD.
    pub ssd_tokens: usize,
    /// Whether the KV cache of an earlier turn was continued.
    pub live: bool,
    /// Number of tokens in a block.
    pub block_tokens: usize,
    /// Why no more was reused; `None` when everything that is reusable was reused.
    pub miss: Option<MissReason>,
    /// The difference from the earlier prompt with the longest common prefix.
    pub divergence: Option<Divergence>,
}

impl ReuseReport {
    /// The number of prompt tokens that were not computed.
    pub fn reused_tokens(&self) -> usize {
        self.ram_tokens + self.ssd_tokens
    }
}

#[derive(Debug)]
struct Seen {
    model: String,
    salt: String,
    namespace: Namespace,
    tokens: Vec<u32>,
}

/// The sequences that were computed recently.
#[derive(Debug, Default)]
pub(crate) struct History {
    seen: VecDeque<Seen>,
    tokens: usize,
}

/// The origin of a prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker<'a> {
    pub(crate) model: &'a str,
    pub(crate) salt: &'a str,
    pub(crate) namespace: &'a Namespace,
    /// The tokens that open a user's message; empty when unknown.
    pub(crate) user_opening: &'a [u32],
}

impl History {
    /// Remembers a sequence. It replaces an earlier one that it continues.
    pub(crate) fn remember(&mut self, asker: Asker<'_>, tokens: &[u32]) {
        if tokens.len() > MAX_TOKENS {
            return;
        }
        self.seen.retain(|seen| {
            let continued = seen.namespace == *asker.namespace && tokens.starts_with(&seen.tokens);
            self.tokens -= if continued { seen.tokens.len() } else { 0 };
            !continued
        });
        self.tokens += tokens.len();
        self.seen.push_back(Seen {
            model: asker.model.to_owned(),
            salt: asker.salt.to_owned(),
            namespace: *asker.namespace,
            tokens: tokens.to_owned(),
        });
        while self.seen.len() > MAX_PROMPTS || self.tokens > MAX_TOKENS {
            self.tokens -= self.seen.pop_front().map_or(0, |seen| seen.tokens.len());
        }
    }

    /// Sets in `report` why no more of `prompt` was reused. `failed` is the reason if a record
    /// failed.
    pub(crate) fn explain(
        &self,
        asker: Asker<'_>,
        prompt: &[u32],
        failed: Option<MissReason>,
        report: &mut ReuseReport,
    ) {
        let reused = report.reused_tokens();
        let block = report.block_tokens.max(1);
        let mut best: Option<(usize, &Seen)> = None;
        let mut elsewhere: Option<(usize, &Seen)> = None;
        for seen in &self.seen {
            let longest = if seen.namespace == *asker.namespace {
                &mut best
            } else if seen.model == asker.model {
                &mut elsewhere
            } else {
                continue;
            };
            let common = common_prefix(&seen.tokens, prompt);
            if longest.is_none_or(|(tokens, _)| common >= tokens) {
                *longest = Some((common, seen));
            }
        }
        let common = best.map_or(0, |(common, _)| common);
        let ended = best.is_some_and(|(common, seen)| common == seen.tokens.len());
        if let Some((position, seen)) = best.filter(|(common, seen)| {
            *common > 0 && *common < prompt.len() && *common < seen.tokens.len()
        }) {
            let upto =
                |tokens: &[u32]| tokens[position..].iter().take(SHOWN_TOKENS).copied().collect();
            report.divergence = Some(Divergence {
                position,
                block: position / block,
                before: prompt[position.saturating_sub(SHOWN_TOKENS)..position].to_vec(),
                earlier: upto(&seen.tokens),
                now: upto(prompt),
                is_in_head: is_in_head(asker.user_opening, prompt, position),
            });
        }
        // The last token is always computed, and only whole blocks are stored.
        let reachable = prompt.len().saturating_sub(1);
        let all_of = |tokens: usize| reused + block > tokens.min(reachable);
        report.miss = match (failed, elsewhere) {
            (Some(failed), _) => Some(failed),
            _ if reused >= reachable => None,
            _ if prompt.len() <= block && reused == 0 && common < block => {
                Some(MissReason::TooShort)
            }
            (_, Some((other, seen))) if other >= common + block && other > reused => {
                Some(if seen.salt == asker.salt { MissReason::Layout } else { MissReason::Salt })
            }
            _ if common > 0 && !all_of(common) => Some(MissReason::Evicted),
            // Tokens after the common prefix are new and cannot be cached.
            _ if reused > 0 && (ended || common == prompt.len()) => None,
            _ if common >= block || (common > 0 && reused > 0) => Some(MissReason::Diverged),
            _ if reused > 0 => None,
            _ => Some(MissReason::Cold),
        };
    }
}

/// Whether `position` is before the end of the first `opening`, which must occur in the prompt.
fn is_in_head(opening: &[u32], prompt: &[u32], position: usize) -> bool {
    let mut first = prompt.windows(opening.len().max(1));
    first.position(|tokens| tokens == opening).is_some_and(|at| position < at + opening.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Namespace = Namespace([1; 32]);
    const THERE: Namespace = Namespace([2; 32]);

    const USER: [u32; 2] = [500, 501];

    fn asker<'a>(salt: &'a str, namespace: &'a Namespace) -> Asker<'a> {
        Asker { model: "m", salt, namespace, user_opening: &USER }
    }

    fn explain(history: &History, prompt: &[u32], reused: usize) -> ReuseReport {
        let mut report = ReuseReport {
            prompt_tokens: prompt.len(),
            ram_tokens: reused,
            block_tokens: 4,
            ..ReuseReport::default()
        };
        history.explain(asker("", &HERE), prompt, None, &mut report);
        report
    }

    fn history(namespace: &Namespace, salt: &str, tokens: &[u32]) -> History {
        let mut history = History::default();
        history.remember(asker(salt, namespace), tokens);
        history
    }

    fn numbers(from: u32, to: u32) -> Vec<u32> {
        (from..to).collect()
    }

    #[test]
    fn each_reason() {
        let prompt = numbers(0, 20);
        let nothing = History::default();
        assert_eq!(explain(&nothing, &prompt, 0).miss, Some(MissReason::Cold));
        assert_eq!(explain(&nothing, &numbers(0, 3), 0).miss, Some(MissReason::TooShort));
        assert_eq!(explain(&nothing, &prompt, 16).miss, None, "the rest is new");
        let same = history(&HERE, "", &prompt);
        assert_eq!(explain(&same, &prompt, 19).miss, None);
        assert_eq!(explain(&same, &prompt, 4).miss, Some(MissReason::Evicted));
        let answered = history(&HERE, "", &numbers(0, 26));
        assert_eq!(explain(&answered, &prompt, 16).miss, None, "the same prompt again");
        let shorter = history(&HERE, "", &numbers(0, 14));
        assert_eq!(explain(&shorter, &prompt, 12).miss, None);
        assert_eq!(explain(&shorter, &prompt, 0).miss, Some(MissReason::Evicted));
        let salted = history(&THERE, "other", &prompt);
        assert_eq!(explain(&salted, &prompt, 0).miss, Some(MissReason::Salt));
        let relaid = history(&THERE, "", &prompt);
        assert_eq!(explain(&relaid, &prompt, 0).miss, Some(MissReason::Layout));
    }

    #[test]
    fn a_divergence_is_shown_with_both_texts() {
        let mut earlier = numbers(0, 20);
        earlier[10] = 99;
        let report = explain(&history(&HERE, "", &earlier), &numbers(0, 20), 8);
        assert_eq!(report.miss, Some(MissReason::Diverged));
        let divergence = report.divergence.unwrap();
        assert_eq!((divergence.position, divergence.block), (10, 2));
        assert_eq!(divergence.before, numbers(2, 10));
        assert_eq!(divergence.earlier[..2], [99, 11]);
        assert_eq!(divergence.now[..2], [10, 11]);
    }

    #[test]
    fn text_before_the_first_user_is_the_head() {
        let prompt = [numbers(0, 10), USER.to_vec(), numbers(10, 20), USER.to_vec()].concat();
        let is_in_head = |position: usize| {
            let mut earlier = prompt.clone();
            earlier[position] = 99;
            let report = explain(&history(&HERE, "", &earlier), &prompt, 0);
            report.divergence.is_some_and(|at| at.position == position && at.is_in_head)
        };
        assert!([1, 9, 10, 11].into_iter().all(is_in_head));
        assert!(![12, 20, 22].into_iter().any(is_in_head));
        // A text without messages has no head.
        assert!(!super::is_in_head(&USER, &numbers(0, 20), 4));
        assert!(!super::is_in_head(&[], &prompt, 4));
    }

    #[test]
    fn history_is_bounded() {
        let mut history = History::default();
        for i in 0..200 {
            history.remember(asker("", &HERE), &[vec![i], vec![7; 100_000]].concat());
        }
        assert!(history.tokens <= MAX_TOKENS && history.seen.len() <= MAX_PROMPTS);
        assert_eq!(history.tokens, history.seen.iter().map(|s| s.tokens.len()).sum::<usize>());
    }
}
