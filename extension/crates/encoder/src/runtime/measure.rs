//! Measuring with ONNX Runtime: what a network's products cost, and how fast a device multiplies.

use std::time::{Duration, Instant};

use ort::session::SessionInputValue;

use super::{Runtime, commit};
use crate::backend::{Batch, RunError};
use crate::bundle::{Bundle, SPEECH_FILE, TEXT_FILE};
use crate::device::{Device, Precision};
use crate::error::LoadError;
use crate::operations::{CHAIN_OUTPUT, Counted, cost, counted, product_chain};

/// Width and number of the products by which a device is judged: enough for it to do nothing else.
const GPU_CHAIN: (usize, usize) = (8_192, 8);
const CPU_CHAIN: (usize, usize) = (2_048, 2);
const CHAIN_TIME: Duration = Duration::from_millis(500);

impl Runtime {
    /// Floating point operations that the matrix products and convolutions of a bundle take for a batch, a multiplication and an
    /// addition being two. Computes the batch once, on the CPU. Fails as loading or running the network would.
    pub fn operations(&self, bundle: &Bundle, batch: &Batch) -> Result<u64, RunError> {
        let file = match batch {
            Batch::Speech { .. } => SPEECH_FILE,
            Batch::Text { .. } => TEXT_FILE,
        };
        let fail = |reason: String| RunError::Runtime(format!("{file}: {reason}"));
        let Counted { onnx, products } = counted(bundle.required(file)).map_err(fail)?;
        let builder = self.builder(Device::Cpu).map_err(|error| fail(error.to_string()))?;
        let mut session = commit(builder, &onnx).map_err(fail)?;
        let failed = |error: ort::Error| fail(error.to_string());
        let outputs = session.run(super::inputs(batch).map_err(failed)?).map_err(failed)?;
        let shape = |name: &str| -> Result<Vec<i64>, RunError> {
            Ok(outputs[name].try_extract_tensor::<i64>().map_err(failed)?.1.to_vec())
        };
        let cost = |(result, factor, is_kernel): &(String, String, bool)| -> Result<u64, RunError> {
            Ok(cost(&shape(result)?, &shape(factor)?, *is_kernel))
        };
        products.iter().map(cost).sum()
    }

    /// The most floating point operations a second that large matrix products reach on a device, in its precision. Takes about a
    /// second. Fails if the device cannot be had.
    pub fn product_rate(&self, device: Device) -> Result<f64, LoadError> {
        let (size, steps) = if device == Device::Cpu { CPU_CHAIN } else { GPU_CHAIN };
        let in_half = matches!(device, Device::Cuda { precision: Precision::Float16, .. });
        let mut session =
            commit(self.builder(device)?, &product_chain(size, steps, in_half)).map_err(LoadError::Model)?;
        let mut run = || -> Result<Duration, LoadError> {
            let start = Instant::now();
            let fail = |error: ort::Error| LoadError::Model(error.to_string());
            let nothing: [SessionInputValue<'_>; 0] = [];
            let outputs = session.run(nothing).map_err(fail)?;
            outputs[CHAIN_OUTPUT].try_extract_tensor::<f32>().map_err(fail)?;
            Ok(start.elapsed())
        };
        run()?;
        let (begin, mut best) = (Instant::now(), run()?);
        while begin.elapsed() < CHAIN_TIME {
            best = best.min(run()?);
        }
        let operations = cost(&[size as i64, size as i64], &[size as i64], false) * steps as u64;
        Ok(operations as f64 / best.as_secs_f64())
    }
}
