//! The models on disk: their ids, aliases and facts, read again only when files change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use engine::{ComputeDtype, ModelFacts};

use super::discover::{self, ModelEntry};
use crate::config::{Config, ModelSettings};
use crate::error_chain::Chain;
use crate::limits::CONFIG_ALIAS_HOPS;
use crate::metrics::Metrics;

/// Near names listed beside an unknown one.
const MAX_NEAR: usize = 10;

/// The models on disk.
pub struct Catalog {
    metrics: Metrics,
    dirs: Vec<PathBuf>,
    bundled: Option<PathBuf>,
    settings: BTreeMap<String, ModelSettings>,
    compute: ComputeDtype,
    /// What the last scan found.
    known: Mutex<Known>,
    /// Held during a scan, so that one scan runs at a time.
    scanning: Mutex<()>,
    /// By folder: the fingerprint of its files when they were read, and what they said.
    facts: Mutex<BTreeMap<PathBuf, (u64, Facts)>>,
}

/// What a scan found, and when it began; `None` before the first scan.
#[derive(Debug, Clone, Default)]
struct Known {
    models: Arc<BTreeMap<String, ModelEntry>>,
    began: Option<Instant>,
}

type Facts = Result<Arc<ModelFacts>, String>;

impl Catalog {
    /// Looks for models where the configuration says, then for the bundled one.
    pub(super) fn new(config: &Config, metrics: Metrics) -> Self {
        Catalog {
            metrics,
            dirs: config.model_dirs(),
            bundled: discover::bundled_dir(),
            settings: config.per_model.clone(),
            compute: config.models.compute_dtype.into(),
            known: Mutex::default(),
            scanning: Mutex::default(),
            facts: Mutex::default(),
        }
    }

    /// Every model on disk, by id. Reads directories: not for an async thread.
    pub fn list(&self) -> Vec<ModelEntry> {
        self.scan().values().cloned().collect()
    }

    fn scan(&self) -> Arc<BTreeMap<String, ModelEntry>> {
        let began = Instant::now();
        let found = discover::models(&self.dirs, self.bundled.as_deref());
        for id in found.keys() {
            self.metrics.add_model(id);
        }
        let found = Arc::new(found);
        *lock(&self.known) = Known { models: Arc::clone(&found), began: Some(began) };
        found
    }

    /// What is on disk now. Of many who ask at once one looks, for all of them: names that do not exist
    /// cannot keep the disk busier than that.
    fn listed(&self) -> Arc<BTreeMap<String, ModelEntry>> {
        let asked = Instant::now();
        let _one = lock(&self.scanning);
        let known = lock(&self.known).clone();
        if known.began.is_some_and(|began| began >= asked) { known.models } else { self.scan() }
    }

    /// The model of this id, else the one with this alias. Case matters. Looks at the whole disk only
    /// for what it does not know yet: every request comes through here. Not for an async thread.
    pub fn find(&self, name: &str) -> Option<ModelEntry> {
        self.find_or_near(name).ok()
    }

    /// The same, or else ids that resemble the name.
    ///
    /// # Errors
    /// The near ids, nearest first.
    pub fn find_or_near(&self, name: &str) -> Result<ModelEntry, Vec<String>> {
        if let Some(entry) = self.known(name) {
            return Ok(entry);
        }
        let listed = self.listed();
        let mut found = name;
        for _ in 0..=CONFIG_ALIAS_HOPS {
            if let Some(entry) = listed.get(found) {
                return Ok(entry.clone());
            }
            let Some(next) = self.aliased(found) else { break };
            found = next;
        }
        Err(near(&listed, name))
    }

    /// A model that the last look at the disk found, if it is still there.
    fn known(&self, name: &str) -> Option<ModelEntry> {
        let models = Arc::clone(&lock(&self.known).models);
        let mut name = name;
        for _ in 0..=CONFIG_ALIAS_HOPS {
            if let Some(entry) = models.get(name) {
                return discover::is_model(&entry.dir).then(|| entry.clone());
            }
            name = self.aliased(name)?;
        }
        None
    }

    /// The model that has this alias.
    fn aliased(&self, alias: &str) -> Option<&str> {
        let mut settings = self.settings.iter();
        let found = settings.find(|(_, own)| own.alias.iter().any(|own| own == alias));
        found.map(|(id, _)| id.as_str())
    }

    /// The aliases of a model.
    pub fn aliases(&self, id: &str) -> &[String] {
        self.settings.get(id).map_or(&[], |settings| &settings.alias)
    }

    /// What a model's files say, without loading it. Reads files unless they were read as they are.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub fn facts(&self, entry: &ModelEntry) -> Result<Arc<ModelFacts>, String> {
        let print = discover::fingerprint(&entry.dir);
        if let Some((known, facts)) = lock(&self.facts).get(&entry.dir)
            && *known == print
        {
            return facts.clone();
        }
        let facts = engine::inspect(&entry.dir, self.compute);
        let facts = facts.map(Arc::new).map_err(|error| Chain(&error).to_string());
        lock(&self.facts).insert(entry.dir.clone(), (print, facts.clone()));
        facts
    }

    /// The folders searched for models.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// The folder that pulled models go to: the base directory's own.
    pub fn own_dir(&self) -> &Path {
        &self.dirs[0]
    }

    /// Forgets a model whose files were deleted.
    pub(super) fn forget(&self, entry: &ModelEntry) {
        Arc::make_mut(&mut lock(&self.known).models).remove(&entry.id);
        lock(&self.facts).remove(&entry.dir);
    }
}

/// Ids that resemble a name, nearest first.
fn near(listed: &BTreeMap<String, ModelEntry>, name: &str) -> Vec<String> {
    let name = name.to_lowercase();
    let distance = |id: &String| strsim::levenshtein(&id.to_lowercase(), &name);
    let mut near: Vec<(usize, &String)> = listed.keys().map(|id| (distance(id), id)).collect();
    near.sort();
    near.into_iter().take(MAX_NEAR).map(|(_, id)| id.clone()).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
