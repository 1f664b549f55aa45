//! Embeds clips and texts with a trained run: each clip alone, unpadded, as in the paper's evaluation.

use anyhow::Result;
use tch::{Device, Tensor, no_grad};

use super::batches::{Window, for_each};
use super::config::Finetune;
use crate::data::Clip;
use crate::graph::Graph;
use crate::nets::log_mel::SAMPLE_RATE;
use crate::prepare::batch_of;
use crate::progress::Progress;
use crate::tokenizer::TextTokenizer;
use crate::torch::{Mode, Params, run_in};
use crate::weights;

/// Texts computed together.
const TEXTS: usize = 64;

/// Both networks with their parameters.
pub struct Embedder<'a> {
    config: &'a Finetune,
    speech: Graph,
    text: Graph,
    params: &'a Params,
    tokenizer: TextTokenizer,
    device: Device,
}

impl<'a> Embedder<'a> {
    /// `params` holds all parameters of both networks, on `device`.
    pub fn new(config: &'a Finetune, params: &'a Params, device: Device) -> Result<Self> {
        let tokenizer = TextTokenizer::read(&weights::resolve(&config.text.tokenizer), config.text.max_tokens)?;
        let speech = config.speech.net.record(config.dimension);
        Ok(Self { config, speech, text: config.text.net.record_served(config.dimension), params, tokenizer, device })
    }

    /// Unit vectors `[clips, dimension]` on the CPU, and the seconds that were heard of each clip. Clips longer than `longest`
    /// seconds are cut.
    pub fn clips(&self, clips: &[Clip], longest: Option<f32>) -> Result<(Tensor, Vec<f32>)> {
        let window = Window::seconds(self.config.data.shortest, longest);
        let alone: Vec<Vec<usize>> = (0..clips.len()).map(|n| vec![n]).collect();
        let progress = Progress::start(clips.len() as u64, "clips");
        let (mut rows, mut seconds) = (vec![], vec![]);
        for_each(clips, &alone, window, None, 1, |_, waveforms| {
            let (waveform, length) = batch_of(waveforms);
            seconds.extend(waveforms.iter().map(|w| w.len() as f32 / SAMPLE_RATE as f32));
            rows.push(self.run(&self.speech, &[("waveform", &waveform), ("length", &length)]));
            progress.advance(1);
            Ok(())
        })?;
        progress.finish();
        anyhow::ensure!(!rows.is_empty(), "there are no clips to embed");
        Ok((Tensor::cat(&rows, 0), seconds))
    }

    /// Unit vectors `[texts, dimension]` on the CPU.
    pub fn texts(&self, texts: &[String]) -> Result<Tensor> {
        let mut rows = vec![];
        for some in texts.chunks(TEXTS) {
            let (ids, mask) = self.tokenizer.encode(some)?;
            rows.push(self.run(&self.text, &[("input_ids", &ids), ("attention_mask", &mask)]));
        }
        anyhow::ensure!(!rows.is_empty(), "there are no texts to embed");
        Ok(Tensor::cat(&rows, 0))
    }

    fn run(&self, graph: &Graph, inputs: &[(&str, &Tensor)]) -> Tensor {
        let placed: Vec<(&str, Tensor)> = inputs.iter().map(|(n, t)| (*n, t.to_device(self.device))).collect();
        let inputs: Vec<(&str, &Tensor)> = placed.iter().map(|(n, t)| (*n, t)).collect();
        let mode = Mode { training: false, bf16: self.config.training.short(self.device) };
        no_grad(|| run_in(graph, self.params, &inputs, mode)["embedding"].to_device(Device::Cpu))
    }
}
