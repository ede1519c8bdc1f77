//! Admission checks that the scheduler makes for waiting requests.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::kv::common_prefix;
use crate::runtime::row::{Next, Row};
use crate::sched::{RowId, Tenant};

/// Minimum number of shared tokens for which a request waits.
const WORTH_WAITING: usize = 256;
/// Number of prompt pairs remembered before those of ended requests are dropped.
const MANY_PAIRS: usize = 4096;
/// Number of tenant names remembered before those without requests are dropped.
const MANY_TENANTS: usize = 1024;

/// The lengths of prompts' common prefixes, computed once for each pair.
#[derive(Debug, Default)]
pub(super) struct CommonPrefixes {
    /// By (waiting request, computing request).
    pairs: HashMap<(RowId, RowId), usize>,
}

impl CommonPrefixes {
    /// Whether a waiting request may start. If it shares a prefix with a prompt that is being
    /// computed, it waits until that prefix is cached, instead of computing it a second time.
    pub(super) fn may_start(&mut self, rows: &BTreeMap<RowId, Row>, id: RowId) -> bool {
        let Some(row) = rows.get(&id) else { return true };
        let leads = |(leader_id, leader): (&RowId, &Row)| {
            let Some(sequence) = &leader.sequence else { return false };
            let alike = leader.job.model == row.job.model
                && leader.job.request.cache_salt == row.job.request.cache_salt;
            if sequence.next != Next::Prompt || !alike {
                return false;
            }
            let prompts = (&leader.job.request.prompt, &row.job.request.prompt);
            let shared = self.pairs.entry((id, *leader_id));
            let shared = *shared.or_insert_with(|| common_prefix(prompts.0, prompts.1));
            shared >= WORTH_WAITING && shared > sequence.track.tokens.len()
        };
        let may_start = !rows.iter().any(leads);
        if self.pairs.len() > MANY_PAIRS {
            self.pairs.retain(|(waits, leads), _| {
                let waits = rows.get(waits).is_some_and(|row| row.sequence.is_none());
                waits && rows.contains_key(leads)
            });
        }
        may_start
    }
}

/// A number for each tenant that has requests.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    numbers: HashMap<String, Tenant>,
    next: Tenant,
}

impl Tenants {
    /// The number of `name`. `others`: the tenants of all other requests, which keep their numbers.
    pub(super) fn number<'a>(
        &mut self,
        name: &str,
        others: impl Iterator<Item = &'a str>,
    ) -> Tenant {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        if self.numbers.len() >= MANY_TENANTS {
            let others: BTreeSet<&str> = others.collect();
            self.numbers.retain(|name, _| others.contains(name.as_str()));
        }
        self.next += 1;
        self.numbers.insert(name.to_owned(), self.next);
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_without_requests_are_forgotten() {
        let mut tenants = Tenants::default();
        let kept = tenants.number("kept", std::iter::empty());
        let mut seen = BTreeSet::from([kept]);
        for n in 0..10 * MANY_TENANTS {
            let name = format!("tenant {n}");
            let number = tenants.number(&name, ["kept"].into_iter());
            assert_eq!(tenants.number(&name, std::iter::empty()), number);
            assert!(seen.insert(number), "a number was given twice");
            assert!(tenants.numbers.len() <= MANY_TENANTS);
        }
        assert_eq!(tenants.number("kept", std::iter::empty()), kept);
    }
}
