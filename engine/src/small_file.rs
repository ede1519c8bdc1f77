//! Reading the small files of a model folder, which is not trusted: a file may be larger than memory,
//! or be no file at all and never end.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::error::LoadError;

/// Reads a file of at most `max_bytes`; `None` when there is none.
///
/// # Errors
/// When it is larger, is no regular file, or cannot be read.
pub(crate) fn read(path: &Path, max_bytes: u64) -> Result<Option<Vec<u8>>, LoadError> {
    if !check_regular(path)? {
        return Ok(None);
    }
    let io = |source| LoadError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // One more, so that what grows while it is read is noticed as well.
    File::open(path).map_err(io)?.take(max_bytes + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > max_bytes {
        let what = format!("it has more than {max_bytes} bytes");
        return Err(LoadError::Invalid { path: path.to_owned(), what });
    }
    Ok(Some(bytes))
}

/// The same as text.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<Option<String>, LoadError> {
    let text = read(path, max_bytes)?.map(String::from_utf8).transpose();
    text.map_err(|_| LoadError::Invalid {
        path: path.to_owned(),
        what: "it is not UTF-8".to_owned(),
    })
}

/// Whether there is a regular file, or a link to one. Opening a pipe would wait for ever.
///
/// # Errors
/// When it is something else, or cannot be looked at.
pub(crate) fn check_regular(path: &Path) -> Result<bool, LoadError> {
    match std::fs::metadata(path) {
        Ok(data) if data.is_file() => Ok(true),
        Ok(_) => {
            let what = "it is not a regular file".to_owned();
            Err(LoadError::Invalid { path: path.to_owned(), what })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(LoadError::Io { path: path.to_owned(), source }),
    }
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
        refused(&at("endless"), "not a regular file");
        refused(temp.path(), "not a regular file");
        let pipe = std::process::Command::new("mkfifo").arg(at("pipe")).status();
        if pipe.is_ok_and(|status| status.success()) {
            refused(&at("pipe"), "not a regular file");
        }
        std::fs::write(at("bytes"), [0xff]).expect("written");
        refused(&at("bytes"), "not UTF-8");
    }
}
