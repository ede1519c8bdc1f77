//! Selects between alternative implementations of a computation.

use crate::mlx::bridge::metal_is_available;

/// Choices that depend on the device. They are a value, so that tests can run both alternatives on
/// any machine: MLX computes its fused operations on the CPU too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    /// Use MLX's fused rotary embedding, and not a table that the layers share.
    pub(crate) fused_rope: bool,
    /// Always use MLX's fused attention for float32.
    pub(crate) fused_attention: bool,
    /// The Metal kernels of this crate can run.
    pub(crate) kernels: bool,
}

impl Backend {
    /// The choices for Metal.
    pub(crate) const METAL: Backend =
        Backend { fused_rope: true, fused_attention: true, kernels: true };
    /// The choices for MLX's CPU backend.
    pub(crate) const CPU: Backend =
        Backend { fused_rope: false, fused_attention: false, kernels: false };

    /// The choices for the device that MLX computes on.
    pub(crate) fn current() -> Self {
        if metal_is_available() { Self::METAL } else { Self::CPU }
    }
}
