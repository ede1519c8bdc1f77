//! Descriptions of an answer, and their translation to grammars for llguidance.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{JsonCompileOptions, regex_to_lark};
use serde_json::{Value, json};

use super::error::GrammarError;
use super::schema;
use super::vocabulary::TokenTrie;
use crate::limits::{GRAMMAR_BYTES, GRAMMAR_CHOICES, GRAMMAR_LEVELS, SCHEMA_BYTES, SCHEMA_LEVELS};

/// White space between two parts of a JSON document. It is bounded, because a confused model tends
/// to emit spaces without end.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";
/// Characters that may follow a backslash in a string. `u` is not allowed, so that each property
/// name has a single spelling: with it, a declared name could be disguised as another one.
const ESCAPES: &str = "nrbtf\\\"";
/// Text without markers.
const FREE: &str = "/(?s:.+)/";
/// White space between reasoning and answer.
const SPACE: &str = r"/[ \t\r\n]{1,8}/";

/// A description of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// Exactly this text. If it is one of the model's marker tokens, that token.
    Text(String),
    /// Any text, also an empty one, without marker tokens.
    Free,
    /// Any text that ends with this one.
    Until(String),
    /// A little white space, or none.
    Space,
    /// A JSON document.
    Json {
        /// The JSON schema of the document.
        schema: Value,
        /// Whether keywords that cannot be enforced are errors; otherwise they are ignored.
        exactly: bool,
    },
    /// A text that this regular expression (Rust syntax) matches completely.
    Regex(String),
    /// A text of this Lark grammar, in llguidance's dialect.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// All of these patterns in sequence.
    All(Vec<Pattern>),
    /// One of these patterns.
    Any(Vec<Pattern>),
    /// This pattern, or nothing.
    Maybe(Box<Pattern>),
    /// This pattern any number of times, including zero.
    Many(Box<Pattern>),
}

impl Pattern {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::Json { schema: json!({"type": "object"}), exactly: true }
    }

    /// Exactly this text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Rejects patterns that are too large to be compiled in bounded time.
    pub(super) fn check(&self) -> Result<(), GrammarError> {
        let within = |what, is: usize, limit| {
            if is > limit { Err(GrammarError::TooLarge { what, limit }) } else { Ok(()) }
        };
        let text = |text: &str| {
            within("bytes of text", text.len(), GRAMMAR_BYTES)?;
            within("levels of brackets", brackets(text), GRAMMAR_LEVELS)
        };
        match self {
            Self::Text(_) | Self::Until(_) | Self::Free | Self::Space => Ok(()),
            Self::Json { schema, .. } => {
                within("levels of nesting in a schema", depth(schema), SCHEMA_LEVELS)?;
                within("bytes of schema", schema.to_string().len(), SCHEMA_BYTES)
            }
            Self::Regex(regex) => text(regex),
            Self::Lark(lark) => text(lark),
            Self::Choice(texts) if texts.is_empty() => {
                Err(GrammarError::Invalid("there is nothing to choose from".to_owned()))
            }
            Self::Choice(texts) => {
                within("texts to choose from", texts.len(), GRAMMAR_CHOICES)?;
                within("bytes of text", texts.iter().map(String::len).sum(), GRAMMAR_BYTES)
            }
            Self::All(patterns) | Self::Any(patterns) => patterns.iter().try_for_each(Self::check),
            Self::Maybe(pattern) | Self::Many(pattern) => pattern.check(),
        }
    }

    /// Translates the pattern to a grammar for a model.
    pub(super) fn to_grammar(
        &self,
        vocabulary: &TokenTrie,
    ) -> Result<TopLevelGrammar, GrammarError> {
        let mut writer = Writer { vocabulary, parts: Vec::new(), rules: String::new(), names: 0 };
        let start = writer.rule(self)?;
        let Writer { parts, rules, .. } = writer;
        // A single part needs no grammar around it.
        if let ([part], "@part0") = (parts.as_slice(), start.as_str()) {
            return Ok(TopLevelGrammar::from_grammar(part.clone()));
        }
        let lark = format!("start: {start}\nFREE: {FREE}\nSPACE: {SPACE}\n{rules}");
        let whole = GrammarWithLexer { name: Some("whole".to_owned()), ..lark_part(lark) };
        let grammars = std::iter::once(whole).chain(parts).collect();
        Ok(TopLevelGrammar { grammars, max_tokens: None })
    }
}

fn lark_part(lark: String) -> GrammarWithLexer {
    GrammarWithLexer { lark_grammar: Some(lark), ..GrammarWithLexer::default() }
}

/// A JSON grammar of a schema from [`schema::prepare`].
pub(super) fn json_part(schema: Value) -> GrammarWithLexer {
    GrammarWithLexer { json_schema: Some(with_options(schema)), ..GrammarWithLexer::default() }
}

/// Writes a pattern as one Lark grammar and the grammars that it refers to.
struct Writer<'v> {
    vocabulary: &'v TokenTrie,
    parts: Vec<GrammarWithLexer>,
    /// Lines of Lark.
    rules: String,
    names: usize,
}

impl Writer<'_> {
    /// Returns a pattern as part of a rule, and adds the rules that it needs.
    fn rule(&mut self, pattern: &Pattern) -> Result<String, GrammarError> {
        Ok(match pattern {
            Pattern::Text(text) if text.is_empty() => "\"\"".to_owned(),
            Pattern::Text(text) => self.vocabulary.lark_of(text),
            Pattern::Free => "FREE?".to_owned(),
            Pattern::Until(text) => self.until(text),
            Pattern::Space => "SPACE?".to_owned(),
            Pattern::Json { schema, exactly } => {
                let schema = schema::prepare(schema, *exactly)?;
                self.part(json_part(schema))
            }
            Pattern::Regex(regex) => self.part(lark_part(format!("start: {}", literal(regex)))),
            Pattern::Lark(lark) => self.part(lark_part(lark.clone())),
            Pattern::Choice(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| escaped(text)).collect();
                let regex = literal(&format!("(?:{})", texts.join("|")));
                self.part(lark_part(format!("start: {regex}")))
            }
            Pattern::All(patterns) => self.list(patterns, " ")?,
            Pattern::Any(patterns) => self.list(patterns, " | ")?,
            Pattern::Maybe(pattern) => format!("({})?", self.rule(pattern)?),
            Pattern::Many(pattern) => format!("({})*", self.rule(pattern)?),
        })
    }

    fn list(&mut self, patterns: &[Pattern], between: &str) -> Result<String, GrammarError> {
        let rules: Result<Vec<String>, _> = patterns.iter().map(|p| self.rule(p)).collect();
        Ok(format!("({})", rules?.join(between)))
    }

    fn until(&mut self, text: &str) -> String {
        let end = self.vocabulary.lark_of(text);
        if end.starts_with('<') {
            return format!("FREE? {end}");
        }
        // Without a token: the shortest text that ends with these characters.
        let name = format!("until{}", self.names);
        self.names += 1;
        self.rules.push_str(&format!("{name}[suffix={end}]: /(?s:.*)/\n"));
        name
    }

    fn part(&mut self, grammar: GrammarWithLexer) -> String {
        let name = format!("part{}", self.parts.len());
        self.parts.push(GrammarWithLexer { name: Some(name.clone()), ..grammar });
        format!("@{name}")
    }
}

/// Adds compile options to a schema from [`schema::prepare`].
fn with_options(mut schema: Value) -> Value {
    let options = JsonCompileOptions {
        whitespace_pattern: Some(JSON_SPACE.to_owned()),
        json_allowed_escapes: Some(ESCAPES.to_owned()),
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    schema
}

/// A regular expression between slashes.
fn literal(regex: &str) -> String {
    format!("/{}/", regex_to_lark(regex, ""))
}

/// A regular expression that matches only this text.
pub(super) fn escaped(text: &str) -> String {
    let mut regex = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            regex.push('\\');
        }
        regex.push(c);
    }
    regex
}

/// The nesting depth of a value.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The maximum nesting depth of brackets; those inside quotes count too.
fn brackets(text: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for c in text.chars() {
        match c {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}
