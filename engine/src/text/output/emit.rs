//! Collecting what a parser found.

use std::sync::Arc;

use super::part::Part;
use super::tools::Tools;

/// Gathers parts. Text of the same kind that comes together becomes one part.
#[derive(Debug, Clone)]
pub(super) struct Emitter {
    tools: Arc<Tools>,
    /// Hand on the first call only.
    single: bool,
    parts: Vec<Part>,
    /// Calls announced so far, those not handed on included.
    calls: usize,
    /// A call was announced and its arguments broke off.
    cut: bool,
}

impl Emitter {
    pub(super) fn new(tools: Arc<Tools>, single: bool) -> Self {
        Self { tools, single, parts: Vec::new(), calls: 0, cut: false }
    }

    /// Whether a function of this name may be called.
    pub(super) fn offers(&self, name: &str) -> bool {
        self.tools.offers(name)
    }

    pub(super) fn tools(&self) -> &Tools {
        &self.tools
    }

    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    pub(super) fn is_cut(&self) -> bool {
        self.cut
    }

    pub(super) fn take(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.parts)
    }

    /// Puts parts back that were taken.
    pub(super) fn give_back(&mut self, parts: Vec<Part>) {
        self.parts.splice(0..0, parts);
    }

    pub(super) fn text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(last)) => last.push_str(text),
            _ => self.parts.push(Part::Text(text.to_owned())),
        }
    }

    pub(super) fn reasoning(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Reasoning(last)) => last.push_str(text),
            _ => self.parts.push(Part::Reasoning(text.to_owned())),
        }
    }

    /// Announces a call.
    pub(super) fn start(&mut self, name: &str) {
        self.calls += 1;
        if !self.is_muted() {
            let index = self.calls - 1;
            self.parts.push(Part::CallStart { index, name: name.to_owned() });
        }
    }

    /// More of the announced call's arguments.
    pub(super) fn arguments(&mut self, text: &str) {
        let muted = self.is_muted();
        match self.parts.last_mut() {
            _ if text.is_empty() || muted => {}
            Some(Part::CallArguments(last)) => last.push_str(text),
            _ => self.parts.push(Part::CallArguments(text.to_owned())),
        }
    }

    /// The announced call is complete.
    pub(super) fn end(&mut self) {
        if !self.is_muted() {
            self.parts.push(Part::CallEnd);
        }
    }

    /// The announced call broke off.
    pub(super) fn cut(&mut self) {
        if !self.is_muted() {
            self.cut = true;
            self.parts.push(Part::CallEnd);
        }
    }

    fn is_muted(&self) -> bool {
        self.single && self.calls > 1
    }
}
