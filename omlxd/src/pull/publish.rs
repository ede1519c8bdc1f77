//! A snapshot of the hub cache layout, whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::plan::Wanted;
use crate::registry::PULLED_REF;

/// Makes `snapshots/<sha>` with a link for each file, and the references that lead to it. Until the
/// rename nothing is visible; hidden folders are no models.
pub(super) fn publish(
    repo: &Path,
    sha: &str,
    revision: &str,
    files: &[Wanted],
) -> io::Result<PathBuf> {
    let snapshots = repo.join("snapshots");
    fs::create_dir_all(&snapshots)?;
    let (hidden, old) =
        (snapshots.join(format!(".new-{sha}")), snapshots.join(format!(".old-{sha}")));
    for left in [&hidden, &old] {
        remove(left)?;
    }
    fs::create_dir(&hidden)?;
    for file in files {
        let link = hidden.join(&file.name);
        // Of a file in a folder the way to the blobs is longer.
        let folders = Path::new(&file.name).components().count().saturating_sub(1);
        if let Some(folder) = link.parent().filter(|_| folders > 0) {
            fs::create_dir_all(folder)?;
        }
        symlink(
            Path::new(&"../".repeat(2 + folders)).join("blobs").join(file.digest.name()),
            link,
        )?;
    }
    let snapshot = snapshots.join(sha);
    if snapshot.is_dir() {
        // Another program's, perhaps with files that we do not need: they stay.
        keep_others(&snapshot, &hidden)?;
        fs::rename(&snapshot, &old)?;
    }
    fs::rename(&hidden, &snapshot)?;
    remove(&old)?;
    for name in [revision, PULLED_REF] {
        // A commit is its own name.
        if name != sha {
            write_ref(&repo.join("refs"), name, sha)?;
        }
    }
    Ok(snapshot)
}

fn keep_others(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if fs::symlink_metadata(&target).is_ok() {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, target)?;
        } else if kind.is_file() {
            fs::hard_link(entry.path(), target)?;
        } else if kind.is_dir() {
            fs::create_dir(&target)?;
            keep_others(&entry.path(), &target)?;
        }
    }
    Ok(())
}

fn write_ref(refs: &Path, name: &str, sha: &str) -> io::Result<()> {
    let path = refs.join(name);
    let parent = path.parent().unwrap_or(refs);
    fs::create_dir_all(parent)?;
    let new = parent.join(".new-ref");
    // What a killed process left there, or somebody else put there.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).open(&new)?.write_all(sha.as_bytes())?;
    fs::rename(new, path)
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Digest;
    use super::*;

    #[test]
    fn a_snapshot_replaces_a_half_one_and_keeps_what_is_not_ours() {
        let root = tempfile::tempdir().unwrap();
        let repo = root.path();
        let sha = "c".repeat(40);
        fs::create_dir_all(repo.join("blobs")).unwrap();
        fs::write(repo.join("blobs/aa"), "{}").unwrap();
        let half = repo.join("snapshots").join(&sha);
        fs::create_dir_all(half.join("docs")).unwrap();
        fs::write(half.join("docs/README.md"), "theirs").unwrap();
        // What a killed process may leave.
        fs::create_dir_all(repo.join(format!("snapshots/.new-{sha}/x"))).unwrap();
        let digest = Digest::Git("aa".to_owned());
        let file = Wanted { name: "config.json".to_owned(), size: 2, digest };
        let in_folder =
            Wanted { name: "additional_chat_templates/a.jinja".to_owned(), ..file.clone() };
        let files = [file, in_folder];
        for _ in 0..2 {
            let made = publish(repo, &sha, "feature/x", &files).unwrap();
            assert_eq!(made, half);
            for file in &files {
                assert_eq!(fs::read_to_string(half.join(&file.name)).unwrap(), "{}");
            }
            assert_eq!(fs::read_to_string(half.join("docs/README.md")).unwrap(), "theirs");
            assert_eq!(fs::read_to_string(repo.join("refs/feature/x")).unwrap(), sha);
            assert_eq!(fs::read_to_string(repo.join("refs/omlx")).unwrap(), sha);
            assert_eq!(fs::read_dir(repo.join("snapshots")).unwrap().count(), 1);
        }
    }
}
