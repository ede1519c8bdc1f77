//! Layouts of calls that are written as a name and parameters.

use super::input::Marker;
use crate::text::stop::overlap;

/// Limit on a name or key. A longer one is invalid.
pub(super) const MAX_NAME_BYTES: usize = 1024;

/// The layout of such a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    /// The marker before all calls.
    pub(super) open: Marker,
    /// The markers before and after a function's name. GLM has neither: its name ends where
    /// anything else begins.
    pub(super) name: Option<(Marker, Marker)>,
    /// The markers before and after a key.
    pub(super) key: (Marker, Marker),
    /// The marker before a value, unless it follows the key directly.
    pub(super) value: Option<Marker>,
    pub(super) value_end: Marker,
    /// The marker after the last parameter, if functions have an end.
    pub(super) function_end: Option<Marker>,
    /// The marker after the last function.
    pub(super) close: Marker,
    /// Whether a value is on separate lines.
    pub(super) lines: bool,
    /// A token that is part of the other markers.
    pub(super) prefix: Option<Marker>,
}

impl Layout {
    /// Qwen3-Coder's functions between these markers.
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

    /// Number of bytes at the end of a truncated value that begin the marker after it.
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
