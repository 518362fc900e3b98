//! A Triton Inference Server of a test's own, on free loopback ports: NVIDIA's program as `infra/triton.sh` installs it, with
//! networks run by its Python backend.
//!
//! As with PostgreSQL, a keeper watches over it: a shell that waits for the end of a pipe, which comes when the server is
//! dropped and also when the test process is killed. Then it ends the server with all it has started and removes its folder.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How often other ports are tried when somebody took those that were free.
const PORTS_TRIED: usize = 5;
/// A safety net: loading Python and ONNX Runtime for every model takes seconds where other tests run beside.
const READY: Duration = Duration::from_secs(900);

/// Starts what follows `$4`, logging to `$1/server.log`; ends it when its standard input does. `$2` is how its shared memory
/// is called. The folder `$1` goes too, unless it was told to keep it.
const KEEPER: &str = r#"trap '' HUP INT TERM
folder=$1 memory=$2; shift 2
setsid "$@" >>"$folder/server.log" 2>&1 </dev/null &
server=$!
word=$(cat)
kill -9 "-$server" 2>/dev/null
wait
rm -f /dev/shm/"$memory"*
[ "$word" = keep ] || rm -rf "$folder""#;

/// A server. Ended when dropped.
pub struct Triton {
    folder: PathBuf,
    options: Vec<String>,
    port: u16,
    keeper: Option<Child>,
}

impl Triton {
    /// Serves the model folders in `models` (each with `config.pbtxt` and `VERSION/model.onnx`), and returns when all of
    /// them are ready. `options` are tritonserver's.
    ///
    /// # Panics
    /// When it is not installed or cannot start, with its log.
    pub fn start(models: &Path, options: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("swath-triton-").tempdir().expect("a temporary folder").keep();
        let made = script().arg("repository").arg(models).arg(folder.join("models")).output().expect("`bash` starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut triton = Self { folder, options, port: 0, keeper: None };
        for _ in 0..PORTS_TRIED {
            triton.port = free_ports();
            if triton.launch() {
                return triton;
            }
            if !triton.log().contains("in use") {
                break;
            }
            triton.end("keep");
        }
        panic!("Triton does not start: {}", triton.log());
    }

    /// Where it answers gRPC.
    pub fn grpc(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.port + 1)
    }

    /// Where it answers REST.
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The folder of what it serves.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("models")
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// Ends it as a crash does, every connection cut.
    pub fn kill(&mut self) {
        self.end("keep");
    }

    /// Starts it again on the same ports, and returns when it is ready.
    ///
    /// # Panics
    /// When it does not come up again.
    pub fn restart(&mut self) {
        self.end("keep");
        assert!(self.launch(), "Triton does not start again: {}", self.log());
    }

    /// Posts to its REST interface, `/v2/repository/models/NAME/load` for example: status line and body.
    ///
    /// # Panics
    /// When it cannot be reached.
    pub fn post(&self, path: &str, body: &str) -> (String, String) {
        self.ask("POST", path, body).expect("Triton answers")
    }

    /// What it answers to a request for a page, its metrics for example (`port` from 0: HTTP, gRPC, metrics).
    ///
    /// # Panics
    /// When it cannot be reached.
    pub fn get(&self, port: u16, path: &str) -> String {
        ask(self.port + port, "GET", path, "").expect("Triton answers").1
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> std::io::Result<(String, String)> {
        ask(self.port, method, path, body)
    }

    /// Whether it came up.
    fn launch(&mut self) -> bool {
        // What an earlier start said of the ports that it did not get.
        let earlier = self.log().len();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let memory = format!("swath-{}-{}-", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut options = self.options.clone();
        options.push(format!("--backend-config=python,shm-region-prefix-name={memory}"));
        let serve = script();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&self.folder).arg(&memory);
        keeper
            .arg(serve.get_program())
            .args(serve.get_args())
            .arg("serve")
            .arg(self.repository())
            .arg(self.port.to_string());
        // A group of its own, so that a signal to the test's group leaves it alive to clean up.
        keeper.env("TRITON_OPTIONS", options.join(" ")).process_group(0);
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.keeper = Some(keeper.expect("`sh` starts"));
        let since = Instant::now();
        while since.elapsed() < READY {
            if self.ask("GET", "/v2/health/ready", "").is_ok_and(|(status, _)| status.contains(" 200 ")) {
                return true;
            }
            let log = self.log();
            let said = log.get(earlier..).unwrap_or_default();
            if said.contains("error: creating server") || said.contains("failed to start") {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }

    fn end(&mut self, word: &str) {
        if let Some(mut keeper) = self.keeper.take() {
            if let Some(mut pipe) = keeper.stdin.take() {
                drop(pipe.write_all(word.as_bytes()));
            }
            drop(keeper.wait());
        }
    }
}

impl Drop for Triton {
    fn drop(&mut self) {
        self.end("");
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn script() -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/triton.sh");
    let mut command = Command::new("bash");
    command.arg(script);
    command
}

/// The first of three ports in a row that are free now.
fn free_ports() -> u16 {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    loop {
        let first = bind(0).expect("a free port");
        let port = first.local_addr().expect("its address").port();
        if port < u16::MAX - 2 && bind(port + 1).is_ok() && bind(port + 2).is_ok() {
            return port;
        }
    }
}

fn ask(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<(String, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(600)))?;
    let length = body.len();
    // All at once: it does not put a head together that comes in pieces.
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: triton\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes())?;
    // It keeps connections open whatever it is asked: the head tells how long the body is.
    let mut reader = BufReader::new(stream);
    let (mut status, mut size) = (String::new(), 0);
    reader.read_line(&mut status)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                size = value.trim().parse().unwrap_or(0)
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; size];
    reader.read_exact(&mut body)?;
    Ok((status.trim_end().to_owned(), String::from_utf8_lossy(&body).into_owned()))
}
