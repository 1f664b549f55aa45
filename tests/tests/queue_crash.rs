//! Mode `queue` while processes are killed at random: in the end every row has its right vector, and nothing is listed
//! as failed.

mod common;

use std::time::Duration;

use common::{cluster, same, tone};
use esr_tests::{
    cluster::{Cluster, wait_until},
    processes,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use postgres::Client;
use rand::{Rng, SeedableRng};

/// How often a process is killed; `ESR_KILLS` asks for more.
fn kills() -> usize {
    std::env::var("ESR_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(8)
}

fn connect(cluster: &Cluster) -> Client {
    let mut session = None;
    wait_until(Duration::from_secs(60), || {
        session = cluster.connect().ok();
        session.is_some()
    })
    .expect("the server does not come back");
    session.unwrap()
}

/// The clip of a row: fewer clips than rows, so that some are equal.
fn clip(id: i32) -> Vec<u8> {
    tone(80.0 + (id % 97) as f32 * 11.0, 0.2)
}

#[test]
fn whatever_is_killed_every_row_gets_its_vector() {
    let mut cluster = cluster();
    connect(&cluster)
        .batch_execute(
            "CREATE TABLE clips (id int PRIMARY KEY, note text, audio bytea, style esr_vector(8));
             SELECT esr_attach('clips', 'audio', 'style', mode => 'queue');",
        )
        .unwrap();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    let rows = 60 * kills() as i32;
    let mut next = 1;
    for round in 0..kills() {
        let mut session = connect(&cluster);
        let end = next + rows / kills() as i32;
        while next < end {
            // What was not committed is written again.
            let written = session.execute(
                "INSERT INTO clips (id, audio) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
                &[&next, &clip(next)],
            );
            match written {
                Ok(_) => next += 1,
                Err(_) => session = connect(&cluster),
            }
            if next % 7 == 0 {
                let _ = session.execute("UPDATE clips SET note = 'seen' WHERE id = $1", &[&(next - 5)]);
            }
        }
        let Some(postmaster) = cluster.postmaster() else { panic!("no postmaster") };
        if round % 4 == 3 {
            cluster.kill_postmaster().unwrap();
            cluster.start_again().unwrap();
        } else {
            // A backend, a worker, the supervisor, the embedder: whoever.
            let wanted = |p: &processes::Process| {
                round % 2 == 0 || p.command.contains("esr") || p.command.contains("postgres: postgres")
            };
            let all: Vec<_> = processes::descendants(postmaster).into_iter().filter(wanted).collect();
            if !all.is_empty() {
                let victim = &all[random.random_range(0..all.len())];
                println!("round {round}: kills {}", victim.command);
                let _ = kill(Pid::from_raw(victim.pid), Signal::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
    }
    let mut session = connect(&cluster);
    let number = |session: &mut Client, sql: &str| -> i64 { session.query_one(sql, &[]).unwrap().get(0) };
    // Without shared_preload_libraries the first call after a start of the server is what starts things.
    session.query_one("SELECT esr_embed_text('wake up')::text", &[]).unwrap();
    wait_until(Duration::from_secs(120), || {
        number(&mut session, "SELECT count(*) FROM clips WHERE style IS NULL") == 0
    })
    .unwrap_or_else(|_| {
        let left: Vec<String> =
            session.query("SELECT f::text FROM esr_failures f", &[]).unwrap().iter().map(|row| row.get(0)).collect();
        panic!("rows stay pending: {} {left:?}", number(&mut session, "SELECT count(*) FROM clips WHERE style IS NULL"))
    });
    assert_eq!(number(&mut session, "SELECT count(*) FROM clips"), i64::from(next - 1));
    wait_until(Duration::from_secs(30), || number(&mut session, "SELECT count(*) FROM esr_failures") == 0)
        .expect("failures are listed though every row has its vector");
    let truth: Vec<Vec<f32>> = (0..97).map(|id| common::embed_speech(&mut session, &clip(id)).unwrap()).collect();
    for row in session.query("SELECT id, style::real[] FROM clips", &[]).unwrap() {
        let id: i32 = row.get(0);
        assert!(same(&row.get::<_, Vec<f32>>(1), &truth[(id % 97) as usize]), "row {id} has a wrong vector");
    }
}
