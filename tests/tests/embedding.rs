//! `esr_embed_text` and `esr_embed_speech` through SQL: answers, errors, caching, one embedder for all.

mod common;

use common::{cluster, cluster_with, embed_speech, embed_text, same, state, tone, words};
use esr_tests::cluster::Options;
use postgres::error::SqlState;

#[test]
fn texts_and_clips_become_unit_vectors_and_arrays_agree_with_single_calls() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    let whisper = embed_text(&mut session, "whispering").unwrap();
    let shout = embed_text(&mut session, "shouting loudly").unwrap();
    let length: f32 = whisper.iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5, "length {length}");
    assert!(!same(&whisper, &shout), "the model must depend on its input");
    let row = session
        .query_one(
            "SELECT a[1]::real[], a[2] IS NULL, a[3]::real[], cardinality(a)
             FROM esr_embed_text(ARRAY['whispering', NULL, 'shouting loudly']) a",
            &[],
        )
        .unwrap();
    assert!(same(&row.get::<_, Vec<f32>>(0), &whisper) && row.get(1) && same(&row.get::<_, Vec<f32>>(2), &shout));
    assert_eq!(row.get::<_, i32>(3), 3);

    let (low, high) = (tone(150.0, 1.0), tone(1900.0, 0.6));
    let low_vector = embed_speech(&mut session, &low).unwrap();
    let clips: Vec<Option<&[u8]>> = vec![Some(&low), None, Some(&high)];
    let row = session
        .query_one("SELECT a[1]::real[], a[2] IS NULL, a[3]::real[] FROM esr_embed_speech($1::bytea[]) a", &[&clips]);
    let row = row.unwrap();
    assert!(same(&row.get::<_, Vec<f32>>(0), &low_vector) && row.get(1));
    assert!(same(&row.get::<_, Vec<f32>>(2), &embed_speech(&mut session, &high).unwrap()));
    let nothing: Option<i32> =
        session.query_one("SELECT cardinality(esr_embed_text(NULL::text[]))", &[]).unwrap().get(0);
    assert_eq!(nothing, None);
    let empty: i32 = session.query_one("SELECT cardinality(esr_embed_text('{}'::text[]))", &[]).unwrap().get(0);
    assert_eq!(empty, 0);
}

#[test]
fn a_named_model_is_the_default_one_or_an_error() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    let by_name: Vec<f32> = session.query_one("SELECT esr_embed_text('sad', 'tiny')::real[]", &[]).unwrap().get(0);
    assert!(same(&by_name, &embed_text(&mut session, "sad").unwrap()));
    for name in ["absent", "../tiny", "", "/etc", "tiny/../tiny"] {
        let error = session.query_one("SELECT esr_embed_text('sad', $1)", &[&name]).unwrap_err();
        assert_eq!(state(&error), SqlState::UNDEFINED_OBJECT, "{name}: {}", words(&error));
    }
    assert!(embed_text(&mut session, "still there").is_ok());
}

#[test]
fn bad_input_is_an_error_that_says_what_is_wrong() {
    let cluster = cluster_with(Options::default(), &[("esr.audio_max_seconds", "5")]);
    let mut session = cluster.connect().unwrap();
    let silence = {
        let mut wav = tone(100.0, 1.0);
        wav[44..].fill(0);
        wav
    };
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("no bytes", vec![], "22"),
        ("not audio", b"this is not a sound".to_vec(), "22"),
        ("33-byte ID3", b"ID3\x04\x00\x00\x00\x00\x00\x17".iter().copied().chain([0; 23]).collect(), "22"),
        ("silence", silence, "22"),
        ("too long", tone(100.0, 6.0), "54"),
        ("cut header", tone(100.0, 1.0)[..40].to_vec(), "22"),
    ];
    for (name, audio, class) in cases {
        let error = embed_speech(&mut session, &audio).unwrap_err();
        assert!(state(&error).code().starts_with(class), "{name}: {} {}", state(&error).code(), words(&error));
        assert!(error.as_db_error().unwrap().hint().is_some(), "{name} has no hint: {}", words(&error));
    }
    let error = embed_text(&mut session, "   ").unwrap_err();
    assert!(state(&error).code().starts_with("22"), "{}", words(&error));
    // The offending element of an array is named.
    let clips: Vec<&[u8]> = vec![b"junk"];
    let good = tone(300.0, 0.5);
    let mixed: Vec<&[u8]> = vec![&good, &good, clips[0]];
    let error = session.query_one("SELECT esr_embed_speech($1::bytea[])", &[&mixed]).unwrap_err();
    assert!(words(&error).contains('3'), "does not name element 3: {}", words(&error));
    assert!(embed_speech(&mut session, &good).is_ok());
    assert_eq!(cluster.embedders().len(), 1, "bad input must not cost the embedder its life");
}

#[test]
fn an_exact_scan_asks_the_embedder_once() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    session
        .batch_execute(
            "CREATE TABLE t AS SELECT i, esr_embed_text('seed ' || i % 7) AS v FROM generate_series(1, 7) i;
             INSERT INTO t SELECT n, v FROM t, generate_series(8, 3000) n WHERE t.i = n % 7 + 1;",
        )
        .unwrap();
    let mut count = || -> i64 { session.query_one("SELECT requests FROM esr_stat_embedder", &[]).unwrap().get(0) };
    let idle = {
        let first = count();
        count() - first // what asking for the counter itself counts
    };
    let before = count();
    let mut other = cluster.connect().unwrap();
    let rows = other.query("SELECT i FROM t ORDER BY v <=> esr_embed_text('seed 3') LIMIT 5", &[]).unwrap();
    assert_eq!(rows.len(), 5);
    let asked = count() - before - idle;
    assert!((1..=3).contains(&asked), "a scan over 3,000 rows asked {asked} times");
}

#[test]
fn every_session_shares_one_embedder_started_by_the_first_call() {
    let cluster = cluster();
    assert!(cluster.embedders().is_empty(), "nothing runs before it is asked");
    std::thread::scope(|scope| {
        for i in 0..12 {
            let cluster = &cluster;
            scope.spawn(move || {
                let mut session = cluster.connect().unwrap();
                for j in 0..10 {
                    embed_text(&mut session, &format!("text {i} {j}")).unwrap();
                }
            });
        }
    });
    assert_eq!(cluster.embedders().len(), 1);
}

#[test]
fn preloaded_the_embedder_starts_with_the_server() {
    let cluster = cluster_with(Options::default().set("shared_preload_libraries", "esr"), &[]);
    esr_tests::cluster::wait_until(std::time::Duration::from_secs(20), || cluster.embedders().len() == 1).unwrap();
    assert!(embed_text(&mut cluster.connect().unwrap(), "hello").is_ok());
    assert_eq!(cluster.embedders().len(), 1);
}

#[test]
fn a_gpu_that_is_asked_for_by_name_and_cannot_be_had_is_an_error_and_auto_says_what_it_got() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    let device = |session: &mut postgres::Client| -> Option<String> {
        session.query_one("SELECT device FROM esr_stat_embedder", &[]).unwrap().get(0)
    };
    assert_eq!(device(&mut session), None, "nothing is loaded yet");
    embed_text(&mut session, "hello").unwrap();
    let got = device(&mut session).unwrap();
    assert!(got == "cpu" || got.starts_with("cuda:"), "{got}");
    if got != "cpu" {
        return;
    }
    esr_tests::models::use_tiny_model(&cluster, &[("esr.execution_provider", "cuda")]).unwrap();
    session.batch_execute("SELECT pg_reload_conf()").unwrap();
    let refused = || {
        let result = embed_text(&mut cluster.connect().unwrap(), "hello");
        result.is_err_and(|error| state(&error).code() == "58P01" && words(&error).contains("CUDA"))
    };
    esr_tests::cluster::wait_until(std::time::Duration::from_secs(20), refused).expect("no error without a GPU");
}

#[test]
fn a_missing_library_program_or_model_folder_says_what_to_install() {
    let cases = [
        ("esr.onnxruntime_library", "/nonexistent/libonnxruntime.so", "/nonexistent/libonnxruntime.so"),
        ("esr.onnxruntime_library", "/lib/x86_64-linux-gnu/libc.so.6", "libc.so.6"),
        ("esr.embedder_program", "/nonexistent/esr-embedder", "/nonexistent/esr-embedder"),
        ("esr.model_directory", "/nonexistent/models", "tiny"),
    ];
    for (setting, value, named) in cases {
        let cluster = cluster_with(Options::default(), &[(setting, value), ("esr.embedder_timeout", "10s")]);
        let mut session = cluster.connect().unwrap();
        let error = embed_text(&mut session, "hello").unwrap_err();
        let said = words(&error);
        assert!(said.contains(named), "{setting} = {value}: {said}");
        assert!(error.as_db_error().unwrap().hint().is_some(), "{setting}: no hint: {said}");
        assert_eq!(session.query_one("SELECT 1", &[]).unwrap().get::<_, i32>(0), 1);
        // Where files lie on the server is not for everyone.
        session.batch_execute("CREATE ROLE visitor; SET ROLE visitor").unwrap();
        let hidden = words(&embed_text(&mut session, "hello").unwrap_err());
        assert!(!hidden.contains("/nonexistent") && !hidden.contains("/lib/"), "{setting} = {value}: {hidden}");
        session.batch_execute("RESET ROLE").unwrap();
        // Mended and reloaded, the next call works without a restart.
        esr_tests::models::use_tiny_model(&cluster, &[]).unwrap();
        session.batch_execute("SELECT pg_reload_conf()").unwrap();
        let mended = esr_tests::cluster::wait_until(std::time::Duration::from_secs(30), || {
            embed_text(&mut cluster.connect().unwrap(), "hello").is_ok()
        });
        assert!(mended.is_ok(), "{setting}: did not recover; the log ends {}", cluster.log());
    }
}
