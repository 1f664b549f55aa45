//! The tokenizer of a text encoder: read from `tokenizer.json` or made from a WordPiece vocabulary, without padding and
//! cut at the longest input, in the form the bundle carries.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use tch::Tensor;

use crate::tokenizer_formats::{byte_level_bpe, sentencepiece};

/// A tokenizer with the JSON that a bundle carries.
pub struct TextTokenizer {
    inner: tokenizers::Tokenizer,
    /// Contents of the bundle's `tokenizer.json`.
    pub json: String,
}

impl TextTokenizer {
    /// Reads a tokenizer by the name of its file: `tokenizer.json`, `vocab.txt` of an uncased BERT, `vocab.json` beside `merges.txt`
    /// (byte-level BPE, RoBERTa), or a SentencePiece `*.model` (T5).
    pub fn read(path: &Path, max_tokens: usize) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| {
            format!(
                "cannot read the tokenizer {}; scripts/fetch-weights.sh downloads that of the default",
                path.display()
            )
        })?;
        let is = |part: Option<&std::ffi::OsStr>, what: &str| part.is_some_and(|p| p == what);
        let in_file = || format!("in {}", path.display());
        let mut value: Value = if is(path.file_name(), "vocab.json") {
            byte_level_bpe(path)?
        } else if is(path.extension(), "json") {
            serde_json::from_slice(&bytes).with_context(in_file)?
        } else if is(path.extension(), "model") {
            sentencepiece(&bytes).with_context(in_file)?
        } else {
            wordpiece(std::str::from_utf8(&bytes).with_context(in_file)?).with_context(in_file)?
        };
        value["padding"] = Value::Null;
        value["truncation"] =
            json!({"direction": "Right", "max_length": max_tokens, "strategy": "LongestFirst", "stride": 0});
        let json = serde_json::to_string(&value)?;
        let inner = json.parse::<tokenizers::Tokenizer>().map_err(|e| anyhow!("{}: {e}", path.display()))?;
        Ok(Self { inner, json })
    }

    /// All tokens.
    pub fn vocabulary(&self) -> Vec<String> {
        self.inner.get_vocab(false).into_keys().collect()
    }

    /// Token ids and mask, both `[batch, tokens]` integers, padded with zeros.
    pub fn encode(&self, texts: &[String]) -> Result<(Tensor, Tensor)> {
        let encoded = texts
            .iter()
            .map(|t| self.inner.encode(t.as_str(), true).map_err(|e| anyhow!("cannot tokenize {t:?}: {e}")))
            .collect::<Result<Vec<_>>>()?;
        let longest = encoded.iter().map(|e| e.len()).max().unwrap_or(0);
        let (mut ids, mut mask) = (vec![0i64; longest * texts.len()], vec![0i64; longest * texts.len()]);
        for (row, e) in encoded.iter().enumerate() {
            for (column, id) in e.get_ids().iter().enumerate() {
                ids[row * longest + column] = i64::from(*id);
                mask[row * longest + column] = 1;
            }
        }
        let shape = [texts.len() as i64, longest as i64];
        Ok((Tensor::from_slice(&ids).view(shape), Tensor::from_slice(&mask).view(shape)))
    }
}

fn wordpiece(vocabulary: &str) -> Result<Value> {
    let vocab: serde_json::Map<String, Value> =
        vocabulary.lines().enumerate().map(|(id, w)| (w.to_string(), json!(id))).collect();
    let special = |name: &str| vocab.get(name).cloned().with_context(|| format!("the vocabulary has no {name}"));
    let (cls, sep) = (special("[CLS]")?, special("[SEP]")?);
    let added: Vec<Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .iter()
        .filter_map(|name| {
            let id = vocab.get(*name)?;
            Some(json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}))
        })
        .collect();
    let token = |name: &str, id: &Value| json!({"id": name, "ids": [id], "tokens": [name]});
    Ok(json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "[SEP]", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}],
            "special_tokens": {"[CLS]": token("[CLS]", &cls), "[SEP]": token("[SEP]", &sep)}
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab}
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_becomes_a_tokenizer() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vocab.txt");
        std::fs::write(&file, "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nwhisper\n##ing\n").unwrap();
        let tokenizer = TextTokenizer::read(&file, 8).unwrap();
        let (ids, mask) = tokenizer.encode(&["Whispering".into(), "whisper".into()]).unwrap();
        assert_eq!(Vec::<i64>::try_from(ids.flatten(0, -1)).unwrap(), [2, 5, 6, 3, 2, 5, 3, 0]);
        assert_eq!(Vec::<i64>::try_from(mask.flatten(0, -1)).unwrap(), [1, 1, 1, 1, 1, 1, 1, 0]);
    }
}
