//! The model families, one file each, and their shared code. A new family is a file here, a line in
//! [`registry`], and a case in the parity tests; see docs/adding-a-model.md.

pub(crate) mod decoder;
mod delta_net;
pub(crate) mod forward;
mod gemma3;
mod llama;
mod moe;
mod nn;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod registry;

pub(crate) use registry::{architecture, load, text_fields};

#[cfg(test)]
mod limit_tests;
#[cfg(test)]
mod tests;
