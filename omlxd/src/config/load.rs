//! Putting a configuration together from its sources, and saying what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::value::shown;
use super::{Config, FromToml, KEYS, Key, MODEL_KEYS, Raw, SECTIONS, per_model};
use crate::limits::{CONFIG_MODELS, CONFIG_PROBLEMS, MODEL_NAME_BYTES};

/// Where values come from besides the defaults.
#[derive(Debug, Default)]
pub struct Sources {
    /// The configuration file, already read.
    pub file: Option<FileText>,
    /// The process's environment.
    pub env: Vec<(String, String)>,
    /// Command line flags.
    pub flags: Vec<Flag>,
}

/// A configuration file's text.
#[derive(Debug)]
pub struct FileText {
    /// Where it was read.
    pub path: PathBuf,
    /// What it holds.
    pub text: String,
}

/// A command line flag that sets a key.
#[derive(Debug)]
pub struct Flag {
    /// As it is typed: `--port`.
    pub flag: &'static str,
    /// The key that it sets: `server.port`.
    pub key: &'static str,
    /// The value as a TOML literal.
    pub value: toml::Value,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The built-in default.
    Default,
    /// A line of the configuration file.
    File {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A command line flag.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => write!(f, "default"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Env(name) => write!(f, "environment {name}"),
            Origin::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// One thing wrong with a configuration, shown on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub origin: Origin,
    /// The key as it was written; empty for a text that is not TOML.
    pub key: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            return write!(f, "{}: {}", self.origin, self.message);
        }
        write!(f, "{}: {}: {}", self.origin, self.key, self.message)
    }
}

/// An effective value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// `section.name`.
    pub key: String,
    /// The value as a TOML literal.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// A configuration that holds, with the origin of every value.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The typed values, paths absolute.
    pub config: Config,
    /// One entry for each key, in the order of the table; then those of `[models."<id>"]`.
    pub settings: Vec<Setting>,
}

/// Puts the configuration together.
///
/// # Errors
/// The problems of every source, in order of file, environment, flags; never just the first, and of a
/// great many the first [`CONFIG_PROBLEMS`].
pub fn load(base_dir: &Path, sources: &Sources) -> Result<Loaded, Vec<Problem>> {
    let mut loading = Loading::new(base_dir);
    if let Some(file) = &sources.file {
        loading.file(file);
    }
    for (name, value) in &sources.env {
        loading.env(name, value);
    }
    for flag in &sources.flags {
        let key = KEYS.iter().position(|key| key.path() == flag.key).expect("a flag names a key");
        loading.text(key, &flag.value.to_string(), Origin::Flag(flag.flag));
    }
    loading.finish()
}

/// The version of the file's format. It changes when a key comes to mean something else; a key that is
/// added or goes is told as any other.
pub(super) const VERSION: usize = 1;

struct Loading {
    config: Config,
    settings: Vec<Setting>,
    found: Vec<Found>,
}

/// A problem of which the message is made once it is known to be shown: there may be any number.
struct Found {
    origin: Origin,
    key: String,
    what: What,
}

enum What {
    /// All that there is to say.
    Said(String),
    /// No section has this name.
    UnknownSection(String),
    /// A section has no key of this name.
    UnknownKey(String, String),
    /// Models have no key of this name.
    UnknownModelKey(String),
}

impl What {
    fn message(self) -> String {
        match self {
            What::Said(message) => message,
            What::UnknownSection(name) => {
                format!("unknown section; the nearest section is [{}]", nearest_section(&name))
            }
            What::UnknownKey(section, name) => {
                format!("unknown key; the nearest key is {}", nearest_key(&section, &name))
            }
            What::UnknownModelKey(name) => {
                let nearest = per_model::nearest_key(&name);
                format!("unknown key of a model; the nearest key is {nearest}")
            }
        }
    }
}

/// A file while its values are read.
struct Reading<'a> {
    file: &'a FileText,
    /// Where its lines end, in bytes.
    ends: Vec<usize>,
    /// Lines that are not TOML: what stands there was reported with them.
    broken: BTreeSet<usize>,
}

impl<'a> Reading<'a> {
    fn new(file: &'a FileText) -> Self {
        let bytes = file.text.bytes().enumerate();
        let ends = bytes.filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Reading { file, ends, broken: BTreeSet::new() }
    }

    /// The line, from 1, that holds a byte offset.
    fn line_at(&self, offset: usize) -> usize {
        self.ends.partition_point(|end| *end < offset) + 1
    }

    /// Where a value stands; `None` on a broken line.
    fn origin(&self, name: &Spanned<impl Sized>) -> Option<Origin> {
        let line = self.line_at(name.span().start);
        (!self.broken.contains(&line)).then(|| self.on_line(line))
    }

    fn on_line(&self, line: usize) -> Origin {
        Origin::File { path: self.file.path.clone(), line }
    }

    /// A value as it is written.
    fn written(&self, value: &Spanned<DeValue<'_>>) -> &'a str {
        self.file.text.get(value.span()).unwrap_or_default()
    }
}

impl Loading {
    fn new(base_dir: &Path) -> Self {
        let settings = KEYS
            .iter()
            .map(|key| Setting {
                key: key.path(),
                value: key.default.to_owned(),
                origin: Origin::Default,
            })
            .collect();
        let config = Config { base_dir: base_dir.to_owned(), ..Config::default() };
        Loading { config, settings, found: Vec::new() }
    }

    fn file(&mut self, file: &FileText) {
        let (root, errors) = DeTable::parse_recoverable(&file.text);
        let mut reading = Reading::new(file);
        for error in &errors {
            let line = reading.line_at(error.span().map_or(0, |span| span.start));
            let message = format!("this is not TOML: {}", error.message());
            self.problem(reading.on_line(line), String::new(), message);
            reading.broken.insert(line);
        }
        for (name, value) in root.get_ref().iter() {
            let Some(origin) = reading.origin(name) else { continue };
            if name.get_ref() == "version" {
                self.version(origin, value.get_ref());
            } else {
                self.file_section(&reading, name.get_ref(), origin, value);
            }
        }
    }

    /// `version = 1`, which a file need not have. A later omlxd may mean something else by what
    /// follows.
    fn version(&mut self, origin: Origin, value: &Raw<'_>) {
        let message = match usize::from_toml(value) {
            Ok(VERSION) => return,
            Ok(other) => format!(
                "this file is of version {other}, and this omlxd reads {VERSION}: upgrade omlxd, or move the \
                 file away and let a start write a new one"
            ),
            Err(message) => message,
        };
        self.problem(origin, "version".to_owned(), message);
    }

    fn file_section(
        &mut self,
        reading: &Reading<'_>,
        section: &str,
        origin: Origin,
        value: &Spanned<DeValue<'_>>,
    ) {
        let is_known = SECTIONS.iter().any(|known| known.name == section);
        let Some(table) = value.get_ref().as_table() else {
            let what = if is_known {
                What::Said(format!("this is a section: write [{section}] on a line of its own"))
            } else {
                What::UnknownKey(String::new(), shown(section))
            };
            self.found.push(Found { origin, key: shown(section), what });
            return;
        };
        if !is_known {
            let (key, what) = (shown(section), What::UnknownSection(shown(section)));
            self.found.push(Found { origin, key, what });
            return;
        }
        for (name, value) in table.iter() {
            let Some(origin) = reading.origin(name) else { continue };
            match position(section, name.get_ref()) {
                Some(key) => self.set(key, value.get_ref(), reading.written(value), origin),
                None if section == "models" && value.get_ref().is_table() => {
                    self.file_model(reading, name.get_ref(), origin, value.get_ref());
                }
                None => self.unknown(section, name.get_ref(), origin),
            }
        }
    }

    /// `[models."<id>"]`.
    fn file_model(&mut self, reading: &Reading<'_>, id: &str, origin: Origin, value: &DeValue<'_>) {
        let Some(table) = value.as_table() else { return };
        if !per_model::is_name(id) {
            let message = format!("a model's id has 1 to {MODEL_NAME_BYTES} bytes");
            return self.problem(origin, format!("models.\"{}\"", shown(id)), message);
        }
        if self.config.per_model.len() == CONFIG_MODELS {
            let message = format!("{CONFIG_MODELS} models with settings of their own are the most");
            return self.problem(origin, format!("models.\"{}\"", shown(id)), message);
        }
        self.config.per_model.entry(id.to_owned()).or_default();
        for (name, value) in table.iter() {
            let Some(origin) = reading.origin(name) else { continue };
            let path = per_model::path(id, name.get_ref());
            let Some(key) = MODEL_KEYS.iter().find(|key| key.name == name.get_ref().as_ref())
            else {
                let what = What::UnknownModelKey(shown(name.get_ref()));
                self.found.push(Found { origin, key: path, what });
                continue;
            };
            let settings = self.config.per_model.entry(id.to_owned()).or_default();
            match (key.set)(settings, value.get_ref()) {
                Ok(()) => {
                    let value = reading.written(value).to_owned();
                    self.settings.push(Setting { key: path, value, origin });
                }
                Err(message) => self.problem(origin, path, message),
            }
        }
    }

    /// `OMLX_<SECTION>_<KEY>`; a value that is not a TOML literal is taken as a text.
    fn env(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix("OMLX_").map(str::to_lowercase) else { return };
        let Some((section, key)) = SECTIONS.iter().find_map(|section| {
            Some((section.name, rest.strip_prefix(section.name)?.strip_prefix('_')?))
        }) else {
            return;
        };
        let origin = Origin::Env(name.to_owned());
        match position(section, key) {
            Some(key) if DeValue::parse(value).is_ok() => self.text(key, value, origin),
            Some(key) => self.text(key, &toml::Value::from(value).to_string(), origin),
            None => self.unknown(section, key, origin),
        }
    }

    fn text(&mut self, key: usize, literal: &str, origin: Origin) {
        match DeValue::parse(literal) {
            Ok(raw) => self.set(key, raw.get_ref(), literal, origin),
            Err(error) => {
                self.problem(
                    origin,
                    KEYS[key].path(),
                    format!("this is not TOML: {}", error.message()),
                );
            }
        }
    }

    fn set(&mut self, key: usize, raw: &Raw<'_>, shown: &str, origin: Origin) {
        match (KEYS[key].set)(&mut self.config, raw) {
            Ok(()) => {
                self.settings[key].value = shown.to_owned();
                self.settings[key].origin = origin;
            }
            Err(message) => self.problem(origin, KEYS[key].path(), message),
        }
    }

    fn unknown(&mut self, section: &str, name: &str, origin: Origin) {
        let name = shown(name);
        let key = format!("{section}.{name}");
        self.found.push(Found { origin, key, what: What::UnknownKey(section.to_owned(), name) });
    }

    fn problem(&mut self, origin: Origin, key: String, message: String) {
        self.found.push(Found { origin, key, what: What::Said(message) });
    }

    fn finish(mut self) -> Result<Loaded, Vec<Problem>> {
        self.config.anchor_paths();
        let together = self.config.check_together();
        if !together.is_empty() {
            let origins =
                self.settings.iter().map(|setting| (setting.key.as_str(), &setting.origin));
            let origins: BTreeMap<_, _> = origins.collect();
            let found = together.into_iter().map(|(key, message)| {
                let origin = origins.get(key.as_str()).map_or(Origin::Default, |o| (*o).clone());
                Found { origin, key, what: What::Said(message) }
            });
            self.found.extend(found);
        }
        if self.found.is_empty() {
            return Ok(Loaded { config: self.config, settings: self.settings });
        }
        Err(shown_problems(self.found))
    }
}

/// The first problems, with their messages, and how many more there are.
fn shown_problems(mut found: Vec<Found>) -> Vec<Problem> {
    // A table's order is by name; people read a file from the top.
    found.sort_by_key(|found| match &found.origin {
        Origin::File { line, .. } => *line,
        _ => usize::MAX,
    });
    let rest = found.split_off(found.len().min(CONFIG_PROBLEMS));
    let with_message =
        |Found { origin, key, what }| Problem { origin, key, message: what.message() };
    let mut problems: Vec<_> = found.into_iter().map(with_message).collect();
    let count = rest.len();
    if let Some(Found { origin, .. }) = rest.into_iter().next() {
        let message = format!("problems from here on are not shown: there are {count} more");
        problems.push(Problem { origin, key: String::new(), message });
    }
    problems
}

fn position(section: &str, name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.section == section && key.name == name)
}

/// The key that was probably meant: the same name in another section costs one edit.
fn nearest_key(section: &str, name: &str) -> String {
    let path = format!("{section}.{name}");
    let distance = |key: &&Key| {
        let whole = strsim::damerau_levenshtein(&key.path(), &path);
        whole.min(strsim::damerau_levenshtein(key.name, name) + 1)
    };
    KEYS.iter().min_by_key(distance).map(Key::path).unwrap_or_default()
}

fn nearest_section(name: &str) -> &'static str {
    let distance = |section: &&super::Section| strsim::damerau_levenshtein(section.name, name);
    SECTIONS.iter().min_by_key(distance).map_or("", |section| section.name)
}
