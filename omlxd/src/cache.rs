//! The KV cache as the daemon sees it: opened from the configuration, shared with the engine, asked
//! by the admin socket and by `/metrics`.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{ChatTemplate, Model, OutputFormat, ReuseConfig, ReuseReport, Tokenizer};
use kvstore::{MIN_QUOTA_BYTES, Store, StoreConfig};

use crate::config::Config;
use crate::error_chain::Chain;
use crate::memory::{size_of as of, total_bytes};
use crate::metrics::CacheSnapshot;

/// Requests that `omlxctl cache explain` can still tell about.
pub(crate) const MAX_REPORTS: usize = 256;
/// The most that "auto" gives the SSD tier.
const MAX_AUTO_QUOTA_BYTES: u64 = 200 << 30;
/// The file in the base directory with the key that encrypts the SSD tier. It does not lie in the
/// cache's folder, which may be on a disk that travels.
const KEY_FILE: &str = "cache-key";
/// What is assumed of a disk or a machine that does not say.
const UNKNOWN_BYTES: u64 = 8 << 30;

/// What was reused of one request's prompts.
#[derive(Debug, Clone)]
pub struct RequestReport {
    /// The request's id.
    pub id: String,
    /// The model's id.
    pub model: String,
    /// One for each prompt, in order.
    pub prompts: Vec<ReuseReport>,
    /// Turns token ids back into text.
    pub tokenizer: Tokenizer,
    /// How the model writes thoughts.
    pub format: OutputFormat,
    /// What may leave them out.
    pub template: Option<ChatTemplate>,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    /// The store; `None` when the cache is off or its folder cannot be used.
    pub store: Option<Arc<Store>>,
    /// Where the store lies.
    pub dir: PathBuf,
    /// Why there is no store although one is wanted.
    pub problem: Option<String>,
    /// Free bytes of the disk below which nothing is saved.
    pub min_free_bytes: u64,
    /// The engine's settings for reuse.
    pub reuse: ReuseConfig,
    reports: Mutex<VecDeque<RequestReport>>,
}

impl Cache {
    /// Opens the store. A folder that cannot be used is no reason not to serve: the cache is then
    /// without its SSD and RAM tiers, and says why.
    pub fn open(config: &Config) -> Self {
        let settings = &config.cache;
        let dir = settings.ssd_dir.clone().unwrap_or_else(|| config.base_dir.join("cache/kv"));
        let (mut store, mut problem) = (None, None);
        let (mut live_bytes, mut min_free_bytes) = (0, 0);
        if settings.enabled {
            let ram = total_bytes();
            live_bytes = of(settings.live_budget, ram, ram / 8);
            let limits = store_config(config, &dir, ram);
            min_free_bytes = limits.min_free_bytes;
            match Store::open(limits) {
                Ok(opened) => store = Some(Arc::new(opened)),
                Err(error) => {
                    let what = Chain(&error).to_string();
                    tracing::error!(error = what, "no prompt will outlive its session in memory");
                    problem = Some(what);
                }
            }
        }
        let reuse = ReuseConfig {
            store: store.clone(),
            block_tokens: settings.block_tokens,
            live_bytes: usize::try_from(live_bytes).unwrap_or(usize::MAX),
        };
        Cache { store, dir, problem, min_free_bytes, reuse, reports: Mutex::default() }
    }

    /// The numbers of this moment, for `/metrics`. `live`: sessions in memory, and their bytes.
    pub(crate) fn snapshot(&self, live: (usize, u64)) -> CacheSnapshot {
        CacheSnapshot {
            store: self.store.as_ref().map(|store| store.stats()),
            has_problem: self.problem.is_some(),
            block_tokens: self.reuse.block_tokens,
            live_sessions: live.0,
            live_bytes: live.1,
        }
    }

    /// Remembers what was reused of one prompt of a request.
    pub(crate) fn note(&self, id: &str, model: &Model, report: &ReuseReport) {
        let mut reports = self.reports();
        if let Some(known) = reports.iter_mut().rfind(|known| known.id == id) {
            known.prompts.push(report.clone());
            return;
        }
        if reports.len() == MAX_REPORTS {
            reports.pop_front();
        }
        reports.push_back(RequestReport {
            id: id.to_owned(),
            model: model.name().to_owned(),
            prompts: vec![report.clone()],
            tokenizer: model.tokenizer().clone(),
            format: model.output_format().clone(),
            template: model.chat_template().cloned(),
        });
    }

    /// What is known of a request's reuse.
    pub fn report(&self, id: &str) -> Option<RequestReport> {
        self.reports().iter().rfind(|report| report.id == id).cloned()
    }

    fn reports(&self) -> MutexGuard<'_, VecDeque<RequestReport>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn store_config(config: &Config, dir: &Path, ram: u64) -> StoreConfig {
    let settings = &config.cache;
    let (total, free) = disk_bytes(dir);
    let quota = of(settings.ssd_quota, total, (free / 4).min(MAX_AUTO_QUOTA_BYTES));
    let quota = quota.max(MIN_QUOTA_BYTES);
    StoreConfig {
        ram_budget_bytes: of(settings.ram_budget, ram, ram / 16),
        min_free_bytes: of(settings.ssd_min_free, total, 10 << 30),
        writes_per_day_bytes: Some(of(settings.ssd_write_budget_per_day, quota, quota)),
        max_idle: settings.max_idle,
        key_file: settings.encrypt.then(|| config.base_dir.join(KEY_FILE)),
        ..StoreConfig::new(dir, quota)
    }
}

/// The size of the disk that a folder lies or will lie on, and what of it is free or already the
/// cache's own.
fn disk_bytes(dir: &Path) -> (u64, u64) {
    let found = dir.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok());
    let Some(disk) = found else { return (UNKNOWN_BYTES, UNKNOWN_BYTES) };
    let bytes = |blocks: u64| blocks.saturating_mul(disk.f_frsize);
    (bytes(disk.f_blocks), bytes(disk.f_bavail).saturating_add(used_bytes(dir, 0)))
}

/// Bytes of the files under a folder, a few levels deep.
fn used_bytes(dir: &Path, depth: usize) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth < 4 => used_bytes(&entry.path(), depth + 1),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Size;

    #[test]
    fn sizes_are_taken_of_the_right_whole() {
        assert_eq!(of(Size::Auto, 1000, 7), 7);
        assert_eq!(of(Size::Bytes(5), 1000, 7), 5);
        assert_eq!(of(Size::Percent(25), 1000, 7), 250);
        assert!(total_bytes() > 1 << 20);
    }

    #[test]
    fn the_disk_of_a_folder_that_is_not_there_yet_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let (total, free) = disk_bytes(&dir.path().join("a/b"));
        assert!(total > 0 && free <= total + UNKNOWN_BYTES);
        std::fs::write(dir.path().join("x"), [0; 100]).unwrap();
        assert_eq!(used_bytes(dir.path(), 0), 100);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_told_and_survived() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "in the way").unwrap();
        let mut config = Config { base_dir: dir.path().to_owned(), ..Config::default() };
        config.cache.ssd_dir = Some(file.join("kv"));
        let cache = Cache::open(&config);
        assert!(cache.store.is_none());
        assert!(cache.problem.is_some_and(|what| what.contains("file")));
        assert!(cache.reuse.live_bytes > 0);
    }
}
