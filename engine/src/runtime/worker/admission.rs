//! Who may start: what the scheduler asks of the engine for requests that wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::kv::common_prefix;
use crate::runtime::row::{Next, Row};
use crate::sched::{RowId, Tenant};

/// Shared tokens that are worth waiting for.
const WORTH_WAITING: usize = 256;
/// Pairs of prompts that are remembered before those whose requests are over are dropped.
const MANY_PAIRS: usize = 4096;
/// Names of tenants that are remembered before those without a request are dropped.
const MANY_TENANTS: usize = 1024;

/// How many tokens two prompts begin with alike, counted once for each pair.
#[derive(Debug, Default)]
pub(super) struct CommonPrefixes {
    /// By who waits and who is computed.
    pairs: HashMap<(RowId, RowId), usize>,
}

impl CommonPrefixes {
    /// Whether a waiting request may start. One that begins like a prompt being computed waits until
    /// what they share is there, instead of computing it a second time.
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
    /// The number of `name`. `others`: the tenants of all other requests, which keep theirs.
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
