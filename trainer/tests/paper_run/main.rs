//! The paper's recipe on miniature encoders (the committed reference networks as published weights) and generated sounds:
//! all eight pairs and the ablations as one command, an interrupted run, a run that learns, a bundle that is served.

mod ground;
#[path = "../common/runs.rs"]
mod runs;

use esr_encoder::{Bundle, Cancel, Encoder, Runtime};
use esr_trainer::data::Clip;
use esr_trainer::finetune::config::{Adversary, Finetune};
use esr_trainer::finetune::embed::Embedder;
use esr_trainer::finetune::evaluate::{evaluate, table};
use esr_trainer::finetune::export::export;
use esr_trainer::finetune::train::train;
use esr_trainer::finetune::trained::load;
use esr_trainer::nets::conv_features::Noise;
use esr_trainer::onnx::Precision;
use esr_trainer::paper::{Plan, Run, run};
use tch::{Device, Tensor};

use ground::{SPEECH, TEXT, ground, miniature, single, write_sets};
use runs::weights_of;

#[test]
fn eight_pairs_and_the_ablations_in_one_command() {
    let (_alone, folder) = ground(1);
    let root = folder.path();
    write_sets(&root.join("sets"));
    std::fs::create_dir_all(root.join("configs")).unwrap();
    for (speech, _) in SPEECH {
        for (text, _) in TEXT {
            let mut config = miniature(root, speech, text);
            for (key, value) in [("validate_every", 0), ("epochs", 2), ("discriminator_from", 1)] {
                config["training"].as_table_mut().unwrap().insert(key.into(), value.into());
            }
            std::fs::write(root.join(format!("configs/{speech}-{text}.toml")), toml::to_string(&config).unwrap())
                .unwrap();
        }
    }
    let plan = Plan {
        data: root.join("sets"),
        weights: root.join("weights"),
        configs: root.join("configs"),
        work: root.join("paper"),
        seeds: vec![1, 2],
        ablate: "emotion2vec-roberta".into(),
    };
    let report = run(&plan).unwrap();
    let runs: Vec<Run> =
        serde_json::from_str(&std::fs::read_to_string(root.join("paper/results.json")).unwrap()).unwrap();
    assert_eq!(runs.len(), 2 * (8 + 7));
    // IEMOCAP is only trained on; the first of 3 clips of a speaker and emotion of ESD is for choosing, the second for testing;
    // by file, all of a conversation is trained on.
    for run in &runs {
        let found: Vec<(&str, usize, usize)> =
            run.corpora.iter().map(|c| (c.corpus.as_str(), c.clips, c.styles.len())).collect();
        assert_eq!(found, [("esd", 50, 5), ("expresso", 3, 3)]);
    }
    // Two seeds of one run differ, and so does a run with a part left out.
    let find = |without: usize, seed| {
        runs.iter().find(|r| r.name == plan.ablate && r.without.len() == without && r.seed == seed).unwrap()
    };
    let precisions = |r: &Run| r.corpora.iter().map(|c| c.mean.precision).collect::<Vec<_>>();
    assert!(precisions(find(0, 1)) != precisions(find(0, 2)) || precisions(find(0, 1)) != precisions(find(3, 1)));
    for line in [
        "| wavlm-flan-t5 | ",
        "| full method | ",
        "| without adversary and augmentation and classifier | ",
        "| chance | ",
    ] {
        assert_eq!(report.lines().filter(|l| l.starts_with(line)).count() % 2, 0, "{line}\n{report}");
        assert!(report.contains(line), "{line}\n{report}");
    }
    assert!(report.contains(" ± ") && report.contains("| esd | 0 to 1 s | 50 |"), "{report}");
    let drawing = std::fs::read_to_string(root.join("paper/wavlm-t5/seed-1/tsne-esd.svg")).unwrap();
    assert!(drawing.contains("<svg") && drawing.contains("surprise"));
    // A second call finds everything done.
    let file = root.join("paper/emotion2vec-bert/seed-1/checkpoint.safetensors");
    let written = std::fs::metadata(&file).unwrap().modified().unwrap();
    assert_eq!(run(&plan).unwrap(), report);
    assert_eq!(std::fs::metadata(&file).unwrap().modified().unwrap(), written);
    let unknown = run(&Plan { ablate: "whisper-bert".into(), ..plan }).unwrap_err();
    assert!(unknown.to_string().contains("whisper-bert"), "{unknown}");
}

#[test]
fn an_interrupted_run_equals_an_unbroken_one() {
    let (_alone, folder) = ground(2);
    let root = folder.path();
    let broken = single(root, "wavlm", "bert", "broken");
    train(&broken, false, Some(1)).unwrap();
    train(&broken, false, None).unwrap();
    let mut whole = single(root, "wavlm", "bert", "whole");
    // Threads don't change what is heard.
    whole.training.workers = 3;
    train(&whole, false, None).unwrap();
    for ((name, a), (_, b)) in weights_of(&broken.data.work).iter().zip(&weights_of(&whole.data.work)) {
        assert!(a == b, "{name} differs between an interrupted and an unbroken run");
    }
    assert!(broken.data.work.join("epoch-2.safetensors").exists());
    let lines = std::fs::read_to_string(broken.data.work.join("metrics.jsonl")).unwrap();
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(
        !lines[0].contains("contrastive") && lines[1].contains("contrastive") && !lines[1].contains("discriminator")
    );
    assert!(lines[2].contains("discriminator") && lines[2].contains("validation"));
    // Another config does not go on with this checkpoint.
    let other = Finetune { dimension: 11, ..broken };
    assert!(train(&other, false, None).unwrap_err().to_string().contains("another config"));
}

#[test]
fn a_run_learns_and_is_served() {
    let (_alone, folder) = ground(3);
    let root = folder.path();
    for (speech, text) in [("wavlm", "flan-t5"), ("emotion2vec", "flan-t5")] {
        let mut config = single(root, speech, text, speech);
        config.training.epochs = 24;
        (config.training.rate, config.training.classifier_rate) = (3e-3, 3e-3);
        config.training.adversary = Adversary::Paper;
        config.text.net.dropout = 0.0;
        config.speech.net.noise = Some(Noise::default());
        config.speech.net.mask = true;
        train(&config, false, None).unwrap();
        let evaluation = evaluate(&config).unwrap();
        let results = &evaluation.corpora;
        let above: f64 = results.iter().map(|r| r.mean.precision - r.chance.precision).sum::<f64>() / 3.0;
        assert!(above > 0.12, "{speech}: mAP is only {above} above chance\n{}", table(results));
        let bundle = root.join(format!("{speech}-bundle"));
        export(&config, &bundle, Precision::Float, results).unwrap();
        assert!(std::fs::read_to_string(bundle.join("MODEL_CARD.md")).unwrap().contains("| esd | 9 |"));

        // Production embeds clips and texts as the trainer does, in batches of different lengths.
        let params = load(&config, Device::Cpu).unwrap().unwrap();
        let embedder = Embedder::new(&config, &params, Device::Cpu).unwrap();
        let clip = |name: &str| Clip {
            corpus: "esd".into(),
            path: root.join("esd").join(name),
            speaker: String::new(),
            styles: vec![],
            seconds: 0.0,
        };
        let clips = [clip("s4_calm_0.wav"), clip("s4_angry_2.wav"), clip("s4_whisper_1.wav")];
        let runtime = Runtime::load(&esr_encoder::runtime::default_library(), 1).unwrap();
        let mut served = Encoder::load(&Bundle::open(&bundle).unwrap(), &runtime).unwrap();
        let waveforms: Vec<_> =
            clips.iter().map(|c| esr_trainer::audio_file::waveform(&c.path, 16_000).unwrap()).collect();
        let near = |ours: Tensor, theirs: Vec<esr_encoder::Embedding>| {
            for (n, theirs) in theirs.iter().enumerate() {
                let ours = Vec::<f32>::try_from(ours.get(n as i64)).unwrap();
                let worst = ours.iter().zip(theirs.as_slice()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 1e-4, "{speech}: {worst}");
            }
        };
        near(embedder.clips(&clips, None).unwrap().0, served.embed_speech(&waveforms, &Cancel::default()).unwrap());
        let texts = ["a calm voice", "whispered", "someone who is very angry indeed"];
        let owned = texts.map(String::from);
        near(embedder.texts(&owned).unwrap(), served.embed_texts(&texts, &Cancel::default()).unwrap());
    }
}

#[test]
fn the_adversary_has_two_readings() {
    let (_alone, folder) = ground(1);
    let mut recipe = single(folder.path(), "wavlm", "bert", "unused").training;
    recipe.discriminator = 0.1;
    for (reading, weight) in [(Adversary::Paper, 0.1), (Adversary::Released, 1.1)] {
        recipe.adversary = reading;
        assert!((recipe.adversarial_weight() - weight).abs() < 1e-12);
    }
    recipe.discriminator = 0.0;
    assert_eq!(recipe.adversarial_weight(), 0.0);
}
