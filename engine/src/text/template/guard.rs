//! Rewrites a template before minijinja compiles it.
//!
//! minijinja's parser and code generator recurse over a template, and minijinja compares, prints
//! and drops values by recursion. So a template is bounded first (tokens in a tag, nested brackets,
//! nested blocks), which bounds the depth of its tree. Then every value that is stored or walked is
//! passed to a function of `values.rs`, which bounds its depth: values that are assigned, looped
//! over, passed to a macro, compared, joined to a text or used as a key. The nesting that a single
//! tag adds to such a value is at most its number of tokens.
//!
//! Where minijinja differs from Jinja2, the same functions compensate.

use std::ops::Range;

use super::lexer::{Kind, Tag, line, tags};
use super::values::PREFIX;
use crate::limits::{TEMPLATE_BLOCK_LEVELS, TEMPLATE_BRACKET_LEVELS, TEMPLATE_TAG_TOKENS};

/// Words that are not operands.
const KEYWORDS: [&str; 8] = ["and", "or", "not", "if", "else", "in", "is", "recursive"];
/// Statements with an end tag.
const BLOCKS: [&str; 8] = ["for", "if", "with", "autoescape", "filter", "block", "macro", "call"];

/// Returns the template that is compiled instead of `source`.
///
/// # Errors
/// Describes what is too long, too deep or not closed, with its line.
pub(super) fn guarded(source: &str) -> Result<String, String> {
    let mut out = String::with_capacity(source.len() * 2);
    let mut blocks = Blocks { open: Vec::new(), levels: 0 };
    let mut copied = 0;
    for tag in tags(source)? {
        out.push_str(&source[copied..tag.at.start]);
        copied = tag.at.end;
        let mut rewrite = Rewrite {
            source,
            tag: &tag,
            wraps: Vec::new(),
            instead: None,
            hidden: Vec::new(),
            after: None,
        };
        rewrite
            .run(&mut blocks)
            .map_err(|what| format!("the tag in line {}: {what}", line(source, tag.at.start)))?;
        rewrite.write(&mut out);
    }
    out.push_str(&source[copied..]);
    Ok(out)
}

/// The open blocks at a position.
struct Blocks {
    open: Vec<Open>,
    /// Number of open blocks. An `elif` counts as a block inside its `if`.
    levels: usize,
}

struct Open {
    name: String,
    levels: usize,
    /// For `{% set namespace.name %}`: the text to add after the end of the block.
    assignment: Option<String>,
}

impl Blocks {
    fn enter(&mut self, name: &str, assignment: Option<String>) -> Result<(), String> {
        self.open.push(Open { name: name.to_owned(), levels: 0, assignment });
        self.deepen()
    }

    fn deepen(&mut self) -> Result<(), String> {
        self.levels += 1;
        if let Some(open) = self.open.last_mut() {
            open.levels += 1;
        }
        if self.levels > TEMPLATE_BLOCK_LEVELS {
            return Err(format!(
                "more than {TEMPLATE_BLOCK_LEVELS} blocks (and elif) are open at once"
            ));
        }
        Ok(())
    }

    /// Returns the text to add after the end of the block `name`. minijinja reports unmatched ends.
    fn leave(&mut self, name: &str) -> Option<String> {
        let open = self.open.pop_if(|open| open.name == name)?;
        self.levels -= open.levels;
        open.assignment
    }

    /// minijinja does not leave the blocks between `break` or `continue` and their loop.
    fn can_leave_loop(&self) -> Result<(), String> {
        let between = self.open.iter().rev().take_while(|open| open.name != "for");
        match between
            .into_iter()
            .find(|open| !matches!(open.name.as_str(), "if" | "macro" | "call"))
        {
            Some(open) => {
                Err(format!("break and continue inside of a {} block are not supported", open.name))
            }
            None => Ok(()),
        }
    }
}

/// A call to put around tokens.
struct Wrap {
    tokens: Range<usize>,
    function: &'static str,
    /// The tokens are several values, which become one tuple.
    is_tuple: bool,
}

/// The changes to one tag.
struct Rewrite<'a> {
    source: &'a str,
    tag: &'a Tag,
    wraps: Vec<Wrap>,
    /// Replacement for the tokens before a position, and the text to add after the last token.
    instead: Option<(usize, String, &'static str)>,
    /// Values to replace by an undefined one.
    hidden: Vec<Range<usize>>,
    /// Tags to add after this one.
    after: Option<String>,
}

impl<'a> Rewrite<'a> {
    fn run(&mut self, blocks: &mut Blocks) -> Result<(), String> {
        let tag = self.tag;
        let tokens = &tag.tokens;
        if tokens.len() > TEMPLATE_TAG_TOKENS {
            return Err(format!(
                "it has more than {TEMPLATE_TAG_TOKENS} names, operators and brackets"
            ));
        }
        if self.tag.depth > TEMPLATE_BRACKET_LEVELS {
            return Err(format!("more than {TEMPLATE_BRACKET_LEVELS} brackets are open at once"));
        }
        if (0..tokens.len()).any(|at| self.text(at).starts_with(PREFIX)) {
            return Err(format!("names that begin with {PREFIX} are taken"));
        }
        if !self.tag.is_statement {
            self.expression(0..tokens.len());
            return Ok(());
        }
        self.statement(blocks)
    }

    fn statement(&mut self, blocks: &mut Blocks) -> Result<(), String> {
        let end = self.tag.tokens.len();
        let name = if end == 0 { "" } else { self.text(0) };
        match name {
            "include" | "import" | "from" | "extends" => {
                return Err(format!("a chat template is one file: {name} is not supported"));
            }
            "generation" | "endgeneration" if end == 1 => {
                // They mark the trained part of a text and render nothing.
                self.instead = Some((end, String::new(), ""));
            }
            "break" | "continue" => blocks.can_leave_loop()?,
            "elif" => {
                blocks.deepen()?;
                self.expression(1..end);
            }
            "set" => self.set(blocks)?,
            "for" => self.for_loop(),
            "with" => self.with(),
            "macro" => {
                self.arguments(2, None);
                self.defaults(2);
            }
            "call" if end > 1 && self.text(1) == "(" => {
                self.arguments(1, None);
                self.defaults(1);
                self.expression(self.tag.tokens[1].mate.unwrap_or(end - 1) + 1..end);
            }
            _ => self.expression(1.min(end)..end),
        }
        if BLOCKS.contains(&name) {
            blocks.enter(name, None)?;
        }
        if let Some(block) = name.strip_prefix("end") {
            self.after = blocks.leave(block);
        }
        Ok(())
    }

    /// Handles `{% set target = value %}` and `{% set target %}..{% endset %}`.
    fn set(&mut self, blocks: &mut Blocks) -> Result<(), String> {
        let end = self.tag.tokens.len();
        let equals = self.top(1..end).find(|&at| self.text(at) == "=");
        let target_end = equals.unwrap_or(end);
        let is_attribute =
            target_end >= 4 && self.text(2) == "." && (target_end == 4 || self.text(4) == "|");
        let Some(equals) = equals else {
            self.expression(1..end);
            let mut assignment = None;
            if is_attribute {
                // A function sets the attribute after the block.
                let (namespace, name) = (self.text(1), self.text(3));
                assignment =
                    Some(format!("{{% do {PREFIX}set({namespace}, \"{name}\", {PREFIX}block) %}}"));
                self.instead = Some((4, format!("set {PREFIX}block "), ""));
            }
            return blocks.enter("set", assignment);
        };
        if is_attribute {
            let (namespace, name) = (self.text(1), self.text(3));
            self.instead =
                Some((equals + 1, format!("do {PREFIX}set({namespace}, \"{name}\", ("), "))"));
            self.expression(equals + 1..end);
        } else {
            self.kept("checked", equals + 1..end);
        }
        Ok(())
    }

    /// Handles `{% for target in values if condition recursive %}`.
    fn for_loop(&mut self) {
        let mut end = self.tag.tokens.len();
        if end > 0 && self.text(end - 1) == "recursive" {
            end -= 1;
        }
        let Some(of) = self.top(1..end).find(|&at| self.text(at) == "in") else { return };
        let condition = self.top(of + 1..end).find(|&at| self.text(at) == "if");
        self.given("looped", of + 1..condition.unwrap_or(end));
        if let Some(condition) = condition {
            self.expression(condition + 1..end);
        }
    }

    /// Handles `{% with a = 1, b = 2 %}`.
    fn with(&mut self) {
        for part in self.parts(1..self.tag.tokens.len(), ",") {
            if let Some(equals) = self.top(part.clone()).find(|&at| self.text(at) == "=") {
                self.kept("checked", equals + 1..part.end);
            }
        }
    }

    /// Wraps an expression whose value is stored. It is only checked if it may build a container.
    fn kept(&mut self, function: &'static str, tokens: Range<usize>) {
        let builds = |at: usize| {
            self.tag.tokens[at].kind == Kind::Sign
                && !matches!(self.text(at), "." | "==" | "!=" | "<" | ">")
        };
        if tokens.clone().any(builds) {
            self.given(function, tokens);
        } else {
            self.expression(tokens);
        }
    }

    /// Passes the value of an expression to a function.
    fn given(&mut self, function: &'static str, tokens: Range<usize>) {
        self.expression(tokens.clone());
        // A text is looped over by its characters, and a list cannot be a key.
        let is_list = function == "hashed"
            && self.tag.tokens.get(tokens.start).is_some_and(|t| t.mate.is_some());
        let is_fine = self.is_literal(tokens.clone()) && function != "looped" && !is_list;
        if tokens.is_empty() || is_fine {
            return;
        }
        let is_tuple = self.top(tokens.clone()).any(|at| self.text(at) == ",");
        self.wraps.push(Wrap { tokens, function, is_tuple });
    }

    /// Handles all parts of an expression, or of several between commas, that must pass a function.
    fn expression(&mut self, tokens: Range<usize>) {
        let openings: Vec<usize> = self
            .top(tokens.clone())
            .filter(|&at| self.tag.tokens[at].mate.is_some_and(|mate| mate > at))
            .collect();
        for at in openings {
            let inside = at + 1..self.tag.tokens[at].mate.unwrap_or(at + 1);
            let follows = at > tokens.start && self.ends_operand(at - 1);
            match self.text(at) {
                "(" if follows => self.arguments(at, Some(tokens.start)),
                "[" if follows => self.subscript(at, inside),
                "{" => self.dict(inside),
                _ => self.expression(inside),
            }
        }
        self.comparisons(tokens);
    }

    /// Handles the arguments of a call, or the parameters of a macro (without `callee`).
    fn arguments(&mut self, opening: usize, callee: Option<usize>) {
        let Some(Some(mate)) = self.tag.tokens.get(opening).map(|token| token.mate) else { return };
        let function = callee.map(|start| self.taken_by(start, opening));
        for mut part in self.parts(opening + 1..mate, ",") {
            if !part.is_empty() && matches!(self.text(part.start), "*" | "**") {
                part.start += 1;
            } else if part.len() > 1 && self.text(part.start + 1) == "=" {
                part.start += 2;
            }
            match function {
                Some(function) => self.given(function, part),
                None => self.expression(part),
            }
        }
    }

    /// A default may refer to earlier parameters, which minijinja does not know yet when it
    /// computes the default. Such a parameter is set in the body.
    fn defaults(&mut self, opening: usize) {
        let Some(Some(mate)) = self.tag.tokens.get(opening).map(|token| token.mate) else { return };
        let mut known: Vec<&str> = Vec::new();
        let mut after = String::new();
        for part in self.parts(opening + 1..mate, ",") {
            if part.is_empty() {
                continue;
            }
            let name = self.text(part.start);
            let value = part.start + 2..part.end;
            if value.clone().any(|at| known.contains(&self.text(at))) {
                let tokens = &self.tag.tokens;
                let source =
                    &self.source[tokens[value.start].at.start..tokens[part.end - 1].at.end];
                after.push_str(&format!(
                    "{{% if {name} is undefined %}}{{% set {name} = {PREFIX}checked(({source})) %}}{{% endif %}}"
                ));
                self.wraps.retain(|wrap| !value.contains(&wrap.tokens.start));
                self.hidden.push(value);
            }
            known.push(name);
        }
        if !after.is_empty() {
            self.after = Some(after);
        }
    }

    /// The function for the arguments of the operand before a bracket.
    fn taken_by(&self, start: usize, opening: usize) -> &'static str {
        let name = self.text(opening - 1);
        let before = if opening >= start + 2 { self.text(opening - 2) } else { "" };
        match (before, name) {
            ("", "loop") => "looped",
            ("|", "default" | "d") => "checked",
            ("." | "|" | "is" | "not", _) => "weighed",
            (_, "loop") => "looped",
            _ => "checked",
        }
    }

    fn subscript(&mut self, opening: usize, tokens: Range<usize>) {
        // Finding a position in a text takes time, so even a number is passed to the function,
        // which checks the time. In a slice, one of its positions is enough.
        let mut parts = self.parts(tokens, ":");
        if parts.len() == 3 && !parts[2].is_empty() {
            let tokens = self.operand_start(opening - 1)..opening;
            self.wraps.push(Wrap { tokens, function: "stepped", is_tuple: false });
        }
        parts.retain(|part| !part.is_empty());
        let timed = parts.iter().position(|part| self.is_number(part.clone())).unwrap_or(0);
        for (index, part) in parts.into_iter().enumerate() {
            if index == timed && self.is_number(part.clone()) {
                self.wraps.push(Wrap { tokens: part, function: "key", is_tuple: false });
            } else {
                self.given("key", part);
            }
        }
    }

    /// The start of the operand that ends with this token: before all its calls, subscripts and
    /// attributes.
    fn operand_start(&self, last: usize) -> usize {
        let mut start = last;
        loop {
            if let Some(mate) = self.tag.tokens[start].mate.filter(|mate| *mate < start) {
                start = mate;
                if start == 0 || !self.ends_operand(start - 1) {
                    return start;
                }
                start -= 1;
            } else if start >= 2 && self.text(start - 1) == "." {
                start -= 2;
            } else {
                return start;
            }
        }
    }

    fn dict(&mut self, tokens: Range<usize>) {
        for part in self.parts(tokens, ",") {
            let colon = self.top(part.clone()).find(|&at| self.text(at) == ":");
            let colon = colon.unwrap_or(part.end);
            self.given("hashed", part.start..colon);
            self.expression((colon + 1).min(part.end)..part.end);
        }
    }

    /// Handles comparisons, and the operands of `~`.
    fn comparisons(&mut self, tokens: Range<usize>) {
        let borders: Vec<usize> =
            self.top(tokens.clone()).filter(|&at| self.is_border(at)).collect();
        let mut start = tokens.start;
        for (index, &border) in borders.iter().enumerate() {
            self.joins(start..border);
            let next = borders.get(index + 1).copied().unwrap_or(tokens.end);
            let right = border + 1..next;
            let is_in = self.text(border) == "in";
            if is_in || matches!(self.text(border), "==" | "!=" | "<" | ">" | "<=" | ">=") {
                // A comparison costs as much as the smaller operand. Searching a value in a text
                // prints the value.
                if !self.is_literal(right.clone()) {
                    self.wraps.push(Wrap { tokens: right, function: "weighed", is_tuple: false });
                }
                let negated = is_in && border > tokens.start && self.text(border - 1) == "not";
                let left = match (negated, index) {
                    (true, 0 | 1) => tokens.start..border - 1,
                    (true, _) => borders[index - 2] + 1..border - 1,
                    _ => start..border,
                };
                if is_in && !left.is_empty() && !self.is_literal(left.clone()) {
                    self.wraps.push(Wrap { tokens: left, function: "weighed", is_tuple: false });
                }
            }
            start = border + 1;
        }
        self.joins(start..tokens.end);
    }

    /// Whether the operand of a comparison ends before this token.
    fn is_border(&self, at: usize) -> bool {
        let before = |n: usize| at.checked_sub(n).map_or("", |at| self.text(at));
        let is_name =
            matches!(before(1), "." | "|" | "is") || (before(1) == "not" && before(2) == "is");
        match self.text(at) {
            "," | ":" | "=" | "==" | "!=" | "<" | ">" | "<=" | ">=" => true,
            "and" | "or" | "not" | "if" | "else" | "in" => !is_name,
            _ => false,
        }
    }

    /// Converts the operands of `~` to text first: minijinja prints lists and dicts unlike Python.
    fn joins(&mut self, tokens: Range<usize>) {
        let cuts: Vec<usize> = self
            .top(tokens.clone())
            .filter(|&at| match self.text(at) {
                "~" => true,
                "+" | "-" => at > tokens.start && self.ends_operand(at - 1),
                _ => false,
            })
            .collect();
        let mut start = tokens.start;
        for (index, end) in cuts.iter().copied().chain([tokens.end]).enumerate() {
            let is_joined = |cut: Option<&usize>| cut.is_some_and(|&at| self.text(at) == "~");
            let joined = is_joined(index.checked_sub(1).and_then(|i| cuts.get(i)))
                || is_joined(cuts.get(index));
            if joined
                && start < end
                && !(end - start == 1 && self.tag.tokens[start].kind == Kind::Text)
            {
                self.wraps.push(Wrap { tokens: start..end, function: "text", is_tuple: false });
            }
            start = end + 1;
        }
    }

    /// Whether a token ends an operand, so that a bracket after it is a call or a subscript.
    fn ends_operand(&self, at: usize) -> bool {
        let is_attribute = at > 0 && self.text(at - 1) == ".";
        match self.tag.tokens[at].kind {
            Kind::Number | Kind::Text => true,
            Kind::Word => is_attribute || !KEYWORDS.contains(&self.text(at)),
            Kind::Sign => matches!(self.text(at), ")" | "]" | "}"),
        }
    }

    /// A number, with its sign.
    fn is_number(&self, tokens: Range<usize>) -> bool {
        let last = tokens.end.checked_sub(1).filter(|_| !tokens.is_empty());
        last.is_some_and(|at| self.tag.tokens[at].kind == Kind::Number) && self.is_literal(tokens)
    }

    /// A number, a text, a constant, or a list of those.
    fn is_literal(&self, tokens: Range<usize>) -> bool {
        let is_plain = |at: usize| match self.tag.tokens[at].kind {
            Kind::Number | Kind::Text => true,
            Kind::Word => {
                matches!(self.text(at), "true" | "false" | "none" | "True" | "False" | "None")
            }
            Kind::Sign => self.text(at) == "-",
        };
        // A long literal is charged like any other value.
        if self.tag.tokens[tokens.clone()].iter().map(|token| token.at.len()).sum::<usize>() > 1024
        {
            return false;
        }
        let is_list = tokens.len() >= 2
            && self.text(tokens.start) == "["
            && self.tag.tokens[tokens.start].mate == Some(tokens.end - 1);
        if is_list {
            return (tokens.start + 1..tokens.end - 1)
                .all(|at| is_plain(at) || self.text(at) == ",");
        }
        tokens.len() <= 2 && tokens.clone().all(is_plain)
    }

    /// The indices of the tokens outside all brackets within `tokens`; of a bracket, both indices.
    fn top(&self, tokens: Range<usize>) -> impl Iterator<Item = usize> + use<'a> {
        let tag = self.tag;
        let mut at = tokens.start;
        std::iter::from_fn(move || {
            let here = (at < tokens.end).then_some(at)?;
            at = match tag.tokens[here].mate {
                Some(mate) if mate > here => mate,
                _ => here + 1,
            };
            Some(here)
        })
    }

    /// The parts of a list between its separators.
    fn parts(&self, tokens: Range<usize>, separator: &str) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let mut start = tokens.start;
        for at in self.top(tokens.clone()) {
            if self.text(at) == separator {
                parts.push(start..at);
                start = at + 1;
            }
        }
        parts.push(start..tokens.end);
        parts
    }

    fn text(&self, at: usize) -> &'a str {
        &self.source[self.tag.tokens[at].at.clone()]
    }

    fn write(mut self, out: &mut String) {
        let tokens = &self.tag.tokens;
        // An outer call is written before the calls inside it.
        self.wraps.sort_by_key(|wrap| (wrap.tokens.start, usize::MAX - wrap.tokens.end));
        let mut closings = vec![0; tokens.len() + 1];
        let mut wraps = self.wraps.iter().peekable();
        let (skipped, instead, last) = self.instead.clone().unwrap_or_default();
        let whole = &self.source[self.tag.at.clone()];
        let inside = tokens.first().map_or(self.tag.at.end - 2, |token| token.at.start);
        let head = &self.source[self.tag.at.start..inside];
        if self.instead.is_some() && skipped == tokens.len() && instead.is_empty() {
            // An empty comment keeps the tag's effect on the white space around it.
            let left = if whole.starts_with("{%-") { "-" } else { "" };
            let right = if whole.ends_with("-%}") { "-" } else { "" };
            out.push_str(&format!("{{#{left} {right}#}}"));
            return;
        }
        out.push_str(head);
        out.push_str(&instead);
        let mut copied = inside;
        for (at, token) in tokens.iter().enumerate().skip(skipped) {
            let from = if at == skipped && skipped > 0 { token.at.start } else { copied };
            out.push_str(&self.source[from..token.at.start]);
            while let Some(wrap) = wraps.next_if(|wrap| wrap.tokens.start == at) {
                let second = if wrap.is_tuple { "(" } else { "" };
                out.push_str(&format!(" {PREFIX}{}({second}", wrap.function));
                closings[wrap.tokens.end] += if wrap.is_tuple { 2 } else { 1 };
            }
            match self.hidden.iter().find(|hidden| hidden.contains(&at)) {
                None => out.push_str(&self.source[token.at.clone()]),
                Some(hidden) if hidden.start == at => out.push_str(&format!("{PREFIX}undefined")),
                Some(_) => {}
            }
            copied = token.at.end;
            out.push_str(&")".repeat(closings[at + 1]));
        }
        out.push_str(last);
        out.push_str(&self.source[copied.max(self.skipped_end(skipped))..self.tag.at.end]);
        if let Some(after) = &self.after {
            // The last added tag takes over the tag's effect on the white space after it.
            let has_flag = whole[..whole.len() - 2].ends_with(['-', '+']);
            out.push_str(&after[..after.len() - 2]);
            out.push_str(&whole[whole.len() - if has_flag { 3 } else { 2 }..]);
        }
    }

    /// The end of the replaced tokens.
    fn skipped_end(&self, skipped: usize) -> usize {
        skipped.checked_sub(1).map_or(0, |last| self.tag.tokens[last].at.end)
    }
}
