//! The order of eviction, as a pure data structure: least recently used first, but a chain's suffix
//! always before its prefix.
//!
//! Blocks form trees: a block's parent is the block before it. Only leaves can be evicted, so a
//! chain shrinks from its end, its remaining prefix stays usable, and a prefix shared by many
//! chains goes last. A leaf with recorded `uses` is passed over and loses half of them each time. A
//! prefix that is looked up often therefore outlives the suffixes of one-off requests, even once it
//! is a leaf.

use crate::key::{BlockId, IdHash, Key};
use std::collections::{BTreeSet, HashMap};

/// Limit on the counted uses, which bounds how often one block is passed over.
const MAX_USES: u8 = 16;

#[derive(Debug)]
struct Node {
    parent: Option<Key>,
    /// The touch count at its last touch; no two nodes have the same.
    tick: u64,
    uses: u8,
    children: u32,
}

/// An ordered set of blocks.
#[derive(Debug, Default)]
pub(crate) struct ChainLru {
    nodes: HashMap<BlockId, Node, IdHash>,
    /// Number of children by parent, for parents that are not in the set.
    orphans: HashMap<BlockId, u32, IdHash>,
    /// Nodes without children, by tick.
    leaves: BTreeSet<(u64, BlockId)>,
    tick: u64,
}

impl ChainLru {
    pub(crate) fn reserve(&mut self, additional: usize) {
        self.nodes.reserve(additional);
    }

    pub(crate) fn contains(&self, id: &BlockId) -> bool {
        self.nodes.contains_key(id)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn uses(&self, id: &BlockId) -> u8 {
        self.nodes.get(id).map_or(0, |node| node.uses)
    }

    /// Adds a block as the most recently used.
    pub(crate) fn insert(&mut self, id: BlockId, parent: Option<Key>, uses: u8) {
        debug_assert!(!self.contains(&id), "a block is added once");
        self.tick += 1;
        let children = self.orphans.remove(&id).unwrap_or(0);
        let node = Node { parent, tick: self.tick, uses: uses.min(MAX_USES), children };
        if let Some(parent) = parent.map(|key| BlockId { key, ..id }) {
            match self.nodes.get_mut(&parent) {
                Some(above) => {
                    above.children += 1;
                    let tick = above.tick;
                    self.leaves.remove(&(tick, parent));
                }
                None => *self.orphans.entry(parent).or_default() += 1,
            }
        }
        self.nodes.insert(id, node);
        self.file(&id);
    }

    pub(crate) fn remove(&mut self, id: &BlockId) {
        let Some(node) = self.nodes.remove(id) else { return };
        self.leaves.remove(&(node.tick, *id));
        if node.children > 0 {
            self.orphans.insert(*id, node.children);
        }
        let Some(parent) = node.parent.map(|key| BlockId { key, ..*id }) else { return };
        if let Some(above) = self.nodes.get_mut(&parent) {
            above.children -= 1;
            self.file(&parent);
        } else if let Some(count) = self.orphans.get_mut(&parent) {
            *count -= 1;
            if *count == 0 {
                self.orphans.remove(&parent);
            }
        }
    }

    /// Makes a block the most recently used. With `used`, also counts a use.
    pub(crate) fn touch(&mut self, id: &BlockId, used: bool) {
        self.tick += 1;
        let tick = self.tick;
        let Some(node) = self.nodes.get_mut(id) else { return };
        let old = std::mem::replace(&mut node.tick, tick);
        if used {
            node.uses = (node.uses + 1).min(MAX_USES);
        }
        if node.children == 0 {
            self.leaves.remove(&(old, *id));
            self.leaves.insert((tick, *id));
        }
    }

    /// Returns the next block to evict among those for which `may_go` is true.
    pub(crate) fn victim(&mut self, may_go: impl Fn(&BlockId) -> bool) -> Option<BlockId> {
        // Every iteration halves the uses of some leaf, so this ends.
        loop {
            let id = self.leaves.iter().map(|&(_, id)| id).find(&may_go)?;
            let node = self.nodes.get_mut(&id)?;
            if node.uses == 0 {
                return Some(id);
            }
            node.uses /= 2;
            self.touch(&id, false);
        }
    }

    /// Every block, least recently used first.
    pub(crate) fn by_age(&self) -> Vec<BlockId> {
        let mut ids: Vec<_> = self.nodes.iter().map(|(id, node)| (node.tick, *id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn is_leaf(&self, id: &BlockId) -> bool {
        self.nodes.get(id).is_some_and(|node| node.children == 0)
    }

    /// Adds a node to the leaves if it is one.
    fn file(&mut self, id: &BlockId) {
        let node = &self.nodes[id];
        if node.children == 0 {
            self.leaves.insert((node.tick, *id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> BlockId {
        BlockId { space: 0, key: Key([n; 32]) }
    }

    /// Adds a chain of blocks and returns its ids.
    fn chain(lru: &mut ChainLru, from: Option<u8>, keys: &[u8]) {
        let mut parent = from.map(|n| Key([n; 32]));
        for &n in keys {
            lru.insert(id(n), parent, 0);
            parent = Some(Key([n; 32]));
        }
    }

    fn drain(lru: &mut ChainLru) -> Vec<u8> {
        std::iter::from_fn(|| {
            let victim = lru.victim(|_| true)?;
            lru.remove(&victim);
            Some(victim.key.0[0])
        })
        .collect()
    }

    #[test]
    fn the_suffix_goes_before_the_prefix_and_old_chains_before_new_ones() {
        let mut lru = ChainLru::default();
        chain(&mut lru, None, &[1, 2, 3]);
        chain(&mut lru, None, &[4, 5, 6]);
        assert_eq!(drain(&mut lru), [3, 2, 1, 6, 5, 4]);
    }

    #[test]
    fn a_shared_prefix_goes_after_every_chain_that_shares_it() {
        let mut lru = ChainLru::default();
        chain(&mut lru, None, &[1, 2]);
        chain(&mut lru, Some(2), &[3]);
        chain(&mut lru, Some(2), &[4]);
        assert_eq!(drain(&mut lru), [3, 4, 2, 1]);
    }

    #[test]
    fn a_prefix_that_was_looked_up_often_outlives_one_off_chains() {
        let mut lru = ChainLru::default();
        chain(&mut lru, None, &[1]);
        for _ in 0..4 {
            lru.touch(&id(1), true);
        }
        chain(&mut lru, None, &[2]);
        chain(&mut lru, None, &[3]);
        assert_eq!(drain(&mut lru), [2, 3, 1]);
    }

    #[test]
    fn a_refused_block_and_its_ancestors_stay() {
        let mut lru = ChainLru::default();
        chain(&mut lru, None, &[1, 2]);
        assert_eq!(lru.victim(|leaf| *leaf != id(2)), None);
        assert_eq!(drain(&mut lru), [2, 1]);
    }

    #[test]
    fn a_parent_that_comes_late_is_still_above_its_children() {
        let mut lru = ChainLru::default();
        chain(&mut lru, Some(1), &[2]);
        chain(&mut lru, None, &[1]);
        lru.touch(&id(2), false);
        assert_eq!(drain(&mut lru), [2, 1]);
        assert!(lru.orphans.is_empty());
    }

    proptest! {
        /// After any operations, draining yields every block, children before parents, oldest
        /// first.
        #[test]
        fn draining_respects_the_tree(ops in prop::collection::vec((0u8..4, 0u8..12, 0u8..12), 0..80)) {
            let mut lru = ChainLru::default();
            for (op, a, b) in ops {
                match op {
                    // A parent is always smaller, so the keys form trees.
                    0 | 1 if !lru.contains(&id(a)) => {
                        lru.insert(id(a), (b < a).then_some(Key([b; 32])), op);
                    }
                    2 => lru.remove(&id(a)),
                    3 => lru.touch(&id(a), b % 2 == 0),
                    _ => {}
                }
            }
            let parents: HashMap<u8, Option<Key>> =
                lru.nodes.iter().map(|(id, node)| (id.key.0[0], node.parent)).collect();
            let total = lru.len();
            let order = drain(&mut lru);
            prop_assert_eq!(order.len(), total);
            for (place, n) in order.iter().enumerate() {
                let gone_before = |key: Key| order[..place].contains(&key.0[0]);
                prop_assert!(!parents[n].is_some_and(gone_before), "{n} went after its parent");
            }
            prop_assert!(lru.orphans.is_empty() && lru.leaves.is_empty());
        }
    }
}
