//! Vocabulary files as published, turned into the one form (`tokenizer.json`) that the trainer and a bundle use: byte-level
//! BPE (RoBERTa) and SentencePiece unigram models (T5).

use std::path::Path;

use anyhow::{Context, Result, ensure};
use prost::Message;
use serde_json::{Value, json};

/// Tokens that T5 adds behind its SentencePiece model, for pretraining.
const EXTRA_IDS: usize = 100;
/// SentencePiece's mark of a space.
const SPACE: &str = "\u{2581}";

/// Byte-level BPE with RoBERTa's special tokens from `vocab.json` and `merges.txt` in the same folder.
pub fn byte_level_bpe(vocabulary: &Path) -> Result<Value> {
    let merges = vocabulary.with_file_name("merges.txt");
    let read = |path: &Path| {
        std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}; byte-level BPE needs vocab.json and merges.txt", path.display()))
    };
    let vocab: serde_json::Map<String, Value> =
        serde_json::from_str(&read(vocabulary)?).with_context(|| format!("in {}", vocabulary.display()))?;
    let merges: Vec<String> = read(&merges)?
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.trim().is_empty())
        .map(String::from)
        .collect();
    let id = |name: &str| vocab.get(name).cloned().with_context(|| format!("the vocabulary has no {name}"));
    let (begin, end) = (id("<s>")?, id("</s>")?);
    let names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];
    let added: Vec<Value> =
        names.iter().filter_map(|name| Some(special(vocab.get(*name)?.as_u64()?, name, *name == "<mask>"))).collect();
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", end], "cls": ["<s>", begin], "trim_offsets": true, "add_prefix_space": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges}
    }))
}

/// A SentencePiece unigram model (`spiece.model`) with T5's extra tokens, closing each text with `</s>`.
pub fn sentencepiece(bytes: &[u8]) -> Result<Value> {
    let model = ModelFile::decode(bytes).context("it is not a SentencePiece model")?;
    let trainer = model.trainer.unwrap_or_default();
    ensure!(
        trainer.model_type.unwrap_or(UNIGRAM) == UNIGRAM,
        "it is a SentencePiece model of type {}, only unigram models (1) are understood",
        trainer.model_type.unwrap_or(UNIGRAM)
    );
    let mut vocab: Vec<Value> = model.pieces.iter().map(|p| json!([p.piece, p.score])).collect();
    let mut added: Vec<Value> = (0..)
        .zip(&model.pieces)
        .filter(|(_, p)| [UNKNOWN, CONTROL].contains(&p.kind.unwrap_or(NORMAL)))
        .map(|(id, p)| special(id, &p.piece, false))
        .collect();
    let end = model.pieces.iter().position(|p| p.piece == "</s>").context("the model has no </s>")?;
    for n in (0..EXTRA_IDS).rev() {
        let name = format!("<extra_id_{n}>");
        added.push(special(vocab.len() as u64, &name, false));
        vocab.push(json!([name, 0.0]));
    }
    let mut normalizers = vec![
        json!({"type": "Strip", "strip_left": false, "strip_right": true}),
        json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": SPACE}),
    ];
    let rules = model.normalizer.unwrap_or_default().rules;
    if !rules.is_empty() {
        normalizers.insert(0, json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(rules)}));
    }
    let space = json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": true});
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": space,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [end], "tokens": ["</s>"]}}
        },
        "decoder": space,
        "model": {"type": "Unigram", "unk_id": trainer.unknown.unwrap_or(0), "vocab": vocab, "byte_fallback": false}
    }))
}

fn special(id: u64, name: &str, takes_space: bool) -> Value {
    json!({"id": id, "content": name, "single_word": false, "lstrip": takes_space, "rstrip": false, "normalized": false, "special": true})
}

// The parts of sentencepiece_model.proto that are needed.

const UNIGRAM: i32 = 1;
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;

#[derive(Clone, PartialEq, Message)]
struct ModelFile {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    piece: String,
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model_type: Option<i32>,
    #[prost(int32, optional, tag = "40")]
    unknown: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", tag = "2")]
    rules: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::TextTokenizer;

    fn ids(file: &Path, text: &str) -> Vec<i64> {
        let (ids, _) = TextTokenizer::read(file, 64).unwrap().encode(&[text.into()]).unwrap();
        Vec::try_from(ids.flatten(0, -1)).unwrap()
    }

    #[test]
    fn byte_level_bpe_merges_in_order_and_keeps_spaces() {
        let folder = tempfile::tempdir().unwrap();
        let vocab = json!({"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "a": 4, "b": 5, "\u{120}": 6, "ab": 7, "\u{120}ab": 8, "<mask>": 9});
        std::fs::write(folder.path().join("vocab.json"), vocab.to_string()).unwrap();
        std::fs::write(folder.path().join("merges.txt"), "#version: 0.2\na b\n\u{120} ab\n").unwrap();
        assert_eq!(ids(&folder.path().join("vocab.json"), "ab ab ba"), [0, 7, 8, 6, 5, 4, 2]);
    }

    #[test]
    fn sentencepiece_takes_the_likeliest_pieces() {
        let piece = |piece: &str, score: f32, kind: i32| Piece { piece: piece.into(), score, kind: Some(kind) };
        let model = ModelFile {
            pieces: vec![
                piece("<pad>", 0.0, CONTROL),
                piece("</s>", 0.0, CONTROL),
                piece("<unk>", 0.0, UNKNOWN),
                piece(SPACE, -4.0, NORMAL),
                piece("a", -3.0, NORMAL),
                piece("b", -3.0, NORMAL),
                piece("\u{2581}ab", -2.0, NORMAL),
            ],
            trainer: Some(TrainerSpec { model_type: Some(UNIGRAM), unknown: Some(2) }),
            normalizer: None,
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("spiece.model");
        std::fs::write(&file, model.encode_to_vec()).unwrap();
        assert_eq!(ids(&file, "ab  ba<extra_id_0>"), [6, 3, 5, 4, 106, 1]);
        assert!(sentencepiece(b"\xff\xff").is_err());
    }
}
