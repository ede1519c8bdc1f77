//! A model's vocabulary in llguidance's form: a tree of bytes.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{
    InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv,
};

use super::error::GrammarError;
use crate::text::tokenizer::{Entry, Tokenizer};

/// A grammar never allows a longer token, because the tree's nodes count no deeper.
const MAX_TOKEN_BYTES: usize = 1000;

/// The part that all grammars of a model share. Building it walks the vocabulary a few times, so do
/// not do it on an async thread.
pub(crate) struct TokenTrie {
    factory: ParserFactory,
    tokenizer: Tokenizer,
    vocab: usize,
}

impl std::fmt::Debug for TokenTrie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenTrie({} tokens)", self.vocab)
    }
}

impl TokenTrie {
    /// `vocab`: the width of the logits. Tokens of the tokenizer with higher ids do not exist for
    /// the model.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        eos: &[u32],
        vocab: usize,
    ) -> Result<Self, GrammarError> {
        let internal = |error: &dyn std::fmt::Display| GrammarError::Internal(error.to_string());
        let trie = trie(tokenizer, eos, vocab);
        let env: TokEnv = Arc::new(Env { trie });
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| internal(&error))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, tokenizer: tokenizer.clone(), vocab })
    }

    /// Creates parsers for grammars.
    pub(super) fn factory(&self) -> &ParserFactory {
        &self.factory
    }

    /// The width of a mask.
    pub(super) fn vocab(&self) -> usize {
        self.vocab
    }

    /// `text` in a Lark grammar: a token if it is one of the model's markers, else its characters.
    pub(super) fn lark_of(&self, text: &str) -> String {
        let token = self.tokenizer.token_id(text);
        let is_marker = |id: &u32| self.factory.tok_env().tok_trie().is_special_token(*id);
        match token.filter(is_marker) {
            Some(id) => format!("<[{id}]>"),
            None => serde_json::Value::from(text).to_string(),
        }
    }
}

/// The tree of all tokens. Markers (special tokens, end of sequence) are distinct from ordinary
/// text with the same characters.
fn trie(tokenizer: &Tokenizer, eos: &[u32], vocab: usize) -> TokTrie {
    let mut words: Vec<Vec<u8>> = vec![Vec::new(); vocab];
    for (id, word) in (0..).zip(&mut words) {
        let Some(Entry { bytes, is_marker }) = tokenizer.entry(id) else { continue };
        if bytes.len() > MAX_TOKEN_BYTES {
            continue;
        }
        if is_marker || eos.contains(&id) {
            word.push(TokTrie::SPECIAL_TOKEN_MARKER);
        }
        word.extend(bytes);
    }
    // Without an end-of-sequence token, an answer ends where its grammar allows no further token.
    let first = eos.first().copied().unwrap_or(llguidance::toktrie::INVALID_TOKEN);
    let trie = TokTrie::from(&TokRxInfo::new(vocab as u32, first), &words);
    match eos {
        [] | [_] => trie,
        eos => trie.with_eos_tokens(eos),
    }
}

/// The environment without a tokenizer: only the grammar forces tokens, so the model chooses how a
/// text is split into tokens.
struct Env {
    trie: TokTrie,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.greedy_tokenize(bytes)
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
