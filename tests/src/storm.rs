//! Many sessions that embed texts and clips at once while things go wrong: statements are cancelled, time out, sessions are
//! terminated, the embedder is killed. Each call must be answered rightly, or fail in a documented way. The test runs a short
//! one, `esr-benches storm` a long one.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postgres::Client;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cluster::{Cluster, wait_until};

/// How much of it.
#[derive(Debug, Clone)]
pub struct Storm {
    /// Sessions that embed.
    pub connections: usize,
    /// Calls of all sessions together.
    pub calls: usize,
    /// How often the embedder is killed.
    pub kills: usize,
    /// Of the random choices.
    pub seed: u64,
    /// Audio files to embed; several lengths.
    pub clips: Vec<Vec<u8>>,
}

/// What became of the calls.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Calls with the right answer.
    pub answered: usize,
    /// Calls that failed, by SQLSTATE; `closed` for a session that was terminated while it said nothing.
    pub failed: BTreeMap<String, usize>,
    /// Times the embedder was killed.
    pub killed: usize,
    /// Backends told to cancel their statement, and to end.
    pub cancelled: usize,
    /// See `cancelled`.
    pub terminated: usize,
    /// Milliseconds that answered calls took, sorted.
    pub latencies: Vec<f64>,
    /// Of the whole storm.
    pub took: Duration,
}

/// The SQLSTATEs a call may fail with here: no embedder or it died, statement cancelled or too late, session terminated, queue
/// full.
const ALLOWED: [&str; 5] = ["58000", "57014", "57P01", "53000", CLOSED];
const CLOSED: &str = "closed";

const TEXTS: [&str; 8] = [
    "whispering",
    "a bored voice",
    "someone who shouts in anger",
    "calm",
    "cheerful and quick",
    "sad, close to tears",
    "sarcastic",
    "a projected voice, as on a stage",
];

/// Runs it. The embeddings that are right are asked for first, one by one.
pub fn run(cluster: &Cluster, storm: &Storm) -> Result<Outcome> {
    let mut session = cluster.connect()?;
    session.batch_execute(
        "DO $$ BEGIN FOR i IN 0..3 LOOP EXECUTE format('CREATE ROLE storm%s SUPERUSER', i); END LOOP; END $$",
    )?;
    let text = |text: &&str| -> Result<Vec<f32>> { Ok(ask(&mut session, Input::Text(text))?) };
    let texts = TEXTS.iter().map(text).collect::<Result<Vec<_>>>()?;
    let clip = |clip: &Vec<u8>| -> Result<Vec<f32>> { Ok(ask(&mut session, Input::Clip(clip))?) };
    let clips = storm.clips.iter().map(clip).collect::<Result<Vec<_>>>()?;
    let shared = Shared {
        cluster,
        storm,
        texts,
        clips,
        left: AtomicUsize::new(storm.calls),
        is_over: AtomicBool::new(false),
        backends: Mutex::default(),
        outcome: Mutex::default(),
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..storm.connections)
            .map(|caller| {
                let shared = &shared;
                scope.spawn(move || shared.call(caller))
            })
            .collect();
        let chaos = scope.spawn(|| shared.make_trouble());
        let results: Vec<Result<()>> =
            callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| bail!("a caller panicked"))).collect();
        shared.is_over.store(true, Ordering::SeqCst);
        let trouble = chaos.join().unwrap_or_else(|_| bail!("the troublemaker panicked"));
        results.into_iter().collect::<Result<()>>().and(trouble)
    })?;
    let mut outcome = shared.outcome.into_inner().unwrap_or_default();
    outcome.took = start.elapsed();
    outcome.latencies.sort_by(f64::total_cmp);
    Ok(outcome)
}

struct Shared<'a> {
    cluster: &'a Cluster,
    storm: &'a Storm,
    texts: Vec<Vec<f32>>,
    clips: Vec<Vec<f32>>,
    left: AtomicUsize,
    is_over: AtomicBool,
    backends: Mutex<BTreeMap<usize, i32>>,
    outcome: Mutex<Outcome>,
}

enum Input<'a> {
    Text(&'a str),
    Clip(&'a [u8]),
}

fn ask(session: &mut Client, input: Input) -> Result<Vec<f32>, postgres::Error> {
    let row = match input {
        Input::Text(text) => session.query_one("SELECT esr_embed_text($1)::real[]", &[&text])?,
        Input::Clip(clip) => session.query_one("SELECT esr_embed_speech($1::bytea)::real[]", &[&clip])?,
    };
    Ok(row.get(0))
}

impl Shared<'_> {
    /// One session after the other, until all calls are made.
    fn call(&self, caller: usize) -> Result<()> {
        let mut random = ChaCha8Rng::seed_from_u64(self.storm.seed + caller as u64);
        let mut session = None;
        while self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            let open = match session.take() {
                Some(open) => open,
                None => self.connect(caller)?,
            };
            session = self.one_call(open, &mut random)?;
        }
        self.backends.lock().expect("nobody panics with it").remove(&caller);
        Ok(())
    }

    fn connect(&self, caller: usize) -> Result<Client> {
        // A session may be terminated before it has said what it is.
        for _ in 0..20 {
            let Ok(mut session) = self.cluster.connect() else { continue };
            let class = if caller.is_multiple_of(3) { "backfill" } else { "interactive" };
            let role = caller % 4;
            // The answer must come from the embedder each time, not from the session's memory.
            let set = format!("SET ROLE storm{role}; SET esr.text_cache_size = 0; SET esr.request_class = '{class}'");
            let Ok(row) = session.query_one("SELECT pg_backend_pid(), esr_dims('[1]')", &[]) else { continue };
            if session.batch_execute(&set).is_ok() {
                self.backends.lock().expect("nobody panics with it").insert(caller, row.get(0));
                return Ok(session);
            }
        }
        bail!("no session in twenty attempts")
    }

    /// Returns the session, unless it is gone.
    fn one_call(&self, mut session: Client, random: &mut ChaCha8Rng) -> Result<Option<Client>> {
        let timeout_ms = if random.random_bool(0.05) { random.random_range(1..60) } else { 0 };
        let is_speech = random.random_bool(0.25);
        let which = random.random_range(0..if is_speech { self.clips.len() } else { self.texts.len() });
        let start = Instant::now();
        let set = session.batch_execute(&format!("SET statement_timeout = {timeout_ms}"));
        let result = set.and_then(|()| match is_speech {
            true => ask(&mut session, Input::Clip(&self.storm.clips[which])),
            false => ask(&mut session, Input::Text(TEXTS[which])),
        });
        let took = start.elapsed();
        let mut outcome = self.outcome.lock().expect("nobody panics with it");
        match result {
            Ok(got) => {
                let right = if is_speech { &self.clips[which] } else { &self.texts[which] };
                let cosine: f64 = got.iter().zip(right).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                ensure!(got.len() == right.len() && 1.0 - cosine < 1e-5, "a wrong embedding: cosine {cosine}");
                outcome.answered += 1;
                outcome.latencies.push(took.as_secs_f64() * 1e3);
                Ok(Some(session))
            }
            Err(error) => {
                let code = error.code().map_or(CLOSED.to_owned(), |code| code.code().to_owned());
                ensure!(ALLOWED.contains(&code.as_str()), "an undocumented failure: {error:?}");
                ensure!(timeout_ms == 0 || code != "58000" || took < Duration::from_secs(60), "late: {error:?}");
                *outcome.failed.entry(code).or_default() += 1;
                Ok((!session.is_closed()).then_some(session))
            }
        }
    }

    /// Cancels, terminates and kills until the callers are done; the kills are spread over all calls.
    fn make_trouble(&self) -> Result<()> {
        let mut random = ChaCha8Rng::seed_from_u64(self.storm.seed ^ u64::MAX);
        let mut session = self.cluster.connect()?;
        let mut killed = 0;
        while !self.is_over.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
            let done = self.storm.calls - self.left.load(Ordering::SeqCst);
            if done > (killed + 1) * self.storm.calls / (self.storm.kills + 2) && killed < self.storm.kills {
                let is_there = || self.is_over.load(Ordering::SeqCst) || !self.cluster.embedders().is_empty();
                wait_until(Duration::from_secs(60), is_there).context("no embedder to kill")?;
                if let Some(pid) = self.cluster.embedders().first() {
                    kill(Pid::from_raw(*pid), Signal::SIGKILL)?;
                    killed += 1;
                    self.outcome.lock().expect("nobody panics with it").killed += 1;
                }
            }
            let victims: Vec<i32> = self.backends.lock().expect("nobody panics with it").values().copied().collect();
            if victims.is_empty() {
                continue;
            }
            let victim = victims[random.random_range(0..victims.len())];
            let is_gentle = random.random_bool(0.8);
            let end = if is_gentle { "pg_cancel_backend" } else { "pg_terminate_backend" };
            session.query_one(&format!("SELECT {end}($1)"), &[&victim])?;
            let mut outcome = self.outcome.lock().expect("nobody panics with it");
            *(if is_gentle { &mut outcome.cancelled } else { &mut outcome.terminated }) += 1;
        }
        Ok(())
    }
}
