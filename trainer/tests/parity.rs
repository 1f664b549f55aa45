//! libtorch and ONNX Runtime compute the same from one recorded graph: every operation, every network, several batch and
//! time sizes, with padding.

mod common;

use common::{difference, random_params, run_onnx};
use esr_trainer::encoders::round;
use esr_trainer::graph::{Border, Dim, Fold, Function, Graph, Step, Value};
use esr_trainer::nets::bert::{Bert, Family};
use esr_trainer::nets::heads::{Projection, classifier};
use esr_trainer::nets::speech_tower::{Pooling, SpeechTower};
use esr_trainer::nets::text_tower::{Bank, TextTower};
use esr_trainer::nets::whisper::Whisper;
use esr_trainer::onnx::{Precision, encode};
use esr_trainer::onnx_messages::Model;
use esr_trainer::torch::{Mode, run, run_in};
use prost::Message;
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-4;
const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn compare(graph: &Graph, inputs: &[(&str, &Tensor)], seed: i64) {
    let params = random_params(graph, seed);
    let ours = run(graph, &params, inputs, false);
    let theirs = run_onnx(graph, &params, inputs, Precision::Float);
    for (name, value) in &ours {
        let d = difference(value, &theirs[name]);
        assert!(d < TOLERANCE, "{name} differs by {d}\n{}", graph.describe());
        assert!(value.isfinite().all().int64_value(&[]) == 1, "{name} is not finite");
    }
}

/// One operation on `[batch, time, 6]`, for several sizes.
fn check(operation: impl for<'g> Fn(Value<'g>) -> Value<'g>) {
    for (seed, (batch, time)) in [(1, 1), (2, 5), (3, 12)].into_iter().enumerate() {
        let g = Graph::new();
        let x = g.input("x", &[Dim::Batch, g.time("time"), Dim::Fixed(6)]);
        g.output("y", operation(x));
        tch::manual_seed(seed as i64);
        compare(&g, &[("x", &Tensor::randn([batch, time, 6], FLOAT))], seed as i64);
    }
}

#[test]
fn element_wise_operations() {
    check(|x| x + 0.5);
    check(|x| x * x);
    check(|x| x / (x * x + 1.0));
    check(|x| x.maximum(x.graph().param("p", &[6])));
    for function in [Function::Gelu, Function::Relu, Function::Tanh] {
        check(move |x| x.map(function));
    }
    check(|x| (x * x + 0.1).map(Function::Sqrt));
    check(|x| (x * x + 0.1).map(Function::Log));
    check(|x| x.dropout(0.5) * 2.0);
}

#[test]
fn products_and_norms() {
    check(|x| x.matmul(x.graph().param("w", &[6, 4])));
    check(|x| x.matmul(x.transpose()).softmax());
    check(|x| x.layer_norm(x.graph().param("s", &[6]), x.graph().param("b", &[6]), 1e-5));
    check(|x| x.l2_normalize());
    check(|x| x.reduce(Fold::Sum, 1));
    check(|x| x.reduce(Fold::Max, 2));
}

#[test]
fn shapes_and_positions() {
    check(|x| x.split_heads(3).transpose().transpose().merge_heads());
    check(|x| x.add_positions(x.graph().param("table", &[20, 6])));
    check(|x| x.unsqueeze(1).squeeze(1));
    check(|x| Value::concat(&[x, x * 2.0]));
    check(|x| {
        x.split_heads(2).matmul(x.split_heads(2).transpose()) + x.relative_bias(x.graph().param("buckets", &[8, 2]), 16)
    });
    check(|x| x.transpose().conv1d(x.graph().param("k", &[4, 6, 3]), 1, 1));
    check(|x| x.transpose().conv1d(x.graph().param("k", &[4, 6, 3]), 2, 1));
    check(|x| x.transpose().pad(2, 3, Border::Zero));
    let g = Graph::new();
    let x = g.input("x", &[Dim::Batch, Dim::Fixed(1), g.time("time")]);
    g.output("y", x.pad(2, 0, Border::Reflect));
    compare(&g, &[("x", &Tensor::randn([2, 1, 9], FLOAT))], 1);
}

#[test]
fn integers_and_masks() {
    let g = Graph::new();
    let ids = g.integers("ids", &[Dim::Batch, g.time("time")]);
    g.output("rows", g.param("table", &[9, 4]).gather(ids));
    g.output("floats", ids.to_float());
    compare(&g, &[("ids", &Tensor::from_slice(&[1i64, 0, 8, 3, 3, 2]).view([2, 3]))], 1);

    let g = Graph::new();
    let loud = g.input("loud", &[Dim::Batch, g.time("time")]);
    let frames = g.input("frames", &[Dim::Batch, Dim::Fixed(2), g.time("time")]);
    let (first, last) = (loud.edge(false), loud.edge(true));
    g.output("moved", frames.shift(first));
    g.output("mask", last.valid_from(first, frames, &[Step { offset: 1, divide: 1 }]));
    g.output("first", first.to_float());
    let loudness = Tensor::from_slice(&[0.0f32, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]).view([2, 5]);
    let inputs: [(&str, &Tensor); 2] = [("loud", &loudness), ("frames", &Tensor::randn([2, 2, 5], FLOAT))];
    compare(&g, &inputs, 2);
    let out = run(&g, &random_params(&g, 1), &inputs, false);
    assert_eq!(
        Vec::<f32>::try_from(out["mask"].flatten(0, -1)).unwrap(),
        [1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    );

    let g = Graph::new();
    let like = g.input("like", &[Dim::Batch, Dim::Fixed(2), g.time("time")]);
    let length = g.integers("length", &[Dim::Batch]);
    g.output("mask", length.valid(like, &[Step { offset: 0, divide: 160 }, Step { offset: 1, divide: 2 }]));
    let lengths = Tensor::from_slice(&[1i64, 160, 480, 1600]);
    let inputs: [(&str, &Tensor); 2] = [("like", &Tensor::zeros([4, 2, 5], FLOAT)), ("length", &lengths)];
    compare(&g, &inputs, 1);
    let mask =
        run(&g, &random_params(&g, 1), &inputs, false)["mask"].sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    assert_eq!(Vec::<f32>::try_from(mask).unwrap(), [1.0, 1.0, 2.0, 5.0]);
}

fn speech(pooling: Pooling) -> SpeechTower {
    trimming(pooling, false)
}

fn trimming(pooling: Pooling, trim: bool) -> SpeechTower {
    SpeechTower {
        whisper: Whisper { width: 16, heads: 2, positions: 200 },
        layers: vec![1, 2],
        pooling,
        deviation: true,
        mel: true,
        gate: 3.5,
        trim,
        level: 0.5,
        projection: Projection { hidden: 8, dropout: 0.1, standardise: true },
    }
}

fn text(family: Family, bank: bool) -> TextTower {
    TextTower {
        bert: Bert { family, vocabulary: 50, width: 12, hidden: 24, layers: 2, heads: 3, positions: 32, epsilon: 1e-6 },
        projection: Projection { hidden: 0, dropout: 0.1, standardise: false },
        bank: bank.then_some(Bank { styles: 5, sharpness: 8.0, direct: 0.1 }),
    }
}

fn voices(lengths: &[i64], padding: i64) -> (Tensor, Tensor) {
    tch::manual_seed(9);
    let longest = lengths.iter().max().unwrap() + padding;
    let rows: Vec<Tensor> = lengths
        .iter()
        .enumerate()
        .map(|(n, length)| {
            let t = Tensor::arange(*length, FLOAT) * (0.02 * (n as f64 + 2.0));
            let wave = t.sin() * 0.3 + Tensor::randn([*length], FLOAT) * 0.01;
            wave.constant_pad_nd([0, longest - length])
        })
        .collect();
    (Tensor::stack(&rows, 0), Tensor::from_slice(lengths))
}

#[test]
fn speech_towers() {
    for pooling in [Pooling::Even, Pooling::Attentive] {
        for (lengths, padding) in [(vec![8000i64], 0), (vec![16_000, 9_123, 4_801], 37), (vec![401, 12_000], 900)] {
            let (waveform, length) = voices(&lengths, padding);
            for trim in [false, true] {
                compare(&trimming(pooling, trim).record(24), &[("waveform", &waveform), ("length", &length)], 2);
            }
        }
    }
    let (waveform, length) = voices(&[9_000, 16_000], 100);
    compare(&speech(Pooling::Even).record_pooled(), &[("waveform", &waveform), ("length", &length)], 3);
}

fn token_ids() -> (Tensor, Tensor) {
    let ids = Tensor::from_slice(&[2i64, 7, 9, 3, 2, 8, 3, 0, 2, 49, 0, 0]).view([3, 4]);
    (ids, Tensor::from_slice(&[1i64, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0]).view([3, 4]))
}

#[test]
fn text_towers() {
    for family in [Family::Bert, Family::Mpnet] {
        for bank in [false, true] {
            let (ids, mask) = token_ids();
            compare(&text(family, bank).record(24), &[("input_ids", &ids), ("attention_mask", &mask)], 4);
        }
    }
}

#[test]
fn classifier_head() {
    let g = Graph::new();
    g.output("logits", classifier(g.input("x", &[Dim::Batch, Dim::Fixed(16)]), "c", 7));
    compare(&g, &[("x", &Tensor::randn([3, 16], FLOAT))], 5);
}

#[test]
fn results_do_not_depend_on_batch_mates() {
    let graph = trimming(Pooling::Even, true).record(24);
    let params = random_params(&graph, 6);
    let (waveform, length) = voices(&[16_000, 7_301, 3_000], 1_234);
    let together =
        run_onnx(&graph, &params, &[("waveform", &waveform), ("length", &length)], Precision::Float)["embedding"]
            .shallow_clone();
    for n in 0..3 {
        let own = length.get(n).int64_value(&[]);
        let alone = run_onnx(
            &graph,
            &params,
            &[("waveform", &waveform.narrow(0, n, 1).narrow(1, 0, own)), ("length", &length.narrow(0, n, 1))],
            Precision::Float,
        );
        let d = difference(&alone["embedding"], &together.narrow(0, n, 1));
        assert!(d < TOLERANCE, "clip {n} differs by {d} from itself in a batch");
    }
}

#[test]
fn silence_around_a_clip_changes_nothing_when_it_is_trimmed() {
    let graph = trimming(Pooling::Even, true).record(24);
    let params = random_params(&graph, 9);
    let (waveform, _) = voices(&[8_000], 0);
    // Whole frames of silence, so that the analysis windows fall on the same samples; inside, far from the cut ends.
    let quiet = |n: i64| Tensor::zeros([1, n], FLOAT);
    let wrapped = Tensor::cat(&[quiet(4_800), waveform.shallow_clone(), quiet(3_200)], 1);
    let embed = |w: &Tensor, n: i64| {
        run(&graph, &params, &[("waveform", w), ("length", &Tensor::from_slice(&[n]))], false)["embedding"]
            .shallow_clone()
    };
    let (alone, inside) = (
        embed(&Tensor::cat(&[quiet(1_600), waveform.shallow_clone(), quiet(1_600)], 1), 11_200),
        embed(&wrapped, 16_000),
    );
    assert!(difference(&alone, &inside) < 1e-3, "{}", difference(&alone, &inside));
}

#[test]
fn cached_pieces_equal_the_whole() {
    let tower = trimming(Pooling::Even, true);
    let whole = tower.record(24);
    let params = random_params(&whole, 7);
    let (waveform, length) = voices(&[16_000, 7_301], 300);
    let given = [("waveform", &waveform), ("length", &length)];
    let wanted = run(&whole, &params, &given, false)["embedding"].shallow_clone();
    let pooled = run(&tower.record_pooled(), &params, &given, false)["pooled"].shallow_clone();
    let head = run(&tower.record_head(24), &params, &[("pooled", &pooled)], false);
    assert!(difference(&wanted, &head["embedding"]) < 1e-5);
    let lower = run(&tower.record_frames(1), &params, &given, false);
    let upper = tower.record_upper(1, 24);
    let inputs: Vec<(&str, &Tensor)> = ["frames", "mask", "weight", "mel"].iter().map(|n| (*n, &lower[*n])).collect();
    assert!(difference(&wanted, &run(&upper, &params, &inputs, false)["embedding"]) < 1e-5);
}

#[test]
fn the_front_end_is_exact_when_products_are_short() {
    let tower = speech(Pooling::Even);
    let graph = tower.record_pooled();
    let params = random_params(&graph, 3);
    let (waveform, length) = voices(&[4000, 7000], 0);
    let inputs = [("waveform", &waveform), ("length", &length)];
    let exact = run(&graph, &params, &inputs, false);
    let short = run_in(&graph, &params, &inputs, Mode { training: false, bf16: true });
    assert_eq!(difference(&exact["mel"], &short["mel"]), 0.0, "the spectrogram");
    let pooled = difference(&exact["pooled"], &short["pooled"]);
    assert!(pooled > 1e-5 && pooled < 0.1, "the blocks are computed from shorter numbers: {pooled}");
}

#[test]
fn int8_is_exact_on_rounded_weights_and_close_on_others() {
    let graph = speech(Pooling::Even).record(24);
    let params = random_params(&graph, 8);
    let (waveform, length) = voices(&[16_000, 9_000], 0);
    let given = [("waveform", &waveform), ("length", &length)];
    let float = run(&graph, &params, &given, false)["embedding"].shallow_clone();
    let int8 = run_onnx(&graph, &params, &given, Precision::Int8)["embedding"].shallow_clone();
    let cosine = (&float * &int8).sum_dim_intlist([1i64].as_slice(), false, Kind::Float).min().double_value(&[]);
    assert!(cosine > 0.995, "cosine {cosine}");
    let rounded = round(params);
    let wanted = run(&graph, &rounded, &given, false)["embedding"].shallow_clone();
    let got = run_onnx(&graph, &rounded, &given, Precision::Int8)["embedding"].shallow_clone();
    assert!(difference(&wanted, &got) < TOLERANCE);
}

#[test]
fn a_table_stays_int8_until_its_rows_are_read() {
    let graph = text(Family::Mpnet, true).record(24);
    let params = round(random_params(&graph, 4));
    let (ids, mask) = token_ids();
    let given = [("input_ids", &ids), ("attention_mask", &mask)];
    let wanted = run(&graph, &params, &given, false)["embedding"].shallow_clone();
    let got = run_onnx(&graph, &params, &given, Precision::Int8)["embedding"].shallow_clone();
    assert!(difference(&wanted, &got) < 1e-5);
    let model = Model::decode(encode(&graph, &params, Precision::Int8).unwrap().as_slice()).unwrap();
    let table = "text.encoder.embeddings.word_embeddings.weight.int8";
    let nodes = model.graph.unwrap().node;
    let readers: Vec<&str> =
        nodes.iter().filter(|n| n.input.iter().any(|i| i == table)).map(|n| n.op_type.as_str()).collect();
    assert_eq!(readers, ["Gather"]);
}
