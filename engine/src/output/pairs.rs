//! Calls written as a name and parameters one by one, whose values are not JSON but plain text:
//! Qwen3-Coder and its heirs, MiniMax M2, GLM 4.5 and later, DeepSeek V3.2.
//!
//! ```text
//! Qwen     <tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>
//! MiniMax  <minimax:tool_call>\n<invoke name="NAME">\n<parameter name="KEY">VALUE</parameter>\n</invoke>..
//! GLM      <tool_call>NAME\n<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>
//! DeepSeek <DSML:function_calls>\n<DSML:invoke name="NAME">\n<DSML:parameter name="KEY" string="true">VALUE..
//! ```
//! (where `DSML:` stands for `\u{ff5c}DSML\u{ff5c}`).
//!
//! What a value is follows from the tool's schema; DeepSeek's `string="false"` marks JSON. A string goes
//! out as it comes; anything else when its end is there.

use super::Progress;
use super::emit::Emitter;
use super::input::{Input, Marker, Sought, Stands};
use super::tools::Kinds;

/// A name or key that is longer is none.
const MAX_NAME_BYTES: usize = 1024;

/// How such a format is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
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

/// After a key in quotes: whether its value is text. What follows is `true"` or `false"`.
const IS_TEXT: &str = "\" string=\"";

impl Layout {
    pub(super) fn markers(&self) -> Vec<Marker> {
        let Self { name, key, value, value_end, function_end, close, prefix, .. } = *self;
        let names = name.into_iter().flat_map(|(open, end)| [open, end]);
        let one = [key.0, key.1, value_end, close];
        names.chain(one).chain(value).chain(function_end).chain(prefix).collect()
    }
}

/// Reads calls, after the opening marker.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    layout: Layout,
    place: Place,
    function: String,
    parameters: usize,
}

#[derive(Debug, Clone)]
enum Place {
    /// Before a function, or the end of the calls.
    Function,
    /// In its name, which begins at this byte of what was seen.
    Name(usize),
    /// Before a parameter, or the end of the function.
    Parameter,
    Key,
    /// Between key and value.
    ValueStart(String),
    /// In a value.
    Value(Value),
}

/// A value under way.
#[derive(Debug, Clone)]
struct Value {
    kinds: Kinds,
    /// What came of a value that is not handed on before its end.
    text: String,
    /// A line break at the beginning is still to be dropped.
    at_start: bool,
}

impl Pairs {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, place: Place::Function, function: String::new(), parameters: 0 }
    }

    pub(super) fn read(&mut self, input: &mut Input, out: &mut Emitter) -> Progress {
        loop {
            let progress = match &self.place {
                Place::Function => self.function(input),
                Place::Name(from) => self.name(*from, input, out),
                Place::Parameter => self.parameter(input, out),
                Place::Key => self.key(input, out),
                Place::ValueStart(key) => self.value_start(key.clone(), input, out),
                Place::Value(_) => self.value(input, out),
            };
            if let Some(progress) = progress {
                return progress;
            }
        }
    }

    fn go(&mut self, place: Place) -> Option<Progress> {
        self.place = place;
        None
    }

    fn function(&mut self, input: &mut Input) -> Option<Progress> {
        if !input.skip_whitespace() {
            return Some(Progress::More);
        }
        let Some((open, _)) = self.layout.name else {
            return self.go(Place::Name(input.seen().len()));
        };
        match (input.stands(&open), input.stands(&self.layout.close)) {
            (Stands::Yes(length), _) => {
                input.skip(length);
                self.go(Place::Name(input.seen().len()))
            }
            (_, Stands::Yes(length)) if !self.function.is_empty() => {
                input.skip(length);
                input.take();
                Some(Progress::Done)
            }
            (Stands::Maybe, _) | (_, Stands::Maybe) => Some(Progress::More),
            // Calls were read, and their closing marker was left out.
            _ if !self.function.is_empty() => Some(Progress::Done),
            _ => Some(Progress::NotACall),
        }
    }

    fn name(&mut self, from: usize, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let (sought, ends) = match self.layout.name {
            Some((_, end)) => (input.seek(&[end]), true),
            None => {
                let ends = [Marker::spelled("\n"), self.layout.key.0, self.layout.close];
                (input.seek(&ends), false)
            }
        };
        let name = input.seen()[from..].trim();
        let Sought::Marker(_, length) = sought else {
            let hopeless = input.ended || name.len() > MAX_NAME_BYTES;
            return Some(if hopeless { Progress::NotACall } else { Progress::More });
        };
        // Quotes belong to some versions of the format and not to others.
        let name = name.trim_matches('"');
        if !out.offers(name) {
            return Some(Progress::NotACall);
        }
        self.function = name.to_owned();
        if ends {
            input.skip(length);
        }
        input.take();
        out.start(&self.function);
        out.arguments("{");
        self.parameters = 0;
        self.go(Place::Parameter)
    }

    fn parameter(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        if !input.skip_whitespace() {
            return Some(Progress::More);
        }
        let key = input.stands(&self.layout.key.0);
        let end = self.layout.function_end.map_or(Stands::No, |end| input.stands(&end));
        let close = input.stands(&self.layout.close);
        match (key, end, close) {
            (Stands::Yes(length), ..) => {
                input.skip(length);
                input.take();
                self.go(Place::Key)
            }
            (_, Stands::Yes(length), _) => {
                input.skip(length);
                self.complete(input, out);
                self.go(Place::Function)
            }
            (_, _, Stands::Yes(length)) => {
                input.skip(length);
                self.complete(input, out);
                Some(Progress::Done)
            }
            (Stands::Maybe, ..) | (_, Stands::Maybe, _) | (.., Stands::Maybe) => {
                Some(Progress::More)
            }
            // What was asked for is there; only the end was not said.
            _ if input.ended && input.ahead().is_empty() => {
                self.complete(input, out);
                Some(Progress::Done)
            }
            _ => {
                input.rewind();
                out.cut();
                Some(Progress::Done)
            }
        }
    }

    fn complete(&mut self, input: &mut Input, out: &mut Emitter) {
        input.take();
        out.arguments("}");
        out.end();
    }

    fn key(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let sought = input.seek(&[self.layout.key.1]);
        let key = input.seen().trim().trim_matches('"').to_owned();
        match sought {
            Sought::Marker(_, length) if key.len() <= MAX_NAME_BYTES => {
                input.skip(length);
                input.take();
                self.go(Place::ValueStart(key))
            }
            Sought::Nothing if !input.ended && key.len() <= MAX_NAME_BYTES => Some(Progress::More),
            _ => {
                input.rewind();
                out.cut();
                Some(Progress::Done)
            }
        }
    }

    fn value_start(
        &mut self,
        key: String,
        input: &mut Input,
        out: &mut Emitter,
    ) -> Option<Progress> {
        if let Some(open) = self.layout.value {
            if !input.skip_whitespace() {
                return Some(Progress::More);
            }
            match input.stands(&open) {
                Stands::Yes(length) => input.skip(length),
                Stands::Maybe => return Some(Progress::More),
                Stands::No => {
                    input.rewind();
                    out.cut();
                    return Some(Progress::Done);
                }
            }
        }
        input.take();
        let (key, marked) = match key.split_once(IS_TEXT) {
            Some((key, "true")) => (key, Some(Kinds::TEXT)),
            Some((key, "false")) => (key, Some(Kinds::JSON)),
            _ => (key.as_str(), None),
        };
        let kinds = marked.unwrap_or_else(|| out.tools().kinds(&self.function, key));
        let comma = if self.parameters > 0 { ", " } else { "" };
        self.parameters += 1;
        out.arguments(&format!("{comma}{}: ", quoted(key)));
        if kinds.is_text() {
            out.arguments("\"");
        }
        self.go(Place::Value(Value { kinds, text: String::new(), at_start: self.layout.lines }))
    }

    fn value(&mut self, input: &mut Input, out: &mut Emitter) -> Option<Progress> {
        let Place::Value(value) = &mut self.place else { return None };
        if value.at_start {
            match input.peek() {
                Some('\n') => input.skip(1),
                None if !input.ended => return Some(Progress::More),
                _ => {}
            }
            input.take();
            value.at_start = false;
        }
        let mut ends = vec![self.layout.value_end];
        ends.extend(self.layout.function_end);
        loop {
            let sought = input.seek(&ends);
            let end = input.seen().len();
            let kept = match self.layout.lines && !(sought == Sought::Nothing && input.ended) {
                true => input.seen().strip_suffix('\n').map_or(end, str::len),
                false => end,
            };
            let Sought::Marker(number, length) = sought else {
                value.push(&input.take_to(kept), out);
                input.rewind();
                if !input.ended {
                    return Some(Progress::More);
                }
                out.cut();
                return Some(Progress::Done);
            };
            input.skip(length);
            match followed(&self.layout, number, input) {
                Stands::Yes(_) => {
                    input.go_to(if number == 0 { end + length } else { end });
                    let text = input.take_to(kept);
                    input.take();
                    value.push(&text, out);
                    value.finish(out);
                    return self.go(Place::Parameter);
                }
                Stands::Maybe => {
                    // What stands before it is certain.
                    value.push(&input.take_to(kept), out);
                    input.rewind();
                    return Some(Progress::More);
                }
                // The marker is part of the value.
                Stands::No => input.go_to(end + length),
            }
        }
    }
}

/// Whether what follows an end of a value, right ahead, makes it one: the next parameter or the end
/// of the function, and not more of a text that speaks of this format.
fn followed(layout: &Layout, number: usize, input: &mut Input) -> Stands {
    if !input.skip_whitespace() {
        return Stands::Maybe;
    }
    if input.ended && input.ahead().is_empty() {
        return Stands::Yes(0);
    }
    let mut next = vec![layout.close];
    if number == 0 {
        next.push(layout.key.0);
        next.extend(layout.function_end);
    } else if let Some((function, _)) = layout.name {
        next.push(function);
    }
    next.iter().map(|marker| input.stands(marker)).fold(Stands::No, Stands::or)
}

impl Value {
    fn push(&mut self, text: &str, out: &mut Emitter) {
        match self.kinds.is_text() {
            true => {
                let quoted = quoted(text);
                out.arguments(&quoted[1..quoted.len() - 1]);
            }
            false => self.text.push_str(text),
        }
    }

    fn finish(&self, out: &mut Emitter) {
        match self.kinds.is_text() {
            true => out.arguments("\""),
            false => out.arguments(&self.kinds.value(&self.text)),
        }
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
