//! Tokenizes a prompt's text, with bounded resources for any text and any tokenizer.
//!
//! The library takes about 200 bytes of memory for each token and 100 for each byte of a text. A
//! text is encoded as a whole, because for some tokenizers any split may change the result. So the
//! text is bounded first: by its bytes and, if it is long, by counting its tokens in pieces, each
//! encoded alone and then dropped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokenizers::tokenizer::{Model as _, PreTokenizer as _};
use tokenizers::{OffsetReferential, OffsetType};

use super::guard::{self, Fault, Permit, Semaphore};
use super::{Inner, Tokenizer};
use crate::error::TokenizeError;
use crate::limits;

/// Number of bytes in a counted piece; fewer if the tokenizer expands bytes a lot.
const PIECE_BYTES: usize = 64 << 10;
/// Limit on the normalized bytes of such a piece.
const NORMALIZED_PIECE_BYTES: usize = 4 << 20;
/// The count rejects a text with more than this multiple of the allowed tokens, plus
/// [`TOKENS_A_CUT`] for each piece, because a split can only add tokens where it is.
const COUNT_SLACK: usize = 4;
/// Upper bound on the tokens that one split adds.
const TOKENS_A_CUT: usize = 16;
/// Number of bytes of text allowed for each token of the context. Prose has four or five.
const TEXT_BYTES_A_TOKEN: usize = 8;
/// The same for the normalized text.
const NORMALIZED_BYTES_A_TOKEN: usize = 32;
/// A text is encoded without a count if its normalized size is at most this.
const UNCOUNTED_NORMALIZED_BYTES: usize = 12 << 20;
/// Upper bound on the memory that encoding takes for each byte of the normalized text.
const MEMORY_BYTES_A_BYTE: u64 = 100;
/// The largest context of any model.
const MOST_CONTEXT_TOKENS: usize = 1 << 26;

/// Long texts are encoded one at a time, across all models.
static LONG_TEXT: Semaphore = Semaphore::new(1);
/// Memory of the text that holds [`LONG_TEXT`].
static LONG_TEXT_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes that encoding takes now, beyond each request's allowance; for the memory budget.
pub(crate) fn bytes_in_use() -> u64 {
    LONG_TEXT_BYTES.load(Ordering::Relaxed)
}

/// The parameters of encoding one text.
struct Job<'a> {
    inner: &'a Arc<Inner>,
    deadline: Instant,
    wanted: &'a dyn Fn() -> bool,
    most_tokens: usize,
}

/// A call's permit, which it keeps when it is abandoned.
type OwnedPermit = Permit<Arc<Semaphore>>;

impl Tokenizer {
    /// Returns the token ids of `text`. `add_special_tokens` adds the model's tokens around a text
    /// (such as a beginning-of-sequence token), which a rendered chat template contains already.
    ///
    /// This is slow for long texts, so do not call it on an async thread.
    ///
    /// # Errors
    /// If the tokenizer rejects the text, or no context could hold it.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        self.encode_within(text, add_special_tokens, MOST_CONTEXT_TOKENS, &|| true)
    }

    /// Tokenizes for a context of `most_tokens`. A text with far more tokens is rejected before it
    /// is encoded as a whole; one with somewhat more is encoded. Ends soon after `wanted` returns
    /// false.
    ///
    /// # Errors
    /// The same as [`Tokenizer::encode`]; also if the text is too long, is no longer wanted, or
    /// takes too long. After the latter the tokenizer rejects other texts until that one is done.
    pub fn encode_within(
        &self,
        text: &str,
        add_special_tokens: bool,
        most_tokens: usize,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<u32>, TokenizeError> {
        let limit = Duration::from_secs(limits::ENCODE_SECS);
        self.encode_until(Instant::now() + limit, text, add_special_tokens, most_tokens, wanted)
    }

    /// Tokenizes with an explicit time limit.
    pub(super) fn encode_until(
        &self,
        deadline: Instant,
        text: &str,
        add_special_tokens: bool,
        most_tokens: usize,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<u32>, TokenizeError> {
        let job = Job { inner: &self.inner, deadline, wanted, most_tokens };
        job.run(text, add_special_tokens)
    }
}

impl Job<'_> {
    fn run(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        let Job { inner, deadline, wanted, most_tokens } = *self;
        inner.check_free()?;
        let most_bytes = limits::PROMPT_TEXT_BYTES.max(most_tokens * TEXT_BYTES_A_TOKEN);
        let permit =
            Semaphore::take(Arc::clone(&inner.permits), deadline, wanted).map_err(fault)?;
        let start: Arc<str> = text[..text.floor_char_boundary(most_bytes)].into();
        if text.len() <= uncounted_bytes(inner.text_growth) {
            return self.call(permit, move |inner, _| inner.encode(&start, add_special_tokens))?.1;
        }
        let counting = Arc::clone(&start);
        let (permit, counted) =
            self.call(permit, move |inner, is_over| inner.count(&counting, most_tokens, is_over))?;
        let (tokens, normalized_bytes) = counted?;
        if text.len() > most_bytes && tokens > most_tokens {
            return Err(TokenizeError::TooManyTokens { tokens, most_tokens });
        }
        if text.len() > most_bytes {
            let bytes = text.len();
            return Err(TokenizeError::TooManyBytes { bytes, most_bytes, most_tokens });
        }
        // The waiting thread takes it and not the encoding one, so an abandoned call blocks no
        // other.
        let _permit = Semaphore::take(&LONG_TEXT, deadline, wanted).map_err(fault)?;
        let _taken = Taken::new(normalized_bytes as u64 * MEMORY_BYTES_A_BYTE);
        self.call(permit, move |inner, _| inner.encode(&start, add_special_tokens))?.1
    }

    fn call<T: Send + 'static>(
        &self,
        permit: OwnedPermit,
        call: impl FnOnce(&Inner, &AtomicBool) -> T + Send + 'static,
    ) -> Result<(OwnedPermit, T), TokenizeError> {
        let is_over = Arc::new(AtomicBool::new(false));
        let running = Arc::downgrade(&is_over);
        let over_flag = Arc::clone(&is_over);
        let inner = Arc::clone(self.inner);
        let outcome = guard::run(self.deadline, self.wanted, move || {
            let result = call(&inner, &is_over);
            (permit, result)
        });
        over_flag.store(true, Ordering::Relaxed);
        drop(over_flag);
        outcome.map_err(|reason| {
            if reason == Fault::TooSlow {
                self.inner.abandon(running);
            }
            fault(reason)
        })
    }
}

impl Inner {
    /// Rejects a text while an earlier one that took too long is still in progress.
    fn check_free(&self) -> Result<(), TokenizeError> {
        let mut abandoned = self.abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        abandoned.retain(|call| call.strong_count() > 0);
        if abandoned.is_empty() { Ok(()) } else { Err(TokenizeError::TooSlow) }
    }

    fn abandon(&self, call: Weak<AtomicBool>) {
        tracing::error!(
            path = %self.path.display(),
            "the tokenizer did not end in {} s; it refuses other texts until it does",
            limits::ENCODE_SECS
        );
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        let encoding = self.library.encode_fast(text, add_special_tokens);
        encoding.map(|e| e.get_ids().to_vec()).map_err(refused)
    }

    /// Encodes a text piece by piece, until it is certain that it has too many tokens or grows too
    /// much. Returns its number of tokens, and its normalized bytes.
    fn count(
        &self,
        text: &str,
        most_tokens: usize,
        is_over: &AtomicBool,
    ) -> Result<(usize, usize), TokenizeError> {
        let growth = usize::try_from(self.text_growth).unwrap_or(usize::MAX);
        let piece_bytes = (NORMALIZED_PIECE_BYTES / growth).clamp(4, PIECE_BYTES);
        let most_normalized =
            limits::NORMALIZED_TEXT_BYTES.max(most_tokens * NORMALIZED_BYTES_A_TOKEN);
        let (mut tokens, mut pieces, mut normalized_bytes) = (0, 0, 0);
        let mut rest = text;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(piece_bytes));
            let (piece_tokens, piece_normalized) = self.count_piece(piece, is_over)?;
            (tokens, pieces) = (tokens + piece_tokens, pieces + 1);
            normalized_bytes += piece_normalized;
            if tokens > most_tokens * COUNT_SLACK + pieces * TOKENS_A_CUT {
                return Err(TokenizeError::TooManyTokens { tokens, most_tokens });
            }
            if normalized_bytes > most_normalized {
                let (bytes, most_bytes) = (normalized_bytes, most_normalized);
                return Err(TokenizeError::TooManyBytes { bytes, most_bytes, most_tokens });
            }
            rest = after;
        }
        Ok((tokens, normalized_bytes))
    }

    /// The number of tokens in a piece, and its normalized bytes.
    fn count_piece(
        &self,
        piece: &str,
        is_over: &AtomicBool,
    ) -> Result<(usize, usize), TokenizeError> {
        let library = &self.library;
        let added = library.get_added_vocabulary();
        let mut text = added.extract_and_normalize(library.get_normalizer(), piece);
        if let Some(pre_tokenizer) = library.get_pre_tokenizer() {
            pre_tokenizer.pre_tokenize(&mut text).map_err(refused)?;
        }
        let splits = text.get_splits(OffsetReferential::Normalized, OffsetType::None);
        let bytes = splits.iter().map(|(text, ..)| text.len()).sum();
        let mut tokens = 0;
        for (text, _, added) in splits {
            tokens += match added {
                Some(added) => added.len(),
                None => library.get_model().tokenize(text).map_err(refused)?.len(),
            };
            if is_over.load(Ordering::Relaxed) {
                return Err(TokenizeError::Unwanted);
            }
        }
        Ok((tokens, bytes))
    }
}

/// Counts the memory of a long text for as long as this value lives.
struct Taken(u64);

impl Taken {
    fn new(bytes: u64) -> Self {
        LONG_TEXT_BYTES.fetch_add(bytes, Ordering::Relaxed);
        Self(bytes)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        LONG_TEXT_BYTES.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// The maximum number of bytes of a text that is encoded without a count.
fn uncounted_bytes(text_growth: u64) -> usize {
    let growth = usize::try_from(text_growth).unwrap_or(usize::MAX);
    (UNCOUNTED_NORMALIZED_BYTES / growth).min(limits::UNCOUNTED_TEXT_BYTES)
}

fn refused(error: tokenizers::Error) -> TokenizeError {
    TokenizeError::Refused(error.to_string())
}

fn fault(fault: Fault) -> TokenizeError {
    match fault {
        Fault::Panic(what) => TokenizeError::Refused(what),
        Fault::TooSlow => TokenizeError::TooSlow,
        Fault::Unwanted => TokenizeError::Unwanted,
        Fault::NoThread(what) => TokenizeError::NoThread(what),
    }
}
