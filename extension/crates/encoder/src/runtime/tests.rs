//! What needs ONNX Runtime but no GPU. Skipped, aloud, where its library is missing, unless ESR_REQUIRE_ONNXRUNTIME is set.

use super::*;
use crate::encoder::Encoder;
use crate::golden::{GENERATOR_RATE, Generator, Golden, waveform};
use esr_audio::Waveform;

fn bundle() -> Bundle {
    Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../models/default")).unwrap()
}

fn onnx_runtime() -> Option<Runtime> {
    let library = default_library();
    if !library.exists() && std::env::var_os("ESR_REQUIRE_ONNXRUNTIME").is_none() {
        eprintln!("SKIPPED: no ONNX Runtime at {}", library.display());
        return None;
    }
    Some(Runtime::load(&library, 1).unwrap())
}

/// On the CPU, which rounds the factors as a GPU does and then computes in 32 bits.
#[test]
fn products_of_16_bit_factors_meet_the_golden_vectors_and_are_not_quite_the_same() {
    let Some(runtime) = onnx_runtime() else { return };
    let bundle = bundle();
    let load =
        |precision| Encoder::with_towers(&bundle, runtime.towers_in(&bundle, Device::Cpu, precision).unwrap()).unwrap();
    let (mut whole, mut half) = (load(Precision::Float32), load(Precision::Float16));
    half.check(&Golden::parse(bundle.required(crate::bundle::GOLDEN_FILE)).unwrap()).unwrap();
    let clip = |(hz, seconds): (f64, f64)| {
        Waveform::new(waveform(&Generator::Harmonic { hz, seconds, seed: 3 }), GENERATOR_RATE).unwrap()
    };
    let clips = [(90.0, 0.6), (140.0, 1.9), (250.0, 3.4), (180.0, 8.0)].map(clip);
    let texts = ["whispering", "a loud and angry man", "someone who sounds very bored and speaks slowly"];
    let cancel = Cancel::default();
    let of = |encoder: &mut Encoder| {
        let mut all = encoder.embed_speech(&clips, &cancel).unwrap();
        all.extend(encoder.embed_texts(&texts, &cancel).unwrap());
        all
    };
    let mut moved = 0f32;
    for (whole, half) in of(&mut whole).iter().zip(of(&mut half)) {
        assert!(whole.cosine_distance(&half) < 1e-6, "{:e}", whole.cosine_distance(&half));
        let pairs = whole.as_slice().iter().zip(half.as_slice());
        let element = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(element < 1e-3, "too much was rounded: {element:e}");
        moved = moved.max(element);
    }
    // A text that names one style outright answers with that style's direction, whatever is rounded before.
    assert!(moved > 1e-6, "nothing was rounded: {moved:e}");
}

#[test]
fn operations_are_counted_as_by_hand() {
    let Some(runtime) = onnx_runtime() else { return };
    let bundle = bundle();
    let count = |clips: &[&[f32]]| runtime.operations(&bundle, &Batch::speech(clips)).unwrap();
    let tone: Vec<f32> = (0..32_000).map(|at| (at as f32 * 0.05).sin() * 0.3).collect();
    let one = count(&[&tone]);
    assert_eq!(count(&[&tone, &tone]), 2 * one);
    // 200 frames, 100 positions of 512 numbers: spectrum, bands, convolutions, three blocks, loudness, head (of the features and
    // of mean and deviation of 80 bands).
    let front = 402 * 200 * 400 + 80 * 200 * 402 + 512 * 200 * 80 * 3 + 512 * 100 * 512 * 3 + 200 * 11 + 100 * 3;
    let block = 100 * 512 * (4 * 512 + 2 * 4 * 512) + 2 * 100 * 100 * 512;
    let head = (1024 + 2 * 80) * 512;
    assert_eq!(one, 2 * (front + 3 * block + head));
    let text = runtime.operations(&bundle, &Batch::text(&[&[101, 7, 8, 9, 102]])).unwrap();
    let block = 5 * 384 * (4 * 384 + 2 * 4 * 384) + 2 * 5 * 5 * 384;
    assert!(text > 2 * 3 * block && text < 2 * 4 * block, "{text}, blocks {block}");
    assert!(runtime.product_rate(Device::Cpu).unwrap() > 1e8);
}

#[test]
fn messages_are_told_without_places_in_the_source() {
    for (message, told) in [
        (
            "provider_options_utils.h:187 Parse Failed to parse provider option \"device_id\": CUDA failure 100: no CUDA-capable \
             device is detected ; GPU=-1 ; hostname=vm ; file=/src/cuda_execution_provider_info.cc ; line=70",
            "CUDA failure 100: no CUDA-capable device is detected",
        ),
        (
            "Exception during initialization: /src/bfc_arena.cc:360 void* AllocateRawInternal(size_t, bool) Available memory of \
             1591808 is smaller than requested bytes of 3145728\n",
            "Available memory of 1591808 is smaller than requested bytes of 3145728",
        ),
        (
            "/src/provider_bridge_ort.cc:2043 Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library /x/libonnxruntime_providers_cuda.so \
             with error: libcublasLt.so.13: cannot open shared object file: No such file or directory\n",
            "Failed to load library /x/libonnxruntime_providers_cuda.so with error: libcublasLt.so.13: cannot open shared \
             object file: No such file or directory",
        ),
        ("Load model failed: something else", "Load model failed: something else"),
    ] {
        assert_eq!(reason(message), told);
    }
}
