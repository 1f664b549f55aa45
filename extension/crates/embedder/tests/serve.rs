//! The server as its callers meet it, friendly and hostile.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use esr_wire::{Failure, FailureKind, PROTOCOL_VERSION, RequestBody, Response, ResponseBody};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;

mod server;
use server::{LIMITS, SLOW_TEXT, Server, fixture, request, wait_for, wav};

/// Cosine distance by which an embedding may depend on its batch mates.
const BATCH_TOLERANCE: f64 = 1e-6;

fn distance(a: &[f32], b: &[f32]) -> f64 {
    1.0 - a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
}

fn failed<T: std::fmt::Debug>(result: Result<T, Failure>, kind: FailureKind, item: Option<u32>, message: &str) {
    let failure = result.unwrap_err();
    assert_eq!((failure.kind, failure.item), (kind, item), "{failure:?}");
    assert!(failure.message.contains(message), "{failure:?} lacks {message:?}");
}

#[test]
fn texts_and_clips_are_embedded_in_order_as_the_bundle_says() {
    let Some(server) = Server::start() else { return };
    let mut client = server.client();
    let golden = std::fs::read(fixture("tiny-bundle").join("golden.json")).unwrap();
    let golden = esr_encoder::Golden::parse(&golden).unwrap();
    let inputs: Vec<&str> = golden.texts.iter().map(|text| text.input.as_str()).collect();
    let embedded = client.texts("tiny", &inputs).unwrap();
    for (text, got) in golden.texts.iter().zip(&embedded) {
        assert!(distance(&text.embedding, got) < 1e-5, "{}", text.input);
    }
    let clips = [wav(180.0, 1.0), wav(95.0, 0.5), wav(180.0, 1.0)];
    let embedded = client.clips(&clips).unwrap();
    // The WAV rounds the generated clip to 16 bits.
    assert!(distance(&golden.speech[0].embedding, &embedded[0]) < 1e-3);
    assert_eq!(embedded[0], embedded[2]);
    assert!(distance(&embedded[0], &embedded[1]) > 1e-4);
    let many: Vec<String> = (0..600).map(|at| format!("voice {}", at % 7)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let embedded = client.texts("tiny", &many).unwrap();
    assert_eq!(embedded.len(), 600);
    assert!((0..600).all(|at| distance(&embedded[at], &embedded[at % 7]) < 1e-5));
    assert_eq!(client.texts("tiny", &[]).unwrap(), Vec::<Vec<f32>>::new());
    let status = client.status();
    assert_eq!((status.texts, status.clips, status.failures, status.requests), (602, 3, 0, 4));
    assert_eq!((status.models, status.device.as_str()), (vec!["tiny".to_owned()], "cpu"));
    assert_eq!(status.pid, server.child.id());
    assert!(status.batches > 3 && status.p99_ms >= status.p50_ms && status.p99_ms > 0.0);
    let tag = esr_encoder::Bundle::open(&fixture("tiny-bundle")).unwrap().tag();
    let described = client.ask(RequestBody::DescribeModel { model: "tiny".into() }).unwrap();
    let expected = ResponseBody::Model { name: "tiny".into(), version: "0.1.0".into(), tag, dimension: 8 };
    assert_eq!(described, expected);
}

#[test]
fn failures_name_the_item_and_whose_fault_it_is() {
    let Some(server) = Server::start() else { return };
    let mut client = server.client();
    let good = wav(120.0, 0.5);
    let cut = good[..good.len() / 2].to_vec();
    use FailureKind as Kind;
    failed(client.clips(&[good.clone(), cut]), Kind::MalformedAudio, Some(1), "truncated");
    failed(client.clips(&[b"%PDF-1.7".to_vec()]), Kind::UnsupportedAudio, Some(0), "no known audio format");
    failed(client.clips(&[good.clone(), good.clone(), vec![]]), Kind::EmptyAudio, Some(2), "no samples");
    let mut silent = std::io::Cursor::new(Vec::new());
    esr_audio::write_wav(&mut silent, &[0.0; 8_000], 16_000).unwrap();
    failed(client.clips(&[silent.into_inner()]), Kind::EmptyAudio, Some(0), "silent");
    let clips = vec![esr_wire::ByteBuf::from(wav(100.0, 2.0))];
    let limits = esr_wire::AudioLimits { max_seconds: 1.0, ..LIMITS };
    let asked = client.ask(RequestBody::EmbedSpeech { model: "tiny".into(), clips, limits });
    failed(asked, Kind::AudioLimit, Some(0), "longer than the limit of 1.0 seconds");
    let mut many = vec![good; 40];
    many[37] = b"RIFF".to_vec();
    failed(client.clips(&many), Kind::UnsupportedAudio, Some(37), "");
    failed(client.texts("tiny", &["calm", "  "]), Kind::BadText, Some(1), "empty");
    let mut texts = vec!["calm"; 300];
    texts[299] = "";
    failed(client.texts("tiny", &texts), Kind::BadText, Some(299), "empty");
    failed(client.texts("none", &["calm"]), Kind::UnknownModel, None, "there is no model \"none\"");
    for name in ["../models/tiny", "..", "/etc", "", "tiny/"] {
        failed(client.texts(name, &["calm"]), Kind::UnknownModel, None, "is not a model name");
    }
    let damaged = server.folder.path().join("models/damaged");
    std::fs::create_dir(&damaged).unwrap();
    for entry in std::fs::read_dir(fixture("tiny-bundle")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), damaged.join(entry.file_name())).unwrap();
    }
    std::fs::write(damaged.join("text.onnx"), "x").unwrap();
    failed(client.texts("damaged", &["calm"]), Kind::BadModel, None, "text.onnx is damaged or was replaced");
    assert_eq!(client.texts("tiny", &["calm"]).unwrap().len(), 1);
    assert_eq!(client.status().failures, 15);
}

#[test]
fn a_missing_runtime_is_told_and_the_server_stays() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(&folder.path().join("libonnxruntime.so"));
    let mut client = server.client();
    for _ in 0..2 {
        failed(client.texts("tiny", &["calm"]), FailureKind::MissingRuntime, None, "install ONNX Runtime");
    }
    std::fs::write(folder.path().join("libonnxruntime.so"), "not a library").unwrap();
    failed(client.texts("tiny", &["calm"]), FailureKind::MissingRuntime, None, "not a usable");
}

#[test]
fn only_this_user_can_open_the_socket() {
    let Some(server) = Server::start() else { return };
    assert_eq!(std::fs::metadata(server.socket()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn callers_of_another_protocol_are_refused() {
    let Some(server) = Server::start() else { return };
    let ask = |body: RequestBody| -> Response {
        let mut stream = server.connect();
        esr_wire::write(&mut stream, &request(5, None, body)).unwrap();
        let response = esr_wire::read(&mut stream).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the connection is still open");
        response
    };
    let newer = ask(RequestBody::Hello { protocol: PROTOCOL_VERSION + 1 });
    failed(newer.body, FailureKind::Protocol, None, "this embedder speaks");
    failed(ask(RequestBody::Status).body, FailureKind::Protocol, None, "must be a greeting");
}

#[test]
fn broken_frames_cost_only_their_connection() {
    let Some(server) = Server::start() else { return };
    let mut watcher = server.client();
    let body = RequestBody::EmbedText { model: "tiny".into(), texts: vec!["calm".into()] };
    let whole = esr_wire::encode(&request(1, None, body)).unwrap();
    let broken: [Vec<u8>; 5] = [
        vec![0xff; 100],
        (esr_wire::MAX_FRAME_BYTES + 1).to_le_bytes().to_vec(),
        [4u32.to_le_bytes().to_vec(), vec![0xff; 4]].concat(),
        esr_wire::MAX_FRAME_BYTES.to_le_bytes().to_vec(),
        whole[..whole.len() - 3].to_vec(),
    ];
    for bytes in broken {
        let mut stream = server.connect();
        // The server may have closed its end already.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
        assert_eq!(watcher.texts("tiny", &["calm"]).unwrap().len(), 1);
    }
}

/// Sends the length of a frame with a memory file that holds `message`, if there is one.
fn pass(stream: &UnixStream, frame: &[u8], message: Option<&[u8]>) {
    let file = message.map(|message| {
        let mut file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(message).unwrap();
        file
    });
    let files: Vec<BorrowedFd> = file.iter().map(|file| file.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
    }
    let prefix = esr_wire::memory_file_prefix(frame);
    assert_eq!(sendmsg(stream, &[IoSlice::new(&prefix)], &mut control, SendFlags::NOSIGNAL).unwrap(), prefix.len());
}

#[test]
fn a_request_may_lie_in_a_memory_file() {
    let Some(server) = Server::start() else { return };
    let mut client = server.client();
    let texts: Vec<String> = (0..200).map(|n| format!("voice number {n}")).collect();
    let expected = client.texts("tiny", &texts.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    let body = RequestBody::EmbedText { model: "tiny".into(), texts };
    let frame = esr_wire::encode(&request(9, None, body)).unwrap();
    for _ in 0..3 {
        pass(&client.stream, &frame, Some(&frame[4..]));
        let response: Response = esr_wire::read(&mut client.stream).unwrap();
        assert_eq!(response.id, 9);
        let Ok(ResponseBody::Embeddings { values, .. }) = response.body else { panic!("{:?}", response.body) };
        assert!(distance(&values[..expected[0].len()], &expected[0]) < BATCH_TOLERANCE);
        assert!(distance(&values[values.len() - expected[0].len()..], &expected[199]) < BATCH_TOLERANCE);
        // The connection goes on as it was.
        assert_eq!(client.texts("tiny", &["calm"]).unwrap().len(), 1);
    }
    // Without its file, or with less in it than it says: the end of that connection only.
    for message in [None, Some(&frame[4..frame.len() - 3]), Some(&[][..])] {
        let mut broken = server.client();
        pass(&broken.stream, &frame, message);
        if let Ok(Response { body, .. }) = esr_wire::read(&mut broken.stream) {
            failed(body, FailureKind::Protocol, None, "memory file");
        }
        assert_eq!(broken.stream.read(&mut [0]).unwrap(), 0, "the connection is still open");
        assert_eq!(client.texts("tiny", &["calm"]).unwrap().len(), 1);
    }
}

#[test]
fn twenty_callers_get_their_own_answers() {
    let Some(server) = Server::start() else { return };
    let mut alone = server.client();
    let texts: Vec<String> = (0..20).map(|caller| format!("voice number {caller}")).collect();
    let clips: Vec<Vec<u8>> = (0..20).map(|caller| wav(80.0 + 10.0 * f64::from(caller), 0.4)).collect();
    let expected: Vec<_> = texts
        .iter()
        .zip(&clips)
        .map(|(text, clip)| (alone.texts("tiny", &[text]).unwrap(), alone.clips(std::slice::from_ref(clip)).unwrap()))
        .collect();
    std::thread::scope(|scope| {
        for ((text, clip), expected) in texts.iter().zip(&clips).zip(&expected) {
            let server = &server;
            scope.spawn(move || {
                let mut client = server.client();
                for _ in 0..10 {
                    let got =
                        (client.texts("tiny", &[text]).unwrap(), client.clips(std::slice::from_ref(clip)).unwrap());
                    assert!(distance(&got.0[0], &expected.0[0]) < BATCH_TOLERANCE, "{text}");
                    assert!(distance(&got.1[0], &expected.1[0]) < BATCH_TOLERANCE, "{text}");
                }
            });
        }
    });
    let status = alone.status();
    assert_eq!((status.requests, status.rows, status.failures), (440, 440, 0));
    assert!(status.batches < 440, "twenty callers never shared a batch");
}

#[test]
fn a_caller_that_leaves_cancels_its_running_and_its_waiting_requests() {
    let Some(server) = Server::start() else { return };
    let mut watcher = server.client();
    watcher.texts("slow", &["short"]).unwrap();
    let leave = |how_many: usize| {
        let mut callers: Vec<_> = (0..how_many).map(|_| server.client()).collect();
        for caller in &mut callers {
            let texts = vec![SLOW_TEXT.to_owned()];
            caller.send(RequestBody::EmbedText { model: "slow".into(), texts }, None);
        }
        std::thread::sleep(Duration::from_millis(300));
    };
    leave(3);
    // The one that ran is terminated and the two behind it are dropped, else this would wait for minutes.
    let start = Instant::now();
    assert_eq!(watcher.texts("slow", &["short"]).unwrap().len(), 1);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    wait_for("the count of cancelled requests", || watcher.status().cancelled == 3);
}

#[test]
fn deadlines_are_kept_while_waiting_and_while_running() {
    let Some(server) = Server::start() else { return };
    let mut client = server.client();
    client.texts("slow", &["short"]).unwrap();
    let slow = || RequestBody::EmbedText { model: "slow".into(), texts: vec![SLOW_TEXT.into()] };
    let mut other = server.client();
    other.send(slow(), Some(2_000));
    let start = Instant::now();
    failed(client.ask_within(slow(), Some(300)), FailureKind::Timeout, None, "did not answer in time");
    let took = start.elapsed();
    assert!((Duration::from_millis(300)..Duration::from_secs(2)).contains(&took), "{took:?}");
    let response: Response = esr_wire::read(&mut other.stream).unwrap();
    failed(response.body, FailureKind::Timeout, None, "did not answer in time");
    assert_eq!(client.texts("slow", &["short"]).unwrap().len(), 1, "the connection is usable afterwards");
    // Without any time, whoever looks at the clock first says so: the caller's thread, or the one that makes up batches.
    let late = client.ask_within(slow(), Some(0)).unwrap_err();
    assert_eq!(late.kind, FailureKind::Timeout, "{late:?}");
}

#[test]
fn a_killed_server_ends_its_callers_waiting() {
    let Some(mut server) = Server::start() else { return };
    let mut client = server.client();
    client.send(RequestBody::EmbedText { model: "slow".into(), texts: vec![SLOW_TEXT.into()] }, None);
    std::thread::sleep(Duration::from_millis(300));
    server.signal(Signal::KILL);
    assert!(esr_wire::read::<Response>(&mut client.stream).is_err());
    server.child.wait().unwrap();
    // The next one replaces the dead one's socket.
    assert!(server.socket().exists());
}

#[test]
fn a_signal_ends_it_cleanly_even_while_it_computes() {
    let Some(mut server) = Server::start() else { return };
    let mut client = server.client();
    client.texts("slow", &["short"]).unwrap();
    client.send(RequestBody::EmbedText { model: "slow".into(), texts: vec![SLOW_TEXT.into()] }, None);
    std::thread::sleep(Duration::from_millis(300));
    server.signal(Signal::TERM);
    wait_for("the end", || server.child.try_wait().unwrap().is_some());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(!server.socket().exists());
}

#[test]
fn it_ends_with_its_supervisor() {
    let Some(mut server) = Server::start() else { return };
    let mut client = server.client();
    client.texts("tiny", &["calm"]).unwrap();
    drop(server.child.stdin.take());
    wait_for("the end", || server.child.try_wait().unwrap().is_some());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(!server.socket().exists());
}

#[test]
fn a_file_in_the_sockets_place_is_not_removed() {
    let Some(library) = server::library() else { return };
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious");
    std::fs::write(&precious, "data").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_esr-embedder"))
        .args(["serve", "--socket"])
        .arg(&precious)
        .arg("--model-directory")
        .arg(folder.path())
        .arg("--onnxruntime")
        .arg(library)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is a file that is no socket"));
    assert_eq!(std::fs::read_to_string(precious).unwrap(), "data");
}
