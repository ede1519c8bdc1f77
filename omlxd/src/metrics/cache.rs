//! The KV cache's series. The store counts for itself; its numbers are written out at each scrape.
//!
//! The store knows no models, and its namespaces stand for models and tenants: neither is a label
//! here. `omlxctl cache stats` tells them apart.

use kvstore::stats::{
    AGE_BOUNDS_SECS, Counters, DropReason, ErrnoClass, EvictReason, LATENCY_BOUNDS_SECS, Op, Queue,
    SIZE_CLASS_NAMES, TierAges,
};
use kvstore::{Damage, Kind, Stats};
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

/// The labels of the tiers, in the store's order.
const TIERS: [&str; 2] = ["ram", "ssd"];

/// The KV cache at the moment of a scrape.
#[derive(Debug, Default)]
pub struct CacheSnapshot {
    /// The store's numbers; `None` when the cache is off or its folder cannot be used.
    pub store: Option<Stats>,
    /// There is no store although one is wanted.
    pub has_problem: bool,
    /// Tokens of a block.
    pub block_tokens: usize,
    /// Finished turns whose caches are in memory.
    pub live_sessions: usize,
    /// Bytes of these.
    pub live_bytes: u64,
}

/// Every series of the cache. Without a store all of them are there, at zero.
pub(super) fn families(cache: &CacheSnapshot) -> Vec<MetricFamily> {
    let none = Stats::default();
    let stats = cache.store.as_ref().unwrap_or(&none);
    let mut families = Families::default();
    families.gauge(
        "omlx_kvstore_enabled",
        "1 when prompts are kept in the store.",
        f64::from(u8::from(cache.store.is_some())),
    );
    families.gauge(
        "omlx_kvstore_problem",
        "1 when the cache is wanted but its folder cannot be used.",
        f64::from(u8::from(cache.has_problem)),
    );
    families.gauge("omlx_live_sessions", "Turns kept in memory.", cache.live_sessions as f64);
    families.gauge("omlx_live_session_bytes", "Bytes of these turns.", cache.live_bytes as f64);
    families.gauge("omlx_kv_cache_block_tokens", "Tokens of a block.", cache.block_tokens as f64);
    families.room(stats);
    families.flow(stats);
    families.failures(&stats.counters);
    families.durations(&stats.counters);
    families.recovery(&stats.counters);
    families.0
}

/// Families under construction.
#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    /// What there is, and what it may grow to.
    fn room(&mut self, stats: &Stats) {
        let tiers = |ram: u64, ssd: u64| TIERS.into_iter().zip([ram, ssd]);
        self.gauges(
            "omlx_kv_cache_capacity_bytes",
            "Most bytes of a tier.",
            "tier",
            tiers(stats.ram_capacity_bytes, stats.quota_bytes),
        );
        self.gauges(
            "omlx_kv_cache_used_bytes",
            "Bytes in a tier.",
            "tier",
            tiers(stats.ram_used_bytes, stats.physical_bytes),
        );
        let blocks = TIERS.iter().zip(&stats.blocks).flat_map(|(tier, kinds)| {
            let of_kind = move |kind: Kind| {
                let labels = vec![label("tier", tier), label("kind", kind.name())];
                gauge_value(labels, kinds[kind.index()] as f64)
            };
            Kind::ALL.map(of_kind)
        });
        let blocks = blocks.collect();
        self.add("omlx_kv_cache_blocks", "Records in a tier.", MetricType::GAUGE, blocks);
        let plain = [
            ("quota_bytes", "Most bytes on disk.", stats.quota_bytes),
            ("physical_bytes", "Bytes on disk, writes in flight included.", stats.physical_bytes),
            ("unindexed_bytes", "Bytes of files that are no usable record.", stats.unindexed_bytes),
            ("memory_bytes", "Bytes of all live buffers of the store.", stats.memory_bytes),
            (
                "saving_paused",
                "1 while the disk is full or below its floor.",
                u64::from(stats.saving_paused),
            ),
        ];
        for (name, help, value) in plain {
            self.gauge(&format!("omlx_kvstore_{name}"), help, value as f64);
        }
        let is_open = stats.quota_bytes > 0;
        let or = |known: Option<u64>, else_: f64| match known {
            Some(bytes) => bytes as f64,
            None if is_open => else_,
            None => 0.0,
        };
        self.gauge(
            "omlx_kvstore_free_disk_bytes",
            "Free bytes of the disk; NaN when the system does not say.",
            or(stats.free_disk_bytes, f64::NAN),
        );
        self.gauge(
            "omlx_kvstore_write_budget_remaining_bytes",
            "Bytes that may still be written today; +Inf without a limit.",
            or(stats.write_budget_remaining_bytes, f64::INFINITY),
        );
    }

    /// What comes and goes.
    fn flow(&mut self, stats: &Stats) {
        let counters = &stats.counters;
        let sum = |bytes: fn(&kvstore::stats::NamespaceStats) -> &[u64; 3]| {
            Kind::ALL.map(|kind| {
                let of_kind = stats.namespaces.iter().map(|space| bytes(space)[kind.index()]);
                (kind.name(), of_kind.sum())
            })
        };
        self.counters(
            "omlx_kvstore_write_bytes_total",
            "Bytes written to disk.",
            "kind",
            sum(|space| &space.write_bytes),
        );
        self.counters(
            "omlx_kvstore_read_bytes_total",
            "Bytes read from disk.",
            "kind",
            sum(|space| &space.read_bytes),
        );
        let queues = |values: [u64; 3]| Queue::ALL.iter().map(|queue| queue.name()).zip(values);
        let (bytes, depth) = (queues(stats.queue_bytes), queues(stats.queue_depth));
        self.gauges("omlx_kvstore_queue_bytes", "Bytes of waiting work.", "op", bytes);
        self.gauges("omlx_kvstore_queue_depth", "Records of waiting work.", "op", depth);
        self.counters(
            "omlx_kvstore_hits_total",
            "Records found.",
            "tier",
            TIERS.into_iter().zip(counters.hits),
        );
        self.counter(
            "omlx_kvstore_not_stored_total",
            "Look-ups of records that are not stored.",
            counters.not_stored,
        );
        self.counter(
            "omlx_kvstore_promotions_total",
            "Records read from disk into memory.",
            counters.promotions,
        );
        self.counter(
            "omlx_kvstore_demotions_total",
            "Records that left memory.",
            counters.demotions,
        );
        self.counters(
            "omlx_kvstore_dropped_total",
            "Records not saved.",
            "reason",
            DropReason::ALL.iter().map(|reason| reason.name()).zip(counters.dropped),
        );
        let reasons = || EvictReason::ALL.iter().map(|reason| reason.name());
        self.counters(
            "omlx_kvstore_evictions_total",
            "Records removed from disk.",
            "reason",
            reasons().zip(counters.evictions),
        );
        self.counters(
            "omlx_kvstore_evicted_bytes_total",
            "Bytes of records removed from disk.",
            "reason",
            reasons().zip(counters.evicted_bytes),
        );
    }

    /// What went wrong.
    fn failures(&mut self, counters: &Counters) {
        let damages = Damage::ALL.map(Damage::name).into_iter().zip(counters.verify_failures);
        self.counters(
            "omlx_kvstore_verify_failures_total",
            "Records that failed a check; \"tokens\" are hits on other tokens than asked for.",
            "reason",
            damages.chain([("tokens", counters.witness_failures)]),
        );
        self.counter(
            "omlx_kvstore_invalidated_total",
            "Records removed because their content was refused.",
            counters.invalidated,
        );
        let errors = Op::ALL.iter().zip(&counters.io_errors).flat_map(|(op, classes)| {
            ErrnoClass::ALL.iter().zip(classes).map(|(class, count)| {
                let labels = vec![label("op", op.name()), label("errno", class.name())];
                counter_value(labels, *count)
            })
        });
        let errors = errors.collect();
        self.add(
            "omlx_kvstore_io_errors_total",
            "Errors that the system reported.",
            MetricType::COUNTER,
            errors,
        );
    }

    fn durations(&mut self, counters: &Counters) {
        let by_size = |of: &[kvstore::stats::Histogram; 5]| {
            let classes = SIZE_CLASS_NAMES.iter().zip(of);
            let classes = classes.map(|(size, histogram)| {
                histogram_value(vec![label("size", size)], &LATENCY_BOUNDS_SECS, histogram)
            });
            classes.collect()
        };
        self.add(
            "omlx_kvstore_write_duration_seconds",
            "Time to write and publish a record, by its size.",
            MetricType::HISTOGRAM,
            by_size(&counters.write_duration),
        );
        self.add(
            "omlx_kvstore_read_duration_seconds",
            "Time to read and verify a record from disk, by its size.",
            MetricType::HISTOGRAM,
            by_size(&counters.read_duration),
        );
        let mut ages = |name: &str, help: &str, of: fn(&TierAges) -> &kvstore::stats::Histogram| {
            let tiers = TIERS.iter().zip(&counters.ages).map(|(tier, ages)| {
                histogram_value(vec![label("tier", tier)], &AGE_BOUNDS_SECS, of(ages))
            });
            let tiers = tiers.collect();
            self.add(&format!("omlx_kvstore_{name}_seconds"), help, MetricType::HISTOGRAM, tiers);
        };
        ages("block_lifetime", "From arrival to departure, of 1 % of the records.", |ages| {
            &ages.lifetime
        });
        ages("idle_before_evict", "From last use to departure, of 1 % of the records.", |ages| {
            &ages.idle_before_evict
        });
        ages("reuse_gap", "Between two uses, of 1 % of the records.", |ages| &ages.reuse_gap);
    }

    fn recovery(&mut self, counters: &Counters) {
        self.gauge(
            "omlx_kvstore_recovery_seconds",
            "How long the first look through all files took; 0 while it runs.",
            counters.recovery.map_or(0.0, |took| took.as_secs_f64()),
        );
        self.gauge(
            "omlx_kvstore_recovered_blocks",
            "Records found again at the start.",
            counters.recovered_blocks as f64,
        );
        self.gauge(
            "omlx_kvstore_discarded_blocks",
            "Index entries without a file, and files that are no valid record.",
            counters.discarded_blocks as f64,
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.add(name, help, MetricType::GAUGE, vec![gauge_value(Vec::new(), value)]);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.add(name, help, MetricType::COUNTER, vec![counter_value(Vec::new(), value)]);
    }

    fn gauges<'v>(
        &mut self,
        name: &str,
        help: &str,
        key: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) {
        let one =
            |(value, number): (&str, u64)| gauge_value(vec![label(key, value)], number as f64);
        let metrics = values.into_iter().map(one).collect();
        self.add(name, help, MetricType::GAUGE, metrics);
    }

    fn counters<'v>(
        &mut self,
        name: &str,
        help: &str,
        key: &str,
        values: impl IntoIterator<Item = (&'v str, u64)>,
    ) {
        let one = |(value, number): (&str, u64)| counter_value(vec![label(key, value)], number);
        let metrics = values.into_iter().map(one).collect();
        self.add(name, help, MetricType::COUNTER, metrics);
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn gauge_value(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter_value(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

/// The store counts each bucket by itself; Prometheus wants each with those below it. The bucket
/// without a bound is added by the encoder.
fn histogram_value(
    labels: Vec<LabelPair>,
    bounds: &[f64],
    observed: &kvstore::stats::Histogram,
) -> Metric {
    let mut below = 0;
    let buckets = bounds.iter().zip(observed.counts).map(|(bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(below);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(observed.count());
    histogram.set_sample_sum(observed.sum_secs);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder, TextEncoder};

    use super::*;

    fn text(cache: &CacheSnapshot) -> String {
        let mut text = Vec::new();
        TextEncoder::new().encode(&families(cache), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn without_a_store_every_series_is_there_at_zero() {
        let none = text(&CacheSnapshot::default());
        let open = text(&CacheSnapshot { store: Some(Stats::default()), ..Default::default() });
        let series = |text: &str| {
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(series(&none), series(&open));
        for line in none.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.ends_with(" 0"), "{line}");
        }
    }

    #[test]
    fn numbers_come_out_under_their_own_labels() {
        let mut stats = Stats {
            quota_bytes: 100,
            ram_used_bytes: 7,
            blocks: [[1, 2, 3], [4, 5, 6]],
            queue_depth: [1, 2, 3],
            ..Stats::default()
        };
        stats.counters.verify_failures = [1, 2, 3, 4];
        stats.counters.witness_failures = 5;
        stats.counters.dropped[2] = 9;
        stats.counters.io_errors[1][0] = 8;
        stats.counters.write_duration[0].counts[0] = 2;
        stats.counters.write_duration[0].counts[1] = 3;
        stats.counters.write_duration[0].counts[17] = 4;
        let text = text(&CacheSnapshot { store: Some(stats), ..CacheSnapshot::default() });
        for line in [
            "omlx_kvstore_enabled 1",
            "omlx_kv_cache_capacity_bytes{tier=\"ssd\"} 100",
            "omlx_kv_cache_used_bytes{tier=\"ram\"} 7",
            "omlx_kv_cache_blocks{tier=\"ram\",kind=\"state\"} 3",
            "omlx_kv_cache_blocks{tier=\"ssd\",kind=\"kv\"} 4",
            "omlx_kvstore_queue_depth{op=\"save\"} 3",
            "omlx_kvstore_verify_failures_total{reason=\"short_read\"} 4",
            "omlx_kvstore_verify_failures_total{reason=\"tokens\"} 5",
            "omlx_kvstore_dropped_total{reason=\"disk_full\"} 9",
            "omlx_kvstore_io_errors_total{op=\"write\",errno=\"full\"} 8",
            "omlx_kvstore_free_disk_bytes NaN",
            "omlx_kvstore_write_budget_remaining_bytes inf",
            "omlx_kvstore_write_duration_seconds_bucket{size=\"1MiB\",le=\"0.00005\"} 2",
            "omlx_kvstore_write_duration_seconds_bucket{size=\"1MiB\",le=\"0.0001\"} 5",
            "omlx_kvstore_write_duration_seconds_bucket{size=\"1MiB\",le=\"+Inf\"} 9",
            "omlx_kvstore_write_duration_seconds_count{size=\"1MiB\"} 9",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
