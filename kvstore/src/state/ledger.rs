//! Accounts for disk space, as pure arithmetic. Every write is reserved here first, so the sum of
//! all files under the root never exceeds the quota.

use std::collections::BTreeMap;

/// One day, in seconds.
const DAY_SECS: u64 = 24 * 60 * 60;

/// Limits on disk space and writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskLimits {
    pub(crate) quota: u64,
    pub(crate) writes_per_day: Option<u64>,
}

/// Why a write may not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The quota is used up. Evicting any block helps.
    Quota,
    /// The write budget of this day is used up.
    WriteBudget,
}

/// Bytes of one namespace.
#[derive(Clone, Copy, Debug, Default)]
struct Space {
    settled: u64,
    reserved: u64,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    limits: DiskLimits,
    /// Bytes of all files under the root.
    settled: u64,
    /// Bytes of writes in progress.
    reserved: u64,
    /// The part of `settled` that belongs to no indexed block.
    unindexed: u64,
    /// Namespaces that have bytes.
    spaces: BTreeMap<u32, Space>,
    day: u64,
    spent: u64,
}

impl Ledger {
    /// Bytes of [`Owner::Unindexed`](crate::disk_usage::Owner) files. The total contains them as
    /// well.
    pub(crate) fn unindexed_bytes(&self) -> u64 {
        self.unindexed
    }

    pub(crate) fn found_unindexed(&mut self, bytes: u64) {
        self.unindexed += bytes;
    }

    pub(crate) fn gone_unindexed(&mut self, bytes: u64) {
        self.unindexed -= bytes;
    }

    pub(crate) fn new(limits: DiskLimits) -> Self {
        Ledger {
            limits,
            settled: 0,
            reserved: 0,
            unindexed: 0,
            spaces: BTreeMap::new(),
            day: 0,
            spent: 0,
        }
    }

    pub(crate) fn quota(&self) -> u64 {
        self.limits.quota
    }

    /// Bytes of all files under the root, writes in progress included.
    pub(crate) fn physical(&self) -> u64 {
        self.settled + self.reserved
    }

    /// Bytes of one namespace on the medium.
    pub(crate) fn space_physical(&self, space: u32) -> u64 {
        self.spaces.get(&space).map_or(0, |space| space.settled + space.reserved)
    }

    /// Reserves space for a write in a namespace or, with `None`, for the store's own files.
    pub(crate) fn reserve(
        &mut self,
        space: Option<u32>,
        bytes: u64,
        now_secs: u64,
    ) -> Result<(), Refusal> {
        self.roll_day(now_secs);
        if self.limits.writes_per_day.is_some_and(|limit| self.spent.saturating_add(bytes) > limit)
        {
            return Err(Refusal::WriteBudget);
        }
        if self.physical().saturating_add(bytes) > self.limits.quota {
            return Err(Refusal::Quota);
        }
        if let Some(space) = space {
            self.spaces.entry(space).or_default().reserved += bytes;
        }
        self.reserved += bytes;
        self.spent += bytes;
        Ok(())
    }

    /// Returns whether `bytes` would fit after removing all records and `removable` further bytes.
    /// If not, it is no use to evict anything for them.
    pub(crate) fn could_fit(&self, bytes: u64, removable: u64) -> bool {
        let records: u64 = self.spaces.values().map(|space| space.settled).sum();
        let fixed = self.physical().saturating_sub(records + removable);
        fixed.saturating_add(bytes) <= self.limits.quota
    }

    /// Ends a write: of `reserved` bytes, `kept` are on the medium, and `written` count against the
    /// day.
    pub(crate) fn settle(&mut self, space: Option<u32>, reserved: u64, kept: u64, written: u64) {
        debug_assert!(kept <= reserved, "a write took more than it reserved");
        self.reserved -= reserved;
        self.settled += kept;
        self.spent = (self.spent + written).saturating_sub(reserved);
        if let Some(space) = space {
            self.change(space, |space| {
                space.reserved -= reserved;
                space.settled += kept;
            });
        }
    }

    /// Adds bytes that were found on the medium.
    pub(crate) fn found(&mut self, space: Option<u32>, bytes: u64) {
        self.settled += bytes;
        if let Some(space) = space {
            self.spaces.entry(space).or_default().settled += bytes;
        }
    }

    /// Subtracts bytes that are no longer on the medium.
    pub(crate) fn gone(&mut self, space: Option<u32>, bytes: u64) {
        self.settled = self.settled.saturating_sub(bytes);
        if let Some(space) = space {
            self.change(space, |space| space.settled = space.settled.saturating_sub(bytes));
        }
    }

    /// The current day and the bytes written in it, kept across restarts.
    pub(crate) fn spent(&self) -> (u64, u64) {
        (self.day, self.spent)
    }

    /// Adds the bytes that an earlier process wrote in `day`.
    pub(crate) fn restore_spent(&mut self, day: u64, bytes: u64, now_secs: u64) {
        self.roll_day(now_secs);
        if day == self.day {
            self.spent = self.spent.max(bytes);
        }
    }

    /// Bytes that may still be written today; `None` without a limit.
    pub(crate) fn write_budget_left(&self, now_secs: u64) -> Option<u64> {
        let spent = if now_secs / DAY_SECS == self.day { self.spent } else { 0 };
        self.limits.writes_per_day.map(|limit| limit.saturating_sub(spent))
    }

    fn roll_day(&mut self, now_secs: u64) {
        let day = now_secs / DAY_SECS;
        // A clock that is set back must not give a second budget.
        if day > self.day {
            self.day = day;
            self.spent = 0;
        }
    }

    /// Changes the bytes of a namespace, and forgets it when it has none left.
    fn change(&mut self, space: u32, change: impl FnOnce(&mut Space)) {
        let own = self.spaces.entry(space).or_default();
        change(own);
        if own.settled + own.reserved == 0 {
            self.spaces.remove(&space);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(DiskLimits { quota: 100, writes_per_day: Some(150) })
    }

    #[test]
    fn reservations_in_flight_count() {
        let mut ledger = ledger();
        assert_eq!(ledger.reserve(Some(0), 60, 0), Ok(()));
        assert_eq!(ledger.reserve(Some(1), 40, 0), Ok(()));
        assert_eq!(ledger.reserve(None, 1, 0), Err(Refusal::Quota));
        ledger.settle(Some(1), 40, 30, 35);
        assert_eq!((ledger.physical(), ledger.space_physical(1)), (90, 30));
        ledger.gone(Some(1), 30);
        assert_eq!(ledger.reserve(None, 40, 0), Ok(()));
        assert_eq!(ledger.reserve(None, 0, 0), Ok(()));
        assert_eq!(ledger.reserve(Some(2), u64::MAX, 0), Err(Refusal::WriteBudget));
    }

    #[test]
    fn nothing_is_evicted_for_bytes_that_cannot_fit() {
        let mut ledger = ledger();
        ledger.found(None, 50);
        ledger.found(Some(0), 40);
        assert!(ledger.could_fit(50, 0));
        assert!(!ledger.could_fit(51, 0));
        assert!(ledger.could_fit(51, 10));
    }

    #[test]
    fn the_write_budget_is_daily_and_survives_a_restart() {
        let mut ledger = ledger();
        assert_eq!(ledger.reserve(None, 100, 0), Ok(()));
        ledger.settle(None, 100, 0, 100);
        assert_eq!(ledger.reserve(None, 51, 0), Err(Refusal::WriteBudget));
        assert_eq!(ledger.write_budget_left(0), Some(50));
        let (day, spent) = ledger.spent();

        let mut next = self::ledger();
        next.restore_spent(day, spent, 10);
        assert_eq!(next.reserve(None, 51, 10), Err(Refusal::WriteBudget));
        assert_eq!(next.write_budget_left(DAY_SECS), Some(150));
        assert_eq!(next.reserve(None, 51, DAY_SECS), Ok(()));
        assert_eq!(next.reserve(None, 100, 0), Err(Refusal::WriteBudget), "clock set back");
    }
}
