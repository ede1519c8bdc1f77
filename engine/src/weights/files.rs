//! Determines which files of a folder or a repository hold a model's weights.
//!
//! mlx-lm reads every `model*.safetensors` and ignores the index. transformers reads
//! `model.safetensors` if it exists, else the files that the index names. Models that both can load
//! are loaded here too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::error::LoadError;
use crate::limits;
use crate::small_file;

/// The index of shards.
const INDEX_FILE: &str = "model.safetensors.index.json";
/// The name of a weight file that is not sharded.
const WHOLE: &str = "model.safetensors";

/// The files of a model's weights.
#[derive(Debug, PartialEq, Eq)]
pub struct WeightFiles {
    /// The files of the model, in the order in which they are read.
    pub needed: Vec<String>,
    /// Other files, which mlx-lm reads too. They may have a tensor that is missing in the needed
    /// files.
    pub spare: Vec<String>,
}

/// Why no files were found.
#[derive(Debug, PartialEq, Eq)]
pub enum NoWeightFiles {
    /// There is no safetensors file.
    None,
    /// The index names this file, which does not exist.
    Missing(String),
    /// The index cannot be read.
    Index(String),
}

/// Chooses among the `names` of the files in a folder. `index`: the text of
/// `model.safetensors.index.json`, if it exists. An index that names none of the existing files is
/// stale and is ignored if `model.safetensors` or a complete set of shards exists.
///
/// # Errors
/// If there are no weights, or a part of them is missing.
pub fn choose_weight_files<'a>(
    names: impl IntoIterator<Item = &'a str>,
    index: Option<&[u8]>,
) -> Result<WeightFiles, NoWeightFiles> {
    let is_weights = |name: &&str| name.ends_with(".safetensors") && !name.starts_with('.');
    let mut names: BTreeSet<&str> = names.into_iter().filter(is_weights).collect();
    if names.iter().any(|name| name.starts_with("model")) {
        names.retain(|name| name.starts_with("model"));
    }
    let complete = complete_set(&names);
    let named = match index.map(indexed).transpose() {
        Ok(named) => named.unwrap_or_default(),
        Err(_) if complete.is_some() => BTreeSet::new(),
        Err(error) => return Err(NoWeightFiles::Index(error)),
    };
    let missing = named.iter().find(|name| !names.contains(name.as_str()));
    let is_stale = named.iter().all(|name| !names.contains(name.as_str())) && complete.is_some();
    let first: BTreeSet<&str> = match missing {
        Some(missing) if !is_stale => return Err(NoWeightFiles::Missing(missing.clone())),
        None if !named.is_empty() => {
            // The index may name only a part of a set; all its shards are needed.
            let sets: BTreeSet<u32> =
                named.iter().filter_map(|name| Some(shard(name)?.1)).collect();
            let of_set = |name: &&&str| {
                named.contains(**name) || shard(name).is_some_and(|(_, of)| sets.contains(&of))
            };
            names.iter().filter(of_set).copied().collect()
        }
        _ => {
            let first = complete.unwrap_or_else(|| names.clone());
            let unnumbered = names.iter().filter(|name| **name != WHOLE && shard(name).is_none());
            let mut needed: Vec<&str> = first.iter().copied().collect();
            needed.extend(unnumbered.filter(|name| !first.contains(*name)));
            return found(needed, &names);
        }
    };
    found(first.into_iter().collect(), &names)
}

fn found(needed: Vec<&str>, names: &BTreeSet<&str>) -> Result<WeightFiles, NoWeightFiles> {
    if needed.is_empty() {
        return Err(NoWeightFiles::None);
    }
    let spare = names.iter().filter(|name| !needed.contains(name));
    let spare = spare.map(|name| (*name).to_owned()).collect();
    Ok(WeightFiles { needed: needed.into_iter().map(str::to_owned).collect(), spare })
}

/// `model.safetensors`, else the smallest complete set `model-00001-of-0000N`.
fn complete_set<'a>(names: &BTreeSet<&'a str>) -> Option<BTreeSet<&'a str>> {
    if let Some(whole) = names.get(WHOLE) {
        return Some(BTreeSet::from([*whole]));
    }
    let mut sets: BTreeMap<u32, BTreeMap<u32, &str>> = BTreeMap::new();
    for name in names {
        if let Some((number, of)) = shard(name) {
            sets.entry(of).or_default().insert(number, name);
        }
    }
    let complete = |(of, shards): &(u32, BTreeMap<u32, &str>)| {
        *of > 0 && shards.len() == *of as usize && shards.keys().eq(&(1..=*of).collect::<Vec<_>>())
    };
    let (_, shards) = sets.into_iter().find(complete)?;
    Some(shards.into_values().collect())
}

/// The 2 and the 3 of `model-00002-of-00003.safetensors`.
fn shard(name: &str) -> Option<(u32, u32)> {
    let numbers = name.strip_prefix("model-")?.strip_suffix(".safetensors")?;
    let (number, of) = numbers.split_once("-of-")?;
    Some((number.parse().ok()?, of.parse().ok()?))
}

fn indexed(text: &[u8]) -> Result<BTreeSet<String>, String> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    match serde_json::from_slice::<Index>(text) {
        Ok(index) => Ok(index.weight_map.into_values().collect()),
        Err(error) => Err(format!("it is not an index of shards{}", json_place(&error))),
    }
}

/// The paths of a folder's needed and spare files.
pub(super) fn weight_files(dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), LoadError> {
    let io = |source| LoadError::Io { path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        // A name that is not UTF-8 is not a weight file.
        names.extend(entry.map_err(io)?.file_name().into_string());
    }
    let index_path = dir.join(INDEX_FILE);
    let index = small_file::read(&index_path, limits::WEIGHTS_INDEX_BYTES)?;
    let chosen = choose_weight_files(names.iter().map(String::as_str), index.as_deref());
    let chosen = chosen.map_err(|error| match error {
        NoWeightFiles::None => LoadError::Missing {
            path: dir.join(WHOLE),
            hint: "the model's weights; is the download complete?",
        },
        NoWeightFiles::Missing(name) => match Path::new(&name).file_name() {
            Some(plain) if plain == name.as_str() => {
                LoadError::Missing { path: dir.join(&name), hint: "a shard that the index names" }
            }
            _ => LoadError::Invalid {
                path: index_path,
                what: format!("\"{name}\" is not a plain file name"),
            },
        },
        NoWeightFiles::Index(what) => LoadError::Invalid { path: index_path, what },
    })?;
    let paths = |names: Vec<String>| names.iter().map(|name| dir.join(name)).collect();
    Ok((paths(chosen.needed), paths(chosen.spare)))
}

/// The position of a JSON error. The text at that position is not reported, because the file may
/// not be a weight file at all.
pub(crate) fn json_place(error: &serde_json::Error) -> String {
    match error.line() {
        0 => String::new(),
        line => format!(" (line {line}, column {})", error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(names: &[&str]) -> String {
        let map: BTreeMap<String, &str> =
            names.iter().enumerate().map(|(i, name)| (format!("tensor{i}"), *name)).collect();
        serde_json::json!({ "weight_map": map }).to_string()
    }

    /// The needed files, then the spare ones after a `|`.
    fn chosen(names: &[&str], index: Option<&str>) -> String {
        let chosen = choose_weight_files(names.iter().copied(), index.map(str::as_bytes));
        match chosen {
            Ok(WeightFiles { needed, spare }) => {
                let short = |names: Vec<String>| names.join(" ").replace(".safetensors", "");
                format!("{} | {}", short(needed), short(spare)).trim_end_matches(" | ").to_owned()
            }
            Err(error) => format!("{error:?}").replace(".safetensors", ""),
        }
    }

    const ONE: &str = "model-00001-of-00002.safetensors";
    const TWO: &str = "model-00002-of-00002.safetensors";
    const OLD: &str = "model-00001-of-00003.safetensors";

    #[test]
    fn a_stale_index_does_not_count_and_a_torn_set_is_an_error() {
        let both = index(&[ONE, TWO]);
        let shards = "model-00001-of-00002 model-00002-of-00002";
        for (names, index, wanted) in [
            (&[WHOLE][..], Some(&*both), "model"),
            (&[WHOLE], Some(r#"{"weight_map": {}}"#), "model"),
            (&[WHOLE], Some("cut sho"), "model"),
            (&[WHOLE], Some(&*index(&["/etc/passwd", "../x.safetensors"])), "model"),
            (&[ONE, TWO], Some(&*index(&[OLD])), shards),
            (&[WHOLE, ONE], Some(&both), "Missing(\"model-00002-of-00002\")"),
            (&[ONE], Some(&both), "Missing(\"model-00002-of-00002\")"),
            (&[], Some(&both), "Missing(\"model-00001-of-00002\")"),
            (&[ONE], Some(&*index(&["../x.safetensors"])), "Missing(\"../x\")"),
            (
                &["x.safetensors"],
                Some("[]"),
                "Index(\"it is not an index of shards (line 1, column 2)\")",
            ),
            (&["model.gguf", ".hidden.safetensors"], None, "None"),
        ] {
            assert_eq!(chosen(names, index), wanted, "{names:?}, {index:?}");
        }
    }

    #[test]
    fn other_sets_of_files_are_spare() {
        let both = index(&[ONE, TWO]);
        for (names, index, wanted) in [
            (
                &[ONE, TWO, WHOLE, "consolidated.safetensors"][..],
                Some(&*both),
                "model-00001-of-00002 model-00002-of-00002 | model",
            ),
            (&[ONE, TWO], Some(&*index(&[ONE])), "model-00001-of-00002 model-00002-of-00002"),
            (&[ONE, TWO, WHOLE], None, "model | model-00001-of-00002 model-00002-of-00002"),
            (
                &[OLD, ONE, TWO],
                None,
                "model-00001-of-00002 model-00002-of-00002 | model-00001-of-00003",
            ),
            (&["model-b.safetensors", "model-a.safetensors"], None, "model-a model-b"),
            (&["model-b.safetensors", WHOLE], None, "model model-b"),
            (&["b.safetensors", "a.safetensors"], None, "a b"),
        ] {
            assert_eq!(chosen(names, index), wanted, "{names:?}, {index:?}");
        }
    }
}
