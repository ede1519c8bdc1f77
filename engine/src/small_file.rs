//! Opens the files of a model folder, which is not trusted: a file may be larger than memory, may
//! be a pipe that never ends, or may be a link to a file outside the model.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::error::LoadError;

/// The only subfolder of a model folder from which files are read.
const INNER_FOLDER: &str = "additional_chat_templates";

/// Reads a file of at most `max_bytes`. Returns `None` if it does not exist.
///
/// # Errors
/// If it is larger, is not a regular file, is outside the model folder, or cannot be read.
pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, LoadError> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    // One more byte, so that a file that grows meanwhile is noticed.
    file.take(max_bytes + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| LoadError::Io { path: path.to_owned(), source })?;
    if bytes.len() as u64 > max_bytes {
        let what = format!("it has more than {max_bytes} bytes");
        return Err(LoadError::Invalid { path: path.to_owned(), what });
    }
    Ok(Some(bytes))
}

/// Reads a file as text.
///
/// # Errors
/// The same as [`read`], and if it is not UTF-8.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<Option<String>, LoadError> {
    let text = read(path, max_bytes)?.map(String::from_utf8).transpose();
    text.map_err(|_| LoadError::Invalid {
        path: path.to_owned(),
        what: "it is not UTF-8".to_owned(),
    })
}

/// Opens a regular file of a model folder. Returns `None` if it does not exist.
///
/// A link is followed if it leads to a file of the same folder or, in a snapshot of the Hugging
/// Face cache, to a blob of the same repository. The folder itself may be a link, which its owner
/// made.
///
/// # Errors
/// If it is not a regular file (opening a pipe would wait for ever), is outside the folder, or
/// cannot be opened.
pub(crate) fn open(path: &Path) -> Result<Option<File>, LoadError> {
    let io = |source| LoadError::Io { path: path.to_owned(), source };
    let invalid = |what: &str| LoadError::Invalid { path: path.to_owned(), what: what.to_owned() };
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(io(error)),
    };
    let folder = folder_of(path).canonicalize().map_err(io)?;
    if !real.starts_with(&folder) && !is_blob_of(&folder, &real) {
        return Err(invalid(
            "it is a link that leads out of the model's folder, and such a link is not followed: put \
             the file itself there, or make the whole folder the link",
        ));
    }
    if !std::fs::metadata(&real).map_err(io)?.is_file() {
        return Err(invalid("it is not a regular file"));
    }
    File::open(&real).map(Some).map_err(io)
}

/// The model folder that a file belongs to.
fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().unwrap_or(path);
    match parent.file_name() {
        Some(name) if name == INNER_FOLDER => parent.parent().unwrap_or(parent),
        _ => parent,
    }
}

/// Whether `folder` is `<repository>/snapshots/<revision>` of the Hugging Face cache and `file` is
/// directly in `<repository>/blobs`. Both paths must be free of links.
fn is_blob_of(folder: &Path, file: &Path) -> bool {
    let blobs = |folder: &Path| -> Option<PathBuf> {
        let snapshots = folder.parent()?;
        (snapshots.file_name()? == "snapshots").then(|| Some(snapshots.parent()?.join("blobs")))?
    };
    blobs(folder).is_some_and(|blobs| file.parent() == Some(&*blobs))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_small_regular_files_are_read() {
        let temp = tempfile::tempdir().expect("a folder");
        let at = |name: &str| temp.path().join(name);
        assert!(read(&at("none"), 4).expect("no error").is_none());
        std::fs::write(at("small"), "1234").expect("written");
        assert_eq!(read_text(&at("small"), 4).expect("read").as_deref(), Some("1234"));
        let refused = |path: &Path, words: &str| {
            let error = read_text(path, 3).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        };
        refused(&at("small"), "more than 3 bytes");
        symlink("/dev/zero", at("endless")).expect("linked");
        refused(&at("endless"), "leads out of the model's folder");
        std::fs::create_dir(at("folder")).expect("made");
        refused(&at("folder"), "not a regular file");
        let pipe = std::process::Command::new("mkfifo").arg(at("pipe")).status();
        if pipe.is_ok_and(|status| status.success()) {
            refused(&at("pipe"), "not a regular file");
        }
        std::fs::write(at("bytes"), [0xff]).expect("written");
        refused(&at("bytes"), "not UTF-8");
    }

    /// Whether `path` is read, refused as a link out of its folder, or treated as missing.
    fn outcome(path: &Path) -> &'static str {
        match read(path, 100) {
            Ok(Some(_)) => "read",
            Ok(None) => "absent",
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("leads out"), "{error}");
                "refused"
            }
        }
    }

    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let temp = tempfile::tempdir().expect("a folder");
        let at = |name: &str| temp.path().join(name);
        for folder in ["model", "other", "private/additional_chat_templates"] {
            std::fs::create_dir_all(at(folder)).expect("made");
        }
        for file in
            ["secret", "other/config.json", "model/own", "private/additional_chat_templates/x"]
        {
            std::fs::write(at(file), "text").expect("written");
        }
        for (name, target) in [
            ("absolute", at("secret")),
            ("relative", "../secret".into()),
            ("neighbour", "../other/config.json".into()),
            ("inside", "own".into()),
            ("round", "../model/own".into()),
            ("chain", "absolute".into()),
            ("dangling", "../nothing".into()),
            ("additional_chat_templates", at("private/additional_chat_templates")),
        ] {
            symlink(target, at("model").join(name)).expect("linked");
        }
        for (name, wanted) in [
            ("own", "read"),
            ("inside", "read"),
            ("round", "read"),
            ("absolute", "refused"),
            ("relative", "refused"),
            ("neighbour", "refused"),
            ("chain", "refused"),
            ("dangling", "absent"),
            ("own/below", "absent"),
            ("additional_chat_templates/x", "refused"),
        ] {
            assert_eq!(outcome(&at("model").join(name)), wanted, "{name}");
        }
        // A link to the whole folder is its owner's choice and does not change the checks inside.
        symlink(at("model"), at("linked")).expect("linked");
        assert_eq!(outcome(&at("linked/own")), "read");
        assert_eq!(outcome(&at("linked/relative")), "refused");
    }

    #[test]
    fn a_snapshot_of_the_hubs_cache_links_to_its_own_blobs() {
        let temp = tempfile::tempdir().expect("a folder");
        let at = |name: &str| temp.path().join(name);
        for repo in ["models--a--b", "models--c--d"] {
            for folder in ["blobs", "snapshots/1/additional_chat_templates"] {
                std::fs::create_dir_all(at(repo).join(folder)).expect("made");
            }
            std::fs::write(at(repo).join("blobs/f00d"), "text").expect("written");
            std::fs::write(at(repo).join("token"), "text").expect("written");
        }
        std::fs::create_dir_all(at("models--a--b/blobs/deeper")).expect("made");
        std::fs::write(at("models--a--b/blobs/deeper/f00d"), "text").expect("written");
        let snapshot = at("models--a--b/snapshots/1");
        for (name, target, wanted) in [
            ("config.json", "../../blobs/f00d", "read"),
            ("additional_chat_templates/tool_use.jinja", "../../../blobs/f00d", "read"),
            ("other_repository", "../../../models--c--d/blobs/f00d", "refused"),
            ("beside", "../../token", "refused"),
            ("below", "../../blobs/deeper/f00d", "refused"),
        ] {
            symlink(target, snapshot.join(name)).expect("linked");
            assert_eq!(outcome(&snapshot.join(name)), wanted, "{name}");
        }
        symlink(&snapshot, at("linked")).expect("linked");
        assert_eq!(outcome(&at("linked/config.json")), "read");
        // If the blobs folder is itself a link, it counts as another folder.
        std::fs::rename(at("models--a--b/blobs"), at("moved")).expect("moved");
        symlink(at("moved"), at("models--a--b/blobs")).expect("linked");
        assert_eq!(outcome(&snapshot.join("config.json")), "refused");
    }
}
