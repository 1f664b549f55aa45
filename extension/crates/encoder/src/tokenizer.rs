//! Text to token numbers, by the bundle's own tokenizer. Knows no ONNX.

use tokenizers::{Tokenizer as Inner, TruncationParams};

/// Longest text that is tokenized at all, in bytes; a description of a speaking style is a sentence.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

/// Why a text cannot be embedded.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TextError {
    /// Nothing but white space.
    #[error("the text is empty")]
    Empty,
    /// Longer than [`MAX_TEXT_BYTES`].
    #[error("the text has {bytes} bytes, over the limit of {MAX_TEXT_BYTES}")]
    TooLong {
        /// Of the text.
        bytes: usize,
    },
    /// The tokenizer refuses it.
    #[error("the text cannot be tokenized: {0}")]
    Tokenizer(String),
}

/// A loaded `tokenizer.json` with the manifest's limit on tokens.
#[derive(Debug)]
pub struct Tokenizer(Inner);

impl Tokenizer {
    /// Reads `tokenizer.json`; texts are cut to `max_tokens`, special tokens included. Padding that the file may ask
    /// for is turned off: batches pad for themselves. The error is the parser's message.
    pub fn from_bytes(json: &[u8], max_tokens: usize) -> Result<Self, String> {
        let mut inner = Inner::from_bytes(json).map_err(|error| error.to_string())?;
        inner.with_padding(None);
        let special = inner.encode("", true).map_err(|error| error.to_string())?.len();
        if special >= max_tokens {
            return Err(format!("its {special} special tokens leave no room in {max_tokens}"));
        }
        let truncation = TruncationParams { max_length: max_tokens, ..TruncationParams::default() };
        inner.with_truncation(Some(truncation)).map_err(|error| error.to_string())?;
        Ok(Self(inner))
    }

    /// Token numbers of one text, at least one and at most the limit.
    pub fn encode(&self, text: &str) -> Result<Vec<i64>, TextError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TextError::TooLong { bytes: text.len() });
        }
        if text.trim().is_empty() {
            return Err(TextError::Empty);
        }
        let encoding = self.0.encode_fast(text, true).map_err(|error| TextError::Tokenizer(error.to_string()))?;
        if encoding.is_empty() {
            return Err(TextError::Empty);
        }
        Ok(encoding.get_ids().iter().map(|id| i64::from(*id)).collect())
    }
}
