//! The kinds of values that a key can take, and how each is read.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

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
        raw.as_str().and_then(bytes).ok_or_else(|| expected("a size such as \"64MiB\"", raw))
    }
}

impl FromToml for Size {
    const KIND: &'static str = "size, percentage or `\"auto\"`";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        let size = raw.as_str().and_then(|text| match text.strip_suffix('%') {
            None if text == "auto" => Some(Size::Auto),
            None => bytes(text).map(Size::Bytes),
            Some(share) => {
                share.parse().ok().filter(|share| (1..=100).contains(share)).map(Size::Percent)
            }
        });
        size.ok_or_else(|| {
            expected("a size such as \"8GiB\", a share such as \"25%\", or \"auto\"", raw)
        })
    }
}

impl FromToml for Duration {
    const KIND: &'static str = "time";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        raw.as_str().and_then(duration).ok_or_else(|| expected("a time such as \"10s\"", raw))
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
            text => text
                .and_then(duration)
                .map(|time| AutoTime(Some(time)))
                .ok_or_else(|| expected("a time such as \"50ms\", or \"auto\"", raw)),
        }
    }
}

impl FromToml for Option<Duration> {
    const KIND: &'static str = "time or `\"off\"`";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        match raw.as_str() {
            Some("off") => Ok(None),
            text => text
                .and_then(duration)
                .map(Some)
                .ok_or_else(|| expected("a time such as \"10s\", or \"off\"", raw)),
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
        text.map(path).ok_or_else(|| expected("a path", raw))
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
            Some(text) if !text.is_empty() => Ok(Some(text.to_owned())),
            _ => Err(expected("a name, or \"auto\"", raw)),
        }
    }
}

impl FromToml for String {
    const KIND: &'static str = "text";

    fn from_toml(raw: &Raw<'_>) -> Result<Self, String> {
        raw.as_str().map(str::to_owned).ok_or_else(|| expected("text in quotes", raw))
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
    items.iter().map(|item| T::from_toml(item.get_ref())).collect()
}

pub(super) fn integer(raw: &Raw<'_>, wanted: &str) -> Result<i64, String> {
    raw.as_integer()
        .and_then(|number| i64::from_str_radix(number.as_str(), number.radix()).ok())
        .ok_or_else(|| expected(wanted, raw))
}

/// "64MiB", "1.5GB", "512B": binary units count in 1024s, decimal ones in 1000s.
fn bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
        ("B", 1),
    ];
    let (number, scale) =
        UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))?;
    let bytes = quantity(number)? * scale as f64;
    (bytes < u64::MAX as f64).then_some(bytes as u64)
}

/// "500ms", "10s", "5m", "1.5h", "1d".
fn duration(text: &str) -> Option<Duration> {
    const UNITS: [(&str, f64); 5] =
        [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let (number, scale) =
        UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)))?;
    Duration::try_from_secs_f64(quantity(number)? * scale).ok()
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
    let got = match raw {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
        DeValue::Datetime(_) => "a date".to_owned(),
    };
    format!("expected {wanted}, got {got}")
}
