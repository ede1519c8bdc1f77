//! A prompt's text to token ids, whatever the text and the tokenizer.
//!
//! The library takes some 200 bytes of memory for each token and 100 for each byte of a text, and a text is encoded
//! as a whole, since no cut can be shown to change nothing for every tokenizer. So the text is bounded first: by
//! its bytes; and if it is long, by a count of its tokens in pieces, each encoded alone and forgotten.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokenizers::tokenizer::{Model as _, PreTokenizer as _};
use tokenizers::{OffsetReferential, OffsetType};

use super::guard::{self, Fault, Place, Places};
use super::{Inner, Tokenizer};
use crate::error::TokenizeError;
use crate::limits;

/// Bytes of a piece that is counted; fewer where the tokenizer makes much of a byte.
const PIECE_BYTES: usize = 64 << 10;
/// What a normalizer may make of such a piece.
const NORMALIZED_PIECE_BYTES: usize = 4 << 20;
/// A count refuses a text with so many times the tokens that there is room for, and [`TOKENS_A_CUT`] for each
/// piece: a cut adds tokens where it falls, and no others.
const COUNT_SLACK: usize = 4;
/// The most tokens that a cut is taken to add.
const TOKENS_A_CUT: usize = 16;
/// For each token of the context, so many bytes of text are taken. Prose has four or five.
const TEXT_BYTES_A_TOKEN: usize = 8;
/// The same for the text as the normalizer leaves it.
const NORMALIZED_BYTES_A_TOKEN: usize = 32;
/// Texts are encoded without a count when the normalizer makes no more than this of them.
const UNCOUNTED_NORMALIZED_BYTES: usize = 12 << 20;
/// What encoding takes of memory for each byte of the text that the normalizer leaves, at most.
const MEMORY_BYTES_A_BYTE: u64 = 100;
/// The largest context that any model has.
const MOST_CONTEXT_TOKENS: usize = 1 << 26;

/// Long texts are encoded one at a time, whatever their models.
static LONG_TEXT: Places = Places::new(1);
/// What the text that holds [`LONG_TEXT`] takes.
static LONG_TEXT_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes that encoding takes now, beyond what every request may: for the memory budget.
pub(crate) fn bytes_in_use() -> u64 {
    LONG_TEXT_BYTES.load(Ordering::Relaxed)
}

/// What is wanted of one text.
struct Job<'a> {
    inner: &'a Arc<Inner>,
    deadline: Instant,
    wanted: &'a dyn Fn() -> bool,
    most_tokens: usize,
}

/// A call's place, which stays with it when it is left behind.
type OwnPlace = Place<Arc<Places>>;

impl Tokenizer {
    /// Token ids of `text`. `add_special_tokens` adds what the model puts around a text (a
    /// beginning of sequence, for one); a rendered chat template holds it already.
    ///
    /// Slow for long texts: not to be called on an async thread.
    ///
    /// # Errors
    /// When the tokenizer refuses the text, or no context could hold it.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        self.encode_within(text, add_special_tokens, MOST_CONTEXT_TOKENS, &|| true)
    }

    /// The same for a context of `most_tokens`. A text that has far more is refused before it is encoded as a
    /// whole; one that has somewhat more is encoded. Ends soon after `wanted` says no.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`], and when the text is too long, is not wanted any more, or takes too long: then the
    /// tokenizer refuses others until that one is done.
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

    /// The same with a limit of time of one's own.
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
        let place = Places::take(Arc::clone(&inner.places), deadline, wanted).map_err(fault)?;
        let start: Arc<str> = text[..text.floor_char_boundary(most_bytes)].into();
        if text.len() <= uncounted_bytes(inner.text_growth) {
            return self.call(place, move |inner, _| inner.encode(&start, add_special_tokens))?.1;
        }
        let counting = Arc::clone(&start);
        let (place, counted) =
            self.call(place, move |inner, is_over| inner.count(&counting, most_tokens, is_over))?;
        let (tokens, normalized_bytes) = counted?;
        if text.len() > most_bytes && tokens > most_tokens {
            return Err(TokenizeError::TooManyTokens { tokens, most_tokens });
        }
        if text.len() > most_bytes {
            let bytes = text.len();
            return Err(TokenizeError::TooManyBytes { bytes, most_bytes, most_tokens });
        }
        // Taken by the thread that waits, not by the one that encodes: what is left behind blocks nobody.
        let _turn = Places::take(&LONG_TEXT, deadline, wanted).map_err(fault)?;
        let _taken = Taken::new(normalized_bytes as u64 * MEMORY_BYTES_A_BYTE);
        self.call(place, move |inner, _| inner.encode(&start, add_special_tokens))?.1
    }

    fn call<T: Send + 'static>(
        &self,
        place: OwnPlace,
        call: impl FnOnce(&Inner, &AtomicBool) -> T + Send + 'static,
    ) -> Result<(OwnPlace, T), TokenizeError> {
        let is_over = Arc::new(AtomicBool::new(false));
        let running = Arc::downgrade(&is_over);
        let told = Arc::clone(&is_over);
        let inner = Arc::clone(self.inner);
        let outcome = guard::run(self.deadline, self.wanted, move || {
            let result = call(&inner, &is_over);
            (place, result)
        });
        told.store(true, Ordering::Relaxed);
        drop(told);
        outcome.map_err(|reason| {
            if reason == Fault::TooSlow {
                self.inner.leave_behind(running);
            }
            fault(reason)
        })
    }
}

impl Inner {
    /// Refuses a text while one that took too long is not done.
    fn check_free(&self) -> Result<(), TokenizeError> {
        let mut left_behind = self.left_behind.lock().unwrap_or_else(PoisonError::into_inner);
        left_behind.retain(|call| call.strong_count() > 0);
        if left_behind.is_empty() { Ok(()) } else { Err(TokenizeError::TooSlow) }
    }

    fn leave_behind(&self, call: Weak<AtomicBool>) {
        tracing::error!(
            path = %self.path.display(),
            "the tokenizer did not end in {} s; it refuses other texts until it does",
            limits::ENCODE_SECS
        );
        self.left_behind.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>, TokenizeError> {
        let encoding = self.library.encode_fast(text, add_special_tokens);
        encoding.map(|e| e.get_ids().to_vec()).map_err(refused)
    }

    /// Encodes a text piece by piece, until it is known that it has too many tokens, or grows too much. Gives its
    /// tokens, and the bytes that the normalizer makes of it.
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

    /// The tokens of a piece, and the bytes that the normalizer makes of it.
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

/// Counts what a long text takes for as long as it exists.
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

/// The bytes of text that are encoded without a count.
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
