//! What an answer must look like, and how a grammar for llguidance says it.

use llguidance::api::{GrammarWithLexer, TopLevelGrammar};
use llguidance::{JsonCompileOptions, regex_to_lark};
use serde_json::{Number, Value, json};

use super::GrammarError;
use super::vocabulary::Vocabulary;

/// The longest JSON schema, as JSON text.
pub const MAX_SCHEMA_BYTES: usize = 512 << 10;
/// How deeply a schema may be nested.
pub const MAX_SCHEMA_DEPTH: usize = 64;
/// The longest regular expression or Lark grammar, and all choices together.
pub const MAX_TEXT_BYTES: usize = 64 << 10;
/// How deeply brackets may be nested in a regular expression or a Lark grammar.
pub const MAX_TEXT_DEPTH: usize = 64;
/// The most texts to choose from.
pub const MAX_CHOICES: usize = 4096;

/// White space between two parts of a JSON document. It is bounded: a model that has lost its way
/// likes to end in spaces without end.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";
/// Text without markers.
const FREE: &str = "/(?s:.+)/";
/// White space between a thought and an answer.
const SPACE: &str = r"/[ \t\r\n]{1,8}/";

/// What an answer must look like.
#[derive(Debug, Clone, PartialEq)]
pub enum Pattern {
    /// This text; where it is one of the model's marker tokens, that token.
    Text(String),
    /// Any text, or none. It holds no marker tokens.
    Free,
    /// Any text up to this one, and this one.
    Until(String),
    /// A little white space, or none.
    Space,
    /// A JSON document.
    Json {
        /// The JSON schema that it validates against.
        schema: Value,
        /// Keywords that cannot be enforced are errors; otherwise they are overlooked.
        exactly: bool,
    },
    /// A text that this regular expression (Rust syntax) matches from its begin to its end.
    Regex(String),
    /// A text of this Lark grammar, in llguidance's dialect.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// All of these, one after the other.
    All(Vec<Pattern>),
    /// One of these.
    Any(Vec<Pattern>),
    /// This, or nothing.
    Maybe(Box<Pattern>),
    /// This any number of times, or not at all.
    Many(Box<Pattern>),
}

impl Pattern {
    /// Any JSON object.
    pub fn json_object() -> Self {
        Self::Json { schema: json!({"type": "object"}), exactly: true }
    }

    /// This text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Refuses what is too large to be compiled in bounded time.
    pub(super) fn check(&self) -> Result<(), GrammarError> {
        let within = |what, is: usize, limit| match is > limit {
            true => Err(GrammarError::TooLarge { what, limit }),
            false => Ok(()),
        };
        let text = |text: &str| {
            within("bytes of text", text.len(), MAX_TEXT_BYTES)?;
            within("levels of brackets", brackets(text), MAX_TEXT_DEPTH)
        };
        match self {
            Self::Text(_) | Self::Until(_) | Self::Free | Self::Space => Ok(()),
            Self::Json { schema, .. } => {
                within("levels of nesting in a schema", depth(schema), MAX_SCHEMA_DEPTH)?;
                within("bytes of schema", schema.to_string().len(), MAX_SCHEMA_BYTES)?;
                numbers(schema)?;
                divisors(schema)
            }
            Self::Regex(regex) => text(regex),
            Self::Lark(lark) => text(lark),
            Self::Choice(texts) if texts.is_empty() => {
                Err(GrammarError::Invalid("there is nothing to choose from".to_owned()))
            }
            Self::Choice(texts) => {
                within("texts to choose from", texts.len(), MAX_CHOICES)?;
                within("bytes of text", texts.iter().map(String::len).sum(), MAX_TEXT_BYTES)
            }
            Self::All(patterns) | Self::Any(patterns) => patterns.iter().try_for_each(Self::check),
            Self::Maybe(pattern) | Self::Many(pattern) => pattern.check(),
        }
    }

    /// The grammar that says it, for a model.
    pub(super) fn to_grammar(
        &self,
        vocabulary: &Vocabulary,
    ) -> Result<TopLevelGrammar, GrammarError> {
        let mut writer = Writer { vocabulary, parts: Vec::new(), rules: String::new(), names: 0 };
        let start = writer.rule(self)?;
        let Writer { parts, rules, .. } = writer;
        // A part that is the whole needs nothing around it.
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

/// Writes a pattern as one Lark grammar and the grammars that it refers to.
struct Writer<'v> {
    vocabulary: &'v Vocabulary,
    parts: Vec<GrammarWithLexer>,
    /// Lines of Lark.
    rules: String,
    names: usize,
}

impl Writer<'_> {
    /// A pattern as it stands in a rule; what it needs goes to the other rules.
    fn rule(&mut self, pattern: &Pattern) -> Result<String, GrammarError> {
        Ok(match pattern {
            Pattern::Text(text) if text.is_empty() => "\"\"".to_owned(),
            Pattern::Text(text) => self.vocabulary.lark_of(text),
            Pattern::Free => "FREE?".to_owned(),
            Pattern::Until(text) => self.until(text),
            Pattern::Space => "SPACE?".to_owned(),
            Pattern::Json { schema, exactly } => {
                let schema = json_options(schema, *exactly)?;
                self.part(GrammarWithLexer {
                    json_schema: Some(schema),
                    ..GrammarWithLexer::default()
                })
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
        // Characters: the shortest text that ends in them.
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

/// The schema with how it is compiled. What the client wrote there itself goes: it could lift the
/// bounds.
fn json_options(schema: &Value, exactly: bool) -> Result<Value, GrammarError> {
    let mut schema = match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => {
            return Err(GrammarError::Invalid("the schema 'false' allows nothing".to_owned()));
        }
        Value::Object(_) => schema.clone(),
        _ => return Err(GrammarError::Invalid("a schema is an object or a boolean".to_owned())),
    };
    let options = JsonCompileOptions {
        whitespace_pattern: Some(JSON_SPACE.to_owned()),
        lenient: !exactly,
        coerce_one_of: !exactly,
        ..JsonCompileOptions::default()
    };
    options.apply_to(&mut schema);
    Ok(schema)
}

/// A regular expression between slashes.
fn literal(regex: &str) -> String {
    format!("/{}/", regex_to_lark(regex, ""))
}

/// A regular expression that matches this text alone.
fn escaped(text: &str) -> String {
    let mut regex = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            regex.push('\\');
        }
        regex.push(c);
    }
    regex
}

/// Of these keywords the values are no schemas.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];

/// Refuses bounds that a float does not hold exactly: they would be enforced wrongly.
fn numbers(schema: &Value) -> Result<(), GrammarError> {
    const BOUNDS: [&str; 4] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"];
    match schema {
        Value::Array(items) => items.iter().try_for_each(numbers),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            let bound = value.as_f64().filter(|_| BOUNDS.contains(&name.as_str()));
            match bound {
                Some(bound) if bound.abs() > 2f64.powi(53) => {
                    let what = format!("{name} {value} is beyond what can be enforced (2^53)");
                    Err(GrammarError::Invalid(what))
                }
                None if !DATA.contains(&name.as_str()) => numbers(value),
                _ => Ok(()),
            }
        }),
        _ => Ok(()),
    }
}

/// Refuses divisors that would take too long: llguidance looks at each remainder, without a limit of
/// its own. Several may have to hold at once, where schemas are put together.
fn divisors(schema: &Value) -> Result<(), GrammarError> {
    /// A second of computing.
    const MAX_DIVISOR: u128 = 100_000;
    let (mut found, mut are_combined) = (Vec::new(), false);
    collect_divisors(schema, &mut found, &mut are_combined);
    let refused = |what: &str| {
        let what = format!("{what}: what can be enforced is more than 0 and has up to 5 digits");
        Err(GrammarError::Invalid(what))
    };
    let mut all = Vec::new();
    for number in found {
        match decimal(number).filter(|(units, _)| (1..=MAX_DIVISOR).contains(units)) {
            Some(divisor) => all.push(divisor),
            None => return refused(&format!("multipleOf {number}")),
        }
    }
    let scale = all.iter().map(|(_, scale)| *scale).max().unwrap_or(0);
    let multiple = all.iter().try_fold(1, |multiple: u128, (units, own)| {
        let units = units.checked_mul(10_u128.checked_pow(scale - own)?)?;
        Some(multiple / gcd(multiple, units) * units).filter(|multiple| *multiple <= MAX_DIVISOR)
    });
    match are_combined && multiple.is_none() {
        true => refused("the least common multiple of all multipleOf"),
        false => Ok(()),
    }
}

/// Finds every `multipleOf`, and whether there is anything by which two may hold for one number.
fn collect_divisors<'a>(schema: &'a Value, found: &mut Vec<&'a Number>, are_combined: &mut bool) {
    match schema {
        Value::Array(items) => {
            items.iter().for_each(|item| collect_divisors(item, found, are_combined));
        }
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(name, _)| !DATA.contains(&name.as_str())) {
                *are_combined |= ["allOf", "anyOf", "oneOf", "$ref", "patternProperties"]
                    .contains(&name.as_str());
                match value {
                    Value::Number(number) if name == "multipleOf" => found.push(number),
                    _ => collect_divisors(value, found, are_combined),
                }
            }
        }
        _ => {}
    }
}

/// A number as so many units of ten to the minus so many. `None` for those that are negative or too
/// long.
fn decimal(number: &Number) -> Option<(u128, u32)> {
    let text = number.to_string();
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let units: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scale = fraction.len() as i32 - exponent.parse::<i32>().ok()?;
    match u32::try_from(scale) {
        Ok(scale) => Some((units, scale)),
        Err(_) => Some((units.checked_mul(10_u128.checked_pow(scale.unsigned_abs())?)?, 0)),
    }
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// How deeply a value is nested.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// How deeply brackets are nested, at most: those inside quotes count too.
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
