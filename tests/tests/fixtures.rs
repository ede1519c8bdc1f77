//! The fixtures are the same bytes here as in the oracle.

use omlx_tests::golden::Golden;
use sha2::{Digest, Sha256};

#[test]
fn every_tensor_has_the_bytes_that_the_oracle_loaded() {
    let goldens = Golden::all();
    assert!(goldens.len() >= 45, "only {} goldens", goldens.len());
    for golden in goldens {
        let tensors = golden.case.tensor_bytes();
        assert_eq!(
            tensors.keys().collect::<Vec<_>>(),
            golden.tensors.keys().collect::<Vec<_>>(),
            "{}",
            golden.case.name
        );
        for (name, bytes) in tensors {
            let hash = format!("{:x}", Sha256::digest(&bytes));
            assert_eq!(hash, golden.tensors[&name], "{} {name}", golden.case.name);
        }
    }
}

#[test]
fn goldens_are_varied_and_do_not_hang_on_rounding() {
    for golden in Golden::all() {
        for path in &golden.paths {
            let distinct: std::collections::BTreeSet<_> = path.tokens.iter().collect();
            assert_eq!(path.tokens.len(), 64, "{}", golden.case.name);
            assert!(distinct.len() >= 21, "{}: {} distinct", golden.case.name, distinct.len());
            assert!(path.min_gap >= 0.002, "{}: gap {}", golden.case.name, path.min_gap);
        }
    }
}
