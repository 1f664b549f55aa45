//! A real `esr-embedder serve` on a temporary socket, and a client for it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use esr_wire::{AudioLimits, ByteBuf, Class, Failure, PROTOCOL_VERSION, Request, RequestBody, Response, ResponseBody};

pub const LIMITS: AudioLimits =
    AudioLimits { max_bytes: 8 << 20, max_seconds: 120.0, max_channels: 8, max_rate: 96_000 };

/// Long enough for any answer of the tiny bundle on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// More than sixteen tokens: keeps the slow bundle busy for minutes.
pub const SLOW_TEXT: &str = "a text of many more than sixteen tokens";

/// ONNX Runtime's library, or `None` (said aloud) where it is missing and not required.
pub fn library() -> Option<PathBuf> {
    let library = esr_encoder::runtime::default_library();
    if !library.exists() && std::env::var_os("ESR_REQUIRE_ONNXRUNTIME").is_none() {
        eprintln!("SKIPPED: no ONNX Runtime at {}", library.display());
        return None;
    }
    Some(library)
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../encoder/tests/fixtures").join(name).canonicalize().unwrap()
}

pub struct Server {
    pub child: Child,
    pub folder: tempfile::TempDir,
}

impl Server {
    /// With the models `tiny` and `slow`.
    pub fn start() -> Option<Self> {
        Some(Self::start_with(&library()?))
    }

    pub fn start_with(library: &Path) -> Self {
        Self::start_queue(library, 1_000)
    }

    /// With room for so many waiting requests.
    pub fn start_queue(library: &Path, queue: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        std::fs::create_dir(&models).unwrap();
        for name in ["tiny", "slow"] {
            std::os::unix::fs::symlink(fixture(&format!("{name}-bundle")), models.join(name)).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_esr-embedder"))
            .args(["serve", "--watch-stdin", "--threads", "1", "--queue", &queue.to_string(), "--socket"])
            .arg(folder.path().join("socket"))
            .arg("--model-directory")
            .arg(models)
            .arg("--onnxruntime")
            .arg(library)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Self { child, folder };
        wait_for("the socket", || server.socket().exists());
        server
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn connect(&self) -> UnixStream {
        let start = Instant::now();
        loop {
            match UnixStream::connect(self.socket()) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                // Between bind and listen.
                Err(_) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("cannot connect: {error}"),
            }
        }
    }

    /// A connection that has greeted.
    pub fn client(&self) -> Client {
        let mut client = Client { stream: self.connect(), class: Class::Interactive, role: 10, next_id: 1 };
        let hello = client.ask(RequestBody::Hello { protocol: PROTOCOL_VERSION }).unwrap();
        assert!(matches!(hello, ResponseBody::Hello { protocol: PROTOCOL_VERSION, .. }));
        client
    }

    /// Processor time of the server so far, in ticks of 1/100 s.
    pub fn ticks(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the command in parentheses: state is field 3, utime 14 and stime 15.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Client {
    pub stream: UnixStream,
    pub class: Class,
    pub role: u32,
    next_id: u64,
}

/// A request of the role 10.
pub fn request(id: u64, timeout_ms: Option<u32>, body: RequestBody) -> Request {
    Request { id, timeout_ms, body, class: Class::Interactive, role: 10 }
}

impl Client {
    pub fn send(&mut self, body: RequestBody, timeout_ms: Option<u32>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let request = Request { class: self.class, role: self.role, ..request(id, timeout_ms, body) };
        esr_wire::write(&mut self.stream, &request).unwrap();
        id
    }

    pub fn ask_within(&mut self, body: RequestBody, timeout_ms: Option<u32>) -> Result<ResponseBody, Failure> {
        let id = self.send(body, timeout_ms);
        let response: Response = esr_wire::read(&mut self.stream).unwrap();
        assert_eq!(response.id, id);
        response.body
    }

    pub fn ask(&mut self, body: RequestBody) -> Result<ResponseBody, Failure> {
        self.ask_within(body, None)
    }

    pub fn texts(&mut self, model: &str, texts: &[&str]) -> Result<Vec<Vec<f32>>, Failure> {
        let texts = texts.iter().map(|text| text.to_string()).collect();
        rows(self.ask(RequestBody::EmbedText { model: model.into(), texts })?)
    }

    pub fn clips(&mut self, clips: &[Vec<u8>]) -> Result<Vec<Vec<f32>>, Failure> {
        let clips = clips.iter().map(|clip| ByteBuf::from(clip.clone())).collect();
        rows(self.ask(RequestBody::EmbedSpeech { model: "tiny".into(), clips, limits: LIMITS })?)
    }

    pub fn status(&mut self) -> esr_wire::Status {
        match self.ask(RequestBody::Status).unwrap() {
            ResponseBody::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }
}

fn rows(body: ResponseBody) -> Result<Vec<Vec<f32>>, Failure> {
    match body {
        ResponseBody::Embeddings { dimension, values, .. } => {
            Ok(values.chunks_exact(dimension as usize).map(<[f32]>::to_vec).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// A WAV file of a generated voice.
pub fn wav(hz: f64, seconds: f64) -> Vec<u8> {
    let generator = esr_encoder::golden::Generator::Harmonic { hz, seconds, seed: 1 };
    let mut file = std::io::Cursor::new(Vec::new());
    esr_audio::write_wav(&mut file, &esr_encoder::golden::waveform(&generator), 16_000).unwrap();
    file.into_inner()
}

pub fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen in {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
