//! Access to MLX: the calls that mlx-rs lacks, and computations without weights.

pub(crate) mod attention;
pub(crate) mod backend;
pub(crate) mod bridge;
pub(crate) mod gated_delta;
pub(crate) mod rope;
