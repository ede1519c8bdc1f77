//! How a format writes a call as a name and parameters.

use super::input::Marker;
use crate::text::stop::overlap;

/// A name or key that is longer is none.
pub(super) const MAX_NAME_BYTES: usize = 1024;

/// How such a format is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// What stands before all calls.
    pub(super) open: Marker,
    /// What stands before a function's name, and after it. GLM has neither: its name ends where
    /// anything else begins.
    pub(super) name: Option<(Marker, Marker)>,
    /// Before and after a key.
    pub(super) key: (Marker, Marker),
    /// Before a value, where it does not simply follow the key.
    pub(super) value: Option<Marker>,
    pub(super) value_end: Marker,
    /// After the last parameter, where the end of the function is said.
    pub(super) function_end: Option<Marker>,
    /// After the last function.
    pub(super) close: Marker,
    /// Whether a value stands on lines of its own.
    pub(super) lines: bool,
    /// A token that the other markers are spelled with.
    pub(super) prefix: Option<Marker>,
}

impl Layout {
    /// Qwen3-Coder's functions, between these markers.
    pub(super) const fn functions(open: Marker, close: Marker) -> Self {
        Self {
            open,
            name: Some((Marker::spelled("<function="), Marker::spelled(">"))),
            key: (Marker::spelled("<parameter="), Marker::spelled(">")),
            value: None,
            value_end: Marker::spelled("</parameter>"),
            function_end: Some(Marker::spelled("</function>")),
            close,
            lines: true,
            prefix: None,
        }
    }

    /// The bytes at the end of a value that was cut which begin what would stand after it.
    pub(super) fn cut_marker(&self, value: &str) -> usize {
        let next = [self.value_end, self.close, self.key.0].into_iter();
        let next = next.chain(self.function_end).chain(self.value);
        next.map(|marker| overlap(value, marker.text)).max().unwrap_or(0)
    }

    pub(super) fn markers(&self) -> Vec<Marker> {
        let Self { open, name, key, value, value_end, function_end, close, prefix, .. } = *self;
        let names = name.into_iter().flat_map(|(open, end)| [open, end]);
        let one = [open, key.0, key.1, value_end, close];
        names.chain(one).chain(value).chain(function_end).chain(prefix).collect()
    }
}
