//! Names of files and folders under the root.
//!
//! ```text
//! lock                       held while the store is open; names the process
//! index/snapshot-G, log-G    the index, generation G
//! blocks/NAMESPACE/X/KEY     published records; X is the key's first digit
//! tmp/N                      records being written
//! damaged/NAMESPACE.KEY      records that failed their checks; removed first to free space
//! foreign/N.NAME             unknown files found in the store; counted, never deleted
//! ```

use crate::key::{Key, Namespace};
use crate::layout::index::Role;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

pub(crate) const BLOCKS: &str = "blocks";
pub(crate) const TMP: &str = "tmp";
pub(crate) const INDEX: &str = "index";
pub(crate) const DAMAGED: &str = "damaged";
pub(crate) const FOREIGN: &str = "foreign";

/// Folders that every store has.
pub(crate) const TOP: [&str; 5] = [BLOCKS, TMP, INDEX, DAMAGED, FOREIGN];

pub(crate) fn space_dir(namespace: &Namespace) -> PathBuf {
    Path::new(BLOCKS).join(namespace.to_string())
}

/// The folder of a namespace's records that share a first digit. With sixteen folders, each stays
/// searchable at a hundred thousand files; more folders would mean a new folder for almost every
/// record of a small store.
pub(crate) fn fan_dir(namespace: &Namespace, key: &Key) -> PathBuf {
    space_dir(namespace).join(fan_name(fan(key)))
}

/// The first digit of a key.
pub(crate) fn fan(key: &Key) -> u8 {
    key.0[0] >> 4
}

pub(crate) fn fan_name(fan: u8) -> String {
    format!("{fan:x}")
}

pub(crate) fn block(namespace: &Namespace, key: &Key) -> PathBuf {
    fan_dir(namespace, key).join(key.to_string())
}

pub(crate) fn damaged(namespace: &Namespace, key: &Key) -> PathBuf {
    Path::new(DAMAGED).join(format!("{namespace}.{key}"))
}

/// True for the file names that [`damaged`] returns.
pub(crate) fn is_damaged(name: &OsStr) -> bool {
    name.to_str().and_then(|name| name.split_once('.')).is_some_and(|(namespace, key)| {
        Namespace::from_hex(namespace).is_some() && Key::from_hex(key).is_some()
    })
}

/// True for the file names that [`temporary`] returns.
pub(crate) fn is_temporary(name: &OsStr) -> bool {
    let digits = name.to_str().unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

pub(crate) fn temporary(number: u64) -> PathBuf {
    Path::new(TMP).join(number.to_string())
}

pub(crate) fn index(role: Role, generation: u64) -> PathBuf {
    let name = match role {
        Role::Snapshot => "snapshot",
        Role::Log => "log",
    };
    Path::new(INDEX).join(format!("{name}-{generation}"))
}

/// Parses a file name that [`index`] made.
pub(crate) fn parse_index(name: &OsStr) -> Option<(Role, u64)> {
    let (name, generation) = name.to_str()?.split_once('-')?;
    let role = match name {
        "snapshot" => Role::Snapshot,
        "log" => Role::Log,
        _ => return None,
    };
    Some((role, generation.parse().ok()?))
}

/// Parses a folder name that [`fan_name`] made.
pub(crate) fn parse_fan(name: &OsStr) -> Option<u8> {
    (0..16).find(|fan| name == fan_name(*fan).as_str())
}
