//! Upper bounds of histogram buckets. Changing one breaks every dashboard that sums over them.

/// Time to first token.
pub(super) const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// Time between two tokens.
pub(super) const INTER_TOKEN: &[f64] =
    &[0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0];

/// Counts of tokens and of bytes.
pub(super) const COUNTS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6,
];

/// A whole request, and its parts: 10 ms doubled up to 81.92 s, then by four.
pub(super) fn end_to_end() -> Vec<f64> {
    let mut bounds = doubled(0.01, 14);
    bounds.extend([160.0, 640.0, 2560.0]);
    bounds
}

/// A step's work outside MLX, and a grammar's mask: 1 us doubled up to 16 ms.
pub(super) fn scheduler() -> Vec<f64> {
    doubled(1e-6, 15)
}

/// A step: 50 us doubled up to 3.3 s.
pub(super) fn step() -> Vec<f64> {
    doubled(50e-6, 17)
}

/// Bytes of request bodies: 64 bytes by four up to 256 MiB.
pub(super) fn body_bytes() -> Vec<f64> {
    (3..=14).map(|power| 4_f64.powi(power)).collect()
}

fn doubled(first: f64, count: i32) -> Vec<f64> {
    (0..count).map(|power| first * 2_f64.powi(power)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_ends_where_it_is_said_to() {
        assert_eq!(end_to_end()[13], 81.92);
        assert!((step().last().unwrap() - 3.2768).abs() < 1e-9);
        assert!((scheduler().last().unwrap() - 0.016384).abs() < 1e-9);
        assert_eq!(*body_bytes().last().unwrap(), 268_435_456.0);
    }
}
