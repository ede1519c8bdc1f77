//! Names of cached blocks. A name covers everything that a block's content depends on, and nothing
//! else.
//!
//! A namespace is a digest over the model's content and the layout of its KV cache. A block's key
//! is a digest over its namespace, the key of the block before it, and its token ids. Two blocks
//! with the same key therefore hold the same numbers, no matter when and for whom they were
//! computed.

use std::ops::Range;

use kvstore::{Key, Namespace};

/// Change this whenever the bytes of a record, or the input of a key, change their meaning.
const LAYOUT_VERSION: &[u8] = b"2";
/// Separates our digests from every other use of BLAKE3.
const CONTEXT: &str = "omlx 2026-11 kv cache namespace";

/// The namespace of a model's KV.
///
/// `model` digests the weights' content, the config and the compute types. `layout` encodes the
/// slots of the layers. `salt` separates tenants. MLX's version is included because another version
/// may compute different low bits. Each field is preceded by its label and length, so that two
/// different lists of fields never digest the same bytes.
pub(crate) fn namespace(model: &str, layout: &[u8], block_tokens: usize, salt: &str) -> Namespace {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let mlx = crate::mlx::bridge::version();
    let fields: [(&str, &[u8]); 6] = [
        ("version", LAYOUT_VERSION),
        ("mlx", mlx.as_bytes()),
        ("model", model.as_bytes()),
        ("layout", layout),
        ("block_tokens", &(block_tokens as u64).to_le_bytes()),
        ("salt", salt.as_bytes()),
    ];
    for (label, value) in fields {
        for bytes in [label.as_bytes(), value] {
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
    }
    Namespace(*hasher.finalize().as_bytes())
}

/// The keys of one sequence's records. Its full blocks form a chain; snapshots and windows refer to
/// the blocks as their parents.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    namespace: Namespace,
    block_tokens: usize,
    /// The key of each full block, in order.
    keys: Vec<Key>,
}

impl Chain {
    /// Makes the chain of an empty sequence.
    pub(crate) fn new(namespace: Namespace, block_tokens: usize) -> Self {
        Self { namespace, block_tokens, keys: Vec::new() }
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The keys of the full blocks known so far.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.keys
    }

    pub(crate) fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Forgets the blocks beyond the first `tokens` tokens.
    pub(crate) fn truncate(&mut self, tokens: usize) {
        self.keys.truncate(tokens / self.block_tokens);
    }

    /// Appends the keys of the blocks that are full in `tokens`, the whole sequence.
    pub(crate) fn extend(&mut self, tokens: &[u32]) {
        let full = tokens.len() / self.block_tokens;
        for block in self.keys.len()..full {
            let start = block * self.block_tokens;
            let mut hasher = self.hasher("block", block);
            hasher.update(&token_bytes(&tokens[start..start + self.block_tokens]));
            self.keys.push(Key(*hasher.finalize().as_bytes()));
        }
    }

    /// The parent of a record at `position`: the last block that is full there.
    pub(crate) fn parent(&self, position: usize) -> Option<Key> {
        (position / self.block_tokens).checked_sub(1).map(|block| self.keys[block])
    }

    /// The key of the part of a full block that belongs to windowed layers.
    pub(crate) fn window_key(&self, block: usize) -> Key {
        let mut hasher = self.hasher("window", block + 1);
        hasher.update(b"");
        Key(*hasher.finalize().as_bytes())
    }

    /// The key of a snapshot at `position` of `tokens`.
    pub(crate) fn snapshot_key(&self, tokens: &[u32], position: usize) -> Key {
        let block = position / self.block_tokens;
        let mut hasher = self.hasher("snapshot", block);
        hasher.update(&token_bytes(&tokens[block * self.block_tokens..position]));
        Key(*hasher.finalize().as_bytes())
    }

    /// The keys of all possible snapshots in block `block` of `tokens` at or before `limit`, with
    /// their positions, the last position first.
    pub(crate) fn snapshot_keys(
        &self,
        tokens: &[u32],
        block: usize,
        limit: usize,
    ) -> Vec<(usize, Key)> {
        let start = block * self.block_tokens;
        let end = limit.min(start + self.block_tokens - 1).min(tokens.len());
        let mut hasher = self.hasher("snapshot", block);
        let mut keys = Vec::with_capacity(self.block_tokens);
        for position in start..=end {
            if position > start {
                hasher.update(&tokens[position - 1].to_le_bytes());
            }
            keys.push((position, Key(*hasher.clone().finalize().as_bytes())));
        }
        keys.reverse();
        keys
    }

    /// A hasher that has digested everything before block `block`.
    fn hasher(&self, label: &str, block: usize) -> blake3::Hasher {
        let mut hasher = blake3::Hasher::new_keyed(&self.namespace.0);
        hasher.update(&[label.len() as u8]).update(label.as_bytes());
        match block.checked_sub(1) {
            None => hasher.update(&[0]),
            Some(before) => hasher.update(&[1]).update(&self.keys[before].0),
        };
        hasher
    }
}

/// Returns the witness of a record of the tokens `range`, which is compared on every hit: the start
/// position and the token ids.
pub(crate) fn witness(tokens: &[u32], range: &Range<usize>) -> Vec<u8> {
    let mut bytes = (range.start as u64).to_le_bytes().to_vec();
    bytes.extend(token_bytes(&tokens[range.clone()]));
    bytes
}

fn token_bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn chain(salt: &str, tokens: &[u32]) -> Chain {
        let mut chain = Chain::new(namespace("model", b"layout", 4, salt), 4);
        chain.extend(tokens);
        chain
    }

    #[test]
    fn a_key_covers_everything_before_it() {
        let tokens: Vec<u32> = (0..12).collect();
        let base = chain("", &tokens);
        assert_eq!(base.keys().len(), 3);
        let mut other = tokens.clone();
        other[0] = 99;
        let other = chain("", &other);
        assert!(base.keys().iter().zip(other.keys()).all(|(a, b)| a != b));
        let salted = chain("s", &tokens);
        assert!(base.keys().iter().zip(salted.keys()).all(|(a, b)| a != b));
        let longer = chain("", &(0..14).collect::<Vec<u32>>());
        assert_eq!(base.keys(), longer.keys());
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let names = [
            namespace("ab", b"c", 4, ""),
            namespace("a", b"bc", 4, ""),
            namespace("a", b"b", 4, "c"),
            namespace("a", b"b", 5, "c"),
        ];
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
    }

    #[test]
    fn kinds_of_records_never_share_a_key() {
        let tokens: Vec<u32> = (0..12).collect();
        let chain = chain("", &tokens);
        let mut keys: HashSet<Key> = chain.keys().iter().copied().collect();
        keys.extend((0..3).map(|block| chain.window_key(block)));
        keys.extend((0..=12).map(|position| chain.snapshot_key(&tokens, position)));
        assert_eq!(keys.len(), 3 + 3 + 13);
    }

    #[test]
    fn snapshot_keys_are_those_of_each_position() {
        let tokens: Vec<u32> = (0..11).collect();
        let chain = chain("", &tokens);
        for (block, limit, expected) in
            [(0, 11, vec![3, 2, 1, 0]), (1, 6, vec![6, 5, 4]), (2, 50, vec![11, 10, 9, 8])]
        {
            let keys = chain.snapshot_keys(&tokens, block, limit);
            assert_eq!(keys.iter().map(|(at, _)| *at).collect::<Vec<_>>(), expected);
            assert!(keys.iter().all(|(at, key)| *key == chain.snapshot_key(&tokens, *at)));
        }
    }
}
