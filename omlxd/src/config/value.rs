//! The kinds of values that a key can take, and how each is read.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use crate::limits::{
    CONFIG_LIST_ITEMS, CONFIG_SIZE_BYTES, CONFIG_TEXT_BYTES, CONFIG_TIME_SECS, MODEL_NAME_BYTES,
};

/// A value as it stands in a TOML text.
pub type Raw<'i> = DeValue<'i>;

/// A type that a key can have.
pub trait FromToml: Sized {
    /// The kind of value, for the reference page.
    const KIND: &'static str;

    /// Reads it, or says what was expected.
    fn from_toml(raw: &Raw<'_>) -> Result<Self, String>;
}

/// Reads a default of the key table.
///
/// # Panics
/// When the literal is wrong, which the test of the table's defaults rules out.
pub(super) fn literal<T: FromToml>(text: &str) -> T {
    let parsed = DeValue::parse(text).expect("a default is valid TOML");
    T::from_toml(parsed.get_ref()).expect("a default is valid for its key")
}

/// A check that a value lies between two bounds, both included.
pub(super) fn between<T>(min: T, max: T) -> impl Fn(&T) -> Result<(), String>
where
    T: PartialOrd + std::fmt::Display,
{
    move |value| {
        if (&min..=&max).contains(&value) {
            return Ok(());
        }
        Err(format!("{value} is out of range: it must be between {min} and {max}"))
    }
}

/// A check that a time is not shorter than a bound.
pub(super) fn at_least(min: Duration) -> impl Fn(&Duration) -> Result<(), String> {
    move |value| {
        if *value >= min {
            return Ok(());
        }
        Err(format!("{value:?} is too short: it must be at least {min:?}"))
    }
}

/// A number of bytes, or a share of something, or whatever suits the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// Chosen at start.
    Auto,
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths (1 to 100) of what the key names.
    Percent(u8),
}

/// Enums whose values are words.
macro_rules! words {
    ($( $(#[doc = $doc:literal])+ $Name:ident { $( $(#[doc = $vdoc:literal])+ $Variant:ident = $word:literal ),+ } )+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Debug, Clone, Copy, PartialEq, Eq)]
            pub enum $Name { $( $(#[doc = $vdoc])+ $Variant, )+ }

            impl $Name {
                /// The word that config.toml uses.
                pub fn as_str(self) -> &'static str {
                    match self { $( $Name::$Variant => $word, )+ }
                }
            }

            impl FromToml for $Name {
                const KIND: &'static str = concat!("one of" $(, " `\"", $word, "\"`")+);

                fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
                    match raw.as_str() {
                        $( Some($word) => Ok($Name::$Variant), )+
                        _ => Err(expected(concat!("one of" $(, " \"", $word, "\"")+), raw)),
                    }
                }
            }
        )+
    };
}

words! {
    /// What keeps an idle stream alive.
    KeepaliveMode {
        /// An SSE comment.
        Comment = "comment",
        /// A chunk with no choices.
        Chunk = "chunk",
        /// Nothing.
        Off = "off"
    }
    /// The type that models compute in.
    ComputeDtype {
        /// What suits the machine.
        Auto = "auto",
        /// The checkpoint's own.
        Stored = "stored"
    }
    /// The type that keys and values are kept in.
    KvDtype {
        /// The type that they are computed in.
        Auto = "auto",
        /// 16 bits, the more precise ones.
        Float16 = "float16",
        /// 16 bits, the ones that reach further.
        Bfloat16 = "bfloat16",
        /// 32 bits.
        Float32 = "float32"
    }
    /// The shape of log lines.
    LogFormat {
        /// Text on a terminal, JSON otherwise.
        Auto = "auto",
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json"
    }
    /// The least severe level that is logged.
    LogLevel {
        /// Only errors.
        Error = "error",
        /// And warnings.
        Warn = "warn",
        /// And what the daemon does.
        Info = "info",
        /// And how.
        Debug = "debug",
        /// And everything else.
        Trace = "trace"
    }
}

impl From<ComputeDtype> for engine::ComputeDtype {
    fn from(dtype: ComputeDtype) -> Self {
        match dtype {
            ComputeDtype::Auto => engine::ComputeDtype::Auto,
            ComputeDtype::Stored => engine::ComputeDtype::Stored,
        }
    }
}

impl From<KvDtype> for engine::KvDtype {
    fn from(dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::Auto => engine::KvDtype::Computed,
            KvDtype::Float16 => engine::KvDtype::Float16,
            KvDtype::Bfloat16 => engine::KvDtype::Bfloat16,
            KvDtype::Float32 => engine::KvDtype::Float32,
        }
    }
}

impl FromToml for bool {
    const KIND: &'static str = "true or false";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        raw.as_bool().ok_or_else(|| expected("true or false", raw))
    }
}

impl FromToml for u16 {
    const KIND: &'static str = "port number";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        let wanted = "a port number from 0 to 65535";
        integer(raw, wanted).and_then(|n| n.try_into().map_err(|_| expected(wanted, raw)))
    }
}

impl FromToml for usize {
    const KIND: &'static str = "number";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        let wanted = "a whole number";
        integer(raw, wanted).and_then(|n| n.try_into().map_err(|_| expected(wanted, raw)))
    }
}

impl FromToml for u64 {
    const KIND: &'static str = "size";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        bytes(raw, "a size such as \"64MiB\"")
    }
}

impl FromToml for Size {
    const KIND: &'static str = "size, percentage or `\"auto\"`";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        let wanted = "a size such as \"8GiB\", a share such as \"25%\", or \"auto\"";
        match raw.as_str() {
            Some("auto") => Ok(Size::Auto),
            Some(text) if text.ends_with('%') => {
                let share = text.trim_end_matches('%').parse().ok();
                let share = share.filter(|share| (1..=100).contains(share)).map(Size::Percent);
                share.ok_or_else(|| expected(wanted, raw))
            }
            _ => bytes(raw, wanted).map(Size::Bytes),
        }
    }
}

impl FromToml for Duration {
    const KIND: &'static str = "time";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        duration(raw, "a time such as \"10s\"")
    }
}

/// A time, or whatever suits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AutoTime(pub Option<Duration>);

impl FromToml for AutoTime {
    const KIND: &'static str = "time or `\"auto\"`";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        match raw.as_str() {
            Some("auto") => Ok(AutoTime(None)),
            _ => duration(raw, "a time such as \"50ms\", or \"auto\"")
                .map(|time| AutoTime(Some(time))),
        }
    }
}

impl FromToml for Option<Duration> {
    const KIND: &'static str = "time or `\"off\"`";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        match raw.as_str() {
            Some("off") => Ok(None),
            _ => duration(raw, "a time such as \"10s\", or \"off\"").map(Some),
        }
    }
}

impl FromToml for IpAddr {
    const KIND: &'static str = "IP address";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        match raw.as_str() {
            Some("localhost") => Ok(Ipv4Addr::LOCALHOST.into()),
            text => text
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| expected("an IP address such as \"127.0.0.1\" or \"::1\"", raw)),
        }
    }
}

impl FromToml for PathBuf {
    const KIND: &'static str = "path";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        let text = raw.as_str().filter(|text| !text.is_empty());
        bounded(text.ok_or_else(|| expected("a path", raw))?, CONFIG_TEXT_BYTES).map(path)
    }
}

impl FromToml for Option<PathBuf> {
    const KIND: &'static str = "path or `\"auto\"`";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        if raw.as_str() == Some("auto") { Ok(None) } else { PathBuf::from_toml(raw).map(Some) }
    }
}

/// A file, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaybeFile(pub Option<PathBuf>);

impl FromToml for MaybeFile {
    const KIND: &'static str = "path or `\"none\"`";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        if raw.as_str() == Some("none") {
            return Ok(MaybeFile(None));
        }
        PathBuf::from_toml(raw).map(|path| MaybeFile(Some(path)))
    }
}

impl FromToml for Option<String> {
    const KIND: &'static str = "name or `\"auto\"`";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        match raw.as_str() {
            Some("auto") => Ok(None),
            Some(text) if !text.is_empty() => {
                bounded(text, MODEL_NAME_BYTES).map(|name| Some(name.to_owned()))
            }
            _ => Err(expected("a name, or \"auto\"", raw)),
        }
    }
}

impl FromToml for String {
    const KIND: &'static str = "text";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        let text = raw.as_str().ok_or_else(|| expected("text in quotes", raw))?;
        bounded(text, CONFIG_TEXT_BYTES).map(str::to_owned)
    }
}

impl FromToml for Vec<String> {
    const KIND: &'static str = "list of texts";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        list(raw, "a list such as [\"https://chat.example\"]")
    }
}

impl FromToml for Vec<PathBuf> {
    const KIND: &'static str = "list of paths";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        list(raw, "a list of paths such as [\"~/models\"]")
    }
}

fn list<T: FromToml>(raw: &Raw<'_>, wanted: &str) -> Result<Vec<T>, String> {
    let items = raw.as_array().ok_or_else(|| expected(wanted, raw))?;
    if items.len() > CONFIG_LIST_ITEMS {
        return Err(format!(
            "this list has {} items: {CONFIG_LIST_ITEMS} are the most",
            items.len()
        ));
    }
    items.iter().map(|item| T::from_toml(item.get_ref())).collect()
}

pub(super) fn integer(raw: &Raw<'_>, wanted: &str) -> Result<i64, String> {
    raw.as_integer()
        .and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok())
        .ok_or_else(|| expected(wanted, raw))
}

/// A text that is not longer than it may be.
fn bounded(text: &str, max_bytes: usize) -> Result<&str, String> {
    if text.len() > max_bytes {
        return Err(format!("this text has {} bytes: {max_bytes} are the most", text.len()));
    }
    Ok(text)
}

/// "64MiB", "1.5GB", "512B": binary units count in 1024s, decimal ones in 1000s.
fn bytes(raw: &Raw<'_>, wanted: &str) -> Result<u64, String> {
    const UNITS: [(&str, f64); 9] = [
        ("TiB", (1_u64 << 40) as f64),
        ("GiB", (1 << 30) as f64),
        ("MiB", (1 << 20) as f64),
        ("KiB", (1 << 10) as f64),
        ("TB", 1e12),
        ("GB", 1e9),
        ("MB", 1e6),
        ("kB", 1e3),
        ("B", 1.0),
    ];
    let bytes = raw.as_str().and_then(|text| with_unit(text, &UNITS));
    let bytes = bytes.ok_or_else(|| expected(wanted, raw))?;
    if bytes > CONFIG_SIZE_BYTES as f64 {
        let most = CONFIG_SIZE_BYTES >> 40;
        return Err(format!("{} is too large: a size is at most {most}TiB", got(raw)));
    }
    Ok(bytes as u64)
}

/// "500ms", "10s", "5m", "1.5h", "1d".
fn duration(raw: &Raw<'_>, wanted: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] =
        [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let seconds = raw.as_str().and_then(|text| with_unit(text, &UNITS));
    let seconds = seconds.ok_or_else(|| expected(wanted, raw))?;
    if seconds > CONFIG_TIME_SECS as f64 {
        let most = CONFIG_TIME_SECS / 86_400;
        return Err(format!("{} is too long: a time is at most {most}d", got(raw)));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| expected(wanted, raw))
}

/// A quantity in the smallest unit.
fn with_unit(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let (number, scale) =
        units.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, scale)))?;
    Some(quantity(number)? * scale)
}

/// Digits with at most one point: no sign, no exponent, no "inf".
fn quantity(text: &str) -> Option<f64> {
    let text = text.trim_end();
    let plain = text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    plain.then(|| text.parse().ok()).flatten()
}

/// A path with a leading `~/` made the user's home.
fn path(text: &str) -> PathBuf {
    match (text.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}

pub(super) fn expected(wanted: &str, raw: &Raw<'_>) -> String {
    format!("expected {wanted}, got {}", got(raw))
}

/// A value as a message shows it.
fn got(raw: &Raw<'_>) -> String {
    match raw {
        DeValue::String(text) => format!("\"{}\"", shown(text)),
        DeValue::Integer(number) => shown(number.as_str()),
        DeValue::Float(number) => shown(number.as_str()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
        DeValue::Datetime(_) => "a date".to_owned(),
    }
}

/// Somebody's text as a message may show it: not too long for a line, and nothing that a terminal obeys.
pub(super) fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let plain = |c: char| if is_plain(c) { c.to_string() } else { c.escape_debug().to_string() };
    let mut shown: String = text.chars().take(MAX_CHARS).map(plain).collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

/// Whether a character stands for itself on a terminal and inside quotes.
fn is_plain(c: char) -> bool {
    c == '\'' || c.escape_debug().len() == 1
}
