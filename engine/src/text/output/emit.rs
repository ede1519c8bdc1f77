//! Collects the parts that a parser finds.

use std::sync::Arc;

use super::part::Part;
use super::tools::Tools;

/// Collects parts. Consecutive text of the same kind becomes one part.
#[derive(Debug, Clone)]
pub(super) struct Emitter {
    tools: Arc<Tools>,
    /// Forward the first call only.
    single: bool,
    parts: Vec<Part>,
    /// Number of calls started so far, including those not forwarded.
    calls: usize,
    /// A call was started, and its arguments were cut off.
    cut: bool,
}

impl Emitter {
    pub(super) fn new(tools: Arc<Tools>, single: bool) -> Self {
        Self { tools, single, parts: Vec::new(), calls: 0, cut: false }
    }

    /// Whether a function of this name is offered.
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

    /// Returns parts that were taken.
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

    /// Starts a call.
    pub(super) fn start(&mut self, name: &str) {
        self.calls += 1;
        if !self.is_muted() {
            let index = self.calls - 1;
            self.parts.push(Part::CallStart { index, name: name.to_owned() });
        }
    }

    /// Adds to the started call's arguments.
    pub(super) fn arguments(&mut self, text: &str) {
        let muted = self.is_muted();
        match self.parts.last_mut() {
            _ if text.is_empty() || muted => {}
            Some(Part::CallArguments(last)) => last.push_str(text),
            _ => self.parts.push(Part::CallArguments(text.to_owned())),
        }
    }

    /// Completes the started call.
    pub(super) fn end(&mut self) {
        if !self.is_muted() {
            self.parts.push(Part::CallEnd);
        }
    }

    /// Ends the started call as cut off.
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
