//! Corrupts the oracle's outputs in the ways in which kernels cheat, and checks that the comparison rejects them.
//!
//! Zeros, means, copies of inputs, outputs of other inputs, half of the work, lower precision. Runs only the oracle. `admission`
//! decides what the results mean for a task.

use std::ops::Range;

use serde::Serialize;

use super::case::{Case, derive_seed};
use super::case_kernel::{CaseKernel, EXPECT_PURPOSE};
use super::compiled_kernel::Reference;
use super::context::JudgeContext;
use crate::device::{BufferContent, OutputComparison, Poison, numerics};
use crate::task::{DType, PrecisionCheck, Tolerance};

/// A corrupted output that passed the comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct MissedCorruption {
    /// The corruption, such as `zeros`.
    pub candidate: String,
    /// The output that was corrupted; `None` if all were.
    pub output: Option<String>,
    pub workload: String,
    pub regime: Option<String>,
    /// The largest |x - r| / bound.
    pub error: f64,
}

/// The results of the corruptions of one case.
#[derive(Default)]
pub(super) struct CorruptionResults {
    /// Number of corrupted outputs that were compared.
    pub(super) comparisons: usize,
    pub(super) missed: Vec<MissedCorruption>,
}

/// The test on one case.
pub(super) struct CorruptionTest<'s, 'j> {
    pub(super) context: &'s JudgeContext<'j>,
    pub(super) case: &'s Case,
    /// Id of the workload that the case belongs to.
    pub(super) workload: &'s str,
}

/// An output with its correct values and its tolerance.
struct ReferenceOutput<'o> {
    name: &'o str,
    dtype: DType,
    tolerance: Tolerance,
    expected: Vec<f64>,
    /// Root mean square of `expected`, without zeros.
    rms: f64,
}

/// The values of a corrupted output in a range of its elements.
type CorruptedRange<'c> = &'c dyn Fn(Range<usize>) -> Vec<f64>;

/// How many elements are compared first, at three places. A corruption that fails there fails as a whole.
const QUICK_ELEMENTS: usize = 4096;

/// A ratio of error and bound that is above 1 by more than rounding.
const CLEARLY_WRONG: f64 = 1.001;

impl<'o> ReferenceOutput<'o> {
    fn new(name: &'o str, dtype: DType, tolerance: Tolerance, expected: Vec<f64>) -> Self {
        Self {
            name,
            dtype,
            tolerance,
            rms: numerics::root_mean_square(&expected),
            expected,
        }
    }

    /// Whether some element at the start, in the middle or at the end is clearly outside the tolerance. Then the whole output is
    /// wrong, and there is no need to make and compare all of it.
    fn is_clearly_wrong(&self, corrupted: CorruptedRange<'_>) -> bool {
        let length = self.expected.len();
        let last = length.saturating_sub(QUICK_ELEMENTS);
        [0, last / 2, last].into_iter().any(|start| {
            let range = start..(start + QUICK_ELEMENTS).min(length);
            let expected = &self.expected[range.clone()];
            let rms = numerics::root_mean_square(expected);
            // The comparison takes the bound from the root mean square of what it gets.
            let atol_rms = self.tolerance.atol_rms * self.rms / rms;
            if !atol_rms.is_finite() {
                return false;
            }
            let tolerance = Tolerance {
                atol_rms,
                ..self.tolerance
            };
            let found = corrupted(range);
            let comparison = numerics::compare_values(self.dtype, &found, expected, tolerance);
            comparison.failed > 0 && comparison.worst_ratio > CLEARLY_WRONG
        })
    }

    fn compare(&self, found: &[f64]) -> OutputComparison {
        numerics::compare_values(self.dtype, found, &self.expected, self.tolerance)
    }
}

impl CorruptionTest<'_, '_> {
    /// Corrupts every output in every way.
    pub(super) fn run(&self, seed: u64, results: &mut CorruptionResults) -> anyhow::Result<()> {
        let context = self.context;
        let _lock = context.timing_lock.shared()?;
        let mut oracle =
            CaseKernel::open_reference(context, Reference::Oracle, self.case, EXPECT_PURPOSE)?;
        let mut run_oracle = |input_seed: u64| {
            oracle.reset_buffers(input_seed, Poison::Nan)?;
            oracle.oracle_values(input_seed, context.deadline())
        };
        let other_outputs = run_oracle(derive_seed(seed, "stale", 0))?;
        let expected = run_oracle(seed)?;
        let outputs = context.task.definition.outputs.iter().zip(expected);
        let outputs: Vec<_> = outputs
            .filter_map(|((name, tensor), expected)| {
                let tolerance = *context.task.settings.tolerance.get(name)?;
                let dtype = tensor.dtype;
                Some(ReferenceOutput::new(name, dtype, tolerance, expected))
            })
            .collect();
        let is_stored = self.case.is_stored(context.task);
        for (output, other) in outputs.iter().zip(&other_outputs) {
            let other = Some(other.as_slice()).filter(|_| !is_stored);
            self.test_simple_corruptions(output, other, results);
            self.test_copied_inputs(&oracle, output, results)?;
            if context.task.settings.precision == PrecisionCheck::Checked {
                self.test_rounded_output(output, results);
            }
        }
        drop(other_outputs);
        if context.task.settings.precision == PrecisionCheck::Checked {
            self.test_rounded_inputs(&mut oracle, &outputs, seed, results)?;
        }
        Ok(())
    }

    /// Whether a kernel that contains the usual value of an input, in place of the value of the case's regime, fails the comparison.
    pub(super) fn rejects_usual_value(&self, input: &str, seed: u64) -> anyhow::Result<bool> {
        let context = self.context;
        let Some((name, regime)) = &self.case.regime else {
            return Ok(false);
        };
        let mut without = regime.clone();
        without.shift_remove(input);
        let usual = Case {
            regime: Some((name.clone(), without)),
            ..self.case.clone()
        };
        let _lock = context.timing_lock.shared()?;
        let run_oracle = |case: &Case| {
            let mut oracle =
                CaseKernel::open_reference(context, Reference::Oracle, case, EXPECT_PURPOSE)?;
            oracle.reset_buffers(seed, Poison::Nan)?;
            oracle.oracle_values(seed, context.deadline())
        };
        let (expected, found) = (run_oracle(self.case)?, run_oracle(&usual)?);
        let outputs = context.task.definition.outputs.iter();
        let mut compared = outputs.zip(expected).zip(&found);
        Ok(compared.any(|(((name, tensor), expected), found)| {
            let Some(tolerance) = context.task.settings.tolerance.get(name) else {
                return false;
            };
            let output = ReferenceOutput::new(name, tensor.dtype, *tolerance, expected);
            output.compare(found).failed > 0
        }))
    }

    /// Zeros, the mean, the outputs of other inputs, and half of the work. `other`: the same output for other inputs, which a case whose
    /// inputs are all in files does not have.
    fn test_simple_corruptions(
        &self,
        output: &ReferenceOutput<'_>,
        other: Option<&[f64]>,
        results: &mut CorruptionResults,
    ) {
        let elements = output.expected.len();
        let mean = output.expected.iter().sum::<f64>() / elements.max(1) as f64;
        let zeros: CorruptedRange<'_> = &|range| vec![0.0; range.len()];
        let stale = other.map(|other| move |range: Range<usize>| other[range].to_vec());
        let stale = stale.as_ref().map(|stale| stale as CorruptedRange<'_>);
        self.test("zeros", output, zeros, results);
        self.test(
            "the mean",
            output,
            &|range| vec![mean; range.len()],
            results,
        );
        if let Some(stale) = stale {
            self.test("the outputs of other inputs", output, stale, results);
        }
        if elements < 2 {
            return;
        }
        let half_done = stale.map(|stale| ("half the work, then outputs of other inputs", stale));
        for (corruption, rest) in [("half the work, then zeros", zeros)]
            .into_iter()
            .chain(half_done)
        {
            let half = elements / 2;
            let corrupted: CorruptedRange<'_> = &|range| {
                let middle = half.clamp(range.start, range.end);
                let mut values = output.expected[range.start..middle].to_vec();
                values.extend(rest(middle..range.end));
                values
            };
            if output.is_clearly_wrong(corrupted) {
                results.comparisons += 1;
                continue;
            }
            // Half of the work may be all of it, for example if the sequences in the other half are empty.
            let is_correct =
                corrupted(0..elements) == output.expected && rest(0..elements) != output.expected;
            if !is_correct {
                self.test(corruption, output, corrupted, results);
            }
        }
    }

    /// A copy of each input that has the shape of the output.
    fn test_copied_inputs(
        &self,
        oracle: &CaseKernel,
        output: &ReferenceOutput<'_>,
        results: &mut CorruptionResults,
    ) -> anyhow::Result<()> {
        let definition = &self.context.task.definition;
        for buffer in oracle.input_buffers() {
            let input = &oracle.plan.buffers[buffer];
            let input_shape = definition.inputs.get(&input.name).map(|input| &input.shape);
            let outputs = &definition.outputs;
            let output_shape = outputs.get(output.name).map(|output| &output.shape);
            if input_shape == output_shape && input.dtype.is_float() == output.dtype.is_float() {
                let corruption = format!("a copy of `{}`", input.name);
                let values = oracle.values(buffer)?;
                self.test(
                    &corruption,
                    output,
                    &|range| values[range].to_vec(),
                    results,
                );
            }
        }
        Ok(())
    }

    /// The output rounded to the next lower precisions.
    fn test_rounded_output(&self, output: &ReferenceOutput<'_>, results: &mut CorruptionResults) {
        for lower in output.dtype.lower_precisions() {
            let rounded: CorruptedRange<'_> =
                &|range| numerics::round_to_dtype(*lower, &output.expected[range]);
            let is_changed = output.is_clearly_wrong(rounded)
                || rounded(0..output.expected.len()) != output.expected;
            if is_changed {
                let corruption = format!("the output rounded to {lower}");
                self.test(&corruption, output, rounded, results);
            }
        }
    }

    /// The oracle's outputs for inputs that are rounded to a lower precision. They pass only if all outputs pass.
    fn test_rounded_inputs(
        &self,
        oracle: &mut CaseKernel,
        outputs: &[ReferenceOutput<'_>],
        seed: u64,
        results: &mut CorruptionResults,
    ) -> anyhow::Result<()> {
        // No dtype has more than two next lower precisions.
        for choice in 0..2 {
            oracle.reset_buffers(seed, Poison::Nan)?;
            let formats = round_inputs(oracle, choice)?;
            if formats.is_empty() {
                continue;
            }
            let found = oracle.oracle_values(seed, self.context.deadline())?;
            results.comparisons += outputs.len();
            let mut pairs = outputs.iter().zip(&found);
            if pairs.any(|(output, found)| output.is_clearly_wrong(&|range| found[range].to_vec()))
            {
                continue;
            }
            let pairs = outputs.iter().zip(&found);
            let compared: Vec<_> = pairs.map(|(output, found)| output.compare(found)).collect();
            if compared.iter().all(|comparison| comparison.failed == 0) {
                let ratios = compared.iter().map(|comparison| comparison.worst_ratio);
                let error = ratios.fold(0.0, f64::max);
                let formats: Vec<_> = formats.iter().map(DType::to_string).collect();
                let corruption = format!("inputs rounded to {}", formats.join(" and "));
                results.missed.push(self.missed(&corruption, None, error));
            }
        }
        Ok(())
    }

    /// Compares a corrupted output with the correct one.
    fn test(
        &self,
        corruption: &str,
        output: &ReferenceOutput<'_>,
        corrupted: CorruptedRange<'_>,
        results: &mut CorruptionResults,
    ) {
        results.comparisons += 1;
        if output.is_clearly_wrong(corrupted) {
            return;
        }
        let comparison = output.compare(&corrupted(0..output.expected.len()));
        if comparison.failed == 0 {
            let missed = self.missed(corruption, Some(output.name), comparison.worst_ratio);
            results.missed.push(missed);
        }
    }

    fn missed(&self, corruption: &str, output: Option<&str>, error: f64) -> MissedCorruption {
        MissedCorruption {
            candidate: corruption.to_owned(),
            output: output.map(str::to_owned),
            workload: self.workload.to_owned(),
            regime: self.case.regime_name(),
            error,
        }
    }
}

/// Rounds every input to one of its next lower precisions. Returns the formats; empty if that changes no input, so that lower
/// precision cannot be detected.
fn round_inputs(oracle: &mut CaseKernel, choice: usize) -> anyhow::Result<Vec<DType>> {
    let (mut formats, mut is_changed) = (Vec::new(), false);
    for buffer in oracle.input_buffers() {
        let dtype = oracle.plan.buffers[buffer].dtype;
        let Some(lower) = dtype.lower_precisions().get(choice) else {
            continue;
        };
        let original = oracle.values(buffer)?;
        let rounded = numerics::round_to_dtype(*lower, &original);
        // A kernel cannot use a format in which inputs overflow.
        if numerics::first_not_finite(&rounded).is_some() {
            continue;
        }
        is_changed |= rounded != original;
        oracle
            .kernel
            .write(buffer, &BufferContent::Values(&rounded))?;
        if !formats.contains(lower) {
            formats.push(*lower);
        }
    }
    Ok(if is_changed { formats } else { Vec::new() })
}
