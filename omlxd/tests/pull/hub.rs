//! A hub of the test's own: listings, files, redirects to a second origin, and every way to fail.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use serde_json::{Value, json};

pub(crate) const TOKEN: &str = "hf_the_secret_token";

/// What happens to one request for a file.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// A status, and perhaps a Retry-After in seconds.
    Status(u16, Option<u64>),
    /// The connection ends after so many bytes.
    Cut(usize),
    /// So many bytes at a time, with a pause before each.
    Slow(usize, Duration),
    /// The right number of wrong bytes.
    Wrong,
    /// One byte more than announced.
    Longer,
    /// All of it, whatever range was asked for.
    NoRange,
    /// 416.
    BadRange,
    /// 206 with another range than asked for.
    OtherRange,
    /// Headers, then nothing for a while.
    Redirects,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<u64>,
    pub(crate) authorized: bool,
    pub(crate) from_cdn: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) faults: BTreeMap<String, VecDeque<Fault>>,
    /// What every answer without a fault of its own has.
    pub(crate) always: Option<Fault>,
    /// More entries of the listing.
    pub(crate) extra: Vec<Value>,
    /// Entries whose announced hash or size is replaced.
    pub(crate) lies: BTreeMap<String, Value>,
    pub(crate) needs_token: bool,
    /// What every refusal says of itself.
    pub(crate) error_code: Option<&'static str>,
    /// The repository has another name now, and the way there loses the query.
    pub(crate) renamed: bool,
    pub(crate) sha: String,
    pub(crate) log: Vec<Request>,
    pub(crate) served_bytes: u64,
}

pub(crate) struct Hub {
    pub(crate) endpoint: String,
    pub(crate) state: Arc<Mutex<State>>,
}

impl Hub {
    /// A hub with the files of a folder, as `org/model`.
    pub(crate) fn of(folder: &Path) -> Hub {
        let files = fs::read_dir(folder).unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
        });
        let state = State { files: files.collect(), sha: "a1".repeat(20), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let cdn = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", hub.local_addr().unwrap());
        let cdn_origin = format!("http://{}", cdn.local_addr().unwrap());
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let (state, cdn_origin) = (Arc::clone(&state), cdn_origin.clone());
            thread::spawn(move || {
                for stream in listener.incoming() {
                    let (state, cdn_origin) = (Arc::clone(&state), cdn_origin.clone());
                    thread::spawn(move || {
                        // A client that goes away is part of the tests.
                        let _ = serve(stream.unwrap(), &state, &cdn_origin, is_cdn);
                    });
                }
            });
        }
        Hub { endpoint, state }
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub(crate) fn fault(&self, name: &str, faults: impl IntoIterator<Item = Fault>) {
        self.change(|state| state.faults.entry(name.to_owned()).or_default().extend(faults));
    }

    pub(crate) fn log(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    /// Requests for a file's bytes, by the position from which they asked.
    pub(crate) fn ranges(&self, name: &str) -> Vec<u64> {
        let log = self.log().into_iter().filter(|request| request.path.ends_with(name));
        let bytes = log.filter(|request| request.from_cdn == is_lfs(name));
        bytes.map(|request| request.range.unwrap_or(0)).collect()
    }
}

fn is_lfs(name: &str) -> bool {
    name.ends_with(".safetensors")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sibling(name: &str, content: &[u8]) -> Value {
    let mut git = format!("blob {}\0", content.len()).into_bytes();
    git.extend_from_slice(content);
    let blob = hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &git).as_ref());
    let mut sibling = json!({"rfilename": name, "size": content.len(), "blobId": blob});
    if is_lfs(name) {
        let sha256 = hex(digest(&SHA256, content).as_ref());
        sibling["lfs"] = json!({"sha256": sha256, "size": content.len(), "pointerSize": 134});
    }
    sibling
}

fn serve(
    mut stream: TcpStream,
    state: &Mutex<State>,
    cdn: &str,
    is_cdn: bool,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut authorized) = (None, false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let (name, value) = line.trim().split_once(": ").unwrap_or_default();
        match name.to_lowercase().as_str() {
            "range" => {
                let from = value.strip_prefix("bytes=").and_then(|v| v.strip_suffix('-'));
                range = Some(from.unwrap().parse().unwrap());
            }
            "authorization" => authorized = value == format!("Bearer {TOKEN}"),
            _ => {}
        }
    }
    let request = Request { path: path.clone(), range, authorized, from_cdn: is_cdn };
    let locked = &mut *state.lock().unwrap();
    locked.log.push(request);
    if locked.needs_token && !authorized && !is_cdn {
        return head(&mut stream, "401 Unauthorized", 0, "");
    }
    if locked.renamed && path.starts_with("/api/models/org/model/") {
        let (path, _) = path.split_once('?').unwrap();
        let location = format!("Location: {}\r\n", path.replace("org/model", "org/renamed"));
        return head(&mut stream, "307 Temporary Redirect", 0, &location);
    }
    let is_listing = ["model", "renamed"]
        .iter()
        .any(|name| path.starts_with(&format!("/api/models/org/{name}/revision/")));
    if is_listing && !path.contains("?blobs=true") {
        // Without it a hub tells neither sizes nor hashes.
        let names = locked.files.keys().map(|name| json!({"rfilename": name}));
        let siblings: Vec<Value> = names.collect();
        let body = json!({"id": "org/model", "sha": locked.sha, "siblings": siblings}).to_string();
        head(&mut stream, "200 OK", body.len(), "Content-Type: application/json\r\n")?;
        return stream.write_all(body.as_bytes());
    }
    if is_listing {
        let fault = locked.faults.get_mut("listing").and_then(VecDeque::pop_front);
        if let Some(Fault::Status(status, after)) = fault {
            if let Some(code) = locked.error_code {
                let code = format!("X-Error-Code: {code}\r\n");
                return head(&mut stream, &format!("{status} Refused"), 0, &code);
            }
            return refuse(&mut stream, status, after);
        }
        let mut siblings: Vec<Value> =
            locked.files.iter().map(|(name, content)| sibling(name, content)).collect();
        for entry in &mut siblings {
            if let Some(lie) = locked.lies.get(entry["rfilename"].as_str().unwrap()) {
                for (key, value) in lie.as_object().unwrap() {
                    entry[key] = value.clone();
                }
            }
        }
        siblings.extend(locked.extra.clone());
        let body = json!({"id": "org/model", "sha": locked.sha, "siblings": siblings}).to_string();
        head(&mut stream, "200 OK", body.len(), "Content-Type: application/json\r\n")?;
        return stream.write_all(body.as_bytes());
    }
    let name = path.split('?').next().unwrap().rsplit('/').next().unwrap().to_owned();
    let Some(content) = locked.files.get(&name).cloned() else {
        return head(&mut stream, "404 Not Found", 0, "");
    };
    let looping =
        matches!(locked.faults.get(&name).and_then(|f| f.front()), Some(Fault::Redirects));
    if is_lfs(&name) && (!is_cdn || looping) {
        let location = format!("Location: {cdn}/signed/{name}\r\n");
        return head(&mut stream, "302 Found", 0, &location);
    }
    let fault = locked.faults.get_mut(&name).and_then(VecDeque::pop_front);
    let fault = fault.or_else(|| locked.always.clone());
    send(&mut stream, state, content, range, fault)
}

fn head(stream: &mut TcpStream, status: &str, length: usize, headers: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n"
    )
}

fn refuse(stream: &mut TcpStream, status: u16, after: Option<u64>) -> std::io::Result<()> {
    let after = after.map_or_else(String::new, |after| format!("Retry-After: {after}\r\n"));
    head(stream, &format!("{status} Refused"), 0, &after)
}

fn send(
    stream: &mut TcpStream,
    state: &Mutex<State>,
    mut content: Vec<u8>,
    range: Option<u64>,
    fault: Option<Fault>,
) -> std::io::Result<()> {
    let total = content.len();
    let mut from = range.unwrap_or(0) as usize;
    match &fault {
        Some(Fault::Status(status, after)) => return refuse(stream, *status, *after),
        Some(Fault::BadRange) => return refuse(stream, 416, None),
        Some(Fault::NoRange) => from = 0,
        Some(Fault::Wrong) => content.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::Longer) => content.push(0),
        _ => {}
    }
    if from >= content.len() && from > 0 {
        return refuse(stream, 416, None);
    }
    let told = if matches!(fault, Some(Fault::OtherRange)) { from + 1 } else { from };
    let body = &content[from..];
    if from > 0 {
        let range = format!("Content-Range: bytes {told}-{}/{total}\r\n", total - 1);
        head(stream, "206 Partial Content", body.len(), &range)?;
    } else {
        head(stream, "200 OK", body.len(), "")?;
    }
    let (pieces, pause, end) = match fault {
        Some(Fault::Cut(bytes)) => (body.len().max(1), Duration::ZERO, bytes.min(body.len())),
        Some(Fault::Slow(bytes, pause)) => (bytes, pause, body.len()),
        _ => (body.len().max(1), Duration::ZERO, body.len()),
    };
    for piece in body[..end].chunks(pieces) {
        thread::sleep(pause);
        stream.write_all(piece)?;
        // Not locked while it waits: other requests go on.
        state.try_lock().map(|mut state| state.served_bytes += piece.len() as u64).ok();
    }
    stream.flush()
}
