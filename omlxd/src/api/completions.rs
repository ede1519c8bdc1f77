//! `POST /v1/completions`: the request, and the prompts that it becomes.

use bytes::Bytes;
use engine::{Model, TokenizeError};
use serde_json::{Map, Value};

use super::answer::Answer;
use super::completions_reply::CompletionsReply;
use super::params::{PARAMS, Params};
use super::parse::parse;
use super::read::{Fields, Path, out_of_range, wrong};
use super::reading::Reading;
use super::reply::{Identity, Reply};
use super::run::{self, ApiRequest, Prompt, Wanted};
use crate::auth::ApiCaller;
use crate::error::ApiError;
use crate::http::Call;
use crate::limits::CHOICES;

/// Tokens generated when the request does not say, as the API defines it.
const DEFAULT_MAX_TOKENS: usize = 16;
/// Most likely tokens that can be asked for beside each token.
const MAX_LOGPROBS: i64 = 5;

/// Fields of completion requests besides the shared ones.
const FIELDS: &[&str] = &["prompt", "echo", "logprobs", "suffix", "best_of"];

/// Answers `POST /v1/completions`.
pub(super) async fn create(
    caller: ApiCaller,
    call: &Call,
    body: Bytes,
) -> Result<Answer, ApiError> {
    let request = parse(caller, call, body, CompletionsRequest::read).await?;
    run::answer(caller, call, request).await
}

/// A completion request that passed validation.
#[derive(Debug)]
pub(super) struct CompletionsRequest {
    params: Params,
    prompts: Vec<Input>,
    echo: bool,
    logprobs: Option<usize>,
}

/// One prompt as it came.
#[derive(Debug, PartialEq)]
enum Input {
    Text(String),
    Tokens(Vec<u32>),
}

impl CompletionsRequest {
    /// Validates a body. E3 to E9.
    pub(super) fn read(body: &Map<String, Value>, reading: &Reading) -> Result<Self, ApiError> {
        let path = Path::Root;
        let fields = Fields::new(body, &path);
        for name in fields.unknown(PARAMS).filter(|name| !FIELDS.contains(name)) {
            reading.ignore(&path.field(name))?;
        }
        let params = Params::read(&fields, reading)?;
        let prompts = prompts(&fields)?;
        if prompts.len() * params.n > CHOICES {
            let what = format_args!(
                "{} prompts with n = {} make more than {CHOICES} choices",
                prompts.len(),
                params.n
            );
            return Err(ApiError::unsupported_value("prompt", what));
        }
        let echo = fields.boolean("echo")?.unwrap_or(false);
        let logprobs = fields.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|top| top as usize);
        if echo && logprobs.is_some() {
            let what =
                "log probabilities of the prompt are not supported: use one without the other";
            return Err(ApiError::unsupported_value("echo", what));
        }
        if fields.string("suffix")?.is_some_and(|suffix| !suffix.is_empty()) {
            return Err(ApiError::unsupported_parameter("suffix", ""));
        }
        best_of(&fields, params.n)?;
        Ok(CompletionsRequest { params, prompts, echo, logprobs })
    }
}

fn best_of(fields: &Fields<'_, '_>, n: usize) -> Result<(), ApiError> {
    let Some(best_of) = fields.integer("best_of", 0..=20)? else { return Ok(()) };
    // 0 and 1 are what a client sends that does not mean it.
    let best_of = best_of.max(1) as usize;
    if best_of < n {
        return Err(ApiError::invalid_value(
            "best_of",
            format_args!("it must be at least n = {n}"),
        ));
    }
    if best_of > n {
        return Err(ApiError::unsupported_value("best_of", "only the value of 'n' is supported"));
    }
    Ok(())
}

fn prompts(fields: &Fields<'_, '_>) -> Result<Vec<Input>, ApiError> {
    let path = fields.path().field("prompt");
    let list = match fields.required("prompt")? {
        Value::String(text) => return Ok(vec![Input::Text(text.clone())]),
        Value::Array(list) => list,
        other => return Err(wrong(&path, "a string or an array", other)),
    };
    match list.first() {
        None => Err(ApiError::invalid_value(path, "at least one prompt is needed")),
        Some(Value::Number(_)) => Ok(vec![Input::Tokens(token_ids(list, &path)?)]),
        Some(_) => list.iter().enumerate().map(|(i, item)| one(item, &path.index(i))).collect(),
    }
}

fn one(item: &Value, path: &Path<'_>) -> Result<Input, ApiError> {
    match item {
        Value::String(text) => Ok(Input::Text(text.clone())),
        Value::Array(ids) => Ok(Input::Tokens(token_ids(ids, path)?)),
        other => Err(wrong(path, "a string or an array of token ids", other)),
    }
}

fn token_ids(list: &[Value], path: &Path<'_>) -> Result<Vec<u32>, ApiError> {
    let id = |(index, value): (usize, &Value)| {
        let path = path.index(index);
        if !value.is_i64() && !value.is_u64() {
            return Err(wrong(&path, "a token id", value));
        }
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| out_of_range(&path, value, 0, u32::MAX))
    };
    list.iter().enumerate().map(id).collect()
}

impl ApiRequest for CompletionsRequest {
    const NAME: &'static str = "completions";
    const PROMPT_FIELD: &'static str = "prompt";
    type Reply = CompletionsReply;

    fn params(&self) -> &Params {
        &self.params
    }

    fn logprobs(&self) -> Option<usize> {
        self.logprobs
    }

    fn default_max_tokens(&self) -> usize {
        DEFAULT_MAX_TOKENS
    }

    fn goes_on(&self) -> bool {
        true
    }

    fn prompts(&self, model: &Model, wanted: &Wanted) -> Result<Vec<Prompt>, ApiError> {
        let tokenizer = model.tokenizer();
        let constraint = self.params.constraint.as_ref();
        let grammar = constraint.map(|constraint| {
            model.compile(&constraint.pattern).map_err(|error| constraint.refused(&error))
        });
        let grammar = grammar.transpose()?;
        let unusable = |error: TokenizeError| ApiError::tokenize("prompt", &error);
        let prompt = |input: &Input| {
            let (tokens, text) = match input {
                Input::Text(text) => (model.encode(text, true, wanted).map_err(unusable)?, None),
                Input::Tokens(ids) => {
                    let vocab = tokenizer.vocab_tokens();
                    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
                        let what = format_args!("{id} is not one of the model's {vocab} tokens");
                        return Err(ApiError::invalid_value("prompt", what));
                    }
                    (ids.clone(), self.echo.then(|| tokenizer.decode(ids, false)))
                }
            };
            let echo = match (self.echo, input) {
                (true, Input::Text(text)) => text.clone(),
                (true, Input::Tokens(_)) => text.unwrap_or_default(),
                (false, _) => String::new(),
            };
            Ok(Prompt { tokens, echo, parser: None, grammar: grammar.clone(), unshown_tools: 0 })
        };
        self.prompts.iter().map(prompt).collect()
    }

    fn reply(&self, identity: Identity, model: &Model) -> CompletionsReply {
        let reply = Reply::new(&identity, "text_completion", &self.params);
        CompletionsReply::new(reply, model.tokenizer().clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: Value) -> Result<CompletionsRequest, ApiError> {
        CompletionsRequest::read(body.as_object().unwrap(), &Reading::new(false, 8, 4))
    }

    #[test]
    fn a_prompt_has_four_shapes() {
        let shapes = [
            (json!("a"), vec![Input::Text("a".into())]),
            (json!(["a", "b"]), vec![Input::Text("a".into()), Input::Text("b".into())]),
            (json!([1, 2]), vec![Input::Tokens(vec![1, 2])]),
            (json!([[1], [2, 3]]), vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])]),
        ];
        for (prompt, expected) in shapes {
            assert_eq!(read(json!({"model": "m", "prompt": prompt})).unwrap().prompts, expected);
        }
    }

    #[test]
    fn each_refusal_names_its_path() {
        let cases = [
            (json!({}), "missing_required_parameter", "prompt"),
            (json!({"prompt": []}), "invalid_value", "prompt"),
            (json!({"prompt": 3}), "invalid_type", "prompt"),
            (json!({"prompt": [1, "a"]}), "invalid_type", "prompt[1]"),
            (json!({"prompt": [[1, -1]]}), "invalid_value", "prompt[0][1]"),
            (json!({"prompt": ["a", 2]}), "invalid_type", "prompt[1]"),
            (json!({"prompt": "a", "logprobs": 6}), "invalid_value", "logprobs"),
            (json!({"prompt": "a", "suffix": "x"}), "unsupported_parameter", "suffix"),
            (json!({"prompt": "a", "best_of": 2}), "unsupported_value", "best_of"),
            (json!({"prompt": "a", "best_of": 1, "n": 2}), "invalid_value", "best_of"),
            (json!({"prompt": "a", "best_of": 21}), "invalid_value", "best_of"),
            (json!({"prompt": "a", "echo": true, "logprobs": 1}), "unsupported_value", "echo"),
            (json!({"prompt": vec!["a"; 65], "n": 2}), "unsupported_value", "prompt"),
        ];
        for (mut body, code, param) in cases {
            body["model"] = json!("m");
            let error = read(body).unwrap_err();
            assert_eq!((error.label(), error.param()), (code, Some(param)));
        }
    }
}
