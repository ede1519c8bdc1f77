//! Readers of calls, one for each type of format.

use super::emit::Emitter;
use super::gemma::Gemma;
use super::input::{Input, Marker};
use super::json_calls::JsonCalls;
use super::layout::Layout;
use super::mistral::Mistral;
use super::pairs::Pairs;
use super::part::Progress;
use super::sectioned::{self, Sectioned};

/// Reads calls from their beginning. The input that it takes is understood. If it finds no call,
/// the input that it has only looked at is text.
#[derive(Debug, Clone)]
pub(super) enum Reader {
    Json(JsonCalls),
    Pairs(Box<Pairs>),
    Sectioned(Box<Sectioned>),
    Mistral(Box<Mistral>),
    Gemma(Box<Gemma>),
}

impl Reader {
    pub(super) fn json(around: Option<(Marker, Marker)>) -> Self {
        Self::Json(JsonCalls::new(around))
    }

    pub(super) fn pairs(layout: Layout) -> Self {
        Self::Pairs(Box::new(Pairs::new(layout)))
    }

    pub(super) fn sectioned(markers: sectioned::Markers) -> Self {
        Self::Sectioned(Box::new(Sectioned::new(markers)))
    }

    pub(super) fn mistral(open: Marker, args: Marker, id: Marker) -> Self {
        Self::Mistral(Box::new(Mistral::new(open, args, id)))
    }

    pub(super) fn gemma(open: Marker, quote: Marker, close: Marker) -> Self {
        Self::Gemma(Box::new(Gemma::new(open, quote, close)))
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        match self {
            Self::Json(reader) => {
                let progress = reader.read(input, out);
                let layout = reader.functions().filter(|_| progress == Progress::Functions);
                let Some(layout) = layout else { return progress };
                *self = Self::pairs(layout);
                self.read(input, out)
            }
            Self::Pairs(reader) => reader.read(input, out),
            Self::Sectioned(reader) => reader.read(input, out),
            Self::Mistral(reader) => reader.read(input, out),
            Self::Gemma(reader) => reader.read(input, out),
        }
    }
}
