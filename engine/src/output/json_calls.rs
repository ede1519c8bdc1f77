//! Calls written as JSON objects: Hermes and Qwen between `<tool_call>` tags, Llama bare or after
//! `<|python_tag|>`, Mistral as an array after `[TOOL_CALLS]`.

use super::Progress;
use super::call_object::CallObject;
use super::emit::Emitter;
use super::input::{Input, Marker, Stands};
use super::json::Step;

/// Reads call objects: one, several with `,` or `;` or nothing between, or an array of them, up to
/// the closing marker of formats that have one.
#[derive(Debug, Clone)]
pub(super) struct JsonCalls {
    close: Option<Marker>,
    place: Place,
    in_array: bool,
}

#[derive(Debug, Clone)]
enum Place {
    Before,
    Object(Box<CallObject>),
    Between,
}

impl JsonCalls {
    pub(super) fn new(close: Option<Marker>) -> Self {
        Self { close, place: Place::Before, in_array: false }
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        loop {
            let progress = match &mut self.place {
                Place::Before => self.before(input),
                Place::Object(_) => self.object(input, out),
                Place::Between => self.between(input),
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
                None
            }
            Some('{') => {
                self.place = Place::Object(Box::new(CallObject::new()));
                None
            }
            _ => Some(Progress::NotACall),
        }
    }

    fn object(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let Place::Object(object) = &mut self.place else { return None };
        while let Some(c) = input.peek() {
            match object.push(c, out) {
                Step::More => input.skip(c.len_utf8()),
                Step::Done => {
                    input.skip(c.len_utf8());
                    input.take();
                    out.end();
                    self.place = Place::Between;
                    return None;
                }
                Step::DoneBefore | Step::Invalid => return Some(broken(object, input, out)),
            }
        }
        if input.ended {
            return Some(broken(object, input, out));
        }
        if object.begun() {
            input.take();
        }
        Some(Progress::More)
    }

    fn between(&mut self, input: &mut Input) -> Option<Progress> {
        // A brace too many is a common slip; it is dropped if the end of the calls follows.
        let rest = input.ahead().trim_start_matches(|c: char| c.is_whitespace() || c == '}');
        let junk = input.ahead().len() - rest.len();
        if rest.is_empty() && !input.ended {
            return Some(Progress::More);
        }
        let only_space = input.ahead()[..junk].trim_start().is_empty();
        input.skip(junk);
        if let Some(close) = &self.close {
            match input.stands(close) {
                Stands::Yes(length) => {
                    input.skip(length);
                    input.take();
                    return Some(Progress::Done);
                }
                Stands::Maybe => {
                    input.rewind();
                    return Some(Progress::More);
                }
                Stands::No => {}
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
                self.place = Place::Before;
                None
            }
            Some('{') => {
                self.place = Place::Before;
                None
            }
            _ => Some(Progress::Done),
        }
    }
}

/// A call object that does not go on. What was announced is complete, or stays cut.
fn broken(object: &CallObject, input: &mut Input, out: &mut Emitter) -> Progress {
    if !object.begun() {
        return Progress::NotACall;
    }
    input.take();
    if object.complete() {
        out.end()
    } else {
        out.cut()
    }
    Progress::Done
}
