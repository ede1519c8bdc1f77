//! Detects a model's output format.

use std::sync::Arc;

use super::input::Marker;
use super::layout::Layout;
use super::reader::Reader;
use super::{harmony, sectioned};
use crate::text::template::ChatTemplate;
use crate::text::tokenizer::Tokenizer;

/// The token that is part of every marker of DeepSeek V3.2.
const DSML: &str = "\u{ff5c}DSML\u{ff5c}";

/// A model's format for reasoning and tool calls. Clones share it.
#[derive(Debug, Clone)]
pub struct OutputFormat {
    pub(super) inner: Arc<Inner>,
}

/// The ids that a model's template accepts for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallIds {
    /// Any id, or none.
    Any,
    /// `functions.NAME:NUMBER`, numbered through the conversation, as Kimi K2 writes its calls.
    Numbered,
    /// Nine letters and digits: Mistral's templates reject other ids.
    Short,
}

/// The parts of a format. Each of them is optional.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) thinking: Option<Thinking>,
    pub(super) calls: Option<CallFormat>,
    /// The whole answer has gpt-oss's format; then all other parts are unset.
    pub(super) harmony: Option<harmony::Markers>,
}

/// The markers around reasoning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thinking {
    pub(super) open: Marker,
    pub(super) close: Marker,
    /// A line after `open` that is not part of the reasoning.
    pub(super) label: &'static str,
}

/// The format of tool calls.
#[derive(Debug, Clone, Copy)]
pub(super) enum CallFormat {
    /// Hermes, Qwen: JSON objects between two markers.
    Tagged { open: Marker, close: Marker },
    /// Llama 3: JSON objects, either bare at the start of an answer or after a marker.
    Llama { open: Marker },
    /// Qwen3-Coder, MiniMax, GLM, DeepSeek V3.2: a name and separate parameters.
    Pairs(Layout),
    /// DeepSeek up to V3.1, Kimi K2.
    Sectioned { markers: sectioned::Markers, is_kimi: bool },
    /// Mistral.
    Mistral { open: Marker, args: Marker, id: Marker },
    /// Gemma.
    Gemma { open: Marker, quote: Marker, close: Marker },
}

impl OutputFormat {
    /// The format in which everything is text.
    pub fn plain() -> Self {
        Self { inner: Arc::default() }
    }

    /// Detects the format of a model from its template and vocabulary.
    pub(crate) fn detect(template: Option<&ChatTemplate>, tokenizer: &Tokenizer) -> Self {
        match template {
            Some(template) => Self::of(|text| template.mentions(text), tokenizer),
            None => Self::plain(),
        }
    }

    /// Detects the format of a template with the texts for which `says` is true. The most specific
    /// texts come first: several formats share `<tool_call>`.
    pub(super) fn of(says: impl Fn(&str) -> bool, tokenizer: &Tokenizer) -> Self {
        let marker = |text| Marker::new(text, tokenizer);
        let harmony = says("<|channel|>") && says("<|message|>");
        let inner = if harmony {
            Inner { harmony: Some(harmony_markers(&marker)), ..Inner::default() }
        } else {
            Inner {
                thinking: thinking(&says, &marker),
                calls: call_format(&says, &marker),
                harmony: None,
            }
        };
        Self { inner: Arc::new(inner) }
    }

    /// The ids that its template accepts for a call.
    pub fn call_ids(&self) -> CallIds {
        match self.inner.calls {
            Some(CallFormat::Sectioned { is_kimi: true, .. }) => CallIds::Numbered,
            Some(CallFormat::Mistral { .. }) => CallIds::Short,
            _ => CallIds::Any,
        }
    }
}

fn thinking(
    says: &impl Fn(&str) -> bool,
    marker: &impl Fn(&'static str) -> Marker,
) -> Option<Thinking> {
    let pairs = [
        ("<|channel>", "<channel|>", "thought\n"),
        ("[THINK]", "[/THINK]", ""),
        ("<think>", "</think>", ""),
    ];
    let (open, close, label) = pairs.into_iter().find(|(_, close, _)| says(close))?;
    Some(Thinking { open: marker(open), close: marker(close), label })
}

fn call_format(
    says: &impl Fn(&str) -> bool,
    marker: &impl Fn(&'static str) -> Marker,
) -> Option<CallFormat> {
    let open_close = (marker("<tool_call>"), marker("</tool_call>"));
    Some(if says("<|tool_call>") && says("<|\"|>") {
        CallFormat::Gemma {
            open: marker("<|tool_call>"),
            quote: marker("<|\"|>"),
            close: marker("<tool_call|>"),
        }
    } else if says("<start_function_call>") {
        CallFormat::Gemma {
            open: marker("<start_function_call>"),
            quote: marker("<escape>"),
            close: marker("<end_function_call>"),
        }
    } else if says(DSML) {
        let (open, close) = if says("tool_calls>") && !says("function_calls>") {
            ("<\u{ff5c}DSML\u{ff5c}tool_calls>", "</\u{ff5c}DSML\u{ff5c}tool_calls>")
        } else {
            ("<\u{ff5c}DSML\u{ff5c}function_calls>", "</\u{ff5c}DSML\u{ff5c}function_calls>")
        };
        CallFormat::Pairs(dsml_layout(Marker::spelled(open), Marker::spelled(close), marker(DSML)))
    } else if says("<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>") {
        CallFormat::Sectioned { markers: deepseek_markers(marker), is_kimi: false }
    } else if says("<|tool_calls_section_begin|>") {
        CallFormat::Sectioned { markers: kimi_markers(marker), is_kimi: true }
    } else if says("<minimax:tool_call>") {
        CallFormat::Pairs(minimax_layout(marker))
    } else if says("[TOOL_CALLS]") {
        CallFormat::Mistral {
            open: marker("[TOOL_CALLS]"),
            args: marker("[ARGS]"),
            id: marker("[CALL_ID]"),
        }
    } else if says("<arg_key>") {
        CallFormat::Pairs(glm_layout(marker))
    } else if says("<function=") && says("<parameter=") {
        CallFormat::Pairs(Layout::functions(open_close.0, open_close.1))
    } else if says("<tool_call>") {
        CallFormat::Tagged { open: open_close.0, close: open_close.1 }
    } else if says("<|start_header_id|>") && says("\"parameters\": ") {
        CallFormat::Llama { open: marker("<|python_tag|>") }
    } else {
        return None;
    })
}

fn harmony_markers(marker: &impl Fn(&'static str) -> Marker) -> harmony::Markers {
    harmony::Markers {
        start: marker("<|start|>"),
        channel: marker("<|channel|>"),
        message: marker("<|message|>"),
        constrain: marker("<|constrain|>"),
        ends: [marker("<|end|>"), marker("<|call|>"), marker("<|return|>")],
    }
}

fn deepseek_markers(marker: &impl Fn(&'static str) -> Marker) -> sectioned::Markers {
    sectioned::Markers {
        open: marker("<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}>"),
        call: marker("<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>"),
        separator: marker("<\u{ff5c}tool\u{2581}sep\u{ff5c}>"),
        call_end: marker("<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>"),
        close: marker("<\u{ff5c}tool\u{2581}calls\u{2581}end\u{ff5c}>"),
    }
}

fn kimi_markers(marker: &impl Fn(&'static str) -> Marker) -> sectioned::Markers {
    sectioned::Markers {
        open: marker("<|tool_calls_section_begin|>"),
        call: marker("<|tool_call_begin|>"),
        separator: marker("<|tool_call_argument_begin|>"),
        call_end: marker("<|tool_call_end|>"),
        close: marker("<|tool_calls_section_end|>"),
    }
}

fn minimax_layout(marker: &impl Fn(&'static str) -> Marker) -> Layout {
    Layout {
        open: marker("<minimax:tool_call>"),
        name: Some((Marker::spelled("<invoke name="), Marker::spelled(">"))),
        key: (Marker::spelled("<parameter name="), Marker::spelled(">")),
        value: None,
        value_end: Marker::spelled("</parameter>"),
        function_end: Some(Marker::spelled("</invoke>")),
        close: marker("</minimax:tool_call>"),
        lines: false,
        prefix: None,
    }
}

fn glm_layout(marker: &impl Fn(&'static str) -> Marker) -> Layout {
    Layout {
        open: marker("<tool_call>"),
        name: None,
        key: (marker("<arg_key>"), marker("</arg_key>")),
        value: Some(marker("<arg_value>")),
        value_end: marker("</arg_value>"),
        function_end: None,
        close: marker("</tool_call>"),
        lines: false,
        prefix: None,
    }
}

fn dsml_layout(open: Marker, close: Marker, prefix: Marker) -> Layout {
    let end = Marker::spelled(">");
    Layout {
        open,
        name: Some((Marker::spelled("<\u{ff5c}DSML\u{ff5c}invoke name="), end)),
        key: (Marker::spelled("<\u{ff5c}DSML\u{ff5c}parameter name="), end),
        value: None,
        value_end: Marker::spelled("</\u{ff5c}DSML\u{ff5c}parameter>"),
        function_end: Some(Marker::spelled("</\u{ff5c}DSML\u{ff5c}invoke>")),
        close,
        lines: false,
        prefix: Some(prefix),
    }
}

impl Inner {
    /// Tokens with a meaning in this format.
    pub(super) fn markers(&self) -> Vec<u32> {
        let thinking = self.thinking.iter().flat_map(|thinking| [thinking.open, thinking.close]);
        let calls = self.calls.iter().flat_map(CallFormat::markers);
        let harmony = self.harmony.iter().flat_map(harmony::Markers::all);
        thinking.chain(calls).chain(harmony).filter_map(|marker| marker.id).collect()
    }
}

impl CallFormat {
    /// The marker that begins a call.
    pub(super) fn opener(&self) -> Marker {
        match *self {
            Self::Tagged { open, .. }
            | Self::Llama { open }
            | Self::Pairs(Layout { open, .. })
            | Self::Mistral { open, .. }
            | Self::Gemma { open, .. } => open,
            Self::Sectioned { markers, .. } => markers.open,
        }
    }

    /// What a call begins with if its opener was omitted: only at the start of a line, or anywhere
    /// if it is a token.
    pub(super) fn bare_opener(&self) -> Option<Marker> {
        match self {
            Self::Pairs(layout) => layout.name.map(|(open, _)| open),
            Self::Sectioned { markers, .. } => Some(markers.call),
            _ => None,
        }
    }

    /// The line breaks between a text and its calls, which belong to neither.
    pub(super) fn gap(&self) -> &'static str {
        match self {
            Self::Pairs(Layout { prefix: Some(_), .. }) => "\n\n",
            _ => "\n",
        }
    }

    /// Whether an answer may begin with a call without an opening marker.
    pub(super) fn is_bare(&self) -> bool {
        matches!(self, Self::Llama { .. })
    }

    /// Whether the template shows calls as JSON objects with a name and arguments.
    pub(super) fn is_json(&self) -> bool {
        match self {
            Self::Tagged { .. } | Self::Llama { .. } => true,
            Self::Mistral { args, .. } => args.id.is_none(),
            Self::Pairs(_) | Self::Sectioned { .. } | Self::Gemma { .. } => false,
        }
    }

    /// All markers of this format.
    pub(super) fn markers(&self) -> Vec<Marker> {
        match *self {
            Self::Tagged { open, close } => vec![open, close],
            Self::Llama { open } => vec![open],
            Self::Pairs(layout) => layout.markers(),
            Self::Sectioned { markers, .. } => markers.all().to_vec(),
            Self::Mistral { open, args, id } => vec![open, args, id],
            Self::Gemma { open, quote, close } => vec![open, quote, close],
        }
    }

    /// The reader for calls after an opener.
    pub(super) fn reader(&self) -> Reader {
        match *self {
            Self::Tagged { open, close } => Reader::json(Some((open, close))),
            Self::Llama { .. } => Reader::json(None),
            Self::Pairs(layout) => Reader::pairs(layout),
            Self::Sectioned { markers, .. } => Reader::sectioned(markers),
            Self::Mistral { open, args, id } => Reader::mistral(open, args, id),
            Self::Gemma { open, quote, close } => Reader::gemma(open, quote, close),
        }
    }
}
