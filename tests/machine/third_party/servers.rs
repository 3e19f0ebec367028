//! Installs and starts third-party servers, in folders of the target folder.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::Missing;

/// A running third-party server. It is killed when this is dropped.
pub(crate) struct ThirdPartyServer {
    child: Child,
    port: u16,
    /// The folder with its settings.
    _folder: tempfile::TempDir,
}

impl Drop for ThirdPartyServer {
    fn drop(&mut self) {
        let group = -libc::pid_t::try_from(self.child.id()).unwrap();
        // SAFETY: takes numbers only. The group was created for this child, which has not been reaped.
        unsafe { libc::kill(group, libc::SIGKILL) };
        let _ = self.child.wait();
    }
}

/// The folder with the named server, installed once by these commands.
pub(crate) fn install(name: &'static str, commands: &[&[&str]]) -> Result<PathBuf, Missing> {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("servers");
    let folder = root.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let lock = File::create(root.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let done = folder.join("installed");
    if done.exists() {
        return Ok(folder);
    }
    for argv in commands {
        let program = match argv[0].strip_prefix("./") {
            Some(inner) => folder.join(inner),
            None => PathBuf::from(argv[0]),
        };
        let output = Command::new(program)
            .args(&argv[1..])
            .current_dir(&folder)
            .stdin(Stdio::null())
            .output();
        let why = match output {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr)
                .lines()
                .last()
                .unwrap_or_default()
                .to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(Missing::new(
            name,
            format!("{name} cannot be installed: {why}"),
        ));
    }
    File::create(done).unwrap();
    Ok(folder)
}

/// Starts a server, and waits until it answers at the path `ready`. `argv` gets the port and the folder with the settings.
pub(crate) fn start(
    folder: &Path,
    files: &[(&str, String)],
    environment: &[(&str, &str)],
    ready: &str,
    argv: impl FnOnce(u16, &str) -> Vec<String>,
) -> ThirdPartyServer {
    let settings = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(settings.path().join(name), text).unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let argv = argv(port, settings.path().to_str().unwrap());
    let log = File::create(settings.path().join("log")).unwrap();
    let child = Command::new(folder.join(&argv[0]))
        .args(&argv[1..])
        .current_dir(settings.path())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    let mut server = ThirdPartyServer {
        child,
        port,
        _folder: settings,
    };
    let started = Instant::now();
    while server
        .call("GET", ready, "")
        .is_none_or(|response| response.is_empty())
    {
        let log = || std::fs::read_to_string(server._folder.path().join("log")).unwrap_or_default();
        // A busy machine takes minutes for a server that imports hundreds of modules.
        let has_ended = server.child.try_wait().unwrap().is_some();
        assert!(
            !has_ended && started.elapsed() < Duration::from_secs(600),
            "the server did not start:\n{}",
            log()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    server
}

impl ThirdPartyServer {
    /// Its response; `None` if there is none.
    pub(crate) fn call(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .ok()?;
        let length = body.len();
        // HTTP 1.0: the response ends with the connection.
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(head.as_bytes()).ok()?;
        let mut response = String::new();
        stream.read_to_string(&mut response).ok()?;
        Some(response)
    }

    /// The JSON body of its response.
    pub(crate) fn json(&self, method: &str, path: &str, body: &str) -> Value {
        let response = self.call(method, path, body).unwrap_or_default();
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
        let is_success = head
            .split(' ')
            .nth(1)
            .is_some_and(|status| status.starts_with('2'));
        assert!(is_success, "{method} {path}: {response}");
        serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}
