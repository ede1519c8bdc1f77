//! `omlxctl chat`: what any OpenAI client does, over the daemon's HTTP API.
//!
//! The admin socket gives the address, the key and the model; the conversation itself goes over TCP
//! as everybody else's does, so that what works here works for them.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use omlxctl::client::{self, ClientError};
use omlxctl::protocol::{ApiKey, Models, Status};

use crate::api::reachable;
use crate::cli::Chat;
use crate::context::Context;
use crate::exit::CommandError;
use crate::output::dim;

/// Longest line of the stream: far more than one token takes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Longest prompt read from standard input.
const MAX_PROMPT_BYTES: u64 = 64 << 20;

/// A finished answer, which `--json` prints.
#[derive(Debug, Default, PartialEq, Serialize)]
struct Answer {
    model: String,
    content: String,
    finish_reason: Option<String>,
    usage: Option<Value>,
}

/// Says the prompt, or talks until end of input.
pub(crate) async fn run(
    context: &Context,
    options: Chat,
    timeout: Duration,
) -> Result<(), CommandError> {
    let mut chat = Conversation::open(context, options, timeout).await?;
    if let Some(prompt) = chat.first_prompt()? {
        return chat.say(prompt).await;
    }
    let mut input = io::stdin().lock();
    loop {
        write!(io::stderr(), "{}> ", chat.model)?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            writeln!(io::stderr())?;
            return Ok(());
        }
        if !line.trim().is_empty() {
            chat.say(line.trim().to_owned()).await?;
        }
    }
}

struct Conversation<'a> {
    context: &'a Context,
    options: Chat,
    timeout: Duration,
    address: SocketAddr,
    key: Option<String>,
    model: String,
    messages: Vec<Value>,
}

impl<'a> Conversation<'a> {
    async fn open(
        context: &'a Context,
        mut options: Chat,
        timeout: Duration,
    ) -> Result<Conversation<'a>, CommandError> {
        let status: Status = context.get("/status").await?;
        let key: ApiKey = context.get("/key").await?;
        let models: Models = context.get("/models").await?;
        let model = choose_model(&mut options, &models)?;
        let address = reachable(&status.http).ok_or_else(|| {
            CommandError::Failed(format!("{} is not an address to connect to", status.http))
        })?;
        let system = options.system.iter().map(|text| json!({"role": "system", "content": text}));
        let messages = system.collect();
        Ok(Conversation { context, timeout, address, key: key.key, model, messages, options })
    }

    /// The prompt of the command line, else all of a piped standard input; none on a terminal.
    fn first_prompt(&mut self) -> Result<Option<String>, CommandError> {
        if let Some(prompt) = self.options.prompt.take() {
            return Ok(Some(prompt));
        }
        if io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut prompt = String::new();
        io::stdin().lock().take(MAX_PROMPT_BYTES).read_to_string(&mut prompt)?;
        let prompt = prompt.trim();
        if prompt.is_empty() {
            return Err(CommandError::Usage("there is no prompt: name one, or pipe one in".into()));
        }
        Ok(Some(prompt.to_owned()))
    }

    async fn say(&mut self, prompt: String) -> Result<(), CommandError> {
        self.messages.push(json!({"role": "user", "content": prompt}));
        let response = tokio::time::timeout(self.timeout, self.send()).await;
        let response = response.unwrap_or(Err(ClientError::Timeout(self.timeout).into()))?;
        let answer = self.read(response).await?;
        self.messages.push(json!({"role": "assistant", "content": answer.content}));
        // As text it was printed while it came.
        self.context.output.document(&answer, |_| Ok(()))?;
        Ok(())
    }

    async fn send(&self) -> Result<Response<Incoming>, CommandError> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| {
            CommandError::Unreachable(format!("cannot reach the API on {}: {error}", self.address))
        })?;
        let mut request = Request::builder()
            .method(Method::POST)
            .uri("/v1/chat/completions")
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        let body = Full::from(Bytes::from(self.body().to_string()));
        let request =
            request.body(body).map_err(|error| CommandError::Failed(error.to_string()))?;
        Ok(client::send(stream, request).await?)
    }

    fn body(&self) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": self.messages,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let options = [
            ("max_completion_tokens", self.options.max_tokens.map(Value::from)),
            ("temperature", self.options.temperature.map(Value::from)),
            ("seed", self.options.seed.map(Value::from)),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    }

    /// Reads the stream, printing the text as it comes.
    async fn read(&self, response: Response<Incoming>) -> Result<Answer, CommandError> {
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() {
            let text = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let message = serde_json::from_slice(&text).ok().and_then(|value| message_of(&value));
            return Err(CommandError::Failed(
                message.unwrap_or_else(|| format!("status {status}")),
            ));
        }
        let mut lines = Lines::default();
        let mut answer = Answer { model: self.model.clone(), ..Answer::default() };
        let mut screen =
            Screen { is_terminal: io::stdout().is_terminal(), dim, is_thinking: false };
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::Broken(error.to_string()))?;
            let Ok(data) = frame.into_data() else { continue };
            for line in lines.feed(&data)? {
                let Some(data) = line.strip_prefix("data:") else { continue };
                if data.trim() == "[DONE]" {
                    return self.finish(answer);
                }
                self.chunk(data, &mut answer, &mut screen)?;
            }
        }
        Err(CommandError::Failed("the answer ended early: the daemon closed the stream".into()))
    }

    fn chunk(
        &self,
        data: &str,
        answer: &mut Answer,
        screen: &mut Screen,
    ) -> Result<(), CommandError> {
        let value: Value = serde_json::from_str(data)
            .map_err(|error| ClientError::Broken(format!("a chunk is not JSON: {error}")))?;
        if value.get("error").is_some() {
            let message = message_of(&value).unwrap_or_else(|| "the request failed".to_owned());
            return Err(CommandError::Failed(message));
        }
        let chunk = Chunk::deserialize(value)
            .map_err(|error| ClientError::Broken(format!("a chunk has another form: {error}")))?;
        answer.usage = chunk.usage.or(answer.usage.take());
        for choice in chunk.choices {
            answer.finish_reason = choice.finish_reason.or(answer.finish_reason.take());
            let text = choice.delta.content.unwrap_or_default();
            answer.content.push_str(&text);
            if !self.context.output.json {
                let thoughts = choice.delta.reasoning_content.unwrap_or_default();
                print(&screen.piece(&thoughts, &text))?;
            }
        }
        Ok(())
    }

    fn finish(&self, answer: Answer) -> Result<Answer, CommandError> {
        if !self.context.output.json && !answer.content.ends_with('\n') {
            print("\n")?;
        }
        Ok(answer)
    }
}

/// One chunk of the stream: the fields that are shown.
#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct Delta {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    reasoning_content: Option<String>,
}

/// How an answer looks while it comes.
struct Screen {
    is_terminal: bool,
    dim: fn(&str) -> String,
    is_thinking: bool,
}

impl Screen {
    /// What is printed of a piece. On a terminal, thoughts come first and dimmed, and control
    /// characters are left out: what a model says must not move the cursor or change the terminal.
    fn piece(&mut self, thoughts: &str, text: &str) -> String {
        if !self.is_terminal {
            return text.to_owned();
        }
        let plain = |text: &str| -> String {
            text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
        };
        let mut shown = String::new();
        if !thoughts.is_empty() {
            self.is_thinking = true;
            shown.push_str(&(self.dim)(&plain(thoughts)));
        }
        if !text.is_empty() {
            if std::mem::take(&mut self.is_thinking) {
                shown.push_str("\n\n");
            }
            shown.push_str(&plain(text));
        }
        shown
    }
}

fn message_of(value: &Value) -> Option<String> {
    Some(value.get("error")?.get("message")?.as_str()?.to_owned())
}

/// Prints at once.
fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The model that was named, else the daemon's choice. A single argument with a space in it is a
/// prompt; any other single argument must be a model, so that a slip is not sent as a prompt.
fn choose_model(options: &mut Chat, models: &Models) -> Result<String, CommandError> {
    let known = |id: &str| {
        models.models.iter().any(|model| model.id == id || model.aliases.iter().any(|a| a == id))
    };
    if let Some(word) = options.model.take() {
        if known(&word) || options.prompt.is_some() {
            return Ok(word);
        }
        if !word.contains(char::is_whitespace) {
            let ids: Vec<_> = models.models.iter().map(|model| model.id.as_str()).collect();
            return Err(CommandError::Usage(format!(
                "no model is called {word} (there is: {}); a prompt of one word needs the model before it",
                ids.join(", ")
            )));
        }
        options.prompt = Some(word);
    }
    models.default.clone().ok_or_else(|| {
        CommandError::Failed(
            "no model that can run was found: get one with `omlxctl pull org/name`; `omlxctl models` \
             says what is wrong with those that are there"
                .into(),
        )
    })
}

/// Puts lines together from pieces of any size, which may end inside a character.
#[derive(Default)]
struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// The lines that this piece completes.
    fn feed(&mut self, piece: &[u8]) -> Result<Vec<String>, ClientError> {
        self.rest.extend_from_slice(piece);
        let complete = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..complete).collect();
        if self.rest.len() > MAX_LINE_BYTES {
            return Err(ClientError::Broken("a line of the stream never ends".into()));
        }
        let text = String::from_utf8(lines)
            .map_err(|_| ClientError::Broken("the stream is not UTF-8".into()))?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use omlxctl::protocol::KnownModel;

    use super::*;

    #[test]
    fn a_stream_cut_at_every_byte_gives_the_same_lines() {
        let stream =
            "data: {\"a\":\"\u{e9}\u{1f600}\"}\n\n: keepalive\n\ndata: [DONE]\n\n".as_bytes();
        let whole = Lines::default().feed(stream).unwrap();
        assert_eq!(whole.len(), 6);
        for cut in 0..=stream.len() {
            let mut lines = Lines::default();
            let mut got = lines.feed(&stream[..cut]).unwrap();
            got.extend(lines.feed(&stream[cut..]).unwrap());
            assert_eq!(got, whole, "cut at {cut}");
        }
        assert!(Lines::default().feed(&vec![b'x'; MAX_LINE_BYTES + 1]).is_err());
    }

    #[test]
    fn thoughts_are_dimmed_on_a_terminal_and_nowhere_else() {
        let marked = |text: &str| format!("<{text}>");
        let pieces = [("Hm\u{1b}[2J", ""), (",\n", ""), ("", "Hel\u{7}lo"), ("", " Ada.")];
        let shown = |is_terminal| {
            let mut screen = Screen { is_terminal, dim: marked, is_thinking: false };
            pieces.map(|(thoughts, text)| screen.piece(thoughts, text)).concat()
        };
        assert_eq!(shown(true), "<Hm[2J><,\n>\n\nHello Ada.");
        assert_eq!(shown(false), "Hel\u{7}lo Ada.");
    }

    #[test]
    fn an_address_for_everybody_is_reached_by_loopback() {
        let reached = |bound| reachable(bound).map(|address| address.to_string());
        assert_eq!(reached("0.0.0.0:80").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(reached("[::]:80").as_deref(), Some("[::1]:80"));
        assert_eq!(reached("10.0.0.1:80").as_deref(), Some("10.0.0.1:80"));
        assert_eq!(reached("nowhere"), None);
    }

    #[test]
    fn one_argument_is_a_known_model_or_a_sentence() {
        let known = json!({"id": "tiny", "path": "/m", "state": "ready", "error": null});
        let known: KnownModel = serde_json::from_value(known).unwrap();
        let models = Models { default: Some("tiny".into()), models: vec![known] };
        let choose = |model: Option<&str>, prompt: Option<&str>| {
            let mut options = Chat {
                model: model.map(str::to_owned),
                prompt: prompt.map(str::to_owned),
                system: None,
                max_tokens: None,
                temperature: None,
                seed: None,
            };
            choose_model(&mut options, &models).map(|model| (model, options.prompt)).ok()
        };
        let tiny = |prompt: Option<&str>| Some(("tiny".to_owned(), prompt.map(str::to_owned)));
        assert_eq!(choose(None, None), tiny(None));
        assert_eq!(choose(Some("tiny"), None), tiny(None));
        assert_eq!(choose(Some("how are you"), None), tiny(Some("how are you")));
        assert_eq!(choose(Some("tiny"), Some("hi")), tiny(Some("hi")));
        assert_eq!(choose(Some("tinny"), None), None);
        // The API answers for a model that only it can judge, with the names that are near.
        assert_eq!(choose(Some("x"), Some("hi")), Some(("x".into(), Some("hi".into()))));
    }
}
