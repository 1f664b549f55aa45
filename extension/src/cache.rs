//! What a session remembers of the texts it has had embedded.
//!
//! PostgreSQL evaluates a STABLE function for every row of a plain scan: without this, an exact scan over 100,000 clips
//! would ask the embedder 100,000 times for the same sentence. Pure: when to forget is the caller's decision.

use std::num::NonZeroUsize;

use lru::LruCache;

use crate::vector::OwnedVector;

/// Embeddings by model name and text, the least recently used forgotten first.
pub struct TextCache {
    entries: LruCache<Key, OwnedVector>,
}

type Key = (String, String);

/// An empty cache. Its size is decided when something is put into it.
impl Default for TextCache {
    fn default() -> Self {
        Self { entries: LruCache::unbounded() }
    }
}

impl TextCache {
    /// The embedding of a text, if it is remembered.
    pub fn get(&mut self, model: &str, text: &str) -> Option<&OwnedVector> {
        self.entries.get(&(model.to_owned(), text.to_owned()))
    }

    /// Remembers an embedding, in at most `room` entries; in no room, it forgets. A model whose tag has changed under the same name makes
    /// everything else obsolete.
    pub fn put(&mut self, model: &str, text: &str, embedding: &OwnedVector, room: usize) {
        let Some(room) = NonZeroUsize::new(room) else {
            self.clear();
            return;
        };
        let tag = embedding.as_vector().tag;
        if self.entries.iter().any(|((name, _), other)| name == model && other.as_vector().tag != tag) {
            self.clear();
        }
        self.entries.resize(room);
        self.entries.put((model.to_owned(), text.to_owned()), embedding.clone());
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::tag::Tag;

    fn embedding(tag: u64) -> OwnedVector {
        OwnedVector::new(Tag(tag), vec![1.0]).unwrap()
    }

    #[test]
    fn the_least_recently_used_is_forgotten_first() {
        let mut cache = TextCache::default();
        cache.put("m", "a", &embedding(1), 2);
        cache.put("m", "b", &embedding(1), 2);
        assert!(cache.get("m", "a").is_some());
        cache.put("m", "c", &embedding(1), 2);
        assert!(cache.get("m", "b").is_none());
        assert!(cache.get("m", "a").is_some() && cache.get("m", "c").is_some());
        assert!(cache.get("other", "a").is_none());
        cache.put("m", "d", &embedding(1), 0);
        assert!(cache.get("m", "a").is_none() && cache.get("m", "d").is_none());
    }

    #[test]
    fn a_changed_model_makes_the_cache_forget() {
        let mut cache = TextCache::default();
        cache.put("m", "a", &embedding(1), 9);
        cache.put("other", "a", &embedding(3), 9);
        assert!(cache.get("m", "a").is_some());
        cache.put("m", "b", &embedding(2), 9);
        assert!(cache.get("m", "a").is_none());
        assert_eq!(cache.get("m", "b"), Some(&embedding(2)));
    }
}
