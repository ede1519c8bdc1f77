//! Which models there are, and which of them are loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use engine::{Engine, Model};
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Name of the model that comes with the daemon.
pub const BUNDLED: &str = "omlx-tiny";
/// Near names listed beside an unknown one.
const MAX_NEAR: usize = 10;

/// A model folder on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelEntry {
    /// `<org>/<name>` or `<name>`.
    pub id: String,
    /// Where its files are.
    pub dir: PathBuf,
    /// Seconds from 1970 to the last change of its config.json.
    pub created: u64,
}

/// What a model is doing.
#[derive(Debug, Clone)]
pub enum ModelState {
    /// On disk only.
    Unloaded,
    /// Being loaded.
    Loading,
    /// In memory.
    Ready(Model),
    /// The last try to load it failed; the message says why. The next request tries again.
    Failed(String),
}

impl ModelState {
    /// The word for metrics and the admin protocol.
    pub fn as_str(&self) -> &'static str {
        match self {
            ModelState::Unloaded => "unloaded",
            ModelState::Loading => "loading",
            ModelState::Ready(_) => "ready",
            ModelState::Failed(_) => "failed",
        }
    }
}

/// The models. Clones share them.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    engine: Engine,
    metrics: Metrics,
    dirs: Vec<PathBuf>,
    bundled: Option<PathBuf>,
    /// What the last look at the disk found.
    known: Mutex<BTreeMap<String, ModelEntry>>,
    slots: Mutex<BTreeMap<String, Slot>>,
}

#[derive(Debug, Clone)]
enum Slot {
    Loading(watch::Receiver<Option<Result<Model, String>>>),
    Ready(Model),
    Failed(String),
}

impl Registry {
    /// Looks for models in `dirs`, in order, then for the bundled one.
    pub fn new(engine: Engine, metrics: Metrics, dirs: Vec<PathBuf>) -> Self {
        let bundled = bundled_dir();
        let (known, slots) = Default::default();
        Registry { shared: Arc::new(Shared { engine, metrics, dirs, bundled, known, slots }) }
    }

    /// Every model on disk, by id. Reads directories: cheap, but not free.
    pub fn list(&self) -> Vec<ModelEntry> {
        let mut found = BTreeMap::new();
        for dir in &self.shared.dirs {
            scan(dir, &mut found);
        }
        if let Some(dir) = &self.shared.bundled {
            add(&mut found, BUNDLED.to_owned(), dir.clone());
        }
        for id in found.keys() {
            self.shared.metrics.add_model(id);
        }
        let list = found.values().cloned().collect();
        *self.shared.known() = found;
        list
    }

    /// The model of this id. Case matters. Looks at the whole disk only for what it does not know
    /// yet: every request comes through here.
    pub fn find(&self, id: &str) -> Option<ModelEntry> {
        let known = self.shared.known().get(id).cloned();
        if known.as_ref().is_some_and(|entry| is_model(&entry.dir)) {
            return known;
        }
        self.list().into_iter().find(|entry| entry.id == id)
    }

    /// Ids that resemble a name, nearest first.
    pub fn near(&self, name: &str) -> Vec<String> {
        let name = name.to_lowercase();
        let mut near: Vec<(usize, String)> = self
            .list()
            .into_iter()
            .map(|entry| (strsim::levenshtein(&entry.id.to_lowercase(), &name), entry.id))
            .collect();
        near.sort();
        near.into_iter().take(MAX_NEAR).map(|(_, id)| id).collect()
    }

    /// What a model is doing.
    pub fn state(&self, id: &str) -> ModelState {
        match self.shared.slots().get(id) {
            None => ModelState::Unloaded,
            Some(Slot::Loading(_)) => ModelState::Loading,
            Some(Slot::Ready(model)) => ModelState::Ready(model.clone()),
            Some(Slot::Failed(why)) => ModelState::Failed(why.clone()),
        }
    }

    /// The models in memory.
    pub fn loaded(&self) -> Vec<Model> {
        let slots = self.shared.slots();
        let ready = |slot: &Slot| match slot {
            Slot::Ready(model) => Some(model.clone()),
            _ => None,
        };
        slots.values().filter_map(ready).collect()
    }

    /// How many models are loading, ready and failed.
    pub fn counts(&self) -> (usize, usize, usize) {
        let mut counts = (0, 0, 0);
        for slot in self.shared.slots().values() {
            match slot {
                Slot::Loading(_) => counts.0 += 1,
                Slot::Ready(_) => counts.1 += 1,
                Slot::Failed(_) => counts.2 += 1,
            }
        }
        counts
    }

    /// The loaded model; loads it if it is not. However many ask at once, it is loaded once, and a
    /// load goes on when those who asked are gone.
    ///
    /// # Errors
    /// Why the folder cannot be loaded.
    pub async fn get_or_load(&self, entry: &ModelEntry) -> Result<Model, String> {
        let mut outcome = {
            let mut slots = self.shared.slots();
            match slots.get(&entry.id) {
                Some(Slot::Ready(model)) => return Ok(model.clone()),
                Some(Slot::Loading(outcome)) => outcome.clone(),
                Some(Slot::Failed(_)) | None => {
                    let (sender, outcome) = watch::channel(None);
                    slots.insert(entry.id.clone(), Slot::Loading(outcome.clone()));
                    tokio::spawn(load(Arc::clone(&self.shared), entry.clone(), sender));
                    outcome
                }
            }
        };
        let outcome = match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        outcome.unwrap_or_else(|| Err("loading was interrupted".to_owned()))
    }
}

async fn load(
    shared: Arc<Shared>,
    entry: ModelEntry,
    sender: watch::Sender<Option<Result<Model, String>>>,
) {
    let loaded = shared.engine.load(&entry.dir, &entry.id).await;
    let outcome = loaded.map_err(|error| {
        let source = std::error::Error::source(&error);
        source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
    });
    match &outcome {
        Ok(model) => {
            let info = model.info();
            shared.metrics.model_loaded(&entry.id, info);
            tracing::info!(
                model = entry.id,
                architecture = info.architecture,
                weight_bytes = info.weight_bytes,
                load_ms = info.load_time.as_millis() as u64,
                "model loaded"
            );
        }
        Err(why) => tracing::warn!(model = entry.id, why, "model cannot be loaded"),
    }
    let slot = match outcome.clone() {
        Ok(model) => Slot::Ready(model),
        Err(why) => Slot::Failed(why),
    };
    shared.slots().insert(entry.id, slot);
    sender.send_replace(Some(outcome));
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, ModelEntry>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `<name>/`, `<org>/<name>/` and `models--org--name/snapshots/<revision>/`.
fn scan(dir: &Path, found: &mut BTreeMap<String, ModelEntry>) {
    for (name, path) in folders(dir) {
        if let Some(id) = name.strip_prefix("models--") {
            if let Some(snapshot) = snapshot(&path) {
                add(found, id.replace("--", "/"), snapshot);
            }
        } else if is_model(&path) {
            add(found, name, path);
        } else {
            for (inner, path) in folders(&path) {
                if is_model(&path) {
                    add(found, format!("{name}/{inner}"), path);
                }
            }
        }
    }
}

/// The first folder found under an id keeps it.
fn add(found: &mut BTreeMap<String, ModelEntry>, id: String, dir: PathBuf) {
    let changed = fs::metadata(dir.join("config.json")).and_then(|data| data.modified());
    let created = changed.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let created = created.map_or(0, |since| since.as_secs());
    found.entry(id.clone()).or_insert(ModelEntry { id, dir, created });
}

/// The revision that `refs/main` names, else the one changed last.
fn snapshot(repo: &Path) -> Option<PathBuf> {
    let snapshots = repo.join("snapshots");
    let main = fs::read_to_string(repo.join("refs/main")).ok();
    let main = main.map(|revision| snapshots.join(revision.trim()));
    main.filter(|path| is_model(path)).or_else(|| {
        let changed = |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
        let all = folders(&snapshots).into_iter().map(|(_, path)| path);
        all.filter(|path| is_model(path)).max_by_key(changed)
    })
}

fn is_model(dir: &Path) -> bool {
    dir.join("config.json").is_file()
}

/// Folders in `dir`, by name; hidden ones and names that are no UTF-8 are left out.
fn folders(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut folders: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.to_owned();
            (!name.starts_with('.') && path.is_dir()).then_some((name, path))
        })
        .collect();
    folders.sort();
    folders
}

/// Where the bundled model is: `OMLX_BUNDLED_DIR`, else beside an installed daemon, else in the
/// source tree that the executable was built in.
fn bundled_dir() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("OMLX_BUNDLED_DIR") {
        return Some(PathBuf::from(dir)).filter(|dir| is_model(dir));
    }
    let exe = std::env::current_exe().and_then(fs::canonicalize).ok()?;
    let bin = exe.parent()?;
    let installed = bin.join("../share/omlx/models").join(BUNDLED);
    let built = bin.ancestors().map(|dir| dir.join("packaging/omlx-tiny/model"));
    std::iter::once(installed).chain(built).find(|dir| is_model(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(dir: &Path) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), "{}").unwrap();
    }

    #[test]
    fn models_are_found_in_the_three_layouts() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        model(&at("plain"));
        model(&at("org/inner"));
        model(&at(".hidden"));
        model(&at("models--acme--big/snapshots/aaa"));
        model(&at("models--acme--big/snapshots/bbb"));
        fs::create_dir_all(at("models--acme--big/refs")).unwrap();
        fs::write(at("models--acme--big/refs/main"), "aaa\n").unwrap();
        fs::create_dir_all(at("models--acme--empty/snapshots")).unwrap();
        let mut found = BTreeMap::new();
        scan(root.path(), &mut found);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["acme/big", "org/inner", "plain"]);
        assert_eq!(found["acme/big"].dir, at("models--acme--big/snapshots/aaa"));
    }
}
