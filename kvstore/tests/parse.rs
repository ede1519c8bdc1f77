//! Short random runs of the functions that the fuzz targets call. Besides random bytes they get
//! well-formed files with a few bytes changed and with a right checksum, so that the fields behind it are
//! reached.

#![allow(missing_docs, reason = "test code")]

use kvstore::layout::fuzz;
use kvstore::layout::index::{Frame, Role, Stored, encode_file_header, encode_frame};
use kvstore::layout::record::{Header, Seal};
use kvstore::{Key, Kind, Namespace};
use proptest::prelude::*;
use xxhash_rust::xxh3::Xxh3;

fn header_bytes(parts: Vec<u64>, witness: Vec<u8>, sealed: bool, parent: bool) -> Vec<u8> {
    let seal = Seal { nonce: [1; 24], payload_tag: [2; 16], witness_tag: [3; 16] };
    let header = Header {
        kind: Kind::Recurrent,
        namespace: Namespace([4; 32]),
        key: Key([5; 32]),
        parent: parent.then_some(Key([6; 32])),
        created_secs: 7,
        payload_checksum: 8,
        seal: sealed.then_some(seal),
        parts,
        witness,
    };
    header.encode().unwrap()
}

/// Writes the right checksum of a header.
fn make_right(bytes: &mut [u8]) {
    let read = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let end = (256 + 8 * read(20)).saturating_add(read(24)).min(bytes.len());
    let mut hash = Xxh3::new();
    hash.update(&bytes[..240]);
    hash.update(&bytes[256..end]);
    let sum = hash.digest128().to_le_bytes();
    bytes[240..256].copy_from_slice(&sum);
}

fn index_bytes(uses: u8, kind: usize, role: Role) -> Vec<u8> {
    let mut bytes = encode_file_header(role, 5).to_vec();
    let stored = Stored {
        namespace: Namespace([1; 32]),
        key: Key([uses; 32]),
        parent: (uses > 3).then_some(Key([3; 32])),
        kind: Kind::ALL[kind],
        uses,
        file_len: 5,
        physical: 6,
        used_secs: 7,
    };
    encode_frame(&Frame::Add(stored), &mut bytes);
    encode_frame(&Frame::Remove(Namespace([8; 32]), Key([9; 32])), &mut bytes);
    encode_frame(&Frame::Spent { day: 10, bytes: 11 }, &mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz::header(&bytes);
        fuzz::index(&bytes);
    }

    #[test]
    fn changed_headers(
        parts in prop::collection::vec(prop_oneof![0u64..100_000, any::<u64>()], 0..20),
        witness in prop::collection::vec(any::<u8>(), 0..300),
        sealed: bool, parent: bool,
        changes in prop::collection::vec((0usize..600, any::<u8>()), 0..6),
        cut in prop::option::of(0usize..700),
        right: bool,
    ) {
        let parts = parts.into_iter().map(|len| len % (1 << 30)).take(3).collect();
        let mut bytes = header_bytes(parts, witness, sealed, parent);
        fuzz::header(&bytes);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        if right {
            make_right(&mut bytes);
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        fuzz::header(&bytes);
    }

    #[test]
    fn changed_indexes(
        uses: u8, kind in 0usize..3, log: bool,
        changes in prop::collection::vec((0usize..300, any::<u8>()), 0..6),
        cut in prop::option::of(0usize..320),
    ) {
        let mut bytes = index_bytes(uses, kind, if log { Role::Log } else { Role::Snapshot });
        fuzz::index(&bytes);
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        bytes.truncate(cut.unwrap_or(bytes.len()));
        fuzz::index(&bytes);
    }
}
