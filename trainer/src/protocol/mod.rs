//! The paper's retrieval protocol: one clip of a style among N clips of other styles, asked with a description of the style.
//!
//! [`pool`] holds clips and queries as plain vectors; [`ranking`] says where the clips of a style come; [`recall`] turns
//! that into R@k, exactly and by sampled trials; [`bootstrap`] says how far to trust it; [`lengths`] splits it by length
//! of utterance (the paper's Figure 3); [`scatter`] draws both modalities in the plane. [`ground`] takes vectors out of a
//! model, [`command`] is `esr-trainer protocol`. Only the last two know models and files.

pub mod bootstrap;
pub mod command;
pub mod exchange;
pub mod ground;
pub mod lengths;
pub mod pool;
pub mod ranking;
pub mod recall;
pub mod scatter;
