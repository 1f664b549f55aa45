//! Our networks, readers of checkpoints and tokenizers against the published implementations: what transformers and FunASR
//! computed on random networks was written to files by `trainer/parity/make_reference.py`. Tiny ones are committed in
//! `tests/reference`; larger ones are made and compared by `scripts/reference-parity.sh`.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{difference, run_onnx};
use esr_trainer::graph::{Graph, relative_buckets};
use esr_trainer::nets::text_encoder::TextEncoder;
use esr_trainer::nets::waveform_encoder::WaveformEncoder;
use esr_trainer::onnx::Precision;
use esr_trainer::tokenizer::TextTokenizer;
use esr_trainer::torch::{Params, run};
use esr_trainer::weights::paper::{speech_from, text_from};
use esr_trainer::weights::read_tensors;
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-4;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Net {
    Speech(WaveformEncoder),
    Text(TextEncoder),
}

#[derive(Deserialize)]
struct Case {
    #[serde(flatten)]
    net: Net,
    #[serde(default)]
    lengths: Vec<i64>,
    #[serde(default)]
    ids: Vec<Vec<i64>>,
    #[serde(default)]
    mask: Vec<Vec<i64>>,
}

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference")
}

/// The same as `waveform` of make_reference.py.
fn waveform(length: i64, seed: usize) -> Tensor {
    let n = Tensor::arange(length, (Kind::Double, Device::Cpu));
    let pace = seed as f64 + 1.0;
    let wave = (&n * (0.05 * pace)).sin() * 0.3 + (&n * &n * (1e-5 * pace)).sin() * 0.2 + 0.02 * seed as f64;
    wave.to_kind(Kind::Float)
}

fn parts(folder: &Path, name: &str) -> (Case, Params, Params) {
    let text = std::fs::read_to_string(folder.join(format!("{name}.json"))).unwrap();
    let case = serde_json::from_str(&text).unwrap();
    let (mut weights, mut outputs) = (Params::new(), Params::new());
    for (key, tensor) in read_tensors(&folder.join(format!("{name}.safetensors"))).unwrap() {
        match key.split_once('/') {
            Some(("weights", name)) => weights.insert(name.into(), tensor),
            Some(("output", name)) => outputs.insert(name.into(), tensor),
            _ => panic!("unexpected {key}"),
        };
    }
    (case, weights, outputs)
}

/// Torch and ONNX Runtime on the same inputs; the larger difference of the two from `wanted` in the first `rows` positions
/// of item `item`.
fn worst(graph: &Graph, params: &Params, inputs: &[(&str, &Tensor)], output: &str, wanted: &[(i64, &Tensor)]) -> f64 {
    let ours: BTreeMap<&str, Tensor> = BTreeMap::from([
        ("torch", run(graph, params, inputs, false)[output].shallow_clone()),
        ("onnx", run_onnx(graph, params, inputs, Precision::Float)[output].shallow_clone()),
    ]);
    let mut worst = 0.0f64;
    for got in ours.values() {
        for (item, wanted) in wanted {
            worst = worst.max(difference(&got.get(*item).narrow(0, 0, wanted.size()[0]), wanted));
        }
    }
    worst
}

fn check_speech(name: &str, net: &WaveformEncoder, lengths: &[i64], weights: Params, outputs: &Params) {
    let params = speech_from(weights, net).unwrap();
    let clips: Vec<Tensor> = lengths.iter().enumerate().map(|(seed, n)| waveform(*n, seed)).collect();
    let longest = *lengths.iter().max().unwrap();
    let padded: Vec<Tensor> = clips.iter().map(|c| c.constant_pad_nd([0, longest - c.size()[0]])).collect();
    let (together, length) = (Tensor::stack(&padded, 0), Tensor::from_slice(lengths));

    // In one padded batch with masks each clip gives what the reference gives for it alone.
    let masked = WaveformEncoder { mask: true, ..net.clone() };
    let wanted: Vec<(i64, &Tensor)> = (0..lengths.len()).map(|n| (n as i64, &outputs[&format!("alone.{n}")])).collect();
    let inputs = [("waveform", &together), ("length", &length)];
    let graph = masked.record_frames();
    let d = worst(&graph, &params, &inputs, "frames", &wanted);
    println!("{name}: padded batch with masks against clips alone, largest difference {d:.2e}");
    assert!(d < TOLERANCE, "{name} with masks differs by {d}");
    let counted = run(&graph, &params, &inputs, false)["mask"].sum_dim_intlist([1i64].as_slice(), false, Kind::Int64);
    for (item, frames) in &wanted {
        assert_eq!(counted.int64_value(&[*item]), frames.size()[0], "{name}: valid frames of clip {item}");
    }

    // Without masks the batch gives what the reference gives for the padded batch.
    if let Some(all) = outputs.get("together") {
        let bare = WaveformEncoder { mask: false, ..net.clone() };
        let rows: Vec<Tensor> = (0..lengths.len()).map(|n| all.get(n as i64)).collect();
        let wanted: Vec<(i64, &Tensor)> = (0..).zip(&rows).collect();
        let d = worst(&bare.record_frames(), &params, &inputs, "frames", &wanted);
        println!("{name}: padded batch without masks, largest difference {d:.2e}");
        assert!(d < TOLERANCE, "{name} without masks differs by {d}");
    }
}

fn check_text(name: &str, net: &TextEncoder, case: &Case, weights: Params, outputs: &Params) {
    let params = text_from(weights, net).unwrap();
    let shape = [case.ids.len() as i64, case.ids[0].len() as i64];
    let ids = Tensor::from_slice(&case.ids.concat()).view(shape);
    let mask = Tensor::from_slice(&case.mask.concat()).view(shape);
    let rows: Vec<Tensor> = (0..shape[0])
        .map(|n| outputs["states"].get(n).narrow(0, 0, mask.get(n).sum(Kind::Int64).int64_value(&[])))
        .collect();
    let wanted: Vec<(i64, &Tensor)> = (0..).zip(&rows).collect();
    let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
    let d = worst(&net.record_states(), &params, &inputs, "states", &wanted);
    println!("{name}: states of the valid tokens, largest difference {d:.2e}");
    assert!(d < TOLERANCE, "{name} differs by {d}");
}

fn check_folder(folder: &Path, expected: &[&str]) {
    for name in expected {
        let (case, weights, outputs) = parts(folder, name);
        match &case.net {
            Net::Speech(net) => check_speech(name, net, &case.lengths, weights, &outputs),
            Net::Text(net) => check_text(name, net, &case, weights, &outputs),
        }
    }
    check_buckets(folder);
    check_checkpoints(folder);
    check_tokenizers(folder);
}

fn check_buckets(folder: &Path) {
    let tables = read_tensors(&folder.join("buckets.safetensors")).unwrap();
    for (name, buckets, max_distance) in [("wavlm", 320, 800), ("t5", 32, 128)] {
        let theirs = Vec::<i64>::try_from(tables[name].to_kind(Kind::Int64)).unwrap();
        let ours = relative_buckets(buckets, max_distance);
        for (n, bucket) in theirs.iter().enumerate() {
            let distance = n as i64 - 1000;
            let row = (distance.clamp(-(max_distance as i64), max_distance as i64) + max_distance as i64) as usize;
            assert_eq!(ours[row], *bucket, "{name}: bucket of distance {distance}");
        }
    }
}

fn check_checkpoints(folder: &Path) {
    let wanted = read_tensors(&folder.join("checkpoints.safetensors")).unwrap();
    for (file, tolerance) in [("plain.pt", 0.0), ("nested.pt", 0.0), ("older.bin", 2e-3)] {
        let got = read_tensors(&folder.join(file)).unwrap();
        assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{file}");
        for (name, tensor) in &wanted {
            let d = difference(&got[name], tensor);
            assert!(d <= tolerance * tensor.abs().max().double_value(&[]), "{file}: {name} differs by {d}");
        }
    }
}

#[derive(Deserialize)]
struct TokenizerCases {
    texts: Vec<String>,
    cases: Vec<TokenizerCase>,
}

#[derive(Deserialize)]
struct TokenizerCase {
    file: String,
    ids: Vec<Vec<i64>>,
}

fn check_tokenizers(folder: &Path) {
    let text = std::fs::read_to_string(folder.join("tokenizers.json")).unwrap();
    let all: TokenizerCases = serde_json::from_str(&text).unwrap();
    for case in all.cases {
        let tokenizer = TextTokenizer::read(&folder.join(&case.file), 64).unwrap();
        for (text, wanted) in all.texts.iter().zip(case.ids) {
            let (ids, _) = tokenizer.encode(std::slice::from_ref(text)).unwrap();
            assert_eq!(Vec::<i64>::try_from(ids.flatten(0, -1)).unwrap(), wanted, "{} of {text:?}", case.file);
        }
    }
}

const NETS: [&str; 6] = ["wavlm", "emotion2vec", "bert", "roberta", "t5", "flan-t5"];

#[test]
fn committed_references() {
    check_folder(&committed(), &NETS);
}

#[test]
#[ignore = "run scripts/reference-parity.sh, which makes the reference and names its folder in ESR_REFERENCE"]
fn larger_references() {
    let folder = PathBuf::from(std::env::var_os("ESR_REFERENCE").expect("ESR_REFERENCE names the folder"));
    check_folder(&folder, &NETS);
    check_folder(&folder, &["wavlm-normalised"]);
}
