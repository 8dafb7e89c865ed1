//! The steps of a run as coefficients: UniPC (arXiv:2302.04867) and Euler.

use std::collections::BTreeMap;

use super::{FinalSigma, MAX_ORDER, Prediction, Sampler, SamplerConfig, Schedule, SolverType};
use crate::{Error, Result};

/// A buffer of the size of the latents that a run keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Slot {
    /// The sample: noise before the first step, the result after the last.
    Sample,
    /// What the model answered to the sample at this step's timestep, guidance applied.
    Velocity,
    /// UniPC: the corrected sample that the last prediction started from.
    Last,
    /// UniPC: an answer of the model as a predicted x0; step i writes number `i % (order + 1)`.
    Model(usize),
}

/// The most terms a combination has: the last sample and the model's answers of all orders.
pub const MAX_TERMS: usize = MAX_ORDER + 2;

/// A weighted buffer. Weights are never zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// The buffer.
    pub slot: Slot,
    /// Its weight.
    pub weight: f32,
}

/// `target = sum of weight * slot`, element by element. The target may be among the terms, with its old value; a
/// slot occurs in at most one term, and no slot is read before some step has written it.
#[derive(Clone, Debug, PartialEq)]
pub struct Combine {
    /// The buffer that is overwritten.
    pub target: Slot,
    /// What it becomes: 1 to [`MAX_TERMS`] terms.
    pub terms: Vec<Term>,
}

/// What happens to the buffers once the model has answered: these combinations, in this order.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The combinations.
    pub combines: Vec<Combine>,
}

impl Step {
    /// Runs the step on host memory, with f64 sums: the reference for the same on a GPU.
    ///
    /// # Errors
    /// When a buffer that is read is absent, or buffers differ in length.
    pub fn apply(&self, buffers: &mut BTreeMap<Slot, Vec<f32>>) -> Result<()> {
        for combine in &self.combines {
            let mut sums: Vec<f64> = Vec::new();
            for term in &combine.terms {
                let Some(values) = buffers.get(&term.slot) else {
                    return Err(Error::Internal(format!("the sampler's buffer {:?} is not there", term.slot)));
                };
                if sums.is_empty() {
                    sums.resize(values.len(), 0.0);
                }
                if sums.len() != values.len() {
                    return Err(Error::Internal(format!("the sampler's buffer {:?} has another size", term.slot)));
                }
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum += f64::from(term.weight) * f64::from(value);
                }
            }
            buffers.insert(combine.target, sums.into_iter().map(|sum| sum as f32).collect());
        }
        Ok(())
    }
}

/// A run: its noise levels and its steps, all computed beforehand.
#[derive(Clone, Debug)]
pub struct Solver {
    schedule: Schedule,
    steps: Vec<Step>,
    slots: Vec<Slot>,
}

impl Solver {
    /// A run of `steps` steps.
    ///
    /// # Errors
    /// As [`Schedule::new`], and when the settings leave a coefficient undefined.
    pub fn new(config: &SamplerConfig, steps: usize) -> Result<Self> {
        Self::starting_at(config, steps, 0)
    }

    /// The same without the steps before `first`, for a sample that has the noise of that step ([`Solver::noised`]). As
    /// in the reference, a solver that looks back begins there at order one.
    ///
    /// # Errors
    /// As [`Solver::new`], and when no step would be left.
    pub fn starting_at(config: &SamplerConfig, steps: usize, first: usize) -> Result<Self> {
        let schedule = Schedule::new(config, steps)?.starting_at(first);
        let steps = schedule.steps();
        if steps == 0 {
            return Err(Error::request("--steps", "no step would be left"));
        }
        let mut slots = vec![Slot::Sample, Slot::Velocity];
        let all: Vec<Step> = match config.sampler {
            Sampler::Euler => schedule.sigmas.windows(2).map(|pair| euler(pair[1] - pair[0])).collect(),
            Sampler::UniPc | Sampler::UniPcWan => {
                let order = config.solver_order;
                if !(1..=MAX_ORDER).contains(&order) {
                    let reason = format!("UniPC of order {order} is not supported; take 1 to {MAX_ORDER}");
                    return Err(Error::request("--sampler", reason));
                }
                if !config.lower_order_final && config.final_sigma == FinalSigma::Zero && order.min(steps) > 1 {
                    let reason = "with `lower_order_final` off UniPC cannot end at noise level zero: its last step \
                                  would be infinite; set it to true, or `final_sigmas_type` to `sigma_min`";
                    return Err(Error::request("--sampler", reason));
                }
                slots.push(Slot::Last);
                slots.extend((0..=order).map(Slot::Model));
                let unipc = UniPc { config, sigmas: &schedule.sigmas, first };
                (0..steps).map(|i| unipc.step(i)).collect()
            }
        };
        let weights = || all.iter().flat_map(|s| &s.combines).flat_map(|c| &c.terms).map(|t| t.weight);
        if !weights().all(f32::is_finite) {
            let remedy = match config.lower_order_final {
                true => "take fewer steps or a smaller shift",
                false => "set `lower_order_final` to true",
            };
            let shift = config.shift;
            let reason =
                format!("with {steps} steps and shift {shift} some noise levels are too close to tell apart; {remedy}");
            return Err(Error::request("--steps", reason));
        }
        Ok(Self { schedule, steps: all, slots })
    }

    /// The sample that the first step takes, of a clean one and noise: `(1 - sigma) clean + sigma noise`, in f32
    /// (`add_noise` and `scale_noise` of diffusers' schedulers).
    pub fn noised(&self, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        let sigma = self.schedule.sigmas.first().copied().unwrap_or_default();
        let alpha = 1.0 - sigma;
        clean.iter().zip(noise).map(|(&clean, &noise)| alpha * clean + sigma * noise).collect()
    }

    /// The noise levels and timesteps.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// What to do after each answer of the model, one per timestep.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The buffers that the steps use; all but [`Slot::Sample`] and [`Slot::Velocity`] are the solver's own.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }
}

/// Collects `target = ...` and leaves out what has no weight.
fn combine(target: Slot, terms: impl IntoIterator<Item = (Slot, f32)>) -> Combine {
    let terms = terms.into_iter().filter(|(_, weight)| *weight != 0.0);
    Combine { target, terms: terms.map(|(slot, weight)| Term { slot, weight }).collect() }
}

/// x += (sigma' - sigma) v.
fn euler(difference: f32) -> Step {
    Step { combines: vec![combine(Slot::Sample, [(Slot::Sample, 1.0), (Slot::Velocity, difference)])] }
}

/// The coefficients of `UniPCMultistepScheduler.step` of diffusers 0.42, in f32 where the reference is: its first
/// noise level is so near to 1 that rounding shows.
struct UniPc<'a> {
    config: &'a SamplerConfig,
    /// From the first step of this run on, which is number `first` of the whole.
    sigmas: &'a [f32],
    first: usize,
}

impl UniPc<'_> {
    fn step(&self, i: usize) -> Step {
        let mut combines = vec![combine(self.model(i), self.convert(self.sigmas[i]))];
        if i > 0 && !self.config.disable_corrector.contains(&(self.first + i - 1)) {
            combines.push(combine(Slot::Last, self.update(i - 1, self.order(i - 1), true)));
        } else {
            combines.push(combine(Slot::Last, [(Slot::Sample, 1.0)]));
        }
        combines.push(combine(Slot::Sample, self.update(i, self.order(i), false)));
        Step { combines }
    }

    /// The buffer of the model's answer in step `i`: the corrector looks back over `order` steps besides its own.
    fn model(&self, i: usize) -> Slot {
        Slot::Model(i % (self.config.solver_order + 1))
    }

    /// The order of the prediction in step `i`: rising at the start, falling at the end if so set.
    fn order(&self, i: usize) -> usize {
        let steps = self.sigmas.len() - 1;
        let order = self.config.solver_order.min(i + 1);
        if self.config.lower_order_final { order.min(steps - i) } else { order }
    }

    /// x0 from the sample and the model's answer at noise level sigma.
    fn convert(&self, sigma: f32) -> [(Slot, f32); 2] {
        let alpha = 1.0 - sigma;
        let (x, v) = match self.config.prediction {
            Prediction::Flow => (1.0, -sigma),
            Prediction::Epsilon => (1.0 / alpha, -sigma / alpha),
            Prediction::Sample => (0.0, 1.0),
            Prediction::V => (alpha, -sigma),
        };
        [(Slot::Sample, x), (Slot::Velocity, v)]
    }

    /// UniP from level `i` to the next, starting at [`Slot::Last`]; or UniC, which repeats it knowing the answer there.
    ///
    /// With h the difference in lambda = ln(alpha / sigma), r_k = (lambda_{i-k} - lambda_i) / h and
    /// D_k = (m_{i-k} - m_i) / r_k:
    /// `x' = (sigma' / sigma) x - alpha' (e^-h - 1) m_i - alpha' B(h) sum_k rho_k D_k`.
    fn update(&self, i: usize, order: usize, correct: bool) -> Vec<(Slot, f32)> {
        let (from, to) = (self.sigmas[i], self.sigmas[i + 1]);
        let h = lambda(to) - lambda(from);
        let hh = -h;
        let growth = expm1(hh);
        let b_h = match self.config.solver_type {
            SolverType::Bh1 => hh,
            SolverType::Bh2 => growth,
        };
        let mut ratios: Vec<f32> = (1..order).map(|k| (lambda(self.sigmas[i - k]) - lambda(from)) / h).collect();
        ratios.push(1.0);
        let rho = if correct { corrector(&ratios, hh, b_h) } else { predictor(&ratios, hh, b_h) };
        let alpha = 1.0 - to;
        let scale = f64::from(alpha * b_h);
        let mut newest = -f64::from(alpha * growth);
        let mut terms = Vec::with_capacity(MAX_TERMS);
        for (k, (&rho, &ratio)) in rho.iter().zip(&ratios).enumerate() {
            let weight = -scale * rho / f64::from(ratio);
            newest -= weight;
            // The last of the ratios, 1, stands for the answer at the level that is stepped to.
            let slot = if k + 1 == order { self.model(i + 1) } else { self.model(i - k - 1) };
            terms.push((slot, weight as f32));
        }
        terms.push((self.model(i), newest as f32));
        terms.push((Slot::Last, to / from));
        terms
    }
}

/// ln(alpha / sigma) with alpha = 1 - sigma.
fn lambda(sigma: f32) -> f32 {
    let ln = |x: f32| f64::from(x).ln() as f32;
    ln(1.0 - sigma) - ln(sigma)
}

fn expm1(x: f32) -> f32 {
    f64::from(x).exp_m1() as f32
}

/// The weights of the differences in the prediction: none at order 1, 1/2 at order 2, else of the linear system.
fn predictor(ratios: &[f32], hh: f32, b_h: f32) -> Vec<f64> {
    match ratios {
        [] | [_] => Vec::new(),
        [_, _] => vec![0.5],
        [earlier @ .., _] => solve(earlier, hh, b_h),
    }
}

/// The weights of the differences in the correction, that to the new answer last.
fn corrector(ratios: &[f32], hh: f32, b_h: f32) -> Vec<f64> {
    if ratios.len() < 2 { vec![0.5] } else { solve(ratios, hh, b_h) }
}

/// Solves `sum_j r_j^(i-1) rho_j = i! phi_i(h) / B(h)` for i = 1..n, where the right side is h times the moments of
/// the exponential integrator: `h phi_1 = (e^h - 1) / h - 1`, `h phi_(i+1) = h phi_i / h - 1 / (i + 1)!`.
fn solve(ratios: &[f32], hh: f32, b_h: f32) -> Vec<f64> {
    let n = ratios.len();
    let (mut phi, mut factorial) = (expm1(hh) / hh - 1.0, 1.0);
    let mut rows: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            let mut row: Vec<f64> = ratios.iter().map(|&r| f64::from(r).powi(i as i32)).collect();
            row.push(f64::from(phi * factorial / b_h));
            factorial *= (i + 2) as f32;
            phi = phi / hh - 1.0 / factorial;
            row
        })
        .collect();
    // Gauss and Jordan, with the largest pivot first.
    for column in 0..n {
        let size = |row: &Vec<f64>| row[column].abs();
        let largest = (column..n).max_by(|&a, &b| size(&rows[a]).total_cmp(&size(&rows[b])));
        rows.swap(column, largest.unwrap_or(column));
        let pivot = rows[column].clone();
        for (i, row) in rows.iter_mut().enumerate() {
            let factor = if i == column { 0.0 } else { row[column] / pivot[column] };
            row.iter_mut().zip(&pivot).for_each(|(value, p)| *value -= factor * p);
        }
    }
    rows.iter().enumerate().map(|(i, row)| row[n] / row[i]).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(sampler: Sampler, order: usize) -> SamplerConfig {
        SamplerConfig { solver_order: order, shift: 3.0, ..SamplerConfig::new(sampler) }
    }

    /// Runs the flow of one value whose x0 is `x0(sigma)`.
    fn run(config: &SamplerConfig, steps: usize, noise: f32, velocity: impl Fn(f32, f32) -> f32) -> f32 {
        let solver = Solver::new(config, steps).expect("usable");
        let mut buffers = BTreeMap::from([(Slot::Sample, vec![noise])]);
        for (step, &sigma) in solver.steps().iter().zip(&solver.schedule().sigmas) {
            let x = buffers[&Slot::Sample][0];
            buffers.insert(Slot::Velocity, vec![velocity(x, sigma)]);
            step.apply(&mut buffers).expect("all buffers are there");
        }
        assert!(buffers.keys().all(|slot| solver.slots().contains(slot)));
        buffers[&Slot::Sample][0]
    }

    #[test]
    fn a_constant_x0_is_reached_whatever_the_path() {
        for sampler in Sampler::ALL {
            for order in 1..=MAX_ORDER {
                for steps in [1, 2, 3, 4, 7, 20] {
                    let end = run(&config(sampler, order), steps, 1.7, |x, sigma| (x - 0.25) / sigma);
                    assert!((end - 0.25).abs() < 2e-5, "{sampler} {order} {steps}: {end}");
                }
            }
        }
    }

    #[test]
    fn higher_orders_come_nearer_to_the_curved_flow() {
        // Data of deviation 1/2: the exact flow takes noise e to x = e / 2, with E[x0 | x] = x a / (a^2 + 4 s^2).
        let velocity = |x: f32, s: f32| {
            let a = 1.0 - s;
            (x - x * a / (a * a + 4.0 * s * s)) / s
        };
        let error = |order, steps| (run(&config(Sampler::UniPcWan, order), steps, 1.0, velocity) - 0.5).abs();
        let euler = (run(&config(Sampler::Euler, 1), 20, 1.0, velocity) - 0.5).abs();
        assert!(3.0 * error(2, 20) < euler, "{} {euler}", error(2, 20));
        assert!(error(2, 40) < error(2, 20) && error(3, 40) < error(3, 20));
    }

    #[test]
    fn combinations_keep_their_promises() {
        for sampler in Sampler::ALL {
            for order in 1..=MAX_ORDER {
                let mut written = vec![Slot::Sample, Slot::Velocity];
                for step in Solver::new(&config(sampler, order), 9).expect("usable").steps() {
                    for combine in &step.combines {
                        assert!((1..=MAX_TERMS).contains(&combine.terms.len()));
                        for (i, term) in combine.terms.iter().enumerate() {
                            assert!(written.contains(&term.slot), "{:?} is read before it is written", term.slot);
                            assert!(term.weight != 0.0);
                            assert!(combine.terms[..i].iter().all(|other| other.slot != term.slot));
                        }
                        written.push(combine.target);
                    }
                }
            }
        }
    }

    #[test]
    fn without_corrector_the_prediction_is_kept() {
        let off = SamplerConfig { disable_corrector: vec![0, 2], ..config(Sampler::UniPc, 2) };
        let (on, off) = (Solver::new(&config(Sampler::UniPc, 2), 4), Solver::new(&off, 4));
        let (on, off) = (on.expect("usable"), off.expect("usable"));
        let kept = Combine { target: Slot::Last, terms: vec![Term { slot: Slot::Sample, weight: 1.0 }] };
        for i in 0..4 {
            assert_eq!(off.steps()[i].combines[1] == kept, i != 2, "step {i}");
            assert_eq!(on.steps()[i].combines[1] == kept, i == 0, "step {i}");
        }
    }

    #[test]
    fn undefined_steps_are_refused() {
        let rising = SamplerConfig { lower_order_final: false, ..config(Sampler::UniPc, 2) };
        assert!(Solver::new(&rising, 5).is_err());
        assert!(Solver::new(&rising, 1).is_ok());
        assert!(Solver::new(&SamplerConfig { final_sigma: FinalSigma::SigmaMin, ..rising }, 5).is_ok());
        let close = SamplerConfig { shift: 1000.0, ..config(Sampler::UniPcWan, 2) };
        assert!(Solver::new(&close, 1000).is_ok());
        assert!(Solver::new(&SamplerConfig { solver_order: 4, ..close }, 5).is_err());
    }

    /// `v = 0.3 cos(t / 300) x + b` from x = (0.7, -1.2) in 6 steps, by the schedulers of diffusers 0.42.
    #[test]
    fn every_setting_that_is_honoured_does_what_diffusers_does() {
        let unipc = r#""_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": true,
            "prediction_type": "flow_prediction""#;
        let euler = r#""_class_name": "FlowMatchEulerDiscreteScheduler""#;
        let cases = [
            (unipc, r#""solver_order": 3"#, [0.701333225, -1.29730153]),
            (unipc, r#""solver_order": 1, "flow_shift": 5.0"#, [0.805146694, -1.48340511]),
            (
                unipc,
                r#""solver_order": 3, "solver_type": "bh1", "final_sigmas_type": "sigma_min""#,
                [0.738617599, -1.35133731],
            ),
            (unipc, r#""lower_order_final": false, "final_sigmas_type": "sigma_min""#, [0.745451748, -1.36033368]),
            (unipc, r#""disable_corrector": [0, 2]"#, [0.710741758, -1.31383526]),
            (unipc, r#""shift_terminal": 0.1, "flow_shift": 3.0"#, [0.68773514, -1.27522993]),
            (unipc, r#""num_train_timesteps": 500"#, [0.58279562, -1.0882014]),
            (unipc, r#""prediction_type": "sample""#, [0.0334260091, 0.0658547878]),
            (unipc, r#""prediction_type": "v_prediction""#, [0.253857404, -0.495079458]),
            (unipc, r#""prediction_type": "epsilon", "final_sigmas_type": "sigma_min""#, [913144.688, -1666148.75]),
            (euler, r#""shift": 3.0, "shift_terminal": 0.1"#, [0.777987838, -1.43355107]),
            (euler, r#""shift": 2.0, "invert_sigmas": true"#, [0.738574684, -1.16851902]),
            (euler, r#""shift": 5.0, "use_karras_sigmas": true"#, [0.758225501, -1.39544034]),
            (euler, r#""shift": 5.0, "use_exponential_sigmas": true"#, [0.76372081, -1.40449452]),
            (euler, r#""num_train_timesteps": 200"#, [0.529532135, -0.99689889]),
        ];
        for (class, settings, expected) in cases {
            let json = format!("{{{class}, {settings}}}");
            let config =
                SamplerConfig::from_json(Path::new("scheduler_config.json"), json.as_bytes(), None).expect("valid");
            let solver = Solver::new(&config, 6).expect("usable");
            let mut buffers = BTreeMap::from([(Slot::Sample, vec![0.7, -1.2])]);
            for (step, &t) in solver.steps().iter().zip(&solver.schedule().timesteps) {
                let a = (0.3 * (f64::from(t) / 300.0).cos()) as f32;
                let velocity = buffers[&Slot::Sample].iter().zip([0.0, 0.1]).map(|(x, b)| a * x + b).collect();
                buffers.insert(Slot::Velocity, velocity);
                step.apply(&mut buffers).expect("all buffers are there");
            }
            for (got, expected) in buffers[&Slot::Sample].iter().zip(expected) {
                let error = (f64::from(*got) - expected).abs() / expected.abs();
                assert!(error < 1e-5, "{settings}: {got}, not {expected}");
            }
        }
    }
}
