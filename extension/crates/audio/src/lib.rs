//! Untrusted audio bytes to a mono waveform at the model's rate, with limits. Knows no models and no PostgreSQL.
