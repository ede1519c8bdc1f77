//! A loaded model, used from outside the engine thread.

use crate::runtime::files::ModelFiles;
use crate::types::ModelInfo;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::oneshot;

use crate::error::{SubmitError, TokenizeError};
use crate::runtime::generation::{GenerateRequest, Generation};
use crate::runtime::link::EngineLink;
use crate::runtime::sampling::SamplingDefaults;
use crate::sched::KvCost;
use crate::text::grammar::{Grammar, GrammarError, Pattern, TokenTrie};
use crate::text::output::OutputFormat;
use crate::text::template::ChatTemplate;
use crate::text::tokenizer::Tokenizer;
use crate::types::ModelId;

/// A handle to a loaded model. When the last clone is dropped, the engine frees the weights.
#[derive(Debug, Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    link: Arc<EngineLink>,
    id: ModelId,
    name: String,
    info: ModelInfo,
    cost: KvCost,
    folder: ModelFiles,
    gone: Mutex<Option<oneshot::Receiver<()>>>,
    /// Built when a grammar is first compiled.
    vocabulary: OnceLock<Result<TokenTrie, GrammarError>>,
}

impl Model {
    pub(crate) fn new(
        link: Arc<EngineLink>,
        id: ModelId,
        name: String,
        (info, cost): (ModelInfo, KvCost),
        folder: ModelFiles,
        gone: oneshot::Receiver<()>,
    ) -> Self {
        let gone = Mutex::new(Some(gone));
        let vocabulary = OnceLock::new();
        let inner = Inner { link, id, name, info, cost, folder, gone, vocabulary };
        Self { inner: Arc::new(inner) }
    }

    /// Unloads the model. Completes when its weights have left memory, which happens when the last
    /// clone of this handle is dropped and the last request on it has ended. Only the first call
    /// waits.
    pub fn unload(self) -> impl Future<Output = ()> + Send + use<> {
        let gone = self.inner.gone.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(self);
        async {
            if let Some(gone) = gone {
                // The other end is dropped when the weights are gone, so an error is expected.
                let _ = gone.await;
            }
        }
    }

    /// The name under which it was loaded.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Facts about the model and its needs.
    pub fn info(&self) -> &ModelInfo {
        &self.inner.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.inner.folder.tokenizer
    }

    /// Its chat template; base models have none.
    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.inner.folder.chat_template.as_ref()
    }

    /// The format of its reasoning and tool calls.
    pub fn output_format(&self) -> &OutputFormat {
        &self.inner.folder.output_format
    }

    /// The sampling settings recommended by its authors.
    pub fn sampling_defaults(&self) -> &SamplingDefaults {
        &self.inner.folder.sampling
    }

    /// Limit on prompt and answer together, in tokens: the model's limit, or less if the memory
    /// budget has no space for it besides the weights.
    pub fn context_tokens(&self) -> usize {
        let room = self.inner.link.room_beside(self.inner.info.weight_bytes);
        let fits = room.map_or(usize::MAX, |room| self.inner.cost.tokens_in(room));
        self.inner.info.context_tokens.min(fits)
    }

    /// Tokenizes a prompt's text, unless it has far more tokens than the context: see
    /// [`Tokenizer::encode_within`].
    ///
    /// # Errors
    /// The same as [`Tokenizer::encode_within`].
    pub fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<u32>, TokenizeError> {
        self.tokenizer().encode_within(text, add_special_tokens, self.context_tokens(), wanted)
    }

    /// Bytes of the caches of a sequence with `tokens` tokens.
    pub fn kv_bytes(&self, tokens: usize) -> u64 {
        self.inner.cost.bytes(tokens)
    }

    /// Compiles a grammar for an answer. This is slow, most of all the first time, so do not call
    /// it on an async thread.
    ///
    /// # Errors
    /// If the pattern is invalid, too large, or cannot be enforced.
    pub fn compile(&self, pattern: &Pattern) -> Result<Grammar, GrammarError> {
        let Inner { folder, info, vocabulary, .. } = &*self.inner;
        let make = || TokenTrie::new(&folder.tokenizer, &folder.eos, info.vocab_tokens);
        let vocabulary = vocabulary.get_or_init(make).as_ref().map_err(GrammarError::clone)?;
        Grammar::compile(vocabulary, pattern)
    }

    /// Queues a request.
    ///
    /// # Errors
    /// If the prompt is empty, too long or has invalid token ids, or if the queue is full.
    pub fn generate(&self, request: GenerateRequest) -> Result<Generation, SubmitError> {
        let info = &self.inner.info;
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let context_tokens = self.context_tokens();
        if prompt_tokens >= context_tokens {
            return Err(SubmitError::ContextExceeded { prompt_tokens, context_tokens });
        }
        let vocab = info.vocab_tokens;
        let biased = request.sampling.logit_bias.iter().map(|(id, _)| id);
        let thinking = request.thinking_budget();
        let biased = biased.chain(thinking.iter().map(|thinking| &thinking.close));
        if let Some(&id) = request.prompt.iter().chain(biased).find(|&&id| id as usize >= vocab) {
            return Err(SubmitError::UnknownToken { id, vocab });
        }
        let mut request = request;
        request.max_tokens = request.max_tokens.min(context_tokens - prompt_tokens).max(1);
        let ModelFiles { tokenizer, eos, .. } = &self.inner.folder;
        self.inner.link.submit(self.inner.id, request, tokenizer.clone(), eos.clone())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.link.unload(self.id);
    }
}
