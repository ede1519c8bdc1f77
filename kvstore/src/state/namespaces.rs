//! The known namespaces, each with a small number.

use crate::key::{Kind, Namespace};
use crate::stats::{MAX_NAMESPACE_STATS, NamespaceStats};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};

/// The number of namespaces at which empty ones are first forgotten. The next time comes at twice
/// the number that was left.
const FIRST_LOOK: usize = 256;

/// What the store knows of one namespace.
#[derive(Debug)]
struct Known {
    namespace: Namespace,
    write_bytes: [u64; 3],
    read_bytes: [u64; 3],
}

impl Known {
    fn stats(&self, physical_bytes: u64) -> NamespaceStats {
        let Known { namespace, write_bytes, read_bytes } = *self;
        NamespaceStats { namespace: Some(namespace), physical_bytes, write_bytes, read_bytes }
    }
}

/// Numbers of namespaces. `by_number` and `numbers` hold the same pairs. A number is never reused,
/// so the id of a block in a forgotten namespace finds nothing.
#[derive(Debug)]
pub(crate) struct Namespaces {
    by_number: BTreeMap<u32, Known>,
    numbers: HashMap<Namespace, u32>,
    next_number: u32,
    /// The number of namespaces at which empty ones should be forgotten.
    look_at: usize,
    /// Bytes written to and read from forgotten namespaces.
    forgotten: NamespaceStats,
}

impl Default for Namespaces {
    fn default() -> Self {
        Namespaces {
            by_number: BTreeMap::new(),
            numbers: HashMap::new(),
            next_number: 0,
            look_at: FIRST_LOOK,
            forgotten: NamespaceStats::default(),
        }
    }
}

impl Namespaces {
    pub(super) fn number(&self, namespace: &Namespace) -> Option<u32> {
        self.numbers.get(namespace).copied()
    }

    pub(super) fn name(&self, number: u32) -> Option<Namespace> {
        self.by_number.get(&number).map(|known| known.namespace)
    }

    /// True for the number of a known namespace.
    pub(super) fn knows(&self, number: u32) -> bool {
        self.by_number.contains_key(&number)
    }

    /// Gives a new namespace its number.
    pub(super) fn add(&mut self, namespace: &Namespace) -> u32 {
        let number = self.next_number;
        self.next_number += 1;
        let known = Known { namespace: *namespace, write_bytes: [0; 3], read_bytes: [0; 3] };
        self.by_number.insert(number, known);
        self.numbers.insert(*namespace, number);
        number
    }

    /// True when empty namespaces should be forgotten before another one is added.
    pub(super) fn are_many(&self) -> bool {
        self.by_number.len() >= self.look_at
    }

    /// Schedules the next clean-up at twice the current number of namespaces, all of which are in
    /// use.
    pub(super) fn set_next_look(&mut self) {
        self.look_at = FIRST_LOOK.max(2 * self.by_number.len());
    }

    /// Keeps only the namespaces whose number satisfies `keep`.
    pub(super) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        let forgotten = &mut self.forgotten;
        self.by_number.retain(|number, known| {
            let keeps = keep(*number);
            if !keeps {
                forgotten.add(&known.stats(0));
            }
            keeps
        });
        let left = &self.by_number;
        self.numbers.retain(|_, number| left.contains_key(number));
    }

    pub(super) fn count_write(&mut self, number: u32, kind: Kind, bytes: u64) {
        if let Some(known) = self.by_number.get_mut(&number) {
            known.write_bytes[kind.index()] += bytes;
        }
    }

    pub(super) fn count_read(&mut self, number: u32, kind: Kind, bytes: u64) {
        if let Some(known) = self.by_number.get_mut(&number) {
            known.read_bytes[kind.index()] += bytes;
        }
    }

    /// The largest namespaces, then all others combined. `physical` returns a namespace's bytes on
    /// disk.
    pub(super) fn stats(&self, physical: impl Fn(u32) -> u64) -> Vec<NamespaceStats> {
        let stats = |(number, known): (&u32, &Known)| known.stats(physical(*number));
        let mut all: Vec<_> = self.by_number.iter().map(stats).collect();
        all.sort_by_key(|one| (Reverse(one.physical_bytes), one.namespace));
        let mut other = self.forgotten.clone();
        let has_other = other != NamespaceStats::default();
        if all.len() + usize::from(has_other) > MAX_NAMESPACE_STATS {
            let small = all.split_off(MAX_NAMESPACE_STATS - 1);
            small.iter().for_each(|one| other.add(one));
        }
        if other != NamespaceStats::default() {
            all.push(other);
        }
        all
    }
}

#[cfg(test)]
impl Namespaces {
    /// The highest possible number of namespaces while at most one of them has blocks.
    pub(super) const MAX_IDLE: usize = 2 * FIRST_LOOK;

    pub(super) fn len(&self) -> usize {
        assert_eq!(self.by_number.len(), self.numbers.len());
        self.by_number.len()
    }
}
