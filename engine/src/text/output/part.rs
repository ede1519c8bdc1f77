//! What an answer is taken apart into, and how far that is.

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// More of the model's thoughts.
    Reasoning(String),
    /// More of what it says.
    Text(String),
    /// A call of a tool begins. The parts up to `CallEnd` belong to it.
    CallStart {
        /// Counts the answer's calls from 0.
        index: usize,
        /// Name of an offered function.
        name: String,
    },
    /// More of the call's arguments, which are one JSON object when they are complete.
    CallArguments(String),
    /// The call is complete, or breaks off here.
    CallEnd,
}

/// What a reader of calls came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It needs more text.
    More,
    /// The calls are over; text follows.
    Done,
    /// What was looked at is no call but text.
    NotACall,
    /// Functions and parameters stand here, where JSON was expected: see `JsonCalls::functions`.
    Functions,
}
