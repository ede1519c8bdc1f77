//! A raw HTTP/1.1 client over one socket: tests need to see bytes and to misbehave, and benchmarks
//! need a client that costs nothing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long any read or write may take before the test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request under way or answered.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Headers with lower-case names, in order.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Body,
}

impl Response {
    /// The first header of a (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The whole body.
    pub fn text(mut self) -> io::Result<String> {
        let mut text = String::new();
        self.body.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Opens a connection.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// One request on its own connection; returns when the headers of the answer are there.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let mut stream = connect(address)?;
    stream.write_all(&encode(address, method, path, headers, body))?;
    read_response(stream)
}

/// A request's bytes. It asks to close the connection after the answer.
pub fn encode(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        head += &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Reads status and headers; the body is read by whoever holds the response.
pub fn read_response(stream: TcpStream) -> io::Result<Response> {
    let mut reader = BufReader::new(stream);
    let status_line = header_line(&mut reader)?;
    let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| invalid(format!("not a status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = header_line(&mut reader)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(line.clone()))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, v)| v.as_str());
    let framing = if header("transfer-encoding") == Some("chunked") {
        Framing::Chunked { left: 0, ended: false }
    } else if let Some(length) = header("content-length").and_then(|length| length.parse().ok()) {
        Framing::Length(length)
    } else {
        Framing::Close
    };
    Ok(Response { status, headers, body: Body { reader, framing } })
}

fn header_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A body as a reader. A connection that ends before the body does is an error, so that a test can
/// tell a proper end from a broken one.
#[derive(Debug)]
pub struct Body {
    reader: BufReader<TcpStream>,
    framing: Framing,
}

#[derive(Debug)]
enum Framing {
    Chunked { left: u64, ended: bool },
    Length(u64),
    Close,
}

impl Body {
    /// The socket under it.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The next chunk as the server wrote it, or `None` after the last.
    ///
    /// # Errors
    /// When the body is not chunked, partly read, or broken off.
    pub fn read_chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Framing::Chunked { left: 0, ended } = self.framing else {
            return Err(invalid("not between two chunks".into()));
        };
        let size = if ended { 0 } else { self.next_chunk()? };
        if size == 0 {
            self.framing = Framing::Chunked { left: 0, ended: true };
            return Ok(None);
        }
        let mut chunk = vec![0; usize::try_from(size).map_err(|e| invalid(e.to_string()))?];
        self.reader.read_exact(&mut chunk)?;
        header_line(&mut self.reader)?;
        Ok(Some(chunk))
    }

    fn next_chunk(&mut self) -> io::Result<u64> {
        let line = header_line(&mut self.reader)?;
        let size = line.split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(|_| invalid(line.clone()))?;
        if size == 0 {
            // Trailers, then an empty line.
            while !header_line(&mut self.reader)?.is_empty() {}
        }
        Ok(size)
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        match self.framing {
            Framing::Close => self.reader.read(into),
            Framing::Length(0) | Framing::Chunked { ended: true, .. } => Ok(0),
            Framing::Length(left) => {
                let read = read_some(&mut self.reader, into, left)?;
                self.framing = Framing::Length(left - read as u64);
                Ok(read)
            }
            Framing::Chunked { left: 0, .. } => {
                let size = self.next_chunk()?;
                self.framing = Framing::Chunked { left: size, ended: size == 0 };
                self.read(into)
            }
            Framing::Chunked { left, .. } => {
                let read = read_some(&mut self.reader, into, left)?;
                let left = left - read as u64;
                if left == 0 {
                    header_line(&mut self.reader)?;
                }
                self.framing = Framing::Chunked { left, ended: false };
                Ok(read)
            }
        }
    }
}

/// At most `left` bytes; an end of the connection is an error.
fn read_some(reader: &mut impl Read, into: &mut [u8], left: u64) -> io::Result<usize> {
    let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
    match reader.read(&mut into[..most])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => Ok(read),
    }
}
