//! A server in this process, and a client that sees bytes.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omlx_tests::fixtures::Case;
use omlx_tests::http::{self, Response};
use omlx_tests::script::Script;
use omlx_tests::sse::{self, Event};
use omlxd::app::App;
use omlxd::auth::Keys;
use omlxd::config::Config;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use crate::schemas;

pub(crate) const KEY: &str = "sk-omlx-test-key-0123456789";
pub(crate) const CHAT: &str = "/v1/chat/completions";
/// A model with room for 256 tokens.
pub(crate) const SMALL: &str = "test/small";
/// The same model with room for more tokens than any test waits for.
pub(crate) const LONG: &str = "test/long";
/// A model that says what [`script`] has.
pub(crate) const SCRIPT: &str = "test/script";

pub(crate) struct Server {
    pub(crate) app: Arc<App>,
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
    dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// A server that computes every prompt whole: for tests that compare two answers to the last bit
    /// of their numbers.
    pub(crate) fn uncached() -> Self {
        Self::with(|config| config.cache.enabled = false)
    }

    /// A server with other settings.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let models = dir.path().join("models");
        Case::any().write(&models.join(SMALL)).unwrap();
        let long = Case::any().with_config(json!({"max_position_embeddings": 1_000_000}));
        long.write(&models.join(LONG)).unwrap();
        let key_file = dir.path().join("api-key");
        fs::write(&key_file, format!("{KEY}\n")).unwrap();
        let mut config = Config { base_dir: dir.path().to_owned(), ..Config::default() };
        config.server.drain = Duration::from_millis(200);
        change(&mut config);
        let keys = Keys::from_file(&key_file).unwrap();
        let app = Arc::new(App::start(Arc::new(config), keys, "0.0.0-test").unwrap());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(omlxd::server::serve(Arc::clone(&app), listener));
        Server { app, address, runtime: Some(runtime), dir }
    }

    /// A server with the model [`SCRIPT`].
    pub(crate) fn scripted() -> Self {
        let server = Self::start();
        script().write(&server.models().join(SCRIPT)).unwrap();
        server
    }

    /// Where models are looked for.
    pub(crate) fn models(&self) -> std::path::PathBuf {
        self.dir.path().join("models")
    }

    pub(crate) fn base(&self) -> &Path {
        self.dir.path()
    }

    /// A request with the key; returns when the headers of the answer are there.
    pub(crate) fn open(&self, method: &str, path: &str, body: &str) -> Response {
        let authorization = format!("Bearer {KEY}");
        let headers = [("authorization", authorization.as_str())];
        http::request(self.address, method, path, &headers, body.as_bytes()).unwrap()
    }

    /// A whole answer, which is as the documents say.
    #[track_caller]
    pub(crate) fn reply(&self, method: &str, path: &str, body: &str) -> Reply {
        let reply = Reply::read(self.open(method, path, body));
        schemas::check_reply(method, path, &reply);
        reply
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.reply("GET", path, "")
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.reply("POST", path, &body.to_string())
    }

    #[track_caller]
    pub(crate) fn chat(&self, fields: Value) -> Reply {
        self.post(CHAT, &chat_body(fields))
    }

    #[track_caller]
    pub(crate) fn complete(&self, fields: Value) -> Reply {
        self.post("/v1/completions", &completion_body(fields))
    }

    /// All events of a chat stream.
    #[track_caller]
    pub(crate) fn chat_stream(&self, fields: Value) -> Vec<Event> {
        self.stream(CHAT, chat_body(fields))
    }

    /// All events of a stream, each of which is as the documents say.
    #[track_caller]
    pub(crate) fn stream(&self, path: &str, mut body: Value) -> Vec<Event> {
        body["stream"] = json!(true);
        let response = self.open("POST", path, &body.to_string());
        assert_eq!(response.status, 200);
        events(path, response)
    }

    /// A stream that goes on until it is cancelled, after its first event.
    pub(crate) fn endless(&self, fields: Value) -> Response {
        let mut body = chat_body(json!({"model": LONG, "stream": true, "ignore_eos": true}));
        merge(&mut body, fields);
        let response = self.open("POST", CHAT, &body.to_string());
        assert_eq!(response.status, 200);
        response
    }

    /// All events of a stream whose events have types.
    #[track_caller]
    pub(crate) fn typed_stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = json!(true);
        let response = self.open("POST", path, &body.to_string());
        assert_eq!(
            (response.status, response.header("content-type")),
            (200, Some("text/event-stream"))
        );
        typed_events(path, response)
    }

    /// Sends raw bytes on a connection of their own and reads the answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = http::connect(self.address).unwrap();
        stream.write_all(bytes).unwrap();
        Reply::read(http::read_response(stream).unwrap())
    }

    pub(crate) fn connect(&self) -> TcpStream {
        http::connect(self.address).unwrap()
    }

    /// The sum of a metric's series that have all of these labels.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("/metrics").text;
        sum(&text, name, labels)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.app.shutdown.cancel();
        self.app.requests.stop();
        self.app.engine.stop();
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        self.app.engine.join();
    }
}

/// A turn that thinks, speaks and calls two tools; one that only speaks; and what comes after.
pub(crate) fn script() -> Script {
    let look = Script::call("look", &json!({"at": "the sky", "how": {"long": 3}}));
    let (head, tail) = look.split_at(20);
    let second = format!("\n{}", Script::call("count", &json!({})));
    Script::new(
        &[
            &["<think>\nI should", " look.\n</think>\n\n", "Let me see.\n", head, tail, &second],
            &["The sky is ", "blue."],
        ],
        &["Good", "bye."],
    )
}

/// The tools of [`script`], as pairs of a name and a schema.
pub(crate) fn tools() -> [(&'static str, Value); 2] {
    let look = json!({"type": "object", "properties": {
        "at": {"type": "string"}, "how": {"type": "object"}}, "required": ["at"]});
    [("look", look), ("count", json!({"type": "object", "properties": {}}))]
}

/// The sum of a metric's series that have all of these labels.
pub(crate) fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let of_name = |line: &&str| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    };
    let series = text.lines().filter(of_name);
    let matching = series.filter(|line| labels.iter().all(|label| line.contains(label)));
    matching.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

pub(crate) fn chat_body(fields: Value) -> Value {
    let mut body = json!({
        "model": SMALL,
        "messages": [{"role": "user", "content": "Hello there"}],
        "temperature": 0,
    });
    merge(&mut body, fields);
    body
}

pub(crate) fn completion_body(fields: Value) -> Value {
    let mut body = json!({"model": SMALL, "prompt": "Hello there", "temperature": 0});
    merge(&mut body, fields);
    body
}

/// Puts fields into an object; `null` removes one.
fn merge(body: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    for (name, value) in fields {
        if value.is_null() {
            body.as_object_mut().unwrap().remove(&name);
        } else {
            body[name] = value;
        }
    }
}

/// All events of a stream, each of which is as the documents say of this path.
#[track_caller]
pub(crate) fn events(path: &str, response: Response) -> Vec<Event> {
    let mut events = Vec::new();
    sse::for_each(response.body, |event| {
        events.push(event);
        true
    })
    .unwrap();
    schemas::check_events(path, &events);
    events
}

/// The same for events that have types; the type of each stands in its data and before it. Where
/// `[DONE]` is sent, it is the end of a success.
#[track_caller]
pub(crate) fn typed_events(path: &str, response: Response) -> Vec<Value> {
    let text = response.text().unwrap();
    let events = text.split("\n\n").filter(|event| !event.is_empty() && !event.starts_with(':'));
    let (mut typed, mut is_done) = (Vec::new(), false);
    for event in events {
        assert!(!is_done, "{event} after the end");
        let Some((kind, data)) = event.split_once("\ndata: ") else {
            assert_eq!(event, "data: [DONE]");
            is_done = true;
            continue;
        };
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(kind.strip_prefix("event: "), data["type"].as_str());
        schemas::check_event(path, &data);
        typed.push(data);
    }
    let last = typed.last().expect("a stream has events");
    let failed = last["type"] == "error" || last["type"] == "response.failed";
    assert_eq!(is_done, path == "/v1/responses" && !failed);
    typed
}

/// The chunks of a stream that ended as it should.
pub(crate) fn chunks(events: &[Event]) -> Vec<Value> {
    let (last, rest) = events.split_last().expect("a stream has events");
    assert_eq!(*last, Event::Data("[DONE]".to_owned()));
    let data = rest.iter().filter_map(|event| match event {
        Event::Data(data) => Some(serde_json::from_str(data).unwrap()),
        Event::Comment(_) => None,
    });
    data.collect()
}

/// A whole answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn read(response: Response) -> Self {
        let (status, headers) = (response.status, response.headers.clone());
        Reply { status, headers, text: response.text().unwrap() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {}", self.text))
    }

    /// The JSON of a success.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        assert!(self.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// Asserts an error: status, all four keys, and the headers that go with every error.
    #[track_caller]
    pub(crate) fn is_error(&self, status: u16, code: Option<&str>, param: Option<&str>) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert!(self.header("x-request-id").is_some_and(|id| id.starts_with("req_")));
        assert_eq!(self.header("content-type"), Some("application/json"));
        let body = self.json();
        assert_eq!(body.as_object().unwrap().len(), 1);
        let message = check_error(&body["error"], status, code, param);
        if status < 500 && status != 429 {
            assert_eq!(self.header("x-should-retry"), Some("false"), "{message}");
        }
        message
    }
}

/// Asserts the four keys of an error object, and returns its message.
#[track_caller]
pub(crate) fn check_error(
    error: &Value,
    status: u16,
    code: Option<&str>,
    param: Option<&str>,
) -> String {
    let error = error.as_object().expect("an error object");
    for key in ["message", "type", "param", "code"] {
        assert!(error.contains_key(key), "{key} is absent: {error:?}");
    }
    let kind = match status {
        429 => "rate_limit_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    assert_eq!(error["type"], kind, "{error:?}");
    assert_eq!(error["code"], json!(code), "{error:?}");
    assert_eq!(error["param"], json!(param), "{error:?}");
    let message = error["message"].as_str().expect("a message");
    assert!(!message.is_empty());
    message.to_owned()
}

/// Waits for a condition.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
