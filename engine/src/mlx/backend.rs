//! Which way computations go that MLX offers in two.

use crate::mlx::bridge::metal_is_available;

/// The choices that depend on the device. A value, so that tests run both ways on any machine: MLX
/// computes its fused operations on the CPU too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Backend {
    /// Rotary positions come from MLX's fused call, not from a table that the layers share.
    pub(crate) fused_rope: bool,
    /// Attention in float32 always goes through MLX's fused call.
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
