//! Models from a hub into the base directory's `models/`, in the hub cache layout.
//!
//! A pull is a job of the daemon: the client may disconnect and come back. Only the files that the
//! engine reads are taken. Each goes into `blobs/<hash>.incomplete`, is verified by size and hash, and
//! gets its name; then a snapshot of links appears in one rename. A process killed at any instant
//! leaves nothing that looks like a model, and the next pull continues where it stopped.

mod download;
mod error;
mod hub;
mod plan;
mod publish;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use omlxctl::protocol::{PullFile, PullProgress, Pulled};

pub use error::PullError;
pub use hub::Access;
use hub::{Hub, Revision};
use plan::{Machine, Wanted};

use crate::limits::PULL_NAME_BYTES;
use crate::registry::Registry;

/// Most pulls at once.
pub(crate) const MAX_PULLS: usize = 4;
/// Files of one pull that are downloaded at once.
const MAX_PARALLEL: usize = 4;
/// Tries of the listing.
const MAX_TRIES: u32 = 5;
/// What the rate is averaged over.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// The pulls. Clones share them.
#[derive(Clone)]
pub struct Pulls {
    registry: Registry,
    jobs: Arc<Mutex<BTreeMap<String, Arc<Job>>>>,
}

/// One pull.
pub struct Job {
    id: String,
    revision: String,
    force: bool,
    started: Instant,
    cancelled: AtomicBool,
    /// Bytes that came over the network.
    downloaded: AtomicU64,
    phase: Mutex<&'static str>,
    /// Known once the hub has been asked.
    files: OnceLock<Vec<FileState>>,
    rate: Mutex<Rate>,
    outcome: OnceLock<Result<Pulled, PullError>>,
}

struct FileState {
    wanted: Wanted,
    done: AtomicU64,
}

/// Bytes a second over the last moments.
struct Rate {
    since: Instant,
    bytes: u64,
    per_second: f64,
}

impl Pulls {
    /// None yet.
    pub fn new(registry: Registry) -> Self {
        Pulls { registry, jobs: Arc::default() }
    }

    /// Begins a pull of a revision ("main" when none is named), or gives the one that runs.
    ///
    /// # Errors
    /// When the name is none, when another revision of the model is being pulled, and when too many
    /// pulls run.
    pub fn start(
        &self,
        id: &str,
        revision: Option<&str>,
        force: bool,
        access: &Access,
    ) -> Result<Arc<Job>, PullError> {
        check_id(id)?;
        let revision = revision.unwrap_or("main");
        check_revision(revision)?;
        let mut jobs = lock(&self.jobs);
        if let Some(job) = jobs.get(id) {
            if job.revision != revision {
                return Err(PullError::Refused(format!(
                    "revision {} of {id} is being pulled: wait for it, or `omlxctl pull --cancel {id}`",
                    job.revision
                )));
            }
            return Ok(Arc::clone(job));
        }
        if jobs.len() >= MAX_PULLS {
            return Err(PullError::Refused(format!(
                "{MAX_PULLS} pulls run already, which is the limit: wait for one of them"
            )));
        }
        let hub = Hub::new(access)?;
        let job = Arc::new(Job {
            id: id.to_owned(),
            revision: revision.to_owned(),
            force,
            started: Instant::now(),
            cancelled: AtomicBool::new(false),
            downloaded: AtomicU64::new(0),
            phase: Mutex::new("asking"),
            files: OnceLock::new(),
            rate: Mutex::new(Rate { since: Instant::now(), bytes: 0, per_second: 0.0 }),
            outcome: OnceLock::new(),
        });
        let (pulls, running) = (self.clone(), Arc::clone(&job));
        std::thread::Builder::new()
            .name("pull".into())
            .spawn(move || pulls.run(&hub, &running))
            .map_err(|error| PullError::Disk(format!("no thread for it: {error}")))?;
        jobs.insert(id.to_owned(), Arc::clone(&job));
        Ok(job)
    }

    /// The pulls that run.
    pub fn list(&self) -> Vec<PullProgress> {
        lock(&self.jobs).values().map(|job| job.progress()).collect()
    }

    /// Stops a pull. What was downloaded stays for the next one. False when none runs.
    pub fn cancel(&self, id: &str) -> bool {
        let jobs = lock(&self.jobs);
        let job = jobs.get(id);
        if let Some(job) = job {
            job.cancelled.store(true, Ordering::Relaxed);
        }
        job.is_some()
    }

    /// Whether a model is being pulled.
    pub fn is_running(&self, id: &str) -> bool {
        lock(&self.jobs).contains_key(id)
    }

    fn run(&self, hub: &Hub, job: &Job) {
        tracing::info!(model = job.id, revision = job.revision, "pull begun");
        let repo = self
            .registry
            .catalog()
            .own_dir()
            .join(format!("models--{}", job.id.replace('/', "--")));
        let is_new = !repo.exists();
        let work = std::panic::AssertUnwindSafe(|| self.pull(hub, job, &repo));
        let outcome = std::panic::catch_unwind(work);
        let outcome = outcome.unwrap_or_else(|_| {
            Err(PullError::Refused("this is a bug in omlxd: its log has the details".to_owned()))
        });
        match &outcome {
            Ok(pulled) => {
                self.registry.catalog().list();
                let (bytes, secs) = (pulled.downloaded_bytes, pulled.seconds);
                tracing::info!(model = job.id, revision = pulled.revision, bytes, secs, "pulled");
            }
            Err(error) => {
                tracing::warn!(model = job.id, %error, "pull failed");
                if is_new && matches!(error, PullError::Refused(_)) {
                    // Nothing of it is of use.
                    let _ = fs::remove_dir_all(&repo);
                }
            }
        }
        let _ = job.outcome.set(outcome);
        lock(&self.jobs).remove(&job.id);
    }

    fn pull(&self, hub: &Hub, job: &Job, repo: &Path) -> Result<Pulled, PullError> {
        let revision = patiently(job, || hub.revision(&job.id, &job.revision))?;
        let sha = plan::commit(&revision)?;
        let blobs = repo.join("blobs");
        fs::create_dir_all(&blobs).map_err(|error| PullError::disk(&blobs, &error))?;
        let from = download::From { hub, id: &job.id, sha: &sha };
        job.enter("checking");
        let files = self.checked_files(&from, job, &revision, &blobs)?;
        let here: u64 = files.iter().map(|file| here_bytes(&blobs, file)).sum();
        let state = |wanted: &Wanted| FileState { wanted: wanted.clone(), done: AtomicU64::new(0) };
        let states = job.files.get_or_init(|| files.iter().map(state).collect());
        job.enter("downloading");
        *lock(&job.rate) = Rate { since: Instant::now(), bytes: here, per_second: 0.0 };
        fetch_all(&from, &blobs, job, states)?;
        job.enter("publishing");
        let path = publish::publish(repo, &sha, &job.revision, &files)
            .map_err(|error| PullError::disk(repo, &error))?;
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        Ok(Pulled {
            id: job.id.clone(),
            revision: sha,
            path,
            files: files.len(),
            bytes,
            downloaded_bytes: job.downloaded.load(Ordering::Relaxed),
            seconds: job.started.elapsed().as_secs_f64(),
        })
    }

    /// All files to have, once config.json and the index say that the model can run here.
    fn checked_files(
        &self,
        from: &download::From<'_>,
        job: &Job,
        revision: &Revision,
        blobs: &Path,
    ) -> Result<Vec<Wanted>, PullError> {
        let mut files = plan::small(revision)?;
        let mut texts = BTreeMap::new();
        for name in ["config.json", "model.safetensors.index.json"] {
            if let Some(file) = files.iter().find(|file| file.name == name) {
                download::fetch(from, blobs, file, &Quiet(job))?;
                let blob = blobs.join(file.digest.name());
                let text = omlxctl::files::read(&blob, file.size);
                let text = text.map_err(|error| PullError::disk(&blob, &error))?;
                texts.insert(name, text);
            }
        }
        let config = String::from_utf8_lossy(&texts["config.json"]).into_owned();
        let index = texts.get("model.safetensors.index.json").map(Vec::as_slice);
        let weights = plan::weights(revision, index)?;
        let weight_bytes = weights.iter().map(|file| file.size).sum();
        files.extend(weights);
        let missing: u64 = files.iter().map(|file| file.size - here_bytes(blobs, file)).sum();
        let machine = Machine {
            budget_bytes: self.registry.room().budget_bytes,
            free_bytes: free_bytes(blobs),
        };
        plan::check(&config, weight_bytes, missing, machine, job.force)?;
        Ok(files)
    }
}

impl Job {
    /// The model's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How it ended, if it has.
    pub fn outcome(&self) -> Option<&Result<Pulled, PullError>> {
        self.outcome.get()
    }

    /// How far it is.
    pub fn progress(&self) -> PullProgress {
        let files = self.files.get().map_or(&[][..], Vec::as_slice);
        let file = |file: &FileState| PullFile {
            name: file.wanted.name.clone(),
            bytes: file.wanted.size,
            done_bytes: file.done.load(Ordering::Relaxed),
        };
        let files: Vec<PullFile> = files.iter().map(file).collect();
        let total_bytes = files.iter().map(|file| file.bytes).sum();
        let done_bytes = files.iter().map(|file| file.done_bytes).sum();
        let per_second = self.measure(done_bytes);
        let left = (per_second >= 1.0).then(|| (total_bytes - done_bytes) as f64 / per_second);
        PullProgress {
            id: self.id.clone(),
            revision: self.revision.clone(),
            phase: (*lock(&self.phase)).to_owned(),
            total_bytes,
            done_bytes,
            bytes_per_second: per_second,
            seconds_left: left.filter(|_| total_bytes > done_bytes),
            files,
        }
    }

    /// The rate, measured anew when the last measurement is old enough.
    fn measure(&self, done_bytes: u64) -> f64 {
        let mut rate = lock(&self.rate);
        let elapsed = rate.since.elapsed();
        let is_first = rate.per_second == 0.0 && elapsed > Duration::from_millis(500);
        if elapsed >= RATE_WINDOW || is_first {
            let bytes = done_bytes.saturating_sub(rate.bytes);
            let per_second = bytes as f64 / elapsed.as_secs_f64();
            *rate = Rate { since: Instant::now(), bytes: done_bytes, per_second };
        }
        rate.per_second
    }

    /// Returns when it has ended, or after this time.
    pub fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        while self.outcome.get().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn enter(&self, phase: &'static str) {
        *lock(&self.phase) = phase;
    }

    fn is_wanted(&self) -> bool {
        !self.cancelled.load(Ordering::Relaxed)
    }

    fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while self.is_wanted() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20).min(time));
        }
    }
}

/// Downloads all files, a few at a time, the largest first. The first failure ends the others.
fn fetch_all(
    from: &download::From<'_>,
    blobs: &Path,
    job: &Job,
    files: &[FileState],
) -> Result<(), PullError> {
    let mut order: Vec<&FileState> = files.iter().collect();
    order.sort_by_key(|file| std::cmp::Reverse(file.wanted.size));
    let next = AtomicUsize::new(0);
    let failed: OnceLock<PullError> = OnceLock::new();
    let work = || {
        while let Some(file) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let watch = FileWatch { job, file, failed: &failed };
            if let Err(error) = download::fetch(from, blobs, &file.wanted, &watch) {
                // A later one only tells of the first.
                let _ = failed.set(error);
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        (0..MAX_PARALLEL.min(order.len())).for_each(|_| drop(scope.spawn(work)));
    });
    match failed.into_inner() {
        Some(error) => Err(error),
        None if !job.is_wanted() => Err(PullError::Cancelled),
        None => Ok(()),
    }
}

/// Asks until there is an answer or no hope.
fn patiently<T>(job: &Job, mut ask: impl FnMut() -> Result<T, PullError>) -> Result<T, PullError> {
    let mut pause = Duration::from_millis(250);
    for tries in 1.. {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let asked = match &error {
            PullError::Busy { after, .. } => *after,
            PullError::Network(_) => None,
            _ => return Err(error),
        };
        let wait = asked.unwrap_or(pause);
        if tries >= MAX_TRIES || wait > Duration::from_secs(60) {
            return Err(error);
        }
        job.pause(wait);
        if !job.is_wanted() {
            return Err(PullError::Cancelled);
        }
        pause *= 2;
    }
    Err(PullError::Cancelled)
}

struct FileWatch<'a> {
    job: &'a Job,
    file: &'a FileState,
    failed: &'a OnceLock<PullError>,
}

impl download::Watch for FileWatch<'_> {
    fn at(&self, bytes: u64) {
        self.file.done.store(bytes, Ordering::Relaxed);
    }

    fn got(&self, bytes: u64) {
        self.job.downloaded.fetch_add(bytes, Ordering::Relaxed);
    }

    fn wanted(&self) -> bool {
        self.job.is_wanted() && self.failed.get().is_none()
    }

    fn pause(&self, time: Duration) {
        self.job.pause(time);
    }
}

/// For files that are downloaded before the list of files is known.
struct Quiet<'a>(&'a Job);

impl download::Watch for Quiet<'_> {
    fn at(&self, _: u64) {}

    fn got(&self, bytes: u64) {
        self.0.downloaded.fetch_add(bytes, Ordering::Relaxed);
    }

    fn wanted(&self) -> bool {
        self.0.is_wanted()
    }

    fn pause(&self, time: Duration) {
        self.0.pause(time);
    }
}

fn here_bytes(blobs: &Path, file: &Wanted) -> u64 {
    if download::is_here(blobs, file) { file.size } else { download::part_bytes(blobs, file) }
}

fn free_bytes(dir: &Path) -> u64 {
    // A disk that does not say is found to be full by writing.
    let disk = rustix::fs::statvfs(dir);
    disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// `<org>/<name>` or `<name>`, as hubs allow them. The id becomes the name of a folder.
fn check_id(id: &str) -> Result<(), PullError> {
    let is_plain = |part: &str| {
        !part.is_empty()
            && part.len() <= PULL_NAME_BYTES
            && !part.starts_with(['.', '-'])
            && !part.contains("--")
            && !part.contains("..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if id.split('/').count() <= 2 && id.split('/').all(is_plain) {
        return Ok(());
    }
    Err(PullError::Refused(format!("{id:?} is not the name of a model: it looks like org/name")))
}

/// A branch, tag or commit. It becomes the name of a file.
fn check_revision(revision: &str) -> Result<(), PullError> {
    let is_plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if revision.len() <= PULL_NAME_BYTES && revision.split('/').all(is_plain) {
        return Ok(());
    }
    Err(PullError::Refused(format!("{revision:?} is not the name of a branch, tag or commit")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_none() {
        for good in ["gpt2", "mlx-community/Qwen3-8B-4bit", "a/b.c_d-1"] {
            assert_eq!(check_id(good), Ok(()), "{good}");
        }
        for bad in
            ["", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a--b", ".a", "a b", "a/b\0", "a%2f"]
        {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
        for good in ["main", "v1.0", "refs/pr/1", "0123456789abcdef"] {
            assert_eq!(check_revision(good), Ok(()), "{good}");
        }
        for bad in ["", "..", "a/../b", "/a", "a//b", "a b", ".git", &"x".repeat(97)] {
            assert!(check_revision(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_at_their_limit() {
        let (fits, long) = ("x".repeat(PULL_NAME_BYTES), "x".repeat(PULL_NAME_BYTES + 1));
        assert!(check_id(&format!("{fits}/{fits}")).is_ok() && check_revision(&fits).is_ok());
        assert!(check_id(&format!("a/{long}")).is_err() && check_id(&format!("{long}/a")).is_err());
        assert!(check_revision(&long).is_err());
    }
}
