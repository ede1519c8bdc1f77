//! A proxy that keeps what passes. Each request has a connection of its own to the daemon, and the
//! client is told to close its own after the answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

/// Headers of one hop.
const OWN_HEADERS: [&str; 4] = ["connection", "content-length", "transfer-encoding", "host"];

/// One request and its answer.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    pub(crate) path: String,
    pub(crate) body: Value,
    /// Head and body, as bytes on the wire.
    pub(crate) answer: String,
}

impl Exchange {
    pub(crate) fn status(&self) -> u16 {
        let word = self.answer.split(' ').nth(1);
        word.and_then(|word| word.parse().ok()).unwrap_or_default()
    }

    /// The daemon's id of the request.
    pub(crate) fn id(&self) -> &str {
        let head = self.answer.split("\r\n\r\n").next().unwrap_or_default();
        let line = head.lines().find_map(|line| line.strip_prefix("x-request-id: "));
        line.unwrap_or_default()
    }
}

pub(crate) struct Recorder {
    pub(crate) address: SocketAddr,
    exchanges: Arc<Mutex<Vec<Exchange>>>,
}

impl Recorder {
    /// Passes requests on to `upstream`, for as long as the process lives.
    pub(crate) fn start(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let exchanges = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&exchanges);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                // A client that goes away is its own affair.
                thread::spawn(move || pass(client, upstream, &kept));
            }
        });
        Ok(Recorder { address, exchanges })
    }

    /// What passed so far and was answered, in the order of the answers' ends.
    pub(crate) fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().expect("no panic holds it").clone()
    }
}

fn pass(client: TcpStream, upstream: SocketAddr, kept: &Mutex<Vec<Exchange>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut head, mut length) = (line, 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (name, value) = line.split_once(':').unwrap_or_default();
        let name = name.to_ascii_lowercase();
        if name == "content-length" {
            length = value.trim().parse().unwrap_or_default();
        }
        assert_ne!(name, "transfer-encoding", "agents send bodies of known length");
        if line == "\r\n" || line.is_empty() {
            break;
        }
        if !OWN_HEADERS.contains(&name.as_str()) {
            head += &line;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    head += &format!("host: {upstream}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(&[head.as_bytes(), &body].concat())?;
    let mut answer = Vec::new();
    let mut piece = [0; 16 << 10];
    loop {
        let count = server.read(&mut piece)?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(&piece[..count]);
        (&client).write_all(&piece[..count])?;
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let body = serde_json::from_slice(&body).unwrap_or_default();
    kept.lock().expect("no panic holds it").push(Exchange { path, body, answer });
    Ok(())
}
