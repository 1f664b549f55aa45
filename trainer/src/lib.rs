//! Trains the speech and text encoders and writes the bundles the extension serves.
