//! Model bundles, tokenizer and ONNX Runtime sessions: a batch in, unit embeddings out. Knows no PostgreSQL and no training.
