//! The encoder with ONNX Runtime and the tiny bundle: right answers, and every way a bundle can be broken. Skipped, aloud,
//! where ONNX Runtime's library is missing, unless ESR_REQUIRE_ONNXRUNTIME is set.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use esr_audio::Waveform;
use esr_encoder::bundle::{GOLDEN_FILE, MANIFEST_FILE, SPEECH_FILE, TEXT_FILE, sha256_hex};
use esr_encoder::golden::{self, Generator};
use esr_encoder::{Batch, Bundle, Cancel, Embedding, Encoder, Runtime, RuntimeError, runtime};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn onnx_runtime() -> Option<Runtime> {
    let library = runtime::default_library();
    if !library.exists() && std::env::var_os("ESR_REQUIRE_ONNXRUNTIME").is_none() {
        eprintln!("SKIPPED: no ONNX Runtime at {}", library.display());
        return None;
    }
    Some(Runtime::load(&library, 1).unwrap())
}

fn load(folder: &Path, runtime: &Runtime) -> Result<Encoder, String> {
    let bundle = Bundle::open(folder).map_err(|error| error.to_string())?;
    Encoder::load(&bundle, runtime).map_err(|error| error.to_string())
}

fn clip(hz: f64, seconds: f64) -> Waveform {
    Waveform::new(golden::waveform(&Generator::Harmonic { hz, seconds, seed: 7 }), 16_000).unwrap()
}

fn same(a: &Embedding, b: &Embedding) -> bool {
    a.cosine_distance(b).abs() < 1e-6
}

#[test]
fn answers_do_not_depend_on_batch_mates_and_do_depend_on_the_input() {
    let Some(runtime) = onnx_runtime() else { return };
    let mut encoder = load(&fixture("tiny-bundle"), &runtime).unwrap();
    let cancel = Cancel::default();
    let clips: Vec<Waveform> =
        [(100.0, 0.31), (220.0, 1.9), (150.0, 5.3), (90.0, 1.85)].map(|(hz, seconds)| clip(hz, seconds)).into();
    let together = encoder.embed_speech(&clips, &cancel).unwrap();
    for (clip, together) in clips.iter().zip(&together) {
        let alone = encoder.embed_speech(std::slice::from_ref(clip), &cancel).unwrap();
        assert!(same(&alone[0], together));
    }
    assert!(together[0].cosine_distance(&together[1]) > 1e-3);
    let texts = ["whispering", "a loud and angry man", "x", "a very bored voice"];
    let together = encoder.embed_texts(&texts, &cancel).unwrap();
    for (text, together) in texts.iter().zip(&together) {
        assert!(same(&encoder.embed_texts(&[text], &cancel).unwrap()[0], together), "{text}");
    }
    assert!(together[0].cosine_distance(&together[1]) > 1e-3);
    for embedding in &together {
        let length: f64 = embedding.as_slice().iter().map(|value| f64::from(*value).powi(2)).sum();
        assert!((length - 1.0).abs() < 1e-6);
    }
}

/// Rows of the default bundle, alone and beside the longest that batches allow, and beside some that they do not.
#[test]
fn the_default_bundle_masks_padding() {
    let Some(runtime) = onnx_runtime() else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../models/default");
    let mut parts = Encoder::load(&Bundle::open(&folder).unwrap(), &runtime).unwrap().into_parts();
    let cancel = Cancel::default();
    let clips: Vec<Waveform> =
        [(100.0, 1.0), (220.0, 1.1), (150.0, 2.9), (90.0, 3.2)].map(|(hz, seconds)| clip(hz, seconds)).into();
    let samples: Vec<&[f32]> = clips.iter().map(Waveform::samples).collect();
    let mut speech = |rows: &[&[f32]]| parts.towers.speech.run(&Batch::speech(rows), &cancel).unwrap();
    let together = speech(&samples);
    for (row, together) in samples.iter().zip(&together) {
        check_mates(&speech(&[row])[0], together);
    }
    assert!(together[0].cosine_distance(&together[3]) > 1e-3);
    let texts =
        ["whispering", "bored", "a very long description of somebody who speaks slowly, and rather sadly", "shouting!"];
    let tokens: Vec<Vec<i64>> = texts.iter().map(|text| parts.preparer.text(text).unwrap()).collect();
    let tokens: Vec<&[i64]> = tokens.iter().map(Vec::as_slice).collect();
    let mut text = |rows: &[&[i64]]| parts.towers.text.run(&Batch::text(rows), &cancel).unwrap();
    let together = text(&tokens);
    for (row, together) in tokens.iter().zip(&together) {
        check_mates(&text(&[row])[0], together);
    }
}

/// The promise of README: cosine distance under 1e-6, no element off by more than 1e-5.
fn check_mates(alone: &Embedding, together: &Embedding) {
    assert!(alone.cosine_distance(together) < 1e-6, "{:e}", alone.cosine_distance(together));
    let off = alone.as_slice().iter().zip(together.as_slice()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-5, "{off:e}");
}

#[test]
fn a_running_text_can_be_cancelled() {
    let Some(runtime) = onnx_runtime() else { return };
    let mut encoder = load(&fixture("slow-bundle"), &runtime).unwrap();
    let cancel = Cancel::default();
    let from_elsewhere = cancel.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        from_elsewhere.cancel();
    });
    let start = Instant::now();
    let error = encoder.embed_texts(&["a text of many more than sixteen tokens"], &cancel).unwrap_err();
    assert_eq!(error.to_string(), "the request was cancelled");
    assert!((Duration::from_millis(300)..Duration::from_secs(20)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert!(encoder.embed_texts(&["short"], &Cancel::default()).is_ok(), "the session is usable afterwards");
}

#[test]
fn a_missing_or_wrong_library_says_what_to_install() {
    let missing = Runtime::load(Path::new("/nonexistent/libonnxruntime.so"), 1).err().unwrap();
    assert!(matches!(missing, RuntimeError::Missing { .. }));
    assert!(missing.to_string().contains("install ONNX Runtime 1.24 or newer"), "{missing}");
    let folder = tempfile::tempdir().unwrap();
    let wrong = folder.path().join("libonnxruntime.so");
    std::fs::write(&wrong, "not a library").unwrap();
    // In a process that has loaded the right one already, another one is refused for that.
    let message = Runtime::load(&wrong, 1).err().unwrap().to_string();
    assert!(message.contains("not a usable ONNX Runtime library") || message.contains("loaded already"), "{message}");
}

/// A copy of the tiny bundle in a folder that vanishes.
struct Copy(tempfile::TempDir);

impl Copy {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(fixture("tiny-bundle")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        Self(folder)
    }

    fn edit(&self, name: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let path = self.0.path().join(name);
        std::fs::write(&path, change(std::fs::read(&path).unwrap())).unwrap();
    }

    fn edit_text(&self, name: &str, from: &str, to: &str) {
        self.edit(name, |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(from), "{name} lacks {from}");
            text.replacen(from, to, 1).into_bytes()
        });
    }

    /// Writes the hash of a changed file into the manifest, as somebody would who wants it to be accepted.
    fn sign(&self, name: &str) {
        let hash = sha256_hex(&std::fs::read(self.0.path().join(name)).unwrap());
        self.edit(MANIFEST_FILE, |bytes| {
            let text = String::from_utf8(bytes).unwrap();
            let quoted = format!("\"{name}\" = ");
            let line = |line: &str| {
                if line.starts_with(&quoted) { format!("{quoted}\"{hash}\"") } else { line.to_owned() }
            };
            text.lines().map(line).collect::<Vec<_>>().join("\n").into_bytes()
        });
    }
}

/// Breaks a copy and expects the message to say so.
fn check_broken(expected: &str, damage: impl FnOnce(&Copy)) {
    let Some(runtime) = onnx_runtime() else { return };
    let copy = Copy::new();
    damage(&copy);
    let error = load(copy.0.path(), &runtime).err().expect("a broken bundle was accepted");
    assert!(error.contains(expected), "{error:?} lacks {expected:?}");
}

#[test]
fn the_copy_itself_is_fine() {
    let Some(runtime) = onnx_runtime() else { return };
    let copy = Copy::new();
    let tag = load(copy.0.path(), &runtime).unwrap().tag();
    assert_eq!(tag, load(&fixture("tiny-bundle"), &runtime).unwrap().tag());
    assert_ne!(tag, load(&fixture("slow-bundle"), &runtime).unwrap().tag());
}

#[test]
fn files_that_differ_from_the_manifest_are_refused() {
    for name in [SPEECH_FILE, TEXT_FILE, "tokenizer.json", GOLDEN_FILE] {
        check_broken("is damaged or was replaced", |copy| {
            copy.edit(name, |mut bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                bytes
            });
        });
        check_broken(&format!("{name}: No such file"), |copy| {
            std::fs::remove_file(copy.0.path().join(name)).unwrap();
        });
    }
    check_broken("manifest.toml: No such file", |copy| {
        std::fs::remove_file(copy.0.path().join(MANIFEST_FILE)).unwrap();
    });
}

#[test]
fn manifests_out_of_range_are_refused() {
    for (expected, from, to) in [
        ("format is 2, which must be 1", "format = 1", "format = 2"),
        ("dimension is 0", "dimension = 8", "dimension = 0"),
        ("dimension is 16001", "dimension = 8", "dimension = 16001"),
        ("speech.sample_rate is 0", "sample_rate = 16000", "sample_rate = 0"),
        ("speech.max_seconds is NaN", "max_seconds = 2.0", "max_seconds = nan"),
        ("speech.min_seconds is 3", "min_seconds = 0.25", "min_seconds = 3.0"),
        ("text.max_tokens is 0", "max_tokens = 16", "max_tokens = 0"),
        ("which must be plain file names", "\"text.onnx\" = ", "\"../x\" = \"0\"\n\"text.onnx\" = "),
        ("64 lowercase hexadecimal digits", "\"text.onnx\" = \"", "\"text.onnx\" = \"F"),
        ("without golden.json", "\"golden.json\"", "\"other.json\""),
        ("unknown field `dimensions`", "dimension = 8", "dimensions = 8"),
        ("malformed", "format = 1", "format = "),
    ] {
        check_broken(expected, |copy| copy.edit_text(MANIFEST_FILE, from, to));
    }
}

#[test]
fn links_cannot_leave_the_bundle() {
    let outside = tempfile::tempdir().unwrap();
    check_broken("outside the bundle", |copy| {
        let path = copy.0.path().join(TEXT_FILE);
        std::fs::rename(&path, outside.path().join("text")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("text"), path).unwrap();
    });
    check_broken("is not a regular file", |copy| {
        let path = copy.0.path().join(TEXT_FILE);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(path).unwrap();
    });
}

#[test]
fn signed_files_that_do_not_work_are_refused() {
    check_broken("speech.onnx: ", |copy| {
        copy.edit(SPEECH_FILE, |mut bytes| {
            bytes.truncate(1_000);
            bytes
        });
        copy.sign(SPEECH_FILE);
    });
    check_broken("text.onnx: it has no input named \"input_ids\"", |copy| {
        std::fs::copy(copy.0.path().join(SPEECH_FILE), copy.0.path().join(TEXT_FILE)).unwrap();
        copy.sign(TEXT_FILE);
    });
    check_broken("tokenizer.json: ", |copy| {
        copy.edit("tokenizer.json", |_| b"{}".to_vec());
        copy.sign("tokenizer.json");
    });
    check_broken("the model gave 8 elements, its manifest states 9", |copy| {
        copy.edit_text(MANIFEST_FILE, "dimension = 8", "dimension = 9");
    });
}

#[test]
fn golden_vectors_that_are_not_met_are_refused() {
    // Weights of another seed behind the right hash: the towers don't belong to the golden vectors.
    check_broken("\"whispering\" is embedded at cosine distance", |copy| {
        let slow = fixture("slow-bundle");
        std::fs::copy(slow.join(TEXT_FILE), copy.0.path().join(TEXT_FILE)).unwrap();
        copy.sign(TEXT_FILE);
    });
    check_broken("harmonic 180 Hz, 1 s is embedded at cosine distance", |copy| {
        let slow = fixture("slow-bundle");
        std::fs::copy(slow.join(SPEECH_FILE), copy.0.path().join(SPEECH_FILE)).unwrap();
        copy.sign(SPEECH_FILE);
    });
    check_broken("states a wrong embedding", |copy| {
        copy.edit_text(GOLDEN_FILE, "\"embedding\": [", "\"embedding\": [ 1.0,");
        copy.sign(GOLDEN_FILE);
    });
}
