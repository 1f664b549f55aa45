//! Cached features: prepare, tune-text, train, evaluate, export, place, fuse.

use std::path::Path;

use esr_trainer::config::{Config, Fusion, Manner, Shown, ShownKind};
use esr_trainer::data::splits::Split;
use esr_trainer::evaluate::{Model, OURS, evaluate};
use esr_trainer::export::export;
use esr_trainer::fuse::fuse;
use esr_trainer::onnx::Precision;
use esr_trainer::place::place;
use esr_trainer::prepare::{Form, prepare};
use esr_trainer::prompts::Side;
use esr_trainer::train::train;
use esr_trainer::trained::trained;
use esr_trainer::tune_text::tune_text;
use esr_trainer::weights::read_tensors;

use crate::ground::{config, ground};
use crate::runs::weights_of;

#[test]
fn the_whole_path_on_tiny_networks() {
    let (_alone, folder) = ground();
    let root = folder.path();

    // A run with the paper's heads, interrupted after three epochs and continued, equals an unbroken one.
    let broken = config(root, "broken", false);
    let added = prepare(&broken, Form::Pooled).unwrap();
    assert!(added > 8 * 9 + 5 * 9, "{added} entries");
    assert_eq!(prepare(&broken, Form::Pooled).unwrap(), 0, "a second run finds everything cached");
    let mut other = broken.clone();
    other.data.test.append(&mut other.data.train);
    let told = prepare(&other, Form::Pooled).unwrap_err().to_string();
    assert!(told.contains("for Train, but by this config it is for Test"), "{told}");
    train(&broken, false, Some(3)).unwrap();
    train(&broken, false, None).unwrap();
    let whole = config(root, "whole", false);
    std::fs::create_dir_all(&whole.data.work).unwrap();
    std::fs::rename(broken.data.work.join("pooled"), whole.data.work.join("pooled")).unwrap();
    train(&whole, false, None).unwrap();
    for ((name, a), (_, b)) in weights_of(&broken.data.work).iter().zip(&weights_of(&whole.data.work)) {
        assert!(a == b, "{name} differs between an interrupted and an unbroken run");
    }
    let lines = std::fs::read_to_string(broken.data.work.join("metrics.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 8);
    assert!(lines.contains("contrastive") && !lines.contains("alignment"), "only losses that are on are reported");

    let results = evaluate(&whole, &Model::Run, Split::Test, Side::Heldout, true).unwrap();
    let got = results[0].methods[OURS].ensemble.precision;
    assert!(got > results[0].chance.precision + 0.2, "mAP {got} against chance {}", results[0].chance.precision);

    // The same with a tuned text tower, exported and judged as production runs it.
    let tuned = config(root, "tuned", true);
    std::fs::create_dir_all(&tuned.data.work).unwrap();
    std::fs::rename(whole.data.work.join("pooled"), tuned.data.work.join("pooled")).unwrap();
    tune_text(&tuned, None).unwrap();
    train(&tuned, false, None).unwrap();
    let bundle = root.join("bundle");
    let tag = export(&tuned, &bundle, Precision::Int8, None).unwrap();
    assert_ne!(tag, 0);
    let cached = evaluate(&tuned, &Model::Run, Split::Test, Side::Heldout, true).unwrap();
    let served = evaluate(&tuned, &Model::Bundle(&bundle), Split::Test, Side::Heldout, true).unwrap();
    let (a, b) = (cached[0].methods[OURS].single.precision, served[0].methods[OURS].single.precision);
    assert!((a - b).abs() < 0.02, "cached features rank at {a}, the bundle at {b}");
    assert!(bundle.join("MODEL_CARD.md").exists());
    // What the bundle says about a clip is kept.
    let kept = std::fs::read_dir(tuned.data.cache().join("clips")).unwrap().count();
    let again = evaluate(&tuned, &Model::Bundle(&bundle), Split::Test, Side::Heldout, true).unwrap();
    assert_eq!(again[0].methods[OURS].single.precision, b);
    assert!(kept > 0 && std::fs::read_dir(tuned.data.cache().join("clips")).unwrap().count() == kept);

    // A style without clips is answered with where clips made like it lie.
    let mut shown = tuned.clone();
    let kinds = |style: &str| vec![ShownKind { manner: Manner::Child, styles: vec![style.into()] }];
    let of = |style: &str| Some(Shown { share: 1.0, corpora: vec!["tones".into()], kinds: kinds(style) });
    shown.augment.shown = of("calm");
    assert!(place(&shown).unwrap_err().to_string().contains("which training clips have"));
    shown.augment.shown = of("bored");
    let asked = export(&shown, &bundle, Precision::Int8, None).unwrap_err().to_string();
    assert!(asked.contains("esr-trainer place"), "{asked}");
    assert_eq!(place(&shown).unwrap(), ["bored"]);
    let values = |config: &Config| trained(config).unwrap().unwrap()["text.head.values"].copy();
    let moved = (values(&shown) - values(&tuned)).abs().amax([1i64].as_slice(), false);
    let moved = Vec::<f32>::try_from(moved).unwrap();
    assert!(moved[5] > 1e-3 && moved[..5].iter().all(|x| *x == 0.0), "{moved:?}");
    assert_ne!(export(&shown, &bundle, Precision::Int8, None).unwrap(), tag);

    // Log-mel statistics are added once to a bundle that was trained without them, and stay when its text tower is tuned further.
    let read = |folder: &Path, name: &str| std::fs::read(folder.join(name)).unwrap();
    let mut bare = tuned.clone();
    (bare.data.work, bare.data.cache) = (root.join("bare"), Some(tuned.data.work.clone()));
    bare.speech.tower.mel = false;
    train(&bare, false, None).unwrap();
    let (plain, fused, retuned) = (root.join("plain"), root.join("fused"), root.join("retuned"));
    export(&bare, &plain, Precision::Int8, None).unwrap();
    assert!(fuse(&bare, &plain, &fused).unwrap_err().to_string().contains("speech.fusion"));
    bare.speech.fusion = Some(Fusion { share: 0.5, ridge: 0.2, doubt: 0.5 });
    fuse(&bare, &plain, &fused).unwrap();
    assert_eq!(read(&fused, "text.onnx"), read(&plain, "text.onnx"));
    let heard = evaluate(&bare, &Model::Bundle(&fused), Split::Test, Side::Heldout, false).unwrap();
    let (got, chance) = (heard[0].methods[OURS].single.precision, heard[0].chance.precision);
    assert!(got > chance + 0.2, "mAP {got} against chance {chance}");
    assert!(fuse(&bare, &fused, &retuned).unwrap_err().to_string().contains("already"));
    export(&bare, &retuned, Precision::Int8, Some(&fused)).unwrap();
    assert_eq!(read(&retuned, "speech.onnx"), read(&fused, "speech.onnx"));

    // A bundle's text tower can go on learning; what was placed before the speech side was trained on is refused.
    tune_text(&tuned, Some(&bundle)).unwrap();
    export(&tuned, &retuned, Precision::Int8, Some(&bundle)).unwrap();
    assert_eq!(read(&retuned, "speech.onnx"), read(&bundle, "speech.onnx"));
    assert_ne!(read(&retuned, "text.onnx"), read(&bundle, "text.onnx"));
    let bank = |folder: &Path| read_tensors(&folder.join("text.onnx")).unwrap()["text.head.values"].copy();
    assert_eq!(bank(&retuned), bank(&bundle), "the styles answer as before");
    let mut shorter = tuned.clone();
    shorter.training.epochs = 1;
    train(&shorter, true, None).unwrap();
    assert!(trained(&shown).is_err_and(|error| error.to_string().contains("another speech side")));
    place(&shown).unwrap();
    trained(&shown).unwrap();
}
