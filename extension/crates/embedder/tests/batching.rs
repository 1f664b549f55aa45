//! Requests of several callers meeting in the queue: who shares a batch, who is refused, who is stopped, whose fault it is.

use std::time::{Duration, Instant};

use esr_encoder::bundle::sha256_hex;
use esr_wire::{Class, FailureKind, RequestBody, Response, Status};

mod server;
use server::{Client, SLOW_TEXT, Server, fixture, library, wait_for, wav};

/// Cosine distance by which an embedding may depend on its batch mates.
const TOLERANCE: f64 = 1e-6;

fn slow() -> RequestBody {
    RequestBody::EmbedText { model: "slow".into(), texts: vec![SLOW_TEXT.into()] }
}

fn text(model: &str, text: &str) -> RequestBody {
    RequestBody::EmbedText { model: model.into(), texts: vec![text.into()] }
}

/// A caller whose text keeps the lane of texts busy for minutes, until it is dropped.
fn blocker(server: &Server, watcher: &mut Client) -> Client {
    watcher.texts("slow", &["short"]).unwrap();
    let mut blocker = server.client();
    blocker.send(slow(), None);
    until(watcher, "the blocker to run", |status| (status.running, status.queued) == (1, 0));
    blocker
}

fn until(watcher: &mut Client, what: &str, holds: impl Fn(&Status) -> bool) {
    wait_for(what, || holds(&watcher.status()));
}

fn answer(client: &mut Client) -> Result<Vec<f32>, esr_wire::Failure> {
    let response: Response = esr_wire::read(&mut client.stream).unwrap();
    response.body.map(|body| match body {
        esr_wire::ResponseBody::Embeddings { values, .. } => values,
        other => panic!("{other:?}"),
    })
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    1.0 - a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
}

#[test]
fn what_waits_together_runs_together_and_answers_as_alone() {
    let Some(server) = Server::start() else { return };
    let mut watcher = server.client();
    let texts: Vec<String> = (0..12).map(|at| format!("voice {}", "abcdefghijkl".split_at(at).1)).collect();
    let alone: Vec<Vec<f32>> = texts.iter().map(|text| watcher.texts("tiny", &[text]).unwrap().remove(0)).collect();
    let busy = blocker(&server, &mut watcher);
    let mut callers: Vec<Client> = texts
        .iter()
        .map(|words| {
            let mut caller = server.client();
            caller.send(text("tiny", words), None);
            caller
        })
        .collect();
    until(&mut watcher, "all to wait", |status| status.queued == 12);
    let before = watcher.status().batches;
    drop(busy);
    for (caller, alone) in callers.iter_mut().zip(&alone) {
        assert!(distance(&answer(caller).unwrap(), alone) < TOLERANCE);
    }
    let batches = watcher.status().batches - before;
    assert!(batches <= 6, "twelve texts that waited together took {batches} runs");
}

#[test]
fn a_full_queue_refuses_at_once_and_has_room_again_when_somebody_leaves() {
    let Some(library) = library() else { return };
    let server = Server::start_queue(&library, 4);
    let mut watcher = server.client();
    let busy = blocker(&server, &mut watcher);
    let mut waiting: Vec<Client> = (0..2).map(|_| server.client()).collect();
    for caller in &mut waiting {
        caller.class = Class::Backfill;
        caller.send(text("tiny", "calm"), None);
    }
    until(&mut watcher, "two to wait", |status| status.queued == 2);
    // Backfill may fill half of the queue, the others all of it.
    let mut third = server.client();
    third.class = Class::Backfill;
    let refused = third.ask(text("tiny", "calm")).unwrap_err();
    assert_eq!(refused.kind, FailureKind::Overloaded, "{refused:?}");
    for _ in 0..2 {
        let mut caller = server.client();
        caller.send(text("tiny", "calm"), None);
        waiting.push(caller);
    }
    until(&mut watcher, "four to wait", |status| status.queued == 4);
    let start = Instant::now();
    let refused = watcher.ask(text("tiny", "calm")).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(refused.kind, FailureKind::Overloaded);
    assert!(refused.message.contains("4 requests wait") && refused.hint.is_some(), "{refused:?}");
    assert_eq!(watcher.status().refused, 2);
    // Clips have a queue of their own.
    assert_eq!(watcher.clips(&[wav(120.0, 0.5)]).unwrap().len(), 1);
    drop(waiting.pop());
    until(&mut watcher, "room", |status| status.queued == 3);
    let mut last = server.client();
    last.send(text("tiny", "calm"), None);
    until(&mut watcher, "four to wait again", |status| status.queued == 4);
    drop(busy);
    for caller in waiting.iter_mut().chain([&mut last]) {
        assert!(answer(caller).is_ok());
    }
}

#[test]
fn a_running_batch_goes_on_while_somebody_waits_for_it_and_stops_with_the_last() {
    let Some(server) = Server::start() else { return };
    let mut watcher = server.client();
    let busy = blocker(&server, &mut watcher);
    let mut two: Vec<Client> = (0..2).map(|_| server.client()).collect();
    two.iter_mut().for_each(|caller| {
        caller.send(slow(), None);
    });
    until(&mut watcher, "two to wait", |status| status.queued == 2);
    let before = watcher.status().batches;
    drop(busy);
    until(&mut watcher, "both to run", |status| (status.running, status.queued) == (1, 0));
    assert_eq!(watcher.status().batches, before + 1);
    two.pop();
    until(&mut watcher, "one to be gone", |status| status.cancelled == 2);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(watcher.status().running, 1, "the other one still waits");
    two.pop();
    until(&mut watcher, "the batch to stop", |status| status.running == 0);
    assert_eq!(watcher.texts("slow", &["short"]).unwrap().len(), 1);
}

#[test]
fn what_is_too_late_is_not_computed() {
    let Some(server) = Server::start() else { return };
    let mut watcher = server.client();
    let busy = blocker(&server, &mut watcher);
    let before = watcher.status().batches;
    let mut late = server.client();
    let failure = late.ask_within(text("tiny", "calm"), Some(200)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Timeout);
    drop(busy);
    until(&mut watcher, "the blocker to stop", |status| status.running == 0);
    let status = watcher.status();
    assert_eq!((status.batches, status.expired, status.queued), (before, 1, 0));
}

#[test]
fn a_poison_row_fails_alone() {
    let Some(server) = Server::start() else { return };
    // The letter z gets a token that the network does not have.
    let poisoned = server.folder.path().join("models/poisoned");
    std::fs::create_dir(&poisoned).unwrap();
    for entry in std::fs::read_dir(fixture("tiny-bundle")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), poisoned.join(entry.file_name())).unwrap();
    }
    let tokenizer = std::fs::read_to_string(poisoned.join("tokenizer.json")).unwrap();
    let (old, new) = (tokenizer.clone(), tokenizer.replace("\"z\":29", "\"z\":9999"));
    assert_ne!(old, new);
    std::fs::write(poisoned.join("tokenizer.json"), &new).unwrap();
    let manifest = std::fs::read_to_string(poisoned.join("manifest.toml")).unwrap();
    let manifest = manifest.replace(&sha256_hex(old.as_bytes()), &sha256_hex(new.as_bytes()));
    std::fs::write(poisoned.join("manifest.toml"), manifest).unwrap();

    let mut watcher = server.client();
    let alone = watcher.texts("poisoned", &["a b"]).unwrap().remove(0);
    let busy = blocker(&server, &mut watcher);
    let mut callers: Vec<Client> = (0..7).map(|_| server.client()).collect();
    for (at, caller) in callers.iter_mut().enumerate() {
        caller.send(text("poisoned", if at == 4 { "a z" } else { "a b" }), None);
    }
    until(&mut watcher, "all to wait", |status| status.queued == 7);
    drop(busy);
    for (at, caller) in callers.iter_mut().enumerate() {
        match answer(caller) {
            Ok(embedding) => assert!(at != 4 && distance(&embedding, &alone) < TOLERANCE),
            Err(failure) => {
                assert_eq!((at, failure.kind, failure.item), (4, FailureKind::Internal, Some(0)), "{failure:?}")
            }
        }
    }
    assert!(watcher.status().halved >= 2);
    // Within one request the bad text is named.
    let failure = watcher.texts("poisoned", &["a b", "a b", "a z", "a b"]).unwrap_err();
    assert_eq!(failure.item, Some(2));
}

#[test]
fn interactive_requests_overtake_backfill() {
    let Some(server) = Server::start() else { return };
    let mut watcher = server.client();
    let busy = blocker(&server, &mut watcher);
    // Of several lengths, so that they take several batches.
    let mut backfill: Vec<Client> = (0..5).map(|_| server.client()).collect();
    for (at, caller) in backfill.iter_mut().enumerate() {
        caller.class = Class::Backfill;
        caller.send(slow_within(at), Some(20_000));
    }
    until(&mut watcher, "backfill to wait", |status| status.queued == 5);
    let mut interactive = server.client();
    interactive.send(text("tiny", "calm"), None);
    until(&mut watcher, "all to wait", |status| status.queued == 6);
    drop(busy);
    let start = Instant::now();
    assert!(answer(&mut interactive).is_ok());
    assert!(start.elapsed() < Duration::from_secs(5), "it waited for backfill: {:?}", start.elapsed());
}

/// Minutes of work.
fn slow_within(at: usize) -> RequestBody {
    text("slow", &format!("{SLOW_TEXT} {at}"))
}

#[test]
fn an_idle_server_takes_no_processor_time() {
    let Some(server) = Server::start() else { return };
    let mut client = server.client();
    client.texts("tiny", &["calm"]).unwrap();
    client.clips(&[wav(120.0, 0.5)]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let before = server.ticks();
    std::thread::sleep(Duration::from_secs(2));
    assert!(server.ticks() - before <= 1, "{} ticks of 1/100 s while idle", server.ticks() - before);
    let status = client.status();
    assert!(status.memory > 0 && status.peak_memory >= status.memory);
}
