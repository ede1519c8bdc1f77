//! The parts of an answer, and the progress of a reader.

/// A part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// A piece of reasoning.
    Reasoning(String),
    /// A piece of text.
    Text(String),
    /// The start of a tool call. The parts up to `CallEnd` belong to it.
    CallStart {
        /// The call's index in the answer, from 0.
        index: usize,
        /// The name of an offered function.
        name: String,
    },
    /// A piece of the call's arguments, which concatenate to one JSON object.
    CallArguments(String),
    /// The end of the call, which is complete or cut off here.
    CallEnd,
}

/// The result of a reader of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It needs more text.
    More,
    /// The calls have ended; text follows.
    Done,
    /// The text that was looked at is not a call.
    NotACall,
    /// There are functions and parameters in the place of JSON: see `JsonCalls::functions`.
    Functions,
}
