//! Waveforms: the whole encoder is trained, and runs are averaged.

use esr_trainer::config::{Processor, Training, Waveforms};
use esr_trainer::data::splits::Split;
use esr_trainer::evaluate::{Model, OURS, evaluate};
use esr_trainer::export::export;
use esr_trainer::onnx::Precision;
use esr_trainer::prepare::{Form, prepare};
use esr_trainer::prompts::Side;
use esr_trainer::soup::soup;
use esr_trainer::train::train;
use esr_trainer::trained::trained;
use esr_trainer::tune_text::tune_text;
use tch::Tensor;

use crate::ground::{config, ground};
use crate::runs::weights_of;

#[test]
fn the_whole_encoder_is_trained_from_waveforms() {
    let (_alone, folder) = ground();
    let root = folder.path();
    let head = config(root, "head", true);
    prepare(&head, Form::Pooled).unwrap();
    tune_text(&head, None).unwrap();
    train(&head, false, None).unwrap();
    let bundle = root.join("head-bundle");
    export(&head, &bundle, Precision::Int8, None).unwrap();

    let run = |work: &str, reseed: u64| {
        let mut run = head.clone();
        run.data.cache = Some(head.data.work.clone());
        run.data.work = root.join(work);
        run.training = Training { epochs: 3, steps: 4, batch: 24, encoder_rate: 1e-3, reseed, ..head.training.clone() };
        run.training.waveforms = Some(Waveforms {
            from: bundle.clone(),
            device: Processor::Cpu,
            disturbed: 0.0,
            layer_decay: 0.5,
            validate_every: 2,
            ..Waveforms::default()
        });
        run
    };
    // Interrupted and continued equals unbroken, whatever the threads.
    let broken = run("broken", 0);
    train(&broken, false, Some(1)).unwrap();
    train(&broken, false, None).unwrap();
    let mut whole = run("whole", 0);
    whole.training.waveforms.as_mut().unwrap().workers = 3;
    train(&whole, false, None).unwrap();
    for ((name, a), (_, b)) in weights_of(&broken.data.work).iter().zip(&weights_of(&whole.data.work)) {
        assert!(a == b, "{name} differs between an interrupted and an unbroken run");
    }
    let lines = std::fs::read_to_string(whole.data.work.join("metrics.jsonl")).unwrap();
    assert_eq!(
        lines.lines().filter(|l| l.contains("validation")).count(),
        2,
        "after two epochs and at the end: {lines}"
    );

    // Everything moves but the table of positions, and kept weights lie between.
    let settings = whole.training.waveforms.clone().unwrap();
    let graph = whole.speech.tower.record_whole(whole.dimension);
    let start = esr_trainer::waveforms::start(&whole, &settings, &graph).unwrap();
    let flat = |t: &Tensor| Vec::<f32>::try_from(t.flatten(0, -1)).unwrap();
    let now: std::collections::BTreeMap<String, Vec<f32>> = weights_of(&whole.data.work).into_iter().collect();
    for name in ["conv1.weight", "blocks.0.attn.query.weight", "blocks.1.mlp.0.weight", "positional_embedding"] {
        let name = format!("speech.encoder.{name}");
        let moved = flat(&start[&name]).iter().zip(&now[&name]).any(|(a, b)| (a - b).abs() > 1e-5);
        assert_eq!(moved, !name.contains("positional"), "{name}");
    }
    let mut kept = whole.clone();
    kept.training.waveforms.as_mut().unwrap().keep = 0.25;
    let between = &trained(&kept).unwrap().unwrap()["speech.encoder.conv1.weight"];
    for ((b, s), n) in
        flat(between).iter().zip(flat(&start["speech.encoder.conv1.weight"])).zip(&now["speech.encoder.conv1.weight"])
    {
        assert!((b - (0.75 * n + 0.25 * s)).abs() < 1e-6);
    }

    // The mean of two runs is judged from the clips' files, and its bundle gives the same.
    let mut other = run("other", 7);
    other.training.steps = 30;
    train(&other, false, None).unwrap();
    let long = evaluate(&other, &Model::Run, Split::Test, Side::Heldout, false).unwrap();
    let (got, chance) = (long[0].methods[OURS].ensemble.precision, long[0].chance.precision);
    assert!(got > chance + 0.1, "mAP {got} against chance {chance}");
    assert_eq!(long[0].methods.len(), 1, "no baselines");
    let mean = run("mean", 0);
    soup(&mean, &[whole.data.work.clone(), other.data.work.clone()]).unwrap();
    let theirs: std::collections::BTreeMap<String, Vec<f32>> = weights_of(&other.data.work).into_iter().collect();
    for (name, values) in weights_of(&mean.data.work) {
        let expected = now[&name].iter().zip(&theirs[&name]).map(|(a, b)| (a + b) / 2.0);
        assert!(values.iter().zip(expected).all(|(v, e)| (v - e).abs() < 1e-5), "{name}");
    }
    assert!(soup(&mean, &[whole.data.work.clone(), head.data.work.clone()]).is_err(), "another network");
    let alone = evaluate(&mean, &Model::Run, Split::Test, Side::Heldout, false).unwrap();
    let own = alone[0].methods[OURS].single.precision;
    let served = root.join("mean-bundle");
    export(&mean, &served, Precision::Int8, None).unwrap();
    let through = evaluate(&mean, &Model::Bundle(&served), Split::Test, Side::Heldout, false).unwrap();
    let through = through[0].methods[OURS].single.precision;
    assert!((own - through).abs() < 0.02, "the run ranks at {own}, the bundle at {through}");
}
