//! A model folder's weights: config.json, the safetensors files and their quantization.

mod checkpoint;
pub(crate) mod config;
mod files;
pub(crate) mod quantization;
pub(crate) mod text_model;

pub(crate) use checkpoint::Weights;
pub use files::{NoWeightFiles, WeightFiles, choose_weight_files};
