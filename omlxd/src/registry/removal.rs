//! Deleting models from disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::core::Refused;
use super::{KeepError, ModelEntry, Registry, Source, discover};

/// What a folder is called while it is deleted: hidden, so that no half of a model is found.
const REMOVING: &str = ".omlx-removing-";

/// What was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removed {
    /// Bytes of its files.
    pub bytes: u64,
}

impl Registry {
    /// Deletes a model's files: its folder, or in the hub cache layout everything of its repository.
    /// Unloads it first.
    ///
    /// # Errors
    /// When it is in use, pinned, or came with the daemon.
    pub async fn remove(&self, entry: &ModelEntry) -> Result<Removed, KeepError> {
        let id = &entry.id;
        let folder = match &entry.source {
            Source::Bundled => return Err(KeepError::Bundled(id.clone())),
            Source::Folder => entry.dir.clone(),
            Source::Hub { repo, .. } => repo.clone(),
        };
        self.unload_unused(id).await?;
        self.inner().core.remove(id).map_err(|refused| KeepError::new(id, refused))?;
        let deleted = tokio::task::spawn_blocking(move || delete(&folder)).await;
        let deleted = deleted.unwrap_or_else(|_| Err(io::Error::other("it was interrupted")));
        self.catalog().forget(entry);
        self.inner().failed.remove(id);
        self.inner().entries.remove(id);
        self.inner().core.removed(id, deleted.is_ok());
        self.notify();
        match deleted {
            Ok(bytes) => {
                tracing::info!(model = id, bytes, "model removed");
                Ok(Removed { bytes })
            }
            Err(error) => Err(KeepError::Disk { id: id.clone(), what: error.to_string() }),
        }
    }

    async fn unload_unused(&self, id: &str) -> Result<(), KeepError> {
        {
            let mut inner = self.inner();
            let leases = inner.core.get(id).map_or(0, |entry| entry.leases);
            let requests = leases + inner.core.waiting(id);
            if requests > 0 {
                return Err(KeepError::InUse { id: id.to_owned(), requests });
            }
            match inner.core.unload(id) {
                Ok(()) | Err(Refused::NotLoaded) => {}
                Err(refused) => return Err(KeepError::new(id, refused)),
            }
        }
        self.advance();
        self.drained(id).await;
        Ok(())
    }

    /// Deletes what an earlier process, killed meanwhile, left of models that were being deleted.
    pub fn sweep(&self) {
        for dir in self.catalog().dirs() {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(REMOVING) {
                    let _ = fs::remove_dir_all(entry.path());
                }
            }
        }
    }
}

/// Deletes a folder, or only the link where it is one. Gives the bytes that were in it.
fn delete(folder: &Path) -> io::Result<u64> {
    if fs::symlink_metadata(folder)?.is_symlink() {
        fs::remove_file(folder)?;
        return Ok(0);
    }
    let hidden = hidden_name(folder)?;
    let bytes = disk_bytes(folder);
    fs::rename(folder, &hidden)?;
    fs::remove_dir_all(&hidden)?;
    // The folder of an organisation whose last model this was.
    let parent = folder.parent().filter(|parent| !discover::is_model(parent));
    if let Some(parent) = parent
        && fs::read_dir(parent)?.next().is_none()
        && parent.file_name().is_some_and(|name| name != "models")
    {
        let _ = fs::remove_dir(parent);
    }
    Ok(bytes)
}

fn hidden_name(folder: &Path) -> io::Result<PathBuf> {
    let name = folder.file_name().ok_or_else(|| io::Error::other("it has no name"))?;
    let mut hidden = std::ffi::OsString::from(REMOVING);
    hidden.push(name);
    hidden.push(format!("-{}", std::process::id()));
    Ok(folder.with_file_name(hidden))
}

/// Bytes of the files under a folder; links are not followed.
pub(crate) fn disk_bytes(folder: &Path) -> u64 {
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => disk_bytes(&entry.path()),
        Ok(data) if data.is_file() => data.len(),
        _ => 0,
    };
    fs::read_dir(folder).into_iter().flatten().flatten().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_whole_and_a_link_goes_alone() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("org/model")).unwrap();
        fs::write(at("org/model/x"), [0; 10]).unwrap();
        assert_eq!(delete(&at("org/model")).unwrap(), 10);
        assert!(!at("org").exists(), "nothing else was in it");
        fs::create_dir_all(at("elsewhere")).unwrap();
        fs::write(at("elsewhere/x"), [0; 10]).unwrap();
        std::os::unix::fs::symlink(at("elsewhere"), at("link")).unwrap();
        assert_eq!(delete(&at("link")).unwrap(), 0);
        assert!(at("elsewhere/x").exists() && !at("link").exists());
    }
}
