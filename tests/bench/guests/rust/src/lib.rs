//! What `cargo xtask bench guests` measures, in Rust: the parameter `case` says which rule it is. What each
//! does is in the table of ../README.md; it is the same in every language.

use watchfire_rule::PerDevice;
use watchfire_rule::prelude::*;

const METRIC: &str = "temperature";
const METRICS: [&str; 5] = [METRIC, "pressure", "vibration", "current", "humidity"];
const ALPHA: f64 = 0.05;
const SIGMAS: f64 = 6.0;
const WARM_UP: i64 = 30;

parameters! {
    pub struct Parameters {
        case: String = "ewma-batch";
        /// Trigger above it.
        high: f64 = 100;
    }
}

/// What every case says of itself: there is one component.
const MANIFEST: Manifest = Manifest {
    name: "guests",
    version: "0.1.0",
    description: "What the bench of guests measures.",
    parameters: Parameters::SCHEMA,
    state_version: 1,
};

struct EwmaBatch {
    state: DeviceState<Ewma>,
}

impl Rule for EwmaBatch {
    type Parameters = Parameters;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { state: DeviceState::new(0) }, Subscription::metrics([METRIC])))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let values = batch.numbers(METRIC);
        let devices = batch.devices();
        self.state.load(devices);
        for (row, (&x, &device)) in values.iter().zip(devices).enumerate() {
            if x.is_nan() {
                continue;
            }
            let ewma = self.state.modify(device);
            let z = ewma.deviation(x);
            if ewma.count >= WARM_UP && z.abs() > SIGMAS {
                Alert::new(device, "odd", Severity::Minor, "far from its usual values")
                    .detail("value", x)
                    .detail("z", z)
                    .row(row)
                    .trigger();
            }
            ewma.update(x, ALPHA);
        }
        self.state.save();
        Ok(())
    }
}

struct EwmaDevice;

impl DeviceRule for EwmaDevice {
    type Parameters = Parameters;
    type State = Ewma;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics([METRIC])))
    }

    fn on_reading(
        &mut self,
        device: &DeviceRef,
        reading: &Reading<'_>,
        ewma: &mut Ewma,
    ) -> Result<(), String> {
        let Some(x) = reading.number(METRIC) else { return Ok(()) };
        let z = ewma.deviation(x);
        if ewma.count >= WARM_UP && z.abs() > SIGMAS {
            device
                .alert("odd", Severity::Minor, "far from its usual values")
                .detail("value", x)
                .detail("z", z)
                .trigger();
        }
        ewma.update(x, ALPHA);
        Ok(())
    }
}

state! {
    /// An `Ewma` of each metric.
    struct Five {
        ewmas: [Ewma; METRICS.len()],
    }
}

struct FiveBatch {
    state: DeviceState<Five>,
}

impl Rule for FiveBatch {
    type Parameters = Parameters;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { state: DeviceState::new(0) }, Subscription::metrics(METRICS)))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        let columns = METRICS.map(|metric| batch.numbers(metric));
        let devices = batch.devices();
        self.state.load(devices);
        for (row, &device) in devices.iter().enumerate() {
            let Five { ewmas } = self.state.modify(device);
            for ((ewma, column), metric) in ewmas.iter_mut().zip(&columns).zip(METRICS) {
                let x = column[row];
                if x.is_nan() {
                    continue;
                }
                let z = ewma.deviation(x);
                if ewma.count >= WARM_UP && z.abs() > SIGMAS {
                    Alert::new(device, metric, Severity::Minor, "far from its usual values")
                        .detail("value", x)
                        .detail("z", z)
                        .row(row)
                        .trigger();
                }
                ewma.update(x, ALPHA);
            }
        }
        self.state.save();
        Ok(())
    }
}

struct LimitBatch {
    high: f64,
}

impl Rule for LimitBatch {
    type Parameters = Parameters;
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { high: parameters.high }, Subscription::metrics([METRIC])))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        for (row, &x) in batch.numbers(METRIC).iter().enumerate() {
            if x > self.high {
                Alert::new(batch.device(row), "limit", Severity::Major, "over the limit")
                    .detail("value", x)
                    .row(row)
                    .trigger();
            }
        }
        Ok(())
    }
}

struct LimitDevice {
    high: f64,
}

impl DeviceRule for LimitDevice {
    type Parameters = Parameters;
    type State = ();
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self { high: parameters.high }, Subscription::metrics([METRIC])))
    }

    fn on_reading(&mut self, device: &DeviceRef, reading: &Reading<'_>, (): &mut ()) -> Result<(), String> {
        if let Some(x) = reading.number(METRIC)
            && x > self.high
        {
            device.alert("limit", Severity::Major, "over the limit").detail("value", x).trigger();
        }
        Ok(())
    }
}

struct Failing;

impl Rule for Failing {
    type Parameters = Parameters;
    const MANIFEST: Manifest = MANIFEST;

    fn start(_: Parameters) -> Result<(Self, Subscription), String> {
        Ok((Self, Subscription::metrics([METRIC])))
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        Err(format!("it fails on these {} rows, as on all others", batch.rows()))
    }
}

type OnBatch = Box<dyn FnMut(&Batch) -> Result<(), String>>;

/// A case, whichever it is.
struct Guests(OnBatch);

fn case<R: Rule<Parameters = Parameters> + 'static>(
    parameters: Parameters,
) -> Result<(Guests, Subscription), String> {
    let (mut rule, subscription) = R::start(parameters)?;
    Ok((Guests(Box::new(move |batch| rule.on_batch(batch))), subscription))
}

impl Rule for Guests {
    type Parameters = Parameters;
    const MANIFEST: Manifest = MANIFEST;

    fn start(parameters: Parameters) -> Result<(Self, Subscription), String> {
        match parameters.case.as_str() {
            "ewma-batch" => case::<EwmaBatch>(parameters),
            "ewma-device" => case::<PerDevice<EwmaDevice>>(parameters),
            "five-batch" => case::<FiveBatch>(parameters),
            "limit-batch" => case::<LimitBatch>(parameters),
            "limit-device" => case::<PerDevice<LimitDevice>>(parameters),
            "failing" => case::<Failing>(parameters),
            other => Err(format!("unknown case {other}")),
        }
    }

    fn on_batch(&mut self, batch: &Batch) -> Result<(), String> {
        (self.0)(batch)
    }
}

export_rule!(Guests);
