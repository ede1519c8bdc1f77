//! Converts text to token ids and back, with the model's tokenizer.json.
//!
//! | file | content |
//! |---|---|
//! | `checks.rs` | limits on the content of a tokenizer.json |
//! | `table.rs` | the bytes that each token adds to a text |
//! | `encode.rs` | encoding of texts, bounded in bytes, tokens, memory and time |
//! | `guard.rs` | the only access to the `tokenizers` library |

mod checks;
mod encode;
// Fuzz targets and tests call it; release builds do not contain it.
#[cfg(debug_assertions)]
pub mod fuzz;
mod guard;
mod table;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::error::LoadError;
use crate::limits;
use crate::small_file;
pub(crate) use encode::bytes_in_use;
use guard::{Fault, Semaphore};
use table::Table;
#[cfg(test)]
pub(crate) use table::byte_of_level;

/// A model's tokenizer. Clones share it.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    library: tokenizers::Tokenizer,
    table: Table,
    /// Maximum number of bytes that the normalizer makes of one byte.
    text_growth: u64,
    /// The path of tokenizer.json, for logs.
    path: PathBuf,
    permits: Arc<Semaphore>,
    /// Abandoned calls that took too long, for as long as they run.
    abandoned: Mutex<Vec<Weak<AtomicBool>>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocab_tokens())
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    pub(crate) fn load(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("tokenizer.json");
        let Some(text) = small_file::read(&path, limits::TOKENIZER_FILE_BYTES)? else {
            let hint = "the model's tokenizer; a model without one cannot run here";
            return Err(LoadError::Missing { path, hint });
        };
        Self::guarded(path.clone(), text).map_err(|what| LoadError::Invalid { path, what })
    }

    /// Creates a tokenizer from the text of a tokenizer.json.
    ///
    /// # Errors
    /// Describes the problem, if it is not a valid tokenizer.json.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        Self::guarded(PathBuf::from("tokenizer.json"), text.to_vec())
    }

    fn guarded(path: PathBuf, text: Vec<u8>) -> Result<Self, String> {
        let too_slow = || format!("reading it takes more than {} s", limits::TOKENIZER_LOAD_SECS);
        if abandoned(&path, None) {
            return Err(format!("{}, and has not ended since", too_slow()));
        }
        let running = Arc::new(());
        let watched = Arc::downgrade(&running);
        let deadline = Instant::now() + Duration::from_secs(limits::TOKENIZER_LOAD_SECS);
        let own_path = path.clone();
        let read = guard::run(deadline, &|| true, move || {
            let _running = running;
            Inner::read(own_path, &text, deadline)
        });
        let inner = read.unwrap_or_else(|fault| {
            Err(match fault {
                Fault::Panic(what) => {
                    format!("the tokenizers library panicked while reading it: {what}")
                }
                Fault::NoThread(what) => format!("the system gave no thread to read it: {what}"),
                Fault::TooSlow | Fault::Unwanted => {
                    abandoned(&path, Some(watched));
                    too_slow()
                }
            })
        })?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The text of `ids`. Ids outside the vocabulary have none.
    pub fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        let shown = ids.iter().filter(|id| !skip_special_tokens || !self.is_special(**id));
        let mut bytes: Vec<u8> =
            shown.filter_map(|id| self.inner.table.bytes(*id)).flatten().copied().collect();
        bytes.drain(..self.leading_bytes(&bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes that a token adds to a text: the bytes of a character may belong to several
    /// tokens. Empty for an id outside the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.bytes(id).to_vec()
    }

    /// The same bytes without a copy.
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        self.inner.table.bytes(id).unwrap_or_default()
    }

    /// A token's text, without the space that only separates it from the token before.
    pub(crate) fn own_text(&self, id: u32) -> String {
        let bytes = self.inner.table.own_bytes(id).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The number of bytes of `text` that are dropped at the beginning of a text.
    pub(crate) fn leading_bytes(&self, text: &[u8]) -> usize {
        let Some((content, count)) = self.inner.table.leading() else { return 0 };
        let mut buffer = [0; 4];
        let content = content.encode_utf8(&mut buffer).as_bytes();
        let found = text.chunks_exact(content.len()).take(count);
        found.take_while(|chunk| *chunk == content).count() * content.len()
    }

    /// Returns a token; `None` for an id outside the vocabulary.
    pub(crate) fn entry(&self, id: u32) -> Option<Entry> {
        let bytes = self.inner.table.bytes(id)?;
        let added = self.inner.library.get_added_vocabulary().get_added_tokens_decoder();
        let is_marker = added
            .get(&id)
            .is_some_and(|token| token.special || looks_like_a_marker(&token.content));
        let bytes = if is_marker { self.inner.table.own_bytes(id)? } else { bytes };
        Some(Entry { bytes: bytes.to_vec(), is_marker })
    }

    /// The number of ids, including added tokens. Some ids may have no token.
    pub fn vocab_tokens(&self) -> usize {
        self.inner.table.ids()
    }

    /// The id of the added token with exactly this content. Ordinary text is never encoded to it by
    /// merging pieces.
    pub(crate) fn added_token(&self, content: &str) -> Option<u32> {
        self.inner.library.get_added_vocabulary().get_vocab().get(content).copied()
    }

    /// Whether a token structures a text and is not part of it.
    pub(crate) fn is_special(&self, id: u32) -> bool {
        let added = self.inner.library.get_added_vocabulary().get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }

    /// Whether a token is an added one, special or not, and not a piece of text.
    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.inner.library.get_added_vocabulary().get_added_tokens_decoder().contains_key(&id)
    }

    /// The id of a token by its content.
    pub(crate) fn token_id(&self, content: &str) -> Option<u32> {
        self.inner.library.token_to_id(content)
    }
}

/// Whether an abandoned thread is still reading a file. `more` adds another such thread.
fn abandoned(path: &Path, more: Option<Weak<()>>) -> bool {
    static LEFT_BEHIND: Mutex<Vec<(PathBuf, Weak<()>)>> = Mutex::new(Vec::new());
    let mut all = LEFT_BEHIND.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|(_, thread)| thread.strong_count() > 0);
    all.extend(more.map(|thread| (path.to_owned(), thread)));
    all.iter().any(|(other, _)| other == path)
}

impl Inner {
    fn read(path: PathBuf, text: &[u8], deadline: Instant) -> Result<Self, String> {
        let file = checks::File::read(text)?;
        file.check()?;
        let mut library =
            tokenizers::Tokenizer::from_bytes(text).map_err(|error| error.to_string())?;
        let added = library.get_added_vocabulary().get_added_tokens_decoder().keys();
        if let Some(id) =
            added.copied().find(|id| library.id_to_token(*id).is_some_and(|s| s.is_empty()))
        {
            // The library would find it at every position of a text, without end.
            return Err(format!("its normalizer leaves nothing of the added token {id}"));
        }
        // A file saved for training may truncate or pad every text; prompts must stay unchanged.
        let _ = library.with_truncation(None);
        library.with_padding(None);
        Ok(Self {
            table: Table::new(&file, file.max_ids(), |id| library.id_to_token(id), deadline)?,
            text_growth: file.text_growth()?,
            library,
            path,
            permits: Arc::new(Semaphore::new(limits::ENCODES_AT_ONCE)),
            abandoned: Mutex::default(),
        })
    }
}

/// A token of the vocabulary.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The bytes that it adds to a text.
    pub(crate) bytes: Vec<u8>,
    /// It structures a conversation (`<|im_end|>`, `<tool_call>`) and is not part of a text.
    pub(crate) is_marker: bool,
}

/// Some vocabularies do not mark their markers as special, and also add runs of spaces as tokens,
/// which are text.
fn looks_like_a_marker(piece: &str) -> bool {
    let within = |open, close| piece.starts_with(open) && piece.ends_with(close);
    within('<', '>') || within('[', ']')
}

#[cfg(test)]
mod tests;
