//! A model on the engine thread: its weights, its forward pass, and the facts found while loading.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use mlx_rs::error::Exception;
use mlx_rs::{Array, Dtype};

use crate::error::{LoadError, Result};
use crate::kv::slots::SequenceCache;
use crate::kv::{Layout, ModelReuse};
use crate::mlx::backend::Backend;
use crate::models;
use crate::models::forward::{CausalLm, Forward, Segment, token_array};
use crate::runtime::command::UnloadNotifier;
use crate::runtime::files::ModelFiles;
use crate::runtime::inspect::{stored_dtype, widened};
use crate::sched::KvCost;
use crate::types::ModelInfo;
use crate::types::{ComputeDtype, ModelId};
use crate::weights::Weights;
use crate::weights::text_model;

/// A model's weights and the facts that the engine thread needs.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) architecture: Box<dyn CausalLm>,
    pub(crate) weights: Weights,
    pub(crate) eos: Arc<[u32]>,
    pub(crate) vocab: usize,
    pub(crate) reuse: Rc<ModelReuse>,
    /// The memory cost of a sequence's caches.
    pub(crate) cost: KvCost,
    // Dropped after the weights, in this order.
    _clear: ClearCache,
    _notifier: UnloadNotifier,
}

/// Returns the memory that MLX keeps for reuse to the system when dropped.
#[derive(Debug)]
pub(crate) struct ClearCache;

impl Drop for ClearCache {
    fn drop(&mut self) {
        // A failure does no harm.
        let _ = mlx_rs::memory::clear_cache();
    }
}

/// The memory available to a model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WeightBudget {
    /// Bytes that the budget has left now.
    pub(crate) free_bytes: u64,
    /// The whole budget, and the part of it that steps need.
    pub(crate) budget_bytes: u64,
    pub(crate) step_bytes: u64,
}

impl WeightBudget {
    /// Fails if `bytes` would not fit even if nothing else were loaded.
    fn holds(&self, bytes: u64) -> Result<(), LoadError> {
        let needed_bytes = bytes.saturating_add(self.step_bytes);
        if needed_bytes > self.budget_bytes {
            Err(LoadError::TooLarge { needed_bytes, budget_bytes: self.budget_bytes })
        } else {
            Ok(())
        }
    }
}

impl Loaded {
    /// Reads the weights and runs a first token.
    pub(crate) fn load(
        id: ModelId,
        name: String,
        folder: &ModelFiles,
        notifier: UnloadNotifier,
        compute: ComputeDtype,
        room: WeightBudget,
    ) -> Result<(Self, ModelInfo, KvCost), LoadError> {
        let config = folder.config_file();
        let mut weights = Weights::open(&folder.dir, folder.quantization.clone())?;
        let stored = stored_dtype(&weights);
        let converted = widened(&weights, compute);
        if let Some(dtype) = converted {
            weights.convert_to(dtype);
            tracing::info!(
                model = name,
                stored = stored.map(dtype_name),
                computed = dtype_name(dtype),
                "16-bit weights are slow on MLX's CPU backend and were converted; models.compute_dtype = \"stored\" keeps them"
            );
        }
        let text = |tensor: &str| text_model::is_text(&weights, tensor);
        let (needed_bytes, _) = weights.predict(text, converted);
        room.holds(needed_bytes)?;
        if needed_bytes > room.free_bytes {
            return Err(LoadError::NoRoom { needed_bytes, free_bytes: room.free_bytes });
        }
        let architecture = models::load(&config, &mut weights)?;
        for name in weights.unused() {
            tracing::debug!(tensor = name, "this tensor is not used by the model");
        }
        let mut digest = blake3::Hasher::new();
        digest.update(weights.digest().as_bytes());
        digest.update(serde_json::to_string(&folder.config).unwrap_or_default().as_bytes());
        let (dtype, layout) = warm_up(architecture.as_ref(), &weights, folder)?;
        // The same model computed in two dtypes has different KV caches.
        digest.update(dtype.as_bytes());
        let digest = digest.finalize().to_hex().to_string();
        let cost = layout.cost();
        let kv_dtype = layout.kv_dtype().map_or_else(|| dtype.clone(), dtype_name);
        // A model with no memory left for a prompt is useless.
        room.holds(needed_bytes + cost.bytes(1))?;
        let reuse = Rc::new(ModelReuse {
            id,
            name,
            digest: digest.clone(),
            layout,
            kinds: architecture.slots(),
            kv_dtype: folder.kv_dtype.dtype(),
            message_ends: Arc::clone(&folder.eos),
            user_opening: Arc::clone(&folder.user_opening),
        });
        let loaded = Self {
            architecture,
            eos: Arc::clone(&folder.eos),
            vocab: folder.vocab_tokens,
            weights,
            reuse,
            cost: cost.clone(),
            _clear: ClearCache,
            _notifier: notifier,
        };
        let info = ModelInfo {
            architecture: models::architecture(&config)?.to_owned(),
            parameters: loaded.weights.parameters(),
            weight_bytes: loaded.weights.memory_bytes(),
            context_tokens: folder.context_tokens,
            vocab_tokens: folder.vocab_tokens,
            quantization: loaded.weights.quantization(),
            dtype,
            kv_dtype,
            digest,
            load_time: Duration::ZERO,
        };
        Ok((loaded, info, cost))
    }
}

/// Runs one segment of one sequence. tokens: [1, T]. Returns logits [1, 1, vocab] if requested.
fn forward(
    architecture: &dyn CausalLm,
    cache: &mut SequenceCache,
    tokens: &Array,
    wants_logits: bool,
) -> Result<Option<Array>> {
    let outputs = i32::from(wants_logits);
    let segment = Segment { cache, tokens: tokens.shape()[1], outputs };
    architecture.forward(tokens, Forward::new(vec![segment], Backend::current()))
}

/// Computes one token, to find errors that only a run can find before any client waits for an
/// answer. Returns the name of the resulting dtype, and the layout of the caches.
fn warm_up(
    architecture: &dyn CausalLm,
    weights: &Weights,
    folder: &ModelFiles,
) -> Result<(String, Layout), LoadError> {
    let run = || -> Result<(bool, Dtype, Layout)> {
        let cache = SequenceCache::new(&architecture.slots(), 1);
        let mut cache = cache.keeping(folder.kv_dtype.dtype());
        let logits = forward(architecture, &mut cache, &token_array(&[0]), true)?;
        let logits = logits.ok_or_else(|| Exception::custom("no logits came out"))?;
        if logits.shape() != [1, 1, folder.vocab_tokens as i32] {
            return Err(Exception::custom(format!("logits of shape {:?}", logits.shape())));
        }
        let is_nan = logits.is_nan()?.any(None)?.item_exact::<bool>();
        Ok((is_nan, logits.dtype(), Layout::of(&cache)?))
    };
    let (is_nan, dtype, layout) = run().map_err(|error| LoadError::Mlx {
        path: folder.dir.clone(),
        what: error.what().to_owned(),
    })?;
    if is_nan {
        let found = weights.find_not_finite();
        let what = found.unwrap_or_else(|| "no tensor holds one, so config.json is wrong".into());
        let what = format!("the model computes NaN: {what}");
        return Err(LoadError::Invalid { path: folder.dir.clone(), what });
    }
    Ok((dtype_name(dtype), layout))
}

fn dtype_name(dtype: Dtype) -> String {
    format!("{dtype:?}").to_lowercase()
}
