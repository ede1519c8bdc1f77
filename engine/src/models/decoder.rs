//! The decoder that all families share: embeddings, a stack of blocks, a norm and an output head.

use std::fmt;

use mlx_rs::ops::{multiply, tanh};
use mlx_rs::{Array, Dtype};

use crate::error::{LoadError, Result};
use crate::kv::slots::SlotSpec;
use crate::models::forward::{CausalLm, Forward};
use crate::models::nn::{RmsNorm, TokenHead};
use crate::weights::Weights;
use crate::weights::text_model::{head_path, root};

/// One layer of a decoder: a mixer across tokens, then a feed-forward layer on each token.
pub(crate) trait Block: fmt::Debug {
    /// The cache slot of the mixer; `None` if it needs none.
    fn slot(&self) -> Option<SlotSpec>;

    /// x: [1, T, hidden] of all segments; `slot`: the block's slot. Returns the mixer's output for
    /// the kept tokens, [1, R, hidden]; `None` when no token is kept.
    fn mix(&self, x: &Array, slot: usize, step: &mut Forward<'_>) -> Result<Option<Array>>;

    /// The part of the block after the mixer. x is the residual stream before the mixer; x and
    /// `mixed` are [1, R, hidden]. Returns the same shape.
    fn feed(&self, x: &Array, mixed: &Array) -> Result<Array>;
}

/// The config values for the embeddings, final norm and output head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecoderShape {
    pub(crate) vocab: i32,
    pub(crate) hidden: i32,
    pub(crate) layers: i32,
    /// `None`: tied if the checkpoint has no separate head.
    pub(crate) tied_embeddings: Option<bool>,
    /// Factor for the embeddings.
    pub(crate) embed_scale: Option<f32>,
    /// Softcap of the logits: cap * tanh(logits / cap).
    pub(crate) logit_softcap: Option<f32>,
}

/// A decoder whose blocks are all of type `B`.
#[derive(Debug)]
pub(crate) struct Decoder<B> {
    tokens: TokenHead,
    embed_scale: Option<f32>,
    blocks: Vec<B>,
    /// The slot of each block; the number of slots for a block without one.
    slots: Vec<usize>,
    norm: RmsNorm,
    logit_softcap: Option<f32>,
}

impl<B: Block + 'static> Decoder<B> {
    /// Loads embeddings and head, each block by `block(weights, path, layer)`, and the final norm
    /// by `norm(weights, path)`.
    ///
    /// # Errors
    /// If a tensor is missing or has another shape.
    pub(crate) fn load(
        weights: &mut Weights,
        shape: DecoderShape,
        norm: impl FnOnce(&mut Weights, &str) -> Result<RmsNorm, LoadError>,
        mut block: impl FnMut(&mut Weights, &str, i32) -> Result<B, LoadError>,
    ) -> Result<Box<dyn CausalLm>, LoadError> {
        let (root, head) = (root(weights), head_path(weights));
        let (embed, table) = (format!("{root}.embed_tokens"), [shape.vocab, shape.hidden]);
        let tokens =
            TokenHead::load(weights, [embed.as_str(), head], table, shape.tied_embeddings)?;
        let mut blocks = Vec::with_capacity(shape.layers as usize);
        for layer in 0..shape.layers {
            blocks.push(block(weights, &format!("{root}.layers.{layer}"), layer)?);
        }
        let mut next = 0;
        let slots = blocks.iter().map(|block| {
            next += usize::from(block.slot().is_some());
            next.saturating_sub(1)
        });
        Ok(Box::new(Self {
            slots: slots.collect(),
            tokens,
            embed_scale: shape.embed_scale,
            blocks,
            norm: norm(weights, &format!("{root}.norm"))?,
            logit_softcap: shape.logit_softcap,
        }))
    }

    /// tokens: [1, T]. Returns [1, T, hidden].
    fn embed(&self, tokens: &Array) -> Result<Array> {
        let x = self.tokens.embed(tokens)?;
        let Some(scale) = self.embed_scale else { return Ok(x) };
        // In training the factor was rounded to bfloat16, whatever dtype the weights are stored in.
        let scale = Array::from_f32(scale).as_dtype(Dtype::Bfloat16)?;
        multiply(&x, scale.as_dtype(x.dtype())?)
    }

    /// x: [1, R, hidden]. Returns [1, R, vocab].
    fn logits(&self, x: &Array) -> Result<Array> {
        let logits = self.tokens.logits(&self.norm.forward(x)?)?;
        let Some(cap) = self.logit_softcap else { return Ok(logits) };
        let cap = Array::from_f32(cap).as_dtype(logits.dtype())?;
        multiply(tanh(logits.divide(&cap)?)?, cap)
    }
}

impl<B: Block + 'static> CausalLm for Decoder<B> {
    fn forward(&self, tokens: &Array, mut step: Forward<'_>) -> Result<Option<Array>> {
        let mut x = Some(self.embed(tokens)?); // [1, T, hidden]
        for (index, block) in self.blocks.iter().enumerate() {
            if index + 1 == self.blocks.len() {
                // After the last layer's mixer only the tokens that need logits are computed
                // further.
                step.keep_outputs_only();
            }
            let Some(before) = x else { break };
            let mixed = block.mix(&before, self.slots[index], &mut step)?;
            x = match (mixed, step.kept(&before)?) {
                (Some(mixed), Some(kept)) => Some(block.feed(&kept, &mixed)?),
                _ => None,
            };
        }
        step.finish();
        x.map(|x| self.logits(&x)).transpose() // [1, R, vocab]
    }

    fn slots(&self) -> Vec<SlotSpec> {
        self.blocks.iter().filter_map(Block::slot).collect()
    }
}
