//! The operations and networks of the paper: libtorch against ONNX Runtime, padded batches against clips alone, numbers of
//! parameters at the published sizes.

mod common;

use common::{difference, random_params, run_onnx};
use esr_trainer::graph::{Border, Dim, Fold, Function, Graph, Value};
use esr_trainer::layers::{norm_over_time, rms_norm};
use esr_trainer::nets::bert::{Bert, Family};
use esr_trainer::nets::conv_features::Noise;
use esr_trainer::nets::emotion2vec::Emotion2vec;
use esr_trainer::nets::t5::{FeedForward, T5};
use esr_trainer::nets::text_encoder::{TextBackbone, TextEncoder, TextPooling};
use esr_trainer::nets::waveform_encoder::{Backbone, Normalisation, WaveformEncoder};
use esr_trainer::nets::wavlm::Wavlm;
use esr_trainer::onnx::Precision;
use esr_trainer::torch::{Mode, Params, run, run_in};
use tch::{Device, Kind, Tensor};

const TOLERANCE: f64 = 1e-4;
const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

fn compare(graph: &Graph, params: &Params, inputs: &[(&str, &Tensor)]) {
    let ours = run(graph, params, inputs, false);
    let theirs = run_onnx(graph, params, inputs, Precision::Float);
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
        let params = random_params(&g, seed as i64);
        compare(&g, &params, &[("x", &Tensor::randn([batch, time, 6], FLOAT))]);
    }
}

#[test]
fn element_wise_operations_and_norms() {
    check(|x| x.map(Function::GeluTanh));
    check(|x| x.map(Function::Sigmoid));
    check(|x| x.reduce(Fold::Mean, 1));
    check(|x| x.reduce(Fold::Mean, 2));
    check(|x| rms_norm(x, "norm", 1e-6));
    check(|x| norm_over_time(x.transpose(), None, "norm", 1e-5));
}

#[test]
fn grouped_convolutions() {
    check(|x| x.transpose().grouped_conv1d(x.graph().param("k", &[9, 2, 3]), 1, 1, 3));
    check(|x| x.transpose().grouped_conv1d(x.graph().param("k", &[4, 3, 3]), 2, 1, 2));
    // An even kernel with one position more before than after.
    check(|x| x.transpose().pad(2, 1, Border::Zero).grouped_conv1d(x.graph().param("k", &[6, 3, 4]), 1, 0, 2));
}

#[test]
fn positions_and_tokens() {
    check(|x| {
        x.split_heads(2).matmul(x.split_heads(2).transpose()) + x.relative_bias(x.graph().param("b", &[8, 2]), 3)
    });
    check(|x| x.split_heads(2).matmul(x.split_heads(2).transpose()) + x.distance(2) * -0.5);
    check(|x| x.prepend(x.graph().param("tokens", &[3, 6])));
    check(|x| x.prepend(x.graph().param("tokens", &[3, 6])).skip(3) + x);
    check(|x| x.first());
    check(|x| x.layer_drop(x * 2.0, 0.5));
    let g = Graph::new();
    let x = g.input("x", &[Dim::Batch, g.time("time"), Dim::Fixed(6)]);
    let mask = g.input("m", &[Dim::Batch, x.shape()[1]]);
    g.output("y", x.mask_spans(g.param("filler", &[6]), mask, 0.5, 2, 1));
    let inputs = [("x", &Tensor::randn([2, 5, 6], FLOAT)), ("m", &Tensor::ones([2, 5], FLOAT))];
    compare(&g, &random_params(&g, 1), &inputs);
}

#[test]
fn distances_and_buckets_are_those_of_a_naive_table() {
    let g = Graph::new();
    let x = g.input("x", &[Dim::Batch, g.time("time"), Dim::Fixed(1)]);
    g.output("distance", x.distance(2));
    g.output("bias", x.relative_bias(g.param("table", &[4, 1]), 2));
    let params = Params::from([("table".to_string(), Tensor::from_slice(&[0.0f32, 1.0, 2.0, 3.0]).view([4, 1]))]);
    let out = run(&g, &params, &[("x", &Tensor::zeros([1, 5, 1], FLOAT))], false);
    // Buckets of four with the farthest at 2: 0 itself, 1 before, 2 (half) and 3 after.
    for i in 0..5i64 {
        for j in 0..5i64 {
            let far = if i < 2 || j < 2 { 0 } else { (i - j).abs() };
            assert_eq!(out["distance"].double_value(&[0, 0, i, j]), far as f64);
            let bucket = if i == j {
                0
            } else if j < i {
                1
            } else {
                3
            };
            assert_eq!(out["bias"].double_value(&[0, 0, i, j]), f64::from(bucket), "from {i} to {j}");
        }
    }
}

fn wavlm() -> Backbone {
    Backbone::Wavlm(Wavlm {
        channels: 8,
        width: 12,
        hidden: 20,
        layers: 2,
        heads: 3,
        position_width: 8,
        position_groups: 2,
        buckets: 16,
        max_distance: 20,
    })
}

fn emotion2vec() -> Backbone {
    Backbone::Emotion2vec(Emotion2vec {
        channels: 8,
        width: 12,
        hidden: 20,
        prenet_layers: 1,
        layers: 2,
        heads: 3,
        position_layers: 2,
        position_width: 5,
        position_groups: 2,
        extra_tokens: 4,
    })
}

fn speech(backbone: Backbone, mask: bool, normalise: Normalisation) -> WaveformEncoder {
    WaveformEncoder { backbone, mask, normalise, noise: None }
}

fn voices(lengths: &[i64], padding: i64) -> (Tensor, Tensor) {
    tch::manual_seed(9);
    let longest = lengths.iter().max().unwrap() + padding;
    let rows: Vec<Tensor> = (0i64..)
        .zip(lengths)
        .map(|(n, length)| {
            let tone = (Tensor::arange(*length, FLOAT) * (0.02 * (n as f64 + 2.0))).sin() * 0.3;
            (tone + Tensor::randn([*length], FLOAT) * 0.05 + 0.01).constant_pad_nd([0, longest - length])
        })
        .collect();
    (Tensor::stack(&rows, 0), Tensor::from_slice(lengths))
}

#[test]
fn speech_encoders_in_both_interpreters() {
    for backbone in [wavlm(), emotion2vec()] {
        for (mask, normalise) in
            [(true, Normalisation::Clip), (true, Normalisation::None), (false, Normalisation::None)]
        {
            let graph = speech(backbone.clone(), mask, normalise).record(10);
            let params = random_params(&graph, 3);
            for (lengths, padding) in [(vec![400], 0), (vec![9_000, 4_801], 333), (vec![2_500, 400, 7_000], 0)] {
                let (waveform, length) = voices(&lengths, padding);
                compare(&graph, &params, &[("waveform", &waveform), ("length", &length)]);
            }
        }
    }
}

#[test]
fn a_padded_batch_gives_the_same_as_the_clip_alone() {
    let lengths = [9_000, 4_801, 1_123, 719];
    for backbone in [wavlm(), emotion2vec()] {
        for normalise in [Normalisation::None, Normalisation::Clip] {
            let differs = |mask: bool| {
                let graph = speech(backbone.clone(), mask, normalise).record(10);
                let params = random_params(&graph, 4);
                let (waveform, length) = voices(&lengths, 1_234);
                let together =
                    run_onnx(&graph, &params, &[("waveform", &waveform), ("length", &length)], Precision::Float);
                let alone = |n: i64| {
                    let (own, length) = (lengths[n as usize], length.narrow(0, n, 1));
                    let clip = waveform.narrow(0, n, 1).narrow(1, 0, own);
                    let got = run(&graph, &params, &[("waveform", &clip), ("length", &length)], false);
                    difference(&got["embedding"], &together["embedding"].narrow(0, n, 1))
                };
                (0..4).map(alone).fold(0.0, f64::max)
            };
            assert!(differs(true) < TOLERANCE, "{backbone:?} differs by {}", differs(true));
            // What the mask is for: without it the padding is heard.
            assert!(differs(false) > 10.0 * TOLERANCE, "{backbone:?} does not hear the padding");
        }
    }
}

#[test]
fn recording_level_does_not_matter_when_clips_are_normalised() {
    let graph = speech(emotion2vec(), true, Normalisation::Clip).record(10);
    let params = random_params(&graph, 5);
    let (waveform, length) = voices(&[5_000], 0);
    let at = |gain: f64| {
        run(&graph, &params, &[("waveform", &(&waveform * gain)), ("length", &length)], false)["embedding"]
            .shallow_clone()
    };
    assert!(difference(&at(1.0), &at(4.0)) < 1e-3);
}

fn text(backbone: TextBackbone, pooling: TextPooling) -> TextEncoder {
    TextEncoder { backbone, pooling, dropout: 0.1 }
}

fn text_encoders() -> Vec<TextEncoder> {
    let bert = |family| {
        TextBackbone::Bert(Bert {
            family,
            vocabulary: 50,
            width: 12,
            hidden: 24,
            layers: 2,
            heads: 3,
            positions: 32,
            epsilon: 1e-6,
        })
    };
    let t5 = |feed_forward| {
        TextBackbone::T5(T5 { feed_forward, vocabulary: 50, width: 12, hidden: 24, layers: 2, heads: 3, head_width: 5 })
    };
    vec![
        text(bert(Family::Bert), TextPooling::First),
        text(bert(Family::Roberta), TextPooling::First),
        text(t5(FeedForward::Relu), TextPooling::MeanWithPadding),
        text(t5(FeedForward::Gated), TextPooling::Mean),
    ]
}

fn tokens() -> (Tensor, Tensor) {
    let ids = Tensor::from_slice(&[2i64, 7, 9, 3, 2, 8, 3, 0, 2, 49, 0, 0]).view([3, 4]);
    let mask = Tensor::from_slice(&[1i64, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0]).view([3, 4]);
    (ids, mask)
}

#[test]
fn text_encoders_in_both_interpreters_and_beside_others() {
    let (ids, mask) = tokens();
    for net in text_encoders() {
        compare(
            &net.record_pooled(),
            &random_params(&net.record_pooled(), 6),
            &[("input_ids", &ids), ("attention_mask", &mask)],
        );
        let graph = net.record_served(10);
        let params = random_params(&graph, 6);
        compare(&graph, &params, &[("input_ids", &ids), ("attention_mask", &mask)]);
        let together = run(&graph, &params, &[("input_ids", &ids), ("attention_mask", &mask)], false);
        for (row, length) in [(1, 3), (2, 2)] {
            let own = |t: &Tensor| t.narrow(0, row, 1).narrow(1, 0, length);
            let alone = run(&graph, &params, &[("input_ids", &own(&ids)), ("attention_mask", &own(&mask))], false);
            let d = difference(&alone["embedding"], &together["embedding"].narrow(0, row, 1));
            assert!(d < TOLERANCE, "{net:?}: text {row} differs by {d} from itself alone");
        }
    }
}

fn count(graph: &Graph) -> usize {
    graph.params().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

#[test]
fn published_sizes_have_the_published_numbers_of_parameters() {
    let of = |backbone| count(&speech(backbone, true, Normalisation::None).record_frames());
    assert_eq!(of(Backbone::WavlmBasePlus), 94_381_936);
    assert_eq!(of(Backbone::Emotion2vecBase), 93_171_212);
    let of = |backbone| count(&text(backbone, TextPooling::First).record_states());
    // transformers' models without poolers; token types (2 and 1 rows) and RoBERTa's two reserved positions are folded away.
    assert_eq!(of(TextBackbone::BertBase) + 2 * 768, 108_891_648);
    assert_eq!(of(TextBackbone::RobertaBase) + 3 * 768, 124_055_040);
    assert_eq!(of(TextBackbone::T5Base), 109_628_544);
    assert_eq!(of(TextBackbone::FlanT5Base), 109_628_544);
}

#[test]
fn training_is_random_and_inference_is_not() {
    let (waveform, length) = voices(&[9_000, 7_000], 0);
    let inputs = [("waveform", &waveform), ("length", &length)];
    for backbone in [wavlm(), emotion2vec()] {
        let noise = |noise: Noise| WaveformEncoder {
            noise: Some(noise),
            ..speech(backbone.clone(), true, Normalisation::None)
        };
        let each = [
            Noise { hidden: 0.3, ..Noise::default() },
            Noise { attention: 0.3, ..Noise::default() },
            Noise { activation: 0.3, ..Noise::default() },
            Noise { layer_drop: 0.5, ..Noise::default() },
        ];
        let only_wavlm = [Noise { features: 0.3, ..Noise::default() }, Noise { mask_time: 0.5, ..Noise::default() }];
        let is_wavlm = matches!(backbone, Backbone::Wavlm(_));
        for noise_kind in each.into_iter().chain(only_wavlm.into_iter().filter(|_| is_wavlm)) {
            let graph = noise(noise_kind).record(10);
            let params = random_params(&graph, 7);
            let once = |training| run(&graph, &params, &inputs, training)["embedding"].shallow_clone();
            tch::manual_seed(1);
            assert!(
                (0..12).any(|_| difference(&once(true), &once(true)) > 1e-4),
                "{noise_kind:?} does nothing in training"
            );
            assert_eq!(difference(&once(false), &once(false)), 0.0);
        }
        let graph = noise(Noise::default()).record(10);
        let params = random_params(&graph, 7);
        let once = |training| run(&graph, &params, &inputs, training)["embedding"].shallow_clone();
        assert_eq!(difference(&once(true), &once(false)), 0.0);
    }
}

#[test]
fn every_parameter_gets_a_gradient() {
    let (waveform, length) = voices(&[9_000, 7_000], 0);
    for backbone in [wavlm(), emotion2vec()] {
        let net = WaveformEncoder {
            noise: Some(Noise { mask_time: 0.3, ..Noise::default() }),
            ..speech(backbone, true, Normalisation::None)
        };
        let graph = net.record(10);
        let params = random_params(&graph, 8);
        params.values().for_each(|p| drop(p.set_requires_grad(true)));
        tch::manual_seed(2);
        run(&graph, &params, &[("waveform", &waveform), ("length", &length)], true)["raw"]
            .sin()
            .sum(Kind::Float)
            .backward();
        for (name, p) in &params {
            let gradient = p.grad();
            assert!(
                gradient.defined() && gradient.isfinite().all().int64_value(&[]) == 1,
                "{name} gets no finite gradient"
            );
            // A bias before a softmax over keys changes nothing; everything else does. ALiBi's scale may be clamped at zero.
            let idle =
                name.ends_with("k_proj.bias") || name.ends_with("attn.key.bias") || name.ends_with("alibi_scale");
            assert!(idle || gradient.abs().max().double_value(&[]) > 0.0, "{name} gets no gradient");
        }
    }
}

#[test]
fn bfloat16_products_stay_close() {
    let (waveform, length) = voices(&[9_000, 7_000], 0);
    for backbone in [wavlm(), emotion2vec()] {
        let graph = speech(backbone, true, Normalisation::None).record(10);
        let params = random_params(&graph, 9);
        let inputs = [("waveform", &waveform), ("length", &length)];
        let short = run_in(&graph, &params, &inputs, Mode { training: false, bf16: true })["embedding"].shallow_clone();
        let exact = run(&graph, &params, &inputs, false)["embedding"].shallow_clone();
        let cosine = (&short * &exact).sum_dim_intlist([1i64].as_slice(), false, Kind::Float).min().double_value(&[]);
        assert_eq!(short.kind(), Kind::Float);
        assert!(cosine > 0.98 && difference(&short, &exact) > 0.0, "cosine {cosine}");
    }
}
