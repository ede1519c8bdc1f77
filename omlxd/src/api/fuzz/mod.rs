//! What the fuzz targets (`omlxd/fuzz`) and their twins under proptest call: bodies of requests made of
//! anything at all, and answers that hold anything at all.

mod events;
mod request;

pub use events::events;
pub use request::{body, request};

/// Bytes as choices. After the last one all choices are 0.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn next(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first)
    }

    /// One of these.
    fn one<'b, T>(&mut self, of: &'b [T]) -> &'b T {
        &of[self.next() % of.len()]
    }

    /// A text of up to seven fragments or characters.
    fn text(&mut self) -> String {
        let pieces = self.next() % 8;
        let piece = |_| {
            let byte = self.next();
            let fragment = FRAGMENTS.get(byte).map(|text| (*text).to_owned());
            fragment.unwrap_or_else(|| char::from(byte as u8).to_string())
        };
        (0..pieces).map(piece).collect()
    }
}

/// What texts are made of besides plain characters: whatever means something in JSON, in a stream of
/// events, or in an answer.
const FRAGMENTS: &[&str] = &[
    "",
    "\n",
    "\r",
    "\r\n",
    "\n\n",
    "\r\r",
    "data: ",
    "data: [DONE]\n\n",
    "\n\ndata: {}\n\n",
    "event: error\n",
    "\nid: 1\n",
    "\nretry: 0\n",
    ": keepalive\n\n",
    "\u{0}",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\u{fffd}",
    "\u{e9}",
    "e\u{301}",
    "\u{1f980}",
    "\"",
    "\\",
    "\\u0000",
    "\",\"error\":{\"",
    "}",
    "]}",
    "{",
    "</think>",
    "<tool_call>",
];
