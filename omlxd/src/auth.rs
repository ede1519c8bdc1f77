//! Who may call the API. Authorization is a value: a handler that needs it takes an [`ApiCaller`],
//! and only [`Keys::api_caller`] makes one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use hyper::header::{self, HeaderMap};
use omlxctl::files;
use subtle::{Choice, ConstantTimeEq};

use crate::limits::KEY_FILE_BYTES;

/// Which key a request came with: the same for as long as the key lives, wherever its line stands in the
/// file, and nothing that the key could be told from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 32]);

impl KeyId {
    fn of(digest: &[u8; 32]) -> Self {
        KeyId(blake3::derive_key("omlx 2026-11 stored answers of a key", digest))
    }

    /// The id of a key of this text, for tests.
    #[cfg(test)]
    pub(crate) fn of_key(key: &str) -> Self {
        KeyId::of(&digest(key))
    }
}

/// Proof that a request came with a valid key, or that no key is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiCaller {
    /// `None` when keys are switched off.
    key: Option<KeyId>,
    salt: Option<[u8; 32]>,
}

impl ApiCaller {
    /// What keeps the cached prompts of this caller's key apart from those of every other key, one that
    /// it replaced included. `None` when keys are switched off.
    pub fn salt(&self) -> Option<String> {
        self.salt.map(|salt| blake3::Hash::from_bytes(salt).to_hex().to_string())
    }

    /// A name for whose request it is: of stored answers, and where requests take turns. It tells nothing
    /// of the key and stays the same for as long as the key does.
    pub fn tenant(&self) -> String {
        match self.key {
            Some(KeyId(id)) => blake3::Hash::from_bytes(id).to_hex()[..32].to_owned(),
            None => "open".to_owned(),
        }
    }

    /// Which key it was; `None` when keys are switched off.
    pub fn key(&self) -> Option<KeyId> {
        self.key
    }
}

/// Why a request is not authorized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// It named no key.
    Missing,
    /// It named a key that is not one of ours.
    Invalid {
        /// At most its last four characters, and only of a key long enough to stay secret.
        tail: String,
    },
}

/// The API keys. They are held as digests: comparing takes the same time whatever was sent, and the
/// keys themselves are not kept in memory.
#[derive(Debug)]
pub struct Keys {
    /// `None`: no key is needed.
    file: Option<PathBuf>,
    digests: RwLock<Arc<[[u8; 32]]>>,
}

impl Keys {
    /// Reads a key file: one key a line; empty lines and lines that begin with `#` are skipped, and
    /// so is what follows a key on its line.
    ///
    /// # Errors
    /// When the file cannot be read, or holds no key.
    pub fn from_file(path: &Path) -> io::Result<Self> {
        let digests = read(path)?;
        Ok(Keys { file: Some(path.to_owned()), digests: RwLock::new(digests) })
    }

    /// Lets everyone in, for `auth.enabled = false`.
    pub fn disabled() -> Self {
        Keys { file: None, digests: RwLock::new(Arc::new([])) }
    }

    /// Reads the file again, after keys were rotated, added or revoked. The old keys stay when the
    /// file is not usable.
    ///
    /// # Errors
    /// As [`Keys::from_file`].
    pub fn reload(&self) -> io::Result<()> {
        if let Some(path) = &self.file {
            let digests = read(path)?;
            *self.digests.write().unwrap_or_else(PoisonError::into_inner) = digests;
        }
        Ok(())
    }

    /// Whether a key is needed.
    pub fn required(&self) -> bool {
        self.file.is_some()
    }

    /// Checks `Authorization: Bearer` and `x-api-key`; one valid key is enough.
    ///
    /// # Errors
    /// When neither holds one of the keys.
    pub fn api_caller(&self, headers: &HeaderMap) -> Result<ApiCaller, Denied> {
        if !self.required() {
            return Ok(ApiCaller { key: None, salt: None });
        }
        let bearer = headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| {
            let (scheme, key) = split_scheme(value.as_bytes());
            scheme.eq_ignore_ascii_case(b"bearer").then_some(key)
        });
        let presented: Vec<&[u8]> = bearer
            .chain(headers.get_all("x-api-key").iter().map(|value| value.as_bytes()))
            .filter(|key| !key.is_empty())
            .collect();
        let digests = self.digests.read().unwrap_or_else(PoisonError::into_inner).clone();
        match presented.iter().find_map(|key| position(&digests, key)) {
            Some(key) => {
                let salt = blake3::derive_key("omlx 2026-11 cache salt of a key", &digests[key]);
                Ok(ApiCaller { key: Some(KeyId::of(&digests[key])), salt: Some(salt) })
            }
            None => Err(match presented.first() {
                Some(key) => Denied::Invalid { tail: tail(key) },
                None => Denied::Missing,
            }),
        }
    }
}

/// What the beginning of a line says when the rest is not the key itself.
const HASHED: &str = "blake3:";

/// How a key is written that nobody needs to read again: its digest, and its end for people. The
/// digest is a plain one: a key is 256 random bits, which no list of guesses finds.
pub(crate) fn hashed(key: &str) -> String {
    let end = key.len().saturating_sub(TAIL_CHARS);
    format!("{HASHED}{}:{}", blake3::hash(key.as_bytes()).to_hex(), &key[end..])
}

/// How much of a key's end is shown.
pub(crate) const TAIL_CHARS: usize = 4;

/// A key as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Written<'a> {
    /// The key.
    Plain(&'a str),
    /// Only what is needed to know it again.
    Hashed {
        /// Its digest.
        digest: [u8; 32],
        /// Its last characters.
        tail: &'a str,
    },
}

impl<'a> Written<'a> {
    /// Reads the first word of a line; `None` for a digest that is none.
    pub(crate) fn read(word: &'a str) -> Option<Self> {
        let Some(rest) = word.strip_prefix(HASHED) else { return Some(Written::Plain(word)) };
        let (digest, tail) = rest.split_once(':')?;
        let digest = *blake3::Hash::from_hex(digest).ok()?.as_bytes();
        Some(Written::Hashed { digest, tail })
    }

    fn digest(&self) -> [u8; 32] {
        match self {
            Written::Plain(key) => digest(key),
            Written::Hashed { digest, .. } => *digest,
        }
    }
}

fn read(path: &Path) -> io::Result<Arc<[[u8; 32]]>> {
    let text = files::read_text(path, KEY_FILE_BYTES)?;
    let keys = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let digests: Arc<[[u8; 32]]> = keys
        .filter_map(|line| Written::read(line.split_whitespace().next()?))
        .map(|key| key.digest())
        .collect();
    if digests.is_empty() {
        let what = "the key file holds no key; 'omlxctl key rotate' writes one";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(digests)
}

fn digest(key: &str) -> [u8; 32] {
    *blake3::hash(key.as_bytes()).as_bytes()
}

/// Which digest is that of `key`. All of them are compared, each in constant time.
fn position(digests: &[[u8; 32]], key: &[u8]) -> Option<usize> {
    let presented = *blake3::hash(key).as_bytes();
    let mut found = Choice::from(0);
    let mut position = 0;
    for (index, digest) in digests.iter().enumerate() {
        let equal = digest.ct_eq(&presented);
        found |= equal;
        position |= index * usize::from(equal.unwrap_u8());
    }
    bool::from(found).then_some(position)
}

fn split_scheme(value: &[u8]) -> (&[u8], &[u8]) {
    match value.iter().position(|byte| *byte == b' ') {
        Some(space) => (&value[..space], value[space..].trim_ascii()),
        None => (value, &[]),
    }
}

fn tail(key: &[u8]) -> String {
    // Of a short key, four characters would be too much of it.
    let shown = if key.len() >= 16 { &key[key.len() - 4..] } else { &[] };
    shown.iter().map(|byte| if byte.is_ascii_graphic() { *byte as char } else { '*' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        headers
    }

    #[test]
    fn each_key_of_the_file_lets_in_by_both_headers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        std::fs::write(&path, "# mine\nsk-omlx-first-key-1234\n\nsk-omlx-second-key label\n")
            .unwrap();
        let keys = Keys::from_file(&path).unwrap();
        for (name, value, key) in [
            ("authorization", "Bearer sk-omlx-first-key-1234", "sk-omlx-first-key-1234"),
            ("authorization", "bearer  sk-omlx-second-key", "sk-omlx-second-key"),
            ("x-api-key", "sk-omlx-second-key", "sk-omlx-second-key"),
        ] {
            let caller = keys.api_caller(&headers(name, value)).unwrap();
            assert_eq!(caller.key(), Some(KeyId::of_key(key)), "{value}");
        }
        let salt = |key| keys.api_caller(&headers("x-api-key", key)).unwrap().salt().unwrap();
        assert_ne!(salt("sk-omlx-first-key-1234"), salt("sk-omlx-second-key"));
        assert_eq!(salt("sk-omlx-second-key"), salt("sk-omlx-second-key"));
        for (name, value, tail) in [
            ("authorization", "Bearer sk-omlx-wrong-key-9876", "9876"),
            ("authorization", "Bearer label", ""),
            ("x-api-key", "#", ""),
        ] {
            let denied = keys.api_caller(&headers(name, value)).unwrap_err();
            assert_eq!(denied, Denied::Invalid { tail: tail.to_owned() }, "{value}");
        }
        for value in ["Basic sk-omlx-first-key-1234", "Bearer", "Bearer "] {
            let denied = keys.api_caller(&headers("authorization", value)).unwrap_err();
            assert_eq!(denied, Denied::Missing, "{value}");
        }
    }

    #[test]
    fn a_rotated_key_counts_after_reload_and_a_broken_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        std::fs::write(&path, "old-key\n").unwrap();
        let keys = Keys::from_file(&path).unwrap();
        std::fs::write(&path, "new-key\n").unwrap();
        assert!(keys.api_caller(&headers("x-api-key", "new-key")).is_err());
        let old = keys.api_caller(&headers("x-api-key", "old-key")).unwrap();
        keys.reload().unwrap();
        assert!(keys.api_caller(&headers("x-api-key", "old-key")).is_err());
        let new = keys.api_caller(&headers("x-api-key", "new-key")).unwrap();
        // Even a lone key that replaced another lone one finds nothing of it.
        assert!(old.salt().is_some() && old.salt() != new.salt() && old.tenant() != new.tenant());
        std::fs::write(&path, "# none\n").unwrap();
        assert!(keys.reload().is_err());
        assert!(keys.api_caller(&headers("x-api-key", "new-key")).is_ok());
    }

    #[test]
    fn a_hashed_key_lets_in_and_its_line_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        let line = hashed("sk-omlx-of-the-laptop");
        assert!(!line.contains("laptop") && line.ends_with(":ptop"), "{line}");
        std::fs::write(&path, format!("{line} laptop\nblake3:12:ab broken\n")).unwrap();
        let keys = Keys::from_file(&path).unwrap();
        assert_eq!(
            keys.api_caller(&headers("x-api-key", "sk-omlx-of-the-laptop")).unwrap().key(),
            Some(KeyId::of_key("sk-omlx-of-the-laptop"))
        );
        for stolen in [line.as_str(), "blake3:12:ab", &line[7..71]] {
            assert!(keys.api_caller(&headers("x-api-key", stolen)).is_err(), "{stolen}");
        }
        assert_eq!(Written::read("blake3:12:ab"), None);
    }

    #[test]
    fn a_key_is_the_same_caller_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        let caller_of_b = |text: String| {
            std::fs::write(&path, text).unwrap();
            let keys = Keys::from_file(&path).unwrap();
            keys.api_caller(&headers("x-api-key", "key-b")).unwrap()
        };
        let alone = caller_of_b("key-b\n".to_owned());
        for text in [
            "key-a\nkey-b\nkey-c\n".to_owned(),
            "# none\n\nkey-c\nkey-b a name\n".to_owned(),
            format!("key-a\n{}\n", hashed("key-b")),
        ] {
            assert_eq!(caller_of_b(text), alone);
        }
        assert_ne!(KeyId::of_key("key-a"), KeyId::of_key("key-b"));
    }

    #[test]
    fn an_empty_key_file_lets_nobody_in() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        std::fs::write(&path, "\n").unwrap();
        assert!(Keys::from_file(&path).is_err());
    }
}
