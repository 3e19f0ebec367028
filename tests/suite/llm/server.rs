//! A small scripted HTTP server that records its requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A received request.
#[derive(Clone, Debug)]
pub(crate) struct SeenRequest {
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Instant,
}

impl SeenRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// How the server answers a request.
pub(crate) enum ServerAction {
    /// A status, additional headers, and the body.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// Events, each after a pause; whether the stream ends properly.
    Events(Vec<(Duration, String)>, bool),
    /// Sends nothing for this time, then closes the connection.
    Silence(Duration),
}

impl ServerAction {
    pub(crate) fn json(status: u16, body: serde_json::Value) -> Self {
        let kind = ("content-type", "application/json".to_owned());
        ServerAction::Whole(status, vec![kind], body.to_string().into_bytes())
    }

    pub(crate) fn status(status: u16, headers: &[(&'static str, &str)]) -> Self {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        let body = format!(
            "{{\"error\": {{\"type\": \"some_error\", \"message\": \"status {status}\"}}}}"
        );
        ServerAction::Whole(status, headers.collect(), body.into_bytes())
    }

    /// Events without pauses, in a stream that ends properly.
    pub(crate) fn events(data: &[String]) -> Self {
        let events = data.iter().map(|data| (Duration::ZERO, data.clone()));
        ServerAction::Events(events.collect(), true)
    }
}

/// A running server. It runs until the process ends.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<SeenRequest>>>,
}

impl Server {
    /// `act` gets the 0-based number of the request, and the request.
    pub(crate) fn start(
        act: impl Fn(usize, &SeenRequest) -> ServerAction + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (act, kept) = (Arc::new(act), Arc::clone(&seen));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (act, kept) = (Arc::clone(&act), Arc::clone(&kept));
                std::thread::spawn(move || {
                    // The client may close the connection at any time.
                    let _ = serve(&stream, &kept, &*act);
                });
            }
        });
        Self { url, seen }
    }

    pub(crate) fn seen(&self) -> Vec<SeenRequest> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    stream: &TcpStream,
    kept: &Mutex<Vec<SeenRequest>>,
    act: &(dyn Fn(usize, &SeenRequest) -> ServerAction + Send + Sync),
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let Some(seen) = read(&mut reader)? else {
            return Ok(());
        };
        let number = {
            let mut all = kept.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        match act(number, &seen) {
            ServerAction::Whole(status, headers, body) => {
                let mut head = format!(
                    "HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n",
                    body.len()
                );
                for (name, value) in headers {
                    head += &format!("{name}: {value}\r\n");
                }
                writer.write_all((head + "\r\n").as_bytes())?;
                writer.write_all(&body)?;
            }
            ServerAction::Events(events, ends) => {
                writer.write_all(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
                )?;
                for (pause, event) in events {
                    std::thread::sleep(pause);
                    writer.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
                }
                if !ends {
                    return Ok(());
                }
                writer.write_all(b"0\r\n\r\n")?;
            }
            ServerAction::Silence(time) => {
                std::thread::sleep(time);
                return Ok(());
            }
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<SeenRequest>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(SeenRequest {
        path,
        headers,
        body,
        at: Instant::now(),
    }))
}
