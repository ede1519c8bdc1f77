//! The file of API keys: one a line, its name behind it, lines that begin with `#` for people. The key
//! that omlxctl itself uses stands there as it is; those that were added are hashed.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::auth::{self, TAIL_CHARS, Written};
use crate::home::{self, HomeError};
use crate::limits::{KEY_FILE_BYTES, KEY_NAME_BYTES};

/// One change at a time: each reads the file and writes it anew.
static CHANGE: Mutex<()> = Mutex::new(());

/// A key of the file, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// What stands behind it.
    pub(crate) name: String,
    /// Its last characters.
    pub(crate) tail: String,
    /// Whether only its digest is there.
    pub(crate) is_hashed: bool,
}

/// Why the keys stay as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    /// The file cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// Not a name.
    #[error(
        "{0:?} is not a name for a key: it takes 1 to 64 of A-Z, a-z, 0-9, '.', '_', '-' and '@'"
    )]
    BadName(String),
    /// There is one already.
    #[error("there is a key called {0}: choose another name, or `omlxctl key revoke {0}` first")]
    Exists(String),
    /// There is none.
    #[error("no key is called {0} or ends so: `omlxctl key list` shows them")]
    Unknown(String),
    /// There are several.
    #[error("several keys are called {0} or end so: edit the key file, then send omlxd a SIGHUP")]
    Several(String),
    /// Without it nobody could call.
    #[error("{0} is the only key: `omlxctl key rotate` replaces it, or add another one first")]
    Last(String),
    /// omlxctl would have none.
    #[error(
        "{0} is the key that omlxctl itself uses, and the others are hashed: `omlxctl key rotate` replaces \
         all of them"
    )]
    Own(String),
    /// The file is full.
    #[error("the key file has no room for another key")]
    Full,
}

/// The file's keys, in its order; the first is the one that `omlxctl` uses itself.
///
/// # Errors
/// When the file cannot be used.
pub(crate) fn list(path: &Path) -> Result<Vec<Known>, KeyError> {
    let text = home::read_keys(path)?;
    Ok(text.lines().filter_map(known).collect())
}

/// Makes a key of this name and gives it.
///
/// # Errors
/// See [`KeyError`]; the file then stays as it was.
pub(crate) fn add(path: &Path, name: &str) -> Result<String, KeyError> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
    if name.is_empty() || name.len() > KEY_NAME_BYTES || !name.bytes().all(is_name) {
        return Err(KeyError::BadName(name.to_owned()));
    }
    let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = home::read_keys(path)?;
    if text.lines().filter_map(known).any(|known| known.name == name) {
        return Err(KeyError::Exists(name.to_owned()));
    }
    let key = home::new_key(path)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("{} {name}\n", auth::hashed(&key)));
    if text.len() as u64 > KEY_FILE_BYTES {
        return Err(KeyError::Full);
    }
    home::replace_private(path, text.as_bytes())?;
    Ok(key)
}

/// Removes the key of this name, or that ends so. Gives what is known of it.
///
/// # Errors
/// See [`KeyError`]; the file then stays as it was.
pub(crate) fn revoke(path: &Path, which: &str) -> Result<Known, KeyError> {
    let _change = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    let text = home::read_keys(path)?;
    let is_meant = |key: &Known| key.name == which || key.tail == which;
    let mut meant = text.lines().filter_map(known).filter(is_meant);
    let Some(found) = meant.next() else { return Err(KeyError::Unknown(which.to_owned())) };
    if meant.next().is_some() {
        return Err(KeyError::Several(which.to_owned()));
    }
    if text.lines().filter_map(known).count() == 1 {
        return Err(KeyError::Last(which.to_owned()));
    }
    if !found.is_hashed && text.lines().filter_map(known).filter(|key| !key.is_hashed).count() == 1
    {
        return Err(KeyError::Own(which.to_owned()));
    }
    let left = text.lines().filter(|line| known(line).as_ref() != Some(&found));
    let left: String = left.flat_map(|line| [line, "\n"]).collect();
    home::replace_private(path, left.as_bytes())?;
    Ok(found)
}

/// The key of a line, if it has one.
fn known(line: &str) -> Option<Known> {
    if line.trim_start().starts_with('#') {
        return None;
    }
    let line = line.trim();
    let (key, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if key.is_empty() {
        return None;
    }
    let (tail, is_hashed) = match Written::read(key)? {
        Written::Plain(key) => (&key[key.len().saturating_sub(TAIL_CHARS)..], false),
        Written::Hashed { tail, .. } => (tail, true),
    };
    Some(Known { name: name.trim().to_owned(), tail: tail.to_owned(), is_hashed })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_come_and_go_and_comments_stay() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("api-key");
        let first = home::api_key(&path).unwrap();
        let text = format!("# mine\n{first}");
        home::replace_private(&path, text.as_bytes()).unwrap();
        let tail = first[first.len() - 4..].to_owned();
        assert!(matches!(revoke(&path, &tail), Err(KeyError::Last(_))));
        let laptop = add(&path, "laptop").unwrap();
        assert!(matches!(add(&path, "laptop"), Err(KeyError::Exists(_))));
        for bad in ["", "a b", "a\nb", "#", &"x".repeat(65)] {
            assert!(matches!(add(&path, bad), Err(KeyError::BadName(_))), "{bad:?}");
        }
        let hashed = auth::hashed(&laptop);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{text}\n{hashed} laptop\n"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let names: Vec<String> = list(&path).unwrap().into_iter().map(|key| key.name).collect();
        assert_eq!(names, ["", "laptop"]);
        assert!(matches!(revoke(&path, "desktop"), Err(KeyError::Unknown(_))));
        assert!(matches!(revoke(&path, &tail), Err(KeyError::Own(_))), "omlxctl needs it");
        assert_eq!(home::api_key(&path).unwrap(), first);
        let shown = laptop[laptop.len() - 4..].to_owned();
        assert_eq!(revoke(&path, &shown).unwrap().name, "laptop", "by its end");
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{text}\n"));
        // Several that people wrote themselves.
        home::replace_private(&path, format!("{first}\n{laptop} two\n").as_bytes()).unwrap();
        assert_eq!(revoke(&path, &tail).unwrap().tail, tail);
        assert_eq!(home::api_key(&path).unwrap(), laptop);
    }

    #[test]
    fn a_key_name_at_its_limit() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("api-key");
        home::api_key(&path).unwrap();
        assert!(add(&path, &"x".repeat(KEY_NAME_BYTES)).is_ok());
        let long = add(&path, &"x".repeat(KEY_NAME_BYTES + 1));
        assert!(matches!(long, Err(KeyError::BadName(_))));
    }

    #[test]
    fn a_full_file_stays_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("api-key");
        let key = home::api_key(&path).unwrap();
        let text = format!("{key}\n#{}\n", "x".repeat(KEY_FILE_BYTES as usize - key.len() - 10));
        home::replace_private(&path, text.as_bytes()).unwrap();
        assert!(matches!(add(&path, "more"), Err(KeyError::Full)));
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
