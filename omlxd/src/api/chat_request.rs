//! The one request for an answer to a conversation, which requests of every chat API are read into, and
//! the prompt that it becomes.

use std::time::SystemTime;

use engine::{CallIds, ChatInputs, ChatTemplate, Model, Takes, TemplateError};
use serde_json::{Map, Value, json};

use super::conversation::Message;
use super::params::Params;
use super::run::{Prompt, Wanted};
use super::tools::Tools;
use super::{dialect, fold};
use crate::error::ApiError;

/// A request that passed validation.
#[derive(Debug)]
pub(super) struct ChatRequest {
    /// What requests without a conversation have, too.
    pub params: Params,
    /// The conversation; not empty.
    pub messages: Vec<Message>,
    /// What the model may call.
    pub tools: Tools,
    /// How many of the likeliest tokens are wanted beside each token; `None`: no log probabilities.
    pub logprobs: Option<usize>,
    /// How much the model is to think, one of [`engine::EFFORTS`].
    pub effort: Option<&'static str>,
    /// Most tokens to think.
    pub thinking_budget: Option<usize>,
    /// Variables of the template, which win over all others.
    pub template_kwargs: Map<String, Value>,
    /// The field that holds the conversation, for errors.
    pub prompt_field: &'static str,
}

impl ChatRequest {
    /// What the template gets besides messages and tools. `reasoning_effort` goes by the name and the
    /// word that the template takes; `chat_template_kwargs` have the last word.
    fn kwargs(&self, template: &ChatTemplate, takes: &Takes) -> Map<String, Value> {
        let mut kwargs = Map::new();
        if let Some(effort) = self.effort {
            let can_switch_off = template.mentions("enable_thinking");
            if can_switch_off {
                kwargs.insert("enable_thinking".to_owned(), json!(effort != "none"));
            }
            let taken = takes.effort(effort);
            // A switch says better than a low effort that there are to be no thoughts.
            let taken = taken.filter(|word| effort != "none" || *word == "none" || !can_switch_off);
            if let Some(word) = taken {
                kwargs.insert("reasoning_effort".to_owned(), json!(word));
            }
        }
        kwargs.extend(self.template_kwargs.clone());
        kwargs
    }

    /// The conversation as text. What the template is known not to take is folded into what it takes; a
    /// conversation that it refuses all the same is folded further.
    pub(super) fn render(&self, template: &ChatTemplate, ids: CallIds) -> Result<String, ApiError> {
        let takes = template.takes(!self.tools.offered.is_empty());
        let kwargs = self.kwargs(template, takes);
        let now = SystemTime::now();
        let offered = &self.tools.offered[..];
        let render = |takes: &Takes, tools: &[Value]| {
            let mut messages = self.messages.iter().map(Message::for_template).collect::<Vec<_>>();
            dialect::adapt_to_template(&mut messages, takes, ids);
            template.render(&ChatInputs {
                messages: &fold::fit(messages, takes),
                tools: (!tools.is_empty()).then_some(tools),
                add_generation_prompt: true,
                kwargs: &kwargs,
                now,
            })
        };
        let first = render(takes, offered);
        if first.as_ref().is_err_and(is_refusal) {
            let filled = dialect::filled(offered);
            let tools = [Some(offered), Some(&filled[..]).filter(|filled| *filled != offered)];
            let less = takes.less();
            let attempts = std::iter::once(takes).chain(&less);
            let attempts =
                attempts.flat_map(|takes| tools.iter().flatten().map(move |tools| (takes, tools)));
            for (takes, tools) in attempts.skip(1) {
                match render(takes, tools) {
                    Err(error) if is_refusal(&error) => {}
                    rendered => {
                        return rendered
                            .map_err(|error| ApiError::template(self.prompt_field, &error));
                    }
                }
            }
            if let (Err(error), Some(place)) = (&first, self.refused_tool(template, &filled)) {
                return Err(ApiError::tool_template(place, error));
            }
        }
        first.map_err(|error| ApiError::template(self.prompt_field, &error))
    }

    /// Where the first tool stands that the template does not render, though it renders others.
    fn refused_tool(&self, template: &ChatTemplate, filled: &[Value]) -> Option<&str> {
        let messages = [json!({"role": "user", "content": "Hello."})];
        let is_refused = |tool: &Value| {
            let rendered = template.render(&ChatInputs {
                messages: &messages,
                tools: Some(std::slice::from_ref(tool)),
                add_generation_prompt: true,
                kwargs: &Map::new(),
                now: SystemTime::UNIX_EPOCH,
            });
            rendered.is_err_and(|error| is_refusal(&error))
        };
        let plain = json!({"type": "function", "function": {"name": "f"}});
        if dialect::filled(&[plain]).iter().any(is_refused) {
            return None;
        }
        let found = filled.iter().position(is_refused)?;
        self.tools.places.get(found).map(|place| place.trim_end_matches(".function"))
    }

    /// How many tools the request offers that the template does not show to the model.
    fn unshown_tools(&self, template: &ChatTemplate) -> usize {
        match self.tools.offered.len() {
            0 => 0,
            _ if template.takes(true).tools => 0,
            offered => offered,
        }
    }

    /// Renders and tokenizes: slow, and not for an async thread. Ends early when `wanted` says no.
    pub(super) fn prompt(&self, model: &Model, wanted: &Wanted) -> Result<Prompt, ApiError> {
        let template = model
            .chat_template()
            .ok_or_else(|| ApiError::no_template(self.prompt_field, &self.params.model))?;
        let text = self.render(template, model.output_format().call_ids())?;
        let tokens = model.encode(&text, false, wanted);
        let tokens = tokens.map_err(|error| ApiError::tokenize(self.prompt_field, &error))?;
        let Tools { offered, parallel, .. } = &self.tools;
        let parser = Some(model.output_format().parser(&text, offered, *parallel));
        let grammar = self.tools.grammar(model, &text, self.params.constraint.as_ref())?;
        let unshown_tools = self.unshown_tools(template);
        Ok(Prompt { tokens, echo: String::new(), parser, grammar, unshown_tools })
    }
}

/// Whether a template refused what it was given, rather than that it ran for too long.
fn is_refusal(error: &TemplateError) -> bool {
    matches!(error, TemplateError::Raised(_) | TemplateError::Failed(_))
}
