//! Opening files that somebody else may have replaced by something else. A pipe would hold whoever opens
//! it until another process does, a device may never end: only regular files, and links to them, are
//! opened, and never by waiting.

use std::fs::{self, File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Whether a link in the file's own place may lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// People keep such files elsewhere: configuration, keys, certificates.
    Followed,
    /// Only we write the file, so that a link there is not ours.
    Refused,
}

/// Opens a regular file without waiting.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] when there is something else; otherwise what the system says.
pub fn open(path: &Path, options: &mut OpenOptions, links: Links) -> io::Result<File> {
    let look = match links {
        Links::Followed => fs::metadata(path),
        Links::Refused => fs::symlink_metadata(path),
    };
    // Opening a device can already have an effect, so it is looked at before.
    match look {
        Ok(data) => check(data.file_type())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    if links == Links::Refused {
        flags |= OFlags::NOFOLLOW;
    }
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    // It may have been replaced in between.
    check(file.metadata()?.file_type())?;
    Ok(file)
}

/// Opens a regular file, or a link to one, for reading.
///
/// # Errors
/// As [`open`].
pub fn open_to_read(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true), Links::Followed)
}

/// A regular file's content, of at most `max_bytes`.
///
/// # Errors
/// As [`open`], and [`io::ErrorKind::FileTooLarge`] when it is longer.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Vec<u8>> {
    read_from(open_to_read(path)?, max_bytes)
}

/// The same of an open file.
///
/// # Errors
/// As [`read`].
pub fn read_from(file: File, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One more, so that a longer file is noticed.
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let what = format!("it has more than {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

/// A regular file's text, of at most `max_bytes`.
///
/// # Errors
/// As [`read`], and [`io::ErrorKind::InvalidData`] when it is not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<String> {
    text(read(path, max_bytes)?)
}

/// Bytes as text.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when they are not UTF-8.
pub fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Whether an error of this module says that there is something other than a regular file.
pub fn is_other_kind(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

fn check(kind: FileType) -> io::Result<()> {
    let what = match kind {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symbolic link",
        kind if kind.is_fifo() => "a named pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let what = format!("it is {what}, not a regular file: remove it or put the file in its place");
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn refused(path: &Path, links: Links, words: &str) {
        let mut reading = OpenOptions::new();
        let mut appending = OpenOptions::new();
        let mut both = OpenOptions::new();
        reading.read(true);
        appending.create(true).append(true);
        both.read(true).write(true).create(true);
        for options in [&mut reading, &mut appending, &mut both] {
            let error = open(path, options, links).unwrap_err();
            assert!(is_other_kind(&error) && error.to_string().contains(words), "{error}");
        }
    }

    #[test]
    fn only_regular_files_are_opened_and_nothing_waits() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        let made = std::process::Command::new("mkfifo").arg(at("pipe")).status();
        assert!(made.unwrap().success());
        let _listener = UnixListener::bind(at("socket")).unwrap();
        fs::write(at("file"), "12345").unwrap();
        for (link, target) in [
            ("to-file", "file"),
            ("to-pipe", "pipe"),
            ("to-device", "/dev/zero"),
            ("circle", "circle"),
        ] {
            symlink(target, at(link)).unwrap();
        }
        for links in [Links::Followed, Links::Refused] {
            refused(&at("pipe"), links, "a named pipe");
            refused(&at("socket"), links, "a socket");
            refused(temp.path(), links, "a directory");
            refused(Path::new("/dev/zero"), links, "a device");
        }
        refused(&at("to-pipe"), Links::Followed, "a named pipe");
        refused(&at("to-device"), Links::Followed, "a device");
        refused(&at("to-file"), Links::Refused, "a symbolic link");
        assert!(open_to_read(&at("circle")).is_err());
        assert_eq!(open_to_read(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read_text(&at("to-file"), 5).unwrap(), "12345");
        let error = read(&at("file"), 4).unwrap_err();
        assert!(error.to_string().contains("more than 4 bytes"), "{error}");
        fs::write(at("file"), [0xff]).unwrap();
        assert!(read_text(&at("file"), 5).unwrap_err().to_string().contains("UTF-8"));
    }
}
