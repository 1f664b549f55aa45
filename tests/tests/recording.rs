//! `esr_segments`, `esr_audio_info` and `esr_classify`.

mod common;

use common::{cluster, same, state, tone, words};

#[test]
fn windows_of_a_recording_are_the_clips_they_hold() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    // Two seconds of one tone, two of silence, one of another.
    let samples = |wav: Vec<u8>| wav[44..].to_vec();
    let mut sound = samples(tone(200.0, 2.0));
    sound.extend(vec![0; 2 * 2 * 16000]);
    sound.extend(samples(tone(900.0, 1.0)));
    let mut recording = tone(1.0, 5.0)[..44].to_vec();
    recording.extend(sound);
    let rows =
        session.query("SELECT start_s, end_s, style::real[] FROM esr_segments($1, 2, 2)", &[&recording]).unwrap();
    let spans: Vec<(f64, f64, bool)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get::<_, Option<Vec<f32>>>(2).is_some())).collect();
    assert_eq!(spans, [(0.0, 2.0, true), (2.0, 4.0, false), (3.0, 5.0, true)]);
    let first = common::embed_speech(&mut session, &tone(200.0, 2.0)).unwrap();
    assert!(same(&rows[0].get::<_, Vec<f32>>(2), &first));
    // One window each: the same as the whole clip, tag included.
    let equal: bool = session
        .query_one(
            "SELECT bool_and(style <=> esr_embed_speech($1) < 1e-5) FROM esr_segments($1, 9, 9, 'tiny')",
            &[&tone(321.0, 1.5)],
        )
        .unwrap()
        .get(0);
    assert!(equal);
    let rows = session.query("SELECT FROM esr_segments($1)", &[&tone(321.0, 9.0)]).unwrap();
    assert_eq!(rows.len(), 4, "windows of 4 s every 2 s: at 0, 2, 4 and 5 s");
    for (sql, expected) in [
        ("SELECT * FROM esr_segments($1, 0, 1)", "22023"),
        ("SELECT * FROM esr_segments($1, 1, 'NaN')", "22023"),
        ("SELECT * FROM esr_segments($1, 0.01, 0.0001)", "54000"),
        ("SELECT * FROM esr_segments($1, 1, 1, 'absent')", "42704"),
        ("SELECT * FROM esr_segments(substr($1::bytea, 1, 30), 1, 1)", "22P03"),
    ] {
        let error = session.query(sql, &[&recording]).unwrap_err();
        assert_eq!(state(&error).code(), expected, "{sql}: {}", words(&error));
    }
    let row = session.query_one("SELECT * FROM esr_audio_info($1)", &[&recording]).unwrap();
    assert_eq!(
        (
            row.get::<_, &str>(0),
            row.get::<_, &str>(1),
            row.get::<_, f64>(2),
            row.get::<_, i32>(3),
            row.get::<_, i32>(4)
        ),
        ("WAV", "pcm_s16le", 5.0, 16000, 1)
    );
    let error = session.query("SELECT * FROM esr_audio_info('junk')", &[]).unwrap_err();
    assert!(state(&error).code().starts_with("22"), "{}", words(&error));
}

#[test]
fn labels_are_ranked_by_similarity() {
    let cluster = cluster();
    let mut session = cluster.connect().unwrap();
    let rows = session
        .query(
            "SELECT label, score FROM esr_classify(esr_embed_text('angry'), ARRAY['calm', NULL, 'angry', 'bored'])",
            &[],
        )
        .unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0].get::<_, &str>(0), "angry");
    assert!((rows[0].get::<_, f64>(1) - 1.0).abs() < 1e-5);
    assert!(rows[1].get::<_, f64>(1) >= rows[2].get::<_, f64>(1));
    assert_eq!(session.query("SELECT FROM esr_classify(NULL, ARRAY['x'])", &[]).unwrap().len(), 0);
    let error =
        session.query("SELECT * FROM esr_classify('[1,0,0,0,0,0,0,0]@0000000000000001', ARRAY['x'])", &[]).unwrap_err();
    assert_eq!(state(&error).code(), "22023", "{}", words(&error));
}
