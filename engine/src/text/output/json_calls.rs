//! Calls written as JSON objects: Hermes and Qwen between `<tool_call>` tags, Llama bare or after
//! `<|python_tag|>`, Mistral as an array after `[TOOL_CALLS]`.

use super::call_object::CallObject;
use super::emit::Emitter;
use super::input::{Input, Marker, Stands};
use super::json::Step;
use super::layout::Layout;
use super::part::Progress;

/// The marker around code blocks.
const FENCE: &str = "```";

/// Reads call objects: one, several with `,` or `;` or nothing between them, or an array, up to the
/// closing marker in formats that have one. Models also write them in code fences, and some write
/// Qwen3-Coder's functions between the same markers.
#[derive(Debug, Clone)]
pub(super) struct JsonCalls {
    /// The markers before the calls and after them.
    around: Option<(Marker, Marker)>,
    state: State,
    in_array: bool,
    /// If set, an object is a call only if it has a name and arguments under this key.
    strict: Option<&'static str>,
}

#[derive(Debug, Clone)]
enum State {
    Before,
    Object(Box<CallObject>),
    Between,
    /// After the closing marker, which may be repeated.
    Closed,
}

impl JsonCalls {
    pub(super) fn new(around: Option<(Marker, Marker)>) -> Self {
        Self { around, state: State::Before, in_array: false, strict: None }
    }

    /// Reads objects without an opening marker, which are calls only if they have nothing unusual.
    pub(super) fn strict(key: &'static str) -> Self {
        Self { strict: Some(key), ..Self::new(None) }
    }

    /// The layout of functions and parameters between these markers.
    pub(super) fn functions(&self) -> Option<Layout> {
        self.around.map(|(open, close)| Layout::functions(open, close))
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        loop {
            let progress = match &mut self.state {
                State::Before => self.before(input),
                State::Object(_) => self.object(input, out),
                State::Between => self.between(input),
                State::Closed => self.closed(input),
            };
            if let Some(progress) = progress {
                return progress;
            }
        }
    }

    fn before(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            return Some(Progress::More);
        }
        match input.peek() {
            Some('[') if !self.in_array => {
                self.in_array = true;
                input.skip(1);
                return None;
            }
            Some('{') => {
                self.state = State::Object(Box::new(CallObject::new(self.strict)));
                return None;
            }
            _ => {}
        }
        let Some((open, close)) = self.around else { return Some(Progress::NotACall) };
        if let Some((function, _)) = Layout::functions(open, close).name
            && input.stands(&function) != Stands::No
        {
            return Some(Progress::Functions);
        }
        match (input.stands(&open), fence(input)) {
            (Stands::Yes(length), _) | (_, Stands::Yes(length)) => {
                input.skip(length);
                None
            }
            (Stands::Maybe, _) | (_, Stands::Maybe) => Some(Progress::More),
            _ => Some(Progress::NotACall),
        }
    }

    fn object(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let State::Object(object) = &mut self.state else { return None };
        while let Some(c) = input.peek() {
            // The closing marker also closes brackets that were left open.
            let closes = match &self.around {
                Some((_, close)) if !close.text.starts_with(c) => Stands::No,
                Some((_, close)) if object.in_text() => input.stands_last(close, &[*close]),
                Some((_, close)) => input.stands(close),
                None => Stands::No,
            };
            match closes {
                Stands::Maybe => {
                    if object.begun() {
                        input.take();
                    }
                    return Some(Progress::More);
                }
                Stands::Yes(length) => {
                    object.close(out);
                    if object.begun() && !object.complete() {
                        input.skip(length);
                    }
                    return self.broken(input, out);
                }
                Stands::No => {}
            }
            match object.push(c, out) {
                Step::More => input.skip(c.len_utf8()),
                Step::Done => {
                    input.skip(c.len_utf8());
                    input.take();
                    out.end();
                    self.state = State::Between;
                    return None;
                }
                Step::DoneBefore | Step::Invalid => return self.broken(input, out),
            }
        }
        if input.ended {
            return self.broken(input, out);
        }
        if object.begun() {
            input.take();
        }
        Some(Progress::More)
    }

    /// Ends an object that does not continue. A started call is complete or cut off.
    fn broken(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let State::Object(object) = &self.state else { return None };
        if !object.begun() {
            return Some(Progress::NotACall);
        }
        let is_whole = object.complete();
        input.take();
        if !is_whole {
            out.cut();
            return Some(Progress::Done);
        }
        out.end();
        self.state = State::Between;
        None
    }

    fn between(&mut self, input: &mut Input) -> Option<Progress> {
        // An extra closing brace is a common mistake. It is dropped if the end of the calls
        // follows.
        let rest = input.ahead().trim_start_matches(|c: char| c.is_whitespace() || c == '}');
        let junk = input.ahead().len() - rest.len();
        if rest.is_empty() && !input.ended {
            return Some(Progress::More);
        }
        let only_space = input.ahead()[..junk].trim_start().is_empty();
        input.skip(junk);
        if let Some((open, close)) = &self.around {
            match (input.stands(close), fence(input), opener_for_closer(open, input)) {
                (Stands::Yes(length), ..) => {
                    input.skip(length);
                    input.take();
                    self.state = State::Closed;
                    return None;
                }
                (_, Stands::Yes(length), _) => {
                    input.skip(length);
                    input.take();
                    return None;
                }
                (.., Stands::Yes(length)) => {
                    input.skip(length);
                    input.take();
                    return Some(Progress::Done);
                }
                (Stands::Maybe, ..) | (_, Stands::Maybe, _) | (.., Stands::Maybe) => {
                    input.rewind();
                    return Some(Progress::More);
                }
                _ => {}
            }
        }
        match input.peek().filter(|_| only_space) {
            Some(']') if self.in_array => {
                self.in_array = false;
                input.skip(1);
                input.take();
                None
            }
            Some(',' | ';') => {
                input.skip(1);
                self.state = State::Before;
                None
            }
            Some('{') => {
                self.state = State::Before;
                None
            }
            _ => Some(Progress::Done),
        }
    }

    fn closed(&mut self, input: &mut Input) -> Option<Progress> {
        let Some((_, close)) = &self.around else { return Some(Progress::Done) };
        if !input.skip_whitespace() {
            input.rewind();
            return Some(Progress::More);
        }
        match input.stands(close) {
            Stands::Yes(length) => {
                input.skip(length);
                input.take();
                None
            }
            Stands::Maybe => {
                input.rewind();
                Some(Progress::More)
            }
            Stands::No => Some(Progress::Done),
        }
    }
}

/// Whether a code fence is ahead. An opening fence is followed by a word.
pub(super) fn fence(input: &Input) -> Stands {
    let ahead = input.ahead();
    let Some(rest) = ahead.strip_prefix(FENCE) else {
        let may = !input.ended && FENCE.starts_with(ahead);
        return if may { Stands::Maybe } else { Stands::No };
    };
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
    if word == rest.len() && !input.ended { Stands::Maybe } else { Stands::Yes(FENCE.len() + word) }
}

/// Whether the opening marker is in the place of the closing one, at the end of the answer.
fn opener_for_closer(open: &Marker, input: &Input) -> Stands {
    match input.stands(open) {
        Stands::Yes(length) if !input.ahead()[length..].trim_start().is_empty() => Stands::No,
        Stands::Yes(_) if !input.ended => Stands::Maybe,
        stands => stands,
    }
}
