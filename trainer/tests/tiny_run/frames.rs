//! Cached frames: the last blocks of the encoder are trained with the head.

use esr_trainer::data::splits::Split;
use esr_trainer::evaluate::{Model, OURS, evaluate};
use esr_trainer::export::export;
use esr_trainer::nets::speech_tower::Pooling;
use esr_trainer::onnx::Precision;
use esr_trainer::prepare::{Form, ensure_complete, prepare};
use esr_trainer::prompts::Side;
use esr_trainer::train::train;

use crate::ground::{config, ground};
use crate::runs::weights_of;

#[test]
fn blocks_are_trained_over_cached_frames() {
    let (_alone, folder) = ground();
    let root = folder.path();
    let mut config = config(root, "frames", false);
    config.training.unfreeze_from = 2;
    config.training.epochs = 2;
    config.training.steps = 3;
    config.training.encoder_rate = 1e-3;
    config.training.attribute_prompts = 0.5;
    config.speech.tower.pooling = Pooling::Attentive;
    let lacking = ensure_complete(&config, Form::Frames { layer: 1 }).unwrap_err().to_string();
    assert!(lacking.contains("with --frames 1"), "{lacking}");
    prepare(&config, Form::Frames { layer: 1 }).unwrap();
    ensure_complete(&config, Form::Frames { layer: 1 }).unwrap();
    train(&config, false, None).unwrap();
    assert!(config.data.cache().join("attributes").exists(), "voices are measured once and kept");
    let now = weights_of(&config.data.work);
    let moved = now
        .iter()
        .find(|(n, _)| n == "speech.encoder.blocks.1.mlp.0.weight")
        .expect("the unfrozen block is in the checkpoint");
    let before = esr_trainer::encoders::speech(&config, 2).unwrap();
    let before = Vec::<f32>::try_from(before["speech.encoder.blocks.1.mlp.0.weight"].flatten(0, -1)).unwrap();
    assert!(moved.1.iter().zip(&before).any(|(a, b)| (a - b).abs() > 1e-4), "the unfrozen block did not move");
    assert!(now.iter().all(|(n, _)| !n.contains("blocks.0.")), "a frozen block is in the checkpoint");
    let attention =
        now.iter().find(|(n, _)| n.starts_with("speech.head.attention.0.outer")).expect("attention is trained");
    assert!(attention.1.iter().any(|w| *w != 0.0));
    let bundle = root.join("bundle");
    export(&config, &bundle, Precision::Float, None).unwrap();
    // The baselines are asked of pooled features.
    prepare(&config, Form::Pooled).unwrap();
    let precision = |model: &Model| {
        let results = evaluate(&config, model, Split::Test, Side::Heldout, true).unwrap();
        results[0].methods[OURS].single.precision
    };
    let (run, served) = (precision(&Model::Run), precision(&Model::Bundle(&bundle)));
    assert!((run - served).abs() < 0.02, "cached frames rank at {run}, the bundle at {served}");
}
