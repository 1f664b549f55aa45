//! `esr-embedder embed` and `esr-embedder bench` as a person meets them.

use std::process::{Command, Output};

mod server;
use server::{fixture, library, wav};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_esr-embedder")).args(arguments).output().unwrap()
}

#[test]
fn embed_prints_a_line_for_every_input_in_order() {
    if library().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("a.wav"), wav(100.0, 0.5)).unwrap();
    std::fs::write(path("b.wav"), wav(200.0, 3.5)).unwrap();
    std::fs::write(path("broken.wav"), b"RIFF----WAVE").unwrap();
    std::fs::write(path("speech"), format!("{}\n{}\n{}\n", path("a.wav"), path("broken.wav"), path("none"))).unwrap();
    std::fs::write(path("texts"), "whispering\n\na \"quoted\" voice\n").unwrap();
    let bundle = fixture("tiny-bundle");
    let arguments = ["embed", "--bundle", bundle.to_str().unwrap(), "--speech-list", &path("speech")];
    let output = run(&[&arguments[..], &["--text-list", &path("texts"), &path("b.wav")]].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("3 of 7 inputs failed"), "{errors}");
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<(&str, &str, bool)> = lines
        .iter()
        .map(|line| {
            let text = |key: &str| line[key].as_str().unwrap();
            let embedded = line["embedding"].as_array().is_some_and(|values| values.len() == 8);
            assert_ne!(embedded, line["error"].is_string(), "{line}");
            (text("kind"), text("input"), embedded)
        })
        .collect();
    let expected = [
        ("speech", path("a.wav"), true),
        ("speech", path("broken.wav"), false),
        ("speech", path("none"), false),
        ("text", "whispering".into(), true),
        ("text", "".into(), false),
        ("text", "a \"quoted\" voice".into(), true),
        ("speech", path("b.wav"), true),
    ];
    assert_eq!(told, expected.iter().map(|(kind, input, ok)| (*kind, input.as_str(), *ok)).collect::<Vec<_>>());
}

#[test]
fn mistakes_are_told_and_fail() {
    if library().is_none() {
        return;
    }
    let output = run(&["embed", "--bundle", "/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot read /nonexistent"));
    let bundle = fixture("tiny-bundle");
    let output = run(&["bench", bundle.to_str().unwrap(), "--onnxruntime", "/nonexistent.so"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("install ONNX Runtime"));
    let output = run(&["bench", bundle.to_str().unwrap(), "--execution-provider", "gpu"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("none of auto, cpu, cuda"));
    let output = run(&["bench", bundle.to_str().unwrap(), "--cuda-precision", "half"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("none of float32, tf32, float16"));
}

/// `scripts/fetch-libs.sh` leaves the library where the programs look when nobody names it.
#[test]
fn the_library_in_the_cache_is_found_without_being_named() {
    let Some(library) = library() else { return };
    if !library.parent().is_some_and(|folder| folder.ends_with("libs/onnxruntime")) {
        eprintln!("SKIPPED: {} is not in the cache", library.display());
        return;
    }
    let bundle = fixture("tiny-bundle");
    let mut command = Command::new(env!("CARGO_BIN_EXE_esr-embedder"));
    command.args(["bench", bundle.to_str().unwrap(), "--seconds", "0.1"]).env_remove("ORT_DYLIB_PATH");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_cpu_ignores_the_precision_of_a_gpu() {
    if library().is_none() {
        return;
    }
    let bundle = fixture("tiny-bundle");
    let arguments = ["bench", bundle.to_str().unwrap(), "--batches", "--seconds", "0.1", "--json"];
    let output = run(&[&arguments[..], &["--execution-provider", "cpu", "--cuda-precision", "float16"]].concat());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["device"], "cpu");
}

#[test]
fn compare_fails_above_its_tolerance() {
    if library().is_none() {
        return;
    }
    let bundle = fixture("tiny-bundle");
    let compare = |more: &[&str]| {
        let cpu = ["compare", bundle.to_str().unwrap(), "--execution-provider", "cpu"];
        run(&[&cpu[..], more].concat())
    };
    let output = compare(&[]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    for input in ["clips, alone", "clips, in batches", "texts, alone", "texts, in one batch"] {
        assert!(printed.contains(input), "{printed}");
    }
    assert!(!printed.contains("TOO FAR"), "{printed}");
    // Below what rounding leaves between a vector and itself.
    let output = compare(&["--tolerance=-1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("TOO FAR"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("differ from the CPU's by more than they may"));
}

#[test]
fn bench_measures_batches_and_their_tolerance() {
    if library().is_none() {
        return;
    }
    let bundle = fixture("tiny-bundle");
    let output = run(&["bench", bundle.to_str().unwrap(), "--batches", "--seconds", "0.2", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["lines"].as_array().unwrap().len() > 20);
    for number in ["per_second", "gflop_each", "tflops"] {
        assert!(
            report["lines"].as_array().unwrap().iter().all(|line| line[number].as_f64().unwrap() > 0.0),
            "{report}"
        );
    }
    assert!(report["limit_tflops"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["padded_distance"].as_f64().unwrap() < 1e-6, "{report}");
    assert!(report["padded_element"].as_f64().unwrap() < 1e-5, "{report}");
}

#[test]
fn bench_measures() {
    if library().is_none() {
        return;
    }
    let bundle = fixture("tiny-bundle");
    let output = run(&["bench", bundle.to_str().unwrap(), "--seconds", "0.2", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in [
        "memory_idle",
        "memory_peak",
        "clips_per_second",
        "times_real_time",
        "texts_per_second",
        "text_p50_ms",
        "clip_p50_ms",
    ] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{report}");
    }
}
