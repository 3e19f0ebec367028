use kforge::device::Device;
use kforge::device::cpu::CpuDevice;
use kforge::eval::{Judge, Options};
use kforge::kernel::Machine;
use kforge::task::TaskFiles;
fn main() -> anyhow::Result<()> {
    let only = std::env::args().nth(1);
    let device = CpuDevice::new()?;
    let cores = device.identity().cores.unwrap_or(1);
    let table = std::fs::read_to_string("tests/fixtures/kernels/expected.tsv")?;
    for name in ["softmax", "rmsnorm", "gdn_decode"] {
        let task = TaskFiles::find(name)?.load()?;
        let options = Options {
            profile: task.settings.profiles["quick"].clone(),
            launch_seconds: 2.0,
        };
        let machine = Machine {
            sm_count: i64::from(cores),
            max_shared_bytes: 232_448,
        };
        let mut judge = Judge::new(&device, &task, options, machine)?;
        for row in table
            .lines()
            .filter(|r| !r.starts_with('#') && !r.is_empty())
        {
            let c: Vec<_> = row.split('\t').collect();
            if c[1] != name || only.as_ref().is_some_and(|o| !c[0].contains(o)) {
                continue;
            }
            let text = std::fs::read_to_string(format!("tests/fixtures/kernels/{}", c[0]))?;
            let v = judge.judge(c[0], &text, None)?;
            let line = v.evidence.as_ref().and_then(|e| e.line);
            let want = c.get(3).and_then(|l| l.trim().parse().ok());
            let ok = v.status.to_string() == c[2] && (want.is_none() || want == line);
            println!(
                "{} {:<36} {} (want {}) line {:?} {:.2}s {} {}",
                if ok { "ok " } else { "BAD" },
                c[0],
                v.status,
                c[2],
                line,
                v.seconds.compile + v.seconds.check + v.seconds.measure,
                v.reason.unwrap_or_default(),
                v.speedup.map_or(String::new(), |s| format!(
                    "{:.3} [{:.3} {:.3}] margin {:?}",
                    s.geomean,
                    s.ci95[0],
                    s.ci95[1],
                    v.workloads
                        .iter()
                        .filter_map(|w| w.tolerance_margin)
                        .fold(1.0, f64::min)
                ))
            );
            if !ok {
                println!("{}", v.evidence.and_then(|e| e.log).unwrap_or_default());
            }
        }
    }
    Ok(())
}
