//! The embedder killed, frozen, or outlived: callers get one documented error each, the cluster goes on, nothing is left.

mod common;

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use common::{cluster, embed_speech, embed_text, same, state, tone, words};
use esr_tests::{
    cluster::{Cluster, Stop, wait_until},
    processes,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Stops every thread of a process; `SIGSTOP` alone returns before they have all noticed.
fn freeze(pid: i32) {
    signal(pid, Signal::SIGSTOP);
    let stopped = |stat: String| stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'));
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let all = || threads().all(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(stopped));
    wait_until(Duration::from_secs(10), all).expect("the embedder does not stop");
}

#[test]
fn killed_during_a_thousand_calls_every_call_answers_rightly_or_says_so() {
    let cluster = cluster();
    let postmaster = cluster.postmaster().unwrap();
    let truth: Vec<Vec<f32>> = {
        let mut session = cluster.connect().unwrap();
        (0..10).map(|i| embed_text(&mut session, &format!("truth {i}")).unwrap()).collect()
    };
    let clip = tone(220.0, 0.5);
    let clip_truth = embed_speech(&mut cluster.connect().unwrap(), &clip).unwrap();
    let (answered, refused, killed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..5)
            .map(|caller| {
                let (cluster, truth, clip, clip_truth) = (&cluster, &truth, &clip, &clip_truth);
                let (answered, refused) = (&answered, &refused);
                scope.spawn(move || {
                    let mut session = cluster.connect().unwrap();
                    // The answer must come from the embedder each time, not from the session's memory.
                    session.batch_execute("SET esr.text_cache_size = 0").unwrap();
                    for call in 0..200 {
                        let which = (caller + call) % 10;
                        let (got, want) = match call % 4 {
                            0 => (embed_speech(&mut session, clip), clip_truth),
                            _ => (embed_text(&mut session, &format!("truth {which}")), &truth[which]),
                        };
                        match got {
                            Ok(vector) => {
                                assert!(same(&vector, want), "a wrong vector");
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                let code = state(&error);
                                assert!(["58000", "57P03"].contains(&code.code()), "{} {}", code.code(), words(&error));
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                })
            })
            .collect();
        // Somebody who has nothing to do with embeddings must never notice.
        let bystander = scope.spawn(|| {
            let mut session = cluster.connect().unwrap();
            while !done.load(Ordering::Relaxed) {
                session.query_one("SELECT count(*) FROM pg_class", &[]).unwrap();
            }
        });
        scope.spawn(|| {
            // Whenever so many calls are over, however fast the machine is, and each time once the last one has been replaced.
            for calls in [20, 190, 370, 590, 800] {
                let over = || answered.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed);
                let due = || done.load(Ordering::Relaxed) || (over() >= calls && !cluster.embedders().is_empty());
                let _ = wait_until(Duration::from_secs(120), due);
                if let (false, Some(pid)) = (done.load(Ordering::Relaxed), cluster.embedders().first()) {
                    signal(*pid, Signal::SIGKILL);
                    killed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        callers.into_iter().for_each(|caller| caller.join().unwrap());
        done.store(true, Ordering::Relaxed);
        bystander.join().unwrap();
    });
    let (answered, refused, killed) = (answered.into_inner(), refused.into_inner(), killed.into_inner());
    println!("1,000 calls: {answered} answered, {refused} refused; embedder killed {killed} times");
    assert_eq!(answered + refused, 1000);
    assert!(killed >= 2 && refused >= 1, "the embedder was not killed in time to matter");
    assert_eq!(cluster.postmaster(), Some(postmaster), "the cluster restarted");
    assert!(!cluster.log().contains("reinitializing"), "the cluster went through crash recovery");
    wait_until(Duration::from_secs(60), || {
        embed_text(&mut cluster.connect().unwrap(), "truth 0").is_ok_and(|vector| same(&vector, &truth[0]))
    })
    .unwrap();
}

/// Runs a statement against a frozen embedder and returns how it ended, and after how long.
fn against_a_frozen_embedder(cluster: &Cluster, set: &str, also: impl FnOnce(i32)) -> (postgres::Error, Duration) {
    let mut session = cluster.connect().unwrap();
    embed_text(&mut session, "warm").unwrap();
    session.batch_execute(set).unwrap();
    let backend: i32 = session.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
    let embedder = cluster.embedders()[0];
    freeze(embedder);
    let start = Instant::now();
    let waiting = std::thread::spawn(move || embed_text(&mut session, "never seen before"));
    std::thread::sleep(Duration::from_millis(300));
    also(backend);
    let error = waiting.join().unwrap().unwrap_err();
    let took = start.elapsed();
    signal(embedder, Signal::SIGCONT);
    (error, took)
}

#[test]
fn a_frozen_embedder_holds_nobody_against_their_will() {
    let cluster = cluster();
    let (error, took) = against_a_frozen_embedder(&cluster, "SET statement_timeout = '500ms'", |_| ());
    assert_eq!(state(&error).code(), "57014", "{}", words(&error));
    assert!(took < Duration::from_secs(3), "{took:?}");

    let (error, took) = against_a_frozen_embedder(&cluster, "", |backend| {
        cluster.connect().unwrap().execute("SELECT pg_cancel_backend($1)", &[&backend]).unwrap();
    });
    assert_eq!(state(&error).code(), "57014", "{}", words(&error));
    assert!(took < Duration::from_secs(3), "{took:?}");

    let (error, took) = against_a_frozen_embedder(&cluster, "", |backend| {
        cluster.connect().unwrap().execute("SELECT pg_terminate_backend($1)", &[&backend]).unwrap();
    });
    assert!(error.code().is_none_or(|code| code.code() == "57P01"), "{error:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");

    let (error, took) = against_a_frozen_embedder(&cluster, "SET esr.embedder_timeout = '700ms'", |_| ());
    assert!(state(&error).code().starts_with("5"), "{} {}", state(&error).code(), words(&error));
    assert!(took < Duration::from_secs(5), "{took:?}");

    // Thawed, it answers again, to sessions old and new.
    assert!(embed_text(&mut cluster.connect().unwrap(), "thawed").is_ok());
}

#[test]
fn a_frozen_embedder_does_not_hold_up_shutdown() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    embed_text(&mut session, "warm").unwrap();
    let embedder = cluster.embedders()[0];
    freeze(embedder);
    let waiting = std::thread::spawn(move || embed_text(&mut session, "never seen before"));
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    cluster.stop(Stop::Fast).unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(waiting.join().unwrap().is_err());
    wait_until(Duration::from_secs(5), || !processes::is_running(embedder)).expect("a frozen embedder was left behind");
}

#[test]
fn nothing_is_left_after_an_immediate_stop_or_a_killed_postmaster() {
    let mut cluster = cluster();
    for round in 0..2 {
        embed_text(&mut cluster.connect().unwrap(), "hello").unwrap();
        let embedder = cluster.embedders()[0];
        if round == 0 {
            cluster.stop(Stop::Immediate).unwrap();
        } else {
            cluster.kill_postmaster().unwrap();
        }
        wait_until(Duration::from_secs(5), || !processes::is_running(embedder)).expect("an embedder was left behind");
        let data = cluster.data().display().to_string();
        // Backends notice a moment later than the embedder.
        wait_until(Duration::from_secs(5), || processes::matching(&data).is_empty())
            .unwrap_or_else(|_| panic!("left behind: {:?}", processes::matching(&data)));
        // A socket that was left must not keep the next server from its work.
        cluster.start_again().unwrap();
    }
    assert!(embed_text(&mut cluster.connect().unwrap(), "hello again").is_ok());
    cluster.stop(Stop::Fast).unwrap();
    let sockets: Vec<_> = std::fs::read_dir(cluster.data())
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".sock"))
        .collect();
    assert!(sockets.is_empty(), "{sockets:?}");
}
